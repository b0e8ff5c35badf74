//! A client that says while its request is answered that no more will come. It may have closed one half of the
//! connection and read on, as `nc -N` does, or it may have left: both look alike until it is sent something.
//!
//! One that says so as soon as its request is out is taken to read on. If the answer takes long, it is sent
//! `100 Continue`, which every client of HTTP/1.1 passes over (RFC 9110, section 15.2): one that has left
//! resets the connection then. One that says so later has left.

use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::time::{Instant, Sleep, sleep};

/// How soon after the last bytes of a request its end means that the client reads on.
const SOON: Duration = Duration::from_millis(250);
/// How long the answer may take before it is asked whether the client is still there.
const ASK_AFTER: Duration = Duration::from_secs(2);
/// How long a reset takes to arrive, at most.
const REPLY: Duration = Duration::from_millis(500);

/// What a client that may still be there is sent.
pub(super) const ARE_YOU_THERE: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";

/// What is known of the client's end.
#[derive(Debug)]
pub(super) struct HalfClose {
    last_bytes: Instant,
    wait: Option<(Step, Pin<Box<Sleep>>)>,
}

/// What to do next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    /// Send [`ARE_YOU_THERE`].
    Ask,
    /// See whether the connection was reset.
    Look,
    /// It has left: the request is to be given up.
    Left,
}

impl Default for HalfClose {
    fn default() -> Self {
        Self { last_bytes: Instant::now(), wait: None }
    }
}

impl HalfClose {
    /// The client has sent something.
    pub(super) fn bytes_came(&mut self) {
        self.last_bytes = Instant::now();
        self.wait = None;
    }

    /// The client has ended its half, and its request is whole and at work: what to do once it is ready.
    pub(super) fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<Step> {
        if self.wait.is_none() && self.last_bytes.elapsed() > SOON {
            return Poll::Ready(Step::Left);
        }
        let (step, wait) = self.wait.get_or_insert_with(|| (Step::Ask, Box::pin(sleep(ASK_AFTER))));
        ready!(wait.as_mut().poll(context));
        let now = *step;
        *step = Step::Look;
        wait.as_mut().reset(Instant::now() + REPLY);
        Poll::Ready(now)
    }
}

#[cfg(test)]
mod tests {
    use super::{ASK_AFTER, HalfClose, REPLY, SOON, Step};
    use std::future::poll_fn;
    use std::time::Duration;
    use tokio::time::{Instant, sleep};

    #[tokio::test(start_paused = true)]
    async fn who_ends_at_once_reads_on_and_is_asked_later() {
        let mut half = HalfClose::default();
        let start = Instant::now();
        assert_eq!(poll_fn(|context| half.poll_next(context)).await, Step::Ask);
        assert_eq!(start.elapsed(), ASK_AFTER);
        assert_eq!(poll_fn(|context| half.poll_next(context)).await, Step::Look);
        assert_eq!(start.elapsed(), ASK_AFTER + REPLY);
    }

    #[tokio::test(start_paused = true)]
    async fn who_ends_later_has_left() {
        let mut half = HalfClose::default();
        half.bytes_came();
        sleep(SOON + Duration::from_millis(1)).await;
        assert_eq!(poll_fn(|context| half.poll_next(context)).await, Step::Left);
    }
}
