//! Asking a server that plays a script: every fault of a server that a run has to live with.

#![cfg(feature = "judge")]

use anyid_study::prompt::benchmark::plans;
use anyid_study::prompt::cache::Mode;
use anyid_study::prompt::elements::Element;
use anyid_study::prompt::profile::Profile;
use anyid_study::prompt::server::answer::Question;
use anyid_study::prompt::server::client::{Ask, Outcome, Part, Server};
use anyid_study::prompt::server::{allowed, invent};
use serde_json::{Map, Value, json};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// One answer of the script.
#[derive(Clone)]
struct Play {
    status: u16,
    headers: &'static str,
    body: String,
    delay: Duration,
}

struct Scripted {
    url: String,
    /// What was asked: headers and body.
    heard: Arc<Mutex<Vec<(String, String)>>>,
}

impl Scripted {
    /// Plays answers in their order, and the last one from then on.
    fn play(script: Vec<Play>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/v1", listener.local_addr().unwrap());
        let heard = Arc::new(Mutex::new(Vec::new()));
        let own = heard.clone();
        std::thread::spawn(move || {
            for (at, stream) in listener.incoming().enumerate() {
                let play = script[at.min(script.len() - 1)].clone();
                let own = own.clone();
                std::thread::spawn(move || {
                    let mut stream = stream.unwrap();
                    let mut reader = BufReader::new(stream.try_clone().unwrap());
                    let (mut head, mut length) = (String::new(), 0);
                    loop {
                        let mut line = String::new();
                        if reader.read_line(&mut line).unwrap_or(0) == 0 || line == "\r\n" {
                            break;
                        }
                        let lower = line.to_ascii_lowercase();
                        if let Some(count) = lower.strip_prefix("content-length:") {
                            length = count.trim().parse().unwrap();
                        }
                        head.push_str(&lower);
                    }
                    let mut body = vec![0; length];
                    reader.read_exact(&mut body).unwrap();
                    own.lock().unwrap().push((head, String::from_utf8(body).unwrap()));
                    std::thread::sleep(play.delay);
                    let (status, headers, body) = (play.status, play.headers, &play.body);
                    let count = body.len();
                    let _ = write!(
                        stream,
                        "HTTP/1.1 {status} X\r\ncontent-length: {count}\r\nconnection: close\r\n{headers}\r\n{body}"
                    );
                });
            }
        });
        Self { url, heard }
    }

    fn bodies(&self) -> Vec<Value> {
        let heard = self.heard.lock().unwrap();
        heard.iter().map(|(_, body)| serde_json::from_str(body).unwrap()).collect()
    }
}

fn play(status: u16, body: impl Into<String>) -> Play {
    Play { status, headers: "", body: body.into(), delay: Duration::ZERO }
}

fn said(content: &str, finish: &str) -> Play {
    let body = json!({
        "choices": [{"message": {"content": content}, "finish_reason": finish}],
        "usage": {"prompt_tokens": 1000, "completion_tokens": 100},
    });
    play(200, body.to_string())
}

fn sound() -> String {
    let mut object = Map::new();
    for element in Element::ALL {
        object.insert(element.name().to_owned(), json!({"reason": "so", "score": 0.5}));
    }
    Value::from(object).to_string()
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
    Ask { question: Question::Compare, system: "Compare.".into(), user }
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
