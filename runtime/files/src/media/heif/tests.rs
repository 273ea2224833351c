//! Pictures as phones and libraries write them, and files that are made to mislead.

use super::super::testing::Folder;
use super::*;
use crate::media::{Clip, read_clip};

/// 2x2 tiles of 64x64, as phones write them, and the whole as a PNG.
const GRID: &[u8] = include_bytes!("../testdata/grid.heic");
const WHOLE: &[u8] = include_bytes!("../testdata/grid.png");
/// 64x48 with a white corner and four quarters: red, green, blue, yellow; stored turned.
const TURNED_HEIC: &[u8] = include_bytes!("../testdata/turned.heic");
const TURNED_AVIF: &[u8] = include_bytes!("../testdata/turned.avif");
/// 96x64, opacity rising from the left.
const TRANSPARENT: &[u8] = include_bytes!("../testdata/transparent.avif");
/// 24x16, five frames of 100, 100, 200, 100 and 100 milliseconds.
const SEQUENCE: &[u8] = include_bytes!("../testdata/sequence.avif");

fn open<'a>(path: &'a Path, options: &'a ReadOptions) -> Heif<'a> {
    let file = File::open(path).unwrap();
    let length = file.metadata().unwrap().len();
    Heif { path, name: "a HEIC picture", file, length, options, warnings: Vec::new() }
}

fn meta_of(bytes: &[u8]) -> Vec<u8> {
    let folder = Folder::new();
    let path = folder.file("x", bytes);
    open(&path, &ReadOptions::default()).top().unwrap().meta.unwrap()
}

fn read(bytes: &[u8]) -> Option<Clip> {
    let folder = Folder::new();
    if ffmpeg::find().is_none() {
        println!("skipped: no ffmpeg on the PATH");
        return None;
    }
    match read_clip(&folder.file("x.jpg", bytes), &ReadOptions::default()) {
        Ok(clip) => Some(clip),
        // Some builds of ffmpeg decode no AV1.
        Err(error) if error.code() == "E0811" && error.message().contains("AVIF") => {
            println!("skipped: {error}");
            None
        }
        Err(error) => panic!("{error}"),
    }
}

fn code(bytes: &[u8]) -> &'static str {
    let folder = Folder::new();
    let error = read_clip(&folder.file("x", bytes), &ReadOptions::default()).unwrap_err();
    assert!(error.place().is_some() && error.help_text().is_some(), "{error}");
    error.code()
}

fn pixel(clip: &Clip, x: usize, y: usize) -> [u8; 3] {
    let frame = &clip.frames[0];
    frame.data[(y * frame.width + x) * 3..][..3].try_into().unwrap()
}

fn near(a: [u8; 3], b: [u8; 3]) -> bool {
    a.iter().zip(b).all(|(a, b)| a.abs_diff(b) < 16)
}

#[test]
fn grids_are_described_by_the_file_itself() {
    let content = meta_of(GRID);
    let meta = Meta::parse(&content).unwrap();
    let id = meta.primary.unwrap();
    let item = &meta.items[&id];
    assert_eq!(&item.kind, b"grid");
    assert!(item.properties.iter().any(|(p, _)| **p == Property::Size(128, 128)), "{item:?}");
    assert_eq!(meta.targets(id, b"dimg").len(), 4);
}

#[test]
fn a_grid_comes_out_whole() {
    let Some(clip) = read(GRID) else { return };
    assert_eq!((clip.kind, clip.frames.len()), (MediaKind::Image, 1));
    let folder = Folder::new();
    let whole = read_clip(&folder.file("x", WHOLE), &ReadOptions::default()).unwrap();
    let (ours, right) = (&clip.frames[0], &whole.frames[0]);
    assert_eq!((ours.width, ours.height), (right.width, right.height));
    let far =
        ours.data.iter().zip(&right.data).map(|(a, b)| u64::from(a.abs_diff(*b))).sum::<u64>();
    assert!((far as f64) < 3.0 * ours.data.len() as f64, "{far}");
}

