//! A scene set up: one `wayline run`, one backend behind it, and a way in by each entrance.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::process::Command;
use std::rc::Rc;
use std::time::Duration;

use super::bytes::unescape;
use super::mint::Mint;
use super::recorder::Recorder;
use super::{Entrance, Scene};
use crate::PATIENCE;
use crate::manifests::{self, Parent, Pod};
use crate::mesh::{CALLER, Mesh, PROXY, Wayline};
use crate::tools;
use crate::tunnel::Tunnel;

/// Where the backend listens.
const BACKEND_PORT: u16 = 23_917;

/// The gateway's port.
const GATEWAY_PORT: u16 = 23_920;

/// The host of the backend.
const BACKEND: u8 = 20;

/// The service behind the waypoint.
const AUTHORITY: &str = "10.96.0.20:80";

/// A scene at work.
pub struct Stage {
    /// The proxy.
    pub wayline: Wayline,
    /// What is behind it.
    pub backend: Recorder,
    /// Further servers by host.
    pub servers: BTreeMap<String, Recorder>,
    /// Files and addresses.
    pub mesh: Mesh,
    mint: Rc<Mint>,
    /// Whether a defence is switched off.
    pub without_defence: bool,
    tunnels: RefCell<BTreeMap<String, Tunnel>>,
    bare: RefCell<Option<Tunnel>>,
}

impl Stage {
    /// Starts a scene, with a path normalisation if it is not the scene's own, and without a defence if
    /// one is named.
    ///
    /// # Panics
    /// When Wayline does not come up.
    #[must_use]
    pub(super) fn set(
        defence: Option<&str>,
        scene: &Scene,
        normalization: Option<&str>,
        mint: &Rc<Mint>,
    ) -> Self {
        let mesh = Mesh::new();
        let fill = |text: &str| mint.fill(text, &|n| mesh.ip(n));
        let mut settings = fill(&scene.mesh);
        if let Some(mode) = normalization {
            settings += &format!("\npathNormalization: {{normalization: {mode}}}\n");
        }
        let mut config = mesh.logging(&settings);
        if !scene.annotations.is_empty() {
            let lines: String = scene
                .annotations
                .iter()
                .map(|(key, value)| format!("    {key}: \"{value}\"\n"))
                .collect();
            let annotated = format!("metadata:\n  annotations:\n{lines}");
            config = config.replacen("metadata:\n", &annotated, 1);
        }
        mesh.write("mesh.yaml", &config);
        let main = manifests::file(&documents(scene, &mesh));
        mesh.write("main.yaml", &fill(&main));
        let backend = Recorder::start(mesh.ip(BACKEND), BACKEND_PORT);
        let servers = scene.servers.iter().map(|(host, replies)| {
            let ip = mesh.ip(host.parse().unwrap());
            let replies = replies
                .iter()
                .map(|(target, reply)| (target.clone(), unescape(&fill(reply))))
                .collect();
            (host.clone(), Recorder::serving(ip, BACKEND_PORT, replies))
        });
        let servers = servers.collect();
        let args: Vec<String> = scene.args.iter().map(|arg| fill(arg)).collect();
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        let wayline = match defence {
            None => mesh.start_with(&args),
            Some(defence) => {
                let mut command = Command::new(tools::undefended());
                command.env("WAYLINE_DEFENCE_OFF", defence);
                mesh.start_as(command, &args)
            }
        };
        wayline.wait_ready();
        Self {
            wayline,
            backend,
            servers,
            mesh,
            mint: Rc::clone(mint),
            without_defence: defence.is_some(),
            tunnels: RefCell::default(),
            bare: RefCell::default(),
        }
    }

    /// How long an answer is waited for. Where a defence is left out, what was broken mostly waits for ever.
    #[must_use]
    pub(super) fn patience(&self) -> Duration {
        match self.without_defence {
            true => Duration::from_secs(3),
            false => PATIENCE,
        }
    }

    /// A text of a case with everything in it that is known only now.
    #[must_use]
    pub(super) fn fill(&self, text: &str) -> String {
        self.mint.fill(text, &|n| self.mesh.ip(n))
    }

    /// Where HTTP/2 is spoken as tunnels speak it, within the TLS of a caller.
    #[must_use]
    pub fn hbone(&self, from: &str) -> SocketAddr {
        let mut bare = self.bare.borrow_mut();
        bare.get_or_insert_with(|| {
            Tunnel::bare(
                self.mesh.ip(CALLER),
                self.mesh.hbone(),
                &self.mesh.caller(from),
            )
        })
        .address
    }

    /// Where an entrance is; inside a tunnel, for that caller.
    #[must_use]
    pub fn address(&self, entrance: Entrance, from: &str) -> SocketAddr {
        if !entrance.is_tunnel() {
            return SocketAddr::new(self.mesh.ip(PROXY), GATEWAY_PORT);
        }
        let mut tunnels = self.tunnels.borrow_mut();
        tunnels
            .entry(from.to_owned())
            .or_insert_with(|| self.mesh.tunnel(from, AUTHORITY))
            .address
    }
}

fn documents(scene: &Scene, mesh: &Mesh) -> Vec<String> {
    let everything = "- backendRefs:\n  - name: echo\n    port: 80\n";
    let rules = scene.rules.as_deref().unwrap_or(everything);
    let mut documents = vec![
        manifests::namespace("default", &[("istio.io/use-waypoint", "waypoint")]),
        manifests::waypoint("default", "waypoint"),
        manifests::service(
            "default",
            "echo",
            "10.96.0.20",
            &[("http", 80, BACKEND_PORT)],
        ),
        Pod::new("echo", mesh.ip(BACKEND)).yaml(),
        manifests::gateway(
            "default",
            "edge",
            mesh.ip(PROXY),
            &manifests::listener("http", GATEWAY_PORT),
        ),
        manifests::route("default", "edge", Parent::Gateway("edge"), rules),
    ];
    let targets = [
        ("service", "{kind: Service, group: \"\", name: echo}"),
        (
            "gateway",
            "{kind: Gateway, group: gateway.networking.k8s.io, name: edge}",
        ),
    ];
    for (name, target) in targets {
        let attached = |spec: &str| format!("targetRefs:\n- {target}\n{}", spec.trim());
        for (number, spec) in scene.policies.iter().enumerate() {
            let name = format!("policy-{number}-{name}");
            documents.push(manifests::policy("default", &name, &attached(spec)));
        }
        for (number, spec) in scene.authentication.iter().enumerate() {
            let name = format!("tokens-{number}-{name}");
            documents.push(manifests::authentication("default", &name, &attached(spec)));
        }
    }
    if !scene.documents.is_empty() {
        documents.push(scene.documents.clone());
    }
    documents
}
