//! How much memory this process may still take, and what says so.
//!
//! Four things bound it: the machine (free memory and swap), every control group that the process
//! is in (its own and all above it, of either version), its address space and its data
//! (`ulimit -v` and `-d`). All of them are read from files that the system keeps; where there are
//! none, nothing is known and nothing is refused. It reserves nothing itself.

use std::path::{Path, PathBuf};

/// What a limit bounds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Bound {
    /// Memory and swap of the machine.
    Machine,
    /// A control group, by the folder that describes it.
    ControlGroup(PathBuf),
    /// The addresses of the process (`ulimit -v`).
    AddressSpace,
    /// The data of the process (`ulimit -d`).
    Data,
    /// The memory of a device, by its name.
    Device(String),
    /// What the user has set.
    Budget,
}

impl std::fmt::Display for Bound {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Machine => f.write_str("the machine's memory and swap"),
            Self::ControlGroup(folder) => write!(f, "the control group {}", folder.display()),
            Self::AddressSpace => f.write_str("the limit of addresses (`ulimit -v`)"),
            Self::Data => f.write_str("the limit of data (`ulimit -d`)"),
            Self::Device(name) => write!(f, "the device {name}"),
            Self::Budget => f.write_str("the budget"),
        }
    }
}

/// One limit with what it leaves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limit {
    /// Bytes that can still be had under it.
    pub bytes: u64,
    /// What it is.
    pub bound: Bound,
}

/// What this process may still take.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Room {
    /// All limits that are known.
    pub limits: Vec<Limit>,
}

impl Room {
    /// The room there is now.
    pub fn now() -> Self {
        Self::under(Path::new("/"))
    }

    /// The room that the system files below `root` tell of.
    fn under(root: &Path) -> Self {
        let mut limits = Vec::new();
        let swap = line(&root.join("proc/meminfo"), "SwapFree:").map_or(0, kibibytes);
        if let Some(free) = line(&root.join("proc/meminfo"), "MemAvailable:") {
            let bytes = kibibytes(free).saturating_add(swap);
            limits.push(Limit { bytes, bound: Bound::Machine });
        }
        limits.extend(groups(root, swap));
        for (name, used, bound) in [
            ("Max address space", "VmSize:", Bound::AddressSpace),
            ("Max data size", "VmData:", Bound::Data),
        ] {
            let limit = line(&root.join("proc/self/limits"), name);
            let limit = limit.and_then(|rest| rest.split_whitespace().next()?.parse::<u64>().ok());
            let used = line(&root.join("proc/self/status"), used).map_or(0, kibibytes);
            limits.extend(limit.map(|limit| Limit { bytes: limit.saturating_sub(used), bound }));
        }
        Self { limits }
    }

    /// The limit that leaves least; `None` where the system does not tell of any.
    pub fn least(&self) -> Option<&Limit> {
        self.limits.iter().min_by_key(|limit| limit.bytes)
    }
}

/// What this process holds in memory.
pub(super) fn resident() -> Option<u64> {
    line(Path::new("/proc/self/status"), "VmRSS:").map(kibibytes)
}

/// What follows `key` on the line that begins with it.
fn line(path: &Path, key: &str) -> Option<String> {
    let text = std::fs::read_to_string(path).ok()?;
    text.lines().find_map(|line| line.strip_prefix(key)).map(|rest| rest.trim().to_owned())
}

/// `12 kB` in bytes.
fn kibibytes(text: impl AsRef<str>) -> u64 {
    let number = text.as_ref().trim_end_matches("kB").trim().parse::<u64>();
    number.map_or(0, |n| n.saturating_mul(1024))
}

fn number(path: &Path) -> Option<u64> {
    std::fs::read_to_string(path).ok()?.trim().parse().ok()
}

/// Where a hierarchy of control groups is to be seen, and which of its groups stands at that place.
struct Mount {
    at: PathBuf,
    top: PathBuf,
}

