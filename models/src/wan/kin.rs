//! Which model a checkpoint is of: the members of the Wan family, told by tensors and sizes, and
//! models of other families that people mistake for it, told by names that only they have.
//!
//! Only names and shapes are looked at. What is not in these tables is simply not known; a network is
//! accepted or refused by its configuration, not here. This only finds the words for it.

use super::config::ShapeLookup;

/// What a transformer with canonical names is, or what it is closest to: `Wan2.1-T2V-1.3B`.
///
/// `None` for one without the tensors of a Wan transformer, or of sizes that no published one has.
pub fn transformer(shape: ShapeLookup<'_>) -> Option<String> {
    let width = *shape("patch_embedding.bias")?.first()?;
    let patches =
        shape("patch_embedding.weight")?.iter().try_fold(1u64, |n, s| n.checked_mul(*s))?;
    // A patch of Wan has 1x2x2 latents.
    let channels = patches / width.max(1).checked_mul(4)?;
    let size = match width {
        1536 => "1.3B",
        3072 => "5B",
        5120 => "14B",
        _ => return None,
    };
    let more = MEMBERS.iter().find(|(tensor, _)| shape(tensor).is_some());
    if let Some((_, what)) = more {
        return Some(format!("{what}, {size}"));
    }
    Some(match (size, channels) {
        ("5B", 48) => "Wan2.2-TI2V-5B".to_owned(),
        ("1.3B", 16) => "Wan2.1-T2V-1.3B".to_owned(),
        ("14B", 16) => "Wan2.1-T2V-14B, or one of the two experts of Wan2.2-T2V-A14B".to_owned(),
        ("14B", 36) => "one of the two experts of Wan2.2-I2V-A14B".to_owned(),
        _ => format!("a Wan model of {size} with {channels} channels"),
    })
}

/// Whether sizes are those of the model that this program is for.
pub fn is_ours(name: &str) -> bool {
    name == "Wan2.2-TI2V-5B"
}

/// Tensors that only some members of the family have.
const MEMBERS: [(&str, &str); 10] = [
    ("vace_blocks.0.self_attn.q.weight", "Wan2.1-VACE"),
    ("vace_patch_embedding.weight", "Wan2.1-VACE"),
    ("motion_encoder.enc.fc.0.weight", "Wan2.2-Animate"),
    ("casual_audio_encoder.weights", "Wan2.2-S2V"),
    ("audio_proj.audio_proj_glob_1.layer.weight", "a Wan model that follows speech"),
    ("control_adapter.conv.weight", "Wan-Fun with control of the camera"),
    ("ref_conv.weight", "Wan-Fun-Control"),
    ("img_emb.proj.1.weight", "Wan2.1 image-to-video"),
    ("blocks.0.cross_attn.k_img.weight", "Wan2.1 image-to-video"),
    ("blocks.0.cross_attn.norm_k_img.weight", "Wan2.1 image-to-video"),
];

/// Ends of the names of tensors, and the model that has them all.
const OTHERS: [(&[&str], &str); 24] = [
    (&["audio_patchify_proj.weight", "patchify_proj.weight"], "LTX-2"),
    (&["patchify_proj.weight", "adaln_single.linear.weight"], "LTX-Video"),
    (
        &["proj_in.weight", "caption_projection.linear_1.weight", "time_embed.linear.weight"],
        "LTX-Video",
    ),
    (&["txt_in.individual_token_refiner.blocks.0.self_attn_qkv.weight"], "HunyuanVideo"),
    (&["txt_in.individual_token_refiner.blocks.0.self_attn.qkv.weight"], "HunyuanVideo"),
    (&["context_embedder.token_refiner.refiner_blocks.0.attn.to_q.weight"], "HunyuanVideo"),
    (&["double_blocks.0.img_attn.qkv.weight", "single_blocks.0.linear1.weight"], "Flux"),
    (&["single_transformer_blocks.0.proj_mlp.weight", "x_embedder.weight"], "Flux"),
    (&["patch_embed.text_proj.weight", "transformer_blocks.0.norm1.linear.weight"], "CogVideoX"),
    (&["transformer_blocks.0.img_mlp.net.0.proj.weight", "txt_norm.weight"], "Qwen-Image"),
    (&["joint_blocks.0.x_block.attn.qkv.weight"], "Stable Diffusion 3"),
    (&["t5_y_embedder.to_q.weight"], "Mochi"),
    (&["label_emb.0.0.weight", "input_blocks.0.0.weight"], "Stable Diffusion XL"),
    (
        &["input_blocks.0.0.weight", "output_blocks.0.0.in_layers.0.weight"],
        "Stable Diffusion 1 or 2",
    ),
    (
        &["down_blocks.0.resnets.0.conv1.weight", "time_embedding.linear_1.weight"],
        "the UNet of Stable Diffusion",
    ),
    (&["encoder.downsamples.0.residual.2.weight", "decoder.middle.1.to_qkv.weight"], VAE_21),
    (
        &["encoder.down_blocks.0.norm1.gamma", "decoder.mid_block.attentions.0.to_qkv.weight"],
        VAE_21,
    ),
    (
        &["encoder.down.0.block.0.conv1.weight", "decoder.up.0.block.0.conv1.weight"],
        "an autoencoder of pictures (Stable Diffusion, Flux)",
    ),
    (&["visual.transformer.0.attn.to_qkv.weight"], CLIP),
    (&["vision_model.encoder.layers.0.self_attn.q_proj.weight"], CLIP),
    (&["text_model.encoder.layers.0.self_attn.q_proj.weight"], "a CLIP text encoder"),
    (&["model.layers.0.self_attn.q_proj.weight", "model.norm.weight"], "a language model"),
    (&["blk.0.attn_q.weight", "output_norm.weight"], "a language model"),
    (&["decoder.block.0.layer.0.SelfAttention.q.weight"], "a whole T5 model, with its decoder"),
];

