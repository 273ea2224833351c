//! The server that people answer at: pages, an API in JSON, media by token.
//!
//! It listens on this machine alone unless it is told otherwise. Everything needs a link that was
//! given out; what changes something needs a value besides that only our page knows. What people are
//! sent says nothing of where a video is from.

mod admin;
mod bounds;
mod content;
mod guard;
mod listen;
mod refusal;
mod routes;
#[cfg(test)]
mod tests;

pub use listen::{Ready, serve};

use std::net::SocketAddr;
use std::time::Duration;

/// What a server is told before it starts.
#[derive(Clone, Debug)]
pub struct Options {
    /// Where it listens; port 0 takes a free one.
    pub listen: SocketAddr,
    /// Whether others than this machine may reach it.
    pub public: bool,
    /// Names that it is reached by, besides `localhost` and addresses.
    pub hosts: Vec<String>,
    /// Whether a proxy before it speaks TLS, so that cookies are for TLS alone.
    pub secure: bool,
    /// Connections at a time.
    pub connections: usize,
    /// How long a client may be silent.
    pub silence: Duration,
}

impl Options {
    /// The usual ones.
    pub fn new(listen: SocketAddr) -> Self {
        Self {
            listen,
            public: false,
            hosts: Vec::new(),
            secure: false,
            connections: 64,
            silence: Duration::from_secs(20),
        }
    }
}
