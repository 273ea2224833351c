//! Bounds on sizes, counts and times: what one client can cost.

use std::time::Duration;

/// What clients may ask for at most.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Videos that wait to be made.
    pub waiting: usize,
    /// Videos that are kept, whatever has become of them.
    pub videos: usize,
    /// Bytes of a request with its references.
    pub upload_bytes: u64,
    /// Pixels of a frame.
    pub pixels: usize,
    /// Frames of a video.
    pub frames: usize,
    /// Sampling steps of a video.
    pub steps: usize,
    /// Time for making one video; `None` lets it take what it takes.
    pub making: Option<Duration>,
    /// Connections at a time.
    pub connections: usize,
    /// How long a client may be silent, while it sends as while it reads.
    pub silence: Duration,
    /// Time for a whole request with its references.
    pub sending: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            waiting: 100,
            videos: 1000,
            upload_bytes: 256 << 20,
            pixels: 1280 * 1280,
            frames: 241,
            steps: 200,
            making: None,
            connections: 64,
            silence: Duration::from_secs(20),
            sending: Duration::from_secs(600),
        }
    }
}

/// Bytes of a text field of a form, and of a request without references.
pub(crate) const TEXT_BYTES: usize = 128 << 10;

/// Characters of a prompt.
pub(crate) const PROMPT_CHARACTERS: usize = 32_000;

/// Fields of a form.
pub(crate) const FIELDS: usize = 32;
