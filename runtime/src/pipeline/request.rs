//! The request for a run, and every check that can be made before anything is loaded.

use super::state::SamplingState;
use super::tiles::{Tiling, least_side};
use super::{MOST_REFERENCES, ReferenceSource, schedule, settings};
use crate::engine::finite::check_given;
use crate::error::{Error, Result, plural};
use crate::media::standardise::MOST_SIDE;
use crate::model::Model;
use crate::sampling::cache::check_threshold;
use crate::sampling::schedule::{check_shift, check_steps};
use crate::sampling::{ScheduleKind, SolverKind, guidance};
use anyid_ir::Tensor;
use anyid_models::wan::{Geometry, Precision, Residual};

/// Size of the video in pixels and frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Size {
    /// Columns; a multiple of what the model asks for, 32 for Wan2.2.
    pub width: usize,
    /// Rows; as the columns.
    pub height: usize,
    /// Frames, 4k+1 for Wan2.2.
    pub frames: usize,
}

/// The memory that a run may hold, and whether it is changed to fit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Budget {
    /// All that the process may take; a run that needs more is refused.
    #[default]
    Refuse,
    /// All that the process may take; a run that needs more works in tiles and streams weights.
    Available,
    /// So many bytes, or what the process may take if that is less; otherwise the same.
    Bytes(u64),
}

/// The largest width and height in pixels that a half of the autoencoder works on at once; without
/// one, whole pictures. Larger ones are cut into tiles, and differ near their edges.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tiles {
    /// Of references.
    pub encoder: Option<[usize; 2]>,
    /// Of the video.
    pub decoder: Option<[usize; 2]>,
}

/// A request for one video.
#[derive(Clone, Debug)]
pub struct Request {
    /// References of the person, the primary first; empty for text to video.
    pub references: Vec<ReferenceSource>,
    /// The first frame of the video, if it is given (`sampling.md` §8): a picture, or a clip of which
    /// the first frame is taken. It fills the picture; what is too much is cut off at both ends. Both
    /// branches of guidance have it.
    pub first_frame: Option<ReferenceSource>,
    /// What should change.
    pub prompt: String,
    /// What guidance leads away from, in place of the empty prompt; the black references of the null
    /// state stay.
    pub negative_prompt: Option<String>,
    /// Size of the result.
    pub size: Size,
    /// Sampling steps.
    pub steps: usize,
    /// Noise levels of the steps, falling from at most 1, in place of those of schedule, steps and shift.
    pub sigmas: Option<Vec<f64>>,
    /// Schedule shift; `None` takes the model folder's.
    pub shift: Option<f64>,
    /// Guidance scale. At 1 the unconditional branch is not evaluated.
    pub guidance: f64,
    /// The noise levels, lowest and highest, at which guidance is at work; `None` is all of them. At
    /// others the unconditional branch is not evaluated.
    pub guidance_interval: Option<[f64; 2]>,
    /// The threshold of the [cache of steps](crate::sampling::StepCache), which leaves out evaluations
    /// and changes the result; `None` evaluates every step.
    pub cache: Option<f64>,
    /// Solver; `None` takes the model folder's.
    pub solver: Option<SolverKind>,
    /// Schedule; `None` takes the model folder's.
    pub schedule: Option<ScheduleKind>,
    /// Seed of the start noise.
    pub seed: u64,
    /// Start latents `f32[C,F,h,w]` instead of seeded noise.
    pub noise: Option<Tensor>,
    /// Precision; `None` decides by the stored weights.
    pub precision: Option<Precision>,
    /// Element type of the transformer's residual stream.
    pub residual: Residual,
    /// Largest number of frames taken from a reference clip, 4k+1 for Wan2.2.
    pub reference_frames: usize,
    /// Rows of the text context; `None` takes the model's (512).
    pub text_tokens: Option<usize>,
    /// Guidance contexts instead of the prompt: conditional and null embeddings
    /// `f32[text_tokens, text_dim]`.
    pub contexts: Option<[Tensor; 2]>,
    /// Final latents `f32[C,F,h,w]`, normalised, of an earlier run. They are decoded, and of the
    /// rest of the request only the size matters.
    pub latents: Option<Tensor>,
    /// The state of an earlier run of the same request, which is gone on with to the same bits.
    pub resume: Option<SamplingState>,
    /// Whether [previews](super::StepState::preview) are wanted; they change nothing.
    pub preview: bool,
    /// The memory that it may hold.
    pub budget: Budget,
    /// Tiles of the autoencoder; the budget may make them smaller.
    pub tiles: Tiles,
}

impl Default for Request {
    fn default() -> Self {
        Self {
            references: Vec::new(),
            first_frame: None,
            prompt: String::new(),
            negative_prompt: None,
            size: Size { width: 1280, height: 704, frames: 121 },
            steps: 50,
            sigmas: None,
            shift: None,
            guidance: 5.0,
            guidance_interval: None,
            cache: None,
            solver: None,
            schedule: None,
            seed: 0,
            noise: None,
            precision: None,
            residual: Residual::F32,
            reference_frames: 121,
            text_tokens: None,
            contexts: None,
            latents: None,
            resume: None,
            preview: false,
            budget: Budget::default(),
            tiles: Tiles::default(),
        }
    }
}

