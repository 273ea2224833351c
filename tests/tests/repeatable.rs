//! The same request gives the same video: on every run, with any number of threads, from either
//! naming of the weights and whatever order they are stored in, whether noise comes from the seed or
//! as a tensor, and however a clip is cut into chunks.

use anyid_ir::{DType, Tensor, TensorType};
use anyid_models::wan::Geometry;
use anyid_models::wan::names::{self, Component};
use anyid_models::wan::vae::{self, Half, VaeSize};
use anyid_runtime::checkpoint::{Derivation, Encoding, WeightSet, save};
use anyid_runtime::init::safetensors_bytes;
use anyid_runtime::pipeline::{decode_latents, encode_pixels};
use anyid_runtime::sampling::ScheduleKind;
use anyid_runtime::sampling::noise::NoiseStream;
use anyid_runtime::weights::ModelWeights;
use anyid_runtime::{Backend, Model, Pipeline, ReferenceSource, Request, Size};
use anyid_tests::close::difference;
use anyid_tests::devices;
use anyid_tests::engines::{Engine, run};
use anyid_tests::folders::{Folder, diffusers, original};
use anyid_tests::op_cases::noise;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

const SIZE: Size = Size { width: 64, height: 64, frames: 5 };

/// A clip of `frames` frames in [−1,1].
fn clip(frames: usize) -> Tensor {
    noise(TensorType::new(DType::F32, [3, frames, SIZE.height, SIZE.width]), 11)
}

fn request(seed: u64) -> Request {
    Request {
        references: vec![ReferenceSource::Pixels(clip(5))],
        prompt: "smiling, in a garden".into(),
        size: SIZE,
        steps: 3,
        seed,
        text_tokens: Some(40),
        ..Request::default()
    }
}

fn backend(threads: usize) -> Backend {
    devices::first_backend(threads)
}

/// Latents and frames.
fn generate(pipeline: &Pipeline, request: &Request) -> Vec<Tensor> {
    let mut frames = Vec::new();
    let report = pipeline.generate(request, &mut |_| {}, &mut |video| {
        frames.push(video.clone());
        Ok(())
    });
    let report = report.unwrap_or_else(|e| panic!("{e}"));
    let count: usize = frames.iter().map(|video| video.shape()[1]).sum();
    assert_eq!(count, request.size.frames);
    let mut out = vec![report.latents];
    out.append(&mut frames);
    out
}

fn micro(threads: usize) -> Pipeline {
    Pipeline::new(Model::micro().unwrap_or_else(|e| panic!("{e}")), backend(threads))
}

#[test]
fn any_number_of_threads_gives_the_same_video() {
    let pipeline = micro(2);
    let first = generate(&pipeline, &request(7));
    assert!(generate(&pipeline, &request(7)) == first, "run again");
    for threads in [1, 3] {
        assert!(generate(&micro(threads), &request(7)) == first, "{threads} threads");
    }
    let other = generate(&pipeline, &request(8));
    assert!(difference(&other[0], &first[0]) > 0.01, "another seed gives another video");
}

#[test]
fn noise_as_a_tensor_is_the_noise_of_the_seed() {
    let pipeline = micro(2);
    let [frames, rows, cols] = SIZE.latent(Geometry::TI2V_5B);
    let mut values = vec![0.0; pipeline.model().dit.in_channels * frames * rows * cols];
    NoiseStream::new(7, NoiseStream::LATENTS).fill(0, &mut values);
    let shape = [pipeline.model().dit.in_channels, frames, rows, cols];
    let noise = Some(Tensor::from_f32(shape, &values).unwrap());
    let given = Request { noise, ..request(99) };
    assert!(generate(&pipeline, &given) == generate(&pipeline, &request(7)));
}

