//! `skincell up` as a child process on a free port, killed with the value that stands for it.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use crate::app::App;
use crate::artifacts::artifacts;

/// Longest a start may take. A warm one is milliseconds; the first compiles the components, with a
/// compiler that may itself be unoptimised.
const START_TIMEOUT: Duration = Duration::from_secs(180);

/// Longest a stop may take.
const STOP_TIMEOUT: Duration = Duration::from_secs(30);

/// A running service.
#[derive(Debug)]
pub struct Runner {
    child: Child,
    address: SocketAddr,
    log: PathBuf,
}

impl Runner {
    /// Starts the service with further `flags` of `skincell up`, and waits until it listens.
    #[must_use]
    pub fn start(app: &App, flags: &[&str]) -> Self {
        Self::start_with::<&str>(app, flags, &[])
    }

    /// The same, with environment variables.
    #[must_use]
    pub fn start_with<V: AsRef<OsStr>>(
        app: &App,
        flags: &[&str],
        environment: &[(&str, V)],
    ) -> Self {
        let log = app.path().join("runner.log");
        let errors = File::create(&log).expect("the log is made");
        // Shared by all tests, so that only the first of them compiles.
        let cache = artifacts().component.with_file_name("tests-cache");
        let mut child = Command::new(&artifacts().runner)
            .args(["up", "--listen", "127.0.0.1:0", "--from"])
            .arg(app.path())
            .arg("--cache-dir")
            .arg(cache)
            .args(flags)
            // What it stages goes with the application's folder, even when it is killed.
            .env("TMPDIR", app.path())
            // Who runs the models is each test's own business.
            .env_remove("ORT_DYLIB_PATH")
            .envs(environment.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(errors)
            .spawn()
            .expect("the runner starts");
        let stdout = child.stdout.take().expect("stdout is piped");
        let (send, lines) = mpsc::channel();
        std::thread::spawn(move || {
            // Reads on after the address, so that the runner never waits for us.
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

    /// What `skincell up` says when it refuses to start.
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

    /// Waits for its end, with a bound, and gives its exit code.
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

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The most memory it has held so far, in bytes (VmHWM).
    #[must_use]
    pub fn peak_bytes(&self) -> u64 {
        self.status_bytes("VmHWM:")
    }

    /// Private memory it holds now, in bytes (RssAnon).
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

    /// The most private memory it held while `work` was done, as far as a look every millisecond shows it.
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

    /// Its process id.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for Runner {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            let log = std::fs::read_to_string(&self.log).unwrap_or_default();
            eprintln!("--- what the runner said:\n{log}---");
        }
    }
}
