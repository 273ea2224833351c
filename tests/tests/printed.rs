//! Snapshots of the text of the built-in networks at toy sizes: what a reader sees, and what a
//! change to a builder changes. Update them with `INSTA_UPDATE=always` and say why in the commit.

use anyid_ir::text;
use anyid_models::wan::Precision;
use anyid_models::wan::config::{DitConfig, TextConfig};
use anyid_models::wan::dit::{DitSize, dit};

#[test]
fn transformer_block_in_bf16() {
    let config = DitConfig { layers: 2, ..DitConfig::micro() };
    let size = DitSize {
        reference_frames: 1,
        frames: 2,
        height: 4,
        width: 4,
        text_tokens: 8,
        timesteps: 2,
    };
    let module = dit(&config, &size, Precision::Bf16);
    insta::assert_snapshot!(text::print_func(module.func("block").expect("there is a block")));
}

#[test]
fn whole_text_encoder() {
    let module = anyid_models::wan::text::text(&TextConfig::micro(), 5, Precision::F32);
    insta::assert_snapshot!(text::print(&module));
}

#[test]
fn the_real_transformer_is_a_page_of_text() {
    let size = DitSize {
        reference_frames: 1,
        frames: 31,
        height: 44,
        width: 80,
        text_tokens: 512,
        timesteps: 2,
    };
    let module = dit(&DitConfig::ti2v_5b(), &size, Precision::Bf16);
    let printed = text::print(&module);
    assert!(printed.lines().count() <= 120, "{} lines", printed.lines().count());
    let parsed = text::parse_module(&printed, &[]).expect("it parses back");
    assert_eq!(text::print(&parsed), printed);
    assert_eq!(parsed.weights.len(), 825);
}
