//! A configuration that does not hold still: one more route that is written anew a thousand times a second.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde_json::json;

/// Between two changes.
const INTERVAL: Duration = Duration::from_millis(1);

/// Changes until dropped.
pub(crate) struct Churn {
    over: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Churn {
    /// Changes Wayline's manifests in a contestant's folder.
    pub(crate) fn start(dir: &Path) -> Self {
        let over = Arc::new(AtomicBool::new(false));
        let told = Arc::clone(&over);
        let folder = dir.join("manifests");
        let thread = std::thread::spawn(move || {
            let began = Instant::now();
            for change in 1.. {
                if told.load(Ordering::Relaxed) {
                    return;
                }
                if let Err(error) = write(&folder, change) {
                    eprintln!("race: cannot change the configuration: {error}");
                    return;
                }
                std::thread::sleep((INTERVAL * change).saturating_sub(began.elapsed()));
            }
        });
        Self {
            over,
            thread: Some(thread),
        }
    }
}

impl Drop for Churn {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // It has nothing to tell.
            let _ended = thread.join();
        }
    }
}

/// Editors and controllers rename, so that nobody reads half a file.
fn write(folder: &Path, change: u32) -> std::io::Result<()> {
    let route = json!({
        "apiVersion": "gateway.networking.k8s.io/v1",
        "kind": "HTTPRoute",
        "metadata": { "name": "changing", "namespace": "bench" },
        "spec": {
            "parentRefs": [{ "group": "gateway.networking.k8s.io", "kind": "Gateway", "name": "edge" }],
            "hostnames": [wayline_benches::HOST],
            "rules": [{
                "matches": [{ "path": { "type": "Exact", "value": format!("/change/{change}") } }],
                "backendRefs": [{ "name": "echo", "port": 80 }],
            }],
        },
    });
    let fresh: PathBuf = folder.with_file_name("changing.json");
    std::fs::write(&fresh, route.to_string())?;
    std::fs::rename(&fresh, folder.join("changing.json"))
}
