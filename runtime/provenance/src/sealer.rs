//! Signing results, and reading what was signed (C2PA, by the crate `c2pa`).
//!
//! A result is sealed while it lies under its temporary name, so that one that cannot be signed never
//! appears. A file holds its statement; a folder of frames gets a list of their hashes, and the statement
//! about the list beside it. What was signed is read again before it counts: a certificate that has
//! expired, or a key that is not that of the certificate, shows here and not at whoever looks at it. Files
//! that are read may be anything.

use crate::FRAME_FILES;
use crate::certificate::Chain;
use crate::local::LOCAL;
use crate::manifest::{Claims, MARKS, POLICY, RECIPE};
use crate::signer::{Program, of_files, of_keys, read_pem};
use crate::verdict::Statement;
use anyid_files::checkpoint::hash_file;
use anyid_files::error::{Error, Result, unreadable};
use anyid_files::input;
use anyid_files::output::write_error;
use anyid_guard::provenance::{Provenance, Signer as Who};
use c2pa::assertions::{DataHash, SoftBinding, SoftBindingBlock, SoftBindingScope};
use c2pa::{
    BoxedSigner, Builder, BuilderIntent, Context, DigitalSourceType, Reader, Signer,
    ValidationState,
};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Cursor, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

/// The form of a statement that lies beside what it is about.
const SIDECAR: &str = "application/c2pa";
/// Most bytes of a list of frames and of a statement beside it.
const LARGEST: u64 = 64 << 20;
/// Begins the name of every statement: a file that holds it had one, whatever became of it.
const TRACE: &[u8] = b"urn:c2pa:";

/// What signs results.
pub struct Sealer {
    how: How,
    name: &'static str,
}

enum How {
    /// A new key for each result.
    Ephemeral,
    Keys(BoxedSigner),
    Program(Program),
}

/// Says what signs, and no secret.
impl std::fmt::Debug for Sealer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Sealer({})", self.name)
    }
}

fn unsigned(what: impl Into<String>) -> Error {
    Error::input("E1111", what)
}

fn settings() -> Value {
    json!({ "verify": { "remote_manifest_fetch": false, "ocsp_fetch": false } })
}

fn context(trust: Option<&str>) -> Result<Context> {
    let mut settings = settings();
    if let Some(anchors) = trust {
        settings["trust"] = json!({ "user_anchors": anchors });
    }
    Context::new().with_settings(settings).map_err(|fault| {
        Error::input("E1107", format!("the list of trusted certificates cannot be used: {fault}"))
    })
}

impl Sealer {
    /// What `policy` has sign; `state` is the folder of the installation's own key.
    ///
    /// # Errors
    /// E1107 keys or certificates are missing, may be read by others or cannot be used, E1111 what they
    /// sign is not in order, or a program does not say what it signs with.
    pub fn open(policy: &Provenance, state: Option<&Path>) -> Result<Self> {
        let how = match &policy.signer {
            Who::Ephemeral => How::Ephemeral,
            Who::Local => {
                let none = || {
                    let what = "nothing says where the key of this installation is";
                    Error::input("E1107", what).help("set HOME or XDG_STATE_HOME")
                };
                let [certificates, key] = LOCAL.map(|file| state.map(|state| state.join(file)));
                let (certificates, key) = certificates.zip(key).ok_or_else(none)?;
                How::Keys(of_files(&certificates, &key).map_err(|error| match key.exists() {
                    true => error,
                    false => {
                        error.advised(
                            "make the key of this installation: `anyid-rt provenance init`",
                        )
                    }
                })?)
            }
            Who::Pem { certificates, key } => How::Keys(of_files(certificates, key)?),
            Who::Command(words) => {
                How::Program(Program::open(words, Duration::from_secs(policy.patience))?)
            }
        };
        let sealer = Self { how, name: policy.signer.name() };
        // What has a key of its own is tried before anything is computed. A program may ask somebody to
        // touch something for each signature.
        if let How::Keys(signer) = &sealer.how {
            let claims = Claims {
                version: String::new(),
                references: Vec::new(),
                salt: None,
                mark: None,
                recipe: json!({}),
                policy: json!({}),
            };
            let place = match &policy.signer {
                Who::Pem { certificates, .. } => certificates.display().to_string(),
                _ => "--signer local".to_owned(),
            };
            sealer.beside(b"trial", &claims, &**signer).map_err(|error| error.at(place))?;
        }
        Ok(sealer)
    }

