//! Statements of origin: made, signed and read by the program, or refused where it has none.

mod common;

use common::Folder;

#[test]
#[cfg(not(feature = "provenance"))]
fn a_program_without_statements_says_so() {
    let folder = Folder::new();
    let run = "generate --model @micro --size 64x64 --frames 1 --steps 1 --guidance 1 --prompt x";
    folder.run(&format!("{run} -o a.gif")).fine();
    let recipe = std::fs::read_to_string(folder.path("a.gif.recipe.json")).unwrap();
    let recipe: serde_json::Value = serde_json::from_str(&recipe).unwrap();
    assert_eq!(recipe["safeguards"]["provenance"], "none");
    folder.run("verify a.gif").fails("E1112").says("--features provenance");
    folder.run(&format!("{run} --signer local -o b.gif")).fails("E1112");
    folder.write("p.toml", "[provenance]\nsign = \"require\"\n");
    folder.run(&format!("{run} --policy p.toml -o b.gif")).fails("E1112");
    folder.run(&format!("{run} --signer pem:a -o b.gif")).fails("E0900");
    assert!(!folder.path("b.gif").exists());
    let off = folder.run(&format!("{run} --no-provenance -o c.gif")).fine();
    assert!(off.err.contains("switched off: the signed statement of origin"), "{}", off.err);
}

#[cfg(feature = "provenance")]
mod with_statements {
    use super::*;
    use anyid_runtime::media::writer::{VideoWriter, WriterOptions};
    use anyid_runtime::media::{ReadOptions, visit_frames};
    use serde_json::Value;
    use std::ops::ControlFlow;
    use std::path::Path;

    /// A run whose frames are large enough for a mark.
    const MARKED: &str = "generate --model @micro --size 256x256 --frames 5 --steps 1 --guidance 1";
    /// One that is fast.
    const SMALL: &str = "generate --model @micro --size 64x64 --frames 1 --steps 1 --guidance 1";

    /// The verdict and the exit code.
    fn verify(folder: &Folder, words: &str) -> (Value, i32) {
        let done = folder.run(&format!("verify --json --fast {words}"));
        (done.json(), done.code)
    }

    fn says(folder: &Folder, words: &str, verdict: &str, exit: i32) -> Value {
        let (found, code) = verify(folder, words);
        assert_eq!((found["verdict"].as_str(), code), (Some(verdict), exit), "{found:#}");
        found
    }

    #[test]
    fn a_result_of_the_built_in_model_is_signed_and_intact() {
        let folder = Folder::new();
        let picture = common::repository().join("examples/characters/first/portrait.png");
        std::fs::copy(&picture, folder.path("anna-s-face.png")).unwrap();
        let prompt = "A close-up shot. The face is smiling.";
        let run = |words: &str| {
            folder.run_with(&format!("generate --ref anna-s-face.png {words} --prompt"), &[prompt])
        };
        // The recipe inside a result is another thing, which tells the prompt.
        run("-o a.gif --no-recipe-inside").fine();
        let shown = folder.run("verify a.gif --ref anna-s-face.png").fine().out;
        for words in ["signed & intact", "LOCAL USE ONLY", "= anna-s-face.png", "c2pa.created"] {
            assert!(shown.contains(words), "{words}: {shown}");
        }
        let found = says(&folder, "a.gif --ref anna-s-face.png", "intact", 0);
        assert_eq!(found["references"][0]["is"], "reference 1 (primary)");
        let recipe = &found["statement"]["recipe"];
        assert_eq!(recipe["prompt_sha256"].as_str().unwrap().len(), 64);
        assert!(recipe["model"]["fingerprints"]["transformer"].is_string(), "{recipe}");
        // Neither the prompt nor a name of a file is in it.
        let bytes = std::fs::read(folder.path("a.gif")).unwrap();
        let holds = |text: &str| bytes.windows(text.len()).any(|part| part == text.as_bytes());
        assert!(!holds("smiling") && !holds("anna-s") && !holds("a.gif"));
        // The frames are those of a run without, and each switch that is off shows.
        let off = "--no-text-filter --watermark off --consent off --frame-check off";
        run(&format!("{off} -o off.gif")).fine();
        let found = says(&folder, "off.gif", "intact", 0);
        let named = found["statement"]["policy"]["off"].as_array().unwrap();
        assert_eq!(named.len(), 4, "{named:?}");
        let shown = folder.run("verify off.gif").fine().out;
        assert!(shown.contains("the filter of texts, the watermark, the check of consent"));
        run("--no-provenance -o none.gif").fine().says("switched off: the signed statement");
        says(&folder, "none.gif", "nothing", 4);
        let pixels = |name: &str| frames(&folder.path(name)).concat();
        assert!(pixels("off.gif") == pixels("none.gif"));
        // With a salt, who has no key does not know the reference again.
        folder.run("consent key -o salt.key").fine();
        folder.write("p.toml", "[provenance]\nsalt = \"salt.key\"\nprompt = \"text\"\n");
        run("--policy p.toml -o frames").fine();
        let found = says(&folder, "frames --ref anna-s-face.png", "intact", 0);
        assert!(found["references"][0]["is"].is_null());
        assert_eq!(found["statement"]["recipe"]["prompt"], prompt);
        let found = says(&folder, "frames --ref anna-s-face.png --salt salt.key", "intact", 0);
        assert!(found["references"][0]["is"].is_string());
    }

