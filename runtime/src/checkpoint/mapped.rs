//! One checkpoint file in memory: mapped, its tensors given out as borrowed bytes.
//!
//! Nothing is copied on opening, and pages are read when first touched. Tensor data may start at
//! any byte, so nothing here casts it in place; the conversions read it byte-wise. Also here: the
//! two digests of a file that recipes record. A file must not be shortened while it is mapped
//! (the operating system then stops the process on access); files that this program writes are
//! replaced by renaming, which leaves existing maps intact.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{ErrorKind, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};
use memmap2::Mmap;
use sha2::{Digest, Sha256};

use super::header::{Header, MAX_HEADER_BYTES, TensorDtype, TensorEntry};
use crate::error::{Error, Result};

/// A safetensors file, open and checked.
#[derive(Debug)]
pub struct Checkpoint {
    path: PathBuf,
    header: Header,
    storage: Storage,
}

#[derive(Debug)]
enum Storage {
    Map(Mmap),
    Memory(Vec<u8>),
}

impl Storage {
    fn bytes(&self) -> &[u8] {
        match self {
            Self::Map(map) => map,
            Self::Memory(bytes) => bytes,
        }
    }
}

/// A tensor in a [`Checkpoint`]: little-endian bytes, row-major, at any alignment.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TensorView<'a> {
    /// Element type.
    pub dtype: TensorDtype,
    /// Sizes, slowest dimension first; empty for a scalar.
    pub shape: &'a [u64],
    /// Exactly `elements · dtype.size_bytes()` bytes.
    pub bytes: &'a [u8],
}

impl TensorView<'_> {
    /// Number of elements.
    pub fn elements(&self) -> usize {
        self.bytes.len() / self.dtype.size_bytes() as usize
    }
}

impl Checkpoint {
    /// Maps and parses a safetensors file.
    ///
    /// Errors: E0310 when it cannot be opened, E0311–E0320 when its contents are wrong.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let (file, length) = open_file(path)?;
        let storage = if length == 0 {
            // Mapping nothing is an error of its own on some systems.
            Storage::Memory(Vec::new())
        } else {
            // SAFETY: the map is read-only and shared. Another process that changes the file can
            // change what is read, which no bounds rest on after `Header::parse`; one that
            // shortens it stops the process, as the file header says.
            let map = unsafe { Mmap::map(&file) };
            Storage::Map(map.map_err(|fault| open_error(path, fault))?)
        };
        Self::new(path.to_owned(), storage)
    }

    /// Takes the contents of a safetensors file from memory; `label` stands in for its path.
    ///
    /// Errors: E0311–E0320 as [`Checkpoint::open`].
    pub fn from_bytes(bytes: Vec<u8>, label: impl Into<PathBuf>) -> Result<Self> {
        Self::new(label.into(), Storage::Memory(bytes))
    }

    fn new(path: PathBuf, storage: Storage) -> Result<Self> {
        let header = Header::parse(storage.bytes()).map_err(|fault| fault.at(path.display()))?;
        Ok(Self { path, header, storage })
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The parsed header.
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// The `__metadata__` map; empty if the file has none.
    pub fn metadata(&self) -> &BTreeMap<String, String> {
        self.header.metadata()
    }

    /// Number of tensors.
    pub fn len(&self) -> usize {
        self.header.tensors().len()
    }

    /// Whether the file holds no tensor.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The tensor of this name.
    pub fn tensor(&self, name: &str) -> Option<TensorView<'_>> {
        self.header.position(name).map(|position| self.tensor_at(position))
    }

    /// The tensor at `position` of [`Header::tensors`].
    ///
    /// # Panics
    /// If `position` is not below [`Checkpoint::len`].
    pub fn tensor_at(&self, position: usize) -> TensorView<'_> {
        let entry = &self.header.tensors()[position];
        let (begin, end) = self.range(entry);
        TensorView {
            dtype: entry.dtype,
            shape: &entry.shape,
            bytes: &self.storage.bytes()[begin..end],
        }
    }

    /// Names and tensors in file order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&str, TensorView<'_>)> {
        let tensors = self.header.tensors().iter().enumerate();
        tensors.map(|(position, entry)| (entry.name.as_str(), self.tensor_at(position)))
    }

    /// Tells the operating system that the tensor's pages are not needed for now, so that a pass
    /// over a file larger than memory keeps a bounded resident size. Reading them again loads
    /// them again. A hint: unknown names and systems other than Linux do nothing.
    pub fn release(&self, name: &str) {
        if let Some(position) = self.header.position(name) {
            self.release_at(position);
        }
    }

    /// [`Checkpoint::release`] by position in [`Header::tensors`].
    #[cfg_attr(not(target_os = "linux"), expect(unused_variables, reason = "Linux only"))]
    pub fn release_at(&self, position: usize) {
        #[cfg(target_os = "linux")]
        if let (Storage::Map(map), Some(entry)) =
            (&self.storage, self.header.tensors().get(position))
        {
            let (begin, end) = self.range(entry);
            if begin < end {
                // SAFETY: the map is read-only, shared and backed by the file, so dropped pages
                // come back with the same contents; borrowed slices stay valid. The range was
                // checked against the file's length when the header was parsed.
                let _hint = unsafe {
                    map.unchecked_advise_range(
                        memmap2::UncheckedAdvice::DontNeed,
                        begin,
                        end - begin,
                    )
                };
            }
        }
    }

    /// The [`fingerprint`] of the contents, also of a file that exists in memory only.
    pub fn fingerprint(&self) -> String {
        let bytes = self.storage.bytes();
        let (head, data) = bytes.split_at(self.header.data_offset() as usize);
        let sample = data.len().min(PIECE as usize);
        let mut hasher = Sha256::new();
        hasher.update(head);
        hasher.update((bytes.len() as u64).to_le_bytes());
        hasher.update(&data[..sample]);
        hasher.update(&data[data.len() - sample..]);
        hex(hasher)
    }

    /// Bounds of the tensor in the file; within memory because the header was checked.
    fn range(&self, entry: &TensorEntry) -> (usize, usize) {
        let offset = self.header.data_offset();
        ((offset + entry.begin) as usize, (offset + entry.end) as usize)
    }
}

