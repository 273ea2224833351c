//! Texts that others wrote, texts that we write, and files that mean harm.

use super::*;
use crate::media::writer::{VideoWriter, WriterOptions};
use crate::media::{ReadOptions, read_clip};
use crate::testing::{TempFolder, formats};
use std::path::PathBuf;

fn texts(path: &Path) -> Texts {
    read(path, false).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

fn pairs(texts: &Texts) -> Vec<(&str, &str)> {
    texts.list.iter().map(|text| (text.key.as_str(), text.text.as_str())).collect()
}

#[test]
fn texts_of_other_programs_are_read() {
    let folder = formats().join("media");
    let expected = std::fs::read_to_string(folder.join("expected.json")).unwrap();
    let expected: serde_json::Value = serde_json::from_str(&expected).unwrap();
    let json = |text: &str| serde_json::from_str::<serde_json::Value>(text).unwrap();
    for (name, tags) in expected["mp4"].as_object().unwrap() {
        let found = texts(&folder.join(name));
        for (key, text) in tags.as_object().unwrap() {
            assert_eq!(found.get(key), text.as_str(), "{name}: {key}");
        }
        assert!(found.warnings.is_empty(), "{:?}", found.warnings);
    }
    assert!(texts(&folder.join("plain.mp4")).get(COMMENT).is_none());
    let comfy = texts(&folder.join("comfy.png"));
    assert_eq!(json(comfy.get("prompt").unwrap()), expected["prompt"]);
    assert_eq!(comfy.get("workflow"), Some("{\"nodes\": []}"));
    let ours = texts(&folder.join("itxt_compressed.png"));
    assert_eq!(json(ours.get(KEY).unwrap()), expected["recipe"]);
    let gif = texts(&folder.join("comment.gif"));
    assert_eq!(gif.get(COMMENT), expected["gif_comment"].as_str());
    let a1111 = texts(&folder.join("a1111_ascii.png"));
    assert!(a1111.get(PARAMETERS).unwrap().contains("\nNegative prompt: blurry"));
}

fn inscription() -> Inscription {
    // Longer than a sub-block of GIF, outside of ASCII and of the first plane, and with what has to be escaped.
    let json =
        format!("{{\"prompt\":\"{} = ; # \\\\ \\n \u{fc} \u{1f3d6} '\"}}", "walk ".repeat(90));
    Inscription { json, parameters: "a walk \u{fc}\nSteps: 3, Seed: 1".to_owned() }
}

/// Writes five frames under this name, with the inscription or without.
fn write(path: &Path, what: Option<Inscription>) {
    let mut writer = VideoWriter::create(path, 64, 48, 24.0, &WriterOptions::default()).unwrap();
    if let Some(what) = what {
        writer.inscribe(what).unwrap();
    }
    for t in 0..5usize {
        let frame: Vec<u8> = (0..64 * 48 * 3).map(|at| ((at / 7 + 13 * t) % 200) as u8).collect();
        writer.push(&frame).unwrap();
    }
    let late = writer.inscribe(inscription()).unwrap_err();
    assert_eq!(late.code(), "E0825");
    writer.finish().unwrap();
}

fn value(text: &str) -> serde_json::Value {
    serde_json::from_str(text).unwrap_or_else(|e| panic!("{e}: {text}"))
}

#[test]
fn what_a_result_says_is_read_again_and_changes_no_pixel() {
    let folder = TempFolder::new();
    let keyed = value(&inscription().keyed());
    for name in ["a.mp4", "a.gif", "a/"] {
        let (bare, with) = (folder.path().join(format!("bare{name}")), folder.path().join(name));
        write(&bare, None);
        write(&with, Some(inscription()));
        let first = |path: PathBuf| if name == "a/" { path.join("frame_00003.png") } else { path };
        let (bare, with) = (first(bare), first(with));
        let found = texts(&with);
        assert!(found.warnings.is_empty(), "{name}: {:?}", found.warnings);
        match name {
            "a/" => {
                assert_eq!(value(found.get(KEY).unwrap()), value(&inscription().json));
                assert_eq!(found.get(PARAMETERS), Some(&*inscription().parameters));
            }
            _ => assert_eq!(value(found.get(COMMENT).unwrap()), keyed, "{name}"),
        }
        if name == "a.mp4" {
            assert_eq!(found.get(KEY), found.get(COMMENT));
        }
        assert!(texts(&bare).list.is_empty(), "{name}");
        let clip = |path: &Path| read_clip(path, &ReadOptions::default()).unwrap();
        let (bare, with) = (clip(&bare), clip(&with));
        assert!(bare.frames == with.frames && bare.fps == with.fps, "{name}");
        assert_eq!(bare.source.warnings, with.source.warnings);
    }
    write(&folder.path().join("again.mp4"), Some(inscription()));
    let bytes = |name: &str| std::fs::read(folder.path().join(name)).unwrap();
    assert!(bytes("a.mp4") == bytes("again.mp4"), "the same file twice differs");
}

#[test]
fn ffmpeg_reads_what_we_write_and_writes_it_in_its_own_forms() {
    let Some(program) = ffmpeg::find() else {
        println!("skipped: no ffmpeg on the PATH");
        return;
    };
    let folder = TempFolder::new();
    let keyed = value(&inscription().keyed());
    let path = folder.path().join("a.mp4");
    write(&path, Some(inscription()));
    let mut found = Vec::new();
    ffmpeg::texts(&program, &path, "mov", 1 << 20, &mut |key, text| {
        let text: serde_json::Value = serde_json::from_slice(text).unwrap_or_default();
        found.push((key.to_owned(), text));
    })
    .unwrap_or_else(|e| panic!("{e}"));
    found.retain(|(_, text)| *text == keyed);
    let keys: Vec<&str> = found.iter().map(|(key, _)| key.as_str()).collect();
    assert!(keys.contains(&COMMENT) && keys.contains(&KEY), "{keys:?}");
    for name in ["a.mkv", "a.webm", "a.mov"] {
        let path = folder.path().join(name);
        write(&path, Some(inscription()));
        let found = read(&path, true).unwrap();
        let text = found.get(COMMENT).unwrap_or_else(|| panic!("{name}: {:?}", found.list));
        assert_eq!(value(text), keyed, "{name}");
        assert_eq!(folder.names().iter().filter(|n| n.contains("tags")).count(), 0);
    }
    assert!(read(&folder.path().join("a.mkv"), false).unwrap().list.is_empty());
}

/// A PNG file of these chunks, between its first and its last.
fn png(chunks: &[(&[u8; 4], &[u8])]) -> Vec<u8> {
    let mut out = b"\x89PNG\r\n\x1a\n".to_vec();
    for (name, body) in
        [(b"IHDR", &[0u8; 13][..])].iter().chain(chunks).chain(&[(b"IEND", &[][..])])
    {
        let whole = [&name[..], body].concat();
        out.extend((body.len() as u32).to_be_bytes());
        out.extend(&whole);
        let mut crc = flate2::Crc::new();
        crc.update(&whole);
        out.extend(crc.sum().to_be_bytes());
    }
    out
}

fn packed(bytes: &[u8]) -> Vec<u8> {
    use std::io::Write;
    let mut out = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::best());
    out.write_all(bytes).unwrap();
    out.finish().unwrap()
}