/// Advice for a number between two that are allowed, or above the largest.
fn nearest(near: usize, next: usize) -> String {
    if near == next { format!("use {near}") } else { format!("use {near} or {next}") }
}

impl Size {
    /// Latent frames, rows and columns.
    pub fn latent(self, geometry: Geometry) -> [usize; 3] {
        let frames = geometry.latent_frames(self.frames);
        [frames, self.height / geometry.space, self.width / geometry.space]
    }

    /// The size of so many latent frames, rows and columns.
    pub fn of_latent([frames, rows, columns]: [usize; 3], geometry: Geometry) -> Self {
        let [width, height] = [columns, rows].map(|side| geometry.space * side);
        Self { width, height, frames: geometry.frames(frames) }
    }

    /// Checks the size alone, and says all that is wrong with it.
    ///
    /// # Errors
    /// E0901, or E0902 where only the number of frames is at fault.
    pub fn check(self, geometry: Geometry) -> Result<()> {
        self.misfit(geometry, usize::MAX).map_or(Ok(()), |misfit| Err(misfit.error()))
    }

    /// What is wrong with the size, where sides may also have at most `most_side` pixels.
    pub fn misfit(self, geometry: Geometry, most_side: usize) -> Option<Misfit> {
        let ([rows, columns], [tallest, widest]) = (geometry.sides(), geometry.most_pixels());
        let mut faults = Vec::new();
        let mut fitted = |what: &'static str, pixels: usize, side: usize, most: usize| {
            let most = most.min(most_side / side * side);
            if pixels > 0 && pixels.is_multiple_of(side) && pixels <= most {
                return pixels;
            }
            let said = format!("{what} {pixels} is not a positive multiple of {side} up to {most}");
            faults.push((what, said));
            let below = pixels.min(most) / side * side;
            let nearer = if pixels.min(most) - below > side / 2 { below + side } else { below };
            nearer.max(side)
        };
        let width = fitted("width", self.width, columns, widest);
        let height = fitted("height", self.height, rows, tallest);
        let mut nearest = Self { width, height, ..self };
        let frames = check_frames(self.frames, geometry).err();
        if let Some(error) = &frames {
            faults.push(("frames", error.message().to_owned()));
            let below = geometry.cut(self.frames.clamp(1, geometry.most_frames()));
            let apart = self.frames.saturating_sub(below);
            let above = below + geometry.time;
            let nearer = apart > geometry.time / 2 && above <= geometry.most_frames();
            nearest.frames = if nearer { above } else { below };
        }
        (!faults.is_empty()).then_some(Misfit { faults, nearest, frames })
    }
}

/// What is wrong with a size.
pub struct Misfit {
    /// Which part of it is at fault, and what is to be said of that.
    faults: Vec<(&'static str, String)>,
    nearest: Size,
    /// The error of the number of frames by itself.
    frames: Option<Error>,
}

impl Misfit {
    /// The parts of the size that are at fault: `width`, `height`, `frames`.
    pub fn parts(&self) -> impl Iterator<Item = &'static str> {
        self.faults.iter().map(|(what, _)| *what)
    }

    /// The error, with the nearest size that is fine.
    pub fn error(self) -> Error {
        let Self { faults, nearest: Size { width, height, frames }, frames: of_frames } = self;
        let near = match (faults.len(), of_frames) {
            (1, Some(only)) => return only,
            (_, Some(_)) => format!("{width}x{height}, {}", plural(frames, "frame")),
            (_, None) => format!("{width}x{height}"),
        };
        let said: Vec<String> = faults.into_iter().map(|(_, said)| said).collect();
        Error::input("E0901", said.join("; ")).help(format!("the nearest size is {near}"))
    }
}

/// Checks a number of frames alone.
///
/// # Errors
/// E0902.
pub fn check_frames(frames: usize, geometry: Geometry) -> Result<()> {
    let (most, rule) = (geometry.most_frames(), geometry.rule());
    if geometry.takes(frames) && frames <= most {
        return Ok(());
    }
    let near = geometry.cut(frames.clamp(1, most));
    let next = (near + geometry.time).min(most);
    let message =
        format!("the number of frames cannot be {frames}: it must be {rule}, up to {most}");
    Err(Error::input("E0902", message).help(nearest(near, next)))
}

impl Request {
    /// What is outside of what the built-in model has learned: it is made all the same.
    pub(super) fn outside(&self, model: &Model) -> Option<String> {
        let [width, height, frames] = model.dit.sample;
        let Size { width: w, height: h, frames: f } = self.size;
        (model.is_built_in() && [w, h, f] != model.dit.sample).then(|| {
            format!(
                "the built-in model has learned {frames} frames of {width}x{height}: {f} of {w}x{h} \
                 are outside of what it knows"
            )
        })
    }

