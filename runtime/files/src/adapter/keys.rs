//! What the end of a tensor's name says it is in an adapter.
//!
//! The table is that of `formats.md` §5, over all dialects. A name is taken apart from its end,
//! because what stands before it is the business of [`Modules`](super::Modules).

/// What a tensor is for its module.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Part {
    /// From the columns to the rank, often called A.
    Down,
    /// From the rank to the rows, often called B.
    Up,
    /// Bias of [`Part::Up`].
    UpBias,
    /// The number that, over the rank, is the scale.
    Alpha,
    /// Lengths of rows or columns of the changed weight (DoRA).
    Magnitude,
    /// Difference of the weight.
    Diff,
    /// Difference of the bias.
    DiffBias,
    /// Difference of the modulation.
    DiffModulation,
    /// The four factors of LoHa, in the order w1_a, w1_b, w2_a, w2_b.
    Hada(u8),
    /// Factors of LoKr: w1, w1_a, w1_b, w2, w2_a, w2_b.
    Lokr(u8),
    /// Something that is known and not supported.
    Refused(&'static str),
}

const TUCKER: &str = "a Tucker decomposition of a convolution";

/// Ends of names, what they mean, and the way of spelling that they belong to: tensors of one
/// module that are spelled in two ways are of two dialects.
const SUFFIXES: [(&str, Part, &str); 36] = [
    (".lora_A.weight", Part::Down, "lora_A"),
    (".lora_B.weight", Part::Up, "lora_A"),
    (".lora_B.bias", Part::UpBias, ""),
    (".lora_A.default.weight", Part::Down, "default"),
    (".lora_B.default.weight", Part::Up, "default"),
    (".lora_B.default.bias", Part::UpBias, ""),
    (".lora_down.weight", Part::Down, "lora_down"),
    (".lora_up.weight", Part::Up, "lora_down"),
    (".lora.down.weight", Part::Down, "lora.down"),
    (".lora.up.weight", Part::Up, "lora.down"),
    ("_lora.down.weight", Part::Down, "_lora.down"),
    ("_lora.up.weight", Part::Up, "_lora.down"),
    (".lora_A", Part::Down, "lora_A without weight"),
    (".lora_B", Part::Up, "lora_A without weight"),
    (".lora_mid.weight", Part::Refused(TUCKER), ""),
    (".alpha", Part::Alpha, ""),
    (".lora_magnitude_vector", Part::Magnitude, ""),
    (".lora_magnitude_vector.weight", Part::Magnitude, ""),
    (".lora_magnitude_vector.default.weight", Part::Magnitude, ""),
    (".dora_scale", Part::Magnitude, ""),
    (".diff", Part::Diff, ""),
    (".diff_b", Part::DiffBias, ""),
    (".diff_m", Part::DiffModulation, ""),
    (".set_weight", Part::Refused("a weight to be replaced"), ""),
    (".hada_w1_a", Part::Hada(0), "hada"),
    (".hada_w1_b", Part::Hada(1), "hada"),
    (".hada_w2_a", Part::Hada(2), "hada"),
    (".hada_w2_b", Part::Hada(3), "hada"),
    (".hada_t1", Part::Refused(TUCKER), ""),
    (".hada_t2", Part::Refused(TUCKER), ""),
    (".lokr_w1", Part::Lokr(0), "lokr"),
    (".lokr_w1_a", Part::Lokr(1), "lokr"),
    (".lokr_w1_b", Part::Lokr(2), "lokr"),
    (".lokr_w2", Part::Lokr(3), "lokr"),
    (".lokr_w2_a", Part::Lokr(4), "lokr"),
    (".lokr_w2_b", Part::Lokr(5), "lokr"),
];

/// The module's name with its prefix, what the tensor is for it, and the way of spelling; none for
/// a name that no adapter has.
pub(super) fn take_apart(name: &str) -> Option<(&str, Part, &'static str)> {
    if let Some(module) = name.strip_suffix(".lokr_t2") {
        return Some((module, Part::Refused(TUCKER), ""));
    }
    SUFFIXES.iter().find_map(|(suffix, part, way)| Some((name.strip_suffix(suffix)?, *part, *way)))
}

/// Whether these are names of tensors of an adapter.
pub fn is_adapter<'n>(names: impl IntoIterator<Item = &'n str>) -> bool {
    let mut names = names.into_iter();
    // An alpha or a difference alone is too little to be sure.
    names.any(|name| {
        let part = take_apart(name).map(|(_, part, _)| part);
        part.is_some_and(|part| !matches!(part, Part::Alpha | Part::Diff))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_taken_apart_from_their_end() {
        for (name, module, part) in [
            ("a.b.lora_A.weight", "a.b", Part::Down),
            ("a.b.lora_B.default.weight", "a.b", Part::Up),
            ("a.b.lora.up.weight", "a.b", Part::Up),
            ("a.b_lora.up.weight", "a.b", Part::Up),
            ("a_b.lora_down.weight", "a_b", Part::Down),
            ("a.b.lora_B", "a.b", Part::Up),
            ("a.b.lora_B.bias", "a.b", Part::UpBias),
            ("blocks.0.diff_m", "blocks.0", Part::DiffModulation),
            ("a.lora_magnitude_vector.weight", "a", Part::Magnitude),
            ("a.lokr_w2_b", "a", Part::Lokr(5)),
            ("a.lokr_t2", "a", Part::Refused(TUCKER)),
        ] {
            let found = take_apart(name).map(|(module, part, _)| (module, part));
            assert_eq!(found, Some((module, part)), "{name}");
        }
        for name in ["a.weight", "a.lora_C.weight", "lora_A", "", "a.bias", "a.hada_w3_a"] {
            assert_eq!(take_apart(name), None, "{name}");
        }
        assert!(is_adapter(["a.weight", "a.diff_b"]));
        assert!(!is_adapter(["a.weight", "a.alpha", "b.diff"]));
    }
}
