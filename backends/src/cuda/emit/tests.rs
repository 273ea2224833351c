//! The text of kernels at small sizes, and what decides how it is written.

use super::*;
use crate::cuda::toy;

/// The source of the only step of a plan.
fn source(kernel: &str, operands: &[&str], results: &[&str]) -> Emitted {
    source_for(Architecture::Sm80, kernel, operands, results)
}

fn source_for(
    architecture: Architecture,
    kernel: &str,
    operands: &[&str],
    results: &[&str],
) -> Emitted {
    let plan = toy::plan(kernel, operands, results);
    step(&plan, &plan.steps[0], architecture)
}

/// The text with the digest in the name left out, then how it is launched.
fn shown(emitted: &Emitted) -> String {
    let (called, _) = emitted.name.rsplit_once('_').expect("a digest ends the name");
    let text = emitted.text.replace(&emitted.name, called);
    let Grid { blocks, threads, shared_bytes } = emitted.grid;
    format!("{text}// {blocks:?} blocks of {threads}, {shared_bytes} more bytes shared")
}

macro_rules! snapshot {
    ($name:literal, $($source:expr),*) => {
        insta::assert_snapshot!($name, shown(&source($($source),*)));
    };
}

#[test]
fn rows_are_read_in_pieces_and_held_from_loop_to_loop() {
    let norm = "rows i in 6, cols j in 96 {
    in a0: bf16[6,96]
    in a1: f32[2,192]
    in a2: i32[6]
    out y0: bf16[6,96]
    v0 = a0[i*96 + j]
    v1 = mean_squares_j(v0)
    v2 = 1e-6
    v3 = add(v1, v2)
    v4 = rsqrt(v3)
    v5 = mul(v0, v4)
    v6 = a1[96 + a2[i]*192 + j]
    v7 = mul(v5, v6)
    v8 = bf16(v7)
    y0[i,j] = v8
  }";
    snapshot!("norm", norm, &["bf16[6,96]", "f32[2,192]", "i32[6]"], &["bf16[6,96]"]);
}

#[test]
fn rows_that_are_too_wide_to_be_held_are_read_again() {
    let wide = "rows i in 2, cols j in 65536 {
    in a0: f32[2,65536]
    out y0: f32[2,65536]
    out y1: f32[2]
    v0 = a0[i*65536 + j]
    v1 = max_over_j(v0)
    v2 = sub(v0, v1)
    v3 = exp(v2)
    v4 = sum_j(v3)
    v5 = div(v3, v4)
    y0[i,j] = v5
    y1[i] = v4
  }";
    snapshot!("wide", wide, &["f32[2,65536]"], &["f32[2,65536]", "f32[2]"]);
}

#[test]
fn without_reductions_every_thread_has_a_piece() {
    let rotated = "rows i in 4, cols j in 16 {
    in a0: f32[4,16]
    in a1: f32[4,8]
    out y0: f32[4,16]
    v0 = a0[i*16 + j]
    v1 = a1[i*8 + j%8]
    v2 = rotate(v0, v1)
    y0[i,j] = v2
  }";
    snapshot!("rotated", rotated, &["f32[4,16]", "f32[4,8]"], &["f32[4,16]"]);
    let whole = "rows i in 3, cols j in 5 as i32 {
    in a0: i32[3,5]
    in a1: u8[5]
    out y0: bool[3,5]
    v0 = a0[i*5 + j]
    v1 = a1[0*5 + j]
    v2 = div(v0, v1)
    v3 = lt(v2, v1)
    y0[i,j] = v3
  }";
    snapshot!("scalar", whole, &["i32[3,5]", "u8[5]"], &["bool[3,5]"]);
}

#[test]
fn elements_are_moved_in_pieces_as_long_as_their_places_allow() {
    let pad = "copy 4 lines {
    zeros: 16
    a0 from 0: 4 by 48, 48 by 1
  }";
    snapshot!("copy", pad, &["bf16[4,48]"], &["bf16[4,64]"]);
    let turned = "copy 1 lines {
    a0 from 0: 3 by 1, 4 by 3
  }";
    snapshot!("turned", turned, &["f32[4,3]"], &["f32[3,4]"]);
    snapshot!("gather", "gather", &["bf16[7,24]", "i32[5]"], &["bf16[5,24]"]);
}

