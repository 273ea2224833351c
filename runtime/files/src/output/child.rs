//! Child programs: in process groups of their own, killed with the run, always reaped.
//!
//! A group of its own keeps the keyboard's Ctrl-C away from the child, so that we alone decide when
//! it ends, and lets us kill whatever it started. Should we be killed ourselves, its pipes close
//! and it ends by that. Arguments, pipes and messages are the caller's business.

use super::registry::{PROCESS, Registry};
use crate::threads;
use std::io::{self, Read, Write};
use std::path::Path;
use std::process::{
    Child, ChildStderr, ChildStdin, ChildStdout, Command, ExitStatus, Output, Stdio,
};
use std::time::{Duration, Instant};

/// A child program; killed and reaped when dropped.
#[derive(Debug)]
pub struct Running {
    child: Child,
    status: Option<ExitStatus>,
    registry: &'static Registry,
}

/// Starts `command` as a child of this run.
///
/// Give it pipes or null for its input and output: what ends it when this process is killed is
/// their closing.
///
/// # Errors
/// Those of [`Command::spawn`]; of kind `Interrupted` when the run was told to end.
pub fn spawn(command: &mut Command) -> io::Result<Running> {
    spawn_in(&PROCESS, command)
}

/// Runs `command`, which writes the files `makes`, to its end. If the run is told to end meanwhile, the
/// child is killed with whatever it started, and the files are removed. Of what it says its messages are
/// kept.
///
/// # Errors
/// As [`spawn`].
pub fn run(command: &mut Command, makes: &[&Path]) -> io::Result<Output> {
    run_in(&PROCESS, command, makes)
}

fn run_in(
    registry: &'static Registry,
    command: &mut Command,
    makes: &[&Path],
) -> io::Result<Output> {
    let _made = registry.adopt(makes)?;
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut child = spawn_in(registry, command)?;
    let mut stderr = Vec::new();
    if let Some(mut pipe) = child.take_stderr() {
        pipe.read_to_end(&mut stderr)?;
    }
    Ok(Output { status: child.wait()?, stdout: Vec::new(), stderr })
}

