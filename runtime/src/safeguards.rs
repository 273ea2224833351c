//! The safeguards of a run, in order: texts, consent, references, a language model, frames, mark,
//! record.
//!
//! [`Safeguards::open`] reads what a policy names. A request is checked before anything is computed
//! ([`Safeguards::check_text`], [`Safeguards::check_references`]), frames are marked as they are
//! written ([`Safeguards::mark`]), and the end of the run is written down
//! ([`Safeguards::finished`]). Pipelines know nothing of this: a program that embeds them decides
//! itself. Training asks for consent before it encodes anything ([`Safeguards::check_training`]).

mod faces;
mod llm;
pub mod networks;

use crate::error::{Error, Result};
use crate::pipeline::{
    Cancel, Event, FileOptions, Finished, Pipeline, Request, ResultFiles, RunReport,
};
use crate::recipe::{HashedFile, Recipe};
use anyid_files::checkpoint::hash_file;
use anyid_files::error::unreadable;
use anyid_files::input;
use anyid_files::media::{ReadOptions, RgbFrame, visit_frames};
use anyid_files::output::AtomicFile;
pub use anyid_guard::audit::{AuditLog, Entry, Verified};
pub use anyid_guard::{
    audit, consent, hex, models, policy, provenance, signature, text, watermark,
};
pub use anyid_provenance as statement;
use anyid_study::moderation::{Checker, Decision, Report, Settings, looked_at, score};
use consent::{Demand, Enrolled, Gap, Records, Scope};
use faces::{Comparison, Seen};
use llm::{Heard, Moderator};
use networks::Networks;
use policy::{Consent, FrameCheck, Mark, Policy};
use provenance::{Prompt, Sign};
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};
use statement::Sealer;
use statement::manifest::{Claims, MARKS};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;
use text::{TextPolicy, Verdict};
use watermark::{Key, Marker, Strength, fits};

/// What is read of a run's policy.
pub struct Safeguards {
    policy: Policy,
    text: TextPolicy,
    records: Records,
    log: Option<AuditLog>,
    key: Key,
    checker: Option<Arc<Checker>>,
    sealer: Option<Arc<Sealer>>,
    moderator: Option<Moderator>,
    comparison: Option<Comparison>,
    networks: Option<Arc<Networks>>,
    /// The key of salted hashes of references.
    salt: Option<[u8; 32]>,
}

/// The audit log in the state folder.
pub const LOG: &str = "audit.jsonl";

/// Most frames that are marked side by side: as many as most pieces have.
const TOGETHER: usize = 4;

/// How frames are marked.
#[derive(Clone, Debug)]
pub struct MarkAs {
    /// The kind of mark.
    pub kind: MarkKind,
    /// The id.
    pub id: u32,
    /// How many frames are marked side by side.
    pub threads: usize,
}

/// Kinds of marks.
#[derive(Clone, Debug)]
pub enum MarkKind {
    /// `tile-ss/1`: the key of the patterns, and how strong they are.
    Tile(Key, Strength),
    /// Networks of the user's.
    Networks(Arc<Networks>),
}

/// What marks the frames of a run, in order.
pub enum FrameMarker {
    /// With patterns, on so many threads.
    Tile(Marker, usize),
    /// With networks.
    Networks(networks::NetworkMarker),
}

impl MarkAs {
    /// What marks frames; patterns on several threads, of which a piece that is decoded, having few
    /// frames, needs few.
    pub fn marker(&self) -> FrameMarker {
        match &self.kind {
            MarkKind::Tile(key, strength) => {
                let marker = Marker::new(key, self.id, *strength);
                FrameMarker::Tile(marker, self.threads.clamp(1, TOGETHER))
            }
            MarkKind::Networks(own) => {
                FrameMarker::Networks(networks::NetworkMarker::new(Arc::clone(own), self.id))
            }
        }
    }
}

impl FrameMarker {
    /// How many frames are marked side by side.
    pub fn together(&self) -> usize {
        match self {
            Self::Tile(_, threads) => *threads,
            Self::Networks(_) => 1,
        }
    }

    /// Bytes that are held for each of them.
    pub fn held_bytes(&self, width: usize, height: usize) -> u64 {
        match self {
            Self::Tile(..) => Marker::held_bytes(width, height),
            Self::Networks(_) => networks::NetworkMarker::held_bytes(width, height),
        }
    }

