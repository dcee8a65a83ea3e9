//! The thread of a plugin in quarantine, and who visits it.

use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::thread;
use std::time::Duration;

use tokio::sync::mpsc::UnboundedReceiver;

/// How long a thread stays that has nobody.
const IDLE: Duration = Duration::from_secs(120);

/// A stream that comes in: what it does on the thread. Dropped without being asked where the thread is
/// about to end, so that it must tell whoever waits for it.
pub(crate) type Visit = Box<dyn FnOnce() -> Pin<Box<dyn Future<Output = ()>>> + Send>;

/// Starts a plugin's thread.
pub(super) fn start(plugin: &str, visits: UnboundedReceiver<Visit>) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()?;
    let name = plugin.to_owned();
    thread::Builder::new()
        .name("wasm-quarantine".to_owned())
        .spawn(move || {
            // Cores go first, and where that is not allowed the thread is one among many.
            #[cfg(target_os = "linux")]
            let _ = rustix::process::setpriority_process(Some(rustix::thread::gettid()), 10);
            tracing::warn!(
                plugin = &*name,
                "a Wasm plugin overran its budget: it runs on a thread of its own until it behaves"
            );
            let local = tokio::task::LocalSet::new();
            local.block_on(&runtime, serve(visits));
            tracing::info!(
                plugin = &*name,
                "the thread of a Wasm plugin in quarantine has ended"
            );
        })
        .map(drop)
}

async fn serve(mut visits: UnboundedReceiver<Visit>) {
    let inside = Rc::new(());
    loop {
        let next = tokio::time::timeout(IDLE, visits.recv()).await;
        match next {
            Ok(Some(visit)) => {
                let inside = Rc::clone(&inside);
                tokio::task::spawn_local(async move {
                    visit().await;
                    drop(inside);
                });
            }
            Ok(None) => return,
            // The streams that are still here.
            Err(_) if Rc::strong_count(&inside) > 1 => {}
            Err(_) => {
                visits.close();
                // Whoever came in at the last moment is not left alone: it fails, and is told.
                return;
            }
        }
    }
}
