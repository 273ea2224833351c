//! Checkpoint formats: which one a file has, told by its first bytes, and the parser of each.
//!
//! The set is closed. A parser turns the contents of a file into a [`Table`] and knows nothing of
//! what happens to it then. The name of a file plays no part in this, except in advice.

use super::gguf;
use super::safetensors;
use super::source::Source;
use super::table::Table;
use super::torch;
use crate::error::{Error, Result};
use crate::media::{Signature, sniff};

/// A format of checkpoint files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// A header in JSON, and the tensors behind it without holes.
    Safetensors,
    /// A zip archive with a description of the tensors, as `torch.save` writes it.
    Torch,
    /// A header in binary with metadata, and tensors that may be quantised in blocks.
    Gguf,
}

/// Bytes looked at to tell what a file is.
const FIRST: u64 = 4096;

impl Format {
    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Safetensors => "safetensors",
            Self::Torch => "PyTorch",
            Self::Gguf => "GGUF",
        }
    }

    /// Whether a file of `file_bytes` bytes that begins with `head` looks like a checkpoint.
    pub fn is_likely(head: &[u8], file_bytes: u64) -> bool {
        safetensors::is_likely(head, file_bytes) || torch::is_likely(head) || gguf::is_likely(head)
    }

    /// The format of a file of `file_bytes` bytes that begins with `head`.
    ///
    /// # Errors
    /// E0311 for what is known to be something else. What is not known at all is left to the parser
    /// of the format that has no mark, which says what is wrong.
    fn of(head: &[u8], file_bytes: u64) -> Result<Self> {
        let json = Foreign {
            what: "a JSON file",
            help: "for sharded weights pass the `*.index.json` under that name",
        };
        // As with other marks, the length of a header may spell one.
        let is_json = || {
            let likely = safetensors::is_likely(head, file_bytes);
            (!likely && head.trim_ascii_start().starts_with(b"{")).then_some(json)
        };
        if !safetensors::is_likely(head, file_bytes) {
            if torch::is_likely(head) {
                return Ok(Self::Torch);
            }
            if gguf::is_likely(head) {
                return Ok(Self::Gguf);
            }
        }
        let is_media = || {
            let media = matches!(
                sniff(head),
                Signature::Still(_) | Signature::Mp4 | Signature::Heif(_) | Signature::Foreign(_)
            );
            let what = "a picture or video";
            let help = "give a file of weights; pictures are given with --ref";
            (media && !safetensors::is_likely(head, file_bytes)).then_some(Foreign { what, help })
        };
        match foreign(head, file_bytes).or_else(is_json).or_else(is_media) {
            Some(Foreign { what, help }) => {
                let message = format!("this is no checkpoint: it is {what}");
                Err(Error::input("E0311", message).help(help))
            }
            None => Ok(Self::Safetensors),
        }
    }

    /// The table of a file.
    ///
    /// # Errors
    /// E0311 for a file that is no checkpoint, E0312 to E0320 for one that is damaged, E0333 to E0335
    /// for one of GGUF and E0973 to E0975 for one of PyTorch that cannot be read, E0330 to E0332 where it changes or fails meanwhile,
    /// E0603 without memory for its table.
    pub(super) fn read(source: &Source) -> Result<Table> {
        let head = source.bytes(source.length().min(FIRST), "the header", Vec::new())?;
        let table = match Self::of(&head, source.length()) {
            Ok(Self::Safetensors) => safetensors::read(source, head),
            Ok(Self::Torch) => torch::read(source),
            Ok(Self::Gguf) => gguf::read(source),
            Err(error) => Err(error),
        };
        table.map_err(|error| error.at(source.path().display()))
    }
}

/// A file that is commonly handed over in place of one that is read here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Foreign {
    /// What it is, such as `a web page`.
    pub what: &'static str,
    /// What to do.
    pub help: &'static str,
}

/// How files of ggml began before there was GGUF: the letters of a number, in either order.
const OLD_GGML: [&[u8; 4]; 7] = [b"GGML", b"lmgg", b"ggml", b"fmgg", b"ggmf", b"tjgg", b"ggjt"];

