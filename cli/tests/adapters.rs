//! Adapters: inspecting, converting, joining and merging them, and videos made with them.

mod common;

use anyid_ir::{DType, Tensor};
#[cfg(unix)]
use common::Done;
use common::{Folder, close, save, tensors};
use std::path::Path;

const FILES: &str = "@tests/fixtures_extra/lora";
/// A small, quick run.
const QUICK: &str = "--size 64x64 --frames 5 --steps 2 --prompt x";

/// An adapter for the built-in model: ranks 2 of the queries and 3 of the feed-forward layers.
fn micro_adapter(path: &Path, seed: usize) {
    let model = anyid_runtime::Model::micro().unwrap();
    let mut list: Vec<(String, Tensor)> = Vec::new();
    for (name, weight) in model.dit_weights.set().iter() {
        let rank = match name.strip_suffix(".weight") {
            Some(module) if module.ends_with("self_attn.q") => 2,
            Some(module) if module.contains("ffn.") => 3,
            _ => continue,
        };
        let [rows, columns] = [weight.shape[0] as usize, weight.shape[1] as usize];
        let module = name.trim_end_matches(".weight");
        for (end, shape) in [("lora_A", [rank, columns]), ("lora_B", [rows, rank])] {
            let count = shape[0] * shape[1];
            let number = |at: usize| ((at * 31 + seed * 17) % 67) as f32 / 200.0 - 0.16;
            let values: Vec<f32> = (0..count).map(number).collect();
            let name = format!("diffusion_model.{module}.{end}.weight");
            list.push((name, Tensor::from_f32(shape, &values).unwrap()));
        }
    }
    assert!(list.len() >= 12, "{}", list.len());
    let list: Vec<(&str, &Tensor)> = list.iter().map(|(name, t)| (name.as_str(), t)).collect();
    save(path, &list);
}

#[test]
fn inspect_says_what_an_adapter_does() {
    let folder = Folder::new();
    let text = folder.run(&format!("lora inspect {FILES}/comfy_ab.safetensors")).fine().out;
    for word in ["adapter as comfyui writes it", "modules   20, rank 4, scale 2", "self_attn.q"] {
        assert!(text.contains(word), "{word}\n{text}");
    }
    let text = folder.run(&format!("inspect {FILES}/comfy_ab.safetensors")).fine().out;
    assert!(text.contains("adapter as comfyui"), "{text}");
    let found = folder.run(&format!("inspect {FILES}/peft --json --tensors")).fine().json();
    assert_eq!((&found["kind"], &found["dialect"]), (&"adapter".into(), &"peft".into()));
    assert_eq!(found["list"].as_array().unwrap().len(), 20);
    let found = folder.run(&format!("lora inspect {FILES}/peft_patterns --json")).fine().json();
    assert_eq!(found["ranks"], serde_json::json!([2, 4, 5, 8]));
    let text = folder.run(&format!("lora inspect {FILES}/distill_diff.safetensors --modules"));
    let text = text.fine().out;
    assert!(text.contains("blocks.1: difference of the modulation"), "{text}");
    let text = folder.run(&format!("lora inspect {FILES}/bad/unmatched_key.safetensors"));
    assert!(text.fine().out.contains("unknown   diffusion_model.blocks.0.cross_attn.k_img"));
    // Against a model of another width, here tiny networks as a folder.
    folder.run("init model --random-weights").fine();
    let words = format!("lora inspect {FILES}/comfy_ab.safetensors --model model");
    folder.run(&words).fails("E0363").says("a model that is 32 wide, the model is 64 wide");
    folder.run("lora inspect none.safetensors").fails("E0310");
    folder.run("lora inspect model/model_index.json").fails("E0311");
    folder.run("lora inspect model --json").fails("E0360").says("no adapter");
    let checkpoint = "model/transformer/diffusion_pytorch_model.safetensors";
    folder.run(&format!("lora inspect {checkpoint}")).fails("E0360");
    // As PEFT wrote before safetensors: a file of PyTorch beside the configuration.
    let text = folder.run(&format!("lora inspect {FILES}/peft_bin")).fine().out;
    assert!(text.contains("as peft writes it") && text.contains("rank 4, scale 2"), "{text}");
    let text = folder.run("inspect @tests/fixtures_extra/pth/plain_f32.pth --tensors").fine().out;
    assert!(text.contains("PyTorch checkpoint") && text.contains("conv F32"), "{text}");
    let bad = "lora inspect @tests/fixtures_extra/pth/bad";
    folder.run(&format!("{bad}/os_system.pth")).fails("E0973").says("posix.system");
    folder.run(&format!("{bad}/truncated_zip.pth")).fails("E0974").says("cut off");
    folder.run("lora inspect @tests/fixtures_extra/pth/views.pth").fails("E0360");
    folder.run(&format!("{bad}/huge_expand.pth")).fails("E0975").says("`w`");
    assert!(!folder.path("anyid_rt_pickle_was_executed.txt").exists());
}

