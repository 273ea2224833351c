//! NVRTC, the compiler of NVIDIA's driver packages: source to the machine code of an architecture.
//!
//! The library is loaded when it is asked for, and needs neither a GPU nor a driver. Nothing is launched
//! here.

use super::emit;
use crate::Fault;
use libloading::{Library, Symbol};
use std::ffi::{CString, c_char, c_int, c_void};
use std::path::{Path, PathBuf};
use std::ptr;

/// Names of the library, newest first, and how those of a second one begin, which it opens by name.
const NAMES: [(&str, &str); 2] = [
    ("libnvrtc.so.13", "libnvrtc-builtins.so.13."),
    ("libnvrtc.so.12", "libnvrtc-builtins.so.12."),
];

type Program = *mut c_void;
type Text = *const c_char;
type Size = unsafe extern "C" fn(Program, *mut usize) -> c_int;
type Read = unsafe extern "C" fn(Program, *mut c_char) -> c_int;

/// The loaded library.
pub struct Nvrtc {
    library: Library,
    /// Holds what the library would not find by name.
    _builtins: Option<Library>,
    version: (i32, i32),
}

/// What the compiler made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Compiled {
    /// Machine code as a driver loads it.
    pub cubin: Vec<u8>,
    /// What every function takes of a processor, in the order of the compiler's report.
    pub functions: Vec<Function>,
    /// What the assembler says against the code, such as that it makes products of warp groups wait for
    /// each other.
    pub warnings: Vec<String>,
}

/// What a function takes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Function {
    /// Its name.
    pub name: String,
    /// Registers of a thread.
    pub registers: u32,
    /// Bytes of a thread's stack, of which none is wanted.
    pub stack_bytes: u32,
    /// Bytes of registers that are written to memory and read back, of which none is wanted.
    pub spilled_bytes: u32,
    /// Bytes of shared memory of a block.
    pub shared_bytes: u32,
}

fn fault(code: &'static str, message: String, cause: Option<String>) -> Box<Fault> {
    Box::new(Fault { code, message, place: None, help: None, cause })
}

impl Nvrtc {
    /// Loads the library from `folder`, or from where the system looks for libraries.
    ///
    /// # Errors
    /// E0856 where there is none, or one that lacks what is called.
    pub fn find(folder: Option<&Path>) -> Result<Self, Box<Fault>> {
        let mut first = None;
        for found in Self::all(folder) {
            match found {
                Ok(nvrtc) => return Ok(nvrtc),
                Err(fault) => first = first.or(Some(fault)),
            }
        }
        Err(first.expect("every name gives one or the other"))
    }

    /// Those of `folder`, or of where the system looks for libraries, newest first, and why others cannot
    /// be loaded.
    pub(super) fn all(folder: Option<&Path>) -> impl Iterator<Item = Result<Self, Box<Fault>>> {
        NAMES.into_iter().map(move |(name, second)| {
            let path = folder.map_or_else(|| name.into(), |folder| folder.join(name));
            let builtins = folder.and_then(|folder| newest(folder, second));
            // SAFETY: loading them runs the constructors of NVIDIA's libraries, which need nothing of
            // ours.
            let (builtins, library) =
                unsafe { (builtins.and_then(|path| Library::new(path).ok()), Library::new(path)) };
            let library = library.map_err(|error| {
                fault("E0856", "there is no NVRTC".to_owned(), Some(super::said(&error)))
            });
            library.and_then(|library| Self::of(library, builtins))
        })
    }

    /// Whether it compiles anything: without its second library it is there and does not.
    ///
    /// # Errors
    /// E0856 with what it says.
    #[cfg(any(test, feature = "cuda"))]
    pub(super) fn compiles(&self) -> Result<(), Box<Fault>> {
        let empty = "extern \"C\" __global__ void empty() {}\n".to_owned();
        self.compile_text(empty, "sm_80", None).map(drop).map_err(|refused| {
            let message = "the NVRTC that is here compiles nothing".to_owned();
            fault("E0856", message, refused.cause)
        })
    }

    fn of(library: Library, builtins: Option<Library>) -> Result<Self, Box<Fault>> {
        let mut nvrtc = Self { library, _builtins: builtins, version: (0, 0) };
        let (mut major, mut minor) = (0, 0);
        type Version = unsafe extern "C" fn(*mut c_int, *mut c_int) -> c_int;
        let version = nvrtc.function::<Version>("nvrtcVersion")?;
        // SAFETY: both places are there for as long as the call takes.
        let done = unsafe { version(&raw mut major, &raw mut minor) };
        if done != 0 || major < 12 {
            let cause = format!("nvrtcVersion gives {major}.{minor}, and the result {done}");
            return Err(fault("E0856", "this is no NVRTC".to_owned(), Some(cause)));
        }
        nvrtc.version = (major, minor);
        Ok(nvrtc)
    }

    /// Its version, such as (13, 0).
    pub fn version(&self) -> (i32, i32) {
        self.version
    }

