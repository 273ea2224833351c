//! `world pairs`: two clips of each set, of which the better one is preferred.
//!
//! Sets are made some at a time, those with references of the same lengths one behind the other,
//! because the networks are compiled for these; they are kept in their order.

pub mod args;
mod folder;

use super::clips::{Clips, Given, Told, lengths, picture, prints};
use super::makers::{Maker, Worker, each, makers, workers};
use super::{coded, said};
use crate::interrupt;
use crate::output::{self, duration, plural};
use crate::progress::{Progress, left};
use anyid_runtime::checkpoint::hash_file;
use anyid_runtime::{Cancel, Error, Result};
use anyid_world::{Judge, Painter, Reel, Sampling, Set, Split, Tracks, parts, preferred};
use args::Pairs;
use folder::{Folder, Judged};
use serde_json::{Value, json};
use std::ops::Range;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// Most sets of a folder.
const MOST: u64 = 1_000_000;
/// Most sets that are made before they are kept.
const SOME: usize = 64;
/// Bytes of frames that are held until then.
const HELD: usize = 256 << 20;

/// Runs the verb.
///
/// # Errors
/// As [`make`].
pub fn run(args: &Pairs) -> Result<()> {
    let (cancel, mut progress) = (Cancel::new(), Progress::new());
    interrupt::graceful(cancel.flag());
    let report = make(args, &cancel, &mut progress)?;
    progress.clear();
    match args.json {
        true => output::print_json(&report.json()),
        false => output::print(&report.text()),
    }
}

/// What a folder of pairs came to.
pub struct Report {
    manifest: PathBuf,
    sha256: String,
    sets: usize,
    /// Pairs of the manifest.
    pairs: usize,
    /// Means of both tracks, over all clips, the chosen and the rejected ones.
    means: [[f64; 2]; 3],
    /// Clips that were made by this run, and the processor time that it took.
    made: u64,
    taken: Option<Duration>,
    time: Duration,
}

/// Refuses sets that cannot be drawn, or painted in this size.
///
/// # Errors
/// E0981, E0982 and E0986.
pub fn check(args: &Pairs) -> Result<Sampling> {
    if args.sets == 0 || args.sets > MOST {
        let message = format!("the number of sets cannot be {}", args.sets);
        let place = format!("--sets {}", args.sets);
        return Err(Error::input("E0986", message).at(place).help(format!("give 1 to {MOST}")));
    }
    Painter::new(args.made.size).map_err(said(format!("--size {}", args.made.size)))?;
    args.sampling()
}

/// Makes pairs, or those that are missing.
///
/// # Errors
/// E0981 and E0986 for sets that cannot be drawn, those of models, sizes and sampling and of
/// [`Folder::open`], [`Folder::put`] and [`Folder::finish`], E0994 where no pair is found, E1002 when it
/// was stopped.
pub fn make(args: &Pairs, cancel: &Cancel, progress: &mut Progress) -> Result<Report> {
    let (begun, before) = (Instant::now(), output::processor_time());
    let sampling = check(args)?;
    let request = args.made.request()?;
    let weights = args.weights.weights()?;
    let models = [(weights.clone(), weights.open()?)];
    let [(_, model)] = &models;
    args.made.check_size([model])?;
    args.made.check(&request, model)?;
    model.warnings.iter().for_each(|warning| progress.warn(warning));
    let mut told = Told(model.warnings.iter().cloned().collect());
    let about = about(args, &prints(model)?);
    let judge = |_: &_| Ok(Judge::new(args.set.world.version));
    let shown = (args.sets as usize, args.made.size);
    let mut workers = workers(&models, &args.on, shown, &judge)?;
    let mut folder = Folder::open(&args.output, &about)?;
    interrupt::say_swept();
    let [(_, model)] = models;
    let mut makers = makers(&mut workers, &weights, model)?;
    let clips = Clips { made: &args.made, request: &request, cancel };
    let work = Work { args, sampling, clips };
    let made = work.run(&mut folder, &mut makers, (progress, &mut told))?;
    let reel = Reel { clips: args.set.clips };
    let pairs = work.pairs(&folder)?;
    let manifest = folder.finish(&pairs, &reel)?;
    let sets = folder.judged.len().min(args.sets as usize);
    if pairs.is_empty() {
        return Err(Error::input("E0994", format!("no pair in {}", plural(sets, "set")))
            .at(manifest.display())
            .help(
                "give more --sets, or a smaller --margin in another folder; a model that has \
                 learned nothing has no better clips",
            ));
    }
    let sha256 = hash_file(&manifest)?;
    let taken = output::processor_time().zip(before).map(|(now, before)| now - before);
    let means = means(&folder.judged[..sets]);
    let (pairs, time) = (pairs.len(), begun.elapsed());
    Ok(Report { manifest, sha256, sets, pairs, means, made, taken, time })
}

