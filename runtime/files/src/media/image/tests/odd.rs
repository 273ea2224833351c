//! Kinds of pixels, and files that viewers read although they are odd; and those that nobody can.

use super::*;

fn one_row(bytes: &[u8]) -> Vec<u8> {
    let clip = read(bytes).unwrap();
    assert_eq!((clip.kind, clip.fps, clip.frames.len()), (MediaKind::Image, None, 1));
    clip.frames[0].data.clone()
}

#[test]
fn every_png_colour_kind_becomes_rgb() {
    use ExtendedColorType as C;
    let row = |width: u32, data: &[u8], colour| {
        let mut bytes = Vec::new();
        png::PngEncoder::new(&mut bytes).write_image(data, width, 1, colour).unwrap();
        one_row(&bytes)
    };
    assert_eq!(row(2, &[7, 200], C::L8), [7, 7, 7, 200, 200, 200]);
    assert_eq!(row(2, &[200, 255, 200, 0], C::La8), [200, 200, 200, 0, 0, 0]);
    assert_eq!(row(1, &[250, 100, 50, 128], C::Rgba8), [125, 50, 25]);
    let wide =
        |values: &[u16]| -> Vec<u8> { values.iter().flat_map(|v| v.to_ne_bytes()).collect() };
    let grey = [255, 255, 255, 77, 77, 77];
    assert_eq!(row(2, &wide(&[65535, 257 * 77]), C::L16), grey);
    assert_eq!(row(1, &wide(&[257, 514, 65535]), C::Rgb16), [1, 2, 255]);
    assert_eq!(row(1, &wide(&[257, 514, 65535, 0]), C::Rgba16), [0, 0, 0]);
}

#[test]
fn palettes_and_single_transparent_colours_of_a_png_are_looked_up() {
    let palette = png_chunk(b"PLTE", &[10, 20, 30, 40, 50, 60]);
    let alpha = png_chunk(b"tRNS", &[128, 255, 7, 7, 7]);
    let extra = [palette.clone(), alpha].concat();
    assert_eq!(one_row(&png_of(2, 1, 1, 3, &extra, &[0, 0x40])), [5, 10, 15, 40, 50, 60]);
    assert_eq!(one_row(&png_of(2, 1, 2, 3, &palette, &[0, 0x10])), [10, 20, 30, 40, 50, 60]);
    let shade = png_chunk(b"tRNS", &[0, 3]);
    assert_eq!(one_row(&png_of(2, 1, 2, 0, &shade, &[0, 0xe0])), [0, 0, 0, 170, 170, 170]);
    let exact = png_chunk(b"tRNS", &[0x12, 0x34]);
    let row = [0, 0x12, 0x34, 0x12, 0x35];
    assert_eq!(one_row(&png_of(2, 1, 16, 0, &exact, &row)), [0, 0, 0, 18, 18, 18]);
    // A transparency of the wrong length, or beside an alpha channel, means nothing.
    let odd = png_chunk(b"tRNS", &[1]);
    assert_eq!(one_row(&png_of(1, 1, 8, 0, &odd, &[0, 9])), [9; 3]);
    assert_eq!(one_row(&png_of(1, 1, 8, 4, &shade, &[0, 9, 255])), [9; 3]);
}

#[test]
fn damage_that_touches_no_pixel_does_not_cost_a_png() {
    let right = [255, 0, 0, 0, 255, 0];
    let mut text = png_chunk(b"tEXt", b"Comment\0hello");
    let end = text.len();
    text[end - 1] ^= 1;
    assert_eq!(one_row(&small_png(&text)), right);
    for odd in [png_chunk(b"iCCP", b"no end"), png_chunk(b"gAMA", &[1]), png_chunk(b"zTXt", b"")] {
        assert_eq!(one_row(&small_png(&odd)), right);
    }
    let whole = small_png(&[]);
    assert_eq!(one_row(&whole[..whole.len() - 12]), right, "without its end mark");
    assert_eq!(one_row(&[&whole[..], b"and more"].concat()), right);
}

