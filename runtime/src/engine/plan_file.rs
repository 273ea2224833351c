//! Plan files: compiled phases that run without compiling again.
//!
//! One header line of words, then the plans as text. The header says the format and product
//! version, the target, the weights the plans want and the length and SHA-256 of the text, so that
//! a stale, damaged or foreign file is refused before anything of it is used. What passes is
//! verified like a plan fresh from the compiler; nothing in a file is trusted.

use crate::checkpoint::AtomicFile;
use crate::error::{Error, Result};
use anyid_ir::plan::{Plan, WeightRef};
use anyid_ir::plan_text::{parse_plans, print_plans};
use anyid_ir::plan_verify::verify_plan;
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::Read;
use std::path::Path;

/// Version of the file's format.
const FORMAT: &str = "3";
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
        let mut file = AtomicFile::create(path)?;
        file.append(&self.to_bytes())?;
        file.commit().map(drop)
    }

    /// Reads a file made for `target` by this version.
    ///
    /// # Errors
    /// E0911 where it cannot be read, otherwise as [`Self::from_bytes`].
    pub fn open(path: &Path, target: &str) -> Result<Self> {
        let unreadable = |fault| {
            Error::input("E0911", "the file cannot be read")
                .at(path.display())
                .help("check its name and permissions")
                .caused_by(fault)
        };
        let file = std::fs::File::open(path).map_err(unreadable)?;
        let size = file.metadata().map_err(unreadable)?.len();
        if size > LARGEST {
            return Err(too_large().at(path.display()));
        }
        let mut bytes = Vec::new();
        // It may have grown, or be a pipe: one byte more than allowed tells whether there is more.
        file.take(LARGEST + 1).read_to_end(&mut bytes).map_err(unreadable)?;
        Self::from_bytes(&bytes, target).map_err(|error| error.at(path.display()))
    }

    /// Reads the bytes of a file made for `target` by this version.
    ///
    /// # Errors
    /// E0510 for something else, E0511 cut off, E0512 damaged, E0513 another version, E0514
    /// another target, E0515 a list of weights that is not the header's, E0516 and E0517 contents
    /// that are no valid plans, E0519 too large.
    pub fn from_bytes(bytes: &[u8], target: &str) -> Result<Self> {
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
        let theirs = field(&fields, "target")?;
        if theirs != target {
            let message = format!("the plan is for target {theirs}, not for {target}");
            return Err(again(Error::input("E0514", message)));
        }
        let length = field(&fields, "bytes")?;
        let length: usize = length.parse().map_err(|_| damaged("its length is no number"))?;
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
            let place = fault.place.clone().unwrap_or_default();
            again(Error::input("E0516", format!("the plan cannot be read: {}", fault.message)))
                .at(format!("{place} after the header"))
        })?;
        let file = Self { target: target.to_owned(), phases };
        file.verified(Error::input)?;
        if file.weights_hash() != field(&fields, "weights")? {
            let message = "the plan's weights are not those its header names";
            return Err(again(Error::input("E0515", message)));
        }
        Ok(file)
    }

    /// Whether phases, alone and together, are sound.
    fn verified(&self, make: fn(&'static str, String) -> Error) -> Result<()> {
        let fault = |message: String| again(make("E0517", message));
        if self.phases.is_empty() {
            return Err(fault("the plan has no phase".to_owned()));
        }
        let mut types: BTreeMap<&str, &WeightRef> = BTreeMap::new();
        for (at, plan) in self.phases.iter().enumerate() {
            if let Some(first) = verify_plan(plan).into_iter().next() {
                let error = fault(format!("the plan is inconsistent: {}", first.message));
                return Err(error.at(first.place.unwrap_or_default()));
            }
            if self.phases[..at].iter().any(|other| other.name == plan.name) {
                return Err(fault(format!("there are two phases \"{}\"", plan.name)));
            }
            for weight in &plan.weights {
                let known = types.entry(&weight.name).or_insert(weight);
                if known.ty != weight.ty {
                    let (name, a, b) = (&weight.name, &known.ty, &weight.ty);
                    return Err(fault(format!("weight \"{name}\" is both {a} and {b}")));
                }
            }
        }
        let kept = |name: &str| {
            let plan = self.phases.iter().find(|plan| plan.name == name);
            plan.map_or(0, |plan| plan.persistent_bytes)
        };
        // Both run on the memory that `prepare` makes.
        if self.split() && kept("prepare") != kept("step") {
            return Err(fault("prepare and step disagree about persistent memory".to_owned()));
        }
        if !self.split() && self.phases.iter().any(|plan| plan.persistent_bytes > 0) {
            return Err(fault("persistent memory without a prepare and a step".to_owned()));
        }
        Ok(())
    }

    /// Whether the phases are `prepare` and `step` of one function.
    pub fn split(&self) -> bool {
        let names: Vec<&str> = self.phases.iter().map(|plan| plan.name.as_str()).collect();
        names == ["prepare", "step"]
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
    use anyid_ir::{DType, FuncBuilder, Module, TensorType};

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
        let split = anyid_passes::compile_split(&module, "main", &["x"]).unwrap();
        PlanFile::new("cpu", vec![split.prepare, split.step]).unwrap()
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
            ("= permute", "= permuted", "E0516"),
            ("{perm=[1,0]}", "{perm=[0,1]}", "E0517"),
            ("= permute %", "= return %", "E0516"),
            ("output 0 + 0", "output 1 + 0", "E0517"),
            ("output 0 + 0", "state 0 + 0", "E0517"),
            ("= k0", "= adder", "E0516"),
            ("= k0", "= silu", "E0517"),
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
        ] {
            assert_eq!(forged(from, to), code, "{from} -> {to}");
        }
        let text = String::from_utf8(file().to_bytes()).unwrap();
        let code = |text: String, target| {
            PlanFile::from_bytes(text.as_bytes(), target).unwrap_err().code()
        };
        assert_eq!(code(text.replacen("format=3", "format=2", 1), "cpu"), "E0513");
        assert_eq!(code(text.replacen("version=", "version=9", 1), "cpu"), "E0513");
        assert_eq!(code(text, "cuda:sm_90"), "E0514");
        assert_eq!(PlanFile::from_bytes(b"module @m\n", "cpu").unwrap_err().code(), "E0510");
    }
}
