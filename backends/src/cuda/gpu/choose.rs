//! What follows from what a machine has: whether its driver will do, which kernels and plans a GPU gets,
//! and what its user is told. Nothing is called here.

use super::driver::{Refused, Room, Trouble};
use crate::Fault;
use crate::cuda::emit::Architecture;
use crate::targets;

/// The kernels of a GPU.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Kernels {
    /// Which instructions they use.
    pub(super) architecture: Architecture,
    /// What they are compiled for, such as `sm_89`.
    pub(super) compiled: String,
    /// The target of its plans.
    pub(super) target: &'static str,
}

/// The oldest CUDA whose driver has every call that is made.
const OLDEST: (i32, i32) = (12, 8);

pub(super) fn fault(
    code: &'static str,
    message: String,
    help: &str,
    cause: Option<String>,
) -> Box<Fault> {
    let help = (!help.is_empty()).then(|| help.to_owned());
    Box::new(Fault { code, message, place: None, help, cause })
}

/// A machine without a driver; what the system says about the library.
pub(super) fn no_driver(cause: Option<String>) -> Box<Fault> {
    let help = "install the driver of NVIDIA for this GPU; without a GPU use --device cpu";
    fault("E0858", "there is no driver for NVIDIA GPUs on this machine".to_owned(), help, cause)
}

/// The version of a driver as it says it: 12080 for 12.8.
pub(super) fn version(number: i32) -> (i32, i32) {
    (number / 1000, number % 1000 / 10)
}

/// Whether the driver is new enough; `missing` is a call that it lacks.
pub(super) fn new_enough(driver: (i32, i32), missing: Option<&str>) -> Result<(), Box<Fault>> {
    if driver >= OLDEST && missing.is_none() {
        return Ok(());
    }
    let message = match missing {
        Some(_) if driver >= OLDEST => "the driver lacks a call that is needed".to_owned(),
        _ if driver <= (0, 0) => format!(
            "the driver does not say which CUDA it is for, and CUDA {}.{} is needed",
            OLDEST.0, OLDEST.1
        ),
        _ => format!(
            "the driver is too old: it is for CUDA {}.{}, and CUDA {}.{} is needed",
            driver.0, driver.1, OLDEST.0, OLDEST.1
        ),
    };
    let cause = missing.map(|name| format!("it has no {name}"));
    Err(fault("E0859", message, "install driver 570 or later", cause))
}

/// Whether the driver loads what NVRTC makes.
pub(super) fn loads(driver: (i32, i32), nvrtc: (i32, i32)) -> Result<(), Box<Fault>> {
    if driver.0 >= nvrtc.0 {
        return Ok(());
    }
    let message = format!(
        "the driver is too old for NVRTC: it is for CUDA {}.{}, NVRTC is {}.{}",
        driver.0, driver.1, nvrtc.0, nvrtc.1
    );
    let help = format!(
        "install a newer driver, or NVRTC of CUDA {}, whose folder ANYID_NVRTC names",
        driver.0
    );
    Err(fault("E0859", message, &help, None))
}

/// The first of several NVRTC, newest first, that `usable` takes; otherwise why the one is not that came
/// nearest: one that is there says more than one that is not.
pub(super) fn nvrtc<T>(
    found: impl Iterator<Item = Result<T, Box<Fault>>>,
    usable: impl Fn(&T) -> Result<(), Box<Fault>>,
) -> Result<T, Box<Fault>> {
    let (mut absent, mut unusable) = (None, None);
    for each in found {
        match each {
            Ok(each) => match usable(&each) {
                Ok(()) => return Ok(each),
                Err(fault) => unusable = unusable.or(Some(fault)),
            },
            Err(fault) => absent = absent.or(Some(fault)),
        }
    }
    let none = || fault("E0856", "there is no NVRTC".to_owned(), "", None);
    Err(unusable.or(absent).unwrap_or_else(none))
}

/// The kernels for a GPU of this compute capability.
pub(super) fn kernels(name: &str, (major, minor): (i32, i32)) -> Result<Kernels, Box<Fault>> {
    let compiled = format!("sm_{major}{minor}");
    let Some(target) = targets::of_capability(major, minor) else {
        let message = format!("there are no kernels for {compiled}, which {name} is");
        let help = "kernels need sm_80 or later: an A100, or a GeForce RTX 30 or later";
        return Err(fault("E0853", message, help, None));
    };
    let (architecture, compiled) = match (major, minor) {
        (9, 0) => (Architecture::Sm90a, "sm_90a".to_owned()),
        _ => (Architecture::Sm80, compiled),
    };
    Ok(Kernels { architecture, compiled, target })
}

/// What kind of failure a result of the driver is.
pub(super) fn trouble(result: u32) -> Trouble {
    match result {
        2 => Trouble::Memory,
        // A deinitialised driver, a device that is gone, memory errors that were not corrected, a broken
        // link, faults of kernels, a context that is gone, and unknown ones.
        4 | 214 | 220 | 700 | 702 | 709 | 710 | 714..=719 | 721 | 999 => Trouble::Lost,
        // Code of another architecture, a newer version or none at all, and kernels that are not in it.
        200 | 209 | 218 | 222 | 300 | 301 | 500 => Trouble::Image,
        _ => Trouble::Other,
    }
}

