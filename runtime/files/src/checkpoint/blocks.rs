//! Blocks of GGUF files: elements that share scales, as ggml stores them.
//!
//! Each function decodes one block. The order of the operations is that of `formats.md §4.4`, in
//! f32, each rounded by itself, so that the values are those of ggml's own decoder to the bit.
//! Nothing here checks lengths: blocks come as arrays.

use half::f16;

/// Decodes block after block.
pub(super) fn each<const BYTES: usize, const ELEMENTS: usize>(
    bytes: &[u8],
    out: &mut [f32],
    decode: impl Fn(&[u8; BYTES], &mut [f32; ELEMENTS]),
) {
    let values = out.as_chunks_mut::<ELEMENTS>().0;
    bytes.as_chunks::<BYTES>().0.iter().zip(values).for_each(|(block, out)| decode(block, out));
}

fn half(block: &[u8], at: usize) -> f32 {
    f16::from_le_bytes([block[at], block[at + 1]]).to_f32()
}

/// The four bits of element `j` of 32: the first half lies in the low bits of 16 bytes, the second in
/// their high bits.
fn nibble(bytes: &[u8], j: usize) -> u8 {
    if j < 16 { bytes[j] & 15 } else { bytes[j - 16] >> 4 }
}

pub(super) fn q4_0(block: &[u8; 18], out: &mut [f32; 32]) {
    let d = half(block, 0);
    for (j, value) in out.iter_mut().enumerate() {
        *value = d * (f32::from(nibble(&block[2..], j)) - 8.0);
    }
}

pub(super) fn q4_1(block: &[u8; 20], out: &mut [f32; 32]) {
    let (d, m) = (half(block, 0), half(block, 2));
    for (j, value) in out.iter_mut().enumerate() {
        *value = d * f32::from(nibble(&block[4..], j)) + m;
    }
}

/// The five bits of element `j`, whose highest is bit `j` of the word at `high`.
fn five(block: &[u8], high: usize, j: usize) -> f32 {
    let top = block[high + j / 8] >> (j % 8) & 1;
    f32::from(nibble(&block[high + 4..], j) | top << 4)
}

pub(super) fn q5_0(block: &[u8; 22], out: &mut [f32; 32]) {
    let d = half(block, 0);
    for (j, value) in out.iter_mut().enumerate() {
        *value = d * (five(block, 2, j) - 16.0);
    }
}

pub(super) fn q5_1(block: &[u8; 24], out: &mut [f32; 32]) {
    let (d, m) = (half(block, 0), half(block, 2));
    for (j, value) in out.iter_mut().enumerate() {
        *value = d * five(block, 4, j) + m;
    }
}

pub(super) fn q8_0(block: &[u8; 34], out: &mut [f32; 32]) {
    let d = half(block, 0);
    for (value, q) in out.iter_mut().zip(&block[2..]) {
        *value = d * f32::from(q.cast_signed());
    }
}

/// The two bits of element `j` of 256 in 64 bytes: 32 bytes hold 128 elements, four in a byte.
fn two(bytes: &[u8], j: usize) -> u8 {
    bytes[32 * (j / 128) + j % 32] >> (2 * (j % 128 / 32)) & 3
}

pub(super) fn q2_k(block: &[u8; 84], out: &mut [f32; 256]) {
    let (scales, quants) = (&block[..16], &block[16..80]);
    let (d, min) = (half(block, 80), half(block, 82));
    for (g, out) in out.chunks_exact_mut(16).enumerate() {
        let (scale, less) = (d * f32::from(scales[g] & 15), min * f32::from(scales[g] >> 4));
        for (j, value) in (16 * g..).zip(out) {
            *value = scale * f32::from(two(quants, j)) - less;
        }
    }
}

pub(super) fn q3_k(block: &[u8; 110], out: &mut [f32; 256]) {
    let (masks, quants, scales) = (&block[..32], &block[32..96], &block[96..108]);
    let d = half(block, 108);
    for (g, out) in out.chunks_exact_mut(16).enumerate() {
        let low = if g < 8 { scales[g] & 15 } else { scales[g - 8] >> 4 };
        let high = scales[8 + g % 4] >> (2 * (g / 4)) & 3;
        let scale = d * (f32::from(low | high << 4) - 32.0);
        for (j, value) in (16 * g..).zip(out) {
            let whole = masks[j % 32] >> (j / 32) & 1;
            let less = if whole == 0 { 4.0 } else { 0.0 };
            *value = scale * (f32::from(two(quants, j)) - less);
        }
    }
}

