//! UniPC for flow matching: order 2, variant bh2, x0-predictions, corrector on (`sampling.md` §4).
//!
//! A step first corrects the sample it is given with the new output of the network, then predicts
//! the next sample. All of it is element-wise, so a step is one pass over the latent. The last level
//! has an infinite λ: the result of that step is the x0-prediction itself, computed without λ.

use super::{Fill, Run, Schedule, Solver, SolverKind, lambda, state_buffer};
use crate::error::{Error, Result};

/// The UniPC solver; keeps three buffers of the latent's size.
#[derive(Clone, Debug)]
pub struct UniPc {
    run: Run,
    order: usize,
    previous_order: usize,
    /// The sample at step i−1 after its own correction.
    corrected: Vec<f32>,
    /// The x0-prediction of step i−1.
    newest: Vec<f32>,
    /// The x0-prediction of step i−2.
    older: Vec<f32>,
}

/// The error of a schedule that starts at noise level 1.
pub(super) fn starts_too_high() -> Error {
    let message = "the solver unipc cannot start at noise level 1, where its time λ is infinite";
    Error::input("E0925", message)
        .at("noise level 0")
        .help("use the schedule wan or diffusers, or the solver euler, dpmpp or lcm")
}

/// x = from_sample·x̄ + from_newest·m0 + d_older·(m_older − m0) + d_now·(m_now − m0).
#[derive(Clone, Copy, Debug)]
struct Corrector {
    sample: f32,
    newest: f32,
    older_difference: f32,
    now_difference: f32,
}

/// x_next = from_sample·x + from_now·m_now + d_newest·(m_newest − m_now).
#[derive(Clone, Copy, Debug)]
struct Predictor {
    sample: f32,
    now: f32,
    newest_difference: f32,
}

impl UniPc {
    /// A solver of `order` 1 or 2 for `schedule` and `elements` values.
    ///
    /// # Errors
    /// E0925 for a schedule that starts at σ = 1 or does not fall strictly to 0, E0927 without
    /// memory for the state, E0932 for another order.
    pub fn new(schedule: &Schedule, elements: usize, order: usize) -> Result<Self> {
        if !(1..=2).contains(&order) {
            return Err(Error::input("E0932", format!("solver order {order} is not supported"))
                .at("solver_order")
                .help("use order 2, or 1"));
        }
        let run = Run::new(schedule, elements)?;
        if run.sigmas[0] >= 1.0 {
            return Err(starts_too_high());
        }
        Ok(Self {
            run,
            order,
            previous_order: 0,
            corrected: state_buffer(elements)?,
            newest: state_buffer(elements)?,
            older: state_buffer(elements)?,
        })
    }

    /// Order of the predictor of step `index`.
    fn order_at(&self, index: usize) -> usize {
        self.order.min(self.run.steps() - index).min(index + 1)
    }

    /// Coefficients of UniC at step `i` ≥ 1, from the order the predictor of step i−1 had.
    fn corrector(&self, i: usize) -> Corrector {
        let (now, before) = (self.run.sigma(i), self.run.sigma(i - 1));
        let h = lambda(now) - lambda(before);
        let hh = -h;
        let phi = hh.exp_m1();
        let b = phi;
        let k1 = phi / hh - 1.0;
        let b1 = k1 / b;
        let k2 = k1 / hh - 0.5;
        let b2 = 2.0 * k2 / b;
        let alpha = 1.0 - now;
        let (older_difference, now_difference) = if self.previous_order == 2 {
            let r = (lambda(self.run.sigma(i - 2)) - lambda(before)) / h;
            let rho1 = (b1 - b2) / (1.0 - r);
            (-alpha * b * rho1 / r, -alpha * b * (b1 - rho1))
        } else {
            (0.0, -alpha * b * 0.5)
        };
        Corrector {
            sample: (now / before) as f32,
            newest: (-alpha * phi) as f32,
            older_difference: older_difference as f32,
            now_difference: now_difference as f32,
        }
    }

    /// Coefficients of UniP from step `i` to i+1, for a next level above 0.
    fn predictor(&self, i: usize, order: usize) -> Predictor {
        let (next, now) = (self.run.sigma(i + 1), self.run.sigma(i));
        let h = lambda(next) - lambda(now);
        let phi = (-h).exp_m1();
        let alpha = 1.0 - next;
        let newest_difference = if order == 2 {
            let r = (lambda(self.run.sigma(i - 1)) - lambda(now)) / h;
            -alpha * phi * 0.5 / r
        } else {
            0.0
        };
        Predictor {
            sample: (next / now) as f32,
            now: (-alpha * phi) as f32,
            newest_difference: newest_difference as f32,
        }
    }
}

impl Solver for UniPc {
    fn step(&mut self, index: usize, x: &mut [f32], velocity: &[f32]) -> Result<()> {
        self.run.admit(index, x, velocity)?;
        let sigma = self.run.sigmas[index];
        let steps = self.run.steps();
        if index + 1 == steps {
            for (x, v) in x.iter_mut().zip(velocity) {
                *x -= sigma * v;
            }
            return Ok(());
        }
        let order = self.order_at(index);
        let predictor = self.predictor(index, order);
        if index == 0 {
            for (((x, v), corrected), older) in
                x.iter_mut().zip(velocity).zip(&mut self.corrected).zip(&mut self.older)
            {
                let now = *x - sigma * v;
                *corrected = *x;
                *older = now;
                *x = predictor.sample * *x + predictor.now * now;
            }
        } else {
            let corrector = self.corrector(index);
            for ((((x, v), corrected), newest), older) in x
                .iter_mut()
                .zip(velocity)
                .zip(&mut self.corrected)
                .zip(&self.newest)
                .zip(&mut self.older)
            {
                let now = *x - sigma * v;
                let fixed = corrector.sample * *corrected
                    + corrector.newest * newest
                    + (corrector.older_difference * (*older - newest)
                        + corrector.now_difference * (now - newest));
                *corrected = fixed;
                *older = now;
                *x = predictor.sample * fixed
                    + predictor.now * now
                    + predictor.newest_difference * (newest - now);
            }
        }
        // The prediction of this step was written over the oldest one.
        std::mem::swap(&mut self.newest, &mut self.older);
        self.previous_order = order;
        Ok(())
    }

