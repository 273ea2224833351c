//! What an overseer sees and does: progress, agreement, flags, contested matchups, leaving somebody
//! out, a pause, exports.

use super::refusal::{Answer, Refusal};
use super::routes::{App, changed, parameter, text, told, with};
use crate::export::Form;
use crate::people::{Person, Role};
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, Uri};
use serde_json::json;
use std::sync::Arc;

/// Contested matchups that are listed.
const LISTED: usize = 50;

type Shared = State<Arc<App>>;

/// Says that this is for overseers.
pub fn forbidden() -> Refusal {
    Refusal::new(StatusCode::FORBIDDEN, "E1618", "this is for whoever oversees the project")
        .help("open the link of an overseer")
}

fn oversees(person: &Person) -> Answer<()> {
    if person.role == Role::Admin { Ok(()) } else { Err(forbidden()) }
}

pub async fn overview(State(app): Shared, headers: HeaderMap) -> Answer {
    with(&app, &headers, |project, person| {
        oversees(&person)?;
        Ok(told(&project.overview()?))
    })
    .await
}

pub async fn contested(State(app): Shared, headers: HeaderMap) -> Answer {
    with(&app, &headers, |project, person| {
        oversees(&person)?;
        Ok(told(&json!({ "matchups": project.contested(LISTED)? })))
    })
    .await
}

pub async fn matchup(State(app): Shared, uri: Uri, headers: HeaderMap) -> Answer {
    with(&app, &headers, move |project, person| {
        oversees(&person)?;
        let name = parameter(&uri, "name");
        let name = name.ok_or_else(|| Refusal::malformed("\"name\" is missing"))?;
        Ok(told(&project.matchup(&name)?))
    })
    .await
}

async fn set_void(app: Arc<App>, headers: HeaderMap, body: Body, void: bool) -> Answer {
    let value = changed(&app, &headers, body).await?;
    with(&app, &headers, move |project, person| {
        oversees(&person)?;
        project.set_void(&text(&value, "label")?, void)?;
        Ok(told(&json!({ "void": void })))
    })
    .await
}

pub async fn void(State(app): Shared, headers: HeaderMap, body: Body) -> Answer {
    set_void(app, headers, body, true).await
}

pub async fn restore(State(app): Shared, headers: HeaderMap, body: Body) -> Answer {
    set_void(app, headers, body, false).await
}

pub async fn pause(State(app): Shared, headers: HeaderMap, body: Body) -> Answer {
    let value = changed(&app, &headers, body).await?;
    with(&app, &headers, move |project, person| {
        oversees(&person)?;
        let paused = value["paused"].as_bool();
        let paused = paused.ok_or_else(|| Refusal::malformed("\"paused\" is true or false"))?;
        project.pause(paused)?;
        Ok(told(&json!({ "paused": paused })))
    })
    .await
}

/// Writes an export into the folder of the project, under a name of ours.
pub async fn export(State(app): Shared, headers: HeaderMap, body: Body) -> Answer {
    let value = changed(&app, &headers, body).await?;
    with(&app, &headers, move |project, person| {
        oversees(&person)?;
        let name = text(&value, "form")?;
        let form = Form::ALL.iter().find(|(own, _)| *own == name).map(|(_, form)| *form);
        let form = form.ok_or_else(|| {
            let names: Vec<&str> = Form::ALL.iter().map(|(name, _)| *name).collect();
            Refusal::malformed(format!("a form is one of: {}", names.join(", ")))
        })?;
        let file = match form {
            Form::Dpo => "pairs.jsonl",
            Form::Jsonl => "votes.jsonl",
            Form::Csv => "votes.csv",
            Form::VideoAlign => "videoalign.csv",
            Form::LabelStudio => "label-studio.json",
        };
        let lock = form == Form::Dpo;
        let written = project.export(form, &project.folder().join(file), lock)?;
        Ok(told(&json!({ "file": file, "lines": written.lines, "sha256": written.sha256 })))
    })
    .await
}
