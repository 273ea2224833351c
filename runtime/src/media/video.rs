//! H.264 video in MP4 or MOV, decoded without system libraries.
//!
//! Frames come in presentation order with their times; the track's rotation and the stream's
//! colour tags are applied. Edit lists, sound and pixel shape are not: a clip starts at its first
//! frame and pixels are shown as stored. Streams that the decoder does not know (other codecs,
//! 10 bits, 4:2:2, interlaced) are reported as foreign, so that `ffmpeg` may take them.

use super::color::{ColourTags, Encoding, Planes, yuv420_to_rgb};
use super::display::{Display, PixelShape, Turn};
use super::h264::SequenceParameters;
use super::mp4::{self, Track};
use super::{MediaKind, ReadOptions, RgbFrame, SourceInfo, TimedFrame, Visit, guard};
use crate::error::{Error, Result};
use openh264::OpenH264API;
use openh264::decoder::{DecodedYUV, Decoder, DecoderConfig, Flush};
use openh264::formats::YUVSource;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

/// What opening an MP4 file gave.
pub(super) enum Opened {
    /// A stream that we decode ourselves.
    Ready(Box<Mp4Reader>),
    /// Video of another kind, named in words.
    Foreign(String),
}

/// An opened H.264 track.
pub(super) struct Mp4Reader {
    path: PathBuf,
    file: File,
    /// (offset, size) in decoding order.
    samples: Vec<(u64, u64)>,
    /// Presentation times in seconds, ascending.
    times: Vec<f64>,
    /// Seconds that the last frame stays.
    last_duration: f64,
    /// Mean frames a second.
    fps: Option<f64>,
    /// Parameter sets with start codes.
    headers: Vec<u8>,
    length_bytes: usize,
    display: Display,
    encoding: Encoding,
    warnings: Vec<String>,
}

/// Reads the index of an MP4 file and decides who decodes it.
///
/// # Errors
/// `E0808` damaged index, `E0809` no video or no frames, `E0810` cut off, `E0806` too large.
pub(super) fn open(
    path: &Path,
    mut file: File,
    length: u64,
    options: &ReadOptions,
) -> Result<Opened> {
    let index = mp4::read_index(path, &mut file, length)?;
    if index.videos.is_empty() {
        let what = if index.tracks > 0 { "only sound or data tracks" } else { "no tracks" };
        return Err(Error::input("E0809", format!("the file has {what}, no video"))
            .at(path.display())
            .help("give a picture or a clip that shows the person"));
    }
    let Some(track) = index.videos.into_iter().find(|t| t.samples.iter().any(|s| s.size > 0))
    else {
        return Err(no_frames(path));
    };
    prepare(path, file, length, options, &track)
}

fn no_frames(path: &Path) -> Error {
    Error::input("E0809", "the video track holds no frame")
        .at(path.display())
        .help("export the clip again with at least one frame")
}

