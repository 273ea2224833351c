//! The server as browsers and attackers see it.

use crate::project::{Kind, Settings};
use crate::testing::{Browser, HIDDEN, Running, VIDEO, person, project};
use crate::{Project, Role, study};
use serde_json::json;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

fn annotation(matchups: usize, votes: u32) -> (tempfile::TempDir, Project) {
    let folder = tempfile::tempdir().unwrap();
    let settings = Settings { votes, checks: 0.0, ..Settings::of(Kind::Annotate) };
    let project = project(folder.path(), matchups, &settings, Kind::Annotate);
    (folder, project)
}

/// A project with one annotator and one overseer, served.
fn served(matchups: usize) -> (tempfile::TempDir, Running, Browser, Browser) {
    let (folder, project) = annotation(matchups, 1);
    let (_, anna) = person(&project, "anna", Role::Annotator);
    let (_, boss) = person(&project, "boss", Role::Admin);
    let running = Running::start(project, |_| {});
    let anna = Browser::entered(running.address, &anna);
    let boss = Browser::entered(running.address, &boss);
    (folder, running, anna, boss)
}

#[test]
fn people_are_sent_nothing_that_tells_where_a_video_is_from() {
    let (_folder, _running, mut anna, _) = served(6);
    for track in ["identity", "prompt"] {
        for step in 0..6 {
            let answer = anna.get(&format!("/api/next?track={track}"));
            let item = answer.json();
            let hidden =
                HIDDEN.iter().filter(|word| track == "identity" || **word != "secret prompt");
            let (body, head) = (answer.text(), answer.head.clone());
            for word in hidden.clone() {
                assert!(!body.contains(word) && !head.contains(word), "{word} in {body}");
            }
            assert_eq!(item["prompt"].is_null(), track == "identity");
            assert_eq!(item["preserve"].is_null(), track == "identity");
            // All clips of the person, or the primary alone.
            let references = if track == "identity" { 2 } else { 1 };
            assert_eq!(item["refs"].as_array().unwrap().len(), references);
            assert!(!body.contains("m_000") && !body.contains("sqlite") && !body.contains("/p"));
            for token in item["media"].as_array().unwrap() {
                let media = anna.get(&format!("/media/{}", token.as_str().unwrap()));
                assert_eq!((media.status, media.body.as_slice()), (200, VIDEO));
                assert_eq!(media.header("content-type").unwrap(), "video/mp4");
                for word in hidden.clone().chain(&["v.mp4"]) {
                    assert!(!media.head.contains(word), "{word} in {}", media.head);
                }
            }
            let done = anna.vote(&item, "left", &format!("nonce-{track}-{step}"));
            assert_eq!(done.status, 200, "{}", done.text());
        }
        assert_eq!(anna.next(track)["finished"], true);
    }
}

