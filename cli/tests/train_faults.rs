//! What newcomers get wrong in training, and what the program says then: which line or flag gave a
//! value, everything that is wrong with a line at once, and what a file is.

#![cfg(unix)]

mod common;

use common::training::{bytes, sample, samples, world, write_lines};
use common::{Folder, tensors};
use serde_json::json;

const LORA: &str = "train lora --config run.toml --threads 2";

/// Runs with settings that are refused before anything is done.
fn refused(folder: &Folder, words: &str, code: &str, said: &[&str]) {
    let done = folder.run(&format!("train lora --config run.toml {words}")).fails(code);
    said.iter().for_each(|said| assert!(done.err.contains(said), "{said}\n{}", done.err));
    assert!(!folder.path("run/log.jsonl").exists(), "nothing is trained");
}

#[test]
fn an_error_of_settings_names_the_line_or_the_flag_that_gave_the_value() {
    let folder = world(&samples());
    let text = std::fs::read_to_string(folder.path("run.toml")).unwrap();
    folder.write("run.toml", text.replace("batch = 2", "batch = 0"));
    refused(&folder, "--set lora.rank=2", "E0956", &["--> run.toml:14", "train.batch cannot be 0"]);
    folder.write("run.toml", format!("\u{feff}{text}"));
    for (words, code, said) in [
        ("--set lora.rank=2 --set train.step=3", "E0955", &["--> --set train.step=3", "steps"][..]),
        ("--steps 0", "E0956", &["--> --steps 0", "train.steps cannot be 0"]),
        ("--set train.clip=nan", "E0956", &["--> --set train.clip=nan", "cannot be nan"]),
        ("--set video.width=100", "E0901", &["--> --set video.width=100"]),
        ("--set lora.targets=[\"to_q\"]", "E0523", &["--> --set lora.targets", "self_attn.q"]),
        ("--set train.budget=1KiB", "E0601", &["--> --set train.budget=1KiB", "1KiB"]),
        ("--set train.batch=many", "E0955", &["\"many\", expected a whole number\n"]),
        ("--set train.batch=-2", "E0955", &["a whole number, 0 or more"]),
        ("--set train.foo=1", "E0955", &["unknown field `foo`", "help: it is one of network, "]),
        (
            "--set video.width=20000 --set video.height=50 --set video.frames=6",
            "E0901",
            &[
                "width 20000 is not",
                "up to 16384; height 50 is not",
                "; the number of frames cannot be 6",
                "--> --set video.width=20000, --set video.height=50, --set video.frames=6",
                "help: the nearest size is 16384x64, 5 frames",
            ],
        ),
        ("--threads 600", "E0918", &["--> --threads"]),
        ("--device tpu", "E0904", &["--> --device"]),
        ("--device cpu:1", "E0560", &["--> --device"]),
    ] {
        refused(&folder, words, code, said);
    }
    // A mark of the byte order is not part of the text.
    folder.run(&format!("{LORA} --steps 1")).fine();
}

#[test]
fn all_faults_of_a_line_are_listed_at_once() {
    let wrong = sample("s 1", 10, |v| {
        v["references"][0]["role"] = "boss".into();
        v["target"]["media"] = "none.mp4".into();
        v["prompt"] = "word ".repeat(3000).into();
    });
    let folder = world(&[wrong, sample("s_2", 10, |v| v["target"]["media"] = "gone.mp4".into())]);
    let done = folder.run(LORA).fails("E0957").says("2 lines of the manifest cannot be used");
    for said in [
        "line 1: \"id\" is \"s 1\"",
        "line 1: reference 1: \"role\" is \"boss\": primary or aux",
        "line 1: target: none.mp4: the file does not exist",
        "tokens, at most 512",
        "line 2: target: gone.mp4: the file does not exist",
    ] {
        assert!(done.err.contains(said), "{said}\n{}", done.err);
    }
    let left = folder.run(&format!("{LORA} --set data.skip_faulty=true")).fails("E0958");
    assert!(left.err.contains("none of 2 samples is left"), "{}", left.err);
}

