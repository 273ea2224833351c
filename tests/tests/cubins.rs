//! Machine code of every kernel of the plans of the real size, for four generations of GPUs, by NVRTC: it
//! compiles, the hot kernels keep everything in registers, and those for Hopper have the instructions that
//! they are for. Needs NVRTC 12.8 or later, in the folder `ANYID_NVRTC` or where the system looks; a table
//! of registers is compared where it is the version that made it.

use anyid_backends::Registry;
use anyid_backends::cuda::emit::{self, Architecture, Emitted};
use anyid_backends::cuda::nvrtc::{Compiled, Function, Nvrtc};
#[cfg(feature = "cubecl-wgpu")]
use anyid_ir::DType;
use anyid_ir::kernel::{Kernel, Target};
use anyid_ir::plan::Plan;
use anyid_models::wan::Precision;
use anyid_models::wan::config::{DitConfig, TextConfig, VaeConfig};
use anyid_models::wan::dit::{DitSize, dit};
use anyid_models::wan::text::text;
use anyid_models::wan::vae::{self, Half, VaeSize};
use anyid_passes::{CompileRequest, Options, StateSpec};
use anyid_tests::op_cases::cases;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;

/// Compiler's names of architectures, what plans for them are compiled for, and which kernels they get.
const ALL: [(&str, &str, Architecture); 4] = [
    ("sm_80", "cuda:sm_80", Architecture::Sm80),
    ("sm_89", "cuda:sm_89", Architecture::Sm80),
    ("sm_90a", "cuda:sm_90", Architecture::Sm90a),
    ("sm_120", "cuda:sm_120", Architecture::Sm80),
];

/// Kernels of a program.
const TOGETHER: usize = 12;

/// The plans of a run of the 5B model at 1280×704: a transformer of 27,280 tokens, a text of 512, the
/// autoencoder in both of its types.
fn plans(target: &Target) -> Vec<Plan> {
    let options = Options { target: target.clone(), ..Options::default() };
    let size = DitSize {
        reference_frames: 1,
        frames: 30,
        height: 44,
        width: 80,
        text_tokens: 512,
        timesteps: 2,
    };
    let config = DitConfig::ti2v_5b();
    assert_eq!(size.tokens(&config), 27_280);
    let module = dit(&config, &size, Precision::Bf16);
    let request = CompileRequest::new(&module, "dit").varying(["lat", "t"]).with(&options);
    let mut all = request.split().unwrap_or_else(|e| panic!("{e}")).to_vec();
    let module = text(&TextConfig::ti2v_5b(), 512, Precision::Bf16);
    all.push(CompileRequest::new(&module, "text").with(&options).plan().unwrap());
    let (config, size) = (VaeConfig::ti2v_5b(), VaeSize { height: 704, width: 1280, chunk: 1 });
    for half in [Half::Encoder, Half::Decoder] {
        for precision in [Precision::F32, Precision::Bf16] {
            let module = vae::coder(&config, &size, half, true, precision);
            for name in ["first", "next"] {
                let list = vae::states(half, module.func(name).unwrap()).into_iter().enumerate();
                let spec =
                    |(at, (input, output))| StateSpec { name: format!("s{at}"), input, output };
                let states: Vec<StateSpec> = list.map(spec).collect();
                let request = CompileRequest::new(&module, name).with(&options).carrying(states);
                all.push(request.plan().unwrap_or_else(|e| panic!("{e}")));
            }
        }
    }
    all
}

/// Every kernel of the plans, by name, with what it is for people: the op and the comment of its text.
struct Kernels {
    all: BTreeMap<String, Emitted>,
    /// Those that take most of the time: products, attention, convolutions, and whatever a block of
    /// the transformer launches.
    hot: BTreeMap<String, String>,
}

fn kernels(target: &str, architecture: Architecture) -> Kernels {
    let target = Registry::default().target(target).expect("every build knows it");
    let (mut all, mut hot) = (BTreeMap::new(), BTreeMap::new());
    for plan in plans(&target) {
        for step in &plan.steps {
            let emitted = emit::step_with_packing(&plan, step, architecture);
            let comment = emitted.text.lines().next().unwrap_or_default();
            let comment = comment.trim_start_matches("// ").to_owned();
            let anchor = matches!(step.kernel, Kernel::Anchor(_));
            if anchor || step.label().contains("/blocks.15/") {
                hot.insert(emitted.name.clone(), comment);
            }
            // A device that packs nothing has another kernel.
            let plain = emit::step(&plan, step, architecture);
            all.insert(plain.name.clone(), plain);
            all.insert(emitted.name.clone(), emitted);
        }
    }
    Kernels { all, hot }
}

