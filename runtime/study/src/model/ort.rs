//! ONNX files run by ONNX Runtime, a library of the user's that is loaded when it is needed; nothing is
//! linked and nothing downloaded. For graphs that rten cannot load.

use super::network::{Data, Input, OnnxModel, Output, Tensor};
use ort::environment::Environment;
use ort::session::Session;
use ort::value::{DynValue, Tensor as OrtTensor, ValueType};
use std::path::PathBuf;
use std::sync::{Mutex, OnceLock};

/// The variable that names the library, and its name without.
const VARIABLE: &str = "ORT_DYLIB_PATH";
const LIBRARY: &str = "libonnxruntime.so";

/// The library allows a process one environment, and so it has to be held here.
static ENVIRONMENT: OnceLock<Result<Environment, String>> = OnceLock::new();

/// A model that ONNX Runtime runs.
pub struct Ort {
    session: Mutex<Session>,
    inputs: Vec<Input>,
    outputs: Vec<String>,
}

fn environment() -> Result<&'static Environment, String> {
    let open = || {
        let path = std::env::var_os(VARIABLE).map_or_else(|| LIBRARY.into(), PathBuf::from);
        let wrong = |cause: &dyn std::fmt::Display| {
            format!("ONNX Runtime cannot be used ({VARIABLE} names its library): {cause}")
        };
        let builder = ort::init_from(&path).map_err(|cause| wrong(&cause))?;
        builder.with_telemetry(false).build().map_err(|cause| wrong(&cause))
    };
    ENVIRONMENT.get_or_init(open).as_ref().map_err(Clone::clone)
}

impl Ort {
    /// Loads the content of a file.
    ///
    /// # Errors
    /// What was wrong.
    pub fn load(bytes: &[u8]) -> Result<Self, String> {
        let builder = Session::builder(environment()?).map_err(|cause| cause.to_string())?;
        // One thread: files of video are shared among threads already.
        let mut builder = builder.with_intra_threads(1).map_err(|cause| cause.to_string())?;
        let session = builder.commit_from_memory(bytes).map_err(|cause| cause.to_string())?;
        let input = |outlet: &ort::value::Outlet| {
            let shape = match outlet.dtype() {
                ValueType::Tensor { shape, .. } => {
                    Some(shape.iter().map(|size| usize::try_from(*size).ok()).collect())
                }
                _ => None,
            };
            Input { name: outlet.name().to_owned(), shape }
        };
        let inputs = session.inputs().iter().map(input).collect();
        let outputs = session.outputs().iter().map(|outlet| outlet.name().to_owned()).collect();
        Ok(Self { session: Mutex::new(session), inputs, outputs })
    }
}

/// An output; whole numbers as numbers.
fn read(value: &DynValue) -> Result<Output, String> {
    let sizes = |shape: &[i64]| shape.iter().map(|size| *size as usize).collect();
    if let Ok((shape, data)) = value.try_extract_tensor::<f32>() {
        return Ok(Output { shape: sizes(shape), data: data.to_vec() });
    }
    if let Ok((shape, data)) = value.try_extract_tensor::<i64>() {
        let data = data.iter().map(|value| *value as f32).collect();
        return Ok(Output { shape: sizes(shape), data });
    }
    let (shape, data) = value.try_extract_tensor::<i32>().map_err(|cause| cause.to_string())?;
    Ok(Output { shape: sizes(shape), data: data.iter().map(|value| *value as f32).collect() })
}

impl OnnxModel for Ort {
    fn inputs(&self) -> &[Input] {
        &self.inputs
    }

    fn outputs(&self) -> &[String] {
        &self.outputs
    }

    fn run(&self, inputs: Vec<(&str, Tensor)>, wanted: &[&str]) -> Result<Vec<Output>, String> {
        let mut given: Vec<(String, DynValue)> = Vec::new();
        for (name, Tensor { shape, data }) in inputs {
            let value = match data {
                Data::Floats(data) => {
                    OrtTensor::from_array((shape, data)).map(|own| own.into_dyn())
                }
                Data::Integers(data) => {
                    OrtTensor::from_array((shape, data)).map(|own| own.into_dyn())
                }
            };
            given.push((name.to_owned(), value.map_err(|cause| cause.to_string())?));
        }
        let mut session = self.session.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let out = session.run(given).map_err(|cause| cause.to_string())?;
        let of = |name: &&str| {
            let value = out.get(name).ok_or_else(|| format!("no output \"{name}\""))?;
            read(value)
        };
        wanted.iter().map(of).collect()
    }
}
