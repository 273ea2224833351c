//! `world`: pictures, samples to train with and contact sheets of the drawn world.

mod common;

use anyid_runtime::Model;
use anyid_runtime::media::{MediaKind, ReadOptions, RgbFrame, read_clip};
use anyid_world::{Painter, ReferenceForm, Sampling, Set, Split, View, World};
use common::Folder;
use serde_json::Value;
use std::collections::BTreeSet;

fn read(folder: &Folder, name: &str) -> Vec<RgbFrame> {
    read_clip(&folder.path(name), &ReadOptions::default()).unwrap().frames
}

/// What the library paints of clip 3 of group 12 of the second version.
fn painted(view: View, size: usize) -> Vec<u8> {
    let world = World::new(2).unwrap();
    let group = world.group(12).unwrap();
    let scene = world.scene(&group.identity, &group.clip(3).unwrap(), view);
    Painter::new(size).unwrap().frame(&scene)
}

#[test]
fn clips_and_pictures_are_those_of_their_numbers() {
    let folder = Folder::new();
    let clip = "world render --group 12 --clip 3";
    let said = folder.run(&format!("{clip} -o frames")).fine().out;
    assert!(said.contains("world/2, group 12 (train), clip 3: A "), "{said}");
    for (frame, name) in ["frame_00000.png", "frame_00004.png"].iter().enumerate() {
        let shown = read(&folder, &format!("frames/{name}"));
        assert!(shown[0].data == painted(View::Frame(frame as f32), 48), "{name}");
    }
    for name in ["a.mp4", "a.gif"] {
        folder.run(&format!("{clip} --size 96 --frames 9 --version 2 -o {name}")).fine();
        let shown = read(&folder, name);
        assert_eq!((shown.len(), shown[0].width, shown[0].height), (9, 96, 96));
        let wanted = painted(View::Frame(1.0), 96);
        let off = shown[8].data.iter().zip(&wanted).map(|(a, b)| u32::from(a.abs_diff(*b)));
        let off = f64::from(off.sum::<u32>()) / wanted.len() as f64;
        assert!(off < 6.0, "{name}: {off} of 255");
    }
    let done = folder.run(&format!("{clip} --form face -o face.png --json")).fine().json();
    assert_eq!(done["output"]["frames"], 1);
    assert_eq!((&done["world"], &done["split"]), (&"world/2".into(), &"train".into()));
    assert_eq!(done["identity"].as_object().unwrap().len(), 11);
    assert_eq!(done["slots"].as_object().unwrap().len(), 10);
    let views = World::new(2).unwrap().group(12).unwrap().views(3, ReferenceForm::Face).unwrap();
    assert!(read(&folder, "face.png")[0].data == painted(views[0], 48));
    // Another version is another person.
    folder.run(&format!("{clip} --version world/1 --form face -o other.png")).fine();
    assert!(read(&folder, "other.png") != read(&folder, "face.png"));
    let piped = folder.command(&format!("{clip} -o - --format gif"), &[]).output().unwrap();
    assert!(piped.status.success() && piped.stdout.starts_with(b"GIF89a"));
}