/// NVRTC and the folder that it was asked for in, or why there is none.
fn nvrtc() -> Option<(Nvrtc, Option<PathBuf>)> {
    let folder = std::env::var_os("ANYID_NVRTC").map(PathBuf::from);
    match Nvrtc::find(folder.as_deref()) {
        Ok(nvrtc) if nvrtc.version() >= (12, 8) => Some((nvrtc, folder)),
        Ok(nvrtc) => {
            println!("skipped: NVRTC {:?} does not know every architecture", nvrtc.version());
            None
        }
        // A folder that was named has to hold it.
        Err(error) if folder.is_some() => panic!("{error:?}"),
        Err(error) => {
            println!("skipped: {}", error.message);
            None
        }
    }
}

/// Machine code of all kernels for an architecture, in groups.
fn compiled(nvrtc: &Nvrtc, kernels: &Kernels, architecture: &str) -> Vec<Compiled> {
    let list: Vec<&Emitted> = kernels.all.values().collect();
    let groups = Mutex::new(list.chunks(TOGETHER));
    let made = Mutex::new(Vec::new());
    let work = || {
        loop {
            let group = groups.lock().unwrap().next();
            let Some(group) = group else { return };
            let one = nvrtc.compile(group, architecture);
            let one = one.unwrap_or_else(|fault| panic!("{architecture}: {fault:?}"));
            made.lock().unwrap().push(one);
        }
    };
    std::thread::scope(|scope| [(); 2].map(|()| scope.spawn(work)).map(|own| own.join().unwrap()));
    made.into_inner().unwrap()
}

/// The names and contents of an ELF file's sections.
fn sections(elf: &[u8]) -> Vec<(String, &[u8])> {
    let number = |at: usize, bytes: usize| -> usize {
        let mut all = [0; 8];
        all[..bytes].copy_from_slice(&elf[at..at + bytes]);
        u64::from_le_bytes(all) as usize
    };
    assert_eq!(&elf[..5], b"\x7fELF\x02", "a file of 64 bits");
    let (table, size) = (number(0x28, 8), number(0x3a, 2));
    let (count, names) = (number(0x3c, 2), number(0x3e, 2));
    let place = |at: usize| (number(table + at * size + 24, 8), number(table + at * size + 32, 8));
    let name = |at: usize| {
        let from = place(names).0 + number(table + at * size, 4);
        let end = elf[from..].iter().position(|byte| *byte == 0).expect("names end");
        String::from_utf8_lossy(&elf[from..from + end]).into_owned()
    };
    let section = |at: usize| {
        let (from, bytes) = place(at);
        // A section of nothing but zeros has no bytes in the file.
        (name(at), elf.get(from..from + bytes).unwrap_or_default())
    };
    (0..count).map(section).collect()
}

/// Instructions by what their lowest twelve bits are, as the disassembler shows them: an instruction has
/// sixteen bytes, and the first twelve bits are its operation and the form of its operands.
const HGMMA: u64 = 0x9f0;
const UTMALDG: u64 = 0x5b4;
const HMMA: u64 = 0x23c;

/// The operations of a kernel's code, as numbers.
fn operations(code: &[u8]) -> BTreeSet<u64> {
    let words = code.as_chunks::<16>().0.iter();
    words.map(|word| u64::from_le_bytes(word[..8].try_into().unwrap()) & 0xfff).collect()
}

