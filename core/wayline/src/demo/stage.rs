//! The demo's folder: the manifests of Bookinfo, with the ports of this machine in place of those
//! written there.

use std::fs;
use std::hash::{BuildHasher as _, RandomState};
use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use crate::failure::Failure;

macro_rules! manifest {
    ($name:literal) => {
        (
            $name,
            include_str!(concat!("../../../../examples/manifests/bookinfo/", $name)),
        )
    };
}

/// The manifests as a user copies them.
const MANIFESTS: [(&str, &str); 8] = [
    manifest!("namespace.yaml"),
    manifest!("mesh.yaml"),
    manifest!("services.yaml"),
    manifest!("workloads.yaml"),
    manifest!("waypoint.yaml"),
    manifest!("gateway.yaml"),
    manifest!("routes.yaml"),
    manifest!("policies.yaml"),
];

/// The backends, as `workloads.yaml` names their Pods, with the ports it gives them.
const BACKENDS: [(&str, u16); 6] = [
    ("productpage-v1", 18081),
    ("details-v1", 18082),
    ("ratings-v1", 18083),
    ("reviews-v1", 18091),
    ("reviews-v2", 18092),
    ("reviews-v3", 18093),
];

/// One backend with the socket it will serve.
#[derive(Debug)]
pub(crate) struct Place {
    /// The name of its Pod.
    pub(crate) name: &'static str,
    /// Where it listens.
    pub(crate) address: SocketAddr,
    /// The socket.
    pub(crate) listener: TcpListener,
}

/// A folder with everything the demo needs; removed when dropped.
#[derive(Debug)]
pub(crate) struct Stage {
    dir: TempDir,
    /// Where the ingress Gateway listens.
    pub(crate) ingress: SocketAddr,
}

impl Stage {
    /// Finds free ports, opens the backends' sockets, and writes the manifests.
    pub(crate) fn set() -> Result<(Self, Vec<Place>), Failure> {
        let dir = tempfile::Builder::new()
            .prefix("wayline-demo-")
            .tempdir()
            .map_err(|error| {
                Failure::new(format!("cannot make a temporary folder: {error}"))
                    .remedy("point TMPDIR at a folder that can be written")
            })?;
        let backends = backends().map_err(no_port)?;
        let ingress = free_port().map_err(no_port)?;
        let stage = Self { dir, ingress };
        let written: Vec<(u16, u16)> = BACKENDS
            .iter()
            .zip(&backends)
            .map(|((_, written), place)| (*written, place.address.port()))
            .collect();
        let edits = edits(&written, ingress, &stage.access_log());
        stage.write(&edits).map_err(|error| {
            Failure::new(format!(
                "cannot write manifests to {}: {error}",
                stage.dir.path().display()
            ))
            .remedy("point TMPDIR at a folder with room")
        })?;
        Ok((stage, backends))
    }

    /// The folder that is served.
    pub(crate) fn manifests(&self) -> PathBuf {
        self.dir.path().join("manifests")
    }

    /// The folder of the development CA.
    pub(crate) fn dev_ca(&self) -> PathBuf {
        self.dir.path().join("ca")
    }

    /// Where access logs go.
    pub(crate) fn access_log(&self) -> PathBuf {
        self.dir.path().join("access.log")
    }

    fn write(&self, edits: &[Edit]) -> io::Result<()> {
        let folder = self.manifests();
        fs::create_dir(&folder)?;
        for (name, text) in MANIFESTS {
            let mut text = text.to_owned();
            for edit in edits.iter().filter(|edit| edit.file == name) {
                text = text.replacen(&edit.written, &edit.ours, 1);
            }
            fs::write(folder.join(name), text)?;
        }
        Ok(())
    }
}

/// One thing that differs between the manifests as written and as served here.
#[derive(Debug)]
struct Edit {
    file: &'static str,
    written: String,
    ours: String,
}