    fn reset(&mut self) {
        self.run.next = 0;
        self.previous_order = 0;
    }

    fn kept(&self) -> Vec<(&'static str, &[f32])> {
        vec![("corrected", &self.corrected), ("newest", &self.newest), ("older", &self.older)]
    }

    fn resume(&mut self, done: usize, fill: Fill<'_>) -> Result<()> {
        fill("corrected", &mut self.corrected)?;
        fill("newest", &mut self.newest)?;
        fill("older", &mut self.older)?;
        self.run.resume(done)?;
        self.previous_order = done.checked_sub(1).map_or(0, |last| self.order_at(last));
        Ok(())
    }

    fn kind(&self) -> SolverKind {
        SolverKind::UniPc
    }
}

#[cfg(test)]
mod tests {
    use super::super::ScheduleKind;
    use super::*;

    /// Section 4 written out on scalars in f64, without the merged coefficients.
    fn reference(sigmas: &[f64], order: usize, v: impl Fn(f64, f64) -> f64) -> Vec<f64> {
        let steps = sigmas.len() - 1;
        let (mut x, mut stored, mut previous_order) = (0.7, 0.0, 0);
        let mut m: Vec<f64> = Vec::new();
        let mut all = Vec::new();
        for i in 0..steps {
            let now = x - sigmas[i] * v(x, sigmas[i]);
            if i >= 1 {
                let h = lambda(sigmas[i]) - lambda(sigmas[i - 1]);
                let phi = (-h).exp_m1();
                let k1 = phi / -h - 1.0;
                let b1 = k1 / phi;
                let b2 = 2.0 * (k1 / -h - 0.5) / phi;
                let alpha = 1.0 - sigmas[i];
                let base = sigmas[i] / sigmas[i - 1] * stored - alpha * phi * m[i - 1];
                x = if previous_order == 1 {
                    base - alpha * phi * 0.5 * (now - m[i - 1])
                } else {
                    let r = (lambda(sigmas[i - 2]) - lambda(sigmas[i - 1])) / h;
                    let d1 = (m[i - 2] - m[i - 1]) / r;
                    let rho1 = (b1 - b2) / (1.0 - r);
                    let rho2 = b1 - rho1;
                    assert!((r * rho1 + rho2 - b2).abs() < 1e-9);
                    base - alpha * phi * (rho1 * d1 + rho2 * (now - m[i - 1]))
                };
            }
            m.push(now);
            stored = x;
            let p = order.min(steps - i).min(i + 1);
            previous_order = p;
            x = if i + 1 == steps {
                now
            } else {
                let h = lambda(sigmas[i + 1]) - lambda(sigmas[i]);
                let phi = (-h).exp_m1();
                let alpha = 1.0 - sigmas[i + 1];
                let mut next = sigmas[i + 1] / sigmas[i] * x - alpha * phi * now;
                if p == 2 {
                    let r = (lambda(sigmas[i - 1]) - lambda(sigmas[i])) / h;
                    next -= alpha * phi * 0.5 * (m[i - 1] - now) / r;
                }
                next
            };
            all.push(x);
        }
        all
    }

    #[test]
    fn merged_coefficients_equal_the_formulas_for_both_orders() {
        let model = |x: f64, sigma: f64| 0.4 * (3.0 * x).sin() + sigma;
        for kind in [ScheduleKind::Wan, ScheduleKind::Diffusers] {
            for (steps, shift) in [(1, 5.0), (2, 5.0), (3, 1.0), (7, 3.0), (50, 5.0), (1000, 5.0)] {
                for order in [1, 2] {
                    let schedule = Schedule::new(kind, SolverKind::UniPc, steps, shift).unwrap();
                    let sigmas: Vec<f64> = schedule.sigmas.iter().map(|s| f64::from(*s)).collect();
                    let expected = reference(&sigmas, order, model);
                    let mut solver = UniPc::new(&schedule, 1, order).unwrap();
                    let mut x = [0.7f32];
                    for i in 0..steps {
                        let v = [model(f64::from(x[0]), sigmas[i]) as f32];
                        solver.step(i, &mut x, &v).unwrap();
                        let error = (f64::from(x[0]) - expected[i]).abs();
                        assert!(error < 2e-5, "{kind} {steps} {order} {i}: {error}");
                    }
                }
            }
        }
    }

    #[test]
    fn other_orders_are_refused() {
        let schedule = Schedule::new(ScheduleKind::Wan, SolverKind::UniPc, 3, 5.0).unwrap();
        assert_eq!(UniPc::new(&schedule, 1, 3).unwrap_err().code(), "E0932");
        assert_eq!(UniPc::new(&schedule, 1, 0).unwrap_err().code(), "E0932");
    }
}