#[test]
fn pictures_stand_the_right_way_up() {
    // A quarter turn with the clock: the white corner is at the top right.
    if let Some(clip) = read(TURNED_HEIC) {
        assert_eq!((clip.source.width, clip.source.height), (48, 64));
        assert!(near(pixel(&clip, 44, 3), [255; 3]), "{:?}", pixel(&clip, 44, 3));
        assert!(near(pixel(&clip, 12, 16), [40, 40, 220]), "{:?}", pixel(&clip, 12, 16));
        assert!(near(pixel(&clip, 36, 48), [40, 200, 40]), "{:?}", pixel(&clip, 36, 48));
    }
    // Mirrored along the diagonal: the white corner stays.
    if let Some(clip) = read(TURNED_AVIF) {
        assert_eq!((clip.kind, clip.frames.len()), (MediaKind::Image, 1));
        assert_eq!((clip.source.width, clip.source.height), (48, 64));
        assert!(near(pixel(&clip, 3, 3), [255; 3]), "{:?}", pixel(&clip, 3, 3));
        assert!(near(pixel(&clip, 36, 16), [40, 40, 220]), "{:?}", pixel(&clip, 36, 16));
        assert!(near(pixel(&clip, 12, 48), [40, 200, 40]), "{:?}", pixel(&clip, 12, 48));
    }
}

#[test]
fn transparent_pictures_are_before_black() {
    let Some(clip) = read(TRANSPARENT) else { return };
    assert_eq!((clip.source.width, clip.source.height), (96, 64));
    // Fully transparent at the left, whatever lies under it; opaque at the right: 180, 96, 122.
    assert!(near(pixel(&clip, 8, 32), [0; 3]), "{:?}", pixel(&clip, 8, 32));
    assert!(near(pixel(&clip, 90, 32), [180, 96, 122]), "{:?}", pixel(&clip, 90, 32));
}

#[test]
fn a_sequence_is_a_clip_with_its_times() {
    let Some(clip) = read(SEQUENCE) else { return };
    assert_eq!((clip.kind, clip.frames.len()), (MediaKind::Video, 5));
    assert_eq!((clip.source.width, clip.source.height), (24, 16));
    assert!((clip.fps.unwrap() - 5.0 / 0.6).abs() < 0.01, "{:?}", clip.fps);
}

/// The bytes of `file` with the first `from` replaced.
fn change(file: &[u8], from: &[u8], to: &[u8]) -> Vec<u8> {
    let mut bytes = file.to_vec();
    let at = bytes.windows(from.len()).position(|w| w == from).unwrap();
    bytes[at..at + to.len()].copy_from_slice(to);
    bytes
}

#[test]
fn what_cannot_be_shown_whole_is_refused() {
    let overlay = change(GRID, b"grid\0", b"iovl\0");
    assert_eq!(code(&overlay), "E0840");
    // A grid that says it has more rows than there are tiles.
    let content = meta_of(GRID);
    let meta = Meta::parse(&content).unwrap();
    let item = &meta.items[&meta.primary.unwrap()];
    let folder = Folder::new();
    let path = folder.file("x", GRID);
    let options = ReadOptions::default();
    let data = open(&path, &options).data(&meta, item).unwrap();
    assert_eq!((data[2], data[3]), (1, 1));
    let mut taller = data.clone();
    taller[2] = 2;
    assert_eq!(code(&change(GRID, &data, &taller)), "E0840");
    let mut huge = data.clone();
    huge[4..8].copy_from_slice(&[0xff; 4]);
    assert_eq!(code(&change(GRID, &data, &huge)), "E0806");
    // An unknown property that a reader must know.
    let mut unknown = meta.clone();
    let item = unknown.items.get_mut(&meta.primary.unwrap()).unwrap();
    item.properties.push((Property::Other(*b"lsel").into(), true));
    let refused = open(&path, &options).picture(&unknown, meta.primary.unwrap()).unwrap_err();
    assert!(refused.code() == "E0840" && refused.message().contains("lsel"), "{refused}");
    // Tiles in another file, or turned one by one.
    let mut elsewhere = meta.clone();
    let tile = meta.targets(meta.primary.unwrap(), b"dimg")[1];
    elsewhere.items.get_mut(&tile).unwrap().location.elsewhere = true;
    let refused = open(&path, &options).picture(&elsewhere, meta.primary.unwrap()).unwrap_err();
    assert_eq!(refused.code(), "E0840");
    let mut turned = meta.clone();
    turned.items.get_mut(&tile).unwrap().properties.push((Property::Rotation(1).into(), true));
    let refused = open(&path, &options).picture(&turned, meta.primary.unwrap()).unwrap_err();
    assert_eq!(refused.code(), "E0840");
}

