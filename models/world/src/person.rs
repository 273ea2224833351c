//! Who is seen, and how: the attributes of an identity and the elements of a clip.
//!
//! An *attribute* belongs to the person, is the same in all of its clips and is never named in a
//! prompt: it can be known from references alone. An *element* belongs to a clip and is what
//! prompts speak about. An element has one or two *slots* with a few classes each, and some have a
//! shade besides, which no word tells and only a reference can hand on.

use crate::error::{Error, Result};

/// What is the same in all clips of a person.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Attribute {
    /// Colour of the skin.
    Skin,
    /// Colour of the irises.
    Iris,
    /// Outline of the head.
    FaceShape,
    /// Distance between the eyes.
    EyeDistance,
    /// Thickness of the brows.
    Brow,
    /// Shape of the nose.
    Nose,
    /// Shape of the ears.
    Ears,
    /// Whether there are freckles.
    Freckles,
    /// The mark on the cheek at the left of the picture, seen when the head is turned right.
    MarkLeft,
    /// The mark on the other cheek.
    MarkRight,
    /// Teeth, seen when laughing: plain, with a gap, or one of gold.
    Teeth,
}

impl Attribute {
    /// All attributes.
    pub const ALL: [Self; 11] = [
        Self::Skin,
        Self::Iris,
        Self::FaceShape,
        Self::EyeDistance,
        Self::Brow,
        Self::Nose,
        Self::Ears,
        Self::Freckles,
        Self::MarkLeft,
        Self::MarkRight,
        Self::Teeth,
    ];

    /// The attributes that cover many pixels; results are pooled over them and over the others.
    pub const LARGE: [Self; 3] = [Self::Skin, Self::Iris, Self::FaceShape];

    /// Its name in tables and files.
    pub fn name(self) -> &'static str {
        match self {
            Self::Skin => "skin",
            Self::Iris => "iris",
            Self::FaceShape => "face_shape",
            Self::EyeDistance => "eye_distance",
            Self::Brow => "brow",
            Self::Nose => "nose",
            Self::Ears => "ears",
            Self::Freckles => "freckles",
            Self::MarkLeft => "mark_left",
            Self::MarkRight => "mark_right",
            Self::Teeth => "teeth",
        }
    }

    /// How many classes it has. Class 0 of a mark is none.
    pub fn classes(self) -> u8 {
        match self {
            Self::Skin | Self::MarkLeft | Self::MarkRight => 6,
            Self::Iris => 5,
            Self::FaceShape => 4,
            Self::EyeDistance | Self::Brow | Self::Nose | Self::Ears | Self::Teeth => 3,
            Self::Freckles => 2,
        }
    }
}

/// A person.
#[derive(Clone, Debug, PartialEq)]
pub struct Identity {
    classes: [u8; Attribute::ALL.len()],
    /// How much wider the head is than its class says, -0.012 to 0.012.
    pub(crate) width: f32,
}

impl Identity {
    /// The person with these classes, in the order of [`Attribute::ALL`], whose head is `width`
    /// wider than its class says.
    ///
    /// # Errors
    /// E0985 where a class or the width is out of range.
    pub fn new(classes: [u8; Attribute::ALL.len()], width: f32) -> Result<Self> {
        for (attribute, &class) in Attribute::ALL.iter().zip(&classes) {
            in_range(attribute.name(), class, attribute.classes())?;
        }
        let width = bounded("width of the head", width, -0.012, 0.012)?;
        Ok(Self { classes, width })
    }

    /// The class of an attribute.
    pub fn class(&self, attribute: Attribute) -> u8 {
        self.classes[attribute as usize]
    }

    /// The same person with another class of one attribute, which has to be one of its classes.
    pub(crate) fn with(&self, attribute: Attribute, class: u8) -> Self {
        debug_assert!(class < attribute.classes());
        let mut other = self.clone();
        other.classes[attribute as usize] = class;
        other
    }
}

