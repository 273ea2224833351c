//! `bench dit`, `bench vae`, `bench text`, `bench train`: what they report, except times.

mod common;

use common::Folder;
use serde_json::Value;

const DIT: &str = "bench dit --preset micro --blocks 2 --tokens 24 --text-tokens 8";

const ALL: [&str; 12] = [
    DIT,
    "bench dit --preset micro --blocks 2 --tokens 24 --text-tokens 8 --guided",
    "bench dit --preset micro --tokens 24 --text-tokens 8 --precision f32",
    "bench dit --preset micro --all --tokens 24 --text-tokens 8",
    "bench vae --preset micro --size 32x48",
    "bench vae --preset micro --size 32x32 --frames 9 --precision bf16",
    "bench vae --preset micro --size 32x32 --frames 5 --direction encode",
    "bench text --preset micro --layers 2 --tokens 7",
    "bench train --preset micro --tokens 24 --text-tokens 8 --rank 4",
    "bench train --preset micro --blocks 2 --tokens 24 --text-tokens 8 --rank 4 --precision f32",
    "bench train --preset micro --all --tokens 24 --text-tokens 8 --samples 3",
    "bench train --preset micro --all --tokens 1 --text-tokens 2 --precision f32",
];

/// The report without what depends on time and on the process.
fn lasting(mut report: Value, threads: usize) -> Value {
    assert_eq!(report["threads"], threads);
    let times = ["seconds", "shortest_seconds", "processor_seconds", "load_seconds"];
    for key in times.into_iter().chain(["gflops", "share_of_peak"]) {
        let value = report[key].take();
        assert!(value.as_f64().unwrap() > 0.0, "{key}: {value}");
    }
    assert!(report["peak"].take()["f32_gflops"].as_f64().unwrap() > 0.0);
    // Scratch goes by the number of threads.
    for key in ["scratch", "planned"].map(|key| format!("{key}_bytes")) {
        assert!(report["memory"][&key].take().as_u64().is_some(), "{key}");
    }
    for key in ["start", "loading", "running", "peak"].map(|key| format!("process_{key}_bytes")) {
        report["memory"]
            .as_object_mut()
            .unwrap()
            .remove(&key)
            .expect("it may be null, but is there");
    }
    report["threads"].take();
    report
}

#[test]
fn reports_depend_on_the_network_alone() {
    let folder = Folder::new();
    for words in ALL {
        let run = |threads: usize| {
            let words = format!("{words} --repeats 1 --json --threads {threads}");
            lasting(folder.run(&words).fine().json(), threads)
        };
        let report = run(1);
        assert_eq!(report, run(2), "{words}");
        let sum = |key: &str| -> u64 {
            let phases = report["phases"].as_array().unwrap();
            phases.iter().map(|p| p[key].as_u64().unwrap() * p["calls"].as_u64().unwrap()).sum()
        };
        assert!(report["flops"].as_u64().unwrap() > 0 && sum("flops") == report["flops"]);
        assert_eq!(sum("launches"), report["launches"].as_u64().unwrap());
        assert_eq!(report["repeats"], 1);
        assert!(report["memory"]["workspace_bytes"].as_u64().unwrap() > 0);
        let resident = report["phases"][0]["weights_resident_bytes"].as_u64().unwrap();
        assert!(report["memory"]["weights_bytes"].as_u64().unwrap() >= resident / 2, "{report}");
    }
    assert!(folder.names().is_empty());
}

#[test]
fn plans_add_up_and_are_within_what_the_process_held() {
    let folder = Folder::new();
    let report = folder.run(&format!("{DIT} --repeats 2 --json")).fine().json();
    let memory = &report["memory"];
    let parts = ["weights", "workspace", "persistent", "scratch", "input_output"];
    let sum: u64 = parts.iter().map(|p| memory[format!("{p}_bytes")].as_u64().unwrap()).sum();
    assert_eq!(memory["planned_bytes"], sum);
    // Two blocks' text keys and values stay between steps: 2 x 2 x 8 rows of 64 bf16 at least.
    assert!(memory["persistent_bytes"].as_u64().unwrap() >= 2 * 2 * 8 * 64 * 2);
    if let Some(running) = memory["process_running_bytes"].as_u64() {
        assert!(running > sum, "{memory}");
        assert!(memory["process_peak_bytes"].as_u64().unwrap() >= running, "{memory}");
    }
    assert_eq!(report["phases"][0]["name"], "step");
}

