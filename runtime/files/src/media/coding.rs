//! How the pictures of a video are coded: the codec, how much of them is kept, and how samples are stored.
//!
//! Without any of these, each form has its usual one: H.264 of our own in MP4, and what `ffmpeg` takes for a
//! container. A quality is on the scale of constant rate factors: lower is better and larger. Frames
//! have eight bits a colour, so that ten bits only keep what turning them into luma and chroma would round away.

use crate::error::{Error, Result};

/// How samples are stored: for how many pixels a chroma stands, and bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pixels {
    /// 4:2:0, eight bits.
    Yuv420,
    /// 4:2:2, eight bits.
    Yuv422,
    /// 4:4:4, eight bits.
    Yuv444,
    /// 4:2:0, ten bits.
    Yuv420Ten,
    /// 4:2:2, ten bits.
    Yuv422Ten,
    /// 4:4:4, ten bits.
    Yuv444Ten,
}

impl Pixels {
    /// All, in the order in which messages list them.
    pub const ALL: [Self; 6] = [
        Self::Yuv420,
        Self::Yuv422,
        Self::Yuv444,
        Self::Yuv420Ten,
        Self::Yuv422Ten,
        Self::Yuv444Ten,
    ];

    /// The name that `ffmpeg` has for it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Yuv420 => "yuv420p",
            Self::Yuv422 => "yuv422p",
            Self::Yuv444 => "yuv444p",
            Self::Yuv420Ten => "yuv420p10le",
            Self::Yuv422Ten => "yuv422p10le",
            Self::Yuv444Ten => "yuv444p10le",
        }
    }

    /// Those of this name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|pixels| pixels.name() == name)
    }
}

/// A codec by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Codec {
    /// H.264 (AVC): MP4, MOV, MKV.
    H264,
    /// H.265 (HEVC): MP4, MOV, MKV.
    H265,
    /// AV1: MP4, WebM, MKV.
    Av1,
    /// VP9: WebM, MP4, MKV.
    Vp9,
    /// ProRes 422 HQ or 4444 in ten bits: MOV, MKV.
    Prores,
}

impl Codec {
    /// All, in the order in which messages list them.
    pub const ALL: [Self; 5] = [Self::H264, Self::H265, Self::Av1, Self::Vp9, Self::Prores];

    /// The name a user types.
    pub fn name(self) -> &'static str {
        match self {
            Self::H264 => "h264",
            Self::H265 => "h265",
            Self::Av1 => "av1",
            Self::Vp9 => "vp9",
            Self::Prores => "prores",
        }
    }

    /// The codec of this name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|codec| codec.name() == name)
    }

    /// Endings of the containers that it is written in.
    fn endings(self) -> &'static [&'static str] {
        match self {
            Self::H264 | Self::H265 => &["mp4", "m4v", "mov", "mkv"],
            Self::Av1 | Self::Vp9 => &["mp4", "m4v", "webm", "mkv"],
            Self::Prores => &["mov", "mkv"],
        }
    }

    /// Its encoder in `ffmpeg`, with what makes the quality decide.
    fn encoder(self) -> &'static [&'static str] {
        match self {
            Self::H264 => &["-c:v", "libx264"],
            Self::H265 => &["-c:v", "libx265"],
            Self::Av1 => &["-c:v", "libsvtav1"],
            Self::Vp9 => &["-c:v", "libvpx-vp9", "-b:v", "0"],
            Self::Prores => &["-c:v", "prores_ks"],
        }
    }

    /// The best, usual and worst quality; none where it has no such scale.
    fn qualities(self) -> Option<[u8; 3]> {
        match self {
            Self::H264 => Some([0, 18, 51]),
            Self::H265 => Some([0, 20, 51]),
            Self::Av1 | Self::Vp9 => Some([1, 26, 63]),
            Self::Prores => None,
        }
    }

    /// Pixel formats that it is written in, the usual one first.
    fn pixels(self) -> &'static [Pixels] {
        match self {
            Self::H264 | Self::H265 | Self::Vp9 => &Pixels::ALL,
            Self::Av1 => &[Pixels::Yuv420, Pixels::Yuv420Ten],
            Self::Prores => &[Pixels::Yuv422Ten, Pixels::Yuv444Ten],
        }
    }
}

