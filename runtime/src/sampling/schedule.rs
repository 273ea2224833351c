//! Noise levels and network timesteps of a run, and what a diffusers scheduler file asks for.
//!
//! The schedules A to E of `sampling.md` §3 are computed in f64 and stored as f32. The solver uses
//! the noise levels as stored; the network sees the timesteps. A scheduler file is read key by key,
//! and a setting that would change the numbers in a way that is not implemented is refused by name.

use serde_json::Value;

use super::{ScheduleKind, Solver, SolverKind, UniPc, solver};
use crate::error::{Error, Result};

/// Largest number of steps of a schedule: the number of timesteps that the model was trained with.
pub const MAX_STEPS: usize = 1000;
/// Default shift of the model.
pub const DEFAULT_SHIFT: f64 = 5.0;
/// Default number of steps of the model.
pub const DEFAULT_STEPS: usize = 50;

/// The network's timesteps are 1000·σ; this says what happens to their fractions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TimestepRounding {
    /// Cut off, as UniPC and DPM-Solver++ programs do (they store integers).
    Trunc,
    /// Kept, as Euler programs do.
    None,
}

/// Noise levels σ_0 > σ_1 > … > σ_N = 0 and the N timesteps the network sees.
#[derive(Clone, Debug, PartialEq)]
pub struct Schedule {
    /// N+1 noise levels, falling strictly, from at most 1 to exactly 0.
    pub sigmas: Vec<f32>,
    /// N timesteps on the scale 0 to 1000.
    pub timesteps: Vec<f32>,
}

impl Schedule {
    /// The schedule `kind` for `solver`, `steps` and `shift`.
    ///
    /// | kind | unipc | dpmpp | euler, lcm |
    /// | --- | --- | --- | --- |
    /// | `Wan` | A | C | D |
    /// | `Diffusers` | B | B | D |
    /// | `DiffusersEuler` | refused | refused | E |
    ///
    /// Timesteps are cut to integers for `unipc` and `dpmpp` and kept for `euler` and `lcm`.
    ///
    /// # Errors
    /// E0923 for 0 or more than 1000 steps, E0924 for a shift that is not positive and finite or so
    /// extreme that two levels coincide in f32, E0925 for a refused pair.
    pub fn new(kind: ScheduleKind, solver: SolverKind, steps: usize, shift: f64) -> Result<Self> {
        Self::with_rounding(kind, solver, steps, shift, Self::rounding(solver))
    }

    /// As [`Schedule::new`], with the rounding of the timesteps chosen by the caller.
    ///
    /// # Errors
    /// As [`Schedule::new`].
    pub fn with_rounding(
        kind: ScheduleKind,
        solver: SolverKind,
        steps: usize,
        shift: f64,
        rounding: TimestepRounding,
    ) -> Result<Self> {
        check_steps(steps)?;
        check_shift(shift)?;
        let made = Self::made_of(&Self::levels(kind, solver, steps, shift)?, rounding);
        let starts_too_high = solver == SolverKind::UniPc && made.sigmas[0] >= 1.0;
        if made.check().is_err() || starts_too_high {
            return Err(Error::input(
                "E0924",
                format!("shift {shift} with {steps} steps gives noise levels that coincide"),
            )
            .at("shift")
            .help("use a shift between 1 and 20; 5 is the usual value"));
        }
        Ok(made)
    }

    /// The schedule of noise levels that a user gives, without the last one, 0, which may be there
    /// all the same. They are taken as they are: no shift is applied to them.
    ///
    /// # Errors
    /// E0923 for none or more than 1000, E0925 for levels that do not fall from at most 1, or that the
    /// solver cannot begin with.
    pub fn of_levels(levels: &[f64], solver: SolverKind) -> Result<Self> {
        let levels = match levels {
            [rest @ .., 0.0] => rest,
            all => all,
        };
        check_steps(levels.len())?;
        let made = Self::made_of(levels, Self::rounding(solver));
        made.check()?;
        if solver == SolverKind::UniPc && made.sigmas[0] >= 1.0 {
            let help = "begin below 1, such as with 0.9998, or take the solver euler, dpmpp or lcm";
            return Err(super::unipc::starts_too_high().advised(help));
        }
        Ok(made)
    }

