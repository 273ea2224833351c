//! Choices of sampling: they are in the recipe, which repeats them, and they change the video.

mod common;

use anyid_runtime::media::{ReadOptions, RgbFrame, read_clip};
use common::{Done, Folder};

const QUICK: &str = "generate --model @micro --size 64x64 --frames 9 --steps 6 --threads 1";
const PICTURE: &str = "@examples/astronaut.png";

fn run(folder: &Folder, words: &str) -> Done {
    folder.run_with(&format!("{QUICK} {words}"), &["--prompt", "a walk"])
}

fn bytes(folder: &Folder, name: &str) -> Vec<u8> {
    std::fs::read(folder.path(name)).unwrap()
}

fn recipe(folder: &Folder, name: &str) -> serde_json::Value {
    serde_json::from_slice(&bytes(folder, &format!("{name}.recipe.json"))).unwrap()
}

#[test]
fn every_choice_changes_the_video_and_is_repeated_by_the_recipe() {
    let folder = Folder::new();
    run(&folder, "-o plain.gif").fine();
    let plain = bytes(&folder, "plain.gif");
    assert_eq!(recipe(&folder, "plain.gif")["version"], 1, "earlier programs read it");
    for (at, (flags, key, shown)) in [
        ("--negative-prompt blurry", "negative_prompt", "negative      blurry"),
        ("--guidance-interval 0.9..1", "guidance_interval", "at noise levels 0.9 to 1"),
        ("--cache easycache:0.9", "cache", "easycache, threshold 0.9"),
        ("--first-frame @examples/portrait_pan.mp4", "first_frame", "portrait_pan.mp4 (clip"),
    ]
    .into_iter()
    .enumerate()
    {
        let name = format!("{at}.gif");
        run(&folder, &format!("{flags} -o {name}")).fine();
        let video = bytes(&folder, &name);
        assert!(video != plain, "{flags}");
        let found = recipe(&folder, &name);
        assert!(!found[key].is_null() && found["version"] == 5, "{flags}: {found}");
        let text = folder.run(&format!("inspect {name}.recipe.json")).fine().out;
        assert!(text.contains(shown), "{shown}\n{text}");
        folder.run(&format!("generate --recipe {name}.recipe.json -o again.gif --force")).fine();
        assert!(bytes(&folder, "again.gif") == video, "{flags}");
    }
    // Levels are those of the steps, and a recipe with them gives way to flags of a schedule.
    let three = QUICK.replace("--steps 6 ", "");
    let levels = format!("{three} --solver euler --sigmas 1,0.8,0.4 -o levels.gif");
    folder.run_with(&levels, &["--prompt", "a walk"]).fine();
    assert_eq!(recipe(&folder, "levels.gif")["steps"], 3);
    folder.run("generate --recipe levels.gif.recipe.json -o again.gif --force").fine();
    assert!(bytes(&folder, "again.gif") == bytes(&folder, "levels.gif"));
    folder.run("generate --recipe levels.gif.recipe.json -o six.gif --steps 6").fine();
    assert!(recipe(&folder, "six.gif")["sigmas"].is_null());
    // The cache of a recipe can be switched off.
    folder.run("generate --recipe 2.gif.recipe.json -o off.gif --cache none").fine();
    assert!(bytes(&folder, "off.gif") == plain);
}

#[test]
fn what_a_choice_does_is_said() {
    let folder = Folder::new();
    run(&folder, &format!("--ref {PICTURE} --negative-prompt dull -o a.gif"))
        .fine()
        .says("not from the null state that models for references learn");
    run(&folder, "--negative-prompt dull --guidance 1 -o b.gif").fine().says("has no effect");
    let kept =
        run(&folder, "-v --cache easycache:1 -o c.gif").fine().says("easycache, threshold 1");
    assert!(kept.err.contains("the step cache left out 1 of 6 steps"), "{}", kept.err);
    run(&folder, &format!("--first-frame {PICTURE} -o d.gif")).fine().says("the first frame is");
}

#[test]
fn choices_that_cannot_be_are_coded() {
    let folder = Folder::new();
    for (flags, code) in [
        ("--guidance-interval 0.9..0.5", "E1304"),
        ("--guidance-interval 0.9", "E0900"),
        ("--cache easycache:0", "E1306"),
        ("--cache easycache:2", "E1306"),
        ("--cache teacache:0.1", "E0900"),
        ("--sigmas 1,0.5", "E0900"),
        ("--first-frame missing.png", "E0801"),
        ("--frames 1 --first-frame @examples/astronaut.png", "E1305"),
    ] {
        let words = match flags.contains("--frames") {
            true => QUICK.replace("--frames 9 ", ""),
            false => QUICK.to_owned(),
        };
        folder.run_with(&format!("{words} {flags} -o a.gif"), &["--prompt", "x"]).fails(code);
    }
    let free = QUICK.replace("--steps 6 ", "");
    for (levels, code) in
        [("0.5,0.6", "E0925"), ("1,0.5", "E0925"), ("0.5,x", "E0900"), ("0", "E0923")]
    {
        let words = format!("{free} --sigmas {levels} -o a.gif");
        folder.run_with(&words, &["--prompt", "x"]).fails(code);
    }
    let same = format!("{QUICK} --first-frame a.gif -o a.gif --force");
    folder.write("a.gif", "x");
    folder.run_with(&same, &["--prompt", "x"]).fails("E0950");
}