#[test]
fn adapters_are_converted_there_and_back() {
    let folder = Folder::new();
    for dialect in ["comfyui", "diffsynth", "diffusers", "peft", "musubi"] {
        let words =
            format!("lora convert {FILES}/musubi.safetensors --to {dialect} -o {dialect}.out");
        let out = folder.run(&words).fine().out;
        assert!(out.contains("20 modules") && out.contains("read back and compared"), "{out}");
        let found = folder.run(&format!("lora inspect {dialect}.out --json")).fine().json();
        assert_eq!(found["dialect"], dialect);
        folder.run(&format!("lora convert {dialect}.out -o {dialect}.back")).fine();
        let found = folder.run(&format!("lora inspect {dialect}.back --json")).fine().json();
        assert_eq!(
            (&found["ranks"], &found["dialect"]),
            (&serde_json::json!([4]), &"comfyui".into())
        );
    }
    let b = "diffusion_model.blocks.0.ffn.2.lora_B.weight";
    let plain = tensors(&folder.path("comfyui.back"));
    let scaled = tensors(&folder.path("diffsynth.back"));
    let doubled: Vec<f32> = plain[b].to_f32_vec().iter().map(|value| 2.0 * value).collect();
    assert!(scaled[b].to_f32_vec() == doubled, "the scale is in the factor");
    assert_eq!(plain["diffusion_model.blocks.0.ffn.2.alpha"].to_f32_vec(), [8.0]);
    let before = folder.names();
    let convert = |words: &str| folder.run(&format!("lora convert {words}"));
    convert("comfyui.out -o comfyui.back").fails("E1016");
    convert("comfyui.out -o comfyui.back --force").fine();
    convert("comfyui.out -o comfyui.out --force").fails("E0950");
    convert("comfyui.out -o none/x").fails("E1010");
    convert("comfyui.out -o x --to kohya").fails("E0374").says("diffsynth");
    convert(&format!("{FILES}/comfy_dora.safetensors --to diffusers -o x")).fails("E0374");
    convert(&format!("{FILES}/bad/unmatched_key.safetensors -o x")).fails("E0361").says("k_img");
    let allowed = format!("{FILES}/bad/unmatched_key.safetensors -o allowed --allow-unmatched");
    convert(&allowed).fine().says("left out");
    convert(&format!("{FILES}/bad/no_match.safetensors -o x --allow-unmatched")).fails("E0362");
    for (bad, code) in [
        ("missing_b", "E0364"),
        ("rank_differs", "E0365"),
        ("two_spellings", "E0366"),
        ("alpha_vector", "E0368"),
        ("nan", "E0370"),
        ("empty", "E0360"),
    ] {
        convert(&format!("{FILES}/bad/{bad}.safetensors -o x")).fails(code);
    }
    for (bad, code) in [("peft_pissa", "E0367"), ("peft_rank_lies", "E0369")] {
        convert(&format!("{FILES}/bad/{bad} -o x")).fails(code);
    }
    std::fs::remove_file(folder.path("allowed")).unwrap();
    assert_eq!(folder.names(), before, "nothing else was left behind");
}

#[test]
fn adapters_are_joined() {
    let folder = Folder::new();
    let [one, two] = ["comfy_ab", "comfy_second"].map(|name| format!("{FILES}/{name}.safetensors"));
    // `@` is resolved by the tests at the beginning of a word, which the scale follows.
    folder.run(&format!("lora combine {one} {two}:-0.3 -o both.safetensors")).fine();
    let found = folder.run("lora inspect both.safetensors --json").fine().json();
    assert_eq!(
        (&found["ranks"], &found["scales"]),
        (&serde_json::json!([4, 6]), &serde_json::json!([1.0]))
    );
    folder.run(&format!("lora combine {one} {two} -o p --to peft")).fine();
    assert_eq!(
        folder.run("lora inspect p --json").fine().json()["ranks"],
        serde_json::json!([4, 6])
    );
    let dora = format!("{FILES}/comfy_dora.safetensors");
    folder.run(&format!("lora combine {one} {dora} -o x")).fails("E0375").says("DoRA");
    folder.run(&format!("lora combine {one}:much -o x")).fails("E0377");
    folder.run("lora combine -o x").fails("E0900");
    assert_eq!(folder.names(), ["both.safetensors", "p"]);
}

