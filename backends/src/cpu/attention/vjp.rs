//! Cotangents of queries, keys, values and bias of an attention, in blocks.
//!
//! Contract: the weights are computed again from the logarithms of their sums, block by block, so that
//! never more than a block of them exists; all working memory is the caller's scratch. A task owns some
//! keys of a head: it goes through blocks of them, each against all queries in ascending order, and adds
//! up what they give to each other in five products. What queries get lies in memory of the worker, or,
//! where heads are few and their keys are cut into pieces, in memory of each piece, which are added in
//! order at the end. All of that is decided by the shape alone, so the result has the same bits for any
//! number of threads. Products in `f32`, or in bf16 with `f32` sums as attention itself forms them;
//! weights and their cotangents are then rounded to bf16.
//!
//! Speed is limited by the products; packing queries anew for every block of keys takes some percent.
//! There are at least [`TASKS`] tasks where there are keys enough, which bounds the threads that help.

mod products;
mod task;
#[cfg(test)]
mod tests;

use super::super::math::LANES;
use super::super::simd::Level;
use super::super::threads::{Pool, SharedPtr, stop_requested};
use super::products::{Way, run_at};
use super::{ALIGNMENT, AttentionShape, Operand, OutputOperand, Precision, odd_lines, tiles};
use task::{Job, Place, Share, Sums, Task};

/// The derivative of an attention, less what it gives.
#[derive(Clone, Copy, Debug)]
pub struct AttentionVjp<'a> {
    /// Sizes.
    pub shape: AttentionShape,
    /// Products.
    pub precision: Precision,
    /// Factor of q·kᵀ.
    pub scale: f32,
    /// How many times the last key counts; more than once only where the scale is above 0.
    pub last: usize,
    /// Queries [batch, queries, heads·head_dim].
    pub query: Operand<'a>,
    /// Keys [batch, keys, heads·head_dim].
    pub key: Operand<'a>,
    /// Values [batch, keys, heads·head_dim].
    pub value: Operand<'a>,
    /// What the attention gave, laid out as the queries.
    pub result: Operand<'a>,
    /// Logarithms of the sums of e^score, [batch, heads, queries].
    pub log_sums: &'a [f32],
    /// Cotangent of the result.
    pub cotangent: Operand<'a>,
    /// Bias by distance, as the attention takes it.
    pub relative_bias: Option<&'a [f32]>,
}

/// Where the cotangents of the operands go.
#[derive(Debug)]
pub struct Cotangents<'a> {
    /// Of the queries.
    pub query: OutputOperand<'a>,
    /// Of the keys.
    pub key: OutputOperand<'a>,
    /// Of the values.
    pub value: OutputOperand<'a>,
    /// Of the bias, where there is one.
    pub relative_bias: Option<&'a mut [f32]>,
}

/// Keys of a block, for heads of 128 channels: with what belongs to them in half of a second-level cache
/// of 1 MiB.
const BLOCK_KEYS: usize = 198;
/// Heads of a batch are cut into pieces where there are fewer.
const TASKS: usize = 16;

/// Tile and block sizes and the layout of scratch, by level and shape alone. Words are those of products,
/// places are in words.
#[derive(Clone, Copy, Debug)]
struct Plan {
    way: Way,
    /// Keys are filled up to multiples of this.
    key_step: usize,
    rows: usize,
    /// Queries of a tile.
    width: usize,
    tiles: usize,
    block_keys: usize,
    /// Pieces of a head's keys, and keys of a piece.
    pieces: usize,
    piece_keys: usize,
    /// Words of a head's row of queries or keys.
    depth: usize,
    key_filled: usize,
    key_stride: usize,
    /// Head dimensions, filled up to whole tiles, and to whole registers.
    dims: usize,
    filled: usize,
    stride: usize,
    /// Words of a channel of pairs of keys, where they lie by channel.
    pair_stride: usize,
    places: Places<usize>,
    /// Words of a worker, of the sums of a head's queries, and of those of its bias.
    words: usize,
    query_words: usize,
    bias_words: usize,
}

/// What a worker holds.
#[derive(Clone, Copy, Debug, Default)]
struct Places<T> {
    /// −log₂ of the sum of each query's weights.
    base: T,
    /// Σ result · cotangent of each query.
    own: T,
    /// The head's bias, turned round.
    bias: T,
    keys: T,
    values: T,
    /// Pairs of keys.
    key_pairs: T,
    /// Sums of the block's keys and values.
    key_sums: T,
    value_sums: T,
    /// A tile's queries and cotangents along the lanes, then as rows.
    query_lanes: T,
    cotangent_lanes: T,
    query_rows: T,
    cotangent_rows: T,
    /// Weights and their cotangents, key by key, and these in pairs of keys.
    scores: T,
    slopes: T,
    slope_pairs: T,
}

