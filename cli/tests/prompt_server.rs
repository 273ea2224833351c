//! Prompts that a server writes, as users ask for them: what it would cost, descriptions, comparisons,
//! calibration and prompts in few words, by a server on this machine that plays a script.

mod common;
#[path = "../../runtime/study/tests/support/scripted.rs"]
mod scripted;

use anyid_runtime::media::writer::{VideoWriter, WriterOptions};
use anyid_runtime::study::prompt::elements::Element;
use common::Folder;
use scripted::{Play, Scripted, said};
use serde_json::{Map, Value, json};

/// Answers every question soundly: what the first clip shows is other than what the others show.
fn answers() -> Scripted {
    Scripted::answer(|_, body| {
        let text = |part: &Value| part["text"].as_str().unwrap_or_default().to_owned();
        let message = body["messages"].as_array().unwrap().last().unwrap();
        let parts: Vec<String> = message["content"].as_array().unwrap().iter().map(text).collect();
        said(&answer(&parts[0]).to_string(), "stop")
    })
}

fn answer(asked: &str) -> Value {
    let each = |value: &dyn Fn(Element) -> Value| -> Map<String, Value> {
        Element::ALL
            .map(|element| (element.name().to_owned(), value(element)))
            .into_iter()
            .collect()
    };
    if asked.starts_with("REFERENCE") {
        let changed = asked.contains("red") && asked.contains("blue");
        let score = |element| match (element, changed) {
            (Element::Clothing, true) => 0.3,
            (Element::Action, _) => 0.1,
            _ => 1.0,
        };
        return each(&|element| json!({"reason": "so", "score": score(element)})).into();
    }
    if asked.starts_with("PROMPT") {
        return json!({"prompt": "She nods in a hall."});
    }
    let mut record = each(&|element| json!(format!("She has {} of a kind.", element.name())));
    record.insert("pronoun".into(), "she".into());
    record.insert("people".into(), "one".into());
    record.into()
}

fn settings(folder: &Folder, url: &str) {
    folder.write(
        "data.toml",
        format!(
            "[prompt]\ndescribe = \"own\"\ncompare = \"own\"\nvotes = 1\n\
             [llm.own]\nkind = \"vllm\"\nbase_url = \"{url}\"\nmodel = \"m\"\nmax_images = 4\n\
             price_in = 2.0\nprice_out = 10.0\ncurrency = \"EUR\"\n"
        ),
    );
}

/// Two clips of a person, as the steps before leave them.
fn clips(folder: &Folder) {
    let (mut lines, mut names) = (String::new(), Vec::new());
    for at in 0..2 {
        let path = folder.write(&format!("videos/ann/{at}.gif"), "");
        std::fs::remove_file(&path).unwrap();
        let mut writer =
            VideoWriter::create(&path, 48, 32, 20.0, &WriterOptions::default()).unwrap();
        (0..20u8).for_each(|t| writer.push(&vec![t * 9 + at; 48 * 32 * 3]).unwrap());
        writer.finish().unwrap();
        let quality = json!({"n": 1, "single": 1.0, "none": 0.0, "several": 0.0, "persons": 0.0,
            "blur_med": 0.0, "face_med": 0.0, "yaw_p90": 0.0, "front": 1.0, "luma_med": 0.0,
            "extremes_med": 0.0, "motion": 0.0, "cosine": null});
        let clip = json!({"schema": "anyid.clip/1", "id": format!("c_{at}"),
            "media": format!("ann/{at}.gif"), "sha256": "", "start": 0, "end": 20, "fps": 20.0,
            "width": 48, "height": 32, "duration": 1.0, "faces": [], "persons": [], "usable": [],
            "hashes": [], "quality": quality, "keep": true, "reasons": []});
        lines.push_str(&format!("{clip}\n"));
        names.push(format!("c_{at}"));
    }
    folder.write("work/clips.jsonl", lines);
    let group = json!({"schema": "anyid.group/1", "id": "ann", "clips": names, "medoid": null,
        "cohesion": null, "given": true, "outliers": [], "duplicates_of": [], "copies": []});
    folder.write("work/groups.jsonl", format!("{group}\n"));
}

const ASK: &str = "--in videos --out work --config data.toml --json";

