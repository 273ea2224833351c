//! Endless inputs, files that change while they are read, and limits of the system: each leads to a
//! coded error in bounded time and memory, and no partial file remains.

mod common;

use common::{Done, Folder};
use std::time::Duration;

/// Runs words that must fail with a code and leave no new name behind.
#[track_caller]
fn refused(folder: &Folder, words: &str, code: &str) -> Done {
    let before = folder.names();
    let done = folder.run(words).fails(code);
    assert_eq!(folder.names(), before, "`{words}`\n{}", done.err);
    done
}

/// Every place where the program reads what a user names.
const READERS: [(&str, &str); 14] = [
    ("check", "E0911"),
    ("compile", "E0911"),
    ("opt", "E0911"),
    ("kernels", "E0911"),
    ("run -o y.safetensors", "E0911"),
    ("inspect", "E0911"),
    ("check net.ir --weights", "E0310"),
    ("run net.ir -o y.safetensors --inputs", "E0310"),
    ("compare net.ir --inputs", "E0310"),
    ("generate --prompt x -o o.mp4 --recipe", "E0911"),
    ("generate --prompt x -o o.mp4 --noise", "E0310"),
    ("generate --prompt x -o o.mp4 --ref", "E0802"),
    ("generate --prompt x -o o.mp4 --model", "E0701"),
    ("export dit -o d.ir --model", "E0701"),
];

fn small() -> Folder {
    let folder = Folder::new();
    folder.write("net.ir", "module @m\nfunc @f(%x: f32[2]) -> f32[2] {\n  return %x\n}\n");
    let x = anyid_ir::Tensor::from_f32([2], &[1.0, 2.0]).unwrap();
    common::save(&folder.path("in.safetensors"), &[("x", &x)]);
    folder
}

#[test]
#[cfg(target_os = "linux")]
fn devices_are_refused_wherever_a_file_is_read() {
    let folder = small();
    for device in ["/dev/zero", "/dev/random"] {
        for (words, code) in READERS {
            // What is no folder is no model, before anything is opened.
            refused(&folder, &format!("{words} {device}"), code);
        }
    }
}

#[test]
#[cfg(target_os = "linux")]
fn sockets_and_folders_are_refused_as_text() {
    let folder = small();
    let _bound = std::os::unix::net::UnixListener::bind(folder.path("socket")).unwrap();
    for words in ["check", "compile", "run -o y.safetensors", "generate -o o.mp4 --recipe"] {
        refused(&folder, &format!("{words} socket"), "E0911").says("socket");
        refused(&folder, &format!("{words} ."), "E0911").says("folder");
    }
}

#[test]
#[cfg(unix)]
fn text_may_come_out_of_a_pipe() {
    let folder = small();
    let script = format!("cat net.ir | {} check /dev/stdin", env!("CARGO_BIN_EXE_anyid-rt"));
    let done = shell(&folder, &script);
    assert_eq!(done.0, 0, "{}", done.1);
    let script = format!("yes | {} check /dev/stdin", env!("CARGO_BIN_EXE_anyid-rt"));
    let done = shell(&folder, &script);
    assert_eq!(done.0, 1, "{}", done.1);
    assert!(done.1.contains("error[E0110]"), "{}", done.1);
    let script = format!("yes | {} generate --recipe /dev/stdin", env!("CARGO_BIN_EXE_anyid-rt"));
    let done = shell(&folder, &script);
    assert!(done.0 == 1 && done.1.contains("error[E0910]"), "{}", done.1);
}

/// Exit code and standard error of a line of the shell, run in the folder; -1 for a signal.
#[cfg(unix)]
fn shell(folder: &Folder, script: &str) -> (i32, String) {
    let mut command = folder.other("sh");
    command.args(["-c", script]);
    let output = command.env_remove("RUST_BACKTRACE").output().unwrap();
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    (output.status.code().unwrap_or(-1), text)
}

#[test]
#[cfg(target_os = "linux")]
fn text_of_no_stated_size_is_read_and_sparse_files_are_refused_at_once() {
    let folder = small();
    // Its size is stated as zero, and it is no IR.
    let done = folder.run("check /proc/self/status");
    assert!(done.code == 1 && done.err.contains("error[E01"), "{}", done.err);
    let sparse = std::fs::File::create(folder.path("sparse.ir")).unwrap();
    if let Err(fault) = sparse.set_len(1 << 40) {
        println!("skipped: this file system holds no file of a terabyte: {fault}");
        return;
    }
    refused(&folder, "check sparse.ir", "E0110");
    refused(&folder, "compile sparse.ir", "E0110");
    refused(&folder, "generate -o o.mp4 --recipe sparse.ir", "E0910");
    std::fs::rename(folder.path("sparse.ir"), folder.path("sparse.plan")).unwrap();
    refused(&folder, "run sparse.plan -o y.safetensors", "E0519");
    std::fs::rename(folder.path("sparse.plan"), folder.path("sparse.safetensors")).unwrap();
    refused(&folder, "inspect sparse.safetensors", "E0312");
    refused(&folder, "run net.ir -o y.safetensors --inputs sparse.safetensors", "E0312");
}

