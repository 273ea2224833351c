//! The folder of compiled kernels: code by what it was made of, and for kernels that are compiled in
//! groups the code that has each of them.
//!
//! A file is written whole or not at all, and ends in a digest of its bytes: what is damaged is made
//! again. Code is loaded from here, so the folder must belong to the user, and nobody else may write
//! in it. What killed processes left is removed when the folder is next opened.

use super::emit::digest_of;
use crate::Fault;
use std::ffi::OsString;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Stands in front of the digest at the end of a file.
const MARK: &[u8; 8] = b"anyidlib";

/// What is kept: its folder among the user's caches, how its files end, and the variable that names
/// another folder.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Kept {
    pub(crate) folder: &'static str,
    pub(crate) ending: &'static str,
    pub(crate) variable: &'static str,
}

/// A folder for compiled kernels.
pub(crate) struct Cache {
    folder: PathBuf,
    kept: Kept,
}

/// Endings of temporary files: a source, what is made of it, and what shows that the folder can be
/// written.
const TEMPORARY: [&str; 3] = ["cpp", "tmp", "probe"];

/// How old a temporary file is at least that nobody waits for any more.
const STALE: Duration = Duration::from_secs(3600);

/// What a temporary file is called that nobody else uses: devices of one process may share a folder.
fn alone() -> String {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    format!("{}.{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed))
}

impl Cache {
    /// The cache in `folder`, or in the user's folder for caches.
    pub(crate) fn open(kept: Kept, folder: Option<&str>) -> Result<Self, Box<Fault>> {
        let asked = folder.filter(|folder| !folder.is_empty()).map(PathBuf::from);
        let refused =
            |message: &str, at: Option<(&Path, io::Error)>| fault(kept, message, "of your own", at);
        let folder = asked
            .or_else(|| usual(kept))
            .ok_or_else(|| refused("there is no folder for compiled kernels", None))?;
        let made = create(&folder).and_then(|()| check(&folder));
        made.map_err(|error| refused("compiled kernels cannot be kept", Some((&folder, error))))?;
        sweep(&folder);
        Ok(Self { folder, kept })
    }

    /// The cache for a device that does without one, or what to tell the user where there is none.
    #[cfg(any(feature = "cuda", feature = "cubecl-wgpu"))]
    pub(crate) fn open_or_warn(kept: Kept, folder: Option<&str>) -> (Option<Self>, Option<String>) {
        match Self::open(kept, folder) {
            Ok(cache) => (Some(cache), None),
            Err(fault) => {
                let at = fault.place.map(|place| format!(" in {place}")).unwrap_or_default();
                let why = fault.cause.map(|cause| format!(": {cause}")).unwrap_or_default();
                let help = fault.help.map(|help| format!("; {help}")).unwrap_or_default();
                (None, Some(format!("[{}] {}{at}{why}{help}", fault.code, fault.message)))
            }
        }
    }

    /// Where the code of this key is, if it is there and whole.
    #[cfg(feature = "cuda-emulator")]
    pub(crate) fn find(&self, key: &str) -> Option<PathBuf> {
        self.read(key).map(|_| self.path(key))
    }

    /// The code of this key, if it is there and whole.
    pub(crate) fn read(&self, key: &str) -> Option<Vec<u8>> {
        let mut bytes = fs::read(self.path(key)).ok()?;
        let (content, end) = bytes.split_at(bytes.len().checked_sub(16)?);
        let whole = end.strip_prefix(MARK) == Some(&digest_of(content).to_le_bytes()[..]);
        bytes.truncate(bytes.len() - 16);
        whole.then_some(bytes)
    }

    /// The key of the code that has the kernel of this key.
    #[cfg(feature = "cuda-emulator")]
    pub(crate) fn holder(&self, kernel: &str) -> Option<String> {
        let key = fs::read_to_string(self.note(kernel)).ok()?;
        // A key is part of a path.
        let sound = key.len() == 16 && key.bytes().all(|byte| byte.is_ascii_hexdigit());
        sound.then_some(key)
    }

    /// Notes which code has the kernel of this key. What is not noted is compiled again.
    #[cfg(feature = "cuda-emulator")]
    pub(crate) fn note_holder(&self, kernel: &str, code: &str) {
        let [_, made] = self.places(kernel);
        if fs::write(&made, code).is_ok() {
            let _ = fs::rename(&made, self.note(kernel));
        }
    }

    #[cfg(feature = "cuda-emulator")]
    fn note(&self, kernel: &str) -> PathBuf {
        self.folder.join(format!("{kernel}.in"))
    }

    fn path(&self, key: &str) -> PathBuf {
        self.folder.join(format!("{key}.{}", self.kept.ending))
    }

    /// Places for a source and the library that is made of it, which nobody else uses.
    pub(crate) fn places(&self, key: &str) -> [PathBuf; 2] {
        let stem = format!("{key}.{}", alone());
        ["cpp", "tmp"].map(|end| self.folder.join(format!("{stem}.{end}")))
    }

    /// Keeps the code in the file `made` under its key.
    #[cfg(feature = "cuda-emulator")]
    pub(crate) fn keep(&self, key: &str, made: &Path) -> Result<PathBuf, Box<Fault>> {
        let bytes = fs::read(made).map_err(|error| self.unwritable(error))?;
        self.seal(key, bytes, made)?;
        Ok(self.path(key))
    }

    /// Keeps code under its key.
    #[cfg(any(feature = "cuda", feature = "cubecl-wgpu"))]
    pub(crate) fn write(&self, key: &str, code: &[u8]) -> Result<(), Box<Fault>> {
        let [_, made] = self.places(key);
        self.seal(key, code.to_vec(), &made)
    }

    /// Writes code with its digest to `made`, and moves it to its place.
    fn seal(&self, key: &str, mut code: Vec<u8>, made: &Path) -> Result<(), Box<Fault>> {
        let digest = digest_of(&code).to_le_bytes();
        code.extend_from_slice(MARK);
        code.extend_from_slice(&digest);
        let written = fs::write(made, &code).and_then(|()| fs::rename(made, self.path(key)));
        written.map_err(|error| {
            let _ = fs::remove_file(made);
            self.unwritable(error)
        })
    }

    /// The error of a folder that could be written when it was opened.
    pub(crate) fn unwritable(&self, error: io::Error) -> Box<Fault> {
        let at = Some((&*self.folder, error));
        fault(self.kept, "compiled kernels cannot be kept", "with room", at)
    }
}

/// An error of the cache, with the folder and what the system says.
fn fault(kept: Kept, message: &str, kind: &str, at: Option<(&Path, io::Error)>) -> Box<Fault> {
    let (place, cause) = match at {
        Some((folder, error)) => (Some(folder.display().to_string()), Some(error.to_string())),
        None => (None, None),
    };
    let help = Some(format!("name a folder {kind} in {}", kept.variable));
    Box::new(Fault { code: "E0852", message: message.to_owned(), place, help, cause })
}

/// The user's folder for caches.
fn usual(kept: Kept) -> Option<PathBuf> {
    caches(|name| std::env::var_os(name)).map(|caches| caches.join("anyid-rt").join(kept.folder))
}

/// The folder for caches that variables name. Relative names are ignored, as the XDG base directory
/// specification wants it: they would be another folder from every place.
fn caches(variable: impl Fn(&str) -> Option<OsString>) -> Option<PathBuf> {
    let named = |name: &str| variable(name).map(PathBuf::from).filter(|path| path.is_absolute());
    named("XDG_CACHE_HOME").or_else(|| Some(named("HOME")?.join(".cache")))
}

/// Removes temporary files of processes that ended long ago.
fn sweep(folder: &Path) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let age = entry.metadata().and_then(|about| about.modified()).ok();
        let age = age.and_then(|time| time.elapsed().ok()).unwrap_or_default();
        if age >= STALE && entry.file_name().to_str().is_some_and(is_temporary) {
            let _ = fs::remove_file(entry.path());
        }
    }
}

