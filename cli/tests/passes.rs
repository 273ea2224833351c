//! `opt`, `kernels` and `bisect`, the switches of the compiler, and traces.

mod common;

use anyid_ir::Tensor;
use common::{Folder, close, save, tensors};
use serde_json::Value;

const LAYERS: &str = "module @layers\n\nweights @w {\n  \"b.{l:0..3}.w\" : f32[16,16]\n  \
    \"b.{l:0..3}.v\" : f32[16,16]\n}\n\n\
    func @main(%x: f32[2,16], %c: f32[2,16]) -> f32[2,16] {\n  %k = silu %c : f32[2,16]\n  \
    %y = repeat l in 0..3 carry(%s = %x) {\n    %n = linear %s, $b.{l}.w : f32[2,16]\n    \
    %o = linear %s, $b.{l}.v : f32[2,16]\n    %f = reshape %n : f32[32]\n    \
    %g = reshape %f : f32[2,16]\n    %m = mul %g, %o : f32[2,16]\n    \
    %p = add %m, %k : f32[2,16]\n    %q = add %p, %s : f32[2,16]\n    yield %q\n  } : f32[2,16]\n  \
    return %y\n}\n";

fn numbers(count: usize, seed: f32) -> Vec<f32> {
    (0..count).map(|i| (i as f32 * 0.37 + seed).sin() * 0.2).collect()
}

/// The module above with weights and inputs.
fn layers() -> Folder {
    let folder = Folder::new();
    folder.write("net.ir", LAYERS);
    let weights: Vec<(String, Tensor)> = (0..3)
        .flat_map(|l| ["w", "v"].map(|name| (format!("b.{l}.{name}"), l)))
        .map(|(name, l)| {
            let seed = l as f32 + name.len() as f32;
            (name, Tensor::from_f32([16, 16], &numbers(256, seed)).unwrap())
        })
        .collect();
    let list: Vec<(&str, &Tensor)> = weights.iter().map(|(n, t)| (n.as_str(), t)).collect();
    save(&folder.path("w.safetensors"), &list);
    let x = Tensor::from_f32([2, 16], &numbers(32, 7.0)).unwrap();
    let c = Tensor::from_f32([2, 16], &numbers(32, 9.0)).unwrap();
    save(&folder.path("in.safetensors"), &[("x", &x), ("c", &c)]);
    folder
}

const WITH: &str = "--weights w.safetensors --inputs in.safetensors";

fn opt(folder: &Folder, flags: &str) -> String {
    folder.run(&format!("opt net.ir {flags}")).fine().out
}

#[test]
fn passes_run_by_name_over_text() {
    let folder = layers();
    let flat = opt(&folder, "--passes inline");
    assert!(!flat.contains("repeat") && flat.contains("$b.2.w"), "{flat}");
    assert!(flat.contains("f32[32]"), "the reshapes are there\n{flat}");
    folder.write("flat.ir", &flat);
    folder.run("opt flat.ir --passes canonicalize,fold,cse,dce -o simple.ir").fine();
    let simple = std::fs::read_to_string(folder.path("simple.ir")).unwrap();
    assert!(!simple.contains("f32[32]"), "{simple}");
    folder.run("check simple.ir").fine();
    for (file, out) in [("net.ir", "a.safetensors"), ("simple.ir", "b.safetensors")] {
        folder.run(&format!("run {file} {WITH} -o {out}")).fine();
    }
    let [a, b] = ["a", "b"].map(|n| tensors(&folder.path(&format!("{n}.safetensors"))));
    close("simplified", &b["y"], &a["y"], 0.0);
    let both = opt(&folder, "--passes cse,hoist --vary x --print-after all");
    assert!(both.contains("// after cse") && both.contains("func @prepare("), "{both}");
    assert!(both.contains("func @step(%x: f32[2,16], %persistent.0: f32[2,16])"), "{both}");
    let one = opt(&folder, "--passes cse,dce --print-after cse");
    assert_eq!(one.matches("// after").count(), 1, "{one}");
}