    fn function<T>(&self, name: &str) -> Result<Symbol<'_, T>, Box<Fault>> {
        // SAFETY: callers name the function's type as NVIDIA documents it.
        let found = unsafe { self.library.get::<T>(name.as_bytes()) };
        found.map_err(|error| {
            fault("E0856", "this is no NVRTC".to_owned(), Some(super::said(&error)))
        })
    }

    /// Compiles kernels for an architecture such as `sm_80`.
    ///
    /// # Errors
    /// E0857 with the first line of its complaint, where it does not take the source.
    pub fn compile(
        &self,
        kernels: &[&emit::Emitted],
        architecture: &str,
    ) -> Result<Compiled, Box<Fault>> {
        let texts = kernels.iter().map(|kernel| kernel.text.as_str());
        let source: String = [emit::INTRINSICS, emit::COMMON].into_iter().chain(texts).collect();
        self.compile_text(source, architecture, None)
    }

    /// Compiles a program of CUDA C++, which may include what lies in `headers`.
    ///
    /// # Errors
    /// As [`Self::compile`].
    pub fn compile_text(
        &self,
        source: String,
        architecture: &str,
        headers: Option<&Path>,
    ) -> Result<Compiled, Box<Fault>> {
        type Create = unsafe extern "C" fn(
            *mut Program,
            Text,
            Text,
            c_int,
            *const Text,
            *const Text,
        ) -> c_int;
        type Compile = unsafe extern "C" fn(Program, c_int, *const Text) -> c_int;
        type Destroy = unsafe extern "C" fn(*mut Program) -> c_int;
        let text = |text: String| CString::new(text).expect("source and options have no zeros");
        let (source, name) = (text(source), text("kernels.cu".to_owned()));
        let options = [
            format!("--gpu-architecture={architecture}"),
            "--std=c++17".to_owned(),
            "--ptxas-options=-v".to_owned(),
        ];
        let headers = headers.map(|folder| format!("--include-path={}", folder.display()));
        let options: Vec<CString> = options.into_iter().chain(headers).map(text).collect();
        let given: Vec<Text> = options.iter().map(|option| option.as_ptr()).collect();
        let create = self.function::<Create>("nvrtcCreateProgram")?;
        let compile = self.function::<Compile>("nvrtcCompileProgram")?;
        let destroy = self.function::<Destroy>("nvrtcDestroyProgram")?;
        let mut program: Program = ptr::null_mut();
        // SAFETY: texts end in zeros and live until the program is destroyed.
        let done = unsafe {
            create(&raw mut program, source.as_ptr(), name.as_ptr(), 0, ptr::null(), ptr::null());
            compile(program, given.len() as c_int, given.as_ptr())
        };
        let log = self.read(program, "nvrtcGetProgramLogSize", "nvrtcGetProgramLog");
        let cubin = self.read(program, "nvrtcGetCUBINSize", "nvrtcGetCUBIN");
        // SAFETY: the program was made above and is not used again.
        unsafe { destroy(&raw mut program) };
        let log = String::from_utf8_lossy(&log?).into_owned();
        if done != 0 {
            let first = log.lines().find(|line| line.contains("error")).or(log.lines().next());
            let message = format!("NVRTC does not compile the kernels for {architecture}");
            let mut fault = fault("E0857", message, first.map(str::to_owned));
            let help = "install a newer NVRTC, for instance with `pip install -U nvidia-cuda-nvrtc`; if \
                        it is new, report the message";
            fault.help = Some(help.to_owned());
            return Err(fault);
        }
        Ok(Compiled { cubin: cubin?, functions: functions(&log), warnings: warnings(&log) })
    }

    /// What two functions give: the number of bytes, and the bytes.
    fn read(&self, program: Program, size: &str, read: &str) -> Result<Vec<u8>, Box<Fault>> {
        let (size, read) = (self.function::<Size>(size)?, self.function::<Read>(read)?);
        let mut bytes = 0;
        // SAFETY: the program is there, and the buffer has as many bytes as it says.
        unsafe {
            size(program, &raw mut bytes);
            let mut out = vec![0u8; bytes];
            if bytes > 0 {
                read(program, out.as_mut_ptr().cast());
            }
            Ok(out)
        }
    }
}

/// The last file of a folder by name among those that begin so: where the system does not look, the
/// library finds its second one only if that is loaded already.
fn newest(folder: &Path, begin: &str) -> Option<PathBuf> {
    let files = std::fs::read_dir(folder).ok()?.flatten().map(|entry| entry.path());
    let named = |path: &PathBuf| {
        path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(begin))
    };
    files.filter(named).max()
}

/// What the report of the assembler says of each function.
fn functions(log: &str) -> Vec<Function> {
    let number = |line: &str, behind: &str| -> u32 {
        let front = line.split(behind).next().unwrap_or_default();
        let digits = front.rsplit(|c: char| !c.is_ascii_digit()).find(|digits| !digits.is_empty());
        let found = line.contains(behind);
        digits.filter(|_| found).and_then(|digits| digits.parse().ok()).unwrap_or(0)
    };
    let mut out: Vec<Function> = Vec::new();
    for line in log.lines() {
        if let Some((_, rest)) = line.split_once("Compiling entry function '") {
            let name = rest.split('\'').next().unwrap_or_default().to_owned();
            let (registers, stack_bytes, spilled_bytes, shared_bytes) = (0, 0, 0, 0);
            out.push(Function { name, registers, stack_bytes, spilled_bytes, shared_bytes });
        } else if let Some(last) = out.last_mut() {
            if line.contains("bytes stack frame") {
                last.stack_bytes = number(line, " bytes stack frame");
                last.spilled_bytes = number(line, " bytes spill stores");
            } else if line.contains(" registers") {
                last.registers = number(line, " registers");
                last.shared_bytes = number(line, " bytes smem");
            }
        }
    }
    out
}

