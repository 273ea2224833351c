//! Plan files: compiled phases that run without compiling again.
//!
//! One header line of words, then the plans as text. The header says the format and product
//! version, the target, the weights the plans want and the length and SHA-256 of the text, so that
//! a stale, damaged or foreign file is refused before anything of it is used. What passes is
//! verified like a plan fresh from the compiler; nothing in a file is trusted.

use crate::checkpoint::AtomicFile;
use crate::error::{Error, Result};
use crate::input;
use anyid_ir::plan::{Plan, WeightRef};
use anyid_ir::plan_text::{parse_plans, print_plans};
use anyid_ir::plan_verify::phases::{is_split, verify_phases};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;

/// Version of the file's format.
const FORMAT: &str = "5";
/// Version of the product, which decides what kernels do with a plan.
const VERSION: &str = env!("CARGO_PKG_VERSION");
/// First words of every plan file.
const MAGIC: &str = "anyid-rt plan ";
/// Longest header line.
const LONGEST_HEADER: usize = 1024;
/// Largest file that is read.
const LARGEST: u64 = 512 << 20;

/// Phases of a compiled function with the target they are for.
#[derive(Clone, Debug, PartialEq)]
pub struct PlanFile {
    target: String,
    phases: Vec<Plan>,
}

fn again(error: Error) -> Error {
    error.help("make it again with `anyid-rt compile FILE.ir -o FILE.plan`")
}

/// Whether `bytes`, the beginning of a file, are those of a plan file.
pub fn is_plan(bytes: &[u8]) -> bool {
    bytes.starts_with(MAGIC.as_bytes())
}

impl PlanFile {
    /// A file of `phases` for `target`.
    ///
    /// # Errors
    /// E0517 (a broken invariant) where a phase does not verify.
    pub fn new(target: &str, phases: Vec<Plan>) -> Result<Self> {
        let file = Self { target: target.to_owned(), phases };
        file.verified(Error::internal)?;
        Ok(file)
    }

    /// The target the plans are for.
    pub fn target(&self) -> &str {
        &self.target
    }

    /// The phases in order.
    pub fn phases(&self) -> &[Plan] {
        &self.phases
    }

    /// The phases.
    pub fn into_phases(self) -> Vec<Plan> {
        self.phases
    }

    /// Weights of all phases, each once, by name.
    pub fn weights(&self) -> Vec<&WeightRef> {
        let all = self.phases.iter().flat_map(|plan| &plan.weights);
        let by_name: BTreeMap<&str, &WeightRef> = all.map(|w| (w.name.as_str(), w)).collect();
        by_name.into_values().collect()
    }

    /// SHA-256 of names and types of [`Self::weights`].
    pub fn weights_hash(&self) -> String {
        let mut text = String::new();
        for weight in self.weights() {
            let _ = writeln!(text, "{} : {}", weight.name, weight.ty);
        }
        hash(text.as_bytes())
    }

    /// The file's bytes; the same for the same phases.
    pub fn to_bytes(&self) -> Vec<u8> {
        let body = print_plans(&self.phases);
        let header = format!(
            "{MAGIC}format={FORMAT} version={VERSION} target={} weights={} bytes={} sha256={}\n",
            self.target,
            self.weights_hash(),
            body.len(),
            hash(body.as_bytes())
        );
        [header.into_bytes(), body.into_bytes()].concat()
    }

    /// Writes the file, whole or not at all.
    ///
    /// # Errors
    /// E1010 to E1014 where it cannot be written.
    pub fn write(&self, path: &Path) -> Result<()> {
        self.write_in(AtomicFile::create(path)?)
    }

    /// As [`Self::write`], in a file that was opened before.
    ///
    /// # Errors
    /// E1010 to E1014 where it cannot be written.
    pub fn write_in(&self, mut file: AtomicFile) -> Result<()> {
        file.append(&self.to_bytes())?;
        file.commit().map(drop)
    }

    /// Reads a file made for `target` by this version.
    ///
    /// # Errors
    /// As [`Self::read`], E0514 for another target.
    pub fn open(path: &Path, target: &str) -> Result<Self> {
        let file = Self::read(path)?;
        file.made_for(target).map_err(|error| error.at(path.display()))
    }

    /// Reads a file made by this version, for any target.
    ///
    /// # Errors
    /// E0911 where it cannot be read, E0603 without memory for it, otherwise as
    /// [`Self::from_bytes`].
    pub fn read(path: &Path) -> Result<Self> {
        let unreadable = |fault| {
            Error::input("E0911", "the file cannot be read")
                .at(path.display())
                .help("check its name and permissions")
                .caused_by(fault)
        };
        let bytes = input::read(path, LARGEST)
            .map_err(|refusal| refusal.coded(path, unreadable, |_| too_large()))?;
        Self::any_from_bytes(&bytes).map_err(|error| error.at(path.display()))
    }

