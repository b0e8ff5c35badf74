//! Places for connections: how many there may be, and who gives one up when all are taken and another client
//! comes.
//!
//! While places are free, everybody gets one. Then the client that has been waited for the longest goes, of
//! the address with the most connections: silent ones after a second, sooner where their address has more
//! than the newcomer's, slow ones after a few (`timeouts`). Requests at work are never ended for a newcomer,
//! but for those of an address that has more than three quarters of all places. Where nobody can go, a few
//! more places are kept, in which probes are answered and everybody else is told to come back. No sockets
//! here.

use super::exchange::Exchange;
use crate::timeouts::Timeouts;
use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::Instant;

/// Places beyond all others, for probes.
pub(super) const FOR_PROBES: usize = 8;

/// How soon those who wait for a place look again: a client may have become overdue meanwhile.
const LOOK_AGAIN: Duration = Duration::from_millis(50);

/// How many connections there may be.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    /// In all, places for probes aside.
    pub(super) all: usize,
    /// Of one address, whether places are free or not.
    pub(super) address: usize,
}

impl Limits {
    /// What one address may keep when others want to come.
    fn share(&self) -> usize {
        self.all - self.all / 4
    }
}

/// All places of one listener.
#[derive(Debug)]
pub(super) struct Places {
    limits: Limits,
    timeouts: Timeouts,
    state: Mutex<State>,
    /// Told whenever a place comes free.
    freed: Notify,
}

#[derive(Debug, Default)]
struct State {
    next: u64,
    seats: HashMap<u64, Seat>,
    of_address: HashMap<IpAddr, usize>,
    for_probes: usize,
}

#[derive(Debug)]
struct Seat {
    exchange: Arc<Exchange>,
    leave: Arc<Notify>,
    /// Whose it is; `None` for those who share one address by right, such as a trusted proxy's clients.
    address: Option<IpAddr>,
    for_probes: bool,
}

/// A connection's place until this is dropped.
#[derive(Debug)]
pub(super) struct Place {
    places: Arc<Places>,
    number: u64,
    leave: Arc<Notify>,
    refuse: Notify,
    is_lost: AtomicBool,
    pub(super) exchange: Arc<Exchange>,
    /// Whether only probes are answered in it.
    pub(super) for_probes: bool,
}

/// Somebody for whom others may have to go.
struct Newcomer<'a> {
    /// Connections its address has already.
    own: usize,
    now: Instant,
    timeouts: &'a Timeouts,
}

/// Why there is no place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refused {
    /// The address has as many connections as it may.
    Address,
    /// All are taken by requests at work.
    Full,
}

impl Places {
    pub(super) fn new(limits: Limits, timeouts: Timeouts) -> Arc<Self> {
        Arc::new(Self { limits, timeouts, state: Mutex::default(), freed: Notify::new() })
    }

    /// Waits for a place for a client of `address`.
    ///
    /// # Errors
    /// [`Refused::Address`], at once.
    pub(super) async fn wait(self: &Arc<Self>, address: Option<IpAddr>) -> Result<Place, Refused> {
        loop {
            let freed = self.freed.notified();
            match self.take(address, Instant::now()) {
                Err(Refused::Full) => {}
                place => return place,
            }
            let _ = tokio::time::timeout(LOOK_AGAIN, freed).await;
        }
    }

    /// A place, if there is one, or if an overdue client can give up its own.
    pub(super) fn take(
        self: &Arc<Self>,
        address: Option<IpAddr>,
        now: Instant,
    ) -> Result<Place, Refused> {
        let mut state = self.state();
        let own = address.map_or(0, |address| state.of(address));
        let newcomer = Newcomer { own, now, timeouts: &self.timeouts };
        if own >= self.limits.address {
            let overdue = state.next_to_go(&newcomer, |seat| seat.address == address);
            state.free(overdue.ok_or(Refused::Address)?);
        }
        let mut for_probes = false;
        if state.seats.len() - state.for_probes >= self.limits.all {
            let overdue = state.next_to_go(&newcomer, |seat| !seat.for_probes);
            match overdue.or_else(|| state.beyond_its_share(address, self.limits.share())) {
                Some(number) => state.free(number),
                None => for_probes = true,
            }
        }
        if for_probes && state.for_probes >= FOR_PROBES {
            let overdue = state.next_to_go(&newcomer, |seat| seat.for_probes);
            state.free(overdue.ok_or(Refused::Full)?);
        }
        let (exchange, leave) = (Arc::new(Exchange::default()), Arc::new(Notify::new()));
        let seat = Seat {
            exchange: Arc::clone(&exchange),
            leave: Arc::clone(&leave),
            address,
            for_probes,
        };
        let number = state.seat(seat);
        Ok(Place {
            places: Arc::clone(self),
            number,
            leave,
            refuse: Notify::new(),
            is_lost: AtomicBool::new(false),
            exchange,
            for_probes,
        })
    }

