//! What `ffmpeg` says: its version, the streams it found, and a note on every frame it shows.
//!
//! Everything is read from the messages of the program itself, as `ffprobe` is not always there.
//! Frames are described by the `showinfo` filter; it alone knows what a frame really is after the
//! decoder (and `ffmpeg`'s own rotation) has seen it. Lines carry their level (`[error]`), so that
//! complaints are told from reports. Hostile files put words into these lines: each is cut to a
//! length, numbers are parsed strictly, and nothing here is believed about sizes without a check.

use crate::error::{Error, Kind};
use crate::media::color::ColourTags;
use std::io::{BufRead, Read};

/// How much of the program's complaints is kept.
const COMPLAINT_BYTES: usize = 8 << 10;
/// Longer lines are cut.
const LINE_BYTES: usize = 16 << 10;
/// More streams than any file that is meant well.
const STREAM_LIMIT: usize = 1000;

/// One video stream of the input, from the list that `ffmpeg` prints.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Listed {
    /// Its number in the file.
    pub index: usize,
    /// `vp9`, `hevc`, …
    pub codec: String,
    /// Stored size.
    pub size: (u64, u64),
    /// `yuv420p`, …
    pub format: String,
    /// Whether a language is given, which tracks have and pictures beside them have not.
    pub language: bool,
    /// Words in round brackets at the end, such as `default` and `attached pic`.
    pub dispositions: Vec<String>,
    /// Transparency in a layer of its own, which only some decoders read.
    pub alpha_layer: bool,
    /// Dolby Vision without a base that others can show: its colours are coded in a way of its own,
    /// and no tag says so.
    pub dolby_only: bool,
}

/// What the `showinfo` filter says of a frame.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Note {
    /// Its number, from 0.
    pub number: u64,
    /// Presentation time in seconds, on the clock of the file.
    pub time: Option<f64>,
    /// Seconds of one tick of that clock.
    pub tick: f64,
    /// Nominal rate as a fraction.
    pub rate: Option<(u64, u64)>,
    /// Width and height.
    pub size: (usize, usize),
    /// Pixel aspect; zeros when unknown.
    pub pixels: (u64, u64),
    /// Whether it consists of two fields.
    pub interlaced: bool,
    /// `yuv420p`, …
    pub format: String,
    /// Its colours.
    pub tags: ColourTags,
}

/// Messages of a whole run.
#[derive(Clone, Debug, Default)]
pub(super) struct Log {
    /// Main and second number of the version; of a development version, very high ones.
    pub version: Option<(u32, u32)>,
    /// Video streams of the first input.
    pub streams: Vec<Listed>,
    /// Number of streams of any kind in the first input.
    pub all_streams: usize,
    /// Whether one of them is sound.
    pub sound: bool,
    /// The last complaints.
    pub complaints: String,
    /// How the program ended, if not well.
    pub ended: Option<String>,
    /// Whether there was no room to load the program.
    pub unloaded: bool,
}

impl Log {
    /// The error (E0603) of a program that was not given the memory it needs.
    pub(super) fn no_memory(&self) -> Error {
        Error::new(
            Kind::Budget,
            "E0603",
            format!("there is no memory for ffmpeg; {}", self.quote()),
        )
        .help("free memory, raise the limit (`ulimit -v`), or use a format that needs no ffmpeg")
    }

    /// The last complaints in one line, for an error of ours.
    pub(super) fn quote(&self) -> String {
        let lines: Vec<&str> = self.complaints.lines().rev().take(3).collect();
        match lines.is_empty() {
            true => match &self.ended {
                Some(how) => format!("it said nothing and ended with {how}"),
                None => "it said nothing".to_string(),
            },
            false => {
                format!("it said: {}", lines.into_iter().rev().collect::<Vec<_>>().join(" / "))
            }
        }
    }
}

