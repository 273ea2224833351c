//! Small files that unpack to much: what they may cost.

use super::*;

/// Set in the process of its own that a measured test runs in.
const ALONE: &str = "ANYID_TEST_ALONE";

/// Runs a test of this module in a process of its own, where the peak of memory is its alone:
/// true in that process.
fn alone(test: &str) -> bool {
    if std::env::var_os(ALONE).is_some() {
        return true;
    }
    let output = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "--nocapture", "--test-threads=1"])
        .arg(format!("media::image::tests::bounds::{test}"))
        .env(ALONE, "1")
        .output()
        .unwrap();
    let words = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && words.contains("1 passed"), "{words}{errors}");
    false
}

/// Peak memory of this process in KiB; none where the system does not tell.
fn peak() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|line| line.starts_with("VmHWM:"))?;
    line.split_whitespace().nth(1)?.parse().ok()
}

/// A zlib stream of this many equal bytes.
fn zeros(megabytes: usize) -> Vec<u8> {
    let mut encoder = ZlibEncoder::new(Vec::new(), Compression::best());
    let block = vec![0; 1 << 20];
    (0..megabytes).for_each(|_| encoder.write_all(&block).unwrap());
    encoder.finish().unwrap()
}

/// The files: what is hidden in them and what reading gives.
fn bombs() -> Vec<(&'static str, Vec<u8>, &'static str)> {
    let bomb = zeros(600);
    let text = |kind: &[u8; 4], head: &[u8]| png_chunk(kind, &[head, &bomb].concat());
    let exif = b"Raw profile type exif\0\0";
    let xmp = b"XML:com.adobe.xmp\0\x01\0\0\0";
    let vast = |colour: u8, depth: u8| png_of(30_000, 30_000, depth, colour, &[], &[0]);
    let mut frames = b"GIF89a".to_vec();
    frames.extend([0xff, 0x3f, 0xff, 0x1f, 0x80, 0, 0, 0, 0, 0, 9, 9, 9]);
    let dot = b",\0\0\0\0\x01\0\x01\0\0\x02\x02\x44\x01\0";
    frames.extend(dot.repeat(20_000));
    let layer = b"GIF89a\x01\0\x01\0\x80\0\0\0\0\0\x09\x09\x09,\0\0\0\0\xff\xff\xff\xff\0\x02\x02\x44\x01\0";
    let mut data = small_png(&[]);
    data.truncate(data.len() - 12);
    let at = data.windows(4).position(|w| w == b"IDAT").unwrap() - 4;
    data.truncate(at);
    data.extend(png_chunk(b"IDAT", &bomb));
    data.extend(png_chunk(b"IEND", b""));
    let announced = png_chunk(b"acTL", &[0x7f, 0xff, 0xff, 0xff, 0, 0, 0, 0]);
    let control = png_chunk(b"fcTL", &[0; 26]);
    let mut jpeg = small_jpeg();
    let frame = jpeg.windows(2).position(|w| w == [0xff, 0xc0]).unwrap();
    jpeg[frame + 5..frame + 9].copy_from_slice(&[0x3f, 0xff, 0x2a, 0x00]);
    let mut webp = riff(&lossless(2, 2, &[7; 16]));
    webp[21..25].copy_from_slice(&[0xff, 0xff, 0xff, 0x0f]);
    let mut rle =
        b"BM\0\0\0\0\0\0\0\0\x36\x04\0\0\x28\0\0\0\xff\x3f\0\0\xff\x1f\0\0\x01\0\x08\0\x01"
            .to_vec();
    rle.resize(0x436, 0);
    rle.extend([255, 1, 0, 1]);
    vec![
        ("a colour profile", small_png(&text(b"iCCP", b"x\0\0")), "ok"),
        ("packed text", small_png(&text(b"zTXt", b"Comment\0\0")), "ok"),
        ("packed EXIF", small_png(&text(b"zTXt", exif)), "ok"),
        ("packed XMP", small_png(&text(b"iTXt", xmp)), "ok"),
        ("rows behind the picture", data, "ok"),
        ("a vast PNG", vast(6, 16), "E0806"),
        ("a vast grey PNG", vast(0, 1), "E0806"),
        ("frames without data", small_png(&[announced, control].concat()), "E0805"),
        ("many dots on a large GIF", frames, "E0830"),
        ("a large frame on a small GIF", layer.to_vec(), "E0806"),
        ("a JPEG of 176 million pixels without data", jpeg, "E0805"),
        ("a WebP of 268 million pixels without data", webp, "E0806"),
        ("a BMP of 134 million pixels without data", rle, "E0805"),
    ]
}

