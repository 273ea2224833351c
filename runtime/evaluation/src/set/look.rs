//! What is measured of the references of a set, and what it means.

use super::{Finding, Person, Report, Set, gap};
use crate::footage::spread;
use crate::identity::Measure;
use anyid_files::Result;
use anyid_files::checkpoint::hash_file;
use anyid_files::media::{MediaKind, ReadOptions, RgbFrame, visit_decoded};
use anyid_study::detect::Identities;
use anyid_study::face::pose;
use anyid_study::filter::{cosine, quantile, unit};
use anyid_study::geometry::{area, size};
use anyid_study::picture::Plane;
use anyid_study::prompt::lint::Severity;
use anyid_study::settings::ShotSettings;
use anyid_study::shots::Cutter;
use serde::Serialize;
use std::ops::ControlFlow;
use std::path::Path;

/// Frames of a clip in which faces are looked for.
const CLIP_FRAMES: usize = 8;
/// Area of another face, over that of the largest, from which it counts.
const OTHER: f64 = 0.10;
/// Side that the face is brought to before its sharpness is measured (`data.md` §4).
const SIDE: usize = 112;
/// Portraits and clips of a person, as the paper has them.
const PORTRAITS: usize = 4;
const CLIPS: usize = 1;

/// The limits of `evaluation.md` §1.
#[derive(Clone, Copy, Debug)]
pub struct Gates {
    /// Least shorter side of a face, in pixels.
    pub side: f64,
    /// Least variance of the Laplacian of a face.
    pub blur: f64,
    /// Degrees over which the heads of the portraits are turned, at least.
    pub yaw: f64,
    /// Least cosine of two references.
    pub cosine: f64,
    /// Shortest and longest clip, in seconds.
    pub seconds: [f64; 2],
    /// Fewest frames a second of a clip.
    pub fps: f64,
}

impl Default for Gates {
    fn default() -> Self {
        Self { side: 160.0, blur: 40.0, yaw: 40.0, cosine: 0.35, seconds: [8.0, 12.0], fps: 24.0 }
    }
}

/// What was measured of a reference.
#[derive(Clone, Debug, Serialize)]
pub struct Measured {
    /// The file, below the set.
    pub file: String,
    /// Whether it is a clip.
    pub clip: bool,
    /// Width and height.
    pub size: [usize; 2],
    /// Seconds of a clip.
    pub seconds: f64,
    /// Frames a second of a clip.
    pub fps: Option<f64>,
    /// Where it cuts, in seconds.
    pub cuts: Vec<f64>,
    /// Frames that were looked at, those without a face, and those with several.
    pub frames: [usize; 3],
    /// The shorter side of the face: the median.
    pub side: f64,
    /// The sharpness of the face: the median.
    pub sharpness: f64,
    /// Degrees that it looks to the right of the picture: lowest and highest.
    pub yaw: Option<[f64; 2]>,
    #[serde(skip)]
    embedding: Option<Vec<f32>>,
    #[serde(skip)]
    sha256: String,
}

/// What was measured of a person.
#[derive(Clone, Debug, Serialize)]
pub struct Look {
    /// The person.
    pub person: String,
    /// References in their order; none for those that cannot be read.
    pub references: Vec<Option<Measured>>,
    /// Degrees over which the heads of the portraits are turned.
    pub yaw_spread: Option<f64>,
    /// The smallest cosine of two references.
    pub least_cosine: Option<f64>,
}

/// Looks at a set; `told` hears of each person before. `measure` finds faces and tells them apart; without,
/// nothing is said of faces. With `rights`, consent is not asked for.
///
/// # Errors
/// E1106 for damaged records, E1208 of models. Files that cannot be read are findings.
pub fn check(
    set: &Set,
    measure: Option<&Measure>,
    gates: &Gates,
    today: &str,
    rights: bool,
    told: &mut dyn FnMut(usize),
) -> Result<Report> {
    let mut findings = Vec::new();
    let mut people = Vec::new();
    for (at, person) in set.people.iter().enumerate() {
        told(at);
        people.push(one(set, person, measure, gates, today, rights, &mut findings)?);
    }
    findings.sort_by_key(|finding| std::cmp::Reverse(finding.severity));
    let mut not_looked_at = Vec::new();
    if measure.is_none() {
        not_looked_at.extend([
            "faces: how many there are, how large and how sharp they are",
            "views: where heads are turned",
            "whether all references show the same person",
        ]);
    }
    if rights || set.about.synthetic {
        not_looked_at.push("consent");
    }
    not_looked_at.push("expressions");
    Ok(Report { people, findings, not_looked_at })
}

