//! What PyTorch needs for the same work, in the same call, where `python3` has it.

use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::io::Read;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// The program.
const SCRIPT: &str = include_str!("torch.py");

/// What PyTorch said.
pub struct Torch {
    /// Its version, or why there are no figures.
    pub about: String,
    seconds: BTreeMap<String, f64>,
}

/// Work that is measured: its name, its kind and its sizes.
pub struct Work {
    pub name: String,
    pub kind: &'static str,
    pub sizes: Vec<usize>,
}

impl Torch {
    /// No figures, and why.
    pub fn without(why: &str) -> Self {
        Self { about: why.to_owned(), seconds: BTreeMap::new() }
    }

    /// Measures `work`, for as long as `most`.
    pub fn measure(work: &[Work], most: Duration) -> Self {
        let cases: Vec<Value> = work
            .iter()
            .map(|Work { name, kind, sizes }| json!({ "name": name, "kind": kind, "sizes": sizes }))
            .collect();
        let mut command = Command::new("python3");
        command.args(["-c", SCRIPT]).arg(Value::from(cases).to_string());
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
        let Ok(mut child) = command.spawn() else {
            return Self::without("there is no python3");
        };
        let mut output = child.stdout.take();
        let reader = std::thread::spawn(move || {
            let mut text = String::new();
            if let Some(pipe) = &mut output {
                // What was read before a fault counts.
                let _ = pipe.read_to_string(&mut text);
            }
            text
        });
        let begun = Instant::now();
        while !matches!(child.try_wait(), Ok(Some(_)) | Err(_)) {
            if begun.elapsed() > most {
                let _ = child.kill();
                let _ = child.wait();
                break;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        Self::read(&reader.join().unwrap_or_default())
    }

    /// What the program has printed.
    fn read(text: &str) -> Self {
        let mut out = Self::without("PyTorch said nothing");
        for line in text.lines() {
            let Ok(value) = serde_json::from_str::<Value>(line) else { continue };
            let word = |key: &str| value[key].as_str().map(str::to_owned);
            match (word("name"), value["seconds"].as_f64(), word("version"), word("error")) {
                (Some(name), Some(seconds), _, _) => {
                    out.seconds.insert(name, seconds);
                }
                (None, _, Some(version), _) => out.about = format!("PyTorch {version}"),
                (None, _, None, Some(error)) => out.about = format!("no PyTorch: {error}"),
                _ => {}
            }
        }
        out
    }

    /// Seconds that it needs for work of this name.
    pub fn seconds(&self, name: &str) -> Option<f64> {
        self.seconds.get(name).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_program_prints_is_read_line_by_line() {
        let text = "{\"version\": \"2.11.0\", \"cuda\": \"13.0\"}\nnoise\n{\"name\": \"a\", \"seconds\": 0.5}\n{\"name\": \"b\", \"error\": \"no memory\"}\n";
        let torch = Torch::read(text);
        assert_eq!(
            (torch.about.as_str(), torch.seconds("a"), torch.seconds("b")),
            ("PyTorch 2.11.0", Some(0.5), None)
        );
        let none = Torch::read("{\"error\": \"PyTorch sees no GPU\"}\n");
        assert_eq!(none.about, "no PyTorch: PyTorch sees no GPU");
        assert_eq!(Torch::read("").about, "PyTorch said nothing");
    }
}
