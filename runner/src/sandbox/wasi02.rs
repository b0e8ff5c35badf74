//! Calls a component of WASI 0.2.

use super::reply::HeadSender;
use super::start::instance;
use bytes::Bytes;
use http::Request;
use hyper::body::Body;
use skincell_hosts::HostState;
use wasmtime::Store;
use wasmtime_wasi_http::WasiHttpView as _;
use wasmtime_wasi_http::p2::bindings::ProxyPre;
use wasmtime_wasi_http::p2::bindings::http::types::Scheme;

/// Beginning of the name of the handler that a component exports; the patch version follows.
const HANDLER: &str = "wasi:http/incoming-handler@0.2.";

/// Whether an export is the handler, of the release and not of a candidate.
pub(super) fn is_handler(name: &str) -> bool {
    name.strip_prefix(HANDLER).is_some_and(|patch| patch.bytes().all(|b| b.is_ascii_digit()))
}

/// Lets a new instance answer `request`.
pub(super) async fn call<B>(
    pre: &ProxyPre<HostState>,
    store: &mut Store<HostState>,
    request: Request<B>,
    head: HeadSender,
) -> wasmtime::Result<()>
where
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<wasmtime_wasi_http::Error>,
{
    let mut http = store.data_mut().http();
    let request = http.new_incoming_request(Scheme::Http, request)?;
    let out = http.new_response_outparam(head)?;
    let proxy = instance(pre.instantiate_async(&mut *store)).await?;
    proxy.wasi_http_incoming_handler().call_handle(store, request, out).await
}

#[cfg(test)]
mod tests {
    #[test]
    fn candidates_are_not_taken_for_the_release() {
        for (name, expected) in [
            ("wasi:http/incoming-handler@0.2.0", true),
            ("wasi:http/incoming-handler@0.2.12", true),
            ("wasi:http/incoming-handler@0.2.0-rc-2023-11-10", false),
            ("wasi:http/handler@0.3.0", false),
        ] {
            assert_eq!(super::is_handler(name), expected, "{name}");
        }
    }
}
