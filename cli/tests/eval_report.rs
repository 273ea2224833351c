//! Reports and comparisons of runs as users meet them.

mod common;

use common::Folder;
use serde_json::{Value, json};

/// Writes the results of a run of one system, whose faces have the cosine `level`, more or less.
fn run(folder: &Folder, name: &str, level: f64, model: &str) {
    let cases: Vec<Value> = (1..=4)
        .map(|number| {
            json!({
                "schema": "anyid.case/1", "id": format!("IPT2V-00{number}-P00{number}"),
                "task": "IPT2V", "person": format!("00{number}"), "prompt_id": format!("P00{number}"),
                "prompt": "She nods.", "elements": {"action": "She nods."}, "preserve": [],
                "references": ["p1.png"], "primary": "p1.png", "seed": 1000 + number,
            })
        })
        .collect();
    let lines: String = cases.iter().map(|case| format!("{case}\n")).collect();
    folder.write(&format!("{name}/cases.jsonl"), lines);
    let run = json!({
        "schema": "anyid.run/1", "version": "1", "cases": "c", "systems": ["ours"], "frames": 2,
        "models": [{"role": "arc", "name": "arc", "sha256": model}],
        "norms": {"holi": "affine", "ele": "plain"},
    });
    folder.write(&format!("{name}/run.json"), run.to_string());
    for (at, case) in cases.iter().enumerate() {
        let id = case["id"].as_str().unwrap();
        let cosine = level + 0.01 * at as f64;
        let frame = |f: usize| json!({"f": f, "seconds": 0.0, "faces": [[0, 0, 9, 9]]});
        let raw = json!({
            "schema": "anyid.raw/1", "system": "ours", "case": id, "unit": id, "task": "IPT2V",
            "video": {"path": "v.mp4", "sha256": id, "width": 64, "height": 64, "frames": 2,
                "fps": 24.0},
            "identity": {
                "key": "k",
                "references": [{"file": "p1.png", "sha256": "r", "clip": false, "frames": [0]}],
                "frames": [frame(0), frame(1)],
                "arc": {"model": model, "cosines": [[[cosine]], [[cosine]]], "best": [null, null]},
            },
        });
        folder.write(&format!("{name}/raw/ours/{id}.json"), raw.to_string());
    }
}

#[test]
fn a_run_has_a_page_that_needs_nothing_else() {
    let folder = Folder::new();
    run(&folder, "run", 0.4, "m");
    let done = folder.run("eval report run --json").fine();
    assert!(done.json()["report"].as_str().unwrap().ends_with("report.html"));
    let read = |name: &str| std::fs::read_to_string(folder.path(name)).unwrap();
    let page = read("run/report.html");
    assert!(page.contains("default-src 'none'") && !page.contains("<script"));
    // The cosines are 0.40 to 0.43.
    assert!(read("run/table.csv").contains("\nIPT2V,ours,4,4,100.00,70.7500,4,"));
    assert!(read("run/report.md").contains("| ours | 70.75 | 100.0 % | 4 of 4 | 41.50 | – |"));
    assert!(read("run/methods.md").contains("| Model: arc | arc, sha256 m |"));
    folder.run("eval report none").fails("E0911");
    folder.run("eval report run --system ours=run").fails("E1703");
    folder.write("people.csv", "system,case,metric,score\nours,x,app,1\n");
    let done = folder.run("eval report run --judge-agreement people.csv");
    done.fails("E1708").says("none of its rows");
    folder.write("run/run.json", "{}");
    folder.run("eval report run").fails("E1704");
}

#[test]
fn runs_are_compared_and_a_loss_ends_a_gate() {
    let folder = Folder::new();
    run(&folder, "before", 0.42, "m");
    run(&folder, "after", 0.40, "m");
    run(&folder, "other", 0.40, "n");
    let done = folder.run("eval diff before after").fine();
    assert!(done.out.contains("Holi-Arc") && done.out.contains("-1.00"), "{}", done.out);
    let found = folder.run("eval diff before after --json").fine().json();
    let row = &found["rows"][0];
    assert!((row["difference"].as_f64().unwrap() + 1.0).abs() < 1e-9);
    assert_eq!((&row["n"], &row["p"]), (&json!(4), &json!(0.125)));
    let fault = folder.run("eval diff before other").fails("E1708");
    fault.says("another model for arc");
    let gate = "eval gate after --baseline before";
    folder.run(&format!("{gate} --min holi_arc=-1.5")).fine();
    let done = folder.run(&format!("{gate} --min holi_arc=-0.5")).fails("E1709");
    done.says("1 number worse than allowed");
    folder.run(gate).fails("E1706").says("lets everything pass");
    folder.run(&format!("{gate} --min nose=1")).fails("E1706").says("\"nose\" is no metric");
}
