//! Queues standard output and error, each written by a thread of its own, so that a slow reader never blocks
//! the code that logs or prints, and a closed pipe never ends it. Pieces that do not fit the queue are
//! dropped and counted.
//!
//! Bytes only: formatting lines is left to the callers.

use std::collections::VecDeque;
use std::io::{self, Write};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

/// Bytes that may be queued.
const ROOM: usize = 256 << 10;

/// How long [`OutputQueue::put_patiently`] waits for room.
const ROOM_TIMEOUT: Duration = Duration::from_millis(250);

/// A queue in front of a stream.
#[derive(Debug, Clone)]
pub struct OutputQueue(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    pieces: VecDeque<Vec<u8>>,
    bytes: usize,
    is_writing: bool,
    /// A wait timed out; no call waits again until the reader has read something.
    is_stuck: bool,
    /// Pieces dropped since the reader last read, and in all.
    dropped_now: u64,
    dropped: u64,
}

/// Standard output.
#[must_use]
pub fn stdout() -> &'static OutputQueue {
    static QUEUE: OnceLock<OutputQueue> = OnceLock::new();
    QUEUE.get_or_init(|| OutputQueue::start(io::stdout()))
}

/// Standard error.
#[must_use]
pub fn stderr() -> &'static OutputQueue {
    static QUEUE: OnceLock<OutputQueue> = OnceLock::new();
    QUEUE.get_or_init(|| OutputQueue::start(io::stderr()))
}

impl OutputQueue {
    /// Begins to write to `stream`. If no thread can be started for it, everything is dropped.
    fn start(stream: impl Write + Send + 'static) -> Self {
        let shared = Arc::new(Shared::default());
        let writes = Arc::clone(&shared);
        let named = std::thread::Builder::new().name("output".to_owned());
        let _ = named.spawn(move || writes.write_to(stream));
        Self(shared)
    }

    /// Queues a piece, or drops it if there is no room.
    pub fn put(&self, piece: &[u8]) {
        let mut state = self.0.state();
        if state.bytes + piece.len() > ROOM {
            state.drop_piece();
            return;
        }
        self.0.queue(state, piece);
    }

    /// The same, but waits a moment for room while the reader goes on reading. Not for threads that serve
    /// requests.
    pub fn put_patiently(&self, piece: &[u8]) {
        let until = Instant::now() + ROOM_TIMEOUT;
        let mut state = self.0.state();
        while state.bytes + piece.len() > ROOM {
            let left = until.saturating_duration_since(Instant::now());
            if state.is_stuck || left.is_zero() {
                state.is_stuck = true;
                state.drop_piece();
                return;
            }
            let waited = self.0.changed.wait_timeout(state, left);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        self.0.queue(state, piece);
    }

    /// Pieces dropped so far.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        self.0.state().dropped
    }

    /// Waits until everything is written, but no longer than `timeout`.
    pub fn finish(&self, timeout: Duration) {
        let until = Instant::now() + timeout;
        let mut state = self.0.state();
        while state.is_writing || !state.pieces.is_empty() {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            let waited = self.0.changed.wait_timeout(state, left);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

/// For the log, which writes each line as one piece.
impl Write for &OutputQueue {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.put(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn queue(&self, mut state: MutexGuard<'_, State>, piece: &[u8]) {
        state.bytes += piece.len();
        state.pieces.push_back(piece.to_vec());
        drop(state);
        self.changed.notify_all();
    }

    /// Writes what is queued. Never returns.
    fn write_to(&self, mut stream: impl Write) {
        let mut state = self.state();
        loop {
            let Some(piece) = state.pieces.pop_front() else {
                state.is_writing = false;
                self.changed.notify_all();
                state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
                continue;
            };
            state.is_writing = true;
            let missing = std::mem::take(&mut state.dropped_now);
            drop(state);
            // Errors of a closed pipe are ignored: the pieces are dropped and counted.
            if missing > 0 {
                let _ = writeln!(
                    stream,
                    "{missing} lines are missing here: they were not read in time"
                );
            }
            let written = stream.write_all(&piece).and_then(|()| stream.flush());
            state = self.state();
            state.bytes -= piece.len();
            state.is_stuck = false;
            if written.is_err() {
                state.drop_piece();
            }
            self.changed.notify_all();
        }
    }
}

impl State {
    fn drop_piece(&mut self) {
        self.dropped_now += 1;
        self.dropped += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::{OutputQueue, ROOM, ROOM_TIMEOUT};
    use std::io::{self, Write};
    use std::sync::{Arc, Mutex};
    use std::time::{Duration, Instant};

    /// A reader that blocks while this is locked.
    #[derive(Clone, Default)]
    struct Reader(Arc<Mutex<Vec<u8>>>);

    impl Write for Reader {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_stalled_reader_blocks_no_writer_and_dropped_lines_are_counted() {
        let reader = Reader::default();
        let queue = OutputQueue::start(reader.clone());
        queue.put(b"first\n");
        queue.finish(Duration::from_secs(10));
        let stopped = reader.0.lock().unwrap();
        let start = Instant::now();
        let line = [b'.'; 1024];
        (0..2 * ROOM / line.len()).for_each(|_| queue.put(&line));
        (0..100).for_each(|_| queue.put_patiently(&line));
        assert!(start.elapsed() < 10 * ROOM_TIMEOUT, "{:?}", start.elapsed());
        let dropped = queue.dropped();
        assert!(dropped >= 100 + (ROOM / line.len()) as u64, "{dropped}");
        drop(stopped);
        queue.finish(Duration::from_secs(10));
        let text = String::from_utf8(reader.0.lock().unwrap().clone()).unwrap();
        assert!(text.starts_with("first\n"));
        assert!(text.contains("lines are missing here"), "{text:.200}");
        assert_eq!(text.matches('.').count() as u64 / 1024 + dropped, 612);
    }

    #[test]
    fn patient_writers_lose_nothing_while_the_reader_reads() {
        let reader = Reader::default();
        let queue = OutputQueue::start(reader.clone());
        let line = [b'.'; 1024];
        (0..8 * ROOM / line.len()).for_each(|_| queue.put_patiently(&line));
        queue.finish(Duration::from_secs(10));
        assert_eq!((reader.0.lock().unwrap().len(), queue.dropped()), (8 * ROOM, 0));
    }

    #[test]
    fn a_closed_pipe_drops_lines_and_ends_no_writer() {
        struct Gone;
        impl Write for Gone {
            fn write(&mut self, _: &[u8]) -> io::Result<usize> {
                Err(io::ErrorKind::BrokenPipe.into())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let queue = OutputQueue::start(Gone);
        (0..3).for_each(|_| queue.put(b"x"));
        queue.finish(Duration::from_secs(10));
        assert_eq!(queue.dropped(), 3);
    }
}
