//! A real Envoy, from the templates in `fixtures/envoy`.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;

use serde_json::Value;

use crate::mesh::Mesh;
use crate::process::Process;
use crate::{Request, eventually, tools};

/// A running Envoy. Killed when dropped.
pub struct Envoy {
    /// The process; each connection or CONNECT that ended is a line on its standard output.
    pub process: Process,
    /// Where it listens.
    pub address: SocketAddr,
}

/// The one filter of [`Envoy::filtering`].
#[derive(Clone, Copy, Debug)]
pub struct WasmFilter<'a> {
    /// The module's file.
    pub module: &'a Path,
    /// Root id.
    pub root_id: &'a str,
    /// Configuration, as text without single quotes.
    pub configuration: &'a str,
    /// `FAIL_CLOSED`, `FAIL_OPEN` or `FAIL_RELOAD`.
    pub failure_policy: &'a str,
    /// How many bytes of a body may be held.
    pub buffer_limit: usize,
}

impl Envoy {
    /// Envoy as HBONE client, in the place of a ztunnel: plain connections to [`Envoy::address`]
    /// become tunnels of `certificate` to `authority`, at a proxy that must be `proxy_identity`.
    #[must_use]
    pub fn client(mesh: &Mesh, certificate: &Path, proxy_identity: &str, authority: &str) -> Self {
        let hbone = mesh.hbone();
        Self::start(
            mesh,
            "hbone-client",
            &[
                ("LISTEN_ADDRESS", &mesh.ip(crate::mesh::CALLER).to_string()),
                ("LISTEN_PORT", "0"),
                ("PROXY_ADDRESS", &hbone.ip().to_string()),
                ("PROXY_PORT", &hbone.port().to_string()),
                ("PROXY_IDENTITY", proxy_identity),
                ("AUTHORITY", authority),
                ("CERT_DIR", &certificate.display().to_string()),
            ],
        )
    }

    /// Envoy as HBONE server at `listen`, in the place of a captured pod's ztunnel, in front of
    /// `target`, for clients that are `client_identity`.
    #[must_use]
    pub fn server(
        mesh: &Mesh,
        certificate: &Path,
        listen: SocketAddr,
        target: SocketAddr,
        client_identity: &str,
    ) -> Self {
        Self::start(
            mesh,
            "hbone-server",
            &[
                ("LISTEN_ADDRESS", &listen.ip().to_string()),
                ("LISTEN_PORT", &listen.port().to_string()),
                ("TARGET_ADDRESS", &target.ip().to_string()),
                ("TARGET_PORT", &target.port().to_string()),
                ("CLIENT_IDENTITY", client_identity),
                ("CERT_DIR", &certificate.display().to_string()),
            ],
        )
    }

    /// Envoy as a gateway that answers everything itself: `/forbidden` is denied, nothing listens where
    /// `/refused` leads, `slow` does not answer `/slow` within 200 ms, `/moved` is a redirect, and for
    /// anything else there is no route.
    #[must_use]
    pub fn answering(mesh: &Mesh, slow: SocketAddr) -> Self {
        Self::start(
            mesh,
            "local-replies",
            &[
                ("LISTEN_ADDRESS", &mesh.ip(crate::mesh::CALLER).to_string()),
                ("LISTEN_PORT", "0"),
                ("SLOW_ADDRESS", &slow.ip().to_string()),
                ("SLOW_PORT", &slow.port().to_string()),
                ("REFUSED_ADDRESS", &slow.ip().to_string()),
            ],
        )
    }

    /// Envoy as a plain HTTP proxy in front of `target`, with these filters and these clusters besides.
    #[must_use]
    pub fn http(mesh: &Mesh, target: SocketAddr, filters: &[Value], clusters: &[Value]) -> Self {
        let list = |values: &[Value]| {
            let values: Vec<String> = values.iter().map(|value| format!("{value},")).collect();
            values.join("\n")
        };
        Self::start(
            mesh,
            "http",
            &[
                ("LISTEN_ADDRESS", &mesh.ip(crate::mesh::CALLER).to_string()),
                ("TARGET_ADDRESS", &target.ip().to_string()),
                ("TARGET_PORT", &target.port().to_string()),
                ("FILTERS", &list(filters)),
                ("CLUSTERS", &list(clusters)),
            ],
        )
    }

