//! What has to be kept of the primary reference, beside frames of a video: Ele-CLIP and Ele-DINO
//! (`evaluation.md` §5).
//!
//! An element is outlined in the primary reference and in frames spread over the video; what is outside
//! becomes grey, and encoders say how alike the pictures are. An element that is missing in a frame has
//! the cosine 0 there; one that is missing in the primary reference does not count.

mod geometric;
#[cfg(feature = "curate")]
mod grounded;
#[cfg(test)]
mod tests;
pub mod words;

pub use geometric::Geometric;

use crate::identity::Detectors;
use crate::raw::{ElementFrame, Kept, Masks, ModelFile};
use crate::run::Moment;
use crate::settings::Settings;
use anyid_files::Result;
use anyid_files::media::RgbFrame;
use anyid_study::filter::cosine;
use anyid_study::geometry::{Rect, person_of};
use anyid_study::lines::hash;
use anyid_study::prompt::elements::{Element, NO_ACCESSORIES};
use std::collections::BTreeMap;
use std::path::Path;

/// Frames of a video that are looked at.
pub const FRAMES: usize = 8;
/// Share of a frame below which an outline is none.
const LEAST: f64 = 0.002;
/// By what share of its sides the box of an outline is enlarged on each side.
const AROUND: f64 = 0.05;
/// By what share of the width the person is enlarged where the background is left.
const GROWN: f64 = 0.01;
/// The grey outside of an outline.
const GREY: u8 = 128;
/// What is asked for clothes, and where nothing is found, all of what is asked then.
const CLOTHES: &str = "clothes";
const GARMENTS: [&str; 3] = ["shirt", "dress", "jacket"];
const HAIR: &str = "hair";
const PERSON: &str = "person";

/// Which pixels belong to a thing, in rows from the top.
pub type Mask = Vec<bool>;

/// The main person of a frame.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Near {
    /// The face.
    pub face: Rect,
    /// The person, as far as the face says where it is.
    pub person: Rect,
}

/// What outlines things.
pub trait Outlines: Send + Sync {
    /// What each phrase names of the main person; none where it is not found.
    ///
    /// # Errors
    /// E1208 where a model gives what it should not.
    fn outlines(
        &self,
        image: &RgbFrame,
        phrases: &[&str],
        near: Option<&Near>,
    ) -> Result<Vec<Option<Mask>>>;
}

/// What says how alike pictures are, by the cosine of what it says of each.
pub trait Pictures: Send + Sync {
    /// What it says of a picture.
    ///
    /// # Errors
    /// E1208 where a model gives what it should not.
    fn encode(&self, image: &RgbFrame) -> Result<Vec<f32>>;
}

#[cfg(feature = "curate")]
impl Pictures for anyid_study::encode::pictures::PictureEncoder {
    fn encode(&self, image: &RgbFrame) -> Result<Vec<f32>> {
        Self::encode(self, image)
    }
}

/// What measures elements.
pub struct Measure {
    /// What outlines them.
    pub outlines: Box<dyn Outlines>,
    /// Which kind it is.
    pub masks: Masks,
    /// CLIP and DINOv2, as far as they are there.
    pub encoders: [Option<Box<dyn Pictures>>; 2],
    /// Files of all models.
    pub models: Vec<ModelFile>,
    /// Hash of the models and of the kind of outlines.
    pub key: String,
}

/// An element of a case.
#[derive(Clone, Debug, PartialEq)]
pub struct Wanted {
    /// The element.
    pub element: Element,
    /// What an accessory is called, by the aspects of the primary reference.
    pub noun: Option<String>,
}

/// The elements that a case asks to keep. `primary` is where the primary reference is: what accessories
/// are called stands in a file beside it.
///
/// # Errors
/// E0911 and E1220 for that file.
pub fn wanted(preserve: &[String], primary: &Path) -> Result<Vec<Wanted>> {
    let mut all = Vec::new();
    for element in preserve.iter().filter_map(|name| Element::of(name)) {
        let noun = match element {
            Element::Accessory => noun(primary)?,
            _ => None,
        };
        all.push(Wanted { element, noun });
    }
    Ok(all)
}

