//! Plans of every network at the sizes that matter: they pack to within 2 % of their lower bound,
//! verify, and read back from text as they were.

use anyid_ir::kernel::text::{parse_kernels, print_kernels};
use anyid_ir::plan::Plan;
use anyid_ir::plan_live::{lifetimes, live_bytes};
use anyid_ir::plan_text::{distinct_kernels, parse_plans, print_plans};
use anyid_ir::plan_verify::verify_plan;
use anyid_ir::text::{parse_module, print};
use anyid_ir::{Evaluator, Mode, Module};
use anyid_models::wan::Precision;
use anyid_models::wan::config::{DitConfig, TextConfig, VaeConfig};
use anyid_models::wan::dit::{DitSize, dit};
use anyid_models::wan::text::text;
use anyid_models::wan::vae::{Half, VaeSize, decoder, encoder, states as vae_states};
use anyid_passes::flatten::flatten;
use anyid_passes::report::{PhaseSummary, memory_table};
use anyid_passes::simplify::simplify;
use anyid_passes::{CompileRequest, Options, StateSpec, straight};
use anyid_tests::plans::Stored;
use std::time::Instant;

/// What every plan has to satisfy.
#[track_caller]
fn sound(what: &str, plans: &[Plan]) {
    for plan in plans {
        let summary = PhaseSummary::of(plan);
        println!(
            "{what} {}: {} launches, peak {} MiB, ratio {:.4}, states {} MiB, {:.1} GFLOP",
            plan.name,
            summary.launches,
            summary.peak_bytes >> 20,
            summary.ratio(),
            plan.state_bytes() >> 20,
            summary.flops as f64 / 1e9
        );
        if let Some(peak) = &summary.peak {
            println!("  at step {}, {} = {}", peak.step, peak.label, peak.kind);
            for live in peak.live.iter().take(8) {
                println!("    {} {} {} MiB", live.name, live.ty, live.bytes >> 20);
            }
        }
        assert_eq!(verify_plan(plan), [], "{what}");
        assert!(summary.ratio() <= 1.02, "{what} {}: {}", plan.name, summary.ratio());
        assert!(plan.lower_bound_bytes <= plan.workspace_bytes);
        assert!(plan.workspace_bytes <= plan.naive_bytes);
        // The sweep over the finished plan finds the bound that the packer was given.
        let lives = lifetimes(plan).0;
        let most = live_bytes(&lives, plan.steps.len()).into_iter().max().unwrap_or(0);
        assert_eq!(most, plan.lower_bound_bytes, "{what} {}", plan.name);
        let live: u64 = summary.peak.iter().flat_map(|p| &p.live).map(|live| live.bytes).sum();
        assert_eq!(live, most);
        assert_eq!(memory_table(plan).lines().count(), lives.len() + 1);
    }
    let text = print_plans(plans);
    let back = parse_plans(&text).unwrap_or_else(|fault| panic!("{what}: {fault}"));
    assert!(back == plans, "{what}: the text reads back as another plan");
    assert_eq!(print_plans(&back), text);
    for plan in plans {
        let kernels = distinct_kernels(plan);
        let text = print_kernels(kernels.iter().copied());
        let back = parse_kernels(&text).unwrap_or_else(|fault| panic!("{what}: {fault}"));
        assert!(back.iter().eq(kernels), "{what}: a kernel reads back as another");
        assert_eq!(print_kernels(&back), text);
        assert!(back.iter().all(|kernel| kernel.verify().is_ok()), "{what}");
    }
}

fn step(config: &DitConfig, size: &DitSize, precision: Precision) -> [Plan; 2] {
    let module = dit(config, size, precision);
    CompileRequest::new(&module, "dit").varying(["lat", "t"]).split().unwrap()
}

/// Both functions of one half as the runtime compiles them: with their states carried.
fn autoencoder(config: &VaeConfig, size: &VaeSize, half: Half) -> [Plan; 2] {
    let module = match half {
        Half::Encoder => encoder(config, size),
        Half::Decoder => decoder(config, size, true),
    };
    let plans = ["first", "next"].map(|name| {
        let states = vae_states(half, module.func(name).unwrap()).into_iter().enumerate();
        let spec = |(at, (input, output))| StateSpec { name: format!("s{at}"), input, output };
        let states: Vec<StateSpec> = states.map(spec).collect();
        CompileRequest::new(&module, name)
            .with(&Options::default())
            .carrying(states.iter().cloned())
            .plan()
            .unwrap()
    });
    assert!(plans[0].shares_states(&plans[1]));
    plans
}