impl Plan {
    fn new(level: Level, shape: &AttentionShape, precision: Precision, bias: bool) -> Self {
        let way = Way::new(level, precision);
        let (paired, tiled) = (way.paired, way.tiles.is_some());
        let (rows, columns) = tiles(way);
        let (dim, width) = (shape.head_dim, columns * LANES);
        let (most, least, key_step) = if tiled { (256, 64, 32) } else { (BLOCK_KEYS, 36, 6) };
        let block_keys = (most * 128 / dim).clamp(least, most);
        let block_keys = block_keys.min(shape.keys).next_multiple_of(key_step);
        let tiles = shape.queries.div_ceil(width);
        let blocks = shape.keys.div_ceil(block_keys);
        let wanted = TASKS.div_ceil(shape.batch * shape.heads).min(blocks);
        let piece_keys = blocks.div_ceil(wanted) * block_keys;
        let dims = dim.next_multiple_of(rows);
        let filled = dims.next_multiple_of(LANES);
        let (depth, key_filled) = match paired {
            true => (dim.div_ceil(2), dim.div_ceil(2).next_multiple_of(LANES)),
            false => (dim, filled),
        };
        let depth = if tiled { key_filled } else { depth };
        let (key_stride, stride) = (odd_lines(key_filled), odd_lines(filled));
        let pair_stride = odd_lines(block_keys / 2);
        // Keys go through the slopes on their way into tiles.
        let (key_pairs, through) = match tiled {
            true => (dims * pair_stride, LANES * dims),
            false => (if paired { block_keys * stride / 2 } else { 0 }, 0),
        };
        let half = |words: usize| if paired { words / 2 } else { words };
        let in_pairs = |words: usize| if paired { words / 2 } else { 0 };
        let span = (shape.queries + shape.keys + width).next_multiple_of(LANES);
        let mut words = 0;
        let mut place = |size: usize| {
            let at = words;
            words += size.next_multiple_of(LANES);
            at
        };
        let places = Places {
            base: place(tiles * width),
            own: place(tiles * width),
            bias: place(if bias { span } else { 0 }),
            keys: place(block_keys * key_stride),
            values: place(block_keys * key_stride),
            key_pairs: place(key_pairs),
            key_sums: place(block_keys * stride),
            value_sums: place(block_keys * stride),
            query_lanes: place(depth * width),
            cotangent_lanes: place(depth * width),
            query_rows: place(half(width * stride)),
            cotangent_rows: place(half(width * stride)),
            scores: place(block_keys * width),
            slopes: place((block_keys * width).max(through)),
            slope_pairs: place(in_pairs(block_keys * width)),
        };
        Self {
            way,
            key_step,
            rows,
            width,
            tiles,
            block_keys,
            pieces: shape.keys.div_ceil(piece_keys),
            piece_keys,
            depth,
            key_filled,
            key_stride,
            dims,
            filled,
            stride,
            pair_stride,
            places,
            words,
            query_words: tiles * dims * width,
            bias_words: if bias { span } else { 0 },
        }
    }

    fn tasks(&self, shape: &AttentionShape) -> usize {
        shape.batch * shape.heads * self.pieces
    }

    /// How many sums of a head's queries are in work at a time.
    fn slots(&self, shape: &AttentionShape, workers: usize) -> usize {
        let tasks = self.tasks(shape);
        if self.pieces > 1 { tasks } else { tasks.min(workers) }
    }

    fn total(&self, shape: &AttentionShape, workers: usize) -> usize {
        let sums = self.slots(shape, workers) * self.query_words;
        workers * self.words + sums + self.tasks(shape) * self.bias_words
    }
}

/// Bytes of scratch that [`attention_vjp`] needs for `workers` threads; `bias` says whether a relative
/// bias is given.
pub fn vjp_scratch_bytes(
    level: Level,
    shape: &AttentionShape,
    precision: Precision,
    bias: bool,
    workers: usize,
) -> usize {
    Plan::new(level, shape, precision, bias).total(shape, workers) * 4 + ALIGNMENT
}

