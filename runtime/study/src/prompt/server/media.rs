//! What is sent of a clip (`prompts.md` §3): frames with their times, one picture with frames in rows,
//! or the clip itself made small; and how it is brought below the most bytes that a server takes.

use super::DESCRIBE;
use super::answer::Question;
use super::ask::{Ask, Part};
use crate::materialize::Part as Cutout;
use crate::picture::Plane;
use crate::prompt::profile::{MediaMode, Profile};
use crate::records::Clip;
use anyid_files::media::writer::{VideoWriter, WriterOptions};
use anyid_files::media::{ReadOptions, RgbFrame, visit_frames};
use anyid_files::{Error, Result, error};
use serde_json::Value;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

/// Longer side of frames that are sent, in pixels.
pub const FRAME_SIDE: usize = 768;
/// Longer side of a single picture, and of one with frames in rows.
const PICTURE_SIDE: usize = 1024;
/// Longer side of a clip that is sent.
const CLIP_SIDE: usize = 640;
/// Most bytes of a clip that is sent.
const CLIP_BYTES: usize = 8_000_000;
/// Most frames of a clip.
const MOST_FRAMES: usize = 16;
/// Frames beside each other.
const COLUMNS: usize = 4;
/// Quality of frames and of single pictures.
const QUALITY: [u8; 2] = [85, 90];
/// Shortest longer side that anything is brought to, so that something can be seen.
pub const LEAST_SIDE: usize = 128;

/// A size with so many pixels at most on its longer side.
fn within(size: [usize; 2], most: usize) -> [usize; 2] {
    let longer = size[0].max(size[1]);
    if longer <= most { size } else { size.map(|side| (side * most / longer).max(1)) }
}

fn shrunk(frame: &RgbFrame, most: usize) -> Plane {
    let [width, height] = within([frame.width, frame.height], most);
    let plane = Plane::rgb(frame);
    if width == frame.width && height == frame.height { plane } else { plane.area(width, height) }
}

fn bytes(plane: &Plane) -> Vec<u8> {
    plane.data.iter().map(|value| value.round() as u8).collect()
}

/// A picture as a JPEG file, without anything else of its file.
fn jpeg(plane: &Plane, quality: u8) -> Result<Vec<u8>> {
    let mut out = Vec::new();
    let (width, height) = (plane.width as u32, plane.height as u32);
    image::codecs::jpeg::JpegEncoder::new_with_quality(&mut out, quality)
        .encode(&bytes(plane), width, height, image::ExtendedColorType::Rgb8)
        .map_err(|cause| Error::internal("E1013", "a picture cannot be coded").caused_by(cause))?;
    Ok(out)
}

/// A picture of a file as it is sent: its first frame.
///
/// # Errors
/// Those of decoding.
pub fn still(path: &Path) -> Result<Part> {
    let mut out = None;
    visit_frames(path, &ReadOptions::default(), &mut |frame| {
        out = Some(jpeg(&shrunk(&frame.image, PICTURE_SIDE), QUALITY[1])?);
        Ok(ControlFlow::Break(()))
    })?;
    let missing = || Error::input("E0802", "the file has no picture").at(path.display());
    out.map(Part::Picture).ok_or_else(missing)
}

/// Frames with their times as they are sent: for each a text and a picture, whose longer side has `side`
/// pixels at most.
///
/// # Errors
/// E1013 where one cannot be coded.
pub fn frames<'f>(
    all: impl ExactSizeIterator<Item = (f64, &'f RgbFrame)>,
    side: usize,
) -> Result<Vec<Part>> {
    let count = all.len();
    let mut parts = Vec::new();
    for (at, (time, frame)) in all.enumerate() {
        parts.push(Part::Text(format!("Frame {} of {count}, t = {time:.2} s", at + 1)));
        parts.push(Part::Picture(jpeg(&shrunk(frame, side), QUALITY[0])?));
    }
    Ok(parts)
}

/// How many pictures are sent of a clip; a clip itself counts as those that it would be sent as.
pub fn pictures(clip: &Clip, profile: &Profile) -> usize {
    let frames = profile.max_images.clamp(1, MOST_FRAMES).min(clip.span.end - clip.span.start);
    if profile.media_mode == MediaMode::Grid { 1 } else { frames }
}

