//! Marks by networks of the user's: what puts them into the frames of a run, and what reads them.

use crate::error::{Error, Result};
use anyid_files::media::RgbFrame;
use anyid_guard::policy::Policy;
use anyid_guard::watermark::repeat::{REPEATED, Repeated, read_repeated, repeated};
use anyid_study::picture::Plane;
pub use anyid_study::videoseal::Networks;
use std::sync::Arc;

/// Frames from one that is read to the next.
const EVERY: usize = 4;

/// The networks that a policy names.
///
/// # Errors
/// E1116 it names none or its file is wrong, E1209 this program runs none, E0911 and E1208 for
/// files that are not these networks.
pub fn of(policy: &Policy) -> Result<Networks> {
    let Some(path) = &policy.watermark_model else {
        let what = "frames have to be marked by networks, and none are named";
        return Err(Error::input("E1116", what).help(
            "name them in the policy, `model = \"FILE\"` under [watermark]; or use one of the program's own \
             strengths",
        ));
    };
    Networks::open(path)
}

/// Puts the mark of a run into its frames, in order.
pub struct NetworkMarker {
    networks: Arc<Networks>,
    message: Vec<bool>,
    /// The difference of the last frame for which one was made.
    delta: Option<Plane>,
    seen: usize,
}

impl NetworkMarker {
    /// A marker of `id`.
    pub fn new(networks: Arc<Networks>, id: u32) -> Self {
        Self { networks, message: repeated(id).to_vec(), delta: None, seen: 0 }
    }

    /// Bytes that are held with frames of this size: two planes, and a frame.
    pub fn held_bytes(width: usize, height: usize) -> u64 {
        (3 * 4 + 3) * (width as u64) * (height as u64)
    }

    /// Marks the next frame, of interleaved RGB.
    ///
    /// # Errors
    /// E1208 the network gives what it should not.
    pub fn mark(&mut self, rgb: &mut [u8], width: usize, height: usize) -> Result<()> {
        let settings = self.networks.settings();
        let delta = match &mut self.delta {
            Some(delta) if !self.seen.is_multiple_of(settings.every) => delta,
            held => {
                let frame = RgbFrame { width, height, data: rgb.to_vec() };
                held.insert(self.networks.delta(&frame, &self.message)?)
            }
        };
        settings.put(delta, rgb, width, height);
        self.seen += 1;
        Ok(())
    }
}

/// Reads the mark of frames that are seen one after the other.
pub struct NetworkReader<'n> {
    networks: &'n Networks,
    sums: [f64; REPEATED],
    seen: usize,
}

impl<'n> NetworkReader<'n> {
    /// A reader that has seen nothing.
    pub fn new(networks: &'n Networks) -> Self {
        Self { networks, sums: [0.0; REPEATED], seen: 0 }
    }

    /// Looks at the next frame, if it is one that is looked at.
    ///
    /// # Errors
    /// E1208 the network gives what it should not.
    pub fn see(&mut self, frame: &RgbFrame) -> Result<()> {
        if self.seen.is_multiple_of(EVERY) {
            let values = self.networks.bits(frame)?;
            self.sums.iter_mut().zip(values).for_each(|(sum, value)| *sum += f64::from(value));
        }
        self.seen += 1;
        Ok(())
    }

    /// What all of them say.
    pub fn read(&self) -> Repeated {
        read_repeated(&self.sums)
    }
}
