//! What prompts say.
//!
//! An *absolute* prompt names every element of the target. A *differential* one names only what the
//! primary reference does not hand on already: what differs from it, and what its form cannot show.
//! A mentioned element is thus to be taken from the prompt, and another one from the primary.

use crate::person::{Clip, Element, Slot};
use crate::rules::{ACCESSORIES, CLOTHING, CUTS, EXPRESSIONS, GARMENTS, HAIR, PLACES, SHOTS};
use crate::world::{FRAMES, World};

/// What a reference shows of its clip.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ReferenceForm {
    /// A picture of the face.
    Face,
    /// A picture of head and shoulders.
    Portrait,
    /// All frames.
    Video,
}

impl ReferenceForm {
    /// All forms.
    pub const ALL: [Self; 3] = [Self::Face, Self::Portrait, Self::Video];

    /// Its name in manifests.
    pub fn name(self) -> &'static str {
        match self {
            Self::Face => "face",
            Self::Portrait => "portrait",
            Self::Video => "video",
        }
    }

    /// The form of a name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|form| form.name() == name)
    }

    /// How many pictures it is made of.
    pub fn pictures(self) -> usize {
        match self {
            Self::Face | Self::Portrait => 1,
            Self::Video => FRAMES,
        }
    }

    /// Whether a primary of this form hands an element of its clip on. A single picture tells
    /// neither framing nor where a movement began; a face besides neither clothes nor place.
    pub fn shows(self, element: Element) -> bool {
        match element {
            Element::Hairstyle | Element::Accessory | Element::Expression => true,
            Element::Clothing | Element::Background => self != Self::Face,
            Element::Shot | Element::Pose | Element::Action => self == Self::Video,
        }
    }
}

/// A prompt, and the elements that it names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Prompt {
    /// What is written.
    pub text: String,
    /// What is named, in its order.
    pub mentioned: Vec<Element>,
}

impl World {
    /// The sentence that says an element of a clip.
    pub fn sentence(&self, clip: &Clip, element: Element) -> String {
        let class = |slot| usize::from(clip.class(slot));
        match element {
            Element::Shot => SHOTS[class(Slot::Shot)].0.to_owned(),
            Element::Hairstyle => {
                let (cut, colour) = (CUTS[class(Slot::HairStyle)], HAIR[class(Slot::HairColour)].0);
                format!("The hair is {cut} and {colour}.")
            }
            Element::Clothing => {
                let (before, behind) = GARMENTS[class(Slot::ClothingStyle)];
                format!("They wear {before} {} {behind}.", CLOTHING[class(Slot::ClothingColour)].0)
            }
            Element::Accessory => ACCESSORIES[class(Slot::Accessory)].to_owned(),
            Element::Expression => EXPRESSIONS[class(Slot::Expression)].to_owned(),
            Element::Pose => self.rules.poses[class(Slot::Pose)].0.to_owned(),
            Element::Action => self.rules.actions[class(Slot::Action)].sentence.to_owned(),
            Element::Background => {
                format!("The background is {}.", PLACES[class(Slot::Background)])
            }
        }
    }

    /// The prompt that names every element of a clip.
    pub fn absolute_prompt(&self, target: &Clip) -> Prompt {
        self.say(target, self.elements().collect())
    }

    /// The prompt that names what a primary of this clip and form does not hand on. Something of
    /// the same class but of another shade is named, too. Where nothing is left the action is
    /// named, because the empty prompt stands for no prompt at all.
    pub fn differential_prompt(
        &self,
        target: &Clip,
        primary: &Clip,
        form: ReferenceForm,
    ) -> Prompt {
        let handed_on =
            |element: &Element| form.shows(*element) && target.shares(*element, primary);
        let mentioned: Vec<Element> =
            self.elements().filter(|element| !handed_on(element)).collect();
        match mentioned.is_empty() {
            true => self.say(target, vec![Element::Action]),
            false => self.say(target, mentioned),
        }
    }

    fn say(&self, target: &Clip, mentioned: Vec<Element>) -> Prompt {
        let said: Vec<String> =
            mentioned.iter().map(|element| self.sentence(target, *element)).collect();
        Prompt { text: said.join(" "), mentioned }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn clip(world: &World, classes: [u8; 10]) -> Clip {
        world.clip(classes, [1.0, 1.0, 0.5], [0.0; 4]).unwrap()
    }

    #[test]
    fn absolute_prompts_say_everything() {
        let classes = [0, 3, 5, 3, 1, 2, 1, 2, 1, 4];
        let world = World::new(2).unwrap();
        let prompt = world.absolute_prompt(&clip(&world, classes));
        assert_eq!(
            prompt.text,
            "A close-up shot. The hair is curly and blue. They wear a yellow suit. They wear a \
             yellow hat. The face is smiling. The head faces right. The head turns left. The \
             background is a brick wall."
        );
        assert_eq!(prompt.mentioned, Element::ALL);
        let world = World::new(1).unwrap();
        let prompt = world.absolute_prompt(&clip(&world, [2, 0, 0, 1, 2, 0, 3, 0, 4, 5]));
        assert_eq!(
            prompt.text,
            "A wide shot. The hair is short and black. They wear a striped green shirt. There is \
             no accessory. The face is surprised. The head looks right. The background is a starry \
             night."
        );
    }

    #[test]
    fn differential_prompts_say_what_the_primary_does_not_hand_on() {
        let world = World::new(2).unwrap();
        let primary = clip(&world, [0; 10]);
        let mut target = clip(&world, [0, 0, 0, 0, 0, 0, 1, 0, 0, 0]);
        let said = |target: &Clip, form| world.differential_prompt(target, &primary, form);
        assert_eq!(said(&target, ReferenceForm::Video).text, "The face is smiling.");
        assert_eq!(
            said(&target, ReferenceForm::Portrait).text,
            "A close-up shot. The face is smiling. The head faces forward. The head stays still."
        );
        let face = said(&target, ReferenceForm::Face).mentioned;
        assert!(face.contains(&Element::Clothing) && face.contains(&Element::Background));
        assert!(!face.contains(&Element::Hairstyle) && !face.contains(&Element::Accessory));
        // Another shade of the same colour is another thing.
        target.hair_shade = 0.9;
        let text = said(&target, ReferenceForm::Video).text;
        assert_eq!(text, "The hair is short and black. The face is smiling.");
        // Never the empty prompt.
        assert_eq!(said(&primary, ReferenceForm::Video).text, "The head stays still.");
    }

    #[test]
    fn forms_have_names() {
        for form in ReferenceForm::ALL {
            assert_eq!(ReferenceForm::named(form.name()), Some(form));
        }
        assert_eq!(ReferenceForm::named("profile"), None);
    }
}
