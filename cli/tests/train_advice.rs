//! What a training says where it cannot go on: what is wrong, all of it at once, what stands, and what helps.
//! Advice that would come to the same end is none.

#![cfg(unix)]

mod common;

use anyid_ir::Tensor;
use common::training::{
    bytes, ended, log, same_end, sample, samples, send, start, wait_for, world, write_lines,
};
use common::{Folder, save, tensors};
use rustix::process::Signal;
use serde_json::json;
use std::fs;
use std::time::Duration;

const LORA: &str = "train lora --config run.toml --threads 2";
const TRANSFORMER: &str = "micro/transformer/diffusion_pytorch_model.safetensors";

/// Gives one number of a tensor of a file another value.
fn damage(folder: &Folder, file: &str, name: &str, value: f32) {
    let path = folder.path(file);
    let mut all = tensors(&path);
    let tensor = all.get_mut(name).unwrap();
    let (shape, mut values) = (tensor.shape().to_vec(), tensor.to_f32_vec());
    values[3] = value;
    *tensor = Tensor::from_f32(shape, &values).unwrap().cast(tensor.dtype());
    let list: Vec<(&str, &Tensor)> = all.iter().map(|(name, own)| (name.as_str(), own)).collect();
    save(&path, &list);
}

/// Multiplies the matrices of an adapter.
fn enlarge(folder: &Folder, file: &str, by: f32) {
    let path = folder.path(file);
    let open = anyid_runtime::checkpoint::Checkpoint::open(&path).unwrap();
    let header = open.metadata().clone();
    let all = tensors(&path).into_iter().map(|(name, own)| {
        let by = if name.ends_with(".alpha") { 1.0 } else { by };
        let values: Vec<f32> = own.to_f32_vec().into_iter().map(|value| value * by).collect();
        (name, Tensor::from_f32(own.shape().to_vec(), &values).unwrap())
    });
    let all: Vec<(String, Tensor)> = all.collect();
    let list = all.iter().map(|(name, own)| (name.as_str(), own));
    anyid_runtime::weights::write_tensors(&path, list, &header).unwrap();
}

#[test]
fn a_value_that_comes_again_is_not_advised_to_go_on() {
    let folder = world(&samples());
    // What an update made is found before a checkpoint has it.
    let words = format!("{LORA} --set train.learning_rate=1e39 --set run.checkpoint_every=1");
    let blamed = " behind update 1: train.learning_rate is 1e39, usual is at most 1\n";
    let done = folder.run(&words).fails("E1001").says(blamed);
    let done = done
        .says("--> --set train.learning_rate=1e39\n")
        .says("lora_")
        .says("take a smaller train.learning_rate, and start a new run");
    let done = done.says("--resume comes to the same value");
    assert!(!done.err.contains("goes on"), "{}", done.err);
    let said = folder.run("inspect run/checkpoint.safetensors").fine().out;
    assert!(said.contains("update 0 of 12"), "{said}");
    folder.run(&format!("{words} --resume")).fails("E1001").says(blamed);
    // What the checkpoint holds can be had, and begun from with another rate.
    let rate = "--set train.learning_rate=1e30 --set run.checkpoint_every=1 -o wild";
    let done = folder.run(&format!("{LORA} {rate}")).fails("E1001").says("sample s_");
    let (_, rest) = done.err.split_once("--resume --steps ").expect("the way is told");
    let steps: u64 = rest.split(' ').next().unwrap().parse().unwrap();
    folder.run(&format!("{LORA} {rate} --resume --steps {steps}")).fine();
    let from = "--init-from wild/adapter.safetensors";
    let done = folder.run(&format!("{LORA} {rate} --resume")).fails("E1001");
    done.says(&format!("{from} begins with its result"));
}

