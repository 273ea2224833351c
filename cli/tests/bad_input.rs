//! Bad input: each fault has its code, exit code 1, and leaves no file behind.

mod common;

use anyid_backends::cpu::simd::Level;
use anyid_runtime::checkpoint::{Checkpoint, Encoding, save};
use common::{Done, Folder};
use std::collections::BTreeMap;
use std::path::Path;

/// Runs words that must fail with a code and leave no new name behind.
#[track_caller]
fn refused(folder: &Folder, words: &str, code: &str) -> Done {
    let before = folder.names();
    let done = folder.run(words).fails(code);
    assert_eq!(folder.names(), before, "`{words}`\n{}", done.err);
    done
}

#[test]
fn flags_of_generate_are_checked_before_work() {
    let folder = Folder::new();
    let base = "generate --prompt x -o out.mp4";
    for (flags, code) in [
        ("--size 100x64", "E0901"),
        ("--size 0x64", "E0901"),
        ("--size -32x64", "E0901"),
        ("--size 64", "E0901"),
        ("--size 99999968x64", "E0901"),
        ("--frames 4", "E0902"),
        ("--frames 0", "E0902"),
        ("--frames -5", "E0900"),
        ("--frames 9.5", "E0900"),
        ("--steps 0", "E0923"),
        ("--steps -1", "E0900"),
        ("--steps 100000", "E0923"),
        ("--shift 0", "E0924"),
        ("--shift -3", "E0924"),
        ("--shift nan", "E0924"),
        ("--guidance nan", "E0928"),
        ("--guidance inf", "E0928"),
        ("--fps 0", "E0821"),
        ("--fps -24", "E0821"),
        ("--solver heun", "E0921"),
        ("--schedule karras", "E0922"),
        ("--device wgpu:0", "E0904"),
        ("--device toaster", "E0904"),
        ("--device cpu:1", "E0560"),
        ("--seed -1", "E0900"),
        ("--threads 100000", "E0918"),
        ("--threads -1", "E0900"),
        ("--model missing", "E0701"),
        ("--ref missing.png", "E0801"),
        ("--noise missing.safetensors", "E0310"),
        ("--recipe missing.json", "E0911"),
        ("--save-latents no/folder/l.safetensors", "E1010"),
    ] {
        if flags.contains("wgpu") && !folder.lacks("wgpu:N") {
            continue;
        }
        refused(&folder, &format!("{base} {flags}"), code);
    }
    for (flags, code, said) in [
        ("--size 100x64", "E0901", "--> --size 100x64"),
        ("--frames 4", "E0902", "--> --frames 4"),
        ("--frames -5", "E0900", "--frames cannot be \"-5\""),
        ("--threads 99999999999999999999", "E0900", "give a smaller number"),
    ] {
        refused(&folder, &format!("{base} {flags}"), code).says(said);
    }
    let six = "@examples/astronaut.png ".repeat(6);
    refused(&folder, &format!("{base} --ref {six}"), "E0903");
}

#[test]
fn places_that_cannot_be_written_are_refused() {
    let folder = Folder::new();
    folder.write("file", "x");
    folder.write("full/notes.txt", "keep me");
    for (place, code) in [
        ("no/such/out.mp4", "E1010"),
        ("file/out.mp4", "E1010"),
        ("out.png", "E0820"),
        ("full", "E0823"),
        ("file/", "E0823"),
    ] {
        refused(&folder, &format!("generate --prompt x -o {place}"), code);
    }
    assert_eq!(std::fs::read(folder.path("full/notes.txt")).unwrap(), b"keep me");
    refused(&folder, "export text --tokens 4 -o no/net.ir", "E1010");
    refused(&folder, "init full", "E0909");
    refused(&folder, "init no/such/model", "E1010");
    refused(&folder, "init m --preset wan9", "E0908");
    if Path::new("/dev/full").exists() {
        refused(&folder, "export text --tokens 4 -o /dev/full", "E1012");
    }
}

