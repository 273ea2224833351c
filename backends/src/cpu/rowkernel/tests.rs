//! Row kernels at every level the machine has against the scalar form of the same kernels, in
//! doubles.

use super::super::scalar;
use super::super::simd::Level;
use super::super::threads::Pool;
use super::*;
use crate::buffer::AlignedBytes;
use crate::element;
use anyid_ir::kernel::{Kernel, text::parse_kernels};
use half::{bf16, f16};

fn kernel(body: &str, dtype: &str, (rows, width): (usize, usize)) -> RowKernel {
    let body = if width == 1 { body.replace("[i,j]", "[i]") } else { body.to_owned() };
    let text = format!(
        "kernel k0 \"k\" rows i in {rows}, cols j in {width} {{\n  in a0: {dtype}[{rows},{width}]\n  \
         in a1: f32[2,{width}]\n  in a2: i32[{rows}]\n  out y0: {dtype}[{rows},{width}]\n  v0 = \
         a0[i*{width} + j]\n  v1 = a1[a2[i]*{width} + j]\n{body}}}\n"
    );
    let kernels = parse_kernels(&text).unwrap_or_else(|e| panic!("{e}\n{text}"));
    let Some(Kernel::Row(kernel)) = kernels.into_iter().next() else { panic!("a row kernel") };
    assert_eq!(Kernel::Row(kernel.clone()).verify(), Ok(()), "{text}");
    kernel
}

/// Values in ±4 of a type.
pub(super) fn noise(seed: u32, dtype: DType, count: usize) -> Vec<u8> {
    let mut state = seed | 1;
    let mut out = vec![0; count * dtype.bytes()];
    for at in 0..count {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        let value = f64::from(state >> 8) / f64::from(1 << 21) - 4.0;
        element::write(dtype, &mut out, at, value);
    }
    out
}

/// A kernel made ready to be interpreted, and to run as machine code where it has any.
fn ways(kernel: &RowKernel, layout: &Layout, level: Level) -> [Prepared; 2] {
    let interpreted = Prepared::new(kernel, layout);
    let mut compiled = interpreted.clone();
    compiled.compile(&Codes::new(true, level));
    [interpreted, compiled]
}

/// Runs `kernel` and gives its result as doubles.
fn run(kernel: &RowKernel, pool: &Pool, level: Level, operands: [&[u8]; 3]) -> Vec<f64> {
    let ty = &kernel.results[0];
    let [out, compiled] = ways(kernel, &Layout::default(), level)
        .map(|prepared| run_as(&prepared, kernel, pool, level, operands));
    assert_eq!(out.bytes(), compiled.bytes(), "{level:?} {kernel:?}");
    (0..ty.elements()).map(|at| element::read(ty.dtype, out.bytes(), at)).collect()
}

fn run_as(
    prepared: &Prepared,
    kernel: &RowKernel,
    pool: &Pool,
    level: Level,
    operands: [&[u8]; 3],
) -> AlignedBytes {
    let mut out = AlignedBytes::zeroed(kernel.results[0].bytes() as usize);
    out.bytes_mut().fill(0xaa);
    let mut scratch = vec![0xffu8; prepared.scratch_bytes(pool.threads()) + 64];
    let results = [out.bytes_mut().as_mut_ptr()];
    let bound = Bound { operands: &operands.map(<[u8]>::as_ptr), results: &results };
    // SAFETY: memory of the kernel's types, apart from each other.
    unsafe { prepared.run(pool, level, &bound, &mut scratch) }.expect("segments of the table");
    out
}

const NORM: &str = "  v2 = mean_j(v0)\n  v3 = sub(v0, v2)\n  v4 = mean_squares_j(v3)\n  v5 = 1e-6\n  \
    v6 = add(v4, v5)\n  v7 = rsqrt(v6)\n  v8 = mul(v3, v7)\n  v9 = mul(v8, v1)\n  y0[i,j] = v9\n";