fn open_file(path: &Path) -> Result<(File, u64)> {
    let file = File::open(path).map_err(|fault| open_error(path, fault))?;
    let about = file.metadata().map_err(|fault| open_error(path, fault))?;
    if about.is_dir() {
        return Err(Error::input("E0310", "this is a folder, not a checkpoint file")
            .at(path.display())
            .help("name the file inside it, or pass the folder where a model folder is expected"));
    }
    if !about.is_file() {
        return Err(Error::input("E0310", "this is not a regular file, so it cannot be mapped")
            .at(path.display())
            .help("save the contents to a file first"));
    }
    Ok((file, about.len()))
}

fn open_error(path: &Path, fault: std::io::Error) -> Error {
    let (what, help) = match fault.kind() {
        ErrorKind::NotFound => ("the file does not exist", "check the path for typing mistakes"),
        ErrorKind::PermissionDenied => {
            ("the file may not be read", "check its permissions and those of its folders")
        }
        _ => ("the file cannot be read", "see the cause; the file system may be at fault"),
    };
    Error::input("E0310", what).at(path.display()).help(help).caused_by(fault)
}

/// Elements converted at a time: small enough for the stack, large enough for wide instructions.
const BLOCK: usize = 1024;

/// Decodes a floating-point tensor to f32.
///
/// F64 is rounded to nearest even; all other float dtypes are exact. `out` has one element per
/// element of the tensor. Errors: E0321 for a dtype that is no float, E0322 for a wrong length.
pub fn to_f32_into(tensor: &TensorView<'_>, out: &mut [f32]) -> Result<()> {
    check_length(tensor, out.len())?;
    let bytes = tensor.bytes;
    match tensor.dtype {
        TensorDtype::F32 => {
            for (value, raw) in out.iter_mut().zip(bytes.as_chunks::<4>().0) {
                *value = f32::from_le_bytes(*raw);
            }
        }
        TensorDtype::F64 => {
            for (value, raw) in out.iter_mut().zip(bytes.as_chunks::<8>().0) {
                *value = f64::from_le_bytes(*raw) as f32;
            }
        }
        TensorDtype::Bf16 => {
            for (value, raw) in out.iter_mut().zip(bytes.as_chunks::<2>().0) {
                *value = f32::from_bits(u32::from(u16::from_le_bytes(*raw)) << 16);
            }
        }
        TensorDtype::F16 => {
            let mut block = [f16::ZERO; BLOCK];
            for (out, raw) in out.chunks_mut(BLOCK).zip(bytes.chunks(2 * BLOCK)) {
                let block = &mut block[..out.len()];
                for (value, raw) in block.iter_mut().zip(raw.as_chunks::<2>().0) {
                    *value = f16::from_le_bytes(*raw);
                }
                block.convert_to_f32_slice(out);
            }
        }
        TensorDtype::F8E5M2 => {
            for (value, &raw) in out.iter_mut().zip(bytes) {
                *value = f16::from_bits(u16::from(raw) << 8).to_f32();
            }
        }
        TensorDtype::F8E4M3 => {
            let table: [f32; 256] = std::array::from_fn(|code| e4m3_to_f32(code as u8));
            for (value, &raw) in out.iter_mut().zip(bytes) {
                *value = table[usize::from(raw)];
            }
        }
        TensorDtype::I64
        | TensorDtype::I32
        | TensorDtype::I16
        | TensorDtype::I8
        | TensorDtype::U32
        | TensorDtype::U16
        | TensorDtype::U8
        | TensorDtype::Bool => return Err(not_a_float(tensor)),
    }
    Ok(())
}

