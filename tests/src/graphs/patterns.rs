//! The patterns random graphs are made of. Each takes f32 values from the pool and gives one f32
//! value of at most a few thousand elements; where a choice does not fit the shapes at hand it
//! falls back to an elementwise function.

use super::{BLOCKS, Choice, KERNELS, MOST_ELEMENTS, Maker, SIZES};
use anyid_ir::{Axes, BinaryFn, CompareFn, DType, Op, ReduceFn, TensorType, UnaryFn, ValueId};

impl Maker<'_> {
    /// The value of one choice.
    pub(super) fn pattern(&mut self, choice: Choice) -> ValueId {
        let x = self.pick(choice[1]);
        let made = match choice[0] % 40 {
            0..3 => Some(self.elementwise(x, choice)),
            3..6 => self.binary(x, choice),
            6..9 => self.linear(x, choice),
            9..11 => self.norm(x, choice),
            11..14 => self.attention(x, choice),
            14 => self.rope(x, choice),
            15..17 => self.modulation(x, choice),
            17..20 => self.conv(x, choice),
            20..22 => self.reshape(x, choice),
            22..24 => self.permute(x, choice),
            24..26 => self.window(x, choice),
            26 => self.concat(x, choice),
            27 => self.reduce(x, choice),
            28 => self.spread(x, choice),
            29 => self.patches(x, choice),
            30 => self.dot(x, choice),
            31 => self.select(x, choice),
            32 => self.rows(x, choice),
            33..35 => self.half(x, choice),
            35 => self.timesteps(choice),
            36 => self.constant(choice),
            _ => self.blocks(choice),
        };
        made.unwrap_or_else(|| self.elementwise(x, choice))
    }

    fn pick(&self, number: u16) -> ValueId {
        // Newer values are taken more often.
        let back = (number as usize * number as usize / 7) % self.pool.len();
        self.pool[self.pool.len() - 1 - back.min(number as usize % self.pool.len())]
    }

    fn shape(&self, x: ValueId) -> Vec<usize> {
        self.f.shape(x).to_vec()
    }

    fn elementwise(&mut self, x: ValueId, choice: Choice) -> ValueId {
        match choice[2] % 8 {
            0 => self.f.unary("neg", UnaryFn::Neg, x),
            1 => self.f.unary("abs", UnaryFn::Abs, x),
            2 => self.f.unary("tanh", UnaryFn::Tanh, x),
            3 => {
                let bounded = self.f.unary("bounded", UnaryFn::Erf, x);
                let f = [UnaryFn::Exp, UnaryFn::Sin, UnaryFn::Cos][choice[3] as usize % 3];
                self.f.unary("wave", f, bounded)
            }
            4 => {
                let size = self.f.unary("size", UnaryFn::Abs, x);
                let one = self.f.scalar("one", DType::F32, 1.0);
                let above = self.f.add("above", size, one);
                let f = [UnaryFn::Recip, UnaryFn::Rsqrt, UnaryFn::Sqrt, UnaryFn::Log];
                self.f.unary("root", f[choice[3] as usize % 4], above)
            }
            5 => self.f.op("silu", Op::Silu, &[x], None),
            _ => self.f.op("gelu", Op::Gelu, &[x], None),
        }
    }

    fn binary(&mut self, x: ValueId, choice: Choice) -> Option<ValueId> {
        let other = self.pick(choice[2]);
        let mut y = x;
        if anyid_ir::infer::broadcast(&self.f.shape(x), &self.f.shape(other))
            .is_some_and(|s| s.iter().product::<usize>() <= MOST_ELEMENTS && s.len() <= 5)
        {
            y = other;
        }
        Some(match choice[3] % 5 {
            0 => self.f.add("sum", x, y),
            1 => self.f.binary("difference", BinaryFn::Sub, x, y),
            2 => self.f.binary("larger", BinaryFn::Max, x, y),
            3 => self.f.binary("smaller", BinaryFn::Min, x, y),
            _ => {
                let bounded = self.f.unary("bounded", UnaryFn::Tanh, y);
                self.f.mul("product", x, bounded)
            }
        })
    }

    /// The last axis of `x` if weights of that size exist.
    fn width(&self, x: ValueId) -> Option<usize> {
        let ty = self.f.ty(x);
        (ty.rank() > 0 && SIZES.contains(&ty.last())).then(|| ty.last())
    }

    fn fits(&self, x: ValueId, width: usize) -> bool {
        let ty = self.f.ty(x);
        ty.elements() / ty.last().max(1) * width <= MOST_ELEMENTS
    }

    fn linear(&mut self, x: ValueId, choice: Choice) -> Option<ValueId> {
        let k = self.width(x)?;
        let n = SIZES[choice[2] as usize % SIZES.len()];
        if !self.fits(x, n) {
            return None;
        }
        let bias = format!("b.n{n}");
        let bias = choice[3].is_multiple_of(2).then_some(bias.as_str());
        if choice[3] % 5 == 4 {
            // With a matrix of values in place of a weight.
            let w = self.f.weight(&format!("w.k{k}.n{n}"));
            let w = self.f.unary("matrix", UnaryFn::Tanh, w);
            return Some(self.f.linear_of("linear", &[x, w], DType::F32));
        }
        Some(self.f.linear("linear", x, &format!("w.k{k}.n{n}"), bias, DType::F32))
    }

    fn norm(&mut self, x: ValueId, choice: Choice) -> Option<ValueId> {
        let width = self.width(x)?;
        let gain = self.f.weight(&format!("b.n{width}"));
        // A large eps: differences between nearly equal elements stay small.
        let eps = 0.05;
        Some(match choice[2] % 4 {
            0 => self.f.op("norm", Op::LayerNorm { eps }, &[x], None),
            1 => self.f.op("norm", Op::LayerNorm { eps }, &[x, gain, gain], None),
            form => self.f.op("norm", Op::RmsNorm { eps, clamp: form == 3 }, &[x, gain], None),
        })
    }

    /// `x` as rows: `[N, D]`, or `[B, N, D]` of three axes where `batched` allows them.
    fn as_rows(&mut self, x: ValueId, batched: bool) -> Option<ValueId> {
        let shape = self.shape(x);
        match shape.len() {
            0 => None,
            2 => Some(x),
            3 if batched => Some(x),
            _ => {
                let width = *shape.last()?;
                let rows: usize = shape.iter().product::<usize>() / width;
                Some(self.f.reshape("rows", x, [rows, width]))
            }
        }
    }

    fn attention(&mut self, x: ValueId, choice: Choice) -> Option<ValueId> {
        let width = self.width(x)?;
        let x = self.as_rows(x, true)?;
        let rows = self.shape(x)[self.f.ty(x).rank() - 2];
        if rows > 40 {
            return None;
        }
        let mut linear = |name: &str, n: usize| {
            self.f.linear(name, x, &format!("w.k{width}.n{n}"), None, DType::F32)
        };
        let [q, k, v] = match choice[2] % 3 {
            0 => [x; 3],
            // Keys and values are the halves of one product.
            1 if SIZES.contains(&(2 * width)) => {
                let (q, both) = (linear("q", width), linear("kv", 2 * width));
                let axis = self.f.ty(both).rank() - 1;
                let [k, v] = [("k", 0), ("v", width)]
                    .map(|(name, start)| self.f.slice(name, both, axis, start, width));
                [q, k, v]
            }
            _ => ["q", "k", "v"].map(|name| linear(name, width)),
        };
        let heads = if width.is_multiple_of(2) { 1 + choice[3] as usize % 2 } else { 1 };
        // Fewer keys than queries, as in cross-attention.
        let keys = if choice[3] % 4 < 2 { rows } else { rows.div_ceil(2) };
        let axis = self.f.ty(x).rank() - 2;
        let k = self.f.slice("keys", k, axis, 0, keys);
        let v = self.f.slice("values", v, axis, 0, keys);
        let lse = choice[3] % 8 < 3;
        let op = Op::Attention {
            heads,
            scale: 1.0 / ((width / heads) as f64).sqrt(),
            lse,
            last: if lse { 4 } else { 1 },
        };
        let mut operands = vec![q, k, v];
        if choice[2].is_multiple_of(2) {
            let counted = TensorType::new(DType::I32, [rows + keys - 1]);
            let counted = self.f.iota("counted", 0, counted);
            let middle = self.f.scalar("middle", DType::I32, rows as f64 - 1.0);
            let delta = self.f.binary("delta", BinaryFn::Sub, counted, middle);
            let rule = Op::RelativeBucket { buckets: 16, max_distance: 20 };
            let bucket = self.f.op("bucket", rule, &[delta], None);
            let table = self.f.weight(&format!("table.n{heads}"));
            let picked = self.f.op("picked", Op::Gather, &[table, bucket], None);
            operands.push(self.f.permute("bias", picked, &[1, 0]));
        }
        let made = self.f.op_of("attention", op, &operands, &[]);
        self.pool.extend(&made[1..]);
        Some(made[0])
    }

    fn rope(&mut self, x: ValueId, choice: Choice) -> Option<ValueId> {
        let x = self.as_rows(x, false)?;
        let shape = self.shape(x);
        let heads = if shape[1] == 16 { 1 + choice[2] as usize % 2 } else { 1 };
        let head_dim = shape[1] / heads;
        if !matches!(head_dim, 8 | 16) {
            return None;
        }
        // All tokens along one axis of the grid.
        let (frames, rows, cols) = match choice[3] % 3 {
            0 => (shape[0], 1, 1),
            1 => (1, shape[0], 1),
            _ => (1, 1, shape[0]),
        };
        let positions = self.f.iota("frames", 0, TensorType::new(DType::I32, [frames]));
        let op = Op::RopeTable { rows, cols, head_dim, theta: 100.0 };
        let table = self.f.op("table", op, &[positions], None);
        Some(self.f.op("rope", Op::Rope { heads }, &[x, table], None))
    }

    fn modulation(&mut self, x: ValueId, choice: Choice) -> Option<ValueId> {
        let width = self.width(x)?;
        let x = self.as_rows(x, false)?;
        let rows = self.shape(x)[0];
        let table = self.f.weight(&format!("table.n{width}"));
        let table = self.f.slice("table", table, 0, choice[2] as usize % 13, 3);
        let first = rows.div_ceil(2);
        let seg = self.segments(rows, first);
        Some(if choice[3].is_multiple_of(2) {
            let shift = self.f.unary("shift", UnaryFn::Neg, table);
            self.f.op("modulated", Op::Modulate, &[x, shift, table, seg], None)
        } else {
            let branch = self.f.op("branch", Op::Gelu, &[x], None);
            self.f.op("gated", Op::GateAdd, &[x, branch, table, seg], None)
        })
    }

    /// 0 for the first rows, 2 for the others.
    fn segments(&mut self, rows: usize, first: usize) -> ValueId {
        let ty = TensorType::new(DType::I32, [rows]);
        let counted = self.f.iota("counted", 0, ty.clone());
        let limit = self.f.scalar("limit", DType::I32, first as f64);
        let late = self.f.compare("late", CompareFn::Ge, counted, limit);
        let [yes, no] = [2.0, 0.0].map(|v| self.f.scalar("segment", DType::I32, v));
        self.f.op("segments", Op::Select, &[late, yes, no], None)
    }

    fn conv(&mut self, x: ValueId, choice: Choice) -> Option<ValueId> {
        let cin = self.width(x)?;
        let mut shape = self.shape(x);
        let x = match shape.len() {
            4 => x,
            1..4 => {
                while shape.len() < 4 {
                    shape.insert(0, 1);
                }
                self.f.reshape("clip", x, shape.iter().copied())
            }
            _ => return None,
        };
        let cout = SIZES[choice[2] as usize % SIZES.len()];
        let (kind, taps) = KERNELS[choice[3] as usize % 4];
        let causal = (choice[3] / 4).is_multiple_of(2);
        let (mut stride, mut pad) = ([1; 3], [[0, 0]; 3]);
        if taps.len() == 2 || taps[1] == 3 {
            (pad[1], pad[2]) = ([1, 1], [1, 1]);
        }
        if taps.len() == 2 && (choice[3] / 8).is_multiple_of(2) {
            (stride, pad) = ([1, 2, 2], [[0, 0], [0, 1], [0, 1]]);
        }
        if taps.len() == 3 && taps[0] == 3 {
            pad[0] = if causal { [2, 0] } else { [1, 1] };
        }
        let padded = [0, 1, 2].map(|axis| shape[axis] + pad[axis][0] + pad[axis][1]);
        let least = [[1, 3, 3], [3, 3, 3]][usize::from(taps.len() == 3)];
        let small = (0..3).any(|axis| padded[axis] < least[axis]);
        if (small && taps.len() == 2) || !self.fits(x, cout) {
            return None;
        }
        let w = self.f.weight(&format!("{kind}.k{cin}.n{cout}"));
        let mut operands = vec![x, w];
        if choice[2].is_multiple_of(3) {
            operands.push(self.f.weight(&format!("b.n{cout}")));
        }
        Some(self.f.op("conv", Op::Conv { stride, pad }, &operands, None))
    }

    fn reshape(&mut self, x: ValueId, choice: Choice) -> Option<ValueId> {
        let shape = self.shape(x);
        let all: usize = shape.iter().product();
        let to: Vec<usize> = match choice[2] % 5 {
            0 => vec![all],
            1 => shape.iter().copied().chain([1]).collect(),
            2 => [1].into_iter().chain(shape.iter().copied()).collect(),
            3 => {
                let width = SIZES.into_iter().rev().find(|size| all.is_multiple_of(*size))?;
                vec![all / width, width]
            }
            _ => {
                let width = SIZES.into_iter().rev().find(|size| all.is_multiple_of(*size))?;
                let rest = all / width;
                let rows = SIZES.into_iter().rev().find(|size| rest.is_multiple_of(*size))?;
                vec![1, rest / rows, rows, width]
            }
        };
        (to.len() <= 5).then(|| self.f.reshape("shaped", x, to))
    }

    fn permute(&mut self, x: ValueId, choice: Choice) -> Option<ValueId> {
        let rank = self.f.ty(x).rank();
        let mut perm: Vec<usize> = (0..rank).collect();
        let mut number = choice[2] as usize;
        for at in (1..rank).rev() {
            perm.swap(at, number % (at + 1));
            number /= at + 1;
        }
        (rank > 0).then(|| self.f.permute("permuted", x, &perm))
    }

    fn axis(&self, x: ValueId, number: u16) -> Option<(usize, usize)> {
        let shape = self.f.shape(x);
        let axis = (number as usize).checked_rem(shape.len())?;
        Some((axis, shape[axis]))
    }

    fn window(&mut self, x: ValueId, choice: Choice) -> Option<ValueId> {
        let (axis, size) = self.axis(x, choice[2])?;
        let number = choice[3] as usize / 3;
        match choice[3] % 3 {
            0 => {
                let start = number % size;
                let len = 1 + number / size % (size - start);
                // All of it is the value itself.
                (len < size).then(|| self.f.slice("slice", x, axis, start, len))
            }
            1 => Some(self.f.index("index", x, axis, number % size)),
            _ => {
                let (lo, hi) = (number % 3, number / 3 % 3);
                let grown = self.f.ty(x).elements() / size * (size + lo + hi);
                (grown <= MOST_ELEMENTS).then(|| self.f.pad("padded", x, axis, lo, hi))
            }
        }
    }

    fn concat(&mut self, x: ValueId, choice: Choice) -> Option<ValueId> {
        let (axis, _) = self.axis(x, choice[2])?;
        let shape = self.shape(x);
        let fits = |other: &[usize]| {
            other.len() == shape.len()
                && (0..shape.len()).all(|a| a == axis || other[a] == shape[a])
        };
        let partners: Vec<ValueId> =
            self.pool.iter().copied().filter(|v| fits(&self.f.shape(*v))).collect();
        let other = partners[choice[3] as usize % partners.len()];
        let all = self.f.ty(x).elements() + self.f.ty(other).elements();
        (all <= MOST_ELEMENTS).then(|| self.f.concat("joined", &[x, other], axis))
    }

    fn reduce(&mut self, x: ValueId, choice: Choice) -> Option<ValueId> {
        let rank = self.f.ty(x).rank();
        let axes: Vec<usize> = (0..rank).filter(|axis| choice[2] >> axis & 1 == 1).collect();
        let f = [ReduceFn::Mean, ReduceFn::Max, ReduceFn::Sum][choice[3] as usize % 3];
        let count: usize = axes.iter().map(|axis| self.f.shape(x)[*axis]).product();
        if axes.is_empty() || (f == ReduceFn::Sum && count > 16) {
            return None;
        }
        Some(self.f.reduce("reduced", f, x, &axes, choice[3].is_multiple_of(2)))
    }

    /// Axes of 1 repeated, or every axis enlarged.
    fn spread(&mut self, x: ValueId, choice: Choice) -> Option<ValueId> {
        let (axis, size) = self.axis(x, choice[2])?;
        let factor = 2 + choice[3] as usize % 2;
        if self.f.ty(x).elements() * factor > MOST_ELEMENTS {
            return None;
        }
        let mut shape = self.shape(x);
        Some(if size == 1 {
            shape[axis] = factor;
            self.f.broadcast("repeated", x, shape)
        } else {
            let mut factors = Axes::from_elem(1, shape.len());
            factors[axis] = factor;
            self.f.op("enlarged", Op::Upsample { factors }, &[x], None)
        })
    }

    fn patches(&mut self, x: ValueId, choice: Choice) -> Option<ValueId> {
        let shape = self.shape(x);
        if shape.len() != 4 {
            return None;
        }
        let patch = [0, 1, 2].map(|axis| {
            let divides = shape[axis + 1].is_multiple_of(2) && choice[2] >> axis & 1 == 1;
            1 + usize::from(divides)
        });
        let tokens = self.f.op("tokens", Op::Patchify { patch }, &[x], None);
        if choice[3].is_multiple_of(2) {
            return Some(tokens);
        }
        let grid = [0, 1, 2].map(|axis| shape[axis + 1] / patch[axis]);
        Some(self.f.op("planes", Op::Unpatchify { patch, grid }, &[tokens], None))
    }

    fn dot(&mut self, x: ValueId, choice: Choice) -> Option<ValueId> {
        let ty = self.f.ty(x).clone();
        if ty.rank() < 2 || ty.elements() / ty.last() * ty.shape[ty.rank() - 2] > MOST_ELEMENTS {
            return None;
        }
        let other = if choice[2].is_multiple_of(2) { x } else { self.elementwise(x, choice) };
        let product = self.f.op("dot", Op::Dot { transposed: [false; 2] }, &[x, other], None);
        let scale = self.f.scalar("scale", DType::F32, 1.0 / ty.last() as f64);
        Some(self.f.mul("scaled", product, scale))
    }

    fn select(&mut self, x: ValueId, choice: Choice) -> Option<ValueId> {
        let (axis, size) = self.axis(x, choice[2])?;
        let shape = self.f.shape(x);
        let counted = self.f.iota("counted", axis, TensorType::new(DType::I32, shape));
        let limit = self.f.scalar("limit", DType::I32, (choice[3] as usize % (size + 1)) as f64);
        let f = CompareFn::ALL[choice[3] as usize % 5];
        let condition = self.f.compare("condition", f, counted, limit);
        let other = self.elementwise(x, choice);
        Some(self.f.op("chosen", Op::Select, &[condition, x, other], None))
    }

    /// Rows picked from a value or from a table of weights.
    fn rows(&mut self, x: ValueId, choice: Choice) -> Option<ValueId> {
        let table = match choice[2] % 3 {
            0 => self.f.weight(&format!("table.n{}", SIZES[choice[3] as usize % SIZES.len()])),
            _ => x,
        };
        let ty = self.f.ty(table).clone();
        let rows = *ty.shape.first()?;
        let picked: Vec<f64> =
            (0..5).map(|i| (choice[3] as usize * 7 + i * i * 3) % rows).map(|i| i as f64).collect();
        if ty.elements() / rows * 5 > MOST_ELEMENTS {
            return None;
        }
        let rows = self.f.literal("picks", &picked, TensorType::new(DType::I32, [5]));
        Some(self.f.op("picked", Op::Gather, &[table, rows], None))
    }

    /// A stretch in bf16, as the model has it between its norms and its residual stream.
    fn half(&mut self, x: ValueId, choice: Choice) -> Option<ValueId> {
        let width = self.width(x)?;
        let x = self.as_rows(x, true)?;
        let ty = self.f.ty(x).clone();
        if ty.rank() < 2 || ty.shape[ty.rank() - 2] > 40 {
            return None;
        }
        let narrow = self.f.cast("narrow", x, DType::Bf16);
        let y = match choice[2] % 4 {
            0 => {
                let n = SIZES[choice[3] as usize % SIZES.len()];
                let bias = format!("b.n{n}");
                let w = format!("half.k{width}.n{n}");
                let y = self.f.linear("linear", narrow, &w, Some(&bias), DType::Bf16);
                self.f.op("gelu", Op::Gelu, &[y], None)
            }
            1 => {
                let gain = self.f.weight(&format!("b.n{width}"));
                self.f.op("norm", Op::RmsNorm { eps: 0.05, clamp: false }, &[narrow, gain], None)
            }
            2 => {
                let lse = choice[3].is_multiple_of(2);
                let op = Op::Attention {
                    heads: 1,
                    scale: 1.0 / (width as f64).sqrt(),
                    lse,
                    last: if lse { 4 } else { 1 },
                };
                let made = self.f.op_of("attention", op, &[narrow, narrow, narrow], &[]);
                self.pool.extend(&made[1..]);
                made[0]
            }
            _ => {
                let w = format!("half.k{width}.n{width}");
                return Some(self.f.linear("linear", narrow, &w, None, DType::F32));
            }
        };
        Some(self.f.cast("wide", y, DType::F32))
    }

    fn timesteps(&mut self, choice: Choice) -> Option<ValueId> {
        let steps = [f64::from(choice[2] % 1000), f64::from(choice[3] % 7) + 0.5];
        let steps = self.f.literal("steps", &steps, TensorType::new(DType::F32, [2]));
        let dim = [2, 8, 16][choice[1] as usize % 3];
        Some(self.f.op("sinusoid", Op::TimestepEmbedding { dim }, &[steps], None))
    }

    fn constant(&mut self, choice: Choice) -> Option<ValueId> {
        let size = SIZES[choice[2] as usize % SIZES.len()];
        let ty = TensorType::new(DType::F32, [2, size]);
        if choice[3].is_multiple_of(2) {
            let number = f64::from(choice[3] % 64) / 32.0 - 1.0;
            return Some(self.f.constant("constant", number, ty));
        }
        let counted = self.f.iota("counted", 1, ty);
        let last = self.f.scalar("last", DType::F32, f64::from(BLOCKS) * size as f64);
        Some(self.f.binary("fraction", BinaryFn::Div, counted, last))
    }
}
