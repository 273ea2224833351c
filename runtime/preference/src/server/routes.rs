//! The paths, and what is answered on each. Whoever asks is looked up first; what is asked of the
//! database is done on threads that may wait.

use super::bounds::Bounds;
use super::guard::{CSRF, Guard, SESSION, cookie};
use super::refusal::{Answer, Refusal, said};
use super::{admin, content};
use crate::people::{Person, Role};
use crate::project::{Kind, Project};
use crate::random::{Draws, digest};
use crate::votes::Ballot;
use crate::{Track, study};
use axum::Router;
use axum::body::{Body, to_bytes};
use axum::extract::{Path, Request, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, Uri, header};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Redirect, Response};
use axum::routing::{get, post};
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use tokio::time::timeout;

/// Bytes of the body of a request.
const BODY_BYTES: usize = 64 << 10;

/// What every answer needs.
pub struct App {
    pub project: Arc<Project>,
    pub guard: Guard,
    pub bounds: Bounds,
    pub silence: Duration,
}

type Shared = State<Arc<App>>;

/// Everything that is answered.
pub fn router(app: Arc<App>) -> Router {
    let file = |kind: &'static str, text: &'static str| {
        get(move || async move { ([(header::CONTENT_TYPE, kind)], text) })
    };
    let (script, style) = ("text/javascript; charset=utf-8", "text/css; charset=utf-8");
    Router::new()
        .route("/", get(page))
        .route("/t/{track}", get(page))
        .route("/i/{*name}", get(overseer))
        .route("/admin", get(overseer))
        .route("/join/{token}", get(join))
        .route("/page.css", file(style, include_str!("page/page.css")))
        .route("/page.js", file(script, include_str!("page/page.js")))
        .route("/player.js", file(script, include_str!("page/player.js")))
        .route("/admin.js", file(script, include_str!("page/admin.js")))
        .route("/en.json", file("application/json", include_str!("page/en.json")))
        .route("/api/me", get(me))
        .route("/api/next", get(next))
        .route("/api/consent", post(consent))
        .route("/api/vote", post(vote))
        .route("/api/undo", post(undo))
        .route("/api/skip", post(skip))
        .route("/api/event", post(event))
        .route("/api/withdraw", post(withdraw))
        .route("/api/admin/overview", get(admin::overview))
        .route("/api/admin/contested", get(admin::contested))
        .route("/api/admin/matchup", get(admin::matchup))
        .route("/api/admin/void", post(admin::void))
        .route("/api/admin/restore", post(admin::restore))
        .route("/api/admin/pause", post(admin::pause))
        .route("/api/admin/export", post(admin::export))
        .route("/media/{token}", get(media))
        .route("/healthz", get(|| async { said(&json!({ "status": "ok" })) }))
        .fallback(unknown)
        .method_not_allowed_fallback(unfit)
        .layer(from_fn_with_state(Arc::clone(&app), guarded))
        .with_state(app)
}

