//! Pixels to latents and back, in a stream of chunks.

use super::context::tensor_f32;
use super::{Event, LoadedReference, Request, Run, Size};
use crate::engine::{Backend, Compiler, Inputs, Program, StateSpec, States};
use crate::error::Result;
use crate::model::Model;
use anyid_ir::{Module, Tensor};
use anyid_models::wan::vae::{self, Half, VaeSize};

/// Clean latents of the references and of their black counterparts, along time.
pub(crate) struct ReferenceLatents {
    /// `f32[C,R,h,w]`.
    pub(crate) clean: Tensor,
    /// The same of black pixels.
    pub(crate) black: Tensor,
    /// Latent frames of all references.
    pub(crate) frames: usize,
}

/// A clip whose planar pixels can be had piece by piece.
enum Clip<'c> {
    Pixels(&'c Tensor),
    Read(&'c crate::media::standardise::Reference),
    Black { frames: usize },
}

impl Clip<'_> {
    fn frames(&self) -> usize {
        match self {
            Self::Pixels(tensor) => tensor.shape()[1],
            Self::Read(reference) => reference.frames.len(),
            Self::Black { frames } => *frames,
        }
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

/// Adds the functions of an autoencoder's half as phases that carry their states: `first` and, for
/// clips of more than one chunk, `next`. A run of either goes with
/// [`Program::call_with_states`] on [`Program::states`].
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
        let states: Vec<StateSpec> = states.map(spec).collect();
        compiler = compiler.phase_with_states(name, module, name, &states)?;
    }
    Ok(compiler)
}

/// One half of the autoencoder with the memory of its causal convolutions' pasts.
struct Coder {
    program: Program,
    states: States,
    input: &'static str,
}

impl Coder {
    /// Phase `first` and, for clips of more than one chunk, `next`.
    fn new(run: &mut Run<'_>, half: Half, size: Size, clips: bool) -> Result<Self> {
        let sizes = VaeSize { height: size.height, width: size.width, chunk: 1 };
        let (module, input) = match half {
            Half::Encoder => (vae::encoder(&run.model.vae, &sizes), "video"),
            Half::Decoder => (vae::decoder(&run.model.vae, &sizes, true), "z"),
        };
        let compiler = coder_phases(Compiler::new(run.backend), &module, half, clips)?;
        let weights = run.model.vae_weights.clone();
        let program = run.load(compiler, &weights)?;
        let states = program.states("first")?;
        Ok(Self { program, states, input })
    }

    /// The results for one chunk of a clip, which continues the one before unless it is the first.
    fn chunk(&mut self, piece: &Tensor, first: bool) -> Result<Vec<Tensor>> {
        let inputs = Inputs::new().set(self.input, piece);
        let phase = if first { "first" } else { "next" };
        let outputs = self.program.call_with_states(phase, &inputs, &mut self.states)?;
        Ok(outputs.into_tensors())
    }

    /// Bytes of workspace, kernel scratch and states.
    fn memory_bytes(&self) -> u64 {
        self.program.memory_bytes() + self.states.bytes()
    }
}

fn encode_clip(run: &Run<'_>, coder: &mut Coder, size: Size, clip: &Clip<'_>) -> Result<Tensor> {
    let mut latents = Vec::new();
    let later = (clip.frames() - 1) / 4;
    for at in 0..=later {
        run.check_cancel("while encoding references")?;
        let (start, len) = if at == 0 { (0, 1) } else { (4 * at - 3, 4) };
        let piece = clip.piece(size, start, len)?;
        latents.extend(coder.chunk(&piece, at == 0)?.pop());
    }
    concat_time(&latents)
}