fn noun(primary: &Path) -> Result<Option<String>> {
    let Some(path) = anyid_study::prompt::aspects::beside(primary) else { return Ok(None) };
    let aspects = anyid_study::prompt::aspects::read(&path)?;
    let text = aspects.elements.get(Element::Accessory).filter(|text| *text != NO_ACCESSORIES);
    Ok(text.map(|text| text.trim_end_matches('.').to_lowercase()))
}

impl Measure {
    /// Opens the models that are set; none where no encoder of pictures is. With `geometric`, outlines
    /// are boxes about the face.
    ///
    /// # Errors
    /// E1706 where nothing outlines elements, E0911, E1208, E1209.
    pub fn open(settings: &Settings, geometric: bool) -> Result<Option<Self>> {
        if settings.clip.is_none() && settings.dino.is_none() {
            return Ok(None);
        }
        open(settings, geometric).map(Some)
    }

    /// Of parts that are open.
    pub fn of(
        outlines: Box<dyn Outlines>,
        masks: Masks,
        encoders: [Option<Box<dyn Pictures>>; 2],
        models: Vec<ModelFile>,
    ) -> Self {
        let all = serde_json::json!({ "rules": "elements/1", "masks": masks, "models": models });
        let key = hash(all.to_string().as_bytes());
        Self { outlines, masks, encoders, models, key }
    }

    /// Looks at elements of the primary reference and of frames of a video.
    ///
    /// # Errors
    /// E1208 where a model gives what it should not.
    pub fn video(
        &self,
        wanted: &[Wanted],
        primary: &RgbFrame,
        places: &[usize],
        moments: &BTreeMap<usize, Moment>,
        detectors: Option<&Detectors>,
    ) -> Result<Vec<Kept>> {
        let own = self.parts(wanted, primary, detectors)?;
        let mut known: BTreeMap<usize, Vec<Option<Said>>> = BTreeMap::new();
        let counts = own.iter().any(Option::is_some);
        for at in places.iter().filter(|_| counts) {
            if !known.contains_key(at) {
                known.insert(*at, self.parts(wanted, &moments[at].image, detectors)?);
            }
        }
        let kept = |(number, (wanted, own)): (usize, (&Wanted, &Option<Said>))| {
            let frame = |at: &usize| {
                let found = known[at][number].as_ref();
                let alike = |which: usize, own: &Said| {
                    let own = own[which].as_ref()?;
                    let theirs = found.and_then(|found| found[which].as_ref());
                    Some(theirs.map_or(0.0, |theirs| cosine(own, theirs)))
                };
                let own = own.as_ref()?;
                let [clip, dino] = [0, 1].map(|which| alike(which, own));
                Some(ElementFrame { f: *at, found: found.is_some(), clip, dino })
            };
            Kept {
                element: wanted.element.name().to_owned(),
                in_primary: own.is_some(),
                frames: places.iter().filter_map(frame).collect(),
            }
        };
        Ok(wanted.iter().zip(&own).enumerate().map(kept).collect())
    }

    /// What the encoders say of each element in a picture; none where it is not found.
    fn parts(
        &self,
        wanted: &[Wanted],
        image: &RgbFrame,
        detectors: Option<&Detectors>,
    ) -> Result<Vec<Option<Said>>> {
        let masks = self.masks_of(wanted, image, detectors)?;
        let one = |(wanted, mask): (&Wanted, Option<Mask>)| {
            let Some(mask) = mask else { return Ok(None) };
            let part = part(image, &mask, wanted.element == Element::Background);
            let mut said = [None, None];
            for (said, encoder) in said.iter_mut().zip(&self.encoders) {
                *said = encoder.as_ref().map(|encoder| encoder.encode(&part)).transpose()?;
            }
            Ok(Some(said))
        };
        wanted.iter().zip(masks).map(one).collect()
    }

