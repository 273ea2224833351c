//! Files that PyTorch wrote, and files that were made to mislead (`tests/fixtures_extra/pth`).

use std::path::{Path, PathBuf};

use super::super::{Checkpoint, Format, read_json};
use crate::testing::{files_of, formats};

fn folder() -> PathBuf {
    formats().join("pth")
}

/// PyTorch's names of element types, and ours.
const ENCODINGS: [(&str, &str); 10] = [
    ("float64", "F64"),
    ("float32", "F32"),
    ("float16", "F16"),
    ("bfloat16", "BF16"),
    ("float8_e4m3fn", "F8_E4M3"),
    ("float8_e5m2", "F8_E5M2"),
    ("int64", "I64"),
    ("int32", "I32"),
    ("uint8", "U8"),
    ("bool", "BOOL"),
];

#[test]
fn files_of_pytorch_give_the_tensors_that_it_gives() {
    let expected = Checkpoint::open(folder().join("expected.safetensors")).unwrap();
    let cases = read_json(folder().join("cases.json")).unwrap().value;
    let mut read = 0;
    for (name, case) in cases.as_object().unwrap() {
        let opened = Checkpoint::open(folder().join(name));
        let refusal = match name.as_str() {
            // Formats that PyTorch no longer writes.
            "legacy.pth" => Some("E0311"),
            "protocol4.pth" => Some("E0973"),
            _ => None,
        };
        if let Some(code) = refusal {
            assert_eq!(opened.unwrap_err().code(), code, "{name}");
            continue;
        }
        if case["expect"] != "ok" {
            continue;
        }
        let file = opened.unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(file.table().format(), Format::Torch);
        for tensor in case["tensors"].as_array().unwrap() {
            let tensor = tensor.as_str().unwrap();
            let position =
                file.table().position(tensor).unwrap_or_else(|| panic!("{name} {tensor}"));
            let stem = name.trim_end_matches(".pth");
            let other = expected.table().position(&format!("{stem}.{tensor}")).unwrap();
            // The expected values are f32 where they were floating-point.
            let [own, theirs] = [(&file, position), (&expected, other)].map(|(file, at)| {
                let range = &file.table().tensors()[at];
                let bytes = file.contents(at).unwrap();
                let mut values = vec![0.0; range.elements() as usize];
                let decoded = range.encoding.decode(&bytes, &mut values);
                // Whole numbers are compared as they are.
                let whole = if decoded.is_ok() { Vec::new() } else { bytes };
                (range.shape.clone(), values, whole)
            });
            assert_eq!(own, theirs, "{name} {tensor}");
            let encoding = file.table().tensors()[position].encoding.name();
            let said = case["dtypes"][tensor].as_str().unwrap_or("float32");
            assert_eq!(ENCODINGS.iter().find(|(own, _)| *own == said).unwrap().1, encoding);
        }
        assert_eq!(file.fingerprint().unwrap().len(), 64);
        assert!(file.verify().unwrap(), "{name} has checksums");
        read += 1;
    }
    assert!(!expected.verify().unwrap(), "safetensors has no checksums");
    assert!(read >= 11, "{read}");
}

#[test]
fn views_are_gathered_whatever_range_is_read() {
    let file = Checkpoint::open(folder().join("views.pth")).unwrap();
    let mut gathered = 0;
    for (position, (name, tensor)) in file.iter().enumerate() {
        gathered += usize::from(tensor.strides.is_some());
        let whole = file.contents(position).unwrap();
        for from in 0..whole.len() {
            for count in [1, 3, 4, 7, whole.len() - from] {
                let mut part = vec![0; count.min(whole.len() - from)];
                file.read(position, from as u64, &mut part).unwrap();
                assert_eq!(part, whole[from..from + part.len()], "{name} {from}");
            }
        }
    }
    assert!(gathered > 2, "{gathered}");
}

#[test]
fn files_that_mislead_are_refused_and_nothing_of_them_is_run() {
    let mut refused = 0;
    for path in files_of(&folder().join("bad")) {
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        let opened = Checkpoint::open(&path);
        // Sums over the bytes are not computed unasked: that would read the whole file to open it.
        if name == "crc_mismatch.pth" {
            let error = opened.unwrap().verify().unwrap_err();
            assert!(error.code() == "E0974" && error.message().contains("/data/0`"), "{error}");
            assert!(error.place().is_some_and(|place| place.ends_with(&name)), "{error}");
            continue;
        }
        let error = opened.err().unwrap_or_else(|| panic!("{name} is read"));
        let codes = ["E0311", "E0316", "E0318", "E0973", "E0974", "E0975"];
        assert!(codes.contains(&error.code()), "{name}: {error}");
        assert!(error.place().is_some() && error.help_text().is_some(), "{name}: {error}");
        let wanted = match name.as_str() {
            "os_system.pth" => Some(("E0973", "posix.system")),
            "unused_global.pth" | "inst_opcode.pth" | "torchscript.pth" => Some(("E0973", "")),
            "big_endian.pth" => Some(("E0973", "big")),
            "top_level_list.pth" => Some(("E0973", "dict of tensors")),
            "duplicate_key.pth" => Some(("E0318", "")),
            "huge_expand.pth" => Some(("E0975", "")),
            "truncated_zip.pth" | "view_past_end.pth" | "missing_storage.pth" => {
                Some(("E0974", ""))
            }
            _ => None,
        };
        if let Some((code, said)) = wanted {
            assert_eq!(error.code(), code, "{name}: {error}");
            assert!(error.message().contains(said), "{name}: {error}");
        }
        refused += 1;
    }
    assert!(refused > 35, "{refused}");
    assert!(!Path::new("anyid_rt_pickle_was_executed.txt").exists());
}

#[test]
fn a_file_that_is_cut_or_changed_anywhere_is_read_or_refused() {
    let bytes = std::fs::read(folder().join("plain_f32.pth")).unwrap();
    for end in 0..bytes.len() {
        assert!(Checkpoint::from_bytes(bytes[..end].to_vec(), "x").is_err(), "{end}");
    }
    for at in 0..bytes.len() {
        for change in [0x01, 0x80, 0xff] {
            let mut changed = bytes.clone();
            changed[at] ^= change;
            let Ok(file) = Checkpoint::from_bytes(changed, "x") else { continue };
            for position in 0..file.len() {
                file.contents(position).unwrap();
            }
        }
    }
}