fn prepare(
    path: &Path,
    file: File,
    length: u64,
    options: &ReadOptions,
    track: &Track,
) -> Result<Opened> {
    let Some(avc) = &track.avc else {
        return Ok(Opened::Foreign(format!("{} in MP4", codec_name(track.codec))));
    };
    // A sample without bytes repeats the one before it and gives no frame of its own.
    let frames: Vec<_> = track.samples.iter().filter(|s| s.size > 0).collect();
    let sets = &avc.sequence_sets;
    let parameters = sets.iter().find_map(|set| SequenceParameters::parse(set));
    let Some(parameters) = parameters else {
        return Err(Error::input("E0808", "the H.264 track has no readable parameter set")
            .at(path.display())
            .help("the file is damaged; export it again"));
    };
    if let Some(obstacle) = parameters.obstacle() {
        return Ok(Opened::Foreign(format!("{obstacle} in MP4")));
    }
    let (width, height) = (u64::from(parameters.width), u64::from(parameters.height));
    options.limits.check(path, width, height, 3)?;

    let mut warnings = Vec::new();
    let pixels = parameters.pixel_aspect.map_or(Some(PixelShape::default()), |(across, down)| {
        PixelShape::new(f64::from(across), f64::from(down))
    });
    let [a, b, c, d] = track.matrix.map(f64::from);
    let turn = Turn::from_matrix(a, b, c, d).unwrap_or_else(|| {
        warnings.push("its rotation is not by quarter turns: not applied".to_string());
        Turn::default()
    });
    let tags = ColourTags::default();
    let display = Display::new(&tags, pixels.unwrap_or_default(), turn);
    warnings.extend(display.warning());

    let count = frames.len();
    let samples: Vec<(u64, u64)> = frames.iter().map(|s| (s.offset, s.size)).collect();
    let outside = |(offset, size): &(u64, u64)| offset.saturating_add(*size) > length;
    if let Some(first) = samples.iter().position(outside) {
        return Err(Error::input(
            "E0810",
            format!("the file is cut off: it ends inside frame {first} (from 0) of {count}"),
        )
        .at(path.display())
        .help("the recording or download did not finish; fetch or export it again"));
    }
    if track.timescale == 0 {
        return Err(Error::input("E0808", "the video track has no clock (timescale 0)")
            .at(path.display())
            .help("the file is damaged; export it again"));
    }
    let seconds = |ticks: i64| ticks as f64 / f64::from(track.timescale);
    let mut ticks: Vec<i64> = frames.iter().map(|s| s.time).collect();
    ticks.sort_unstable();
    let first = ticks[0];
    let times: Vec<f64> = ticks.iter().map(|t| seconds(t.saturating_sub(first))).collect();
    // The tables' own last duration is often missing or wrong: the last frame stays as long as the
    // one before it.
    let last_ticks = match ticks.as_slice() {
        [.., before, last] => last.saturating_sub(*before),
        _ => frames[0].duration,
    };
    let total = ticks[count - 1].saturating_sub(first).saturating_add(last_ticks);
    // In ticks as far as possible, so that 30 frames a second are 30 and not 29.999…
    let fps = (total > 0).then(|| count as f64 * f64::from(track.timescale) / total as f64);
    let mut headers = Vec::new();
    for set in sets.iter().chain(&avc.picture_sets) {
        headers.extend([0, 0, 0, 1]);
        headers.extend(set);
    }
    Ok(Opened::Ready(Box::new(Mp4Reader {
        path: path.to_path_buf(),
        file,
        samples,
        times,
        last_duration: seconds(last_ticks),
        fps,
        headers,
        length_bytes: avc.length_bytes,
        display,
        encoding: parameters.encoding().unwrap_or_default(),
        warnings,
    })))
}

fn codec_name(codec: [u8; 4]) -> String {
    let name = match &codec {
        b"av01" => "AV1",
        b"hvc1" | b"hev1" => "HEVC (H.265)",
        b"vp08" => "VP8",
        b"vp09" => "VP9",
        b"avc1" | b"avc3" => "H.264 without parameter sets in the index",
        b"dvh1" | b"dvhe" => "Dolby Vision HEVC",
        b"mp4v" => "MPEG-4 Part 2",
        b"jpeg" | b"mjpa" | b"mjpb" => "Motion JPEG",
        b"apch" | b"apcn" | b"apcs" | b"apco" | b"ap4h" | b"ap4x" => "ProRes",
        b"encv" => "encrypted video",
        b"s263" | b"h263" => "H.263",
        other => return format!("video with the codec `{}`", other.escape_ascii()),
    };
    name.to_string()
}

/// How decoding ended.
enum Flow {
    Continue,
    Stop,
}

impl Mp4Reader {
    /// Decodes and hands out the frames.
    ///
    /// # Errors
    /// `E0810` at the first frame that cannot be decoded, `E0812`, and what `visit` returns.
    pub(super) fn visit(mut self, options: &ReadOptions, visit: Visit<'_>) -> Result<SourceInfo> {
        let count = self.samples.len();
        let path = self.path.clone();
        let failed = |what: String| {
            Error::input("E0810", what).at(path.display()).help(
                "the file is damaged there; export it again, or convert it: \
                 ffmpeg -i IN -c:v libx264 OUT.mp4",
            )
        };
        // The decoder must not flush after each frame: with B-frames it would give frames out of
        // order and lose references.
        let config = DecoderConfig::new().flush_after_decode(Flush::NoFlush);
        let mut decoder = Decoder::with_api_config(OpenH264API::from_source(), config)
            .map_err(|e| Error::internal("E0812", "no H.264 decoder").caused_by(e))?;
        let mut out = Output { shown: 0, size: None };
        let mut packet = Vec::new();
        let mut raw = Vec::new();
        let mut flow = Flow::Continue;
        for index in 0..count {
            let (offset, size) = self.samples[index];
            raw.resize(size as usize, 0);
            self.file
                .seek(SeekFrom::Start(offset))
                .and_then(|_| self.file.read_exact(&mut raw))
                .map_err(|e| super::unreadable(&path, e))?;
            packet.clear();
            if index == 0 {
                packet.extend(&self.headers);
            }
            if !to_start_codes(&raw, self.length_bytes, &mut packet) {
                return Err(failed(format!(
                    "frame {index} (from 0) of {count} is not valid H.264"
                )));
            }
            let encoding = self.encoding;
            let frame = guard(&path, &format!("frame {index} of {count}"), || {
                decoder.decode(&packet).map(|yuv| yuv.map(|yuv| to_rgb(&yuv, encoding)))
            })?
            .map_err(|e| {
                failed(format!("frame {index} (from 0) of {count} cannot be decoded")).caused_by(e)
            })?;
            if let Some(frame) = frame {
                flow = self.show(&mut out, frame, options, visit)?;
            }
            if matches!(flow, Flow::Stop) {
                break;
            }
        }
        if matches!(flow, Flow::Continue) {
            let encoding = self.encoding;
            let rest = guard(&path, "the last frames", || {
                let rest = decoder.flush_remaining();
                rest.map(|all| all.iter().map(|yuv| to_rgb(yuv, encoding)).collect::<Vec<_>>())
            })?
            .map_err(|e| failed("the last frames cannot be decoded".to_string()).caused_by(e))?;
            for frame in rest {
                flow = self.show(&mut out, frame, options, visit)?;
                if matches!(flow, Flow::Stop) {
                    break;
                }
            }
        }
        let whole = matches!(flow, Flow::Continue);
        if whole && out.shown < count {
            let shown = out.shown;
            return Err(failed(format!("only {shown} of {count} frames can be decoded")));
        }
        let (width, height) = out.size.unwrap_or((0, 0));
        let still = whole && out.shown == 1;
        Ok(SourceInfo {
            path,
            kind: if still { MediaKind::Image } else { MediaKind::Video },
            width,
            height,
            fps: if still { None } else { self.fps },
            frames: out.shown,
            description: "H.264 in MP4".to_string(),
            warnings: self.warnings,
        })
    }

