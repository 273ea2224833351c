//! Listens, answers, and stops in good order.
//!
//! One thread answers, another makes the videos, and a few wait for the disk.

use crate::guard::Guard;
use crate::queue::{Counts, Queue};
use crate::refusal::Refusal;
use crate::routes::{App, router};
use crate::worker::Worker;
use crate::{Options, job};
use anyid_http::{Connections, ENDING, listening};
use anyid_runtime::backends::threads;
use anyid_runtime::safeguards::Safeguards;
use anyid_runtime::{Pipeline, Result, error};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use tokio::sync::watch;

/// A server that is there.
pub struct Ready {
    /// Where it listens.
    pub address: SocketAddr,
    /// What its queue held.
    pub counts: Counts,
    /// Whether clients need a token.
    pub token: bool,
}

/// Serves videos made by `pipeline` behind `safeguards` until `stop` is set; how many videos there are then. `ready` is
/// told when requests are answered, `log` what happens to videos.
///
/// # Errors
/// E1400 if it cannot listen, E1401 and E1402 for the queue, E1403 for the token, E1025 without
/// threads; E101x if the folder of the queue cannot be written.
pub fn serve(
    pipeline: Pipeline,
    options: Options,
    safeguards: Safeguards,
    stop: Arc<AtomicBool>,
    ready: &mut dyn FnMut(&Ready) -> Result<()>,
    log: Arc<dyn Fn(&str) + Send + Sync>,
) -> Result<Counts> {
    let guard = Guard::new(&options)?;
    let runtime = anyid_http::runtime()?;
    let listener = runtime.block_on(listening(options.listen, "E1400", "127.0.0.1:8787"))?;
    let queue = Arc::new(Queue::open(&options.queue, &options.model, options.limits)?);
    let (pipeline, safeguards) = (Arc::new(pipeline), Arc::new(safeguards));
    let worker = Worker {
        queue: Arc::clone(&queue),
        pipeline: Arc::clone(&pipeline),
        making: options.making,
        safeguards: Arc::clone(&safeguards),
        threads: options.threads,
        most: options.limits.making,
        stop: Arc::clone(&stop),
        log,
    };
    let worker = threads::start("anyid-videos", move || worker.run()).map_err(error::threads)?;
    let (leave, left) = watch::channel(false);
    let app = App {
        queue: Arc::clone(&queue),
        pipeline,
        limits: options.limits,
        model: options.model,
        allow_ffmpeg: options.allow_ffmpeg,
        since: job::now(),
        stop: left,
        guard,
        safeguards,
    };
    let token = app.guard.needs_token();
    let address = listener.local_addr().unwrap_or(options.listen);
    let begun = ready(&Ready { address, counts: queue.counts(), token });
    if begun.is_ok() {
        let connections = Connections {
            most: options.limits.connections,
            silence: options.limits.silence,
            full: Refusal::full().text(),
        };
        let router = router(Arc::new(app));
        let stopped = || queue.stop();
        runtime.block_on(connections.answer(listener, router, &stop, &leave, stopped));
    }
    queue.stop();
    runtime.shutdown_timeout(ENDING);
    // It has ended its video or given it back; a panic of its own has been reported.
    let _ = worker.join();
    begun.map(|()| queue.counts())
}
