//! A server on this machine that plays a script, for tests of whatever asks servers.

// Every test binary uses its own part of this.
#![allow(dead_code)]

use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// One answer of the script.
#[derive(Clone)]
pub struct Play {
    pub status: u16,
    pub headers: &'static str,
    pub body: String,
    pub delay: Duration,
}

pub struct Scripted {
    /// Where it is, up to `/v1`.
    pub url: String,
    /// What was asked: headers and body.
    pub heard: Arc<Mutex<Vec<(String, String)>>>,
}

impl Scripted {
    /// Plays answers in their order, and the last one from then on.
    pub fn play(script: Vec<Play>) -> Self {
        Self::answer(move |at, _| script[at.min(script.len() - 1)].clone())
    }

    /// Answers by the number of a request and what it asks.
    pub fn answer(script: impl Fn(usize, &Value) -> Play + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/v1", listener.local_addr().unwrap());
        let heard = Arc::new(Mutex::new(Vec::new()));
        let (own, script) = (heard.clone(), Arc::new(script));
        std::thread::spawn(move || {
            for (at, stream) in listener.incoming().enumerate() {
                let (own, script) = (own.clone(), script.clone());
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
                    let body = String::from_utf8(body).unwrap();
                    let play = script(at, &serde_json::from_str(&body).unwrap());
                    own.lock().unwrap().push((head, body));
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

    /// Bodies of what was asked.
    pub fn bodies(&self) -> Vec<Value> {
        let heard = self.heard.lock().unwrap();
        heard.iter().map(|(_, body)| serde_json::from_str(body).unwrap()).collect()
    }
}

/// An answer of this status.
pub fn play(status: u16, body: impl Into<String>) -> Play {
    Play { status, headers: "", body: body.into(), delay: Duration::ZERO }
}

/// What a model says.
pub fn said(content: &str, finish: &str) -> Play {
    let body = json!({
        "choices": [{"message": {"content": content}, "finish_reason": finish}],
        "usage": {"prompt_tokens": 1000, "completion_tokens": 100},
    });
    play(200, body.to_string())
}
