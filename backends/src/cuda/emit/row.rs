//! Row kernels: straight-line programs over the columns of a row.
//!
//! Without reductions every thread computes one piece of a row. With them a row belongs to a group of
//! lanes or to a block, and the program is cut at its reductions into loops over the row. What a
//! later loop needs is held in registers if there is room; otherwise it is loaded and computed again.
//! Results are stored in the last loop, by the thread that has read the elements they may lie over. The
//! same code serves f32 and the scalar form, whose registers are doubles.

use super::writer::{Writer, element, literal};
use super::{Emitted, PIECE, Place};
use crate::row_passes::{RowPasses, laid_apart, table_rows};
use anyid_ir::kernel::{Columns, Instruction, RowFn, RowKernel, RowMap, RowReduce};
use anyid_ir::{BinaryFn, CompareFn, DType, UnaryFn};

/// Columns up to which a row belongs to a part of a warp.
const WARP_COLUMNS: usize = 1024;
/// Threads of a block for wider rows; `sum_of_block` is written for as many.
const BLOCK: usize = 256;
/// Threads of a block of several rows.
const SMALL_BLOCK: usize = 128;
/// Registers of a thread that hold parts of rows.
const HELD: usize = 64;

/// Which threads compute a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Share {
    /// One for every piece.
    Each,
    /// So many lanes of a warp.
    Lanes(usize),
    /// A block.
    Block,
}

/// How columns are gone through.
struct Shape {
    share: Share,
    /// Elements of a piece.
    piece: usize,
    /// Pieces of a thread, where all of a row's are held at once.
    chunks: Option<usize>,
}

/// A row kernel that is being written.
struct Rows<'k> {
    kernel: &'k RowKernel,
    operands: &'k [Place],
    results: &'k [Place],
    passes: RowPasses<'k>,
    shape: Shape,
    /// Registers that are kept from one loop to the next.
    held: Vec<bool>,
    out: Writer,
}

/// The source of a row kernel.
pub(super) fn emit(kernel: &RowKernel, operands: &[Place], results: &[Place]) -> Emitted {
    let passes = RowPasses::new(kernel);
    let reduces = kernel.code.iter().any(|i| matches!(i, Instruction::Reduce(..)));
    let piece = piece(kernel, operands, results);
    let share = match kernel.width {
        _ if !reduces => Share::Each,
        width if width <= WARP_COLUMNS => {
            Share::Lanes(width.div_ceil(piece).next_power_of_two().min(32))
        }
        _ => Share::Block,
    };
    let lanes = share.lanes();
    let chunks = reduces.then(|| kernel.width.div_ceil(lanes * piece));
    let form = if kernel.arithmetic == DType::F32 { "" } else { ", scalar form" };
    let name = &kernel.name;
    let comment = format!("{name}: rows of {}{form}; {}", kernel.width, share.words());
    let shape = Shape { share, piece, chunks };
    let held = vec![false; kernel.code.len()];
    let out = Writer::new(comment, operands, results);
    let mut rows = Rows { kernel, operands, results, passes, shape, held, out };
    rows.hold();
    rows.write();
    let blocks = match share {
        Share::Each => (kernel.rows * (kernel.width / piece)).div_ceil(BLOCK),
        Share::Lanes(lanes) => kernel.rows.div_ceil(SMALL_BLOCK / lanes),
        Share::Block => kernel.rows,
    };
    rows.out.finish(name, [blocks, 1, 1], share.threads())
}

impl Share {
    fn lanes(self) -> usize {
        match self {
            Self::Each => 1,
            Self::Lanes(lanes) => lanes,
            Self::Block => BLOCK,
        }
    }

    fn threads(self) -> usize {
        if matches!(self, Self::Lanes(_)) { SMALL_BLOCK } else { BLOCK }
    }

    fn words(self) -> String {
        match self {
            Self::Each => "a thread for every piece".to_owned(),
            Self::Lanes(1) => "a thread for every row".to_owned(),
            Self::Lanes(lanes) => format!("{lanes} lanes for every row"),
            Self::Block => "a block for every row".to_owned(),
        }
    }
}

