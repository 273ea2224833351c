//! Colours that 8-bit BT.709 pictures cannot hold, brought to what they can: HLG and PQ (HDR) are
//! tone-mapped, wide-gamut SDR is converted.
//!
//! Works on RGB after the luma matrix, pixel by pixel: to display light relative to the reference
//! white of 203 cd/m² (ITU-R BT.2408), the roll-off of BT.2390 §5.4 on the largest component
//! (which keeps the hue), the primaries' matrix, clipping, and the BT.1886 curve of SDR displays.
//! Mastering metadata is not read: the brightest highlights are taken to be 1000 cd/m².

use super::color::ColourTags;

/// Reference white in cd/m²: what becomes "white" in SDR, before the roll-off.
const WHITE: f64 = 203.0;
/// Nominal peak in cd/m²: that of an HLG display, and what most PQ clips are mastered for.
const PEAK: f64 = 1000.0;
/// Exponent of SDR displays (ITU-R BT.1886).
const SDR_GAMMA: f64 = 2.4;
/// Entries of the tables over square roots of light.
const STEPS: usize = 4096;

/// How coded values become light.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Curve {
    /// The ordinary curves of video and pictures, all shown through the same one.
    Video,
    /// Light itself.
    Linear,
    /// Hybrid log-gamma (ARIB STD-B67).
    Hlg,
    /// SMPTE ST 2084.
    Pq,
}

impl Curve {
    /// From `transfer_characteristics` of ITU-T H.273.
    fn from_code(code: u8) -> Self {
        match code {
            8 => Self::Linear,
            16 => Self::Pq,
            18 => Self::Hlg,
            _ => Self::Video,
        }
    }

    /// Light of a coded value in 0..=1; 1 is white. HLG gives scene light, which needs the display's
    /// system gamma still.
    fn light(self, value: f64) -> f64 {
        match self {
            Self::Video => value.powf(SDR_GAMMA),
            Self::Linear => value,
            Self::Hlg => {
                let (a, b, c) = (0.178_832_77, 0.284_668_92, 0.559_910_73);
                if value <= 0.5 {
                    value * value / 3.0
                } else {
                    (((value - c) / a).exp() + b) / 12.0
                }
            }
            Self::Pq => pq_light(value) / WHITE,
        }
    }
}

const PQ_M1: f64 = 2610.0 / 16384.0;
const PQ_M2: f64 = 2523.0 / 4096.0 * 128.0;
const PQ_C1: f64 = 3424.0 / 4096.0;
const PQ_C2: f64 = 2413.0 / 4096.0 * 32.0;
const PQ_C3: f64 = 2392.0 / 4096.0 * 32.0;

/// cd/m² of a PQ value.
fn pq_light(value: f64) -> f64 {
    let root = value.powf(1.0 / PQ_M2);
    10_000.0 * ((root - PQ_C1).max(0.0) / (PQ_C2 - PQ_C3 * root)).powf(1.0 / PQ_M1)
}

/// PQ value of cd/m².
fn pq_value(light: f64) -> f64 {
    let root = (light / 10_000.0).powf(PQ_M1);
    ((PQ_C1 + PQ_C2 * root) / (1.0 + PQ_C3 * root)).powf(PQ_M2)
}

/// The roll-off of BT.2390 from a peak of 1000 cd/m² to white; both sides relative to white.
fn roll_off(light: f64) -> f64 {
    let source = pq_value(PEAK);
    let value = (pq_value(light * WHITE) / source).min(1.0);
    let limit = pq_value(WHITE) / source;
    let knee = 1.5 * limit - 0.5;
    if value < knee {
        return light;
    }
    let t = (value - knee) / (1.0 - knee);
    let (t2, t3) = (t * t, t * t * t);
    let value = (2.0 * t3 - 3.0 * t2 + 1.0) * knee
        + (t3 - 2.0 * t2 + t) * (1.0 - knee)
        + (3.0 * t2 - 2.0 * t3) * limit;
    pq_light(value * source) / WHITE
}

type Square = [[f64; 3]; 3];

/// Chromaticities x, y of red, green and blue for the primaries that are converted.
fn chromaticities(code: u8) -> Option<(&'static str, [(f64, f64); 3])> {
    match code {
        9 => Some(("BT.2020", [(0.708, 0.292), (0.170, 0.797), (0.131, 0.046)])),
        11 | 12 => Some(("P3", [(0.680, 0.320), (0.265, 0.690), (0.150, 0.060)])),
        _ => None,
    }
}

/// RGB with these primaries and the white of D65 to XYZ.
fn to_xyz(primaries: [(f64, f64); 3]) -> Square {
    let mut columns: Square = [[0.0; 3]; 3];
    for (index, (x, y)) in primaries.into_iter().enumerate() {
        (columns[0][index], columns[1][index], columns[2][index]) = (x / y, 1.0, (1.0 - x - y) / y);
    }
    let (x, y) = (0.3127, 0.3290);
    let scale = times(inverse(columns), [x / y, 1.0, (1.0 - x - y) / y]);
    columns.map(|row| [row[0] * scale[0], row[1] * scale[1], row[2] * scale[2]])
}

