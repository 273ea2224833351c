//! People's preferences from end to end: jobs, videos, votes over HTTP through a kill, pairs, and a
//! training that reads them; and what the verbs refuse.

#![cfg(all(unix, feature = "annotate"))]

mod common;

use common::Folder;
use common::training::{sample, world};
use serde_json::{Value, json};
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, Stdio};

/// A server of the project `labels`, and a browser of one person.
struct Served {
    child: Child,
    address: String,
    cookies: String,
}

impl Served {
    fn start(folder: &Folder, verb: &str, token: &str) -> Self {
        let words = format!("{verb} serve labels --listen 127.0.0.1:0 -q");
        let mut command = folder.command(&words, &[]);
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let address = line.trim().trim_start_matches("listening on http://").trim_end_matches('/');
        let mut served = Self { child, address: address.to_owned(), cookies: String::new() };
        let (head, _) = served.send("GET", &format!("/join/{token}"), "");
        let cookies = head.lines().filter_map(|line| line.strip_prefix("set-cookie: "));
        let cookies: Vec<&str> = cookies.map(|cookie| cookie.split(';').next().unwrap()).collect();
        served.cookies = cookies.join("; ");
        served
    }

    fn send(&self, method: &str, path: &str, body: &str) -> (String, Value) {
        let (address, cookies) = (&self.address, &self.cookies);
        let csrf = cookies.split("anyid_csrf=").nth(1).unwrap_or_default();
        let request = format!(
            "{method} {path} HTTP/1.1\r\nhost: {address}\r\norigin: http://{address}\r\nconnection: \
             close\r\ncookie: {cookies}\r\nx-csrf: {csrf}\r\ncontent-type: application/json\r\n\
             content-length: {}\r\n\r\n{body}",
            body.len()
        );
        let mut stream = TcpStream::connect(address.as_str()).unwrap();
        stream.write_all(request.as_bytes()).unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        (head.replace("\r\n", "\n"), serde_json::from_str(body).unwrap_or_default())
    }

    /// Answers the next item, `choose` by the tokens of its sides; `false` where there is none.
    fn answer(&self, track: &str, choose: &dyn Fn(&Value) -> String) -> bool {
        let (_, item) = self.send("GET", &format!("/api/next?track={track}"), "");
        if item["finished"] == true {
            return false;
        }
        let mut answers = serde_json::Map::new();
        for question in item["questions"].as_array().unwrap() {
            answers.insert(question.as_str().unwrap().to_owned(), choose(&item).into());
        }
        let nonce = format!("nonce-{}", item["id"].as_str().unwrap());
        let ballot = json!({ "assignment": item["id"], "nonce": nonce, "answers": answers });
        let (head, told) = self.send("POST", "/api/vote", &ballot.to_string());
        assert!(head.contains(" 200 "), "{told}");
        true
    }