#[test]
fn damage_of_pixels_is_named() {
    let whole = small_png(&[]);
    for keep in 9..whole.len() - 12 {
        assert_eq!(code(&whole[..keep]), "E0805", "{keep} of {}", whole.len());
    }
    for at in 16..whole.len() - 12 {
        let mut bytes = whole.clone();
        bytes[at] ^= 0x10;
        assert!(matches!(code(&bytes), "E0805" | "E0806"), "byte {at}");
    }
    let palette = [png_chunk(b"PLTE", &[1, 2, 3, 4]), Vec::new()].concat();
    assert_eq!(code(&png_of(1, 1, 8, 3, &palette, &[0, 0])), "E0805");
    assert_eq!(code(&png_of(1, 1, 8, 3, &[], &[0, 0])), "E0805");
    assert_eq!(code(&png_of(1, 1, 3, 0, &[], &[0, 0])), "E0805");
    let webp = riff(&lossless(2, 2, &[7; 16]));
    assert_eq!(code(&webp[..webp.len() - 3]), "E0805");
    let mut other = riff(&[extended(0x10, 3, 2), lossless(2, 2, &[7; 16])].concat());
    assert_eq!(code(&other), "E0805");
    other.truncate(14);
    assert_eq!(code(&other), "E0805");
}

#[test]
fn cut_off_jpegs_are_refused() {
    let bytes = small_jpeg();
    for keep in [bytes.len() - 2, bytes.len() / 2, 30, 3] {
        assert_eq!(code(&bytes[..keep]), "E0805", "{keep} bytes");
    }
    // The end mark alone does not make it whole.
    let scan = bytes.windows(2).position(|w| w == [0xff, 0xda]).unwrap();
    let header = 2 + usize::from(u16::from_be_bytes([bytes[scan + 2], bytes[scan + 3]]));
    let cut = [&bytes[..scan + header + 4], &[0xff, 0xd9]].concat();
    assert_eq!(code(&cut), "E0805");
}

#[test]
fn what_stands_beside_the_picture_of_a_jpeg_does_not_matter() {
    let bytes = small_jpeg();
    let right = one_row(&bytes);
    let insert = |segment: &[u8]| [&bytes[..2], segment, &bytes[2..]].concat();
    // A thumbnail in a segment, a comment, fill bytes, an application's segment.
    let thumbnail = [&[0xff, 0xe1], &(bytes.len() as u16 + 2).to_be_bytes()[..], &bytes].concat();
    assert_eq!(one_row(&insert(&thumbnail)), right);
    assert_eq!(one_row(&insert(b"\xff\xfe\0\x05abc")), right);
    assert_eq!(one_row(&insert(b"\xff\xff\xff\xed\0\x02")), right);
    // More pictures behind the first, as cameras write them, or something else.
    assert_eq!(one_row(&[&bytes[..], &bytes].concat()), right);
    assert_eq!(one_row(&[&bytes[..], b"trailing words \xff\xd8\xff"].concat()), right);
}

#[test]
fn kinds_of_jpeg_that_are_not_decoded_are_named() {
    let bytes = small_jpeg();
    let frame = bytes.windows(2).position(|w| w == [0xff, 0xc0]).unwrap();
    let change = |at: usize, value: u8| {
        let mut bytes = bytes.clone();
        bytes[frame + at] = value;
        let error = read(&bytes).unwrap_err();
        (error.code(), error.message().to_string())
    };
    for (at, value, words) in [
        (4, 12, "12 bits"),
        (1, 0xc3, "lossless"),
        (1, 0xc9, "arithmetic"),
        (1, 0xc5, "hierarchical"),
        (9, 2, "2 colour components"),
    ] {
        let (code, message) = change(at, value);
        assert!(code == "E0831" && message.contains(words), "{code} {message}");
    }
}

