//! What the system says of processes: processor time, memory, and how busy the machine is besides.

use std::fs;
use std::time::Duration;

use anyhow::Context as _;

/// A tick of `/proc/<pid>/stat`: `USER_HZ` is 100 on every architecture that we run on.
const TICK: Duration = Duration::from_millis(10);
/// Most processes that count as one proxy.
const TREE_MAX: usize = 64;

/// A process and everything that it started.
pub(crate) fn tree(pid: u32) -> Vec<u32> {
    let mut found = vec![pid];
    let mut at = 0;
    while at < found.len() && found.len() < TREE_MAX {
        found.extend(children(found[at]));
        at += 1;
    }
    found
}

fn children(pid: u32) -> Vec<u32> {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let of = |thread: fs::DirEntry| fs::read_to_string(thread.path().join("children")).unwrap_or_default();
    threads
        .flat_map(|thread| {
            of(thread).split_whitespace().filter_map(|pid| pid.parse().ok()).collect::<Vec<u32>>()
        })
        .collect()
}

/// Processor time of all these processes, threads that have ended included.
pub(crate) fn cpu(pids: &[u32]) -> anyhow::Result<Duration> {
    let mut sum = Duration::ZERO;
    for pid in pids {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat"))
            .with_context(|| format!("process {pid} is gone"))?;
        let fields: Vec<&str> = stat.rsplit_once(')').context("odd stat")?.1.split_whitespace().collect();
        for field in fields.get(11..13).context("short stat")? {
            sum += TICK * field.parse::<u32>()?;
        }
    }
    Ok(sum)
}

/// Memory of a process, in bytes.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Memory {
    pub(crate) resident: u64,
    pub(crate) peak: u64,
}

/// Memory of all these processes together; pages that they share count for each.
pub(crate) fn memory(pids: &[u32]) -> anyhow::Result<Memory> {
    let mut sum = Memory::default();
    for pid in pids {
        let status = fs::read_to_string(format!("/proc/{pid}/status"))
            .with_context(|| format!("process {pid} is gone"))?;
        let bytes = |field: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(field));
            let kib = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
            kib.map_or(0, |kib| kib * 1024)
        };
        sum.resident += bytes("VmRSS:");
        sum.peak += bytes("VmHWM:");
    }
    Ok(sum)
}

/// Processor time that the whole machine spent, and how much of it the host took away.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Machine {
    pub(crate) busy: Duration,
    pub(crate) stolen: Duration,
}

pub(crate) fn machine() -> anyhow::Result<Machine> {
    let stat = fs::read_to_string("/proc/stat")?;
    let line = stat.lines().next().context("empty /proc/stat")?;
    let fields: Vec<u32> = line.split_whitespace().skip(1).filter_map(|field| field.parse().ok()).collect();
    // user nice system idle iowait irq softirq steal
    let at = |index: usize| TICK * fields.get(index).copied().unwrap_or_default();
    Ok(Machine { busy: [0, 1, 2, 5, 6].into_iter().map(at).sum(), stolen: at(7) })
}

/// What machine this is, for the head of a table.
pub(crate) fn describe() -> String {
    let cpus = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let models: Vec<&str> = cpus
        .lines()
        .filter(|line| line.starts_with("model name"))
        .filter_map(|line| line.split(": ").nth(1))
        .collect();
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let model = models.first().copied().unwrap_or("unknown processor");
    format!("{} × {model}, Linux {}", models.len().max(1), kernel.trim())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_has_memory_and_is_its_own_tree() {
        let pids = tree(std::process::id());
        assert_eq!(pids[0], std::process::id());
        let memory = memory(&pids[..1]).unwrap();
        assert!(memory.resident > 0 && memory.peak >= memory.resident);
        cpu(&pids[..1]).unwrap();
        assert!(machine().unwrap().busy > Duration::ZERO);
    }

    #[test]
    fn a_process_that_is_gone_is_an_error_and_not_nothing() {
        assert!(cpu(&[u32::MAX]).is_err());
        assert!(memory(&[u32::MAX]).is_err());
    }
}
