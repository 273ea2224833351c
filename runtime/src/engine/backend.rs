//! A device by name, as a user asks for it.

use super::tracer::Tracer;
use crate::error::{self, Error, Result};
use anyid_backends::device::{About, Device};
use anyid_backends::registry::{Kind, Programs, Setting};
use anyid_backends::{OpenError, Registry, Settings};
use std::sync::Arc;

/// Most threads of a backend: more than any machine it is for, and few enough to be started.
const MOST_THREADS: usize = 512;

/// An opened device.
#[derive(Clone)]
pub struct Backend {
    device: Arc<dyn Device>,
    pub(super) tracer: Option<Arc<Tracer>>,
}

impl Backend {
    /// Opens a device of this build, such as `cpu`, or for `auto` the [best](Self::best) one; `threads`
    /// 0 means all the processor has.
    ///
    /// # Errors
    /// E0904 for a device this build does not have, E0560 for a number that is not there, E0907 for a
    /// bad setting in the environment such as `ANYID_SIMD`, E0918 for more than 512 threads, E1025
    /// where the system refuses them, E0850 to E0861 where a GPU or what it needs cannot be used.
    pub fn open(device: &str, threads: usize) -> Result<Self> {
        Self::open_in(&Registry::default(), device, &Settings::threads(threads))
    }

    /// Opens a device of `registry`. What `settings` leave open is taken from the environment.
    ///
    /// # Errors
    /// As [`Self::open`], and whatever else the device says.
    pub fn open_in(registry: &Registry, device: &str, settings: &Settings) -> Result<Self> {
        let threads = settings.threads;
        if threads > MOST_THREADS {
            let message = format!("{threads} is not a number of threads from 0 to {MOST_THREADS}");
            return Err(Error::input("E0918", message).help("0 takes all the processor has"));
        }
        if device == AUTO {
            return Self::best(registry, settings).map(|best| best.backend);
        }
        let kind = registry.kind(device);
        let known = kind.map_or(&[][..], |kind| kind.settings);
        let unset = known.iter().filter(|own| settings.get(own.name).is_none());
        let taken = unset.filter_map(|own| Some((own, std::env::var(own.variable).ok()?)));
        let taken: Vec<(&Setting, String)> = taken.collect();
        // Compilers end with the run, and what they leave goes with it.
        let ended = Settings { programs: Programs(crate::files::run), ..settings.clone() };
        let all = taken.iter().fold(ended, |all, (own, value)| all.with(own.name, value));
        let device = registry.open(device, &all).map_err(|why| refusal(why, device, &taken))?;
        Ok(Self { device, tracer: None })
    }

    /// The best device that is usable here, which is never one for tests.
    ///
    /// # Errors
    /// As [`Self::open`] of the CPU, if nothing else is usable.
    pub fn best(registry: &Registry, settings: &Settings) -> Result<Best> {
        let mut ranks: Vec<u8> = registry.kinds().iter().map(|kind| kind.rank).collect();
        ranks.sort_unstable();
        ranks.dedup();
        let (mut passed, mut last) = (Vec::new(), None);
        for rank in ranks.into_iter().rev().filter(|rank| *rank > 0) {
            let looked = look(registry, settings, &|kind| kind.rank == rank);
            let mut best: Option<Self> = None;
            for Looked { name, backend } in looked {
                match backend {
                    // Of several, the first of those with most memory.
                    Ok(backend) => {
                        let room = |backend: &Self| backend.about().capacity.unwrap_or(0);
                        if best.as_ref().is_none_or(|best| room(best) < room(&backend)) {
                            best = Some(backend);
                        }
                    }
                    Err(error) => {
                        last = Some(name.clone());
                        passed.push((name, error));
                    }
                }
            }
            if let Some(backend) = best {
                return Ok(Best { backend, passed });
            }
        }
        let name = last.unwrap_or_else(|| "cpu".to_owned());
        let found = passed.into_iter().find(|(own, _)| *own == name).map(|(_, error)| error);
        let none = || Error::input("E0904", "there is no device that could be taken");
        Err(found.unwrap_or_else(none))
    }

    /// Every device that is here, and why others are not usable, in the order of `registry`.
    pub fn look(registry: &Registry, settings: &Settings) -> Vec<Looked> {
        look(registry, settings, &|_| true)
    }

    /// The backend with every launch of the programs compiled for it recorded by `tracer`.
    #[must_use]
    pub fn traced(mut self, tracer: Arc<Tracer>) -> Self {
        self.tracer = Some(tracer);
        self
    }

    /// Name of the target that plans for this device are compiled for.
    pub fn target(&self) -> &'static str {
        self.about().target.name
    }

    /// What the device is.
    pub fn about(&self) -> &About {
        self.device.about()
    }

    /// Bytes of the device's own memory that can still be had; `None` where it takes the memory of this
    /// process.
    pub fn free_bytes(&self) -> Option<u64> {
        self.device.free_bytes()
    }

    /// The device.
    pub fn device(&self) -> &Arc<dyn Device> {
        &self.device
    }
}

/// The name that leaves the choice of a device to [`Backend::best`].
pub const AUTO: &str = "auto";

/// A device that was looked for: its name, or that of its kind where there is none, and the device or
/// why it is not usable.
pub struct Looked {
    /// Its name.
    pub name: String,
    /// The opened device.
    pub backend: Result<Backend>,
}

