//! Samples as files of their own, to look at and for other programs that train: a folder for each with
//! the target and the references cut out, and a manifest that names these files.
//!
//! Samples are those of a manifest of parts of videos (`data.md` §6), which stays as it is. A folder that
//! is there and is of the same sample is not made again.

use crate::lines::Lines;
use crate::stages::part::interrupted;
use anyid_files::media::standardise::{Fit, Segment, StandardiseOptions, read_segment};
use anyid_files::media::writer::{VideoWriter, WriterOptions};
use anyid_files::media::{ReadOptions, RgbFrame, lossless};
use anyid_files::output::{AtomicFile, AtomicFolder, Existing, make_folder, stopped};
use anyid_files::{Error, Result};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};

/// What was made of a sample, in its folder.
const SAMPLE: &str = "sample.json";

/// What is cut out, and into what.
#[derive(Clone, Debug)]
pub struct Cut<'c> {
    /// The manifest.
    pub manifest: &'c Path,
    /// The folder of the videos.
    pub root: &'c Path,
    /// The folder that is filled.
    pub into: &'c Path,
    /// Width and height of targets.
    pub size: [usize; 2],
    /// The first so many samples; all without it.
    pub first: Option<usize>,
    /// Samples that are made at a time, each of which holds one clip in memory.
    pub threads: usize,
}

impl Cut<'_> {
    /// Makes the folders and `train.jsonl` beside them; gives how many samples there are.
    ///
    /// # Errors
    /// E1202 for a faulty manifest, E1213 where a video has fewer frames than a sample takes of it, those
    /// of decoding, E101x.
    pub fn write(&self, told: &mut dyn FnMut(usize)) -> Result<usize> {
        make_folder(self.into)?;
        let mut lines = Lines::open(self.manifest)?;
        let mut file = AtomicFile::create(manifest(self.into))?;
        let (mut made, most) = (0, self.first.unwrap_or(usize::MAX));
        loop {
            let mut chunk = Vec::new();
            while chunk.len() < self.threads.max(1).min(most - made) {
                let Some(line) = lines.next() else { break };
                let sample: Value =
                    serde_json::from_str(&line?).map_err(|fault| lines.fault(fault))?;
                chunk.push(sample);
            }
            if chunk.is_empty() {
                break;
            }
            let outcomes: Vec<Result<Value>> = std::thread::scope(|scope| {
                let threads: Vec<_> =
                    chunk.iter().map(|sample| scope.spawn(move || self.sample(sample))).collect();
                let outcome = |thread: std::thread::ScopedJoinHandle<'_, Result<Value>>| {
                    thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
                };
                threads.into_iter().map(outcome).collect()
            });
            for line in outcomes {
                file.append(format!("{}\n", line?).as_bytes())?;
                made += 1;
            }
            told(made);
        }
        file.commit()?;
        Ok(made)
    }

    fn faulty(&self, what: &str) -> Error {
        Error::input("E1202", what)
            .at(self.manifest.display())
            .help("`anyid-rt data check FILE` shows all that is wrong with a file")
    }

    /// Makes the folder of a sample; gives its line.
    fn sample(&self, sample: &Value) -> Result<Value> {
        let id = sample["id"].as_str().filter(|id| anyid_files::manifest::is_name(id));
        let Some(id) = id.filter(|id| !id.is_empty()) else {
            return Err(self.faulty("a sample has no id"));
        };
        let folder = self.into.join(id);
        let references = sample["references"].as_array().map_or(&[][..], Vec::as_slice);
        let names = references.iter().enumerate().map(|(at, part)| {
            let ending = if part["form"] == "video" { "mp4" } else { "png" };
            format!("reference_{at}.{ending}")
        });
        let mut line = sample.clone();
        let mut parts: Vec<(&Value, String)> = vec![(&sample["target"], "target.mp4".to_owned())];
        parts.extend(references.iter().zip(names));
        // What a folder was made from: the sample, and the size of its target.
        let from = format!("{}\n", json!({"size": self.size, "sample": sample}));
        let there = std::fs::read(folder.join(SAMPLE)).is_ok_and(|own| own == from.as_bytes());
        let whole =
            (!there).then(|| AtomicFolder::create(&folder, Existing::Overwrite)).transpose()?;
        for (at, (part, name)) in parts.into_iter().enumerate() {
            let size = if at == 0 { Some(self.size) } else { None };
            let part = Part::of(part, size).ok_or_else(|| {
                self.faulty(&format!("sample {id}: a part lacks its media, frames or crop"))
            })?;
            if let Some(whole) = &whole {
                self.cut(&part, whole, &name)?;
            }
            let own = if at == 0 { &mut line["target"] } else { &mut line["references"][at - 1] };
            placed(own, &part, format!("{id}/{name}"));
        }
        let Some(whole) = whole else { return Ok(line) };
        whole.write("prompt.txt", format!("{}\n", text(&sample["prompt"])).as_bytes())?;
        whole.write(SAMPLE, from.as_bytes())?;
        whole.commit()?;
        Ok(line)
    }

    /// Cuts out a part of a video.
    fn cut(&self, part: &Part<'_>, folder: &AtomicFolder, name: &str) -> Result<()> {
        let mut frames = part.frames(self.root)?;
        if part.still {
            return folder.write(name, &lossless::picture(&frames.swap_remove(0))?);
        }
        let path = folder.temporary_path().join(name);
        let ([width, height], options) = (part.size, WriterOptions::default());
        let mut writer = VideoWriter::create(&path, width, height, part.fps, &options)?;
        frames.iter().try_for_each(|frame| writer.push_frame(frame))?;
        writer.finish().map(drop)
    }
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

