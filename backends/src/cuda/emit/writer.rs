//! The text of a function as it is written: parameters, lines, and the name that follows from both.

use super::{Argument, Emitted, Grid, Place, digest_of};
use anyid_ir::DType;
use std::fmt::Write;

/// Stands for the name of the function until its text is complete.
const NAME: &str = "@";

/// The C++ type of elements.
pub(super) fn element(dtype: DType) -> &'static str {
    match dtype {
        DType::F32 => "float",
        DType::F64 => "double",
        DType::Bf16 => "bf16",
        DType::F16 => "f16",
        DType::I32 => "int",
        DType::U8 => "unsigned char",
        DType::Bool => "boolean",
    }
}

/// `value` as a literal of f32, or of f64.
pub(super) fn literal(value: f32, single: bool) -> String {
    let suffix = if single { "f" } else { "" };
    match value {
        v if v.is_nan() && single => format!("float_of({:#x}u)", v.to_bits()),
        v if v.is_nan() => "double(NAN)".to_owned(),
        f32::INFINITY => "INFINITY".to_owned(),
        f32::NEG_INFINITY => "-INFINITY".to_owned(),
        v if single => format!("{v:?}{suffix}"),
        v => double(f64::from(v)),
    }
}

/// `value`, which is finite, as a literal of f64.
pub(super) fn double(value: f64) -> String {
    format!("{value:?}")
}

/// A function that is being written.
pub(super) struct Writer {
    comment: String,
    parameters: Vec<String>,
    arguments: Vec<Argument>,
    memory: Vec<String>,
    text: String,
    depth: usize,
    tables: Vec<usize>,
    constants: Vec<u8>,
    /// Blocks that a processor has at a time at the least, if the compiler is told.
    resident: Option<usize>,
}

impl Writer {
    /// A function with parameters `a0, a1, …` for operands and `y0, y1, …` for results.
    pub(super) fn new(comment: String, operands: &[Place], results: &[Place]) -> Self {
        let (parameters, arguments, memory) = (Vec::new(), Vec::new(), Vec::new());
        let (text, tables, constants) = (String::new(), Vec::new(), Vec::new());
        let mut writer = Self {
            comment,
            parameters,
            arguments,
            memory,
            text,
            depth: 1,
            tables,
            constants,
            resident: None,
        };
        for (at, place) in operands.iter().enumerate() {
            let ty = format!("const {}", element(place.ty.dtype));
            writer.memory(ty, &format!("a{at}"), Argument::Operand(at));
        }
        for (at, place) in results.iter().enumerate() {
            let ty = element(place.ty.dtype).to_owned();
            writer.memory(ty, &format!("y{at}"), Argument::Result(at));
        }
        writer
    }

    fn memory(&mut self, ty: String, name: &str, argument: Argument) {
        self.parameters.push(format!("Global<{ty}> {name}"));
        self.arguments.push(argument);
        self.memory.push(ty);
    }

    /// A parameter `name` for operand `operand` as a matrix of which `rows` rows are loaded at once.
    pub(super) fn map(&mut self, name: &str, operand: usize, rows: usize) {
        self.parameters.push(format!("GRID_CONSTANT TensorMap {name}"));
        self.arguments.push(Argument::Map { operand, rows: rows as u32 });
    }

    /// Has the compiler take as many registers as so many blocks of a processor leave. Without it the
    /// compiler aims at more blocks, and may rather spill a register.
    pub(super) fn resident(&mut self, blocks: usize) {
        self.resident = Some(blocks);
    }

    /// A parameter for a number.
    pub(super) fn size(&mut self, name: &str, value: usize) {
        self.parameters.push(format!("Size {name}"));
        self.arguments.push(Argument::Size(value as i64));
    }

    /// A parameter `blocks` for the number of blocks that are launched along x.
    pub(super) fn blocks(&mut self) {
        self.parameters.push("Size blocks".to_owned());
        self.arguments.push(Argument::Blocks);
    }

    /// A parameter `constants` for bytes that are elements of type `ty`.
    pub(super) fn constants(&mut self, ty: &str, bytes: Vec<u8>) {
        self.memory(format!("const {ty}"), "constants", Argument::Constants);
        self.constants = bytes;
    }

    /// The place of faults of a table with so many rows, as an expression.
    pub(super) fn table(&mut self, rows: usize) -> String {
        if self.tables.is_empty() {
            self.memory("unsigned long long".to_owned(), "faults", Argument::Faults);
        }
        self.tables.push(rows);
        format!("faults + {}", self.tables.len() - 1)
    }

    /// A line; braces at its ends change the depth of what follows.
    pub(super) fn line(&mut self, line: impl AsRef<str>) {
        let line = line.as_ref();
        if line.starts_with('}') {
            self.depth -= 1;
        }
        let indent = self.depth * 2;
        writeln!(self.text, "{:indent$}{line}", "").expect("text grows");
        if line.ends_with('{') {
            self.depth += 1;
        }
    }

    /// The function, called after what it was made of.
    pub(super) fn finish(self, called: &str, blocks: [usize; 3], threads: usize) -> Emitted {
        let Self { comment, parameters, arguments, memory, text, tables, constants, .. } = self;
        let resident = self.resident.map_or_else(String::new, |blocks| format!(", {blocks}"));
        let head = format!("extern \"C\" __global__ void __launch_bounds__({threads}{resident})");
        let text = format!("// {comment}\n{head} {NAME}({}) {{\n{text}}}\n", parameters.join(", "));
        let plain = |c: char| if c.is_ascii_alphanumeric() { c } else { '_' };
        let called: String = called.chars().take(32).map(plain).collect();
        let name = format!("{called}_{:016x}", digest_of(text.as_bytes()));
        let text = text.replacen(NAME, &name, 1);
        // Sizes of grids were bounded when the kernel was verified, and devices launch no more.
        let blocks = blocks.map(|count| u32::try_from(count).unwrap_or(u32::MAX));
        let grid = Grid { blocks, threads: threads as u32, shared_bytes: 0 };
        let packed = Vec::new();
        Emitted { name, text, arguments, memory, grid, constants, packed, tables }
    }
}
