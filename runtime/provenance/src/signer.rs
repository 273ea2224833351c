//! Who signs: a key of PEM files, or a program that has the key.
//!
//! A program is asked as c2patool asks: with `--signer-info` it prints JSON with `alg`, `sign_cert` (the
//! chain in PEM) and `reserve_size`; else it gets the bytes on its standard input and answers with the
//! signature alone. One that fails, says nothing useful or does not end in time signs nothing.

use anyid_files::error::{Error, Kind, Result, plural, unreadable};
use anyid_files::input;
use anyid_files::output::talk;
use anyid_guard::signature::check_private;
use base64::prelude::{BASE64_STANDARD, Engine as _};
use c2pa::{BoxedSigner, Signer, SigningAlg, create_signer};
use serde_json::Value;
use std::path::Path;
use std::process::Command;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// Most bytes of a file of keys or certificates, and of an answer.
const LARGEST: u64 = 1 << 20;

/// The text of a PEM file.
pub fn read_pem(path: &Path, label: &str) -> Result<String> {
    let bad = |what: String| Error::input("E1107", what).at(path.display());
    if !path.exists() {
        return Err(bad("there is no such file".to_owned()).help("see docs/safety.md"));
    }
    let bytes = input::read(path, LARGEST).map_err(|refusal| {
        refusal.coded(path, |fault| unreadable(path, fault), |_| bad("it is too large".to_owned()))
    })?;
    let text = String::from_utf8_lossy(&bytes).into_owned();
    match text.contains(&format!("-----BEGIN {label}-----")) {
        true => Ok(text),
        false => Err(bad(format!("there is no \"BEGIN {label}\" in it")).help("write it as PEM")),
    }
}

/// The bytes of the first part of this label.
fn decoded(text: &str, label: &str) -> Option<Vec<u8>> {
    let (_, rest) = text.split_once(&format!("-----BEGIN {label}-----"))?;
    let (body, _) = rest.split_once("-----END")?;
    let body: String = body.split_whitespace().collect();
    BASE64_STANDARD.decode(body).ok()
}

/// The algorithm of a key (PKCS #8), by the identifiers in it; RSA signs with SHA-256.
fn algorithm(key: &[u8]) -> Option<SigningAlg> {
    const KINDS: [(&[u8], SigningAlg); 5] = [
        (&[0x06, 0x03, 0x2b, 0x65, 0x70], SigningAlg::Ed25519),
        (&[0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07], SigningAlg::Es256),
        (&[0x06, 0x05, 0x2b, 0x81, 0x04, 0x00, 0x22], SigningAlg::Es384),
        (&[0x06, 0x05, 0x2b, 0x81, 0x04, 0x00, 0x23], SigningAlg::Es512),
        (&[0x06, 0x09, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x01], SigningAlg::Ps256),
    ];
    // They stand in the first bytes: version, then the algorithm.
    let head = &key[..key.len().min(40)];
    let holds = |part: &[u8]| head.windows(part.len()).any(|window| window == part);
    KINDS.iter().find(|(part, _)| holds(part)).map(|(_, alg)| *alg)
}

/// A key with its certificates, both as PEM.
///
/// # Errors
/// E1107 they cannot be used; `place` is where they are from.
pub fn of_keys(certificates: &str, key: &str, place: &str) -> Result<BoxedSigner> {
    let bad = |what: String| Error::input("E1107", what).at(place.to_owned());
    let alg = decoded(key, "PRIVATE KEY")
        .and_then(|key| algorithm(&key))
        .ok_or_else(|| bad("this is no key of Ed25519, ECDSA or RSA in PKCS #8".to_owned()))?;
    create_signer::from_keys(certificates.as_bytes(), key.as_bytes(), alg, None)
        .map_err(|fault| bad(format!("key and certificates cannot be used: {fault}")))
}

/// A key with its certificates, from files.
///
/// # Errors
/// E1107 they are missing, may be read by others, or cannot be used.
pub fn of_files(certificates: &Path, key: &Path) -> Result<BoxedSigner> {
    let chain = read_pem(certificates, "CERTIFICATE")?;
    let secret = read_pem(key, "PRIVATE KEY")?;
    check_private(key)?;
    of_keys(&chain, &secret, &key.display().to_string())
}