#[test]
fn a_merged_model_gives_the_same_bits_as_its_adapters() {
    let folder = Folder::new();
    micro_adapter(&folder.path("a.safetensors"), 1);
    micro_adapter(&folder.path("b.safetensors"), 2);
    folder.run("init model --random-weights").fine();
    let adapters = "--lora a.safetensors:0.8 --lora b.safetensors:-0.5";
    let done = folder.run(&format!("lora merge model {adapters} -o merged")).fine();
    assert!(done.out.contains("2 adapters") && done.out.contains("compared"), "{}", done.out);
    let names = |path: &str| {
        let mut names = Vec::new();
        for entry in std::fs::read_dir(folder.path(path)).unwrap() {
            names.push(entry.unwrap().file_name().into_string().unwrap());
        }
        names.sort();
        names
    };
    for part in [".", "transformer", "vae", "text_encoder", "tokenizer", "scheduler"] {
        assert_eq!(names(&format!("merged/{part}")), names(&format!("model/{part}")));
    }
    let run = |words: &str, latents: &str| {
        folder
            .run(&format!("generate {words} {QUICK} -o {latents}.gif --save-latents {latents}"))
            .fine();
        tensors(&folder.path(latents)).remove("latents").unwrap()
    };
    let plain = run("--model model", "plain");
    let stacked = run(&format!("--model model {adapters}"), "stacked");
    let merged = run("--model merged", "merged.latents");
    assert!(stacked == merged, "bit for bit");
    assert!(stacked != plain, "adapters do something");
    // The recipe repeats the run with its adapters, and notices when one of them has changed.
    let repeated =
        folder.run("generate --recipe stacked.gif.recipe.json -o again.gif --save-latents again");
    repeated.fine().says("a.safetensors, scale 0.8");
    assert!(tensors(&folder.path("again"))["latents"] == stacked);
    let text = folder.run("inspect stacked.gif").fine().out;
    assert!(text.contains("b.safetensors (scale -0.5)"), "{text}");
    micro_adapter(&folder.path("b.safetensors"), 3);
    folder.run("generate --recipe stacked.gif.recipe.json -o x.gif").fails("E0905").says("SHA-256");
    folder
        .run("generate --recipe stacked.gif.recipe.json -o x.gif --lora a.safetensors --dry-run")
        .fine();
    // One file of a transformer, in its own names; what no adapter changes has the same bytes.
    let file = "model/transformer/diffusion_pytorch_model.safetensors";
    folder.run(&format!("lora merge {file} --lora a.safetensors -o one.safetensors")).fine();
    let (before, after) = (tensors(&folder.path(file)), tensors(&folder.path("one.safetensors")));
    assert_eq!(before.len(), after.len());
    let changed = before.iter().filter(|(name, tensor)| after[*name] != **tensor);
    assert_eq!(changed.count(), tensors(&folder.path("a.safetensors")).len() / 2);
    close(
        "merged",
        &after["blocks.0.attn1.to_q.weight"],
        &before["blocks.0.attn1.to_q.weight"],
        1.0,
    );
    let header = folder.run("inspect one.safetensors --json").fine().json();
    assert!(header["metadata"]["anyid.merged"].as_str().unwrap().contains("sha256"));
}

