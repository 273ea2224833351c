//! Programs of 16,000 statements, names, outputs and so on compile, in time that grows with their
//! size: each of these would take minutes, most of them hours, where anything is quadratic in it.
//! Nothing is measured here; `cargo bench -p anyid-benches --bench compile` does that, and a program
//! prints what it took where `ANYID_LARGE` names other sizes, such as `1000,4000,16000,64000`.

mod programs;

use anyid_ir::plan_text::{parse_plans, print_plans};
use anyid_ir::plan_verify::verify_plan;
use anyid_ir::text::{parse_module, print};
use programs::{KINDS, program};
use std::time::Instant;

/// Through everything: text, verifier, passes, plan, its text and back.
fn compiled(kind: &str, n: usize) {
    let module = parse_module(&program(kind, n), &[]).unwrap_or_else(|e| panic!("{kind}: {e:?}"));
    let text = print(&module);
    assert_eq!(print(&parse_module(&text, &[]).expect("it was printed")), text, "{kind}");
    let plan = anyid_passes::CompileRequest::new(&module, "f")
        .plan()
        .unwrap_or_else(|e| panic!("{kind}: {e}"));
    assert_eq!(verify_plan(&plan), [], "{kind}");
    assert!(plan.workspace_bytes >= plan.lower_bound_bytes, "{kind}");
    let near = plan.lower_bound_bytes + plan.lower_bound_bytes / 4 + 4096;
    assert!(plan.workspace_bytes <= near, "{kind}: {} bytes", plan.workspace_bytes);
    let plans = vec![plan];
    assert_eq!(parse_plans(&print_plans(&plans)).expect("it was printed"), plans, "{kind}");
}

#[test]
fn programs_that_are_large_in_any_way_compile() {
    let sizes = std::env::var("ANYID_LARGE").unwrap_or_default();
    let sizes: Vec<usize> = sizes.split(',').filter_map(|size| size.trim().parse().ok()).collect();
    let only = std::env::var("ANYID_LARGE_KIND").unwrap_or_default();
    for kind in KINDS.into_iter().filter(|kind| kind.contains(&only)) {
        if sizes.is_empty() {
            compiled(kind, 16_000);
            continue;
        }
        print!("{kind:18}");
        for size in &sizes {
            let begun = Instant::now();
            compiled(kind, *size);
            print!(" {:8.3}", begun.elapsed().as_secs_f64());
        }
        println!();
    }
}
