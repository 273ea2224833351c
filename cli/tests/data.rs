//! From a folder of videos to an adapter, as users go: `data all`, its checks and its report, and
//! `train lora` from the manifest. The clips are made by ffmpeg; where it is not there, that is skipped.

mod common;

use common::Folder;
use common::training::log;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::process::Command;

/// Side of the pictures, and of the window that moves over them.
const PICTURE: f64 = 640.0;
const SIDE: usize = 400;
/// The face in the picture when it has 512 pixels, and its points.
const FACE: [f64; 4] = [179.803, 60.119, 268.095, 173.890];
const POINTS: [[f64; 2]; 5] = [
    [203.861, 101.303],
    [246.390, 103.178],
    [224.267, 128.897],
    [201.823, 139.766],
    [244.905, 141.991],
];

/// What ffmpeg makes of the picture for one clip.
#[derive(Clone, Copy, PartialEq)]
enum Kind {
    /// The window moves slowly.
    Pan,
    /// The same, three frames of it white.
    Flash,
    /// The other person from the middle on.
    Cut,
    /// Stored lying on its side.
    Turned,
    /// Half of it at 12 frames a second, half at 24.
    Varied,
    /// Less than a second.
    Short,
}

/// The clips in the order of their names: name, person, what is made, frames.
fn plan() -> Vec<(String, usize, Kind, usize)> {
    let mut clips = Vec::new();
    for (person, name) in ["ann", "bob"].into_iter().enumerate() {
        for at in 0..4 {
            clips.push((format!("{name}/pan{at}.mp4"), person, Kind::Pan, 60));
        }
        clips.push((format!("{name}/turned.mp4"), person, Kind::Turned, 60));
        clips.push((format!("{name}/varied.mp4"), person, Kind::Varied, 60));
    }
    clips.push(("ann/cut.mp4".into(), 0, Kind::Cut, 60));
    clips.push(("ann/flash.mp4".into(), 0, Kind::Flash, 60));
    clips.push(("bob/short.mp4".into(), 1, Kind::Short, 20));
    clips.sort_by(|a, b| a.0.cmp(&b.0));
    clips
}

/// Left and top of the window at the beginning of a clip; from there it moves to the right.
fn window(clip: usize) -> [usize; 2] {
    [20 + clip * 13 % 40, clip * 7 % 40]
}

/// The filters that make a clip of the picture.
fn filters(clip: usize, person: usize, kind: Kind) -> String {
    let [left, top] = window(clip);
    let of = |person: usize| {
        // The second person is the first, mirrored and in other colours.
        let other = if person == 1 { "hflip,hue=h=120," } else { "" };
        format!("scale=640:640,{other}crop={SIDE}:{SIDE}:x='{left}+floor(n/2)':y={top}")
    };
    let own = of(person);
    match kind {
        Kind::Pan | Kind::Short => own,
        Kind::Flash => format!("{own},drawbox=enable='between(n,6,8)':t=fill:color=white"),
        Kind::Turned => format!("{own},transpose=2"),
        Kind::Varied => {
            format!("{own},settb=1/1200,setpts='if(lt(N,30),N*100,3000+(N-30)*50)'")
        }
        Kind::Cut => format!(
            "split[a][b];[a]{own},trim=end_frame=30[c];\
             [b]{},trim=start_frame=30,setpts=PTS-STARTPTS[d];[c][d]concat",
            of(1 - person)
        ),
    }
}

/// Says in the header of a track that it is shown turned to the right.
fn turn(path: &std::path::Path) {
    let mut bytes = std::fs::read(path).unwrap();
    let name = bytes.windows(4).position(|word| word == b"tkhd").unwrap();
    assert_eq!(bytes[name + 4], 0, "the version of the header");
    let matrix: [i32; 9] = [0, 1 << 16, 0, -(1 << 16), 0, 0, (SIDE as i32) << 16, 0, 1 << 30];
    for (at, value) in matrix.into_iter().enumerate() {
        bytes[name + 44 + 4 * at..][..4].copy_from_slice(&value.to_be_bytes());
    }
    std::fs::write(path, bytes).unwrap();
}

