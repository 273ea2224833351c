//! Goldens: every case under `tests/fixtures/` (or `ANYID_FIXTURES`), through every device and through
//! the interpreter, within the tolerances of `tests/fixtures/README.md`.
//!
//! Cases are discovered; each prints one line per engine with its largest error relative to its
//! tolerance. `cargo test --test golden -- WORD` runs the cases whose name contains WORD.

mod dit;
mod pipeline;
mod sched;
mod text;
mod vae;

use anyid_tests::close::Check;
use anyid_tests::fixtures;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

type Run = fn(&Path) -> Vec<(String, Vec<Check>)>;

fn main() {
    let filters: Vec<String> = std::env::args().skip(1).filter(|a| !a.starts_with('-')).collect();
    let kinds: [(&str, Run); 5] = [
        ("dit", dit::run),
        ("vae", vae::run),
        ("text", text::run),
        ("sched", sched::run),
        ("pipeline", pipeline::run),
    ];
    let (mut passed, mut failed, mut filtered) = (0, 0, 0);
    for (kind, run) in kinds {
        for case in fixtures::cases(kind) {
            let name = format!("{kind}/{}", case.file_name().unwrap_or_default().to_string_lossy());
            if !filters.is_empty() && !filters.iter().any(|f| name.contains(f.as_str())) {
                filtered += 1;
                continue;
            }
            match catch_unwind(AssertUnwindSafe(|| run(&case))) {
                Ok(results) => {
                    for (engine, checks) in results {
                        if report(&format!("{name} {engine}"), &checks) {
                            passed += 1;
                        } else {
                            failed += 1;
                        }
                    }
                }
                Err(_) => {
                    println!("test {name} ... FAILED (panicked)");
                    failed += 1;
                }
            }
        }
    }
    if passed + failed == 0 && filtered == 0 {
        println!("no golden case found under {:?}", fixtures::roots());
        failed = 1;
    }
    let verdict = if failed == 0 { "ok" } else { "FAILED" };
    println!(
        "\ntest result: {verdict}. {passed} passed; {failed} failed; 0 ignored; 0 measured; \
         {filtered} filtered out"
    );
    std::process::exit(i32::from(failed > 0));
}

/// Prints a line and says whether every check passed.
fn report(name: &str, checks: &[Check]) -> bool {
    let share = |c: &Check| {
        if c.error.is_nan() {
            f64::INFINITY
        } else if c.error == 0.0 {
            0.0
        } else {
            c.error / c.tolerance
        }
    };
    let worst = checks.iter().max_by(|a, b| share(a).total_cmp(&share(b)));
    let Some(worst) = worst else {
        println!("test {name} ... FAILED (nothing was compared)");
        return false;
    };
    let ok = checks.iter().all(Check::passes);
    println!(
        "test {name} ... {} ({} tensors, largest relative error {:.1e} of {:.0e} in {})",
        if ok { "ok" } else { "FAILED" },
        checks.len(),
        worst.error,
        worst.tolerance,
        worst.name,
    );
    for check in checks.iter().filter(|c| !c.passes()) {
        println!("    {}: {:.3e} exceeds {:.0e}", check.name, check.error, check.tolerance);
    }
    ok
}
