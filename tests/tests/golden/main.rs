//! Goldens: every case under `tests/fixtures/` (or `ANYID_FIXTURES`), through every device and through
//! the interpreter, within the tolerances of `tests/fixtures/README.md`.
//!
//! Cases are discovered, and run side by side; each prints one line per engine with its largest error
//! relative to its tolerance. `cargo test --test golden -- WORD` runs the cases whose name contains WORD.

mod dit;
mod pipeline;
mod sched;
mod text;
mod vae;

use anyid_tests::close::Check;
use anyid_tests::fixtures;
use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;

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
    let named = |(kind, run): (&'static str, Run)| {
        let cases = fixtures::cases(kind).into_iter();
        cases.map(move |case| {
            let name = case.file_name().unwrap_or_default().to_string_lossy().into_owned();
            (format!("{kind}/{name}"), case, run)
        })
    };
    let all: Vec<(String, PathBuf, Run)> = kinds.into_iter().flat_map(named).collect();
    let wanted = |name: &str| filters.is_empty() || filters.iter().any(|f| name.contains(&**f));
    let cases: Vec<_> = all.iter().filter(|(name, ..)| wanted(name)).collect();
    let (mut passed, mut failed, filtered) = (0, 0, all.len() - cases.len());
    let threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let (next, (send, receive)) = (AtomicUsize::new(0), mpsc::channel());
    std::thread::scope(|scope| {
        for _ in 0..threads {
            let (cases, next, send) = (&cases, &next, send.clone());
            scope.spawn(move || {
                loop {
                    let at = next.fetch_add(1, Ordering::Relaxed);
                    let Some((_, case, run)) = cases.get(at) else { return };
                    let done = catch_unwind(AssertUnwindSafe(|| run(case))).ok();
                    let _ = send.send((at, done));
                }
            });
        }
        drop(send);
        // Lines come in the order of the cases.
        let (mut waiting, mut at) = (BTreeMap::new(), 0);
        for (own, done) in receive {
            waiting.insert(own, done);
            while let Some(done) = waiting.remove(&at) {
                let name = &cases[at].0;
                at += 1;
                let Some(results) = done else {
                    println!("test {name} ... FAILED (panicked)");
                    failed += 1;
                    continue;
                };
                for (engine, checks) in results {
                    match report(&format!("{name} {engine}"), &checks) {
                        true => passed += 1,
                        false => failed += 1,
                    }
                }
            }
        }
    });
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
