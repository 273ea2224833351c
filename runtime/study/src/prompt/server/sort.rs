//! The elements of a prompt without tags, sorted by a model (`prompts.md` §6). It may divide sentences, and
//! neither change nor add words.

use super::answer::Question;
use super::ask::{Ask, Part};
use super::client::{Outcome, Server};
use crate::prompt::elements::Elements;
use crate::prompt::similarity::words;
use anyid_files::{Error, Result};

/// The instruction.
pub const PARSE: &str = include_str!("parse.v1.txt");

/// The elements of a prompt.
///
/// # Errors
/// E1237 where no answer is sound or one has words that the prompt lacks; those of asking.
pub fn sort(server: &Server, prompt: &str) -> Result<Elements> {
    let ask = Ask::new(Question::Parse, PARSE, vec![Part::Text(format!("PROMPT {prompt}"))]);
    let unsound = |what: String| {
        Error::input("E1237", format!("the prompt could not be sorted: {what}"))
            .at(server.address())
            .help("ask a stronger model, or leave out --config: words of each element are known")
    };
    let value = match server.ask(&ask)? {
        Outcome::Answered(answered, _) => answered.value,
        Outcome::Refused => return Err(unsound("the server does not want to answer".to_owned())),
        Outcome::Failed(what) => return Err(unsound(what)),
    };
    let elements: Elements = serde_json::from_value(value["elements"].clone())
        .map_err(|fault| Error::internal("E1013", fault.to_string()))?;
    let known = words(prompt);
    let mut added: Vec<String> = elements.iter().flat_map(|(_, text)| words(text)).collect();
    added.retain(|word| !known.contains(word));
    match added.is_empty() {
        true => Ok(elements),
        false => Err(unsound(format!("the prompt does not have the words {}", added.join(", ")))),
    }
}
