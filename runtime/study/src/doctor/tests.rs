//! Sets of references that have one thing wrong with them each.

use super::*;
use crate::settings::DetectSettings;
use crate::testing::TempFolder;
use anyid_files::media::standardise::{Filter, resize};
use anyid_files::media::writer::{VideoWriter, WriterOptions};
use anyid_files::media::{ReadOptions, RgbFrame, lossless, read_clip};
use serde_json::{Value, json};
use std::path::Path;

/// The face in the picture, as MTCNN finds it.
const FACE: [f64; 4] = [179.8, 60.1, 268.1, 173.9];

fn astronaut() -> RgbFrame {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/astronaut.png");
    read_clip(&path, &ReadOptions::default()).unwrap().frames.remove(0)
}

/// The columns and rows of a picture from `left` and `top` on.
fn window(picture: &RgbFrame, [left, top]: [usize; 2], side: usize) -> RgbFrame {
    let row = |y: usize| ((top + y) * picture.width + left) * 3;
    let data = (0..side).flat_map(|y| &picture.data[row(y)..row(y) + side * 3]).copied().collect();
    RgbFrame { width: side, height: side, data }
}

fn mirrored(picture: &RgbFrame) -> RgbFrame {
    let rows = picture.data.chunks_exact(picture.width * 3);
    let data = rows.flat_map(|row| row.chunks_exact(3).rev().flatten()).copied().collect();
    RgbFrame { data, ..picture.clone() }
}

/// A picture without what is finer than this many pixels.
fn blurred(picture: &RgbFrame, by: usize) -> RgbFrame {
    let (width, height) = (picture.width, picture.height);
    let small = resize(picture, width / by, height / by, Filter::Lanczos);
    resize(&small, width, height, Filter::Bicubic)
}

/// A face with its points, turned by so many degrees.
fn face(area: [f64; 4], yaw: f64, embedding: Option<[f32; 2]>) -> Value {
    let mean = [
        [-31.0, -36.0, 0.0],
        [31.0, -36.0, 0.0],
        [0.0, 0.0, 27.0],
        [-25.5, 36.0, 2.0],
        [25.5, 36.0, 2.0],
    ];
    let (sine, cosine) = yaw.to_radians().sin_cos();
    let middle = [(area[0] + area[2]) / 2.0, (area[1] + area[3]) / 2.0];
    let points = mean.map(|[x, y, z]: [f64; 3]| [middle[0] + x * cosine + z * sine, middle[1] + y]);
    let mut face = json!({"box": area, "kps": points, "score": 0.99});
    if let Some(embedding) = embedding {
        face["embedding"] = json!(embedding);
    }
    face
}

/// A folder of references, with what is detected in each of their first frames.
struct Set {
    folder: TempFolder,
    files: Vec<PathBuf>,
    lines: Vec<String>,
}

impl Set {
    fn new() -> Self {
        Self { folder: TempFolder::new("doctor"), files: Vec::new(), lines: Vec::new() }
    }

    fn add(&mut self, name: &str, picture: &RgbFrame, faces: &[Value]) {
        self.files.push(self.folder.write(name, lossless::picture(picture).unwrap()));
        let line = json!({"schema": "anyid.boxes/1", "media": name, "f": 0, "faces": faces});
        self.lines.push(line.to_string());
    }

    /// The report, with faces or without.
    fn report(&self, faces: bool, size: [usize; 2]) -> Report {
        let given = faces.then(|| self.folder.write("boxes.jsonl", self.lines.join("\n")));
        let settings = DetectSettings { given, ..DetectSettings::default() };
        let source = faces.then(|| Source::open(&settings).unwrap());
        let gates = FilterSettings::default();
        let options = Options { size, faces: source.as_ref(), gates };
        examine(&self.files, &options, &mut |_| ()).unwrap()
    }
}

/// Rules that found something, with the references that they are about.
fn found(report: &Report) -> Vec<(&'static str, &[usize])> {
    report.findings.iter().map(|finding| (finding.code, finding.references.as_slice())).collect()
}

const USUAL: [usize; 2] = [1280, 704];

