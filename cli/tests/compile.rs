//! `compile`, plan files, budgets, `opt` and `dot`.

mod common;

use anyid_ir::Tensor;
use anyid_ir::plan::Plan;
use anyid_models::wan::vae::{Half, VaeSize, decoder};
use anyid_runtime::engine::PlanFile;
use anyid_runtime::pipeline::coder_phases;
use anyid_runtime::{Backend, Compiler, Model};
use common::{Folder, save, tensors};

const LAYERS: &str = "module @layers\n\nweights @w {\n  \"b.{l:0..4}.w\" : f32[64,64]\n}\n\n\
    func @main(%x: f32[2,64], %c: f32[2,64]) -> f32[2,64] {\n  %k = silu %c : f32[2,64]\n  \
    %y = repeat l in 0..4 carry(%s = %x) {\n    %n = linear %s, $b.{l}.w : f32[2,64]\n    \
    %m = add %n, %k : f32[2,64]\n    yield %m\n  } : f32[2,64]\n  return %y\n}\n";

fn numbers(count: usize, seed: f32) -> Vec<f32> {
    (0..count).map(|i| (i as f32 * 0.37 + seed).sin() * 0.2).collect()
}

/// The module above with weights and inputs.
fn layers() -> Folder {
    let folder = Folder::new();
    folder.write("net.ir", LAYERS);
    let weights: Vec<(String, Tensor)> = (0..4)
        .map(|l| {
            let tensor = Tensor::from_f32([64, 64], &numbers(4096, l as f32)).unwrap();
            (format!("b.{l}.w"), tensor)
        })
        .collect();
    let list: Vec<(&str, &Tensor)> = weights.iter().map(|(n, t)| (n.as_str(), t)).collect();
    save(&folder.path("w.safetensors"), &list);
    let x = Tensor::from_f32([2, 64], &numbers(128, 7.0)).unwrap();
    let c = Tensor::from_f32([2, 64], &numbers(128, 9.0)).unwrap();
    save(&folder.path("in.safetensors"), &[("x", &x), ("c", &c)]);
    folder
}

const WITH: &str = "--weights w.safetensors --inputs in.safetensors";

#[test]
fn a_plan_runs_without_its_module_and_gives_the_same() {
    let folder = layers();
    folder.run(&format!("run net.ir {WITH} -o a.safetensors")).fine();
    let golden = &tensors(&folder.path("a.safetensors"))["y"];
    for (name, flags, phases) in
        [("whole.plan", "", "main"), ("split.plan", "--vary x", "prepare and step")]
    {
        let said = folder.run(&format!("compile net.ir {flags} -o {name}")).fine().out;
        assert!(said.contains(&format!("wrote {name}")) && said.contains("lower bound"), "{said}");
        let ran = folder.run(&format!("run {name} {WITH} -o b.safetensors")).fine().out;
        assert!(ran.contains(&format!("ran {phases} in")), "{ran}");
        assert_eq!(tensors(&folder.path("b.safetensors"))["y"].bytes(), golden.bytes(), "{name}");
    }
    let inspected = folder.run("inspect split.plan --json").fine().json();
    assert_eq!(inspected["kind"], "plan");
    assert_eq!(inspected["phases"][1]["inputs"], serde_json::json!(["%x: f32[2,64]"]));
    assert!(folder.run("inspect split.plan").fine().out.contains("phase     step: 4 steps"));
    // The same text gives the same file.
    let first = std::fs::read(folder.path("whole.plan")).unwrap();
    folder.run("compile net.ir -o again.plan").fine();
    assert_eq!(std::fs::read(folder.path("again.plan")).unwrap(), first);
    // Phases by function.
    folder.run("compile net.ir --func main -o f.plan").fine();
    folder.run(&format!("run f.plan --func main {WITH} -o c.safetensors")).fine();
    folder.run(&format!("run f.plan --func mian {WITH} -o d.safetensors")).fails("E0518");
    folder.run(&format!("run f.plan --interp {WITH} -o d.safetensors")).fails("E0518");
    folder.run(&format!("run split.plan --func step {WITH} -o d.safetensors")).fails("E0518");
    for verb in ["compile", "opt", "check", "kernels", "dot"] {
        folder.run(&format!("{verb} f.plan")).fails("E0518").says("IR text is wanted");
    }
    folder.run("compile net.ir --dim N=3").fails("E0116").says("all its sizes are numbers");
    folder.run("compile -").fails("E0911").says("/dev/stdin");
    folder.run("run f.plan --weights w.safetensors -o d.safetensors").fails("E1005");
    assert!(!folder.path("d.safetensors").exists());
}