    /// Where each element is in a picture.
    fn masks_of(
        &self,
        wanted: &[Wanted],
        image: &RgbFrame,
        detectors: Option<&Detectors>,
    ) -> Result<Vec<Option<Mask>>> {
        let face = detectors.map(|detectors| detectors.faces(0, image)).transpose()?;
        let face = face.and_then(|faces| faces.first().map(|face| face.area));
        let frame = [image.width, image.height];
        let near = face.map(|face| Near { face, person: person_of(&face, frame) });
        let phrase = |wanted: &Wanted| -> Option<String> {
            match wanted.element {
                Element::Hairstyle => Some(HAIR.to_owned()),
                Element::Clothing => Some(CLOTHES.to_owned()),
                Element::Background => Some(PERSON.to_owned()),
                Element::Accessory => wanted.noun.clone(),
                Element::Shot | Element::Expression | Element::Action => None,
            }
        };
        let phrases: Vec<Option<String>> = wanted.iter().map(phrase).collect();
        let asked: Vec<&str> = phrases.iter().flatten().map(String::as_str).collect();
        let mut found = self.outlines.outlines(image, &asked, near.as_ref())?.into_iter();
        let mut out = Vec::new();
        for (wanted, phrase) in wanted.iter().zip(&phrases) {
            let mask = phrase.as_ref().and_then(|_| found.next().flatten());
            let mut mask = mask.filter(large);
            if mask.is_none() && wanted.element == Element::Clothing {
                let garments = self.outlines.outlines(image, &GARMENTS, near.as_ref())?;
                mask = garments.into_iter().flatten().reduce(union).filter(large);
            }
            if wanted.element == Element::Background {
                // A picture without a person is all background.
                let person = mask.unwrap_or_else(|| vec![false; image.width * image.height]);
                let by = (GROWN * image.width as f64).round() as usize;
                let rest: Mask = grown(&person, frame, by).iter().map(|own| !own).collect();
                mask = Some(rest).filter(large);
            }
            out.push(mask);
        }
        Ok(out)
    }
}

/// What both encoders say of a picture.
type Said = [Option<Vec<f32>>; 2];

/// Whether an outline is more than a few pixels.
fn large(mask: &Mask) -> bool {
    let count = mask.iter().filter(|inside| **inside).count();
    count as f64 >= LEAST * mask.len() as f64 && count > 0
}

fn union(mut a: Mask, b: Mask) -> Mask {
    a.iter_mut().zip(b).for_each(|(a, b)| *a |= b);
    a
}

/// An outline with all pixels that are up to `by` away from it in either direction.
fn grown(mask: &Mask, [width, height]: [usize; 2], by: usize) -> Mask {
    let pass = |mask: &Mask, lines: usize, length: usize, at: &dyn Fn(usize, usize) -> usize| {
        let mut out = vec![false; mask.len()];
        for line in 0..lines {
            // The first pixel that is not marked yet.
            let mut next = 0;
            for place in (0..length).filter(|place| mask[at(line, *place)]) {
                for near in next.max(place.saturating_sub(by))..(place + by + 1).min(length) {
                    out[at(line, near)] = true;
                    next = near + 1;
                }
            }
        }
        out
    };
    let wide = pass(mask, height, width, &|row, column| row * width + column);
    pass(&wide, width, height, &|column, row| row * width + column)
}

/// A picture of an outline: its box, a little larger, with grey outside of the outline, made square with
/// grey. Of the background, the whole frame.
fn part(image: &RgbFrame, mask: &Mask, whole: bool) -> RgbFrame {
    let (width, height) = (image.width, image.height);
    let [left, top, right, bottom] = match whole {
        true => [0, 0, width, height],
        false => bounds(mask, width, height),
    };
    let side = (right - left).max(bottom - top);
    let mut data = vec![GREY; side * side * 3];
    let (across, down) = ((side - (right - left)) / 2, (side - (bottom - top)) / 2);
    for row in top..bottom {
        for column in (left..right).filter(|column| mask[row * width + column]) {
            let from = 3 * (row * width + column);
            let to = 3 * ((row - top + down) * side + column - left + across);
            data[to..to + 3].copy_from_slice(&image.data[from..from + 3]);
        }
    }
    RgbFrame { width: side, height: side, data }
}

