//! The CPU backend: executes plans with packed products, blocked attention, implicit-product
//! convolutions and row kernels, on a fixed set of threads.
//!
//! Results are bit for bit the same for any number of threads: work is cut by shape alone and no
//! sum is split between tasks.

mod amx;
pub mod attention;
mod caches;
pub mod conv;
mod device;
mod exec;
pub mod gemm;
pub mod math;
mod moves;
mod packed;
pub mod peak;
mod rowkernel;
mod rows;
mod scalar;
pub mod simd;
mod tables;
pub mod threads;

pub use crate::buffer::AlignedBytes;
pub use device::KIND;
pub use exec::{Executable, Memory};
pub use packed::Weights;

use crate::buffer;
use crate::device::About;
use crate::errors::OpenError;
use amx::Refused;
use anyid_ir::kernel::{Anchor, EpilogueSupport, KernelLimits, Load, Machine, NATIVE, Target};
use anyid_ir::{DType, TensorType};
use conv::UpsampleShape;
use gemm::PanelKind;
use rowkernel::Codes;
use simd::Level;
use threads::Pool;

/// An opened CPU: its threads and vector instructions.
pub struct Cpu {
    pool: Pool,
    level: Level,
    /// Machine code of row kernels.
    codes: Codes,
    about: About,
}

impl Cpu {
    /// Opens the CPU with `threads` threads (0 for all it has). `simd` and `rows` are the values of
    /// the settings `ANYID_SIMD` and `ANYID_ROWS`, where set.
    ///
    /// # Errors
    /// When `simd` names no level or one this machine lacks, `rows` no way to run row kernels, or the
    /// system refuses threads.
    pub fn open(threads: usize, simd: Option<&str>, rows: Option<&str>) -> Result<Self, OpenError> {
        let level = Level::from_setting(simd).map_err(|error| {
            let message = error.to_string();
            OpenError::Setting { name: device::SIMD, message }
        })?;
        let compiled = match rows {
            None | Some("" | "compiled") => true,
            Some("interpreted") => false,
            Some(_) => {
                let message = "unknown way: use compiled or interpreted".to_owned();
                return Err(OpenError::Setting { name: device::ROWS, message });
            }
        };
        let no_code = if compiled { Codes::refused() } else { None };
        let codes = Codes::new(compiled && no_code.is_none(), level);
        let available = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let threads = if threads == 0 { available } else { threads };
        let pool = Pool::try_new(threads).map_err(OpenError::Threads)?;
        let about = About {
            name: "cpu".to_owned(),
            words: format!("CPU, {threads} threads, {}", level.name()),
            instructions: level.name().to_owned(),
            capacity: None,
            target: target(),
            warnings: refusal(simd, Level::refused(), level)
                .into_iter()
                .chain(no_code.map(|why| without_code(&why)))
                .collect(),
        };
        Ok(Self { pool, level, codes, about })
    }

    /// The threads.
    pub fn pool(&self) -> &Pool {
        &self.pool
    }

    /// The vector instructions in use.
    pub fn level(&self) -> Level {
        self.level
    }
}

/// What a user is told whose system does not let programs make code.
fn without_code(why: &std::io::Error) -> String {
    format!(
        "[{}] the system does not let this program make machine code ({why}): row kernels are \
         interpreted, which is slower",
        "E0996"
    )
}

/// What a user is told who asked for nothing and does not get the tiles that the processor has.
fn refusal(simd: Option<&str>, refused: Option<Refused>, level: Level) -> Option<String> {
    let chosen = simd.is_some_and(|name| !name.is_empty());
    let why = refused.filter(|_| !chosen)?;
    Some(format!("[{}] {why}: bf16 is multiplied by {}, which is slower", "E0570", level.name()))
}

/// What the kernels of this backend can do: full epilogues on products and convolutions, none on
/// attention; derivatives in blocks; pictures doubled on the way into a convolution of 3×3 taps.
pub fn target() -> Target {
    Target {
        name: "cpu",
        native: NATIVE,
        // Blocks of the real width over 8, 16, 32 and 64 rows: rows of two branches in one product
        // take 0.57, 0.78, 0.83 and 1.0 of the time of two products in bf16, 0.57, 0.87, 0.94 and
        // 0.94 in f32.
        weight_bound_rows: 36,
        conv_limits: KernelLimits::ANY,
        dot: EpilogueSupport::FULL,
        conv_load,
        // Two cores of a Zen 5 server, to the nearest round figure (docs/performance.md): times that
        // follow from it are the same on every machine, and those of a device at hand are measured.
        machine: Some(Machine {
            products: vec![(DType::F32, 510e9), (DType::Bf16, 1000e9)],
            bytes_per_second: 50e9,
            launch_seconds: 2e-6,
        }),
        ..Target::default()
    }
}