/// The limits of every control group that this process is in.
fn groups(root: &Path, swap: u64) -> Vec<Limit> {
    let read = |name: &str| std::fs::read_to_string(root.join(name)).unwrap_or_default();
    let (own, mounts) = (read("proc/self/cgroup"), read("proc/self/mountinfo"));
    let mut out = Vec::new();
    for line in own.lines() {
        // hierarchy:controllers:path, where the second version has no controllers.
        let mut parts = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(path)) = (parts.next(), parts.next()) else { continue };
        let first = controllers.split(',').any(|name| name == "memory");
        if !first && !controllers.is_empty() {
            continue;
        }
        for Mount { at, top } in mounted(&mounts, first) {
            // Inside a container the place of the mount can be the own group already.
            let inside = Path::new(path).strip_prefix(&top).unwrap_or(Path::new(""));
            let top = root.join(at.strip_prefix("/").unwrap_or(&at));
            for folder in top.join(inside.strip_prefix("/").unwrap_or(inside)).ancestors() {
                if !folder.starts_with(&top) {
                    break;
                }
                let bytes =
                    if first { first_version(folder) } else { second_version(folder, swap) };
                let shown = Path::new("/").join(folder.strip_prefix(root).unwrap_or(folder));
                let bound = Bound::ControlGroup(shown);
                out.extend(bytes.map(|bytes| Limit { bytes, bound }));
            }
        }
    }
    out
}

/// The mounts of one version's hierarchy of memory: of the lines of `mountinfo`, those whose type
/// behind the lone `-` is right.
fn mounted(table: &str, first: bool) -> Vec<Mount> {
    let mount = |line: &str| {
        let (front, back) = line.split_once(" - ")?;
        let mut back = back.split(' ');
        let kind = back.next()?;
        let options = back.nth(1).unwrap_or_default();
        let right = match first {
            true => kind == "cgroup" && options.split(',').any(|option| option == "memory"),
            false => kind == "cgroup2",
        };
        let mut front = front.split(' ').skip(3);
        let (top, at) = (PathBuf::from(front.next()?), PathBuf::from(front.next()?));
        right.then_some(Mount { at, top })
    };
    table.lines().filter_map(mount).collect()
}

/// What a group holds that is given back when it is asked for: pages of files.
fn returned(folder: &Path, prefix: &str) -> u64 {
    let stat = std::fs::read_to_string(folder.join("memory.stat")).unwrap_or_default();
    let of = |name: &str| {
        let name = format!("{prefix}{name} ");
        let rest = stat.lines().find_map(|line| line.strip_prefix(&name));
        rest.and_then(|rest| rest.trim().parse::<u64>().ok()).unwrap_or(0)
    };
    of("inactive_file").saturating_add(of("active_file"))
}

fn second_version(folder: &Path, swap: u64) -> Option<u64> {
    let limit = number(&folder.join("memory.max"))?;
    let used = number(&folder.join("memory.current")).unwrap_or(0);
    let swapped = number(&folder.join("memory.swap.current")).unwrap_or(0);
    let swap = match number(&folder.join("memory.swap.max")) {
        Some(most) => most.saturating_sub(swapped).min(swap),
        None => swap,
    };
    let used = used.saturating_sub(returned(folder, ""));
    Some(limit.saturating_sub(used).saturating_add(swap))
}