/// A failed call as an error for people.
pub(super) fn refusal(device: &str, refused: &Refused) -> Box<Fault> {
    let cause = Some(format!("{}: {}", refused.call, refused.said));
    match refused.trouble {
        Trouble::Memory => {
            let message = format!("{device} has no memory left");
            let help = "run smaller sizes, or end other programs on the GPU";
            fault("E0603", message, help, cause)
        }
        Trouble::Lost => {
            let message = format!("{device} was lost while it worked");
            let help = "what was finished before is kept; run again, and look at `nvidia-smi` and \
                        the log of the system if it happens again";
            fault("E0862", message, help, cause)
        }
        Trouble::Image => {
            let message = format!("the driver of {device} does not take the kernels");
            let help = "install a newer driver, or an NVRTC of the driver's version";
            fault("E0861", message, help, cause)
        }
        Trouble::Other => {
            let help =
                "see whether `nvidia-smi` works; `anyid-rt gpu-check` tells which kernels do";
            fault("E0860", format!("the driver of {device} refuses a call"), help, cause)
        }
    }
}

/// A call that failed before anything ran, as an error for people: whatever the driver calls it, nothing
/// was lost.
pub(super) fn not_opened(device: Option<&str>, refused: &Refused) -> Box<Fault> {
    let cause = Some(format!("{}: {}", refused.call, refused.said));
    match (device, refused.trouble) {
        (Some(device), Trouble::Memory) => refusal(device, refused),
        (Some(device), _) => {
            let help = "see whether another program has the GPU to itself (`nvidia-smi` lists them, and \
                        its compute mode), and whether it is in order";
            fault("E0860", format!("the driver does not open {device}"), help, cause)
        }
        (None, _) => {
            let help = "see whether `nvidia-smi` works, and whether the kernel modules nvidia and \
                        nvidia_uvm are loaded; a container has to be given their devices";
            fault("E0860", "the driver of NVIDIA does not start".to_owned(), help, cause)
        }
    }
}

/// The error of memory that is not there, though the plan fits the device: by how much, and what is left.
pub(super) fn too_little(device: &str, what: &str, bytes: u64, room: Room) -> Box<Fault> {
    let short = bytes.saturating_sub(room.free);
    let used = room.all.saturating_sub(room.free);
    let message = match short {
        // Free, but not in one piece.
        0 => format!("{what} take {} in one piece, which {device} does not have", size(bytes)),
        short => {
            format!("{what} take {}, {} more than {device} has left", size(bytes), size(short))
        }
    };
    let cause = format!(
        "{} of {} are free; {} are used, by this program and others",
        size(room.free),
        size(room.all),
        size(used)
    );
    let help = "end other programs on the GPU (`nvidia-smi` lists them), or run smaller sizes";
    fault("E0603", message, help, Some(cause))
}