#[test]
fn no_fault_hides_those_of_other_things() {
    let folder = world(&samples());
    let wrong = |name: &str, id: &str| {
        let line = sample(id, 10, |v| v["references"][0]["role"] = "boss".into());
        let gone = sample("s_9", 30, |v| v["target"]["media"] = format!("{id}.mp4").into());
        folder.write(name, format!("{line}\n{gone}"));
    };
    // Of what is learned from and of what is measured, before anything is encoded.
    wrong("train.jsonl", "s_1");
    wrong("held.jsonl", "v_1");
    let words = format!("{LORA} --set data.validation=held.jsonl");
    let both = [
        "error[E0957]: 2 lines of the manifest cannot be used\n",
        "line 1: reference 1: \"role\" is \"boss\"",
        "line 2: target: s_1.mp4: the file does not exist",
        "--> train.jsonl\n",
        "line 2: target: v_1.mp4: the file does not exist",
        "--> held.jsonl\n",
    ];
    let told = |words: &str, code: &str, count: usize, more: &[&str]| {
        let mut done = folder.run(words).fails(code);
        done = done.says(&format!("{count} things that the run needs cannot be used:\n"));
        for said in more {
            done = done.says(said);
        }
        let entries = std::fs::read_dir(folder.path("cache")).map_or(0, Iterator::count);
        assert_eq!(entries, 0, "nothing is encoded");
    };
    told(&words, "E0957", 2, &both);
    // A model that is not there, with adapters that are not.
    let all = format!(
        "{words} --set model.path=none --set model.adapters=[\"a.safetensors\",\"b.safetensors\"]"
    );
    let more = ["error[E0701]: ", "--> none", "--> a.safetensors", "--> b.safetensors"];
    told(&all, "E0990", 5, &[&both[..], &more].concat());
    told(&all.replace("train lora", "train check"), "E0990", 5, &more);
    // What follows from a wrong size is not listed.
    told(
        &format!("{words} --set video.frames=9 --set video.width=100 --init-from c.safetensors"),
        "E0990",
        4,
        &["error[E0901]: width 100", "--> c.safetensors", both[1], both[4]],
    );
    let size = folder.run(&format!("{words} --set video.frames=8 --set video.width=100"));
    assert!(!size.err.contains("the run takes"), "{}", size.err);
    // Without other faults there is one error, as ever.
    write_lines(&folder, &samples());
    let one = folder.run(&words).fails("E0957");
    assert!(!one.err.contains("things that"), "{}", one.err);
    let one = folder.run(&format!("{LORA} --set model.path=none")).fails("E0701");
    assert!(!one.err.contains("things that"), "{}", one.err);
}

#[test]
fn lines_that_are_left_out_get_a_warning_even_where_little_is_said() {
    let folder = world(&samples());
    let gone = sample("s_9", 30, |v| v["target"]["media"] = "gone.mp4".into());
    let far = sample("s_8", 30, |v| v["target"]["start"] = 1_000_000_000_000u64.into());
    let mut lines = samples();
    lines.extend([gone.clone(), far]);
    write_lines(&folder, &lines);
    folder.write("held.jsonl", format!("{}\n{gone}", sample("v_1", 65, |_| {})));
    let words = format!("{LORA} --steps 1 --set data.validation=held.jsonl");
    let done = folder.run(&words).fails("E0957");
    done.says("line 5: target: \"start\" is 1000000000000, more than 100000000\n");
    let done = folder.run(&format!("{words} --set data.skip_faulty=true --quiet")).fine();
    let done = done.says(
        "warning: train.jsonl: 2 samples left out: faulty; the first is line 4: target: gone.mp4: \
         the file does not exist\n",
    );
    done.says("warning: held.jsonl: 1 sample left out: faulty; the first is line 2: target: gone");
}

