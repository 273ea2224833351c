//! The operations on tiles, by whichever bodies this machine has.

use super::super::threads::Pool;
use super::*;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;

/// The bodies that this machine has; a missing one is named.
pub(in super::super) fn bodies() -> Vec<Tiles> {
    match tiles() {
        Ok(()) => vec![Tiles::Emulated, Tiles::Instructions],
        Err(why) => {
            println!("skipped: AMX, which this machine does not have ({why:?})");
            vec![Tiles::Emulated]
        }
    }
}

/// A product of one tile by another, rows of every operand at a distance.
struct Once<'a> {
    a: &'a [u16],
    b: &'a [u16],
    c: &'a Mutex<Vec<f32>>,
}

/// Elements between rows.
const PITCH: usize = 40;

impl TileWork for Once<'_> {
    unsafe fn run<T: TileOps>(&self) {
        let mut c = self.c.lock().unwrap();
        // SAFETY: sixteen rows of each operand lie `PITCH` elements apart.
        unsafe {
            T::load::<0>(c.as_ptr().cast(), PITCH * 4);
            T::stream::<1>(self.a.as_ptr().cast(), PITCH * 2);
            T::load::<2>(self.b.as_ptr().cast(), PITCH * 2);
            T::multiply::<0, 1, 2>();
            T::zero::<3>();
            T::multiply::<3, 1, 2>();
            T::store::<0>(c.as_mut_ptr().cast(), PITCH * 4);
            T::store::<3>(c.as_mut_ptr().add(16).cast(), PITCH * 4);
        }
    }
}

#[test]
fn a_product_is_that_of_the_elements() {
    let element = |at: usize| (at * 7919 % 31) as f32 - 15.0;
    let halves = |seed: usize| -> Vec<u16> {
        (0..ROWS * PITCH).map(|at| half::bf16::from_f32(element(at + seed)).to_bits()).collect()
    };
    let (a, b) = (halves(1), halves(2));
    for body in bodies() {
        let c = Mutex::new((0..ROWS * PITCH).map(element).collect::<Vec<f32>>());
        let pool = Pool::new(2);
        // SAFETY: the operands are there.
        pool.run(1, &|_, _| unsafe { body.run(&Once { a: &a, b: &b, c: &c }) });
        let c = c.into_inner().unwrap();
        for m in 0..ROWS {
            for n in 0..16 {
                let product: f32 = (0..32)
                    .map(|k| {
                        let b = element((k / 2) * PITCH + 2 * n + k % 2 + 2);
                        element(m * PITCH + k + 1) * b
                    })
                    .sum();
                // Small whole numbers are exact in any order.
                assert_eq!(c[m * PITCH + n], element(m * PITCH + n) + product, "{body:?} {m} {n}");
                assert_eq!(c[m * PITCH + 16 + n], product, "{body:?} {m} {n}");
            }
            let beyond = m * PITCH + 32..(m + 1) * PITCH;
            assert!(beyond.into_iter().all(|at| c[at] == element(at)));
        }
    }
}

#[test]
fn the_bodies_agree_to_the_last_bit() {
    let [_, ref others @ ..] = bodies()[..] else { unreachable!("there is always one") };
    let mut state = 1u64;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        ((state >> 40) as f32 / 8_388_608.0 - 1.0) * 2f32.powi((state >> 32 & 31) as i32 - 16)
    };
    for round in 0..50 {
        let mut halves = || -> Vec<u16> {
            (0..ROWS * PITCH).map(|_| half::bf16::from_f32(next()).to_bits()).collect()
        };
        let (a, b) = (halves(), halves());
        let start: Vec<f32> = (0..ROWS * PITCH).map(|_| next()).collect();
        let by = |body: Tiles| {
            let c = Mutex::new(start.clone());
            // SAFETY: the operands are there.
            Pool::new(1).run(1, &|_, _| unsafe { body.run(&Once { a: &a, b: &b, c: &c }) });
            c.into_inner().unwrap().into_iter().map(f32::to_bits).collect::<Vec<u32>>()
        };
        for other in others {
            assert_eq!(by(Tiles::Emulated), by(*other), "round {round}");
        }
    }
}

/// Uses a tile; work itself does not configure any.
struct Touch;

impl TileWork for Touch {
    unsafe fn run<T: TileOps>(&self) {
        // SAFETY: no memory is touched.
        unsafe { T::zero::<5>() }
    }
}

#[test]
fn tiles_are_configured_on_every_thread_that_uses_them_and_given_back() {
    let pool = Pool::new(3);
    // SAFETY: no memory is touched.
    let touch = || pool.run(64, &|_, _| unsafe { Tiles::Emulated.run(&Touch) });
    // The caller, and threads of a program that embeds the library, which no pool has started.
    touch();
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                touch();
                touch();
            });
        }
    });
    // SAFETY: as above.
    let outside = catch_unwind(AssertUnwindSafe(|| unsafe { Touch.run::<emulated::Emulated>() }));
    assert!(outside.is_err(), "tiles are still there after the run");
}