/// A program that signs.
#[derive(Clone)]
pub struct Program {
    words: Vec<String>,
    patience: Duration,
    alg: SigningAlg,
    certificates: Vec<Vec<u8>>,
    reserve: usize,
    /// Why it did not sign, as the crate that calls it has no place for our errors.
    fault: Arc<Mutex<Option<Error>>>,
}

fn failed(words: &[String], what: impl Into<String>) -> Error {
    Error::input("E1111", what).at(words.join(" ")).help(
        "check the program that signs; without one: `--signer ephemeral`, or `--no-provenance`",
    )
}

fn ask(words: &[String], more: &[&str], bytes: &[u8], patience: Duration) -> Result<Vec<u8>> {
    let mut command = Command::new(&words[0]);
    command.args(&words[1..]).args(more);
    let said =
        talk(&mut command, bytes, LARGEST, patience).map_err(|fault| match fault.kind() {
            std::io::ErrorKind::TimedOut => {
                let time = plural(patience.as_secs() as usize, "second");
                failed(words, format!("the program that signs did not end within {time}"))
            }
            std::io::ErrorKind::Interrupted => {
                Error::new(Kind::Interrupted, "E1013", "the run was told to end")
            }
            _ => failed(words, "the program that signs cannot be run").caused_by(fault),
        })?;
    if !said.status.success() {
        let text = String::from_utf8_lossy(&said.stderr);
        let last = text.lines().rfind(|line| !line.trim().is_empty()).unwrap_or("nothing");
        let last: String = last.chars().filter(|c| !c.is_control()).take(200).collect();
        let what = format!("the program that signs failed ({}), and said: {last}", said.status);
        return Err(failed(words, what));
    }
    Ok(said.stdout)
}

impl Program {
    /// Asks a program what it signs with.
    ///
    /// # Errors
    /// E1111 it does not say.
    pub fn open(words: &[String], patience: Duration) -> Result<Self> {
        let answer = ask(words, &["--signer-info"], &[], patience)?;
        let info: Value = serde_json::from_slice(&answer)
            .map_err(|_| failed(words, "what it answers to --signer-info is no JSON"))?;
        let alg = info["alg"].as_str().unwrap_or_default();
        let alg = alg.to_ascii_lowercase().parse().map_err(|_| {
            failed(words, format!("it signs with {alg:?}, which C2PA does not have"))
        })?;
        let mut certificates = Vec::new();
        let text = info["sign_cert"].as_str().unwrap_or_default();
        for part in text.split("-----BEGIN").skip(1) {
            let part = format!("-----BEGIN{part}");
            certificates
                .push(decoded(&part, "CERTIFICATE").ok_or_else(|| {
                    failed(words, "sign_cert is no chain of certificates in PEM")
                })?);
        }
        if certificates.is_empty() {
            return Err(failed(words, "sign_cert is no chain of certificates in PEM"));
        }
        let reserve = info["reserve_size"].as_u64().and_then(|size| usize::try_from(size).ok());
        let reserve = reserve
            .filter(|size| (1024..=1 << 20).contains(size))
            .ok_or_else(|| failed(words, "reserve_size is not from 1024 to 1048576"))?;
        let (words, fault) = (words.to_vec(), Arc::default());
        Ok(Self { words, patience, alg, certificates, reserve, fault })
    }

    /// Why it did not sign.
    pub fn take_fault(&self) -> Option<Error> {
        self.fault.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

impl Signer for Program {
    fn sign(&self, data: &[u8]) -> c2pa::Result<Vec<u8>> {
        ask(&self.words, &[], data, self.patience).map_err(|error| {
            *self.fault.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
            c2pa::Error::BadParam("the program that signs failed".to_owned())
        })
    }

    fn alg(&self) -> SigningAlg {
        self.alg
    }

    fn certs(&self) -> c2pa::Result<Vec<Vec<u8>>> {
        Ok(self.certificates.clone())
    }

    fn reserve_size(&self) -> usize {
        self.reserve
    }
}
