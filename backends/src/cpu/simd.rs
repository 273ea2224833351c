//! Which instructions the CPU kernels may use.
//!
//! A [`Level`] is found once and handed to every kernel. Kernels clamp what they are given to the
//! vector instructions that the machine has ([`Level::usable`]), and ask for its tiles
//! (`Level::tiles`), so a level that is too high is never executed. A lower level can be forced, for
//! tests and for comparing results between machines.

use super::amx::{self, Refused, Tiles};

/// A set of instructions, from least to most; each includes the ones before it.
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
    /// AMX: products of bf16 by tiles of 16 rows of 64 bytes (`tdpbf16ps`).
    Amx,
    /// The kernels of [`Level::Amx`] on tiles in memory, with the vectors that the machine has: every
    /// machine can check them so, slowly.
    AmxEmulated,
}

impl Level {
    /// All levels, lowest first.
    pub const ALL: [Level; 6] = [
        Level::Portable,
        Level::Avx2,
        Level::Avx512,
        Level::Avx512Bf16,
        Level::Amx,
        Level::AmxEmulated,
    ];

    /// The highest level this machine has.
    pub fn detect() -> Level {
        let vectors = Level::vectors();
        match amx::tiles() {
            Ok(()) if vectors == Level::Avx512Bf16 => Level::Amx,
            _ => vectors,
        }
    }

    /// The highest level without tiles that this machine has.
    fn vectors() -> Level {
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

    /// The level that is used where none is chosen: the highest one, unless its products of bf16 are
    /// slower than f32 arithmetic.
    pub fn preferred() -> Level {
        Level::detect().unless_slow(intel())
    }

    /// Intel's processors take pairs of bf16 at half the rate of f32 arithmetic, AMD's at twice. The
    /// maker decides and no measurement: that would depend on what else the machine does, and so
    /// would the bits of results.
    fn unless_slow(self, intel: bool) -> Level {
        match self {
            Level::Avx512Bf16 if intel => Level::Avx512,
            level => level,
        }
    }

    /// The vector instructions of this level, or the machine's highest if those are lower: a level
    /// without tiles. Cheap: detection is cached.
    pub fn usable(self) -> Level {
        self.min(Level::vectors())
    }

    /// The tiles of this level, if it has any.
    pub(crate) fn tiles(self) -> Option<Tiles> {
        match self {
            Level::Amx if self.is_available() => Some(Tiles::Instructions),
            Level::AmxEmulated => Some(Tiles::Emulated),
            _ => None,
        }
    }

    /// The levels this machine has, lowest first; the emulated one comes first, since it is no better
    /// than any.
    pub fn available() -> impl Iterator<Item = Level> {
        let own = Level::ALL.into_iter().filter(|level| *level != Level::AmxEmulated);
        std::iter::once(Level::AmxEmulated).chain(own.filter(|level| level.is_available()))
    }

    fn is_available(self) -> bool {
        self == Level::AmxEmulated || self <= Level::detect()
    }

    /// Why the system keeps the processor's tiles to itself, where it does.
    pub fn refused() -> Option<Refused> {
        amx::tiles().err().flatten()
    }

    /// The name used in settings and reports.
    pub fn name(self) -> &'static str {
        match self {
            Level::Portable => "portable",
            Level::Avx2 => "avx2",
            Level::Avx512 => "avx512",
            Level::Avx512Bf16 => "avx512bf16",
            Level::Amx => "amx",
            Level::AmxEmulated => "amx-emulated",
        }
    }

    /// The level of a name, exactly as [`Level::name`] writes it.
    pub fn from_name(name: &str) -> Option<Level> {
        Level::ALL.into_iter().find(|level| level.name() == name)
    }

    /// The level to run at, given the value of the setting `ANYID_SIMD` where it is set.
    ///
    /// Unset or empty means the one that is [preferred](Level::preferred).
    ///
    /// # Errors
    /// A [`LevelError`] if the name is unknown or the machine lacks that level.
    pub fn from_setting(value: Option<&str>) -> Result<Level, LevelError> {
        let highest = Level::detect();
        match value {
            None | Some("") => Ok(Level::preferred()),
            Some(name) => match (Level::from_name(name), Level::refused()) {
                (None, _) => Err(LevelError::Unknown),
                (Some(level), _) if level.is_available() => Ok(level),
                (Some(Level::Amx), Some(why)) => Err(LevelError::Refused { why, highest }),
                (Some(_), _) => Err(LevelError::Unavailable { highest }),
            },
        }
    }
}

