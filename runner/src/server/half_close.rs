//! A client that ends its half of the connection while its request is answered. It may read on, as after
//! `nc -N`, or it may have left: both look alike until it is sent something.
//!
//! So it is sent the first bytes of its answer, one now and then, as soon as that takes longer than a moment.
//! Every answer begins with the same ones, so a client that reads on sees nothing unusual, and the connection
//! of one that has left fails at the byte after the first. When and which only; `socket` writes them.

use std::pin::Pin;
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;
use tokio::time::{Sleep, sleep};

/// What every answer begins with, of HTTP/1.0 as of HTTP/1.1.
const BEGINNING: &[u8] = b"HTTP/1.";

/// How long an answer may take before its first byte goes out, and after that the next one; from then on each
/// pause is twice as long as the one before. The last of the seven goes out after three seconds.
const PAUSE: Duration = Duration::from_millis(50);

/// In this time whoever reads a body has been given what came of it, or has more urgent things to do.
const TURN: Duration = Duration::from_millis(1);

/// How much of the answer at work was sent ahead of it.
#[derive(Debug, Default)]
pub(super) struct HalfClose {
    sent: usize,
    wait: Option<Pin<Box<Sleep>>>,
    reader: Option<Waker>,
    body: Option<Pin<Box<Sleep>>>,
}

impl HalfClose {
    /// The client has ended its half, and not all of its request was read, as far as is known: that may be
    /// seen again once this is ready.
    pub(super) fn poll_body(&mut self, context: &mut Context<'_>) -> Poll<()> {
        let wait = self.body.get_or_insert_with(|| Box::pin(sleep(TURN)));
        ready!(wait.as_mut().poll(context));
        self.body = Some(Box::pin(sleep(PAUSE)));
        Poll::Ready(())
    }

    /// The client has ended its half, and its request is whole and at work: the byte to send next, once it is
    /// due. Pending where nothing may be sent, or all was, until [`Self::answered`].
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

    /// That byte was sent.
    pub(super) fn sent(&mut self) {
        let doublings = u32::try_from(self.sent).unwrap_or(0);
        self.wait = Some(Box::pin(sleep(PAUSE * 2_u32.pow(doublings))));
        self.sent += 1;
    }

    /// What was sent of the answer before it was there.
    pub(super) fn ahead(&self) -> &'static [u8] {
        BEGINNING.get(..self.sent).unwrap_or_default()
    }

    /// The answer has begun, and goes on from there.
    pub(super) fn begun(&mut self) {
        (self.sent, self.wait) = (0, None);
    }

    /// The answer has ended: whoever waits to read is told that nothing more comes.
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
