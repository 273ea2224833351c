//! Writes to the terminal without panicking, and formats units for people.
//!
//! The reader may close standard output early (`anyid-rt … | head`), which is not an error.
//! Standard error may be closed as well; notes are then lost. The program uses no macro of the
//! `println!` family, because these panic.

pub use anyid_runtime::error::plural;
use anyid_runtime::files::is_standard_output;
use anyid_runtime::{Error, Result};
use std::io::{ErrorKind, IsTerminal, Write};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::time::Duration;

/// How much is printed: 0 only warnings and errors, 1 the default, 2 more.
static LEVEL: AtomicU8 = AtomicU8::new(1);

/// Whether anything was written to standard output.
static PRINTED: AtomicBool = AtomicBool::new(false);

/// Whether anything was written to standard output, so that an error can no longer be the only JSON
/// object there.
pub fn printed() -> bool {
    PRINTED.load(Ordering::Relaxed)
}

/// Sets how much is printed from now on.
pub fn set_level(quiet: bool, verbose: bool) {
    LEVEL.store(if quiet { 0 } else { 1 + u8::from(verbose) }, Ordering::Relaxed);
}

/// Whether progress and remarks are left out (`--quiet`).
pub fn quiet() -> bool {
    LEVEL.load(Ordering::Relaxed) == 0
}

/// Whether more than the default is printed (`--verbose`).
pub fn verbose() -> bool {
    LEVEL.load(Ordering::Relaxed) == 2
}

/// Writes `text` to standard output.
///
/// # Errors
/// E1012 or E1013 where standard output is a file that cannot be written; a closed pipe is fine.
pub fn print(text: &str) -> Result<()> {
    PRINTED.store(true, Ordering::Relaxed);
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(fault) if fault.kind() == ErrorKind::BrokenPipe => Ok(()),
        Err(fault) => {
            let error = anyid_runtime::checkpoint::write_error("-".as_ref(), fault);
            Err(Error::new(error.kind(), error.code(), error.message().to_owned())
                .at("standard output")
                .help("free some space, or send the output elsewhere"))
        }
        Ok(()) => Ok(()),
    }
}

/// Writes a report to standard output, or to standard error if the result went to the former.
///
/// # Errors
/// As [`print()`].
pub fn report(text: &str, result: &Path) -> Result<()> {
    match is_standard_output(result) {
        true => note(text.trim_end()),
        false => return print(text),
    }
    Ok(())
}

/// Prints a JSON value over several lines.
///
/// # Errors
/// As [`print()`].
pub fn print_json(value: &serde_json::Value) -> Result<()> {
    print(&format!("{value:#}\n"))
}

/// Writes a line to standard error.
pub fn note(line: &str) {
    let _ = writeln!(std::io::stderr().lock(), "{line}");
}

/// Whether standard error may be coloured: a terminal, and `NO_COLOR` not set.
pub fn coloured() -> bool {
    let off = std::env::var_os("NO_COLOR").is_some_and(|v| !v.is_empty());
    !off && capable_terminal()
}

/// Whether standard error is a terminal that understands control sequences.
pub fn capable_terminal() -> bool {
    std::io::stderr().is_terminal() && std::env::var_os("TERM").is_none_or(|t| t != "dumb")
}

/// `text` without control characters, which could confuse a terminal; line breaks stay.
pub fn plain(text: &str) -> String {
    text.chars().map(|c| if c.is_control() && c != '\n' { '\u{fffd}' } else { c }).collect()
}

/// A number of bytes with a unit: `1.50 GiB`.
pub fn bytes(count: u64) -> String {
    const UNITS: [&str; 4] = ["KiB", "MiB", "GiB", "TiB"];
    if count < 1024 {
        return format!("{count} B");
    }
    let mut value = count as f64 / 1024.0;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    let digits = if value < 10.0 { 2 } else { usize::from(value < 100.0) };
    format!("{value:.digits$} {}", UNITS[unit])
}

/// Two amounts of memory, to the byte where they are not told apart otherwise.
pub fn told_apart(both: [u64; 2]) -> [String; 2] {
    let short = both.map(bytes);
    match short[0] == short[1] && both[0] != both[1] {
        true => both.map(|own| format!("{own} bytes")),
        false => short,
    }
}

