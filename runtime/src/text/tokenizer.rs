//! Prompt tokenisation from a checkpoint's `tokenizer.json` or `spiece.model` (SentencePiece Unigram).
//!
//! The `tokenizers` library follows the file: added tokens, normaliser, pre-tokeniser, byte
//! fallback. Every special id also comes from the file. Ids end in `</s>`, and nothing is padded.
//! The text must be cleaned before (see [`super::clean`]). What is stored as a list of
//! pieces is brought to the form of `tokenizer.json` first ([`super::pieces`]).

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use serde::Deserialize;
use serde_json::Value;
use tokenizers::models::ModelWrapper;
use tokenizers::models::unigram::Unigram;
use tokenizers::{Encoding, Tokenizer};

use super::pieces::Pieces;
use crate::checkpoint::{SPIECE, WeightSet, gguf};
use crate::error::{Error, Result};
use crate::input;

/// The name of the token every prompt ends in.
const END_TOKEN: &str = "</s>";
/// The name of the padding token.
const PAD_TOKEN: &str = "<pad>";

/// Bounds on a tokenizer file; one of umT5's 256,300 pieces holds some 800,000 values.
const LARGEST_FILE: u64 = 256 << 20;
const MOST_VALUES: usize = 8_000_000;
const DEEPEST: usize = 64;
/// Longest text that [`PromptTokenizer::encode`] accepts, in bytes.
const LONGEST_TEXT: usize = 1 << 20;

/// A tokenizer that makes prompts into ids.
pub struct PromptTokenizer {
    tokenizer: Tokenizer,
    end_id: u32,
    /// Whether the file's post-processor appends the end token; otherwise it is appended here.
    appends_end: bool,
    pad_id: Option<u32>,
    unknown_id: Option<u32>,
    place: String,
}

/// The ids of one prompt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Encoded {
    /// At most `max_len` ids, the last one the end token's.
    pub ids: Vec<u32>,
    /// If the text was too long, the byte offset at which the kept part ends.
    pub truncated_at: Option<usize>,
    /// The number of ids before truncation, the end token included.
    pub full_len: usize,
}

/// A warning: the prompt was longer than the text encoder reads, and its end was left out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Truncation {
    /// The last words of the kept part.
    pub kept: String,
    /// The first words of what was left out.
    pub dropped: String,
    /// The byte offset of the cut in the cleaned text.
    pub at: usize,
    /// The number of ids the whole prompt has.
    pub full_len: usize,
    /// The number of ids kept.
    pub kept_len: usize,
}

impl Truncation {
    /// The code of this warning.
    pub const CODE: &'static str = "E0739";
}

impl fmt::Display for Truncation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "the prompt has {} tokens and {} are used: it was cut between \"…{}\" and \"{}…\"",
            self.full_len, self.kept_len, self.kept, self.dropped
        )
    }
}

impl Encoded {
    /// The warning about a cut, with the words around it. `None` if all of `cleaned`, the text that
    /// these ids were made from, was kept.
    pub fn truncation(&self, cleaned: &str) -> Option<Truncation> {
        const AROUND: usize = 40;
        let at = floor_boundary(cleaned, self.truncated_at?);
        let (before, after) = cleaned.split_at(at);
        let start = before.char_indices().rev().take(AROUND).last().map_or(0, |(at, _)| at);
        let end = after.char_indices().nth(AROUND).map_or(after.len(), |(at, _)| at);
        // Whole words are easier to read; a text without blanks is cut between characters.
        let kept = match before[start..].split_once(' ') {
            Some((_, words)) if start > 0 && !words.is_empty() => words,
            _ => &before[start..],
        };
        let dropped = match after[..end].rsplit_once(' ') {
            Some((words, _)) if end < after.len() && !words.is_empty() => words,
            _ => &after[..end],
        };
        Some(Truncation {
            kept: kept.trim().to_owned(),
            dropped: dropped.trim().to_owned(),
            at,
            full_len: self.full_len,
            kept_len: self.ids.len(),
        })
    }
}

