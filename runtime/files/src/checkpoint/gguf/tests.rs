//! Files of gguf-py and ggml with the values that these give, files that were spoilt, and small ones
//! made here.

use super::super::{Checkpoint, WeightSet};
use super::*;
use crate::testing::{files_of, formats};

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|value| value.to_bits()).collect()
}

#[test]
fn every_kind_of_block_decodes_to_the_bits_that_ggml_gives() {
    let folder = formats().join("gguf");
    let expected = WeightSet::open(folder.join("expected.safetensors")).unwrap();
    let mut kinds = std::collections::BTreeSet::new();
    let mut compared = 0;
    for path in
        files_of(&folder).iter().filter(|path| path.extension().is_some_and(|e| e == "gguf"))
    {
        let set = WeightSet::open(path).unwrap();
        let file = path.file_name().unwrap().to_str().unwrap();
        for name in set.names() {
            // A prefix of the file has no part in the names of what is expected.
            let bare = name.strip_prefix("model.diffusion_model.").unwrap_or(name);
            let stem = file.trim_end_matches(".gguf");
            let golden = [format!("{stem}.{name}"), format!("{file}.dequantised.{bare}")];
            let Some(golden) = golden.iter().find(|golden| expected.tensor(golden).is_some())
            else {
                continue;
            };
            let (own, theirs) = (set.tensor(name).unwrap(), expected.tensor(golden).unwrap());
            assert_eq!(own.shape, theirs.shape, "{name}");
            let values = set.values(name).unwrap();
            assert_eq!(bits(&values), bits(&expected.values(golden).unwrap()), "{file} {name}");
            // Any range of the elements is a part of that, also one inside a block.
            for (first, count) in [(0, 1), (31, 2), (255, 2), (33, 480), (5, 7)] {
                if first + count > values.len() {
                    continue;
                }
                let mut part = vec![0; 4 * count];
                set.read_f32(name, first as u64, &mut part).unwrap();
                let part: Vec<u32> =
                    part.as_chunks::<4>().0.iter().map(|v| u32::from_le_bytes(*v)).collect();
                assert_eq!(part, bits(&values[first..first + count]), "{name} {first}");
            }
            kinds.insert(own.encoding);
            compared += 1;
        }
    }
    assert!(compared >= 30, "{compared}");
    if std::env::var_os("ANYID_FORMATS").is_none() {
        let blocks = Encoding::ALL.into_iter().filter(|encoding| encoding.block().elements > 1);
        let missing: Vec<Encoding> = blocks.filter(|kind| !kinds.contains(kind)).collect();
        assert!(missing.is_empty(), "{missing:?}");
    }
}

#[test]
fn metadata_are_kept_as_text_and_lists_are_read_when_they_are_wanted() {
    let file = Checkpoint::open(formats().join("gguf/blocks.gguf")).unwrap();
    assert_eq!(file.table().format(), Format::Gguf);
    for (key, value) in [
        ("general.architecture", "wan"),
        ("general.alignment", "64"),
        ("test.bool", "true"),
        ("test.f64", "0.1"),
        ("test.i64", "-1099511627776"),
        ("test.text", "näïve\n"),
        ("test.strings", "a list of 3"),
    ] {
        assert_eq!(file.metadata()[key], value, "{key}");
    }
    assert_eq!(file.texts("test.strings").unwrap().unwrap(), ["a", "", "ü"]);
    assert_eq!(file.numbers("test.floats").unwrap().unwrap(), [0.5, -1.25]);
    assert_eq!(file.texts("test.none").unwrap(), None);
    for error in [file.texts("test.floats").unwrap_err(), file.numbers("test.strings").unwrap_err()]
    {
        assert_eq!(error.code(), "E0333", "{error}");
        assert!(error.place().is_some(), "{error}");
    }
    assert_eq!(file.fingerprint().unwrap().len(), 64);
}