#[test]
fn media_come_whole_in_parts_and_from_nowhere_else() {
    let (folder, _running, mut anna, _) = served(2);
    let item = anna.next("identity");
    let path = format!("/media/{}", item["media"][0].as_str().unwrap());
    let whole = anna.get(&path);
    assert_eq!(whole.header("accept-ranges").unwrap(), "bytes");
    assert_eq!(whole.header("x-content-type-options").unwrap(), "nosniff");
    assert!(whole.header("cache-control").unwrap().contains("immutable"));
    let tag = whole.header("etag").unwrap();
    assert_eq!(anna.get_with(&path, &format!("if-none-match: {tag}\r\n")).status, 304);
    for (range, status, expected, said) in [
        ("bytes=0-", 206, VIDEO, "bytes 0-35/36"),
        ("bytes=10-13", 206, &VIDEO[10..14], "bytes 10-13/36"),
        ("bytes=-4", 206, &VIDEO[32..], "bytes 32-35/36"),
        ("bytes=36-", 416, &[][..], "bytes */36"),
    ] {
        let part = anna.get_with(&path, &format!("range: {range}\r\n"));
        assert_eq!((part.status, part.body.as_slice()), (status, expected), "{range}");
        assert_eq!(part.header("content-range").unwrap(), said);
    }
    let other = anna.get_with(&path, "range: bytes=0-3\r\nif-range: \"other\"\r\n");
    assert_eq!(other.status, 200);
    for path in [
        "/media/..%2fproject.sqlite",
        "/media/%2e%2e/project.sqlite",
        "/media/../project.sqlite",
        "/media//etc/passwd",
        "/media/%2fetc%2fpasswd",
        "/media/v.mp4",
        "/media/",
    ] {
        let answer = anna.get(path);
        assert_eq!((answer.status, answer.code().as_str()), (404, "E1612"), "{path}");
    }
    // Without a session there is nothing to see, whoever knows the token.
    let mut stranger = Browser::new(anna.address);
    let refused = stranger.get(&path);
    assert_eq!((refused.status, refused.code().as_str()), (401, "E1610"));
    let file = folder.path().join("project/media/v.mp4");
    std::fs::remove_file(&file).unwrap();
    let gone = anna.get(&path);
    assert_eq!((gone.status, gone.code().as_str()), (410, "E1617"));
    #[cfg(unix)]
    {
        std::os::unix::fs::symlink("/etc/hostname", &file).unwrap();
        let led_out = anna.get(&path);
        assert_eq!((led_out.status, led_out.code().as_str()), (410, "E1617"));
    }
    // What is missing can be skipped, and the next item comes.
    let skip = json!({ "assignment": item["id"], "reason": "broken" });
    assert_eq!(anna.post("/api/skip", &skip).status, 200);
    assert_ne!(anna.next("identity")["id"], item["id"]);
}

#[test]
fn only_the_page_of_somebody_who_was_let_in_changes_anything() {
    let (_folder, running, mut anna, _) = served(2);
    let item = anna.next("identity");
    let mut other = Browser::new(running.address);
    assert_eq!(other.get("/").status, 401);
    assert_eq!(other.get("/join/0123456789abcdef0123456789abcdef").status, 401);
    assert_eq!(other.get("/api/next?track=identity").code(), "E1610");
    other.cookies = "anyid_session=0123; anyid_csrf=0123".to_owned();
    other.csrf = "0123".to_owned();
    assert_eq!(other.vote(&item, "left", "nonce-0001").status, 403);
    let cookies = std::mem::take(&mut anna.cookies);
    let csrf = anna.csrf.clone();
    let body = json!({ "assignment": item["id"], "nonce": "nonce-0001",
                       "answers": { "identity": "left" } })
    .to_string();
    let address = running.address;
    let send = |host: &str, origin: &str, csrf: &str, kind: &str| {
        let head = format!(
            "POST /api/vote HTTP/1.1\r\nhost: {host}\r\n{origin}cookie: {cookies}\r\nx-csrf: \
             {csrf}\r\ncontent-type: {kind}\r\ncontent-length: {}",
            body.len()
        );
        let answer = Browser::new(address).send(&head, body.as_bytes());
        (answer.status, answer.code())
    };
    let own = address.to_string();
    let from = format!("origin: http://{own}\r\n");
    let json = "application/json";
    let refused = |status, code: &str| (status, code.to_owned());
    assert_eq!(send("evil.example", &from, &csrf, json), refused(421, "E1611"));
    assert_eq!(send(&own, "origin: http://evil.example\r\n", &csrf, json), refused(403, "E1611"));
    assert_eq!(send(&own, "origin: null\r\n", &csrf, json), refused(403, "E1611"));
    assert_eq!(send(&own, "", &csrf, json), refused(403, "E1611"));
    assert_eq!(send(&own, &from, "forged", json), refused(403, "E1611"));
    assert_eq!(send(&own, &from, "", json), refused(403, "E1611"));
    assert_eq!(send(&own, &from, &csrf, "text/plain"), refused(400, "E1612"));
    assert_eq!(send(&own, &from, &csrf, json), (200, String::new()));
    // The same once more is the same vote.
    assert_eq!(send(&own, &from, &csrf, json), (200, String::new()));
    anna.cookies = cookies.clone();
    let replayed = anna.vote(&item, "right", "nonce-0002");
    assert_eq!((replayed.status, replayed.code().as_str()), (409, "E1615"));
    assert_eq!(anna.next("identity")["progress"]["done"], 1);
}