    /// Who signs, in one word.
    pub fn signer(&self) -> &'static str {
        self.name
    }

    /// Signs the file or the folder of frames at `path`, a temporary; `form` is the ending of the name that
    /// it will have.
    ///
    /// # Errors
    /// E1111 it cannot be signed, E101x it cannot be written.
    pub fn seal(&self, path: &Path, form: &str, claims: &Claims) -> Result<()> {
        match &self.how {
            How::Keys(signer) => self.seal_with(path, form, claims, &**signer),
            How::Program(program) => {
                let sealed = self.seal_with(path, form, claims, program);
                sealed.map_err(|error| program.take_fault().unwrap_or(error))
            }
            How::Ephemeral => {
                let chain = Chain::make("anyid-rt, a key for one file", SystemTime::now())?;
                let signer = of_keys(&chain.certificates, &chain.key, "--signer ephemeral")?;
                self.seal_with(path, form, claims, &*signer)
            }
        }
    }

    fn seal_with(
        &self,
        path: &Path,
        form: &str,
        claims: &Claims,
        signer: &dyn Signer,
    ) -> Result<()> {
        if path.is_dir() {
            let list = hashes(path)?;
            let statement = self.beside(list.as_bytes(), claims, signer)?;
            for (name, bytes) in FRAME_FILES.iter().zip([list.as_bytes(), &statement]) {
                write(&path.join(name), bytes)?;
            }
            return Ok(());
        }
        let mut source = File::open(path).map_err(|fault| unreadable(path, fault))?;
        let mut sealed = Cursor::new(Vec::new());
        let format = mime(form);
        let mut builder = builder(claims)?;
        builder
            .sign(signer, format, &mut source, &mut sealed)
            .map_err(|fault| unsigned(format!("the result cannot be signed: {fault}")))?;
        let reader = Reader::from_context(context(None)?)
            .with_stream(format, &mut sealed)
            .map_err(|fault| unsigned(format!("what was signed cannot be read: {fault}")))?;
        check(&reader)?;
        write(path, &sealed.into_inner())
    }

    /// A statement about `bytes` that lies beside them.
    fn beside(&self, bytes: &[u8], claims: &Claims, signer: &dyn Signer) -> Result<Vec<u8>> {
        let failed = |fault: c2pa::Error| unsigned(format!("the frames cannot be signed: {fault}"));
        let mut builder = builder(claims)?;
        builder.data_hashed_placeholder(signer.reserve_size(), SIDECAR).map_err(failed)?;
        let mut hash = DataHash::new("jumbf manifest", "sha256");
        hash.set_hash(Sha256::digest(bytes).to_vec());
        let made = builder.sign_data_hashed_embeddable(signer, &hash, SIDECAR).map_err(failed)?;
        let reader = Reader::from_context(context(None)?)
            .with_manifest_data_and_stream(&made, SIDECAR, Cursor::new(bytes))
            .map_err(|fault| unsigned(format!("what was signed cannot be read: {fault}")))?;
        check(&reader)?;
        Ok(made)
    }
}

/// Refuses what is not in order right after it was signed.
fn check(reader: &Reader) -> Result<()> {
    match faults(reader) {
        none if none.is_empty() => Ok(()),
        faults => Err(unsigned(format!("what was signed is not in order: {}", faults.join(", ")))
            .help("the certificate may have expired, or may not be that of the key")),
    }
}

/// Writes over a temporary file, or makes it.
fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    let written = File::create(path).and_then(|mut file| {
        file.write_all(bytes)?;
        file.sync_all()
    });
    written.map_err(|fault| write_error(path, fault))
}

fn mime(form: &str) -> &'static str {
    match form {
        "mov" => "video/quicktime",
        "gif" => "image/gif",
        "png" => "image/png",
        "webp" => "image/webp",
        _ => "video/mp4",
    }
}

