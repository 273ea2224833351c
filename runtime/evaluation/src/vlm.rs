//! What a model that looks at frames says of a video (`evaluation.md` §6): how far each fact of the prompt
//! is shown, and how good frames and motion are.
//!
//! It sees frames with their times and nothing else: no reference, no name of a system. Each video is judged
//! several times; the numbers of all repeats are kept. An answer that is unsound is mended once, and is
//! then a number that is missing, as is one that is refused: neither is 0.

pub mod agreement;
pub mod anchors;
pub mod facts;

use crate::raw::{Case, Fact, Judged};
use crate::run::{Judge, Moment};
use anyid_files::{Error, Result};
use anyid_study::lines::hash;
use anyid_study::prompt::server::answer::Question;
use anyid_study::prompt::server::ask::{Ask, Part};
use anyid_study::prompt::server::client::{Outcome, Server};
use anyid_study::prompt::server::judge::Judgement;
use anyid_study::prompt::server::media::{FRAME_SIDE, LEAST_SIDE, frames};
use anyid_study::records::Failure;
use facts::{Facts, Group};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::path::Path;

/// Frames that are looked at.
const FRAMES: usize = 16;

/// The instructions, by their names.
pub const TEMPLATES: [(&str, &str); 4] = [
    ("facts.v1", facts::INSTRUCTION),
    ("judge.prompt.v1", include_str!("vlm/judge.prompt.v1.txt")),
    ("judge.holistic.v1", include_str!("vlm/judge.holistic.v1.txt")),
    ("judge.quality.v1", include_str!("vlm/judge.quality.v1.txt")),
];
const PROMPT: &str = TEMPLATES[1].1;
const HOLISTIC: &str = TEMPLATES[2].1;
const QUALITY: &str = TEMPLATES[3].1;

/// How videos are judged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// How often each is judged; the median counts.
    pub repeats: usize,
    /// Whether the three numbers of the prompt are asked for directly.
    pub holistic: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self { repeats: 3, holistic: false }
    }
}

/// A model behind a server.
pub struct Vlm {
    server: Server,
    options: Options,
    /// By the names of what prompts say ([`facts::name`]).
    facts: BTreeMap<String, Facts>,
}

impl Vlm {
    /// A judge of these cases. Facts of their prompts are taken from the folder, or are asked for once and
    /// written there, where people can change them.
    ///
    /// # Errors
    /// E1707 for facts that cannot be made or are none, those of asking, E101x.
    pub fn open(server: Server, folder: &Path, options: Options, cases: &[Case]) -> Result<Self> {
        let mut facts = BTreeMap::new();
        if !options.holistic {
            for case in cases {
                let name = facts::name(case);
                if let Entry::Vacant(place) = facts.entry(name) {
                    place.insert(Facts::of(&server, folder, case)?);
                }
            }
        }
        Ok(Self { server, options, facts })
    }

    /// The server, with what it cost.
    pub fn server(&self) -> &Server {
        &self.server
    }

    /// Instructions that are in use, with their hashes.
    fn templates(&self) -> BTreeMap<String, String> {
        let used = TEMPLATES.iter().filter(|(_, text)| match self.options.holistic {
            true => *text != facts::INSTRUCTION && *text != PROMPT,
            false => *text != HOLISTIC,
        });
        used.map(|(name, text)| ((*name).to_owned(), hash(text.as_bytes()))).collect()
    }

    fn facts_of(&self, case: &Case) -> Result<&Facts> {
        self.facts.get(&facts::name(case)).ok_or_else(|| {
            Error::internal("E1013", format!("the prompt of case {} has no facts", case.id))
        })
    }

    /// What is asked of a video; none where the prompt says nothing that can be judged.
    fn about_prompt(&self, case: &Case) -> Result<Option<(Judgement, &'static str, String)>> {
        if self.options.holistic {
            let said = facts::said(case);
            let groups = Group::ALL.map(|group| said.iter().any(|(e, _)| Group::of(*e) == group));
            let lines = Group::ALL.into_iter().map(|group| {
                let own = said.iter().filter(|(element, _)| Group::of(*element) == group);
                (group, own.map(|(_, text)| *text).collect::<Vec<_>>().join(" "))
            });
            let lines = lines.filter(|(_, text)| !text.is_empty());
            let text: Vec<String> =
                lines.map(|(group, text)| format!("{}: {text}", group.title())).collect();
            let asked = Judgement::Whole(groups);
            return Ok((!said.is_empty()).then(|| (asked, HOLISTIC, text.join("\n"))));
        }
        let facts = self.facts_of(case)?;
        let lines = facts.all().map(|(id, _, text)| format!("{id}: {text}"));
        let text = format!("FACTS\n{}", lines.collect::<Vec<_>>().join("\n"));
        Ok((!facts.is_empty()).then(|| (Judgement::Verdicts(facts.counts()), PROMPT, text)))
    }

    /// A question about frames, made as small as the server wants.
    fn ask(&self, about: Judgement, system: &str, head: &str, moments: &[Moment]) -> Result<Ask> {
        let most = self.server.profile().max_body;
        let mut side = FRAME_SIDE;
        loop {
            let mut user = Vec::new();
            user.extend((!head.is_empty()).then(|| Part::Text(head.to_owned())));
            user.extend(frames(moments.iter().map(|m| (m.seconds, &m.image)), side)?);
            user.push(Part::Text("Return the JSON object.".to_owned()));
            let size = user.iter().map(Part::bytes).sum::<usize>() + system.len();
            if size <= most {
                return Ok(Ask::new(Question::Judge(about), system, user));
            }
            if side == LEAST_SIDE {
                let what = format!("the least that can be sent of a video has {size} bytes");
                return Err(Error::input("E1236", what)
                    .at(self.server.address())
                    .help(format!("the server takes max_body = {most}: raise it")));
            }
            side = (side * 3 / 4).max(LEAST_SIDE);
        }
    }

