//! What the elements of a tensor are: a rule for each name and shape, and numbers from a seed.
//!
//! There are two sets of rules. Random values keep the size of what goes through a network, and
//! everything has an effect on the output. Values to train from leave out what only training can
//! find: residual branches are silent, and convolutions along time pass the newest frame on.

use super::Start;
use anyid_models::wan::names::Component;

/// The distribution of the elements of a tensor: `centre + u·spread` with u uniform in [−1, 1), where
/// there are any.
#[derive(Clone, Copy)]
pub struct Rule {
    centre: f32,
    spread: f32,
    taps: Taps,
}

/// Which elements of a kernel are not zero.
#[derive(Clone, Copy)]
enum Taps {
    /// All of them.
    All,
    /// Those of the last of `count` taps along time, of `area` elements each.
    Newest { count: u64, area: u64 },
    /// The last of `taps` taps of those from input `output % inputs`.
    Copied { inputs: u64, taps: u64 },
}

impl Taps {
    fn has(self, element: u64) -> bool {
        match self {
            Self::All => true,
            Self::Newest { count, area } => element / area % count == count - 1,
            Self::Copied { inputs, taps } => {
                let (output, input) = (element / (inputs * taps), element / taps % inputs);
                element % taps == taps - 1 && input == output % inputs
            }
        }
    }
}

impl Rule {
    /// Uniform within `spread` of `centre`.
    pub fn around(centre: f32, spread: f32) -> Self {
        Self { centre, spread, taps: Taps::All }
    }

    /// Uniform around 0 with the variance 1 / `count`.
    fn of_variance(count: u64) -> Self {
        Self::around(0.0, (3.0 / count.max(1) as f32).sqrt())
    }
}

/// The rule of a tensor. `head` is the width of the heads of the text encoder, whose queries are not
/// scaled.
pub fn rule(start: Start, component: Component, name: &str, shape: &[u64], head: u64) -> Rule {
    match (start, component) {
        (Start::Random, _) => random(name, shape),
        (Start::Training, Component::Dit) => transformer(name, shape),
        (Start::Training, Component::Vae { .. }) => autoencoder(name, shape),
        (Start::Training, Component::Text) => text_encoder(name, shape, head),
    }
}

/// The rule of random values.
pub fn random(name: &str, shape: &[u64]) -> Rule {
    let last = name.rsplit('.').next().unwrap_or_default();
    let norm = name.contains("norm") && shape.len() == 1 && last == "weight";
    if last == "gamma" || norm {
        return Rule::around(1.0, 0.1);
    }
    if last == "modulation" {
        return Rule::around(0.0, 0.5);
    }
    if last == "bias" {
        return Rule::around(0.0, 0.05);
    }
    if name.contains("embedding") && name.contains("pos") || name.starts_with("token_embedding") {
        return Rule::around(0.0, 1.0);
    }
    // A uniform distribution with variance 1/fan-in keeps activations near 1 through the layers.
    Rule::of_variance(inputs(shape))
}

/// How many values one value of a result is the sum of.
fn inputs(shape: &[u64]) -> u64 {
    shape.iter().skip(1).product()
}

/// As Wan's own code has it, with a head that gives nothing at first.
fn transformer(name: &str, shape: &[u64]) -> Rule {
    let last = name.rsplit('.').next().unwrap_or_default();
    match last {
        "bias" => Rule::around(0.0, 0.0),
        "modulation" => Rule::of_variance(shape[shape.len() - 1]),
        _ if shape.len() == 1 => Rule::around(1.0, 0.0),
        _ if name == "head.head.weight" => Rule::around(0.0, 0.0),
        _ if name.starts_with("text_embedding") || name.starts_with("time_embedding") => {
            Rule::of_variance(2500)
        }
        _ => {
            let both = (inputs(shape) + shape[0]) as f32;
            Rule::around(0.0, (6.0 / both).sqrt())
        }
    }
}

fn autoencoder(name: &str, shape: &[u64]) -> Rule {
    if name.ends_with(".gamma") {
        return Rule::around(1.0, 0.0);
    }
    let silent = name.ends_with(".residual.6.weight") || name.ends_with(".proj.weight");
    if silent || name.ends_with(".bias") {
        return Rule::around(0.0, 0.0);
    }
    match *shape {
        [_, inputs, taps, 1, 1] if name.contains("time_conv") => {
            Rule { taps: Taps::Copied { inputs, taps }, ..Rule::around(1.0, 0.0) }
        }
        [_, inputs, count, rows, columns] if count > 1 => {
            let area = rows * columns;
            Rule { taps: Taps::Newest { count, area }, ..Rule::of_variance(inputs * area) }
        }
        _ => Rule::of_variance(inputs(shape)),
    }
}

