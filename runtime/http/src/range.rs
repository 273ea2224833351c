//! A file as an answer, whole or a part of it (RFC 9110 §14), as players ask for it.

use axum::body::{Body, Bytes};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, IntoResponseParts, Response};
use std::io::{self, SeekFrom};
use std::ops::Range;
use tokio::fs::File;
use tokio::io::{AsyncReadExt, AsyncSeekExt};

/// Bytes that are read at a time.
const PIECE: usize = 64 << 10;

/// The answer with a file, or with what `asked`, the value of the header `Range`, asks for of it. It has
/// the headers `own` besides those that say which part it is.
///
/// # Errors
/// The file cannot be read.
pub async fn answer(
    mut file: File,
    asked: Option<&str>,
    own: impl IntoResponseParts,
) -> io::Result<Response> {
    let size = file.metadata().await?.len();
    let (status, part) = match asked.map_or(Asked::Whole, |text| range(text, size)) {
        Asked::Whole => (StatusCode::OK, 0..size),
        Asked::Part(part) => (StatusCode::PARTIAL_CONTENT, part),
        Asked::Outside => {
            let unsatisfied = [(header::CONTENT_RANGE, format!("bytes */{size}"))];
            return Ok((StatusCode::RANGE_NOT_SATISFIABLE, unsatisfied).into_response());
        }
    };
    file.seek(SeekFrom::Start(part.start)).await?;
    let length = part.end - part.start;
    let headers =
        [(header::CONTENT_LENGTH, length.to_string()), (header::ACCEPT_RANGES, "bytes".to_owned())];
    let mut answer =
        (status, own, headers, Body::from_stream(pieces(file, length))).into_response();
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
            ("bytes=0-9", Asked::Part(0..10)),
            ("bytes=90-", Asked::Part(90..100)),
            ("bytes=-10", Asked::Part(90..100)),
            ("bytes=-1000", Asked::Part(0..100)),
            ("bytes=99-18446744073709551615", Asked::Part(99..100)),
            ("bytes=100-", Asked::Outside),
            ("bytes=-0", Asked::Outside),
            ("bytes=9-0", Asked::Whole),
            ("bytes=0-1,3-4", Asked::Whole),
            ("frames=0-1", Asked::Whole),
            ("bytes=a-b", Asked::Whole),
            ("bytes=0-", Asked::Part(0..100)),
            ("bytes=40-59", Asked::Part(40..60)),
        ] {
            assert_eq!(range(text, 100), asked, "{text}");
        }
    }
}