#[test]
fn what_cannot_be_merged_or_used_leaves_nothing_behind() {
    let folder = Folder::new();
    micro_adapter(&folder.path("a.safetensors"), 1);
    folder.run("init model --random-weights").fine();
    folder.write("taken/file", b"kept");
    let before = folder.names();
    let merge = |words: &str| folder.run(&format!("lora merge {words}"));
    merge("model --lora a.safetensors -o taken").fails("E1016");
    merge("model --lora a.safetensors -o model --force").fails("E0952");
    merge("model --lora none.safetensors -o x").fails("E0310");
    merge("model -o x").fails("E0900");
    merge("none --lora a.safetensors -o x").fails("E0310");
    merge("a.safetensors --lora a.safetensors -o x").fails("E0307");
    merge(&format!("model --lora {FILES}/comfy_ab.safetensors -o x")).fails("E0363");
    merge("model --lora a.safetensors:nan -o x").fails("E0377");
    let generate =
        |words: &str| folder.run(&format!("generate --model model {QUICK} -o x.gif {words}"));
    // Nothing of the base is changed at scale 0.
    let done = merge("model --lora a.safetensors:0 -o zero").fine();
    assert!(done.out.contains("0 tensors changed"), "{}", done.out);
    std::fs::remove_dir_all(folder.path("zero")).unwrap();
    #[cfg(unix)]
    {
        // What cannot be written is called as it would have been.
        let words = "lora merge model --lora a.safetensors -o x";
        let line = format!("ulimit -f 16; exec {} {words}", env!("CARGO_BIN_EXE_anyid-rt"));
        let mut command = folder.other("sh");
        command.args(["-c", &line]);
        let done = common::Done::of(words, command.output().unwrap()).fails("E1013").says("--> x/");
        assert!(!done.err.contains(".tmp"), "{}", done.err);
    }
    generate("--lora none.safetensors").fails("E0310");
    generate("--lora a.safetensors:inf").fails("E0377");
    generate(&format!("--lora {FILES}/bad/no_match.safetensors")).fails("E0362");
    generate(&format!("--lora {FILES}/bad/other_width.safetensors")).fails("E0363").says("Wan 14B");
    generate("--lora a.safetensors --save-latents a.safetensors").fails("E0950");
    generate("--lora a.safetensors --dry-run").fine().says("scale 1");
    assert_eq!(folder.names(), before);
    // Trained for another arrangement of the references.
    let list = tensors(&folder.path("a.safetensors"));
    let list: Vec<(&str, &Tensor)> = list.iter().map(|(name, t)| (name.as_str(), t)).collect();
    let header = [("anyid.rope_layout".to_owned(), "append".to_owned())].into();
    let path = folder.path("append.safetensors");
    anyid_runtime::weights::write_tensors(&path, list, &header).unwrap();
    generate("--lora append.safetensors").fails("E0372").says("append");
    generate("--lora append.safetensors --allow-mismatch --dry-run").fine().says("append");
    merge("model --lora append.safetensors -o x").fails("E0372");
    merge("model --lora append.safetensors -o merged --allow-mismatch").fine();
}

#[test]
fn a_scale_at_which_a_weight_is_not_finite_makes_nothing() {
    let folder = Folder::new();
    micro_adapter(&folder.path("a.safetensors"), 1);
    folder.run("init model --random-weights").fine();
    // The same weights in f16, in which nothing is larger than 65504.
    let file = "model/transformer/diffusion_pytorch_model.safetensors";
    let half = tensors(&folder.path(file));
    let half = half.iter().map(|(name, tensor)| (name.as_str(), tensor.cast(DType::F16)));
    let half: Vec<(&str, Tensor)> = half.collect();
    let rows: Vec<(&str, &Tensor)> = half.iter().map(|(name, tensor)| (*name, tensor)).collect();
    save(&folder.path("half.safetensors"), &rows);
    let merge = |words: &str| folder.run(&format!("lora merge {words}"));
    merge(&format!("{file} --lora a.safetensors:1e30 -o wide.safetensors")).fine();
    merge("half.safetensors --lora a.safetensors:2 -o out.safetensors").fine();
    merge("model --lora a.safetensors -o merged").fine();
    let before = folder.names();
    let whole = std::fs::read(folder.path("out.safetensors")).unwrap();
    let done = merge("half.safetensors --lora a.safetensors:1e30 -o out.safetensors --force");
    let done = done.fails("E0379").says("`blocks.0.").says(" in F16 at element ");
    done.says("with a.safetensors at scale 1e30 is ").says("--> a.safetensors");
    assert!(std::fs::read(folder.path("out.safetensors")).unwrap() == whole, "the old one stays");
    let weights = "merged/transformer/diffusion_pytorch_model.safetensors";
    let whole = std::fs::read(folder.path(weights)).unwrap();
    let two = "--lora a.safetensors:0.5 --lora a.safetensors:1e39";
    let done = merge(&format!("model {two} -o merged --force")).fails("E0379");
    done.says("with a.safetensors at scale 0.5 and a.safetensors at scale 1e39 is ");
    assert!(std::fs::read(folder.path(weights)).unwrap() == whole, "the old one stays");
    let generate = "generate --model model --lora a.safetensors:1e39 -o x.gif";
    folder.run(&format!("{generate} {QUICK}")).fails("E0379").says("scale 1e39");
    // Tensors of an adapter that a scale goes into.
    let done = folder.run("lora combine a.safetensors:1e39 -o x").fails("E0379");
    assert!(!done.says("of a.safetensors at scale 1e39 is ").err.contains(".tmp"));
    folder.run("lora convert a.safetensors --to peft -o p").fine();
    let config = folder.path("p/adapter_config.json");
    let text = std::fs::read_to_string(&config).unwrap();
    let mut value: serde_json::Value = serde_json::from_str(&text).unwrap();
    value["lora_alpha"] = 1e39.into();
    value["alpha_pattern"] = serde_json::json!({});
    std::fs::write(&config, value.to_string()).unwrap();
    folder.run("lora convert p --to diffsynth -o x").fails("E0379").says("with the scale ");
    folder.run("lora convert p --to comfyui -o x").fails("E0379").says("is 1e39 and does not fit");
    folder.run("lora convert p --to diffusers -o d").fine();
    std::fs::remove_file(folder.path("d")).unwrap();
    std::fs::remove_dir_all(folder.path("p")).unwrap();
    assert_eq!(folder.names(), before, "nothing was left behind");
}

