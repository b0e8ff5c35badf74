//! Requests of one component to another of the same application, at `http://NAME.spin.internal`, by Spin's
//! rules: they reach the component whether or not it has a route, and an instance of its own answers.
//!
//! The caller keeps its permit while it waits, so a call waits for one only while some instance at work waits
//! for no other; it is refused otherwise. Calls of calls are limited in depth, and share the deadline of the
//! request that began them. Whether a component may call another is left to `outbound`.

use crate::access::Sender;
use crate::admission::Calls;
use crate::outbound::{Called, Peers, Place};
use crate::request_id;
use crate::routes::Match;
use crate::sandbox::Failure;
use crate::service::{Component, Service};
use crate::spin_headers;
use bytes::Bytes;
use http::uri::{Authority, Scheme};
use http::{HeaderValue, Request, Response, StatusCode, Uri, header};
use http_body_util::{BodyExt as _, Empty};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::{Arc, Weak};
use wasmtime_wasi_http::{Error, WasiBody};

/// What a called component sees as its client's address, as in Spin.
const CLIENT: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0);

/// The components of a service, as far as it still runs.
struct Components(Weak<Service>);

/// Lets the components of `service` call each other.
pub(crate) fn connect(service: &Arc<Service>) {
    service.outbound.connect(Box::new(Components(Arc::downgrade(service))));
}

impl Peers for Components {
    fn call(&self, name: &str, request: Request<WasiBody>, place: Place, calls: &Calls) -> Called {
        let (service, name, calls) = (self.0.upgrade(), name.to_owned(), calls.clone());
        Box::pin(async move {
            let service = service.ok_or(Error::ConnectionTerminated)?;
            call(&service, &name, request, place, &calls).await
        })
    }
}

async fn call(
    service: &Service,
    name: &str,
    request: Request<WasiBody>,
    place: Place,
    calls: &Calls,
) -> Result<Response<WasiBody>, Error> {
    let component = component(service, name)?;
    let id = request_id::of(request.headers());
    let request = prepare(request, &id)?;
    let need = service.plan.need(component.grants.run_peak());
    let permit = service.admission.enter_call(need, calls).await.map_err(|refusal| {
        service.metrics.refused(refusal.label());
        tracing::warn!(component = name, request_id = id, "a call was refused: {refusal}");
        Error::ConnectionLimitReached
    })?;
    match component.instances.respond(request, permit, place).await {
        Ok(reply) => Ok(service.accounted(reply, &id).map(|body| body.boxed_unsync())),
        Err(failure) => {
            service.metrics.failed(failure.label());
            tracing::warn!(component = name, request_id = id, "{}", failure.reason());
            if matches!(failure, Failure::Deadline(_)) {
                // It is the caller's own, too, which ends the caller and drops this.
                return std::future::pending().await;
            }
            let body = Empty::<Bytes>::new().map_err(|never| match never {}).boxed_unsync();
            let mut answer = Response::new(body);
            *answer.status_mut() = StatusCode::INTERNAL_SERVER_ERROR;
            Ok(answer)
        }
    }
}

fn component<'a>(service: &'a Service, name: &str) -> Result<&'a Component, Error> {
    let index = service.app.components.iter().position(|component| component.id == name);
    let component = index.and_then(|index| service.components.get(index));
    component.ok_or_else(|| {
        tracing::warn!("a component called {name:?}, which no trigger of the application names");
        Error::DestinationNotFound
    })
}

/// The request as the component sees it: as if it had matched the route `/...` of its host.
fn prepare(mut request: Request<WasiBody>, id: &str) -> Result<Request<WasiBody>, Error> {
    let mut uri = request.uri().clone().into_parts();
    let host = uri.authority.as_ref().map(Authority::as_str).unwrap_or_default();
    let host = HeaderValue::from_str(host).map_err(|_| Error::HttpRequestUriInvalid)?;
    uri.scheme = Some(Scheme::HTTP);
    uri.path_and_query = uri.path_and_query.or_else(|| "/".parse().ok());
    *request.uri_mut() = Uri::from_parts(uri).map_err(|_| Error::HttpRequestUriInvalid)?;
    request.headers_mut().insert(header::HOST, host);
    let found = Match {
        target: 0,
        route: "/...".to_owned(),
        matched: "/...".to_owned(),
        base: String::new(),
        path_info: request.uri().path().to_owned(),
        named: Vec::new(),
    };
    let sender = Sender { address: CLIENT, is_encrypted: false, only_probes: false };
    spin_headers::prepare_call(request, &found, id, sender)
        .map_err(|_| Error::HttpRequestUriInvalid)
}
