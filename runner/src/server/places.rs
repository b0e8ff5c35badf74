//! A limit on the number of connections. A connection holds a place, and so does each stream of HTTP/2; when
//! all are taken and another client comes, one connection may be evicted.
//!
//! While places are free, every client gets one. Otherwise the client that has been waited for the longest is
//! evicted, from the address with the most connections: a silent one after a second, or sooner if its address
//! has more connections than the newcomer's, and a slow one after a few seconds (`timeouts`). A request at
//! work is evicted only if its address holds more than three quarters of all places. If no connection can be
//! evicted, a few extra places answer probes and refuse all other requests. Sockets are left to `connection`.

use super::exchange::Exchange;
use crate::timeouts::Timeouts;
use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::Instant;

/// Extra places, for probes.
pub(super) const FOR_PROBES: usize = 8;

/// How often a client that waits for a place tries again: another may have become slow meanwhile.
const LOOK_AGAIN: Duration = Duration::from_millis(50);

/// How many connections there may be.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    /// In all, without the places for probes.
    pub(super) all: usize,
    /// Of one address, even while places are free.
    pub(super) address: usize,
}

impl Limits {
    /// Connections that one address keeps when others need places.
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
    /// Notified when a place comes free.
    freed: Notify,
}

#[derive(Debug, Default)]
struct State {
    next: u64,
    connections: HashMap<u64, Connection>,
    per_address: HashMap<IpAddr, usize>,
    for_probes: usize,
}

#[derive(Debug)]
struct Connection {
    exchange: Arc<Exchange>,
    evicted: Arc<Notify>,
    /// The client's address; `None` for connections without a limit per address, such as a trusted proxy's.
    address: Option<IpAddr>,
    for_probes: bool,
}

/// A connection's place, until dropped.
#[derive(Debug)]
pub(super) struct Place {
    places: Arc<Places>,
    number: u64,
    evicted: Arc<Notify>,
    refuse: Notify,
    is_lost: AtomicBool,
    pub(super) exchange: Arc<Exchange>,
    /// Whether only probes are answered on the connection.
    pub(super) for_probes: bool,
}

/// A client for which another may be evicted.
struct Newcomer<'a> {
    /// Other connections of its address.
    own: usize,
    now: Instant,
    timeouts: &'a Timeouts,
}

