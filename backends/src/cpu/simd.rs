//! Which vector instructions the CPU kernels may use.
//!
//! A [`Level`] is found once and handed to every kernel. Kernels clamp what they are given to what
//! the machine has ([`Level::usable`]), so a level that is too high is never executed. A lower
//! level can be forced, for tests and for comparing results between machines.

/// A set of vector instructions, from least to most; each includes the ones before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Level {
    /// Plain Rust, whatever the compiler's baseline offers.
    Portable,
    /// AVX2, FMA and F16C: 256-bit vectors.
    Avx2,
    /// AVX-512 F, BW, DQ and VL: 512-bit vectors.
    Avx512,
    /// AVX-512 with BF16 dot products (`vdpbf16ps`).
    Avx512Bf16,
}

impl Level {
    /// All levels, lowest first.
    pub const ALL: [Level; 4] = [Level::Portable, Level::Avx2, Level::Avx512, Level::Avx512Bf16];

    /// The highest level this machine has.
    pub fn detect() -> Level {
        #[cfg(target_arch = "x86_64")]
        {
            let avx2 = std::is_x86_feature_detected!("avx2")
                && std::is_x86_feature_detected!("fma")
                && std::is_x86_feature_detected!("f16c");
            let avx512 = avx2
                && std::is_x86_feature_detected!("avx512f")
                && std::is_x86_feature_detected!("avx512bw")
                && std::is_x86_feature_detected!("avx512dq")
                && std::is_x86_feature_detected!("avx512vl");
            if avx512 && std::is_x86_feature_detected!("avx512bf16") {
                return Level::Avx512Bf16;
            }
            if avx512 {
                return Level::Avx512;
            }
            if avx2 {
                return Level::Avx2;
            }
        }
        Level::Portable
    }

    /// This level, or the machine's highest if that is lower. Cheap: detection is cached.
    pub fn usable(self) -> Level {
        self.min(Level::detect())
    }

    /// The levels this machine has, lowest first.
    pub fn available() -> impl Iterator<Item = Level> {
        let highest = Level::detect();
        Level::ALL.into_iter().filter(move |&level| level <= highest)
    }

    /// The name used in settings and reports.
    pub fn name(self) -> &'static str {
        match self {
            Level::Portable => "portable",
            Level::Avx2 => "avx2",
            Level::Avx512 => "avx512",
            Level::Avx512Bf16 => "avx512bf16",
        }
    }

    /// The level of a name, exactly as [`Level::name`] writes it.
    pub fn from_name(name: &str) -> Option<Level> {
        Level::ALL.into_iter().find(|level| level.name() == name)
    }

    /// The level to run at, given the value of the setting `ANYID_SIMD` where it is set.
    ///
    /// Unset or empty means the highest available.
    ///
    /// # Errors
    /// A [`LevelError`] if the name is unknown or the machine lacks that level.
    pub fn from_setting(value: Option<&str>) -> Result<Level, LevelError> {
        let highest = Level::detect();
        match value {
            None | Some("") => Ok(highest),
            Some(name) => match Level::from_name(name) {
                None => Err(LevelError::Unknown),
                Some(level) if level > highest => Err(LevelError::Unavailable { highest }),
                Some(level) => Ok(level),
            },
        }
    }
}

/// Why a requested level cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LevelError {
    /// The name is not one of `portable`, `avx2`, `avx512`, `avx512bf16`.
    Unknown,
    /// The machine lacks the level.
    Unavailable {
        /// The highest level the machine has.
        highest: Level,
    },
}

impl std::fmt::Display for LevelError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            LevelError::Unknown => {
                write!(f, "unknown level: use portable, avx2, avx512 or avx512bf16")
            }
            LevelError::Unavailable { highest } => {
                write!(f, "this machine has no such instructions: its level is {}", highest.name())
            }
        }
    }
}

impl std::error::Error for LevelError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_round_trip_and_order_holds() {
        for level in Level::ALL {
            assert_eq!(Level::from_name(level.name()), Some(level));
            assert!(level.usable() <= Level::detect());
        }
        assert!(Level::Portable < Level::Avx512Bf16);
        assert_eq!(Level::available().next(), Some(Level::Portable));
        assert_eq!(Level::available().last(), Some(Level::detect()));
    }

    #[test]
    fn settings_are_checked() {
        assert_eq!(Level::from_setting(None), Ok(Level::detect()));
        assert_eq!(Level::from_setting(Some("")), Ok(Level::detect()));
        assert_eq!(Level::from_setting(Some("portable")), Ok(Level::Portable));
        let wrong = Level::from_setting(Some("sse9"));
        assert_eq!(wrong, Err(LevelError::Unknown));
        assert!(LevelError::Unknown.to_string().contains("avx512bf16"));
        let missing = LevelError::Unavailable { highest: Level::Portable };
        assert!(missing.to_string().contains("portable"));
    }
}
