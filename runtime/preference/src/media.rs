//! What is shown to people: copies that say nothing of where they come from.
//!
//! Both videos of a matchup are decoded and encoded again with the same settings, so that neither
//! metadata nor coding tells them apart; pictures become PNG. The copies are named after their bytes.
//! What was given stays untouched.

use crate::project::{Project, failed};
use crate::random;
use anyid_files::checkpoint::hash_file;
use anyid_files::media::writer::{VideoWriter, WriterOptions};
use anyid_files::media::{
    Clip, MediaKind, ReadOptions, RgbFrame, lossless, read_clip, visit_frames,
};
use anyid_files::output::{AtomicFile, Existing, fresh_name, write_error};
use anyid_files::{Error, Result};
use rusqlite::Connection;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

/// Mean brightness (of 255) below which a frame is black.
const BLACK: f64 = 3.0;
/// The rate of a clip that has none.
const RATE: f64 = 24.0;

/// A copy that is shown.
#[derive(Clone, Debug)]
pub struct Shown {
    /// Below the project.
    pub path: String,
    pub sha256: String,
    pub width: usize,
    pub height: usize,
    pub fps: Option<f64>,
    pub frames: usize,
    /// What it was made of, and its hash.
    pub original: Option<(String, String)>,
}

/// Which part of a file is taken.
#[derive(Clone, Copy, Debug, Default)]
pub struct Part {
    /// Its first frame.
    pub start: usize,
    /// Most frames of it; one makes a picture.
    pub frames: Option<usize>,
    /// Left, top, right and bottom in pixels.
    pub crop: Option<[usize; 4]>,
}

/// A generated video, decoded and looked at.
///
/// # Errors
/// Those of decoding, and E1601 for one that is a single picture or has a black frame.
pub fn generated(path: &Path) -> Result<Clip> {
    let clip = read_clip(path, &ReadOptions::default())?;
    let unfit = |what: String| {
        Error::input("E1601", what)
            .at(path.display())
            .help("make this video again, or leave it out")
    };
    if clip.kind == MediaKind::Image || clip.frames.len() < 2 {
        return Err(unfit("this is a picture, not a video".to_owned()));
    }
    for (at, frame) in clip.frames.iter().enumerate() {
        let sum: u64 = frame.data.iter().map(|value| u64::from(*value)).sum();
        if (sum as f64) < BLACK * frame.data.len() as f64 {
            return Err(unfit(format!("frame {at} is black")));
        }
    }
    Ok(clip)
}

/// Refuses two videos that people cannot compare: of other sizes, lengths or rates, or the same.
///
/// # Errors
/// E1601.
pub fn comparable(a: &Clip, b: &Clip) -> Result<()> {
    let unfit = |what: String| {
        Error::input("E1601", what).help("make both with the same settings and different seeds")
    };
    let of = |clip: &Clip| (clip.source.width, clip.source.height, clip.frames.len());
    let rates = [a, b].map(|clip| clip.fps.unwrap_or(RATE));
    if of(a) != of(b) || (rates[0] - rates[1]).abs() > 0.01 {
        let say = |clip: &Clip, rate: f64| {
            let (width, height, frames) = of(clip);
            format!("{width}x{height}, {frames} frames at {rate}")
        };
        let (a, b) = (say(a, rates[0]), say(b, rates[1]));
        return Err(unfit(format!("the videos differ in form: {a} and {b}")));
    }
    if a.frames == b.frames {
        return Err(unfit("both videos have the same pictures".to_owned()));
    }
    Ok(())
}

/// Writes the copy of a clip below `folder` (`media`, `refs`) of the project.
///
/// # Errors
/// E082x and E101x where it cannot be written.
pub fn write_clip(
    project: &Project,
    folder: &str,
    frames: &[RgbFrame],
    fps: Option<f64>,
) -> Result<Shown> {
    let first = frames.first().ok_or_else(|| Error::input("E1601", "the clip has no frames"))?;
    let fps = fps.unwrap_or(RATE);
    let place = project.folder().join(folder);
    let part = fresh_name(&place, "new", ".mp4");
    // The encoder takes even sides.
    let (width, height) = (first.width & !1, first.height & !1);
    let options = WriterOptions { existing: Existing::Overwrite, ..WriterOptions::default() };
    let mut writer = VideoWriter::create(&part, width, height, fps, &options)?;
    for frame in frames {
        match (frame.width, frame.height) == (width, height) {
            true => writer.push_frame(frame)?,
            false => writer.push_frame(&cut(frame, [0, 0, width, height]))?,
        }
    }
    let info = writer.finish()?;
    let sha256 = hash_file(&info.path)?;
    let path = format!("{folder}/{sha256}.mp4");
    let target = project.folder().join(&path);
    std::fs::rename(&info.path, &target).map_err(|fault| write_error(&target, fault))?;
    let frames = frames.len();
    Ok(Shown { path, sha256, width, height, fps: Some(fps), frames, original: None })
}