    fn show(
        &self,
        out: &mut Output,
        frame: Option<RgbFrame>,
        options: &ReadOptions,
        visit: Visit<'_>,
    ) -> Result<Flow> {
        let index = out.shown;
        let Some(frame) = frame else {
            return Err(Error::input("E0810", format!("frame {index} (from 0) is incomplete"))
                .at(self.path.display())
                .help("the file is damaged there; export it again"));
        };
        options.limits.check(&self.path, frame.width as u64, frame.height as u64, 3)?;
        let image = self.display.show(frame);
        let size = (image.width, image.height);
        if *out.size.get_or_insert(size) != size {
            return Err(Error::input(
                "E0810",
                format!("the picture size changes at frame {index}"),
            )
            .at(self.path.display())
            .help("convert the clip to one size: ffmpeg -i IN -c:v libx264 OUT.mp4"));
        }
        // The decoder gives frames in presentation order, so the n-th has the n-th time.
        let last = self.times.len() - 1;
        let time = self.times[index.min(last)];
        let duration = match self.times.get(index + 1) {
            Some(next) => next - time,
            None => self.last_duration,
        };
        out.shown += 1;
        Ok(match visit(TimedFrame { image, time, duration })? {
            ControlFlow::Continue(()) => Flow::Continue,
            ControlFlow::Break(()) => Flow::Stop,
        })
    }
}

/// Frames given so far, and their size.
struct Output {
    shown: usize,
    size: Option<(usize, usize)>,
}

/// Turns length-prefixed NAL units into start-code form; false when the lengths do not add up.
fn to_start_codes(sample: &[u8], length_bytes: usize, out: &mut Vec<u8>) -> bool {
    let mut rest = sample;
    while !rest.is_empty() {
        let Some((prefix, tail)) = rest.split_at_checked(length_bytes) else { return false };
        let length = prefix.iter().fold(0usize, |value, byte| value << 8 | usize::from(*byte));
        let Some((nal, tail)) = tail.split_at_checked(length) else { return false };
        out.extend([0, 0, 0, 1]);
        out.extend(nal);
        rest = tail;
    }
    true
}

/// None when the decoder's planes are shorter than its picture.
fn to_rgb(yuv: &DecodedYUV<'_>, encoding: Encoding) -> Option<RgbFrame> {
    let (width, height) = yuv.dimensions();
    let (stride, chroma_stride, _) = yuv.strides();
    let planes = Planes { y: yuv.y(), u: yuv.u(), v: yuv.v(), stride, chroma_stride };
    let data = yuv420_to_rgb(planes, width, height, encoding)?;
    Some(RgbFrame { width, height, data })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nal_lengths_must_add_up() {
        let mut out = Vec::new();
        assert!(to_start_codes(&[0, 2, 7, 8, 0, 1, 9], 2, &mut out));
        assert_eq!(out, [0, 0, 0, 1, 7, 8, 0, 0, 0, 1, 9]);
        assert!(!to_start_codes(&[0, 9, 1], 2, &mut Vec::new()));
        assert!(!to_start_codes(&[0], 2, &mut Vec::new()));
        assert!(!to_start_codes(&[255; 4], 4, &mut Vec::new()));
    }
}
