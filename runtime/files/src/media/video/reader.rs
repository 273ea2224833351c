//! Decoding the runs of a track and handing out its frames in time.

use super::runs::Run;
use super::stream::Stream;
use super::units::{KEY_SLICE, SEQUENCE_SET, to_start_codes, units};
use crate::error::{Error, Result};
use crate::media::color::{Planes, yuv420_picked, yuv420_to_rgb};
use crate::media::decoded::{DecodedFrame, Uncoloured};
use crate::media::h264::{SequenceParameters, codec_room, no_codec_memory};
use crate::media::mp4::{Sample, Shown, Timeline, Track};
use crate::media::standardise::{StandardiseOptions, standardise};
use crate::media::{MediaKind, ReadOptions, RgbFrame, SourceInfo, VisitDecoded, guard};
use openh264::OpenH264API;
use openh264::decoder::{DecodedYUV, Decoder, DecoderConfig, Flush};
use openh264::formats::YUVSource;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

/// Frames a second where the file gives its frames no times at all, as ffmpeg takes them.
const UNTIMED_RATE: u32 = 25;

/// An opened H.264 track.
pub(in crate::media) struct Mp4Reader {
    path: PathBuf,
    file: File,
    track: Track,
    runs: Vec<Run>,
    /// By sample description.
    streams: Vec<Option<Stream>>,
    /// Ticks a second of what `runs` show.
    timescale: u32,
    /// How many frames are shown.
    count: usize,
    /// Mean frames a second.
    fps: Option<f64>,
    warnings: Vec<String>,
}

/// How decoding ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Flow {
    Continue,
    Stop,
}

impl Mp4Reader {
    /// For what `timeline` shows of `track`, by way of `runs`; every description that they use has
    /// its stream.
    pub(super) fn new(
        path: &Path,
        file: File,
        track: Track,
        timeline: &Timeline,
        mut runs: Vec<Run>,
        streams: Vec<Option<Stream>>,
        mut warnings: Vec<String>,
    ) -> Self {
        let count = timeline.shown.len();
        let mut timescale = track.timescale;
        let mut total = timeline.shown.last().map_or(0, |s| s.time.saturating_add(s.duration));
        if total <= 0 && count > 1 {
            warnings.push(format!("its frames have no times: taken as {UNTIMED_RATE} a second"));
            let shown = runs.iter_mut().flat_map(|run| &mut run.shown);
            for (index, shown) in shown.enumerate() {
                (shown.time, shown.duration) = (index as i64, 1);
            }
            (timescale, total) = (UNTIMED_RATE, count as i64);
        }
        // In ticks as far as possible, so that 30 frames a second are 30 and not 29.999…
        let fps = (total > 0).then(|| count as f64 * f64::from(timescale) / total as f64);
        let path = path.to_path_buf();
        Self { path, file, track, runs, streams, timescale, count, fps, warnings }
    }

    /// Decodes and hands out the frames.
    ///
    /// # Errors
    /// `E0810` at the first frame that cannot be decoded, `E0812`, and what `visit` returns.
    /// Colours are made in the visit.
    pub(in crate::media) fn visit(
        mut self,
        options: &ReadOptions,
        visit: VisitDecoded<'_>,
    ) -> Result<SourceInfo> {
        let mut output = Output { shown: 0, size: None, fitted: false };
        let mut flow = Flow::Continue;
        for run in std::mem::take(&mut self.runs) {
            let mut screen = Screen {
                path: &self.path,
                timescale: self.timescale,
                order: run.presented(&self.track.samples),
                next: 0,
                shown: run.shown.as_slice(),
                output: &mut output,
                options,
                visit: &mut *visit,
            };
            let Some(stream) = self.streams[usize::from(run.description)].clone() else {
                return Err(Error::internal("E0812", "a run of frames without its stream"));
            };
            let source =
                Source { path: &self.path, track: &self.track, run: &run, count: self.count };
            flow = source.decode(&mut self.file, stream, &mut screen, &mut self.warnings)?;
            if flow == Flow::Stop {
                break;
            }
        }
        let whole = flow == Flow::Continue;
        let (width, height) = output.size.unwrap_or((0, 0));
        if output.fitted {
            let what =
                "the picture size changes on the way: later frames are fitted into the first";
            self.warnings.push(what.to_string());
        }
        let still = whole && output.shown == 1;
        Ok(SourceInfo {
            path: self.path,
            kind: if still { MediaKind::Image } else { MediaKind::Video },
            width,
            height,
            fps: if still { None } else { self.fps },
            frames: output.shown,
            total: Some(self.count),
            description: "H.264 in MP4".to_string(),
            sound: self.track.sound,
            warnings: self.warnings,
        })
    }
}