#[test]
fn what_follows_from_another_fault_of_the_line_is_not_listed() {
    let folder = world(&samples());
    folder.write("copy.mp4", bytes(&folder, "pan.mp4"));
    // Both clips have frames 0 to 6 of one file, if the start of the target is taken for 0.
    let line = |id: &str, change: &dyn Fn(&mut serde_json::Value)| {
        sample(id, 60, |v| {
            v["references"] = json!([{"form": "video", "clip": "c_other", "media": "copy.mp4",
                                      "start": 0, "frames": 5}]);
            change(v);
        })
    };
    let lines = [
        line("s_1", &|v| v["target"]["start"] = 1.5.into()),
        line("s_2", &|v| v["target"]["start"] = (-1).into()),
        line("s_3", &|v| {
            v["target"]["start"] = 0.into();
            v["target"]["fps"] = 25.into();
        }),
        line("s_4", &|v| v["target"]["clip"] = 3.into()),
        line("s_5", &|v| v["target"]["sha256"] = 3.into()),
        line("s_6", &|v| {
            v["references"][0]["start"] = "0".into();
            v["target"]["start"] = 0.into();
        }),
        // A clip that ends before it begins has no frames that could be among others.
        line("s_7", &|v| v["target"]["start"] = 5000.into()),
        line("s_8", &|v| {
            v["references"][0].as_object_mut().unwrap().remove("form");
            v["references"][0]["media"] = "none.mp4".into();
        }),
    ];
    write_lines(&folder, &lines);
    let done = folder.run(LORA).fails("E0957").says("8 lines of the manifest cannot be used");
    assert!(!done.err.contains("among the references"), "{}", done.err);
    let said = |line: usize| done.err.matches(&format!("line {line}: ")).count();
    for line in [1, 2, 3, 4, 5, 6, 7] {
        assert_eq!(said(line), 1, "line {line}\n{}", done.err);
    }
    assert_eq!(said(8), 2, "the form is missing, and so is the file\n{}", done.err);
    // Without the fault it is what is wrong with the line.
    write_lines(&folder, &[line("s_1", &|v| v["target"]["start"] = 0.into())]);
    folder.run(LORA).fails("E0957").says("among the references: ").says("copy.mp4 is a copy of ");
}

#[test]
fn a_file_of_another_kind_is_named_as_that() {
    let folder = world(&samples());
    let text = std::fs::read_to_string(folder.path("train.jsonl")).unwrap();
    folder.write("all.json", format!("[{}]", text.lines().collect::<Vec<_>>().join(",\n")));
    folder.write("table.csv", "media,prompt\na.mp4,x\n");
    for (name, said) in [("all.json", "one JSON object a line"), ("table.csv", "one JSON object")] {
        let words = format!("{LORA} --set data.manifest={name}");
        folder.run(&words).fails("E0957").says(said);
    }
    let dpo = "train dpo --config run.toml --set train.learning_rate=1e-5";
    folder.run(dpo).fails("E0957").says("pairs is for `train dpo`");
    folder.run("train lora --config train.jsonl").fails("E0955").says("settings are TOML");
    let none = format!("{LORA} --set data.validation=none.jsonl");
    folder.run(&none).fails("E0911").says("data.validation of --set data.validation=none.jsonl");
    std::fs::create_dir(folder.path("dir.png")).unwrap();
    let line = sample("s_1", 10, |v| v["references"][0]["media"] = "dir.png".into()).to_string();
    folder.write("odd.jsonl", format!("{line}\n{}", line.replacen("[100", "[nul", 1)));
    let done = folder.run(&format!("{LORA} --set data.manifest=odd.jsonl")).fails("E0957");
    done.says("dir.png: this is a folder").says("expected null, true or false, at column");
    folder.run("train lora run.toml").fails("E0900").says("--config");
    folder.run("lora inspect a.png").fails("E0311").says("a picture");
}

