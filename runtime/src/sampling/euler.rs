//! Flow-matching Euler: x ← x + (σ_next − σ)·v (`sampling.md` §6).
//!
//! It has order 1 and no state but the step counter.

use super::{Fill, Run, Schedule, Solver, SolverKind};
use crate::error::Result;

/// The Euler solver.
#[derive(Clone, Debug)]
pub struct Euler {
    run: Run,
}

impl Euler {
    /// A solver for `schedule` and `elements` values.
    ///
    /// # Errors
    /// E0925 when the noise levels do not fall strictly to 0.
    pub fn new(schedule: &Schedule, elements: usize) -> Result<Self> {
        Ok(Self { run: Run::new(schedule, elements)? })
    }
}

impl Solver for Euler {
    fn step(&mut self, index: usize, x: &mut [f32], velocity: &[f32]) -> Result<()> {
        self.run.admit(index, x, velocity)?;
        let difference = (self.run.sigma(index + 1) - self.run.sigma(index)) as f32;
        for (x, v) in x.iter_mut().zip(velocity) {
            *x += difference * v;
        }
        Ok(())
    }

    fn reset(&mut self) {
        self.run.next = 0;
    }

    fn kept(&self) -> Vec<(&'static str, &[f32])> {
        Vec::new()
    }

    fn resume(&mut self, done: usize, _: Fill<'_>) -> Result<()> {
        self.run.resume(done)
    }

    fn kind(&self) -> SolverKind {
        SolverKind::Euler
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_step_moves_along_the_velocity() {
        let schedule = Schedule { sigmas: vec![1.0, 0.25, 0.0], timesteps: vec![1000.0, 250.0] };
        let mut solver = Euler::new(&schedule, 2).unwrap();
        let mut x = [1.0f32, -1.0];
        solver.step(0, &mut x, &[4.0, 2.0]).unwrap();
        assert_eq!(x, [-2.0, -2.5]);
        solver.step(1, &mut x, &[4.0, 2.0]).unwrap();
        assert_eq!(x, [-3.0, -3.0]);
    }
}
