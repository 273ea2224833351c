//! What is wrong with a prompt that a person wrote, by the words that it has (`prompts.md` §8): each
//! finding with its place in the text and what to do. Nothing is sent anywhere.

use super::elements::{Element, Elements, NO_ACCESSORIES};
use super::lexicon::{colour_of, hits, sentences, sorted};
use super::similarity::{Similarity, score, stem};
use super::style;
use anyid_files::error::plural;
use anyid_files::{Error, Result};
use serde::Serialize;
use std::ops::Range;

/// How grave a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Good to know.
    Info,
    /// Likely to give another result than is meant.
    Warn,
    /// The prompt cannot be used, or contradicts itself.
    Error,
}

/// Something about a prompt.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Finding {
    /// Which rule.
    pub code: &'static str,
    /// How grave it is.
    pub severity: Severity,
    /// Bytes of the prompt that it is about; empty for all of it.
    pub span: Range<usize>,
    /// What was found.
    pub message: String,
    /// What to do.
    pub help: String,
}

/// What is known besides the prompt.
#[derive(Clone, Copy, Debug, Default)]
pub struct Context<'c> {
    /// What the primary reference shows.
    pub primary: Option<&'c Elements>,
    /// The pronoun of the person.
    pub pronoun: Option<&'c str>,
    /// The form of the primary reference, `portrait` where it is not said.
    pub form: Option<&'c str>,
    /// Elements more alike than this need not be said.
    pub gamma: f64,
    /// Names and other words of the user's that say who it is.
    pub names: &'c [String],
}

/// Names of people in a prompt: nationalities and the like that stand before one of [`PEOPLE`].
const ORIGINS: &str = "african|american|arab|arabic|asian|australian|black-skinned|brazilian|british|\
    caucasian|chinese|dutch|egyptian|english|ethiopian|european|filipino|french|german|\
    greek|hispanic|indian|indonesian|iranian|irish|italian|japanese|jewish|korean|\
    latina|latino|mexican|nigerian|persian|polish|portuguese|russian|scandinavian|\
    slavic|spanish|swedish|thai|turkish|ukrainian|vietnamese";
/// Who a person is, in one word.
const PEOPLE: &str = "man|woman|person|boy|girl|lady|gentleman|male|female|guy|actor|actress|model|\
    people|child|teenager|adult";
/// Words and phrases by which a person is told from others.
const IDENTITY: &str = "elderly|young|middle-aged|teenage|years old|year old|pale skin|dark skin|fair skin|\
    light skin|tanned skin|skin tone|skinned|freckles|wrinkles|blue eyes|brown eyes|\
    green eyes|hazel eyes|grey eyes|gray eyes|black eyes|oval face|round face|square jaw|\
    sharp jaw|jawline|high cheekbones|cheekbones|full lips|thin lips|snub nose|long nose|\
    looks like|look like|resembles|identical to|lookalike|same person|same face";
/// Phrases that ask for what is kept anyway.
const KEEP: &str = "same clothes|same clothing|same outfit|same hair|same hairstyle|same background|\
    same glasses|same expression|unchanged|as in the reference|as before|\
    like in the reference|still wearing|keeps the|remains the same|stay the same|\
    stays the same|reference image|reference picture|reference video";
/// Phrases that say what is not there.
const NEGATIONS: &str = "without|no|not|never|doesn't|does not|isn't|don't";
/// Words for several people.
const SEVERAL: &str = "two men|two women|two people|three people|couple|crowd|group of|another man|\
    another woman|another person|friends|with his friend|with her friend|people|audience|\
    family|children|both of them|each other";
/// Words for text in the picture.
const TEXT: &str = "text|caption|subtitle|subtitles|sign that says|sign reading|logo|watermark|letters|\
    written|the words|slogan|title card|nike|adidas|coca-cola|iphone|gucci|starbucks|\
    disney";
/// Words that put one thing behind another in time.
const IN_TIME: &str = "then|gradually|finally|slowly|after|before|begins|starts|ends|turning into|\
    changes|becomes|fades|until|first|at last|eventually";