#[test]
fn a_tile_of_another_size_than_it_says_is_refused() {
    if ffmpeg::find().is_none() {
        println!("skipped: no ffmpeg on the PATH");
        return;
    }
    let content = meta_of(GRID);
    let mut meta = Meta::parse(&content).unwrap();
    for item in meta.items.values_mut() {
        for (property, _) in &mut item.properties {
            if **property == Property::Size(64, 64) {
                *property = Property::Size(64, 96).into();
            }
        }
    }
    let folder = Folder::new();
    let path = folder.file("x", GRID);
    let options = ReadOptions::default();
    let refused = open(&path, &options).picture(&meta, meta.primary.unwrap()).unwrap_err();
    assert_eq!(refused.code(), "E0840");
}

#[test]
fn damaged_files_are_named_as_such() {
    assert_eq!(code(&change(GRID, b"pitm", b"xxxx")), "E0808");
    assert_eq!(code(&change(GRID, b"meta", b"free")), "E0808");
    assert_eq!(code(&GRID[..GRID.len() - 200]), "E0810");
    // Any cut and any changed byte of the description is an error or a picture, never a panic.
    let content = meta_of(GRID);
    for end in 0..content.len() {
        let _ = Meta::parse(&content[..end]);
    }
    for at in 0..content.len() {
        for value in [0, 1, 0x7f, 0xff] {
            let mut bytes = content.clone();
            bytes[at] = value;
            let _ = Meta::parse(&bytes);
        }
    }
}

#[test]
fn counts_out_of_nothing_are_refused() {
    // A list of places whose pieces have fields of no bytes: 65,535 pieces in each of 65,535 items.
    let mut places = vec![1, 0, 0, 0, 0, 0, 0xff, 0xff];
    for id in 0..0xffffu16 {
        places.extend(id.to_be_bytes());
        places.extend([0, 0, 0, 0, 0xff, 0xff]);
    }
    let mut content = vec![0; 4];
    content.extend((places.len() as u32 + 8).to_be_bytes());
    content.extend(b"iloc");
    content.extend(&places);
    assert!(Meta::parse(&content).is_none());
}

#[test]
fn profiles_of_phones_are_known_by_name() {
    let wide: Vec<u8> = b"Display P3".iter().flat_map(|byte| [0, *byte]).collect();
    let profile = |name: &[u8]| Item {
        properties: vec![(Property::Profile([b"....", name, b"...."].concat()).into(), false)],
        ..Item::default()
    };
    assert_eq!(colours(&profile(b"Display P3")).primaries, 12);
    assert_eq!(colours(&profile(&wide)).primaries, 12);
    assert_eq!(colours(&profile(b"sRGB IEC61966")), ColourTags::default());
    let mut both = profile(b"Display P3");
    both.properties.insert(0, (Property::Colour(1, 13, 6, true).into(), false));
    let tags = ColourTags { primaries: 1, transfer: 13, matrix: 6, full_range: Some(true) };
    assert_eq!(colours(&both), tags);
}
