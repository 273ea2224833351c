//! The queue: every video that was asked for, in memory and in a folder that survives the process.
//!
//! ```text
//! lock                     held while a server uses the folder
//! queue.json               says what this folder is
//! incoming/                uploads that are not complete; emptied at each start
//! jobs/ID/job.json         the record of a video
//! jobs/ID/reference-N      its references
//! jobs/ID/sampling.safetensors   how far its sampling is, until it is complete
//! jobs/ID/video.mp4        the result, with its recipe beside it
//! ```
//!
//! Contract: a change is on the disk before anybody is told of it. A video appears as a whole
//! folder, by one rename; a record is replaced by another rename. A video is complete when its file
//! is there, since that is renamed into place by the run that made it: a process that is killed
//! between this and the record does not make it again. A video for which the disk has no room stays in
//! the queue. Who makes videos is not known here.

use crate::job::{Fault, Job, Progress, Settings, Status, VERSION, fresh_id, now};
use crate::limits::Limits;
use crate::refusal::{Answer, Refusal};
use anyid_runtime::checkpoint::Checkpoint;
use anyid_runtime::files::write_error;
use anyid_runtime::pipeline::STEP_KEY;
use anyid_runtime::{Cancel, Error, Result, files, input};
use axum::http::StatusCode;
use serde_json::{Value, json};
use std::collections::{BTreeMap, HashMap};
use std::fs::{self, File, TryLockError};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::watch;

/// The largest record that is read, in bytes.
const RECORD: u64 = 1 << 20;
/// The file that says what the folder is.
const MARK: &str = "queue.json";
/// Starts of a video that were ended by the end of the process before any step was stored; after so many
/// it is given up.
const ATTEMPTS: u32 = 3;
/// The name of a result.
const VIDEO: &str = "video.mp4";
/// The name of the state of a sampling.
const STATE: &str = "sampling.safetensors";
/// How long nothing is begun after the disk was full: at first, and at most.
const REST: [Duration; 2] = [Duration::from_secs(5), Duration::from_secs(300)];

/// Videos that were asked for.
pub struct Queue {
    folder: PathBuf,
    /// Held as long as the queue is there.
    _lock: File,
    limits: Limits,
    state: Mutex<State>,
    wake: Condvar,
    changed: watch::Sender<u64>,
}

struct State {
    jobs: BTreeMap<u64, Job>,
    numbers: HashMap<String, u64>,
    next: u64,
    /// What is being made.
    live: Option<Live>,
    /// Whether nothing more is begun.
    stopping: bool,
    /// Until when nothing is begun, as the disk was full.
    resting: Option<Instant>,
    /// How long it rests the next time.
    rest: Duration,
}

struct Live {
    number: u64,
    cancel: Cancel,
    progress: Progress,
}

/// A video to make.
pub struct Work {
    pub number: u64,
    pub id: String,
    pub settings: Settings,
    pub references: Vec<PathBuf>,
    pub output: PathBuf,
    /// Where the state of its sampling is kept, and may be from before.
    pub state: PathBuf,
    /// Used when nobody wants it any more.
    pub cancel: Cancel,
}

/// How making a video ended.
pub enum Outcome {
    Made(Vec<String>),
    Failed(Error),
    /// The disk has no room for it.
    NoRoom(Error),
    /// It was told to stop, by a client or because the server stops.
    Stopped,
}

/// How many videos there are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Waiting, or begun.
    pub waiting: usize,
    /// All others.
    pub finished: usize,
}

/// References on their way into the queue; removed if they do not get there.
pub struct Incoming {
    id: String,
    folder: PathBuf,
    references: usize,
}

impl Incoming {
    /// The file of the next reference.
    pub fn next(&mut self) -> PathBuf {
        self.references += 1;
        self.path(self.references)
    }

    /// All files.
    pub fn paths(&self) -> Vec<PathBuf> {
        (1..=self.references).map(|number| self.path(number)).collect()
    }

    fn path(&self, number: usize) -> PathBuf {
        self.folder.join(format!("reference-{number}"))
    }
}

impl Drop for Incoming {
    fn drop(&mut self) {
        // Gone already if it got into the queue.
        let _ = fs::remove_dir_all(&self.folder);
    }
}

