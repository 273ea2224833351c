//! Training of the text encoder as users meet it: from labelled prompts to an encoder that tells them apart.

mod common;

use common::training::{goes_on, log, sample, world};
use common::{Folder, tensors};
use serde_json::{Value, json};

const FULL: &str = "train full --config run.toml --threads 2 --set train.network=text \
                    --set model.path=m --set train.batch=12 --set train.learning_rate=1e-2";

const HAIR: [&str; 3] = ["black", "red", "blue"];
const SHOTS: [&str; 2] = ["close-up", "wide"];

/// Prompts that name a hair and a shot, or only a hair; their clips are nowhere.
fn lines() -> Vec<Value> {
    let one = |at: usize| {
        let (hair, shot) = (HAIR[at % 3], SHOTS.get(at / 3));
        sample(&format!("s_{at}"), 0, |line| {
            line["target"]["media"] = "nowhere.mp4".into();
            let said = shot.map_or(String::new(), |shot| format!("A {shot} shot. "));
            line["prompt"] = format!("{said}The hair is short and {hair}.").into();
            line["labels"] = json!({"hair": hair});
            if shot.is_some() {
                line["labels"]["shot"] = (at / 3).into();
            }
        })
    };
    (0..9).map(one).collect()
}

fn folder(lines: &[Value]) -> Folder {
    let folder = world(lines);
    folder.run("init m --preset world").fine();
    folder
}

#[test]
fn a_text_encoder_learns_what_prompts_name() {
    let folder = folder(&lines());
    let check = FULL.replace("train full", "train check full");
    let check = folder.run(&format!("{check} --json")).fine().json();
    assert_eq!((&check["sheet"], &check["samples"]), (&Value::Null, &json!(9)));
    let shapes = check["shapes"].as_array().unwrap();
    assert_eq!(shapes[0]["what"], "prompts of 8 tokens");
    assert_eq!((shapes.len(), &shapes[1]["tokens"]), (2, &json!(12)));

    let words = format!("{FULL} --steps 40 --set data.validation=train.jsonl");
    folder.run(&format!("{words} --set run.checkpoint_every=20")).fine();
    let rows = log(&folder, "run");
    let of = |row: &Value, name: &str| row[name].as_f64().unwrap();
    // Heads of zeros give every class the same.
    let chance = (3f64.ln() + 3f64.ln()) / 2.0;
    assert!((of(&rows[0], "loss") - chance).abs() < 1e-5, "{}", rows[0]);
    let measured = &rows[39]["validation"];
    for name in ["accuracy", "accuracy_hair", "accuracy_shot"] {
        assert_eq!((of(&rows[0], name), of(measured, name)), (0.0, 1.0), "{name}");
    }
    assert!(of(&rows[39], "loss") < 0.2 * chance, "{}", rows[39]);
    // The heads are not part of what is left.
    let target = folder.path("m/text_encoder/model.safetensors");
    let [old, new] =
        [&target, &folder.path("run/text_encoder.safetensors")].map(|path| tensors(path));
    assert!(old.len() == 22 && old.keys().eq(new.keys()), "{:?}", old.keys());
    assert!(old.iter().all(|(name, tensor)| tensor.ty() == new[name].ty() && *tensor != new[name]));
    std::fs::copy(folder.path("run/text_encoder.safetensors"), target).unwrap();
    folder.run("generate --model m --prompt x --size 32x32 --frames 5 --steps 2 -o x.gif").fine();
    let first = "--init-from run/text_encoder.safetensors -o again --steps 2";
    folder.run(&format!("{FULL} {first}")).fine();
    assert!(of(&log(&folder, "again")[1], "loss") < 0.9 * chance, "only the heads begin anew");
}

#[test]
fn it_goes_on_to_the_same_bits_with_any_number_of_threads() {
    let folder = folder(&lines());
    goes_on(&folder, FULL, &["text_encoder.safetensors"]);
    folder.run(&format!("{FULL} --steps 1 -o alone --set train.together=1")).fine();
    let [all, one] = ["whole", "alone"].map(|run| log(&folder, run)[0]["loss"].as_f64().unwrap());
    assert!((all - one).abs() < 1e-6, "{all} {one}");
}

#[test]
fn labels_that_cannot_be_learned_from_are_refused() {
    let mut faulty = lines();
    faulty[1].as_object_mut().unwrap().remove("labels");
    faulty[2]["labels"] = json!({"hair": 1.5});
    faulty[3]["prompt"] = "The hair ".repeat(40).into();
    // Of a clip that is not looked at, neither length nor file matter, in faulty lines as well.
    faulty[3]["target"]["frames"] = 1.into();
    faulty[4]["target"]["fps"] = 12.into();
    let folder = folder(&faulty);
    let done = folder.run(FULL).fails("E0957");
    done.says("line 2: \"labels\" is missing")
        .says("line 3: labels: \"hair\" is 1.5")
        .says("line 4: the prompt has 81 tokens, at most 48")
        .says("3 lines of the manifest cannot be used");
    let done = folder.run(FULL).fails("E0957");
    assert!(!done.err.contains("nowhere.mp4") && !done.err.contains("frames"), "{}", done.err);

    let mut same = lines();
    for line in &mut same {
        line["labels"] = json!({"hair": "black"});
    }
    common::training::write_lines(&folder, &same);
    folder.run(FULL).fails("E0977").says("no slot has two classes");

    common::training::write_lines(&folder, &lines());
    let mut other = lines();
    other[4]["labels"]["hair"] = "green".into();
    let text: Vec<String> = other.iter().map(Value::to_string).collect();
    folder.write("held.jsonl", text.join("\n"));
    let done = folder.run(&format!("{FULL} --set data.validation=held.jsonl")).fails("E0978");
    done.says("sample s_4: slot \"hair\" has no class \"green\" in data.manifest");
    other[4]["labels"] = json!({"hair": "red", "pose": 1});
    let text: Vec<String> = other.iter().map(Value::to_string).collect();
    folder.write("held.jsonl", text.join("\n"));
    let done = folder.run(&format!("{FULL} --set data.validation=held.jsonl")).fails("E0978");
    done.says("there is no slot \"pose\"");
    let done = folder.run(&FULL.replace("train full", "train lora")).fails("E0976");
    done.says("train.network is \"text\"");
}