/// How sets are drawn, clips made and pairs chosen.
fn about(args: &Pairs, weights: &[String]) -> Value {
    let mut about = args.set.about();
    about.extend(args.made.about());
    let more = json!({
        "split": Split::from(args.split).name(), "first": args.first, "groups": args.groups,
        "margin": args.margin, "weights": weights,
    });
    about.extend(more.as_object().cloned().unwrap_or_default());
    about.into()
}

/// Means of identity and prompt over all clips, over the chosen and over the rejected ones.
fn means(judged: &[Judged]) -> [[f64; 2]; 3] {
    let mut sums = [([0.0; 2], 0.0); 3];
    let mut add = |which: usize, tracks: &Tracks| {
        if let Some(shares) = tracks.shares() {
            let (sum, count) = &mut sums[which];
            *sum = [sum[0] + shares[0], sum[1] + shares[1]];
            *count += 1.0;
        }
    };
    for one in judged {
        one.tracks.iter().for_each(|tracks| add(0, tracks));
        if let Some((chosen, _)) = &one.pair {
            add(1, &one.tracks[*chosen]);
            add(2, &one.tracks[1 - *chosen]);
        }
    }
    sums.map(|(sum, count)| sum.map(|sum| sum / count))
}

/// What makes the clips of pairs.
struct Work<'w> {
    args: &'w Pairs,
    sampling: Sampling,
    clips: Clips<'w>,
}

/// Frames of both clips if one was preferred, RGB bytes each.
type Both = [Vec<Vec<u8>>; 2];
/// A set, what became of it, and the frames.
type Done = (Set, Judged, Both);

