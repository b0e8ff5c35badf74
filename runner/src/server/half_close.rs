//! A client that says while its request is answered that no more will come. It may have closed one half of the
//! connection and read on, as `nc -N` does, or it may have left: both look alike until it is sent something.
//!
//! One that says so as soon as its request is out may read on. If the answer takes longer than a moment, the
//! client is sent `100 Continue`, which every client of HTTP/1.1 passes over (RFC 9110, section 15.2): one that
//! has left resets the connection then. Over TLS a reset shows only in what is sent after it, so it is asked
//! twice. One of HTTP/1.0 cannot be asked, and is taken to have left if its answer takes long. One that ends
//! its half later than that has left.

use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::time::{Instant, Sleep, sleep};

/// How soon after the last bytes of a request its end means that the client may read on.
const SOON: Duration = Duration::from_millis(250);
/// How long the answer may take before it is asked whether the client is still there, and again after that.
const ASK_AFTER: Duration = Duration::from_millis(50);
/// How many times the client is asked.
const ASKS: u32 = 2;
/// How often it is seen whether the connection was reset, once the client has been asked.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// How long an answer may take for a client that cannot be asked.
const WITHOUT_ASKING: Duration = Duration::from_secs(2);

/// What a client that may still be there is sent.
pub(super) const ARE_YOU_THERE: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";

/// What is known of the client's end.
#[derive(Debug)]
pub(super) struct HalfClose {
    last_bytes: Instant,
    asked: u32,
    wait: Option<Pin<Box<Sleep>>>,
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
        Self { last_bytes: Instant::now(), asked: 0, wait: None }
    }
}

impl HalfClose {
    /// The client has sent something.
    pub(super) fn bytes_came(&mut self) {
        *self = Self::default();
    }

    /// The client has ended its half, and its request is whole and at work: what to do once it is ready.
    pub(super) fn poll_next(
        &mut self,
        can_be_asked: bool,
        context: &mut Context<'_>,
    ) -> Poll<Step> {
        if self.wait.is_none() && self.last_bytes.elapsed() > SOON {
            return Poll::Ready(Step::Left);
        }
        let first = if can_be_asked { ASK_AFTER } else { WITHOUT_ASKING };
        let wait = self.wait.get_or_insert_with(|| Box::pin(sleep(first)));
        ready!(wait.as_mut().poll(context));
        if !can_be_asked {
            return Poll::Ready(Step::Left);
        }
        self.asked += 1;
        let (step, next) = match self.asked {
            asked if asked < ASKS => (Step::Ask, ASK_AFTER),
            ASKS => (Step::Ask, LOOK_EVERY),
            _ => (Step::Look, LOOK_EVERY),
        };
        wait.as_mut().reset(Instant::now() + next);
        Poll::Ready(step)
    }
}

#[cfg(test)]
mod tests {
    use super::{ASK_AFTER, HalfClose, LOOK_EVERY, SOON, Step, WITHOUT_ASKING};
    use std::future::poll_fn;
    use std::time::Duration;
    use tokio::time::{Instant, sleep};

    #[tokio::test(start_paused = true)]
    async fn who_ends_at_once_may_read_on_and_is_asked() {
        let mut half = HalfClose::default();
        let start = Instant::now();
        let steps = [
            (Step::Ask, ASK_AFTER),
            (Step::Ask, 2 * ASK_AFTER),
            (Step::Look, 2 * ASK_AFTER + LOOK_EVERY),
            (Step::Look, 2 * ASK_AFTER + 2 * LOOK_EVERY),
        ];
        for (step, after) in steps {
            assert_eq!(poll_fn(|context| half.poll_next(true, context)).await, step);
            assert_eq!(start.elapsed(), after);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn who_cannot_be_asked_is_given_some_time() {
        let mut half = HalfClose::default();
        let start = Instant::now();
        assert_eq!(poll_fn(|context| half.poll_next(false, context)).await, Step::Left);
        assert_eq!(start.elapsed(), WITHOUT_ASKING);
    }

    #[tokio::test(start_paused = true)]
    async fn who_ends_later_has_left() {
        let mut half = HalfClose::default();
        half.bytes_came();
        sleep(SOON + Duration::from_millis(1)).await;
        assert_eq!(poll_fn(|context| half.poll_next(true, context)).await, Step::Left);
    }
}