#[test]
fn references_that_are_none_are_refused() {
    let folder = Folder::new();
    let clip = std::fs::read(common::repository().join("examples/portrait_pan.mp4")).unwrap();
    let picture = std::fs::read(common::repository().join("examples/astronaut.png")).unwrap();
    folder.write("empty.png", "");
    folder.write("text.png", "this is not a picture\n");
    folder.write("half.png", &picture[..picture.len() / 2]);
    folder.write("half.mp4", &clip[..clip.len() / 2]);
    folder.write("head.mp4", &clip[..40]);
    folder.write("clip.webm", b"\x1a\x45\xdf\xa3 rest of a matroska file");
    folder.write("folder.png/x", "");
    for (name, codes) in [
        ("empty.png", &["E0803"][..]),
        ("text.png", &["E0804"]),
        ("half.png", &["E0805"]),
        ("half.mp4", &["E0810"]),
        ("head.mp4", &["E0805", "E0807", "E0808", "E0810"]),
        ("folder.png", &["E0802"]),
        ("clip.webm", &["E0807"]),
    ] {
        let before = folder.names();
        let words = format!("generate --prompt x -o out.mp4 --ref {name}");
        let done = folder.command(&words, &[]).env("PATH", "").output().unwrap();
        let text = String::from_utf8(done.stderr).unwrap();
        assert_eq!(done.status.code(), Some(1), "{name}\n{text}");
        assert!(codes.iter().any(|code| text.contains(code)), "{name}\n{text}");
        assert!(text.contains(name) && text.contains("help: "), "{name}\n{text}");
        assert_eq!(folder.names(), before, "{name}");
    }
}

/// All tensors of the micro transformer, changed by `change`, in its place.
fn rewrite(
    folder: &Folder,
    change: impl Fn(&str, &mut Encoding, &mut Vec<u64>, &mut Vec<u8>) -> bool,
    more: Option<&str>,
) {
    let path = folder.path("m/transformer/diffusion_pytorch_model.safetensors");
    let mut rows = Vec::new();
    let file = Checkpoint::open(&path).unwrap();
    for (at, entry) in file.table().tensors().iter().enumerate() {
        let (mut dtype, mut shape, mut bytes) =
            (entry.encoding, entry.shape.clone(), file.contents(at).unwrap());
        let name = &entry.name;
        if change(name, &mut dtype, &mut shape, &mut bytes) {
            rows.push((name.to_owned(), dtype, shape, bytes));
        }
    }
    drop(file);
    if let Some(name) = more {
        rows.push((name.to_owned(), Encoding::F32, vec![1], vec![0; 4]));
    }
    let rows: Vec<(&str, Encoding, &[u64], &[u8])> =
        rows.iter().map(|(n, d, s, b)| (n.as_str(), *d, s.as_slice(), b.as_slice())).collect();
    save(&path, &rows, &BTreeMap::new()).unwrap();
}

const RUN: &str = "generate --prompt x -o out.mp4 --size 64x64 --frames 1 --steps 2 --model m";
const TENSOR: &str = "blocks.1.ffn.net.2.bias";

fn model() -> Folder {
    let folder = Folder::new();
    folder.run("init m --random-weights").fine();
    folder
}

#[test]
fn tensors_that_do_not_fit_are_named() {
    let folder = model();
    rewrite(&folder, |name, _, _, _| name != TENSOR, None);
    refused(&folder, RUN, "E0301").says("blocks.1.ffn.net.2.bias");
    let folder = model();
    rewrite(&folder, |_, _, _, _| true, Some("blocks.7.extra"));
    refused(&folder, RUN, "E0302").says("blocks.7.extra");
    let folder = model();
    let halve = |name: &str, _: &mut Encoding, shape: &mut Vec<u64>, bytes: &mut Vec<u8>| {
        if name == TENSOR {
            shape[0] /= 2;
            bytes.truncate(bytes.len() / 2);
        }
        true
    };
    rewrite(&folder, halve, None);
    refused(&folder, RUN, "E0303").says("ffn");
    let folder = model();
    let whole = |name: &str, dtype: &mut Encoding, _: &mut Vec<u64>, _: &mut Vec<u8>| {
        if name == TENSOR {
            *dtype = Encoding::I32;
        }
        true
    };
    rewrite(&folder, whole, None);
    refused(&folder, RUN, "E0304").says("ffn");
}

