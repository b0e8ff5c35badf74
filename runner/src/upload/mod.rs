//! Reads a request's body before the request gets a permit, so that no instance waits for a slow client.
//!
//! The memory of all uploads together is bounded (`room`); a body is freed piece by piece as the guest reads
//! it. The timeouts are those of `timeouts`.

mod room;

use crate::memory::TrackedBytes;
use crate::timeouts::{SLOWEST, Timeouts};
use bytes::{Bytes, BytesMut};
use http::HeaderMap;
use http_body_util::BodyExt;
use hyper::body::{Body, Frame, SizeHint};
use room::{Eviction, Room, Share};
use std::collections::VecDeque;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::time::Instant;

/// Room is taken in steps of so many bytes.
const STEP: u64 = 64 << 10;

/// The first bytes of a body, which take no room, so that a client that sends a byte now and then holds none.
/// They are part of the connection's memory.
const FREE: u64 = 16 << 10;

/// Bodies are copied into blocks of so many bytes: kept as they arrive, chunks of one byte each would take
/// forty times their size.
const BLOCK: usize = 16 << 10;

/// The pace of a body since it took room.
struct Pace {
    since: Instant,
    from: u64,
}

impl Pace {
    fn from(bytes: u64) -> Self {
        Self { since: Instant::now(), from: bytes }
    }

    fn check(&self, bytes: u64, grace: Duration) -> Result<(), UploadError> {
        let elapsed = self.since.elapsed();
        let owed = elapsed.saturating_sub(grace).as_secs().saturating_mul(SLOWEST);
        if bytes.saturating_sub(self.from) < owed {
            return Err(UploadError::TooSlow(elapsed));
        }
        Ok(())
    }
}

/// The outcome of `work`, if it ends in time.
async fn in_time<F: Future>(time: Duration, work: F) -> Result<F::Output, UploadError> {
    tokio::time::timeout(time, work).await.map_err(|_| UploadError::TooSlow(time))
}

/// The error for a client whose body was evicted.
fn eviction_error(why: Eviction, pace: Option<&Pace>) -> UploadError {
    match why {
        Eviction::Slow => {
            UploadError::TooSlow(pace.map_or(Duration::ZERO, |pace| pace.since.elapsed()))
        }
        Eviction::NoRoom => UploadError::NoRoom,
    }
}

/// Reads the bodies of all requests.
#[derive(Debug, Clone)]
pub struct Uploads {
    room: Arc<Room>,
    largest: u64,
    body_timeout: Duration,
    timeouts: Timeouts,
}

/// Why a body was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UploadError {
    /// It is too long.
    #[error("the body is longer than {limit} bytes; send less, or raise --max-body")]
    TooLarge {
        /// The largest body allowed, in bytes.
        limit: u64,
        /// The value of Content-Length, if there is one.
        announced: Option<u64>,
    },
    /// It came too slowly.
    #[error("the body had not arrived after {0:?}; send it again over a faster connection")]
    TooSlow(Duration),
    /// Other bodies hold all the room.
    #[error(
        "too many bodies are being sent at once; send it again after the seconds in Retry-After"
    )]
    NoRoom,
    /// It ended early: the client or the connection broke off.
    #[error("the body broke off; send it again")]
    BrokenOff,
}

impl Uploads {
    /// Bodies of at most `largest` bytes each and `room` bytes together, each within `body_timeout`.
    #[must_use]
    pub fn new(room: u64, largest: u64, body_timeout: Duration) -> Self {
        let timeouts = Timeouts::default();
        let room = Room::new(room.max(largest), timeouts);
        Self { room, largest, body_timeout, timeouts }
    }

    /// Longest body, in bytes.
    #[must_use]
    pub fn largest(&self) -> u64 {
        self.largest
    }

    /// Reads a whole body of a client at `address`; `None` for a request without an address.
    ///
    /// # Errors
    /// [`UploadError`]; at once if Content-Length announces too much.
    pub async fn read<B>(
        &self,
        headers: &HeaderMap,
        address: Option<IpAddr>,
        body: B,
    ) -> Result<Upload, UploadError>
    where
        B: Body<Data = Bytes>,
    {
        let announced = headers.get(http::header::CONTENT_LENGTH);
        let announced = announced.and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
        if announced.is_some_and(|length| length > self.largest) {
            return Err(UploadError::TooLarge { limit: self.largest, announced });
        }
        let mut upload = Upload {
            blocks: VecDeque::new(),
            trailers: None,
            left: 0,
            share: self.room.share(address, announced.unwrap_or(0)),
            counted: TrackedBytes::default(),
        };
        let in_time =
            tokio::time::timeout(self.body_timeout, self.read_into(&mut upload, body)).await;
        match in_time {
            Ok(read) => read?,
            Err(_) if upload.share.waits() => return Err(UploadError::NoRoom),
            Err(_) => return Err(UploadError::TooSlow(self.body_timeout)),
        }
        upload.share.complete();
        Ok(upload)
    }