#[test]
fn what_no_update_has_a_part_in_is_never_blamed_on_the_rate() {
    let folder = world(&samples());
    let refused = |words: &str, said: &[&str]| {
        let mut done = folder.run(words).fails("E1001");
        for said in said {
            done = done.says(said);
        }
        assert!(!done.err.contains("learning_rate"), "{}", done.err);
    };
    // Settings: the key, what is usual, and the flag that gave the value.
    for (key, value, usual, which) in [
        ("lora.alpha", "1e30", "at most 4000", "smaller"),
        ("lora.alpha", "1e38", "at most 4000", "smaller"),
        ("train.shift", "1e300", "0.001 to 1000", "smaller"),
    ] {
        refused(
            &format!("{LORA} --set {key}={value} -o {key}{value}"),
            &[
                &format!(": {key} is {value}, usual is {usual}\n"),
                &format!("--> --set {key}={value}\n"),
                &format!("help: take a {which} {key}, and start a new run in another run.folder"),
            ],
        );
    }
    // Behind an update, any may be the cause: what has no gradient yet is divided by 0 here.
    let done = folder.run(&format!("{LORA} --set train.epsilon=1e-60 -o eps")).fails("E1001");
    done.says(" behind update 1: train.epsilon is 1e-60, usual is at least 1e-30\n")
        .says("help: take a larger train.epsilon, and start a new run");
    // First values of a file.
    folder.run(&format!("{LORA} --steps 1 -o begun")).fine();
    let adapter = "begun/adapter.safetensors";
    let scaled = format!("{LORA} --set model.adapters=[\"{adapter}:1e37\"] -o scaled");
    refused(
        &scaled,
        &[
            "with model.adapters, and not without\n",
            "--> --set model.adapters=",
            "help: give what model.adapters names smaller scales, and start a new run",
        ],
    );
    enlarge(&folder, adapter, 1e38);
    refused(
        &format!("{LORA} --init-from {adapter} -o from"),
        &[" of the first values goes up to ", &format!("--> {adapter}\n"), "give another file"],
    );
    // A weight of the model, of a network that is trained and of one that encodes for it.
    let sound = bytes(&folder, TRANSFORMER);
    for (words, folder_of) in [(LORA, "huge"), (&LORA.replace("lora", "full"), "whole")] {
        damage(&folder, TRANSFORMER, "proj_out.weight", 1e38);
        refused(
            &format!("{words} -o {folder_of}"),
            &[
                &format!(": the weight \"proj_out.weight\" of {TRANSFORMER} goes up to "),
                "help: get the model again: it is damaged or was converted wrongly, and start a new",
            ],
        );
        folder.write(TRANSFORMER, &sound);
    }
    let vae = "micro/vae/diffusion_pytorch_model.safetensors";
    damage(&folder, vae, "quant_conv.weight", 1e38);
    refused(LORA, &[&format!("\"quant_conv.weight\" of {vae} goes up to "), "get the model again"]);
}

#[test]
fn a_weight_that_is_not_finite_is_named_and_asks_for_another_model() {
    let folder = world(&samples());
    folder.run(&format!("{LORA} --steps 2 -o begun")).fine();
    let sound = bytes(&folder, TRANSFORMER);
    damage(&folder, TRANSFORMER, "blocks.1.attn2.to_out.0.weight", f32::NAN);
    let name = "blocks.1.attn2.to_out.0.weight\" of ";
    let done = folder.run(&format!("{LORA} --steps 2")).fails("E1001").says(name);
    let done = done.says("get it again, and start a new run in another run.folder");
    assert!(!done.err.contains("--resume"), "{}", done.err);
    // Where it is trained, it is found before anything is computed.
    let full = "train full --config run.toml --threads 2 -o full";
    let done = folder.run(full).fails("E1001").says("in the model: its weight ").says(name);
    done.says("nothing was trained yet: the same command then begins again");
    assert!(!folder.path("full/checkpoint.safetensors").exists());
    folder.write(TRANSFORMER, sound);
    folder.run(&format!("{full} --steps 1")).fine();
    // So is a file of first values.
    let path = folder.path("full/transformer.safetensors");
    let file = anyid_runtime::checkpoint::Checkpoint::open(&path).unwrap();
    let header = file.metadata().clone();
    let mut list = anyid_runtime::weights::read_tensors(&path).unwrap();
    let (_, values) = list.iter_mut().find(|(_, own)| own.as_f32().is_ok()).unwrap();
    values.as_f32_mut().unwrap()[0] = f32::INFINITY;
    let all = list.iter().map(|(name, tensor)| (name.as_str(), tensor));
    anyid_runtime::weights::write_tensors(&folder.path("bad.safetensors"), all, &header).unwrap();
    let next = full.replace("-o full", "-o next --init-from bad.safetensors");
    let done = folder.run(&next).fails("E1001").says("in the first values: ");
    done.says("--> bad.safetensors").says("help: give another file");
}

