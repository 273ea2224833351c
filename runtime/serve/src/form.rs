//! From the fields of a form, or the keys of a JSON object, to the settings of a video.
//!
//! Everything that can be known of a request is checked here, before it gets into the queue. A field
//! that is not known is refused: whoever sends it expects it to do something.

use crate::job::{RATE, Settings, random};
use crate::limits::{Limits, PROMPT_CHARACTERS};
use crate::refusal::{Answer, Refusal};
use anyid_runtime::{Error, Model, Request};
use serde_json::{Map, Value};
use std::collections::BTreeMap;

/// Texts by the names of their fields.
pub type Fields = BTreeMap<String, String>;

/// The fields that there are, references aside.
const KNOWN: [&str; 12] = [
    "prompt",
    "negative_prompt",
    "model",
    "size",
    "seconds",
    "frames",
    "steps",
    "guidance",
    "shift",
    "solver",
    "schedule",
    "seed",
];

/// The name of references, in the order of which they are taken.
pub const REFERENCE: &str = "input_reference";

/// Whether a field is a reference; forms of some clients write lists with brackets.
pub fn is_reference(name: &str) -> bool {
    name == REFERENCE || name == "input_reference[]"
}

/// Puts a field among the others.
///
/// # Errors
/// E1412 if it is not known, or there already.
pub fn add(fields: &mut Fields, name: &str, value: String) -> Answer<()> {
    if !KNOWN.contains(&name) {
        let shown: String = name.chars().take(40).collect();
        let known = KNOWN.join(", ");
        return Err(Refusal::field(&shown, format!("there is no field {shown:?}"))
            .help(format!("the fields are {known}, and {REFERENCE} for files")));
    }
    match fields.insert(name.to_owned(), value) {
        Some(_) => Err(Refusal::field(name, format!("the field {name:?} is there twice"))),
        None => Ok(()),
    }
}

/// The fields of a JSON object, whose values are texts or numbers.
///
/// # Errors
/// E1411 for what is no object, E1412 for fields that are not known or have other values.
pub fn of_json(bytes: &[u8]) -> Answer<Fields> {
    let object: Map<String, Value> = serde_json::from_slice(bytes)
        .map_err(|fault| Refusal::malformed(format!("the body is no JSON object: {fault}")))?;
    let mut fields = Fields::new();
    for (name, value) in object {
        let text = match value {
            Value::Null => continue,
            Value::String(text) => text,
            Value::Number(number) => number.to_string(),
            _ if is_reference(&name) => {
                return Err(Refusal::field(&name, "references are uploaded as files")
                    .help("send a form (multipart/form-data) with the file as input_reference"));
            }
            _ => {
                return Err(Refusal::field(&name, "the value is neither a text nor a number"));
            }
        };
        add(&mut fields, &name, text)?;
    }
    Ok(fields)
}

/// The settings that `fields` ask for, of a video by `model`, which clients call `name`.
///
/// # Errors
/// E1412 for values that are none, E1410 for more than the limits, and those of
/// [`Request::check`].
pub fn settings(
    mut fields: Fields,
    model: &Model,
    name: &str,
    limits: &Limits,
) -> Answer<Settings> {
    if let Some(other) = fields.remove("model").filter(|other| other != name) {
        let shown: String = other.chars().take(60).collect();
        return Err(Refusal::field("model", format!("there is no model {shown:?}"))
            .help(format!("this server has {name:?}; the field may be left out")));
    }
    let prompt = fields.remove("prompt").unwrap_or_default();
    if prompt.trim().is_empty() {
        return Err(
            Refusal::field("prompt", "there is no prompt").help("say what the video should show")
        );
    }
    let negative_prompt = fields.remove("negative_prompt").filter(|text| !text.is_empty());
    for (name, text) in [("prompt", Some(&prompt)), ("negative_prompt", negative_prompt.as_ref())] {
        let characters = text.map_or(0, |text| text.chars().count());
        if characters > PROMPT_CHARACTERS {
            let what = format!("{characters} characters; at most {PROMPT_CHARACTERS} are allowed");
            return Err(Refusal::large(what).of(name));
        }
    }
    let [usual_width, usual_height, usual_frames] = model.dit.sample;
    let [width, height] = match fields.remove("size") {
        Some(text) => sides(&text)?,
        None => [usual_width, usual_height],
    };
    let seconds: Option<f64> = number(&mut fields, "seconds")?;
    let frames: Option<usize> = number(&mut fields, "frames")?;
    let frames = match (frames, seconds) {
        (Some(_), Some(_)) => {
            return Err(Refusal::field("frames", "both seconds and frames are given")
                .help("give one of them"));
        }
        (Some(frames), None) => frames,
        (None, Some(seconds)) => frames_of(seconds, model, limits)?,
        (None, None) => usual_frames,
    };
    let settings = Settings {
        prompt,
        negative_prompt,
        width,
        height,
        frames,
        steps: number(&mut fields, "steps")?.unwrap_or(model.dit.sample_steps),
        guidance: number(&mut fields, "guidance")?.unwrap_or(model.dit.sample_guidance),
        shift: number(&mut fields, "shift")?,
        solver: fields.remove("solver"),
        schedule: fields.remove("schedule"),
        // Below 2^53, so that every reader of JSON keeps it exactly.
        seed: number(&mut fields, "seed")?.unwrap_or_else(|| random() >> 11),
    };
    bounded(&settings, limits)?;
    let request = settings.request().map_err(coded)?;
    request.check(model).map_err(coded)?;
    sampled(model, &request).map_err(coded)?;
    Ok(settings)
}

