//! `skincell up`: serves the application until it is told to stop.

use crate::access_options::{AccessOptions, admin_warning};
use crate::run_options::{RunOptions, runtime};
use anyhow::Context;
use clap::Args;
use skincell_runner::allocator;
use skincell_runner::app::App;
use skincell_runner::handler::Handler;
use skincell_runner::output_queue;
use skincell_runner::sandbox::OutputSettings;
use skincell_runner::server::{self, HangUps, ServerSettings};
use skincell_runner::service::Service;
use skincell_runner::settings::{EngineChoice, Settings};
use skincell_runner::trace::{TraceSettings, Tracer};
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::net::TcpListener;

/// Socket buffer of a connection to the admin port, in bytes, for each direction.
const ADMIN_BUFFER: u32 = 64 << 10;

/// Serve the application, with a fresh instance for each request.
#[derive(Debug, Args)]
#[command(after_help = "\
Endpoints of the runner itself, besides the application's:
  /healthz  200 while the process runs
  /readyz   503 with the reason during shutdown or when a model cannot be loaded
  /memory   private and mapped memory, budget, models and requests as JSON
  /metrics  the same and more for Prometheus

Examples:
  skincell up --build
  skincell up --listen 0.0.0.0:8080 --max-concurrency 4 --request-timeout 10s
  skincell up --memory-limit 256MiB --queue 16 --preload
  skincell up --env ENABLE_GRADCAM=false
  skincell up --listen 0.0.0.0:8443 --tokens-file tokens --rate-limit 60/m \\
              --tls-cert chain.pem --tls-key key.pem
  OTEL_EXPORTER_OTLP_ENDPOINT=http://127.0.0.1:4318 skincell up   send traces to a collector")]
pub struct Up {
    #[command(flatten)]
    run: RunOptions,

    #[command(flatten)]
    access: AccessOptions,

    /// Address and port to listen on; with port 0 a free port is chosen and printed.
    #[arg(long, value_name = "ADDRESS", env = "SPIN_HTTP_LISTEN_ADDR")]
    #[arg(default_value = "127.0.0.1:3000")]
    listen: SocketAddr,

    /// Requests that may wait in the queue; further ones are answered 503 at once.
    #[arg(long, value_name = "N", env = "SKINCELL_QUEUE", default_value_t = 64)]
    queue: usize,

    /// How long a request may wait in the queue.
    #[arg(long, value_name = "TIME", env = "SKINCELL_QUEUE_TIMEOUT", default_value = "10s")]
    #[arg(value_parser = humantime::parse_duration)]
    queue_timeout: Duration,

    /// Largest request body; larger ones are answered 413.
    #[arg(long, value_name = "SIZE", env = "SKINCELL_MAX_UPLOAD", default_value = "16MiB")]
    max_body: bytesize::ByteSize,

    /// Load every model at startup instead of at its first request.
    #[arg(long, env = "SKINCELL_PRELOAD")]
    preload: bool,

    /// Unload a model after this time without requests.
    #[arg(long, value_name = "TIME", env = "SKINCELL_UNLOAD_AFTER", default_value = "10m")]
    #[arg(value_parser = humantime::parse_duration)]
    unload_after: Duration,

    /// How long accepted requests may continue after SIGTERM or Ctrl-C.
    #[arg(long, value_name = "TIME", env = "SKINCELL_DRAIN_TIMEOUT", default_value = "30s")]
    #[arg(value_parser = humantime::parse_duration)]
    drain_timeout: Duration,

    /// If the port of --listen is in use, choose the next free one.
    #[arg(long)]
    find_free_port: bool,

    /// Print only the address, and hide the output of components.
    #[arg(short, long, alias = "sh", alias = "shush", conflicts_with = "follow")]
    quiet: bool,

    /// Show only the output of this component; may be given several times.
    #[arg(long, value_name = "COMPONENT")]
    follow: Vec<String>,

    /// Write the output of components to this folder, as <component>_stdout.txt and <component>_stderr.txt.
    #[arg(short = 'L', long, value_name = "FOLDER", env = "SPIN_LOG_DIR")]
    log_dir: Option<PathBuf>,

