//! What a prompt says, split into facts that can be checked by looking, once for each prompt: every system
//! is judged by the same list, and people can change it (`vlm/NAME.json` in the folder of results).

use crate::raw::Case;
use anyid_files::error::unreadable;
use anyid_files::output::{AtomicFile, make_folder};
use anyid_files::{Error, Result, input};
use anyid_study::lines::hash;
use anyid_study::prompt::elements::{Element, NO_ACCESSORIES, NOT_VISIBLE};
use anyid_study::prompt::server::answer::Question;
use anyid_study::prompt::server::ask::{Ask, Part};
use anyid_study::prompt::server::client::{Outcome, Server};
use anyid_study::prompt::server::judge::{Judgement, MOST_FACTS, fact_names};
use serde_json::{Map, Value, json};
use std::path::Path;

/// The instruction.
pub const INSTRUCTION: &str = include_str!("facts.v1.txt");
/// The kind of the file.
const SCHEMA: &str = "anyid.facts/1";
/// Largest file, in bytes.
const LARGEST: u64 = 1 << 20;

/// What elements are judged together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Group {
    /// Hair, clothes, accessories and expression.
    Appearance,
    /// Camera and action.
    Motion,
    /// Place and light.
    Background,
}

impl Group {
    /// All, in the order of tables.
    pub const ALL: [Self; 3] = [Self::Appearance, Self::Motion, Self::Background];

    /// That of an element.
    pub fn of(element: Element) -> Self {
        match element {
            Element::Hairstyle | Element::Clothing | Element::Accessory | Element::Expression => {
                Self::Appearance
            }
            Element::Shot | Element::Action => Self::Motion,
            Element::Background => Self::Background,
        }
    }

    /// As questions write it.
    pub fn title(self) -> &'static str {
        match self {
            Self::Appearance => "APPEARANCE",
            Self::Motion => "MOTION",
            Self::Background => "BACKGROUND",
        }
    }
}

/// What the prompt of a case says: elements that it leaves to the reference are not judged.
pub fn said(case: &Case) -> Vec<(Element, &str)> {
    let kept: Vec<Option<Element>> = case.preserve.iter().map(|name| Element::of(name)).collect();
    let stated = |text: &str| text != NO_ACCESSORIES && text != NOT_VISIBLE;
    let all = case.elements.iter();
    all.filter(|(element, text)| stated(text) && !kept.contains(&Some(*element))).collect()
}

fn object(case: &Case) -> Value {
    let said = said(case).into_iter();
    said.map(|(element, text)| (element.name().to_owned(), json!(text)))
        .collect::<Map<_, _>>()
        .into()
}

/// The name of what a prompt says, which files of facts are called after.
pub fn name(case: &Case) -> String {
    let digest = hash(object(case).to_string().as_bytes());
    format!("{}-{}", case.prompt_id, &digest[..8])
}

/// Facts of a prompt, by element.
#[derive(Clone, Debug, PartialEq)]
pub struct Facts(Vec<(Element, Vec<String>)>);

fn bad(what: String, place: &Path) -> Error {
    Error::input("E1707", what).at(place.display())
}

impl Facts {
    /// Those of a case: as the folder has them, or as a server makes them.
    ///
    /// # Errors
    /// E1707, those of asking, E101x.
    pub fn of(server: &Server, folder: &Path, case: &Case) -> Result<Self> {
        let path = folder.join(format!("{}.json", name(case)));
        let said = said(case);
        if said.is_empty() {
            return Ok(Self(Vec::new()));
        }
        if !path.exists() {
            Self::made(server, &path, case)?;
        }
        // What stands there counts, also where another process was faster.
        Self::read(&path, &said)
    }

    fn made(server: &Server, path: &Path, case: &Case) -> Result<()> {
        let mut asked = [false; 7];
        said(case).iter().for_each(|(element, _)| asked[*element as usize] = true);
        let text = object(case).to_string();
        let question = Question::Judge(Judgement::Facts(asked));
        let ask = Ask::new(question, INSTRUCTION, vec![Part::Text(text)]);
        let what = match server.ask(&ask)? {
            Outcome::Answered(answered, _) => {
                let value = json!({
                    "schema": SCHEMA, "prompt_id": case.prompt_id, "elements": object(case),
                    "facts": answered.value, "model": server.model(),
                    "template": hash(INSTRUCTION.as_bytes()),
                });
                make_folder(path.parent().unwrap_or(Path::new("")))?;
                let mut file = AtomicFile::create(path)?;
                file.append(format!("{value:#}\n").as_bytes())?;
                return file.commit().map(drop);
            }
            Outcome::Refused => "the judge does not want to answer".to_owned(),
            Outcome::Failed(what) => what,
        };
        Err(bad(format!("prompt {} cannot be split into facts: {what}", case.prompt_id), path)
            .help(
                "ask a stronger model, or write the file by hand; docs/evaluation.md has its form",
            ))
    }

    fn read(path: &Path, said: &[(Element, &str)]) -> Result<Self> {
        let large = |limit| bad(format!("a file of facts has at most {limit} bytes"), path);
        let bytes = input::read(path, LARGEST)
            .map_err(|refusal| refusal.coded(path, |cause| unreadable(path, cause), large))?;
        let wrong = |what: String| {
            bad(what, path).help("mend the file, or remove it to have the facts made again")
        };
        let value: Value = serde_json::from_slice(&bytes)
            .map_err(|cause| wrong(format!("this is not JSON: {cause}")))?;
        let object = value["facts"].as_object().filter(|_| value["schema"] == SCHEMA);
        let object = object.ok_or_else(|| wrong(format!("this is no {SCHEMA}")))?;
        let mut found = Vec::new();
        for (name, list) in object {
            let element = Element::of(name).filter(|e| said.iter().any(|(own, _)| own == e));
            let element =
                element.ok_or_else(|| wrong(format!("the prompt says nothing of \"{name}\"")))?;
            let texts = list.as_array().into_iter().flatten().map(|text| {
                let text = text.as_str().map(str::trim).filter(|text| !text.is_empty());
                text.map(str::to_owned)
            });
            let texts: Option<Vec<String>> = texts.collect();
            let texts = texts.filter(|texts| (1..=4 * MOST_FACTS).contains(&texts.len()));
            let texts =
                texts.ok_or_else(|| wrong(format!("\"{name}\" is no list of sentences")))?;
            found.push((element, texts));
        }
        found.sort_by_key(|(element, _)| (Group::of(*element), *element));
        match found.windows(2).any(|pair| pair[0].0 == pair[1].0) {
            true => Err(wrong("an element is there twice".to_owned())),
            false => Ok(Self(found)),
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// How many there are of each group.
    pub fn counts(&self) -> [usize; 3] {
        Group::ALL.map(|group| {
            let own = self.0.iter().filter(|(element, _)| Group::of(*element) == group);
            own.map(|(_, texts)| texts.len()).sum()
        })
    }

    /// All, in the order of their groups, with their names.
    pub fn all(&self) -> impl Iterator<Item = (String, Element, &str)> {
        let texts = self
            .0
            .iter()
            .flat_map(|(element, texts)| texts.iter().map(|text| (*element, text.as_str())));
        fact_names(self.counts())
            .into_iter()
            .zip(texts)
            .map(|(id, (element, text))| (id, element, text))
    }
}