/// Why there is no place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refused {
    /// The address has as many connections as it may.
    Address,
    /// No connection can be evicted.
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

    /// Takes a place that is free, or that of a connection it evicts.
    pub(super) fn take(
        self: &Arc<Self>,
        address: Option<IpAddr>,
        now: Instant,
    ) -> Result<Place, Refused> {
        let mut state = self.state();
        let own = address.map_or(0, |address| state.count(address));
        let newcomer = Newcomer { own, now, timeouts: &self.timeouts };
        if own >= self.limits.address {
            let overdue =
                state.next_to_evict(&newcomer, |connection| connection.address == address);
            state.free(overdue.ok_or(Refused::Address)?);
        }
        let mut for_probes = false;
        if state.connections.len() - state.for_probes >= self.limits.all {
            let overdue = state.next_to_evict(&newcomer, |connection| !connection.for_probes);
            match overdue.or_else(|| state.over_its_share(address, self.limits.share())) {
                Some(number) => state.free(number),
                None => for_probes = true,
            }
        }
        if for_probes && state.for_probes >= FOR_PROBES {
            let overdue = state.next_to_evict(&newcomer, |connection| connection.for_probes);
            state.free(overdue.ok_or(Refused::Full)?);
        }
        let (exchange, evicted) = (Arc::new(Exchange::default()), Arc::new(Notify::new()));
        let connection = Connection {
            exchange: Arc::clone(&exchange),
            evicted: Arc::clone(&evicted),
            address,
            for_probes,
        };
        let number = state.add(connection);
        Ok(Place {
            places: Arc::clone(self),
            number,
            evicted,
            refuse: Notify::new(),
            is_lost: AtomicBool::new(false),
            exchange,
            for_probes,
        })
    }

    /// Evicts every connection whose client reads its answer, or sends its body, too slowly.
    pub(super) fn end_slow(&self) {
        self.evict_among(|connection| connection.exchange.at_work());
    }

    /// Evicts every connection whose client is idle or too slow, when the service stops.
    pub(super) fn end_overdue(&self) {
        self.evict_among(|_| true);
    }

    fn evict_among(&self, which: impl Fn(&Connection) -> bool) {
        let mut state = self.state();
        // With this count no address has more connections than the newcomer's.
        let newcomer = Newcomer { own: usize::MAX, now: Instant::now(), timeouts: &self.timeouts };
        while let Some(overdue) = state.next_to_evict(&newcomer, &which) {
            state.free(overdue);
        }
        drop(state);
        self.freed.notify_waiters();
    }

    /// Places taken now.
    pub(super) fn taken(&self) -> usize {
        self.state().connections.len()
    }

    /// Resolves when a place comes free, or after a moment.
    pub(super) async fn change(&self) {
        let _ = tokio::time::timeout(LOOK_AGAIN, self.freed.notified()).await;
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn count(&self, address: IpAddr) -> usize {
        self.per_address.get(&address).copied().unwrap_or(0)
    }

    fn add(&mut self, connection: Connection) -> u64 {
        self.next += 1;
        if let Some(address) = connection.address {
            *self.per_address.entry(address).or_default() += 1;
        }
        self.for_probes += usize::from(connection.for_probes);
        self.connections.insert(self.next, connection);
        self.next
    }

    /// The connection among `which` to evict first for a newcomer: of the address with the most connections,
    /// the one that has been waited for the longest.
    fn next_to_evict(
        &self,
        newcomer: &Newcomer<'_>,
        which: impl Fn(&Connection) -> bool,
    ) -> Option<u64> {
        let connections = self.connections.iter().filter(|(_, connection)| which(connection));
        let candidates = connections.filter_map(|(number, connection)| {
            let neighbours = connection.address.map_or(0, |address| self.count(address));
            let has_many = neighbours > newcomer.own.saturating_add(1);
            let waited = connection.exchange.waited(newcomer.now);
            let is_evictable = waited.is_overdue(has_many, newcomer.timeouts);
            is_evictable.then_some(((neighbours, waited.is_idle, waited.time), *number))
        });
        candidates.max().map(|(_, number)| number)
    }

    /// If another address than the newcomer's has more than its share, its newest connection, preferably one
    /// whose answer has not begun.
    fn over_its_share(&self, newcomer: Option<IpAddr>, share: usize) -> Option<u64> {
        let (address, _) = self.per_address.iter().find(|(_, count)| **count > share)?;
        if newcomer == Some(*address) {
            return None;
        }
        let is_its = |connection: &Connection| {
            !connection.for_probes && connection.address == Some(*address)
        };
        let connections = self.connections.iter().filter(|(_, connection)| is_its(connection));
        let rank =
            |connection: &Connection, number: u64| (connection.exchange.can_be_refused(), number);
        connections
            .max_by_key(|(number, connection)| rank(connection, **number))
            .map(|(number, _)| *number)
    }

    /// Frees a place and tells its connection to end.
    fn free(&mut self, number: u64) {
        let Some(connection) = self.connections.remove(&number) else { return };
        if let Some(address) = connection.address
            && let Some(count) = self.per_address.get_mut(&address)
        {
            *count -= 1;
            if *count == 0 {
                self.per_address.remove(&address);
            }
        }
        self.for_probes -= usize::from(connection.for_probes);
        connection.evicted.notify_one();
    }
}

impl Place {
    /// Resolves when the place was given to another connection.
    pub(super) async fn lost(&self) {
        self.evicted.notified().await;
    }

    /// The places that this one is among.
    pub(super) fn places(&self) -> &Arc<Places> {
        &self.places
    }

