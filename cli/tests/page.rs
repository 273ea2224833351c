//! The page of `--report`: its data against the plan, text that looks like markup, files that cannot
//! be written, and the page in a browser, where there is one.

mod common;

use anyid_ir::Entity;
use anyid_ir::kernel::text;
use anyid_ir::plan::Plan;
use anyid_ir::plan_live::{lifetimes, live_bytes};
use anyid_runtime::engine::PlanFile;
use common::Folder;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::process::Command;

/// Names of values, weights and functions that would end an element or begin one.
const HOSTILE: &str = "module @m\n\nweights @w {\n  \"</script><img src=x>\" : f32[64,64]\n}\n\n\
    func @main(%x: f32[8,64], %c: f32[8,64]) -> f32[8,64] {\n  %k = silu %c : f32[8,64]\n  \
    %a = linear %x, $\"</script><img src=x>\" : f32[8,64]\n  %b = add %a, %k : f32[8,64]\n  \
    %n = layer_norm %b {eps=1e-6} : f32[8,64]\n  \
    %y = linear %n, $\"</script><img src=x>\" : f32[8,64]\n  return %y\n}\n";

/// The data of a page.
fn data(page: &str) -> Value {
    let start = "<script type=\"application/json\" id=\"data\">";
    let (_, rest) = page.split_once(start).expect("the page has data");
    let (data, _) = rest.split_once("</script>").expect("the data ends");
    serde_json::from_str(data).expect("the data is JSON")
}

fn label(page: &Value, label: &Value) -> String {
    let names = &page["names"];
    let word = |at: usize| {
        let word = names["labels"][label.as_u64().unwrap() as usize][at].as_u64().unwrap();
        names["words"][word as usize].as_str().unwrap().to_owned()
    };
    match word(0) {
        scope if scope.is_empty() => word(1),
        scope => format!("{scope}/{}", word(1)),
    }
}

fn numbers(column: &Value) -> Vec<u64> {
    column.as_array().unwrap().iter().map(|each| each.as_u64().unwrap()).collect()
}

/// Compares everything that the page says of a phase with the plan.
fn agree(page: &Value, phase: &Value, plan: &Plan) {
    assert_eq!(phase["name"], plan.name.as_str());
    for (key, bytes) in [
        ("workspace", plan.workspace_bytes),
        ("bound", plan.lower_bound_bytes),
        ("naive", plan.naive_bytes),
        ("persistent", plan.persistent_bytes),
        ("states", plan.state_bytes()),
        ("weights", plan.weight_bytes()),
    ] {
        assert_eq!(phase[key], bytes, "{key}");
    }
    // Every buffer, where it is.
    let buffers = &phase["buffers"];
    let offsets: Vec<u64> = plan.buffers.iter().map(|(_, buffer)| buffer.offset).collect();
    assert_eq!(numbers(&buffers["offset"]), offsets);
    let roots = ["workspace", "persistent", "input", "weight", "state", "output"];
    for (id, buffer) in plan.buffers.iter() {
        let at = id.index();
        let root = roots[buffers["root"][at].as_u64().unwrap() as usize];
        let index = &buffers["index"][at];
        let said = if at_index(root) { format!("{root} {index}") } else { root.to_owned() };
        assert_eq!(said, buffer.root.to_string());
        assert_eq!(label(page, &buffers["type"][at]), buffer.ty.to_string());
    }
    let wider = plan.buffers.iter().filter(|(_, buffer)| buffer.columns.is_some()).count();
    assert_eq!(buffers["columns"].as_array().unwrap().len(), wider);
    // Every piece of workspace with its lifetime, and the peak that follows from them.
    let (lives, _) = lifetimes(plan);
    let pieces = &phase["pieces"];
    let columns = ["buffer", "offset", "bytes", "from", "to"].map(|key| numbers(&pieces[key]));
    assert_eq!(columns[0].len(), lives.len());
    for (at, life) in lives.iter().enumerate() {
        let [buffer, offset, bytes, from, to] = columns.each_ref().map(|column| column[at]);
        assert_eq!(buffer as usize, life.buffer.index());
        assert_eq!((offset, bytes), (life.offset, life.bytes));
        assert_eq!((from as usize, to as usize), (life.from, life.to));
    }
    let live = live_bytes(&lives, plan.steps.len());
    let peak = phase["peak"].as_u64().expect("there is workspace") as usize;
    assert_eq!(live[peak], plan.lower_bound_bytes);
    assert_eq!(live.iter().position(|bytes| *bytes == live[peak]), Some(peak), "the first");
    // Every launch with its kernel, operands and names.
    let steps = &phase["steps"];
    assert_eq!(steps["kernel"].as_array().unwrap().len(), plan.steps.len());
    for (at, step) in plan.steps.iter().enumerate() {
        let kernel = &page["kernels"][steps["kernel"][at].as_u64().unwrap() as usize];
        assert_eq!(kernel["text"], text::print(&step.kernel));
        assert_eq!(kernel["name"], step.kind());
        let ids = |ids: &[anyid_ir::plan::BufferId]| -> Vec<u64> {
            ids.iter().map(|id| id.index() as u64).collect()
        };
        assert_eq!(numbers(&steps["reads"][at]), ids(step.reads()));
        assert_eq!(numbers(&steps["writes"][at]), ids(step.results()));
        let labels = steps["labels"][at].as_array().unwrap();
        let labels: Vec<String> = labels.iter().map(|each| label(page, each)).collect();
        assert_eq!(labels, step.labels);
    }
}

