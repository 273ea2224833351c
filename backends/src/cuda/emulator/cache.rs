//! The folder of compiled kernels: libraries by what they were made of, and for each kernel the
//! library that has it.
//!
//! A library is written whole or not at all, and ends in a digest of its bytes: what is damaged is made
//! again. Code is loaded from here, so the folder must belong to the user, and nobody else may write
//! in it.

use super::failed;
use crate::cuda::emit::digest_of;
use crate::errors::OpenError;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

/// Stands in front of the digest at the end of a file.
const MARK: &[u8; 8] = b"anyidlib";

/// A folder for compiled kernels.
pub(super) struct Cache {
    folder: PathBuf,
    /// Number of the next temporary file of this cache.
    next: AtomicU64,
}

impl Cache {
    /// The cache in `folder`, or in the user's folder for caches.
    pub(super) fn open(folder: Option<&str>) -> Result<Self, OpenError> {
        let asked = folder.filter(|folder| !folder.is_empty()).map(PathBuf::from);
        let folder = asked
            .or_else(usual)
            .ok_or_else(|| refused("there is no folder for compiled kernels".to_owned(), None))?;
        let made = create(&folder).and_then(|()| check(&folder));
        made.map_err(|error| {
            let message = "compiled kernels cannot be kept".to_owned();
            refused(message, Some((folder.display().to_string(), error.to_string())))
        })?;
        Ok(Self { folder, next: AtomicU64::new(0) })
    }

    /// Where the library of this key is, if it is there and whole.
    pub(super) fn find(&self, key: &str) -> Option<PathBuf> {
        let path = self.folder.join(format!("{key}.so"));
        let bytes = fs::read(&path).ok()?;
        let (content, end) = bytes.split_at(bytes.len().checked_sub(16)?);
        let own = end.strip_prefix(MARK) == Some(&digest_of(content).to_le_bytes()[..]);
        own.then_some(path)
    }

    /// The key of the library that has the kernel of this key.
    pub(super) fn holder(&self, kernel: &str) -> Option<String> {
        let key = fs::read_to_string(self.note(kernel)).ok()?;
        // A key is part of a path.
        let sound = key.len() == 16 && key.bytes().all(|byte| byte.is_ascii_hexdigit());
        sound.then_some(key)
    }

    /// Notes which library has the kernel of this key. What is not noted is compiled again.
    pub(super) fn note_holder(&self, kernel: &str, library: &str) {
        let [_, made] = self.places(kernel);
        if fs::write(&made, library).is_ok() {
            let _ = fs::rename(&made, self.note(kernel));
        }
    }

    fn note(&self, kernel: &str) -> PathBuf {
        self.folder.join(format!("{kernel}.in"))
    }

    /// Places for a source and the library that is made of it, which nobody else uses.
    pub(super) fn places(&self, key: &str) -> [PathBuf; 2] {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let stem = format!("{key}.{}.{number}", std::process::id());
        ["cpp", "tmp"].map(|end| self.folder.join(format!("{stem}.{end}")))
    }

    /// Keeps a library under its key.
    pub(super) fn keep(&self, key: &str, made: &Path) -> io::Result<PathBuf> {
        let mut bytes = fs::read(made)?;
        let digest = digest_of(&bytes).to_le_bytes();
        bytes.extend_from_slice(MARK);
        bytes.extend_from_slice(&digest);
        let path = self.folder.join(format!("{key}.so"));
        fs::write(made, &bytes)?;
        fs::rename(made, &path)?;
        Ok(path)
    }

    /// The folder.
    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }
}

/// An error of the cache, with the folder and what the system says.
fn refused(message: String, at: Option<(String, String)>) -> OpenError {
    let help = "name a folder of your own in ANYID_CUDA_EMULATED_CACHE".to_owned();
    let mut error = failed("E0852", message, Some(help));
    if let (OpenError::Failed(fault), Some((place, cause))) = (&mut error, at) {
        fault.place = Some(place);
        fault.cause = Some(cause);
    }
    error
}

/// The user's folder for caches.
fn usual() -> Option<PathBuf> {
    let variable = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
    let caches = variable("XDG_CACHE_HOME").map(PathBuf::from);
    let caches = caches.or_else(|| Some(PathBuf::from(variable("HOME")?).join(".cache")))?;
    Some(caches.join("anyid-rt").join("cuda-emulated"))
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
        if about.uid() != rustix::process::geteuid().as_raw() || about.mode() & 0o022 != 0 {
            return Err(io::Error::other("others may write in this folder"));
        }
    }
    let probe = folder.join(format!("{}.probe", std::process::id()));
    fs::write(&probe, b"")?;
    fs::remove_file(&probe)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder(name: &str) -> PathBuf {
        std::env::temp_dir().join(format!("anyid-cache-{name}-{}", std::process::id()))
    }

    fn refusal(folder: &Path) -> (&'static str, String) {
        match Cache::open(folder.to_str()) {
            Err(OpenError::Failed(fault)) => (fault.code, fault.cause.unwrap_or_default()),
            Err(error) => panic!("{error}"),
            Ok(_) => panic!("{} was taken", folder.display()),
        }
    }

    #[test]
    fn what_is_damaged_is_not_found() {
        let folder = folder("damaged");
        let cache = Cache::open(folder.to_str()).unwrap();
        let [source, made] = cache.places("key");
        assert_ne!(cache.places("key"), [source, made.clone()]);
        fs::write(&made, b"a library").unwrap();
        let kept = cache.keep("key", &made).unwrap();
        assert_eq!(cache.find("key"), Some(kept.clone()));
        let whole = fs::read(&kept).unwrap();
        for at in 0..whole.len() {
            let mut changed = whole.clone();
            changed[at] ^= 1;
            fs::write(&kept, &changed).unwrap();
            assert_eq!(cache.find("key"), None, "byte {at}");
            fs::write(&kept, &whole[..at]).unwrap();
            assert_eq!(cache.find("key"), None, "{at} bytes");
        }
        assert!(!made.exists() && cache.find("other").is_none());
        fs::remove_dir_all(folder).unwrap();
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
        assert!(Cache::open(folder.to_str()).is_ok());
        let file = folder.join("file");
        fs::write(&file, b"").unwrap();
        assert_eq!(refusal(&file.join("below")).0, "E0852");
        fs::remove_dir_all(folder).unwrap();
    }
}
