//! Safetensors files, written as a stream: the header first, then the data in declared order.
//!
//! Contract: memory stays bounded whatever the size of the file (one small buffer; the caller
//! chooses the pieces), and the file appears only when every declared byte was given. Tensors are
//! stored in the order in which they are declared; declare wider encodings first, so that data stay
//! aligned for readers that map them. It converts nothing: bytes are stored as given.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};

use super::encoding::Encoding;
use super::safetensors::MAX_HEADER_BYTES;
use crate::error::{Error, Result};
use crate::output::{self, AtomicFile, Whole, write_error};

/// A tensor to be written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorSpec {
    /// Name in the file.
    pub name: String,
    /// How its elements are encoded.
    pub encoding: Encoding,
    /// Sizes, slowest dimension first; empty for a scalar.
    pub shape: Vec<u64>,
}

impl TensorSpec {
    /// A spec from its parts.
    pub fn new(name: impl Into<String>, encoding: Encoding, shape: impl Into<Vec<u64>>) -> Self {
        Self { name: name.into(), encoding, shape: shape.into() }
    }

    /// Bytes of the tensor's data. Errors: E1015 when they do not fit 64 bits.
    pub fn bytes(&self) -> Result<u64> {
        self.encoding.bytes_of(&self.shape).ok_or_else(|| {
            misuse(format!("tensor `{}` of shape {:?} is too large", self.name, self.shape))
        })
    }
}

/// The metadata that Python loaders insist on: `{"format": "pt"}`.
pub fn pytorch_metadata() -> BTreeMap<String, String> {
    BTreeMap::from([("format".to_owned(), "pt".to_owned())])
}

/// One safetensors file in the making.
#[derive(Debug)]
pub struct SafetensorsWriter {
    file: AtomicFile,
    /// Names and sizes in declared order.
    tensors: Vec<(String, u64)>,
    current: usize,
    written: u64,
}

impl SafetensorsWriter {
    /// Starts a file with these tensors; writes its header.
    ///
    /// Errors: E1010–E1014 as [`AtomicFile`], E1015 for a name given twice, the reserved name
    /// `__metadata__`, a size over 64 bits, or a header over 100 MB.
    pub fn create(
        path: impl AsRef<Path>,
        tensors: &[TensorSpec],
        metadata: &BTreeMap<String, String>,
    ) -> Result<Self> {
        Self::create_in(AtomicFile::create(path)?, tensors, metadata)
    }

    /// As [`SafetensorsWriter::create`], in a file that was opened before.
    ///
    /// Errors: as [`SafetensorsWriter::create`].
    pub fn create_in(
        mut file: AtomicFile,
        tensors: &[TensorSpec],
        metadata: &BTreeMap<String, String>,
    ) -> Result<Self> {
        let header = header_text(tensors, metadata)?;
        let sizes: Result<Vec<(String, u64)>> =
            tensors.iter().map(|spec| Ok((spec.name.clone(), spec.bytes()?))).collect();
        file.append(&(header.len() as u64).to_le_bytes())?;
        file.append(header.as_bytes())?;
        Ok(Self { file, tensors: sizes?, current: 0, written: 0 })
    }

    /// Appends a piece of the data of tensor `name`, little-endian. Tensors come in declared
    /// order, each in as many pieces as the caller likes; zero-element tensors may be left out.
    ///
    /// Errors: E1012 disk full, E1011 or E1013 otherwise; E1015 for another tensor's turn or too
    /// many bytes.
    pub fn write(&mut self, name: &str, piece: &[u8]) -> Result<()> {
        while let Some((current, size)) = self.tensors.get(self.current)
            && self.written == *size
            && current != name
        {
            self.current += 1;
            self.written = 0;
        }
        let Some((current, size)) = self.tensors.get(self.current) else {
            return Err(misuse(format!("tensor `{name}` was not declared, or its turn is over"))
                .at(self.file.path().display()));
        };
        if current != name {
            return Err(misuse(format!(
                "tensor `{name}` given while `{current}` has {} of its {size} bytes",
                self.written
            ))
            .at(self.file.path().display()));
        }
        if piece.len() as u64 > size - self.written {
            return Err(misuse(format!("tensor `{name}` got more than its {size} bytes"))
                .at(self.file.path().display()));
        }
        self.file.append(piece)?;
        self.written += piece.len() as u64;
        Ok(())
    }

    /// Checks that all data were given and makes the file appear.
    ///
    /// Errors: E1015 when bytes are missing, or as [`AtomicFile::commit`].
    pub fn finish(self) -> Result<()> {
        self.complete()?.commit().map(drop)
    }

