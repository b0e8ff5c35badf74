//! The control group of this process: its memory limit, and the part of its memory that cannot be reclaimed.
//!
//! Both versions of Linux control groups, inside and outside containers. It only reads files, and keeps open
//! those that it reads again.

use super::kept_open::KeptOpen;
use std::path::Path;
use std::sync::Arc;

/// Version 1 expresses "no limit" by a number above this.
const NO_LIMIT: u64 = 1 << 62;

/// The control groups that contain this process.
#[derive(Debug, Clone)]
pub struct MemoryGroup {
    version: Version,
    /// From the innermost outwards. All are kept: one without a limit may get one while the process runs.
    levels: Arc<[Level]>,
}

/// One group's files.
#[derive(Debug)]
struct Level {
    limit: KeptOpen,
    usage: KeptOpen,
    stat: KeptOpen,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Version {
    One,
    Two,
}

impl MemoryGroup {
    /// The groups of this process; `None` if the system has none that count memory.
    #[must_use]
    pub fn own() -> Option<Self> {
        let groups = std::fs::read_to_string("/proc/self/cgroup").ok()?;
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").ok()?;
        Self::find(&groups, &mounts)
    }

    /// Finds them from the texts of `/proc/<pid>/cgroup` and `/proc/<pid>/mountinfo`.
    fn find(groups: &str, mounts: &str) -> Option<Self> {
        let line = |wanted: fn(&str) -> bool| {
            groups.lines().find_map(|line| {
                let (_, rest) = line.split_once(':')?;
                let (controllers, path) = rest.split_once(':')?;
                wanted(controllers).then_some(path)
            })
        };
        let memory = line(|controllers| controllers.split(',').any(|name| name == "memory"));
        let (version, path) = match memory {
            Some(path) => (Version::One, path),
            None => (Version::Two, line(str::is_empty)?),
        };
        let (root, point) = mounts.lines().find_map(|line| version.mount(line))?;
        // Inside a container the mount shows a subtree, and the path may begin above it.
        let inside = path.strip_prefix(root.trim_end_matches('/')).unwrap_or("");
        let own = Path::new(point).join(inside.trim_start_matches('/'));
        let folders = own.ancestors().take_while(|folder| folder.starts_with(point));
        let levels: Vec<_> = folders.filter_map(|folder| version.open(folder).ok()).collect();
        (!levels.is_empty()).then(|| Self { version, levels: levels.into() })
    }

    /// The smallest limit now, in bytes; `None` if no group has one.
    #[must_use]
    pub fn limit(&self) -> Option<u64> {
        self.tightest().map(|(limit, _)| limit)
    }

    fn tightest(&self) -> Option<(u64, &Level)> {
        let limits = self.levels.iter().filter_map(|level| {
            let limit = level.limit.read().ok()?.trim().parse().ok();
            Some((limit.filter(|&limit| limit < NO_LIMIT)?, level))
        });
        limits.min_by_key(|(limit, _)| *limit)
    }

    /// Bytes in use in the group with the smallest limit that the kernel cannot reclaim: everything but file
    /// pages.
    #[must_use]
    pub fn held_bytes(&self) -> Option<u64> {
        let (_, level) = self.tightest()?;
        let used: u64 = level.usage.read().ok()?.trim().parse().ok()?;
        let stat = level.stat.read().ok()?;
        let fields = stat.lines().filter_map(|line| line.split_once(' '));
        let files = fields.filter(|(name, _)| self.version.reclaimable().contains(name));
        let files = files.filter_map(|(_, value)| value.parse::<u64>().ok()).sum();
        Some(used.saturating_sub(files))
    }
}

impl Version {
    /// The files of a group.
    fn open(self, folder: &Path) -> std::io::Result<Level> {
        let (limit, usage) = match self {
            Self::One => ("memory.limit_in_bytes", "memory.usage_in_bytes"),
            Self::Two => ("memory.max", "memory.current"),
        };
        let open = |name: &str| KeptOpen::new(&folder.join(name));
        Ok(Level { limit: open(limit)?, usage: open(usage)?, stat: open("memory.stat")? })
    }

