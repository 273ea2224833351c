//! Asking a server that plays a script: every fault of a server that a run has to live with.

#![cfg(feature = "judge")]

#[path = "support/scripted.rs"]
mod scripted;

use anyid_files::media::writer::{VideoWriter, WriterOptions};
use anyid_files::shard::Shard;
use anyid_study::prompt::PromptSettings;
use anyid_study::prompt::benchmark::plans;
use anyid_study::prompt::cache::Mode;
use anyid_study::prompt::elements::{Element, Elements};
use anyid_study::prompt::profile::Profile;
use anyid_study::prompt::server::answer::Question;
use anyid_study::prompt::server::ask::{Ask, Part};
use anyid_study::prompt::server::client::{Outcome, Server};
use anyid_study::prompt::server::compare::{compare, scores};
use anyid_study::prompt::server::exact;
use anyid_study::prompt::server::examples::BUILT_IN;
use anyid_study::prompt::server::sort::sort;
use anyid_study::prompt::server::{allowed, costs, invent, simplify};
use anyid_study::settings::Settings;
use anyid_study::stages::Job;
use scripted::{Play, Scripted, play, said};
use serde_json::{Map, Value, json};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

fn scored(score: f64) -> Value {
    let mut object = Map::new();
    for element in Element::ALL {
        object.insert(element.name().to_owned(), json!({"reason": "so", "score": score}));
    }
    object.into()
}

fn sound() -> String {
    scored(0.5).to_string()
}

fn profile(url: &str) -> Profile {
    serde_json::from_value(json!({
        "base_url": url, "model": "m", "api_key_env": "KEY", "timeout_s": 2.0,
        "price_in": 2.0, "price_out": 10.0,
    }))
    .unwrap()
}

struct Run {
    server: Server,
    waits: Arc<Mutex<Vec<Duration>>>,
    folder: PathBuf,
}

