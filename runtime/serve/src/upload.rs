//! Receives a request for a video: a form with references as files, or a JSON object without.
//!
//! Contract: the body goes to the disk as it comes; what is held in memory does not depend on its
//! size. It is read within bounds on bytes, fields and time. References get names of ours. Each has
//! to be a picture or clip whose first frame can be decoded, within the bounds that decoders have
//! against files that unpack to absurd sizes.

use crate::form::{self, Fields, REFERENCE, is_reference};
use crate::limits::{FIELDS, Limits, TEXT_BYTES};
use crate::multipart::{Malformed, Parser, Piece};
use crate::queue::{Incoming, Queue};
use crate::refusal::{Answer, Refusal};
use anyid_runtime::files::write_error;
use anyid_runtime::media::{ReadOptions, visit_frames};
use anyid_runtime::pipeline::MOST_REFERENCES;
use anyid_runtime::{Error, Result};
use axum::body::{Body, BodyDataStream, Bytes};
use axum::http::{HeaderMap, StatusCode, header};
use futures_util::StreamExt;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::fs::File;
use tokio::io::AsyncWriteExt;
use tokio::time::{Instant, timeout, timeout_at};

/// Bytes of a refused body that are still read, and for how long, so that the client reads why.
const REST_BYTES: usize = 16 << 20;
const REST_TIME: Duration = Duration::from_secs(2);

/// A body that is read within bounds.
struct Reader {
    stream: BodyDataStream,
    left: u64,
    most: u64,
    /// Bytes that the body is said to have.
    stated: u64,
    silence: Duration,
    end: Instant,
}

impl Reader {
    fn new(body: Body, headers: &HeaderMap, most: u64, limits: &Limits) -> Self {
        let stated = headers.get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok());
        Self {
            stream: body.into_data_stream(),
            left: most,
            most,
            stated: stated.and_then(|text| text.parse().ok()).unwrap_or(0),
            silence: limits.silence,
            end: Instant::now() + limits.sending,
        }
    }

    fn large(&self) -> Refusal {
        Refusal::large(format!("the request has more than {} bytes", self.most))
            .help("scale pictures down and cut clips: they are brought to the video's size anyway")
    }

    /// The next piece of the body; nothing at its end.
    async fn next(&mut self) -> Answer<Option<Bytes>> {
        if self.stated > self.most {
            return Err(self.large());
        }
        let until = self.end.min(Instant::now() + self.silence);
        let Ok(piece) = timeout_at(until, self.stream.next()).await else {
            let what = "the request did not arrive in time";
            return Err(Refusal::new(StatusCode::REQUEST_TIMEOUT, "E1413", what));
        };
        let Some(piece) = piece else { return Ok(None) };
        let piece = piece.map_err(|_| Refusal::malformed("the body ends too early"))?;
        match self.left.checked_sub(piece.len() as u64) {
            Some(left) => self.left = left,
            None => return Err(self.large()),
        }
        Ok(Some(piece))
    }
}

/// Reads on for a moment: a connection that is closed with bytes unread is reset, and the client may
/// never see the answer.
pub async fn drain(mut stream: BodyDataStream) {
    let read = async {
        let mut bytes = 0;
        while let Some(Ok(piece)) = stream.next().await {
            bytes += piece.len();
            if bytes > REST_BYTES {
                break;
            }
        }
    };
    let _ = timeout(REST_TIME, read).await;
}

/// Receives a request; its fields, and its references on the disk.
///
/// # Errors
/// E1410 to E1413 for the request, E0903 for too many references, and E08xx for what is none; those
/// of [`Queue::begin`].
pub async fn receive(
    queue: &Arc<Queue>,
    headers: &HeaderMap,
    body: Body,
    limits: &Limits,
    allow_ffmpeg: bool,
) -> Answer<(Fields, Incoming)> {
    let kind = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let kind = kind.unwrap_or_default();
    let json = kind.split(';').next().is_some_and(|k| k.trim() == "application/json");
    let parser = Parser::new(kind);
    let most = if json { TEXT_BYTES as u64 } else { limits.upload_bytes };
    let mut reader = Reader::new(body, headers, most, limits);
    let received = match parser {
        _ if json => received_json(queue, &mut reader).await,
        Some(parser) => received_form(queue, parser, &mut reader).await,
        None => Err(Refusal::new(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            "E1411",
            "the body is neither a form (multipart/form-data) nor JSON (application/json)",
        )),
    };
    let (fields, incoming) = match received {
        Ok(received) => received,
        Err(refusal) => {
            drain(reader.stream).await;
            return Err(refusal);
        }
    };
    let paths = incoming.paths();
    let checked = blocking(move || check_all(&paths, allow_ffmpeg)).await;
    checked.map(|()| (fields, incoming))
}

async fn received_json(queue: &Arc<Queue>, reader: &mut Reader) -> Answer<(Fields, Incoming)> {
    let mut bytes = Vec::new();
    while let Some(piece) = reader.next().await? {
        bytes.extend_from_slice(&piece);
    }
    Ok((form::of_json(&bytes)?, begin(queue).await?))
}

