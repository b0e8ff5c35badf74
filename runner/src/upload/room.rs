//! The room that all uploads share. It is taken as it is filled, so that whoever announces much and sends
//! little holds little; those that come fast may count on what they announced, so that two half-read bodies
//! do not wait for each other.
//!
//! When others wait, the slowest body of the address that holds the most is let go, and an address that holds
//! nothing comes before one that does. Numbers only; bytes are `upload`'s.

use crate::timeouts::{Timeouts, pace_for};
use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::{Instant, timeout};

/// Over how long a body's pace is measured.
const WINDOW: Duration = Duration::from_secs(1);
/// How soon those who wait look again: another body may have become slow meanwhile.
const LOOK_AGAIN: Duration = Duration::from_millis(100);

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
    next: u64,
    /// In the order in which they began.
    bodies: BTreeMap<u64, Holder>,
}

/// One body that holds room or wants some.
#[derive(Debug)]
struct Holder {
    address: Option<IpAddr>,
    held: u64,
    /// What it announced, or more if it has come to more.
    promised: u64,
    waits: bool,
    is_complete: bool,
    let_go: Option<LetGo>,
    window: Instant,
    moved: u64,
    is_slow: bool,
}

/// Why a body was let go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum LetGo {
    /// It came too slowly for others to wait.
    Slow,
    /// All waited for each other.
    NoRoom,
}

/// A body's part of the room, given back when this is dropped.
#[derive(Debug)]
pub(super) struct Share {
    room: Arc<Room>,
    number: u64,
    /// As the room's own figure; only this one changes it.
    held: u64,
}

impl Room {
    pub(super) fn new(total: u64, timeouts: Timeouts) -> Arc<Self> {
        Arc::new(Self { total, timeouts, state: Mutex::default(), changed: Notify::new() })
    }

    /// A share without room yet, of a body that announces so many bytes.
    pub(super) fn share(self: &Arc<Self>, address: Option<IpAddr>, announced: u64) -> Share {
        let mut state = self.state();
        state.next += 1;
        let number = state.next;
        let body = Holder {
            address,
            held: 0,
            promised: announced,
            waits: false,
            is_complete: false,
            let_go: None,
            window: Instant::now(),
            moved: 0,
            is_slow: false,
        };
        state.bodies.insert(number, body);
        Share { room: Arc::clone(self), number, held: 0 }
    }

