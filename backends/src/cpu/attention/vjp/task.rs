//! Tasks of attention's derivative: some keys of one head against all its queries, and the sum of what
//! such pieces gave to the queries.

use half::bf16;

use super::super::block::{Head, Rows};
use super::super::pack;
use super::super::products::{Products, Work, raise};
use super::products::{Weighing, weigh};
use super::{AttentionVjp, Places, Plan, Precision};
use crate::cpu::math::lanes::put;
use crate::cpu::math::{Element, LANES, Lanes};
use crate::cpu::threads::stop_requested;

/// Where a result lies.
#[derive(Clone, Copy)]
pub(super) struct Place {
    pub(super) rows: Rows,
    pub(super) row_stride: usize,
    pub(super) batch_stride: usize,
}

/// What all tasks share.
pub(super) struct Job<'a> {
    pub(super) plan: Plan,
    pub(super) call: &'a AttentionVjp<'a>,
    pub(super) query: Place,
    pub(super) key: Place,
    pub(super) value: Place,
}

// SAFETY: tasks write disjoint rows and channels of the results and only read the rest.
unsafe impl Sync for Job<'_> {}

/// Where a task adds up what outlives its blocks.
#[derive(Clone, Copy)]
pub(super) struct Sums {
    /// Of its head's queries: tiles of `[dims][16·sixteens]`.
    pub(super) queries: *mut f32,
    /// Of its head's bias, turned round.
    pub(super) bias: *mut f32,
}

/// Task number `number`, on its worker's scratch.
///
/// It may run where the machine has the level of the job's plan, scratch and sums hold the plan's words
/// for this task alone, and no other task with this number runs.
pub(super) struct Task<'a> {
    pub(super) job: &'a Job<'a>,
    pub(super) number: usize,
    pub(super) scratch: *mut f32,
    pub(super) sums: Sums,
}

/// The sum of a tile's queries over the pieces of their head's keys, written out.
///
/// It may run where all tasks have ended, and no other share with this number runs.
pub(super) struct Share<'a> {
    pub(super) job: &'a Job<'a>,
    pub(super) number: usize,
    pub(super) sums: *mut f32,
}

/// A tile: queries `start..` of which there are `count`, `sixteens` registers wide.
#[derive(Clone, Copy)]
struct Tile {
    start: usize,
    count: usize,
    sixteens: usize,
}

/// A block of keys: `count` of them from `first` on, and whether queries have met others before.
#[derive(Clone, Copy)]
struct Keys {
    first: usize,
    count: usize,
    older: bool,
}

impl Work for Task<'_> {
    #[inline(always)]
    unsafe fn run<P: Products, const R: usize>(&self) {
        let Job { plan, call, .. } = self.job;
        debug_assert!(R == plan.rows && P::PAIRED == plan.way.paired);
        let (outer, piece) = (self.number / plan.pieces, self.number % plan.pieces);
        let head = self.job.head(outer);
        let begin = piece * plan.piece_keys;
        let end = call.shape.keys.min(begin + plan.piece_keys);
        // SAFETY: the plan leaves room for every block; padding is part of it.
        unsafe {
            let places = plan.places.at(self.scratch);
            self.prepare::<P>(outer, &head, &places);
            for first in (begin..end).step_by(plan.block_keys) {
                // A head may take seconds.
                if stop_requested() {
                    return;
                }
                let count = plan.block_keys.min(end - first);
                let keys = Keys { first, count, older: first > begin };
                self.block::<P, R>(&head, &places, keys);
            }
            if plan.pieces == 1 {
                for tile in self.job.tiles() {
                    let from = self.sums.queries.add(tile.start * plan.dims);
                    self.job.finish::<P>(&head, tile, from);
                }
            }
        }
    }
}