fn at_index(root: &str) -> bool {
    !["workspace", "persistent"].contains(&root)
}

#[test]
fn the_page_shows_the_plan() {
    let folder = Folder::new();
    folder.run("export dit --preset micro -o dit.ir").fine();
    let micro = "export vae-decode --preset micro --size 64x64 --frames 9 -o vae.ir";
    folder.run(micro).fine();
    for (words, target) in [
        ("compile dit.ir --vary lat,t", "cpu"),
        ("compile dit.ir", "cuda:sm_90"),
        ("compile vae.ir --func first,next --state s*=n*", "cpu"),
        ("compile vae.ir --func decode --without split-rows", "wgpu"),
    ] {
        let words = format!("{words} --target {target} -o p.plan --report page.html --json");
        let summary = folder.run(&words).fine().json();
        let plans = PlanFile::open(&folder.path("p.plan"), target).unwrap();
        let page = std::fs::read_to_string(folder.path("page.html")).unwrap();
        let page = data(&page);
        assert_eq!(page["target"], target);
        let phases = page["phases"].as_array().unwrap();
        assert_eq!(phases.len(), plans.phases().len());
        for (at, (phase, plan)) in phases.iter().zip(plans.phases()).enumerate() {
            agree(&page, phase, plan);
            let said = &summary["phases"][at];
            assert_eq!(phase["flops"], said["flops"]);
            assert_eq!(phase["moved"], said["bytes_moved"]);
            assert_eq!(phase["peak"], said["peak"]["step"]);
        }
        assert_eq!(page["machine"].is_null(), target == "wgpu", "{target} states no machine");
    }
}

#[test]
fn decisions_are_those_that_are_explained() {
    let folder = Folder::new();
    folder.run("export dit --preset micro -o dit.ir").fine();
    let words = "compile dit.ir --vary lat,t --report page.html --explain-fusion --explain-memory";
    let said = folder.run(&format!("{words} --json")).fine().json();
    let page = data(&std::fs::read_to_string(folder.path("page.html")).unwrap());
    let (shown, said) = (&page["decisions"][0], &said["compiler"][0]);
    let list = |key: &str| -> Vec<Value> {
        let decisions = shown[key].as_array().unwrap().iter();
        decisions
            .map(|each| {
                let reason = &shown["reasons"][each[0].as_u64().unwrap() as usize];
                json!([reason, label(&page, &each[1]), label(&page, &each[2])])
            })
            .collect()
    };
    let fields = |key: &str, fields: [&str; 3]| -> Vec<Value> {
        let all = said[key].as_array().unwrap().iter();
        let joined = all.filter(|each| !each[fields[2]].is_null());
        joined.map(|each| Value::from(fields.map(|field| each[field].clone()).to_vec())).collect()
    };
    let fused = list("fused");
    assert!(fused.len() > 10, "{fused:?}");
    assert_eq!(fused, fields("fused", ["rule", "consumer", "producer"]));
    assert_eq!(list("apart"), fields("not_fused", ["reason", "consumer", "producer"]));
    assert_eq!(list("shared"), fields("shared", ["rule", "label", "label"]));
    assert_eq!(list("refused"), fields("not_shared", ["reason", "label", "over"]));
    // Whether reasons are kept for a page changes nothing else.
    folder.run("compile dit.ir --vary lat,t -o with.plan --report again.html").fine();
    folder.run("compile dit.ir --vary lat,t -o without.plan").fine();
    let read = |name: &str| std::fs::read(folder.path(name)).unwrap();
    assert!(read("with.plan") == read("without.plan"));
    assert!(read("again.html") == read("page.html"), "two runs give the same page");
}