/// Tensors `[C,Tᵢ,h,w]` one after the other along time.
pub(crate) fn concat_time(parts: &[Tensor]) -> Result<Tensor> {
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
fn prefix_time(latent: &Tensor, start: usize, frames: usize) -> Result<Tensor> {
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

/// Encodes every reference by itself, and black once for the longest, of which prefixes serve all
/// (the encoder is causal).
pub(crate) fn encode_references(
    run: &mut Run<'_>,
    request: &Request,
    references: &[LoadedReference],
) -> Result<Option<ReferenceLatents>> {
    if references.is_empty() {
        return Ok(None);
    }
    let since = run.begin("references");
    let clips: Vec<Clip<'_>> = references
        .iter()
        .map(|reference| match reference {
            LoadedReference::Pixels(tensor) => Clip::Pixels(tensor),
            LoadedReference::Read(read) => Clip::Read(read),
        })
        .collect();
    let longest = clips.iter().map(Clip::frames).max().expect("there is a reference");
    let mut coder = Coder::new(run, Half::Encoder, request.size, longest > 1)?;
    let guided = crate::sampling::guidance::needs_unconditional(request.guidance as f32);
    let total = clips.len() + usize::from(guided);
    let mut clean = Vec::new();
    for (at, clip) in clips.iter().enumerate() {
        clean.push(encode_clip(run, &mut coder, request.size, clip)?);
        (run.events)(Event::Encoded { done: at + 1, total });
    }
    let mut black = Vec::new();
    if guided {
        let all = encode_clip(run, &mut coder, request.size, &Clip::Black { frames: longest })?;
        for latent in &clean {
            black.push(prefix_time(&all, 0, latent.shape()[1])?);
        }
        (run.events)(Event::Encoded { done: total, total });
    }
    run.end("references", since, coder.program.weight_bytes(), coder.memory_bytes());
    let clean = concat_time(&clean)?;
    let frames = clean.shape()[1];
    let black = if guided { concat_time(&black)? } else { clean.clone() };
    Ok(Some(ReferenceLatents { clean, black, frames }))
}

/// Normalised latents `f32[z,1+k,h,w]` of pixels `f32[3,4k+1,H,W]`.
///
/// # Errors
/// As [`Program::call`].
pub fn encode_pixels(model: &Model, backend: &Backend, pixels: &Tensor) -> Result<Tensor> {
    let [_, frames, height, width] = four(pixels);
    let size = Size { width, height, frames };
    Run::quiet(model, backend, |run| {
        let mut coder = Coder::new(run, Half::Encoder, size, frames > 1)?;
        encode_clip(run, &mut coder, size, &Clip::Pixels(pixels))
    })
}

/// Decodes latents chunk by chunk, handing pixels on as they come.
pub(crate) fn decode(
    run: &mut Run<'_>,
    request: &Request,
    latents: &Tensor,
    frames: &mut dyn FnMut(&Tensor) -> Result<()>,
) -> Result<()> {
    let since = run.begin("decoding");
    let count = latents.shape()[1];
    let mut coder = Coder::new(run, Half::Decoder, request.size, count > 1)?;
    let total = 4 * (count - 1) + 1;
    for at in 0..count {
        run.check_cancel("while decoding")?;
        let piece = prefix_time(latents, at, 1)?;
        let video = coder.chunk(&piece, at == 0)?.pop().expect("a decoder chunk has a video");
        super::finite(&video, || format!("decoding, latent frame {at}"))?;
        frames(&video)?;
        (run.events)(Event::Decoded { done: 4 * at + 1, total });
    }
    run.end("decoding", since, coder.program.weight_bytes(), coder.memory_bytes());
    Ok(())
}

/// Pixels `f32[3,4k+1,H,W]` of normalised latents `f32[z,1+k,h,w]`.
///
/// # Errors
/// As [`Program::call`].
pub fn decode_latents(model: &Model, backend: &Backend, latents: &Tensor) -> Result<Tensor> {
    let [_, count, rows, cols] = four(latents);
    let size = Size { width: 16 * cols, height: 16 * rows, frames: 4 * (count - 1) + 1 };
    let request = Request { size, ..Request::default() };
    let mut parts = Vec::new();
    Run::quiet(model, backend, |run| {
        decode(run, &request, latents, &mut |video| {
            parts.push(video.clone());
            Ok(())
        })
    })?;
    concat_time(&parts)
}
