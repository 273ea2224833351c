//! What measures of references mean, and what to do about it.
//!
//! Wanted is what the paper evaluates with: clear, unobstructed, bright pictures of clearly different angles
//! and expressions, and a clip without cuts. The forms are those of `data.md` §6, and so are sizes.

use super::{Faces, Finding, Looked, Options, Severity};
use crate::filter::cosine;

/// Most references of a run.
pub const MOST: usize = 5;
/// Pixels of the shorter side below which a picture is no portrait, and no face.
const PORTRAIT: usize = 256;
const FACE: usize = 112;
/// Bits by which hashes of pictures that look alike differ at most.
const ALIKE: u32 = 4;
/// Degrees over which heads are turned in a set of different views.
const VIEWS: f64 = 40.0;
/// Largest share of frames of a clip without a face, and with several.
const WITHOUT: f64 = 0.10;
const SEVERAL: f64 = 0.02;

/// Adds what is found of the set.
pub(super) fn findings(
    references: &[Option<Looked>],
    options: &Options<'_>,
    found: &mut Vec<Finding>,
) {
    let mut add = |code, severity, references: Vec<usize>, message: String, help: &str| {
        found.push(Finding { code, severity, references, message, help: help.to_owned() });
    };
    if references.len() > MOST {
        let message = format!("there are {} references", references.len());
        add("R001", Severity::Error, Vec::new(), message, "a run takes up to 5: choose the best");
    }
    let looked: Vec<(usize, &Looked)> = references
        .iter()
        .enumerate()
        .filter_map(|(at, looked)| Some((at + 1, looked.as_ref()?)))
        .collect();
    for (number, one) in &looked {
        of_one(*number, one, options, &mut add);
    }
    for (at, (number, one)) in looked.iter().enumerate() {
        for (other_number, other) in &looked[at + 1..] {
            let both = vec![*number, *other_number];
            let pair = format!("{number} and {other_number}");
            if one.sha256 == other.sha256 {
                let message = format!("references {pair} are the same file");
                let help = "each costs time in every step: give it once";
                add("R040", Severity::Warn, both, message, help);
                continue;
            }
            if alike(one, other) {
                let message = format!("references {pair} look nearly the same");
                let help = "a second picture of the same moment adds nothing: give another angle, \
                            another expression or other light";
                add("R041", Severity::Warn, both.clone(), message, help);
            }
            let embedded = |looked: &Looked| looked.faces.as_ref()?.embedding.clone();
            if let (Some(a), Some(b)) = (embedded(one), embedded(other))
                && cosine(&a, &b) < options.gates.cosine
            {
                let message =
                    format!("references {pair} may show two people (cosine {:.2})", cosine(&a, &b));
                let help = "all references show one person: leave one of them out";
                add("R042", Severity::Error, both, message, help);
            }
        }
    }
    of_set(&looked, options, &mut add);
}

