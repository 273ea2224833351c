//! Devices by name: `cpu`, `cuda:N`, `wgpu:N`, and whatever a program adds.
//!
//! A registry is a value, not a global: an embedding program or a test gives its own devices to a
//! registry of its own. What stands behind the colon is the kind's to read. Opening a device is the
//! only thing that looks for one.

use crate::cpu;
use crate::device::Device;
use crate::errors::OpenError;
use crate::targets;
use anyid_ir::kernel::Target;
use std::io;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::sync::Arc;

/// How programs are run that write the files of a list: by default as the system runs them. Who embeds
/// devices gives a way that ends them, and removes their files, together with itself. What they print
/// is not kept, but for their messages.
#[derive(Clone, Copy)]
pub struct Programs(pub fn(&mut Command, &[&Path]) -> io::Result<Output>);

impl Default for Programs {
    fn default() -> Self {
        Self(|command, _| command.stdin(Stdio::null()).stdout(Stdio::null()).output())
    }
}

impl std::fmt::Debug for Programs {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Programs")
    }
}

/// How a device is to work. What a kind does not know is not its affair.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    /// Threads, on devices that have a choice; 0 takes all.
    pub threads: usize,
    /// Settings of single kinds by name, such as `simd`.
    pub values: Vec<(String, String)>,
    /// How compilers are run.
    pub programs: Programs,
}

impl Settings {
    /// Settings with a number of threads.
    pub fn threads(threads: usize) -> Self {
        Self { threads, ..Self::default() }
    }

    /// The settings with one more value.
    #[must_use]
    pub fn with(mut self, name: &str, value: &str) -> Self {
        self.values.push((name.to_owned(), value.to_owned()));
        self
    }

    /// The last value of this name.
    pub fn get(&self, name: &str) -> Option<&str> {
        let found = self.values.iter().rev().find(|(own, _)| own == name);
        found.map(|(_, value)| value.as_str())
    }
}

/// A device that is asked for.
pub struct Opening<'o> {
    /// Its whole name.
    pub name: &'o str,
    /// What stands behind the colon.
    pub variant: Option<&'o str>,
    /// How it is to work.
    pub settings: &'o Settings,
}

impl Opening<'_> {
    /// The number behind the colon, 0 without one; `None` for what is none as it is written, such as +1
    /// or 01.
    pub fn asked(&self) -> Option<usize> {
        let Some(text) = self.variant else { return Some(0) };
        text.parse().ok().filter(|number: &usize| number.to_string() == text)
    }

    /// The number behind the colon, 0 without one, of `count` devices that are there.
    ///
    /// # Errors
    /// [`OpenError::NotThere`] for another number, or for none.
    pub fn number(&self, count: usize) -> Result<usize, OpenError> {
        self.asked().filter(|number| *number < count).ok_or_else(|| {
            let kind = self.name.split(':').next().unwrap_or_default();
            OpenError::NotThere(match count {
                0 => format!("this machine has no {kind} device"),
                1 => format!("there is one {kind} device, {kind}:0"),
                _ => format!("the {kind} devices are {kind}:0 to {kind}:{}", count - 1),
            })
        })
    }
}

/// A setting of a kind of device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Setting {
    /// Its name in [`Settings`].
    pub name: &'static str,
    /// The environment variable in which a user gives it.
    pub variable: &'static str,
}

