//! Kernels as functions: source is compiled in groups, loaded, and found by name.
//!
//! A group is one source with the intrinsics in front, and one library. Groups are compiled side by
//! side. A kernel that any library of the cache has is not compiled again, and a device holds every
//! kernel that it has loaded.

use super::compiler::Compiler;
use super::{KEPT, Order};
use crate::Fault;
use crate::cuda::cache::Cache;
use crate::cuda::emit::{self, Argument, Emitted};
use crate::cuda::launches::{Parameter, Span};
use crate::errors::OpenError;
use libloading::Library;
use smallvec::SmallVec;
use std::collections::BTreeMap;
use std::fmt::Write;
use std::mem::MaybeUninit;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Most kernels of a group.
const GROUP: usize = 48;
/// Fewest kernels of a group, beside the intrinsics, which every group compiles once more.
const LEAST: usize = 6;

/// Memory of an operand or result: `emulated::Range`.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
struct Range {
    base: *mut u8,
    bytes: i64,
    width: i64,
    stride: i64,
}

/// A matrix that is loaded in pieces: `emulated::Map`.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
struct Map {
    memory: Range,
    rows: i64,
    columns: i64,
    stride_bytes: i64,
    box_rows: u32,
}

/// What the parameters of a kernel are in a launch.
#[derive(Default)]
pub(super) struct Given {
    ranges: SmallVec<[Range; 16]>,
    sizes: SmallVec<[i64; 4]>,
    maps: SmallVec<[Map; 4]>,
}

impl Given {
    /// Parameters as a kernel of a library takes them.
    pub(super) fn of(parameters: &[Parameter]) -> Self {
        let mut given = Self::default();
        for parameter in parameters {
            match *parameter {
                Parameter::Memory(span) => given.ranges.push(Range::of(span)),
                Parameter::Size(size) => given.sizes.push(size),
                Parameter::Map(matrix) => given.maps.push(Map {
                    memory: Range::of(matrix.memory),
                    rows: matrix.rows as i64,
                    columns: matrix.columns as i64,
                    stride_bytes: matrix.stride_bytes as i64,
                    box_rows: matrix.box_rows,
                }),
            }
        }
        given
    }
}

impl Range {
    fn of(span: Span) -> Self {
        Self {
            base: std::ptr::with_exposed_provenance_mut(span.address as usize),
            bytes: span.bytes as i64,
            width: span.width as i64,
            stride: span.stride as i64,
        }
    }
}

/// A launch: `emulated::Launch`.
#[repr(C)]
struct Launch {
    ranges: *const Range,
    sizes: *const i64,
    maps: *const Map,
    blocks: [u32; 3],
    threads: u32,
    order: i32,
    late: i32,
    message: *mut u8,
    message_bytes: i64,
    memory: *mut MaybeUninit<u8>,
}

type Entry = unsafe extern "C" fn(*const Launch) -> i32;

/// A kernel that is ready to be launched.
#[derive(Clone)]
pub(super) struct Kernel {
    entry: Entry,
    /// What blocks work in.
    bytes: usize,
    /// Holds the code of `entry`.
    _library: Arc<Library>,
}

/// Memory that the blocks of a launch work in, and where they say what went wrong.
pub(super) struct Room {
    memory: Box<[MaybeUninit<u8>]>,
    message: [u8; 512],
}

impl Room {
    /// Room for any of these kernels.
    pub(super) fn of<'k>(kernels: impl Iterator<Item = &'k Kernel>) -> Self {
        let bytes = kernels.map(|kernel| kernel.bytes).max().unwrap_or(0);
        Self { memory: Box::new_uninit_slice(bytes), message: [0; 512] }
    }
}