    /// Asks once; an answer that came to nothing is noted.
    fn heard(&self, ask: &Ask, judged: &mut Judged) -> Result<Option<Value>> {
        let what = match self.server.ask(ask)? {
            Outcome::Answered(answered, key) => {
                if judged.server_model.is_none() {
                    let kept = self.server.kept(&key);
                    judged.server_model =
                        kept.and_then(|kept| kept["model"].as_str().map(str::to_owned));
                }
                judged.answers.push(key);
                return Ok(Some(answered.value));
            }
            Outcome::Refused => "the judge does not want to answer".to_owned(),
            Outcome::Failed(what) => what,
        };
        let message = format!("{}: {what}", ask.question.name());
        judged.failures.push(Failure { code: "E1707".to_owned(), message });
        Ok(None)
    }
}

impl Judge for Vlm {
    fn frames(&self) -> usize {
        self.server.profile().max_images.clamp(1, FRAMES)
    }

    fn key(&self, case: &Case) -> Result<String> {
        let asked = self.about_prompt(case)?.map(|(_, _, text)| text);
        let parts = json!([self.described(), asked, FRAME_SIDE, self.server.profile().max_body]);
        Ok(hash(parts.to_string().as_bytes()))
    }

    fn judge(&self, case: &Case, moments: &[Moment]) -> Result<Judged> {
        let mut judged = Judged {
            model: self.server.model().to_owned(),
            templates: self.templates(),
            holistic: self.options.holistic,
            ..Judged::default()
        };
        let prompt = self.about_prompt(case)?;
        let about = match &prompt {
            Some((judgement, system, text)) => {
                Some((*judgement, self.ask(*judgement, system, text, moments)?))
            }
            None => None,
        };
        if let (Some((Judgement::Verdicts(_), _)), false) = (&about, self.options.holistic) {
            let facts = self.facts_of(case)?;
            judged.facts = facts
                .all()
                .map(|(id, element, text)| Fact {
                    id,
                    element: element.name().to_owned(),
                    text: text.to_owned(),
                    values: Vec::new(),
                    remarks: Vec::new(),
                })
                .collect();
        }
        let mut quality = self.ask(Judgement::Quality, QUALITY, "", moments)?;
        let mut groups: [Option<Vec<Option<f64>>>; 3] = [None, None, None];
        let (mut still, mut moving) = (Vec::new(), Vec::new());
        for vote in 0..self.options.repeats.max(1) {
            if let Some((judgement, ask)) = &about {
                let answer = self.heard(&Ask { vote, ..ask.clone() }, &mut judged)?;
                note(*judgement, answer.as_ref(), &mut judged.facts, &mut groups);
            }
            quality.vote = vote;
            let answer = self.heard(&quality, &mut judged)?.unwrap_or_default();
            still.push(answer["static"].as_f64());
            moving.push(answer["dynamic"].as_f64());
            let defects = answer["defects"].as_array().into_iter().flatten();
            for defect in defects.filter_map(Value::as_str) {
                if !judged.defects.iter().any(|known| known == defect) {
                    judged.defects.push(defect.to_owned());
                }
            }
        }
        [judged.app, judged.mot, judged.bg] = groups;
        (judged.sta, judged.dynamic) = (Some(still), Some(moving));
        Ok(judged)
    }

    fn described(&self) -> Value {
        json!({
            "model": self.server.model(), "address": self.server.address(),
            "templates": self.templates(), "repeats": self.options.repeats,
            "holistic": self.options.holistic, "frames": self.frames(),
        })
    }
}

/// Notes what an answer about the prompt says, or that there was none.
fn note(
    judgement: Judgement,
    answer: Option<&Value>,
    facts: &mut [Fact],
    groups: &mut [Option<Vec<Option<f64>>>; 3],
) {
    match judgement {
        Judgement::Verdicts(counts) => {
            for (at, fact) in facts.iter_mut().enumerate() {
                let own = answer.map(|answer| &answer["facts"][at]);
                fact.values.push(own.and_then(|own| own["value"].as_f64()));
                let remark = own.and_then(|own| own["remark"].as_str()).unwrap_or_default();
                if !remark.is_empty() {
                    fact.remarks.push(remark.to_owned());
                }
            }
            let mut begin = 0;
            for (group, count) in groups.iter_mut().zip(counts) {
                let own = &facts[begin..begin + count];
                begin += count;
                if count > 0 {
                    let last = own.iter().map(|fact| fact.values.last().copied().flatten());
                    let sum: Option<f64> = last.sum();
                    group.get_or_insert_default().push(sum.map(|sum| 100.0 * sum / count as f64));
                }
            }
        }
        Judgement::Whole(asked) => {
            let names = ["appearance", "motion", "background"];
            for ((group, name), asked) in groups.iter_mut().zip(names).zip(asked) {
                if asked {
                    let value = answer.and_then(|answer| answer[name].as_f64());
                    group.get_or_insert_default().push(value);
                }
            }
        }
        Judgement::Facts(_) | Judgement::Quality => {}
    }
}