/// That solver, schedule, shift and steps go together.
fn sampled(model: &Model, request: &Request) -> Result<(), Error> {
    let settings = anyid_runtime::pipeline::settings(model, request);
    settings.solver(&settings.schedule(request.steps)?, 1).map(drop)
}

/// The refusal of settings that a run refuses.
fn coded(error: Error) -> Refusal {
    let name = match error.code() {
        "E0901" => "size",
        "E0902" => "frames",
        "E0921" => "solver",
        "E0922" | "E0925" => "schedule",
        "E0923" => "steps",
        "E0924" => "shift",
        "E0928" => "guidance",
        _ => return Refusal::trouble(error),
    };
    Refusal::input(error, name)
}

/// What is more than this server makes.
fn bounded(settings: &Settings, limits: &Limits) -> Answer<()> {
    let pixels = settings.width.saturating_mul(settings.height);
    for (name, value, most, what) in [
        ("size", pixels, limits.pixels, "pixels of a frame"),
        ("frames", settings.frames, limits.frames, "frames"),
        ("steps", settings.steps, limits.steps, "steps"),
    ] {
        if value > most {
            let what = format!("{value} {what}; this server makes at most {most}");
            return Err(Refusal::large(what).of(name));
        }
    }
    Ok(())
}

/// A number from a field, if it is there.
fn number<T: std::str::FromStr>(fields: &mut Fields, name: &str) -> Answer<Option<T>> {
    let Some(text) = fields.remove(name) else { return Ok(None) };
    text.trim().parse().map(Some).map_err(|_| {
        let shown: String = text.chars().take(40).collect();
        Refusal::field(name, format!("{shown:?} is no number for {name}"))
    })
}

/// Width and height from `1280x704`.
fn sides(text: &str) -> Answer<[usize; 2]> {
    let parse = || {
        let (width, height) = text.split_once(['x', 'X', '\u{d7}'])?;
        Some([width.trim().parse().ok()?, height.trim().parse().ok()?])
    };
    parse().ok_or_else(|| {
        let shown: String = text.chars().take(40).collect();
        Refusal::field("size", format!("{shown:?} is not a size"))
            .help("write width and height in pixels, such as 1280x704")
    })
}

/// The frames of a length, of which the first takes no time.
fn frames_of(seconds: f64, model: &Model, limits: &Limits) -> Answer<usize> {
    let geometry = model.geometry();
    let longest = |frames: usize| frames.saturating_sub(1) as f64 / RATE;
    let most = longest(geometry.most_frames());
    let served = longest(limits.frames).min(most);
    if !(0.0..=most).contains(&seconds) {
        let what = format!("a video cannot take {seconds} seconds");
        return Err(Refusal::field("seconds", what)
            .help(format!("this server makes at most {}", rounded(served))));
    }
    let frames = geometry.cut((seconds * RATE).round() as usize + 1);
    if frames > limits.frames {
        let what = format!("{seconds} seconds; this server makes at most {}", rounded(served));
        return Err(Refusal::large(what).of("seconds"));
    }
    Ok(frames)
}