    /// Marks the next frames, of interleaved RGB.
    ///
    /// # Errors
    /// E1208 a network gives what it should not.
    pub fn mark(&mut self, frames: &mut [Vec<u8>], width: usize, height: usize) -> Result<()> {
        match self {
            Self::Tile(marker, threads) => marker.mark(frames, width, height, *threads),
            Self::Networks(marker) => {
                for frame in frames {
                    marker.mark(frame, width, height)?;
                }
            }
        }
        Ok(())
    }
}

/// Who agreed to the use of files.
#[derive(Default)]
struct Consented {
    /// The records that are used.
    ids: Vec<String>,
    /// What is missing, each with the files that miss it: said once for all.
    gaps: Vec<(Gap, Vec<String>)>,
}

/// Files that are named where many have no record.
const SHOWN: usize = 3;

fn unconsented(what: String) -> Error {
    Error::input("E1105", what).help(
        "ask the person, and keep a record: `anyid-rt consent new`; of your own pictures, \
         `anyid-rt consent self`",
    )
}

/// What the checks of a request found.
#[derive(Clone, Debug, Default)]
pub struct Checked {
    /// What the rules say about its texts.
    pub verdict: Verdict,
    /// Ids of the consent records that are used.
    pub consents: Vec<String>,
    /// What the user should know.
    pub warnings: Vec<String>,
    /// Values of the pictures of each reference.
    pub pictures: Vec<Vec<f64>>,
    /// What a language model decided, if one was asked.
    pub llm: Option<&'static str>,
}

/// The text of a file of rules.
fn read_text(path: &Path) -> Result<String> {
    let bad = |what: &str| Error::input("E1102", what).at(path.display());
    let bytes = input::read(path, text::LARGEST_FILE).map_err(|refusal| {
        refusal.coded(
            path,
            |fault| unreadable(path, fault),
            |_| bad("the file of rules is too large"),
        )
    })?;
    String::from_utf8(bytes).map_err(|_| bad("the file of rules is no text"))
}

/// The rules that a policy names, in the order of their names within a folder.
///
/// # Errors
/// E0911 a file cannot be read, E1102 rules are refused.
pub fn rules_of(policy: &Policy) -> Result<TextPolicy> {
    let mut paths: Vec<PathBuf> = Vec::new();
    for path in &policy.rules {
        if !path.is_dir() {
            paths.push(path.clone());
            continue;
        }
        let entries = std::fs::read_dir(path).map_err(|fault| unreadable(path, fault))?;
        let mut inside: Vec<PathBuf> = entries
            .flatten()
            .map(|entry| entry.path())
            .filter(|path| path.extension().is_some_and(|ending| ending == "toml"))
            .collect();
        inside.sort();
        paths.append(&mut inside);
    }
    let texts = paths.iter().map(|path| read_text(path)).collect::<Result<Vec<String>>>()?;
    let files: Vec<(&Path, &str)> =
        paths.iter().zip(&texts).map(|(path, text)| (path.as_path(), text.as_str())).collect();
    TextPolicy::new(&files)
}

impl Safeguards {
    /// Reads what `policy` names that concerns this use. `state` is the folder of the log of decisions,
    /// unless the policy says another place, and of the key of this installation.
    ///
    /// # Errors
    /// E1102 rules or settings of models are refused, E1209 this program runs none of them, E1116
    /// the networks of the watermark are missing, E1106 a consent record is damaged, E1107 a key
    /// cannot be used, E1108 the audit log is damaged, E1110 frames must be checked and cannot be,
    /// E1113 and E1208 a model is not what it should be, E1111 a signer does not sign, E1112
    /// results must be signed and cannot be.
    pub fn open(policy: Policy, state: Option<PathBuf>, scope: Scope) -> Result<Self> {
        let text = rules_of(&policy)?;
        let generates = scope == Scope::Generate;
        let models = policy.frame_models.as_deref();
        let models = models.filter(|_| generates && policy.frames != FrameCheck::Off);
        let checker = models.map(|path| Checker::open(Settings::read(path)?)).transpose()?;
        if policy.frames == FrameCheck::Require && generates && checker.is_none() {
            let what = "frames have to be checked, and no model is named that checks them";
            return Err(Error::input("E1110", what).help(
                "name one in the policy, `models = \"FILE\"` under [frames]; or say `check = \"auto\"` \
                 there, and check results elsewhere",
            ));
        }
        let checker = checker.map(Arc::new);
        let asked =
            policy.consent != Consent::Off || (!generates && policy.private != Consent::Off);
        let records = match asked {
            true => Records::open(&policy.consents)?,
            false => Records::default(),
        };
        let moderator = policy.llm.as_ref().filter(|_| generates);
        let moderator = moderator.map(Moderator::open).transpose()?;
        let comparison = policy.faces.as_ref().filter(|_| asked);
        let comparison = comparison.map(Comparison::open).transpose()?;
        let networks = match policy.watermark == Mark::VideoSeal && generates {
            true => Some(Arc::new(networks::of(&policy)?)),
            false => None,
        };
        let key = match &policy.watermark_key {
            Some(path) if generates => Key::private(&signature::read_secret(path)?),
            _ => Key::public(),
        };
        let log = policy.audit_log(state.as_deref().map(|state| state.join(LOG)))?;
        if let Some(log) = &log {
            log.check_end()?;
        }
        let own = &policy.provenance;
        let signs = generates
            && (own.sign == Sign::Require || (own.sign == Sign::Auto && statement::OFFERED));
        let sealer = signs.then(|| Sealer::open(own, state.as_deref())).transpose()?.map(Arc::new);
        let salt = own.salt.as_deref().filter(|_| signs).map(signature::read_secret).transpose()?;
        Ok(Self {
            policy,
            text,
            records,
            log,
            key,
            checker,
            sealer,
            moderator,
            comparison,
            networks,
            salt,
        })
    }