/// Lets requests in or not, and says to browsers what no answer is for.
async fn guarded(State(app): Shared, request: Request, next: Next) -> Response {
    let session = cookie(request.headers(), SESSION).map(digest).unwrap_or_default();
    let admitted = match app.guard.admit(request.uri(), request.headers()) {
        Ok(()) if app.bounds.admit(&session, Instant::now()) => Ok(()),
        Ok(()) => {
            let what = "more requests came than a page sends";
            Err(Refusal::new(StatusCode::TOO_MANY_REQUESTS, "E1614", what)
                .help("wait a second, and load the page again"))
        }
        Err(refusal) => Err(refusal),
    };
    let mut answer = match admitted {
        Ok(()) => next.run(request).await,
        Err(refusal) => {
            // Read, or the connection is reset before the client has the answer.
            let _ = timeout(app.silence, to_bytes(request.into_body(), BODY_BYTES)).await;
            refusal.into_response()
        }
    };
    let headers = answer.headers_mut();
    for (name, value) in [
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
        (
            header::CONTENT_SECURITY_POLICY,
            "default-src 'self'; object-src 'none'; frame-ancestors 'none'; base-uri 'none'; \
             form-action 'none'",
        ),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    headers.entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
    headers.insert("cross-origin-resource-policy", HeaderValue::from_static("same-origin"));
    answer
}

/// Does `work` on a thread that may wait, for whoever has the session.
///
/// # Errors
/// E1610 without a session, and those of `work`.
pub async fn with<T: Send + 'static>(
    app: &Arc<App>,
    headers: &HeaderMap,
    work: impl FnOnce(&Project, Person) -> Answer<T> + Send + 'static,
) -> Answer<T> {
    let session = cookie(headers, SESSION).map(str::to_owned);
    let project = Arc::clone(&app.project);
    let done = tokio::task::spawn_blocking(move || {
        let person = match &session {
            Some(session) => project.person(session)?,
            None => None,
        };
        let person = person.ok_or_else(|| {
            Refusal::new(StatusCode::UNAUTHORIZED, "E1610", "this page needs a link")
                .help("open the link that you were sent once more")
        })?;
        work(&project, person)
    });
    done.await.unwrap_or_else(|_| {
        let what = "the request broke off inside the server";
        Err(Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, "E1603", what))
    })
}

/// A change: its value, when it comes from our page and is within bounds.
///
/// # Errors
/// E1611, E1612, E1613.
pub async fn changed(app: &App, headers: &HeaderMap, body: Body) -> Answer<Value> {
    let read = timeout(app.silence, to_bytes(body, BODY_BYTES)).await;
    app.guard.change(headers)?;
    let bytes = match read {
        Ok(Ok(bytes)) => bytes,
        Ok(Err(fault)) => {
            // Either too much, or the client broke off and reads no answer.
            let what = format!("a request has at most {BODY_BYTES} bytes: {fault}");
            return Err(Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, "E1613", what));
        }
        Err(_) => {
            let what = "the request did not come in time";
            return Err(Refusal::new(StatusCode::REQUEST_TIMEOUT, "E1613", what));
        }
    };
    match serde_json::from_slice(&bytes) {
        Ok(value @ Value::Object(_)) => Ok(value),
        _ => Err(Refusal::malformed("this is no JSON object")),
    }
}

/// The value of a parameter of the query, decoded.
pub fn parameter(uri: &Uri, name: &str) -> Option<String> {
    let pairs = uri.query().unwrap_or_default().split('&');
    let value = pairs.filter_map(|pair| pair.split_once('=')).find(|(own, _)| *own == name)?.1;
    let (mut bytes, mut rest) = (Vec::new(), value.bytes());
    while let Some(byte) = rest.next() {
        match byte {
            b'%' => {
                let digits = [rest.next()?, rest.next()?];
                let digits = std::str::from_utf8(&digits).ok()?;
                bytes.push(u8::from_str_radix(digits, 16).ok()?);
            }
            b'+' => bytes.push(b' '),
            byte => bytes.push(byte),
        }
    }
    String::from_utf8(bytes).ok()
}

pub fn told(value: &Value) -> Response {
    said(value).into_response()
}

fn html(status: StatusCode, text: impl Into<Body>) -> Response {
    (status, [(header::CONTENT_TYPE, "text/html; charset=utf-8")], text.into()).into_response()
}

/// A page that says what is missing, for people who have no session.
fn lacking() -> Response {
    html(StatusCode::UNAUTHORIZED, include_str!("page/link.html"))
}

async fn page(State(app): Shared, headers: HeaderMap) -> Response {
    match with(&app, &headers, |_, person| Ok(person.role)).await {
        Ok(Role::Admin) => Redirect::to("/admin").into_response(),
        Ok(Role::Annotator | Role::Participant) => {
            html(StatusCode::OK, include_str!("page/page.html"))
        }
        Err(_) => lacking(),
    }
}

async fn overseer(State(app): Shared, headers: HeaderMap) -> Response {
    match with(&app, &headers, |_, person| Ok(person.role)).await {
        Ok(Role::Admin) => html(StatusCode::OK, include_str!("page/admin.html")),
        Ok(_) => admin::forbidden().into_response(),
        Err(_) => lacking(),
    }
}

