//! A model in an ONNX file, run on the processor. Names and shapes are compared with what an adapter
//! expects when it is opened, and it is run once, so that another model is found out at once.

use super::names::without_names;
use anyid_files::{Error, Result, error, input};
use rten::{Dimension, Model, NodeId, RunOptions, ThreadPool, Value};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Largest file that is read, in bytes.
const LARGEST: u64 = 2 << 30;

/// A model with one input and some outputs.
pub struct Onnx {
    path: PathBuf,
    model: Model,
    input: NodeId,
    outputs: Vec<NodeId>,
    /// How many axes each of them has: 2 or 4.
    axes: Vec<usize>,
    /// One thread: files of video are shared among threads already.
    pool: Arc<ThreadPool>,
}

/// A tensor of an output.
#[derive(Debug, PartialEq)]
pub struct Output {
    /// Sizes of its axes.
    pub shape: Vec<usize>,
    /// Its values, the last axis fastest.
    pub data: Vec<f32>,
}

/// What an adapter expects of a model.
#[derive(Clone, Copy, Debug)]
pub struct Contract<'c> {
    /// What the model is called in messages.
    pub what: &'c str,
    /// Name of the input.
    pub input: &'c str,
    /// Sizes of its axes; 0 for any.
    pub shape: [usize; 4],
    /// Names of outputs with the number of axes, 2 or 4, and the last of their sizes.
    pub outputs: &'c [(&'c str, usize, usize)],
    /// Sizes of the input that it is run with at once.
    pub trial: [usize; 4],
}

impl Onnx {
    /// Opens a model.
    ///
    /// # Errors
    /// E0911 where there is no file, E1208 where it is no ONNX file or not what is expected.
    pub fn open(path: &Path, contract: &Contract<'_>) -> Result<Self> {
        let fault = |what: String| {
            Error::input("E1208", format!("this is not {}: {what}", contract.what))
                .at(path.display())
                .help("docs/data.md says which files are meant and where they come from")
        };
        let large = |limit: u64| fault(format!("it is larger than {limit} bytes"));
        let unreadable = |cause| error::unreadable(path, cause);
        let bytes = input::read(path, LARGEST).map_err(|r| r.coded(path, unreadable, large))?;
        let bytes = without_names(&bytes).ok_or_else(|| fault("it is no ONNX file".to_owned()))?;
        let model = Model::load(bytes).map_err(|cause| fault(cause.to_string()))?;
        let names = |ids: &[NodeId]| -> Vec<String> {
            let name = |id: &NodeId| model.node_info(*id)?.name().map(str::to_owned);
            ids.iter().filter_map(name).collect()
        };
        let of = |ids: &[NodeId], wanted: &str, kind: &str| {
            let found = names(ids);
            match found.iter().position(|name| name == wanted) {
                Some(at) => Ok(ids[at]),
                None => {
                    Err(fault(format!("it has no {kind} \"{wanted}\", but {}", found.join(", "))))
                }
            }
        };
        let input = of(model.input_ids(), contract.input, "input")?;
        let shape = model.node_info(input).and_then(|info| info.shape()).unwrap_or_default();
        let fits = shape.len() == 4
            && shape.iter().zip(contract.shape).all(|(own, wanted)| match own {
                Dimension::Fixed(size) => wanted == 0 || *size == wanted,
                Dimension::Symbolic(_) => true,
            });
        if !fits {
            let own: Vec<String> = shape
                .iter()
                .map(|size| match size {
                    Dimension::Fixed(size) => size.to_string(),
                    Dimension::Symbolic(name) => name.clone(),
                })
                .collect();
            let wanted = contract
                .shape
                .map(|size| if size == 0 { "any".to_owned() } else { size.to_string() });
            return Err(fault(format!(
                "the input \"{}\" is [{}], expected [{}]",
                contract.input,
                own.join(", "),
                wanted.join(", ")
            )));
        }
        let outputs = contract
            .outputs
            .iter()
            .map(|(name, ..)| of(model.output_ids(), name, "output"))
            .collect::<Result<_>>()?;
        let axes = contract.outputs.iter().map(|(_, axes, _)| *axes).collect();
        let pool = Arc::new(ThreadPool::with_num_threads(1));
        let own = Self { path: path.to_owned(), model, input, outputs, axes, pool };
        let trial = own.run(contract.trial, vec![0.0; contract.trial.iter().product()])?;
        for (found, (name, axes, last)) in trial.iter().zip(contract.outputs) {
            if found.shape.last() != Some(last) {
                let shape = &found.shape;
                let what =
                    format!("\"{name}\" gives {shape:?}, expected {axes} axes, the last of {last}");
                return Err(fault(what));
            }
        }
        Ok(own)
    }

    /// Runs the model.
    ///
    /// # Errors
    /// E1208 where it cannot be run.
    pub fn run(&self, shape: [usize; 4], data: Vec<f32>) -> Result<Vec<Output>> {
        let fault = |what: String| {
            Error::input("E1208", format!("the model cannot be run: {what}"))
                .at(self.path.display())
                .help("the file may be damaged, or use operations that this program does not have")
        };
        let input = Value::from_shape(shape, data).map_err(|cause| fault(cause.to_string()))?;
        let options = RunOptions::default().with_thread_pool(Some(self.pool.clone()));
        let out = self
            .model
            .run(vec![(self.input, input.into())], &self.outputs, Some(options))
            .map_err(|cause| fault(cause.to_string()))?;
        out.into_iter()
            .zip(&self.axes)
            .map(|(value, axes)| {
                let read = match axes {
                    2 => value.into_shape_vec::<f32, 2>().map(|(s, data)| (s.to_vec(), data)),
                    _ => value.into_shape_vec::<f32, 4>().map(|(s, data)| (s.to_vec(), data)),
                };
                let (shape, data) = read.map_err(|cause| {
                    fault(format!("an output is not f32 of {axes} axes: {cause}"))
                })?;
                Ok(Output { shape, data })
            })
            .collect()
    }
}
