//! A model in an ONNX file, whatever runs it. Names and shapes are compared with what an adapter expects
//! when it is opened, and it is run once, so that another model is found out at once.

use super::names::first_operators;
use super::rten::Rten;
use crate::settings::Engine;
use anyid_files::{Error, Result, error, input};
use std::path::{Path, PathBuf};

/// Largest file that is read, in bytes.
const LARGEST: u64 = 2 << 30;
/// Operators at the beginning of a graph among which its own normalisation stands.
const FIRST: usize = 8;

/// What goes into a model.
#[derive(Clone, Debug, PartialEq)]
pub struct Tensor {
    /// Sizes of its axes.
    pub shape: Vec<usize>,
    /// Its values, the last axis fastest.
    pub data: Data,
}

/// Values of a tensor.
#[derive(Clone, Debug, PartialEq)]
pub enum Data {
    /// Numbers.
    Floats(Vec<f32>),
    /// Whole numbers.
    Integers(Vec<i64>),
}

impl Tensor {
    /// Of numbers.
    pub fn floats(shape: impl Into<Vec<usize>>, data: Vec<f32>) -> Self {
        Self { shape: shape.into(), data: Data::Floats(data) }
    }

    /// Of whole numbers.
    pub fn integers(shape: impl Into<Vec<usize>>, data: Vec<i64>) -> Self {
        Self { shape: shape.into(), data: Data::Integers(data) }
    }
}

/// What comes out of a model; whole numbers as numbers.
#[derive(Clone, Debug, PartialEq)]
pub struct Output {
    /// Sizes of its axes.
    pub shape: Vec<usize>,
    /// Its values, the last axis fastest.
    pub data: Vec<f32>,
}

impl Output {
    /// The size of the last axis.
    pub fn width(&self) -> usize {
        self.shape.last().copied().unwrap_or(0)
    }

    /// How many rows of the last axis there are.
    pub fn rows(&self) -> usize {
        self.data.len() / self.width().max(1)
    }

    /// A row of the last axis.
    pub fn row(&self, at: usize) -> &[f32] {
        let width = self.width();
        &self.data[at * width..(at + 1) * width]
    }
}

/// An input of a model.
#[derive(Clone, Debug, PartialEq)]
pub struct Input {
    /// Its name.
    pub name: String,
    /// Sizes of its axes, none for any; none where the file says nothing of them.
    pub shape: Option<Vec<Option<usize>>>,
}

/// A model that can be run.
pub trait OnnxModel: Send + Sync {
    /// Its inputs, in their order.
    fn inputs(&self) -> &[Input];

    /// Names of its outputs, in their order.
    fn outputs(&self) -> &[String];

    /// Runs it.
    ///
    /// # Errors
    /// What was wrong.
    fn run(
        &self,
        inputs: Vec<(&str, Tensor)>,
        wanted: &[&str],
    ) -> std::result::Result<Vec<Output>, String>;
}

/// A model with what it is called in messages.
pub struct Network {
    path: PathBuf,
    what: &'static str,
    model: Box<dyn OnnxModel>,
    operators: Vec<String>,
}

#[cfg(feature = "ort")]
fn by_ort(bytes: Vec<u8>) -> std::result::Result<Box<dyn OnnxModel>, String> {
    Ok(Box::new(super::ort::Ort::load(&bytes)?))
}

#[cfg(not(feature = "ort"))]
fn by_ort(_: Vec<u8>) -> std::result::Result<Box<dyn OnnxModel>, String> {
    Err("this program was built without ONNX Runtime (--features ort)".to_owned())
}

impl Network {
    /// Opens a model that is meant to be `what`.
    ///
    /// # Errors
    /// E0911 where there is no file, E1208 where it is no ONNX file or cannot be loaded.
    pub fn open(path: &Path, engine: Engine, what: &'static str) -> Result<Self> {
        let fault = |cause: String| mismatch(path, what, &cause);
        let large = |limit: u64| fault(format!("it is larger than {limit} bytes"));
        let unreadable = |cause| error::unreadable(path, cause);
        let bytes = input::read(path, LARGEST).map_err(|r| r.coded(path, unreadable, large))?;
        let operators = first_operators(&bytes, FIRST);
        let operators = operators.ok_or_else(|| fault("it is no ONNX file".to_owned()))?;
        let model: Box<dyn OnnxModel> = match engine {
            Engine::Rten => Box::new(Rten::load(&bytes).map_err(fault)?),
            Engine::Ort => by_ort(bytes).map_err(fault)?,
        };
        Ok(Self { path: path.to_owned(), what, model, operators })
    }