#[test]
fn stale_and_corrupt_plans_are_refused() {
    let folder = layers();
    folder.run("compile net.ir -o good.plan").fine();
    let good = std::fs::read(folder.path("good.plan")).unwrap();
    let text = String::from_utf8(good.clone()).unwrap();
    let middle = good.len() / 2;
    let mut flipped = good.clone();
    flipped[middle] ^= 4;
    let cases: [(&str, Vec<u8>, &str); 10] = [
        ("empty", Vec::new(), "E0510"),
        ("text", b"hello".to_vec(), "E0510"),
        ("truncated", good[..middle].to_vec(), "E0511"),
        ("header only", good[..40].to_vec(), "E0511"),
        ("longer", [&good[..], b"\n"].concat(), "E0512"),
        ("flipped", flipped, "E0512"),
        ("version", text.replacen("version=", "version=7.", 1).into_bytes(), "E0513"),
        ("format", text.replacen("format=", "format=9", 1).into_bytes(), "E0513"),
        ("target", text.replacen("target=cpu", "target=wgpu", 1).into_bytes(), "E0514"),
        ("garbage", vec![0xff; 4096], "E0510"),
    ];
    for (what, bytes, code) in cases {
        folder.write("bad.plan", bytes);
        let done = folder.run(&format!("run bad.plan {WITH} -o out.safetensors"));
        assert!(done.err.contains("compile"), "{what}: {}", done.err);
        done.fails(code).says("bad.plan");
        assert!(!folder.path("out.safetensors").exists(), "{what}");
    }
    // A file without contents that says it is larger than any plan.
    let huge = std::fs::File::create(folder.path("huge.plan")).unwrap();
    huge.set_len(600 << 20).unwrap();
    folder
        .run(&format!("run huge.plan {WITH} -o out.safetensors"))
        .fails("E0519")
        .says("huge.plan");
    folder.run(&format!("run none.plan {WITH} -o out.safetensors")).fails("E0911");
    // Other weights: of another shape, and under other names.
    let small = Tensor::from_f32([4, 4], &numbers(16, 0.0)).unwrap();
    let names = ["b.0.w", "b.1.w", "b.2.w", "b.3.w"];
    save(&folder.path("small.safetensors"), &names.map(|name| (name, &small)));
    save(&folder.path("names.safetensors"), &[("other", &small)]);
    for file in ["small.safetensors", "names.safetensors"] {
        let words = "run good.plan --inputs in.safetensors -o out.safetensors --weights";
        folder.run(&format!("{words} {file}")).fails("E0515").says(file);
    }
}