    /// Reads the bytes of a file made for `target` by this version.
    ///
    /// # Errors
    /// E0510 for something else, E0511 cut off, E0512 damaged, E0513 another version, E0514
    /// another target, E0515 a list of weights that is not the header's, E0516 and E0517 contents
    /// that are no valid plans, E0519 too large.
    pub fn from_bytes(bytes: &[u8], target: &str) -> Result<Self> {
        Self::any_from_bytes(bytes)?.made_for(target)
    }

    fn made_for(self, target: &str) -> Result<Self> {
        match self.target == target {
            true => Ok(self),
            false => Err(Self::foreign(&self.target, target)),
        }
    }

    fn any_from_bytes(bytes: &[u8]) -> Result<Self> {
        if bytes.len() as u64 > LARGEST {
            return Err(too_large());
        }
        if !is_plan(bytes) {
            let cut = MAGIC.as_bytes().starts_with(bytes) && !bytes.is_empty();
            let error = match cut {
                true => Error::input("E0511", "the plan ends inside its header"),
                false => Error::input("E0510", "this is not a plan file"),
            };
            return Err(again(error));
        }
        let (header, body) = split(bytes)?;
        let fields = fields(header)?;
        for (name, ours) in [("format", FORMAT), ("version", VERSION)] {
            let theirs = field(&fields, name)?;
            if theirs != ours {
                let what = if name == "format" { "plan format" } else { "anyid-rt" };
                let message = format!("the plan is of {what} {theirs}, this is {what} {ours}");
                return Err(again(Error::input("E0513", message)));
            }
        }
        let target = field(&fields, "target")?;
        let length = field(&fields, "bytes")?;
        let length: usize = length.parse().map_err(|_| damaged("its length is not a number"))?;
        if body.len() < length {
            let message = format!("the plan has {} of {length} bytes", body.len());
            return Err(again(Error::input("E0511", message)));
        }
        if body.len() > length {
            return Err(damaged(&format!("{} bytes too many", body.len() - length)));
        }
        if hash(body) != field(&fields, "sha256")? {
            return Err(damaged("its SHA-256 is another"));
        }
        let text = std::str::from_utf8(body).map_err(|_| damaged("it is not UTF-8 text"))?;
        let phases = parse_plans(text).map_err(|fault| {
            let place = fault.place.as_ref().map_or(String::new(), |place| format!("{place} "));
            again(Error::input("E0516", format!("the plan cannot be read: {}", fault.message)))
                .at(format!("{place}after the header"))
        })?;
        let file = Self { target: target.to_owned(), phases };
        file.verified(Error::input)?;
        if file.weights_hash() != field(&fields, "weights")? {
            let message = "the plan's weights are not those its header names";
            return Err(again(Error::input("E0515", message)));
        }
        Ok(file)
    }

    /// The error of plans for target `theirs` where those for `target` are wanted.
    pub(super) fn foreign(theirs: &str, target: &str) -> Error {
        let message = format!("the plan is for target {theirs}, not for {target}");
        let help = format!(
            "make it again for this device with `anyid-rt compile FILE.ir --target {target} -o FILE.plan`"
        );
        Error::input("E0514", message).help(help)
    }