/// The face in frame `t` of a clip.
fn face(clip: usize, t: usize, person: usize) -> Value {
    let [left, top] = window(clip);
    let [left, top, scale] = [(left + t / 2) as f64, top as f64, PICTURE / 512.0];
    let place = |[x, y]: [f64; 2]| {
        let x = if person == 1 { 512.0 - x } else { x };
        [x * scale - left, y * scale - top]
    };
    let (a, b) = (place([FACE[0], FACE[1]]), place([FACE[2], FACE[3]]));
    let mut points = POINTS.map(place);
    if person == 1 {
        // Left and right as they lie in the picture.
        points.swap(0, 1);
        points.swap(3, 4);
    }
    json!({"box": [a[0].min(b[0]), a[1], a[0].max(b[0]), b[1]], "kps": points, "score": 0.95})
}

/// Makes the clips, what is said of them, and their detections.
fn make(folder: &Folder) {
    let picture = common::repository().join("examples/astronaut.png");
    let mut boxes = String::new();
    for (number, (name, person, kind, frames)) in plan().into_iter().enumerate() {
        let path = folder.path("videos").join(&name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        let made = Command::new("ffmpeg")
            .args(["-v", "error", "-loop", "1", "-framerate", "24", "-i"])
            .arg(&picture)
            .args(["-frames:v", &frames.to_string(), "-filter_complex"])
            .arg(format!("{},format=yuv420p", filters(number, person, kind)))
            .args(["-vsync", "passthrough", "-c:v", "libx264", "-preset", "veryfast"])
            .args(["-threads", "1"])
            .arg(&path)
            .output()
            .unwrap();
        assert!(made.status.success(), "{name}: {}", String::from_utf8_lossy(&made.stderr));
        if kind == Kind::Turned {
            turn(&path);
        }
        for t in (3..frames).step_by(6) {
            let faces = match kind {
                Kind::Flash if (6..9).contains(&t) => vec![],
                Kind::Cut if t >= 30 => vec![face(number, t, 1 - person)],
                _ => vec![face(number, t, person)],
            };
            let line = json!({"schema": "anyid.boxes/1", "media": name, "f": t, "faces": faces});
            boxes.push_str(&format!("{line}\n"));
        }
        let text = format!(
            "shot = \"Static close-up shot.\"\nclothing = \"An orange suit.\"\n\
             action = \"Looks to the left, number {number}.\"\n"
        );
        std::fs::write(path.with_extension("aspects.toml"), text).unwrap();
    }
    // A file that breaks off.
    let whole = std::fs::read(folder.path("videos/ann/pan0.mp4")).unwrap();
    folder.write("videos/ann/broken.mp4", &whole[..whole.len() / 2]);
    folder.write("videos/notes.txt", "nothing to see");
    folder.write("boxes.jsonl", boxes);
    folder.write(
        "data.toml",
        "[detect]\ngiven = \"boxes.jsonl\"\n\
         [sample]\ncount = 16\nwidth = 64\nheight = 64\nframes = 13\nreferences = [1, 2]\nseed = 3\n",
    );
}

fn lines(folder: &Folder, name: &str) -> Vec<Value> {
    let text = std::fs::read_to_string(folder.path(name)).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

const WORK: &str = "--in videos --config data.toml";

#[test]
fn a_folder_of_videos_becomes_an_adapter() {
    if Command::new("ffmpeg").arg("-version").output().is_err() {
        println!("skipped: there is no ffmpeg to make videos with");
        return;
    }
    let folder = Folder::new();
    make(&folder);
    let report = folder.run(&format!("data all {WORK} --out work --json")).fine().json();
    assert_eq!((&report["groups"], &report["samples"]), (&json!(2), &json!(16)));

    // What was planned is what is found.
    let mut found: BTreeMap<String, Vec<Value>> = BTreeMap::new();
    for clip in lines(&folder, "work/clips.jsonl") {
        let media = clip["media"].as_str().unwrap().to_owned();
        found.entry(media).or_default().push(json!([clip["start"], clip["end"], clip["reasons"]]));
    }
    for (name, _, kind, frames) in plan() {
        let expected = match kind {
            Kind::Cut => json!([[2, 28, []], [32, 58, []]]),
            Kind::Short => json!([[2, 18, ["short"]]]),
            _ => json!([[2, frames - 2, []]]),
        };
        assert_eq!(json!(found[&name]), expected, "{name}");
    }
    let media = lines(&folder, "work/media.jsonl");
    let broken: Vec<&Value> = media.iter().filter(|line| line.get("error").is_some()).collect();
    assert!(broken.len() == 1 && broken[0]["media"] == "ann/broken.mp4", "{broken:?}");
    let varied = |line: &&Value| line.get("times").is_some();
    let clips = lines(&folder, "work/clips.jsonl");
    let times: Vec<&Value> = clips.iter().filter(varied).collect();
    assert_eq!(times.len(), 2);
    assert!(times.iter().all(|clip| clip["media"].as_str().unwrap().ends_with("varied.mp4")));

    // The manifest is sound, for the checks of both commands, and is learned from.
    folder.run("data check work/train.jsonl --clips work/clips.jsonl").fine();
    let samples = lines(&folder, "work/train.jsonl");
    let uses = |part: &Value| part["media"].as_str().unwrap().ends_with("varied.mp4");
    let parts = |sample: &Value| {
        let references = sample["references"].as_array().unwrap().clone();
        [references, vec![sample["target"].clone()]].concat()
    };
    assert!(samples.iter().any(|sample| parts(sample).iter().any(uses)));
    folder.write(
        "run.toml",
        common::training::SETTINGS
            .replace("train.jsonl\"", "work/train.jsonl\"\nroot = \"videos\"")
            .replace("frames = 5", "frames = 13")
            .replace("steps = 12", "steps = 5"),
    );
    folder.run("init micro --random-weights --seed 20260325").fine();
    let checked = folder.run("train check --config run.toml --json").fine().json();
    assert_eq!(checked["samples"], 16);
    folder.run("train lora --config run.toml --threads 2").fine();
    let rows = log(&folder, "run");
    assert_eq!(rows.len(), 5);
    assert!(rows.iter().all(|row| row["loss"].as_f64().is_some_and(f64::is_finite)), "{rows:?}");
    assert!(folder.path("run/adapter.safetensors").exists());

    // What the training draws for itself is the same.
    let settings = std::fs::read_to_string(folder.path("run.toml")).unwrap();
    folder.write("pool.toml", settings.replace("train.jsonl", "pool.json"));
    folder.run("train lora --config pool.toml --threads 2 -o drawn").fine();
    assert_eq!(log(&folder, "drawn"), rows);
    let groups = std::fs::read_to_string(folder.path("work/groups.jsonl")).unwrap();
    folder.write("work/groups.jsonl", groups.trim_end());
    folder.run("train check --config pool.toml").fails("E1204").says("groups.jsonl has changed");
    folder.write("work/groups.jsonl", groups);

    // The adapter says how its prompts were written, and others are warned of.
    let generate = "generate --model micro --size 64x64 --frames 5 --lora run/adapter.safetensors \
                    --change action=Nods. --dry-run -o a.gif";
    let warned = |more: &str| {
        let done = folder.run(&format!("{generate} {more} --json")).fine().json();
        done["warnings"].to_string().contains("trained with prompts that are plain")
    };
    assert!(warned("--prompt-style tagged") && !warned("--keep clothing"));

    // Samples that are cut out are learned from as well.
    let cut =
        folder.run(&format!("data sample {WORK} --out work --materialize cut --first 3 --json"));
    assert_eq!(cut.fine().json()["materialized"]["samples"], 3);
    folder.run("data check cut/train.jsonl --root cut").fine();
    let gone = folder.run("data check cut/train.jsonl --root videos").fails("E1202");
    gone.says("line 1: there is no file").says("target.mp4");
    let cut = settings.replace("work/train.jsonl", "cut/train.jsonl").replace("videos", "cut");
    folder.write("cut.toml", cut);
    let checked = folder.run("train check --config cut.toml --json").fine().json();
    assert_eq!(checked["samples"], 3);

    // Shared by leases it is the same as well.
    folder.run(&format!("data index {WORK} --out shared --claim leases")).fine();
    let done = folder.run(&format!("data shots {WORK} --out shared --claim leases --json")).fine();
    assert_eq!(
        (&done.json()["elsewhere"], &done.json()["whole"]["errors"]),
        (&json!(0), &json!(0))
    );
    let [whole, shared] =
        ["work", "shared"].map(|out| std::fs::read(folder.path(out).join("shots.jsonl")).unwrap());
    assert!(whole == shared);

    // By parts it is the same, and what was made with other settings is not taken.
    for (step, file) in [("index", "media.jsonl"), ("shots", "shots.jsonl")] {
        for part in ["2/3", "0/3", "1/3"] {
            folder.run(&format!("data {step} {WORK} --out parts --shard {part}"));
        }
        folder.run(&format!("data merge {step} --out parts --json")).fine();
        let [whole, parts] =
            ["work", "parts"].map(|out| std::fs::read(folder.path(out).join(file)).unwrap());
        assert!(whole == parts, "{file}");
    }
    let settings = std::fs::read_to_string(folder.path("data.toml")).unwrap();
    folder.write("data.toml", format!("{settings}[shots]\ntrim = 3\n"));
    folder.run(&format!("data shots {WORK} --out work")).fails("E1204");
    folder.run(&format!("data shots {WORK} --out work --redo")).fine();
    let page = folder.run("data report --out work --root videos --json").fine().json();
    assert_eq!(page["gates"][0]["count"], plan().len() + 1);
}

#[test]
fn what_is_asked_for_wrongly_is_refused() {
    let folder = Folder::new();
    std::fs::create_dir_all(folder.path("empty")).unwrap();
    folder.run("data index --in empty --out work").fails("E1200");
    folder.run("data index --in empty --out work --shard 3/3").fails("E1307");
    folder.write("data.toml", "[shots]\nmethod = \"guess\"\n");
    folder.run("data index --in empty --out work --config data.toml").fails("E1201");
    folder.run("data shots --in data.toml --out work").fails("E0900").says("--root");
    folder.run("data merge shots --out work").fails("E0911");
    folder.run("data group --in empty --out work --claim leases").fails("E1203");
    folder.run("data group --in empty --out work --calibrate pairs.csv").fails("E0911");
    folder.run("data index --in empty --out work --claim leases").fails("E1200");
    let line = json!({"schema": "anyid.sample/1", "id": "s 1", "prompt": ""});
    folder.write("x.jsonl", format!("{line}\n"));
    let done = folder.run("data check x.jsonl").fails("E1202");
    for part in ["line 1: \"id\"", "\"prompt\" is empty", "\"references\" is missing"] {
        assert!(done.err.contains(part), "{part}: {}", done.err);
    }
}

#[test]
fn references_are_looked_at_before_a_run() {
    let folder = Folder::new();
    let picture = common::repository().join("examples/astronaut.png");
    std::fs::copy(picture, folder.path("a.png")).unwrap();
    std::fs::copy(common::repository().join("examples/portrait_pan.mp4"), folder.path("b.mp4"))
        .unwrap();
    let plain = folder.run("check refs a.png b.mp4").fine();
    for part in
        ["512x512", "latent frames", "video", "not looked at: faces", "not looked at: views"]
    {
        assert!(plain.out.contains(part), "{part}\n{}", plain.out);
    }
    let face = json!({"box": FACE, "kps": POINTS, "score": 0.95});
    let line = json!({"schema": "anyid.boxes/1", "media": "a.png", "f": 0, "faces": [face]});
    folder.write("boxes.jsonl", line.to_string());
    let words = "check refs a.png --detections boxes.jsonl --json";
    let done = folder.run(words).fine();
    let found = done.json();
    assert_eq!((&found["ok"], &found["size"]), (&json!(true), &json!([1280, 704])));
    let one = &found["references"][0];
    assert_eq!((&one["form"], &one["kind"]), (&json!("portrait"), &json!("picture")));
    assert!((one["faces"]["side"].as_f64().unwrap() - 88.292).abs() < 0.01, "{one}");
    let codes: Vec<&Value> =
        found["findings"].as_array().unwrap().iter().map(|finding| &finding["code"]).collect();
    assert_eq!(codes, ["R023", "R050"], "{found}");
    // What cannot be used is an error, as text and as JSON.
    let small = folder.run(&format!("{words} --size 256x256")).fails("E1222");
    assert_eq!((&small.json()["ok"], small.code), (&json!(false), 1));
    folder.write("c.png", "no picture");
    let done = folder.run("check refs a.png c.png a.png").fails("E1222");
    assert!(done.out.contains("error[E0804]: c.png: "), "{}", done.out);
    assert!(done.out.contains("warning[R040]: references 1 and 3 are the same"), "{}", done.out);
    folder.run("check refs none.png").fails("E1222").says("1 error");
    folder.run("check refs a.png --size wide").fails("E0901");
    folder.run("check refs a.png --detections none.jsonl").fails("E0911");
    folder.write("bad.jsonl", "{}");
    folder.run("check refs a.png --detections bad.jsonl").fails("E1202");
    folder.run("check refs").fails("E0900");
    folder.run("check").fails("E0900");
    // A build without detectors says so, one that has them that these are not there.
    let done = folder.run("check refs a.png --mtcnn models");
    assert!(done.err.contains("error[E1209]") || done.err.contains("error[E0911]"), "{}", done.err);
    // A file of IR whose name is that of the verb.
    folder.write("refs", "module @m\n\nfunc @f(%x: f32[4]) -> f32[4] {\n  return %x\n}\n");
    assert!(folder.run("check ./refs").fine().out.contains("./refs: fine"));
}
