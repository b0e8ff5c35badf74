//! Runs `skincell up` or `skincell serve` as a child process on a free port, and kills it when the value is
//! dropped.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use crate::app::App;
use crate::artifacts::artifacts;
use crate::client;

/// Time limit of a start. A warm one takes milliseconds; the first one compiles the components, perhaps
/// with an unoptimised compiler.
const START_TIMEOUT: Duration = Duration::from_secs(180);

/// Time limit of a stop.
const STOP_TIMEOUT: Duration = Duration::from_secs(30);

/// Time limit until something is counted.
const METRIC_TIMEOUT: Duration = Duration::from_secs(10);

/// A running service.
#[derive(Debug)]
pub struct Runner {
    child: Child,
    address: SocketAddr,
    log: PathBuf,
}

impl Runner {
    /// Starts the service with additional `flags` of `skincell up`, and waits until it listens.
    #[must_use]
    pub fn start(app: &App, flags: &[&str]) -> Self {
        Self::start_with::<&str>(app, flags, &[])
    }

    /// Like [`Runner::start`], with environment variables.
    #[must_use]
    pub fn start_with<V: AsRef<OsStr>>(
        app: &App,
        flags: &[&str],
        environment: &[(&str, V)],
    ) -> Self {
        let mut command = Command::new(&artifacts().runner);
        command.args(["up", "--from"]).arg(app.path());
        // Shared by all tests, so that only the first one compiles.
        command.arg("--cache-dir").arg(artifacts().component.with_file_name("tests-cache"));
        // Each test chooses its engine itself.
        command.env_remove("ORT_DYLIB_PATH");
        command.args(flags).envs(environment.iter().map(|(name, value)| (name, value)));
        Self::spawn(command, app.path())
    }

    /// Starts `skincell serve` with `arguments` in `folder`, which also holds its cache and its log, and
    /// waits until it listens.
    #[must_use]
    pub fn serve(folder: &Path, arguments: &[&str]) -> Self {
        Self::spawn(serve(folder, arguments), folder)
    }

    /// The error of `skincell serve` when it refuses to start.
    #[must_use]
    pub fn refused_to_serve(folder: &Path, arguments: &[&str]) -> String {
        let output = serve(folder, arguments).output().expect("the runner starts");
        assert_eq!(output.status.code(), Some(1), "it is refused");
        String::from_utf8_lossy(&output.stderr).into_owned()
    }

    /// Runs a command that serves, with its log and its temporary files in `folder`.
    fn spawn(mut command: Command, folder: &Path) -> Self {
        let log = folder.join("runner.log");
        let errors = File::create(&log).expect("the log is made");
        let mut child = command
            .args(["--listen", "127.0.0.1:0"])
            // Its temporary files are deleted with the folder, even if it is killed.
            .env("TMPDIR", folder)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(errors)
            .spawn()
            .expect("the runner starts");
        let stdout = child.stdout.take().expect("stdout is piped");
        let (send, lines) = mpsc::channel();
        std::thread::spawn(move || {
            // Continues reading after the address, so that the runner never blocks on a full pipe.
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                if let Some((_, address)) = line.split_once("://") {
                    let _ = send.send(address.parse());
                }
            }
        });
        let mut runner = Self { child, address: SocketAddr::from(([0; 4], 0)), log };
        let address = lines.recv_timeout(START_TIMEOUT).expect("the runner prints its address");
        runner.address = address.expect("the address is one");
        runner
    }

    /// The error of `skincell up` when it refuses to start.
    #[must_use]
    pub fn refused(app: &App, flags: &[&str]) -> String {
        let output = Command::new(&artifacts().runner)
            .args(["up", "--listen", "127.0.0.1:0", "--from"])
            .arg(app.path())
            .arg("--cache-dir")
            .arg(artifacts().component.with_file_name("tests-cache"))
            .args(flags)
            .env("TMPDIR", app.path())
            .output()
            .expect("the runner starts");
        assert_eq!(output.status.code(), Some(1), "it is refused");
        String::from_utf8_lossy(&output.stderr).into_owned()
    }

    /// Sends SIGTERM.
    pub fn terminate(&self) {
        let kill = Command::new("kill").args(["-TERM", &self.id().to_string()]).status();
        assert!(kill.is_ok_and(|status| status.success()), "the signal is sent");
    }

    /// Stops it as SIGTERM does and returns its whole log. Its lines are queued, so before its end some may
    /// be missing.
    #[must_use]
    pub fn stop(mut self) -> String {
        self.terminate();
        assert_eq!(self.wait(), Some(0), "it ends in order");
        std::fs::read_to_string(&self.log).expect("the log can be read")
    }

    /// Waits for its end, with a time limit, and returns its exit code.
    #[must_use]
    pub fn wait(&mut self) -> Option<i32> {
        let deadline = Instant::now() + STOP_TIMEOUT;
        while Instant::now() < deadline {
            if let Some(status) = self.child.try_wait().expect("the runner can be waited for") {
                return status.code();
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        panic!("the runner did not stop within {STOP_TIMEOUT:?}")
    }

    /// The address it listens on.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Peak memory so far, in bytes (VmHWM).
    #[must_use]
    pub fn peak_bytes(&self) -> u64 {
        self.status_bytes("VmHWM:")
    }

    /// Current private memory, in bytes (RssAnon).
    #[must_use]
    pub fn private_bytes(&self) -> u64 {
        self.status_bytes("RssAnon:")
    }

    fn status_bytes(&self, name: &str) -> u64 {
        let path = format!("/proc/{}/status", self.child.id());
        let status = std::fs::read_to_string(path).expect("the runner lives");
        let line = status.lines().find_map(|line| line.strip_prefix(name)).expect("a line");
        let kib: u64 = line.trim_end_matches("kB").trim().parse().expect("a number");
        kib << 10
    }

    /// Peak private memory during `work`, sampled every millisecond.
    pub fn private_peak<T>(&self, work: impl FnOnce() -> T) -> (T, u64) {
        let is_done = std::sync::atomic::AtomicBool::new(false);
        std::thread::scope(|scope| {
            let watch = scope.spawn(|| {
                let mut peak = 0;
                while !is_done.load(std::sync::atomic::Ordering::Relaxed) {
                    peak = self.private_bytes().max(peak);
                    std::thread::sleep(Duration::from_millis(1));
                }
                peak
            });
            let outcome = work();
            is_done.store(true, std::sync::atomic::Ordering::Relaxed);
            (outcome, watch.join().expect("the watcher ends"))
        })
    }

    /// Waits, with a time limit, until `/metrics` has this line.
    pub fn wait_for_metric(&self, line: &str) {
        let deadline = Instant::now() + METRIC_TIMEOUT;
        while !String::from_utf8_lossy(&client::get(self, "/metrics").body).contains(line) {
            assert!(Instant::now() < deadline, "{line}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Its process id.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.child.id()
    }
}

/// `skincell serve` in `folder`, with its cache there, so that each test prepares its models itself.
fn serve(folder: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(&artifacts().runner);
    command
        .arg("serve")
        .args(arguments)
        .current_dir(folder)
        .env("SPIN_HTTP_LISTEN_ADDR", "127.0.0.1:0");
    command.env("XDG_CACHE_HOME", folder.join("cache")).env_remove("ORT_DYLIB_PATH");
    command
}

impl Drop for Runner {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            let log = std::fs::read_to_string(&self.log).unwrap_or_default();
            eprintln!("--- log of the runner:\n{log}---");
        }
    }
}
