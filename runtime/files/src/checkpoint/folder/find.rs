//! Files of weights and of the tokenizer, chosen by their names.
//!
//! An index comes before a single file, and safetensors before other formats; the names of shards
//! are taken from the index alone. What a file holds is not looked at here.

use std::path::{Path, PathBuf};

use super::WeightFiles;
use super::diffusers::STEM;
use crate::checkpoint::first_ten;
use crate::checkpoint::writer::is_shard;
use crate::error::{Error, Result};

/// Endings of files that may hold weights, in the order in which they are preferred.
const ENDINGS: [&str; 6] = ["safetensors", "gguf", "pth", "pt", "bin", "ckpt"];
/// Endings of files of weights that are not read.
const UNREAD: [&str; 5] = ["msgpack", "h5", "onnx", "npz", "tflite"];

/// A file that may be chosen.
struct Candidate<'n> {
    variant: Option<&'n str>,
    /// Its place in the order of preference.
    rank: (usize, bool),
    files: WeightFiles,
}

/// The weights of one of `stems` in a folder: an index before a single file, safetensors before
/// others, the variant asked for before the unnamed one before the only one.
pub(super) fn find_weights(
    folder: &Path,
    names: &[String],
    stems: &[&str],
    variant: Option<&str>,
    warnings: &mut Vec<String>,
) -> Result<WeightFiles> {
    let mut found: Vec<Candidate<'_>> = Vec::new();
    let mut loose_shards = false;
    for name in names {
        let Some(rest) = stems.iter().find_map(|stem| name.strip_prefix(stem)) else { continue };
        match classify(rest) {
            Some((variant, ending, is_index)) => {
                let path = folder.join(name);
                let files =
                    if is_index { WeightFiles::Index(path) } else { WeightFiles::Single(path) };
                found.push(Candidate { variant, rank: (ending, !is_index), files });
            }
            None => loose_shards |= rest.contains("-of-") && ending_of(rest).is_some(),
        }
    }
    found.sort_by_key(|candidate| candidate.rank);
    let pick = |wanted: Option<&str>, warnings: &mut Vec<String>| {
        let same = found.iter().filter(|candidate| candidate.variant == wanted);
        let same: Vec<&WeightFiles> = same.map(|candidate| &candidate.files).collect();
        let [first, others @ ..] = same.as_slice() else { return None };
        warnings.extend(others.iter().map(|other| {
            format!(
                "{} is not used: {} comes first",
                other.path().display(),
                first.path().display()
            )
        }));
        Some((*first).clone())
    };
    if let Some(wanted) = variant
        && let Some(files) = pick(Some(wanted), warnings)
    {
        return Ok(files);
    }
    let mut variants: Vec<&str> = found.iter().filter_map(|candidate| candidate.variant).collect();
    variants.sort_unstable();
    variants.dedup();
    let files = match pick(None, warnings) {
        Some(files) => files,
        None if variants.len() > 1 => {
            return Err(Error::input(
                "E0709",
                format!("several variants of the weights: {}", first_ten(&variants)),
            )
            .at(folder.display())
            .help("say which one, or keep only one in the folder"));
        }
        None => match variants.first().and_then(|only| pick(Some(only), warnings)) {
            Some(files) => files,
            None if loose_shards => {
                let stem = stems[0];
                return Err(Error::input(
                    "E0706",
                    format!("there are shards, but no `{stem}.safetensors.index.json`"),
                )
                .at(folder.display())
                .help("fetch the index file as well: it says which tensor is in which shard"));
            }
            None => {
                let named = |name: &str| stems.iter().any(|stem| name.starts_with(stem));
                return Err(no_weights(folder, names, "the", named));
            }
        },
    };
    if let Some(wanted) = variant {
        let used = files.path().display();
        warnings.push(format!("no weights of the variant `{wanted}`: using {used}"));
    }
    Ok(files)
}

/// Position in [`ENDINGS`] of the ending of a name, and what stands before it.
fn ending_of(name: &str) -> Option<(usize, &str)> {
    ENDINGS
        .iter()
        .enumerate()
        .find_map(|(at, ending)| Some((at, name.strip_suffix(ending)?.strip_suffix('.')?)))
}

