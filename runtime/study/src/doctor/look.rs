//! What is measured of one reference, frame by frame.

use super::{Faces, Looked, Options};
use crate::detect::{Frames, Source};
use crate::filter::quantile;
use crate::geometry::{area, size};
use crate::picture::Plane;
use crate::records::Face;
use crate::settings::ShotSettings;
use crate::shots::Cutter;
use crate::stages::media::in_frame;
use anyid_files::Result;
use anyid_files::checkpoint::hash_file;
use anyid_files::media::standardise::{StandardiseOptions, model_frames};
use anyid_files::media::{MediaKind, ReadOptions, RgbFrame, visit_frames};
use std::ops::ControlFlow;
use std::path::Path;

/// Seconds from one frame that is looked at to the next.
const STEP: f64 = 0.5;
/// Area of another face, over that of the largest, from which it counts (`data.md` §4.2).
const OTHER: f64 = 0.10;
/// Side of the parts whose sharpness is measured, as of faces, and how far they are apart.
const PART: usize = 112;
/// The longer side that a picture is shrunk to before.
const LONGER: usize = 512;
/// Longer side of a face over the shorter side of a picture from which it is a picture of a face alone: crops of
/// faces are up to 1.7 times as large as the face (`data.md` §6).
const CLOSE: f64 = 1.0 / 1.7;

/// The sharpness of the sharpest part of a picture.
fn sharpness(luma: &Plane) -> f64 {
    let by = (luma.width.max(luma.height) as f64 / LONGER as f64).max(1.0);
    let side = |side: usize| ((side as f64 / by).round() as usize).max(1);
    let small = luma.area(side(luma.width), side(luma.height));
    let begins = |side: usize| (0..=side.saturating_sub(PART)).step_by(PART / 2);
    let (width, height) = (PART.min(small.width), PART.min(small.height));
    let parts = begins(small.height).flat_map(|y| begins(small.width).map(move |x| (x, y)));
    let of = |(x, y): (usize, usize)| {
        small.window(x as i64, y as i64, width, height).laplacian_variance()
    };
    parts.map(of).fold(0.0, f64::max)
}

/// What is known of a reference while its frames come.
#[derive(Default)]
struct Seen {
    sharpness: Vec<f64>,
    hashes: Vec<u64>,
    frames: usize,
    without: usize,
    several: usize,
    main: Vec<Face>,
}

impl Seen {
    fn look(
        &mut self,
        f: usize,
        image: &RgbFrame,
        source: Option<&Source>,
        given: Option<&Frames>,
    ) -> Result<()> {
        let luma = Plane::luma(image);
        self.sharpness.push(sharpness(&luma));
        let Some(source) = source else {
            self.hashes.push(luma.difference_hash());
            return Ok(());
        };
        let here = given.map(|frames| frames.get(&f).cloned().unwrap_or_default());
        let (faces, _, hash) = in_frame(f, image, source, here.as_ref())?;
        self.hashes.push(hash);
        self.frames += 1;
        let size = |face: &Face| area(&face.area);
        let Some(main) = faces.iter().max_by(|a, b| size(a).total_cmp(&size(b))) else {
            self.without += 1;
            return Ok(());
        };
        let others = faces.iter().filter(|face| size(face) >= OTHER * size(main)).count();
        self.several += usize::from(others > 1);
        self.main.push(main.clone());
        Ok(())
    }