/// Reads messages to their end; frames are reported as they come.
pub(super) fn read(mut from: impl BufRead, mut frame: impl FnMut(Note)) -> Log {
    let mut state = State::default();
    let mut line = Vec::new();
    loop {
        line.clear();
        match from.by_ref().take(LINE_BYTES as u64).read_until(b'\n', &mut line) {
            Ok(0) | Err(_) => break,
            Ok(_) => {}
        }
        if let Some(note) = state.line(&String::from_utf8_lossy(&line)) {
            frame(note);
        }
    }
    state.log
}

#[derive(Default)]
struct State {
    log: Log,
    /// The first input is being listed.
    listing: bool,
    tick: f64,
    rate: Option<(u64, u64)>,
    /// A frame whose colours have not been said yet.
    open: Option<Note>,
}

impl State {
    /// Takes one line; gives a note when it completes one.
    fn line(&mut self, line: &str) -> Option<Note> {
        let line = line.trim_end_matches(['\n', '\r']);
        // A line may follow the unfinished one of another thread.
        if let Some(at) = line.find("[Parsed_showinfo_")
            && let Some(text) = line[at..].split_once("[info] ").map(|(_, text)| text)
        {
            return self.show(text);
        }
        if let Some(text) = line.strip_prefix("[info] ") {
            self.list(text);
        } else if let Some(at) = ["[error] ", "[fatal] ", "[panic] "]
            .iter()
            .find_map(|level| line.find(level).map(|at| (at, at + level.len())))
        {
            self.complain(&line[..at.0], &line[at.1..]);
        } else if let Some(text) = line.split_once("error while loading shared libraries: ") {
            // From the system, before the program begins.
            self.complain("", text.1);
            let words = ["failed to map segment", "cannot allocate memory"];
            let text = text.1.to_ascii_lowercase();
            self.log.unloaded |= words.iter().any(|word| text.contains(word));
        }
        None
    }

    fn complain(&mut self, who: &str, what: &str) {
        // The address in `[hevc @ 0x55…]` is noise.
        let who = who.trim_start_matches('[').split(" @ ").next().unwrap_or_default().trim();
        let complaints = &mut self.log.complaints;
        if !who.is_empty() {
            complaints.push_str(who);
            complaints.push_str(": ");
        }
        complaints.push_str(what.trim());
        complaints.push('\n');
        if complaints.len() > 2 * COMPLAINT_BYTES {
            let cut = (complaints.len() - COMPLAINT_BYTES..complaints.len())
                .find(|at| complaints.is_char_boundary(*at))
                .unwrap_or(complaints.len());
            complaints.drain(..cut);
        }
    }

    fn list(&mut self, text: &str) {
        if let Some(rest) = text.strip_prefix("ffmpeg version ") {
            self.log.version = Some(version(rest));
        } else if text.starts_with("Input #0,") {
            self.listing = true;
        } else if text.starts_with("Input #")
            || text.starts_with("Output #")
            || text.starts_with("Stream mapping:")
        {
            self.listing = false;
        } else if !self.listing {
            // The list of the first input is all that matters.
        } else if let Some(rest) = text.strip_prefix("  Stream #0:") {
            self.log.all_streams += 1;
            self.log.sound |= rest.contains(": Audio: ");
            if self.log.streams.len() < STREAM_LIMIT
                && let Some(stream) = listed(rest)
            {
                self.log.streams.push(stream);
            }
        } else if let Some(last) = self.log.streams.last_mut()
            && let Some((key, value)) = text.trim_start().split_once(':')
        {
            match key.trim() {
                "DOVI configuration record" => last.dolby_only |= value.contains("profile: 5,"),
                key if key.eq_ignore_ascii_case("alpha_mode") => {
                    last.alpha_layer |= value.trim() == "1";
                }
                _ => {}
            }
        }
    }

