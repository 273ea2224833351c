//! Machine code against the interpreter, bit for bit.

use super::super::{Bound, Codes, Layout, Prepared};
use crate::buffer::AlignedBytes;
use crate::cpu::simd::Level;
use crate::cpu::threads::Pool;
use crate::element;
use anyid_ir::kernel::{
    Access, Columns, Instruction, Kernel, RowFn, RowKernel, RowMap, RowReduce, text::print,
};
use anyid_ir::op::{BinaryFn, CompareFn, UnaryFn};
use anyid_ir::{DType, TensorType};

/// Numbers that look random.
struct Draws(u64);

impl Draws {
    fn below(&mut self, most: usize) -> usize {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((self.0 >> 33) as usize) % most
    }

    fn of<T: Copy>(&mut self, list: &[T]) -> T {
        list[self.below(list.len())]
    }
}

const TYPES: [DType; 4] = [DType::F32, DType::Bf16, DType::F16, DType::Bool];

/// Elements of a type, among them all that is special.
fn elements(draws: &mut Draws, dtype: DType, count: usize) -> AlignedBytes {
    const SPECIAL: [f64; 12] = [
        f64::NAN,
        f64::INFINITY,
        f64::NEG_INFINITY,
        0.0,
        -0.0,
        1e-40,
        -1e-39,
        3e38,
        -120.0,
        88.7,
        1.0,
        65_520.0,
    ];
    let mut out = AlignedBytes::zeroed((count * dtype.bytes()).max(1));
    for at in 0..count {
        let value = match draws.below(24) {
            0 => draws.of(&SPECIAL),
            1 => f64::from(f32::from_bits(draws.below(usize::MAX) as u32)),
            _ => draws.below(1 << 20) as f64 / f64::from(1 << 17) - 4.0,
        };
        element::write(dtype, out.bytes_mut(), at, value);
    }
    out
}

/// A kernel of random shape, loads, instructions and results, and its operands.
fn drawn(draws: &mut Draws) -> (RowKernel, Vec<AlignedBytes>) {
    let rows = 1 + draws.below(70);
    let width = draws.of(&[2, 6, 15, 16, 18, 31, 48, 64, 66, 100, 127, 128, 160, 256, 640, 2500]);
    let mut kernel = RowKernel {
        name: "k".to_owned(),
        rows,
        width,
        arithmetic: DType::F32,
        operands: vec![TensorType::new(DType::I32, [rows])],
        results: Vec::new(),
        code: Vec::new(),
    };
    let mut memory = vec![AlignedBytes::zeroed(4 * rows)];
    for row in 0..rows {
        let index = (draws.below(3) as i32).to_le_bytes();
        memory[0].bytes_mut()[4 * row..4 * row + 4].copy_from_slice(&index);
    }
    for at in 0..1 + draws.below(5) {
        let dtype = draws.of(&TYPES);
        let period = draws.of(&[5, 16, 32, 64, 128]);
        let columns = match draws.below(6) {
            0 => Columns::One,
            1 if at > 0 => Columns::Every(period),
            _ => Columns::All,
        };
        let stride = match columns {
            Columns::All => width + draws.of(&[0, 0, 16, 7]),
            Columns::Every(period) => period,
            _ => 1 + draws.below(3),
        };
        let (map, count) = match draws.below(5) {
            0 => (RowMap::Fixed, 1),
            1 => (RowMap::Segment(0), 3),
            2 => (RowMap::Affine { divisor: 3, modulus: 4 }, 4),
            _ => (RowMap::OWN, rows),
        };
        let offset = draws.of(&[0, 0, 16, 3]);
        let total = offset + count * stride + width;
        kernel.operands.push(TensorType::new(dtype, [total]));
        memory.push(elements(draws, dtype, total));
        let operand = kernel.operands.len() - 1;
        let access = Access { operand, rows: map, columns, offset, stride };
        kernel.code.push(Instruction::Load(access));
    }
    for _ in 0..draws.below(24) {
        let instruction = instruction(draws, &kernel);
        kernel.code.push(instruction);
        if Kernel::Row(whole(draws, kernel.clone())).verify().is_err() {
            kernel.code.pop();
        }
    }
    (whole(draws, kernel), memory)
}

