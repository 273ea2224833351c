//! Makers of clips: each has the model, a judge and a painter, and a thread of its own.
//!
//! Clips of small models are made several at a time, one on each thread: a single clip is too small to be
//! worth sharing. A large model is in memory once, and all threads work on one clip. Which maker makes
//! a clip, and beside which others, changes nothing in it; results are taken in the order of the work.

use super::clips::Weights;
use super::coded;
use crate::args::DeviceArgs;
use anyid_runtime::{Backend, Error, Keep, Model, Pipeline, Result};
use anyid_world::Painter;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;
use std::thread::{Builder, scope};

/// Most bytes of a model of which every maker has one.
const SMALL: u64 = 128 << 20;
/// Most bytes of the models of all makers.
const ALL: u64 = 4 << 30;
/// Stack of a thread, in bytes.
const STACK: usize = 8 << 20;

/// What looks at clips on a thread: a painter of references, and a judge.
pub struct Worker<J> {
    backend: Backend,
    /// The judge.
    pub judge: J,
    /// The painter of references.
    pub painter: Painter,
}

/// A worker with a model.
pub struct Maker<'w, J> {
    /// The model.
    pub pipeline: Pipeline,
    /// Who looks at what it makes.
    pub worker: &'w mut Worker<J>,
}

/// The workers for a device: one for each of its threads, but no more than there are `clips` to be made;
/// or one with all threads where a model is large. `judge` opens a judge.
///
/// # Errors
/// Those of opening the device and of `judge`, E0982 for a size that the world is not painted in.
pub fn workers<J>(
    models: &[(Weights, Model)],
    on: &DeviceArgs,
    (clips, size): (usize, usize),
    judge: &dyn Fn(&Backend) -> Result<J>,
) -> Result<Vec<Worker<J>>> {
    let worker = |backend: Backend| {
        let painter = Painter::new(size).map_err(coded)?;
        Ok(Worker { judge: judge(&backend)?, backend, painter })
    };
    let backend = on.open()?;
    let threads = on.thread_count();
    let largest = models.iter().map(|(_, model)| bytes(model)).max().unwrap_or(0);
    let count = threads.min(clips).min((ALL / largest.max(1)) as usize);
    if count < 2 || largest > SMALL || on.device != "cpu" {
        return Ok(vec![worker(backend)?]);
    }
    drop(backend);
    (0..count).map(|_| worker(Backend::open(&on.device, 1)?)).collect()
}

/// Bytes of the weights of a model.
fn bytes(model: &Model) -> u64 {
    let networks = [&model.dit_weights, &model.vae_weights, &model.text_weights];
    networks.iter().map(|weights| weights.set().total_bytes()).sum()
}

/// The workers with a model of these weights each.
///
/// # Errors
/// Those of opening the model again.
pub fn makers<'w, J>(
    workers: &'w mut [Worker<J>],
    weights: &Weights,
    model: Model,
) -> Result<Vec<Maker<'w, J>>> {
    let mut first = Some(model);
    let maker = |worker: &'w mut Worker<J>| {
        let model = first.take().map_or_else(|| weights.open(), Ok)?;
        let pipeline = Pipeline::new(model, worker.backend.clone()).keep(Keep::Loaded);
        Ok(Maker { pipeline, worker })
    };
    workers.iter_mut().map(maker).collect()
}

/// Does `work` for each of `items`, by whichever maker is free, and hands the results to `take` in
/// the order of the items, each as soon as those before it are there.
///
/// # Errors
/// The first one of `work` in the order of the items, or of `take`; E1025 where the system refuses a
/// thread.
pub fn each<M: Send, T: Sync, R: Send>(
    makers: &mut [M],
    items: &[T],
    work: &(dyn Fn(&mut M, &T) -> Result<R> + Sync),
    take: &mut dyn FnMut(usize, R) -> Result<()>,
) -> Result<()> {
    if let [maker] = makers {
        let mut one = |(at, item)| take(at, work(maker, item)?);
        return items.iter().enumerate().try_for_each(&mut one);
    }
    let next = AtomicUsize::new(0);
    let (next, asked) = (&next, makers.len());
    // Nobody begins anything more.
    let stop = || next.store(items.len(), Ordering::Relaxed);
    scope(|scope| {
        let (put, results) = mpsc::channel();
        for (started, maker) in makers.iter_mut().enumerate() {
            let put = put.clone();
            let body = move || {
                while let Some((at, item)) = taken(next, items) {
                    let result = work(maker, item);
                    if result.is_err() {
                        stop();
                    }
                    if put.send((at, result)).is_err() {
                        return;
                    }
                }
            };
            let builder = Builder::new().name("maker".to_owned()).stack_size(STACK);
            if let Err(refused) = builder.spawn_scoped(scope, body) {
                stop();
                return Err(Error::threads(asked, started, refused));
            }
        }
        drop(put);
        let done = in_order(results, take);
        stop();
        done
    })
}

