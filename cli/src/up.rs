//! `skincell up`: serves the application until it is told to stop.

use crate::door_options::{DoorOptions, admin_warning};
use crate::run_options::{RunOptions, runtime};
use anyhow::Context;
use clap::Args;
use skincell_runner::app::App;
use skincell_runner::output_queue;
use skincell_runner::sandbox::OutputSettings;
use skincell_runner::server::{self, ServerSettings};
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

/// What the kernel may hold of a connection to the admin port each way, in bytes.
const ADMIN_BUFFER: u32 = 64 << 10;

/// Serve the application, each request in a fresh instance.
#[derive(Debug, Args)]
#[command(after_help = "\
Endpoints of the runner itself, beside the application's own:
  /healthz  answers while the process lives
  /readyz   503 while shutting down or while a model cannot be loaded, and why
  /memory   private and mapped memory, budget, models, requests, as JSON
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
    door: DoorOptions,

    /// Address and port to listen on; port 0 takes a free one, which is printed.
    #[arg(long, value_name = "ADDRESS", env = "SPIN_HTTP_LISTEN_ADDR")]
    #[arg(default_value = "127.0.0.1:3000")]
    listen: SocketAddr,

    /// Requests that may wait for their turn; the next ones are answered 503 at once.
    #[arg(long, value_name = "N", env = "SKINCELL_QUEUE", default_value_t = 64)]
    queue: usize,

    /// How long a request may wait for its turn.
    #[arg(long, value_name = "TIME", env = "SKINCELL_QUEUE_TIMEOUT", default_value = "10s")]
    #[arg(value_parser = humantime::parse_duration)]
    queue_timeout: Duration,

    /// Longest request body; more is answered 413.
    #[arg(long, value_name = "SIZE", env = "SKINCELL_MAX_UPLOAD", default_value = "16MiB")]
    max_body: bytesize::ByteSize,

    /// Load every model at the start instead of at its first request.
    #[arg(long, env = "SKINCELL_PRELOAD")]
    preload: bool,

    /// Unload a model that nobody has asked for this long.
    #[arg(long, value_name = "TIME", env = "SKINCELL_UNLOAD_AFTER", default_value = "10m")]
    #[arg(value_parser = humantime::parse_duration)]
    unload_after: Duration,

    /// How long accepted requests may go on after SIGTERM or Ctrl-C.
    #[arg(long, value_name = "TIME", env = "SKINCELL_DRAIN_TIMEOUT", default_value = "30s")]
    #[arg(value_parser = humantime::parse_duration)]
    drain_timeout: Duration,

    /// Where the port of --listen is taken, take the next that is free.
    #[arg(long)]
    find_free_port: bool,

    /// Print only the address, and nothing of what components print.
    #[arg(short, long, alias = "sh", alias = "shush", conflicts_with = "follow")]
    quiet: bool,

    /// Show only what this component prints; may be given several times.
    #[arg(long, value_name = "COMPONENT")]
    follow: Vec<String>,

    /// Keep what components print in this folder, as <component>_stdout.txt and <component>_stderr.txt.
    #[arg(short = 'L', long, value_name = "FOLDER", env = "SPIN_LOG_DIR")]
    log_dir: Option<PathBuf>,

    /// Empty the files of --log-dir first.
    #[arg(long)]
    truncate_logs: bool,

    /// Print the help of these flags alone, as Spin asks a trigger to.
    #[arg(long, hide = true)]
    help_args_only: bool,

    /// Print which flags there are, as JSON on standard error, as Spin asks a trigger to.
    #[arg(long, hide = true)]
    launch_metadata_only: bool,
}

impl Up {
    /// Serves until a signal; 0 when everything accepted was finished.
    pub fn run(self) -> anyhow::Result<ExitCode> {
        if self.help_args_only || self.launch_metadata_only {
            return self.describe_flags();
        }
        let app = self.run.load()?;
        let settings = self.settings()?;
        let start = Instant::now();
        let server_settings = self.server_settings(&app)?;
        let runtime = runtime()?;
        runtime.block_on(async {
            let service = Arc::new(Service::start(app, &settings)?);
            let stop = server::stop_signal()?;
            let listener = self.listener(service.plan().socket_buffer)?;
            let admin = self.door.admin_listen.map(|address| {
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
            if let Some(warning) = self.door.warning(address) {
                tracing::warn!("{warning}");
            }
            server::serve(service, listener, admin, &server_settings, stop).await
        })?;
        // A run of a model cannot be stopped; nobody waits for it any more.
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
            admin_apart: self.door.admin_listen.is_some(),
            ..self.run.settings()?
        })
    }

    fn server_settings(&self, app: &App) -> anyhow::Result<ServerSettings> {
        let variable = |name: &str| std::env::var(name).ok();
        let traces = TraceSettings::read(variable, &app.name, &app.version)?;
        let tracer = traces.map(Tracer::new).transpose().context("cannot send traces")?;
        let tls = self.door.tls()?;
        let (door, drain_timeout) = (self.door.door(app)?, self.drain_timeout);
        Ok(ServerSettings {
            drain_timeout,
            connections_per_address: self.door.connections_per_address(),
            door,
            tls,
            tracer,
            ..ServerSettings::default()
        })
    }

    /// The socket: on `--listen`, or with `--find-free-port` on the first free port from there on.
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

    /// What Spin asks of a trigger before it starts it: the help of the flags, or their names.
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

/// Prints a line, for whoever reads it.
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
        "  limits   {} at work, {} in line, {} a request",
        service.plan().concurrency,
        settings.queue,
        humantime::format_duration(settings.request_timeout),
    ));
    say(&format!("  started  in {} ms", took.as_millis()));
    say("Not a medical device. Stop with Ctrl-C.");
}

/// Why a model is run by this engine.
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

/// How the budget is spent, as a sum.
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
