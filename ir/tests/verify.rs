//! The verifier refuses modules that code has broken, with a code and a place in words.

use anyid_ir::text::print;
use anyid_ir::verify::verify;
use anyid_ir::*;

fn f32s(shape: &[usize]) -> TensorType {
    TensorType::new(DType::F32, shape.iter().copied())
}

/// `@block<l>` with a weight, and `@main` with a loop over it.
fn sound() -> Module {
    let mut module = Module { name: "m".into(), ..Module::default() };
    module.weights = Manifest::new("w");
    module.weights.add("blocks.{l:0..3}.w", f32s(&[4, 4])).unwrap();
    let mut f = FuncBuilder::new(&module, "block").indexed(&["l"], "blocks.{l}");
    let x = f.param("x", f32s(&[2, 4]));
    let y = f.linear("y", x, "w", None, DType::F32);
    let func = f.finish(&[y]);
    module.add(func);
    let mut f = FuncBuilder::new(&module, "main");
    let x = f.param("x", f32s(&[2, 4]));
    let out = f.repeat("r", "l", 0..3, &[("c", x)], &[], |f, carries, _| {
        let y = f.call("y", "block", &[IndexArg::Name("l".into())], carries);
        let z = f.add("z", y[0], x);
        (vec![z], vec![y[0]])
    });
    let n = f.unary("n", UnaryFn::Neg, out[0]);
    let func = f.finish(&[n, out[1]]);
    module.add(func);
    module
}

/// Codes found after a change, each with the given words in one of the reports.
#[track_caller]
fn refused(codes: &[&str], words: &str, change: impl FnOnce(&mut Module)) {
    let mut module = sound();
    change(&mut module);
    let found = verify(&module);
    let mut got: Vec<&str> = found.iter().map(|d| d.code).collect();
    got.dedup();
    assert_eq!(got, codes, "{found:#?}");
    assert!(found.iter().any(|d| d.to_string().contains(words)), "{words}: {found:#?}");
    assert!(found.iter().all(|d| d.place.is_some()), "{found:#?}");
    // Broken modules can still be printed, for debugging.
    assert!(print(&module).starts_with("module @m"));
}

fn node(func: &Func, name: &str) -> NodeId {
    func.nodes.iter().find(|(_, n)| n.op.name() == name).expect("the op is there").0
}

fn body(func: &Func) -> BlockId {
    func.nodes[node(func, "repeat")].body.unwrap()
}

#[test]
fn the_unchanged_module_is_accepted() {
    assert_eq!(verify(&sound()), []);
    assert_eq!(verify(&Module::default()), []);
}

#[test]
fn names_must_be_unique_and_writable() {
    refused(&["E0411"], "@block is defined twice", |m| m.funcs.insert(1, m.funcs[0].clone()));
    refused(&["E0413", "E0404"], "function name", |m| m.funcs[0].name = "a b".into());
    refused(&["E0413", "E0407"], "index name", |m| {
        m.funcs[0].index_params = vec!["9".into()];
    });
    refused(&["E0411", "E0406"], "index l is declared twice", |m| {
        m.funcs[0].index_params = vec!["l".into(), "l".into()];
    });
    refused(&["E0411"], "%x is declared twice", |m| {
        let func = &mut m.funcs[1];
        let def = Def::Param(func.entry, 1);
        let value = func.values.push(Value { ty: f32s(&[1]), def, name: "x".into() });
        func.blocks[func.entry].params.push(value);
    });
    refused(&["E0306", "E0413"], "weight name", |m| {
        m.weights.add("blocks.{l:0..3}.a\"b", f32s(&[4, 4])).unwrap();
        let weight = node(&m.funcs[0], "weight");
        m.funcs[0].nodes[weight].op = Op::Weight { path: "a\"b".into() };
    });
}

#[test]
fn ids_must_belong() {
    refused(&["E0412"], "is not a value", |m| {
        let neg = node(&m.funcs[1], "neg");
        m.funcs[1].nodes[neg].operands[0] = ValueId::from_index(999);
    });
    refused(&["E0412"], "is not a node", |m| {
        let entry = m.funcs[1].entry;
        m.funcs[1].blocks[entry].nodes.insert(0, NodeId::from_index(999));
    });
    refused(&["E0412"], "stands in two places", |m| {
        let func = &mut m.funcs[1];
        let neg = node(func, "neg");
        func.blocks[func.entry].nodes.insert(0, neg);
        func.nodes[neg].operands[0] = func.params()[0];
    });
    refused(&["E0412"], "a repeat without a body", |m| {
        let repeat = node(&m.funcs[1], "repeat");
        m.funcs[1].nodes[repeat].body = None;
    });
    refused(&["E0412"], "body of two nodes", |m| {
        let func = &mut m.funcs[1];
        let repeat = node(func, "repeat");
        func.nodes[repeat].body = Some(func.entry);
    });
    refused(&["E0412"], "has none", |m| {
        let func = &mut m.funcs[1];
        let inner = body(func);
        let neg = node(func, "neg");
        func.nodes[neg].body = Some(inner);
    });
    refused(&["E0412", "E0403"], "the definition of %n is wrong", |m| {
        let func = &mut m.funcs[1];
        let value = func.nodes[node(func, "neg")].results[0];
        func.values[value].def = Def::Param(func.entry, 0);
    });
}

