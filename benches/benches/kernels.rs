//! Time of the CPU kernels on shapes of the models. Run with `cargo bench -p anyid-benches`.

use anyid_backends::cpu::gemm::{
    self, Dtype, Epilogue, Output, PackedMatrix, PanelKind, Rows, Slice, Weights,
};
use anyid_backends::cpu::simd::Level;
use anyid_backends::cpu::threads::Pool;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};

fn products(c: &mut Criterion) {
    let threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let (pool, level) = (Pool::new(threads), Level::detect());
    let mut group = c.benchmark_group("linear");
    group.sample_size(10);
    for (kind, name) in [(PanelKind::F32, "f32"), (PanelKind::Bf16, "bf16")] {
        for (m, n, k) in [(1024, 3072, 3072), (256, 14336, 3072), (2, 18432, 3072)] {
            let weights = vec![0.01f32; n * k];
            let bytes: Vec<u8> = weights.iter().flat_map(|v| v.to_le_bytes()).collect();
            let stored = Weights::row_major(&bytes, Dtype::F32, k);
            let packed = PackedMatrix::new(&pool, level, stored, (n, k), kind);
            let x = vec![0.5f32; m * k];
            let mut y = vec![0f32; m * n];
            let workers = pool.threads();
            let mut scratch = vec![0u8; gemm::gemm_scratch_bytes(level, (m, n, k), kind, workers)];
            group.throughput(Throughput::Elements((2 * m * n * k) as u64));
            group.bench_function(format!("{name} {m}x{n}x{k}"), |b| {
                b.iter(|| {
                    gemm::gemm(
                        &pool,
                        level,
                        m,
                        Rows { data: Slice::F32(&x), stride: k },
                        packed.view(),
                        &Epilogue::default(),
                        Output::F32 { data: &mut y, stride: n },
                        &mut scratch,
                    );
                });
            });
        }
    }
    group.finish();
}

criterion_group!(benches, products);
criterion_main!(benches);
