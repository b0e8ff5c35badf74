//! Every wait for a client, in one place: how long it may take, and how slow is too slow. The same rules hold
//! over TCP and TLS.
//!
//! Numbers only. `server` keeps those about connections, heads and answers, `upload` those about bodies. What
//! a request waits for inside the service (a slot, its instance) is not a client's doing and not here.

use std::time::Duration;

/// How long clients are waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timeouts {
    /// From accepting a connection to the end of its TLS handshake; from there to the end of a request's head;
    /// and from an answer to the end of the next head.
    pub head: Duration,
    /// The same when every place for a connection is taken and another client waits for one.
    pub head_when_full: Duration,
    /// The same for a client whose address has more connections than that of the one that waits.
    pub head_of_many_when_full: Duration,
    /// A client that does not take its answer as fast as it comes must take this much of it in this time.
    pub answer: Portion,
    /// When every place is taken: a client that has been waited for this long in the middle of its request or
    /// answer, and moved less than [`SLOWEST`] meanwhile, gives up its place. So it does while the service stops.
    pub slow_when_full: Duration,
    /// How long a client that was answered before it had sent everything may go on sending.
    pub linger: Portion,
    /// The longest pause within a body.
    pub body_pause: Duration,
    /// For this long a body that holds room may come more slowly than [`SLOWEST`].
    pub body_grace: Duration,
    /// A body in whose room others wait must come fast enough to fill its room in this time.
    pub body_when_full: Duration,
}

/// So many bytes in so much time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Portion {
    /// Bytes.
    pub bytes: u64,
    /// The time they may take.
    pub within: Duration,
}

/// The slowest pace of a client, in bytes a second: of bodies that hold room always, of answers and small
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

/// The slowest pace that fills `room` bytes in time while others wait, in bytes a second.
pub(crate) fn pace_for(room: u64, timeouts: &Timeouts) -> u64 {
    SLOWEST.max(room / timeouts.body_when_full.as_secs().max(1))
}
