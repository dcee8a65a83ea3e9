//! Whether this process should be sent traffic.

use std::fmt::Write as _;
use std::sync::atomic::Ordering;

use wayline_model::Snapshot;
use wayline_model::plugin::Verdict;

use super::Admin;
use crate::listener;

/// What stands in the way, one sentence each; ready when there is nothing.
///
/// A waypoint without the port by which it is reached takes nothing at all. A gateway's listener that can not be opened
/// stands in the way only when none of those asked for is open: one bad port of a gateway must not take
/// its other ports out of service.
pub(super) fn obstacles(admin: &Admin) -> Vec<String> {
    let mut obstacles = Vec::new();
    if admin.is_draining() {
        obstacles.push("draining: what runs may finish, nothing new is taken".to_owned());
    }
    if admin.marked_unhealthy.load(Ordering::Relaxed) {
        obstacles
            .push("marked so by POST /healthcheck/fail; POST /healthcheck/ok ends it".to_owned());
    }
    let snapshot = admin.snapshot();
    if snapshot.generation == 0 {
        obstacles.push("no configuration yet: waiting for the first snapshot".to_owned());
        return obstacles;
    }
    if snapshot.takes_hbone()
        && let Err(error) = admin.known.certificates.readiness()
    {
        obstacles.push(format!("no certificate to serve waypoints with: {error}"));
    }
    if snapshot.plugins_awaited {
        obstacles.extend(awaited_plugins(&snapshot));
    }
    // Drain has closed them all, and says so itself.
    if !admin.is_draining() {
        obstacles.extend(closed_listeners(admin, &listener::names(&snapshot)));
    }
    obstacles
}

/// Plugins of which nothing is known yet. Whoever decides on them does so within a bounded time.
fn awaited_plugins(snapshot: &Snapshot) -> impl Iterator<Item = String> {
    let pending = snapshot
        .plugins
        .iter()
        .filter(|it| it.verdict == Verdict::Pending);
    pending.map(|it| {
        format!(
            "plugin {}: its module {} is not loaded yet",
            it.plugin.name, it.plugin.module.url
        )
    })
}

/// The answer to probes.
pub(super) fn report(obstacles: &[String]) -> String {
    let mut text = String::new();
    for obstacle in obstacles {
        let _infallible = writeln!(text, "not ready: {obstacle}");
    }
    text
}

fn closed_listeners(admin: &Admin, wanted: &[String]) -> Vec<String> {
    let is_open = |name: &&String| admin.listeners.bound(name).is_some();
    let none_is_open = !wanted.iter().any(|name| is_open(&name));
    let reason = |name: &String| match admin.listener(name).map(|status| status.bound) {
        Some(Err(reason)) => format!("listener {name}: {reason}; it is tried again every second"),
        Some(Ok(_)) | None => format!("listener {name}: not opened yet"),
    };
    wanted
        .iter()
        .filter(|name| none_is_open || (listener::is_of_waypoint(name) && !is_open(name)))
        .map(reason)
        .collect()
}
