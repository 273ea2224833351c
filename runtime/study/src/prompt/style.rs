//! How a prompt is written from elements, and read back (`prompts.md` §6).

use super::elements::{Element, Elements};
use serde::{Deserialize, Serialize};

/// How a prompt is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Style {
    /// Sentences alone, one after the other.
    #[default]
    Plain,
    /// `[shot] …` on one line.
    Tagged,
    /// `1. [shot] …`, a line each.
    Numbered,
    /// `ShotType: …` on one line.
    Labelled,
}

impl Style {
    /// All styles.
    pub const ALL: [Self; 4] = [Self::Plain, Self::Tagged, Self::Numbered, Self::Labelled];

    /// As it is written.
    pub fn name(self) -> &'static str {
        match self {
            Self::Plain => "plain",
            Self::Tagged => "tagged",
            Self::Numbered => "numbered",
            Self::Labelled => "labelled",
        }
    }
}

/// A text with its white space brought to single spaces and a mark at its end.
fn sentence(text: &str) -> String {
    let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
    if text.ends_with(['.', '!', '?', '…']) { text } else { format!("{text}.") }
}

/// The prompt of elements, in their order.
pub fn write(elements: &Elements, style: Style) -> String {
    let parts = elements.iter().enumerate().map(|(at, (element, text))| {
        let text = sentence(text);
        match style {
            Style::Plain => text,
            Style::Tagged => format!("[{}] {text}", element.name()),
            Style::Numbered => format!("{}. [{}] {text}", at + 1, element.name()),
            Style::Labelled => format!("{}: {text}", element.label()),
        }
    });
    parts.collect::<Vec<_>>().join(if style == Style::Numbered { "\n" } else { " " })
}

/// Where the text of an element begins: at `from` with its mark, at `to` without.
struct Mark {
    from: usize,
    to: usize,
    element: Element,
}

/// The marks of a prompt that is not plain.
fn marks(prompt: &str) -> Vec<Mark> {
    let mut found = Vec::new();
    let mut at = 0;
    while at < prompt.len() {
        let rest = &prompt[at..];
        if let Some(inner) = rest.strip_prefix('[')
            && let Some(end) = inner.find(']')
            && let Some(element) = Element::of(&inner[..end])
        {
            // A number in front belongs to the mark.
            let before = prompt[..at].trim_end();
            let digits =
                before.strip_suffix('.').map(|b| b.trim_end_matches(|c: char| c.is_ascii_digit()));
            let numbered = digits.filter(|b| {
                b.len() + 1 < before.len() && (b.is_empty() || b.ends_with(char::is_whitespace))
            });
            found.push(Mark { from: numbered.map_or(at, str::len), to: at + end + 2, element });
            at += end + 2;
            continue;
        }
        let starts = at == 0 || prompt[..at].ends_with(char::is_whitespace);
        let label = rest.split(':').next().filter(|label| starts && label.len() < rest.len());
        let element =
            label.filter(|label| label.len() <= 12 && label.starts_with(char::is_uppercase));
        if let Some((label, element)) = element.and_then(|l| Some((l, Element::of(l)?))) {
            found.push(Mark { from: at, to: at + label.len() + 1, element });
            at += label.len() + 1;
            continue;
        }
        at += rest.chars().next().map_or(1, char::len_utf8);
    }
    found
}

/// How a prompt is written.
pub fn of(prompt: &str) -> Style {
    match marks(prompt).first() {
        None => Style::Plain,
        Some(mark) => match prompt[mark.from..mark.to].chars().next() {
            Some('[') => Style::Tagged,
            Some(c) if c.is_ascii_digit() => Style::Numbered,
            _ => Style::Labelled,
        },
    }
}

/// The elements of a prompt with tags, numbers or labels; none where it has none of them. Sentences
/// of a plain prompt are sorted by the words they have.
pub fn read(prompt: &str) -> Elements {
    let marks = marks(prompt);
    let mut elements = Elements::default();
    let mut add = |element: Element, text: &str| {
        let text = text.trim();
        let whole = match elements.get(element) {
            Some(before) => format!("{before} {text}"),
            None => text.to_owned(),
        };
        elements.set(element, whole);
    };
    if marks.is_empty() {
        for (element, text) in super::lexicon::sorted(prompt) {
            add(element, text);
        }
        return elements;
    }
    let ends = marks.iter().skip(1).map(|mark| mark.from).chain([prompt.len()]);
    for (mark, end) in marks.iter().zip(ends) {
        add(mark.element, &prompt[mark.to..end]);
    }
    elements
}

#[cfg(test)]
mod tests {
    use super::*;

    fn elements() -> Elements {
        let mut elements = Elements::default();
        for (element, text) in [
            (Element::Shot, "Static close-up shot."),
            (Element::Hairstyle, "He has short black hair"),
            (Element::Clothing, "He wears a grey suit with a red tie."),
            (Element::Accessory, "He wears round glasses."),
            (Element::Expression, "He smiles; then his smile fades."),
            (Element::Action, "He turns his head: slowly, to the left."),
            (Element::Background, "A bright kitchen. Sunlight falls through the window."),
        ] {
            elements.set(element, text);
        }
        elements
    }

    #[test]
    fn every_style_is_read_back() {
        let mut whole = elements();
        whole.set(Element::Hairstyle, "He has short black hair.");
        for style in Style::ALL {
            let text = write(&elements(), style);
            assert_eq!((read(&text), of(&text)), (whole.clone(), style), "{text}");
        }
        let mut part = Elements::default();
        part.set(Element::Action, "She nods.");
        for style in Style::ALL {
            assert_eq!(read(&write(&part, style)), part, "{style:?}");
        }
    }

    #[test]
    fn styles_are_written_as_the_paper_shows_them() {
        let mut two = Elements::default();
        two.set(Element::Shot, "  Static   close-up shot ");
        two.set(Element::Action, "He nods.");
        assert_eq!(write(&two, Style::Plain), "Static close-up shot. He nods.");
        assert_eq!(write(&two, Style::Tagged), "[shot] Static close-up shot. [action] He nods.");
        assert_eq!(
            write(&two, Style::Numbered),
            "1. [shot] Static close-up shot.\n2. [action] He nods."
        );
        assert_eq!(
            write(&two, Style::Labelled),
            "ShotType: Static close-up shot. Action: He nods."
        );
        assert_eq!(write(&Elements::default(), Style::Plain), "");
    }
}