/// Decodes a floating-point tensor to bf16, rounding once, to nearest even.
///
/// `out` has one element per element of the tensor. NaN stays NaN. Errors: as [`to_f32_into`].
pub fn to_bf16_into(tensor: &TensorView<'_>, out: &mut [bf16]) -> Result<()> {
    check_length(tensor, out.len())?;
    let bytes = tensor.bytes;
    match tensor.dtype {
        TensorDtype::Bf16 => {
            for (value, raw) in out.iter_mut().zip(bytes.as_chunks::<2>().0) {
                *value = bf16::from_le_bytes(*raw);
            }
        }
        TensorDtype::F32 => {
            for (value, raw) in out.iter_mut().zip(bytes.as_chunks::<4>().0) {
                *value = round_to_bf16(f32::from_le_bytes(*raw));
            }
        }
        TensorDtype::F64 => {
            for (value, raw) in out.iter_mut().zip(bytes.as_chunks::<8>().0) {
                *value = round_to_bf16(round_to_odd(f64::from_le_bytes(*raw)));
            }
        }
        // Exact in f32, so the rounding below is the only one.
        TensorDtype::F16 | TensorDtype::F8E4M3 | TensorDtype::F8E5M2 => {
            let mut block = [0.0; BLOCK];
            let size = tensor.dtype.size_bytes() as usize;
            for (out, bytes) in out.chunks_mut(BLOCK).zip(bytes.chunks(size * BLOCK)) {
                let block = &mut block[..out.len()];
                to_f32_into(&TensorView { bytes, ..*tensor }, block)?;
                for (value, &wide) in out.iter_mut().zip(block.iter()) {
                    *value = round_to_bf16(wide);
                }
            }
        }
        TensorDtype::I64
        | TensorDtype::I32
        | TensorDtype::I16
        | TensorDtype::I8
        | TensorDtype::U32
        | TensorDtype::U16
        | TensorDtype::U8
        | TensorDtype::Bool => return Err(not_a_float(tensor)),
    }
    Ok(())
}

fn check_length(tensor: &TensorView<'_>, given: usize) -> Result<()> {
    if given == tensor.elements() && tensor.elements() * element_bytes(tensor) == tensor.bytes.len()
    {
        return Ok(());
    }
    Err(Error::internal(
        "E0322",
        format!(
            "a {} tensor of {} bytes is to be converted into {given} elements",
            tensor.dtype,
            tensor.bytes.len()
        ),
    )
    .help("this is a fault of the program: please report it"))
}

fn element_bytes(tensor: &TensorView<'_>) -> usize {
    tensor.dtype.size_bytes() as usize
}

fn not_a_float(tensor: &TensorView<'_>) -> Error {
    Error::input("E0321", format!("a tensor of dtype {} cannot serve as a weight", tensor.dtype))
        .help("weights are F64, F32, F16, BF16, F8_E4M3 or F8_E5M2")
}