#[test]
fn numbers_that_the_world_does_not_have_are_refused() {
    let folder = Folder::new();
    let render = |words: &str| folder.run(&format!("world render -o a.mp4 {words}"));
    render("--group 1000000000").fails("E0981").says("there is no group 1000000000");
    render("--group 18446744073709551616").fails("E0900");
    render("--group -1").fails("E0900");
    render("--group 1 --clip 64").fails("E0981").says("--> --clip 64");
    render("--group 1 --size 50").fails("E0982").says("a multiple of 48").says("--> --size 50");
    render("--group 1 --frames 0").fails("E0902").says("--> --frames 0");
    render("--group 1 --frames x").fails("E0900").says("--frames cannot be \"x\"");
    render("--group 1 --version world/3").fails("E0900").says("world/1 to world/2");
    render("--group 1 --form face").fails("E0820").says(".png");
    let failed = render("--group 1000000000 --json").fails("E0981").json();
    assert_eq!(failed["error"]["code"], "E0981");
    let sample = |words: &str| folder.run(&format!("world sample -o s {words}"));
    sample("--count 0").fails("E0986").says("--> --count 0");
    sample("--count 1 --shows --targets pictures").fails("E0986");
    sample("--count 1 --groups 0").fails("E0986").says("--> --first 0 --groups 0");
    sample("--count 1 --prompts 2").fails("E0986").says("--> --prompts 2");
    sample("--count 1 --references 3-2").fails("E0986").says("--> --references 3-2");
    sample("--count 1 --first 999999 --groups 2").fails("E0981").says("\"train\"");
    sample("--count 1 --split validation --first 1000000").fails("E0981");
    sample("--count 1 --clips 65").fails("E0986");
    sample("--count 1 --references 1-5").fails("E0986");
    sample("--count 1 --references 3-2").fails("E0986");
    sample("--count 1 --references many").fails("E0900").says("1-3");
    sample("--count 1 --prompts 1.5").fails("E0986");
    sample("--count 1 --prompts some").fails("E0900").says("differential");
    sample("--count 1 --seed 18446744073709551616").fails("E0900");
    sample("--count 1 --size 100").fails("E0982");
    sample("--count 1 --threads 600").fails("E0918").says("--> --threads 600");
    folder.run("world sheet -o a.png --count 0").fails("E0986");
    folder.run("world sheet -o a.png --size 1536 --count 1000").fails("E0984");
    folder.run("world sheet -o a.gif").fails("E0820");
    assert!(folder.names().is_empty(), "{:?}", folder.names());
}