#[test]
fn both_namings_of_the_weights_give_the_same_video() {
    // A diffusers folder asks for that library's rounding of the noise levels.
    let request = Request { schedule: Some(ScheduleKind::Wan), ..request(7) };
    let [a, b] = [diffusers(5), original(5, |_| {})].map(|folder| {
        let model = Model::open(folder.path()).unwrap_or_else(|e| panic!("{e}"));
        generate(&Pipeline::new(model, backend(2)), &request)
    });
    assert!(a == b);
    let other = diffusers(6);
    let model = Model::open(other.path()).unwrap_or_else(|e| panic!("{e}"));
    let c = generate(&Pipeline::new(model, backend(2)), &request);
    assert!(difference(&c[0], &a[0]) > 0.01, "other weights give another video");
}

/// The weights of a network from a file that stores matrices transposed, vectors in two parts and
/// kernels of convolutions as vectors, each under a name of its own.
fn reordered(file: &Path, weights: &ModelWeights, component: Component) -> Arc<ModelWeights> {
    let (mut rows, mut derivations) = (Vec::new(), Vec::new());
    for (name, weight) in weights.set().iter() {
        let bytes = weights.set().contents(name).unwrap();
        assert_eq!(weight.encoding, Encoding::F32);
        let values = bytes.as_chunks::<4>().0;
        let stored = |part: usize| Derivation::tensor(format!("{name}!{part}"));
        let mut store = |part: usize, shape: &[u64], values: &[[u8; 4]]| {
            rows.push((format!("{name}!{part}"), shape.to_vec(), values.concat()));
        };
        let derivation = match *weight.shape.as_slice() {
            [size] => {
                let half = values.len() / 3;
                store(0, &[half as u64], &values[..half]);
                store(1, &[size - half as u64], &values[half..]);
                Derivation::Concatenated(vec![stored(0), stored(1)], 0)
            }
            [rows, columns] => {
                let (r, c) = (rows as usize, columns as usize);
                let turned: Vec<[u8; 4]> =
                    (0..r * c).map(|at| values[at % r * c + at / r]).collect();
                store(0, &[columns, rows], &turned);
                stored(0).transposed()
            }
            _ => {
                store(0, &[values.len() as u64], values);
                stored(0).reshaped(weight.shape.clone())
            }
        };
        derivations.push((name.to_owned(), derivation));
    }
    let rows: Vec<(&str, Encoding, &[u64], &[u8])> = rows
        .iter()
        .map(|(name, shape, bytes)| (name.as_str(), Encoding::F32, &shape[..], &bytes[..]))
        .collect();
    save(file, &rows, &BTreeMap::new()).unwrap();
    let set = WeightSet::open(file).unwrap().derived(derivations).unwrap();
    Arc::new(ModelWeights::recognise(&set, component).unwrap())
}

#[test]
fn weights_that_are_stored_in_another_order_give_the_same_video() {
    let folder = Folder::new();
    let mut model = Model::micro().unwrap();
    let file = |name: &str| folder.path().join(name);
    let vae = model.vae.component();
    model.dit_weights = reordered(&file("dit"), &model.dit_weights, Component::Dit);
    model.vae_weights = reordered(&file("vae"), &model.vae_weights, vae);
    model.text_weights = reordered(&file("text"), &model.text_weights, Component::Text);
    let found = generate(&Pipeline::new(model, backend(2)), &request(7));
    assert!(found == generate(&micro(2), &request(7)));
}

/// Code and whole text of the error of opening a folder.
fn refused(folder: &anyid_tests::folders::Folder) -> (&'static str, String) {
    match Model::open(folder.path()) {
        Ok(_) => panic!("the folder was opened"),
        Err(error) => (error.code(), error.to_string()),
    }
}