    /// Envoy with a Proxy-Wasm filter, in front of `backend`. The filter may call `auth` as
    /// `outbound|80||auth.default.svc.cluster.local`, and `dead`, where nobody listens, as
    /// `outbound|80||dead.default.svc.cluster.local`.
    #[must_use]
    pub fn filtering(
        mesh: &Mesh,
        filter: &WasmFilter<'_>,
        backend: SocketAddr,
        auth: SocketAddr,
        dead: SocketAddr,
    ) -> Self {
        Self::start_saying(
            mesh,
            "wasm",
            &[
                ("LISTEN_ADDRESS", &mesh.ip(crate::mesh::PROXY).to_string()),
                ("LISTEN_PORT", "0"),
                ("BACKEND_ADDRESS", &backend.ip().to_string()),
                ("BACKEND_PORT", &backend.port().to_string()),
                ("AUTH_ADDRESS", &auth.ip().to_string()),
                ("AUTH_PORT", &auth.port().to_string()),
                ("DEAD_ADDRESS", &dead.ip().to_string()),
                ("DEAD_PORT", &dead.port().to_string()),
                ("MODULE", &filter.module.display().to_string()),
                ("ROOT_ID", filter.root_id),
                ("CONFIGURATION", filter.configuration),
                ("FAILURE_POLICY", filter.failure_policy),
                ("BUFFER_LIMIT", &filter.buffer_limit.to_string()),
            ],
            &["--component-log-level", "wasm:trace"],
        )
    }

    /// Envoy in the place of a waypoint, with these filter chains behind the tunnels and these clusters.
    /// A chain sees as destination what the tunnel's authority names, as source the tunnel's client, and
    /// the client's identity as filter state `io.istio.peer_principal`.
    #[must_use]
    pub fn waypoint(mesh: &Mesh, certificate: &Path, chains: &[Value], clusters: &[Value]) -> Self {
        let chains: Vec<String> = chains.iter().map(Value::to_string).collect();
        let clusters: Vec<String> = clusters.iter().map(|value| format!("{value},")).collect();
        Self::start(
            mesh,
            "waypoint",
            &[
                ("LISTEN_ADDRESS", &mesh.ip(crate::mesh::CALLER).to_string()),
                ("CERT_DIR", &certificate.display().to_string()),
                // In one line each: the words stand in a comment of the template, too.
                ("CHAINS", &chains.join(", ")),
                ("CLUSTERS", &clusters.join(" ")),
            ],
        )
    }

    fn start(mesh: &Mesh, template: &str, values: &[(&str, &str)]) -> Self {
        Self::start_saying(mesh, template, values, &[])
    }

    fn start_saying(mesh: &Mesh, template: &str, values: &[(&str, &str)], log: &[&str]) -> Self {
        let dir = tempfile::tempdir_in(mesh.home()).unwrap().keep();
        let (file, admin) = (dir.join("envoy.yaml"), dir.join("admin"));
        let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/envoy");
        let mut text =
            std::fs::read_to_string(fixtures.join(template).with_extension("yaml")).unwrap();
        for (name, value) in values {
            text = text.replace(&format!("{{{{{name}}}}}"), value);
        }
        // The admin interface says where it is; two meshes must not meet there.
        std::fs::write(&file, text).unwrap();
        let mut command = Command::new(tools::tool("envoy"));
        command.arg("-c").arg(&file).arg("--use-dynamic-base-id");
        command.args(["--concurrency", "1", "--log-level", "warn"]);
        command.args(["--file-flush-interval-msec", "20"]).args(log);
        command.arg("--admin-address-path").arg(&admin);
        let process = Process::start(command);
        let admin: SocketAddr = eventually("Envoy's admin address", || {
            std::fs::read_to_string(&admin).ok()?.trim().parse().ok()
        });
        eventually("Envoy to be ready", || {
            (Request::get("/ready").send(admin).status == 200).then_some(())
        });
        let listeners = Request::get("/listeners?format=json").send(admin);
        let listeners: Value = serde_json::from_slice(&listeners.body).unwrap();
        // Internal listeners have no socket.
        let mut statuses = listeners["listener_statuses"].as_array().unwrap().iter();
        let bound = statuses
            .find_map(|status| status["local_address"].get("socket_address"))
            .unwrap();
        let ip = bound["address"].as_str().unwrap().parse().unwrap();
        let port = u16::try_from(bound["port_value"].as_u64().unwrap()).unwrap();
        Self {
            process,
            address: SocketAddr::new(ip, port),
        }
    }

    /// The first line of standard output with `text`, waiting for it.
    #[must_use]
    pub fn logged(&self, text: &str) -> String {
        eventually(&format!("Envoy to log {text}"), || {
            let said = self.process.stdout();
            said.lines()
                .find(|line| line.contains(text))
                .map(str::to_owned)
        })
    }
}
