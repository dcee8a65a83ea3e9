#![allow(clippy::unwrap_used, reason = "a test that finds no value has failed")]

use std::collections::HashMap;
use std::sync::Mutex;

use tokio::sync::Notify;
use wayline_model::ObjectRef;
use wayline_model::plugin::{
    AttachedPlugin, FailStrategy, Isolation, ModuleSource, PluginKind, PluginLimits, PluginPhase,
    PullPolicy,
};

use super::*;

/// What a module does, by URL; one step per attempt, the last one again and again.
#[derive(Default)]
struct Script {
    steps: Mutex<HashMap<Arc<str>, Vec<Step>>>,
    attempts: Mutex<HashMap<Arc<str>, usize>>,
    go: Notify,
}

#[derive(Clone)]
enum Step {
    /// A module of this digest that starts.
    Good(&'static str),
    /// A module that does not start.
    Unstartable(&'static str),
    /// No module.
    Missing { retriable: bool },
    /// Nothing until somebody says so.
    Wait,
}

impl Load for Script {
    type Compiled = Step;
    type Module = &'static str;

    async fn obtain(&self, plugin: &Arc<Plugin>) -> Result<Obtained<Step>, LoadFailure> {
        let url = &plugin.module.url;
        let step = {
            let mut attempts = self.attempts.lock().unwrap();
            let attempt = attempts.entry(Arc::clone(url)).or_default();
            let steps = self.steps.lock().unwrap();
            let steps = &steps[url];
            let step = steps[(*attempt).min(steps.len() - 1)].clone();
            *attempt += 1;
            step
        };
        let digest = match step {
            Step::Good(digest) | Step::Unstartable(digest) => digest,
            Step::Missing { retriable } => {
                return Err(LoadFailure {
                    reason: format!("{url} is not there").into(),
                    retriable,
                    fetch_result: "download_failure",
                });
            }
            Step::Wait => {
                self.go.notified().await;
                "late"
            }
        };
        Ok(Obtained {
            digest: digest.into(),
            compiled: Arc::new(step),
        })
    }

    fn start(&self, _: &Arc<Plugin>, compiled: &Arc<Step>) -> Result<&'static str, LoadFailure> {
        match &**compiled {
            Step::Good(digest) => Ok(digest),
            Step::Wait => Ok("late"),
            Step::Unstartable(_) | Step::Missing { .. } => Err(LoadFailure {
                reason: "on_configure answered false".into(),
                retriable: false,
                fetch_result: "",
            }),
        }
    }
}

fn plugin(name: &str, url: &str) -> Arc<Plugin> {
    let mut plugin = Plugin {
        name: format!("shop.{name}").into(),
        object: ObjectRef::new("WasmPlugin", "shop", name),
        key: PluginKey([0; 32]),
        module: ModuleSource {
            url: url.into(),
            sha256: None,
            pull_policy: PullPolicy::Unspecified,
            pull_secret: None,
        },
        root_id: name.into(),
        configuration: Arc::default(),
        environment: Arc::default(),
        phase: PluginPhase::default(),
        priority: None,
        fail_strategy: FailStrategy::default(),
        kind: PluginKind::default(),
        isolation: Isolation::default(),
        limits: PluginLimits::default(),
        callouts: None,
        allow_on_headers_stop_iteration: false,
    };
    plugin.key = PluginKey::of(&plugin);
    Arc::new(plugin)
}

fn snapshot(plugins: &[&Arc<Plugin>]) -> Arc<Snapshot> {
    let attached = plugins.iter().map(|plugin| AttachedPlugin {
        plugin: Arc::clone(plugin),
        verdict: Verdict::Pending,
    });
    Arc::new(Snapshot {
        plugins: attached.collect(),
        ..Snapshot::default()
    })
}

/// A manager at work.
struct World {
    script: Arc<Script>,
    shelf: Arc<Shelf<&'static str>>,
    snapshots: watch::Sender<Arc<Snapshot>>,
    published: watch::Receiver<Verdicts>,
    registry: prometheus::Registry,
}

impl World {
    fn new(steps: &[(&str, &[Step])], wanted: &[&Arc<Plugin>]) -> Self {
        let script = Arc::new(Script::default());
        for (url, steps) in steps {
            let mut all = script.steps.lock().unwrap();
            all.insert((*url).into(), steps.to_vec());
        }
        let shelf = Arc::new(Shelf::default());
        let (snapshots, seen) = watch::channel(snapshot(wanted));
        let (publish, published) = watch::channel(Verdicts::new());
        let registry = prometheus::Registry::new();
        let metrics = ManagerMetrics::register(&registry).unwrap();
        tokio::spawn(manage(
            Arc::clone(&script),
            Arc::clone(&shelf),
            seen,
            move |verdicts| {
                publish.send_replace(verdicts);
            },
            metrics,
            ManagerSettings::default(),
        ));
        Self {
            script,
            shelf,
            snapshots,
            published,
            registry,
        }
    }