/// Opens a device.
pub type Opener = fn(&Opening<'_>) -> Result<Arc<dyn Device>, OpenError>;

/// Names devices.
pub type Finder = fn() -> Result<Vec<String>, OpenError>;

fn none() -> Result<Vec<String>, OpenError> {
    Err(OpenError::NotInBuild)
}

/// A kind of device.
#[derive(Clone, Copy)]
pub struct Kind {
    /// What its names begin with.
    pub name: &'static str,
    /// Its names for people, such as `cuda:N`.
    pub names: &'static str,
    /// What plans for such devices are compiled for, as far as that is known without opening one.
    pub targets: fn() -> Vec<Target>,
    /// Settings of its own.
    pub settings: &'static [Setting],
    /// Values of those settings that give other kernels on this machine, each of which tests go
    /// through.
    pub variants: fn() -> Vec<Settings>,
    /// The names of those that are there, of which some may not be usable; why none can be.
    pub devices: Finder,
    /// Of several devices that are usable, one of the highest rank is taken where a user leaves the choice;
    /// never one of rank 0.
    pub rank: u8,
    /// Opens one; `None` where this build cannot.
    pub open: Option<Opener>,
}

impl Kind {
    /// A kind that is known and not in this build, which still compiles for it.
    pub const fn absent(
        name: &'static str,
        names: &'static str,
        targets: fn() -> Vec<Target>,
    ) -> Self {
        let (variants, devices, rank) = (Vec::new, none as Finder, 0);
        Self { name, names, targets, settings: &[], variants, devices, rank, open: None }
    }
}

/// The kind that executes kernels for CUDA on the processor, in builds that have it.
#[cfg(feature = "cuda-emulator")]
const EMULATED: Option<Kind> = Some(crate::cuda::emulator::KIND);
#[cfg(not(feature = "cuda-emulator"))]
const EMULATED: Option<Kind> = None;

/// NVIDIA GPUs.
#[cfg(feature = "cuda")]
const CUDA: Kind = crate::cuda::gpu::KIND;
#[cfg(not(feature = "cuda"))]
const CUDA: Kind = Kind::absent("cuda", "cuda:N", targets::cuda);

/// GPUs of any maker.
#[cfg(feature = "cubecl-wgpu")]
const WGPU: Kind = crate::cube::webgpu::KIND;
#[cfg(not(feature = "cubecl-wgpu"))]
const WGPU: Kind = Kind::absent("wgpu", "wgpu:N", targets::wgpu);

/// NVIDIA GPUs with the same kernels, in builds that have it.
#[cfg(feature = "cubecl-cuda")]
const CUBECL_CUDA: Option<Kind> = Some(crate::cube::cuda::KIND);
#[cfg(not(feature = "cubecl-cuda"))]
const CUBECL_CUDA: Option<Kind> = None;

/// The kinds of devices there are.
#[derive(Clone)]
pub struct Registry {
    kinds: Vec<Kind>,
}

impl Default for Registry {
    /// The kinds of this build, and those that another build may have.
    fn default() -> Self {
        let others = [CUDA, WGPU];
        Self {
            kinds: [cpu::KIND]
                .into_iter()
                .chain(EMULATED)
                .chain(others)
                .chain(CUBECL_CUDA)
                .collect(),
        }
    }
}

impl Registry {
    /// The registry with one more kind, in place of one of the same name.
    #[must_use]
    pub fn with(mut self, kind: Kind) -> Self {
        self.kinds.retain(|own| own.name != kind.name);
        self.kinds.push(kind);
        self
    }

    /// The kinds in it.
    pub fn kinds(&self) -> &[Kind] {
        &self.kinds
    }

    /// The kind of the device called `name`.
    pub fn kind(&self, name: &str) -> Option<&Kind> {
        let own = name.split_once(':').map_or(name, |(kind, _)| kind);
        self.kinds.iter().find(|kind| kind.name == own)
    }

    /// Opens the device called `name`.
    ///
    /// # Errors
    /// Where there is no such kind or device, this build lacks it, or it cannot work as `settings`
    /// say.
    pub fn open(&self, name: &str, settings: &Settings) -> Result<Arc<dyn Device>, OpenError> {
        let kind = self.kind(name).ok_or_else(|| OpenError::Unknown {
            known: self
                .kinds
                .iter()
                .filter(|kind| kind.open.is_some())
                .map(|kind| kind.names.to_owned())
                .collect(),
        })?;
        let variant = name.split_once(':').map(|(_, variant)| variant);
        kind.open.ok_or(OpenError::NotInBuild)?(&Opening { name, variant, settings })
    }

    /// All targets with their kinds of device, of which this build may have none.
    pub fn targets(&self) -> impl Iterator<Item = (&Kind, Target)> {
        self.kinds
            .iter()
            .flat_map(|kind| (kind.targets)().into_iter().map(move |each| (kind, each)))
    }

    /// The target called `name`, which may be the name of an architecture that a target stands for.
    pub fn target(&self, name: &str) -> Option<Target> {
        let name = targets::of_architecture(name).unwrap_or(name);
        self.targets().map(|(_, target)| target).find(|target| target.name == name)
    }

    /// Whether this build has devices for the target called `name`.
    pub fn runs(&self, name: &str) -> bool {
        let name = targets::of_architecture(name).unwrap_or(name);
        self.targets().any(|(kind, target)| target.name == name && kind.open.is_some())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(name: &str) -> OpenError {
        let opened = Registry::default().open(name, &Settings::threads(1));
        opened.err().unwrap_or_else(|| panic!("{name} was opened"))
    }

    #[test]
    fn a_name_that_leads_nowhere_says_why() {
        for name in ["gpu", "", "cpux", ":0", "CPU"] {
            assert!(matches!(refused(name), OpenError::Unknown { .. }), "{name}");
        }
        assert!(refused("gpu").to_string().starts_with("the devices are cpu"));
        for name in ["cuda", "cuda:0", "wgpu:7"] {
            let wgpu = name.starts_with("wgpu");
            let absent =
                (wgpu && !cfg!(feature = "cubecl-wgpu")) || (!wgpu && !cfg!(feature = "cuda"));
            assert!(!absent || matches!(refused(name), OpenError::NotInBuild), "{name}");
        }
        for name in ["cpu:1", "cpu:", "cpu:0:0", "cpu:-1"] {
            assert!(matches!(refused(name), OpenError::NotThere(_)), "{name}");
        }
    }

    #[test]
    fn numbers_are_those_of_the_devices_that_are_there() {
        let settings = Settings::default();
        let number = |variant, count| {
            let opening = Opening { name: "cuda:x", variant, settings: &settings };
            opening.number(count).map_err(|error| error.to_string())
        };
        assert_eq!(number(None, 1), Ok(0));
        assert_eq!(number(Some("1"), 2), Ok(1));
        for text in ["+0", "00", "-1", ""] {
            assert!(number(Some(text), 1).is_err(), "{text}");
        }
        assert_eq!(number(Some("1"), 1), Err("there is one cuda device, cuda:0".into()));
        assert_eq!(number(Some("x"), 3), Err("the cuda devices are cuda:0 to cuda:2".into()));
        assert_eq!(number(None, 0), Err("this machine has no cuda device".into()));
    }

    #[test]
    fn a_setting_that_no_machine_has_is_named() {
        let settings = Settings::threads(1).with("simd", "avx2").with("simd", "sse9");
        let error = Registry::default().open("cpu", &settings).err().unwrap();
        assert!(matches!(error, OpenError::Setting { name: "simd", .. }), "{error:?}");
        let opened = Registry::default().open("cpu", &settings.with("simd", "portable")).unwrap();
        assert_eq!(opened.about().instructions, "portable");
        assert_eq!(opened.about().name, "cpu");
    }

    #[test]
    fn a_program_may_add_kinds_of_its_own() {
        let other = Kind { name: "mine", names: "mine", ..cpu::KIND };
        let registry = Registry::default().with(other);
        assert!(registry.open("mine", &Settings::threads(1)).is_ok());
        let count = Registry::default().kinds().len() + 1;
        assert_eq!(registry.kinds().len(), count);
        assert_eq!(registry.with(other).kinds().len(), count);
    }

    #[test]
    fn every_kind_names_its_devices_or_says_why_there_are_none() {
        for kind in Registry::default().kinds() {
            match (kind.devices)() {
                Ok(names) => assert!(names.iter().all(|name| name.starts_with(kind.name))),
                Err(why) => {
                    let absent = matches!(why, OpenError::NotInBuild);
                    assert_eq!(absent, kind.open.is_none(), "{}: {why}", kind.name);
                }
            }
        }
        let cpu = *Registry::default().kind("cpu").expect("it is always there");
        assert_eq!(((cpu.devices)().unwrap(), cpu.rank), (vec!["cpu".to_owned()], 1));
    }

    #[test]
    fn targets_are_known_without_their_devices() {
        let registry = Registry::default();
        let mut names: Vec<&str> = registry.targets().map(|(_, target)| target.name).collect();
        let count = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), count, "each has a name of its own: {names:?}");
        let cuda = cfg!(feature = "cuda");
        for (name, runs) in
            [("cpu", true), ("cuda:sm_90", cuda), ("wgpu", cfg!(feature = "cubecl-wgpu"))]
        {
            assert_eq!(registry.target(name).map(|target| target.name), Some(name));
            assert_eq!(registry.runs(name), runs, "{name}");
        }
        // As devices and NVIDIA call it.
        let hopper = registry.target("cuda:sm_90a").map(|target| target.name);
        assert_eq!((hopper, registry.runs("cuda:sm_90a")), (Some("cuda:sm_90"), cuda));
        for name in ["cuda", "cuda:0", "cuda:sm_91", ""] {
            assert!(registry.target(name).is_none() && !registry.runs(name), "{name}");
        }
    }
}
