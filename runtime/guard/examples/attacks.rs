//! Measures what the watermark survives: the table of `watermark.md` §3, with the example's own clips.
//!
//! `cargo run --release -p anyid-guard --example attacks -- [CLIPS [BLANK [PICTURE…]]]` marks CLIPS
//! clips (20) of 1280x704 pixels and 24 frames, of which every third walks over one of the
//! pictures, puts each through every attack, and looks for the mark. Then it looks for marks in
//! BLANK clips (1,000) that have none or one of another key. The attacks with x264 need an `ffmpeg`
//! that has it; with `ATTACKS=WORDS` in the environment, only those are made whose name holds the
//! words. With `AFFINE` in it, rotations and aspect ratios are looked for in the clips without a
//! mark too.

#[path = "../tests/scenes/mod.rs"]
mod scenes;

use anyid_files::error::{Error, Result};
use anyid_files::media::writer::{VideoWriter, WriterOptions};
use anyid_files::media::{ReadOptions, ffmpeg, read_clip};
use anyid_guard::watermark::{Detection, Detector, Key, Luma, Marker, Payload, Search, Strength};
use scenes::{Painting, noisy, psnr_luma};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

const WIDTH: usize = 1280;
const HEIGHT: usize = 704;
const FRAMES: usize = 24;

/// A name, filters of ffmpeg, the quantiser and preset of x264, the size of what comes out, and the
/// bounds of the paper: share of wrong bits, share decoded.
struct Attack {
    name: &'static str,
    filter: &'static str,
    crf: u32,
    preset: &'static str,
    size: [usize; 2],
    search: Search,
    bounds: (Option<f64>, f64),
}

const fn attack(
    name: &'static str,
    filter: &'static str,
    crf: u32,
    size: [usize; 2],
    bounds: (Option<f64>, f64),
) -> Attack {
    Attack { name, filter, crf, preset: "medium", size, search: Search::Fast, bounds }
}

const WHOLE: [usize; 2] = [WIDTH, HEIGHT];

fn attacks() -> Vec<Attack> {
    let mut list = vec![
        attack("CRF 23", "null", 23, WHOLE, (Some(0.005), 0.999)),
        attack("CRF 28", "null", 28, WHOLE, (Some(0.03), 0.99)),
        attack("CRF 33", "null", 33, WHOLE, (None, 0.9)),
        attack("crop 30 % + CRF 28", "crop=896:492:150:97", 28, [896, 492], (Some(0.03), 0.99)),
        attack("resize 0.5 + CRF 23", "scale=640:352", 23, [640, 352], (Some(0.02), 0.99)),
        attack("resize 0.5 + CRF 28", "scale=640:352", 28, [640, 352], (None, 0.7)),
        attack(
            "crop 15 % + resize 0.7 + CRF 28",
            "crop=1088:598:90:47,scale=762:418",
            28,
            [762, 418],
            (Some(0.1), 0.95),
        ),
        attack("12 fps + trim + CRF 28", "select=gt(n\\,4),fps=12", 28, WHOLE, (Some(0.03), 0.99)),
        attack("noise 10 + CRF 23", "noise=alls=10:allf=t", 23, WHOLE, (Some(0.01), 0.99)),
        attack("blur 1 + CRF 23", "gblur=sigma=1", 23, WHOLE, (Some(0.01), 0.99)),
        attack(
            "brightness, contrast + CRF 23",
            "eq=brightness=0.06:contrast=1.15",
            23,
            WHOLE,
            (Some(0.01), 0.99),
        ),
        attack("resize 1.5 + CRF 23", "scale=1920:1056", 23, [1920, 1056], (Some(0.01), 0.99)),
        attack("resize 0.75 + CRF 23", "scale=960:528", 23, [960, 528], (Some(0.01), 0.99)),
        attack("mirror + CRF 28", "hflip", 28, WHOLE, (None, 0.99)),
        attack("CRF 28, ultrafast", "null", 28, WHOLE, (None, 0.99)),
        attack("rotation 1° + CRF 23", "rotate=PI/180", 23, WHOLE, (None, 0.0)),
        attack("rotation −2° + CRF 23", "rotate=-2*PI/180", 23, WHOLE, (None, 0.0)),
        attack("aspect 4:3 + CRF 23", "scale=960:704", 23, [960, 704], (None, 0.0)),
    ];
    for attack in &mut list {
        if attack.name.contains("0.7 ") {
            attack.search = Search::Full;
        }
        if attack.name.starts_with("rotation") || attack.name.starts_with("aspect") {
            attack.search = Search::Affine;
        }
        if attack.name.contains("ultrafast") {
            attack.preset = "ultrafast";
        }
    }
    if let Ok(words) = std::env::var("ATTACKS") {
        list.retain(|attack| attack.name.contains(&words));
    }
    list
}