#[test]
fn one_line_in_another_encoding_or_with_a_field_twice_is_a_fault_of_that_line() {
    let folder = world(&samples());
    let text = std::fs::read_to_string(folder.path("train.jsonl")).unwrap();
    let mut lines: Vec<Vec<u8>> = text.lines().map(|line| line.as_bytes().to_vec()).collect();
    let latin =
        String::from_utf8(lines[0].clone()).unwrap().replace("A person", "Une fille a\u{1}");
    lines[0] = latin.into_bytes().into_iter().map(|b| if b == 1 { 0xe9 } else { b }).collect();
    lines[1] =
        text.lines().nth(1).unwrap().replacen("\"start\":0", "\"start\":0,\"start\":1", 1).into();
    lines[2] = text.lines().nth(2).unwrap().replace("pan.mp4", "none.mp4").into();
    lines.push(text.lines().next().unwrap().replacen('{', "{\"id\":\"s_9\",", 1).into());
    folder.write("train.jsonl", lines.join(&b'\n'));
    let done = folder.run(LORA).fails("E0957").says("4 lines of the manifest cannot be used");
    for said in [
        "line 1: this is not UTF-8 text, at byte ",
        "line 2: reference 2: \"start\" is there twice",
        "line 3: target: ",
        "line 4: \"id\" is there twice",
    ] {
        assert!(done.err.contains(said), "{said}\n{}", done.err);
    }
    let left = folder.run(&format!("{LORA} --set data.skip_faulty=true")).fails("E0958");
    assert!(left.err.contains("none of 4 samples is left"), "{}", left.err);
    folder.run("inspect train.jsonl").fails("E0915");
    // A whole file of another encoding.
    let wide: Vec<u8> = text.encode_utf16().flat_map(u16::to_le_bytes).collect();
    folder.write("train.jsonl", [&[0xff, 0xfe][..], &wide].concat());
    folder.run(LORA).fails("E0957").says("save the file as UTF-8");
}

#[test]
fn what_is_odd_in_a_manifest_gets_a_warning() {
    let long = sample("s_1", 10, |v| {
        v["references"] = json!([{"form": "video", "clip": "v", "media": "pan.mp4", "frames": 6}]);
        let crop = v["target"].as_object_mut().unwrap().remove("crop").unwrap();
        v["target"]["croop"] = crop;
    });
    let folder = world(&[long]);
    let done = folder.run(&format!("{LORA} --steps 1")).fine();
    for said in [
        "train.jsonl, line 1: reference 1: of 6 frames the first 5 are used",
        "train.jsonl, line 1: target: \"croop\" is not read; is \"crop\" meant?",
    ] {
        assert!(done.err.contains(said), "{said}\n{}", done.err);
    }
}

#[test]
fn a_run_at_its_end_or_behind_it_says_so() {
    let folder = world(&samples());
    folder.run(&format!("{LORA} --steps 4")).fine();
    let result = bytes(&folder, "run/adapter.safetensors");
    let done = folder.run(&format!("{LORA} --steps 2 --resume")).fine();
    assert!(done.err.contains("train.steps is 2, but 4 updates have been made"), "{}", done.err);
    let done = folder.run(&format!("{LORA} --steps 4 --resume")).fine();
    assert!(done.err.contains("all 4 updates have been made"), "{}", done.err);
    assert!(bytes(&folder, "run/adapter.safetensors") == result);
}

#[test]
fn what_is_in_the_way_of_a_folder_is_named() {
    let folder = world(&samples());
    folder.write("file", "mine");
    std::os::unix::fs::symlink("nowhere", folder.path("link")).unwrap();
    for (words, said) in [
        ("-o file", "a file of this name is in the way"),
        ("-o file/below", "file is a file, not a folder"),
        ("-o link", "link is a link that leads nowhere"),
        ("--set data.cache=file", "a file of this name is in the way"),
    ] {
        folder.run(&format!("{LORA} {words}")).fails("E1014").says(said);
    }
    assert_eq!(bytes(&folder, "file"), b"mine");
}