    /// The error E1208: it is another model.
    pub fn mismatch(&self, cause: &str) -> Error {
        mismatch(&self.path, self.what, cause)
    }

    /// Whether it normalises pixels itself, as old exports do: by a difference and a product among its
    /// first operators.
    pub fn normalises(&self) -> bool {
        ["Sub", "Mul"].iter().all(|name| self.operators.iter().any(|own| own == name))
    }

    /// Names of its outputs, in their order.
    pub fn outputs(&self) -> &[String] {
        self.model.outputs()
    }

    /// The input of a name, or the only one, whose axes have these sizes; 0 for any.
    ///
    /// # Errors
    /// E1208 where it is not there or of another shape.
    pub fn input(&self, name: Option<&str>, shape: &[usize]) -> Result<&Input> {
        let all = self.model.inputs();
        let names = || all.iter().map(|own| own.name.clone()).collect::<Vec<_>>().join(", ");
        let found = match (name, all) {
            (Some(name), _) => all.iter().find(|own| own.name == name).ok_or_else(|| {
                self.mismatch(&format!("it has no input \"{name}\", but {}", names()))
            })?,
            (None, [only]) => only,
            (None, _) => {
                let what = format!("it has {} inputs, expected one: {}", all.len(), names());
                return Err(self.mismatch(&what));
            }
        };
        let Some(own) = &found.shape else { return Ok(found) };
        let fits = own.len() == shape.len()
            && own.iter().zip(shape).all(|(own, wanted)| match own {
                Some(own) => *wanted == 0 || own == wanted,
                None => true,
            });
        if fits {
            return Ok(found);
        }
        let any = |size: Option<usize>| size.map_or("any".to_owned(), |size| size.to_string());
        let own: Vec<String> = own.iter().map(|size| any(*size)).collect();
        let wanted: Vec<String> =
            shape.iter().map(|size| any(Some(*size).filter(|size| *size > 0))).collect();
        Err(self.mismatch(&format!(
            "the input \"{}\" is [{}], expected [{}]",
            found.name,
            own.join(", "),
            wanted.join(", ")
        )))
    }

    /// That outputs of these names are there.
    ///
    /// # Errors
    /// E1208.
    pub fn has_outputs(&self, names: &[&str]) -> Result<()> {
        let own = self.outputs();
        match names.iter().find(|name| !own.iter().any(|own| own == *name)) {
            None => Ok(()),
            Some(name) => {
                let what = format!("it has no output \"{name}\", but {}", own.join(", "));
                Err(self.mismatch(&what))
            }
        }
    }

    /// Runs the model.
    ///
    /// # Errors
    /// E1208 where it cannot be run.
    pub fn run(&self, inputs: Vec<(&str, Tensor)>, wanted: &[&str]) -> Result<Vec<Output>> {
        self.model.run(inputs, wanted).map_err(|cause| {
            Error::input("E1208", format!("the model cannot be run: {cause}"))
                .at(self.path.display())
                .help("the file may be damaged, or use operations that this program does not have")
        })
    }

    /// Runs the model on one tensor for outputs whose shapes end like these; 0 for any.
    ///
    /// # Errors
    /// E1208 where it cannot be run, or gives something else.
    pub fn shaped(
        &self,
        input: &str,
        tensor: Tensor,
        wanted: &[(&str, &[usize])],
    ) -> Result<Vec<Output>> {
        let names: Vec<&str> = wanted.iter().map(|(name, _)| *name).collect();
        let out = self.run(vec![(input, tensor)], &names)?;
        for (found, (name, shape)) in out.iter().zip(wanted) {
            self.fits(name, found, shape)?;
        }
        Ok(out)
    }

    /// That the shape of an output ends like this; 0 for any.
    ///
    /// # Errors
    /// E1208.
    pub fn fits(&self, name: &str, found: &Output, shape: &[usize]) -> Result<()> {
        let own = &found.shape;
        let begin = own.len().checked_sub(shape.len());
        let ends = begin.is_some_and(|begin| {
            own[begin..].iter().zip(shape).all(|(own, wanted)| *wanted == 0 || own == wanted)
        });
        match ends {
            true => Ok(()),
            false => Err(self.mismatch(&format!(
                "\"{name}\" gives {own:?}, expected a shape that ends in {shape:?}"
            ))),
        }
    }
}

fn mismatch(path: &Path, what: &str, cause: &str) -> Error {
    Error::input("E1208", format!("this is not {what}: {cause}"))
        .at(path.display())
        .help("docs/data.md says which files are meant and where they come from")
}