/// What was chosen of the coding of a video.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Coding {
    /// The codec.
    pub codec: Option<Codec>,
    /// The quality.
    pub quality: Option<u8>,
    /// How samples are stored.
    pub pixels: Option<Pixels>,
}

impl Coding {
    /// Whether a file with this ending is left to `ffmpeg`, though we write such files ourselves.
    pub(super) fn is_foreign(self) -> bool {
        self.codec.is_some_and(|codec| codec != Codec::H264)
            || self.pixels.is_some_and(|pixels| pixels != Pixels::Yuv420)
    }

    /// How samples of a file with this ending are stored.
    pub(super) fn pixels_of(self, ending: &str) -> Pixels {
        let codec = self.codec_of(ending).filter(|_| self != Self::default());
        let usual = codec.map_or(Pixels::Yuv420, |codec| codec.pixels()[0]);
        self.pixels.unwrap_or(usual)
    }

    /// The codec of a file with this ending: the one that was chosen, or the usual one.
    fn codec_of(self, ending: &str) -> Option<Codec> {
        self.codec.or(match ending {
            "mp4" | "m4v" | "mov" | "mkv" => Some(Codec::H264),
            "webm" => Some(Codec::Vp9),
            _ => None,
        })
    }

    /// Checks that a file with this ending can be coded so; an empty ending is that of a folder.
    ///
    /// # Errors
    /// E0820 for a codec, quality or pixel format that the form does not have, E0821 for a quality out of range.
    pub(super) fn check(self, ending: &str) -> Result<()> {
        if self == Self::default() {
            return Ok(());
        }
        let form = match ending {
            "" => "a folder of frames".to_owned(),
            ending => format!("a .{ending} file"),
        };
        let Some(codec) = self.codec_of(ending) else {
            let what = format!("{form} has no codec, quality or pixel format to choose");
            return Err(Error::input("E0820", what).help(
                "write an .mp4, .mov, .mkv or .webm file, or leave --codec, --quality and \
                 --pix-format out",
            ));
        };
        if !codec.endings().contains(&ending) {
            let (name, endings) = (codec.name(), codec.endings().join(", ."));
            return Err(Error::input("E0820", format!("{form} does not hold {name} here"))
                .help(format!("{name} goes into .{endings}")));
        }
        if let Some(pixels) = self.pixels.filter(|pixels| !codec.pixels().contains(pixels)) {
            let names: Vec<&str> = codec.pixels().iter().map(|pixels| pixels.name()).collect();
            let what = format!("{} is not written as {} here", codec.name(), pixels.name());
            return Err(Error::input("E0820", what).help(format!(
                "{} takes {}",
                codec.name(),
                names.join(", ")
            )));
        }
        match (self.quality, codec.qualities()) {
            (None, _) => Ok(()),
            (Some(quality), Some([best, _, worst])) if (best..=worst).contains(&quality) => Ok(()),
            (Some(quality), Some([best, usual, worst])) => {
                let what = format!("the quality of {} cannot be {quality}", codec.name());
                Err(Error::input("E0821", what)
                    .help(format!("it runs from {best}, best, to {worst}; {usual} is usual")))
            }
            (Some(_), None) => {
                let what = format!("{} has one quality, which is high", codec.name());
                Err(Error::input("E0820", what).help("leave --quality out"))
            }
        }
    }

