//! Weight files that change under a program: loading them or reading rows of their tables is an
//! error with the names of file and tensor, and the memory of what was loaded is not needed for it.

use anyid_ir::text::parse_module;
use anyid_ir::{Module, Tensor};
use anyid_runtime::checkpoint::WeightSet;
use anyid_runtime::weights::{ModelWeights, write_tensors};
use anyid_runtime::{Compiler, Inputs};
use anyid_tests::devices;
use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::path::PathBuf;
use std::sync::Arc;

/// A file of its own, removed when dropped.
struct File(PathBuf);

impl File {
    fn new(name: &str, tensors: &[(&str, &Tensor)]) -> Self {
        let name = format!("anyid-weights-{}-{name}.safetensors", std::process::id());
        let path = std::env::temp_dir().join(name);
        write_tensors(&path, tensors.iter().copied(), &BTreeMap::new()).unwrap();
        Self(path)
    }

    fn cut_to(&self, share: f64) {
        let file = OpenOptions::new().write(true).open(&self.0).unwrap();
        let length = file.metadata().unwrap().len() as f64;
        file.set_len((length * share) as u64).unwrap();
    }
}

impl Drop for File {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

fn module(text: &str) -> Module {
    parse_module(text, &[]).unwrap_or_else(|found| panic!("{found:#?}"))
}

const SIZE: usize = 512;

#[test]
fn a_file_that_is_cut_before_its_weights_are_loaded() {
    let module = module(
        "module @m\n\nweights @w {\n  \"a.weight\" : f32[512,512]\n  \"c.bias\" : f32[512]\n}\n\nfunc @f(%x: f32[2,512]) -> f32[2,512] {\n\
         \x20 %h = linear %x, $a.weight, $c.bias : f32[2,512]\n  return %h\n}\n",
    );
    let values: Vec<f32> = (0..SIZE * SIZE).map(|at| at as f32 / 7.0).collect();
    let a = Tensor::from_f32([SIZE, SIZE], &values).unwrap();
    let c = Tensor::from_f32([SIZE], &values[..SIZE]).unwrap();
    let backend = devices::first_backend(2);
    for share in [0.0, 0.001, 0.5, 0.999_999] {
        let file = File::new("load", &[("a.weight", &a), ("c.bias", &c)]);
        let set = WeightSet::open(&file.0).unwrap();
        let weights = Arc::new(ModelWeights::as_named(set));
        let compiler = Compiler::new(&backend).phase("f", &module, "f").unwrap();
        file.cut_to(share);
        let error = compiler.load(weights, &mut |_, _| true).err().expect("the file is cut");
        assert_eq!(error.code(), "E0330", "{error}");
        assert!(error.message().contains("`a.weight`"), "{error}");
        assert_eq!(error.place(), Some(file.0.display().to_string().as_str()));
    }
}

#[test]
fn a_table_that_is_cut_before_its_rows_are_read() {
    let module = module(
        "module @m\n\nweights @w {\n  \"t.weight\" : f32[512,512]\n}\n\n\
         func @f(%i: i32[2]) -> f32[2,512] {\n  %h = gather $t.weight, %i : f32[2,512]\n\
         \x20 return %h\n}\n",
    );
    let values: Vec<f32> = (0..SIZE * SIZE).map(|at| at as f32).collect();
    let t = Tensor::from_f32([SIZE, SIZE], &values).unwrap();
    let file = File::new("gather", &[("t.weight", &t)]);
    let weights = Arc::new(ModelWeights::as_named(WeightSet::open(&file.0).unwrap()));
    let backend = devices::first_backend(2);
    let compiler = Compiler::new(&backend).phase("f", &module, "f").unwrap();
    let mut program = compiler.load(weights, &mut |_, _| true).unwrap();
    let rows = Tensor::from_i32([2], &[3, 511]).unwrap();
    let inputs = Inputs::new().set("i", &rows);
    let outputs = program.call("f", &inputs).unwrap();
    let found = outputs.iter().next().unwrap().1.to_f64_vec();
    assert_eq!((found[0], found[1023]), (3.0 * 512.0, 511.0 * 512.0 + 511.0));
    file.cut_to(0.9);
    let error = program.call("f", &inputs).expect_err("the file is cut");
    assert_eq!(error.code(), "E0330", "{error}");
    assert!(error.message().contains("`t.weight`"), "{error}");
}
