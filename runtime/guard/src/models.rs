//! What a policy says of models of the user's beyond those that look at frames: a language model
//! that looks at texts, and the two that compare faces with enrolled ones.
//!
//! Here are only the settings, so that policies mean the same in programs that run none. What a
//! server or a network is, is read where it is used.

use anyid_files::error::{Error, Result, unreadable};
use anyid_files::input;
use serde::Deserialize;
use serde_json::{Map, Value};
use std::fmt;
use std::path::{Path, PathBuf};

const LARGEST: u64 = 1 << 20;

/// What happens if the language model gives no answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnError {
    /// The rules alone decide.
    #[default]
    Rules,
    /// Nothing is made.
    Closed,
}

impl OnError {
    /// In one word.
    pub fn name(self) -> &'static str {
        match self {
            Self::Rules => "rules",
            Self::Closed => "closed",
        }
    }
}

/// A language model that looks at texts, behind the rules.
#[derive(Clone, PartialEq, Deserialize)]
#[serde(try_from = "Map<String, Value>")]
pub struct Llm {
    /// What happens without an answer.
    pub on_error: OnError,
    /// The server, with the keys that `[llm.NAME]` has in settings of data.
    pub server: Map<String, Value>,
}

/// What names it, and nothing that may be secret.
impl fmt::Debug for Llm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name())
    }
}

impl TryFrom<Map<String, Value>> for Llm {
    type Error = String;

    fn try_from(mut server: Map<String, Value>) -> std::result::Result<Self, String> {
        let on_error = match server.remove("on_error") {
            None => OnError::default(),
            Some(value) => serde_json::from_value(value)
                .map_err(|_| "on_error is \"rules\" or \"closed\"".to_owned())?,
        };
        let text = |key: &str| server.get(key).is_some_and(Value::is_string);
        match text("model") && (text("kind") || text("base_url")) {
            true => Ok(Self { on_error, server }),
            false => Err("a server needs model, and kind or base_url".to_owned()),
        }
    }
}

impl Llm {
    /// Reads what `--moderation-llm` names: a file with the keys of `[moderation.llm]`.
    ///
    /// # Errors
    /// E0911 it cannot be read, E1102 it describes no server.
    pub fn read(path: &Path) -> Result<Self> {
        let bad = |what: String| {
            let advice = "docs/safety.md says how a server that looks at texts is described";
            Error::input("E1102", what).at(path.display()).help(advice)
        };
        let large = |limit| bad(format!("it has more than {limit} bytes"));
        let bytes = input::read(path, LARGEST)
            .map_err(|refusal| refusal.coded(path, |fault| unreadable(path, fault), large))?;
        let text = std::str::from_utf8(&bytes).map_err(|_| bad("this is no text".to_owned()))?;
        let mut own: Self = toml::from_str(text).map_err(|fault| {
            bad(format!("this describes no server: {}", fault.to_string().trim_end()))
        })?;
        own.start_at(path.parent().unwrap_or(Path::new("")));
        Ok(own)
    }

    /// Has a relative path of a key file start at `folder`.
    pub fn start_at(&mut self, folder: &Path) {
        start_at(&mut self.server, "api_key_file", folder);
    }

    /// The model and where it is.
    pub fn name(&self) -> String {
        let text = |key: &str| self.server.get(key).and_then(Value::as_str).unwrap_or_default();
        let place = if text("base_url").is_empty() { text("kind") } else { text("base_url") };
        format!("{} at {place} (without an answer: {})", text("model"), self.on_error.name())
    }
}

/// The models that compare faces, and where enrolled pictures lie.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Faces {
    /// The detector, with the keys of `[detect.face]` in settings of data.
    pub face: Map<String, Value>,
    /// The network that tells faces apart, with those of `[detect.identity]`.
    pub identity: Map<String, Value>,
    /// Folders of enrolled pictures, which are found by their SHA-256.
    pub pictures: Vec<PathBuf>,
}

impl Faces {
    /// Has relative paths start at `folder`.
    pub fn start_at(&mut self, folder: &Path) {
        start_at(&mut self.face, "path", folder);
        start_at(&mut self.identity, "path", folder);
        self.pictures.iter_mut().for_each(|path| *path = folder.join(&*path));
    }
}

fn start_at(members: &mut Map<String, Value>, key: &str, folder: &Path) {
    if let Some(Value::String(path)) = members.get_mut(key) {
        *path = folder.join(&*path).to_string_lossy().into_owned();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_are_read_and_faults_are_said() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("server.toml");
        let read = |text: &str| {
            std::fs::write(&path, text).unwrap();
            Llm::read(&path)
        };
        let own = read("kind = \"vllm\"\nmodel = \"m\"\napi_key_file = \"key\"\n").unwrap();
        assert_eq!(own.on_error, OnError::Rules);
        let key = folder.path().join("key");
        assert_eq!(own.server["api_key_file"], key.to_str().unwrap());
        assert_eq!(own.name(), "m at vllm (without an answer: rules)");
        let own = read("base_url = \"http://a\"\nmodel = \"m\"\non_error = \"closed\"").unwrap();
        assert_eq!((own.on_error, own.server.contains_key("on_error")), (OnError::Closed, false));
        assert!(format!("{own:?}").starts_with("m at http://a"));
        for (text, what) in [
            ("kind = \"vllm\"", "needs model"),
            ("model = 3\nkind = \"vllm\"", "needs model"),
            ("model = \"m\"", "needs model"),
            ("model = \"m\"\non_error = \"open\"", "\"rules\" or \"closed\""),
            ("= =", "describes no server"),
        ] {
            let error = read(text).unwrap_err();
            assert!(error.code() == "E1102" && error.to_string().contains(what), "{text}: {error}");
        }
        assert_eq!(Llm::read(&folder.path().join("none")).unwrap_err().code(), "E0911");
    }
}
