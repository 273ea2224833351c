//! The paths of the API, and what is answered on each.

use crate::content;
use crate::event;
use crate::form;
use crate::guard::Guard;
use crate::limits::Limits;
use crate::queue::{Queue, missing, stopping};
use crate::refusal::{Answer, Refusal, said};
use crate::upload::{self, blocking, drain};
use anyid_runtime::pipeline::MOST_REFERENCES;
use anyid_runtime::safeguards::Safeguards;
use anyid_runtime::{Model, Pipeline};
use axum::Router;
use axum::body::Body;
use axum::extract::{FromRequestParts, Path, Request, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderValue, StatusCode, Uri, header};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::SystemTime;
use tokio::sync::watch;

/// What every answer needs.
pub struct App {
    pub queue: Arc<Queue>,
    pub pipeline: Arc<Pipeline>,
    pub guard: Guard,
    pub safeguards: Arc<Safeguards>,
    pub limits: Limits,
    /// What clients call the model.
    pub model: String,
    pub allow_ffmpeg: bool,
    /// When the server began, in seconds since 1970.
    pub since: u64,
    /// Whether the server stops.
    pub stop: watch::Receiver<bool>,
}

impl App {
    fn model(&self) -> &Model {
        self.pipeline.model()
    }
}

/// The name of a video in a path.
struct Id(String);

impl FromRequestParts<Arc<App>> for Id {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, app: &Arc<App>) -> Answer<Self> {
        let found = Path::<String>::from_request_parts(parts, app).await;
        found.map(|Path(id)| Self(id)).map_err(|_| missing())
    }
}

/// Everything that is answered.
pub fn router(app: Arc<App>) -> Router {
    let page = |kind: &'static str, text: &'static str| {
        get(move || async move { ([(header::CONTENT_TYPE, kind)], text) })
    };
    Router::new()
        .route("/", page("text/html; charset=utf-8", include_str!("page/page.html")))
        .route("/page.css", page("text/css; charset=utf-8", include_str!("page/page.css")))
        .route("/page.js", page("text/javascript; charset=utf-8", include_str!("page/page.js")))
        .route("/health", get(health))
        .route("/v1/models", get(models))
        .route("/v1/videos", get(list).post(create))
        .route("/v1/videos/{id}", get(retrieve).delete(delete))
        .route("/v1/videos/{id}/content", get(download))
        .route("/v1/videos/{id}/events", get(events))
        .route("/v1/videos/{id}/cancel", post(cancel))
        .fallback(unknown)
        .method_not_allowed_fallback(unfit)
        .layer(from_fn_with_state(Arc::clone(&app), guarded))
        .with_state(app)
}

/// Lets requests in or not, and says to browsers what no answer is for.
async fn guarded(State(app): State<Arc<App>>, request: Request, next: Next) -> Response {
    let mut answer = match app.guard.admit(request.uri(), request.headers()) {
        Ok(()) => next.run(request).await,
        Err(refusal) => {
            drain(request.into_body().into_data_stream()).await;
            refusal.into_response()
        }
    };
    let headers = answer.headers_mut();
    for (name, value) in [
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::CACHE_CONTROL, "no-store"),
        (
            header::CONTENT_SECURITY_POLICY,
            "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; \
             media-src 'self' blob:; connect-src 'self'; form-action 'none'; base-uri 'none'; \
             frame-ancestors 'none'",
        ),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    headers.insert("cross-origin-resource-policy", HeaderValue::from_static("same-origin"));
    answer
}

fn told(value: &Value) -> Response {
    said(value).into_response()
}

async fn health(State(app): State<Arc<App>>) -> Response {
    match *app.stop.borrow() {
        true => stopping().into_response(),
        false => told(&json!({ "status": "ok" })),
    }
}

/// The one model, with what it was made for and what this server allows.
async fn models(State(app): State<Arc<App>>) -> Response {
    let (dit, geometry) = (&app.model().dit, app.model().geometry());
    let [rows, columns] = geometry.sides();
    let [width, height, frames] = dit.sample;
    told(&json!({ "object": "list", "data": [{
        "id": app.model,
        "object": "model",
        "created": app.since,
        "owned_by": "anyid-rt",
        "usual": {
            "width": width, "height": height, "frames": frames,
            "steps": dit.sample_steps, "guidance": dit.sample_guidance,
        },
        "multiples": { "width": columns, "height": rows, "frames": geometry.rule() },
        "limits": {
            "references": MOST_REFERENCES,
            "upload_bytes": app.limits.upload_bytes,
            "pixels": app.limits.pixels,
            "frames": app.limits.frames,
            "steps": app.limits.steps,
            "waiting": app.limits.waiting,
            "videos": app.limits.videos,
        },
    }] }))
}

