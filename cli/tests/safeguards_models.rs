//! Models of the user's among the safeguards: a language model that looks at texts, networks that
//! compare faces with enrolled ones, and networks that mark frames. A program without them says so.

mod common;
#[path = "../../runtime/study/tests/support/scripted.rs"]
mod scripted;
#[path = "../../runtime/study/tests/tiny_onnx/mod.rs"]
mod tiny;

use anyid_runtime::media::{RgbFrame, lossless};
use common::Folder;
use scripted::{Scripted, play, said};
use serde_json::{Value, json};

const SMALL: &str = "generate --model @micro --size 64x64 --frames 1 --steps 1 --guidance 1";

fn safeguards(folder: &Folder, name: &str) -> Value {
    let bytes = std::fs::read(folder.path(&format!("{name}.recipe.json"))).unwrap();
    serde_json::from_slice::<Value>(&bytes).unwrap()["safeguards"].clone()
}

fn last_record(folder: &Folder) -> Value {
    let shown = folder.run("audit show --json -n 1").fine().json();
    shown["records"][0].clone()
}

/// A model that refuses floods, warns of speeches, gives no sound answer about riddles, and has no
/// key for harbours.
fn model() -> Scripted {
    Scripted::answer(|_, body| {
        let text = body["messages"].to_string();
        let answer = |decision: &str, names: &[&str]| {
            let reason = format!("It is about \u{1b}[31m{decision}.");
            let value = json!({"reason": reason, "categories": names, "decision": decision});
            said(&value.to_string(), "stop")
        };
        match text {
            text if text.contains("flood") => answer("block", &["weapon", "violence_graphic"]),
            text if text.contains("speech") => answer("warn", &["deception"]),
            text if text.contains("riddle") => said("I would rather not say.", "stop"),
            text if text.contains("harbour") => play(401, "no"),
            _ => answer("allow", &[]),
        }
    })
}

#[test]
fn a_language_model_refuses_more_and_allows_nothing() {
    let folder = Folder::new();
    let server = model();
    let profile = |more: &str| format!("base_url = \"{}\"\nmodel = \"m\"\n{more}", server.url);
    folder.write("llm.toml", profile(""));
    folder.write("closed.toml", profile("on_error = \"closed\"\n"));
    let run =
        |text: &str, words: &str| folder.run_with(&format!("{SMALL} {words}"), &["--prompt", text]);
    let asked = || server.heard.lock().unwrap().len();
    let first = run("a lake", "--moderation-llm llm.toml -o a.gif");
    if first.err.contains("E1209") {
        first.fails("E1209").says("--features judge");
        assert!(!folder.path("a.gif").exists());
        println!("only in part: this program calls no servers");
        return;
    }
    first.fine();
    assert_eq!((safeguards(&folder, "a.gif")["llm"].as_str(), asked()), (Some("allow"), 1));
    run("a lake", "-o plain.gif").fine();
    assert_eq!((safeguards(&folder, "plain.gif")["llm"].as_str(), asked()), (Some("off"), 1));

    // What it refuses is not made, and that is written down; its words do not move the cursor.
    let refused = run("a flood", "--moderation-llm llm.toml -o b.gif").fails("E1101");
    assert!(refused.err.contains("violence_graphic by rule LM-00"), "{}", refused.err);
    assert!(!refused.err.contains('\u{1b}') && !folder.path("b.gif").exists());
    let record = last_record(&folder);
    assert_eq!((record["event"].as_str(), record["code"].as_str()), (Some("block"), Some("E1101")));
    assert_eq!(record["categories"], json!(["violence_graphic"]));
    let warned = run("a speech", "--moderation-llm llm.toml -o c.gif").fine();
    assert!(warned.err.contains("rule LM-00"), "{}", warned.err);
    let made = safeguards(&folder, "c.gif");
    assert_eq!((&made["llm"], &made["categories"]), (&json!("warn"), &json!(["deception"])));

    // The rules come first, and what they refuse is not sent.
    let before = asked();
    run("a nude woman", "--moderation-llm llm.toml -o d.gif").fails("E1101").says("SX-");
    assert_eq!(asked(), before);
    // A negative prompt is looked at with the prompt; references are not sent.
    let picture = "examples/characters/first/portrait.png";
    let words = format!("--moderation-llm llm.toml --ref @{picture} -o e.gif");
    let guided = SMALL.replace("--guidance 1", "--guidance 2");
    folder
        .run_with(
            &format!("{guided} {words}"),
            &["--prompt", "a lake", "--negative-prompt", "a flood"],
        )
        .fails("E1101");
    assert_eq!(asked(), before + 1);
    for body in server.bodies() {
        for message in body["messages"].as_array().unwrap() {
            let parts = message["content"].as_array().cloned().unwrap_or_default();
            assert!(parts.iter().all(|part| part["type"] == "text"), "{message}");
        }
        assert!(!body.to_string().contains("base64"));
    }
    assert!(server.bodies()[0]["response_format"].to_string().contains("decision"));

    // Without an answer the rules decide, or nothing is made.
    for (text, why) in [("a riddle", "no JSON object"), ("a harbour", "E1232")] {
        let alone = run(text, "--moderation-llm llm.toml -o f.gif --force").fine();
        assert!(alone.err.contains("the rules alone decided"), "{}", alone.err);
        assert!(alone.err.contains(why), "{}", alone.err);
        assert_eq!(safeguards(&folder, "f.gif")["llm"], "no_answer");
        run(text, "--moderation-llm closed.toml -o g.gif").fails("E1115").says(why);
        assert!(!folder.path("g.gif").exists());
        assert_eq!(last_record(&folder)["code"], "E1115");
    }
    // As a policy says it, and nobody listens there.
    let nobody = "[moderation.llm]\nbase_url = \"http://127.0.0.1:9/v1\"\nmodel = \"m\"\n";
    folder.write("p.toml", format!("{nobody}on_error = \"closed\"\n"));
    run("a lake", "--policy p.toml -o h.gif").fails("E1115").says("E1233");
    let shown = folder.run("policy show --policy p.toml").fine().out;
    assert!(shown.contains("m at http://127.0.0.1:9/v1 (without an answer: closed)"), "{shown}");
    for (text, code) in [
        ("model = \"m\"", "E1102"),
        ("kind = \"vllm\"\nmodel = \"m\"\nloud = 1", "E1102"),
        ("base_url = \"http://example.org/v1\"\nmodel = \"m\"", "E1231"),
        ("kind = \"vllm\"\nmodel = \"m\"\napi_key_env = \"NO_SUCH_KEY\"", "E1230"),
    ] {
        folder.write("bad.toml", text);
        run("a lake", "--moderation-llm bad.toml -o i.gif").fails(code);
    }
    run("a lake", "--moderation-llm none.toml -o i.gif").fails("E0911");
    assert!(!folder.path("i.gif").exists());
}