    /// Most pixels of a side: where files are brought to the size, they have a limit of their own.
    pub fn most_side(&self) -> usize {
        let file = |source: &ReferenceSource| matches!(source, ReferenceSource::File(_));
        if self.references.iter().any(file) { MOST_SIDE } else { usize::MAX }
    }

    /// Checks everything that can be known before work begins.
    ///
    /// # Errors
    /// E0901–E0906 and E092x, each naming the value and what is allowed.
    pub fn check(&self, model: &Model) -> Result<()> {
        let geometry = model.geometry();
        if let Some(misfit) = self.size.misfit(geometry, self.most_side()) {
            return Err(misfit.error());
        }
        match self.sigmas {
            Some(_) => drop(schedule(&settings(model, self), self)?),
            None => check_steps(self.steps)?,
        }
        guidance::check_scale(self.guidance)?;
        if let Some(interval) = self.guidance_interval {
            guidance::check_interval(interval)?;
        }
        if let Some(threshold) = self.cache {
            check_threshold(threshold)?;
        }
        if let Some(shift) = self.shift {
            check_shift(shift)?;
        }
        if self.references.len() > MOST_REFERENCES {
            return Err(Error::input(
                "E0903",
                format!(
                    "{} references; at most {MOST_REFERENCES} are allowed",
                    self.references.len()
                ),
            )
            .help("keep the clearest pictures; the first is the primary"));
        }
        if !geometry.takes(self.reference_frames) {
            let (frames, rule) = (self.reference_frames, geometry.rule());
            let message =
                format!("the frames of a reference cannot be {frames}: they must be {rule}");
            let (near, next) =
                (geometry.cut(frames.max(1)), geometry.cut(frames.max(1)) + geometry.time);
            return Err(Error::input("E0902", message).help(nearest(near, next)));
        }
        for tile in [self.tiles.encoder, self.tiles.decoder].into_iter().flatten() {
            let made = Tiling::of(model, self.size, Some(tile)).pixels();
            if made.iter().zip(tile).any(|(made, most)| *made > most) {
                let ([width, height], least) = (tile, least_side(geometry));
                let message = format!("tiles of {width}x{height} pixels are too small");
                let help = format!("give {least}x{least} or more with `--tile`");
                return Err(Error::input("E0901", message).help(help));
            }
        }
        let [frames, rows, cols] = self.size.latent(geometry);
        if self.first_frame.is_some() && frames == 1 {
            let least = geometry.frames(2);
            let message = "a video of one frame has nothing behind the first frame that is given";
            return Err(Error::input("E1305", message).help(format!("use {least} frames or more")));
        }
        let state = self.resume.as_ref().map(SamplingState::latents);
        for (tensor, what) in [
            (self.noise.as_ref(), "the noise"),
            (self.latents.as_ref(), "the latents"),
            (state, "the state of sampling"),
        ] {
            let Some(tensor) = tensor else { continue };
            let shape = [model.dit.in_channels, frames, rows, cols];
            if tensor.shape() != shape || tensor.as_f32().is_err() {
                let error = super::shape_error(what, tensor, &format!("f32{shape:?}"));
                let (time, space) = (geometry.time, geometry.space);
                return Err(error.help(format!(
                    "{what} must have the latent's size: channels, 1+(frames−1)/{time}, \
                     height/{space}, width/{space}"
                )));
            }
            check_given(tensor, what)?;
        }
        self.check_contexts(model)?;
        for (source, first) in self
            .references
            .iter()
            .map(|source| (source, false))
            .chain(self.first_frame.iter().map(|source| (source, true)))
        {
            if let ReferenceSource::Pixels(pixels) = source {
                let fits = matches!(pixels.shape(), [3, t, h, w]
                    if (if first { *t == 1 } else { geometry.takes(*t) }) && *h == self.size.height && *w == self.size.width);
                if !fits || pixels.as_f32().is_err() {
                    let Size { width, height, .. } = self.size;
                    let frames = if first { "1".to_owned() } else { geometry.rule() };
                    let expected = format!("f32[3,{frames},{height},{width}]");
                    let what = if first { "the first frame" } else { "a reference" };
                    return Err(super::shape_error(what, pixels, &expected));
                }
                check_given(pixels, "the pixels of a reference")?;
            }
        }
        Ok(())
    }

    fn check_contexts(&self, model: &Model) -> Result<()> {
        let Some(contexts) = &self.contexts else { return Ok(()) };
        let rows = contexts[0].shape().first().copied().unwrap_or(0);
        for context in contexts {
            if rows == 0
                || context.shape() != [rows, model.dit.text_dim]
                || context.as_f32().is_err()
            {
                let expected = format!("f32[rows,{}], both alike", model.dit.text_dim);
                return Err(super::shape_error("a context", context, &expected));
            }
            check_given(context, "a context")?;
        }
        Ok(())
    }
}