impl fmt::Debug for PromptTokenizer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PromptTokenizer")
            .field("place", &self.place)
            .field("end_id", &self.end_id)
            .field("pad_id", &self.pad_id)
            .finish_non_exhaustive()
    }
}

impl PromptTokenizer {
    /// Reads a `tokenizer.json` or a SentencePiece model, told by its content, for an embedding of so
    /// many rows.
    ///
    /// # Errors
    /// E0603 no memory, E0731 not readable, E0732 too large, E0733 not a tokenizer description,
    /// E0734 not a Unigram model, E0735 no `</s>`, E0736 a post-processor that does not end in
    /// `</s>`, E0737 tables that are damaged.
    pub fn open_for(path: impl AsRef<Path>, rows: usize) -> Result<Self> {
        let path = path.as_ref();
        let place = path.display().to_string();
        let unreadable = |cause: std::io::Error| {
            Error::input("E0731", "the tokenizer file cannot be read")
                .at(&place)
                .help(
                    "the model folder needs tokenizer/tokenizer.json; \
                     download the tokenizer files again or correct the path",
                )
                .caused_by(cause)
        };
        let large =
            |limit| too_large(format!("the tokenizer file has more than {limit} bytes"), &place);
        let bytes =
            input::read(path, LARGEST_FILE).map_err(|e| e.coded(path, unreadable, large))?;
        // A list of pieces begins with the tag of the first.
        match bytes.first() {
            Some(b'\n') if !bytes.trim_ascii_start().starts_with(b"{") => {
                Self::of_pieces(&Pieces::of_sentencepiece(&bytes, &place)?, rows, &place)
            }
            _ => Self::parse(&bytes, &place),
        }
    }