/// Writes a picture below `folder` of the project.
///
/// # Errors
/// E101x where it cannot be written.
pub fn write_picture(project: &Project, folder: &str, frame: &RgbFrame) -> Result<Shown> {
    let bytes = lossless::picture(frame)?;
    use sha2::Digest;
    let sha256 = anyid_guard::hex(&sha2::Sha256::digest(&bytes));
    let path = format!("{folder}/{sha256}.png");
    let mut file = AtomicFile::create(project.folder().join(&path))?;
    file.append(&bytes)?;
    file.commit()?;
    let (width, height) = (frame.width, frame.height);
    Ok(Shown { path, sha256, width, height, fps: None, frames: 1, original: None })
}

/// The copy of a part of a picture or clip that people are shown as a reference.
///
/// # Errors
/// Those of decoding, E1602 for a part that the file does not have, E101x.
pub fn reference(project: &Project, folder: &str, path: &Path, part: Part) -> Result<Shown> {
    let (mut frames, mut at) = (Vec::new(), 0);
    let most = part.frames.unwrap_or(usize::MAX);
    let source = visit_frames(path, &ReadOptions::default(), &mut |frame| {
        if at >= part.start {
            frames.push(match part.crop {
                Some(area) => cut(&frame.image, area),
                None => frame.image,
            });
        }
        at += 1;
        Ok(if frames.len() >= most { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
    })?;
    let Some(first) = frames.first() else {
        return Err(Error::input(
            "E1602",
            format!("there is no frame {} in this file", part.start),
        )
        .at(path.display())
        .help("correct the sample"));
    };
    let mut shown = match frames.len() {
        1 => write_picture(project, folder, first)?,
        _ => write_clip(project, folder, &frames, source.fps)?,
    };
    shown.original = Some((path.to_string_lossy().into_owned(), hash_file(path)?));
    Ok(shown)
}

/// A part of a picture; what is outside of it is left out.
fn cut(frame: &RgbFrame, [left, top, right, bottom]: [usize; 4]) -> RgbFrame {
    let (left, top) = (left.min(frame.width - 1), top.min(frame.height - 1));
    let (right, bottom) = (right.clamp(left + 1, frame.width), bottom.clamp(top + 1, frame.height));
    let row = |y: usize| &frame.data[3 * (y * frame.width + left)..3 * (y * frame.width + right)];
    let data = (top..bottom).flat_map(row).copied().collect();
    RgbFrame { width: right - left, height: bottom - top, data }
}

/// A file of the user as one below the project: itself if it is there, or a copy.
///
/// # Errors
/// E0911 and E101x.
pub fn below(project: &Project, path: &Path, sha256: &str) -> Result<String> {
    let full = |path: &Path| std::fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    let (own, root) = (full(path), full(project.folder()));
    if let Ok(inside) = own.strip_prefix(&root) {
        let parts: Vec<_> = inside.iter().map(|part| part.to_string_lossy()).collect();
        return Ok(parts.join("/"));
    }
    let ending = path.extension().map(|e| e.to_string_lossy().to_ascii_lowercase());
    let name = format!("originals/{sha256}.{}", ending.as_deref().unwrap_or("bin"));
    let target = project.folder().join(&name);
    if !target.exists() {
        let file = AtomicFile::for_program(&target, Existing::Overwrite)?;
        let part: PathBuf = file.temporary_path().unwrap_or(&target).to_owned();
        std::fs::copy(path, &part).map_err(|fault| write_error(&target, fault))?;
        file.commit()?;
    }
    Ok(name)
}

/// Puts a copy into the database, under a token of its own.
///
/// # Errors
/// E1603.
pub fn insert(work: &Connection, shown: &Shown) -> Result<i64> {
    let kind = if shown.frames == 1 { "image" } else { "video" };
    let (original, hash) = shown.original.clone().unzip();
    let integer = |value: usize| i64::try_from(value).unwrap_or(i64::MAX);
    work.execute(
        "INSERT INTO asset(kind, path, sha256, width, height, fps, frames, public_token, original,
         original_sha256) VALUES(?,?,?,?,?,?,?,?,?,?)",
        (
            kind,
            &shown.path,
            &shown.sha256,
            integer(shown.width),
            integer(shown.height),
            shown.fps,
            integer(shown.frames),
            random::token()?,
            original,
            hash,
        ),
    )
    .map_err(failed)?;
    Ok(work.last_insert_rowid())
}