impl Drop for Run {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

const SECRET: &str = "sk-secret-123";

fn run(name: &str, url: &str, most_cost: Option<f64>) -> Run {
    let folder = std::env::temp_dir().join(format!("anyid-server-{name}-{}", std::process::id()));
    let waits = Arc::new(Mutex::new(Vec::new()));
    let own = waits.clone();
    let key = |variable: &str| (variable == "KEY").then(|| SECRET.to_owned());
    let server = Server::open(&profile(url), &folder, Mode::ReadWrite, false, most_cost, &key)
        .unwrap()
        .sleeping(move |wait| own.lock().unwrap().push(wait));
    Run { server, waits, folder }
}

fn ask() -> Ask {
    let user = vec![Part::Text("REFERENCE {} TARGET {}".into()), Part::Picture(vec![1, 2, 3])];
    Ask::new(Question::Compare, "Compare.", user)
}

fn answered(outcome: Outcome) -> Value {
    match outcome {
        Outcome::Answered(answered, _) => answered.value,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_sound_answer_is_kept_and_costs_nothing_again() {
    let script = Scripted::play(vec![said(&sound(), "stop")]);
    let run = run("sound", &script.url, None);
    let first = answered(run.server.ask(&ask()).unwrap());
    assert_eq!(first["scores"]["shot"], 0.5);
    assert_eq!(answered(run.server.ask(&ask()).unwrap()), first);
    let costs = run.server.costs();
    assert_eq!((costs.calls, costs.hits, costs.tokens_in, costs.tokens_out), (1, 1, 1000, 100));
    assert!((costs.money.unwrap() - 0.003).abs() < 1e-12);
    let (head, body) = script.heard.lock().unwrap()[0].clone();
    assert!(head.contains(&format!("authorization: bearer {SECRET}")));
    assert!(!body.contains(SECRET));
    let body = &script.bodies()[0];
    assert_eq!(body["response_format"]["json_schema"]["strict"], true);
    assert_eq!(
        body["messages"][1]["content"][1]["image_url"]["url"],
        "data:image/jpeg;base64,AQID"
    );
    // Neither the key nor the picture is kept.
    for folder in std::fs::read_dir(&run.folder).unwrap() {
        for file in std::fs::read_dir(folder.unwrap().path()).unwrap() {
            let text = std::fs::read_to_string(file.unwrap().path()).unwrap();
            assert!(!text.contains(SECRET) && !text.contains("AQID"), "{text}");
        }
    }
    // Without a network, from what is kept.
    let read = Server::open(
        &profile("http://127.0.0.1:9"),
        &run.folder,
        Mode::ReadOnly,
        false,
        None,
        &|_| None,
    );
    assert_eq!(answered(read.unwrap().ask(&ask()).unwrap()), first);
}

#[test]
fn what_passes_is_waited_for() {
    let wait = Play { headers: "retry-after: 7\r\n", ..play(429, "slow down") };
    let script = Scripted::play(vec![wait, play(500, "x"), play(503, "x"), said(&sound(), "stop")]);
    let run = run("waits", &script.url, None);
    answered(run.server.ask(&ask()).unwrap());
    let waits = run.waits.lock().unwrap();
    assert_eq!(waits[0], Duration::from_secs(7));
    assert!(waits[1] >= Duration::from_secs(2) && waits[2] >= Duration::from_secs(4), "{waits:?}");
    assert_eq!(run.server.costs().faults["failed"], 3);
}

#[test]
fn the_form_of_answers_is_lowered_once_for_all() {
    let script = Scripted::play(vec![
        play(400, "unknown field response_format.json_schema"),
        play(400, "response_format is not supported"),
        said(&format!("Here it is:\n```json\n{}\n```", sound()), "stop"),
    ]);
    let run = run("ladder", &script.url, None);
    answered(run.server.ask(&ask()).unwrap());
    let mut other = ask();
    other.system = "Compare them.".into();
    answered(run.server.ask(&other).unwrap());
    let forms: Vec<Value> =
        script.bodies().iter().map(|b| b["response_format"]["type"].clone()).collect();
    assert_eq!(forms, [json!("json_schema"), json!("json_object"), Value::Null, Value::Null]);
    let text = script.bodies()[2]["messages"][0]["content"].as_str().unwrap().to_owned();
    assert!(text.contains("additionalProperties"), "{text}");
}

#[test]
fn unsound_answers_are_mended_or_told() {
    let script = Scripted::play(vec![said("{\"shot\": 1}", "stop"), said(&sound(), "stop")]);
    let mended = run("mended", &script.url, None);
    answered(mended.server.ask(&ask()).unwrap());
    let turns = script.bodies()[1]["messages"].as_array().unwrap().clone();
    assert_eq!((turns.len(), turns[3]["role"].as_str()), (4, Some("user")));
    assert!(turns[3]["content"].as_str().unwrap().contains("missing: hairstyle"), "{turns:?}");
    let script = Scripted::play(vec![said("no idea", "stop")]);
    let failed = run("failed", &script.url, None);
    let outcome = failed.server.ask(&ask()).unwrap();
    assert_eq!(outcome, Outcome::Failed("the answer has no JSON object".into()));
    assert_eq!(script.bodies()[2]["temperature"], 0.7);
    // An answer that was not sound is not kept.
    failed.server.ask(&ask()).unwrap();
    assert_eq!(script.bodies().len(), 6);
}

#[test]
fn cut_off_answers_get_more_room_and_refusals_are_none() {
    let script = Scripted::play(vec![said("{\"shot", "length"), said(&sound(), "stop")]);
    let cut = run("cut", &script.url, None);
    answered(cut.server.ask(&ask()).unwrap());
    let room: Vec<u64> =
        script.bodies().iter().map(|b| b["max_tokens"].as_u64().unwrap()).collect();
    assert_eq!(room, [800, 1600]);
    let body = json!({"choices": [{"message": {"content": null, "refusal": "No."}}]});
    let script = Scripted::play(vec![play(200, body.to_string())]);
    let refused = run("refused", &script.url, None);
    assert_eq!(refused.server.ask(&ask()).unwrap(), Outcome::Refused);
}

#[test]
fn what_does_not_pass_stops_the_run_and_says_no_secret() {
    for (play_, code) in [
        (play(401, "bad key"), "E1232"),
        (play(403, "no"), "E1232"),
        (play(404, format!("no model for {SECRET}")), "E1236"),
        (play(500, "x"), "E1233"),
        (play(200, "not JSON"), "E1233"),
        (Play { delay: Duration::from_secs(4), ..said(&sound(), "stop") }, "E1233"),
    ] {
        let script = Scripted::play(vec![play_]);
        let own = run(&format!("stops-{code}"), &script.url, None);
        let fault = own.server.ask(&ask()).unwrap_err();
        assert_eq!(fault.code(), code, "{fault}");
        assert!(!format!("{fault:?} {fault}").contains(SECRET));
    }
    // Nobody listens.
    let nobody = run("nobody", "http://127.0.0.1:9/v1", None);
    assert_eq!(nobody.server.ask(&ask()).unwrap_err().code(), "E1233");
}

#[test]
fn the_most_that_may_be_spent_is_not_passed() {
    let script = Scripted::play(vec![said(&sound(), "stop")]);
    let own = run("budget", &script.url, Some(0.003));
    answered(own.server.ask(&ask()).unwrap());
    let mut other = ask();
    other.system = "Again.".into();
    assert_eq!(own.server.ask(&other).unwrap_err().code(), "E1234");
    assert_eq!(script.bodies().len(), 1);
}

#[test]
fn pictures_leave_the_machine_when_it_was_said_once() {
    let here = run("here", "http://127.0.0.1:9/v1", None);
    std::fs::create_dir_all(&here.folder).unwrap();
    assert!(allowed(&here.folder, &here.server, 8, false).is_ok());
    let away = run("away", "https://example.org/v1", None);
    std::fs::create_dir_all(&away.folder).unwrap();
    let fault = allowed(&away.folder, &away.server, 8, false).unwrap_err();
    assert!(fault.code() == "E1235" && fault.message().starts_with("8 pictures"), "{fault}");
    allowed(&away.folder, &away.server, 8, true).unwrap();
    assert!(allowed(&away.folder, &away.server, 8, false).is_ok());
}

#[test]
fn keys_and_addresses_are_checked_before_anything_is_sent() {
    let folder = std::env::temp_dir();
    let open = |profile: &Profile, insecure| {
        Server::open(profile, &folder, Mode::ReadWrite, insecure, None, &|_| None).err()
    };
    let none = open(&profile("https://example.org/v1"), false).unwrap();
    assert!(none.code() == "E1230" && none.message().contains("KEY"), "{none}");
    let mut plain = profile("http://example.org/v1");
    plain.api_key_env = None;
    assert_eq!(open(&plain, false).unwrap().code(), "E1231");
    assert!(open(&plain, true).is_none());
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        let path = folder.join(format!("anyid-key-{}", std::process::id()));
        std::fs::write(&path, "sk").unwrap();
        let mode = |mode| std::fs::set_permissions(&path, PermissionsExt::from_mode(mode)).unwrap();
        plain.api_key_file = Some(path.clone());
        mode(0o644);
        assert_eq!(open(&plain, true).unwrap().code(), "E1239");
        mode(0o600);
        assert!(open(&plain, true).is_none());
        std::fs::remove_file(&path).unwrap();
    }
}

#[test]
fn prompts_of_a_benchmark_are_asked_for_until_they_are_as_planned() {
    let (gender, plan) = plans(1, 5).remove(0);
    let pronoun = if gender == "m" { "He" } else { "She" };
    let object = |background: &str| {
        let text = |element: Element| match element {
            Element::Shot => {
                format!("The camera is {}, and it shows a {}.", plan.camera, plan.framing)
            }
            Element::Hairstyle => "Short brown hair with a neat parting.".to_owned(),
            Element::Clothing => {
                "A grey wool coat with wide lapels and a knitted collar.".to_owned()
            }
            Element::Accessory => "A thin silver necklace.".to_owned(),
            Element::Expression => {
                format!("{pronoun} is {} to begin with and then {}.", plan.from, plan.to)
            }
            Element::Action => {
                format!("{pronoun} makes the head {} and breathes out.", plan.motion)
            }
            Element::Background => background.to_owned(),
        };
        let texts = Element::ALL.map(|element| (element.name().to_owned(), json!(text(element))));
        Value::from(Map::from_iter(texts)).to_string()
    };
    let long =
        "A wide hall with tall columns, banners and a marble floor under soft light. ".repeat(4);
    let script =
        Scripted::play(vec![said(&object("A hall."), "stop"), said(&object(&long), "stop")]);
    let own = run("invent", &script.url, None);
    let entries = invent(&own.server, 1, 5).unwrap();
    assert_eq!((entries.len(), &*entries[0].id, &entries[0].plan), (1, "P001", &plan));
    let bodies = script.bodies();
    let asked = |at: usize| bodies[at]["messages"][1]["content"][0]["text"].as_str().unwrap();
    assert!(asked(0).contains(&plan.setting) && !asked(0).contains("Attempt"), "{}", asked(0));
    assert!(asked(1).contains("Attempt 2. Wrong before: it has"), "{}", asked(1));
    assert_eq!(bodies[0]["temperature"], 0.8);
    // What is kept is not asked for again.
    assert_eq!(invent(&own.server, 1, 5).unwrap(), entries);
    assert_eq!(script.bodies().len(), 2);
    let script = Scripted::play(vec![said(&object("A hall."), "stop")]);
    let short = run("short", &script.url, None);
    let fault = invent(&short.server, 1, 5).unwrap_err();
    assert!(fault.code() == "E1237" && fault.message().contains("words, expected"), "{fault}");
}

#[test]
fn the_median_of_several_answers_counts() {
    let answers = [0.9, 0.1, 0.6].map(|score| said(&scored(score).to_string(), "stop"));
    let script = Scripted::play(answers.to_vec());
    let own = run("votes", &script.url, None);
    let (mut a, mut b) = (Elements::default(), Elements::default());
    a.set(Element::Clothing, "A coat.");
    b.set(Element::Clothing, "A shirt.");
    let settings = PromptSettings { votes: 3, ..PromptSettings::default() };
    let ask = || scores(&[(&a, &b)], &own.server, &settings).unwrap();
    assert_eq!(ask(), [[Some(0.6); 7]]);
    // Each answer is kept by itself.
    assert_eq!(ask(), [[Some(0.6); 7]]);
    assert_eq!(script.bodies().len(), 3);
    // Of three that are asked for, two have to be sound.
    let answers = ["no", "no", "no", "no", "no", "no"].map(|text| said(text, "stop"));
    let script = Scripted::play([answers.to_vec(), vec![said(&sound(), "stop")]].concat());
    let own = run("few-votes", &script.url, None);
    assert_eq!(scores(&[(&a, &b)], &own.server, &settings).unwrap().len(), 1);
}

#[test]
fn examples_stand_before_the_question() {
    let script = Scripted::play(vec![said(&sound(), "stop")]);
    let own = run("examples", &script.url, None);
    let texts = Elements::default();
    let settings = PromptSettings { examples: Some(BUILT_IN.into()), ..PromptSettings::default() };
    scores(&[(&texts, &texts)], &own.server, &settings).unwrap();
    scores(&[(&texts, &texts)], &own.server, &PromptSettings::default()).unwrap();
    let bodies = script.bodies();
    let roles = |body: &Value| -> Vec<String> {
        let messages = body["messages"].as_array().unwrap().iter();
        messages.map(|message| message["role"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(roles(&bodies[0]).len(), 10);
    assert_eq!(roles(&bodies[0])[..3], ["system", "user", "assistant"]);
    assert_eq!(roles(&bodies[1]), ["system", "user"]);
    let answer = bodies[0]["messages"][2]["content"].as_str().unwrap();
    assert!(Question::Compare.read(answer).is_ok(), "{answer}");
}

/// Groups and descriptions of nine clips of a person: 72 pairs.
fn described(folder: &PathBuf, batch: usize) -> Job {
    std::fs::create_dir_all(folder).unwrap();
    let names: Vec<String> = (0..9).map(|at| format!("c_{at}")).collect();
    let group = json!({"schema": "anyid.group/1", "id": "a", "clips": names, "medoid": null,
        "cohesion": null, "given": true, "outliers": [], "duplicates_of": [], "copies": []});
    std::fs::write(folder.join("groups.jsonl"), format!("{group}\n")).unwrap();
    let line = |name: &String| {
        let elements = json!({"action": format!("He nods {name}.")});
        json!({"schema": "anyid.desc/1", "clip": name, "elements": elements}).to_string() + "\n"
    };
    let lines: String = names.iter().map(line).collect();
    std::fs::write(folder.join("desc.jsonl"), lines).unwrap();
    let settings = Settings::parse(&format!("[prompt]\nbatch = {batch}")).unwrap();
    let (root, out) = (folder.clone(), folder.clone());
    Job { root, lines: None, out, settings, shard: Shard::WHOLE, threads: 1, redo: false }
}

#[test]
fn several_pairs_go_into_a_request_where_that_changes_nothing() {
    for (together, calls, agreement) in [(0.5, 50 + 5 + 3, 1.0), (0.9, 50 + 5 + 22, 0.0)] {
        let script = Scripted::answer(move |_, body| {
            let text = body["messages"][1]["content"][0]["text"].as_str().unwrap().to_owned();
            match text.matches("PAIR ").count() {
                0 => said(&scored(0.5).to_string(), "stop"),
                count => {
                    let pairs = vec![scored(together); count];
                    said(&json!({"pairs": pairs}).to_string(), "stop")
                }
            }
        });
        let own = run(&format!("batch-{calls}"), &script.url, None);
        let job = described(&own.folder, 10);
        let told = compare(&job, &own.server).unwrap();
        assert_eq!((told.lines, told.agreement), (72, Some(agreement)));
        assert_eq!(script.bodies().len(), calls);
        let pairs = std::fs::read_to_string(own.folder.join("pairs.jsonl")).unwrap();
        let pairs: Vec<Value> =
            pairs.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!((&pairs[0]["ref"], &pairs[71]["target"]), (&json!("c_0"), &json!("c_7")));
        assert!(pairs.iter().all(|pair| pair["scores"]["action"] == 0.5 && pair["model"] == "m"));
        // What it cost is there for the report. The next run asks the same questions, whose answers are
        // kept and cost nothing.
        let spent = costs::read(&own.folder, "compare");
        assert_eq!(spent[0]["costs"]["calls"], calls);
        assert_eq!(costs::of(&own.folder), [("compare".to_owned(), json!(spent))].into());
        compare(&job, &own.server).unwrap();
        let again = costs::read(&own.folder, "compare");
        assert_eq!(again[0]["costs"]["hits"], calls);
        for key in ["calls", "tokens_in", "tokens_out", "money"] {
            assert_eq!(again[0]["costs"][key], spent[0]["costs"][key], "{key}");
        }
    }
}

#[test]
fn requests_with_several_pairs_that_fail_are_asked_one_by_one() {
    let script = Scripted::answer(|_, body| {
        let text = body["messages"][1]["content"][0]["text"].as_str().unwrap().to_owned();
        // Six of seven requests with several pairs are sound.
        match text.matches("PAIR ").count() {
            0 => said(&sound(), "stop"),
            _ if text.contains("nods c_8.\"} TARGET") => said("no", "stop"),
            count => said(&json!({"pairs": vec![scored(0.5); count]}).to_string(), "stop"),
        }
    });
    let own = run("batch-fails", &script.url, None);
    let told = compare(&described(&own.folder, 10), &own.server).unwrap();
    assert_eq!((told.lines, told.failed, told.agreement), (72, 0, Some(1.0)));
}

#[test]
fn prompts_are_said_in_few_words() {
    let script = Scripted::answer(|_, body| {
        let text = body["messages"][1]["content"][0]["text"].as_str().unwrap().to_owned();
        let words = text.split_whitespace().nth(1).unwrap_or_default().to_owned();
        said(&json!({"prompt": format!("He {words}.")}).to_string(), "stop")
    });
    let own = run("few", &script.url, None);
    let all = ["nods and smiles".to_owned(), "turns slowly".to_owned()];
    assert_eq!(simplify(&own.server, &all).unwrap(), ["He nods.", "He turns."]);
    let script = Scripted::play(vec![said("no", "stop")]);
    let own = run("few-fails", &script.url, None);
    let fault = simplify(&own.server, &all).unwrap_err();
    assert!(fault.code() == "E1237" && fault.message().contains("prompt 1 of 2"), "{fault}");
}

#[test]
fn prompts_follow_what_a_primary_shows_as_it_is_cut_out() {
    let script = Scripted::answer(|at, body| {
        let system = body["messages"][0]["content"].as_str().unwrap();
        let mut object = match system.starts_with("You label footage") {
            // The last of the primaries gets no sound answer.
            true if body.to_string().contains("Clip of") => return said("no", "stop"),
            true => {
                Map::from_iter(Element::ALL.map(|e| (e.name().to_owned(), json!(format!("{at}.")))))
            }
            false => {
                let mut object = scored(1.0).as_object().unwrap().clone();
                object.insert("clothing".into(), json!({"reason": "unseen", "score": 0.0}));
                object
            }
        };
        object.insert("pronoun".into(), "he".into());
        object.insert("people".into(), "one".into());
        said(&Value::from(object).to_string(), "stop")
    });
    let [describing, comparing] = ["exact-a", "exact-b"].map(|name| run(name, &script.url, None));
    let folder = &describing.folder;
    let job = described(folder, 1);
    let options = WriterOptions::default();
    let mut writer = VideoWriter::create(&folder.join("a.mp4"), 64, 48, 24.0, &options).unwrap();
    (0..20).for_each(|shade| writer.push(&[shade * 9; 64 * 48 * 3]).unwrap());
    writer.finish().unwrap();
    let elements = json!({"clothing": "He wears red.", "action": "He nods."});
    let line = json!({"schema": "anyid.desc/1", "clip": "c_1", "elements": elements});
    std::fs::write(folder.join("desc.jsonl"), format!("{line}\n")).unwrap();
    let sample = |id: &str, primary: Value| {
        json!({"schema": "anyid.sample/1", "id": id, "target": {"clip": "c_1"},
            "references": [primary], "prompt": "As before.", "prompt_style": "plain"})
    };
    let face = json!({"form": "face", "media": "a.mp4", "frame": 9, "crop": [8, 8, 40, 40]});
    let video = json!({"form": "video", "media": "a.mp4", "start": 2, "frames": 5, "fps": 24.0,
        "crop": [0, 0, 64, 48]});
    let samples = [sample("s_0", face.clone()), sample("s_1", video), sample("s_2", face)];
    let text: String = samples.iter().map(|sample| format!("{sample}\n")).collect();
    std::fs::write(folder.join("train.jsonl"), text).unwrap();
    assert_eq!(exact::pictures(&job, describing.server.profile()).unwrap(), 1 + 5 + 1);
    let told = exact::exact(&job, &describing.server, &comparing.server).unwrap();
    assert_eq!((told.lines, told.failed), (2, 1));
    let lines = std::fs::read_to_string(folder.join("train.jsonl")).unwrap();
    let lines: Vec<Value> = lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let prompts: Vec<&str> = lines.iter().map(|line| line["prompt"].as_str().unwrap()).collect();
    assert_eq!(prompts, ["He wears red.", "As before.", "He wears red."]);
    assert_eq!(lines[0]["prompt_full"], "He wears red. He nods.");
    assert_eq!(lines[0]["provenance"]["vlm"], "m");
    assert_eq!(lines[0]["elements"]["action"]["keep"], false);
    // What was answered is kept; the other one is asked about again, three times.
    let calls = script.bodies().len();
    let again = exact::exact(&job, &describing.server, &comparing.server).unwrap();
    assert_eq!((again.lines, again.costs.calls, script.bodies().len()), (2, 3, calls + 3));
    let spent = costs::of(folder);
    assert_eq!(spent["describe"][0]["costs"]["hits"], 2);
}

#[test]
fn a_prompt_is_sorted_without_other_words() {
    let answer = |action: &str| {
        let mut object = Map::new();
        for element in Element::ALL {
            object.insert(element.name().to_owned(), "".into());
        }
        object.insert("action".into(), action.into());
        object.insert("background".into(), "In a garden.".into());
        Value::from(object).to_string()
    };
    let script = Scripted::play(vec![
        said(&answer("She nods."), "stop"),
        said(&answer("She nods happily."), "stop"),
        said(&answer("").replace("In a garden.", ""), "stop"),
    ]);
    let run = run("sort", &script.url, None);
    let elements = sort(&run.server, "She nods in a garden.").unwrap();
    let found: Vec<(Element, &str)> = elements.iter().collect();
    assert_eq!(found, [(Element::Action, "She nods."), (Element::Background, "In a garden.")]);
    assert_eq!(script.bodies()[0]["temperature"], 0.0);
    // Another prompt, for which there is no answer yet.
    let fault = sort(&run.server, "She nods in a garden!").unwrap_err();
    assert!(fault.code() == "E1237" && fault.message().contains("words happily"), "{fault}");
    let fault = sort(&run.server, "Nothing.").unwrap_err();
    assert!(
        fault.code() == "E1237" && fault.message().contains("all elements are empty"),
        "{fault}"
    );
}
