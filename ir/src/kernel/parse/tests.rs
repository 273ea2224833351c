//! Kernels of every form there and back, and hostile text.

use super::super::text::print_kernels;
use super::*;
use crate::kernel::{RowFn, RowReduce};
use crate::types::TensorType;
use crate::{BinaryFn, CompareFn, DType, UnaryFn};

fn ty(dtype: DType, shape: &[usize]) -> TensorType {
    TensorType::new(dtype, shape.iter().copied())
}

/// A row kernel with every instruction, row map and kind of column.
fn everything() -> RowKernel {
    let access = |operand, rows, columns, offset, stride| {
        Instruction::Load(Access { operand, rows, columns, offset, stride })
    };
    let affine = |divisor, modulus| RowMap::Affine { divisor, modulus };
    let mut code = vec![
        access(0, RowMap::OWN, Columns::All, 0, 8),
        access(1, RowMap::Segment(2), Columns::All, 8, 16),
        access(1, RowMap::Fixed, Columns::One, 0, 0),
        access(1, RowMap::Fixed, Columns::Every(4), 3, 7),
        access(1, affine(2, usize::MAX), Columns::All, 0, 8),
        access(1, affine(1, 2), Columns::All, 0, 8),
        access(1, affine(3, 2), Columns::Every(2), 1, 8),
    ];
    for value in [0.0, -0.0, 1.0, 1e-6, f32::MAX, f32::INFINITY, f32::NEG_INFINITY, -1e-45] {
        code.push(Instruction::Const(value));
    }
    code.extend(UnaryFn::ALL.map(|f| Instruction::Unary(RowFn::Primitive(f), 0)));
    code.extend([RowFn::Gelu, RowFn::Silu].map(|f| Instruction::Unary(f, 1)));
    code.extend(BinaryFn::ALL.map(|f| Instruction::Binary(f, 0, 1)));
    code.extend(CompareFn::ALL.map(|f| Instruction::Compare(f, 1, 0)));
    code.extend(RowReduce::ALL.map(|f| Instruction::Reduce(f, 4)));
    code.extend([DType::F32, DType::Bf16, DType::F16].map(|to| Instruction::Round(to, 0)));
    code.push(Instruction::Fma(0, 1, 2));
    code.push(Instruction::Select(2, 1, 0));
    code.push(Instruction::Rotate(0, 3));
    code.push(Instruction::Store { result: 0, value: 20 });
    code.push(Instruction::Store { result: 1, value: 2 });
    RowKernel {
        name: "odd \"name\"\n\\ {".into(),
        rows: 4,
        width: 8,
        arithmetic: DType::F32,
        operands: vec![ty(DType::F32, &[4, 8]), ty(DType::Bf16, &[6, 8]), ty(DType::I32, &[4])],
        results: vec![ty(DType::Bf16, &[4, 8]), ty(DType::F32, &[4])],
        code,
    }
}

fn anchors() -> Vec<Kernel> {
    let plain = AnchorKernel::plain;
    let conv = Anchor::Conv { stride: [1, 2, 2], pad: [[2, 0], [1, 1], [1, 1]] };
    let attention =
        Anchor::Attention { heads: 24, scale: 1.0 / 128f64.sqrt(), lse: false, last: 1 };
    let gate = Combine::GateAdd { offset: 96, stride: 48 };
    [
        plain(Anchor::Linear, 3),
        plain(attention, 4),
        plain(Anchor::Attention { heads: 2, scale: 0.5, lse: true, last: 1 }, 3),
        plain(Anchor::AttentionVjp { heads: 2, scale: 0.5, bias: false, last: 1 }, 6),
        plain(Anchor::AttentionVjp { heads: 1, scale: 1.0, bias: true, last: 1 }, 7),
        plain(Anchor::SegmentSum { segments: 5 }, 2),
        plain(Anchor::Dot { transposed: [true, false] }, 2),
        AnchorKernel { parts: 3, activation: Some(Activation::Gelu), ..plain(Anchor::Linear, 3) },
        AnchorKernel { parts: 40, ..plain(Anchor::Linear, 2) },
        AnchorKernel { combine: Combine::Add, ..plain(conv, 2) },
        AnchorKernel {
            combine: Combine::Add,
            sums: Some(DType::Bf16),
            ..plain(Anchor::Dot { transposed: [true, true] }, 2)
        },
        AnchorKernel { load: Load::Nearest([1, 2, 2]), ..plain(conv, 2) },
        AnchorKernel { load: Load::Nearest([3, 1, usize::MAX]), ..plain(conv, 3) },
        AnchorKernel { combine: gate, activation: Some(Activation::Silu), ..plain(conv, 3) },
        AnchorKernel { sums: Some(DType::F16), ..plain(Anchor::Linear, 2) },
        AnchorKernel {
            sums: Some(DType::Bf16),
            activation: Some(Activation::Gelu),
            activated: Some(DType::F16),
            combine: gate,
            ..plain(Anchor::Linear, 3)
        },
        AnchorKernel {
            combine: Combine::GateAdd { offset: 0, stride: 0 },
            name: String::new(),
            ..plain(Anchor::Linear, 2)
        },
    ]
    .map(Kernel::Anchor)
    .into()
}