/// Pairs of which only one can be, with the words for each side.
const OPPOSITES: [(&str, &str, &str, bool); 5] = [
    (
        "framing",
        "close-up|closeup|close up|extreme close-up",
        "full body|full-body|full shot|wide shot|long shot",
        false,
    ),
    (
        "camera motion",
        "static|fixed camera|still camera",
        "pans|panning|zooms|dolly|orbits|tracking|handheld|pushes in|pulls out",
        true,
    ),
    ("time of day", "day|daylight|noon|midday|sunny", "night|midnight|moonlight", true),
    ("place", "indoors|indoor|interior", "outdoors|outdoor", true),
    (
        "expression",
        "smile|smiles|smiling|grin|grins|laughs|laughing",
        "frown|frowns|frowning|cries|crying|scowls|sad",
        true,
    ),
];
/// What changes how much of the person is seen.
const NEARS: &str = "push-in|pushes in|pull-out|pulls out|zoom|zooms|dolly|crane";
/// What a close-up does not show.
const BELOW: &str = "shoes|boots|sneakers|sandals|heels|trousers|pants|jeans|skirt|socks|knees|legs|\
    feet|full outfit";

/// Most tokens that the text encoder reads, and those from which a prompt is long.
const MOST: usize = 512;
const MANY: usize = 400;

/// Whether a word is in a list.
fn is_one(list: &str, word: &str) -> bool {
    list.split('|').any(|known| known == word)
}

/// A word with its place in the text.
struct Token {
    word: String,
    span: Range<usize>,
    /// Whether it begins a sentence.
    first: bool,
    /// Whether it is written with a capital.
    capital: bool,
}

fn tokens(text: &str) -> Vec<Token> {
    let inner = |c: char| c.is_alphanumeric() || c == '\'' || c == '-' || c == '’';
    let mut out: Vec<Token> = Vec::new();
    let (mut begin, mut first) = (None, true);
    for (at, c) in text.char_indices().chain([(text.len(), ' ')]) {
        match (inner(c), begin) {
            (true, None) => begin = Some(at),
            (false, Some(from)) => {
                let raw = &text[from..at];
                let word = raw.replace('’', "'").to_lowercase();
                let capital = raw.starts_with(char::is_uppercase);
                out.push(Token { word, span: from..at, first, capital });
                (begin, first) = (None, false);
            }
            _ => {}
        }
        first |= matches!(c, '.' | '!' | '?' | ']' | '\n' | ':');
    }
    out
}

/// Places of a phrase among words, each as a range of bytes.
fn places(tokens: &[Token], phrase: &str) -> Vec<Range<usize>> {
    let parts: Vec<&str> = phrase.split(' ').collect();
    let fits =
        |window: &&[Token]| window.iter().zip(&parts).all(|(token, part)| token.word == *part);
    let windows = tokens.windows(parts.len()).filter(fits);
    windows.map(|window| window[0].span.start..window[parts.len() - 1].span.end).collect()
}

/// Counts the tokens of a text.
pub type Counter<'c> = &'c dyn Fn(&str) -> usize;

/// Finds what is wrong with a prompt. `counter` counts tokens for the text encoder, where it is known.
pub fn lint(prompt: &str, counter: Option<Counter<'_>>, context: &Context<'_>) -> Vec<Finding> {
    let mut out = Linter { prompt, tokens: tokens(prompt), found: Vec::new() };
    if prompt.trim().is_empty() {
        out.add("L001", Severity::Error, 0..0, "the prompt is empty", "say what should be seen");
        return out.found;
    }
    if let Some(counter) = counter {
        out.length(counter);
    }
    out.identity(context.names);
    out.pronouns(context.pronoun);
    out.contradictions();
    out.framing();
    out.elements(context);
    out.phrases();
    out.found.sort_by(|a, b| {
        b.severity.cmp(&a.severity).then(a.span.start.cmp(&b.span.start)).then(a.code.cmp(b.code))
    });
    out.found
}

struct Linter<'p> {
    prompt: &'p str,
    tokens: Vec<Token>,
    found: Vec<Finding>,
}