/// The box of an outline, a little larger, in the picture.
fn bounds(mask: &Mask, width: usize, height: usize) -> [usize; 4] {
    let (mut left, mut top, mut right, mut bottom) = (width, height, 0, 0);
    for at in (0..mask.len()).filter(|at| mask[*at]) {
        let (x, y) = (at % width, at / width);
        (left, right) = (left.min(x), right.max(x + 1));
        (top, bottom) = (top.min(y), bottom.max(y + 1));
    }
    let more =
        |low: usize, high: usize| (AROUND * high.saturating_sub(low) as f64).round() as usize;
    let (across, down) = (more(left, right), more(top, bottom));
    [
        left.saturating_sub(across),
        top.saturating_sub(down),
        (right + across).min(width),
        (bottom + down).min(height),
    ]
}

#[cfg(not(feature = "curate"))]
fn open(settings: &Settings, _geometric: bool) -> Result<Measure> {
    let encoder = settings.clip.as_ref().or(settings.dino.as_ref());
    let path = encoder.map(|encoder| encoder.path.display().to_string()).unwrap_or_default();
    Err(anyid_files::Error::input("E1209", "this program was built without encoders of pictures")
        .at(path)
        .help("build it with --features curate, or leave clip and dino out of the settings"))
}

#[cfg(feature = "curate")]
fn open(settings: &Settings, geometric: bool) -> Result<Measure> {
    use anyid_study::encode::pictures::{Kind, PictureEncoder};
    let file = |role: &str, path: &Path| -> Result<ModelFile> {
        Ok(ModelFile {
            role: role.to_owned(),
            name: path.file_stem().unwrap_or_default().to_string_lossy().into_owned(),
            sha256: anyid_files::checkpoint::hash_file(path)?,
            licence: None,
        })
    };
    let mut models = Vec::new();
    let mut encoders: [Option<Box<dyn Pictures>>; 2] = [None, None];
    let settled = [("clip", &settings.clip, Kind::Clip), ("dino", &settings.dino, Kind::Dinov2)];
    for (at, (role, set, kind)) in settled.into_iter().enumerate() {
        let Some(set) = set else { continue };
        models.push(file(role, &set.path)?);
        encoders[at] = Some(Box::new(PictureEncoder::open(&set.path, set.engine, kind)?));
    }
    if geometric {
        let Some(face) = &settings.face else {
            return Err(anyid_files::Error::input(
                "E1706",
                "boxes about faces need what finds faces",
            )
            .help("set face in the settings, or segment for outlines that are exact"));
        };
        let mut model = file("face", &face.path);
        if face.path.is_dir() {
            let sha256 = crate::identity::model_hash(&face.path)?;
            model =
                Ok(ModelFile { role: "face".into(), name: String::new(), sha256, licence: None });
        }
        models.push(model?);
        return Ok(Measure::of(Box::new(Geometric), Masks::Geometric, encoders, models));
    }
    let Some(segment) = &settings.segment else {
        return Err(anyid_files::Error::input("E1706", "nothing outlines the elements").help(
            "set segment in the settings to Grounding DINO and SAM, or take boxes about the face, which \
             are approximate (--ele-masks geometric)",
        ));
    };
    for (role, path) in [
        ("grounding", &segment.grounding),
        ("vocabulary", &segment.vocabulary),
        ("sam_encoder", &segment.sam_encoder),
        ("sam_decoder", &segment.sam_decoder),
    ] {
        models.push(file(role, path)?);
    }
    let outlines = Box::new(grounded::Grounded::open(segment)?);
    Ok(Measure::of(outlines, Masks::Segmented, encoders, models))
}
