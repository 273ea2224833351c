//! Tensor names of the three networks: what each has, and the namings they are stored under.
//!
//! Canonical names are those of the original Wan files. A diffusers folder uses other names for the
//! same values, without transposing or reordering, and so do GGUF files of the text encoder. The rules are tables, read in both directions
//! (`dit.md` §2, `vae.md` §7, `text.md` §4; `formats.md` §0 and §3 for the prefixes).
//! Shapes come from the configuration alone. Nothing here reads a file.

use super::config::{DitConfig, TextConfig, VaeConfig};

/// One of the three networks of the model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Component {
    /// The diffusion transformer.
    Dit,
    /// The video autoencoder. Its names depend on its structure.
    Vae {
        /// Residual blocks per encoder level (see [`VaeConfig::num_res_blocks`]).
        num_res_blocks: usize,
        /// Whether there are shortcuts around whole levels (see [`VaeConfig::residual`]).
        residual: bool,
    },
    /// The umT5 text encoder.
    Text,
}

impl Component {
    /// The autoencoder as Wan2.2 has it, with two residual blocks per encoder level.
    pub const VAE: Self = Self::Vae { num_res_blocks: 2, residual: true };

    /// The prefixes a file may put before every name of this network, longest first, the empty one
    /// last.
    pub fn prefixes(self) -> &'static [&'static str] {
        match self {
            Self::Dit => &[
                "model.diffusion_model.",
                "diffusion_model.",
                "transformer.",
                "pipe.dit.",
                "module.",
                "model.",
                "net.",
                "",
            ],
            Self::Vae { .. } => &["first_stage_model.", "module.", "model.", "vae.", ""],
            Self::Text => {
                &["text_encoders.umt5xxl.transformer.", "text_encoder.", "module.", "model.", ""]
            }
        }
    }

    /// How the names of this network begin in files that hold all of a model.
    pub fn beginnings(self) -> &'static [&'static str] {
        match self {
            Self::Dit => {
                &["model.diffusion_model.", "diffusion_model.", "transformer.", "pipe.dit."]
            }
            Self::Vae { .. } => &["first_stage_model.", "vae."],
            Self::Text => &["text_encoders.", "text_encoder.", "cond_stage_model."],
        }
    }

    /// One tensor that only this network has, in the given naming; none where that has no names for
    /// it.
    fn signature(self, naming: Naming) -> Option<&'static str> {
        Some(match (self, naming) {
            (Self::Dit, Naming::Original) => "blocks.0.self_attn.q.weight",
            (Self::Dit, Naming::Diffusers) => "blocks.0.attn1.to_q.weight",
            (Self::Vae { .. }, Naming::Original) => "decoder.middle.1.to_qkv.weight",
            (Self::Vae { .. }, Naming::Diffusers) => "decoder.mid_block.attentions.0.to_qkv.weight",
            (Self::Text, Naming::Original) => "blocks.0.pos_embedding.embedding.weight",
            (Self::Text, Naming::Diffusers) => {
                "encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight"
            }
            (Self::Text, Naming::LlamaCpp) => "enc.blk.0.attn_rel_b.weight",
            (Self::Dit | Self::Vae { .. }, Naming::LlamaCpp) => return None,
        })
    }

    /// Pairs of the original names and those of another naming; none where that has no names for
    /// this network.
    fn tables(self, other: Naming) -> &'static [Table] {
        match (self, other) {
            (Self::Text, Naming::LlamaCpp) => LLAMA_TEXT,
            (Self::Dit | Self::Vae { .. }, Naming::LlamaCpp) => &[],
            (Self::Dit, _) => DIT,
            (Self::Vae { residual: true, .. }, _) => VAE,
            (Self::Vae { residual: false, .. }, _) => PLAIN_VAE,
            (Self::Text, _) => TEXT,
        }
    }

    fn num_res_blocks(self) -> usize {
        match self {
            Self::Vae { num_res_blocks, .. } => num_res_blocks,
            Self::Dit | Self::Text => 0,
        }
    }
}

/// Under which names a file stores a network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Naming {
    /// The names of the original Wan files; these are the canonical ones.
    Original,
    /// The names of a diffusers folder; for the text encoder those of transformers.
    Diffusers,
    /// The names of llama.cpp, which only the text encoder has.
    LlamaCpp,
}

/// What follows the name of a layer in the names of its tensors.
#[derive(Clone, Copy, Debug)]
enum Leaves {
    /// The name is the tensor itself.
    Bare,
    /// `.weight`
    Weight,
    /// `.weight` and `.bias`
    WeightBias,
    /// `.gamma`
    Gamma,
}

impl Leaves {
    fn names(self) -> &'static [&'static str] {
        match self {
            Self::Bare => &[""],
            Self::Weight => &["weight"],
            Self::WeightBias => &["weight", "bias"],
            Self::Gamma => &["gamma"],
        }
    }
}