/// Whether a file is called as [`alone`] calls it.
fn is_temporary(name: &str) -> bool {
    let parts: Vec<&str> = name.rsplit('.').collect();
    let number = |text: &str| text.parse::<u64>().is_ok();
    matches!(parts[..], [end, next, process, ..]
        if TEMPORARY.contains(&end) && number(next) && number(process))
}

fn create(folder: &Path) -> io::Result<()> {
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(folder)
}

/// Whether code may be loaded from the folder, and written there.
fn check(folder: &Path) -> io::Result<()> {
    #[cfg(unix)]
    {
        use std::os::unix::fs::MetadataExt;
        let about = fs::metadata(folder)?;
        if about.uid() != rustix::process::geteuid().as_raw() {
            return Err(io::Error::other("this folder belongs to another user"));
        }
        if about.mode() & 0o022 != 0 {
            return Err(io::Error::other("others may write in this folder"));
        }
    }
    let probe = folder.join(format!("{}.probe", alone()));
    // A disk that is full takes an empty file.
    let written = fs::write(&probe, [0; 4096]);
    let removed = fs::remove_file(&probe);
    written.and(removed)
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEPT: Kept = Kept { folder: "tests", ending: "so", variable: "ANYID_CUDA_CACHE" };

    fn folder(name: &str) -> PathBuf {
        std::env::temp_dir().join(format!("anyid-cache-{name}-{}", std::process::id()))
    }

    fn refusal(folder: &Path) -> (&'static str, String) {
        match Cache::open(KEPT, folder.to_str()) {
            Err(fault) => (fault.code, fault.cause.unwrap_or_default()),
            Ok(_) => panic!("{} was taken", folder.display()),
        }
    }

    #[test]
    fn what_is_damaged_is_not_found() {
        let folder = folder("damaged");
        let cache = Cache::open(KEPT, folder.to_str()).unwrap();
        let [source, made] = cache.places("key");
        assert_ne!(cache.places("key"), [source, made.clone()]);
        cache.seal("key", b"a library".to_vec(), &made).unwrap();
        let read = || cache.read("key");
        assert_eq!(read().as_deref(), Some(&b"a library"[..]));
        let kept = cache.path("key");
        let whole = fs::read(&kept).unwrap();
        for at in 0..whole.len() {
            let mut changed = whole.clone();
            changed[at] ^= 1;
            fs::write(&kept, &changed).unwrap();
            assert_eq!(read(), None, "byte {at}");
            fs::write(&kept, &whole[..at]).unwrap();
            assert_eq!(read(), None, "{at} bytes");
        }
        assert!(!made.exists() && cache.read("other").is_none());
        fs::remove_dir_all(&folder).unwrap();
        let fault = cache.seal("key", whole, &made).unwrap_err();
        assert_eq!((fault.code, fault.place), ("E0852", Some(folder.display().to_string())));
        assert_eq!(fault.help.unwrap(), "name a folder with room in ANYID_CUDA_CACHE");
    }

    #[test]
    fn devices_of_one_process_may_share_a_folder() {
        let folder = folder("shared");
        let open = || Cache::open(KEPT, folder.to_str()).map(|cache| cache.places("key"));
        let places: Vec<[PathBuf; 2]> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..8)
                .map(|_| scope.spawn(|| (0..50).map(|_| open().unwrap()).collect::<Vec<_>>()))
                .collect();
            threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
        });
        let different: std::collections::BTreeSet<&[PathBuf; 2]> = places.iter().collect();
        assert_eq!(different.len(), 400);
        fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn what_killed_processes_left_goes_when_it_is_old() {
        let folder = folder("left");
        fs::create_dir_all(&folder).unwrap();
        let old = std::time::SystemTime::now() - STALE - Duration::from_secs(60);
        let write = |name: &str, old: Option<std::time::SystemTime>| {
            fs::write(folder.join(name), name).unwrap();
            let file = fs::OpenOptions::new().write(true).open(folder.join(name)).unwrap();
            if let Some(time) = old {
                file.set_modified(time).unwrap();
            }
        };
        for name in ["25b7.8237.1.cpp", "25b7.8237.1.tmp", "8237.0.probe", "25b7.so", "25b7.in"] {
            write(name, Some(old));
        }
        write("25b7.8238.1.cpp", None);
        write("notes.cpp", Some(old));
        Cache::open(KEPT, folder.to_str()).unwrap();
        let names = fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().file_name());
        let mut names: Vec<String> = names.map(|name| name.into_string().unwrap()).collect();
        names.sort();
        assert_eq!(names, ["25b7.8238.1.cpp", "25b7.in", "25b7.so", "notes.cpp"]);
        fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    #[cfg(unix)]
    fn folders_for_caches_are_absolute() {
        let with = |xdg: &str, home: &str| {
            let value = |name: &str| Some(if name == "HOME" { home } else { xdg }.into());
            caches(value).map(|path| path.display().to_string())
        };
        assert_eq!(with("/x", "/home/a").as_deref(), Some("/x"));
        assert_eq!(with("relative", "/home/a").as_deref(), Some("/home/a/.cache"));
        assert_eq!(with("", "/home/a").as_deref(), Some("/home/a/.cache"));
        assert_eq!(with("", "a"), None);
    }

    #[test]
    #[cfg(unix)]
    fn a_folder_that_others_may_write_in_or_that_is_none_is_refused() {
        use std::os::unix::fs::PermissionsExt;
        let folder = folder("open");
        fs::create_dir_all(&folder).unwrap();
        fs::set_permissions(&folder, fs::Permissions::from_mode(0o777)).unwrap();
        assert_eq!(refusal(&folder), ("E0852", "others may write in this folder".to_owned()));
        fs::set_permissions(&folder, fs::Permissions::from_mode(0o700)).unwrap();
        assert!(Cache::open(KEPT, folder.to_str()).is_ok());
        let file = folder.join("file");
        fs::write(&file, b"").unwrap();
        assert_eq!(refusal(&file.join("below")).0, "E0852");
        #[cfg(any(feature = "cuda", feature = "cubecl-wgpu"))]
        {
            let (cache, warning) = Cache::open_or_warn(KEPT, file.join("below").to_str());
            let said = format!("[E0852] compiled kernels cannot be kept in {}", file.display());
            assert!(cache.is_none());
            assert!(warning.is_some_and(|text| text.starts_with(&said)));
            let (cache, warning) = Cache::open_or_warn(KEPT, folder.to_str());
            assert!(cache.is_some() && warning.is_none());
        }
        fs::remove_dir_all(folder).unwrap();
    }
}