    /// What happens to the fractions of the timesteps that the network sees.
    fn rounding(solver: SolverKind) -> TimestepRounding {
        match solver {
            SolverKind::Euler | SolverKind::Lcm => TimestepRounding::None,
            SolverKind::UniPc | SolverKind::Dpmpp => TimestepRounding::Trunc,
        }
    }

    fn made_of(levels: &[f64], rounding: TimestepRounding) -> Self {
        let mut sigmas: Vec<f32> = levels.iter().map(|level| *level as f32).collect();
        sigmas.push(0.0);
        let timesteps = match rounding {
            TimestepRounding::Trunc => levels.iter().map(|s| (1000.0 * s).trunc() as f32).collect(),
            TimestepRounding::None => sigmas[..levels.len()].iter().map(|s| 1000.0 * s).collect(),
        };
        Self { sigmas, timesteps }
    }

    /// The noise levels of a schedule without the last one, which is 0.
    fn levels(
        kind: ScheduleKind,
        solver: SolverKind,
        steps: usize,
        shift: f64,
    ) -> Result<Vec<f64>> {
        Ok(match (kind, solver) {
            (ScheduleKind::Wan, SolverKind::UniPc) => wan_unipc(steps, shift),
            (ScheduleKind::Wan, SolverKind::Dpmpp)
            | (ScheduleKind::Wan | ScheduleKind::Diffusers, SolverKind::Euler | SolverKind::Lcm) => {
                full_range(steps, shift)
            }
            (ScheduleKind::Diffusers, SolverKind::UniPc | SolverKind::Dpmpp) => {
                diffusers_flow(steps, shift)
            }
            (ScheduleKind::DiffusersEuler, SolverKind::Euler) => diffusers_euler(steps, shift),
            (
                ScheduleKind::DiffusersEuler,
                SolverKind::UniPc | SolverKind::Dpmpp | SolverKind::Lcm,
            ) => {
                return Err(Error::input(
                    "E0925",
                    format!("the schedule {kind} cannot be used with the solver {solver}"),
                )
                .at("schedule")
                .help("use the solver euler, or the schedule wan or diffusers"));
            }
        })
    }

    /// Number of steps N.
    pub fn steps(&self) -> usize {
        self.timesteps.len()
    }

    /// Checks a schedule made by hand: N ≥ 1 timesteps, N+1 levels that fall strictly from at most
    /// 1 to exactly 0.
    ///
    /// # Errors
    /// E0925 with the index of the first level that is wrong.
    pub fn check(&self) -> Result<()> {
        let fault = |at: usize, message: String| {
            Err(Error::input("E0925", message)
                .at(format!("noise level {at}"))
                .help("noise levels must fall strictly from at most 1 to exactly 0"))
        };
        let (levels, timesteps) = (self.sigmas.len(), self.timesteps.len());
        if levels < 2 || timesteps + 1 != levels {
            let text = format!("a schedule of {levels} noise levels and {timesteps} timesteps");
            return fault(0, text);
        }
        // The comparison is written so that NaN fails.
        let first = self.sigmas[0];
        if !(first > 0.0 && first <= 1.0) {
            return fault(0, format!("the schedule starts at noise level {first}"));
        }
        for (at, pair) in self.sigmas.windows(2).enumerate() {
            if !pair[1].is_finite() || pair[1] >= pair[0] {
                let text = format!("noise level {} follows {}", pair[1], pair[0]);
                return fault(at + 1, text);
            }
        }
        let last = self.sigmas[levels - 1];
        if last != 0.0 {
            return fault(levels - 1, format!("the schedule ends at noise level {last}"));
        }
        Ok(())
    }
}

