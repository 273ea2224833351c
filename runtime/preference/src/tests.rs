//! Tests of a project as a whole, and of the statistics against an independent computation.

use crate::agreement::{cohen, fleiss, interval, krippendorff};
use crate::export::Form;
use crate::people::Role;
use crate::project::{Kind, Project, Settings, failed, now};
use crate::rates::{bradley_terry, holm, nested, sign_test, wilson};
use crate::testing::{person, project};
use crate::{Ballot, Person, Told, Track, answers, study};
use serde_json::{Value, json};
use std::collections::{BTreeMap, HashSet};

fn settings(votes: u32) -> Settings {
    Settings { votes, checks: 0.0, ..Settings::of(Kind::Annotate) }
}

fn ballot(item: &crate::Item, answer: &str, nonce: &str) -> Ballot {
    let question = item.track.name().to_owned();
    Ballot {
        item: item.token.clone(),
        nonce: nonce.to_owned(),
        answers: vec![(question, answer.to_owned())],
        timing: json!({ "ms": 8000 }),
    }
}

/// Answers the next item; its name, and whether there was one.
fn answer(project: &Project, who: &Person, track: Track, choice: &str) -> bool {
    let Some(item) = project.next(who, track).unwrap() else { return false };
    let nonce = format!("nonce-{}", item.token);
    assert_eq!(project.vote(who, &ballot(&item, choice, &nonce)).unwrap(), Told::Kept);
    true
}

fn count(project: &Project, sql: &str) -> i64 {
    project.database().query_row(sql, [], |row| row.get(0)).map_err(failed).unwrap()
}

#[test]
fn statistics_are_those_of_numpy_scipy_and_statsmodels() {
    let goldens: Value = serde_json::from_str(include_str!("goldens.json")).unwrap();
    let near = |value: f64, expected: &Value, tolerance: f64| {
        let expected = expected.as_f64().unwrap();
        let close = (value - expected).abs() <= tolerance * expected.abs().max(1e-300);
        assert!(close, "{value} against {expected}");
    };
    let units = |value: &Value| -> Vec<Vec<u8>> { serde_json::from_value(value.clone()).unwrap() };
    let agreement = &goldens["agreement"];
    let own = units(&agreement["units"]);
    near(krippendorff(&own).unwrap(), &agreement["alpha"], 1e-12);
    let found = interval(&own, 200, krippendorff).unwrap();
    near(found[0], &agreement["interval"][0], 1e-10);
    near(found[1], &agreement["interval"][1], 1e-10);
    let full = units(&agreement["full"]);
    near(fleiss(&full).unwrap(), &agreement["fleiss"], 1e-9);
    let pairs: Vec<(u8, u8)> = full.iter().map(|unit| (unit[0], unit[1])).collect();
    near(cohen(&pairs).unwrap(), &agreement["cohen"], 1e-9);
    let rates = &goldens["rates"];
    for case in rates["cases"].as_array().unwrap() {
        let (wins, decided) = (case["wins"].as_u64().unwrap(), case["decided"].as_u64().unwrap());
        let own = wilson(wins as f64, decided as f64);
        // The normal quantile has seven digits on our side.
        assert!((own[0] - case["wilson"][0].as_f64().unwrap()).abs() < 1e-7);
        assert!((own[1] - case["wilson"][1].as_f64().unwrap()).abs() < 1e-7);
        near(sign_test(wins, decided), &case["sign"], 1e-9);
    }
    let values: Vec<f64> = serde_json::from_value(rates["p"].clone()).unwrap();
    for (own, expected) in holm(&values).into_iter().zip(rates["holm"].as_array().unwrap()) {
        near(own, expected, 1e-12);
    }
    let people: Vec<Vec<f64>> = serde_json::from_value(rates["people"].clone()).unwrap();
    let found = nested(&people, 300, "golden").unwrap();
    near(found[0], &rates["nested"][0], 1e-12);
    near(found[1], &rates["nested"][1], 1e-12);
    let wins: Vec<Vec<f64>> = serde_json::from_value(goldens["strengths"]["wins"].clone()).unwrap();
    let expected = goldens["strengths"]["strengths"].as_array().unwrap();
    for (own, expected) in bradley_terry(&wins).unwrap().into_iter().zip(expected) {
        // The optimiser of the other side stops earlier.
        near(own, expected, 1e-6);
    }
}

