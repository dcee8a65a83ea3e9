//! A folder of manifests with the development CA beside it, and a `wayline run` that serves it.

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use serde_json::Value;

use crate::loopback::Network;
use crate::metrics::Metrics;
use crate::process::{self, Finished, Process};
use crate::tunnel::{self, Caller, Refused, Tunnel};
use crate::{Request, Response, eventually, manifests, tools};

/// The host of a mesh's network on which `wayline run` listens.
pub const PROXY: u8 = 1;

/// The ports of `wayline run`: not the usual ones, which somebody may have open on every address of
/// this machine.
pub mod port {
    /// HBONE.
    pub const HBONE: u16 = 23_908;
    /// The admin interface.
    pub const ADMIN: u16 = 23_900;
    /// Readiness.
    pub const STATUS: u16 = 23_931;
    /// Metrics.
    pub const METRICS: u16 = 23_930;
}

/// The host from which callers of this harness come, unless they say otherwise.
pub const CALLER: u8 = 250;

/// A mesh on a loopback network of its own.
pub struct Mesh {
    home: tempfile::TempDir,
    network: Network,
    written: AtomicUsize,
}

impl Mesh {
    /// An empty mesh.
    ///
    /// # Panics
    /// When no temporary folder can be made.
    #[must_use]
    pub fn new() -> Self {
        let home = tempfile::tempdir().unwrap();
        std::fs::create_dir(home.path().join("manifests")).unwrap();
        Self {
            home,
            network: Network::claim(),
            written: AtomicUsize::new(0),
        }
    }

    /// A mesh with these manifests and Istio's text access log in [`Mesh::access_log`].
    #[must_use]
    pub fn with(documents: &[String]) -> Self {
        let mesh = Self::new();
        mesh.write("mesh.yaml", &mesh.logging(""));
        mesh.write("main.yaml", &manifests::file(documents));
        mesh
    }

    /// A ConfigMap that switches the access log on, with more of MeshConfig.
    #[must_use]
    pub fn logging(&self, more: &str) -> String {
        let file = self.home.path().join("access.log");
        manifests::mesh_config(&format!("accessLogFile: {}\n{more}", file.display()))
    }

    /// Host `n` of the mesh's network.
    #[must_use]
    pub fn ip(&self, n: u8) -> IpAddr {
        self.network.ip(n)
    }

    /// A folder that ends with the mesh.
    #[must_use]
    pub fn home(&self) -> &Path {
        self.home.path()
    }

    /// The folder of manifests.
    #[must_use]
    pub fn folder(&self) -> PathBuf {
        self.home.path().join("manifests")
    }

    /// The development CA's folder.
    #[must_use]
    pub fn ca(&self) -> PathBuf {
        self.home.path().join("ca")
    }

    /// Writes a manifest in one step, as editors and kubelets do.
    ///
    /// # Panics
    /// When it cannot be written.
    pub fn write(&self, name: &str, text: &str) {
        let number = self.written.fetch_add(1, Ordering::Relaxed);
        let fresh = self.home.path().join(format!("fresh-{number}"));
        std::fs::write(&fresh, text).unwrap();
        std::fs::rename(fresh, self.folder().join(name)).unwrap();
    }

    /// Removes a manifest.
    ///
    /// # Panics
    /// When it is not there.
    pub fn remove(&self, name: &str) {
        std::fs::remove_file(self.folder().join(name)).unwrap();
    }

    /// The lines of the access log so far.
    #[must_use]
    pub fn access_log(&self) -> Vec<String> {
        let text = std::fs::read_to_string(self.home.path().join("access.log"));
        text.unwrap_or_default()
            .lines()
            .map(str::to_owned)
            .collect()
    }

    /// The first line of the access log that contains `text`, waiting for it.
    #[must_use]
    pub fn logged(&self, text: &str) -> String {
        eventually(&format!("an access log line with {text}"), || {
            self.access_log()
                .into_iter()
                .find(|line| line.contains(text))
        })
    }

    /// A certificate of the mesh's CA, made by `wayline cert`: the folder with its files.
    ///
    /// # Panics
    /// When it cannot be made.
    #[must_use]
    pub fn certificate(&self, identity: &str) -> PathBuf {
        self.certificate_of(&self.ca(), identity)
    }

    /// A certificate of any development CA.
    ///
    /// # Panics
    /// When it cannot be made.
    #[must_use]
    pub fn certificate_of(&self, ca: &Path, identity: &str) -> PathBuf {
        let name: String = format!("{}-{identity}", ca.display())
            .chars()
            .map(|c| if c.is_ascii_alphanumeric() { c } else { '-' })
            .collect();
        let dir = self.home.path().join("certificates").join(name);
        // Two threads that ask for the same one must not mix its files with those of another key.
        static MAKING: Mutex<()> = Mutex::new(());
        let _alone = MAKING.lock().unwrap_or_else(PoisonError::into_inner);
        if !dir.join("cert-chain.pem").exists() {
            let mut command = Command::new(tools::wayline());
            command.arg("cert").arg("--dev-ca").arg(ca);
            command
                .args(["--identity", identity])
                .arg("--out")
                .arg(&dir);
            let finished = process::run(command);
            assert_eq!(finished.code, Some(0), "{}", finished.stderr);
        }
        dir
    }

    /// A workload `namespace/account` of this mesh.
    #[must_use]
    pub fn caller(&self, who: &str) -> Caller {
        let (namespace, account) = who.split_once('/').unwrap();
        Caller {
            certificate: self.certificate(&format!(
                "spiffe://cluster.local/ns/{namespace}/sa/{account}"
            )),
            source: Some(self.ip(CALLER)),
            window: None,
        }
    }