/// Every outer pair joined with every inner pair; in each pair the original name comes first.
///
/// `{}` stands for a block number, `{r}` for the number of residual blocks per encoder level and
/// `{s}` for that of a decoder level, which is one more. `{f}` is a level and a block in it as one
/// number, with r + 1 positions a level, of which `{fr}` is the last.
struct Table {
    outer: &'static [(&'static str, &'static str)],
    inner: &'static [Inner],
}

/// The name of a layer in both namings, and what follows it.
type Inner = (&'static str, &'static str, Leaves);

use Leaves::{Bare, Gamma, Weight, WeightBias};

const DIT: &[Table] = &[
    Table {
        outer: &[("", "")],
        inner: &[
            ("patch_embedding", "patch_embedding", WeightBias),
            ("text_embedding.0", "condition_embedder.text_embedder.linear_1", WeightBias),
            ("text_embedding.2", "condition_embedder.text_embedder.linear_2", WeightBias),
            ("time_embedding.0", "condition_embedder.time_embedder.linear_1", WeightBias),
            ("time_embedding.2", "condition_embedder.time_embedder.linear_2", WeightBias),
            ("time_projection.1", "condition_embedder.time_proj", WeightBias),
            ("head.head", "proj_out", WeightBias),
            ("head.modulation", "scale_shift_table", Bare),
        ],
    },
    Table {
        outer: &[("blocks.{}", "blocks.{}")],
        inner: &[
            ("modulation", "scale_shift_table", Bare),
            ("self_attn.q", "attn1.to_q", WeightBias),
            ("self_attn.k", "attn1.to_k", WeightBias),
            ("self_attn.v", "attn1.to_v", WeightBias),
            ("self_attn.o", "attn1.to_out.0", WeightBias),
            ("self_attn.norm_q", "attn1.norm_q", Weight),
            ("self_attn.norm_k", "attn1.norm_k", Weight),
            ("cross_attn.q", "attn2.to_q", WeightBias),
            ("cross_attn.k", "attn2.to_k", WeightBias),
            ("cross_attn.v", "attn2.to_v", WeightBias),
            ("cross_attn.o", "attn2.to_out.0", WeightBias),
            ("cross_attn.norm_q", "attn2.norm_q", Weight),
            ("cross_attn.norm_k", "attn2.norm_k", Weight),
            // The norm before cross-attention is number 3 in one naming and 2 in the other.
            ("norm3", "norm2", WeightBias),
            ("ffn.0", "ffn.net.0.proj", WeightBias),
            ("ffn.2", "ffn.net.2", WeightBias),
        ],
    },
];

const VAE: &[Table] = &[
    VAE_ENDS,
    VAE_SIDES,
    Table {
        outer: &[
            ("encoder.downsamples.{}.downsamples.{r}", "encoder.down_blocks.{}.downsampler"),
            ("decoder.upsamples.{}.upsamples.{s}", "decoder.up_blocks.{}.upsampler"),
        ],
        inner: RESAMPLING,
    },
    Table {
        outer: &[
            ("encoder.middle.0", "encoder.mid_block.resnets.0"),
            ("encoder.middle.2", "encoder.mid_block.resnets.1"),
            ("decoder.middle.0", "decoder.mid_block.resnets.0"),
            ("decoder.middle.2", "decoder.mid_block.resnets.1"),
            ("encoder.downsamples.{}.downsamples.{}", "encoder.down_blocks.{}.resnets.{}"),
            ("decoder.upsamples.{}.upsamples.{}", "decoder.up_blocks.{}.resnets.{}"),
        ],
        inner: RESIDUAL,
    },
];

/// Without shortcuts around levels, diffusers numbers everything in the encoder's levels in one row.
const PLAIN_VAE: &[Table] = &[
    VAE_ENDS,
    VAE_SIDES,
    Table {
        outer: &[
            ("encoder.downsamples.{}.downsamples.{r}", "encoder.down_blocks.{fr}"),
            ("decoder.upsamples.{}.upsamples.{s}", "decoder.up_blocks.{}.upsamplers.0"),
        ],
        inner: RESAMPLING,
    },
    Table {
        outer: &[
            ("encoder.middle.0", "encoder.mid_block.resnets.0"),
            ("encoder.middle.2", "encoder.mid_block.resnets.1"),
            ("decoder.middle.0", "decoder.mid_block.resnets.0"),
            ("decoder.middle.2", "decoder.mid_block.resnets.1"),
            ("encoder.downsamples.{}.downsamples.{}", "encoder.down_blocks.{f}"),
            ("decoder.upsamples.{}.upsamples.{}", "decoder.up_blocks.{}.resnets.{}"),
        ],
        inner: RESIDUAL,
    },
];

