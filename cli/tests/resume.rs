//! A sampling that was killed goes on from its state to the same file.
//!
//! By default 20 kills at random moments; ANYID_RT_SIGNALS=100 makes 100.
#![cfg(unix)]

mod common;

use common::{Folder, tensors};
use rustix::process::{Pid, Signal, kill_process};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

const RUN: &str =
    "generate --ref @examples/characters/first/portrait.png --steps 240 --threads 1 -o out.gif";
const QUICK: &str = "generate --model @micro --size 64x64 --frames 5 --steps 4 --threads 1";

/// Numbers without a pattern.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (self.0 >> 33) % bound
    }
}

fn start(folder: &Folder, words: &str) -> Child {
    let mut command = folder.command(words, &["--prompt", "A close-up shot. The face is smiling."]);
    command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap()
}

/// Lets a run end; whether it succeeded, and what it said.
fn end(child: Child) -> (bool, String) {
    let done = child.wait_with_output().unwrap();
    (done.status.success(), String::from_utf8_lossy(&done.stderr).into_owned())
}

fn bytes(folder: &Folder, name: &str) -> Vec<u8> {
    std::fs::read(folder.path(name)).unwrap()
}

#[test]
fn a_run_that_is_killed_again_and_again_makes_the_same_file() {
    let wanted: u64 =
        std::env::var("ANYID_RT_SIGNALS").ok().and_then(|n| n.parse().ok()).unwrap_or(20);
    let whole = Folder::new();
    let begun = Instant::now();
    let (fine, said) = end(start(&whole, RUN));
    assert!(fine, "{said}");
    let time = begun.elapsed();
    let video = bytes(&whole, "out.gif");
    // A run with a state that nobody disturbs makes it too, and leaves no state.
    let words = format!("{RUN} --resume");
    let undisturbed = Folder::new();
    let (fine, said) = end(start(&undisturbed, &words));
    assert!(fine && !said.contains("going on"), "{said}");
    assert!(bytes(&undisturbed, "out.gif") == video);
    assert_eq!(undisturbed.names(), ["out.gif", "out.gif.recipe.json"]);

    let (mut kills, mut resumed, mut videos) = (0, 0, 0);
    let mut random = Random(wanted ^ 0x5eed);
    let mut folder = Folder::new();
    while kills < wanted {
        let mut child = start(&folder, &words);
        std::thread::sleep(Duration::from_micros(random.below(time.as_micros() as u64 / 2)));
        let signal = if random.below(4) == 0 { Signal::INT } else { Signal::KILL };
        let ended = child.try_wait().unwrap().is_some();
        // It may have ended by itself.
        let _ = kill_process(Pid::from_child(&child), signal);
        let (fine, said) = end(child);
        resumed += u64::from(said.contains("going on behind step"));
        kills += u64::from(!ended && !fine);
        assert!(!said.contains("error[") || said.contains("error[E1002]"), "{said}");
        // It may have been killed when all was done.
        if folder.path("out.gif").exists() {
            assert!(bytes(&folder, "out.gif") == video, "after {kills} kills");
            folder = Folder::new();
            videos += 1;
        }
    }
    if !folder.path("out.gif").exists() {
        let (fine, said) = end(start(&folder, &words));
        assert!(fine, "{said}");
    }
    assert!(bytes(&folder, "out.gif") == video);
    let left: Vec<String> =
        folder.names().into_iter().filter(|name| !name.starts_with("out.gif")).collect();
    assert!(left.is_empty() && !folder.path("out.gif.state.safetensors").exists(), "{left:?}");
    println!("{kills} kills, {resumed} runs went on, {videos} videos on the way");
    assert!(resumed >= wanted / 4, "only {resumed} of {kills} runs went on from a state");
}

/// Leaves a state behind: the decoder of the model is spoilt, so that the run fails behind sampling.
fn left(folder: &Folder, more: &str) -> String {
    folder.run("init m --random-weights").fine();
    let path = folder.path("m/vae/diffusion_pytorch_model.safetensors");
    let sound = std::fs::read(&path).unwrap();
    let length = u64::from_le_bytes(sound[..8].try_into().unwrap()) as usize;
    let header: serde_json::Value = serde_json::from_slice(&sound[8..8 + length]).unwrap();
    let offsets = &header["decoder.conv_out.bias"]["data_offsets"];
    let stop = 8 + length + offsets[1].as_u64().unwrap() as usize;
    let mut spoilt = sound.clone();
    spoilt[stop - 4..stop].copy_from_slice(&f32::NAN.to_le_bytes());
    std::fs::write(&path, spoilt).unwrap();
    let words = format!("{} {more}", QUICK.replace("@micro", "m"));
    let failed = folder.run_with(&words, &["--prompt", "a walk"]).fails("E1001");
    std::fs::write(&path, sound).unwrap();
    failed.err
}

#[test]
fn a_decoding_that_fails_leaves_the_state_of_the_last_step() {
    let folder = Folder::new();
    let said = left(&folder, "-o out.gif --resume --save-latents l.st --seed random");
    let advice = "`anyid-rt generate --resume out.gif.state.safetensors`";
    assert!(said.contains("the state behind 4 steps is in") && said.contains(advice), "{said}");
    assert_eq!(folder.names(), ["m", "out.gif.state.safetensors"]);
    let state = tensors(&folder.path("out.gif.state.safetensors"));
    assert!(state.contains_key("latents") && state.contains_key("solver.corrected"));
    // The autoencoder is mended, and therefore another.
    let refused = folder.run("generate --resume out.gif.state.safetensors");
    refused.fails("E0905").says("autoencoder");
}

