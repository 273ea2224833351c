//! Tests of the preflight and of running several requests.

use super::*;
use crate::engine::{Bound, Limit, Room};
use crate::error::Kind;
use crate::media::writer::WriterOptions;
use crate::sampling::SolverKind;
use anyid_ir::Tensor;
use anyid_models::wan::Residual;

fn pixels(frames: usize) -> ReferenceSource {
    let (width, height) = (64, 32);
    let values: Vec<f32> =
        (0..3 * frames * width * height).map(|i| ((i % 97) as f32) / 48.5 - 1.0).collect();
    ReferenceSource::Pixels(Tensor::from_f32([3, frames, height, width], &values).unwrap())
}

fn request() -> Request {
    Request {
        references: vec![pixels(1), pixels(5)],
        prompt: "a walk".into(),
        size: Size { width: 64, height: 32, frames: 5 },
        steps: 2,
        ..Request::default()
    }
}

/// Collects what a run hands out.
#[derive(Default)]
struct Kept {
    latents: Option<Tensor>,
    frames: Vec<Vec<u8>>,
    phases: Vec<&'static str>,
    /// Whether weights were loaded.
    loaded: bool,
    /// The run is stopped when this phase begins.
    stop: Option<(&'static str, Cancel)>,
}

impl Receiver for Kept {
    fn event(&mut self, event: Event) {
        match event {
            Event::Phase(name) => {
                self.phases.push(name);
                if let Some((_, cancel)) = self.stop.as_ref().filter(|(at, _)| *at == name) {
                    cancel.cancel();
                }
            }
            Event::Loading { .. } => self.loaded = true,
            _ => {}
        }
    }

    fn latents(&mut self, latents: &Tensor) -> Result<()> {
        self.latents = Some(latents.clone());
        Ok(())
    }