/// The next item, with its place.
fn taken<'i, T>(next: &AtomicUsize, items: &'i [T]) -> Option<(usize, &'i T)> {
    let at = next.fetch_add(1, Ordering::Relaxed);
    items.get(at).map(|item| (at, item))
}

/// Hands on results in the order of their places, however they come.
fn in_order<R>(
    results: mpsc::Receiver<(usize, Result<R>)>,
    take: &mut dyn FnMut(usize, R) -> Result<()>,
) -> Result<()> {
    let (mut early, mut wanted) = (BTreeMap::new(), 0);
    for (at, result) in results {
        early.insert(at, result);
        while let Some(result) = early.remove(&wanted) {
            take(wanted, result?)?;
            wanted += 1;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn there_is_a_worker_for_each_thread_of_small_models() {
        let workers = |threads, clips| {
            let on = DeviceArgs { device: "cpu".to_owned(), threads };
            let weights = Weights { folder: None, adapters: Vec::new() };
            let models = [(weights.clone(), weights.open().unwrap())];
            workers(&models, &on, (clips, 48), &|_| Ok(())).unwrap()
        };
        let mut three = workers(3, 9);
        assert_eq!([workers(1, 9).len(), three.len(), workers(3, 2).len()], [1, 3, 2]);
        let weights = Weights { folder: None, adapters: Vec::new() };
        let model = weights.open().unwrap();
        assert_eq!(makers(&mut three, &weights, model).unwrap().len(), 3);
        let on = DeviceArgs { device: "cpu".to_owned(), threads: 2 };
        assert!(super::workers(&[], &on, (9, 50), &|_| Ok(())).is_err_and(|e| e.code() == "E0982"));
    }

    #[test]
    fn results_come_in_the_order_of_the_items_whoever_made_them() {
        for count in [1, 3] {
            let mut makers = vec![0; count];
            let items: Vec<usize> = (0..50).collect();
            let mut all = Vec::new();
            let work = |made: &mut usize, item: &usize| {
                std::thread::sleep(Duration::from_micros(200 * (*item as u64 % 7)));
                *made += 1;
                Ok(2 * item)
            };
            let mut take = |at, result| {
                all.push((at, result));
                Ok(())
            };
            each(&mut makers, &items, &work, &mut take).unwrap();
            each(&mut makers, &[], &work, &mut take).unwrap();
            assert_eq!(all, items.iter().map(|item| (*item, 2 * item)).collect::<Vec<_>>());
            assert_eq!(makers.iter().sum::<usize>(), 50);
        }
    }

    #[test]
    fn an_error_ends_the_work_of_all_behind_what_comes_before_it() {
        let items: Vec<usize> = (0..1000).collect();
        for count in [1, 2] {
            let (mut makers, mut taken) = (vec![0; count], 0);
            let work = |made: &mut usize, item: &usize| {
                std::thread::sleep(Duration::from_micros(100 + 900 * u64::from(*item == 4)));
                *made += 1;
                match item {
                    5 => Err(Error::input("E0986", "no more")),
                    _ => Ok(()),
                }
            };
            let error = each(&mut makers, &items, &work, &mut |_, ()| {
                taken += 1;
                Ok(())
            });
            assert_eq!((error.unwrap_err().code(), taken), ("E0986", 5));
            assert!(makers.iter().sum::<usize>() < 500);
            let full = |at, ()| match at {
                3 => Err(Error::input("E1013", "no room")),
                _ => Ok(()),
            };
            let fine = |made: &mut usize, _: &usize| {
                std::thread::sleep(Duration::from_micros(100));
                *made += 1;
                Ok(())
            };
            let mut makers = vec![0; count];
            let error = each(&mut makers, &items, &fine, &mut { full });
            assert_eq!(error.unwrap_err().code(), "E1013");
            assert!(makers.iter().sum::<usize>() < 500);
        }
    }
}