#[test]
fn states_of_other_runs_and_other_files_are_refused() {
    let folder = Folder::new();
    folder.run("init m --random-weights").fine();
    let words = |more: &str| format!("{} -o out.gif {more}", QUICK.replace("@micro", "m"));
    let run = |more: &str| folder.run_with(&words(more), &["--prompt", "a walk"]);
    run("--save-latents l.st").fine();
    // Latents are no state: they do not say of which step they are.
    run("--force --resume l.st").fails("E1301").says("not the state");
    folder.write("text.st", "words");
    let said = run("--force --resume text.st").err;
    assert!(said.contains("error[E03") && said.contains("remove the file"), "{said}");
    folder.run("generate --resume none.st").fails("E1301").says("no state to go on from");
    folder.run("generate --resume -o other.gif").fails("E1301").says("other.gif.state");
    folder.run("generate --resume").fails("E0900").says("--resume");
    run("--force --resume --latents l.st").fails("E0900");
    folder.run_with(&words("--resume").replace("out.gif", "-"), &["--prompt", "x"]).fails("E0900");
    // A state with other tensors than its solver needs, and one of another run.
    let latents = tensors(&folder.path("l.st")).remove("latents").unwrap();
    let file = anyid_runtime::checkpoint::Checkpoint::open(folder.path("l.st")).unwrap();
    let mut metadata = std::collections::BTreeMap::new();
    let key = anyid_runtime::pipeline::RECIPE_KEY;
    metadata.insert(key.to_owned(), file.metadata().get(key).unwrap().to_string());
    metadata.insert("anyid-rt step".to_owned(), "2/4".to_owned());
    let made = folder.path("made.st");
    anyid_runtime::weights::write_tensors(&made, [("latents", &latents)], &metadata).unwrap();
    run("--force --resume made.st").fails("E1301").says("solver.corrected");
    run("--force --resume made.st --seed 3 --guidance 2")
        .fails("E1302")
        .says("guidance, seed differ");
    folder.run("generate --latents made.st -o x.gif").fails("E1301").says("step 2 of 4");
    metadata.insert("anyid-rt step".to_owned(), "5/4".to_owned());
    anyid_runtime::weights::write_tensors(&made, [("latents", &latents)], &metadata).unwrap();
    run("--force --resume made.st").fails("E1301").says("5/4");
    // Complete: only decoding is left, and the state goes when the video is there.
    metadata.insert("anyid-rt step".to_owned(), "4/4".to_owned());
    anyid_runtime::weights::write_tensors(&made, [("latents", &latents)], &metadata).unwrap();
    let before = bytes(&folder, "out.gif");
    let done = folder.run("generate --resume made.st --force --json").fine();
    assert_eq!(done.json()["phases"].as_array().unwrap().len(), 1);
    assert!(bytes(&folder, "out.gif") == before && !made.exists());
}

#[test]
fn a_state_that_cannot_be_stored_is_a_warning() {
    let folder = Folder::new();
    // A state has more than 40 KiB here, and the video at this quality less.
    let line = "ulimit -f 40; exec \"$0\" generate --model \"$1\" --size 96x96 --frames 9 --steps 2 \
                --prompt x -o out.mp4 --quality 38 --resume";
    let mut command = folder.other("bash");
    command.args(["-c", line, env!("CARGO_BIN_EXE_anyid-rt")]).arg(common::micro());
    let done = command.env("TMPDIR", folder.temporary()).output();
    let done = common::Done::of(line, done.unwrap()).fine();
    let warning = "warning: the state of sampling could not be stored in out.mp4.state.safetensors";
    assert_eq!(done.err.matches(warning).count(), 1, "{}", done.err);
    assert_eq!(folder.names(), ["out.mp4", "out.mp4.recipe.json"]);
}

#[cfg(target_os = "linux")]
#[test]
fn a_state_without_room_leaves_the_latents() {
    let folder = Folder::new();
    let may = folder.other("unshare").args(["-m", "true"]).output();
    if !may.is_ok_and(|done| done.status.success()) {
        println!("skipped: mounting needs root and `unshare`");
        return;
    }
    std::fs::create_dir(folder.path("full")).unwrap();
    std::fs::create_dir(folder.path("room")).unwrap();
    // All but a page is taken: files can be opened, and none of them holds a state, latents or a video.
    let line = "mount --make-rprivate / && mount -t tmpfs -o size=64k none full || exit 77; \
        head -c 60k /dev/zero >full/taken; \
        $0 generate --model $1 --size 64x64 --frames 5 --steps 2 --threads 1 --prompt walk --resume \
        -o full/x.apng 2>said.txt; echo $? >code";
    let mut command = folder.other("unshare");
    command.args(["-m", "bash", "-c", line, env!("CARGO_BIN_EXE_anyid-rt")]).arg(common::micro());
    let done = command.env("TMPDIR", folder.path("room")).output().unwrap();
    let said = String::from_utf8(bytes(&folder, "said.txt")).unwrap();
    assert!(done.status.success() && bytes(&folder, "code") == b"1\n", "{said}");
    assert!(said.contains("the state of sampling could not be stored"), "{said}");
    assert!(said.contains("error[E1012]") && said.contains("the latents are in"), "{said}");
    let kept: Vec<_> = std::fs::read_dir(folder.path("room")).unwrap().collect();
    let [Ok(kept)] = &kept[..] else { panic!("{kept:?}: {said}") };
    assert!(tensors(&kept.path()).contains_key("latents"));
    let latents = kept.path();
    let words = format!("generate --model @micro --latents {} -o x.apng", latents.display());
    folder.run(&words).fine();
}
