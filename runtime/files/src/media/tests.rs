//! Reading files of every kind, whole, cut off and damaged.

use super::testing::Folder;
use super::*;

/// Twelve 32x32 frames at 30 a second, ever brighter, x264 High profile with B-frames.
const B_FRAMES: &[u8] = include_bytes!("testdata/b_frames.mp4");
const ALONE: ReadOptions = ReadOptions {
    limits: Limits { side: 16_384, frame_bytes: 512 << 20, clip_bytes: 4 << 30 },
    allow_ffmpeg: false,
};

fn code(path: &Path) -> &'static str {
    let error = read_clip(path, &ALONE).unwrap_err();
    assert!(error.place().is_some() && error.help_text().is_some(), "{error}");
    error.code()
}

#[test]
fn files_are_known_by_content_not_name() {
    use ::image::ImageFormat as F;
    assert_eq!(sniff(b"\x89PNG\r\n\x1a\n...."), Signature::Still(F::Png));
    assert_eq!(sniff(b"\xff\xd8\xff\xe0"), Signature::Still(F::Jpeg));
    assert_eq!(sniff(b"RIFF\x10\0\0\0WEBPVP8 "), Signature::Still(F::WebP));
    assert_eq!(sniff(b"\0\0\0\x18ftypisom"), Signature::Mp4);
    assert_eq!(sniff(b"\0\0\0\x08wide\0\0\0\0mdat"), Signature::Mp4);
    assert_eq!(sniff(b"\0\0\0\x18ftypheic"), Signature::Heif("a HEIC picture"));
    assert!(matches!(sniff(b"\x1a\x45\xdf\xa3"), Signature::Foreign(_)));
    assert_eq!(sniff("Grüße".as_bytes()), Signature::NotMedia("a text file"));
    assert_eq!(sniff(b"BMW is a car maker"), Signature::NotMedia("a text file"));
    assert_eq!(sniff(&[0, 1, 2, 3]), Signature::NotMedia("of no known kind"));
    assert!(matches!(sniff(&[]), Signature::NotMedia(_)));
}

#[test]
fn b_frames_come_in_presentation_order() {
    let folder = Folder::new();
    let path = folder.file("clip.png", B_FRAMES);
    let (mut shades, mut times) = (Vec::new(), Vec::new());
    let info = visit_frames(&path, &ALONE, &mut |frame| {
        shades.push(frame.image.data[0]);
        times.push((frame.time * 30.0).round() as usize);
        assert!((frame.duration - 1.0 / 30.0).abs() < 1e-9);
        Ok(ControlFlow::Continue(()))
    })
    .unwrap();
    assert_eq!((info.kind, info.fps, info.frames), (MediaKind::Video, Some(30.0), 12));
    assert_eq!((info.width, info.height), (32, 32));
    assert_eq!(times, (0..12).collect::<Vec<_>>());
    for (index, shade) in shades.iter().enumerate() {
        let expected = (4 + 15 * index) as f64 * 255.0 / 219.0;
        assert!((f64::from(*shade) - expected).abs() < 5.0, "{shades:?}");
    }
}

