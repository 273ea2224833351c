//! Signals at random moments lead to the documented exit code and to complete results or none, and
//! nothing is left over.
//!
//! By default only a few are sent; ANYID_RT_SIGNALS=300 sends 300. MKV needs `ffmpeg`; without it the
//! test says that MKV is left out.

#![cfg(unix)]

mod common;

use common::Folder;
use rustix::process::{Pid, Signal, kill_process, kill_process_group};
use std::collections::BTreeMap;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const FORMS: [&str; 4] = ["out.mp4", "out.mkv", "out.gif", "frames"];
const SIGNALS: [(Signal, i32); 4] =
    [(Signal::INT, 130), (Signal::TERM, 143), (Signal::HUP, 129), (Signal::KILL, 137)];
const RUN: &str = "--size 96x96 --frames 9 --steps 6 --threads 2 --force";

/// Numbers without a pattern.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (self.0 >> 33) % bound
    }
}

fn command(folder: &Folder, output: &str) -> Command {
    let words = format!("generate --model @micro -o {output} {RUN}");
    let mut command = folder.command(&words, &["--prompt", "x"]);
    command.stdout(Stdio::null()).stderr(Stdio::piped()).process_group(0);
    command
}

/// The results in a folder: each file with its bytes, each folder of frames as one.
fn results(folder: &Folder) -> BTreeMap<String, Vec<u8>> {
    let read = |path: &Path| match path.is_dir() {
        true => {
            let mut frames: Vec<_> = path.read_dir().unwrap().map(|e| e.unwrap().path()).collect();
            frames.sort();
            frames.iter().flat_map(|frame| std::fs::read(frame).unwrap()).collect()
        }
        false => std::fs::read(path).unwrap(),
    };
    let names = folder.names().into_iter().filter(|name| !name.starts_with('.'));
    names.map(|name| (name.clone(), read(&folder.path(&name)))).collect()
}

fn leftovers(folder: &Folder) -> Vec<String> {
    folder.names().into_iter().filter(|name| name.starts_with('.')).collect()
}

/// Programs other than ours whose arguments name the folder.
fn children_at_work(folder: &Folder) -> Vec<String> {
    let place = folder.path("").to_string_lossy().into_owned();
    let processes = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let arguments = processes.filter_map(|process| {
        let text = std::fs::read(process.path().join("cmdline")).ok()?;
        Some(String::from_utf8_lossy(&text).replace('\0', " "))
    });
    arguments.filter(|text| text.contains(place.trim_end_matches('/'))).collect()
}