#[test]
fn samples_name_the_pictures_that_they_need() {
    let folder = Folder::new();
    let words = "--count 40 --groups 6 --seed 7 --split test";
    let done = folder.run(&format!("world sample -o s {words} --json")).fine().json();
    assert_eq!((&done["samples"], &done["groups"]), (&40.into(), &6.into()));
    assert_eq!((&done["pictures"], &done["split"]), (&(6 * 35).into(), &"held-out".into()));
    let text = std::fs::read_to_string(folder.path("s/manifest.jsonl")).unwrap();
    let world = World::new(2).unwrap();
    let mut painter = Painter::new(48).unwrap();
    let mut absolute = 0;
    for line in text.lines() {
        let set = Set::parse(&world, line).unwrap();
        absolute += u32::from(set.absolute);
        let value: Value = serde_json::from_str(line).unwrap();
        let mut parts = vec![(&value["target"], "start", set.target, ReferenceForm::Video)];
        for (value, one) in value["references"].as_array().unwrap().iter().zip(&set.references) {
            let key = if one.form == ReferenceForm::Video { "start" } else { "frame" };
            parts.push((value, key, one.clip, one.form));
        }
        for (value, key, clip, form) in parts {
            let frames = read(&folder, &format!("s/{}", value["media"].as_str().unwrap()));
            let first = value[key].as_u64().unwrap() as usize;
            for (at, view) in set.group.views(clip, form).unwrap().into_iter().enumerate() {
                let clip = set.group.clip(clip).unwrap();
                let wanted = painter.frame(&world.scene(&set.group.identity, &clip, view));
                assert!(frames[first + at].data == wanted, "{line}");
            }
        }
    }
    assert!((1..20).contains(&absolute), "{absolute}");
    // What targets show is said besides, and nothing else is another.
    folder.run(&format!("world sample -o shows {words} --shows")).fine();
    let shown = std::fs::read_to_string(folder.path("shows/manifest.jsonl")).unwrap();
    for (line, shown) in text.lines().zip(shown.lines()) {
        let mut value: Value = serde_json::from_str(shown).unwrap();
        let shows = value.as_object_mut().unwrap().remove("shows").unwrap();
        assert_eq!(value, serde_json::from_str::<Value>(line).unwrap());
        let set = Set::parse(&world, line).unwrap();
        let skin = set.group.identity.class(anyid_world::Attribute::Skin);
        assert!(shows["skin"] == skin && shows["shot"].is_u64() && shows.get("x").is_none());
    }
    // However many threads paint, the pictures are the same.
    for threads in [1, 3] {
        folder.run(&format!("world sample -o t{threads} {words} --threads {threads}")).fine();
        for entry in std::fs::read_dir(folder.path("s/groups")).unwrap() {
            let path = entry.unwrap().path();
            let other = folder.path(&format!("t{threads}/groups")).join(path.file_name().unwrap());
            assert!(std::fs::read(&path).unwrap() == std::fs::read(other).unwrap(), "{path:?}");
        }
    }
    // The same words give the same bytes; the folder is kept, and one with something else for good.
    folder.run(&format!("world sample -o t {words}")).fine();
    assert_eq!(text, std::fs::read_to_string(folder.path("t/manifest.jsonl")).unwrap());
    folder.run(&format!("world sample -o t {words}")).fails("E1016").says("--force");
    folder.run(&format!("world sample -o t {words} --prompts absolute --force")).fine();
    let again = std::fs::read_to_string(folder.path("t/manifest.jsonl")).unwrap();
    assert!(again.lines().all(|line| line.contains(r#""absolute":true"#)));
    folder.write("t/notes.txt", "precious");
    folder.run(&format!("world sample -o t {words} --force")).fails("E0823");
    assert_eq!(std::fs::read(folder.path("t/notes.txt")).unwrap(), b"precious");
    let media = std::fs::read_dir(folder.path("s/groups")).unwrap().next().unwrap().unwrap().path();
    let clip = read_clip(&media, &ReadOptions::default()).unwrap();
    assert_eq!((clip.kind, clip.frames.len()), (MediaKind::Video, 35));
    assert!((clip.fps.unwrap() - 24.0).abs() < 1e-6);
}

#[test]
fn a_run_takes_samples_as_they_are_written() {
    let folder = Folder::new();
    folder.run("world sample -o s --count 6 --groups 3 --size 96 --references 2").fine();
    let settings = "[data]\nmanifest = \"s/manifest.jsonl\"\n[video]\nwidth = 96\nheight = 96\n\
                    frames = 5\n[lora]\nrank = 2\n[train]\nsteps = 2\n[run]\nfolder = \"run\"\n";
    folder.write("run.toml", settings);
    let done = folder.run("train check --config run.toml --json").fine();
    assert_eq!((&done.json()["samples"], done.err.contains("warning")), (&6.into(), false));
    folder.run("train lora --config run.toml --set train.learning_rate=0.1").fine();
    // The adapter is one arm, and the model without it another.
    let words = "world eval --size 96 --sets 1 --steps 1 --guidance 1 --arms full --json --keep v";
    let done = folder.run(&format!("{words} --lora run/adapter.safetensors --arm no-lora=")).fine();
    let arms = &done.json()["arms"];
    let [full, without] = ["full", "no-lora"].map(|arm| &arms[arm]["colour.skin"]["value"]);
    assert!(full.is_f64() && full != without, "{full} {without}");
    // Other values of the adapter are another evaluation.
    folder
        .run("train lora --config run.toml --set train.learning_rate=0.1 --seed 5 -o other")
        .fine();
    let other = format!("{words} --lora other/adapter.safetensors --arm no-lora=");
    folder.run(&other).fails("E0988").says("its arm \"full\"");
}

#[test]
fn sheets_show_sets_of_draws_and_of_manifests() {
    let folder = Folder::new();
    folder.run("world sample -o s --count 5 --groups 3 --references 3").fine();
    let words = "--groups 3 --references 3 --count 3 --size 48 --gap 2 --json";
    let drawn = folder.run(&format!("world sheet -o a.png {words}")).fine().json();
    let words = "--manifest s/manifest.jsonl --count 3 --size 48 --gap 2 --json";
    let read_again = folder.run(&format!("world sheet -o b.png {words}")).fine().json();
    assert_eq!(drawn["sets"], read_again["sets"]);
    let shown = read(&folder, "a.png");
    // Three references, a gap, and first and last frame.
    assert_eq!((shown[0].width, shown[0].height), (6 * 48 + 5 * 2, 3 * 48 + 2 * 2));
    assert!(shown == read(&folder, "b.png"));
    folder.run("world sheet -o a.png").fails("E1016");
    folder.run("world sheet -o a.png --force").fine();
    let other = "world sheet -o c.png --manifest s/manifest.jsonl";
    let failed = folder.run(&format!("{other} --version 1")).fails("E0983");
    failed.says("not of \"world/1\"").says("manifest.jsonl, line 1").says("with --version");
    folder.run("world sheet -o c.png --manifest none.jsonl").fails("E0911");
    folder.write("empty.jsonl", "\n");
    folder.run("world sheet -o c.png --manifest empty.jsonl").fails("E0983");
    folder.run(&format!("{other} --seed 3")).fails("E0900");
    assert!(!folder.path("c.png").exists());
}

#[test]
fn a_model_of_the_world_begins_with_nothing_learned() {
    let folder = Folder::new();
    folder.run("init m --preset world --seed 3").fine();
    let model = Model::open(folder.path("m")).unwrap();
    assert_eq!(model.dit.text_len, 48);
    assert_eq!(model.geometry().sides(), [8, 8]);
    // Every word of every prompt is one token.
    let unknown = model.tokenizer.unknown_id().unwrap();
    let (mut longest, mut seen) = (0, BTreeSet::new());
    for version in 1..=World::LATEST {
        let world = World::new(version).unwrap();
        let sampling = Sampling::new(Split::Train.groups());
        for index in 0..1500 {
            let set =
                world.sample(&Sampling { absolute: 0.5, ..sampling.clone() }, 1, index).unwrap();
            let ids = model.tokenizer.encode(&set.prompt.text, 512).unwrap().ids;
            let text = &set.prompt.text;
            assert_eq!(
                ids.len(),
                text.split(' ').count() + text.matches('.').count() + 1,
                "{text}"
            );
            assert!(!ids.contains(&unknown), "{text}");
            longest = longest.max(ids.len());
            seen.extend(ids);
        }
    }
    // No word is there that no prompt has; all but padding and the unknown.
    assert_eq!(seen.len() + 2, model.tokenizer.id_limit());
    assert!(longest <= model.dit.text_len, "{longest}");
    // The head gives no velocity, so what is decoded is the noise that sampling began with.
    folder.run("world render --group 5 --form portrait -o p.png").fine();
    // Its size is that of the model's configuration.
    let words = "generate --model m --ref p.png --steps 2 --seed 1 -o";
    folder
        .run_with(
            &format!("{words} a.gif --save-latents a.safetensors"),
            &["--prompt", "A close-up shot."],
        )
        .fine();
    let more = ["--prompt", "The head turns left."];
    folder.run_with(&format!("{words} b.gif --save-latents b.safetensors"), &more).fine();
    let latents = |name: &str| common::tensors(&folder.path(name)).remove("latents").unwrap();
    let [a, b] = ["a.safetensors", "b.safetensors"].map(latents);
    assert_eq!(a.shape(), [24, 2, 6, 6]);
    common::close("latents of another prompt", &a, &b, 1e-6);
    assert_eq!(read(&folder, "a.gif").len(), 5);
    folder.run("init m --preset world").fails("E0909");
}

/// Flags of an evaluation that takes a second or two.
const EVAL: &str = "world eval --model m --sets 2 --steps 1 --guidance 1 --threads 2";

#[test]
fn an_evaluation_compares_arms_beside_the_true_clips() {
    let folder = Folder::new();
    folder.run("init m --preset world").fine();
    let done = folder.run(&format!("{EVAL} --arm again=m --json")).fine().json();
    let arms = done["arms"].as_object().unwrap();
    let names: Vec<&String> = arms.keys().collect();
    assert_eq!(names, ["full", "none", "primary", "absolute", "exchanged", "again"]);
    for arm in arms.values().chain([&done["ceiling"]]) {
        for measure in ["large", "small", "identity", "mentioned", "colour.skin", "skin"] {
            let found = &arm[measure];
            assert!(found["n"].as_f64().unwrap() >= 2.0, "{measure} {arm}");
            assert!((0.0..=1.0).contains(&found["value"].as_f64().unwrap()), "{measure}");
            assert!(found["se"].as_f64().unwrap() >= 0.0, "{measure}");
        }
    }
    assert_eq!(done["ceiling"]["large"]["value"], 1.0);
    // Noise is read rightly by chance alone.
    assert!(done["arms"]["full"]["identity"]["value"].as_f64().unwrap() < 0.8);
    assert!(done["arms"]["exchanged"].get("own.large").is_some());
    assert!(done["arms"]["full"].get("own.large").is_none());
    // Another arm of the same model is the same to the bit.
    assert_eq!(done["arms"]["again"], done["arms"]["full"]);
    assert_eq!(done["differences"]["again"]["large"]["value"], 0.0);
    assert!(done["differences"].get("full").is_none());
    let table = folder.run(&format!("{EVAL} --arms full,none")).fine();
    assert!(table.out.starts_with("| measure | true clips | full | none |\n|---|---|---|---|\n"));
    assert!(table.out.contains("\nDifferences from `full`, within clips:\n"), "{}", table.out);
    assert!(!table.err.contains("warning"), "{}", table.err);
    let people = folder.run(&format!("{EVAL} --arms full --first-group 7 --frames 1")).fine();
    assert!(people.err.contains("split \"train\""), "{}", people.err);
    let words = format!("{EVAL} --references 2 --arms full,none --sheet s.png --keep v.jsonl");
    let said = folder.run(&words).fine().err;
    assert!(said.contains("wrote s.png: references, the true clip, and full, none"), "{said}");
    let shown = read(&folder, "s.png").remove(0);
    // Two references, and three times a gap and two frames.
    assert_eq!((shown.width, shown.height), (11 * 48 + 10 * 2, 2 * 48 + 2));
    // With verdicts that were kept, the picture is the same.
    folder.run(&words).fails("E1016");
    folder.run(&format!("{words} --force")).fine();
    assert!(read(&folder, "s.png") == [shown]);
    folder.run(&words.replace("s.png", "s.gif")).fails("E0820");
    let trials = folder.run(&format!("{EVAL} --trials --json")).fine().json();
    let names: Vec<&String> = trials["arms"].as_object().unwrap().keys().collect();
    assert_eq!(names, ["full", "primary", "uninformative"]);
    assert_eq!(trials["ceiling"]["hidden"]["n"], 2.0);
}

#[test]
fn what_cannot_be_evaluated_is_refused() {
    let folder = Folder::new();
    folder.run("init m --preset world").fine();
    let refused = |words: &str, code: &str| folder.run(&format!("{EVAL} {words}")).fails(code);
    refused("--sets 3", "E0900").says("--sets");
    let refused = |words: &str, code: &str| {
        folder.run(&format!("world eval --model m --steps 1 {words}")).fails(code)
    };
    refused("--sets 0", "E0986");
    refused("--sets 2 --first-group 999999999", "E0981");
    refused("--sets 1 --first-group 1000000000", "E0981");
    refused("--sets 1 --clips 1", "E0986");
    refused("--sets 1 --size 50", "E0982").says("--size 50").says("use 48: world and model");
    refused("--sets 1 --references 7", "E0986").says("--references 7");
    refused("--sets 1 --clips 65", "E0986").says("--clips 65");
    refused("--sets 1 --frames 4", "E0902").says("--frames");
    refused("--sets 1 --solver heun", "E0921").says("--solver");
    refused("--sets 1 --arms full,no-dpo", "E0987").says("--arm no-dpo=DIR");
    refused("--sets 1 --arm x=none", "E0701");
    refused("--sets 1 --lora none.safetensors", "E0310");
    // Tiny networks take other sizes; each is said with one that both take, and 96 is one.
    folder
        .run("world eval --model @micro --sets 1")
        .fails("E0901")
        .says("--size 48")
        .says("use 96: world and model");
    let words = "world eval --model @micro --sets 1 --size 64";
    folder.run(words).fails("E0982").says("use 96: world and model");
    // The built-in model warns of this size, for all clips once.
    let built_in = "world eval --sets 2 --size 96 --steps 1 --arms full,none";
    let said = folder.run(built_in).fine().err;
    let warnings: Vec<&str> = said.lines().filter(|line| line.contains("warning")).collect();
    let once: std::collections::BTreeSet<&&str> = warnings.iter().collect();
    assert_eq!(warnings.len(), once.len(), "{said}");
    assert!(!warnings.is_empty(), "{said}");
    folder.run("world eval").fails("E0900").says("--sets");
    assert_eq!(folder.names(), ["m"]);
}

#[test]
fn a_trained_judge_reads_the_clips_besides() {
    let folder = Folder::new();
    folder.run("init m --preset world").fine();
    folder.run("world sample --count 40 --groups 30 --shows -o data").fine();
    folder.write(
        "run.toml",
        "[data]\nmanifest = \"data/manifest.jsonl\"\n[video]\nwidth = 48\nheight = 48\n\
         frames = 5\n[train]\nnetwork = \"judge\"\nsteps = 2\nbatch = 4\n",
    );
    folder.run("train full --config run.toml --set model.path=m -o j").fine();
    let plain = format!("{EVAL} --arms full,exchanged --keep v.jsonl --json");
    let words = format!("{plain} --judge j");
    let done = folder.run(&words).fine().json();
    let learned = &done["learned"];
    for column in ["ceiling", "arms", "differences"] {
        assert!(learned[column].is_object() && done[column].is_object(), "{column}");
    }
    // It counts what the true clips show, and so does the first judge there.
    for measure in ["large", "small", "mentioned", "inherited", "skin", "action"] {
        let [own, first] = [learned, &done].map(|report| report["ceiling"].get(measure));
        assert_eq!(own.is_some(), first.is_some(), "{measure}");
        let Some(own) = own else { continue };
        assert_eq!(own["n"], first.unwrap()["n"], "{measure}");
        assert!(own["se"].as_f64().unwrap() >= 0.0, "{measure}");
    }
    assert!(learned["ceiling"].get("colour.skin").is_none());
    assert!(learned["arms"]["exchanged"].get("own.large").is_some());
    assert_eq!(learned["ceiling"]["large"]["n"], learned["arms"]["full"]["large"]["n"]);
    // Kept verdicts have both, and are of use without the judge, but not with another one.
    assert_eq!(folder.run(&words).fine().json(), done);
    let mut without = folder.run(&plain).fine().json();
    assert!(without.get("learned").is_none());
    without["learned"] = learned.clone();
    without["about"] = done["about"].clone();
    assert_eq!(without, done);
    folder.run("train full --config run.toml --set model.path=m -o k --steps 1").fine();
    folder.run(&words.replace("--judge j", "--judge k")).fails("E0988").says("its \"judge\" is");
    folder.run(&plain.replace("v.jsonl", "w.jsonl")).fine();
    let more =
        words.replace("v.jsonl", "w.jsonl").replace("--judge j", "--judge j/judge.safetensors");
    folder.run(&more).fails("E0988").says("its \"judge\" is null");
    let table = folder.run(&format!("{EVAL} --arms full,none --judge j")).fine().out;
    let (first, second) = table.split_once("\nBy the trained judge:\n\n").unwrap();
    for part in [first, second] {
        assert!(part.starts_with("| measure | true clips | full | none |\n"), "{part}");
        assert!(part.contains("\nDifferences from `full`, within clips:\n"), "{part}");
    }
    let trials = folder.run(&format!("{EVAL} --trials --judge j --json")).fine().json();
    assert_eq!(trials["learned"]["ceiling"]["hidden"]["n"], 2.0);

    // A judge of something else.
    let refused =
        |words: &str, code: &str| folder.run(&format!("{EVAL} --arms full {words}")).fails(code);
    refused("--judge j --frames 1", "E0998").says("frames as 2 of 48x48, here are 1 of 48x48");
    refused("--judge j --version 1", "E0998").says("\"pose\", which is no feature of world/1");
    refused("--judge m/vae/diffusion_pytorch_model.safetensors", "E0703");
    refused("--judge none", "E0310");
    folder.write("j/judge.json", "{}");
    refused("--judge j", "E0997").says("missing field");
}

#[test]
fn verdicts_that_were_kept_are_not_made_again() {
    let folder = Folder::new();
    folder.run("init m --preset world").fine();
    let words = format!("{EVAL} --arms full,none --keep v.jsonl --json");
    let whole = folder.run(&words).fine().out;
    let file = std::fs::read(folder.path("v.jsonl")).unwrap();
    let text = String::from_utf8(file.clone()).unwrap();
    // A header, two arms, two true clips, and two of each arm.
    assert_eq!(text.lines().count(), 9);
    assert_eq!(folder.run(&words).fine().out, whole);
    assert!(std::fs::read(folder.path("v.jsonl")).unwrap() == file);
    // Several threads make a clip each, and what comes out is the same.
    let (mut files, mut said) = (Vec::new(), Vec::new());
    for threads in [1, 3] {
        let words =
            format!("{EVAL} --arms full,exchanged,decoded --keep t{threads}.jsonl --sheet t.png");
        let words = words.replace("--sets 2", "--sets 7");
        let words = words.replace("--threads 2", &format!("--threads {threads} --force"));
        said.push(folder.run(&words).fine().out);
        files.push(std::fs::read(folder.path(&format!("t{threads}.jsonl"))).unwrap());
        files.push(std::fs::read(folder.path("t.png")).unwrap());
    }
    assert!(said[0] == said[1] && files[0] == files[2] && files[1] == files[3]);
    // After a kill the last line may be cut anywhere, and a header too.
    let third: usize = text.lines().take(6).map(|line| line.len() + 1).sum();
    for length in [file.len() - 1, third + 20, third, 30, 0] {
        folder.write("v.jsonl", &file[..length]);
        assert_eq!(folder.run(&words).fine().out, whole, "{length}");
        assert!(std::fs::read(folder.path("v.jsonl")).unwrap() == file, "{length}");
    }
    // What is of something else is left as it is.
    folder.run(&format!("{words} --seed 4")).fails("E0988").says("its \"seed\" is 0, not 4");
    folder.run("init other --preset world --seed 1").fine();
    let other = words.replace("--model m", "--model other");
    folder.run(&other).fails("E0988").says("its arm \"full\" is of other weights");
    assert!(std::fs::read(folder.path("v.jsonl")).unwrap() == file);
    for foreign in ["precious", "precious\n", "{}\n", "{\"schema\":\"anyid.verdicts/2\"}\n"] {
        folder.write("f.jsonl", foreign);
        folder.run(&words.replace("v.jsonl", "f.jsonl")).fails("E0988");
        assert_eq!(std::fs::read_to_string(folder.path("f.jsonl")).unwrap(), foreign);
    }
    let broken = text.replacen("\"parts\"", "\"part\"", 1);
    folder.write("f.jsonl", &broken);
    folder.run(&words.replace("v.jsonl", "f.jsonl")).fails("E0988").says("its line 4");
    // More sets and arms are added, and what is there counts.
    let more = words.replace("--sets 2", "--sets 3").replace("full,none", "primary,full");
    let added = folder.run(&more).fine().out;
    assert_eq!(folder.run(&more.replace("v.jsonl", "w.jsonl")).fine().out, added);
    let now = std::fs::read_to_string(folder.path("v.jsonl")).unwrap();
    assert!(now.starts_with(&text) && now.lines().count() == 9 + 1 + 1 + 3 + 1, "{now}");
}

/// A disk that is full, and a signal in the middle.
#[cfg(unix)]
mod faults {
    use super::*;
    use common::Done;
    use rustix::process::{Pid, Signal, kill_process};
    use std::process::Stdio;
    use std::time::Duration;

    const MANY: &str = "world sample -o s --count 400 --groups 200 --size 192";

    #[test]
    fn without_room_nothing_is_left() {
        let folder = Folder::new();
        // No file may have more than so many blocks.
        let limited = |blocks: u32, words: &str| {
            let own = folder.command(words, &[]);
            let mut command = folder.other("sh");
            let line = format!("ulimit -f {blocks}; exec \"$0\" \"$@\"");
            command.args(["-c", &line]);
            command.arg(own.get_program()).args(own.get_args());
            command.env("TMPDIR", folder.temporary());
            Done::of(words, command.output().unwrap())
        };
        limited(64, MANY).fails("E1013");
        limited(64, "world render --group 1 --size 1536 -o frames").fails("E1013");
        limited(64, "world sheet --size 480 -o a.png").fails("E1013");
        assert!(folder.names().is_empty(), "{:?}", folder.names());
        folder.run("world render --group 1 -o /dev/full --format gif").fails("E1012");
        // The verdicts that found room are kept.
        folder.run("init m --preset world").fine();
        let words = format!("{EVAL} --arms full --keep v.jsonl");
        limited(3, &words).fails("E1013");
        let kept = std::fs::read_to_string(folder.path("v.jsonl")).unwrap();
        folder.run(&words).fine();
        let whole = std::fs::read_to_string(folder.path("v.jsonl")).unwrap();
        let lines = kept.lines().count();
        assert!(lines > 1 && whole.starts_with(&kept[..kept.rfind('\n').unwrap()]), "{kept}");
        assert!(whole.lines().count() == 6 && lines < 6, "{whole}");
    }

    #[test]
    fn an_evaluation_goes_on_where_a_signal_ended_it() {
        let folder = Folder::new();
        folder.run("init m --preset world").fine();
        let words = format!("{EVAL} --arms full --json").replace("--sets 2", "--sets 6");
        let whole = folder.run(&format!("{words} --keep whole.jsonl")).fine().out;
        let words = format!("{words} --keep v.jsonl");
        let mut command = folder.command(&words, &[]);
        let child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        // Eight lines are the header, the arm and the true clips.
        let lines = || std::fs::read_to_string(folder.path("v.jsonl")).unwrap_or_default();
        while lines().lines().count() < 9 {
            std::thread::sleep(Duration::from_millis(1));
        }
        kill_process(Pid::from_raw(child.id() as i32).unwrap(), Signal::INT).unwrap();
        let done = Done::of(&words, child.wait_with_output().unwrap());
        assert_eq!(done.code, 130, "{}", done.err);
        assert!(lines().lines().count() < 14, "it was stopped before the last clip");
        assert_eq!(folder.run(&words).fine().out, whole);
        assert_eq!(lines(), std::fs::read_to_string(folder.path("whole.jsonl")).unwrap());
        folder.run(&words.replace("v.jsonl", "/dev/full")).fails("E0988");
    }

    #[test]
    fn a_signal_leaves_nothing() {
        let folder = Folder::new();
        let mut command = folder.command(MANY, &[]);
        let child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        while folder.names().is_empty() {
            std::thread::sleep(Duration::from_millis(2));
        }
        std::thread::sleep(Duration::from_millis(50));
        kill_process(Pid::from_raw(child.id() as i32).unwrap(), Signal::INT).unwrap();
        let done = Done::of(MANY, child.wait_with_output().unwrap());
        assert_eq!(done.code, 130, "{}", done.err);
        assert!(done.err.contains("E1002") && folder.names().is_empty(), "{}", done.err);
    }
}
