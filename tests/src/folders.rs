//! Model folders on disk for tests: the micro sizes with random weights, in both published layouts.

use anyid_models::wan::config::{DitConfig, TextConfig, VaeConfig};
use anyid_models::wan::names;
use anyid_runtime::init::{Preset, safetensors_bytes, write_folder};
use serde_json::json;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

/// Tensor names and shapes.
pub type Tensors = Vec<(String, Vec<u64>)>;

/// A folder that vanishes with the value.
pub struct Folder(PathBuf);

impl Folder {
    /// An empty one.
    pub fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path =
            std::env::temp_dir().join(format!("anyid-test-folder-{}-{number}", std::process::id()));
        std::fs::create_dir_all(&path).expect("the temporary folder can be written");
        Self(path)
    }

    /// Its path.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Writes a file, making the folders on the way.
    pub fn write(&self, name: &str, bytes: impl AsRef<[u8]>) {
        let path = self.0.join(name);
        let parent = path.parent().expect("it is inside the folder");
        std::fs::create_dir_all(parent).expect("the temporary folder can be written");
        std::fs::write(&path, bytes).expect("the temporary folder can be written");
    }
}

impl Default for Folder {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // Left behind at worst.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// A diffusers folder with weights from `seed`.
pub fn diffusers(seed: u64) -> Folder {
    let folder = Folder::new();
    write_folder(folder.path(), Preset::Micro, seed, &mut |_, _| {})
        .unwrap_or_else(|e| panic!("{e}"));
    folder
}

/// A folder of the original layout with the same weights under their original names; `change` may
/// add or remove tensors of the transformer first.
pub fn original(seed: u64, change: impl FnOnce(&mut Tensors)) -> Folder {
    let folder = Folder::new();
    let (dit, vae, text) = (DitConfig::micro(), VaeConfig::micro(), TextConfig::micro());
    let config = json!({
        "_class_name": "WanModel",
        "dim": dit.width(),
        "eps": dit.eps,
        "ffn_dim": dit.ffn_dim,
        "freq_dim": dit.freq_dim,
        "in_dim": dit.in_channels,
        "model_type": "ti2v",
        "num_heads": dit.heads,
        "num_layers": dit.layers,
        "out_dim": dit.out_channels,
        "text_len": dit.text_len,
    });
    folder.write("config.json", config.to_string());
    let mut tensors = names::dit_tensors(&dit);
    change(&mut tensors);
    let file = "diffusion_pytorch_model.safetensors";
    folder.write(file, safetensors_bytes(&tensors, seed));
    let tensors = names::vae_tensors(&vae);
    folder.write("Wan2.2_VAE.safetensors", safetensors_bytes(&tensors, seed));
    let tensors = names::text_tensors(&text);
    let file = "models_t5_umt5-xxl-enc-bf16.safetensors";
    folder.write(file, safetensors_bytes(&tensors, seed));
    let tokenizer = anyid_runtime::text::micro_tokenizer_json();
    folder.write("google/umt5-xxl/tokenizer.json", tokenizer);
    folder
}
