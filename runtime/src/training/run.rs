//! A run from beginning to end: prepare, learn, update, measure, save, and go on where it was.
//!
//! The samples that go through the network in one call are the unit of work. After each the run can end,
//! with everything that it has summed up in the checkpoint; a run that goes on makes the bits that it would have made without the break.

use super::alarms::alarms;
use super::best::{Best, Kept, gone};
use super::cause::Peak;
use super::checkpoint::{CHECKPOINT, Folder, Record};
use super::dataset::{Dataset, Slot};
use super::draws::{Levels, order};
use super::group::Calls;
use super::identity::Comparing;
use super::judging::Judging;
use super::learner::{Learner, Numbers};
use super::log::Log;
use super::memory::Memory;
use super::network::Network;
use super::objective::Objective;
use super::optimise::{Collector, Optimiser, Sums};
use super::parameters::{Kind, Values, moved, norms};
use super::request::{Report, Training, identity};
use super::samples::Sampler;
use super::settings::TrainedNetwork;
use super::{Event, Settings, first, result, samples, statistics};
use crate::engine::Backend;
use crate::error::{Error, Kind as Fault, Result, plural};
use crate::files::AtomicFile;
use crate::judge;
use crate::model::Model;
use crate::pipeline::Cancel;
use serde_json::{Map, Value, json};
use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::Instant;

/// Samples that go through the network together: their places in the manifest, epochs, and places in the
/// batch.
type Together = Vec<(usize, u64, u64)>;

/// A run at work.
pub struct Loop<'l> {
    settings: &'l Settings,
    kind: Kind,
    backend: &'l Backend,
    data: Dataset,
    validation: Option<Dataset>,
    learner: Learner<'l>,
    optimiser: Optimiser,
    batch: Sums,
    /// Sums of a pair whose clips go through the network one after the other.
    pair: Option<Sums>,
    record: Record,
    folder: Folder,
    /// The file of the next best result.
    best: Option<AtomicFile>,
    /// What there was of the best result when the run went on.
    found: Best,
    log: Log,
    norms: BTreeMap<String, f64>,
    /// What reads the videos.
    judging: Option<Judging>,
    comparing: Option<Comparing>,
    /// The groups of a batch, by its number.
    groups: (u64, Vec<Together>),
    began: (Instant, u64),
    /// Samples that were done when the last checkpoint was written.
    saved: Option<u64>,
}