#[test]
fn a_value_that_is_not_finite_stops_the_run() {
    let folder = model();
    let poison = |name: &str, _: &mut Encoding, _: &mut Vec<u64>, bytes: &mut Vec<u8>| {
        if name == TENSOR {
            bytes[..4].copy_from_slice(&f32::NAN.to_le_bytes());
        }
        true
    };
    rewrite(&folder, poison, None);
    refused(&folder, RUN, "E1001").says("step 1").says("node dit/blocks.1/");
}

#[test]
fn broken_checkpoints_are_refused() {
    let folder = model();
    let path = folder.path("m/vae/diffusion_pytorch_model.safetensors");
    let good = std::fs::read(&path).unwrap();
    let mut absurd = good.clone();
    absurd[..8].copy_from_slice(&u64::MAX.to_le_bytes());
    let mut garbled = good.clone();
    garbled[9..40].fill(b'#');
    let overlap = "{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]},\
        \"b\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[4,12]}}";
    let beyond = "{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]}}";
    let file = |header: &str, data: usize| {
        let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
        bytes.extend_from_slice(header.as_bytes());
        bytes.resize(bytes.len() + data, 0);
        bytes
    };
    for (what, bytes, codes) in [
        ("cut off", good[..good.len() - 100].to_vec(), &["E0319"][..]),
        ("cut off in the header", good[..100].to_vec(), &["E0312", "E0311"]),
        ("empty", Vec::new(), &["E0311"]),
        ("absurd length", absurd, &["E0311", "E0312"]),
        ("garbled header", garbled, &["E0311", "E0313"]),
        ("overlapping", file(overlap, 12), &["E0317"]),
        ("beyond the end", file(beyond, 4), &["E0317", "E0319"]),
    ] {
        std::fs::write(&path, bytes).unwrap();
        let done = folder.run(RUN);
        assert_eq!(done.code, 1, "{what}\n{}", done.err);
        assert!(codes.iter().any(|code| done.err.contains(code)), "{what}\n{}", done.err);
        assert!(done.err.contains("vae"), "{what}\n{}", done.err);
        assert_eq!(folder.names(), ["m"], "{what}");
    }
}

#[test]
fn broken_model_folders_are_refused() {
    let folder = model();
    let config = folder.path("m/transformer/config.json");
    let good = std::fs::read_to_string(&config).unwrap();
    std::fs::write(&config, "{ not json").unwrap();
    refused(&folder, RUN, "E0704").says("config.json");
    let heads = good.replace("\"num_attention_heads\": 2", "\"num_attention_heads\": 0");
    assert_ne!(heads, good);
    std::fs::write(&config, heads).unwrap();
    refused(&folder, RUN, "E0713").says("num_attention_heads");
    std::fs::remove_file(&config).unwrap();
    refused(&folder, RUN, "E0703");
    std::fs::remove_dir_all(folder.path("m/vae")).unwrap();
    std::fs::write(&config, good).unwrap();
    refused(&folder, RUN, "E0705").says("vae");
    std::fs::remove_file(folder.path("m/model_index.json")).unwrap();
    let done = folder.run(RUN);
    assert!(done.code == 1 && done.err.contains("error[E07"), "{}", done.err);
}