    /// Ends every connection whose client reads its answer, or sends its body, too slowly for others to wait.
    pub(super) fn end_slow(&self) {
        self.end_overdue_among(|seat| seat.exchange.at_work());
    }

    /// Ends every connection whose client is overdue: nobody is waited for when the service stops.
    pub(super) fn end_overdue(&self) {
        self.end_overdue_among(|_| true);
    }

    fn end_overdue_among(&self, which: impl Fn(&Seat) -> bool) {
        let mut state = self.state();
        let nobody = Newcomer { own: usize::MAX, now: Instant::now(), timeouts: &self.timeouts };
        while let Some(overdue) = state.next_to_go(&nobody, &which) {
            state.free(overdue);
        }
        drop(state);
        self.freed.notify_waiters();
    }

    /// Connections now.
    pub(super) fn taken(&self) -> usize {
        self.state().seats.len()
    }

    /// Resolves when a place comes free, or in a moment.
    pub(super) async fn change(&self) {
        let _ = tokio::time::timeout(LOOK_AGAIN, self.freed.notified()).await;
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn of(&self, address: IpAddr) -> usize {
        self.of_address.get(&address).copied().unwrap_or(0)
    }

    fn seat(&mut self, seat: Seat) -> u64 {
        self.next += 1;
        if let Some(address) = seat.address {
            *self.of_address.entry(address).or_default() += 1;
        }
        self.for_probes += usize::from(seat.for_probes);
        self.seats.insert(self.next, seat);
        self.next
    }

    /// Of the clients among `which` that may go for a newcomer, one of the address with the most connections
    /// that has been waited for the longest.
    fn next_to_go(&self, newcomer: &Newcomer<'_>, which: impl Fn(&Seat) -> bool) -> Option<u64> {
        let seats = self.seats.iter().filter(|(_, seat)| which(seat));
        let can_go = seats.filter_map(|(number, seat)| {
            let neighbours = seat.address.map_or(0, |address| self.of(address));
            let has_many = neighbours > newcomer.own.saturating_add(1);
            let waited = seat.exchange.waited(newcomer.now);
            let goes = waited.is_overdue(has_many, newcomer.timeouts);
            goes.then_some(((neighbours, waited.is_idle, waited.time), *number))
        });
        can_go.max().map(|(_, number)| number)
    }

    /// The last to come of the address with the most connections, if those are more than its share and the
    /// newcomer is somebody else: one that waits for its turn, rather than one whose answer is on its way.
    fn beyond_its_share(&self, newcomer: Option<IpAddr>, share: usize) -> Option<u64> {
        let (address, _) = self.of_address.iter().find(|(_, count)| **count > share)?;
        if newcomer == Some(*address) {
            return None;
        }
        let is_its = |seat: &Seat| !seat.for_probes && seat.address == Some(*address);
        let seats = self.seats.iter().filter(|(_, seat)| is_its(seat));
        let rank = |seat: &Seat, number: u64| (seat.exchange.can_be_refused(), number);
        seats.max_by_key(|(number, seat)| rank(seat, **number)).map(|(number, _)| *number)
    }

    /// Frees a place; whoever has it is told to leave.
    fn free(&mut self, number: u64) {
        let Some(seat) = self.seats.remove(&number) else { return };
        if let Some(address) = seat.address
            && let Some(count) = self.of_address.get_mut(&address)
        {
            *count -= 1;
            if *count == 0 {
                self.of_address.remove(&address);
            }
        }
        self.for_probes -= usize::from(seat.for_probes);
        seat.leave.notify_one();
    }
}

impl Place {
    /// Resolves when the place was given to another.
    pub(super) async fn lost(&self) {
        self.leave.notified().await;
    }

    /// Has the request at work refused, and the connection end with its answer; whether there is one that can
    /// be.
    pub(super) fn refuse(&self) -> bool {
        let can_be = self.exchange.can_be_refused();
        if can_be {
            self.is_lost.store(true, Ordering::Release);
            self.refuse.notify_one();
        }
        can_be
    }

    /// Resolves when the request at work is to be refused.
    pub(super) async fn refused(&self) {
        self.refuse.notified().await;
    }

