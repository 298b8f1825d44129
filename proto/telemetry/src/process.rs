//! The figures of this process, by the names that Prometheus' own clients give them. They are read when somebody asks.

use std::fmt;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric as _};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Registry;

/// What the kernel says of a process.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Figures {
    pub cpu_seconds: f64,
    pub resident_bytes: u64,
    pub virtual_bytes: u64,
    pub threads: u64,
    pub open_fds: u64,
    /// None where there is no limit.
    pub max_fds: Option<u64>,
    /// Since the epoch.
    pub started_seconds: f64,
}

/// In what the kernel counts.
#[derive(Clone, Copy, Debug)]
struct Units {
    ticks_per_second: f64,
    page_bytes: u64,
    /// When the machine was started, since the epoch.
    booted_seconds: f64,
}

/// A registry with the figures of this process.
pub fn registry() -> Registry {
    let mut registry = Registry::default();
    registry.register_collector(Box::new(OfThis));
    registry
}

#[derive(Debug)]
struct OfThis;

impl Collector for OfThis {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        // Without a /proc there is nothing to say.
        let Some(figures) = Figures::now() else { return Ok(()) };
        let cpu = ConstCounter::new(figures.cpu_seconds);
        let about = "Processor time used, of the program and of the kernel for it";
        cpu.encode(encoder.encode_descriptor("process_cpu_seconds", about, None, MetricType::Counter)?)?;
        let gauges = [
            ("process_resident_memory_bytes", "Memory that is in use", Some(figures.resident_bytes)),
            ("process_virtual_memory_bytes", "Addresses that are in use", Some(figures.virtual_bytes)),
            ("process_threads", "Threads", Some(figures.threads)),
            ("process_open_fds", "File descriptors that are open", Some(figures.open_fds)),
            ("process_max_fds", "File descriptors that may be open", figures.max_fds),
        ];
        for (name, about, value) in gauges {
            let Some(value) = value else { continue };
            let value = ConstGauge::new(i64::try_from(value).unwrap_or(i64::MAX));
            value.encode(encoder.encode_descriptor(name, about, None, MetricType::Gauge)?)?;
        }
        let (name, about) = ("process_start_time_seconds", "When the program was started, since the epoch");
        let started = ConstGauge::new(figures.started_seconds);
        started.encode(encoder.encode_descriptor(name, about, None, MetricType::Gauge)?)
    }
}

impl Figures {
    /// Those of this process, as far as the system has a `/proc`.
    pub fn now() -> Option<Self> {
        let read = |path: &str| std::fs::read_to_string(path).ok();
        #[allow(clippy::cast_precision_loss, reason = "there are a hundred")]
        let units = Units {
            ticks_per_second: rustix::param::clock_ticks_per_second() as f64,
            page_bytes: rustix::param::page_size() as u64,
            booted_seconds: booted(&read("/proc/stat")?)?,
        };
        let figures = Self::read(&read("/proc/self/stat")?, units)?;
        // The folder itself is open while it is read.
        let open_fds = std::fs::read_dir("/proc/self/fd").map_or(0, |open| open.count().saturating_sub(1));
        let max_fds = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
        Some(Self { open_fds: open_fds as u64, max_fds, ..figures })
    }

    /// From `/proc/<pid>/stat`.
    fn read(stat: &str, units: Units) -> Option<Self> {
        // The name of the program comes second, in parentheses, and may hold anything.
        let (_, rest) = stat.rsplit_once(") ")?;
        let fields: Vec<&str> = rest.split_ascii_whitespace().collect();
        let number = |place: usize| fields.get(place - STATE)?.parse::<u64>().ok();
        #[allow(clippy::cast_precision_loss, reason = "a float is exact for longer than a processor lasts")]
        let seconds = |place: usize| Some(number(place)? as f64 / units.ticks_per_second);
        Some(Self {
            cpu_seconds: seconds(USER)? + seconds(SYSTEM)?,
            resident_bytes: number(RESIDENT)? * units.page_bytes,
            virtual_bytes: number(VIRTUAL)?,
            threads: number(THREADS)?,
            started_seconds: units.booted_seconds + seconds(STARTED)?,
            open_fds: 0,
            max_fds: None,
        })
    }
}

/// Places of the fields that are read, as proc(5) counts them, and of the first after the program's name.
const STATE: usize = 3;
const USER: usize = 14;
const SYSTEM: usize = 15;
const THREADS: usize = 20;
const STARTED: usize = 22;
const VIRTUAL: usize = 23;
const RESIDENT: usize = 24;

fn booted(stat: &str) -> Option<f64> {
    stat.lines().find_map(|line| line.strip_prefix("btime "))?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use prometheus_client::encoding::text::encode;

    use super::*;

    #[test]
    fn the_fields_are_found_whatever_the_program_is_called() {
        let stat = "42 (a) S (b) R 1 1 1 0 -1 4194560 100 0 0 0 250 50 0 0 20 0 7 0 1000 8192 3 1844 1 1 0";
        let units = Units { ticks_per_second: 100.0, page_bytes: 4096, booted_seconds: 1_000.0 };
        let expected = Figures {
            cpu_seconds: 3.0,
            resident_bytes: 3 * 4096,
            virtual_bytes: 8192,
            threads: 7,
            open_fds: 0,
            max_fds: None,
            started_seconds: 1_010.0,
        };
        assert_eq!(Figures::read(stat, units), Some(expected));
        assert_eq!(Figures::read("42 (a", units), None);
        assert_eq!(booted("cpu 1 2\nbtime 1700000000\nprocesses 5\n"), Some(1_700_000_000.0));
    }

    #[test]
    fn this_process_is_as_it_should_be() {
        let before = Figures::now().expect("this system has a /proc");
        let file = std::fs::File::open("/proc/self/stat");
        let after = Figures::now().expect("this system has a /proc");
        assert!(file.is_ok_and(|_| after.open_fds > before.open_fds - 2));
        assert!(after.cpu_seconds >= before.cpu_seconds);
        assert!(after.resident_bytes > 100_000 && after.threads >= 1);
        // It does not start twice, and not before there were such programs.
        assert!((after.started_seconds - before.started_seconds).abs() < 1e-6, "{after:?}");
        assert!(after.started_seconds > 1_700_000_000.0, "{after:?}");
    }

    #[test]
    fn they_are_called_as_everywhere() {
        let mut text = String::new();
        assert!(encode(&mut text, &registry()).is_ok());
        for name in [
            "process_cpu_seconds_total",
            "process_resident_memory_bytes",
            "process_virtual_memory_bytes",
            "process_threads",
            "process_open_fds",
            "process_start_time_seconds",
        ] {
            assert!(
                text.lines().any(|line| line.starts_with(&format!("{name} "))),
                "{name} is not in\n{text}"
            );
        }
    }
}
