//! A prompt from what changes, element by element (`prompts.md` §7).

use super::args::Generate;
use anyid_runtime::adapter::Wanted;
use anyid_runtime::checkpoint::Checkpoint;
use anyid_runtime::study::prompt::elements::{Element, Elements};
use anyid_runtime::study::prompt::style::{self, Style};
use anyid_runtime::{Error, Result};

/// The element of a name.
fn element(flag: &str, name: &str) -> Result<Element> {
    Element::of(name).ok_or_else(|| {
        let all: Vec<&str> = Element::ALL.iter().map(|element| element.name()).collect();
        Error::input("E0900", format!("\"{name}\" is no element of a prompt"))
            .at(flag)
            .help(format!("elements are {}", all.join(", ")))
    })
}

/// The flags with a prompt in place of changes.
///
/// # Errors
/// E0900 for a change that names no element, says nothing, is there twice, or is meant to stay.
pub(super) fn prompted(args: Generate) -> Result<Generate> {
    if args.changes.is_empty() {
        return Ok(args);
    }
    let mut elements = Elements::default();
    for change in &args.changes {
        let wrong = |what: &str| {
            Error::input("E0900", format!("{what}: {change}"))
                .at("--change")
                .help("write what the element is in a sentence, such as action=\"She nods.\"")
        };
        let (name, text) = change.split_once('=').ok_or_else(|| wrong("nothing is said of it"))?;
        let element = element("--change", name)?;
        if text.trim().is_empty() {
            return Err(wrong("nothing is said of it"));
        }
        if elements.get(element).is_some() {
            return Err(wrong("the element is there twice"));
        }
        elements.set(element, text);
    }
    for name in &args.keep {
        if elements.get(element("--keep", name)?).is_some() {
            return Err(Error::input("E0900", format!("{name} is said to change and to stay"))
                .at("--keep")
                .help("leave out one of them"));
        }
    }
    let style = args.prompt_style.map_or(Style::Plain, Style::from);
    Ok(Generate { prompt: Some(style::write(&elements, style)), ..args })
}

/// What is to be said of adapters that were trained with prompts of another style.
pub(super) fn other_styles(prompt: &str, adapters: &[Wanted]) -> Vec<String> {
    let own = style::of(prompt).name();
    let mut found = Vec::new();
    for adapter in adapters {
        let path = adapter.path.display();
        // What cannot be read here has been refused, or is no single file.
        let Ok(file) = Checkpoint::open(&adapter.path) else { continue };
        let trained = file.metadata().get("anyid.prompt_style");
        found.extend(trained.filter(|style| *style != own).map(|style| {
            format!(
                "{path} was trained with prompts that are {style}, and this one is {own}: \
                 --prompt-style and `anyid-rt prompt make --style` write others"
            )
        }));
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Command {
        #[command(flatten)]
        generate: Generate,
    }

    fn parsed(more: &[&str]) -> std::result::Result<Generate, String> {
        let words = ["generate", "-o", "x.mp4"].iter().chain(more);
        let command = Command::try_parse_from(words).map_err(|fault| fault.to_string())?;
        Ok(command.generate)
    }

    fn prompt(more: &[&str]) -> std::result::Result<String, String> {
        let made = prompted(parsed(more)?).map_err(|fault| fault.message().to_owned())?;
        Ok(made.prompt.unwrap_or_default())
    }

    #[test]
    fn changes_are_said_in_the_order_of_elements() {
        let two = ["--change", "action=She nods", "--change", "hair=She has  red hair."];
        assert_eq!(prompt(&two).unwrap(), "She has red hair. She nods.");
        let tagged = [&two[..], &["--prompt-style", "tagged", "--keep", "clothing"]].concat();
        assert_eq!(prompt(&tagged).unwrap(), "[hairstyle] She has red hair. [action] She nods.");
        assert_eq!(prompt(&["--prompt", "As it is"]).unwrap(), "As it is");
    }

    #[test]
    fn changes_that_say_nothing_sound_are_refused() {
        let cases: [(&[&str], &str); 9] = [
            (&["--change", "mood=glad"], "\"mood\" is no element"),
            (&["--change", "action"], "nothing is said"),
            (&["--change", "action= "], "nothing is said"),
            (&["--change", "action=a", "--change", "motion=b"], "there twice"),
            (&["--change", "action=a", "--keep", "action"], "to change and to stay"),
            (&["--change", "action=a", "--keep", "mood"], "\"mood\" is no element"),
            (&["--change", "action=a", "--prompt", "b"], "cannot be used with"),
            (&["--prompt", "b", "--keep", "action"], "cannot be used with"),
            (&["--keep", "action"], "required"),
        ];
        for (words, said) in cases {
            let fault = prompt(words).unwrap_err();
            assert!(fault.contains(said), "{words:?}: {fault}");
        }
    }
}