fn builder(claims: &Claims) -> Result<Builder> {
    let failed = |fault: c2pa::Error| {
        Error::internal("E1111", format!("the statement cannot be written: {fault}"))
    };
    let mut builder = Builder::from_context(context(None)?)
        .with_definition(claims.definition())
        .map_err(failed)?;
    builder.set_intent(BuilderIntent::Create(DigitalSourceType::TrainedAlgorithmicMedia));
    if let Some((alg, id)) = &claims.mark {
        let block = SoftBindingBlock { scope: SoftBindingScope::default(), value: id.clone() };
        let mut binding = SoftBinding::default();
        (binding.alg, binding.blocks) = (Some((*alg).to_owned()), vec![block]);
        builder.add_assertion(SoftBinding::LABEL, &binding).map_err(failed)?;
        if let Some(added) = builder.definition.assertions.last_mut() {
            added.created = true;
        }
    }
    Ok(builder)
}

/// The hashes of the frames of a folder, as `sha256sum` writes them, by name.
fn hashes(folder: &Path) -> Result<String> {
    let all = frames(folder)?;
    let lines = all.iter().map(|(name, path)| Ok(format!("{}  {name}\n", hash_file(path)?)));
    lines.collect()
}

/// The pictures in a folder, by name.
fn frames(folder: &Path) -> Result<BTreeMap<String, PathBuf>> {
    let entries = std::fs::read_dir(folder).map_err(|fault| unreadable(folder, fault))?;
    let pictures = entries.flatten().map(|entry| entry.path());
    let pictures = pictures.filter(|path| path.extension().is_some_and(|end| end == "png"));
    let named = pictures.filter_map(|path| Some((path.file_name()?.to_str()?.to_owned(), path)));
    Ok(named.collect())
}

/// What does not hold, by the codes of C2PA. That nobody vouches for the signer is no fault here.
fn faults(reader: &Reader) -> Vec<String> {
    const UNTRUSTED: &str = "signingCredential.untrusted";
    let results = reader.validation_results();
    let active = results.and_then(|results| results.active_manifest());
    let deltas = results.and_then(|results| results.ingredient_deltas()).into_iter().flatten();
    let all = active.into_iter().chain(deltas.map(|delta| delta.validation_deltas()));
    let mut faults: Vec<String> = all
        .flat_map(|codes| codes.failure())
        .map(|status| status.code().to_owned())
        .filter(|code| code != UNTRUSTED)
        .collect();
    faults.dedup();
    if faults.is_empty() && reader.validation_state() == ValidationState::Invalid {
        faults.push("claimSignature.missing".to_owned());
    }
    faults
}

fn statement(reader: &Reader, with_trust: bool) -> Statement {
    let trusted = with_trust.then(|| reader.validation_state() == ValidationState::Trusted);
    let mut found = Statement { faults: faults(reader), trusted, ..Statement::default() };
    let Some(manifest) = reader.active_manifest().and_then(|m| serde_json::to_value(m).ok()) else {
        found.faults.push("claim.missing".to_owned());
        return found;
    };
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let signature = &manifest["signature_info"];
    found.signer = text(&signature["common_name"]);
    found.issuer = text(&signature["issuer"]);
    found.time = signature["time"].as_str().map(str::to_owned);
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    for ingredient in list(&manifest["ingredients"]) {
        found.ingredients.push((text(&ingredient["title"]), text(&ingredient["description"])));
    }
    for assertion in list(&manifest["assertions"]) {
        let data = &assertion["data"];
        match assertion["label"].as_str().unwrap_or_default() {
            label if label.starts_with("c2pa.actions") => {
                found.actions.extend(list(&data["actions"]).iter().map(|a| text(&a["action"])));
            }
            label if label == SoftBinding::LABEL && MARKS.iter().any(|alg| data["alg"] == *alg) => {
                found.mark = data["blocks"][0]["value"].as_str().map(str::to_owned);
            }
            RECIPE => found.recipe = data.clone(),
            POLICY => found.policy = data.clone(),
            _ => {}
        }
    }
    found
}

