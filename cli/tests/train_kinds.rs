//! Preferences and whole transformers: what their runs must show, and what they refuse.

mod common;

use common::Folder;
use common::training::{bytes, log, same_end, sample, samples, world, write_lines};
use serde_json::{Value, json};

const DPO: &str = "train dpo --config run.toml --threads 2 --set train.learning_rate=1e-3";

/// A folder with three pairs of clips that the program made, of which one is always rejected.
fn pairs() -> Folder {
    let folder = world(&[]);
    for seed in 0..4 {
        let words =
            "generate --model @micro --size 64x64 --frames 5 --steps 1 --prompt x -q --seed";
        folder.run(&format!("{words} {seed} -o g{seed}.mp4")).fine();
    }
    write_lines(&folder, &lines(|_| {}));
    folder
}

fn lines(change: impl Fn(&mut Value)) -> Vec<Value> {
    let header = json!({"schema": "anyid.dpo/1", "pairs": 3});
    let pair = |at: usize| {
        let mut value = json!({
            "schema": "anyid.dpo/1", "id": format!("m_{at}"), "sample": sample("s", 10, |_| {}),
            "chosen": {"video": format!("g{at}.mp4")},
            "rejected": {"video": "g3.mp4"},
        });
        change(&mut value);
        value
    };
    std::iter::once(header).chain((0..3).map(pair)).collect()
}

#[test]
fn preferences_begin_at_the_logarithm_of_two_and_are_learned() {
    let folder = pairs();
    let words = format!("{DPO} --steps 30 --set train.batch=3 --set data.validation=train.jsonl");
    let done = folder.run(&words).fine();
    assert!(done.err.contains("above 2e-5"), "{}", done.err);
    let rows = log(&folder, "run");
    let of = |row: &Value, name: &str| row[name].as_f64().unwrap();
    assert_eq!(of(&rows[0], "loss"), std::f64::consts::LN_2, "exactly, in f32");
    assert_eq!(of(&rows[0], "margin"), 0.0);
    let last = &rows[29]["validation"];
    assert_eq!(of(last, "accuracy"), 1.0, "{last}");
    assert_eq!(of(last, "pair_accuracy"), 1.0, "{last}");
    assert!(of(last, "margin") > 0.0 && of(last, "loss") < std::f64::consts::LN_2, "{last}");
    folder.run("lora inspect run/adapter.safetensors").fine();
    // bf16 rounds the policy and its reference alike.
    let words = format!("{DPO} --steps 1 --set train.batch=3 --set model.precision=bf16 -o narrow");
    folder.run(&words).fine();
    assert_eq!(of(&log(&folder, "narrow")[0], "loss"), std::f64::consts::LN_2, "exactly, in bf16");
}

#[test]
fn preferences_go_on_to_the_same_bits_and_take_a_model_with_adapters() {
    let folder = pairs();
    folder.run(&format!("{DPO} --steps 6 -o whole")).fine();
    folder.run(&format!("{DPO} --steps 3 -o cut")).fine();
    folder.run(&format!("{DPO} --steps 6 -o cut --resume")).fine();
    let [a, b] = ["cut", "whole"].map(|run| bytes(&folder, &format!("{run}/adapter.safetensors")));
    assert!(a == b);
    // On top of an adapter the reference is another, and the loss begins at log 2 again.
    let on = "--set model.adapters=[\"whole/adapter.safetensors\"]";
    folder.run(&format!("{DPO} --steps 1 -o next {on}")).fine();
    let first = log(&folder, "next")[0]["loss"].as_f64().unwrap();
    assert_eq!(first, std::f64::consts::LN_2);
    folder.run(&format!("{DPO} --steps 6 -o whole --resume {on}")).fails("E0963");
}

