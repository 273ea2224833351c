//! Animations: what is composed, how long it is shown, and what is no animation.

use super::*;
use sha2::{Digest, Sha256};

/// Files and results of `tests/reference/animations.py --write`.
#[test]
fn animations_of_every_kind_are_what_their_definition_says() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/media/testdata/animations");
    let list = std::fs::read_to_string(folder.join("expected.txt")).unwrap();
    let mut count = 0;
    for line in list.lines() {
        let [name, width, height, delays, digest] =
            line.split(' ').collect::<Vec<_>>()[..].try_into().unwrap();
        let (info, seen) = shown(&std::fs::read(folder.join(name)).unwrap());
        assert_eq!(format!("{} {}", info.width, info.height), format!("{width} {height}"));
        let shown: Vec<String> = seen.iter().map(|(_, _, d)| format!("{d:.2}")).collect();
        assert_eq!(shown.join(","), delays, "{name}");
        let mut hash = Sha256::new();
        seen.iter().for_each(|(frame, _, _)| hash.update(&frame.data));
        let found = hash.finalize().iter().fold(String::new(), |mut text, byte| {
            write!(text, "{byte:02x}").unwrap();
            text
        });
        assert_eq!(found, digest, "{name}");
        assert_eq!(info.kind, MediaKind::Video, "{name}");
        count += 1;
    }
    assert_eq!(count, 36);
}

/// One row of GIF: canvas width, then frames of (x, colours, disposal, delay, transparent).
fn gif_row(width: u16, frames: &[(u16, &[u8], u8, u16, bool)]) -> Vec<u8> {
    let mut file = b"GIF89a".to_vec();
    file.extend(width.to_le_bytes());
    // One row, a table of four: black, red, green, blue.
    file.extend([1, 0, 0x81, 2, 0, 0, 0, 0, 255, 0, 0, 0, 255, 0, 0, 0, 255]);
    for (x, indices, disposal, delay, transparent) in frames {
        file.extend([b'!', 0xf9, 4, disposal << 2 | u8::from(*transparent)]);
        file.extend(delay.to_le_bytes());
        file.extend([0, 0, b',']);
        file.extend(x.to_le_bytes());
        file.extend([0, 0]);
        file.extend((indices.len() as u16).to_le_bytes());
        file.extend([1, 0, 0, 2]);
        // Three bits a code, the table cleared before each: clear is 4, the end 5.
        let codes: Vec<u8> = indices.iter().flat_map(|index| [4, *index]).chain([5]).collect();
        let mut bits = Vec::new();
        codes.iter().for_each(|code| bits.extend((0..3).map(|bit| code >> bit & 1)));
        let byte =
            |bits: &[u8]| bits.iter().enumerate().fold(0, |byte, (at, bit)| byte | bit << at);
        let packed: Vec<u8> = bits.chunks(8).map(byte).collect();
        file.push(packed.len() as u8);
        file.extend(packed);
        file.push(0);
    }
    file
}

const BLACK: [u8; 3] = [0, 0, 0];
const RED: [u8; 3] = [255, 0, 0];
const GREEN: [u8; 3] = [0, 255, 0];
const BLUE: [u8; 3] = [0, 0, 255];

fn rows(bytes: &[u8]) -> Vec<Vec<u8>> {
    shown(bytes).1.into_iter().map(|(frame, _, _)| frame.data).collect()
}

#[test]
fn the_background_of_a_gif_is_black_whatever_colour_is_named() {
    // Green is named as the background; browsers show what is transparent.
    let file = gif_row(3, &[(0, &[1], 2, 9, false), (1, &[3], 0, 9, false)]);
    let first = [RED, BLACK, BLACK].concat();
    assert_eq!(rows(&file), [first, [BLACK, BLUE, BLACK].concat()]);
}

#[test]
fn frames_of_a_gif_are_cut_to_the_canvas_that_the_first_one_sets() {
    let file = gif_row(1, &[(0, &[1, 1], 0, 9, false), (1, &[2, 2, 2], 0, 9, false)]);
    assert_eq!(rows(&file), [[RED, RED].concat(), [RED, GREEN].concat()]);
    let file = gif_row(0, &[(0, &[1, 1], 0, 9, false), (9, &[2], 0, 9, false)]);
    assert_eq!(rows(&file), [[RED, RED].concat(), [RED, RED].concat()]);
}

