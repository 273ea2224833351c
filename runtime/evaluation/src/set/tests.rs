//! Sets of drawn pictures, and what is found of them.

use super::*;
use crate::raw::schema;
use crate::testing::{NOBODY, measure, picture, video};
use anyid_files::checkpoint::hash_file;
use anyid_guard::consent::{Issuer, Picture, REVOKED, revocation};
use anyid_guard::signature::SecretKey;
use serde_json::json;
use std::fs;

const RED: [u8; 3] = [192, 128, 128];
const GREEN: [u8; 3] = [128, 192, 128];
const TODAY: &str = "2026-12-01";

fn made(people: &[(&str, [u8; 3])]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let about = json!({"schema": schema::SET, "name": "drawn", "people": people.len()});
    fs::write(folder.path().join(SET), about.to_string()).unwrap();
    for (id, color) in people {
        let own = folder.path().join(id);
        for at in 1..=4 {
            // Each a file of its own, by a shade.
            picture(&own.join(format!("p{at}.png")), color.map(|value| value - at));
        }
        video(&own.join("clip.mp4"), &[*color; 3]);
        let about = json!({"id": id, "gender": "f", "primary": "p2.png", "notes": ""});
        fs::write(own.join(PERSON), about.to_string()).unwrap();
    }
    folder
}

fn found(folder: &Path, gates: &Gates, rights: bool) -> Report {
    let set = Set::open(folder).unwrap();
    check(&set, Some(&measure(4)), gates, TODAY, rights, &mut |_| {}).unwrap()
}

fn codes(report: &Report) -> Vec<&'static str> {
    report.findings.iter().map(|finding| finding.code).collect()
}

/// Limits that small plain pictures keep.
fn loose() -> Gates {
    Gates { side: 16.0, blur: 0.0, yaw: 0.0, cosine: 0.35, seconds: [0.05, 1.0], fps: 24.0 }
}

#[test]
fn sets_are_read_with_the_primary_reference_first_and_clips_last() {
    let folder = made(&[("002", RED), ("001", GREEN)]);
    let set = Set::open(folder.path()).unwrap();
    let ids: Vec<&str> = set.people.iter().map(|person| person.id.as_str()).collect();
    assert_eq!(ids, ["001", "002"]);
    let own = &set.people[0];
    let files = ["p2.png", "p1.png", "p3.png", "p4.png", "clip.mp4"].map(|f| format!("001/{f}"));
    assert_eq!((own.references.as_slice(), own.pictures), (&files[..], 4));
    assert_eq!((own.gender, own.consent.as_str()), (Gender::Female, "001/consent.json"));
}

#[test]
fn faults_of_sets_are_said_with_their_files() {
    let folder = made(&[("001", RED)]);
    let path = folder.path();
    let refused = |part: &str| {
        let fault = Set::open(path).unwrap_err();
        assert_eq!(fault.code(), "E1701");
        assert!(fault.message().contains(part), "{fault}");
    };
    let about = |value: Value| fs::write(path.join(SET), value.to_string()).unwrap();
    about(json!({"schema": "anyid.case/1", "name": "x"}));
    refused("no evaluation set");
    about(json!({"schema": schema::SET, "name": "x", "people": 3}));
    refused("the set says 3, and there are 1");
    about(json!({"schema": schema::SET, "name": "x"}));
    let person =
        |value: Value| fs::write(path.join("001").join(PERSON), value.to_string()).unwrap();
    person(json!({"id": "002", "gender": "f"}));
    refused("not that of its folder");
    person(json!({"id": "001", "gender": "x"}));
    refused("unknown variant `x`");
    person(json!({"id": "001", "gender": "f", "primary": "p9.png"}));
    refused("\"p9.png\" is not there");
    fs::remove_file(path.join("001").join(PERSON)).unwrap();
    refused("no person");
    fs::remove_file(path.join(SET)).unwrap();
    assert_eq!(Set::open(path).unwrap_err().code(), "E0911");
}