/// A part of a video as it is cut out.
pub(crate) struct Part<'p> {
    media: &'p str,
    /// Whether it is one frame.
    pub(crate) still: bool,
    start: usize,
    count: usize,
    /// Frames a second.
    pub(crate) fps: f64,
    crop: Option<[f64; 4]>,
    /// Width and height of the result.
    size: [usize; 2],
}

impl<'p> Part<'p> {
    /// Of a target, whose size is given, or of a reference; none where something of it is missing.
    pub(crate) fn of(value: &'p Value, size: Option<[usize; 2]>) -> Option<Self> {
        let media =
            value["media"].as_str().filter(|media| anyid_files::manifest::is_below(media))?;
        let number = |key: &str| value[key].as_u64().and_then(|n| usize::try_from(n).ok());
        let crop: Option<[f64; 4]> = serde_json::from_value(value["crop"].clone()).ok()?;
        let still = size.is_none() && value["form"] != "video";
        let (start, count) = match still {
            true => (number("frame")?, 1),
            false => (number("start")?, number("frames").filter(|count| *count > 0)?),
        };
        let fps = if still { 24.0 } else { value["fps"].as_f64()? };
        let size = match (size, crop) {
            (Some(size), _) => size,
            (None, Some([left, top, right, bottom])) => {
                let sides = [right.round() - left.round(), bottom.round() - top.round()];
                let sides = sides.map(|side| side.max(1.0) as usize);
                // Sides of H.264 are even.
                if still { sides } else { sides.map(|side| (side & !1).max(2)) }
            }
            (None, None) => return None,
        };
        Some(Self { media, still, start, count, fps, crop, size })
    }

