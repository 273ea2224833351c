//! Judges at work and on disk: networks that say which class each slot has, from frames alone.
//!
//! A run of `train full` for a judge leaves two files, `judge.safetensors` and `judge.json`, which has its
//! sizes, slots and classes. What slots and classes mean is for whoever trained it.

use crate::checkpoint::{Checkpoint, WeightSet, read_json};
use crate::engine::{Backend, CompileRequest, Compiler, Inputs, Program};
use crate::error::{Error, Result};
use crate::init::{safetensors_bytes, write_bytes};
use crate::media::color::to_unit;
use crate::pipeline::Size;
use crate::weights::ModelWeights;
use anyid_ir::{DType, Tensor, TensorType};
use anyid_models::judge::{JudgeConfig, judge, manifest};
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// What the file beside the weights is.
const SCHEMA: &str = "anyid.judge/1";
/// Name of the weights in the folder of a run.
const FILE: &str = "judge.safetensors";
/// Most classes of all slots: sizes come from files.
const MOST_CLASSES: usize = 4096;

/// A name, and the names of its classes.
pub type NamedClasses = (String, Vec<String>);

/// The file beside the weights.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Described {
    schema: String,
    #[serde(flatten)]
    config: JudgeConfig,
    slots: Vec<NamedClasses>,
}

impl Described {
    /// What is wrong with it, if anything is.
    fn validate(&self) -> std::result::Result<(), String> {
        if self.schema != SCHEMA {
            return Err(format!("schema: \"{}\" is not \"{SCHEMA}\"", self.schema));
        }
        self.config.validate()?;
        let counts = self.slots.iter().map(|(_, classes)| classes.len());
        match counts.clone().any(|count| count == 0) || !(1..=MOST_CLASSES).contains(&counts.sum())
        {
            true => Err("slots: there is none, one without a class, or too many".to_owned()),
            false => Ok(()),
        }
    }

    fn classes(&self) -> Vec<usize> {
        self.slots.iter().map(|(_, classes)| classes.len()).collect()
    }
}

/// The weights of the judge at `path`, which is their file or the folder of the run that trained it.
pub fn file(path: &Path) -> PathBuf {
    if path.is_dir() { path.join(FILE) } else { path.to_owned() }
}

/// A judge of clips.
pub struct Judge {
    described: Described,
    program: Program,
    pixels: Tensor,
    fingerprint: String,
    bytes: u64,
}

impl Judge {
    /// Opens the judge at `path`: its weights, or the folder of the run that trained it.
    ///
    /// # Errors
    /// E0997 for files that are no judge, E0703 and E0704 for its configuration, those of reading
    /// checkpoints, E05xx and E0603 where it cannot be compiled or loaded.
    pub fn open(path: &Path, backend: &Backend) -> Result<Self> {
        let path = file(path);
        let set = WeightSet::open(&path)?;
        let file = read_json(path.with_extension("json"))?;
        let described: Described =
            serde_json::from_value(file.value).map_err(|fault| refused(fault, &file.path))?;
        described.validate().map_err(|fault| refused(fault, &file.path))?;
        let weights = recognise(&set);
        let weights = weights.ok_or_else(|| refused("its weights are no judge's", &path))?;
        let (config, classes) = (&described.config, described.classes());
        weights.require(&shapes(config, &classes)).map_err(|error| {
            refused(format!("{}, as the file beside it says", error.message()), &path)
        })?;
        let fingerprint = weights.fingerprint()?;
        let module = judge(config, 1, &classes);
        let request = CompileRequest::new(&module, "judge");
        let compiler = Compiler::new(backend).add("judge", request)?;
        let bytes = compiler.weight_bytes().saturating_add(compiler.memory_bytes());
        let program = compiler.load(Arc::new(weights), &mut |_, _| true)?;
        let shape = [1, 3, config.frames, config.height, config.width];
        let pixels = Tensor::zeros(TensorType::new(DType::F32, shape));
        Ok(Self { described, program, pixels, fingerprint, bytes })
    }

    /// Frames that it looks at, and their size.
    pub fn size(&self) -> Size {
        let JudgeConfig { width, height, frames, .. } = self.described.config;
        Size { width, height, frames }
    }

