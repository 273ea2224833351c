//! `watermark`: look for the mark of a video, and make private keys.

use super::write_down;
use crate::output;
use crate::render::Failure;
use anyid_runtime::media::{ReadOptions, visit_frames};
use anyid_runtime::safeguards::networks::{NetworkReader, Networks};
use anyid_runtime::safeguards::output_hash;
use anyid_runtime::safeguards::signature::{make_secret, read_secret};
use anyid_runtime::safeguards::watermark::repeat::Repeated;
use anyid_runtime::safeguards::watermark::{Detection, Detector, Key, Luma, Picker, Search};
use anyid_runtime::{Error, Result};
use clap::{Args, Subcommand, ValueEnum};
use serde_json::json;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

/// The exit code if nothing was found.
const NOT_FOUND: u8 = 4;

/// The verbs of `watermark`.
#[derive(Debug, Subcommand)]
pub enum WatermarkVerb {
    /// Look for a mark; the exit code is 0 if there is one and 4 if not.
    Detect(Detect),
    /// Make a private key.
    Key(MakeKey),
}

/// Flags of `watermark detect`.
#[derive(Debug, Args)]
pub struct Detect {
    /// A video, a picture, or a folder of frames.
    #[arg(value_name = "FILE|DIR")]
    pub file: PathBuf,
    /// A private key [default: the published one].
    #[arg(long, value_name = "FILE")]
    pub key: Option<PathBuf>,
    /// Look for a mark by networks: a file (TOML) that names them, as `[watermark] model` of a
    /// policy does.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["key", "fast", "search"])]
    pub videoseal: Option<PathBuf>,
    /// Look at the usual sizes only: as made, 1/2, 2/3, 3/4 and 3/2.
    #[arg(long, conflicts_with = "search")]
    pub fast: bool,
    /// What is looked for [default: full].
    #[arg(long, value_enum, value_name = "WHAT")]
    pub search: Option<SearchName>,
    /// Print one JSON object.
    #[arg(long)]
    pub json: bool,
}

/// What is looked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum SearchName {
    /// The usual sizes.
    Fast,
    /// All sizes.
    Full,
    /// Small rotations and changed aspect ratios too, which takes longer.
    Affine,
}

/// Flags of the verbs that make keys.
#[derive(Debug, Args)]
pub struct MakeKey {
    /// The file to write, which only you may read.
    #[arg(short, long = "output", value_name = "FILE")]
    pub output: PathBuf,
}

impl WatermarkVerb {
    /// Whether JSON is wanted.
    pub fn wants_json(&self) -> bool {
        matches!(self, Self::Detect(args) if args.json)
    }
}

/// Runs the verb and gives the exit code.
///
/// # Errors
/// E1107 for keys, E08xx for videos, E0802 for a folder without frames, those of
/// [`look_by_networks`].
pub fn run(verb: WatermarkVerb) -> std::result::Result<u8, Failure> {
    let args = match verb {
        WatermarkVerb::Key(args) => {
            make_secret(&args.output)?;
            output::print(&format!("wrote {}\n", args.output.display()))?;
            return Ok(0);
        }
        WatermarkVerb::Detect(args) => args,
    };
    if let Some(model) = &args.videoseal {
        return by_networks(&args, model);
    }
    let key = match &args.key {
        Some(path) => Key::private(&read_secret(path)?),
        None => Key::public(),
    };
    let search = match (args.search, args.fast) {
        (Some(SearchName::Fast), _) | (None, true) => Search::Fast,
        (Some(SearchName::Full), _) | (None, false) => Search::Full,
        (Some(SearchName::Affine), _) => Search::Affine,
    };
    let seen = look(&args.file, &key, search)?;
    let id = seen.payload.map(|payload| format!("{:08x}", payload.id));
    write_down("verify", json!({ "output_sha256": output_hash(&args.file)?, "watermark_id": id }))?;
    match args.json {
        true => output::print_json(&json(&seen))?,
        false => output::print(&text(&seen))?,
    }
    Ok(if seen.present { 0 } else { NOT_FOUND })
}

