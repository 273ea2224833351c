//! What a server is asked: an instruction, and messages of texts, pictures and clips.

use super::CLIP_PICTURES;
use super::answer::Question;
use serde_json::{Value, json};

/// A part of a message.
#[derive(Clone, Debug, PartialEq)]
pub enum Part {
    /// Text.
    Text(String),
    /// A picture, a JPEG file.
    Picture(Vec<u8>),
    /// A clip, an MP4 file.
    Clip(Vec<u8>),
}

impl Part {
    /// As a request has it.
    pub(super) fn sent(&self) -> Value {
        use base64::Engine as _;
        let coded = |kind: &str, bytes: &[u8]| {
            let data = base64::engine::general_purpose::STANDARD.encode(bytes);
            json!({"url": format!("data:{kind};base64,{data}")})
        };
        match self {
            Self::Text(text) => json!({"type": "text", "text": text}),
            Self::Picture(bytes) => {
                json!({"type": "image_url", "image_url": coded("image/jpeg", bytes)})
            }
            Self::Clip(bytes) => {
                json!({"type": "video_url", "video_url": coded("video/mp4", bytes)})
            }
        }
    }

    /// What the name of an answer that is kept depends on.
    pub(super) fn known(&self) -> Value {
        match self {
            Self::Text(text) => json!(text),
            Self::Picture(bytes) | Self::Clip(bytes) => {
                json!({"sha256": crate::lines::hash(bytes)})
            }
        }
    }

    /// Tokens of it, about, where a picture has so many.
    pub(super) fn tokens(&self, picture: f64) -> f64 {
        match self {
            Self::Text(text) => text.len() as f64 / 4.0,
            Self::Picture(_) => picture,
            Self::Clip(_) => CLIP_PICTURES * picture,
        }
    }

    /// Bytes of it in a request, about.
    pub fn bytes(&self) -> usize {
        match self {
            Self::Text(text) => text.len() + 64,
            Self::Picture(bytes) | Self::Clip(bytes) => bytes.len().div_ceil(3) * 4 + 96,
        }
    }
}

/// A question with the answer that is wanted.
#[derive(Clone, Debug, PartialEq)]
pub struct Shown {
    /// What it is about.
    pub user: Vec<Part>,
    /// The answer.
    pub answer: String,
}

/// What is asked.
#[derive(Clone, Debug)]
pub struct Ask {
    /// What for.
    pub question: Question,
    /// The instruction.
    pub system: String,
    /// What is shown before it.
    pub examples: Vec<Shown>,
    /// What it is about.
    pub user: Vec<Part>,
    /// Which of several answers to the same it is, from 0.
    pub vote: usize,
}

impl Ask {
    /// Asked once, without examples.
    pub fn new(question: Question, system: impl Into<String>, user: Vec<Part>) -> Self {
        Self { question, system: system.into(), examples: Vec::new(), user, vote: 0 }
    }

    pub(super) fn parts(&self) -> impl Iterator<Item = &Part> {
        self.examples.iter().flat_map(|shown| &shown.user).chain(&self.user)
    }
}