/// Where the value of a field goes.
enum Target {
    Nothing,
    Text(String, Vec<u8>),
    Reference(File, PathBuf),
}

async fn received_form(
    queue: &Arc<Queue>,
    mut parser: Parser,
    reader: &mut Reader,
) -> Answer<(Fields, Incoming)> {
    let mut incoming = begin(queue).await?;
    let (mut fields, mut target, mut count) = (Fields::new(), Target::Nothing, 0);
    let mut complete = false;
    while let Some(bytes) = reader.next().await? {
        parser.push(&bytes);
        while let Some(piece) = parser.next().map_err(|Malformed(what)| Refusal::malformed(what))? {
            match piece {
                Piece::Field { name, file, unnamed } => {
                    ended(&mut target, &mut fields).await?;
                    count += 1;
                    if count > FIELDS {
                        return Err(Refusal::large(format!("more than {FIELDS} fields")));
                    }
                    target = opened(name, file, unnamed, &mut incoming).await?;
                }
                Piece::Data(data) => match &mut target {
                    Target::Nothing => {}
                    Target::Text(name, text) if text.len() + data.len() > TEXT_BYTES => {
                        let what = format!("the field {name:?} has more than {TEXT_BYTES} bytes");
                        return Err(Refusal::large(what).of(name));
                    }
                    Target::Text(_, text) => text.extend(data),
                    Target::Reference(file, path) => {
                        file.write_all(&data).await.map_err(|fault| unwritten(path, fault))?;
                    }
                },
                Piece::End => {
                    ended(&mut target, &mut fields).await?;
                    complete = true;
                }
            }
        }
    }
    match complete {
        true => Ok((fields, incoming)),
        false => Err(Refusal::malformed("the form is not complete")),
    }
}

async fn begin(queue: &Arc<Queue>) -> Answer<Incoming> {
    let queue = Arc::clone(queue);
    blocking(move || queue.begin()).await
}

/// Begins a field.
async fn opened(
    name: String,
    file: bool,
    unnamed: bool,
    incoming: &mut Incoming,
) -> Answer<Target> {
    if !is_reference(&name) {
        if file {
            // The field is known or not; a file it is none.
            form::add(&mut Fields::new(), &name, String::new())?;
            return Err(Refusal::field(&name, format!("the field {name:?} is no file")));
        }
        return Ok(Target::Text(name, Vec::new()));
    }
    if !file {
        return Err(Refusal::field(REFERENCE, "a reference is not uploaded as a file")
            .help("send the file itself: curl -F input_reference=@me.jpg"));
    }
    // Browsers send this where nothing was chosen.
    if unnamed {
        return Ok(Target::Nothing);
    }
    if incoming.paths().len() == MOST_REFERENCES {
        let what = format!("more than {MOST_REFERENCES} references");
        let error = Error::input("E0903", what)
            .help("keep the clearest pictures; the first is the primary");
        return Err(Refusal::input(error, REFERENCE));
    }
    let path = incoming.next();
    let file = File::create_new(&path).await.map_err(|fault| unwritten(&path, fault))?;
    Ok(Target::Reference(file, path))
}

/// The field is complete.
async fn ended(target: &mut Target, fields: &mut Fields) -> Answer<()> {
    match std::mem::replace(target, Target::Nothing) {
        Target::Nothing => Ok(()),
        Target::Text(name, bytes) => {
            let text = String::from_utf8(bytes).map_err(|_| {
                Refusal::malformed(format!("the field {name:?} is not UTF-8")).of(&name)
            })?;
            form::add(fields, &name, text)
        }
        Target::Reference(mut file, path) => {
            file.flush().await.map_err(|fault| unwritten(&path, fault))
        }
    }
}

fn unwritten(path: &Path, fault: std::io::Error) -> Refusal {
    Refusal::trouble(write_error(path, fault))
}

/// Decodes the first frame of every reference.
fn check_all(paths: &[PathBuf], allow_ffmpeg: bool) -> Answer<()> {
    for (path, number) in paths.iter().zip(1..) {
        check(path, allow_ffmpeg).map_err(|error| {
            let error = error.placed(format!("reference {number}"));
            Refusal::input(error, REFERENCE)
        })?;
    }
    Ok(())
}

fn check(path: &Path, allow_ffmpeg: bool) -> Result<()> {
    let options = ReadOptions { allow_ffmpeg, ..ReadOptions::default() };
    visit_frames(path, &options, &mut |_| Ok(ControlFlow::Break(()))).map(drop)
}

/// Does work that waits for the disk, away from the thread that answers.
///
/// # Errors
/// Those of the work; E1000 if it broke off.
pub async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Answer<T> + Send + 'static,
) -> Answer<T> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(_) => {
            let what = "a broken invariant while answering";
            Err(Refusal::trouble(Error::internal("E1000", what)))
        }
    }
}