#[test]
fn ir_faults_are_shown_with_line_and_caret() {
    let folder = Folder::new();
    let text = "module @m\n\nfunc @main(%x: f32[2]) -> f32[2] {\n  %a = frob %x : f32[2]\n  \
        %b = add %x, %zz : f32[2]\n  %c = add %x %x\n  return %b\n}\n";
    folder.write("bad.ir", text);
    let done = refused(&folder, "check bad.ir", "E0103");
    let all = done.says("bad.ir:4:").says("bad.ir:5:").says("bad.ir:6:").says("^").says("frob");
    assert!(all.err.contains("errors in bad.ir"), "{}", all.err);
    let json = folder.run("check bad.ir --json");
    assert_eq!(json.code, 1);
    let json = json.json();
    let lines: Vec<u64> = json["findings"]
        .as_array()
        .unwrap()
        .iter()
        .filter_map(|f| f["start"]["line"].as_u64())
        .collect();
    assert!(json["ok"] == false && lines == [4, 5, 6], "{json}");

    let body = |body: &str| format!("module @m\nfunc @main(%x: f32[2]) -> f32[2] {{\n{body}\n}}\n");
    for (what, text, codes) in [
        ("type mismatch", body("  %y = neg %x : f32[3]\n  return %y"), &["E02"][..]),
        ("undefined value", body("  return %nothing"), &["E04"]),
        ("weight without manifest", body("  %y = add %x, $w : f32[2]\n  return %y"), &["E03"]),
        (
            "cyclic dims",
            format!("module @m\ndim A = B, B = A\n{}", &body("  return %x")[10..]),
            &["E011"],
        ),
        (
            "negative dim",
            format!("module @m\ndim A = 1 - 5\n{}", &body("  return %x")[10..]),
            &["E011"],
        ),
        ("no return", body("  %y = neg %x : f32[2]"), &["E04"]),
        ("nothing", String::new(), &["E01"]),
        ("control characters", "module @m\n\u{1b}[31m\u{7}\n".into(), &["E01"]),
    ] {
        folder.write("bad.ir", text);
        let done = folder.run("check bad.ir");
        assert_eq!(done.code, 1, "{what}\n{}", done.err);
        assert!(
            codes.iter().any(|code| done.err.contains(&format!("error[{code}"))),
            "{what}\n{}",
            done.err
        );
        assert!(!done.err.contains(['\x1b', '\x07']), "{what}");
    }
}

