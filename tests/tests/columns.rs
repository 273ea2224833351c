//! Columns of one value: read and written where they lie, with the bits of copies.

use anyid_ir::plan::{Plan, Root};
use anyid_ir::plan_verify::verify_plan;
use anyid_ir::text::parse_module;
use anyid_ir::{Kernel, Module, Tensor};
use anyid_passes::{CompileRequest, Options};
use anyid_tests::devices;
use anyid_tests::op_cases::{noise, seed_of};
use anyid_tests::plans::{Named, Stored, run_guarded, run_plan};

/// Queries, keys and values as thirds of one product, in this element type.
fn thirds(dtype: &str) -> Module {
    module(&format!(
        "weights @w {{\n  \"qkv\" : {dtype}[96,32]\n  \"o\" : {dtype}[32,32]\n}}\n\
         func @f(%x: {dtype}[37,32]) -> {dtype}[37,32] {{\n  %h = linear %x, $qkv : {dtype}[37,96]\n  \
         %q = slice %h {{axis=1, start=0, len=32}}\n  %k = slice %h {{axis=1, start=32, len=32}}\n  \
         %v = slice %h {{axis=1, start=64, len=32}}\n  \
         %a = attention %q, %k, %v {{heads=2, scale=0.25}}\n  %r = linear %v, $o : {dtype}[37,32]\n  \
         %y = add %a, %r\n  return %y\n}}\n"
    ))
}

/// Three products of one operand with norms behind two of them, in this element type.
fn parts(dtype: &str) -> Module {
    module(&format!(
        "weights @w {{\n  \"{{q,k,v}}\" : {dtype}[128,128]\n}}\n\
         func @f(%x: {dtype}[37,128]) -> {dtype}[37,128] {{\n  %q = linear %x, $q : {dtype}[37,128]\n  \
         %k = linear %x, $k : {dtype}[37,128]\n  %v = linear %x, $v : {dtype}[37,128]\n  \
         %s = layer_norm %q {{eps=1e-6}}\n  %t = layer_norm %k {{eps=1e-6}}\n  \
         %y = attention %s, %t, %v {{heads=2, scale=0.25}}\n  return %y\n}}\n"
    ))
}

fn module(text: &str) -> Module {
    parse_module(&format!("module @m\n{text}"), &[]).unwrap_or_else(|e| panic!("{e:?}\n{text}"))
}

fn plan(module: &Module, options: &Options) -> Plan {
    let plan = CompileRequest::new(module, "f").with(options).plan();
    let plan = plan.unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(verify_plan(&plan), []);
    plan
}

fn invented(module: &Module) -> (Named, Stored) {
    let mut weights = Stored::default();
    for (name, ty) in module.weights.tensors() {
        weights.insert(name, noise(ty.clone(), seed_of(name)));
    }
    let func = module.func("f").unwrap();
    let input = |(name, ty): (&str, &anyid_ir::TensorType)| {
        (name.to_owned(), noise(ty.clone(), seed_of(name)))
    };
    (func.param_types().map(input).collect(), weights)
}

/// The result of a plan in memory of two kinds, and with gaps around what it may write.
fn results(device: &str, plan: &Plan, module: &Module) -> Vec<Tensor> {
    let device = devices::open(device, 2);
    let (inputs, weights) = invented(module);
    let run = |garbage| run_plan(&device, plan, &weights, &inputs, garbage).unwrap();
    let first = run(0xFF);
    assert_eq!(first, run(0x3C));
    assert_eq!(first, run_guarded(&device, plan, &weights, &inputs).unwrap());
    first.into_iter().map(|(_, tensor)| tensor).collect()
}

fn copies(plan: &Plan) -> usize {
    plan.steps.iter().filter(|step| matches!(step.kernel, Kernel::Copy(_))).count()
}

#[test]
fn thirds_of_a_product_are_read_where_they_lie() {
    for dtype in ["f32", "bf16"] {
        let module = thirds(dtype);
        for name in devices::names() {
            let target = devices::open(name, 2).about().target.clone();
            let options = Options { target, ..Options::default() };
            let (whole, copied) =
                (plan(&module, &options), plan(&module, &options.clone().off("share-columns")));
            assert_eq!((copies(&whole), copies(&copied)), (0, 3), "{name} {dtype}");
            assert_eq!(whole.steps.len() + 3, copied.steps.len());
            assert!(whole.workspace_bytes <= copied.workspace_bytes);
            let [a, b] = [&whole, &copied].map(|plan| results(name, plan, &module));
            assert!(a == b, "{name} {dtype}: other bits");
        }
    }
}

#[test]
fn parts_of_a_product_are_columns_of_one_value() {
    for dtype in ["f32", "bf16"] {
        let module = parts(dtype);
        for name in devices::names() {
            let mut target = devices::open(name, 2).about().target.clone();
            let apart = Options { target: target.clone(), ..Options::default() };
            target.joint_parts = true;
            let joint = Options { target, ..Options::default() };
            let (joint, apart) =
                (plan(&module, &joint), plan(&module, &apart.off("share-columns")));
            assert_eq!(joint.steps.len(), apart.steps.len());
            let places = |step: usize| -> Vec<_> {
                let results = joint.steps[step].results.iter().map(|id| joint.buffer(*id));
                results.map(|buffer| (buffer.root, buffer.offset, buffer.columns)).collect()
            };
            let product = places(0);
            let width = product[0].2.unwrap().width;
            for (at, (root, offset, columns)) in (0..).zip(&product) {
                assert_eq!((*root, *offset), (Root::Workspace, product[0].1));
                let columns = columns.unwrap();
                assert_eq!((columns.first, columns.stride), (at * width, 3 * width));
            }
            // What follows changes them in place, and attention reads them there.
            let (s, t) = (places(1), places(2));
            assert!(product.contains(&s[0]) && product.contains(&t[0]) && s != t);
            let read = joint.steps[3].operands.iter().map(|id| joint.buffer(*id).columns);
            assert!(read.eq(product.iter().map(|(_, _, columns)| *columns)), "{name} {dtype}");
            assert!(joint.workspace_bytes <= apart.workspace_bytes);
            let [a, b] = [&joint, &apart].map(|plan| results(name, plan, &module));
            assert!(a == b, "{name} {dtype}: other bits");
        }
    }
}
