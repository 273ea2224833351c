//! Golden cases on disk: `<root>/<kind>/<case>/` as `tests/fixtures/README.md` lays out.

use anyid_ir::Tensor;
use anyid_runtime::weights::read_tensors;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Named tensors of one file.
#[derive(Default)]
pub struct Tensors(BTreeMap<String, Tensor>);

impl Tensors {
    /// Reads `path`.
    pub fn open(path: &Path) -> Self {
        let tensors = read_tensors(path).unwrap_or_else(|e| panic!("{e}"));
        Self(tensors.into_iter().collect())
    }

    /// The tensor called `name`, if the file has it.
    pub fn find(&self, name: &str) -> Option<&Tensor> {
        self.0.get(name)
    }

    /// The tensor called `name`.
    pub fn get(&self, name: &str) -> &Tensor {
        self.find(name).unwrap_or_else(|| panic!("the fixture has no tensor {name}"))
    }

    /// All names.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
    }
}

/// Folders to search: `ANYID_FIXTURES` where it is set, else the repository's.
pub fn roots() -> Vec<PathBuf> {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR"));
    match std::env::var_os("ANYID_FIXTURES").map(PathBuf::from) {
        // Tests run in their package's folder; a relative path is meant from the repository's.
        Some(path) if path.is_relative() && !path.exists() => vec![tests.join("..").join(path)],
        Some(path) => vec![path],
        None => {
            let all = [tests.join("fixtures"), tests.join("fixtures_extra")];
            all.into_iter().filter(|p| p.is_dir()).collect()
        }
    }
}

/// Case folders of `kind` under every root, sorted.
pub fn cases(kind: &str) -> Vec<PathBuf> {
    let mut out = Vec::new();
    for root in roots() {
        let Ok(entries) = std::fs::read_dir(root.join(kind)) else { continue };
        let mut found: Vec<PathBuf> =
            entries.flatten().map(|e| e.path()).filter(|p| p.is_dir()).collect();
        found.sort();
        out.append(&mut found);
    }
    out
}

/// The JSON file at `path`.
pub fn json(path: &Path) -> serde_json::Value {
    let text = std::fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    serde_json::from_str(&text).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// Part `index` of a tensor with a leading batch axis.
pub fn sample(batch: &Tensor, index: usize) -> Tensor {
    let mut shape = batch.shape().to_vec();
    let count = shape.remove(0);
    let size = batch.bytes().len() / count;
    let ty = anyid_ir::TensorType::new(batch.dtype(), shape);
    Tensor::from_bytes(ty, &batch.bytes()[index * size..(index + 1) * size])
        .expect("a sample is a part of its batch")
}