const VAE_ENDS: Table = Table {
    outer: &[("", "")],
    inner: &[("conv1", "quant_conv", WeightBias), ("conv2", "post_quant_conv", WeightBias)],
};

const VAE_SIDES: Table = Table {
    outer: &[("encoder", "encoder"), ("decoder", "decoder")],
    inner: &[
        ("conv1", "conv_in", WeightBias),
        ("middle.1.norm", "mid_block.attentions.0.norm", Gamma),
        ("middle.1.to_qkv", "mid_block.attentions.0.to_qkv", WeightBias),
        ("middle.1.proj", "mid_block.attentions.0.proj", WeightBias),
        ("head.0", "norm_out", Gamma),
        ("head.2", "conv_out", WeightBias),
    ],
};

const RESAMPLING: &[Inner] =
    &[("resample.1", "resample.1", WeightBias), ("time_conv", "time_conv", WeightBias)];

const RESIDUAL: &[Inner] = &[
    ("residual.0", "norm1", Gamma),
    ("residual.2", "conv1", WeightBias),
    ("residual.3", "norm2", Gamma),
    ("residual.6", "conv2", WeightBias),
    ("shortcut", "conv_shortcut", WeightBias),
];

const TEXT: &[Table] = &[
    Table {
        outer: &[("", "")],
        inner: &[
            ("token_embedding", "shared", Weight),
            // A second name of the same table; files have one of the two, or both.
            ("token_embedding", "encoder.embed_tokens", Weight),
            ("norm", "encoder.final_layer_norm", Weight),
        ],
    },
    Table {
        outer: &[("blocks.{}", "encoder.block.{}")],
        inner: &[
            ("norm1", "layer.0.layer_norm", Weight),
            ("attn.q", "layer.0.SelfAttention.q", Weight),
            ("attn.k", "layer.0.SelfAttention.k", Weight),
            ("attn.v", "layer.0.SelfAttention.v", Weight),
            ("attn.o", "layer.0.SelfAttention.o", Weight),
            ("pos_embedding.embedding", "layer.0.SelfAttention.relative_attention_bias", Weight),
            ("norm2", "layer.1.layer_norm", Weight),
            // The gate has the activation; fc1 is linear. Both have the same shape, so a file in
            // which they are swapped would load.
            ("ffn.gate.0", "layer.1.DenseReluDense.wi_0", Weight),
            ("ffn.fc1", "layer.1.DenseReluDense.wi_1", Weight),
            ("ffn.fc2", "layer.1.DenseReluDense.wo", Weight),
        ],
    },
];

/// The text encoder in llama.cpp.
const LLAMA_TEXT: &[Table] = &[
    Table {
        outer: &[("", "")],
        inner: &[("token_embedding", "token_embd", Weight), ("norm", "enc.output_norm", Weight)],
    },
    Table {
        outer: &[("blocks.{}", "enc.blk.{}")],
        inner: &[
            ("norm1", "attn_norm", Weight),
            ("attn.q", "attn_q", Weight),
            ("attn.k", "attn_k", Weight),
            ("attn.v", "attn_v", Weight),
            ("attn.o", "attn_o", Weight),
            ("pos_embedding.embedding", "attn_rel_b", Weight),
            ("norm2", "ffn_norm", Weight),
            ("ffn.gate.0", "ffn_gate", Weight),
            ("ffn.fc1", "ffn_up", Weight),
            ("ffn.fc2", "ffn_down", Weight),
        ],
    },
];

/// The diffusers name of a canonical one; a name that no rule knows comes back unchanged.
pub fn to_diffusers(component: Component, canonical: &str) -> String {
    spelled(component, canonical, Naming::Diffusers)
}

/// A canonical name in a naming; a name that no rule knows comes back unchanged.
pub fn spelled(component: Component, canonical: &str, naming: Naming) -> String {
    let found = match naming {
        Naming::Original => None,
        other => rename(component, canonical, Naming::Original, other),
    };
    found.unwrap_or_else(|| canonical.to_owned())
}

/// The canonical name of a name in any naming, without prefix; `None` when no rule knows it.
///
/// No name means different tensors in two namings. Both `shared.weight` and
/// `encoder.embed_tokens.weight` of a text encoder give `token_embedding.weight`.
pub fn to_canonical(component: Component, name: &str) -> Option<String> {
    [Naming::Diffusers, Naming::Original, Naming::LlamaCpp]
        .into_iter()
        .find_map(|naming| rename(component, name, naming, Naming::Original))
}

