//! Prompts about a woman as prompts about a man, and the other way round: pronouns and the words for
//! persons. What is written so is flagged, for it may fit less well.

use crate::set::Gender;

/// Words of a woman and of a man. `her` and `his` are looked at apart.
const WORDS: [[&str; 2]; 6] = [
    ["she", "he"],
    ["hers", "his"],
    ["herself", "himself"],
    ["woman", "man"],
    ["girl", "boy"],
    ["lady", "gentleman"],
];

/// Words behind which `her` stands for a person and not for what is hers.
const AFTER: [&str; 24] = [
    "and", "as", "at", "behind", "but", "by", "for", "from", "in", "into", "like", "near", "of",
    "on", "over", "so", "the", "then", "to", "towards", "under", "until", "while", "with",
];

/// A text about somebody of the other gender, as one about somebody of this one.
pub fn rewritten(text: &str, gender: Gender) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while !rest.is_empty() {
        let letters = rest.find(|c: char| !c.is_alphabetic()).unwrap_or(rest.len());
        let (word, behind) = rest.split_at(letters);
        if word.is_empty() {
            let sign = rest.chars().next().map_or(rest.len(), char::len_utf8);
            out.push_str(&rest[..sign]);
            rest = &rest[sign..];
            continue;
        }
        match other(&word.to_lowercase(), behind, gender) {
            Some(new) if word.starts_with(char::is_uppercase) => {
                let mut signs = new.chars();
                out.extend(signs.next().into_iter().flat_map(char::to_uppercase));
                out.push_str(signs.as_str());
            }
            Some(new) => out.push_str(new),
            None => out.push_str(word),
        }
        rest = behind;
    }
    out
}

/// The word in the place of one that `behind` follows.
fn other(word: &str, behind: &str, gender: Gender) -> Option<&'static str> {
    match (gender, word) {
        (Gender::Female, "his" | "him") => return Some("her"),
        (Gender::Male, "her") => {
            let next = behind.trim_start();
            let next = &next[..next.find(|c: char| !c.is_alphabetic()).unwrap_or(next.len())];
            let owns = behind.starts_with(' ')
                && !next.is_empty()
                && !AFTER.contains(&next.to_lowercase().as_str());
            return Some(if owns { "his" } else { "him" });
        }
        _ => {}
    }
    let [from, to] = match gender {
        Gender::Female => [1, 0],
        Gender::Male => [0, 1],
    };
    WORDS.iter().find(|pair| pair[from] == word).map(|pair| pair[to])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pronouns_suit_the_person() {
        for (text, gender, wanted) in [
            (
                "She lifts her chin; her eyes follow. Light falls on her from the left.",
                Gender::Male,
                "He lifts his chin; his eyes follow. Light falls on him from the left.",
            ),
            ("A sofa lies behind her.", Gender::Male, "A sofa lies behind him."),
            (
                "Her smile is hers, she tells herself.",
                Gender::Male,
                "His smile is his, he tells himself.",
            ),
            (
                "He turns his head; rain hits him.",
                Gender::Female,
                "She turns her head; rain hits her.",
            ),
            (
                "The theatre is where others gather.",
                Gender::Male,
                "The theatre is where others gather.",
            ),
        ] {
            assert_eq!(rewritten(text, gender), wanted);
        }
    }

    #[test]
    fn no_prompt_of_the_fixed_set_keeps_a_pronoun_of_the_other_gender() {
        for entry in anyid_study::prompt::benchmark::fixed() {
            let gender = if entry.gender == "m" { Gender::Female } else { Gender::Male };
            let text = rewritten(&entry.prompt(), gender);
            let left = match gender {
                Gender::Female => ["he", "his", "him", "himself"].as_slice(),
                Gender::Male => &["she", "her", "hers", "herself"],
            };
            let lower = text.to_lowercase();
            let mut words = lower.split(|c: char| !c.is_alphabetic());
            assert!(words.all(|word| !left.contains(&word)), "{}: {text}", entry.id);
        }
    }
}
