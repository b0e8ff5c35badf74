//! What the connections of a port have in common: the handler that answers their requests, and the settings.
//! Protocols are left to `connection` and `http2`.

use super::exchange::Incoming;
use super::places::Place;
use super::{Port, ServerSettings, Stopping};
use crate::access::Sender;
use crate::handler::{Answer, Handler};
use crate::trace::Recording;
use bytes::Bytes;
use http::Request;
use hyper::body::Body;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

/// How long an idle connection is still read from after the signal to stop.
pub(super) const LAST_LOOK: Duration = Duration::from_millis(250);

/// How long an evicted client may take to read its refusal.
pub(super) const LAST_WORD: Duration = Duration::from_secs(1);

/// Waits for the signal to stop, and then as long as requests already sent may need to be read.
pub(super) async fn last_look(mut stopping: Stopping) {
    // An error means that the server is gone, which has the same effect.
    let _ = stopping.wait_for(|stops| *stops).await;
    tokio::time::sleep(LAST_LOOK).await;
}

/// What a connection needs to serve requests.
#[derive(Clone)]
pub(super) struct Serving {
    pub(super) handler: Arc<Handler>,
    pub(super) settings: ServerSettings,
    pub(super) port: Port,
}

impl Serving {
    /// The answer to one request, and its trace.
    pub(super) async fn answer<B>(
        &self,
        request: Request<Incoming<B>>,
        address: SocketAddr,
        place: &Place,
    ) -> (Answer, Option<Recording>)
    where
        B: Body<Data = Bytes> + Unpin,
    {
        if self.port == Port::Admin {
            return (self.handler.handle_admin(&request), None);
        }
        let sender = Sender {
            address,
            is_encrypted: self.settings.tls.is_some(),
            only_probes: place.for_probes,
        };
        self.handler.handle(request, Some(sender), place.refused()).await
    }
}