#[test]
fn what_the_untrained_network_gives_is_not_blamed_on_the_rate() {
    let folder = pairs();
    for (key, value, most) in [("beta", "1e300", "1e6"), ("rejected_weight", "1e60", "1000")] {
        let words = format!("train dpo --config run.toml --set dpo.{key}={value} -o {key}");
        let done = folder.run(&words).fails("E1001");
        let done = done.says(&format!(": dpo.{key} is {value}, usual is at most {most}\n"));
        let done = done.says(&format!("help: take a smaller dpo.{key}, and start a new run"));
        assert!(!done.err.contains("smaller train.learning_rate"), "{}", done.err);
    }
    let path = folder.path("micro/transformer/diffusion_pytorch_model.safetensors");
    let mut all = common::tensors(&path);
    let tensor = all.get_mut("proj_out.weight").unwrap();
    let (shape, mut values) = (tensor.shape().to_vec(), tensor.to_f32_vec());
    values[3] = 1e38;
    *tensor = anyid_ir::Tensor::from_f32(shape, &values).unwrap().cast(tensor.dtype());
    let list: Vec<_> = all.iter().map(|(name, own)| (name.as_str(), own)).collect();
    common::save(&path, &list);
    let done = folder.run(&format!("{DPO} -o huge")).fails("E1001");
    let done = done.says(": the weight \"proj_out.weight\" of micro/transformer/");
    let done = done.says("get the model again");
    assert!(!done.err.contains("smaller train.learning_rate"), "{}", done.err);
}

#[test]
fn fresh_draws_differ_in_every_epoch_and_runs_go_on_to_the_same_bits() {
    let folder = pairs();
    let entries = |folder: &Folder| std::fs::read_dir(folder.path("cache")).unwrap().count();
    let words = format!("{DPO} --set train.batch=3 --set dpo.draws=fresh");
    folder.run(&format!("{words} --steps 1 -o one")).fine();
    let before = entries(&folder);
    folder.run(&format!("{words} --steps 3 -o more")).fine();
    assert_eq!(entries(&folder), before, "what the untrained network gets is not kept");
    // Of values that do not move, the error of the chosen clip tells the draws of three epochs.
    let still = "--steps 3 --set train.batch=3 --set train.learning_rate=1e-30 \
                 --set train.weight_decay=0.0 --set dpo.sft_weight=1.0";
    let losses = |run: &str, draws: &str| -> Vec<f64> {
        folder.run(&format!("{DPO} {still} -o {run} --set dpo.draws={draws}")).fine();
        log(&folder, run).iter().map(|row| row["loss"].as_f64().unwrap()).collect()
    };
    let fresh = losses("fresh", "fresh");
    assert!(fresh[0] != fresh[1] && fresh[1] != fresh[2] && fresh[0] != fresh[2], "{fresh:?}");
    let fixed = losses("fixed", "1");
    assert!(fixed[0] == fixed[1] && fixed[1] == fixed[2], "{fixed:?}");
    // Null forms have reference errors of their own: no epoch moves from the logarithm of two.
    let nulls = "--set dpo.sft_weight=0.0 --set dpo.null_probability=0.5 --set dpo.draws=1";
    folder.run(&format!("{DPO} {still} {nulls} -o nulls")).fine();
    for row in log(&folder, "nulls") {
        assert_eq!(row["loss"].as_f64().unwrap(), std::f64::consts::LN_2, "{row}");
    }
    assert!(entries(&folder) > before);
    let rows = log(&folder, "one");
    assert_eq!(rows[0]["loss"].as_f64().unwrap(), std::f64::consts::LN_2);
    // A run that was cut goes on to the same bits.
    folder.run(&format!("{words} --steps 4 -o a")).fine();
    folder.run(&format!("{words} --steps 2 -o b")).fine();
    folder.run(&format!("{words} --steps 4 -o b --resume")).fine();
    let [a, b] = ["a", "b"].map(|run| bytes(&folder, &format!("{run}/adapter.safetensors")));
    assert!(a == b);
    let fixed = format!("{DPO} --set train.batch=3 --steps 8 -o b --resume");
    folder.run(&fixed).fails("E0963").says("dpo.draws: \"fresh\", now 16");
    folder.run(&format!("{DPO} --set dpo.draws=some")).fails("E0955").says("\"fresh\"");
}

#[test]
fn pairs_that_cannot_be_used_are_listed() {
    let folder = pairs();
    folder
        .run("generate --model @micro --size 96x64 --frames 5 --steps 1 --prompt x -q -o wide.mp4")
        .fine();
    for (name, value, said) in [
        ("rejected", json!({"video": "wide.mp4"}), "64x64 pixels, the rejected one 96x64"),
        ("chosen", json!({"video": "g0.mp4", "sha256": "a".repeat(64)}), "the manifest says aaaa"),
        ("chosen", json!({"video": "g0.mp4", "sha256": "aa"}), "not 64 hexadecimal digits"),
        ("rejected", json!({"video": "none.mp4"}), "the file does not exist"),
        ("chosen", json!({}), "chosen: \"video\" is missing"),
    ] {
        write_lines(&folder, &lines(|v| v[name] = value.clone()));
        folder.run(&format!("{DPO} --steps 1")).fails("E0957").says(said);
    }
    write_lines(&folder, &samples());
    folder.run(&format!("{DPO} --steps 1")).fails("E0957").says("expected \"anyid.dpo/1\"");
}

