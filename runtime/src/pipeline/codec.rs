//! Encodes pixels to latents and decodes latents to pixels, in a stream of chunks.

use super::context::tensor_f32;
use super::plan::Stage;
use super::preview::{Fit, Projection};
use super::shelf::Lent;
use super::tiles::{Tile, Tiling};
use super::{Cancel, Event, LoadedReference, Request, Run, Size};
use crate::engine::finite::Origin;
use crate::engine::{
    Backend, CompileRequest, Compiler, Inputs, StateSpec, States, interrupted_in, memory_check,
};
use crate::error::Result;
use crate::model::Model;
use anyid_ir::{DType, Module, Tensor, TensorType};
use anyid_models::wan::Geometry;
use anyid_models::wan::vae::{self, Half, VaeSize};

/// Clean latents of the references and of their black counterparts, along time.
pub(crate) struct ReferenceLatents {
    /// `f32[C,R,h,w]`.
    pub(crate) clean: Tensor,
    /// The same for black pixels.
    pub(crate) black: Tensor,
    /// Latent frames of both, the first frame of the video included where it is given.
    pub(crate) frames: usize,
    /// That frame, which is the last of both.
    pub(crate) first: Option<Tensor>,
    /// Colours of latents, if previews are wanted.
    pub(super) projection: Option<Projection>,
}

/// A clip whose planar pixels are available piece by piece.
enum Clip<'c> {
    Pixels(&'c Tensor),
    Read(&'c crate::media::standardise::Reference),
    Black { frames: usize },
}

impl<'c> Clip<'c> {
    fn of(reference: &'c LoadedReference) -> Self {
        match reference {
            LoadedReference::Pixels(tensor) => Self::Pixels(tensor),
            LoadedReference::Read(read) => Self::Read(read),
        }
    }
}

impl Clip<'_> {
    fn frames(&self) -> usize {
        match self {
            Self::Pixels(tensor) => tensor.shape()[1],
            Self::Read(reference) => reference.frames.len(),
            Self::Black { frames } => *frames,
        }
    }

    fn latent_frames(&self, geometry: Geometry) -> usize {
        geometry.latent_frames(self.frames())
    }

    /// Frames `start..start+len` as `f32[3,len,H,W]` in [−1,1].
    fn piece(&self, size: Size, start: usize, len: usize) -> Result<Tensor> {
        let area = size.height * size.width;
        let mut out = vec![-1f32; 3 * len * area];
        match self {
            Self::Black { .. } => {}
            Self::Pixels(tensor) => {
                let all = tensor.as_f32().expect("checked with the request");
                let frames = self.frames();
                for colour in 0..3 {
                    let from = (colour * frames + start) * area;
                    out[colour * len * area..(colour + 1) * len * area]
                        .copy_from_slice(&all[from..from + len * area]);
                }
            }
            Self::Read(reference) => {
                for (at, frame) in reference.frames[start..start + len].iter().enumerate() {
                    for (i, pixel) in frame.as_chunks::<3>().0.iter().enumerate() {
                        for colour in 0..3 {
                            out[(colour * len + at) * area + i] =
                                crate::media::color::to_unit(pixel[colour]);
                        }
                    }
                }
            }
        }
        tensor_f32([3, len, size.height, size.width], &out)
    }
}

/// Adds the functions of one half of the autoencoder as phases that carry their states: `first`
/// and, for clips of more than one chunk, `next`. Both are run with
/// [`Program::call_with_states`](crate::engine::Program::call_with_states).
///
/// # Errors
/// E05xx where they cannot be compiled.
pub fn coder_phases(
    mut compiler: Compiler,
    module: &Module,
    half: Half,
    clips: bool,
) -> Result<Compiler> {
    for name in ["first", "next"].into_iter().take(1 + usize::from(clips)) {
        let func = module.func(name).expect("the autoencoder has both functions");
        let spec = |(at, (input, output))| StateSpec { name: format!("s{at}"), input, output };
        let states = vae::states(half, func).into_iter().enumerate();
        let request = CompileRequest::new(module, name).carrying(states.map(spec));
        compiler = compiler.add(name, request)?;
    }
    Ok(compiler)
}

/// What an interruption ends while a half of the autoencoder is at work.
const ENCODING: &str = "while encoding";
const DECODING: &str = "while decoding";
/// What a non-finite value is in where no reference made it.
const BLACK: &str = "the encoder of black references";