    /// The frames of a file.
    fn frames(path: &Path) -> Vec<Vec<u8>> {
        let mut frames = Vec::new();
        visit_frames(path, &ReadOptions::default(), &mut |frame| {
            frames.push(frame.image.data.to_vec());
            Ok(ControlFlow::Continue(()))
        })
        .unwrap();
        frames
    }

    #[test]
    fn what_was_done_to_a_marked_result_shows() {
        let folder = Folder::new();
        folder.run(&format!("{MARKED} --prompt x -o a.mp4")).fine();
        let found = says(&folder, "a.mp4", "intact", 0);
        assert_eq!(found["watermark_is_stated"], true, "{found:#}");
        let id = found["statement"]["watermark"].as_str().unwrap();
        let good = std::fs::read(folder.path("a.mp4")).unwrap();
        let mut bad = good.clone();
        // Within the pictures.
        let at = good.windows(4).position(|part| part == b"mdat").unwrap() + 400;
        bad[at] ^= 1;
        folder.write("bad.mp4", &bad);
        says(&folder, "bad.mp4", "altered", 5);
        // Coded anew at another quality.
        let options = WriterOptions { quantiser: 26, ..WriterOptions::default() };
        let path = folder.path("again.mp4");
        let mut writer = VideoWriter::create(&path, 256, 256, 24.0, &options).unwrap();
        frames(&folder.path("a.mp4")).iter().for_each(|frame| writer.push(frame).unwrap());
        writer.finish().unwrap();
        let found = says(&folder, "again.mp4", "stripped", 4);
        let words = format!("stripped but watermark found (id {id})");
        assert_eq!(found["words"], words.as_str());
        folder.run(&format!("{MARKED} --prompt y --watermark off -o b.gif")).fine();
        says(&folder, "b.gif", "intact", 0);
    }

    #[test]
    fn a_result_that_cannot_be_signed_is_not_left() {
        let folder = Folder::new();
        let run = |words: &str| folder.run(&format!("{SMALL} --prompt x {words}"));
        run("--signer local -o a.gif").fails("E1107").says("provenance init");
        folder.run("provenance init --name tests").fine().says("LOCAL USE ONLY");
        folder.run("provenance init").fails("E1016");
        run("--signer local -o a.gif").fine();
        let state = folder.temporary().join("anyid-rt/provenance");
        let own = state.join("certificates.pem").display().to_string();
        let found = says(&folder, &format!("a.gif --trust {own}"), "intact", 0);
        assert_eq!(found["statement"]["signer"], "tests");
        run("--signer ephemeral -o b.gif").fine();
        says(&folder, &format!("b.gif --trust {own}"), "unknown_signer", 5);
        run("--signer ephemeral -o c.mkv").fails("E1112");
        for name in ["a.gif", "a.gif.recipe.json"] {
            std::fs::remove_file(folder.path(name)).unwrap();
        }
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            let open = |mode| {
                let mode = std::fs::Permissions::from_mode(mode);
                std::fs::set_permissions(state.join("key.pem"), mode).unwrap();
            };
            open(0o640);
            run("--signer local -o a.gif").fails("E1107").says("chmod 600");
            open(0o600);
            let chain = std::fs::read_to_string(&own).unwrap().replace('\n', "\\\\n");
            let info = format!(
                "#!/bin/sh\nif [ \"$1\" = --signer-info ]; then printf '{{\"alg\":\"ed25519\",\"sign_cert\":\
                 \"{chain}\",\"reserve_size\":9000}}'; exit; fi\n"
            );
            for (then, what) in [
                ("exit 3", "the program that signs failed"),
                ("sleep 100", "did not end within 2 seconds"),
                ("echo words", "signed"),
            ] {
                folder.write("sign.sh", format!("{info}{then}\n"));
                let policy = "[provenance]\nsigner = \"command\"\ncommand = [\"/bin/sh\", \"sign.sh\"]\n\
                              patience = 2\n";
                folder.write("p.toml", policy);
                let before = folder.names();
                for output in ["a.gif", "a.mp4", "frames"] {
                    let done = run(&format!("--policy p.toml -o {output}"));
                    done.fails("E1111").says(what);
                    // What was sampled is kept, to go on from.
                    let latents = format!("{output}.latents.safetensors");
                    std::fs::remove_file(folder.path(&latents)).unwrap();
                    assert_eq!(folder.names(), before, "{then} {output}");
                }
            }
        }
    }
}