#[test]
fn a_second_signal_says_what_stands() {
    let folder = world(&samples());
    folder.run(&format!("{LORA} --steps 2")).fine();
    // Nobody reads from it, so that the run waits for ever.
    fs::remove_file(folder.path("run/log.jsonl")).unwrap();
    let events = "run/events.out.tfevents.0.anyid-rt";
    fs::remove_file(folder.path(events)).unwrap();
    let made = std::process::Command::new("mkfifo").arg(folder.path("run/log.jsonl")).status();
    assert!(made.unwrap().success());
    let child = start(&folder, &format!("{LORA} --steps 4 --resume"));
    wait_for(&folder, events);
    std::thread::sleep(Duration::from_millis(200));
    send(&child, Signal::INT);
    std::thread::sleep(Duration::from_millis(700));
    send(&child, Signal::TERM);
    let done = ended(child);
    assert_eq!(done.code, 130, "{}", done.err);
    for said in [
        "stopping on SIGINT; a second signal stops at once",
        "error[E1002]: interrupted by SIGINT; no partial file was left",
        "help: the checkpoint of update 2 stands in run/checkpoint.safetensors: --resume goes on from there",
    ] {
        assert!(done.err.contains(said), "{said}\n{}", done.err);
    }
}

#[test]
fn a_signal_at_the_very_beginning_says_what_stands() {
    let folder = world(&samples());
    folder.run(&format!("{LORA} --steps 2")).fine();
    let mut told = 0;
    for round in 0..16u64 {
        let child = start(&folder, &format!("{LORA} --steps 4000000 --resume"));
        std::thread::sleep(Duration::from_micros(800 * round));
        // Not SIGINT, which shells ignore for programs in the background: one that comes before the
        // handlers are there would be lost.
        send(&child, Signal::TERM);
        let done = ended(child);
        // Before the handlers of signals are there, the system ends it.
        if done.code == -1 {
            continue;
        }
        assert_eq!(done.code, 143, "{}", done.err);
        told += 1;
        let known = ["nothing was done yet", "the checkpoint of update 2 stands"];
        assert!(known.iter().any(|said| done.err.contains(said)), "{}", done.err);
        for wrong in ["was written", "during "] {
            assert!(!done.err.contains(wrong), "{}", done.err);
        }
    }
    assert!(told > 0);
}

#[test]
fn the_folder_of_a_model_or_an_adapter_is_no_place_for_results() {
    let folder = world(&samples());
    folder.write("peft/adapter_config.json", "{}");
    folder.run("init other --random-weights").fine();
    let names = |name: &str| {
        let mut names: Vec<_> = fs::read_dir(folder.path(name))
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    };
    let before = names("micro");
    for (words, said) in [
        ("-o micro", "run.folder, micro, is the folder of the model that is trained"),
        ("-o other", "run.folder, other, is a model folder: it has model_index.json"),
        ("-o other/vae", "run.folder, other/vae, is a part of a model folder: it has config.json"),
        ("-o peft", "is the folder of an adapter: it has adapter_config.json"),
        ("--set data.cache=other", "data.cache, other, is a model folder"),
    ] {
        folder.run(&format!("{LORA} {words}")).fails("E0979").says(said);
        let check = LORA.replace("train lora", "train check");
        folder.run(&format!("{check} {words}")).fails("E0979").says("a folder of its own");
    }
    assert_eq!(names("micro"), before);
    // A file that happens to have such a name makes no folder a model's.
    folder.write("mine/config.json", "{}");
    folder.run(&format!("{LORA} --steps 1 -o mine")).fine();
}

#[test]
fn what_is_lost_of_a_log_is_said_when_a_run_goes_on() {
    let folder = world(&samples());
    folder.run(&format!("{LORA} --steps 6 -o whole")).fine();
    folder.run(&format!("{LORA} --steps 4")).fine();
    let path = folder.path("run/log.jsonl");
    let kept = fs::read(&path).unwrap();
    fs::remove_file(&path).unwrap();
    let more = |steps: u64| folder.run(&format!("{LORA} --steps {steps} --resume"));
    more(5).fine().says("it lacks the lines of 4 updates from 1 to 4, whose numbers are lost");
    assert_eq!(log(&folder, "run").len(), 1);
    folder.write("run/log.jsonl", b"\xff\xfeno log\n");
    let done = more(6).fine().says("it lacks the lines of 5 updates from 1 to 5");
    done.says("1 line of it cannot be read and is dropped");
    // What is learned is the same.
    let [a, b] = ["run", "whole"].map(|run| bytes(&folder, &format!("{run}/adapter.safetensors")));
    assert!(a == b);
    // With its lines there is nothing to say.
    folder.run(&format!("{LORA} --steps 4 -o cut")).fine();
    folder.write("cut/log.jsonl", kept);
    let done = folder.run(&format!("{LORA} --steps 6 -o cut --resume")).fine();
    assert!(!done.err.contains("log.jsonl"), "{}", done.err);
    same_end(&folder, "cut", "whole");
    fs::remove_file(&path).unwrap();
    fs::create_dir(&path).unwrap();
    more(7).fails("E1014").says("a folder has the name of a file that the run writes: log.jsonl");
}