async fn create(State(app): State<Arc<App>>, headers: HeaderMap, body: Body) -> Answer {
    let received = upload::receive(&app.queue, &headers, body, &app.limits, app.allow_ffmpeg);
    let (fields, incoming) = received.await?;
    blocking(move || {
        let settings = form::settings(fields, app.model(), &app.model, &app.limits)?;
        // What is blocked does not get into the queue. The worker asks again, with the references.
        let negative = settings.negative_prompt.as_deref();
        let texts: Vec<&str> = [settings.prompt.as_str()].into_iter().chain(negative).collect();
        app.safeguards
            .check_text(&texts, SystemTime::now())
            .map_err(|error| Refusal::input(error, "prompt"))?;
        app.queue.submit(incoming, &app.model, settings)
    })
    .await
    .map(|video| told(&video))
}

async fn list(State(app): State<Arc<App>>, uri: Uri) -> Answer {
    let (mut after, mut limit, mut ascending) = (None, 20, false);
    for (name, value) in pairs(&uri) {
        match (name, value) {
            ("after", id) => after = Some(id),
            ("limit", text) => {
                let number = text.parse().ok().filter(|number| (1..=100).contains(number));
                limit = number.ok_or_else(|| {
                    Refusal::field("limit", "the limit is a number from 1 to 100")
                })?;
            }
            ("order", "asc") => ascending = true,
            ("order", "desc") => ascending = false,
            ("order", _) => return Err(Refusal::field("order", "the order is asc or desc")),
            (other, _) => return Err(unknown_parameter(other)),
        }
    }
    let (videos, more) = app.queue.list(after, limit, ascending)?;
    let id = |video: Option<&Value>| video.map(|video| video["id"].clone());
    Ok(told(&json!({
        "object": "list",
        "first_id": id(videos.first()),
        "last_id": id(videos.last()),
        "has_more": more,
        "data": videos,
    })))
}

/// The parameters of a query, of which no value that we know needs decoding.
fn pairs(uri: &Uri) -> impl Iterator<Item = (&str, &str)> {
    let all = uri.query().unwrap_or_default().split('&').filter(|pair| !pair.is_empty());
    all.map(|pair| pair.split_once('=').unwrap_or((pair, "")))
}

fn unknown_parameter(name: &str) -> Refusal {
    let shown: String = name.chars().take(40).collect();
    Refusal::field(&shown, format!("there is no parameter {shown:?}"))
}

async fn retrieve(State(app): State<Arc<App>>, Id(id): Id) -> Answer {
    app.queue.video(&id).map(|video| told(&video))
}

async fn cancel(State(app): State<Arc<App>>, Id(id): Id) -> Answer {
    blocking(move || app.queue.cancel(&id)).await.map(|video| told(&video))
}

async fn delete(State(app): State<Arc<App>>, Id(id): Id) -> Answer {
    let said = json!({ "id": id, "object": "video.deleted", "deleted": true });
    blocking(move || app.queue.delete(&id)).await.map(|()| told(&said))
}

async fn download(State(app): State<Arc<App>>, Id(id): Id, uri: Uri, headers: HeaderMap) -> Answer {
    for (name, value) in pairs(&uri) {
        match (name, value) {
            ("variant", "video") => {}
            ("variant", _) => {
                return Err(Refusal::field("variant", "there is no other variant than the video"));
            }
            (other, _) => return Err(unknown_parameter(other)),
        }
    }
    let path = app.queue.content(&id)?;
    content::file(&path, &id, &headers).await
}

async fn events(State(app): State<Arc<App>>, Id(id): Id) -> Answer {
    event::events(&app.queue, id, app.stop.clone()).map(IntoResponse::into_response)
}

async fn unknown(uri: Uri) -> Refusal {
    let shown: String = uri.path().chars().take(80).collect();
    Refusal::new(StatusCode::NOT_FOUND, "E1406", format!("there is nothing at {shown}"))
        .help("docs/server.md lists what there is")
}

async fn unfit(uri: Uri) -> Refusal {
    let shown: String = uri.path().chars().take(80).collect();
    let what = format!("{shown} has no such method");
    Refusal::new(StatusCode::METHOD_NOT_ALLOWED, "E1406", what)
        .help("docs/server.md lists what there is")
}
