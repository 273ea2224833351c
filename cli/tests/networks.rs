//! Export, check, run: each network as IR text gives the golden outputs, by backend and
//! interpreter; and the verbs around that.

mod common;

use anyid_ir::{DType, Tensor, TensorType};
use common::{Folder, close, fixture, save, slice, tensors};

/// Runs `net.ir` on `in.safetensors` both ways and hands the results to `test`.
fn both_ways(folder: &Folder, weights: &str, test: impl Fn(&str, &dyn Fn(&str) -> Tensor)) {
    folder.run(&format!("check net.ir --weights @tests/fixtures/{weights}")).fine();
    for way in ["", "--interp"] {
        let words = format!("run net.ir --weights @tests/fixtures/{weights} {way}");
        folder.run(&format!("{words} --inputs in.safetensors -o out.safetensors")).fine();
        let found = tensors(&folder.path("out.safetensors"));
        test(if way.is_empty() { "cpu" } else { "interpreter" }, &|name| {
            found.get(name).unwrap_or_else(|| panic!("no {name} in {:?}", found.keys())).clone()
        });
    }
}

#[test]
fn the_transformer_gives_its_golden_output() {
    for (case, size, references) in [("base", "96x128", 1), ("hd128", "160x96", 2)] {
        let inputs = tensors(&fixture(&format!("dit/{case}/inputs.safetensors")));
        let expected = tensors(&fixture(&format!("dit/{case}/expected.safetensors")));
        let hidden = &inputs["token.hidden_states"];
        let frames = hidden.shape()[2];
        let text = &inputs["text"];
        let folder = Folder::new();
        let refs = if references == 1 { "1" } else { "5" };
        let pixels = 4 * (frames - references - 1) + 1;
        let tokens = text.shape()[1];
        folder
            .run(&format!(
                "export dit --model @tests/fixtures/dit/{case} --size {size} --frames {pixels} \
                 --ref-frames {refs} --tokens {tokens} --precision f32 -o net.ir"
            ))
            .fine();
        let sample = slice(hidden, 0, 0, 1);
        let steps = &inputs["token.timestep"];
        let count = steps.shape()[1];
        let step = steps.as_f32().unwrap()[count - 1];
        let segments: Vec<i32> =
            steps.as_f32().unwrap()[..count].iter().map(|t| i32::from(*t != 0.0)).collect();
        save(
            &folder.path("in.safetensors"),
            &[
                ("ref", &slice(&sample, 2, 0, references)),
                ("lat", &slice(&sample, 2, references, frames - references)),
                ("t", &Tensor::from_f32([2], &[0.0, step]).unwrap()),
                ("seg", &Tensor::from_i32([count], &segments).unwrap()),
                ("txt", &slice(text, 0, 0, 1)),
            ],
        );
        let out = slice(&expected["token.out"], 0, 0, 1);
        let out = slice(&out, 2, references, frames - references);
        let weights = format!("dit/{case}/diffusion_pytorch_model.safetensors");
        both_ways(&folder, &weights, |way, result| {
            close(&format!("{case} by {way}"), &result("v"), &out, 1e-5);
        });
    }
}

#[test]
fn the_autoencoder_gives_its_golden_outputs() {
    let inputs = tensors(&fixture("vae/base/inputs.safetensors"));
    let expected = tensors(&fixture("vae/base/expected.safetensors"));
    let weights = "vae/base/diffusion_pytorch_model.safetensors";
    for frames in [1, 9] {
        let folder = Folder::new();
        let sizes = format!("--model @tests/fixtures/vae/base --size 48x64 --frames {frames}");
        folder.run(&format!("export vae-encode {sizes} -o net.ir")).fine();
        save(&folder.path("in.safetensors"), &[("video", &inputs[&format!("f{frames}.video")])]);
        both_ways(&folder, weights, |way, result| {
            for name in ["moments", "mean", "latent"] {
                let golden = &expected[&format!("f{frames}.{name}")];
                close(&format!("{name} by {way}"), &result(name), golden, 3e-5);
            }
        });
        folder.run(&format!("export vae-decode {sizes} -o net.ir")).fine();
        save(&folder.path("in.safetensors"), &[("z", &inputs[&format!("f{frames}.z")])]);
        both_ways(&folder, weights, |way, result| {
            let golden = &expected[&format!("f{frames}.decoded")];
            close(&format!("video by {way}"), &result("video"), golden, 3e-5);
        });
    }
}