    /// Whether the connection ends with its next answer.
    pub(super) fn is_lost(&self) -> bool {
        self.is_lost.load(Ordering::Acquire)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.places.state().free(self.number);
        self.places.freed.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use super::{FOR_PROBES, Limits, Place, Places, Refused};
    use crate::timeouts::Timeouts;
    use std::net::{IpAddr, Ipv4Addr};
    use std::sync::Arc;
    use std::time::Duration;
    use tokio::time::{Instant, advance};

    const TIMEOUTS: fn() -> Timeouts = Timeouts::default;

    fn places(all: usize, address: usize) -> Arc<Places> {
        Places::new(Limits { all, address }, TIMEOUTS())
    }

    fn from(places: &Arc<Places>, last: u8) -> Result<Place, Refused> {
        let address = IpAddr::V4(Ipv4Addr::new(192, 0, 2, last));
        places.take(Some(address), Instant::now())
    }

    /// Begins a request whose body is at an end: from now on the client waits for us.
    fn work(place: &Place) -> impl Sized + use<> {
        place.exchange.incoming(http_body_util::Empty::<bytes::Bytes>::new())
    }

    #[tokio::test(start_paused = true)]
    async fn silent_clients_give_up_their_places_and_those_at_work_do_not() {
        let places = places(2, 2);
        let (silent, busy) = (from(&places, 1).unwrap(), from(&places, 2).unwrap());
        let _request = work(&busy);
        let told_at_once = from(&places, 3).unwrap();
        assert!(told_at_once.for_probes, "a client has a second to say something");
        drop(told_at_once);
        advance(TIMEOUTS().head_when_full).await;
        let third = from(&places, 3).unwrap();
        assert!(!third.for_probes);
        silent.lost().await;
        let _request = work(&third);
        advance(Duration::from_secs(60)).await;
        assert!(from(&places, 4).unwrap().for_probes, "nobody is ended who is at work");
    }

    #[tokio::test(start_paused = true)]
    async fn an_address_has_its_share_and_gives_up_its_own_silent_ones() {
        let places = places(4, 2);
        let kept: Vec<_> = (0..2).map(|_| from(&places, 1).unwrap()).collect();
        assert_eq!(from(&places, 1).unwrap_err(), Refused::Address);
        assert!(from(&places, 2).is_ok());
        advance(TIMEOUTS().head_when_full).await;
        assert!(from(&places, 1).is_ok(), "in place of its own");
        assert_eq!(places.taken(), 1, "the new ones are gone, and one of the old");
        drop(kept);
        assert_eq!(places.taken(), 0);
        assert!((0..9).all(|_| places.take(None, Instant::now()).is_ok()), "a proxy has no share");
    }

    #[tokio::test(start_paused = true)]
    async fn the_address_with_the_most_connections_goes_first() {
        let places = places(4, 4);
        let lone = from(&places, 1).unwrap();
        let many: Vec<_> = (0..3).map(|_| from(&places, 2).unwrap()).collect();
        advance(Duration::from_secs(5)).await;
        let _new: Vec<_> = (0..2).map(|_| from(&places, 3).unwrap()).collect();
        let mut lost = many.iter().map(|place| Box::pin(place.lost()));
        let gone = lost.by_ref().filter_map(futures_ready).count();
        assert_eq!(gone, 2);
        assert!(futures_ready(Box::pin(lone.lost())).is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn an_only_address_has_all_places_and_gives_a_quarter_back_to_others() {
        let places = places(8, usize::MAX);
        let all: Vec<_> = (0..8).map(|_| from(&places, 1).unwrap()).collect();
        let _at_work: Vec<_> = all.iter().map(work).collect();
        assert!(!all.iter().any(|place| place.for_probes));
        assert!(from(&places, 1).unwrap().for_probes, "its own do not go for it");
        let others: Vec<_> = (0..2).map(|_| from(&places, 2).unwrap()).collect();
        assert!(!others.iter().any(|place| place.for_probes));
        for refused in [7, 6] {
            assert!(futures_ready(Box::pin(all[refused].lost())).is_some());
            assert!(all[refused].refuse(), "it is answered");
        }
        let _at_work = others.iter().map(work).collect::<Vec<_>>();
        assert!(from(&places, 2).unwrap().for_probes, "three quarters stay");
    }

    #[tokio::test(start_paused = true)]
    async fn silent_clients_of_one_address_go_at_once_for_another() {
        let places = places(4, usize::MAX);
        let mut many = vec![from(&places, 1).unwrap()];
        advance(Duration::from_millis(1)).await;
        many.extend((0..3).map(|_| from(&places, 1).unwrap()));
        advance(TIMEOUTS().head_of_many_when_full).await;
        assert!(from(&places, 1).unwrap().for_probes, "not for its own");
        assert!(!from(&places, 2).unwrap().for_probes);
        assert!(futures_ready(Box::pin(many[0].lost())).is_some(), "the one that waited longest");
    }

    #[tokio::test(start_paused = true)]
    async fn places_for_probes_are_few_and_change_hands() {
        let places = places(0, 100);
        let probes: Vec<_> = (0..FOR_PROBES).map(|_| from(&places, 1).unwrap()).collect();
        assert!(probes.iter().all(|place| place.for_probes));
        assert_eq!(from(&places, 1).unwrap_err(), Refused::Full);
        advance(TIMEOUTS().head_when_full).await;
        let places = Arc::clone(&places);
        let waited = places.wait(Some(IpAddr::V4(Ipv4Addr::LOCALHOST))).await;
        assert!(waited.is_ok_and(|place| place.for_probes));
    }

    fn futures_ready<F: Future + Unpin>(mut future: F) -> Option<F::Output> {
        let mut context = std::task::Context::from_waker(std::task::Waker::noop());
        match std::pin::Pin::new(&mut future).poll(&mut context) {
            std::task::Poll::Ready(output) => Some(output),
            std::task::Poll::Pending => None,
        }
    }
}
