//! Random well-typed modules in the patterns of the model: a function with weights by index, a main
//! function that calls it alone and in a loop, at most 25 nodes of choice, sizes from
//! {1, 2, 3, 7, 8, 16}.
//!
//! A graph is read off a list of numbers, so that a property test can shrink it by shortening the
//! list. Every list gives a module that the verifier accepts. Values stay of moderate size and
//! patterns that blow rounding up (norms of equal elements, comparisons of computed numbers) are
//! left out, so that two ways to run a module may be compared by their results.

mod patterns;

use crate::op_cases::{noise, seed_of};
use crate::plans::{Named, Stored};
use anyid_ir::manifest::join_path;
use anyid_ir::{DType, FuncBuilder, IndexArg, Manifest, Module, Op, TensorType, ValueId};

/// Sizes of axes.
pub const SIZES: [usize; 6] = [1, 2, 3, 7, 8, 16];
/// Blocks with weights of their own.
const BLOCKS: u32 = 4;
/// Largest value a pattern makes.
const MOST_ELEMENTS: usize = 4096;

/// One node of choice: which pattern, on what, how.
pub type Choice = [u16; 4];

/// The numbers a graph is read off.
#[derive(Clone, Debug)]
pub struct Recipe {
    /// Sizes of the parameters.
    pub sizes: [u8; 4],
    /// Nodes of the called function.
    pub inner: Vec<Choice>,
    /// Nodes of the main function.
    pub outer: Vec<Choice>,
}

/// A random module and what to run its function `main` on.
pub struct Graph {
    /// The module.
    pub module: Module,
    /// Parameters by name.
    pub inputs: Named,
    /// Weights.
    pub weights: Stored,
}

/// The module of `recipe`.
pub fn graph(recipe: &Recipe) -> Graph {
    let size = |at: usize| SIZES[recipe.sizes[at] as usize % SIZES.len()];
    let rows = TensorType::new(DType::F32, [size(0), size(1)]);
    let mut module = Module { name: "random".into(), weights: everything(), ..Module::default() };

    let mut f = FuncBuilder::new(&module, "block").indexed(&["l"], "blocks.{l}");
    let x = f.param("x", rows.clone());
    let y = f.param("y", TensorType::new(DType::F32, [size(1)]));
    let mut maker = Maker { f, pool: vec![x, y], blocks: None };
    maker.grow(&recipe.inner);
    let next = maker.latest(&rows);
    let other = *maker.pool.last().expect("the pool begins with the parameters");
    let block = maker.f.finish(&[next, other]);
    module.add(block);

    let mut f = FuncBuilder::new(&module, "main");
    let x = f.param("x", rows.clone());
    let y = f.param("y", TensorType::new(DType::F32, [size(1)]));
    let z = f.param("z", TensorType::new(DType::F32, [size(2), size(0), size(3), size(1)]));
    let mut stack = rows.clone();
    stack.shape.insert(0, 3);
    let s = f.param("s", stack);
    let blocks = Some(Blocks { rows, y, stack: s });
    let mut maker = Maker { f, pool: vec![x, y, z], blocks };
    maker.grow(&recipe.outer);
    let mut results: Vec<ValueId> = maker.pool.iter().rev().take(3).copied().collect();
    results.dedup();
    let main = maker.f.finish(&results);
    module.add(main);

    module.weights = used(&module);
    let mut weights = Stored::default();
    for (name, ty) in module.weights.tensors() {
        // Sums of many products stay near one.
        let terms: usize = ty.shape.iter().skip(1).product();
        let values = noise(ty.clone(), seed_of(name)).to_f64_vec();
        let scale = (1.5 / terms.max(1) as f64).sqrt();
        let values: Vec<f64> = values.iter().map(|v| v * scale).collect();
        let tensor = anyid_ir::Tensor::from_f64s(ty.clone(), &values);
        weights.insert(name, tensor.expect("one value an element"));
    }
    let main = module.main().expect("there are two functions");
    let inputs = main
        .param_types()
        .map(|(name, ty)| (name.to_owned(), noise(ty.clone(), seed_of(name))))
        .collect();
    Graph { module, inputs, weights }
}

/// What a main function needs to call the block.
#[derive(Clone)]
struct Blocks {
    rows: TensorType,
    y: ValueId,
    stack: ValueId,
}

/// A function under construction and the f32 values made so far.
struct Maker<'m> {
    f: FuncBuilder<'m>,
    pool: Vec<ValueId>,
    /// Set in the main function.
    blocks: Option<Blocks>,
}