/// A part of an element that has classes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Slot {
    /// Close-up, medium or wide.
    Shot,
    /// Cut of the hair.
    HairStyle,
    /// Colour of the hair.
    HairColour,
    /// Pattern of the clothes.
    ClothingStyle,
    /// Colour of the clothes.
    ClothingColour,
    /// What is worn besides.
    Accessory,
    /// Expression of the face.
    Expression,
    /// Where the head faces at the start; there is one class in version 1.
    Pose,
    /// How the head moves.
    Action,
    /// The kind of place.
    Background,
}

impl Slot {
    /// All slots.
    pub const ALL: [Self; 10] = [
        Self::Shot,
        Self::HairStyle,
        Self::HairColour,
        Self::ClothingStyle,
        Self::ClothingColour,
        Self::Accessory,
        Self::Expression,
        Self::Pose,
        Self::Action,
        Self::Background,
    ];

    /// The element that it is a part of.
    pub fn element(self) -> Element {
        match self {
            Self::Shot => Element::Shot,
            Self::HairStyle | Self::HairColour => Element::Hairstyle,
            Self::ClothingStyle | Self::ClothingColour => Element::Clothing,
            Self::Accessory => Element::Accessory,
            Self::Expression => Element::Expression,
            Self::Pose => Element::Pose,
            Self::Action => Element::Action,
            Self::Background => Element::Background,
        }
    }

    /// Its name in tables and files.
    pub fn name(self) -> &'static str {
        match self {
            Self::Shot => "shot",
            Self::HairStyle => "hair_style",
            Self::HairColour => "hair_colour",
            Self::ClothingStyle => "clothing_style",
            Self::ClothingColour => "clothing_colour",
            Self::Accessory => "accessory",
            Self::Expression => "expression",
            Self::Pose => "pose",
            Self::Action => "action",
            Self::Background => "background",
        }
    }
}

/// What prompts speak about, in the order in which they do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Element {
    /// Framing.
    Shot,
    /// Cut, colour and shade of the hair.
    Hairstyle,
    /// Pattern, colour and shade of the clothes.
    Clothing,
    /// What is worn besides.
    Accessory,
    /// Expression of the face.
    Expression,
    /// Where the head faces at the start (not in version 1, where actions say it).
    Pose,
    /// How the head moves.
    Action,
    /// The place and its layout.
    Background,
}

impl Element {
    /// All elements, in the order of prompts.
    pub const ALL: [Self; 8] = [
        Self::Shot,
        Self::Hairstyle,
        Self::Clothing,
        Self::Accessory,
        Self::Expression,
        Self::Pose,
        Self::Action,
        Self::Background,
    ];

    /// Its name in tables and files.
    pub fn name(self) -> &'static str {
        match self {
            Self::Shot => "shot",
            Self::Hairstyle => "hairstyle",
            Self::Clothing => "clothing",
            Self::Accessory => "accessory",
            Self::Expression => "expression",
            Self::Pose => "pose",
            Self::Action => "action",
            Self::Background => "background",
        }
    }
}

/// What is seen of a person in one clip.
#[derive(Clone, Debug, PartialEq)]
pub struct Clip {
    pub(crate) classes: [u8; Slot::ALL.len()],
    /// How light the hair is, 0.75 to 1.15 of its colour.
    pub(crate) hair_shade: f32,
    /// How light the clothes are, 0.65 to 1.15 of their colour.
    pub(crate) clothing_shade: f32,
    /// How the background is laid out, 0 to 1.
    pub(crate) layout: f32,
    /// What no prompt says, -1 to 1 each: turn of the head, zoom, and place of the camera.
    pub(crate) wobble: [f32; 4],
}

impl Clip {
    /// A clip with these classes, in the order of [`Slot::ALL`]; `classes_of` says how many there
    /// are of each.
    pub(crate) fn checked(
        classes: [u8; Slot::ALL.len()],
        shades: [f32; 3],
        wobble: [f32; 4],
        classes_of: impl Fn(Slot) -> u8,
    ) -> Result<Self> {
        for (slot, &class) in Slot::ALL.iter().zip(&classes) {
            in_range(slot.name(), class, classes_of(*slot))?;
        }
        for value in wobble {
            bounded("wobble", value, -1.0, 1.0)?;
        }
        let [hair, clothing, layout] = shades;
        Ok(Self {
            classes,
            hair_shade: bounded("shade of the hair", hair, 0.0, 1.5)?,
            clothing_shade: bounded("shade of the clothes", clothing, 0.0, 1.5)?,
            layout: bounded("layout of the background", layout, 0.0, 1.0)?,
            wobble,
        })
    }

