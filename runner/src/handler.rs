//! What happens to one request, in order. The list is `Handler::handle` and, for what access control has
//! let through, `Handler::respond`; every request takes it, whether it came over a socket or from
//! `skincell classify`.
//!
//! Left out: connections (`server`), and how each step works (the module it calls).

use crate::access::{Access, Admitted, Sender};
use crate::admin;
use crate::admission::{Priority, Refusal};
use crate::app::Target;
use crate::certainty::Certainty;
use crate::chaining;
use crate::inference_protocol;
use crate::manifest::StaticResponse;
use crate::problem::Problem;
use crate::request_id;
use crate::routes::Match;
use crate::sandbox::ReplyBody;
use crate::service::Service;
use crate::spin_headers;
use crate::trace::{self, Recording, Tracer};
use bytes::Bytes;
use http::request::Parts;
use http::{HeaderValue, Method, Request, Response, header};
use http_body_util::{Either, Full};
use hyper::body::Body;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

/// Answers requests to a service.
pub struct Handler {
    pub(crate) service: Arc<Service>,
    pub(crate) access: Access,
    pub(crate) tracer: Option<Tracer>,
}

/// An answer: the runner's own, or a component's, whose body may still be coming.
pub type Answer = Response<AnswerBody>;

/// An answer's body.
pub type AnswerBody = Either<Full<Bytes>, ReplyBody>;

/// A request whose head was read.
struct Call {
    start: Instant,
    id: String,
    method: Method,
    /// The page that asks, as its browser says.
    origin: Option<HeaderValue>,
    /// The application's route it matches, if any.
    found: Option<Match>,
    /// A label for metrics and traces. It is the manifest's or the runner's spelling of the route, never the
    /// client's path, so that there are finitely many.
    route: Option<String>,
    sender: Option<Sender>,
}

/// Longest path quoted back to a client, in characters.
const LONGEST_PATH: usize = 128;

impl Handler {
    /// A handler of requests to `service`, as far as `access` allows them, traced if there is a `tracer`. Its
    /// components can then call each other.
    #[must_use]
    pub fn new(service: Arc<Service>, access: Access, tracer: Option<Tracer>) -> Self {
        chaining::connect(&service);
        Self { service, access, tracer }
    }

    /// Warns of routes that are written as one of the runner's own paths, which never reach the application,
    /// and of those under Spin's. Wildcards are not mentioned: they answer every other path.
    pub fn warn_of_shadowed_routes(&self) {
        for trigger in &self.service.app.triggers {
            if is_reserved(&trigger.route) {
                tracing::warn!(
                    route = trigger.route,
                    "paths under {} are answered by the runner, as in Spin; this route never is",
                    admin::SPINS
                );
            }
        }
        if self.service.admin_apart {
            return;
        }
        for path in admin::PATHS {
            let found = self.service.app.routes.find(path);
            if let Some(found) = found.filter(|found| found.matched == path) {
                tracing::warn!(
                    route = found.route,
                    "the runner answers this path itself; --admin-listen gives its paths a port of their own"
                );
            }
        }
    }

    /// Answers a request that did not come over a socket, such as one of `skincell classify`.
    pub async fn handle_local<B>(&self, request: Request<B>) -> Answer
    where
        B: Body<Data = Bytes>,
    {
        self.handle(request, None, std::future::pending()).await.0
    }

    /// Answers a request. If `cancelled` resolves first, because its connection's place is needed, the work
    /// is dropped and the answer is "too many clients". Drop the recording after the answer's body: that ends
    /// the trace.
    pub(crate) async fn handle<B>(
        &self,
        request: Request<B>,
        sender: Option<Sender>,
        cancelled: impl Future<Output = ()>,
    ) -> (Answer, Option<Recording>)
    where
        B: Body<Data = Bytes>,
    {
        let (mut head, body) = request.into_parts();
        let call = self.call(&head, sender);
        let admitted = self.admit(&head, &call, !body.is_end_stream());
        let recording = self.begin_trace(&mut head, &call, &admitted);
        let work = async {
            match admitted? {
                Admitted::Preflight(answer) => Ok((*answer).map(Either::Left)),
                Admitted::Client(client) => {
                    self.respond(Request::from_parts(head, body), &call, client).await
                }
            }
        };
        let work = trace::scope(recording.as_ref(), work);
        let answer = tokio::select! {
            answer = work => answer,
            () = cancelled => Err(Problem::Busy(Refusal::Connections)),
        };
        let answer = answer.unwrap_or_else(|problem| self.problem(&problem, &call.id));
        (self.finish(answer, &call, recording.as_ref()), recording)
    }

