//! Models that look at frames: what they refuse leaves nothing. A program without them says so.

mod common;

use anyid_runtime::media::{RgbFrame, lossless};
use common::Folder;
use serde_json::Value;

#[path = "../../runtime/study/tests/tiny_onnx/mod.rs"]
mod tiny;

const RUN: &str =
    "generate --model @micro --size 64x64 --frames 5 --steps 1 --guidance 1 --prompt x";

/// A model whose value for every picture is 1/(1 + e⁻ˣ).
fn always(x: f32) -> Vec<u8> {
    tiny::means(32, "logits", &[0.0; 6], &[0.0, x])
}

#[test]
fn what_a_model_refuses_leaves_nothing() {
    let folder = Folder::new();
    folder
        .write("image.toml", "[[adapter]]\nkind = \"vit-binary\"\nmodel = \"m.onnx\"\nsize = 32\n");
    folder.write("p.toml", "[frames]\ncheck = \"require\"\nmodels = \"image.toml\"\n");
    let safeguards = |name: &str| -> Value {
        let bytes = std::fs::read(folder.path(&format!("{name}.recipe.json"))).unwrap();
        serde_json::from_slice::<Value>(&bytes).unwrap()["safeguards"].clone()
    };
    // 0.12, 0.73 and 0.95.
    folder.write("m.onnx", always(-2.0));
    if !anyid_runtime::study::moderation::OFFERED {
        folder
            .run(&format!("{RUN} --policy p.toml -o a.gif"))
            .fails("E1110")
            .says("--features moderation");
        println!("only in part: this program runs no models");
        return;
    }
    folder.run(&format!("{RUN} --policy p.toml --moderation-report r.json -o a.gif")).fine();
    let made = safeguards("a.gif");
    assert_eq!(made["frame_check"], "allow");
    assert!((made["frame_score"].as_f64().unwrap() - 0.1192).abs() < 1e-3, "{made}");
    let report = std::fs::read_to_string(folder.path("r.json")).unwrap();
    let report: Value = serde_json::from_str(&report).unwrap();
    let at: Vec<_> = report["frames"].as_array().unwrap().iter().map(|f| &f["frame"]).collect();
    assert_eq!(at, [0, 4]);
    folder.write("m.onnx", always(1.0));
    let warned = folder.run(&format!("{RUN} --policy p.toml -o b.gif")).fine();
    assert!(warned.err.contains("the result may show what it should not"), "{}", warned.err);
    assert_eq!(safeguards("b.gif")["frame_check"], "warn");
    folder.write("m.onnx", always(3.0));
    let before = folder.names();
    for more in ["-o c.gif", "-o c.mp4 --save-latents l.safetensors", "-o c"] {
        folder.run(&format!("{RUN} --policy p.toml {more}")).fails("E1114").says("nothing of this");
        assert_eq!(folder.names(), before, "{more}");
    }
    let shown = folder.run("audit show --json -n 100").fine().json();
    let codes = shown["records"].as_array().unwrap().iter().filter(|r| r["code"] == "E1114");
    assert_eq!(codes.count(), 3);
    // References are looked at before anything is computed.
    let picture = "examples/characters/first/portrait.png";
    let refused = folder.run(&format!("{RUN} --policy p.toml --ref @{picture} -o d.gif"));
    refused.fails("E1114").says("reference 1");
    // One that lets what is white pass and refuses the result: the preview of it goes as well.
    let white = RgbFrame { width: 64, height: 64, data: vec![255; 3 * 64 * 64] };
    folder.write("white.png", lossless::picture(&white).unwrap());
    folder
        .write("m.onnx", tiny::means(32, "logits", &[0.0, -8.0, 0.0, 0.0, 0.0, 0.0], &[0.0, 6.0]));
    let before = folder.names();
    let refused =
        folder.run(&format!("{RUN} --policy p.toml --ref white.png --preview p.png -o d.gif"));
    refused.fails("E1114").says("the result may show");
    assert_eq!(folder.names(), before);
    folder.run(&format!("{RUN} --policy p.toml --frame-check off -o e.gif")).fine();
    assert_eq!(safeguards("e.gif")["frame_check"], "off");
    folder.write("m.onnx", "none");
    folder.run(&format!("{RUN} --policy p.toml -o f.gif")).fails("E1208");
}