/// Written without branches so that it becomes vector code.
fn round_to_bf16(value: f32) -> bf16 {
    let bits = value.to_bits();
    let rounded = bits.wrapping_add(0x7fff + (bits >> 16 & 1)) >> 16;
    let quiet = bits >> 16 | 0x40;
    bf16::from_bits(if value.is_nan() { quiet } else { rounded } as u16)
}

/// The f32 below or above an inexact f64 whose last bit is 1, so that a second rounding to fewer
/// bits equals a single one (von Neumann rounding).
fn round_to_odd(value: f64) -> f32 {
    let near = value as f32;
    if f64::from(near) == value || value.is_nan() {
        return near;
    }
    let toward_zero = near.to_bits() - u32::from(f64::from(near).abs() > value.abs());
    f32::from_bits(toward_zero | 1)
}

/// `float8_e4m3fn`: bias 7, no infinities, NaN is 0x7f and 0xff.
fn e4m3_to_f32(code: u8) -> f32 {
    let sign = if code & 0x80 == 0 { 1.0 } else { -1.0 };
    let (exponent, mantissa) = (i32::from(code >> 3 & 15), f32::from(code & 7));
    let magnitude = match (exponent, code & 7) {
        (15, 7) => f32::NAN,
        (0, _) => mantissa * 2f32.powi(-9),
        _ => (8.0 + mantissa) * 2f32.powi(exponent - 10),
    };
    sign * magnitude
}

/// SHA-256 of a whole file as 64 lower-case hex digits, read in pieces of 1 MiB.
///
/// `progress` is called with (bytes done, bytes in all) after each piece. Errors: E0310.
pub fn hash_file(path: impl AsRef<Path>, mut progress: impl FnMut(u64, u64)) -> Result<String> {
    let path = path.as_ref();
    let (mut file, length) = open_file(path)?;
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; PIECE as usize];
    let mut done = 0;
    loop {
        match file.read(&mut buffer) {
            Ok(0) => break,
            Ok(count) => {
                hasher.update(&buffer[..count]);
                done += count as u64;
                progress(done, length.max(done));
            }
            Err(fault) if fault.kind() == ErrorKind::Interrupted => {}
            Err(fault) => return Err(open_error(path, fault)),
        }
    }
    Ok(hex(hasher))
}

const PIECE: u64 = 1 << 20;

/// A cheap identity of a checkpoint file, as 64 lower-case hex digits; recipes record it.
///
/// SHA-256 over, in this order: the length field and header (nothing if the file is no
/// safetensors file), the file's length as a little-endian u64, the first MiB after the header,
/// and the last MiB after the header (overlapping where the data are shorter than 2 MiB). It
/// reads at most the header and 2 MiB, so it does not see a change in the middle of the data;
/// [`hash_file`] does. Errors: E0310.
pub fn fingerprint(path: impl AsRef<Path>) -> Result<String> {
    let path = path.as_ref();
    let (mut file, length) = open_file(path)?;
    let mut fail = |fault| open_error(path, fault);
    let mut hasher = Sha256::new();
    let mut field = [0; 8];
    let mut head = 0;
    if length >= 8 {
        file.read_exact(&mut field).map_err(&mut fail)?;
        let header = u64::from_le_bytes(field);
        if header <= MAX_HEADER_BYTES && header <= length - 8 {
            head = 8 + header;
        }
    }
    let mut take = |from: u64, count: u64, hasher: &mut Sha256| {
        file.seek(SeekFrom::Start(from))?;
        let mut piece = vec![0; count as usize];
        file.read_exact(&mut piece)?;
        hasher.update(&piece);
        Ok(())
    };
    take(0, head, &mut hasher).map_err(&mut fail)?;
    hasher.update(length.to_le_bytes());
    let sample = PIECE.min(length - head);
    take(head, sample, &mut hasher).map_err(&mut fail)?;
    take(length - sample, sample, &mut hasher).map_err(&mut fail)?;
    Ok(hex(hasher))
}

