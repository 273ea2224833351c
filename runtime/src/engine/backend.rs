//! A device by name, as a user asks for it.

use super::tracer::Tracer;
use crate::error::{self, Error, Result};
use anyid_backends::device::{About, Device};
use anyid_backends::registry::Setting;
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
    /// Opens a device of this build, such as `cpu`; `threads` 0 means all the processor has.
    ///
    /// # Errors
    /// E0904 for a device this build does not have, E0560 for a number that is not there, E0907 for a
    /// bad setting in the environment such as `ANYID_SIMD`, E0918 for more than 512 threads, E1025
    /// where the system refuses them.
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
        let kind = registry.kind(device);
        let known = kind.map_or(&[][..], |kind| kind.settings);
        let unset = known.iter().filter(|own| settings.get(own.name).is_none());
        let taken = unset.filter_map(|own| Some((own, std::env::var(own.variable).ok()?)));
        let taken: Vec<(&Setting, String)> = taken.collect();
        let all =
            taken.iter().fold(settings.clone(), |all, (own, value)| all.with(own.name, value));
        let opened = registry.open(device, &all);
        let device = opened.map_err(|why| {
            let none = || Error::input("E0904", format!("there is no device \"{device}\""));
            match why {
                OpenError::Unknown { known } => {
                    none().help(format!("this build has {}", listed(&known)))
                }
                OpenError::NotInBuild => {
                    none().help("this build lacks it; --device cpu is always there")
                }
                OpenError::NotThere(why) => {
                    Error::input("E0560", format!("there is no device \"{device}\" here")).help(why)
                }
                OpenError::Setting { name, message } => {
                    let variable = taken.iter().find(|(setting, _)| setting.name == name);
                    let error = Error::input("E0907", message);
                    match variable {
                        Some((own, _)) => {
                            error.at(format!("environment variable {}", own.variable))
                        }
                        None => error.at(format!("setting {name}")),
                    }
                }
                OpenError::Threads(refused) => error::threads(refused),
                OpenError::Failed(fault) => error::from_fault(*fault),
            }
        })?;
        Ok(Self { device, tracer: None })
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

    /// The device.
    pub fn device(&self) -> &Arc<dyn Device> {
        &self.device
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
            ("cuda:0", "E0904", "this build lacks it; --device cpu is always there"),
            ("cpu:1", "E0560", "there is one CPU, which is called cpu"),
        ] {
            let error = Backend::open(name, 1).err().unwrap();
            assert_eq!(error.code(), code, "{name}");
            // A build with more devices names them behind the CPU.
            assert!(error.help_text().unwrap_or_default().starts_with(help), "{name}: {error}");
        }
        let error = Backend::open("cpu", 513).err().unwrap();
        assert_eq!(error.code(), "E0918");
        let settings = Settings::threads(1).with("simd", "sse9");
        let error = Backend::open_in(&Registry::default(), "cpu", &settings).err().unwrap();
        assert_eq!((error.code(), error.place()), ("E0907", Some("setting simd")));
    }
}
