//! Listens, answers, and stops in good order. A client that is silent for too long, while it sends as
//! while it reads, is left; whoever comes when there are as many as there may be is told so.

use super::Options;
use super::bounds::Bounds;
use super::guard::Guard;
use super::refusal::Refusal;
use super::routes::{App, router};
use crate::Project;
use anyid_files::output::{no_descriptor, too_many_files};
use anyid_files::{Error, Result};
use axum::http::StatusCode;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use std::io;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::{Sleep, sleep, timeout};

/// How often it is asked whether the server shall stop.
const ASKED: Duration = Duration::from_millis(50);
/// How long answers may take that are being given then.
const ENDING: Duration = Duration::from_millis(500);
/// Threads that wait for the disk.
const WAITING: usize = 8;
/// Bytes of the head of a request.
const HEAD_BYTES: usize = 32 << 10;

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
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(WAITING)
        .build()
        .map_err(|fault| match too_many_files(&fault) {
            true => no_descriptor(fault),
            false => Error::threads(1, 0, fault),
        })?;
    let listener = runtime.block_on(listening(options.listen))?;
    let address = listener.local_addr().unwrap_or(options.listen);
    ready(Ready { address })?;
    let app = App {
        project: Arc::new(project),
        guard,
        bounds: Bounds::default(),
        silence: options.silence,
    };
    runtime.block_on(answer(listener, Arc::new(app), &options, stop));
    runtime.shutdown_timeout(ENDING);
    Ok(())
}

async fn listening(address: SocketAddr) -> Result<TcpListener> {
    TcpListener::bind(address).await.map_err(|fault| {
        let help = match fault.kind() {
            io::ErrorKind::AddrInUse => "another program listens there: choose another port",
            io::ErrorKind::PermissionDenied => "ports below 1024 are not for everybody",
            _ => "give an address of this machine, such as 127.0.0.1:8788",
        };
        Error::input("E1608", "the server cannot listen here")
            .at(format!("--listen {address}"))
            .help(help)
            .caused_by(fault)
    })
}

/// Answers until `stop` is set, and a moment longer for those who are being answered.
async fn answer(listener: TcpListener, app: Arc<App>, options: &Options, stop: &AtomicBool) {
    let free = Arc::new(Semaphore::new(options.connections));
    let (leave, left) = watch::channel(false);
    let mut connections = JoinSet::new();
    let service = router(app);
    let silence = options.silence;
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
            connections.spawn(async move {
                let _ = timeout(ENDING, turned_away(stream)).await;
            });
            continue;
        };
        let (service, left) = (TowerToHyperService::new(service.clone()), left.clone());
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
                () = until(left) => {
                    connection.as_mut().graceful_shutdown();
                    let _ = connection.await;
                }
            }
        });
    }
    drop(listener);
    leave.send_replace(true);
    let ended = async { while connections.join_next().await.is_some() {} };
    let _ = timeout(ENDING, ended).await;
}

/// Waits until the server stops.
async fn until(mut stop: watch::Receiver<bool>) {
    let _ = stop.wait_for(|stop| *stop).await;
}

/// Says to a client that there are too many (E1614).
async fn turned_away(mut stream: TcpStream) {
    let refusal = Refusal::new(
        StatusCode::SERVICE_UNAVAILABLE,
        "E1614",
        "the server has as many connections as it takes",
    );
    let body = refusal.help("try again in a moment").text();
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

/// A connection that ends if the other side does not take what is written for it.
struct Patient {
    stream: TcpStream,
    silence: Duration,
    /// Since when nothing was taken.
    waiting: Option<Pin<Box<Sleep>>>,
}

impl Patient {
    fn new(stream: TcpStream, silence: Duration) -> Self {
        Self { stream, silence, waiting: None }
    }

    /// What a write comes to that could not be done at once, or could.
    fn patiently(
        &mut self,
        written: Poll<io::Result<usize>>,
        context: &mut Context<'_>,
    ) -> Poll<io::Result<usize>> {
        if written.is_ready() {
            self.waiting = None;
            return written;
        }
        let silence = self.silence;
        let waiting = self.waiting.get_or_insert_with(|| Box::pin(sleep(silence)));
        ready!(waiting.as_mut().poll(context));
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }
}

impl AsyncRead for Patient {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for Patient {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.patiently(written, context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        pieces: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(context, pieces);
        self.patiently(written, context)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
