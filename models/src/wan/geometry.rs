//! How pixels and frames become latents and tokens: the rules for sizes that follow from the
//! configurations of autoencoder and transformer.

use super::config::{DitConfig, VaeConfig};

/// Most positions along an axis: the length of the rotary table.
const MOST_POSITIONS: usize = 1024;

/// Factors between pixels, latents and tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Geometry {
    /// Pixels of a latent along each side.
    pub space: usize,
    /// Frames of a latent frame after the first.
    pub time: usize,
    /// Latent rows and columns of a token.
    pub patch: [usize; 2],
}

impl Geometry {
    /// That of Wan2.2-TI2V-5B.
    pub const TI2V_5B: Self = Self { space: 16, time: 4, patch: [2, 2] };

    /// That of a model.
    pub fn of(dit: &DitConfig, vae: &VaeConfig) -> Self {
        let [_, rows, columns] = dit.patch.map(|side| side as usize);
        let (space, time) = (vae.spatial_factor(), vae.temporal_factor());
        Self { space, time, patch: [rows, columns] }
    }

    /// What height and width in pixels are multiples of.
    pub fn sides(self) -> [usize; 2] {
        self.patch.map(|side| self.space * side)
    }

    /// Largest height and width in pixels.
    pub fn most_pixels(self) -> [usize; 2] {
        self.sides().map(|side| side * MOST_POSITIONS)
    }

    /// Largest number of frames.
    pub fn most_frames(self) -> usize {
        self.frames(MOST_POSITIONS)
    }

    /// Whether a clip can have so many frames.
    pub fn takes(self, frames: usize) -> bool {
        frames > 0 && (frames - 1).is_multiple_of(self.time)
    }

    /// The largest number of frames up to `frames` that a clip can have; 0 of none.
    pub fn cut(self, frames: usize) -> usize {
        if frames == 0 { 0 } else { (frames - 1) / self.time * self.time + 1 }
    }

    /// The rule for numbers of frames, such as "4k+1".
    pub fn rule(self) -> String {
        if self.time == 1 { "at least 1".to_owned() } else { format!("{}k+1", self.time) }
    }

    /// Latent frames of a clip.
    pub fn latent_frames(self, frames: usize) -> usize {
        1 + (frames - 1) / self.time
    }

    /// Frames of so many latent frames.
    pub fn frames(self, latent_frames: usize) -> usize {
        self.time * (latent_frames.max(1) - 1) + 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_published_model_and_others() {
        let wan = Geometry::of(&DitConfig::ti2v_5b(), &VaeConfig::ti2v_5b());
        assert_eq!(wan, Geometry::TI2V_5B);
        assert_eq!((wan.sides(), wan.rule().as_str()), ([32, 32], "4k+1"));
        assert_eq!((wan.most_frames(), wan.most_pixels()), (4093, [32_768; 2]));
        let dit = DitConfig { patch: [1, 1, 3], ..DitConfig::micro() };
        let levels = VaeConfig {
            dim_mult: vec![1, 2, 2],
            temporal_downsample: vec![true, false],
            ..VaeConfig::micro()
        };
        let small = Geometry::of(&dit, &levels);
        assert_eq!((small.space, small.time, small.sides()), (8, 2, [8, 24]));
        for frames in 1..20 {
            let cut = small.cut(frames);
            assert!(small.takes(cut) && cut <= frames && !small.takes(cut + 1));
            assert_eq!(small.frames(small.latent_frames(cut)), cut);
        }
        let still = Geometry { time: 1, ..small };
        assert!((1..9).all(|frames| still.takes(frames)) && !still.takes(0));
    }
}
