//! Pixel arithmetic: model range to bytes and back, YUV 4:2:0 to RGB and back.
//!
//! Conventions (`vae.md` §9): a byte v is v/127.5 − 1 for the model. Video without a
//! colour tag is taken as BT.601 limited range whatever its size, as ffmpeg's scaler (and so most
//! training pipelines) does; chroma is repeated, not interpolated, for the same reason.
//! Transfer curves and primaries are the business of `tone.rs`.

/// How a model value becomes a byte.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Rounding {
    /// Drop the fraction, as the reference implementation's video writer does.
    #[default]
    Truncate,
    /// To the nearest byte.
    Nearest,
}

/// Byte to model range: v/127.5 − 1.
pub fn to_unit(v: u8) -> f32 {
    f32::from(v) / 127.5 - 1.0
}

/// Model range to byte: clamp to [−1, 1], then (v+1)/2·255. NaN gives 0.
pub fn from_unit(v: f32, rounding: Rounding) -> u8 {
    let scaled = (v.clamp(-1.0, 1.0) + 1.0) / 2.0 * 255.0;
    match rounding {
        Rounding::Truncate => scaled as u8,
        Rounding::Nearest => scaled.round() as u8,
    }
}

/// Turns frame `t` of a planar video `[3, frames, height, width]` in model range into interleaved
/// RGB (`height * width * 3` bytes).
///
/// # Panics
/// When the slices do not have these lengths or `t >= frames`.
pub fn planar_to_rgb(
    video: &[f32],
    frames: usize,
    t: usize,
    height: usize,
    width: usize,
    rounding: Rounding,
    rgb: &mut [u8],
) {
    let plane = height * width;
    assert!(t < frames && video.len() == 3 * frames * plane && rgb.len() == 3 * plane);
    for channel in 0..3 {
        let start = (channel * frames + t) * plane;
        let source = &video[start..start + plane];
        for (pixel, value) in rgb.chunks_exact_mut(3).zip(source) {
            pixel[channel] = from_unit(*value, rounding);
        }
    }
}

/// Which luma weights a video uses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Matrix {
    /// Kr 0.299, Kb 0.114; also what we take when nothing is said.
    #[default]
    Bt601,
    /// Kr 0.2126, Kb 0.0722.
    Bt709,
    /// Kr 0.2627, Kb 0.0593, non-constant luminance.
    Bt2020,
    /// Kr 0.30, Kb 0.11.
    Fcc,
    /// Kr 0.212, Kb 0.087.
    Smpte240,
}

impl Matrix {
    /// From `matrix_coefficients` of ITU-T H.264 table E-5; none for those that are not Y'CbCr
    /// with luma weights.
    pub fn from_code(code: u8) -> Option<Self> {
        match code {
            2 | 5 | 6 => Some(Self::Bt601),
            1 => Some(Self::Bt709),
            4 => Some(Self::Fcc),
            7 => Some(Self::Smpte240),
            9 => Some(Self::Bt2020),
            _ => None,
        }
    }

    /// (Kr, Kb).
    fn weights(self) -> (f64, f64) {
        match self {
            Self::Bt601 => (0.299, 0.114),
            Self::Bt709 => (0.2126, 0.0722),
            Self::Bt2020 => (0.2627, 0.0593),
            Self::Fcc => (0.30, 0.11),
            Self::Smpte240 => (0.212, 0.087),
        }
    }

    /// Its usual name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Bt601 => "BT.601",
            Self::Bt709 => "BT.709",
            Self::Bt2020 => "BT.2020",
            Self::Fcc => "FCC",
            Self::Smpte240 => "SMPTE 240M",
        }
    }
}

/// How the YUV values of a video are to be read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Encoding {
    /// Luma weights.
    pub matrix: Matrix,
    /// 0–255 instead of 16–235 (luma) and 16–240 (chroma).
    pub full_range: bool,
}

/// What a file says about its colours, in the code points of ITU-T H.273; 2 is "unspecified".
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ColourTags {
    /// `colour_primaries`.
    pub primaries: u8,
    /// `transfer_characteristics`.
    pub transfer: u8,
    /// `matrix_coefficients`.
    pub matrix: u8,
    /// `video_full_range_flag`, when anything is said about it.
    pub full_range: Option<bool>,
}