/// An amount of memory in words.
pub(super) fn size(bytes: u64) -> String {
    match bytes {
        b if b < 1 << 20 => format!("{b} B"),
        b if b < 10 << 30 => format!("{:.0} MiB", b as f64 / f64::from(1 << 20)),
        b => format!("{:.1} GiB", b as f64 / f64::from(1 << 30)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_gpu_gets_the_newest_kernels_that_it_runs() {
        let chosen = |capability| {
            kernels("a GPU", capability)
                .map(|k| format!("{} {} {}", k.architecture.name(), k.compiled, k.target))
                .map_err(|fault| (fault.code, fault.message))
        };
        for (capability, wanted) in [
            ((8, 0), "sm_80 sm_80 cuda:sm_80"),
            ((8, 6), "sm_80 sm_86 cuda:sm_80"),
            ((8, 9), "sm_80 sm_89 cuda:sm_89"),
            ((9, 0), "sm_90a sm_90a cuda:sm_90"),
            ((10, 3), "sm_80 sm_103 cuda:sm_90"),
            ((12, 0), "sm_80 sm_120 cuda:sm_120"),
            ((13, 0), "sm_80 sm_130 cuda:sm_120"),
        ] {
            assert_eq!(chosen(capability), Ok(wanted.to_owned()));
        }
        let message = "there are no kernels for sm_75, which a GPU is".to_owned();
        assert_eq!(chosen((7, 5)), Err(("E0853", message)));
        let targets = crate::targets::cuda();
        for capability in [(8, 0), (8, 9), (9, 0), (10, 0), (12, 1)] {
            let target = kernels("a GPU", capability).unwrap().target;
            assert!(targets.iter().any(|own| own.name == target), "{target}");
        }
    }

    #[test]
    fn a_driver_has_to_be_there_and_new_enough() {
        let fault = no_driver(Some("libcuda.so.1: not found".into()));
        assert_eq!(fault.code, "E0858");
        assert_eq!(fault.message, "there is no driver for NVIDIA GPUs on this machine");
        assert_eq!([version(12080), version(13000)], [(12, 8), (13, 0)]);
        assert!(new_enough((13, 0), None).is_ok() && new_enough((12, 8), None).is_ok());
        let old = new_enough((12, 4), None).unwrap_err();
        assert_eq!(old.code, "E0859");
        assert!(old.message.contains("CUDA 12.4, and CUDA 12.8 is needed"), "{}", old.message);
        for none in [(0, 0), version(-1)] {
            let fault = new_enough(none, Some("cuInit")).unwrap_err();
            assert!(fault.message.contains("does not say which CUDA"), "{}", fault.message);
        }
        let lacks = new_enough((12, 8), Some("cuLaunchKernel")).unwrap_err();
        assert_eq!(lacks.message, "the driver lacks a call that is needed");
        assert_eq!(lacks.cause.as_deref(), Some("it has no cuLaunchKernel"));
        assert!(loads((13, 0), (13, 2)).is_ok() && loads((13, 0), (12, 9)).is_ok());
        let other = loads((12, 9), (13, 0)).unwrap_err();
        assert_eq!(other.code, "E0859");
        assert!(other.help.unwrap().contains("NVRTC of CUDA 12"));
    }

    #[test]
    fn failures_of_calls_have_codes_by_what_they_mean() {
        let code = |result: u32| {
            let (call, said) = ("cuLaunchKernel", "it says so".to_owned());
            refusal("cuda:0", &Refused { trouble: trouble(result), call, said })
        };
        for (result, wanted) in
            [(2, "E0603"), (700, "E0862"), (719, "E0862"), (999, "E0862"), (214, "E0862")]
                .into_iter()
                .chain([
                    (209, "E0861"),
                    (500, "E0861"),
                    (1, "E0860"),
                    (46, "E0860"),
                    (701, "E0860"),
                    (801, "E0860"),
                ])
        {
            assert_eq!(code(result).code, wanted, "{result}");
        }
        assert_eq!(code(700).message, "cuda:0 was lost while it worked");
        assert_eq!(code(1).cause.as_deref(), Some("cuLaunchKernel: it says so"));
    }

    #[test]
    fn what_fails_before_anything_ran_was_not_lost() {
        for result in [1, 46, 100, 214, 803, 999] {
            let (call, said) = ("cuInit", "it says so".to_owned());
            let refused = Refused { trouble: trouble(result), call, said };
            let started = not_opened(None, &refused);
            assert_eq!(
                (started.code, &*started.message),
                ("E0860", "the driver of NVIDIA does not start")
            );
            assert!(started.help.unwrap().contains("nvidia_uvm"));
            let opened = not_opened(Some("cuda:1"), &refused);
            assert_eq!(
                (opened.code, &*opened.message),
                ("E0860", "the driver does not open cuda:1")
            );
            assert!(opened.help.unwrap().contains("compute mode"));
        }
        let refused = Refused { trouble: trouble(2), call: "cuStreamCreate", said: String::new() };
        assert_eq!(not_opened(Some("cuda:0"), &refused).code, "E0603");
    }

    #[test]
    fn the_newest_nvrtc_is_taken_that_the_driver_loads() {
        let missing = || Err(fault("E0856", "there is no NVRTC".to_owned(), "", None));
        let with = |driver: (i32, i32), found: Vec<Result<(i32, i32), Box<Fault>>>| {
            nvrtc(found.into_iter(), |nvrtc| loads(driver, *nvrtc)).map_err(|fault| fault.code)
        };
        let both = || vec![Ok((13, 0)), Ok((12, 9))];
        assert_eq!(with((13, 0), both()), Ok((13, 0)));
        assert_eq!(with((12, 8), both()), Ok((12, 9)));
        assert_eq!(with((12, 8), vec![missing(), Ok((12, 8))]), Ok((12, 8)));
        assert_eq!(with((12, 8), vec![Ok((13, 0)), missing()]), Err("E0859"));
        assert_eq!(with((13, 0), vec![missing(), missing()]), Err("E0856"));
        assert_eq!(with((13, 0), vec![]), Err("E0856"));
    }

    #[test]
    fn memory_that_is_not_there_is_told_by_how_much() {
        let room = Room { free: 3 << 30, all: 24 << 30 };
        let fault = too_little("cuda:0", "weights", 5 << 30, room);
        assert_eq!(fault.code, "E0603");
        assert_eq!(fault.message, "weights take 5120 MiB, 2048 MiB more than cuda:0 has left");
        let cause = "3072 MiB of 24.0 GiB are free; 21.0 GiB are used, by this program and others";
        assert_eq!(fault.cause.as_deref(), Some(cause));
        let broken = too_little("cuda:0", "states", 1 << 30, room);
        assert!(broken.message.contains("in one piece"), "{}", broken.message);
        assert_eq!([size(12), size(64 << 20), size(12 << 30)], ["12 B", "64 MiB", "12.0 GiB"]);
    }
}
