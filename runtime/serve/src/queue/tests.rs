//! The queue on the disk: order, restarts, what is damaged or full.

use super::*;
use crate::job::tests::settings;
use tempfile::TempDir;

const MODEL: &str = "built-in";

fn open(folder: &TempDir) -> Queue {
    Queue::open(folder.path(), MODEL, Limits::default()).unwrap()
}

/// Puts a video with one reference into the queue; its name.
fn submit(queue: &Queue, prompt: &str) -> String {
    let mut incoming = queue.begin().unwrap();
    fs::write(incoming.next(), b"picture").unwrap();
    let video = queue.submit(incoming, MODEL, settings(prompt)).unwrap();
    video["id"].as_str().unwrap().to_owned()
}

fn status(queue: &Queue, id: &str) -> String {
    queue.video(id).unwrap()["status"].as_str().unwrap().to_owned()
}

fn code(folder: &TempDir, model: &str) -> &'static str {
    Queue::open(folder.path(), model, Limits::default()).err().map_or("", |error| error.code())
}

#[test]
fn a_video_goes_its_way_and_is_there_after_a_restart() {
    let folder = TempDir::new().unwrap();
    let queue = open(&folder);
    let (first, second) = (submit(&queue, "a"), submit(&queue, "b"));
    assert_eq!(queue.video(&second).unwrap()["queue_position"], 1);
    let work = queue.take().unwrap();
    assert_eq!((work.id.as_str(), work.references.len()), (first.as_str(), 1));
    assert_eq!(fs::read(&work.references[0]).unwrap(), b"picture");
    queue.progress(Progress { percent: 40, stage: Some(("sampling", 2, 5)) });
    let video = queue.video(&first).unwrap();
    assert_eq!((&video["progress"], &video["stage"]["done"]), (&json!(40), &json!(2)));
    assert_eq!(queue.content(&first).unwrap_err().code(), "E1408");
    fs::write(&work.output, b"mp4").unwrap();
    queue.finish(&work, Outcome::Made(vec!["w".into()])).unwrap();
    let made = queue.video(&first).unwrap();
    assert_eq!((&made["status"], &made["progress"]), (&json!("completed"), &json!(100)));
    assert_eq!(code(&folder, MODEL), "E1401");
    drop(queue);
    let queue = open(&folder);
    assert_eq!(queue.video(&first).unwrap(), made);
    assert_eq!(fs::read(queue.content(&first).unwrap()).unwrap(), b"mp4");
    assert_eq!(queue.counts(), Counts { waiting: 1, finished: 1 });
    let (newest, more) = queue.list(None, 1, false).unwrap();
    assert!(newest[0]["id"] == second.as_str() && more);
    let (rest, more) = queue.list(Some(&second), 5, false).unwrap();
    assert!(rest.len() == 1 && rest[0]["id"] == first.as_str() && !more);
    assert_eq!(queue.list(None, 5, true).unwrap().0[0]["id"], first.as_str());
    assert_eq!(queue.list(Some("none"), 5, true).unwrap_err().code(), "E1407");
}

#[test]
fn a_process_that_ends_in_the_middle_costs_the_attempt_alone() {
    let folder = TempDir::new().unwrap();
    let id = {
        let queue = open(&folder);
        let id = submit(&queue, "a");
        let work = queue.take().unwrap();
        fs::write(work.output.with_extension("tmp"), b"half").unwrap();
        id
    };
    // Killed with the video complete, but not recorded.
    let queue = open(&folder);
    assert_eq!(status(&queue, &id), "queued");
    let work = queue.take().unwrap();
    assert!(!work.output.with_extension("tmp").exists());
    fs::write(&work.output, b"mp4").unwrap();
    drop(queue);
    let queue = open(&folder);
    assert_eq!(status(&queue, &id), "completed");
    // A video that ends the process whenever it is made is given up.
    let bad = submit(&queue, "b");
    drop(queue);
    for _ in 0..ATTEMPTS {
        let queue = open(&folder);
        assert_eq!(queue.take().unwrap().id, bad);
    }
    let queue = open(&folder);
    assert_eq!(queue.video(&bad).unwrap()["error"]["code"], "E1416");
    // One that is stopped in good order is not, however often.
    let slow = submit(&queue, "c");
    drop(queue);
    for _ in 0..2 * ATTEMPTS {
        let queue = open(&folder);
        let work = queue.take().unwrap();
        queue.stop();
        assert!(work.cancel.is_cancelled() && queue.take().is_none());
        assert_eq!(queue.begin().err().unwrap().code(), "E1414");
        assert_eq!(queue.finish(&work, Outcome::Stopped).unwrap(), Some(Status::Queued));
    }
    assert_eq!(status(&open(&folder), &slow), "queued");
}