/// Finds a network among the tensor names of a file: its naming and the prefix of its names.
///
/// The file may contain other tensors as well. If several answers are possible, the longest prefix
/// is taken, then the original naming.
pub fn detect<'a>(
    component: Component,
    names: impl IntoIterator<Item = &'a str>,
) -> Option<(Naming, &'static str)> {
    let prefixes = component.prefixes();
    let mut best: Option<(usize, Naming)> = None;
    for name in names {
        for naming in [Naming::Original, Naming::Diffusers, Naming::LlamaCpp] {
            let signature = component.signature(naming);
            let Some(before) = signature.and_then(|end| name.strip_suffix(end)) else { continue };
            let Some(at) = prefixes.iter().position(|prefix| *prefix == before) else { continue };
            let better = match best {
                None => true,
                Some((other, _)) if at != other => at < other,
                Some((_, other)) => naming == Naming::Original && other != Naming::Original,
            };
            if better {
                best = Some((at, naming));
            }
        }
    }
    best.map(|(at, naming)| (naming, prefixes[at]))
}

/// Carries `name` from one naming to the other through the tables.
fn rename(component: Component, name: &str, from: Naming, to: Naming) -> Option<String> {
    let side = |naming: Naming, pair: (&'static str, &'static str)| match naming {
        Naming::Original => pair.0,
        Naming::Diffusers | Naming::LlamaCpp => pair.1,
    };
    let other = if from == Naming::Original { to } else { from };
    for table in component.tables(other) {
        for outer in table.outer {
            for (original, diffusers, leaves) in table.inner {
                let inner = (*original, *diffusers);
                for leaf in leaves.names() {
                    let pattern = segments(side(from, *outer), side(from, inner), leaf);
                    if let Some(numbers) = matched(component, pattern, name) {
                        let pattern = segments(side(to, *outer), side(to, inner), leaf);
                        return Some(filled(component, pattern, numbers));
                    }
                }
            }
        }
    }
    None
}

/// The dot-separated parts of a joined pattern.
fn segments<'a>(outer: &'a str, inner: &'a str, leaf: &'a str) -> impl Iterator<Item = &'a str> {
    let parts = outer.split('.').chain(inner.split('.')).chain(std::iter::once(leaf));
    parts.filter(|part| !part.is_empty())
}

/// The block numbers of `name` if it fits the pattern; no pattern has more than two.
fn matched<'a>(
    component: Component,
    pattern: impl Iterator<Item = &'a str>,
    name: &str,
) -> Option<[usize; 2]> {
    let mut numbers = [0; 2];
    let mut count = 0;
    let mut parts = name.split('.');
    for wanted in pattern {
        let part = parts.next()?;
        match wanted {
            "{}" => {
                numbers[count] = block_number(part)?;
                count += 1;
            }
            "{f}" | "{fr}" => {
                let last = component.num_res_blocks();
                let number = block_number(part)?;
                numbers = [number / (last + 1), number % (last + 1)];
                if (numbers[1] == last) != (wanted == "{fr}") {
                    return None;
                }
            }
            "{r}" if block_number(part)? == component.num_res_blocks() => {}
            "{s}" if block_number(part)? == component.num_res_blocks() + 1 => {}
            _ if wanted == part => {}
            _ => return None,
        }
    }
    parts.next().is_none().then_some(numbers)
}

/// A number written the way the files write it: decimal, without leading zeros.
fn block_number(text: &str) -> Option<usize> {
    let plain = !text.is_empty()
        && text.len() <= 6
        && text.bytes().all(|byte| byte.is_ascii_digit())
        && (text == "0" || !text.starts_with('0'));
    if plain { text.parse().ok() } else { None }
}

fn filled<'a>(
    component: Component,
    pattern: impl Iterator<Item = &'a str>,
    numbers: [usize; 2],
) -> String {
    let mut name = String::new();
    let last = component.num_res_blocks();
    let flat = |position: usize| (numbers[0] * (last + 1) + position).to_string();
    let mut rest = numbers.into_iter();
    for part in pattern {
        if !name.is_empty() {
            name.push('.');
        }
        match part {
            "{}" => name.push_str(&rest.next().unwrap_or_default().to_string()),
            "{r}" => name.push_str(&last.to_string()),
            "{s}" => name.push_str(&(last + 1).to_string()),
            "{f}" => name.push_str(&flat(numbers[1])),
            "{fr}" => name.push_str(&flat(last)),
            _ => name.push_str(part),
        }
    }
    name
}

/// A network's tensors: canonical name and shape.
pub type Manifest = Vec<(String, Vec<u64>)>;

/// Collects a manifest; widths are turned into shapes here.
#[derive(Default)]
struct Listing(Manifest);

impl Listing {
    fn add(&mut self, name: impl Into<String>, shape: &[usize]) {
        self.0.push((name.into(), shape.iter().map(|size| *size as u64).collect()));
    }