/// Elements of a piece: as many as are read at once of the widest type, if any operand or result can be
/// read so.
fn piece(kernel: &RowKernel, operands: &[Place], results: &[Place]) -> usize {
    let turns = kernel.code.iter().any(|i| matches!(i, Instruction::Rotate(..)));
    let whole: Vec<&Place> = kernel
        .code
        .iter()
        .filter_map(|instruction| match instruction {
            Instruction::Load(access) if access.columns == Columns::All => {
                Some(&operands[access.operand])
            }
            Instruction::Store { result, .. } => Some(&results[*result]),
            _ => None,
        })
        .collect();
    let widest = whole.iter().map(|place| place.ty.dtype.bytes()).max().unwrap_or(1).max(2);
    let fits = |count: usize| {
        kernel.width.is_multiple_of(count) && whole.iter().any(|place| place.takes(count))
    };
    let found = [8, 4, 2].into_iter().find(|count| count * widest <= PIECE && fits(*count));
    found.unwrap_or(if turns { 2 } else { 1 })
}

impl Rows<'_> {
    fn single(&self) -> bool {
        self.kernel.arithmetic == DType::F32
    }

    fn number(&self) -> &'static str {
        if self.single() { "float" } else { "double" }
    }

    /// Decides which registers are held from loop to loop.
    fn hold(&mut self) {
        let Some(chunks) = self.shape.chunks else { return };
        let mut made = vec![false; self.held.len()];
        let mut held = vec![false; self.held.len()];
        for at in 0..self.passes.count() {
            let slice = self.passes.slice(at, &mut |register| {
                held[register] |= made[register];
                made[register]
            });
            made.iter_mut().zip(slice).for_each(|(made, new)| *made |= new);
        }
        let registers = held.iter().filter(|held| **held).count() * chunks * self.shape.piece;
        if registers <= HELD {
            self.held = held;
        } else {
            self.shape.chunks = None;
        }
    }

    fn write(&mut self) {
        self.out.size("rows", self.kernel.rows);
        let mut columns = String::new();
        let (width, piece) = (self.kernel.width, self.shape.piece);
        match self.shape.share {
            Share::Each => {
                let pieces = width / piece;
                self.out.line("const Size at = Size(blockIdx.x) * 256 + threadIdx.x;");
                self.out.line(format!("if (at >= rows * {pieces}) return;"));
                self.out.line(format!("const Size i = at / {pieces};"));
                columns = format!("const Size j = at % {pieces} * {piece};");
            }
            Share::Lanes(lanes) => {
                let rows = SMALL_BLOCK / lanes;
                self.out.line(format!("const int lane = threadIdx.x % {lanes};"));
                self.out.line(format!(
                    "const Size row = Size(blockIdx.x) * {rows} + threadIdx.x / {lanes};"
                ));
                self.out.line("const bool live = row < rows;");
                self.out.line("const Size i = live ? row : 0;");
            }
            Share::Block => {
                self.out.line("const int lane = threadIdx.x;");
                self.out.line("const Size i = blockIdx.x;");
            }
        }
        self.bases();
        if !columns.is_empty() {
            self.out.line(columns);
        }
        let held: Vec<usize> = (0..self.held.len()).filter(|at| self.held[*at]).collect();
        for at in held {
            let chunks = self.shape.chunks.expect("held in chunks");
            let each = if piece > 1 { format!("[{piece}]") } else { String::new() };
            self.out.line(format!("{} v{at}[{chunks}]{each};", self.number()));
        }
        let mut made = vec![false; self.held.len()];
        for at in 0..self.passes.count() {
            self.scalars_of(at);
            self.one_loop(at, &mut made);
        }
    }

    /// The row of every load.
    fn bases(&mut self) {
        let kernel = self.kernel;
        for (at, instruction) in kernel.code.iter().enumerate() {
            let Instruction::Load(access) = instruction else { continue };
            let place = &self.operands[access.operand];
            let (offset, stride) = laid_apart(access, place.columns);
            let row = match access.rows {
                RowMap::Fixed => String::new(),
                RowMap::Affine { divisor: 1, modulus: usize::MAX } => "i".to_owned(),
                RowMap::Affine { divisor, modulus: usize::MAX } => format!("i / {divisor}"),
                RowMap::Affine { divisor: 1, modulus } => format!("i % {modulus}"),
                RowMap::Affine { divisor, modulus } => format!("i / {divisor} % {modulus}"),
                RowMap::Segment(segments) => {
                    let rows = table_rows(access, kernel.width, place.ty.elements());
                    let fault = self.out.table(rows);
                    self.out.line(format!(
                        "const Size s{at} = picked(a{segments}[i], {rows}, {fault}, i);"
                    ));
                    format!("s{at}")
                }
            };
            let mut base = format!("a{}", access.operand);
            if offset > 0 {
                base += &format!(" + {offset}");
            }
            if !row.is_empty() && stride > 0 {
                base += &format!(" + {row} * {stride}");
            }
            self.out.line(format!("const auto p{at} = {base};"));
        }
    }

    /// Scalars that are known before loop `at` and were not before the last.
    fn scalars_of(&mut self, at: usize) {
        for (own, instruction) in self.kernel.code.iter().enumerate() {
            if !self.passes.scalars[own] || self.passes.levels[own] != at {
                continue;
            }
            let value = match instruction {
                Instruction::Load(_) => format!("get<{}>(p{own}[0])", self.number()),
                Instruction::Store { .. } => continue,
                Instruction::Reduce(how, _) => self.reduced(own, *how),
                other => self.function(other, ""),
            };
            self.out.line(format!("const {} v{own} = {value};", self.number()));
        }
    }

    /// What a reduction makes of every thread's part of it.
    fn reduced(&mut self, own: usize, how: RowReduce) -> String {
        let (number, width) = (self.number(), self.kernel.width);
        let what = if how == RowReduce::Max { "largest" } else { "sum" };
        let all = match self.shape.share {
            Share::Block => {
                self.out.line(format!("SHARED({number}, parts{own}, 8);"));
                format!("{what}_of_block(r{own}, parts{own})")
            }
            share => format!("{what}_of_lanes<{}>(r{own})", share.lanes()),
        };
        match how {
            RowReduce::Sum | RowReduce::SumSquares => all,
            // A largest element of 0 is +0.
            RowReduce::Max => format!("{all} + {}", literal(0.0, self.single())),
            RowReduce::Mean | RowReduce::MeanSquares => format!("{all} / {number}({width})"),
        }
    }

    /// A loop over the row: its vectors, its part of the reductions, in the last the stores.
    fn one_loop(&mut self, at: usize, made: &mut [bool]) {
        let last = at + 1 == self.passes.count();
        let (width, piece) = (self.kernel.width, self.shape.piece);
        let keeps = self.shape.chunks.is_some();
        let slice = self.passes.slice(at, &mut |register| keeps && made[register]);
        let reduction = |own: usize| match self.kernel.code[own] {
            Instruction::Reduce(how, _) => (own, how),
            _ => unreachable!("listed as one"),
        };
        let starts: Vec<(usize, RowReduce)> =
            self.passes.reductions(at).into_iter().map(reduction).collect();
        for (own, how) in &starts {
            let first = if *how == RowReduce::Max { f32::NEG_INFINITY } else { 0.0 };
            self.out.line(format!("{} r{own} = {};", self.number(), literal(first, self.single())));
        }
        if last {
            self.narrow_stores();
        }
        if starts.is_empty() && !(last && self.stores_vectors()) {
            return;
        }
        let lanes = self.shape.share.lanes();
        let mut open = 0;
        if let Some(chunks) = self.shape.chunks {
            self.out.line(format!("UNROLL for (int c = 0; c < {chunks}; ++c) {{"));
            self.out.line(format!("const int j = (c * {lanes} + lane) * {piece};"));
            open += 1;
            if !width.is_multiple_of(lanes * piece) {
                self.out.line(format!("if (j < {width}) {{"));
                open += 1;
            }
        } else if self.shape.share != Share::Each {
            self.out.line(format!(
                "for (Size j = lane * {piece}; j < {width}; j += {}) {{",
                lanes * piece
            ));
            open += 1;
        }
        for own in 0..slice.len() {
            if slice[own] {
                self.vector(own);
                made[own] = true;
            }
        }
        for (own, how) in starts {
            let Instruction::Reduce(_, x) = self.kernel.code[own] else {
                unreachable!("found as one")
            };
            let value = self.register(usize::from(x), "[e]");
            let joined = match how {
                RowReduce::Sum | RowReduce::Mean => format!("r{own} += {value};"),
                RowReduce::SumSquares | RowReduce::MeanSquares => {
                    format!("r{own} += {value} * {value};")
                }
                RowReduce::Max => format!("r{own} = larger({value}, r{own});"),
            };
            self.each(&joined);
        }
        if last {
            self.wide_stores();
        }
        (0..open).for_each(|_| self.out.line("}"));
    }

    /// A line for every element of a piece.
    fn each(&mut self, line: &str) {
        match self.shape.piece {
            1 => self.out.line(line.replace("[e]", "")),
            piece => self.out.line(format!("UNROLL for (int e = 0; e < {piece}; ++e) {line}")),
        }
    }

    /// Register `own` as an expression; `each` says which element of a piece.
    fn register(&self, own: usize, each: &str) -> String {
        match (self.passes.scalars[own], self.held[own]) {
            (true, _) => format!("v{own}"),
            (false, true) => format!("v{own}[c]{each}"),
            (false, false) => format!("v{own}{each}"),
        }
    }

    /// Makes the piece of a vector register.
    fn vector(&mut self, own: usize) {
        let (number, piece) = (self.number(), self.shape.piece);
        let instruction = self.kernel.code[own];
        let to = self.register(own, "[e]");
        let whole = self.register(own, "");
        if !self.held[own] && piece > 1 {
            self.out.line(format!("{number} v{own}[{piece}];"));
        }
        // One line declares what is a single number.
        let to = match (self.held[own], piece) {
            (false, 1) => format!("const {number} {whole}"),
            _ => to,
        };
        match instruction {
            Instruction::Load(access) => {
                let place = &self.operands[access.operand];
                let (offset, stride) = laid_apart(&access, place.columns);
                let aligned = place.takes(piece)
                    && offset.is_multiple_of(piece)
                    && (stride.is_multiple_of(piece) || access.rows == RowMap::Fixed);
                let column = match access.columns {
                    Columns::Every(period) if period < self.kernel.width => {
                        format!("j % {period}")
                    }
                    _ => "j".to_owned(),
                };
                let runs = match access.columns {
                    Columns::All => true,
                    Columns::Every(period) => period.is_multiple_of(piece),
                    Columns::One | Columns::Step(_) => false,
                };
                if piece > 1 && aligned && runs {
                    self.out.line(format!("load_wide({whole}, p{own} + {column});"));
                    return;
                }
                let at = match access.columns {
                    Columns::Every(period) if period < self.kernel.width => {
                        format!("(j + e) % {period}")
                    }
                    Columns::Step(step) => format!("(j + e) * {step}"),
                    Columns::All | Columns::One | Columns::Every(_) => "j + e".to_owned(),
                };
                let at = if piece == 1 { at.replace(" + e", "") } else { at };
                self.each(&format!("{to} = get<{number}>(p{own}[{at}]);"));
            }
            Instruction::Rotate(x, angles) => {
                let [x, t] = [x, angles].map(|r| self.register(usize::from(r), "@"));
                let [a, b] = ["[e]", "[e + 1]"].map(|at| x.replace('@', at));
                let [c, s] = ["[e]", "[e + 1]"].map(|at| t.replace('@', at));
                self.out.line(format!("UNROLL for (int e = 0; e < {piece}; e += 2) {{"));
                self.out.line(format!("{whole}[e] = {a} * {c} - {b} * {s};"));
                self.out.line(format!("{whole}[e + 1] = {a} * {s} + {b} * {c};"));
                self.out.line("}");
            }
            other => {
                let value = self.function(&other, "[e]");
                self.each(&format!("{to} = {value};"));
            }
        }
    }

    /// What an instruction makes of registers, as an expression.
    fn function(&self, instruction: &Instruction, each: &str) -> String {
        let r = |register: &u16| self.register(usize::from(*register), each);
        let single = self.single();
        match instruction {
            Instruction::Const(value) => literal(*value, single),
            Instruction::Unary(RowFn::Primitive(f), x) => unary(*f, &r(x), single),
            Instruction::Unary(RowFn::Gelu, x) => format!("gelu({})", r(x)),
            Instruction::Unary(RowFn::Silu, x) => format!("silu({})", r(x)),
            Instruction::Binary(f, a, b) => {
                binary(*f, &r(a), &r(b), self.kernel.arithmetic == DType::I32)
            }
            Instruction::Fma(a, b, c) => format!("fmaf({}, {}, {})", r(a), r(b), r(c)),
            Instruction::Compare(f, a, b) => {
                let sign = match f {
                    CompareFn::Eq => "==",
                    CompareFn::Lt => "<",
                    CompareFn::Le => "<=",
                    CompareFn::Gt => ">",
                    CompareFn::Ge => ">=",
                };
                let [yes, no] = [1.0, 0.0].map(|v| literal(v, single));
                format!("{} {sign} {} ? {yes} : {no}", r(a), r(b))
            }
            Instruction::Select(c, a, b) => {
                format!("{} != {} ? {} : {}", r(c), literal(0.0, single), r(a), r(b))
            }
            Instruction::Round(dtype, x) => format!("through<{}>({})", element(*dtype), r(x)),
            Instruction::Load(_)
            | Instruction::Reduce(..)
            | Instruction::Rotate(..)
            | Instruction::Store { .. } => unreachable!("it is no function of single elements"),
        }
    }

    fn stores_vectors(&self) -> bool {
        (0..self.results.len()).any(|result| !self.passes.is_narrow(result))
    }

    /// Stores of one element a row.
    fn narrow_stores(&mut self) {
        let one = match self.shape.share {
            Share::Each => "j == 0",
            Share::Lanes(_) => "live && lane == 0",
            Share::Block => "lane == 0",
        };
        for (result, value) in self.passes.stores() {
            if self.passes.is_narrow(result) {
                let ty = element(self.results[result].ty.dtype);
                self.out.line(format!("if ({one}) y{result}[i] = put<{ty}>(v{value});"));
            }
        }
    }

    /// Stores of a piece of a row.
    fn wide_stores(&mut self) {
        let (width, piece) = (self.kernel.width, self.shape.piece);
        let live = matches!(self.shape.share, Share::Lanes(_));
        let stores: Vec<_> = self
            .passes
            .stores()
            .into_iter()
            .filter(|(result, _)| !self.passes.is_narrow(*result))
            .collect();
        if live {
            self.out.line("if (live) {");
        }
        for (result, value) in stores {
            let place = &self.results[result];
            let (ty, stride) = (element(place.ty.dtype), place.stride(width));
            let aligned = place.takes(piece) && stride.is_multiple_of(piece);
            if piece > 1 && aligned && !self.passes.scalars[value] {
                let value = self.register(value, "");
                self.out.line(format!("store_wide(y{result} + i * {stride} + j, {value});"));
            } else {
                let value = self.register(value, "[e]");
                let at = if piece == 1 { "" } else { " + e" };
                self.each(&format!("y{result}[i * {stride} + j{at}] = put<{ty}>({value});"));
            }
        }
        if live {
            self.out.line("}");
        }
    }
}

