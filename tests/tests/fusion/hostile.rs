//! Plans whose text someone changed: what is still accepted runs without touching memory that is
//! not its own, and without a panic.
//!
//! Every number, name and type of the text of fused plans is replaced by others, a few at a time.
//! Most of that is refused; the rest means something else, and is executed with inputs of any
//! bits. The count of both is checked, so that the test keeps showing something.

use crate::common::{kinds, noise};
use anyid_backends::{AlignedBytes, Device, Fault, RunError, StoredWeight, WeightProvider};
use anyid_ir::kernel::Kernel;
use anyid_ir::plan::Plan;
use anyid_ir::plan_text::{parse_plans, print_plan};
use anyid_ir::plan_verify::verify_plan;
use anyid_ir::text::parse_module;
use anyid_passes::Options;
use anyid_tests::devices;
use anyid_tests::plans::Plans;
use std::sync::Arc;

/// Weights of whatever type the plan asks for.
struct Any(Plan);

impl WeightProvider for Any {
    fn find(&self, name: &str) -> Option<StoredWeight> {
        let weight = self.0.weights.iter().find(|w| w.name == name)?;
        Some(StoredWeight { dtype: weight.ty.dtype, bytes: weight.ty.bytes() })
    }

    fn read(&self, name: &str, from: u64, out: &mut [u8]) -> Result<(), Fault> {
        let weight = self.0.weights.iter().find(|w| w.name == name).expect("it was found");
        let mut data = noise(3, &weight.ty, 1.0);
        data.resize(weight.ty.bytes() as usize, 1);
        out.copy_from_slice(&data[from as usize..][..out.len()]);
        Ok(())
    }
}

/// Elements and bytes up to which a plan is run.
const SMALL: u64 = 1 << 22;

fn is_small(plan: &Plan) -> bool {
    let rows = |kernel: &Kernel| match kernel {
        Kernel::Row(kernel) => (kernel.rows * kernel.width) as u64,
        _ => 0,
    };
    plan.workspace_bytes + plan.persistent_bytes + plan.weight_bytes() < SMALL
        && plan.state_bytes() < SMALL
        && plan.buffers.iter().all(|(_, buffer)| buffer.ty.bytes() < SMALL)
        && plan.steps.iter().all(|step| rows(&step.kernel) < SMALL)
}

/// Runs a plan on inputs of one byte and of noise.
fn run(device: &Arc<dyn Device>, plan: &Plan) {
    // Two weights of one name are refused by the reader of plan files.
    let loaded = Plans::new(device, &[plan], Arc::new(Any(plan.clone())), 0xff);
    let Ok(mut plans) = loaded else { return };
    for fill in [None, Some(0xff), Some(0x7f)] {
        let given: Vec<AlignedBytes> = plan
            .inputs
            .iter()
            .map(|port| {
                let ty = &plan.buffer(port.buffer).ty;
                let mut bytes = AlignedBytes::zeroed(ty.bytes() as usize);
                let values = noise(7, ty, 1.0);
                for (at, byte) in bytes.bytes_mut().iter_mut().enumerate() {
                    *byte = fill.unwrap_or_else(|| values.get(at).copied().unwrap_or(1));
                }
                bytes
            })
            .collect();
        let given: Vec<&[u8]> = given.iter().map(AlignedBytes::bytes).collect();
        let ports = plan.outputs.iter();
        let mut results: Vec<AlignedBytes> = ports
            .map(|p| AlignedBytes::zeroed(plan.buffer(p.buffer).ty.bytes() as usize))
            .collect();
        let mut taken: Vec<&mut [u8]> = results.iter_mut().map(AlignedBytes::bytes_mut).collect();
        let done = plans.run_bytes(0, &given, &mut taken);
        assert!(!matches!(done, Err(RunError::Stopped)));
    }
}

/// Pieces of a text: runs of digits, of letters, and single other characters.
fn tokens(text: &str) -> Vec<&str> {
    let kind = |c: char| match c {
        c if c.is_ascii_digit() => 1,
        c if c.is_ascii_alphabetic() || c == '_' => 2,
        _ => 3,
    };
    let mut out = Vec::new();
    let mut start = 0;
    let mut before = 0;
    for (at, c) in text.char_indices() {
        let now = kind(c);
        if at > start && (now != before || now == 3) {
            out.push(&text[start..at]);
            start = at;
        }
        before = now;
    }
    out.push(&text[start..]);
    out
}

/// Other words for a token.
fn others(token: &str) -> Vec<String> {
    const WORDS: [&[&str]; 7] = [
        &["f32", "bf16", "f16", "f64", "i32", "u8", "bool"],
        &["add", "mul", "max", "div", "eq", "rotate"],
        &["neg", "silu", "gelu", "rsqrt", "exp", "bf16", "sum_j", "max_over_j"],
        &["i", "j"],
        &["a", "v", "y"],
        &["workspace", "persistent", "input", "weight"],
        &["linear", "dot", "attention", "conv", "silu", "gather", "rope"],
    ];
    if let Ok(number) = token.parse::<u64>() {
        let near = [0, 1, 2, 3, 4, 7, 8, 64, 128, number / 2, number.wrapping_mul(2)];
        let far = [1 << 31, 1 << 32, 1 << 40, 1 << 61, 1 << 63, u64::MAX, u64::MAX - 63];
        let beside = [number.wrapping_add(1), number.wrapping_sub(1), number.wrapping_add(64)];
        let all = near.into_iter().chain(beside).chain(far);
        return all.filter(|n| *n != number).map(|n| n.to_string()).collect();
    }
    let found = WORDS.iter().filter(|words| words.contains(&token));
    found.flat_map(|words| words.iter()).filter(|w| **w != token).map(|w| (*w).into()).collect()
}