impl Linter<'_> {
    fn add(
        &mut self,
        code: &'static str,
        severity: Severity,
        span: Range<usize>,
        message: impl Into<String>,
        help: impl Into<String>,
    ) {
        let finding = Finding { code, severity, span, message: message.into(), help: help.into() };
        if !self.found.iter().any(|f| f.code == code && f.span == finding.span) {
            self.found.push(finding);
        }
    }

    /// The places of any of several phrases.
    fn any(&self, phrases: &str) -> Vec<Range<usize>> {
        let mut found: Vec<Range<usize>> =
            phrases.split('|').flat_map(|phrase| places(&self.tokens, phrase)).collect();
        found.sort_by_key(|span| (span.start, std::cmp::Reverse(span.end)));
        // A phrase within a longer one says the same.
        found.dedup_by(|b, a| a.start <= b.start && b.end <= a.end);
        found
    }

    fn quoted(&self, span: &Range<usize>) -> &str {
        &self.prompt[span.clone()]
    }

    /// How many tokens the prompt has, and where most of them are.
    fn length(&mut self, counter: Counter<'_>) {
        let (whole, count) = (0..self.prompt.len(), counter(self.prompt));
        if count <= MANY {
            return;
        }
        let elements = style::read(self.prompt);
        let of = |(element, text): (Element, &str)| format!("{} {}", element.name(), counter(text));
        let elements = elements.iter().map(of).collect::<Vec<String>>().join(", ");
        let (code, severity, what, help) = match count > MOST {
            true => {
                let what = format!("the prompt has {count} tokens, at most {MOST} are read");
                ("L001", Severity::Error, what, "say less about what matters less")
            }
            false => {
                let what = format!("the prompt has {count} tokens; {MOST} are the most");
                ("L002", Severity::Warn, what, "a shorter prompt is followed better")
            }
        };
        self.add(code, severity, whole, format!("{what}: {elements}"), help);
    }

    fn identity(&mut self, names: &[String]) {
        let help = "leave it out: who it is comes from the references";
        let mut spans = self.any(IDENTITY);
        for name in names {
            spans.extend(places(&self.tokens, &name.to_lowercase()));
        }
        for pair in self.tokens.windows(2) {
            let [one, two] = pair else { continue };
            let of_people = is_one(ORIGINS, &one.word) && is_one(PEOPLE, &two.word);
            let gap = &self.prompt[one.span.end..two.span.start];
            let name = one.capital && two.capital && !one.first && gap == " ";
            // A capital alone is no name where it stands for a language, a place or a brand of words.
            if of_people || name {
                spans.push(one.span.start..two.span.end);
            }
        }
        for token in &self.tokens {
            let age = token.word.split_once("-year").is_some_and(|(number, _)| {
                !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit())
            });
            if age {
                spans.push(token.span.clone());
            }
        }
        for span in spans {
            let message = format!("\"{}\" says who the person is", self.quoted(&span));
            self.add("L010", Severity::Warn, span, message, help);
        }
    }

    fn pronouns(&mut self, known: Option<&str>) {
        let kinds: [(&str, &[&str]); 2] =
            [("he", &["he", "his", "him", "himself"]), ("she", &["she", "her", "hers", "herself"])];
        let mut used: Vec<(&str, Range<usize>)> = Vec::new();
        for token in &self.tokens {
            for (kind, forms) in kinds {
                if forms.contains(&token.word.as_str()) {
                    used.push((kind, token.span.clone()));
                }
            }
        }
        let Some(first) =
            known.filter(|known| *known != "they").or(used.first().map(|(kind, _)| *kind))
        else {
            return;
        };
        if let Some((_, span)) = used.iter().find(|(kind, _)| *kind != first) {
            let message = format!("\"{}\" stands beside \"{first}\"", self.quoted(span));
            let help = format!("use the forms of \"{first}\" everywhere, or describe one person");
            self.add("L011", Severity::Warn, span.clone(), message, help);
        }
    }

    fn contradictions(&mut self) {
        let in_time = !self.any(IN_TIME).is_empty();
        let nears = !self.any(NEARS).is_empty();
        for (what, one, other, may_change) in OPPOSITES {
            if may_change && in_time || what == "framing" && nears {
                continue;
            }
            if let (Some(a), Some(b)) = (self.any(one).first(), self.any(other).first()) {
                let message = format!("{what}: \"{}\" and \"{}\"", self.quoted(a), self.quoted(b));
                let (begin, end) = (a.start.min(b.start), a.end.max(b.end));
                let help = match may_change {
                    true => "keep one of them, or say that one follows the other (then, gradually)",
                    false => "keep one of them",
                };
                self.add("L020", Severity::Error, begin..end, message, help);
            }
        }
        self.colours();
        let none = self.prompt.find(NO_ACCESSORIES);
        if let Some(at) = none {
            let other = sorted(self.prompt)
                .into_iter()
                .find(|(element, text)| *element == Element::Accessory && *text != NO_ACCESSORIES);
            if let Some((_, text)) = other {
                let message = format!("\"{NO_ACCESSORIES}\" and \"{text}\"");
                let span = at..at + NO_ACCESSORIES.len();
                self.add("L020", Severity::Error, span, message, "keep one of them");
            }
        }
    }

    /// Two colours for one garment.
    fn colours(&mut self) {
        let mut seen: Vec<(String, &'static str, Range<usize>)> = Vec::new();
        for pair in self.tokens.windows(2) {
            let [colour, noun] = pair else { continue };
            let Some(colour_name) = colour_of(stem(&colour.word)) else { continue };
            let noun_word = stem(&noun.word).to_owned();
            let garment = hits(std::slice::from_ref(&noun.word)).first().is_some_and(|hit| {
                matches!(hit.element, Element::Clothing | Element::Hairstyle | Element::Accessory)
            });
            if garment {
                seen.push((noun_word, colour_name, colour.span.start..noun.span.end));
            }
        }
        for (at, (noun, colour, span)) in seen.iter().enumerate() {
            let before =
                seen[..at].iter().find(|(other, before, _)| other == noun && before != colour);
            if let Some((_, _, first)) = before {
                let message = format!("\"{}\" and \"{}\"", self.quoted(first), self.quoted(span));
                let help = "say one colour, or name both garments apart";
                self.add("L020", Severity::Error, span.clone(), message, help);
            }
        }
    }

    fn framing(&mut self) {
        let close = self.any("close-up|closeup|close up");
        let medium = self.any("medium close-up");
        if close.is_empty() || (!medium.is_empty() && close.len() == medium.len()) {
            return;
        }
        for span in self.any(BELOW) {
            let message = format!("a close-up does not show \"{}\"", self.quoted(&span));
            self.add("L021", Severity::Warn, span, message, "leave it out, or widen the shot");
        }
    }

    fn elements(&mut self, context: &Context<'_>) {
        let said = super::style::read(self.prompt);
        let (missing, hidden): (Vec<Element>, Vec<Element>) = Element::ALL
            .into_iter()
            .filter(|element| said.get(*element).is_none())
            .partition(|element| !element.hidden_by(context.form.unwrap_or("portrait")));
        let names = |elements: &[Element]| {
            elements.iter().map(|element| element.name()).collect::<Vec<_>>().join(", ")
        };
        if !missing.is_empty() {
            let message = format!("will follow the primary: {}", names(&missing));
            let help = "say something of them where they should be other than in the reference";
            self.add("L030", Severity::Info, 0..0, message, help);
        }
        if !hidden.is_empty() {
            let message = format!("the primary does not show: {}", names(&hidden));
            let help = "say something of them, or take a wider picture as the primary";
            self.add("L034", Severity::Warn, 0..0, message, help);
        }
        if said.get(Element::Action).is_none() && said.get(Element::Expression).is_none() {
            let message = "no action and no expression: the result may be still";
            self.add("L042", Severity::Info, 0..0, message, "say what the person does");
        }
        let Some(primary) = context.primary else { return };
        for (element, text) in said.iter() {
            let Some(shown) = primary.get(element) else { continue };
            if score(shown, text, Similarity::Lexical) > context.gamma {
                let first = sentences(text).first().copied().unwrap_or(text);
                let at = self.prompt.find(first).unwrap_or(0);
                let span = at..(at + text.len()).min(self.prompt.len());
                let message = format!("{}: the primary shows this already", element.name());
                self.add("L031", Severity::Warn, span, message, "leave it out: it is kept anyway");
            }
        }
    }

    fn phrases(&mut self) {
        for span in self.any(KEEP) {
            let message = format!("\"{}\" asks for what is kept anyway", self.quoted(&span));
            let help = "leave it out: whatever is not said follows the references";
            self.add("L032", Severity::Warn, span, message, help);
        }
        let fixed = self.prompt.find(NO_ACCESSORIES);
        for span in self.any(NEGATIONS) {
            if fixed.is_some_and(|at| (at..at + NO_ACCESSORIES.len()).contains(&span.start)) {
                continue;
            }
            let message = format!("\"{}\": what is not there is hard to say", self.quoted(&span));
            let help = "say what is seen instead, or the fixed phrase \"No accessories.\"";
            self.add("L033", Severity::Warn, span, message, help);
        }
        for span in self.any(SEVERAL) {
            let message = format!("\"{}\": several people", self.quoted(&span));
            let help = "describe one person; others have no references";
            self.add("L040", Severity::Warn, span, message, help);
        }
        for span in self.any(TEXT) {
            let message = format!("\"{}\": writing and brands come out wrong", self.quoted(&span));
            self.add("L041", Severity::Warn, span, message, "leave it out");
        }
    }
}