    /// Bytes that nobody holds.
    #[cfg(test)]
    pub(super) fn free(&self) -> u64 {
        self.total - self.state().held()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Share {
    /// Notes that the body has come so far, and takes room for it.
    ///
    /// # Errors
    /// [`LetGo`], where others come first.
    pub(super) async fn grow(&mut self, to: u64) -> Result<(), LetGo> {
        let room = Arc::clone(&self.room);
        loop {
            let changed = room.changed.notified();
            if self.try_grow(to)? {
                return Ok(());
            }
            let _ = timeout(LOOK_AGAIN, changed).await;
        }
    }

    /// Notes that so many bytes came.
    pub(super) fn moved(&self, bytes: u64) {
        if let Some(body) = self.room.state().bodies.get_mut(&self.number) {
            body.moved += bytes;
        }
    }

    /// Resolves when this has to make room for others.
    pub(super) async fn let_go(&self) -> LetGo {
        loop {
            let changed = self.room.changed.notified();
            let body = self.room.state().bodies.get(&self.number).and_then(|body| body.let_go);
            if let Some(why) = body {
                return why;
            }
            changed.await;
        }
    }

    /// Whether this waits for others to give room back.
    pub(super) fn waits(&self) -> bool {
        self.room.state().bodies.get(&self.number).is_some_and(|body| body.waits)
    }

    /// The body has come whole: it is not waited for any more.
    pub(super) fn complete(&self) {
        if let Some(body) = self.room.state().bodies.get_mut(&self.number) {
            body.is_complete = true;
            body.promised = body.held;
        }
        self.room.changed.notify_waiters();
    }

    /// Gives room back beyond so many bytes.
    pub(super) fn shrink(&mut self, to: u64) {
        self.held = self.held.min(to);
        if let Some(body) = self.room.state().bodies.get_mut(&self.number) {
            body.held = self.held;
            body.promised = self.held;
        }
        self.room.changed.notify_waiters();
    }

    /// What it holds, in bytes.
    pub(super) fn held(&self) -> u64 {
        self.held
    }

    fn try_grow(&mut self, to: u64) -> Result<bool, LetGo> {
        let (now, room) = (Instant::now(), Arc::clone(&self.room));
        let mut state = room.state();
        state.measure(now, &room.timeouts);
        loop {
            let Some(body) = state.bodies.get_mut(&self.number) else { return Ok(true) };
            if let Some(let_go) = body.let_go {
                return Err(let_go);
            }
            body.promised = body.promised.max(to);
            if state.fits(self.number, to, room.total) {
                let Some(body) = state.bodies.get_mut(&self.number) else { return Ok(true) };
                body.held = to;
                if std::mem::take(&mut body.waits) {
                    (body.window, body.moved) = (now, 0);
                }
                self.held = to;
                return Ok(true);
            }
            if let Some(body) = state.bodies.get_mut(&self.number) {
                body.waits = true;
            }
            if !state.let_one_go() {
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

    /// Bytes that the bodies of each address hold, of addresses that hold any.
    fn held_by_address(&self) -> HashMap<Option<IpAddr>, u64> {
        let mut held = HashMap::new();
        for body in self.bodies.values().filter(|body| body.held > 0) {
            *held.entry(body.address).or_default() += body.held;
        }
        held
    }

    /// Says of each body whether it is slow, where that can be said anew.
    fn measure(&mut self, now: Instant, timeouts: &Timeouts) {
        for body in self.bodies.values_mut().filter(|body| !body.waits && !body.is_complete) {
            let elapsed = now.duration_since(body.window);
            if elapsed >= WINDOW {
                let owed =
                    u128::from(pace_for(body.promised, timeouts)) * elapsed.as_millis() / 1000;
                body.is_slow = u128::from(body.moved) < owed;
                (body.window, body.moved) = (now, 0);
            }
        }
    }

    /// Whether a body may hold so much: beside what others hold, and, unless it was promised room before,
    /// beside what those that come fast enough were promised.
    fn fits(&self, number: u64, to: u64, total: u64) -> bool {
        let Some(body) = self.bodies.get(&number) else { return false };
        let has_promise = body.held > 0 && !body.is_slow;
        let others =
            self.bodies.iter().filter(|(other, holder)| **other != number && holder.held > 0);
        let counted = others.map(|(_, other)| match has_promise || other.is_slow {
            true => other.held,
            false => other.held.max(other.promised),
        });
        let wanted = if body.held > 0 { to } else { body.promised };
        let first = body.held > 0
            || self.next_in_line() == Some(number)
            || !body.waits && self.next_in_line().is_none();
        first && counted.sum::<u64>().saturating_add(wanted) <= total
    }

    /// Of those that wait and hold nothing, whoever comes next: an address that holds nothing comes first.
    fn next_in_line(&self) -> Option<u64> {
        let held = self.held_by_address();
        let waiting = self.bodies.iter().filter(|(_, body)| body.waits && body.held == 0);
        let rank = |body: &Holder, number| (held.contains_key(&body.address), number);
        waiting.min_by_key(|(number, body)| rank(body, **number)).map(|(number, _)| *number)
    }

    /// Lets a slow body go, or the last one to begin where all wait for each other; whether there was one.
    fn let_one_go(&mut self) -> bool {
        let holders = self.bodies.iter().filter(|(_, body)| body.held > 0);
        let held: Vec<_> = holders.map(|(number, body)| (*number, body)).collect();
        if held.iter().any(|(_, body)| body.let_go.is_some()) {
            // Its room comes free in a moment.
            return false;
        }
        let slow = held.iter().filter(|(_, body)| body.is_slow && !body.is_complete);
        let of_address = self.held_by_address();
        let rank = |body: &Holder| (of_address.get(&body.address).copied(), body.held);
        let slowest = slow.max_by_key(|(_, body)| rank(body));
        let stuck = held.iter().all(|(_, body)| body.waits);
        let chosen = match slowest {
            Some((number, _)) => Some((*number, LetGo::Slow)),
            None if stuck => held.last().map(|(number, _)| (*number, LetGo::NoRoom)),
            None => None,
        };
        let Some((number, why)) = chosen else { return false };
        if let Some(body) = self.bodies.get_mut(&number) {
            body.let_go = Some(why);
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::{LetGo, Room, Share};
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

    /// Two clients announced 8 MiB and sent 18 KiB/s: everybody waited for them.
    #[tokio::test(start_paused = true)]
    async fn who_announces_much_and_sends_little_holds_little() {
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
    async fn the_slowest_goes_when_another_needs_its_room() {
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
    async fn those_that_come_fast_get_what_they_announced_one_after_the_other() {
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
    async fn bodies_without_an_announced_end_do_not_wait_for_each_other_for_ever() {
        let room = room();
        let (mut first, mut second) = (share(&room, 1, 0), share(&room, 2, 0));
        first.grow(4 * MIB).await.unwrap();
        second.grow(4 * MIB).await.unwrap();
        let (grown, gone) = tokio::join!(first.grow(5 * MIB), async {
            let gone = second.grow(5 * MIB).await;
            drop(second);
            gone
        });
        assert_eq!((grown, gone), (Ok(()), Err(LetGo::NoRoom)));
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
        // What stays of the first keeps its address behind the other.
        held.shrink(1);
        assert!(!again.try_grow(MIB).unwrap());
        drop(held);
        let mut small = share(&room, 1, 1);
        assert!(!small.try_grow(1).unwrap(), "who comes later waits behind those who wait");
        assert!(again.try_grow(MIB).unwrap() && !other.try_grow(MIB).unwrap());
    }
}