#[test]
fn each_phase_has_its_text() {
    let folder = layers();
    assert_eq!(opt(&folder, "--to bound"), opt(&folder, "--passes inline"));
    assert_eq!(opt(&folder, "--to optimised"), opt(&folder, ""));
    let fused = opt(&folder, "--to fused");
    assert!(fused.contains("rows 2 x 16") && fused.contains("anchor"), "{fused}");
    let planned = opt(&folder, "--to planned");
    let compiled = folder.run("compile net.ir --emit plan").fine().out;
    assert_eq!(planned, compiled, "one table for both verbs");
    let split = opt(&folder, "--to planned --vary x");
    assert_eq!(split, folder.run("compile net.ir --vary x --emit plan").fine().out);
}

#[test]
fn passes_can_be_left_out_and_stopped() {
    let folder = layers();
    let launches = |flags: &str| {
        let report = folder.run(&format!("compile net.ir --json {flags}")).fine().json();
        report["phases"][0]["launches"].as_u64().unwrap()
    };
    let all = launches("");
    assert!(launches("--without fuse") > all);
    assert!(launches("--without pack-linears") > all);
    assert!(launches("--without fuse,pack-linears") > launches("--without fuse"));
    assert!(opt(&folder, "--without canonicalize").contains("f32[32]"));
    let peak = |flags: &str| {
        let report = folder.run(&format!("compile net.ir --json {flags}")).fine().json();
        report["phases"][0]["peak_bytes"].as_u64().unwrap()
    };
    assert!(peak("--without pack") > peak(""));
    // A plan of any number of rewrites runs and gives the same.
    folder.run(&format!("run net.ir {WITH} -o a.safetensors")).fine();
    let right = tensors(&folder.path("a.safetensors"));
    for number in [0, 1, 5, 12, 1000] {
        let flags = format!("--stop-after {number} --verify-each");
        let said = folder.run(&format!("compile net.ir -o n.plan {flags}")).fine().out;
        let named = number > 0 && number < 1000;
        assert_eq!(said.contains(&format!("last rewrite: {number}, ")), named, "{said}");
        folder.run(&format!("run n.plan {WITH} -o b.safetensors")).fine();
        close("stopped", &tensors(&folder.path("b.safetensors"))["y"], &right["y"], 1e-5);
    }
    let json = folder.run("compile net.ir --json --stop-after 3 --time-passes").fine().json();
    let compiler = &json["compiler"][0];
    assert_eq!(compiler["last_rewrite"]["number"], 3);
    let passes = compiler["passes"].as_array().unwrap();
    assert_eq!(passes.iter().map(|p| p["rewrites"].as_u64().unwrap()).sum::<u64>(), 3);
    assert_eq!(passes[0]["pass"], "specialize");
}

#[test]
fn every_pass_leaves_a_numbered_file() {
    let folder = layers();
    folder.run("opt net.ir --dump-dir a").fine();
    let names = |name: &str| {
        let entries = std::fs::read_dir(folder.path(name)).unwrap();
        let mut names: Vec<String> =
            entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    };
    let list = names("a");
    assert_eq!(list[..3], ["00-specialize.ir", "01-inline.ir", "02-inject-lora.ir"]);
    assert_eq!(list.last().unwrap(), "11-hoist.ir");
    folder.run("compile net.ir --dump-dir b/c").fine();
    let count = names("b/c").len();
    assert_eq!(names("b/c")[count - 1], format!("{}-assemble.plan.txt", count - 1));
    let last = format!("b/c/{}-assemble.plan.txt", count - 1);
    let plan = std::fs::read_to_string(folder.path(&last)).unwrap();
    assert_eq!(plan, folder.run("compile net.ir --emit plan").fine().out);
    // The same run gives the same files.
    folder.run("opt net.ir --dump-dir d").fine();
    for name in list {
        let [a, d] =
            ["a", "d"].map(|f| std::fs::read(folder.path(&format!("{f}/{name}"))).unwrap());
        assert_eq!(a, d, "{name}");
    }
    folder.run("opt net.ir --dump-dir net.ir").fails("E0917").says("net.ir");
}