/// Exchanges a link for a session. The page that answers goes on by itself: a redirect would still
/// count as coming from where the link was, and strict cookies would not be sent along.
async fn join(State(app): Shared, Path(token): Path<String>) -> Response {
    let project = Arc::clone(&app.project);
    let entered = tokio::task::spawn_blocking(move || project.enter(&token)).await;
    match entered {
        Ok(Ok(Some(session))) => {
            let mut answer = html(StatusCode::OK, include_str!("page/enter.html"));
            for cookie in app.guard.cookies(&session) {
                let value = cookie.parse().expect("hexadecimal digits are a header");
                answer.headers_mut().append(header::SET_COOKIE, value);
            }
            answer
        }
        Ok(Err(error)) => Refusal::from(error).into_response(),
        Ok(Ok(None)) | Err(_) => lacking(),
    }
}

async fn me(State(app): Shared, headers: HeaderMap) -> Answer {
    with(&app, &headers, |project, person| {
        let tracks: Vec<&str> = project.tracks().iter().map(|track| track.name()).collect();
        let day = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let key = format!("{}/{}", person.id, day.as_secs() / 86_400);
        // A day begins in one track.
        let start = tracks[Draws::new(&project.salt, "day", &key).below(tracks.len())];
        let mut value = json!({
            "label": person.label, "role": person.role.name(), "kind": project.kind.name(),
            "name": project.name, "tracks": tracks, "start": start,
            "consented": person.consented || project.kind == Kind::Annotate,
            "paused": project.is_paused()?,
        });
        if project.kind == Kind::Study {
            value["instructions"] = study::instructions(project).into();
            value["code"] = project.withdrawal_code(&person.label).into();
        }
        Ok(told(&value))
    })
    .await
}

fn track(project: &Project, name: Option<&str>) -> Answer<Track> {
    name.and_then(Track::named).filter(|track| project.tracks().contains(track)).ok_or_else(|| {
        let tracks: Vec<&str> = project.tracks().iter().map(|track| track.name()).collect();
        Refusal::malformed(format!("a track is one of: {}", tracks.join(", ")))
    })
}

/// Whether somebody takes part: not an overseer, and in a study with consent.
fn taking_part(project: &Project, person: &Person) -> Answer<()> {
    if person.role == Role::Admin {
        let what = "whoever oversees a project does not answer in it";
        return Err(Refusal::new(StatusCode::FORBIDDEN, "E1618", what));
    }
    if project.kind == Kind::Study && !person.consented {
        let what = "before the first question, your consent is needed";
        return Err(Refusal::new(StatusCode::FORBIDDEN, "E1616", what).help("load the page again"));
    }
    Ok(())
}

async fn next(State(app): Shared, uri: Uri, headers: HeaderMap) -> Answer {
    with(&app, &headers, move |project, person| {
        taking_part(project, &person)?;
        let track = track(project, parameter(&uri, "track").as_deref())?;
        if project.is_paused()? {
            let what = "the project is paused";
            return Err(Refusal::new(StatusCode::CONFLICT, "E1616", what)
                .help("what you answered is kept: come back later"));
        }
        Ok(told(&match project.next(&person, track)? {
            Some(item) => project.payload(&item)?,
            None => json!({ "finished": true, "track": track.name() }),
        }))
    })
    .await
}

async fn consent(State(app): Shared, headers: HeaderMap, body: Body) -> Answer {
    let value = changed(&app, &headers, body).await?;
    with(&app, &headers, move |project, person| {
        if project.kind != Kind::Study {
            return Err(Refusal::malformed("only a study asks for consent"));
        }
        let agreed = value["agree"].as_array().map_or(&[][..], Vec::as_slice);
        if agreed.len() != 3 || agreed.iter().any(|one| *one != true) {
            return Err(Refusal::malformed("consent has three parts, and all are needed"));
        }
        project.consent(&person)?;
        Ok(told(&json!({ "consented": true })))
    })
    .await
}

