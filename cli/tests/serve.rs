//! The server as its clients see it, over connections of this test's own: the queue through kills
//! and restarts, requests that are refused, events, and how it stops.

#![cfg(all(unix, feature = "serve"))]

mod common;

use anyid_runtime::media::{ReadOptions, read_clip};
use common::{Folder, repository};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// A video that takes no time worth mentioning.
const SMALL: [(&str, &str); 4] =
    [("size", "48x48"), ("frames", "1"), ("steps", "1"), ("guidance", "1")];
/// One that takes longer than any test waits.
const LONG: [(&str, &str); 3] = [("size", "192x192"), ("frames", "41"), ("steps", "200")];
/// How long anything may take.
const PATIENCE: Duration = Duration::from_secs(60);

struct Server {
    child: Child,
    address: SocketAddr,
}

impl Server {
    /// Starts one with the queue `q` in `folder`.
    fn start(folder: &Folder, more: &str) -> Self {
        let words = format!("serve --listen 127.0.0.1:0 --queue q --threads 2 {more}");
        Self::of(folder, folder.command(&words, &[]))
    }

    /// Starts the one of this command.
    fn of(folder: &Folder, mut command: Command) -> Self {
        let log = fs::OpenOptions::new().create(true).append(true).open(folder.path("log"));
        let mut child = command.stdout(Stdio::piped()).stderr(log.unwrap()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let address = line.trim().strip_prefix("listening on http://");
        let address = address.and_then(|rest| rest.strip_suffix('/')).unwrap_or_else(|| {
            panic!("{line:?}\n{}", fs::read_to_string(folder.path("log")).unwrap())
        });
        Self { child, address: address.parse().unwrap() }
    }

    /// Ends it without a chance to do anything.
    fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Stops it in good order; its exit code.
    fn stop(mut self, signal: Signal) -> i32 {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
        self.child.wait().unwrap().code().unwrap_or(-1)
    }

    fn ask(&self, method: &str, path: &str) -> Answer {
        self.send(method, path, &[], b"")
    }

    /// Sends a request, of which headers come last, and reads the answer.
    fn send(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Answer {
        let mut head = format!("{method} {path} HTTP/1.1\r\nConnection: close\r\n");
        let given = |name: &str| headers.iter().any(|(n, _)| n.eq_ignore_ascii_case(name));
        if !given("host") {
            head += &format!("Host: {}\r\n", self.address);
        }
        if !given("transfer-encoding") && !given("content-length") {
            head += &format!("Content-Length: {}\r\n", body.len());
        }
        for (name, value) in headers {
            head += &format!("{name}: {value}\r\n");
        }
        let mut stream = self.connect();
        // A server that refuses may not take all of it.
        let _ = stream.write_all(&[head.as_bytes(), b"\r\n", body].concat());
        Answer::read(stream)
    }

    fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream
    }

    /// Asks for a video with these fields and references.
    fn post(&self, fields: &[(&str, &str)], references: &[&[u8]]) -> Answer {
        let mut form = Form::default();
        fields.iter().for_each(|(name, value)| form.field(name, value));
        references.iter().for_each(|bytes| form.file("input_reference", "me.png", bytes));
        form.send(self)
    }

    /// Asks for a small video; its name.
    fn small(&self, prompt: &str) -> String {
        self.made(&SMALL, prompt)
    }

    fn made(&self, fields: &[(&str, &str)], prompt: &str) -> String {
        let fields: Vec<_> = fields.iter().copied().chain([("prompt", prompt)]).collect();
        self.post(&fields, &[]).fine()["id"].as_str().unwrap().to_owned()
    }

    fn video(&self, id: &str) -> Value {
        self.ask("GET", &format!("/v1/videos/{id}")).fine()
    }

    /// All videos, from the oldest on.
    fn list(&self) -> Vec<Value> {
        let answer = self.ask("GET", "/v1/videos?limit=100&order=asc").fine();
        assert_eq!(answer["has_more"], false);
        answer["data"].as_array().unwrap().clone()
    }

    /// Waits until `found` finds something.
    #[track_caller]
    fn wait<T>(&self, mut found: impl FnMut() -> Option<T>) -> T {
        let begun = Instant::now();
        loop {
            if let Some(found) = found() {
                return found;
            }
            assert!(begun.elapsed() < PATIENCE, "{:#?}", self.list());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    #[track_caller]
    fn wait_for(&self, id: &str, status: &str) -> Value {
        self.wait(|| Some(self.video(id)).filter(|video| video["status"] == status))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What the server said.
struct Answer {
    status: u16,
    head: String,
    body: Vec<u8>,
}

impl Answer {
    fn read(mut stream: TcpStream) -> Self {
        let mut bytes = Vec::new();
        // What has come is what counts, even if the connection is then reset.
        let _ = stream.read_to_end(&mut bytes);
        let end = bytes.windows(4).position(|four| four == b"\r\n\r\n");
        let end = end.unwrap_or_else(|| panic!("no answer: {bytes:?}"));
        let head = String::from_utf8(bytes[..end].to_vec()).unwrap().to_ascii_lowercase();
        let mut body = bytes[end + 4..].to_vec();
        if head.contains("transfer-encoding: chunked") {
            body = unchunked(&body);
        }
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        Self { status, head, body }
    }

    fn json(&self) -> Value {
        let text = String::from_utf8_lossy(&self.body);
        serde_json::from_slice(&self.body).unwrap_or_else(|_| panic!("{}\n{text}", self.head))
    }

    #[track_caller]
    fn fine(&self) -> Value {
        assert_eq!(self.status, 200, "{}", String::from_utf8_lossy(&self.body));
        self.json()
    }

    /// Asserts a refusal in the shape of OpenAI's errors; the error.
    #[track_caller]
    fn refused(&self, status: u16, code: &str) -> Value {
        let text = String::from_utf8_lossy(&self.body).into_owned();
        assert_eq!(self.status, status, "{text}");
        assert!(self.head.contains("content-type: application/json"), "{}", self.head);
        let error = self.json()["error"].clone();
        assert_eq!(error["code"], code, "{text}");
        for key in ["message", "type"] {
            assert!(error[key].as_str().is_some_and(|text| !text.is_empty()), "{key}: {text}");
        }
        error
    }
}

fn unchunked(mut bytes: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    while let Some(end) = bytes.windows(2).position(|two| two == b"\r\n") {
        let size = std::str::from_utf8(&bytes[..end]).unwrap();
        let size = usize::from_str_radix(size, 16).unwrap();
        let rest = &bytes[end + 2..];
        out.extend_from_slice(&rest[..size.min(rest.len())]);
        if size == 0 || rest.len() < size + 2 {
            break;
        }
        bytes = &rest[size + 2..];
    }
    out
}

/// A form with files.
#[derive(Default)]
struct Form(Vec<u8>);

impl Form {
    const KIND: (&str, &str) = ("Content-Type", "multipart/form-data; boundary=----b");

    fn field(&mut self, name: &str, value: &str) {
        let head = format!("------b\r\nContent-Disposition: form-data; name=\"{name}\"\r\n\r\n");
        self.0.extend([head.as_bytes(), value.as_bytes(), b"\r\n"].concat());
    }

    fn file(&mut self, name: &str, file: &str, bytes: &[u8]) {
        let head = format!(
            "------b\r\nContent-Disposition: form-data; name=\"{name}\"; filename=\"{file}\"\r\n\
             Content-Type: image/png\r\n\r\n"
        );
        self.0.extend([head.as_bytes(), bytes, b"\r\n"].concat());
    }

    fn whole(self) -> Vec<u8> {
        [&self.0[..], b"------b--\r\n"].concat()
    }

    fn send(self, server: &Server) -> Answer {
        server.send("POST", "/v1/videos", &[Self::KIND], &self.whole())
    }
}

fn portrait() -> Vec<u8> {
    fs::read(repository().join("examples/characters/first/portrait.png")).unwrap()
}

/// The record of a video.
fn record(folder: &Folder, id: &str) -> Value {
    let bytes = fs::read(folder.path(&format!("q/jobs/{id}/job.json"))).unwrap();
    serde_json::from_slice(&bytes).unwrap()
}

fn file(folder: &Folder, id: &str) -> PathBuf {
    folder.path(&format!("q/jobs/{id}/video.mp4"))
}

/// Names in a folder of the queue.
fn names(folder: &Folder, name: &str) -> Vec<String> {
    let entries = fs::read_dir(folder.path(name)).unwrap();
    entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

fn with_status(list: &[Value], status: &str) -> Vec<String> {
    let found = list.iter().filter(|video| video["status"] == status);
    found.map(|video| video["id"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn fifty_videos_outlive_two_kills_and_none_is_made_twice() {
    let folder = Folder::new();
    let mut server = Server::start(&folder, "");
    let portrait = portrait();
    let ids: Vec<String> = (0..50)
        .map(|number| {
            let (seed, prompt) = (number.to_string(), format!("number {number}"));
            let fields: Vec<_> =
                SMALL.into_iter().chain([("seed", &*seed), ("prompt", &*prompt)]).collect();
            let references: &[&[u8]] = if number % 10 == 0 { &[&portrait] } else { &[] };
            let video = server.post(&fields, references).fine();
            video["id"].as_str().unwrap().to_owned()
        })
        .collect();
    let cancelled = &ids[45..];
    for id in cancelled {
        let answer = server.ask("POST", &format!("/v1/videos/{id}/cancel")).fine();
        assert_eq!(answer["status"], "cancelled");
    }
    // What identifies the making of a video: its record, and its file by number and time.
    let mark = |id: &str| {
        let about = fs::metadata(file(&folder, id)).unwrap();
        let time = (about.mtime(), about.mtime_nsec());
        let record = record(&folder, id);
        (about.ino(), time, record["attempts"].clone(), record["completed_at"].clone())
    };
    let mut marks = BTreeMap::new();
    for part in [12, 30] {
        server.wait(|| {
            let done = with_status(&server.list(), "completed");
            (done.len() >= part).then_some(())
        });
        let before = server.list();
        server.kill();
        for id in with_status(&before, "completed") {
            marks.insert(id.clone(), mark(&id));
        }
        server = Server::start(&folder, "");
        let after = server.list();
        let order = |list: &[Value]| list.iter().map(|v| v["id"].clone()).collect::<Vec<_>>();
        assert_eq!(order(&after), ids, "nothing is lost, and the order stays");
    }
    server.wait(|| (with_status(&server.list(), "completed").len() == 45).then_some(()));
    let list = server.list();
    assert_eq!(with_status(&list, "completed"), ids[..45]);
    assert_eq!(with_status(&list, "cancelled"), cancelled);
    assert!(marks.len() >= 30, "{}", marks.len());
    for (id, then) in &marks {
        assert_eq!(mark(id), *then, "made again: {id}");
    }
    let attempts: Vec<u64> =
        ids.iter().map(|id| record(&folder, id)["attempts"].as_u64().unwrap()).collect();
    assert!(attempts[..45].iter().all(|count| (1..=2).contains(count)), "{attempts:?}");
    assert!(attempts.iter().sum::<u64>() <= 45 + 2, "a kill costs one attempt: {attempts:?}");
    assert!(cancelled.iter().all(|id| !file(&folder, id).exists()));
    // What a kill interrupted, or the last one, is what its recipe makes elsewhere.
    let again = attempts.iter().position(|count| *count == 2).unwrap_or(44);
    let recipe = format!("q/jobs/{}/video.mp4.recipe.json", ids[again]);
    folder.run(&format!("generate --recipe {recipe} -o again.mp4")).fine();
    let pixels = |path: &Path| read_clip(path, &ReadOptions::default()).unwrap().frames;
    assert!(pixels(&folder.path("again.mp4")) == pixels(&file(&folder, &ids[again])));
    assert_eq!(names(&folder, "q/incoming"), Vec::<String>::new());
}

#[test]
fn a_video_in_the_middle_of_which_the_server_was_killed_goes_on_from_its_state() {
    let folder = Folder::new();
    let server = Server::start(&folder, "");
    let fields = [("size", "96x96"), ("frames", "21"), ("steps", "60"), ("seed", "5")];
    let id = server.made(&fields, "long enough to be killed");
    let state = folder.path(&format!("q/jobs/{id}/sampling.safetensors"));
    server.wait(|| {
        let stage = server.video(&id)["stage"].clone();
        (stage["name"] == "sampling" && stage["done"].as_u64() >= Some(8) && state.exists())
            .then_some(())
    });
    server.kill();
    let stored = fs::read(&state).unwrap();
    let server = Server::start(&folder, "");
    server.wait_for(&id, "completed");
    assert!(!state.exists());
    let log = fs::read_to_string(folder.path("log")).unwrap();
    assert!(log.contains(&format!("{id} goes on behind step ")), "{log}");
    let recipe = format!("q/jobs/{id}/video.mp4.recipe.json");
    folder.run(&format!("generate --recipe {recipe} -o again.mp4")).fine();
    let pixels = |path: &Path| read_clip(path, &ReadOptions::default()).unwrap().frames;
    let again = pixels(&folder.path("again.mp4"));
    assert!(again == pixels(&file(&folder, &id)));
    // A state of another run, or one that is damaged, costs the time that it would have saved.
    for (bytes, what) in [(stored.clone(), "another run"), (stored[..99].to_vec(), "")] {
        let id = server.made(&LONG, "before");
        server.wait_for(&id, "in_progress");
        let next = server.small("behind");
        fs::write(folder.path(&format!("q/jobs/{next}/sampling.safetensors")), bytes).unwrap();
        server.ask("POST", &format!("/v1/videos/{id}/cancel")).fine();
        server.wait_for(&next, "completed");
        let log = fs::read_to_string(folder.path("log")).unwrap();
        let line = log.lines().find(|line| line.contains(&format!("{next} begins anew: ")));
        assert!(line.is_some_and(|line| line.contains(what)), "{log}");
    }
}

/// Takes all room that a file system has left; the file that holds it.
fn filled(folder: &Path) -> PathBuf {
    let path = folder.join("filler");
    let mut file = fs::File::create(&path).unwrap();
    for piece in [64 << 10, 4096, 1] {
        while file.write_all(&vec![0; piece]).is_ok() {}
    }
    path
}

#[test]
fn a_full_disk_costs_no_video_and_the_server_lives_on() {
    let folder = Folder::new();
    let tried = folder.other("unshare").args(["-m", "true"]).output();
    if !tried.is_ok_and(|done| done.status.success()) {
        println!("skipped: mounting needs root and `unshare`");
        return;
    }
    fs::create_dir(folder.path("q")).unwrap();
    let line = "mount --make-rprivate / && mount -t tmpfs -o size=2m none q && \
        exec \"$0\" serve --listen 127.0.0.1:0 --queue q --threads 2";
    let mut command = folder.other("unshare");
    command.args(["-m", "bash", "-c", line, env!("CARGO_BIN_EXE_anyid-rt")]);
    command.env("TMPDIR", folder.temporary()).env("XDG_CONFIG_HOME", folder.temporary());
    let server = Server::of(&folder, command);
    // The queue as the server sees it.
    let root = PathBuf::from(format!("/proc/{}/root", server.child.id()));
    let queue = root.join(folder.path("q").strip_prefix("/").unwrap());
    let done = server.small("done before");
    server.wait_for(&done, "completed");
    let long = [("size", "96x96"), ("frames", "21"), ("steps", "30"), ("seed", "5")];
    let id = server.made(&long, "in the middle");
    let behind = server.small("behind it");
    server.wait(|| (server.video(&id)["stage"]["name"] == "sampling").then_some(()));
    let filler = filled(&queue);
    let waits = server.wait(|| {
        let video = server.video(&id);
        assert!(video["status"] != "failed" && video["status"] != "completed", "{video}");
        (video["warnings"].as_array().is_some_and(|list| !list.is_empty())).then_some(video)
    });
    assert_eq!((&waits["status"], &waits["error"]), (&json!("queued"), &Value::Null));
    assert!(waits["warnings"][0].as_str().unwrap().starts_with("[E1012] "), "{waits}");
    assert_eq!(server.video(&behind)["status"], "queued");
    // What cannot be kept is not accepted, and what is there is given.
    let refused = server.post(&[("prompt", "more"), ("steps", "1")], &[&portrait()]);
    refused.refused(507, "E1012");
    assert_eq!(server.list().len(), 3);
    let content = server.ask("GET", &format!("/v1/videos/{done}/content"));
    assert_eq!(content.status, 200);
    fs::remove_file(filler).unwrap();
    server.ask("DELETE", &format!("/v1/videos/{done}")).fine();
    for id in [&id, &behind] {
        let made = server.wait_for(id, "completed");
        assert!(!made["warnings"].to_string().contains("E1012"), "{made}");
    }
    let bytes = server.ask("GET", &format!("/v1/videos/{id}/content")).body;
    fs::write(folder.path("made.mp4"), bytes).unwrap();
    let recipe = queue.join(format!("jobs/{id}/video.mp4.recipe.json"));
    fs::copy(recipe, folder.path("made.recipe.json")).unwrap();
    folder.run("generate --recipe made.recipe.json -o again.mp4").fine();
    let pixels =
        |name: &str| read_clip(&folder.path(name), &ReadOptions::default()).unwrap().frames;
    assert!(pixels("again.mp4") == pixels("made.mp4"));
    assert_eq!(server.stop(Signal::TERM), 0);
}

#[test]
fn events_tell_a_video_from_its_place_in_the_queue_to_its_file() {
    let folder = Folder::new();
    let server = Server::start(&folder, "");
    let before = server.made(&[("size", "48x48"), ("frames", "5"), ("steps", "40")], "first");
    let fields = [("prompt", "a \"quoted\"\nline"), ("steps", "6"), ("seed", "3")];
    let id = server.post(&fields, &[&portrait()]).fine()["id"].as_str().unwrap().to_owned();
    let answer = server.ask("GET", &format!("/v1/videos/{id}/events"));
    assert!(answer.head.contains("content-type: text/event-stream"), "{}", answer.head);
    let text = String::from_utf8(answer.body).unwrap();
    let events: Vec<(String, u64, Value)> = text
        .split("\n\n")
        .filter(|event| event.contains("data:"))
        .map(|event| {
            let line = |key: &str| {
                let found = event.lines().find_map(|line| line.strip_prefix(key));
                found.unwrap_or_else(|| panic!("{event}")).trim().to_owned()
            };
            let data = serde_json::from_str(&line("data:")).unwrap();
            (line("event:"), line("id:").parse().unwrap(), data)
        })
        .collect();
    let order = ["video.queued", "video.in_progress", "video.completed"];
    let places: Vec<usize> =
        events.iter().map(|(name, ..)| order.iter().position(|n| n == name).unwrap()).collect();
    assert!(places.is_sorted() && places.first() == Some(&0) && places.last() == Some(&2));
    assert_eq!(events.iter().filter(|(name, ..)| name == "video.completed").count(), 1);
    assert!(events.iter().map(|(_, number, _)| *number).eq(1..=events.len() as u64), "{text}");
    let progress: Vec<u64> =
        events.iter().map(|(.., video)| video["progress"].as_u64().unwrap()).collect();
    assert!(progress.is_sorted() && progress.last() == Some(&100), "{progress:?}");
    assert_eq!(events[0].2["queue_position"], 1);
    let steps: Vec<&Value> = events
        .iter()
        .map(|(.., video)| &video["stage"])
        .filter(|stage| stage["name"] == "sampling" && stage["total"] == 6)
        .collect();
    assert!(!steps.is_empty(), "{text}");
    let last = &events.last().unwrap().2;
    assert_eq!(*last, server.video(&id));
    assert_eq!(last["prompt"], "a \"quoted\"\nline");
    assert_eq!((&last["references"], &last["seed"]), (&json!(1), &json!(3)));
    // Whoever comes late is told at once, and whoever waits for what is deleted, too.
    let late = server.ask("GET", &format!("/v1/videos/{before}/events"));
    let late = String::from_utf8(late.body).unwrap();
    assert_eq!(late.matches("event:").count(), 1, "{late}");
    let long = server.made(&LONG, "long");
    std::thread::scope(|scope| {
        let events = scope.spawn(|| server.ask("GET", &format!("/v1/videos/{long}/events")));
        server.wait_for(&long, "in_progress");
        let deleted = server.ask("DELETE", &format!("/v1/videos/{long}")).fine();
        assert_eq!(deleted, json!({ "id": long, "object": "video.deleted", "deleted": true }));
        let text = String::from_utf8(events.join().unwrap().body).unwrap();
        assert!(text.contains("event: video.deleted") || text.contains("event:video.deleted"));
    });
    server.wait(|| (!folder.path(&format!("q/jobs/{long}")).exists()).then_some(()));
}

#[test]
fn a_stop_in_good_order_gives_the_video_back_and_a_cancel_lets_the_next_one_begin() {
    let folder = Folder::new();
    let server = Server::start(&folder, "");
    let long = server.made(&LONG, "long");
    let small = server.small("small");
    server.wait_for(&long, "in_progress");
    let begun = Instant::now();
    assert_eq!(server.stop(Signal::TERM), 0);
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    let then = record(&folder, &long);
    assert_eq!((&then["status"], &then["attempts"]), (&json!("queued"), &json!(0)));
    let log = fs::read_to_string(folder.path("log")).unwrap();
    assert!(log.contains("the queue has 2 videos to make at the next start"), "{log}");
    let server = Server::start(&folder, "");
    server.wait_for(&long, "in_progress");
    // One folder, one server; the first goes on.
    let words = "serve --listen 127.0.0.1:0 --queue q";
    folder.run(words).fails("E1401").says("another server uses this queue");
    let answer = server.ask("POST", &format!("/v1/videos/{long}/cancel")).fine();
    assert_eq!((&answer["status"], &answer["progress"]), (&json!("cancelled"), &json!(0)));
    server.wait_for(&small, "completed");
    server.ask("POST", &format!("/v1/videos/{small}/cancel")).refused(409, "E1408");
    server.ask("GET", &format!("/v1/videos/{long}/content")).refused(409, "E1408");
    assert_eq!(server.stop(Signal::INT), 0);
    let left: Vec<String> = names(&folder, &format!("q/jobs/{long}"));
    assert_eq!(left, ["job.json"]);
    // The time for one video is bounded, and the next one is made.
    let server = Server::start(&folder, "--most-minutes 0.005");
    let late = server.made(&LONG, "late");
    assert_eq!(server.wait_for(&late, "failed")["error"]["code"], "E1415");
    server.stop(Signal::INT);
    let unread = record(&folder, &late);
    assert!(unread["error"]["help"].as_str().unwrap().contains("--most-minutes"), "{unread}");
}

#[test]
fn videos_are_given_whole_and_in_parts() {
    let folder = Folder::new();
    let server = Server::start(&folder, "");
    let models = server.ask("GET", "/v1/models").fine();
    assert_eq!(models["data"][0]["id"], "built-in");
    assert_eq!(models["data"][0]["usual"]["frames"], 5);
    let kind = [("Content-Type", "application/json")];
    let body = br#"{"model": "built-in", "prompt": "x", "steps": 1, "seconds": "0.17"}"#;
    let video = server.send("POST", "/v1/videos", &kind, body).fine();
    assert_eq!((&video["object"], &video["status"]), (&json!("video"), &json!("queued")));
    assert_eq!((&video["size"], &video["seconds"]), (&json!("48x48"), &json!("0.17")));
    let id = video["id"].as_str().unwrap();
    let made = server.wait_for(id, "completed");
    assert!(made["completed_at"].as_u64() >= made["created_at"].as_u64());
    let path = format!("/v1/videos/{id}/content");
    let whole = server.ask("GET", &path);
    assert_eq!((whole.status, &whole.body), (200, &fs::read(file(&folder, id)).unwrap()));
    for part in ["content-type: video/mp4", "accept-ranges: bytes", "nosniff", "no-store"] {
        assert!(whole.head.contains(part), "{part}\n{}", whole.head);
    }
    assert_eq!(&whole.body[4..8], b"ftyp");
    let head = server.ask("HEAD", &path);
    assert!(head.body.is_empty());
    assert!(head.head.contains(&format!("content-length: {}", whole.body.len())));
    let part = server.send("GET", &path, &[("Range", "bytes=4-7")], b"");
    assert_eq!((part.status, &part.body[..]), (206, &b"ftyp"[..]));
    assert!(part.head.contains(&format!("content-range: bytes 4-7/{}", whole.body.len())));
    assert_eq!(server.send("GET", &path, &[("Range", "bytes=99999999-")], b"").status, 416);
    // Pages of the list, from the newest on.
    let more: Vec<String> = (0..4).map(|number| server.small(&format!("{number}"))).collect();
    let page = server.ask("GET", "/v1/videos?limit=2").fine();
    assert_eq!((&page["object"], &page["has_more"]), (&json!("list"), &json!(true)));
    assert_eq!((&page["first_id"], &page["last_id"]), (&json!(more[3]), &json!(more[2])));
    let rest = server.ask("GET", &format!("/v1/videos?after={}&limit=100", more[2])).fine();
    assert_eq!((&rest["last_id"], &rest["has_more"]), (&json!(id), &json!(false)));
    assert_eq!(rest["data"].as_array().unwrap().len(), 3);
    server.ask("DELETE", &format!("/v1/videos/{id}")).fine();
    server.ask("GET", &path).refused(404, "E1407");
    assert!(!folder.path(&format!("q/jobs/{id}")).exists());
}

/// A PNG of this size, of which nothing but the head is there.
fn bomb(width: u32, height: u32) -> Vec<u8> {
    let crc = |bytes: &[u8]| {
        !bytes.iter().fold(u32::MAX, |crc, byte| {
            (0..8).fold(crc ^ u32::from(*byte), |crc, _| {
                (crc >> 1) ^ (0xedb8_8320 & (crc & 1).wrapping_neg())
            })
        })
    };
    let chunk = |name: &[u8], data: &[u8]| {
        let named = [name, data].concat();
        [&(data.len() as u32).to_be_bytes()[..], &named, &crc(&named).to_be_bytes()].concat()
    };
    let size = [width.to_be_bytes(), height.to_be_bytes()].concat();
    let head = [&size[..], &[8, 2, 0, 0, 0]].concat();
    [&b"\x89PNG\r\n\x1a\n"[..], &chunk(b"IHDR", &head), &chunk(b"IDAT", &[0; 16])].concat()
}

#[test]
fn bad_requests_are_refused_with_a_code_and_leave_nothing() {
    let folder = Folder::new();
    let server = Server::start(&folder, "--most-upload 1MiB");
    let post =
        |headers: &[(&str, &str)], body: &[u8]| server.send("POST", "/v1/videos", headers, body);
    let json = [("Content-Type", "application/json")];
    let form = [Form::KIND];
    post(&[], b"x").refused(415, "E1411");
    post(&[("Content-Type", "multipart/form-data")], b"x").refused(415, "E1411");
    post(&json, b"{").refused(400, "E1411");
    post(&json, b"[1]").refused(400, "E1411");
    post(&json, &vec![b' '; 200 << 10]).refused(413, "E1410");
    post(&form, b"").refused(400, "E1411");
    post(&form, b"------b\r\nContent-Disposition: form-data; name=\"prompt\"\r\n\r\nx\r\n")
        .refused(400, "E1411");
    post(&form, b"------b\r\n\r\n\r\n------b--").refused(400, "E1411");
    let endless = [&b"------b\r\nX: "[..], &[b'a'; 20 << 10]].concat();
    post(&form, &endless).refused(400, "E1411");
    let one = |name: &str, file: Option<&str>, bytes: &[u8]| {
        let mut form = Form::default();
        form.field("prompt", "x");
        match file {
            Some(file) => form.file(name, file, bytes),
            None => form.field(name, std::str::from_utf8(bytes).unwrap()),
        }
        form.send(&server)
    };
    // Fields.
    for (name, value, status, code) in [
        ("colour", "red", 400, "E1412"),
        ("../../etc/passwd", "x", 400, "E1412"),
        ("prompt", "twice", 400, "E1412"),
        ("model", "sora-2", 400, "E1412"),
        ("size", "0x48", 400, "E0901"),
        ("size", "9999999x9999999", 413, "E1410"),
        ("frames", "6", 400, "E0902"),
        ("steps", "1e3", 400, "E1412"),
        ("steps", "0", 400, "E0923"),
        ("guidance", "inf", 400, "E0928"),
        ("solver", "magic", 400, "E0921"),
        ("input_reference", "me.png", 400, "E1412"),
    ] {
        let error = one(name, None, value.as_bytes()).refused(status, code);
        assert_eq!(error["param"], name, "{error}");
    }
    one("seed", Some("x"), b"1").refused(400, "E1412");
    one("steps", None, &[b'1'; 200 << 10]).refused(413, "E1410");
    server.post(&[("steps", "1")], &[]).refused(400, "E1412");
    let mut many = Form::default();
    (0..40).for_each(|_| many.file("input_reference", "", b""));
    many.send(&server).refused(413, "E1410");
    // References.
    let portrait = portrait();
    let six: Vec<&[u8]> = vec![&portrait; 6];
    server.post(&[("prompt", "x")], &six).refused(400, "E0903");
    let frame = b",\0\0\0\0\xff\xff\xff\xff\0\x02\x02\x4c\x01\0;";
    let huge = [&b"GIF89a\xff\xff\xff\xff\x80\0\0"[..], &[0; 6], frame].concat();
    for (bytes, code) in [
        (&b"just a text"[..], "E0804"),
        (b"\x7fELF\x02\x01\x01\0", "E0804"),
        (b"PK\x03\x04 an archive", "E0804"),
        (b"#EXTM3U\nfile:///etc/passwd\n", "E0804"),
        (b"<svg xmlns=\"http://www.w3.org/2000/svg\"/>", "E0804"),
        (b"", "E0803"),
        (&bomb(60_000, 60_000), "E0806"),
        (&bomb(16_384, 16_384), "E0806"),
        (&huge, "E0806"),
    ] {
        let error = one("input_reference", Some("me.png"), bytes).refused(400, code);
        assert_eq!(error["param"], "input_reference");
        let text = error.to_string();
        assert!(!text.contains("incoming") && !text.contains("/q/"), "a place is said: {text}");
    }
    let damaged = one("input_reference", Some("me.png"), &portrait[..portrait.len() / 2]);
    assert_eq!(damaged.status, 400, "{}", damaged.head);
    // Sizes: said, and not said.
    let large = vec![b'a'; 3 << 20];
    one("input_reference", Some("me.png"), &large).refused(413, "E1410");
    let chunk = [format!("{:x}\r\n", 1 << 20).as_bytes(), &large[..1 << 20], b"\r\n"].concat();
    let mut start = Form::default();
    start.file("input_reference", "me.png", b"");
    let start = [format!("{:x}\r\n", start.0.len() - 2).as_bytes(), &start.0].concat();
    let body = [start, chunk.clone(), chunk, b"0\r\n\r\n".to_vec()].concat();
    post(&[Form::KIND, ("Transfer-Encoding", "chunked")], &body).refused(413, "E1410");
    // Hosts, origins, paths, methods, parameters.
    for (name, value) in [
        ("Host", "evil.example"),
        ("Host", "192.0.2.1"),
        ("Origin", "https://evil.example"),
        ("Origin", "null"),
        ("Sec-Fetch-Site", "cross-site"),
    ] {
        server.send("GET", "/v1/videos", &[(name, value)], b"").refused(403, "E1405");
        post(&[(name, value), Form::KIND], b"").refused(403, "E1405");
    }
    for (method, path, status, code) in [
        ("GET", "/v1/images", 404, "E1406"),
        ("GET", "/../etc/passwd", 404, "E1406"),
        ("PUT", "/v1/videos", 405, "E1406"),
        ("POST", "/", 405, "E1406"),
        ("GET", "/v1/videos/none", 404, "E1407"),
        ("GET", "/v1/videos/..%2f..%2fetc%2fpasswd/content", 404, "E1407"),
        ("GET", "/v1/videos/%ff", 404, "E1407"),
        ("DELETE", "/v1/videos/none", 404, "E1407"),
        ("POST", "/v1/videos/none/cancel", 404, "E1407"),
        ("GET", "/v1/videos/none/events", 404, "E1407"),
        ("GET", "/v1/videos?limit=0", 400, "E1412"),
        ("GET", "/v1/videos?limit=101", 400, "E1412"),
        ("GET", "/v1/videos?order=up", 400, "E1412"),
        ("GET", "/v1/videos?page=2", 400, "E1412"),
        ("GET", "/v1/videos?after=none", 404, "E1407"),
        ("GET", "/v1/videos/none/content?variant=thumbnail", 400, "E1412"),
    ] {
        server.ask(method, path).refused(status, code);
    }
    // What is no request at all.
    for bytes in
        [&b"GARBAGE\r\n\r\n"[..], b"\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03", b"\r\n\r\n\r\n"]
    {
        let mut stream = server.connect();
        stream.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
        stream.write_all(bytes).unwrap();
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        assert!(answer.is_empty() || answer.starts_with(b"HTTP/1.1 400"), "{answer:?}");
    }
    let long = "x".repeat(64 << 10);
    assert_eq!(server.send("GET", "/", &[("X-Long", &long)], b"").status, 431);
    // Nothing is left of all this, and nothing is the matter.
    assert_eq!(names(&folder, "q/incoming"), Vec::<String>::new());
    assert_eq!(names(&folder, "q/jobs"), Vec::<String>::new());
    assert!(server.list().is_empty());
    // Names of files are not looked at.
    let id = {
        let mut form = Form::default();
        SMALL.iter().chain(&[("prompt", "x")]).for_each(|(name, value)| form.field(name, value));
        form.file("input_reference", "../../../etc/passwd", &portrait);
        form.send(&server).fine()["id"].as_str().unwrap().to_owned()
    };
    server.wait_for(&id, "completed");
    let mut left = names(&folder, &format!("q/jobs/{id}"));
    left.sort();
    assert_eq!(left, ["job.json", "reference-1", "video.mp4", "video.mp4.recipe.json"]);
}

#[test]
fn slow_clients_and_too_many_are_left() {
    let folder = Folder::new();
    let server = Server::start(&folder, "--patience 0.5 --most-connections 3 --most-waiting 1");
    // A head that does not end.
    let begun = Instant::now();
    let mut stream = server.connect();
    stream.write_all(b"GET / HTTP/1.1\r\nHost: localhost\r\nX-").unwrap();
    let mut bytes = Vec::new();
    let _ = stream.read_to_end(&mut bytes);
    assert!(begun.elapsed() < Duration::from_secs(10), "{bytes:?}");
    // A body that does not end.
    let mut form = Form::default();
    form.file("input_reference", "me.png", &portrait());
    let half = &form.whole()[..1000];
    let answer =
        server.send("POST", "/v1/videos", &[Form::KIND, ("Content-Length", "100000")], half);
    answer.refused(408, "E1413");
    assert_eq!(names(&folder, "q/incoming"), Vec::<String>::new());
    // One that breaks off.
    let mut stream = server.connect();
    let head = format!(
        "POST /v1/videos HTTP/1.1\r\nHost: localhost\r\n{}: {}\r\nContent-Length: 99999\r\n\r\n",
        Form::KIND.0,
        Form::KIND.1
    );
    stream.write_all(head.as_bytes()).unwrap();
    stream.write_all(half).unwrap();
    drop(stream);
    server.wait(|| names(&folder, "q/incoming").is_empty().then_some(()));
    // More connections than there may be; these are to be there for a while.
    drop(server);
    let server = Server::start(&folder, "--patience 10 --most-connections 3 --most-waiting 1");
    let held: Vec<TcpStream> = (0..3).map(|_| server.connect()).collect();
    server
        .wait(|| Some(server.ask("GET", "/health")).filter(|answer| answer.status != 200))
        .refused(503, "E1414");
    drop(held);
    server.wait(|| {
        let answer = server.ask("GET", "/health");
        (answer.status == 200).then_some(())
    });
    // More videos than may wait.
    let long = server.made(&LONG, "long");
    server.wait_for(&long, "in_progress");
    server.small("waits");
    let fields: Vec<_> = SMALL.into_iter().chain([("prompt", "x")]).collect();
    server.post(&fields, &[]).refused(429, "E1409");
}

#[test]
fn a_token_keeps_others_out_and_is_needed_where_others_are() {
    let folder = Folder::new();
    folder.write("token", "0123456789abcdef0123\n");
    let server = Server::start(&folder, "--token-file token");
    let with = |value: &str| server.send("GET", "/v1/videos", &[("Authorization", value)], b"");
    with("Bearer 0123456789abcdef0123").fine();
    for wrong in ["Bearer 0123456789abcdef0124", "Bearer 0123456789abcdef012", "Bearer", "Basic x"]
    {
        let answer = with(wrong);
        answer.refused(401, "E1404");
        assert!(answer.head.contains("www-authenticate: bearer"), "{}", answer.head);
    }
    for (method, path) in [
        ("GET", "/v1/models"),
        ("POST", "/v1/videos"),
        ("GET", "/v1/videos/x/content"),
        ("GET", "/v1/nothing"),
    ] {
        server.ask(method, path).refused(401, "E1404");
    }
    assert_eq!((server.ask("GET", "/").status, server.ask("GET", "/health").status), (200, 200));
    drop(server);
    let run = |words: &str| folder.run(&format!("serve --queue q2 {words}"));
    run("--listen 0.0.0.0:0").fails("E1403").says("--token-file");
    run("--listen [::]:0").fails("E1403");
    folder.write("short", "secret");
    run("--listen 127.0.0.1:0 --token-file short").fails("E1403").says("16 characters");
    run("--listen 127.0.0.1:0 --token-file none").fails("E1403").says("none");
    run("--listen localhost").fails("E1400").says("127.0.0.1:8787");
    let other = TcpListener::bind("127.0.0.1:0").unwrap();
    run(&format!("--listen {}", other.local_addr().unwrap())).fails("E1400").says("another port");
    run("--listen 127.0.0.1:0 --most-upload much").fails("E0602").says("--most-upload");
    run("--listen 127.0.0.1:0 --patience 0").fails("E0900").says("--patience");
    run("--listen 127.0.0.1:0 --most-size big").fails("E0901").says("--most-size");
    assert!(!folder.path("q2").exists());
    folder.write("notes/today.txt", "mine");
    folder.run("serve --listen 127.0.0.1:0 --queue notes").fails("E1402").says("other files");
    folder.run("serve --listen 127.0.0.1:0 --queue token").fails("E1014");
    assert_eq!(names(&folder, "notes"), ["today.txt"]);
}

#[test]
fn the_page_is_in_the_program_and_asks_nobody_else() {
    let folder = Folder::new();
    let server = Server::start(&folder, "");
    for (path, kind) in [("/", "text/html"), ("/page.css", "text/css"), ("/page.js", "text/javas")]
    {
        let answer = server.ask("GET", path);
        assert_eq!(answer.status, 200, "{path}");
        assert!(answer.head.contains(&format!("content-type: {kind}")), "{}", answer.head);
        assert!(answer.head.contains("default-src 'none'"), "{}", answer.head);
        let text = String::from_utf8(answer.body).unwrap();
        assert!(!text.contains("http://") && !text.contains("https://"), "{path}");
    }
    let hostile = "</p><img src=x onerror=alert(1)>";
    let id = server.small(hostile);
    server.wait_for(&id, "completed");
    let Some(browser) = browser() else {
        eprintln!("skipped: there is no Chromium to show the page in");
        return;
    };
    let output = std::process::Command::new(browser)
        .args(["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--dump-dom"])
        .args(["--virtual-time-budget=10000", "--enable-logging=stderr"])
        .arg(format!("--user-data-dir={}", folder.path("browser").display()))
        .arg(format!("http://{}/", server.address))
        .env("HOME", folder.path("."))
        .output()
        .expect("the browser starts");
    let dom = String::from_utf8_lossy(&output.stdout);
    let log = String::from_utf8_lossy(&output.stderr);
    assert!(
        dom.contains("model built-in") && dom.contains("&lt;img src=x onerror"),
        "{dom}\n{log}"
    );
    assert!(dom.contains(&format!("/v1/videos/{id}/content")), "{dom}\n{log}");
    assert!(dom.contains("48x48, 1 frame, 1 step"), "{dom}");
    assert!(!log.contains("Content Security Policy") && !log.contains("Uncaught"), "{log}");
}

/// A Chromium of this machine.
fn browser() -> Option<PathBuf> {
    let names = ["chromium", "chromium-browser", "google-chrome", "chrome"];
    let paths = std::env::var_os("PATH").unwrap_or_default();
    let paths: Vec<PathBuf> = std::env::split_paths(&paths).collect();
    let all = names.iter().flat_map(|name| paths.iter().map(move |path| path.join(name)));
    all.into_iter().find(|path| path.is_file())
}

#[test]
fn videos_are_made_behind_the_safeguards() {
    let folder = Folder::new();
    let server = Server::start(&folder, "");
    let blocked = [&SMALL[..], &[("prompt", "a nude woman")]].concat();
    let error = server.post(&blocked, &[]).refused(400, "E1101");
    assert_eq!(error["param"], "prompt");
    assert_eq!(server.list(), [] as [Value; 0]);
    let portrait = fs::read(repository().join("examples/characters/first/portrait.png")).unwrap();
    let asked = [&SMALL[..], &[("prompt", "she smiles")]].concat();
    let video = server.post(&asked, &[&portrait]).fine();
    let made = server.wait_for(video["id"].as_str().unwrap(), "completed");
    assert!(made["warnings"].to_string().contains("no consent record for reference 1"), "{made}");
    assert_eq!(server.stop(Signal::INT), 0);
    let recipe = format!("q/jobs/{}/video.mp4.recipe.json", made["id"].as_str().unwrap());
    let recipe: Value = serde_json::from_slice(&fs::read(folder.path(&recipe)).unwrap()).unwrap();
    assert_eq!(recipe["safeguards"]["text"], "allow", "{recipe}");
    #[cfg(feature = "provenance")]
    {
        let video = format!("q/jobs/{}/video.mp4", made["id"].as_str().unwrap());
        let verified = folder.run(&format!("verify {video} --fast --json")).fine().json();
        assert_eq!(verified["verdict"], "intact", "{verified}");
    }
    let shown = folder.run("audit show --json -n 100").fine().json().to_string();
    assert!(shown.contains("\"block\"") && shown.contains("\"generate\""), "{shown}");
    // Where consent is required, a reference without a record costs nothing but the request's time.
    let server = Server::start(&folder, "--consent require");
    let video = server.post(&asked, &[&portrait]).fine();
    let failed = server.wait_for(video["id"].as_str().unwrap(), "failed");
    assert_eq!(failed["error"]["code"], "E1105", "{failed}");
}