/// Seconds with two digits behind the point where they say something.
fn rounded(seconds: f64) -> String {
    let text = format!("{:.2}", (seconds * 100.0).floor() / 100.0);
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn made(list: &[(&str, &str)]) -> Answer<Settings> {
        let mut fields = Fields::new();
        for (name, value) in list {
            add(&mut fields, name, (*value).to_owned())?;
        }
        settings(fields, &Model::built_in().unwrap(), "built-in", &Limits::default())
    }

    #[test]
    fn what_is_left_out_is_what_the_model_was_made_for() {
        let made = made(&[("prompt", "x"), ("model", "built-in")]).unwrap();
        assert_eq!([made.width, made.height, made.frames], [48, 48, 5]);
        assert_eq!((made.steps, made.guidance), (12, 2.0));
        assert!(made.seed < 1 << 53);
    }

    #[test]
    fn lengths_become_frames_that_can_be() {
        for (seconds, frames) in [("0", 1), ("0.17", 5), ("1", 25), ("4", 97), (" 5 ", 121)] {
            let made = made(&[("prompt", "x"), ("seconds", seconds)]).unwrap();
            assert_eq!(made.frames, frames, "{seconds}");
        }
    }

    #[test]
    fn a_length_is_refused_with_what_this_server_makes() {
        for seconds in ["12", "-1"] {
            let refusal = made(&[("prompt", "x"), ("seconds", seconds)]).unwrap_err();
            assert!(format!("{refusal:?}").contains("this server makes at most 10"), "{refusal:?}");
        }
    }

    #[test]
    fn a_negative_prompt_is_that_of_the_request() {
        let given = made(&[("prompt", "x"), ("negative_prompt", "blurry")]).unwrap();
        let request = given.request().unwrap();
        assert_eq!(request.negative_prompt.as_deref(), Some("blurry"));
        let long = "x".repeat(PROMPT_CHARACTERS + 1);
        let refusal = made(&[("prompt", "x"), ("negative_prompt", &long)]).unwrap_err();
        assert_eq!(refusal.code(), "E1410");
    }

    #[test]
    fn every_value_that_is_none_is_refused_by_its_field() {
        for (name, value, code) in [
            ("prompt", " ", "E1412"),
            ("model", "sora-2", "E1412"),
            ("size", "big", "E1412"),
            ("size", "47x48", "E0901"),
            ("size", "4096x4096", "E1410"),
            ("size", "0x0", "E0901"),
            ("seconds", "-1", "E1412"),
            ("seconds", "NaN", "E1412"),
            ("seconds", "inf", "E1412"),
            ("seconds", "1e9", "E1412"),
            ("seconds", "12", "E1410"),
            ("frames", "6", "E0902"),
            ("frames", "-5", "E1412"),
            ("frames", "1025", "E1410"),
            ("steps", "0", "E0923"),
            ("steps", "201", "E1410"),
            ("steps", "99999999999999999999999", "E1412"),
            ("guidance", "-1", "E0928"),
            ("guidance", "nan", "E0928"),
            ("shift", "0", "E0924"),
            ("solver", "magic", "E0921"),
            ("schedule", "magic", "E0922"),
            ("seed", "-1", "E1412"),
            ("seed", "18446744073709551616", "E1412"),
            ("n", "2", "E1412"),
        ] {
            let list = [("prompt", "x"), (name, value)];
            let list = if name == "prompt" { &list[1..] } else { &list[..] };
            let refusal = made(list).unwrap_err();
            assert_eq!(refusal.code(), code, "{name}={value}: {refusal:?}");
            assert!(format!("{refusal:?}").contains(&format!("{name:?}")), "{refusal:?}");
        }
        let long = "x".repeat(PROMPT_CHARACTERS + 1);
        assert_eq!(made(&[("prompt", &long)]).unwrap_err().code(), "E1410");
        assert_eq!(made(&[("prompt", "x"), ("prompt", "y")]).unwrap_err().code(), "E1412");
        let both = [("prompt", "x"), ("seconds", "1"), ("frames", "5")];
        assert_eq!(made(&both).unwrap_err().code(), "E1412");
    }

    #[test]
    fn json_holds_texts_and_numbers() {
        let fields = of_json(br#"{"prompt": "x", "steps": 3, "seconds": "4", "seed": null}"#);
        let fields = fields.unwrap();
        assert_eq!(fields["steps"], "3");
        assert!(!fields.contains_key("seed"));
        for (bytes, code) in [
            (&b"[]"[..], "E1411"),
            (b"{", "E1411"),
            (b"\xff", "E1411"),
            (br#"{"prompt": ["x"]}"#, "E1412"),
            (br#"{"input_reference": {"image_url": "http://x/"}}"#, "E1412"),
            (br#"{"colour": "red"}"#, "E1412"),
        ] {
            assert_eq!(of_json(bytes).unwrap_err().code(), code);
        }
        let deep = [&b"{\"prompt\": "[..], &b"[".repeat(100_000)].concat();
        assert_eq!(of_json(&deep).unwrap_err().code(), "E1411");
    }
}