/// One half of the autoencoder for chunks of pictures of `width` and `height`.
pub(super) fn compile(
    compiler: Compiler,
    model: &Model,
    half: Half,
    [width, height]: [usize; 2],
    clips: bool,
) -> Result<Compiler> {
    let sizes = VaeSize { height, width, chunk: 1 };
    let module = match half {
        Half::Encoder => vae::encoder(&model.vae, &sizes),
        Half::Decoder => vae::decoder(&model.vae, &sizes, true),
    };
    coder_phases(compiler, &module, half, clips)
}

/// One half of the autoencoder with the states of its causal convolutions.
struct Coder {
    program: Lent,
    states: States,
    input: &'static str,
    /// What an interruption ends here.
    doing: &'static str,
}

/// Input `at` of the chunks of a clip.
type Pieces<'p> = &'p dyn Fn(usize) -> Result<Tensor>;

impl Coder {
    fn load(run: &mut Run<'_>, stage: Stage, half: Half) -> Result<Self> {
        let weights = run.model.vae_weights.clone();
        let program = stage.load(run, &weights)?;
        let states = program.states("first")?;
        let (input, doing) = match half {
            Half::Encoder => ("video", ENCODING),
            Half::Decoder => ("z", DECODING),
        };
        Ok(Self { program, states, input, doing })
    }

    fn phase(at: usize) -> &'static str {
        if at == 0 { "first" } else { "next" }
    }

    /// The result for chunk `at` of a clip, which continues the previous chunk unless it is the
    /// first. `place` names the result in the error if it is not finite.
    fn chunk(&mut self, at: usize, pieces: Pieces<'_>, place: &str) -> Result<Tensor> {
        let piece = pieces(at)?;
        let inputs = Inputs::new().set(self.input, &piece);
        let outputs = self.program.call_with_states(Self::phase(at), &inputs, &mut self.states);
        let outputs = outputs.map_err(|error| interrupted_in(error, || self.doing.to_owned()))?;
        if !self.program.gave_finite(&outputs) {
            return Err(self.origin(at, pieces)?.error(&format!("{place}, chunk {}", at + 1)));
        }
        Ok(outputs.into_tensors().pop().expect("a chunk has a result"))
    }

    /// Runs the clip again up to chunk `last` and checks every value, because states may become
    /// non-finite before a result does.
    fn origin(&mut self, last: usize, pieces: Pieces<'_>) -> Result<Origin> {
        for at in 0..=last {
            let piece = pieces(at)?;
            let inputs = Inputs::new().set(self.input, &piece);
            let states = Some(&mut self.states);
            if let Some(origin) = self.program.origin(Self::phase(at), &inputs, None, states)? {
                return Ok(origin);
            }
        }
        Ok(Origin::default())
    }

    /// Bytes of workspace, kernel scratch and states.
    fn memory_bytes(&self) -> u64 {
        self.program.memory_bytes() + self.states.bytes()
    }
}

