//! An HTTP client: complete requests through a library, incomplete ones by hand on a socket.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue, Method};
use serde_json::Value;

use crate::runner::Runner;

/// Time limit of an answer.
const TIMEOUT: Duration = Duration::from_secs(60);

/// The prefix of a problem's `type`.
const TYPE_PREFIX: &str = "urn:skincell:problem:";

/// A complete response.
#[derive(Debug, Clone)]
pub struct Answer {
    /// Status.
    pub status: u16,
    /// Header fields.
    pub headers: HeaderMap,
    /// Body.
    pub body: Vec<u8>,
}

impl Answer {
    /// The header field `name`; empty if it is missing.
    #[must_use]
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().expect("header values are ASCII"))
    }

    /// The body as JSON.
    #[must_use]
    pub fn json(&self) -> Value {
        let text = String::from_utf8_lossy(&self.body);
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error} in {text:.300}"))
    }

    /// The body of an answer to a photo as text, without the timing, which differs between runs.
    #[must_use]
    pub fn results(&self) -> String {
        let mut answer = self.json();
        assert_eq!(self.status, 200, "{answer}");
        let members = answer.as_object_mut().expect("an object");
        members.remove("timing_ms").expect("it is timed");
        answer.to_string()
    }

    /// The name of the problem, after checking that it is complete: RFC 9457 with our `type`, the
    /// response's status, a title, a detail and a request id.
    #[must_use]
    pub fn problem(&self) -> String {
        assert_eq!(self.header("content-type"), "application/problem+json", "{self:?}");
        let problem = self.json();
        assert_eq!(problem["status"], self.status, "{problem}");
        for member in ["title", "detail", "request_id"] {
            assert!(
                !problem[member].as_str().unwrap_or_default().is_empty(),
                "{member}: {problem}"
            );
        }
        let name = problem["type"].as_str().and_then(|name| name.strip_prefix(TYPE_PREFIX));
        name.unwrap_or_else(|| panic!("an unknown type: {problem}")).to_owned()
    }
}

/// A request.
#[derive(Debug, Clone)]
pub struct Request {
    method: Method,
    path: String,
    headers: Vec<(&'static str, String)>,
    body: Vec<u8>,
}

impl Request {
    /// A request without a body.
    #[must_use]
    pub fn new(method: Method, path: &str) -> Self {
        Self { method, path: path.to_owned(), headers: Vec::new(), body: Vec::new() }
    }

    /// `POST /predict` with a body of this type, and `query`.
    #[must_use]
    pub fn predict(query: &str, content_type: &str, body: impl Into<Vec<u8>>) -> Self {
        let request = Self::new(Method::POST, &format!("/predict{query}"));
        Self { body: body.into(), ..request }.header("content-type", content_type)
    }

    /// `POST` of these bytes to `path`.
    #[must_use]
    pub fn post(path: &str, body: Vec<u8>) -> Self {
        Self { body, ..Self::new(Method::POST, path) }
    }

    /// `POST /predict` with a form.
    #[must_use]
    pub fn form(parts: &[Vec<u8>]) -> Self {
        let body = [parts.concat().as_slice(), b"--cell--\r\n"].concat();
        Self::predict("", "multipart/form-data; boundary=cell", body)
    }

    /// Adds a header field, unless the value is empty.
    #[must_use]
    pub fn header(mut self, name: &'static str, value: &str) -> Self {
        if !value.is_empty() {
            self.headers.push((name, value.to_owned()));
        }
        self
    }