impl Default for ColourTags {
    fn default() -> Self {
        Self { primaries: 2, transfer: 2, matrix: 2, full_range: None }
    }
}

impl ColourTags {
    /// These tags, and those of `other` where these say nothing.
    pub fn or(self, other: Self) -> Self {
        let pick = |ours: u8, theirs: u8| if ours == 2 { theirs } else { ours };
        Self {
            primaries: pick(self.primaries, other.primaries),
            transfer: pick(self.transfer, other.transfer),
            matrix: pick(self.matrix, other.matrix),
            full_range: self.full_range.or(other.full_range),
        }
    }

    /// How to turn such YUV into RGB; none for matrices without luma weights (RGB, YCgCo).
    pub fn encoding(&self) -> Option<Encoding> {
        let matrix = Matrix::from_code(self.matrix)?;
        Some(Encoding { matrix, full_range: self.full_range.unwrap_or(false) })
    }
}

/// Three 8-bit planes, chroma halved both ways (rounded up for odd sizes).
#[derive(Clone, Copy, Debug)]
pub struct Planes<'a> {
    /// Luma rows, `stride` bytes apart.
    pub y: &'a [u8],
    /// Blue difference.
    pub u: &'a [u8],
    /// Red difference.
    pub v: &'a [u8],
    /// Bytes between luma rows.
    pub stride: usize,
    /// Bytes between chroma rows.
    pub chroma_stride: usize,
}

impl<'a> Planes<'a> {
    /// The luma and both chroma rows of a row of pixels; none when they are shorter.
    fn row(&self, row: usize, width: usize) -> Option<[&'a [u8]; 3]> {
        let chroma = row / 2 * self.chroma_stride;
        Some([
            self.y.get(row * self.stride..)?.get(..width)?,
            self.u.get(chroma..)?.get(..width.div_ceil(2))?,
            self.v.get(chroma..)?.get(..width.div_ceil(2))?,
        ])
    }
}

/// Fraction bits of the fixed-point colour products.
const BITS: u32 = 16;
const HALF: i32 = 1 << (BITS - 1);

fn fixed(value: f64) -> i32 {
    (value * f64::from(1 << BITS)).round() as i32
}

/// The products that turn YUV into RGB.
struct Products {
    black: i32,
    luma: i32,
    red: i32,
    green: [i32; 2],
    blue: i32,
}

impl Products {
    fn new(encoding: Encoding) -> Self {
        let (kr, kb) = encoding.matrix.weights();
        let kg = 1.0 - kr - kb;
        let (black, luma, chroma) =
            if encoding.full_range { (0, 1.0, 1.0) } else { (16, 255.0 / 219.0, 255.0 / 224.0) };
        Self {
            black,
            luma: fixed(luma),
            red: fixed(2.0 * (1.0 - kr) * chroma),
            green: [
                fixed(-2.0 * (1.0 - kb) * kb / kg * chroma),
                fixed(-2.0 * (1.0 - kr) * kr / kg * chroma),
            ],
            blue: fixed(2.0 * (1.0 - kb) * chroma),
        }
    }

    /// What chroma adds to red, green and blue.
    fn chroma(&self, u: u8, v: u8) -> [i32; 3] {
        let (cb, cr) = (i32::from(u) - 128, i32::from(v) - 128);
        let [green_u, green_v] = self.green;
        [self.red * cr, green_u * cb + green_v * cr, self.blue * cb].map(|sum| sum + HALF)
    }

    fn pixel(&self, y: u8, chroma: [i32; 3]) -> [u8; 3] {
        let base = (i32::from(y) - self.black) * self.luma;
        chroma.map(|sum| ((base + sum) >> BITS).clamp(0, 255) as u8)
    }
}

