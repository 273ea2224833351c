//! Settings that other programs write into their results: ComfyUI's graph, and the text of A1111's web
//! interface, which stable-diffusion.cpp writes too. `formats.md §7`.
//!
//! They are mapped as far as they mean the same here; [`Foreign::unmapped`] says what does not. Of a graph, what
//! the first sampler reaches is read, by the names of its inputs, whatever the nodes are called. Nothing is
//! run, loaded or fetched.

use super::Recipe;
use super::inside::name;
use crate::model::Parts;
use serde_json::{Value, json};
use std::collections::BTreeSet;

/// Longest text that is looked at, in bytes.
const LONGEST: usize = 4 << 20;
/// Most nodes of a graph that are followed.
const NODES: usize = 10_000;

/// The settings of another program's result, as far as they mean something here.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Foreign {
    /// What wrote them.
    pub program: String,
    /// The prompt.
    pub prompt: Option<String>,
    /// The negative prompt, where it is not empty.
    pub negative: Option<String>,
    /// Seed of its noise, which is not the noise that this program makes of it.
    pub seed: Option<u64>,
    /// Sampling steps.
    pub steps: Option<usize>,
    /// Guidance scale.
    pub guidance: Option<f64>,
    /// Shift of the schedule.
    pub shift: Option<f64>,
    /// Width and height.
    pub size: Option<[usize; 2]>,
    /// Frames.
    pub frames: Option<usize>,
    /// Frames a second.
    pub fps: Option<f64>,
    /// The solver, by the name that it has here.
    pub solver: Option<&'static str>,
    /// The file of the transformer, by its name there.
    pub model: Option<String>,
    /// Adapters, by their names there, and their scales.
    pub adapters: Vec<(String, f64)>,
    /// What has no counterpart, in words.
    pub unmapped: Vec<String>,
}

impl Foreign {
    /// The settings of ComfyUI's `prompt`, a graph of nodes.
    pub(super) fn of_graph(text: &str) -> Option<Self> {
        if text.len() > LONGEST {
            return None;
        }
        Self::of_nodes(&serde_json::from_str(text).ok()?)
    }

    /// The settings of a comment of VideoHelperSuite, which has ComfyUI's texts in one.
    pub(super) fn of_comment(text: &str) -> Option<Self> {
        if text.len() > LONGEST {
            return None;
        }
        let value: Value = serde_json::from_str(text.trim()).ok()?;
        match value.get("prompt")? {
            Value::String(graph) => Self::of_graph(graph),
            graph => Self::of_nodes(graph),
        }
    }

    fn of_nodes(graph: &Value) -> Option<Self> {
        let nodes = graph.as_object()?;
        let sampler = |node: &Value| {
            node["class_type"].as_str().is_some_and(|class| {
                class.contains("Sampler") && !class.contains("Select") && !class.contains("Model")
            })
        };
        // By their numbers, so that the first is the one that was put there first.
        let mut samplers: Vec<&String> =
            nodes.iter().filter(|(_, node)| sampler(node)).map(|(id, _)| id).collect();
        samplers.sort_by_key(|id| (id.parse::<u64>().unwrap_or(u64::MAX), id.as_str()));
        let first = *samplers.first()?;
        let mut walk = Walk { graph, seen: BTreeSet::new(), found: Self::default() };
        walk.found.program = "ComfyUI".to_owned();
        walk.node(first);
        let mut found = walk.found;
        for node in nodes.values() {
            let inputs = &node["inputs"];
            let fps = inputs["frame_rate"].as_f64().or_else(|| inputs["fps"].as_f64());
            found.fps = found.fps.or(fps);
        }
        if samplers.len() > 1 {
            found.unmapped.push(format!(
                "there are {} samplers in the graph, and the settings are those of the first",
                samplers.len()
            ));
        }
        Some(found)
    }

