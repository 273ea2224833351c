"""Cases of UMT5EncoderModel and of prompt cleaning and tokenising.

The tokenizers are those of the cases in `tests/fixtures/text`; only the network is new. The ids
come from `tokenizer.json` by the tokenizers library, as the notes of the fixtures say.
"""

import html
import shutil
from pathlib import Path

import ftfy  # noqa: F401  # diffusers leaves this cleaning step out where ftfy is missing
import torch
from diffusers.pipelines.wan.pipeline_wan import basic_clean, prompt_clean, whitespace_clean
from tokenizers import Tokenizer
from transformers import UMT5Config, UMT5EncoderModel

from common import Random, fan_in, fill, hooks, load, read_json, save, strictly, write_json

KIND = "text"
PAD, END, UNKNOWN = 0, 1, 2
TOKENIZERS = Path(__file__).resolve().parent.parent / "fixtures" / "text"

CASES = {
    "heads2": dict(
        tokenizer="plain", layers=2, heads=2, d_kv=24, d_model=48, d_ff=112, num_buckets=16,
        max_distance=64, max_len=16, long_len=150,
    ),
    # Heads times d_kv is 24: narrower than the residual stream.
    "narrow": dict(
        tokenizer="plain", layers=2, heads=3, d_kv=8, d_model=40, d_ff=72, num_buckets=16,
        max_distance=64, max_len=16, long_len=0,
    ),
}  # fmt: skip


def build(random, vocab, *, layers, heads, d_kv, d_model, d_ff, num_buckets, max_distance):
    """A text encoder with random weights in which no path is at zero."""
    model = UMT5EncoderModel(
        UMT5Config(
            vocab_size=vocab,
            d_model=d_model,
            d_kv=d_kv,
            d_ff=d_ff,
            num_layers=layers,
            num_heads=heads,
            relative_attention_num_buckets=num_buckets,
            relative_attention_max_distance=max_distance,
            feed_forward_proj="gated-gelu",
            layer_norm_epsilon=1e-6,
            pad_token_id=PAD,
            eos_token_id=END,
            decoder_start_token_id=PAD,
        )
    )

    def rule(name, tensor):
        if "layer_norm" in name:
            return 0.2, 1.0
        if name.startswith("shared"):
            return 1.0, 0.0
        if "relative_attention_bias" in name:
            return 0.6, 0.0
        # There is no scaling of q*k in this network: the query weights carry it.
        gain = 1.2 / d_kv**0.5 if name.endswith("SelfAttention.q.weight") else 1.0
        return gain / fan_in(tensor) ** 0.5, 0.0

    fill(model, random, rule)
    return model.eval()


def truncated(ids, length):
    """At most `length` ids, the last of them `</s>`."""
    return ids if len(ids) <= length else ids[: length - 1] + [END]


def padded(tokenizer, prompts, length):
    """input_ids and attention_mask of cleaned prompts, each [N,length] int64."""
    rows = [truncated(tokenizer.encode(prompt_clean(text)).ids, length) for text in prompts]
    ids = torch.tensor([row + [PAD] * (length - len(row)) for row in rows])
    mask = torch.tensor([[1] * len(row) + [0] * (length - len(row)) for row in rows])
    return ids, mask


def without_ftfy(text):
    """The cleaned text as it would be without the first cleaning step."""
    return whitespace_clean(html.unescape(html.unescape(text)).strip())


def tokenizer_cases(tokenizer, texts, length):
    """The contents of tokenizer_cases.json."""
    cases = []
    for text in texts:
        cleaned = prompt_clean(text)
        encoded = tokenizer.encode(cleaned)
        case = {
            "text": text,
            "after_basic_clean": basic_clean(text),
            "cleaned": cleaned,
            "ids": encoded.ids,
            "tokens": encoded.tokens,
            "ids_of_uncleaned_text": tokenizer.encode(text).ids,
        }
        plain = without_ftfy(text)
        if plain != cleaned:
            case["cleaned_without_ftfy"] = plain
            case["ids_without_ftfy"] = tokenizer.encode(plain).ids
        if len(encoded.ids) > length:
            case["truncated_ids"] = truncated(encoded.ids, length)
        cases.append(case)
    return {
        "max_len": length,
        "pad_id": PAD,
        "eos_id": END,
        "unk_id": UNKNOWN,
        "cases": cases,
    }


