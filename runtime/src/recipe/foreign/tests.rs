//! Settings of ComfyUI and A1111, in their forms and in none.

use super::*;

/// A graph as ComfyUI's template for this model makes it.
fn graph() -> Value {
    json!({
        "3": { "class_type": "KSampler", "inputs": {
            "seed": 898471028164125u64, "steps": 20, "cfg": 5, "sampler_name": "uni_pc", "scheduler": "simple",
            "denoise": 1, "model": ["48", 0], "positive": ["6", 0], "negative": ["7", 0],
            "latent_image": ["55", 0] } },
        "6": { "class_type": "CLIPTextEncode", "inputs": { "text": ["60", 0], "clip": ["38", 0] } },
        "7": { "class_type": "CLIPTextEncode", "inputs": { "text": "blurry", "clip": ["38", 0] } },
        "8": { "class_type": "VAEDecode", "inputs": { "samples": ["3", 0], "vae": ["39", 0] } },
        "37": { "class_type": "UNETLoader", "inputs": {
            "unet_name": "wan2.2_ti2v_5B_fp16.safetensors", "weight_dtype": "default" } },
        "38": { "class_type": "CLIPLoader", "inputs": { "clip_name": "umt5.safetensors", "type": "wan" } },
        "48": { "class_type": "ModelSamplingSD3", "inputs": { "shift": 8, "model": ["50", 0] } },
        "50": { "class_type": "LoraLoaderModelOnly", "inputs": {
            "lora_name": "me.safetensors", "strength_model": 0.8, "model": ["37", 0] } },
        "55": { "class_type": "Wan22ImageToVideoLatent", "inputs": {
            "width": 1280, "height": 704, "length": 121, "batch_size": 1, "vae": ["39", 0],
            "start_image": ["56", 0] } },
        "57": { "class_type": "CreateVideo", "inputs": { "fps": 24, "images": ["8", 0] } },
        "60": { "class_type": "PrimitiveStringMultiline", "inputs": { "value": "She smiles." } },
    })
}

#[test]
fn a_graph_of_comfyui_is_mapped_and_the_rest_is_said() {
    let found = Foreign::of_graph(&graph().to_string()).unwrap();
    assert_eq!(found.program, "ComfyUI");
    assert_eq!(found.prompt.as_deref(), Some("She smiles."));
    assert_eq!(found.negative.as_deref(), Some("blurry"));
    assert_eq!((found.seed, found.steps), (Some(898_471_028_164_125), Some(20)));
    assert_eq!((found.guidance, found.shift, found.fps), (Some(5.0), Some(8.0), Some(24.0)));
    assert_eq!((found.size, found.frames), (Some([1280, 704]), Some(121)));
    assert_eq!((found.solver, found.adapters.len()), (Some("unipc"), 1));
    assert_eq!(found.adapters[0], ("me.safetensors".to_owned(), 0.8));
    assert_eq!(found.model.as_deref(), Some("wan2.2_ti2v_5B_fp16.safetensors"));
    let said = found.unmapped.join("\n");
    for part in ["scheduler simple", "first or last frame"] {
        assert!(said.contains(part), "{part}: {said}");
    }
    assert_eq!(found.unmapped.len(), 2, "{said}");
    let comment = json!({ "prompt": graph().to_string(), "workflow": {} }).to_string();
    assert_eq!(Foreign::of_comment(&comment).unwrap(), found);
    let comment = json!({ "prompt": graph(), "workflow": {} }).to_string();
    assert_eq!(Foreign::of_comment(&comment).unwrap(), found);
    assert_eq!(found.flags()[..2], ["--negative-prompt \"blurry\"", "--size 1280x704"]);
}

