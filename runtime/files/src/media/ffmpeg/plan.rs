//! How the frames of a stream become RGB: what `ffmpeg` is asked for, and what is left to us.
//!
//! `ffmpeg` deinterlaces and turns its pixel format into RGB of the stored size, by the matrix and
//! range that we name; what nobody says is taken as our own reader takes it (BT.601, limited).
//! Transparency on black, tone mapping, pixel shape and turn are ours, so that a clip looks the
//! same whoever decodes it. Formats are known by the names that `ffmpeg` gives them.

use super::log::Note;
use crate::media::RgbFrame;
use crate::media::color::{ColourTags, Matrix};
use crate::media::display::{Display, PixelShape, Turn};

/// What the samples of a pixel format are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Family {
    Yuv,
    Grey,
    Rgb,
}

fn family(format: &str) -> Family {
    let starts = |list: &[&str]| list.iter().any(|prefix| format.starts_with(prefix));
    // Bayer patterns and XYZ become RGB by rules of their own.
    if starts(&["rgb", "bgr", "gbr", "argb", "abgr", "0rgb", "0bgr", "x2", "pal8", "xyz", "bayer"])
    {
        Family::Rgb
    } else if starts(&["gray", "ya8", "ya16", "yaf", "mono"]) {
        Family::Grey
    } else {
        Family::Yuv
    }
}

fn has_alpha(format: &str) -> bool {
    ["yuva", "rgba", "bgra", "argb", "abgr", "gbrap", "ya8", "ya16", "yaf", "pal8", "ayuv", "vuya"]
        .iter()
        .any(|prefix| format.starts_with(prefix))
}

/// The conversion of one stream.
pub(super) struct Plan {
    /// Stored size of a frame.
    pub width: usize,
    /// Stored size of a frame.
    pub height: usize,
    display: Display,
    alpha: bool,
    filters: String,
    /// What the user should know about it.
    pub warnings: Vec<String>,
}

impl Plan {
    /// For a stream whose first frame is `note`. A picture's pixels are square whatever it says (its
    /// resolution in print is meant), and it is never interlaced.
    pub(super) fn new(note: &Note, picture: bool) -> Self {
        let (width, height) = note.size;
        let mut warnings = Vec::new();
        let shape = match note.pixels {
            _ if picture => PixelShape::default(),
            // Zeros mean that nobody said anything.
            (0, _) | (_, 0) => PixelShape::default(),
            (across, down) => PixelShape::new(across as f64, down as f64).unwrap_or_else(|| {
                let what = format!("its pixels are said to be {across}:{down}: not believed");
                warnings.push(what);
                PixelShape::default()
            }),
        };
        let display = Display::new(&note.tags, shape, Turn::default());
        warnings.extend(display.warning());
        let mut filters = String::from("showinfo=checksum=0");
        if note.interlaced && !picture {
            filters.push_str(",yadif=mode=send_frame:parity=auto:deint=interlaced");
            warnings.push("interlaced: its fields are blended into whole frames".to_string());
        }
        let range = |full: bool| if full { ":in_range=pc" } else { ":in_range=tv" };
        let source = match family(&note.format) {
            Family::Rgb => String::new(),
            Family::Grey => range(note.tags.full_range.unwrap_or(true)).to_string(),
            Family::Yuv => {
                let full = note.tags.full_range.unwrap_or(note.format.starts_with("yuvj"));
                let matrix = matrix(&note.tags, &mut warnings);
                format!(":in_color_matrix={}{}", word(matrix), range(full))
            }
        };
        let alpha = has_alpha(&note.format);
        let format = match (display.tone.is_some(), alpha) {
            (false, false) => "rgb24",
            (false, true) => "rgba",
            (true, false) => "rgb48le",
            (true, true) => "rgba64le",
        };
        // Chroma repeated, as our own reader does it; the size named, so that a stream that changes
        // it half way still gives frames of one size.
        filters.push_str(&format!(
            ",scale={width}:{height}{source}:out_range=pc\
             :flags=neighbor+accurate_rnd+full_chroma_int,format={format}"
        ));
        Self { width, height, display, alpha, filters, warnings }
    }

    /// The filters that `ffmpeg` puts the frames through.
    pub(super) fn filters(&self) -> &str {
        &self.filters
    }

    /// Bytes of one frame as `ffmpeg` gives it.
    pub(super) fn frame_bytes(&self) -> usize {
        let samples = if self.alpha { 4 } else { 3 };
        let depth = if self.display.tone.is_some() { 2 } else { 1 };
        self.width * self.height * samples * depth
    }

    /// Width and height as shown.
    pub(super) fn size(&self) -> (usize, usize) {
        self.display.size(self.width, self.height)
    }

    /// A frame as it is to be seen, from the bytes that `ffmpeg` gave.
    pub(super) fn show(&self, raw: Vec<u8>) -> RgbFrame {
        let (width, height) = (self.width, self.height);
        if self.display.tone.is_some() {
            let values: Vec<u16> =
                raw.chunks_exact(2).map(|v| u16::from_le_bytes([v[0], v[1]])).collect();
            let values = if self.alpha { over_black(&values, u16::MAX) } else { values };
            return self.display.show_deep(width, height, &values);
        }
        let data = if self.alpha { over_black(&raw, u8::MAX) } else { raw };
        self.display.show(RgbFrame { width, height, data })
    }
}