    /// A weight and its bias, whose length is the first size.
    fn with_bias(&mut self, module: &str, shape: &[usize]) {
        self.add(format!("{module}.weight"), shape);
        self.add(format!("{module}.bias"), &shape[..1]);
    }

    /// A residual block of the autoencoder; a change of width adds a shortcut.
    fn residual(&mut self, module: &str, from: usize, to: usize) {
        self.add(format!("{module}.residual.0.gamma"), &[from, 1, 1, 1]);
        self.with_bias(&format!("{module}.residual.2"), &[to, from, 3, 3, 3]);
        self.add(format!("{module}.residual.3.gamma"), &[to, 1, 1, 1]);
        self.with_bias(&format!("{module}.residual.6"), &[to, to, 3, 3, 3]);
        if from != to {
            self.with_bias(&format!("{module}.shortcut"), &[to, from, 1, 1, 1]);
        }
    }

    /// The middle of encoder or decoder: residual block, attention, residual block.
    fn middle(&mut self, module: &str, width: usize) {
        self.residual(&format!("{module}.0"), width, width);
        self.add(format!("{module}.1.norm.gamma"), &[width, 1, 1]);
        self.with_bias(&format!("{module}.1.to_qkv"), &[3 * width, width, 1, 1]);
        self.with_bias(&format!("{module}.1.proj"), &[width, width, 1, 1]);
        self.residual(&format!("{module}.2"), width, width);
    }
}

/// Every tensor of the transformer, in the order of the computation.
pub fn dit_tensors(config: &DitConfig) -> Manifest {
    let width = config.width();
    let [t, h, w] = config.patch.map(|size| size as usize);
    let mut list = Listing::default();
    list.with_bias("patch_embedding", &[width, config.in_channels, t, h, w]);
    list.with_bias("text_embedding.0", &[width, config.text_dim]);
    list.with_bias("text_embedding.2", &[width, width]);
    list.with_bias("time_embedding.0", &[width, config.freq_dim]);
    list.with_bias("time_embedding.2", &[width, width]);
    list.with_bias("time_projection.1", &[6 * width, width]);
    for i in 0..config.layers {
        let block = format!("blocks.{i}");
        list.add(format!("{block}.modulation"), &[1, 6, width]);
        for attention in ["self_attn", "cross_attn"] {
            if attention == "cross_attn" && config.cross_attn_norm {
                list.with_bias(&format!("{block}.norm3"), &[width]);
            }
            for part in ["q", "k", "v", "o"] {
                list.with_bias(&format!("{block}.{attention}.{part}"), &[width, width]);
            }
            if config.qk_norm {
                for part in ["norm_q", "norm_k"] {
                    list.add(format!("{block}.{attention}.{part}.weight"), &[width]);
                }
            }
        }
        list.with_bias(&format!("{block}.ffn.0"), &[config.ffn_dim, width]);
        list.with_bias(&format!("{block}.ffn.2"), &[width, config.ffn_dim]);
    }
    list.add("head.modulation", &[1, 2, width]);
    list.with_bias("head.head", &[t * h * w * config.out_channels, width]);
    list.0
}

/// Every tensor of the autoencoder: encoder, the two model-level convolutions, decoder.
pub fn vae_tensors(config: &VaeConfig) -> Manifest {
    let mut list = Listing::default();
    let z = config.z_dim;
    let last = config.dim_mult.len().saturating_sub(1);

    list.with_bias("encoder.conv1", &[config.base_dim, config.in_channels, 3, 3, 3]);
    for (level, (from, to)) in config.encoder_levels().into_iter().enumerate() {
        let module = format!("encoder.downsamples.{level}.downsamples");
        for block in 0..config.num_res_blocks {
            let from = if block == 0 { from } else { to };
            list.residual(&format!("{module}.{block}"), from, to);
        }
        if level < last {
            let resample = format!("{module}.{}", config.num_res_blocks);
            list.with_bias(&format!("{resample}.resample.1"), &[to, to, 3, 3]);
            if config.temporal_downsample[level] {
                list.with_bias(&format!("{resample}.time_conv"), &[to, to, 3, 1, 1]);
            }
        }
    }
    let width = config.encoder_width();
    list.middle("encoder.middle", width);
    list.add("encoder.head.0.gamma", &[width, 1, 1, 1]);
    list.with_bias("encoder.head.2", &[2 * z, width, 3, 3, 3]);

    list.with_bias("conv1", &[2 * z, 2 * z, 1, 1, 1]);
    list.with_bias("conv2", &[z, z, 1, 1, 1]);

    let width = config.decoder_width();
    list.with_bias("decoder.conv1", &[width, z, 3, 3, 3]);
    list.middle("decoder.middle", width);
    for (level, (from, to)) in config.decoder_levels().into_iter().enumerate() {
        let module = format!("decoder.upsamples.{level}.upsamples");
        for block in 0..=config.num_res_blocks {
            let from = if block == 0 { from } else { to };
            list.residual(&format!("{module}.{block}"), from, to);
        }
        if level < last {
            let resample = format!("{module}.{}", config.num_res_blocks + 1);
            let made = if config.residual { to } else { to / 2 };
            list.with_bias(&format!("{resample}.resample.1"), &[made, to, 3, 3]);
            if config.temporal_upsample()[level] {
                list.with_bias(&format!("{resample}.time_conv"), &[2 * to, to, 3, 1, 1]);
            }
        }
    }
    let width = config.decoder_base_dim * config.dim_mult.first().copied().unwrap_or(1);
    list.add("decoder.head.0.gamma", &[width, 1, 1, 1]);
    list.with_bias("decoder.head.2", &[config.out_channels, width, 3, 3, 3]);
    list.0
}