#[test]
fn previews_show_what_is_made_and_change_nothing() {
    let folder = Folder::new();
    let words = format!("--ref {PICTURE}");
    run(&folder, &format!("{words} -o plain.gif")).fine();
    let shown = "--preview p.png --preview-every 2";
    let done = run(&folder, &format!("{words} -o shown.gif {shown}")).fine();
    assert!(!done.err.contains("no previews"), "{}", done.err);
    assert!(bytes(&folder, "shown.gif") == bytes(&folder, "plain.gif"));
    let found = folder.run("inspect p.png --json").fine().json();
    // Three latent frames of 64x64 pixels.
    assert_eq!(found["frames"], 3, "{found}");
    assert!(bytes(&folder, "p.png").starts_with(b"\x89PNG"));
    // What cannot be written, or has no colours, is a warning.
    run(&folder, &format!("{words} -o a.gif --preview none/p.png"))
        .fine()
        .says("[E1010] there are no");
    run(&folder, "-o b.gif --preview q.png").fine().says("E1309");
    assert!(!folder.path("q.png").exists());
    run(&folder, "-o c.gif --preview").fine().says("name a file");
    run(&folder, "-o d.gif --preview d.gif").fails("E0951");
    run(&folder, "-o e.gif --preview e.png --preview-every 0").fails("E0900");
}

#[test]
fn quality_and_codec_are_those_of_the_recipe() {
    let folder = Folder::new();
    let size = |name: &str| bytes(&folder, name).len();
    for (name, quality) in [("fine.mp4", 14), ("usual.mp4", 18), ("rough.mp4", 36)] {
        run(&folder, &format!("-o {name} --quality {quality} --no-recipe-inside")).fine();
    }
    assert!(size("rough.mp4") < size("usual.mp4") && size("usual.mp4") < size("fine.mp4"));
    run(&folder, "-o default.mp4 --no-recipe-inside").fine();
    assert!(bytes(&folder, "default.mp4") == bytes(&folder, "usual.mp4"));
    folder.run("generate --recipe rough.mp4.recipe.json -o again.mp4 --no-recipe-inside").fine();
    assert!(bytes(&folder, "again.mp4") == bytes(&folder, "rough.mp4"));
    let text = folder.run("inspect rough.mp4.recipe.json").fine().out;
    assert!(text.contains("coded as      quality 36"), "{text}");
    for (flags, code) in [
        ("-o a.mp4 --quality 60", "E0821"),
        ("-o a.gif --quality 20", "E0820"),
        ("-o frames --codec h264", "E0820"),
        ("-o a.webm --codec h265", "E0820"),
        ("-o a.mp4 --codec prores", "E0820"),
        ("-o a.mp4 --codec theora", "E0900"),
        ("-o a.webp --quality 20", "E0820"),
        ("-o a.apng --pix-format yuv420p", "E0820"),
        ("-o a.mp4 --pix-format rgb24", "E0900"),
        ("-o a.mp4 --codec av1 --pix-format yuv444p", "E0820"),
        ("-o a.mov --codec prores --pix-format yuv420p", "E0820"),
    ] {
        run(&folder, flags).fails(code);
    }
    if anyid_runtime::media::ffmpeg::find().is_none() {
        println!("no ffmpeg: other codecs are left out");
        return;
    }
    for (name, codec, more) in [
        ("a.mp4", "h265", ""),
        ("b.webm", "vp9", ""),
        ("c.mkv", "h264", "--pix-format yuv444p"),
        ("d.mov", "prores", ""),
        ("e.mov", "prores", "--pix-format yuv444p10le"),
        ("f.mp4", "h265", "--pix-format yuv420p10le"),
    ] {
        let done = run(&folder, &format!("-o {name} --codec {codec} {more}"));
        if done.err.contains("Unknown encoder") {
            println!("this ffmpeg has no encoder of {codec}");
            continue;
        }
        let done = done.fine();
        assert!(
            done.out.contains(&format!("({codec}) by ffmpeg, 64x64, 9 frames")),
            "{}",
            done.out
        );
        assert_eq!(folder.run(&format!("inspect {name} --json")).fine().json()["frames"], 9);
    }
}

/// The mean of squares by which the frames of a file differ from `frames`.
fn apart(path: &std::path::Path, frames: &[RgbFrame]) -> f64 {
    let clip = read_clip(path, &ReadOptions::default()).unwrap();
    assert_eq!(clip.frames.len(), frames.len(), "{}", path.display());
    let pairs = clip.frames.iter().zip(frames).flat_map(|(a, b)| a.data.iter().zip(&b.data));
    let squares = pairs.map(|(a, b)| f64::from(a.abs_diff(*b)).powi(2));
    squares.sum::<f64>() / (frames.len() * frames[0].data.len()) as f64
}

