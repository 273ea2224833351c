//! Plans as text: what is written reads back as the same plan.
//!
//! ```text
//! plan "step" {
//!   memory alignment=64 workspace=192 lower_bound=192 naive=256 persistent=128
//!   weight 0 "blocks.0.rows" : i32[2]
//!   buffer %0 = input 0 + 0 : f32[2,8]
//!   buffer %1 = weight 0 + 0 : i32[2]
//!   input "x" = %0
//!   output "y" = %3
//!   kept "block/k" = %1
//!   state "past" branch 1 : f32[2,8] = %4 -> %5
//!   kernel k0 "add+silu" rows i in 1, cols j in 16 {
//!     in a0: f32[2,8]
//!     out y0: f32[2,8]
//!     v0 = a0[i*16 + j]
//!     v1 = add(v0, v0)
//!     v2 = silu(v1)
//!     y0[i,j] = v2
//!   }
//!   %2 = gather %0, %1 : workspace + 64 f32[2,8] "block/n"
//!   %3 = k0 %2 : workspace + 128 f32[2,8] "block/y"
//! }
//! ```
//!
//! One line each; a buffer stands with the step that writes it or, for all others, on a line of
//! its own. A kernel stands once, in the order of first use; gathers and fills stand in their step.
//! The order is that of the plan, so equal plans have equal text. Reading checks the grammar and that every buffer is given once; [`crate::plan_verify`] checks the rest.

mod line;
mod reader;
mod step;

pub use reader::parse_plans;

use crate::entity::Entity;
use crate::kernel::Kernel;
use crate::kernel::text::print_named;
use crate::line::quoted;
use crate::plan::{Branch, Buffer, Columns, Plan};
use std::collections::HashMap;
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
        "  memory alignment={} workspace={} lower_bound={} naive={} persistent={}",
        plan.alignment.bytes(),
        plan.workspace_bytes,
        plan.lower_bound_bytes,
        plan.naive_bytes,
        plan.persistent_bytes
    );
    for (index, weight) in plan.weights.iter().enumerate() {
        let _ = writeln!(out, "  weight {index} {} : {}", quoted(&weight.name), weight.ty);
    }
    let makers = plan.makers();
    for (id, buffer) in plan.buffers.iter().filter(|(id, _)| makers[id.index()].is_none()) {
        let _ = writeln!(out, "  buffer {id:?} = {} : {}", buffer.place_text(), buffer.ty);
    }
    let lists = [("input", &plan.inputs), ("output", &plan.outputs), ("kept", &plan.kept)];
    for (word, list) in lists {
        for port in list {
            let name = named(&port.name, port.branch);
            let _ = writeln!(out, "  {word} {name} = {:?}", port.buffer);
        }
    }
    for state in &plan.states {
        let _ = write!(out, "  state {} : {} =", named(&state.name, state.branch), state.ty);
        if let Some(before) = state.before {
            let _ = write!(out, " {before:?}");
        }
        let _ = writeln!(out, " -> {:?}", state.after);
    }
    let (kernels, names) = kernels(plan);
    for (at, kernel) in kernels.iter().enumerate() {
        out.push_str(&print_named(&format!("k{at}"), kernel, "  "));
    }
    for (each, name) in plan.steps.iter().zip(names) {
        step::write(plan, each, name, &mut out);
    }
    out.push_str("}\n");
    out
}

/// The kernels of a plan that have a text of their own, each once, in the order of first use.
pub fn distinct_kernels(plan: &Plan) -> Vec<&Kernel> {
    kernels(plan).0
}

/// The distinct kernels, and for each step the index of its own.
fn kernels(plan: &Plan) -> (Vec<&Kernel>, Vec<Option<usize>>) {
    let (mut list, mut names) = (Vec::new(), Vec::with_capacity(plan.steps.len()));
    // Kernels are equal where their text is, which is exact down to the bits of a NaN.
    let mut known: HashMap<String, usize> = HashMap::new();
    for step in &plan.steps {
        names.push(match &step.kernel {
            Kernel::Gather | Kernel::Fill(_) => None,
            kernel => Some(*known.entry(print_named("", kernel, "")).or_insert_with(|| {
                list.push(kernel);
                list.len() - 1
            })),
        });
    }
    (list, names)
}

/// A name, and the branch where there are two: `"txt" branch 1`.
fn named(name: &str, branch: Branch) -> String {
    match branch {
        0 => quoted(name),
        _ => format!("{} branch {branch}", quoted(name)),
    }
}