impl Kernel {
    /// Launches the kernel; what went wrong, in words.
    ///
    /// # Safety
    /// `given` describes memory that nothing else uses meanwhile, whose operands nothing writes.
    pub(super) unsafe fn launch(
        &self,
        grid: emit::Grid,
        given: &Given,
        order: Order,
        room: &mut Room,
    ) -> Result<(), String> {
        assert!(room.memory.len() >= self.bytes, "room was made for this kernel");
        room.message[0] = 0;
        let launch = Launch {
            ranges: given.ranges.as_ptr(),
            sizes: given.sizes.as_ptr(),
            maps: given.maps.as_ptr(),
            blocks: grid.blocks,
            threads: grid.threads,
            order: order as i32,
            late: i32::from(order.lands_late()),
            message: room.message.as_mut_ptr(),
            message_bytes: room.message.len() as i64,
            memory: room.memory.as_mut_ptr(),
        };
        // SAFETY: the function was made for this structure, and reads as many arguments as the kernel
        // has; the caller vouches for the memory behind them.
        if unsafe { (self.entry)(&raw const launch) } == 0 {
            return Ok(());
        }
        let end = room.message.iter().position(|byte| *byte == 0).unwrap_or(room.message.len());
        Err(String::from_utf8_lossy(&room.message[..end]).into_owned())
    }
}

/// All kernels that a device has loaded, and how more are made.
pub(super) struct Kernels {
    compiler: Compiler,
    cache: Cache,
    loaded: Mutex<BTreeMap<String, Kernel>>,
    /// Changes a source before it is compiled, for tests that put faults there.
    changed: Box<Change>,
}

/// Makes one source of another.
type Change = dyn Fn(String) -> String + Send + Sync;

impl Kernels {
    pub(super) fn new(compiler: Compiler, cache: Option<&str>) -> Result<Self, OpenError> {
        let cache = Cache::open(KEPT, cache).map_err(OpenError::Failed)?;
        let (loaded, changed) = (Mutex::new(BTreeMap::new()), Box::new(|source: String| source));
        Ok(Self { compiler, cache, loaded, changed })
    }

    /// Compiles what `change` makes of every source.
    #[cfg(test)]
    pub(super) fn change(&mut self, change: impl Fn(String) -> String + Send + Sync + 'static) {
        self.changed = Box::new(change);
    }

    /// What the compiler says that it is.
    pub(super) fn compiler(&self) -> &str {
        self.compiler.version()
    }

    fn held(&self) -> MutexGuard<'_, BTreeMap<String, Kernel>> {
        self.loaded.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Compiles and loads those of `emitted` that are not there yet.
    pub(super) fn load<'e>(
        &self,
        emitted: impl Iterator<Item = &'e Emitted>,
    ) -> Result<(), Box<Fault>> {
        let mut missing: BTreeMap<&str, &Emitted> =
            emitted.map(|each| (each.name.as_str(), each)).collect();
        {
            let held = self.held();
            missing.retain(|name, _| !held.contains_key(*name));
        }
        let missing = self.load_kept(missing.into_values().collect());
        let threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let groups = missing.len().div_ceil(LEAST).clamp(1, threads);
        let size = missing.len().div_ceil(groups).clamp(1, GROUP);
        // Groups are dealt out one by one to as many threads as there are processors.
        let groups = Mutex::new(missing.chunks(size));
        let next = || groups.lock().unwrap_or_else(PoisonError::into_inner).next();
        let work = || -> Result<(), Box<Fault>> {
            while let Some(group) = next() {
                let made = self.group(group)?;
                self.held().extend(made);
            }
            Ok(())
        };
        let threads = threads.min(missing.len().div_ceil(size));
        std::thread::scope(|scope| {
            let workers: Vec<_> = (1..threads).map(|_| scope.spawn(work)).collect();
            let own = work();
            let others = workers.into_iter().map(|worker| worker.join().expect("it only compiles"));
            others.fold(own, |all, one| all.and(one))
        })
    }

    /// Loads those kernels that libraries of the cache have; the others.
    fn load_kept<'e>(&self, wanted: Vec<&'e Emitted>) -> Vec<&'e Emitted> {
        let (mut kept, mut rest) = (BTreeMap::<String, Vec<&Emitted>>::new(), Vec::new());
        for each in wanted {
            match self.cache.holder(&self.key(&[each]).1) {
                Some(library) => kept.entry(library).or_default().push(each),
                None => rest.push(each),
            }
        }
        for (library, kernels) in kept {
            // A library that is damaged, or lacks what was noted, is made again.
            match self.cache.find(&library).and_then(|path| open(&path, &kernels).ok()) {
                Some(loaded) => self.held().extend(loaded),
                None => rest.extend(kernels),
            }
        }
        rest.sort_by(|a, b| a.name.cmp(&b.name));
        rest
    }

    /// A kernel that was loaded.
    pub(super) fn find(&self, name: &str) -> Kernel {
        self.held().get(name).expect("kernels are loaded before they are asked for").clone()
    }

    /// The source of a group, and a key for what is made of it.
    fn key(&self, group: &[&Emitted]) -> (String, String) {
        let source = (self.changed)(source(group));
        let all = format!("{}\n{source}", self.compiler.key());
        (source, format!("{:016x}", emit::digest_of(all.as_bytes())))
    }

    fn group(&self, group: &[&Emitted]) -> Result<Vec<(String, Kernel)>, Box<Fault>> {
        let (source, key) = self.key(group);
        let path = match self.cache.find(&key) {
            Some(path) => path,
            None => self.make(&key, &source)?,
        };
        for each in group {
            self.cache.note_holder(&self.key(&[each]).1, &key);
        }
        open(&path, group)
    }

    fn make(&self, key: &str, source: &str) -> Result<std::path::PathBuf, Box<Fault>> {
        let [text, library] = self.cache.places(key);
        std::fs::write(&text, source).map_err(|error| self.cache.unwritable(error))?;
        self.compiler.compile(&text, &library)?;
        let kept = self.cache.keep(key, &library);
        let _ = std::fs::remove_file(&text);
        kept
    }
}

