//! Time of products on shapes of the models. Run with `cargo bench -p anyid-benches`.
//!
//! `ANYID_DEVICES` names another device than the CPU.

use anyid_backends::device::Call;
use anyid_backends::{Fault, Registry, Settings, StoredWeight, WeightProvider};
use anyid_ir::{DType, FuncBuilder, Module, Tensor, TensorType};
use anyid_passes::{CompileRequest, Options};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use std::sync::Arc;

/// One weight full of one number.
struct Constant(TensorType);

impl WeightProvider for Constant {
    fn find(&self, _: &str) -> Option<StoredWeight> {
        Some(StoredWeight { dtype: self.0.dtype, bytes: self.0.bytes() })
    }

    fn read(&self, _: &str, _: u64, out: &mut [u8]) -> Result<(), Fault> {
        let number = Tensor::from_f32([1], &[0.01]).expect("one value").cast(self.0.dtype);
        for element in out.chunks_exact_mut(self.0.dtype.bytes()) {
            element.copy_from_slice(number.bytes());
        }
        Ok(())
    }
}

fn product(x: &TensorType, w: &TensorType) -> Module {
    let mut module = Module { name: "bench".into(), ..Module::default() };
    module.weights.add("w", w.clone()).expect("it is the only one");
    let mut f = FuncBuilder::new(&module, "f");
    let x = f.param("x", x.clone());
    let y = f.linear("y", x, "w", None, DType::F32);
    let func = f.finish(&[y]);
    module.add(func);
    module
}

fn products(c: &mut Criterion) {
    let name = std::env::var("ANYID_DEVICES").unwrap_or_else(|_| "cpu".to_owned());
    let device = Registry::default().open(&name, &Settings::default());
    let device = device.unwrap_or_else(|error| panic!("{name}: {error}"));
    let mut group = c.benchmark_group("linear");
    group.sample_size(10);
    for dtype in [DType::F32, DType::Bf16] {
        for (m, n, k) in [(1024, 3072, 3072), (256, 14336, 3072), (2, 18432, 3072)] {
            let [x, w] = [[m, k], [n, k]].map(|shape| TensorType::new(dtype, shape));
            let options = Options { target: device.about().target.clone(), ..Options::default() };
            let module = product(&x, &w);
            let plan = CompileRequest::new(&module, "f").with(&options).plan();
            let plan = plan.expect("it compiles");
            let loaded = device.clone().load(&[&plan], Arc::new(Constant(w)), &mut |_, _| true);
            let runner = loaded.and_then(|weights| weights.prepare(vec![plan]));
            let mut runner = runner.unwrap_or_else(|error| panic!("{error}"));
            let x = Tensor::from_f64s(x, &vec![0.5; m * k]).expect("one value an element");
            let mut y = Tensor::zeros(TensorType::new(DType::F32, [m, n]));
            group.throughput(Throughput::Elements((2 * m * n * k) as u64));
            group.bench_function(format!("{dtype} {m}x{n}x{k}"), |b| {
                b.iter(|| {
                    let (inputs, outputs) = (&[x.bytes()], &mut [y.bytes_mut()]);
                    let call = Call { inputs, outputs, ..Call::default() };
                    runner.run(0, call).expect("it runs");
                });
            });
        }
    }
    group.finish();
}

criterion_group!(benches, products);
criterion_main!(benches);