#[test]
fn clips_are_described_and_compared_and_what_it_cost_is_told() {
    let folder = Folder::new();
    clips(&folder);
    let script = answers();
    settings(&folder, &script.url);
    // What it would be, without a request.
    let dry = folder.run(&format!("prompt describe {ASK} --dry-run")).fine().json();
    assert_eq!((&dry["requests"], &dry["pictures"]), (&json!(2), &json!(8)));
    assert!(dry["money"].as_f64().is_some_and(|money| money > 0.0), "{dry}");
    assert!(script.bodies().is_empty());
    let told = folder.run(&format!("prompt describe {ASK}")).fine().json()["told"].clone();
    assert_eq!((&told["lines"], &told["costs"]["calls"]), (&json!(2), &json!(2)));
    let dry = folder.run(&format!("prompt compare {ASK} --dry-run")).fine().json();
    assert_eq!((&dry["requests"], &dry["pictures"]), (&json!(2), &json!(0)));
    folder.run(&format!("prompt compare {ASK}")).fine();
    let pairs = std::fs::read_to_string(folder.path("work/pairs.jsonl")).unwrap();
    let pair: Value = serde_json::from_str(pairs.lines().next().unwrap()).unwrap();
    assert_eq!(
        (&pair["kept"], &pair["prompt"]),
        (&json!(["action"]), &json!("She has action of a kind."))
    );
    for file in ["desc.jsonl", "pairs.jsonl"] {
        folder.run(&format!("data check work/{file}")).fine();
    }
    let report = folder.run("data report --out work --json").fine().json();
    assert_eq!(report["costs"]["describe"][0]["costs"]["calls"], 2);
    assert_eq!(report["costs"]["compare"][0]["currency"], "EUR");
    let page = std::fs::read_to_string(folder.path("work/report.html")).unwrap();
    assert!(page.contains("<h2>Servers</h2>"));
    // Again from what is kept, with nobody there.
    settings(&folder, "http://127.0.0.1:9/v1");
    let before = std::fs::read(folder.path("work/desc.jsonl")).unwrap();
    let told = folder.run(&format!("prompt describe {ASK} --cache ro")).fine().json();
    assert_eq!(told["told"]["costs"]["hits"], 2);
    assert_eq!(std::fs::read(folder.path("work/desc.jsonl")).unwrap(), before);
    // A server in the open network is not asked without being told to.
    settings(&folder, "https://example.org/v1");
    folder.run(&format!("prompt describe {ASK}")).fails("E1235").says("8 pictures of people");
    settings(&folder, "http://example.org/v1");
    folder.run(&format!("prompt describe {ASK}")).fails("E1231");
}

#[test]
fn a_server_s_comparison_is_measured() {
    let folder = Folder::new();
    let script = answers();
    settings(&folder, &script.url);
    let line = |reference: &str, target: &str, changed: bool| {
        let [reference, target] = [reference, target].map(|text| json!({"clothing": text}));
        json!({"ref": reference, "tgt": target, "changed": {"clothing": changed}}).to_string()
    };
    let lines = [line("A red tie.", "A blue tie.", true), line("A red tie.", "A tie.", false)];
    folder.write("gold.jsonl", lines.join("\n"));
    let calibrate = "prompt calibrate --gold gold.jsonl --config data.toml --json";
    let found = folder.run(&format!("{calibrate} --out kept")).fine().json();
    assert_eq!((&found["all"]["precision"], &found["all"]["recall"]), (&json!(1.0), &json!(1.0)));
    assert_eq!(script.bodies().len(), 2);
    // What is kept is not asked for again.
    folder.run(&format!("{calibrate} --out kept")).fine();
    assert_eq!(script.bodies().len(), 2);
    folder.run(&format!("{calibrate} --similarity exact")).fails("E0900");
    folder.write("data.toml", "");
    folder.run(calibrate).fails("E1201").says("prompt.compare names no server");
}

#[test]
fn prompts_to_measure_by_are_said_in_few_words() {
    let folder = Folder::new();
    let script = answers();
    settings(&folder, &script.url);
    let eval = "eval prompts --out bench --n 3 --fixed --config data.toml --simplify cogvideox";
    folder.run(eval).fine();
    for name in ["ipt2v.jsonl", "iept2v.jsonl"] {
        let text = std::fs::read_to_string(folder.path("bench").join(name)).unwrap();
        for line in text.lines() {
            let line: Value = serde_json::from_str(line).unwrap();
            assert_eq!(line["prompt_short"]["system"], "cogvideox");
            assert_eq!(line["prompt_short"]["prompt"], "She nods in a hall.");
        }
    }
    assert_eq!(script.bodies().len(), 6);
    let script = Scripted::play(vec![Play { status: 401, ..said("", "stop") }]);
    settings(&folder, &script.url);
    folder.run("eval prompts --out other --n 1 --config data.toml").fails("E1232");
}
