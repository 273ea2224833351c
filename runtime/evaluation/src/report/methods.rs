//! How a run measured: models with hashes and licences, frames, normalisations, the judge, the command.

use super::Found;
use crate::raw::Norm;
use crate::statistics::RESAMPLINGS;
use serde_json::Value;

/// What is said of a run: names with texts, in their order.
pub(super) fn facts(found: &Found<'_>) -> Vec<(String, String)> {
    let run = &found.results.run;
    let norm = |norm: Norm| match norm {
        Norm::Affine => "100·(cos + 1)/2",
        Norm::Positive => "100·max(cos, 0)",
        Norm::Plain => "100·cos",
    };
    let mut facts: Vec<(String, String)> = Vec::new();
    let mut say = |name: &str, text: String| facts.push((name.to_owned(), text));
    say("Program", format!("anyid-rt {}", run.version));
    say("Command", run.command.clone());
    say("Cases", format!("{}, sha256 {}", found.results.cases.len(), run.cases));
    for model in &run.models {
        let licence = model.licence.as_deref().map_or(String::new(), |text| format!("; {text}"));
        say(
            &format!("Model: {}", model.role),
            format!("{}, sha256 {}{licence}", model.name, model.sha256),
        );
    }
    if run.frames > 0 {
        say(
            "Faces",
            format!(
                "{} frames spread evenly over each video, both ends among them; the largest face of each; \
                 frames without a face are left out and counted in coverage; a video without any has 0",
                run.frames
            ),
        );
    }
    say(
        "Holi",
        format!("{}, mean over all references, a clip counting as one", norm(run.norms.holi)),
    );
    say(
        "Ele",
        format!(
            "{}, mean over elements; one that is missing in a frame has 0",
            norm(run.norms.ele)
        ),
    );
    match &run.judge {
        Some(judge) => {
            for (name, value) in judge.as_object().into_iter().flatten() {
                let text = match value {
                    Value::String(text) => text.clone(),
                    Value::Object(all) => {
                        let all = all.iter().map(|(name, value)| {
                            format!("{name} {}", value.as_str().unwrap_or_default())
                        });
                        all.collect::<Vec<_>>().join(", ")
                    }
                    other => other.to_string(),
                };
                say(&format!("Judge: {name}"), text);
            }
            let named = found.results.raws.values();
            let mut models: Vec<&String> =
                named.filter_map(|raw| raw.judged.as_ref()?.server_model.as_ref()).collect();
            models.sort();
            models.dedup();
            let models: Vec<&str> = models.into_iter().map(String::as_str).collect();
            say("Judge: as the server calls it", models.join(", "));
        }
        None => say("Judge", "none".to_owned()),
    }
    say(
        "Statistics",
        format!(
            "the unit is the case, its value the mean over its seeds; 95 % intervals are percentiles of \
             {RESAMPLINGS} resamplings, by task where tasks are together; systems are compared on common \
             cases, with Wilcoxon's signed-rank test on both sides (exact to 50 pairs) and Holm's \
             correction over metrics"
        ),
    );
    for (system, note) in &run.notes {
        say(&format!("Note on {system}"), note.clone());
    }
    for (system, tasks) in &run.tasks {
        let names: Vec<&str> = tasks.iter().map(|task| task.name()).collect();
        say(&format!("Tasks of {system}"), names.join(", "));
    }
    facts
}

/// The same as Markdown.
pub(super) fn markdown(found: &Found<'_>) -> String {
    let mut text = "# How it was measured\n\n| | |\n|---|---|\n".to_owned();
    for (name, value) in facts(found) {
        let [name, value] = [name, value].map(|text| text.replace('|', "\\|").replace('\n', " "));
        text.push_str(&format!("| {name} | {value} |\n"));
    }
    text.push_str("\n## Videos\n\n| system | videos | sizes | frames | frames a second |\n|---|---|---|---|---|\n");
    for system in &found.results.run.systems {
        let cells = videos(found, system).join(" | ");
        text.push_str(&format!("| {system} | {cells} |\n"));
    }
    text
}

/// What the videos of a system are: how many, sizes, frames, rates.
pub(super) fn videos(found: &Found<'_>, system: &str) -> [String; 4] {
    let own = &found.summary["systems"][system];
    let range = |value: &Value, digits: usize| {
        let ends = [0, 1].map(|at| value[at].as_f64());
        match ends {
            [Some(low), Some(high)] if low == high => format!("{low:.digits$}"),
            [Some(low), Some(high)] => format!("{low:.digits$} to {high:.digits$}"),
            _ => "–".to_owned(),
        }
    };
    let sizes = own["sizes"].as_array().into_iter().flatten().filter_map(Value::as_str);
    let mut count = format!("{} of {}", own["videos"]["there"], own["videos"]["asked"]);
    if own["videos"]["unreadable"] != 0 {
        count.push_str(&format!(", {} unreadable", own["videos"]["unreadable"]));
    }
    [count, sizes.collect::<Vec<_>>().join(", "), range(&own["frames"], 0), range(&own["fps"], 3)]
}