fn unary(f: UnaryFn, x: &str, single: bool) -> String {
    let f32s = if single { "f" } else { "" };
    let one = literal(1.0, single);
    match f {
        UnaryFn::Neg => format!("-{x}"),
        UnaryFn::Abs => format!("fabs{f32s}({x})"),
        UnaryFn::Exp => format!("exp{f32s}({x})"),
        UnaryFn::Log => format!("log{f32s}({x})"),
        UnaryFn::Sqrt => format!("sqrt{f32s}({x})"),
        UnaryFn::Rsqrt => format!("{one} / sqrt{f32s}({x})"),
        UnaryFn::Recip => format!("{one} / {x}"),
        UnaryFn::Tanh => format!("tanh{f32s}({x})"),
        UnaryFn::Sin => format!("sin{f32s}({x})"),
        UnaryFn::Cos => format!("cos{f32s}({x})"),
        UnaryFn::Floor => format!("floor{f32s}({x})"),
        UnaryFn::Erf => format!("erf{f32s}({x})"),
    }
}

fn binary(f: BinaryFn, a: &str, b: &str, whole: bool) -> String {
    match f {
        BinaryFn::Add => format!("{a} + {b}"),
        BinaryFn::Sub => format!("{a} - {b}"),
        BinaryFn::Mul => format!("{a} * {b}"),
        BinaryFn::Div if whole => format!("quotient({a}, {b})"),
        BinaryFn::Div => format!("{a} / {b}"),
        BinaryFn::Max => format!("larger({a}, {b})"),
        BinaryFn::Min => format!("smaller({a}, {b})"),
    }
}
