//! The plugins of each target: which are wanted, in which order, and which are in force.
//!
//! Publication never waits for a module. A target whose wanted plugins have no verdict yet keeps the
//! chain it had; one that never had a chain takes the wanted one with what is pending in it. A plugin
//! that was changed and can not run leaves its last good version in force, as any invalid edit does.

use std::cell::Cell;
use std::cmp::Reverse;
use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use super::attachment::{AttachmentIndex, Judge, ServiceState};
use super::memo::Memo;
use super::proxies::{Proxies, ProxyEntry};
use crate::finding::Finding;
use crate::mesh::MeshSettings;
use crate::names::ObjectRef;
use crate::plugin::{
    AttachedPlugin, FailStrategy, Plugin, PluginKey, PluginKind, PullSecret, Verdict, Verdicts,
};
use crate::resource::Extension;
use crate::resource::extension::WorkloadMode;
use crate::resource::secret::DOCKER_CONFIG;
use crate::service::AppProtocol;
use crate::store::Resources;

/// By the revisions of the extension and of its pull secret.
pub(super) type PluginMemo = Memo<(u64, Option<u64>), Plugin>;

/// An extension with the plugin it asks for.
#[derive(Debug)]
struct Wanted<'a> {
    extension: &'a Extension,
    plugin: Arc<Plugin>,
    /// Whether some port that it is meant for may speak what it hears, and whether some port can not.
    heard: Cell<(bool, bool)>,
}

impl Wanted<'_> {
    /// Whether a port of that protocol may have something for the plugin. Requests are found where
    /// nothing is declared; where opaque bytes are, plugins for requests stand idle.
    fn hears(&self, protocol: AppProtocol) -> bool {
        let hears = self.plugin.kind == PluginKind::Http || !protocol.is_http();
        let (some, others) = self.heard.get();
        self.heard.set((some || hears, others || !hears));
        hears
    }
}

/// Plugins by what they are attached to.
#[derive(Debug)]
pub(super) struct PluginIndex<'a> {
    all: Vec<Wanted<'a>>,
    index: AttachmentIndex<'a, usize>,
    root: &'a str,
    pub(super) findings: Vec<Finding>,
}

impl<'a> PluginIndex<'a> {
    pub(super) fn new(
        resources: &'a Resources,
        mesh: &'a MeshSettings,
        proxies: &Proxies,
        service_state: &dyn Fn(&str, &str) -> ServiceState,
        memo: &mut PluginMemo,
    ) -> Self {
        let root: &str = &mesh.root_namespace;
        let judge = Judge {
            resources,
            proxies,
            root,
            service_state,
            what: "plugin",
            consequence: "the plugin does not run there",
        };
        let mut all: Vec<Wanted<'a>> = Vec::new();
        let mut index = AttachmentIndex::new(root);
        let mut findings = Vec::new();
        for (namespace, _, entry) in resources.extensions.iter() {
            let extension: &'a Extension = &entry.object;
            let secret = extension
                .pull_secret
                .as_ref()
                .map(|name| (name, resources.secrets.get(namespace, name)));
            let revision = secret.and_then(|(_, found)| found).map(|it| it.revision);
            let plugin = memo.get((entry.revision, revision), |_| {
                extension.plugin(secret.map(|(name, found)| match found {
                    Some(found) => PullSecret::DockerConfig(Arc::clone(&found.object.0)),
                    None => PullSecret::Missing(missing(namespace, name).into()),
                }))
            });
            let object = &extension.object;
            if let Some((name, None)) = secret {
                findings.push(
                    Finding::error(format!("{}; nothing is pulled", missing(namespace, name)))
                        .on(object)
                        .field(match &*object.kind {
                            "WasmPlugin" => "spec.imagePullSecret",
                            _ => "spec.wasm.imagePullSecret",
                        })
                        .remedy("create it, or remove the field to pull anonymously"),
                );
            }
            let attachment = &extension.attachment;
            index.add(
                namespace,
                &attachment.targets,
                attachment.selector.as_ref(),
                all.len(),
            );
            all.push(Wanted {
                extension,
                plugin,
                heard: Cell::default(),
            });
            judge.targets(object, &attachment.targets, &mut findings);
            if !judge.reaches(object, &attachment.targets, attachment.selector.as_ref()) {
                findings.push(
                    Finding::error(
                        "without targetRefs a plugin runs at gateways only, never at waypoints, and \
                         no gateway is selected",
                    )
                    .on(object)
                    .field(match attachment.selector {
                        Some(_) => "spec.selector",
                        None => "spec",
                    })
                    .remedy("use targetRefs to have it run at a waypoint"),
                );
            }
        }
        memo.end_round();
        Self {
            all,
            index,
            root,
            findings,
        }
    }