    /// Empty the files in --log-dir at startup.
    #[arg(long)]
    truncate_logs: bool,

    /// Print only the help of these flags; part of Spin's protocol for triggers.
    #[arg(long, hide = true)]
    help_args_only: bool,

    /// Print the list of flags as JSON on standard error; part of Spin's protocol for triggers.
    #[arg(long, hide = true)]
    launch_metadata_only: bool,
}

impl Up {
    /// Serves until a signal arrives; the exit code is 0 if all accepted requests were finished.
    pub fn run(self) -> anyhow::Result<ExitCode> {
        if self.help_args_only || self.launch_metadata_only {
            return self.describe_flags();
        }
        allocator::restart_without_thread_caches();
        let app = self.run.load()?;
        let settings = self.settings()?;
        let start = Instant::now();
        let (access, tracer) = (self.access.access(&app)?, tracer(&app)?);
        let server_settings = self.server_settings()?;
        let runtime = runtime()?;
        runtime.block_on(async {
            let hang_ups = HangUps::new()?;
            let service = Arc::new(Service::start(app, &settings)?);
            let stop = server::stop_signal()?;
            let listener = self.listener(service.plan().socket_buffer)?;
            let admin = self.access.admin_listen.map(|address| {
                let listener = server::listen(address, ADMIN_BUFFER);
                listener.with_context(|| format!("--admin-listen: cannot listen on {address}"))
            });
            let admin = admin.transpose()?;
            let address = listener.local_addr()?;
            let scheme = if server_settings.tls.is_some() { "https" } else { "http" };
            say(&format!("Serving {scheme}://{address}"));
            if let Some(admin) = &admin {
                let admin = admin.local_addr()?;
                say(&format!("Serving /healthz, /readyz, /metrics and /memory on {admin}"));
                if let Some(warning) = admin_warning(admin) {
                    tracing::warn!("{warning}");
                }
            }
            if !self.quiet {
                print_summary(&service, &settings, start.elapsed());
            }
            if let Some(warning) = self.access.warning(address) {
                tracing::warn!("{warning}");
            }
            let handler = Arc::new(Handler::new(service, access, tracer));
            handler.warn_of_shadowed_routes();
            server::serve(handler, listener, admin, &server_settings, stop, hang_ups).await
        })?;
        // A run of a model cannot be stopped, so the process does not wait for it.
        runtime.shutdown_background();
        Ok(ExitCode::SUCCESS)
    }
}

impl Up {
    fn settings(&self) -> anyhow::Result<Settings> {
        Ok(Settings {
            queue: self.queue,
            queue_timeout: self.queue_timeout,
            max_body: self.max_body.as_u64(),
            output: OutputSettings {
                quiet: self.quiet,
                follow: self.follow.clone(),
                // Empty means off, as in Spin.
                log_folder: self.log_dir.clone().filter(|folder| !folder.as_os_str().is_empty()),
                truncate: self.truncate_logs,
            },
            preload: self.preload,
            unload_after: self.unload_after,
            admin_apart: self.access.admin_listen.is_some(),
            ..self.run.settings()?
        })
    }

    fn server_settings(&self) -> anyhow::Result<ServerSettings> {
        Ok(ServerSettings {
            drain_timeout: self.drain_timeout,
            connections_per_address: self.access.connections_per_address(),
            tls: self.access.tls()?,
            ..ServerSettings::default()
        })
    }

    /// The socket on `--listen`, or with `--find-free-port` on the first free port from there.
    fn listener(&self, buffer: u32) -> anyhow::Result<TcpListener> {
        let last = if self.find_free_port { u16::MAX } else { self.listen.port() };
        let mut taken = None;
        for port in self.listen.port()..=last {
            let address = SocketAddr::new(self.listen.ip(), port);
            match server::listen(address, buffer) {
                Ok(listener) => return Ok(listener),
                Err(error) if error.kind() == ErrorKind::AddrInUse => taken = Some(error),
                Err(error) => {
                    return Err(error).with_context(|| format!("cannot listen on {address}"));
                }
            }
        }
        let error = taken.unwrap_or_else(|| ErrorKind::AddrInUse.into());
        Err(error).with_context(|| {
            let address = self.listen;
            format!("cannot listen on {address}; choose another with --listen or --find-free-port")
        })
    }