#[test]
fn cookies_and_pages_have_what_keeps_browsers_safe() {
    let (_folder, project) = annotation(1, 1);
    let (_, token) = person(&project, "anna", Role::Annotator);
    let running = Running::start(project, |options| options.secure = true);
    let mut browser = Browser::new(running.address);
    let answer = browser.get(&format!("/join/{token}"));
    let cookies: Vec<&str> =
        answer.head.lines().filter_map(|line| line.strip_prefix("set-cookie: ")).collect();
    assert_eq!(cookies.len(), 2);
    for cookie in &cookies {
        assert!(cookie.contains("SameSite=Strict") && cookie.contains("Secure"), "{cookie}");
    }
    assert!(cookies[0].contains("HttpOnly") && !cookies[1].contains("HttpOnly"));
    for path in
        ["/join/x", "/page.js", "/page.css", "/player.js", "/admin.js", "/en.json", "/healthz"]
    {
        let answer = browser.get(path);
        let policy = answer.header("content-security-policy").unwrap();
        assert!(policy.contains("default-src 'self'") && policy.contains("frame-ancestors 'none'"));
        assert!(!policy.contains("unsafe"));
        assert_eq!(answer.header("referrer-policy").unwrap(), "no-referrer");
        let text = answer.text();
        assert!(!text.contains("http://") && !text.contains("https://"), "{path} names a site");
    }
}

#[test]
fn requests_have_bounds_of_size_time_and_number() {
    let (_folder, project) = annotation(2, 1);
    let (_, token) = person(&project, "anna", Role::Annotator);
    let running = Running::start(project, |options| {
        options.silence = Duration::from_millis(300);
        options.connections = 3;
    });
    let mut anna = Browser::entered(running.address, &token);
    let item = anna.next("identity");
    let large = json!({ "assignment": item["id"], "nonce": "x".repeat(70_000), "answers": {} });
    let refused = anna.post("/api/vote", &large);
    assert_eq!((refused.status, refused.code().as_str()), (413, "E1613"));
    let mut anna = Browser::entered(running.address, &token);
    for (value, code) in [
        (json!({}), "E1612"),
        (json!([]), "E1612"),
        (json!({ "assignment": 1, "nonce": "nonce-1234", "answers": {} }), "E1612"),
        (json!({ "assignment": item["id"], "nonce": "x", "answers": {} }), "E1612"),
        (json!({ "assignment": item["id"], "nonce": "nonce-1234", "answers": {} }), "E1612"),
        (
            json!({ "assignment": item["id"], "nonce": "nonce-1234", "answers": { "identity": 1 } }),
            "E1612",
        ),
        (
            json!({ "assignment": item["id"], "nonce": "nonce-1234", "answers": { "identity": "undo" } }),
            "E1612",
        ),
        (
            json!({ "assignment": item["id"], "nonce": "nonce-1234",
                 "answers": { "identity": "left", "prompt": "left" } }),
            "E1612",
        ),
        (
            json!({ "assignment": "other", "nonce": "nonce-1234", "answers": { "identity": "left" } }),
            "E1615",
        ),
    ] {
        let answer = anna.post("/api/vote", &value);
        assert_eq!(answer.code(), code, "{value}");
    }
    let event = |kind: &str, data| json!({ "assignment": item["id"], "kind": kind, "data": data });
    assert_eq!(anna.post("/api/event", &event("zoom", json!({ "to": 2 }))).status, 200);
    assert_eq!(anna.post("/api/event", &event("spy", json!({}))).code(), "E1612");
    assert_eq!(anna.post("/api/event", &event("zoom", json!("x".repeat(2000)))).code(), "E1612");
    assert_eq!(anna.post("/api/undo", &json!({ "track": "study" })).code(), "E1612");
    assert_eq!(anna.get("/api/vote").status, 405);
    assert_eq!(anna.get("/nothing").status, 404);
    // One who sends nothing is left, and one too many is told so.
    let start = Instant::now();
    let mut silent = TcpStream::connect(running.address).unwrap();
    silent.write_all(b"GET / HTTP/1.1\r\nhost:").unwrap();
    let mut rest = Vec::new();
    let _ = silent.read_to_end(&mut rest);
    assert!(start.elapsed() < Duration::from_secs(10));
    std::thread::sleep(Duration::from_millis(400));
    let _held: Vec<TcpStream> =
        (0..3).map(|_| TcpStream::connect(running.address).unwrap()).collect();
    std::thread::sleep(Duration::from_millis(100));
    let mut late = Browser::new(running.address);
    let turned = late.read().unwrap();
    assert_eq!((turned.status, turned.code().as_str()), (503, "E1614"));
}

