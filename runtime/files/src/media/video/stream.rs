//! How the frames of one sample description are decoded and shown.
//!
//! Container and stream may speak of the same things. Colours: the stream wins (`h264.rs`). The
//! shape of pixels: the container wins, first by an uneven matrix, then by `pasp`, then by the size
//! that the track is scaled to; all as in ffmpeg, so that both readers agree. The clean aperture is
//! applied, as QuickTime and newer ffmpeg do.

use super::units::with_start_code;
use crate::media::color::Encoding;
use crate::media::display::{Display, PixelShape, Turn};
use crate::media::h264::SequenceParameters;
use crate::media::mp4::{Description, Track};

/// What decoding frames of one description needs.
#[derive(Clone, Debug)]
pub(super) struct Stream {
    /// Bytes of the length before every NAL unit.
    pub length_bytes: usize,
    /// Parameter sets of the index, with start codes.
    pub headers: Vec<u8>,
    /// The sequence parameter sets that `encoding` and `display` are made from.
    pub sets: Vec<Vec<u8>>,
    /// From YUV to RGB.
    pub encoding: Encoding,
    /// From RGB to what is seen.
    pub display: Display,
    /// Pixels of a frame in the decoder, at least.
    pub pixels: u64,
}

impl Stream {
    /// For a description of `track` and the parameters of its stream, which the decoder knows.
    pub(super) fn new(
        parameters: &SequenceParameters,
        track: &Track,
        description: usize,
        warnings: &mut Vec<String>,
    ) -> Self {
        let description = &track.descriptions[description];
        let mut warn = |warning: String| {
            if !warnings.contains(&warning) {
                warnings.push(warning);
            }
        };
        let [a, b, c, d] = track.matrix;
        let turn = Turn::from_matrix(a, b, c, d).unwrap_or_else(|| {
            warn("its rotation is not by quarter turns: not applied".to_string());
            Turn::default()
        });
        let pixels = match pixel_aspect(parameters, track, description) {
            None => PixelShape::default(),
            Some((across, down)) => PixelShape::new(across, down).unwrap_or_else(|| {
                warn(format!("its pixels are said to be {across}:{down}: shown as stored"));
                PixelShape::default()
            }),
        };
        let tags = parameters.tags(description.tags);
        let mut display = Display::new(&tags, pixels, turn);
        display.crop = description.aperture;
        if let Some(crop) = display.crop {
            warn(format!("cropped to its clean aperture of {}x{}", crop.width, crop.height));
        }
        if description.fields {
            warn("the file calls it interlaced: its lines are shown as stored".to_string());
        }
        display.warning().map(warn);

        let (mut headers, mut length_bytes) = (Vec::new(), 4);
        if let Some(avc) = &description.avc {
            length_bytes = avc.length_bytes;
            for set in avc.sequence_sets.iter().chain(&avc.picture_sets) {
                with_start_code(set, &mut headers);
            }
        }
        let encoding = tags.encoding().unwrap_or_default();
        let pixels = u64::from(parameters.width) * u64::from(parameters.height);
        Self { length_bytes, headers, sets: Vec::new(), encoding, display, pixels }
    }
}

/// Width and height of a pixel; none where nothing is said.
fn pixel_aspect(
    parameters: &SequenceParameters,
    track: &Track,
    description: &Description,
) -> Option<(f64, f64)> {
    let [a, b, c, d] = track.matrix;
    // How much the matrix stretches the stored rows and columns.
    let (across, down) = (a.hypot(b), c.hypot(d));
    if across > 0.0 && down > 0.0 && (across / down - 1.0).abs() > 0.01 {
        return Some((across, down));
    }
    if let Some((across, down)) = description.pixel_aspect
        && across > 0
        && down > 0
    {
        return Some((f64::from(across), f64::from(down)));
    }
    let (width, height) = (f64::from(description.size.0), f64::from(description.size.1));
    let (shown_width, shown_height) = (track.size.0.floor(), track.size.1.floor());
    let said = [width, height, shown_width, shown_height].iter().all(|side| *side > 0.0);
    let same = (shown_width, shown_height) == (width, height);
    // Some writers give the size after the turn; that says nothing of the pixels.
    let turned = (shown_height, shown_width) == (width, height);
    // Joined clips share one size of the track, which was meant for the first.
    let first = track.descriptions.len() == 1;
    if said && !same && !turned && first {
        return Some((shown_width * height, shown_height * width));
    }
    let (across, down) = parameters.pixel_aspect?;
    (across > 0 && down > 0).then(|| (f64::from(across), f64::from(down)))
}
