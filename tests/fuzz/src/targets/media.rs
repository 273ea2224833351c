//! Pictures and clips, decoded as references are, and the texts inside them. Other programs are not asked.

use super::{corpus, refused, shared};
use crate::engine::{Outcome, Target, Verdict};
use crate::formats;
use crate::rng::Rng;
use anyid_runtime::media::{ReadOptions, Signature, inscription, sniff, visit_frames};
use std::ops::ControlFlow;
use std::path::PathBuf;

/// The target.
pub struct Media {
    name: &'static str,
    folder: PathBuf,
    change: fn(&mut Rng, &mut Vec<u8>, &[u8], &[&str]),
    words: &'static [&'static str],
}

const PICTURE: [&str; 29] = [
    "tEXt",
    "zTXt",
    "iTXt",
    "XMP ",
    "sdcpp:parameters",
    "IHDR",
    "PLTE",
    "IDAT",
    "IEND",
    "acTL",
    "fcTL",
    "fdAT",
    "tRNS",
    "eXIf",
    "iCCP",
    "gAMA",
    "cICP",
    "VP8 ",
    "VP8L",
    "VP8X",
    "ANIM",
    "ANMF",
    "ALPH",
    "ICCP",
    "EXIF",
    "GIF89a",
    "Exif\0\0",
    "NETSCAPE2.0",
    "BM",
];
const CLIP: [&str; 44] = [
    "udta", "meta", "keys", "ilst", "mdta", "mdir", "data", "uuid", "ftyp", "moov", "mvhd", "trak",
    "tkhd", "edts", "elst", "mdia", "mdhd", "hdlr", "minf", "stbl", "stsd", "stts", "stss", "ctts",
    "stsc", "stsz", "stz2", "stco", "co64", "avc1", "avc3", "avcC", "colr", "pasp", "clap", "nclx",
    "nclc", "mvex", "trex", "moof", "traf", "tfhd", "tfdt", "trun",
];

/// Frames looked at of one input.
const FRAMES: usize = 4;

impl Media {
    fn new(
        name: &'static str,
        change: fn(&mut Rng, &mut Vec<u8>, &[u8], &[&str]),
        words: &'static [&'static str],
    ) -> Self {
        // Memory where there is some for files.
        let memory = PathBuf::from("/dev/shm");
        let base = if memory.is_dir() { memory } else { std::env::temp_dir() };
        let folder = base.join(format!("anyid-fuzz-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
        Self { name, folder, change, words }
    }

    /// PNG, JPEG, WebP, GIF and BMP.
    pub fn pictures() -> Self {
        Self::new("image", formats::change_picture, &PICTURE)
    }

    /// MP4.
    pub fn clips() -> Self {
        Self::new("mp4", formats::change_boxes, &CLIP)
    }
}

impl Drop for Media {
    fn drop(&mut self) {
        // Left behind at worst.
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

impl Target for Media {
    fn name(&self) -> &'static str {
        self.name
    }

    fn seeds(&self) -> Vec<Vec<u8>> {
        let mut out = corpus(self.name);
        // Files with texts, of which this target takes its own kind.
        let clip = |bytes: &Vec<u8>| sniff(bytes) == Signature::Mp4;
        let texts = shared("fixtures_extra/media").into_iter();
        let picture = |bytes: &Vec<u8>| matches!(sniff(bytes), Signature::Still(_));
        match self.name {
            "mp4" => out.extend(texts.filter(clip)),
            _ => out.extend(texts.filter(picture)),
        }
        out
    }

    fn words(&self) -> &'static [&'static str] {
        self.words
    }

    fn change(&self, rng: &mut Rng, data: &mut Vec<u8>, other: &[u8]) {
        (self.change)(rng, data, other, self.words);
    }

    fn run(&self, data: &[u8]) -> Outcome {
        let path = self.folder.join("input");
        std::fs::write(&path, data).map_err(|fault| fault.to_string())?;
        let texts = inscription::read(&path, false);
        let total =
            |texts: &inscription::Texts| texts.list.iter().map(|text| text.text.len()).sum();
        let total: usize = texts.as_ref().map_or(0, total);
        if total > 16 << 20 {
            return Err(format!("{total} bytes of texts are read"));
        }
        let mut options = ReadOptions { allow_ffmpeg: false, ..ReadOptions::default() };
        // Time is for many inputs, not for large ones.
        options.limits.side = 2048;
        options.limits.frame_bytes = 1 << 20;
        let (mut frames, mut last, mut wrong) = (0, f64::NEG_INFINITY, None);
        let result = visit_frames(&path, &options, &mut |frame| {
            let picture = &frame.image;
            if picture.data.len() != picture.width * picture.height * 3 {
                wrong = Some(format!(
                    "a frame of {}x{} has {} bytes",
                    picture.width,
                    picture.height,
                    picture.data.len()
                ));
            }
            if !(frame.time.is_finite() && frame.time >= last) {
                wrong = Some(format!("a frame at {} behind one at {last}", frame.time));
            }
            last = frame.time;
            frames += 1;
            Ok(if frames < FRAMES { ControlFlow::Continue(()) } else { ControlFlow::Break(()) })
        });
        if let Some(wrong) = wrong {
            return Err(wrong);
        }
        match result {
            Ok(_) if frames == 0 => Err("it was accepted and has no frame".to_owned()),
            Ok(_) => Ok(Verdict::Taken),
            Err(error) => refused(&error),
        }
    }
}