    /// The settings in force.
    pub fn policy(&self) -> &Policy {
        &self.policy
    }

    /// Checks the texts of a request, which are used together.
    ///
    /// # Errors
    /// E1101 a rule blocks them.
    pub fn check_text(&self, texts: &[&str], now: SystemTime) -> Result<Checked> {
        let verdict = self.text.check(texts, !self.policy.text_filter);
        if let Some(refusal) = verdict.refusal() {
            self.blocked(&refusal, &verdict, texts, &[], now)?;
            return Err(refusal);
        }
        let warned = verdict.findings.iter().filter(|f| f.action == text::Action::Warn);
        let warnings = warned.map(about).collect();
        Ok(Checked { verdict, warnings, ..Checked::default() })
    }

    /// Has a language model look at the texts of a request, if the policy names one. What it finds
    /// comes to what rules have found, and takes nothing away.
    ///
    /// # Errors
    /// E1101 it blocks them, E1115 it gives no answer and the policy demands one.
    pub fn ask_model(&self, texts: &[&str], checked: &mut Checked, now: SystemTime) -> Result<()> {
        let Some(moderator) = &self.moderator else { return Ok(()) };
        let heard = match moderator.ask(texts) {
            Ok(heard) => heard,
            Err(refusal) => {
                self.blocked(&refusal, &checked.verdict, texts, &[], now)?;
                return Err(refusal);
            }
        };
        match heard {
            Heard::Nothing(why) => {
                checked.llm = Some("no_answer");
                let what = "the language model that looks at texts gave no answer";
                checked.warnings.push(format!("{what}, and the rules alone decided: {why}"));
            }
            Heard::Decided(decision, finding) => {
                checked.llm = Some(decision);
                let Some(finding) = finding else { return Ok(()) };
                if finding.action == text::Action::Warn {
                    checked.warnings.push(about(&finding));
                }
                checked.verdict.add(finding);
                if let Some(refusal) = checked.verdict.refusal() {
                    self.blocked(&refusal, &checked.verdict, texts, &[], now)?;
                    return Err(refusal);
                }
            }
        }
        Ok(())
    }

    /// Checks that somebody agreed to the use of each reference.
    ///
    /// # Errors
    /// E1105 consent is required and missing, E1106 a record has no canonical form.
    pub fn check_references(
        &self,
        references: &[HashedFile],
        scope: Scope,
        checked: &mut Checked,
        now: SystemTime,
    ) -> Result<()> {
        if self.policy.consent == Consent::Off {
            return Ok(());
        }
        let named = references.iter().enumerate();
        let named =
            named.map(|(at, file)| ((at + 1).to_string(), &*file.path, file.sha256.as_str()));
        let Consented { ids, gaps } = self.consented(named, scope, now)?;
        checked.consents = ids;
        if gaps.is_empty() {
            return Ok(());
        }
        let said: Vec<String> = gaps
            .iter()
            .map(|(gap, numbers)| {
                let many = if numbers.len() == 1 { "" } else { "s" };
                format!("{gap} for reference{many} {}", numbers.join(", "))
            })
            .collect();
        let said = said.join("; ");
        if self.policy.consent == Consent::Warn {
            checked.warnings.push(said);
            return Ok(());
        }
        let refusal = unconsented(said);
        let hashes: Vec<&str> = references.iter().map(|file| file.sha256.as_str()).collect();
        self.blocked(&refusal, &checked.verdict, &[], &hashes, now)?;
        Err(refusal)
    }

