//! Schedules and solvers: sigmas, timesteps, and the sample after every step.

use anyid_runtime::sampling::{Schedule, ScheduleKind, SchedulerSettings, SolverKind, solver};
use anyid_tests::close::{Check, absolute, relative};
use anyid_tests::fixtures::{Tensors, json};
use std::path::Path;

pub(crate) fn run(case: &Path) -> Vec<(String, Vec<Check>)> {
    let inputs = Tensors::open(&case.join("inputs.safetensors"));
    let expected = Tensors::open(&case.join("expected.safetensors"));
    let start = inputs.get("sample").to_f32_vec();
    let shift = |file: &str, key: &str| json(&case.join(file))[key].as_f64().expect("a shift");
    let settings =
        SchedulerSettings::from_diffusers(&json(&case.join("unipc_scheduler_config.json")))
            .unwrap_or_else(|e| panic!("{e}"));
    let euler_shift = shift("euler_scheduler_config.json", "shift");
    let mut checks = Vec::new();
    let runs: Vec<(String, usize)> = expected
        .names()
        .filter_map(|name| name.strip_suffix(".samples"))
        .filter_map(|name| Some((name.to_owned(), name.split_once(".n")?.1.parse().ok()?)))
        .collect();
    for (name, steps) in runs {
        let unipc = name.starts_with("unipc");
        let (kind, schedule) = if unipc {
            (SolverKind::UniPc, settings.schedule(steps))
        } else {
            let kind = ScheduleKind::DiffusersEuler;
            (SolverKind::Euler, Schedule::new(kind, SolverKind::Euler, steps, euler_shift))
        };
        let schedule = schedule.unwrap_or_else(|e| panic!("{e}"));
        let mut push = |what: &str, error: f64, tolerance: f64| {
            checks.push(Check { name: format!("{name}.{what}"), error, tolerance });
        };
        let f64s = |values: &[f32]| values.iter().map(|v| f64::from(*v)).collect::<Vec<_>>();
        let golden = |what: &str| expected.get(&format!("{name}.{what}")).to_f64_vec();
        push("sigmas", absolute(&f64s(&schedule.sigmas), &golden("sigmas")), 1e-7);
        let times = f64s(&schedule.timesteps);
        if unipc {
            push("timesteps", absolute(&times, &golden("timesteps")), 0.0);
        } else {
            push("timesteps", relative(&times, &golden("timesteps")), 1e-6);
        }
        let mut sample = start.clone();
        let mut stepper = solver(kind, &schedule, start.len()).unwrap_or_else(|e| panic!("{e}"));
        let (outputs, samples) = (golden("model_outputs"), golden("samples"));
        for step in 0..steps {
            let range = step * start.len()..(step + 1) * start.len();
            let v: Vec<f32> = outputs[range.clone()].iter().map(|v| *v as f32).collect();
            stepper.step(step, &mut sample, &v).unwrap_or_else(|e| panic!("{e}"));
            let error = relative(&f64s(&sample), &samples[range]);
            push(&format!("samples[{step}]"), error, 1e-5);
        }
    }
    vec![("solvers".to_owned(), checks)]
}
