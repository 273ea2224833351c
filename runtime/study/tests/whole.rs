//! From a folder of videos that the test makes to a manifest, with detections that are given: what is
//! kept is what was planned, whatever the number of parts and threads, and however often a run is
//! killed.

use anyid_files::media::standardise::{Filter, resize};
use anyid_files::media::writer::{VideoWriter, WriterOptions};
use anyid_files::media::{ReadOptions, RgbFrame, read_clip};
use anyid_files::shard::Shard;
use anyid_study::records::{Span, schema};
use anyid_study::settings::Settings;
use anyid_study::stages::{Job, Stage};
use anyid_study::{check, report};
use serde_json::{Value, json};
use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Instant;

/// Side of a frame, and of the picture that it is a window of. Where only bytes are compared, both are
/// a quarter of that.
const SIDE: usize = 400;
const PICTURE: usize = 640;
const SMALL: usize = 4;
/// Moments at which a run is killed.
const MOMENTS: u32 = 20;
/// Frames of a clip.
const FRAMES: usize = 60;
/// The face in the picture of 512x512 pixels, with its points (MTCNN).
const FACE: [f64; 4] = [179.803, 60.119, 268.095, 173.890];
const POINTS: [[f64; 2]; 5] = [
    [203.861, 101.303],
    [246.390, 103.178],
    [224.267, 128.897],
    [201.823, 139.766],
    [244.905, 141.991],
];

struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("anyid-whole-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Two people: a picture, and the same mirrored and in other colours.
fn people(picture: usize) -> [RgbFrame; 2] {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/astronaut.png");
    let clip = read_clip(&path, &ReadOptions::default()).unwrap();
    let first = resize(&clip.frames[0], picture, picture, Filter::Lanczos);
    let mut second = first.clone();
    for (row, source) in
        second.data.chunks_exact_mut(picture * 3).zip(first.data.chunks_exact(picture * 3))
    {
        for (pixel, from) in row.chunks_exact_mut(3).zip(source.chunks_exact(3).rev()) {
            pixel.copy_from_slice(&[from[2], from[0] / 2 + 60, from[1]]);
        }
    }
    [first, second]
}

/// Where the window stands in a frame of a clip: it moves slowly.
fn window(clip: usize, t: usize) -> [usize; 2] {
    [20 + (clip * 13) % 40 + t / 2, (clip * 7) % 40]
}

/// The pixels of a window.
fn frame(picture: &RgbFrame, [left, top]: [usize; 2], side: usize) -> Vec<u8> {
    let row = |y: usize| ((top + y) * picture.width + left) * 3;
    (0..side).flat_map(|y| &picture.data[row(y)..row(y) + side * 3]).copied().collect()
}

/// What a frame shows.
#[derive(Clone, Copy, PartialEq)]
enum Shown {
    Person(usize),
    White,
    /// Two faces.
    Both,
}

/// The clips that are made: name, and what each frame shows.
fn plan() -> Vec<(String, Vec<Shown>)> {
    let mut clips = Vec::new();
    for (person, name) in ["ann", "bob"].into_iter().enumerate() {
        for at in 0..5 {
            clips.push((format!("{name}/{at}.mp4"), vec![Shown::Person(person); FRAMES]));
        }
        // A flash is no cut.
        let mut flash = vec![Shown::Person(person); FRAMES];
        flash[6..9].fill(Shown::White);
        clips.push((format!("{name}/flash.mp4"), flash));
    }
    let mut cut = vec![Shown::Person(0); FRAMES];
    cut[30..].fill(Shown::Person(1));
    clips.push(("ann/cut.mp4".into(), cut));
    clips.push(("bob/two.mp4".into(), vec![Shown::Both; FRAMES]));
    clips.push(("bob/short.mp4".into(), vec![Shown::Person(1); 20]));
    clips.sort_by(|a, b| a.0.cmp(&b.0));
    clips
}

/// Writes the clips and their detections, all sides so many times smaller.
fn make(root: &Path, smaller: usize) {
    let (side, picture) = (SIDE / smaller, PICTURE / smaller);
    let people = people(picture);
    let mut boxes = String::new();
    let scale = picture as f64 / 512.0;
    for (number, (name, shown)) in plan().into_iter().enumerate() {
        let path = root.join("videos").join(&name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        let mut writer =
            VideoWriter::create(&path, side, side, 24.0, &WriterOptions::default()).unwrap();
        for (t, shown) in shown.into_iter().enumerate() {
            let at = window(number, t).map(|way| way / smaller);
            let (image, faces) = match shown {
                Shown::White => (vec![255; side * side * 3], vec![]),
                Shown::Person(person) => (frame(&people[person], at, side), vec![person]),
                Shown::Both => (frame(&people[0], at, side), vec![0, 1]),
            };
            writer.push(&image).unwrap();
            let face = |person: usize| {
                let place = |p: [f64; 2]| {
                    let x = if person == 1 { 512.0 - p[0] } else { p[0] };
                    [x * scale - at[0] as f64, p[1] * scale - at[1] as f64]
                };
                let (a, b) = (place([FACE[0], FACE[1]]), place([FACE[2], FACE[3]]));
                let mut points = POINTS.map(place);
                if person == 1 {
                    // Left and right as they lie in the picture.
                    points.swap(0, 1);
                    points.swap(3, 4);
                }
                json!({"box": [a[0].min(b[0]), a[1], a[0].max(b[0]), b[1]], "kps": points, "score": 0.95})
            };
            if t % 6 == 3 {
                let faces: Vec<Value> = faces.into_iter().map(face).collect();
                let line = json!({"schema": schema::BOXES, "media": name, "f": t, "faces": faces});
                boxes.push_str(&format!("{line}\n"));
            }
        }
        writer.finish().unwrap();
        let person = if name.starts_with("ann") { "She" } else { "He" };
        let text = format!(
            "shot = \"Static close-up shot.\"\nclothing = \"{person} wears an orange suit.\"\n\
             action = \"{person} moves to the left, number {number}.\"\npronoun = \"{}\"\n",
            person.to_lowercase()
        );
        std::fs::write(path.with_extension("aspects.toml"), text).unwrap();
    }
    // The first half of a file, whose index is at its beginning or missing.
    let whole = std::fs::read(root.join("videos/ann/0.mp4")).unwrap();
    std::fs::write(root.join("videos/ann/broken.mp4"), &whole[..whole.len() / 2]).unwrap();
    std::fs::write(root.join("videos/notes.txt"), "nothing to see").unwrap();
    std::fs::write(root.join("boxes.jsonl"), boxes).unwrap();
}

fn settings(root: &Path) -> Settings {
    let text = format!(
        "[detect]\ngiven = {:?}\n[shots]\nmethod = \"content\"\n[sample]\ncount = 40\nwidth = 64\n\
         height = 64\nframes = 5\nseed = 3\n",
        root.join("boxes.jsonl").display().to_string()
    );
    Settings::parse(&text).unwrap()
}

fn job(root: &Path, out: &str) -> Job {
    Job {
        root: root.join("videos"),
        lines: None,
        out: root.join(out),
        settings: settings(root),
        shard: Shard::WHOLE,
        threads: 2,
        redo: false,
    }
}

fn lines(path: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(path).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn a_folder_of_videos_becomes_the_manifest_that_was_planned() {
    let folder = Folder::new("all");
    let root = &folder.0;
    make(root, 1);
    let own = job(root, "out");
    let totals = own.all(&mut |_, _| {}).unwrap();
    assert_eq!((totals.groups, totals.samples), (2, 40));
    // One file is broken, and it is a line and no more.
    let failed: Vec<Value> = lines(&own.path("media.jsonl"))
        .into_iter()
        .chain(lines(&own.path("shots.jsonl")))
        .filter(|line| line.get("error").is_some())
        .collect();
    assert_eq!(failed.len(), 1, "{failed:?}");
    assert_eq!(failed[0]["media"], "ann/broken.mp4");
    let mut clips: BTreeMap<String, Vec<(u64, u64, String)>> = BTreeMap::new();
    for clip in lines(&own.path("clips.jsonl")) {
        let number = |key: &str| clip[key].as_u64().unwrap();
        let reasons = clip["reasons"].as_array().unwrap();
        let reasons: Vec<&str> = reasons.iter().filter_map(Value::as_str).collect();
        let media = clip["media"].as_str().unwrap().to_owned();
        clips.entry(media).or_default().push((number("start"), number("end"), reasons.join(" ")));
    }
    for (name, shown) in plan() {
        let end = shown.len() as u64 - 2;
        let expected: Vec<(u64, u64, &str)> = match name.as_str() {
            "ann/cut.mp4" => vec![(2, 28, ""), (32, 58, "")],
            "bob/two.mp4" => vec![(2, end, "not_single several_faces several_persons")],
            "bob/short.mp4" => vec![(2, end, "short")],
            _ => vec![(2, end, "")],
        };
        let found: Vec<(u64, u64, &str)> =
            clips[&name].iter().map(|(a, b, reasons)| (*a, *b, reasons.as_str())).collect();
        assert_eq!(found, expected, "{name}");
    }
    // Every sample is sound, and says what changes and no more.
    let spans: HashMap<String, Span> = own
        .clips_read()
        .unwrap()
        .into_iter()
        .map(|clip| (clip.span.id.clone(), clip.span))
        .collect();
    for name in [
        "media.jsonl",
        "shots.jsonl",
        "detections.jsonl",
        "clips.jsonl",
        "groups.jsonl",
        "desc.jsonl",
        "train.jsonl",
    ] {
        let found = check::check(&own.path(name), Some(&spans)).unwrap();
        assert_eq!(found.faults, [], "{name}");
        for line in lines(&own.path(name)).iter().filter(|line| line.get("error").is_none()) {
            let kind = line["schema"].as_str().unwrap().trim_start_matches("anyid.");
            let kind = kind.trim_end_matches("/1");
            let path = format!("{}/../../docs/schemas/{kind}.json", env!("CARGO_MANIFEST_DIR"));
            let rule: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
            assert_eq!(against(line, &rule, ""), Vec::<String>::new(), "{name}");
        }
    }
    for sample in lines(&own.path("train.jsonl")) {
        let prompt = sample["prompt"].as_str().unwrap();
        let face = sample["references"][0]["form"] == "face";
        assert!(prompt.contains("number"), "{prompt}");
        assert_eq!(prompt.contains("orange suit"), face, "{sample}");
    }
    let page = report::write(&own.out, Some(&own.root), false).unwrap();
    assert_eq!(page["gates"][0]["count"], 16);
    let html = std::fs::read_to_string(own.path("report.html")).unwrap();
    assert_eq!(html.matches("data:image/jpeg").count(), 2);
    // Again, nothing is made again; with other settings it is refused.
    assert_eq!(own.all(&mut |_, _| {}).unwrap().samples, 40);
    let mut other = own.clone();
    other.settings.shots.trim = 3;
    assert_eq!(other.all(&mut |_, _| {}).unwrap_err().code(), "E1204");
    // What a server said of a clip stays where the user says nothing of it.
    let mut described = lines(&own.path("desc.jsonl"));
    described[..2].iter_mut().for_each(|line| line["model"] = "m".into());
    let text: String = described.iter().map(|line| format!("{line}\n")).collect();
    std::fs::write(own.path("desc.jsonl"), text).unwrap();
    std::fs::remove_file(root.join("videos/ann/0.aspects.toml")).unwrap();
    assert_eq!(described[0]["media"], "ann/0.mp4");
    assert_eq!(own.describe().unwrap(), described.len());
    let after = lines(&own.path("desc.jsonl"));
    assert!(after[0] == described[0] && after[1]["model"].is_null(), "{after:?}");
}

#[test]
fn what_cannot_be_made_into_samples_says_why() {
    let folder = Folder::new("refused");
    let root = &folder.0;
    let code = |job: &Job, stage: Stage| job.stage(stage, &mut |_, _| {}).unwrap_err();
    std::fs::create_dir_all(root.join("videos")).unwrap();
    std::fs::write(root.join("boxes.jsonl"), "").unwrap();
    let own = job(root, "out");
    let fault = code(&own, Stage::Index);
    assert!(fault.code() == "E1200" && fault.message().contains("empty"), "{fault}");
    std::fs::write(root.join("videos/notes.txt"), "nothing").unwrap();
    let fault = code(&own, Stage::Index);
    assert!(fault.code() == "E1200" && fault.message().contains("1 file"), "{fault}");
    // Steps without what they read.
    assert_eq!(code(&own, Stage::Shots).code(), "E0911");
    assert_eq!(own.group().unwrap_err().code(), "E0911");
    // All of the work has to be one part.
    let part = Job { shard: Shard { index: 0, count: 2 }, ..own.clone() };
    assert_eq!(part.all(&mut |_, _| {}).unwrap_err().code(), "E1203");
    // A clip that nobody describes, and one that was changed behind the step.
    let write = |frames: u8| {
        let path = root.join("videos/a/0.gif");
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        let _ = std::fs::remove_file(&path);
        let mut writer =
            VideoWriter::create(&path, 48, 48, 24.0, &WriterOptions::default()).unwrap();
        (0..frames).for_each(|shade| writer.push(&[shade * 4; 48 * 48 * 3]).unwrap());
        writer.finish().unwrap();
    };
    write(40);
    for stage in [Stage::Index, Stage::Shots] {
        own.stage(stage, &mut |_, _| {}).unwrap();
    }
    let boxes = json!({"schema": schema::BOXES, "media": "a/0.gif", "f": 30});
    std::fs::write(root.join("boxes.jsonl"), format!("{boxes}\n")).unwrap();
    write(20);
    let fault = code(&own, Stage::Detect);
    assert_eq!(fault.code(), "E1206", "{fault}");
    let line = &lines(&own.path("detect/part-00000-of-00001.jsonl"))[0];
    assert_eq!(line["error"]["code"], "E1213");
    write(40);
    let again = Job { redo: true, ..own.clone() };
    for stage in [Stage::Detect, Stage::Filter] {
        std::fs::remove_dir_all(own.out.join(stage.name())).ok();
        again.stage(stage, &mut |_, _| {}).unwrap();
    }
    own.group().unwrap();
    let fault = own.sample(&mut |_, _| {}).unwrap_err();
    assert!(fault.code() == "E1211" && fault.message().contains("0 of 1 clips"), "{fault}");
}

#[test]
#[cfg(not(feature = "curate"))]
fn a_program_without_detectors_says_so() {
    let text = "[detect]\nface = { kind = \"mtcnn\", path = \"/models\" }";
    let settings = Settings::parse(text).unwrap();
    let fault = anyid_study::detect::Source::open(&settings.detect).err().unwrap();
    assert_eq!(fault.code(), "E1209");
}

/// What of a value is not as a JSON schema says, of the words that our schemas have. Patterns are left
/// out.
fn against(value: &Value, rule: &Value, place: &str) -> Vec<String> {
    let mut faults = Vec::new();
    let kinds = match &rule["type"] {
        Value::Array(kinds) => kinds.clone(),
        kind => vec![kind.clone()],
    };
    let fits = |kind: &Value| match kind.as_str() {
        Some("object") => value.is_object(),
        Some("array") => value.is_array(),
        Some("string") => value.is_string(),
        Some("number") => value.is_number(),
        Some("integer") => value.is_u64(),
        Some("boolean") => value.is_boolean(),
        Some("null") => value.is_null(),
        _ => false,
    };
    if !kinds.iter().any(fits) {
        return vec![format!("{place} is {value}, not {kinds:?}")];
    }
    let number = |key: &str| rule[key].as_f64();
    let outside = value.as_f64().is_some_and(|own| {
        number("minimum").is_some_and(|least| own < least)
            || number("maximum").is_some_and(|most| own > most)
    });
    let count = value.as_array().map(|list| list.len() as f64);
    let uneven = count.is_some_and(|own| {
        number("minItems").is_some_and(|least| own < least)
            || number("maxItems").is_some_and(|most| own > most)
    });
    let other = rule.get("const").is_some_and(|wanted| wanted != value)
        || rule["enum"].as_array().is_some_and(|all| !all.contains(value));
    if outside || uneven || other {
        faults.push(format!("{place} is {value}"));
    }
    for key in rule["required"].as_array().into_iter().flatten().filter_map(Value::as_str) {
        if value.get(key).is_none() {
            faults.push(format!("{place}/{key} is missing"));
        }
    }
    for (key, own) in value.as_object().into_iter().flatten() {
        match rule["properties"].get(key) {
            Some(rule) => faults.extend(against(own, rule, &format!("{place}/{key}"))),
            None if rule["properties"].is_object() => {
                faults.push(format!("{place}/{key} is not in the schema"));
            }
            None => {}
        }
    }
    for own in value.as_array().into_iter().flatten() {
        faults.extend(against(own, &rule["items"], &format!("{place}[]")));
    }
    faults
}

/// Steps whose results are compared.
fn all_stages(job: &Job) {
    for stage in Stage::ALL {
        job.stage(stage, &mut |_, _| {}).unwrap();
        if job.shard != Shard::WHOLE {
            return;
        }
    }
}

fn results(out: &Path) -> Vec<Vec<u8>> {
    Stage::ALL.iter().map(|stage| std::fs::read(out.join(stage.file())).unwrap()).collect()
}

/// What a child process does: the stage, as its variables say; nothing in the test of the parent.
#[test]
fn child() {
    let Ok(root) = std::env::var("ANYID_STUDY_CHILD") else {
        println!("skipped: this is what other tests start");
        return;
    };
    let stage = std::env::var("ANYID_STUDY_STAGE").unwrap();
    let stage = Stage::ALL.into_iter().find(|known| known.name() == stage).unwrap();
    let out = std::env::var("ANYID_STUDY_OUT").unwrap();
    let mut own = job(Path::new(&root), &out);
    own.threads = 1;
    let shards = std::env::var("ANYID_STUDY_SHARDS").ok().and_then(|count| count.parse().ok());
    own.shard = Shard::find(None, shards, &|name| std::env::var(name).ok()).unwrap().0;
    own.stage(stage, &mut |_, _| {}).unwrap();
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    println!("peak {}", peak.unwrap_or(" 0 kB").trim());
}

fn start(root: &Path, out: &str, stage: Stage, variables: &[(&str, String)]) -> Child {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "child", "--nocapture"]);
    command.env("ANYID_STUDY_CHILD", root).env("ANYID_STUDY_OUT", out);
    command.env("ANYID_STUDY_STAGE", stage.name());
    for (name, value) in variables {
        command.env(name, value);
    }
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

fn finish(child: Child) -> String {
    let out = child.wait_with_output().unwrap();
    let (text, faults) =
        (String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
    assert!(out.status.success(), "{text}\n{faults}");
    text.into_owned()
}

#[test]
fn parts_threads_and_kills_change_no_byte() {
    let folder = Folder::new("parts");
    let root = &folder.0;
    make(root, SMALL);
    let whole = job(root, "whole");
    all_stages(&whole);
    let expected = results(&whole.out);
    for count in [3, 7] {
        let mut own = job(root, &format!("of{count}"));
        for stage in Stage::ALL {
            for index in (0..count).rev() {
                own.shard = Shard { index, count };
                // Of few files, the broken one may be more than a fifth of a part.
                match own.stage(stage, &mut |_, _| {}) {
                    Ok(_) => {}
                    Err(fault) => assert_eq!(fault.code(), "E1206", "{fault}"),
                }
            }
            own.merge(stage).unwrap();
        }
        assert!(results(&own.out) == expected, "{count} parts");
    }
    // Four processes, as each launcher would start them.
    let own = job(root, "launched");
    let text = |text: usize| text.to_string();
    let launchers: [&dyn Fn(usize) -> Vec<(&'static str, String)>; 4] = [
        &|k| {
            vec![
                ("SLURM_ARRAY_TASK_ID", text(5 + 2 * k)),
                ("SLURM_ARRAY_TASK_MIN", text(5)),
                ("SLURM_ARRAY_TASK_STEP", text(2)),
                ("SLURM_ARRAY_TASK_COUNT", text(4)),
            ]
        },
        &|k| vec![("OMPI_COMM_WORLD_RANK", text(k)), ("OMPI_COMM_WORLD_SIZE", text(4))],
        &|k| vec![("JOB_COMPLETION_INDEX", text(k)), ("ANYID_STUDY_SHARDS", text(4))],
        &|k| vec![("RANK", text(k)), ("WORLD_SIZE", text(4))],
    ];
    for (stage, launcher) in Stage::ALL.into_iter().zip(launchers) {
        let children: Vec<Child> =
            (0..4).map(|k| start(root, "launched", stage, &launcher(k))).collect();
        for child in children {
            let out = child.wait_with_output().unwrap();
            let text = String::from_utf8_lossy(&out.stderr);
            assert!(out.status.success() || text.contains("E1206"), "{text}");
        }
        own.merge(stage).unwrap();
    }
    assert!(results(&own.out) == expected);
    // Killed at twenty moments, each in a folder of its own.
    let stages = [Stage::Shots, Stage::Detect];
    let prepared = |name: &str, stage: Stage| {
        let out = root.join(name);
        std::fs::create_dir_all(&out).unwrap();
        let at = Stage::ALL.iter().position(|known| *known == stage).unwrap();
        let before = Stage::ALL[at - 1].file();
        std::fs::copy(whole.out.join(before), out.join(before)).unwrap();
        out
    };
    let lasts = stages.map(|stage| {
        prepared("timed", stage);
        let begun = Instant::now();
        finish(start(root, "timed", stage, &[]));
        begun.elapsed()
    });
    let mut broken = 0;
    for moment in 0..MOMENTS {
        let (name, kind) = (format!("killed{moment}"), moment as usize % 2);
        let out = prepared(&name, stages[kind]);
        let mut child = start(root, &name, stages[kind], &[]);
        std::thread::sleep(lasts[kind] * (moment + 1) / (MOMENTS + 1));
        child.kill().unwrap();
        broken += usize::from(!child.wait().unwrap().success());
        job(root, &name).stage(stages[kind], &mut |_, _| {}).unwrap();
        let file = stages[kind].file();
        let [made, expected] = [&out, &whole.out].map(|out| std::fs::read(out.join(file)).unwrap());
        assert!(made == expected, "{file} after a kill at moment {moment}");
    }
    assert!(broken >= MOMENTS as usize / 4, "{broken} runs were broken off");
}

#[test]
#[cfg(target_os = "linux")]
fn memory_does_not_grow_with_the_number_of_clips() {
    let folder = Folder::new("memory");
    let peak = |count: usize| -> u64 {
        let root = folder.0.join(count.to_string());
        std::fs::create_dir_all(root.join("videos")).unwrap();
        std::fs::write(root.join("boxes.jsonl"), "").unwrap();
        let first = root.join("videos/0.gif");
        let mut writer =
            VideoWriter::create(&first, 48, 48, 24.0, &WriterOptions::default()).unwrap();
        (0..12u8).for_each(|shade| writer.push(&[shade * 9; 48 * 48 * 3]).unwrap());
        writer.finish().unwrap();
        for at in 1..count {
            std::fs::hard_link(&first, root.join(format!("videos/{at}.gif"))).unwrap();
        }
        finish(start(&root, "out", Stage::Index, &[]));
        let text = finish(start(&root, "out", Stage::Shots, &[]));
        let peak = text.lines().find_map(|line| line.split("peak ").nth(1)).unwrap();
        peak.trim_end_matches(" kB").trim().parse().unwrap()
    };
    let (few, many) = (peak(50), peak(1000));
    assert!(many < few + 4096, "{few} kB for 50 clips, {many} kB for 1000");
}