#[derive(Default)]
struct Row {
    name: String,
    wrong: Vec<f64>,
    z: Vec<f64>,
    decoded: usize,
    present: usize,
    bounds: (Option<f64>, f64),
}

impl Row {
    fn add(&mut self, seen: &Detection, mark: Payload) {
        let pairs = mark.channel().into_iter().zip(seen.soft);
        self.wrong.push(pairs.filter(|(bit, soft)| *bit != (*soft > 0.0)).count() as f64 / 96.0);
        self.z.push(seen.z);
        self.present += usize::from(seen.present);
        self.decoded += usize::from(seen.payload == Some(mark));
    }

    fn print(&self) {
        let count = self.z.len() as f64;
        let mean = self.wrong.iter().sum::<f64>() / count;
        let lowest = self.z.iter().copied().fold(f64::INFINITY, f64::min);
        let share = self.decoded as f64 / count;
        let held = self.bounds.0.is_none_or(|most| mean <= most) && share >= self.bounds.1;
        println!(
            "| {} | {mean:.4} | {} of {} | {} | {lowest:.1} | {} / {:.1} % | {} |",
            self.name,
            self.decoded,
            self.z.len(),
            self.present,
            self.bounds.0.map_or("–".to_owned(), |most| format!("{most}")),
            100.0 * self.bounds.1,
            if held { "held" } else { "not held" },
        );
    }
}

fn main() -> Result<()> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let number =
        |at: usize, usual: usize| words.get(at).and_then(|w| w.parse().ok()).unwrap_or(usual);
    let (clips, blank) = (number(0, 20), number(1, 1000));
    let pictures: Vec<Painting> =
        words.iter().skip(2).map(|path| picture(path)).collect::<Result<_>>()?;
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let program = ffmpeg::find();
    let detector = Detector::new(&Key::public());
    let folder = std::env::temp_dir().join(format!("anyid-attacks-{}", std::process::id()));
    std::fs::create_dir_all(&folder).map_err(|error| failed("the folder", error))?;

    let attacks = attacks();
    let mut own =
        Row { name: "openh264 at its default".into(), bounds: (None, 0.99), ..Row::default() };
    let mut rows: Vec<Row> = attacks
        .iter()
        .map(|a| Row { name: a.name.into(), bounds: a.bounds, ..Row::default() })
        .collect();
    let (mut lowest, mut embedding) = (f64::INFINITY, Duration::MAX);
    let mut looking = [Duration::MAX; 2];
    for at in 0..clips {
        let mark = Payload { version: 1, id: (at as u32 + 1).wrapping_mul(0x9E37_79B9) };
        let marker = Marker::new(&Key::public(), mark.id, Strength::Normal);
        let drawn;
        let painting = match pictures.is_empty() || at % 3 != 0 {
            true => {
                drawn = Painting::new(at as u64, WIDTH * 5 / 4, HEIGHT * 5 / 4);
                &drawn
            }
            false => &pictures[at / 3 % pictures.len()],
        };
        let plain: Vec<Vec<u8>> =
            (0..FRAMES).map(|t| painting.frame(at as u64, t, WIDTH, HEIGHT, 1.0)).collect();
        let mut marked = plain.clone();
        let begun = Instant::now();
        marker.mark(&mut marked, WIDTH, HEIGHT, threads);
        embedding = embedding.min(begun.elapsed());
        for (plain, marked) in plain.iter().zip(&marked) {
            lowest = lowest.min(psnr_luma(plain, marked));
        }
        let coded = folder.join("own.mp4");
        let mut writer =
            VideoWriter::create(&coded, WIDTH, HEIGHT, 24.0, &WriterOptions::default())?;
        marked.iter().try_for_each(|frame| writer.push(frame))?;
        writer.finish()?;
        let read = read_clip(&coded, &ReadOptions::default())?;
        let frames: Vec<Luma> =
            read.frames.iter().map(|f| Luma::of_rgb(&f.data, WIDTH, HEIGHT)).collect();
        for (time, search) in looking.iter_mut().zip([Search::Fast, Search::Full]) {
            let begun = Instant::now();
            let seen = detector.detect(&frames, search, threads);
            *time = begun.elapsed().min(*time);
            if search == Search::Fast {
                own.add(&seen, mark);
            }
        }
        if let Some(program) = &program {
            for (attack, row) in attacks.iter().zip(&mut rows) {
                let frames = through(program, attack, &marked, &folder.join("x264.mp4"))?;
                row.add(&detector.detect(&frames, attack.search, threads), mark);
            }
        }
        eprintln!("clip {} of {clips}", at + 1);
    }
    if clips > 0 {
        println!("| attack | wrong bits | decoded | present | lowest z | required | |");
        println!("|---|---|---|---|---|---|---|");
        own.print();
        match program {
            Some(_) => rows.iter().for_each(Row::print),
            None => println!("no ffmpeg: the attacks with x264 were left out"),
        }
        println!("lowest PSNR of luma: {lowest:.2} dB");
        // Those of the clip that was fastest: other work on the machine slows the others.
        let embedding = 1000.0 * embedding.as_secs_f64() / FRAMES as f64;
        println!("embedding: {embedding:.1} ms a frame on {threads} threads");
        for (name, time) in ["fast", "full"].iter().zip(looking) {
            println!("detection, {name}: {:.2} s a clip on {threads} threads", time.as_secs_f64());
        }
    }
    let _ = std::fs::remove_dir_all(&folder);
    blanks(&detector, blank, threads);
    Ok(())
}