impl Buffer {
    /// Its root, offset and columns: `workspace + 64`, or `workspace + 64 columns 32..64 of 96`.
    pub fn place_text(&self) -> String {
        let columns = self.columns.map_or(String::new(), |Columns { first, width, stride }| {
            format!(" columns {first}..{} of {stride}", first.saturating_add(width))
        });
        format!("{} + {}{columns}", self.root, self.offset)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::{
        Access, Columns as Elements, Fill, Instruction, RowKernel, RowMap, RowReduce,
    };
    use crate::plan::{Alignment, BufferId, Port, Root, State, Step, WeightRef};
    use crate::{Arena, BinaryFn, DType, TensorType};

    pub(super) fn example() -> Plan {
        let ty = TensorType::new(DType::F32, [2, 8]);
        let gain = TensorType::new(DType::F32, [8]);
        let mut buffers = Arena::default();
        let mut buffer = |ty: &TensorType, root, offset| -> BufferId {
            buffers.push(Buffer::dense(ty.clone(), root, offset))
        };
        let x = buffer(&ty, Root::Input(0), 0);
        let w = buffer(&gain, Root::Weight(0), 0);
        let n = buffer(&ty, Root::Workspace, 64);
        let part = buffer(&gain, Root::Workspace, 96);
        let y = buffer(&gain, Root::Persistent, 0);
        let past = buffer(&ty, Root::State(0), 0);
        let columns = Some(Columns { first: 32, width: 16, stride: 64 });
        buffers.push(Buffer { columns, ..Buffer::dense(gain.clone(), Root::Input(0), 8) });
        let mut buffer = |ty: &TensorType, root, offset| -> BufferId {
            buffers.push(Buffer::dense(ty.clone(), root, offset))
        };
        let next = buffer(&ty, Root::Output(0), 32);
        let step = |kernel, operands: &[BufferId], result, label: &str| Step {
            kernel,
            operands: operands.iter().copied().collect(),
            results: smallvec::smallvec![result],
            labels: vec![label.to_owned()],
        };
        let square = RowKernel {
            name: "mul+reduce_sum".into(),
            rows: 2,
            width: 8,
            arithmetic: DType::F32,
            operands: vec![ty.clone()],
            results: vec![ty.clone(), TensorType::new(DType::F32, [2])],
            code: vec![
                Instruction::Load(Access {
                    operand: 0,
                    rows: RowMap::OWN,
                    columns: Elements::All,
                    offset: 0,
                    stride: 8,
                }),
                Instruction::Binary(BinaryFn::Mul, 0, 0),
                Instruction::Reduce(RowReduce::Sum, 1),
                Instruction::Store { result: 0, value: 1 },
                Instruction::Store { result: 1, value: 2 },
            ],
        };
        let sums = TensorType::new(DType::F32, [2]);
        let fused = [(64, 128, "a"), (64, 192, "b")].map(|(first, second, label)| Step {
            kernel: Kernel::Row(square.clone()),
            operands: smallvec::smallvec![x],
            results: smallvec::smallvec![
                buffers.push(Buffer::dense(ty.clone(), Root::Workspace, first)),
                buffers.push(Buffer::dense(sums.clone(), Root::Workspace, second)),
            ],
            labels: vec![label.to_owned(), format!("{label}.sum")],
        });
        let [first, second] = fused;
        Plan {
            name: "odd \"name\"\n\\".into(),
            steps: vec![
                step(Kernel::Gather, &[x, w], n, "block/n"),
                step(Kernel::Fill(Fill::TimestepEmbedding(8)), &[part], y, "block/y"),
                first,
                second,
            ],
            buffers,
            inputs: vec![Port { name: "x".into(), branch: 0, buffer: x }],
            outputs: vec![Port { name: "y".into(), branch: 1, buffer: next }],
            kept: vec![Port { name: "block/y".into(), branch: 0, buffer: y }],
            states: vec![
                State {
                    name: "past".into(),
                    branch: 0,
                    ty: ty.clone(),
                    before: Some(past),
                    after: next,
                },
                State { name: "past".into(), branch: 1, ty, before: None, after: next },
            ],
            weights: vec![WeightRef { name: "blocks.0.w".into(), ty: gain }],
            workspace_bytes: 256,
            lower_bound_bytes: 64,
            naive_bytes: 320,
            persistent_bytes: 64,
            alignment: Alignment::default(),
        }
    }

    #[test]
    fn text_reads_back_as_the_same_plan() {
        let plan = example();
        let wide = Plan { alignment: Alignment::new(256).unwrap(), ..plan.clone() };
        let text = print_plans([&plan, &wide]);
        let back = parse_plans(&text).unwrap();
        assert_eq!(back, [plan, wide]);
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
    fn a_long_kernel_in_many_steps_is_refused() {
        let mut text =
            "plan \"p\" {\n  memory alignment=64 workspace=0 lower_bound=0 naive=0 persistent=0\n"
                .to_owned();
        text.push_str("  kernel k0 \"k\" rows i in 1, cols j in 1 {\n  v0 = 1.0\n");
        for at in 1..1000 {
            let _ = writeln!(text, "  v{at} = fma(v{0}, v{0}, v{0})", at - 1);
        }
        text.push_str("  }\n");
        for at in 0..10_000 {
            let _ = writeln!(text, "  %{at} = k0 : workspace + 0 f32[1] \"\"");
        }
        text.push_str("}\n");
        let fault = parse_plans(&text).unwrap_err();
        assert!(fault.message.contains("too long"), "{}", fault.message);
    }

    #[test]
    fn a_kernel_stands_once_however_often_it_is_launched() {
        let text = print_plan(&example());
        assert_eq!(text.matches("kernel k").count(), 1);
        assert_eq!(text.matches(" = k0 ").count(), 2);
        assert_eq!(distinct_kernels(&example()).len(), 1);
    }

    #[test]
    fn faults_name_the_line() {
        let text = print_plan(&example());
        let broken = text.replace("gather", "gothic");
        let error = parse_plans(&broken).unwrap_err();
        assert_eq!((error.code, error.place.as_deref()), ("E0516", Some("line 25")));
        for (from, to) in [
            ("%2 = gather", "%7 = gather"),
            ("buffer %1", "buffer %0"),
            ("weight 0 \"", "weight 1 \""),
            ("f32[2,8]", "f32[4294967296,4294967296]"),
            ("memory alignment=64", "memory"),
            ("alignment=64", "alignment=0"),
            ("alignment=64", "alignment=32"),
            ("alignment=64", "alignment=96"),
            ("alignment=64", "alignment=8192"),
            (
                "memory alignment=64 workspace=256",
                "memory alignment=64 workspace=99999999999999999999",
            ),
            ("  output \"y\" branch 1 = %7", "  output \"y\" = %99999999999"),
            ("\"y\" branch 1", "\"y\" branch 4294967296"),
        ] {
            assert!(text.contains(from), "{from}");
            assert!(parse_plans(&text.replacen(from, to, 1)).is_err(), "{to}");
        }
    }
}