    /// Looks at the pictures of references, if a model does that.
    ///
    /// # Errors
    /// E1114 they show what they should not, E08xx they cannot be read, E1208 and E1113 the model does
    /// not work.
    pub fn look_at_references(
        &self,
        references: &[HashedFile],
        checked: &mut Checked,
        now: SystemTime,
    ) -> Result<()> {
        let Some(checker) = &self.checker else { return Ok(()) };
        for (at, file) in references.iter().enumerate() {
            let (mut values, mut last, mut count) = (Vec::new(), None, 0);
            visit_frames(&file.path, &ReadOptions::default(), &mut |frame| {
                // How many there are shows at the end.
                last = None;
                match looked_at(count, usize::MAX) {
                    true => values.push(checker.value(&frame.image)?),
                    false => last = Some(frame.image.clone()),
                }
                count += 1;
                Ok(std::ops::ControlFlow::Continue(()))
            })?;
            if let Some(last) = &last {
                values.push(checker.value(last)?);
            }
            let what = format!("reference {}", at + 1);
            match checker.settings().decide(&values) {
                Decision::Allow => {}
                Decision::Warn => checked.warnings.push(doubtful(&what, score(&values))),
                Decision::Block => {
                    let refusal = unwanted(&what, score(&values));
                    let hashes = [file.sha256.as_str()];
                    self.blocked(&refusal, &checked.verdict, &[], &hashes, now)?;
                    return Err(refusal);
                }
            }
            checked.pictures.push(values);
        }
        Ok(())
    }

    /// What looks at the frames of a run, if a model does that; `report` is where its values go.
    pub fn inspector(
        &self,
        recipe: &Recipe,
        checked: &Checked,
        report: Option<&Path>,
    ) -> Option<Inspector> {
        let checker = Arc::clone(self.checker.as_ref()?);
        let kept = Report { references: checked.pictures.clone(), frames: Vec::new() };
        let [_, _, frames] = recipe.size;
        Some(Inspector { checker, kept, frames, seen: 0, report: report.map(Path::to_owned) })
    }

    /// Writes down that a run was refused for its frames; other errors are none of this.
    ///
    /// # Errors
    /// Those of the audit log.
    pub fn note_refusal(&self, error: &Error, recipe: &Recipe, checked: &Checked) -> Result<()> {
        if error.code() != "E1114" {
            return Ok(());
        }
        let files = recipe.references.iter().chain(&recipe.choices.first_frame);
        let hashes: Vec<&str> = files.map(|file| file.sha256.as_str()).collect();
        let texts = [recipe.prompt.as_str()];
        self.blocked(error, &checked.verdict, &texts, &hashes, SystemTime::now())
    }

    /// Checks that somebody agreed to training on each of the files; gives the ids of the records that
    /// are used, and what is missing if that does not stop the run. `private` says that the set is
    /// marked so.
    ///
    /// # Errors
    /// E1105 consent is required and missing, E1106 a record has no canonical form.
    pub fn check_training(
        &self,
        files: &[(&Path, &str)],
        private: bool,
        now: SystemTime,
    ) -> Result<(Vec<String>, Option<String>)> {
        let demanded = match private {
            true => self.policy.consent.max(self.policy.private),
            false => self.policy.consent,
        };
        if demanded == Consent::Off {
            return Ok((Vec::new(), None));
        }
        let named = files.iter().map(|(path, hash)| (path.display().to_string(), *path, *hash));
        let Consented { ids, gaps } = self.consented(named, Scope::Train, now)?;
        if gaps.is_empty() {
            return Ok((ids, None));
        }
        let said: Vec<String> = gaps
            .iter()
            .map(|(gap, names)| {
                let (shown, rest) = names.split_at(names.len().min(SHOWN));
                let more = match rest.len() {
                    0 => String::new(),
                    more => format!(" and {more} more"),
                };
                format!("{gap} for {}{more}", shown.join(", "))
            })
            .collect();
        let said = said.join("; ");
        if demanded == Consent::Warn {
            return Ok((ids, Some(said)));
        }
        let refusal = unconsented(said);
        let hashes: Vec<&str> = files.iter().map(|(_, hash)| *hash).collect();
        self.blocked(&refusal, &Verdict::default(), &[], &hashes, now)?;
        Err(refusal)
    }