fn instruction(draws: &mut Draws, kernel: &RowKernel) -> Instruction {
    let made = kernel.code.len();
    // Rather what was made last.
    let [a, b, c] = [(); 3].map(|()| match draws.below(3) {
        0 => draws.below(made) as u16,
        _ => (made - 1 - draws.below(made.min(4))) as u16,
    });
    match draws.below(12) {
        0 => Instruction::Const(draws.of(&[0.0, 1.0, -0.5, 1e-6, f32::NAN, 3e38])),
        1 => {
            let f = draws.of(&[
                RowFn::Gelu,
                RowFn::Silu,
                RowFn::Primitive(UnaryFn::Tanh),
                RowFn::Primitive(UnaryFn::Tanh),
            ]);
            Instruction::Unary(f, a)
        }
        2 => {
            let f = draws.of(&[
                UnaryFn::Neg,
                UnaryFn::Abs,
                UnaryFn::Sqrt,
                UnaryFn::Rsqrt,
                UnaryFn::Recip,
            ]);
            // What goes through doubles has no code; a few kernels have such.
            let slow = draws.of(&[UnaryFn::Exp, UnaryFn::Floor]);
            Instruction::Unary(RowFn::Primitive(if draws.below(30) == 0 { slow } else { f }), a)
        }
        3 => Instruction::Fma(a, b, c),
        4 => {
            let all = [CompareFn::Eq, CompareFn::Lt, CompareFn::Le, CompareFn::Gt, CompareFn::Ge];
            Instruction::Compare(draws.of(&all), a, b)
        }
        5 => Instruction::Select(a, b, c),
        6 | 7 => {
            let all = [
                RowReduce::Sum,
                RowReduce::Mean,
                RowReduce::Max,
                RowReduce::SumSquares,
                RowReduce::MeanSquares,
            ];
            Instruction::Reduce(draws.of(&all), a)
        }
        8 => Instruction::Rotate(a, b),
        9 => Instruction::Round(draws.of(&[DType::Bf16, DType::F16]), a),
        _ => {
            let all = [
                BinaryFn::Add,
                BinaryFn::Sub,
                BinaryFn::Mul,
                BinaryFn::Div,
                BinaryFn::Max,
                BinaryFn::Min,
            ];
            Instruction::Binary(draws.of(&all), a, b)
        }
    }
}

/// The kernel with stores of some of its registers.
fn whole(draws: &mut Draws, mut kernel: RowKernel) -> RowKernel {
    let (scalars, made) = (kernel.scalars(), kernel.code.len());
    for result in 0..1 + draws.below(3) {
        let value = if result == 0 { made - 1 } else { draws.below(made) };
        let narrow = scalars[value] && draws.below(2) == 0;
        let elements = kernel.rows * if narrow { 1 } else { kernel.width };
        kernel.results.push(TensorType::new(draws.of(&TYPES), [elements]));
        kernel.code.push(Instruction::Store { result, value: value as u16 });
    }
    kernel
}

fn run(prepared: &Prepared, kernel: &RowKernel, memory: &[AlignedBytes]) -> Vec<AlignedBytes> {
    let pool = Pool::new(2);
    let sizes = kernel.results.iter().map(|ty| ty.bytes() as usize);
    let mut results: Vec<AlignedBytes> = sizes.map(AlignedBytes::zeroed).collect();
    let to: Vec<*mut u8> =
        results.iter_mut().map(|result| result.bytes_mut().as_mut_ptr()).collect();
    let from: Vec<*const u8> = memory.iter().map(|operand| operand.bytes().as_ptr()).collect();
    let mut scratch = vec![0xffu8; prepared.scratch_bytes(pool.threads()) + 64];
    let bound = Bound { operands: &from, results: &to };
    // SAFETY: memory of the kernel's types, apart from each other.
    unsafe { prepared.run(&pool, Level::detect(), &bound, &mut scratch) }.expect("three segments");
    results
}