#[test]
fn who_asks_too_often_is_told_to_wait() {
    let (_folder, _running, mut anna, mut boss) = served(1);
    let codes: Vec<u16> = (0..600).map(|_| anna.get("/healthz").status).collect();
    assert!(codes[..90].iter().all(|status| *status == 200));
    assert!(codes.contains(&429));
    assert_eq!(boss.get("/healthz").status, 200, "others are not held up");
}

#[test]
fn overseers_see_everything_and_answer_nothing() {
    let (folder, _running, mut anna, mut boss) = served(2);
    for path in ["/api/admin/overview", "/api/admin/contested", "/api/admin/matchup?name=m_00000"] {
        let refused = anna.get(path);
        assert_eq!((refused.status, refused.code().as_str()), (403, "E1618"), "{path}");
        assert_eq!(boss.get(path).status, 200, "{path}");
    }
    assert_eq!(anna.get("/admin").status, 403);
    assert_eq!(boss.get("/i/m_00000").status, 200);
    assert_eq!(boss.get("/api/admin/matchup?name=%6d_00000").json()["prompt"], "secret prompt");
    assert_eq!(boss.get("/api/admin/matchup?name=none").code(), "E1612");
    for path in ["void", "restore", "pause", "export"] {
        let refused = anna.post(&format!("/api/admin/{path}"), &json!({ "label": "anna" }));
        assert_eq!(refused.code(), "E1618", "{path}");
    }
    assert_eq!(boss.get("/api/next?track=identity").code(), "E1618");
    for track in ["identity", "prompt"] {
        for step in 0..2 {
            let item = anna.next(track);
            // The video that is A, wherever it is shown.
            let a = boss.get("/api/admin/contested").status;
            assert_eq!(a, 200);
            anna.vote(&item, "tie", &format!("nonce-{track}-{step}"));
        }
    }
    assert_eq!(boss.post("/api/admin/export", &json!({ "form": "dpo" })).code(), "E1606");
    let export = boss.post("/api/admin/export", &json!({ "form": "csv" })).json();
    assert_eq!(export["lines"], 4);
    assert!(folder.path().join("project/votes.csv").exists());
    assert_eq!(boss.post("/api/admin/export", &json!({ "form": "../x" })).code(), "E1612");
    assert_eq!(boss.post("/api/admin/void", &json!({ "label": "anna" })).status, 200);
    assert_eq!(boss.get("/api/admin/overview").json()["people"][0]["void"], true);
    assert_eq!(boss.post("/api/admin/void", &json!({ "label": "nobody" })).code(), "E1609");
    boss.post("/api/admin/restore", &json!({ "label": "anna" }));
    boss.post("/api/admin/pause", &json!({ "paused": true }));
    let paused = anna.get("/api/next?track=identity");
    assert_eq!((paused.status, paused.code().as_str()), (409, "E1616"));
    boss.post("/api/admin/pause", &json!({ "paused": false }));
    assert_eq!(anna.next("identity")["finished"], true);
}

