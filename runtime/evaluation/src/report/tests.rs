//! The report of a run that never was.

use super::*;
use crate::raw::schema;
use crate::statistics::sample::results;
use crate::testing::{picture, video};
use anyid_guard::consent::Record;
use anyid_guard::signature::SecretKey;
use std::fs;

const SYSTEMS: [(&str, f64); 3] = [("ours", 0.46), ("phantom <14B>", 0.4), ("consisid", 0.36)];

/// Tags of a page, in their order, without `<` and `>`; text is checked to have neither.
fn tags(page: &str) -> Vec<String> {
    let mut tags = Vec::new();
    let mut rest = page;
    while let Some(begin) = rest.find('<') {
        assert!(!rest[..begin].contains('>'), "a stray > in {:?}", &rest[..begin]);
        let end = rest.find('>').expect("a tag that ends");
        tags.push(rest[begin + 1..end].to_owned());
        // The style is text, and has no tags.
        let style = rest[begin..].starts_with("<style>");
        rest = if style { &rest[rest.find("</style>").unwrap()..] } else { &rest[end + 1..] };
    }
    tags
}

/// Whether tags are closed in their order, names of places are there once, and nothing leads outside.
fn check(page: &str) {
    assert!(page.starts_with("<!doctype html>\n<html lang=\"en\">"));
    let empty = ["meta", "img", "br", "!doctype"];
    let mut open: Vec<String> = Vec::new();
    let mut ids = std::collections::BTreeSet::new();
    for tag in tags(page) {
        if let Some(name) = tag.strip_prefix('/') {
            assert_eq!(open.pop().as_deref(), Some(name), "behind {open:?}");
            continue;
        }
        let name = tag.split([' ', '/']).next().unwrap_or_default().to_owned();
        assert!(!["script", "link", "iframe", "object", "embed", "form"].contains(&name.as_str()));
        if let Some((_, id)) = tag.split_once(" id=\"") {
            let id = id.split('"').next().unwrap().to_owned();
            assert!(ids.insert(id.clone()), "{id} is there twice");
        }
        for attribute in [" src=\"", " href=\""] {
            if let Some((_, address)) = tag.split_once(attribute) {
                let own = ["data:image/jpeg;base64,", "#", "../"];
                assert!(own.iter().any(|own| address.starts_with(own)), "{address}");
            }
        }
        if !tag.ends_with('/') && !empty.contains(&name.as_str()) {
            open.push(name);
        }
    }
    assert!(open.is_empty(), "{open:?}");
    for word in ["http://", "https://", "url(", "@import", "javascript:"] {
        assert!(!page.contains(word), "{word}");
    }
    let links = page.matches("href=\"#").count();
    assert!(
        links > 4
            && page
                .split("href=\"#")
                .skip(1)
                .all(|rest| { ids.contains(rest.split('"').next().unwrap()) })
    );
}

/// Writes results as a run does, with videos and an evaluation set: the person of the first case agreed to
/// publication.
fn folder(place: &std::path::Path) -> (Results, Options) {
    let mut results = results(&SYSTEMS, 5);
    for (name, system) in ["ours", "consisid"].into_iter().zip(0u8..) {
        for (at, case) in (0u8..).zip(&results.cases) {
            let path = place.join(name).join(format!("{}.mp4", case.id));
            let shade = 40 + 20 * at + 5 * system;
            video(&path, &[[shade, 90, 160]; 8]);
            let raw = results.raws.get_mut(&(name.to_owned(), case.id.clone())).unwrap();
            let own = raw.video.as_mut().unwrap();
            own.sha256 = anyid_files::checkpoint::hash_file(&path).unwrap();
        }
    }
    results.folder = place.join("results");
    fs::create_dir_all(&results.folder).unwrap();
    picture(&place.join("set/001/p1.png"), [9, 9, 9]);
    let systems = ["ours", "consisid"].map(|name| System {
        name: name.to_owned(),
        folder: place.join(name),
        map: None,
        tasks: Default::default(),
        note: None,
    });
    let options = Options {
        root: place.join("set"),
        systems: systems.to_vec(),
        embed_links: true,
        ..Options::default()
    };
    (results, options)
}

#[test]
fn a_report_is_one_sound_page_that_asks_for_nothing() {
    let place = tempfile::tempdir().unwrap();
    let (results, options) = folder(place.path());
    let path = write(&results, &options).unwrap();
    let page = fs::read_to_string(&path).unwrap();
    check(&page);
    assert!(page.contains("phantom &lt;14B&gt;") && page.contains("given &lt;all&gt; &amp; more"));
    assert!(page.contains("default-src 'none'") && page.contains("faces blurred"));
    // Nobody agreed to publication: no video is linked.
    assert!(!page.contains("<video") && page.contains("did not agree"));
    let read = |name: &str| fs::read_to_string(results.folder.join(name)).unwrap();
    let table = read("table.csv");
    let lines: Vec<&str> = table.lines().collect();
    assert_eq!(lines.len(), 1 + 9);
    assert!(lines[0].starts_with("task,system,asked,videos,coverage,holi_arc,holi_arc_n"));
    assert!(lines[1].starts_with("IPT2V,ours,5,5,100.00,"));
    let text = read("report.md");
    assert!(
        text.contains("| system | Holi-Arc | Holi-Cur | App | Mot | Bg | Sta | Dyn | coverage |")
    );
    assert!(text.contains("| system | Holi-Arc | Holi-Cur | Ele-CLIP | Ele-DINO | App |"));
    assert!(text.contains("| ours | **"));
    assert!(read("methods.md").contains("| Model: arc | w600k_r50, sha256 "));
    let json: Value = serde_json::from_str(&read("report.json")).unwrap();
    assert_eq!(json["tables"].as_array().unwrap().len(), 3);
    // The same again, byte for byte.
    write(&results, &options).unwrap();
    assert_eq!(fs::read_to_string(path).unwrap(), page);
}