    /// Who agreed to the use of files, each with what it is called.
    fn consented<'f>(
        &self,
        files: impl Iterator<Item = (String, &'f Path, &'f str)>,
        scope: Scope,
        now: SystemTime,
    ) -> Result<Consented> {
        let today = audit::moment(now);
        let demand = Demand {
            scope,
            today: &today[..10],
            adult: self.policy.adult,
            issuers: &self.policy.issuers,
        };
        let mut found = Consented::default();
        let (mut enrolled, mut seen) = (None, Seen::default());
        for (name, path, sha256) in files {
            let covered = match self.records.covers(sha256, &demand)? {
                Err(Gap::NoRecord) => {
                    let faces = match &mut enrolled {
                        Some(faces) => faces,
                        none => none.insert(self.records.faces(&demand)?),
                    };
                    self.face_covers(path, faces, &mut seen)?
                }
                covered => covered,
            };
            match covered {
                Ok(id) if found.ids.iter().any(|known| known == id) => {}
                Ok(id) => found.ids.push(id.to_owned()),
                Err(gap) => match found.gaps.iter_mut().find(|(known, _)| *known == gap) {
                    Some((_, names)) => names.push(name),
                    None => found.gaps.push((gap, vec![name])),
                },
            }
        }
        Ok(found)
    }

    /// Whether a record of a face covers a file of which no record names the bytes.
    fn face_covers<'r>(
        &self,
        path: &Path,
        faces: &[Enrolled<'r>],
        seen: &mut Seen,
    ) -> Result<std::result::Result<&'r str, Gap>> {
        match (&self.comparison, faces.first()) {
            (_, None) => Ok(Err(Gap::NoRecord)),
            (Some(comparison), _) => comparison.covers(path, faces, seen),
            (None, Some(face)) => {
                let why =
                    "is of a face, and no networks compare faces ([consent.faces] of a policy)";
                Ok(Err(Gap::Not(face.id.to_owned(), why)))
            }
        }
    }

    /// How the frames of a run are marked, if they are.
    pub fn mark(&self, recipe: &Recipe) -> Option<MarkAs> {
        let [width, height, _] = recipe.size;
        let kind = match (&self.networks, self.policy.watermark.strength()) {
            (Some(own), _) => MarkKind::Networks(Arc::clone(own)),
            (None, Some(strength)) => MarkKind::Tile(self.key.clone(), strength),
            (None, None) => return None,
        };
        fits(width, height).then(|| MarkAs { kind, id: content_id(recipe), threads: 1 })
    }

    /// What signs a result of this form ([`ResultFiles::ending`]), if anything does; a warning if its form
    /// is what prevents it.
    ///
    /// # Errors
    /// E1112 it must be signed, and the form has no place for a statement.
    pub fn seal(&self, form: &str, checked: &mut Checked) -> Result<Option<Seal>> {
        let Some(sealer) = &self.sealer else { return Ok(None) };
        if !statement::has_place(form) {
            if self.policy.provenance.sign == Sign::Require {
                let what = format!("results must be signed, and .{form} has no place for that");
                return Err(Error::input("E1112", what)
                    .help("write an .mp4, a .gif or a folder of PNG frames"));
            }
            let what = format!(".{form} has no place for a signed statement of origin");
            checked.warnings.push(what);
            return Ok(None);
        }
        Ok(Some(Seal {
            sealer: Arc::clone(sealer),
            form: form.to_owned(),
            prompt: self.policy.provenance.prompt,
            salt: self.salt,
        }))
    }

    /// What a recipe says about the safeguards of its run; `seal` is what will sign the result.
    pub fn statement(&self, recipe: &Recipe, checked: &Checked, seal: Option<&Seal>) -> Value {
        let policy = &self.policy;
        let signed = match (seal, &self.sealer, policy.provenance.sign) {
            (Some(seal), _, _) => json!({ "signer": seal.sealer.signer() }),
            (None, _, Sign::Off) => json!("off"),
            (None, Some(_), _) => json!("no_place"),
            (None, None, _) => json!("none"),
        };
        let mark = match (self.mark(recipe), policy.watermark) {
            (Some(MarkAs { kind, id, .. }), strength) => {
                let mut stated =
                    json!({ "id": format!("{id:08x}"), "strength": strength.to_string() });
                if let MarkKind::Tile(key, _) = kind {
                    stated["key"] = json!(if key.version() == 1 { "public" } else { "private" });
                }
                stated
            }
            (None, Mark::Off) => json!("off"),
            (None, _) => json!("too_small"),
        };
        json!({
            "text": if policy.text_filter { checked.verdict.decision() } else { "off" },
            "categories": checked.verdict.categories(),
            "rules_sha256": self.text.hash(),
            "llm": checked.llm.unwrap_or("off"),
            "consent": policy.consent.to_string(),
            "consents": checked.consents,
            "frame_check": match (policy.frames, &self.checker) {
                (FrameCheck::Off, _) => "off",
                (_, None) => "none",
                (_, Some(_)) => "allow",
            },
            "watermark": mark,
            "provenance": signed,
            "off": policy.switched_off(),
            "audit": self.log.is_some(),
            "locked": policy.locked.is_some(),
        })
    }

    /// Writes down that a result was made.
    ///
    /// # Errors
    /// Those of [`AuditLog::append`], and E0911 if the result cannot be read.
    pub fn finished(
        &self,
        recipe: &Recipe,
        checked: &Checked,
        output: &Path,
        now: SystemTime,
    ) -> Result<()> {
        let negative = recipe.choices.negative_prompt.as_deref();
        let texts: Vec<&str> =
            [Some(recipe.prompt.as_str()), negative].into_iter().flatten().collect();
        let mut more = self.members(&checked.verdict, &texts);
        let files = recipe.references.iter().chain(&recipe.choices.first_frame);
        let hashes: Vec<&str> = files.map(|file| file.sha256.as_str()).collect();
        more.insert("refs".to_owned(), json!(hashes));
        more.insert("consents".to_owned(), json!(checked.consents));
        more.insert("output_sha256".to_owned(), json!(output_hash(output)?));
        let id = self.mark(recipe).map(|mark| format!("{:08x}", mark.id));
        more.insert("watermark_id".to_owned(), json!(id));
        more.insert("model".to_owned(), json!(recipe.model.fingerprints[0]));
        let off = self.policy.switched_off();
        if !off.is_empty() {
            more.insert("off".to_owned(), json!(off));
        }
        let decision = checked.verdict.decision();
        self.write_down(&Entry { event: "generate", decision, more }, now)
    }

    /// Writes down that something was trained on the set whose manifest has this hash.
    ///
    /// # Errors
    /// As [`Self::finished`].
    pub fn trained(
        &self,
        manifest: &str,
        consents: &[String],
        output: &Path,
        now: SystemTime,
    ) -> Result<()> {
        let mut more = Map::new();
        more.insert("manifest_sha256".to_owned(), json!(manifest));
        more.insert("consents".to_owned(), json!(consents));
        more.insert("output_sha256".to_owned(), json!(output_hash(output)?));
        self.write_down(&Entry { event: "train", decision: "allow", more }, now)
    }

    /// As [`Pipeline::generate_to_file`], behind these safeguards. What they warn of are events; `threads`
    /// is for marking.
    ///
    /// # Errors
    /// Those of [`Pipeline::generate_to_file`], [`Self::check_text`] and [`Self::check_references`]; those of
    /// the audit log if the policy is locked.
    pub fn generate_to_file(
        &self,
        pipeline: &Pipeline,
        request: &Request,
        path: &Path,
        options: &FileOptions,
        threads: usize,
        cancel: &Cancel,
        events: &mut dyn FnMut(Event),
    ) -> Result<(RunReport, Finished)> {
        let now = SystemTime::now();
        let texts = texts(request);
        let mut checked = self.check_text(&texts, now)?;
        let mut decide = |made: &mut Recipe, files: &mut ResultFiles| {
            let shown: Vec<_> =
                made.references.iter().chain(&made.choices.first_frame).cloned().collect();
            self.check_references(&shown, Scope::Generate, &mut checked, now)?;
            self.look_at_references(&shown, &mut checked, now)?;
            self.ask_model(&texts, &mut checked, now)?;
            files.inspect(self.inspector(made, &checked, None));
            let seal = self.seal(&files.ending(), &mut checked)?;
            made.safeguards = Some(self.statement(made, &checked, seal.as_ref()));
            files.seal(seal);
            files.mark(self.mark(made).map(|mark| MarkAs { threads, ..mark }).as_ref());
            Ok(())
        };
        let mut begun = None;
        let mut decide = |made: &mut Recipe, files: &mut ResultFiles| {
            decide(made, files)?;
            begun = Some(made.clone());
            Ok(())
        };
        let made = pipeline.to_file(request, path, options, Some(&mut decide), cancel, events);
        if let (Err(error), Some(begun)) = (&made, &begun) {
            self.note_refusal(error, begun, &checked)?;
        }
        let (report, finished, recipe) = made?;
        let recipe = recipe.expect("a run that is decided about has a recipe");
        let kept = self.finished(&recipe, &checked, &finished.written.path, SystemTime::now());
        let unkept = unless_locked(kept, &self.policy)?;
        for warning in checked.warnings.into_iter().chain(unkept) {
            events(Event::Warning(warning));
        }
        Ok((report, finished))
    }

    fn write_down(&self, entry: &Entry, now: SystemTime) -> Result<()> {
        self.log.as_ref().map_or(Ok(()), |log| log.append(entry, now))
    }

    fn members(&self, verdict: &Verdict, texts: &[&str]) -> Map<String, Value> {
        let mut hash = Sha256::new();
        texts.iter().for_each(|text| hash.update(text));
        let mut more = Map::new();
        more.insert("categories".to_owned(), json!(verdict.categories()));
        more.insert("prompt_sha256".to_owned(), json!(hex(&hash.finalize())));
        if self.policy.store_prompts {
            more.insert("prompt".to_owned(), json!(texts.join("\n")));
        }
        more.insert("policy".to_owned(), json!(self.text.hash()));
        more
    }

    fn blocked(
        &self,
        refusal: &Error,
        verdict: &Verdict,
        texts: &[&str],
        references: &[&str],
        now: SystemTime,
    ) -> Result<()> {
        let mut more = self.members(verdict, texts);
        more.insert("code".to_owned(), json!(refusal.code()));
        more.insert("refs".to_owned(), json!(references));
        self.write_down(&Entry { event: "block", decision: "block", more }, now)
    }
}

