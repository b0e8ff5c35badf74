//! Requests of components to the service itself, at `http://self`. As in Spin they come in over a socket,
//! like those of any client. A header field tells the service which instance waits for one; it is taken off
//! again before a component sees it. What the service does with that is left to `handler`.

use super::Place;
use crate::admission::Calls;
use crate::request_id;
use http::{HeaderMap, HeaderName, HeaderValue};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The field: its value is random, so that no client can name a request that is on its way.
const FIELD: HeaderName = HeaderName::from_static("skincell-own-call");

/// The requests on their way. Clones share them.
#[derive(Clone, Default)]
pub(crate) struct OwnCalls(Arc<Mutex<HashMap<HeaderValue, OwnCall>>>);

/// Whose request it is.
#[derive(Clone)]
pub(crate) struct OwnCall {
    /// Where the instance will stand that answers it.
    pub(crate) place: Place,
    /// The calls of the instance that waits for it.
    pub(crate) calls: Calls,
}

/// A request on its way, until dropped.
pub(super) struct Sent {
    own_calls: OwnCalls,
    key: HeaderValue,
}

impl OwnCalls {
    /// Marks a request that is about to be sent.
    pub(super) fn send(&self, headers: &mut HeaderMap, call: OwnCall) -> Option<Sent> {
        let key = HeaderValue::from_str(&request_id::new()).ok()?;
        headers.insert(FIELD, key.clone());
        self.lock().insert(key.clone(), call);
        Some(Sent { own_calls: self.clone(), key })
    }

    /// Takes the mark off a request that has come in, whoever sent it.
    pub(crate) fn arrived(&self, headers: &mut HeaderMap) -> Option<OwnCall> {
        let key = headers.remove(FIELD)?;
        self.lock().remove(&key)
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<HeaderValue, OwnCall>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Sent {
    fn drop(&mut self) {
        self.own_calls.lock().remove(&self.key);
    }
}

#[cfg(test)]
mod tests {
    use super::{FIELD, OwnCall, OwnCalls};
    use crate::admission::Calls;
    use crate::outbound::Place;
    use http::{HeaderMap, HeaderValue};

    #[test]
    fn a_mark_counts_once_and_only_while_its_request_is_on_its_way() {
        let own_calls = OwnCalls::default();
        let call = || OwnCall { place: Place::default(), calls: Calls::default() };
        let mut headers = HeaderMap::new();
        let sent = own_calls.send(&mut headers, call());
        let mut copy = headers.clone();
        assert!(own_calls.arrived(&mut headers).is_some());
        assert!(headers.is_empty(), "no component sees it");
        assert!(own_calls.arrived(&mut copy).is_none());
        drop(sent);
        drop(own_calls.send(&mut headers, call()));
        assert!(own_calls.arrived(&mut headers).is_none());
        headers.insert(FIELD, HeaderValue::from_static("forged"));
        assert!(own_calls.arrived(&mut headers).is_none() && headers.is_empty());
    }
}
