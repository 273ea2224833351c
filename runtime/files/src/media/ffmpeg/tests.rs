//! What `ffmpeg` is made to do, on files that we make with it. Without it on the PATH the tests say
//! that they were skipped.

use super::super::writer::{VideoWriter, WriterOptions};
use super::super::{Clip, MediaKind, ReadOptions, read_clip};
use super::*;
use crate::media::coding::Coding;
use crate::testing::TempFolder;
use std::process::Command;

/// HEVC, BT.2020 with HLG, 96x64.
const HLG: &[u8] = include_bytes!("../testdata/hlg.mp4");
/// MPEG-4 in AVI, 96x64 pixels of 4:3.
const WIDE_PIXELS: &[u8] = include_bytes!("../testdata/wide_pixels.avi");

/// A folder, if there is an `ffmpeg` to work in it.
fn folder() -> Option<TempFolder> {
    if find().is_none() {
        println!("skipped: no ffmpeg on the PATH");
        return None;
    }
    Some(TempFolder::new())
}

/// Makes a file with `ffmpeg`; false when this build of it cannot.
fn make(target: &Path, arguments: &str) -> bool {
    let done = Command::new(find().unwrap())
        .args(["-v", "error", "-nostdin", "-y"])
        .args(arguments.split_whitespace())
        .arg(super::process::file_argument(target))
        .stdin(std::process::Stdio::null())
        .output()
        .unwrap();
    if !done.status.success() {
        println!("skipped: {}", String::from_utf8_lossy(&done.stderr));
    }
    done.status.success()
}

fn read(path: &Path) -> Clip {
    read_clip(path, &ReadOptions::default()).unwrap()
}

fn code(path: &Path) -> &'static str {
    let error = read_clip(path, &ReadOptions::default()).unwrap_err();
    assert!(error.place().is_some() && error.help_text().is_some(), "{error}");
    error.code()
}

fn pixel(clip: &Clip, frame: usize, x: usize, y: usize) -> [u8; 3] {
    let frame = &clip.frames[frame];
    frame.data[(y * frame.width + x) * 3..][..3].try_into().unwrap()
}

fn near(a: [u8; 3], b: [u8; 3], most: u8) -> bool {
    a.iter().zip(b).all(|(a, b)| a.abs_diff(b) <= most)
}

/// An uncompressed TIFF of 3x2 pixels: its reds are 0, 40, 80 and 120, 160, 200.
fn tiff(orientation: u16) -> Vec<u8> {
    let mut file = b"II*\0\x08\0\0\0".to_vec();
    let entries: [(u16, u16, u32, u32); 10] = [
        (256, 3, 1, 3),
        (257, 3, 1, 2),
        (258, 3, 3, 134),
        (259, 3, 1, 1),
        (262, 3, 1, 2),
        (273, 4, 1, 140),
        (274, 3, 1, u32::from(orientation)),
        (277, 3, 1, 3),
        (278, 3, 1, 2),
        (279, 4, 1, 18),
    ];
    file.extend((entries.len() as u16).to_le_bytes());
    for (tag, kind, count, value) in entries {
        file.extend(tag.to_le_bytes());
        file.extend(kind.to_le_bytes());
        file.extend(count.to_le_bytes());
        file.extend(value.to_le_bytes());
    }
    file.extend([0; 4]);
    file.extend([8, 0, 8, 0, 8, 0]);
    file.extend((0..6).flat_map(|i| [i * 40, 10, 20]));
    file
}

#[test]
fn names_are_names_and_nothing_else() {
    let Some(folder) = folder() else { return };
    // What the patterns would find.
    folder.write("me0.tiff", tiff(3));
    folder.write("me1.tiff", tiff(3));
    let names: &[&str] = match cfg!(unix) {
        true => &[
            "me%d.tiff",
            "alone%03d.tiff",
            "a*b.tiff",
            "a?[1].tiff",
            "-i.tiff",
            "x:y.tiff",
            "concat:a|b",
            "subfile,,start,0,end,9,,:x",
            "http://host/x",
            "a\nb.tiff",
            "{1..2}.tiff",
            "'quoted'.tiff",
            "pipe:0",
            "$HOME",
        ],
        false => &["me%d.tiff", "alone%03d.tiff", "-i.tiff"],
    };
    for name in names.iter().map(|name| name.replace('/', "_")) {
        let clip = read(&folder.write(&name, tiff(1)));
        assert_eq!((clip.kind, clip.frames.len()), (MediaKind::Image, 1), "{name}");
        assert_eq!([0, 1, 2].map(|x| pixel(&clip, 0, x, 0)[0]), [0, 40, 80], "{name}");
    }
}