#[test]
fn norms_and_functions_agree_with_doubles_at_every_level() {
    let mut bodies = vec![NORM.to_owned()];
    for f in ["neg", "abs", "exp", "tanh", "sin", "cos", "floor", "erf", "recip"] {
        bodies.push(format!("  v2 = {f}(v0)\n  y0[i,j] = v2\n"));
    }
    for f in ["sqrt", "rsqrt", "log"] {
        bodies.push(format!("  v2 = abs(v0)\n  v3 = {f}(v2)\n  y0[i,j] = v3\n"));
    }
    for f in ["add", "sub", "mul", "div", "max", "min", "lt", "eq", "ge"] {
        bodies.push(format!("  v2 = {f}(v0, v1)\n  y0[i,j] = v2\n"));
    }
    for f in ["sum_j", "max_over_j", "sum_squares_j"] {
        bodies.push(format!("  v2 = {f}(v0)\n  v3 = mul(v2, v1)\n  y0[i,j] = v3\n"));
    }
    let pools = [Pool::new(1), Pool::new(3)];
    for (dtype, tolerance) in [(DType::F32, 4e-6), (DType::Bf16, 8e-3), (DType::F16, 1e-3)] {
        for (rows, width) in [(1, 1), (5, 6), (3, 100), (2, 1100), (2, 2500)] {
            let (x, table) = (noise(7, dtype, rows * width), noise(9, DType::F32, 2 * width));
            let segments: Vec<u8> = (0..rows as i32).flat_map(|i| (i % 2).to_le_bytes()).collect();
            let operands = [&x[..], &table[..], &segments[..]];
            for body in &bodies {
                let kernel = kernel(body, dtype.name(), (rows, width));
                let doubles = RowKernel { arithmetic: DType::F64, ..kernel.clone() };
                let mut want = vec![0; kernel.results[0].bytes() as usize];
                scalar::rows(&doubles, &operands, &mut [&mut want]).unwrap();
                let want: Vec<f64> =
                    (0..rows * width).map(|at| element::read(dtype, &want, at)).collect();
                // Sums of a row are as large as the terms they are made of.
                let size = want.iter().fold(1.0_f64, |m, v| m.max(v.abs()));
                for level in Level::available() {
                    let got = run(&kernel, &pools[0], level, operands);
                    for (at, (got, want)) in got.iter().zip(&want).enumerate() {
                        let near = (got - want).abs() <= tolerance * size || got == want;
                        assert!(near, "{level:?} {dtype} {body} at {at}: {got} for {want}");
                    }
                    assert_eq!(got, run(&kernel, &pools[1], level, operands), "{level:?} {body}");
                }
            }
        }
    }
}

#[test]
fn large_results_go_past_the_caches_and_are_the_same_bits() {
    let pool = Pool::new(2);
    for (dtype, name, width) in [(DType::F32, "f32", 1000), (DType::Bf16, "bf16", 1024)] {
        let rows = STREAMED / dtype.bytes() / width + 1;
        let (x, table) = (noise(7, dtype, rows * width), noise(9, DType::F32, 2 * width));
        let operands = [&x[..], &table[..], &[1, 0, 0, 0].repeat(rows)[..]];
        let kernel = kernel(NORM, name, (rows, width));
        let past = Prepared::new(&kernel, &Layout::default());
        let through = Layout { in_place: true, ..Layout::default() };
        let through = Prepared::new(&kernel, &through);
        assert!(past.results[0].streamed && !through.results[0].streamed);
        for level in Level::available() {
            let through = run_as(&through, &kernel, &pool, level, operands);
            for past in ways(&kernel, &Layout::default(), level) {
                let past = run_as(&past, &kernel, &pool, level, operands);
                assert!(past.bytes() == through.bytes(), "{level:?} {dtype}");
            }
        }
    }
}