    /// Ends it without a chance to do anything.
    fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

/// The token of a link in what was printed.
fn token(text: &str, label: &str) -> String {
    let line = text.lines().find(|line| line.starts_with(&format!("{label}\t"))).unwrap();
    line.rsplit('/').next().unwrap().to_owned()
}

/// The tone of a video as its bytes say it: two people can be made to agree on which one they prefer.
fn preferred(served: &Served, item: &Value) -> String {
    let size = |at: usize| {
        let token = item["media"][at].as_str().unwrap();
        let mut stream = TcpStream::connect(served.address.as_str()).unwrap();
        let request = format!(
            "GET /media/{token} HTTP/1.1\r\nhost: {}\r\nconnection: close\r\ncookie: {}\r\n\r\n",
            served.address, served.cookies
        );
        stream.write_all(request.as_bytes()).unwrap();
        let mut bytes = Vec::new();
        stream.read_to_end(&mut bytes).unwrap();
        let start = bytes.windows(4).position(|part| part == b"\r\n\r\n").unwrap() + 4;
        bytes[start..].to_vec()
    };
    if size(0) < size(1) { "left" } else { "right" }.to_owned()
}

#[test]
fn pairs_that_people_prefer_are_those_that_are_trained_on() {
    let folder = world(&[]);
    let lines: Vec<String> = (0..2)
        .map(|at| {
            let mut value = sample(&format!("s_{at}"), 10, |_| {});
            value["group"] = format!("g{at}").into();
            value.to_string()
        })
        .collect();
    folder.write("samples.jsonl", lines.join("\n"));
    folder.run("annotate init labels --samples samples.jsonl --n 2 --votes 1 --checks 0 -q").fine();
    let jobs = fs::read_to_string(folder.path("labels/jobs.jsonl")).unwrap();
    assert_eq!(jobs.lines().count(), 4);
    let made = "generate --model @micro --size 64x64 --frames 5 --steps 1 -q";
    folder.run(&format!("{made} --jobs labels/jobs.jsonl -o labels/videos")).fine();
    let done = folder.run("annotate import labels").fine();
    assert!(done.out.contains("2 matchups new, 0 waiting"), "{}", done.out);
    assert!(folder.run("annotate import labels").fine().out.contains("0 matchups new"));
    folder.run("annotate export labels -o labels/pairs.jsonl").fails("E1606");
    let links = folder.run("annotate invite labels anna").fine().out;
    folder.run("annotate invite labels anna").fails("E1609");
    let anna = token(&links, "anna");
    // One answer, then the server is killed, and another goes on.
    let served = Served::start(&folder, "annotate", &anna);
    assert!(served.answer("identity", &|item| preferred(&served, item)));
    served.kill();
    let served = Served::start(&folder, "annotate", &anna);
    assert!(served.answer("identity", &|item| preferred(&served, item)));
    assert!(!served.answer("identity", &|_| "left".to_owned()));
    // The same person may judge the other track, which is far enough away only for others.
    let ben = token(&folder.run("annotate invite labels ben").fine().out, "ben");
    let other = Served::start(&folder, "annotate", &ben);
    while other.answer("prompt", &|item| preferred(&other, item)) {}
    other.kill();
    served.kill();
    let status = folder.run("annotate status labels").fine().out;
    assert!(status.contains("pairs      2 of 1000"), "{status}");
    let overview = folder.run("annotate status labels --json").fine().json();
    assert_eq!(overview["status"]["valid"], 2);
    let done = folder.run("annotate export labels -o labels/pairs.jsonl --lock").fine();
    assert!(done.err.contains("data.sha256"), "{}", done.err);
    let text = fs::read_to_string(folder.path("labels/pairs.jsonl")).unwrap();
    let hash = done.err.split('"').nth(1).unwrap().to_owned();
    let words = "train dpo --config run.toml --threads 2 --set train.learning_rate=1e-5 --set \
                 data.manifest=labels/pairs.jsonl --steps 1 --set train.batch=2";
    folder.run(&format!("{words} --set data.sha256={hash}")).fine();
    for line in text.lines().skip(1) {
        let pair: Value = serde_json::from_str(line).unwrap();
        let bytes = |side: &str| {
            fs::read(folder.path(&format!("labels/{}", pair[side]["video"].as_str().unwrap())))
        };
        assert_ne!(bytes("chosen").unwrap(), bytes("rejected").unwrap());
        assert_eq!(pair["annotators"], 2);
    }
    // Somebody turns a preference round: the trainer and the project both say so.
    folder.write("labels/pairs.jsonl", text.replacen("\"chosen\"", "\"rejected \"", 1));
    folder.run(&format!("{words} --set data.sha256={hash} -o other")).fails("E0959");
    assert!(folder.run("annotate status labels").fine().err.contains("was locked"));
    folder.run("annotate backup labels -o copy.sqlite").fine();
    assert!(folder.path("copy.sqlite").exists());
}

#[test]
fn a_study_needs_consent_or_rights_and_says_what_is_double() {
    let folder = Folder::new();
    fs::create_dir_all(folder.path("ours")).unwrap();
    fs::create_dir_all(folder.path("other")).unwrap();
    for (name, seed) in [("ours/C-1.mp4", 1), ("other/x_C-1_seed2.mp4", 2)] {
        let words = "generate --prompt x --size 64x64 --frames 5 --steps 1 -q --force --seed";
        folder.run(&format!("{words} {seed} -o {name}")).fine();
    }
    let picture = common::repository().join("examples/astronaut.png");
    fs::copy(picture, folder.path("p.png")).unwrap();
    let case = json!({ "schema": "anyid.case/1", "id": "C-1", "task": "IPT2V", "prompt": "She waves.",
                       "preserve": ["hairstyle"], "primary": "p.png" });
    folder.write("cases.jsonl", case.to_string());
    let words = "study init labels --cases cases.jsonl --system ours=ours --system other=other \
                 --participants 2 --matchups 1";
    folder.run(&format!("{words} --ours ours --consent none")).fails("E1604");
    folder.run(&format!("{words} --ours mine --i-have-rights")).fails("E1605");
    fs::copy(folder.path("other/x_C-1_seed2.mp4"), folder.path("other/C-1.mp4")).unwrap();
    folder.run(&format!("{words} --ours ours --i-have-rights")).fails("E1605").says("two videos");
    fs::remove_file(folder.path("other/C-1.mp4")).unwrap();
    let links = folder.run(&format!("{words} --ours ours --i-have-rights")).fine().out;
    assert_eq!(links.lines().count(), 2);
    folder.run("study report labels").fails("E1606");
    folder.run("annotate status labels").fails("E1600");
    folder.run("study invite labels somebody").fails("E0900");
    let first = links.lines().next().unwrap();
    let served = Served::start(&folder, "study", first.rsplit('/').next().unwrap());
    let agree = json!({ "agree": [true, true, true] }).to_string();
    served.send("POST", "/api/consent", &agree);
    while served.answer("study", &|_| "left".to_owned()) {}
    let (_, me) = served.send("GET", "/api/me", "");
    served.kill();
    let report = folder.run("study report labels -o report").fine().out;
    assert!(report.contains("report"), "{report}");
    let table = fs::read_to_string(folder.path("report/report.md")).unwrap();
    assert!(table.contains("| Element consistency | other | "), "{table}");
    assert!(fs::read_to_string(folder.path("report/report.svg")).unwrap().starts_with("<svg"));
    assert_eq!(folder.run("study report labels --json").fine().json()["people"], 1);
    folder.run("study withdraw labels AAAA-AAAA-AAAA").fails("E1609");
    folder.run(&format!("study withdraw labels {}", me["code"].as_str().unwrap())).fine();
    folder.run("study report labels").fails("E1606");
}

#[test]
fn what_cannot_be_used_is_refused_in_words() {
    let folder = Folder::new();
    folder.run("annotate status nothing").fails("E1600");
    folder.write("bad.jsonl", "{\"id\": \"a\"}\nno json\n");
    folder.run("annotate init a --samples bad.jsonl").fails("E1602").says("2 lines");
    folder.run("annotate init b -q").fine();
    folder.run("annotate init b").fails("E1600");
    folder.write("pairs.csv", "path_a,prompt\nx,y\n");
    folder.run("annotate import b --pairs pairs.csv").fails("E1602").says("path_b");
    folder.write("black.csv", "path_a,path_b,prompt\np.png,q.png,x\n");
    let picture = common::repository().join("examples/astronaut.png");
    fs::copy(&picture, folder.path("p.png")).unwrap();
    fs::copy(&picture, folder.path("q.png")).unwrap();
    let done = folder.run("annotate import b --pairs black.csv").fails("E1601");
    assert!(done.err.contains("this is a picture, not a video"), "{}", done.err);
    folder.write("votes.csv", "matchup,track,annotator,winner\nm_1,identity,x,a\n");
    folder.run("annotate import b --votes votes.csv").fails("E1607");
    folder.run("annotate serve b --listen 0.0.0.0:0").fails("E1608").says("--public");
    folder.run("annotate serve b --listen here").fails("E1608");
    folder.run("annotate invite b boss --admin").fine();
    folder.run("annotate invite b nobody --renew").fails("E1609");
}