#[test]
fn the_colours_of_jpeg_components_follow_libjpegs_rules() {
    let bytes = small_jpeg();
    // The encoder writes a JFIF segment; with it a file is Y, Cb, Cr whatever else it says.
    let start = 2;
    let length = usize::from(u16::from_be_bytes([bytes[4], bytes[5]]));
    assert_eq!(&bytes[start + 4..start + 8], b"JFIF");
    let bare = [&bytes[..2], &bytes[start + 2 + length..]].concat();
    let adobe = |transform: u8| [&b"\xff\xee\0\x0eAdobe\0\x64\0\0\0\0"[..], &[transform]].concat();
    let with = |base: &[u8], transform: u8| {
        let at = if base == bytes { 2 + 2 + length } else { 2 };
        one_row(&[&base[..at], &adobe(transform), &base[at..]].concat())
    };
    let right = one_row(&bytes);
    assert_eq!(one_row(&bare), right);
    assert_eq!(with(&bytes, 0), right);
    assert_eq!(with(&bare, 1), right);
    assert_eq!(with(&bare, 77), right);
    // As RGB the neutral chroma of 128 shows.
    let rgb = with(&bare, 0);
    assert!(
        rgb[0] > 250 && rgb[1].abs_diff(128) < 3 && rgb[2].abs_diff(128) < 3,
        "{:?}",
        &rgb[..3]
    );
}

#[test]
fn bmp_files_of_every_depth_are_read() {
    let bmp = |depth: u16, compression: u32, height: i32, masks: &[u32], data: &[u8]| {
        let mut file = b"BM".to_vec();
        let size = if masks.len() > 3 { 56u32 } else { 40 };
        let offset = 14 + size + if masks.len() == 3 { 12 } else { 0 };
        file.extend([0; 8]);
        file.extend(offset.to_le_bytes());
        file.extend(size.to_le_bytes());
        file.extend(1u32.to_le_bytes());
        file.extend(height.to_le_bytes());
        file.extend([1, 0]);
        file.extend(depth.to_le_bytes());
        file.extend(compression.to_le_bytes());
        file.extend([0; 20]);
        masks.iter().for_each(|mask| file.extend(mask.to_le_bytes()));
        file.extend(data);
        file
    };
    let rows = [3, 2, 1, 0, 6, 5, 4, 0];
    assert_eq!(one_row(&bmp(24, 0, 2, &[], &rows)), [4, 5, 6, 1, 2, 3]);
    assert_eq!(one_row(&bmp(24, 0, -2, &[], &rows)), [1, 2, 3, 4, 5, 6]);
    // Without masks the fourth byte is padding.
    assert_eq!(one_row(&bmp(32, 0, 1, &[], &[3, 2, 1, 9])), [1, 2, 3]);
    assert_eq!(one_row(&bmp(16, 0, 1, &[], &[0xff, 0x7c, 0, 0])), [255, 58, 255]);
    let masks = [0xf800, 0x7e0, 0x1f];
    assert_eq!(one_row(&bmp(16, 3, 1, &masks, &[0x1f, 0xf8, 0, 0])), [255, 0, 255]);
    let masks = [0xff, 0xff00, 0xff_0000, 0xff00_0000];
    assert_eq!(one_row(&bmp(32, 3, 1, &masks, &[250, 100, 50, 128])), [125, 50, 25]);
    assert_eq!(code(&bmp(24, 0, 2, &[], &rows[..6])), "E0805");
    assert_eq!(code(&bmp(24, 4, 1, &[], &rows)), "E0831");
    let mut bytes = Vec::new();
    bmp::BmpEncoder::new(&mut bytes)
        .write_image(&[9, 8, 7], 1, 1, ExtendedColorType::Rgb8)
        .unwrap();
    assert_eq!(one_row(&bytes), [9, 8, 7]);
}

#[test]
fn a_webp_says_by_its_flag_whether_it_has_transparency() {
    let stream = lossless(1, 1, &[200, 100, 50, 128]);
    assert_eq!(one_row(&riff(&stream)), [100, 50, 25]);
    assert_eq!(one_row(&riff(&[extended(0x10, 1, 1), stream.clone()].concat())), [100, 50, 25]);
    assert_eq!(one_row(&riff(&[extended(0, 1, 1), stream].concat())), [200, 100, 50]);
}
