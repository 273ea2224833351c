//! The first values of networks that are trained from nothing.
//!
//! Everything begins as close to nothing as learning allows: norms are 1, biases 0, matrices have
//! the spread that keeps activations where they are, the transformer's head gives 0, and what an
//! autoencoder adds to its input in residual blocks is 0. A convolution over time sees the newest
//! frame alone, so that an autoencoder that has learned single pictures takes clips at once.

use super::{Rule, Values};
use anyid_models::wan::config::TextConfig;
use anyid_models::wan::names::Component;

/// The first values of a tensor, by its canonical name.
pub(super) fn values(component: Component, name: &str, shape: &[u64]) -> Values {
    let last = name.rsplit('.').next().unwrap_or_default();
    let norm = name.contains("norm") && shape.len() == 1 && last == "weight";
    if last == "gamma" || norm {
        return uniform(1.0, 0.0);
    }
    let zero = match component {
        Component::Dit => name.starts_with("head.head."),
        Component::Vae { .. } => name.ends_with("residual.6.weight"),
        Component::Text => false,
    };
    if zero || last == "bias" {
        return uniform(0.0, 0.0);
    }
    let fan_in = shape.iter().skip(1).product::<u64>().max(1) as f32;
    match component {
        // Standard deviation 1/√width.
        Component::Dit if last == "modulation" => {
            uniform(0.0, (3.0 / shape.last().copied().unwrap_or(1) as f32).sqrt())
        }
        Component::Vae { .. } => match *shape {
            [_, inputs, 3, 3, 3] => {
                Values::NewestTap(Rule { centre: 0.0, spread: (3.0 / (9 * inputs) as f32).sqrt() })
            }
            [_, inputs, 3, 1, 1] => Values::NewestFrame { inputs },
            _ => uniform(0.0, fan_in.sqrt().recip()),
        },
        // umT5 does not scale its scores, so queries are as much smaller as heads are wide.
        Component::Text if name.ends_with("attn.q.weight") => {
            let d_kv = TextConfig::world().d_kv as f32;
            uniform(0.0, (3.0 / (fan_in * d_kv)).sqrt())
        }
        Component::Text if name.starts_with("token_embedding") => uniform(0.0, 3f32.sqrt()),
        Component::Text if name.contains("pos_embedding") => {
            uniform(0.0, (3.0 / TextConfig::world().d_model as f32).sqrt())
        }
        Component::Text => uniform(0.0, (3.0 / fan_in).sqrt()),
        Component::Dit => uniform(0.0, fan_in.sqrt().recip()),
    }
}

fn uniform(centre: f32, spread: f32) -> Values {
    Values::Uniform(Rule { centre, spread })
}

#[cfg(test)]
mod tests {
    use super::super::{Preset, fill, key};
    use super::*;
    use anyid_models::wan::names::{dit_tensors, text_tensors, vae_tensors};

    fn made(component: Component, name: &str, shape: &[u64]) -> Vec<f32> {
        let mut out = vec![9.0; shape.iter().product::<u64>() as usize];
        // In two pieces, as large tensors are made.
        let (first, second) = out.split_at_mut(shape.iter().product::<u64>() as usize / 3);
        let values = values(component, name, shape);
        fill(key(1, name), values, 0, first);
        fill(key(1, name), values, first.len() as u64, second);
        out
    }

    #[test]
    fn networks_begin_silent() {
        let (dit, vae, text) = Preset::World.configs();
        let component = vae.component();
        let (mut silent, mut newest) = (0, 0);
        for (name, shape) in vae_tensors(&vae) {
            let all = made(component, &name, &shape);
            if name.ends_with("residual.6.weight") {
                silent += 1;
                assert!(all.iter().all(|value| *value == 0.0), "{name}");
            } else if shape.len() == 5 && shape[2] == 3 {
                newest += 1;
                let taps = (shape[3] * shape[4]) as usize;
                for kernel in all.chunks(3 * taps) {
                    assert!(kernel[..2 * taps].iter().all(|value| *value == 0.0), "{name}");
                }
                assert!(all.iter().any(|value| *value != 0.0), "{name}");
            }
        }
        assert!(silent > 8 && newest > 8, "{silent} {newest}");
        for (name, shape) in dit_tensors(&dit) {
            let zero = name.starts_with("head.head") || name.ends_with("bias");
            let all = made(Component::Dit, &name, &shape);
            assert_eq!(all.iter().all(|value| *value == 0.0), zero, "{name}");
        }
        for (name, shape) in text_tensors(&text) {
            let all = made(Component::Text, &name, &shape);
            let mean = all.iter().sum::<f32>() / all.len() as f32;
            assert_eq!(mean == 1.0, name.contains("norm"), "{name}");
        }
    }

    #[test]
    fn convolutions_over_time_hand_on_the_newest_frame() {
        // Four channels out of two, as where time is doubled.
        let all = made(
            Component::VAE,
            "decoder.upsamples.0.upsamples.2.time_conv.weight",
            &[4, 2, 3, 1, 1],
        );
        let one = |channel: usize| (0..2).map(|from| all[(channel * 2 + from) * 3 + 2]).collect();
        let rows: Vec<Vec<f32>> = (0..4).map(one).collect();
        assert_eq!(rows, [[1.0, 0.0], [0.0, 1.0], [1.0, 0.0], [0.0, 1.0]]);
        assert_eq!(all.iter().sum::<f32>(), 4.0);
    }
}