/// The best device, and what is better but not usable.
pub struct Best {
    /// The device.
    pub backend: Backend,
    /// Names, and why not.
    pub passed: Vec<(String, Error)>,
}

fn look(registry: &Registry, settings: &Settings, wanted: &dyn Fn(&Kind) -> bool) -> Vec<Looked> {
    let of_kind = |kind: &Kind| {
        let none = |why: OpenError| {
            let backend = Err(refusal(why, kind.names, &[]));
            vec![Looked { name: kind.names.to_owned(), backend }]
        };
        match (kind.devices)() {
            Ok(names) if names.is_empty() => {
                none(OpenError::NotThere(format!("this machine has no {} device", kind.name)))
            }
            Ok(names) => names
                .into_iter()
                .map(|name| {
                    let backend = Backend::open_in(registry, &name, settings);
                    Looked { name, backend }
                })
                .collect(),
            Err(why) => none(why),
        }
    };
    registry.kinds().iter().filter(|kind| wanted(kind)).flat_map(of_kind).collect()
}

/// The coded error of a device that cannot be opened; `taken` are settings of the environment.
fn refusal(why: OpenError, device: &str, taken: &[(&Setting, String)]) -> Error {
    let none = || Error::input("E0904", format!("there is no device \"{device}\""));
    match why {
        OpenError::Unknown { known } => none().help(format!("this build has {}", listed(&known))),
        OpenError::NotInBuild => none().help("this build lacks it; --device cpu is always there"),
        OpenError::NotThere(why) => {
            Error::input("E0560", format!("there is no device \"{device}\" here")).help(why)
        }
        OpenError::Setting { name, message } => {
            let variable = taken.iter().find(|(setting, _)| setting.name == name);
            let error = Error::input("E0907", message);
            match variable {
                Some((own, _)) => error.at(format!("environment variable {}", own.variable)),
                None => error.at(format!("setting {name}")),
            }
        }
        OpenError::Threads(refused) => error::threads(refused),
        OpenError::Failed(fault) => error::from_fault(*fault),
    }
}

/// `a, b and c`.
fn listed(names: &[String]) -> String {
    match names {
        [first @ .., last] if !first.is_empty() => format!("{} and {last}", first.join(", ")),
        _ => names.join(", "),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_that_cannot_be_had_has_a_code_and_a_way_out() {
        for (name, code, help) in [
            ("gpu", "E0904", "this build has cpu"),
            ("wgpu:0", "E0904", "this build lacks it; --device cpu is always there"),
            ("cpu:1", "E0560", "there is one CPU, which is called cpu"),
        ] {
            if cfg!(feature = "cubecl-wgpu") && name.starts_with("wgpu") {
                continue;
            }
            let error = Backend::open(name, 1).err().unwrap();
            assert_eq!(error.code(), code, "{name}");
            // A build with more devices names them behind the CPU.
            assert!(error.help_text().unwrap_or_default().starts_with(help), "{name}: {error}");
        }
        // A GPU, if this build can look for one, is there or says what it lacks.
        if cfg!(feature = "cuda")
            && let Err(error) = Backend::open("cuda:0", 1)
        {
            let known = ["E0560", "E0853", "E0856", "E0858", "E0859", "E0860"];
            assert!(known.contains(&error.code()), "{error}");
        }
        let error = Backend::open("cpu", 513).err().unwrap();
        assert_eq!(error.code(), "E0918");
        let settings = Settings::threads(1).with("simd", "sse9");
        let error = Backend::open_in(&Registry::default(), "cpu", &settings).err().unwrap();
        assert_eq!((error.code(), error.place()), ("E0907", Some("setting simd")));
    }

    #[test]
    fn the_best_device_is_taken_and_others_say_why_not() {
        fn named(names: &[&str]) -> std::result::Result<Vec<String>, OpenError> {
            Ok(names.iter().map(|name| (*name).to_owned()).collect())
        }
        let cpu = *Registry::default().kind("cpu").unwrap();
        let own = |name, names, rank, devices: anyid_backends::registry::Finder| Kind {
            name,
            names,
            rank,
            devices,
            ..cpu
        };
        // Opens as a CPU does, which takes no number.
        let fast = own("fast", "fast", 3, || named(&["fast"]));
        let broken = own("broken", "broken:N", 4, || named(&["broken:0"]));
        let tests = own("tests", "tests", 0, || named(&["tests"]));
        let gone = own("gone", "gone:N", 5, || named(&[]));
        let settings = Settings::threads(1);
        let registry = Registry::default().with(fast).with(broken).with(tests).with(gone);
        let best = Backend::best(&registry, &settings).unwrap();
        assert_eq!(best.backend.about().name, "cpu", "what the kind opens");
        let passed: Vec<(&str, &str)> =
            best.passed.iter().map(|(name, error)| (name.as_str(), error.code())).collect();
        assert_eq!(passed, [("gone:N", "E0560"), ("broken:0", "E0560")]);
        let looked = Backend::look(&registry, &settings);
        let usable =
            |name: &str| looked.iter().find(|each| each.name == name).unwrap().backend.is_ok();
        assert!(usable("cpu") && usable("fast") && usable("tests"));
        assert!(!usable("broken:0") && !usable("gone:N"));
        if cfg!(not(feature = "cubecl-wgpu")) {
            assert!(!usable("wgpu:N"));
        }
        assert!(Backend::open_in(&registry, AUTO, &settings).is_ok());
        assert!(Backend::open(AUTO, 1).is_ok());
    }
}
