//! `world render`: a clip of a person, or the picture of its face or portrait.

use super::args::{FormName, Render};
use super::{coded, open_picture, said, write_picture};
use crate::cmd::generate::opened::{existing, open_writer};
use crate::interrupt;
use crate::output::{self, bytes, plural};
use anyid_runtime::files::is_standard_output;
use anyid_runtime::media::RgbFrame;
use anyid_runtime::media::writer::WriterOptions;
use anyid_runtime::{Error, Result};
use anyid_world::{Attribute, Clip, Group, Painter, Split, View};
use serde_json::{Map, Value, json};

/// Most frames of a clip.
const MOST_FRAMES: usize = 1000;

/// What was written.
struct Written {
    path: String,
    format: String,
    frames: usize,
    bytes: u64,
}

/// Runs the verb.
///
/// # Errors
/// E0981 and E0982 for numbers, E0902 for frames, those of the writer.
pub fn run(args: &Render) -> Result<()> {
    let group = args.world.version.group(args.group);
    let group = group.map_err(said(format!("--group {}", args.group)))?;
    let clip = group.clip(args.clip).map_err(said(format!("--clip {}", args.clip)))?;
    let painter = Painter::new(args.size);
    let mut painter = painter.map_err(said(format!("--size {}", args.size)))?;
    if args.frames == 0 || args.frames > MOST_FRAMES {
        let message = format!("a clip of the world cannot have {} frames", args.frames);
        let place = format!("--frames {}", args.frames);
        return Err(Error::input("E0902", message)
            .at(place)
            .help(format!("give 1 to {MOST_FRAMES}")));
    }
    let written = match args.form {
        FormName::Video => video(args, &group, &clip, &mut painter)?,
        FormName::Face | FormName::Portrait => {
            let file = open_picture(&args.output, existing(args.force))?;
            interrupt::say_swept();
            let views = group.views(args.clip, args.form.into()).map_err(coded)?;
            let scene = group.world().scene(&group.identity, &clip, views[0]);
            let (width, height) = (args.size, args.size);
            let picture = RgbFrame { width, height, data: painter.frame(&scene) };
            let (path, bytes) = write_picture(file, &picture)?;
            let path = path.to_string_lossy().into_owned();
            Written { path, format: "PNG".to_owned(), frames: 1, bytes }
        }
    };
    match args.json {
        true => output::print_json(&report_json(args, &group, &clip, &written)),
        false => output::report(&report_text(args, &group, &clip, &written), &args.output),
    }
}

fn video(args: &Render, group: &Group, clip: &Clip, painter: &mut Painter) -> Result<Written> {
    let format = args.format.map(Into::into);
    let options =
        WriterOptions { existing: existing(args.force), format, ..WriterOptions::default() };
    let sides = [args.size; 2];
    let mut writer = open_writer(&args.output, sides, args.fps, &options, args.json)?;
    if !is_standard_output(&args.output) {
        interrupt::say_swept();
    }
    for frame in 0..args.frames {
        let view = View::frame(frame, args.frames);
        writer.push(&painter.frame(&group.world().scene(&group.identity, clip, view)))?;
    }
    let info = writer.finish()?;
    let path = info.path.to_string_lossy().into_owned();
    Ok(Written { path, format: info.format, frames: info.frames, bytes: info.bytes })
}

/// The split of a group; its number was checked.
fn split(group: &Group) -> &'static str {
    Split::of(group.number()).map_or("", Split::name)
}

fn report_text(args: &Render, group: &Group, clip: &Clip, written: &Written) -> String {
    format!(
        "wrote {}: {}, {2}x{2}, {3}, {4}\n{5}, group {6} ({7}), clip {8}: {9}\n",
        written.path,
        written.format,
        args.size,
        plural(written.frames, "frame"),
        bytes(written.bytes),
        group.world(),
        group.number(),
        split(group),
        args.clip,
        group.world().absolute_prompt(clip).text,
    )
}

fn report_json(args: &Render, group: &Group, clip: &Clip, written: &Written) -> Value {
    let world = group.world();
    let identity: Map<String, Value> = Attribute::ALL
        .iter()
        .map(|one| (one.name().to_owned(), json!(group.identity.class(*one))))
        .collect();
    let slots: Map<String, Value> =
        world.slots().map(|slot| (slot.name().to_owned(), json!(clip.class(slot)))).collect();
    json!({
        "output": {"path": written.path, "format": written.format, "width": args.size,
            "height": args.size, "frames": written.frames, "bytes": written.bytes},
        "world": world.to_string(), "group": group.number(), "split": split(group),
        "clip": args.clip, "identity": identity, "slots": slots,
        "prompt": world.absolute_prompt(clip).text,
    })
}