/// Computes the cotangents of what an attention reads.
///
/// `scratch` holds at least [`vjp_scratch_bytes`] for the pool's workers; its contents do not matter.
///
/// # Panics
/// When a slice is too short for its shape and strides, or when rows or batches of a result overlap.
pub fn attention_vjp(
    pool: &Pool,
    level: Level,
    call: &AttentionVjp<'_>,
    to: Cotangents<'_>,
    scratch: &mut [u8],
) {
    let shape = call.shape;
    let AttentionShape { batch, heads, queries, keys, .. } = shape;
    assert!(batch * heads * shape.head_dim * queries * keys > 0, "attention of nothing");
    assert!(call.last > 0 && (call.last == 1 || call.scale > 0.0), "how often the last key counts");
    for (name, operand, rows) in [
        ("query", &call.query, queries),
        ("key", &call.key, keys),
        ("value", &call.value, keys),
        ("result", &call.result, queries),
        ("cotangent", &call.cotangent, queries),
    ] {
        operand.check(name, &shape, rows);
    }
    assert_eq!(call.log_sums.len(), batch * heads * queries, "one sum a query");
    let span = queries + keys - 1;
    let bias = call.relative_bias.map(<[f32]>::len);
    let given = to.relative_bias.as_ref().map(|table| table.len());
    assert!(
        [bias, given].iter().all(|len| len.is_none_or(|len| len == heads * span)),
        "bias length"
    );
    assert_eq!(bias, given, "a bias has a cotangent");
    let Cotangents { mut query, mut key, mut value, relative_bias } = to;
    let plan = Plan::new(level, &shape, call.precision, bias.is_some());
    let skip = scratch.as_ptr().align_offset(ALIGNMENT);
    let workers = pool.threads();
    let needed = skip + plan.total(&shape, workers) * 4;
    assert!(needed <= scratch.len(), "scratch: {} bytes, {needed} needed", scratch.len());
    // SAFETY: the places lie one after the other inside the scratch, as just checked.
    let [base, query_sums, bias_sums] = unsafe {
        let base = scratch.as_mut_ptr().add(skip).cast::<f32>();
        let sums = base.add(workers * plan.words);
        let bias = sums.add(plan.slots(&shape, workers) * plan.query_words);
        [base, sums, bias].map(SharedPtr::new)
    };
    let place = |name: &str, operand: &mut OutputOperand<'_>, rows: usize| Place {
        rows: operand.rows(name, &shape, rows),
        row_stride: operand.row_stride,
        batch_stride: operand.batch_stride,
    };
    let job = Job {
        plan,
        call,
        query: place("cotangent of queries", &mut query, queries),
        key: place("cotangent of keys", &mut key, keys),
        value: place("cotangent of values", &mut value, keys),
    };
    let tasks = plan.tasks(&shape);
    let own = plan.slots(&shape, workers) == tasks;
    pool.run(tasks, &|number, worker| {
        let slot = if own { number } else { worker };
        // SAFETY: a worker runs one task at a time, this part of the scratch is its own, and so are
        // the sums in its slot.
        unsafe {
            let sums = Sums {
                queries: query_sums.get().add(slot * plan.query_words),
                bias: bias_sums.get().add(number * plan.bias_words),
            };
            let scratch = base.get().add(worker * plan.words);
            run_at(plan.way, &Task { job: &job, number, scratch, sums });
        }
    });
    if stop_requested() {
        return;
    }
    if plan.pieces > 1 {
        pool.run(batch * heads * plan.tiles, &|number, _| {
            // SAFETY: tiles of the first piece's sums belong to one task each; others are read.
            unsafe {
                let sums = query_sums.get();
                run_at(plan.way, &Share { job: &job, number, sums });
            }
        });
    }
    if let Some(table) = relative_bias {
        let table = SharedPtr::new(table.as_mut_ptr());
        pool.run(heads, &|head, _| {
            // SAFETY: a head's rows of the table are its own; the tasks' sums are read.
            unsafe { add_bias(&plan, &shape, head, bias_sums.get(), table.get()) }
        });
    }
}

/// The cotangent of a head's bias: the sums of all batches and pieces, in order, turned round.
///
/// # Safety
/// `sums` holds those of all tasks, `table` those of all heads, of which this one's are the caller's.
unsafe fn add_bias(
    plan: &Plan,
    shape: &AttentionShape,
    head: usize,
    sums: *const f32,
    table: *mut f32,
) {
    let span = shape.queries + shape.keys - 1;
    for at in 0..span {
        let mut sum = 0.0;
        for batch in 0..shape.batch {
            let first = (batch * shape.heads + head) * plan.pieces;
            for task in first..first + plan.pieces {
                // SAFETY: a task has room for the span.
                sum += unsafe { *sums.add(task * plan.bias_words + span - 1 - at) };
            }
        }
        // SAFETY: inside the head's part of the table.
        unsafe { *table.add(head * span + at) = sum };
    }
}