#[test]
fn every_matchup_gets_its_votes_and_no_more_and_the_tracks_go_to_different_people() {
    let folder = tempfile::tempdir().unwrap();
    let project = project(folder.path(), 12, &settings(2), Kind::Annotate);
    let people: Vec<Person> =
        (0..5).map(|at| person(&project, &format!("p{at}"), Role::Annotator).0).collect();
    let mut active = true;
    while active {
        active = false;
        for who in &people {
            for track in Track::ANNOTATION {
                active |= answer(&project, who, track, "left");
            }
        }
    }
    let all = answers::all(&project).unwrap();
    let mut seen: BTreeMap<(i64, &str), HashSet<i64>> = BTreeMap::new();
    for answer in &all {
        let own = seen.entry((answer.matchup, answer.track.name())).or_default();
        assert!(own.insert(answer.annotator), "somebody was asked twice");
    }
    assert_eq!(seen.len(), 24);
    assert!(seen.values().all(|people| people.len() == 2), "{seen:?}");
    for matchup in seen.keys().map(|(matchup, _)| *matchup) {
        let both = seen[&(matchup, "identity")].intersection(&seen[&(matchup, "prompt")]).count();
        assert_eq!(both, 0, "five people are enough for four votes of different ones");
    }
}

#[test]
fn with_few_people_both_tracks_of_a_matchup_are_far_apart() {
    let folder = tempfile::tempdir().unwrap();
    let settings = Settings { apart: 4, ..settings(1) };
    let project = project(folder.path(), 10, &settings, Kind::Annotate);
    let (who, _) = person(&project, "only", Role::Annotator);
    let mut order = Vec::new();
    for step in 0..20 {
        let track = Track::ANNOTATION[step / 3 % 2];
        if let Some(item) = project.next(&who, track).unwrap() {
            project.vote(&who, &ballot(&item, "left", &format!("nonce-{step:04}"))).unwrap();
            let last = answers::all(&project).unwrap().pop().unwrap();
            order.push((last.matchup, last.track));
        }
    }
    assert!(order.len() >= 16, "{order:?}");
    for (at, (matchup, track)) in order.iter().enumerate() {
        let others = order[at + 1..].iter().position(|(m, t)| m == matchup && t != track);
        // Of the items between, the two that were lent ahead may be others.
        assert!(others.is_none_or(|gap| gap + 3 >= 4), "{order:?}");
    }
}

#[test]
fn five_of_ten_items_are_swapped_and_the_winner_is_the_video_that_was_there() {
    let folder = tempfile::tempdir().unwrap();
    let project = project(folder.path(), 60, &settings(1), Kind::Annotate);
    let (who, _) = person(&project, "anna", Role::Annotator);
    for step in 0..60 {
        let item = project.next(&who, Track::Identity).unwrap().unwrap();
        let (a, b): (String, String) = project
            .database()
            .query_row(
                "SELECT a.public_token, b.public_token FROM assignment s JOIN matchup m ON
                 m.id = s.matchup_id JOIN asset a ON a.id = m.asset_a JOIN asset b ON
                 b.id = m.asset_b WHERE s.token = ?",
                [&item.token],
                |row| Ok((row.get(0)?, row.get(1)?)),
            )
            .unwrap();
        let payload = project.payload(&item).unwrap();
        let choice = ["left", "right"][step % 2];
        project.vote(&who, &ballot(&item, choice, &format!("nonce-{step:04}"))).unwrap();
        let shown = &payload["media"][step % 2];
        let expected = if *shown == a { "a" } else { "b" };
        assert!(*shown == a || *shown == b);
        assert_eq!(answers::all(&project).unwrap().pop().unwrap().winner, expected);
    }
    for block in 0..6 {
        let (first, last) = (10 * block, 10 * block + 9);
        let sql =
            format!("SELECT SUM(swap) FROM assignment WHERE order_no BETWEEN {first} AND {last}");
        assert_eq!(count(&project, &sql), 5, "block {block}");
    }
}