#[test]
fn a_function_with_wrong_ids_does_not_stop_the_check_of_its_callers() {
    refused(&["E0412"], "is not a block", |m| m.funcs[0].entry = BlockId::from_index(9));
    refused(&["E0412", "E0403"], "is not a value", |m| {
        let entry = m.funcs[0].entry;
        m.funcs[0].blocks[entry].params[0] = ValueId::from_index(99);
    });
}

#[test]
fn values_must_be_visible() {
    refused(&["E0403"], "%z is used where it is not defined", |m| {
        let func = &mut m.funcs[1];
        let z = func.nodes[node(func, "add")].results[0];
        let neg = node(func, "neg");
        func.nodes[neg].operands[0] = z;
    });
    refused(&["E0403"], "@main: %r.0 = repeat", |m| {
        let func = &mut m.funcs[1];
        let n = func.nodes[node(func, "neg")].results[0];
        let repeat = node(func, "repeat");
        func.nodes[repeat].operands[0] = n;
    });
    refused(&["E0407"], "index l is not bound", |m| {
        let func = &mut m.funcs[1];
        let repeat = node(func, "repeat");
        func.nodes[repeat].op = Op::Repeat { index: "k".into(), lo: 0, hi: 3, carries: 1 };
    });
    refused(&["E0411"], "index l is already bound", |m| {
        m.funcs[1].index_params = vec!["l".into()];
    });
    refused(&["E0407"], "the scope's index k", |m| m.funcs[0].scope = "blocks.{k}".into());
}

#[test]
fn blocks_end_with_their_terminator() {
    refused(&["E0409"], "ends with return", |m| {
        let entry = m.funcs[1].entry;
        m.funcs[1].blocks[entry].nodes.pop();
    });
    refused(&["E0409"], "block without return", |m| {
        let entry = m.funcs[1].entry;
        m.funcs[1].blocks[entry].nodes.clear();
    });
    refused(&["E0409"], "return at position 0", |m| {
        let func = &mut m.funcs[1];
        func.results.clear();
        let end = func.nodes.push(Node {
            op: Op::Return,
            operands: Default::default(),
            results: Default::default(),
            body: None,
            loc: Loc::Unknown,
        });
        let entry = func.entry;
        func.blocks[entry].nodes.pop();
        func.blocks[entry].nodes.insert(0, end);
    });
}

#[test]
fn types_must_be_those_inferred() {
    refused(&["E0206"], "neg gives f32[2,4], not f32[2,5]", |m| {
        let func = &mut m.funcs[1];
        let value = func.nodes[node(func, "neg")].results[0];
        func.values[value].ty = f32s(&[2, 5]);
        func.results[0] = f32s(&[2, 5]);
    });
    refused(&["E0207"], "0 are named", |m| {
        let func = &mut m.funcs[1];
        let neg = node(func, "neg");
        let value = func.nodes[neg].results[0];
        func.nodes[neg].results.clear();
        let end = *func.blocks[func.entry].nodes.last().unwrap();
        func.nodes[end].operands[0] = func.params()[0];
        func.values[value].name.clear();
    });
    refused(&["E0114"], "axis of size 0", |m| {
        let func = &mut m.funcs[1];
        let value = func.params()[0];
        func.values[value].ty = f32s(&[0, 4]);
    });
    refused(&["E0208"], "too large", |m| {
        let func = &mut m.funcs[1];
        let value = func.params()[0];
        func.values[value].ty = f32s(&[usize::MAX, usize::MAX]);
    });
    refused(&["E0410"], "the header says f32[9]", |m| m.funcs[1].results[0] = f32s(&[9]));
}

