//! Listens, answers, and stops in good order. A client that is silent for too long, while it sends as
//! while it reads, is left; whoever comes when there are as many as there may be is told so.

use crate::patient::Patient;
use anyid_files::output::{no_descriptor, too_many_files};
use anyid_files::{Error, Result};
use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

/// Bytes of the head of a request.
const HEAD_BYTES: usize = 32 << 10;
/// How often it is asked whether the server shall stop.
const ASKED: Duration = Duration::from_millis(50);
/// How long answers may take that are being given then.
pub const ENDING: Duration = Duration::from_millis(500);
/// Threads that wait for the disk.
const WAITING: usize = 8;

/// One thread that answers, and a few that wait for the disk.
///
/// # Errors
/// E1025 without threads, E1013 without descriptors.
pub fn runtime() -> Result<Runtime> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(WAITING)
        .build()
        .map_err(|fault| match too_many_files(&fault) {
            true => no_descriptor(fault),
            false => Error::threads(1, 0, fault),
        })
}

/// Listens at `address`; `example` is another that would do.
///
/// # Errors
/// `code` where it cannot.
pub async fn listening(
    address: SocketAddr,
    code: &'static str,
    example: &str,
) -> Result<TcpListener> {
    TcpListener::bind(address).await.map_err(|fault| {
        let help = match fault.kind() {
            io::ErrorKind::AddrInUse => "another program listens there: choose another port".into(),
            io::ErrorKind::PermissionDenied => "ports below 1024 are not for everybody".into(),
            _ => format!("give an address of this machine, such as {example}"),
        };
        Error::input(code, "the server cannot listen here")
            .at(format!("--listen {address}"))
            .help(help)
            .caused_by(fault)
    })
}

/// Bounds of connections, and what is said beyond them.
pub struct Connections {
    /// How many there may be.
    pub most: usize,
    /// How long a client may be silent.
    pub silence: Duration,
    /// The JSON for a client that is one too many.
    pub full: String,
}

impl Connections {
    /// Answers until `stop` is set, and a moment longer for those who are being answered. `stopped` is
    /// called when nobody else is let in, then `leave` is set.
    pub async fn answer(
        self,
        listener: TcpListener,
        router: Router,
        stop: &AtomicBool,
        leave: &watch::Sender<bool>,
        stopped: impl FnOnce(),
    ) {
        let free = Arc::new(Semaphore::new(self.most));
        let (silence, full) = (self.silence, Arc::<str>::from(self.full));
        let mut connections = JoinSet::new();
        let mut asked = tokio::time::interval(ASKED);
        loop {
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                _ = asked.tick() => {
                    while connections.try_join_next().is_some() {}
                    match stop.load(Ordering::Relaxed) {
                        true => break,
                        false => continue,
                    }
                }
            };
            let Ok((stream, _)) = accepted else {
                // Without descriptors for now, or the client has gone already.
                sleep(ASKED).await;
                continue;
            };
            let Ok(place) = Arc::clone(&free).try_acquire_owned() else {
                let full = Arc::clone(&full);
                connections.spawn(async move {
                    let _ = timeout(ENDING, turned_away(stream, &full)).await;
                });
                continue;
            };
            let service = TowerToHyperService::new(router.clone());
            let stopping = leave.subscribe();
            connections.spawn(async move {
                let _place = place;
                let _ = stream.set_nodelay(true);
                let io = TokioIo::new(Patient::new(stream, silence));
                let mut connection = pin!(
                    http1::Builder::new()
                        .timer(TokioTimer::new())
                        .header_read_timeout(silence)
                        .max_header_size(HEAD_BYTES)
                        .serve_connection(io, service)
                );
                tokio::select! {
                    _ = connection.as_mut() => {}
                    () = left(stopping) => {
                        connection.as_mut().graceful_shutdown();
                        let _ = connection.await;
                    }
                }
            });
        }
        drop(listener);
        stopped();
        leave.send_replace(true);
        let ended = async { while connections.join_next().await.is_some() {} };
        let _ = timeout(ENDING, ended).await;
    }
}

/// Waits until the server stops.
pub async fn left(mut stop: watch::Receiver<bool>) {
    let _ = stop.wait_for(|stop| *stop).await;
}

/// Says to a client that there are too many.
async fn turned_away(mut stream: TcpStream, body: &str) {
    let answer = format!(
        "HTTP/1.1 503 Service Unavailable\r\ncontent-type: application/json\r\nretry-after: 1\r\n\
         content-length: {}\r\nconnection: close\r\n\r\n{body}",
        body.len()
    );
    if stream.write_all(answer.as_bytes()).await.is_ok() && stream.shutdown().await.is_ok() {
        // Read to its end, or the connection is reset before the client has the answer.
        let mut bytes = [0; 4096];
        while stream.read(&mut bytes).await.is_ok_and(|count| count > 0) {}
    }
}