    fn frames(&mut self, video: &Tensor) -> Result<()> {
        self.frames.push(video.bytes().to_vec());
        Ok(())
    }
}

fn run(pipeline: &Pipeline, request: &Request) -> Kept {
    let mut kept = Kept::default();
    pipeline.generate_with(request, &Cancel::new(), &mut kept).unwrap();
    kept
}

#[test]
fn what_is_planned_is_what_is_held() {
    let pipeline = Pipeline::micro().unwrap();
    for request in [
        request(),
        Request { guidance: 1.0, residual: Residual::Bf16, ..request() },
        Request { precision: Some(Precision::Bf16), references: vec![pixels(1)], ..request() },
        Request { references: Vec::new(), ..request() },
    ] {
        let plan = pipeline.plan(&request, &Cancel::new(), &mut |_| {}).unwrap();
        let planned = plan.phases().to_vec();
        let tokens = plan.tokens();
        let report = plan.run(&Cancel::new(), &mut Kept::default()).unwrap();
        assert_eq!(report.tokens, tokens);
        assert_eq!(report.phases.len(), planned.len());
        for (planned, done) in planned.iter().zip(&report.phases) {
            assert_eq!((planned.name, planned.weight_bytes), (done.name, done.weight_bytes));
            let memory = planned.plan_bytes..=planned.plan_bytes + planned.kept_bytes;
            assert!(memory.contains(&done.plan_bytes), "{planned:?} {done:?}");
            assert!(planned.flops > 0 && planned.held_bytes() > planned.weight_bytes);
        }
    }
}

#[test]
fn the_phase_that_does_not_fit_is_named_before_anything_runs() {
    let pipeline = Pipeline::micro().unwrap();
    let request = request();
    let plan = pipeline.plan(&request, &Cancel::new(), &mut |_| {}).unwrap();
    let room = |bytes: u64, bound: Bound| Room { limits: vec![Limit { bytes, bound }] };
    let needs: Vec<(&str, u64)> =
        plan.phases().iter().map(|phase| (phase.name, phase.held_bytes())).collect();
    let held: u64 = 3 * 6 * 64 * 32 * 4;
    let most = needs.iter().max_by_key(|(_, bytes)| *bytes).unwrap();
    plan.check_room(&room(most.1 - held, Bound::Machine)).unwrap();
    plan.check_room(&Room::default()).unwrap();
    for (bytes, bound, says) in [
        (most.1 - held - 1, Bound::Machine, "can be had"),
        (0, Bound::AddressSpace, "ulimit -v"),
        (0, Bound::ControlGroup("/sys/fs/cgroup/job".into()), "/sys/fs/cgroup/job"),
    ] {
        let error = plan.check_room(&room(bytes, bound)).unwrap_err();
        assert_eq!((error.code(), error.kind()), ("E0603", Kind::Budget));
        let text = error.to_string();
        assert!(error.message().starts_with(most.0) && text.contains(says), "{text}");
        assert!(error.help_text().is_some());
    }
}

#[test]
fn what_would_make_it_fit_does() {
    let pipeline = Pipeline::micro().unwrap();
    let large = Request {
        size: Size { width: 64, height: 64, frames: 2001 },
        references: Vec::new(),
        ..request()
    };
    let plan = pipeline.plan(&large, &Cancel::new(), &mut |_| {}).unwrap();
    let need =
        |name: &str| plan.phases().iter().find(|phase| phase.name == name).unwrap().held_bytes();
    let others = plan.phases().iter().filter(|phase| phase.name != "sampling");
    let others = others.map(PhasePlan::held_bytes).max().unwrap();
    let limit = Limit { bytes: others.max(need("sampling") * 2 / 5), bound: Bound::Machine };
    assert!(limit.bytes < need("sampling"), "{:?}", plan.phases());
    let error = plan.check_room(&Room { limits: vec![limit.clone()] }).unwrap_err();
    let help = error.help_text().unwrap();
    let frames = help.split("--frames ").nth(1).and_then(|rest| rest.split(' ').next());
    let frames: usize = frames.unwrap_or_else(|| panic!("{error}")).parse().unwrap();
    let fits = |frames: usize| {
        let request = Request { size: Size { frames, ..large.size }, ..large.clone() };
        let plan = pipeline.plan(&request, &Cancel::new(), &mut |_| {}).unwrap();
        plan.check_room(&Room { limits: vec![limit.clone()] }).is_ok()
    };
    assert!(fits(frames) && !fits(frames + 4), "{error}");

    // Decoding goes frame by frame: only smaller pictures help.
    let wide = Request { size: Size { width: 512, height: 512, frames: 5 }, ..large.clone() };
    let plan = pipeline.plan(&wide, &Cancel::new(), &mut |_| {}).unwrap();
    let limit = Limit { bytes: plan.most_bytes() / 2, bound: Bound::Machine };
    let error = plan.check_room(&Room { limits: vec![limit.clone()] }).unwrap_err();
    assert!(error.message().starts_with("decoding"), "{error}");
    assert!(error.help_text().unwrap().starts_with("--budget auto or --size "), "{error}");
    let fitted = Request { budget: Budget::Bytes(limit.bytes), ..wide.clone() };
    let plan = pipeline.plan(&fitted, &Cancel::new(), &mut |_| {}).unwrap();
    assert!(plan.most_bytes() <= limit.bytes && plan.tiles().decoder.is_some());
    drop(plan);
    let plan = pipeline.plan(&wide, &Cancel::new(), &mut |_| {}).unwrap();
    let limit = Limit { bytes: 1000, bound: Bound::Machine };
    let error = plan.check_room(&Room { limits: vec![limit] }).unwrap_err();
    assert!(error.help_text().unwrap().contains("no smaller size"), "{error}");
}

#[test]
fn what_the_receiver_holds_counts() {
    let pipeline = Pipeline::micro().unwrap();
    let request = request();
    let mut plan = pipeline.plan(&request, &Cancel::new(), &mut |_| {}).unwrap();
    let before = plan.phases().last().unwrap().pixel_bytes;
    plan.receiver_holds(4096).unwrap();
    assert_eq!(plan.phases().last().unwrap().pixel_bytes, before + 4096);
    if Room::now().least().is_some() {
        assert_eq!(plan.receiver_holds(1 << 60).unwrap_err().code(), "E0603");
    }
}

/// Bytes of the phase `name` of a plan.
fn held(plan: &Preflight<'_>, name: &str) -> u64 {
    plan.phases().iter().find(|phase| phase.name == name).unwrap().held_bytes()
}

#[test]
fn a_budget_is_kept_by_tiles_and_streamed_weights() {
    let pipeline = Pipeline::micro().unwrap();
    let size = Size { width: 384, height: 384, frames: 5 };
    let values: Vec<f32> =
        (0..3 * size.width * size.height).map(|i| ((i % 97) as f32) / 48.5 - 1.0).collect();
    let picture = Tensor::from_f32([3, 1, size.height, size.width], &values).unwrap();
    let references = vec![ReferenceSource::Pixels(picture)];
    let wide = Request { size, references, steps: 1, ..request() };
    let whole = pipeline.plan(&wide, &Cancel::new(), &mut |_| {}).unwrap();
    let (references, decoding) = (held(&whole, "references"), held(&whole, "decoding"));
    assert_eq!(whole.tiles(), Tiles::default());
    drop(whole);
    let fitted = |bytes: u64| Request { budget: Budget::Bytes(bytes), ..wide.clone() };
    // A byte less than a phase needs changes it, and no other that fits.
    let same = fitted(references.max(decoding));
    let plan = pipeline.plan(&same, &Cancel::new(), &mut |_| {}).unwrap();
    assert_eq!(plan.tiles(), Tiles::default());
    drop(plan);
    let (mut before, mut tiles) = (decoding, 0);
    for part in [9, 7, 5, 4] {
        let request = fitted(decoding * part / 10);
        let plan = pipeline.plan(&request, &Cancel::new(), &mut |_| {}).unwrap();
        let planned = plan.phases().to_vec();
        assert!(plan.most_bytes() <= decoding * part / 10 && plan.most_bytes() < before);
        before = plan.most_bytes();
        let made = plan.tiles();
        let count = planned.last().unwrap().tiles.map_or(1, |tiles| tiles.grid.iter().product());
        assert!(made.decoder.is_some() && count >= tiles.max(2), "{planned:?}");
        tiles = count;
        let mut kept = Kept::default();
        let report = plan.run(&Cancel::new(), &mut kept).unwrap();
        for (planned, done) in planned.iter().zip(&report.phases) {
            assert_eq!((planned.name, planned.weight_bytes), (done.name, done.weight_bytes));
            let memory = planned.plan_bytes..=planned.plan_bytes + planned.kept_bytes;
            assert!(memory.contains(&done.plan_bytes), "{planned:?} {done:?}");
        }
        let frames: usize = kept.frames.iter().map(Vec::len).sum();
        assert_eq!(frames, 3 * 5 * size.width * size.height * 4);
        // The tiles that the recipe records give the same without a budget.
        let again = Request { tiles: made, ..wide.clone() };
        assert!(run(&pipeline, &again).frames == kept.frames, "{part}");
    }
    let none = fitted(1000);
    let error = pipeline.plan(&none, &Cancel::new(), &mut |_| {}).err().unwrap();
    assert_eq!((error.code(), error.kind()), ("E0603", Kind::Budget));
    let help = error.help_text().unwrap();
    assert!(error.message().contains("the budget is 1000 B"), "{error}");
    assert!(help.contains("no smaller size") && help.ends_with("a larger budget"), "{error}");
    // What the error says is needed is the least that will do.
    let mut plan = pipeline.plan(&wide, &Cancel::new(), &mut |_| {}).unwrap();
    let at = plan.phases().len() - 1;
    plan.fit_phase(at, 0).unwrap();
    let least = held(&plan, "decoding");
    drop(plan);
    let enough = fitted(least);
    let plan = pipeline.plan(&enough, &Cancel::new(), &mut |_| {}).unwrap();
    assert_eq!(held(&plan, "decoding"), least);
    drop(plan);
    let short = fitted(least - 1);
    let error = pipeline.plan(&short, &Cancel::new(), &mut |_| {}).err().unwrap();
    let message = format!("decoding needs {least} bytes of memory");
    assert!(error.message().starts_with(&message), "{error}");
    assert!(error.message().ends_with(&format!("the budget is {} bytes", least - 1)), "{error}");
}

#[test]
fn tiles_must_be_large_enough() {
    let pipeline = Pipeline::micro().unwrap();
    for side in [[0, 448], [191, 448], [256, 16]] {
        let tiles = Tiles { encoder: None, decoder: Some(side) };
        let size = Size { width: 448, height: 448, frames: 1 };
        let request = Request { tiles, size, references: Vec::new(), ..request() };
        let error = pipeline.plan(&request, &Cancel::new(), &mut |_| {}).err().unwrap();
        assert_eq!(error.code(), "E0901");
        assert!(error.help_text().unwrap().contains("192"), "{error}");
    }
}

#[test]
fn streamed_weights_make_the_same_video() {
    let pipeline = Pipeline::micro().unwrap();
    for precision in [Precision::F32, Precision::Bf16] {
        let request = Request { precision: Some(precision), ..request() };
        let whole = run(&pipeline, &request);
        for part in [97, 93, 60] {
            let mut plan = pipeline.plan(&request, &Cancel::new(), &mut |_| {}).unwrap();
            for name in ["text", "sampling"] {
                let at = plan.phases().iter().position(|phase| phase.name == name).unwrap();
                let phase = &plan.phases()[at];
                let there = phase.held_bytes() - phase.weight_bytes * (100 - part) / 100;
                let before = phase.held_bytes();
                plan.fit_phase(at, there).unwrap();
                let phase = &plan.phases()[at];
                assert_eq!(phase.held_bytes() < before, phase.streamed_bytes > 0, "{phase:?}");
                assert!(part < 90 || precision == Precision::Bf16 || phase.held_bytes() <= there);
            }
            let streamed = |phase: &&PhasePlan| phase.streamed_bytes > 0;
            let planned: Vec<PhasePlan> = plan.phases().iter().filter(streamed).cloned().collect();
            let sampling = planned.iter().any(|phase| phase.name == "sampling");
            // In half precision, slots are as large as all weights of so small a model.
            assert!(part < 90 || precision == Precision::Bf16 || sampling, "{part} {planned:?}");
            let mut kept = Kept::default();
            let report = plan.run(&Cancel::new(), &mut kept).unwrap();
            assert!(kept.frames == whole.frames, "{precision:?} {part}");
            for phase in planned {
                let done = report.phases.iter().find(|done| done.name == phase.name).unwrap();
                assert_eq!(done.weight_bytes, phase.weight_bytes, "{phase:?}");
            }
        }
    }
}

#[test]
fn cancelling_ends_one_run_and_no_other() {
    let pipeline = Pipeline::micro().unwrap();
    let request = request();
    let whole = run(&pipeline, &request);
    for phase in ["text", "references", "sampling", "decoding"] {
        let cancel = Cancel::new();
        let mut kept = Kept { stop: Some((phase, cancel.clone())), ..Kept::default() };
        let error = pipeline.generate_with(&request, &cancel, &mut kept).unwrap_err();
        assert_eq!((error.code(), error.kind()), ("E1002", Kind::Interrupted), "{phase}");
        assert!(cancel.is_cancelled());
        assert_eq!(kept.latents.is_some(), phase == "decoding", "latents come before decoding");
        let used = pipeline.plan(&request, &cancel, &mut |_| {}).err().unwrap();
        assert_eq!(used.kind(), Kind::Interrupted);
    }
    assert!(run(&pipeline, &request).frames == whole.frames);
}

#[test]
fn latents_can_be_decoded_later() {
    let pipeline = Pipeline::micro().unwrap();
    let request = request();
    let whole = run(&pipeline, &request);
    let rest = Request { latents: whole.latents.clone(), ..request.clone() };
    let decoded = run(&pipeline, &rest);
    assert_eq!(decoded.phases, ["decoding"]);
    assert!(decoded.frames == whole.frames);
    let wrong = Tensor::from_f32([48, 1, 2, 4], &[0.0; 384]).unwrap();
    let request = Request { latents: Some(wrong), ..request };
    let mut kept = Kept::default();
    let error = pipeline.generate_with(&request, &Cancel::new(), &mut kept).unwrap_err();
    assert_eq!(error.code(), "E0906");
}

#[test]
fn a_file_is_written_in_one_call() {
    let folder = tempfile::tempdir().unwrap();
    let picture =
        std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/astronaut.png");
    let reference = folder.path().join("me.png");
    std::fs::copy(picture, &reference).unwrap();
    let pipeline = Pipeline::micro().unwrap();
    let request =
        Request { references: vec![ReferenceSource::File(reference.clone())], ..request() };
    let out = folder.path().join("out.gif");
    let write = |request: &Request, out: &std::path::Path, options: &FileOptions| {
        pipeline.generate_to_file(request, out, options, &Cancel::new(), &mut |_| {})
    };
    let latents = folder.path().join("l.safetensors");
    let save_latents = Some(latents.clone());
    let options = FileOptions { recipe: true, save_latents, ..FileOptions::default() };
    let (report, finished) = write(&request, &out, &options).unwrap();
    assert_eq!((finished.written.frames, report.phases.len()), (5, 4));
    assert_eq!(finished.latents, Some(latents));
    let names = ["l.safetensors", "me.png", "out.gif", "out.gif.recipe.json"];
    let there = || {
        let entries = std::fs::read_dir(folder.path()).unwrap();
        let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        names
    };
    assert_eq!(there(), names);
    let recipe = crate::recipe::Recipe::read(&finished.recipe.unwrap()).unwrap();
    assert_eq!((recipe.seed, recipe.references.len(), recipe.size), (0, 1, [64, 32, 5]));
    let plain = FileOptions::default();
    assert_eq!(write(&request, &out, &plain).unwrap_err().code(), "E1016", "it is there already");
    let replace = crate::files::Existing::Replace;
    let writer = WriterOptions { existing: replace, ..WriterOptions::default() };
    let over = FileOptions { writer, ..FileOptions::default() };
    assert_eq!(write(&request, &reference, &over).unwrap_err().code(), "E0950");
    let pixels = Request { references: vec![pixels(1)], ..request.clone() };
    let other = folder.path().join("b.gif");
    assert_eq!(write(&pixels, &other, &options).unwrap_err().code(), "E1016");
    let recipe = FileOptions { recipe: true, ..FileOptions::default() };
    assert_eq!(write(&pixels, &other, &recipe).unwrap_err().code(), "E0954");
    write(&pixels, &other, &plain).unwrap();
    assert_eq!(there(), ["b.gif", names[0], names[1], names[2], names[3]]);
}

#[test]
fn values_that_are_given_must_be_finite() {
    let pipeline = Pipeline::micro().unwrap();
    let bad = |shape: &[usize]| {
        let mut values = vec![0.0; shape.iter().product()];
        *values.last_mut().unwrap() = f32::INFINITY;
        Tensor::from_f32(shape.iter().copied(), &values).unwrap()
    };
    let latents = bad(&[48, 2, 2, 4]);
    let width = pipeline.model().dit.text_dim;
    let good = Tensor::from_f32([4, width], &vec![0.0; 4 * width]).unwrap();
    let reference = ReferenceSource::Pixels(bad(&[3, 1, 32, 64]));
    for (request, what) in [
        (Request { noise: Some(latents.clone()), ..request() }, "the noise"),
        (Request { latents: Some(latents), ..request() }, "the latents"),
        (Request { contexts: Some([good, bad(&[4, width])]), ..request() }, "a context"),
        (Request { references: vec![reference], ..request() }, "the pixels of a reference"),
    ] {
        let error = pipeline.plan(&request, &Cancel::new(), &mut |_| {}).err().unwrap();
        assert_eq!(error.code(), "E1001");
        assert!(error.message().contains(what), "{error}");
    }
    let odd = Tensor::from_f32([4, 1], &[0.0; 4]).unwrap();
    let request = Request { contexts: Some([odd.clone(), odd]), ..request() };
    let error = pipeline.plan(&request, &Cancel::new(), &mut |_| {}).err().unwrap();
    assert_eq!(error.code(), "E0906");
}

#[test]
fn kept_networks_give_the_same_without_loading() {
    let released = Pipeline::micro().unwrap();
    let pipeline = Pipeline::micro().unwrap().keep(Keep::Loaded);
    let first = request();
    let second = Request { seed: 9, ..request() };
    let other = Request { size: Size { width: 64, height: 32, frames: 9 }, ..request() };
    assert!(run(&pipeline, &first).loaded);
    for request in [&second, &first] {
        let kept = run(&pipeline, request);
        assert!(!kept.loaded, "the second request loads nothing");
        assert!(kept.frames == run(&released, request).frames);
    }
    let plan = pipeline.plan(&first, &Cancel::new(), &mut |_| {}).unwrap();
    assert!(plan.phases().iter().all(|phase| phase.loaded_bytes > 0), "{:?}", plan.phases());
    // A preflight that is not run brings back what it took.
    drop(plan);
    assert!(!run(&pipeline, &first).loaded);
    // Other sizes replace what no longer fits; what still fits stays.
    let kept = run(&pipeline, &other);
    assert!(kept.loaded && kept.frames == run(&released, &other).frames);
    // A run that was stopped spoils nothing.
    let cancel = Cancel::new();
    let mut stopped = Kept { stop: Some(("sampling", cancel.clone())), ..Kept::default() };
    pipeline.generate_with(&other, &cancel, &mut stopped).unwrap_err();
    let kept = run(&pipeline, &other);
    assert!(!kept.loaded && kept.frames == run(&released, &other).frames);
}

#[test]
fn requests_from_several_threads_give_what_they_give_alone() {
    for keep in [Keep::Released, Keep::Loaded] {
        let pipeline = Pipeline::micro().unwrap().keep(keep);
        let requests: Vec<Request> =
            (0..3).map(|seed| Request { seed, references: vec![pixels(1)], ..request() }).collect();
        let alone: Vec<Kept> = requests.iter().map(|request| run(&pipeline, request)).collect();
        let together: Vec<Kept> = std::thread::scope(|scope| {
            let pipeline = &pipeline;
            let threads: Vec<_> = requests
                .iter()
                .map(|request| scope.spawn(move || run(pipeline, request)))
                .collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        for (alone, together) in alone.iter().zip(&together) {
            assert!(alone.frames == together.frames, "{keep:?}");
        }
        assert!(alone[0].frames != alone[1].frames);
    }
}

#[test]
fn public_types_may_go_to_other_threads() {
    fn send<T: Send>() {}
    fn both<T: Send + Sync>() {}
    both::<Pipeline>();
    both::<Preflight<'_>>();
    both::<Model>();
    both::<Backend>();
    both::<Request>();
    both::<RunReport>();
    both::<Event>();
    both::<Cancel>();
    both::<Error>();
    both::<Tensor>();
    both::<crate::engine::Compiler>();
    both::<crate::engine::PlanFile>();
    both::<crate::engine::Tracer>();
    both::<crate::weights::ModelWeights>();
    send::<crate::engine::Program>();
    send::<crate::engine::Prepared>();
    send::<crate::engine::States>();
    send::<crate::engine::Outputs>();
    send::<Sampler>();
    send::<crate::media::writer::VideoWriter>();
}

/// Keeps the state behind every step.
#[derive(Default)]
struct States {
    latents: Option<Tensor>,
    states: Vec<SamplingState>,
    phases: Vec<&'static str>,
    /// The run is stopped behind so many steps.
    stop: Option<(usize, Cancel)>,
}

impl Receiver for States {
    fn event(&mut self, event: Event) {
        match event {
            Event::Phase(name) => self.phases.push(name),
            Event::Step { done, .. } => {
                if let Some((_, cancel)) = self.stop.as_ref().filter(|(at, _)| *at == done) {
                    cancel.cancel();
                }
            }
            _ => {}
        }
    }

    fn state(&mut self, state: &StepState<'_>) -> Result<()> {
        self.states.push(SamplingState::of(state)?);
        Ok(())
    }

    fn latents(&mut self, latents: &Tensor) -> Result<()> {
        self.latents = Some(latents.clone());
        Ok(())
    }

    fn frames(&mut self, _: &Tensor) -> Result<()> {
        Ok(())
    }
}

fn states(pipeline: &Pipeline, request: &Request) -> States {
    let mut kept = States::default();
    pipeline.generate_with(request, &Cancel::new(), &mut kept).unwrap();
    kept
}

/// The latents of a run.
fn latents(pipeline: &Pipeline, request: &Request) -> Vec<f32> {
    let latents = run(pipeline, request).latents.unwrap();
    latents.as_f32().unwrap().to_vec()
}

#[test]
fn a_run_goes_on_from_every_step_to_the_same_bits() {
    let pipeline = Pipeline::micro().unwrap();
    let small = Request { references: vec![pixels(1)], steps: 6, ..request() };
    for request in [
        Request { solver: Some(SolverKind::UniPc), ..small.clone() },
        Request { solver: Some(SolverKind::Dpmpp), cache: Some(0.9), ..small.clone() },
        Request {
            solver: Some(SolverKind::Euler),
            first_frame: Some(pixels(1)),
            guidance_interval: Some([0.5, 0.95]),
            ..small.clone()
        },
    ] {
        let whole = states(&pipeline, &request);
        let wanted = whole.latents.unwrap();
        assert_eq!(whole.states.len(), 6);
        for state in &whole.states {
            let resumed = Request { resume: Some(state.clone()), ..request.clone() };
            let again = states(&pipeline, &resumed);
            assert_eq!(again.latents.as_ref(), Some(&wanted), "{}", state.done);
            assert_eq!(again.states, whole.states[state.done..]);
            if state.is_complete() {
                assert_eq!(again.phases, ["decoding"]);
                assert_eq!(state.latents(), &wanted);
            }
        }
        // What is interrupted hands out what it has.
        let cancel = Cancel::new();
        let mut cut = States { stop: Some((3, cancel.clone())), ..States::default() };
        let error = pipeline.generate_with(&request, &cancel, &mut cut).unwrap_err();
        assert_eq!(error.kind(), Kind::Interrupted);
        assert_eq!(cut.states.last(), Some(&whole.states[2]));
        // A state of other settings is refused.
        let other = Request { steps: 5, resume: Some(whole.states[1].clone()), ..request.clone() };
        let error = pipeline.generate_with(&other, &Cancel::new(), &mut States::default());
        assert_eq!(error.unwrap_err().code(), "E1301");
    }
}

#[test]
fn a_state_without_what_the_solver_kept_is_refused() {
    let pipeline = Pipeline::micro().unwrap();
    let euler = Request { solver: Some(SolverKind::Euler), ..request() };
    let state = states(&pipeline, &euler).states.swap_remove(0);
    let other = Request { solver: Some(SolverKind::UniPc), resume: Some(state), ..request() };
    let error = pipeline.generate_with(&other, &Cancel::new(), &mut States::default()).unwrap_err();
    assert_eq!(error.code(), "E1301");
    assert!(error.message().contains("solver.corrected"), "{error}");
}

#[test]
fn a_first_frame_is_what_a_reference_in_front_would_be() {
    // With one reference in front, the transformer sees what image-to-video shows it.
    let pipeline = Pipeline::micro().unwrap();
    let size = |frames| Size { width: 64, height: 32, frames };
    let channels = pipeline.model().dit.in_channels;
    let [_, rows, columns] = size(9).latent(pipeline.model().geometry());
    let mut values = vec![0.0; channels * 3 * rows * columns];
    crate::sampling::NoiseStream::new(5, 0).fill(0, &mut values);
    let noise = Tensor::from_f32([channels, 3, rows, columns], &values).unwrap();
    let later = super::codec::prefix_time(&noise, 1, 2).unwrap();
    let plain = Request { guidance: 1.0, prompt: "a walk".into(), steps: 2, ..Request::default() };
    let reference =
        Request { references: vec![pixels(1)], size: size(5), noise: Some(later), ..plain.clone() };
    let continued = Request {
        first_frame: Some(pixels(1)),
        size: size(9),
        noise: Some(noise.clone()),
        ..plain.clone()
    };
    let after = run(&pipeline, &reference).latents.unwrap();
    let whole = run(&pipeline, &continued).latents.unwrap();
    assert_eq!(whole.shape(), [channels, 3, rows, columns]);
    assert_eq!(super::codec::prefix_time(&whole, 1, 2).unwrap(), after);
    // The frame itself is the picture as the encoder has it.
    let ReferenceSource::Pixels(picture) = pixels(1) else { unreachable!() };
    let encoded = encode_pixels(pipeline.model(), pipeline.backend(), &picture).unwrap();
    assert_eq!(super::codec::prefix_time(&whole, 0, 1).unwrap(), encoded);
    // It stays in both branches of guidance, beside references.
    let guided = Request { guidance: 3.0, references: vec![pixels(5)], ..continued.clone() };
    let both = run(&pipeline, &guided).latents.unwrap();
    assert_eq!(super::codec::prefix_time(&both, 0, 1).unwrap(), encoded);
    assert_ne!(both, whole);
    // A video of one frame would be that frame.
    let one = Request { size: size(1), noise: None, ..continued.clone() };
    let error = pipeline.generate_with(&one, &Cancel::new(), &mut States::default()).unwrap_err();
    assert_eq!(error.code(), "E1305");
    let clip = Request { first_frame: Some(pixels(5)), ..continued };
    let error = pipeline.generate_with(&clip, &Cancel::new(), &mut States::default()).unwrap_err();
    assert_eq!(error.code(), "E0906");
    assert!(error.message().contains("the first frame"), "{error}");
}

#[test]
fn guidance_on_a_part_of_the_steps_is_both_runs_in_one() {
    let pipeline = Pipeline::micro().unwrap();
    let with = |interval| latents(&pipeline, &Request { guidance_interval: interval, ..request() });
    let whole = with(None);
    assert_eq!(with(Some([0.0, 1.0])), whole, "branch by branch");
    let none = latents(&pipeline, &Request { guidance: 1.0, ..request() });
    assert_eq!(with(Some([0.0, 1e-3])), none);
    let part = with(Some([0.95, 1.0]));
    assert!(part != whole && part != none);
    let bad = Request { guidance_interval: Some([0.5, 0.5]), ..request() };
    assert_eq!(bad.check(pipeline.model()).unwrap_err().code(), "E1304");
}

#[test]
fn choices_of_sampling_that_change_nothing_change_no_bit() {
    let pipeline = Pipeline::micro().unwrap();
    let base = Request { solver: Some(SolverKind::Euler), steps: 8, ..request() };
    let whole = latents(&pipeline, &base);
    // The negative prompt is in the place of the empty one.
    let negative = |text: &str| {
        let request = Request { negative_prompt: Some(text.to_owned()), ..base.clone() };
        latents(&pipeline, &request)
    };
    assert_eq!(negative(""), whole);
    assert_ne!(negative("blurry"), whole);
    // The levels of a schedule are that schedule.
    let settings = settings(pipeline.model(), &base);
    let made = schedule(&settings, &base).unwrap();
    let levels: Vec<f64> = made.sigmas.iter().map(|level| f64::from(*level)).collect();
    let sigmas = |levels: Vec<f64>| Request { sigmas: Some(levels), steps: 1, ..base.clone() };
    assert_eq!(latents(&pipeline, &sigmas(levels)), whole);
    assert_ne!(latents(&pipeline, &sigmas(vec![1.0, 0.5])), whole);
    let bad = sigmas(vec![0.5, 0.6]).check(pipeline.model()).unwrap_err();
    assert_eq!(bad.code(), "E0925");
    // A cache whose threshold is not reached leaves nothing out.
    let cached =
        |threshold| latents(&pipeline, &Request { cache: Some(threshold), ..base.clone() });
    assert_eq!(cached(1e-9), whole);
    assert_ne!(cached(1.0), whole);
    let bad = Request { cache: Some(2.0), ..base.clone() };
    assert_eq!(bad.check(pipeline.model()).unwrap_err().code(), "E1306");
}
