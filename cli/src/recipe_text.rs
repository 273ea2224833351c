//! The text that `inspect` prints about a recipe. Recipes themselves belong to the library.

use crate::output;
use anyid_runtime::recipe::{Foreign, Recipe};

/// The contents of a recipe, as text.
pub fn summary(recipe: &Recipe) -> String {
    let [width, height, frames] = recipe.size;
    let mut out = format!("prompt        {}\n", output::plain(&recipe.prompt));
    for (i, reference) in recipe.references.iter().enumerate() {
        let which = if i == 0 { "primary     " } else { "reference   " };
        out.push_str(&format!(
            "{which}  {} ({})\n",
            reference.path.display(),
            reference.description
        ));
    }
    let choices = &recipe.choices;
    if let Some(text) = &choices.negative_prompt {
        out.push_str(&format!("negative      {}\n", output::plain(text)));
    }
    if let Some(first) = &choices.first_frame {
        out.push_str(&format!("first frame   {} ({})\n", first.path.display(), first.description));
    }
    out.push_str(&format!("model         {}\n", recipe.model.parts.describe()));
    for (part, file) in recipe.model.parts.files() {
        out.push_str(&format!("{part:14}{}\n", file.display()));
    }
    for adapter in &recipe.adapters {
        let (path, scale) = (adapter.file.path.display(), adapter.scale);
        let own = recipe.model.fingerprints.first();
        // Recipes of before it was said have the base model alone.
        let other = || adapter.base_model.as_ref().is_some_and(|base| Some(base) != own);
        let other = adapter.other_base.unwrap_or_else(other);
        let other = if other { ", trained on another base model" } else { "" };
        out.push_str(&format!("adapter       {path} (scale {scale}{other})\n"));
    }
    out.push_str(&format!(
        "video         {width}x{height}, {}, {} frames a second\n",
        output::plural(frames, "frame"),
        recipe.fps
    ));
    out.push_str(&format!(
        "sampling      {} steps, {}, schedule {}, shift {}, guidance {}, {}, residual stream {}\n",
        recipe.steps,
        recipe.solver,
        recipe.schedule,
        recipe.shift,
        recipe.guidance,
        recipe.precision,
        recipe.residual
    ));
    if let Some(levels) = &choices.sigmas {
        let levels: Vec<String> = levels.iter().map(f64::to_string).collect();
        out.push_str(&format!("noise levels  {}\n", levels.join(", ")));
    }
    if let Some([low, high]) = choices.guidance_interval {
        out.push_str(&format!("guidance      at noise levels {low} to {high}\n"));
    }
    if let Some(threshold) = choices.cache {
        out.push_str(&format!("step cache    easycache, threshold {threshold}\n"));
    }
    match &recipe.noise {
        Some(noise) => out.push_str(&format!("start noise   {}\n", noise.path.display())),
        None => out.push_str(&format!("seed          {}\n", recipe.seed)),
    }
    let coding = choices.coding;
    let codec = coding.codec.map(|codec| codec.name().to_owned());
    let quality = coding.quality.map(|quality| format!("quality {quality}"));
    let pixels = coding.pixels.map(|pixels| pixels.name().to_owned());
    let coded: Vec<String> = codec.into_iter().chain(quality).chain(pixels).collect();
    if !coded.is_empty() {
        out.push_str(&format!("coded as      {}\n", coded.join(", ")));
    }
    for (half, tile) in [("encoded", recipe.tiles.encoder), ("decoded", recipe.tiles.decoder)] {
        if let Some([width, height]) = tile {
            out.push_str(&format!("{half:14}in tiles of {width}x{height}\n"));
        }
    }
    let words = match recipe.device_words.is_empty() {
        true => String::new(),
        false => format!("{}; ", recipe.device_words),
    };
    let (device, instructions) = (&recipe.device, &recipe.instructions);
    out.push_str(&format!("device        {device} ({})\n", output::plain(&(words + instructions))));
    out.push_str(&format!("made by       anyid-rt {}\n", recipe.product));
    out
}

/// The settings of another program, as text.
pub fn foreign(found: &Foreign) -> String {
    let mut out = format!("settings of {}\n", output::plain(&found.program));
    let mut line = |what: &str, text: Option<String>| {
        if let Some(text) = text {
            out.push_str(&format!("{what:14}{}\n", output::plain(&text)));
        }
    };
    line("prompt", found.prompt.clone());
    line("model", found.model.clone());
    for (name, scale) in &found.adapters {
        line("adapter", Some(format!("{name} (scale {scale})")));
    }
    line("flags", Some(found.flags().join(" ")).filter(|flags| !flags.is_empty()));
    for what in &found.unmapped {
        line("not mapped", Some(what.clone()));
    }
    out
}