#[test]
fn all_that_is_in_the_way_is_listed_at_once() {
    let folder = world(&samples());
    folder.run(&format!("{LORA} --steps 1")).fine();
    for name in ["adapter.safetensors", "log.jsonl", "checkpoint.safetensors"] {
        fs::create_dir_all(folder.path("other").join(name)).unwrap();
    }
    let done = folder.run(&format!("{LORA} -o other")).fails("E1014");
    done.says("checkpoint.safetensors, log.jsonl, adapter.safetensors");
    let entries = fs::read_dir(folder.path("cache")).unwrap();
    let names: Vec<String> =
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    for name in &names {
        fs::create_dir_all(folder.path("blocked").join(name)).unwrap();
    }
    let words = format!("{LORA} --steps 1 -o new --set data.cache=blocked");
    let done = folder.run(&words).fails("E1014").says("folders have names of entries of the cache");
    // Clips and prompts; the empty prompt and black frames are entries that no line names.
    let named = names.iter().filter(|name| done.err.contains(*name)).count();
    assert!(named + 1 >= names.len(), "{named} of {}\n{}", names.len(), done.err);
    done.says("nothing was trained yet: the same command begins again");
    for name in &names {
        fs::remove_dir(folder.path("blocked").join(name)).unwrap();
    }
    folder.run(&words).fine();
}

#[test]
fn all_faults_of_settings_are_said_at_once() {
    let folder = world(&samples());
    let text = fs::read_to_string(folder.path("run.toml")).unwrap();
    let wrong = text.replace("width = 64", "width = -1").replace("batch = 2", "batch = 0");
    folder.write("wrong.toml", wrong.replace("checkpoint_every", "checkpoint_evry"));
    let words =
        "train lora --config wrong.toml --steps 0 --set train.clip=nan --set lora.rank=many";
    let done = folder.run(words).fails("E0955").says("6 faults in the settings:\n");
    let rows = [
        "wrong.toml:6: video.width: invalid value: integer `-1`, expected a whole number, 0 or more",
        "wrong.toml:14: train.batch cannot be 0; give 1 to 1048576",
        "wrong.toml:18: unknown field `checkpoint_evry`; did you mean checkpoint_every?",
        "--steps 0: train.steps cannot be 0; give 1 or more",
        "--set train.clip=nan: train.clip cannot be nan; give 0 (no limit) or more",
        "--set lora.rank=many: lora.rank: invalid type: string \"many\", expected a whole number",
    ];
    let mut places = Vec::new();
    for row in rows {
        let at = done.err.find(row).unwrap_or_else(|| panic!("{row}\n{}", done.err));
        places.push(at);
    }
    assert!(places[..3].is_sorted(), "lines come in their order\n{}", done.err);
    assert!(done.err.contains("--> wrong.toml\n"), "{}", done.err);
    // Values that have the right type, and what only the model tells.
    let done = folder.run(&format!("{LORA} --steps 0 --set train.batch=0")).fails("E0956");
    done.says("train.steps cannot be 0").says("train.batch cannot be 0");
    let words = "--set video.width=100 --set lora.targets=[\"to_q\"]";
    let done = folder.run(&format!("{LORA} {words}")).fails("E0956").says("width 100 is not");
    done.says("no linear of the model is called \"to_q\"");
    // What follows from another fault is none.
    folder.write("other.toml", text.replace("manifest = ", "manifst = "));
    let done = folder.run("train lora --config other.toml").fails("E0955");
    let done = done.says("did you mean manifest?");
    assert!(!done.err.contains("is not set"), "{}", done.err);
    for (budget, said) in [("0", "train.budget: \"0\" is no memory at all"), ("-1", "24GiB")] {
        let words = format!("{LORA} --set train.budget={budget}");
        let code = if budget == "0" { "E0602" } else { "E0955" };
        folder.run(&words).fails(code).says(said).says(&format!("--> --set train.budget={budget}"));
    }
    folder.run(&format!("{LORA} --set data.sha256=aa")).fails("E0956").says("64 hexadecimal");
}

