//! How much memory a mount may take, and for what.
//!
//! One figure bounds what grows with use: chunks kept decoded, writes that
//! wait for a commit, requests that wait for room, and the threads that run
//! the model. What is left of it is for what is always there: the program, its
//! models, the database's cache.

use std::path::Path;

use crate::error::{Error, Result};

/// What is always there; 48 MiB of it are the database's.
const BASE: u64 = 104 << 20;

/// What a thread takes at most while it codes or decodes chunks, two at a time.
const CODER: u64 = 37 << 20;

/// The least that works.
pub const LEAST: u64 = 192 << 20;

const MIB: u64 = 1 << 20;

/// Shares of a bound, in bytes where not said otherwise.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Budget {
    /// All of it.
    pub total: u64,
    /// Chunks kept decoded.
    pub cache: u64,
    /// Changes that wait for a commit.
    pub dirty: u64,
    /// Small writes that are kept beside their chunks.
    pub patches: u64,
    /// Threads that may run the model at a time.
    pub coders: usize,
    /// Requests of the kernel that nobody waits for, under way at a time;
    /// each may bring a megabyte.
    pub background: u16,
}

impl Budget {
    /// Splits `total` for a machine with so many processors. An error says
    /// what is the least.
    pub fn split(total: u64, processors: usize) -> Result<Budget> {
        if total < LEAST {
            return Err(Error::Other(format!(
                "{} MiB of memory are too few: give at least {} MiB",
                total / MIB,
                LEAST / MIB
            )));
        }
        let free = total - BASE;
        let coders = (free / 3 / CODER).clamp(1, processors.max(1) as u64);
        let dirty = (free / 8).clamp(4 * MIB, 64 * MIB);
        let patches = (free / 16).clamp(2 * MIB, 256 * MIB);
        let background = (free / 16 / MIB).clamp(4, 64);
        // The bytes of a commit are there as frames too.
        let taken = coders * CODER + dirty + dirty / 4 + patches + background * MIB;
        Ok(Budget {
            total,
            cache: free.saturating_sub(taken).max(2 * MIB),
            dirty,
            patches,
            coders: coders as usize,
            background: background as u16,
        })
    }

    /// For this process, when nothing else is said: a quarter of what the
    /// machine, its control groups and the limits of the process allow.
    pub fn of_machine() -> Result<Budget> {
        let total = (available() / 4).max(LEAST);
        Self::split(total, crate::parallel::available())
    }
}

/// Has the allocator be content with two arenas where the address space is
/// limited: it takes 64 MiB of addresses for each, and gives every thread one.
pub fn heed_limits() {
    #[cfg(target_env = "gnu")]
    if rustix::process::getrlimit(rustix::process::Resource::As)
        .current
        .is_some()
    {
        // SAFETY: takes two numbers and changes a setting of the allocator,
        // which guards it by a lock of its own.
        unsafe { libc::mallopt(libc::M_ARENA_MAX, 2) };
    }
}

/// Memory that this process could have at most.
fn available() -> u64 {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let machine = machine(&read("/proc/meminfo"));
    let group = group(Path::new("/sys/fs/cgroup"), &read("/proc/self/cgroup"));
    let limits = [
        rustix::process::Resource::As,
        rustix::process::Resource::Data,
    ]
    .into_iter()
    .filter_map(|resource| rustix::process::getrlimit(resource).current);
    let all = machine.into_iter().chain(group).chain(limits);
    // Where nothing can be found out, a small machine of today.
    all.min().unwrap_or(4 << 30)
}

/// The memory of a machine, from /proc/meminfo.
fn machine(meminfo: &str) -> Option<u64> {
    let line = meminfo
        .lines()
        .find_map(|line| line.strip_prefix("MemTotal:"))?;
    let kilobytes = line.trim().strip_suffix("kB")?.trim();
    kilobytes.parse::<u64>().ok()?.checked_mul(1024)
}

/// The least limit of the control groups that /proc/self/cgroup names, of the
/// second and the first version, and of those around them.
fn group(root: &Path, membership: &str) -> Option<u64> {
    let limits = membership.lines().filter_map(|line| {
        let mut fields = line.splitn(3, ':');
        let (_, controllers, path) = (fields.next()?, fields.next()?, fields.next()?);
        let (top, file) = match controllers {
            "" => (root.to_owned(), "memory.max"),
            _ if controllers.split(',').any(|name| name == "memory") => {
                (root.join("memory"), "memory.limit_in_bytes")
            }
            _ => return None,
        };
        let own = top.join(path.trim_start_matches('/'));
        // In a container the path may be one of the host: what is at the top
        // counts all the same.
        own.ancestors()
            .take_while(|dir| dir.starts_with(&top))
            .filter_map(|dir| {
                std::fs::read_to_string(dir.join(file))
                    .ok()?
                    .trim()
                    .parse()
                    .ok()
            })
            .min()
    });
    limits.min()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shares_are_within_the_whole() {
        for total in [192, 193, 250, 300, 1024, 6000, 1 << 20] {
            for processors in [0, 1, 2, 64, 500] {
                let budget = Budget::split(total * MIB, processors).unwrap();
                let sum = BASE
                    + budget.cache
                    + budget.dirty / 4 * 5
                    + budget.patches
                    + budget.coders as u64 * CODER
                    + u64::from(budget.background) * MIB;
                assert!(sum <= total * MIB, "{budget:?}");
                assert!(budget.coders >= 1 && budget.coders <= processors.max(1));
                assert!(budget.cache >= 2 * MIB && budget.dirty >= 4 * MIB);
            }
        }
        let large = Budget::split(8 << 30, 2).unwrap();
        assert!(large.cache > 27 << 28 && large.coders == 2);
        let small = Budget::split(191 * MIB, 2).unwrap_err().to_string();
        assert!(small.contains("at least 192 MiB"), "{small}");
    }

    #[test]
    fn limits_of_groups_and_machine_are_found() {
        assert_eq!(
            machine("MemFree: 1 kB\nMemTotal:   24684 kB\n"),
            Some(24684 << 10)
        );
        assert_eq!(machine("MemTotal: many\n"), None);
        let dir = tempfile::tempdir().unwrap();
        let write = |path: &str, text: &str| {
            let path = dir.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        };
        write("user/session/memory.max", "max\n");
        write("user/memory.max", "5000000\n");
        write(
            "memory/docker/a/memory.limit_in_bytes",
            "9223372036854771712\n",
        );
        write("memory/memory.limit_in_bytes", "7000000\n");
        assert_eq!(group(dir.path(), "0::/user/session\n"), Some(5_000_000));
        let first = "4:cpu:/x\n3:pids,memory:/docker/a\n";
        assert_eq!(group(dir.path(), first), Some(7_000_000));
        assert_eq!(
            group(dir.path(), &format!("{first}0::/user\n")),
            Some(5_000_000)
        );
        assert_eq!(group(dir.path(), "0::/elsewhere\n"), None);
        assert!(available() > 0);
    }
}