    /// What was seen of faces in pictures of this size, for a video in which they are so many times as
    /// large.
    fn faces(&self, [width, height]: [usize; 2], scale: f64) -> Faces {
        let median = |of: &dyn Fn(&Face) -> f64| quantile(self.main.iter().map(of).collect(), 0.5);
        let yaws = || self.main.iter().filter_map(|face| Some(face.pose?[0]));
        let (low, high) = (yaws().fold(f64::MAX, f64::min), yaws().fold(f64::MIN, f64::max));
        let side = |face: &Face, longer: bool| {
            let [width, height] = size(&face.area);
            if longer { width.max(height) } else { width.min(height) }
        };
        let embedded = self.main.iter().filter_map(|face| face.embedding.as_deref());
        let sum = embedded.fold(None::<Vec<f32>>, |sum, own| {
            let own = crate::filter::unit(own);
            match sum {
                Some(sum) if sum.len() == own.len() => {
                    Some(sum.iter().zip(&own).map(|(a, b)| a + b).collect())
                }
                Some(sum) => Some(sum),
                None => Some(own),
            }
        });
        Faces {
            frames: self.frames,
            without: self.without,
            several: self.several,
            // Enlarging adds nothing to see.
            side: median(&|face| side(face, false)) * scale.min(1.0),
            sharpness: median(&|face| face.blur),
            luma: median(&|face| face.luma),
            yaw: (low <= high).then_some([low, high]),
            share: median(&|face| side(face, true)) / width.min(height).max(1) as f64,
            embedding: sum.map(|sum| crate::filter::unit(&sum)),
        }
    }
}

/// The detections that are given for a file, by its path or by its name.
fn given(source: &Source, path: &Path) -> Result<Option<Frames>> {
    let found = source.frames_of(&path.to_string_lossy())?;
    match (found, path.file_name()) {
        (Some(found), Some(name)) if found.is_empty() => source.frames_of(&name.to_string_lossy()),
        (found, _) => Ok(found),
    }
}

/// Looks at a reference.
pub(super) fn look(path: &Path, options: &Options<'_>) -> Result<Looked> {
    let taken = StandardiseOptions::new(options.size[0], options.size[1]);
    let most = taken.max_frames as f64 / taken.fps;
    let given = options.faces.map(|source| given(source, path)).transpose()?.flatten();
    let mut cutter = Cutter::new(&ShotSettings { trim: 0, ..ShotSettings::default() });
    let (mut seen, mut times, mut next, mut ends) = (Seen::default(), Vec::new(), 0.0, 0.0);
    let mut longer = false;
    let info = visit_frames(path, &ReadOptions::default(), &mut |frame| {
        if frame.time >= most {
            longer = true;
            return Ok(ControlFlow::Break(()));
        }
        let f = times.len();
        let wanted = match &given {
            Some(frames) => frames.contains_key(&f),
            None => false,
        };
        if frame.time >= next || wanted {
            if frame.time >= next {
                next += STEP;
            }
            let source = options.faces.filter(|_| wanted || given.is_none());
            seen.look(f, &frame.image, source, given.as_ref())?;
        }
        times.push(frame.time);
        ends = (frame.time + frame.duration).min(most);
        cutter.push(frame.into())?;
        Ok(ControlFlow::Continue(()))
    })?;
    let clip = info.kind == MediaKind::Video && times.len() > 1;
    let seconds = if clip { ends } else { 0.0 };
    let count = match clip {
        true => ((seconds * taken.fps).round() as usize).clamp(1, taken.max_frames),
        false => 1,
    };
    let latent_frames = 1 + (model_frames(count, taken.group) - 1) / taken.group;
    let shots = cutter.finish().0;
    let cuts = shots.iter().skip(1).filter_map(|[begin, _]| times.get(*begin).copied()).collect();
    let frame = [info.width, info.height];
    let scale =
        (options.size[0] as f64 / frame[0] as f64).min(options.size[1] as f64 / frame[1] as f64);
    let faces = options.faces.map(|_| seen.faces(frame, scale));
    let close = faces.as_ref().filter(|faces| faces.without < faces.frames);
    let form = match (clip, close) {
        (true, _) => Some("video"),
        (false, Some(faces)) if faces.share >= CLOSE => Some("face"),
        (false, Some(_)) => Some("portrait"),
        (false, None) => None,
    };
    Ok(Looked {
        file: path.display().to_string(),
        kind: if clip { "clip" } else { "picture" },
        form,
        width: info.width,
        height: info.height,
        seconds,
        longer,
        cuts,
        latent_frames,
        sharpness: quantile(seen.sharpness, 0.5),
        faces,
        sha256: hash_file(path)?,
        hashes: seen.hashes,
    })
}
