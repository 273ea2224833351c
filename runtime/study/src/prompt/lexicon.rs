//! The words by which texts are understood without a model: which element a sentence is about, which
//! colours are one, which words say nothing (`prompts.md` §7 and §8). Lists alone, and the search in
//! them.

use super::elements::Element;
use super::similarity::{stem, words};

/// Words that say nothing by themselves.
const STOP_WORDS: &str = "a|an|the|and|or|of|in|on|at|to|with|by|for|from|into|as|is|are|be|been|\
    it|its|it'|this|that|these|those|there|he|she|they|him|her|hi|them|their|\
    his|hers|theirs|person|man|woman|who|which|has|have|had|wear|wears|wearing|\
    worn|while|then|very|some|also|both|each|over|under";

/// Whether a word says nothing by itself.
pub fn is_stop_word(word: &str) -> bool {
    STOP_WORDS.split('|').any(|stop| stop == word)
}

/// Colours, each with its other names; the first one stands for all.
const COLOURS: &str = "black jet ebony onyx|white ivory cream off-white|grey gray silver charcoal slate|\
    red crimson scarlet maroon burgundy ruby|blue azure cobalt sapphire navy indigo|\
    green olive emerald khaki sage|yellow mustard lemon|orange amber tangerine|\
    brown brunette chestnut chocolate tan hazel|beige sand camel|pink rose magenta fuchsia|\
    purple violet lilac lavender plum|blond blonde golden gold|teal turquoise cyan";

/// The name that stands for a colour; none where the word is none.
pub fn colour_of(word: &str) -> Option<&'static str> {
    let named = |names: &&str| names.split(' ').any(|name| name == word);
    COLOURS.split('|').find(named)?.split(' ').next()
}

/// Words and phrases of the elements, in the singular and in lower case.
const WORDS: [(Element, &str); 7] = [
    (
        Element::Shot,
        "shot|camera|close-up|closeup|close up|medium close-up|medium shot|full shot|\
         wide shot|long shot|full-body shot|full body shot|wide-angle|static|handheld|\
         hand-held|pan|pans|panning|tilt up|tilt down|zoom|zooms|push-in|pushes in|\
         pull-out|pulls out|dolly|orbit|orbits|tracking|low angle|high angle|eye level|\
         eye-level|framing|framed|bird's-eye|over-the-shoulder|lens|depth of field|bokeh|\
         overhead",
    ),
    (
        Element::Hairstyle,
        "hair|hairstyle|haircut|ponytail|pigtail|braid|braided|bun|bangs|bang|fringe|\
         curl|curly|wavy|bob|bald|shaved head|dreadlock|afro|beard|bearded|moustache|\
         mustache|stubble|goatee|sideburn|buzz cut|crew cut|updo|parting|parted|\
         shoulder-length|clean-shaven|mohawk|quiff|undercut|pixie cut|lock|strand",
    ),
    (
        Element::Clothing,
        "shirt|t-shirt|tee|blouse|sweater|jumper|hoodie|cardigan|jacket|blazer|coat|\
         raincoat|trench coat|suit|tie|bow tie|dress|gown|skirt|trousers|trouser|\
         pants|pant|jeans|jean|shorts|short sleeve|legging|vest|waistcoat|uniform|\
         school uniform|overall|apron|robe|kimono|sari|cloak|cape|armour|armor|\
         spacesuit|space suit|tunic|turtleneck|polo|tank top|top|collar|sleeve|button|\
         shoe|boot|sneaker|heel|sandal|sock|outfit|garment|clothing|clothes|costume|\
         lace|wool|denim|leather|cotton|silk|linen|plaid|striped|checked|pattern|\
         swimsuit|tracksuit|jersey|lab coat|pullover|\
         knitwear|tuxedo|scarf",
    ),
    (
        Element::Accessory,
        "accessory|accessories|glasses|glass frame|eyeglass|spectacle|sunglasses|\
         sunglasse|earring|necklace|bracelet|ring|watch|wristwatch|brooch|pendant|\
         jewellery|jewelry|hat|cap|beanie|headband|hairband|hairpin|crown|tiara|\
         helmet|headphone|earphone|earbud|bag|handbag|backpack|purse|umbrella|belt|\
         glove|mask|goggle|microphone|lanyard|badge|turban|veil|holds|hold|holding|\
         book|phone|cup|mug|guitar|sword|lantern|staff|bouquet",
    ),
    (
        Element::Expression,
        "expression|smile|smiling|smirk|grin|grinning|frown|frowning|laugh|laughing|\
         laughter|cry|crying|tear|sad|happy|angry|anger|surprise|surprised|calm|\
         serious|neutral|thoughtful|pensive|gaze|look of|eyebrow|brow|wide-eyed|joy|\
         joyful|worried|worry|fear|fearful|disgust|puzzled|confused|relaxed|\
         concentrated|focused|confident|determined|tender|gentle|melancholy|delight|\
         delighted|amused|stern|blank|wink|pout|sneer|grimace|beam|lips|lip|softens|\
         fades",
    ),
    (
        Element::Action,
        "turn|turning|nod|nodding|shake|raise|raising|lower|lowering|tilt|tilting|\
         look|looking|walk|walking|run|running|sit|sitting|stand|standing|lean|\
         leaning|wave|waving|speak|speaking|talk|talking|sing|singing|dance|dancing|\
         jump|jumping|step|reach|reaching|point|pointing|touch|clap|drink|drinking|\
         eat|eating|read|reading|write|writing|type|typing|play|playing|drive|\
         driving|swim|ride|riding|head|hand|arm|shoulder|gesture|bow|breathe|sway|\
         glance|blink|kneel|crouch|move|moves|pose",
    ),
    (
        Element::Background,
        "background|behind|room|kitchen|office|studio|street|city|park|forest|tree|\
         beach|sea|ocean|mountain|lake|river|field|meadow|garden|desert|sky|cloud|\
         sun|sunlight|sunset|sunrise|moonlight|night|day|daylight|morning|evening|\
         dusk|dawn|rain|snow|fog|mist|wind|light|lighting|lamp|shadow|neon|wall|\
         window|door|floor|shelf|bookshelf|table|desk|chair|sofa|curtain|plant|\
         building|bridge|station|train|car|bus|boat|ship|spaceship|planet|castle|\
         temple|church|library|cafe|café|restaurant|bar|shop|market|stage|theatre|\
         concert|stadium|gym|classroom|hospital|laboratory|corridor|hall|indoors|\
         outdoors|indoor|outdoor|interior|backdrop|setting|scene|horizon|skyline|\
         fireplace|candle|bedroom",
    ),
];