#[test]
fn text_from_a_module_is_never_markup() {
    let folder = Folder::new();
    folder.write("<b>&.ir", HOSTILE);
    folder.run_with("compile --report page.html", &["<b>&.ir"]).fine();
    let page = std::fs::read_to_string(folder.path("page.html")).unwrap();
    // Those of the template: the data's and the code's.
    assert_eq!(page.matches("</script>").count(), 2);
    assert!(!page.contains("<img") && !page.contains("<b>"), "markup from names");
    assert!(page.contains("<title>@main of &lt;b&gt;&amp;.ir · anyid-rt</title>"));
    let data = data(&page);
    assert_eq!(data["title"], "@main of <b>&.ir");
    let words = data["names"]["words"].as_array().unwrap();
    assert!(words.iter().any(|word| word == "script><img src=x>"), "{words:?}");
}

#[test]
fn the_page_asks_for_nothing_outside() {
    let folder = Folder::new();
    folder.write("net.ir", HOSTILE);
    folder.run("compile net.ir --report page.html").fine();
    let page = std::fs::read_to_string(folder.path("page.html")).unwrap();
    let (template, _) = page.split_once("id=\"data\"").unwrap();
    let (_, code) = page.rsplit_once("<script>").unwrap();
    for text in [template, code] {
        for word in ["http:", "https:", "//www", "src=", "@import", "url(", "fetch(", "import("] {
            assert!(!text.contains(word), "{word}");
        }
    }
    assert!(page.contains("default-src 'none'"), "and the browser would refuse it");
}

#[test]
fn pages_that_cannot_be_written_are_refused_before_any_work() {
    let folder = Folder::new();
    folder.write("net.ir", HOSTILE);
    std::fs::create_dir(folder.path("sub")).unwrap();
    folder.run("compile net.ir --report missing/page.html").fails("E1010");
    folder.run("compile net.ir --report sub").fails("E1014");
    folder.run("compile net.ir --report net.ir").fails("E0950");
    folder.run("compile net.ir -o one --report one").fails("E0951");
    folder.run("compile net.ir --report - --json").fails("E0948").says("page");
    folder.run("compile net.ir -o - --report -").fails("E0951");
    folder.run("compile net.ir --report p.html --to fused").fails("E0900");
    let bench = "bench dit --preset micro --tokens 24 --text-tokens 8 --repeats 1";
    folder.run(&format!("{bench} --report missing/page.html")).fails("E1010");
    folder.run(&format!("{bench} --report -")).fails("E0951");
    assert_eq!(folder.names(), ["net.ir", "sub"]);
    // A plan that is too large is where the page is wanted most.
    let over = folder.run("compile net.ir -o p.plan --report page.html --budget 1KiB");
    over.fails("E0601");
    assert_eq!(folder.names(), ["net.ir", "page.html", "sub"]);
    // As compilers do, a page that is there is replaced; on standard output it stands alone.
    let page = std::fs::read_to_string(folder.path("page.html")).unwrap();
    folder.write("page.html", "old");
    let said = folder.run("compile net.ir --report page.html").fine().out;
    assert!(said.contains("wrote page.html"), "{said}");
    assert!(std::fs::read_to_string(folder.path("page.html")).unwrap() == page);
    assert!(folder.run("compile net.ir --report -").fine().out == page);
}

