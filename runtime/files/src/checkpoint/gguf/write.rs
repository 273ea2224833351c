//! GGUF files, written as a stream: metadata and the list of tensors first, then the data in declared
//! order.
//!
//! Contract: memory stays bounded whatever the size of the file, and it appears only when every declared
//! byte was given. What is written is version 3 with the usual alignment. It converts nothing: bytes are
//! stored as given, already in blocks.

use super::super::encoding::Encoding;
use super::super::writer::TensorSpec;
use crate::error::{Error, Result};
use crate::output::AtomicFile;

/// Where tensors begin, in the data.
const ALIGNMENT: u64 = 32;

/// A value of the metadata.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// A text.
    Text(String),
    /// A number.
    U32(u32),
    /// A number with a fraction.
    F32(f32),
    /// Yes or no.
    Bool(bool),
    /// Texts.
    Texts(Vec<String>),
    /// Numbers with a fraction.
    F32s(Vec<f32>),
    /// Whole numbers.
    I32s(Vec<i32>),
    /// Bytes.
    Bytes(Vec<u8>),
}

/// One GGUF file in the making.
#[derive(Debug)]
pub struct GgufWriter {
    file: AtomicFile,
    tensors: Vec<(String, u64)>,
    current: usize,
    written: u64,
}

fn misuse(what: String) -> Error {
    Error::internal("E1015", what)
        .help("the data do not match what was declared, a fault of the program: please report it")
}

/// The number of an encoding among the types of ggml.
fn number(encoding: Encoding) -> Option<u32> {
    Some(match encoding {
        Encoding::F32 => 0,
        Encoding::F16 => 1,
        Encoding::Q4_0 => 2,
        Encoding::Q4_1 => 3,
        Encoding::Q5_0 => 6,
        Encoding::Q5_1 => 7,
        Encoding::Q8_0 => 8,
        Encoding::Q2K => 10,
        Encoding::Q3K => 11,
        Encoding::Q4K => 12,
        Encoding::Q5K => 13,
        Encoding::Q6K => 14,
        Encoding::Iq4Nl => 20,
        Encoding::Iq4Xs => 23,
        Encoding::I8 => 24,
        Encoding::I16 => 25,
        Encoding::I32 => 26,
        Encoding::I64 => 27,
        Encoding::F64 => 28,
        Encoding::Bf16 => 30,
        Encoding::F8E4M3 | Encoding::F8E5M2 => return None,
        Encoding::U64 | Encoding::U32 | Encoding::U16 | Encoding::U8 | Encoding::Bool => {
            return None;
        }
    })
}

/// A value behind its kind.
fn value(out: &mut Vec<u8>, value: &Value) {
    let kind = |out: &mut Vec<u8>, kind: u32| out.extend(kind.to_le_bytes());
    let list = |out: &mut Vec<u8>, of: u32, count: usize| {
        kind(out, 9);
        kind(out, of);
        out.extend((count as u64).to_le_bytes());
    };
    match value {
        Value::Text(value) => {
            kind(out, 8);
            text(out, value);
        }
        Value::U32(value) => {
            kind(out, 4);
            out.extend(value.to_le_bytes());
        }
        Value::F32(value) => {
            kind(out, 6);
            out.extend(value.to_le_bytes());
        }
        Value::Bool(value) => {
            kind(out, 7);
            out.push(u8::from(*value));
        }
        Value::Texts(values) => {
            list(out, 8, values.len());
            values.iter().for_each(|value| text(out, value));
        }
        Value::F32s(values) => {
            list(out, 6, values.len());
            values.iter().for_each(|value| out.extend(value.to_le_bytes()));
        }
        Value::I32s(values) => {
            list(out, 5, values.len());
            values.iter().for_each(|value| out.extend(value.to_le_bytes()));
        }
        Value::Bytes(values) => {
            list(out, 0, values.len());
            out.extend(values);
        }
    }
}

fn text(out: &mut Vec<u8>, text: &str) {
    out.extend((text.len() as u64).to_le_bytes());
    out.extend(text.as_bytes());
}

impl GgufWriter {
    /// Starts a file with these metadata and tensors; writes its header.
    ///
    /// # Errors
    /// E1015 for an encoding that GGUF does not have, a name given twice or a size over 64 bits; E101x
    /// as [`AtomicFile`].
    pub fn create_in(
        mut file: AtomicFile,
        metadata: &[(&str, Value)],
        tensors: &[TensorSpec],
    ) -> Result<Self> {
        let mut head = b"GGUF\x03\0\0\0".to_vec();
        head.extend((tensors.len() as u64).to_le_bytes());
        head.extend((metadata.len() as u64).to_le_bytes());
        for (key, entry) in metadata {
            text(&mut head, key);
            value(&mut head, entry);
        }
        let mut sizes: Vec<(String, u64)> = Vec::with_capacity(tensors.len());
        let mut names = std::collections::HashSet::new();
        let mut offset = 0u64;
        for spec in tensors {
            let TensorSpec { name, encoding, shape } = spec;
            let number = number(*encoding)
                .ok_or_else(|| misuse(format!("tensor `{name}`: GGUF has no type {encoding}")))?;
            if !names.insert(name) {
                return Err(misuse(format!("tensor `{name}` is declared twice")));
            }
            text(&mut head, name);
            head.extend((shape.len() as u32).to_le_bytes());
            shape.iter().rev().for_each(|size| head.extend(size.to_le_bytes()));
            head.extend(number.to_le_bytes());
            head.extend(offset.to_le_bytes());
            let bytes = spec.bytes()?;
            sizes.push((name.clone(), bytes));
            offset = offset
                .checked_add(bytes)
                .and_then(|end| end.checked_next_multiple_of(ALIGNMENT))
                .ok_or_else(|| misuse("the tensors are larger than 2^64 bytes".to_owned()))?;
        }
        head.resize(head.len().next_multiple_of(ALIGNMENT as usize), 0);
        file.append(&head)?;
        Ok(Self { file, tensors: sizes, current: 0, written: 0 })
    }