#[test]
fn weights_must_be_declared_for_every_index() {
    refused(&["E0305"], "blocks.{l}.v", |m| {
        let func = &mut m.funcs[0];
        let weight = node(func, "weight");
        func.nodes[weight].op = Op::Weight { path: "v".into() };
    });
    refused(&["E0305"], "blocks.3.w", |m| {
        let func = &mut m.funcs[1];
        let call = node(func, "call");
        func.nodes[call].op = Op::Call { func: "block".into(), index: vec![IndexArg::Int(3)] };
    });
    refused(&["E0206"], "weight gives f32[4,4]", |m| {
        let func = &mut m.funcs[0];
        let value = func.nodes[node(func, "weight")].results[0];
        func.values[value].ty = f32s(&[5, 4]);
        let y = func.nodes[node(func, "linear")].results[0];
        func.values[y].ty = f32s(&[2, 5]);
        func.results[0] = f32s(&[2, 5]);
        // Only the weight is of interest here.
        m.funcs.pop();
    });
}

#[test]
fn calls_and_repeats_fit() {
    refused(&["E0404"], "there is no function @blck", |m| {
        let call = node(&m.funcs[1], "call");
        let index = vec![IndexArg::Name("l".into())];
        m.funcs[1].nodes[call].op = Op::Call { func: "blck".into(), index };
    });
    refused(&["E0405"], "@block is called before", |m| m.funcs.reverse());
    refused(&["E0406"], "2 are given", |m| {
        let call = node(&m.funcs[1], "call");
        let index = vec![IndexArg::Int(1), IndexArg::Int(2)];
        m.funcs[1].nodes[call].op = Op::Call { func: "block".into(), index };
    });
    refused(&["E0408"], "2 values are yielded for 3 carries", |m| {
        let repeat = node(&m.funcs[1], "repeat");
        m.funcs[1].nodes[repeat].op = Op::Repeat { index: "l".into(), lo: 0, hi: 3, carries: 3 };
    });
    refused(&["E0408"], "stack f32[2,4] over 3 iterations", |m| {
        let repeat = node(&m.funcs[1], "repeat");
        m.funcs[1].nodes[repeat].op = Op::Repeat { index: "l".into(), lo: 0, hi: 3, carries: 0 };
    });
    refused(&["E0206"], "repeat gives f32[2,2,4]", |m| {
        let repeat = node(&m.funcs[1], "repeat");
        m.funcs[1].nodes[repeat].op = Op::Repeat { index: "l".into(), lo: 0, hi: 2, carries: 1 };
    });
}

#[test]
fn deep_nesting_and_many_errors_are_bounded() {
    let mut module = Module::default();
    fn nest(f: &mut FuncBuilder<'_>, x: ValueId, depth: usize) -> ValueId {
        let index = format!("i{depth}");
        f.repeat("r", &index, 0..1, &[("c", x)], &[], |f, carries, _| {
            let inner = if depth == 0 { carries[0] } else { nest(f, carries[0], depth - 1) };
            (vec![inner], vec![])
        })[0]
    }
    let mut f = FuncBuilder::new(&module, "f");
    let x = f.param("x", f32s(&[1]));
    let y = nest(&mut f, x, 100);
    let func = f.finish(&[y]);
    module.add(func);
    assert_eq!(verify(&module)[0].code, "E0109");
    assert!(print(&module).contains("nested too deep"));

    let mut f = FuncBuilder::new(&module, "g");
    let x = f.param("x", f32s(&[1]));
    let last = (0..200).fold(x, |x, _| f.unary("n", UnaryFn::Neg, x));
    let mut func = f.finish(&[last]);
    for value in func.values.ids() {
        func.values[value].ty = f32s(&[value.index() + 1]);
    }
    let found = verify(&Module { funcs: vec![func], ..Module::default() });
    assert_eq!(found.len(), 50);
    assert!(found[49].notes[0].contains("only the first 50"));
}

#[test]
fn literals_that_code_made_are_held_by_their_type() {
    refused(&["E0211"], "300 is not a number of u8", |m| {
        let func = &mut m.funcs[1];
        let neg = node(func, "neg");
        let value = func.nodes[neg].results[0];
        func.nodes[neg].op = Op::Const { values: vec![300.0] };
        func.nodes[neg].operands.clear();
        func.values[value].ty = TensorType::new(DType::U8, [2, 4]);
        func.results[0] = TensorType::new(DType::U8, [2, 4]);
    });
    let built = |value: f64, dtype: DType| {
        std::panic::catch_unwind(|| {
            let module = Module::default();
            let mut f = FuncBuilder::new(&module, "f");
            f.scalar("c", dtype, value);
        })
    };
    for (value, dtype) in [(2.5, DType::I32), (-1.0, DType::U8), (2.0, DType::Bool)] {
        assert!(built(value, dtype).is_err(), "{value} {dtype}");
    }
    assert!(built(1e39, DType::Bf16).is_err() && built(2.5, DType::Bf16).is_ok());
}