def make(folder, case, settings, seed):
    """Writes weights, tokenizer and inputs of a case."""
    random = Random(seed, KIND, case)
    source = TOKENIZERS / settings["tokenizer"]
    shutil.copyfile(source / "tokenizer.json", folder / "tokenizer.json")
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    vocab = tokenizer.get_vocab_size()
    sizes = ["layers", "heads", "d_kv", "d_model", "d_ff", "num_buckets", "max_distance"]
    build(random, vocab, **{name: settings[name] for name in sizes}).save_pretrained(folder)
    texts = [entry["text"] for entry in read_json(source / "tokenizer_cases.json")["cases"]]
    length = settings["max_len"]
    write_json(folder / "tokenizer_cases.json", tokenizer_cases(tokenizer, texts, length))
    prompts = read_json(source / "prompts.json")
    write_json(folder / "prompts.json", prompts)
    inputs = {}
    inputs["input_ids"], inputs["attention_mask"] = padded(tokenizer, prompts, length)
    if settings["long_len"]:
        count, pads = settings["long_len"], 7
        ids = random.integers("long.input_ids", (1, count), UNKNOWN, vocab)
        mask = torch.ones_like(ids)
        ids[:, count - pads :], mask[:, count - pads :] = PAD, 0
        inputs["long.input_ids"], inputs["long.attention_mask"] = ids, mask
    save(folder / "inputs.safetensors", inputs)


def read(folder, settings):
    """The model and the inputs of a case folder; the stored tokenizer cases are checked."""
    model = UMT5EncoderModel.from_pretrained(folder, output_loading_info=True)
    inputs = load(folder / "inputs.safetensors")
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    stored = read_json(folder / "tokenizer_cases.json")
    length = settings["max_len"]
    again = tokenizer_cases(tokenizer, [entry["text"] for entry in stored["cases"]], length)
    for entry in stored["cases"]:
        entry.pop("sentencepiece_ids_if_different", None)
    if stored != again:
        wrong = [a["text"] for a, b in zip(stored["cases"], again["cases"]) if a != b]
        raise ValueError(f"tokenizer_cases.json differs for {wrong}")
    ids, mask = padded(tokenizer, read_json(folder / "prompts.json"), length)
    if not (torch.equal(ids, inputs["input_ids"]) and torch.equal(mask, inputs["attention_mask"])):
        raise ValueError("the ids of prompts.json differ")
    return strictly(model), inputs


def embeddings(model, ids, mask):
    """What the pipeline uses: rows after the real tokens set to zero."""
    hidden = model(ids, mask).last_hidden_state
    return hidden * mask.unsqueeze(-1).to(hidden.dtype)


@torch.no_grad()
def expected(model, inputs, settings, dtype=torch.float32):
    """Outputs, intermediate values and position buckets."""
    model = model.to(dtype)
    found = {}

    def keep(name):
        def receive(value):
            found[name] = (value[0] if isinstance(value, tuple) else value).clone()

        return receive

    blocks = model.encoder.block
    attention = blocks[0].layer[0].SelfAttention
    with hooks() as taps:
        taps.output(model.encoder.embed_tokens, keep("embed"))
        taps.output(blocks[0].layer[0].layer_norm, keep("block0.norm1"))
        taps.output(attention, keep("block0.attn"))
        taps.output(blocks[0].layer[1].DenseReluDense, keep("block0.ff"))
        for i, block in enumerate(blocks):
            taps.output(block, keep(f"block{i}.out"))
        ids, mask = inputs["input_ids"], inputs["attention_mask"]
        found["last_hidden_state"] = model(ids, mask).last_hidden_state
    found["prompt_embeds"] = embeddings(model, ids, mask)
    if "long.input_ids" in inputs:
        long = model(inputs["long.input_ids"], inputs["long.attention_mask"])
        found["long.last_hidden_state"] = long.last_hidden_state
    found["rel_positions"] = torch.arange(-300, 301)
    found["rel_buckets"] = attention._relative_position_bucket(found["rel_positions"])
    found["block0.position_bias_len20"] = attention.compute_bias(20, 20)
    return found


def remarks(model, inputs, found, settings):
    """Figures for meta.json beside the errors."""
    return {
        "vocab_size": model.config.vocab_size,
        "attn_implementation": model.config._attn_implementation,
    }
