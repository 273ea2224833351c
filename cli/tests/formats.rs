//! Files of other programs at the command line: what `inspect` says about them, `generate` from single
//! files, `convert`, and files that mislead.

mod common;

use common::{Folder, repository};
use serde_json::{Value, json};

const FILES: &str = "@tests/fixtures_extra";
/// A run that is quick on the micro model of the fixtures.
const QUICK: &str = "--size 64x64 --frames 5 --steps 1 --threads 1";

/// A safetensors file of tensors of one byte an element.
fn bytes_of(tensors: &[(&str, &[u64])]) -> Vec<u8> {
    let (mut header, mut end) = (serde_json::Map::new(), 0u64);
    for (name, shape) in tensors {
        let size: u64 = shape.iter().product();
        let entry =
            json!({ "dtype": "F8_E4M3", "shape": shape, "data_offsets": [end, end + size] });
        header.insert((*name).to_owned(), entry);
        end += size;
    }
    let text = Value::Object(header).to_string();
    let mut out = (text.len() as u64).to_le_bytes().to_vec();
    out.extend(text.into_bytes());
    out.resize(out.len() + end as usize, 0x38);
    out
}

#[test]
fn inspect_says_what_a_file_is_whatever_it_is_called() {
    let folder = Folder::new();
    for (file, words) in [
        (
            "comfy/dit_fp8_scaled_prefix.safetensors",
            &[
                "safetensors",
                "F8_E4M3",
                "20 weights with scales",
                "prefix \"model.diffusion_model.\"",
            ][..],
        ),
        (
            "comfy/umt5_fp8_e4m3fn_scaled.safetensors",
            &["umT5 text encoder", "14 weights with scales"],
        ),
        ("comfy/wan2.2_vae.safetensors", &["Wan2.2 autoencoder, original naming", "BF16"]),
        ("gguf/dit_mix_no_arch.gguf", &["GGUF checkpoint", "Q8_0", "IQ4_NL", "Wan2.2 transformer"]),
        ("gguf/umt5_q8_0.gguf", &["naming of llama.cpp", "general.architecture: t5encoder"]),
        ("original/Wan2.2_VAE.pth", &["PyTorch checkpoint", "Wan2.2 autoencoder"]),
        ("original/models_t5_umt5-xxl-enc-bf16.pth", &["PyTorch checkpoint", "umT5 text encoder"]),
    ] {
        let out = folder.run(&format!("inspect {FILES}/{file}")).fine().out;
        for word in words {
            assert!(out.contains(word), "{file}: {word}\n{out}");
        }
        // The name plays no part.
        let bytes = std::fs::read(repository().join("tests/fixtures_extra").join(file)).unwrap();
        folder.write("file", bytes);
        assert_eq!(folder.run("inspect file").fine().out, out, "{file}");
    }
    let verify = |file: &str| folder.run(&format!("inspect {FILES}/{file} --verify"));
    let out = verify("original/Wan2.2_VAE.pth").fine().out;
    assert!(out.contains("checksums right"), "{out}");
    let out = verify("gguf/dit_q8_0.gguf").fine().out;
    assert!(out.contains("checksums none in this format"), "{out}");
    assert_eq!(verify("original").fine().out.matches("checksums right").count(), 2);
    verify("pth/bad/crc_mismatch.pth").fails("E0974").says("crc_mismatch.pth").says("data/0");
    let found = folder.run(&format!("inspect {FILES}/gguf/dit_q8_0.gguf --json")).fine().json();
    assert_eq!(found["networks"][0]["network"], "Wan2.2 transformer");
    assert!(found["bytes_by_dtype"]["Q8_0"].as_u64().unwrap() > 0, "{found}");
    assert_eq!(found["other_model"], Value::Null);
    let out = folder.run(&format!("inspect {FILES}/original")).fine().out;
    assert!(out.contains("2 layers, 2 heads of 16") && out.contains("BF16"), "{out}");
}

