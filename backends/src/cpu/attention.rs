//! Multi-head attention softmax(q·kᵀ·scale + bias)·v on the CPU, in blocks with an online softmax.
//!
//! Contract: heads lie side by side in a row (channel = head·head_dim + j). Never more than a block
//! of scores exists; all working memory is the caller's scratch. The work is cut into (batch, head,
//! block of queries) by the shape alone, and a query meets the keys in ascending order, so the
//! result has the same bits for any number of threads. Products in `f32`, or bf16 with `f32` sums
//! (`vdpbf16ps` where the level has it, otherwise `f32` products of the rounded values); softmax
//! always in `f32`. Sizes are checked by assertions: a plan that reaches this point has been
//! verified. There is no mask besides the bias and the key limit, and no dropout.

mod block;
mod exact;
mod pack;
mod products;
#[cfg(test)]
mod tests;
#[cfg(target_arch = "x86_64")]
mod tiled;
mod vjp;

use half::bf16;

use self::block::{Job, Rows, Task};
use self::products::{Way, run_at};
use super::math::LANES;
use super::simd::Level;
use super::threads::{Pool, SharedPtr};

pub use vjp::{AttentionVjp, Cotangents, attention_vjp, vjp_scratch_bytes};

/// Elements of an input.
#[derive(Clone, Copy, Debug)]
pub enum Source<'a> {
    /// 32-bit floats.
    F32(&'a [f32]),
    /// bf16.
    Bf16(&'a [bf16]),
}

impl Source<'_> {
    fn len(&self) -> usize {
        match self {
            Self::F32(data) => data.len(),
            Self::Bf16(data) => data.len(),
        }
    }
}

/// Elements of the output.
#[derive(Debug)]
pub enum Target<'a> {
    /// 32-bit floats.
    F32(&'a mut [f32]),
    /// bf16, rounded to nearest even.
    Bf16(&'a mut [bf16]),
}

/// An input [batch, rows, heads·head_dim] inside a larger slice; strides count elements.
#[derive(Clone, Copy, Debug)]
pub struct Operand<'a> {
    /// The elements, from row 0 of batch 0 on.
    pub data: Source<'a>,
    /// From one row to the next; at least heads·head_dim.
    pub row_stride: usize,
    /// From one batch to the next; of no meaning for one batch.
    pub batch_stride: usize,
}

impl Operand<'_> {
    fn check(&self, name: &str, shape: &AttentionShape, rows: usize) {
        check(name, shape, rows, self.data.len(), (self.row_stride, self.batch_stride));
    }
}

/// The output [batch, queries, heads·head_dim] inside a larger slice; strides count elements.
#[derive(Debug)]
pub struct OutputOperand<'a> {
    /// The elements, from row 0 of batch 0 on. What lies between the rows stays as it is.
    pub data: Target<'a>,
    /// From one row to the next; at least heads·head_dim.
    pub row_stride: usize,
    /// From one batch to the next; of no meaning for one batch.
    pub batch_stride: usize,
}

impl OutputOperand<'_> {
    /// Where its rows begin, which have room for those of `shape`.
    fn rows(&mut self, name: &str, shape: &AttentionShape, rows: usize) -> Rows {
        let (len, place) = match &mut self.data {
            Target::F32(data) => (data.len(), Rows::F32(data.as_mut_ptr())),
            Target::Bf16(data) => (data.len(), Rows::Bf16(data.as_mut_ptr())),
        };
        check(name, shape, rows, len, (self.row_stride, self.batch_stride));
        let extent = (rows - 1) * self.row_stride + shape.heads * shape.head_dim;
        assert!(shape.batch == 1 || self.batch_stride >= extent, "{name}: batches overlap");
        place
    }
}

/// Sizes of an attention.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AttentionShape {
    /// Independent attentions.
    pub batch: usize,
    /// Heads.
    pub heads: usize,
    /// Channels of a head, any number from 1.
    pub head_dim: usize,
    /// Query rows.
    pub queries: usize,
    /// Key and value rows.
    pub keys: usize,
}

/// How the two products are formed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Precision {
    /// All in `f32`.
    F32,
    /// Queries, keys, values and weights rounded to bf16, sums in `f32`.
    Bf16,
}