#[test]
fn what_is_sent_again_counts_once_and_what_is_taken_back_stays_on_record() {
    let folder = tempfile::tempdir().unwrap();
    let project = project(folder.path(), 5, &settings(1), Kind::Annotate);
    let (who, _) = person(&project, "anna", Role::Annotator);
    let first = project.next(&who, Track::Prompt).unwrap().unwrap();
    let vote = ballot(&first, "left", "nonce-one");
    assert_eq!(project.vote(&who, &vote).unwrap(), Told::Kept);
    // The answer was lost on its way, and the page sends once more.
    assert_eq!(project.vote(&who, &vote).unwrap(), Told::Again);
    let other = project.vote(&who, &ballot(&first, "right", "nonce-two")).unwrap_err();
    assert_eq!(other.code(), "E1615");
    let second = project.next(&who, Track::Prompt).unwrap().unwrap();
    assert_ne!(second.token, first.token);
    project.vote(&who, &ballot(&second, "left", "nonce-3333")).unwrap();
    for expected in [&second, &first] {
        assert!(project.undo(&who, Track::Prompt).unwrap());
        let again = project.next(&who, Track::Prompt).unwrap().unwrap();
        assert_eq!((&again.token, again.swap), (&expected.token, expected.swap));
        assert_eq!(project.payload(&again).unwrap()["answered"]["prompt"], "left");
    }
    assert!(!project.undo(&who, Track::Prompt).unwrap());
    assert!(answers::all(&project).unwrap().is_empty());
    // The same attempt as at first would be an answer that was taken back.
    assert_eq!(project.vote(&who, &vote).unwrap(), Told::Again);
    let open = project.next(&who, Track::Prompt).unwrap().unwrap();
    assert_eq!(open.token, first.token);
    project.vote(&who, &ballot(&open, "right", "nonce-4444")).unwrap();
    let now = answers::all(&project).unwrap();
    assert_eq!((now.len(), now[0].choice.as_str()), (1, "right"));
    // Two votes, two that took them back, and the new one.
    assert_eq!(count(&project, "SELECT COUNT(*) FROM vote"), 5);
    assert_eq!(count(&project, "SELECT COUNT(*) FROM vote WHERE superseded_by IS NULL"), 2);
}

#[test]
fn an_item_that_is_not_answered_in_time_goes_to_others() {
    let folder = tempfile::tempdir().unwrap();
    let project = project(folder.path(), 1, &settings(1), Kind::Annotate);
    let (slow, _) = person(&project, "slow", Role::Annotator);
    let (quick, _) = person(&project, "quick", Role::Annotator);
    let start = now();
    let lent = project.next_at(&slow, Track::Identity, start).unwrap().unwrap();
    assert!(project.next_at(&quick, Track::Identity, start + 899_000).unwrap().is_none());
    let later = start + 901_000;
    let taken = project.next_at(&quick, Track::Identity, later).unwrap().unwrap();
    let late = project.vote(&slow, &ballot(&lent, "left", "nonce-slow")).unwrap_err();
    assert_eq!((late.code(), count(&project, "SELECT COUNT(*) FROM vote")), ("E1615", 0));
    // Back in the list, its first holder can answer as before.
    project.skip(&quick, &taken.token, "other").unwrap();
    project.skip(&quick, &taken.token, "other").unwrap();
    project.vote(&slow, &ballot(&lent, "left", "nonce-late")).unwrap();
    assert_eq!(count(&project, "SELECT COUNT(*) FROM vote"), 1);
    let unknown = project.skip(&slow, "nothing", "other").unwrap_err();
    assert_eq!(unknown.code(), "E1615");
    assert_eq!(project.skip(&slow, &lent.token, "why").unwrap_err().code(), "E1612");
}

#[test]
fn hidden_checks_come_at_their_share_and_repeat_what_was_long_ago_the_other_way_round() {
    let folder = tempfile::tempdir().unwrap();
    let settings = Settings { checks: 0.3, ..settings(1) };
    let project = project(folder.path(), 80, &settings, Kind::Annotate);
    let (who, _) = person(&project, "anna", Role::Annotator);
    while answer(&project, &who, Track::Identity, "left") {}
    let all = answers::all(&project).unwrap();
    let repeated: Vec<_> = all.iter().filter(|a| a.check.as_deref() == Some("repeat")).collect();
    // About 34 are expected, with a standard deviation of five.
    assert!((10..=62).contains(&repeated.len()), "{}", repeated.len());
    for again in repeated {
        let first = all.iter().find(|a| Some(a.matchup) == again.repeat_of).unwrap();
        assert!(again.order >= first.order + 20 && again.swap != first.swap);
    }
    assert_eq!(all.iter().filter(|a| a.check.is_none()).count(), 80);
    let report = &crate::quality::reports(&project).unwrap()[0];
    // Whoever always answers left contradicts themselves where sides are exchanged.
    assert_eq!(report.repeats[0], 0);
    assert!(report.flags.iter().any(|flag| flag.contains("chose the left video in")));
}