fn all() -> Vec<Kernel> {
    let part = |operand, offset, axes: &[(usize, usize)]| Part::Strided {
        operand,
        offset,
        axes: axes.iter().copied().collect(),
    };
    let copy = CopyKernel {
        name: "odd".into(),
        lines: 6,
        parts: vec![
            Part::Zeros(7),
            part(0, 3, &[(2, 0), (3, 5), (9, 1)]),
            part(1, 0, &[(6, usize::MAX)]),
        ],
    };
    let one = CopyKernel { parts: vec![part(0, 4, &[])], lines: 1, ..copy.clone() };
    let mut rows = everything();
    rows.arithmetic = DType::I32;
    rows.code.truncate(14);
    let columns = Columns::Step(0);
    rows.code.push(Instruction::Load(Access {
        operand: 1,
        rows: RowMap::OWN,
        columns,
        offset: 1,
        stride: 1,
    }));
    rows.code.push(Instruction::Round(DType::U8, 0));
    rows.code.push(Instruction::Store { result: 0, value: 15 });
    rows.code.push(Instruction::Store { result: 1, value: 2 });
    let fills = [Fill::Const(vec![0.5, -1.0]), Fill::Iota(3)].map(Kernel::Fill);
    let others = [Kernel::Gather, Kernel::Copy(copy), Kernel::Copy(one), Kernel::Row(rows)];
    fills.into_iter().chain(others).chain([Kernel::Row(everything())]).chain(anchors()).collect()
}

#[test]
fn kernels_of_every_form_read_back() {
    let kernels = all();
    for kernel in &kernels {
        assert_eq!(kernel.verify(), Ok(()), "{kernel:?}");
    }
    let text = print_kernels(&kernels);
    let back = parse_kernels(&text).unwrap_or_else(|fault| panic!("{fault} {:?}", fault.place));
    assert_eq!(back, kernels);
    assert_eq!(print_kernels(&back), text);
    assert_eq!(parse_kernels("").unwrap(), []);
}

#[test]
fn a_nan_keeps_its_bits() {
    for bits in [0x7fc0_0000, 0x7fc0_0001, 0xffff_ffff] {
        let mut kernel = everything();
        kernel.code[8] = Instruction::Const(f32::from_bits(bits));
        let back = parse_kernels(&print_kernels(&[Kernel::Row(kernel)])).unwrap();
        let Kernel::Row(back) = &back[0] else { panic!("a row kernel") };
        let Instruction::Const(value) = back.code[8] else { panic!("a number") };
        assert_eq!(value.to_bits(), bits);
    }
}

#[test]
fn every_cut_and_every_flipped_bit_is_answered() {
    let text = print_kernels(&all());
    for end in 0..text.len() {
        let cut = parse_kernels(&text[..end]);
        // Between two kernels the text is whole.
        let whole = text[..end].ends_with('\n') && text[end..].starts_with("kernel ");
        assert_eq!(cut.is_ok(), whole || end == 0, "cut at {end}");
    }
    let mut bytes = text.into_bytes();
    for at in 0..bytes.len() {
        for bit in 0..7 {
            bytes[at] ^= 1 << bit;
            if let Ok(text) = std::str::from_utf8(&bytes)
                && let Ok(kernels) = parse_kernels(text)
            {
                for kernel in &kernels {
                    // Whatever was read: it is judged and written without a panic.
                    let _ = kernel.verify();
                    let _ = kernel.writes_in_place(1, 1);
                }
                let again = parse_kernels(&print_kernels(&kernels)).unwrap();
                assert_eq!(print_kernels(&again), print_kernels(&kernels));
            }
            bytes[at] ^= 1 << bit;
        }
    }
}

#[test]
fn long_text_is_read_in_time_and_refused_where_it_is_too_long() {
    let code = "  v0 = 1.0\n".to_owned()
        + &(1..MOST_INSTRUCTIONS)
            .map(|at| format!("  v{at} = neg(v{})\n", at - 1))
            .collect::<String>();
    let head = "kernel k0 \"\" rows i in 1, cols j in 1 {\n";
    assert!(parse_kernels(&format!("{head}{code}}}\n")).is_ok());
    let fault = parse_kernels(&format!("{head}{code}  y0[i,j] = v0\n}}\n")).unwrap_err();
    assert!(fault.message.contains("more than 1024"), "{}", fault.message);
    assert_eq!(fault.place.as_deref(), Some("line 1026"));
    for text in [
        format!("kernel k0 fill {}", "(".repeat(100_000)),
        format!("kernel k0 fill const {{values=[{}]}}", "[".repeat(100_000)),
        format!("kernel k0 \"\" copy 1 lines {{\n  a0 from 0: {}\n", "1 by 1, ".repeat(100_000)),
        format!("kernel k0 \"{}\" anchor linear {{\n", "\\u{61}".repeat(100_000)),
        format!("{head}  v0 = {}\n}}\n", "1".repeat(100_000)),
        format!("{head}  v0 = add({})\n}}\n", "v0, ".repeat(100_000)),
        format!("{head}  in a0: f32[{}]\n}}\n", "1,".repeat(100_000)),
        format!("kernel k0 \"\" anchor linear {{\n  y0 = linear({})\n", "a0, ".repeat(100_000)),
    ] {
        assert!(parse_kernels(&text).is_err(), "{}", &text[..60]);
    }
}