impl Task<'_> {
    /// What is known of each query before it meets keys.
    ///
    /// # Safety
    /// As of the task.
    #[inline(always)]
    unsafe fn prepare<P: Products>(&self, outer: usize, head: &Head, places: &Places<*mut f32>) {
        let Job { plan, call, .. } = self.job;
        let (queries, keys) = (call.shape.queries, call.shape.keys);
        let log_sums = &call.log_sums[outer * queries..][..queries];
        let [result, cotangent] =
            [call.result, call.cotangent].map(|rows| head.rows(rows, 0, queries));
        // SAFETY: the plan has room for all queries, filled up to tiles.
        unsafe {
            for query in 0..plan.tiles * plan.width {
                let (mut base, mut own) = (f32::NEG_INFINITY, 0.0);
                if let Some(log_sum) = log_sums.get(query) {
                    // A query whose every key is masked has no weights.
                    if *log_sum != f32::NEG_INFINITY {
                        base = -(f64::from(*log_sum) * std::f64::consts::LOG2_E) as f32;
                    }
                    let mut sums = P::V::splat(0.0);
                    for at in (0..head.width).step_by(LANES) {
                        let factor = cotangent.lanes::<P::V>(query, at);
                        sums = result.lanes::<P::V>(query, at).fma(factor, sums);
                    }
                    own = sums.sum();
                }
                *places.base.add(query) = base;
                *places.own.add(query) = own;
            }
            if let Some(bias) = call.relative_bias {
                // Turned round, so that the queries of a key read ascending places.
                let span = queries + keys - 1;
                let bias = &bias[head.channel / head.width * span..][..span];
                for at in 0..plan.bias_words {
                    let value = (span - 1).checked_sub(at).map_or(0.0, |at| bias[at]);
                    *places.bias.add(at) = value;
                    *self.sums.bias.add(at) = 0.0;
                }
            }
        }
    }

    /// All queries meet a block of keys.
    ///
    /// # Safety
    /// As of the task; the head is prepared.
    #[inline(always)]
    unsafe fn block<P: Products, const R: usize>(
        &self,
        head: &Head,
        places: &Places<*mut f32>,
        keys: Keys,
    ) {
        let Job { plan, call, .. } = self.job;
        let Keys { first, count, .. } = keys;
        let columns = plan.width / LANES;
        // SAFETY: the plan leaves room for the block and for a tile.
        unsafe {
            let (filled, stride) = (plan.key_filled, plan.key_stride);
            let padded = count.next_multiple_of(plan.key_step);
            let rows = head.rows(call.key, first, count);
            pack::rows::<P>(rows, padded, filled, stride, places.keys);
            if P::TILED {
                let (through, to) = (places.slopes, places.key_pairs);
                pack::by_channel::<P>(rows, plan.dims, plan.pair_stride, through, to);
            } else if P::PAIRED {
                pack::paired_rows::<P>(rows, plan.filled, plan.stride, places.key_pairs);
            }
            let rows = head.rows(call.value, first, count);
            pack::rows::<P>(rows, padded, filled, stride, places.values);
            for tile in self.job.tiles() {
                for (operand, lanes, lines) in [
                    (call.query, places.query_lanes, places.query_rows),
                    (call.cotangent, places.cotangent_lanes, places.cotangent_rows),
                ] {
                    let rows = head.rows(operand, tile.start, tile.count);
                    pack::queries::<P>(rows, plan.depth, columns, lanes);
                    match P::PAIRED {
                        true => pack::paired_rows::<P>(rows, plan.filled, plan.stride, lines),
                        false => {
                            pack::rows::<P>(rows, tile.count, plan.filled, plan.stride, lines);
                        }
                    }
                }
                match tile.sixteens {
                    1 => self.meet::<P, R, 1>(places, tile, keys),
                    2 => self.meet::<P, R, 2>(places, tile, keys),
                    3 => self.meet::<P, R, 3>(places, tile, keys),
                    _ => self.meet::<P, R, 4>(places, tile, keys),
                }
                self.spread::<P, R>(places, tile, count);
            }
            let key = self.job.key.at(head, first);
            key.write::<P::V>(head.width, count, places.key_sums, plan.stride, call.scale);
            let value = self.job.value.at(head, first);
            value.write::<P::V>(head.width, count, places.value_sums, plan.stride, 1.0);
        }
    }

    /// One tile of queries meets one block of keys: weights, their cotangents, and what queries get.
    ///
    /// # Safety
    /// As of the task; queries, cotangents, keys and values are in place.
    #[inline(always)]
    unsafe fn meet<P: Products, const R: usize, const C: usize>(
        &self,
        places: &Places<*mut f32>,
        tile: Tile,
        keys: Keys,
    ) {
        let Job { plan, call, .. } = self.job;
        let padded = keys.count.next_multiple_of(plan.key_step);
        let log2_e = std::f32::consts::LOG2_E;
        // SAFETY: the tile's parts of the blocks have the sizes that the products ask for.
        unsafe {
            let (stride, depth) = (plan.key_stride, plan.depth);
            let (queries, cotangents) = (places.query_lanes, places.cotangent_lanes);
            P::score::<R, C>(queries, places.keys, stride, depth, padded, places.scores);
            if keys.first + keys.count == call.shape.keys {
                raise::<P, C>(places.scores, keys.count - 1, call.last, call.scale);
            }
            P::score::<R, C>(cotangents, places.values, stride, depth, padded, places.slopes);
            let mut weighing = Weighing {
                factor: call.scale * log2_e,
                scale: call.scale,
                bias: std::ptr::null(),
                bias_sums: std::ptr::null_mut(),
                base: places.base.add(tile.start),
                own: places.own.add(tile.start),
                round: call.precision == Precision::Bf16,
            };
            if call.relative_bias.is_some() {
                let at = call.shape.keys - 1 - keys.first + tile.start;
                weighing.factor = log2_e;
                weighing.bias = places.bias.add(at);
                weighing.bias_sums = self.sums.bias.add(at);
            }
            let (scores, slopes) = (places.scores, places.slopes);
            weigh::<P, C>(scores, slopes, places.slope_pairs, keys.count, &weighing);
            let width = C * LANES;
            let (from, step, lines, steps) = match P::PAIRED {
                true => (places.key_pairs, plan.stride, places.slope_pairs, keys.count.div_ceil(2)),
                false => (places.keys, stride, slopes, keys.count),
            };
            let apart = if P::TILED { [plan.pair_stride, 1] } else { [1, step] };
            let (factors, lines) = ((from.cast_const(), apart), (lines, width));
            let sums = (self.sums.queries.add(tile.start * plan.dims), width);
            P::add::<R, C>(factors, lines, steps, plan.dims, sums, keys.older);
        }
    }

    /// What a block's keys and values get from one tile of queries.
    ///
    /// # Safety
    /// As of the task; the tile has met the block.
    #[inline(always)]
    unsafe fn spread<P: Products, const R: usize>(
        &self,
        places: &Places<*mut f32>,
        tile: Tile,
        count: usize,
    ) {
        let plan = &self.job.plan;
        let padded = count.next_multiple_of(plan.key_step);
        let steps = if P::PAIRED { tile.count.div_ceil(2) } else { tile.count };
        let older = tile.start > 0;
        for (weights, rows, sums) in [
            (places.scores, places.cotangent_rows, places.value_sums),
            (places.slopes, places.query_rows, places.key_sums),
        ] {
            let factors = (weights.cast_const(), [tile.sixteens * LANES, 1]);
            for at in (0..plan.filled).step_by(plan.width) {
                // SAFETY: these columns lie inside the rows and the sums.
                unsafe {
                    let lines = (rows.add(at), plan.stride);
                    let sums = (sums.add(at), plan.stride);
                    match (plan.filled - at).min(plan.width) / LANES {
                        1 => P::add::<R, 1>(factors, lines, steps, padded, sums, older),
                        2 => P::add::<R, 2>(factors, lines, steps, padded, sums, older),
                        3 => P::add::<R, 3>(factors, lines, steps, padded, sums, older),
                        _ => P::add::<R, 4>(factors, lines, steps, padded, sums, older),
                    }
                }
            }
        }
    }
}