/// What the assembler says that is no figure. The compiler in front of it warns of what a kernel does
/// not use of the common declarations.
fn warnings(log: &str) -> Vec<String> {
    let against = |line: &&str| {
        line.contains("ptxas") && (line.contains("warning") || line.contains("Performance Loss"))
    };
    log.lines().filter(against).map(|line| line.trim().to_owned()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_report_of_the_assembler_is_read() {
        let log = "\
ptxas info    : 0 bytes gmem
ptxas info    : Compiling entry function 'norm_12' for 'sm_80'
ptxas info    : Function properties for norm_12
ptxas         .     0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 79 registers, used 1 barriers, 17600 bytes smem, 416 bytes cmem[0]
ptxas info    : Compiling entry function 'k' for 'sm_80'
ptxas         .     64 bytes stack frame, 48 bytes spill stores, 32 bytes spill loads
ptxas info    : Used 255 registers, used 0 barriers, 376 bytes cmem[0]
";
        let function =
            |name: &str, [registers, stack_bytes, spilled_bytes, shared_bytes]: [u32; 4]| {
                Function { name: name.into(), registers, stack_bytes, spilled_bytes, shared_bytes }
            };
        let wanted = [function("norm_12", [79, 0, 0, 17600]), function("k", [255, 64, 48, 0])];
        assert_eq!(functions(log), wanted);
        assert!(warnings(log).is_empty());
        let loss = "ptxas info    : (C7510) Potential Performance Loss: wgmma.mma_async instructions \
                    are serialized due to insufficient register resources";
        let warning = "ptxas warning : setmaxnreg ignored";
        assert_eq!(warnings(&format!("{log}{loss}\n  {warning}\n")), [loss, warning]);
    }

    /// Needs NVRTC, in the folder of the environment variable or where the system looks.
    #[test]
    fn what_it_does_not_know_is_an_error() {
        let folder = std::env::var_os("ANYID_NVRTC");
        let Ok(nvrtc) = Nvrtc::find(folder.as_deref().map(Path::new)) else {
            println!("skipped: there is no NVRTC");
            return;
        };
        assert!(nvrtc.version() >= (12, 0));
        let error = nvrtc.compile(&[], "sm_1").unwrap_err();
        assert_eq!(error.code, "E0857");
        assert!(error.message.ends_with("for sm_1") && error.cause.is_some(), "{error:?}");
        assert!(nvrtc.compile(&[], "sm_80").is_ok_and(|made| !made.cubin.is_empty()));
    }

    /// Needs NVRTC, as above, in a folder that is named.
    #[test]
    fn one_that_lacks_its_second_library_is_found_out() {
        const ALONE: &str = "ANYID_TEST_NVRTC_ALONE";
        if let Some(folder) = std::env::var_os(ALONE) {
            let fault = Nvrtc::find(Some(Path::new(&folder))).unwrap().compiles().unwrap_err();
            assert_eq!((fault.code, fault.cause.is_some()), ("E0856", true), "{fault:?}");
            return;
        }
        let Some(folder) = std::env::var_os("ANYID_NVRTC").map(PathBuf::from) else {
            println!("skipped: ANYID_NVRTC names no folder");
            return;
        };
        let (name, _) = NAMES.into_iter().find(|(name, _)| folder.join(name).exists()).unwrap();
        assert!(Nvrtc::find(Some(&folder)).unwrap().compiles().is_ok());
        // In a process that has not loaded the second library.
        let alone = std::env::temp_dir().join(format!("anyid-nvrtc-{}", std::process::id()));
        std::fs::create_dir_all(&alone).unwrap();
        std::fs::copy(folder.join(name), alone.join(name)).unwrap();
        let own = "cuda::nvrtc::tests::one_that_lacks_its_second_library_is_found_out";
        let done = std::process::Command::new(std::env::current_exe().unwrap())
            .args([own, "--exact"])
            .env(ALONE, &alone)
            .output();
        std::fs::remove_dir_all(alone).unwrap();
        let said = String::from_utf8_lossy(&done.unwrap().stdout).into_owned();
        assert!(said.contains("1 passed"), "{said}");
    }

    #[test]
    fn where_there_is_no_library_an_error_says_so() {
        let error = Nvrtc::find(Some(Path::new("/nowhere"))).err().unwrap();
        assert_eq!((error.code, &*error.message), ("E0856", "there is no NVRTC"));
        assert!(error.cause.expect("what the system says").contains("/nowhere/libnvrtc.so"));
    }
}
