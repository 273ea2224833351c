//! `world make`: every step of a recipe from nothing to figures, interrupted anywhere, stopped at gates,
//! and refused where it cannot be followed.

#![cfg(unix)]

mod common;

use common::training::{ended, send, start, stopped_at_random};
use common::{Done, Folder};
use rustix::process::Signal;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::Path;

const MAKE: &str = "world make -o out --threads 2";

/// A training of few updates; `more` are keys of its settings.
fn training(name: &str, kind: &str, keys: &str, data: &str, more: &str) -> String {
    format!(
        "[[step]]\nname = \"{name}\"\ndo = \"train\"\nkind = \"{kind}\"\n{keys}\n\
         [step.settings.data]\n{data}\n{more}\n"
    )
}

/// Updates of a training.
fn updates(steps: u64, batch: u64) -> String {
    format!("[step.settings.train]\nsteps = {steps}\nbatch = {batch}\nlearning_rate = 1e-3")
}

/// A step of every kind, and a few updates of every stage of the full recipe.
fn recipe() -> String {
    let manifest = |step: &str| format!("manifest = \"{step}/manifest.jsonl\"");
    let measured = format!("{}\nvalidation = \"held/manifest.jsonl\"", manifest("samples"));
    let small = updates(2, 2);
    let falling = updates(3, 2);
    let frame = format!("[step.settings.video]\nframes = 1\n{small}");
    let muon = "[[step.settings.group]]\nmatch = \"blocks.*.ffn.*.weight\"\noptimiser = \"muon\"\n\
                learning_rate = 0.02";
    let images = format!("[step.settings.video]\nframes = 1\n{falling}\n{muon}");
    let lora = format!("[step.settings.lora]\nrank = 2\nalpha = 2.0\n{small}");
    let dpo = lora.replace("1e-3", "1e-5") + "\n[step.settings.dpo]\ndraws = 2";
    let vae = "network = \"vae\"\ninit_from = \"frames\"";
    let best = "result = \"best\"\ngate = [{ value = \"validation.accuracy\", below = 1.0 }]";
    let held = format!("{}\nvalidation = \"pairs-held/manifest.jsonl\"", manifest("pairs"));
    [
        "seed = 3\n[settings.video]\nwidth = 48\nheight = 48\nframes = 5\n[settings.train]\n\
         schedule = \"linear\"\nweight_decay = 0.0\n[settings.run]\nvalidation_draws = 1\n\
         checkpoint_every = 1\n"
            .to_owned(),
        "[[step]]\nname = \"samples\"\ndo = \"sample\"\ncount = 80\ngroups = 20\n\
         references = 1\nprompts = 0.5\nshows = true\n".to_owned(),
        "[[step]]\nname = \"held\"\ndo = \"sample\"\ncount = 4\ngroups = 2\nsplit = \"validation\"\n\
         references = 1\n"
            .to_owned(),
        "[[step]]\nname = \"start\"\ndo = \"init\"\n".to_owned(),
        training("text", "full", "network = \"text\"\ngate = [{ value = \"loss\", above = 0.0, at = 1 }]",
            &measured, &small),
        training("frames", "full", "network = \"vae\"", &manifest("samples"), &frame),
        training("vae", "full", vae, &manifest("samples"), &small),
        training("images", "full", "", &manifest("samples"), &images),
        "[[step]]\nname = \"seen\"\ndo = \"eval\"\nfirst_group = 1_000_000\nsets = 1\nsteps = 1\n\
         guidance = 1\nframes = 1\narms = \"full\"\n\
         gate = [{ value = \"arms.full.colour.skin.value\", below = 1.0 }]\n"
            .to_owned(),
        training("clips", "full", "", &manifest("samples"), &small),
        training("judge", "full", "network = \"judge\"", &manifest("samples"), &small),
        training("tuned", "lora", "", &manifest("samples"), &lora),
        "[[step]]\nname = \"pairs\"\ndo = \"pairs\"\nsets = 12\ngroups = 3\nmargin = 0\nsteps = 1\n\
         guidance = 1\ngate = [{ value = \"pairs\", above = 1 }]\n"
            .to_owned(),
        "[[step]]\nname = \"pairs-held\"\ndo = \"pairs\"\nsets = 8\ngroups = 3\nmargin = 0\nsteps = 1\n\
         guidance = 1\nsplit = \"validation\"\n"
            .to_owned(),
        training("preferred", "dpo", best, &held, &dpo),
        "[[step]]\nname = \"report\"\ndo = \"eval\"\nsets = 2\nsteps = 1\nguidance = 1\n\
         arms = [\"full\", \"none\"]\narm = [\"no-dpo=tuned\", \"no-lora=clips\"]\njudge = \"judge\"\n"
            .to_owned(),
    ]
    .concat()
}