/// What a finding that warns says.
fn about(finding: &text::Finding) -> String {
    let text::Finding { rule, category, words, .. } = finding;
    let (name, advice) = (category.name(), category.advice());
    format!("the text is about {name} (rule {rule}, \"{words}\"): {advice}")
}

fn unwanted(what: &str, value: f64) -> Error {
    let what = format!("{what} may show what it should not: the model gives {value:.2}");
    Error::input("E1114", what).help("use other references or words; nothing of this run was kept")
}

fn doubtful(what: &str, value: f64) -> String {
    format!("{what} may show what it should not (the model gives {value:.2}): look at it")
}

/// What looks at the frames of a run.
#[derive(Debug)]
pub struct Inspector {
    checker: Arc<Checker>,
    kept: Report,
    /// How many frames there will be, and how many were there.
    frames: usize,
    seen: usize,
    report: Option<PathBuf>,
}

impl Inspector {
    /// Takes the next frame, of interleaved RGB.
    ///
    /// # Errors
    /// E1208 and E1113 the model does not work.
    pub fn see(&mut self, rgb: &[u8], width: usize, height: usize) -> Result<()> {
        if looked_at(self.seen, self.frames) {
            let frame = RgbFrame { width, height, data: rgb.to_vec() };
            self.kept.frames.push((self.seen, self.checker.value(&frame)?));
        }
        self.seen += 1;
        Ok(())
    }