#[test]
fn an_adapter_that_counts_twice_is_warned_of() {
    let folder = Folder::new();
    for (name, seed) in [("a", 1), ("b", 2)] {
        micro_adapter(&folder.path(&format!("{name}.safetensors")), seed);
    }
    std::fs::copy(folder.path("a.safetensors"), folder.path("copy.safetensors")).unwrap();
    folder.run("init model --random-weights").fine();
    folder.run("lora merge model --lora a.safetensors:0.25 -o merged").fine();
    let twice = "an adapter counts twice: ";
    let make = format!("generate {QUICK} -o x.gif --dry-run --model");
    for (words, said) in [
        (
            format!("{make} model --lora a.safetensors --lora copy.safetensors:0.5"),
            "at scale 0.5 are",
        ),
        (format!("{make} model --lora a.safetensors --lora b.safetensors"), ""),
        (format!("{make} model --lora a.safetensors --lora copy.safetensors:0"), ""),
        (format!("{make} merged --lora copy.safetensors"), "into the model already, at scale 0.25"),
        (format!("{make} merged --lora b.safetensors"), ""),
        ("lora combine a.safetensors copy.safetensors -o joined".to_owned(), "the same adapter"),
        ("lora combine a.safetensors b.safetensors -o sum".to_owned(), ""),
        (
            "lora merge model --lora a.safetensors --lora a.safetensors:2 -o both".to_owned(),
            "a.safetensors at scale 1 and a.safetensors at scale 2 are the same adapter",
        ),
        ("lora merge merged --lora a.safetensors -o more".to_owned(), "at scale 0.25"),
    ] {
        let done = folder.run(&words).fine();
        assert_eq!(done.err.contains(twice), !said.is_empty(), "{words}\n{}", done.err);
        assert!(done.err.contains(said), "{words}\n{}", done.err);
    }
    // What was merged before is still said, and into what.
    let header = |name: &str| {
        let file = format!("{name}/transformer/diffusion_pytorch_model.safetensors");
        folder.run(&format!("inspect {file} --json")).fine().json()["metadata"].clone()
    };
    let more = header("more");
    assert_eq!(more["anyid.merged"].as_str().unwrap().matches("sha256").count(), 2, "{more}");
    assert_eq!(more["anyid.merged_into"], header("merged")["anyid.merged_into"]);
}

/// What a command gives where no file may be larger than 8 KiB.
#[cfg(unix)]
fn limited(folder: &Folder, words: &str) -> Done {
    let own = folder.command(words, &[]);
    let mut command = folder.other("sh");
    command.args(["-c", "ulimit -f 16; exec \"$0\" \"$@\""]).arg(own.get_program());
    command.args(own.get_args());
    Done::of(words, command.output().unwrap())
}