/// Pixels with an opacity, before black.
fn over_black<T: Copy + Into<u64> + TryFrom<u64>>(rgba: &[T], most: T) -> Vec<T> {
    let most: u64 = most.into();
    let over = |value: T, alpha: T| {
        let product: u64 = value.into() * alpha.into();
        T::try_from((product + most / 2) / most).unwrap_or(value)
    };
    rgba.chunks_exact(4).flat_map(|p| [p[0], p[1], p[2]].map(|value| over(value, p[3]))).collect()
}

/// The luma weights to use, and a warning when they are only the nearest we have.
fn matrix(tags: &ColourTags, warnings: &mut Vec<String>) -> Matrix {
    if let Some(matrix) = Matrix::from_code(tags.matrix) {
        return matrix;
    }
    let (name, nearest) = match tags.matrix {
        // Derived from the primaries: those of BT.2020 and BT.709 give their own matrices.
        12 | 13 if tags.primaries == 9 => return Matrix::Bt2020,
        12 | 13 if tags.primaries == 1 => return Matrix::Bt709,
        10 => ("BT.2020 with constant luminance", Matrix::Bt2020),
        8 => ("YCgCo", Matrix::Bt601),
        14 => ("ICtCp", Matrix::Bt2020),
        15 => ("IPT (Dolby Vision)", Matrix::Bt2020),
        0 => ("RGB in planes of YUV", Matrix::Bt601),
        _ => ("of an unknown kind", Matrix::Bt601),
    };
    warnings.push(format!(
        "its colours are coded as {name}, which is read as {}: they will be off",
        nearest.name()
    ));
    nearest
}

/// The scaler's word for a matrix.
fn word(matrix: Matrix) -> &'static str {
    match matrix {
        Matrix::Bt601 => "bt601",
        Matrix::Bt709 => "bt709",
        Matrix::Bt2020 => "bt2020",
        Matrix::Fcc => "fcc",
        Matrix::Smpte240 => "smpte240m",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn note(format: &str, matrix: u8, full_range: Option<bool>) -> Note {
        let tags = ColourTags { matrix, full_range, ..ColourTags::default() };
        Note { format: format.to_string(), size: (8, 6), tags, ..Note::default() }
    }

    #[test]
    fn what_nobody_says_is_taken_as_our_own_reader_takes_it() {
        let plan = Plan::new(&note("yuv420p", 2, None), false);
        assert!(plan.filters().contains("scale=8:6:in_color_matrix=bt601:in_range=tv:"));
        assert_eq!((plan.frame_bytes(), plan.size()), (8 * 6 * 3, (8, 6)));
        assert!(plan.warnings.is_empty());
        for (format, matrix, full, expected) in [
            ("yuvj420p", 2, None, "in_color_matrix=bt601:in_range=pc"),
            ("yuv420p10le", 9, Some(false), "in_color_matrix=bt2020:in_range=tv"),
            ("yuv444p", 1, Some(true), "in_color_matrix=bt709:in_range=pc"),
            ("gray", 2, None, "scale=8:6:in_range=pc"),
            ("rgb24", 0, None, "scale=8:6:out_range"),
        ] {
            let plan = Plan::new(&note(format, matrix, full), false);
            assert!(plan.filters().contains(expected), "{format}: {}", plan.filters());
        }
    }

    #[test]
    fn shapes_fields_and_odd_matrices_are_told() {
        let mut wide = note("yuv420p", 2, None);
        wide.pixels = (4, 3);
        let plan = Plan::new(&wide, false);
        assert_eq!((plan.size(), plan.frame_bytes()), ((11, 6), 8 * 6 * 3));
        assert_eq!(Plan::new(&wide, true).size(), (8, 6));
        wide.pixels = (1, 65535);
        assert_eq!(Plan::new(&wide, false).warnings.len(), 1);
        let mut fields = note("yuv420p", 2, None);
        fields.interlaced = true;
        let plan = Plan::new(&fields, false);
        assert!(plan.filters().contains("yadif") && plan.warnings[0].contains("interlaced"));
        let plan = Plan::new(&note("yuv420p10le", 15, None), false);
        assert!(plan.warnings[0].contains("Dolby Vision"));
    }

    #[test]
    fn transparent_pixels_are_before_black() {
        let plan = Plan::new(&note("rgba", 2, None), false);
        assert_eq!(plan.frame_bytes(), 8 * 6 * 4);
        let shown = plan.show([250, 100, 50, 128].repeat(48));
        assert_eq!(shown.data, [125, 50, 25].repeat(48));
        assert_eq!(over_black(&[65535u16, 1000, 0, 32768], u16::MAX), [32768, 500, 0]);
    }

    #[test]
    fn high_dynamic_range_travels_in_sixteen_bits() {
        let mut hlg = note("yuv420p10le", 9, Some(false));
        (hlg.tags.primaries, hlg.tags.transfer) = (9, 18);
        let plan = Plan::new(&hlg, false);
        assert!(plan.filters().ends_with("format=rgb48le") && !plan.warnings.is_empty());
        assert_eq!(plan.frame_bytes(), 8 * 6 * 6);
        assert_eq!(plan.show(vec![0xff; 8 * 6 * 6]).data, [255; 8 * 6 * 3]);
        assert_eq!(plan.show(vec![0; 8 * 6 * 6]).data, [0; 8 * 6 * 3]);
    }
}