    /// What is wanted at a port of a service (or, without one, of a workload) behind a waypoint.
    pub(super) fn at_waypoint(
        &self,
        proxy: &ProxyEntry,
        service: Option<(&str, &str)>,
        (port, protocol): (u16, AppProtocol),
    ) -> Vec<Arc<Plugin>> {
        if self.all.is_empty() {
            return Vec::new();
        }
        let attached = self.index.at_waypoint(proxy, service);
        self.in_order(proxy, attached, WorkloadMode::Server, (port, protocol))
    }

    /// What is wanted at a port of a gateway.
    pub(super) fn at_gateway(&self, proxy: &ProxyEntry, port: u16) -> Vec<Arc<Plugin>> {
        if self.all.is_empty() {
            return Vec::new();
        }
        let attached = self.index.at_gateway(proxy);
        let speaks = (port, AppProtocol::Http);
        self.in_order(proxy, attached, WorkloadMode::Client, speaks)
    }

    /// What is wrong with plugins for opaque bytes that are attached where there are none. To be asked
    /// once every target of a round has been.
    pub(super) fn unheard(&self) -> Vec<Finding> {
        let unheard = self.all.iter().filter(|it| it.heard.get() == (false, true));
        unheard
            .map(|wanted| {
                let object = &wanted.extension.object;
                Finding::error(
                    "plugins of type NETWORK hear opaque bytes, and every port that this one is \
                     attached to speaks HTTP: it never runs",
                )
                .on(object)
                .field(match &*object.kind {
                    "WasmPlugin" => "spec.type",
                    _ => "spec.wasm.type",
                })
                .remedy(
                    "attach it to a Service behind a waypoint whose port has appProtocol tcp or tls, \
                     or remove the field",
                )
            })
            .collect()
    }

    /// Istio's order: by phase, then by priority where none is less than any, then by namespace (that
    /// of the proxy, the root namespace, others), then the oldest, then by name.
    fn in_order(
        &self,
        proxy: &ProxyEntry,
        mut attached: Vec<usize>,
        side: WorkloadMode,
        (port, protocol): (u16, AppProtocol),
    ) -> Vec<Arc<Plugin>> {
        attached.sort_unstable();
        attached.dedup();
        let mut wanted: Vec<&Wanted<'_>> = attached
            .into_iter()
            .filter_map(|place| self.all.get(place))
            .filter(|wanted| wanted.extension.fits(side, port) && wanted.hears(protocol))
            .collect();
        wanted.sort_by_key(|wanted| {
            let object = &wanted.extension.object;
            let namespace = match &*object.namespace {
                namespace if namespace == &*proxy.proxy.namespace => 0,
                namespace if namespace == self.root => 1,
                _ => 2,
            };
            (
                wanted.extension.phase(),
                Reverse(wanted.plugin.priority.unwrap_or(i32::MIN)),
                namespace,
                wanted.extension.creation.clone(),
                Arc::clone(&object.name),
                Arc::clone(&object.kind),
            )
        });
        wanted
            .into_iter()
            .map(|wanted| Arc::clone(&wanted.plugin))
            .collect()
    }
}

fn missing(namespace: &str, name: &str) -> String {
    format!("there is no Secret {namespace}/{name} of type {DOCKER_CONFIG}")
}

/// Brings what is wanted and what is in force together, target by target, and remembers all of it.
pub(super) struct Gathering<'v> {
    verdicts: &'v Verdicts,
    /// Objects whose targets were denied, because they could not be read: between that and their
    /// first verdict nothing passes either.
    denied: &'v HashSet<ObjectRef>,
    /// Without plugins everywhere, the one empty list.
    none: Arc<[AttachedPlugin]>,
    wanted: BTreeMap<(ObjectRef, PluginKey), Arc<Plugin>>,
    in_force: BTreeMap<(ObjectRef, PluginKey), Arc<Plugin>>,
    /// Changed plugins that can not run, whose last good version stays.
    outlived: HashSet<PluginKey>,
}

/// Extensions that can not be read and never could, so that their targets are denied.
pub(super) fn denied(resources: &Resources) -> impl Iterator<Item = &ObjectRef> {
    let restrictions = resources.restrictions.iter();
    restrictions
        .map(|(_, _, entry)| &entry.object.object)
        .filter(|object| matches!(&*object.kind, "WasmPlugin" | "TrafficExtension"))
}

/// All plugins of a round.
pub(super) struct Gathered {
    /// What is wanted or in force, by object, each version once.
    pub(super) plugins: Vec<AttachedPlugin>,
    pub(super) findings: Vec<Finding>,
}