#[test]
fn missing_and_left_over_tensors_are_named() {
    let missing = original(5, |tensors| tensors.retain(|(name, _)| name != "blocks.1.norm3.bias"));
    let (code, text) = refused(&missing);
    assert_eq!(code, "E0301", "{text}");
    assert!(text.contains("blocks.1.norm3.bias"), "{text}");

    let extra = original(5, |tensors| tensors.push(("blocks.1.norm4.bias".into(), vec![64])));
    let (code, text) = refused(&extra);
    assert_eq!(code, "E0302", "{text}");
    assert!(text.contains("blocks.1.norm4.bias"), "{text}");

    // In the other naming too, here of the autoencoder.
    let config = anyid_models::wan::config::VaeConfig::micro();
    let component = config.component();
    let tensors: Vec<(String, Vec<u64>)> = names::vae_tensors(&config)
        .into_iter()
        .map(|(name, shape)| (names::to_diffusers(component, &name), shape))
        .collect();
    let file = "vae/diffusion_pytorch_model.safetensors";
    let folder = diffusers(5);
    folder.write(file, safetensors_bytes(&tensors[1..], 5));
    let (code, text) = refused(&folder);
    assert_eq!(code, "E0301", "{text}");
    // As the file would name it.
    assert!(text.contains(&tensors[0].0), "{text}");
    let mut more = tensors.clone();
    more.push(("encoder.surplus.weight".into(), vec![3]));
    folder.write(file, safetensors_bytes(&more, 5));
    let (code, text) = refused(&folder);
    assert_eq!(code, "E0302", "{text}");
    assert!(text.contains("encoder.surplus.weight"), "{text}");
}

fn first_frames(tensor: &Tensor, frames: usize) -> Tensor {
    let [channels, all, rows, cols] = tensor.shape().try_into().expect("[C,T,H,W]");
    let values = tensor.as_f32().expect("f32");
    let (from, to) = (all * rows * cols, frames * rows * cols);
    let kept: Vec<f32> =
        (0..channels).flat_map(|c| values[c * from..c * from + to].iter().copied()).collect();
    Tensor::from_f32([channels, frames, rows, cols], &kept).expect("a part of it")
}

#[test]
fn later_frames_do_not_change_earlier_latents() {
    let (model, backend) = (Model::micro().unwrap(), backend(2));
    let whole = encode_pixels(&model, &backend, &clip(9)).unwrap();
    assert_eq!(whole.shape(), [48, 3, 4, 4]);
    for frames in [1, 5] {
        let part = encode_pixels(&model, &backend, &first_frames(&clip(9), frames)).unwrap();
        assert!(first_frames(&whole, part.shape()[1]) == part, "{frames} frames");
    }
    let video = decode_latents(&model, &backend, &whole).unwrap();
    assert_eq!(video.shape(), [3, 9, 64, 64]);
    let part = decode_latents(&model, &backend, &first_frames(&whole, 2)).unwrap();
    assert!(first_frames(&video, 5) == part, "decoding");
}

/// The size of the chunks in which a clip is worked through is not part of the result.
#[test]
fn chunks_of_two_latent_frames_give_what_single_ones_give() {
    let model = Model::micro().unwrap();
    let config = &model.vae;
    let latent = noise(TensorType::new(DType::F32, [config.z_dim, 5, 4, 4]), 3);
    let chunked = |engine| {
        [1, 2, 4].map(|chunk| {
            let size = VaeSize { height: 64, width: 64, chunk };
            let module = vae::encoder(config, &size);
            let module = vae::whole_clip(config, &size, Half::Encoder, module, 17);
            let inputs = [("video", &clip(17))];
            let encoded = run(engine, &module, "encode", &model.vae_weights, &inputs);
            let module = vae::decoder(config, &size, true);
            let module = vae::whole_clip(config, &size, Half::Decoder, module, 17);
            let inputs = [("z", &latent)];
            let decoded = run(engine, &module, "decode", &model.vae_weights, &inputs);
            [encoded["latent"].clone(), encoded["moments"].clone(), decoded["video"].clone()]
        })
    };
    let [apart, fused, _] = Engine::three();
    for engine in [apart, fused] {
        let results = chunked(engine);
        for other in &results[1..] {
            for (given, golden) in other.iter().zip(&results[0]) {
                let error = difference(given, golden);
                assert!(given == golden, "{engine:?}: {} differs by {error:e}", given.ty());
            }
        }
        if engine == fused {
            let streamed = decode_latents(&model, &backend(2), &latent).unwrap();
            assert!(streamed == results[0][2], "the pipeline's stream");
        }
    }
}