    fn want(&self, wanted: &[&Arc<Plugin>]) {
        self.snapshots.send_replace(snapshot(wanted));
    }

    /// The next verdict on a plugin that the question is true of.
    async fn until(&mut self, plugin: &Plugin, question: impl Fn(&Verdict) -> bool) -> Verdict {
        let key = plugin.key;
        let verdicts = self
            .published
            .wait_for(|all| all.get(&key).is_some_and(&question))
            .await
            .unwrap();
        verdicts[&key].clone()
    }

    async fn ready(&mut self, plugin: &Plugin, digest: &str) -> Option<Arc<str>> {
        let is =
            |it: &Verdict| matches!(it, Verdict::Ready { digest: found, .. } if **found == *digest);
        match self.until(plugin, is).await {
            Verdict::Ready { trouble, .. } => trouble,
            _ => unreachable!("asked for above"),
        }
    }

    async fn failed(&mut self, plugin: &Plugin) -> Arc<str> {
        match self
            .until(plugin, |it| matches!(it, Verdict::Failed(_)))
            .await
        {
            Verdict::Failed(reason) => reason,
            _ => unreachable!("asked for above"),
        }
    }

    fn attempts(&self, url: &str) -> usize {
        self.script.attempts.lock().unwrap()[url]
    }
}

const GONE: Step = Step::Missing { retriable: false };
const DOWN: Step = Step::Missing { retriable: true };

#[tokio::test(start_paused = true)]
async fn each_plugin_gets_its_verdict_and_none_waits_for_another() {
    let slow = plugin("slow", "oci://slow");
    let good = plugin("good", "oci://good");
    let gone = plugin("gone", "oci://gone");
    let bad = plugin("bad", "oci://bad");
    let mut world = World::new(
        &[
            ("oci://slow", &[Step::Wait]),
            ("oci://good", &[Step::Good("one")]),
            ("oci://gone", &[GONE]),
            ("oci://bad", &[Step::Unstartable("two")]),
        ],
        &[&slow, &good, &gone, &bad],
    );
    assert_eq!(world.ready(&good, "one").await, None);
    assert_eq!(&*world.failed(&gone).await, "oci://gone is not there");
    assert_eq!(&*world.failed(&bad).await, "on_configure answered false");
    assert_eq!(world.published.borrow()[&slow.key], Verdict::Pending);
    let digest: Arc<str> = "one".into();
    assert_eq!(world.shelf.get(good.key, &digest).as_deref(), Some(&"one"));
    let states = prometheus::TextEncoder::new()
        .encode_to_string(&world.registry.gather())
        .unwrap();
    for line in [
        "wayline_wasm_plugin_state{plugin=\"shop.good\",state=\"ready\"} 1",
        "wayline_wasm_plugin_state{plugin=\"shop.slow\",state=\"pending\"} 1",
        "wasm_remote_fetch_count{result=\"download_failure\"} 1",
        "wasm_config_conversion_count{result=\"start_failure\"} 1",
        "wasm_config_conversion_duration_count 3",
    ] {
        assert!(states.contains(line), "{states}");
    }
}

#[tokio::test(start_paused = true)]
async fn after_fifteen_seconds_failing_is_the_verdict_until_there_is_a_better_one() {
    let slow = plugin("slow", "oci://slow");
    let mut world = World::new(&[("oci://slow", &[Step::Wait])], &[&slow]);
    let begin = Instant::now();
    let reason = world.failed(&slow).await;
    assert!(reason.contains("was not ready after 15 s"), "{reason}");
    assert_eq!(begin.elapsed().as_secs(), 15);
    world.script.go.notify_one();
    assert_eq!(world.ready(&slow, "late").await, None);
}

#[tokio::test(start_paused = true)]
async fn what_may_go_better_is_tried_again_and_again() {
    let down = plugin("down", "https://down");
    let gone = plugin("gone", "https://gone");
    let steps = [DOWN, DOWN, DOWN, Step::Good("one")];
    let mut world = World::new(
        &[("https://down", &steps), ("https://gone", &[GONE])],
        &[&down, &gone],
    );
    world.failed(&down).await;
    world.ready(&down, "one").await;
    tokio::time::sleep(Duration::from_secs(3600)).await;
    assert_eq!(world.attempts("https://gone"), 1, "nobody can help it");
    assert_eq!(world.attempts("https://down"), 4, "it can not change");
}

#[tokio::test(start_paused = true)]
async fn what_may_change_is_looked_at_and_the_last_good_module_is_kept() {
    let latest = plugin("latest", "oci://a/b:latest");
    let steps = [
        Step::Good("one"),
        DOWN,
        Step::Unstartable("two"),
        Step::Good("one"),
        Step::Good("three"),
    ];
    let mut world = World::new(&[("oci://a/b:latest", &steps)], &[&latest]);
    assert_eq!(world.ready(&latest, "one").await, None);
    let troubled = |it: &Verdict| {
        matches!(
            it,
            Verdict::Ready {
                trouble: Some(_),
                ..
            }
        )
    };
    world.until(&latest, troubled).await;
    let rejected = |it: &Verdict| matches!(it, Verdict::Ready { trouble: Some(why), .. } if why.contains("on_configure"));
    world.until(&latest, rejected).await;
    let calm = |it: &Verdict| matches!(it, Verdict::Ready { trouble: None, .. });
    world.until(&latest, calm).await;
    world.ready(&latest, "three").await;
    // Cores may still bind the older one for a while.
    let old: Arc<str> = "one".into();
    assert!(world.shelf.get(latest.key, &old).is_some());
    tokio::time::sleep(Duration::from_secs(61)).await;
    assert!(world.shelf.get(latest.key, &old).is_none());
    assert!(world.shelf.get(latest.key, &"three".into()).is_some());
}

#[tokio::test(start_paused = true)]
async fn a_pinned_module_is_never_looked_at_again() {
    let mut pinned = Plugin::clone(&plugin("p", "oci://a/b:latest"));
    pinned.module.sha256 = Some("0".repeat(64).into());
    let pinned = Arc::new(pinned);
    let mut world = World::new(&[("oci://a/b:latest", &[Step::Good("one")])], &[&pinned]);
    world.ready(&pinned, "one").await;
    tokio::time::sleep(Duration::from_secs(3600)).await;
    assert_eq!(world.attempts("oci://a/b:latest"), 1);
}

#[tokio::test(start_paused = true)]
async fn a_file_that_was_replaced_is_loaded_again() {
    let file = std::env::temp_dir().join(format!("wayline-manager-{}.wasm", std::process::id()));
    let _ = std::fs::remove_file(&file);
    let url = format!("file://{}", file.display());
    let it = plugin("p", &url);
    let steps = [GONE, Step::Good("one"), Step::Unstartable("two")];
    let mut world = World::new(&[(&url, &steps)], &[&it]);
    world.failed(&it).await;
    std::fs::write(&file, "one").unwrap();
    assert_eq!(world.ready(&it, "one").await, None);
    std::fs::write(&file, "others").unwrap();
    let troubled = |it: &Verdict| {
        matches!(
            it,
            Verdict::Ready {
                trouble: Some(_),
                ..
            }
        )
    };
    world.until(&it, troubled).await;
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(world.attempts(&url), 3, "it is left alone until it changes");
    std::fs::remove_file(&file).unwrap();
}

#[tokio::test(start_paused = true)]
async fn what_nobody_wants_is_forgotten_after_a_while() {
    let it = plugin("p", "oci://p");
    let mut world = World::new(&[("oci://p", &[Step::Good("one")])], &[&it]);
    world.ready(&it, "one").await;
    let digest: Arc<str> = "one".into();
    // Taken away and given back.
    world.want(&[]);
    tokio::time::sleep(Duration::from_secs(30)).await;
    world.want(&[&it]);
    tokio::time::sleep(Duration::from_secs(120)).await;
    assert!(world.shelf.get(it.key, &digest).is_some());
    assert_eq!(world.attempts("oci://p"), 1);
    // Taken away for good.
    world.want(&[]);
    let key = it.key;
    world
        .published
        .wait_for(|all| !all.contains_key(&key))
        .await
        .unwrap();
    assert!(world.shelf.get(it.key, &digest).is_none());
}