fn first_version(folder: &Path) -> Option<u64> {
    // "Unlimited" is a number beyond all memory here.
    let limited = |name: &str| number(&folder.join(name)).filter(|bytes| *bytes < 1 << 60);
    let back = returned(folder, "total_");
    let left = |limit: &str, used: &str| {
        let used = number(&folder.join(used)).unwrap_or(0).saturating_sub(back);
        limited(limit).map(|limit| limit.saturating_sub(used))
    };
    let memory = left("memory.limit_in_bytes", "memory.usage_in_bytes");
    let both = left("memory.memsw.limit_in_bytes", "memory.memsw.usage_in_bytes");
    // With swap counted, memory alone is no end: what does not fit is swapped out.
    both.or(memory)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tempfile::TempDir;

    const MIB: u64 = 1 << 20;

    fn system(files: &[(&str, &str)]) -> (TempDir, Room) {
        let folder = tempfile::tempdir().unwrap();
        for (name, text) in files {
            let path = folder.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        let room = Room::under(folder.path());
        (folder, room)
    }

    const MEMORY: (&str, &str) =
        ("proc/meminfo", "MemTotal: 9999 kB\nMemAvailable:   8192 kB\nSwapFree: 1024 kB\n");

    #[test]
    fn memory_and_swap_of_the_machine_count_together() {
        let (_folder, room) = system(&[MEMORY]);
        assert_eq!(room.least(), Some(&Limit { bytes: 9 * MIB, bound: Bound::Machine }));
        assert_eq!(system(&[]).1.least(), None);
    }

    #[test]
    fn every_group_above_the_own_one_bounds_it() {
        let (_folder, room) = system(&[
            ("proc/meminfo", "MemAvailable: 8192 kB\n"),
            ("proc/self/cgroup", "0::/user/job\n"),
            ("proc/self/mountinfo", "30 23 0:26 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw\n"),
            ("sys/fs/cgroup/user/memory.max", "4194304\n"),
            ("sys/fs/cgroup/user/memory.current", "3145728\n"),
            ("sys/fs/cgroup/user/memory.stat", "anon 7\ninactive_file 1048576\nactive_file 0\n"),
            ("sys/fs/cgroup/user/job/memory.max", "max\n"),
        ]);
        let group = Bound::ControlGroup("/sys/fs/cgroup/user".into());
        assert_eq!(room.least(), Some(&Limit { bytes: 2 * MIB, bound: group }));
        // The group that a container sees as the top.
        let (_folder, room) = system(&[
            ("proc/self/cgroup", "0::/\n"),
            ("proc/self/mountinfo", "30 23 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n"),
            ("sys/fs/cgroup/memory.max", "1048576\n"),
        ]);
        assert_eq!(room.least().unwrap().bytes, MIB);
    }

    #[test]
    fn groups_of_the_first_version_bound_too() {
        let (_folder, room) = system(&[
            MEMORY,
            ("proc/self/cgroup", "5:cpu:/a\n4:memory,hugetlb:/docker/1\n"),
            (
                "proc/self/mountinfo",
                "9 8 0:2 /docker /cg rw - cgroup cgroup rw,memory,hugetlb\n\
                 8 8 0:2 / /cpu rw - cgroup cgroup rw,cpu\n",
            ),
            ("cg/memory.limit_in_bytes", "9223372036854771712\n"),
            ("cg/1/memory.limit_in_bytes", "3145728\n"),
            ("cg/1/memory.usage_in_bytes", "1048576\n"),
        ]);
        let group = Bound::ControlGroup("/cg/1".into());
        assert_eq!(room.least(), Some(&Limit { bytes: 2 * MIB, bound: group }));
    }

    #[test]
    fn limits_of_the_process_bound_too() {
        let limits = "Limit                     Soft Limit           Hard Limit\n\
                      Max data size             unlimited            unlimited  bytes\n\
                      Max address space         5242880              unlimited  bytes\n";
        let status = "Name: x\nVmSize:\t    4096 kB\nVmData:\t 10 kB\n";
        let (_folder, room) =
            system(&[MEMORY, ("proc/self/limits", limits), ("proc/self/status", status)]);
        assert_eq!(room.least(), Some(&Limit { bytes: MIB, bound: Bound::AddressSpace }));
        let limits = limits
            .replace("5242880 ", "unlimited")
            .replace("size             unlimited", "size             20480    ");
        let (_folder, room) =
            system(&[MEMORY, ("proc/self/limits", &limits), ("proc/self/status", status)]);
        assert_eq!(room.least(), Some(&Limit { bytes: 10 << 10, bound: Bound::Data }));
    }
}
