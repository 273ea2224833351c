//! The files of the built-in model: a trained model of the drawn world, in the layout of diffusers.
//!
//! They are in the program as they lie in `models/builtin`, whose README says how they were made.

/// A file below `models/builtin`.
macro_rules! file {
    ($name:literal) => {
        ($name, include_bytes!(concat!("../builtin/", $name)))
    };
}

/// Names and contents. The last one makes a folder with all of them a model.
pub static FILES: [(&str, &[u8]); 9] = [
    file!("transformer/config.json"),
    file!("transformer/diffusion_pytorch_model.safetensors"),
    file!("vae/config.json"),
    file!("vae/diffusion_pytorch_model.safetensors"),
    file!("text_encoder/config.json"),
    file!("text_encoder/model.safetensors"),
    file!("tokenizer/tokenizer.json"),
    file!("scheduler/scheduler_config.json"),
    file!("model_index.json"),
];

/// The contents of a file of [`FILES`].
///
/// # Panics
/// If there is none of this name.
pub fn file(name: &str) -> &'static [u8] {
    let found = FILES.iter().find(|(own, _)| *own == name);
    found.unwrap_or_else(|| panic!("the built-in model has no {name}")).1
}