#[test]
fn references_are_looked_at_one_by_one_and_together() {
    let folder = made(&[("001", RED)]);
    let fine = found(folder.path(), &loose(), true);
    assert_eq!(codes(&fine), Vec::<&str>::new());
    assert!(fine.verdict().is_ok());
    let look = &fine.people[0];
    assert!(look.references[0].as_ref().unwrap().side >= 31.0);
    assert!(look.least_cosine.is_some_and(|cosine| cosine > 0.99), "{:?}", look.least_cosine);

    // The paper's limits: small faces without any texture, one view, a clip of an eighth of a second.
    let strict = codes(&found(folder.path(), &Gates::default(), true));
    for code in ["S013", "S014", "S020", "S030"] {
        assert!(strict.contains(&code), "{code}: {strict:?}");
    }
    picture(&folder.path().join("001/p3.png"), GREEN);
    picture(&folder.path().join("001/p4.png"), NOBODY);
    fs::copy(folder.path().join("001/p1.png"), folder.path().join("001/p5.png")).unwrap();
    fs::write(folder.path().join("001/p6.png"), b"broken").unwrap();
    let report = found(folder.path(), &loose(), true);
    let all = codes(&report);
    // Another person, nobody, a file twice, one that cannot be read, and more than the paper has.
    for code in ["S022", "S010", "S021", "E0804", "S001"] {
        assert!(all.contains(&code), "{code}: {all:?}");
    }
    assert_eq!(report.findings.last().unwrap().code, "S001");
    assert_eq!(report.verdict().unwrap_err().code(), "E1701");
}

#[test]
fn without_models_nothing_is_said_of_faces() {
    let folder = made(&[("001", RED)]);
    let set = Set::open(folder.path()).unwrap();
    let report = check(&set, None, &loose(), TODAY, true, &mut |_| {}).unwrap();
    assert_eq!(codes(&report), Vec::<&str>::new());
    assert!(report.not_looked_at.iter().any(|what| what.starts_with("faces")));
}

#[test]
fn consent_has_to_name_all_references_for_evaluation() {
    let folder = made(&[("001", RED)]);
    let gap = || {
        let report = found(folder.path(), &loose(), false);
        let finding = report.findings.iter().find(|finding| finding.code == "S040");
        finding.map(|finding| finding.message.clone())
    };
    assert!(gap().unwrap().contains("no consent record"));
    let set = Set::open(folder.path()).unwrap();
    let pictures = |files: &[String]| -> Vec<Picture> {
        let one = |file: &String| Picture::File {
            sha256: hash_file(folder.path().join(file)).unwrap(),
            role: "reference".into(),
        };
        files.iter().map(one).collect()
    };
    let issue = |scopes: Vec<Scope>, files: &[String]| {
        let mut record = Record {
            schema: anyid_guard::consent::SCHEMA.into(),
            id: "c-1".into(),
            person: "P-1".into(),
            adult: true,
            scopes,
            publish: Publish::Yes,
            restrictions: Vec::new(),
            references: pictures(files),
            not_before: "2026-01-01".into(),
            expires: "2027-01-01".into(),
            how: String::new(),
            issuer: Issuer { name: "lab".into(), key: String::new() },
            revocation: String::new(),
            sig: String::new(),
        };
        record.sign(&SecretKey::of(&[7; 32])).unwrap();
        fs::write(folder.path().join("001/consent.json"), json!(record).to_string()).unwrap();
    };
    let all = &set.people[0].references;
    issue(vec![Scope::Evaluate], all);
    assert_eq!(gap(), None);
    assert_eq!(publish(folder.path(), "001", TODAY), Publish::Yes);
    assert_eq!(publish(folder.path(), "001", "2027-01-01"), Publish::No);
    issue(vec![Scope::Generate], all);
    assert!(gap().unwrap().contains("does not allow this use"));
    issue(vec![Scope::Evaluate], &all[1..]);
    assert!(gap().unwrap().contains("no consent record"));
    assert_eq!(publish(folder.path(), "002", TODAY), Publish::No);
    // Nobody is shown by a record that somebody else has changed, or that was revoked.
    let path = folder.path().join("001/consent.json");
    let text = fs::read_to_string(&path).unwrap();
    fs::write(&path, text.replace("2027-01-01", "2037-01-01")).unwrap();
    assert_eq!(publish(folder.path(), "001", TODAY), Publish::No);
    fs::write(&path, text).unwrap();
    assert_eq!(publish(folder.path(), "001", TODAY), Publish::Yes);
    let line = revocation("c-1", TODAY, &SecretKey::of(&[7; 32])).unwrap();
    fs::write(folder.path().join(REVOKED), format!("{line}\n")).unwrap();
    assert_eq!(publish(folder.path(), "001", TODAY), Publish::No);
}