/// All that differs: the ports of the backends, where the ingress Gateway listens, and where the access
/// log goes (stdout belongs to what the demo says).
fn edits(backends: &[(u16, u16)], ingress: SocketAddr, access_log: &Path) -> Vec<Edit> {
    let edit = |file, written: &str, ours: String| Edit {
        file,
        written: written.to_owned(),
        ours,
    };
    let mut edits = vec![
        edit(
            "gateway.yaml",
            "port: 8080\n",
            format!("port: {}\n", ingress.port()),
        ),
        edit(
            "gateway.yaml",
            "gatewayClassName: istio\n",
            format!(
                "gatewayClassName: istio\n  addresses:\n  - type: IPAddress\n    value: {}\n",
                ingress.ip()
            ),
        ),
        edit(
            "mesh.yaml",
            "accessLogFile: /dev/stdout\n",
            format!("accessLogFile: '{}'\n", quoted(access_log)),
        ),
    ];
    for (written, ours) in backends {
        edits.push(edit(
            "workloads.yaml",
            &format!("containerPort: {written}\n"),
            format!("containerPort: {ours}\n"),
        ));
    }
    edits
}

/// A path within a single-quoted YAML scalar.
fn quoted(path: &Path) -> String {
    path.display().to_string().replace('\'', "''")
}

fn backends() -> io::Result<Vec<Place>> {
    let mut places = Vec::with_capacity(BACKENDS.len());
    for (name, _) in BACKENDS {
        let listener = bind()?;
        listener.set_nonblocking(true)?;
        places.push(Place {
            name,
            address: listener.local_addr()?,
            listener,
        });
    }
    Ok(places)
}

/// A port for the Gateway's listener, which must be written down before it is opened. It comes from
/// below those that systems hand out by themselves, so that nobody gets it by chance in between.
fn free_port() -> io::Result<SocketAddr> {
    const RANGE: std::ops::Range<u16> = 20_000..32_000;
    const TRIES: u64 = 100;
    let random = RandomState::new();
    let mut outcome = Err(io::ErrorKind::AddrInUse.into());
    for attempt in 0..TRIES {
        let step = random.hash_one(attempt) % u64::from(RANGE.end - RANGE.start);
        let port = RANGE.start + step as u16;
        outcome = TcpListener::bind((Ipv4Addr::LOCALHOST, port))
            .and_then(|listener| listener.local_addr());
        if outcome.is_ok() {
            break;
        }
    }
    outcome
}

fn bind() -> io::Result<TcpListener> {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
}

fn no_port(error: io::Error) -> Failure {
    Failure::new(format!("cannot listen on 127.0.0.1: {error}"))
        .remedy("close programs that hold many ports, or raise the limit of open files (ulimit -n)")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_edit_finds_its_one_place_in_the_manifests() {
        let backends: Vec<(u16, u16)> = BACKENDS.iter().map(|(_, port)| (*port, 1)).collect();
        let edits = edits(
            &backends,
            SocketAddr::from(([127, 0, 0, 1], 2)),
            Path::new("/tmp/it's/log"),
        );
        for edit in &edits {
            let (_, text) = MANIFESTS
                .iter()
                .find(|(name, _)| *name == edit.file)
                .unwrap();
            assert_eq!(text.matches(&edit.written).count(), 1, "{edit:?}");
        }
        let (_, workloads) = MANIFESTS[3];
        assert_eq!(workloads.matches("containerPort: ").count(), BACKENDS.len());
        for (name, _) in BACKENDS {
            assert!(
                workloads.contains(&format!("name: {name}\n")),
                "no Pod {name}"
            );
        }
    }

    #[test]
    fn the_folder_holds_what_is_served_here_and_is_removed() {
        let (stage, places) = Stage::set().unwrap();
        let folder = stage.manifests();
        let read = |name: &str| fs::read_to_string(folder.join(name)).unwrap();
        assert!(read("gateway.yaml").contains(&format!("port: {}\n", stage.ingress.port())));
        for place in &places {
            let port = format!("containerPort: {}\n", place.address.port());
            assert!(read("workloads.yaml").contains(&port), "{port}");
        }
        assert!(!read("mesh.yaml").contains("/dev/stdout"));
        drop(stage);
        assert!(!folder.exists());
    }
}