#[test]
fn what_was_fused_and_what_not_is_explained() {
    let folder = layers();
    let said = folder.run("compile net.ir --explain-fusion").fine().out;
    assert!(said.contains("not fused in @main") && said.contains(" -> "), "{said}");
    let (fused, _) = said.split_once("not fused in @main").unwrap();
    assert!(fused.contains("fused in @main") && fused.contains(" + "), "{said}");
    let json = folder.run("compile net.ir --explain-fusion --json").fine().json();
    for (list, word) in [("not_fused", "reason"), ("fused", "rule")] {
        let list = json["compiler"][0][list].as_array().unwrap();
        assert!(!list.is_empty());
        assert!(list.iter().all(|edge| !edge[word].as_str().unwrap().is_empty()), "{json}");
    }
    let apart = folder.run("opt net.ir --to fused --explain-fusion --time-passes").fine();
    assert!(!apart.out.contains("not fused"), "the text stays clean");
    assert!(apart.err.contains("not fused in @main") && apart.err.contains("canonicalize"));
}

#[test]
fn who_shares_memory_and_who_does_not_is_explained() {
    // `a` is needed once more behind `b`, which could be written over it.
    let text = "module @m\nfunc @main(%x: f32[64,64]) -> f32[64,64] {\n  %a = exp %x\n  \
        %p = permute %a {perm=[1,0]}\n  %b = tanh %a\n  %q = permute %b {perm=[1,0]}\n  \
        %c = add %q, %p\n  %d = mul %c, %a\n  return %d\n}\n";
    let folder = Folder::new();
    folder.write("m.ir", text);
    let said = folder.run("compile m.ir --explain-memory --without fuse").fine().out;
    let (shared, apart) = said.split_once("memory not shared in @main").expect("it is told");
    assert!(shared.contains("result over an operand"), "{said}");
    assert!(apart.contains("main/b over main/a: it is read again later"), "{said}");
    let json = folder.run("compile m.ir --explain-memory --without fuse --json").fine().json();
    let told = &json["compiler"][0];
    assert!(!told["shared"].as_array().unwrap().is_empty(), "{json}");
    assert!(!told["not_shared"][0]["reason"].as_str().unwrap().is_empty(), "{json}");
}

#[test]
fn wrong_names_get_the_nearest_right_one() {
    let folder = layers();
    for (flags, code, help) in [
        ("--passes canonicalise", "E0504", "canonicalize"),
        ("--passes cse,dze", "E0504", "dce"),
        ("--passes xyz", "E0504", "specialize, inline"),
        ("--passes cse --print-after hoits", "E0504", "hoist"),
        ("--without fuze", "E0504", "fuse"),
        ("--without lower", "E0504", "cannot be left out"),
        ("--to fuzed", "E0508", "fused"),
        ("--to x", "E0508", "bound, optimised"),
        ("--passes fuse,cse", "E0504", "before fuse"),
        ("--passes lower,fuse", "E0504", "before lower"),
        ("--passes fuse,fuse", "E0504", "name it once"),
        ("--vary zz --branches zz", "E0503", "--vary"),
        ("--passes hoist", "E0503", "--vary"),
        ("--passes hoist,hoist --vary x", "E0504", "once"),
        ("--passes hoist --vary z", "E0503", "%z"),
        ("--vary z", "E0503", "the inputs are %x, %c"),
        ("--without all", "E0504", "that can be left out are canonicalize, fold"),
        ("--passes cse,", "E0504", "the passes are specialize"),
        ("--passes cse --to bound", "E0900", "--to"),
        ("--stop-after -1", "E0900", "-1"),
        ("--stop-after many", "E0900", "many"),
    ] {
        folder.run(&format!("opt net.ir {flags}")).fails(code).says(help);
    }
    folder.run("compile net.ir --without fuze -o a.plan").fails("E0504").says("fuse");
    folder.run("kernels net.ir --without fuze").fails("E0504").says("--without");
    folder.run(&format!("bisect net.ir {WITH} --without fuze")).fails("E0504").says("fuse");
    assert!(!folder.path("a.plan").exists());
}