fn folder(recipe: &str) -> Folder {
    let folder = Folder::new();
    folder.write("recipe.toml", recipe);
    folder
}

fn begin() -> String {
    format!("{MAKE} --recipe recipe.toml")
}

/// What lies below a folder, by name: all that does not say when or how long it was made.
fn tree(folder: &Folder, name: &str) -> BTreeMap<String, Vec<u8>> {
    fn walk(at: &Path, name: String, out: &mut BTreeMap<String, Vec<u8>>) {
        for entry in std::fs::read_dir(at).unwrap() {
            let path = entry.unwrap().path();
            let own = path.file_name().unwrap().to_string_lossy().into_owned();
            let inner = format!("{name}/{own}");
            let timed = ["log.jsonl", "checkpoint.safetensors", "lock", "costs.jsonl"];
            if path.is_dir() {
                walk(&path, inner, out);
            } else if !timed.contains(&own.as_str()) {
                assert!(!own.starts_with('.'), "{inner} is left");
                out.insert(inner, std::fs::read(&path).unwrap());
            }
        }
    }
    let mut out = BTreeMap::new();
    walk(&folder.path(name), String::new(), &mut out);
    out
}

#[track_caller]
fn same(one: &BTreeMap<String, Vec<u8>>, other: &BTreeMap<String, Vec<u8>>) {
    assert!(one.keys().eq(other.keys()), "{:?} {:?}", one.keys(), other.keys());
    for (name, bytes) in one {
        assert!(*bytes == other[name], "{name} differs");
    }
}

fn report<'r>(done: &'r Value, name: &str) -> &'r Value {
    let steps = done["steps"].as_array().unwrap();
    steps.iter().find(|step| step["name"] == name).unwrap_or_else(|| panic!("{name} in {done}"))
}

#[test]
fn a_model_is_made_from_nothing_and_what_was_interrupted_anywhere_has_the_same_bytes() {
    let whole = folder(&recipe());
    let run = whole.run(&format!("{} --json", begin())).fine();
    let done = run.json();
    assert_eq!(done["steps"].as_array().unwrap().len(), 15);
    assert!(done["model"].as_str().unwrap().ends_with("out/stages/preferred/model"));
    assert_eq!(report(&done, "text")["report"]["gates"][0]["step"], json!(1));
    assert_eq!(report(&done, "samples")["report"]["samples"], json!(80));
    assert!(report(&done, "pairs")["report"]["pairs"].as_u64().unwrap() >= 1);
    assert!(report(&done, "clips")["processor_seconds"].as_f64().unwrap() > 0.0);
    let arms = report(&done, "report")["report"]["arms"].as_object().unwrap();
    assert_eq!(arms.keys().collect::<Vec<_>>(), ["full", "none", "no-dpo", "no-lora"]);
    let learned = &report(&done, "report")["report"]["learned"]["arms"];
    assert!(learned["no-dpo"]["large"]["n"].as_f64().unwrap() > 0.0, "{learned}");
    for said in ["step text, 4 of 15: train", "arms.full.colour.skin.value is ", "pairs is "] {
        assert!(run.err.contains(said), "{said}: {}", run.err);
    }
    for name in ["table.md", "sheet.png", "result.json", "verdicts.jsonl"] {
        assert!(whole.path(&format!("out/report/{name}")).is_file(), "{name}");
    }
    assert_eq!(std::fs::read_to_string(whole.path("out/recipe.toml")).unwrap(), recipe());
    let made = tree(&whole, "out");
    // Again, by the folder's own recipe: nothing is made, and nothing changes.
    let again = whole.run(MAKE).fine();
    assert!(
        again.out.contains("before") && again.out.contains("out/report/table.md"),
        "{}",
        again.out
    );
    assert!(!again.err.contains("training"), "{}", again.err);
    same(&tree(&whole, "out"), &made);
    let costs = std::fs::read_to_string(whole.path("out/costs.jsonl")).unwrap();
    assert_eq!(costs.lines().count(), 15, "finished steps cost nothing more");
    whole.run("generate --model out/stages/preferred/model --prompt x --size 48x48 --frames 5 --steps 1 -o x.gif").fine();
    packed(&whole);
    // Another run, as far as a step, then interrupted between and inside steps.
    let cut = folder(&recipe());
    let until = cut.run(&format!("{} --until held --json", begin())).fine().json();
    assert_eq!((until["steps"].as_array().unwrap().len(), &until["model"]), (2, &Value::Null));
    stopped_at_random(&cut, MAKE, 200..2000);
    cut.run(MAKE).fine();
    same(&tree(&cut, "out"), &made);
}

