//! Judging videos by a server that plays a script: facts, repeats, answers that are unsound or refused, and a
//! judge that no longer judges as it did.

#![cfg(feature = "judge")]

#[path = "../../study/tests/support/scripted.rs"]
mod scripted;

use anyid_evaluation::raw::{Case, Judged, Metric, median};
use anyid_evaluation::run::{Judge, Moment};
use anyid_evaluation::vlm::{Options, Vlm, anchors};
use anyid_files::media::RgbFrame;
use anyid_files::media::writer::{VideoWriter, WriterOptions};
use anyid_study::prompt::cache::Mode;
use anyid_study::prompt::profile::Profile;
use anyid_study::prompt::server::client::Server;
use scripted::{Play, Scripted, play, said};
use serde_json::{Value, json};
use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// A case whose prompt says nothing of motion.
fn case() -> Case {
    serde_json::from_value(json!({
        "schema": "anyid.case/1", "id": "IEPT2V-001-P001", "task": "IEPT2V", "person": "001",
        "prompt_id": "P001", "prompt": "Red hair. By the sea.",
        "elements": {
            "hairstyle": "Red hair.", "accessory": "No accessories.", "clothing": "A green coat.",
            "background": "By the sea.",
        },
        "preserve": ["clothing"], "references": ["001/p1.png"], "primary": "001/p1.png", "seed": 1,
    }))
    .unwrap()
}

fn moments() -> Vec<Moment> {
    let image = RgbFrame { width: 64, height: 48, data: vec![90; 64 * 48 * 3] };
    (0..4).map(|at| Moment { seconds: f64::from(at) / 2.0, image: image.clone() }).collect()
}

fn profile(url: &str) -> Profile {
    let value = json!({"base_url": url, "model": "m", "timeout_s": 5.0, "max_images": 4});
    serde_json::from_value(value).unwrap()
}

fn server(url: &str, cache: &Path, mode: Mode) -> Server {
    Server::open(&profile(url), cache, mode, false, None, &|_| None).unwrap().sleeping(|_| {})
}

fn vlm(url: &str, folder: &Path, mode: Mode, options: Options) -> Vlm {
    let server = server(url, &folder.join("cache"), mode);
    Vlm::open(server, folder, options, &[case()]).unwrap()
}

/// Which instruction a request has.
fn asks(body: &Value, begin: &str) -> bool {
    body["messages"][0]["content"].as_str().unwrap().starts_with(begin)
}

const FACTS: &str = "You split";
const PROMPT: &str = "You check";
const QUALITY: &str = "You are shown";

fn facts() -> Play {
    let facts = json!({"hairstyle": ["The hair is red.", "The hair is long."],
        "background": ["The sea is behind."]});
    said(&facts.to_string(), "stop")
}

fn verdicts(values: [f64; 3]) -> Play {
    let facts = ["a1", "a2", "b1"].into_iter().zip(values);
    let facts = facts.map(|(id, value)| json!({"id": id, "value": value, "remark": "seen"}));
    said(&json!({"facts": facts.collect::<Vec<_>>()}).to_string(), "stop")
}

fn quality(score: u32) -> Play {
    let value = json!({"defects": ["f2: blur"], "static": score, "dynamic": score + 1});
    said(&value.to_string(), "stop")
}

/// A server that answers each question, verdicts and quality by their number.
fn answers(
    prompt: impl Fn(usize) -> Play + Send + Sync + 'static,
    score: impl Fn(usize) -> Play + Send + Sync + 'static,
) -> Scripted {
    let counts: Arc<[AtomicUsize; 2]> = Arc::default();
    Scripted::answer(move |_, body| {
        if asks(body, FACTS) {
            return facts();
        }
        let place = usize::from(asks(body, QUALITY));
        let at = counts[place].fetch_add(1, Ordering::SeqCst);
        if place == 0 { prompt(at) } else { score(at) }
    })
}

fn value(judged: &Judged, metric: Metric) -> Option<f64> {
    judged.repeats(metric).and_then(median)
}