/// YUV 4:2:0 to interleaved RGB; none when the planes are too short for `width` x `height`.
pub fn yuv420_to_rgb(
    planes: Planes<'_>,
    width: usize,
    height: usize,
    encoding: Encoding,
) -> Option<Vec<u8>> {
    let products = Products::new(encoding);
    let mut rgb = vec![0; width * height * 3];
    for (row, out) in rgb.chunks_exact_mut((width * 3).max(1)).enumerate() {
        let [y, u, v] = planes.row(row, width)?;
        // Two pixels of luma share one of chroma; an odd row ends with half a pair.
        for ((pair, y), (u, v)) in out.chunks_mut(6).zip(y.chunks(2)).zip(u.iter().zip(v)) {
            let chroma = products.chroma(*u, *v);
            for (pixel, y) in pair.chunks_exact_mut(3).zip(y) {
                pixel.copy_from_slice(&products.pixel(*y, chroma));
            }
        }
    }
    Some(rgb)
}

/// As [`yuv420_to_rgb`], of the pixels alone where these columns and rows meet; none when the planes are
/// too short for them.
pub fn yuv420_picked(
    planes: Planes<'_>,
    width: usize,
    columns: &[usize],
    rows: &[usize],
    encoding: Encoding,
) -> Option<Vec<u8>> {
    let products = Products::new(encoding);
    let mut rgb = vec![0; columns.len() * rows.len() * 3];
    for (row, out) in rows.iter().zip(rgb.chunks_exact_mut((columns.len() * 3).max(1))) {
        let [y, u, v] = planes.row(*row, width)?;
        for (column, pixel) in columns.iter().zip(out.chunks_exact_mut(3)) {
            let chroma = products.chroma(*u.get(column / 2)?, *v.get(column / 2)?);
            pixel.copy_from_slice(&products.pixel(*y.get(*column)?, chroma));
        }
    }
    Some(rgb)
}

/// A YUV 4:2:0 picture, BT.601 limited range: what the MP4 writer feeds its encoder.
#[derive(Clone, Debug)]
pub struct Yuv420 {
    /// Width in pixels, even.
    pub width: usize,
    /// Height in pixels, even.
    pub height: usize,
    /// `width * height` bytes.
    pub y: Vec<u8>,
    /// A quarter of that.
    pub u: Vec<u8>,
    /// A quarter of that.
    pub v: Vec<u8>,
}

impl Yuv420 {
    /// A picture of even size, black.
    pub fn new(width: usize, height: usize) -> Self {
        debug_assert!(width.is_multiple_of(2) && height.is_multiple_of(2));
        let quarter = width * height / 4;
        let y = vec![16; width * height];
        Self { width, height, y, u: vec![128; quarter], v: vec![128; quarter] }
    }

