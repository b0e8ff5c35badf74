//! Prometheus's standard process metrics: CPU time, open files, start time. Zero if the kernel does not
//! report them. Memory is left to `memory::process`.

/// The figures at one moment.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct Process {
    pub(crate) cpu_seconds: f64,
    pub(crate) open_files: u64,
    /// Seconds since 1970.
    pub(crate) start_seconds: f64,
}

/// The unit of times in `/proc`, USER_HZ, which is 100 on every Linux.
const TICKS_PER_SECOND: f64 = 100.0;

impl Process {
    /// Reads the figures.
    pub(crate) fn now() -> Self {
        let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
        let boot = std::fs::read_to_string("/proc/stat").unwrap_or_default();
        let open_files = std::fs::read_dir("/proc/self/fd").map_or(0, |files| files.count() as u64);
        Self { open_files, ..Self::parse(&stat, &boot) }
    }

    fn parse(stat: &str, boot: &str) -> Self {
        // The second field is the program's name in brackets, which may contain any character.
        let rest = stat.rsplit_once(") ").map_or("", |(_, rest)| rest);
        let fields: Vec<&str> = rest.split(' ').collect();
        // Fields by their number in proc(5); the first one here is the third.
        let field = |number: usize| fields.get(number - 3)?.parse::<f64>().ok();
        let seconds = |number| field(number).unwrap_or(0.0) / TICKS_PER_SECOND;
        let boot = boot.lines().find_map(|line| line.strip_prefix("btime ")?.trim().parse().ok());
        Self {
            cpu_seconds: seconds(14) + seconds(15),
            open_files: 0,
            start_seconds: boot.map_or(0.0, |boot: f64| boot + seconds(22)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Process;

    #[test]
    fn times_are_read_after_any_program_name() {
        let stat = "42 (a) b) S 1 1 1 0 -1 4194304 100 0 0 0 250 50 0 0 20 0 5 0 12345 1000 10 0";
        let process = Process::parse(stat, "cpu 1 2\nbtime 1700000000\n");
        assert_eq!((process.cpu_seconds, process.start_seconds), (3.0, 1_700_000_123.45));
        assert_eq!(Process::parse("", ""), Process::default());
    }

    #[test]
    fn this_process_has_begun_and_has_open_files() {
        let now = Process::now();
        assert!(now.start_seconds > 1e9 && now.open_files >= 3, "{now:?}");
    }
}
