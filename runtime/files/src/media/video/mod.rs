//! H.264 video in MP4 or MOV, decoded without system libraries.
//!
//! [`open`] decides which track is meant, what its edit list shows, and whether the decoder knows
//! the stream; the rest (other codecs, 10 bits, 4:2:2, interlaced, no key frame to start from) is
//! reported as foreign, so that `ffmpeg` may take it. Sound is not read. How frames are shown is
//! decided in `stream.rs`, what has to be decoded for them in `runs.rs`, and `reader.rs` does it.

mod reader;
mod runs;
mod stream;
mod units;

pub(super) use reader::Mp4Reader;

use super::ReadOptions;
use super::h264::SequenceParameters;
use super::mp4::{self, Sample, Timeline, Track};
use super::streams::{self, main_stream};
use crate::error::{Error, Result};
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;
use stream::Stream;
use units::units;

/// What opening an MP4 file gave.
pub(super) enum Opened {
    /// A stream that we decode ourselves.
    Ready(Box<Mp4Reader>),
    /// Video of another kind, named in words.
    Foreign(String),
}

/// Bytes of a sample that are looked through for its kind; parameter sets come first.
const HEAD_BYTES: u64 = 1 << 20;

/// Reads the index of an MP4 file and decides who decodes it.
///
/// # Errors
/// `E0808` damaged index, `E0809` no video or no frames, `E0810` cut off, `E0806` too large,
/// `E0835` several videos alike.
pub(super) fn open(
    path: &Path,
    mut file: File,
    length: u64,
    options: &ReadOptions,
) -> Result<Opened> {
    let index = mp4::read_index(path, &mut file, length)?;
    if index.compressed {
        return Ok(Opened::Foreign("a MOV file with a compressed index".to_string()));
    }
    if index.videos.is_empty() {
        let what = if index.tracks > 0 { "only sound or data tracks" } else { "no tracks" };
        return Err(Error::input("E0809", format!("the file has {what}, no video"))
            .at(path.display())
            .help("give a picture or a clip that shows the person"));
    }
    let held = index.videos.iter().any(|t| t.samples.iter().any(|s| s.size > 0));
    let mut tracks = Vec::new();
    for track in index.videos {
        let Some(timeline) = track.timeline() else {
            let what = format!("the edit list of track {} is damaged", track.id);
            return Err(damaged(path, what));
        };
        if !timeline.shown.is_empty() {
            tracks.push((track, timeline));
        }
    }
    if tracks.is_empty() {
        return Err(no_frames(path, held));
    }
    let several = tracks.len() > 1;
    let candidates: Vec<streams::Stream> =
        tracks.iter().map(|(track, timeline)| candidate(track, timeline, several)).collect();
    let (chosen, warning) = main_stream(path, &candidates)?;
    let (track, timeline) = tracks.swap_remove(chosen);
    prepare(path, file, length, options, track, &timeline, warning)
}

fn damaged(path: &Path, what: String) -> Error {
    Error::input("E0808", what).at(path.display()).help(
        "the file is damaged; export it again, or convert it: ffmpeg -i IN -c:v libx264 OUT.mp4",
    )
}

fn no_frames(path: &Path, hidden: bool) -> Error {
    let error = if hidden {
        Error::input("E0809", "the edit list of the video track shows none of its frames")
    } else {
        Error::input("E0809", "the video track holds no frame")
    };
    error.at(path.display()).help("export the clip again with at least one frame")
}

/// A track as [`main_stream`] sees it.
fn candidate(track: &Track, timeline: &Timeline, several: bool) -> streams::Stream {
    let description = &track.descriptions[0];
    let picture = matches!(&description.codec, b"jpeg" | b"png " | b"mjpg" | b"gif " | b"tiff");
    streams::Stream {
        name: format!("track {}", track.id),
        width: u64::from(description.size.0),
        height: u64::from(description.size.1),
        attached: track.chapters || several && picture && timeline.shown.len() == 1,
        disabled: !track.enabled,
        default: false,
    }
}

