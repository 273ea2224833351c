//! A file as an answer, whole or a part of it (RFC 9110 §14), as players ask for it.
//!
//! A file is found by its token in the database. What the database says is opened below the project
//! alone: a link that leads out of it is as good as no file.

use super::refusal::{Answer, Refusal};
use crate::project::{Project, failed};
use axum::body::{Body, Bytes};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::IntoResponse;
use rusqlite::OptionalExtension;
use std::io::{self, SeekFrom};
use std::ops::Range;
use std::path::PathBuf;
use tokio::fs::File;
use tokio::io::{AsyncReadExt, AsyncSeekExt};

/// Bytes that are read at a time.
const PIECE: usize = 64 << 10;

/// Where the file of a token is, and its hash.
///
/// # Errors
/// E1612 for a token of nothing, E1617 for a file that is gone, E1603.
pub fn find(project: &Project, token: &str) -> Answer<(PathBuf, String)> {
    let found = {
        let database = project.database();
        let mut found = database
            .prepare_cached("SELECT path, sha256 FROM asset WHERE public_token = ?")
            .map_err(failed)?;
        let read = |row: &rusqlite::Row<'_>| Ok((row.get(0)?, row.get(1)?));
        found.query_row([token], read).optional().map_err(failed)?
    };
    let Some((path, hash)): Option<(String, String)> = found else {
        return Err(Refusal::new(StatusCode::NOT_FOUND, "E1612", "there is no such file"));
    };
    let gone = || {
        Refusal::new(StatusCode::GONE, "E1617", "the file of this video is gone")
            .help("skip this item; whoever runs the project can restore the file")
    };
    let root = project.folder().canonicalize().map_err(|_| gone())?;
    let full = root.join(path).canonicalize().map_err(|_| gone())?;
    match full.starts_with(&root) && full.is_file() {
        true => Ok((full, hash)),
        false => Err(gone()),
    }
}

/// The answer with a file.
///
/// # Errors
/// E1617 if it cannot be read.
pub async fn file(path: PathBuf, hash: &str, headers: &HeaderMap) -> Answer {
    let failed = |_: io::Error| {
        Refusal::new(StatusCode::GONE, "E1617", "the file of this video cannot be read")
            .help("skip this item; whoever runs the project can restore the file")
    };
    let mut file = File::open(&path).await.map_err(failed)?;
    let size = file.metadata().await.map_err(failed)?.len();
    let tag = format!("\"{hash}\"");
    let of = |name| headers.get(name).and_then(|value: &HeaderValue| value.to_str().ok());
    let kept = [
        (header::ETAG, tag.clone()),
        (header::CACHE_CONTROL, "private, max-age=31536000, immutable".to_owned()),
        (header::ACCEPT_RANGES, "bytes".to_owned()),
    ];
    if of(header::IF_NONE_MATCH).is_some_and(|tags| tags.split(',').any(|t| t.trim() == tag)) {
        return Ok((StatusCode::NOT_MODIFIED, kept).into_response());
    }
    // A part of what has another tag would not fit to what the client has.
    let same = of(header::IF_RANGE).is_none_or(|known| known == tag);
    let asked = of(header::RANGE).filter(|_| same).map_or(Asked::Whole, |text| range(text, size));
    let (status, part) = match asked {
        Asked::Whole => (StatusCode::OK, 0..size),
        Asked::Part(part) => (StatusCode::PARTIAL_CONTENT, part),
        Asked::Outside => {
            let unsatisfied = [(header::CONTENT_RANGE, format!("bytes */{size}"))];
            return Ok((StatusCode::RANGE_NOT_SATISFIABLE, unsatisfied).into_response());
        }
    };
    file.seek(SeekFrom::Start(part.start)).await.map_err(failed)?;
    let kind = match path.extension().and_then(|ending| ending.to_str()) {
        Some("mp4") => "video/mp4",
        Some("png") => "image/png",
        _ => "application/octet-stream",
    };
    let length = part.end - part.start;
    let own =
        [(header::CONTENT_TYPE, kind.to_owned()), (header::CONTENT_LENGTH, length.to_string())];
    let mut answer = (status, kept, own, Body::from_stream(pieces(file, length))).into_response();
    if status == StatusCode::PARTIAL_CONTENT {
        let said = format!("bytes {}-{}/{size}", part.start, part.end - 1);
        let said = said.parse().expect("numbers are a header");
        answer.headers_mut().insert(header::CONTENT_RANGE, said);
    }
    Ok(answer)
}

/// The next `left` bytes of a file, piece by piece.
fn pieces(file: File, left: u64) -> impl futures_util::Stream<Item = io::Result<Bytes>> {
    futures_util::stream::unfold((file, left), |(mut file, left)| async move {
        if left == 0 {
            return None;
        }
        let mut bytes = vec![0; PIECE.min(usize::try_from(left).unwrap_or(PIECE))];
        match file.read(&mut bytes).await {
            Ok(0) => Some((Err(io::ErrorKind::UnexpectedEof.into()), (file, 0))),
            Ok(count) => {
                bytes.truncate(count);
                Some((Ok(Bytes::from(bytes)), (file, left - count as u64)))
            }
            Err(fault) => Some((Err(fault), (file, 0))),
        }
    })
}

/// Which bytes are wanted.
#[derive(Debug, PartialEq, Eq)]
enum Asked {
    Whole,
    Part(Range<u64>),
    Outside,
}

/// What a `Range` asks for of `size` bytes. Several parts at once, and what cannot be read, get the
/// whole, as the standard allows.
fn range(text: &str, size: u64) -> Asked {
    let parse = || {
        let (first, last) = text.strip_prefix("bytes=")?.split_once('-')?;
        let number = |text: &str| text.trim().parse::<u64>().ok();
        Some(match (first.trim(), last.trim()) {
            ("", last) => size.saturating_sub(number(last)?)..size,
            (first, "") => number(first)?..size,
            (first, last) => {
                let (first, last) = (number(first)?, number(last)?);
                if last < first {
                    return None;
                }
                first..size.min(last.saturating_add(1))
            }
        })
    };
    match parse() {
        None => Asked::Whole,
        Some(part) if part.start >= part.end => Asked::Outside,
        Some(part) => Asked::Part(part),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_those_of_the_standard() {
        for (text, asked) in [
            ("bytes=0-", Asked::Part(0..100)),
            ("bytes=0-9", Asked::Part(0..10)),
            ("bytes=40-59", Asked::Part(40..60)),
            ("bytes=-10", Asked::Part(90..100)),
            ("bytes=-1000", Asked::Part(0..100)),
            ("bytes=99-18446744073709551615", Asked::Part(99..100)),
            ("bytes=100-", Asked::Outside),
            ("bytes=-0", Asked::Outside),
            ("bytes=9-0", Asked::Whole),
            ("bytes=0-1,3-4", Asked::Whole),
            ("frames=0-1", Asked::Whole),
        ] {
            assert_eq!(range(text, 100), asked, "{text}");
        }
    }
}
