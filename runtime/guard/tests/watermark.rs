//! Marks survive what happens to videos, and nothing is found where nothing was put.

mod scenes;

use anyid_files::media::standardise::{Filter, resize};
use anyid_files::media::writer::{VideoWriter, WriterOptions};
use anyid_files::media::{ReadOptions, RgbFrame, ffmpeg, read_clip};
use anyid_guard::watermark::{Detection, Detector, Key, Luma, Marker, Payload, Search, Strength};
use scenes::{blurred, clip, crop, jpeg_like, mirror, noisy, psnr_luma};
use std::sync::LazyLock;

const WIDTH: usize = 640;
const HEIGHT: usize = 384;
const MARK: Payload = Payload { version: 1, id: 0x9C1F_00A5 };

static PUBLIC: LazyLock<Detector> = LazyLock::new(|| Detector::new(&Key::public()));

struct Clip {
    frames: Vec<Vec<u8>>,
    width: usize,
    height: usize,
}

impl Clip {
    fn marked(kind: u64, count: usize) -> Self {
        let marker = Marker::new(&Key::public(), MARK.id, Strength::Normal);
        let mut frames = clip(kind, count, WIDTH, HEIGHT);
        marker.mark(&mut frames, WIDTH, HEIGHT, 1);
        Self { frames, width: WIDTH, height: HEIGHT }
    }

    fn each(&self, with: impl Fn(&[u8]) -> Vec<u8>) -> Self {
        Self { frames: self.frames.iter().map(|f| with(f)).collect(), ..*self }
    }

    fn cropped(&self, part: [usize; 4]) -> Self {
        let frames = self.frames.iter().map(|f| crop(f, self.width, part)).collect();
        Self { frames, width: part[2], height: part[3] }
    }

    fn resized(&self, width: usize, height: usize) -> Self {
        let scale = |frame: &Vec<u8>| {
            let frame = RgbFrame { width: self.width, height: self.height, data: frame.clone() };
            resize(&frame, width, height, Filter::Bicubic).data
        };
        Self { frames: self.frames.iter().map(scale).collect(), width, height }
    }

    fn through_openh264(&self, quantiser: u8) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.mp4");
        let options = WriterOptions { quantiser, ..WriterOptions::default() };
        let mut writer =
            VideoWriter::create(&path, self.width, self.height, 24.0, &options).unwrap();
        self.frames.iter().for_each(|frame| writer.push(frame).unwrap());
        writer.finish().unwrap();
        let read = read_clip(&path, &ReadOptions::default()).unwrap();
        Self { frames: read.frames.into_iter().map(|f| f.data).collect(), ..*self }
    }

    fn seen(&self, detector: &Detector, search: Search) -> Detection {
        let frames: Vec<Luma> =
            self.frames.iter().map(|f| Luma::of_rgb(f, self.width, self.height)).collect();
        detector.detect(&frames, search, 2)
    }
}

#[track_caller]
fn found(what: &str, clip: &Clip, search: Search) -> Detection {
    let seen = clip.seen(&PUBLIC, search);
    assert_eq!(seen.payload, Some(MARK), "{what}: z {:.1}, scale {:.3}", seen.z, seen.scale);
    assert!(seen.present && seen.bit_errors.unwrap() <= 0.1, "{what}: {:?}", seen.bit_errors);
    seen
}

#[test]
fn marks_survive_what_happens_to_videos() {
    for kind in [0, 1, 2, 6] {
        let plain = clip(kind, 1, WIDTH, HEIGHT);
        let marked = Clip::marked(kind, 12);
        let quality = psnr_luma(&plain[0], &marked.frames[0]);
        assert!(quality >= 42.0, "clip {kind}: {quality:.2} dB");
        let seen = found("as it is", &marked, Search::Fast);
        let Detection { scale, flip, bit_errors, .. } = seen;
        assert_eq!((scale, flip, bit_errors), (1.0, false, Some(0.0)), "clip {kind}");
        found("openh264 at its default", &marked.through_openh264(18), Search::Fast);
        found("cropped", &marked.cropped([37, 51, 448, 269]), Search::Fast);
        found("noise", &marked.each(|f| noisy(f, 4.0, 5)), Search::Fast);
        found("blur", &marked.each(|f| blurred(f, WIDTH, 1.0)), Search::Fast);
        found("blocks", &marked.each(|f| jpeg_like(f, WIDTH, 60.0)), Search::Fast);
        let dim = |f: &[u8]| f.iter().map(|&v| (f32::from(v) * 0.85 + 12.0) as u8).collect();
        found("brightness and contrast", &marked.each(dim), Search::Fast);
        let mirrored = found("mirror", &marked.each(|f| mirror(f, WIDTH)), Search::Fast);
        assert!(mirrored.flip);
        let half = marked.resized(320, 192);
        assert!((found("half", &half, Search::Fast).scale - 0.5).abs() < 0.003);
        let dropped =
            Clip { frames: marked.frames.iter().skip(1).step_by(2).cloned().collect(), ..marked };
        found("every other frame", &dropped, Search::Fast);
    }
}

#[test]
fn any_scale_is_found_by_the_full_search() {
    let marked = Clip::marked(1, 8);
    for (width, height) in [(451, 271), (742, 445), (960, 576)] {
        let seen = found("scaled", &marked.resized(width, height), Search::Full);
        println!("{width}: z {:.1}, bit errors {:?}", seen.z, seen.bit_errors);
        let scale = width as f64 / WIDTH as f64;
        assert!((seen.scale / scale - 1.0).abs() < 0.01, "{} {scale}", seen.scale);
    }
    let part = marked.cropped([40, 22, 544, 326]).resized(436, 262).through_openh264(20);
    found("cropped, scaled and coded", &part, Search::Full);
}