#[test]
fn a_tiff_is_a_picture_the_right_way_up() {
    let Some(folder) = folder() else { return };
    let clip = read(&folder.write("a", tiff(6)));
    assert_eq!((clip.kind, clip.frames.len(), clip.fps), (MediaKind::Image, 1, None));
    assert_eq!((clip.source.width, clip.source.height), (2, 3));
    assert_eq!([0, 1].map(|x| pixel(&clip, 0, x, 0)[0]), [120, 0]);
}

#[test]
fn a_file_is_what_we_say_it_is() {
    let Some(folder) = folder() else { return };
    let secret = folder.path().join("secret.mkv");
    if !make(&secret, "-f lavfi -i testsrc=s=64x48:r=10:d=0.5 -c:v ffv1") {
        return;
    }
    // A list of clips behind the first bytes of other kinds: opened as those, it is nothing.
    let list = format!("\nfile '{}'\n", secret.display());
    let playlist =
        format!("\n#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nfile://{}\n", secret.display());
    for (name, head) in [
        ("a.avi", b"RIFF\x10\0\0\0AVI LIST".as_slice()),
        ("a.mkv", b"\x1a\x45\xdf\xa3"),
        ("a.ogg", b"OggS"),
        ("a.flv", b"FLV\x01"),
        ("a.mpg", b"\x00\x00\x01\xba"),
        ("a.y4m", b"YUV4MPEG2 "),
        ("a.tif", b"II*\0"),
    ] {
        for text in [&list, &playlist] {
            let path = folder.write(name, [head, text.as_bytes()].concat());
            assert!(["E0811", "E0809"].contains(&code(&path)), "{name}");
        }
    }
    for text in [format!("ffconcat version 1.0{list}"), playlist[1..].to_string()] {
        assert_eq!(code(&folder.write("list", text.as_bytes())), "E0804");
    }
}

#[test]
fn pixels_are_shown_square_and_hdr_is_mapped() {
    let Some(folder) = folder() else { return };
    let clip = read(&folder.write("wide", WIDE_PIXELS));
    assert_eq!((clip.source.width, clip.source.height), (128, 64));
    match read_clip(&folder.write("hlg", HLG), &ReadOptions::default()) {
        Ok(clip) => {
            assert_eq!((clip.source.width, clip.source.height), (96, 64));
            assert!(clip.source.warnings[0].contains("HLG"), "{:?}", clip.source.warnings);
        }
        Err(error) => println!("skipped: {error}"),
    }
}

#[test]
fn colours_are_those_that_the_stream_names() {
    let Some(folder) = folder() else { return };
    for (tag, word) in [("bt709", "bt709"), ("smpte170m", "bt601"), ("bt2020nc", "bt2020")] {
        for range in ["tv", "pc"] {
            let path = folder.path().join(format!("{tag}{range}.mkv"));
            let made = make(
                &path,
                &format!(
                    "-f lavfi -i color=0xC86432:s=64x48:r=10:d=0.3,format=gbrp,\
                     scale=out_color_matrix={word}:out_range={range},format=yuv444p \
                     -c:v ffv1 -colorspace {tag} -color_range {range}"
                ),
            );
            if made {
                let clip = read(&path);
                let seen = pixel(&clip, 1, 20, 20);
                assert!(near(seen, [200, 100, 50], 2), "{tag} {range}: {seen:?}");
            }
        }
    }
}

#[test]
fn transparency_is_before_black() {
    let Some(folder) = folder() else { return };
    let path = folder.path().join("a.mkv");
    let source = "-f lavfi -i color=white:s=64x48:r=10:d=0.3,format=rgba,\
                  geq=r=200:g=100:b=50:a='if(lt(X\\,32)\\,255\\,128)' -c:v ffv1";
    if make(&path, source) {
        let clip = read(&path);
        assert_eq!(pixel(&clip, 0, 8, 8), [200, 100, 50]);
        assert!(near(pixel(&clip, 0, 40, 8), [100, 50, 25], 1), "{:?}", pixel(&clip, 0, 40, 8));
    }
}

