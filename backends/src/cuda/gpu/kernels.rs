//! Machine code of kernels: compiled once, kept in a folder, loaded when plans are made ready.
//!
//! What is kept is found by everything that decides it: the source with the intrinsics, the
//! architecture, the options and the version of the compiler. What is damaged, or not taken by the
//! driver, is compiled again.

use super::choose;
use super::driver::{Driver, Function, Module, Trouble};
use crate::Fault;
use crate::cuda::cache::Cache;
use crate::cuda::emit::{self, Architecture, Emitted, digest_of};
use crate::cuda::nvrtc::Nvrtc;
use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Makes machine code.
pub(super) trait Compile: Send + Sync {
    /// What decides what it makes of a source.
    fn key(&self) -> String;

    /// The machine code of a kernel for an architecture such as `sm_80`.
    fn compile(&self, kernel: &Emitted, architecture: &str) -> Result<Vec<u8>, Box<Fault>>;
}

/// Folders with NVRTC that the system may not look in.
const FOLDERS: [&str; 2] = ["/usr/local/cuda/lib64", "/usr/local/cuda/targets/x86_64-linux/lib"];

/// NVRTC.
pub(super) struct Compiler(Nvrtc);

impl Compiler {
    /// NVRTC from `folder`, or from where it usually lies: the newest that makes what the driver loads.
    pub(super) fn find(folder: Option<&str>, driver: (i32, i32)) -> Result<Self, Box<Fault>> {
        let asked = folder.filter(|folder| !folder.is_empty()).map(Path::new);
        let usual = FOLDERS.iter().map(|at| Some(Path::new(at))).filter(|_| asked.is_none());
        let found = std::iter::once(asked).chain(usual).flat_map(Nvrtc::all);
        let usable =
            |nvrtc: &Nvrtc| choose::loads(driver, nvrtc.version()).and_then(|()| nvrtc.compiles());
        choose::nvrtc(found, usable).map(Self).map_err(|mut fault| {
            let help = "install it, for instance with `pip install nvidia-cuda-nvrtc`, and name the \
                        folder that holds it in ANYID_NVRTC";
            fault.help.get_or_insert_with(|| help.to_owned());
            fault
        })
    }

    pub(super) fn version(&self) -> (i32, i32) {
        self.0.version()
    }
}

impl Compile for Compiler {
    fn key(&self) -> String {
        let (major, minor) = self.version();
        format!("NVRTC {major}.{minor}")
    }

    fn compile(&self, kernel: &Emitted, architecture: &str) -> Result<Vec<u8>, Box<Fault>> {
        self.0.compile(&[kernel], architecture).map(|made| made.cubin)
    }
}

/// The kernels of a device.
pub(super) struct Kernels {
    own: choose::Kernels,
    compiler: Box<dyn Compile>,
    /// Where machine code is kept, if anywhere.
    cache: Option<Cache>,
    loaded: Mutex<BTreeMap<String, (Module, Function)>>,
}

impl Kernels {
    pub(super) fn new(
        own: choose::Kernels,
        compiler: Box<dyn Compile>,
        cache: Option<Cache>,
    ) -> Self {
        Self { own, compiler, cache, loaded: Mutex::default() }
    }

    /// Which instructions they use.
    pub(super) fn architecture(&self) -> Architecture {
        self.own.architecture
    }