#[test]
fn without_detections_sizes_blur_and_copies_are_seen_and_the_rest_is_named() {
    let picture = astronaut();
    let mut set = Set::new();
    set.add("a.png", &picture, &[]);
    set.add("soft.png", &blurred(&picture, 16), &[]);
    set.add("again.png", &picture, &[]);
    let mut brighter = mirrored(&picture);
    set.add("other.png", &brighter, &[]);
    brighter.data.iter_mut().for_each(|value| *value = *value / 8 * 7 + 20);
    set.add("brighter.png", &brighter, &[]);
    let report = set.report(false, USUAL);
    let all: &[(&str, &[usize])] = &[
        ("R011", &[2]),
        // What is left of it after blurring has the same large areas.
        ("R041", &[1, 2]),
        ("R040", &[1, 3]),
        ("R041", &[2, 3]),
        ("R041", &[4, 5]),
        ("R053", &[]),
    ];
    assert_eq!(found(&report), all, "{:#?}", report.findings);
    assert_eq!(report.not_looked_at.len(), 4, "{:?}", report.not_looked_at);
    assert!(report.not_looked_at[0].starts_with("faces"));
    assert!(report.references.iter().flatten().all(|one| one.form.is_none()));
    verdict(&report).unwrap();
    // Small ones, too many, and one that is no picture.
    let mut set = Set::new();
    for (at, side) in [64, 200, 300, 120, 256].into_iter().enumerate() {
        let part = window(&picture, [at * 40, 100], side.min(300));
        set.add(&format!("{at}.png"), &part, &[]);
    }
    set.files.push(set.folder.write("f.png", "no picture"));
    let report = set.report(false, USUAL);
    let of = |code: &str| {
        let of: Vec<usize> = found(&report)
            .iter()
            .filter(|(own, _)| *own == code)
            .flat_map(|(_, numbers)| numbers.to_vec())
            .collect();
        of
    };
    assert_eq!((of("R010"), of("E0804")), (vec![1, 2, 4], vec![6]), "{:#?}", report.findings);
    assert!(found(&report).contains(&("R001", &[])));
    assert!(report.findings[0].severity == Severity::Error && report.references[5].is_none());
    assert_eq!(verdict(&report).unwrap_err().code(), "E1222");
}

#[test]
fn faces_are_measured_as_they_will_be_in_the_video() {
    let picture = astronaut();
    let close = window(&picture, [150, 40], 150);
    let in_close = [FACE[0] - 150.0, FACE[1] - 40.0, FACE[2] - 150.0, FACE[3] - 40.0];
    let mut set = Set::new();
    set.add("front.png", &picture, &[face(FACE, 0.0, None)]);
    set.add("left.png", &mirrored(&picture), &[face([244.0, 60.0, 332.0, 174.0], -30.0, None)]);
    set.add("close.png", &close, &[face(in_close, 25.0, None)]);
    let report = set.report(true, USUAL);
    let forms: Vec<_> = report.references.iter().flatten().map(|one| one.form).collect();
    assert_eq!(forms, [Some("portrait"), Some("portrait"), Some("face")]);
    // 88 pixels are a few below 96.
    let small: &[(&str, &[usize])] =
        &[("R023", &[1]), ("R023", &[2]), ("R023", &[3]), ("R053", &[])];
    assert_eq!(found(&report), small, "{:#?}", report.findings);
    let sides = |report: &Report| -> Vec<f64> {
        report.references.iter().flatten().map(|one| one.faces.as_ref().unwrap().side).collect()
    };
    assert!(sides(&report).iter().all(|side| (side - 88.2).abs() < 0.3), "{report:?}");
    assert_eq!(report.not_looked_at.len(), 2);
    verdict(&report).unwrap();
    // In a smaller video the whole picture is shrunk, and a face with it; the close one hardly.
    let report = set.report(true, [256, 256]);
    let sides = sides(&report);
    assert!((sides[0] - 44.1).abs() < 0.3 && sides[2] > 88.0, "{sides:?}");
    let grave = |report: &Report| {
        let grave = report.findings.iter().filter(|one| one.severity == Severity::Error);
        grave.map(|one| (one.code, one.references.clone())).collect::<Vec<_>>()
    };
    assert_eq!(grave(&report), [("R023", vec![1]), ("R023", vec![2])]);
    assert_eq!(verdict(&report).unwrap_err().code(), "E1222");
    // Nobody, two people, a blurred face, another person, and all from one side.
    let one = Some([1.0, 0.0]);
    let mut set = Set::new();
    set.add("close.png", &close, &[face(in_close, 0.0, one)]);
    set.add("none.png", &mirrored(&picture), &[]);
    let twice = [face(FACE, 10.0, one), face([300.0, 60.0, 380.0, 160.0], 0.0, None)];
    set.add("two.png", &picture, &twice);
    let soft = blurred(&picture, 16);
    set.add(
        "soft.png",
        &window(&soft, [100, 20], 300),
        &[face([79.8, 40.1, 168.1, 153.9], 5.0, one)],
    );
    let other = Some([0.1, 1.0]);
    set.add(
        "other.png",
        &window(&picture, [160, 50], 140),
        &[face([20.0, 10.0, 108.0, 123.0], 5.0, other)],
    );
    let report = set.report(true, USUAL);
    let mut grave = grave(&report);
    grave.sort();
    let wanted = [
        ("R020", vec![2]),
        ("R022", vec![3]),
        ("R024", vec![4]),
        ("R042", vec![1, 5]),
        ("R042", vec![3, 5]),
        ("R042", vec![4, 5]),
    ];
    assert_eq!(grave, wanted, "{:#?}", report.findings);
    assert!(found(&report).contains(&("R050", &[1, 3, 4, 5])), "{:#?}", report.findings);
    assert!(found(&report).contains(&("R051", &[1])));
    assert_eq!(report.not_looked_at, ["expressions"]);
    // The primary one is turned away.
    let mut set = Set::new();
    set.add("side.png", &picture, &[face(FACE, 70.0, None)]);
    let report = set.report(true, USUAL);
    assert!(found(&report).contains(&("R052", &[1])), "{:#?}", report.findings);
    assert!(found(&report).contains(&("R050", &[1])));
}