    /// The class of a slot.
    pub fn class(&self, slot: Slot) -> u8 {
        self.classes[slot as usize]
    }

    /// The same clip with another class of one slot.
    pub(crate) fn with(&self, slot: Slot, class: u8) -> Self {
        let mut other = self.clone();
        other.classes[slot as usize] = class;
        other
    }

    /// Takes an element from another clip, shade and all.
    pub(crate) fn take(&mut self, element: Element, other: &Self) {
        for slot in Slot::ALL.into_iter().filter(|slot| slot.element() == element) {
            self.classes[slot as usize] = other.class(slot);
        }
        match element {
            Element::Hairstyle => self.hair_shade = other.hair_shade,
            Element::Clothing => self.clothing_shade = other.clothing_shade,
            Element::Background => self.layout = other.layout,
            Element::Shot
            | Element::Accessory
            | Element::Expression
            | Element::Pose
            | Element::Action => {}
        }
    }

    /// Whether an element is the same in both clips, shade and all.
    pub fn shares(&self, element: Element, other: &Self) -> bool {
        let mut taken = self.clone();
        taken.take(element, other);
        taken == *self
    }
}

fn in_range(what: &str, class: u8, classes: u8) -> Result<()> {
    if class < classes {
        return Ok(());
    }
    let message = format!("class {class} of {what}, which has {classes}");
    Err(Error::new("E0985", message, "classes are counted from 0"))
}

fn bounded(what: &str, value: f32, low: f32, high: f32) -> Result<f32> {
    if (low..=high).contains(&value) {
        return Ok(value);
    }
    let message = format!("the {what} is {value}");
    Err(Error::new("E0985", message, format!("give a number from {low} to {high}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_out_of_range_is_refused() {
        let mut classes = [0; 11];
        assert!(Identity::new(classes, 0.0).is_ok());
        for width in [0.5, f32::NAN] {
            assert_eq!(Identity::new(classes, width).unwrap_err().code(), "E0985");
        }
        classes[Attribute::Freckles as usize] = 2;
        let error = Identity::new(classes, 0.0).unwrap_err();
        assert_eq!(error.code(), "E0985");
        assert_eq!(error.message(), "class 2 of freckles, which has 2");
        let clip = |classes, shades, wobble| Clip::checked(classes, shades, wobble, |_| 3);
        assert!(clip([2; 10], [1.0; 3], [-1.0; 4]).is_ok());
        assert!(clip([3; 10], [1.0; 3], [0.0; 4]).is_err());
        assert!(clip([0; 10], [1.0, 1.0, 1.5], [0.0; 4]).is_err());
        assert!(clip([0; 10], [f32::NAN, 1.0, 1.0], [0.0; 4]).is_err());
        assert!(clip([0; 10], [1.0; 3], [0.0, 0.0, 1.01, 0.0]).is_err());
    }

    #[test]
    fn orders_are_those_of_the_lists() {
        assert!(Attribute::ALL.iter().enumerate().all(|(at, item)| *item as usize == at));
        assert!(Slot::ALL.iter().enumerate().all(|(at, item)| *item as usize == at));
        assert!(Element::ALL.iter().enumerate().all(|(at, item)| *item as usize == at));
    }

    #[test]
    fn an_element_is_shared_with_its_shade_only() {
        let one = Clip::checked([1; 10], [1.0, 0.8, 0.5], [0.0; 4], |_| 2).unwrap();
        let mut other = one.with(Slot::Action, 0);
        other.hair_shade = 0.9;
        let shared: Vec<Element> =
            Element::ALL.into_iter().filter(|element| one.shares(*element, &other)).collect();
        assert_eq!(shared.len(), 6);
        assert!(!shared.contains(&Element::Hairstyle) && !shared.contains(&Element::Action));
        other.take(Element::Hairstyle, &one);
        assert!(one.shares(Element::Hairstyle, &other));
    }
}
