//! Projects for tests, with matchups whose videos are a few bytes, and a client of HTTP.

use crate::media::{Shown, insert};
use crate::project::{Kind, Project, Settings};
use crate::server::{self, Options};
use crate::{Person, Role};
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

/// Bytes of a video.
pub const VIDEO: &[u8] = b"0123456789abcdefghijklmnopqrstuvwxyz";
/// What must never reach a page of somebody who answers.
pub const HIDDEN: [&str; 6] =
    ["secret prompt", "original-a", "original-b", "4711", "4712", "system-x"];

/// A project with `matchups` in `folder`.
pub fn project(folder: &Path, matchups: usize, settings: &Settings, kind: Kind) -> Project {
    let project = Project::create(&folder.join("project"), kind, settings).unwrap();
    std::fs::write(project.folder().join("media/v.mp4"), VIDEO).unwrap();
    std::fs::write(project.folder().join("refs/r.png"), b"picture").unwrap();
    project
        .change(|work| {
            let shown = |path: &str, original: &str, frames| Shown {
                path: path.to_owned(),
                sha256: crate::random::digest(path),
                width: 32,
                height: 32,
                fps: (frames > 1).then_some(24.0),
                frames,
                original: Some((original.to_owned(), crate::random::digest(original))),
            };
            let refs = [
                insert(work, &shown("refs/r.png", "r", 1))?,
                insert(work, &shown("refs/r.png", "r2", 1))?,
            ];
            for at in 0..matchups {
                let preserve = if at % 2 == 0 { json!(["hairstyle"]) } else { json!([]) };
                let sample = json!({ "references": [{ "form": "face", "media": "refs/r.png" }],
                                     "prompt": "secret prompt" });
                work.execute(
                    "INSERT INTO input_set(group_id, sample_id, prompt, preserve_json,
                     primary_asset, refs_json, sample_json, task)
                     VALUES(?,?,'secret prompt',?,?,?,?,'IPT2V')",
                    (
                        format!("g{at}"),
                        format!("s{at}"),
                        preserve.to_string(),
                        refs[0],
                        json!(refs).to_string(),
                        sample.to_string(),
                    ),
                )
                .unwrap();
                let set = work.last_insert_rowid();
                let a = insert(work, &shown("media/v.mp4", "original-a.mp4", 48))?;
                let b = insert(work, &shown("media/v.mp4", "original-b.mp4", 48))?;
                let systems = match kind {
                    Kind::Annotate => [None, None],
                    Kind::Study => [Some("ours"), Some(["system-x", "system-y"][at % 2])],
                };
                work.execute(
                    "INSERT INTO matchup(name, input_set_id, asset_a, asset_b, seed_a, seed_b,
                     system_a, system_b) VALUES(?,?,?,?,4711,4712,?,?)",
                    (format!("m_{at:05}"), set, a, b, systems[0], systems[1]),
                )
                .unwrap();
            }
            Ok(())
        })
        .unwrap();
    project
}

/// Somebody who was let in, and the token of their link.
pub fn person(project: &Project, label: &str, role: Role) -> (Person, String) {
    let token = project.invite(label, role).unwrap();
    let session = project.enter(&token).unwrap().unwrap();
    (project.person(&session).unwrap().unwrap(), token)
}

/// A server that runs until it is dropped.
pub struct Running {
    pub address: SocketAddr,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Running {
    pub fn start(project: Project, change: impl FnOnce(&mut Options)) -> Self {
        let mut options = Options::new("127.0.0.1:0".parse().unwrap());
        change(&mut options);
        let stop = Arc::new(AtomicBool::new(false));
        let (tell, told) = std::sync::mpsc::channel();
        let own = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            let mut ready = |ready: server::Ready| {
                tell.send(ready.address).unwrap();
                Ok(())
            };
            server::serve(project, options, &own, &mut ready).unwrap();
        });
        let address = told.recv_timeout(Duration::from_secs(20)).unwrap();
        Self { address, stop, thread: Some(thread) }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// An answer of the server.
#[derive(Debug)]
pub struct Answered {
    pub status: u16,
    pub head: String,
    pub body: Vec<u8>,
}

impl Answered {
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_default()
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub fn code(&self) -> String {
        self.json()["code"].as_str().unwrap_or_default().to_owned()
    }

