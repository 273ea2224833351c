//! Results of a kernel at some of its rows, computed in doubles on the processor: the reference for
//! kernels that are too large to be computed whole.
//!
//! A row is what the kernel computes without looking at others: a row of a row kernel, of a product, a
//! query of an attention, a position of a convolution, a line of a copy. The few rows are computed as a
//! smaller kernel of the same meaning.

use super::meaning::{Launch, moved};
use anyid_ir::kernel::{Anchor, AnchorKernel, Combine, Kernel, Load};
use anyid_ir::{DType, Evaluator, Mode, Tensor, TensorType};

/// Rows that a kernel with results of these types has.
pub fn rows(kernel: &Kernel, results: &[TensorType]) -> usize {
    match kernel {
        Kernel::Row(row) => row.rows,
        Kernel::Copy(copy) => copy.lines,
        Kernel::Anchor(_) | Kernel::Gather | Kernel::Fill(_) => {
            results[0].elements() / results[0].last().max(1)
        }
    }
}

/// The elements of each of `results` in some rows, row by row.
pub fn picked(kernel: &Kernel, results: &[Tensor], only: &[usize]) -> Vec<Vec<f64>> {
    let types: Vec<TensorType> = results.iter().map(|result| result.ty().clone()).collect();
    let all = rows(kernel, &types);
    let pick = |(at, result): (usize, &Tensor)| match sums(kernel, at) {
        Some(heads) => {
            // Page by page the heads, and within them the queries.
            let values = result.to_f64_vec();
            let queries = types[0].shape[types[0].rank() - 2];
            let place =
                |row: usize, head: usize| (row / queries * heads + head) * queries + row % queries;
            only.iter()
                .flat_map(|row| {
                    (0..heads).map(|head| values[place(*row, head)]).collect::<Vec<_>>()
                })
                .collect()
        }
        None => few(result, result.elements() / all.max(1), only).to_f64_vec(),
    };
    results.iter().enumerate().map(pick).collect()
}

/// The heads of an attention whose result `at` is the logarithms of its sums.
fn sums(kernel: &Kernel, at: usize) -> Option<usize> {
    match kernel {
        Kernel::Anchor(AnchorKernel {
            anchor: Anchor::Attention { heads, lse: true, .. }, ..
        }) => (at == 1).then_some(*heads),
        _ => None,
    }
}

/// Whether [`reference()`] computes some rows without the others.
pub fn alone(kernel: &Kernel, operands: &[Tensor]) -> bool {
    match kernel {
        Kernel::Row(_) | Kernel::Copy(_) | Kernel::Gather => true,
        Kernel::Fill(_) => false,
        Kernel::Anchor(anchor) => {
            let plain = operands.first().is_some_and(|first| first.ty().rank() == 2);
            match anchor.anchor {
                Anchor::Linear | Anchor::Conv { .. } => true,
                Anchor::Dot { transposed: [false, _] } => plain,
                Anchor::Attention { .. } => plain && operands.len() == 3,
                Anchor::Dot { .. } | Anchor::AttentionVjp { .. } | Anchor::SegmentSum { .. } => {
                    false
                }
            }
        }
    }
}

/// Rows of `width` elements.
fn few(tensor: &Tensor, width: usize, only: &[usize]) -> Tensor {
    let bytes = width * tensor.dtype().bytes();
    let all: Vec<u8> = only
        .iter()
        .flat_map(|row| &tensor.bytes()[row * bytes..(row + 1) * bytes])
        .copied()
        .collect();
    let ty = TensorType::new(tensor.dtype(), [only.len(), width]);
    Tensor::from_bytes(ty, &all).expect("as many bytes as the type has")
}