fn wait_for(what: &str, mut done: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !done() {
        assert!(begun.elapsed() < Duration::from_secs(60), "{what} does not come");
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn send(child: &Child, signal: Signal, group: bool) {
    let pid = Pid::from_child(child);
    // It may have ended by itself.
    let _ = if group { kill_process_group(pid, signal) } else { kill_process(pid, signal) };
}

/// MKV files hold a random number, so that only their length repeats.
fn alike(name: &str, a: &[u8], b: &[u8]) -> bool {
    if name.ends_with(".mkv") { a.len() == b.len() } else { a == b }
}

/// What the recipe of another folder says, with this one's name in it.
fn moved(bytes: &[u8], from: &Folder, to: &Folder) -> Vec<u8> {
    let name = |folder: &Folder| {
        let path = std::fs::canonicalize(folder.path("")).unwrap();
        format!("{}/", path.display())
    };
    String::from_utf8_lossy(bytes).replace(&name(from), &name(to)).into_bytes()
}

#[test]
fn a_run_that_is_told_to_end_leaves_whole_results_or_none() {
    let count: u64 =
        std::env::var("ANYID_RT_SIGNALS").ok().and_then(|n| n.parse().ok()).unwrap_or(12);
    let mut forms = FORMS.to_vec();
    if anyid_runtime::media::ffmpeg::find().is_none() {
        eprintln!("no ffmpeg: MKV is left out");
        forms.retain(|form| !form.ends_with(".mkv"));
    }
    // What a run gives that nobody disturbs, and how long it takes.
    let whole = Folder::new();
    let mut times = BTreeMap::new();
    for form in &forms {
        let begun = Instant::now();
        let done = command(&whole, form).output().unwrap();
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
        times.insert(*form, begun.elapsed());
    }
    let wanted = results(&whole);
    let mut random = Random(count ^ 0x5eed);
    let mut tally: BTreeMap<String, usize> = BTreeMap::new();
    for trial in 0..count {
        let form = forms[(trial % forms.len() as u64) as usize];
        let (signal, code) = SIGNALS[(trial / 4 % 4) as usize];
        let (twice, group) = (random.below(2) == 1, random.below(2) == 1);
        let old = random.below(2) == 1;
        let folder = Folder::new();
        let recipe = format!("{form}.recipe.json");
        if old {
            match form {
                "frames" => folder.write("frames/frame_00000.png", b"old"),
                _ => folder.write(form, b"old"),
            };
            folder.write(&recipe, b"old recipe");
        }
        let before = results(&folder);
        let mut child = command(&folder, form).spawn().unwrap();
        let delay = random.below(times[form].as_micros() as u64 * 6 / 5);
        std::thread::sleep(Duration::from_micros(delay));
        send(&child, signal, group);
        if twice {
            std::thread::sleep(Duration::from_micros(random.below(20_000)));
            send(&child, signal, group);
        }
        let status = child.wait().unwrap();
        let mut text = String::new();
        std::io::Read::read_to_string(&mut child.stderr.take().unwrap(), &mut text).unwrap();
        let found = status.code().unwrap_or_else(|| 128 + status.signal().unwrap());
        let what = format!(
            "trial {trial}: {form}, code {code}, after {delay} us, twice {twice}, group {group}, \
             old {old}\n{text}"
        );
        assert!([0, code].contains(&found), "{found}, {what}");
        let killed = found == 137;
        *tally.entry(format!("{} {found}", SIGNALS[(trial / 4 % 4) as usize].1)).or_default() += 1;

        // Result and recipe: both as before, or both new.
        let mut after = results(&folder);
        // Sampled, but not decoded: kept for a later run, and whole.
        let sampled = format!("{form}.latents.safetensors");
        if after.remove(&sampled).is_some() {
            assert_ne!(found, 0, "{form}");
            assert!(common::tensors(&folder.path(&sampled)).contains_key("latents"));
        }
        let new = |name: &str| {
            let recipe = moved(wanted.get(name).map_or(&[][..], |b| b), &whole, &folder);
            let expected = if name == form { &wanted[name] } else { &recipe };
            after.get(name).is_some_and(|bytes| alike(name, bytes, expected))
        };
        let unchanged = |name: &str| after.get(name) == before.get(name);
        let gone = |name: &str| !after.contains_key(name);
        let state = |name: &str| (new(name), unchanged(name), gone(name));
        let what = format!("{:?} {:?} {what}", state(form), state(&recipe));
        let all = |state: &dyn Fn(&str) -> bool| state(form) && state(&recipe);
        match found {
            0 => assert!(all(&new), "{what}"),
            // Killed between two renames: one without the other, but never of different runs.
            137 => assert!(
                all(&new) || all(&unchanged) || (gone(&recipe) && (new(form) || unchanged(form))),
                "{what}"
            ),
            _ => assert!(all(&new) || all(&unchanged), "{what}"),
        }
        assert!(after.len() <= 2, "{:?} {what}", after.keys());
        wait_for("the end of all children", || children_at_work(&folder).is_empty());
        let left = leftovers(&folder);
        if killed {
            // Known by their missing owner, swept by the next run, and said.
            let next = folder.run(
                "generate --prompt x -o next.gif --size 32x32 --frames 1 --steps 1 --guidance 1",
            );
            let next = next.fine();
            assert_eq!(next.err.contains("of killed runs"), !left.is_empty(), "{}", next.err);
            *tally.entry("swept".to_owned()).or_default() += left.len();
        } else {
            assert!(left.is_empty(), "{left:?} {what}");
        }
        assert!(leftovers(&folder).is_empty(), "{:?} {what}", leftovers(&folder));
    }
    eprintln!("{count} signals, by signal and exit code: {tally:?}");
}

#[test]
fn a_signal_that_is_ignored_from_outside_ends_nothing() {
    let folder = Folder::new();
    let program = env!("CARGO_BIN_EXE_anyid-rt");
    let model = common::micro();
    let model = model.display();
    let line =
        format!("trap '' HUP; exec {program} generate --model {model} --prompt x -o out.gif {RUN}");
    let mut command = folder.other("sh");
    command.args(["-c", &line]);
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    wait_for("the temporary", || !leftovers(&folder).is_empty());
    send(&child, Signal::HUP, false);
    assert!(child.wait().unwrap().success());
    assert_eq!(folder.names(), ["out.gif", "out.gif.recipe.json"]);
}

#[test]
fn a_limit_on_file_sizes_is_a_coded_error() {
    let folder = Folder::new();
    let program = env!("CARGO_BIN_EXE_anyid-rt");
    for output in ["u.mp4", "u.gif", "frames", "u.gif --save-latents l.safetensors"] {
        let run = "--prompt x --size 64x64 --frames 5 --steps 1";
        let line = format!("ulimit -f 4; exec {program} generate {run} -o {output}");
        let mut command = folder.other("sh");
        let done = command.args(["-c", &line]).output().unwrap();
        let text = String::from_utf8_lossy(&done.stderr).into_owned();
        assert_eq!(done.status.code(), Some(1), "{output}: {text}");
        assert!(text.contains("error[E1013]") && text.contains("ulimit"), "{output}: {text}");
        assert_eq!(leftovers(&folder).len(), 0, "{output}");
        assert!(!folder.path("frames").exists() && !folder.path("u.gif").exists(), "{output}");
    }
}
