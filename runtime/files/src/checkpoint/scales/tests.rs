//! Files in the ways of the programs that write scales, with the values that follow, and files in which
//! something is missing or wrong.

use super::super::{Checkpoint, read_json};
use super::*;
use crate::testing::{file, files_of, formats};

/// The distance of two numbers in steps of f32.
fn steps(a: f32, b: f32) -> u32 {
    let place = |value: f32| {
        let bits = value.to_bits().cast_signed();
        if bits < 0 { i32::MIN - bits } else { bits }
    };
    place(a).abs_diff(place(b))
}

#[test]
fn scaled_weights_are_those_that_the_files_were_made_of() {
    let folder = formats().join("comfy");
    let expected = WeightSet::open(folder.join("expected.safetensors")).unwrap();
    let mut compared = 0;
    for path in files_of(&folder) {
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        if name == "expected.safetensors" {
            continue;
        }
        let stored = WeightSet::open(&path).unwrap();
        let set = stored.unscaled().unwrap_or_else(|error| panic!("{name}: {error}"));
        let aside = ["scale", MARKER, "comfy_quant", SPIECE];
        let left = set.names().find(|name| aside.iter().any(|word| name.contains(word)));
        assert_eq!(left, None, "{name}");
        assert_eq!(set.scaled_weights() > 0, stored.names().any(|name| name.contains("scale")));
        assert_eq!(set.fingerprint().unwrap(), stored.fingerprint().unwrap());
        let before = format!("{name}.dequantised.");
        let prefix = ["model.diffusion_model.", ""];
        for (golden, of) in expected.names().filter_map(|g| Some((g, g.strip_prefix(&before)?))) {
            let mut names = prefix.iter().map(|prefix| format!("{prefix}{of}"));
            let own = names.find(|own| set.tensor(own).is_some()).unwrap_or_else(|| panic!("{of}"));
            let (found, wanted) = (set.values(&own).unwrap(), expected.values(golden).unwrap());
            assert_eq!(found.len(), wanted.len());
            let worst = found.iter().zip(&wanted).map(|(a, b)| steps(*a, *b)).max();
            assert!(worst <= Some(1), "{golden}: {worst:?} steps");
            // Any range of it is a part of that.
            for (first, count) in [(0, 1), (30, 5), (100, 700), (1, 1023)] {
                let mut part = vec![0; 4 * count];
                set.read_f32(&own, first as u64, &mut part).unwrap();
                let part: Vec<f32> =
                    part.as_chunks::<4>().0.iter().map(|v| f32::from_le_bytes(*v)).collect();
                assert_eq!(part, found[first..first + count], "{golden} {first}");
            }
            compared += 1;
        }
    }
    assert!(compared >= 6, "{compared}");
}

#[test]
fn tables_of_eight_bits_are_those_of_pytorch() {
    let folder = formats().join("comfy");
    let expected = WeightSet::open(folder.join("expected.safetensors")).unwrap();
    let codes: Vec<u8> = (0..=255).collect();
    for (encoding, name) in [(Encoding::F8E4M3, "table.e4m3fn"), (Encoding::F8E5M2, "table.e5m2")] {
        let mut values = [0.0; 256];
        encoding.decode(&codes, &mut values).unwrap();
        for (code, (own, theirs)) in values.iter().zip(expected.values(name).unwrap()).enumerate() {
            let same = own.to_bits() == theirs.to_bits() || own.is_nan() && theirs.is_nan();
            assert!(same, "{name} {code:#x}: {own} {theirs}");
        }
    }
}

#[test]
fn files_that_mislead_are_refused_with_file_and_tensor() {
    let folder = formats().join("comfy/bad");
    let files = files_of(&folder);
    let cases = read_json(folder.join("cases.json")).unwrap().value;
    assert_eq!(files.len(), cases.as_object().unwrap().len());
    for path in files {
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        let error = WeightSet::open(&path).unwrap().unscaled();
        let error = error.err().unwrap_or_else(|| panic!("{name} is read"));
        assert!(["E0335", "E0336", "E0337"].contains(&error.code()), "{name}: {error}");
        assert_eq!(error.place(), Some(path.display().to_string().as_str()));
        assert!(error.message().contains("self_attn.q"), "{name}: {error}");
        assert!(error.help_text().is_some());
        let wanted = match name.as_str() {
            "nvfp4.safetensors" => Some(("E0335", "NVFP4")),
            "scale_missing.safetensors" => Some(("E0336", "without a scale")),
            "scale_nan.safetensors" => Some(("E0336", "NaN")),
            "scale_shape.safetensors" => Some(("E0336", "[3]")),
            "quant_json.safetensors" => Some(("E0337", "not JSON")),
            _ => None,
        };
        if let Some((code, words)) = wanted {
            assert_eq!(error.code(), code, "{name}: {error}");
            assert!(error.message().contains(words), "{name}: {error}");
        }
    }
}