impl<'l> Loop<'l> {
    /// Loads the network and puts everything where it was, or at the beginning.
    ///
    /// # Errors
    /// As [`Training::run`].
    pub fn open(
        training: &Training<'l>,
        (model, mut objective): (&'l Model, Box<dyn Objective + 'l>),
        folder: Folder,
        data: Dataset,
        validation: Option<Dataset>,
        cancel: &Cancel,
        events: &mut dyn FnMut(Event),
    ) -> Result<Self> {
        let Training { kind, settings, backend, .. } = *training;
        let text_rows = std::iter::once(&data).chain(&validation).map(|data| data.text_rows);
        let text_rows = text_rows.max().unwrap_or(0);
        objective.fit(text_rows);
        let items = data.items.iter().chain(validation.iter().flat_map(|data| &data.items));
        let shapes: BTreeSet<usize> = items.map(|item| objective.shape(item)).collect();
        let streams = shapes.into_iter().map(|shape| (shape, objective.stream(shape)));
        let calls = Calls::new(&settings.train, kind, streams);
        let measured = kind == Kind::Dpo || validation.is_some();
        let about = backend.about();
        let device = format!("{} {}", about.target.name, about.instructions);
        let weights = objective.weights().clone();
        let model_is = identity(model, &weights)?;
        let mut record =
            Record::new(kind, settings, &data, validation.as_ref(), &model_is, &device);
        let old = folder.begun(training.resume)?;
        if let Some(old) = &old {
            let sets = [Some(&data), validation.as_ref()];
            old.same(&record, settings, sets, &folder.file_path(CHECKPOINT))?;
            events_of(old, settings.train.steps).into_iter().for_each(&mut *events);
        }
        let found = match (&old, &validation) {
            (Some(old), Some(_)) => {
                let path = training.best_path();
                let found = Best::find(&old.position, &path, settings.train.steps)?;
                if found == Best::Gone {
                    let (file, gone) = (path.display(), gone(&old.position));
                    let said = format!("{file}: {gone}; the next one that is better is written");
                    events(Event::Warning(said));
                }
                found
            }
            _ => Best::Known,
        };
        let sets: Vec<&Dataset> = std::iter::once(&data).chain(&validation).collect();
        cancel.check("while compiling")?;
        let judging = Judging::of(settings, validation.as_ref().unwrap_or(&data), backend)?;
        let comparing = Comparing::open(settings)?;
        let beside = Memory::beside(settings, model, backend, (&sets, judging.as_ref()), cancel)?;
        let (asked, of) = ((&calls, measured, beside), (settings, kind));
        let mut network = Network::open(objective, backend, of, asked, cancel)?;
        let mut optimiser = Optimiser::open(backend, &network.parameters, settings, cancel)?;
        let collector = Collector::open(backend, &network.parameters, cancel)?;
        let mut batch = collector.sums()?;
        let pair = calls.apart(kind).then(|| collector.sums()).transpose()?;
        network.memory.plans += optimiser.bytes() + collector.bytes();
        if training.resume && old.is_none() {
            let what =
                "the run was stopped before its first checkpoint: it starts from the beginning";
            events(Event::Warning(what.to_owned()));
        }
        let begun = old.is_some();
        let Network { parameters, gradient, .. } = &mut network;
        if let Some(old) = old {
            let mut kinds = optimiser.vectors();
            // Nothing is summed up between two batches.
            if !old.position.samples.is_multiple_of(settings.train.batch) {
                kinds.push(("g", parameters.places()));
            }
            folder.load((&old, &kinds), gradient, cancel, &mut |which, at, value| match which {
                "g" => collector.set(&mut batch, at, value),
                _ => optimiser.set(which, at, value),
            })?;
            record.position = old.position;
        } else {
            match &training.init_from {
                Some(path) => {
                    let into = (&*parameters, &mut *gradient);
                    first::first_values(path, kind, into, settings, (model, &weights), cancel)?
                }
                None => parameters.first(gradient, kind, settings, &weights, cancel)?,
            }
            let given = training.init_from.as_deref();
            first::check_finite(given, parameters, gradient, &weights)?;
            let average = optimiser.kinds().contains("a");
            for which in ["p", "a"].into_iter().take(1 + usize::from(average)) {
                let mut all = gradient.iter().enumerate();
                all.try_for_each(|(at, value)| optimiser.set(which, at, value))?;
            }
        }
        let norms = norms(&network.parameters, kind, &weights, cancel)?;
        // The line of an update that is still to be measured is written then.
        let logged = record.position.updates - u64::from(record.position.row.is_some());
        let (log, lost) = Log::open(&settings.run.folder, logged)?;
        lost.into_iter().for_each(|lost| events(Event::Warning(lost)));
        events(Event::Begun {
            parameters: network.parameters.elements(),
            samples: data.items.len(),
            unit: kind.unit(),
            memory: network.memory,
            updates: record.position.updates,
            total: settings.train.steps,
        });
        let reference = format!("{model_is} {device} {text_rows} {}", env!("CARGO_PKG_VERSION"));
        let (levels, cache) = (Levels::new(&settings.train), data.cache().clone());
        let (warnings, told) = (Vec::new(), BTreeSet::new());
        let learner = Learner {
            settings,
            kind,
            model,
            levels,
            network,
            calls,
            collector,
            reference,
            cache,
            warnings,
            told,
        };
        let began = (Instant::now(), record.position.samples);
        let mut out = Self {
            settings,
            kind,
            backend,
            data,
            validation,
            learner,
            optimiser,
            batch,
            pair,
            record,
            folder,
            best: None,
            found,
            log,
            norms,
            judging,
            comparing,
            groups: (u64::MAX, Vec::new()),
            began,
            saved: None,
        };
        if out.validation.is_some() {
            out.best = Some(out.best_file()?);
        }
        if !begun {
            out.save()?;
        }
        let all = settings.train.steps.saturating_mul(settings.train.batch);
        let left = out.record.position.samples..all;
        out.learner.look_ahead(&out.data, left, cancel)?;
        out.learner.warn(events);
        Ok(out)
    }

