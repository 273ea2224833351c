//! Every kernel of the plans of the 5B model compiles to machine code for each generation of GPUs, and
//! keeps what it computes in registers.
//!
//! Needs NVRTC, in the folder that `ANYID_NVRTC` names or where the system looks for libraries, and no GPU.
//! Where there is none the test says that it is skipped.

use anyid_backends::cuda::emit::{self, Architecture, Emitted};
use anyid_backends::cuda::nvrtc::Nvrtc;
use anyid_ir::Module;
use anyid_ir::plan::Plan;
use anyid_models::wan::Precision;
use anyid_models::wan::config::{DitConfig, TextConfig, VaeConfig};
use anyid_models::wan::dit::{DitSize, dit};
use anyid_models::wan::text::text;
use anyid_models::wan::vae::{self, VaeSize};
use anyid_passes::{CompileRequest, Options};
use anyid_tests::devices;
use std::collections::BTreeMap;
use std::path::Path;

/// The plans of a clip of 1280×704 with 121 frames, for a target.
fn plans(target: &str) -> Vec<Plan> {
    let target = devices::registry().target(target).expect("it is known");
    let options = Options { target, ..Options::default() };
    let plan = |module: &Module, func: &str| {
        CompileRequest::new(module, func).with(&options).plan().unwrap_or_else(|e| panic!("{e}"))
    };
    let size = DitSize {
        reference_frames: 1,
        frames: 31,
        height: 44,
        width: 80,
        text_tokens: 512,
        timesteps: 2,
    };
    let dit = dit(&DitConfig::ti2v_5b(), &size, Precision::Bf16);
    let text = text(&TextConfig::ti2v_5b(), 512, Precision::Bf16);
    let picture = VaeSize { height: 704, width: 1280, chunk: 1 };
    let coder = vae::decoder(&VaeConfig::ti2v_5b(), &picture, true);
    let both = CompileRequest::new(&dit, "dit").varying(["lat", "t"]).with(&options);
    let mut plans = both.split().unwrap_or_else(|e| panic!("{e}")).to_vec();
    plans.push(plan(&text, &text.main().expect("it has a function").name));
    plans.extend(["first", "next"].map(|func| plan(&coder, func)));
    plans
}

#[test]
fn every_kernel_of_the_5b_model_compiles_and_spills_nothing() {
    let folder = std::env::var_os("ANYID_NVRTC");
    let nvrtc = match Nvrtc::find(folder.as_deref().map(Path::new)) {
        Ok(nvrtc) => nvrtc,
        Err(fault) => {
            println!("skipped: {}", fault.message);
            return;
        }
    };
    let mut wrong = Vec::new();
    for (kernels, architectures) in [
        (Architecture::Sm80, &["sm_80", "sm_89", "sm_120"][..]),
        (Architecture::Sm90a, &["sm_90a"][..]),
    ] {
        let plans = plans(kernels.target());
        let steps = plans.iter().flat_map(|plan| plan.steps.iter().map(move |step| (plan, step)));
        let sources = steps.map(|(plan, step)| emit::step(plan, step, kernels));
        let sources = sources.map(|source| source.expect("it has a kernel"));
        let distinct: BTreeMap<String, Emitted> =
            sources.map(|source| (source.name.clone(), source)).collect();
        let distinct: Vec<&Emitted> = distinct.values().collect();
        assert!(distinct.len() > 50, "{} kernels", distinct.len());
        for architecture in architectures {
            let made = nvrtc.compile(&distinct, architecture);
            let made = made.unwrap_or_else(|fault| panic!("{fault:?}"));
            assert_eq!(made.functions.len(), distinct.len());
            for function in &made.functions {
                println!("{architecture} {function:?}");
                if function.spilled_bytes + function.stack_bytes > 0 {
                    wrong.push(format!("{architecture} {function:?}"));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "kernels that need memory for registers:\n{}", wrong.join("\n"));
}