#[test]
fn texts_of_pictures_that_are_none_are_left_out_with_a_warning() {
    let folder = TempFolder::new();
    let bomb = [b"b\0\0", &packed(&vec![b'x'; 2 << 20])[..]].concat();
    let good =
        png(&[(b"tEXt", b"a\0caf\xe9"), (b"zTXt", &[b"z\0\0", &packed(b"deep")[..]].concat())]);
    assert_eq!(pairs(&texts(&folder.write("good", &good))), [("a", "caf\u{e9}"), ("z", "deep")]);
    let fits = [b"b\0\0", &packed(&vec![b'x'; 1 << 20])[..]].concat();
    let whole = texts(&folder.write("fits", png(&[(b"zTXt", &fits)])));
    assert_eq!(whole.get("b").map(str::len), Some(1 << 20));
    for (name, bytes, why) in [
        ("bomb", png(&[(b"zTXt", &bomb)]), "unpacks to more than 1 MiB"),
        ("long", png(&[(b"tEXt", &vec![b'x'; (1 << 20) + 1])]), "more than 1 MiB"),
        ("utf8", png(&[(b"iTXt", b"anyid\0\0\0\0\0\xff\xfe")]), "not UTF-8 (byte 0)"),
        ("key", png(&[(b"tEXt", b"no end")]), "no end of its key"),
        ("method", png(&[(b"zTXt", b"a\0\x07xx")]), "unknown way"),
        ("short", png(&[(b"iTXt", b"a\0\0")]), "ends before its text"),
        ("cut", good[..60].to_vec(), "cut off there"),
        (
            "sum",
            {
                let mut bytes = good.clone();
                bytes[44] ^= 1;
                bytes
            },
            "checksum is wrong",
        ),
    ] {
        let found = texts(&folder.write(name, bytes));
        let said = found.warnings.iter().any(|warning| warning.contains(why));
        assert!(said, "{name}: {:?} {:?}", found.warnings, pairs(&found).len());
    }
}

