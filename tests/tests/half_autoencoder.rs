//! The autoencoder in bf16: the same network, narrower.

use anyid_ir::{DType, Tensor, TensorType};
use anyid_models::wan::Precision;
use anyid_models::wan::config::VaeConfig;
use anyid_models::wan::vae::{self, Half, VaeSize};
use anyid_runtime::Model;
use anyid_tests::close::relative;
use anyid_tests::engines::{Engine, run};
use anyid_tests::op_cases::noise;

const SIZE: VaeSize = VaeSize { height: 32, width: 48, chunk: 1 };

/// Pixels or latents of five frames.
fn input(half: Half) -> Tensor {
    let shape: [usize; 4] = match half {
        Half::Encoder => [3, 5, 32, 48],
        Half::Decoder => [48, 2, 2, 3],
    };
    noise(TensorType::new(DType::F32, shape), 1)
}

#[test]
fn bf16_is_close_to_f32_and_states_are_half_as_large() {
    let model = Model::micro().unwrap_or_else(|e| panic!("{e}"));
    let config = VaeConfig::micro();
    for (half, func, port, result) in
        [(Half::Encoder, "encode", "video", "latent"), (Half::Decoder, "decode", "z", "video")]
    {
        let module = |precision: Precision| {
            let chunks = vae::coder(&config, &SIZE, half, true, precision);
            assert_eq!(anyid_ir::verify::verify(&chunks), []);
            chunks
        };
        let (wide, narrow) = (module(Precision::F32), module(Precision::Bf16));
        let states = |module: &anyid_ir::Module| -> Vec<u64> {
            let results = &module.func("next").unwrap().results;
            results[if half == Half::Encoder { 2 } else { 1 }..].iter().map(|t| t.bytes()).collect()
        };
        let halves: Vec<u64> = states(&wide).iter().map(|bytes| bytes / 2).collect();
        assert_eq!(states(&narrow), halves);
        let x = input(half);
        let clip = |module| vae::whole_clip(&config, &SIZE, half, module, 5);
        let values = |engine, module| {
            let values = run(engine, &clip(module), func, &model.vae_weights, &[(port, &x)]);
            values[result].to_f64_vec()
        };
        let exact = values(Engine::three()[0], wide);
        let apart = Engine::three().map(|engine| relative(&values(engine, narrow.clone()), &exact));
        println!("{func}: {apart:?}");
        // Measured: 4.4 % at most, after some sixty roundings to 8 bits one behind the other.
        assert!(apart.iter().all(|error| (1e-4..8e-2).contains(error)), "{func}: {apart:?}");
    }
}