    /// Converts interleaved RGB of the same size; chroma is the mean of each 2x2 block.
    pub fn set_rgb(&mut self, rgb: &[u8]) {
        debug_assert_eq!(rgb.len(), self.width * self.height * 3);
        let (kr, kb) = Matrix::Bt601.weights();
        let kg = 1.0 - kr - kb;
        let luma = 219.0 / 255.0;
        // Chroma works on the sum of four pixels, hence the quarter.
        let (cb, cr) = (224.0 / 255.0 / (1.0 - kb) / 8.0, 224.0 / 255.0 / (1.0 - kr) / 8.0);
        let [yr, yg, yb] = [kr, kg, kb].map(|k| fixed(k * luma));
        let [ur, ug, ub] = [-kr, -kg, 1.0 - kb].map(|k| fixed(k * cb));
        let [vr, vg, vb] = [1.0 - kr, -kg, -kb].map(|k| fixed(k * cr));
        let width = self.width;
        for (pixel, y) in rgb.chunks_exact(3).zip(&mut self.y) {
            let [r, g, b] = [pixel[0], pixel[1], pixel[2]].map(i32::from);
            *y = (((yr * r + yg * g + yb * b + HALF) >> BITS) + 16) as u8;
        }
        for row in 0..self.height / 2 {
            let top = &rgb[row * 2 * width * 3..][..width * 3];
            let bottom = &rgb[(row * 2 + 1) * width * 3..][..width * 3];
            let chroma = row * (width / 2);
            for (x, (a, b)) in top.chunks_exact(6).zip(bottom.chunks_exact(6)).enumerate() {
                let sum = |c: usize| {
                    i32::from(a[c]) + i32::from(a[c + 3]) + i32::from(b[c]) + i32::from(b[c + 3])
                };
                let (r, g, b) = (sum(0), sum(1), sum(2));
                let byte = |value: i32| (((value + HALF) >> BITS) + 128).clamp(0, 255) as u8;
                self.u[chroma + x] = byte(ur * r + ug * g + ub * b);
                self.v[chroma + x] = byte(vr * r + vg * g + vb * b);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn model_range_round_trips_and_truncates() {
        for v in 0..=255u8 {
            assert_eq!(from_unit(to_unit(v), Rounding::Nearest), v);
        }
        assert_eq!((to_unit(0), to_unit(255)), (-1.0, 1.0));
        // 0.0 is 127.5: the reference truncates it.
        assert_eq!(from_unit(0.0, Rounding::Truncate), 127);
        assert_eq!(from_unit(0.0, Rounding::Nearest), 128);
        assert_eq!(from_unit(-7.0, Rounding::Truncate), 0);
        assert_eq!(from_unit(7.0, Rounding::Truncate), 255);
        assert_eq!(from_unit(f32::NAN, Rounding::Nearest), 0);
    }

    #[test]
    fn planar_layout_is_channel_time_row_column() {
        let (frames, height, width) = (2, 1, 2);
        let video: Vec<f32> = (0..12).map(|i| to_unit(i * 20)).collect();
        let mut rgb = [0; 6];
        planar_to_rgb(&video, frames, 1, height, width, Rounding::Nearest, &mut rgb);
        assert_eq!(rgb, [40, 120, 200, 60, 140, 220]);
    }

    #[test]
    fn flat_colours_survive_yuv() {
        for rgb in [[0, 0, 0], [255; 3], [255, 0, 0], [0, 255, 0], [0, 0, 255], [90, 140, 30]] {
            let mut yuv = Yuv420::new(4, 2);
            yuv.set_rgb(&rgb.repeat(8));
            let planes = Planes { y: &yuv.y, u: &yuv.u, v: &yuv.v, stride: 4, chroma_stride: 2 };
            let back = yuv420_to_rgb(planes, 4, 2, Encoding::default()).unwrap();
            for (a, b) in back.iter().zip(rgb.repeat(8)) {
                assert!(a.abs_diff(b) <= 2, "{rgb:?} became {:?}", &back[..3]);
            }
        }
    }

    #[test]
    fn known_values_of_the_standards() {
        let one = |y, u, v, encoding| {
            let planes = Planes { y: &[y], u: &[u], v: &[v], stride: 1, chroma_stride: 1 };
            yuv420_to_rgb(planes, 1, 1, encoding).unwrap()
        };
        let limited = Encoding::default();
        assert_eq!(one(16, 128, 128, limited), [0, 0, 0]);
        assert_eq!(one(235, 128, 128, limited), [255, 255, 255]);
        assert_eq!(one(81, 90, 240, limited), [254, 0, 0]);
        let full = Encoding { full_range: true, ..limited };
        assert_eq!(one(200, 128, 128, full), [200, 200, 200]);
        let hd = Encoding { matrix: Matrix::Bt709, full_range: false };
        assert_eq!(one(63, 102, 240, hd), [255, 1, 0]);
    }

    #[test]
    fn short_planes_are_refused_and_odd_sizes_work() {
        let planes =
            Planes { y: &[99; 9], u: &[128; 4], v: &[128; 4], stride: 3, chroma_stride: 2 };
        let encoding = Encoding::default();
        assert_eq!(yuv420_to_rgb(planes, 3, 3, encoding).unwrap().len(), 27);
        assert!(yuv420_to_rgb(planes, 4, 4, encoding).is_none());
        assert_eq!(yuv420_picked(planes, 3, &[0, 2], &[2], encoding).unwrap().len(), 6);
        assert!(yuv420_picked(planes, 3, &[0], &[4], encoding).is_none());
        assert!(yuv420_picked(planes, 3, &[3], &[0], encoding).is_none());
    }
}