#[test]
fn measured_launches_are_on_the_page() {
    let folder = Folder::new();
    let sizes = "--tokens 24 --text-tokens 8";
    for words in [
        format!("dit --preset micro --blocks 2 {sizes}"),
        format!("dit --preset micro {sizes} --guided apart"),
        "vae --preset micro --size 32x32 --frames 9".to_owned(),
        "text --preset micro --layers 1 --tokens 7".to_owned(),
        format!("train --preset micro {sizes} --rank 4"),
    ] {
        let plain = words;
        let words = format!("bench {plain} --repeats 2 --json --report page.html");
        let said = folder.run(&words).fine().json();
        assert!(said.get("profile").is_none(), "it was not asked for");
        let page = data(&std::fs::read_to_string(folder.path("page.html")).unwrap());
        assert_eq!(page["title"], said["network"]);
        assert_eq!(page["machine"]["origin"], "measured here");
        let measured = &page["measured"];
        assert_eq!(measured["runs"], 2);
        let phases = page["phases"].as_array().unwrap();
        let mut launches = 0;
        for (at, phase) in phases.iter().enumerate() {
            let seconds = measured["seconds"][at].as_array().unwrap();
            assert_eq!(seconds.len(), phase["steps"]["kernel"].as_array().unwrap().len());
            launches += measured["calls"][at].as_u64().unwrap() as usize * seconds.len();
        }
        assert_eq!(launches as u64, said["launches"], "{words}");
        let mut end = 0;
        let mut traced = 0;
        for run in measured["trace"].as_array().unwrap() {
            let [begin, length] = ["begin", "length"].map(|key| numbers(&run[key]));
            traced += begin.len();
            for (begin, length) in begin.iter().zip(length) {
                assert!(*begin >= end, "launches follow each other: {words}");
                end = begin + length;
            }
        }
        assert_eq!(traced, launches);
        assert!(page["decisions"][0]["apart"].as_array().is_some_and(|list| !list.is_empty()));
        // Every value has a name of its own, by which decisions find its launch; only derivatives of
        // values that are used several times share theirs.
        for phase in phases.iter().filter(|_| !words.contains("train")) {
            let labels = phase["steps"]["labels"].as_array().unwrap().iter();
            let mut labels: Vec<u64> = labels.flat_map(numbers).collect();
            let count = labels.len();
            labels.sort_unstable();
            labels.dedup();
            assert_eq!(labels.len(), count, "{words}");
        }
        // And what is measured is the same network.
        let plain = folder.run(&format!("bench {plain} --repeats 1 --json")).fine().json();
        assert_eq!(plain["digest"], said["digest"], "{words}");
    }
}

// ---- in a browser

/// A Chromium of this machine.
fn browser() -> Option<PathBuf> {
    let names = ["chromium", "chromium-browser", "google-chrome", "chrome"];
    let paths = std::env::var_os("PATH").unwrap_or_default();
    let paths: Vec<PathBuf> = std::env::split_paths(&paths).collect();
    names
        .iter()
        .flat_map(|name| paths.iter().map(move |path| path.join(name)))
        .find(|p| p.is_file())
}