#[test]
fn animations_keep_every_pixel_and_finer_pixel_formats_more_of_colours() {
    let folder = Folder::new();
    run(&folder, "-o frames").fine();
    let frames: Vec<RgbFrame> = (0..9)
        .map(|t| {
            let path = folder.path(&format!("frames/frame_{t:05}.png"));
            read_clip(&path, &ReadOptions::default()).unwrap().frames.remove(0)
        })
        .collect();
    for (name, form) in [("a.apng", "APNG"), ("b.webp", "WebP (lossless)")] {
        let done = run(&folder, &format!("-o {name}")).fine();
        assert!(done.out.contains(&format!(": {form}, 64x64, 9 frames")), "{}", done.out);
        assert_eq!(apart(&folder.path(name), &frames), 0.0, "{name}");
        // The recipe inside is enough to make it again.
        std::fs::rename(folder.path(name), folder.path(&format!("moved-{name}"))).unwrap();
        let words = format!("generate --model @micro --recipe moved-{name} -o again-{name}");
        folder.run(&words).fine();
        assert!(
            bytes(&folder, &format!("again-{name}")) == bytes(&folder, &format!("moved-{name}"))
        );
    }
    if anyid_runtime::media::ffmpeg::find().is_none() {
        println!("no ffmpeg: pixel formats are left out");
        return;
    }
    // Noise of colours is what 4:2:0 cannot hold.
    let of = |name: &str, flags: &str| {
        run(&folder, &format!("-o {name} --codec h264 --quality 0 {flags}")).fine();
        apart(&folder.path(name), &frames)
    };
    let usual = of("usual.mkv", "");
    // Containers have no random number inside.
    of("twin.mkv", "");
    assert!(
        bytes(&folder, "usual.mkv") == bytes(&folder, "twin.mkv"),
        "mkv differs from run to run"
    );
    let [half, full, ten] = [
        of("half.mkv", "--pix-format yuv422p"),
        of("full.mkv", "--pix-format yuv444p"),
        of("ten.mkv", "--pix-format yuv444p10le"),
    ];
    // Quality 0 of x264 is lossless with eight bits only.
    let fine = half < usual && full < half / 100.0 && ten < half / 100.0;
    assert!(fine, "{usual} {half} {full} {ten}");
    let text = folder.run("inspect ten.mkv.recipe.json").fine().out;
    assert!(text.contains("coded as      h264, quality 0, yuv444p10le"), "{text}");
    folder.run("generate --recipe ten.mkv.recipe.json -o again.mkv").fine();
    assert_eq!(apart(&folder.path("again.mkv"), &frames), ten);
}

#[test]
fn defaults_come_from_a_file_behind_flags_and_before_the_model() {
    let folder = Folder::new();
    let micro = common::micro();
    let text = format!(
        "[generate]\nmodel = '{}'\nsize = \"64x64\"\nframes = 9\nsteps = 6\nseed = 5\nguidance = 2.5\n",
        micro.display()
    );
    folder.write("c.toml", &text);
    let own = |words: &str| folder.run_with(&format!("generate {words}"), &["--prompt", "a walk"]);
    own("--config c.toml -o a.gif").fine().says("defaults from c.toml");
    run(&folder, "--seed 5 --guidance 2.5 -o b.gif").fine();
    assert!(bytes(&folder, "a.gif") == bytes(&folder, "b.gif"));
    own("--config c.toml --steps 3 --seed 1 -o c.gif").fine();
    let found = recipe(&folder, "c.gif");
    assert_eq!(
        (&found["steps"], &found["seed"], &found["frames"]),
        (&3.into(), &1.into(), &9.into())
    );
    // The usual place; a recipe says everything by itself.
    folder.write("home/anyid-rt/config.toml", &text);
    let at = |words: &str| {
        let mut command = folder.command(&format!("generate {words}"), &[]);
        command.env("XDG_CONFIG_HOME", folder.path("home"));
        Done::of(words, command.output().unwrap()).fine()
    };
    at("--prompt walk --guidance-interval 0.9..1 -o d.gif").says("config.toml");
    let again = at("--recipe c.gif.recipe.json -o again.gif");
    assert!(!again.err.contains("defaults"), "{}", again.err);
    assert!(bytes(&folder, "again.gif") == bytes(&folder, "c.gif"));
    for (text, says) in [
        ("steps = 3", "defaults stand in the table [generate]"),
        ("[generate]\nstps = 3\nfps = 'wide'", "is it \"steps\"?"),
        ("[generate]\nfps = 'wide'", "invalid value 'wide'"),
        ("[generate]\nprompt = 'x'", "\"prompt\" is not a flag"),
        ("generate = 3", "not a table"),
        ("[generate", "this is not TOML"),
        ("[generate]\nsteps = 3\nsigmas = [0.5]", "cannot be used with"),
    ] {
        folder.write("bad.toml", text);
        own("--config bad.toml -o x.gif").fails("E1310").says(says);
    }
    own("--config none.toml -o x.gif").fails("E0911");
}
