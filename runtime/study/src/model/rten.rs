//! ONNX files run on the processor by rten.

use super::names::without_names;
use super::network::{Data, Input, OnnxModel, Output, Tensor};
use rten::{Dimension, Model, NodeId, RunOptions, ThreadPool, Value};
use rten_tensor::Layout;
use std::sync::Arc;

/// A model that rten runs.
pub struct Rten {
    model: Model,
    inputs: Vec<Input>,
    outputs: Vec<String>,
    /// One thread: files of video are shared among threads already.
    pool: Arc<ThreadPool>,
}

impl Rten {
    /// Loads the content of a file.
    ///
    /// # Errors
    /// What was wrong.
    pub fn load(bytes: &[u8]) -> Result<Self, String> {
        let bytes = without_names(bytes).ok_or("it is no ONNX file")?;
        let model = Model::load(bytes).map_err(|cause| cause.to_string())?;
        let name = |id: &NodeId| Some(model.node_info(*id)?.name()?.to_owned());
        let size = |size: &Dimension| match size {
            Dimension::Fixed(size) => Some(*size),
            Dimension::Symbolic(_) => None,
        };
        let input = |id: &NodeId| {
            let shape = model.node_info(*id).and_then(|info| info.shape());
            let shape = shape.map(|shape| shape.iter().map(size).collect());
            Some(Input { name: name(id)?, shape })
        };
        let inputs = model.input_ids().iter().filter_map(input).collect();
        let outputs = model.output_ids().iter().filter_map(name).collect();
        let pool = Arc::new(ThreadPool::with_num_threads(1));
        Ok(Self { model, inputs, outputs, pool })
    }
}

impl OnnxModel for Rten {
    fn inputs(&self) -> &[Input] {
        &self.inputs
    }

    fn outputs(&self) -> &[String] {
        &self.outputs
    }

    fn run(&self, inputs: Vec<(&str, Tensor)>, wanted: &[&str]) -> Result<Vec<Output>, String> {
        let said = |cause: &dyn std::fmt::Display| cause.to_string();
        let mut given = Vec::new();
        for (name, Tensor { shape, data }) in inputs {
            let value = match data {
                Data::Floats(data) => Value::from_shape(&shape, data).map_err(|e| said(&e))?,
                Data::Integers(data) => {
                    let narrow = |value: i64| i32::try_from(value).map_err(|e| said(&e));
                    let data: Vec<i32> = data.into_iter().map(narrow).collect::<Result<_, _>>()?;
                    Value::from_shape(&shape, data).map_err(|e| said(&e))?
                }
            };
            given.push((self.model.node_id(name).map_err(|e| said(&e))?, value.into()));
        }
        let ids: Vec<NodeId> = wanted
            .iter()
            .map(|name| self.model.node_id(name).map_err(|e| said(&e)))
            .collect::<Result<_, _>>()?;
        let options = RunOptions::default().with_thread_pool(Some(self.pool.clone()));
        let out = self.model.run(given, &ids, Some(options)).map_err(|e| said(&e))?;
        let read = |value: Value| match value {
            Value::FloatTensor(tensor) => {
                Ok(Output { shape: tensor.shape().to_vec(), data: tensor.into_data() })
            }
            Value::Int32Tensor(tensor) => {
                let shape = tensor.shape().to_vec();
                let data = tensor.into_data().into_iter().map(|value| value as f32).collect();
                Ok(Output { shape, data })
            }
            other => Err(format!("an output is {}, expected f32", other.dtype())),
        };
        out.into_iter().map(read).collect()
    }
}