/// Looks for a mark by networks and says what was found.
fn by_networks(args: &Detect, model: &Path) -> std::result::Result<u8, Failure> {
    let Repeated { payload, agreement } = look_by_networks(&args.file, model)?;
    let id = payload.map(|payload| format!("{:08x}", payload.id));
    write_down("verify", json!({ "output_sha256": output_hash(&args.file)?, "watermark_id": id }))?;
    let agreement = (agreement * 1e4).round() / 1e4;
    match (args.json, &id) {
        (true, _) => output::print_json(&json!({
            "present": id.is_some(),
            "decoded": id.is_some(),
            "id": id,
            "version": payload.map(|payload| payload.version),
            "agreement": agreement,
        }))?,
        (false, Some(id)) => output::print(&format!(
            "watermark {id} by networks ({:.0} % of the bits agree)\n\
             whoever has the networks can make one: it is a hint and no proof\n",
            100.0 * agreement
        ))?,
        (false, None) => output::print(&format!(
            "no watermark of these networks ({:.0} % of the bits agree, 80 are needed)\n",
            100.0 * agreement
        ))?,
    }
    Ok(if id.is_some() { 0 } else { NOT_FOUND })
}

/// Looks for a mark by the networks that a file names.
///
/// # Errors
/// E1116, E1208 and E1209 for the networks, those of [`look`] for videos.
pub fn look_by_networks(path: &Path, model: &Path) -> Result<Repeated> {
    let networks = Networks::open(model)?;
    let mut reader = NetworkReader::new(&networks);
    for path in files(path)? {
        visit_frames(&path, &ReadOptions::default(), &mut |frame| {
            reader.see(&frame.image)?;
            Ok(ControlFlow::Continue(()))
        })?;
    }
    Ok(reader.read())
}

/// Looks for the mark of a key.
///
/// # Errors
/// E08xx for videos, E0802 for a folder without frames.
pub fn look(path: &Path, key: &Key, search: Search) -> Result<Detection> {
    let mut picker = Picker::default();
    for path in files(path)? {
        visit_frames(&path, &ReadOptions::default(), &mut |frame| {
            let image = frame.image;
            match picker.wants() {
                true => picker.push(Luma::of_rgb(&image.data, image.width, image.height)),
                false => picker.pass(),
            }
            Ok(ControlFlow::Continue(()))
        })?;
    }
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    Ok(Detector::new(key).detect(picker.frames(), search, threads))
}

/// The file, or the pictures of a folder in the order of their names.
fn files(path: &Path) -> Result<Vec<PathBuf>> {
    if !path.is_dir() {
        return Ok(vec![path.to_owned()]);
    }
    let none = || Error::input("E0802", "there are no frames in this folder").at(path.display());
    let entries = std::fs::read_dir(path).map_err(|fault| none().caused_by(fault))?;
    let mut inside: Vec<PathBuf> = entries
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| path.extension().is_some_and(|e| e.eq_ignore_ascii_case("png")))
        .collect();
    inside.sort();
    match inside.is_empty() {
        true => Err(none().help("give a video, a picture, or a folder of PNG frames")),
        false => Ok(inside),
    }
}

/// What was found, for programs.
pub fn json(seen: &Detection) -> serde_json::Value {
    let round = |value: f64, unit: f64| (value / unit).round() * unit;
    json!({
        "present": seen.present,
        "decoded": seen.payload.is_some(),
        "id": seen.payload.map(|payload| format!("{:08x}", payload.id)),
        "version": seen.payload.map(|payload| payload.version),
        "z": round(seen.z, 0.01),
        "scale": round(seen.scale, 0.0001),
        "flip": seen.flip,
        "turn": round(seen.turn, 0.01),
        "aspect": round(seen.aspect, 0.0001),
        "raw_ber_estimate": seen.bit_errors.map(|share| round(share, 0.0001)),
        "frames": seen.frames,
    })
}

/// What was found, in words.
pub fn text(seen: &Detection) -> String {
    let Detection { payload, z, scale, flip, turn, aspect, frames, .. } = seen;
    if !seen.present {
        return format!("no watermark of this key in {frames} frames (peak {z:.1}, 7 is needed)\n");
    }
    let mut mirrored = if *flip { ", mirrored" } else { "" }.to_owned();
    if turn.abs() >= 0.05 {
        mirrored.push_str(&format!(", turned by {turn:.1}°"));
    }
    if (aspect - 1.0).abs() >= 0.01 {
        mirrored.push_str(&format!(", {aspect:.2} times as wide"));
    }
    match payload {
        Some(payload) => format!(
            "watermark {:08x}, version {}, at scale {scale:.2}{mirrored} (peak {z:.1})\n\
             a mark of the published key is a hint and no proof: everybody can make one\n",
            payload.id, payload.version
        ),
        None => format!(
            "a watermark that cannot be read, at scale {scale:.2}{mirrored} (peak {z:.1})\n"
        ),
    }
}