impl Queue {
    /// Opens the folder, which is made where it is missing, for a server of `model`.
    ///
    /// # Errors
    /// E1401 if another server uses it, E1402 if it is no queue, has a record that cannot be read,
    /// or has videos waiting for another model; E101x if it cannot be written.
    pub fn open(folder: &Path, model: &str, limits: Limits) -> Result<Self> {
        files::make_folder(folder)?;
        let unusable = |what: String| {
            Error::input("E1402", what)
                .at(folder.display())
                .help("name an empty folder, or one that does not exist yet: --queue DIR")
        };
        let names: Vec<_> = fs::read_dir(folder)
            .map_err(|fault| write_error(folder, fault))?
            .filter_map(|entry| entry.ok().map(|entry| entry.file_name()))
            .collect();
        let marked = names.iter().any(|name| name == MARK);
        if !marked && names.iter().any(|name| name != "lock") {
            return Err(unusable("this folder holds other files than those of a queue".into()));
        }
        let lock = folder.join("lock");
        let lock = File::create(&lock).map_err(|fault| write_error(&lock, fault))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(Error::input("E1401", "another server uses this queue")
                    .at(folder.display())
                    .help("stop it first, or give this one a folder of its own: --queue DIR"));
            }
            Err(TryLockError::Error(fault)) => {
                return Err(unusable("this file system has no locks".into()).caused_by(fault));
            }
        }
        let incoming = folder.join("incoming");
        if incoming.exists() {
            fs::remove_dir_all(&incoming).map_err(|fault| write_error(&incoming, fault))?;
        }
        for part in [&incoming, &folder.join("jobs")] {
            fs::create_dir_all(part).map_err(|fault| write_error(part, fault))?;
        }
        if !marked {
            let mark = json!({ "format": "anyid-rt queue", "version": VERSION });
            replace(folder, MARK, mark.to_string().as_bytes())?;
        }
        let state = State {
            jobs: BTreeMap::new(),
            numbers: HashMap::new(),
            next: 1,
            live: None,
            stopping: false,
            resting: None,
            rest: REST[0],
        };
        let queue = Self {
            folder: folder.to_owned(),
            _lock: lock,
            limits,
            state: Mutex::new(state),
            wake: Condvar::new(),
            changed: watch::Sender::new(0),
        };
        queue.recover(model)?;
        Ok(queue)
    }

    /// Reads all records and settles what the end of an earlier process left open.
    fn recover(&self, model: &str) -> Result<()> {
        let jobs = self.folder.join("jobs");
        let mut state = self.lock();
        for entry in fs::read_dir(&jobs).map_err(|fault| write_error(&jobs, fault))? {
            let folder = entry.map_err(|fault| write_error(&jobs, fault))?.path();
            let mut job = read_record(&folder)?;
            if job.deleted {
                self.discard(&job.id)?;
                continue;
            }
            if job.status == Status::InProgress {
                let reached = steps_done(&folder.join(STATE));
                if reached > job.reached {
                    // It goes forward, however often the process ends.
                    job.attempts = 0;
                }
                job.reached = reached;
                if folder.join(VIDEO).exists() {
                    job.status = Status::Completed;
                    job.completed_at = Some(now());
                } else if job.attempts >= ATTEMPTS {
                    let what = format!(
                        "the server ended {ATTEMPTS} times while this was made, without a step more"
                    );
                    job.status = Status::Failed;
                    job.error = Some(Fault::from(&Error::input("E1416", what)));
                } else {
                    tidy(&folder, &[STATE]);
                    job.status = Status::Queued;
                    job.started_at = None;
                }
                self.write(&job)?;
            }
            if job.status == Status::Queued && job.model != model {
                let what = format!("{} waits for the model \"{}\"", job.id, job.model);
                return Err(Error::input("E1402", what).at(self.folder.display()).help(format!(
                    "serve that model with this queue, or name another one: --queue DIR; this is \
                     \"{model}\""
                )));
            }
            state.next = state.next.max(job.number + 1);
            state.numbers.insert(job.id.clone(), job.number);
            state.jobs.insert(job.number, job);
        }
        Ok(())
    }

    /// Tells whenever something has changed.
    pub fn watch(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    /// How many videos there are.
    pub fn counts(&self) -> Counts {
        let state = self.lock();
        let finished = state.jobs.values().filter(|job| job.status.is_final()).count();
        Counts { waiting: state.jobs.len() - finished, finished }
    }

    /// A place for the references of a new video.
    ///
    /// # Errors
    /// E1409 if there are too many videos, E1414 if the server stops; E101x of the disk.
    pub fn begin(&self) -> Answer<Incoming> {
        self.admit(&self.lock())?;
        let id = fresh_id();
        let folder = self.folder.join("incoming").join(&id);
        fs::create_dir(&folder).map_err(|fault| Refusal::trouble(write_error(&folder, fault)))?;
        Ok(Incoming { id, folder, references: 0 })
    }

    fn admit(&self, state: &State) -> Answer<()> {
        if state.stopping {
            return Err(stopping());
        }
        let waiting = state.jobs.values().filter(|job| job.status == Status::Queued).count();
        let full = |what: String, help: &str| {
            Err(Refusal::new(StatusCode::TOO_MANY_REQUESTS, "E1409", what).help(help))
        };
        if waiting >= self.limits.waiting {
            return full(format!("{waiting} videos wait already"), "try again later");
        }
        if state.jobs.len() >= self.limits.videos {
            return full(
                format!("{} videos are kept already", state.jobs.len()),
                "delete some: DELETE /v1/videos/ID",
            );
        }
        Ok(())
    }

    /// Puts a video into the queue; the object that the client is given.
    ///
    /// # Errors
    /// As [`Self::begin`].
    pub fn submit(&self, incoming: Incoming, model: &str, settings: Settings) -> Answer<Value> {
        for path in incoming.paths() {
            // Written before, but perhaps not to the disk.
            File::open(&path)
                .and_then(|file| file.sync_all())
                .map_err(|fault| Refusal::trouble(write_error(&path, fault)))?;
        }
        let mut state = self.lock();
        self.admit(&state)?;
        let job = Job {
            version: VERSION,
            id: incoming.id.clone(),
            number: state.next,
            model: model.to_owned(),
            status: Status::Queued,
            deleted: false,
            settings,
            references: incoming.references,
            attempts: 0,
            reached: 0,
            created_at: now(),
            started_at: None,
            completed_at: None,
            error: None,
            warnings: Vec::new(),
        };
        let (jobs, target) = (self.folder.join("jobs"), self.place(&job.id));
        replace(&incoming.folder, "job.json", &record(&job)).map_err(Refusal::trouble)?;
        fs::rename(&incoming.folder, &target)
            .map_err(|fault| Refusal::trouble(write_error(&target, fault)))?;
        sync_folder(&jobs);
        state.next += 1;
        state.numbers.insert(job.id.clone(), job.number);
        let number = job.number;
        state.jobs.insert(number, job);
        let video = state.video(number);
        self.tell(state);
        Ok(video)
    }

    /// The video, for clients.
    ///
    /// # Errors
    /// E1407 if there is none.
    pub fn video(&self, id: &str) -> Answer<Value> {
        let state = self.lock();
        Ok(state.video(state.number(id)?))
    }

    /// At most `limit` videos, from the newest on or, `ascending`, from the oldest, behind `after`;
    /// and whether there are more.
    ///
    /// # Errors
    /// E1407 if there is no video `after`.
    pub fn list(
        &self,
        after: Option<&str>,
        limit: usize,
        ascending: bool,
    ) -> Answer<(Vec<Value>, bool)> {
        let state = self.lock();
        let after = after.map(|id| state.number(id)).transpose()?;
        let behind = |number: &u64| match (after, ascending) {
            (None, _) => true,
            (Some(after), true) => *number > after,
            (Some(after), false) => *number < after,
        };
        let all = state.jobs.iter().filter(|(_, job)| !job.deleted).map(|(number, _)| *number);
        let mut found: Vec<u64> = all.filter(behind).collect();
        if !ascending {
            found.reverse();
        }
        let more = found.len() > limit;
        found.truncate(limit);
        Ok((found.into_iter().map(|number| state.video(number)).collect(), more))
    }

    /// The file of a video.
    ///
    /// # Errors
    /// E1407 if there is none, E1408 if it is not complete.
    pub fn content(&self, id: &str) -> Answer<PathBuf> {
        let state = self.lock();
        let job = &state.jobs[&state.number(id)?];
        match job.status {
            Status::Completed => Ok(self.place(id).join(VIDEO)),
            other => Err(conflict(format!("this video is {}, not completed", other.name()))),
        }
    }

    /// Gives a video up; the object that the client is given. Cancelling twice is no fault.
    ///
    /// # Errors
    /// E1407 if there is none, E1408 if it is finished already; E101x of the disk.
    pub fn cancel(&self, id: &str) -> Answer<Value> {
        let mut state = self.lock();
        let number = state.number(id)?;
        let job = &state.jobs[&number];
        match job.status {
            Status::Completed | Status::Failed => {
                let what = format!("this video is {} already", job.status.name());
                return Err(conflict(what).help("delete it: DELETE /v1/videos/ID"));
            }
            Status::Cancelled => {}
            Status::Queued | Status::InProgress => {
                let job =
                    Job { status: Status::Cancelled, completed_at: Some(now()), ..job.clone() };
                self.write(&job).map_err(Refusal::trouble)?;
                state.jobs.insert(number, job);
                state.stop(number);
                if !state.is_live(number) {
                    tidy(&self.place(id), &[]);
                }
            }
        }
        state.resting = None;
        let video = state.video(number);
        self.tell(state);
        Ok(video)
    }

    /// Removes a video with everything that belongs to it; gives it up first.
    ///
    /// # Errors
    /// E1407 if there is none; E101x of the disk.
    pub fn delete(&self, id: &str) -> Answer<()> {
        let mut state = self.lock();
        let number = state.number(id)?;
        if state.is_live(number) {
            // Whoever makes it removes it.
            let job = &state.jobs[&number];
            let job = Job { status: Status::Cancelled, deleted: true, ..job.clone() };
            self.write(&job).map_err(Refusal::trouble)?;
            state.jobs.insert(number, job);
            state.stop(number);
        } else {
            self.discard(id).map_err(Refusal::trouble)?;
            state.remove(number);
        }
        // There may be room now.
        state.resting = None;
        self.tell(state);
        Ok(())
    }

    /// Waits for a video to make, and begins it; nothing when the server stops.
    pub fn take(&self) -> Option<Work> {
        let mut state = self.lock();
        loop {
            if state.stopping {
                return None;
            }
            if let Some(until) = state.resting {
                let left = until.saturating_duration_since(Instant::now());
                if !left.is_zero() {
                    let woken = self.wake.wait_timeout(state, left);
                    state = woken.unwrap_or_else(PoisonError::into_inner).0;
                    continue;
                }
                state.resting = None;
            }
            let waiting = state.jobs.values().find(|job| job.status == Status::Queued).cloned();
            let Some(job) = waiting else {
                state = self.wake.wait(state).unwrap_or_else(PoisonError::into_inner);
                continue;
            };
            let begun = Job {
                status: Status::InProgress,
                attempts: job.attempts + 1,
                started_at: Some(now()),
                warnings: Vec::new(),
                ..job.clone()
            };
            let recorded = self.write(&begun);
            if let Err(error) = &recorded
                && is_full(error)
            {
                let waits = Job { warnings: vec![no_room(error)], ..job };
                state.jobs.insert(waits.number, waits);
                state.rest();
                self.changed.send_modify(|count| *count += 1);
                continue;
            }
            if let Err(error) = recorded {
                // What cannot be recorded could be made over and over.
                let failed = Job {
                    status: Status::Failed,
                    error: Some(Fault::from(&error)),
                    completed_at: Some(now()),
                    ..job
                };
                state.jobs.insert(failed.number, failed);
                self.changed.send_modify(|count| *count += 1);
                continue;
            }
            let place = self.place(&begun.id);
            let reference = |number| place.join(format!("reference-{number}"));
            let work = Work {
                number: begun.number,
                id: begun.id.clone(),
                settings: begun.settings.clone(),
                references: (1..=begun.references).map(reference).collect(),
                output: place.join(VIDEO),
                state: place.join(STATE),
                cancel: Cancel::new(),
            };
            state.live = Some(Live {
                number: begun.number,
                cancel: work.cancel.clone(),
                progress: Progress::default(),
            });
            state.jobs.insert(begun.number, begun);
            self.tell(state);
            return Some(work);
        }
    }

    /// Says how far the video is that is being made.
    pub fn progress(&self, progress: Progress) {
        let mut state = self.lock();
        let Some(live) = &mut state.live else { return };
        if live.progress != progress {
            live.progress = progress;
            self.tell(state);
        }
    }

    /// Records how making a video ended; what has become of it.
    ///
    /// # Errors
    /// E101x if it could not be recorded: the next start finds out by the files that are there.
    pub fn finish(&self, work: &Work, outcome: Outcome) -> Result<Option<Status>> {
        let mut state = self.lock();
        state.live = None;
        let Some(job) = state.jobs.get(&work.number).cloned() else { return Ok(None) };
        if job.deleted {
            state.remove(work.number);
            self.tell(state);
            return self.discard(&job.id).map(|()| None);
        }
        let job = match outcome {
            _ if job.status == Status::Cancelled => {
                // It may have been complete a moment before.
                tidy(&self.place(&job.id), &[]);
                job
            }
            Outcome::Made(warnings) => {
                state.rest = REST[0];
                let done = Some(now());
                Job { status: Status::Completed, completed_at: done, warnings, ..job }
            }
            Outcome::Failed(error) => {
                tidy(&self.place(&job.id), &[]);
                let error = Some(Fault::from(&error));
                Job { status: Status::Failed, completed_at: Some(now()), error, ..job }
            }
            Outcome::NoRoom(error) => {
                state.rest();
                let attempts = job.attempts.saturating_sub(1);
                let warnings = vec![no_room(&error)];
                Job { status: Status::Queued, started_at: None, attempts, warnings, ..job }
            }
            Outcome::Stopped => {
                let attempts = job.attempts.saturating_sub(1);
                Job { status: Status::Queued, started_at: None, attempts, ..job }
            }
        };
        let written = self.write(&job);
        let status = job.status;
        state.jobs.insert(job.number, job);
        self.tell(state);
        written.map(|()| Some(status))
    }

    /// Begins nothing more, and stops what is being made; it stays in the queue.
    pub fn stop(&self) {
        let mut state = self.lock();
        state.stopping = true;
        if let Some(live) = &state.live {
            live.cancel.cancel();
        }
        self.tell(state);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Records are replaced as a whole, so the state is valid even if a thread panics.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tell(&self, state: MutexGuard<'_, State>) {
        drop(state);
        self.wake.notify_all();
        self.changed.send_modify(|count| *count += 1);
    }

    fn place(&self, id: &str) -> PathBuf {
        self.folder.join("jobs").join(id)
    }

    fn write(&self, job: &Job) -> Result<()> {
        replace(&self.place(&job.id), "job.json", &record(job))
    }

    /// Removes the folder of a video: first by name, so that it is there as a whole or not at all.
    fn discard(&self, id: &str) -> Result<()> {
        let (place, gone) = (self.place(id), self.folder.join("incoming").join(id));
        fs::rename(&place, &gone).map_err(|fault| write_error(&place, fault))?;
        sync_folder(&self.folder.join("jobs"));
        // What stays is removed by the next start.
        let _ = fs::remove_dir_all(&gone);
        Ok(())
    }
}

impl State {
    fn number(&self, id: &str) -> Answer<u64> {
        let number = self.numbers.get(id).copied();
        let there = |number: &u64| self.jobs.get(number).is_some_and(|job| !job.deleted);
        number.filter(there).ok_or_else(missing)
    }

    fn video(&self, number: u64) -> Value {
        let job = &self.jobs[&number];
        let live = self.live.as_ref().filter(|live| live.number == number);
        let ahead = (job.status == Status::Queued).then(|| {
            let before = self.jobs.range(..number).filter(|(_, job)| !job.status.is_final());
            before.count()
        });
        job.video(live.map_or_else(Progress::default, |live| live.progress), ahead)
    }

    fn is_live(&self, number: u64) -> bool {
        self.live.as_ref().is_some_and(|live| live.number == number)
    }

    /// Stops making `number`, if that is what is being made.
    fn stop(&self, number: u64) {
        if let Some(live) = self.live.as_ref().filter(|live| live.number == number) {
            live.cancel.cancel();
        }
    }

    /// Nothing is begun for a while, and for longer the next time.
    fn rest(&mut self) {
        self.resting = Some(Instant::now() + self.rest);
        self.rest = (self.rest * 2).min(REST[1]);
    }

    fn remove(&mut self, number: u64) {
        if let Some(job) = self.jobs.remove(&number) {
            self.numbers.remove(&job.id);
        }
    }
}

/// The refusal of a video that there is not (E1407).
pub fn missing() -> Refusal {
    Refusal::new(StatusCode::NOT_FOUND, "E1407", "there is no such video")
        .help("GET /v1/videos lists those that there are")
}

fn conflict(what: String) -> Refusal {
    Refusal::new(StatusCode::CONFLICT, "E1408", what)
}

/// The refusal of a server that stops (E1414).
pub fn stopping() -> Refusal {
    Refusal::new(StatusCode::SERVICE_UNAVAILABLE, "E1414", "the server is stopping")
        .help("try again when it runs again; what it has accepted is not lost")
}

fn record(job: &Job) -> Vec<u8> {
    let mut bytes = serde_json::to_vec_pretty(job).expect("a record is plain data");
    bytes.push(b'\n');
    bytes
}

/// The record in the folder of a video.
fn read_record(folder: &Path) -> Result<Job> {
    let path = folder.join("job.json");
    let damaged = |what: String| {
        Error::input("E1402", what)
            .at(path.display())
            .help("restore it, or move the folder of this video out of the queue")
    };
    let bytes = input::read(&path, RECORD).map_err(|refusal| {
        refusal.coded(
            &path,
            |fault| damaged("the record of a video cannot be read".into()).caused_by(fault),
            |limit| damaged(format!("the record of a video has more than {limit} bytes")),
        )
    })?;
    let job: Job = serde_json::from_slice(&bytes)
        .map_err(|fault| damaged("the record of a video is damaged".into()).caused_by(fault))?;
    if job.version > VERSION {
        let what = format!("the record has version {}, this program knows {VERSION}", job.version);
        return Err(damaged(what).advised("use the version of anyid-rt that wrote it"));
    }
    if folder.file_name().is_none_or(|name| name != job.id.as_str()) {
        return Err(damaged(format!("the record is that of \"{}\"", job.id)));
    }
    Ok(job)
}

/// Whether a video can wait until there is room.
pub fn is_full(error: &Error) -> bool {
    error.code() == "E1012"
}

/// What is said of a video that waits for room.
fn no_room(error: &Error) -> String {
    format!("[{}] {}: it waits until there is room", error.code(), error.message())
}

/// Removes what a run has left in the folder of a video, but for the files of these names.
fn tidy(folder: &Path, kept: &[&str]) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if name != "job.json" && !name.starts_with("reference-") && !kept.contains(&&*name) {
            let _ = fs::remove_file(entry.path());
        }
    }
}

/// Gives the file `name` in `folder` these contents, whole or not at all, and on the disk. The queue
/// has one owner, so that the name before the rename is always the same; and it has to be written
/// when the program is told to end, too, unlike results.
fn replace(folder: &Path, name: &str, contents: &[u8]) -> Result<()> {
    let (path, new) = (folder.join(name), folder.join(format!("{name}.new")));
    let write = || {
        let mut file = File::create(&new)?;
        file.write_all(contents)?;
        file.sync_all()?;
        fs::rename(&new, &path)
    };
    write().map_err(|fault| write_error(&path, fault))?;
    sync_folder(folder);
    Ok(())
}

/// Brings the names in a folder to the disk, where the system can.
fn sync_folder(folder: &Path) {
    let _ = File::open(folder).and_then(|folder| folder.sync_all());
}

/// The steps that the state of a sampling has behind it; none where there is no state that can be read.
fn steps_done(state: &Path) -> usize {
    let file = Checkpoint::open(state).ok();
    let step = file.as_ref().and_then(|file| file.metadata().get(STEP_KEY));
    step.and_then(|step| step.split_once('/')?.0.parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests;