fn times(m: Square, v: [f64; 3]) -> [f64; 3] {
    m.map(|row| row[0] * v[0] + row[1] * v[1] + row[2] * v[2])
}

fn inverse(m: Square) -> Square {
    let minor = |r: usize, c: usize| {
        let (r1, r2, c1, c2) = ((r + 1) % 3, (r + 2) % 3, (c + 1) % 3, (c + 2) % 3);
        m[r1][c1] * m[r2][c2] - m[r1][c2] * m[r2][c1]
    };
    let determinant = (0..3).map(|c| m[0][c] * minor(0, c)).sum::<f64>();
    std::array::from_fn(|r| std::array::from_fn(|c| minor(c, r) / determinant))
}

/// The matrix from these primaries to those of BT.709.
fn to_bt709(primaries: [(f64, f64); 3]) -> Square {
    let back = inverse(to_xyz([(0.640, 0.330), (0.300, 0.600), (0.150, 0.060)]));
    let there = to_xyz(primaries);
    back.map(|row| std::array::from_fn(|c| (0..3).map(|k| row[k] * there[k][c]).sum::<f64>()))
}

/// A conversion to SDR BT.709, with its tables.
#[derive(Clone)]
pub(super) struct ToneMap {
    /// What it does, for a warning.
    what: String,
    /// Light of each 16-bit value.
    light: Vec<f32>,
    /// The display's system gamma as a factor, over the square root of scene luminance (HLG only).
    system: Option<Vec<f32>>,
    /// Factors of the roll-off over the square root of light (HDR only).
    roll: Option<Vec<f32>>,
    /// To the primaries of BT.709.
    matrix: [[f32; 3]; 3],
    /// Bytes over the square root of light.
    bytes: Vec<u8>,
}

impl std::fmt::Debug for ToneMap {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "ToneMap({})", self.what)
    }
}

/// Most light that the roll-off table holds, relative to white: the peak.
const MOST: f64 = PEAK / WHITE;

impl ToneMap {
    /// What frames with these tags need; none when they are SDR of ordinary primaries (or say
    /// nothing). HDR without primaries is taken as BT.2020.
    pub(super) fn new(tags: &ColourTags) -> Option<Self> {
        let curve = Curve::from_code(tags.transfer);
        let hdr = matches!(curve, Curve::Hlg | Curve::Pq);
        let primaries = if hdr && tags.primaries == 2 { 9 } else { tags.primaries };
        let wide = chromaticities(primaries);
        let what = match (curve, wide) {
            (Curve::Hlg, _) => "HLG clip, tone-mapped to SDR".to_string(),
            (Curve::Pq, _) => "PQ (HDR10) clip, tone-mapped to SDR".to_string(),
            (Curve::Linear, _) => "linear-light clip, converted to the curve of SDR".to_string(),
            (Curve::Video, Some((name, _))) => format!("{name} colours, converted to BT.709"),
            (Curve::Video, None) => return None,
        };
        let identity = [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]];
        let matrix = wide.map_or(identity, |(_, primaries)| to_bt709(primaries));
        // Squares, so that the dark values, where the eye sees most, get most entries.
        let table = |most: f64, f: &dyn Fn(f64) -> f64| -> Vec<f32> {
            let light = |i: usize| (i as f64 / (STEPS - 1) as f64).powi(2) * most;
            (0..STEPS).map(|i| f(light(i)) as f32).collect()
        };
        let byte = |light: f64| (light.powf(1.0 / SDR_GAMMA) * 255.0).round();
        Some(Self {
            what,
            light: (0..=u16::MAX).map(|v| curve.light(f64::from(v) / 65535.0) as f32).collect(),
            // Gamma 1.2 of a 1000 cd/m² display (BT.2100), as the factor beyond the first power.
            system: (curve == Curve::Hlg).then(|| table(1.0, &|y| MOST * y.powf(0.2))),
            roll: hdr.then(|| {
                table(MOST, &|light| if light > 0.0 { roll_off(light) / light } else { 1.0 })
            }),
            matrix: matrix.map(|row| row.map(|v| v as f32)),
            bytes: table(1.0, &byte).into_iter().map(|v| v as u8).collect(),
        })
    }

    /// What is done to the frames, in words for a warning.
    pub(super) fn warning(&self) -> &str {
        &self.what
    }

    /// Converts interleaved 8-bit RGB in place.
    pub(super) fn apply(&self, rgb: &mut [u8]) {
        for pixel in rgb.chunks_exact_mut(3) {
            let values = [pixel[0], pixel[1], pixel[2]].map(|v| u16::from(v) * 257);
            pixel.copy_from_slice(&self.convert(values));
        }
    }

    /// Converts interleaved 16-bit RGB.
    pub(super) fn convert_deep(&self, rgb: &[u16]) -> Vec<u8> {
        rgb.chunks_exact(3).flat_map(|p| self.convert([p[0], p[1], p[2]])).collect()
    }

    fn convert(&self, values: [u16; 3]) -> [u8; 3] {
        let mut light = values.map(|v| self.light[usize::from(v)]);
        if let Some(system) = &self.system {
            let luminance = 0.2627 * light[0] + 0.6780 * light[1] + 0.0593 * light[2];
            let factor = look_up(system, luminance);
            light = light.map(|v| v * factor);
        }
        if let Some(roll) = &self.roll {
            let largest = light[0].max(light[1]).max(light[2]);
            let peak = MOST as f32;
            let factor = look_up(roll, largest / peak);
            // Beyond the table the light is clipped at white.
            let factor = if largest > peak { 1.0 / largest } else { factor };
            light = light.map(|v| v * factor);
        }
        let [r, g, b] = light;
        self.matrix.map(|row| look_up(&self.bytes, row[0] * r + row[1] * g + row[2] * b))
    }
}

