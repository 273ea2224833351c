//! A server of videos over HTTP, in the shape of OpenAI's video API (`docs/server.md`).
//!
//! [`serve`] answers requests until it is told to stop. Videos are made one after the other by one
//! thread, on a pipeline whose model stays loaded. What was accepted lies in the folder of the queue
//! and is gone on with after a restart. There are no accounts, no encryption and no database: it is
//! for one machine and the people who are let in by its token, behind a proxy where it is reached
//! from outside.

mod content;
mod event;
mod form;
mod guard;
mod job;
mod limits;
mod listen;
mod multipart;
mod queue;
mod refusal;
mod routes;
mod upload;
mod worker;

pub use limits::Limits;
pub use listen::{Ready, serve};

use anyid_runtime::pipeline::{Budget, Tiles};
use anyid_runtime::{Precision, Residual};
use std::net::SocketAddr;
use std::path::PathBuf;

/// What a server is told before it starts.
#[derive(Clone, Debug)]
pub struct Options {
    /// Where it listens; port 0 takes a free one.
    pub listen: SocketAddr,
    /// The folder of the queue, which is made where it is missing.
    pub queue: PathBuf,
    /// What clients must know; needed where others than this machine can reach it.
    pub token: Option<String>,
    /// Names that the server is reached by, besides `localhost` and addresses.
    pub hosts: Vec<String>,
    /// What clients call the model.
    pub model: String,
    /// Whether `ffmpeg` may read uploads that the built-in decoders do not know.
    pub allow_ffmpeg: bool,
    /// Bounds on what clients may ask for.
    pub limits: Limits,
    /// Threads for marking frames.
    pub threads: usize,
    /// How videos are made, which is not the clients' to choose.
    pub making: Making,
}

/// Settings of a run that belong to the machine and not to the video.
#[derive(Clone, Copy, Debug, Default)]
pub struct Making {
    /// The memory that a run may hold.
    pub budget: Budget,
    /// Tiles of the autoencoder.
    pub tiles: Tiles,
    /// Arithmetic of the networks; `None` decides by the stored weights.
    pub precision: Option<Precision>,
    /// Element type of the transformer's residual stream.
    pub residual: Residual,
}