#[test]
fn a_visitor_may_stop_early_or_fail() {
    let folder = Folder::new();
    let path = folder.file("clip", B_FRAMES);
    let mut left = 3;
    let info = visit_frames(&path, &ALONE, &mut |_| {
        left -= 1;
        Ok(if left == 0 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
    })
    .unwrap();
    assert_eq!((info.frames, info.kind), (3, MediaKind::Video));
    let error = visit_frames(&path, &ALONE, &mut |_| Err(Error::input("E0999", "enough")));
    assert_eq!(error.unwrap_err().code(), "E0999");
}

#[test]
fn unreadable_files_are_named_by_their_fault() {
    let folder = Folder::new();
    assert_eq!(code(&folder.path().join("none.png")), "E0801");
    assert_eq!(code(folder.path()), "E0802");
    assert_eq!(code(&folder.file("empty.png", b"")), "E0803");
    let text = folder.file("text.jpg", b"hello there");
    assert_eq!(code(&text), "E0804");
    assert!(read_clip(&text, &ALONE).unwrap_err().message().contains("a text file"));
    let webm = folder.file("a.mp4", b"\x1a\x45\xdf\xa3 webm");
    assert_eq!(code(&webm), "E0807");
    assert!(read_clip(&webm, &ALONE).unwrap_err().message().contains("WebM"));
    #[cfg(unix)]
    assert_eq!(code(Path::new("/dev/null")), "E0802");
}

#[test]
fn cut_off_clips_say_so() {
    let folder = Folder::new();
    let index = B_FRAMES.windows(4).position(|w| w == b"moov").unwrap();
    let no_index = folder.file("a", &B_FRAMES[..index - 4]);
    assert_eq!(code(&no_index), "E0808");
    assert_eq!(code(&folder.file("b", &B_FRAMES[..index + 200])), "E0808");
    // The index first, then only a part of the frames: move it to the front.
    let mut moved = B_FRAMES[index - 4..].to_vec();
    moved.extend(&B_FRAMES[..100]);
    let path = folder.file("c", &moved);
    let error = read_clip(&path, &ALONE).unwrap_err();
    assert_eq!(error.code(), "E0810");
    assert!(error.message().contains("of 12"), "{error}");
    for length in (1..B_FRAMES.len()).step_by(97) {
        assert!(read_clip(&folder.file("d", &B_FRAMES[..length]), &ALONE).is_err());
    }
}

#[test]
fn clips_without_usable_video_are_named() {
    let folder = Folder::new();
    let change = |from: &[u8], to: &[u8]| {
        let mut bytes = B_FRAMES.to_vec();
        let at = bytes.windows(from.len()).position(|w| w == from).unwrap();
        bytes[at..at + to.len()].copy_from_slice(to);
        folder.file("x", &bytes)
    };
    assert_eq!(code(&change(b"\0\0\0\0vide", b"\0\0\0\0soun")), "E0809");
    let hevc = change(b"avc1\0\0\0", b"hvc1\0\0\0");
    let error = read_clip(&hevc, &ALONE).unwrap_err();
    assert_eq!(error.code(), "E0807");
    assert!(error.message().contains("HEVC"), "{error}");
}

#[test]
fn limits_hold_for_frames_and_clips() {
    let folder = Folder::new();
    let path = folder.file("clip", B_FRAMES);
    let mut options = ALONE;
    options.limits.side = 31;
    assert_eq!(read_clip(&path, &options).unwrap_err().code(), "E0806");
    options.limits.side = 32;
    assert_eq!(read_clip(&path, &options).unwrap().frames.len(), 12);
    options.limits.clip_bytes = 32 * 32 * 3 * 11;
    assert_eq!(read_clip(&path, &options).unwrap_err().code(), "E0806");
}

#[test]
fn damaged_bytes_never_panic() {
    let folder = Folder::new();
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as usize
    };
    let mut picture = Vec::new();
    let pixels: Vec<u8> = (0..16 * 16 * 3).map(|i| (i * 7) as u8).collect();
    ::image::ImageEncoder::write_image(
        ::image::codecs::jpeg::JpegEncoder::new(&mut picture),
        &pixels,
        16,
        16,
        ::image::ExtendedColorType::Rgb8,
    )
    .unwrap();
    for round in 0..400 {
        let mut bytes = if round % 4 == 0 { picture.clone() } else { B_FRAMES.to_vec() };
        for _ in 0..1 + next() % 8 {
            let at = next() % bytes.len();
            bytes[at] = next() as u8;
        }
        if let Err(error) = read_clip(&folder.file("x", &bytes), &ALONE) {
            assert!(error.code().starts_with("E08") && error.help_text().is_some(), "{error}");
        }
    }
}

#[test]
fn panics_in_decoders_become_errors() {
    let error = guard(Path::new("x.png"), "the header", || panic!("inside")).map(|(): ()| ());
    assert_eq!(error.unwrap_err().code(), "E0812");
}

#[test]
fn other_codecs_are_read_by_ffmpeg() {
    let Some(program) = ffmpeg::find() else {
        println!("skipped: no ffmpeg on the PATH");
        return;
    };
    let folder = Folder::new();
    let source = folder.file("in.mp4", B_FRAMES);
    let target = folder.path().join("-out.mkv");
    let done = std::process::Command::new(program)
        .args(["-v", "error", "-i"])
        .arg(&source)
        .args(["-c:v", "ffv1"])
        .arg(std::path::absolute(&target).unwrap())
        .status()
        .unwrap();
    assert!(done.success());
    let ours = read_clip(&source, &ALONE).unwrap();
    let theirs = read_clip(&target, &ReadOptions::default()).unwrap();
    assert_eq!((theirs.frames.len(), theirs.fps), (12, Some(30.0)));
    for (a, b) in ours.frames.iter().zip(&theirs.frames) {
        assert!(a.data.iter().zip(&b.data).all(|(a, b)| a.abs_diff(*b) <= 4));
    }
    let cut = std::fs::read(&target).unwrap();
    let cut = folder.file("cut.mkv", &cut[..cut.len() / 4]);
    assert!(read_clip(&cut, &ReadOptions::default()).is_err());
}
