//! A file as an answer, whole or a part of it. It is found by its token in the database. What the database says is opened below the project
//! alone: a link that leads out of it is as good as no file.

use super::refusal::{Answer, Refusal};
use crate::project::{Project, failed};
use anyid_http::file_answer;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{AppendHeaders, IntoResponse};
use rusqlite::OptionalExtension;
use std::io;
use std::path::PathBuf;
use tokio::fs::File;

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
    let file = File::open(&path).await.map_err(failed)?;
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
    let asked = of(header::RANGE).filter(|_| same);
    let kind = match path.extension().and_then(|ending| ending.to_str()) {
        Some("mp4") => "video/mp4",
        Some("png") => "image/png",
        _ => "application/octet-stream",
    };
    let own = AppendHeaders(kept.into_iter().chain([(header::CONTENT_TYPE, kind.to_owned())]));
    file_answer(file, asked, own).await.map_err(failed)
}