#[test]
fn pairs_are_those_that_win_on_both_tracks_and_a_locked_file_is_watched() {
    let folder = tempfile::tempdir().unwrap();
    let project = project(folder.path(), 4, &settings(1), Kind::Annotate);
    let path = project.folder().join("pairs.jsonl");
    assert_eq!(project.export(Form::Dpo, &path, true).unwrap_err().code(), "E1606");
    let table = folder.path().join("votes.csv");
    let rows = [
        ("m_00000", "identity", "a"),
        ("m_00000", "prompt", "a"),
        ("m_00001", "identity", "b"),
        ("m_00001", "prompt", "b"),
        ("m_00002", "identity", "a"),
        ("m_00002", "prompt", "b"),
        ("m_00003", "identity", "tie"),
        ("m_00003", "prompt", "a"),
    ];
    let mut text = "matchup,track,annotator,winner\n".to_owned();
    for (name, track, winner) in rows {
        text.push_str(&format!("{name},{track},{track} judge,{winner}\n"));
    }
    for (bad, what) in [
        ("m_00009,identity,x,a\n", "no matchup"),
        ("m_00001,study,x,a\n", "track"),
        ("m_00001,identity,x,left\n", "winner"),
        ("m_00000,identity,identity judge,b\n", "already"),
    ] {
        std::fs::write(&table, format!("{text}{bad}")).unwrap();
        let refused = project.import_votes(&table).unwrap_err();
        assert!(refused.code() == "E1607" && refused.message().contains(what), "{refused}");
        assert_eq!(count(&project, "SELECT COUNT(*) FROM vote"), 0, "all rows or none");
    }
    std::fs::write(&table, &text).unwrap();
    assert_eq!(project.import_votes(&table).unwrap(), 8);
    let status = project.status().unwrap();
    assert_eq!((status.valid, status.complete, status.decided), (2, 4, [3, 4]));
    assert_eq!((status.table, status.projected), ([[1, 1], [0, 1]], Some(2000)));
    let written = project.export(Form::Dpo, &path, true).unwrap();
    assert_eq!(written.lines, 2);
    let text = std::fs::read_to_string(&path).unwrap();
    let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert!(lines[0]["chosen"].is_null() && lines[0]["counts"]["valid"] == 2);
    assert_eq!(lines[1]["chosen"]["video"], "original-a.mp4");
    assert_eq!(lines[2]["chosen"]["video"], "original-b.mp4");
    assert_eq!(
        (&lines[2]["chosen"]["seed"], &lines[2]["rejected"]["seed"]),
        (&json!(4712), &json!(4711))
    );
    assert_eq!(lines[1]["votes"]["identity"], json!({ "a": 1, "b": 0, "tie": 0 }));
    assert_eq!((&lines[1]["annotators"], &lines[1]["rule"]), (&json!(2), &json!("majority2/3")));
    assert!(project.changed_exports().unwrap().is_empty());
    std::fs::write(&path, text.replace("original-a", "original-c")).unwrap();
    assert_eq!(project.changed_exports().unwrap().len(), 1);
    assert_eq!(project.export(Form::Dpo, &path, true).unwrap_err().code(), "E1606");
    // Voiding a person recomputes everything.
    project.set_void("identity judge", true).unwrap();
    assert_eq!(project.status().unwrap().valid, 0);
    project.set_void("identity judge", false).unwrap();
    assert_eq!(project.status().unwrap().valid, 2);
    assert_eq!(project.set_void("nobody", true).unwrap_err().code(), "E1609");
}