fn prepare(
    path: &Path,
    mut file: File,
    length: u64,
    options: &ReadOptions,
    track: Track,
    timeline: &Timeline,
    warning: Option<String>,
) -> Result<Opened> {
    let mut warnings: Vec<String> = warning.into_iter().collect();
    let groups = runs::groups(&track.samples);
    let mut used = vec![false; track.descriptions.len()];
    groups.iter().for_each(|group| used[usize::from(group.description)] = true);
    for (number, description) in track.descriptions.iter().enumerate() {
        if used[number] && description.avc.is_none() {
            let among = if number > 0 { " beside others" } else { "" };
            return Ok(Opened::Foreign(format!("{}{among} in MP4", codec_name(description.codec))));
        }
    }
    if track.timescale == 0 {
        return Err(damaged(path, "the video track has no clock (timescale 0)".to_string()));
    }
    let mut keyed = |index: usize| -> Result<bool> {
        let sample = track.samples[index];
        let description = &track.descriptions[usize::from(sample.description)];
        let prefix = description.avc.as_ref().map_or(4, |avc| avc.length_bytes);
        if sample.offset.saturating_add(sample.size) > length {
            return Ok(false);
        }
        let found = units::is_key(&mut file, sample.offset, sample.size, prefix);
        found.map_err(|e| super::unreadable(path, e))
    };
    let Some(runs) = runs::plan(&track.samples, &groups, timeline, &mut keyed)? else {
        return Err(damaged(path, "the edit list of the video track is damaged".to_string()));
    };

    let count = track.samples.iter().filter(|s| s.size > 0).count();
    let needed = runs.iter().flat_map(|run| run.samples(&track.samples));
    let outside = |s: &Sample| s.offset.saturating_add(s.size) > length;
    if let Some(first) = needed.map(|i| track.samples[i]).position(|s| outside(&s)) {
        return Err(Error::input(
            "E0810",
            format!("the file is cut off: it ends inside frame {first} (from 0) of {count}"),
        )
        .at(path.display())
        .help("the recording or download did not finish; fetch or export it again"));
    }
    let mut streams: Vec<Option<Stream>> = vec![None; track.descriptions.len()];
    for run in &runs {
        let slot = usize::from(run.description);
        let Some(avc) = &track.descriptions[slot].avc else { continue };
        let first = run.samples(&track.samples).next().unwrap_or(run.first);
        let head = read_head(path, &mut file, track.samples[first])?;
        // Sound, but in need of frames before it; a damaged one is the decoder's to name.
        let kinds = || units(&head, avc.length_bytes).map(units::Unit::kind);
        if units::to_start_codes(&head, avc.length_bytes, &mut Vec::new())
            && kinds().any(|kind| kind == units::SLICE)
            && !kinds().any(|kind| kind == units::KEY_SLICE)
        {
            return Ok(Opened::Foreign("H.264 without a key frame to start from".to_string()));
        }
        // Sets that travel with the first frame replace those of the index.
        let inside = units(&head, avc.length_bytes).filter(|u| u.kind() == units::SEQUENCE_SET);
        let inside: Vec<Vec<u8>> = inside.map(|unit| unit.0.to_vec()).collect();
        if streams[slot].is_some() {
            continue;
        }
        let sets = if inside.is_empty() { &avc.sequence_sets } else { &inside };
        if sets.is_empty() {
            let what = "H.264 without parameter sets in the index in MP4";
            return Ok(Opened::Foreign(what.to_string()));
        }
        let Some(parameters) = sets.iter().find_map(|set| SequenceParameters::parse(set)) else {
            return Err(damaged(path, "the H.264 track has no readable parameter set".to_string()));
        };
        if let Some(obstacle) = parameters.obstacle() {
            return Ok(Opened::Foreign(format!("{obstacle} in MP4")));
        }
        let stream = Stream::new(&parameters, &track, slot, &mut warnings);
        let (width, height) = (u64::from(parameters.width), u64::from(parameters.height));
        options.limits.check(path, width, height, 3)?;
        let (width, height) = stream.display.size(width as usize, height as usize);
        options.limits.check(path, width as u64, height as u64, 3)?;
        streams[slot] = Some(Stream { sets: sets.clone(), ..stream });
    }
    if timeline.speeds {
        warnings.push("its edit list changes the speed: played at its own speed".to_string());
    }
    Ok(Opened::Ready(Box::new(Mp4Reader::new(
        path, file, track, timeline, runs, streams, warnings,
    ))))
}

/// The beginning of a sample.
fn read_head(path: &Path, file: &mut File, sample: Sample) -> Result<Vec<u8>> {
    let mut head = Vec::new();
    file.seek(SeekFrom::Start(sample.offset))
        .and_then(|_| file.take(sample.size.min(HEAD_BYTES)).read_to_end(&mut head))
        .map_err(|e| super::unreadable(path, e))?;
    Ok(head)
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