    /// The settings of a text in the form of A1111's web interface: the prompt, a line of the negative prompt,
    /// and a line of settings.
    pub(super) fn of_parameters(text: &str) -> Option<Self> {
        if text.len() > LONGEST {
            return None;
        }
        let text = text.replace("\r\n", "\n");
        let mut marks = text.rmatch_indices("Steps: ").map(|(at, _)| at);
        let at = marks.find(|at| *at == 0 || text[..*at].ends_with('\n'))?;
        let (prompts, line) = (text[..at].trim_end(), &text[at..]);
        let (prompt, negative) = match prompts.rsplit_once("Negative prompt:") {
            Some((prompt, negative)) if prompt.is_empty() || prompt.ends_with('\n') => {
                (prompt.trim_end(), negative.trim())
            }
            _ => (prompts, ""),
        };
        let mut found = Self { program: "A1111's web interface".to_owned(), ..Self::default() };
        found.set_prompt(prompt);
        found.negative = (!negative.is_empty()).then(|| negative.to_owned());
        for (key, value) in pairs(line.lines().next().unwrap_or_default()) {
            found.set(&key, &value);
        }
        Some(found)
    }

    /// One setting of A1111's line.
    fn set(&mut self, key: &str, value: &str) {
        let number = || value.parse::<f64>().ok().filter(|number| number.is_finite());
        let whole = || value.parse::<usize>().ok();
        match key {
            "Steps" => self.steps = whole(),
            "CFG scale" => self.guidance = number(),
            "Seed" => self.seed = value.parse().ok(),
            "Shift" | "Flow shift" => self.shift = number(),
            "Frames" => self.frames = whole(),
            "FPS" => self.fps = number(),
            "Sampler" => self.sampler(value),
            "Size" => {
                self.size = value.split_once('x').and_then(|(width, height)| {
                    Some([width.trim().parse().ok()?, height.trim().parse().ok()?])
                });
            }
            "Model" => self.model = Some(value.to_owned()),
            "Version" if value.contains("stable-diffusion.cpp") => {
                "stable-diffusion.cpp".clone_into(&mut self.program);
            }
            "Version" => {}
            _ => self.unmapped.push(format!("{key}: {}", shortened(value))),
        }
    }

    /// A sampler by its name there.
    fn sampler(&mut self, name: &str) {
        let plain: String =
            name.chars().filter(char::is_ascii_alphanumeric).collect::<String>().to_lowercase();
        self.solver = match plain.as_str() {
            "euler" => Some("euler"),
            "unipc" | "unipcbh2" => Some("unipc"),
            "dpmpp2m" | "dpm2m" => Some("dpmpp"),
            _ => None,
        };
        if self.solver.is_none() {
            self.unmapped.push(format!("sampler {}", shortened(name)));
        }
    }

    /// Takes a prompt, of which `<lora:NAME:SCALE>` names adapters.
    fn set_prompt(&mut self, text: &str) {
        let (mut out, mut rest) = (String::new(), text);
        while let Some((before, after)) = rest.split_once("<lora:") {
            let Some((tag, after)) = after.split_once('>') else { break };
            out.push_str(before);
            let (name, scale) = tag.rsplit_once(':').unwrap_or((tag, "1"));
            self.adapters.push((name.to_owned(), scale.parse().unwrap_or(1.0)));
            rest = after;
        }
        out.push_str(rest);
        let out = out.trim();
        self.prompt = (!out.is_empty()).then(|| out.to_owned());
    }

    /// The flags of `generate` that would give what could be mapped, for messages.
    pub fn flags(&self) -> Vec<String> {
        let mut out = Vec::new();
        let mut add = |flag: &str, value: Option<String>| {
            out.extend(value.map(|value| format!("{flag} {value}")));
        };
        let quoted = self.negative.as_ref().map(|text| format!("\"{}\"", shortened(text)));
        add("--negative-prompt", quoted);
        add("--size", self.size.map(|[width, height]| format!("{width}x{height}")));
        add("--frames", self.frames.map(|n| n.to_string()));
        add("--fps", self.fps.map(|n| n.to_string()));
        add("--steps", self.steps.map(|n| n.to_string()));
        add("--guidance", self.guidance.map(|n| n.to_string()));
        add("--shift", self.shift.map(|n| n.to_string()));
        add("--solver", self.solver.map(str::to_owned));
        add("--seed", self.seed.map(|n| n.to_string()));
        out
    }