#[test]
fn texts_that_are_too_many_or_cut_off_end() {
    let folder = TempFolder::new();
    let many: Vec<(&[u8; 4], &[u8])> = vec![(b"tEXt", b"a\0b"); COUNT + 5];
    let found = texts(&folder.write("many", png(&many)));
    assert_eq!((found.list.len(), found.warnings.len()), (COUNT, 1));
    // A comment without an end, and one that is longer than what is read.
    let screen = b"GIF89a\x01\0\x01\0\0\0\0";
    let endless = [&screen[..], b"\x21\xfe\x03abc"].concat();
    assert!(texts(&folder.write("endless", endless)).warnings[0].contains("cut off"));
    let mut long = screen.to_vec();
    long.extend(b"\x21\xfe");
    for _ in 0..TOTAL / 255 + 2 {
        long.push(255);
        long.extend([b'x'; 255]);
    }
    long.extend(b"\0\x21\xfe\x02ok\0\x3b");
    let found = texts(&folder.write("long", long));
    assert_eq!((pairs(&found), found.warnings.len()), (vec![(COMMENT, "ok")], 1));
}

fn atom(name: &[u8; 4], body: &[u8]) -> Vec<u8> {
    [&(body.len() as u32 + 8).to_be_bytes()[..], name, body].concat()
}