/// The entry for a value in 0..=1, by its square root; others are clipped.
fn look_up<T: Copy>(table: &[T], value: f32) -> T {
    let index = value.clamp(0.0, 1.0).sqrt() * (table.len() - 1) as f32;
    table[(index + 0.5) as usize]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tags(primaries: u8, transfer: u8) -> ColourTags {
        ColourTags { primaries, transfer, ..ColourTags::default() }
    }

    fn one(map: &ToneMap, rgb: [u8; 3]) -> [u8; 3] {
        let mut pixel = rgb;
        map.apply(&mut pixel);
        pixel
    }

    #[test]
    fn ordinary_colours_need_nothing() {
        for (primaries, transfer) in [(2, 2), (1, 1), (5, 6), (6, 13), (1, 14)] {
            assert!(ToneMap::new(&tags(primaries, transfer)).is_none());
        }
    }

    #[test]
    fn curves_of_hdr_match_their_standards() {
        // BT.2408: reference white is 75 % of HLG and 58 % of PQ, 18 % grey 38 % of both.
        let hlg = Curve::Hlg.light(0.75);
        assert!((hlg.powf(1.2) * PEAK - WHITE).abs() < 1.0, "{hlg}");
        assert!((pq_value(WHITE) - 0.58).abs() < 0.002);
        assert!((pq_light(0.38) - 26.0).abs() < 2.0);
        assert!((pq_light(1.0) - 10_000.0).abs() < 1e-6);
        for light in [0.01, 1.0, 100.0, 4000.0] {
            assert!((pq_light(pq_value(light)) / light - 1.0).abs() < 1e-9);
        }
        assert!((Curve::Hlg.light(1.0) - 1.0).abs() < 1e-6);
    }

    #[test]
    fn the_roll_off_keeps_the_dark_and_ends_at_white() {
        assert_eq!(roll_off(0.2), 0.2);
        assert!((roll_off(MOST) - 1.0).abs() < 1e-9);
        let steps: Vec<f64> = (0..=100).map(|i| roll_off(f64::from(i) / 100.0 * MOST)).collect();
        assert!(steps.windows(2).all(|pair| pair[0] <= pair[1]), "{steps:?}");
    }

    #[test]
    fn hdr_greys_stay_grey_and_keep_their_places() {
        for (transfer, white) in [(18, 191), (16, 148)] {
            let map = ToneMap::new(&tags(9, transfer)).unwrap();
            let greys: Vec<[u8; 3]> = (0..=255).map(|v| one(&map, [v; 3])).collect();
            assert!(greys.iter().all(|g| g[0] == g[1] && g[1] == g[2]), "{greys:?}");
            assert!(greys.windows(2).all(|pair| pair[0][0] <= pair[1][0]));
            assert_eq!((greys[0], greys[255]), ([0; 3], [255; 3]));
            // Reference white is light but not the lightest; middle grey about as in SDR (0.409).
            let (white, grey) = (greys[white][0], greys[97][0]);
            assert!((225..245).contains(&white) && (100..118).contains(&grey), "{white} {grey}");
        }
    }

    #[test]
    fn wide_primaries_become_more_saturated() {
        // Values by an independent evaluation of the published matrices (BT.2087, P3 D65).
        let bt2020 = ToneMap::new(&tags(9, 14)).unwrap();
        assert_eq!(one(&bt2020, [128; 3]), [128; 3]);
        let skin = one(&bt2020, [200, 150, 120]);
        let m =
            [[1.6605, -0.5876, -0.0728], [-0.1246, 1.1329, -0.0083], [-0.0182, -0.1006, 1.1187]];
        let light = [200.0f64, 150.0, 120.0].map(|v| (v / 255.0).powf(2.4));
        for (value, light) in skin.iter().zip(times(m, light)) {
            let exact = light.powf(1.0 / 2.4) * 255.0;
            assert!((f64::from(*value) - exact).abs() <= 1.0, "{skin:?} {exact}");
        }
        let p3 = ToneMap::new(&tags(12, 13)).unwrap();
        assert_eq!(one(&p3, [255, 0, 0])[1..], [0, 0]);
        assert!(p3.warning().contains("P3"));
    }
}