#[test]
fn facts_are_averaged_by_group_and_the_median_of_repeats_counts() {
    let folder = tempfile::tempdir().unwrap();
    let script = answers(
        |at| verdicts([[1.0, 0.5, 1.0], [1.0, 1.0, 0.25], [0.5, 0.25, 0.0]][at]),
        |at| quality([70, 90, 80][at]),
    );
    let vlm = vlm(&script.url, folder.path(), Mode::ReadWrite, Options::default());
    let judged = vlm.judge(&case(), &moments()).unwrap();
    assert_eq!(judged.app, Some(vec![Some(75.0), Some(100.0), Some(37.5)]));
    assert_eq!(value(&judged, Metric::App), Some(75.0));
    assert_eq!(value(&judged, Metric::Bg), Some(25.0));
    // The prompt says nothing of motion: that is none, and not 0.
    assert_eq!((&judged.mot, value(&judged, Metric::Mot)), (&None, None));
    assert_eq!([Metric::Sta, Metric::Dyn].map(|m| value(&judged, m)), [Some(80.0), Some(81.0)]);
    assert_eq!(judged.facts.len(), 3);
    assert_eq!(judged.facts[1].values, [Some(0.5), Some(1.0), Some(0.25)]);
    assert_eq!((judged.facts[2].element.as_str(), judged.defects.len()), ("background", 1));
    assert!(judged.failures.is_empty() && judged.templates.len() == 3);
    // What is asked is the same for each system: frames in order, facts of what the prompt says.
    let bodies = script.bodies();
    assert_eq!(bodies.len(), 1 + 6);
    let asked = bodies.iter().find(|body| asks(body, PROMPT)).unwrap();
    let text = asked["messages"][1]["content"].to_string();
    assert!(text.contains("a1: The hair is red.") && text.contains("Frame 4 of 4, t = 1.50 s"));
    assert_eq!(asked["temperature"], 0.0);
    for body in &bodies {
        let text = body.to_string();
        assert!(!text.contains("p1.png") && !text.contains("IEPT2V") && !text.contains("coat"));
    }
    // The same again costs nothing.
    let again = vlm.judge(&case(), &moments()).unwrap();
    assert_eq!((again, script.bodies().len()), (judged, 7));
    let kept = vlm.server().kept(&vlm.judge(&case(), &moments()).unwrap().answers[0]).unwrap();
    assert_eq!(kept["usage"]["prompt_tokens"], 1000);
    assert!(kept["body"]["choices"].is_array() && kept["seconds"].is_number());
}

#[test]
fn facts_are_made_once_and_people_can_change_them() {
    let folder = tempfile::tempdir().unwrap();
    let script = answers(|_| verdicts([1.0; 3]), |_| quality(50));
    let open = || vlm(&script.url, folder.path(), Mode::Off, Options::default());
    let first = open().key(&case()).unwrap();
    assert_eq!(first, open().key(&case()).unwrap());
    assert_eq!(script.bodies().len(), 1);
    let path = fs::read_dir(folder.path()).unwrap().flatten().map(|entry| entry.path());
    let path = path.into_iter().find(|p| p.extension().is_some_and(|e| e == "json")).unwrap();
    assert!(path.file_name().unwrap().to_string_lossy().starts_with("P001-"));
    let text = fs::read_to_string(&path).unwrap();
    fs::write(&path, text.replace("The hair is long.", "The hair is very long.")).unwrap();
    assert_ne!(open().key(&case()).unwrap(), first);
    for (broken, part) in [
        (text.replace("hairstyle", "clothing"), "the prompt says nothing of \"clothing\""),
        (text.replace("\"The sea is behind.\"", ""), "\"background\" is no list"),
        (text.replace("anyid.facts/1", "x"), "this is no anyid.facts/1"),
        ("{".to_owned(), "this is not JSON"),
    ] {
        fs::write(&path, broken).unwrap();
        let own = server(&script.url, folder.path(), Mode::Off);
        let fault = Vlm::open(own, folder.path(), Options::default(), &[case()]).err().unwrap();
        assert!(fault.code() == "E1707" && fault.message().contains(part), "{fault}");
    }
}

#[test]
fn an_answer_that_is_unsound_is_mended_once_and_is_then_no_number() {
    let folder = tempfile::tempdir().unwrap();
    let script = answers(
        |at| match at {
            // The first is mended, the second is not.
            0 => verdicts([0.3, 1.0, 1.0]),
            1 => verdicts([0.25, 0.75, 1.0]),
            _ => said("I see a lovely video.", "stop"),
        },
        |at| if at < 2 { said("{\"static\": 300}", "stop") } else { quality(60) },
    );
    let options = Options { repeats: 2, ..Options::default() };
    let vlm = vlm(&script.url, folder.path(), Mode::ReadWrite, options);
    let judged = vlm.judge(&case(), &moments()).unwrap();
    assert_eq!(judged.app, Some(vec![Some(50.0), None]));
    assert_eq!(judged.sta, Some(vec![None, Some(60.0)]));
    assert_eq!(value(&judged, Metric::App), Some(50.0));
    assert_eq!(judged.facts[0].values, [Some(0.25), None]);
    let messages: Vec<&str> = judged.failures.iter().map(|f| f.message.as_str()).collect();
    assert_eq!(messages.len(), 2);
    assert!(
        messages[0].starts_with("judge.quality: ") && messages[1].starts_with("judge.prompt: ")
    );
    // Facts, two and two of the prompt, two and one of quality.
    let bodies = script.bodies();
    assert_eq!(bodies.len(), 1 + 4 + 3);
    let mended = bodies.iter().find(|body| body["messages"].as_array().unwrap().len() > 2);
    let turns = mended.unwrap()["messages"][3]["content"].as_str().unwrap().to_owned();
    assert!(turns.contains("a1 is 0.3, not 1, 0.75"), "{turns}");
    assert!(bodies.iter().all(|body| body["temperature"] == 0.0));
}