#[test]
fn other_forms_have_the_columns_of_their_tools() {
    let folder = tempfile::tempdir().unwrap();
    let project = project(folder.path(), 2, &settings(1), Kind::Annotate);
    let (who, _) = person(&project, "anna", Role::Annotator);
    answer(&project, &who, Track::Identity, "left");
    let export = |form, name: &str| {
        let path = folder.path().join(name);
        project.export(form, &path, false).unwrap();
        std::fs::read_to_string(path).unwrap()
    };
    let own = answers::all(&project).unwrap().pop().unwrap();
    let align = export(Form::VideoAlign, "align.csv");
    let mut lines = align.lines();
    assert_eq!(
        lines.next().unwrap(),
        "path_A,path_B,prompt,VQ,MQ,TA,fps_A,num_frames_A,fps_B,num_frames_B,ID"
    );
    let side = own.winner.to_uppercase();
    assert_eq!(
        lines.next().unwrap(),
        format!("original-a.mp4,original-b.mp4,secret prompt,,,,24,48,24,48,{side}")
    );
    let studio: Value = serde_json::from_str(&export(Form::LabelStudio, "ls.json")).unwrap();
    let result = &studio[0]["annotations"][0]["result"][0];
    assert_eq!(result["type"], "pairwise");
    assert_eq!(result["value"]["selected"], if own.winner == "a" { "left" } else { "right" });
    let line: Value = serde_json::from_str(&export(Form::Jsonl, "v.jsonl")).unwrap();
    assert_eq!((&line["annotator"], &line["winner"]), (&json!("p001"), &json!(own.winner)));
    assert_eq!(line["minute"].as_i64().unwrap() % 60, 0);
    // What is written as a table comes in again elsewhere.
    let csv = folder.path().join("votes.csv");
    project.export(Form::Csv, &csv, false).unwrap();
    let other = tempfile::tempdir().unwrap();
    let copy = crate::testing::project(other.path(), 2, &settings(1), Kind::Annotate);
    assert_eq!(copy.import_votes(&csv).unwrap(), 1);
    assert_eq!(answers::all(&copy).unwrap()[0].winner, own.winner);
}

#[test]
fn a_study_counts_each_participant_and_forgets_those_who_withdraw() {
    let folder = tempfile::tempdir().unwrap();
    let project = project(folder.path(), 40, &Settings::of(Kind::Study), Kind::Study);
    assert_eq!(study::report(&project, 100).unwrap_err().code(), "E1606");
    let invited = study::invite(&project, 6, 24).unwrap();
    let mut codes = Vec::new();
    for (at, one) in invited.iter().enumerate() {
        let session = project.enter(&one.token).unwrap().unwrap();
        let who = project.person(&session).unwrap().unwrap();
        project.consent(&who).unwrap();
        codes.push(project.withdrawal_code(&one.label));
        let (mut items, mut practice) = (0, 0);
        while let Some(item) = project.next(&who, Track::Study).unwrap() {
            let payload = project.payload(&item).unwrap();
            let keeps = !payload["preserve"].as_array().unwrap().is_empty();
            let questions: Vec<&str> = payload["questions"]
                .as_array()
                .unwrap()
                .iter()
                .map(|q| q.as_str().unwrap())
                .collect();
            assert_eq!(questions.contains(&"element"), keeps);
            practice += i32::from(item.practice);
            assert_eq!(item.practice, items == 0, "practice comes first");
            // Ours wins for the first four people, the other one for the others.
            let ours = if item.swap { "right" } else { "left" };
            let other = if item.swap { "left" } else { "right" };
            let choice = if at < 4 { ours } else { other };
            let vote = Ballot {
                item: item.token.clone(),
                nonce: format!("nonce-{}", item.token),
                answers: questions.iter().map(|q| ((*q).to_owned(), choice.to_owned())).collect(),
                timing: json!({}),
            };
            project.vote(&who, &vote).unwrap();
            items += 1;
        }
        // 24, one for practice and one repeated.
        assert_eq!((items, practice), (26, 1));
    }
    let result = study::report(&project, 500).unwrap();
    let pooled = |result: &study::Outcome, question: &str| {
        let found = result.rows.iter().find(|r| r.question == question && r.other.is_none());
        found.unwrap().clone()
    };
    let identity = pooled(&result, "identity");
    assert_eq!((identity.wins, identity.losses, identity.ties), (96, 48, 0));
    assert_eq!(result.people, 6);
    assert!((identity.rate - 2.0 / 3.0).abs() < 1e-12);
    // Everybody answers alike, so that six people are six answers.
    assert!(identity.nested[0] < 0.4 && identity.wilson[0] > 0.58, "{identity:?}");
    assert_eq!(pooled(&result, "element").wins + pooled(&result, "element").losses, 72);
    assert!(result.rows.iter().filter(|r| r.other.is_some()).all(|r| r.holm.is_some()));
    for part in ["| Identity fidelity | system-x |", "| 66.7 |", "Bradley and Terry"] {
        assert!(result.markdown().contains(part), "{part}\n{}", result.markdown());
    }
    assert_eq!(result.csv().lines().count(), 1 + result.rows.len());
    assert_eq!(result.svg().matches("<rect x=\"230\"").count(), 1 + result.rows.len());
    let before = count(&project, "SELECT COUNT(*) FROM vote");
    assert_eq!(project.withdraw("AAAA-BBBB-CCCC").unwrap_err().code(), "E1609");
    project.withdraw(&codes[5].to_lowercase()).unwrap();
    let left = count(&project, "SELECT COUNT(*) FROM vote");
    assert!(left < before);
    for table in ["vote", "event", "assignment"] {
        let orphans = match table {
            "vote" => "assignment_id NOT IN (SELECT id FROM assignment)",
            _ => "annotator_id NOT IN (SELECT id FROM annotator)",
        };
        let sql = format!("SELECT COUNT(*) FROM {table} WHERE {orphans}");
        assert_eq!(count(&project, &sql), 0, "{table}");
    }
    assert_eq!(count(&project, "SELECT COUNT(*) FROM annotator"), 5);
    let result = study::report(&project, 100).unwrap();
    assert_eq!((result.people, result.withdrawn), (5, 1));
    assert_eq!(pooled(&result, "identity").losses, 24);
    // Not a trace of the pseudonym in the files.
    let bytes = std::fs::read(project.folder().join("project.sqlite")).unwrap();
    let label = invited[5].label.as_bytes();
    assert!(!bytes.windows(label.len()).any(|window| window == label));
}