#[test]
fn a_gif_without_end_mark_is_whole_and_one_without_its_pixels_is_not() {
    let two = [(0, &[1u8, 2][..], 0, 9, false), (0, &[3, 3][..], 0, 9, false)];
    let file = gif_row(2, &two);
    assert_eq!(rows(&file).len(), 2);
    let one = gif_row(2, &two[..1]).len();
    for keep in one + 9..file.len() - 2 {
        assert_eq!(code(&file[..keep]), "E0805", "{keep} of {}", file.len());
    }
    // The end of the chain of blocks says nothing that is needed.
    assert_eq!(rows(&file[..file.len() - 1]).len(), 2);
    let mut padded = file.clone();
    padded.extend(b"\0\0;and more");
    assert_eq!(shown(&padded).0.warnings, [""; 0]);
    let mut strayed = file.clone();
    strayed.extend(b"and more");
    let (info, seen) = shown(&strayed);
    assert_eq!((info.warnings.len(), seen.len()), (1, 2));
}

#[test]
fn delays_up_to_ten_milliseconds_count_as_a_hundred() {
    let frames: Vec<_> =
        [0u16, 1, 2, 30].iter().map(|delay| (0, &[1u8][..], 0, *delay, false)).collect();
    let seen = shown(&gif_row(1, &frames)).1;
    let times: Vec<_> = seen.iter().map(|(_, time, duration)| (*time, *duration)).collect();
    assert_eq!(times, [(0.0, 100.0), (100.0, 100.0), (200.0, 20.0), (220.0, 300.0)]);
}

#[test]
fn one_frame_is_a_picture_and_none_is_an_error() {
    let (info, seen) = shown(&gif_row(2, &[(0, &[1, 2], 3, 9, true)]));
    assert_eq!((info.kind, info.fps, seen[0].2), (MediaKind::Image, None, 0.0));
    assert_eq!(code(&gif_row(2, &[])), "E0809");
    let frame = riff_chunk(b"ANMF", &[&[0; 15][..], &[0], &lossless(1, 1, &[9; 4])].concat());
    let anim = riff_chunk(b"ANIM", &[0; 6]);
    let file = riff(&[extended(2, 1, 1), anim.clone(), frame].concat());
    assert_eq!(read(&file).unwrap().kind, MediaKind::Image);
    assert_eq!(code(&riff(&[extended(2, 1, 1), anim].concat())), "E0809");
    // An animation of no frames is its default image, as is one that is announced twice.
    for count in [0u32, 1] {
        let announced = png_chunk(b"acTL", &[&count.to_be_bytes()[..], &[0; 4]].concat());
        let file = small_png(&announced.repeat(1 + count as usize));
        assert_eq!(read(&file).unwrap().frames[0].data, [RED, GREEN].concat());
    }
}

fn control(sequence: u8, width: u8, x: u8, dispose: u8, blend: u8) -> Vec<u8> {
    let body =
        [[0, 0, 0, sequence, 0, 0, 0, width, 0, 0, 0, 1], [0, 0, 0, x, 0, 0, 0, 0, 0, 1, 0, 60]]
            .concat();
    png_chunk(b"fcTL", &[body, vec![dispose, blend]].concat())
}

/// An APNG of one row of RGBA whose default image is or is not its first frame.
fn apng(announced: u8, within: bool, rest: &[Vec<u8>]) -> Vec<u8> {
    let mut extra = png_chunk(b"acTL", &[0, 0, 0, announced, 0, 0, 0, 0]);
    if within {
        extra.extend(control(0, 2, 0, 0, 0));
    }
    let row = [&[0][..], &RED, &[255], &GREEN, &[255]].concat();
    let mut file = png_of(2, 1, 8, 6, &extra, &row);
    file.truncate(file.len() - 12);
    file.extend(rest.concat());
    file.extend(png_chunk(b"IEND", b""));
    file
}

fn data(sequence: u8, pixel: [u8; 4]) -> Vec<u8> {
    let rows = zlib(&[&[0][..], &pixel].concat());
    png_chunk(b"fdAT", &[&[0, 0, 0, sequence][..], &rows].concat())
}

