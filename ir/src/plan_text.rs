//! Plans as text: what is written reads back as the same plan.
//!
//! ```text
//! plan "step" {
//!   memory workspace=192 lower_bound=192 naive=256 persistent=128
//!   weight 0 "blocks.0.norm.weight" : f32[8]
//!   buffer %0 = input 0 + 0 : f32[2,8]
//!   buffer %1 = weight 0 + 0 : f32[8]
//!   input "x" = %0
//!   output "y" = %2
//!   state "past" : f32[2,8] = %3 -> %4
//!   %2 = rms_norm %0, %1 {eps=1e-6} : workspace + 64 f32[2,8] "block/n"
//! }
//! ```
//!
//! One line each; a buffer stands with the step that writes it or, for all others, on a line of
//! its own. The order is that of the plan, so equal plans have equal text. Reading checks the
//! grammar and that every buffer is given once; [`crate::plan_verify`] checks the rest.

mod line;
mod reader;
mod step;

pub use reader::parse_plans;

use crate::entity::Entity;
use crate::plan::{Buffer, Plan, Root};
use std::fmt::Write as _;

/// Plans as text, in order, with an empty line between them.
pub fn print_plans<'p>(plans: impl IntoIterator<Item = &'p Plan>) -> String {
    let texts: Vec<String> = plans.into_iter().map(print_plan).collect();
    texts.join("\n")
}

/// One plan as text.
pub fn print_plan(plan: &Plan) -> String {
    let mut out = format!("plan {} {{\n", quoted(&plan.name));
    let _ = writeln!(
        out,
        "  memory workspace={} lower_bound={} naive={} persistent={}",
        plan.workspace_bytes, plan.lower_bound_bytes, plan.naive_bytes, plan.persistent_bytes
    );
    for (index, weight) in plan.weights.iter().enumerate() {
        let _ = writeln!(out, "  weight {index} {} : {}", quoted(&weight.name), weight.ty);
    }
    let makers = plan.makers();
    for (id, buffer) in plan.buffers.iter().filter(|(id, _)| makers[id.index()].is_none()) {
        let _ = writeln!(out, "  buffer {id:?} = {} : {}", root(buffer), buffer.ty);
    }
    for (word, ports) in [("input", &plan.inputs), ("output", &plan.outputs)] {
        for port in ports {
            let _ = writeln!(out, "  {word} {} = {:?}", quoted(&port.name), port.buffer);
        }
    }
    for state in &plan.states {
        let _ = write!(out, "  state {} : {} =", quoted(&state.name), state.ty);
        if let Some(before) = state.before {
            let _ = write!(out, " {before:?}");
        }
        let _ = writeln!(out, " -> {:?}", state.after);
    }
    for each in &plan.steps {
        step::write(plan, each, &mut out);
    }
    out.push_str("}\n");
    out
}

/// Root and offset: `workspace + 64`.
fn root(buffer: &Buffer) -> String {
    let offset = buffer.offset;
    match buffer.root {
        Root::Workspace => format!("workspace + {offset}"),
        Root::Persistent => format!("persistent + {offset}"),
        Root::Input(index) => format!("input {index} + {offset}"),
        Root::Weight(index) => format!("weight {index} + {offset}"),
        Root::State(index) => format!("state {index} + {offset}"),
        Root::Output(index) => format!("output {index} + {offset}"),
    }
}

/// `text` in quotes, with `\`, `"` and control characters escaped, so that it stays on its line.
fn quoted(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for c in text.chars() {
        match c {
            '"' | '\\' => {
                out.push('\\');
                out.push(c);
            }
            c if c.is_control() => {
                let _ = write!(out, "\\u{{{:x}}}", u32::from(c));
            }
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::Kernel;
    use crate::plan::{BufferId, Port, State, Step, WeightRef};
    use crate::{Arena, DType, Op, TensorType};

    pub(super) fn example() -> Plan {
        let ty = TensorType::new(DType::F32, [2, 8]);
        let gain = TensorType::new(DType::F32, [8]);
        let mut buffers = Arena::default();
        let mut buffer = |ty: &TensorType, root, offset| -> BufferId {
            buffers.push(Buffer { ty: ty.clone(), root, offset })
        };
        let x = buffer(&ty, Root::Input(0), 0);
        let w = buffer(&gain, Root::Weight(0), 0);
        let n = buffer(&ty, Root::Workspace, 64);
        let part = buffer(&gain, Root::Workspace, 96);
        let y = buffer(&gain, Root::Persistent, 0);
        let past = buffer(&ty, Root::State(0), 0);
        let next = buffer(&ty, Root::Output(0), 32);
        let step = |op, operands: &[BufferId], result, label: &str| Step {
            kernel: Kernel::Op(op),
            operands: operands.iter().copied().collect(),
            results: smallvec::smallvec![result],
            labels: vec![label.to_owned()],
        };
        Plan {
            name: "odd \"name\"\n\\".into(),
            steps: vec![
                step(Op::RmsNorm { eps: 1e-6, clamp: false }, &[x, w], n, "block/n"),
                step(Op::Silu, &[part], y, "block/y"),
            ],
            buffers,
            inputs: vec![Port { name: "x".into(), buffer: x }],
            outputs: vec![Port { name: "y".into(), buffer: y }],
            states: vec![
                State { name: "past".into(), ty: ty.clone(), before: Some(past), after: next },
                State { name: "fresh".into(), ty, before: None, after: next },
            ],
            weights: vec![WeightRef { name: "blocks.0.w".into(), ty: gain }],
            workspace_bytes: 128,
            lower_bound_bytes: 64,
            naive_bytes: 128,
            persistent_bytes: 64,
        }
    }

    #[test]
    fn text_reads_back_as_the_same_plan() {
        let plan = example();
        let text = print_plans([&plan, &plan]);
        let back = parse_plans(&text).unwrap();
        assert_eq!(back, [plan.clone(), plan]);
        assert_eq!(print_plans(&back), text);
    }

    #[test]
    fn every_cut_and_every_changed_byte_is_answered() {
        let text = print_plan(&example());
        for end in 0..text.len() - 1 {
            assert!(parse_plans(&text[..end]).is_err() || end == 0, "cut at {end}");
        }
        assert_eq!(parse_plans("").unwrap(), []);
        let mut bytes = text.clone().into_bytes();
        for at in 0..bytes.len() {
            for flip in [1u8, 2, 16, 64] {
                bytes[at] ^= flip;
                if let Ok(text) = std::str::from_utf8(&bytes)
                    && let Ok(plans) = parse_plans(text)
                {
                    for plan in &plans {
                        crate::plan_verify::verify_plan(plan);
                    }
                }
                bytes[at] ^= flip;
            }
        }
    }

    #[test]
    fn faults_name_the_line() {
        let text = print_plan(&example());
        let broken = text.replace("rms_norm", "rms_form");
        let error = parse_plans(&broken).unwrap_err();
        assert_eq!((error.code, error.place.as_deref()), ("E0516", Some("line 9")));
        for (from, to) in [
            ("%2 = rms_norm", "%7 = rms_norm"),
            ("buffer %1", "buffer %0"),
            ("weight 0 \"", "weight 1 \""),
            ("f32[2,8]", "f32[4294967296,4294967296]"),
            ("memory workspace=128", "memory workspace=99999999999999999999"),
            ("  output \"y\" = %4", "  output \"y\" = %99999999999"),
        ] {
            assert!(text.contains(from), "{from}");
            assert!(parse_plans(&text.replacen(from, to, 1)).is_err(), "{to}");
        }
    }
}