#[test]
fn what_differs_is_said_once_and_a_new_run_is_advised_only_where_it_can_begin() {
    let folder = world(&samples());
    folder.run(&format!("{LORA} --steps 2")).fine();
    let resumed = |more: &str| folder.run(&format!("{LORA} --resume {more}")).fails("E0963");
    let from = "--init-from run/adapter.safetensors begins with its result";
    let lines = |err: &str| err.lines().filter(|line| line.contains(", now ")).count();
    // Everything is encoded otherwise then, which is no difference of its own.
    let done = resumed("--set video.width=96 --set video.height=96");
    assert_eq!(lines(&done.err), 2, "{}", done.err);
    done.says("video.width: 64, now 96").says(from);
    resumed("--set train.learning_rate=0.5").says(from);
    let done = resumed("--set lora.rank=2");
    assert!(!done.err.contains("--init-from"), "{}", done.err);
    let full = folder.run("train full --config run.toml --resume").fails("E0963");
    assert!(!full.err.contains("--init-from") && lines(&full.err) == 1, "{}", full.err);
    folder.run("init wide --preset small").fine();
    let done = resumed("--set model.path=wide");
    assert!(!done.err.contains("--init-from") && lines(&done.err) == 1, "{}", done.err);
    // Another manifest: its hash, with what differs.
    let mut other = samples();
    other[0]["prompt"] = "Somebody else.".into();
    write_lines(&folder, &other);
    let done = resumed("");
    assert_eq!(lines(&done.err), 1, "{}", done.err);
    done.says("SHA-256 of the manifest: ").says("\n    line 1 (s_1): the prompt\n");
    write_lines(&folder, &samples());
    // Of a run that has no result yet, the way to one.
    fs::remove_file(folder.path("run/adapter.safetensors")).unwrap();
    let done = resumed("--set train.learning_rate=0.5");
    done.says("which its own command with --resume --steps 2 writes as adapter.safetensors");
    folder.run(&format!("{LORA} --resume --steps 2")).fine();
    let next =
        "--set train.learning_rate=0.5 --init-from run/adapter.safetensors -o next --steps 1";
    folder.run(&format!("{LORA} {next}")).fine();
}

#[test]
fn what_is_asked_for_and_cannot_be_so_gets_a_warning() {
    let folder = world(&samples());
    let warned = |more: &str, said: &str| {
        let done = folder.run(&format!("train check --config run.toml {more}")).fine();
        assert_eq!(done.err.contains("warning"), !said.is_empty(), "{more}\n{}", done.err);
        done.says(said);
    };
    warned("", "");
    warned("--set train.together=2", "");
    // A target that is shorter than its line says, of which a run takes less.
    let line = sample("s_9", 60, |v| v["target"]["frames"] = 500.into());
    folder.write("long.jsonl", line.to_string());
    let said = "sample s_9: the target has 500 frames by its line, and ";
    warned("--set data.manifest=long.jsonl --set data.cache=own", said);
    warned("--set train.together=8", "train.together is 8, and a batch has 2 clips: calls take 2");
    let all = "all 3 samples of data.validation are learned from as well (s_1, s_2, s_3)";
    warned("--set data.validation=train.jsonl", all);
    folder.write("held.jsonl", sample("v_1", 65, |_| {}).to_string());
    warned("--set data.validation=held.jsonl", "");
    let some = [sample("v_1", 65, |_| {}), sample("v_2", 10, |_| {})];
    folder.write("held.jsonl", some.map(|line| line.to_string()).join("\n"));
    warned(
        "--set data.validation=held.jsonl",
        "1 of 2 samples of data.validation are learned from as well (v_2)",
    );
}

#[test]
fn lines_of_other_files_and_files_of_other_kinds_are_told_from_faulty_ones() {
    let folder = world(&samples());
    folder.write("notes.txt", "Some words.\n");
    let target = |v: &mut serde_json::Value| v["target"]["media"] = "notes.txt".into();
    write_lines(&folder, &[sample("s_1", 10, target)]);
    let done = folder.run(LORA).fails("E0957").says("this is not a picture or video");
    done.says("`anyid-rt inspect FILE` says what a file is");
    let other = |v: &mut serde_json::Value| v["schema"] = "anyid.sample/2".into();
    write_lines(&folder, &[sample("s 1", 10, other), sample("s_2", 10, other)]);
    let done = folder.run(LORA).fails("E0957").says("line 1: \"id\" is \"s 1\"");
    done.says("a manifest of samples, for `train lora` and `train full`").says("in each line");
    let pair = json!({"schema": "anyid.dpo/1", "id": "m_1", "chosen": {}, "rejected": {}});
    write_lines(&folder, &[pair]);
    let done = folder.run(LORA).fails("E0957").says("this is a manifest of pairs, for `train dpo`");
    assert!(!done.err.contains("is missing"), "{}", done.err);
    let line = sample("s_1", 10, |_| {}).to_string().replacen("\"start\":10", "\"start\":NaN", 1);
    folder.write("train.jsonl", line);
    folder.run(LORA).fails("E0957").says("this is not JSON: NaN is no number of JSON, at column ");
}