#[test]
fn other_models_are_named() {
    let folder = Folder::new();
    let q = ("blocks.0.self_attn.q.weight", &[1u64][..]);
    let wide = |width: u64, channels: u64| [width, channels, 1, 2, 2];
    for (width, channels, more, says) in [
        (1536, 16, None, "Wan2.1-T2V-1.3B"),
        (5120, 16, None, "Wan2.1-T2V-14B"),
        (5120, 36, None, "Wan2.2-I2V-A14B"),
        (5120, 16, Some("vace_blocks.0.self_attn.q.weight"), "Wan2.1-VACE, 14B"),
    ] {
        let (bias, patches) = ([width], wide(width, channels));
        let mut tensors =
            vec![q, ("patch_embedding.bias", &bias[..]), ("patch_embedding.weight", &patches)];
        tensors.extend(more.map(|name| (name, &[1u64][..])));
        folder.write("wan", bytes_of(&tensors));
        let out = folder.run("inspect wan").fine().out;
        assert!(out.contains(says) && out.contains("not supported"), "{says}\n{out}");
        let words =
            format!("generate --model {FILES}/original --transformer wan -o out.gif {QUICK}");
        folder.run_with(&words, &["--prompt", "x"]).fails("E0708").says(says);
    }
    let ltx = [
        ("model.diffusion_model.patchify_proj.weight", &[1u64][..]),
        ("model.diffusion_model.adaln_single.linear.weight", &[1]),
    ];
    folder.write("ltx", bytes_of(&ltx));
    let out = folder.run("inspect ltx").fine().out;
    assert!(out.contains("LTX-Video, which is not supported"), "{out}");
    assert_eq!(folder.run("inspect ltx --json").fine().json()["other_model"], "LTX-Video");
    let words = format!("generate --model {FILES}/original --transformer ltx -o out.gif {QUICK}");
    folder.run_with(&words, &["--prompt", "x"]).fails("E0307").says("LTX-Video");
    assert_eq!(folder.names(), ["ltx", "wan"]);
}

#[test]
fn a_model_of_single_files_makes_a_video_and_its_recipe_names_them() {
    let folder = Folder::new();
    let generate = |words: &str| {
        folder.run_with(&format!("generate {words} {QUICK}"), &["--prompt", "a person walks"])
    };
    let original = format!("--model {FILES}/original");
    let mixed = format!(
        "{original} --transformer {FILES}/gguf/dit_q8_0.gguf \
         --text-encoder {FILES}/comfy/umt5_fp8_e4m3fn_scaled.safetensors \
         --vae {FILES}/comfy/wan2.2_vae.safetensors"
    );
    generate(&format!("{original} -o whole.gif")).fine();
    generate(&format!("{mixed} -o mixed.gif")).fine();
    let read = |name: &str| std::fs::read(folder.path(name)).unwrap();
    assert!(read("whole.gif") != read("mixed.gif"), "other weights, the same video");
    let recipe: Value = serde_json::from_slice(&read("mixed.gif.recipe.json")).unwrap();
    let files = recipe["model"]["files"].as_object().unwrap();
    let names: Vec<&String> = files.keys().collect();
    assert_eq!(names, ["transformer", "text-encoder", "vae"]);
    let out = folder.run("inspect mixed.gif.recipe.json").fine().out;
    assert!(out.contains("dit_q8_0.gguf") && out.contains("umt5_fp8"), "{out}");
    folder.run("generate --recipe mixed.gif.recipe.json -o again.gif --threads 1").fine();
    assert!(read("again.gif") == read("mixed.gif"), "a recipe repeats the run");
    // A part that nothing gives; a file for another part; a result over a part.
    let all = format!(
        "--transformer {FILES}/gguf/dit_q8_0.gguf --vae {FILES}/comfy/wan2.2_vae.safetensors"
    );
    generate(&format!("{all} -o none.gif")).fails("E0713").says("num_heads");
    generate(&format!("--vae {FILES}/comfy/wan2.2_vae.safetensors -o none.gif"))
        .fails("E0705")
        .says("--transformer");
    generate(&format!("{original} --vae {FILES}/gguf/dit_q8_0.gguf -o none.gif")).fails("E0307");
    generate(&format!("{original} --tokenizer {FILES}/gguf/dit_q8_0.gguf -o none.gif"))
        .fails("E0733");
    generate(&format!("{original} --vae none.gguf -o none.gif")).fails("E0310");
    std::fs::copy(
        repository().join("tests/fixtures_extra/comfy/wan2.2_vae.safetensors"),
        folder.path("v.gif"),
    )
    .unwrap();
    generate(&format!("{original} --vae v.gif -o v.gif --force")).fails("E0950");
}