#[test]
fn a_video_that_goes_forward_is_not_given_up() {
    let folder = TempDir::new().unwrap();
    let id = submit(&open(&folder), "a");
    let ended_at = |step: usize| {
        let queue = open(&folder);
        let work = queue.take().unwrap();
        let tensor = anyid_runtime::Tensor::from_f32([1], &[0.0]).unwrap();
        let metadata = BTreeMap::from([(STEP_KEY.to_owned(), format!("{step}/40"))]);
        let state = work.output.with_file_name(STATE);
        let _ = fs::remove_file(&state);
        anyid_runtime::weights::write_tensors(&state, [("latents", &tensor)], &metadata).unwrap();
    };
    (1..=3 * ATTEMPTS as usize).for_each(ended_at);
    assert_eq!(status(&open(&folder), &id), "queued");
    // From there on it stays where it is.
    (0..ATTEMPTS).for_each(|_| ended_at(3 * ATTEMPTS as usize));
    assert_eq!(open(&folder).video(&id).unwrap()["error"]["code"], "E1416");
}

#[test]
fn what_is_given_up_is_not_made() {
    let folder = TempDir::new().unwrap();
    let queue = open(&folder);
    let ids: Vec<String> = ["a", "b", "c", "d"].map(|prompt| submit(&queue, prompt)).into();
    assert_eq!(queue.cancel(&ids[1]).unwrap()["status"], "cancelled");
    assert_eq!(queue.cancel(&ids[1]).unwrap()["status"], "cancelled");
    let work = queue.take().unwrap();
    assert_eq!(queue.cancel(&ids[0]).unwrap()["status"], "cancelled");
    assert!(work.cancel.is_cancelled());
    // It was complete a moment before.
    fs::write(&work.output, b"mp4").unwrap();
    let ended = queue.finish(&work, Outcome::Made(Vec::new())).unwrap();
    assert_eq!((ended, work.output.exists()), (Some(Status::Cancelled), false));
    let work = queue.take().unwrap();
    assert_eq!(work.id, ids[2]);
    queue.delete(&ids[2]).unwrap();
    assert_eq!(queue.video(&ids[2]).unwrap_err().code(), "E1407");
    assert!(work.cancel.is_cancelled() && work.references[0].exists());
    drop(queue);
    // Killed before it could be removed.
    let queue = open(&folder);
    assert!(!work.references[0].exists());
    queue.delete(&ids[1]).unwrap();
    assert_eq!(queue.delete(&ids[1]).unwrap_err().code(), "E1407");
    let work = queue.take().unwrap();
    queue.delete(&ids[3]).unwrap();
    assert_eq!(queue.finish(&work, Outcome::Stopped).unwrap(), None);
    assert!(!work.references[0].exists());
    let left = fs::read_dir(folder.path().join("jobs")).unwrap().count();
    assert_eq!((left, fs::read_dir(folder.path().join("incoming")).unwrap().count()), (1, 0));
    let finished = submit(&queue, "e");
    let work = queue.take().unwrap();
    let error = Error::input("E0902", "no").help("see /secret");
    queue.finish(&work, Outcome::Failed(error)).unwrap();
    let video = queue.video(&finished).unwrap();
    assert_eq!(video["error"], json!({ "code": "E0902", "message": "no" }));
    assert_eq!(queue.cancel(&finished).unwrap_err().code(), "E1408");
}

#[test]
fn counts_are_bounded() {
    let folder = TempDir::new().unwrap();
    let limits = Limits { waiting: 2, videos: 3, ..Limits::default() };
    let queue = Queue::open(folder.path(), MODEL, limits).unwrap();
    let late = queue.begin().unwrap();
    let ids = ["a", "b"].map(|prompt| submit(&queue, prompt));
    assert_eq!(queue.begin().err().unwrap().code(), "E1409");
    let refused = queue.submit(late, MODEL, settings("c"));
    assert_eq!(refused.unwrap_err().code(), "E1409");
    assert_eq!(fs::read_dir(folder.path().join("incoming")).unwrap().count(), 0);
    queue.cancel(&ids[0]).unwrap();
    submit(&queue, "c");
    queue.cancel(&ids[1]).unwrap();
    assert_eq!(queue.begin().err().unwrap().code(), "E1409");
    queue.delete(&ids[1]).unwrap();
    queue.begin().unwrap();
}

