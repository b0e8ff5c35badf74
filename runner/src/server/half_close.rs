//! Clients that end their sending half while their request is being answered. Such a client may go on
//! reading, as after `nc -N`, or may be gone: the server cannot tell until it sends something.
//!
//! So if the answer takes longer than a moment, its first bytes are sent ahead, one at a time. All answers
//! begin with the same bytes, so a client that reads sees nothing unusual; for one that is gone, the second
//! byte fails. This module decides when to send which byte; `socket` writes it.

use std::pin::Pin;
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;
use tokio::time::{Sleep, sleep};

/// The beginning of every answer, of HTTP/1.0 and HTTP/1.1.
const BEGINNING: &[u8] = b"HTTP/1.";

/// The pause before the first byte, and before the second; each further pause is twice as long as the one
/// before. The last of the seven bytes is sent after three seconds.
const PAUSE: Duration = Duration::from_millis(50);

/// Time for the body's reader to take the bytes that were read last.
const TURN: Duration = Duration::from_millis(1);

/// The bytes of the answer that were sent ahead, and the timers.
#[derive(Debug, Default)]
pub(super) struct HalfClose {
    sent: usize,
    wait: Option<Pin<Box<Sleep>>>,
    reader: Option<Waker>,
    body: Option<Pin<Box<Sleep>>>,
}

impl HalfClose {
    /// The client has ended its half and, as far as known, not all of its request was read. Check that again
    /// once this is ready.
    pub(super) fn poll_body(&mut self, context: &mut Context<'_>) -> Poll<()> {
        let wait = self.body.get_or_insert_with(|| Box::pin(sleep(TURN)));
        ready!(wait.as_mut().poll(context));
        self.body = Some(Box::pin(sleep(PAUSE)));
        Poll::Ready(())
    }

    /// The client has ended its half, and its request is complete: the byte to send next, once it is due.
    /// Pending if nothing may be sent, or everything was, until [`Self::answered`].
    pub(super) fn poll_next(
        &mut self,
        may_send: bool,
        context: &mut Context<'_>,
    ) -> Poll<&'static [u8]> {
        self.reader = Some(context.waker().clone());
        let Some(next) = BEGINNING.get(self.sent..=self.sent).filter(|_| may_send) else {
            return Poll::Pending;
        };
        let wait = self.wait.get_or_insert_with(|| Box::pin(sleep(PAUSE)));
        ready!(wait.as_mut().poll(context));
        self.wait = None;
        Poll::Ready(next)
    }

    /// Notes that the byte was sent.
    pub(super) fn sent(&mut self) {
        let doublings = u32::try_from(self.sent).unwrap_or(0);
        self.wait = Some(Box::pin(sleep(PAUSE * 2_u32.pow(doublings))));
        self.sent += 1;
    }

    /// The bytes sent ahead of the answer.
    pub(super) fn ahead(&self) -> &'static [u8] {
        BEGINNING.get(..self.sent).unwrap_or_default()
    }

    /// Notes that the answer has begun, and includes those bytes.
    pub(super) fn begun(&mut self) {
        (self.sent, self.wait) = (0, None);
    }

    /// Notes that the answer has ended, and wakes the pending read.
    pub(super) fn answered(&mut self) {
        if let Some(reader) = self.reader.take() {
            reader.wake();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{BEGINNING, HalfClose, PAUSE};
    use std::future::poll_fn;
    use std::time::Duration;
    use tokio::time::{Instant, timeout};

    #[tokio::test(start_paused = true)]
    async fn an_answers_beginning_goes_out_byte_by_byte_and_ends() {
        let (mut half, start) = (HalfClose::default(), Instant::now());
        let mut sent: Vec<u8> = Vec::new();
        for after in [1, 2, 4, 8, 16, 32, 64] {
            sent.extend(poll_fn(|context| half.poll_next(true, context)).await);
            half.sent();
            assert_eq!(start.elapsed(), PAUSE * after);
        }
        assert_eq!(sent, BEGINNING);
        let more = poll_fn(|context| half.poll_next(true, context));
        assert!(timeout(Duration::from_secs(60), more).await.is_err());
        assert_eq!(half.ahead(), BEGINNING);
        half.begun();
        assert!(half.ahead().is_empty());
    }
}