/// The moment differs from run to run; whatever is met has to be an error with a name.
#[test]
fn weights_that_are_cut_during_a_run_end_it_with_a_coded_error() {
    let folder = Folder::new();
    folder.run("init whole --random-weights").fine();
    let parts = [
        "transformer/diffusion_pytorch_model.safetensors",
        "vae/diffusion_pytorch_model.safetensors",
        "text_encoder/model.safetensors",
    ];
    let copy = |from: &std::path::Path, to: &std::path::Path| {
        std::fs::create_dir_all(to.parent().unwrap()).unwrap();
        std::fs::copy(from, to).unwrap();
    };
    let mut met = 0;
    for (round, wait) in [5u64, 15, 30, 60, 100, 150].into_iter().enumerate() {
        let model = format!("m{round}");
        let mut folders = vec![folder.path("whole")];
        while let Some(inside) = folders.pop() {
            for entry in std::fs::read_dir(inside).unwrap() {
                let path = entry.unwrap().path();
                match path.is_dir() {
                    true => folders.push(path),
                    false => {
                        let name = path.strip_prefix(folder.path("whole")).unwrap();
                        copy(&path, &folder.path(&model).join(name));
                    }
                }
            }
        }
        let words = format!(
            "generate --model {model} --prompt x --size 64x64 --frames 5 --steps 20 -o {model}.gif"
        );
        let child = folder
            .command(&words, &[])
            .stdout(std::process::Stdio::null())
            .stderr(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        std::thread::sleep(Duration::from_millis(wait));
        for part in parts {
            std::fs::File::create(folder.path(&model).join(part)).unwrap();
        }
        let output = child.wait_with_output().unwrap();
        let text = String::from_utf8_lossy(&output.stderr);
        match output.status.code() {
            Some(0) => {}
            Some(1) => {
                met += 1;
                assert!(text.contains("error[E03"), "{text}");
            }
            other => panic!("{other:?} after {wait} ms\n{text}"),
        }
        let left: Vec<String> =
            folder.names().into_iter().filter(|name| name.contains("tmp")).collect();
        assert!(left.is_empty(), "{left:?}\n{text}");
    }
    println!("{met} of 6 runs met the cut");
}

#[test]
#[cfg(target_os = "linux")]
fn threads_that_the_system_refuses_are_an_error_with_their_numbers() {
    let folder = small();
    let program = env!("CARGO_BIN_EXE_anyid-rt");
    // The stacks of 500 threads do not fit into 800 MB of addresses.
    let script = format!(
        "ulimit -v 800000 && exec {program} run net.ir --inputs in.safetensors -o y.st --threads 500"
    );
    let (code, text) = shell(&folder, &script);
    assert_eq!(code, 1, "{text}");
    assert!(text.contains("error[E1025]") && text.contains("of 500 threads"), "{text}");
    assert!(text.contains("--threads"), "{text}");
    let script = format!("exec {program} run net.ir --inputs in.safetensors -o y.st --threads 500");
    let (code, text) = shell(&folder, &script);
    assert_eq!(code, 0, "{text}");
}

/// Address space is the limit that can be set for one process; where it runs out differs with it.
#[test]
#[cfg(target_os = "linux")]
fn without_memory_a_run_ends_with_a_code_and_leaves_nothing() {
    let folder = small();
    folder.run("init m --random-weights").fine();
    folder.run("export dit -o dit.ir").fine();
    let program = env!("CARGO_BIN_EXE_anyid-rt");
    let picture = common::repository().join("examples/astronaut.png");
    let clip = common::repository().join("examples/portrait_pan.mp4");
    let generate =
        "generate --model m --prompt x --size 64x64 --frames 5 --steps 1 --threads 2 --ref";
    let runs = [
        "check dit.ir".to_owned(),
        "compile dit.ir".to_owned(),
        "inspect m".to_owned(),
        "run net.ir --inputs in.safetensors -o y.safetensors --threads 2".to_owned(),
        format!("{generate} {} -o o.mp4", picture.display()),
        format!("{generate} {} -o o.gif", clip.display()),
        format!("{generate} {} -o frames", picture.display()),
    ];
    let before = folder.names();
    let mut refused = 0;
    // From where the program itself begins to fit, which depends on what is built in, to where every run
    // does.
    let fits = |kib: &u32| {
        let (code, _) = shell(&folder, &format!("ulimit -v {kib} && exec {program} --version"));
        code == 0
    };
    let first = (20_000..400_000).step_by(2_000).find(fits).unwrap() + 4_000;
    for words in &runs {
        for kib in (0..22_000).step_by(3_700).chain((22_000..112_000).step_by(15_000)) {
            let kib = first + kib;
            let script = format!("ulimit -v {kib} && exec {program} {words}");
            let (code, text) = shell(&folder, &script);
            let coded = text.contains("error[E");
            assert!(code == 0 || coded && (code == 1 || code == 3), "{kib}: {code}\n{text}");
            assert!(!text.contains("panicked") && !text.contains("E1000"), "{kib}\n{text}");
            refused += u32::from(code == 3);
            for name in folder.names() {
                if before.contains(&name) {
                    continue;
                }
                assert!(code == 0, "{kib} KiB: `{words}` left {name}\n{text}");
                let path = folder.path(&name);
                let _ = std::fs::remove_dir_all(&path).or_else(|_| std::fs::remove_file(&path));
            }
        }
    }
    assert!(refused > 10, "only {refused} runs were refused");
}
