//! Turns prompts into text contexts.

use super::plan::Stage;
use super::{Cancel, Event, Request, Run};
use crate::engine::{Backend, Compiler, Inputs, interrupted_in};
use crate::error::{Error, Result};
use crate::model::Model;
use crate::text::clean;
use anyid_ir::Tensor;
use anyid_models::wan::{Precision, text};

/// Most words of a warning.
const MOST_WORDS: usize = 5;

/// Token ids of the prompt, and of the empty one or what stands for it.
pub(super) fn tokenise(
    model: &Model,
    request: &Request,
    events: &mut dyn FnMut(Event),
) -> Result<[Vec<u32>; 2]> {
    let rows = request.text_tokens.unwrap_or(model.dit.text_len);
    let mut encode = |prompt: &str, what: &str| {
        let cleaned = clean(prompt);
        let encoded = model.tokenizer.encode(&cleaned, rows)?;
        if let Some(cut) = encoded.truncation(&cleaned) {
            events(Event::Warning(format!("[E0739] {cut}")));
        }
        let unknown = model.tokenizer.unknown_words(&cleaned)?;
        if !unknown.is_empty() {
            let words: Vec<String> =
                unknown.iter().take(MOST_WORDS).map(|w| format!("\"{w}\"")).collect();
            let more = if unknown.len() > MOST_WORDS { " and others" } else { "" };
            let words = words.join(", ");
            events(Event::Warning(format!("the model has no word for {words}{more} of {what}")));
        }
        Ok::<_, Error>(encoded.ids)
    };
    let ids = encode(&request.prompt, "the prompt")?;
    let null = match &request.negative_prompt {
        Some(negative) => encode(negative, "the negative prompt")?,
        None => model.tokenizer.encode("", rows)?.ids,
    };
    Ok([ids, null])
}

/// The text encoder with one phase for each distinct one of these numbers of tokens.
pub(super) fn compile(
    mut compiler: Compiler,
    model: &Model,
    tokens: &[usize],
    precision: Precision,
) -> Result<Compiler> {
    let all = tokens;
    for (i, tokens) in all.iter().enumerate() {
        if all[..i].contains(tokens) {
            continue;
        }
        let module = text::text(&model.text, *tokens, precision);
        compiler = compiler.phase(&phase(*tokens), &module, "text")?;
    }
    Ok(compiler)
}

/// The phase for a number of tokens.
pub(super) fn phase(tokens: usize) -> String {
    format!("text{tokens}")
}

/// Conditional and null context, each `f32[rows, text_dim]` with zero rows at the end.
pub(super) fn run(
    run: &mut Run<'_>,
    stage: Stage,
    ids: &[Vec<u32>; 2],
    rows: usize,
) -> Result<[Tensor; 2]> {
    let place = |at: usize| ["the prompt", "the empty or negative prompt"][at].to_owned();
    let mut contexts = Vec::new();
    encode(run, stage, (ids, rows), &place, &mut |context| {
        contexts.push(context);
        Ok(())
    })?;
    Ok(contexts.try_into().expect("one context a prompt"))
}

/// Encodes token ids of several prompts; each result is `f32[rows, d_model]`.
///
/// # Errors
/// As [`crate::engine::Program::call`].
pub fn encode_prompts(
    model: &Model,
    backend: &Backend,
    ids: &[Vec<u32>],
    rows: usize,
    precision: Precision,
) -> Result<Vec<Tensor>> {
    let mut contexts = Vec::new();
    encode_each((model, backend, &Cancel::new()), (ids, rows), precision, &mut |context| {
        contexts.push(context);
        Ok(())
    })?;
    Ok(contexts)
}

/// As [`encode_prompts`], until `cancel` says to stop; `take` gets each result as soon as it is there.
///
/// # Errors
/// Those of `take`, and as [`crate::engine::Program::call`].
pub(crate) fn encode_each(
    (model, backend, cancel): (&Model, &Backend, &Cancel),
    (ids, rows): (&[Vec<u32>], usize),
    precision: Precision,
    take: Take<'_>,
) -> Result<()> {
    Run::quiet(model, cancel, &mut |_| Ok(()), |run| {
        let tokens: Vec<usize> = ids.iter().map(Vec::len).collect();
        let compiler = Compiler::new(backend).stopped_by(cancel.flag());
        let compiler = compile(compiler, model, &tokens, precision)?;
        let place = |at: usize| format!("prompt {}", at + 1);
        encode(run, Stage::alone("text", compiler), (ids, rows), &place, take)
    })
}

/// What is done with a context.
type Take<'t> = &'t mut dyn FnMut(Tensor) -> Result<()>;

fn encode(
    run: &mut Run<'_>,
    stage: Stage,
    (ids, rows): (&[Vec<u32>], usize),
    place: &dyn Fn(usize) -> String,
    take: Take<'_>,
) -> Result<()> {
    let since = run.begin("text");
    let width = run.model.text.d_model;
    let weights = run.model.text_weights.clone();
    let mut program = stage.load(run, &weights)?;
    for (i, ids) in ids.iter().enumerate() {
        let values: Vec<i32> = ids.iter().map(|id| *id as i32).collect();
        let tensor = tensor_i32([ids.len()], &values)?;
        let (phase, inputs) = (phase(ids.len()), Inputs::new().set("ids", &tensor));
        let outputs = program.call(&phase, &inputs);
        let doing = || "while encoding the prompt".to_owned();
        let outputs = outputs.map_err(|error| interrupted_in(error, doing))?;
        if !program.gave_finite(&outputs) {
            let origin = program.origin(&phase, &inputs, None, None)?.unwrap_or_default();
            return Err(origin.error(&format!("the text encoder, {}", place(i))));
        }
        let hidden = outputs.get("last_hidden_state")?;
        let mut padded =
            Tensor::zeros(anyid_ir::TensorType::new(anyid_ir::DType::F32, [rows, width]));
        let bytes = hidden.bytes();
        padded.bytes_mut()[..bytes.len()].copy_from_slice(bytes);
        take(padded)?;
    }
    run.end("text", since, program.weight_bytes(), program.memory_bytes());
    Ok(())
}

pub(crate) fn tensor_i32(shape: impl IntoIterator<Item = usize>, values: &[i32]) -> Result<Tensor> {
    Tensor::from_i32(shape, values).map_err(|e| Error::internal("E1009", e.to_string()))
}

pub(crate) fn tensor_f32(shape: impl IntoIterator<Item = usize>, values: &[f32]) -> Result<Tensor> {
    Tensor::from_f32(shape, values).map_err(|e| Error::internal("E1009", e.to_string()))
}