#[test]
fn every_weight_can_be_trained_and_the_result_takes_the_place_of_the_model() {
    let folder = world(&[sample("s_1", 10, |_| {})]);
    folder.run("init m --random-weights").fine();
    let words = "train full --config run.toml --threads 2 --set model.path=m --set train.batch=4 \
                 --set train.learning_rate=3e-3 --set train.loss_weight=none";
    folder.run(&format!("{words} --steps 60 -o whole")).fine();
    let rows = log(&folder, "whole");
    let mean = |rows: &[Value]| {
        rows.iter().map(|row| row["error"].as_f64().unwrap()).sum::<f64>() / rows.len() as f64
    };
    let [first, last] = [mean(&rows[..5]), mean(&rows[55..])];
    assert!(last < 0.6 * first, "{first} to {last}");
    let moved = rows[59]["moved"].as_object().unwrap();
    assert!(moved.len() > 60 && moved.contains_key("patch_embedding.weight"), "{moved:?}");
    // A run that was cut goes on to the same bits.
    folder.run(&format!("{words} --steps 4 -o a")).fine();
    folder.run(&format!("{words} --steps 2 -o b")).fine();
    folder.run(&format!("{words} --steps 4 -o b --resume")).fine();
    let [a, b] = ["a", "b"].map(|run| bytes(&folder, &format!("{run}/transformer.safetensors")));
    assert!(a == b);
    let target = folder.path("m/transformer/diffusion_pytorch_model.safetensors");
    std::fs::copy(folder.path("whole/transformer.safetensors"), target).unwrap();
    folder.run("generate --model m --prompt x --size 64x64 --frames 5 --steps 2 -o x.gif").fine();
}

#[test]
fn what_is_kept_changes_no_bit_and_a_budget_decides_it() {
    let folder = world(&samples());
    let words = "train lora --config run.toml --threads 2 --steps 4";
    folder.run(&format!("{words} -o all")).fine();
    folder.run(&format!("{words} -o carry --set train.keep=carry")).fine();
    same_end(&folder, "carry", "all");
    let needs = |more: &str| {
        let check =
            folder.run(&format!("train check --config run.toml --json {more}")).fine().json();
        let shapes = check["shapes"].as_array().unwrap().clone();
        shapes.iter().map(|shape| shape["workspace_bytes"].as_u64().unwrap()).max().unwrap()
    };
    let [most, least] = ["", "--set train.keep=carry"].map(needs);
    assert!(least < most, "{least} of {most}");
    // More than the least needs with everything else, less than the most.
    let (mut taken, mut stated) = (None, String::new());
    let mut smallest = std::collections::BTreeSet::new();
    for budget in (8..80).map(|step| step * 128 * 1024) {
        let words = format!("train check --config run.toml --set train.budget={budget}B --json");
        let done = folder.run(&words);
        if done.code == 0 {
            let shapes = done.json()["shapes"].as_array().unwrap().clone();
            let own = shapes.iter().map(|shape| shape["workspace_bytes"].as_u64().unwrap());
            assert!(shapes.iter().any(|shape| shape["kept"] != "all"), "{shapes:?}");
            taken = Some((budget, own.max().unwrap()));
            break;
        }
        assert_eq!(done.code, 3, "{}", done.err);
        // Whatever is given, it is the smallest that fits all shapes, and the larger one is named.
        let done =
            done.fails("E0601").says("2 samples with 3 latent frames of references in one call");
        let (_, rest) = done.err.split_once("train.budget = \"").expect("it is stated");
        stated = rest.split_once('"').expect("it ends").0.to_owned();
        smallest.insert(stated.clone());
    }
    assert_eq!(smallest.len(), 1, "{smallest:?}");
    let check = |budget: &str| {
        folder.run(&format!("train check --config run.toml --set train.budget={budget}"))
    };
    check(&stated).fine();
    let less = stated.trim_end_matches("KiB").parse::<u64>().unwrap() - 1;
    let done = check(&format!("{less}KiB --set train.together=1"));
    assert!(!done.err.contains("lower train.together"), "{}", done.err);
    let done = check(&format!("{less}KiB")).fails("E0601").says("lower train.together");
    done.says(&format!("--> --set train.budget={less}KiB"));
    let done = check("1KiB --set train.together=1").fails("E0601").says("1 sample with ");
    assert!(!done.err.contains("lower train.together"), "{}", done.err);
    let (budget, workspace) = taken.expect("some budget is enough");
    assert!(workspace < most, "{workspace} of {most}");
    folder.run(&format!("{words} -o tight --set train.budget={budget}B")).fine();
    same_end(&folder, "tight", "all");
    folder.run(&format!("{words} -o no --set train.keep=some")).fails("E0524");
    folder.run(&format!("{words} -o no --set train.budget=much")).fails("E0602");
}