#[test]
fn files_that_mislead_are_refused_with_their_place() {
    let bad = files_of(&formats().join("gguf/bad"));
    for path in &bad {
        let name = path.file_name().unwrap().to_str().unwrap();
        let error = Checkpoint::open(path).err().unwrap_or_else(|| panic!("{name} is read"));
        let codes = ["E0311", "E0316", "E0318", "E0319", "E0333", "E0334", "E0335"];
        assert!(codes.contains(&error.code()), "{name}: {error}");
        assert_eq!(error.place(), Some(path.display().to_string().as_str()));
        assert!(error.help_text().is_some(), "{error}");
        let wanted = match name {
            "magic.gguf" => Some(("E0311", "before GGUF")),
            "version1.gguf" => Some(("E0334", "version 1")),
            "version_swapped.gguf" => Some(("E0334", "big-endian")),
            "type.gguf" => Some(("E0335", "31 (Q4_0_4_4")),
            "duplicate_name.gguf" => Some(("E0318", "`")),
            "truncated.gguf" => Some(("E0319", "cut off")),
            "truncated_header.gguf" => Some(("E0333", "cut off")),
            "row_not_blocks.gguf" => Some(("E0333", "63 are no whole Q8_0 blocks")),
            "dims_overflow.gguf" => Some(("E0316", "`")),
            "offset.gguf" => Some(("E0319", "`")),
            "offset_alignment.gguf" => Some(("E0333", "no multiple of 32")),
            "n_dims.gguf" => Some(("E0333", "9 axes")),
            "tensor_count.gguf" => Some(("E0333", "1152921504606846976 tensors")),
            "alignment_zero.gguf" => Some(("E0333", "general.alignment is 0")),
            _ => None,
        };
        if let Some((code, words)) = wanted {
            assert_eq!(error.code(), code, "{name}: {error}");
            assert!(error.message().contains(words), "{name}: {error}");
        }
    }
    assert!(bad.len() >= 16, "{}", bad.len());
}

fn text(out: &mut Vec<u8>, text: &str) {
    out.extend((text.len() as u64).to_le_bytes());
    out.extend(text.as_bytes());
}

/// A file of version 3: entries of metadata, written, and tensors with sizes as stored, type and place.
fn small(entries: &[&[u8]], tensors: &[(&str, &[u64], u32, u64)], data: usize) -> Vec<u8> {
    let mut out = b"GGUF\x03\0\0\0".to_vec();
    out.extend((tensors.len() as u64).to_le_bytes());
    out.extend((entries.len() as u64).to_le_bytes());
    entries.iter().for_each(|entry| out.extend(*entry));
    for (name, sizes, ty, offset) in tensors {
        text(&mut out, name);
        out.extend((sizes.len() as u32).to_le_bytes());
        sizes.iter().for_each(|size| out.extend(size.to_le_bytes()));
        out.extend(ty.to_le_bytes());
        out.extend(offset.to_le_bytes());
    }
    out.resize(out.len().next_multiple_of(32) + data, 1);
    out
}

/// An entry: key, kind, and the bytes of the value.
fn entry(key: &str, kind: u32, value: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    text(&mut out, key);
    out.extend(kind.to_le_bytes());
    out.extend(value);
    out
}

fn open(bytes: Vec<u8>) -> Result<Checkpoint> {
    Checkpoint::from_bytes(bytes, "x")
}

fn refused(bytes: Vec<u8>, code: &str, words: &str) {
    let error = open(bytes).expect_err("must be refused");
    assert_eq!(error.code(), code, "{error}");
    assert!(error.message().contains(words), "{error}");
}

#[test]
fn sizes_are_in_the_other_order_and_data_may_have_holes() {
    let tensors = [("b", &[2u64, 3][..], 0, 64), ("a", &[4, 1, 1, 2, 2, 1], 1, 0)];
    let file = open(small(&[], &tensors, 100)).unwrap();
    let [a, b] = file.table().tensors() else { panic!("two") };
    assert_eq!((a.name.as_str(), &a.shape[..]), ("a", &[1, 2, 2, 1, 1, 4][..]));
    assert_eq!((b.name.as_str(), &b.shape[..]), ("b", &[3, 2][..]));
    assert_eq!(file.table().head_bytes() % 32, 0);
    assert!(open(small(&[], &[], 0)).unwrap().is_empty());
}