/// Every tensor of the text encoder, in the order of the computation.
pub fn text_tensors(config: &TextConfig) -> Manifest {
    let (width, inner) = (config.d_model, config.heads * config.d_kv);
    let mut list = Listing::default();
    list.add("token_embedding.weight", &[config.vocab_size, width]);
    for i in 0..config.layers {
        let block = format!("blocks.{i}");
        list.add(format!("{block}.norm1.weight"), &[width]);
        for part in ["q", "k", "v"] {
            list.add(format!("{block}.attn.{part}.weight"), &[inner, width]);
        }
        list.add(format!("{block}.attn.o.weight"), &[width, inner]);
        let bias = format!("{block}.pos_embedding.embedding.weight");
        list.add(bias, &[config.buckets, config.heads]);
        list.add(format!("{block}.norm2.weight"), &[width]);
        list.add(format!("{block}.ffn.gate.0.weight"), &[config.d_ff, width]);
        list.add(format!("{block}.ffn.fc1.weight"), &[config.d_ff, width]);
        list.add(format!("{block}.ffn.fc2.weight"), &[width, config.d_ff]);
    }
    list.add("norm.weight", &[width]);
    list.0
}

/// The number of values in all tensors of a manifest.
pub fn parameter_count(manifest: &[(String, Vec<u64>)]) -> u64 {
    manifest.iter().map(|(_, shape)| shape.iter().product::<u64>()).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;
    use std::collections::{BTreeMap, BTreeSet};

    fn fixture(name: &str) -> Vec<u8> {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/fixtures/");
        std::fs::read(format!("{folder}{name}")).expect(name)
    }

    fn json(name: &str) -> Value {
        serde_json::from_slice(&fixture(name)).expect(name)
    }

    /// Names and shapes in the header of a safetensors file.
    fn header(name: &str) -> BTreeMap<String, Vec<u64>> {
        let bytes = fixture(name);
        let length = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
        let value: Value = serde_json::from_slice(&bytes[8..8 + length]).unwrap();
        let object = value.as_object().unwrap();
        object
            .iter()
            .filter(|(key, _)| *key != "__metadata__")
            .map(|(key, entry)| {
                let shape = entry["shape"].as_array().unwrap();
                (key.clone(), shape.iter().map(|size| size.as_u64().unwrap()).collect())
            })
            .collect()
    }

    fn distinct(manifest: &Manifest) -> BTreeSet<&str> {
        manifest.iter().map(|(name, _)| name.as_str()).collect()
    }

    /// Every tensor survives both directions, and no two share a name.
    fn round_trips(component: Component, manifest: &Manifest) {
        assert_eq!(distinct(manifest).len(), manifest.len());
        let mut diffusers = BTreeSet::new();
        for (name, _) in manifest {
            let other = to_diffusers(component, name);
            assert_eq!(to_canonical(component, &other).as_deref(), Some(name.as_str()));
            assert_eq!(to_canonical(component, name).as_deref(), Some(name.as_str()));
            assert!(diffusers.insert(other), "{name}");
        }
    }

    #[test]
    fn the_real_model_has_the_published_counts() {
        let dit = dit_tensors(&DitConfig::ti2v_5b());
        assert_eq!((dit.len(), parameter_count(&dit)), (825, 4_999_787_712));
        let vae = vae_tensors(&VaeConfig::ti2v_5b());
        assert_eq!((vae.len(), parameter_count(&vae)), (196, 704_688_668));
        let part = |prefix: &str| {
            let of = |name: &str| name.starts_with(prefix);
            vae.iter().filter(|(n, _)| of(n)).map(|(_, s)| s.iter().product::<u64>()).sum::<u64>()
        };
        assert_eq!((part("encoder."), part("decoder.")), (149_627_776, 555_049_228));
        assert_eq!(part("conv"), 11_664);
        let text = text_tensors(&TextConfig::ti2v_5b());
        assert_eq!((text.len(), parameter_count(&text)), (242, 5_680_910_336));
        round_trips(Component::Dit, &dit);
        round_trips(Component::VAE, &vae);
        round_trips(Component::Text, &text);
    }

    #[test]
    fn other_numbers_of_residual_blocks_round_trip() {
        for (num_res_blocks, residual) in [(1, true), (3, true), (5, true), (1, false), (2, false)]
        {
            let config = VaeConfig { num_res_blocks, residual, ..VaeConfig::micro() };
            round_trips(config.component(), &vae_tensors(&config));
        }
        let one = Component::Vae { num_res_blocks: 1, residual: true };
        assert_eq!(
            to_diffusers(one, "decoder.upsamples.0.upsamples.2.time_conv.weight"),
            "decoder.up_blocks.0.upsampler.time_conv.weight"
        );
        assert_eq!(
            to_canonical(Component::VAE, "decoder.upsamples.0.upsamples.2.time_conv.bias"),
            None
        );
        let plain = Component::Vae { num_res_blocks: 2, residual: false };
        for (canonical, diffusers) in [
            (
                "encoder.downsamples.1.downsamples.0.shortcut.bias",
                "encoder.down_blocks.3.conv_shortcut.bias",
            ),
            (
                "encoder.downsamples.1.downsamples.2.time_conv.bias",
                "encoder.down_blocks.5.time_conv.bias",
            ),
            (
                "decoder.upsamples.0.upsamples.3.time_conv.bias",
                "decoder.up_blocks.0.upsamplers.0.time_conv.bias",
            ),
        ] {
            assert_eq!(to_diffusers(plain, canonical), diffusers);
        }
        assert_eq!(to_canonical(plain, "encoder.down_blocks.4.time_conv.bias"), None);
        assert_eq!(to_canonical(plain, "encoder.down_blocks.5.conv1.bias"), None);
    }

    /// The file holds exactly the manifest under diffusers names, nothing less, nothing more.
    fn matches_file(component: Component, manifest: &Manifest, file: &str) {
        let header = header(file);
        let expected: BTreeMap<String, Vec<u64>> = manifest
            .iter()
            .map(|(name, shape)| (to_diffusers(component, name), shape.clone()))
            .collect();
        assert_eq!(header, expected, "{file}");
        for name in header.keys() {
            let canonical = to_canonical(component, name).expect(name);
            assert!(distinct(manifest).contains(canonical.as_str()));
        }
        let found = detect(component, header.keys().map(String::as_str));
        assert_eq!(found, Some((Naming::Diffusers, "")));
    }

    #[test]
    fn manifests_equal_the_fixture_files() {
        for folder in
            ["dit/base", "dit/hd128", "dit/patch1", "dit/patch213", "pipeline/base/transformer"]
        {
            let config =
                DitConfig::from_diffusers(&json(&format!("{folder}/config.json"))).unwrap();
            let file = format!("{folder}/diffusion_pytorch_model.safetensors");
            matches_file(Component::Dit, &dit_tensors(&config), &file);
        }
        for folder in ["vae/base", "vae/levels3", "vae/plain", "vae/still", "pipeline/base/vae"] {
            let config =
                VaeConfig::from_diffusers(&json(&format!("{folder}/config.json"))).unwrap();
            let component = config.component();
            let file = format!("{folder}/diffusion_pytorch_model.safetensors");
            matches_file(component, &vae_tensors(&config), &file);
        }
        for folder in ["text/base", "text/plain", "pipeline/base/text_encoder"] {
            let config =
                TextConfig::from_diffusers(&json(&format!("{folder}/config.json"))).unwrap();
            let file = format!("{folder}/model.safetensors");
            matches_file(Component::Text, &text_tensors(&config), &file);
        }
    }

    #[test]
    fn the_traps_of_the_tables() {
        let dit = |name: &str| to_diffusers(Component::Dit, name);
        assert_eq!(dit("blocks.7.norm3.bias"), "blocks.7.norm2.bias");
        assert_eq!(dit("head.modulation"), "scale_shift_table");
        assert_eq!(dit("blocks.29.modulation"), "blocks.29.scale_shift_table");
        assert_eq!(dit("blocks.0.ffn.0.weight"), "blocks.0.ffn.net.0.proj.weight");
        let vae = |name: &str| to_diffusers(Component::VAE, name);
        assert_eq!(vae("conv1.weight"), "quant_conv.weight");
        assert_eq!(vae("encoder.conv1.weight"), "encoder.conv_in.weight");
        assert_eq!(
            vae("encoder.downsamples.1.downsamples.2.time_conv.bias"),
            "encoder.down_blocks.1.downsampler.time_conv.bias"
        );
        assert_eq!(
            vae("decoder.upsamples.2.upsamples.0.shortcut.weight"),
            "decoder.up_blocks.2.resnets.0.conv_shortcut.weight"
        );
        assert_eq!(
            vae("decoder.middle.2.residual.3.gamma"),
            "decoder.mid_block.resnets.1.norm2.gamma"
        );
        let text = |name: &str| to_canonical(Component::Text, name);
        for name in ["shared.weight", "encoder.embed_tokens.weight"] {
            assert_eq!(text(name).as_deref(), Some("token_embedding.weight"));
        }
        assert_eq!(
            text("encoder.block.3.layer.1.DenseReluDense.wi_0.weight").as_deref(),
            Some("blocks.3.ffn.gate.0.weight")
        );
    }

    #[test]
    fn llama_cpp_has_names_for_the_text_encoder_alone() {
        let names = text_tensors(&TextConfig::micro());
        let spelled: Vec<String> = names
            .iter()
            .map(|(name, _)| spelled(Component::Text, name, Naming::LlamaCpp))
            .collect();
        for ((name, _), other) in names.iter().zip(&spelled) {
            assert_ne!(name, other);
            assert_eq!(to_canonical(Component::Text, other).as_deref(), Some(name.as_str()));
            assert_eq!(to_canonical(Component::Dit, other), None, "{other}");
        }
        assert!(spelled.contains(&"enc.blk.1.ffn_gate.weight".to_owned()));
        let found = |component| detect(component, spelled.iter().map(String::as_str));
        assert_eq!(found(Component::Text), Some((Naming::LlamaCpp, "")));
        assert_eq!(found(Component::Dit), None);
        let dit = "blocks.0.self_attn.q.weight";
        assert_eq!(super::spelled(Component::Dit, dit, Naming::LlamaCpp), dit);
    }

    #[test]
    fn unknown_names_have_no_canonical_name() {
        let unknown = [
            "blocks.0.norm1.weight",
            "blocks.0.norm2.gamma",
            "blocks.00.norm3.weight",
            "blocks.-1.norm3.weight",
            "blocks..norm3.weight",
            "blocks.9999999.norm3.weight",
            "blocks.0.norm3.weight.extra",
            "blocks.0.norm3",
            "blocks.0.self_attn.norm_q.bias",
            "blocks.0.cross_attn.k_img.weight",
            "model.head.modulation",
            "modulation",
            "",
            "....",
        ];
        for name in unknown {
            assert_eq!(to_canonical(Component::Dit, name), None, "{name}");
            assert_eq!(to_diffusers(Component::Dit, name), name);
        }
    }

    #[test]
    fn namings_and_prefixes_are_detected() {
        let sets = [
            (Component::Dit, dit_tensors(&DitConfig::micro())),
            (Component::VAE, vae_tensors(&VaeConfig { num_res_blocks: 2, ..VaeConfig::micro() })),
            (Component::Text, text_tensors(&TextConfig::micro())),
        ];
        for (component, manifest) in &sets {
            for prefix in component.prefixes() {
                for naming in [Naming::Original, Naming::Diffusers] {
                    let names: Vec<String> = manifest
                        .iter()
                        .map(|(name, _)| match naming {
                            Naming::Original => format!("{prefix}{name}"),
                            _ => format!("{prefix}{}", to_diffusers(*component, name)),
                        })
                        .collect();
                    let names = || names.iter().map(String::as_str);
                    assert_eq!(detect(*component, names()), Some((naming, *prefix)));
                    for (other, _) in sets.iter().filter(|(other, _)| other != component) {
                        assert_eq!(detect(*other, names()), None, "{other:?} in {component:?}");
                    }
                }
            }
            let lengths: Vec<usize> = component.prefixes().iter().map(|p| p.len()).collect();
            assert!(lengths.is_sorted_by(|a, b| a >= b) && lengths.last() == Some(&0));
        }
        // Everything in one file, each part with its own prefix.
        let all = [
            "model.diffusion_model.blocks.0.self_attn.q.weight",
            "first_stage_model.decoder.middle.1.to_qkv.weight",
            "text_encoders.umt5xxl.transformer.encoder.block.0.layer.0.SelfAttention.\
             relative_attention_bias.weight",
        ];
        let found = |component| detect(component, all.iter().copied());
        assert_eq!(found(Component::Dit), Some((Naming::Original, "model.diffusion_model.")));
        assert_eq!(found(Component::VAE), Some((Naming::Original, "first_stage_model.")));
        assert_eq!(
            found(Component::Text),
            Some((Naming::Diffusers, "text_encoders.umt5xxl.transformer."))
        );
        assert_eq!(detect(Component::Dit, ["foreign.blocks.0.self_attn.q.weight"]), None);
        assert_eq!(detect(Component::Dit, []), None);
    }
}