    /// Prints the help of the flags, or their names. Spin asks a trigger for these before it starts it.
    fn describe_flags(&self) -> anyhow::Result<ExitCode> {
        let mut command = Self::augment_args(clap::Command::new("up"));
        if self.help_args_only {
            command.disable_help_flag(true).help_template("{all-args}").print_long_help()?;
            return Ok(ExitCode::SUCCESS);
        }
        command.build();
        let flags = command.get_arguments().map(|argument| {
            let mut flag = serde_json::Map::new();
            let long = argument.get_long().map(|long| ("long", format!("--{long}")));
            let short = argument.get_short().map(|short| ("short", format!("-{short}")));
            for (kind, name) in long.into_iter().chain(short) {
                flag.insert(kind.to_owned(), name.into());
            }
            flag
        });
        let metadata = serde_json::json!({ "all_flags": flags.collect::<Vec<_>>() });
        eprintln!("{metadata:#}");
        Ok(ExitCode::SUCCESS)
    }
}

/// A tracer, if the environment names a collector.
fn tracer(app: &App) -> anyhow::Result<Option<Tracer>> {
    let variable = |name: &str| std::env::var(name).ok();
    let traces = TraceSettings::read(variable, &app.name, &app.version)?;
    traces.map(Tracer::new).transpose().context("cannot send traces")
}

/// Prints a line through the output queue, so that a slow reader does not block the server.
fn say(line: &str) {
    output_queue::stdout().put(format!("{line}\n").as_bytes());
}

fn print_summary(service: &Service, settings: &Settings, took: Duration) {
    let app = service.app();
    for trigger in &app.triggers {
        say(&format!("  route    {}", trigger.route));
    }
    for model in service.models() {
        let (name, engine) = (&model.name, model.engine);
        let loaded = if model.loaded { "loaded" } else { "loaded at first use" };
        say(&format!("  model    {name} by {engine}, {}; {loaded}", why(engine, settings.engine)));
    }
    say(&format!("  memory   {}", budget_sum(service)));
    say(&format!(
        "  limits   {} at work, {} queued, {} for each request",
        service.plan().concurrency,
        settings.queue,
        humantime::format_duration(settings.request_timeout),
    ));
    say(&format!("  started  in {} ms", took.as_millis()));
    say("Not a medical device. Stop with Ctrl-C.");
}

/// Why this engine runs the model.
fn why(engine: &str, asked: EngineChoice) -> &'static str {
    match (engine, asked) {
        (_, EngineChoice::Auto) if engine == "cellnet" => "packed for it in model.cell",
        (_, EngineChoice::Auto) if engine == "rten" => {
            "as there is no model.cell (see skincell model pack)"
        }
        (_, EngineChoice::Auto) => "the first of --engine auto that takes it",
        _ => "as --engine says",
    }
}

/// The memory budget as a sum of its parts.
fn budget_sum(service: &Service) -> String {
    let plan = service.plan();
    let size = |bytes: u64| bytesize::ByteSize::b(bytes).display().iec().to_string();
    let one = plan.instance.saturating_add(plan.host_share());
    let requests = format!("{} requests × {}", plan.concurrency, size(one));
    let fixed = format!("runner, connections and uploads {}", size(plan.fixed()));
    match service.budget() {
        Some(budget) => format!("{}: {fixed}, {requests}, models share the rest", size(budget)),
        None => format!("no limit: {fixed}, {requests}, models as they are"),
    }
}

#[cfg(test)]
mod tests {
    use super::why;
    use skincell_runner::settings::EngineChoice;

    #[test]
    fn an_engine_is_explained_by_what_chose_it() {
        assert_eq!(why("rten", EngineChoice::Rten), "as --engine says");
        assert!(why("rten", EngineChoice::Auto).contains("model pack"));
        assert!(why("cellnet", EngineChoice::Auto).contains("model.cell"));
    }
}