impl<'v> Gathering<'v> {
    pub(super) fn new(
        verdicts: &'v Verdicts,
        denied: &'v HashSet<ObjectRef>,
        none: &Arc<[AttachedPlugin]>,
    ) -> Self {
        Self {
            verdicts,
            denied,
            none: Arc::clone(none),
            wanted: BTreeMap::new(),
            in_force: BTreeMap::new(),
            outlived: HashSet::new(),
        }
    }

    /// What is in force at a target where these are wanted and those were in force; `None` where the
    /// target is new.
    pub(super) fn settle(
        &mut self,
        wanted: Vec<Arc<Plugin>>,
        before: Option<&Arc<[AttachedPlugin]>>,
    ) -> Arc<[AttachedPlugin]> {
        if wanted.is_empty() {
            return Arc::clone(&self.none);
        }
        for plugin in &wanted {
            self.wanted
                .entry((plugin.object.clone(), plugin.key))
                .or_insert_with(|| Arc::clone(plugin));
        }
        let is_pending = |plugin: &Arc<Plugin>| self.verdict(plugin) == Verdict::Pending;
        let was_denied =
            |plugin: &Arc<Plugin>| is_pending(plugin) && self.denied.contains(&plugin.object);
        let stays = before.filter(|before| {
            wanted.iter().any(is_pending)
                && !wanted.iter().any(was_denied)
                && !before.iter().any(|it| is_pending(&it.plugin))
        });
        let chain: Vec<AttachedPlugin> = match stays {
            Some(before) => before.iter().map(|it| self.attached(&it.plugin)).collect(),
            None => wanted
                .iter()
                .map(|plugin| self.runnable(plugin, before))
                .collect(),
        };
        for it in &chain {
            self.in_force
                .entry((it.plugin.object.clone(), it.plugin.key))
                .or_insert_with(|| Arc::clone(&it.plugin));
        }
        match before {
            Some(before)
                if before.len() == chain.len()
                    && before.iter().zip(&chain).all(|(a, b)| a.is_same(b)) =>
            {
                Arc::clone(before)
            }
            _ if chain.is_empty() => Arc::clone(&self.none),
            _ => chain.into(),
        }
    }

    /// The plugin as it is wanted; where it can not run, its version that does.
    fn runnable(
        &mut self,
        plugin: &Arc<Plugin>,
        before: Option<&Arc<[AttachedPlugin]>>,
    ) -> AttachedPlugin {
        let wanted = self.attached(plugin);
        if !matches!(wanted.verdict, Verdict::Failed(_)) {
            return wanted;
        }
        let known = before.into_iter().flat_map(|before| before.iter());
        let good = known
            .filter(|it| it.plugin.object == plugin.object && it.plugin.key != plugin.key)
            .map(|it| self.attached(&it.plugin))
            .find(|it| it.verdict.is_ready());
        if good.is_some() {
            self.outlived.insert(plugin.key);
        }
        good.unwrap_or(wanted)
    }

    fn attached(&self, plugin: &Arc<Plugin>) -> AttachedPlugin {
        AttachedPlugin {
            plugin: Arc::clone(plugin),
            verdict: self.verdict(plugin),
        }
    }

    fn verdict(&self, plugin: &Plugin) -> Verdict {
        self.verdicts.get(&plugin.key).cloned().unwrap_or_default()
    }

    /// Everything that was settled, with what is wrong with it.
    pub(super) fn finish(self) -> Gathered {
        let mut findings = Vec::new();
        for plugin in self.wanted.values() {
            let reason = match self.verdict(plugin) {
                Verdict::Failed(reason) => reason,
                Verdict::Ready {
                    trouble: Some(trouble),
                    ..
                } => {
                    let reason = format!("{trouble}; the last good module stays in force");
                    findings.push(Finding::error(reason).on(&plugin.object));
                    continue;
                }
                Verdict::Ready { .. } | Verdict::Pending => continue,
            };
            let consequence = if self.outlived.contains(&plugin.key) {
                "its last good version stays in force"
            } else {
                let opens = plugin.fail_strategy == FailStrategy::FailOpen;
                match (plugin.kind, opens) {
                    (PluginKind::Http, true) => {
                        "requests pass without it, as its failStrategy says"
                    }
                    (PluginKind::Http, false) => "requests for its target are refused with 503",
                    (PluginKind::Network, true) => {
                        "connections pass without it, as its failStrategy says"
                    }
                    (PluginKind::Network, false) => "connections to its target are refused",
                }
            };
            findings.push(Finding::error(format!("{reason}; {consequence}")).on(&plugin.object));
        }
        let mut all = self.wanted.clone();
        all.extend(self.in_force.clone());
        let plugins = all.values().map(|plugin| self.attached(plugin)).collect();
        Gathered { plugins, findings }
    }
}