#[test]
fn faces_and_videos_are_shown_of_people_who_agreed() {
    let place = tempfile::tempdir().unwrap();
    let (results, options) = folder(place.path());
    let path = place.path().join("set/001/consent.json");
    let own = serde_json::json!({
        "schema": "anyid.consent/1", "id": "c-1", "person": "p-001", "adult": true,
        "scopes": ["evaluate"], "publish": "results",
        "references": [{"sha256": "0".repeat(64), "role": "reference"}],
        "not_before": "2026-01-01", "expires": "2100-01-01",
        "issuer": {"name": "lab", "key": ""},
    });
    let mut record: Record = serde_json::from_value(own).unwrap();
    record.sign(&SecretKey::of(&[7; 32])).unwrap();
    fs::write(&path, serde_json::to_string(&record).unwrap()).unwrap();
    let page = fs::read_to_string(write(&results, &options).unwrap()).unwrap();
    check(&page);
    let video = "src=\"../ours/IPT2V-001-P001.mp4\"";
    assert!(page.contains(video) && !page.contains("P002.mp4\""));
    assert!(page.contains("media-src 'self' file:"));
}

#[test]
fn a_judge_that_drifted_is_a_warning_on_top() {
    let place = tempfile::tempdir().unwrap();
    let (results, _) = folder(place.path());
    let anchors = serde_json::json!({
        "schema": crate::vlm::anchors::SCHEMA, "videos": 12, "means": {"app": 60.0},
        "first": {"app": 64.5}, "moved": {"app": -4.5},
    });
    fs::create_dir_all(results.folder.join("vlm")).unwrap();
    fs::write(results.folder.join("vlm/anchors.json"), anchors.to_string()).unwrap();
    let page = fs::read_to_string(write(&results, &Options::default()).unwrap()).unwrap();
    check(&page);
    assert!(page.contains("its mean of the anchors moved, app by -4.5"));
    assert!(page.contains("role=\"note\""));
    // Where no video is given none is shown.
    assert!(!page.contains("data:image/jpeg") && !page.contains("id=\"frames\""));
    let text = fs::read_to_string(results.folder.join("report.md")).unwrap();
    assert!(text.starts_with("# Evaluation\n\n> **Warning.** The judge"));
}

#[test]
fn votes_of_people_stand_beside_scores() {
    let place = tempfile::tempdir().unwrap();
    let (results, _) = folder(place.path());
    let mut table = "system,case,metric,score\n".to_owned();
    for ((system, case), raw) in &results.raws {
        let value = raw.value(Metric::App, results.run.norms).unwrap();
        table.push_str(&format!("{system},{case},app,{value}\n"));
    }
    let path = place.path().join("human.csv");
    fs::write(&path, table).unwrap();
    let options = Options { people: Some(path.clone()), ..Options::default() };
    let page = fs::read_to_string(write(&results, &options).unwrap()).unwrap();
    check(&page);
    assert!(page.contains("<th scope=\"row\">app</th><td>30</td><td>1.000</td><td>1.000</td>"));
    for (text, part) in [
        ("system,case,metric,score\nours,x,app,1\n", "none of its rows"),
        ("system,case,metric,score\nours,x,nose,1\n", "line 2: \"nose\" is no metric"),
        ("system,case\n", "no column \"metric\""),
    ] {
        fs::write(&path, text).unwrap();
        let fault = write(&results, &options).unwrap_err();
        assert!(fault.code() == "E1708" && fault.message().contains(part), "{fault}");
    }
}

#[test]
fn a_run_is_read_again_as_it_was_written() {
    let place = tempfile::tempdir().unwrap();
    let (results, _) = folder(place.path());
    // Names of systems are names of files.
    let own = super::super::statistics::sample::results(&[("a", 0.4)], 2);
    let folder = &results.folder;
    fs::write(folder.join("run.json"), serde_json::to_string(&own.run).unwrap()).unwrap();
    let lines: String =
        own.cases.iter().map(|case| format!("{}\n", serde_json::json!(case))).collect();
    fs::write(folder.join("cases.jsonl"), lines).unwrap();
    for ((system, case), raw) in &own.raws {
        let path = crate::raw::raw_path(folder, system, case);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, serde_json::to_string(raw).unwrap()).unwrap();
    }
    let read = Results::open(folder).unwrap();
    assert_eq!((read.raws, read.run.schema.as_str()), (own.raws, schema::RUN));
}