#[test]
fn garbage_of_any_size_is_refused_quickly() {
    let folder = Folder::new();
    let begun = std::time::Instant::now();
    let noise: Vec<u8> =
        (0..4_000_000u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    folder.write("noise.ir", &noise);
    refused(&folder, "check noise.ir", "E0108");
    let text: Vec<u8> = noise.iter().map(|b| b' ' + b % 90).collect();
    folder.write("line.ir", &text);
    let done = folder.run("check line.ir");
    assert!(done.code == 1 && done.err.contains("error[E01"), "{}", done.err.len());
    assert!(done.err.len() < 60_000, "{}", done.err.len());
    let huge = std::fs::File::create(folder.path("huge.ir")).unwrap();
    huge.set_len(100_000_000).unwrap();
    refused(&folder, "check huge.ir", "E0110");
    refused(&folder, "inspect noise.ir", "E0108");
    assert!(begun.elapsed().as_secs() < 20, "{:?}", begun.elapsed());
}

#[test]
fn inputs_that_do_not_fit_are_named() {
    let folder = model();
    folder.run("export text --model m --tokens 4 -o net.ir").fine();
    let ids = |values: &[i32]| {
        let tensor = anyid_ir::Tensor::from_i32([values.len()], values).unwrap();
        common::save(&folder.path("in.safetensors"), &[("ids", &tensor)]);
    };
    let run = "run net.ir --model m --inputs in.safetensors -o out.safetensors";
    ids(&[1, 2, 3]);
    refused(&folder, run, "E1005").says("i32[3]").says("i32[4]");
    ids(&[1, 2, 3, 999_999]);
    refused(&folder, run, "E1006");
    refused(&folder, &format!("{run} --interp"), "E1044");
    ids(&[1, 2, 3, 4]);
    refused(&folder, "run net.ir --model m -o out.safetensors", "E1005").says("--inputs");
    refused(&folder, "run net.ir --inputs in.safetensors -o out.safetensors", "E0301")
        .says("--weights");
    refused(&folder, &format!("{run} --func nothing"), "E0913");
    for (words, code) in [
        (format!("{run} --device toaster"), "E0904"),
        (format!("{run} --device wgpu:0"), "E0904"),
        (format!("{run} --device cpu:3"), "E0560"),
        ("compare net.ir --model m --b toaster".to_owned(), "E0904"),
        ("compare net.ir --model m --a cpu:1".to_owned(), "E0560"),
        ("bisect net.ir --model m --device wgpu:1".to_owned(), "E0904"),
        ("bench ops --device wgpu:0".to_owned(), "E0904"),
        ("bench text --preset micro --device cpu:1".to_owned(), "E0560"),
    ] {
        if words.contains("wgpu") && !folder.lacks("wgpu:N") {
            continue;
        }
        refused(&folder, &words, code);
    }
    refused(&folder, "run missing.ir -o out.safetensors", "E0911");
    let wrong = "--weights m/vae/diffusion_pytorch_model.safetensors";
    refused(&folder, &format!("check net.ir {wrong}"), "E0307");
    refused(&folder, "export dit --preset micro --frames 6 -o x.ir", "E0902");
    refused(&folder, "export dit --preset micro --ref-frames 1,2 -o x.ir", "E0902");
    refused(&folder, "export text --tokens 0 -o x.ir", "E0918");
    refused(&folder, "export vae-encode --size 24x24 -o x.ir", "E0901");
}

#[test]
fn recipes_that_are_none_are_refused() {
    let folder = Folder::new();
    folder.write("a.json", "[]");
    folder.write("b.json", "{\"format\": \"anyid-rt recipe\", \"version\": 99}");
    folder.write("c.json", "{\"format\": \"anyid-rt recipe\", \"version\": 1}");
    for name in ["a.json", "b.json", "c.json"] {
        refused(&folder, &format!("generate --recipe {name} -o out.mp4"), "E0910");
    }
}

#[test]
fn start_noise_that_does_not_fit_is_refused() {
    let folder = model();
    let tensor = anyid_ir::Tensor::from_f32([2, 3], &[0.0; 6]).unwrap();
    for (name, says) in [("noise", "f32[2,3]"), ("latents", "it has latents")] {
        common::save(&folder.path("noise.safetensors"), &[(name, &tensor)]);
        refused(&folder, &format!("{RUN} --noise noise.safetensors"), "E0906").says(says);
    }
}

#[test]
fn parts_of_different_models_are_refused() {
    let folder = model();
    let config = folder.path("m/transformer/config.json");
    let good = std::fs::read_to_string(&config).unwrap();
    std::fs::write(&config, good.replace("\"text_dim\": 64", "\"text_dim\": 32")).unwrap();
    refused(&folder, RUN, "E0714").says("text context: 32 and 64");
}

#[test]
fn an_unknown_level_of_instructions_is_refused() {
    let folder = Folder::new();
    let mut command = folder.command("generate --prompt x -o out.mp4 --frames 1 --steps 1", &[]);
    let output = command.env("ANYID_SIMD", "mmx").output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("error[E0907]") && said.contains("avx512bf16"), "{said}");
}

#[test]
fn an_unknown_way_to_run_row_kernels_is_refused() {
    let folder = Folder::new();
    let mut command = folder.command("generate --prompt x -o out.mp4 --frames 1 --steps 1", &[]);
    let output = command.env("ANYID_ROWS", "guessed").output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("error[E0907]") && said.contains("compiled or interpreted"), "{said}");
    assert!(said.contains("environment variable ANYID_ROWS"), "{said}");
}

#[test]
fn a_level_that_the_machine_lacks_is_refused() {
    let Err(why) = Level::from_setting(Some("amx")) else {
        println!("skipped: this machine has every level");
        return;
    };
    let folder = Folder::new();
    let mut command = folder.command("generate --prompt x -o out.mp4 --frames 1 --steps 1", &[]);
    let output = command.env("ANYID_SIMD", "amx").output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("error[E0907]") && said.contains(&why.to_string()), "{said}");
    assert!(said.contains("environment variable ANYID_SIMD"), "{said}");
}