    /// Reads a `tokenizer.json` or a SentencePiece model.
    ///
    /// # Errors
    /// As [`PromptTokenizer::open_for`].
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        Self::open_for(path, usize::MAX)
    }

    /// The tokenizer that lies inside the file of a text encoder: in the metadata of GGUF, or as the
    /// bytes of a SentencePiece model in a tensor. `None` if there is none.
    ///
    /// # Errors
    /// As [`PromptTokenizer::open_for`], and those of reading checkpoints.
    pub fn inside(set: &WeightSet, rows: usize) -> Result<Option<Self>> {
        for file in set.files() {
            let place = file.path().display().to_string();
            if let Some(pieces) = Pieces::of_gguf(file)? {
                return Self::of_pieces(&pieces, rows, &place).map(Some);
            }
        }
        let ends = |name: &&str| *name == SPIECE || name.ends_with(&format!(".{SPIECE}"));
        let Some(name) = set.names().find(ends) else { return Ok(None) };
        let place = set.origin(name).unwrap_or_default();
        if set.tensor(name).is_some_and(|weight| weight.bytes > LARGEST_FILE) {
            return Err(too_large("the tokenizer in the file is too large".to_owned(), &place));
        }
        let pieces = Pieces::of_sentencepiece(&set.contents(name)?, &place)?;
        Self::of_pieces(&pieces, rows, &place).map(Some)
    }

    /// The metadata with which a GGUF file of a text encoder has this tokenizer: that of `path`, or without one
    /// that inside `set`. `None` if there is none, or one that cannot be said there.
    ///
    /// # Errors
    /// As [`PromptTokenizer::open_for`], and those of reading checkpoints.
    pub fn gguf_metadata(
        path: Option<&Path>,
        set: &WeightSet,
        rows: usize,
    ) -> Result<Option<Vec<(&'static str, gguf::Value)>>> {
        let json = |tokenizer: &Self| tokenizer.tokenizer.to_string(false).ok();
        let tokenizer = match path {
            Some(path) => Some(Self::open_for(path, rows)?),
            None => Self::inside(set, rows)?,
        };
        let value = tokenizer.as_ref().and_then(json);
        let value = value.and_then(|text| serde_json::from_str(&text).ok());
        Ok(value.and_then(|value: Value| Pieces::of_json(&value)).map(|p| p.to_gguf(rows)))
    }

    fn of_pieces(pieces: &Pieces, rows: usize, place: &str) -> Result<Self> {
        Self::parse(pieces.to_json(rows, place)?.as_bytes(), place)
    }

    /// Reads the content of a `tokenizer.json`; `place` names it in errors.
    ///
    /// # Errors
    /// As [`PromptTokenizer::open`], without E0731.
    pub fn parse(json: &[u8], place: &str) -> Result<Self> {
        check_extent(json).map_err(|what| too_large(what, place))?;
        let not_a_tokenizer = |message: String| {
            Error::input("E0733", message).at(place).help(
                "give the Hugging Face tokenizer.json of the text encoder, or its spiece.model",
            )
        };
        let unreadable = |cause: BoxError| {
            not_a_tokenizer(format!("this is not a readable tokenizer.json: {cause}"))
        };
        check_charsmaps(json).map_err(not_a_tokenizer)?;
        let mut tokenizer = guarded(|| Tokenizer::from_bytes(json)).map_err(unreadable)?;
        if !matches!(tokenizer.get_model(), ModelWrapper::Unigram(_)) {
            return Err(Error::input("E0734", "the tokenizer is not a Unigram model")
                .at(place)
                .help(
                    "the umT5 text encoder needs its own tokenizer.json, of model type Unigram",
                ));
        }
        // The caller decides length and padding, whatever the file was last saved with.
        tokenizer.with_padding(None);
        tokenizer
            .with_truncation(None)
            .map_err(|cause| not_a_tokenizer(format!("its truncation is not usable: {cause}")))?;
        let Some(end_id) = tokenizer.token_to_id(END_TOKEN) else {
            return Err(Error::input("E0735", format!("the tokenizer has no `{END_TOKEN}` token"))
                .at(place)
                .help("give the tokenizer.json that belongs to the text encoder"));
        };
        let file: File = serde_json::from_slice(json).map_err(|cause| unreadable(cause.into()))?;
        let mut this = Self {
            end_id,
            appends_end: false,
            pad_id: tokenizer.token_to_id(PAD_TOKEN),
            unknown_id: file.model.unk_id,
            place: place.to_owned(),
            tokenizer,
        };
        match *this.encode_whole("")?.get_ids() {
            [] => {}
            [only] if only == end_id => this.appends_end = true,
            ref ids => {
                let what = format!(
                    "the tokenizer turns the empty text into the ids {ids:?}, not into \
                     `{END_TOKEN}` ({end_id})"
                );
                return Err(Error::input("E0736", what).at(place).help(
                    "the post_processor of the file must append `</s>` and nothing else; \
                     give the tokenizer.json that belongs to the text encoder",
                ));
            }
        }
        Ok(this)
    }

    /// The same tokenizer with byte fallback switched on or off, whatever its file says. A
    /// character outside the vocabulary becomes bytes (`<0xNN>`) if it is on, and the unknown token
    /// if not.
    ///
    /// # Errors
    /// E0733 if the vocabulary cannot be reused.
    pub fn with_byte_fallback(mut self, on: bool) -> Result<Self> {
        if let ModelWrapper::Unigram(model) = self.tokenizer.get_model() {
            let vocabulary = model.iter().cloned().collect();
            let unknown = self.unknown_id.map(|id| id as usize);
            let model = Unigram::from(vocabulary, unknown, on).map_err(|cause| {
                Error::input("E0733", format!("the vocabulary is not usable: {cause}"))
                    .at(&self.place)
            })?;
            self.tokenizer.with_model(model);
        }
        Ok(self)
    }

    /// The ids of a cleaned text, followed by the end token; at most `max_len` in total (at least
    /// 1). The empty text and blanks give only the end token.
    ///
    /// # Errors
    /// E0737 if the tokenizer cannot write some character, E0738 for more than 1 MiB of
    /// text. A text of more than `max_len` tokens is no error: see [`Encoded::truncated_at`].
    pub fn encode(&self, cleaned: &str, max_len: usize) -> Result<Encoded> {
        if cleaned.len() > LONGEST_TEXT {
            let what =
                format!("the prompt has {} bytes; at most {LONGEST_TEXT} are taken", cleaned.len());
            return Err(Error::input("E0738", what)
                .at("the prompt")
                .help("shorten it: the text encoder reads its first 512 tokens or fewer"));
        }
        let encoding = self.encode_whole(cleaned)?;
        let mut ids = encoding.get_ids().to_vec();
        if !self.appends_end {
            ids.push(self.end_id);
        }
        let full_len = ids.len();
        let kept = max_len.max(1) - 1;
        if full_len - 1 <= kept {
            return Ok(Encoded { ids, truncated_at: None, full_len });
        }
        ids.truncate(kept);
        ids.push(self.end_id);
        // With byte fallback several ids can share a character; a part of a character is not text.
        let offsets = encoding.get_offsets();
        let ends = kept.checked_sub(1).map_or(0, |last| offsets[last].1);
        let cut = offsets.get(kept).map_or(ends, |first_dropped| first_dropped.0.min(ends));
        Ok(Encoded { ids, truncated_at: Some(floor_boundary(cleaned, cut)), full_len })
    }

    /// The words of a cleaned text of which some part becomes the unknown token, each once.
    ///
    /// # Errors
    /// E0737 as [`Self::encode`].
    pub fn unknown_words(&self, cleaned: &str) -> Result<Vec<String>> {
        let encoding = self.encode_whole(cleaned)?;
        let mut out: Vec<String> = Vec::new();
        for (id, (start, end)) in encoding.get_ids().iter().zip(encoding.get_offsets()) {
            if Some(*id) != self.unknown_id {
                continue;
            }
            let (start, end) = (floor_boundary(cleaned, *start), floor_boundary(cleaned, *end));
            let first = cleaned[..start].rfind(' ').map_or(0, |at| at + 1);
            // A token may begin with the blank before it.
            let blank = cleaned[start..].starts_with(' ');
            let first = if blank { start + 1 } else { first };
            let behind = first.max(end);
            let last = cleaned[behind..].find(' ').map_or(cleaned.len(), |at| behind + at);
            for word in cleaned[first..last].split(' ') {
                let word = word.trim_end_matches('.').to_owned();
                if !word.is_empty() && !out.contains(&word) {
                    out.push(word);
                }
            }
        }
        Ok(out)
    }

    fn encode_whole(&self, text: &str) -> Result<Encoding> {
        guarded(|| self.tokenizer.encode(text, true)).map_err(|cause| {
            Error::input("E0737", format!("the prompt cannot be tokenised: {cause}"))
                .at(&self.place)
                .help(
                    "the tokenizer needs an unknown token (model.unk_id) or byte fallback, and \
                     an intact normaliser; give the tokenizer.json of the text encoder",
                )
        })
    }

    /// The id of `</s>`.
    pub fn end_id(&self) -> u32 {
        self.end_id
    }

    /// The id of `<pad>`, if the file has one.
    pub fn pad_id(&self) -> Option<u32> {
        self.pad_id
    }

    /// The id of the unknown token, if the file names one.
    pub fn unknown_id(&self) -> Option<u32> {
        self.unknown_id
    }

    /// The piece or special token of an id.
    pub fn token(&self, id: u32) -> Option<String> {
        self.tokenizer.id_to_token(id)
    }

    /// One more than the highest id this tokenizer can give: the rows an embedding needs.
    pub fn id_limit(&self) -> usize {
        let added = self.tokenizer.get_added_tokens_decoder();
        let highest = added.keys().map(|id| *id as usize + 1).max().unwrap_or(0);
        highest.max(self.tokenizer.get_vocab_size(false))
    }
}