    /// Checks that all data were given; the file lacks only its name then.
    ///
    /// Errors: as [`SafetensorsWriter::finish`].
    pub fn finish_unnamed(self) -> Result<Whole> {
        self.complete()?.finish()
    }

    /// As [`SafetensorsWriter::finish_unnamed`], as the file it was made in.
    ///
    /// Errors: as [`SafetensorsWriter::finish`].
    pub fn finish_file(self) -> Result<AtomicFile> {
        self.complete()
    }

    /// The complete, closed file, without its name yet.
    fn complete(mut self) -> Result<AtomicFile> {
        let rest = self.tensors[self.current.min(self.tensors.len())..].iter();
        let mut have = self.written;
        for (name, size) in rest {
            if have != *size {
                return Err(misuse(format!("tensor `{name}` got {have} of its {size} bytes"))
                    .at(self.file.path().display()));
            }
            have = 0;
        }
        self.file.close()?;
        Ok(self.file)
    }
}

/// Header JSON, padded with spaces so that the data start at a multiple of 8.
fn header_text(tensors: &[TensorSpec], metadata: &BTreeMap<String, String>) -> Result<String> {
    let mut header = Map::new();
    if !metadata.is_empty() {
        header.insert("__metadata__".to_owned(), json!(metadata));
    }
    let mut begin: u64 = 0;
    for spec in tensors {
        let end = begin
            .checked_add(spec.bytes()?)
            .ok_or_else(|| misuse("the tensors together are larger than 2^64 bytes".to_owned()))?;
        let entry = json!({
            "dtype": spec.encoding.name(), "shape": spec.shape, "data_offsets": [begin, end],
        });
        let reserved = spec.name == "__metadata__";
        if reserved || header.insert(spec.name.clone(), entry).is_some() {
            let why = if reserved { "a reserved name" } else { "declared twice" };
            return Err(misuse(format!("tensor `{}` is {why}", spec.name)));
        }
        begin = end;
    }
    let mut text = Value::Object(header).to_string();
    while !text.len().is_multiple_of(8) {
        text.push(' ');
    }
    if text.len() as u64 > MAX_HEADER_BYTES {
        return Err(misuse(format!("the header takes {} bytes, too many to be read", text.len())));
    }
    Ok(text)
}

fn misuse(message: String) -> Error {
    Error::internal("E1015", message)
        .help("the data do not match what was declared, a fault of the program: please report it")
}

/// Writes a small file at once. Tensors are stored widest encoding first, else in the given order.
///
/// Errors: as [`SafetensorsWriter`].
pub fn save(
    path: impl AsRef<Path>,
    tensors: &[(&str, Encoding, &[u64], &[u8])],
    metadata: &BTreeMap<String, String>,
) -> Result<()> {
    output::commit(vec![save_in(AtomicFile::create(path)?, tensors, metadata)?]).map(drop)
}

/// As [`save`], in a file that was opened before, which lacks only its name then.
///
/// Errors: as [`SafetensorsWriter`].
pub fn save_in(
    file: AtomicFile,
    tensors: &[(&str, Encoding, &[u64], &[u8])],
    metadata: &BTreeMap<String, String>,
) -> Result<Whole> {
    let mut sorted: Vec<_> = tensors.iter().collect();
    sorted.sort_by_key(|(_, encoding, _, _)| std::cmp::Reverse(encoding.block().bytes));
    let specs: Vec<TensorSpec> = sorted
        .iter()
        .map(|(name, encoding, shape, _)| TensorSpec::new(*name, *encoding, *shape))
        .collect();
    let mut writer = SafetensorsWriter::create_in(file, &specs, metadata)?;
    for (name, _, _, bytes) in sorted {
        writer.write(name, bytes)?;
    }
    writer.finish_unnamed()
}

/// Where [`write_sharded`] takes the data of one tensor.
#[derive(Debug)]
pub struct TensorSink<'a> {
    writer: &'a mut SafetensorsWriter,
    name: &'a str,
}

impl TensorSink<'_> {
    /// Appends a piece of the tensor's data. Errors: as [`SafetensorsWriter::write`].
    pub fn write(&mut self, piece: &[u8]) -> Result<()> {
        self.writer.write(self.name, piece)
    }
}