#[test]
fn activations_and_rotations_agree_with_their_definition_at_every_level() {
    let (rows, width) = (3, 100);
    let (x, table) = (noise(7, DType::F32, rows * width), noise(9, DType::F32, 2 * width));
    let segments = vec![0; 4 * rows];
    let operands = [&x[..], &table[..], &segments[..]];
    let value = |at: usize| element::read(DType::F32, &x, at);
    let angle = |at: usize| element::read(DType::F32, &table, at % width);
    let definition = |f: &str, at: usize| match f {
        "gelu(v0)" => {
            let x = value(at);
            0.5 * x * (1.0 + (0.797_884_560_802_865_4 * (x + 0.044715 * x * x * x)).tanh())
        }
        "silu(v0)" => value(at) / (1.0 + (-value(at)).exp()),
        "fma(v0, v1, v0)" => value(at) * angle(at) + value(at),
        _ if at.is_multiple_of(2) => value(at) * angle(at) - value(at + 1) * angle(at + 1),
        _ => value(at) * angle(at - 1) + value(at - 1) * angle(at),
    };
    for f in ["gelu(v0)", "silu(v0)", "fma(v0, v1, v0)", "rotate(v0, v1)"] {
        let kernel = kernel(&format!("  v2 = {f}\n  y0[i,j] = v2\n"), "f32", (rows, width));
        for level in Level::available() {
            for (at, got) in run(&kernel, &Pool::new(2), level, operands).iter().enumerate() {
                let want = definition(f, at);
                assert!((got - want).abs() <= 4e-6 * want.abs().max(1.0), "{level:?} {f} {at}");
            }
        }
    }
}

#[test]
fn roundings_are_those_of_the_types() {
    let x = noise(3, DType::F32, 100);
    let table = noise(9, DType::F32, 200);
    let operands = [&x[..], &table[..], &[0; 4][..]];
    for level in Level::available() {
        for (name, round) in [
            ("bf16", (|x| f64::from(bf16::from_f32(x))) as fn(f32) -> f64),
            ("f16", |x| f64::from(f16::from_f32(x))),
        ] {
            let kernel = kernel(&format!("  v2 = {name}(v0)\n  y0[i,j] = v2\n"), "f32", (1, 100));
            let got = run(&kernel, &Pool::new(1), level, operands);
            for (at, got) in got.into_iter().enumerate() {
                let x = element::read(DType::F32, &x, at) as f32;
                assert_eq!(got, round(x), "{level:?} {name}({x})");
            }
        }
    }
}

#[test]
fn several_results_over_an_operand_are_those_apart() {
    let (rows, width) = (3, 300);
    let text = format!(
        "kernel k0 \"k\" rows i in {rows}, cols j in {width} {{\n  in a0: bf16[{rows},{width}]\n  in \
         a1: f32[{width}]\n  out y0: bf16[{rows},{width}]\n  out y1: bf16[{rows},{width}]\n  out y2: \
         f32[{rows}]\n  v0 = a0[i*{width} + j]\n  v1 = a1[0*{width} + j]\n  v2 = add(v0, v1)\n  v3 = \
         max_over_j(v0)\n  v4 = mul(v2, v3)\n  y0[i,j] = v4\n  y1[i,j] = v0\n  y2[i] = v3\n}}\n"
    );
    let kernels = parse_kernels(&text).unwrap_or_else(|e| panic!("{e}\n{text}"));
    let Some(Kernel::Row(kernel)) = kernels.into_iter().next() else { panic!("a row kernel") };
    assert_eq!(Kernel::Row(kernel.clone()).verify(), Ok(()), "{text}");
    let (x, gain) = (noise(7, DType::Bf16, rows * width), noise(9, DType::F32, width));
    let run = |in_place: bool, level: Level, way: usize| {
        let prepared = &ways(&kernel, &Layout { in_place, ..Layout::default() }, level)[way];
        let mut scratch = vec![0xffu8; prepared.scratch_bytes(1) + 64];
        let mut below = x.clone();
        let mut results = [vec![0u8; x.len()], vec![0; x.len()], vec![0; 4 * rows]];
        let mut to = results.each_mut().map(|result| result.as_mut_ptr());
        let mut from = [x.as_ptr(), gain.as_ptr()];
        if in_place {
            to[0] = below.as_mut_ptr();
            from[0] = to[0].cast_const();
        }
        let bound = Bound { operands: &from, results: &to };
        // SAFETY: memory of the kernel's types; result 0 over operand 0 only where it was made ready.
        unsafe { prepared.run(&Pool::new(1), level, &bound, &mut scratch) }.expect("no segments");
        if in_place {
            results[0] = below;
        }
        results
    };
    for level in Level::available() {
        for way in 0..2 {
            assert_eq!(run(true, level, way), run(false, level, 0), "{level:?}");
            assert_eq!(run(true, level, way)[1], x, "{level:?}");
        }
    }
}

