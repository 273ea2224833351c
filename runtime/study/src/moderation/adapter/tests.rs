//! Each kind of adapter with a tiny model whose values are known, and models that are something else.

use super::*;
use crate::testing::TempFolder;
use crate::tiny_onnx::{head, means};

/// A picture of one colour.
fn plain(colour: [u8; 3]) -> RgbFrame {
    RgbFrame { width: 40, height: 20, data: colour.repeat(800) }
}

fn opened(folder: &TempFolder, text: &str) -> Result<Checker> {
    Checker::open(Settings::read(&folder.write("image.toml", text))?)
}

#[test]
fn a_classifier_gives_the_share_of_its_class() {
    let folder = TempFolder::new("vit");
    // Logits: −2 for the one class, 4 times red, from −1 to 1, for the other.
    folder.write("m.onnx", means(32, "logits", &[0.0, 4.0, 0.0, 0.0, 0.0, 0.0], &[-2.0, 0.0]));
    let text = "[[adapter]]\nkind = \"vit-binary\"\nmodel = \"m.onnx\"\nsize = 32\n";
    let checker = opened(&folder, text).unwrap();
    for (red, logit) in [(255u8, 4.0f64), (0, -4.0), (51, -2.4)] {
        let expected = 1.0 / (1.0 + (-2.0 - logit).exp());
        let found = checker.value(&plain([red, 7, 200])).unwrap();
        assert!((found - expected).abs() < 1e-5, "{red}: {found}, expected {expected}");
    }
    // Other numbers of another model: 0 to 1 and the classes in the other order.
    let other = "mean = [0, 0, 0]\nstd = [1, 1, 1]\nlabels = [\"nsfw\", \"sfw\"]\nnsfw_index = 0\n";
    let checker = opened(&folder, &format!("{text}{other}")).unwrap();
    let found = checker.value(&plain([255, 0, 0])).unwrap();
    assert!((found - 1.0 / (1.0 + 6f64.exp())).abs() < 1e-5, "{found}");
}

#[test]
fn a_head_reads_embeddings_of_length_one() {
    let folder = TempFolder::new("head");
    let matrix = [1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0];
    folder.write("clip.onnx", means(32, "image_embeds", &matrix, &[0.0; 3]));
    folder.write("head.onnx", head(3, &[3.0, 0.0, 0.0], 0.5));
    let text = "[[adapter]]\nkind = \"clip-head\"\nmodel = \"clip.onnx\"\nhead = \"head.onnx\"\n\
                size = 32\nwidth = 3\nmean = [0, 0, 0]\nstd = [1, 1, 1]\n";
    let checker = opened(&folder, &format!("{text}activation = \"sigmoid\"")).unwrap();
    // Of (3, 4, 0) the first is 0.6 of the length, whatever the brightness.
    for colour in [[60, 80, 0], [120, 160, 0]] {
        let found = checker.value(&plain(colour)).unwrap();
        assert!((found - 1.0 / (1.0 + (-2.3f64).exp())).abs() < 1e-5, "{found}");
    }
    // Without the activation its values are none, and that shows when it is opened.
    let refused = opened(&folder, &format!("{text}activation = \"none\"")).unwrap_err();
    assert!(refused.code() == "E1113" && refused.to_string().contains("sigmoid"), "{refused}");

    let concepts = r#"[{"name":"a","embedding":[2,0,0],"threshold":0.59},{"name":"b","embedding":[0,0,1],"threshold":0.9}]"#;
    folder.write("concepts.json", concepts);
    let text = text
        .replace("clip-head", "clip-concepts")
        .replace("head = \"head.onnx\"", "concepts = \"concepts.json\"");
    let checker = opened(&folder, &text).unwrap();
    for (colour, expected) in [([60, 80, 0], 1.0), ([50, 80, 0], 0.0), ([0, 0, 9], 1.0)] {
        assert_eq!(checker.value(&plain(colour)).unwrap(), expected, "{colour:?}");
    }
    folder.write("concepts.json", concepts.replace("[2,0,0]", "[2,0]"));
    assert_eq!(opened(&folder, &text).unwrap_err().code(), "E1113");
}

#[test]
fn another_model_is_found_out_when_it_is_opened() {
    let folder = TempFolder::new("other");
    let text = "[[adapter]]\nkind = \"vit-binary\"\nmodel = \"m.onnx\"\nsize = 32\n";
    assert_eq!(opened(&folder, text).unwrap_err().code(), "E0911");
    for bytes in [
        b"no model".to_vec(),
        means(48, "logits", &[0.0; 6], &[0.0; 2]),
        means(32, "scores", &[0.0; 6], &[0.0; 2]),
        means(32, "logits", &[0.0; 9], &[0.0; 3]),
        head(3, &[0.0; 3], 0.0),
    ] {
        folder.write("m.onnx", bytes);
        let refused = opened(&folder, text).unwrap_err();
        assert_eq!(refused.code(), "E1208", "{refused}");
        assert!(refused.help_text().is_some_and(|help| help.contains("safety.md")), "{refused}");
    }
    // Values that are no numbers.
    folder.write("m.onnx", means(32, "logits", &[f32::NAN; 6], &[0.0; 2]));
    assert_eq!(opened(&folder, text).unwrap_err().code(), "E1113");
}