    fn show(&mut self, text: &str) -> Option<Note> {
        if let Some(rest) = text.strip_prefix("config in time_base: ") {
            let (base, rate) = rest.split_once(", frame_rate: ")?;
            let (over, under) = fraction(base)?;
            self.tick = if under == 0 { 0.0 } else { over as f64 / under as f64 };
            self.rate = fraction(rate).filter(|(over, under)| *over > 0 && *under > 0);
            return None;
        }
        if text.starts_with("color_range:") {
            let mut note = self.open.take()?;
            note.tags = tags(text);
            return Some(note);
        }
        let rest = text.strip_prefix("n:")?;
        // A frame whose colours were never said is told of as it is.
        let before = self.open.take();
        let mut note = Note { tick: self.tick, rate: self.rate, ..Note::default() };
        note.number = rest.split_whitespace().next()?.parse().ok()?;
        let word = |key: &str| {
            let start = rest.find(&format!(" {key}"))? + key.len() + 1;
            rest[start..].split_whitespace().next()
        };
        note.time = word("pts:").and_then(|t| t.parse::<i64>().ok()).map(|t| t as f64 * self.tick);
        note.format = word("fmt:")?.to_string();
        note.pixels = word("sar:").and_then(fraction).unwrap_or_default();
        let (width, height) = word("s:")?.split_once('x')?;
        note.size = (width.parse().ok()?, height.parse().ok()?);
        note.interlaced = matches!(word("i:"), Some("T" | "B"));
        self.open = Some(note);
        before
    }
}

/// `30000/1001` or `4:3`.
fn fraction(text: &str) -> Option<(u64, u64)> {
    let (over, under) = text.trim().split_once(['/', ':'])?;
    Some((over.parse().ok()?, under.parse().ok()?))
}

/// `5.1.9-0+deb12u1`, `n9.0.2`, `N-112233-gabcdef`.
fn version(text: &str) -> (u32, u32) {
    let mut numbers = text.trim_start_matches('n').split(|c: char| !c.is_ascii_digit());
    let main = numbers.next().and_then(|n| n.parse().ok());
    let second = numbers.next().and_then(|n| n.parse().ok()).unwrap_or(0);
    main.map_or((u32::MAX, 0), |main| (main, second))
}

/// `0[0x1](und): Video: hevc (Main 10) (hvc1 / 0x31637668), yuv420p10le(tv, …), 96x64 [SAR …], …`
fn listed(text: &str) -> Option<Listed> {
    let (place, rest) = text.split_once(": Video: ")?;
    let digits = place.bytes().take_while(u8::is_ascii_digit).count();
    let mut stream = Listed { index: place[..digits].parse().ok()?, ..Listed::default() };
    stream.language = place.ends_with(')');
    stream.codec = rest.split([' ', ',']).next()?.to_string();
    let fields = fields(rest);
    let size = |field: &&str| {
        let (width, height) = field.split(' ').next()?.split_once('x')?;
        Some((width.parse::<u64>().ok()?, height.parse::<u64>().ok()?))
    };
    let at = fields.iter().position(|field| size(field).is_some());
    if let Some(at) = at {
        stream.size = size(&fields[at]).unwrap_or_default();
        let format = fields[at.saturating_sub(1)];
        stream.format = format.split('(').next().unwrap_or_default().to_string();
    }
    let mut tail = fields.last().copied().unwrap_or_default();
    while let Some((before, word)) =
        tail.trim_end().strip_suffix(')').and_then(|t| t.rsplit_once('('))
    {
        stream.dispositions.push(word.to_string());
        tail = before;
    }
    Some(stream)
}

/// The parts between commas that stand outside of brackets.
fn fields(text: &str) -> Vec<&str> {
    let (mut depth, mut start, mut fields) = (0i32, 0, Vec::new());
    for (at, byte) in text.bytes().enumerate() {
        match byte {
            b'(' | b'[' => depth += 1,
            b')' | b']' => depth -= 1,
            b',' if depth <= 0 => {
                fields.push(text[start..at].trim());
                start = at + 1;
            }
            _ => {}
        }
    }
    fields.push(text[start..].trim());
    fields
}

