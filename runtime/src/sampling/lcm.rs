//! The sampler of models that were distilled to a few steps (LCM, DMD and what was made with them): the
//! clean latents are predicted and noised again, x ← (1−σ_next)·x0 + σ_next·ε.
//!
//! ε is new in each step. It is counter-based noise of a stream of its own, so that any step can be made
//! by itself; the solver has no state but the step counter.

use super::{Fill, NoiseStream, Run, Schedule, Solver, SolverKind};
use crate::error::Result;

/// The solver that noises again.
#[derive(Clone, Debug)]
pub struct Lcm {
    run: Run,
    seed: u64,
}

/// Values of noise that are made at a time.
const PIECE: usize = 1024;

impl Lcm {
    /// A solver for `schedule` and `elements` values, with noise of seed 0.
    ///
    /// # Errors
    /// E0925 when the noise levels do not fall strictly to 0.
    pub fn new(schedule: &Schedule, elements: usize) -> Result<Self> {
        Ok(Self { run: Run::new(schedule, elements)?, seed: 0 })
    }
}

impl Solver for Lcm {
    fn step(&mut self, index: usize, x: &mut [f32], velocity: &[f32]) -> Result<()> {
        self.run.admit(index, x, velocity)?;
        let (sigma, next) = (self.run.sigmas[index], self.run.sigmas[index + 1]);
        let stream = NoiseStream::new(self.seed, NoiseStream::AGAIN);
        let begin = (index * x.len()) as u64;
        let mut noise = [0.0; PIECE];
        for (at, (x, v)) in x.chunks_mut(PIECE).zip(velocity.chunks(PIECE)).enumerate() {
            let noise = &mut noise[..x.len()];
            if next > 0.0 {
                stream.fill(begin + (at * PIECE) as u64, noise);
            }
            for ((x, v), noise) in x.iter_mut().zip(v).zip(noise.iter()) {
                let clean = *x - sigma * v;
                *x = (1.0 - next) * clean + next * noise;
            }
        }
        Ok(())
    }

    fn reset(&mut self) {
        self.run.next = 0;
    }

    fn seed(&mut self, seed: u64) {
        self.seed = seed;
    }

    fn kept(&self) -> Vec<(&'static str, &[f32])> {
        Vec::new()
    }

    fn resume(&mut self, done: usize, _: Fill<'_>) -> Result<()> {
        self.run.resume(done)
    }

    fn kind(&self) -> SolverKind {
        SolverKind::Lcm
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_step_predicts_and_noises_again() {
        let schedule = Schedule { sigmas: vec![1.0, 0.25, 0.0], timesteps: vec![1000.0, 250.0] };
        let mut solver = Lcm::new(&schedule, 2000).unwrap();
        solver.seed(9);
        let mut x = vec![1.0f32; 2000];
        solver.step(0, &mut x, &[3.0; 2000]).unwrap();
        let noise = NoiseStream::new(9, NoiseStream::AGAIN);
        for at in [0, 1, 1023, 1024, 1999] {
            assert_eq!(x[at], 0.75 * -2.0 + 0.25 * noise.at(at as u64));
        }
        let before = x.clone();
        solver.step(1, &mut x, &[2.0; 2000]).unwrap();
        assert_eq!(x[7], before[7] - 0.5, "the last step adds no noise");
        // The second step has noise of its own.
        let three = Schedule { sigmas: vec![1.0, 0.5, 0.25, 0.0], timesteps: vec![0.0; 3] };
        let mut solver = Lcm::new(&three, 2).unwrap();
        let mut x = [0.0; 2];
        solver.step(0, &mut x, &[0.0; 2]).unwrap();
        solver.step(1, &mut x, &[0.0; 2]).unwrap();
        let noise = NoiseStream::new(0, NoiseStream::AGAIN);
        assert_eq!(x[1], 0.75 * (0.5 * noise.at(1)) + 0.25 * noise.at(3));
    }
}