    /// Trains to the end, or until `cancel` says to stop.
    ///
    /// # Errors
    /// As [`Training::run`].
    pub fn run(&mut self, cancel: &Cancel, events: &mut dyn FnMut(Event)) -> Result<Report> {
        loop {
            let open = self.record.position.row.is_some();
            let done = self.record.position.updates >= self.settings.train.steps;
            let shown = open || (self.missing_videos().is_empty() && !self.to_compare());
            if !open && shown && (done || self.ends_early()) {
                break;
            }
            if cancel.is_cancelled() {
                self.save()?;
                let at = self.record.position.updates;
                let message = format!("interrupted after update {at}; the checkpoint is complete");
                return Err(Error::new(Fault::Interrupted, "E1002", message));
            }
            if open {
                self.settle(cancel, events)?;
                continue;
            }
            if !shown {
                self.show(cancel, events)?;
                continue;
            }
            let learned = self.learn(cancel, events)?;
            let samples = self.record.position.samples;
            if learned && samples.is_multiple_of(self.settings.train.batch) {
                self.update(events)?;
            }
        }
        if self.record.position.updates < self.settings.train.steps {
            let since = self.record.position.since_best;
            let since = plural(since as usize, "measurement");
            events(Event::Warning(format!(
                "{since} of the validation set without a better one: the run ends"
            )));
        }
        self.save()?;
        self.finish(cancel)
    }