/// As T5 has it.
fn text_encoder(name: &str, shape: &[u64], head: u64) -> Rule {
    match shape.len() {
        1 => Rule::around(1.0, 0.0),
        _ if name.starts_with("token_embedding") => Rule::of_variance(1),
        _ if name.ends_with("attn.q.weight") => Rule::of_variance(inputs(shape) * head),
        // One number for each head: small beside the scores.
        _ if name.contains("pos_embedding") => Rule::around(0.0, 0.1),
        _ => Rule::of_variance(inputs(shape)),
    }
}

fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// What the numbers of a tensor begin from.
pub fn key(seed: u64, name: &str) -> u64 {
    let hash = name.bytes().fold(0xcbf2_9ce4_8422_2325u64, |h, b| {
        (h ^ u64::from(b)).wrapping_mul(0x0000_0100_0000_01b3)
    });
    mix(hash ^ mix(seed))
}

/// Elements `start..` of a tensor.
pub fn fill(key: u64, rule: Rule, start: u64, out: &mut [f32]) {
    for (element, value) in (start..).zip(out) {
        let bits = mix(key.wrapping_add(element.wrapping_mul(0x9e37_79b9_7f4a_7c15)));
        let unit = (bits >> 40) as f32 * (2.0 / 16_777_216.0) - 1.0;
        *value = match rule.taps.has(element) {
            true => rule.centre + unit * rule.spread,
            false => 0.0,
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyid_models::wan::config::{DitConfig, TextConfig, VaeConfig};
    use anyid_models::wan::names::{dit_tensors, text_tensors, vae_tensors};

    fn values(component: Component, name: &str, shape: &[u64]) -> Vec<f32> {
        let mut out = vec![9.0; shape.iter().product::<u64>() as usize];
        let rule = rule(Start::Training, component, name, shape, 24);
        fill(key(3, name), rule, 0, &mut out);
        out
    }

    fn variance(values: &[f32]) -> f64 {
        values.iter().map(|value| f64::from(*value).powi(2)).sum::<f64>() / values.len() as f64
    }

    #[test]
    fn an_autoencoder_begins_as_one_of_single_frames() {
        let config = VaeConfig::world();
        let vae = config.component();
        for (name, shape) in vae_tensors(&config) {
            let values = values(vae, &name, &shape);
            let zeros = values.iter().filter(|value| **value == 0.0).count();
            if name.ends_with(".bias") || name.contains("residual.6.weight") {
                assert_eq!(zeros, values.len(), "{name}");
            } else if name.ends_with(".gamma") {
                assert!(values.iter().all(|value| *value == 1.0), "{name}");
            } else if name.contains("time_conv") {
                // Every output is one input of the newest frame.
                assert!(values.chunks_exact(3).all(|taps| taps[..2] == [0.0; 2]), "{name}");
                assert_eq!((values.iter().sum::<f32>(), zeros), (shape[0] as f32, values.len() - shape[0] as usize));
                assert_eq!(values[2], 1.0, "{name}");
                assert_eq!(values[3 * shape[1] as usize + 5], 1.0, "{name}: the next input");
            } else if let [_, inputs, 3, 3, 3] = shape[..] {
                let (old, new): (Vec<f32>, Vec<f32>) = values
                    .chunks_exact(27)
                    .map(|taps| (taps[..18].iter().map(|x| x.abs()).sum::<f32>(), taps[20]))
                    .unzip();
                assert!(old.iter().all(|sum| *sum == 0.0), "{name}");
                let expected = 1.0 / (9 * inputs) as f64;
                assert!((variance(&new) / expected - 1.0).abs() < 0.4, "{name}");
            }
        }
    }

    #[test]
    fn a_transformer_begins_with_a_head_that_gives_nothing() {
        for (name, shape) in dit_tensors(&DitConfig::world()) {
            let values = values(Component::Dit, &name, &shape);
            let nothing = name == "head.head.weight" || name.ends_with(".bias");
            assert_eq!(values.iter().all(|value| *value == 0.0), nothing, "{name}");
        }
    }

    #[test]
    fn the_queries_of_a_text_encoder_begin_so_small_that_scores_are_moderate() {
        for (name, shape) in text_tensors(&TextConfig::world()) {
            let values = values(Component::Text, &name, &shape);
            let expected = match () {
                () if name.ends_with("norm.weight") || shape.len() == 1 => 1.0,
                () if name.starts_with("token") => 1.0,
                () if name.ends_with(".q.weight") => 1.0 / (96.0 * 24.0),
                () if name.contains("pos_embedding") => 0.01 / 3.0,
                () => 1.0 / inputs(&shape) as f64,
            };
            assert!((variance(&values) / expected - 1.0).abs() < 0.2, "{name}");
        }
    }
}
