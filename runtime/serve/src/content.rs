//! The file of a video as an answer, whole or a part of it.

use crate::refusal::{Answer, Refusal};
use anyid_http::file_answer;
use anyid_runtime::error::unreadable;
use axum::http::{HeaderMap, header};
use std::path::Path;
use tokio::fs::File;

/// The answer with the file at `path`, which clients are to call `id`.
///
/// # Errors
/// E0911 if it cannot be read.
pub async fn file(path: &Path, id: &str, headers: &HeaderMap) -> Answer {
    let failed = |fault| Refusal::trouble(unreadable(path, fault));
    let file = File::open(path).await.map_err(failed)?;
    let asked = headers.get(header::RANGE).and_then(|value| value.to_str().ok());
    let own = [
        (header::CONTENT_TYPE, "video/mp4".to_owned()),
        (header::CONTENT_DISPOSITION, format!("inline; filename=\"{id}.mp4\"")),
    ];
    file_answer(file, asked, own).await.map_err(failed)
}