/// What is stated about a file or a folder of frames, if anything is. `trust` are files of certificates
/// (PEM) of authorities that are trusted.
///
/// # Errors
/// E0911 it cannot be read, E1107 certificates cannot be used.
pub fn read(path: &Path, trust: &[&Path]) -> Result<Option<Statement>> {
    let anchors = trust
        .iter()
        .map(|path| read_pem(path, "CERTIFICATE"))
        .collect::<Result<Vec<_>>>()?
        .join("\n");
    let anchors = (!trust.is_empty()).then_some(anchors.as_str());
    let reader = Reader::from_context(context(anchors)?);
    if path.is_dir() {
        return read_folder(path, reader, anchors.is_some());
    }
    let file = File::open(path).map_err(|fault| unreadable(path, fault))?;
    let ending = path.extension().unwrap_or_default().to_string_lossy().to_ascii_lowercase();
    match reader.with_stream(mime(&ending), file) {
        Ok(reader) => Ok(Some(statement(&reader, anchors.is_some()))),
        Err(c2pa::Error::JumbfNotFound | c2pa::Error::UnsupportedType) => Ok(None),
        Err(fault) => Ok(holds_trace(path)?.then(|| damaged(&fault))),
    }
}

/// A statement that is so damaged that it cannot be read.
fn damaged(fault: &c2pa::Error) -> Statement {
    Statement { faults: vec![fault.to_string()], ..Statement::default() }
}

/// Whether a file holds what every statement holds.
fn holds_trace(path: &Path) -> Result<bool> {
    use std::io::Read;
    let mut file = File::open(path).map_err(|fault| unreadable(path, fault))?;
    let mut window = vec![0; 1 << 20];
    let mut kept = 0;
    loop {
        let count = file.read(&mut window[kept..]).map_err(|fault| unreadable(path, fault))?;
        let held = &window[..kept + count];
        if held.windows(TRACE.len()).any(|part| part == TRACE) {
            return Ok(true);
        }
        if count == 0 {
            return Ok(false);
        }
        // What may be the beginning of it stays.
        let stays = held.len().min(TRACE.len() - 1);
        let from = held.len() - stays;
        window.copy_within(from..from + stays, 0);
        kept = stays;
    }
}

fn read_folder(folder: &Path, reader: Reader, with_trust: bool) -> Result<Option<Statement>> {
    let [list, beside] = FRAME_FILES.map(|name| folder.join(name));
    if !beside.exists() {
        return Ok(None);
    }
    let bytes = |path: &Path| {
        input::read(path, LARGEST).map_err(|refusal| {
            let large = |limit| {
                Error::input("E0911", format!("it has more than {limit} bytes")).at(path.display())
            };
            refusal.coded(path, |fault| unreadable(path, fault), large)
        })
    };
    let stated = if list.exists() { bytes(&list)? } else { Vec::new() };
    let found =
        reader.with_manifest_data_and_stream(&bytes(&beside)?, SIDECAR, Cursor::new(&stated));
    let mut found = match found {
        Ok(reader) => statement(&reader, with_trust),
        Err(fault) => damaged(&fault),
    };
    // Each frame by its hash: none is missing, changed or added.
    let now = hashes(folder)?;
    let of = |text: &str| -> BTreeMap<String, String> {
        let pairs = text.lines().filter_map(|line| line.split_once("  "));
        pairs.map(|(hash, name)| (name.to_owned(), hash.to_owned())).collect()
    };
    let (stated, now) = (of(&String::from_utf8_lossy(&stated)), of(&now));
    for name in stated.keys().chain(now.keys().filter(|name| !stated.contains_key(*name))) {
        match (stated.get(name), now.get(name)) {
            (Some(before), Some(after)) if before == after => {}
            (Some(_), Some(_)) => found.faults.push(format!("{name} was changed")),
            (Some(_), None) => found.faults.push(format!("{name} is missing")),
            (None, _) => found.faults.push(format!("{name} was added")),
        }
    }
    Ok(Some(found))
}

#[cfg(test)]
mod tests;