/// Whether `anchor` reads a clip of type `x` through `load` in less time than it takes to make what it
/// would read otherwise; the reason why not.
fn conv_load(
    load: Load,
    anchor: Anchor,
    x: &TensorType,
    w: &TensorType,
) -> Result<(), &'static str> {
    let shape = upsampled(load, anchor, x, w)
        .ok_or("only 3×3 taps on a doubled picture read through it")?;
    let kind = panel_kind(x.dtype, w.dtype);
    if !conv::upsample_conv_fits(&shape, kind) {
        return Err("panels of bf16 hold pairs of channels");
    }
    if !conv::upsample_conv_wins(&shape, kind) {
        return Err("there are too few channels for it to pay");
    }
    Ok(())
}

/// The shape of a convolution of `x` as it lies with a kernel `w`, through `load`, if its kernel is
/// [`conv::upsample_conv`].
fn upsampled(load: Load, anchor: Anchor, x: &TensorType, w: &TensorType) -> Option<UpsampleShape> {
    let [cout, cin, kt, kh, kw] = kernel_shape(&w.shape);
    let taps = Anchor::Conv { stride: [1; 3], pad: [[0, 0], [1, 1], [1, 1]] };
    let doubled = load == Load::Nearest([1, 2, 2]) && anchor == taps && [kt, kh, kw] == [1, 3, 3];
    let input = [x.shape[0], x.shape[1], x.shape[2]];
    doubled.then_some(UpsampleShape { input, cin, cout })
}

/// The arithmetic of a product of `x` with weights declared as `w`.
fn panel_kind(x: DType, w: DType) -> PanelKind {
    match (x, w) {
        (DType::Bf16, DType::Bf16) => PanelKind::Bf16,
        _ => PanelKind::F32,
    }
}

/// A kernel's shape with time: `[out, in, kt, kh, kw]`.
fn kernel_shape(shape: &[usize]) -> [usize; 5] {
    match *shape {
        [o, i, kt, kh, kw] => [o, i, kt, kh, kw],
        [o, i, kh, kw] => [o, i, 1, kh, kw],
        _ => unreachable!("verified: a kernel has four or five axes"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refused_tiles_are_a_warning_unless_another_level_was_chosen() {
        let refused = Some(Refused { errno: 95 });
        let warning = "the system does not let this program use AMX (error 95): bf16 is \
                       multiplied by avx512bf16, which is slower";
        for unset in [None, Some("")] {
            let said = refusal(unset, refused, Level::Avx512Bf16);
            assert_eq!(said, Some(format!("[{}] {warning}", "E0570")));
            assert_eq!(refusal(unset, None, Level::Avx512Bf16), None);
        }
        assert_eq!(refusal(Some("avx2"), refused, Level::Avx2), None);
        let cpu = Cpu::open(1, None, None).unwrap();
        assert_eq!(cpu.about.warnings.is_empty(), Level::refused().is_none());
    }

    #[test]
    fn a_way_to_run_rows_that_there_is_not_is_refused() {
        assert!(
            Cpu::open(1, None, Some("interpreted")).is_ok_and(|cpu| cpu.about.warnings.is_empty())
        );
        let Err(OpenError::Setting { name, message }) = Cpu::open(1, None, Some("guessed")) else {
            panic!("it is no way");
        };
        assert_eq!((name, &message[..]), ("rows", "unknown way: use compiled or interpreted"));
    }

    /// Tells a test that it is to go on in a process of its own.
    #[cfg(all(target_os = "linux", target_arch = "x86_64"))]
    const APART: &str = "ANYID_TEST_WITHOUT_CODE";

    #[test]
    #[cfg(all(target_os = "linux", target_arch = "x86_64"))]
    fn where_memory_cannot_become_executable_a_warning_is_all() {
        if std::env::var_os(APART).is_some() {
            // PR_SET_MDWE with PR_MDWE_REFUSE_EXEC_GAIN, for this process to its end.
            let mut result = 157_i64;
            // SAFETY: the call takes numbers alone, and takes rights from this process.
            unsafe {
                std::arch::asm!("syscall", inout("rax") result, in("rdi") 65, in("rsi") 1,
                    in("rdx") 0, in("r10") 0, in("r8") 0, out("rcx") _, out("r11") _);
            }
            if result != 0 {
                println!("skipped: this system cannot refuse");
                return;
            }
            for rows in [None, Some("compiled")] {
                let cpu = Cpu::open(1, Some("portable"), rows).unwrap();
                println!("{}", cpu.about.warnings.join("\n"));
            }
            assert!(Cpu::open(1, None, Some("interpreted")).unwrap().about.warnings.is_empty());
            return;
        }
        let name = "cpu::tests::where_memory_cannot_become_executable_a_warning_is_all";
        let output = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["--exact", name, "--nocapture"])
            .env(APART, "1")
            .output()
            .unwrap();
        let said = String::from_utf8(output.stdout).unwrap();
        assert!(output.status.success(), "{said}");
        let warning = format!("[{}] the system does not let this program make machine", "E0996");
        assert!(said.matches(&warning).count() == 2 || said.contains("skipped"), "{said}");
    }
}