#[test]
fn a_study_asks_for_consent_first_and_deletes_at_a_word() {
    let folder = tempfile::tempdir().unwrap();
    let project = project(folder.path(), 4, &Settings::of(Kind::Study), Kind::Study);
    let invited = study::invite(&project, 2, 4).unwrap();
    let running = Running::start(project, |_| {});
    let mut who = Browser::entered(running.address, &invited[0].token);
    let me = who.get("/api/me").json();
    assert!(me["instructions"].as_str().unwrap().contains("Thank you for taking part"));
    assert_eq!((&me["consented"], &me["kind"]), (&json!(false), &json!("study")));
    assert_eq!(who.get("/api/next?track=study").code(), "E1616");
    assert_eq!(who.post("/api/consent", &json!({ "agree": [true, true] })).code(), "E1612");
    assert_eq!(who.post("/api/consent", &json!({ "agree": [true, true, false] })).code(), "E1612");
    assert_eq!(who.post("/api/consent", &json!({ "agree": [true, true, true] })).status, 200);
    let item = who.next("study");
    assert_eq!((&item["practice"], &item["tie"]), (&json!(true), &json!(false)));
    assert_eq!(who.vote(&item, "tie", "nonce-0001").code(), "E1612");
    assert_eq!(who.vote(&item, "left", "nonce-0002").status, 200);
    let item = who.next("study");
    assert_eq!(item["ahead"].as_array().unwrap().len(), 4);
    for word in ["ours", "system-x", "system-y", "IPT2V"] {
        assert!(!item.to_string().contains(word), "{word}");
    }
    assert_eq!(who.vote(&item, "left", "nonce-0003").status, 200);
    // The same link goes on where it was, in another browser too.
    let second = who.next("study");
    let mut elsewhere = Browser::entered(running.address, &invited[0].token);
    assert_eq!(elsewhere.next("study")["id"], second["id"]);
    assert_eq!(who.post("/api/withdraw", &json!({})).code(), "E1612");
    assert_eq!(who.post("/api/withdraw", &json!({ "confirm": true })).status, 200);
    assert_eq!(who.get("/api/next?track=study").status, 401);
    assert_eq!(elsewhere.get("/api/next?track=study").status, 401);
    assert_eq!(
        Browser::new(running.address).get(&format!("/join/{}", invited[0].token)).status,
        401
    );
}

#[test]
fn many_people_at_once_lose_and_double_nothing_over_a_restart() {
    const PEOPLE: usize = 8;
    let (folder, project) = annotation(24, 3);
    let tokens: Vec<String> =
        (0..PEOPLE).map(|at| person(&project, &format!("p{at}"), Role::Annotator).1).collect();
    // Half of the people stop in the middle, and everybody goes on with another server.
    let mut project = Some(project);
    for (round, most) in [(0, 5), (1, usize::MAX)] {
        let opened = project
            .take()
            .unwrap_or_else(|| Project::open(&folder.path().join("project")).unwrap());
        let running = Running::start(opened, |_| {});
        let address = running.address;
        let people: Vec<_> = tokens
            .iter()
            .cloned()
            .map(|token| {
                std::thread::spawn(move || {
                    let mut browser = Browser::entered(address, &token);
                    for (at, track) in ["identity", "prompt"].into_iter().enumerate() {
                        let mut step = 0;
                        while step < most {
                            let item = browser.next(track);
                            if item["finished"] == true {
                                break;
                            }
                            let choice = ["left", "right", "tie"][step % 3];
                            let nonce = format!("nonce-{round}-{at}-{step}");
                            let done = browser.vote(&item, choice, &nonce);
                            assert_eq!(done.status, 200, "{}", done.text());
                            // Every third answer is sent twice.
                            if step % 3 == 0 {
                                assert_eq!(
                                    browser.vote(&item, choice, &nonce).json()["again"],
                                    true
                                );
                            }
                            step += 1;
                        }
                    }
                })
            })
            .collect();
        people.into_iter().for_each(|one| one.join().unwrap());
    }
    // What somebody held ahead at the very end comes back; one more look of everybody finishes it.
    let project = Project::open(&folder.path().join("project")).unwrap();
    let database = project.database();
    let number = |sql: &str| database.query_row(sql, [], |row| row.get::<_, i64>(0)).unwrap();
    let votes = number("SELECT COUNT(*) FROM vote WHERE superseded_by IS NULL");
    assert_eq!(votes, number("SELECT COUNT(*) FROM assignment WHERE state = 'done'"));
    assert_eq!(number("SELECT COUNT(*) FROM vote"), votes, "a vote was doubled");
    assert_eq!(votes, 24 * 2 * 3, "a vote is missing");
    let uneven =
        "SELECT COUNT(*) FROM (SELECT SUM(swap) AS swapped, COUNT(*) AS all_of FROM assignment
                  GROUP BY annotator_id, track, order_no / 10) WHERE all_of = 10 AND swapped <> 5";
    assert_eq!(number(uneven), 0);
}
