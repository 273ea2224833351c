//! Orientation and colour marks of every format, still and moving.

use super::*;

/// The four corners of what a file gives, and its size.
fn upright(bytes: &[u8]) -> (usize, usize, Vec<u8>) {
    let clip = read(bytes).unwrap();
    let frame = &clip.frames[clip.frames.len() - 1];
    assert_eq!((clip.source.width, clip.source.height), (frame.width, frame.height));
    (frame.width, frame.height, frame.data.clone())
}

const RED_GREEN: [u8; 6] = [255, 0, 0, 0, 255, 0];
const GREEN_RED: [u8; 6] = [0, 255, 0, 255, 0, 0];

#[test]
fn every_orientation_turns_a_png() {
    let cases = [
        (1, (2, 1, RED_GREEN)),
        (2, (2, 1, GREEN_RED)),
        (3, (2, 1, GREEN_RED)),
        (4, (2, 1, RED_GREEN)),
        (5, (1, 2, RED_GREEN)),
        (6, (1, 2, RED_GREEN)),
        (7, (1, 2, GREEN_RED)),
        (8, (1, 2, GREEN_RED)),
        (9, (2, 1, RED_GREEN)),
    ];
    for (value, (width, height, data)) in cases {
        let found = upright(&small_png(&png_chunk(b"eXIf", &exif(value))));
        assert_eq!(found, (width, height, data.to_vec()), "orientation {value}");
    }
}

#[test]
fn orientation_in_text_counts_where_exif_says_nothing() {
    let hex = exif(6).iter().fold(String::new(), |mut hex, byte| {
        write!(hex, "{byte:02x}").unwrap();
        hex
    });
    let raw = format!("\nexif\n      26\n{}\n{}\n", &hex[..20], &hex[20..]);
    let key = b"Raw profile type exif\0".to_vec();
    let plain = [key.clone(), raw.clone().into_bytes()].concat();
    let packed = [key, vec![0], zlib(raw.as_bytes())].concat();
    let xmp = b"<rdf:Description tiff:Orientation=\"6\"/>";
    let element = b"<tiff:Orientation>6</tiff:Orientation>";
    let international = |text: &[u8]| [b"XML:com.adobe.xmp\0\0\0en\0key\0", text].concat();
    let deflated = [b"XML:com.adobe.xmp\0\x01\0\0\0", &zlib(xmp)[..]].concat();
    for chunk in [
        png_chunk(b"tEXt", &plain),
        png_chunk(b"zTXt", &packed),
        png_chunk(b"iTXt", &international(xmp)),
        png_chunk(b"iTXt", &international(element)),
        png_chunk(b"iTXt", &deflated),
    ] {
        assert_eq!(upright(&small_png(&chunk)), (1, 2, RED_GREEN.to_vec()), "{chunk:?}");
        let both = [chunk, png_chunk(b"eXIf", &exif(1))].concat();
        assert_eq!(upright(&small_png(&both)), (2, 1, RED_GREEN.to_vec()));
    }
}

#[test]
fn a_turned_jpeg_stands_upright() {
    let bytes = small_jpeg();
    let segment = |marker: u8, body: &[u8]| {
        let length = (body.len() as u16 + 2).to_be_bytes();
        [&bytes[..2], &[0xff, marker], &length, body, &bytes[2..]].concat()
    };
    let xmp = b"http://ns.adobe.com/xap/1.0/\0<x tiff:Orientation=\"6\"/>";
    let exif = [b"Exif\0\0".to_vec(), exif(6)].concat();
    for turned in [segment(0xe1, &exif), segment(0xe1, xmp)] {
        let (width, height, data) = upright(&turned);
        assert_eq!((width, height), (16, 32));
        assert!(data[0] > 240 && data[data.len() - 1] < 15);
    }
    assert_eq!(upright(&segment(0xe2, &exif)).0, 32, "not the segment of EXIF");
}

