//! Logging to standard error, as text or as one JSON object per line; a panic is text in both. The lines of
//! skincell's own crates never contain photo bytes, tokens or queries.

use clap::ValueEnum;
use serde_json::{Map, Value};
use skincell_runner::output_queue;
use std::backtrace::{Backtrace, BacktraceStatus};
use std::fmt;
use std::io::IsTerminal;
use std::panic::PanicHookInfo;
use std::time::{Duration, SystemTime};
use tracing::field::{Field, Visit};
use tracing::{Event, Subscriber};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

/// The format of log lines.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum LogFormat {
    /// Text; in colour on a terminal.
    Human,
    /// One JSON object per line.
    Json,
}

/// wasmtime-wasi-http also logs the failed outgoing requests that it reports to the guest.
const DEFAULT: &str = "warn,skincell_runner=info,wasmtime_wasi_http=error";

/// For commands that print results: no lines about what went well between them.
const QUIET: &str = "warn,wasmtime_wasi_http=error";

/// How long the program waits for the message of a panic to be written.
const PANIC_TIMEOUT: Duration = Duration::from_secs(1);

/// Starts logging, at the level set by `RUST_LOG`; without it, at a level for a service, or only warnings.
/// Lines are queued, so that a slow reader does not block the server, and so is the message of a panic.
pub fn start(format: LogFormat, is_service: bool) {
    let default = if is_service { DEFAULT } else { QUIET };
    std::panic::set_hook(Box::new(write_panic));
    let given = EnvFilter::try_from_default_env();
    let wrong = given.as_ref().err().map(ToString::to_string);
    let filter = given.unwrap_or_else(|_| EnvFilter::new(default));
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(output_queue::stderr);
    match format {
        LogFormat::Human => {
            let is_coloured =
                std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
            log.with_ansi(is_coloured).with_target(false).compact().init();
        }
        LogFormat::Json => log.with_ansi(false).event_format(Json).init(),
    }
    if let Some(wrong) = wrong.filter(|_| std::env::var_os(EnvFilter::DEFAULT_ENV).is_some()) {
        tracing::warn!(
            "RUST_LOG is not used: {wrong}; it takes levels such as info or warn,skincell_runner=debug"
        );
    }
}

/// Writes a panic through the queue of the log, so that an unread log does not block the thread.
fn write_panic(panic: &PanicHookInfo<'_>) {
    output_queue::stderr().put(panic_text(panic).as_bytes());
    if std::thread::current().name() == Some("main") {
        // The panic may end the program.
        output_queue::stderr().finish(PANIC_TIMEOUT);
    }
}

/// The text of the standard library: thread, place, message, and the backtrace if `RUST_BACKTRACE` asks for
/// it.
fn panic_text(panic: &PanicHookInfo<'_>) -> String {
    let thread = std::thread::current();
    let mut text = format!("thread '{}' {panic}\n", thread.name().unwrap_or("<unnamed>"));
    let trace = Backtrace::capture();
    if trace.status() == BacktraceStatus::Captured {
        text += &trace.to_string();
    }
    text
}

/// Formats an event as one object with `time`, `level`, `target`, `message` and the event's fields.
struct Json;

impl<S, N> FormatEvent<S, N> for Json
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        _context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let mut line = Line(Map::new());
        let metadata = event.metadata();
        let time = humantime::format_rfc3339_micros(SystemTime::now()).to_string();
        line.set("time", time);
        line.set("level", metadata.level().to_string());
        line.set("target", metadata.target());
        event.record(&mut line);
        writeln!(writer, "{}", Value::Object(line.0))
    }
}

struct Line(Map<String, Value>);

impl Line {
    fn set(&mut self, name: &str, value: impl Into<Value>) {
        self.0.insert(name.to_owned(), value.into());
    }
}

impl Visit for Line {
    fn record_f64(&mut self, field: &Field, value: f64) {
        self.set(field.name(), value);
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.set(field.name(), value);
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.set(field.name(), value);
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.set(field.name(), value);
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.set(field.name(), value);
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.set(field.name(), format!("{value:?}"));
    }
}

#[cfg(test)]
mod tests {
    use super::{Json, panic_text};
    use serde_json::Value;
    use std::io::{self, Write};
    use std::sync::{Arc, Mutex, mpsc};

    #[derive(Clone, Default)]
    struct Sink(Arc<Mutex<Vec<u8>>>);

    impl Write for Sink {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_panic_is_logged_with_its_thread_its_place_and_its_message() {
        let (texts, logged) = mpsc::channel();
        let hook = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            let _ = texts.send(panic_text(panic));
        }));
        let worker = std::thread::Builder::new().name("worker".to_owned());
        let outcome = worker.spawn(|| panic!("no thread for it")).unwrap().join();
        std::panic::set_hook(hook);
        assert!(outcome.is_err());
        let text = logged.recv().unwrap();
        for part in ["thread 'worker' ", "cli/src/log.rs:", "no thread for it"] {
            assert!(text.contains(part), "{part:?} in {text:?}");
        }
    }

    #[test]
    fn every_event_is_one_line_with_one_object() {
        let sink = Sink::default();
        let writer = sink.clone();
        let subscriber = tracing_subscriber::fmt()
            .event_format(Json)
            .with_writer(move || writer.clone())
            .finish();
        tracing::subscriber::with_default(subscriber, || {
            tracing::warn!(status = 503_u64, took = ?"a\nb", "it \"failed\"");
        });
        let text = String::from_utf8(sink.0.lock().unwrap().clone()).unwrap();
        assert_eq!(text.lines().count(), 1, "{text}");
        let line: Value = serde_json::from_str(&text).unwrap();
        assert_eq!((&line["level"], &line["status"]), (&"WARN".into(), &503.into()));
        assert_eq!(
            (&line["message"], &line["took"]),
            (&"it \"failed\"".into(), &"\"a\\nb\"".into())
        );
        assert!(line["time"].as_str().is_some_and(|time| time.ends_with('Z')), "{line}");
    }
}
