//! `gpu-check`, `inspect devices` and `--device auto`: what they say on a machine without a GPU, and that
//! they find what is wrong.

mod common;

use common::{Done, Folder, repository};

/// A check on the CPU, whose kernels are right.
const CHECK: &str = "gpu-check --device cpu --preset micro --seed 3";

#[test]
fn a_gpu_that_is_not_there_is_said_before_anything_is_checked() {
    let folder = Folder::new();
    // Where there is a driver, this GPU is not among those it knows.
    let codes = ["E0904", "E0858", "E0859", "E0860", "E0560"];
    let done = folder.run("gpu-check --device cuda:4096 --json out.json");
    assert_eq!(done.code, 1, "{}", done.err);
    assert!(codes.iter().any(|code| done.err.contains(code)), "{}", done.err);
    assert!(done.err.contains("--> --device cuda:4096"), "{}", done.err);
    assert!(folder.names().is_empty());
    folder.run(&format!("{CHECK} --seconds 0")).fails("E0918");
    folder.run("gpu-check --device cpu --preset huge").fails("E0908");
    folder.run(&format!("{CHECK} --all --kernels")).fails("E0900");
}

#[test]
fn kernels_and_cases_are_checked_on_fresh_inputs() {
    let folder = Folder::new();
    let words = format!("{CHECK} --kernels --only rms_norm --json out.json");
    let done = folder.run(&words).fine();
    assert!(done.out.lines().count() <= 60, "{}", done.out);
    for part in ["op table", "right", "dit rows", "seed      3", "0 wrong"] {
        assert!(done.out.contains(part), "{part}\n{}", done.out);
    }
    let report = std::fs::read(folder.path("out.json")).unwrap();
    let report: serde_json::Value = serde_json::from_slice(&report).unwrap();
    assert_eq!(report["wrong"], 0);
    assert!(report["checks"].as_u64().unwrap() > 3, "{report}");
    let lines = report["lines"].as_array().unwrap();
    let kernel = lines.iter().find(|line| line["more"]["largest"].is_f64()).unwrap();
    assert_eq!((&kernel["section"], &kernel["verdict"]), (&"kernels".into(), &"right".into()));
}

#[test]
fn a_golden_that_differs_is_wrong_and_the_rest_is_still_checked() {
    let folder = Folder::new();
    let source = repository().join("tests/fixtures/text/plain");
    let case = folder.path("goldens/text/plain");
    std::fs::create_dir_all(&case).unwrap();
    for name in ["config.json", "model.safetensors", "inputs.safetensors", "expected.safetensors"] {
        std::fs::copy(source.join(name), case.join(name)).unwrap();
    }
    let words = format!("{CHECK} --goldens --fixtures goldens --only text");
    let done = folder.run(&words).fine();
    assert!(
        done.out.contains("text/plain") && done.out.contains("1 checks, 0 wrong"),
        "{}",
        done.out
    );
    // Other numbers behind the header.
    let expected = case.join("expected.safetensors");
    let mut bytes = std::fs::read(&expected).unwrap();
    let header = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    bytes[8 + header..].iter_mut().for_each(|byte| *byte ^= 0x10);
    std::fs::write(&expected, bytes).unwrap();
    let done = folder.run(&format!("{words} --json out.json")).fails("E0863");
    assert!(done.out.contains("WRONG"), "{}", done.out);
    assert!(folder.path("out.json").exists(), "the report is written all the same");
    std::fs::remove_file(case.join("config.json")).unwrap();
    let done = folder.run(&words).fails("E0863");
    assert!(done.out.contains("[E0911]") || done.out.contains("[E07"), "{}", done.out);
    let none = folder.run(&format!("{CHECK} --goldens --fixtures nowhere --only text")).fine();
    assert!(none.out.contains("left out"), "{}", none.out);
}

#[test]
fn devices_are_listed_and_the_best_is_taken() {
    let folder = Folder::new();
    let list = folder.run("inspect devices").fine().out;
    assert!(list.contains("cpu") && list.contains("usable: CPU"), "{list}");
    assert!(list.contains("--device auto takes "), "{list}");
    let json = folder.run("inspect devices --json").fine().json();
    let devices = json["devices"].as_array().unwrap();
    let cpu = devices.iter().find(|device| device["name"] == "cpu").unwrap();
    assert_eq!((&cpu["usable"], &cpu["target"]), (&true.into(), &"cpu".into()));
    let wgpu = devices.iter().find(|device| device["name"] == "wgpu:N").unwrap();
    assert_eq!((&wgpu["usable"], &wgpu["code"]), (&false.into(), &"E0904".into()));
    let auto = json["auto"].as_str().unwrap();
    let done = folder.run("bench ops --seconds 0.01 --only rms_norm --device auto").fine();
    assert!(done.err.contains(&format!("the device is {auto}: ")), "{}", done.err);
    // A file of that name is named by its path.
    folder.write("devices", b"");
    folder.run("inspect ./devices").fails("E0915");
}

/// In builds that have it: the kernels that a GPU would run.
#[test]
fn the_emulated_device_is_checked_like_a_gpu() {
    let folder = Folder::new();
    let words =
        "gpu-check --device cuda-emulated:sm_80 --preset micro --seed 3 --kernels --only silu";
    let mut command = folder.command(words, &[]);
    command.env("ANYID_CUDA_EMULATED_ORDER", "shuffled");
    command.env("ANYID_CUDA_EMULATED_CACHE", folder.path("cache"));
    let done = Done::of(words, command.output().unwrap());
    match done.err.contains("E0904") || done.err.contains("E0850") {
        true => println!("skipped: this build or machine has no emulation"),
        false => {
            let done = done.fine();
            assert!(
                done.out.contains("cuda:sm_80") && done.out.contains(" 0 wrong"),
                "{}",
                done.out
            );
        }
    }
}