    /// Whether phases, alone and together, are sound.
    fn verified(&self, make: fn(&'static str, String) -> Error) -> Result<()> {
        let Some(first) = verify_phases(&self.phases).into_iter().next() else { return Ok(()) };
        let error = again(make("E0517", format!("the plan is inconsistent: {}", first.message)));
        Err(error.at(first.place.unwrap_or_else(|| "the phases".to_owned())))
    }

    /// Whether the phases are `prepare` and `step` of one function.
    pub fn split(&self) -> bool {
        is_split(&self.phases)
    }
}

fn damaged(how: &str) -> Error {
    again(Error::input("E0512", format!("the plan is damaged: {how}")))
}

fn hash(bytes: &[u8]) -> String {
    let digest = Sha256::digest(bytes);
    digest.iter().fold(String::with_capacity(64), |mut out, byte| {
        let _ = write!(out, "{byte:02x}");
        out
    })
}

/// Header without its line end, and body.
fn split(bytes: &[u8]) -> Result<(&str, &[u8])> {
    let end = bytes.iter().take(LONGEST_HEADER).position(|byte| *byte == b'\n');
    let Some(end) = end else {
        return Err(match bytes.len() < LONGEST_HEADER {
            true => again(Error::input("E0511", "the plan ends inside its header")),
            false => damaged("its header has no end"),
        });
    };
    let header = std::str::from_utf8(&bytes[..end]).map_err(|_| damaged("its header"))?;
    Ok((header, &bytes[end + 1..]))
}

fn fields(header: &str) -> Result<Vec<(&str, &str)>> {
    let words = header.strip_prefix(MAGIC).unwrap_or(header).split(' ');
    words.map(|word| word.split_once('=').ok_or_else(|| damaged("its header"))).collect()
}

fn field<'h>(fields: &[(&'h str, &'h str)], name: &str) -> Result<&'h str> {
    let found = fields.iter().find(|(n, _)| *n == name);
    found.map(|(_, value)| *value).ok_or_else(|| damaged(&format!("its header lacks {name}")))
}

fn too_large() -> Error {
    let error = Error::input("E0519", format!("the plan has more than {LARGEST} bytes"));
    error.help("a plan of a Wan2.2 network has a few megabytes")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkpoint::Checkpoint;
    use crate::checkpoint::WeightSet;
    use crate::engine::{Backend, Compiler, Inputs, Outputs};
    use crate::weights::ModelWeights;
    use anyid_ir::{DType, FuncBuilder, Module, Tensor, TensorType};
    use std::sync::Arc;

    fn file() -> PlanFile {
        let mut module = Module { name: "m".into(), ..Module::default() };
        module.weights.add("w", TensorType::new(DType::F32, [4])).unwrap();
        let mut f = FuncBuilder::new(&module, "main");
        let ty = TensorType::new(DType::F32, [2, 4]);
        let (x, c) = (f.param("x", ty.clone()), f.param("c", ty));
        let w = f.weight("w");
        let kept = f.mul("kept", c, w);
        let sum = f.add("sum", x, kept);
        // The sum is needed by another kernel: it lies in the workspace.
        let y = f.permute("y", sum, &[1, 0]);
        let func = f.finish(&[y]);
        module.add(func);
        let split =
            anyid_passes::CompileRequest::new(&module, "main").varying(["x"]).split().unwrap();
        PlanFile::new("cpu", split.to_vec()).unwrap()
    }

    #[test]
    fn a_file_reads_back_and_is_deterministic() {
        let file = file();
        let bytes = file.to_bytes();
        let back = PlanFile::from_bytes(&bytes, "cpu").unwrap();
        assert_eq!(back, file);
        assert_eq!(back.to_bytes(), bytes);
        assert!(back.split() && is_plan(&bytes));
        assert_eq!(back.weights().len(), 1);
    }

    #[test]
    fn every_truncation_and_every_flipped_bit_is_refused() {
        let bytes = file().to_bytes();
        for end in 0..bytes.len() {
            let code = PlanFile::from_bytes(&bytes[..end], "cpu").unwrap_err().code();
            assert_eq!(code, if end == 0 { "E0510" } else { "E0511" }, "cut at {end}");
        }
        for at in 0..bytes.len() {
            for bit in 0..8 {
                let mut changed = bytes.clone();
                changed[at] ^= 1 << bit;
                let code = PlanFile::from_bytes(&changed, "cpu").unwrap_err().code();
                let codes = ["E0510", "E0511", "E0512", "E0513", "E0514", "E0515"];
                assert!(codes.contains(&code), "{code} at {at}");
            }
        }
        let longer = [&bytes[..], b"x"].concat();
        assert_eq!(PlanFile::from_bytes(&longer, "cpu").unwrap_err().code(), "E0512");
    }

    /// The file with its text changed and the header made to agree.
    fn forged(from: &str, to: &str) -> &'static str {
        let text = String::from_utf8(file().to_bytes()).unwrap();
        let (header, body) = text.split_once('\n').unwrap();
        assert!(body.contains(from), "{from}\n{body}");
        let body = body.replace(from, to);
        let (keep, _) = header.split_once(" bytes=").unwrap();
        let digest = hash(body.as_bytes());
        let text = format!("{keep} bytes={} sha256={digest}\n{body}", body.len());
        PlanFile::from_bytes(text.as_bytes(), "cpu").unwrap_err().code()
    }