    /// Starts `wayline run` on host [`PROXY`] of the network and waits until it is ready.
    #[must_use]
    pub fn start(&self) -> Wayline {
        let wayline = self.start_with(&[]);
        wayline.wait_ready();
        wayline
    }

    /// Starts `wayline run` with more arguments, and does not wait.
    #[must_use]
    pub fn start_with(&self, args: &[&str]) -> Wayline {
        self.start_as(Command::new(tools::wayline()), args)
    }

    /// The same for another program that takes the same flags.
    #[must_use]
    pub fn start_as(&self, mut command: Command, args: &[&str]) -> Wayline {
        command.arg("run").arg("-f").arg(self.folder());
        for (flag, port) in [
            ("--hbone", port::HBONE),
            ("--admin", port::ADMIN),
            ("--status", port::STATUS),
            ("--metrics", port::METRICS),
        ] {
            command.args([flag, &SocketAddr::new(self.ip(PROXY), port).to_string()]);
        }
        command.args(["--log", "info", "--log-format", "text"]);
        if !args
            .iter()
            .any(|arg| matches!(*arg, "--identity-dir" | "--dev-ca"))
        {
            command.arg("--dev-ca").arg(self.ca());
        }
        if !args.contains(&"--drain-delay") {
            // Nobody here has to hear first that we are going.
            command.args(["--drain-delay", "50ms"]);
        }
        command.args(args);
        Wayline {
            process: Process::start(command),
            ip: self.ip(PROXY),
        }
    }

    /// Runs `wayline` with arguments to its end.
    #[must_use]
    pub fn run(&self, args: &[&str]) -> Finished {
        let mut command = Command::new(tools::wayline());
        command.args(args).current_dir(self.home.path());
        process::run(command)
    }

    /// A plain port into the mesh: tunnels of a workload to an authority.
    #[must_use]
    pub fn tunnel(&self, who: &str, authority: &str) -> Tunnel {
        self.tunnel_of(&self.caller(who), authority)
    }

    /// The same for any caller.
    #[must_use]
    pub fn tunnel_of(&self, caller: &Caller, authority: &str) -> Tunnel {
        Tunnel::open(self.ip(CALLER), self.hbone(), caller, authority)
    }

    /// How a workload's CONNECT is answered.
    ///
    /// # Errors
    /// How it is refused.
    pub fn knock(&self, who: &str, authority: &str) -> Result<(), Refused> {
        tunnel::knock(self.hbone(), &self.caller(who), authority)
    }

    /// Where waypoints of this mesh take HBONE.
    #[must_use]
    pub fn hbone(&self) -> SocketAddr {
        SocketAddr::new(self.ip(PROXY), port::HBONE)
    }
}

impl Default for Mesh {
    fn default() -> Self {
        Self::new()
    }
}

/// A running `wayline run`. Killed when dropped.
pub struct Wayline {
    /// The process.
    pub process: Process,
    ip: IpAddr,
}

impl Wayline {
    /// Waits until `/healthz/ready` says so.
    ///
    /// # Panics
    /// When it does not.
    pub fn wait_ready(&self) {
        eventually("wayline to be ready", || self.is_ready().then_some(()));
    }

    /// Whether `/healthz/ready` answers 200.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.readiness().is_some_and(|answer| answer.status == 200)
    }

    /// What `/healthz/ready` answers; `None` when nothing does.
    #[must_use]
    pub fn readiness(&self) -> Option<Response> {
        let address = self.address(port::STATUS);
        std::net::TcpStream::connect(address).ok()?;
        Some(Request::get("/healthz/ready").send(address))
    }

    /// Asks the admin port.
    #[must_use]
    pub fn admin(&self, method: &str, target: &str) -> Response {
        let admin = self.address(port::ADMIN);
        Request::new(method, target)
            .host(&admin.to_string())
            .send(admin)
    }

    /// Asks the admin port for a JSON document.
    ///
    /// # Panics
    /// When the answer is none.
    #[must_use]
    pub fn admin_json(&self, target: &str) -> Value {
        let answer = self.admin("GET", target);
        assert_eq!(answer.status, 200, "{}", answer.text());
        serde_json::from_slice(&answer.body).unwrap()
    }

    /// A scrape.
    #[must_use]
    pub fn metrics(&self) -> Metrics {
        Metrics::parse(
            &Request::get("/stats/prometheus")
                .send(self.address(port::METRICS))
                .text(),
        )
    }

    /// Waits until the series add up to a value, and returns the scrape.
    ///
    /// # Panics
    /// When they do not.
    pub fn counted(&self, name: &str, labels: &[(&str, &str)], value: f64) -> Metrics {
        let mut last = 0.0;
        for _ in 0..1000 {
            let metrics = self.metrics();
            last = metrics.sum(name, labels);
            if last == value {
                return metrics;
            }
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
        panic!("{name}{labels:?} is {last}, not {value}");
    }

    /// How many refusals of a reason were counted.
    #[must_use]
    pub fn refusals(&self, reason: &str) -> f64 {
        self.metrics()
            .sum("wayline_refusals_total", &[("reason", reason)])
    }

    /// Resident memory in KiB.
    ///
    /// # Panics
    /// When the process has ended.
    #[must_use]
    pub fn memory_kib(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.process.id()));
        let status = status.unwrap();
        let line = status.lines().find(|line| line.starts_with("VmRSS:"));
        let number = line.and_then(|line| line.split_ascii_whitespace().nth(1));
        number.unwrap().parse().unwrap()
    }

    /// A port of this process.
    #[must_use]
    pub fn address(&self, port: u16) -> SocketAddr {
        SocketAddr::new(self.ip, port)
    }
}
