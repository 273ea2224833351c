//! Models whose autoencoder and transformer have other factors than Wan2.2's: sizes, frames and
//! references follow their configuration.

use anyid_models::wan::config::{DitConfig, TextConfig, VaeConfig};
use anyid_runtime::checkpoint::Encoding;
use anyid_runtime::init::write_networks;
use anyid_runtime::{Model, Pipeline, ReferenceSource, Request, Size, Tensor};
use anyid_tests::devices;
use anyid_tests::folders::Folder;

/// A random model: every latent is a token, three levels, all of which halve time or none.
fn model(temporal: bool, residual: bool) -> (Folder, Model) {
    let vae = VaeConfig {
        z_dim: 6,
        dim_mult: vec![1, 2, 2],
        temporal_downsample: vec![temporal, temporal],
        residual,
        patch_size: if residual { 2 } else { 1 },
        in_channels: if residual { 12 } else { 3 },
        out_channels: if residual { 12 } else { 3 },
        latents_mean: vec![0.1; 6],
        latents_std: vec![0.9; 6],
        ..VaeConfig::micro()
    };
    let dit = DitConfig { patch: [1, 1, 1], in_channels: 6, out_channels: 6, ..DitConfig::micro() };
    let folder = Folder::new();
    let configs = (dit, vae, TextConfig::micro());
    write_networks(folder.path(), configs, Encoding::F32, 3, &mut |_, _| {})
        .unwrap_or_else(|e| panic!("{e}"));
    let model = Model::open(folder.path()).unwrap_or_else(|e| panic!("{e}"));
    (folder, model)
}

fn request(size: Size, frames: usize) -> Request {
    let shape = [3, frames, size.height, size.width];
    let values: Vec<f32> =
        (0..shape.iter().product::<usize>()).map(|at| (at % 17) as f32 / 8.0 - 1.0).collect();
    let pixels = Tensor::from_f32(shape, &values).expect("as many values as the shape has");
    Request {
        references: vec![ReferenceSource::Pixels(pixels)],
        prompt: "smiling".to_owned(),
        size,
        steps: 2,
        ..Request::default()
    }
}

#[test]
fn sizes_and_frames_follow_the_configuration() {
    // Factors of space and time, and a size and frames that only this model takes.
    let cases = [
        ("time4", true, true, Size { width: 40, height: 24, frames: 5 }),
        ("time1", false, true, Size { width: 24, height: 8, frames: 2 }),
        ("plain", true, false, Size { width: 20, height: 12, frames: 9 }),
    ];
    for (name, temporal, residual, size) in cases {
        let (_folder, model) = model(temporal, residual);
        let geometry = model.geometry();
        assert_eq!(geometry.time, if temporal { 4 } else { 1 }, "{name}");
        assert_eq!(geometry.space, if residual { 8 } else { 4 }, "{name}");
        let frames = geometry.frames(2);
        let mut made = request(size, frames);
        made.reference_frames = frames;
        let pipeline = Pipeline::new(model, devices::first_backend(2));
        let run = |request: &Request| {
            let mut frames = 0;
            let made = pipeline.generate(request, &mut |_| {}, &mut |video| {
                assert_eq!(video.shape()[2..], [size.height, size.width], "{name}");
                frames += video.shape()[1];
                Ok(())
            });
            made.map(|_| frames)
        };
        assert_eq!(run(&made).unwrap_or_else(|e| panic!("{e}")), size.frames, "{name}");
        let side = geometry.sides()[0];
        let wrong = Request { size: Size { width: side + 1, ..size }, ..made.clone() };
        let error = run(&wrong).unwrap_err();
        assert_eq!(error.code(), "E0901", "{name}");
        assert!(error.message().contains(&format!("multiple of {side} ")), "{error}");
        if temporal {
            let wrong = Request { size: Size { frames: 6, ..size }, ..made };
            assert_eq!(run(&wrong).unwrap_err().code(), "E0902");
        }
    }
}

#[test]
fn tokens_of_several_frames_are_refused_by_the_pipeline() {
    let dit = DitConfig { patch: [2, 2, 2], ..DitConfig::micro() };
    let folder = Folder::new();
    let configs = (dit, VaeConfig::micro(), TextConfig::micro());
    write_networks(folder.path(), configs, Encoding::F32, 3, &mut |_, _| {})
        .unwrap_or_else(|e| panic!("{e}"));
    let error = Model::open(folder.path()).err().expect("it is refused");
    assert_eq!(error.code(), "E0713");
    assert!(error.message().contains("patches of 2 frames"), "{error}");
}