#[test]
fn help_names_every_pass_and_phase() {
    let help = Folder::new().run("opt --help").fine().out;
    let help = help.split_whitespace().collect::<Vec<_>>().join(" ");
    let passes = anyid_passes::pipeline::PASSES.iter().map(|pass| pass.name);
    let phases = anyid_passes::pipeline::Phase::ALL.map(|phase| phase.name());
    let mut rest = help.split("Passes in order:").nth(1).unwrap();
    for name in passes {
        let at = rest.find(name).unwrap_or_else(|| panic!("{name} is not in its place\n{help}"));
        rest = &rest[at + name.len()..];
    }
    assert!(phases.iter().all(|phase| help.contains(phase)), "{help}");
}

#[test]
fn kernels_are_listed_once_with_their_number() {
    let folder = layers();
    let out = folder.run("kernels net.ir").fine().out;
    let head: Vec<&str> = out.lines().next().unwrap().split_whitespace().collect();
    assert_eq!(head, ["kernel", "launches", "GFLOP", "moved", "operands", "->", "results"]);
    let row = out.lines().find(|line| line.starts_with("linear*2")).unwrap();
    assert!(row.ends_with("f32[16,16] -> f32[2,16], f32[2,16]"), "{out}");
    assert!(row.split_whitespace().nth(1) == Some("3"), "{out}");
    let report = folder.run("kernels net.ir --json").fine().json();
    let kernels = report["kernels"].as_array().unwrap();
    let number = |kernel: &Value| kernel["launches"].as_u64().unwrap();
    assert_eq!(kernels.iter().map(number).sum::<u64>(), report["launches"].as_u64().unwrap());
    assert!(kernels.iter().any(|kernel| number(kernel) == 3), "three layers: {report}");
    assert!(kernels.iter().any(|kernel| kernel["flops"].as_u64().unwrap() > 0));
    // Hashes are those of the kernels, not of names or places.
    let hashes = folder.run("kernels net.ir --hash").fine().out;
    assert_eq!(hashes.lines().count(), kernels.len());
    folder.write("other.ir", LAYERS.replace("%k", "%kept").replace("@main", "@other"));
    assert_eq!(folder.run("kernels other.ir --hash").fine().out, hashes);
    folder.write("wider.ir", LAYERS.replace("[2,16]", "[4,16]").replace("f32[32]", "f32[64]"));
    let wider = folder.run("kernels wider.ir --hash").fine().out;
    assert!(wider.lines().all(|line| !hashes.contains(line)), "{wider}\n{hashes}");
    let text = folder.run("kernels net.ir --text").fine().out;
    assert!(text.contains(" rows i in 2") && text.contains("// 3 of: "), "{text}");
    folder.run("kernels net.ir --hash --text").fails("E0900");
    folder.run("kernels net.ir --func none").fails("E0913");
    folder.run("kernels none.ir").fails("E0911");
}

#[test]
fn a_sound_compiler_is_found_sound() {
    let folder = layers();
    for flags in [WITH, "--weights w.safetensors --seed 3", "--weights w.safetensors --vary x"] {
        let said = folder.run(&format!("bisect net.ir {flags}")).fine().out;
        assert!(said.contains("no rewrite changes a result"), "{said}");
    }
    let report = folder.run(&format!("bisect net.ir {WITH} --json")).fine().json();
    assert!(report["rewrites"].as_u64().unwrap() > 10);
    assert_eq!((&report["first"], &report["runs"]), (&Value::Null, &Value::from(1)));
    for (flags, code) in [
        ("--tolerance nan", "E0918"),
        ("--tolerance -1", "E0918"),
        ("--vary z", "E0503"),
        ("--func none", "E0913"),
        ("--inputs none.safetensors", "E0310"),
    ] {
        folder.run(&format!("bisect net.ir --weights w.safetensors {flags}")).fails(code);
    }
    folder.run("bisect net.ir").fails("E0301");
    folder.run("compare net.ir --weights w.safetensors --tolerance -1").fails("E0918");
}