    /// What `ffmpeg` is told for a file with this ending; nothing where nothing was chosen.
    pub(super) fn arguments(self, ending: &str) -> Vec<String> {
        let codec = self.codec_of(ending).filter(|_| self != Self::default());
        let Some(codec) = codec else { return Vec::new() };
        let mut words: Vec<String> =
            codec.encoder().iter().map(|word| (*word).to_owned()).collect();
        if let Some([_, usual, _]) = codec.qualities() {
            words.extend(["-crf".to_owned(), self.quality.unwrap_or(usual).to_string()]);
        }
        let pixels = self.pixels_of(ending);
        if codec == Codec::Prores {
            let profile = if pixels == Pixels::Yuv444Ten { "4" } else { "3" };
            words.extend(["-profile:v", profile].map(str::to_owned));
        }
        words.extend(["-pix_fmt", pixels.name()].map(str::to_owned));
        // Players of Apple's look for this name.
        if codec == Codec::H265 && matches!(ending, "mp4" | "m4v" | "mov") {
            words.extend(["-tag:v", "hvc1"].map(str::to_owned));
        }
        words
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn coding(codec: Option<Codec>, quality: Option<u8>) -> Coding {
        Coding { codec, quality, pixels: None }
    }

    #[test]
    fn pixel_formats_are_those_of_the_codec() {
        for (codec, pixels, ending, code) in [
            (None, Pixels::Yuv444, "mp4", None),
            (None, Pixels::Yuv420Ten, "webm", None),
            (None, Pixels::Yuv444, "gif", Some("E0820")),
            (None, Pixels::Yuv420, "", Some("E0820")),
            (Some(Codec::H265), Pixels::Yuv422Ten, "mkv", None),
            (Some(Codec::Av1), Pixels::Yuv420Ten, "mp4", None),
            (Some(Codec::Av1), Pixels::Yuv444, "mp4", Some("E0820")),
            (Some(Codec::Prores), Pixels::Yuv420, "mov", Some("E0820")),
        ] {
            let coding = Coding { codec, pixels: Some(pixels), quality: None };
            let found = coding.check(ending).err().map(|error| error.code());
            assert_eq!(found, code, "{codec:?} {pixels:?} {ending}");
        }
        let words = |codec, pixels, ending| {
            let coding = Coding { codec, pixels: Some(pixels), quality: None };
            (coding.is_foreign(), coding.arguments(ending).join(" "))
        };
        let (foreign, fine) = words(Some(Codec::Prores), Pixels::Yuv444Ten, "mov");
        assert!(foreign && fine.ends_with("-profile:v 4 -pix_fmt yuv444p10le"), "{fine}");
        let (foreign, full) = words(None, Pixels::Yuv444, "mp4");
        assert!(foreign && full.contains("libx264") && full.ends_with("yuv444p"), "{full}");
        // Our own MP4 is that already.
        assert!(!words(None, Pixels::Yuv420, "mp4").0);
        for pixels in Pixels::ALL {
            assert_eq!(Pixels::named(pixels.name()), Some(pixels));
        }
        assert_eq!(Pixels::named("rgb24"), None);
    }

    #[test]
    fn codecs_go_into_their_containers() {
        for (codec, quality, ending, code) in [
            (None, None, "gif", None),
            (None, Some(20), "mp4", None),
            (None, Some(20), "webm", None),
            (None, Some(20), "gif", Some("E0820")),
            (None, Some(20), "", Some("E0820")),
            (None, Some(60), "mp4", Some("E0821")),
            (None, Some(60), "webm", None),
            (Some(Codec::H265), Some(22), "mp4", None),
            (Some(Codec::H265), None, "webm", Some("E0820")),
            (Some(Codec::Av1), None, "webm", None),
            (Some(Codec::Prores), None, "mov", None),
            (Some(Codec::Prores), None, "mp4", Some("E0820")),
            (Some(Codec::Prores), Some(10), "mov", Some("E0820")),
            (Some(Codec::H264), None, "avi", Some("E0820")),
        ] {
            let found = coding(codec, quality).check(ending).err().map(|error| error.code());
            assert_eq!(found, code, "{codec:?} {quality:?} {ending}");
        }
    }

    #[test]
    fn arguments_name_encoder_and_quality() {
        let words = |codec, quality, ending| coding(codec, quality).arguments(ending).join(" ");
        assert_eq!(words(None, None, "mkv"), "");
        assert_eq!(
            words(None, Some(30), "webm"),
            "-c:v libvpx-vp9 -b:v 0 -crf 30 -pix_fmt yuv420p"
        );
        let h265 = "-c:v libx265 -crf 20 -pix_fmt yuv420p -tag:v hvc1";
        assert_eq!(words(Some(Codec::H265), None, "mp4"), h265);
        assert!(words(Some(Codec::Prores), None, "mov").ends_with("3 -pix_fmt yuv422p10le"));
        for codec in Codec::ALL {
            assert_eq!(Codec::named(codec.name()), Some(codec));
        }
        assert_eq!(Codec::named("theora"), None);
    }
}