#[test]
fn a_copy_is_whole_and_a_project_is_opened_with_care() {
    let folder = tempfile::tempdir().unwrap();
    let project = project(folder.path(), 3, &settings(1), Kind::Annotate);
    let (who, _) = person(&project, "anna", Role::Annotator);
    answer(&project, &who, Track::Identity, "left");
    let copy = folder.path().join("copy");
    std::fs::create_dir(&copy).unwrap();
    project.backup(&copy.join("project.sqlite")).unwrap();
    assert_eq!(project.backup(&copy.join("project.sqlite")).unwrap_err().code(), "E1600");
    let opened = Project::open(&copy).unwrap();
    assert_eq!(answers::all(&opened).unwrap().len(), 1);
    assert_eq!(Project::open_as(&copy, Kind::Study).err().unwrap().code(), "E1600");
    assert_eq!(Project::open(folder.path()).err().unwrap().code(), "E1600");
    let again = Project::create(&copy, Kind::Annotate, &settings(1));
    assert_eq!(again.err().unwrap().code(), "E1600");
    for label in ["", "anna", "a/b", &"x".repeat(41)] {
        let refused = project.invite(label, Role::Annotator).unwrap_err();
        assert_eq!(refused.code(), "E1609", "{label}");
    }
    let token = project.renew("anna").unwrap();
    assert!(project.enter(&token).unwrap().is_some());
    project.revoke("anna").unwrap();
    assert!(project.enter(&token).unwrap().is_none());
    // A database that another program has locked is said to be so, and nothing is lost.
    let other = rusqlite::Connection::open(project.folder().join("project.sqlite")).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    project.database().busy_timeout(std::time::Duration::from_millis(20)).unwrap();
    let busy = project.pause(true).unwrap_err();
    assert!(busy.code() == "E1603" && busy.message().contains("in use"), "{busy}");
    other.execute_batch("ROLLBACK").unwrap();
    project.pause(true).unwrap();
    // A disk that is full: SQLite is told that it may have no more pages.
    project.database().pragma_update(None, "max_page_count", 1).unwrap();
    let many = project.change(|work| {
        for _ in 0..100_000 {
            crate::project::log(work, None, None, "flag", &json!("x".repeat(500)))?;
        }
        Ok(())
    });
    let full = many.unwrap_err();
    assert!(full.code() == "E1603" && full.message().contains("disk is full"), "{full}");
    assert_eq!(answers::all(&project).unwrap().len(), 1);
    std::fs::write(copy.join("project.sqlite"), b"no database at all, but long enough").unwrap();
    assert_eq!(Project::open(&copy).err().unwrap().code(), "E1603");
}
