//! The stages that decode: which files are videos, where they cut, and who is in them. One frame is
//! held at a time.

use super::items::Item;
use crate::detect::Source;
use crate::face::pose;
use crate::geometry::{clipped, person_of};
use crate::lines::{hash, parsed};
use crate::picture::Plane;
use crate::records::{Detection, Face, Media, Person, Shot, Span, schema};
use crate::settings::{DetectSettings, ShotSettings};
use crate::shots::Cutter;
use anyid_files::checkpoint::hash_file;
use anyid_files::media::{MediaKind, ReadOptions, RgbFrame, Signature, sniff, visit_decoded};
use anyid_files::{Error, Result, error, input};
use serde_json::{Map, Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;
use std::path::Path;

/// Endings of names of files that somebody takes for videos.
const ENDINGS: [&str; 9] = ["mp4", "mov", "m4v", "mkv", "webm", "avi", "mpg", "mpeg", "ts"];
/// Folders in folders at most.
const MOST_DEPTH: usize = 32;
/// Luma up to which a pixel is black, and from which it is white.
const EXTREMES: [f32; 2] = [5.0, 250.0];

/// Files below a folder that are videos by their content or their names, in the order of their names,
/// with `/` between folders; hidden ones are left out, links to folders are not followed. Gives also
/// how many files are something else.
///
/// # Errors
/// E0911 where a folder cannot be read, E1200 where there is no video.
pub fn walk(root: &Path) -> Result<(Vec<String>, usize)> {
    let (mut found, mut others) = (Vec::new(), 0);
    let mut folders = vec![(root.to_owned(), String::new(), 0)];
    while let Some((folder, before, depth)) = folders.pop() {
        let entries = std::fs::read_dir(&folder).map_err(|e| error::unreadable(&folder, e))?;
        for entry in entries {
            let entry = entry.map_err(|e| error::unreadable(&folder, e))?;
            let name = entry.file_name();
            let Some(name) = name.to_str().filter(|name| !name.contains('\\')) else {
                others += 1;
                continue;
            };
            if name.starts_with('.') {
                continue;
            }
            let (path, own) = (entry.path(), format!("{before}{name}"));
            let kind = entry.file_type().map_err(|e| error::unreadable(&path, e))?;
            if kind.is_dir() {
                if depth < MOST_DEPTH {
                    folders.push((path, format!("{own}/"), depth + 1));
                }
            } else if path.is_file() && is_video(&path) {
                found.push(own);
            } else {
                others += 1;
            }
        }
    }
    found.sort();
    if found.is_empty() {
        let what = match others {
            0 => "the folder is empty".to_owned(),
            others => format!("there is no video among {}", error::plural(others, "file")),
        };
        return Err(Error::input("E1200", what)
            .at(root.display())
            .help("give the folder that holds the videos, in folders of it as well"));
    }
    Ok((found, others))
}

fn is_video(path: &Path) -> bool {
    let ending = path.extension().map(|e| e.to_string_lossy().to_ascii_lowercase());
    let named = ending.is_some_and(|ending| ENDINGS.contains(&ending.as_str()));
    match sniff(&input::head(path, 256).unwrap_or_default()) {
        Signature::Mp4 => true,
        Signature::Foreign(foreign) => !foreign.picture,
        // An animation is a video as well; a single picture is found out later.
        Signature::Still(_) => named || path.extension().is_some_and(|e| e == "gif"),
        Signature::Heif(_) | Signature::NotMedia(_) => named,
    }
}

/// The line of a file of video.
///
/// # Errors
/// Those of decoding; E0802 for a single picture.
pub fn index(root: &Path, item: &Item) -> Result<Vec<Value>> {
    let path = root.join(&item.media);
    let mut seen = 0;
    let info = visit_decoded(&path, &ReadOptions::default(), &mut |_| {
        seen += 1;
        Ok(if seen > 1 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
    })?;
    let Some(fps) = info.fps.filter(|_| info.kind == MediaKind::Video && seen > 1) else {
        return Err(Error::input("E0802", "this is a single picture, not a video")
            .at(path.display())
            .help("take it out of the folder"));
    };
    let mut other = Map::new();
    if !info.warnings.is_empty() {
        other.insert("warnings".into(), json!(info.warnings));
    }
    let media = Media {
        schema: schema::MEDIA.to_owned(),
        media: item.media.clone(),
        sha256: hash_file(&path)?,
        width: info.width,
        height: info.height,
        fps: rounded(fps, 1e6),
        frames: info.total,
        codec: info.description,
        other,
    };
    Ok(vec![json!(media)])
}

fn rounded(value: f64, by: f64) -> f64 {
    // Without a negative zero, which is written in another way.
    (value * by).round() / by + 0.0
}

/// The single line that an item of this stage has.
fn line(item: &Item) -> Result<&str> {
    match item.lines.as_slice() {
        [line] => Ok(line),
        lines => Err(of_line(item, format!("{} lines are about it, expected one", lines.len()))),
    }
}

fn of_line(item: &Item, what: String) -> Error {
    Error::input("E1202", format!("{}: {what}", item.media))
        .help("make the lines of the stage before again")
}

/// The shots of a file, by decoding all of it.
///
/// # Errors
/// Those of decoding, E1202.
pub fn shots(root: &Path, item: &Item, settings: &ShotSettings) -> Result<Vec<Value>> {
    let media: Media = parsed(line(item)?, schema::MEDIA).map_err(|what| of_line(item, what))?;
    let mut cutter = Cutter::new(settings);
    let mut times = Vec::new();
    let path = root.join(&media.media);
    visit_decoded(&path, &ReadOptions::default(), &mut |frame| {
        times.push(frame.time);
        cutter.push(frame)?;
        Ok(ControlFlow::Continue(()))
    })?;
    let last = times.last().copied().unwrap_or(0.0);
    let step = last / (times.len().max(2) - 1) as f64;
    let (found, _) = cutter.finish();
    let shot = |[start, end]: [usize; 2]| {
        let until = times.get(end).copied().unwrap_or(last + step);
        let duration = until - times[start];
        let frames = (end - start) as f64;
        let fps = if duration > 0.0 { frames / duration } else { media.fps };
        // Where the times of frames are further from an even rate than half a frame.
        let after: Vec<f64> = times[start..end].iter().map(|time| time - times[start]).collect();
        let off = |(at, time): (usize, &f64)| (time * fps - at as f64).abs() > 0.5;
        let varies = after.iter().enumerate().any(off);
        let span = Span {
            id: name(&media.media, start, end),
            media: media.media.clone(),
            sha256: media.sha256.clone(),
            start,
            end,
            fps: rounded(fps, 1e6),
            width: media.width,
            height: media.height,
            duration: rounded(duration, 1e6),
            times: after.iter().filter(|_| varies).map(|time| rounded(*time, 1e4)).collect(),
        };
        json!(Shot { schema: schema::SHOT.to_owned(), span, other: media.other.clone() })
    };
    Ok(found.into_iter().map(shot).collect())
}

/// The name of a piece of a file.
fn name(media: &str, start: usize, end: usize) -> String {
    format!("c_{}", &hash(format!("{media}\n{start}\n{end}").as_bytes())[..12])
}

/// Frames of a shot that are looked at: spread evenly, so many a second.
fn spread(shot: &Span, settings: &DetectSettings) -> Vec<usize> {
    let length = shot.end - shot.start;
    let wanted = (shot.duration * settings.fps).round() as usize;
    let count = if settings.dense { length } else { wanted.max(settings.at_least).min(length) };
    (0..count).map(|at| shot.start + (2 * at + 1) * length / (2 * count)).collect()
}

/// What is measured of a face (`data.md` §4).
fn measured(luma: &Plane, face: &mut Face) {
    let part = luma.part(face.area);
    face.blur = rounded(part.area(112, 112).laplacian_variance(), 1e3);
    face.luma = rounded(part.mean(), 1e2);
    face.extremes = rounded(part.share(|v| v <= EXTREMES[0] || v >= EXTREMES[1]), 1e4);
    let by_five = || pose(&face.kps).map(|pose| [pose.yaw, pose.pitch, pose.roll]);
    face.pose = face.pose.or_else(by_five).map(|pose| pose.map(|angle| rounded(angle, 1e2)));
    face.score = rounded(face.score, 1e4);
    face.area = face.area.map(|side| rounded(side, 1e3));
    face.kps = face.kps.map(|point| point.map(|side| rounded(side, 1e3)));
}

/// Who is in the shots of a file.
///
/// # Errors
/// Those of decoding and of detection, E1202; E1213 where the file ends before a frame of them.
pub fn detect(
    root: &Path,
    item: &Item,
    settings: &DetectSettings,
    source: &Source,
) -> Result<Vec<Value>> {
    let shots: Vec<Shot> = item
        .lines
        .iter()
        .map(|line| parsed(line, schema::SHOT).map_err(|what| of_line(item, what)))
        .collect::<Result<_>>()?;
    let given = source.frames_of(&item.media)?;
    let sampled: Vec<Vec<usize>> = shots
        .iter()
        .map(|shot| match &given {
            Some(frames) => frames.range(shot.span.start..shot.span.end).map(|(f, _)| *f).collect(),
            None => spread(&shot.span, settings),
        })
        .collect();
    let wanted: BTreeSet<usize> = sampled.iter().flatten().copied().collect();
    let mut found: BTreeMap<usize, (Vec<Face>, Vec<Person>, u64)> = BTreeMap::new();
    let path = root.join(&item.media);
    if let Some(last) = wanted.last().copied() {
        let mut at = 0;
        visit_decoded(&path, &ReadOptions::default(), &mut |frame| {
            let f = at;
            at += 1;
            if wanted.contains(&f) {
                let here = given.as_ref().and_then(|given| given.get(&f));
                found.insert(f, in_frame(f, &frame.image()?, source, here)?);
            }
            Ok(if f >= last { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
        })?;
        if at <= last {
            let what = format!("frame {last} is asked for, the file has {at}");
            return Err(Error::input("E1213", what)
                .at(path.display())
                .help("the file has changed since it was cut: make the shots again"));
        }
    }
    let record = |(shot, sampled): (Shot, Vec<usize>)| {
        let here = |f: &usize| found.get(f);
        let hashes = match sampled.as_slice() {
            [] => Vec::new(),
            all => [all[0], all[all.len() / 2], all[all.len() - 1]]
                .iter()
                .filter_map(|f| Some(format!("{:016x}", here(f)?.2)))
                .collect(),
        };
        let faces = sampled.iter().filter_map(here).flat_map(|(faces, ..)| faces.clone()).collect();
        let persons = sampled.iter().filter_map(here).flat_map(|(_, all, _)| all.clone()).collect();
        json!(Detection {
            schema: schema::DETECTION.to_owned(),
            shot: shot.span,
            sampled,
            hashes,
            faces,
            persons,
            other: shot.other,
        })
    };
    Ok(shots.into_iter().zip(sampled).map(record).collect())
}

/// Faces and persons of a frame, and its hash.
pub(crate) fn in_frame(
    f: usize,
    image: &RgbFrame,
    source: &Source,
    given: Option<&(Vec<Face>, Vec<Person>)>,
) -> Result<(Vec<Face>, Vec<Person>, u64)> {
    let luma = Plane::luma(image);
    let frame = [image.width, image.height];
    let (mut faces, mut persons) = source.look(f, image, given)?;
    persons.iter_mut().for_each(|person| {
        person.area = person.area.map(|side| rounded(side, 1e3));
        person.score = rounded(person.score, 1e4);
    });
    faces.retain(|face| {
        let [left, top, right, bottom] = clipped(&face.area, frame);
        left < right && top < bottom
    });
    for face in &mut faces {
        measured(&luma, face);
    }
    if persons.is_empty() {
        persons = faces
            .iter()
            .map(|face| Person {
                f,
                area: person_of(&face.area, frame).map(|side| rounded(side, 1e3)),
                score: face.score,
                derived: true,
            })
            .collect();
    }
    Ok((faces, persons, luma.difference_hash()))
}