#[test]
fn the_process_holds_what_is_planned_and_hardly_more() {
    let folder = Folder::new();
    // Large enough that the program itself does not count.
    let words = "bench vae --preset micro --size 768x768 --frames 5 --repeats 1 --threads 1 --json";
    let report = folder.run(words).fine().json();
    let memory = |key: &str| report["memory"][format!("{key}_bytes")].as_u64();
    let planned = memory("planned").unwrap();
    assert!(memory("weights").unwrap() * 20 < planned, "{}", report["memory"]);
    if let (Some(start), Some(peak)) = (memory("process_start"), memory("process_peak")) {
        let held = (peak - start) as f64 / planned as f64;
        assert!((1.0..=1.05).contains(&held), "{held}: {}", report["memory"]);
    }
}

#[test]
fn a_residual_stream_in_bf16_takes_less() {
    let folder = Folder::new();
    let report = |residual: &str| {
        let words = format!("{DIT} --repeats 1 --json --residual {residual}");
        folder.run(&words).fine().json()
    };
    let [wide, half] = [report("f32"), report("bf16")];
    assert_eq!(
        (&wide["settings"]["residual"], &half["settings"]["residual"]),
        (&"f32".into(), &"bf16".into())
    );
    let moved = |report: &Value| report["phases"][0]["bytes_moved"].as_u64().unwrap();
    assert!(moved(&half) < moved(&wide));
    assert_eq!(half["launches"], wide["launches"]);
    folder.run(&format!("{DIT} --residual f16")).fails("E0900");
}

#[test]
fn more_blocks_and_frames_are_more_work() {
    let folder = Folder::new();
    let report = |words: &str| folder.run(&format!("{words} --repeats 1 --json")).fine().json();
    let flops = |words: &str| report(words)["flops"].as_u64().unwrap();
    let one = flops("bench dit --preset micro --tokens 24 --text-tokens 8");
    assert_eq!(flops(DIT), 2 * one);
    let whole = flops("bench dit --preset micro --tokens 24 --text-tokens 8 --all");
    assert!(whole > one);
    for (how, tokens, runs) in [("auto", 24, 1), ("apart", 24, 2), ("auto", 64, 2)] {
        let words = format!("bench dit --preset micro --tokens {tokens} --text-tokens 8");
        let both = report(&format!("{words} --guided {how}"));
        assert_eq!(both["settings"]["runs"], runs, "{how}, {tokens} tokens");
        assert_eq!(both["flops"].as_u64().unwrap(), 2 * flops(&words), "{how}, {tokens} tokens");
        if how == "apart" {
            let held = |report: &Value| report["memory"]["input_output_bytes"].as_u64().unwrap();
            assert_eq!(held(&both), held(&report(&words)), "held once");
        }
    }
    let clip = report("bench vae --preset micro --size 32x32 --frames 9");
    let calls = |at: usize| clip["phases"][at]["calls"].as_u64().unwrap();
    assert_eq!((calls(0), calls(1)), (1, 2));
    let single = report("bench vae --preset micro --size 32x32");
    assert_eq!(single["phases"].as_array().unwrap().len(), 1);
    assert_eq!(single["flops"], clip["phases"][0]["flops"]);
}

#[test]
fn profiles_have_every_step() {
    let folder = Folder::new();
    let words = "bench vae --preset micro --size 32x32 --frames 9 --repeats 2 --profile";
    let report = folder.run(&format!("{words} --json")).fine().json();
    let list = |key: &str| report["profile"][key].as_array().unwrap().clone();
    let sum = |rows: &[Value], key: &str| -> u64 {
        rows.iter().map(|row| row[key].as_u64().unwrap()).sum()
    };
    assert_eq!(sum(&list("kinds"), "launches"), report["launches"].as_u64().unwrap());
    assert_eq!(sum(&list("steps"), "calls"), report["launches"].as_u64().unwrap());
    assert_eq!(sum(&list("kinds"), "flops"), report["flops"].as_u64().unwrap());
    let times: Vec<f64> =
        list("steps").iter().map(|row| row["seconds"].as_f64().unwrap()).collect();
    assert!(times.windows(2).all(|pair| pair[0] >= pair[1]));
    assert!(times.iter().all(|time| *time >= 0.0) && times[0] > 0.0);
    let text = folder.run(words).fine().out;
    for part in ["median", "planned", "of peak", "kind ", "step ", "conv"] {
        assert!(text.contains(part), "{part}\n{text}");
    }
    assert!(folder.run(DIT).fine().out.starts_with("dit: 2 blocks of width 64, 24 tokens, bf16\n"));
}

