//! The memory that all uploads share, called room. A body takes room for the bytes that have arrived, so one
//! that announces much and sends little holds little. A body that comes fast has the length it announced
//! reserved, so that two half-read bodies do not wait for each other.
//!
//! While others wait, a slow body is evicted, from the address that holds the most; of waiting bodies, those
//! of addresses that hold nothing come first. Numbers only: the bytes are in `upload`.

use crate::timeouts::{Timeouts, pace_for};
use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::{Instant, timeout};

/// The time over which a body's pace is measured. Chosen: in a shorter one, a short pause of the connection
/// counts as slowness; in a longer one, others wait longer for a slow body's room.
const WINDOW: Duration = Duration::from_secs(1);
/// How often a waiting body tries again: another may have become slow meanwhile. Chosen, a tenth of
/// [`WINDOW`].
const RETRY_EVERY: Duration = Duration::from_millis(100);

/// See the module.
#[derive(Debug)]
pub(super) struct Room {
    total: u64,
    timeouts: Timeouts,
    state: Mutex<State>,
    changed: Notify,
}

#[derive(Debug, Default)]
struct State {
    last_number: u64,
    /// By number: in the order in which they began.
    bodies: BTreeMap<u64, Entry>,
}

/// One body that holds room or waits for some.
#[derive(Debug)]
struct Entry {
    address: Option<IpAddr>,
    held: u64,
    /// Bytes it announced, or more if more have arrived; once it is complete, what it holds.
    reserved: u64,
    waits: bool,
    is_complete: bool,
    eviction: Option<Eviction>,
    /// When the current measuring window began.
    window: Instant,
    /// Bytes that arrived in it.
    moved: u64,
    is_slow: bool,
}

/// Why a body was evicted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Eviction {
    /// It came too slowly while others waited.
    Slow,
    /// All bodies waited for each other.
    NoRoom,
}

/// A body's part of the room, released when dropped.
#[derive(Debug)]
pub(super) struct Share {
    room: Arc<Room>,
    number: u64,
    /// The same as in the room's state; only this share changes it.
    held: u64,
}

impl Room {
    pub(super) fn new(total: u64, timeouts: Timeouts) -> Arc<Self> {
        Arc::new(Self { total, timeouts, state: Mutex::default(), changed: Notify::new() })
    }

    /// An empty share for a body that announces `announced` bytes.
    pub(super) fn share(self: &Arc<Self>, address: Option<IpAddr>, announced: u64) -> Share {
        let mut state = self.state();
        state.last_number += 1;
        let number = state.last_number;
        let body = Entry {
            address,
            held: 0,
            reserved: announced,
            waits: false,
            is_complete: false,
            eviction: None,
            window: Instant::now(),
            moved: 0,
            is_slow: false,
        };
        state.bodies.insert(number, body);
        Share { room: Arc::clone(self), number, held: 0 }
    }