const VAE_21: &str = "the autoencoder of Wan2.1 and Wan2.2-A14B (16 channels)";
const CLIP: &str = "the CLIP image encoder of Wan2.1 image-to-video";

/// The model of another family that tensors of these names are of.
pub fn other<'n>(names: impl IntoIterator<Item = &'n str>) -> Option<&'static str> {
    let mut missing: Vec<Vec<&str>> = OTHERS.iter().map(|(ends, _)| ends.to_vec()).collect();
    for name in names {
        for ends in &mut missing {
            ends.retain(|end| {
                let before = name.strip_suffix(end);
                // The encoder of T5 has the names of language models of llama.cpp behind its own.
                !before.is_some_and(|before| {
                    before.is_empty() || before.ends_with('.') && before != "enc."
                })
            });
        }
    }
    missing.iter().position(Vec::is_empty).map(|at| OTHERS[at].1)
}

#[cfg(test)]
mod tests {
    use super::super::config::{DitConfig, TextConfig, VaeConfig};
    use super::super::names::{dit_tensors, text_tensors, vae_tensors};
    use super::*;

    fn named(config: &DitConfig, more: Option<&str>) -> Option<String> {
        let tensors = dit_tensors(config);
        transformer(&|name| {
            let own = tensors.iter().find(|(own, _)| own == name).map(|(_, shape)| shape.clone());
            own.or_else(|| (more == Some(name)).then(|| vec![1]))
        })
    }

    #[test]
    fn members_of_the_family_are_told_apart() {
        let real = DitConfig::ti2v_5b();
        let wide = |heads, in_channels| DitConfig { heads, in_channels, ..real.clone() };
        assert_eq!(named(&real, None).as_deref(), Some("Wan2.2-TI2V-5B"));
        assert!(is_ours(&named(&real, None).unwrap()));
        for (config, more, word) in [
            (wide(12, 16), None, "Wan2.1-T2V-1.3B"),
            (wide(40, 16), None, "T2V-14B"),
            (wide(40, 36), None, "I2V-A14B"),
            (wide(12, 36), None, "1.3B with 36"),
            (wide(40, 16), Some("vace_blocks.0.self_attn.q.weight"), "VACE, 14B"),
            (wide(40, 36), Some("img_emb.proj.1.weight"), "Wan2.1 image-to-video, 14B"),
            (wide(40, 36), Some("motion_encoder.enc.fc.0.weight"), "Animate"),
        ] {
            let found = named(&config, more).unwrap();
            assert!(found.contains(word) && !is_ours(&found), "{found}");
        }
        assert_eq!(named(&DitConfig::micro(), None), None);
        assert_eq!(transformer(&|_| None), None);
    }

    #[test]
    fn other_families_are_named_and_wan_is_none_of_them() {
        for (ends, model) in OTHERS {
            let prefixed: Vec<String> = ends.iter().map(|end| format!("model.{end}")).collect();
            let found = other(prefixed.iter().map(String::as_str));
            assert_eq!(found, Some(model), "{ends:?}");
            assert_eq!(other(ends.iter().map(|_| "x")), None);
        }
        let lists = [
            dit_tensors(&DitConfig::ti2v_5b()),
            vae_tensors(&VaeConfig::ti2v_5b()),
            text_tensors(&TextConfig::ti2v_5b()),
        ];
        for (list, component) in lists.iter().zip([
            super::super::names::Component::Dit,
            super::super::names::Component::VAE,
            super::super::names::Component::Text,
        ]) {
            assert_eq!(other(list.iter().map(|(name, _)| name.as_str())), None);
            let names: Vec<String> = list
                .iter()
                .map(|(name, _)| super::super::names::to_diffusers(component, name))
                .collect();
            assert_eq!(other(names.iter().map(String::as_str)), None);
        }
        let t5 = ["token_embd.weight", "enc.blk.0.attn_q.weight", "enc.output_norm.weight"];
        assert_eq!(other(t5), None);
    }
}