/// The model of a folder is packed, and is of use.
fn packed(folder: &Folder) {
    let done = folder.run("world pack out -o packed --steps 1 --guidance 1 --json").fine().json();
    assert_eq!(done["provenance"]["step"], "preferred");
    assert_eq!(done["provenance"]["world"], "world/2");
    assert_eq!(done["provenance"]["steps"].as_array().unwrap().len(), 14);
    let bytes = done["bytes"].as_u64().unwrap();
    assert!((9_000_000..9_200_000).contains(&bytes), "two for each of 4.54 million: {bytes}");
    let said = folder.run("generate --model packed --prompt x -o packed.gif").fine().err;
    assert!(said.contains("48x48, 5 frames, 1 step"), "{said}");
    for name in ["recipe.toml", "provenance.json", "model_index.json", "tokenizer/tokenizer.json"] {
        assert!(folder.path(&format!("packed/{name}")).is_file(), "{name}");
    }
    let refused = folder.run("world pack out -o packed").fails("E1016");
    let refused = refused.says("help: choose another name, or remove the folder first");
    assert!(!refused.err.contains("--force"), "there is no such flag: {}", refused.err);
    let said = folder.run("world pack out -o earlier --step clips").fine().out;
    assert!(said.contains("the model of step clips"), "{said}");
    folder.run("world pack out -o no --step pairs").fails("E0970").says("the trainings are text,");
    folder.run("world pack packed -o no").fails("E0970").says("no training is finished");
    folder.run("world pack out/stages -o no").fails("E0911");
    assert!(!folder.path("no").exists());
}

/// The first steps of the recipe, as far as the text encoder, and `more`.
fn short(more: &str) -> String {
    let all = recipe();
    let end = all.find("[[step]]\nname = \"frames\"").unwrap();
    format!("{}{more}", &all[..end])
}

const EVAL: &str = "[[step]]\nname = \"seen\"\ndo = \"eval\"\nsets = 1\nsteps = 1\nguidance = 1\n\
                    arms = \"full\"\n";

#[test]
fn a_gate_that_is_missed_ends_the_work_and_keeps_what_was_made() {
    let gated = |bound: &str| {
        short(&format!("{EVAL}gate = [{{ value = \"arms.full.large.value\", {bound} }}]\n"))
    };
    let folder = folder(&gated("above = 1.5"));
    let missed = folder.run(&begin()).fails("E0969");
    missed
        .says("step seen missed a gate: arms.full.large.value is ")
        .says("to be at least 1.5")
        .says("out/seen");
    let made = tree(&folder, "out");
    assert!(made.keys().any(|name| name.starts_with("/stages/text/model/")));
    // It is the same again, and with another bound goes on without making anything.
    folder.run(MAKE).fails("E0969");
    folder.write("out/recipe.toml", gated("below = 1.5"));
    folder.run(MAKE).fine();
    let now = tree(&folder, "out");
    assert!(made.iter().all(|(name, bytes)| name == "/recipe.toml" || *bytes == now[name]));
    folder.write("out/recipe.toml", gated("above = 1.5").replace(".large.", ".largest."));
    folder
        .run(MAKE)
        .fails("E0970")
        .says("a gate for arms.full.largest.value, which it did not measure");
    // A gate of a training ends it on the way.
    let wild = short("").replace("above = 0.0, at = 1", "above = 100.0, at = 1");
    let folder = self::folder(&wild);
    folder
        .run(&begin())
        .fails("E0969")
        .says("stage text missed a gate: loss is ")
        .says("out/start/model");
    assert!(folder.path("out/start/model/model_index.json").exists());
    assert!(!folder.path("out/stages/text/model").exists());
    // One that diverges leaves the model that it began with.
    let wild = short("")
        .replace("learning_rate = 1e-3", "learning_rate = 1e30")
        .replace("steps = 2", "steps = 20");
    let folder = self::folder(&wild);
    folder.run(&begin()).fails("E1001");
    folder.run(MAKE).fails("E1001");
    assert!(
        folder.path("out/start/step.json").exists()
            && !folder.path("out/stages/text/model").exists()
    );
}

