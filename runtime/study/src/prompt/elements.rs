//! The seven elements of a description, in their order, and the two texts with a meaning of their own
//! (`prompts.md` §1).

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::{Map, Value};

/// What one sentence or several say about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Element {
    /// Framing, height and motion of the camera.
    Shot,
    /// Hair and beard.
    Hairstyle,
    /// Garments.
    Clothing,
    /// Glasses, jewellery, hats, bags, what is held.
    Accessory,
    /// The face, and how it changes.
    Expression,
    /// Pose, motion of head, hands and body.
    Action,
    /// Place, time, weather and light.
    Background,
}

/// Where there is nothing of the kind.
pub const NO_ACCESSORIES: &str = "No accessories.";
/// Where it cannot be seen.
pub const NOT_VISIBLE: &str = "Not visible.";

impl Element {
    /// All, in their order.
    pub const ALL: [Self; 7] = [
        Self::Shot,
        Self::Hairstyle,
        Self::Clothing,
        Self::Accessory,
        Self::Expression,
        Self::Action,
        Self::Background,
    ];

    /// As it is written.
    pub fn name(self) -> &'static str {
        match self {
            Self::Shot => "shot",
            Self::Hairstyle => "hairstyle",
            Self::Clothing => "clothing",
            Self::Accessory => "accessory",
            Self::Expression => "expression",
            Self::Action => "action",
            Self::Background => "background",
        }
    }

    /// As the labelled style writes it.
    pub fn label(self) -> &'static str {
        match self {
            Self::Shot => "ShotType",
            Self::Hairstyle => "Hairstyle",
            Self::Clothing => "Clothing",
            Self::Accessory => "Accessory",
            Self::Expression => "Expression",
            Self::Action => "Action",
            Self::Background => "Background",
        }
    }

    /// The element of a name, which may be any that is in use.
    pub fn of(name: &str) -> Option<Self> {
        let name = name.trim().to_ascii_lowercase();
        Some(match name.as_str() {
            "shot" | "shottype" | "shot type" | "camera" => Self::Shot,
            "hairstyle" | "hair" => Self::Hairstyle,
            "clothing" | "clothes" | "outfit" => Self::Clothing,
            "accessory" | "accessories" => Self::Accessory,
            "expression" | "emotion" => Self::Expression,
            "action" | "motion" => Self::Action,
            "background" | "setting" | "scene" => Self::Background,
            _ => return None,
        })
    }

    /// Whether a reference of a form shows nothing of it (`data.md` §7).
    pub fn hidden_by(self, form: &str) -> bool {
        form == "face"
            && matches!(self, Self::Shot | Self::Clothing | Self::Action | Self::Background)
    }
}

/// A text for each element; empty where nothing is known.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Elements([String; 7]);

impl Elements {
    /// The text of an element; none where nothing is known.
    pub fn get(&self, element: Element) -> Option<&str> {
        let text = self.0[element as usize].trim();
        (!text.is_empty()).then_some(text)
    }

    /// Sets the text of an element.
    pub fn set(&mut self, element: Element, text: impl Into<String>) {
        self.0[element as usize] = text.into();
    }

    /// The elements with a text, in their order.
    pub fn iter(&self) -> impl Iterator<Item = (Element, &str)> {
        Element::ALL.into_iter().filter_map(|element| Some((element, self.get(element)?)))
    }

    /// From an object under names in use.
    ///
    /// # Errors
    /// What is wrong with a field.
    pub fn from_object(object: &Map<String, Value>) -> Result<Self, String> {
        let mut elements = Self::default();
        for (key, value) in object {
            let element = Element::of(key).ok_or_else(|| format!("\"{key}\" is no element"))?;
            let text = value.as_str().ok_or_else(|| format!("\"{key}\" is not text"))?;
            if elements.get(element).is_some() {
                return Err(format!("\"{key}\": {} is there twice", element.name()));
            }
            elements.set(element, text.trim());
        }
        Ok(elements)
    }
}

impl Serialize for Elements {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.iter().map(|(element, text)| (element.name(), text)))
    }
}

impl<'de> Deserialize<'de> for Elements {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let object = Map::<String, Value>::deserialize(deserializer)?;
        Self::from_object(&object).map_err(serde::de::Error::custom)
    }
}
