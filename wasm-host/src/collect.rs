//! What is counted, as Prometheus reads it.

use std::sync::Weak;
use std::sync::atomic::Ordering;

use prometheus::core::Desc;
use prometheus::proto::{
    Bucket, Counter, Gauge, Histogram, LabelPair, Metric as Sample, MetricFamily, MetricType,
};

use crate::abi::functions;
use crate::book::{CalloutResult, Origin, PluginBook};
use crate::callbacks::Callback;
use crate::fault::TrapKind;
use crate::host::Host;
use crate::metrics::{BOUNDS, Metric};

/// Collects from all books.
pub(crate) struct Collector {
    host: Weak<Host>,
    descriptions: Vec<Desc>,
}

/// Name and help.
type About = (&'static str, &'static str);

const CALLS: About = (
    "wayline_wasm_calls_total",
    "Callbacks of Wasm plugins called.",
);
const SECONDS: About = (
    "wayline_wasm_callback_seconds_total",
    "Time in callbacks of Wasm plugins, estimated from one call in sixteen.",
);
const HOST_CALLS: About = (
    "wayline_wasm_host_calls_total",
    "Functions of the host called by Wasm plugins.",
);
const TRAPS: About = (
    "wayline_wasm_traps_total",
    "Instances of Wasm plugins ended by a trap, by kind; `budget` is a callback that computed for too long.",
);
const STREAMS: About = (
    "wayline_wasm_failed_streams_total",
    "Streams that met a Wasm plugin which could not work, by what became of them.",
);
const CALLOUTS: About = (
    "wayline_wasm_callouts_total",
    "Callouts of Wasm plugins, by result.",
);
const STARTED: About = (
    "wayline_wasm_instances_started_total",
    "Instances of Wasm plugins made: from the module, or from an image of one that was started.",
);
const INSTANCES: About = ("wayline_wasm_instances", "Instances of Wasm plugins.");
const MEMORY: About = (
    "wayline_wasm_memory_bytes",
    "Linear memory of the instances of Wasm plugins.",
);
const DROPPED_LOG: About = (
    "wayline_wasm_dropped_log_bytes_total",
    "Log bytes of Wasm plugins beyond their limit.",
);
const QUARANTINE: About = (
    "wayline_wasm_quarantined",
    "1 while new streams of a Wasm plugin run on a thread of its own, because it overran its budget.",
);

const ALL: [About; 11] = [
    CALLS,
    SECONDS,
    HOST_CALLS,
    TRAPS,
    STREAMS,
    CALLOUTS,
    STARTED,
    INSTANCES,
    MEMORY,
    DROPPED_LOG,
    QUARANTINE,
];

impl Collector {
    pub(crate) fn new(host: Weak<Host>) -> Result<Self, prometheus::Error> {
        let descriptions = ALL.iter().map(|(name, help)| {
            Desc::new(
                (*name).to_owned(),
                (*help).to_owned(),
                vec!["plugin".to_owned()],
                Default::default(),
            )
        });
        Ok(Self {
            host,
            descriptions: descriptions.collect::<Result<_, _>>()?,
        })
    }
}

impl prometheus::core::Collector for Collector {
    fn desc(&self) -> Vec<&Desc> {
        self.descriptions.iter().collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let Some(host) = self.host.upgrade() else {
            return Vec::new();
        };
        let books = host.books();
        let mut families = Families::default();
        for book in &books {
            own(book, &mut families);
            let quarantined = book.quarantine.holds(host.quarantine());
            let labels = vec![label("plugin", &book.name)];
            families.gauge(QUARANTINE, labels, f64::from(u8::from(quarantined)));
        }
        for book in &books {
            defined(book, &mut families);
        }
        families.0
    }
}

/// Families under construction.
#[derive(Default)]
struct Families(Vec<MetricFamily>);

impl Families {
    fn add(&mut self, name: &str, help: &str, kind: MetricType, sample: Sample) {
        let known = self.0.iter_mut().find(|family| family.name() == name);
        let family = match known {
            Some(family) if family.get_field_type() == kind => family,
            // Two plugins disagree about the kind of a metric: the first has it.
            Some(_) => return,
            None => {
                let mut family = MetricFamily::default();
                family.set_name(name.to_owned());
                family.set_help(help.to_owned());
                family.set_field_type(kind);
                self.0.push(family);
                let last = self.0.len() - 1;
                &mut self.0[last]
            }
        };
        family.mut_metric().push(sample);
    }

    fn counter(&mut self, about: About, labels: Vec<LabelPair>, value: f64) {
        let mut counter = Counter::default();
        counter.set_value(value);
        let mut sample = labelled(labels);
        sample.set_counter(counter);
        self.add(about.0, about.1, MetricType::COUNTER, sample);
    }

