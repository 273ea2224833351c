//! Prompts by what a primary reference shows exactly as it is cut out (`prompts.md` §2), in place of what
//! its clip shows and a rule on what a form hides.

use super::client::{Outcome, Server};
use super::compare::scores;
use super::examples::{self, Stage};
use super::{Told, asked_all, costs, media};
use crate::lines::Lines;
use crate::prompt::differ::Difference;
use crate::prompt::elements::Elements;
use crate::prompt::profile::Profile;
use crate::stages::Job;
use anyid_files::output::AtomicFile;
use anyid_files::{Error, Result};
use serde_json::{Value, json};

/// Samples that are asked about at a time.
const BLOCK: usize = 256;

/// How many pictures that sends.
///
/// # Errors
/// E0911, E1202.
pub fn pictures(job: &Job, profile: &Profile) -> Result<usize> {
    let mut lines = Lines::open(&job.path("train.jsonl"))?;
    let mut count = 0;
    while let Some(line) = lines.next() {
        let sample: Value = serde_json::from_str(&line?).map_err(|fault| lines.fault(fault))?;
        count += media::pictures_of(&sample["references"][0], profile);
    }
    Ok(count)
}

/// Describes the primary of every sample of `train.jsonl` as it is cut out, compares that with what the
/// target shows, and writes the prompts anew. A sample of which no answer is sound keeps its prompt, and
/// is counted.
///
/// # Errors
/// Those of asking and decoding, E0911, E1202, E101x.
pub fn exact(job: &Job, describing: &Server, comparing: &Server) -> Result<Told> {
    let before = [describing, comparing].map(Server::costs);
    let path = job.path("train.jsonl");
    let mut lines = Lines::open(&path)?;
    let targets = job.texts()?.described;
    let mut told = Told::default();
    let mut file = AtomicFile::create(&path)?;
    let outcome = loop {
        let mut samples: Vec<Value> = Vec::new();
        while samples.len() < BLOCK {
            let Some(line) = lines.next() else { break };
            samples.push(serde_json::from_str(&line?).map_err(|fault| lines.fault(fault))?);
        }
        if samples.is_empty() {
            break Ok(());
        }
        let mut block = Block { job, targets: &targets, samples, told: &mut told };
        if let Err(fault) = block.written(describing, comparing) {
            break Err(fault);
        }
        for sample in &block.samples {
            file.append(format!("{sample}\n").as_bytes())?;
        }
    };
    told.costs = describing.costs().since(&before[0]);
    let compared = comparing.costs().since(&before[1]);
    // What was paid is paid, however the run ended.
    costs::add(&job.out, "describe", describing, &told.costs)?;
    costs::add(&job.out, "compare", comparing, &compared)?;
    told.costs = told.costs.and(&compared);
    outcome?;
    file.commit()?;
    Ok(told)
}

struct Block<'b> {
    job: &'b Job,
    targets: &'b std::collections::BTreeMap<String, Elements>,
    samples: Vec<Value>,
    told: &'b mut Told,
}

impl Block<'_> {
    /// Writes the prompts of all samples anew.
    fn written(&mut self, describing: &Server, comparing: &Server) -> Result<()> {
        let settings = &self.job.settings;
        let examples = examples::of(&settings.prompt, Stage::Describe)?;
        let mut primaries: Vec<(usize, Elements, String)> = Vec::new();
        let (samples, told) = (&self.samples, &mut *self.told);
        let ask = |at: usize| {
            let part = &samples[at]["references"][0];
            let ask = media::about_part(&self.job.root, part, describing.profile())?;
            let mut ask = ask.ok_or_else(|| {
                let what = format!(
                    "sample {}: the primary lacks its media, frame or crop",
                    samples[at]["id"]
                );
                Error::input("E1202", what)
                    .help("`anyid-rt data check FILE` shows all that is wrong with a file")
            })?;
            ask.examples.clone_from(&examples);
            Ok(ask)
        };
        asked_all(describing, samples.len(), &ask, &mut |at, outcome| {
            match outcome {
                Outcome::Answered(answered, key) => {
                    let elements = serde_json::from_value(answered.value["elements"].clone());
                    let elements =
                        elements.map_err(|fault| Error::internal("E1013", fault.to_string()))?;
                    primaries.push((at, elements, key));
                }
                Outcome::Refused => told.refused += 1,
                Outcome::Failed(_) => told.failed += 1,
            }
            Ok(())
        })?;
        let target = |at: usize| {
            let clip = samples[at]["target"]["clip"].as_str().unwrap_or_default();
            self.targets.get(clip)
        };
        primaries.retain(|(at, ..)| target(*at).is_some());
        let pairs: Vec<(&Elements, &Elements)> =
            primaries.iter().filter_map(|(at, own, _)| Some((own, target(*at)?))).collect();
        let found = scores(&pairs, comparing, &settings.prompt)?;
        let mut prompts = Vec::new();
        for (((at, _, key), (_, target)), scores) in primaries.iter().zip(&pairs).zip(&found) {
            if scores.iter().all(Option::is_none) {
                told.failed += 1;
                continue;
            }
            let difference = Difference {
                target,
                scores,
                // What it does not show is said of it, and no rule is needed.
                form: "portrait",
                gamma: settings.sample.gamma,
                style: settings.sample.style,
                full: false,
            };
            prompts.extend(difference.prompt().map(|prompt| (*at, prompt, key.clone())));
        }
        for (at, prompt, key) in prompts {
            let sample = &mut self.samples[at];
            sample["prompt"] = prompt.prompt.into();
            sample["prompt_full"] = prompt.full.into();
            sample["elements"] = prompt.table.into();
            sample["prompt_style"] = settings.sample.style.name().into();
            sample["provenance"] = json!({
                "vlm": describing.model(), "llm": comparing.model(), "cache": [key],
            });
            self.told.lines += 1;
        }
        Ok(())
    }
}