#[test]
fn x264_keeps_marks_too() {
    let Some(program) = ffmpeg::find() else {
        println!("skipped: no ffmpeg on the PATH");
        return;
    };
    let known = std::process::Command::new(&program).args(["-v", "error", "-encoders"]).output();
    if !String::from_utf8_lossy(&known.unwrap().stdout).contains("libx264 ") {
        println!("skipped: this ffmpeg has no x264");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let marked = Clip::marked(0, 16);
    let (raw, coded) = (folder.path().join("a.rgb"), folder.path().join("a.mp4"));
    std::fs::write(&raw, marked.frames.concat()).unwrap();
    let size = format!("{WIDTH}x{HEIGHT}");
    let done = std::process::Command::new(&program)
        .args(["-v", "error", "-f", "rawvideo", "-pix_fmt", "rgb24", "-s", &size, "-r", "24", "-i"])
        .arg(&raw)
        .args(["-c:v", "libx264", "-crf", "26", "-pix_fmt", "yuv420p"])
        .arg(&coded)
        .status();
    assert!(done.unwrap().success());
    let read = read_clip(&coded, &ReadOptions::default()).unwrap();
    let frames = read.frames.into_iter().map(|f| f.data).collect();
    found("x264", &Clip { frames, ..marked }, Search::Fast);
}

#[test]
fn private_marks_show_to_their_key_only() {
    let key = Key::private(&[9; 32]);
    let marker = Marker::new(&key, 7, Strength::Normal);
    let mut frames = clip(1, 8, WIDTH, HEIGHT);
    marker.mark(&mut frames, WIDTH, HEIGHT, 1);
    let private = Clip { frames, width: WIDTH, height: HEIGHT };
    let own = private.seen(&Detector::new(&key), Search::Fast);
    assert_eq!(own.payload, Some(Payload { version: 2, id: 7 }));
    for other in [&*PUBLIC, &Detector::new(&Key::private(&[8; 32]))] {
        let seen = private.seen(other, Search::Full);
        assert!(!seen.present && seen.payload.is_none() && seen.z < 6.0, "z {:.1}", seen.z);
    }
}

#[test]
fn nothing_is_found_where_nothing_was_put() {
    let mut highest = 0f64;
    for kind in 0..200 {
        let (width, height) = (200 + 8 * (kind as usize % 7), 160);
        let frames = match kind % 4 {
            0 => {
                (0..2).map(|t| noisy(&vec![128; 3 * width * height], 30.0, kind * 2 + t)).collect()
            }
            _ => clip(1000 + kind, 2, width, height),
        };
        let seen = Clip { frames, width, height }.seen(&PUBLIC, Search::Full);
        assert!(!seen.present && seen.payload.is_none(), "clip {kind}: z {:.1}", seen.z);
        highest = highest.max(seen.z);
    }
    println!("highest z of 200 clips without a mark: {highest:.2}");
    assert!(highest < 6.5, "{highest:.2}");
}

#[test]
fn the_result_does_not_depend_on_the_number_of_threads() {
    let marked = Clip::marked(2, 5);
    let frames: Vec<Luma> = marked.frames.iter().map(|f| Luma::of_rgb(f, WIDTH, HEIGHT)).collect();
    let one = PUBLIC.detect(&frames, Search::Fast, 1);
    assert_eq!(one, PUBLIC.detect(&frames, Search::Fast, 3));
}

/// The clip turned clockwise about its middle, black outside.
fn turned(clip: &Clip, degrees: f64) -> Clip {
    let (width, height) = (clip.width, clip.height);
    let (sine, cosine) = degrees.to_radians().sin_cos();
    let middle = [(width - 1) as f64 / 2.0, (height - 1) as f64 / 2.0];
    clip.each(|frame| {
        let at = |x: i64, y: i64, c: usize| {
            let inside = (0..width as i64).contains(&x) && (0..height as i64).contains(&y);
            if inside { f64::from(frame[3 * (y as usize * width + x as usize) + c]) } else { 0.0 }
        };
        let mut out = Vec::with_capacity(frame.len());
        for y in 0..height {
            for x in 0..width {
                let [u, v] = [x as f64 - middle[0], y as f64 - middle[1]];
                let [from_x, from_y] =
                    [middle[0] + cosine * u + sine * v, middle[1] - sine * u + cosine * v];
                let [left, top] = [from_x.floor(), from_y.floor()];
                let [right, down] = [from_x - left, from_y - top];
                let [left, top] = [left as i64, top as i64];
                for c in 0..3 {
                    let upper = at(left, top, c) * (1.0 - right) + at(left + 1, top, c) * right;
                    let lower =
                        at(left, top + 1, c) * (1.0 - right) + at(left + 1, top + 1, c) * right;
                    out.push((upper * (1.0 - down) + lower * down).round() as u8);
                }
            }
        }
        out
    })
}

#[test]
fn turned_and_stretched_clips_are_found_by_those_who_look_for_them() {
    let marked = Clip::marked(1, 1);
    let clip = turned(&marked, -1.7);
    assert!(!clip.seen(&PUBLIC, Search::Full).present);
    let seen = found("turned", &clip, Search::Affine);
    // The peak is as high within some tenths of a degree.
    assert!((seen.turn + 1.7).abs() < 0.5, "{}", seen.turn);
    let stretched = marked.resized(520, 400);
    assert!(!stretched.seen(&PUBLIC, Search::Full).present);
    let seen = found("stretched", &stretched, Search::Affine);
    let aspect = 520.0 / 640.0 / (400.0 / 384.0);
    assert!((seen.aspect / aspect - 1.0).abs() < 0.02, "{aspect}: {}", seen.aspect);
    assert!(seen.turn.abs() < 0.5, "{}", seen.turn);
}