/// What [`picked`] of the results of a kernel has to be.
///
/// # Errors
/// In words, where an index is no row of its table.
pub fn reference(
    kernel: &Kernel,
    operands: &[Tensor],
    results: &[TensorType],
    only: &[usize],
) -> Result<Vec<Vec<f64>>, String> {
    let narrow = |ty: &TensorType, width: usize| TensorType::new(ty.dtype, [only.len(), width]);
    match kernel {
        Kernel::Row(row) => {
            let types: Vec<TensorType> = operands.iter().map(|each| each.ty().clone()).collect();
            let launch = Launch::of_rows(row, &types, only);
            numbers(&launch, kernel, operands.to_vec(), Mode::F64)
        }
        Kernel::Copy(copy) => {
            let width = results[0].elements() / copy.lines.max(1);
            let made = moved(copy, operands, &narrow(&results[0], width), only.iter().copied());
            Ok(vec![made.to_f64_vec()])
        }
        Kernel::Gather => {
            let indices = few(&operands[1], 1, only);
            let indices = indices.reshaped([only.len()]).expect("one an element");
            let width = results[0].elements() / operands[1].elements().max(1);
            let mut shape = operands[0].shape().to_vec();
            shape[0] = only.len();
            let ty = TensorType::new(results[0].dtype, shape);
            debug_assert_eq!(ty.elements(), only.len() * width, "a row of the table for each");
            run(kernel, vec![operands[0].clone(), indices], &[ty], Mode::F64)
        }
        Kernel::Anchor(anchor) => match smaller(anchor, operands, results, only) {
            Some((smaller, operands, types)) => {
                let made = run(&Kernel::Anchor(smaller.clone()), operands, &types, Mode::F64)?;
                Ok(turned(&smaller, made, only.len()))
            }
            None => whole(kernel, operands, results, only, Mode::F64),
        },
        // Their roundings are part of what they mean.
        Kernel::Fill(_) => whole(kernel, operands, results, only, Mode::F32),
    }
}

/// All rows, of which some are taken.
fn whole(
    kernel: &Kernel,
    operands: &[Tensor],
    results: &[TensorType],
    only: &[usize],
    mode: Mode,
) -> Result<Vec<Vec<f64>>, String> {
    let made = run(kernel, operands.to_vec(), results, mode)?;
    let tensor = |(values, ty): (&Vec<f64>, &TensorType)| {
        Tensor::from_f64s(ty.with_dtype(DType::F64), values).expect("one value an element")
    };
    let made: Vec<Tensor> = made.iter().zip(results).map(tensor).collect();
    Ok(picked(kernel, &made, only))
}

fn run(
    kernel: &Kernel,
    operands: Vec<Tensor>,
    results: &[TensorType],
    mode: Mode,
) -> Result<Vec<Vec<f64>>, String> {
    let types: Vec<TensorType> = operands.iter().map(|each| each.ty().clone()).collect();
    numbers(&Launch::of(kernel, &types, results), kernel, operands, mode)
}

fn numbers(
    launch: &Launch,
    kernel: &Kernel,
    operands: Vec<Tensor>,
    mode: Mode,
) -> Result<Vec<Vec<f64>>, String> {
    let inputs = launch.given(operands, kernel, "").map_err(|error| error.to_string())?;
    let made = Evaluator::new(&launch.module, mode).run("f", &inputs, &(), None);
    let made = made.map_err(|error| error.message.clone())?;
    Ok(made.iter().map(Tensor::to_f64_vec).collect())
}

/// A kernel that computes some rows alone, with its operands and the types of its results; `None` where
/// there is no such.
fn smaller(
    kernel: &AnchorKernel,
    operands: &[Tensor],
    results: &[TensorType],
    only: &[usize],
) -> Option<(AnchorKernel, Vec<Tensor>, Vec<TensorType>)> {
    // The bias of an attention depends on the place of a query.
    if !alone(&Kernel::Anchor(kernel.clone()), operands) {
        return None;
    }
    let count = only.len();
    let row = |ty: &TensorType| TensorType::new(ty.dtype, [count, ty.last()]);
    let (mut own, mut given) = (kernel.clone(), operands.to_vec());
    let mut types: Vec<TensorType> = results.iter().map(row).collect();
    match kernel.anchor {
        Anchor::Linear => given[0] = few(&operands[0], operands[0].ty().last(), only),
        Anchor::Dot { .. } => {
            given[0] = few(&operands[0], operands[0].ty().last(), only);
        }
        Anchor::Attention { heads, lse, .. } => {
            given[0] = few(&operands[0], operands[0].ty().last(), only);
            if lse {
                types[1] = TensorType::new(results[1].dtype, [heads, count]);
            }
        }
        Anchor::Conv { stride, pad } => {
            given[0] =
                unfolded(kernel.load, [stride, pad.map(|pad| pad[0])], operands, &results[0], only);
            let w = &operands[1];
            let terms = w.elements() / w.shape()[0];
            given[1] = w.clone().reshaped([w.shape()[0], terms]).expect("the same elements");
            (own.anchor, own.load) = (Anchor::Linear, Load::Own);
        }
        Anchor::AttentionVjp { .. } | Anchor::SegmentSum { .. } => return None,
    }
    if let Some(at) = kernel.residual_operand() {
        given[at] = few(&operands[at], operands[at].ty().last(), only);
        if matches!(kernel.combine, Combine::GateAdd { .. }) {
            let segments = few(&operands[at + 2], 1, only);
            given[at + 2] = segments.reshaped([count]).expect("one an element");
        }
    }
    Some((own, given, types))
}

