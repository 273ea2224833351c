//! Prints what the reader of pictures gives, for scripts that compare it with other readers.
//!
//! Takes file names, one a line, from standard input. For each it writes one line of JSON and then
//! the frames, as they are: RGB bytes, one frame after the other. Damaged files give a line with
//! the code of the error. `ffmpeg` is not used: only the built-in decoders speak.

use anyid_runtime::media::{MediaKind, ReadOptions, visit_frames};
use serde_json::json;
use std::io::{BufRead, Write};
use std::ops::ControlFlow;
use std::path::Path;

fn main() -> std::io::Result<()> {
    let options = ReadOptions { allow_ffmpeg: false, ..ReadOptions::default() };
    let mut out = std::io::stdout().lock();
    for name in std::io::stdin().lock().lines() {
        let name = name?;
        let (mut pixels, mut durations) = (Vec::new(), Vec::new());
        let read = visit_frames(Path::new(&name), &options, &mut |frame| {
            durations.push((frame.duration * 1e6).round() / 1e3);
            pixels.extend(frame.image.data);
            Ok(ControlFlow::Continue(()))
        });
        let line = match read {
            Ok(info) => json!({
                "width": info.width,
                "height": info.height,
                "frames": info.frames,
                "moving": info.kind == MediaKind::Video,
                "milliseconds": durations,
                "warnings": info.warnings,
            }),
            Err(error) => {
                pixels.clear();
                json!({ "error": error.code(), "message": error.message() })
            }
        };
        writeln!(out, "{line}")?;
        out.write_all(&pixels)?;
        out.flush()?;
    }
    Ok(())
}
