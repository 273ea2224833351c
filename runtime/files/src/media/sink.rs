//! The forms a video is written in without help: MP4, GIF, PNG folder.
//!
//! MP4 holds H.264 (Constrained Baseline or Main as the encoder chooses, no B-frames, constant
//! quantiser, a key frame every two seconds). Its YUV is BT.601 limited range and says so: tools
//! that ignore the tag assume just that, so colours do not shift anywhere. Primaries and curve are
//! tagged BT.709. Everything goes to a temporary first; see `writer`.
//!
//! The encoder gives up on a picture that takes more than about 16 bits a pixel, which loud noise
//! does at fine quantisers (a model with random weights makes such pictures). It is then begun anew,
//! with a coarser quantiser until the next key frame.

use super::color::Yuv420;
use super::h264::codec_room;
use super::inscription::{Inscription, gif_comment, gif_head_bytes, inscribe_mp4, png_chunks};
use super::lossless;
use super::mp4;
use super::writer::BESIDE_FRAMES;
use crate::error::{Error, Result};
use crate::output::{self, AtomicFile, AtomicFolder, Existing, Whole, write_error};
use ::image::codecs::gif::{GifEncoder, Repeat};
use ::image::{Delay, Frame, ImageError, RgbaImage};
use muxide::api::{Muxer, MuxerBuilder, VideoCodec};
use openh264::OpenH264API;
use openh264::encoder::{
    ColorPrimaries, Encoder, EncoderConfig, FrameRate, FrameType, IntraFramePeriod,
    MatrixCoefficients, QpRange, RateControlMode, TransferCharacteristics, UsageType, VuiConfig,
};
use openh264::formats::YUVSource;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

/// The folder that holds `path`; the current one for a bare name.
pub(super) fn folder_of(path: &Path) -> PathBuf {
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder.to_path_buf(),
        _ => PathBuf::from("."),
    }
}

impl YUVSource for Yuv420 {
    fn dimensions(&self) -> (usize, usize) {
        (self.width, self.height)
    }

    fn strides(&self) -> (usize, usize, usize) {
        (self.width, self.width / 2, self.width / 2)
    }

    fn y(&self) -> &[u8] {
        &self.y
    }

    fn u(&self) -> &[u8] {
        &self.u
    }

    fn v(&self) -> &[u8] {
        &self.v
    }
}

/// H.264 in MP4. The compressed frames are held in memory until the end.
pub(super) struct Mp4Sink {
    file: AtomicFile,
    encoder: Encoder,
    fps: f32,
    /// The quantiser asked for, and that of `encoder`.
    quantiser: u8,
    current: u8,
    /// Pictures until the next key frame.
    remaining: u32,
    /// Key frames that `encoder` has made; it numbers them from zero.
    keys: u32,
    /// The number of the picture before, where that was a key frame.
    key_before: Option<u32>,
    muxer: Muxer<Vec<u8>>,
    picture: Yuv420,
    packet: Vec<u8>,
    timescale: u32,
    delta: u32,
    pub(super) inscription: Option<Inscription>,
}

/// The clock that the muxer counts in; the real one is set at the end.
const MUXER_CLOCK: f64 = 90_000.0;

fn encoding(what: &str, source: impl std::error::Error + Send + Sync + 'static) -> Error {
    Error::internal("E0824", format!("the MP4 encoder failed: {what}"))
        .help("write a folder of PNG frames instead, and report this")
        .caused_by(source)
}

/// The coarsest quantiser of H.264.
const COARSEST: u8 = 51;

/// Pictures from one key frame to the next.
fn key_interval(fps: f32) -> u32 {
    (2.0 * fps).ceil() as u32
}

fn start(fps: f32, quantiser: u8) -> Result<Encoder> {
    let colour = VuiConfig::bt601()
        .color_primaries(ColorPrimaries::Bt709)
        .transfer_characteristics(TransferCharacteristics::Bt709)
        .matrix_coefficients(MatrixCoefficients::Smpte170M)
        .full_range(false);
    // One thread, no skipped frames, no adaptive tools: the same input gives the same file, and
    // the quantiser alone decides the quality. Among the encoder's modes the buffer-based one
    // neither aims at a bit rate nor prints a warning that it misses it.
    let config = EncoderConfig::new()
        .rate_control_mode(RateControlMode::Bufferbased)
        .qp(QpRange::new(quantiser, quantiser))
        .skip_frames(false)
        .adaptive_quantization(false)
        .background_detection(false)
        .scene_change_detect(false)
        .usage_type(UsageType::CameraVideoRealTime)
        .max_frame_rate(FrameRate::from_hz(fps))
        .intra_frame_period(IntraFramePeriod::from_num_frames(key_interval(fps)))
        .num_threads(1)
        .vui(colour);
    Encoder::with_api_config(OpenH264API::from_source(), config)
        .map_err(|e| encoding("it does not start", e))
}