/// What is asked about a clip.
///
/// # Errors
/// Those of decoding; E1236 where it cannot be made small enough.
pub fn about_clip(root: &Path, clip: &Clip, profile: &Profile) -> Result<Ask> {
    let length = clip.span.end - clip.span.start;
    let mut count = profile.max_images.clamp(1, MOST_FRAMES).min(length);
    let mut side = match profile.media_mode {
        MediaMode::Frames => FRAME_SIDE,
        MediaMode::Grid => PICTURE_SIDE,
        MediaMode::Video => CLIP_SIDE,
    };
    loop {
        let seen = Seen { root, clip, count, side };
        let (parts, most) = match profile.media_mode {
            MediaMode::Frames => (seen.frames()?, profile.max_body),
            MediaMode::Grid => (seen.grid()?, profile.max_body),
            MediaMode::Video => (seen.video()?, profile.max_body.min(CLIP_BYTES)),
        };
        let head = format!("Clip of {:.2} s. Pronoun hint: none.", clip.span.duration);
        let mut user = vec![Part::Text(head)];
        user.extend(parts);
        user.push(Part::Text("Return the JSON object.".to_owned()));
        let size = user.iter().map(Part::bytes).sum::<usize>() + DESCRIBE.len();
        if size <= most {
            return Ok(Ask::new(Question::Describe, DESCRIBE, user));
        }
        // Fewer frames first, then smaller ones.
        match profile.media_mode {
            MediaMode::Frames if count > 2 => count = (count / 2).max(2),
            _ if side > LEAST_SIDE => side = (side * 3 / 4).max(LEAST_SIDE),
            _ => {
                let what = format!("the least that can be sent of a clip has {size} bytes");
                return Err(Error::input("E1236", what)
                    .at(root.join(&clip.span.media).display())
                    .help(format!("the server takes max_body = {most}: raise it")));
            }
        }
    }
}

/// How many pictures are sent of a part.
pub fn pictures_of(part: &Value, profile: &Profile) -> usize {
    let frames = if part["form"] == "video" { part["frames"].as_u64().unwrap_or(1) } else { 1 };
    profile.max_images.clamp(1, MOST_FRAMES).min(usize::try_from(frames).unwrap_or(MOST_FRAMES))
}

/// What is asked about the part of a clip that a sample shows, none where its line is not whole: one
/// picture, or frames spread evenly.
///
/// # Errors
/// Those of decoding.
pub fn about_part(root: &Path, part: &Value, profile: &Profile) -> Result<Option<Ask>> {
    let Some(part) = Cutout::of(part, None) else { return Ok(None) };
    let frames = part.frames(root)?;
    let mut user = Vec::new();
    if part.still {
        user.push(Part::Text("Picture. Pronoun hint: none.".to_owned()));
        user.push(Part::Picture(jpeg(&shrunk(&frames[0], PICTURE_SIDE), QUALITY[1])?));
    } else {
        let seconds = frames.len() as f64 / part.fps;
        user.push(Part::Text(format!("Clip of {seconds:.2} s. Pronoun hint: none.")));
        let count = profile.max_images.clamp(1, MOST_FRAMES).min(frames.len());
        for number in 0..count {
            let at = (2 * number + 1) * frames.len() / (2 * count);
            let time = at as f64 / part.fps;
            let text = format!("Frame {} of {count}, t = {time:.2} s", number + 1);
            user.push(Part::Text(text));
            user.push(Part::Picture(jpeg(&shrunk(&frames[at], FRAME_SIDE), QUALITY[0])?));
        }
    }
    user.push(Part::Text("Return the JSON object.".to_owned()));
    Ok(Some(Ask::new(Question::Describe, DESCRIBE, user)))
}

/// What is looked at of a clip.
struct Seen<'s> {
    root: &'s Path,
    clip: &'s Clip,
    count: usize,
    side: usize,
}

