//! One task of attention: a block of queries of one head against all its keys.
//!
//! Contract: touches its own part of the output and its worker's scratch, nothing else.

use half::bf16;

use super::exact::{self, Query};
use super::pack::{self, HeadRows};
use super::products::{LOWEST, Products, Running, Work, raise, weigh};
use super::{Attention, Operand, Plan, Precision};
use crate::cpu::math::{LANES, Lanes, ROUGH_ONE};

/// Where the output begins.
#[derive(Clone, Copy)]
pub(super) enum Rows {
    /// 32-bit floats.
    F32(*mut f32),
    /// bf16.
    Bf16(*mut bf16),
}

/// What all tasks of an attention share.
pub(super) struct Job<'a> {
    /// Sizes of tiles and scratch.
    pub(super) plan: Plan,
    /// Inputs.
    pub(super) call: &'a Attention<'a>,
    /// First element of the output.
    pub(super) output: Rows,
    /// Output elements from one row to the next.
    pub(super) row_stride: usize,
    /// Output elements from one batch to the next.
    pub(super) batch_stride: usize,
    /// Where the logarithms of sums begin, if they are wanted.
    pub(super) log_sums: Option<*mut f32>,
}

// SAFETY: tasks write disjoint rows and channels of the output, disjoint sums, and only read the rest.
unsafe impl Sync for Job<'_> {}

/// Task number `number` of a job, on its worker's scratch.
///
/// It may run where the machine has the level of the job's plan, the scratch holds the plan's words for
/// this task alone, and no other task with this number runs.
pub(super) struct Task<'a> {
    /// The job.
    pub(super) job: &'a Job<'a>,
    /// Which task.
    pub(super) number: usize,
    /// Its scratch.
    pub(super) scratch: *mut f32,
}

impl Work for Task<'_> {
    #[inline(always)]
    unsafe fn run<P: Products, const R: usize>(&self) {
        // SAFETY: the caller's promise.
        unsafe { run::<P, R>(self.job, self.number, self.scratch) }
    }
}

/// A tile: queries `start..` of the block, `sixteens` registers wide.
#[derive(Clone, Copy)]
struct Tile {
    start: usize,
    sixteens: usize,
}

/// A block of keys in scratch.
#[derive(Clone, Copy)]
struct KeyBlock {
    first: usize,
    count: usize,
    /// How many times the last of them counts.
    last: usize,
    /// Bias of the block's first query and the first key; null without.
    bias: *const f32,
}

/// Which channels of which batch a task works on.
#[derive(Clone, Copy)]
pub(super) struct Head {
    pub(super) batch: usize,
    pub(super) channel: usize,
    pub(super) width: usize,
    pub(super) round: bool,
}

impl Head {
    pub(super) fn rows<'a>(
        &self,
        operand: Operand<'a>,
        first: usize,
        count: usize,
    ) -> HeadRows<'a> {
        let row = self.batch * operand.batch_stride + first * operand.row_stride;
        HeadRows {
            source: operand.data,
            offset: row + self.channel,
            stride: operand.row_stride,
            width: self.width,
            count,
            round: self.round,
        }
    }
}

struct Scratch {
    queries: *mut f32,
    output: *mut f32,
    keys: *mut f32,
    values: *mut f32,
    scores: *mut f32,
    running: *mut f32,
    bias: *mut f32,
}