/// Where the frames of a run come from.
struct Source<'a> {
    path: &'a Path,
    track: &'a Track,
    run: &'a Run,
    /// Frames of the whole clip, for messages.
    count: usize,
}

impl Source<'_> {
    fn failed(&self, what: String) -> Error {
        Error::input("E0810", what).at(self.path.display()).help(
            "the file is damaged there; export it again, or convert it: \
             ffmpeg -i IN -c:v libx264 OUT.mp4",
        )
    }

    fn decode(
        &self,
        file: &mut File,
        mut stream: Stream,
        screen: &mut Screen<'_, '_>,
        warnings: &mut Vec<String>,
    ) -> Result<Flow> {
        let count = self.count;
        let mut decoder = new_decoder(stream.pixels)?;
        let (mut packet, mut raw) = (Vec::new(), Vec::new());
        let mut fresh = true;
        for index in self.run.samples(&self.track.samples) {
            read_sample(file, self.track.samples[index], &mut raw)
                .map_err(|e| crate::media::unreadable(self.path, e))?;
            if let Some(next) = self.changed(&stream, &raw, index, screen.options, warnings)? {
                // Another picture size or colour from here on: what came before is let out first.
                if self.let_out(&mut decoder, &stream, screen)? == Flow::Stop {
                    return Ok(Flow::Stop);
                }
                decoder = new_decoder(next.pixels)?;
                (stream, fresh) = (next, true);
            }
            packet.clear();
            if std::mem::take(&mut fresh) {
                packet.extend(&stream.headers);
            }
            if !to_start_codes(&raw, stream.length_bytes, &mut packet) {
                let what = format!("frame {index} (from 0) of {count} is not valid H.264");
                return Err(self.failed(what));
            }
            let (decoder, packet) = (&mut decoder, &packet);
            let frame = guard(self.path, &format!("frame {index} of {count}"), move || {
                decoder.decode(packet)
            })?
            .map_err(|e| {
                let what = format!("frame {index} (from 0) of {count} cannot be decoded");
                self.failed(what).caused_by(e)
            })?;
            if let Some(frame) = frame
                && screen.take(&frame, &stream)? == Flow::Stop
            {
                return Ok(Flow::Stop);
            }
        }
        let flow = self.let_out(&mut decoder, &stream, screen)?;
        if flow == Flow::Continue && screen.next < screen.order.len() {
            let (found, all) = (screen.next, screen.order.len());
            return Err(self.failed(format!("only {found} of {all} frames can be decoded")));
        }
        Ok(flow)
    }

    /// The stream from this sample on, where a key frame brings other parameter sets along.
    fn changed(
        &self,
        stream: &Stream,
        raw: &[u8],
        index: usize,
        options: &ReadOptions,
        warnings: &mut Vec<String>,
    ) -> Result<Option<Stream>> {
        let all = || units(raw, stream.length_bytes);
        let sets: Vec<Vec<u8>> =
            all().filter(|u| u.kind() == SEQUENCE_SET).map(|u| u.0.to_vec()).collect();
        let known = sets.iter().all(|set| stream.sets.contains(set));
        if known || !all().any(|unit| unit.kind() == KEY_SLICE) {
            return Ok(None);
        }
        let parameters = sets.iter().find_map(|set| SequenceParameters::parse(set));
        let obstacle = match &parameters {
            None => Some("H.264 with a parameter set that cannot be read".to_string()),
            Some(parameters) => parameters.obstacle(),
        };
        let (Some(parameters), None) = (parameters, &obstacle) else {
            let what = obstacle.unwrap_or_default();
            return Err(self.failed(format!("from frame {index} (from 0) on this is {what}")));
        };
        let description = usize::from(self.run.description);
        let next = Stream::new(&parameters, self.track, description, warnings);
        let (width, height) = (parameters.width as usize, parameters.height as usize);
        let (width, height) = next.display.size(width, height);
        options.limits.check(self.path, width as u64, height as u64, 3)?;
        Ok(Some(Stream { sets, ..next }))
    }

    /// Takes the frames that the decoder still keeps back.
    fn let_out(
        &self,
        decoder: &mut Decoder,
        stream: &Stream,
        screen: &mut Screen<'_, '_>,
    ) -> Result<Flow> {
        let rest = guard(self.path, "the last frames", move || decoder.flush_remaining())?;
        let failed = "the last frames cannot be decoded";
        for frame in &rest.map_err(|e| self.failed(failed.to_string()).caused_by(e))? {
            if screen.take(frame, stream)? == Flow::Stop {
                return Ok(Flow::Stop);
            }
        }
        Ok(Flow::Continue)
    }
}