    /// Free bytes.
    #[cfg(test)]
    pub(super) fn free(&self) -> u64 {
        self.total - self.state().held()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Share {
    /// Waits until the body may hold `to` bytes, and takes them.
    ///
    /// # Errors
    /// [`Eviction`], if the body was evicted.
    pub(super) async fn grow(&mut self, to: u64) -> Result<(), Eviction> {
        let room = Arc::clone(&self.room);
        loop {
            let changed = room.changed.notified();
            if self.try_grow(to)? {
                return Ok(());
            }
            let _ = timeout(RETRY_EVERY, changed).await;
        }
    }

    /// Notes that `bytes` arrived.
    pub(super) fn moved(&self, bytes: u64) {
        if let Some(body) = self.room.state().bodies.get_mut(&self.number) {
            body.moved += bytes;
        }
    }

    /// Resolves when the body is evicted.
    pub(super) async fn evicted(&self) -> Eviction {
        loop {
            let changed = self.room.changed.notified();
            let body = self.room.state().bodies.get(&self.number).and_then(|body| body.eviction);
            if let Some(why) = body {
                return why;
            }
            changed.await;
        }
    }

    /// Whether the body waits for room.
    pub(super) fn waits(&self) -> bool {
        self.room.state().bodies.get(&self.number).is_some_and(|body| body.waits)
    }

    /// Notes that the body is complete: its pace no longer matters.
    pub(super) fn complete(&self) {
        if let Some(body) = self.room.state().bodies.get_mut(&self.number) {
            body.is_complete = true;
            body.reserved = body.held;
        }
        self.room.changed.notify_waiters();
    }

    /// Releases what it holds or has reserved beyond `to` bytes.
    pub(super) fn shrink(&mut self, to: u64) {
        self.held = self.held.min(to);
        if let Some(body) = self.room.state().bodies.get_mut(&self.number) {
            body.held = self.held;
            body.reserved = self.held;
        }
        self.room.changed.notify_waiters();
    }

    /// Bytes it holds.
    pub(super) fn held(&self) -> u64 {
        self.held
    }

    fn try_grow(&mut self, to: u64) -> Result<bool, Eviction> {
        let (now, room) = (Instant::now(), Arc::clone(&self.room));
        let mut state = room.state();
        state.measure(now, &room.timeouts);
        loop {
            let Some(body) = state.bodies.get_mut(&self.number) else { return Ok(true) };
            if let Some(eviction) = body.eviction {
                return Err(eviction);
            }
            body.reserved = body.reserved.max(to);
            if state.fits(self.number, to, room.total) {
                let Some(body) = state.bodies.get_mut(&self.number) else { return Ok(true) };
                body.held = to;
                if std::mem::take(&mut body.waits) {
                    // Time spent waiting for room does not count against its pace.
                    (body.window, body.moved) = (now, 0);
                }
                self.held = to;
                return Ok(true);
            }
            if let Some(body) = state.bodies.get_mut(&self.number) {
                body.waits = true;
            }
            if !state.evict_one() {
                return Ok(false);
            }
            room.changed.notify_waiters();
        }
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.room.state().bodies.remove(&self.number);
        self.room.changed.notify_waiters();
    }
}

impl State {
    #[cfg(test)]
    fn held(&self) -> u64 {
        self.bodies.values().map(|body| body.held).sum()
    }

    /// Bytes that each address's bodies hold, without addresses that hold none.
    fn held_by_address(&self) -> HashMap<Option<IpAddr>, u64> {
        let mut held = HashMap::new();
        for body in self.bodies.values().filter(|body| body.held > 0) {
            *held.entry(body.address).or_default() += body.held;
        }
        held
    }

    /// Updates whether each body is slow, once its window has passed.
    fn measure(&mut self, now: Instant, timeouts: &Timeouts) {
        for body in self.bodies.values_mut().filter(|body| !body.waits && !body.is_complete) {
            let elapsed = now.duration_since(body.window);
            if elapsed >= WINDOW {
                let owed =
                    u128::from(pace_for(body.reserved, timeouts)) * elapsed.as_millis() / 1000;
                body.is_slow = u128::from(body.moved) < owed;
                (body.window, body.moved) = (now, 0);
            }
        }
    }

    /// Whether a body may hold `to` bytes: it must be its turn, and the bytes must fit beside the others. A
    /// body that holds nothing yet must fit with all it announced. If it holds nothing or is slow, it must
    /// leave each fast body what that reserved; otherwise it must leave only what they hold.
    fn fits(&self, number: u64, to: u64, total: u64) -> bool {
        let Some(body) = self.bodies.get(&number) else { return false };
        let has_reservation = body.held > 0 && !body.is_slow;
        let others = self.bodies.iter().filter(|(other, body)| **other != number && body.held > 0);
        let left_to = |other: &Entry| {
            if has_reservation || other.is_slow {
                other.held
            } else {
                other.held.max(other.reserved)
            }
        };
        let counted: u64 = others.map(|(_, other)| left_to(other)).sum();
        let wanted = if body.held > 0 { to } else { body.reserved };
        self.is_turn(number, body) && counted.saturating_add(wanted) <= total
    }

    /// Whether it is this body's turn: one that holds room goes on; of the others the next waiting one, or
    /// any if none waits.
    fn is_turn(&self, number: u64, body: &Entry) -> bool {
        body.held > 0 || self.next_waiting().is_none_or(|next| next == number)
    }

    /// The next of the waiting bodies that hold nothing: first those of addresses that hold nothing.
    fn next_waiting(&self) -> Option<u64> {
        let held = self.held_by_address();
        let waiting = self.bodies.iter().filter(|(_, body)| body.waits && body.held == 0);
        let rank = |body: &Entry, number| (held.contains_key(&body.address), number);
        waiting.min_by_key(|(number, body)| rank(body, **number)).map(|(number, _)| *number)
    }

    /// Marks one body as evicted: of the slow ones the largest of the address that holds the most; if there
    /// is none and all wait for each other, the newest. Its room comes free when its share is dropped. False
    /// if none was marked, also while an earlier one still holds room.
    fn evict_one(&mut self) -> bool {
        let holders = self.bodies.iter().filter(|(_, body)| body.held > 0);
        let held: Vec<_> = holders.map(|(number, body)| (*number, body)).collect();
        if held.iter().any(|(_, body)| body.eviction.is_some()) {
            // A body was evicted already; its room comes free in a moment.
            return false;
        }
        let slow = held.iter().filter(|(_, body)| body.is_slow && !body.is_complete);
        let per_address = self.held_by_address();
        let rank = |body: &Entry| (per_address.get(&body.address).copied(), body.held);
        let largest_slow = slow.max_by_key(|(_, body)| rank(body));
        let stuck = held.iter().all(|(_, body)| body.waits);
        let chosen = match largest_slow {
            Some((number, _)) => Some((*number, Eviction::Slow)),
            None if stuck => held.last().map(|(number, _)| (*number, Eviction::NoRoom)),
            None => None,
        };
        let Some((number, why)) = chosen else { return false };
        if let Some(body) = self.bodies.get_mut(&number) {
            body.eviction = Some(why);
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::{Eviction, Room, Share};
    use crate::timeouts::Timeouts;
    use std::net::{IpAddr, Ipv4Addr};
    use std::sync::Arc;
    use std::time::Duration;
    use tokio::time::{Instant, timeout};

    const MIB: u64 = 1 << 20;

    fn room() -> Arc<Room> {
        Room::new(8 * MIB, Timeouts::default())
    }

    fn share(room: &Arc<Room>, last: u8, announced: u64) -> Share {
        room.share(Some(IpAddr::V4(Ipv4Addr::new(192, 0, 2, last))), announced)
    }

    /// Two clients that announced 8 MiB and sent 18 KiB/s once delayed all others.
    #[tokio::test(start_paused = true)]
    async fn a_body_that_announces_much_and_sends_little_holds_little() {
        let room = room();
        let mut slow = share(&room, 1, 8 * MIB);
        slow.grow(32 << 10).await.unwrap();
        let mut fast = share(&room, 2, 4 * MIB);
        let start = Instant::now();
        for piece in 1..=32 {
            fast.grow(piece * (128 << 10)).await.unwrap();
        }
        assert!(start.elapsed() <= Duration::from_millis(1200), "{:?}", start.elapsed());
    }

    #[tokio::test(start_paused = true)]
    async fn a_slow_body_is_evicted_when_another_needs_its_room() {
        let room = room();
        let mut slow = share(&room, 1, 8 * MIB);
        slow.grow(7 * MIB).await.unwrap();
        let mut other = share(&room, 2, 4 * MIB);
        let start = Instant::now();
        let gone = async {
            while slow.grow(7 * MIB).await.is_ok() {
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
            drop(slow);
        };
        let (grown, ()) = tokio::join!(other.grow(4 * MIB), gone);
        assert_eq!(grown, Ok(()));
        assert!(start.elapsed() < Duration::from_secs(3), "{:?}", start.elapsed());
    }

    #[tokio::test(start_paused = true)]
    async fn fast_bodies_get_the_length_they_announced_one_after_the_other() {
        let room = room();
        let mut first = share(&room, 1, 6 * MIB);
        first.grow(MIB).await.unwrap();
        let mut second = share(&room, 2, 6 * MIB);
        assert!(timeout(Duration::from_millis(500), second.grow(MIB)).await.is_err());
        first.grow(6 * MIB).await.unwrap();
        first.complete();
        drop(first);
        assert_eq!(second.grow(6 * MIB).await, Ok(()));
        assert_eq!(room.free(), 2 * MIB);
    }

    #[tokio::test(start_paused = true)]
    async fn bodies_of_unknown_length_do_not_deadlock() {
        let room = room();
        let (mut first, mut second) = (share(&room, 1, 0), share(&room, 2, 0));
        first.grow(4 * MIB).await.unwrap();
        second.grow(4 * MIB).await.unwrap();
        let (grown, gone) = tokio::join!(first.grow(5 * MIB), async {
            let gone = second.grow(5 * MIB).await;
            drop(second);
            gone
        });
        assert_eq!((grown, gone), (Ok(()), Err(Eviction::NoRoom)));
    }

    #[tokio::test(start_paused = true)]
    async fn an_address_that_holds_nothing_comes_first() {
        let room = room();
        let mut held = share(&room, 1, 8 * MIB);
        held.grow(8 * MIB).await.unwrap();
        held.complete();
        let (mut again, mut other) = (share(&room, 1, 8 * MIB), share(&room, 2, 8 * MIB));
        let soon = Duration::from_millis(300);
        let (first, second) =
            tokio::join!(timeout(soon, again.grow(MIB)), timeout(soon, other.grow(MIB)));
        assert!(first.is_err() && second.is_err(), "there is no room");
        // The first body's last byte still ranks its address behind the other.
        held.shrink(1);
        assert!(!again.try_grow(MIB).unwrap());
        drop(held);
        let mut small = share(&room, 1, 1);
        assert!(!small.try_grow(1).unwrap(), "a later body waits behind those that wait");
        assert!(again.try_grow(MIB).unwrap() && !other.try_grow(MIB).unwrap());
    }
}