impl Work for Share<'_> {
    #[inline(always)]
    unsafe fn run<P: Products, const R: usize>(&self) {
        let plan = &self.job.plan;
        let (outer, tile) = (self.number / plan.tiles, self.number % plan.tiles);
        let tile = self.job.tile(tile);
        // SAFETY: the caller's promise; the sums of all pieces of the head lie one after the other.
        unsafe {
            let first = self.sums.add(outer * plan.pieces * plan.query_words);
            let first = first.add(tile.start * plan.dims);
            for at in (0..plan.dims * tile.sixteens * LANES).step_by(LANES) {
                let mut sum = P::V::load(first.add(at));
                for piece in 1..plan.pieces {
                    sum = sum.add(P::V::load(first.add(piece * plan.query_words + at)));
                }
                sum.store(first.add(at));
            }
            self.job.finish::<P>(&self.job.head(outer), tile, first);
        }
    }
}

impl Job<'_> {
    fn head(&self, outer: usize) -> Head {
        let shape = &self.call.shape;
        Head {
            batch: outer / shape.heads,
            channel: outer % shape.heads * shape.head_dim,
            width: shape.head_dim,
            round: self.call.precision == Precision::Bf16,
        }
    }

    fn tile(&self, index: usize) -> Tile {
        let start = index * self.plan.width;
        let count = self.plan.width.min(self.call.shape.queries - start);
        Tile { start, count, sixteens: count.div_ceil(LANES) }
    }

    fn tiles(&self) -> impl Iterator<Item = Tile> {
        (0..self.plan.tiles).map(|index| self.tile(index))
    }

    /// Writes the finished sums of a tile's queries.
    ///
    /// # Safety
    /// They are readable from `from` on, and the queries' cotangents are the caller's.
    #[inline(always)]
    unsafe fn finish<P: Products>(&self, head: &Head, tile: Tile, from: *const f32) {
        let share = [self.call.scale; 4 * LANES];
        let Tile { start, count, sixteens } = tile;
        let Target { rows, stride } = self.query.at(head, start);
        // SAFETY: the caller's promise; a tile has at most four registers.
        unsafe {
            let share = share.as_ptr();
            match rows {
                Rows::F32(to) => {
                    pack::finish::<P::V, f32>(from, share, sixteens, head.width, count, to, stride);
                }
                Rows::Bf16(to) => {
                    pack::finish::<P::V, bf16>(
                        from, share, sixteens, head.width, count, to, stride,
                    );
                }
            }
        }
    }
}