#[test]
fn small_files_that_unpack_to_much_stay_small() {
    if !alone("small_files_that_unpack_to_much_stay_small") {
        return;
    }
    let files = bombs();
    for (what, bytes, expected) in files {
        let before = peak();
        let found = read(&bytes).map_or_else(|error| error.code(), |_| "ok");
        assert_eq!(found, expected, "{what}");
        if let (Some(before), Some(after)) = (before, peak()) {
            println!("{what}: {} KiB", after - before);
            assert!(after - before < 100 << 10, "{what} took {} KiB", after - before);
        }
    }
    if peak().is_none() {
        println!("skipped in part: this system does not tell how much memory was used");
    }
}

#[test]
fn metadata_as_large_as_the_file_is_not_read() {
    if !alone("metadata_as_large_as_the_file_is_not_read") {
        return;
    }
    // Comments, applications' segments and unknown chunks of 200 MiB, in files that are sound.
    let folder = Folder::new();
    let jpeg = small_jpeg();
    let segment = [&[0xff, 0xec, 0xff, 0xff][..], &[0x5a; 0xfffd]].concat();
    let webp =
        |filler: Vec<u8>| riff(&[lossless(1, 1, &[9; 4]), riff_chunk(b"XXXX", &filler)].concat());
    let gif_head = b"GIF89a\x01\0\x01\0\x80\0\0\0\0\0\x09\x09\x09";
    let comment = [&b"!\xfe"[..], &[&[255][..], &[7; 255]].concat().repeat(200_000), &[0]].concat();
    let gif_tail = b",\0\0\0\0\x01\0\x01\0\0\x02\x02\x44\x01\0;";
    let files = [
        folder.file("jpeg", &[&jpeg[..2], &segment.repeat(800), &jpeg[2..]].concat()),
        folder.file("png", &small_png(&png_chunk(b"prIv", &vec![1; 50 << 20]))),
        folder.file("webp", &webp(vec![1; 50 << 20])),
        folder.file("gif", &[&gif_head[..], &comment, gif_tail].concat()),
    ];
    // The peak is that of making the files; reading them must not raise it.
    let before = peak();
    for path in files {
        read_clip(&path, &ReadOptions::default()).unwrap();
    }
    assert!(peak() <= before.map(|kib| kib + (8 << 10)), "{before:?} {:?}", peak());
}

#[test]
fn absurd_sizes_are_refused_before_decoding() {
    for (width, height) in [(60_000, 8), (8, 60_000), (0, 8), (8, 0), (16_384, 16_384)] {
        assert_eq!(code(&png_of(width, height, 8, 2, &[], &[0])), "E0806", "{width}x{height}");
    }
}

#[test]
fn damaged_bytes_of_every_format_never_panic() {
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as usize
    };
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/media/testdata/animations");
    let mut files: Vec<Vec<u8>> = ["00.gif", "03.gif", "00.png", "05.png", "00.webp", "04.webp"]
        .iter()
        .map(|name| std::fs::read(folder.join(name)).unwrap())
        .collect();
    files.push(small_jpeg());
    files.push(small_png(&png_chunk(b"eXIf", &exif(6))));
    for round in 0..3000 {
        let mut bytes = files[round % files.len()].clone();
        for _ in 0..1 + next() % 8 {
            let at = next() % bytes.len();
            bytes[at] = next() as u8;
        }
        if next() % 4 == 0 {
            bytes.truncate(next() % bytes.len());
        }
        if let Err(error) = read(&bytes).map(|_| ()) {
            assert!(error.code().starts_with("E08"), "{error}");
        }
    }
}
