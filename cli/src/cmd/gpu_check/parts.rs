//! Sections in processes of their own: whatever happens in one, what it has told is kept, and the rest is
//! gone on with.
//!
//! A context of a GPU that was lost is of no use to its process any more, and a driver may end the
//! process, or never come back. The check that was at work is then told of, done once more alone with
//! every launch waited for, so that the kernel has a name, and left out.

use super::report::{Line, Report, Verdict};
use super::teller::Message;
use anyid_runtime::files;
use std::io::{BufRead, BufReader};
use std::ops::Range;
use std::process::{Command, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::{Duration, Instant};

/// How often a device may be lost before it is given up.
const MOST_LOST: usize = 4;

/// How long after its time a section may be at work that began in time.
const GRACE: Duration = Duration::from_secs(15);

/// How often what ends a section is looked for.
const TURN: Duration = Duration::from_millis(100);

/// What a process is to do.
#[derive(Clone, Debug)]
pub struct Task {
    pub section: &'static str,
    /// Checks by their places.
    pub checks: Range<usize>,
    /// Whether every launch is waited for.
    pub waits: bool,
    /// When nothing new begins.
    pub until: Instant,
}

/// How a process ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// At its end.
    Well,
    /// Otherwise, in words.
    Died(String),
    /// It was ended long after its time.
    Late,
    /// Everything was told to stop.
    Stopped,
}

/// Runs a process, and hands on what it tells.
pub type Run<'r> = dyn FnMut(&Task, &mut dyn FnMut(Message)) -> End + 'r;

/// Keeps what was found so far.
pub type Save<'s> = dyn FnMut(&Report) + 's;

/// What all sections have in common.
pub struct Parts<'p> {
    pub report: &'p mut Report,
    /// How often the device was lost.
    pub lost: usize,
    /// What else there is to be checked.
    pub others: Vec<String>,
}

impl Parts<'_> {
    /// Runs a section; whether everything was told to stop.
    /// `save` is called whenever something was found.
    pub fn section(
        &mut self,
        section: &'static str,
        until: Instant,
        run: &mut Run<'_>,
        save: &mut Save<'_>,
    ) -> bool {
        let mut from = 0;
        loop {
            if self.lost > MOST_LOST {
                let why = format!("the device was lost {} times before", self.lost);
                self.report.push(Line::new(section, "the rest", Verdict::Left, why));
                self.report.leaves("because the device was lost");
                return false;
            }
            let task = Task { section, checks: from..usize::MAX, waits: false, until };
            let broken = match self.part(&task, run, save) {
                Ok(broken) => broken,
                Err(Stopped) => return true,
            };
            let Some((at, name)) = broken else { return false };
            self.lost += 1;
            from = at + 1;
            let alone = Task { checks: at..from, waits: true, ..task };
            if self.alone(&alone, &name, run).is_err() {
                return true;
            }
        }
    }

    /// Runs one process; the check that broke it, by its place and name.
    fn part(
        &mut self,
        task: &Task,
        run: &mut Run<'_>,
        save: &mut Save<'_>,
    ) -> Result<Option<(usize, String)>, Stopped> {
        let (mut last, mut busy, mut lost) = (None::<(usize, String)>, false, false);
        let mut of = None::<String>;
        let Self { report, others, .. } = self;
        let end = run(task, &mut |message| match message {
            Message::Begins { at, name, group } => {
                (last, of, busy) = (Some((at, name)), group, true);
            }
            Message::Idle => busy = false,
            Message::Line(line) => {
                busy = false;
                lost |= line.is_lost();
                report.push(line);
                save(report);
            }
            Message::Expects { group, count } => report.expects(task.section, group, count),
            Message::Version { name, value } => report.version(name, value),
            Message::Others(names) => others.extend(names),
            Message::Ends => {}
        });
        let name = last.as_ref().map_or("", |(_, name)| name).to_owned();
        let wrong = |what: String| {
            let line = Line::new(task.section, name.clone(), Verdict::Wrong, what);
            match &of {
                Some(group) => line.of(group, f64::INFINITY),
                None => line,
            }
        };
        match end {
            End::Stopped => return Err(Stopped),
            End::Well => {}
            End::Died(how) if busy => {
                report.push(wrong(format!("the process ended while it ran: {how}")));
                lost = true;
            }
            End::Late if busy => {
                let seconds = GRACE.as_secs();
                let what = format!("it did not end within {seconds} s of the section's time");
                report.push(wrong(what));
            }
            End::Died(how) => {
                let what = format!("the process ended: {how}");
                let name = "the section ended early";
                report.push(Line::new(task.section, name, Verdict::Wrong, what));
            }
            End::Late => {
                let what = "its time was over while it got kernels or references ready";
                report.push(Line::new(task.section, "the rest", Verdict::Left, what));
            }
        }
        Ok(last.filter(|_| lost))
    }

    /// Runs a check that broke its process once more.
    fn alone(&mut self, task: &Task, name: &str, run: &mut Run<'_>) -> Result<(), Stopped> {
        let (mut again, mut busy) = (Vec::new(), false);
        let end = run(task, &mut |message| match message {
            Message::Begins { .. } => busy = true,
            Message::Line(line) => {
                busy = false;
                let name = format!("{}, each launch waited for", line.name());
                again.push(line.again(name));
            }
            _ => {}
        });
        again.into_iter().for_each(|line| self.report.push(line));
        match end {
            End::Stopped => Err(Stopped),
            End::Died(how) if busy => {
                let what = format!("the process ended while it ran: {how}");
                let name = format!("{name}, each launch waited for");
                self.report.push(Line::new(task.section, name, Verdict::Wrong, what));
                Ok(())
            }
            _ => Ok(()),
        }
    }
}

