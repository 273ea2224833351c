//! SentencePiece models: the message, and a tokenizer of its pieces.

use super::{corpus, refused};
use crate::engine::{Outcome, Target, Verdict};
use crate::mutate;
use crate::rng::Rng;
use anyid_runtime::text::PromptTokenizer;
use anyid_tests::folders::Folder;

/// The target.
pub struct Spiece {
    folder: Folder,
}

impl Spiece {
    /// The target.
    pub fn new() -> Self {
        Self { folder: Folder::new() }
    }
}

/// A field of a message: a length, and as many bytes.
fn field(out: &mut Vec<u8>, number: u8, bytes: &[u8]) {
    out.push(number << 3 | 2);
    out.push(bytes.len() as u8);
    out.extend(bytes);
}

/// A model of pieces with their kinds.
fn model(pieces: &[(&str, u8)], trainer: &[u8], charsmap: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    for (at, (text, kind)) in pieces.iter().enumerate() {
        let mut piece = Vec::new();
        field(&mut piece, 1, text.as_bytes());
        piece.push(2 << 3 | 5);
        piece.extend((-(at as f32)).to_le_bytes());
        piece.extend([3 << 3, *kind]);
        field(&mut out, 1, &piece);
    }
    field(&mut out, 2, trainer);
    let mut normaliser = Vec::new();
    field(&mut normaliser, 2, charsmap);
    field(&mut out, 3, &normaliser);
    out
}

impl Target for Spiece {
    fn name(&self) -> &'static str {
        "spiece"
    }

    fn seeds(&self) -> Vec<Vec<u8>> {
        let mut out = corpus("spiece");
        let usual = [("<pad>", 3), ("</s>", 3), ("<unk>", 2), ("▁", 1), ("a", 1), ("▁ab", 1)];
        let bytes = [("</s>", 3), ("<unk>", 2), ("<0x00>", 6), ("<0xE2>", 6), ("x", 4)];
        out.push(model(&usual, &[3 << 3, 1], &[]));
        out.push(model(&bytes, &[3 << 3, 1, 0x98, 0x02, 1], &[]));
        out.push(model(&usual, &[3 << 3, 2], &[0; 12]));
        out.push(model(&usual, &[], &[8, 0, 0, 0, 0, 4, 0, 0, 1, 2, 3, 4, b'a', 0]));
        out
    }

    fn change(&self, rng: &mut Rng, data: &mut Vec<u8>, other: &[u8]) {
        mutate::bytes(rng, data, self.words(), other);
    }

    fn words(&self) -> &'static [&'static str] {
        &["<unk>", "</s>", "<pad>", "▁", "<0x0A>", "<extra_id_0>", "\n", "\u{12}", "\u{1a}"]
    }

    fn run(&self, data: &[u8]) -> Outcome {
        let path = self.folder.path().join("spiece.model");
        std::fs::write(&path, data).map_err(|fault| format!("not written: {fault}"))?;
        let tokenizer = match PromptTokenizer::open_for(&path, 64) {
            Ok(tokenizer) => tokenizer,
            Err(error) => return refused(&error),
        };
        for text in ["", "a b", "xé\u{2581}", "<extra_id_3> </s>"] {
            match tokenizer.encode(text, 16) {
                Ok(encoded) if encoded.ids.len() > 16 => {
                    return Err(format!("{} ids", encoded.ids.len()));
                }
                Ok(_) => {}
                Err(error) => drop(refused(&error)?),
            }
        }
        Ok(Verdict::Taken)
    }
}