/// Checks a number of steps: 1 to 1000.
///
/// # Errors
/// E0923 for anything else.
pub fn check_steps(steps: usize) -> Result<()> {
    if (1..=MAX_STEPS).contains(&steps) {
        return Ok(());
    }
    Err(Error::input("E0923", format!("{steps} steps: a run has 1 to {MAX_STEPS} steps"))
        .at("steps")
        .help("50 is the usual value; fewer than 10 give rough results"))
}

/// Checks a shift: positive and finite.
///
/// # Errors
/// E0924 for anything else.
pub fn check_shift(shift: f64) -> Result<()> {
    shift_named(shift, "shift")
}

/// [`check_shift`] for a shift that came from `place`.
fn shift_named(shift: f64, place: &str) -> Result<()> {
    if shift.is_finite() && shift > 0.0 {
        return Ok(());
    }
    Err(Error::input("E0924", format!("shift {shift} is not a positive number"))
        .at(place)
        .help("5 is the usual value; 3 is suggested for small sizes; 1 means no shift"))
}

/// S(u) = s·u / (1 + (s−1)·u).
fn shifted(shift: f64, u: f64) -> f64 {
    shift * u / (1.0 + (shift - 1.0) * u)
}

/// `count` values from `start` in equal steps, the way numpy computes them: i·step + start.
fn ramp(start: f64, end: f64, divisions: usize, count: usize) -> impl Iterator<Item = f64> {
    let step = (end - start) / divisions as f64;
    (0..count).map(move |i| i as f64 * step + start)
}

/// A: from S(0.999), with 0.999 rounded to f32 first.
fn wan_unipc(steps: usize, shift: f64) -> Vec<f64> {
    let start = f64::from(0.999_f32);
    ramp(start, 0.0, steps, steps).map(|u| shifted(shift, u)).collect()
}

/// B: from 1 to 0.001 without the end; a first level of 1 is lowered so that λ stays finite.
fn diffusers_flow(steps: usize, shift: f64) -> Vec<f64> {
    let mut levels: Vec<f64> =
        ramp(1.0, 1.0 / 1000.0, steps, steps).map(|u| shifted(shift, u)).collect();
    if (levels[0] - 1.0).abs() < 1e-6 {
        levels[0] -= 1e-6;
    }
    levels
}

/// C and D: from exactly 1 to 0 without the end.
fn full_range(steps: usize, shift: f64) -> Vec<f64> {
    ramp(1.0, 0.0, steps, steps).map(|u| shifted(shift, u)).collect()
}

/// E: the shift applied to the ends (in f32, as that class stores them) and again to every level.
fn diffusers_euler(steps: usize, shift: f64) -> Vec<f64> {
    let end = |u: f32| {
        let shift = shift as f32;
        f64::from(shift * u / (1.0 + (shift - 1.0) * u))
    };
    // A single step consists of the start alone, because a division into 0 parts is undefined.
    let divisions = steps.saturating_sub(1).max(1);
    ramp(end(1.0), end(0.001), divisions, steps).map(|u| shifted(shift, u)).collect()
}

/// The sampling settings of a model folder, or the defaults of the original programs.
#[derive(Clone, Debug, PartialEq)]
pub struct SchedulerSettings {
    /// The solver.
    pub solver: SolverKind,
    /// Where the noise levels come from.
    pub schedule: ScheduleKind,
    /// The shift of the noise levels.
    pub shift: f64,
    /// Order of UniPC, 1 or 2.
    pub order: usize,
    /// Warnings for the user, one sentence each.
    pub warnings: Vec<String>,
}

impl Default for SchedulerSettings {
    /// The settings of an original checkpoint: UniPC of order 2, schedule A, shift 5.
    fn default() -> Self {
        Self {
            solver: SolverKind::UniPc,
            schedule: ScheduleKind::Wan,
            shift: DEFAULT_SHIFT,
            order: 2,
            warnings: Vec::new(),
        }
    }
}