/// Whether the processor is one of Intel's.
fn intel() -> bool {
    #[cfg(target_arch = "x86_64")]
    {
        let maker = std::arch::x86_64::__cpuid(0);
        let words = [maker.ebx, maker.edx, maker.ecx].map(u32::to_le_bytes);
        words.as_flattened() == b"GenuineIntel"
    }
    #[cfg(not(target_arch = "x86_64"))]
    false
}

/// Why a requested level cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LevelError {
    /// The name is not one of [`Level::ALL`].
    Unknown,
    /// The machine lacks the level.
    Unavailable {
        /// The highest level the machine has.
        highest: Level,
    },
    /// The processor has the level, and the system does not let programs use it.
    Refused {
        /// What it said.
        why: Refused,
        /// The highest level that can be used.
        highest: Level,
    },
}

impl std::fmt::Display for LevelError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            LevelError::Unknown => {
                write!(f, "unknown level: use portable, avx2, avx512, avx512bf16 or amx")
            }
            LevelError::Unavailable { highest } => {
                write!(f, "this machine has no such instructions: its level is {}", highest.name())
            }
            LevelError::Refused { why, highest } => {
                write!(f, "{why}: the level that can be used is {}", highest.name())
            }
        }
    }
}

impl std::error::Error for LevelError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pairs_are_left_to_f32_where_they_are_slow() {
        assert_eq!(Level::Avx512Bf16.unless_slow(true), Level::Avx512);
        for level in Level::ALL {
            assert_eq!(level.unless_slow(false), level);
            assert!(level == Level::Avx512Bf16 || level.unless_slow(true) == level);
        }
        #[cfg(target_os = "linux")]
        if let Ok(known) = std::fs::read_to_string("/proc/cpuinfo") {
            assert_eq!(intel(), known.contains("GenuineIntel"));
        }
    }

    #[test]
    fn names_round_trip_and_order_holds() {
        for level in Level::ALL {
            assert_eq!(Level::from_name(level.name()), Some(level));
            assert!(level.usable() <= Level::Avx512Bf16 && level.usable() <= Level::detect());
        }
        assert!(Level::Portable < Level::Avx512Bf16 && Level::Avx512Bf16 < Level::Amx);
        assert_eq!(Level::available().next(), Some(Level::AmxEmulated));
        assert_eq!(Level::available().nth(1), Some(Level::Portable));
        assert_eq!(Level::available().last(), Some(Level::detect()));
    }

    #[test]
    fn tiles_are_used_where_they_are_there_or_asked_for() {
        assert_eq!(Level::AmxEmulated.tiles(), Some(Tiles::Emulated));
        let own = (Level::detect() == Level::Amx).then_some(Tiles::Instructions);
        assert_eq!(Level::Amx.tiles(), own);
        assert_eq!(Level::Avx512Bf16.tiles(), None);
        assert_eq!(Level::Amx.usable(), Level::AmxEmulated.usable());
    }

    #[test]
    fn settings_are_checked() {
        assert_eq!(Level::from_setting(None), Ok(Level::preferred()));
        assert_eq!(Level::from_setting(Some("")), Ok(Level::preferred()));
        assert_eq!(Level::from_setting(Some("portable")), Ok(Level::Portable));
        assert_eq!(Level::from_setting(Some("amx-emulated")), Ok(Level::AmxEmulated));
        let highest = Level::detect();
        let amx = match (highest, Level::refused()) {
            (Level::Amx, _) => Ok(Level::Amx),
            (_, Some(why)) => Err(LevelError::Refused { why, highest }),
            _ => Err(LevelError::Unavailable { highest }),
        };
        assert_eq!(Level::from_setting(Some("amx")), amx);
        let wrong = Level::from_setting(Some("sse9"));
        assert_eq!(wrong, Err(LevelError::Unknown));
        assert!(LevelError::Unknown.to_string().contains("avx512bf16 or amx"));
        let missing = LevelError::Unavailable { highest: Level::Portable };
        assert!(missing.to_string().contains("portable"));
        let refused = LevelError::Refused { why: Refused { errno: 95 }, highest: Level::Avx2 };
        assert_eq!(
            refused.to_string(),
            "the system does not let this program use AMX (error 95): the level that can be used is \
             avx2"
        );
    }
}