impl Seen<'_> {
    /// Frames spread evenly, each with its time.
    fn spread(&self, take: &mut dyn FnMut(f64, &RgbFrame) -> Result<()>) -> Result<()> {
        let span = &self.clip.span;
        let length = span.end - span.start;
        let wanted: Vec<usize> = (0..self.count)
            .map(|at| span.start + (2 * at + 1) * length / (2 * self.count))
            .collect();
        self.all(&mut |at, frame| match wanted.contains(&at) {
            true => take(span.seconds(at), frame),
            false => Ok(()),
        })
    }

    /// Every frame of the clip.
    fn all(&self, take: &mut dyn FnMut(usize, &RgbFrame) -> Result<()>) -> Result<()> {
        let span = &self.clip.span;
        let mut at = 0;
        visit_frames(&self.root.join(&span.media), &ReadOptions::default(), &mut |frame| {
            if at >= span.start && at < span.end {
                take(at, &frame.image)?;
            }
            at += 1;
            Ok(if at >= span.end { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
        })?;
        Ok(())
    }

    fn frames(&self) -> Result<Vec<Part>> {
        let mut parts = Vec::new();
        self.spread(&mut |time, frame| {
            let number = parts.len() / 2 + 1;
            parts.push(Part::Text(format!("Frame {number} of {}, t = {time:.2} s", self.count)));
            parts.push(Part::Picture(jpeg(&shrunk(frame, self.side), QUALITY[0])?));
            Ok(())
        })?;
        Ok(parts)
    }

    fn grid(&self) -> Result<Vec<Part>> {
        let columns = COLUMNS.min(self.count);
        let rows = self.count.div_ceil(columns);
        let span = &self.clip.span;
        // As large as the rows of them allow.
        let whole = within([span.width * columns, span.height * rows], self.side);
        let tile = [(whole[0] / columns).max(1), (whole[1] / rows).max(1)];
        let (width, height) = (tile[0] * columns, tile[1] * rows);
        let mut sheet = Plane { width, height, channels: 3, data: vec![0.0; width * height * 3] };
        let mut times: Vec<String> = Vec::new();
        self.spread(&mut |time, frame| {
            let small = Plane::rgb(frame).area(tile[0], tile[1]);
            let (left, top) = (times.len() % columns * tile[0], times.len() / columns * tile[1]);
            for (y, row) in small.data.chunks_exact(tile[0] * 3).enumerate() {
                let begin = ((top + y) * width + left) * 3;
                sheet.data[begin..begin + row.len()].copy_from_slice(row);
            }
            times.push(format!("{time:.2}"));
            Ok(())
        })?;
        let text = format!(
            "{} frames in {rows} rows of {columns}, from left to right and from top to bottom, at t = {} s",
            times.len(),
            times.join(", ")
        );
        Ok(vec![Part::Text(text), Part::Picture(jpeg(&sheet, QUALITY[0])?)])
    }

    /// The clip at its own rate, as H.264 in MP4.
    fn video(&self) -> Result<Vec<Part>> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let span = &self.clip.span;
        // Sides of H.264 are even.
        let size = within([span.width, span.height], self.side).map(|side| (side & !1).max(2));
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("anyid-clip-{}-{number}.mp4", std::process::id());
        let path = std::env::temp_dir().join(name);
        let options = WriterOptions { quantiser: 26, ..WriterOptions::default() };
        let mut writer = VideoWriter::create(&path, size[0], size[1], span.fps, &options)?;
        self.all(&mut |_, frame| writer.push(&bytes(&Plane::rgb(frame).area(size[0], size[1]))))?;
        writer.finish()?;
        let read = std::fs::read(&path).map_err(|fault| error::unreadable(&path, fault));
        drop(std::fs::remove_file(&path));
        Ok(vec![Part::Clip(read?)])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::records::schema;
    use crate::testing::TempFolder;
    use serde_json::json;

    const SIZE: [usize; 2] = [160, 90];

    /// A clip of forty frames that grow brighter, in the middle of a file.
    fn clip(folder: &TempFolder) -> Clip {
        let path = folder.path().join("a.mp4");
        let options = WriterOptions::default();
        let mut writer = VideoWriter::create(&path, SIZE[0], SIZE[1], 20.0, &options).unwrap();
        for t in 0..60u8 {
            writer.push(&vec![t * 4; SIZE[0] * SIZE[1] * 3]).unwrap();
        }
        writer.finish().unwrap();
        let quality = json!(crate::records::Quality::default());
        serde_json::from_value(json!({
            "schema": schema::CLIP, "id": "c_1", "media": "a.mp4", "sha256": "", "start": 10,
            "end": 50, "fps": 20.0, "width": SIZE[0], "height": SIZE[1], "duration": 2.0,
            "faces": [], "persons": [], "usable": [], "hashes": [], "quality": quality,
            "keep": true, "reasons": [],
        }))
        .unwrap()
    }

    fn profile(more: &str) -> Profile {
        let text = format!("{{\"kind\": \"vllm\", \"model\": \"m\"{more}}}");
        serde_json::from_str(&text).unwrap()
    }

    fn decoded(part: &Part) -> image::RgbImage {
        let Part::Picture(bytes) = part else { panic!("{part:?}") };
        image::load_from_memory(bytes).unwrap().to_rgb8()
    }

    #[test]
    fn frames_are_spread_over_a_clip_with_their_times() {
        let folder = TempFolder::new("frames");
        let clip = clip(&folder);
        let ask = about_clip(folder.path(), &clip, &profile(", \"max_images\": 4")).unwrap();
        assert_eq!(ask.user.len(), 1 + 2 * 4 + 1);
        assert_eq!(ask.user[0], Part::Text("Clip of 2.00 s. Pronoun hint: none.".into()));
        assert_eq!(ask.user[1], Part::Text("Frame 1 of 4, t = 0.25 s".into()));
        let first = decoded(&ask.user[2]);
        assert_eq!((first.width(), first.height()), (160, 90));
        assert!((i32::from(first.get_pixel(80, 40)[0]) - 15 * 4).abs() < 6);
        assert_eq!(pictures(&clip, &profile(", \"max_images\": 4")), 4);
    }

    #[test]
    fn a_grid_is_one_picture() {
        let folder = TempFolder::new("grid");
        let clip = clip(&folder);
        let own = profile(", \"media_mode\": \"grid\"");
        let ask = about_clip(folder.path(), &clip, &own).unwrap();
        let [_, Part::Text(text), sheet, _] = &ask.user[..] else { panic!("{}", ask.user.len()) };
        assert!(text.starts_with("8 frames in 2 rows of 4,") && text.contains("t = 0.10, 0.35"));
        let sheet = decoded(sheet);
        assert_eq!((sheet.width(), sheet.height()), (640, 180));
        // The last frame is the brightest.
        let at = |x: u32, y: u32| i32::from(sheet.get_pixel(x, y)[0]);
        assert!((at(80, 45) - 12 * 4).abs() < 6 && (at(560, 135) - 47 * 4).abs() < 6);
        assert_eq!(pictures(&clip, &own), 1);
    }

    #[test]
    fn a_clip_goes_out_as_its_own_frames_alone() {
        let folder = TempFolder::new("video");
        let own = profile(", \"media_mode\": \"video\"");
        let ask = about_clip(folder.path(), &clip(&folder), &own).unwrap();
        let [_, Part::Clip(bytes), _] = &ask.user[..] else { panic!("{}", ask.user.len()) };
        let path = folder.write("sent.mp4", bytes);
        let mut shades = Vec::new();
        let info = visit_frames(&path, &ReadOptions::default(), &mut |frame| {
            shades.push(i32::from(frame.image.data[0]));
            Ok(ControlFlow::Continue(()))
        })
        .unwrap();
        assert_eq!((info.width, info.height, shades.len()), (160, 90, 40));
        assert!((shades[0] - 40).abs() < 8 && (shades[39] - 196).abs() < 8, "{shades:?}");
    }

    #[test]
    fn requests_are_made_small_enough_or_refused() {
        let folder = TempFolder::new("body");
        let clip = clip(&folder);
        let size = |most: usize| {
            let own = profile(&format!(", \"max_body\": {most}"));
            about_clip(folder.path(), &clip, &own)
        };
        let whole: usize = size(1 << 20).unwrap().user.iter().map(Part::bytes).sum();
        let less = size(DESCRIBE.len() + whole / 2).unwrap();
        assert!(less.user.len() < 18 && less.user.len() >= 6, "{}", less.user.len());
        let fault = size(100).unwrap_err();
        assert!(fault.code() == "E1236" && fault.message().contains("bytes"), "{fault}");
    }
}
