//! Runs the program in a folder of its own and reads what it wrote.

// Every test binary uses its own part of this.
#![allow(dead_code)]

pub mod training;

use anyid_ir::Tensor;
use anyid_runtime::init::{Preset, write_folder};
use anyid_runtime::weights::{read_tensors, write_tensors};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::atomic::{AtomicU32, Ordering};

/// Numbers of folders of this process.
static NEXT: AtomicU32 = AtomicU32::new(0);

/// A fresh folder, removed when dropped.
pub struct Folder(PathBuf);

impl Folder {
    /// Makes one.
    pub fn new() -> Self {
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("anyid-cli-{}-{number}", std::process::id()));
        let folder = Self(path);
        std::fs::create_dir_all(&folder.0).unwrap();
        std::fs::create_dir_all(folder.temporary()).unwrap();
        folder
    }

    /// The program's folder for temporary files.
    pub fn temporary(&self) -> PathBuf {
        self.0.with_extension("tmp")
    }

    /// The path of `name` inside.
    pub fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// Writes a file.
    pub fn write(&self, name: &str, bytes: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, bytes).unwrap();
        path
    }

    /// Names inside, hidden ones too, sorted.
    pub fn names(&self) -> Vec<String> {
        let entries = std::fs::read_dir(&self.0).unwrap();
        let mut names: Vec<String> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    /// Whether this build has no devices of that kind, such as `wgpu:N`.
    pub fn lacks(&self, kind: &str) -> bool {
        let devices = self.run("inspect devices --json").fine().json();
        let devices = devices["devices"].as_array().unwrap().iter();
        devices.filter(|device| device["name"] == kind).any(|device| device["code"] == "E0904")
    }

    /// Runs the program here. Words are split at spaces; `@name` is a file of the repository, and `@micro`
    /// the folder of [`micro`].
    pub fn run(&self, words: &str) -> Done {
        self.run_with(words, &[])
    }

    /// [`Folder::run`] with further arguments that may hold spaces.
    pub fn run_with(&self, words: &str, more: &[&str]) -> Done {
        let output = self.command(words, more).output().unwrap();
        Done::of(words, output)
    }

    /// The command of [`Folder::run_with`], not yet started.
    pub fn command(&self, words: &str, more: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_anyid-rt"));
        for word in words.split_whitespace() {
            match word.strip_prefix('@') {
                Some("micro") => command.arg(micro()),
                Some(name) => command.arg(repository().join(name)),
                None => command.arg(word),
            };
        }
        command.args(more).env_remove("RUST_BACKTRACE").env("TMPDIR", self.temporary());
        self.apart(&mut command);
        // Nobody's own defaults.
        command.env("XDG_CONFIG_HOME", self.temporary());
        command
    }

    /// Another program here, such as a shell that runs this one.
    pub fn other(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        self.apart(&mut command);
        command
    }

    /// Neither the policy nor the audit log of whoever runs the tests.
    fn apart(&self, command: &mut Command) {
        command.current_dir(&self.0);
        command.env_remove("ANYID_RT_POLICY").env("XDG_STATE_HOME", self.temporary());
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
        let _ = std::fs::remove_dir_all(self.temporary());
    }
}

/// What a run of the program gave.
pub struct Done {
    words: String,
    /// Exit code.
    pub code: i32,
    /// Standard output.
    pub out: String,
    /// Standard error.
    pub err: String,
}

impl Done {
    /// What a command gave that was started by hand.
    pub fn of(words: &str, output: Output) -> Self {
        Self {
            words: words.to_owned(),
            code: output.status.code().unwrap_or(-1),
            out: String::from_utf8(output.stdout).unwrap(),
            err: String::from_utf8(output.stderr).unwrap(),
        }
    }

    /// Asserts success.
    #[track_caller]
    pub fn fine(self) -> Self {
        assert_eq!(self.code, 0, "`{}`\n{}\n{}", self.words, self.out, self.err);
        // Neither a pipe nor a file gets control sequences.
        assert!(!self.out.contains('\x1b') && !self.err.contains(['\x1b', '\r']), "{}", self.err);
        self
    }

    /// Asserts failure with an error code and its exit code: 3 for memory, else 1.
    #[track_caller]
    pub fn fails(self, code: &str) -> Self {
        let exit = if matches!(code, "E0601" | "E0603") { 3 } else { 1 };
        assert_eq!(self.code, exit, "`{}`\n{}\n{}", self.words, self.out, self.err);
        assert!(self.err.contains(&format!("error[{code}]: ")), "`{}`\n{}", self.words, self.err);
        assert!(!self.err.contains("panicked"), "{}", self.err);
        self
    }

    /// Asserts that standard error has this text.
    #[track_caller]
    pub fn says(self, text: &str) -> Self {
        assert!(self.err.contains(text), "`{}` does not say {text:?}\n{}", self.words, self.err);
        self
    }

    /// Standard output as JSON.
    #[track_caller]
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.out).unwrap_or_else(|e| panic!("{e}: {}", self.out))
    }
}

/// The root of the repository.
pub fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

/// A model folder of tiny networks with random weights, those of `Model::micro`; tests share it.
pub fn micro() -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("micro");
    if !folder.exists() {
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let own = folder.with_file_name(format!("micro-{}-{number}", std::process::id()));
        write_folder(&own, Preset::Micro, 20_260_325, &mut |_, _| {}).unwrap();
        // Whoever comes first gives it its name.
        if std::fs::rename(&own, &folder).is_err() {
            std::fs::remove_dir_all(&own).unwrap();
        }
    }
    folder
}

/// A golden fixture's file.
pub fn fixture(name: &str) -> PathBuf {
    repository().join("tests/fixtures").join(name)
}

/// All tensors of a file.
pub fn tensors(path: &Path) -> BTreeMap<String, Tensor> {
    read_tensors(path).unwrap().into_iter().collect()
}

/// Writes tensors as a safetensors file.
pub fn save(path: &Path, list: &[(&str, &Tensor)]) {
    write_tensors(path, list.iter().copied(), &BTreeMap::new()).unwrap();
}

/// Positions `start..start + len` of an axis of an f32 or i32 tensor.
pub fn slice(tensor: &Tensor, axis: usize, start: usize, len: usize) -> Tensor {
    let shape = tensor.shape();
    let inner: usize = shape[axis + 1..].iter().product::<usize>() * tensor.dtype().bytes();
    let mut bytes = Vec::new();
    for outer in tensor.bytes().chunks_exact(shape[axis] * inner) {
        bytes.extend_from_slice(&outer[start * inner..(start + len) * inner]);
    }
    let mut ty = tensor.ty().clone();
    ty.shape[axis] = len;
    Tensor::from_bytes(ty, &bytes).unwrap()
}

/// Asserts that the largest difference is within `tolerance` of the largest expected value.
#[track_caller]
pub fn close(what: &str, found: &Tensor, expected: &Tensor, tolerance: f64) {
    assert_eq!(found.elements(), expected.elements(), "{what}");
    let (x, y) = (found.to_f64_vec(), expected.to_f64_vec());
    let scale = y.iter().fold(0f64, |m, v| m.max(v.abs()));
    let apart = x.iter().zip(&y).fold(0f64, |m, (x, y)| m.max((x - y).abs()));
    assert!(apart <= tolerance * scale, "{what}: {:e} of {tolerance:e}", apart / scale);
}
