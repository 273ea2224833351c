//! What is wrong with a file of lines, all of it in one look (`data.md` §8): fields, paths, ranges, and
//! where clips are known, whether parts lie in them.

use crate::lines::{Lines, parsed};
use crate::prompt::elements::Elements;
use crate::records::{Clip, Detection, Face, Group, Media, Shot, Span, schema};
use anyid_files::Result;
use anyid_files::manifest::{Field, Notes, Object, is_below, is_name, is_sha256, once};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::Path;

/// Most faults that are kept of a file.
const MOST: usize = 1000;

/// What was found out about a file.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Checked {
    /// Lines of each schema.
    pub lines: BTreeMap<String, usize>,
    /// Lines about files that could not be used.
    pub errors: usize,
    /// Lines with a fault, counted from 1, each with what is wrong.
    pub faults: Vec<(usize, String)>,
}

/// Checks a file. `clips` are those that its parts must lie in, by their ids, where they are known.
///
/// # Errors
/// E0911 where it cannot be read; E1202 for a line that is no text.
pub fn check(path: &Path, clips: Option<&HashMap<String, Span>>) -> Result<Checked> {
    let mut checked = Checked::default();
    let mut seen: HashMap<(String, String), usize> = HashMap::new();
    let mut lines = Lines::open(path)?;
    while let Some(line) = lines.next() {
        let (line, number) = (line?, lines.number());
        let mut notes = Notes::default();
        let read = of_line(&line, clips, &mut notes);
        if let Some((schema, id)) = read {
            *checked.lines.entry(schema.clone()).or_default() += 1;
            if let Some(id) = id {
                let first = *seen.entry((schema, id.clone())).or_insert(number);
                if first != number {
                    let what = format!("id \"{id}\" is also that of line {first}");
                    notes.faults.push((Field::Id, what));
                }
            } else {
                checked.errors += 1;
            }
        }
        checked.faults.extend(notes.faults.into_iter().map(|(_, fault)| (number, fault)));
        checked.faults.truncate(MOST);
    }
    Ok(checked)
}

/// The lines of a file that name media which are not below `root`, each with what is missing.
///
/// # Errors
/// E0911 where it cannot be read; E1202 for a line that is no text.
pub fn missing(path: &Path, root: &Path) -> Result<Vec<(usize, String)>> {
    let mut known: HashMap<String, bool> = HashMap::new();
    let (mut faults, mut lines) = (Vec::new(), Lines::open(path)?);
    while let Some(line) = lines.next() {
        let Ok(line) = serde_json::from_str::<Value>(&line?) else { continue };
        let references = line["references"].as_array().into_iter().flatten();
        let parts = [&line, &line["target"]].into_iter().chain(references);
        let named: BTreeSet<&str> = parts.filter_map(|part| part["media"].as_str()).collect();
        for media in named.into_iter().filter(|media| is_below(media)) {
            let there = known.entry(media.to_owned());
            if !*there.or_insert_with(|| root.join(media).is_file()) {
                faults.push((lines.number(), format!("there is no file {media}")));
            }
        }
        faults.truncate(MOST);
    }
    Ok(faults)
}