/// Runs `command` with `input` and keeps what it answers, of each stream `most` bytes.
///
/// # Errors
/// As [`spawn`], and of kind `TimedOut` if it has not ended after `patience`; it is killed then.
pub fn talk(
    command: &mut Command,
    input: &[u8],
    most: u64,
    patience: Duration,
) -> io::Result<Output> {
    let deadline = Instant::now() + patience;
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = spawn(command)?;
    // Threads of their own, as a program may fill a pipe before it reads or ends, or keep one open.
    if let Some(mut pipe) = child.take_stdin() {
        let input = input.to_vec();
        // A program that does not read what it is given has its reasons.
        threads::start("anyid-input", move || drop(pipe.write_all(&input)))?;
    }
    let (stdout, stderr) = (child.take_stdout(), child.take_stderr());
    let (done, answers) = std::sync::mpsc::channel();
    let read = |number: usize, pipe: Option<Box<dyn Read + Send>>| {
        let done = done.clone();
        threads::start("anyid-answer", move || {
            let mut bytes = Vec::new();
            let outcome = pipe.map_or(Ok(0), |pipe| pipe.take(most).read_to_end(&mut bytes));
            let _ = done.send((number, outcome.map(|_| bytes)));
        })
    };
    read(0, stdout.map(|pipe| Box::new(pipe) as Box<dyn Read + Send>))?;
    read(1, stderr.map(|pipe| Box::new(pipe) as Box<dyn Read + Send>))?;
    let late = || io::Error::from(io::ErrorKind::TimedOut);
    let mut heard = [Vec::new(), Vec::new()];
    for _ in 0..2 {
        let left = deadline.saturating_duration_since(Instant::now());
        let (number, bytes) = answers.recv_timeout(left).map_err(|_| late())?;
        heard[number] = bytes?;
    }
    while Group::of(&child.child).lives() {
        if Instant::now() >= deadline {
            return Err(late());
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    let [stdout, stderr] = heard;
    Ok(Output { status: child.wait()?, stdout, stderr })
}

pub(super) fn spawn_in(registry: &'static Registry, command: &mut Command) -> io::Result<Running> {
    #[cfg(unix)]
    std::os::unix::process::CommandExt::process_group(command, 0);
    registry.start(|| {
        let child = command.spawn()?;
        let pid = child.id();
        let group = Group::of(&child);
        Ok((pid, group, Running { child, status: None, registry }))
    })
}

impl Running {
    /// Its number.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// The pipe to its input, if there is one; once.
    pub fn take_stdin(&mut self) -> Option<ChildStdin> {
        self.child.stdin.take()
    }

    /// The pipe from its output, if there is one; once.
    pub fn take_stdout(&mut self) -> Option<ChildStdout> {
        self.child.stdout.take()
    }

    /// The pipe from its messages, if there is one; once.
    pub fn take_stderr(&mut self) -> Option<ChildStderr> {
        self.child.stderr.take()
    }

    /// Waits for its end; again gives the same.
    ///
    /// # Errors
    /// Those of the system.
    pub fn wait(&mut self) -> io::Result<ExitStatus> {
        if let Some(status) = self.status {
            return Ok(status);
        }
        wait_without_reaping(&mut self.child)?;
        let child = &mut self.child;
        let status = self.registry.reap(child.id(), || child.wait())?;
        self.status = Some(status);
        Ok(status)
    }

    /// Kills it with its process group.
    pub fn kill(&mut self) {
        if self.status.is_none() {
            // Not reaped yet, so the number is still its own.
            Group::of(&self.child).kill();
            #[cfg(not(unix))]
            let _ = self.child.kill();
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.kill();
        let _ = self.wait();
    }
}

/// A process group that the registry can kill while another thread waits for its leader.
#[derive(Debug)]
pub(super) struct Group(#[cfg(unix)] rustix::process::Pid);

#[cfg(unix)]
impl Group {
    fn of(child: &Child) -> Self {
        Self(rustix::process::Pid::from_child(child))
    }

    pub(super) fn kill(&self) {
        let _ = rustix::process::kill_process_group(self.0, rustix::process::Signal::KILL);
    }

    /// Whether the leader has not ended yet.
    pub(super) fn lives(&self) -> bool {
        use rustix::process::{WaitId, WaitIdOptions, waitid};
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
        matches!(waitid(WaitId::Pid(self.0), options), Ok(None))
    }
}

#[cfg(unix)]
fn wait_without_reaping(child: &mut Child) -> io::Result<()> {
    use rustix::process::{Pid, WaitId, WaitIdOptions, waitid};
    let options = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT;
    let leader = WaitId::Pid(Pid::from_child(child));
    loop {
        match waitid(leader.clone(), options) {
            Err(rustix::io::Errno::INTR) => {}
            Err(fault) => return Err(fault.into()),
            Ok(_) => return Ok(()),
        }
    }
}

// Elsewhere a child ends by its closed pipes when this process does.
#[cfg(not(unix))]
impl Group {
    fn of(_: &Child) -> Self {
        Self()
    }

    pub(super) fn kill(&self) {}

    pub(super) fn lives(&self) -> bool {
        false
    }
}

#[cfg(not(unix))]
fn wait_without_reaping(child: &mut Child) -> io::Result<()> {
    child.wait().map(drop)
}

#[cfg(all(test, unix))]
mod tests {
    use super::super::registry::Registry;
    use super::*;

    fn own_registry() -> &'static Registry {
        Box::leak(Box::new(Registry::new()))
    }

    fn shell(text: &str) -> Command {
        let mut command = Command::new("/bin/sh");
        command.args(["-c", text]).stdin(Stdio::null()).stdout(Stdio::piped());
        command
    }

    #[test]
    fn a_child_is_waited_for_and_its_status_stays() {
        let mut child = spawn_in(own_registry(), &mut shell("echo words; exit 3")).unwrap();
        let mut words = String::new();
        child.take_stdout().unwrap().read_to_string(&mut words).unwrap();
        assert_eq!(words, "words\n");
        assert_eq!(child.wait().unwrap().code(), Some(3));
        assert_eq!(child.wait().unwrap().code(), Some(3));
    }

    #[test]
    fn a_child_answers_or_is_killed() {
        let ask = |text: &str, milliseconds: u64| {
            talk(&mut shell(text), b"words", 8, Duration::from_millis(milliseconds))
        };
        let said = ask("cat; echo else >&2; exit 3", 60_000).unwrap();
        assert_eq!((said.stdout, said.stderr), (b"words".to_vec(), b"else\n".to_vec()));
        assert_eq!(said.status.code(), Some(3));
        assert_eq!(ask("exit 0", 60_000).unwrap().stdout, b"");
        assert_eq!(ask("yes", 60_000).unwrap().stdout, b"y\ny\ny\ny\n");
        for text in ["sleep 1000", "sleep 1000 & exit 0", "exec >&- 2>&-; sleep 1000"] {
            assert_eq!(ask(text, 50).unwrap_err().kind(), io::ErrorKind::TimedOut, "{text}");
        }
    }

    #[test]
    fn the_end_of_the_run_kills_the_whole_group_and_starts_nothing_more() {
        let registry = own_registry();
        // A child of the child holds the pipe as well: it closes only when both are gone.
        let mut child = spawn_in(registry, &mut shell("sleep 1000 & sleep 1000")).unwrap();
        let mut output = child.take_stdout().unwrap();
        let waiting = std::thread::spawn(move || child.wait().unwrap());
        std::thread::sleep(Duration::from_millis(20));
        registry.end_for_test(false);
        assert_eq!(output.read(&mut [0]).unwrap(), 0);
        assert!(!waiting.join().unwrap().success());
        let refused = spawn_in(registry, &mut shell("true")).unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::Interrupted);
    }

    #[test]
    fn files_that_a_child_makes_go_with_it_and_only_then() {
        let folder = crate::testing::TempFolder::new();
        let registry = own_registry();
        let (source, made) = (folder.write("a.cpp", b"text"), folder.path().join("a.tmp"));
        let paths = [source.as_path(), made.as_path()];
        let script = format!("echo words >&2; echo library > {}; exit 3", made.display());
        let done = run_in(registry, &mut shell(&script), &paths).unwrap();
        assert_eq!((done.status.code(), &done.stderr[..]), (Some(3), &b"words\n"[..]));
        assert_eq!(folder.names(), ["a.cpp", "a.tmp"]);
        let (begun, script) = (folder.path().join("begun"), "sleep 1000 & sleep 1000");
        let script = format!("echo > {}; {script}", begun.display());
        std::thread::scope(|scope| {
            let running = scope.spawn(|| run_in(registry, &mut shell(&script), &paths));
            while !begun.exists() {
                std::thread::sleep(Duration::from_millis(2));
            }
            registry.end_for_test(true);
            assert!(!running.join().unwrap().unwrap().status.success());
        });
        assert_eq!(folder.names(), ["begun"]);
        let refused = run_in(registry, &mut shell("true"), &paths).unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::Interrupted);
    }

    #[test]
    fn a_dropped_child_is_gone_with_its_group() {
        let mut child = spawn_in(own_registry(), &mut shell("sleep 1000 & sleep 1000")).unwrap();
        let mut output = child.take_stdout().unwrap();
        drop(child);
        assert_eq!(output.read(&mut [0]).unwrap(), 0);
    }
}