    /// The answer to a request that access control has let through.
    async fn respond<B>(
        &self,
        request: Request<B>,
        call: &Call,
        client: Option<IpAddr>,
    ) -> Result<Answer, Problem>
    where
        B: Body<Data = Bytes>,
    {
        let service = &*self.service;
        let own = admin::answer(service, &request);
        if let Some(answer) = own.or_else(|| inference_protocol::answer(service, &request)) {
            return Ok(answer.map(Either::Left));
        }
        let no_route = || Problem::NoRoute(shortened(request.uri().path()));
        let found = call.found.as_ref().ok_or_else(no_route)?;
        let component = match service.target(found).ok_or_else(no_route)? {
            Target::Static(response) => {
                spin_headers::require_host(&request)?;
                return Ok(static_answer(response));
            }
            Target::Component(index) => service.components.get(*index).ok_or_else(no_route)?,
        };
        let request = spin_headers::prepare(request, found, &call.id, call.sender)?;
        let (mut head, body) = request.into_parts();
        let own_call = service.outbound.own_calls.arrived(&mut head.headers);
        let need = service.plan.need(component.grants.run_peak());
        // Requests without a body are usually short and do not wait behind photos.
        let is_short = body.is_end_stream() || own_call.is_some();
        let priority = if is_short { Priority::High } else { Priority::Normal };
        // Refuses now what would be refused below, before its body is read.
        service.admission.check(need, priority).map_err(Problem::Busy)?;
        let upload = service.uploads.read(&head.headers, client, body);
        let upload = self.timed("read", upload).await.map_err(Problem::Upload)?;
        let permit = async {
            match &own_call {
                Some(own_call) => service.admission.enter_call(need, &own_call.calls).await,
                None => service.admission.enter(need, priority).await,
            }
        };
        let permit = self.timed("wait", permit).await.map_err(Problem::Busy)?;
        let place = own_call.map(|own_call| own_call.place).unwrap_or_default();
        let request = Request::from_parts(head, upload);
        let reply = component.instances.respond(request, permit, place).await;
        let reply = reply.map_err(Problem::Failed)?;
        let certainties = Certainty::all(reply.headers());
        // Only models of this component: a guest may write any name.
        for certainty in certainties.iter().filter(|one| component.grants.has(&one.model)) {
            service.metrics.judged(certainty);
        }
        Ok(service.accounted(reply, &call.id).map(Either::Right))
    }

    /// Answers a request to the admin port.
    pub(crate) fn handle_admin<B>(&self, request: &Request<B>) -> Answer {
        let own = admin::answer_all(&self.service, request).map(|answer| answer.map(Either::Left));
        let id = request_id::of(request.headers());
        let no_route = || Problem::NoRoute(shortened(request.uri().path()));
        own.unwrap_or_else(|| self.problem(&no_route(), &id))
    }

    /// The answer to a request for which there is no place.
    pub(crate) fn refuse<B>(&self, request: &Request<B>) -> Answer {
        let id = request_id::of(request.headers());
        self.problem(&Problem::Busy(Refusal::Connections), &id)
    }

    fn call(&self, head: &Parts, sender: Option<Sender>) -> Call {
        let path = head.uri.path();
        let own = admin::PATHS.into_iter().find(|own| *own == path && !self.service.admin_apart);
        let found = if own.is_some() { None } else { self.service.app.routes.find(path) };
        let named = |found: &Match| self.service.named_route(found, path);
        let route = own.map(str::to_owned).or_else(|| found.as_ref().map(named));
        Call {
            start: Instant::now(),
            id: request_id::of(&head.headers),
            method: head.method.clone(),
            origin: head.headers.get(header::ORIGIN).cloned(),
            found,
            route,
            sender,
        }
    }