    /// Its frames, cut out and in its size.
    ///
    /// # Errors
    /// E1213 where there are fewer, those of decoding.
    pub(crate) fn frames(&self, root: &Path) -> Result<Vec<RgbFrame>> {
        let path = root.join(self.media);
        let [width, height] = self.size;
        let options = StandardiseOptions {
            fit: Fit::Cover,
            fps: self.fps,
            max_frames: self.count,
            group: 1,
            ..StandardiseOptions::new(width, height)
        };
        let segment = Segment { start: self.start, crop: self.crop };
        let read = read_segment(&path, &segment, &options, &ReadOptions::default(), &mut |_| {
            if stopped() { Err(interrupted(root)) } else { Ok(()) }
        })?;
        let there = read.frames.len();
        if there < self.count {
            let (wanted, start) = (self.count, self.start);
            let what = format!("{there} of {wanted} frames are there from frame {start} on");
            return Err(Error::input("E1213", what)
                .at(path.display())
                .help("the file has changed since it was cut: make the shots again"));
        }
        let frames = read.frames.into_iter().take(self.count);
        Ok(frames.map(|data| RgbFrame { width, height, data }).collect())
    }
}

/// Names the file of a part in place of where it was cut from.
fn placed(value: &mut Value, part: &Part<'_>, media: String) {
    let [width, height] = part.size;
    value["media"] = media.into();
    value["crop"] = json!([0, 0, width, height]);
    if part.still {
        value["frame"] = json!(0);
    } else {
        value["start"] = json!(0);
        value["src_fps"] = json!(part.fps);
    }
    // Of the video that it was cut from.
    if let Some(own) = value.as_object_mut() {
        own.remove("sha256");
    }
}