    /// Refuses frames of another number or size than those that it looks at.
    ///
    /// # Errors
    /// E0998, without a place and help.
    pub fn sees(&self, wanted: Size) -> Result<()> {
        let said = |Size { width, height, frames }| format!("{frames} of {width}x{height}");
        let own = self.size();
        if own == wanted {
            return Ok(());
        }
        let (own, wanted) = (said(own), said(wanted));
        let message = format!("the judge looks at frames as {own}, here are {wanted}");
        Err(Error::input("E0998", message))
    }

    /// The slots, each with its classes.
    pub fn slots(&self) -> &[NamedClasses] {
        &self.described.slots
    }

    /// Bytes of its weights and of the memory that it computes in.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Fingerprint of its weights.
    pub fn fingerprint(&self) -> &str {
        &self.fingerprint
    }

    /// The class of each slot, as a place among its classes, that `frames` show: RGB bytes of as many
    /// frames as it looks at, of its size.
    ///
    /// # Errors
    /// E1009 for frames of another number or size, E1001 for a non-finite value.
    pub fn read(&mut self, frames: &[&[u8]]) -> Result<Vec<usize>> {
        let Size { width, height, frames: count } = self.size();
        let plane = width * height;
        if frames.len() != count || frames.iter().any(|frame| frame.len() != 3 * plane) {
            return Err(Error::internal("E1009", "frames of another number or size"));
        }
        let values = self.pixels.as_f32_mut().expect("pixels are f32");
        for (at, plane) in values.chunks_exact_mut(plane).enumerate() {
            let own = frames[at % count].iter().skip(at / count).step_by(3);
            plane.iter_mut().zip(own).for_each(|(to, from)| *to = to_unit(*from));
        }
        let outputs = self.program.call("judge", &Inputs::new().set("pixels", &self.pixels))?;
        let logits = outputs.get("logits")?.to_f32_vec();
        if logits.iter().any(|value| !value.is_finite()) {
            return Err(Error::input("E1001", "a non-finite value in the judge")
                .help("train it again with a smaller train.learning_rate"));
        }
        let mut rest = &logits[..];
        let read = |count: usize| {
            let (own, behind) = rest.split_at(count);
            rest = behind;
            let best = own.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1));
            best.map_or(0, |(class, _)| class)
        };
        Ok(self.described.classes().into_iter().map(read).collect())
    }
}

fn refused(fault: impl std::fmt::Display, path: &Path) -> Error {
    Error::input("E0997", format!("this is no judge: {fault}")).at(path.display()).help(
        "give judge.safetensors of a run with train.network = \"judge\"; judge.json lies beside it",
    )
}

/// The judge that is trained on clips of a size: it looks at first and last frame.
pub fn trained(size: Size) -> JudgeConfig {
    JudgeConfig::usual(size.height, size.width, size.frames.min(2))
}

fn shapes(config: &JudgeConfig, classes: &[usize]) -> Vec<(String, Vec<u64>)> {
    let manifest = manifest(config, classes);
    let shape = |ty: &TensorType| ty.shape.iter().map(|size| *size as u64).collect();
    manifest.tensors().map(|(name, ty)| (name.to_owned(), shape(ty))).collect()
}

/// The weights that training begins with.
///
/// # Errors
/// None in practice; a broken invariant is reported, not panicked on.
pub fn first(config: &JudgeConfig, classes: &[usize], seed: u64) -> Result<Arc<ModelWeights>> {
    let bytes = safetensors_bytes(&shapes(config, classes), seed);
    let file = Checkpoint::from_bytes(bytes, "the first values of a judge")?;
    Ok(Arc::new(ModelWeights::as_named(WeightSet::from_checkpoints(vec![file])?)))
}

/// The weights of a judge; none for those of anything else.
pub fn recognise(set: &WeightSet) -> Option<ModelWeights> {
    let known = ["levels.0.down.weight", "heads.weight"];
    let one = known.iter().all(|name| set.tensor(name).is_some());
    one.then(|| ModelWeights::as_named(set.clone()))
}