#[test]
fn a_shared_cache_gives_the_bits_of_an_own_one() {
    let folder = world(&samples());
    let words = "train lora --config run.toml --threads 2 --steps 4";
    folder.run(&format!("{words} -o one")).fine();
    folder.run(&format!("{words} -o two --set data.cache=other")).fine();
    same_end(&folder, "one", "two");
    // An entry that is damaged is made again, and said to be.
    let entry = std::fs::read_dir(folder.path("cache")).unwrap().next().unwrap().unwrap().path();
    let sound = std::fs::read(&entry).unwrap();
    std::fs::write(&entry, &sound[..sound.len() - 1]).unwrap();
    let done = folder.run(&format!("{words} -o three")).fine();
    assert!(
        done.err.contains("an entry of the cache is damaged and is made again: "),
        "{}",
        done.err
    );
    assert!(done.err.contains(entry.file_name().unwrap().to_str().unwrap()), "{}", done.err);
    assert!(std::fs::read(&entry).unwrap() == sound);
    same_end(&folder, "three", "one");
}

#[test]
fn a_run_goes_on_only_with_what_it_was_begun_with() {
    let folder = world(&samples());
    folder.write("held.jsonl", sample("v", 65, |_| {}).to_string());
    let words = "train lora --config run.toml --threads 2 --set data.validation=held.jsonl";
    folder.run(&format!("{words} --steps 2")).fine();
    let resumed = format!("{words} --steps 4 --resume");
    // The same name, and another file.
    let picture = bytes(&folder, "a.png");
    let mut other = picture.clone();
    other.extend(b"one byte more");
    folder.write("a.png", &other);
    let done = folder.run(&resumed).fails("E0963").says("digest of clips and prompts");
    let done = done.says("line 1 (s_1): the primary reference").says("line 2 (s_2): the primary");
    assert!(!done.err.contains("the target"), "{}", done.err);
    folder.write("a.png", &picture);
    let video = bytes(&folder, "pan.mp4");
    let other = std::fs::read(folder.path("pan.mp4")).unwrap();
    folder.write("pan.mp4", [&other[..], b"\0\0\0\x08free"].concat());
    let done = folder.run(&resumed).fails("E0963").says("line 1 (s_1): the target ");
    done.says("line 2 (s_2): the target ").says("another reference");
    folder.write("pan.mp4", &video);
    folder.write("held.jsonl", sample("v", 60, |_| {}).to_string());
    folder.run(&resumed).fails("E0963").says("digest of the validation set");
    folder.write("held.jsonl", sample("v", 65, |_| {}).to_string());
    folder.run(&format!("{resumed} --set lora.rank=8")).fails("E0963").says("lora.rank: 4, now 8");
    // It is what is in the files that counts, not where they lie.
    std::fs::create_dir(folder.path("elsewhere")).unwrap();
    for name in ["held.jsonl", "train.jsonl", "pan.mp4", "a.png", "run.toml"] {
        std::fs::rename(folder.path(name), folder.path("elsewhere").join(name)).unwrap();
    }
    let words = "train lora --config elsewhere/run.toml --set model.path=micro --threads 2 -o run";
    let held = "--set data.validation=elsewhere/held.jsonl";
    folder.run(&format!("{words} {held} --steps 4 --resume")).fine();
    folder.run(&format!("{words} --steps 4 --resume")).fails("E0963").says("now none");
}