/// `color_range:tv color_space:bt709 color_primaries:bt709 color_trc:bt709` as code points of
/// ITU-T H.273.
fn tags(text: &str) -> ColourTags {
    let mut tags = ColourTags::default();
    for (key, value) in text.split_whitespace().filter_map(|word| word.split_once(':')) {
        match key {
            "color_range" => {
                tags.full_range = match value {
                    "tv" | "limited" | "mpeg" => Some(false),
                    "pc" | "full" | "jpeg" => Some(true),
                    _ => None,
                }
            }
            "color_space" => {
                tags.matrix = match value {
                    "gbr" | "rgb" => 0,
                    "bt709" => 1,
                    "fcc" => 4,
                    "bt470bg" => 5,
                    "smpte170m" => 6,
                    "smpte240m" => 7,
                    "ycgco" | "ycgco-re" | "ycgco-ro" => 8,
                    "bt2020nc" => 9,
                    "bt2020c" => 10,
                    "smpte2085" => 11,
                    "chroma-derived-nc" => 12,
                    "chroma-derived-c" => 13,
                    "ictcp" => 14,
                    "ipt-c2" => 15,
                    _ => 2,
                }
            }
            "color_primaries" => {
                tags.primaries = match value {
                    "bt709" => 1,
                    "bt470m" => 4,
                    "bt470bg" => 5,
                    "smpte170m" => 6,
                    "smpte240m" => 7,
                    "film" => 8,
                    "bt2020" => 9,
                    "smpte428" | "smpte428_1" => 10,
                    "smpte431" => 11,
                    "smpte432" => 12,
                    "ebu3213" | "jedec-p22" => 22,
                    _ => 2,
                }
            }
            "color_trc" => {
                tags.transfer = match value {
                    "bt709" => 1,
                    "gamma22" | "bt470m" => 4,
                    "gamma28" | "bt470bg" => 5,
                    "smpte170m" => 6,
                    "smpte240m" => 7,
                    "linear" => 8,
                    "iec61966-2-4" => 11,
                    "bt1361e" => 12,
                    "iec61966-2-1" => 13,
                    "bt2020-10" | "bt2020_10bit" => 14,
                    "bt2020-12" | "bt2020_12bit" => 15,
                    "smpte2084" => 16,
                    "smpte428" | "smpte428_1" => 17,
                    "arib-std-b67" => 18,
                    _ => 2,
                }
            }
            _ => {}
        }
    }
    tags
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> (Log, Vec<Note>) {
        let mut notes = Vec::new();
        let log = read(text.as_bytes(), |note| notes.push(note));
        (log, notes)
    }

    #[test]
    fn streams_are_read_from_the_list() {
        let (log, _) = parse(
            "[info] ffmpeg version 5.1.9-0+deb12u1 Copyright (c) 2000-2026 the FFmpeg developers\n\
             [info] Input #0, matroska,webm, from 'file:/dev/stdin':\n\
             [info]   Metadata:\n\
             [info]     Stream #0:7: Video: forged, yuv420p, 9x9: value\n\
             [info]   Stream #0:0[0x1](und): Video: hevc (Main 10) (hvc1 / 0x31637668), \
             yuv420p10le(tv, bt2020nc/bt2020/arib-std-b67, progressive), 96x64 [SAR 1:1 DAR 3:2], \
             4 kb/s, 24 fps, 24 tbr, 12288 tbn (default)\n\
             [info]     Metadata:\n\
             [info]       alpha_mode      : 1\n\
             [info]       DOVI configuration record: version: 1.0, profile: 5, level: 3\n\
             [info]   Stream #0:1: Audio: opus, 48000 Hz, stereo, fltp (default)\n\
             [info]   Stream #0:2: Video: mjpeg (Baseline), yuvj420p(pc, bt470bg/unknown/unknown), \
             640x480 [SAR 1:1 DAR 4:3], 90k tbr, 90k tbn (attached pic) (default)\n\
             [fatal] At least one output file must be specified\n",
        );
        assert_eq!((log.version, log.all_streams), (Some((5, 1)), 3));
        assert!(log.sound);
        let [video, cover] = log.streams.as_slice() else { panic!("{:?}", log.streams) };
        assert_eq!((video.index, video.size, video.codec.as_str()), (0, (96, 64), "hevc"));
        assert_eq!(video.format, "yuv420p10le");
        assert!(video.dolby_only && !cover.dolby_only);
        assert!(video.language && video.alpha_layer && video.dispositions == ["default"]);
        assert_eq!((cover.index, cover.size), (2, (640, 480)));
        assert_eq!(cover.dispositions, ["default", "attached pic"]);
        assert_eq!(log.complaints, "At least one output file must be specified\n");
    }

    #[test]
    fn versions_of_every_spelling_are_compared() {
        assert_eq!(version("n9.0.2-17-g2a571b6068 Copyright"), (9, 0));
        assert_eq!(version("4.4.2-0ubuntu0.22.04.1 Copyright"), (4, 4));
        assert_eq!(version("N-112233-gabcdef Copyright"), (u32::MAX, 0));
        assert_eq!(version("git-2026-01-01 Copyright"), (u32::MAX, 0));
    }

    #[test]
    fn frames_are_noted_in_both_spellings() {
        let (log, notes) = parse(
            "[Parsed_showinfo_0 @ 0x1] [info] config in time_base: 1/1000, frame_rate: 30000/1001\n\
             [Parsed_showinfo_0 @ 0x1] [info] config out time_base: 0/0, frame_rate: 0/0\n\
             [Parsed_showinfo_0 @ 0x1] [info] n:   0 pts:     33 pts_time:0.033   pos:     5762 \
             fmt:yuv420p sar:4/3 s:96x64 i:T iskey:1 type:I \n\
             [Parsed_showinfo_0 @ 0x1] [info] color_range:tv color_space:bt2020nc \
             color_primaries:bt2020 color_trc:arib-std-b67\n\
             [mpeg4 @ 0x2] [error] bad block\n\
             [Parsed_showinfo_0 @ 0x1] [info] n:   1 pts:NOPTS pts_time:NOPTS   duration:      1 \
             duration_time:0.04 fmt:gray cl:left sar:0/1 s:8x6 i:P iskey:0 type:P \n\
             [Parsed_showinfo_0 @ 0x1] [info] color_range:unknown color_space:unknown \
             color_primaries:unknown color_trc:unknown\n",
        );
        let first = &notes[0];
        assert_eq!((first.number, first.time, first.rate), (0, Some(0.033), Some((30000, 1001))));
        assert_eq!((first.size, first.pixels, first.interlaced), ((96, 64), (4, 3), true));
        let tags = ColourTags { primaries: 9, transfer: 18, matrix: 9, full_range: Some(false) };
        assert_eq!(first.tags, tags);
        let second = &notes[1];
        assert_eq!((second.time, second.size, second.interlaced), (None, (8, 6), false));
        assert_eq!((second.tags, second.format.as_str()), (ColourTags::default(), "gray"));
        assert_eq!(log.complaints, "mpeg4: bad block\n");
        assert!(log.quote().ends_with("mpeg4: bad block"));
    }

    #[test]
    fn complaints_keep_their_end_and_nonsense_is_harmless() {
        let long = format!("[error] {}\n", "é".repeat(3000)).repeat(50) + "[error] the end\n";
        let (log, _) = parse(&long);
        assert!(log.complaints.len() <= 2 * COMPLAINT_BYTES);
        assert!(log.complaints.ends_with("the end\n"));
        for text in [
            "[Parsed_showinfo_0 @ 0x1] [info] n:",
            "[Parsed_showinfo_0 @ 0x1] [info] n: 99999999999999999999999",
            "[Parsed_showinfo_0 @ 0x1] [info] n: 0 fmt:x s:9",
            "[Parsed_showinfo_0 @ 0x1] [info] config in time_base: 1/0, frame_rate: 0/0",
            "[info] Input #0,\n[info]   Stream #0:: Video: ",
            "[info] Input #0,\n[info]   Stream #0:1: Video: x, y)), (((",
            "\u{0}\u{ffff}",
        ] {
            assert!(parse(text).1.is_empty(), "{text}");
        }
    }
}
