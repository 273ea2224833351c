//! Time from a model's configuration to its plans. Run with `cargo bench -p anyid-benches`.

#[path = "../../passes/tests/large/programs.rs"]
mod programs;

use anyid_models::wan::Precision;
use anyid_models::wan::config::{DitConfig, TextConfig, VaeConfig};
use anyid_models::wan::dit::{DitSize, dit};
use anyid_models::wan::text::text;
use anyid_models::wan::vae::{VaeSize, decoder};
use criterion::{Criterion, criterion_group, criterion_main};

fn compile(c: &mut Criterion) {
    let mut group = c.benchmark_group("compile");
    group.sample_size(10);
    let config = DitConfig::ti2v_5b();
    let size = DitSize {
        reference_frames: 1,
        frames: 31,
        height: 44,
        width: 80,
        text_tokens: 512,
        timesteps: 2,
    };
    group.bench_function("transformer, 28160 tokens", |b| {
        b.iter(|| {
            let module = dit(&config, &size, Precision::Bf16);
            anyid_passes::CompileRequest::new(&module, "dit")
                .varying(["lat", "t"])
                .split()
                .expect("it compiles")
        });
    });
    let config = TextConfig::ti2v_5b();
    group.bench_function("text encoder, 512 tokens", |b| {
        b.iter(|| {
            let module = text(&config, 512, Precision::Bf16);
            anyid_passes::CompileRequest::new(&module, "text").plan().expect("it compiles")
        });
    });
    let config = VaeConfig::ti2v_5b();
    group.bench_function("decoder chunk, 1280x704", |b| {
        b.iter(|| {
            let module = decoder(&config, &VaeSize { height: 704, width: 1280, chunk: 1 }, true);
            anyid_passes::CompileRequest::new(&module, "next").plan().expect("it compiles")
        });
    });
    group.finish();
}

/// How compile time grows: each kind of program at sizes four times apart.
fn large(c: &mut Criterion) {
    let mut group = c.benchmark_group("large");
    group.sample_size(10);
    for kind in programs::KINDS {
        for size in [1_000, 4_000, 16_000, 64_000] {
            let text = programs::program(kind, size);
            group.bench_function(format!("{kind}, {size}"), |b| {
                b.iter(|| {
                    let module = anyid_ir::text::parse_module(&text, &[]).expect("it is sound");
                    anyid_passes::CompileRequest::new(&module, "f").plan().expect("it compiles")
                });
            });
        }
    }
    group.finish();
}

criterion_group!(benches, compile, large);
criterion_main!(benches);