    /// Sends it and reads the answer.
    #[must_use]
    pub fn send(&self, runner: &Runner) -> Answer {
        let mut request = http::Request::builder().method(self.method.clone()).uri(format!(
            "http://{}{}",
            runner.address(),
            self.path
        ));
        for (name, value) in &self.headers {
            request = request.header(*name, value);
        }
        let request = request.body(self.body.clone()).expect("a request");
        let answer = agent().run(request).unwrap_or_else(|error| panic!("{}: {error}", self.path));
        let (head, mut body) = answer.into_parts();
        let body = body.with_config().limit(64 << 20).read_to_vec().expect("a body");
        Answer { status: head.status.as_u16(), headers: head.headers, body }
    }
}

/// A client without a proxy that returns error statuses as answers.
fn agent() -> ureq::Agent {
    let config = ureq::Agent::config_builder()
        .http_status_as_error(false)
        .allow_non_standard_methods(true)
        .timeout_global(Some(TIMEOUT))
        .proxy(None)
        .max_redirects(0)
        .build();
    config.new_agent()
}

/// `GET path`.
#[must_use]
pub fn get(runner: &Runner, path: &str) -> Answer {
    Request::new(Method::GET, path).send(runner)
}

/// One part of a form: the rest of the disposition after `form-data; `, and the content.
#[must_use]
pub fn part(disposition: &str, content: &[u8]) -> Vec<u8> {
    let head = format!("--cell\r\nContent-Disposition: form-data; {disposition}\r\n\r\n");
    [head.as_bytes(), content, b"\r\n"].concat()
}

/// A connection to the runner, with a time limit.
#[must_use]
pub fn connect(runner: &Runner) -> TcpStream {
    let socket = TcpStream::connect(runner.address()).expect("the runner accepts");
    socket.set_read_timeout(Some(TIMEOUT)).expect("a timeout is set");
    socket.set_write_timeout(Some(TIMEOUT)).expect("a timeout is set");
    socket
}

/// The head of a `POST /predict` with additional header lines, each ending with `\r\n`.
#[must_use]
pub fn predict_head(lines: &str) -> String {
    format!("POST /predict HTTP/1.1\r\nHost: test\r\n{lines}\r\n")
}

/// Sends `head`, then `chunk` repeatedly until the runner answers or closes. Returns the status line and
/// the number of bytes of chunks sent.
#[must_use]
pub fn send_until_answered(runner: &Runner, head: &str, chunk: &[u8]) -> (String, usize) {
    let mut socket = connect(runner);
    socket.write_all(head.as_bytes()).expect("the head is sent");
    let mut answered = socket.try_clone().expect("a second handle");
    let reader = std::thread::spawn(move || {
        let mut first = [0; 256];
        let length = answered.read(&mut first).expect("an answer comes");
        String::from_utf8_lossy(&first[..length]).lines().next().unwrap_or_default().to_owned()
    });
    let mut sent = 0;
    while !reader.is_finished() {
        match socket.write(chunk) {
            Ok(length) => sent += length,
            // The runner has closed its receiving half; the answer can still be read.
            Err(_) => break,
        }
    }
    (reader.join().expect("the reader ends"), sent)
}

/// Sends `head` and `body`, as far as the runner accepts it, and only then reads the answer.
///
/// # Errors
/// If the connection is reset during the answer, or the answer is not valid.
pub fn send_all_then_read(runner: &Runner, head: &str, body: &[u8]) -> std::io::Result<Answer> {
    let mut socket = connect(runner);
    socket.write_all(head.as_bytes())?;
    socket.write_all(body)?;
    let mut bytes = Vec::new();
    socket.read_to_end(&mut bytes)?;
    parse_answer(&bytes).ok_or_else(|| std::io::Error::other("this is no whole answer"))
}

/// Parses an answer from the bytes of a closed connection.
fn parse_answer(bytes: &[u8]) -> Option<Answer> {
    let end = bytes.windows(4).position(|window| window == b"\r\n\r\n")?;
    let mut lines = std::str::from_utf8(bytes.get(..end)?).ok()?.split("\r\n");
    let status = lines.next()?.split(' ').nth(1)?.parse().ok()?;
    let mut headers = HeaderMap::new();
    for line in lines {
        let (name, value) = line.split_once(": ")?;
        headers.append(HeaderName::try_from(name).ok()?, HeaderValue::try_from(value).ok()?);
    }
    let body = bytes.get(end + 4..)?.to_vec();
    let length = headers.get("content-length")?.to_str().ok()?.parse::<usize>().ok()?;
    (body.len() == length).then_some(Answer { status, headers, body })
}