/// A small deterministic source of numbers.
fn next(state: &mut u64) -> usize {
    *state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
    (*state >> 33) as usize
}

fn judged(device: &Arc<dyn Device>, text: &str, counts: &mut [usize; 2]) {
    let sound = parse_plans(text)
        .ok()
        .filter(|plans| plans.iter().all(|plan| verify_plan(plan).is_empty() && is_small(plan)));
    match sound {
        None => counts[0] += 1,
        Some(plans) => {
            counts[1] += 1;
            plans.iter().for_each(|plan| run(device, plan));
        }
    }
}

fn hostile(plan: &Plan) {
    let device = devices::first(2);
    let text = print_plan(plan);
    let tokens = tokens(&text);
    let mut counts = [0; 2];
    run(&device, plan);
    // Everything once.
    for at in 0..tokens.len() {
        for other in others(tokens[at]) {
            let mut changed: Vec<&str> = tokens.clone();
            changed[at] = &other;
            judged(&device, &changed.concat(), &mut counts);
        }
    }
    // One number everywhere, as a change of size would be, and a few places at a time.
    let mut state = 1;
    for _ in 0..2000 {
        let mut changed: Vec<String> = tokens.iter().map(|t| (*t).to_owned()).collect();
        let at = next(&mut state) % tokens.len();
        let options = others(tokens[at]);
        if options.is_empty() {
            continue;
        }
        let other = &options[next(&mut state) % options.len()];
        for (place, token) in tokens.iter().enumerate() {
            if *token == tokens[at] && (place == at || !next(&mut state).is_multiple_of(3)) {
                changed[place].clone_from(other);
            }
        }
        judged(&device, &changed.concat(), &mut counts);
    }
    println!("refused {}, run {}", counts[0], counts[1]);
    assert!(counts[0] > 100 && counts[1] > 100, "refused and run: {counts:?}");
}

fn plan_of(text: &str, func: &str) -> Plan {
    let module = parse_module(text, &[]).unwrap_or_else(|found| panic!("{found:#?}"));
    anyid_passes::CompileRequest::new(&module, func).with(&Options::default()).plan().unwrap()
}

#[test]
fn a_changed_convolution_stays_in_its_memory() {
    let plan = plan_of(
        "module @c
weights @w {
  \"kernel\" : f32[6,4,1,3,3]
  \"bias\" : f32[6]
  \"gain\" : f32[4]
}
func @c(%x: f32[1,5,5,4], %z: f32[1,5,5,6]) -> f32[1,5,5,6], f32[1,5,5] {
  %n = rms_norm %x, $gain {eps=1e-6} : f32[1,5,5,4]
  %s = silu %n
  %c = conv %s, $kernel, $bias {pad=[0,0,1,1,1,1]} : f32[1,5,5,6]
  %y = add %z, %c
  %m = reduce_mean %y {axes=[3]}
  return %y, %m
}
",
        "c",
    );
    hostile(&plan);
}

#[test]
fn a_changed_block_stays_in_its_memory() {
    let plan = plan_of(
        "module @b
weights @w {
  \"q\" : f32[8,8]
  \"k\" : f32[8,8]
  \"o\" : f32[8,8]
  \"b\" : f32[8]
  \"g\" : bf16[8]
}
func @b(%x: f32[3,8], %e: f32[2,3,8], %seg: i32[3], %t: f32[3,2,2]) -> f32[3,8] {
  %sh = slice %e {axis=1, start=0, len=1} : f32[2,1,8]
  %sc = slice %e {axis=1, start=1, len=1} : f32[2,1,8]
  %ga = slice %e {axis=1, start=2, len=1} : f32[2,1,8]
  %sh1 = reshape %sh : f32[2,8]
  %sc1 = reshape %sc : f32[2,8]
  %ga1 = reshape %ga : f32[2,8]
  %n = layer_norm %x {eps=1e-6} : f32[3,8]
  %h = modulate %n, %sh1, %sc1, %seg : bf16[3,8]
  %q0 = linear %h, $q : bf16[3,8]
  %k0 = linear %h, $k : bf16[3,8]
  %q1 = rms_norm %q0, $g {eps=1e-6} : bf16[3,8]
  %k1 = rms_norm %k0, $g {eps=1e-6} : bf16[3,8]
  %q = rope %q1, %t {heads=2} : bf16[3,8]
  %k = rope %k1, %t {heads=2} : bf16[3,8]
  %a = attention %q, %k, %k {heads=2, scale=0.5} : f32[3,8]
  %o = linear %a, $o, $b : f32[3,8]
  %y = gate_add %x, %o, %ga1, %seg : f32[3,8]
  return %y
}
",
        "b",
    );
    let kinds = kinds(&plan);
    assert!(kinds.contains(&"linear*2") && kinds.contains(&"linear+gate_add"), "{kinds:?}");
    hostile(&plan);
}
