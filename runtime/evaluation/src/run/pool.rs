//! Work shared among threads; what comes out is in the order of the items.

use anyid_files::output::stopped;
use anyid_files::{Error, Kind, Result};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc;

/// Does `work` for each of `count` items; `told` hears how many are done. After the first fault nothing
/// is begun.
pub fn each<T: Send>(
    threads: usize,
    count: usize,
    work: &(dyn Fn(usize) -> Result<T> + Sync),
    told: &mut dyn FnMut(usize),
) -> Result<Vec<T>> {
    let (next, ended) = (AtomicUsize::new(0), AtomicBool::new(false));
    let mut out: Vec<Option<T>> = (0..count).map(|_| None).collect();
    let mut fault: Option<(usize, Error)> = None;
    std::thread::scope(|scope| {
        let (send, receive) = mpsc::channel::<(usize, Result<T>)>();
        let mut started = 0;
        for _ in 0..threads.clamp(1, count.max(1)) {
            let (send, next, ended) = (send.clone(), &next, &ended);
            let job = move || loop {
                let at = next.fetch_add(1, Ordering::Relaxed);
                if at >= count || ended.load(Ordering::Relaxed) {
                    break;
                }
                let outcome = if stopped() { Err(interrupted()) } else { work(at) };
                ended.fetch_or(outcome.is_err(), Ordering::Relaxed);
                if send.send((at, outcome)).is_err() {
                    break;
                }
            };
            let named = std::thread::Builder::new().name("anyid-eval".into());
            match named.spawn_scoped(scope, job) {
                Ok(_) => started += 1,
                Err(cause) if started == 0 => return Err(Error::threads(threads, 0, cause)),
                // Fewer threads take longer and make the same.
                Err(_) => break,
            }
        }
        drop(send);
        for (done, (at, outcome)) in receive.into_iter().enumerate() {
            match outcome {
                Ok(made) => out[at] = Some(made),
                // Of several the first in order, whichever came first.
                Err(own) if fault.as_ref().is_none_or(|(first, _)| at < *first) => {
                    fault = Some((at, own));
                }
                Err(_) => {}
            }
            told(done + 1);
        }
        Ok(())
    })?;
    match fault {
        Some((_, fault)) => Err(fault),
        None => Ok(out.into_iter().flatten().collect()),
    }
}

fn interrupted() -> Error {
    Error::new(Kind::Interrupted, "E1013", "the program was interrupted")
        .help("the same command goes on where it was")
}
