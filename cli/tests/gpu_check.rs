//! `gpu-check`, `inspect devices` and `--device auto`: what they say on a machine without a GPU, and that
//! they find what is wrong.

mod common;

use common::{Done, Folder, repository};

/// What a build without an emulation, or a machine without a compiler, says.
fn lacks_emulation(done: &Done) -> bool {
    done.err.contains("E0904") || done.err.contains("E0850")
}

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
    // A folder that is named has to be one.
    for (name, made) in [("nowhere", false), ("empty", true)] {
        if made {
            std::fs::create_dir(folder.path(name)).unwrap();
        }
        let none = folder.run(&format!("{CHECK} --goldens --fixtures {name}")).fails("E0911");
        none.says(&format!("--fixtures {name}"));
    }
}

#[test]
fn a_check_of_nothing_is_an_error() {
    let folder = Folder::new();
    let none = folder.run(&format!("{CHECK} --kernels --only nosuchthing")).fails("E0918");
    assert!(none.err.contains("no check has \"nosuchthing\""), "{}", none.err);
    assert!(none.err.contains("there are ") && none.err.contains("dit linear"), "{}", none.err);
    // Where tensors are looked for, and there are none.
    let left = folder.run(&format!("{CHECK} --goldens --only tensors --json out.json"));
    left.fails("E0863").says("nothing was checked");
    assert!(folder.path("out.json").exists());
}

#[test]
fn json_on_standard_output_is_all_that_is_there() {
    let folder = Folder::new();
    let done = folder.run(&format!("{CHECK} --kernels --only silu --json -")).fine();
    let report = done.json();
    assert_eq!(report["wrong"], 0);
    assert!(done.err.contains("op table") && done.err.contains("0 wrong"), "{}", done.err);
}

/// Whether this process, and so what it starts, ignores SIGHUP.
#[cfg(unix)]
fn hang_ups_are_ignored() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let ignored = ignored.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    ignored.is_some_and(|mask| mask & 1 != 0)
}