#[test]
fn kernels_of_the_real_size_compile_for_every_architecture() {
    let Some((nvrtc, folder)) = nvrtc() else { return };
    let mut table: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (architecture, target, own) in ALL {
        let kernels = kernels(target, own);
        let made = compiled(&nvrtc, &kernels, architecture);
        let functions: BTreeMap<&str, &Function> =
            made.iter().flat_map(|one| &one.functions).map(|f| (f.name.as_str(), f)).collect();
        assert_eq!(functions.len(), kernels.all.len(), "{architecture}: each is reported");
        println!("{architecture}: {} kernels, {} hot", kernels.all.len(), kernels.hot.len());
        let warnings: Vec<&String> = made.iter().flat_map(|one| &one.warnings).collect();
        assert!(warnings.is_empty(), "{architecture}: {warnings:#?}");
        let spilled: Vec<_> = functions
            .values()
            .filter(|f| f.stack_bytes + f.spilled_bytes > 0)
            .map(|f| format!("{f:?} {:?}", kernels.hot.get(&f.name)))
            .collect();
        println!("  with a stack: {spilled:#?}");
        let hot = functions.values().filter(|f| kernels.hot.contains_key(&f.name));
        let bad: Vec<_> = hot.clone().filter(|f| f.spilled_bytes + f.stack_bytes > 0).collect();
        assert!(bad.is_empty(), "{architecture}: not all in registers: {bad:#?}");
        for function in hot {
            let row = table.entry(kernels.hot[&function.name].clone()).or_default();
            let Function { registers, shared_bytes, .. } = function;
            row.push(format!("{architecture} {registers} {shared_bytes}"));
        }
        units(architecture, &kernels, &made, folder.as_deref());
    }
    if nvrtc.version() == (13, 0) {
        let lines = table.into_iter().map(|(what, mut row)| {
            row.sort();
            row.dedup();
            format!("{what}: {}\n", row.join(", "))
        });
        let all: String = lines.collect();
        insta::assert_snapshot!("registers_and_shared_bytes", all);
    } else {
        println!("skipped: a table of NVRTC 13.0, not of {:?}", nvrtc.version());
    }
}

/// What the system's C++ compiler takes need not be what NVRTC takes: every eighth kernel of the op
/// table, or all of them with `ANYID_OP_TABLE=all`.
#[test]
fn kernels_of_the_op_table_compile() {
    let Some((nvrtc, _)) = nvrtc() else { return };
    let step =
        if std::env::var("ANYID_OP_TABLE").is_ok_and(|which| which == "all") { 1 } else { 8 };
    for (architecture, target, own) in [ALL[0], ALL[2]] {
        let target = Registry::default().target(target).expect("every build knows it");
        let options = Options { target, ..Options::default() };
        let (mut all, hot) = (BTreeMap::<String, Emitted>::new(), BTreeMap::new());
        for case in cases() {
            for dtype in &case.dtypes {
                let built = (case.build)(*dtype);
                let plan = CompileRequest::new(&built.module, "f").with(&options).plan().unwrap();
                for step in &plan.steps {
                    let emitted = emit::step_with_packing(&plan, step, own);
                    all.insert(emitted.name.clone(), emitted);
                }
            }
        }
        let all = all.into_iter().step_by(step).collect();
        let kernels = Kernels { all, hot };
        let made = compiled(&nvrtc, &kernels, architecture);
        let functions = made.iter().map(|one| one.functions.len()).sum::<usize>();
        println!("{architecture}: {functions} kernels of the op table");
        assert_eq!(functions, kernels.all.len(), "{architecture}");
    }
}