    /// What follows from all of them: the recipe that says so.
    ///
    /// # Errors
    /// E1114 there must be no result, E101x the report cannot be written.
    pub fn conclude(self, made: &Recipe, events: &mut dyn FnMut(Event)) -> Result<Recipe> {
        let value = self.kept.to_json(self.checker.settings());
        if let Some(path) = &self.report {
            let mut file = AtomicFile::create(path)?;
            file.append(format!("{value:#}\n").as_bytes())?;
            file.commit()?;
        }
        let values: Vec<f64> = self.kept.frames.iter().map(|(_, value)| *value).collect();
        let decision = self.checker.settings().decide(&values);
        match decision {
            Decision::Allow => {}
            Decision::Warn => events(Event::Warning(doubtful("the result", score(&values)))),
            Decision::Block => return Err(unwanted("the result", score(&values))),
        }
        let mut made = made.clone();
        if let Some(safeguards) = &mut made.safeguards {
            safeguards["frame_check"] = json!(decision.name());
            safeguards["frame_score"] = value["score"].clone();
        }
        Ok(made)
    }
}

/// What signs a result when it is complete.
#[derive(Clone, Debug)]
pub struct Seal {
    sealer: Arc<Sealer>,
    form: String,
    prompt: Prompt,
    salt: Option<[u8; 32]>,
}