impl Mp4Sink {
    pub(super) fn create(
        path: &Path,
        width: usize,
        height: usize,
        (over, under): (u32, u32),
        quantiser: u8,
        existing: Existing,
    ) -> Result<Self> {
        // Whole ticks for every frame at any rate, and never a clock coarser than a millisecond.
        let scale = if over >= 1000 { 1 } else { 1000 };
        let (timescale, delta) = (over * scale, under * scale);
        let fps = over as f32 / under as f32;
        codec_room(width as u64 * height as u64)?;
        let encoder = start(fps, quantiser)?;
        let (wide, high) = (width as u32, height as u32);
        let muxer = MuxerBuilder::new(Vec::new())
            .video(VideoCodec::H264, wide, high, f64::from(fps))
            .build()
            .map_err(|e| encoding("no container", e))?;
        let file = AtomicFile::create_as(path, existing)?;
        let picture = Yuv420::new(width, height);
        Ok(Self {
            file,
            encoder,
            fps,
            quantiser,
            current: quantiser,
            remaining: 0,
            keys: 0,
            key_before: None,
            muxer,
            picture,
            packet: Vec::new(),
            timescale,
            delta,
            inscription: None,
        })
    }

    pub(super) fn push(&mut self, index: usize, rgb: &[u8]) -> Result<()> {
        self.picture.set_rgb(rgb);
        let ticks = index as u64 * u64::from(self.delta);
        let milliseconds = ticks * 1000 / u64::from(self.timescale);
        if self.remaining == 0 && self.current != self.quantiser {
            self.restart(self.quantiser)?;
        }
        let key = loop {
            match self.encode(milliseconds) {
                Ok(key) => break key,
                Err(_) if self.current < COARSEST => {
                    self.restart((self.current + 4).min(COARSEST))?
                }
                Err(e) => return Err(encoding(&format!("frame {index}"), e)),
            }
        };
        let time = ticks as f64 / MUXER_CLOCK;
        self.muxer
            .write_video(time, &self.packet, key)
            .map_err(|e| encoding(&format!("frame {index} does not fit the container"), e))
    }

    /// Another encoder, whose first picture is a key frame.
    fn restart(&mut self, quantiser: u8) -> Result<()> {
        (self.encoder, self.current) = (start(self.fps, quantiser)?, quantiser);
        (self.remaining, self.keys) = (0, 0);
        Ok(())
    }

    /// Compresses the picture into `packet`; whether it is a key frame.
    fn encode(&mut self, milliseconds: u64) -> std::result::Result<bool, openh264::Error> {
        let time = openh264::Timestamp::from_millis(milliseconds);
        // Two key frames in a row need different numbers to be two pictures for a decoder, so that
        // a new encoder's first one may have to be left out.
        if self.keys == 0 && self.key_before == Some(0) {
            self.encoder.encode_at(&self.picture, time)?;
            self.encoder.force_intra_frame();
            self.keys = 1;
        }
        let stream = self.encoder.encode_at(&self.picture, time)?;
        let key = matches!(stream.frame_type(), FrameType::IDR);
        self.packet.clear();
        stream.write_vec(&mut self.packet);
        self.key_before = key.then_some(self.keys);
        if key {
            (self.keys, self.remaining) = (self.keys + 1, key_interval(self.fps));
        }
        self.remaining = self.remaining.saturating_sub(1);
        Ok(key)
    }

    pub(super) fn finish(mut self, frames: usize) -> Result<(Whole, u64)> {
        self.muxer.finish_in_place().map_err(|e| encoding("no index", e))?;
        let mut bytes = self.muxer.into_writer();
        mp4::set_rate(&mut bytes, self.timescale, self.delta, frames as u32)?;
        if let Some(what) = &self.inscription {
            inscribe_mp4(&mut bytes, what)?;
        }
        self.file.append(&bytes)?;
        Ok((self.file.finish()?, bytes.len() as u64))
    }
}

/// Bytes that the GIF encoder has produced and we have not stored yet.
#[derive(Clone, Default)]
struct Pending(Arc<Mutex<Vec<u8>>>);