/// An attention, less its output.
#[derive(Clone, Copy, Debug)]
pub struct Attention<'a> {
    /// Sizes.
    pub shape: AttentionShape,
    /// Products.
    pub precision: Precision,
    /// Factor of q·kᵀ, not negative: 1/√head_dim, or 1.
    pub scale: f32,
    /// How many times the last key that is attended to counts; more than once only where the scale is
    /// above 0.
    pub last: usize,
    /// Queries [batch, queries, heads·head_dim].
    pub query: Operand<'a>,
    /// Keys [batch, keys, heads·head_dim].
    pub key: Operand<'a>,
    /// Values [batch, keys, heads·head_dim].
    pub value: Operand<'a>,
    /// Bias by distance, [heads, queries + keys − 1]: score[h, q, k] gains
    /// `relative_bias[h, k − q + queries − 1]`. An entry of −∞ masks.
    pub relative_bias: Option<&'a [f32]>,
    /// Attend to the first so many keys only, at least 1.
    pub key_limit: Option<usize>,
}

/// Tile and block sizes and the layout of a worker's scratch, by level and shape alone.
#[derive(Clone, Copy, Debug)]
struct Plan {
    way: Way,
    /// Keys and head dimensions are filled up to multiples of this.
    key_step: usize,
    columns: usize,
    rows: usize,
    block_queries: usize,
    block_keys: usize,
    /// Words of a head's row of queries or keys.
    depth: usize,
    /// Head dimensions, filled up to whole tiles.
    dims: usize,
    key_filled: usize,
    key_stride: usize,
    value_filled: usize,
    value_stride: usize,
    /// Offsets in words: queries at 0, then these.
    output: usize,
    keys: usize,
    values: usize,
    scores: usize,
    running: usize,
    bias: usize,
    words: usize,
}

/// Row strides of an odd number of cache lines spread over the sets of the caches.
fn odd_lines(words: usize) -> usize {
    (words.div_ceil(LANES) | 1) * LANES
}

/// Rows of a product's tile and its columns in registers.
fn tiles(way: Way) -> (usize, usize) {
    match way.level {
        _ if way.tiles.is_some() => (LANES, 4),
        Level::Avx512 | Level::Avx512Bf16 => (6, 4),
        Level::Avx2 => (6, 1),
        _ => (2, 1),
    }
}

impl Plan {
    fn new(level: Level, shape: &AttentionShape, precision: Precision, bias: bool) -> Self {
        let way = Way::new(level, precision);
        let (paired, tiled) = (way.paired, way.tiles.is_some());
        let (rows, columns) = tiles(way);
        let dim = shape.head_dim;
        // Queries and output of a block, and keys and values of a block, stay in half of a
        // second-level cache of 1 MiB each; wide single heads keep at least one tile.
        let wanted = (BLOCK_QUERIES * 128 / dim).clamp(64, BLOCK_QUERIES);
        let block_queries = wanted.min(shape.queries).next_multiple_of(LANES);
        let block_queries = if shape.queries > block_queries {
            block_queries.next_multiple_of(columns * LANES)
        } else {
            block_queries
        };
        let (most, least, key_step) = if tiled { (512, 64, 32) } else { (BLOCK_KEYS, 36, 6) };
        let block_keys = (most * 128 / dim).clamp(least, most);
        let block_keys = block_keys.min(shape.keys).next_multiple_of(key_step);
        let depth = if paired { dim.div_ceil(2) } else { dim };
        let depth = if tiled { depth.next_multiple_of(LANES) } else { depth };
        let dims = dim.next_multiple_of(rows);
        let key_filled = depth.next_multiple_of(LANES);
        let value_filled = dims.next_multiple_of(LANES);
        let key_stride = odd_lines(key_filled);
        let pairs = if paired { block_keys / 2 } else { block_keys };
        let (value_rows, value_stride) = match tiled {
            true => (dims, odd_lines(pairs)),
            false => (pairs, odd_lines(value_filled)),
        };
        let output = block_queries * depth;
        let keys = output + block_queries * dims;
        let values = keys + block_keys * key_stride;
        let scores = values + value_rows * value_stride;
        // Values go through it on their way into tiles.
        let through = if tiled { LANES * dims } else { 0 };
        let running = scores + (block_keys * columns * LANES).max(through);
        let bias_at = running + 3 * block_queries;
        let bias_words = if bias { block_queries + shape.keys } else { 0 };
        let words = (bias_at + bias_words).next_multiple_of(LANES);
        Self {
            way,
            key_step,
            columns,
            rows,
            block_queries,
            block_keys,
            depth,
            dims,
            key_filled,
            key_stride,
            value_filled,
            value_stride,
            output,
            keys,
            values,
            scores,
            running,
            bias: bias_at,
            words,
        }
    }