/// Everything was told to stop.
struct Stopped;

/// Runs `command` as a process of a task, which is ended a while after its time.
pub fn process(
    mut command: Command,
    until: Instant,
    stopped: &dyn Fn() -> bool,
    tell: &mut dyn FnMut(Message),
) -> End {
    command.stdin(Stdio::null()).stdout(Stdio::piped());
    let mut child = match files::spawn(&mut command) {
        Ok(child) => child,
        Err(_) if stopped() => return End::Stopped,
        Err(error) => return End::Died(error.to_string()),
    };
    let pipe = child.take_stdout();
    let (send, lines) = mpsc::channel();
    let reader = std::thread::Builder::new().spawn(move || {
        let lines = pipe.into_iter().flat_map(|pipe| BufReader::new(pipe).split(b'\n'));
        for line in lines.map_while(Result::ok) {
            if send.send(line).is_err() {
                return;
            }
        }
    });
    if let Err(error) = reader {
        return End::Died(error.to_string());
    }
    let mut ended = false;
    loop {
        match lines.recv_timeout(TURN) {
            Ok(line) => {
                // A driver may print as well.
                if let Some(message) = Message::parse(&String::from_utf8_lossy(&line)) {
                    ended |= matches!(message, Message::Ends);
                    tell(message);
                }
            }
            Err(RecvTimeoutError::Disconnected) => break,
            Err(RecvTimeoutError::Timeout) if stopped() => break,
            Err(RecvTimeoutError::Timeout) if Instant::now() > until + GRACE => {
                child.kill();
                return End::Late;
            }
            Err(RecvTimeoutError::Timeout) => {}
        }
    }
    if stopped() {
        return End::Stopped;
    }
    match child.wait() {
        // A driver may fail while it is given back, when everything was told.
        Ok(_) if ended => End::Well,
        Ok(status) => End::Died(status.to_string()),
        Err(error) => End::Died(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    /// What a made-up section does with each of its checks.
    #[derive(Clone, Copy, PartialEq)]
    enum Check {
        Right,
        Lost,
        Dies,
        Hangs,
    }

    fn begins(at: usize) -> Message {
        let group = Some("dit linear".to_owned());
        Message::Begins { at, name: format!("check {at}"), group }
    }

    fn line(at: usize, verdict: Verdict, figures: &str) -> Message {
        let line = Line::new("kernels", format!("check {at}"), verdict, figures);
        Message::Line(line.of("dit linear", 0.5))
    }

    /// Runs a section of such checks; the tasks, the report and how often the device was lost.
    fn ran(checks: &[Check]) -> (Vec<Task>, Report, usize) {
        let mut report = Report::new(vec![("seed", json!(1))]);
        let mut tasks = Vec::new();
        let mut parts = Parts { report: &mut report, lost: 0, others: Vec::new() };
        let mut run = |task: &Task, tell: &mut dyn FnMut(Message)| {
            tasks.push(task.clone());
            tell(Message::Expects { group: "dit linear".to_owned(), count: checks.len() });
            for at in task.checks.start..task.checks.end.min(checks.len()) {
                tell(begins(at));
                match checks[at] {
                    Check::Right => tell(line(at, Verdict::Right, "fine")),
                    Check::Lost => {
                        let place = if task.waits { " (blocks.0.ffn)" } else { "" };
                        let what = format!("[E0862] cuda:0 was lost while it worked{place}");
                        tell(line(at, Verdict::Wrong, &what));
                        break;
                    }
                    Check::Dies => return End::Died("signal: 11".to_owned()),
                    Check::Hangs => return End::Late,
                }
            }
            tell(Message::Ends);
            End::Well
        };
        let stopped = parts.section("kernels", Instant::now(), &mut run, &mut |_| ());
        assert!(!stopped);
        let lost = parts.lost;
        (tasks, report, lost)
    }

    #[test]
    fn what_breaks_a_process_is_named_and_the_rest_is_done() {
        use Check::{Dies, Lost, Right};
        let (tasks, report, lost) = ran(&[Right, Lost, Right, Dies, Right]);
        let places: Vec<(usize, bool)> =
            tasks.iter().map(|task| (task.checks.start, task.waits)).collect();
        assert_eq!(places, [(0, false), (1, true), (2, false), (3, true), (4, false)]);
        assert_eq!(lost, 2);
        let text = report.text();
        for part in [
            "check 1, each launch waited for  WRONG  [E0862] cuda:0 was lost while it worked (blocks.0.ffn)",
            "the process ended while it ran: signal: 11",
        ] {
            let spaces = text.split_whitespace().collect::<Vec<_>>().join(" ");
            let part = part.split_whitespace().collect::<Vec<_>>().join(" ");
            assert!(spaces.contains(&part), "{part}\n{text}");
        }
        // Three are right, and each of the others is wrong twice.
        assert_eq!((report.checks(), report.wrong()), (7, 4), "{text}");
    }

    #[test]
    fn a_device_that_is_lost_again_and_again_is_given_up() {
        let (tasks, report, lost) = ran(&[Check::Lost; 600]);
        assert_eq!((tasks.len(), lost), (2 * (MOST_LOST + 1), MOST_LOST + 1));
        let text = report.text();
        assert!(text.contains("left out because the device was lost"), "{text}");
        assert!(text.contains("the rest"), "{text}");
        assert!(report.wrong() <= 2 * (MOST_LOST + 1), "{text}");
    }

    #[test]
    fn a_kernel_that_never_ends_is_named_and_takes_its_section_with_it() {
        let (tasks, report, _) = ran(&[Check::Right, Check::Hangs, Check::Right]);
        assert_eq!(tasks.len(), 1);
        let text = report.text();
        assert!(text.contains("check 1") && text.contains("did not end within"), "{text}");
        assert_eq!((report.checks(), report.wrong()), (2, 1));
    }

    #[test]
    #[cfg(unix)]
    fn a_process_is_listened_to_until_it_ends_however_that_happens() {
        let shell = |text: &str| {
            let mut command = Command::new("/bin/sh");
            command.args(["-c", text]);
            command
        };
        let soon = Instant::now() + Duration::from_secs(60);
        let told = |text: &str, until: Instant| {
            let mut all = 0;
            let end = process(shell(text), until, &|| false, &mut |_| all += 1);
            (end, all)
        };
        let say = "echo noise; echo '{\"idle\":true}'";
        assert_eq!(told(&format!("{say}; echo '{{\"ends\":true}}'; exit 3"), soon), (End::Well, 2));
        let (end, all) = told(&format!("{say}; kill -SEGV $$"), soon);
        assert!(matches!(&end, End::Died(how) if how.contains("11")), "{end:?}");
        assert_eq!(all, 1);
        let long_ago = Instant::now().checked_sub(GRACE + GRACE).unwrap();
        assert_eq!(told(&format!("{say}; sleep 1000"), long_ago), (End::Late, 1));
    }
}
