//! A file of kernel figures that stays open, so that it can be read even when no descriptor is left, which is
//! when the figures matter. Parsing is left to the callers.

use std::fs::File;
use std::io::Result;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

/// A file whose text the kernel generates anew at each read from the start.
#[derive(Debug)]
pub(super) struct KeptOpen(File);

/// Longest text that is read, in bytes: `memory.stat` and `status` have a few thousand.
const MOST: usize = 64 << 10;

impl KeptOpen {
    /// Opens the file.
    pub(super) fn new(path: &Path) -> Result<Self> {
        File::open(path).map(Self)
    }

    /// The current text.
    pub(super) fn read(&self) -> Result<String> {
        let (mut text, mut piece) = (Vec::new(), [0; 4096]);
        while text.len() < MOST {
            let length = self.0.read_at(&mut piece, text.len() as u64)?;
            if length == 0 {
                break;
            }
            text.extend_from_slice(piece.get(..length).unwrap_or_default());
        }
        Ok(String::from_utf8_lossy(&text).into_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::KeptOpen;
    use std::path::Path;
    use std::time::{Duration, Instant};

    #[test]
    fn each_read_gives_the_current_text() {
        let kept = KeptOpen::new(Path::new("/proc/self/stat")).unwrap();
        let ticks = |text: &str| text.split(' ').nth(13).unwrap().parse::<u64>().unwrap();
        let (before, begin) = (ticks(&kept.read().unwrap()), Instant::now());
        while ticks(&kept.read().unwrap()) == before {
            assert!(begin.elapsed() < Duration::from_secs(60), "it was busy all the time");
        }
    }
}