/// The kernels of the devices `wgpu:N` as CUDA C++: those of the real size, and some cases of the op table in
/// the types that they have. One in eight of them is compiled; with `ANYID_OP_TABLE=all` every one.
#[cfg(feature = "cubecl-wgpu")]
#[test]
fn kernels_for_any_gpu_compile_for_nvidias() {
    let Some((nvrtc, _)) = nvrtc() else { return };
    let target = Registry::default().target("wgpu").expect("every build knows it");
    let options = Options { target: target.clone(), ..Options::default() };
    let of_case = |case: &anyid_tests::op_cases::OpCase| {
        let types: Vec<_> = case.dtypes.iter().filter(|dtype| **dtype != DType::F64).collect();
        let plan = |dtype: &&DType| {
            let built = (case.build)(**dtype);
            CompileRequest::new(&built.module, "f").with(&options).plan().unwrap()
        };
        types.iter().map(plan).collect::<Vec<Plan>>()
    };
    let doubles = |plan: &Plan| plan.buffers.iter().any(|(_, own)| own.ty.dtype == DType::F64);
    let cases = cases();
    let each =
        if std::env::var("ANYID_OP_TABLE").is_ok_and(|which| which == "all") { 1 } else { 8 };
    let some = cases.iter().step_by(4 * each).flat_map(of_case).filter(|plan| !doubles(plan));
    let mut all = BTreeMap::new();
    for plan in plans(&target).into_iter().chain(some) {
        all.extend(anyid_backends::cube::text::cuda(&plan).unwrap_or_else(|e| panic!("{e}")));
    }
    // What cubecl writes for units that multiply matrices includes headers of a CUDA toolkit.
    let toolkit = std::env::var_os("CUDA_PATH").map(|path| PathBuf::from(path).join("include"));
    let toolkit = toolkit.filter(|folder| folder.join("crt/mma.h").exists());
    let by_units = |text: &str| text.contains("mma_sync");
    let (own, units): (Vec<_>, Vec<_>) = all.iter().partition(|(_, text)| !by_units(text));
    assert!(units.len() > 40, "only {} kernels for matrices", units.len());
    let units = if toolkit.is_some() { units } else { Vec::new() };
    if toolkit.is_none() {
        println!("skipped: kernels for matrices, as CUDA_PATH names no toolkit");
    }
    for architecture in ["sm_80", "sm_90"] {
        let some = own.iter().step_by(each).chain(units.iter().step_by(each));
        let count = some.clone().count();
        let rest = Mutex::new(some);
        let work = || {
            loop {
                let next = rest.lock().unwrap().next();
                let Some((name, text)) = next else { return };
                let made = nvrtc.compile_text((*text).clone(), architecture, toolkit.as_deref());
                let made = made.unwrap_or_else(|fault| panic!("{name}: {fault:?}\n{text}"));
                let names: Vec<&str> = made.functions.iter().map(|f| f.name.as_str()).collect();
                assert_eq!(names, [name.as_str()], "{architecture}");
                let code = sections(&made.cubin);
                let code = code.iter().filter(|(name, _)| name.starts_with(".text."));
                let found = code.flat_map(|(_, code)| operations(code)).any(|one| one == HMMA);
                assert_eq!(found, by_units(text), "{architecture}: {name}");
            }
        };
        std::thread::scope(|scope| {
            let workers = [(); 2].map(|()| scope.spawn(work));
            for worker in workers {
                worker.join().expect("every kernel compiles");
            }
        });
        println!("{architecture}: {count} of {} kernels for any GPU", all.len());
    }
    assert!(all.len() > 200, "only {} kernels", all.len());
}

/// Whether kernels have the instructions that they are written for, and what the disassembler says, if it
/// lies beside the compiler.
fn units(architecture: &str, kernels: &Kernels, made: &[Compiled], folder: Option<&Path>) {
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for one in made {
        for (name, code) in sections(&one.cubin) {
            let Some(kernel) = name.strip_prefix(".text.").and_then(|name| kernels.all.get(name))
            else {
                continue;
            };
            let has = operations(code);
            let wanted: &[(&str, u64, &str)] = &[
                ("product_of_groups<", HGMMA, "HGMMA"),
                ("product_of_groups<", UTMALDG, "UTMALDG"),
                ("product_of_halves<", HMMA, "HMMA"),
                ("attend_halves<", HMMA, "HMMA"),
            ];
            for (template, operation, word) in wanted {
                let calls = kernel.text.contains(template);
                let found = has.contains(operation);
                assert!(found || !calls, "{architecture}: {} has no {word}", kernel.name);
                *counts.entry(word).or_default() += usize::from(found);
            }
        }
        let tool = folder.map(|folder| folder.join("../bin/nvdisasm")).filter(|tool| tool.exists());
        if let Some(tool) = tool {
            agrees(&tool, one);
        }
    }
    println!("  {counts:?}");
    let hopper = architecture == "sm_90a";
    for word in ["HGMMA", "UTMALDG"] {
        assert_eq!(counts[word] > 0, hopper, "{architecture}: {word}");
    }
    assert!(counts["HMMA"] > 0, "{architecture}");
}

/// The disassembler finds these instructions where the numbers say that they are.
fn agrees(tool: &Path, compiled: &Compiled) {
    let folder = anyid_tests::folders::Folder::new();
    folder.write("k.cubin", &compiled.cubin);
    let output = Command::new(tool).arg("-c").arg(folder.path().join("k.cubin")).output();
    let output = output.expect("the disassembler runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let all: Vec<(String, &[u8])> = sections(&compiled.cubin);
    let code = all.iter().filter(|(name, _)| name.starts_with(".text."));
    let numbers: BTreeSet<u64> = code.flat_map(|(_, code)| operations(code)).collect();
    for (word, operation) in [("HGMMA", HGMMA), ("UTMALDG", UTMALDG), ("HMMA", HMMA)] {
        // The word of an operation is followed by a full stop and its kinds.
        let shown = text.split(|c: char| !c.is_ascii_alphanumeric()).any(|part| part == word);
        assert_eq!(shown, numbers.contains(&operation), "{word}");
    }
}
