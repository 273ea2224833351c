//! Listens, answers, and stops in good order.
//!
//! One thread answers, another makes the videos, and a few wait for the disk. A client that is silent
//! for too long, while it sends as while it reads, is left.

use crate::guard::Guard;
use crate::queue::{Counts, Queue};
use crate::refusal::Refusal;
use crate::routes::{App, router};
use crate::worker::Worker;
use crate::{Options, job};
use anyid_runtime::backends::threads;
use anyid_runtime::safeguards::Safeguards;
use anyid_runtime::{Error, Pipeline, Result, error, files};
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
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(WAITING)
        .build()
        .map_err(|fault| match files::too_many_files(&fault) {
            true => files::no_descriptor(fault),
            false => Error::threads(1, 0, fault),
        })?;
    let listener = runtime.block_on(listening(options.listen))?;
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
        runtime.block_on(answer(listener, Arc::new(app), &stop, &leave));
    }
    queue.stop();
    runtime.shutdown_timeout(ENDING);
    // It has ended its video or given it back; a panic of its own has been reported.
    let _ = worker.join();
    begun.map(|()| queue.counts())
}

async fn listening(address: SocketAddr) -> Result<TcpListener> {
    TcpListener::bind(address).await.map_err(|fault| {
        let help = match fault.kind() {
            io::ErrorKind::AddrInUse => "another program listens there: choose another port",
            io::ErrorKind::PermissionDenied => "ports below 1024 are not for everybody",
            _ => "give an address of this machine, such as 127.0.0.1:8787",
        };
        Error::input("E1400", "the server cannot listen here")
            .at(format!("--listen {address}"))
            .help(help)
            .caused_by(fault)
    })
}

/// Answers until `stop` is set, and a moment longer for those who are being answered.
async fn answer(
    listener: TcpListener,
    app: Arc<App>,
    stop: &AtomicBool,
    leave: &watch::Sender<bool>,
) {
    let free = Arc::new(Semaphore::new(app.limits.connections));
    let mut connections = JoinSet::new();
    let service = router(Arc::clone(&app));
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
        let silence = app.limits.silence;
        let Ok(place) = Arc::clone(&free).try_acquire_owned() else {
            connections.spawn(async move {
                let _ = timeout(ENDING, turned_away(stream)).await;
            });
            continue;
        };
        let (service, left) = (TowerToHyperService::new(service.clone()), app.stop.clone());
        connections.spawn(async move {
            let _place = place;
            let _ = stream.set_nodelay(true);
            let io = TokioIo::new(Patient::new(stream, silence));
            let mut connection = pin!(
                http1::Builder::new()
                    .timer(TokioTimer::new())
                    .header_read_timeout(silence)
                    .max_header_size(crate::limits::HEAD_BYTES)
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
    app.queue.stop();
    leave.send_replace(true);
    let ended = async { while connections.join_next().await.is_some() {} };
    let _ = timeout(ENDING, ended).await;
}

/// Waits until the server stops.
pub async fn until(mut stop: watch::Receiver<bool>) {
    let _ = stop.wait_for(|stop| *stop).await;
}

/// Says to a client that there are too many (E1414).
async fn turned_away(mut stream: TcpStream) {
    let refusal = Refusal::new(
        StatusCode::SERVICE_UNAVAILABLE,
        "E1414",
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_that_reads_nothing_is_left() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
            let (stream, _) = listener.accept().await.unwrap();
            let mut patient = Patient::new(stream, Duration::from_millis(100));
            // More than the system buffers for a connection.
            let zeros = vec![0; 64 << 20];
            let written = patient.write_all(&zeros);
            let written = timeout(Duration::from_secs(20), written).await.unwrap();
            assert_eq!(written.unwrap_err().kind(), io::ErrorKind::TimedOut);
            drop(client);
        });
    }

    #[test]
    fn a_client_that_reads_slowly_is_not() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let mut client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
            let (stream, _) = listener.accept().await.unwrap();
            let mut patient = Patient::new(stream, Duration::from_millis(500));
            let read = async {
                let (mut bytes, mut count) = (vec![0; 1 << 20], 0);
                while count < 16 << 20 {
                    sleep(Duration::from_millis(20)).await;
                    count += client.read(&mut bytes).await.unwrap();
                }
            };
            let bytes = vec![0; 16 << 20];
            let (written, ()) = tokio::join!(patient.write_all(&bytes), read);
            written.unwrap();
        });
    }
}
