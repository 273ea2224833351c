//! The request for a run, and every check that can be made before anything is loaded.

use super::{MOST_REFERENCES, ReferenceSource};
use crate::engine::finite::check_given;
use crate::error::{Error, Result};
use crate::model::Model;
use crate::sampling::schedule::{check_shift, check_steps};
use crate::sampling::{ScheduleKind, SolverKind, guidance};
use anyid_ir::Tensor;
use anyid_models::wan::{Precision, Residual};

/// Size of the video in pixels and frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Size {
    /// Columns, a multiple of 32.
    pub width: usize,
    /// Rows, a multiple of 32.
    pub height: usize,
    /// Frames, 4k+1.
    pub frames: usize,
}

/// A request for one video.
#[derive(Clone, Debug)]
pub struct Request {
    /// References of the person, the primary first; empty for text to video.
    pub references: Vec<ReferenceSource>,
    /// What should change.
    pub prompt: String,
    /// Size of the result.
    pub size: Size,
    /// Sampling steps.
    pub steps: usize,
    /// Schedule shift; `None` takes the model folder's.
    pub shift: Option<f64>,
    /// Guidance scale. At 1 the unconditional branch is not evaluated.
    pub guidance: f64,
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
    /// Largest number of frames taken from a reference clip, 4k+1.
    pub reference_frames: usize,
    /// Rows of the text context; `None` takes the model's (512).
    pub text_tokens: Option<usize>,
    /// Guidance contexts instead of the prompt: conditional and null embeddings
    /// `f32[text_tokens, text_dim]`.
    pub contexts: Option<[Tensor; 2]>,
    /// Final latents `f32[C,F,h,w]`, normalised, of an earlier run. They are decoded, and of the
    /// rest of the request only the size matters.
    pub latents: Option<Tensor>,
}

impl Default for Request {
    fn default() -> Self {
        Self {
            references: Vec::new(),
            prompt: String::new(),
            size: Size { width: 1280, height: 704, frames: 121 },
            steps: 50,
            shift: None,
            guidance: 5.0,
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
        }
    }
}

/// Largest side in pixels: 1,024 patches of 32 pixels, the length of the rotary table.
const MOST_PIXELS: usize = 32 * 1024;
/// Largest number of frames: 1,024 latent frames, the length of the rotary table.
const MOST_FRAMES: usize = 4 * 1023 + 1;

impl Size {
    /// Latent frames, rows and columns.
    pub fn latent(self) -> [usize; 3] {
        [1 + (self.frames - 1) / 4, self.height / 16, self.width / 16]
    }

    /// Checks the size alone.
    ///
    /// # Errors
    /// E0901 for a side, E0902 for the number of frames.
    pub fn check(self) -> Result<()> {
        for (what, pixels) in [("width", self.width), ("height", self.height)] {
            if pixels == 0 || pixels % 32 != 0 || pixels > MOST_PIXELS {
                let near = (pixels.min(MOST_PIXELS) / 32).max(1) * 32;
                let next = (near + 32).min(MOST_PIXELS);
                return Err(Error::input(
                    "E0901",
                    format!("{what} {pixels} is not a positive multiple of 32 up to {MOST_PIXELS}"),
                )
                .help(format!("use {near} or {next}")));
            }
        }
        if self.frames == 0 || self.frames % 4 != 1 || self.frames > MOST_FRAMES {
            let near = self.frames.clamp(1, MOST_FRAMES).saturating_sub(1) / 4 * 4 + 1;
            let next = (near + 4).min(MOST_FRAMES);
            return Err(Error::input(
                "E0902",
                format!("{} frames: the number must be 4k+1, up to {MOST_FRAMES}", self.frames),
            )
            .help(format!("use {near} or {next}")));
        }
        Ok(())
    }
}

impl Request {
    /// Checks everything that can be known before work begins.
    ///
    /// # Errors
    /// E0901–E0906 and E092x, each naming the value and what is allowed.
    pub fn check(&self, model: &Model) -> Result<()> {
        self.size.check()?;
        check_steps(self.steps)?;
        guidance::check_scale(self.guidance)?;
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
        if self.reference_frames == 0 || self.reference_frames % 4 != 1 {
            return Err(Error::input(
                "E0902",
                format!("{} frames of a reference: must be 4k+1", self.reference_frames),
            ));
        }
        let [frames, rows, cols] = self.size.latent();
        for (tensor, what) in [(&self.noise, "the noise"), (&self.latents, "the latents")] {
            let Some(tensor) = tensor else { continue };
            let shape = [model.dit.in_channels, frames, rows, cols];
            if tensor.shape() != shape || tensor.as_f32().is_err() {
                let error = super::shape_error(what, tensor, &format!("f32{shape:?}"));
                return Err(error.help(format!(
                    "{what} must have the latent's size: channels, 1+(frames−1)/4, height/16, \
                     width/16"
                )));
            }
            check_given(tensor, what)?;
        }
        self.check_contexts(model)?;
        for source in &self.references {
            if let ReferenceSource::Pixels(pixels) = source {
                let fits = matches!(pixels.shape(), [3, t, h, w]
                    if *t % 4 == 1 && *h == self.size.height && *w == self.size.width);
                if !fits || pixels.as_f32().is_err() {
                    let expected = format!("f32[3,4k+1,{},{}]", self.size.height, self.size.width);
                    return Err(super::shape_error("a reference", pixels, &expected));
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