/// Where the manifest of a folder of samples lies.
pub fn manifest(into: &Path) -> PathBuf {
    into.join("train.jsonl")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::records::schema;
    use crate::testing::TempFolder;
    use anyid_files::media::{Clip, read_clip};

    const SIZE: [usize; 2] = [96, 64];

    /// A video of forty frames whose left half is dark and grows brighter.
    fn video(folder: &TempFolder) {
        std::fs::create_dir_all(folder.path().join("videos/a")).unwrap();
        let path = folder.path().join("videos/a/1.mp4");
        let options = WriterOptions::default();
        let mut writer = VideoWriter::create(&path, SIZE[0], SIZE[1], 12.0, &options).unwrap();
        for t in 0..40u8 {
            let pixel = |at: usize| [if at % SIZE[0] < 48 { t * 5 } else { 220 }; 3];
            writer.push(&(0..SIZE[0] * SIZE[1]).flat_map(pixel).collect::<Vec<u8>>()).unwrap();
        }
        writer.finish().unwrap();
    }

    fn sample(id: &str) -> Value {
        json!({
            "schema": schema::SAMPLE, "id": id, "group": "a", "seed": 0,
            "target": {"clip": "c_1", "media": "a/1.mp4", "start": 4, "frames": 5, "fps": 24.0,
                       "src_fps": 12.0, "crop": [0, 0, 48, 48]},
            "references": [
                {"role": "primary", "form": "face", "clip": "c_2", "media": "a/1.mp4", "frame": 30,
                 "crop": [8, 1, 43, 36]},
                {"role": "aux", "form": "video", "clip": "c_2", "media": "a/1.mp4", "start": 20,
                 "frames": 9, "fps": 24.0, "src_fps": 12.0, "crop": [56, 0, 92, 63]},
            ],
            "prompt": "She nods.", "prompt_full": "She nods.", "prompt_style": "plain",
        })
    }

    fn cut<'c>(folder: &'c TempFolder, paths: &'c [PathBuf; 3]) -> Cut<'c> {
        let [manifest, root, into] = paths;
        let text = [sample("s_0"), sample("s_1")].map(|sample| format!("{sample}\n")).concat();
        folder.write("train.jsonl", text);
        Cut { manifest, root, into, size: [32, 32], first: None, threads: 2 }
    }

    fn paths(folder: &TempFolder) -> [PathBuf; 3] {
        ["train.jsonl", "videos", "cut"].map(|name| folder.path().join(name))
    }

    fn read(path: PathBuf) -> Clip {
        read_clip(&path, &ReadOptions::default()).unwrap()
    }

    #[test]
    fn samples_become_files_that_a_manifest_names() {
        let folder = TempFolder::new("cut");
        video(&folder);
        let paths = paths(&folder);
        assert_eq!(cut(&folder, &paths).write(&mut |_| {}).unwrap(), 2);
        let own = paths[2].join("s_1");
        let target = read(own.join("target.mp4"));
        assert_eq!((target.frames.len(), target.fps), (5, Some(24.0)));
        assert_eq!((target.frames[0].width, target.frames[0].height), (32, 32));
        // Frames 4, 4 or 5, 5, …: at twice the rate each is there twice.
        let shade = |frame: &RgbFrame| i32::from(frame.data[(16 * frame.width + 4) * 3]);
        assert!((shade(&target.frames[0]) - 20).abs() < 6, "{}", shade(&target.frames[0]));
        assert!((shade(&target.frames[4]) - 30).abs() < 6, "{}", shade(&target.frames[4]));
        let face = read(own.join("reference_0.png"));
        assert_eq!((face.frames[0].width, face.frames[0].height), (35, 35));
        assert!((shade(&face.frames[0]) - 150).abs() < 6);
        let clip = read(own.join("reference_1.mp4"));
        assert_eq!((clip.frames[0].width, clip.frames[0].height, clip.frames.len()), (36, 62, 9));
        assert!((shade(&clip.frames[0]) - 220).abs() < 6);
        assert_eq!(std::fs::read_to_string(own.join("prompt.txt")).unwrap(), "She nods.\n");
        let checked = crate::check::check(&manifest(&paths[2]), None).unwrap();
        assert!(checked.faults.is_empty(), "{:?}", checked.faults);
        assert_eq!(checked.lines[schema::SAMPLE], 2);
        let text = std::fs::read_to_string(manifest(&paths[2])).unwrap();
        let line: Value = serde_json::from_str(text.lines().next().unwrap()).unwrap();
        assert_eq!(line["target"]["media"], "s_0/target.mp4");
        assert_eq!(line["references"][0]["crop"], json!([0, 0, 35, 35]));
        assert_eq!(line["references"][0]["frame"], 0);
        assert!(line["references"][1].get("sha256").is_none());
    }

    #[test]
    fn what_is_there_is_kept_and_what_is_other_is_made_again() {
        let folder = TempFolder::new("kept");
        video(&folder);
        let paths = paths(&folder);
        let one = Cut { first: Some(1), ..cut(&folder, &paths) };
        assert_eq!(one.write(&mut |_| {}).unwrap(), 1);
        assert!(!paths[2].join("s_1").exists());
        std::fs::write(paths[2].join("s_0/target.mp4"), "mine").unwrap();
        cut(&folder, &paths).write(&mut |_| {}).unwrap();
        assert_eq!(std::fs::read(paths[2].join("s_0/target.mp4")).unwrap(), b"mine");
        Cut { size: [64, 64], ..cut(&folder, &paths) }.write(&mut |_| {}).unwrap();
        assert_eq!(read(paths[2].join("s_0/target.mp4")).frames[0].width, 64);
    }

    #[test]
    fn faults_leave_no_half_of_a_sample() {
        let folder = TempFolder::new("faulty");
        video(&folder);
        let paths = paths(&folder);
        type Change = fn(&mut Value);
        let cases: [(Change, &str); 5] = [
            (|v| v["target"]["start"] = 39.into(), "E1213"),
            (|v| v["target"]["start"] = 99.into(), "E0967"),
            (|v| v["references"][0]["crop"] = json!([8, 1, 975, 36]), "E0967"),
            (|v| v["references"][1]["media"] = "../a/1.mp4".into(), "E1202"),
            (|v| v["references"][1]["media"] = "a/none.mp4".into(), "E0801"),
        ];
        for (change, code) in cases {
            let own = cut(&folder, &paths);
            let mut changed = sample("s_9");
            change(&mut changed);
            folder.write("train.jsonl", format!("{changed}\n"));
            let fault = own.write(&mut |_| {}).unwrap_err();
            assert_eq!(fault.code(), code, "{fault}");
            assert!(!paths[2].join("s_9").exists() && !manifest(&paths[2]).exists());
        }
    }
}