#[test]
fn tensors_of_types_that_modules_do_not_have_are_refused() {
    let folder = model();
    folder.run("export text --model m --tokens 2 -o net.ir").fine();
    let run = "run net.ir --model m --inputs in.safetensors -o out.safetensors";
    let write = |dtype: Encoding, bytes: &[u8]| {
        let rows = [("ids", dtype, &[2u64][..], bytes)];
        save(folder.path("in.safetensors"), &rows, &BTreeMap::new()).unwrap();
    };
    let large: Vec<u8> = [1i64, 1 << 40].iter().flat_map(|v| v.to_le_bytes()).collect();
    write(Encoding::I64, &large);
    refused(&folder, run, "E0309").says("1099511627776");
    write(Encoding::I16, &[1, 0, 2, 0]);
    refused(&folder, run, "E0309").says("I16");
    let small: Vec<u8> = [1i64, 2].iter().flat_map(|v| v.to_le_bytes()).collect();
    write(Encoding::I64, &small);
    folder.run(run).fine();
}

/// Original checkpoints of the text encoder may name the embedding twice.
#[test]
fn two_names_of_one_tensor_have_to_agree() {
    let folder = model();
    let path = folder.path("m/text_encoder/model.safetensors");
    let file = Checkpoint::open(&path).unwrap();
    let mut rows: Vec<(String, Encoding, Vec<u64>, Vec<u8>)> = file
        .iter()
        .enumerate()
        .map(|(at, (name, entry))| {
            (name.into(), entry.encoding, entry.shape.clone(), file.contents(at).unwrap())
        })
        .collect();
    drop(file);
    let own = rows.iter().find(|row| row.0 == "shared.weight").unwrap().clone();
    rows.push(("encoder.embed_tokens.weight".into(), own.1, own.2, own.3));
    let write = |rows: &[(String, Encoding, Vec<u64>, Vec<u8>)]| {
        let rows: Vec<(&str, Encoding, &[u64], &[u8])> =
            rows.iter().map(|(n, d, s, b)| (n.as_str(), *d, s.as_slice(), b.as_slice())).collect();
        save(&path, &rows, &BTreeMap::new()).unwrap();
    };
    write(&rows);
    folder.run("export text --model m --tokens 2 -o net.ir").fine();
    folder.run("check net.ir --model m").fine();
    rows.last_mut().unwrap().3[0] ^= 1;
    write(&rows);
    refused(&folder, "check net.ir --model m", "E0308").says("shared.weight");
}

/// Text that the verifier accepts and that cannot become a plan: the node is named.
#[test]
fn what_verifies_but_cannot_be_lowered_names_its_node() {
    let folder = Folder::new();
    let text = "module @m\nfunc @deep(%x: f32[2]) -> f32[2] {\n  \
        %y = repeat a in 0..1025 carry(%s = %x) {\n    \
        %t = repeat b in 0..1025 carry(%u = %s) {\n      %v = neg %u\n      yield %v\n    }\n    \
        yield %t\n  }\n  return %y\n}\n";
    folder.write("deep.ir", text);
    folder.run("check deep.ir").fine();
    for verb in ["compile deep.ir -o a.plan", "opt deep.ir -o a.ir", "kernels deep.ir"] {
        refused(&folder, verb, "E0502").says("2^20 steps").says("deep/a=1023/b=1/v");
    }
    folder.write("block.ir", "module @m\nfunc @f<l>(%x: f32[2]) -> f32[2] {\n  return %x\n}\n");
    refused(&folder, "compile block.ir -o a.plan", "E0913").says("index");
}

/// The one name that a tensor file keeps for itself, found before anything runs.
#[test]
fn a_result_that_no_file_can_hold_is_refused() {
    let folder = Folder::new();
    let text = "module @m\nfunc @f(%x: f32[2]) -> f32[2] {\n  %__metadata__ = neg %x\n  \
        return %__metadata__\n}\n";
    folder.write("net.ir", text);
    folder.run("compile net.ir -o net.plan").fine();
    // Inputs are asked for later.
    for file in ["net.ir", "net.plan"] {
        refused(&folder, &format!("run {file} -o out.safetensors"), "E0520").says("__metadata__");
    }
}