#[test]
fn times_are_those_of_the_file() {
    let Some(folder) = folder() else { return };
    let path = folder.path().join("a.mkv");
    // Five frames a tenth of a second apart, then five of three tenths.
    let source = "-f lavfi -i testsrc=s=64x48:r=10:d=1 \
                  -vf settb=1/1000,setpts='if(lt(N\\,5)\\,N*100\\,500+(N-5)*300)' \
                  -enc_time_base 1/1000 -r 1000 -c:v ffv1 -f matroska";
    let source = source.replace("-r 1000 ", "-fps_mode passthrough ");
    if make(&path, &source) {
        let mut times = Vec::new();
        let info = super::super::visit_frames(&path, &ReadOptions::default(), &mut |frame| {
            times
                .push(((frame.time * 10.0).round() as u32, (frame.duration * 10.0).round() as u32));
            Ok(std::ops::ControlFlow::Continue(()))
        })
        .unwrap();
        let right =
            [(0, 1), (1, 1), (2, 1), (3, 1), (4, 1), (5, 3), (8, 3), (11, 3), (14, 3), (17, 3)];
        assert_eq!(times, right);
        assert!((info.fps.unwrap() - 5.0).abs() < 0.01, "{:?}", info.fps);
    }
}

#[test]
fn interlaced_clips_are_deinterlaced() {
    let Some(folder) = folder() else { return };
    let path = folder.path().join("a.mkv");
    // Fields of black and of white: whole frames of grey, not stripes.
    let source = "-f lavfi -i color=black:s=64x48:r=50:d=0.4 -f lavfi -i color=white:s=64x48:r=50:d=0.4 \
                  -filter_complex [0][1]interleave,tinterlace=interleave_top,setfield=tff \
                  -c:v ffv1";
    if make(&path, source) {
        let clip = read(&path);
        assert!(clip.source.warnings.iter().any(|w| w.contains("interlaced")));
        let rows = [20, 21, 22, 23].map(|y| i32::from(pixel(&clip, 2, 30, y)[0]));
        assert!(rows.windows(2).all(|pair| (pair[0] - pair[1]).abs() < 100), "{rows:?}");
    }
}

#[test]
fn the_main_stream_is_read_or_asked_for() {
    let Some(folder) = folder() else { return };
    let path = folder.path().join("a.mkv");
    let two = "-f lavfi -i color=blue:s=64x48:r=10:d=0.3 -f lavfi -i color=red:s=128x96:r=10:d=0.3 \
               -map 0 -map 1 -c:v ffv1";
    if make(&path, two) {
        let clip = read(&path);
        // Which of the two is marked as the default depends on the version that made the file.
        assert!(clip.source.warnings.iter().any(|w| w.contains("is taken, not")));
    }
    let alike =
        two.replace("128x96", "64x48") + " -disposition:v:0 default -disposition:v:1 default";
    if make(&path, &alike) {
        assert_eq!(code(&path), "E0835");
    }
    // Sound is seen, by our own reader and by the program.
    for (name, codec) in [("s.mp4", "libx264"), ("s.mkv", "mpeg4")] {
        let path = folder.path().join(name);
        let pictures = "-f lavfi -i color=red:s=64x48:d=0.5";
        let sound = format!("{pictures} -f lavfi -i sine=d=0.5 -c:v {codec} -pix_fmt yuv420p");
        let silent = format!("{pictures} -c:v {codec} -pix_fmt yuv420p");
        if make(&path, &sound) {
            assert!(read(&path).source.sound, "{name}");
        }
        if make(&path, &silent) {
            assert!(!read(&path).source.sound, "{name}");
        }
    }
    let cover = folder.path().join("cover.png");
    let song = folder.path().join("song.mkv");
    let sound = format!(
        "-f lavfi -i sine=d=0.5 -attach {} -metadata:s:t mimetype=image/png \
         -metadata:s:t filename=cover.png",
        cover.display()
    );
    if make(&cover, "-f lavfi -i color=red:s=64x48:d=1 -frames:v 1 -c:v png") && make(&song, &sound)
    {
        assert_eq!(code(&song), "E0809");
    }
}

fn texture(width: usize, height: usize, t: usize) -> Vec<u8> {
    (0..width * height)
        .flat_map(|i| {
            let (x, y) = (i % width, i / width);
            [(x * 3 + 40 + t * 5) as u8 / 2 + 40, (y * 4 + 60) as u8 / 2 + 30, 120]
        })
        .collect()
}

fn write(path: &Path, frames: usize, fps: f64) -> crate::error::Result<()> {
    let (width, height) = (64, 32);
    let mut writer = VideoWriter::create(path, width, height, fps, &WriterOptions::default())?;
    for t in 0..frames {
        writer.push(&texture(width, height, t))?;
    }
    writer.finish().map(drop)
}