/// Checks a line; gives its schema and its id, none of a line about a file that could not be used.
fn of_line(
    line: &str,
    clips: Option<&HashMap<String, Span>>,
    notes: &mut Notes,
) -> Option<(String, Option<String>)> {
    let value = match once::value(line, &mut notes.faults) {
        Ok(value) => value,
        Err(fault) => {
            notes.faults.push((Field::Line, format!("this is not JSON: {fault}")));
            return None;
        }
    };
    let object = Object::listed(&value, Field::Line, notes)?;
    let name = object.string(notes, "schema")?.to_owned();
    if object.has("error") {
        object.path(notes, "media");
        return Some((name, None));
    }
    let add = |notes: &mut Notes, faults: Vec<String>| {
        notes.faults.extend(faults.into_iter().map(|what| (Field::Several, what)));
    };
    let id = match name.as_str() {
        schema::MEDIA => typed::<Media>(line, &name, notes).map(|media| {
            add(notes, media_faults(&media));
            media.media
        }),
        schema::SHOT => typed::<Shot>(line, &name, notes).map(|shot| {
            add(notes, span_faults(&shot.span));
            shot.span.id
        }),
        schema::DETECTION => typed::<Detection>(line, &name, notes).map(|found| {
            add(notes, span_faults(&found.shot));
            add(notes, face_faults(&found.faces, &found.shot));
            found.shot.id
        }),
        schema::CLIP => typed::<Clip>(line, &name, notes).map(|clip| {
            add(notes, span_faults(&clip.span));
            add(notes, face_faults(&clip.faces, &clip.span));
            if clip.keep != clip.reasons.is_empty() {
                add(notes, vec!["\"keep\" does not go with \"reasons\"".to_owned()]);
            }
            clip.span.id
        }),
        schema::GROUP => typed::<Group>(line, &name, notes).map(|group| {
            add(notes, group_faults(&group, clips));
            group.id
        }),
        schema::SAMPLE => {
            sample(&object, clips, notes);
            object.identifier(notes, "id")
        }
        schema::DESCRIPTION => {
            if let Err(fault) = serde_json::from_value::<Elements>(value["elements"].clone()) {
                add(notes, vec![format!("\"elements\": {fault}")]);
            }
            object.identifier(notes, "clip")
        }
        schema::PAIR => {
            let names = [object.identifier(notes, "ref"), object.identifier(notes, "target")];
            for (element, score) in value["scores"].as_object().into_iter().flatten() {
                let right = score.is_null()
                    || score.as_f64().is_some_and(|score| (0.0..=1.0).contains(&score));
                if !right {
                    add(notes, vec![format!("\"scores\": {element} is {score}, not 0 to 1")]);
                }
            }
            Some(names.map(Option::unwrap_or_default).join(" and "))
        }
        schema::BOXES => {
            object.path(notes, "media");
            let f = object.required_count(notes, "f").unwrap_or_default();
            Some(format!("{} {f}", value["media"]))
        }
        other => {
            let what = format!("\"schema\" is \"{other}\", which is not known");
            notes.faults.push((Field::Schema, what));
            None
        }
    };
    // What has no id has a fault already.
    id.map(|id| (name, Some(id)))
}

fn typed<T: serde::de::DeserializeOwned>(line: &str, name: &str, notes: &mut Notes) -> Option<T> {
    parsed(line, name).map_err(|what| notes.faults.push((Field::Line, what))).ok()
}

fn failing(rules: Vec<(bool, String)>) -> Vec<String> {
    rules.into_iter().filter(|(fits, _)| !fits).map(|(_, what)| what).collect()
}

fn path_rule(media: &str) -> (bool, String) {
    let what = "it must lie below the root, with / between folders and without ..";
    (is_below(media) && !media.is_empty(), format!("\"media\" is \"{media}\": {what}"))
}

fn media_faults(media: &Media) -> Vec<String> {
    failing(vec![
        path_rule(&media.media),
        (is_sha256(&media.sha256), "\"sha256\" is not 64 hexadecimal digits".into()),
        (media.width > 0 && media.height > 0, "the picture is empty".into()),
        (media.fps > 0.0 && media.fps.is_finite(), "\"fps\" is not above 0".into()),
    ])
}

fn span_faults(span: &Span) -> Vec<String> {
    failing(vec![
        (is_name(&span.id) && !span.id.is_empty(), format!("\"id\" is \"{}\"", span.id)),
        path_rule(&span.media),
        (span.start < span.end, format!("frames {} to {} are none", span.start, span.end)),
        (span.width > 0 && span.height > 0, "the picture is empty".into()),
        (span.fps > 0.0 && span.fps.is_finite(), "\"fps\" is not above 0".into()),
    ])
}