#[test]
fn the_text_encoder_gives_its_golden_output() {
    let inputs = tensors(&fixture("text/base/inputs.safetensors"));
    let expected = tensors(&fixture("text/base/expected.safetensors"));
    let mask = slice(&inputs["attention_mask"], 0, 0, 1);
    let tokens = mask.to_f64_vec().iter().filter(|m| **m != 0.0).count();
    let folder = Folder::new();
    let words = format!("export text --model @tests/fixtures/text/base --tokens {tokens}");
    folder.run(&format!("{words} --precision f32 -o net.ir")).fine();
    let ids = slice(&slice(&inputs["input_ids"], 0, 0, 1), 1, 0, tokens);
    save(&folder.path("in.safetensors"), &[("ids", &ids)]);
    let hidden = slice(&slice(&expected["last_hidden_state"], 0, 0, 1), 1, 0, tokens);
    both_ways(&folder, "text/base/model.safetensors", |way, result| {
        close(way, &result("last_hidden_state"), &hidden, 1e-5);
    });
}

#[test]
fn a_model_folder_serves_every_network() {
    let folder = Folder::new();
    folder.run("init m --random-weights").fine();
    let more = [
        ("dit", "--size 64x64 --frames 5 --ref-frames 1,5 --tokens 8"),
        ("vae-encode", "--size 32x32 --frames 5"),
        ("vae-decode", "--size 32x32 --frames 5 --normalised"),
        ("text", "--tokens 6"),
    ];
    for (network, sizes) in more {
        folder.run(&format!("export {network} --model m {sizes} -o net.ir")).fine();
        let checked = folder.run("check net.ir --model m --json").fine().json();
        assert_eq!(checked["ok"], true);
        assert_eq!(checked["matched"]["unused"], 0, "{network}");
        // Printing what was parsed gives the same text, so a second export is the same file.
        let text = std::fs::read(folder.path("net.ir")).unwrap();
        let again = folder.run(&format!("export {network} --preset micro {sizes} -o -")).fine();
        assert_eq!(again.out.as_bytes(), text, "{network}");
        let compared = folder.run("compare net.ir --model m --seed 3 --json").fine().json();
        assert_eq!(compared["equal"], true);
        let (have, all) = (&compared["values_compared"], &compared["values_of_b"]);
        assert!(have.as_u64().unwrap() * 2 > all.as_u64().unwrap(), "{network}: {have} of {all}");
    }
    let text = folder.run("inspect net.ir").fine().out;
    assert!(text.contains("module    @umt5_encoder") && text.contains("%ids: i32[6]"), "{text}");
}

#[test]
fn compare_names_the_first_difference() {
    let folder = Folder::new();
    folder.run("init m --random-weights").fine();
    folder.run("export text --model m --tokens 4 -o net.ir").fine();
    let done = folder.run("compare net.ir --model m --tolerance 0").fails("E0914");
    assert!(done.err.contains("the first is "), "{}", done.err);
    assert!(done.out.contains("result last_hidden_state"), "{}", done.out);
}

const SMALL: &str = "module @small\n\ndim N\n\nweights @w {\n  \"scale\" : f32[N]\n}\n\n\
    func @main(%x: f32[2,N]) -> f32[2,N] {\n  %y = mul %x, $scale : f32[2,N]\n  return %y\n}\n";

#[test]
fn hand_written_modules_run_with_dims_and_weights() {
    let folder = Folder::new();
    folder.write("small.ir", SMALL);
    let checked = folder.run("check small.ir --dim N=3");
    assert_eq!(checked.code, 0, "{}", checked.err);
    folder.run("check small.ir").fails("E0112").says("--dim");
    folder.run("check small.ir --dim N").fails("E0912");
    let scale = Tensor::from_f32([3], &[1.0, 2.0, 3.0]).unwrap();
    save(&folder.path("w.safetensors"), &[("scale", &scale)]);
    // A batch of one and bf16 values are made to fit.
    let ty = TensorType::new(DType::Bf16, [1, 2, 3]);
    let x = Tensor::from_f64s(ty, &[1.0, 1.0, 1.0, 2.0, 2.0, 2.0]).unwrap();
    save(&folder.path("x.safetensors"), &[("x", &x)]);
    let words = "run small.ir --dim N=3 --weights w.safetensors --inputs x.safetensors";
    for way in ["", "--interp", "--func main"] {
        folder.run(&format!("{words} -o y.safetensors {way}")).fine();
        let y = &tensors(&folder.path("y.safetensors"))["y"];
        assert_eq!(y.as_f32().unwrap(), [1.0, 2.0, 3.0, 2.0, 4.0, 6.0]);
    }
    folder.run(&format!("{words} -o z.safetensors --func mian")).fails("E0913").says("main");
    assert!(!folder.path("z.safetensors").exists());
}