impl Pending {
    fn take(&self) -> Vec<u8> {
        std::mem::take(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Write for Pending {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// An endless GIF: a palette of 256 colours for each frame, delays in hundredths of a second that
/// never drift from the true rate by more than half of one.
pub(super) struct GifSink {
    file: AtomicFile,
    encoder: GifEncoder<Pending>,
    pending: Pending,
    rate: (u32, u32),
    bytes: u64,
    pub(super) inscription: Option<Inscription>,
}

impl GifSink {
    pub(super) fn create(path: &Path, rate: (u32, u32), existing: Existing) -> Result<Self> {
        let pending = Pending::default();
        // Speed 10 is the quantiser's own balance: 1 looks the same and takes many times longer.
        let mut encoder = GifEncoder::new_with_speed(pending.clone(), 10);
        encoder.set_repeat(Repeat::Infinite).map_err(gif_error)?;
        let file = AtomicFile::create_as(path, existing)?;
        Ok(Self { file, encoder, pending, rate, bytes: 0, inscription: None })
    }

    pub(super) fn push(
        &mut self,
        index: usize,
        width: usize,
        height: usize,
        rgb: &[u8],
    ) -> Result<()> {
        let opaque = |pixel: &[u8]| [pixel[0], pixel[1], pixel[2], 255];
        let rgba: Vec<u8> = rgb.chunks_exact(3).flat_map(opaque).collect();
        let Some(picture) = RgbaImage::from_raw(width as u32, height as u32, rgba) else {
            return Err(Error::internal("E0825", "a frame shorter than its size"));
        };
        let (before, after) = (ticks(index, self.rate, 100), ticks(index + 1, self.rate, 100));
        let delay = Delay::from_numer_denom_ms(((after - before) * 10) as u32, 1);
        self.encoder.encode_frame(Frame::from_parts(picture, 0, 0, delay)).map_err(gif_error)?;
        self.store()
    }

    fn store(&mut self) -> Result<()> {
        let mut bytes = self.pending.take();
        if self.bytes == 0
            && let Some(what) = &self.inscription
        {
            // Readers that show one picture look no further than to the first.
            let at = gif_head_bytes(&bytes);
            bytes.splice(at..at, gif_comment(&what.keyed()));
        }
        self.bytes += bytes.len() as u64;
        self.file.append(&bytes)
    }

    pub(super) fn finish(self) -> Result<(Whole, u64)> {
        let Self { mut file, encoder, pending, bytes, .. } = self;
        // Its end writes the trailer.
        drop(encoder);
        let trailer = pending.take();
        file.append(&trailer)?;
        Ok((file.finish()?, bytes + trailer.len() as u64))
    }
}

/// When frame `index` starts, in parts of a second of which there are `parts`, rounded.
pub(super) fn ticks(index: usize, (over, under): (u32, u32), parts: u64) -> u64 {
    let (over, under) = (u64::from(over), u64::from(under));
    (index as u64 * under * 2 * parts + over) / (2 * over)
}

fn gif_error(error: ImageError) -> Error {
    Error::internal("E0824", "the GIF encoder failed").caused_by(error)
}

/// Frames as `frame_00000.png`, …, in a folder that appears as a whole.
pub(super) struct FolderSink {
    folder: AtomicFolder,
    bytes: u64,
    /// Chunks for every frame.
    texts: Vec<u8>,
}

/// Whether a folder holds nothing but frames such as we write.
fn only_frames(folder: &Path) -> std::io::Result<bool> {
    for entry in std::fs::read_dir(folder)? {
        let name = entry?.file_name();
        if output::is_temporary(&name) {
            continue;
        }
        let name = name.to_string_lossy().into_owned();
        let number = name.strip_prefix("frame_").and_then(|rest| rest.strip_suffix(".png"));
        let ours = number.is_some_and(|n| n.len() >= 5 && n.bytes().all(|b| b.is_ascii_digit()));
        if !ours && !BESIDE_FRAMES.contains(&name.as_str()) {
            return Ok(false);
        }
    }
    Ok(true)
}

fn check_folder(target: &Path) -> Result<()> {
    if target.is_dir() {
        if !only_frames(target).map_err(|e| write_error(target, e))? {
            return Err(Error::input("E0823", "the folder holds other files, so it is left alone")
                .at(target.display())
                .help(
                    "name a new or empty folder; one with frames of an earlier run is replaced",
                ));
        }
    } else if target.exists() {
        return Err(Error::input("E0823", "a file of this name is in the way of the folder")
            .at(target.display())
            .help("name another folder, or remove the file"));
    }
    Ok(())
}

impl FolderSink {
    pub(super) fn create(path: &Path, existing: Existing) -> Result<Self> {
        // A slash at the end would hide a file of this name.
        check_folder(&path.components().collect::<PathBuf>())?;
        // What somebody puts into the folder while the frames are made is never replaced.
        let existing = match existing {
            Existing::Overwrite => Existing::Replace,
            other => other,
        };
        Ok(Self { folder: AtomicFolder::create(path, existing)?, bytes: 0, texts: Vec::new() })
    }

    pub(super) fn inscribe(&mut self, what: &Inscription) {
        self.texts = png_chunks(what);
    }

    pub(super) fn push(
        &mut self,
        index: usize,
        width: usize,
        height: usize,
        rgb: &[u8],
    ) -> Result<()> {
        /// Bytes of the signature and of the first chunk, behind which texts may stand.
        const BEGIN: usize = 33;
        let mut bytes = lossless::picture_of(width, height, rgb)?;
        bytes.splice(BEGIN..BEGIN, self.texts.iter().copied());
        self.folder.write(&format!("frame_{index:05}.png"), &bytes)?;
        self.bytes += bytes.len() as u64;
        Ok(())
    }

    pub(super) fn finish(self) -> Result<(Whole, u64)> {
        Ok((self.folder.finish()?, self.bytes))
    }
}
