//! What happens to a video, as server-sent events: its object at once, and again after every change
//! that shows, until nothing more happens to it.
//!
//! Nothing is missed by a client that comes late or again, because every event is the whole object.

use crate::queue::Queue;
use crate::refusal::Answer;
use anyid_http::left;
use axum::response::sse::{Event, KeepAlive, Sse};
use futures_util::Stream;
use serde_json::Value;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;

/// Time between signs of life, without which proxies close a connection.
const ALIVE: Duration = Duration::from_secs(15);

/// The stream of a client.
struct Watching {
    queue: Arc<Queue>,
    id: String,
    changed: watch::Receiver<u64>,
    stop: watch::Receiver<bool>,
    /// What was said last.
    said: Option<Value>,
    number: u64,
    over: bool,
}

/// The events of the video `id`, until it is final, is deleted, or `stop` says so.
///
/// # Errors
/// E1407 if there is none.
pub fn events(
    queue: &Arc<Queue>,
    id: String,
    stop: watch::Receiver<bool>,
) -> Answer<Sse<impl Stream<Item = Result<Event, Infallible>> + use<>>> {
    queue.video(&id)?;
    let changed = queue.watch();
    let watching = Watching {
        queue: Arc::clone(queue),
        id,
        changed,
        stop,
        said: None,
        number: 0,
        over: false,
    };
    let stream = futures_util::stream::unfold(watching, |mut watching| async move {
        watching.next().await.map(|event| (Ok(event), watching))
    });
    Ok(Sse::new(stream).keep_alive(KeepAlive::new().interval(ALIVE)))
}

impl Watching {
    async fn next(&mut self) -> Option<Event> {
        while !self.over {
            self.changed.borrow_and_update();
            let Ok(video) = self.queue.video(&self.id) else {
                self.over = true;
                return Some(Event::default().event("video.deleted").data(self.deleted()));
            };
            if self.said.as_ref() != Some(&video) {
                let status = video["status"].as_str().unwrap_or_default();
                self.over = matches!(status, "completed" | "failed" | "cancelled");
                self.number += 1;
                let event = Event::default()
                    .event(format!("video.{status}"))
                    .id(self.number.to_string())
                    .data(video.to_string());
                self.said = Some(video);
                return Some(event);
            }
            tokio::select! {
                changed = self.changed.changed() => self.over = changed.is_err(),
                () = left(self.stop.clone()) => self.over = true,
            }
        }
        None
    }

    fn deleted(&self) -> String {
        serde_json::json!({ "id": self.id, "object": "video.deleted", "deleted": true }).to_string()
    }
}