    pub fn header(&self, name: &str) -> Option<String> {
        self.head.lines().find_map(|line| {
            let (own, value) = line.split_once(": ")?;
            own.eq_ignore_ascii_case(name).then(|| value.to_owned())
        })
    }
}

/// A browser of one person: a connection and its cookies.
pub struct Browser {
    pub address: SocketAddr,
    stream: BufReader<TcpStream>,
    pub cookies: String,
    pub csrf: String,
}

impl Browser {
    pub fn new(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_nodelay(true).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        let stream = BufReader::new(stream);
        Self { address, stream, cookies: String::new(), csrf: String::new() }
    }

    /// A browser that has opened a link.
    pub fn entered(address: SocketAddr, token: &str) -> Self {
        let mut browser = Self::new(address);
        let answer = browser.get(&format!("/join/{token}"));
        assert_eq!(answer.status, 200, "{}", answer.text());
        let cookies: Vec<String> = answer
            .head
            .lines()
            .filter_map(|line| line.strip_prefix("set-cookie: "))
            .map(|cookie| cookie.split(';').next().unwrap().to_owned())
            .collect();
        let csrf = cookies.iter().find_map(|cookie| cookie.strip_prefix("anyid_csrf="));
        browser.csrf = csrf.unwrap().to_owned();
        browser.cookies = cookies.join("; ");
        browser
    }

    /// Sends a request as it is.
    pub fn send(&mut self, head: &str, body: &[u8]) -> Answered {
        let text = format!("{head}\r\n\r\n");
        self.stream.get_mut().write_all(text.as_bytes()).unwrap();
        // What is refused early is not read to its end.
        let _ = self.stream.get_mut().write_all(body);
        self.read().expect("an answer")
    }

    pub fn read(&mut self) -> Option<Answered> {
        let mut head = String::new();
        loop {
            let mut line = String::new();
            if self.stream.read_line(&mut line).ok()? == 0 {
                return None;
            }
            if line == "\r\n" {
                break;
            }
            head.push_str(&line.replace("\r\n", "\n"));
        }
        let status = head.split(' ').nth(1)?.parse().ok()?;
        let mut answered = Answered { status, head, body: Vec::new() };
        let length = answered.header("content-length").and_then(|text| text.parse().ok());
        if status != 304 {
            answered.body = vec![0; length.unwrap_or(0)];
            self.stream.read_exact(&mut answered.body).ok()?;
        }
        Some(answered)
    }

    pub fn get(&mut self, path: &str) -> Answered {
        self.get_with(path, "")
    }

    /// With lines of the head besides, each with its end.
    pub fn get_with(&mut self, path: &str, more: &str) -> Answered {
        let (address, cookies) = (self.address, &self.cookies);
        let head = format!("GET {path} HTTP/1.1\r\nhost: {address}\r\n{more}cookie: {cookies}");
        self.send(&head, b"")
    }

    pub fn post(&mut self, path: &str, value: &Value) -> Answered {
        let (address, cookies, csrf) = (self.address, &self.cookies, &self.csrf);
        let body = value.to_string();
        let head = format!(
            "POST {path} HTTP/1.1\r\nhost: {address}\r\norigin: http://{address}\r\ncookie: \
             {cookies}\r\nx-csrf: {csrf}\r\ncontent-type: application/json\r\ncontent-length: {}",
            body.len()
        );
        self.send(&head, body.as_bytes())
    }

    /// The next item of a track.
    pub fn next(&mut self, track: &str) -> Value {
        let answer = self.get(&format!("/api/next?track={track}"));
        assert_eq!(answer.status, 200, "{}", answer.text());
        answer.json()
    }

    /// Answers every question of an item with `choice`.
    pub fn vote(&mut self, item: &Value, choice: &str, nonce: &str) -> Answered {
        let questions = item["questions"].as_array().unwrap();
        let answers: serde_json::Map<String, Value> = questions
            .iter()
            .map(|question| (question.as_str().unwrap().to_owned(), choice.into()))
            .collect();
        let ballot = json!({ "assignment": item["id"], "nonce": nonce, "answers": answers,
                             "timing": { "ms": 8000, "plays_left": 1, "watched_left": 1.0 } });
        self.post("/api/vote", &ballot)
    }
}
