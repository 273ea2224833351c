//! Animations that keep every byte of a pixel: APNG and WebP, frame by frame.
//!
//! Each frame is compressed by itself and stored whole, so that memory holds one of them. What the head of a
//! file says of all frames is put right at the end: their number in an APNG, the length of the file in WebP.
//! They repeat without end. WebP with losses is not offered.

use super::inscription::{Inscription, png_chunk, png_chunks, webp_packet};
use super::lossless;
use super::sink::ticks;
use crate::error::{Error, Result};
use crate::output::{AtomicFile, Existing, Whole, write_error};
use image_webp::{ColorType, WebPEncoder};
use std::io::{Seek, SeekFrom};
use std::path::Path;

/// Which of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Animation {
    Apng,
    Webp,
}

/// Bytes of the signature and of the first chunk of a PNG, behind which others may stand.
const PNG_HEAD: usize = 33;
/// Bits of the head of a WebP file: it moves, and it has XMP.
const MOVES: u8 = 0x02;
const HAS_XMP: u8 = 0x04;
/// Flag of a frame of WebP: it takes the place of what is there.
const REPLACES: u8 = 0x02;

/// Writes an animation.
pub(super) struct AnimationSink {
    form: Animation,
    file: AtomicFile,
    rate: (u32, u32),
    bytes: u64,
    frames: u32,
    /// Numbers of APNG's chunks of control and data.
    sequence: u32,
    pub(super) inscription: Option<Inscription>,
}

/// A part of a WebP file, with what makes its length even.
fn webp_chunk(kind: &[u8; 4], data: &[u8]) -> Vec<u8> {
    let mut out = kind.to_vec();
    out.extend((data.len() as u32).to_le_bytes());
    out.extend(data);
    out.resize(out.len().next_multiple_of(2), 0);
    out
}

/// Three bytes of a number of WebP.
fn three(number: usize) -> [u8; 3] {
    let [a, b, c, _] = (number as u32).to_le_bytes();
    [a, b, c]
}

/// The chunks of a PNG file of ours: their kinds and data.
fn chunks_of(png: &[u8]) -> impl Iterator<Item = (&[u8], &[u8])> {
    let mut rest = &png[8..];
    std::iter::from_fn(move || {
        let (length, after) = rest.split_first_chunk::<4>()?;
        let (kind, after) = after.split_at_checked(4)?;
        let (data, after) = after.split_at_checked(u32::from_be_bytes(*length) as usize)?;
        rest = after.get(4..)?;
        Some((kind, data))
    })
}

fn broken(what: &'static str) -> Error {
    Error::internal("E0824", what)
}

impl AnimationSink {
    pub(super) fn create(
        form: Animation,
        path: &Path,
        rate: (u32, u32),
        existing: Existing,
    ) -> Result<Self> {
        let file = AtomicFile::create_as(path, existing)?;
        Ok(Self { form, file, rate, bytes: 0, frames: 0, sequence: 0, inscription: None })
    }

    fn append(&mut self, bytes: &[u8]) -> Result<()> {
        self.bytes += bytes.len() as u64;
        self.file.append(bytes)
    }

    pub(super) fn push(&mut self, width: usize, height: usize, rgb: &[u8]) -> Result<()> {
        match self.form {
            Animation::Apng => self.push_apng(width, height, rgb)?,
            Animation::Webp => self.push_webp(width, height, rgb)?,
        }
        self.frames += 1;
        Ok(())
    }

    fn push_apng(&mut self, width: usize, height: usize, rgb: &[u8]) -> Result<()> {
        let picture = lossless::picture_of(width, height, rgb)?;
        if self.frames == 0 {
            let mut head = picture.get(..PNG_HEAD).ok_or(broken("a PNG without a head"))?.to_vec();
            head.extend(animation_control(0));
            head.extend(self.inscription.as_ref().map(png_chunks).unwrap_or_default());
            self.append(&head)?;
        }
        let mut control = self.next().to_vec();
        for number in [width as u32, height as u32, 0, 0] {
            control.extend(number.to_be_bytes());
        }
        let (over, under) = self.rate;
        // As it is where that can be said, else in thousandths of a second that do not drift.
        let delay = match (u16::try_from(under), u16::try_from(over)) {
            (Ok(under), Ok(over)) => [under, over],
            _ => [u16::try_from(self.thousandths()).unwrap_or(u16::MAX), 1000],
        };
        delay.iter().for_each(|number| control.extend(number.to_be_bytes()));
        control.extend([0, 0]);
        let mut out = png_chunk(b"fcTL", &control);
        for (_, data) in chunks_of(&picture).filter(|(kind, _)| *kind == b"IDAT") {
            match self.frames {
                0 => out.extend(png_chunk(b"IDAT", data)),
                _ => out.extend(png_chunk(b"fdAT", &[&self.next()[..], data].concat())),
            }
        }
        self.append(&out)
    }