#[test]
fn a_run_on_an_adapter_goes_on_where_the_adapter_lies_elsewhere_and_not_with_another() {
    let folder = world(&samples());
    let words = "train lora --config run.toml --threads 2";
    for seed in [1, 2] {
        folder.run(&format!("{words} --steps 1 -o s{seed} --seed {seed}")).fine();
    }
    let on = |name: &str| format!("{words} --set model.adapters=[\"{name}\"]");
    folder.run(&format!("{} --steps 2", on("s1/adapter.safetensors"))).fine();
    folder.write("moved.safetensors", bytes(&folder, "s1/adapter.safetensors"));
    folder.run(&format!("{} --steps 3 --resume", on("moved.safetensors"))).fine();
    let other = format!("{} --steps 3 --resume", on("s2/adapter.safetensors"));
    folder.run(&other).fails("E0963").says("fingerprint of the model");
}

#[test]
fn results_of_others_are_not_replaced() {
    let folder = world(&samples());
    for name in ["adapter.safetensors", "adapter-best.safetensors", "log.jsonl"] {
        let path = format!("run/{name}");
        std::fs::create_dir_all(folder.path("run")).unwrap();
        folder.write(&path, "mine");
        for more in ["", "--resume"] {
            let words = format!("train lora --config run.toml --steps 1 {more}");
            folder.run(&words).fails("E0964").says(name);
        }
        assert_eq!(bytes(&folder, &path), b"mine");
        std::fs::remove_file(folder.path(&path)).unwrap();
    }
}

#[test]
fn a_run_that_ended_early_has_ended() {
    let folder = world(&samples());
    let words = "train lora --config run.toml --threads 2 --steps 40 --set run.validate_every=1 \
                 --set run.patience=1 --set train.learning_rate=1e-30 \
                 --set data.validation=train.jsonl";
    folder.run(words).fine();
    let [result, rows] = ["run/adapter.safetensors", "run/log.jsonl"].map(|n| bytes(&folder, n));
    assert!(log(&folder, "run").len() < 40);
    folder.run(&format!("{words} --resume")).fine();
    assert!(bytes(&folder, "run/adapter.safetensors") == result);
    assert!(bytes(&folder, "run/log.jsonl") == rows);
}

/// Entries of a cache that hold errors of the untrained network.
fn errors_in(folder: &Folder, cache: &str) -> Vec<String> {
    let entries = std::fs::read_dir(folder.path(cache)).unwrap();
    let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let says = |bytes: Vec<u8>| bytes.windows(8).any(|part| part == b"\"errors\\");
    names.filter(|name| says(bytes(folder, &format!("{cache}/{name}")))).collect()
}

#[test]
fn errors_of_the_untrained_network_that_cannot_be_stored_or_are_damaged_lose_nothing() {
    let folder = pairs();
    let words = format!("{DPO} --set train.batch=3 --steps 2");
    folder.run(&format!("{words} -o whole")).fine();
    let stored = errors_in(&folder, "cache");
    assert!(stored.len() >= 3, "{stored:?}");
    // What has their names cannot be replaced by them.
    for name in &stored {
        std::fs::create_dir_all(folder.path(&format!("other/{name}"))).unwrap();
    }
    let words = format!("{words} --set data.cache=other");
    let full = format!("{words} -o full");
    let stands =
        "the checkpoint of update 0 stands in full/checkpoint.safetensors: --resume goes on";
    folder.run(&full).fails("E1014").says("other/").says("made again; ").says(stands);
    let begun = bytes(&folder, "full/checkpoint.safetensors");
    for name in &stored {
        std::fs::remove_dir(folder.path(&format!("other/{name}"))).unwrap();
    }
    // No file can hold more than 512 bytes.
    let program = env!("CARGO_BIN_EXE_anyid-rt");
    let line = format!("ulimit -f 1; exec {program} {full} --resume");
    let mut command = folder.other("sh");
    command.args(["-c", &line]);
    let done = common::Done::of(&full, command.output().unwrap()).fails("E1013").says("other/");
    let done = done.says(stands);
    assert!(!done.err.contains(".tmp"), "{}", done.err);
    assert!(bytes(&folder, "full/checkpoint.safetensors") == begun, "it stays");
    assert!(errors_in(&folder, "other").is_empty());
    folder.run(&format!("{full} --resume")).fine();
    same_end(&folder, "full", "whole");
    // Damaged entries, of whatever kind, are made again.
    for entry in std::fs::read_dir(folder.path("other")).unwrap() {
        let path = entry.unwrap().path();
        let sound = std::fs::read(&path).unwrap();
        std::fs::write(&path, &sound[..sound.len() - 1]).unwrap();
    }
    let done = folder.run(&format!("{words} -o damaged")).fine();
    same_end(&folder, "damaged", "whole");
    for said in
        ["g0.mp4 (other/", "the prompt of sample m_0 (other/", "untrained network on m_0 (other/"]
    {
        assert!(done.err.contains(said), "{said}\n{}", done.err);
    }
    // One warning for clips, one for prompts, and one for all of these errors.
    assert_eq!(
        done.err.matches("entries of the cache are damaged and are made again: ").count(),
        3,
        "{}",
        done.err
    );
    let said = format!("{} entries of the cache are damaged", stored.len());
    assert!(done.err.contains(&said), "{said}\n{}", done.err);
    assert_eq!(errors_in(&folder, "other").len(), stored.len());
}