    /// Fields of `memory.stat` that count as usage and can be reclaimed.
    fn reclaimable(self) -> &'static [&'static str] {
        match self {
            Self::One => &["total_inactive_file", "total_active_file"],
            Self::Two => &["inactive_file", "active_file", "slab_reclaimable"],
        }
    }

    /// Root and mount point of a line of `mountinfo` (`proc_pid_mountinfo(5)`), if it is this version's.
    fn mount(self, line: &str) -> Option<(&str, &str)> {
        let (place, system) = line.split_once(" - ")?;
        let mut place = place.split(' ').skip(3);
        let (root, point) = (place.next()?, place.next()?);
        let mut system = system.split(' ');
        let kind = system.next()?;
        let ours = match self {
            Self::One => kind == "cgroup" && system.nth(1)?.split(',').any(|o| o == "memory"),
            Self::Two => kind == "cgroup2",
        };
        ours.then_some((root, point))
    }
}

/// The machine's memory in bytes.
pub(super) fn machine_bytes() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let kib = text.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    kib.split_whitespace().next()?.parse::<u64>().ok()?.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::MemoryGroup;
    use std::path::Path;

    fn write(folder: &Path, name: &str, text: &str) {
        std::fs::create_dir_all(folder).unwrap();
        std::fs::write(folder.join(name), text).unwrap();
    }

    #[test]
    fn version_1_is_found_and_its_parents_limits_hold() {
        let root = tempfile::tempdir().unwrap();
        let point = root.path().display();
        let inner = root.path().join("jobs/one");
        write(&inner, "memory.limit_in_bytes", "9223372036854771712\n");
        write(&inner, "memory.usage_in_bytes", "1000\n");
        write(&inner, "memory.stat", "cache 1\n");
        write(&root.path().join("jobs"), "memory.limit_in_bytes", "67108864\n");
        write(&root.path().join("jobs"), "memory.usage_in_bytes", "50000000\n");
        let stat = "cache 1\ntotal_inactive_file 20000000\ntotal_active_file 10000000\n";
        write(&root.path().join("jobs"), "memory.stat", stat);
        let groups = "5:cpu:/jobs/one\n4:memory:/jobs/one\n0::/\n";
        let mounts = format!(
            "30 1 0:3 / /x rw - tmpfs t rw\n31 1 0:9 / {point} rw,relatime - cgroup c rw,memory\n"
        );
        let group = MemoryGroup::find(groups, &mounts).unwrap();
        assert_eq!((group.limit(), group.held_bytes()), (Some(64 << 20), Some(20_000_000)));
    }

    #[test]
    fn version_2_is_found_inside_a_container_too() {
        let root = tempfile::tempdir().unwrap();
        let point = root.path().display();
        write(root.path(), "memory.max", "536870912\n");
        write(root.path(), "memory.current", "1000\n");
        write(root.path(), "memory.stat", "anon 1\ninactive_file 100\nslab_reclaimable 50\n");
        for (path, mount_root) in [("/", "/"), ("/docker/abc", "/docker/abc")] {
            let groups = format!("0::{path}\n");
            let mounts = format!("31 1 0:9 {mount_root} {point} rw shared:4 - cgroup2 c rw\n");
            let group = MemoryGroup::find(&groups, &mounts).unwrap();
            assert_eq!((group.limit(), group.held_bytes()), (Some(512 << 20), Some(850)), "{path}");
        }
        let mounts = format!("31 1 0:9 / {point} rw - cgroup2 c rw\n");
        let group = MemoryGroup::find("0::/\n", &mounts).unwrap();
        for (text, limit) in [("max\n", None), ("67108864\n", Some(64 << 20)), ("max\n", None)] {
            write(root.path(), "memory.max", text);
            assert_eq!(group.limit(), limit, "the limit is read again");
        }
    }
}