/// Looks for marks where there is none, or one of another key.
fn blanks(detector: &Detector, count: usize, threads: usize) {
    let other = Marker::new(&Key::private(&[1; 32]), 3, Strength::Strong);
    let affine = std::env::var_os("AFFINE").is_some();
    let search = if affine { Search::Affine } else { Search::Full };
    let (mut highest, mut found) = (0f64, 0);
    let (width, height) = (320, 192);
    for at in 0..count {
        let painting = Painting::new(10_000 + at as u64, width * 5 / 4, height * 5 / 4);
        let mut frames: Vec<Vec<u8>> =
            (0..4).map(|t| painting.frame(at as u64, t, width, height, 1.0)).collect();
        match at % 4 {
            0 => frames.iter_mut().for_each(|f| *f = noisy(f, 20.0, at as u64)),
            1 | 2 => {
                other.mark(&mut frames, width, height, threads);
            }
            _ => {}
        }
        let frames: Vec<Luma> = frames.iter().map(|f| Luma::of_rgb(f, width, height)).collect();
        let seen = detector.detect(&frames, search, threads);
        highest = highest.max(seen.z);
        found += usize::from(seen.present);
    }
    println!(
        "without a mark or with another key's: {found} of {count} found, highest z {highest:.2}"
    );
}

fn failed(what: &str, error: std::io::Error) -> Error {
    Error::input("E1010", format!("{what} cannot be used")).caused_by(error)
}

fn picture(path: &str) -> Result<Painting> {
    let clip = read_clip(Path::new(path), &ReadOptions::default())?;
    let frame = &clip.frames[0];
    Ok(Painting::of(&frame.data, frame.width, frame.height))
}

/// The frames after filters and x264.
fn through(program: &Path, attack: &Attack, frames: &[Vec<u8>], coded: &Path) -> Result<Vec<Luma>> {
    let raw = coded.with_extension("rgb");
    std::fs::write(&raw, frames.concat()).map_err(|error| failed("the raw frames", error))?;
    let crf = attack.crf.to_string();
    let size = format!("{WIDTH}x{HEIGHT}");
    let status = Command::new(program)
        .args(["-v", "error", "-y", "-f", "rawvideo", "-pix_fmt", "rgb24", "-s", &size, "-r", "24"])
        .arg("-i")
        .arg(&raw)
        .args(["-vf", attack.filter, "-c:v", "libx264", "-preset", attack.preset, "-crf", &crf])
        .args(["-pix_fmt", "yuv420p"])
        .arg(coded)
        .stdin(Stdio::null())
        .status()
        .map_err(|error| failed("ffmpeg", error))?;
    assert!(status.success(), "ffmpeg refuses {}", attack.name);
    let output = Command::new(program)
        .args(["-v", "error", "-i"])
        .arg(coded)
        .args(["-f", "rawvideo", "-pix_fmt", "gray", "-"])
        .stdin(Stdio::null())
        .output()
        .map_err(|error| failed("ffmpeg", error))?;
    let [width, height] = attack.size;
    let planes = output.stdout.chunks_exact(width * height);
    Ok(planes.map(|plane| Luma { width, height, values: plane.to_vec() }).collect())
}