#[test]
fn moving_pictures_are_turned_as_still_ones_are() {
    let pixels = [255, 0, 0, 255, 0, 255, 0, 255];
    let exif = riff_chunk(b"EXIF", &exif(6));
    let stream = lossless(2, 1, &pixels);
    let still = riff(&[extended(0x18, 2, 1), stream.clone(), exif.clone()].concat());
    assert_eq!(upright(&still), (1, 2, RED_GREEN.to_vec()));
    let frame = [&[0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 50, 0, 0, 0][..], &stream].concat();
    let frame = riff_chunk(b"ANMF", &frame);
    let anim = riff_chunk(b"ANIM", &[0; 6]);
    let chunks = [extended(0x1a, 2, 1), anim.clone(), frame.clone(), frame.clone(), exif];
    assert_eq!(upright(&riff(&chunks.concat())), (1, 2, RED_GREEN.to_vec()));
    let xmp = riff_chunk(b"XMP ", b"<x tiff:Orientation=\"6\"/>");
    let chunks = [extended(0x16, 2, 1), anim, frame.clone(), frame, xmp];
    assert_eq!(upright(&riff(&chunks.concat())), (1, 2, RED_GREEN.to_vec()));

    let control = |sequence: u8| {
        let body = [0, 0, 0, sequence, 0, 0, 0, 2, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 9];
        png_chunk(b"fcTL", &[&body[..], &[0, 0]].concat())
    };
    let turn = png_chunk(b"eXIf", &super::exif(6));
    let extra = [png_chunk(b"acTL", &[0, 0, 0, 2, 0, 0, 0, 0]), control(0)].concat();
    let rows = [0, 255, 0, 0, 0, 255, 0];
    let mut file = png_of(2, 1, 8, 2, &extra, &rows);
    file.truncate(file.len() - 12);
    file.extend(control(1));
    file.extend(png_chunk(b"fdAT", &[&[0, 0, 0, 2][..], &zlib(&rows)].concat()));
    // Behind the pictures is as good a place as any.
    file.extend(turn);
    file.extend(png_chunk(b"IEND", b""));
    assert_eq!(upright(&file), (1, 2, RED_GREEN.to_vec()));
    assert_eq!(read(&file).unwrap().frames.len(), 2);
}

/// An RGB profile with the given red primary.
fn profile(red: [f64; 3]) -> Vec<u8> {
    let mut profile = vec![0; 128];
    profile[16..20].copy_from_slice(b"RGB ");
    profile.extend([0, 0, 0, 1]);
    profile.extend(b"rXYZ\0\0\0\x90\0\0\0\x14");
    profile.extend(b"XYZ \0\0\0\0");
    red.iter().for_each(|v| profile.extend(((v * 65536.0).round() as i32).to_be_bytes()));
    profile
}

#[test]
fn colours_that_are_not_like_srgb_give_a_warning() {
    let warnings = |extra: &[u8]| read(&small_png(extra)).unwrap().source.warnings;
    let icc = |profile: &[u8]| png_chunk(b"iCCP", &[b"name\0\0", &zlib(profile)[..]].concat());
    let numbers =
        |values: &[u32]| -> Vec<u8> { values.iter().flat_map(|v| v.to_be_bytes()).collect() };
    let srgb = numbers(&[31270, 32900, 64000, 33000, 30000, 60000, 15000, 6000]);
    let p3 = numbers(&[31270, 32900, 68000, 32000, 26500, 69000, 15000, 6000]);
    for (extra, words) in [
        (icc(&profile([0.515, 0.241, -0.001])), "wide-gamut colour profile"),
        (icc(b"........\0D\0i\0s\0p\0l\0a\0y\0 \0P\x003"), "Display P3 colour profile"),
        (png_chunk(b"cICP", &[9, 16, 0, 1]), "PQ"),
        (png_chunk(b"cICP", &[9, 18, 0, 1]), "HLG"),
        (png_chunk(b"cICP", &[12, 13, 0, 1]), "P3"),
        (png_chunk(b"cICP", &[9, 1, 0, 1]), "BT.2020"),
        (png_chunk(b"cHRM", &p3), "primary colours"),
        (png_chunk(b"gAMA", &numbers(&[100_000])), "gamma of 1.00"),
    ] {
        let found = warnings(&extra);
        assert!(found.len() == 1 && found[0].contains(words), "{words}: {found:?}");
        assert!(found[0].contains("taken as sRGB"), "{found:?}");
    }
    for extra in [
        icc(&profile([0.436, 0.2225, 0.0139])),
        png_chunk(b"cICP", &[1, 13, 0, 1]),
        png_chunk(b"cHRM", &srgb),
        png_chunk(b"gAMA", &numbers(&[45_455])),
        [png_chunk(b"sRGB", &[0]), png_chunk(b"cHRM", &p3)].concat(),
        [png_chunk(b"cICP", &[1, 13, 0, 1]), icc(&profile([0.6, 0.3, 0.0]))].concat(),
    ] {
        assert_eq!(warnings(&extra), [""; 0]);
    }
    let wide = riff_chunk(b"ICCP", &profile([0.6, 0.3, 0.0]));
    let file = riff(&[extended(0x20, 1, 1), wide, lossless(1, 1, &[9; 4])].concat());
    assert_eq!(read(&file).unwrap().source.warnings.len(), 1);
    let jpeg = small_jpeg();
    let segment = [b"ICC_PROFILE\0\x01\x01".to_vec(), profile([0.6, 0.3, 0.0])].concat();
    let length = (segment.len() as u16 + 2).to_be_bytes();
    let file = [&jpeg[..2], &[0xff, 0xe2], &length, &segment, &jpeg[2..]].concat();
    assert_eq!(read(&file).unwrap().source.warnings.len(), 1);
}