    fn admit(&self, head: &Parts, call: &Call, has_body: bool) -> Result<Admitted, Problem> {
        match &call.sender {
            Some(sender) => Ok(self.access.check(head, sender, has_body)?),
            None => Ok(Admitted::Client(None)),
        }
    }

    /// Probes, preflights and requests that access control refuses are not traced.
    fn begin_trace(
        &self,
        head: &mut Parts,
        call: &Call,
        admitted: &Result<Admitted, Problem>,
    ) -> Option<Recording> {
        let is_client = matches!(admitted, Ok(Admitted::Client(_)));
        let is_wanted = is_client && !self.access.is_probe(head.uri.path());
        let tracer = self.tracer.as_ref().filter(|_| is_wanted)?;
        tracer.begin(head, call.route.clone())
    }

    async fn timed<F: Future>(&self, stage: &'static str, work: F) -> F::Output {
        let start = Instant::now();
        let outcome = work.await;
        self.service.metrics.stage(stage, start.elapsed());
        trace::record(stage, start);
        outcome
    }

    /// Counts and logs a problem, and turns it into its answer.
    fn problem(&self, problem: &Problem, id: &str) -> Answer {
        let metrics = &self.service.metrics;
        match problem {
            Problem::Failed(failure) => {
                metrics.failed(failure.label());
                tracing::warn!(request_id = id, "{}", failure.reason());
            }
            Problem::Token(_) => metrics.refused("token"),
            Problem::TooOften(_) => metrics.refused("rate"),
            Problem::Busy(refusal) => {
                metrics.refused(refusal.label());
                tracing::debug!(request_id = id, "{refusal}");
            }
            _ => {}
        }
        problem.response(id).map(Either::Left)
    }

    /// Counts an answer, and adds the headers that every answer has.
    fn finish(&self, mut answer: Answer, call: &Call, recording: Option<&Recording>) -> Answer {
        let Call { start, id, method, route, .. } = call;
        if let Ok(value) = HeaderValue::from_str(id) {
            // The application's own stays, as in Spin, which adds none.
            answer.headers_mut().entry(request_id::HEADER).or_insert(value);
        }
        let (status, after) = (answer.status(), start.elapsed());
        self.service.metrics.answered(method, route.as_deref(), status.as_u16(), after);
        let trace_id = recording.map(Recording::trace_id);
        tracing::debug!(request_id = id, trace_id, %method, status = status.as_u16(), ?after, "answered");
        if let Some(recording) = recording {
            recording.answered(status, answer.headers());
        }
        if let Some(sender) = call.sender {
            self.access.add_headers(call.origin.as_ref(), sender.is_encrypted, &mut answer);
        }
        answer
    }
}

/// Whether a route is one of Spin's own.
fn is_reserved(route: &str) -> bool {
    route.trim_start_matches('/').starts_with(admin::SPINS.trim_start_matches('/'))
}

fn shortened(path: &str) -> String {
    path.chars().take(LONGEST_PATH).collect()
}

fn static_answer(response: &StaticResponse) -> Answer {
    let body = Bytes::from(response.body.clone().unwrap_or_default());
    // The head was checked when the application was read.
    let head = response.head().unwrap_or_else(|_| Response::new(()).into_parts().0);
    Response::from_parts(head, Either::Left(Full::from(body)))
}

#[cfg(test)]
mod tests {
    use super::is_reserved;

    #[test]
    fn routes_under_spins_own_prefix_are_reserved() {
        for route in ["/.well-known/spin/mine", ".well-known/spin/...", "/.well-known/spin/..."] {
            assert!(is_reserved(route), "{route}");
        }
        for route in ["/.well-known/spindle/...", "/...", "/x/.well-known/spin/"] {
            assert!(!is_reserved(route), "{route}");
        }
    }
}
