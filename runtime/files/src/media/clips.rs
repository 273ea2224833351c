//! Clips that say something unusual about geometry, time or colour, against what ffmpeg makes of
//! them: `tests/reference/clips.py` writes both. The tests have a small part of that corpus; a
//! folder with all of it may be named by `ANYID_CLIPS`.

use super::*;
use serde_json::Value;

const ALONE: ReadOptions = ReadOptions {
    limits: Limits { side: 16_384, frame_bytes: 512 << 20, clip_bytes: 4 << 30 },
    allow_ffmpeg: false,
};

/// The mean colour in the middle of each quarter of a picture.
fn middles(frame: &RgbFrame) -> Vec<[f64; 3]> {
    let (h, w) = (frame.height / 2, frame.width / 2);
    let (y, x) = (h / 4, w / 4);
    let mean = |top: usize, left: usize| {
        let mut sums = [0.0; 3];
        for row in top + y..top + h - y {
            for column in left + x..left + w - x {
                let at = (row * frame.width + column) * 3;
                for (sum, value) in sums.iter_mut().zip(&frame.data[at..at + 3]) {
                    *sum += f64::from(*value);
                }
            }
        }
        let count = ((h - 2 * y) * (w - 2 * x)) as f64;
        sums.map(|sum| sum / count)
    };
    [(0, 0), (0, w), (h, 0), (h, w)].map(|(top, left)| mean(top, left)).to_vec()
}

/// What is wrong with our reading of a clip.
fn faults(path: &Path, expected: &Value) -> Vec<String> {
    let (mut frames, mut last_end) = (Vec::new(), 0.0);
    let read = visit_frames(path, &ALONE, &mut |frame| {
        frames.push((frame.time, middles(&frame.image)));
        last_end = frame.time + frame.duration;
        Ok(ControlFlow::Continue(()))
    });
    let info = match read {
        Ok(info) => info,
        Err(error) if expected["error"].as_str() == Some(error.code()) => return Vec::new(),
        Err(error) => return vec![format!("{error}")],
    };
    let mut faults = Vec::new();
    let mut fault = |what: String| faults.push(what);
    if let Some(code) = expected["error"].as_str() {
        fault(format!("read, expected {code}"));
        return faults;
    }
    let size = [info.width as u64, info.height as u64];
    if [&expected["width"], &expected["height"]] != size.map(Value::from).each_ref() {
        fault(format!("size {size:?}"));
    }
    let times: Vec<f64> = frames.iter().map(|f| f.0).collect();
    let wanted: Vec<f64> =
        expected["times"].as_array().unwrap().iter().map(|t| t.as_f64().unwrap()).collect();
    let close = |(a, b): (&f64, &f64)| (a - b).abs() < 2e-4;
    if times.len() != wanted.len() || !times.iter().zip(&wanted).all(close) {
        fault(format!("times {times:?}, expected {wanted:?}"));
    }
    if last_end <= times.last().copied().unwrap_or(0.0) {
        fault("the last frame has no duration".to_string());
    }
    let quarters = expected["quarters"].as_array().into_iter().flatten();
    for (index, ((_, found), wanted)) in frames.iter().zip(quarters).enumerate() {
        let wanted: Vec<f64> = wanted
            .as_array()
            .into_iter()
            .flatten()
            .flat_map(|quarter| quarter.as_array().into_iter().flatten())
            .filter_map(Value::as_f64)
            .collect();
        let found: Vec<f64> = found.iter().flatten().copied().collect();
        if found.len() != wanted.len()
            || found.iter().zip(&wanted).any(|(a, b)| (a - b).abs() > 2.5)
        {
            fault(format!("frame {index} has {found:.0?}, expected {wanted:.0?}"));
            break;
        }
    }
    let warnings = info.warnings.join("; ");
    match expected["warning"].as_str() {
        Some(part) if !warnings.contains(part) => fault(format!("warnings: {warnings}")),
        None if !warnings.is_empty() => fault(format!("warnings: {warnings}")),
        _ => {}
    }
    faults
}

fn kept() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src/media/testdata/clips")
}

/// Reads a folder of clips; gives how many there are.
fn compare(folder: &Path) -> usize {
    let text = std::fs::read_to_string(folder.join("expected.json")).unwrap();
    let expected: Value = serde_json::from_str(&text).unwrap();
    let expected = expected.as_object().unwrap();
    let mut wrong = Vec::new();
    for (name, expected) in expected {
        for fault in faults(&folder.join(name), expected) {
            wrong.push(format!("{name}: {fault}"));
        }
    }
    assert!(wrong.is_empty(), "{} faults:\n{}", wrong.len(), wrong.join("\n"));
    expected.len()
}

#[test]
fn every_clip_is_shown_as_ffmpeg_shows_it() {
    assert!(compare(&kept()) >= 40);
    match std::env::var_os("ANYID_CLIPS") {
        Some(folder) => println!("{} clips of the whole corpus", compare(Path::new(&folder))),
        None => println!("skipped: the whole corpus (ANYID_CLIPS is not set)"),
    }
}

#[test]
fn what_the_decoder_does_not_know_is_named() {
    for (name, part) in
        [("foreign_interlaced.mp4", "interlaced H.264"), ("foreign_deep.mp4", "10 bits")]
    {
        let path = kept().join(name);
        let error = read_clip(&path, &ALONE).unwrap_err();
        assert_eq!(error.code(), "E0807");
        assert!(error.message().contains(part), "{error}");
    }
}

#[test]
fn damaged_clips_give_errors_of_their_own() {
    let folder = super::testing::Folder::new();
    let mut state = 0x2545_f491_4f6c_dd1du64;
    let mut next = |below: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state % below as u64) as usize
    };
    let mut clips: Vec<PathBuf> =
        std::fs::read_dir(kept()).unwrap().map(|e| e.unwrap().path()).collect();
    clips.retain(|path| path.extension().is_some_and(|e| e == "mp4"));
    clips.sort();
    let extremes = [0, 1, 0x7f, 0x80, 0xff];
    for round in 0..600 {
        let mut bytes = std::fs::read(&clips[round % clips.len()]).unwrap();
        let index = bytes.windows(4).position(|w| w == b"moov").unwrap();
        for _ in 0..1 + next(6) {
            // Mostly in the index: counts, sizes and offsets.
            let at =
                if next(4) == 0 { next(bytes.len()) } else { index + next(bytes.len() - index) };
            bytes[at] = if next(2) == 0 { extremes[next(5)] } else { next(256) as u8 };
        }
        if let Err(error) = read_clip(&folder.file("x", &bytes), &ALONE) {
            assert!(error.code().starts_with("E08") && error.help_text().is_some(), "{error}");
        }
    }
}