/// The digest so far as lower-case hex.
pub(crate) fn hex(hasher: Sha256) -> String {
    hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::super::testing::{TempFolder, file, fixtures};
    use super::*;

    fn view<'a>(dtype: TensorDtype, shape: &'a [u64], bytes: &'a [u8]) -> TensorView<'a> {
        TensorView { dtype, shape, bytes }
    }

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
                        assert_eq!(tensor.bytes, other.data());
                        assert_eq!(tensor.dtype.name(), other.dtype().to_string());
                        assert_eq!(ours.tensor(name), Some(tensor));
                        ours.release(name);
                        assert_eq!(tensor.bytes, other.data(), "released pages come back");
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
        assert_eq!(fingerprint(&missing).unwrap_err().code(), "E0310");
        assert_eq!(hash_file(&missing, |_, _| {}).unwrap_err().code(), "E0310");
    }

    #[test]
    fn converts_at_any_alignment() {
        let values: Vec<f32> = (0..3000).map(|i| (i as f32 - 1500.0) * 0.37).collect();
        for shift in 0..8 {
            let mut bytes = vec![0u8; shift];
            values.iter().for_each(|v| bytes.extend(v.to_le_bytes()));
            let mut out = vec![0.0; 3000];
            to_f32_into(&view(TensorDtype::F32, &[3000], &bytes[shift..]), &mut out).unwrap();
            assert_eq!(out, values);
            let mut narrow = vec![bf16::ZERO; 3000];
            to_bf16_into(&view(TensorDtype::F32, &[3000], &bytes[shift..]), &mut narrow).unwrap();
            for (a, b) in narrow.iter().zip(&values) {
                assert_eq!(*a, bf16::from_f32(*b));
            }
        }
    }

    #[test]
    fn every_16_bit_code_converts_as_the_half_crate_does() {
        let codes: Vec<u8> = (0..=u16::MAX).flat_map(u16::to_le_bytes).collect();
        let mut bytes = vec![0];
        bytes.extend(&codes);
        let mut wide = vec![0.0; 65536];
        let mut narrow = vec![bf16::ZERO; 65536];
        to_f32_into(&view(TensorDtype::F16, &[65536], &bytes[1..]), &mut wide).unwrap();
        to_bf16_into(&view(TensorDtype::F16, &[65536], &bytes[1..]), &mut narrow).unwrap();
        for code in 0..=u16::MAX {
            let value = f16::from_bits(code);
            let at = usize::from(code);
            assert!(wide[at] == value.to_f32() || value.is_nan() && wide[at].is_nan());
            let expected = bf16::from_f32(value.to_f32());
            assert!(narrow[at] == expected || expected.is_nan() && narrow[at].is_nan());
        }
        to_f32_into(&view(TensorDtype::Bf16, &[65536], &bytes[1..]), &mut wide).unwrap();
        to_bf16_into(&view(TensorDtype::Bf16, &[65536], &bytes[1..]), &mut narrow).unwrap();
        for code in 0..=u16::MAX {
            assert_eq!(narrow[usize::from(code)].to_bits(), code, "copied bit by bit");
            assert_eq!(wide[usize::from(code)].to_bits(), u32::from(code) << 16);
        }
    }

    #[test]
    fn rounds_once_to_nearest_even() {
        let as_bf16 = |value: f64| {
            let bytes = value.to_le_bytes();
            let mut out = [bf16::ZERO];
            to_bf16_into(&view(TensorDtype::F64, &[], &bytes), &mut out).unwrap();
            out[0].to_f32()
        };
        let step = 2f64.powi(-7);
        assert_eq!(as_bf16(1.0 + step / 2.0), 1.0, "a tie goes to even");
        assert_eq!(as_bf16(1.0 + 1.5 * step), 1.0 + 2.0 * step as f32);
        // Rounding to f32 first would make this a tie and lose the last bits.
        assert_eq!(as_bf16(1.0 + step / 2.0 + 2f64.powi(-40)), 1.0 + step as f32);
        assert_eq!(as_bf16(-(1.0 + step / 2.0 + 2f64.powi(-40))), -1.0 - step as f32);
        assert_eq!(as_bf16(1.0 + 1.5 * step - 2f64.powi(-40)), 1.0 + step as f32);
        assert_eq!(as_bf16(1e300), f32::INFINITY);
        assert_eq!(as_bf16(-1e-300).to_bits(), (-0.0f32).to_bits());
        assert!(as_bf16(f64::NAN).is_nan());
        assert_eq!(round_to_bf16(f32::INFINITY), bf16::INFINITY);
        assert_eq!(round_to_bf16(f32::MAX), bf16::INFINITY);
        assert!(round_to_bf16(f32::from_bits(0x7f80_0001)).is_nan());
        assert!(round_to_bf16(f32::from_bits(0xffff_ffff)).is_nan());
        let mut bits = 1u32;
        for _ in 0..100_000 {
            bits = bits.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let value = f32::from_bits(bits);
            let expected = bf16::from_f32(value);
            let found = round_to_bf16(value);
            assert!(found == expected || expected.is_nan() && found.is_nan(), "{bits:#x}");
        }
    }

    #[test]
    fn eight_bit_floats_follow_their_definition() {
        let codes: Vec<u8> = (0..=255).collect();
        let mut out = [0.0; 256];
        to_f32_into(&view(TensorDtype::F8E4M3, &[256], &codes), &mut out).unwrap();
        assert_eq!(out[0], 0.0);
        assert_eq!(out[0x80].to_bits(), (-0.0f32).to_bits());
        assert_eq!(out[1], 2f32.powi(-9));
        assert_eq!(out[8], 2f32.powi(-6));
        assert_eq!(out[0x38], 1.0);
        assert_eq!(out[0x7e], 448.0);
        assert_eq!(out[0xfe], -448.0);
        assert!(out[0x7f].is_nan() && out[0xff].is_nan());
        to_f32_into(&view(TensorDtype::F8E5M2, &[256], &codes), &mut out).unwrap();
        assert_eq!(out[1], 2f32.powi(-16));
        assert_eq!(out[0x3c], 1.0);
        assert_eq!(out[0x7b], 57344.0);
        assert_eq!(out[0x7c], f32::INFINITY);
        assert!(out[0x7d].is_nan());
    }

    #[test]
    fn refuses_integers_and_wrong_lengths() {
        let error = to_f32_into(&view(TensorDtype::I32, &[1], &[0; 4]), &mut [0.0]).unwrap_err();
        assert_eq!(error.code(), "E0321");
        let error = to_bf16_into(&view(TensorDtype::Bool, &[1], &[0]), &mut [bf16::ZERO]);
        assert_eq!(error.unwrap_err().code(), "E0321");
        let error = to_f32_into(&view(TensorDtype::F32, &[1], &[0; 4]), &mut [0.0; 2]).unwrap_err();
        assert_eq!(error.code(), "E0322");
        let ragged = to_f32_into(&view(TensorDtype::F32, &[1], &[0; 5]), &mut [0.0]).unwrap_err();
        assert_eq!(ragged.code(), "E0322");
    }

    #[test]
    fn digests_see_what_they_promise_to_see() {
        let folder = TempFolder::new();
        let abc = folder.write("abc", b"abc");
        let mut seen = Vec::new();
        let digest = hash_file(&abc, |done, total| seen.push((done, total))).unwrap();
        assert_eq!(digest, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
        assert_eq!(seen, [(3, 3)]);
        let length = 3 << 20;
        let text =
            format!(r#"{{"a":{{"dtype":"U8","shape":[{length}],"data_offsets":[0,{length}]}}}}"#);
        let base = file(&text, &vec![1; length]);
        let start = base.len() - length;
        let print = |at: Option<usize>| {
            let mut bytes = base.clone();
            if let Some(at) = at {
                bytes[at] ^= 1;
            }
            let path = folder.write("big", bytes);
            let found = fingerprint(&path).unwrap();
            // A flipped bit in the header may leave no safetensors file to open.
            if let Ok(open) = Checkpoint::open(&path) {
                assert_eq!(open.fingerprint(), found);
            }
            found
        };
        let plain = print(None);
        assert_eq!(plain.len(), 64);
        assert_eq!(print(None), plain);
        for changed in [9, start, start + 100, base.len() - 1, base.len() - (1 << 20)] {
            assert_ne!(print(Some(changed)), plain, "{changed}");
        }
        assert_eq!(print(Some(start + length / 2)), plain, "the middle is not read");
        assert_ne!(fingerprint(&abc).unwrap(), fingerprint(folder.write("e", b"")).unwrap());
    }
}