    fn blocks(&self, shape: &AttentionShape) -> usize {
        shape.queries.div_ceil(self.block_queries)
    }
}

const BLOCK_QUERIES: usize = 512;
const BLOCK_KEYS: usize = 132;
const ALIGNMENT: usize = 64;

/// Bytes of scratch that [`attention`] needs for `workers` threads; `bias` says whether a relative
/// bias is given.
pub fn scratch_bytes(
    level: Level,
    shape: &AttentionShape,
    precision: Precision,
    bias: bool,
    workers: usize,
) -> usize {
    Plan::new(level, shape, precision, bias).words * 4 * workers + ALIGNMENT
}

fn check(name: &str, shape: &AttentionShape, rows: usize, len: usize, strides: (usize, usize)) {
    let width = shape.heads * shape.head_dim;
    assert!(rows == 1 || strides.0 >= width, "{name}: rows overlap");
    let last = (shape.batch - 1) * strides.1 + (rows - 1) * strides.0 + width;
    assert!(last <= len, "{name}: {len} elements, {last} needed");
}

/// Computes the attention into `output`, and the natural logarithm of each query's sum of e^score into
/// `log_sums`, if anyone wants it: [batch, heads, queries], −∞ for a query whose every key is masked.
///
/// `scratch` holds at least [`scratch_bytes`] for the pool's workers; its contents do not matter.
///
/// # Panics
/// When a slice is too short for its shape and strides, when output rows or batches overlap, when
/// the scale is negative or the key limit 0.
pub fn attention(
    pool: &Pool,
    level: Level,
    call: &Attention<'_>,
    mut output: OutputOperand<'_>,
    log_sums: Option<&mut [f32]>,
    scratch: &mut [u8],
) {
    let shape = call.shape;
    if shape.batch * shape.heads * shape.head_dim * shape.queries == 0 {
        return;
    }
    assert!(shape.keys > 0 && call.key_limit != Some(0), "attention over no keys");
    assert!(call.scale >= 0.0, "the scale is not negative");
    assert!(call.last > 0 && (call.last == 1 || call.scale > 0.0), "how often the last key counts");
    call.query.check("query", &shape, shape.queries);
    call.key.check("key", &shape, shape.keys);
    call.value.check("value", &shape, shape.keys);
    let rows = output.rows("output", &shape, shape.queries);
    let OutputOperand { row_stride, batch_stride, .. } = output;
    let queries = shape.batch * shape.heads * shape.queries;
    assert!(log_sums.as_ref().is_none_or(|sums| sums.len() == queries), "one sum a query");
    if let Some(bias) = call.relative_bias {
        assert_eq!(bias.len(), shape.heads * (shape.queries + shape.keys - 1), "bias length");
    }
    let plan = Plan::new(level, &shape, call.precision, call.relative_bias.is_some());
    let skip = scratch.as_ptr().align_offset(ALIGNMENT);
    let needed = skip + plan.words * 4 * pool.threads();
    assert!(needed <= scratch.len(), "scratch: {} bytes, {needed} needed", scratch.len());
    // SAFETY: skip lies inside the scratch, as just checked.
    let base = SharedPtr::new(unsafe { scratch.as_mut_ptr().add(skip) }.cast::<f32>());
    let log_sums = log_sums.map(<[f32]>::as_mut_ptr);
    let job = Job { plan, call, output: rows, row_stride, batch_stride, log_sums };
    let tasks = shape.batch * shape.heads * plan.blocks(&shape);
    pool.run(tasks, &|task, worker| {
        // SAFETY: a worker runs one task at a time and this part of the scratch is its own.
        unsafe {
            let scratch = base.get().add(worker * plan.words);
            run_at(plan.way, &Task { job: &job, number: task, scratch });
        }
    });
}
