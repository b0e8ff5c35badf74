//! All timeouts for clients, in one place, and the slowest pace allowed. The same rules hold over TCP and
//! TLS.
//!
//! Numbers only: `server` enforces those of connections, heads and answers, `upload` those of bodies. The
//! time that a request waits inside the service, for a permit or its instance, is left to `admission` and
//! `sandbox`.

use std::time::Duration;

/// The timeouts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timeouts {
    /// Each of: from accepting a connection to the end of its TLS handshake; from there to the end of a
    /// request's head; and from an answer to the end of the next head.
    pub head: Duration,
    /// The same when all places for connections are taken and another client waits for one.
    pub head_when_full: Duration,
    /// The same for a client whose address has more connections than that of the waiting client.
    pub head_of_many_when_full: Duration,
    /// A client that falls behind its answer must take this much of it in this time.
    pub answer: Portion,
    /// When all places are taken, or the service stops: after waiting this long for a client in the middle of
    /// its request or answer, its connection is evicted if it moved fewer than [`SLOWEST`] bytes a second
    /// meanwhile.
    pub slow_when_full: Duration,
    /// How much a client that was answered early may still send, and for how long.
    pub linger: Portion,
    /// The longest pause within a body.
    pub body_pause: Duration,
    /// How long a body that holds room may come more slowly than [`SLOWEST`].
    pub body_grace: Duration,
    /// While others wait for room, a body must be fast enough to fill its room in this time.
    pub body_when_full: Duration,
}

/// A number of bytes in a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Portion {
    /// Bytes.
    pub bytes: u64,
    /// The time they may take.
    pub within: Duration,
}

/// The slowest pace of a client, in bytes a second: for bodies that hold room always, for answers and small
/// bodies when others wait for a place.
pub const SLOWEST: u64 = 16 << 10;

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            head: Duration::from_secs(15),
            head_when_full: Duration::from_secs(1),
            head_of_many_when_full: Duration::from_millis(50),
            answer: Portion { bytes: 64 << 10, within: Duration::from_secs(30) },
            slow_when_full: Duration::from_secs(3),
            linger: Portion { bytes: 64 << 20, within: Duration::from_secs(5) },
            body_pause: Duration::from_secs(5),
            body_grace: Duration::from_secs(2),
            body_when_full: Duration::from_secs(8),
        }
    }
}

/// The slowest pace allowed while others wait, in bytes a second: it fills `room` bytes in time.
pub(crate) fn pace_for(room: u64, timeouts: &Timeouts) -> u64 {
    SLOWEST.max(room / timeouts.body_when_full.as_secs().max(1))
}