#[test]
fn files_that_mislead_are_refused_with_file_and_tensor() {
    let folder = Folder::new();
    let bad = format!("generate --model {FILES}/original -o out.gif {QUICK} --transformer {FILES}");
    for (file, code, says) in [
        ("comfy/bad/scale_missing.safetensors", "E0336", "self_attn.q.weight"),
        ("comfy/bad/nvfp4.safetensors", "E0335", "NVFP4"),
        ("comfy/bad/quant_json.safetensors", "E0337", "comfy_quant"),
        ("gguf/bad/row_not_blocks.gguf", "E0333", "row_not_blocks.gguf"),
        ("gguf/bad/version1.gguf", "E0334", "version1.gguf"),
        ("gguf/bad/type.gguf", "E0335", "31"),
        ("gguf/bad/truncated.gguf", "E0319", "truncated.gguf"),
        ("pth/bad/os_system.pth", "E0973", "posix.system"),
        ("pth/bad/huge_expand.pth", "E0975", "`w`"),
    ] {
        let words = format!("{bad}/{file}");
        folder.run_with(&words, &["--prompt", "x"]).fails(code).says(says);
    }
    assert!(folder.names().is_empty(), "nothing is run or written: {:?}", folder.names());
}

#[test]
fn networks_are_converted_and_the_results_run() {
    let folder = Folder::new();
    for (to, says) in [("q8_0", "GGUF"), ("q4_k", "GGUF"), ("fp8", "safetensors")] {
        let words = format!("convert {FILES}/original --to {to} --part text-encoder -o text.{to}");
        let out = folder.run(&words).fine().out;
        assert!(out.contains("read back and compared") && out.contains("lost at most"), "{out}");
        let words = format!("convert {FILES}/original --to {to} -o dit.{to} --json");
        let report = folder.run(&words).fine().json();
        let worst = report["largest_relative_error"].as_f64().unwrap();
        assert!(worst > 1e-3 && worst < 0.1, "{report}");
        assert!(report["narrower"].as_u64().unwrap() > 0, "{report}");
        for name in ["dit", "text"] {
            let out = folder.run(&format!("inspect {name}.{to}")).fine().out;
            assert!(out.contains(says), "{out}");
        }
        let parts = format!(
            "--transformer dit.{to} --text-encoder text.{to} --tokenizer {FILES}/original/google/umt5-xxl/spiece.model"
        );
        let words = format!("generate --model {FILES}/original {parts} -o {to}.gif {QUICK}");
        folder.run_with(&words, &["--prompt", "x"]).fine();
        if says == "GGUF" {
            // The tokenizer of the folder is in the file, and the same.
            let parts =
                format!("--transformer dit.{to} --text-encoder text.{to} --no-recipe-inside");
            let named = format!("--tokenizer {FILES}/original/google/umt5-xxl/spiece.model");
            let run = |more: &str, out: &str| {
                let model =
                    format!("generate --model {FILES}/original {parts} {more} -o {out} {QUICK}");
                folder
                    .run_with(&model, &["--prompt", "She walks  \u{fc}ber 3 bridges, 42!"])
                    .fine();
                std::fs::read(folder.path(out)).unwrap()
            };
            assert!(
                run("", &format!("in.{to}.gif")) == run(&named, &format!("by.{to}.gif")),
                "{to}"
            );
            let found = folder.run(&format!("inspect text.{to} --json")).fine().json();
            assert_eq!(found["metadata"]["tokenizer.ggml.model"], "t5");
            assert_eq!(found["metadata"]["t5encoder.block_count"], "2");
        }
    }
    let found = folder.run("inspect dit.q4_k --json").fine().json();
    // Rows of 32 are no whole blocks of 256 and stay halves.
    for dtype in ["Q4_K", "F16", "F32"] {
        assert!(found["bytes_by_dtype"][dtype].as_u64().unwrap() > 0, "{found}");
    }
    let convert = |words: &str| folder.run(&format!("convert {words}"));
    convert(&format!("{FILES}/original --to q3_k -o x.gguf"))
        .fails("E0338")
        .says("q8_0, q4_k, fp8");
    convert(&format!("{FILES}/comfy/wan2.2_vae.safetensors --to q8_0 -o x.gguf")).fails("E0338");
    convert(&format!("{FILES}/original --to q8_0 -o dit.q8_0")).fails("E1016");
    convert(&format!("{FILES}/original --to q8_0 -o dit.q8_0 --force")).fine();
    convert("dit.q8_0 --to fp8 -o dit.q8_0 --force").fails("E0950");
    convert("none --to fp8 -o x").fails("E0310");
    let file = format!("--tokenizer {FILES}/original/google/umt5-xxl/spiece.model");
    convert(&format!("{FILES}/original --to q8_0 {file} -o x.gguf")).fails("E0900");
    // What is quantised already is converted like anything else.
    convert("dit.q8_0 --to fp8 -o dit2.fp8").fine();
    assert!(!folder.path("x.gguf").exists());
}