#[test]
#[cfg(unix)]
fn a_full_disk_leaves_no_part_of_an_adapter_and_loses_none() {
    let folder = Folder::new();
    folder.run("init model --random-weights").fine();
    micro_adapter(&folder.path("m.safetensors"), 1);
    let one = format!("{FILES}/comfy_ab.safetensors");
    let mut rows: Vec<(String, String)> = ["comfyui", "musubi", "diffusers", "peft", "diffsynth"]
        .iter()
        .map(|to| (format!("lora convert {one} --to {to}"), format!("to_{to}")))
        .collect();
    let two = format!("{one} {FILES}/comfy_second.safetensors:0.5");
    rows.push((format!("lora combine {two}"), "both.safetensors".to_owned()));
    rows.push(("lora merge model --lora m.safetensors".to_owned(), "merged".to_owned()));
    for (words, output) in rows {
        let before = folder.names();
        limited(&folder, &format!("{words} -o {output}")).fails("E1013").says("too large");
        assert_eq!(folder.names(), before, "{words}");
        folder.run(&format!("{words} -o {output}")).fine();
        let found = |folder: &Folder| -> Vec<(String, Vec<u8>)> {
            let path = folder.path(&output);
            let inside = std::fs::read_dir(&path).into_iter().flatten().flatten();
            let mut files: Vec<_> =
                inside.map(|entry| entry.path()).chain([path.clone()]).collect();
            files.retain(|path| path.is_file());
            files.sort();
            let bytes = |path: std::path::PathBuf| {
                (path.display().to_string(), std::fs::read(&path).unwrap())
            };
            files.into_iter().map(bytes).collect()
        };
        let whole = found(&folder);
        limited(&folder, &format!("{words} -o {output} --force")).fails("E1013");
        assert!(!whole.is_empty() && found(&folder) == whole, "{words}");
    }
}

#[test]
fn what_was_converted_or_joined_stands_for_what_it_was_made_of() {
    let folder = Folder::new();
    for (name, seed) in [("a", 1), ("b", 2)] {
        micro_adapter(&folder.path(&format!("{name}.safetensors")), seed);
    }
    folder.run("init model --random-weights").fine();
    folder.run("lora merge model --lora a.safetensors:0.5 -o merged").fine();
    folder.run("convert merged --to q8_0 -o merged.gguf").fine();
    folder.run("convert merged --to fp8 -o merged.safetensors").fine();
    folder.run("lora combine a.safetensors b.safetensors:0.25 -o sum.safetensors").fine();
    folder.run("lora combine sum.safetensors:2 -o double.safetensors").fine();
    folder.run("lora convert a.safetensors --to diffusers -o other.safetensors").fine();
    let twice = "an adapter counts twice: ";
    let make = format!("generate {QUICK} -o x.gif --dry-run --model");
    let merged = "is merged into the model already, at scale 0.5";
    for (words, said) in [
        ("model --transformer merged.gguf --lora a.safetensors", merged),
        ("model --transformer merged.gguf --lora b.safetensors", ""),
        ("model --transformer merged.safetensors --lora a.safetensors", merged),
        ("model --transformer merged.safetensors --lora other.safetensors", merged),
        ("merged --lora sum.safetensors", merged),
        ("model --lora sum.safetensors", ""),
        (
            "model --lora sum.safetensors --lora a.safetensors",
            " in sum.safetensors at scale 1 and a.",
        ),
        (
            "model --lora b.safetensors --lora double.safetensors",
            " in double.safetensors at scale 1",
        ),
        ("model --lora other.safetensors --lora a.safetensors", "are the same adapter"),
    ] {
        let done = folder.run(&format!("{make} {words}")).fine();
        assert_eq!(done.err.contains(twice), !said.is_empty(), "{words}\n{}", done.err);
        assert!(done.err.contains(said), "{words}\n{}", done.err);
    }
    let header = folder.run("inspect double.safetensors --json").fine().json();
    let made_of = header["metadata"]["anyid.made_of"].as_str().expect("it is said");
    let made_of: Vec<serde_json::Value> = serde_json::from_str(made_of).unwrap();
    let scales: Vec<f64> = made_of.iter().map(|part| part["scale"].as_f64().unwrap()).collect();
    assert_eq!(scales, [2.0, 0.5]);

    // What the narrower type has no room for is refused, and nothing is written.
    folder.run("lora merge model --lora a.safetensors:1e30 -o huge").fine();
    let done = folder.run("convert huge --to q8_0 -o huge.gguf").fails("E0379");
    done.says("for which ").says("has no room");
    assert!(!folder.path("huge.gguf").exists());
}