/// Scale and minimum number `g` of eight, of six bits each in 12 bytes.
fn six(scales: &[u8], g: usize) -> (f32, f32) {
    let (scale, min) = match g {
        0..4 => (scales[g] & 63, scales[g + 4] & 63),
        _ => {
            (scales[g + 4] & 15 | scales[g - 4] >> 6 << 4, scales[g + 4] >> 4 | scales[g] >> 6 << 4)
        }
    };
    (f32::from(scale), f32::from(min))
}

/// The four bits of element `i` of run `g` of eight: two runs share 32 bytes.
fn half_byte(bytes: &[u8], g: usize, i: usize) -> u8 {
    let byte = bytes[32 * (g / 2) + i];
    if g.is_multiple_of(2) { byte & 15 } else { byte >> 4 }
}

pub(super) fn q4_k(block: &[u8; 144], out: &mut [f32; 256]) {
    let (d, min) = (half(block, 0), half(block, 2));
    let (scales, quants) = (&block[4..16], &block[16..]);
    for (g, out) in out.chunks_exact_mut(32).enumerate() {
        let (s, m) = six(scales, g);
        let (scale, less) = (d * s, min * m);
        for (i, value) in out.iter_mut().enumerate() {
            *value = scale * f32::from(half_byte(quants, g, i)) - less;
        }
    }
}

pub(super) fn q5_k(block: &[u8; 176], out: &mut [f32; 256]) {
    let (d, min) = (half(block, 0), half(block, 2));
    let (scales, high, quants) = (&block[4..16], &block[16..48], &block[48..]);
    for (g, out) in out.chunks_exact_mut(32).enumerate() {
        let (s, m) = six(scales, g);
        let (scale, less) = (d * s, min * m);
        for (i, value) in out.iter_mut().enumerate() {
            let q = half_byte(quants, g, i) | (high[i] >> g & 1) << 4;
            *value = scale * f32::from(q) - less;
        }
    }
}

pub(super) fn q6_k(block: &[u8; 210], out: &mut [f32; 256]) {
    let (low, high, scales) = (&block[..128], &block[128..192], &block[192..208]);
    let d = half(block, 208);
    for (g, out) in out.chunks_exact_mut(16).enumerate() {
        let scale = d * f32::from(scales[g].cast_signed());
        for (j, value) in (16 * g..).zip(out) {
            let (h, r) = (j / 128, j % 128);
            let byte = low[64 * h + r % 64];
            let four = if r < 64 { byte & 15 } else { byte >> 4 };
            let two = high[32 * h + r % 32] >> (2 * (r / 32)) & 3;
            *value = scale * (f32::from(four | two << 4) - 32.0);
        }
    }
}

/// The values among which the four bits of IQ4_NL and IQ4_XS choose.
const UNEVEN: [f32; 16] = [
    -127.0, -104.0, -83.0, -65.0, -49.0, -35.0, -22.0, -10.0, 1.0, 13.0, 25.0, 38.0, 53.0, 69.0,
    89.0, 113.0,
];

pub(super) fn iq4_nl(block: &[u8; 18], out: &mut [f32; 32]) {
    let d = half(block, 0);
    for (j, value) in out.iter_mut().enumerate() {
        *value = d * UNEVEN[usize::from(nibble(&block[2..], j))];
    }
}

pub(super) fn iq4_xs(block: &[u8; 136], out: &mut [f32; 256]) {
    let d = half(block, 0);
    let (high, low, quants) = (u16::from_le_bytes([block[2], block[3]]), &block[4..8], &block[8..]);
    for (g, out) in out.chunks_exact_mut(32).enumerate() {
        let four = low[g / 2] >> (4 * (g % 2)) & 15;
        let two = (high >> (2 * g) & 3) as u8;
        let scale = d * (f32::from(four | two << 4) - 32.0);
        for (i, value) in out.iter_mut().enumerate() {
            *value = scale * UNEVEN[usize::from(nibble(&quants[16 * g..], i))];
        }
    }
}