impl Seal {
    /// Signs the result that lies under a temporary name at `path` and was made as `recipe` says.
    ///
    /// # Errors
    /// E1111 it cannot be signed, E101x it cannot be written.
    pub fn apply(&self, path: &Path, recipe: &Recipe) -> Result<()> {
        let policy = recipe.safeguards.clone().unwrap_or_default();
        let own = &policy["watermark"];
        let alg = if own["strength"] == "videoseal" { MARKS[1] } else { MARKS[0] };
        let mark = own["id"].as_str().map(|id| (alg, id.to_owned()));
        let files = recipe.references.iter().chain(&recipe.choices.first_frame);
        let mut value = recipe.to_json();
        // Files are told by their hashes, the references among them as ingredients.
        remove_places(&mut value);
        if let Some(object) = value.as_object_mut() {
            for key in ["references", "first_frame", "output", "safeguards"] {
                object.shift_remove(key);
            }
            for key in ["prompt", "negative_prompt"] {
                if self.prompt == Prompt::Sha256
                    && let Some(Value::String(text)) = object.shift_remove(key)
                {
                    let hash = hex(&Sha256::digest(text));
                    object.insert(format!("{key}_sha256"), Value::String(hash));
                }
            }
        }
        let references = files.map(|file| statement::manifest::Reference {
            sha256: file.sha256.clone(),
            format: media_type(&file.path).to_owned(),
        });
        let claims = Claims {
            version: recipe.product.clone(),
            references: references.collect(),
            salt: self.salt,
            mark,
            recipe: value,
            policy,
        };
        self.sealer.seal(path, &self.form, &claims)
    }
}

/// The format of a file, by its first bytes.
fn media_type(path: &Path) -> &'static str {
    use anyid_files::media::{Signature, sniff};
    match input::head(path, 256).map(|head| sniff(&head)) {
        Ok(Signature::Still(format)) => format.to_mime_type(),
        Ok(Signature::Mp4) => "video/mp4",
        _ => "application/octet-stream",
    }
}

/// The texts of a request, which are used together.
pub fn texts(request: &Request) -> Vec<&str> {
    [Some(request.prompt.as_str()), request.negative_prompt.as_deref()]
        .into_iter()
        .flatten()
        .collect()
}

/// What failed to be written into the audit log of `policy`, as a warning: what is not locked is no
/// reason to fail.
///
/// # Errors
/// The fault itself if the policy is locked.
pub fn unless_locked(kept: Result<()>, policy: &Policy) -> Result<Option<String>> {
    match (kept, &policy.locked) {
        (Ok(()), _) => Ok(None),
        (Err(error), Some(_)) => Err(error),
        (Err(error), None) => {
            let (code, what) = (error.code(), error.message());
            Ok(Some(format!("the audit log was not written: [{code}] {what}")))
        }
    }
}

/// The id of what a recipe makes: the same for a repeated run, whoever makes it and wherever it goes.
pub fn content_id(recipe: &Recipe) -> u32 {
    let mut value = recipe.to_json();
    let object = value.as_object_mut().expect("a recipe is an object");
    // Tiles follow from the memory of the machine, unless somebody sets them; so does the version, which
    // says that there are tiles.
    for key in ["version", "product", "device", "output", "decoded_from", "tiles", "safeguards"] {
        object.shift_remove(key);
    }
    remove_places(&mut value);
    let digest = Sha256::digest(value.to_string());
    u32::from_be_bytes(digest[..4].try_into().expect("four bytes"))
}

/// Removes where files were; their hashes stay.
fn remove_places(value: &mut Value) {
    match value {
        Value::Object(members) => {
            for key in ["path", "files", "read_as"] {
                members.shift_remove(key);
            }
            members.values_mut().for_each(remove_places);
        }
        Value::Array(items) => items.iter_mut().for_each(remove_places),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

/// SHA-256 of a result; of a folder, of the names and hashes of its files in order. None of what is no
/// file.
///
/// # Errors
/// E0911 it cannot be read.
pub fn output_hash(path: &Path) -> Result<Option<String>> {
    if !path.is_dir() {
        return match path.is_file() {
            true => hash_file(path).map(Some),
            false => Ok(None),
        };
    }
    let entries = std::fs::read_dir(path).map_err(|fault| unreadable(path, fault))?;
    let mut files: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    files.sort();
    let mut hash = Sha256::new();
    for file in files.iter().filter(|file| file.is_file()) {
        hash.update(file.file_name().unwrap_or_default().as_encoded_bytes());
        hash.update(hash_file(file)?);
    }
    Ok(Some(hex(&hash.finalize())))
}
