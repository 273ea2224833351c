//! Every task runs once, whatever else is going on.

use super::*;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

#[test]
fn every_task_runs_once_with_a_valid_worker() {
    for threads in [1, 2, 3, 7] {
        let pool = Pool::new(threads);
        assert_eq!(pool.threads(), threads);
        for tasks in [0, 1, 2, 5, 64, 1000] {
            let counts: Vec<AtomicUsize> = (0..tasks).map(|_| AtomicUsize::new(0)).collect();
            pool.run(tasks, &|task, worker| {
                assert!(worker < threads);
                counts[task].fetch_add(1, Ordering::Relaxed);
            });
            assert!(counts.iter().all(|count| count.load(Ordering::Relaxed) == 1));
        }
    }
}

#[test]
fn many_short_runs_and_sleeping_workers() {
    let pool = Pool::new(3);
    let total = AtomicUsize::new(0);
    for round in 0..2000 {
        if round % 500 == 0 {
            std::thread::sleep(Duration::from_millis(5));
        }
        pool.run(4, &|task, _| {
            total.fetch_add(task, Ordering::Relaxed);
        });
    }
    assert_eq!(total.load(Ordering::Relaxed), 2000 * 6);
}

#[test]
fn a_worker_never_overlaps_itself() {
    let pool = Pool::new(4);
    let busy: Vec<AtomicBool> = (0..4).map(|_| AtomicBool::new(false)).collect();
    pool.run(200, &|_, worker| {
        assert!(!busy[worker].swap(true, Ordering::SeqCst));
        std::thread::yield_now();
        busy[worker].store(false, Ordering::SeqCst);
    });
}

#[test]
fn a_panic_reaches_the_caller_and_the_pool_lives_on() {
    for threads in [1, 3] {
        let pool = Pool::new(threads);
        let outcome = catch_unwind(AssertUnwindSafe(|| {
            pool.run(50, &|task, _| {
                if task == 7 {
                    panic!("task seven");
                }
            });
        }));
        let payload = outcome.expect_err("the panic must arrive");
        assert_eq!(payload.downcast_ref::<&str>(), Some(&"task seven"));
        let total = AtomicUsize::new(0);
        pool.run(10, &|_, _| {
            total.fetch_add(1, Ordering::Relaxed);
        });
        assert_eq!(total.load(Ordering::Relaxed), 10);
    }
}

#[test]
fn nested_and_concurrent_runs_finish() {
    let pool = Pool::new(3);
    let total = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                pool.run(8, &|_, outer| {
                    pool.run(5, &|_, inner| {
                        assert_eq!(inner, outer);
                        total.fetch_add(1, Ordering::Relaxed);
                    });
                });
            });
        }
    });
    assert_eq!(total.load(Ordering::Relaxed), 3 * 8 * 5);
}

#[test]
fn a_flag_leaves_out_the_tasks_that_are_left() {
    for threads in [1, 3] {
        let pool = Pool::new(threads);
        let (flag, done) = (AtomicBool::new(false), AtomicUsize::new(0));
        let count = |_: usize, _: usize| {
            if done.fetch_add(1, Ordering::Relaxed) == 9 {
                flag.store(true, Ordering::Relaxed);
            }
            std::thread::yield_now();
        };
        with_stop(&flag, || {
            pool.run(100_000, &count);
            assert!(stop_requested());
        });
        let ran = done.load(Ordering::Relaxed);
        assert!((10..50_000).contains(&ran), "{ran} tasks");
        // The flag concerns that work alone; a run inside a task obeys it as well.
        assert!(!stop_requested());
        done.store(100, Ordering::Relaxed);
        pool.run(50, &count);
        assert_eq!(done.load(Ordering::Relaxed), 150);
        let inner = AtomicUsize::new(0);
        flag.store(false, Ordering::Relaxed);
        with_stop(&flag, || {
            pool.run(threads, &|_, _| {
                pool.run(1000, &|_, _| {
                    inner.fetch_add(1, Ordering::Relaxed);
                    flag.store(true, Ordering::Relaxed);
                });
            });
        });
        assert!(inner.load(Ordering::Relaxed) <= threads);
    }
}

#[test]
fn a_flag_set_from_another_thread_ends_a_long_loop() {
    let flag = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            std::thread::sleep(Duration::from_millis(5));
            flag.store(true, Ordering::Relaxed);
        });
        let ran = with_stop(&flag, || until_stopped(usize::MAX).map(std::hint::black_box).count());
        assert!(ran < usize::MAX);
    });
    assert_eq!(until_stopped(100_000).count(), 100_000);
}

thread_local! {
    static ENTERED: Cell<usize> = const { Cell::new(0) };
}
static LEFT: AtomicUsize = AtomicUsize::new(0);

#[test]
fn what_a_task_sets_up_lasts_until_its_thread_leaves_the_run() {
    fn enter() {
        ENTERED.set(ENTERED.get() + 1);
    }
    fn leave() {
        ENTERED.set(ENTERED.get() - 1);
        LEFT.fetch_add(1, Ordering::SeqCst);
    }
    for threads in [1, 3] {
        let pool = Pool::new(threads);
        for tasks in [1, 40] {
            let before = LEFT.load(Ordering::SeqCst);
            let met = Mutex::new(std::collections::BTreeSet::new());
            pool.run(tasks, &|_, worker| {
                met.lock().unwrap().insert(worker);
                until_leaving(enter, leave);
                std::thread::yield_now();
                pool.run(2, &|_, _| until_leaving(enter, leave));
                assert_eq!(ENTERED.get(), 1);
            });
            assert_eq!(ENTERED.get(), 0);
            let met = met.into_inner().unwrap().len();
            assert_eq!(LEFT.load(Ordering::SeqCst), before + met);
        }
        let failing = || {
            pool.run(1, &|_, _| {
                until_leaving(enter, leave);
                panic!("a task fails");
            })
        };
        catch_unwind(AssertUnwindSafe(failing)).unwrap_err();
        assert_eq!(ENTERED.get(), 0);
    }
}

#[test]
fn scratch_regions_are_aligned_and_disjoint() {
    let mut buffer = vec![0u8; WorkerScratch::bytes(100, 3)];
    let end = buffer.as_ptr() as usize + buffer.len();
    let scratch = WorkerScratch::new(&mut buffer, 100, 3);
    let starts: Vec<usize> = (0..3).map(|worker| scratch.region(worker) as usize).collect();
    assert!(starts.iter().all(|start| start % ALIGN == 0 && start + 128 <= end + 63));
    assert!(starts[2] + 100 <= end);
    assert!(starts.windows(2).all(|pair| pair[1] - pair[0] == 128));
    assert_eq!(WorkerScratch::bytes(0, 5), 0);
}