#[test]
fn nodes_of_other_names_are_read_by_their_inputs() {
    let advanced = json!({
        "1": { "class_type": "SamplerCustomAdvanced", "inputs": {
            "noise": ["2", 0], "guider": ["3", 0], "sampler": ["4", 0], "sigmas": ["5", 0] } },
        "2": { "class_type": "RandomNoise", "inputs": { "noise_seed": 7 } },
        "3": { "class_type": "CFGGuider", "inputs": { "cfg": 3.5, "positive": ["6", 0] } },
        "4": { "class_type": "KSamplerSelect", "inputs": { "sampler_name": "res_multistep" } },
        "5": { "class_type": "BasicScheduler", "inputs": { "steps": 9, "scheduler": "beta", "denoise": 0.5 } },
        "6": { "class_type": "CLIPTextEncode", "inputs": { "text": "a walk" } },
    });
    let found = Foreign::of_graph(&advanced.to_string()).unwrap();
    assert_eq!((found.seed, found.steps, found.guidance), (Some(7), Some(9), Some(3.5)));
    assert_eq!((found.prompt.as_deref(), found.solver), (Some("a walk"), None));
    let said = found.unmapped.join("\n");
    assert!(said.contains("sampler res_multistep") && said.contains("denoise below 1"), "{said}");
    let wrapper = json!({
        "10": { "class_type": "WanVideoSampler", "inputs": {
            "steps": 30, "cfg": 6.0, "shift": 5.0, "seed": 3, "scheduler": "unipc", "model": ["11", 0],
            "text_embeds": ["12", 0], "image_embeds": ["13", 0] } },
        "11": { "class_type": "WanVideoModelLoader", "inputs": { "model": "wan_ti2v_fp8.safetensors" } },
        "12": { "class_type": "WanVideoTextEncode", "inputs": {
            "positive_prompt": "a dance", "negative_prompt": "" } },
        "13": { "class_type": "WanVideoEmptyEmbeds", "inputs": {
            "width": 832, "height": 480, "num_frames": 81 } },
        "20": { "class_type": "VHS_VideoCombine", "inputs": { "frame_rate": 16 } },
        "99": { "class_type": "KSampler", "inputs": { "seed": 1 } },
    });
    let found = Foreign::of_graph(&wrapper.to_string()).unwrap();
    assert_eq!((found.solver, found.prompt.as_deref()), (Some("unipc"), Some("a dance")));
    assert_eq!((found.size, found.frames, found.fps), (Some([832, 480]), Some(81), Some(16.0)));
    assert_eq!(found.model.as_deref(), Some("wan_ti2v_fp8.safetensors"));
    assert_eq!((found.negative, found.unmapped.len()), (None, 1));
    assert!(found.unmapped[0].contains("2 samplers"));
}

#[test]
fn graphs_that_are_none_or_go_round_end() {
    for text in ["", "[]", "{}", "{\"1\": {}}", "{\"1\": {\"class_type\": \"Sampler\"}", "1"] {
        assert_eq!(Foreign::of_graph(text), None, "{text}");
    }
    let circle = json!({
        "1": { "class_type": "KSampler", "inputs": {
            "positive": ["2", 0], "negative": ["1", 0], "model": ["1", 0], "seed": -1, "steps": "many" } },
        "2": { "class_type": "A", "inputs": { "text": ["3", 0] } },
        "3": { "class_type": "B", "inputs": { "text": ["2", 0], "width": ["9", 0] } },
    });
    let found = Foreign::of_graph(&circle.to_string()).unwrap();
    assert_eq!((found.prompt, found.seed, found.steps), (None, None, None));
    // A chain of nodes as long as files allow is followed without recursion.
    let mut nodes = serde_json::Map::new();
    for at in 0..30_000 {
        let next = (at + 1).to_string();
        let class = if at == 0 { "KSampler" } else { "Reroute" };
        nodes.insert(
            at.to_string(),
            json!({ "class_type": class, "inputs": { "model": [next, 0] } }),
        );
    }
    assert!(Foreign::of_graph(&Value::from(nodes).to_string()).is_some());
}

#[test]
fn the_text_of_a1111_is_mapped() {
    let text = "A woman, smiling <lora:me:0.7> slowly\nand a dog\nNegative prompt: blurry, low\nquality\n\
                Steps: 20, Sampler: DPM++ 2M, Schedule type: Karras, CFG scale: 5.5, Seed: 1, Size: 832x480, \
                Model: \"a, b: c\", Lora hashes: \"me: 12ab\", Version: v1.10";
    let found = Foreign::of_parameters(text).unwrap();
    assert_eq!(found.prompt.as_deref(), Some("A woman, smiling  slowly\nand a dog"));
    assert_eq!(found.negative.as_deref(), Some("blurry, low\nquality"));
    assert_eq!((found.steps, found.guidance, found.seed), (Some(20), Some(5.5), Some(1)));
    assert_eq!((found.size, found.solver), (Some([832, 480]), Some("dpmpp")));
    assert_eq!((found.model.as_deref(), found.adapters.len()), (Some("a, b: c"), 1));
    let said = found.unmapped.join("\n");
    for part in ["Schedule type: Karras", "Lora hashes: me: 12ab"] {
        assert!(said.contains(part), "{part}: {said}");
    }
    let other = Foreign::of_parameters(
        "Steps: 4, CFG scale: 1, Seed: -5, Size: wide, Sampler: euler_a, Version: stable-diffusion.cpp abc",
    );
    let other = other.unwrap();
    assert_eq!(other.program, "stable-diffusion.cpp");
    assert_eq!((other.prompt, other.seed, other.size), (None, None, None));
    assert_eq!(other.unmapped, ["sampler euler_a"]);
    for text in ["", "a prompt alone", "in Steps: 3", "Steps"] {
        assert_eq!(Foreign::of_parameters(text), None, "{text}");
    }
    assert!(Foreign::of_parameters("Steps: 1, \"odd: \"x, : , a:").is_some());
}