#[test]
fn recipes_that_cannot_be_followed_are_refused_before_the_first_step() {
    let folder = Folder::new();
    let refused = |recipe: &str, code: &str, said: &str| {
        folder.write("recipe.toml", recipe);
        let done = folder.run(&begin()).fails(code);
        assert!(done.err.contains(said), "{recipe}\n{}", done.err);
        assert!(done.err.contains("recipe.toml"), "{}", done.err);
        assert!(!folder.path("out").exists());
    };
    let whole = short("");
    let with = |from: &str, to: &str| whole.replacen(from, to, 1);
    refused("[[step", "E0955", "recipe.toml:1");
    refused("", "E0970", "the recipe has no training");
    refused("sed = 1", "E0955", "unknown field `sed`");
    refused("seed = -1", "E0955", "seed is no whole number");
    refused("step = 1", "E0955", "write [[step]]");
    refused("[[step]]\ndo = \"init\"", "E0955", "step 1 has no name");
    refused(&with("do = \"init\"", "do = \"inits\""), "E0955", "`do` is \"inits\"");
    refused(&with("count = 80", "cound = 8"), "E0955", "step samples");
    refused(&with("count = 80", "count = 0"), "E0986", "step samples");
    refused(&with("count = 80", "count = \"many\""), "E0955", "many");
    refused(&with("count = 80", "count = 80\nversion = 3"), "E0955", "world/1 to world/2");
    refused(&with("groups = 20", "groups = 2_000_000"), "E0981", "step samples");
    refused(
        &with("count = 80", "count = 80\noutput = \"x\""),
        "E0970",
        "output is not for a recipe",
    );
    refused(&with("count = 80", "count = { a = 1 }"), "E0955", "count is no text");
    refused(&with("name = \"held\"", "name = \"Samples\""), "E0970", "is taken");
    refused(&with("name = \"held\"", "name = \"stages\""), "E0970", "is taken");
    refused(&with("name = \"held\"", "name = \"a/b\""), "E0970", "is no name of a step");
    refused(&with("do = \"init\"", "do = \"init\"\npreset = \"huge\""), "E0908", "step start");
    refused(
        &short("[[step]]\nname = \"more\"\ndo = \"init\"\n"),
        "E0970",
        "two models to begin with",
    );
    refused(&with("kind = \"full\"", "kind = \"half\""), "E0955", "stage text");
    refused(&with("batch = 2", "batsch = 2"), "E0955", "settings of stage text");
    refused(&with("batch = 2", "batch = 0"), "E0956", "settings of stage text");
    refused(
        &with("manifest = \"samples/", "manifest = \"sample/"),
        "E0970",
        "data.manifest is of no step before",
    );
    refused(
        &with("validation = \"held/", "validation = \"text/"),
        "E0970",
        "data.validation is of no step before",
    );
    refused(
        &short(&format!("{EVAL}model = \"clips\"\n")),
        "E0970",
        "those before it are start, text",
    );
    refused(
        &short(&format!("{EVAL}arm = [\"a=clips\"]\n")),
        "E0970",
        "no earlier step that makes a model",
    );
    refused(
        &short(&format!("{EVAL}judge = \"text\"\n")),
        "E0970",
        "\"text\" is no earlier step that makes a judge",
    );
    refused(&short(&EVAL.replace("\"full\"", "\"all\"")), "E0987", "step seen");
    refused(&short(&EVAL.replace("sets = 1", "sets = 0")), "E0986", "step seen");
    refused(
        &short(&format!("{EVAL}gate = [{{ value = \"pairs\" }}]\n")),
        "E0970",
        "pairs has no bound",
    );
    refused(&short(&format!("{EVAL}gate = [{{ valeu = \"pairs\" }}]\n")), "E0955", "valeu");
    let pairs = "[[step]]\nname = \"p\"\ndo = \"pairs\"\nsets = 4\n";
    refused(&short(&format!("{pairs}split = \"held-out\"\n")), "E0955", "held-out");
    refused(&format!("{pairs}{whole}"), "E0970", "there is no model yet");
    refused(
        &whole
            .replace("name = \"start\"\ndo = \"init\"", "name = \"x\"\ndo = \"sample\"\ncount = 1"),
        "E0970",
        "there is no model to begin with",
    );
    folder.write("recipe.toml", &whole);
    folder
        .run(&format!("{} --until clips", begin()))
        .fails("E0970")
        .says("the steps are samples, held");
    folder.run(&format!("{} --quick", begin())).fails("E0900");
    folder.run("world make -o out --recipe none.toml").fails("E0911");
    folder.run(&format!("{} --threads 1000", begin().replace(" --threads 2", ""))).fails("E0918");
    assert_eq!(folder.names(), ["recipe.toml"]);
}