    async fn read_into<B>(&self, upload: &mut Upload, body: B) -> Result<(), UploadError>
    where
        B: Body<Data = Bytes>,
    {
        let mut body = std::pin::pin!(body);
        let mut pace: Option<Pace> = None;
        loop {
            let next = async {
                tokio::select! {
                    frame = body.frame() => Ok(frame),
                    why = upload.share.evicted(), if upload.share.held() > 0 => Err(why),
                }
            };
            let next = in_time(self.timeouts.body_pause, next).await?;
            let Some(frame) = next.map_err(|why| eviction_error(why, pace.as_ref()))? else {
                return Ok(());
            };
            let frame = frame.map_err(|_| UploadError::BrokenOff)?;
            let piece = match frame.into_data() {
                Ok(piece) => piece,
                Err(frame) => {
                    upload.trailers = frame.into_trailers().ok();
                    continue;
                }
            };
            upload.left = upload.left.saturating_add(piece.len() as u64);
            if upload.left > self.largest {
                return Err(UploadError::TooLarge { limit: self.largest, announced: None });
            }
            upload.share.moved(piece.len() as u64);
            if upload.left > upload.share.held().max(FREE) {
                let to = upload.left.next_multiple_of(STEP).min(self.largest);
                let start = Instant::now();
                let grown = upload.share.grow(to).await;
                grown.map_err(|why| eviction_error(why, pace.as_ref()))?;
                let pace = pace.get_or_insert_with(|| Pace::from(upload.left));
                // The time it waited for room does not count against the client.
                pace.since += start.elapsed();
            }
            if let Some(pace) = &pace {
                pace.check(upload.left, self.timeouts.body_grace)?;
            }
            upload.counted.grow(piece.len() as u64);
            upload.keep(&piece);
        }
    }
}

/// A complete body, to be read by the guest.
#[derive(Debug)]
pub struct Upload {
    blocks: VecDeque<BytesMut>,
    /// The fields that followed the body. The server limits them as it limits those of a head.
    trailers: Option<HeaderMap>,
    left: u64,
    /// Released when the body is dropped.
    share: Share,
    counted: TrackedBytes,
}

impl Upload {
    fn keep(&mut self, mut piece: &[u8]) {
        while !piece.is_empty() {
            match self.blocks.back_mut().filter(|block| block.len() < BLOCK) {
                Some(block) => {
                    let (now, later) = piece.split_at(piece.len().min(BLOCK - block.len()));
                    block.extend_from_slice(now);
                    piece = later;
                }
                None => self.blocks.push_back(BytesMut::with_capacity(BLOCK)),
            }
        }
    }
}

impl Body for Upload {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let Some(block) = self.blocks.pop_front() else {
            return Poll::Ready(self.trailers.take().map(|fields| Ok(Frame::trailers(fields))));
        };
        self.left -= block.len() as u64;
        let needed = self.left;
        self.share.shrink(needed);
        Poll::Ready(Some(Ok(Frame::data(block.freeze()))))
    }

    fn is_end_stream(&self) -> bool {
        self.blocks.is_empty() && self.trailers.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left)
    }
}

#[cfg(test)]
mod tests {
    use super::{Timeouts, UploadError, Uploads};
    use bytes::Bytes;
    use http::{HeaderMap, HeaderValue, header};
    use http_body_util::{BodyExt, Full};
    use std::time::Duration;

    fn announcing(length: u64) -> HeaderMap {
        HeaderMap::from_iter([(header::CONTENT_LENGTH, HeaderValue::from(length))])
    }

    fn body(length: usize) -> Full<Bytes> {
        Full::from(vec![7; length])
    }

    #[tokio::test(start_paused = true)]
    async fn bodies_are_bounded_each_and_together() {
        let timeout = Duration::from_secs(1);
        let uploads = Uploads::new(80 << 10, 50 << 10, timeout);
        let (limit, large) = (50 << 10, 60_000);
        let announced = uploads.read(&announcing(60_000), None, body(0)).await.unwrap_err();
        assert_eq!(announced, UploadError::TooLarge { limit, announced: Some(60_000) });
        let unannounced = uploads.read(&HeaderMap::new(), None, body(large)).await.unwrap_err();
        assert_eq!(unannounced, UploadError::TooLarge { limit, announced: None });

        let first = uploads.read(&announcing(50_000), None, body(50_000)).await.unwrap();
        assert_eq!(uploads.room.free(), (80 - 50) << 10);
        let second = uploads.read(&announcing(50_000), None, body(50_000)).await.unwrap_err();
        assert_eq!(second, UploadError::NoRoom, "there is no room for both");
        let small = uploads.read(&announcing(9000), None, body(9000)).await.unwrap();
        assert_eq!(uploads.room.free(), (80 - 50) << 10, "a small body needs no room");
        drop(small);
        let bytes = first.collect().await.unwrap().to_bytes();
        assert_eq!(bytes, vec![7; 50_000]);
        assert_eq!(uploads.room.free(), 80 << 10, "all room is released");
    }