    /// As JSON.
    pub fn to_json(&self) -> Value {
        json!({
            "program": self.program,
            "prompt": self.prompt,
            "negative_prompt": self.negative,
            "seed": self.seed,
            "steps": self.steps,
            "guidance": self.guidance,
            "shift": self.shift,
            "width": self.size.map(|[width, _]| width),
            "height": self.size.map(|[_, height]| height),
            "frames": self.frames,
            "fps": self.fps,
            "solver": self.solver,
            "model": self.model,
            "adapters": self.adapters.iter().map(|(name, scale)| json!({ "name": name, "scale": scale }))
                .collect::<Vec<_>>(),
            "not_mapped": self.unmapped,
        })
    }
}

/// What is reached from a node.
struct Walk<'g> {
    graph: &'g Value,
    seen: BTreeSet<String>,
    found: Foreign,
}

/// The node that a link names.
fn linked(link: &Value) -> Option<&str> {
    match link.as_array()?.as_slice() {
        [Value::String(id), Value::Number(_)] => Some(id),
        _ => None,
    }
}

impl Walk<'_> {
    /// Reads a node and all that it links to, each once, without recursion.
    fn node(&mut self, first: &str) {
        let mut waiting = vec![first.to_owned()];
        while let Some(id) = waiting.pop() {
            if self.seen.len() >= NODES || !self.seen.insert(id.clone()) {
                continue;
            }
            let graph = self.graph;
            let node = &graph[id.as_str()];
            let Some(inputs) = node["inputs"].as_object() else { continue };
            let class = node["class_type"].as_str().unwrap_or_default();
            self.settings(class, inputs);
            for (name, input) in inputs {
                let Some(next) = linked(input) else { continue };
                if name == "positive" && self.found.prompt.is_none() {
                    self.found.prompt = self.text(next, name);
                } else if name == "negative" && self.found.negative.is_none() {
                    self.found.negative = self.text(next, name).filter(|t| !t.trim().is_empty());
                }
                // Nodes between may hold sizes and pictures.
                waiting.push(next.to_owned());
            }
        }
    }

    /// The text behind a link of conditioning called `role`.
    fn text(&self, first: &str, role: &str) -> Option<String> {
        let (mut id, mut left) = (first, 32);
        loop {
            left -= 1;
            let inputs = self.graph[id]["inputs"].as_object().filter(|_| left > 0)?;
            let names = ["text", "string", "value", "prompt"];
            if let Some(text) = names.iter().find_map(|name| inputs.get(*name)?.as_str()) {
                return Some(text.to_owned());
            }
            let onward = [role, "conditioning", "text", "string", "value"];
            let link = onward.iter().find_map(|name| linked(inputs.get(*name)?));
            id = link?;
        }
    }

    fn settings(&mut self, class: &str, inputs: &serde_json::Map<String, Value>) {
        let whole = |name: &str| inputs.get(name)?.as_u64().and_then(|n| usize::try_from(n).ok());
        let number = |name: &str| inputs.get(name)?.as_f64();
        let text = |name: &str| inputs.get(name)?.as_str().map(str::to_owned);
        let found = &mut self.found;
        let seed = ["seed", "noise_seed"].iter().find_map(|name| inputs.get(*name)?.as_u64());
        found.seed = found.seed.or(seed);
        found.steps = found.steps.or(whole("steps"));
        found.guidance = found.guidance.or(number("cfg"));
        found.shift = found.shift.or(number("shift"));
        if let (Some(width), Some(height), Some(length)) =
            (whole("width"), whole("height"), whole("length").or(whole("num_frames")))
        {
            found.size = found.size.or(Some([width, height]));
            found.frames = found.frames.or(Some(length));
        }
        let model = ["unet_name", "ckpt_name", "model"].iter().find_map(|name| text(name));
        found.model = found.model.take().or(model.filter(|_| class.contains("oader")));
        if let Some(name) = text("lora_name").or_else(|| text("lora")) {
            let scale = number("strength_model").or(number("strength")).unwrap_or(1.0);
            found.adapters.push((name, scale));
        }
        if let Some(name) = text("sampler_name") {
            found.sampler(&name);
        }
        // Nodes of WanVideoWrapper have the texts in them, and call the solver the scheduler.
        found.prompt = found.prompt.take().or(text("positive_prompt"));
        let negative = text("negative_prompt").filter(|text| !text.trim().is_empty());
        found.negative = found.negative.take().or(negative);
        if let Some(name) = text("scheduler").filter(|_| class.starts_with("WanVideo")) {
            found.sampler(&name);
        } else if let Some(name) = text("scheduler") {
            found.unmapped.push(format!("scheduler {}", shortened(&name)));
        }
        if number("denoise").is_some_and(|part| part != 1.0) {
            found.unmapped.push("denoising from a video of its own (denoise below 1)".to_owned());
        }
        if inputs.keys().any(|name| matches!(name.as_str(), "start_image" | "end_image")) {
            found.unmapped.push(
                "a picture as the first or last frame (--first-frame gives the first)".to_owned(),
            );
        }
        if inputs.contains_key("start_at_step") {
            found.unmapped.push("sampling in parts (start_at_step, end_at_step)".to_owned());
        }
    }
}