#[test]
fn a_default_image_outside_the_animation_is_not_shown() {
    let file = apng(1, false, &[control(0, 1, 1, 0, 1), data(1, [0, 0, 255, 128])]);
    let (info, seen) = shown(&file);
    assert_eq!(info.kind, MediaKind::Image);
    assert_eq!(seen[0].0.data, [BLACK, [0, 0, 128]].concat());
    let file = apng(2, true, &[control(1, 1, 1, 0, 1), data(2, [0, 0, 255, 128])]);
    let (info, seen) = shown(&file);
    assert_eq!((info.kind, seen[0].2), (MediaKind::Video, 16.667));
    assert_eq!(seen[1].0.data, [RED, [0, 127, 128]].concat());
}

#[test]
fn animated_pngs_that_contradict_themselves_are_refused() {
    let layer = |sequence| [control(sequence, 1, 1, 0, 0), data(sequence + 1, [1; 4])];
    assert!(read(&apng(2, true, &layer(1))).is_ok());
    // Too few frames, out of order, beyond the canvas, empty, without data.
    assert_eq!(code(&apng(3, true, &layer(1))), "E0805");
    assert_eq!(code(&apng(2, true, &layer(2))), "E0805");
    assert_eq!(code(&apng(2, true, &[control(1, 2, 1, 0, 0), data(2, [1; 4])])), "E0805");
    assert_eq!(code(&apng(2, true, &[control(1, 0, 1, 0, 0), data(2, [1; 4])])), "E0805");
    assert_eq!(code(&apng(2, true, &[control(1, 1, 1, 0, 0)])), "E0805");
    // More frames than announced are left out.
    assert_eq!(shown(&apng(1, true, &layer(1))).1.len(), 1);
}

#[test]
fn frames_of_a_webp_are_disposed_of_and_blended() {
    let anmf = |x: u8, flags: u8, rgba: [u8; 4]| {
        let head = [x / 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 40, 0, 0, flags];
        riff_chunk(b"ANMF", &[&head[..], &lossless(1, 1, &rgba)].concat())
    };
    let chunks = [
        extended(0x12, 3, 1),
        riff_chunk(b"ANIM", &[255, 0, 255, 255, 0, 0]),
        anmf(0, 1, [255, 0, 0, 255]),
        anmf(2, 0, [0, 255, 0, 255]),
        anmf(2, 0, [0, 0, 255, 128]),
        anmf(2, 2, [0, 0, 255, 128]),
    ];
    let right = [
        [RED, BLACK, BLACK],
        [BLACK, BLACK, GREEN],
        [BLACK, BLACK, [0, 127, 128]],
        [BLACK, BLACK, [0, 0, 128]],
    ];
    assert_eq!(rows(&riff(&chunks.concat())), right.map(|row| row.concat()));
    let wide = [extended(0x12, 1, 1), chunks[1].clone(), anmf(2, 0, [1; 4])].concat();
    assert_eq!(code(&riff(&wide)), "E0805");
}

#[test]
fn a_visitor_that_stops_early_decodes_no_more() {
    let mut file = apng(2, true, &[control(1, 1, 1, 0, 0), data(2, [1; 4])]);
    let last = file.len() - 20;
    file[last] ^= 1;
    assert_eq!(code(&file), "E0805");
    let folder = Folder::new();
    let info = visit_frames(&folder.file("x", &file), &ReadOptions::default(), &mut |_| {
        Ok(ControlFlow::Break(()))
    });
    assert_eq!(info.unwrap().frames, 1);
}

#[test]
fn animations_from_an_encoder_keep_their_delays() {
    let frame = |shade: u8, delay: u32| {
        let buffer = ::image::RgbaImage::from_pixel(4, 4, [shade, shade, shade, 255].into());
        ::image::Frame::from_parts(buffer, 0, 0, ::image::Delay::from_numer_denom_ms(delay, 1))
    };
    let mut bytes = Vec::new();
    let frames = vec![frame(0, 100), frame(90, 300), frame(200, 0)];
    gif::GifEncoder::new(&mut bytes).encode_frames(frames).unwrap();
    let (info, seen) = shown(&bytes);
    let seen: Vec<_> = seen.iter().map(|(f, time, length)| (f.data[0], *time, *length)).collect();
    assert_eq!(seen, [(0, 0.0, 100.0), (90, 100.0, 300.0), (200, 400.0, 100.0)]);
    assert_eq!((info.kind, info.fps), (MediaKind::Video, Some(6.0)));
}
