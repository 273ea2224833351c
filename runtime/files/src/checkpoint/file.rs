//! One checkpoint file: its table in memory, its tensors read by byte range when they are wanted.
//!
//! Nothing but what the table needs is read on opening.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyid_ir::memory;

use super::format::Format;
use super::gguf;
use super::source::Source;
use super::table::{List, Table, TensorRange};
use super::torch;
use crate::error::{Error, Result};

/// Elements that are gathered at a time.
const GATHERED: usize = 1 << 16;
/// Most bytes that are read at once to gather elements from.
const WINDOW: u64 = 16 << 20;

fn label(tensor: &TensorRange) -> String {
    format!("tensor `{}`", tensor.name)
}

/// The lowest and the highest of some places.
fn bounds(places: &[u64]) -> (u64, u64) {
    places.iter().fold((u64::MAX, 0), |(low, high), place| (low.min(*place), high.max(*place)))
}

/// A checkpoint file, open and checked.
#[derive(Debug)]
pub struct Checkpoint {
    table: Table,
    source: Source,
}

impl Checkpoint {
    /// Opens a file of any format that is known and reads its table.
    ///
    /// Errors: E0310 when it cannot be opened, E0311–E0320 when its contents are wrong, E0330 to
    /// E0332 when it changes or fails meanwhile.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        Self::of(Source::open(path.as_ref())?)
    }

    /// Takes the contents of a file from memory, its own or that of the program; `label` stands in
    /// for its path.
    ///
    /// Errors: E0311–E0320 as [`Checkpoint::open`].
    pub fn from_bytes(
        bytes: impl Into<Cow<'static, [u8]>>,
        label: impl Into<PathBuf>,
    ) -> Result<Self> {
        Self::of(Source::in_memory(bytes.into(), label.into()))
    }

    fn of(source: Source) -> Result<Self> {
        Ok(Self { table: Format::read(&source)?, source })
    }

    /// Reads the whole file and compares it with the checksums in it; whether it has any. Only files of
    /// PyTorch do, and opening does not ask for it.
    ///
    /// Errors: E0974 for what differs, E0330 to E0332 as [`Checkpoint::read`].
    pub fn verify(&self) -> Result<bool> {
        match self.table.format() {
            Format::Torch => {
                torch::verify(&self.source).map_err(|error| error.placed(self.path().display()))?;
                Ok(true)
            }
            _ => Ok(false),
        }
    }

    /// The file.
    pub fn path(&self) -> &Path {
        self.source.path()
    }

    /// The tensors of the file, and what it says about itself.
    pub fn table(&self) -> &Table {
        &self.table
    }

    /// What the file says about itself in words; empty if it says nothing.
    pub fn metadata(&self) -> &BTreeMap<String, String> {
        self.table.metadata()
    }

    /// Number of tensors.
    pub fn len(&self) -> usize {
        self.table.tensors().len()
    }

    /// Whether the file holds no tensor.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The tensor of this name.
    pub fn tensor(&self, name: &str) -> Option<&TensorRange> {
        self.table.position(name).map(|position| &self.table.tensors()[position])
    }

    /// Names and tensors in file order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&str, &TensorRange)> {
        self.table.tensors().iter().map(|tensor| (tensor.name.as_str(), tensor))
    }

    /// Fills `out` with bytes of the tensor at `position` of [`Table::tensors`], `from` bytes behind
    /// its first.
    ///
    /// Errors: E0330 where the file has become shorter since it was opened, E0331 where it was
    /// changed, E0332 where the system cannot read it.
    ///
    /// # Panics
    /// If `position` is not below [`Checkpoint::len`], or the range ends behind the tensor.
    pub fn read(&self, position: usize, from: u64, out: &mut [u8]) -> Result<()> {
        let tensor = &self.table.tensors()[position];
        let inside = from.checked_add(out.len() as u64).is_some_and(|end| end <= tensor.bytes);
        assert!(inside, "{} bytes from {from} of {} bytes", out.len(), tensor.bytes);
        match tensor.strides {
            None => self.source.read(tensor.offset + from, out, || label(tensor)),
            Some(_) => self.gather(tensor, from, out),
        }
    }

    /// [`Checkpoint::read`] of a tensor whose elements do not follow each other. What lies close
    /// together is read at once.
    fn gather(&self, tensor: &TensorRange, mut from: u64, mut out: &mut [u8]) -> Result<()> {
        let size = tensor.encoding.block().bytes;
        let mut places = Vec::new();
        let mut window = Vec::new();
        while !out.is_empty() {
            let (first, skipped) = (from / size, (from % size) as usize);
            let count = (skipped + out.len()).div_ceil(size as usize).min(GATHERED);
            let bytes = (count * size as usize - skipped).min(out.len());
            let (now, rest) = std::mem::take(&mut out).split_at_mut(bytes);
            (out, from) = (rest, from + bytes as u64);
            places.clear();
            places.extend((first..first + count as u64).map(|index| size * tensor.place(index)));
            let (low, high) = bounds(&places);
            let width = high + size - low;
            if width <= WINDOW {
                window.resize(width as usize, 0);
                self.source.read(tensor.offset + low, &mut window, || label(tensor))?;
            }
            let (mut now, mut skipped) = (now, skipped);
            for place in &places {
                let part = (size as usize - skipped).min(now.len());
                let (element, rest) = std::mem::take(&mut now).split_at_mut(part);
                if width <= WINDOW {
                    let at = (place - low) as usize + skipped;
                    element.copy_from_slice(&window[at..at + part]);
                } else {
                    let at = tensor.offset + place + skipped as u64;
                    self.source.read(at, element, || label(tensor))?;
                }
                (now, skipped) = (rest, 0);
            }
        }
        Ok(())
    }

    /// The items of a list of texts beside the tensors; `None` if there is no such list.
    ///
    /// # Errors
    /// E0333 for a list of something else or one that is damaged, E0330 to E0332 as
    /// [`Checkpoint::read`].
    pub fn texts(&self, key: &str) -> Result<Option<Vec<String>>> {
        self.list(key, gguf::texts)
    }

    /// The items of a list of numbers beside the tensors; `None` if there is no such list.
    ///
    /// # Errors
    /// As [`Checkpoint::texts`].
    pub fn numbers(&self, key: &str) -> Result<Option<Vec<f64>>> {
        self.list(key, gguf::numbers)
    }

    fn list<T>(
        &self,
        key: &str,
        read: impl Fn(&Source, &str, &List) -> Result<Vec<T>>,
    ) -> Result<Option<Vec<T>>> {
        let list = self.table.lists().get(key).map(|list| read(&self.source, key, list));
        list.transpose().map_err(|error| error.at(self.path().display()))
    }

    /// All bytes of the tensor at `position`: for small ones.
    ///
    /// Errors: as [`Checkpoint::read`], and E0603 where there is no memory for them.
    ///
    /// # Panics
    /// If `position` is not below [`Checkpoint::len`].
    pub fn contents(&self, position: usize) -> Result<Vec<u8>> {
        let tensor = &self.table.tensors()[position];
        let room = usize::try_from(tensor.bytes).ok().and_then(memory::zeroed);
        let mut bytes = room.ok_or_else(|| {
            Error::no_memory(tensor.bytes, &format!("tensor `{}`", tensor.name))
                .at(self.path().display())
        })?;
        self.read(position, 0, &mut bytes)?;
        Ok(bytes)
    }

    /// A cheap identity of the file, as 64 lower-case hex digits; recipes record it.
    ///
    /// SHA-256 over, in this order: what stands before the tensors (in safetensors the length field
    /// and the header), the file's length as a little-endian u64, the first MiB after that, and the
    /// last MiB (overlapping where the data are shorter than 2 MiB). So it does not see a change in
    /// the middle of the data; [`hash_file`](super::hash_file) does.
    ///
    /// Errors: E0330 to E0332 as [`Checkpoint::read`].
    pub fn fingerprint(&self) -> Result<String> {
        super::digest::fingerprint(&self.source, self.table.head_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::super::hash_file;
    use super::*;
    use crate::testing::{TempFolder, file, fixtures};
    use std::fs::OpenOptions;
    use std::io::Write;
    use std::time::SystemTime;

    #[test]
    fn every_fixture_reads_as_the_reference_crate_reads_it() {
        let mut folders = vec![fixtures()];
        let mut files = 0;
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    folders.push(path);
                } else if path.extension().is_some_and(|end| end == "safetensors") {
                    files += 1;
                    let ours = Checkpoint::open(&path).unwrap();
                    let bytes = std::fs::read(&path).unwrap();
                    let theirs = safetensors::SafeTensors::deserialize(&bytes).unwrap();
                    assert_eq!(ours.len(), theirs.len());
                    for (name, tensor) in ours.iter() {
                        let other = theirs.tensor(name).unwrap();
                        let shape: Vec<usize> = tensor.shape.iter().map(|&n| n as usize).collect();
                        assert_eq!(shape, other.shape());
                        let position = ours.table().position(name).unwrap();
                        assert_eq!(ours.contents(position).unwrap(), other.data());
                        assert_eq!(tensor.encoding.name(), other.dtype().to_string());
                        assert_eq!(ours.tensor(name), Some(tensor));
                    }
                }
            }
        }
        assert!(files > 20, "{files}");
    }

    #[test]
    fn opening_fails_with_the_path() {
        let folder = TempFolder::new();
        for (path, code) in [
            (folder.path().join("absent.safetensors"), "E0310"),
            (folder.path().to_owned(), "E0310"),
            (PathBuf::from("/dev/zero"), "E0310"),
            (folder.write("empty.safetensors", b""), "E0311"),
            (folder.write("cut.safetensors", &file("{}", &[])[..9]), "E0312"),
        ] {
            let error = Checkpoint::open(&path).unwrap_err();
            assert_eq!(error.code(), code, "{error}");
            assert_eq!(error.place(), Some(path.display().to_string().as_str()));
            assert!(error.help_text().is_some());
        }
        let missing = folder.path().join("absent");
        assert_eq!(hash_file(&missing).unwrap_err().code(), "E0310");
    }

    /// A file of one tensor `w` of `length` bytes, each 1.
    fn ones(length: usize) -> Vec<u8> {
        let text =
            format!(r#"{{"w":{{"dtype":"U8","shape":[{length}],"data_offsets":[0,{length}]}}}}"#);
        file(&text, &vec![1; length])
    }

    #[test]
    fn a_file_that_gets_shorter_is_an_error_with_its_name() {
        let folder = TempFolder::new();
        let path = folder.write("cut.safetensors", ones(100_000));
        let whole = std::fs::metadata(&path).unwrap().len();
        let open = Checkpoint::open(&path).unwrap();
        let cut = OpenOptions::new().write(true).open(&path).unwrap();
        let mut piece = [0; 10];
        // Also where the bytes that are asked for are still there.
        for (length, from) in [(whole - 1, 0), (whole - 1, 99_990), (200, 50_000), (0, 0)] {
            cut.set_len(length).unwrap();
            let error = open.read(0, from, &mut piece).unwrap_err();
            assert_eq!(error.code(), "E0330", "{error}");
            assert!(error.message().contains("`w`"), "{error}");
            assert_eq!(error.place(), Some(path.display().to_string().as_str()));
            assert_eq!(open.contents(0).unwrap_err().code(), "E0330");
            assert_eq!(open.fingerprint().unwrap_err().code(), "E0330");
        }
    }

    #[test]
    fn a_file_that_is_written_over_is_an_error_and_one_that_is_replaced_is_not() {
        let folder = TempFolder::new();
        let path = folder.write("a.safetensors", ones(5000));
        let open = Checkpoint::open(&path).unwrap();
        let other = folder.write("b.safetensors", ones(6000));
        std::fs::rename(other, &path).unwrap();
        assert_eq!(open.contents(0).unwrap(), vec![1; 5000], "the file that was opened");
        let open = Checkpoint::open(&path).unwrap();
        let mut over = OpenOptions::new().append(true).open(&path).unwrap();
        over.write_all(b"more").unwrap();
        assert_eq!(open.contents(0).unwrap_err().code(), "E0331");
        over.set_len(over.metadata().unwrap().len() - 4).unwrap();
        let earlier = SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(1);
        over.set_modified(earlier).unwrap();
        assert_eq!(open.contents(0).unwrap_err().code(), "E0331", "of the same length");
        assert_eq!(Checkpoint::open(&path).unwrap().contents(0).unwrap().len(), 6000);
    }

    #[test]
    #[cfg(unix)]
    fn a_file_of_a_terabyte_of_nothing_is_refused_at_once() {
        let folder = TempFolder::new();
        let length = 1u64 << 40;
        let text = format!(
            r#"{{"w":{{"dtype":"U8","shape":[{}],"data_offsets":[0,{}]}}}}"#,
            length, length
        );
        let path = folder.write("sparse.safetensors", file(&text, &[]));
        let sparse = OpenOptions::new().write(true).open(&path).unwrap();
        if let Err(fault) = sparse.set_len(length + 8 + text.len() as u64) {
            println!("skipped: this file system holds no file of a terabyte: {fault}");
            return;
        }
        let open = Checkpoint::open(&path).unwrap();
        let mut piece = [1; 100];
        open.read(0, length - 100, &mut piece).unwrap();
        assert_eq!(piece, [0; 100]);
        sparse.set_len(100).unwrap();
        assert_eq!(Checkpoint::open(&path).unwrap_err().code(), "E0319");
        let path = folder.write("zeros.safetensors", b"");
        OpenOptions::new().write(true).open(&path).unwrap().set_len(length).unwrap();
        assert_eq!(Checkpoint::open(&path).unwrap_err().code(), "E0312");
    }
}