    /// A body that announces much and sends little holds no room, and fails if it pauses.
    #[tokio::test(start_paused = true)]
    async fn a_slow_body_keeps_no_room_from_others() {
        let uploads = Uploads::new(50 << 10, 50 << 10, Duration::from_secs(60));
        let request = announcing(50_000);
        let slow = std::pin::pin!(uploads.read(&request, None, Drips::new(Duration::from_secs(1))));
        let fast = async {
            tokio::time::sleep(Duration::from_secs(30)).await;
            uploads.read(&announcing(50_000), None, body(50_000)).await.map(drop)
        };
        let (slow, fast) = tokio::join!(slow, fast);
        assert_eq!(fast, Ok(()));
        assert_eq!(slow.map(drop), Err(UploadError::TooSlow(Duration::from_secs(60))));
        let stalled =
            uploads.read(&announcing(100), None, Drips::new(Duration::from_secs(9))).await;
        assert_eq!(stalled.map(drop), Err(UploadError::TooSlow(Timeouts::default().body_pause)));
    }

    /// A body in chunks of one byte takes as much memory as one in large chunks.
    #[tokio::test]
    async fn chunks_of_one_byte_are_kept_in_blocks() {
        struct Bits(usize);
        impl hyper::body::Body for Bits {
            type Data = Bytes;
            type Error = std::convert::Infallible;
            fn poll_frame(
                mut self: std::pin::Pin<&mut Self>,
                _: &mut std::task::Context<'_>,
            ) -> std::task::Poll<Option<Result<hyper::body::Frame<Bytes>, Self::Error>>>
            {
                let next = self.0.checked_sub(1).map(|left| {
                    self.0 = left;
                    Ok(hyper::body::Frame::data(Bytes::from_static(b"x")))
                });
                std::task::Poll::Ready(next)
            }
        }
        let uploads = Uploads::new(1 << 20, 1 << 20, Duration::from_secs(60));
        let upload = uploads.read(&HeaderMap::new(), None, Bits(100_000)).await.unwrap();
        assert_eq!(upload.blocks.len(), 100_000_usize.div_ceil(super::BLOCK));
        assert_eq!(upload.collect().await.unwrap().to_bytes(), vec![b'x'; 100_000]);
    }

    /// A body of single bytes, one every `every`.
    struct Drips {
        every: Duration,
        next: std::pin::Pin<Box<tokio::time::Sleep>>,
    }

    impl Drips {
        fn new(every: Duration) -> Self {
            Self { every, next: Box::pin(tokio::time::sleep(every)) }
        }
    }

    impl hyper::body::Body for Drips {
        type Data = Bytes;
        type Error = std::convert::Infallible;
        fn poll_frame(
            mut self: std::pin::Pin<&mut Self>,
            context: &mut std::task::Context<'_>,
        ) -> std::task::Poll<Option<Result<hyper::body::Frame<Bytes>, Self::Error>>> {
            std::task::ready!(self.next.as_mut().poll(context));
            self.next = Box::pin(tokio::time::sleep(self.every));
            let byte = hyper::body::Frame::data(Bytes::from_static(b"x"));
            std::task::Poll::Ready(Some(Ok(byte)))
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_that_never_ends_times_out() {
        struct Never;
        impl hyper::body::Body for Never {
            type Data = Bytes;
            type Error = std::convert::Infallible;
            fn poll_frame(
                self: std::pin::Pin<&mut Self>,
                _: &mut std::task::Context<'_>,
            ) -> std::task::Poll<Option<Result<hyper::body::Frame<Bytes>, Self::Error>>>
            {
                std::task::Poll::Pending
            }
        }
        let uploads = Uploads::new(8 * 1024, 5 * 1024, Duration::from_secs(1));
        let error = uploads.read(&announcing(100), None, Never).await.unwrap_err();
        assert_eq!(error, UploadError::TooSlow(Duration::from_secs(1)));
        assert_eq!(uploads.room.free(), 8 << 10, "it held no room");
    }
}