/// # Safety
/// As of [`Task`]; `R` and `P` are the plan's.
#[inline(always)]
unsafe fn run<P: Products, const R: usize>(job: &Job<'_>, task: usize, scratch: *mut f32) {
    let Job { plan, call, .. } = job;
    let shape = &call.shape;
    debug_assert!(R == plan.rows && P::PAIRED == plan.way.paired);
    let (outer, part) = (task / plan.blocks(shape), task % plan.blocks(shape));
    let (batch, head_index) = (outer / shape.heads, outer % shape.heads);
    let start = part * plan.block_queries;
    let count = plan.block_queries.min(shape.queries - start);
    let channel = head_index * shape.head_dim;
    let used = call.key_limit.map_or(shape.keys, |limit| limit.min(shape.keys));
    let head =
        Head { batch, channel, width: shape.head_dim, round: call.precision == Precision::Bf16 };
    // SAFETY: the offsets lie inside the plan's words.
    let places = unsafe {
        Scratch {
            queries: scratch,
            output: scratch.add(plan.output),
            keys: scratch.add(plan.keys),
            values: scratch.add(plan.values),
            scores: scratch.add(plan.scores),
            running: scratch.add(plan.running),
            bias: scratch.add(plan.bias),
        }
    };
    let tiles = (0..count)
        .step_by(plan.columns * LANES)
        .map(|start| Tile { start, sixteens: plan.columns.min((count - start).div_ceil(LANES)) });
    // SAFETY: the plan leaves room for every block; padding is part of it.
    unsafe {
        let queries = head.rows(call.query, start, count);
        pack::queries::<P>(queries, plan.depth, plan.columns, places.queries);
        for tile in tiles.clone() {
            let width = tile.sixteens * LANES;
            let running =
                std::slice::from_raw_parts_mut(places.running.add(3 * tile.start), 3 * width);
            running[..width].fill(LOWEST);
            running[width..].fill(0.0);
        }
        if let Some(bias) = call.relative_bias {
            // Turned round, so that the queries of a key read ascending places: place x holds
            // the bias of query − key = x − (used − 1) within the block.
            let span = shape.queries + shape.keys - 1;
            let bias = &bias[head_index * span..][..span];
            for x in 0..plan.block_queries + used {
                let at = (used + shape.queries).checked_sub(x + start + 2);
                let value = at.and_then(|at| bias.get(at)).copied().unwrap_or(0.0);
                *places.bias.add(x) = value;
            }
        }
        for first in (0..used).step_by(plan.block_keys) {
            let count = plan.block_keys.min(used - first);
            let keys = head.rows(call.key, first, count);
            let padded = count.next_multiple_of(plan.key_step);
            pack::rows::<P>(keys, padded, plan.key_filled, plan.key_stride, places.keys);
            let values = head.rows(call.value, first, count);
            let (filled, stride) = (plan.value_filled, plan.value_stride);
            if P::TILED {
                pack::by_channel::<P>(values, plan.dims, stride, places.scores, places.values);
            } else if P::PAIRED {
                pack::paired_rows::<P>(values, filled, stride, places.values);
            } else {
                pack::rows::<P>(values, count, filled, stride, places.values);
            }
            let bias = match call.relative_bias {
                Some(_) => places.bias.add(used - 1 - first).cast_const(),
                None => std::ptr::null(),
            };
            let last = if first + count == used { call.last } else { 1 };
            let keys = KeyBlock { first, count, last, bias };
            for tile in tiles.clone() {
                match tile.sixteens {
                    1 => meet::<P, R, 1>(job, &places, tile, keys),
                    2 => meet::<P, R, 2>(job, &places, tile, keys),
                    3 => meet::<P, R, 3>(job, &places, tile, keys),
                    _ => meet::<P, R, 4>(job, &places, tile, keys),
                }
            }
        }
        for tile in tiles {
            let from = places.output.add(tile.start * plan.dims);
            let lanes = tile.sixteens * LANES;
            let sum = places.running.add(3 * tile.start + lanes);
            let rows = (count - tile.start).min(lanes);
            for lane in 0..rows {
                let (row, largest) =
                    (start + tile.start + lane, *places.running.add(3 * tile.start + lane));
                let log_sum = if exact::is_needed(largest) {
                    let query = Query { call, batch, head: head_index, query: row, keys: used };
                    let log_sum = query.answer(from.add(lane), lanes);
                    *sum.add(lane) = 1.0;
                    log_sum
                } else if job.log_sums.is_some() {
                    // In units of the weight of the largest score, which is 1 but for rounding.
                    let rough = P::PAIRED || call.precision == Precision::Bf16;
                    let unit = f64::from(if rough { ROUGH_ONE } else { 1.0 });
                    let base = f64::from(largest) * std::f64::consts::LN_2;
                    (base + (f64::from(*sum.add(lane)) / unit).ln()) as f32
                } else {
                    continue;
                };
                if let Some(log_sums) = job.log_sums {
                    *log_sums.add(outer * shape.queries + row) = log_sum;
                }
            }
            for at in (0..lanes).step_by(LANES) {
                let share = P::V::splat(1.0).div(P::V::load(sum.add(at)));
                share.store(sum.add(at));
            }
            let (from, share) = (from.cast_const(), sum.cast_const());
            let at = batch * job.batch_stride + (start + tile.start) * job.row_stride + channel;
            let (sixteens, width, stride) = (tile.sixteens, shape.head_dim, job.row_stride);
            match job.output {
                Rows::F32(data) => {
                    let to = data.add(at);
                    pack::finish::<P::V, f32>(from, share, sixteens, width, rows, to, stride);
                }
                Rows::Bf16(data) => {
                    let to = data.add(at);
                    pack::finish::<P::V, bf16>(from, share, sixteens, width, rows, to, stride);
                }
            }
        }
    }
}

/// One tile of queries meets one block of keys.
///
/// # Safety
/// As of [`Task`]; queries, keys and values of the blocks are in place.
#[inline(always)]
unsafe fn meet<P: Products, const R: usize, const C: usize>(
    job: &Job<'_>,
    places: &Scratch,
    tile: Tile,
    keys: KeyBlock,
) {
    let Job { plan, call, .. } = job;
    // SAFETY: the tile's parts of the blocks have the sizes that the products ask for.
    unsafe {
        let queries = places.queries.add(tile.start * plan.depth).cast_const();
        let padded = keys.count.next_multiple_of(plan.key_step);
        let (stride, depth) = (plan.key_stride, plan.depth);
        P::score::<R, C>(queries, places.keys, stride, depth, padded, places.scores);
        raise::<P, C>(places.scores, keys.count - 1, keys.last, call.scale);
        let running = Running { at: places.running.add(3 * tile.start) };
        let round = call.precision == Precision::Bf16;
        let log2_e = std::f32::consts::LOG2_E;
        if keys.bias.is_null() {
            let factor = call.scale * log2_e;
            weigh::<P, C>(places.scores, keys.count, factor, None, round, running);
        } else {
            let bias = Some((call.scale, keys.bias.add(tile.start)));
            weigh::<P, C>(places.scores, keys.count, log2_e, bias, round, running);
        }
        let steps = if P::PAIRED { keys.count.div_ceil(2) } else { keys.count };
        let output = places.output.add(tile.start * plan.dims);
        let (weights, values) = (places.scores, places.values.cast_const());
        let (stride, dims, older) = (plan.value_stride, plan.dims, keys.first > 0);
        P::mix::<R, C>(weights, values, stride, steps, dims, output, running, older);
    }
}