/// The latents of a clip, tile by tile. `seen` is called after every latent frame of a tile.
fn encode_clip(
    run: &mut Run<'_>,
    coder: &mut Coder,
    (size, tiling): (Size, &Tiling),
    clip: &Clip<'_>,
    place: &str,
    seen: &mut dyn FnMut(&mut Run<'_>),
) -> Result<Tensor> {
    let geometry = run.model.geometry();
    let frames = clip.latent_frames(geometry);
    let mut whole: Option<Tensor> = None;
    for tile in tiling.tiles() {
        let pieces = |at: usize| {
            let (start, len) = chunk(geometry, at);
            cut(tiling, Half::Encoder, tile, clip.piece(size, start, len)?)
        };
        let mut latents = Vec::new();
        for at in 0..frames {
            run.cancel.check(ENCODING)?;
            latents.push(coder.chunk(at, &pieces, place)?);
            seen(run);
        }
        let latents = concat_time(&latents)?;
        if tiling.is_whole() {
            return Ok(latents);
        }
        let whole = match &mut whole {
            Some(whole) => whole,
            none => {
                let [_, rows, columns] = size.latent(geometry);
                none.insert(zeros([latents.shape()[0], frames, rows, columns], "latents")?)
            }
        };
        add(tiling, Half::Encoder, tile, &latents, whole);
    }
    Ok(whole.expect("a picture has a tile"))
}

/// The first frame of latent frame `at`, and how many it has.
fn chunk(geometry: Geometry, at: usize) -> (usize, usize) {
    let time = geometry.time;
    if at == 0 { (0, 1) } else { (time * (at - 1) + 1, time) }
}

/// The part of a whole chunk that a half reads for a tile.
fn cut(tiling: &Tiling, half: Half, tile: Tile, chunk: Tensor) -> Result<Tensor> {
    if tiling.is_whole() {
        return Ok(chunk);
    }
    let [channels, frames, ..] = four(&chunk);
    let part = tiling.cut(half, tile, chunk.as_f32().expect("pixels and latents are f32"));
    let [rows, columns] = tiling.tile_sides(half);
    tensor_f32([channels, frames, rows, columns], &part)
}

/// Adds what a half gave for a tile to a whole chunk.
fn add(tiling: &Tiling, half: Half, tile: Tile, given: &Tensor, whole: &mut Tensor) {
    let given = given.as_f32().expect("pixels and latents are f32");
    tiling.add(half, tile, given, whole.as_f32_mut().expect("it was made as f32"));
}

fn zeros(shape: [usize; 4], what: &str) -> Result<Tensor> {
    memory_check::zeros(&TensorType::new(DType::F32, shape), what)
}

/// Concatenates tensors `[C,Tᵢ,h,w]` along time.
pub(super) fn concat_time(parts: &[Tensor]) -> Result<Tensor> {
    let [channels, _, rows, cols] = four(&parts[0]);
    let frames: usize = parts.iter().map(|p| p.shape()[1]).sum();
    let mut out = Vec::with_capacity(channels * frames * rows * cols);
    for channel in 0..channels {
        for part in parts {
            let plane = part.shape()[1] * rows * cols;
            let values = part.as_f32().expect("latents are f32");
            out.extend_from_slice(&values[channel * plane..(channel + 1) * plane]);
        }
    }
    tensor_f32([channels, frames, rows, cols], &out)
}

/// The first `frames` latent frames of `[C,T,h,w]`.
pub(super) fn prefix_time(latent: &Tensor, start: usize, frames: usize) -> Result<Tensor> {
    let [channels, all, rows, cols] = four(latent);
    let values = latent.as_f32().expect("latents are f32");
    let plane = rows * cols;
    let mut out = Vec::with_capacity(channels * frames * plane);
    for channel in 0..channels {
        let at = (channel * all + start) * plane;
        out.extend_from_slice(&values[at..at + frames * plane]);
    }
    tensor_f32([channels, frames, rows, cols], &out)
}

fn four(tensor: &Tensor) -> [usize; 4] {
    tensor.shape().try_into().expect("latents have four axes")
}

/// Encodes every reference by itself, and then the first frame of the video, if it is given. That is
/// part of the video, and therefore the same in both branches of guidance. For guidance, black frames are encoded once at the length of
/// the longest reference; because the encoder is causal, each reference can take a prefix of them.
pub(crate) fn encode_references(
    run: &mut Run<'_>,
    stage: Stage,
    (request, tiling): (&Request, &Tiling),
    guided: bool,
    (references, first): (&[LoadedReference], Option<&LoadedReference>),
) -> Result<ReferenceLatents> {
    let since = run.begin("references");
    let clips: Vec<Clip<'_>> = references.iter().map(Clip::of).collect();
    let first = first.map(Clip::of);
    let longest = clips.iter().map(Clip::frames).max();
    let mut coder = Coder::load(run, stage, Half::Encoder)?;
    let black = longest.filter(|_| guided).map(|frames| Clip::Black { frames });
    let geometry = run.model.geometry();
    let all = clips.iter().chain(&black).chain(&first);
    let frames: usize = all.map(|clip| clip.latent_frames(geometry)).sum();
    let (mut done, total, given) = (0, frames * tiling.count(), clips.len());
    let mut encode = |run: &mut Run<'_>, at: usize, clip: &Clip<'_>| {
        let place = match at < given {
            true => format!("the encoder of reference {}", at + 1),
            false if matches!(clip, Clip::Black { .. }) => BLACK.to_owned(),
            false => "the encoder of the first frame".to_owned(),
        };
        encode_clip(run, &mut coder, (request.size, tiling), clip, &place, &mut |run| {
            done += 1;
            let reference = (at < given).then_some(at + 1);
            run.event(Event::Encoded { reference, references: given, done, total });
        })
    };
    let mut clean = Vec::new();
    for (at, clip) in clips.iter().enumerate() {
        clean.push(encode(run, at, clip)?);
    }
    let mut dark = Vec::new();
    if let Some(clip) = &black {
        let all = encode(run, given, clip)?;
        for latent in &clean {
            dark.push(prefix_time(&all, 0, latent.shape()[1])?);
        }
    }
    let shown = first.as_ref();
    let first = shown.map(|clip| encode(run, given, clip)).transpose()?;
    let projection = match request.preview {
        true => {
            let mut fit = Fit::new(run.model.dit.in_channels);
            for (clip, latents) in clips.iter().zip(&clean).chain(shown.zip(first.as_ref())) {
                for at in 0..clip.latent_frames(geometry) {
                    let (start, len) = chunk(geometry, at);
                    fit.add(&clip.piece(request.size, start, len)?, latents, at);
                }
            }
            fit.solved()
        }
        false => None,
    };
    if let Some(latent) = &first {
        clean.push(latent.clone());
        dark.push(latent.clone());
    }
    run.end("references", since, coder.program.weight_bytes(), coder.memory_bytes());
    let clean = concat_time(&clean)?;
    let frames = clean.shape()[1];
    let black = if guided { concat_time(&dark)? } else { clean.clone() };
    Ok(ReferenceLatents { clean, black, frames, first, projection })
}

/// The encoder, loaded for many clips of one size.
pub struct ClipEncoder<'m> {
    model: &'m Model,
    cancel: Cancel,
    coder: Coder,
    size: Size,
    tiling: Tiling,
}