/// Names files of machine learning that are not read here, and pages saved in place of a file, by
/// their first bytes (256 are enough) and their length.
pub fn foreign(head: &[u8], file_bytes: u64) -> Option<Foreign> {
    // The length of a header may spell the mark of another format.
    if safetensors::is_likely(head, file_bytes) {
        return None;
    }
    let holds = |text: &[u8]| head.windows(text.len()).any(|window| window == text);
    let text = head.trim_ascii_start();
    let starts = |prefix: &str| {
        text.get(..prefix.len()).is_some_and(|head| head.eq_ignore_ascii_case(prefix.as_bytes()))
    };
    let safetensors = "take the safetensors version of the model, or convert it to safetensors";
    let zip = head.starts_with(b"PK\x03\x04");
    let (what, help) = if torch::is_likely(head) || gguf::is_likely(head) {
        return None;
    } else if OLD_GGML.iter().any(|mark| head.starts_with(*mark)) {
        ("a file of ggml from before GGUF", "convert it to GGUF, or take the safetensors version")
    } else if head.len() > 2 && head[0] == 0x80 && (2..=5).contains(&head[1]) {
        ("a Python pickle, such as an old PyTorch checkpoint", safetensors)
    } else if head.starts_with(b"\x93NUMPY") || (zip && holds(b".npy")) {
        ("NumPy arrays", "save the arrays as a safetensors file")
    } else if zip {
        ("a zip archive", "unpack it, and take the safetensors version of the model")
    } else if head.starts_with(b"\x89HDF\r\n") {
        ("an HDF5 file", safetensors)
    } else if starts("version https://git-lfs") {
        (
            "a Git LFS pointer, not the file itself",
            "fetch the file that it stands for: `git lfs pull` in its repository",
        )
    } else if starts("<!doctype html") || starts("<html") {
        (
            "a web page, not the file itself",
            "the download gave a page, perhaps one that asks to log in; fetch the file again",
        )
    } else {
        return None;
    };
    Some(Foreign { what, help })
}

#[cfg(test)]
mod tests {
    use super::super::Checkpoint;
    use super::*;
    use crate::testing::file;

    fn refused(bytes: &[u8]) -> Error {
        Checkpoint::from_bytes(bytes.to_vec(), "x").expect_err("must be refused")
    }

    /// The first bytes of a file are the length of its header, which may look like text.
    #[test]
    fn headers_of_any_length_are_read() {
        for length in [0x7b, 0x17b, 0x7b20, 0x22, 0x4747] {
            let mut bytes = (length as u64).to_le_bytes().to_vec();
            let header = r#"{"x":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}"#;
            bytes.extend_from_slice(format!("{header:<length$}").as_bytes());
            bytes.extend_from_slice(&[0; 4]);
            let read = Checkpoint::from_bytes(bytes, "x");
            assert_eq!(length >= header.len(), read.is_ok(), "{length:#x}");
        }
    }

    #[test]
    fn other_files_are_named() {
        for (bytes, what) in [
            (&b"PK\x03\x04 and more bytes"[..], "zip"),
            (b"PK\x03\x04\0\0\0\0\0\0\0\0\0\0x.npy", "NumPy"),
            (b"\x80\x02}q\0 and more", "pickle"),
            (b"GGML\x03\0\0\0 and more", "before GGUF"),
            (b"tjgg\x03\0\0\0 and more", "before GGUF"),
            (b"\x89HDF\r\n\x1a\n and more", "HDF5"),
            (b"version https://git-lfs.github.com/spec/v1\n", "Git LFS"),
            (b"\n<!DOCTYPE html><html>", "web page"),
            (b"{\"weight_map\": {}}", "JSON"),
            (b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", "a picture"),
            (b"", "empty"),
            (b"1234567", "7 bytes"),
        ] {
            let error = refused(bytes);
            assert_eq!((error.code(), error.place()), ("E0311", Some("x")), "{error}");
            assert!(error.message().contains(what), "{error}");
            assert!(error.help_text().is_some(), "{error}");
        }
        assert_eq!(refused(&[0; 64]).code(), "E0312", "no mark at all");
        let cut = refused(b"GGUF\x03\0\0\0 and more");
        assert_eq!((cut.code(), cut.place()), ("E0333", Some("x")), "{cut}");
        let cut = refused(b"PK\x03\x04\0\0\0\0\0\0\0\0archive/data.pkl");
        assert_eq!((cut.code(), cut.place()), ("E0974", Some("x")), "{cut}");
    }

    #[test]
    fn the_length_of_a_header_may_look_like_a_mark() {
        // 0x0280 is a length, and the first two bytes of a pickle.
        let text = format!("{:640}", "{}");
        let bytes = file(&text, &[]);
        assert_eq!(bytes[..2], [0x80, 2]);
        assert_eq!(foreign(&bytes, bytes.len() as u64), None);
        let open = Checkpoint::from_bytes(bytes, "x").unwrap();
        assert_eq!((open.len(), open.table().format().name()), (0, "safetensors"));
        assert!(foreign(b"\x80\x02}q\0", 5).is_some());
    }
}