#[test]
fn a_shape_from_before_quantisation_takes_the_place_of_the_stored_one() {
    let list = |sizes: &[i32]| {
        let mut value = 5u32.to_le_bytes().to_vec();
        value.extend((sizes.len() as u64).to_le_bytes());
        sizes.iter().for_each(|size| value.extend(size.to_le_bytes()));
        entry("comfy.gguf.orig_shape.w", 9, &value)
    };
    let tensors = [("w", &[32u64, 3][..], 8, 0)];
    let file = open(small(&[&list(&[4, 8, 3])], &tensors, 102)).unwrap();
    assert_eq!(file.tensor("w").unwrap().shape, [4, 8, 3]);
    assert!(file.metadata().is_empty());
    for sizes in [&[4, 8, 2][..], &[-4, -8, 3], &[]] {
        refused(small(&[&list(sizes)], &tensors, 102), "E0333", "`w`");
    }
}

#[test]
fn metadata_of_every_fault_are_refused() {
    let one = |key: &str, kind: u32, value: &[u8]| small(&[&entry(key, kind, value)], &[], 0);
    assert_eq!(open(one("a", 4, &[1, 0, 0, 0])).unwrap().metadata()["a"], "1");
    refused(one("a", 13, &[0; 8]), "E0333", "kind 13");
    refused(one("a", 9, &[9, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0]), "E0333", "kind 9");
    refused(one("a", 9, &[[0; 4], [255; 4], [255; 4]].concat()), "E0333", "cut off");
    refused(one("a", 9, &[[8, 0, 0, 0], [255; 4], [255; 4]].concat()), "E0333", "cut off");
    refused(one("a", 8, &[1, 0, 0, 0, 0, 0, 0, 0, 0xff]), "E0333", "UTF-8");
    refused(one("general.alignment", 4, &[3, 0, 0, 0]), "E0333", "power of two");
    refused(one("general.alignment", 10, &[32, 0, 0, 0, 0, 0, 0, 0]), "E0333", "u32");
    let twice = entry("a", 7, &[1]);
    refused(small(&[&twice, &twice], &[], 0), "E0333", "\"a\" twice");
    let long = [&70_000u64.to_le_bytes()[..], &[b'x'; 70_000]].concat();
    let file = open(one("a", 8, &long)).unwrap();
    assert_eq!(file.metadata()["a"], "a text of more than 65536 bytes");
    refused(small(&[&[&long[..], &[7, 0, 0, 0, 1]].concat()], &[], 0), "E0333", "name of more");
}

#[test]
fn tensors_of_every_fault_are_refused() {
    let one = |sizes: &[u64], ty, offset| small(&[], &[("w", sizes, ty, offset)], 100);
    for (ty, code, words) in [
        (9, "E0335", "Q8_1"),
        (15, "E0335", "Q8_K"),
        (16, "E0335", "IQ2_XXS"),
        (39, "E0335", "MXFP4"),
        (99, "E0333", "unknown type 99"),
    ] {
        refused(one(&[256], ty, 0), code, words);
    }
    refused(one(&[], 2, 0), "E0333", "no whole Q4_0 blocks");
    let two = |first, second| small(&[], &[("a", &[8], 0, first), ("b", &[8], 0, second)], 100);
    open(two(32, 0)).unwrap();
    refused(two(0, 0), "E0333", "overlap");
    refused(small(&[], &[("a", &[9], 0, 0), ("b", &[1], 0, 32)], 100), "E0333", "overlap");
    refused(one(&[1], 0, u64::MAX - 31), "E0319", "`w`");
}

#[test]
fn a_file_that_is_cut_or_changed_anywhere_is_read_or_refused() {
    let tensors = [("b", &[2u64, 3][..], 0, 64), ("a", &[32], 8, 0)];
    let note = entry("note", 8, &[2, 0, 0, 0, 0, 0, 0, 0, b'h', b'i']);
    let bytes = small(&[&note], &tensors, 88);
    open(bytes.clone()).unwrap();
    for end in 0..bytes.len() {
        assert!(open(bytes[..end].to_vec()).is_err(), "{end}");
    }
    for at in 0..bytes.len() {
        for change in [0x01, 0x80, 0xff] {
            let mut changed = bytes.clone();
            changed[at] ^= change;
            let Ok(file) = open(changed) else { continue };
            for position in 0..file.len() {
                file.contents(position).unwrap();
            }
        }
    }
}