/// However a check is ended, what was found until then is told.
#[test]
#[cfg(unix)]
fn a_check_that_is_stopped_tells_what_it_found() {
    use rustix::process::{Pid, Signal, kill_process};
    let words = "gpu-check --device cpu --preset small --seed 3 --kernels --json out.json";
    let start = |folder: &Folder| {
        let mut command = folder.command(words, &[]);
        command.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped());
        command.spawn().unwrap()
    };
    let folder = Folder::new();
    let begun = std::time::Instant::now();
    Done::of(words, start(&folder).wait_with_output().unwrap());
    let whole = begun.elapsed();
    for (signal, code) in [(Signal::INT, 130), (Signal::TERM, 143), (Signal::HUP, 129)] {
        if signal == Signal::HUP && hang_ups_are_ignored() {
            println!("left out: SIGHUP is ignored here, as under nohup");
            continue;
        }
        // The machine may become faster or slower meanwhile: one of these moments is in the midst of it.
        let amidst = [4, 2, 6, 1, 3, 5, 7, 10, 15].into_iter().any(|eighths| {
            let folder = Folder::new();
            let child = start(&folder);
            std::thread::sleep(whole * eighths / 8);
            kill_process(Pid::from_child(&child), signal).unwrap();
            let begun = std::time::Instant::now();
            let done = Done::of(words, child.wait_with_output().unwrap());
            assert!(begun.elapsed().as_secs() < 60, "{:?}", begun.elapsed());
            if done.code != code {
                return false;
            }
            assert!(done.err.contains("error[E1002]: interrupted"), "{}", done.err);
            let report = std::fs::read(folder.path("out.json")).unwrap();
            let report: serde_json::Value = serde_json::from_slice(&report).unwrap();
            assert_eq!(folder.names(), ["out.json"]);
            let some = report["checks"].as_u64().unwrap() > 0;
            some && done.out.contains("left out after the interruption")
        });
        assert!(amidst, "no signal was in the midst of the checks");
    }
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
    // It is absent, named by its kind where there is none, or there.
    let wgpu = devices.iter().find(|device| device["name"].as_str().unwrap().starts_with("wgpu:"));
    let wgpu = wgpu.unwrap();
    assert_eq!(wgpu["usable"] == false, wgpu["code"].is_string(), "{wgpu}");
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
    match lacks_emulation(&done) {
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

/// In builds that have it: row kernels are planned for the device, and modules compiled for it.
#[test]
fn rows_are_measured_and_modules_compiled_for_the_device() {
    let folder = Folder::new();
    folder.run("export dit --preset micro -o dit.ir").fine();
    let said = folder.run("check dit.ir --device cpu").fine().out;
    assert!(said.contains("compiled  1 function for cpu (cpu), "), "{said}");
    folder.run("check dit.ir --device nosuch").fails("E0904");
    folder.run("bench rows dit.ir --target cuda:sm_80").fails("E0514").says("--target");
    let emulated = |words: &str| {
        let words = format!("{words} --device cuda-emulated:sm_80");
        let mut command = folder.command(&words, &[]);
        command.env("ANYID_CUDA_EMULATED_ORDER", "ascending");
        command.env("ANYID_CUDA_EMULATED_CACHE", folder.path("cache"));
        Done::of(&words, command.output().unwrap())
    };
    let done = emulated("bench rows dit.ir --seconds 0.001 --only layer_norm");
    if lacks_emulation(&done) {
        println!("skipped: this build or machine has no emulation");
        return;
    }
    assert!(done.fine().out.contains("layer_norm"));
    let done = emulated("check dit.ir --json").fine().json();
    let device = &done["device"];
    assert_eq!((&device["target"], &device["functions"]), (&"cuda:sm_80".into(), &1.into()));
    assert!(device["launches"].as_u64().unwrap() > 10, "{done}");
}

/// In builds that have it: a compiler that is at work when the program is ended goes with it, and so do
/// its files.
#[test]
#[cfg(unix)]
fn a_compiler_ends_with_the_program() {
    use rustix::process::{Pid, Signal, kill_process};
    use std::os::unix::fs::PermissionsExt;
    let folder = Folder::new();
    folder.run("export dit --preset micro -o dit.ir").fine();
    // Says that it is a compiler, and then compiles for ever.
    let script = "#!/bin/sh\ncase \"$*\" in\n*--version*) echo a compiler;;\n*-dM*) echo __cplusplus;;\n\
                  *) : > begun; sleep 1000 & echo $! > sleeps; wait;;\nesac\n";
    let compiler = folder.write("slow", script);
    std::fs::set_permissions(&compiler, std::fs::Permissions::from_mode(0o755)).unwrap();
    let words = "check dit.ir --device cuda-emulated:sm_80";
    let mut command = folder.command(words, &[]);
    command.env("ANYID_CUDA_EMULATED_COMPILER", &compiler);
    command.env("ANYID_CUDA_EMULATED_CACHE", folder.path("cache"));
    command.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped());
    let mut child = command.spawn().unwrap();
    while !folder.path("sleeps").exists() {
        if child.try_wait().unwrap().is_some() {
            let done = Done::of(words, child.wait_with_output().unwrap());
            assert!(lacks_emulation(&done), "{}", done.err);
            println!("skipped: this build has no emulation");
            return;
        }
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    std::thread::sleep(std::time::Duration::from_millis(200));
    kill_process(Pid::from_child(&child), Signal::TERM).unwrap();
    let done = Done::of(words, child.wait_with_output().unwrap());
    assert_eq!(done.code, 143, "{}", done.err);
    let sleeps = std::fs::read_to_string(folder.path("sleeps")).unwrap();
    let alive = || {
        // One that nobody has waited for is a zombie.
        let state = std::fs::read_to_string(format!("/proc/{}/stat", sleeps.trim()));
        state.is_ok_and(|state| !state.contains(") Z "))
    };
    let begun = std::time::Instant::now();
    while alive() && begun.elapsed().as_secs() < 10 {
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    assert!(!alive(), "the compiler goes on");
    let left: Vec<_> =
        folder.path("cache").read_dir().unwrap().map(|entry| entry.unwrap()).collect();
    assert!(left.is_empty(), "{left:?}");
}