/// The logarithms of sums with the rows outside, as [`picked`] gives them.
fn turned(kernel: &AnchorKernel, mut made: Vec<Vec<f64>>, count: usize) -> Vec<Vec<f64>> {
    if let Anchor::Attention { heads, lse: true, .. } = kernel.anchor {
        let sums = std::mem::take(&mut made[1]);
        made[1] = (0..count)
            .flat_map(|row| (0..heads).map(move |head| head * count + row))
            .map(|at| sums[at])
            .collect();
    }
    made
}

/// What a convolution multiplies with its kernel at some positions: a row of channels and taps for each.
fn unfolded(
    load: Load,
    [stride, before]: [[usize; 3]; 2],
    operands: &[Tensor],
    result: &TensorType,
    only: &[usize],
) -> Tensor {
    let (x, w) = (&operands[0], &operands[1]);
    let [t, h, wide, channels] = x.shape().try_into().expect("a clip has four axes");
    let taps: [usize; 3] = match w.shape()[2..] {
        [a, b, c] => [a, b, c],
        [b, c] => [1, b, c],
        _ => unreachable!("a kernel of a convolution has two or three axes of taps"),
    };
    let factors = match load {
        Load::Own => [1; 3],
        Load::Nearest(factors) => factors,
    };
    let own = [t, h, wide];
    let size = x.dtype().bytes();
    let terms = channels * taps.iter().product::<usize>();
    let mut bytes = vec![0; only.len() * terms * size];
    for (line, position) in only.iter().enumerate() {
        let (rows, columns) = (result.shape[1], result.shape[2]);
        let at = [position / (rows * columns), position / columns % rows, position % columns];
        let mut term = 0;
        let mut places = Vec::with_capacity(taps.iter().product());
        for a in 0..taps[0] {
            for b in 0..taps[1] {
                for c in 0..taps[2] {
                    // Zeros outside of the clip.
                    let place = |axis: usize, tap: usize| {
                        let place = (at[axis] * stride[axis] + tap).checked_sub(before[axis])?;
                        (place < own[axis] * factors[axis]).then(|| place / factors[axis])
                    };
                    let all = place(0, a).zip(place(1, b)).zip(place(2, c));
                    places.push(all.map(|((a, b), c)| [a, b, c]));
                }
            }
        }
        for channel in 0..channels {
            for place in &places {
                if let Some([a, b, c]) = place {
                    let from = (((a * h + b) * wide + c) * channels + channel) * size;
                    let to = (line * terms + term) * size;
                    bytes[to..to + size].copy_from_slice(&x.bytes()[from..from + size]);
                }
                term += 1;
            }
        }
    }
    let ty = TensorType::new(x.dtype(), [only.len(), terms]);
    Tensor::from_bytes(ty, &bytes).expect("as many bytes as the type has")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::cases::noise;
    use anyid_ir::kernel::text::parse_kernels;

    /// A kernel on noise: its rows alone are those of the whole.
    fn agrees(text: &str, operands: &[TensorType], results: &[TensorType]) {
        let kernels = parse_kernels(text).unwrap_or_else(|error| panic!("{error:?}\n{text}"));
        let kernel = kernels.into_iter().next().expect("one was written");
        let types: Vec<&TensorType> = operands.iter().collect();
        let given: Vec<&TensorType> = results.iter().collect();
        kernel.check(&types, &given).unwrap_or_else(|why| panic!("{why}\n{text}"));
        let operands: Vec<Tensor> = operands
            .iter()
            .enumerate()
            .map(|(at, ty)| match ty.dtype {
                DType::I32 => {
                    let rows: Vec<i32> = (0..ty.elements()).map(|at| (at * 7 % 3) as i32).collect();
                    Tensor::from_i32(ty.shape.iter().copied(), &rows).unwrap()
                }
                _ => noise(ty.clone(), at as u64 + 1),
            })
            .collect();
        let count = rows(&kernel, results);
        let only = [0, count / 2, count - 1];
        let all = whole(&kernel, &operands, results, &only, Mode::F64).unwrap();
        let few = reference(&kernel, &operands, results, &only).unwrap();
        assert_eq!(all.len(), few.len());
        for (all, few) in all.iter().zip(&few) {
            assert_eq!(all.len(), few.len(), "{text}");
            for (a, b) in all.iter().zip(few) {
                assert!((a - b).abs() <= 1e-12 * a.abs().max(1.0), "{a} {b}\n{text}");
            }
        }
    }

    fn f32(shape: &[usize]) -> TensorType {
        TensorType::new(DType::F32, shape.iter().copied())
    }

    #[test]
    fn rows_alone_are_those_of_the_whole() {
        let half = |shape: &[usize]| TensorType::new(DType::Bf16, shape.iter().copied());
        let whole = |shape: &[usize]| TensorType::new(DType::I32, shape.iter().copied());
        agrees(
            "kernel k0 \"linear\" anchor linear {\n  y0 = a3 + bf16(gelu(bf16(linear(a0, a1, a2)))) * a4[2 + a5[i]*8 + j]\n}\n",
            &[half(&[7, 5]), half(&[6, 5]), f32(&[6]), f32(&[7, 6]), f32(&[3, 8]), whole(&[7])],
            &[f32(&[7, 6])],
        );
        agrees(
            "kernel k0 \"attention\" anchor attention {heads=2, scale=0.5, lse=true} {\n  y0, y1 = attention(a0, a1, a2)\n}\n",
            &[f32(&[9, 8]), f32(&[5, 8]), f32(&[5, 8])],
            &[f32(&[9, 8]), f32(&[2, 9])],
        );
        agrees(
            "kernel k0 \"attention\" anchor attention {heads=2, scale=0.5} {\n  y0 = attention(a0, a1, a2, a3)\n}\n",
            &[f32(&[4, 8]), f32(&[5, 8]), f32(&[5, 8]), f32(&[2, 8])],
            &[f32(&[4, 8])],
        );
        agrees(
            "kernel k0 \"conv\" anchor conv {pad=[2,0,1,1,1,1]} {\n  y0 = a3 + conv(a0, a1, a2)\n}\n",
            &[f32(&[3, 4, 5, 2]), f32(&[6, 2, 3, 3, 3]), f32(&[6]), f32(&[3, 4, 5, 6])],
            &[f32(&[3, 4, 5, 6])],
        );
        agrees(
            "kernel k0 \"conv\" anchor conv {stride=[1,2,2], pad=[0,0,0,1,0,1]} {\n  y0 = conv(a0[t,h/2,w/2,c], a1)\n}\n",
            &[f32(&[2, 3, 4, 2]), f32(&[5, 2, 3, 3])],
            &[f32(&[2, 3, 4, 5])],
        );
        agrees(
            "kernel k0 \"dot\" anchor dot {transposed=[0,1]} {\n  y0 = dot(a0, a1)\n}\n",
            &[f32(&[4, 6]), f32(&[6, 5])],
            &[f32(&[4, 5])],
        );
        agrees("kernel k0 gather\n", &[f32(&[3, 4]), whole(&[5])], &[f32(&[5, 4])]);
        agrees(
            "kernel k0 \"pad\" copy 4 lines {\n  zeros: 3\n  a0 from 0: 4 by 5, 5 by 1\n}\n",
            &[f32(&[4, 5])],
            &[f32(&[4, 8])],
        );
        agrees(
            "kernel k0 \"norm\" rows i in 6, cols j in 4 {\n  in a0: f32[6,4]\n  in a1: f32[3,4]\n  in a2: i32[6]\n  out y0: f32[6,4]\n  out y1: f32[6]\n  v0 = a0[i*4 + j]\n  v1 = a1[a2[i]*4 + j]\n  v2 = mul(v0, v1)\n  v3 = sum_j(v2)\n  v4 = add(v2, v3)\n  y0[i,j] = v4\n  y1[i] = v3\n}\n",
            &[f32(&[6, 4]), f32(&[3, 4]), whole(&[6])],
            &[f32(&[6, 4]), f32(&[6])],
        );
    }
}