/// What `probe` finds out about the page in a browser of this size; `None` without a browser, which
/// is said.
fn probed(folder: &Folder, page: &Path, probe: &str, size: &str) -> Option<Value> {
    let Some(browser) = browser() else {
        eprintln!("skipped: there is no Chromium to show the page in");
        return None;
    };
    let text = std::fs::read_to_string(page).unwrap();
    // What goes wrong is kept from before the page's own code on. Without a window there are frames at
    // some times only, so that the page's come by the clock.
    let watch = "<head><script>const faults = [];\n\
        addEventListener('error', (event) => faults.push(event.message));\n\
        addEventListener('unhandledrejection', (event) => faults.push(String(event.reason)));\n\
        addEventListener('securitypolicyviolation', (e) => faults.push('asks for ' + e.blockedURI));\n\
        console.error = console.warn = (...words) => faults.push(words.join(' '));\n\
        requestAnimationFrame = (then) => setTimeout(() => then(performance.now()), 16);</script>";
    let text = text.replacen("<head>", watch, 1);
    let text = text.replacen("</body>", &format!("<script>\n{probe}\n</script></body>"), 1);
    let probing = folder.write("probing.html", text);
    let profile = folder.path("browser");
    let output = Command::new(browser)
        .args(["--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"])
        .args(["--virtual-time-budget=20000", "--no-first-run", "--dump-dom"])
        .arg(format!("--window-size={size}"))
        .arg(format!("--user-data-dir={}", profile.display()))
        .arg(format!("file://{}", probing.display()))
        .env("HOME", folder.path("."))
        .output()
        .expect("the browser starts");
    let dom = String::from_utf8_lossy(&output.stdout);
    let found =
        dom.split_once("<pre id=\"probed\">").and_then(|(_, rest)| rest.split_once("</pre>"));
    let Some((found, _)) = found else {
        panic!("the probe did not end: {}\n{dom}", String::from_utf8_lossy(&output.stderr))
    };
    let found = found.replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&");
    Some(serde_json::from_str(&found).unwrap_or_else(|fault| panic!("{fault}: {found}")))
}

#[test]
fn pages_work_in_a_browser() {
    let folder = Folder::new();
    folder.write("net.ir", HOSTILE);
    folder.run("export vae-decode --preset micro --size 64x64 --frames 9 -o vae.ir").fine();
    let sizes = "--blocks 2 --tokens 24 --text-tokens 8 --repeats 2";
    for (words, size) in [
        ("compile net.ir".to_owned(), "1400,900"),
        ("compile vae.ir --func first,next --state s*=n*".to_owned(), "420,900"),
        ("compile net.ir --target wgpu".to_owned(), "1400,900"),
        (format!("bench dit --preset micro {sizes}"), "1400,900"),
    ] {
        folder.run(&format!("{words} --report page.html")).fine();
        let probe = include_str!("page/probe.js");
        let Some(found) = probed(&folder, &folder.path("page.html"), probe, size) else { return };
        assert_eq!(found["faults"], json!([]), "{words}");
        assert_eq!(found["requests"], json!([]), "{words}");
        assert_eq!(found["images"], 0, "names are no markup: {words}");
        assert_eq!(found["wide"], false, "nothing lies beyond the side of the window: {words}");
        let page = data(&std::fs::read_to_string(folder.path("page.html")).unwrap());
        for (at, phase) in page["phases"].as_array().unwrap().iter().enumerate() {
            let shown = &found["phases"][at];
            assert_eq!(shown["name"], phase["name"], "{words}");
            // The launch that is shown first is the peak, and its live set adds up to it.
            assert_eq!(shown["peak"], phase["bound"], "{words}");
            for step in shown["steps"].as_array().unwrap() {
                let at = step["step"].as_u64().unwrap();
                let pieces = &phase["pieces"];
                let [from, to, bytes] = ["from", "to", "bytes"].map(|key| numbers(&pieces[key]));
                let live = (0..from.len()).filter(|i| from[*i] <= at && at <= to[*i]);
                let (mut count, mut sum) = (0, 0);
                for i in live {
                    (count, sum) = (count + 1, sum + bytes[i]);
                }
                assert_eq!(
                    (&step["values"], &step["bytes"]),
                    (&json!(count), &json!(sum)),
                    "{words}"
                );
                assert!(!step["kernel"].as_str().unwrap().is_empty(), "its text is shown");
            }
            assert!(shown["steps"].as_array().unwrap().len() >= 4, "{words}: {shown}");
        }
        for key in ["keys", "click", "search", "sorted", "alone", "goes", "zoomed"] {
            assert_eq!(found[key], true, "{key}: {words}");
        }
        let drawn = found["drawn"].as_object().unwrap();
        let timed = !page["machine"].is_null();
        for (name, colours) in drawn {
            let wanted = timed || ["overview", "memory"].contains(&name.as_str());
            assert!(!wanted || colours.as_u64() > Some(2), "{name} is empty: {words}, {drawn:?}");
        }
    }
}
