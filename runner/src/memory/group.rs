//! The control group this process lives in: its memory limit and what of it cannot be given back.
//!
//! Both versions of Linux control groups, inside and outside containers. Reads files only.

use std::path::{Path, PathBuf};

/// A limit beyond this is version 1's way of saying that there is none.
const NO_LIMIT: u64 = 1 << 62;

/// The innermost group with the smallest memory limit that holds for this process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemoryGroup {
    version: Version,
    folder: PathBuf,
    limit: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Version {
    One,
    Two,
}

impl MemoryGroup {
    /// The group of this process; `None` where no group limits its memory.
    #[must_use]
    pub fn own() -> Option<Self> {
        let groups = std::fs::read_to_string("/proc/self/cgroup").ok()?;
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").ok()?;
        Self::find(&groups, &mounts)
    }

    /// Finds it from the texts of `/proc/<pid>/cgroup` and `/proc/<pid>/mountinfo`.
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
        own.ancestors()
            .take_while(|folder| folder.starts_with(point))
            .filter_map(|folder| {
                let text = std::fs::read_to_string(folder.join(version.limit_file())).ok()?;
                let limit = text.trim().parse().ok().filter(|&limit| limit < NO_LIMIT)?;
                Some(Self { version, folder: folder.to_path_buf(), limit })
            })
            .min_by_key(|group| group.limit)
    }

    /// Its limit in bytes.
    #[must_use]
    pub fn limit(&self) -> u64 {
        self.limit
    }

    /// Bytes in use that the kernel cannot take back: everything but file pages.
    #[must_use]
    pub fn held_bytes(&self) -> Option<u64> {
        let read = |name: &str| std::fs::read_to_string(self.folder.join(name)).ok();
        let (usage, reclaimable): (_, &[&str]) = match self.version {
            Version::One => {
                ("memory.usage_in_bytes", &["total_inactive_file", "total_active_file"])
            }
            Version::Two => {
                ("memory.current", &["inactive_file", "active_file", "slab_reclaimable"])
            }
        };
        let used: u64 = read(usage)?.trim().parse().ok()?;
        let stat = read("memory.stat")?;
        let fields = stat.lines().filter_map(|line| line.split_once(' '));
        let files = fields.filter(|(name, _)| reclaimable.contains(name));
        let files = files.filter_map(|(_, value)| value.parse::<u64>().ok()).sum();
        Some(used.saturating_sub(files))
    }
}

impl Version {
    fn limit_file(self) -> &'static str {
        match self {
            Self::One => "memory.limit_in_bytes",
            Self::Two => "memory.max",
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
        write(&root.path().join("jobs"), "memory.limit_in_bytes", "67108864\n");
        write(&root.path().join("jobs"), "memory.usage_in_bytes", "50000000\n");
        let stat = "cache 1\ntotal_inactive_file 20000000\ntotal_active_file 10000000\n";
        write(&root.path().join("jobs"), "memory.stat", stat);
        let groups = "5:cpu:/jobs/one\n4:memory:/jobs/one\n0::/\n";
        let mounts = format!(
            "30 1 0:3 / /x rw - tmpfs t rw\n31 1 0:9 / {point} rw,relatime - cgroup c rw,memory\n"
        );
        let group = MemoryGroup::find(groups, &mounts).unwrap();
        assert_eq!((group.limit(), group.held_bytes()), (64 << 20, Some(20_000_000)));
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
            assert_eq!((group.limit(), group.held_bytes()), (512 << 20, Some(850)), "{path}");
        }
        write(root.path(), "memory.max", "max\n");
        let mounts = format!("31 1 0:9 / {point} rw - cgroup2 c rw\n");
        assert_eq!(MemoryGroup::find("0::/\n", &mounts), None);
    }
}