#[test]
fn a_run_of_every_weight_begins_from_an_earlier_one() {
    let folder = world(&samples());
    let full = "train full --config run.toml --threads 2 --set train.learning_rate=1e-3";
    folder.run(&format!("{full} --steps 2")).fine();
    let from = "--init-from run/transformer.safetensors";
    folder.run(&format!("{full} --steps 1 --set train.learning_rate=1e-30 -o next {from}")).fine();
    let [a, b] =
        ["run", "next"].map(|run| tensors(&folder.path(run).join("transformer.safetensors")));
    for (name, tensor) in &a {
        let apart = tensor.to_f32_vec().into_iter().zip(b[name].to_f32_vec());
        assert!(apart.into_iter().all(|(a, b)| (a - b).abs() < 1e-6), "{name}");
    }
    folder.run(&format!("{LORA} --steps 1 -o lora")).fine();
    let adapter = "--init-from lora/adapter.safetensors -o no";
    folder.run(&format!("{full} {adapter}")).fails("E0972").says("this is an adapter, not");
    folder.run(&format!("{LORA} {from} -o no")).fails("E0966").says("a whole transformer");
}

#[test]
fn an_adapter_of_another_base_is_used_with_a_warning() {
    let folder = world(&samples());
    for (name, seed) in [("a", 1), ("b", 2)] {
        folder.run(&format!("init {name} --random-weights --seed {seed}")).fine();
    }
    folder.run(&format!("{LORA} --steps 1 --set model.path=a")).fine();
    let adapter = "run/adapter.safetensors";
    let make = "generate --prompt x --size 64x64 --frames 5 --steps 1 --force -o x.gif";
    let said = "it was trained on the transformer with fingerprint ";
    for (model, other) in [("a", false), ("b", true)] {
        for words in [
            format!("{make} --model {model} --lora {adapter}"),
            format!("lora merge {model} --lora {adapter} -o m --force"),
            format!("lora inspect {adapter} --model {model}"),
            format!(
                "{LORA} --steps 1 --set model.path={model} --init-from {adapter} -o from_{model}"
            ),
            format!(
                "{LORA} --steps 1 --set model.path={model} --set model.adapters=[\"{adapter}\"] -o on_{model}"
            ),
        ] {
            let done = folder.run(&words).fine();
            assert_eq!(done.err.contains(said), other, "{words}\n{}", done.err);
        }
    }
    let recipe = folder.run("inspect x.gif.recipe.json").fine().out;
    assert!(recipe.contains("(scale 1, trained on another base model)"), "{recipe}");
    let shown = folder.run(&format!("lora inspect {adapter}")).fine().out;
    assert!(shown.contains("base      "), "{shown}");
    // Joined, it is for the base of the first.
    folder.run(&format!("lora combine {adapter} {adapter}:0.5 -o both.safetensors")).fine();
    let done = folder.run(&format!("{make} --model b --lora both.safetensors")).fine();
    assert!(done.err.contains(said), "{}", done.err);
}

