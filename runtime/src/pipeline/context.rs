//! Prompts to text contexts.

use super::{Event, Request, Run};
use crate::engine::{Compiler, Inputs};
use crate::error::{Error, Result};
use crate::model::Model;
use crate::text::clean;
use anyid_ir::Tensor;
use anyid_models::wan::{Precision, text};

/// Conditional and null context, each `f32[text_tokens, text_dim]` with zero rows at the end.
pub(crate) fn run(
    run: &mut Run<'_>,
    request: &Request,
    precision: Precision,
) -> Result<[Tensor; 2]> {
    let rows = request.text_tokens.unwrap_or(run.model.dit.text_len);
    if let Some(contexts) = &request.contexts {
        return Ok(contexts.clone());
    }
    let cleaned = clean(&request.prompt);
    let encoded = run.model.tokenizer.encode(&cleaned, rows)?;
    if let Some(cut) = encoded.truncation(&cleaned) {
        (run.events)(Event::Warning(format!("[E0739] {cut}")));
    }
    let empty = run.model.tokenizer.encode("", rows)?;
    let ids = [encoded.ids, empty.ids];
    let [prompt, null] = encode(run, &ids, rows, precision)?;
    Ok([prompt, null])
}

/// Encodes token ids of several prompts; each result is `f32[rows, d_model]`.
///
/// # Errors
/// As [`crate::engine::Program::call`].
pub fn encode_prompts(
    model: &Model,
    backend: &crate::engine::Backend,
    ids: &[Vec<u32>],
    rows: usize,
    precision: Precision,
) -> Result<Vec<Tensor>> {
    Run::quiet(model, backend, |run| {
        ids.iter()
            .map(|ids| {
                let [context] = encode(run, std::array::from_ref(ids), rows, precision)?;
                Ok(context)
            })
            .collect()
    })
}

fn encode<const N: usize>(
    run: &mut Run<'_>,
    ids: &[Vec<u32>; N],
    rows: usize,
    precision: Precision,
) -> Result<[Tensor; N]> {
    let since = run.begin("text");
    let config = &run.model.text;
    let mut compiler = Compiler::new(run.backend);
    for (i, ids) in ids.iter().enumerate() {
        let module = text::text(config, ids.len(), precision);
        compiler = compiler.phase(&format!("text{i}"), &module, "text")?;
    }
    let weights = run.model.text_weights.clone();
    let mut program = run.load(compiler, &weights)?;
    let mut out = Vec::new();
    for (i, ids) in ids.iter().enumerate() {
        let values: Vec<i32> = ids.iter().map(|id| *id as i32).collect();
        let tensor = tensor_i32([ids.len()], &values)?;
        let outputs = program.call(&format!("text{i}"), &Inputs::new().set("ids", &tensor))?;
        let hidden = outputs.get("last_hidden_state")?;
        let mut padded =
            Tensor::zeros(anyid_ir::TensorType::new(anyid_ir::DType::F32, [rows, config.d_model]));
        let bytes = hidden.bytes();
        padded.bytes_mut()[..bytes.len()].copy_from_slice(bytes);
        out.push(padded);
    }
    run.end("text", since, program.weight_bytes(), program.memory_bytes());
    Ok(out.try_into().expect("one context a prompt"))
}

pub(crate) fn tensor_i32(shape: impl IntoIterator<Item = usize>, values: &[i32]) -> Result<Tensor> {
    Tensor::from_i32(shape, values).map_err(|e| Error::internal("E1009", e.to_string()))
}

pub(crate) fn tensor_f32(shape: impl IntoIterator<Item = usize>, values: &[f32]) -> Result<Tensor> {
    Tensor::from_f32(shape, values).map_err(|e| Error::internal("E1009", e.to_string()))
}
