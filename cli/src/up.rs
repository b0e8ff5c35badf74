//! `skincell up`: serves the application until it is told to stop.

use crate::application_options::ApplicationOptions;
use crate::service_options::ServiceOptions;
use crate::spin_flags;
use clap::Args;
use skincell_runner::allocator;
use std::process::ExitCode;

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
    application: ApplicationOptions,

    #[command(flatten)]
    service: ServiceOptions,

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
        spin_flags::warn_of_variables(|variable| {
            std::env::var_os(variable).is_some_and(|value| !value.is_empty())
        });
        self.service.check_address()?;
        let app = self.application.load(&self.service.run.environment)?;
        self.service.serve(app)?;
        Ok(ExitCode::SUCCESS)
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