#[test]
fn everything_that_follows_a_product_is_in_its_kernel() {
    let gated = "anchor linear {
    y0 = a3 + bf16(gelu(bf16(linear(a0, a1, a2)))) * a4[96 + a5[i]*48 + j]
  }";
    let operands = ["bf16[9,32]", "bf16[48,32]", "f32[48]", "f32[9,48]", "f32[4,48]", "i32[9]"];
    snapshot!("linear", gated, &operands, &["f32[9,48]"]);
    let parts = "anchor linear {
    y0 = linear(a0, a1)
    y1 = linear(a0, a2)
  }";
    let operands = ["f32[9,8]", "f32[5,8]", "f32[70,8]"];
    snapshot!("parts", parts, &operands, &["f32[9,5]", "f32[9,70]"]);
    let operands = ["f32[3,8]", "bf16[5,8]", "bf16[70,8]"];
    snapshot!("few", parts, &operands, &["f32[3,5]", "f32[3,70]"]);
    let plain = "anchor linear {
    y0 = silu(linear(a0, a1))
  }";
    let (operands, results) = (["f16[9,64]", "f16[72,64]"], ["f16[9,72]"]);
    let groups = source_for(Architecture::Sm90a, plain, &operands, &results);
    insta::assert_snapshot!("groups", shown(&groups));
}

#[test]
fn attention_and_convolution_are_their_templates_with_functions() {
    let attention = "anchor attention {heads=2, scale=0.25, lse=true} {
    y0, y1 = attention(a0, a1, a2)
  }";
    let operands = ["f32[5,32]", "f32[7,32]", "f32[7,32]"];
    snapshot!("attention", attention, &operands, &["f32[5,32]", "f32[2,5]"]);
    let (operands, results) = (["bf16[5,128]"; 3], ["bf16[5,128]", "f32[2,5]"]);
    let groups = source_for(Architecture::Sm90a, attention, &operands, &results);
    insta::assert_snapshot!("group_attention", shown(&groups));
    let back = "anchor attention_vjp {heads=2, scale=0.25, bias=true} {
    y0, y1, y2, y3 = attention_vjp(a0, a1, a2, a3, a4, a5, a6)
  }";
    let operands =
        ["f32[5,32]", "f32[7,32]", "f32[7,32]", "f32[5,32]", "f32[2,5]", "f32[5,32]", "f32[2,11]"];
    let results = ["f32[5,32]", "f32[7,32]", "f32[7,32]", "f32[2,11]"];
    snapshot!("attention_vjp", back, &operands, &results);
    let conv = "anchor conv {stride=[1,2,1], pad=[2,0,1,1,1,1]} {
    y0 = silu(conv(a0[t,h/2,w/2,c], a1, a2))
  }";
    let operands = ["f32[3,2,3,4]", "f32[6,4,3,3,3]", "f32[6]"];
    snapshot!("conv", conv, &operands, &["f32[3,2,6,6]"]);
}

#[test]
fn a_name_follows_the_text_and_not_the_number_of_rows() {
    let silu = |rows: usize, width: usize| {
        let ty = format!("f32[{rows},{width}]");
        let kernel = format!(
            "rows i in {rows}, cols j in {width} {{
    in a0: {ty}
    out y0: {ty}
    v0 = a0[i*{width} + j]
    v1 = silu(v0)
    y0[i,j] = v1
  }}"
        );
        source(&kernel, &[&ty], &[&ty])
    };
    assert_eq!(silu(2, 8).name, silu(200, 8).name);
    assert_ne!(silu(2, 8).name, silu(2, 16).name);
    assert_eq!(silu(200, 8).arguments.last(), Some(&Argument::Size(200)));
}