    /// An error that ended the run, with what is known of its cause where a value is not finite. `given` is
    /// the file whose values the run began with.
    pub fn explained(&self, error: Error, given: Option<&Path>) -> Error {
        let learned = self.record.position.updates > 0;
        let parameters = &self.learner.network.parameters;
        let first = given.filter(|_| !learned && error.code() == "E1001").and_then(|path| {
            let peak = |values: Values<'_>| {
                Ok(Peak::of(parameters.list.iter().map(|own| (&*own.name, values.numbers(own)))))
            };
            Some((path, self.optimiser.with("p", peak).ok()??))
        });
        self.learner.explained(error, learned, first)
    }

    /// Takes the next group of samples into the batch; whether that was done, and `cancel` did not stop it.
    fn learn(&mut self, cancel: &Cancel, events: &mut dyn FnMut(Event)) -> Result<bool> {
        let (batch, samples) = (self.settings.train.batch, self.record.position.samples);
        if self.groups.0 != samples / batch {
            self.groups = (samples / batch, self.groups_of(samples / batch));
        }
        let mut before = samples / batch * batch;
        let next = self.groups.1.iter().find(|group| {
            let begins = before == samples;
            before += group.len() as u64;
            begins
        });
        let Some(group) = next else {
            return Err(Error::input("E0962", "the checkpoint ends within a group of samples")
                .at(self.folder.file_path(CHECKPOINT).display())
                .help("restore it from a copy, or begin anew in another run.folder"));
        };
        let units: Vec<_> = group
            .iter()
            .map(|(at, epoch, place)| (&self.data.items[*at], *epoch, *place))
            .collect();
        let (learner, sums) = (&mut self.learner, (&mut self.batch, self.pair.as_mut()));
        let given = (&self.data, &units[..]);
        let numbers =
            self.optimiser.with("p", |values| learner.learn(given, values, sums, cancel))?;
        learner.warn(events);
        let Some(numbers) = numbers else { return Ok(false) };
        let position = &mut self.record.position;
        for (name, value) in numbers.into_iter().flatten() {
            *position.batch.entry(name).or_insert(0.0) += value;
        }
        position.samples += units.len() as u64;
        Ok(true)
    }

    /// The samples of a batch in the groups in which they are learned from.
    fn groups_of(&self, batch: u64) -> Vec<Together> {
        let (count, size) = (self.data.items.len() as u64, self.settings.train.batch);
        let ids: Vec<&str> = self.data.items.iter().map(|item| item.id.as_str()).collect();
        let samples = batch * size..(batch + 1) * size;
        let epochs = samples.start / count..=(samples.end - 1) / count;
        let orders: BTreeMap<u64, Vec<usize>> =
            epochs.map(|epoch| (epoch, order(self.settings.train.seed, &ids, epoch))).collect();
        let unit = |sample: u64| {
            let epoch = sample / count;
            (orders[&epoch][(sample % count) as usize], epoch, sample % size)
        };
        let units: Together = samples.map(unit).collect();
        let objective = self.learner.network.objective();
        let shapes: Vec<usize> =
            units.iter().map(|(at, ..)| objective.shape(&self.data.items[*at])).collect();
        let groups = self.learner.calls.groups(&shapes);
        groups.into_iter().map(|group| group.into_iter().map(|at| units[at]).collect()).collect()
    }

    /// Updates the parameters with the batch.
    fn update(&mut self, events: &mut dyn FnMut(Event)) -> Result<()> {
        let train = &self.settings.train;
        let gradient = &mut self.learner.network.gradient;
        self.learner.collector.summed(&self.batch, gradient)?;
        let step = self.record.position.updates + 1;
        let norm = self.optimiser.update(step, self.settings, gradient)?;
        let parameters = &self.learner.network.parameters;
        if !norm.is_finite() {
            let all = parameters.list.iter();
            let all = all.map(|own| (own.name.as_str(), parameters.values(gradient, own)));
            let peak = Peak::of(all);
            let most = peak.map_or(String::new(), |Peak { name, size }| {
                format!(", whose largest value is {size:e} in {name}")
            });
            let message =
                format!("a non-finite value in the norm of the gradient of update {step}");
            return Err(Error::input("E1001", message + &most));
        }
        // Before a checkpoint has it.
        let bad = self.optimiser.with("p", |values| Ok(parameters.not_finite(values)))?;
        if let Some(bad) = bad {
            let message = format!("a non-finite value in {} behind update {step}", bad.name);
            let error = Error::input("E1001", message);
            return Err(self.learner.explained(error, true, None));
        }
        self.batch.clear();
        self.record.position.updates = step;
        let sums = std::mem::take(&mut self.record.position.batch);
        let mean = |(name, sum): (String, f64)| (name, sum / train.batch as f64);
        let mut means: Numbers = sums.into_iter().map(mean).collect();
        self.learner.network.objective().settled(&mut means);
        let loss = means.get("loss").copied().unwrap_or(f64::NAN);
        let mut row: Map<String, Value> =
            means.into_iter().map(|(name, mean)| (name, json!(mean))).collect();
        self.record.position.loss = Some(loss);
        row.insert("norm".to_owned(), json!(norm));
        let done = self.record.position.samples - self.began.1;
        let rest = train.steps.saturating_sub(step) * train.batch;
        let left = self.began.0.elapsed().mul_f64(rest as f64 / done.max(1) as f64);
        let Network { parameters, gradient, .. } = &self.learner.network;
        for (key, message) in alarms(self.kind, step, parameters, gradient, &row) {
            let reported = &mut self.record.position.reported;
            if !reported.iter().any(|known| known == key) {
                reported.push(key.to_owned());
                events(Event::Warning(message));
            }
        }
        let last = step == train.steps;
        if last || step.is_multiple_of(self.settings.run.checkpoint_every) {
            row.insert("moved".to_owned(), json!(self.moved()?));
        }
        row.insert("seconds_left".to_owned(), json!(left.as_secs()));
        self.record.position.row = Some(row);
        events(Event::Updated { step, total: train.steps, loss, norm, left });
        Ok(())
    }

    /// Measures the validation set, if it is time, and writes the line of the last update. Where
    /// `cancel` says to stop on the way, all of that is still to be done.
    fn settle(&mut self, cancel: &Cancel, events: &mut dyn FnMut(Event)) -> Result<()> {
        let step = self.record.position.updates;
        let last = step == self.settings.train.steps;
        let measured = match last || step.is_multiple_of(self.settings.run.validate_every) {
            true if self.validation.is_some() => {
                let Some(numbers) = self.validate(cancel, events)? else { return Ok(()) };
                Some(numbers)
            }
            _ => None,
        };
        let mut row = self.record.position.row.take().unwrap_or_default();
        if let Some(numbers) = measured {
            row.insert("validation".to_owned(), json!(numbers));
        }
        self.found.check(&self.path(result::BEST), step)?;
        self.log.add(step, &row)?;
        self.saved = None;
        if step.is_multiple_of(self.settings.run.checkpoint_every) {
            self.save()?;
            events(Event::Saved { step });
        }
        Ok(())
    }

    /// Videos that are due and not there.
    fn missing_videos(&self) -> Vec<(usize, PathBuf)> {
        let data = self.validation.as_ref().unwrap_or(&self.data);
        samples::missing(self.settings, &self.record.position, data)
    }

    /// Makes the videos that are due, behind a checkpoint of this moment. Where `cancel` says to stop
    /// on the way, the rest is still to be done.
    fn show(&mut self, cancel: &Cancel, events: &mut dyn FnMut(Event)) -> Result<()> {
        self.save()?;
        let missing = self.missing_videos();
        let data = self.validation.as_ref().unwrap_or(&self.data);
        let (learner, backend) = (&mut self.learner, self.backend);
        let (step, judging) = (self.record.position.updates, &mut self.judging);
        self.optimiser.with("p", |values| {
            let judging = judging.as_mut();
            let mut sampler = Sampler { learner, values, backend, cancel, judging };
            let made = &mut |path| events(Event::Sampled { step, path });
            let right = sampler.videos(data, (step, missing), made)?;
            right.into_iter().for_each(|right| events(Event::Judged { step, right }));
            Ok(())
        })?;
        // Where it was told to stop, videos are missing.
        if self.to_compare() && self.missing_videos().is_empty() && !cancel.is_cancelled() {
            let data = self.validation.as_ref().unwrap_or(&self.data);
            let comparing = self.comparing.as_mut();
            let alike = comparing.map(|own| own.compare(self.settings, data, step)).transpose()?;
            alike.into_iter().for_each(|alike| events(Event::Compared { step, alike }));
        }
        Ok(())
    }

    /// Whether videos of this moment are to be compared with their references.
    fn to_compare(&self) -> bool {
        let updates = self.record.position.updates;
        samples::is_due(self.settings, &self.record.position)
            && self.comparing.is_some()
            && !Comparing::path(&self.settings.run.folder.join(samples::SAMPLES), updates).exists()
    }

    fn moved(&self) -> Result<BTreeMap<String, f64>> {
        let parameters = &self.learner.network.parameters;
        let weights = self.learner.network.objective().weights();
        self.optimiser.with("p", |values| {
            moved(parameters, values, self.kind, self.settings, &self.norms, weights)
        })
    }

    /// Measures the validation set and keeps what is best; `None` where it was told to stop.
    fn validate(
        &mut self,
        cancel: &Cancel,
        events: &mut dyn FnMut(Event),
    ) -> Result<Option<Numbers>> {
        let Some(data) = &self.validation else { return Ok(Some(Numbers::new())) };
        let (optimiser, learner) = (&self.optimiser, &mut self.learner);
        let mut measure = |trained: bool| {
            optimiser.with("p", |values| learner.measure(data, (values, trained), cancel))
        };
        if self.record.position.base.is_none() {
            let Some(base) = measure(false)? else { return Ok(None) };
            self.record.position.base = base.get("loss").copied();
        }
        let Some(numbers) = measure(true)? else { return Ok(None) };
        let loss = numbers.get("loss").copied().unwrap_or(f64::NAN);
        let base = self.record.position.base.unwrap_or(f64::NAN);
        events(Event::Measured { step: self.record.position.updates, loss, base });
        let better = self.record.position.best.is_none_or(|best| loss < best);
        match better {
            true => {
                self.record.position.best = Some(loss);
                self.record.position.since_best = 0;
                let file = match self.best.take() {
                    Some(file) => file,
                    None => self.best_file()?,
                };
                let path = self.write(result::BEST, file)?;
                let kept = Kept::of(&path, self.record.position.updates)?;
                self.record.position.kept = Some(kept);
                self.found = Best::Known;
                self.best = match self.best_file() {
                    // Told to end: this one was the last.
                    Err(error) if error.kind() == Fault::Interrupted => None,
                    other => Some(other?),
                };
            }
            false => self.record.position.since_best += 1,
        }
        let mut numbers = numbers;
        numbers.insert("over_base".to_owned(), loss / base);
        Ok(Some(numbers))
    }

    /// Whether there were too many measurements without a new best.
    fn ends_early(&self) -> bool {
        let (since, patience) = (self.record.position.since_best, self.settings.run.patience);
        patience > 0 && since >= patience
    }

    /// Writes a checkpoint, unless there is one of this moment already.
    fn save(&mut self) -> Result<()> {
        if self.saved == Some(self.record.position.samples) {
            return Ok(());
        }
        let (optimiser, Learner { network, collector, .. }) = (&self.optimiser, &self.learner);
        let mut kinds = optimiser.vectors();
        kinds.push(("g", network.parameters.places()));
        kinds.sort_unstable();
        let read = |which: &str, at: usize, look: &mut dyn FnMut(&[u8])| match which {
            "g" => collector.read(&self.batch, at, look),
            _ => optimiser.read(which, at, look),
        };
        self.folder.save(&self.record, (&kinds, &network.parameters), &read)?;
        self.saved = Some(self.record.position.samples);
        Ok(())
    }

    /// The path of a result, with `what` behind the name of the last one.
    fn path(&self, what: &str) -> PathBuf {
        self.folder.file_path(&result::file(self.kind, self.settings.train.network, what))
    }

    /// A file for the best result, which can be completed once the program was told to end.
    fn best_file(&self) -> Result<AtomicFile> {
        let file = AtomicFile::create(self.path(result::BEST))?;
        file.keep_when_stopped();
        Ok(file)
    }

    /// Writes the result as it is now into `file`.
    fn write(&self, what: &str, file: AtomicFile) -> Result<PathBuf> {
        let path = self.path(what);
        let parameters = &self.learner.network.parameters;
        let (settings, updates) = (self.settings, self.record.position.updates);
        let on = self.learner.model.parts_on();
        let weights = (&**self.learner.network.objective().weights(), &on[..]);
        self.optimiser.with(if what == result::AVERAGE { "a" } else { "p" }, |values| {
            let settings = (settings, &self.data.styles);
            result::write(file, self.kind, (parameters, values), settings, weights, updates)
        })?;
        Ok(path)
    }

    /// Writes the configuration of every network that the run leaves and that has one of its own: of an
    /// autoencoder with the statistics of its latents, of a judge with slots and classes.
    fn configure(&self, cancel: &Cancel) -> Result<()> {
        for end in result::ENDS {
            let (weights, config) = (self.path(end), self.path(end).with_extension("json"));
            if !weights.exists() {
                continue;
            }
            match self.settings.train.network {
                TrainedNetwork::Vae => {
                    let run = (self.learner.model, self.settings, self.backend);
                    statistics::write(run, &self.data, &weights, &config, cancel)?;
                }
                TrainedNetwork::Judge => {
                    let slots = self.data.slots.iter().map(Slot::named_classes).collect();
                    judge::write(&config, self.settings.size(), slots)?;
                }
                TrainedNetwork::Transformer | TrainedNetwork::Text => {}
            }
        }
        Ok(())
    }

    fn finish(&mut self, cancel: &Cancel) -> Result<Report> {
        self.found.check_at_end(&self.path(result::BEST))?;
        if self.optimiser.kinds().contains("a") {
            self.write(result::AVERAGE, AtomicFile::create(self.path(result::AVERAGE))?)?;
        }
        let path = self.write("", AtomicFile::create(self.path(""))?)?;
        self.configure(cancel)?;
        let position = &self.record.position;
        Ok(Report {
            path,
            updates: position.updates,
            loss: position.loss,
            parameters: self.learner.network.parameters.elements(),
            memory: self.learner.network.memory,
            validation: position.best.zip(position.base),
        })
    }
}

/// What is to be said where a run goes on that is at its end, or behind it.
fn events_of(old: &Record, steps: u64) -> Option<Event> {
    let done = old.position.updates;
    let what = match done.cmp(&steps) {
        Ordering::Less => return None,
        Ordering::Equal if steps == 1 => "the run is complete: its one update has been made".into(),
        Ordering::Equal => format!("the run is complete: all {steps} updates have been made"),
        // There are two at least.
        Ordering::Greater => format!(
            "train.steps is {steps}, but {done} updates have been made already: nothing is trained, \
             and the result is that of update {done}"
        ),
    };
    Some(Event::Warning(what))
}