/// Writes the file beside the weights of a judge that was trained on clips of a size.
///
/// # Errors
/// E101x where it cannot be written.
pub fn write(path: &Path, size: Size, slots: Vec<NamedClasses>) -> Result<()> {
    let described = Described { schema: SCHEMA.to_owned(), config: trained(size), slots };
    let text = serde_json::to_string_pretty(&described);
    let text = text.map_err(|error| Error::internal("E1009", error.to_string()))? + "\n";
    write_bytes(path, text.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A judge with first values in a folder.
    fn folder() -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        let size = Size { width: 12, height: 12, frames: 5 };
        let classes = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        let slots = vec![
            ("hair".to_owned(), classes(&["red", "blue"])),
            ("shot".to_owned(), classes(&["0", "1", "2"])),
        ];
        let bytes = safetensors_bytes(&shapes(&trained(size), &[2, 3]), 3);
        std::fs::write(folder.path().join(FILE), bytes).unwrap();
        write(&folder.path().join("judge.json"), size, slots).unwrap();
        folder
    }

    #[test]
    fn a_judge_reads_a_class_of_each_slot_off_its_frames() {
        let (folder, backend) = (folder(), Backend::open("cpu", 1).unwrap());
        let mut judge = Judge::open(folder.path(), &backend).unwrap();
        assert_eq!(judge.size(), Size { width: 12, height: 12, frames: 2 });
        assert_eq!(judge.slots()[1].1, ["0", "1", "2"]);
        let [dark, light] = [[20u8; 432], [230; 432]];
        let mut seen = std::collections::BTreeSet::new();
        for frames in [[&dark[..], &dark], [&light, &light], [&dark, &light], [&light, &dark]] {
            let read = judge.read(&frames).unwrap();
            assert!(read.len() == 2 && read[0] < 2 && read[1] < 3, "{read:?}");
            assert_eq!(judge.read(&frames).unwrap(), read);
            seen.insert(judge.program_logits(&frames));
        }
        assert_eq!(seen.len(), 4, "every frame counts");
        assert_eq!(judge.read(&[&dark[..]]).unwrap_err().code(), "E1009");
        assert_eq!(judge.read(&[&dark[3..], &dark]).unwrap_err().code(), "E1009");
    }

    impl Judge {
        /// The bits of what `read` compares.
        fn program_logits(&mut self, frames: &[&[u8]]) -> Vec<u32> {
            self.read(frames).unwrap();
            let inputs = Inputs::new().set("pixels", &self.pixels);
            let outputs = self.program.call("judge", &inputs).unwrap();
            let logits = outputs.get("logits").unwrap().to_f32_vec();
            logits.into_iter().map(f32::to_bits).collect()
        }
    }

    #[test]
    fn what_is_no_judge_is_refused() {
        let (folder, backend) = (folder(), Backend::open("cpu", 1).unwrap());
        let json = folder.path().join("judge.json");
        let good = std::fs::read_to_string(&json).unwrap();
        let refused = |text: &str| {
            std::fs::write(&json, text).unwrap();
            let error = Judge::open(folder.path(), &backend).err().unwrap();
            (error.code(), error.message().to_owned())
        };
        for (from, to, what) in [
            (SCHEMA, "anyid.judge/9", "schema: \"anyid.judge/9\""),
            ("\"width\": 12", "\"width\": 0", "width: 0"),
            ("\"frames\": 2", "\"frames\": 1", "hidden.weight"),
            ("\"red\",", "", "heads.weight"),
            ("\"slots\"", "\"slits\"", "missing field `slots`"),
        ] {
            let (code, message) = refused(&good.replace(from, to));
            assert!(code == "E0997" && message.contains(what), "{from}: {message}");
        }
        assert_eq!(refused("{").0, "E0704");
        std::fs::remove_file(&json).unwrap();
        assert_eq!(Judge::open(folder.path(), &backend).err().unwrap().code(), "E0703");
        std::fs::write(&json, good).unwrap();
        let other = safetensors_bytes(&[("a.weight".to_owned(), vec![2])], 0);
        std::fs::write(folder.path().join(FILE), other).unwrap();
        assert_eq!(Judge::open(folder.path(), &backend).err().unwrap().code(), "E0997");
    }
}
