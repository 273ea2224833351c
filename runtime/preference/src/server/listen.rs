//! Listens, answers, and stops in good order.

use super::Options;
use super::bounds::Bounds;
use super::guard::Guard;
use super::refusal::Refusal;
use super::routes::{App, router};
use crate::Project;
use anyid_files::Result;
use anyid_http::{Connections, ENDING, listening};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use tokio::sync::watch;

/// A server that is there.
#[derive(Clone, Copy, Debug)]
pub struct Ready {
    /// Where it listens.
    pub address: SocketAddr,
}

/// Asks people about a project until `stop` is set. `ready` is told when requests are answered.
///
/// # Errors
/// E1608 if it cannot listen here, E1025 without threads.
pub fn serve(
    project: Project,
    options: Options,
    stop: &AtomicBool,
    ready: &mut dyn FnMut(Ready) -> Result<()>,
) -> Result<()> {
    let guard = Guard::new(&options)?;
    let runtime = anyid_http::runtime()?;
    let listener = runtime.block_on(listening(options.listen, "E1608", "127.0.0.1:8788"))?;
    let address = listener.local_addr().unwrap_or(options.listen);
    ready(Ready { address })?;
    let app = App {
        project: Arc::new(project),
        guard,
        bounds: Bounds::default(),
        silence: options.silence,
    };
    let connections = Connections {
        most: options.connections,
        silence: options.silence,
        full: Refusal::full().text(),
    };
    let (leave, _) = watch::channel(false);
    let router = router(Arc::new(app));
    runtime.block_on(connections.answer(listener, router, stop, &leave, || {}));
    runtime.shutdown_timeout(ENDING);
    Ok(())
}
