//! What a policy says of signed statements of origin: whether results carry one, who signs it, and
//! what it tells.
//!
//! Statements themselves are made in `anyid-provenance`; here are only the settings, so that policies
//! mean the same in programs that cannot sign.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::path::{Path, PathBuf};

/// Whether results carry a statement; later ones are stricter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Sign {
    /// No.
    Off,
    /// If the program can sign and the form of the result has a place for it.
    Auto,
    /// Always.
    Require,
}

impl fmt::Display for Sign {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Off => "off",
            Self::Auto => "auto",
            Self::Require => "require",
        })
    }
}

/// Who signs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Signer {
    /// A key that is drawn for each file and forgotten: it shows changes, and nobody's name.
    #[default]
    Ephemeral,
    /// The key of this installation, which `provenance init` makes.
    Local,
    /// A chain of certificates, that of the key first, and the key, both in PEM.
    Pem {
        /// The chain.
        certificates: PathBuf,
        /// The key (PKCS #8).
        key: PathBuf,
    },
    /// A program that signs, such as one that asks a hardware key: its name and arguments.
    Command(Vec<String>),
}

impl Signer {
    /// The kind in one word.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Ephemeral => "ephemeral",
            Self::Local => "local",
            Self::Pem { .. } => "pem",
            Self::Command(_) => "command",
        }
    }
}

/// In words, such as a flag has them.
impl fmt::Display for Signer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ephemeral | Self::Local => f.write_str(self.name()),
            Self::Pem { certificates, key } => {
                write!(f, "pem:{},{}", certificates.display(), key.display())
            }
            Self::Command(words) => write!(f, "command:{}", words.join(" ")),
        }
    }
}

impl std::str::FromStr for Signer {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (kind, rest) = text.split_once(':').unwrap_or((text, ""));
        match (kind, rest.split_once(',')) {
            ("ephemeral", _) if rest.is_empty() => Ok(Self::Ephemeral),
            ("local", _) if rest.is_empty() => Ok(Self::Local),
            ("pem", Some((chain, key))) if !chain.is_empty() && !key.is_empty() => {
                Ok(Self::Pem { certificates: chain.into(), key: key.into() })
            }
            ("command", _) if !rest.trim().is_empty() => {
                Ok(Self::Command(rest.split_whitespace().map(str::to_owned).collect()))
            }
            _ => Err("give ephemeral, local, pem:CHAIN.pem,KEY.pem or command:PROGRAM".to_owned()),
        }
    }
}

/// How a statement tells the prompt.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Prompt {
    /// By its SHA-256.
    #[default]
    Sha256,
    /// As text.
    Text,
}

impl fmt::Display for Prompt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Sha256 => "sha256",
            Self::Text => "text",
        })
    }
}

/// The settings in force.
#[derive(Clone, Debug, PartialEq)]
pub struct Provenance {
    /// Whether results carry a statement.
    pub sign: Sign,
    /// Who signs.
    pub signer: Signer,
    /// How the prompt is told.
    pub prompt: Prompt,
    /// The file of a key with which hashes of references are salted, so that nobody without it can tell
    /// by a statement that a picture was used.
    pub salt: Option<PathBuf>,
    /// Seconds that a program may take to sign.
    pub patience: u64,
    /// Certificates (PEM) of authorities and signers that `verify` trusts; nobody is asked for if
    /// there is none.
    pub trust: Vec<PathBuf>,
}

impl Default for Provenance {
    fn default() -> Self {
        let (signer, prompt) = (Signer::default(), Prompt::default());
        Self { sign: Sign::Auto, signer, prompt, salt: None, patience: 60, trust: Vec::new() }
    }
}

/// The kinds of [`Signer`] in a policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SignerKind {
    /// [`Signer::Ephemeral`].
    Ephemeral,
    /// [`Signer::Local`].
    Local,
    /// [`Signer::Pem`].
    Pem,
    /// [`Signer::Command`].
    Command,
}

/// `[provenance]` of a policy.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ProvenanceLayer {
    /// [`Provenance::sign`].
    pub sign: Option<Sign>,
    /// [`Provenance::signer`].
    pub signer: Option<SignerKind>,
    /// The chain of `signer = "pem"`.
    pub certificates: Option<PathBuf>,
    /// The key of `signer = "pem"`.
    pub key: Option<PathBuf>,
    /// The program of `signer = "command"`.
    pub command: Option<Vec<String>>,
    /// [`Provenance::prompt`].
    pub prompt: Option<Prompt>,
    /// [`Provenance::salt`].
    pub salt: Option<PathBuf>,
    /// [`Provenance::patience`].
    pub patience: Option<u64>,
    /// [`Provenance::trust`].
    pub trust: Option<Vec<PathBuf>>,
}

impl ProvenanceLayer {
    /// Has another signer.
    pub fn set_signer(&mut self, signer: &Signer) {
        (self.certificates, self.key, self.command) = (None, None, None);
        self.signer = Some(match signer {
            Signer::Ephemeral => SignerKind::Ephemeral,
            Signer::Local => SignerKind::Local,
            Signer::Pem { certificates, key } => {
                self.certificates = Some(certificates.clone());
                self.key = Some(key.clone());
                SignerKind::Pem
            }
            Signer::Command(words) => {
                self.command = Some(words.clone());
                SignerKind::Command
            }
        });
    }

    /// The signer, if the layer names one that is whole.
    pub fn chosen(&self) -> Option<Signer> {
        Some(match self.signer? {
            SignerKind::Ephemeral => Signer::Ephemeral,
            SignerKind::Local => Signer::Local,
            SignerKind::Pem => {
                Signer::Pem { certificates: self.certificates.clone()?, key: self.key.clone()? }
            }
            SignerKind::Command => {
                Signer::Command(self.command.clone().filter(|words| !words.is_empty())?)
            }
        })
    }

    /// Has relative paths start at `folder`.
    pub fn start_at(&mut self, folder: &Path) {
        let files = [&mut self.certificates, &mut self.key, &mut self.salt];
        let files = files.into_iter().flatten().chain(self.trust.iter_mut().flatten());
        files.for_each(|path| *path = folder.join(&*path));
    }

    /// What in it cannot be meant.
    pub fn contradiction(&self) -> Option<&'static str> {
        let pem = self.certificates.is_some() || self.key.is_some();
        let is = |kind| self.signer == Some(kind);
        if (pem && !is(SignerKind::Pem)) || (self.command.is_some() && !is(SignerKind::Command)) {
            Some(
                "[provenance] certificates and key go with signer = \"pem\", command with \"command\"",
            )
        } else if self.signer.is_some() && self.chosen().is_none() {
            Some("[provenance] signer \"pem\" needs certificates and key, \"command\" a command")
        } else if self.sign == Some(Sign::Off) && self.signer.is_some() {
            Some("[provenance] has a signer, and sign is \"off\"")
        } else {
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signers_are_read_as_they_are_written() {
        for text in ["ephemeral", "local", "pem:a.pem,b.pem", "command:sign --slot 9c"] {
            let signer: Signer = text.parse().unwrap();
            assert_eq!(signer.to_string(), text);
            let mut layer = ProvenanceLayer::default();
            layer.set_signer(&signer);
            assert_eq!((layer.chosen(), layer.contradiction()), (Some(signer), None));
        }
        for text in ["", "loca", "local:x", "pem", "pem:a", "pem:,b", "command:", "command: "] {
            assert!(text.parse::<Signer>().is_err(), "{text}");
        }
    }
}