#[test]
fn the_summary_as_json_has_its_fields() {
    let folder = layers();
    let report = folder.run("compile net.ir --vary x --json").fine().json();
    assert!(report["compile_seconds"].as_f64().unwrap() >= 0.0);
    let phases = report["phases"].as_array().unwrap();
    let names: Vec<&str> = phases.iter().map(|p| p["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["prepare", "step"]);
    for phase in phases {
        for field in [
            "peak_bytes",
            "lower_bound_bytes",
            "naive_bytes",
            "persistent_bytes",
            "weights_resident_bytes",
            "launches",
            "flops",
            "bytes_moved",
            "bytes_between",
        ] {
            assert!(phase[field].is_u64(), "{field} of {phase}");
        }
        assert!(phase["ratio"].as_f64().unwrap() >= 1.0);
    }
    let step = &phases[1];
    assert_eq!(step["flops"], 4 * 2 * 2 * 64 * 64);
    assert_eq!(step["weights_resident_bytes"], 4 * 64 * 64 * 4);
    assert_eq!(step["persistent_bytes"], 512);
    assert_eq!(step["launches"], 4);
    assert_eq!(step["persistent"], serde_json::json!({"prepared": 512, "states": 0}));
    // Input and output of a product: both are live there.
    assert_eq!(step["peak_bytes"], 1024);
    let live = step["peak"]["live"].as_array().unwrap();
    assert_eq!(live.iter().map(|b| b["bytes"].as_u64().unwrap()).sum::<u64>(), 1024);
    let predicted = folder.run("compile net.ir --predict --threads 1 --json").fine().json();
    assert!(predicted["phases"][0]["predicted_seconds"].as_f64().unwrap() > 0.0);
}

/// Layers whose derivative needs what they computed.
const STACK: &str = "module @stack\n\
    func @layer<l>(%x: f32[64,64], %w: f32[64,64]) -> f32[64,64] {\n  \
    %h = linear %x, %w\n  %a = silu %h\n  %b = tanh %a\n  return %b\n}\n\
    func @loss(%x: f32[64,64], %w: f32[64,64]) -> f32[] {\n  \
    %y = repeat l in 0..8 carry(%c = %x) {\n    %n = call @layer<l>(%c, %w)\n    yield %n\n  }\n  \
    %loss = reduce_sum %y {axes=[0,1]}\n  return %loss\n}\n";

#[test]
fn a_budget_decides_what_is_kept_for_the_derivative() {
    let folder = Folder::new();
    folder.write("net.ir", STACK);
    let words = "compile net.ir --grad loss --wrt w --json";
    let bytes = |more: &str| {
        let report = folder.run(&format!("{words} {more}")).json();
        report["phases"][0]["peak_bytes"].as_u64().unwrap()
    };
    let (all, carry) = (bytes(""), bytes("--remat carry"));
    assert_eq!(all, bytes("--remat all"));
    assert!(carry < all, "{carry} {all}");
    let middle = (all + carry) / 2;
    let report = folder.run(&format!("{words} --budget {middle}")).json();
    let kept = report["kept_for_derivative"].as_array().unwrap();
    assert_eq!(kept[0]["choice"], "all");
    let taken = &kept[kept.len() - 1];
    assert!(taken["bytes"].as_u64().unwrap() <= middle, "{kept:?}");
    assert!(taken["choice"].as_str().unwrap().contains(':'), "{kept:?}");
    let plain = "compile net.ir --grad loss --wrt w";
    let text = folder.run(&format!("{plain} --budget {middle}")).fine().out;
    assert!(text.contains("kept for the derivative") && text.contains("(taken)"), "{text}");
    folder.run(&format!("{plain} --budget 1KiB")).fails("E0601");
    // A choice that is given is taken, whether it fits or not.
    folder.run(&format!("{plain} --remat all --budget {middle}")).fails("E0601");
    folder.run(&format!("{plain} --remat head")).fails("E0524").says("did you mean heads?");
    folder.run(&format!("{plain} --remat carry,heads")).fails("E0524").says("carry:12,heads");
}

#[test]
fn a_budget_is_kept_or_answered_with_a_certificate() {
    let folder = layers();
    let fits = folder.run("compile net.ir --vary x --budget 1MiB -o a.plan").fine().out;
    assert!(fits.contains("fits the budget of 1.00 MiB"), "{fits}");
    assert!(folder.path("a.plan").exists());
    let over = folder.run("compile net.ir --vary x --budget 50KiB -o b.plan");
    assert_eq!(over.code, 3, "{}", over.err);
    assert!(over.err.contains("error[E0601]") && over.err.contains("50.0 KiB"), "{}", over.err);
    for part in ["bf16-weights: saves 32.0 KiB", "stream-weights: saves 32.0 KiB", "fits: 33."] {
        assert!(over.out.contains(part), "{part}\n{}", over.out);
    }
    assert!(!folder.path("b.plan").exists(), "no plan that does not fit is written");
    let report = folder.run("compile net.ir --budget 1KiB --json");
    assert_eq!(report.code, 3);
    let budget = &report.json()["budget"];
    assert_eq!(budget["fits"], false);
    assert_eq!(budget["fitting"], serde_json::Value::Null);
    assert!(budget["least_bytes"].as_u64().unwrap() < budget["resident_bytes"].as_u64().unwrap());
    for bad in ["0", "0GiB", "-1GiB", "lots", "16GiBs", "1e400GB", "GiB"] {
        folder.run(&format!("compile net.ir --budget {bad}")).fails("E0602");
    }
}

#[test]
fn every_form_can_be_printed() {
    let folder = layers();
    let emit = |what: &str| folder.run(&format!("compile net.ir --emit {what}")).fine().out;
    assert!(emit("ir").starts_with("module @layers\n"));
    let plan = emit("plan");
    assert!(
        plan.starts_with("plan \"main\" {\n") && plan.contains(" = a2 + linear(a0, a1)"),
        "{plan}"
    );
    let kernels = emit("kernels");
    assert_eq!(kernels, folder.run("kernels net.ir --text").fine().out);
    for phase in ["bound", "optimised", "fused", "planned"] {
        let same = folder.run(&format!("opt net.ir --to {phase}")).fine().out;
        assert_eq!(folder.run(&format!("compile net.ir --to {phase}")).fine().out, same);
    }
    folder.run("compile net.ir --to fusd").fails("E0508").says("fused");
    let memory = emit("memory");
    assert!(memory.starts_with("phase,buffer,name,type,offset,bytes,first,last\n"), "{memory}");
    // The result, and in front of it what it is written over, lie in the caller's memory.
    assert_eq!(memory.lines().count(), 1 + 3);
    let dot = emit("dot");
    assert_eq!(dot, folder.run("dot net.ir --func main").fine().out);
    assert!(dot.contains("digraph") && dot.contains("repeat l in 0..4"), "{dot}");
    folder.run("dot net.ir --func mian").fails("E0913");
}

#[test]
fn what_cannot_be_compiled_is_said() {
    let folder = layers();
    for target in ["gpu", "cuda", "cuda:0", "CPU", ""] {
        let words = format!("compile net.ir --target={target} -o never.plan");
        folder.run(&words).fails("E0506").says("cpu, cuda:sm_80, ");
        folder.run(&format!("opt net.ir --target={target}")).fails("E0506");
        folder.run(&format!("kernels net.ir --target={target}")).fails("E0506");
    }
    assert!(!folder.path("never.plan").exists());
    folder.run("compile net.ir --vary z").fails("E0503").says("%x, %c");
    folder.run("compile net.ir --func nothing").fails("E0913");
    folder.run("compile net.ir --func main,main").fails("E0913");
    folder.run("compile none.ir").fails("E0911");
    folder.run("compile net.ir -o none/a.plan").fails("E1010");
    folder.run("compile net.ir --emit picture").fails("E0900");
}

/// What is compiled for a device that this build lacks says so, and does not run here.
#[test]
fn plans_are_made_for_devices_of_other_builds() {
    let folder = layers();
    let runs = !folder.lacks("cuda:N");
    let said = folder.run("compile net.ir --target cuda:sm_90 -o gpu.plan").fine().out;
    let cannot = said.contains("planned for cuda:sm_90, whose devices this build cannot run\n");
    assert_eq!(cannot, !runs, "{said}");
    let report = folder.run("compile net.ir --target cuda:sm_90 --json").fine().json();
    assert_eq!((&report["target"], &report["runs_here"]), (&"cuda:sm_90".into(), &runs.into()));
    assert!(report.get("predicted_from").is_none());
    let said = folder.run("compile net.ir -o cpu.plan").fine().out;
    assert!(!said.contains("cannot run"), "{said}");
    let report = folder.run("compile net.ir --json").fine().json();
    assert_eq!((&report["target"], &report["runs_here"]), (&"cpu".into(), &true.into()));

    let inspected = folder.run("inspect gpu.plan --json").fine().json();
    assert_eq!(inspected["target"], "cuda:sm_90");
    let done = folder.run(&format!("run gpu.plan {WITH} -o out.safetensors"));
    let done = done.fails("E0514").says("the plan is for target cuda:sm_90, not for cpu");
    done.says("--target cpu -o FILE.plan");
    // As NVIDIA and devices call it.
    let hopper = folder.run("compile net.ir --target cuda:sm_90a --json").fine().json();
    assert_eq!(hopper["target"], "cuda:sm_90");
    folder.run("compile net.ir --target cuda:sm_91").fails("E0506");
    folder
        .run(&format!("run cpu.plan --target cuda:sm_90 {WITH} -o out.safetensors"))
        .fails("E0900");
    if folder.lacks("wgpu:N") {
        folder.run(&format!("run cpu.plan --device wgpu {WITH} -o out.safetensors")).fails("E0904");
    }
    let done = folder.run("run cpu.plan --target cpu -o out.safetensors");
    done.fails("E0900").says("what a plan is for stands in it");
    assert!(!folder.path("out.safetensors").exists());

    // Other kernels, and the reasons.
    let explained = |target: &str| {
        let words = format!("opt net.ir --to fused --explain-fusion --target {target}");
        folder.run(&words).fine().err
    };
    assert_eq!(explained("cpu"), explained("cuda:sm_90"), "every epilogue is there");
    let kernels =
        |target: &str| folder.run(&format!("kernels net.ir --target {target}")).fine().out;
    assert_eq!(kernels("cpu"), kernels("wgpu"));
}

/// Times of devices that are not here follow from what is stated about one, and that is said.
#[test]
fn predictions_say_where_their_figures_come_from() {
    let folder = layers();
    let report = |target: &str| {
        let words = format!("compile net.ir --predict --threads 1 --json --target {target}");
        folder.run(&words).fine().json()
    };
    let [measured, stated] = ["cpu", "cuda:sm_90"].map(report);
    assert_eq!(measured["predicted_from"], "measured");
    assert_eq!(stated["predicted_from"], "stated");
    // Nothing is stated about this target, and a build without the device cannot measure one.
    if folder.lacks("wgpu:N") {
        let none = report("wgpu");
        assert!(none["predicted_from"].is_null() && none.get("predicted_from").is_some());
        assert!(none["phases"][0].get("predicted_seconds").is_none());
    }
    // Five launches of 4 microseconds, which read and write next to nothing.
    let seconds = stated["phases"][0]["predicted_seconds"].as_f64().unwrap();
    assert!((20e-6..21e-6).contains(&seconds), "{seconds}");
    let text = |target: &str| {
        folder.run(&format!("compile net.ir --predict --target {target}")).fine().out
    };
    let said = text("cuda:sm_90");
    assert!(said.contains("figures that are stated for such a device, not measured\n"), "{said}");
    if folder.lacks("wgpu:N") {
        assert!(text("wgpu").contains("no figures are stated for such a device\n"));
    }
}

#[test]
fn networks_compile_and_run_from_plans() {
    let folder = Folder::new();
    folder.run("init m --random-weights").fine();
    folder.run("export text --model m --tokens 6 -o net.ir").fine();
    folder.run("compile net.ir -o net.plan").fine();
    let ids = Tensor::from_i32([6], &[1, 2, 3, 4, 5, 1]).unwrap();
    save(&folder.path("in.safetensors"), &[("ids", &ids)]);
    for file in ["net.ir", "net.plan"] {
        let out = file.replace('.', "-");
        let words = format!("run {file} --model m --inputs in.safetensors -o {out}.safetensors");
        folder.run(&words).fine();
    }
    let [a, b] = ["net-ir", "net-plan"].map(|n| tensors(&folder.path(&format!("{n}.safetensors"))));
    assert_eq!(a["last_hidden_state"].bytes(), b["last_hidden_state"].bytes());
    folder.run("export dit --model m --size 64x64 --frames 5 -o dit.ir").fine();
    let report = folder.run("compile dit.ir --vary lat,t --json").fine().json();
    for phase in report["phases"].as_array().unwrap() {
        assert!(phase["ratio"].as_f64().unwrap() <= 1.02, "{phase}");
    }
}

#[test]
fn states_named_by_flag_are_memory_of_their_own() {
    let folder = Folder::new();
    folder.run("init m --random-weights").fine();
    folder.run("export vae-decode --model m --size 96x64 --frames 9 -o net.ir").fine();
    let phases = |flags: &str| -> Vec<serde_json::Value> {
        let words = format!("compile net.ir --func first,next --json {flags}");
        folder.run(&words).fine().json()["phases"].as_array().unwrap().clone()
    };
    let number = |phase: &serde_json::Value, key: &str| phase[key].as_u64().unwrap();
    let [ports, carried] = [phases(""), phases("--state s*=n* -o net.plan")];
    let states = number(&carried[1], "persistent_bytes");
    for (ports, carried) in ports.iter().zip(&carried) {
        assert_eq!(number(ports, "persistent_bytes"), 0);
        // Both phases lie on the same memory: the larger is not the sum.
        assert_eq!(carried["persistent"]["states"], states);
        assert!(number(carried, "peak_bytes") <= number(ports, "peak_bytes"), "{carried}");
        assert_eq!(carried["ratio"], 1.0);
    }
    // 24 past inputs of two frames: of the latents, 8x12x48, the first, and of the last stages.
    assert!(states > 2 * 4 * (48 * 4 * 6 + 4 * 8 * 32 * 48), "{states}");
    let fits = |bytes: u64| {
        let words = "compile net.ir --func first,next --state s*=n* --json";
        folder.run(&format!("{words} --budget {bytes}")).json()["budget"]["resident_bytes"].clone()
    };
    let weights = number(&carried[1], "weights_resident_bytes");
    let peak = carried.iter().map(|phase| number(phase, "peak_bytes")).max().unwrap();
    assert_eq!(fits(1 << 40), weights + states + peak);

    // They are the plans that decoding runs.
    let model = Model::open(folder.path("m")).unwrap();
    let module = decoder(&model.vae, &VaeSize { height: 64, width: 96, chunk: 1 }, false);
    let backend = Backend::open("cpu", 1).unwrap();
    let ours = coder_phases(Compiler::new(&backend), &module, Half::Decoder, true).unwrap();
    let file = PlanFile::open(&folder.path("net.plan"), "cpu").unwrap();
    // Labels aside: text gives each value a name of its own.
    for ((_, ours), plan) in ours.plans().zip(file.phases()) {
        assert!(ours.shares_states(plan) && ours.name == plan.name);
        let figures = |plan: &Plan| {
            (plan.workspace_bytes, plan.lower_bound_bytes, plan.naive_bytes, plan.steps.len())
        };
        assert_eq!(figures(ours), figures(plan));
    }

    // A plan that begins runs; one that continues has nothing to continue.
    let z = Tensor::from_f32([48, 1, 4, 6], &numbers(48 * 24, 1.0)).unwrap();
    save(&folder.path("in.safetensors"), &[("z", &z)]);
    for file in ["net.ir", "net.plan"] {
        let with = "--func first --model m --inputs in.safetensors";
        folder.run(&format!("run {file} {with} -o {file}.safetensors")).fine();
    }
    let [ir, plan] =
        ["net.ir", "net.plan"].map(|n| tensors(&folder.path(&format!("{n}.safetensors"))));
    assert_eq!((ir.len(), plan.len()), (25, 1));
    assert_eq!(ir["video"].bytes(), plan["video"].bytes());
    let next = "run net.plan --func next --model m --inputs in.safetensors -o o.safetensors";
    folder.run(next).fails("E0518").says("continues what another run has left");

    for (flags, says) in [
        ("--state s*=m*", "has no such result"),
        ("--state t*=n*", "no function has the input"),
        ("--state s*", "it is not a pair"),
        ("--state s0=n1", "it begins as"),
        ("--state s0=n0,s0=n1", "state s0"),
        ("--state s0=n0,s0=n0", "a name stands for one"),
    ] {
        folder.run(&format!("compile net.ir --func next {flags}")).fails("E0509").says(says);
    }
    // A function that is split carries its states in `step`; none of them is given per step.
    folder.run("compile net.ir --func next --state s*=n* --vary z").fine();
    folder
        .run("compile net.ir --func next --state s*=n* --vary z,s0")
        .fails("E0509")
        .says("--state");
}

/// The names of the phases of one function are not those of two.
#[test]
fn functions_are_not_called_as_the_phases_of_one() {
    let folder = Folder::new();
    let func = |name: &str| {
        format!("func @{name}(%x: f32[4]) -> f32[4] {{\n  %y = silu %x\n  return %y\n}}\n")
    };
    folder.write("m.ir", format!("module @m\n{}{}", func("prepare"), func("step")));
    folder.run("compile m.ir --func prepare,step").fails("E0913").says("--func");
    folder.run("compile m.ir --func step,prepare").fine();
}

#[test]
fn more_memory_than_there_is_is_refused_before_anything_runs() {
    let folder = Folder::new();
    let x = Tensor::from_f32([1, 1], &[0.5]).unwrap();
    save(&folder.path("in.safetensors"), &[("x", &x)]);
    // 256 TiB each: in the workspace, and as a result.
    let large = "%b = broadcast %x : f32[8388608,8388608]\n%t = tanh %b : f32[8388608,8388608]\n\
        %r = reduce_sum %t {axes=[0]} : f32[8388608]\n%y = reduce_max %r {axes=[0]} : f32[]\n";
    for (results, returned) in [("f32[]", "%y"), ("f32[8388608,8388608]", "%t")] {
        let text = format!(
            "module @m\nfunc @main(%x: f32[1,1]) -> {results} {{\n{large}return {returned}\n}}\n"
        );
        folder.write("net.ir", text);
        folder.run("compile net.ir -o net.plan").fine();
        for file in ["net.ir", "net.plan"] {
            let words = format!("run {file} --inputs in.safetensors -o out.safetensors");
            folder.run(&words).fails("E0603").says("256 TiB");
            assert!(!folder.path("out.safetensors").exists(), "{returned}");
        }
    }
}
