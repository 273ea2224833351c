//! The example of a whole tuning does what it says, in the time that it states.

#![cfg(unix)]

mod common;

use common::training::log;
use common::{Done, Folder, repository};
use std::path::Path;

#[test]
fn the_example_tunes_a_model_from_clips_to_a_video() {
    let folder = Folder::new();
    let program = Path::new(env!("CARGO_BIN_EXE_anyid-rt"));
    let path = format!(
        "{}:{}",
        program.parent().unwrap().display(),
        std::env::var("PATH").unwrap_or_default()
    );
    let script = repository().join("examples/train.sh");
    let run = || {
        let mut command = folder.other("sh");
        command.arg(&script).arg("tuning").env("PATH", &path);
        command.env("TMPDIR", folder.temporary());
        Done::of("examples/train.sh", command.output().unwrap())
    };
    let done = run().fine();
    assert!(done.out.contains("4 samples to train on"), "{}", done.out);
    for name in ["tuned.mp4", "tuned.mp4.recipe.json", "sft/adapter.safetensors", "dpo/log.jsonl"] {
        assert!(folder.path("tuning").join(name).is_file(), "{name}");
    }
    let rows = log(&folder, "tuning/sft");
    let loss = |at: usize| rows[at]["validation"]["over_base"].as_f64().unwrap();
    assert!(loss(59) < 0.9, "{}", loss(59));
    let rows = log(&folder, "tuning/dpo");
    assert_eq!(rows[0]["loss"].as_f64().unwrap(), std::f64::consts::LN_2);
    let last = &rows[19]["validation"];
    assert!(last["margin"].as_f64().unwrap() > 0.0, "{last}");
    // A second run says what to do instead of failing half way.
    let again = run();
    assert_eq!(again.code, 1, "{}", again.err);
    assert!(again.err.contains("tuning holds an earlier tuning: name another folder"));
    assert!(!again.err.contains("error["), "{}", again.err);
}
