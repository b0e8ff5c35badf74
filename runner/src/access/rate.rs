//! A rate limit for each client: GCRA, the leaky bucket that keeps one instant for each client, in a table of
//! bounded size.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::num::NonZeroU32;
use std::str::FromStr;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// A number of requests in a time, in one burst or spread.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    requests: NonZeroU32,
    per: Duration,
}

/// A text that is not a rate.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("write it as requests per s, m or h, such as 10/s or 100/m")]
pub struct RateError;

impl FromStr for Rate {
    type Err = RateError;

    fn from_str(text: &str) -> Result<Self, RateError> {
        let (requests, unit) = text.split_once('/').ok_or(RateError)?;
        let seconds = match unit.trim() {
            "s" => 1,
            "m" => 60,
            "h" => 3600,
            _ => return Err(RateError),
        };
        let requests = requests.trim().parse().map_err(|_| RateError)?;
        Ok(Self { requests, per: Duration::from_secs(seconds) })
    }
}

/// Clients that have a limit of their own, half a megabyte in all; those beyond share one.
const MOST: usize = 8192;

/// The address that clients beyond the table count for.
const OTHERS: IpAddr = IpAddr::V6(Ipv6Addr::UNSPECIFIED);

/// The requests of each client.
#[derive(Debug)]
pub(super) struct Limiter {
    rate: Rate,
    /// For each client, GCRA's theoretical arrival time of its next request.
    arrival: Mutex<HashMap<IpAddr, Instant>>,
}

impl Limiter {
    pub(super) fn new(rate: Rate) -> Self {
        Self { rate, arrival: Mutex::default() }
    }

    /// Counts a request.
    ///
    /// # Errors
    /// How long the client has to wait for its next.
    pub(super) fn ask(&self, client: IpAddr) -> Result<(), Duration> {
        self.ask_at(client, Instant::now())
    }

    fn ask_at(&self, client: IpAddr, now: Instant) -> Result<(), Duration> {
        let mut arrival = self.arrival.lock().unwrap_or_else(PoisonError::into_inner);
        let mut client = client;
        if !arrival.contains_key(&client) && arrival.len() >= MOST {
            arrival.retain(|_, until| *until > now);
            if arrival.len() >= MOST {
                client = OTHERS;
            }
        }
        let before = arrival.get(&client).copied().unwrap_or(now).max(now);
        let after = before + self.rate.per / self.rate.requests.get();
        let wait = after.duration_since(now).saturating_sub(self.rate.per);
        if wait.is_zero() {
            arrival.insert(client, after);
            return Ok(());
        }
        Err(wait)
    }
}

#[cfg(test)]
mod tests {
    use super::{Limiter, MOST, Rate};
    use std::net::{IpAddr, Ipv4Addr};
    use std::time::{Duration, Instant};

    fn limiter(rate: &str) -> Limiter {
        Limiter::new(rate.parse().unwrap())
    }

    #[test]
    fn rates_are_read_as_written() {
        for wrong in ["", "5", "0/s", "-1/s", "5/d", "x/s", "5/"] {
            assert!(wrong.parse::<Rate>().is_err(), "{wrong:?}");
        }
        assert!("600 / m".parse::<Rate>().is_ok());
    }

    #[test]
    fn a_burst_is_allowed_and_then_one_request_at_a_time() {
        let (limiter, start) = (limiter("3/s"), Instant::now());
        let client = IpAddr::V4(Ipv4Addr::LOCALHOST);
        let ask = |millis| limiter.ask_at(client, start + Duration::from_millis(millis));
        assert!((0..3).all(|_| ask(0).is_ok()));
        let wait = ask(0).unwrap_err();
        assert!(wait > Duration::from_millis(300) && wait < Duration::from_millis(340), "{wait:?}");
        assert!(ask(200).is_err() && ask(340).is_ok() && ask(340).is_err());
        let other = IpAddr::V4(Ipv4Addr::BROADCAST);
        assert!(limiter.ask_at(other, start).is_ok(), "others have their own rate");
        assert_eq!(
            (0..5).filter(|_| ask(10_000).is_ok()).count(),
            3,
            "a full burst is allowed again in time"
        );
    }

    #[test]
    fn the_table_is_bounded() {
        let (limiter, start) = (limiter("1/h"), Instant::now());
        let address = |n: u32| IpAddr::V4(Ipv4Addr::from_bits(n));
        let most = u32::try_from(MOST).unwrap();
        assert!((0..most).all(|n| limiter.ask_at(address(n), start).is_ok()));
        assert!(limiter.ask_at(address(most), start).is_ok(), "the first of the others");
        assert!(limiter.ask_at(address(most + 1), start).is_err(), "the others share one rate");
        assert!(limiter.arrival.lock().unwrap().len() <= MOST + 1);
        let later = start + Duration::from_secs(3601);
        assert!(limiter.ask_at(address(most + 1), later).is_ok());
        assert_eq!(
            limiter.arrival.lock().unwrap().len(),
            1,
            "entries that have expired are removed"
        );
    }
}