/// A picture of 320 x 240 pixels of which `change` changes a plain one, in which the tiny detector
/// finds one face.
fn picture(folder: &Folder, name: &str, change: impl Fn(usize, usize, [u8; 3]) -> [u8; 3]) {
    let (width, height) = (320, 240);
    let pixel = |at: usize| {
        let (x, y) = (at % width, at / width);
        change(x, y, [x.min(255) as u8, y as u8, 255 - y as u8])
    };
    let data: Vec<u8> = (0..width * height).flat_map(pixel).collect();
    std::fs::create_dir_all(folder.path(name).parent().unwrap()).unwrap();
    folder.write(name, lossless::picture(&RgbFrame { width, height, data }).unwrap());
}

#[test]
fn new_pictures_of_an_enrolled_face_are_covered() {
    let folder = Folder::new();
    let models = common::repository().join("runtime/study/tests/models");
    picture(&folder, "enrolled/ann.png", |_, _, pixel| pixel);
    picture(&folder, "ann2.png", |_, _, pixel| pixel.map(|v| v.saturating_add(2)));
    picture(&folder, "ben.png", |_, _, [r, g, b]| [255 - r, 255 - g, b]);
    // Where the detector looks for the face there is none.
    picture(&folder, "none.png", |x, y, [r, g, b]| {
        if x < 20 && (50..60).contains(&y) { [r, g, 0] } else { [r, g, b] }
    });
    folder.run("consent key -o studio.key").fine();
    let enrolled = folder.run("consent new --person p-1 --ref enrolled/ann.png --adult --id c-1");
    enrolled.fine();
    let path = folder.path("consents/c-1.json");
    let mut record: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    let hash = record["references"][0]["sha256"].clone();
    let face = |hash: &Value| json!([{ "match": "face", "enrolled": [hash], "min_cos": 0.6 }]);
    record["references"] = face(&hash);
    std::fs::write(&path, record.to_string()).unwrap();
    folder.run("consent sign consents/c-1.json --key studio.key").fine();
    let run = |reference: &str, words: &str| {
        let words =
            format!("{SMALL} --consent require --ref {reference} -o {reference}.gif {words}");
        folder.run_with(&words, &["--prompt", "x"])
    };
    // Without networks that is said, and which setting names them.
    run("ann2.png", "").fails("E1105").says("[consent.faces]");
    let networks = |face: &str| {
        format!(
            "[consent.faces]\npictures = [\"enrolled\"]\n\
             face = {{ kind = \"retinaface\", path = \"{0}/{face}\" }}\n\
             identity = {{ kind = \"arcface\", path = \"{0}/arcface.onnx\" }}\n",
            models.display()
        )
    };
    folder.write("p.toml", networks("retinaface.onnx"));
    let first = run("ann2.png", "--policy p.toml");
    if first.err.contains("E1209") {
        first.fails("E1209").says("--features curate");
        println!("only in part: this program runs no networks");
        return;
    }
    first.fine();
    assert_eq!(safeguards(&folder, "ann2.png.gif")["consents"], json!(["c-1"]));
    run("ben.png", "--policy p.toml").fails("E1105").says("no consent record for reference 1");
    run("none.png", "--policy p.toml").fails("E1105").says("does not show exactly one");
    // One who is covered does not cover another.
    let both = format!("{SMALL} --consent require --policy p.toml --ref ann2.png ben.png -o b.gif");
    folder.run_with(&both, &["--prompt", "x"]).fails("E1105").says("reference 2");
    // No number of what was seen of a face is kept anywhere.
    for name in folder.names() {
        assert!(!name.contains("embedding"), "{name}");
    }

    // Made looser by somebody else, of a picture that is not there, with other networks.
    let signed = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, signed.replace("0.6", "0.01")).unwrap();
    run("ann2.png", "--policy p.toml --force").fails("E1105").says("no consent record");
    let mut other: Value = serde_json::from_str(&signed).unwrap();
    other["references"] = face(&json!("ab".repeat(32)));
    std::fs::write(&path, other.to_string()).unwrap();
    folder.run("consent sign consents/c-1.json --key studio.key").fine();
    run("ann2.png", "--policy p.toml --force").fails("E1105").says("is not in the folders");
    std::fs::write(&path, signed).unwrap();
    folder.write("p.toml", networks("arcface.onnx"));
    run("ann2.png", "--policy p.toml --force").fails("E1208");
    let engine = "retinaface.onnx\", engine = \"ort\"";
    for text in [
        networks("retinaface.onnx").replace("retinaface\"", "eyes\""),
        networks("retinaface.onnx").replace("retinaface.onnx\"", engine),
    ] {
        folder.write("p.toml", text);
        run("ann2.png", "--policy p.toml --force").fails("E1102").says("[consent.faces]");
    }
    folder.write("p.toml", networks("retinaface.onnx").replace("\"enrolled\"", "\"nowhere\""));
    run("ann2.png", "--policy p.toml --force").fails("E0911");
}