#[test]
fn every_container_holds_the_colours_and_says_so() {
    let Some(folder) = folder() else { return };
    for ending in ["mkv", "webm", "mov", "avi", "ts", "ogv", "flv", "y4m", "nut", "mpg"] {
        let path = folder.path().join(format!("a.{ending}"));
        if let Err(error) = write(&path, 9, 25.0) {
            // Builds differ in what they can write; that must be found before the first frame.
            assert_eq!(error.code(), "E0811", "{ending}: {error}");
            println!("skipped: {ending}: {error}");
            continue;
        }
        assert_eq!(folder.names(), [format!("a.{ending}")]);
        let output = Command::new(find().unwrap())
            .args(["-v", "error", "-nostdin", "-i"])
            .arg(&path)
            .args([
                "-vf",
                "scale=in_color_matrix=bt601:in_range=tv:flags=accurate_rnd,format=rgb24",
            ])
            .args(["-f", "rawvideo", "-"])
            .output()
            .unwrap();
        let frame = 64 * 32 * 3;
        assert_eq!(output.stdout.len(), 9 * frame, "{ending}");
        for (t, frame) in output.stdout.chunks(frame).enumerate() {
            let right = texture(64, 32, t);
            let far = frame.iter().zip(&right).map(|(a, b)| u64::from(a.abs_diff(*b))).sum::<u64>();
            let mean = far as f64 / right.len() as f64;
            assert!(mean < 6.0, "{ending} {t}: {mean}");
        }
        if ["mkv", "webm", "mov"].contains(&ending) {
            let listed = Command::new(find().unwrap())
                .args(["-hide_banner", "-nostdin", "-i"])
                .arg(&path)
                .output()
                .unwrap();
            let text = String::from_utf8_lossy(&listed.stderr).into_owned();
            assert!(
                text.contains("tv, smpte170m/bt709/bt709") || text.contains("bt470bg"),
                "{text}"
            );
        }
        std::fs::remove_file(&path).unwrap();
    }
}

#[test]
fn rates_that_a_form_cannot_hold_are_refused_first() {
    let folder = TempFolder::new();
    let refused = |name: &str, fps: f64| {
        let path = folder.path().join(name);
        let made = VideoWriter::create(&path, 64, 32, fps, &WriterOptions::default());
        made.err().map(|error| (error.code(), error.message().to_string()))
    };
    let (code, message) = refused("a.gif", 60.0).unwrap();
    assert!(code == "E0842" && message.ends_with("can is 50"), "{message}");
    assert_eq!(refused("a.gif", 50.001).unwrap().0, "E0842");
    assert!(refused("a.gif", 50.0).is_none());
    if find().is_some() {
        let (code, message) = refused("a.mpg", 7.0).unwrap();
        assert!(code == "E0842" && message.contains("23.976"), "{message}");
    }
    assert_eq!(folder.names(), [""; 0]);
}

#[test]
fn gifs_have_the_true_rate() {
    let folder = TempFolder::new();
    for fps in [24.0, 25.0, 30.0, 23.976, 29.97, 48.0, 50.0, 12.0] {
        let path = folder.path().join("a.gif");
        write(&path, 50, fps).unwrap();
        let clip = read(&path);
        assert_eq!(clip.frames.len(), 50);
        let seconds = 50.0 / clip.fps.unwrap();
        let rate = if fps == 23.976 { 24000.0 / 1001.0 } else { fps };
        assert!((seconds - 50.0 / rate).abs() < 0.0051, "{fps}: {seconds}");
    }
}

#[test]
#[cfg(unix)]
fn a_program_that_only_says_it_wrote_is_not_believed() {
    use std::os::unix::fs::PermissionsExt;
    let Some(folder) = folder() else { return };
    // After the trial it writes half of what it should, and reports success.
    let script = format!(
        "#!/bin/sh\nfor last; do :; done\ncase \"$last\" in\n\
         file:*.mkv) {0} \"$@\" || exit 1\nname=\"${{last#file:}}\"\n\
         [ -e \"$0.tried\" ] || {{ touch \"$0.tried\"; exit 0; }}\n\
         size=$(wc -c < \"$name\")\n\
         head -c $((size / 2)) \"$name\" > \"$name.cut\" && cat \"$name.cut\" > \"$name\"\n\
         rm \"$name.cut\";;\n*) exec {0} \"$@\";;\nesac\n",
        find().unwrap().display(),
    );
    let program = folder.write("ffmpeg", script.as_bytes());
    std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
    let target = folder.path().join("a.mkv");
    let existing = crate::output::Existing::Overwrite;
    let mut sink =
        FfmpegSink::create(program, &target, existing, (64, 32), (24, 1), Coding::default())
            .unwrap();
    for t in 0..50 {
        sink.push(&texture(64, 32, t)).unwrap();
    }
    let error = sink.finish().unwrap_err();
    assert_eq!(error.code(), "E0843");
    assert!(error.message().contains("of 50 frames"), "{error}");
    assert_eq!(folder.names(), ["ffmpeg", "ffmpeg.tried"]);
}