#[test]
fn pairs_are_counted_as_pairs_and_one_clip_that_is_longer_gets_a_remark() {
    let folder = pairs();
    let words = "generate --model @micro --size 64x64 --frames 9 --steps 1 --prompt x -q --seed 0 -o long.mp4";
    folder.run(words).fine();
    let long = |v: &mut Value| {
        if v["id"] == "m_1" {
            v["chosen"] = json!({"video": "long.mp4"});
        }
    };
    write_lines(&folder, &lines(long));
    let done = folder.run("train check dpo --config run.toml").fine();
    for said in ["3 pairs to train on\n", "\n  3 pairs with 1 latent frame of references: "] {
        assert!(done.out.contains(said), "{said}\n{}", done.out);
    }
    let said = "line 3 (m_1): the chosen clip is longer than the other; the first 5 frames of both";
    assert!(done.err.contains(said), "{}", done.err);
    assert_eq!(done.err.matches("longer than").count(), 1, "{}", done.err);
    let done = folder.run(&format!("{DPO} --steps 1")).fine();
    assert!(done.err.contains("on 3 pairs for 1 update"), "{}", done.err);
    write_lines(&folder, &lines(|_| {})[..1]);
    folder.run(&format!("{DPO} --steps 1 -o none")).fails("E0958").says("has no pair");
}

#[test]
fn copies_of_one_clip_are_no_pair() {
    let folder = pairs();
    folder.write("copy.mp4", bytes(&folder, "g0.mp4"));
    for rejected in
        [json!({"video": "copy.mp4"}), json!({"video": "copy.mp4", "crop": [0, 0, 48, 48]})]
    {
        write_lines(&folder, &lines(|v| v["rejected"] = rejected.clone()));
        folder.run(&format!("{DPO} --steps 1")).fails("E0957").says("are the same");
    }
    // A copy of a clip of the pair among the references, with and without a name of its own.
    for clip in [json!({}), json!({"clip": "c_other"})] {
        let among = |v: &mut Value| {
            let mut reference = json!({"form": "portrait", "media": "copy.mp4"});
            reference.as_object_mut().unwrap().extend(clip.as_object().unwrap().clone());
            v["sample"]["references"] = json!([reference]);
        };
        write_lines(&folder, &lines(among));
        let done = folder.run(&format!("{DPO} --steps 1")).fails("E0957");
        done.says("the target is among the references: ").says("copy.mp4 is a copy of ");
    }
}

#[test]
fn a_target_is_found_among_its_references_under_any_name() {
    let folder = world(&[]);
    folder.write("copy.mp4", bytes(&folder, "pan.mp4"));
    let words = "train lora --config run.toml --steps 1";
    let given = |reference: Value, start: usize| {
        write_lines(&folder, &[sample("s_1", start, |v| v["references"] = json!([reference]))]);
        folder.run(words)
    };
    let part = |media: &str, start: usize| json!({"form": "video", "clip": "c_other", "media": media, "start": start, "frames": 5});
    let copy = "copy.mp4 is a copy of ";
    // The clip runs at 30 frames a second: five frames at 24 are six or seven of it.
    for (start, among) in [(10, true), (14, true), (15, true), (17, false), (5, true), (3, false)] {
        for (media, said) in [("copy.mp4", copy), ("pan.mp4", "both take the same frames of ")] {
            let done = given(part(media, start), 10);
            match among {
                true => drop(done.fails("E0957").says(said)),
                false => drop(done.fine()),
            }
            std::fs::remove_dir_all(folder.path("run")).ok();
        }
    }
    // A file without names of clips is one clip.
    let whole = json!({"form": "portrait", "media": "copy.mp4", "frame": 60});
    given(whole.clone(), 10).fails("E0957").says(copy);
    // It is said together with what else is wrong with the line.
    let wrong = |v: &mut Value| {
        v["references"] = json!([whole.clone()]);
        v["id"] = "s 1".into();
    };
    write_lines(&folder, &[sample("s_1", 10, wrong)]);
    folder.run(words).fails("E0957").says(copy).says("\"id\" is \"s 1\"");
    // An autoencoder reads no references.
    given(whole.clone(), 10);
    folder.run("train full --config run.toml --steps 1 --set train.network=vae").fine();
}

