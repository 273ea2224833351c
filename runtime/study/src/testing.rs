//! Support of tests: folders that vanish after a test; tiny networks, the picture that they look at, and
//! what is right for it (`tests/reference/detectors.py`).

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

/// A fresh folder, removed when dropped.
pub(crate) struct TempFolder(PathBuf);

impl TempFolder {
    pub(crate) fn new(name: &str) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("anyid-study-{name}-{}-{number}", std::process::id());
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    pub(crate) fn write(&self, name: &str, bytes: impl AsRef<[u8]>) -> PathBuf {
        let path = self.0.join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, bytes).unwrap();
        path
    }
}

impl Drop for TempFolder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// The file of a tiny network, or another one of that folder.
#[cfg(feature = "curate")]
pub(crate) fn network(name: &str) -> PathBuf {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/models");
    folder.join(if name.contains('.') { name.to_owned() } else { format!("{name}.onnx") })
}

/// What is right for a tiny network.
#[cfg(feature = "curate")]
pub(crate) fn expected(name: &str) -> serde_json::Value {
    let all = std::fs::read(network("expected.json")).unwrap();
    serde_json::from_slice::<serde_json::Value>(&all).unwrap()[name].clone()
}

/// Red grows to the right, green downward, blue falls downward.
#[cfg(feature = "curate")]
pub(crate) fn picture() -> anyid_files::media::RgbFrame {
    let (width, height) = (320, 240);
    let pixel = |at: usize| {
        let (x, y) = (at % width, (at / width) as u8);
        [x.min(255) as u8, y, 255 - y]
    };
    let data = (0..width * height).flat_map(pixel).collect();
    anyid_files::media::RgbFrame { width, height, data }
}

/// Asserts that numbers are those of a value, in their order, within `by`.
#[cfg(feature = "curate")]
#[track_caller]
pub(crate) fn near<'n>(
    found: impl IntoIterator<Item = &'n f64>,
    wanted: &serde_json::Value,
    by: f64,
) {
    fn flat(value: &serde_json::Value, all: &mut Vec<f64>) {
        match value.as_array() {
            Some(list) => list.iter().for_each(|value| flat(value, all)),
            None => all.push(value.as_f64().unwrap()),
        }
    }
    let mut all = Vec::new();
    flat(wanted, &mut all);
    let found: Vec<f64> = found.into_iter().copied().collect();
    assert_eq!(found.len(), all.len(), "{found:?} {all:?}");
    for (own, wanted) in found.iter().zip(&all) {
        assert!((own - wanted).abs() <= by, "{own} {wanted}: {found:?} {all:?}");
    }
}