/// One key of a scheduler file that must have one value, because nothing else is implemented.
struct Demand {
    key: &'static str,
    value: Value,
    /// The class's default for a missing key differs from `value`.
    required: bool,
}

impl SchedulerSettings {
    /// Reads the content of a diffusers `scheduler_config.json`: `UniPCMultistepScheduler` with
    /// flow sigmas, or `FlowMatchEulerDiscreteScheduler`.
    ///
    /// If `flow_shift` or `shift` is missing, 5 is taken with a warning. Unknown keys lead to
    /// warnings. The Euler class gets schedule D with a warning, because in diffusers it applies
    /// its shift twice.
    ///
    /// # Errors
    /// E0930 for content that is not an object, lacks `_class_name` or has a value of the wrong type,
    /// E0931 for another class, E0932 for a setting that is not implemented, E0924 for a bad shift.
    pub fn from_diffusers(config: &Value) -> Result<Self> {
        let Some(object) = config.as_object() else {
            return Err(malformed("the whole file", "is not a JSON object"));
        };
        let class = match object.get("_class_name") {
            None => return Err(malformed("_class_name", "is missing")),
            Some(Value::String(class)) => class.as_str(),
            Some(_) => return Err(malformed("_class_name", "is not a text")),
        };
        let (solver, schedule, shift_key, demands, harmless) = match class {
            "UniPCMultistepScheduler" => (
                SolverKind::UniPc,
                ScheduleKind::Diffusers,
                "flow_shift",
                unipc_demands(),
                UNIPC_HARMLESS,
            ),
            "FlowMatchEulerDiscreteScheduler" => {
                (SolverKind::Euler, ScheduleKind::Wan, "shift", euler_demands(), EULER_HARMLESS)
            }
            other => {
                return Err(Error::input(
                    "E0931",
                    format!("the scheduler class {} is not supported", shown(&Value::from(other))),
                )
                .at("scheduler_config.json: _class_name")
                .help(
                    "supported are UniPCMultistepScheduler (with flow sigmas) and \
                     FlowMatchEulerDiscreteScheduler; or choose solver, schedule and shift \
                     yourself",
                ));
            }
        };
        for demand in &demands {
            demand.check(object.get(demand.key))?;
        }
        let mut warnings = Vec::new();
        let shift = match object.get(shift_key) {
            None | Some(Value::Null) => {
                warnings.push(format!(
                    "scheduler_config.json has no {shift_key}: using the model's usual \
                     {DEFAULT_SHIFT}"
                ));
                DEFAULT_SHIFT
            }
            Some(value) => value.as_f64().ok_or_else(|| malformed(shift_key, "is not a number"))?,
        };
        shift_named(shift, &format!("scheduler_config.json: {shift_key}"))?;
        let order = match object.get("solver_order") {
            None | Some(Value::Null) => 2,
            Some(value) => match value.as_u64() {
                Some(1) => 1,
                Some(2) => 2,
                Some(_) => return Err(refused("solver_order", value, "2 or 1")),
                None => return Err(malformed("solver_order", "is not a whole number")),
            },
        };
        if solver == SolverKind::Euler {
            warnings.push(format!(
                "FlowMatchEulerDiscreteScheduler applies its shift twice in diffusers; it is \
                 applied once here (schedule {} repeats the other)",
                ScheduleKind::DiffusersEuler
            ));
        }
        for key in object.keys() {
            let known = key.starts_with('_')
                || key == shift_key
                || harmless.contains(&key.as_str())
                || demands.iter().any(|demand| demand.key == key);
            if !known {
                let key = shown(&Value::from(key.as_str()));
                warnings.push(format!("scheduler_config.json: unknown key {key} is ignored"));
            }
        }
        Ok(Self { solver, schedule, shift, order, warnings })
    }