#[test]
fn tags_of_clips_in_every_form() {
    let folder = TempFolder::new();
    let data =
        |kind: u32, text: &[u8]| atom(b"data", &[&kind.to_be_bytes()[..], &[0; 4], text].concat());
    let meta = |parts: &[Vec<u8>]| atom(b"meta", &[&[0; 4][..], &parts.concat()].concat());
    let file = |inner: &[u8]| [atom(b"ftyp", b"isom"), atom(b"moov", inner)].concat();
    let list = |items: &[Vec<u8>]| atom(b"ilst", &items.concat());
    let handler = atom(b"hdlr", &[0; 25]);
    let free =
        [atom(b"mean", b"\0\0\0\0com"), atom(b"name", b"\0\0\0\0own"), data(1, b"free")].concat();
    let wide = data(2, &[0, b'h', 0, b'i']);
    let items = [
        atom(b"\xa9cmt", &data(1, b"said")),
        atom(b"----", &free),
        atom(b"\xa9nam", &wide),
        atom(b"covr", &data(13, b"\xff\xd8")),
        atom(b"\xa9day", &data(1, b"\xff")),
    ];
    let path = folder.write("ilst", file(&atom(b"udta", &meta(&[handler.clone(), list(&items)]))));
    let found = texts(&path);
    assert_eq!(pairs(&found), [(COMMENT, "said"), ("own", "free"), ("title", "hi")]);
    assert!(found.warnings[0].contains("day` of the file is left out: it is not UTF-8"));
    // QuickTime: a list without a version, and a tag of its own.
    let plain = atom(b"meta", &[handler.clone(), list(&items[..1])].concat());
    let own = atom(b"\xa9cmt", b"\0\x03\0\0old!!");
    let path = folder.write("mov", file(&[atom(b"udta", &own), plain].concat()));
    assert_eq!(pairs(&texts(&path)), [(COMMENT, "old"), (COMMENT, "said")]);
    // Numbers that no key has are no tags.
    let keys = atom(b"keys", &[&[0, 0, 0, 0, 0, 0, 0, 9][..], &atom(b"mdta", b"prompt")].concat());
    let numbered = |number: u32| atom(&number.to_be_bytes(), &data(1, b"{}"));
    let items = [numbered(0), numbered(1), numbered(2), numbered(u32::MAX)];
    let path = folder.write("mdta", file(&meta(&[handler, keys, list(&items)])));
    assert_eq!(pairs(&texts(&path)), [("prompt", "{}")]);
    let uuid = |text: &[u8]| atom(b"uuid", &[&[7; 16][..], text].concat());
    let both = [file(&uuid(b"{\"a\":1}\0\0")), uuid(b"binary"), uuid(b"")].concat();
    assert_eq!(pairs(&texts(&folder.write("uuid", both))), [("uuid", "{\"a\":1}")]);
    // A claim of more than is read, in a file that has it as a hole.
    let path = folder.write("hole", file(&[]));
    let huge = 40u32 << 20;
    let mut bytes = atom(b"ftyp", b"isom");
    bytes.extend((huge + 8).to_be_bytes());
    bytes.extend(b"moov");
    bytes.extend(huge.to_be_bytes());
    bytes.extend(b"udta");
    std::fs::write(&path, &bytes).unwrap();
    let hole = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
    hole.set_len(bytes.len() as u64 + u64::from(huge)).unwrap();
    assert!(texts(&path).warnings[0].contains("more than 16 MiB"));
}

#[test]
fn the_packet_of_webp_has_the_settings_of_stable_diffusion_cpp() {
    let folder = TempFolder::new();
    let file = |packet: &str| {
        let mut body = b"WEBPVP8 \x01\0\0\0x\0XMP ".to_vec();
        body.extend((packet.len() as u32).to_le_bytes());
        body.extend(packet.as_bytes());
        [b"RIFF", &(body.len() as u32).to_le_bytes()[..], &body].concat()
    };
    for packet in [
        "<x sdcpp:parameters=\"a &lt;b&gt; &#x26; &amp;&#10;Steps: 1 &nothing;\"/>",
        "<sdcpp:parameters>a &lt;b&gt; &#38; &amp;\nSteps: 1 &nothing;</sdcpp:parameters>",
    ] {
        let found = texts(&folder.write("a.webp", file(packet)));
        assert_eq!(found.get(PARAMETERS), Some("a <b> & &\nSteps: 1 &nothing;"));
    }
    for packet in ["<x/>", "sdcpp:parameters", "sdcpp:parameters=\"open", "sdcpp:parameters="] {
        assert!(texts(&folder.write("a.webp", file(packet))).list.is_empty(), "{packet}");
    }
}

#[test]
fn files_without_a_place_for_texts_have_none() {
    let folder = TempFolder::new();
    assert!(texts(&folder.write("a", b"\xff\xd8\xff\xe0")).list.is_empty());
    assert!(texts(&folder.write("b", b"hello")).list.is_empty());
    assert_eq!(read(&folder.path().join("none"), false).unwrap_err().code(), "E0801");
    assert!(may_hold(b"GIF89a") && !may_hold(b"{\"format\": 1}") && !may_hold(b""));
}