/// Rows in wider ones, with the same byte everywhere else.
fn spread(dense: &[u8], width: usize, (first, stride): (usize, usize)) -> Vec<u8> {
    let mut out = vec![0xaa; dense.len() / width * stride];
    for (row, out) in dense.chunks(width).zip(out.chunks_mut(stride)) {
        out[first..first + width].copy_from_slice(row);
    }
    out
}

#[test]
fn columns_give_the_bits_of_dense_rows_and_leave_the_rest_alone() {
    let pool = Pool::new(2);
    for (dtype, (rows, width)) in [
        (DType::F32, (5, 6)),
        (DType::F32, (70, 100)),
        (DType::Bf16, (5, 6)),
        (DType::F16, (3, 100)),
        (DType::F32, (2, 2500)),
    ] {
        let (x, table) = (noise(7, dtype, rows * width), noise(9, DType::F32, 2 * width));
        let segments: Vec<u8> = (0..rows as i32).flat_map(|i| (i % 2).to_le_bytes()).collect();
        for body in [NORM, "  v2 = mul(v0, v1)\n  y0[i,j] = v2\n", "  y0[i,j] = v0\n"] {
            let kernel = kernel(body, dtype.name(), (rows, width));
            let bytes = width * dtype.bytes();
            let place = (16, bytes + 40);
            let pitch = Some(Pitch { width, stride: place.1 / dtype.bytes() });
            for level in Level::available() {
                let dense = run(&kernel, &pool, level, [&x, &table, &segments]);
                for (in_place, way) in [(false, 0), (true, 0), (false, 1), (true, 1)] {
                    let mut from = spread(&x, bytes, place);
                    let mut to = if in_place { Vec::new() } else { vec![0xaa; from.len()] };
                    let operands = vec![pitch, None, None];
                    let layout = Layout { in_place, operands, results: vec![pitch] };
                    let prepared = &ways(&kernel, &layout, level)[way];
                    let mut scratch = vec![0xffu8; prepared.scratch_bytes(pool.threads()) + 64];
                    let start = from.as_mut_ptr().wrapping_add(place.0);
                    let end = if in_place { start } else { to.as_mut_ptr().wrapping_add(place.0) };
                    let operands = [start.cast_const(), table.as_ptr(), segments.as_ptr()];
                    let bound = Bound { operands: &operands, results: &[end] };
                    // SAFETY: memory of the kernel's types as the layout says.
                    unsafe { prepared.run(&pool, level, &bound, &mut scratch) }.unwrap();
                    let made = if in_place { &from } else { &to };
                    let values: Vec<u8> = made
                        .chunks(place.1)
                        .flat_map(|row| row[place.0..place.0 + bytes].to_vec())
                        .collect();
                    assert_eq!(*made, spread(&values, bytes, place), "{level:?} {dtype} {body}");
                    let value = |at: usize| element::read(dtype, &values, at);
                    let values: Vec<f64> = (0..rows * width).map(value).collect();
                    assert_eq!(values, dense, "{level:?} {dtype} {in_place} {body}");
                }
            }
        }
    }
}