/// A large number with its unit: `4.99 billion`.
pub fn count(number: u64) -> String {
    match number {
        0..10_000 => number.to_string(),
        10_000..1_000_000 => format!("{:.1} thousand", number as f64 / 1e3),
        1_000_000..1_000_000_000 => format!("{:.2} million", number as f64 / 1e6),
        _ => format!("{:.2} billion", number as f64 / 1e9),
    }
}

/// A time with units: `0.42 s`, `3 min 20 s`, `1 h 05 min`.
pub fn duration(time: Duration) -> String {
    let seconds = time.as_secs_f64();
    if seconds < 9.995 {
        return format!("{seconds:.2} s");
    }
    if seconds < 99.95 {
        return format!("{seconds:.1} s");
    }
    let whole = seconds.round() as u64;
    if whole < 3600 {
        return format!("{} min {:02} s", whole / 60, whole % 60);
    }
    format!("{} h {:02} min", whole / 3600, whole % 3600 / 60)
}

/// Lines up the columns of `rows`: all but the first column to the right.
pub fn table(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| {
        rows.iter()
            .filter_map(|r| r.get(column))
            .map(|cell| cell.chars().count())
            .max()
            .unwrap_or(0)
    };
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let mut out = String::new();
    for row in rows {
        let mut line = String::new();
        for (column, cell) in row.iter().enumerate() {
            let space = " ".repeat(widths[column] - cell.chars().count());
            if column == 0 {
                line.push_str(&format!("{cell}{space}"));
            } else {
                line.push_str(&format!("  {space}{cell}"));
            }
        }
        out.push_str(line.trim_end());
        out.push('\n');
    }
    out
}

/// Processor time that the threads of this process have taken so far, if the system reports it.
pub fn processor_time() -> Option<Duration> {
    #[cfg(unix)]
    {
        let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
        Some(Duration::new(time.tv_sec.try_into().ok()?, time.tv_nsec.try_into().ok()?))
    }
    #[cfg(not(unix))]
    None
}

/// Processor time since `before`, as a share of that of `threads` which were busy for `wall` seconds.
pub fn busy(before: Option<Duration>, wall: f64, threads: usize) -> Option<f64> {
    let taken = processor_time()?.checked_sub(before?)?;
    (wall > 0.0).then(|| taken.as_secs_f64() / (wall * threads as f64))
}

/// Peak memory of this process so far, if the system reports it.
pub fn peak_memory() -> Option<u64> {
    kibibytes("/proc/self/status", "VmHWM:")
}

/// Resets [`peak_memory`], if the system supports it.
pub fn forget_peak_memory() {
    let _ = std::fs::write("/proc/self/clear_refs", "5");
}

/// The bytes in the line of `file` that begins with `key`.
fn kibibytes(file: &str, key: &str) -> Option<u64> {
    let text = anyid_runtime::input::system_text(file)?;
    let line = text.lines().find_map(|line| line.strip_prefix(key))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok().map(|kib| kib * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_read_well() {
        assert_eq!(bytes(12), "12 B");
        assert_eq!(bytes(1536), "1.50 KiB");
        assert_eq!(bytes(24 << 30), "24.0 GiB");
        assert_eq!(bytes(500 << 20), "500 MiB");
        assert_eq!(count(4_999_787_712), "5.00 billion");
        assert_eq!(duration(Duration::from_millis(420)), "0.42 s");
        assert_eq!(duration(Duration::from_secs(200)), "3 min 20 s");
        assert_eq!(duration(Duration::from_secs(3900)), "1 h 05 min");
        assert_eq!(plural(1, "frame"), "1 frame");
        assert_eq!(plain("a\u{1b}[31mb\nc"), "a\u{fffd}[31mb\nc");
    }

    #[test]
    fn tables_line_up() {
        let row = |a: &str, b: &str| vec![a.to_owned(), b.to_owned()];
        let text = table(&[row("name", "time"), row("a", "1.25 s")]);
        assert_eq!(text, "name    time\na     1.25 s\n");
    }
}