impl Maker<'_> {
    fn grow(&mut self, choices: &[Choice]) {
        for choice in choices {
            let made = self.pattern(*choice);
            debug_assert_eq!(self.f.ty(made).dtype, DType::F32);
            self.pool.push(made);
        }
    }

    /// The newest value of type `ty`; the parameter at worst.
    fn latest(&self, ty: &TensorType) -> ValueId {
        let found = self.pool.iter().rev().find(|value| self.f.ty(**value) == ty);
        *found.expect("a parameter has the type")
    }

    /// A call of the block, or a loop over calls of it.
    fn blocks(&mut self, choice: Choice) -> Option<ValueId> {
        let Blocks { rows, y, stack } = self.blocks.clone()?;
        let x = self.latest(&rows);
        let lo = u32::from(choice[2]) % BLOCKS;
        if choice[1].is_multiple_of(3) {
            let results = self.f.call("called", "block", &[IndexArg::Int(lo)], &[x, y]);
            self.pool.push(results[1]);
            return Some(results[0]);
        }
        // As many iterations as the stack has slots, or fewer without the stack.
        let stacked = choice[1].is_multiple_of(2);
        let (lo, hi) = if stacked { (lo % 2, lo % 2 + 3) } else { (lo, BLOCKS) };
        let stacks = [("slot", stack)];
        let stacks = if stacked { &stacks[..] } else { &[] };
        let second = x;
        let results =
            self.f.repeat("loop", "l", lo..hi, &[("a", x), ("b", second)], stacks, |f, c, s| {
                let index = [IndexArg::Name("l".into())];
                let called = f.call("called", "block", &index, &[c[0], y]);
                let mixed = f.add("mixed", called[0], c[1]);
                let bias = f.weight(&format!("blocks.{{l}}.b.n{}", rows.shape[1]));
                let mixed = f.add("biased", mixed, bias);
                let mixed = f.unary("bounded", anyid_ir::UnaryFn::Tanh, mixed);
                let next = match s {
                    [slot] => f.add("next", mixed, *slot),
                    _ => mixed,
                };
                let first = f.op("collected", Op::Silu, &[c[1]], None);
                (vec![next, c[0]], vec![first, called[1]])
            });
        self.pool.extend(&results[1..]);
        Some(results[0])
    }
}

/// Every weight a pattern may ask for, once alone and once a block.
fn everything() -> Manifest {
    let mut manifest = Manifest::new("random");
    for prefix in ["", "blocks.{l:0..4}."] {
        let mut add = |name: String, dtype: DType, shape: &[usize]| {
            let ty = TensorType::new(dtype, shape.iter().copied());
            manifest.add(&format!("{prefix}{name}"), ty).expect("names differ");
        };
        for n in SIZES {
            add(format!("b.n{n}"), DType::F32, &[n]);
            add(format!("table.n{n}"), DType::F32, &[16, n]);
            for k in SIZES {
                add(format!("w.k{k}.n{n}"), DType::F32, &[n, k]);
                add(format!("half.k{k}.n{n}"), DType::Bf16, &[n, k]);
                for (kind, taps) in KERNELS {
                    let shape: Vec<usize> =
                        [n, k].into_iter().chain(taps.iter().copied()).collect();
                    add(format!("{kind}.k{k}.n{n}"), DType::F32, &shape);
                }
            }
        }
    }
    manifest
}

/// Kinds of convolution by name and kernel.
const KERNELS: [(&str, &[usize]); 4] =
    [("full", &[3, 3, 3]), ("plane", &[3, 3]), ("time", &[3, 1, 1]), ("point", &[1, 1, 1])];

/// The entries of the manifest that the functions name.
fn used(module: &Module) -> Manifest {
    let mut paths = Vec::new();
    for func in &module.funcs {
        for node in func.walk() {
            if let Op::Weight { path } = &func.nodes[node].op {
                paths.push(join_path(&func.scope, path));
            }
        }
    }
    let mut kept = Manifest::new("random");
    for entry in module.weights.entries() {
        let mut alone = Manifest::new("alone");
        alone.add(&entry.template, entry.ty.clone()).expect("it was taken before");
        if paths.iter().any(|path| alone.resolve(path).is_some()) {
            kept.add(&entry.template, entry.ty.clone()).expect("it was taken before");
        }
    }
    kept
}