#[test]
fn an_answer_that_is_refused_is_no_number() {
    let folder = tempfile::tempdir().unwrap();
    let refusal = json!({"choices": [{"message": {"content": null, "refusal": "no"},
        "finish_reason": "stop"}]});
    let script = answers(move |_| play(200, refusal.to_string()), |_| quality(40));
    let options = Options { repeats: 1, ..Options::default() };
    let vlm = vlm(&script.url, folder.path(), Mode::ReadWrite, options);
    let judged = vlm.judge(&case(), &moments()).unwrap();
    assert_eq!((judged.app.clone(), judged.bg.clone()), (Some(vec![None]), Some(vec![None])));
    assert_eq!([Metric::App, Metric::Sta].map(|m| value(&judged, m)), [None, Some(40.0)]);
    assert!(judged.failures[0].message.contains("does not want to answer"));
    // Facts that are refused stop the run: no system could be judged by them.
    let script = Scripted::play(vec![said("", "content_filter")]);
    let other = tempfile::tempdir().unwrap();
    let own = server(&script.url, other.path(), Mode::Off);
    let fault = Vlm::open(own, other.path(), options, &[case()]).err().unwrap();
    assert!(fault.code() == "E1707" && fault.message().contains("prompt P001"), "{fault}");
}

#[test]
fn a_prompt_as_a_whole_is_three_numbers_of_what_it_says() {
    let folder = tempfile::tempdir().unwrap();
    let script =
        answers(|_| said("{\"appearance\": 85, \"background\": 60}", "stop"), |_| quality(40));
    let options = Options { repeats: 1, holistic: true };
    let vlm = vlm(&script.url, folder.path(), Mode::ReadWrite, options);
    let judged = vlm.judge(&case(), &moments()).unwrap();
    assert_eq!([Metric::App, Metric::Bg].map(|m| value(&judged, m)), [Some(85.0), Some(60.0)]);
    assert!(judged.mot.is_none() && judged.facts.is_empty() && judged.holistic);
    let bodies = script.bodies();
    assert_eq!(bodies.len(), 2);
    let text = bodies[0]["messages"][1]["content"][0]["text"].as_str().unwrap().to_owned();
    assert_eq!(text, "APPEARANCE: Red hair.\nBACKGROUND: By the sea.");
}

#[test]
fn a_judge_that_drifts_is_found_by_videos_that_never_change() {
    let folder = tempfile::tempdir().unwrap();
    let own = case();
    fs::write(folder.path().join("cases.jsonl"), format!("{}\n", json!(own))).unwrap();
    let path = folder.path().join(format!("{}.mp4", own.id));
    let mut writer = VideoWriter::create(&path, 64, 48, 8.0, &WriterOptions::default()).unwrap();
    (0..6).for_each(|shade| writer.push(&vec![shade * 30; 64 * 48 * 3]).unwrap());
    writer.finish().unwrap();
    let script = answers(
        |_| verdicts([1.0, 1.0, 0.5]),
        // The address of a judge is a part of what it is: one server, which changes its mind.
        |at| quality([80, 81, 76][at]),
    );
    let options = Options { repeats: 1, ..Options::default() };
    let vlm = vlm(&script.url, folder.path(), Mode::Off, options);
    let into = folder.path().join("found.json");
    let judged = || anchors::judged(&vlm, folder.path(), &into).unwrap();
    let first = judged();
    assert_eq!((&first["means"]["sta"], &first["moved"]), (&json!(80.0), &json!({})));
    // A point is noise.
    assert_eq!(judged()["moved"], json!({}));
    let third = judged();
    assert_eq!(third["moved"], json!({"sta": -4.0, "dyn": -4.0}));
    assert_eq!((&third["first"]["sta"], &third["videos"]), (&json!(80.0), &json!(1)));
    assert_eq!(serde_json::from_slice::<Value>(&fs::read(&into).unwrap()).unwrap(), third);
}

#[test]
fn frames_are_made_small_enough_or_the_run_stops() {
    let folder = tempfile::tempdir().unwrap();
    let script = answers(|_| verdicts([1.0; 3]), |_| quality(50));
    // Noise, which cannot be packed.
    let mut state = 1u32;
    let data = std::iter::repeat_with(|| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 24) as u8
    });
    let image = RgbFrame { width: 640, height: 360, data: data.take(640 * 360 * 3).collect() };
    let moments = [Moment { seconds: 0.0, image }];
    let options = Options { repeats: 1, ..Options::default() };
    let judged = |most: usize| {
        let profile = Profile { max_body: most, ..profile(&script.url) };
        let own = Server::open(&profile, folder.path(), Mode::Off, false, None, &|_| None);
        let vlm = Vlm::open(own.unwrap(), folder.path(), options, &[case()]).unwrap();
        vlm.judge(&case(), &moments)
    };
    assert!(judged(60_000).is_ok());
    let sizes = script.bodies().into_iter().filter(|body| asks(body, QUALITY));
    let largest = sizes.map(|body| body.to_string().len()).max().unwrap();
    assert!(largest < 62_000, "{largest}");
    assert_eq!(judged(2000).unwrap_err().code(), "E1236");
}