/// With a tolerance of nothing the first rewrite that rounds differently is the one that is named.
#[test]
fn the_first_rewrite_that_rounds_differently_is_found() {
    let folder = layers();
    let done = folder.run(&format!("bisect net.ir {WITH} --tolerance 0"));
    // Products sum in another order than the interpreter, with and without rewrites.
    done.fails("E0919").says("without any rewrite");
}

#[test]
fn a_run_can_be_traced() {
    let folder = layers();
    let report = folder.run("compile net.ir --json -o n.plan").fine().json();
    let launches = report["phases"][0]["launches"].as_u64().unwrap();
    let events = |name: &str| -> Vec<Value> {
        let text = std::fs::read_to_string(folder.path(name)).unwrap();
        let value: Value = serde_json::from_str(&text).unwrap();
        value["traceEvents"].as_array().unwrap().clone()
    };
    for (file, out) in [("net.ir", "t.json"), ("n.plan", "u.json")] {
        folder.run(&format!("run {file} {WITH} -o a.safetensors --trace {out}")).fine();
        let list = events(out);
        let of = |category: &str| list.iter().filter(|e| e["cat"] == category).count() as u64;
        assert_eq!((of("launch"), of("phase")), (launches, 1), "{out}");
        assert!(list.iter().filter(|e| e["cat"] == "launch").all(|e| e["ph"] == "X"
            && e["dur"].as_f64().unwrap() >= 0.0
            && e["args"]["label"].as_str().unwrap().starts_with("main/")
            && e["args"]["bytes"].as_u64().unwrap() > 0));
    }
    let mut command = folder.command(&format!("run net.ir {WITH} -o a.safetensors"), &[]);
    assert!(command.env("ANYID_RT_TRACE", "v.json").output().unwrap().status.success());
    assert_eq!(events("v.json").len() as u64, launches + 2);
    let words = format!("run net.ir {WITH} -o b.safetensors --trace no/t.json");
    folder.run(&words).fails("E1010");
    assert!(!folder.path("b.safetensors").exists(), "it is known before the run");
    folder
        .run(&format!("run net.ir {WITH} -o b.safetensors --interp --trace t.json"))
        .fails("E0900");
    let video = "generate --prompt x --size 64x64 --frames 1 --steps 1 -o v.gif --trace g.json";
    folder.run(video).fine();
    let phases: Vec<String> = events("g.json")
        .iter()
        .filter(|e| e["cat"] == "phase")
        .map(|e| e["name"].as_str().unwrap().to_owned())
        .collect();
    assert!(phases.contains(&"prepare".to_owned()) && phases.contains(&"step".to_owned()));
}

/// Few rows of two branches share the pass over the weights; an input that is none is named.
#[test]
fn branches_are_evaluated_at_once_where_that_is_faster() {
    let folder = layers();
    let doubled = folder.run("opt net.ir --branches x").fine().out;
    assert!(doubled.contains("%x.1") && doubled.contains("concat"), "{doubled}");
    let apart = folder.run("opt net.ir --branches x --without join-branches").fine().out;
    assert!(!apart.contains("%x.1"), "{apart}");
    let said = folder.run("compile net.ir --branches x --without join-branches").fine().out;
    assert!(said.contains("the branches of @main were not joined"), "{said}");
    for (flags, joined) in [("", true), ("--without join-branches", false)] {
        let report = folder.run(&format!("compile net.ir --branches x --json {flags}")).fine();
        assert_eq!(report.json()["compiler"][0]["branches_joined"], joined, "{flags}");
    }
    folder.run("opt net.ir --branches %nothing").fails("E0503").says("%nothing").says("--branches");
}