#[test]
fn samples_together_have_the_losses_that_they_have_alone() {
    let lines: Vec<Value> = (0..5).map(|at| sample(&format!("s_{at}"), 10 * at, |_| {})).collect();
    let folder = world(&lines);
    let words = "train full --config run.toml --threads 2 --steps 2 --set train.batch=7";
    let check = |more: &str| {
        let words = format!("train check full --config run.toml --set train.batch=7 --json {more}");
        let shape = folder.run(&words).fine().json()["shapes"][0].clone();
        (shape["together"].as_u64().unwrap(), shape["workspace_bytes"].as_u64().unwrap())
    };
    let (few, most, all) =
        (check("--set train.together=1"), check("--set train.together=4"), check(""));
    assert_eq!((few.0, most.0, all.0), (1, 4, 7));
    assert!(few.1 < most.1 && most.1 < all.1, "the plan is of the whole call");
    for (run, together) in [("one", 1), ("four", 4), ("all", 7)] {
        folder.run(&format!("{words} -o {run} --set train.together={together}")).fine();
    }
    let rows = ["one", "four", "all"].map(|run| log(&folder, run));
    let of = |row: &Value, name: &str| row[name].as_f64().unwrap();
    for other in &rows[1..] {
        assert_eq!(of(&other[0], "error"), of(&rows[0][0], "error"), "the same bits");
        let [a, b] = [&other[1], &rows[0][1]].map(|row| of(row, "error"));
        assert!((a - b).abs() < 1e-4 * b, "derivatives are the same sums: {a}, {b}");
    }
    // What was left unsaid is the same as saying it, and another number is another run.
    folder.run(&format!("{words} -o unsaid")).fine();
    let [a, b] =
        ["unsaid", "all"].map(|run| bytes(&folder, &format!("{run}/transformer.safetensors")));
    assert!(a == b);
    let resumed = folder.run(&format!("{words} -o four --set train.together=2 --resume"));
    resumed.fails("E0963").says("train.together: 4, now 2");
}

#[test]
fn pairs_together_are_learned_from_as_one_after_the_other() {
    let folder = pairs();
    let words = format!("{DPO} --set train.batch=3 --set dpo.sft_weight=0.1");
    let words = format!("{words} --set data.validation=train.jsonl");
    for together in [1, 6] {
        folder
            .run(&format!("{words} --steps 3 --set train.together={together} -o t{together}"))
            .fine();
    }
    let [apart, together] = ["t1", "t6"].map(|run| log(&folder, run));
    for name in ["loss", "margin", "chosen", "rejected"] {
        assert_eq!(apart[0][name], together[0][name], "{name} of the first update");
    }
    for name in ["loss", "norm"] {
        let [a, b] = [&apart[2], &together[2]].map(|row| row[name].as_f64().unwrap());
        assert!((a - b).abs() < 1e-3 * a.abs(), "{name}: {a}, {b}");
    }
    let [a, b] = [&apart[2], &together[2]].map(|row| row["validation"]["loss"].as_f64().unwrap());
    assert!((a - b).abs() < 1e-4, "{a}, {b}");
    // A run that was cut goes on to the same bits.
    let words = format!("{words} --set train.together=4");
    folder.run(&format!("{words} --steps 3 -o whole")).fine();
    folder.run(&format!("{words} --steps 1 -o cut")).fine();
    folder.run(&format!("{words} --steps 3 -o cut --resume")).fine();
    let [a, b] = ["cut", "whole"].map(|run| bytes(&folder, &format!("{run}/adapter.safetensors")));
    assert!(a == b);
}