/// What follows the stem: `(variant, position of the ending, is an index)`, or `None` for anything
/// else.
fn classify(rest: &str) -> Option<(Option<&str>, usize, bool)> {
    let (variant, ending, is_index) = if let Some(rest) = rest.strip_suffix(".json") {
        let (before, after) = rest.split_once(".index")?;
        let (ending, before) = ending_of(before)?;
        // `.safetensors.index.V.json` is today's spelling, `.V.safetensors.index.json` an older.
        let spelled = match (before, after) {
            (variant, "") | ("", variant) => variant,
            _ => return None,
        };
        (spelled, ending, true)
    } else {
        let (ending, variant) = ending_of(rest)?;
        (variant, ending, false)
    };
    if variant.is_empty() {
        return Some((None, ending, is_index));
    }
    let variant = variant.strip_prefix('.')?;
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-';
    let usable = !variant.is_empty() && variant.bytes().all(plain) && !variant.contains("-of-");
    usable.then_some((Some(variant), ending, is_index))
}

/// A file of the original layout by its usual beginning, else by a word in its name.
pub(super) fn find_named(
    folder: &Path,
    names: &[String],
    whose: &str,
    usual: &str,
    words: &[&str],
) -> Result<WeightFiles> {
    let matches = |name: &str| words.iter().any(|word| name.to_lowercase().contains(word));
    let index = |name: &str| name.strip_suffix(".index.json").and_then(ending_of).is_some();
    // The place of its ending: what was converted beside the published file comes before it.
    let rank = |name: &str| match name.strip_suffix(".index.json") {
        Some(before) => ending_of(before).map(|(at, _)| at),
        None => ending_of(name).map(|(at, _)| at),
    };
    let mut candidates: Vec<&String> = names
        .iter()
        .filter(|name| !name.starts_with(STEM[0]) && matches(name) && rank(name).is_some())
        .filter(|name| !name.get(name.len().saturating_sub(27)..).is_some_and(is_shard))
        .collect();
    let preferred: Vec<&String> =
        candidates.iter().copied().filter(|name| name.to_lowercase().starts_with(usual)).collect();
    if !preferred.is_empty() {
        candidates = preferred;
    }
    let best = candidates.iter().filter_map(|name| rank(name)).min();
    candidates.retain(|name| rank(name) == best);
    match candidates.as_slice() {
        [] => Err(no_weights(folder, names, whose, matches)),
        [one] if index(one) => Ok(WeightFiles::Index(folder.join(one))),
        [one] => Ok(WeightFiles::Single(folder.join(one))),
        several => Err(Error::input(
            "E0709",
            format!("several files may be {whose} weights: {}", first_ten(several)),
        )
        .at(folder.display())
        .help("keep one of them in the folder")),
    }
}

/// Weights that are missing, or there in a format that is not read.
fn no_weights(
    folder: &Path,
    names: &[String],
    whose: &str,
    matches: impl Fn(&str) -> bool,
) -> Error {
    let other = |name: &&String| {
        let ending = Path::new(name).extension().and_then(|ending| ending.to_str());
        matches(name) && ending.is_some_and(|ending| UNREAD.contains(&ending))
    };
    if let Some(name) = names.iter().find(other) {
        let what = format!("{whose} weights are in a format that is not read: {name}");
        return Error::input("E0707", what)
            .at(folder.join(name).display())
            .help("fetch the model's safetensors files, or convert this one to safetensors");
    }
    let there: Vec<&String> = names.iter().filter(|name| ending_of(name).is_some()).collect();
    let found = match there.as_slice() {
        [] => "no file of weights is there".to_owned(),
        some => format!("found {}", first_ten(some)),
    };
    Error::input("E0706", format!("{whose} weights are missing: {found}"))
        .at(folder.display())
        .help("the model is incomplete: fetch the missing files, under their usual names")
}

/// The file of the tokenizer in the first of some folders that has one; the SentencePiece model
/// counts where none has `tokenizer.json`.
pub(super) fn tokenizer(places: &[PathBuf]) -> Result<PathBuf> {
    let files = ["tokenizer.json", "spiece.model"].into_iter();
    let mut paths = files.flat_map(|name| places.iter().map(move |folder| folder.join(name)));
    paths.find(|path| path.is_file()).ok_or_else(|| {
        Error::input("E0712", "neither `tokenizer.json` nor `spiece.model` is there")
            .at(places.first().map_or_else(String::new, |folder| folder.display().to_string()))
            .help("fetch `tokenizer.json` of google/umt5-xxl into this folder")
    })
}