type Add<'a> = &'a mut dyn FnMut(&'static str, Severity, Vec<usize>, String, &str);

/// What is found of one reference.
fn of_one(number: usize, one: &Looked, options: &Options<'_>, add: Add<'_>) {
    let about = || vec![number];
    let size = format!("{}x{}", one.width, one.height);
    let shorter = one.width.min(one.height);
    if shorter < FACE {
        let message = format!("reference {number} has {size} pixels");
        let help = "give a larger one: pictures of a face have 112 pixels or more on their shorter \
                    side, portraits 256";
        add("R010", Severity::Warn, about(), message, help);
    } else if shorter < PORTRAIT && one.form != Some("face") {
        let message = format!("reference {number} has {size} pixels, few for more than a face");
        let help = "give a larger one: portraits have 256 pixels or more on their shorter side";
        add("R010", Severity::Warn, about(), message, help);
    }
    let gate = options.gates.blur;
    match &one.faces {
        Some(faces) => of_faces(number, faces, options, add),
        None if one.sharpness < gate => {
            let message = format!("reference {number} is blurred (sharpness {:.0})", one.sharpness);
            let help = "give a sharp one: nothing of what is lost can be seen by the model";
            add("R011", Severity::Warn, about(), message, help);
        }
        None => {}
    }
    if let Some(cut) = one.cuts.first() {
        let message = format!("reference {number} cuts to another shot at {cut:.1} s");
        let help = "give a piece without cuts: clips of training have none";
        add("R030", Severity::Warn, about(), message, help);
    }
    if one.kind == "clip" && one.seconds < options.gates.seconds {
        let message = format!("reference {number} takes {:.2} s", one.seconds);
        let help = "clips of training take a second or more; of a shorter one, give a picture";
        add("R031", Severity::Warn, about(), message, help);
    }
    if one.longer {
        let message =
            format!("of reference {number} only the first {:.1} s are taken", one.seconds);
        let help = "cut it to the piece that shows most of the person";
        add("R032", Severity::Info, about(), message, help);
    }
}

fn of_faces(number: usize, faces: &Faces, options: &Options<'_>, add: Add<'_>) {
    let about = || vec![number];
    let gates = &options.gates;
    if faces.without == faces.frames {
        let message = format!("no face is found in reference {number}");
        let help = "give one in which the face is seen, unobstructed and without filters";
        add("R020", Severity::Error, about(), message, help);
        return;
    }
    let share = |count: usize| count as f64 / faces.frames.max(1) as f64;
    if share(faces.without) > WITHOUT {
        let (without, frames) = (faces.without, faces.frames);
        let message =
            format!("reference {number} has no face in {without} of {frames} frames looked at");
        let help = "cut it to the piece in which the face is seen";
        add("R021", Severity::Warn, about(), message, help);
    }
    if share(faces.several) > SEVERAL {
        let message = format!("reference {number} shows several faces");
        let help = "crop it to the one person whom the video is to show";
        add("R022", Severity::Error, about(), message, help);
    }
    let [width, height] = options.size;
    let side = faces.side;
    if side < gates.face_median {
        let severity = if side < gates.face_min { Severity::Error } else { Severity::Warn };
        let least = gates.face_median;
        let message = format!(
            "the face of reference {number} has {side:.0} pixels in a video of {width}x{height}"
        );
        let help = format!("crop it nearer to the face, or give a larger one: {least:.0} or more");
        add("R023", severity, about(), message, &help);
    }
    if faces.sharpness < gates.blur {
        let message =
            format!("the face of reference {number} is blurred (sharpness {:.0})", faces.sharpness);
        let help = format!("give a sharp one: {:.0} or more", gates.blur);
        add("R024", Severity::Error, about(), message, &help);
    }
    if !(gates.luma[0]..=gates.luma[1]).contains(&faces.luma) {
        let how = if faces.luma < gates.luma[0] { "dark" } else { "bright" };
        let message = format!("the face of reference {number} is too {how} ({:.0})", faces.luma);
        let help = "give one in even light";
        add("R025", Severity::Warn, about(), message, help);
    }
    if let Some([low, high]) = faces.yaw
        && (low > gates.yaw || high < -gates.yaw)
    {
        let message = format!("the face of reference {number} is turned away by {low:.0}\u{b0}");
        let help = "give one in which both eyes are seen";
        add("R026", Severity::Warn, about(), message, help);
    }
}

/// What is found of all of them together.
fn of_set(looked: &[(usize, &Looked)], options: &Options<'_>, add: Add<'_>) {
    let yaws: Vec<(usize, [f64; 2])> = looked
        .iter()
        .filter_map(|(number, one)| Some((*number, one.faces.as_ref()?.yaw?)))
        .collect();
    let low = yaws.iter().map(|(_, yaw)| yaw[0]).fold(f64::MAX, f64::min);
    let high = yaws.iter().map(|(_, yaw)| yaw[1]).fold(f64::MIN, f64::max);
    if !yaws.is_empty() && high - low < VIEWS {
        let numbers: Vec<usize> = yaws.iter().map(|(number, _)| *number).collect();
        let from_to = format!("heads are turned from {low:.0}\u{b0} to {high:.0}\u{b0}");
        let (severity, message) = match numbers.len() {
            1 => (Severity::Info, format!("one reference shows one view: {from_to}")),
            _ => (Severity::Warn, format!("all references show the same view: {from_to}")),
        };
        let help = "give clearly different angles and expressions: one from the front, one from each \
                    side (40\u{b0} between the outermost), or a clip in which the head turns";
        add("R050", severity, numbers, message, help);
    }
    let [(1, primary), ..] = looked else { return };
    if primary.form == Some("face") {
        let message = "the primary reference shows a face alone".to_owned();
        let help = "clothes, accessories and place come from the primary one: put a portrait first, or \
                    say all of them in the prompt";
        add("R051", Severity::Warn, vec![1], message, help);
    }
    let turned = primary.faces.as_ref().and_then(|faces| faces.yaw).and_then(|[low, high]| {
        let least = if low <= 0.0 && high >= 0.0 { 0.0 } else { low.abs().min(high.abs()) };
        (least > options.gates.front_yaw).then_some(least)
    });
    if let Some(turned) = turned {
        let message = format!("the head of the primary reference is turned by {turned:.0}\u{b0}");
        let help = "put the most frontal one first";
        add("R052", Severity::Warn, vec![1], message, help);
    }
    if looked.len() > 1 && looked.iter().all(|(_, one)| one.kind == "picture") {
        let message = "there is no clip among the references".to_owned();
        let help = "a clip of some seconds without cuts, in which the head turns and speaks, says more of a \
                    person than a further picture; it takes more time in every step";
        add("R053", Severity::Info, Vec::new(), message, help);
    }
}

/// Whether two references look alike: two clips in all of the frames that are compared, a picture in one.
fn alike(a: &Looked, b: &Looked) -> bool {
    let near = |x: u64, y: u64| (x ^ y).count_ones() <= ALIKE;
    let three = |hashes: &[u64]| match hashes {
        [] => [0; 3],
        all => [all[0], all[all.len() / 2], all[all.len() - 1]],
    };
    match (a.kind, b.kind) {
        ("clip", "clip") => {
            three(&a.hashes).into_iter().zip(three(&b.hashes)).all(|(x, y)| near(x, y))
        }
        _ => a.hashes.iter().any(|x| b.hashes.iter().any(|y| near(*x, *y))),
    }
}