fn face_faults(faces: &[Face], span: &Span) -> Vec<String> {
    let mut faults = Vec::new();
    for face in faces {
        let [left, top, right, bottom] = face.area;
        let rules = failing(vec![
            (
                (span.start..span.end).contains(&face.f),
                format!("frame {} is not of the clip", face.f),
            ),
            (left < right && top < bottom, format!("the box in frame {} is empty", face.f)),
            ((0.0..=1.0).contains(&face.score), format!("\"score\" is {}, not 0 to 1", face.score)),
        ]);
        faults.extend(rules);
    }
    faults
}

fn group_faults(group: &Group, clips: Option<&HashMap<String, Span>>) -> Vec<String> {
    let mut rules = vec![
        (is_name(&group.id) && !group.id.is_empty(), format!("\"id\" is \"{}\"", group.id)),
        (!group.clips.is_empty(), "it has no clips".into()),
    ];
    let own: BTreeSet<&String> = group.clips.iter().collect();
    rules.push((own.len() == group.clips.len(), "a clip is there twice".into()));
    for clip in &group.clips {
        let known = clips.is_none_or(|clips| clips.contains_key(clip));
        rules.push((known, format!("there is no clip \"{clip}\"")));
    }
    failing(rules)
}

/// A sample: its parts lie in their clips and frames, and its target is not among its references.
fn sample(object: &Object<'_>, clips: Option<&HashMap<String, Span>>, notes: &mut Notes) {
    object.string(notes, "prompt");
    let target = object.section(notes, "target");
    let target = target.and_then(|target| part(&target, clips, notes));
    let list = object.required(notes, "references").and_then(Value::as_array);
    let list = list.map_or(&[][..], Vec::as_slice);
    if !(1..=5).contains(&list.len()) {
        let what = format!("it has {} references, expected 1 to 5", list.len());
        object.fault(notes, "references", what);
    }
    for (at, value) in list.iter().enumerate() {
        let Some(reference) = Object::listed(value, Field::Reference(at + 1), notes) else {
            continue;
        };
        match reference.string(notes, "form") {
            Some("face" | "portrait" | "video") | None => {}
            Some(other) => {
                let what = format!("\"form\" is \"{other}\": face, portrait or video");
                reference.fault(notes, "form", what);
            }
        }
        let own = part(&reference, clips, notes);
        if own.is_some() && own == target {
            reference.fault(notes, "clip", "it is the clip of the target");
        }
    }
}

