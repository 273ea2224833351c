//! `generate --recipe` with a file that another program made: its settings become flags.
//!
//! What was given as a flag stays. What has no counterpart is said, and what the file cannot know is asked
//! for: where the model lies, and where the video goes.

use super::wishes::Wishes;
use crate::cmd::generate::args::{Generate, Seed};
use crate::recipe;
use anyid_runtime::{Error, Result};

/// The flags with the settings of another program filled in, if `--recipe` names a file that holds those and no
/// recipe; what has no counterpart goes to `warn`.
///
/// # Errors
/// E1501 where the model or the prompt is missing, those of reading.
pub(super) fn adopted(mut args: Generate, warn: &mut dyn FnMut(String)) -> Result<Generate> {
    let Some(path) = args.recipe.clone() else { return Ok(args) };
    let Some(media) = recipe::media_of(&path) else { return Ok(args) };
    let inside = recipe::read_inside(&media)?;
    let (None, Some(found)) = (inside.recipe, inside.foreign) else { return Ok(args) };
    let program = &found.program;
    let missing = |what: &str, help: String| {
        Err(Error::input("E1501", format!("the settings of {program} do not say {what}"))
            .at(path.display())
            .help(help))
    };
    if args.parts().is_empty() {
        let theirs = found.model.as_ref().map(|name| format!("; theirs was {name}"));
        let theirs = theirs.unwrap_or_default();
        return missing(
            "where the model lies",
            format!("name it with --model or --transformer{theirs}"),
        );
    }
    if args.prompt.is_none() && found.prompt.is_none() {
        return missing("what the video shows", "give a prompt with --prompt".to_owned());
    }
    let taken = found.flags().join(" ");
    warn(format!(
        "the settings are of {program}, so that the result is another video; taken: {taken}"
    ));
    for what in &found.unmapped {
        warn(format!("left out, because it has no counterpart: {what}"));
    }
    if args.adapters.is_empty() {
        for (name, scale) in &found.adapters {
            warn(format!(
                "an adapter is not applied: give its file with --lora, of {name} with scale {scale}"
            ));
        }
    }
    args.recipe = None;
    args.prompt = args.prompt.or(found.prompt);
    args.negative_prompt = args.negative_prompt.or(found.negative);
    args.size = args.size.or(found.size.map(|[width, height]| format!("{width}x{height}")));
    args.frames = args.frames.or(found.frames);
    args.fps = args.fps.or(found.fps);
    // Noise levels of the user's own stand for these two.
    if args.sigmas.is_empty() {
        args.steps = args.steps.or(found.steps);
        args.shift = args.shift.or(found.shift);
    }
    args.guidance = args.guidance.or(found.guidance);
    args.solver = args.solver.or(found.solver.map(str::to_owned));
    if args.noise.is_none() {
        args.seed = args.seed.or(found.seed.map(Seed::Number));
    }
    Ok(args)
}

/// The error of a model that could not be opened, where a recipe named it that lay inside a result and so
/// does not know its folder.
pub(super) fn unplaced(error: Error, wishes: &Wishes) -> Error {
    let inside = wishes.recipe.as_ref().is_some_and(|(_, old)| {
        old.output.as_os_str().is_empty() && old.model.parts == wishes.model
    });
    match inside {
        true => error
            .also("a recipe inside a video does not say where the model lies: give --model DIR"),
        false => error,
    }
}