async fn vote(State(app): Shared, headers: HeaderMap, body: Body) -> Answer {
    let value = changed(&app, &headers, body).await?;
    with(&app, &headers, move |project, person| {
        taking_part(project, &person)?;
        let answers = value["answers"].as_object();
        let answers = answers.ok_or_else(|| Refusal::malformed("\"answers\" is missing"))?;
        let answers = answers
            .iter()
            .map(|(question, choice)| Some((question.clone(), choice.as_str()?.to_owned())))
            .collect::<Option<Vec<_>>>()
            .ok_or_else(|| Refusal::malformed("an answer is a text"))?;
        let ballot = Ballot {
            item: text(&value, "assignment")?,
            nonce: text(&value, "nonce")?,
            answers,
            timing: value["timing"].clone(),
        };
        let told_before = project.vote(&person, &ballot)? == crate::Told::Again;
        Ok(told(&json!({ "saved": true, "again": told_before })))
    })
    .await
}

pub fn text(value: &Value, key: &str) -> Answer<String> {
    let found = value[key].as_str().map(str::to_owned);
    found.ok_or_else(|| Refusal::malformed(format!("\"{key}\" is missing or no text")))
}

async fn undo(State(app): Shared, headers: HeaderMap, body: Body) -> Answer {
    let value = changed(&app, &headers, body).await?;
    with(&app, &headers, move |project, person| {
        taking_part(project, &person)?;
        let track = track(project, value["track"].as_str())?;
        Ok(told(&json!({ "undone": project.undo(&person, track)? })))
    })
    .await
}

async fn skip(State(app): Shared, headers: HeaderMap, body: Body) -> Answer {
    let value = changed(&app, &headers, body).await?;
    with(&app, &headers, move |project, person| {
        taking_part(project, &person)?;
        project.skip(&person, &text(&value, "assignment")?, &text(&value, "reason")?)?;
        Ok(told(&json!({ "skipped": true })))
    })
    .await
}

async fn event(State(app): Shared, headers: HeaderMap, body: Body) -> Answer {
    let value = changed(&app, &headers, body).await?;
    with(&app, &headers, move |project, person| {
        taking_part(project, &person)?;
        let (item, kind) = (text(&value, "assignment")?, text(&value, "kind")?);
        project.event(&person, &item, &kind, &value["data"])?;
        Ok(told(&json!({ "noted": true })))
    })
    .await
}

/// Deletes what a participant answered, at once, and ends the session.
async fn withdraw(State(app): Shared, headers: HeaderMap, body: Body) -> Answer {
    let value = changed(&app, &headers, body).await?;
    let mut answer = with(&app, &headers, move |project, person| {
        if person.role != Role::Participant {
            let what = "only who takes part in a study can withdraw";
            return Err(Refusal::new(StatusCode::FORBIDDEN, "E1618", what));
        }
        if value["confirm"] != true {
            return Err(Refusal::malformed("\"confirm\" is missing"));
        }
        project.withdraw(&project.withdrawal_code(&person.label))?;
        Ok(told(&json!({ "withdrawn": true })))
    })
    .await?;
    for name in [SESSION, CSRF] {
        let ended = format!("{name}=; Path=/; SameSite=Strict; Max-Age=0");
        let value = ended.parse().expect("this is a header");
        answer.headers_mut().append(header::SET_COOKIE, value);
    }
    Ok(answer)
}

async fn media(State(app): Shared, Path(token): Path<String>, headers: HeaderMap) -> Answer {
    let (path, hash) =
        with(&app, &headers, move |project, _| content::find(project, &token)).await?;
    content::file(path, &hash, &headers).await
}

async fn unknown(uri: Uri) -> Refusal {
    let shown: String = uri.path().chars().take(80).collect();
    Refusal::new(StatusCode::NOT_FOUND, "E1612", format!("there is nothing at {shown}"))
}

async fn unfit(uri: Uri) -> Refusal {
    let shown: String = uri.path().chars().take(80).collect();
    let what = format!("{shown} has no such method");
    Refusal::new(StatusCode::METHOD_NOT_ALLOWED, "E1612", what)
}