/// The part of a tokenizer file that the library does not show.
#[derive(Deserialize)]
struct File {
    model: FileModel,
}

#[derive(Deserialize)]
struct FileModel {
    unk_id: Option<u32>,
}

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Runs the library and turns its panics into errors, because it indexes tables from the file
/// unchecked.
fn guarded<T>(work: impl FnOnce() -> Result<T, BoxError>) -> Result<T, BoxError> {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().map(String::as_str);
        let text = text.or_else(|| panic.downcast_ref::<&str>().copied());
        Err(format!("the tables of the file are damaged ({})", text.unwrap_or("unknown")).into())
    })
}

fn too_large(what: String, place: &str) -> Error {
    Error::input("E0732", what)
        .at(place)
        .help("this is unlikely to be a tokenizer.json; give the one of the text encoder")
}

/// Refuses JSON with more values or deeper nesting than any tokenizer has, before anything is built
/// from it.
fn check_extent(json: &[u8]) -> Result<(), String> {
    let (mut values, mut depth, mut in_string, mut escaped) = (0_usize, 0_usize, false, false);
    for byte in json {
        if in_string {
            in_string = escaped || *byte != b'"';
            escaped = !escaped && *byte == b'\\';
            continue;
        }
        match byte {
            b'"' => in_string = true,
            b'[' | b'{' => {
                depth += 1;
                values += 1;
            }
            b']' | b'}' => depth = depth.saturating_sub(1),
            b',' => values += 1,
            _ => {}
        }
        if depth > DEEPEST {
            return Err(format!("the tokenizer file is nested more than {DEEPEST} deep"));
        }
        if values > MOST_VALUES {
            return Err(format!("the tokenizer file holds more than {MOST_VALUES} values"));
        }
    }
    Ok(())
}