impl Work<'_> {
    fn set(&self, index: u64) -> Result<Set> {
        self.args.set.world.version.sample(&self.sampling, self.args.set.seed, index).map_err(coded)
    }

    /// How many sets are made before they are kept.
    fn some(&self) -> usize {
        let frame = self.args.made.size * self.args.made.size * 3;
        (HELD / (2 * frame * self.args.made.frames)).clamp(1, SOME)
    }

    /// Makes what is missing; gives how many clips that were.
    fn run(
        &self,
        folder: &mut Folder,
        makers: &mut [Maker<'_, Judge>],
        (progress, told): (&mut Progress, &mut Told),
    ) -> Result<u64> {
        let (side, sets) = (self.args.made.size, self.args.sets as usize);
        let (reel, mut painter) = (Reel { clips: self.args.set.clips }, self.clips.painter()?);
        let (begun, first) = (Instant::now(), folder.judged.len());
        progress.part("pairs");
        loop {
            let (done, pairs) = (folder.judged.len(), folder.pairs());
            if done >= sets || self.args.enough.is_some_and(|enough| pairs as u64 >= enough) {
                return Ok(2 * (done.max(first) - first) as u64);
            }
            // Where a part ends does not depend on where the work was stopped.
            let end = (done / self.some() + 1) * self.some();
            let part = self.part(done..end.min(sets), makers, (progress, told))?;
            for (set, judged, [one, other]) in part {
                folder.put(&set, judged, [&one, &other], &reel, (&mut painter, side))?;
            }
            let (done, pairs) = (folder.judged.len(), folder.pairs());
            let total = sets as u64;
            progress.update(done as u64, total, || {
                let new = (done - first) as u64;
                let rest = left(begun.elapsed(), new, new + total - done as u64);
                format!("{done} of {total} sets, {}{rest}", plural(pairs, "pair"))
            });
        }
    }

    /// Makes and judges the clips of some sets, which are given in their order.
    fn part(
        &self,
        sets: Range<usize>,
        makers: &mut [Maker<'_, Judge>],
        (progress, told): (&mut Progress, &mut Told),
    ) -> Result<Vec<Done>> {
        let mut order = Vec::new();
        for index in sets {
            order.push((index, self.set(index as u64)?));
        }
        order.sort_by_key(|(_, set)| lengths(set));
        let mut made = Vec::new();
        each(makers, &order, &|maker, (index, set)| self.both(*index as u64, set, maker), &mut {
            |_, (judged, frames, warnings)| {
                told.tell(warnings, progress);
                made.push((judged, frames));
                Ok(())
            }
        })?;
        let mut out: Vec<_> = order.into_iter().zip(made).collect();
        out.sort_by_key(|((index, _), _)| *index);
        let done = out.into_iter().map(|((_, set), (judged, frames))| (set, judged, frames));
        Ok(done.collect())
    }

    /// Makes both clips of a set and has them judged; gives what the model warned of, too.
    fn both(
        &self,
        index: u64,
        set: &Set,
        maker: &mut Maker<'_, Judge>,
    ) -> Result<(Judged, Both, Vec<String>)> {
        let (identity, world) = (&set.group.identity, self.args.set.world.version);
        let Maker { pipeline, worker: Worker { judge, painter, .. } } = maker;
        let pictures = set
            .references
            .iter()
            .map(|one| picture(set, one, Some(identity), painter, self.args.made.size));
        let references = pictures.collect::<Result<Vec<_>>>()?;
        let seeds = [0, 1].map(|clip| world.noise(self.args.set.seed, index, clip));
        let (mut tracks, mut frames) = ([Tracks::default(); 2], [Vec::new(), Vec::new()]);
        let mut warnings = Vec::new();
        for (clip, seed) in seeds.into_iter().enumerate() {
            self.clips.stopped()?;
            let (references, prompt) = (references.clone(), set.prompt.text.clone());
            let given = Given { references, prompt, seed };
            frames[clip] = self.clips.make(pipeline, given, &mut warnings)?;
            let looked = self.clips.judged().into_iter().map(|at| frames[clip][at].clone());
            let looked: Vec<Vec<u8>> = looked.collect();
            let verdict = self.clips.judge(judge, set, &looked, identity)?;
            tracks[clip] = Tracks::of(&parts(set, &verdict));
        }
        let chosen = preferred(&tracks, self.args.margin);
        if chosen.is_none() {
            frames = [Vec::new(), Vec::new()];
        }
        let pair = chosen.map(|chosen| (chosen, [String::new(), String::new()]));
        Ok((Judged { group: set.group.number(), seeds, tracks, pair }, frames, warnings))
    }

    /// The sets of the pairs that count, each with its number.
    fn pairs(&self, folder: &Folder) -> Result<Vec<(usize, Set)>> {
        let sets = folder.judged.iter().take(self.args.sets as usize).enumerate();
        let enough = self.args.enough.map_or(usize::MAX, |enough| enough as usize);
        let pairs = sets.filter(|(_, one)| one.pair.is_some()).take(enough);
        pairs.map(|(index, _)| Ok((index, self.set(index as u64)?))).collect()
    }
}

impl Report {
    /// Pairs of a hundred sets.
    fn share(&self) -> f64 {
        100.0 * self.pairs as f64 / self.sets as f64
    }

    /// Clips that were made in a second of one processor.
    fn rate(&self) -> Option<f64> {
        let taken = self.taken.filter(|_| self.made > 0)?;
        Some(self.made as f64 / taken.as_secs_f64())
    }

    /// It as an object.
    fn json(&self) -> Value {
        let mut value = self.lasting();
        value["manifest"] = json!(self.manifest.to_string_lossy());
        value["made"] = json!(self.made);
        value["clips_per_second"] = json!(self.rate());
        value
    }

    /// What does not depend on how it came about.
    pub fn lasting(&self) -> Value {
        let [all, chosen, rejected] =
            self.means.map(|[identity, prompt]| json!({"identity": identity, "prompt": prompt}));
        json!({
            "sha256": self.sha256, "sets": self.sets, "pairs": self.pairs, "all": all,
            "chosen": chosen, "rejected": rejected,
        })
    }

    /// It in words.
    fn text(&self) -> String {
        let [all, chosen, rejected] =
            self.means.map(|[identity, prompt]| format!("{identity:.3} and {prompt:.3}"));
        let (pairs, sets) = (plural(self.pairs, "pair"), plural(self.sets, "set"));
        let (path, time, share) = (self.manifest.display(), duration(self.time), self.share());
        let rate = self.rate().map_or(String::new(), |rate| {
            format!(", {rate:.1} clips in a second of one processor")
        });
        format!(
            "wrote {path}: {pairs} of {sets} ({share:.1} %), in {time}{rate}\n\
             right of identity and prompt: {all} of all clips, {chosen} of the chosen, {rejected} \
             of the rejected\nSHA-256 of the manifest {}\n",
            self.sha256
        )
    }
}