impl<'m> ClipEncoder<'m> {
    /// Loads the encoder for clips of `size`, whose frames only say whether there is more than one. All
    /// that it does ends once `cancel` says to stop.
    ///
    /// # Errors
    /// As [`Compiler::load`].
    pub fn open(model: &'m Model, backend: &Backend, size: Size, cancel: &Cancel) -> Result<Self> {
        Self::in_tiles(model, backend, (size, None), cancel)
    }

    /// [`Self::open`] for tiles of at most this width and height, if they are given.
    fn in_tiles(
        model: &'m Model,
        backend: &Backend,
        (size, tile): (Size, Option<[usize; 2]>),
        cancel: &Cancel,
    ) -> Result<Self> {
        Run::quiet(model, cancel, &mut |_| Ok(()), |run| {
            let compiler = Compiler::new(backend).stopped_by(cancel.flag());
            let tiling = Tiling::of(model, size, tile);
            let sides = tiling.pixels();
            let compiler = compile(compiler, model, Half::Encoder, sides, size.frames > 1)?;
            let coder = Coder::load(run, Stage::alone("references", compiler), Half::Encoder)?;
            Ok(Self { model, cancel: cancel.clone(), coder, size, tiling })
        })
    }

    /// Normalised latents `f32[z,1+k,h,w]` of pixels `f32[3,T,H,W]`, 4k+1 frames for Wan2.2; `place` names the clip in
    /// the error of a non-finite value.
    ///
    /// # Errors
    /// E1001, and as [`Program::call`](crate::engine::Program::call).
    pub fn pixels(&mut self, pixels: &Tensor, place: &str) -> Result<Tensor> {
        self.clip(&Clip::Pixels(pixels), place)
    }

    /// As [`Self::pixels`], of what was read.
    ///
    /// # Errors
    /// As [`Self::pixels`].
    pub fn read(
        &mut self,
        clip: &crate::media::standardise::Reference,
        place: &str,
    ) -> Result<Tensor> {
        self.clip(&Clip::Read(clip), place)
    }

    /// As [`Self::pixels`], of black pixels.
    ///
    /// # Errors
    /// As [`Self::pixels`].
    pub fn black(&mut self, frames: usize) -> Result<Tensor> {
        self.clip(&Clip::Black { frames }, BLACK)
    }

    fn clip(&mut self, clip: &Clip<'_>, place: &str) -> Result<Tensor> {
        let (coder, whole) = (&mut self.coder, (self.size, &self.tiling));
        Run::quiet(self.model, &self.cancel, &mut |_| Ok(()), |run| {
            encode_clip(run, coder, whole, clip, place, &mut |_| {})
        })
    }
}

/// Normalised latents `f32[z,1+k,h,w]` of pixels `f32[3,T,H,W]`, 4k+1 frames for Wan2.2.
///
/// # Errors
/// As [`Program::call`](crate::engine::Program::call).
pub fn encode_pixels(model: &Model, backend: &Backend, pixels: &Tensor) -> Result<Tensor> {
    encode_in_tiles(model, backend, pixels, None)
}