/// The normaliser of a tokenizer file.
#[derive(Deserialize)]
struct Normalised {
    #[serde(default)]
    normalizer: Value,
}

/// Refuses tables of characters that are shorter than they say: the library takes memory for what they
/// say.
fn check_charsmaps(json: &[u8]) -> Result<(), String> {
    // What is no JSON is refused by the library, in its words.
    let Ok(file) = serde_json::from_slice::<Normalised>(json) else { return Ok(()) };
    let mut left = vec![&file.normalizer];
    while let Some(value) = left.pop() {
        match value {
            Value::Array(list) => left.extend(list),
            Value::Object(map) => left.extend(map.values()),
            _ => {}
        }
        if let Some(Value::String(text)) = value.get("precompiled_charsmap")
            && !is_charsmap(text)
        {
            return Err("the table of characters of its normaliser is damaged".to_owned());
        }
    }
    Ok(())
}

/// Whether a table in base 64 has room for the trie whose bytes its first four say.
fn is_charsmap(text: &str) -> bool {
    let digit = |byte: u8| -> Option<u64> {
        Some(u64::from(match byte {
            b'A'..=b'Z' => byte - b'A',
            b'a'..=b'z' => byte - b'a' + 26,
            b'0'..=b'9' => byte - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            _ => return None,
        }))
    };
    let digits = text.trim_end_matches('=').as_bytes();
    let bytes = digits.len() / 4 * 3 + (digits.len() % 4).saturating_sub(1);
    // Six digits hold the first four bytes, and four bits more.
    let first = digits
        .get(..6)
        .and_then(|six| six.iter().try_fold(0, |word, byte| Some(word << 6 | digit(*byte)?)));
    let Some(first) = first else { return false };
    let trie = u32::from_be_bytes(((first >> 4) as u32).to_le_bytes());
    bytes >= 4 && trie as usize <= bytes - 4
}

/// The last character boundary of `text` at or before `at`.
fn floor_boundary(text: &str, at: usize) -> usize {
    (0..=at.min(text.len())).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0)
}

#[cfg(test)]
mod tests;