/// The elements with every NaN the same.
fn values(kernel: &RowKernel, results: &[AlignedBytes]) -> Vec<Vec<u64>> {
    let of = |(ty, bytes): (&TensorType, &AlignedBytes)| {
        let value = |at| element::read(ty.dtype, bytes.bytes(), at);
        let bits = |value: f64| if value.is_nan() { u64::MAX } else { value.to_bits() };
        (0..ty.elements()).map(value).map(bits).collect()
    };
    kernel.results.iter().zip(results).map(of).collect()
}

#[test]
fn random_kernels_have_the_bits_of_the_interpreter() {
    let codes = Codes::new(true, Level::detect());
    let mut compiled = 0;
    const KERNELS: usize = 1500;
    for seed in 0..KERNELS {
        let mut draws = Draws(seed as u64);
        let (kernel, memory) = drawn(&mut draws);
        assert_eq!(Kernel::Row(kernel.clone()).verify(), Ok(()));
        let interpreted = Prepared::new(&kernel, &Layout::default());
        let mut code = interpreted.clone();
        code.compile(&codes);
        compiled += usize::from(code.is_compiled());
        let [want, got] = [&interpreted, &code].map(|way| run(way, &kernel, &memory));
        let [want, got] = [want, got].map(|results| values(&kernel, &results));
        let text = || print(&Kernel::Row(kernel.clone()));
        for (at, (want, got)) in want.iter().zip(&got).enumerate() {
            let differs = want.iter().zip(got).position(|(want, got)| want != got);
            assert_eq!(differs, None, "result {at} of kernel {seed}: {}", text());
        }
    }
    if Level::detect() >= Level::Avx512 {
        assert!(compiled > KERNELS / 2, "{compiled} of {KERNELS} kernels have code");
    }
}

#[test]
fn long_rows_without_reductions_are_several_tasks() {
    let codes = Codes::new(true, Level::detect());
    for width in [16_384, 16_400, 32_768 + 80, 50_001] {
        let access = |operand, columns| {
            Instruction::Load(Access {
                operand,
                rows: RowMap::OWN,
                columns,
                offset: 0,
                stride: width,
            })
        };
        let ty = |dtype| TensorType::new(dtype, [3, width]);
        let kernel = RowKernel {
            name: "k".to_owned(),
            rows: 3,
            width,
            arithmetic: DType::F32,
            operands: vec![ty(DType::F32), ty(DType::Bf16)],
            results: vec![ty(DType::Bf16), TensorType::new(DType::F32, [3])],
            code: vec![
                access(0, Columns::All),
                access(1, Columns::Every(128)),
                access(1, Columns::One),
                Instruction::Fma(0, 1, 2),
                Instruction::Unary(RowFn::Silu, 3),
                Instruction::Store { result: 0, value: 4 },
                Instruction::Store { result: 1, value: 2 },
            ],
        };
        let mut draws = Draws(width as u64);
        let memory = [DType::F32, DType::Bf16].map(|ty| elements(&mut draws, ty, 3 * width));
        let interpreted = Prepared::new(&kernel, &Layout::default());
        let mut code = interpreted.clone();
        code.compile(&codes);
        let has = Level::detect() >= Level::Avx512;
        assert_eq!(code.is_compiled(), has, "{width}");
        let [want, got] = [&interpreted, &code].map(|way| run(way, &kernel, &memory));
        assert!(values(&kernel, &want) == values(&kernel, &got), "{width}");
    }
}

#[test]
fn equal_programs_have_one_code() {
    let codes = Codes::new(true, Level::detect());
    let (kernel, _) = drawn(&mut Draws(3));
    let mut renamed = RowKernel { name: "other".to_owned(), ..kernel.clone() };
    // More rows are no other code.
    renamed.rows = kernel.rows;
    let [mut first, mut second] =
        [&kernel, &renamed].map(|kernel| Prepared::new(kernel, &Layout::default()));
    first.compile(&codes);
    second.compile(&codes);
    match (&first.code, &second.code) {
        (Some(first), Some(second)) => assert!(std::sync::Arc::ptr_eq(first, second)),
        (first, second) => assert!(first.is_none() && second.is_none()),
    }
    first.compile(&Codes::new(false, Level::detect()));
    assert!(!first.is_compiled());
    first.compile(&Codes::new(true, Level::Avx2));
    assert!(!first.is_compiled());
}