    fn push_webp(&mut self, width: usize, height: usize, rgb: &[u8]) -> Result<()> {
        let (wide, high) = (three(width - 1), three(height - 1));
        if self.frames == 0 {
            let xmp = if self.inscription.is_some() { HAS_XMP } else { 0 };
            let canvas = [&[MOVES | xmp, 0, 0, 0][..], &wide, &high].concat();
            let mut head = b"RIFF\0\0\0\0WEBP".to_vec();
            head.extend(webp_chunk(b"VP8X", &canvas));
            // Black behind it, and no end of its repeating.
            head.extend(webp_chunk(b"ANIM", &[0, 0, 0, 255, 0, 0]));
            self.append(&head)?;
        }
        let mut picture = Vec::new();
        WebPEncoder::new(&mut picture)
            .encode(rgb, width as u32, height as u32, ColorType::Rgb8)
            .map_err(|fault| broken("the WebP encoder failed").caused_by(fault))?;
        let stream = picture.get(12..).filter(|rest| rest.starts_with(b"VP8L"));
        let stream = stream.ok_or(broken("a WebP without a picture"))?;
        let length = three(self.thousandths() as usize);
        let place = [0; 6];
        let frame = [&place, &wide[..], &high, &length, &[REPLACES], stream].concat();
        let chunk = webp_chunk(b"ANMF", &frame);
        if self.bytes + chunk.len() as u64 > u64::from(u32::MAX) - (2 << 20) {
            return Err(Error::input("E0821", "a WebP file has no room for more than 4 GiB")
                .help("write an .apng, a folder of PNG frames, or fewer frames"));
        }
        self.append(&chunk)
    }

    /// Thousandths of a second that the next frame is shown.
    fn thousandths(&self) -> u64 {
        let at = self.frames as usize;
        ticks(at + 1, self.rate, 1000) - ticks(at, self.rate, 1000)
    }

    fn next(&mut self) -> [u8; 4] {
        self.sequence += 1;
        (self.sequence - 1).to_be_bytes()
    }

    pub(super) fn finish(mut self) -> Result<(Whole, u64)> {
        let (at, bytes) = match self.form {
            Animation::Apng => {
                self.append(&png_chunk(b"IEND", &[]))?;
                (PNG_HEAD as u64, animation_control(self.frames))
            }
            Animation::Webp => {
                if let Some(packet) = self.inscription.as_ref().map(webp_packet) {
                    self.append(&webp_chunk(b"XMP ", packet.as_bytes()))?;
                }
                (4, (self.bytes as u32 - 8).to_le_bytes().to_vec())
            }
        };
        let target = self.file.path().to_owned();
        self.file.seek(SeekFrom::Start(at)).map_err(|fault| write_error(&target, fault))?;
        self.file.append(&bytes)?;
        Ok((self.file.finish()?, self.bytes))
    }
}

/// The chunk that says how many frames there are, and that they repeat without end.
fn animation_control(frames: u32) -> Vec<u8> {
    png_chunk(b"acTL", &[frames.to_be_bytes(), [0; 4]].concat())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::media::inscription::{self, KEY};
    use crate::media::writer::{VideoWriter, WriterOptions};
    use crate::media::{MediaKind, ReadOptions, ffmpeg, read_clip};
    use crate::testing::TempFolder;
    use std::process::Command;

    fn frame(t: usize) -> Vec<u8> {
        let pixel = |at: usize| [at * 37 + t * 11, at * at + t, at * 5 + 3 * t * t];
        (0..33 * 21).flat_map(|at| pixel(at).map(|value| value as u8)).collect()
    }

    #[test]
    fn every_byte_comes_back_with_its_time_and_what_the_file_says() {
        let folder = TempFolder::new();
        let json = "{\"prompt\":\"a <b> & \\\"c\\\" \u{fc}\"}".to_owned();
        let what = Inscription { json: json.clone(), parameters: "a\nSteps: 1".into() };
        for (name, fps) in [("a.apng", 24.0), ("b.webp", 24.0), ("c.apng", 23.976), ("d.WebP", 7.0)]
        {
            let path = folder.path().join(name);
            let options = WriterOptions { allow_ffmpeg: false, ..WriterOptions::default() };
            let mut writer = VideoWriter::create(&path, 33, 21, fps, &options).unwrap();
            writer.inscribe(what.clone()).unwrap();
            (0..25).for_each(|t| writer.push(&frame(t)).unwrap());
            let info = writer.finish().unwrap();
            assert_eq!(info.bytes, std::fs::metadata(&path).unwrap().len(), "{name}");
            let clip = read_clip(&path, &ReadOptions::default()).unwrap();
            assert_eq!((clip.kind, clip.frames.len()), (MediaKind::Video, 25), "{name}");
            assert!(clip.source.warnings.is_empty(), "{name} {:?}", clip.source.warnings);
            for (t, shown) in clip.frames.iter().enumerate() {
                assert!(shown.data == frame(t), "{name}: frame {t}");
            }
            let length = 25.0 / clip.fps.unwrap();
            assert!((length - 25.0 / fps).abs() < 6e-4, "{name}: {length} s");
            let texts = inscription::read(&path, false).unwrap();
            assert_eq!(texts.get(KEY), Some(json.as_str()), "{name} {texts:?}");
        }
        assert_eq!(folder.names(), ["a.apng", "b.webp", "c.apng", "d.WebP"]);
    }

    #[test]
    fn other_programs_read_them() {
        let Some(program) = ffmpeg::find() else {
            println!("skipped: no ffmpeg on the PATH");
            return;
        };
        // Its reader of WebP knows no animations, so that libwebp has to say what is one.
        let folder = TempFolder::new();
        let path = folder.path().join("a.apng");
        let mut writer =
            VideoWriter::create(&path, 33, 21, 24.0, &WriterOptions::default()).unwrap();
        (0..5).for_each(|t| writer.push(&frame(t)).unwrap());
        writer.finish().unwrap();
        let words = ["-v", "warning", "-f", "apng", "-i"];
        let mut command = Command::new(program);
        command.args(words).arg(&path).args(["-f", "rawvideo", "-pix_fmt", "rgb24", "-"]);
        let output = command.output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success() && said.is_empty(), "{said}");
        let all: Vec<u8> = (0..5).flat_map(frame).collect();
        assert!(output.stdout == all, "{} of {} bytes", output.stdout.len(), all.len());
    }
}