    fn gauge(&mut self, about: About, labels: Vec<LabelPair>, value: f64) {
        let mut gauge = Gauge::default();
        gauge.set_value(value);
        let mut sample = labelled(labels);
        sample.set_gauge(gauge);
        self.add(about.0, about.1, MetricType::GAUGE, sample);
    }
}

/// What the host counts about a plugin.
fn own(book: &PluginBook, families: &mut Families) {
    let plain = || vec![label("plugin", &book.name)];
    let with = |name: &str, value: &str| vec![label(name, value), label("plugin", &book.name)];
    let totals = book.totals();
    for callback in Callback::ALL {
        let calls = totals.calls[*callback as usize];
        if calls == 0 {
            continue;
        }
        let seconds = totals.nanoseconds[*callback as usize] as f64 / 1e9;
        families.counter(CALLS, with("callback", callback.name()), calls as f64);
        families.counter(SECONDS, with("callback", callback.name()), seconds);
    }
    for (function, calls) in functions().zip(totals.host_calls) {
        if calls > 0 {
            families.counter(HOST_CALLS, with("function", function), calls as f64);
        }
    }
    for kind in TrapKind::ALL {
        families.counter(TRAPS, with("kind", kind.name()), book.traps(kind) as f64);
    }
    let (refused, passed) = book.failed();
    families.counter(STREAMS, with("outcome", "refused"), refused as f64);
    families.counter(STREAMS, with("outcome", "passed"), passed as f64);
    for result in CalloutResult::ALL {
        let count = book.callouts(result) as f64;
        families.counter(CALLOUTS, with("result", result.name()), count);
    }
    for origin in Origin::ALL {
        let count = totals.started[origin as usize] as f64;
        families.counter(STARTED, with("from", origin.name()), count);
    }
    families.counter(DROPPED_LOG, plain(), book.dropped_log_bytes() as f64);
    families.gauge(INSTANCES, plain(), totals.instances as f64);
    families.gauge(MEMORY, plain(), totals.memory as f64);
}

/// What a plugin counts itself.
fn defined(book: &PluginBook, families: &mut Families) {
    const HELP: &str = "Defined by Wasm plugins.";
    for (name, metric) in book.metrics.all() {
        let name = shown(&name);
        let mut sample = labelled(vec![label("plugin", &book.name)]);
        let kind = match &*metric {
            Metric::Counter(value) => {
                let mut counter = Counter::default();
                counter.set_value(value.load(Ordering::Relaxed) as f64);
                sample.set_counter(counter);
                MetricType::COUNTER
            }
            Metric::Gauge(value) => {
                let mut gauge = Gauge::default();
                gauge.set_value(value.load(Ordering::Relaxed) as f64);
                sample.set_gauge(gauge);
                MetricType::GAUGE
            }
            Metric::Histogram(histogram) => {
                let mut shown = Histogram::default();
                shown.set_sample_count(histogram.count.load(Ordering::Relaxed));
                shown.set_sample_sum(histogram.sum.load(Ordering::Relaxed) as f64);
                let (mut below, mut buckets) = (0, Vec::with_capacity(BOUNDS.len()));
                for (bound, count) in BOUNDS.iter().zip(&histogram.buckets) {
                    below += count.load(Ordering::Relaxed);
                    let mut bucket = Bucket::default();
                    bucket.set_cumulative_count(below);
                    bucket.set_upper_bound(*bound);
                    buckets.push(bucket);
                }
                shown.set_bucket(buckets);
                sample.set_histogram(shown);
                MetricType::HISTOGRAM
            }
        };
        families.add(&name, HELP, kind, sample);
    }
}

/// A plugin's name for a metric as Prometheus allows it, and not mistaken for one of ours: Envoy's
/// namespace of custom metrics keeps those apart.
fn shown(name: &str) -> String {
    const OURS: [&str; 4] = ["istio_", "wayline_", "process_", "envoy_"];
    let mut shown: String = name
        .chars()
        .map(|c| {
            if c.is_ascii_alphanumeric() || c == ':' {
                c
            } else {
                '_'
            }
        })
        .collect();
    let digit = shown.starts_with(|c: char| c.is_ascii_digit());
    if digit || OURS.iter().any(|prefix| shown.starts_with(prefix)) {
        shown.insert_str(0, "wasmcustom_");
    }
    shown
}

fn labelled(labels: Vec<LabelPair>) -> Sample {
    Sample::from_label(labels)
}

fn label(name: &str, value: &str) -> LabelPair {
    let mut label = LabelPair::default();
    label.set_name(name.to_owned());
    label.set_value(value.to_owned());
    label
}