/// Rows of a head of a result.
#[derive(Clone, Copy)]
struct Target {
    rows: Rows,
    stride: usize,
}

impl Place {
    /// A head's rows from `row` on.
    fn at(&self, head: &Head, row: usize) -> Target {
        let at = head.batch * self.batch_stride + row * self.row_stride + head.channel;
        let rows = match self.rows {
            Rows::F32(data) => Rows::F32(data.wrapping_add(at)),
            Rows::Bf16(data) => Rows::Bf16(data.wrapping_add(at)),
        };
        Target { rows, stride: self.row_stride }
    }
}

impl Target {
    /// Writes `count` rows of `width` sums, multiplied by `factor`.
    ///
    /// # Safety
    /// The sums are readable, filled up to registers, and the rows are the caller's to write.
    #[inline(always)]
    unsafe fn write<V: Lanes>(
        &self,
        width: usize,
        count: usize,
        sums: *const f32,
        stride: usize,
        factor: f32,
    ) {
        // SAFETY: the caller's promise.
        unsafe {
            match self.rows {
                Rows::F32(to) => {
                    rows::<V, f32>(to, self.stride, width, count, sums, stride, factor)
                }
                Rows::Bf16(to) => {
                    rows::<V, bf16>(to, self.stride, width, count, sums, stride, factor);
                }
            }
        }
    }
}

/// # Safety
/// As of [`Target::write`].
#[inline(always)]
unsafe fn rows<V: Lanes, E: Element>(
    to: *mut E,
    to_stride: usize,
    width: usize,
    count: usize,
    sums: *const f32,
    stride: usize,
    factor: f32,
) {
    for row in 0..count {
        // SAFETY: the caller's promise.
        unsafe {
            let to = std::slice::from_raw_parts_mut(to.add(row * to_stride), width);
            for at in (0..width).step_by(LANES) {
                put(to, at, V::load(sums.add(row * stride + at)).mul(V::splat(factor)));
            }
        }
    }
}

impl Places<usize> {
    /// The places themselves.
    ///
    /// # Safety
    /// `scratch` holds the plan's words.
    unsafe fn at(&self, scratch: *mut f32) -> Places<*mut f32> {
        // SAFETY: the caller's promise.
        let at = |place: usize| unsafe { scratch.add(place) };
        Places {
            base: at(self.base),
            own: at(self.own),
            bias: at(self.bias),
            keys: at(self.keys),
            values: at(self.values),
            key_pairs: at(self.key_pairs),
            key_sums: at(self.key_sums),
            value_sums: at(self.value_sums),
            query_lanes: at(self.query_lanes),
            cotangent_lanes: at(self.cotangent_lanes),
            query_rows: at(self.query_rows),
            cotangent_rows: at(self.cotangent_rows),
            scores: at(self.scores),
            slopes: at(self.slopes),
            slope_pairs: at(self.slope_pairs),
        }
    }
}