#[test]
fn clips_are_looked_at_as_far_as_they_are_taken() {
    let picture = astronaut();
    let folder = TempFolder::new("doctor-clips");
    let write = |name: &str, count: usize, cut: usize| {
        let path = folder.path().join(name);
        let options = WriterOptions::default();
        let mut writer = VideoWriter::create(&path, 256, 256, 24.0, &options).unwrap();
        for t in 0..count {
            let mut frame = window(&picture, [100 + t / 2, 20], 256);
            if t >= cut {
                frame = mirrored(&frame);
                frame.data.iter_mut().for_each(|value| *value = 255 - *value);
            }
            writer.push_frame(&frame).unwrap();
        }
        writer.finish().unwrap();
        path
    };
    let files =
        [write("cut.mp4", 60, 30), write("long.mp4", 140, 999), write("short.mp4", 10, 999)];
    let gates = FilterSettings::default();
    let options = Options { size: USUAL, faces: None, gates };
    let report = examine(&files, &options, &mut |_| ()).unwrap();
    let looked: Vec<&Looked> = report.references.iter().flatten().collect();
    assert!(looked.iter().all(|one| one.kind == "clip" && one.form == Some("video")));
    let latent: Vec<usize> = looked.iter().map(|one| one.latent_frames).collect();
    assert_eq!(latent, [15, 31, 3]);
    assert_eq!(looked[0].cuts, [30.0 / 24.0]);
    assert!((looked[0].seconds - 2.5).abs() < 1e-6 && looked[1].longer, "{looked:?}");
    let about = |code: &str| {
        let about = report.findings.iter().filter(|finding| finding.code == code);
        about.flat_map(|finding| finding.references.clone()).collect::<Vec<_>>()
    };
    assert_eq!((about("R030"), about("R031"), about("R032")), (vec![1], vec![3], vec![2]));
    verdict(&report).unwrap();
}

#[cfg(feature = "curate")]
#[test]
fn a_detector_finds_the_face_and_where_it_is_turned() {
    use crate::settings::FaceModel;
    let Some(path) = std::env::var_os("ANYID_MTCNN").map(PathBuf::from) else {
        println!("skipped: ANYID_MTCNN names no folder of MTCNN");
        return;
    };
    let mut set = Set::new();
    set.add("a.png", &astronaut(), &[]);
    set.add("none.png", &window(&astronaut(), [0, 300], 200), &[]);
    let face = Some(FaceModel::mtcnn(path));
    let source = Source::open(&DetectSettings { face, ..DetectSettings::default() }).unwrap();
    let gates = FilterSettings::default();
    let options = Options { size: USUAL, faces: Some(&source), gates };
    let report = examine(&set.files, &options, &mut |_| ()).unwrap();
    let faces = report.references[0].as_ref().unwrap().faces.as_ref().unwrap();
    let [low, high] = faces.yaw.unwrap();
    assert!((faces.side - 88.3).abs() < 1.0 && low == high && low.abs() < 5.0, "{faces:?}");
    assert!(faces.sharpness > 300.0 && faces.several == 0, "{faces:?}");
    assert!(found(&report).contains(&("R020", &[2])), "{:#?}", report.findings);
}