    fn held(&self) -> MutexGuard<'_, BTreeMap<String, (Module, Function)>> {
        self.loaded.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Compiles and loads those of `emitted` that are not there yet.
    pub(super) fn load<'e>(
        &self,
        device: &str,
        driver: &dyn Driver,
        emitted: impl Iterator<Item = &'e Emitted>,
    ) -> Result<(), Box<Fault>> {
        let mut missing: BTreeMap<&str, &Emitted> =
            emitted.map(|each| (each.name.as_str(), each)).collect();
        {
            let held = self.held();
            missing.retain(|name, _| !held.contains_key(*name));
        }
        let missing: Vec<&Emitted> = missing.into_values().collect();
        for (emitted, code) in missing.iter().zip(self.code(&missing)?) {
            let shared = emitted.grid.shared_bytes;
            let loaded = |code: &[u8]| {
                let module = driver.module(code)?;
                let function = driver.function(module, &emitted.name, shared);
                function.map(|function| (module, function)).inspect_err(|_| {
                    // SAFETY: it was just loaded, and nothing was launched from it.
                    unsafe { driver.unload(module) };
                })
            };
            let first = loaded(&code);
            let done = match first {
                // What was kept may be of another driver's time.
                Err(refused) if refused.trouble == Trouble::Image => {
                    let made = self.make(emitted, &self.key(emitted))?;
                    loaded(&made)
                }
                other => other,
            };
            let done = done.map_err(|refused| {
                let mut fault = choose::refusal(device, &refused);
                fault.place = Some(format!("kernel {}", emitted.name));
                fault
            })?;
            match self.held().entry(emitted.name.clone()) {
                Entry::Vacant(place) => {
                    place.insert(done);
                }
                // Somebody else has loaded it meanwhile.
                // SAFETY: nothing was launched from this one, and nobody else knows of it.
                Entry::Occupied(_) => unsafe { driver.unload(done.0) },
            }
        }
        Ok(())
    }

    /// A kernel that was loaded.
    pub(super) fn find(&self, name: &str) -> Function {
        self.held().get(name).expect("kernels are loaded before they are asked for").1
    }

    /// Unloads all of them.
    pub(super) fn unload(&mut self, driver: &dyn Driver) {
        for (module, _) in std::mem::take(&mut *self.held()).into_values() {
            // SAFETY: the device that launches them is going, and its stream is empty.
            unsafe { driver.unload(module) };
        }
    }

    /// The code of kernels, compiled side by side where it is not kept.
    fn code(&self, kernels: &[&Emitted]) -> Result<Vec<Vec<u8>>, Box<Fault>> {
        let next = Mutex::new(kernels.iter().enumerate());
        let done = Mutex::new(Vec::with_capacity(kernels.len()));
        let work = || -> Result<(), Box<Fault>> {
            let take = || next.lock().unwrap_or_else(PoisonError::into_inner).next();
            while let Some((at, kernel)) = take() {
                let key = self.key(kernel);
                let code = match self.cache.as_ref().and_then(|cache| cache.read(&key)) {
                    Some(code) => code,
                    None => self.make(kernel, &key)?,
                };
                done.lock().unwrap_or_else(PoisonError::into_inner).push((at, code));
            }
            Ok(())
        };
        let threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let threads = threads.min(kernels.len());
        std::thread::scope(|scope| {
            let workers: Vec<_> = (1..threads).map(|_| scope.spawn(work)).collect();
            let own = work();
            let others = workers.into_iter().map(|worker| worker.join().expect("it only compiles"));
            others.fold(own, |all, one| all.and(one))
        })?;
        let mut done = done.into_inner().unwrap_or_else(PoisonError::into_inner);
        done.sort_unstable_by_key(|(at, _)| *at);
        Ok(done.into_iter().map(|(_, code)| code).collect())
    }

    fn make(&self, kernel: &Emitted, key: &str) -> Result<Vec<u8>, Box<Fault>> {
        let code = self.compiler.compile(kernel, &self.own.compiled)?;
        if let Some(cache) = &self.cache {
            // What cannot be kept is made again by the next process.
            let _ = cache.write(key, &code);
        }
        Ok(code)
    }

    fn key(&self, kernel: &Emitted) -> String {
        let parts = [&*self.compiler.key(), &self.own.compiled, emit::INTRINSICS, emit::COMMON];
        let all = [&parts[..], &[&kernel.text]].concat().join("\n");
        // Two digests: among many kernels, one of 64 bits alone would not be safe enough.
        let turned: Vec<u8> = all.bytes().rev().collect();
        format!("{:016x}{:016x}", digest_of(all.as_bytes()), digest_of(&turned))
    }
}