/// A set of tensors: name, type, shape and bytes of each; with metadata.
fn set(tensors: &[(&str, &str, &[u64], &[u8])], metadata: &[(&str, &str)]) -> WeightSet {
    let (mut entries, mut data) = (serde_json::Map::new(), Vec::new());
    if !metadata.is_empty() {
        let map: BTreeMap<&str, &str> = metadata.iter().copied().collect();
        entries.insert("__metadata__".into(), serde_json::json!(map));
    }
    for (name, dtype, shape, bytes) in tensors {
        let places = [data.len(), data.len() + bytes.len()];
        let entry = serde_json::json!({ "dtype": dtype, "shape": shape, "data_offsets": places });
        entries.insert((*name).to_owned(), entry);
        data.extend(*bytes);
    }
    let bytes = file(&Value::Object(entries).to_string(), &data);
    WeightSet::from_checkpoints(vec![Checkpoint::from_bytes(bytes, "x").unwrap()]).unwrap()
}

/// 1, 2, 1.5, 0.5 in e4m3.
const FOUR: [u8; 4] = [0x38, 0x40, 0x3c, 0x30];
const HALF: [u8; 4] = 0.5f32.to_le_bytes();

fn f32s(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

fn refused(set: &WeightSet, code: &str, words: &str) {
    let error = set.unscaled().map(|_| ()).unwrap_err();
    assert_eq!(error.code(), code, "{error}");
    assert!(error.message().contains(words), "{error}");
}

#[test]
fn scales_belong_to_a_matrix_its_rows_or_runs_of_them() {
    let two = f32s(&[0.5, 3.0]);
    let four = f32s(&[0.5, 3.0, 2.0, 1.0]);
    for (shape, scale, expected) in [
        (&[][..], &HALF[..], [0.5, 1.0, 0.75, 0.25]),
        (&[1], &HALF, [0.5, 1.0, 0.75, 0.25]),
        (&[2], &two, [0.5, 1.0, 4.5, 1.5]),
        (&[2, 1], &two, [0.5, 1.0, 4.5, 1.5]),
        (&[2, 1, 1], &two, [0.5, 1.0, 4.5, 1.5]),
        (&[2, 2, 1], &four, [0.5, 6.0, 3.0, 0.5]),
    ] {
        for end in SCALES {
            let name = format!("a{end}");
            let stored =
                set(&[("a.weight", "F8_E4M3", &[2, 2], &FOUR), (&name, "F32", shape, scale)], &[]);
            let scaled = stored.unscaled().unwrap();
            assert_eq!(scaled.values("a.weight").unwrap(), expected, "{shape:?}");
            assert_eq!((scaled.len(), scaled.scaled_weights()), (1, 1));
            assert!(scaled.is_quantised("a.weight") && stored.is_quantised("a.weight"));
            let stored = scaled.stored_bytes_by_encoding();
            assert_eq!(stored[&Encoding::F8E4M3], 4, "of the file, not of the numbers");
        }
    }
    let weight = ("a.weight", "F8_E4M3", &[2u64, 2][..], &FOUR[..]);
    for (shape, count) in
        [(&[4u64][..], 4), (&[1, 2], 2), (&[2, 2], 4), (&[2, 4, 1], 8), (&[1, 1], 1)]
    {
        let scale = f32s(&vec![1.0; count]);
        refused(
            &set(&[weight, ("a.scale_weight", "F32", shape, &scale)], &[]),
            "E0336",
            "`a.scale_weight`",
        );
    }
    for bad in [0.0, -1.0, f32::NAN, f32::INFINITY] {
        let scale = f32s(&[bad]);
        refused(
            &set(&[weight, ("a.scale_weight", "F32", &[], &scale)], &[]),
            "E0336",
            "`a.scale_weight`",
        );
    }
    refused(&set(&[weight, ("a.scale_weight", "I32", &[], &HALF)], &[]), "E0336", "I32");
    let both =
        [weight, ("a.scale_weight", "F32", &[][..], &HALF), ("a.weight_scale", "F32", &[], &HALF)];
    refused(&set(&both, &[]), "E0336", "two scales");
}

#[test]
fn a_scale_that_is_wrong_far_behind_is_found_when_it_is_read() {
    let count = LOOKED_AT as usize + 2;
    let mut scales = vec![1.0f32; count];
    scales[count - 1] = f32::NAN;
    let (weights, scales) = (vec![0x38; count], f32s(&scales));
    let rows = [count as u64, 1];
    let stored = set(
        &[("a.weight", "F8_E4M3", &rows, &weights), ("a.weight_scale", "F32", &rows, &scales)],
        &[],
    );
    let scaled = stored.unscaled().unwrap();
    let mut values = [0; 8];
    scaled.read_f32("a.weight", 5, &mut values).unwrap();
    let error = scaled.read_f32("a.weight", count as u64 - 2, &mut values).unwrap_err();
    assert_eq!((error.code(), error.place()), ("E0336", Some("x")), "{error}");
    assert!(error.message().contains("`a.weight_scale`"), "{error}");
}

#[test]
fn what_says_that_a_file_is_scaled_is_believed_about_every_matrix() {
    let weight = ("m.a.weight", "F8_E4M3", &[2u64, 2][..], &FOUR[..]);
    let plain = set(&[weight], &[]);
    assert_eq!(plain.unscaled().unwrap().values("m.a.weight").unwrap(), [1.0, 2.0, 1.5, 0.5]);
    for marker in ["m.scaled_fp8", "scaled_fp8"] {
        refused(&set(&[weight, (marker, "F8_E4M3", &[0], &[])], &[]), "E0336", "`m.a.weight`");
    }
    // The marker of another network, and a matrix of other numbers.
    set(&[weight, ("n.scaled_fp8", "F8_E4M3", &[0], &[])], &[]).unscaled().unwrap();
    let wide = ("m.a.weight", "F32", &[1u64][..], &HALF[..]);
    let marked = set(&[wide, ("m.scaled_fp8", "F32", &[0], &[])], &[]).unscaled().unwrap();
    assert_eq!(marked.names().collect::<Vec<_>>(), ["m.a.weight"]);
    let other = ("m.b.weight", "F8_E4M3", &[2u64, 2][..], &FOUR[..]);
    let scale = ("m.a.scale_weight", "F32", &[][..], &HALF[..]);
    refused(&set(&[weight, scale, other], &[]), "E0336", "`m.b.weight`");
    refused(&set(&[wide, scale], &[]), "E0336", "F32 and has a scale");
    refused(&set(&[("m.a.weight", "I8", &[2, 2], &FOUR), scale], &[]), "E0335", "int8");
    refused(&set(&[("m.a.weight", "U8", &[2, 2], &FOUR), scale], &[]), "E0335", "packed");
    refused(&set(&[("m.a.qweight", "I32", &[1], &FOUR)], &[]), "E0335", "AWQ");
    // A scale of nothing stays, and is left over for the model.
    let alone = set(&[("m.a.scale_weight", "F32", &[], &HALF)], &[]).unscaled().unwrap();
    assert_eq!(alone.len(), 1);
}

#[test]
fn descriptions_must_agree_with_the_tensors() {
    let weight = ("m.a.weight", "F8_E4M3", &[2u64, 2][..], &FOUR[..]);
    let scale = ("m.a.weight_scale", "F32", &[][..], &HALF[..]);
    let described = |text: &str, dtype: &str| {
        let length = [text.len() as u64];
        set(&[weight, scale, ("m.a.comfy_quant", dtype, &length, text.as_bytes())], &[])
    };
    let good = r#"{"format": "float8_e4m3fn"}"#;
    assert_eq!(described(good, "U8").unscaled().unwrap().len(), 1);
    refused(&described(good, "I8"), "E0337", "no text");
    refused(&described(r#"{"format": "float8_e5m2"}"#, "U8"), "E0337", "float8_e5m2");
    refused(&described(r#"{"format": "mxfp8"}"#, "U8"), "E0335", "mxfp8");
    refused(&described(r#"{"form": 1}"#, "U8"), "E0337", "names no format");
    let header = |text: &str| set(&[weight, scale], &[(DESCRIPTIONS, text)]);
    for name in ["a", "m.a"] {
        let text = format!(r#"{{"format_version": "1.0", "layers": {{"{name}": {good}}}}}"#);
        assert_eq!(header(&text).unscaled().unwrap().scaled_weights(), 1);
        // Without the scale that it promises.
        refused(&set(&[weight], &[(DESCRIPTIONS, &text)]), "E0336", "`m.a.weight`");
    }
    refused(&header("{"), "E0337", "not JSON");
    refused(&header(r#"{"layers": 3}"#), "E0337", "no layers");
    refused(&header(r#"{"layers": {"b": {"format": "float8_e4m3fn"}}}"#), "E0337", "`b`");
    refused(&header(r#"{"layers": {"a": {"format": "nvfp4"}}}"#), "E0335", "nvfp4");
    let smooth = |factor: f32| {
        let factor = f32s(&[factor]);
        set(&[weight, scale, ("m.a.pre_quant_scale", "F32", &[1], &factor)], &[])
    };
    assert_eq!(smooth(1.0).unscaled().unwrap().len(), 1);
    refused(&smooth(2.0), "E0335", "`m.a.pre_quant_scale`");
}