#[test]
fn finished_steps_are_not_taken_for_others() {
    let folder = folder(&short(EVAL));
    folder.run(&begin()).fine();
    let made = tree(&folder, "out");
    let other = |from: &str, to: &str| {
        folder.write("out/recipe.toml", short(EVAL).replacen(from, to, 1));
        folder.run(MAKE)
    };
    other("count = 80", "count = 9").fails("E0995").says("--count=9").says("out/samples");
    other("count = 80", "count = 80\nversion = 1").fails("E0995").says("--version=1");
    other("seed = 3", "seed = 4").fails("E0995").says("--seed=4");
    other("batch = 2", "batch = 3").fails("E0971").says("train.batch: 2, now 3");
    other("sets = 1", "sets = 2").fails("E0995").says("--sets=2").says("out/seen");
    other("do = \"init\"", "do = \"init\"\npreset = \"small\"")
        .fails("E0995")
        .says("--preset=small");
    folder.write("out/recipe.toml", short(EVAL));
    // Another recipe is for another folder.
    folder.write("recipe.toml", short(""));
    folder.run(&begin()).fails("E0995").says("begun with another recipe");
    folder.run(&format!("{MAKE} --quick")).fails("E0995");
    folder.run(&format!("{MAKE} --seed 4")).fails("E0995");
    folder.run(&format!("{MAKE} --seed 3")).fine();
    // What a step wrote was changed since, or its record is something else.
    let manifest = &made["/samples/manifest.jsonl"];
    folder.write("out/samples/manifest.jsonl", &manifest[..manifest.len() / 2]);
    folder.run(MAKE).fails("E0995").says("SHA-256 of the manifest");
    folder.write("out/samples/manifest.jsonl", manifest);
    let weights = "start/model/transformer/diffusion_pytorch_model.safetensors";
    folder.run("init m --preset world --seed 9").fine();
    std::fs::copy(
        folder.path("m/transformer/diffusion_pytorch_model.safetensors"),
        folder.path(&format!("out/{weights}")),
    )
    .unwrap();
    folder.run(MAKE).fails("E0995").says("digests of the model");
    folder.write(&format!("out/{weights}"), &made[&format!("/{weights}")]);
    folder.write("out/held/step.json", "{}");
    folder.run(MAKE).fails("E0995").says("not what a step of this version leaves");
    // A folder that is removed is made anew.
    std::fs::remove_dir_all(folder.path("out/held")).unwrap();
    folder.run(MAKE).fine();
    same(&tree(&folder, "out"), &made);
}

#[test]
fn folders_in_use_or_of_something_else_are_left_alone_and_a_full_disk_loses_nothing() {
    let folder = folder(&short(EVAL));
    folder.write("out/notes.txt", "precious");
    folder.run(&begin()).fails("E0823");
    assert_eq!(tree(&folder, "out").len(), 1);
    std::fs::remove_dir_all(folder.path("out")).unwrap();
    let limited = |blocks: u32, words: &str| {
        let own = folder.command(words, &[]);
        let mut command = folder.other("sh");
        let line = format!("ulimit -f {blocks}; exec \"$0\" \"$@\"");
        command.args(["-c", &line]).arg(own.get_program()).args(own.get_args());
        command.env("TMPDIR", folder.temporary());
        Done::of(words, command.output().unwrap())
    };
    // No room for pictures, for the first model, for what a training writes.
    limited(64, &begin()).fails("E1013");
    assert!(!folder.path("out/samples").exists());
    limited(8_000, MAKE).fails("E1013");
    assert!(folder.path("out/held/step.json").exists() && !folder.path("out/start/model").exists());
    let slow = start(&folder, MAKE);
    common::training::wait_for(&folder, "out/start/step.json");
    folder.run(MAKE).fails("E0961");
    send(&slow, Signal::KILL);
    ended(slow);
    folder.run(MAKE).fine();
    let whole = self::folder(&short(EVAL));
    whole.run(&begin()).fine();
    same(&tree(&folder, "out"), &tree(&whole, "out"));
}