    /// Refuses the request at work, and ends the connection after that answer. Returns whether there is a
    /// request that can still be refused.
    pub(super) fn refuse(&self) -> bool {
        let can_be = self.exchange.can_be_refused();
        if can_be {
            self.is_lost.store(true, Ordering::Release);
            self.refuse.notify_one();
        }
        can_be
    }

    /// Resolves when the request at work must be refused.
    pub(super) async fn refused(&self) {
        self.refuse.notified().await;
    }

    /// Whether the connection ends after its next answer.
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

    /// Begins a request with an empty body: from now on the client waits for the server.
    fn work(place: &Place) -> impl Sized + use<> {
        place.exchange.incoming(http_body_util::Empty::<bytes::Bytes>::new())
    }

    #[tokio::test(start_paused = true)]
    async fn silent_clients_are_evicted_and_those_at_work_are_not() {
        let places = places(2, 2);
        let (silent, busy) = (from(&places, 1).unwrap(), from(&places, 2).unwrap());
        let _request = work(&busy);
        let probe = from(&places, 3).unwrap();
        assert!(probe.for_probes, "a client has a second to send something");
        drop(probe);
        advance(TIMEOUTS().head_when_full).await;
        let third = from(&places, 3).unwrap();
        assert!(!third.for_probes);
        silent.lost().await;
        let _request = work(&third);
        advance(Duration::from_secs(60)).await;
        assert!(from(&places, 4).unwrap().for_probes, "requests at work are not evicted");
    }

    #[tokio::test(start_paused = true)]
    async fn an_address_over_its_limit_evicts_its_own_silent_connections() {
        let places = places(4, 2);
        let kept: Vec<_> = (0..2).map(|_| from(&places, 1).unwrap()).collect();
        assert_eq!(from(&places, 1).unwrap_err(), Refused::Address);
        assert!(from(&places, 2).is_ok());
        advance(TIMEOUTS().head_when_full).await;
        assert!(from(&places, 1).is_ok(), "its own silent connection was evicted");
        assert_eq!(places.taken(), 1, "the new ones are dropped, and one of the old is evicted");
        drop(kept);
        assert_eq!(places.taken(), 0);
        assert!(
            (0..9).all(|_| places.take(None, Instant::now()).is_ok()),
            "a proxy has no limit per address"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn the_address_with_the_most_connections_is_evicted_first() {
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
    async fn one_address_may_take_all_places_and_loses_a_quarter_to_others() {
        let places = places(8, usize::MAX);
        let all: Vec<_> = (0..8).map(|_| from(&places, 1).unwrap()).collect();
        let _at_work: Vec<_> = all.iter().map(work).collect();
        assert!(!all.iter().any(|place| place.for_probes));
        assert!(from(&places, 1).unwrap().for_probes, "its own requests are not evicted for it");
        let others: Vec<_> = (0..2).map(|_| from(&places, 2).unwrap()).collect();
        assert!(!others.iter().any(|place| place.for_probes));
        for refused in [7, 6] {
            assert!(futures_ready(Box::pin(all[refused].lost())).is_some());
            assert!(all[refused].refuse(), "its request is answered");
        }
        let _at_work = others.iter().map(work).collect::<Vec<_>>();
        assert!(from(&places, 2).unwrap().for_probes, "three quarters stay");
    }

    #[tokio::test(start_paused = true)]
    async fn silent_clients_of_a_crowded_address_are_evicted_at_once() {
        let places = places(4, usize::MAX);
        let mut many = vec![from(&places, 1).unwrap()];
        advance(Duration::from_millis(1)).await;
        many.extend((0..3).map(|_| from(&places, 1).unwrap()));
        advance(TIMEOUTS().head_of_many_when_full).await;
        assert!(from(&places, 1).unwrap().for_probes, "its own are not evicted for it");
        assert!(!from(&places, 2).unwrap().for_probes);
        assert!(
            futures_ready(Box::pin(many[0].lost())).is_some(),
            "the one waited for the longest"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn places_for_probes_are_limited_and_reused() {
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