#[test]
fn row_kernels_are_measured_at_their_shapes() {
    let folder = Folder::new();
    folder.run("export dit --preset micro -o dit.ir").fine();
    let words = "bench rows dit.ir --vary lat,t --seconds 0.001 --threads 1";
    let report = folder.run(&format!("{words} --json")).fine().json();
    assert!(report["copy_gb_per_second"].as_f64().unwrap() > 0.0);
    let listed = folder.run("kernels dit.ir --vary lat,t --json").fine().json();
    let listed: Vec<&Value> = listed["kernels"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|kernel| kernel["text"].as_str().unwrap().contains(" rows i in "))
        .filter(|kernel| !kernel["text"].as_str().unwrap().contains(" as "))
        .collect();
    let measured = report["kernels"].as_array().unwrap();
    assert_eq!(measured.len(), listed.len());
    for (own, listed) in measured.iter().zip(listed) {
        for key in ["name", "launches", "bytes"] {
            assert_eq!(own[key], listed[key], "{own}");
        }
        assert!(own["seconds"].as_f64().unwrap() > 0.0 && own["rows"].as_u64().unwrap() > 0);
        assert!(own["gb_per_second"].as_f64().unwrap() > 0.0, "{own}");
    }
    let text = folder.run(&format!("{words} --only layer_norm")).fine().out;
    assert!(text.contains("measured copy") && text.contains("layer_norm+modulate"), "{text}");
    assert!(!text.contains("rope"), "{text}");
    for (words, code) in [
        ("bench rows dit.ir --only nothing", "E0918"),
        ("bench rows dit.ir --seconds 0", "E0918"),
        ("bench rows nowhere.ir", "E0911"),
    ] {
        folder.run(words).fails(code);
    }
}

#[test]
fn measurements_that_are_none_are_refused() {
    let folder = Folder::new();
    for (words, code) in [
        ("bench ops --only nothing", "E0918"),
        ("bench dit --blocks 0", "E0918"),
        ("bench train --rank 0", "E0918"),
        ("bench train --all --samples 0", "E0918"),
        ("bench train --samples 2", "E0900"),
        ("bench train --all --rank 4", "E0900"),
        ("bench train --model nowhere", "E0"),
        ("bench train --model nowhere --preset micro", "E0900"),
        ("bench train --rank 3073", "E0918"),
        ("bench dit --blocks 1001", "E0918"),
        ("bench dit --tokens 0", "E0918"),
        ("bench dit --tokens 9999999", "E0918"),
        ("bench dit --text-tokens 0", "E0918"),
        ("bench dit --tokens -3", "E0900"),
        ("bench dit --tokens many", "E0900"),
        ("bench dit --preset micro --repeats 0", "E0918"),
        ("bench dit --preset big", "E0908"),
        ("bench dit --precision f16", "E0900"),
        // A workspace of terabytes.
        ("bench vae --size 32768x32768", "E0940"),
        ("bench vae --direction both", "E0900"),
        ("bench vae --frames 4", "E0902"),
        ("bench vae --frames 0", "E0902"),
        ("bench vae --size 250x256", "E0901"),
        ("bench vae --size 0x0", "E0901"),
        ("bench vae --size big", "E0901"),
        ("bench text --layers 0", "E0918"),
        ("bench text --tokens 0", "E0918"),
        ("bench", "Usage"),
        ("bench kernels", "E0900"),
    ] {
        let done = folder.run(words);
        assert_eq!(done.code, 1, "`{words}`\n{}\n{}", done.out, done.err);
        assert!(
            done.err.contains(code) && !done.err.contains("panicked"),
            "`{words}`\n{}",
            done.err
        );
        assert!(done.out.is_empty(), "`{words}`\n{}", done.out);
    }
}