/// Notes something about a person.
type Add<'a> = &'a mut dyn FnMut(&'static str, Severity, Vec<String>, String, &str);

fn one(
    set: &Set,
    person: &Person,
    measure: Option<&Measure>,
    gates: &Gates,
    today: &str,
    rights: bool,
    findings: &mut Vec<Finding>,
) -> Result<Look> {
    let mut add = |code, severity, files, message: String, help: &str| {
        let person = person.id.clone();
        findings.push(Finding { code, severity, person, files, message, help: help.to_owned() });
    };
    let mut references = Vec::new();
    for file in &person.references {
        match measured(&set.folder, file, measure) {
            Ok(found) => references.push(Some(found)),
            Err(fault) if fault.code().starts_with("E08") || fault.code() == "E0911" => {
                let help = fault.help_text().unwrap_or("give another one").to_owned();
                let message = fault.message().to_owned();
                add(fault.code(), Severity::Error, vec![file.clone()], message, &help);
                references.push(None);
            }
            Err(fault) => return Err(fault),
        }
    }
    let seen: Vec<&Measured> = references.iter().flatten().collect();
    for one in &seen {
        of_one(one, measure.is_some(), gates, &mut add);
    }
    let clips = person.references.len() - person.pictures;
    if person.pictures != PORTRAITS || clips != CLIPS {
        let message = format!("there are {} pictures and {clips} clips", person.pictures);
        let help = "the paper has four portraits and a clip of each person; numbers of other sets are \
                    not those of the paper";
        add("S001", Severity::Info, Vec::new(), message, help);
    }
    let yaw_spread = of_views(&seen, gates, &mut add);
    let least_cosine = of_pairs(&seen, gates, &mut add);
    if !rights && !set.about.synthetic {
        let hashes: Vec<String> = seen.iter().map(|one| one.sha256.clone()).collect();
        if let Some(why) = gap(set, person, &hashes, today)? {
            let help = "give a record that is in force, names all references, and whose scopes have \
                        evaluate (`consent issue`)";
            add("S040", Severity::Error, vec![person.consent.clone()], why, help);
        }
    }
    Ok(Look { person: person.id.clone(), references, yaw_spread, least_cosine })
}

fn of_one(one: &Measured, faces: bool, gates: &Gates, add: Add<'_>) {
    let about = || vec![one.file.clone()];
    if one.clip {
        let [least, most] = gates.seconds;
        // A frame more or less.
        let near = 1.5 / one.fps.unwrap_or(24.0).max(1.0);
        if one.seconds < least - near || one.seconds > most + near {
            let message = format!("the clip has {:.1} s", one.seconds);
            let help = format!("give one of {least:.0} to {most:.0} s");
            add("S030", Severity::Error, about(), message, &help);
        }
        if let Some(fps) = one.fps.filter(|fps| *fps < gates.fps - 0.1) {
            let message = format!("the clip has {fps:.1} frames a second");
            add("S031", Severity::Error, about(), message, "give one of 24 or more");
        }
        if let Some(cut) = one.cuts.first() {
            let message = format!("the clip cuts to another shot at {cut:.1} s");
            add("S032", Severity::Error, about(), message, "give a piece without cuts");
        }
    }
    if !faces {
        return;
    }
    let [frames, without, several] = one.frames;
    if without == frames {
        let help = "give one in which the face is seen, unobstructed and without filters";
        add("S010", Severity::Error, about(), "no face is found".to_owned(), help);
        return;
    }
    if without > 0 {
        let message = format!("no face is found in {without} of {frames} frames");
        add("S011", Severity::Warn, about(), message, "give a piece in which the face is seen");
    }
    if several > 0 {
        let message = match one.clip {
            true => format!("there are several faces in {several} of {frames} frames"),
            false => "there are several faces".to_owned(),
        };
        add("S012", Severity::Error, about(), message, "crop it to the one person");
    }
    if one.side < gates.side {
        let message = format!("the face has {:.0} pixels", one.side);
        let help = format!("give a larger one: {:.0} or more on the shorter side", gates.side);
        add("S013", Severity::Error, about(), message, &help);
    }
    if one.sharpness < gates.blur {
        let message = format!("the face is blurred (sharpness {:.0})", one.sharpness);
        let help = format!("give a sharp one: {:.0} or more", gates.blur);
        add("S014", Severity::Error, about(), message, &help);
    }
}

/// The views of the portraits together.
fn of_views(seen: &[&Measured], gates: &Gates, add: Add<'_>) -> Option<f64> {
    let yaws: Vec<(&Measured, [f64; 2])> =
        seen.iter().filter(|one| !one.clip).filter_map(|one| Some((*one, one.yaw?))).collect();
    if yaws.len() < 2 {
        return None;
    }
    let low = yaws.iter().map(|(_, yaw)| yaw[0]).fold(f64::MAX, f64::min);
    let high = yaws.iter().map(|(_, yaw)| yaw[1]).fold(f64::MIN, f64::max);
    if high - low < gates.yaw {
        let message = format!("heads are turned from {low:.0}\u{b0} to {high:.0}\u{b0}");
        let help = format!(
            "give clearly different angles: {:.0}\u{b0} between the outermost portraits",
            gates.yaw
        );
        let files = yaws.iter().map(|(one, _)| one.file.clone()).collect();
        add("S020", Severity::Error, files, message, &help);
    }
    Some(high - low)
}

/// Whether all references show one person, and no file is there twice.
fn of_pairs(seen: &[&Measured], gates: &Gates, add: Add<'_>) -> Option<f64> {
    let mut least: Option<f64> = None;
    for (at, one) in seen.iter().enumerate() {
        for other in &seen[at + 1..] {
            let both = vec![one.file.clone(), other.file.clone()];
            if one.sha256 == other.sha256 {
                let message = "these are the same file".to_owned();
                let help = "a reference that is there twice counts twice: give another one";
                add("S021", Severity::Error, both, message, help);
                continue;
            }
            let (Some(a), Some(b)) = (&one.embedding, &other.embedding) else { continue };
            let cosine = cosine(a, b);
            least = Some(least.map_or(cosine, |least| least.min(cosine)));
            if cosine < gates.cosine {
                let message = format!("these may show two people (cosine {cosine:.2})");
                let help = "all references of a folder show one person";
                add("S022", Severity::Error, both, message, help);
            }
        }
    }
    least
}

/// What is known of a reference while its frames come.
#[derive(Default)]
struct Seen {
    frames: [usize; 3],
    sides: Vec<f64>,
    sharpness: Vec<f64>,
    yaws: Vec<f64>,
    sum: Option<Vec<f32>>,
}

impl Seen {
    fn look(&mut self, f: usize, image: &RgbFrame, measure: &Measure) -> Result<()> {
        self.frames[0] += 1;
        let faces = measure.detectors.faces(f, image)?;
        let Some(main) = faces.first() else {
            self.frames[1] += 1;
            return Ok(());
        };
        let others = faces.iter().filter(|face| area(&face.area) >= OTHER * area(&main.area));
        self.frames[2] += usize::from(others.count() > 1);
        let [width, height] = size(&main.area);
        self.sides.push(width.min(height));
        let face = Plane::luma(image).part(main.area).area(SIDE, SIDE);
        self.sharpness.push(face.laplacian_variance());
        self.yaws.extend(pose(&main.kps).map(|pose| pose.yaw));
        let encoder: Option<&dyn Identities> =
            measure.encoders.iter().flatten().next().map(|own| own.encoder.as_ref());
        let found = encoder.map(|e| e.embedding(&Plane::rgb(image), &main.kps)).transpose()?;
        if let Some(own) = found.flatten().map(|values| unit(&values)) {
            self.sum = Some(match self.sum.take() {
                Some(sum) => sum.iter().zip(&own).map(|(a, b)| a + b).collect(),
                None => own,
            });
        }
        Ok(())
    }
}

/// Measures a reference: all frames for cuts, a few of them for faces.
fn measured(root: &Path, file: &str, measure: Option<&Measure>) -> Result<Measured> {
    let path = root.join(file);
    let mut cutter = Cutter::new(&ShotSettings { trim: 0, ..ShotSettings::default() });
    let (mut times, mut ends) = (Vec::new(), 0.0);
    let info = visit_decoded(&path, &ReadOptions::default(), &mut |frame| {
        times.push(frame.time);
        ends = frame.time + frame.duration;
        cutter.push(frame)?;
        Ok(ControlFlow::Continue(()))
    })?;
    let clip = info.kind == MediaKind::Video && times.len() > 1;
    let mut seen = Seen::default();
    if let Some(measure) = measure {
        let places = spread(times.len(), if clip { CLIP_FRAMES } else { 1 });
        let frames = crate::footage::take(&path, &places.into_iter().collect())?;
        for (at, moment) in &frames {
            seen.look(*at, &moment.image, measure)?;
        }
    }
    let shots = cutter.finish().0;
    let cuts = shots.iter().skip(1).filter_map(|[begin, _]| times.get(*begin).copied()).collect();
    let low = seen.yaws.iter().copied().fold(f64::MAX, f64::min);
    let high = seen.yaws.iter().copied().fold(f64::MIN, f64::max);
    Ok(Measured {
        file: file.to_owned(),
        clip,
        size: [info.width, info.height],
        seconds: if clip { ends } else { 0.0 },
        fps: info.fps,
        cuts,
        frames: seen.frames,
        side: quantile(seen.sides, 0.5),
        sharpness: quantile(seen.sharpness, 0.5),
        yaw: (low <= high).then_some([low, high]),
        embedding: seen.sum.map(|sum| unit(&sum)),
        sha256: hash_file(&path)?,
    })
}