/// A word or phrase of an element in a text.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Hit {
    /// What it is of.
    pub element: Element,
    /// As the list has it.
    pub phrase: &'static str,
    /// The first of its words.
    pub at: usize,
    /// How many words it has.
    pub count: usize,
}

/// The words and phrases of elements among words, the longest first at each place.
pub fn hits(words: &[String]) -> Vec<Hit> {
    let mut found = Vec::new();
    let mut at = 0;
    while at < words.len() {
        let mut best: Option<Hit> = None;
        for (element, phrases) in &WORDS {
            for phrase in phrases.split('|') {
                let parts: Vec<&str> = phrase.split(' ').collect();
                let here = words.len() - at >= parts.len()
                    && parts.iter().zip(&words[at..]).all(|(part, word)| {
                        part == word || *part == stem(word) || progressive(part, word)
                    });
                if here && best.is_none_or(|hit| hit.count < parts.len()) {
                    best = Some(Hit { element: *element, phrase, at, count: parts.len() });
                }
            }
        }
        at += best.map_or(1, |hit| hit.count);
        found.extend(best);
    }
    found
}

/// Whether a word is the progressive or past form of one of the list.
fn progressive(base: &str, word: &str) -> bool {
    word.strip_suffix("ing").or_else(|| word.strip_suffix("ed")).is_some_and(|short| {
        short.len() > 2 && (short == base || base.strip_suffix('e').is_some_and(|b| b == short))
    })
}

/// The sentences of a text, with the mark at their end.
pub fn sentences(text: &str) -> Vec<&str> {
    let mut found = Vec::new();
    let mut begin = 0;
    let mut rest = text.char_indices().peekable();
    while let Some((at, c)) = rest.next() {
        let ends = rest.peek().is_none_or(|(_, next)| next.is_whitespace());
        if ends && (matches!(c, '.' | '!' | '?' | '…') || rest.peek().is_none()) {
            let end = at + c.len_utf8();
            let part = text[begin..end].trim();
            if !part.is_empty() {
                found.push(part);
            }
            begin = end;
        }
    }
    found
}

/// The sentences of a text, each with the element that most of its words are of; one without such
/// words goes with the sentence before.
pub fn sorted(text: &str) -> Vec<(Element, &str)> {
    let mut out: Vec<(Element, &str)> = Vec::new();
    for sentence in sentences(text) {
        let words = words(sentence);
        let mut counts = [0usize; 7];
        let found = hits(&words);
        for hit in &found {
            counts[hit.element as usize] += hit.count;
        }
        let most = counts.iter().copied().max().unwrap_or(0);
        let first = found.iter().find(|hit| counts[hit.element as usize] == most);
        let accessory = super::elements::NO_ACCESSORIES == sentence;
        let element = match (first, out.last()) {
            _ if accessory => Element::Accessory,
            (Some(hit), _) => hit.element,
            (None, Some((before, _))) => *before,
            (None, None) => Element::Action,
        };
        out.push((element, sentence));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sentences_go_to_the_element_that_they_are_about() {
        let text = "Static medium close-up shot. She has long wavy red hair, parted in the middle. \
                    She wears a dark green wool sweater. No accessories. She smiles gently, then \
                    frowns. She turns her head to the left and looks down. A small kitchen with \
                    a window. It is quiet.";
        let found: Vec<Element> = sorted(text).into_iter().map(|(element, _)| element).collect();
        let mut expected = Element::ALL.to_vec();
        expected.push(Element::Background);
        assert_eq!(found, expected);
        assert_eq!(sentences("A 2.5 m wall. B!  C"), ["A 2.5 m wall.", "B!", "C"]);
        assert!(sentences("  ").is_empty());
    }

    #[test]
    fn the_longest_phrase_counts() {
        let text = words("A medium close-up, wearing a trench coat");
        let found: Vec<&str> = hits(&text).iter().map(|hit| hit.phrase).collect();
        assert_eq!(found, ["medium close-up", "trench coat"]);
        assert!(WORDS.iter().map(|(_, list)| list.split('|').count()).sum::<usize>() >= 400);
    }
}