/// A decoder of frames of so many pixels that keeps them back until their turn comes.
fn new_decoder(pixels: u64) -> Result<Decoder> {
    codec_room(pixels)?;
    // It must not flush after each frame: with B-frames it would give frames out of order and lose
    // references.
    let config = DecoderConfig::new().flush_after_decode(Flush::NoFlush);
    Decoder::with_api_config(OpenH264API::from_source(), config).map_err(|e| {
        // Nothing about the clip is known to it yet: it fails for want of memory.
        no_codec_memory().caused_by(e)
    })
}

fn read_sample(file: &mut File, sample: Sample, raw: &mut Vec<u8>) -> std::io::Result<()> {
    raw.resize(sample.size as usize, 0);
    file.seek(SeekFrom::Start(sample.offset))?;
    file.read_exact(raw)
}

/// Frames given so far, over all runs.
struct Output {
    shown: usize,
    /// The size of the first frame, which is that of all.
    size: Option<(usize, usize)>,
    /// Whether later frames had another size.
    fitted: bool,
}

/// Takes the frames of a run as the decoder gives them, in presentation order, and shows those that
/// are wanted.
struct Screen<'a, 'v> {
    path: &'a Path,
    timescale: u32,
    /// Samples in the order of their frames, and which of them comes next.
    order: Vec<usize>,
    next: usize,
    /// What is still to be shown.
    shown: &'a [Shown],
    output: &'a mut Output,
    options: &'a ReadOptions,
    visit: VisitDecoded<'v>,
}

impl Screen<'_, '_> {
    fn take(&mut self, yuv: &DecodedYUV<'_>, stream: &Stream) -> Result<Flow> {
        let sample = self.order.get(self.next).copied();
        self.next += 1;
        let Some((shown, rest)) = self.shown.split_first() else { return Ok(Flow::Continue) };
        if sample != Some(shown.sample as usize) {
            return Ok(Flow::Continue);
        }
        self.shown = rest;
        let stored = yuv.dimensions();
        let limits = &self.options.limits;
        limits.check(self.path, stored.0 as u64, stored.1 as u64, 3)?;
        let (width, height) = stream.display.size(stored.0, stored.1);
        limits.check(self.path, width as u64, height as u64, 3)?;
        let size = *self.output.size.get_or_insert((width, height));
        let fitted = (size != (width, height)).then_some(size);
        self.output.fitted |= fitted.is_some();
        let picture = Picture { path: self.path, index: self.output.shown, yuv, stream, fitted };
        let seconds = |ticks: i64| ticks as f64 / f64::from(self.timescale);
        let times = [seconds(shown.time), seconds(shown.duration)];
        self.output.shown += 1;
        Ok(match (self.visit)(DecodedFrame::later(times, size.into(), &picture))? {
            ControlFlow::Continue(()) => Flow::Continue,
            ControlFlow::Break(()) => Flow::Stop,
        })
    }
}

/// A frame as the decoder gives it.
struct Picture<'p> {
    path: &'p Path,
    /// Which frame of those that are shown.
    index: usize,
    yuv: &'p DecodedYUV<'p>,
    stream: &'p Stream,
    /// The size that it is brought to, where that is another one.
    fitted: Option<(usize, usize)>,
}

impl Picture<'_> {
    fn planes(&self) -> Planes<'_> {
        let (stride, chroma_stride, _) = self.yuv.strides();
        let (y, u, v) = (self.yuv.y(), self.yuv.u(), self.yuv.v());
        Planes { y, u, v, stride, chroma_stride }
    }

    /// A picture of such bytes; none of them where the planes are shorter than it.
    fn whole(&self, width: usize, height: usize, data: Option<Vec<u8>>) -> Result<RgbFrame> {
        let Some(data) = data else {
            let what = format!("frame {} (from 0) is incomplete", self.index);
            return Err(Error::input("E0810", what)
                .at(self.path.display())
                .help("the file is damaged there; export it again"));
        };
        Ok(RgbFrame { width, height, data })
    }
}

impl Uncoloured for Picture<'_> {
    fn image(&self) -> Result<RgbFrame> {
        let (width, height) = self.yuv.dimensions();
        let data = yuv420_to_rgb(self.planes(), width, height, self.stream.encoding);
        let image = self.stream.display.show(self.whole(width, height, data)?);
        match self.fitted {
            Some((width, height)) => standardise(&image, &StandardiseOptions::new(width, height)),
            None => Ok(image),
        }
    }

    fn picked(&self, columns: &[usize], rows: &[usize]) -> Result<Option<RgbFrame>> {
        let (width, _) = self.yuv.dimensions();
        if self.fitted.is_some() || !self.stream.display.is_plain(width) {
            return Ok(None);
        }
        let encoding = self.stream.encoding;
        let data = yuv420_picked(self.planes(), width, columns, rows, encoding);
        self.whole(columns.len(), rows.len(), data).map(Some)
    }
}