    /// The schedule of these settings for a number of steps.
    ///
    /// # Errors
    /// As [`Schedule::new`].
    pub fn schedule(&self, steps: usize) -> Result<Schedule> {
        Schedule::new(self.schedule, self.solver, steps, self.shift)
    }

    /// The solver of these settings for a schedule and a latent of `elements` values.
    ///
    /// # Errors
    /// As [`solver`].
    pub fn solver(&self, schedule: &Schedule, elements: usize) -> Result<Box<dyn Solver>> {
        match self.solver {
            SolverKind::UniPc => Ok(Box::new(UniPc::new(schedule, elements, self.order)?)),
            SolverKind::Euler | SolverKind::Dpmpp | SolverKind::Lcm => {
                solver(self.solver, schedule, elements)
            }
        }
    }
}

impl Demand {
    fn check(&self, found: Option<&Value>) -> Result<()> {
        let Some(found) = found else {
            return if self.required {
                Err(Error::input(
                    "E0932",
                    format!(
                        "scheduler setting {} is missing, so it has its class's default",
                        self.key
                    ),
                )
                .at(format!("scheduler_config.json: {}", self.key))
                .help(format!("only {} = {} is supported", self.key, self.value)))
            } else {
                Ok(())
            };
        };
        let agrees = match (&self.value, found) {
            // Older files write null for a setting that is off.
            (Value::Bool(false), Value::Null) => true,
            (Value::Number(wanted), Value::Number(found)) => wanted.as_f64() == found.as_f64(),
            (wanted, found) => wanted == found,
        };
        if agrees { Ok(()) } else { Err(refused(self.key, found, &self.value.to_string())) }
    }
}

/// Keys of `UniPCMultistepScheduler` that do not change flow sigmas.
const UNIPC_HARMLESS: &[&str] = &[
    "beta_start",
    "beta_end",
    "beta_schedule",
    "trained_betas",
    "rescale_betas_zero_snr",
    "dynamic_thresholding_ratio",
    "sample_max_value",
    "timestep_spacing",
    "steps_offset",
    "time_shift_type",
    "solver_order",
];

/// Keys of `FlowMatchEulerDiscreteScheduler` that matter only with dynamic shifting.
const EULER_HARMLESS: &[&str] =
    &["base_shift", "max_shift", "base_image_seq_len", "max_image_seq_len", "time_shift_type"];

fn unipc_demands() -> Vec<Demand> {
    let mut demands = common_demands();
    demands.extend([
        demand("prediction_type", "flow_prediction", true),
        demand("use_flow_sigmas", true, true),
        demand("predict_x0", true, false),
        demand("solver_type", "bh2", false),
        demand("lower_order_final", true, false),
        demand("thresholding", false, false),
        demand("disable_corrector", Value::Array(Vec::new()), false),
        demand("solver_p", Value::Null, false),
        demand("final_sigmas_type", "zero", false),
        demand("sigma_min", Value::Null, false),
        demand("sigma_max", Value::Null, false),
    ]);
    demands
}

fn euler_demands() -> Vec<Demand> {
    let mut demands = common_demands();
    demands.extend([
        demand("invert_sigmas", false, false),
        demand("stochastic_sampling", false, false),
    ]);
    demands
}

fn common_demands() -> Vec<Demand> {
    vec![
        demand("num_train_timesteps", 1000, false),
        demand("use_karras_sigmas", false, false),
        demand("use_exponential_sigmas", false, false),
        demand("use_beta_sigmas", false, false),
        demand("use_dynamic_shifting", false, false),
        demand("shift_terminal", Value::Null, false),
    ]
}

fn demand(key: &'static str, value: impl Into<Value>, required: bool) -> Demand {
    Demand { key, value: value.into(), required }
}

fn malformed(key: &str, fault: &str) -> Error {
    Error::input("E0930", format!("scheduler configuration: {key} {fault}"))
        .at(format!("scheduler_config.json: {key}"))
        .help("take the file from the model's own folder again")
}