/// Checks a part; gives the name of its clip, or else of its file.
fn part(
    object: &Object<'_>,
    clips: Option<&HashMap<String, Span>>,
    notes: &mut Notes,
) -> Option<String> {
    let media = object.path(notes, "media");
    object.hash(notes, "sha256");
    let start = object.count(notes, "start").or(object.count(notes, "frame")).unwrap_or(0);
    let frames = object.count(notes, "frames").unwrap_or(1);
    let rate = object.number(notes, "fps");
    object.number(notes, "src_fps");
    let crop = object.crop(notes, "crop");
    if crop.is_some_and(|[left, top, right, bottom]| left >= right || top >= bottom) {
        object.fault(notes, "crop", "\"crop\" is empty");
    }
    let name = object.text(notes, "clip");
    let Some((clips, id)) = clips.zip(name.clone()) else {
        return name.or(media.map(|media| media.display().to_string()));
    };
    let Some(clip) = clips.get(&id) else {
        object.fault(notes, "clip", format!("there is no clip \"{id}\""));
        return Some(id);
    };
    let rate = rate.filter(|rate| *rate > 0.0).unwrap_or(clip.fps);
    let (begin, end) = (clip.start, clip.end);
    let until = if start < end { clip.until(start, frames, rate) } else { start + 1 };
    if start < begin || until > end {
        let (last, end) = (until - 1, end - 1);
        let what = format!("frames {start} to {last} are not of the clip, {begin} to {end}");
        object.fault(notes, "start", what);
    }
    if let Some([left, top, right, bottom]) = crop
        && !(left >= 0.0
            && top >= 0.0
            && right <= clip.width as f64
            && bottom <= clip.height as f64)
    {
        let (width, height) = (clip.width, clip.height);
        let what = format!("\"crop\" does not lie in a picture of {width}x{height}");
        object.fault(notes, "crop", what);
    }
    if media.is_some_and(|media| media != Path::new(&clip.media)) {
        object.fault(notes, "media", format!("the clip is of \"{}\"", clip.media));
    }
    Some(id)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::TempFolder;

    const SAMPLE: &str = r#"{"schema":"anyid.sample/1","id":"s_1","target":{"clip":"c_1","media":"a/1.mp4","start":30,"frames":5,"fps":24,"src_fps":24.0,"crop":[0,0,64,48]},"references":[{"form":"face","clip":"c_2","media":"a/2.mp4","frame":7,"crop":[1,1,20,20]}],"prompt":"He nods."}"#;

    fn clips() -> HashMap<String, Span> {
        let span = |id: &str, media: &str| Span {
            id: id.into(),
            media: media.into(),
            sha256: String::new(),
            start: 2,
            end: 60,
            fps: 24.0,
            width: 64,
            height: 48,
            duration: 2.0,
            times: Vec::new(),
        };
        let all = [span("c_1", "a/1.mp4"), span("c_2", "a/2.mp4")];
        all.into_iter().map(|span| (span.id.clone(), span)).collect()
    }

    fn faults(text: &str) -> Vec<(usize, String)> {
        let folder = TempFolder::new("check");
        check(&folder.write("x.jsonl", text), Some(&clips())).unwrap().faults
    }

    #[test]
    fn files_that_are_not_there_are_named_with_their_line() {
        let folder = TempFolder::new("missing");
        folder.write("root/a/1.mp4", "");
        let other = SAMPLE.replace("a/2.mp4", "a/1.mp4");
        let path = folder.write("x.jsonl", format!("{other}\n{SAMPLE}\n{SAMPLE}\nno\n"));
        let found = missing(&path, &folder.path().join("root")).unwrap();
        let said = "there is no file a/2.mp4".to_owned();
        assert_eq!(found, [(2, said.clone()), (3, said)]);
    }

    #[test]
    fn every_fault_of_a_sample_has_its_line() {
        assert_eq!(faults(SAMPLE), []);
        for (from, to, part) in [
            ("a/1.mp4", "../1.mp4", "it must lie below the root"),
            ("a/1.mp4", "/a/1.mp4", "it must lie below the root"),
            ("a/2.mp4", "a/3.mp4", "the clip is of \"a/2.mp4\""),
            (
                "\"c_2\",\"media\":\"a/2.mp4\"",
                "\"c_1\",\"media\":\"a/1.mp4\"",
                "the clip of the target",
            ),
            ("\"start\":30", "\"start\":56", "frames 56 to 60 are not of the clip, 2 to 59"),
            ("\"frame\":7", "\"frame\":1", "frames 1 to 1 are not of the clip"),
            ("[1,1,20,20]", "[1,1,65,20]", "does not lie in a picture of 64x48"),
            ("[1,1,20,20]", "[9,1,9,20]", "\"crop\" is empty"),
            ("\"c_2\"", "\"c_9\"", "there is no clip \"c_9\""),
            ("\"face\"", "\"hand\"", "\"form\" is \"hand\""),
            ("\"prompt\":\"He nods.\"", "\"prompt\":\"\"", "\"prompt\" is empty"),
            ("\"id\":\"s_1\"", "\"id\":\"s 1\"", "use at most 64 letters"),
            ("\"id\":\"s_1\"", "\"id\":\"s_1\",\"id\":\"s_2\"", "is there twice"),
            ("anyid.sample/1", "anyid.simple/1", "which is not known"),
            ("}]", "}", "this is not JSON"),
        ] {
            let text =
                format!("{}\n{}", SAMPLE.replace("s_1", "s_0"), SAMPLE.replacen(from, to, 1));
            let found = faults(&text);
            let told = |(line, what): &(usize, String)| *line == 2 && what.contains(part);
            assert!(found.iter().any(told), "{part}: {found:?}");
        }
        let twice = faults(&format!("{SAMPLE}\n{SAMPLE}"));
        assert_eq!(twice, [(2, "id \"s_1\" is also that of line 1".to_owned())]);
    }
}