/// Writes a component in one or several files and returns their paths, the index last.
///
/// If all data fit `max_shard_bytes`, the result is `STEM.safetensors`; else files
/// `STEM-00001-of-0000N.safetensors`, each at most that large unless a single tensor is larger,
/// and `STEM.safetensors.index.json` with `metadata.total_size` and `weight_map`, as diffusers
/// writes them. `fill` is called once per tensor in the given order. Nothing appears before all
/// data are on disk; then earlier files of the same stem that are not part of the new set are
/// removed, since a reader would mistake them for it.
///
/// Errors: as [`SafetensorsWriter`], and whatever `fill` returns.
pub fn write_sharded(
    folder: impl AsRef<Path>,
    stem: &str,
    tensors: &[TensorSpec],
    metadata: &BTreeMap<String, String>,
    max_shard_bytes: u64,
    mut fill: impl FnMut(&TensorSpec, &mut TensorSink<'_>) -> Result<()>,
) -> Result<Vec<PathBuf>> {
    let folder = folder.as_ref();
    let (shards, total) = split(tensors, max_shard_bytes)?;
    // Names are checked over the whole set: two shards must not share one.
    header_text(tensors, metadata)?;
    let count = shards.len();
    let mut ready = Vec::with_capacity(count + 1);
    let mut weight_map = BTreeMap::new();
    for (number, shard) in shards.into_iter().enumerate() {
        let name = match count {
            1 => format!("{stem}.safetensors"),
            _ => format!("{stem}-{:05}-of-{count:05}.safetensors", number + 1),
        };
        let mut writer = SafetensorsWriter::create(folder.join(&name), shard, metadata)?;
        for spec in shard {
            fill(spec, &mut TensorSink { writer: &mut writer, name: &spec.name })?;
            weight_map.insert(spec.name.as_str(), name.clone());
        }
        ready.push((folder.join(&name), writer.complete()?));
    }
    if count > 1 {
        let path = folder.join(format!("{stem}.safetensors.index.json"));
        let index = json!({"metadata": {"total_size": total}, "weight_map": weight_map});
        let mut file = AtomicFile::create(&path)?;
        let mut text = serde_json::to_string_pretty(&index)
            .map_err(|fault| misuse(format!("the index cannot be written as JSON: {fault}")))?;
        text.push('\n');
        file.append(text.as_bytes())?;
        file.close()?;
        ready.push((path, file));
    }
    let mut paths = Vec::with_capacity(ready.len());
    for (path, file) in ready {
        file.commit()?;
        paths.push(path);
    }
    remove_stale(folder, stem, &paths)?;
    Ok(paths)
}

/// Cuts the list where the next tensor would exceed the limit; at least one shard.
fn split(tensors: &[TensorSpec], max_shard_bytes: u64) -> Result<(Vec<&[TensorSpec]>, u64)> {
    let mut shards = Vec::new();
    let (mut start, mut filled, mut total) = (0, 0u64, 0u64);
    for (at, spec) in tensors.iter().enumerate() {
        let bytes = spec.bytes()?;
        total = total.saturating_add(bytes);
        if at > start && filled.saturating_add(bytes) > max_shard_bytes {
            shards.push(&tensors[start..at]);
            (start, filled) = (at, 0);
        }
        filled = filled.saturating_add(bytes);
    }
    shards.push(&tensors[start..]);
    Ok((shards, total))
}

/// Removes files of an earlier set: `STEM.safetensors`, its index and its numbered shards.
fn remove_stale(folder: &Path, stem: &str, keep: &[PathBuf]) -> Result<()> {
    let listing = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
    let entries = fs::read_dir(listing).map_err(|fault| write_error(folder, fault))?;
    for entry in entries.flatten() {
        let name = entry.file_name();
        let Some(rest) = name.to_str().and_then(|name| name.strip_prefix(stem)) else { continue };
        let path = folder.join(&name);
        let ours = rest == ".safetensors" || rest == ".safetensors.index.json" || is_shard(rest);
        if ours && !keep.contains(&path) {
            fs::remove_file(&path).map_err(|fault| write_error(&path, fault))?;
        }
    }
    Ok(())
}

/// Whether this is `-NNNNN-of-NNNNN.safetensors`.
pub(crate) fn is_shard(rest: &str) -> bool {
    let digits = |text: &str| text.len() == 5 && text.bytes().all(|byte| byte.is_ascii_digit());
    rest.strip_prefix('-')
        .and_then(|rest| rest.strip_suffix(".safetensors"))
        .and_then(|rest| rest.split_once("-of-"))
        .is_some_and(|(number, count)| digits(number) && digits(count))
}

#[cfg(test)]
mod tests {
    use safetensors::SafeTensors;

    use super::super::file::Checkpoint;
    use super::super::set::WeightSet;
    use super::*;
    use crate::error::Kind;
    use crate::testing::TempFolder;

    fn none() -> BTreeMap<String, String> {
        BTreeMap::new()
    }

    #[test]
    fn the_reference_crate_reads_what_is_written() {
        let folder = TempFolder::new();
        let path = folder.path().join("out.safetensors");
        let metadata =
            BTreeMap::from([("format".into(), "pt".into()), ("ü\"\n".into(), "…".into())]);
        let odd: &str = "weird \"name\" \\\\ ü";
        save(
            &path,
            &[
                ("byte", Encoding::U8, &[3], &[1, 2, 3]),
                (odd, Encoding::F32, &[], &1.5f32.to_le_bytes()),
                ("none", Encoding::Bf16, &[0, 7], &[]),
                ("half", Encoding::F16, &[2, 1], &[0, 60, 0, 61]),
                ("fp8", Encoding::F8E4M3, &[1], &[56]),
            ],
            &metadata,
        )
        .unwrap();
        let bytes = fs::read(&path).unwrap();
        let header = u64::from_le_bytes(bytes[..8].try_into().unwrap());
        assert_eq!(header % 8, 0);
        let theirs = SafeTensors::deserialize(&bytes).unwrap();
        assert_eq!(theirs.len(), 5);
        assert_eq!(theirs.tensor("byte").unwrap().data(), [1, 2, 3]);
        assert_eq!(theirs.tensor(odd).unwrap().data(), 1.5f32.to_le_bytes());
        assert_eq!(theirs.tensor("none").unwrap().shape(), [0, 7]);
        let (_, read) = SafeTensors::read_metadata(&bytes).unwrap();
        assert_eq!(read.metadata().as_ref().unwrap()["ü\"\n"], "…");
        let ours = Checkpoint::open(&path).unwrap();
        assert_eq!(ours.metadata(), &metadata);
        assert_eq!(ours.iter().next().unwrap().0, odd, "widest first");
    }

    #[test]
    fn reads_what_the_reference_crate_writes() {
        let data: Vec<u8> = (0..24).collect();
        let view = |dtype, shape: Vec<usize>, bytes| {
            safetensors::tensor::TensorView::new(dtype, shape, bytes).unwrap()
        };
        let tensors = [
            ("a", view(safetensors::Dtype::F64, vec![3], &data[..])),
            ("b", view(safetensors::Dtype::I16, vec![2, 2], &data[..8])),
            ("c", view(safetensors::Dtype::BOOL, vec![], &data[..1])),
        ];
        let bytes = safetensors::serialize(tensors, None).unwrap();
        let ours = Checkpoint::from_bytes(bytes, "memory").unwrap();
        assert_eq!(ours.len(), 3);
        assert_eq!(ours.contents(ours.table().position("a").unwrap()).unwrap(), data);
        assert_eq!(ours.tensor("b").unwrap().shape, [2, 2]);
        assert_eq!(ours.tensor("c").unwrap().encoding, Encoding::Bool);
    }

    #[test]
    fn pieces_must_match_the_declaration() {
        let folder = TempFolder::new();
        let path = folder.path().join("out.safetensors");
        let specs = [
            TensorSpec::new("empty", Encoding::F32, [0]),
            TensorSpec::new("a", Encoding::U8, [4]),
            TensorSpec::new("b", Encoding::U8, [2]),
            TensorSpec::new("last", Encoding::U8, [0]),
        ];
        let start = || SafetensorsWriter::create(&path, &specs, &none()).unwrap();
        let mut writer = start();
        writer.write("a", &[1]).unwrap();
        writer.write("a", &[2, 3]).unwrap();
        writer.write("a", &[4]).unwrap();
        writer.write("b", &[5, 6]).unwrap();
        writer.finish().unwrap();
        let bytes = fs::read(&path).unwrap();
        assert!(bytes.ends_with(&[1, 2, 3, 4, 5, 6]));
        assert_eq!(SafeTensors::deserialize(&bytes).unwrap().len(), 4);
        let refused = |steps: &[(&str, &[u8])]| {
            let mut writer = start();
            let outcome = steps.iter().try_for_each(|(name, piece)| writer.write(name, piece));
            let error = outcome.and_then(|()| writer.finish()).unwrap_err();
            assert_eq!((error.code(), error.kind()), ("E1015", Kind::Internal), "{error}");
        };
        refused(&[]);
        refused(&[("b", &[1, 2])]);
        refused(&[("a", &[1, 2, 3])]);
        refused(&[("a", &[1, 2, 3, 4]), ("b", &[1])]);
        refused(&[("a", &[1, 2, 3, 4, 5])]);
        refused(&[("a", &[1, 2, 3, 4]), ("b", &[1, 2]), ("a", &[1])]);
        refused(&[("other", &[1])]);
        assert_eq!(fs::read(&path).unwrap(), bytes, "failures leave the earlier file");
        assert_eq!(folder.names(), ["out.safetensors"]);
        for bad in [
            vec![TensorSpec::new("x", Encoding::U8, [1]); 2],
            vec![TensorSpec::new("__metadata__", Encoding::U8, [1])],
            vec![TensorSpec::new("x", Encoding::F32, [1 << 40, 1 << 40])],
        ] {
            let error = SafetensorsWriter::create(&path, &bad, &pytorch_metadata()).unwrap_err();
            assert_eq!(error.code(), "E1015");
        }
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn a_full_disk_stops_the_writer() {
        let specs = [TensorSpec::new("a", Encoding::U8, [1 << 20])];
        let mut writer = SafetensorsWriter::create("/dev/full", &specs, &none()).unwrap();
        let error = writer.write("a", &vec![0; 1 << 20]).unwrap_err();
        assert_eq!(error.code(), "E1012");
    }

    fn sharded(folder: &Path, limit: u64) -> Result<Vec<PathBuf>> {
        let specs: Vec<TensorSpec> =
            (0..6).map(|i| TensorSpec::new(format!("t{i}"), Encoding::F32, [i])).collect();
        let stem = "diffusion_pytorch_model";
        write_sharded(folder, stem, &specs, &pytorch_metadata(), limit, |spec, sink| {
            for _ in 0..spec.shape[0] {
                sink.write(&[spec.shape[0] as u8; 4])?;
            }
            Ok(())
        })
    }

    #[test]
    fn shards_and_their_index_fit_together() {
        let folder = TempFolder::new();
        // Sizes 0 4 8 12 16 20: shards of at most 24 bytes are 0+4+8+12, 16, 20.
        let paths = sharded(folder.path(), 24).unwrap();
        let names: Vec<&str> =
            paths.iter().map(|path| path.file_name().unwrap().to_str().unwrap()).collect();
        assert_eq!(
            names,
            [
                "diffusion_pytorch_model-00001-of-00003.safetensors",
                "diffusion_pytorch_model-00002-of-00003.safetensors",
                "diffusion_pytorch_model-00003-of-00003.safetensors",
                "diffusion_pytorch_model.safetensors.index.json",
            ]
        );
        let set = WeightSet::open(&paths[3]).unwrap();
        assert_eq!((set.len(), set.total_bytes()), (6, 60));
        assert!(set.warnings().is_empty(), "{:?}", set.warnings());
        assert_eq!(set.contents("t5").unwrap(), [5; 20]);
        // A single file replaces the shards, shards replace the single file.
        assert_eq!(sharded(folder.path(), 1000).unwrap().len(), 1);
        assert_eq!(folder.names(), ["diffusion_pytorch_model.safetensors"]);
        folder.write("diffusion_pytorch_model.fp16.safetensors", b"kept");
        assert_eq!(sharded(folder.path(), 0).unwrap().len(), 7);
        assert_eq!(folder.names().len(), 8);
        assert!(!folder.names().contains(&"diffusion_pytorch_model.safetensors".to_owned()));
    }

    #[test]
    fn a_failing_fill_leaves_nothing() {
        let folder = TempFolder::new();
        let specs =
            [TensorSpec::new("a", Encoding::U8, [2]), TensorSpec::new("b", Encoding::U8, [2])];
        let outcome = write_sharded(folder.path(), "model", &specs, &none(), 2, |spec, sink| {
            sink.write(if spec.name == "a" { &[1, 2] } else { &[1] })
        });
        assert_eq!(outcome.unwrap_err().code(), "E1015");
        assert!(folder.names().is_empty());
        let missing = folder.path().join("none");
        assert_eq!(sharded(&missing, 24).unwrap_err().code(), "E1010");
    }

    #[test]
    fn shard_names_are_told_from_others() {
        assert!(is_shard("-00001-of-00003.safetensors"));
        for other in ["-00001-of-00003", ".safetensors", "-1-of-3.safetensors", "_b.safetensors"] {
            assert!(!is_shard(other), "{other}");
        }
    }
}
