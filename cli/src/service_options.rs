//! The flags shared by `up` and `serve`, and the service that they start.

use crate::access_options::{AccessOptions, admin_warning};
use crate::listen;
use crate::missing_models;
use crate::run_options::{RunOptions, runtime};
use crate::summary::{print_summary, say};
use anyhow::Context;
use clap::Args;
use skincell_runner::app::App;
use skincell_runner::handler::Handler;
use skincell_runner::sandbox::OutputSettings;
use skincell_runner::server::{self, HangUps, ServerSettings};
use skincell_runner::service::Service;
use skincell_runner::settings::{MAX_HEAD, Settings};
use skincell_runner::trace::{TraceSettings, Tracer};
use std::ffi::OsString;
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::net::TcpListener;

/// Socket buffer of a connection to the admin port, in bytes, for each direction.
const ADMIN_BUFFER: u32 = 64 << 10;

/// Flags for serving an application.
#[derive(Debug, Args)]
pub struct ServiceOptions {
    #[command(flatten)]
    pub run: RunOptions,

    #[command(flatten)]
    access: AccessOptions,

    /// Address and port to listen on, such as localhost:3000, or only a port of this machine; with port 0 a
    /// free port is chosen and printed.
    #[arg(long, value_name = "ADDRESS", env = "SPIN_HTTP_LISTEN_ADDR")]
    #[arg(default_value = "127.0.0.1:3000", value_parser = listen::address)]
    listen: SocketAddr,

    /// Requests that may wait in the queue; further ones are answered 503 at once.
    #[arg(long, value_name = "N", env = "SKINCELL_QUEUE", default_value_t = 64)]
    queue: usize,

    /// How long a request may wait in the queue.
    #[arg(long, value_name = "TIME", env = "SKINCELL_QUEUE_TIMEOUT", default_value = "10s")]
    #[arg(value_parser = humantime::parse_duration)]
    queue_timeout: Duration,

    /// Longest head of a request, in bytes: target and fields together; a longer one is answered 431. Each
    /// connection may buffer as much in each direction.
    #[arg(long, value_name = "BYTES", env = "SPIN_HTTP1_MAX_BUF_SIZE", default_value_t = MAX_HEAD)]
    #[arg(value_parser = clap::value_parser!(u32).range(8192..=1 << 20))]
    http1_max_buf_size: u32,

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

    /// Also stop when standard input ends: a service that a program starts ends with it, however that ends.
    #[arg(long)]
    until_input_ends: bool,

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
    log_dir: Option<OsString>,

    /// Empty the files in --log-dir at startup.
    #[arg(long)]
    truncate_logs: bool,
}

impl ServiceOptions {
    /// Serves `app` until a signal arrives and all accepted requests are finished.
    ///
    /// # Errors
    /// When the service cannot start, or requests were cut off at the end of `--drain-timeout`.
    pub fn serve(&self, mut app: App) -> anyhow::Result<()> {
        missing_models::warn(&app);
        let settings = self.settings(&mut app)?;
        if let Some(wrong) = &settings.misconfigured {
            tracing::error!("{wrong}; /readyz and all requests fail until it is corrected");
        }
        let start = Instant::now();
        let (access, tracer) = (self.access.access(&app)?, tracer(&app)?);
        let server_settings = self.server_settings()?;
        let runtime = runtime()?;
        runtime.block_on(async {
            let hang_ups = HangUps::new()?;
            let signal = server::stop_signal()?;
            let starting = tokio::spawn(end_at(server::stop_signal()?));
            let service = Arc::new(Service::start(app, &settings)?);
            starting.abort();
            let until_input_ends = self.until_input_ends;
            let stop = async move {
                tokio::select! {
                    _ = signal => {}
                    () = input_ended(), if until_input_ends => {}
                }
            };
            let listener = self.listener(service.plan().socket_buffer)?;
            let admin = self.access.admin_listen.map(|address| {
                let listener = server::listen(address, ADMIN_BUFFER);
                listener.with_context(|| format!("--admin-listen: cannot listen on {address}"))
            });
            let admin = admin.transpose()?;
            let address = listener.local_addr()?;
            if server_settings.tls.is_none() {
                service.listens_at(address);
            }
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
        Ok(())
    }
}

impl ServiceOptions {
    fn settings(&self, app: &mut App) -> anyhow::Result<Settings> {
        let default = self.run.settings_for(app)?;
        Ok(Settings {
            queue: self.queue,
            queue_timeout: self.queue_timeout,
            max_head: self.http1_max_buf_size,
            output: OutputSettings {
                quiet: self.quiet,
                follow: self.follow.clone(),
                // Empty means off, as in Spin.
                log_folder: self
                    .log_dir
                    .clone()
                    .filter(|folder| !folder.is_empty())
                    .map(PathBuf::from),
                truncate: self.truncate_logs,
            },
            preload: self.preload,
            unload_after: self.unload_after,
            admin_apart: self.access.admin_listen.is_some(),
            ..default
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

    /// Says at once that the port of `--listen` is in use, before a model is prepared or a component is
    /// built, which may take minutes.
    ///
    /// # Errors
    /// When the address cannot be bound.
    pub fn check_address(&self) -> anyhow::Result<()> {
        match std::net::TcpListener::bind(self.listen) {
            Err(error) if error.kind() != ErrorKind::AddrInUse || !self.find_free_port => {
                Err(cannot_listen(self.listen, error))
            }
            _ => Ok(()),
        }
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
                Err(error) => return Err(cannot_listen(address, error)),
            }
        }
        Err(cannot_listen(self.listen, taken.unwrap_or_else(|| ErrorKind::AddrInUse.into())))
    }
}

/// Ends the process at a signal to stop. The default action would do so, but not for the first process of a
/// container, nor where the parent ignores SIGINT. Files are staged at the end of the start only.
async fn end_at(signal: impl Future<Output = u8>) {
    let number = signal.await;
    std::process::exit(128 + i32::from(number));
}

/// Resolves when standard input ends. Reading it blocks, so a thread does.
async fn input_ended() {
    let (ended, end) = tokio::sync::oneshot::channel();
    std::thread::spawn(move || {
        let _ = std::io::copy(&mut std::io::stdin().lock(), &mut std::io::sink());
        let _ = ended.send(());
    });
    let _ = end.await;
}

fn cannot_listen(address: SocketAddr, error: std::io::Error) -> anyhow::Error {
    let advice = match error.kind() {
        ErrorKind::AddrInUse => "; choose another with --listen or --find-free-port",
        _ => "",
    };
    anyhow::Error::new(error).context(format!("cannot listen on {address}{advice}"))
}

/// A tracer, if the environment names a collector.
fn tracer(app: &App) -> anyhow::Result<Option<Tracer>> {
    let variable = |name: &str| std::env::var(name).ok();
    let traces = TraceSettings::read(variable, &app.name, &app.version)?;
    traces.map(Tracer::new).transpose().context("cannot send traces")
}