    #[test]
    fn forged_contents_are_refused_with_their_codes() {
        for (from, to, code) in [
            ("4 by 1, 2 by 4", "4 by 1, 2", "E0516"),
            ("4 by 1, 2 by 4", "4 by 1, 2 by 5", "E0517"),
            ("= k1 %", "= return %", "E0516"),
            ("output 0 + 0", "output 1 + 0", "E0517"),
            ("output 0 + 0", "state 0 + 0", "E0517"),
            ("= k0", "= adder", "E0516"),
            ("= k0", "= silu", "E0516"),
            ("= k0", "= gather", "E0517"),
            ("= k0", "= k7", "E0516"),
            ("= add(v0, v1)", "= adder(v0, v1)", "E0516"),
            ("= add(v0, v1)", "= add(v0, v7)", "E0517"),
            ("workspace + 0", "workspace + 32", "E0517"),
            ("workspace + 0", "workspace + 18446744073709551552", "E0517"),
            ("workspace + 0", "input 0 + 0", "E0517"),
            ("workspace=64", "workspace=128", "E0517"),
            ("persistent=64", "persistent=0", "E0517"),
            ("f32[4]", "f32[2]", "E0517"),
            ("\"w\" : f32[4]", "\"v\" : f32[4]", "E0515"),
            ("plan \"step\"", "plan \"prepare\"", "E0517"),
            ("kept \"main/kept\"", "output \"main/kept\"", "E0517"),
        ] {
            assert_eq!(forged(from, to), code, "{from} -> {to}");
        }
        let text = String::from_utf8(file().to_bytes()).unwrap();
        let code = |text: String, target| {
            PlanFile::from_bytes(text.as_bytes(), target).unwrap_err().code()
        };
        assert_eq!(code(text.replacen("format=5", "format=4", 1), "cpu"), "E0513");
        assert_eq!(code(text.replacen("version=", "version=9", 1), "cpu"), "E0513");
        assert_eq!(code(text, "cuda:sm_90"), "E0514");
        assert_eq!(PlanFile::from_bytes(b"module @m\n", "cpu").unwrap_err().code(), "E0510");
    }

    /// What a program is given beside its inputs belongs to its phases, or it says so.
    #[test]
    fn memory_and_outputs_of_others_are_errors() {
        let backend = Backend::open("cpu", 1).unwrap();
        let x = Tensor::from_f32([2, 4], &[1.0; 8]).unwrap();
        let w = WeightSet::from_checkpoints(vec![weights()]).unwrap();
        let weights = Arc::new(ModelWeights::as_named(w));
        let mut program = Compiler::new(&backend)
            .phases_of(file())
            .load(weights.clone(), &mut |_, _| true)
            .unwrap();
        let inputs = Inputs::new().set("x", &x).set("c", &x);
        let code = |result: Result<()>| result.unwrap_err().code();
        assert_eq!(code(program.call("step", &inputs).map(drop)), "E1009");
        assert_eq!(code(program.call("prepare", &inputs).map(drop)), "E1009");
        let mut prepared = program.prepare(&inputs).unwrap();
        let mut outputs = program.outputs("step").unwrap();
        program.step(&mut prepared, &inputs, &mut outputs).unwrap();
        assert_eq!(outputs.get("y").unwrap().shape(), [4, 2]);
        let mut others = Outputs::from_pairs(vec![("y".to_owned(), x.clone())]);
        assert_eq!(code(program.step(&mut prepared, &inputs, &mut others)), "E1009");
        let mut none = Outputs::default();
        assert_eq!(code(program.step(&mut prepared, &inputs, &mut none)), "E1009");
    }

    fn weights() -> Checkpoint {
        let header = br#"{"w":{"dtype":"F32","shape":[4],"data_offsets":[0,16]}}"#;
        let bytes = [&(header.len() as u64).to_le_bytes()[..], header, &[0; 16]].concat();
        Checkpoint::from_bytes(bytes, "w.safetensors").unwrap()
    }

    #[test]
    fn kernels_that_the_backend_lacks_are_refused_when_loaded() {
        let text = "\
plan \"main\" {
  memory alignment=64 workspace=64 lower_bound=64 naive=64 persistent=0
  buffer %0 = input 0 + 0 : f64[2,2]
  input \"x\" = %0
  output \"y\" = %1
  kernel k0 \"linear\" anchor linear {
    y0 = linear(a0, a1)
  }
  %1 = k0 %0, %0 : workspace + 0 f64[2,2] \"y\"
}
";
        let file = PlanFile::new("cpu", parse_plans(text).unwrap()).unwrap();
        let backend = Backend::open("cpu", 1).unwrap();
        let none = Arc::new(ModelWeights::as_named(WeightSet::from_checkpoints(vec![]).unwrap()));
        let loaded = Compiler::new(&backend).phases_of(file).load(none, &mut |_, _| true);
        let error = loaded.map(drop).unwrap_err();
        assert_eq!((error.code(), error.kind()), ("E0505", crate::Kind::Input));
    }
}