/// `key: value` separated by commas; a value in quotes is JSON.
fn pairs(line: &str) -> Vec<(String, String)> {
    let (mut out, mut rest) = (Vec::new(), line);
    while let Some((key, after)) = rest.split_once(':') {
        let after = after.trim_start();
        let mut quoted = serde_json::Deserializer::from_str(after).into_iter::<String>();
        let value = match (after.starts_with('"'), quoted.next()) {
            (true, Some(Ok(value))) => {
                let end = quoted.byte_offset();
                rest = after[end..].trim_start().trim_start_matches(',');
                value
            }
            _ => {
                let (value, more) = after.split_once(',').unwrap_or((after, ""));
                rest = more;
                value.trim().to_owned()
            }
        };
        out.push((key.trim().to_owned(), value));
    }
    out
}

fn shortened(text: &str) -> String {
    let line: String =
        text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(61).collect();
    match line.chars().count() {
        61 => line.chars().take(60).chain(['…']).collect(),
        _ => line,
    }
}

/// A recipe in the form of A1111's web interface, as far as that has names for it.
pub(super) fn parameters(recipe: &Recipe) -> String {
    let solver = match recipe.solver.as_str() {
        "unipc" => "UniPC",
        "euler" => "Euler",
        "dpmpp" => "DPM++ 2M",
        other => other,
    };
    let [width, height, frames] = recipe.size;
    let model = match recipe.model.parts == Parts::default() {
        true => "built-in".to_owned(),
        false => recipe.model.parts.each(name).describe(),
    };
    let pairs = [
        ("Steps", recipe.steps.to_string()),
        ("Sampler", solver.to_owned()),
        ("CFG scale", recipe.guidance.to_string()),
        ("Seed", recipe.seed.to_string()),
        ("Size", format!("{width}x{height}")),
        ("Frames", frames.to_string()),
        ("FPS", recipe.fps.to_string()),
        ("Shift", recipe.shift.to_string()),
        ("Model", model),
        ("Version", format!("anyid-rt {}", recipe.product)),
    ];
    let pair = |(key, value): (&str, String)| match value.contains([',', ':', '\n', '"']) {
        true => format!("{key}: {}", Value::from(value)),
        false => format!("{key}: {value}"),
    };
    let adapters: String = recipe
        .adapters
        .iter()
        .map(|entry| {
            let name =
                entry.file.path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
            format!(" <lora:{name}:{}>", entry.scale)
        })
        .collect();
    let negative = recipe.choices.negative_prompt.as_ref();
    let negative = negative.map_or_else(String::new, |text| format!("\nNegative prompt: {text}"));
    format!("{}{adapters}{negative}\n{}", recipe.prompt, pairs.map(pair).join(", "))
}

#[cfg(test)]
mod tests;