/// Whether a prompt can be used.
///
/// # Errors
/// E1221 where a finding is an error.
pub fn verdict(found: &[Finding]) -> Result<()> {
    match found.iter().filter(|finding| finding.severity == Severity::Error).count() {
        0 => Ok(()),
        errors => Err(Error::input("E1221", format!("the prompt has {}", plural(errors, "error")))
            .help("mend what is marked as an error; warnings and notes are advice")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(prompt: &str, context: &Context<'_>) -> Vec<(&'static str, String)> {
        let text = |finding: &Finding| prompt[finding.span.clone()].to_owned();
        lint(prompt, None, context).iter().map(|f| (f.code, text(f))).collect()
    }

    fn plain(prompt: &str) -> Vec<(&'static str, String)> {
        found(prompt, &Context { gamma: 0.8, ..Context::default() })
    }

    #[test]
    fn every_rule_has_its_place_in_the_text() {
        for (prompt, code, span) in [
            ("", "L001", ""),
            ("A 25-year-old smiles.", "L010", "25-year-old"),
            ("An elderly person nods.", "L010", "elderly"),
            ("A Korean woman smiles.", "L010", "Korean woman"),
            ("He looks like an actor and nods.", "L010", "looks like"),
            ("Portrait of Tom Hanks, who nods.", "L010", "Tom Hanks"),
            ("She has blue eyes and smiles.", "L010", "blue eyes"),
            ("He nods. She smiles.", "L011", "She"),
            ("A close-up. A full-body shot. He nods.", "L020", "close-up. A full-body"),
            ("Static camera that pans left.", "L020", "Static camera that pans"),
            ("He wears a red coat. The blue coat is long.", "L020", "blue coat"),
            ("She smiles and frowns.", "L020", "smiles and frowns"),
            ("No accessories. She wears a hat.", "L020", "No accessories."),
            ("Indoors, in a room that is outdoors.", "L020", "Indoors, in a room that is outdoors"),
            ("A close-up. He wears leather shoes.", "L021", "shoes"),
            ("He nods in the same clothes.", "L032", "same clothes"),
            ("She smiles without glasses.", "L033", "without"),
            ("A crowd cheers. He waves.", "L040", "crowd"),
            ("He waves at a sign reading hello.", "L041", "sign reading"),
            ("A red wall.", "L042", ""),
        ] {
            let all = plain(prompt);
            assert!(all.contains(&(code, span.to_owned())), "{prompt}: {all:?}");
        }
    }

    #[test]
    fn a_good_prompt_has_only_the_table_of_what_is_kept() {
        let prompt = "Static medium close-up shot. She smiles, then she frowns. She turns her head \
                      to the left. A kitchen at night, lit by a lamp. No accessories.";
        let all = plain(prompt);
        assert_eq!(all.iter().map(|(code, _)| *code).collect::<Vec<_>>(), ["L030"], "{all:?}");
        let message = &lint(prompt, None, &Context::default())[0].message;
        assert_eq!(message, "will follow the primary: hairstyle, clothing");
        // A camera that comes nearer shows both.
        let all = plain("A pull-out from a close-up to a full shot. He nods.");
        assert!(all.iter().all(|(code, _)| *code != "L020"), "{all:?}");
    }

    #[test]
    fn what_the_primary_shows_and_hides_is_told() {
        let mut primary = Elements::default();
        primary.set(Element::Clothing, "She wears a grey wool coat.");
        let context = Context {
            primary: Some(&primary),
            form: Some("face"),
            gamma: 0.8,
            pronoun: Some("he"),
            ..Context::default()
        };
        let all = found("She nods. She wears a gray wool coat.", &context);
        assert!(all.contains(&("L031", "She wears a gray wool coat.".to_owned())), "{all:?}");
        assert!(all.contains(&("L011", "She".to_owned())), "{all:?}");
        let hidden = lint("She smiles.", None, &context);
        let hidden = hidden.iter().find(|f| f.code == "L034").unwrap();
        assert_eq!(hidden.message, "the primary does not show: shot, clothing, action, background");
    }

    #[test]
    fn only_errors_make_a_prompt_unusable() {
        let of = |prompt: &str| verdict(&lint(prompt, None, &Context::default()));
        assert_eq!(of("").unwrap_err().code(), "E1221");
        assert_eq!(of("She smiles and frowns.").unwrap_err().message(), "the prompt has 1 error");
        assert!(of("She smiles without glasses.").is_ok());
    }

    #[test]
    fn lengths_and_names_of_the_user_count() {
        let context = Context::default();
        let of = |count: usize| -> Vec<Finding> {
            let counter = move |text: &str| if text.len() > 8 { count } else { 3 };
            lint("He nods. A park.", Some(&counter), &context)
        };
        let has = |count: usize, code: &str| of(count).iter().any(|f| f.code == code);
        assert!(has(513, "L001") && has(512, "L002") && has(401, "L002") && !has(400, "L002"));
        let what = &of(513)[0].message;
        assert!(what.ends_with("at most 512 are read: action 3, background 3"), "{what}");
        let names = ["Zoe".to_owned()];
        let all = found("Today Zoe nods.", &Context { names: &names, ..Context::default() });
        assert!(all.contains(&("L010", "Zoe".to_owned())), "{all:?}");
    }
}