#[test]
fn a_folder_that_is_no_queue_is_left_alone() {
    let folder = TempDir::new().unwrap();
    fs::write(folder.path().join("holiday.jpg"), b"x").unwrap();
    assert_eq!(code(&folder, MODEL), "E1402");
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    let folder = TempDir::new().unwrap();
    let id = submit(&open(&folder), "a");
    assert_eq!(code(&folder, "other"), "E1402");
    let path = folder.path().join("jobs").join(&id).join("job.json");
    let good = fs::read(&path).unwrap();
    let text = String::from_utf8(good.clone()).unwrap();
    for bad in [
        String::new(),
        "{".to_owned(),
        text.replace("\"version\": 1", "\"version\": 2"),
        text.replace(&id, "video_other"),
        text.replace("\"queued\"", "\"lost\""),
        "x".repeat(2 << 20),
    ] {
        fs::write(&path, bad).unwrap();
        assert_eq!(code(&folder, MODEL), "E1402");
    }
    fs::write(&path, good).unwrap();
    assert_eq!(status(&open(&folder), &id), "queued");
}

#[test]
fn the_state_of_a_sampling_stays_as_long_as_its_video_is_to_be_made() {
    let folder = TempDir::new().unwrap();
    let queue = open(&folder);
    let [killed, failed, given_up] = ["a", "b", "c"].map(|prompt| submit(&queue, prompt));
    let work = queue.take().unwrap();
    assert_eq!(work.id, killed);
    fs::write(&work.state, b"state").unwrap();
    fs::write(work.state.with_extension("tmp"), b"half").unwrap();
    drop(queue);
    let queue = open(&folder);
    let work = queue.take().unwrap();
    assert_eq!(work.id, killed);
    assert_eq!(fs::read(&work.state).unwrap(), b"state");
    assert!(!work.state.with_extension("tmp").exists());
    queue.finish(&work, Outcome::Stopped).unwrap();
    assert!(work.state.exists());
    queue.delete(&killed).unwrap();
    let work = queue.take().unwrap();
    assert_eq!(work.id, failed);
    fs::write(&work.state, b"state").unwrap();
    queue.finish(&work, Outcome::Failed(Error::input("E0902", "no"))).unwrap();
    assert!(!work.state.exists());
    let work = queue.take().unwrap();
    assert_eq!(work.id, given_up);
    fs::write(&work.state, b"state").unwrap();
    queue.finish(&work, Outcome::Stopped).unwrap();
    queue.cancel(&given_up).unwrap();
    assert!(!work.state.exists());
}

#[test]
fn a_video_without_room_stays_in_the_queue_until_there_is_some() {
    let folder = TempDir::new().unwrap();
    let queue = open(&folder);
    let (first, second) = (submit(&queue, "a"), submit(&queue, "b"));
    let full = || write_error(folder.path(), std::io::ErrorKind::StorageFull.into());
    let work = queue.take().unwrap();
    let ended = queue.finish(&work, Outcome::NoRoom(full())).unwrap();
    assert_eq!(ended, Some(Status::Queued));
    let video = queue.video(&first).unwrap();
    let warning = video["warnings"][0].as_str().unwrap();
    assert!(warning.starts_with("[E1012] ") && warning.contains("until there is room"), "{video}");
    assert_eq!(video["error"], Value::Null);
    // Nothing is begun meanwhile, unless something is given up, which may make room.
    let begun = Instant::now();
    std::thread::scope(|scope| {
        let next = scope.spawn(|| queue.take().map(|work| (work.id, begun.elapsed())));
        std::thread::sleep(Duration::from_millis(200));
        queue.cancel(&second).unwrap();
        let (id, after) = next.join().unwrap().unwrap();
        assert_eq!(id, first);
        assert!(after >= Duration::from_millis(200) && after < REST[0], "{after:?}");
    });
    assert_eq!(queue.video(&first).unwrap()["warnings"], json!([]));
    // The next time it rests for longer, up to a bound.
    let mut state = queue.lock();
    let rests: Vec<Duration> = (0..9)
        .map(|_| {
            state.rest();
            state.rest
        })
        .collect();
    assert!(rests.is_sorted() && rests[8] == REST[1], "{rests:?}");
}