fn dit_size(reference_frames: usize, frames: usize) -> DitSize {
    DitSize { reference_frames, frames, height: 44, width: 80, text_tokens: 512, timesteps: 2 }
}

#[test]
fn transformer_of_5b() {
    let config = DitConfig::ti2v_5b();
    for (frames, tokens) in [(30, 27_280), (35, 31_680)] {
        let size = dit_size(1, frames);
        assert_eq!(size.tokens(&config), tokens);
        for precision in [Precision::Bf16, Precision::F32] {
            let plans = step(&config, &size, precision);
            sound(&format!("transformer, {tokens} tokens, {}", precision.name()), &plans);
        }
    }
}

#[test]
fn the_sampling_module_of_5b_compiles_from_text() {
    let text = print(&dit(&DitConfig::ti2v_5b(), &dit_size(1, 30), Precision::Bf16));
    let begun = Instant::now();
    let module = parse_module(&text, &[]).unwrap();
    let split = CompileRequest::new(&module, "dit").varying(["lat", "t"]).split().unwrap();
    println!("text to plan: {:.3} s", begun.elapsed().as_secs_f64());
    assert!(split[1].steps.len() > 100 && split[0].steps.len() > 10);
}

#[test]
fn autoencoder_at_1280_by_704() {
    let config = VaeConfig::ti2v_5b();
    let size = VaeSize { height: 704, width: 1280, chunk: 1 };
    for half in [Half::Encoder, Half::Decoder] {
        sound(&format!("{half:?}"), &autoencoder(&config, &size, half));
    }
}

#[test]
fn text_encoder_of_512_tokens() {
    let config = TextConfig::ti2v_5b();
    for precision in [Precision::Bf16, Precision::F32] {
        sound(
            "text encoder",
            &[CompileRequest::new(&text(&config, 512, precision), "text").plan().unwrap()],
        );
    }
}

#[test]
fn micro_model() {
    let size = DitSize {
        reference_frames: 1,
        frames: 3,
        height: 12,
        width: 12,
        text_tokens: 16,
        timesteps: 2,
    };
    sound("micro transformer", &step(&DitConfig::micro(), &size, Precision::F32));
    let (config, size) = (VaeConfig::micro(), VaeSize { height: 192, width: 192, chunk: 1 });
    for half in [Half::Encoder, Half::Decoder] {
        sound(&format!("micro {half:?}"), &autoencoder(&config, &size, half));
    }
    let module = text(&TextConfig::micro(), 20, Precision::F32);
    sound("micro text encoder", &[CompileRequest::new(&module, "text").plan().unwrap()]);
}

#[test]
fn programs_as_modules_mean_the_same() {
    let size = VaeSize { height: 16, width: 32, chunk: 1 };
    let module = decoder(&VaeConfig::micro(), &size, true);
    let func = module.func("first").unwrap();
    let inputs: Vec<_> = func
        .param_types()
        .enumerate()
        .map(|(i, (name, ty))| {
            let values: Vec<f64> = (0..ty.elements()).map(|k| ((k * 7 + i) as f64).sin()).collect();
            (name.to_owned(), anyid_ir::Tensor::from_f64s(ty.clone(), &values).unwrap())
        })
        .collect();
    let mut weights = Stored::default();
    for (i, (name, ty)) in module.weights.tensors().enumerate() {
        let values: Vec<f64> =
            (0..ty.elements()).map(|k| 0.1 * ((k * 3 + i) as f64).cos()).collect();
        weights.insert(name, anyid_ir::Tensor::from_f64s(ty.clone(), &values).unwrap());
    }
    let run = |module: &Module| {
        let given: Vec<(&str, &anyid_ir::Tensor)> =
            inputs.iter().map(|(name, tensor)| (name.as_str(), tensor)).collect();
        let results = Evaluator::new(module, Mode::F32).run_named("first", &given, &weights, None);
        results.unwrap_or_else(|error| panic!("{error:?}"))
    };
    let mut straightened = straight::empty(&module);
    straight::add_function(
        &mut straightened,
        &simplify(flatten(&module, "first").unwrap()),
        "first",
    );
    assert_eq!(anyid_ir::verify::verify(&straightened), []);
    let (before, after) = (run(&module), run(&straightened));
    assert_eq!(before.len(), after.len());
    for ((name, a), (other, b)) in before.iter().zip(&after) {
        assert_eq!(name, other);
        assert_eq!(a.bytes(), b.bytes(), "{name}");
    }
    // What was printed is read back, so passes can be run one by one on text.
    let text = print(&straightened);
    assert_eq!(print(&parse_module(&text, &[]).unwrap()), text);
}
