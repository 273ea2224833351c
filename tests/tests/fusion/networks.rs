//! Plans of the networks: launches, memory and, at small sizes, results.

use crate::common::{difference, kinds, run};
use anyid_ir::plan::Plan;
use anyid_models::wan::config::DitConfig;
use anyid_models::wan::dit::{DitSize, DitTypes, dit};
use anyid_models::wan::{Precision, Residual};
use anyid_passes::{CompileRequest, Options};

fn split(
    config: &DitConfig,
    size: &DitSize,
    types: impl Into<DitTypes>,
    options: &Options,
) -> [Plan; 2] {
    CompileRequest::new(&dit(config, size, types), "dit")
        .varying(["lat", "t"])
        .with(options)
        .split()
        .unwrap()
}

fn half(precision: Precision) -> DitTypes {
    DitTypes { precision, residual: Residual::Bf16 }
}

fn small() -> (DitConfig, DitSize) {
    let mut config = DitConfig::ti2v_5b();
    config.layers = 3;
    config.heads = 2;
    config.head_dim = 16;
    config.ffn_dim = 48;
    config.freq_dim = 16;
    config.text_dim = 20;
    let size = DitSize {
        reference_frames: 1,
        frames: 2,
        height: 4,
        width: 6,
        text_tokens: 5,
        timesteps: 2,
    };
    (config, size)
}

/// Steps of one block, by the labels of their results.
fn block(plan: &Plan, layer: usize) -> Vec<String> {
    let inside = format!("blocks.{layer}/");
    let steps = plan.steps.iter().filter(|s| s.label().contains(&inside));
    steps.map(|s| s.kind().to_owned()).collect()
}

#[test]
fn a_transformer_block_is_thirteen_launches() {
    let (config, size) = small();
    let plans = split(&config, &size, Precision::Bf16, &Options::default());
    let expected = [
        "layer_norm+modulate",
        "linear*3",
        "rms_norm*2+rope*2",
        "attention",
        "linear+gate_add",
        "layer_norm",
        "linear",
        "rms_norm",
        "attention",
        "linear+add",
        "layer_norm+modulate",
        "linear+gelu",
        "linear+gate_add",
    ];
    assert_eq!(block(&plans[1], 1), expected);
    let plans = split(&config, &size, half(Precision::Bf16), &Options::default());
    let expected = expected.map(|kind| if kind == "linear+add" { "linear+add+cast" } else { kind });
    assert_eq!(block(&plans[1], 1), expected);
    // The tables of the blocks are summed together, that of the head by itself.
    let tables: Vec<&str> = kinds(&plans[1]).into_iter().filter(|k| k.starts_with("add")).collect();
    assert_eq!(tables, ["add*3", "add"]);
}

#[test]
fn fused_steps_give_what_unfused_ones_give() {
    let (config, size) = small();
    for (types, tolerance) in [
        (DitTypes::from(Precision::F32), 1e-5),
        (DitTypes::from(Precision::Bf16), 3e-2),
        (half(Precision::F32), 3e-2),
        (half(Precision::Bf16), 3e-2),
    ] {
        let fused = split(&config, &size, types, &Options::default());
        let unfused = split(&config, &size, types, &Options::unfused());
        let apart = Options::default().off("alias");
        let apart = split(&config, &size, types, &apart);
        let want = run(&[&unfused[0], &unfused[1]], 1);
        let got = run(&[&fused[0], &fused[1]], 1);
        let worst = difference(&want, &got);
        assert!(worst <= tolerance, "{types:?}: {worst:e}");
        assert_eq!(got, run(&[&fused[0], &fused[1]], 3), "threads");
        assert_eq!(got, run(&[&apart[0], &apart[1]], 1), "in place");
    }
}

#[test]
fn the_plan_of_the_full_model_is_small_and_made_quickly() {
    let size = DitSize {
        reference_frames: 0,
        frames: 31,
        height: 44,
        width: 80,
        text_tokens: 512,
        timesteps: 2,
    };
    let module = dit(&DitConfig::ti2v_5b(), &size, Precision::Bf16);
    let start = std::time::Instant::now();
    let plans = CompileRequest::new(&module, "dit")
        .varying(["lat", "t"])
        .with(&Options::default())
        .split()
        .unwrap();
    let taken = start.elapsed();
    let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
    println!(
        "step: {} launches, {:.1} MiB, bound {:.1}, naive {:.1}, persistent {:.1}, {taken:?}",
        plans[1].steps.len(),
        mib(plans[1].workspace_bytes),
        mib(plans[1].lower_bound_bytes),
        mib(plans[1].naive_bytes),
        mib(plans[1].persistent_bytes),
    );
    let whole = Options::default().off("split-rows");
    let whole =
        CompileRequest::new(&module, "dit").varying(["lat", "t"]).with(&whole).split().unwrap();
    for (plan, launches, most) in [(&whole[1], 13, 1.25), (&plans[1], 15, 0.97)] {
        assert_eq!(block(plan, 7).len(), launches);
        assert!(plan.workspace_bytes as f64 <= 1.02 * plan.lower_bound_bytes as f64);
        assert!(mib(plan.workspace_bytes) <= 1024.0 * most, "{}", plan.workspace_bytes);
    }
}