fn refused(key: &str, found: &Value, supported: &str) -> Error {
    Error::input("E0932", format!("scheduler setting {key} = {} is not supported", shown(found)))
        .at(format!("scheduler_config.json: {key}"))
        .help(format!(
            "only {key} = {supported} is supported; or choose solver, schedule and shift yourself"
        ))
}

/// A value of the file, shortened for a message.
fn shown(value: &Value) -> String {
    let text = value.to_string();
    if text.chars().count() <= 60 {
        return text;
    }
    text.chars().take(57).chain("...".chars()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn file(name: &str) -> Value {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/fixtures/");
        serde_json::from_slice(&std::fs::read(format!("{folder}{name}")).expect("fixture")).unwrap()
    }

    #[test]
    fn printed_timesteps_of_a_and_b() {
        let a = Schedule::new(ScheduleKind::Wan, SolverKind::UniPc, 50, 5.0).unwrap();
        let printed = "999 995 991 987 982 978 973 968 963 957 952 946 940 934 927 920 913 906 898 \
                       890 882 873 863 854 843 833 821 809 796 783 768 753 737 720 701 681 660 636 \
                       611 584 555 522 487 448 405 356 302 241 172 92";
        let printed: Vec<f32> = printed.split_whitespace().map(|t| t.parse().unwrap()).collect();
        assert_eq!(a.timesteps, printed);
        for (i, sigma) in [(0, 0.999800), (1, 0.995732), (2, 0.991530), (49, 0.092507)] {
            assert!((a.sigmas[i] - sigma).abs() < 6e-7, "{i} {}", a.sigmas[i]);
        }
        let b = Schedule::new(ScheduleKind::Diffusers, SolverKind::UniPc, 50, 5.0).unwrap();
        let printed = "999 995 991 987 982 978 973 968 963 957 952 946 940 934 927 921 914 906 899 \
                       890 882 873 864 854 844 833 822 810 797 783 769 754 738 720 702 682 661 638 \
                       613 586 556 524 489 450 407 359 305 244 175 96";
        let printed: Vec<f32> = printed.split_whitespace().map(|t| t.parse().unwrap()).collect();
        assert_eq!(b.timesteps, printed);
    }

    #[test]
    fn schedules_c_d_and_e() {
        let c = Schedule::new(ScheduleKind::Wan, SolverKind::Dpmpp, 5, 5.0).unwrap();
        assert_eq!(c.sigmas[0], 1.0);
        assert_eq!(c.timesteps, [1000.0, 952.0, 882.0, 769.0, 555.0]);
        let d = Schedule::new(ScheduleKind::Wan, SolverKind::Euler, 5, 5.0).unwrap();
        assert_eq!(c.sigmas, d.sigmas);
        assert!((d.timesteps[1] - 952.381).abs() < 1e-3);
        let over = Schedule::new(ScheduleKind::Diffusers, SolverKind::Euler, 5, 5.0).unwrap();
        assert_eq!(over, d);
        let e = Schedule::new(ScheduleKind::DiffusersEuler, SolverKind::Euler, 8, 5.0).unwrap();
        assert!((e.timesteps[1] - 967.92).abs() < 0.01 && (e.timesteps[7] - 24.41).abs() < 0.01);
        let one = Schedule::new(ScheduleKind::DiffusersEuler, SolverKind::Euler, 1, 5.0).unwrap();
        assert_eq!(one.sigmas, [1.0, 0.0]);
        let b = Schedule::new(ScheduleKind::Diffusers, SolverKind::Dpmpp, 8, 5.0).unwrap();
        assert!(b.sigmas[0] < 1.0);
    }

    #[test]
    fn rounding_can_be_chosen() {
        let (kind, solver) = (ScheduleKind::Wan, SolverKind::UniPc);
        let exact = Schedule::with_rounding(kind, solver, 8, 5.0, TimestepRounding::None).unwrap();
        let cut = Schedule::new(kind, solver, 8, 5.0).unwrap();
        assert_eq!(exact.sigmas, cut.sigmas);
        for ((exact, cut), sigma) in exact.timesteps.iter().zip(&cut.timesteps).zip(&cut.sigmas) {
            assert_eq!(*exact, 1000.0 * sigma);
            assert_eq!(exact.trunc(), *cut);
        }
    }

    #[test]
    fn every_usable_request_gives_a_strictly_falling_schedule() {
        for solver in SolverKind::ALL {
            for kind in ScheduleKind::ALL {
                for steps in [1, 2, 3, 7, 50, 250, 999, 1000] {
                    for shift in [0.5, 1.0, 3.0, 5.0, 12.0] {
                        let made = Schedule::new(kind, solver, steps, shift);
                        if kind == ScheduleKind::DiffusersEuler && solver != SolverKind::Euler {
                            assert_eq!(made.unwrap_err().code(), "E0925");
                            continue;
                        }
                        let made = made.unwrap();
                        assert_eq!(made.steps(), steps);
                        made.check().unwrap();
                    }
                }
            }
        }
    }

    #[test]
    fn levels_of_ones_own_are_taken_as_they_are() {
        let few = Schedule::of_levels(&[1.0, 0.9375, 0.8333, 0.625], SolverKind::Euler).unwrap();
        assert_eq!(few.sigmas, [1.0, 0.9375, 0.8333, 0.625, 0.0]);
        assert_eq!(few.timesteps, [1000.0, 937.5, 0.8333f32 * 1000.0, 625.0]);
        // The last one, 0, may be there.
        let same = Schedule::of_levels(&[0.99, 0.5, 0.0], SolverKind::UniPc).unwrap();
        assert_eq!(same, Schedule::of_levels(&[0.99, 0.5], SolverKind::UniPc).unwrap());
        assert_eq!(same.timesteps, [990.0, 500.0]);
        // Those that a schedule computes make that schedule.
        let made = Schedule::new(ScheduleKind::Wan, SolverKind::Euler, 7, 5.0).unwrap();
        let levels: Vec<f64> = made.sigmas.iter().map(|s| f64::from(*s)).collect();
        assert_eq!(Schedule::of_levels(&levels, SolverKind::Euler).unwrap(), made);
        for (levels, code) in [
            (&[][..], "E0923"),
            (&[0.0], "E0923"),
            (&[0.5, 0.6], "E0925"),
            (&[0.5, 0.5], "E0925"),
            (&[1.1, 0.5], "E0925"),
            (&[0.5, -0.1], "E0925"),
            (&[f64::NAN], "E0925"),
            (&[0.0, 0.0], "E0925"),
            (&[1.0, 0.5], "E0925"),
        ] {
            let error = Schedule::of_levels(levels, SolverKind::UniPc).unwrap_err();
            assert_eq!(error.code(), code, "{levels:?}");
        }
        assert_eq!(
            Schedule::of_levels(&[0.5; 1001], SolverKind::Euler).unwrap_err().code(),
            "E0923"
        );
    }

    #[test]
    fn unusable_requests_are_coded() {
        let new = |steps, shift| Schedule::new(ScheduleKind::Wan, SolverKind::UniPc, steps, shift);
        for steps in [0, 1001, usize::MAX] {
            assert_eq!(new(steps, 5.0).unwrap_err().code(), "E0923");
        }
        for shift in [0.0, -1.0, f64::NAN, f64::INFINITY, 1e9, 1e300, 1e-300] {
            assert_eq!(new(50, shift).unwrap_err().code(), "E0924", "{shift}");
        }
    }

    #[test]
    fn fixture_files_are_read() {
        for name in [
            "sched/base/unipc_scheduler_config.json",
            "pipeline/base/scheduler/scheduler_config.json",
        ] {
            let read = SchedulerSettings::from_diffusers(&file(name)).unwrap();
            let expected =
                SchedulerSettings { schedule: ScheduleKind::Diffusers, ..Default::default() };
            assert_eq!(read, expected);
            assert_eq!(read.schedule(8).unwrap().timesteps.len(), 8);
        }
        let read =
            SchedulerSettings::from_diffusers(&file("sched/base/euler_scheduler_config.json"))
                .unwrap();
        assert_eq!((read.solver, read.schedule), (SolverKind::Euler, ScheduleKind::Wan));
        assert_eq!((read.shift, read.warnings.len()), (5.0, 1));
        let schedule = read.schedule(4).unwrap();
        assert_eq!(read.solver(&schedule, 1).unwrap().kind(), SolverKind::Euler);
    }

    #[test]
    fn a_missing_shift_is_a_warning_and_order_one_is_kept() {
        let mut config = file("sched/base/unipc_scheduler_config.json");
        let object = config.as_object_mut().unwrap();
        object.remove("flow_shift");
        object.insert("solver_order".into(), json!(1));
        object.insert("use_karras_sigmas".into(), Value::Null);
        object.insert("something_new".into(), json!(3));
        let read = SchedulerSettings::from_diffusers(&config).unwrap();
        assert_eq!((read.shift, read.order), (5.0, 1));
        assert_eq!(read.warnings.len(), 2, "{:?}", read.warnings);
        assert!(read.warnings[0].contains("flow_shift"));
        assert!(read.warnings[1].contains("something_new"));
        let schedule = read.schedule(3).unwrap();
        assert_eq!(read.solver(&schedule, 1).unwrap().kind(), SolverKind::UniPc);
    }

    #[test]
    fn unsupported_settings_are_refused_by_name() {
        let unipc = file("sched/base/unipc_scheduler_config.json");
        let euler = file("sched/base/euler_scheduler_config.json");
        let cases = [
            (&unipc, "use_karras_sigmas", json!(true), "E0932"),
            (&unipc, "solver_order", json!(3), "E0932"),
            (&unipc, "solver_order", json!("2"), "E0930"),
            (&unipc, "prediction_type", json!("epsilon"), "E0932"),
            (&unipc, "thresholding", json!(true), "E0932"),
            (&unipc, "predict_x0", json!(false), "E0932"),
            (&unipc, "solver_type", json!("bh1"), "E0932"),
            (&unipc, "use_flow_sigmas", json!(false), "E0932"),
            (&unipc, "disable_corrector", json!([0]), "E0932"),
            (&unipc, "final_sigmas_type", json!("sigma_min"), "E0932"),
            (&unipc, "lower_order_final", json!(false), "E0932"),
            (&unipc, "num_train_timesteps", json!(500), "E0932"),
            (&unipc, "flow_shift", json!("5"), "E0930"),
            (&unipc, "flow_shift", json!(0), "E0924"),
            (&euler, "use_dynamic_shifting", json!(true), "E0932"),
            (&euler, "stochastic_sampling", json!(true), "E0932"),
            (&euler, "shift", json!(-1.0), "E0924"),
        ];
        for (base, key, value, code) in cases {
            let mut config = base.clone();
            config[key] = value;
            let error = SchedulerSettings::from_diffusers(&config).unwrap_err();
            assert_eq!(error.code(), code, "{key}");
            assert!(error.place().unwrap().contains(key), "{error}");
        }
        let mut config = unipc.clone();
        config.as_object_mut().unwrap().remove("prediction_type");
        assert_eq!(SchedulerSettings::from_diffusers(&config).unwrap_err().code(), "E0932");
        config["_class_name"] = json!("DDIMScheduler");
        assert_eq!(SchedulerSettings::from_diffusers(&config).unwrap_err().code(), "E0931");
        for bad in [json!(null), json!([]), json!({}), json!({"_class_name": 3})] {
            assert_eq!(SchedulerSettings::from_diffusers(&bad).unwrap_err().code(), "E0930");
        }
    }
}