/// [`encode_pixels`] in tiles of at most this width and height, if they are given.
///
/// # Errors
/// As [`encode_pixels`].
pub fn encode_in_tiles(
    model: &Model,
    backend: &Backend,
    pixels: &Tensor,
    tile: Option<[usize; 2]>,
) -> Result<Tensor> {
    let [_, frames, height, width] = four(pixels);
    let size = (Size { width, height, frames }, tile);
    ClipEncoder::in_tiles(model, backend, size, &Cancel::new())?.pixels(pixels, "the encoder")
}

/// Decodes latents chunk by chunk and passes pixels on as soon as they are there: those of tiles when
/// the last tile is.
pub(crate) fn decode(
    run: &mut Run<'_>,
    stage: Stage,
    latents: &Tensor,
    tiling: &Tiling,
) -> Result<()> {
    let since = run.begin("decoding");
    let [_, count, rows, columns] = four(latents);
    let mut coder = Coder::load(run, stage, Half::Decoder)?;
    let geometry = run.model.geometry();
    let total = geometry.frames(count);
    let Size { width, height, .. } = Size::of_latent([count, rows, columns], geometry);
    let (mut video, mut done) = (Vec::new(), 0);
    for tile in tiling.tiles() {
        let pieces = |at: usize| cut(tiling, Half::Decoder, tile, prefix_time(latents, at, 1)?);
        for at in 0..count {
            run.cancel.check(DECODING)?;
            let part = coder.chunk(at, &pieces, "the decoder")?;
            if tiling.is_whole() {
                run.receiver.frames(&part)?;
            } else {
                if video.len() == at {
                    video.push(zeros([part.shape()[0], part.shape()[1], height, width], "pixels")?);
                }
                add(tiling, Half::Decoder, tile, &part, &mut video[at]);
            }
            done += 1;
            let frames =
                (done / tiling.count()).checked_sub(1).map_or(0, |at| geometry.frames(at + 1));
            run.event(Event::Decoded { done: frames, total });
        }
    }
    video.into_iter().try_for_each(|chunk| run.receiver.frames(&chunk))?;
    run.end("decoding", since, coder.program.weight_bytes(), coder.memory_bytes());
    Ok(())
}

/// Pixels `f32[3,T,H,W]` of normalised latents `f32[z,1+k,h,w]`, 4k+1 frames for Wan2.2, of which `show`
/// gets each chunk as soon as it is there, until `cancel` says to stop.
///
/// # Errors
/// Those of `show`, and as [`Program::call`](crate::engine::Program::call).
pub(crate) fn decode_each(
    (model, backend, cancel): (&Model, &Backend, &Cancel),
    latents: &Tensor,
    show: &mut dyn FnMut(&Tensor) -> Result<()>,
) -> Result<()> {
    let [_, count, rows, cols] = four(latents);
    let size = Size::of_latent([count, rows, cols], model.geometry());
    Run::quiet(model, cancel, show, |run| {
        let compiler = Compiler::new(backend).stopped_by(cancel.flag());
        let sides = [size.width, size.height];
        let compiler = compile(compiler, model, Half::Decoder, sides, count > 1)?;
        decode(run, Stage::alone("decoding", compiler), latents, &Tiling::of(model, size, None))
    })
}

/// Bytes that [`decode_each`] holds at most for videos of `size`, latents included.
///
/// # Errors
/// E05xx where the decoder cannot be compiled.
pub(crate) fn decoder_bytes(
    model: &Model,
    backend: &Backend,
    size: Size,
    cancel: &Cancel,
) -> Result<u64> {
    let compiler = Compiler::new(backend).stopped_by(cancel.flag());
    let sides = [size.width, size.height];
    let compiler = compile(compiler, model, Half::Decoder, sides, size.frames > 1)?;
    Ok(super::need::decoding(&compiler, model, size).held_bytes())
}

/// All pixels of latents at once, decoded as in pieces.
///
/// # Errors
/// As [`Program::call`](crate::engine::Program::call).
pub fn decode_latents(model: &Model, backend: &Backend, latents: &Tensor) -> Result<Tensor> {
    let mut parts = Vec::new();
    decode_each((model, backend, &Cancel::new()), latents, &mut |video| {
        parts.push(video.clone());
        Ok(())
    })?;
    concat_time(&parts)
}