/// Loads a library and finds the kernels of its group in it.
fn open(path: &Path, group: &[&Emitted]) -> Result<Vec<(String, Kernel)>, Box<Fault>> {
    let broken = |error: libloading::Error| {
        let mut fault = super::fault("E0851", "compiled kernels cannot be loaded".to_owned(), None);
        fault.place = Some(path.display().to_string());
        fault.cause = Some(crate::cuda::said(&error));
        fault
    };
    // SAFETY: the library is what the compiler made of our source, by its digest; nothing runs when
    // it is loaded.
    let library = Arc::new(unsafe { Library::new(path) }.map_err(broken)?);
    // SAFETY: the function has this type in every library.
    let bytes = unsafe {
        let bytes = library.get::<unsafe extern "C" fn() -> i64>(b"emulated_bytes\0");
        bytes.map_err(broken)?()
    };
    let find = |each: &&Emitted| {
        // SAFETY: functions of this name have the type of an entry, in every library.
        let entry = unsafe { *library.get::<Entry>(entry_name(each).as_bytes()).map_err(broken)? };
        let kernel = Kernel { entry, bytes: bytes as usize, _library: library.clone() };
        Ok((each.name.clone(), kernel))
    };
    group.iter().map(find).collect()
}

fn entry_name(emitted: &Emitted) -> String {
    format!("run_{}", emitted.name)
}

/// The source of a group: the intrinsics, every kernel, and a function that launches it.
fn source(group: &[&Emitted]) -> String {
    let mut text = [emit::EMULATION, emit::COMMON].concat();
    text += "\nextern \"C\" Size emulated_bytes() { return emulated::BYTES; }\n";
    for each in group {
        let (mut memory, mut sizes, mut maps) = (0, 0, 0);
        let mut types = each.memory.iter();
        let argument = |argument: &Argument| match argument {
            Argument::Size(_) | Argument::Blocks => {
                sizes += 1;
                format!("l->sizes[{}]", sizes - 1)
            }
            Argument::Map { .. } => {
                maps += 1;
                format!("map_of(l, {})", maps - 1)
            }
            Argument::Operand(_) | Argument::Result(_) | Argument::Constants | Argument::Faults => {
                memory += 1;
                let ty = types.next().expect("every argument of memory has a type");
                format!("emulated::argument<{ty}>(l, {})", memory - 1)
            }
        };
        let arguments: Vec<String> = each.arguments.iter().map(argument).collect();
        write!(
            text,
            "\n{}extern \"C\" int {}(const emulated::Launch* l) {{\n  return emulated::launch(l, [=] \
             {{ {}({}); }});\n}}\n",
            each.text,
            entry_name(each),
            each.name,
            arguments.join(", ")
        )
        .expect("text grows");
    }
    text
}