    /// Appends a piece of the data of tensor `name`. Tensors come in declared order, each in as many
    /// pieces as the caller likes.
    ///
    /// # Errors
    /// E1015 for another tensor's turn or too many bytes; E101x as [`AtomicFile`].
    pub fn write(&mut self, name: &str, piece: &[u8]) -> Result<()> {
        self.pass_over()?;
        let Some((current, size)) = self.tensors.get(self.current) else {
            return Err(misuse(format!("tensor `{name}` was not declared, or its turn is over")));
        };
        if current != name || piece.len() as u64 > size - self.written {
            return Err(misuse(format!(
                "{} bytes for `{name}` while `{current}` has {} of its {size} bytes",
                piece.len(),
                self.written
            )));
        }
        self.file.append(piece)?;
        self.written += piece.len() as u64;
        Ok(())
    }

    /// Goes on behind tensors that are complete, with zeros up to where the next begins.
    fn pass_over(&mut self) -> Result<()> {
        while let Some((_, size)) = self.tensors.get(self.current)
            && self.written == *size
        {
            let gap = size.next_multiple_of(ALIGNMENT) - size;
            self.file.append(&[0; ALIGNMENT as usize][..gap as usize])?;
            self.current += 1;
            self.written = 0;
        }
        Ok(())
    }

    /// Checks that all data were given; the file lacks only its name then.
    ///
    /// # Errors
    /// E1015 when bytes are missing; E101x as [`AtomicFile`].
    pub fn finish_file(mut self) -> Result<AtomicFile> {
        self.pass_over()?;
        if let Some((name, size)) = self.tensors.get(self.current) {
            return Err(misuse(format!(
                "tensor `{name}` got {} of its {size} bytes",
                self.written
            )));
        }
        self.file.close()?;
        Ok(self.file)
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::{Checkpoint, Format};
    use super::*;
    use crate::testing::TempFolder;

    #[test]
    fn what_is_written_reads_back() {
        let folder = TempFolder::new();
        let path = folder.path().join("a.gguf");
        let specs = [
            TensorSpec::new("a", Encoding::F32, [3u64]),
            TensorSpec::new("none", Encoding::F16, [0u64, 2]),
            TensorSpec::new("b", Encoding::Q8_0, [2u64, 32]),
        ];
        let metadata = [
            ("general.architecture", Value::Text("wan".into())),
            ("general.file_type", Value::U32(7)),
            ("eps", Value::F32(0.5)),
            ("said", Value::Bool(true)),
            ("words", Value::Texts(vec!["a".into(), "\u{fc}".into()])),
            ("scores", Value::F32s(vec![-1.5, 2.0])),
            ("kinds", Value::I32s(vec![-3, 7])),
            ("map", Value::Bytes(vec![1, 255])),
        ];
        let file = AtomicFile::create(&path).unwrap();
        let mut writer = GgufWriter::create_in(file, &metadata, &specs).unwrap();
        let values: Vec<u8> = (0..68).collect();
        writer.write("a", &values[..4]).unwrap();
        assert_eq!(writer.write("b", &values).unwrap_err().code(), "E1015");
        writer.write("a", &values[4..12]).unwrap();
        assert_eq!(writer.write("a", &values[..1]).unwrap_err().code(), "E1015");
        writer.write("b", &values).unwrap();
        writer.finish_file().unwrap().commit().unwrap();
        let read = Checkpoint::open(&path).unwrap();
        assert_eq!(read.table().format(), Format::Gguf);
        assert_eq!(read.metadata()["general.architecture"], "wan");
        assert_eq!(read.metadata()["eps"], "0.5");
        assert_eq!(read.metadata()["said"], "true");
        assert_eq!(read.texts("words").unwrap().unwrap(), ["a", "\u{fc}"]);
        for (key, numbers) in
            [("scores", [-1.5, 2.0]), ("kinds", [-3.0, 7.0]), ("map", [1.0, 255.0])]
        {
            assert_eq!(read.numbers(key).unwrap().unwrap(), numbers);
        }
        for spec in &specs {
            let found = read.tensor(&spec.name).unwrap();
            assert_eq!((found.encoding, &found.shape), (spec.encoding, &spec.shape));
        }
        let at = |name| read.table().position(name).unwrap();
        assert_eq!(read.contents(at("a")).unwrap(), values[..12]);
        assert_eq!(read.contents(at("b")).unwrap(), values);
        let twice = [specs[0].clone(), specs[0].clone()];
        let none = [TensorSpec::new("a", Encoding::Bool, [3u64])];
        for (name, specs) in [("b.gguf", &twice[..]), ("c.gguf", &none)] {
            let file = AtomicFile::create(folder.path().join(name)).unwrap();
            let error = GgufWriter::create_in(file, &[], specs).unwrap_err();
            assert_eq!(error.code(), "E1015", "{error}");
        }
        let file = AtomicFile::create(folder.path().join("d.gguf")).unwrap();
        let short = GgufWriter::create_in(file, &[], &specs).unwrap();
        assert_eq!(short.finish_file().unwrap_err().code(), "E1015");
        assert_eq!(folder.names(), ["a.gguf"]);
    }
}