#[test]
fn networks_mark_frames_and_find_their_mark() {
    let folder = Folder::new();
    folder.write("e.onnx", tiny::seal(60.0));
    folder.write("d.onnx", tiny::unseal());
    folder.write("v.toml", "embed = \"e.onnx\"\ndetect = \"d.onnx\"\n");
    folder.write("p.toml", "[watermark]\nstrength = \"videoseal\"\nmodel = \"v.toml\"\n");
    let run = "generate --model @micro --size 256x256 --frames 5 --steps 1 --guidance 1 --prompt x";
    folder.run(&format!("{run} --watermark videoseal -o a.gif")).fails("E1116").says("model = ");
    let first = folder.run(&format!("{run} --policy p.toml -o a.mp4"));
    if first.err.contains("E1209") {
        first.fails("E1209").says("--features curate");
        println!("only in part: this program runs no networks");
        return;
    }
    first.fine();
    let made = safeguards(&folder, "a.mp4")["watermark"].clone();
    assert_eq!(made["strength"], "videoseal");
    let found = folder.run("watermark detect a.mp4 --videoseal v.toml --json").fine().json();
    assert_eq!((&found["id"], found["version"].as_u64()), (&made["id"], Some(3)), "{found}");
    assert!(
        folder.run("watermark detect a.mp4 --videoseal v.toml").fine().out.contains("no proof")
    );
    // The program's own detector does not find it, nor do the networks find its mark.
    assert_eq!(folder.run("watermark detect a.mp4 --fast").code, 4);
    folder.run(&format!("{run} -o b.mp4")).fine();
    let none = folder.run("watermark detect b.mp4 --videoseal v.toml --json");
    assert_eq!((none.code, none.json()["present"].as_bool()), (4, Some(false)));
    folder.run("watermark detect a.mp4 --videoseal none.toml").fails("E0911");
    folder.write("v.toml", "embed = \"d.onnx\"\ndetect = \"d.onnx\"\n");
    folder.run(&format!("{run} --policy p.toml -o c.mp4")).fails("E1208");
    folder.write("v.toml", "embed = 3\n");
    folder.run(&format!("{run} --policy p.toml -o c.mp4")).fails("E1116");
    assert!(!folder.path("c.mp4").exists());
}