#[test]
fn inspect_says_what_the_files_of_training_are() {
    let folder = world(&samples());
    folder.run(&format!("{LORA} --steps 3 --set data.validation=train.jsonl")).fine();
    let inspect = |name: &str| folder.run(&format!("inspect {name}")).fine().out;
    let settings = inspect("run.toml");
    assert!(settings.contains("settings of a training run"), "{settings}");
    assert!(settings.contains("12 updates of 2"), "{settings}");
    let manifest = inspect("train.jsonl");
    for said in ["anyid.sample/1", "3 samples", "2 samples with 1 reference", "sha256"] {
        assert!(manifest.contains(said), "{said}\n{manifest}");
    }
    let checkpoint = inspect("run/checkpoint.safetensors");
    for said in ["checkpoint of a training run", "update 3 of 3, 6 samples", "settings  ", "best"] {
        assert!(checkpoint.contains(said), "{said}\n{checkpoint}");
    }
    let run = inspect("run");
    for said in ["folder of a training run", "3 updates", "adapter.safetensors"] {
        assert!(run.contains(said), "{said}\n{run}");
    }
    let json = folder.run("inspect run --json").fine().json();
    assert_eq!((&json["run"]["updates"], &json["log"]), (&json!(3), &json!(3)));
    // Settings that decide the result have one digest, in the file and in the checkpoint.
    folder.run(&format!("{LORA} --steps 1 -o plain")).fine();
    let digest = folder.run("inspect run.toml --json").fine().json()["digest"].clone();
    let own = folder.run("inspect plain/checkpoint.safetensors --json").fine().json();
    assert_eq!(own["settings"], digest);
    // What is wrong is listed, and other files of these endings are named as that.
    write_lines(&folder, &[sample("s 1", 0, |v| v["prompt"] = "".into())]);
    let manifest = inspect("train.jsonl");
    assert!(
        manifest.contains("fault     line 1: \"id\"") && manifest.contains("\"prompt\" is empty")
    );
    folder.write("other.toml", "[package]\nname = \"x\"\n");
    folder.run("inspect other.toml").fails("E0915");
    folder.write("other.jsonl", "{\"a\": 1}\n");
    folder.run("inspect other.jsonl").fails("E0915");
    folder.run("inspect run.toml --json").fine().json();
}

#[test]
fn a_best_result_is_the_one_that_the_run_wrote() {
    let folder = world(&samples());
    let words = format!(
        "{LORA} --set data.validation=train.jsonl --set run.validate_every=2 --set run.checkpoint_every=2"
    );
    folder.run(&format!("{words} --steps 4 -o whole")).fine();
    folder.run(&format!("{words} --steps 2")).fine();
    let best = "run/adapter-best.safetensors";
    let checkpoint = "run/checkpoint.safetensors";
    let early = bytes(&folder, checkpoint);
    let again = |steps: u64| folder.run(&format!("{words} --steps {steps} --resume"));
    again(4).fine();
    let whole = bytes(&folder, best);
    assert!(whole == bytes(&folder, "whole/adapter-best.safetensors"));
    let late = bytes(&folder, checkpoint);
    // Killed behind a better one and before the checkpoint that knows of it.
    folder.write(checkpoint, &early);
    again(4).fine();
    assert!(bytes(&folder, best) == whole && bytes(&folder, checkpoint) == late);
    // With another end, the run would not come to it.
    folder.write(checkpoint, &early);
    let done =
        again(2).fails("E0962").says("the best result is of update 4, to which the run does");
    done.says("set train.steps = 4 at least").says(best);
    folder.write(checkpoint, &late);
    // Another run's, one that was damaged, one that was cut off.
    folder.run(&format!("{words} --steps 4 -o other --set train.seed=9")).fine();
    let mut damaged = whole.clone();
    *damaged.last_mut().unwrap() ^= 1;
    let other = bytes(&folder, "other/adapter-best.safetensors");
    for bytes_of in [&other[..], &damaged, &whole[..99], b""] {
        folder.write(best, bytes_of);
        let done = again(6).fails("E0962").says("the best result was changed after update 4");
        assert!(done.says("move it away").err.contains(best));
        assert!(bytes(&folder, best) == bytes_of && bytes(&folder, checkpoint) == late);
    }
    // One that says that it is of a later update is found out there.
    let text = b"lora for 4 updates";
    let at = other.windows(text.len()).position(|part| part == text).unwrap();
    let mut later = other.clone();
    later[at + "lora for ".len()] = b'5';
    folder.write(best, &later);
    again(6).fails("E0962").says("is of another run: update 5 of this one gave no better one");
    assert!(bytes(&folder, best) == later);
    // Without it, the run goes on and says so.
    std::fs::remove_file(folder.path(best)).unwrap();
    let said =
        "the best result of update 4 is no longer there; the next one that is better is written";
    again(4).fine().says(said);
    assert!(!folder.path(best).exists());
    again(8).fine().says(said);
    assert!(folder.path(best).exists(), "the loss falls");
    let done = again(8).fine();
    assert!(!done.err.contains("no longer there"), "{}", done.err);
}
