//! Istio's metric families, made of the books at the scrape.

use std::sync::Arc;

use prometheus::core::{Collector, Desc};
use prometheus::proto::{
    Bucket, Counter, Gauge, Histogram, LabelPair, Metric, MetricFamily, MetricType,
};

use super::hub::Books;
use super::labels::WorkloadLabels;
use super::series::{BOUNDS, HistogramTotals, RequestTotals, SeriesLabels, TcpTotals};

/// Shows the books to a Prometheus registry.
pub(super) struct IstioCollector {
    books: Arc<Books>,
    descriptions: Vec<Desc>,
}

impl IstioCollector {
    pub(super) fn new(books: Arc<Books>) -> Result<Self, prometheus::Error> {
        let names = REQUEST_LABELS.map(str::to_owned).to_vec();
        let tcp_names: Vec<String> = TCP_LABELS.map(str::to_owned).to_vec();
        let families = REQUEST_FAMILIES
            .iter()
            .map(|(name, help)| (name, help, &names))
            .chain(
                TCP_FAMILIES
                    .iter()
                    .map(|(name, help)| (name, help, &tcp_names)),
            );
        let mut descriptions = Vec::new();
        for (name, help, labels) in families {
            descriptions.push(Desc::new(
                (*name).to_owned(),
                (*help).to_owned(),
                labels.clone(),
                Default::default(),
            )?);
        }
        descriptions.push(Desc::new(
            SERIES.0.to_owned(),
            SERIES.1.to_owned(),
            vec!["kind".to_owned()],
            Default::default(),
        )?);
        Ok(Self {
            books,
            descriptions,
        })
    }
}

impl Collector for IstioCollector {
    fn desc(&self) -> Vec<&Desc> {
        self.descriptions.iter().collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        // Only the sums are taken under the lock; a worker that starts must not wait for labels.
        let (requests, tcp) = {
            let ledger = self.books.lock();
            (owned(ledger.requests.totals()), owned(ledger.tcp.totals()))
        };
        let counts = [("request", requests.len()), ("tcp", tcp.len())];
        let mut families = request_families(requests);
        families.extend(tcp_families(tcp));
        families.push(series_family(counts));
        families
    }
}

/// What of a family is fixed: name and help.
pub(super) type About = (&'static str, &'static str);

const REQUESTS: About = (
    "istio_requests_total",
    "Requests, by source and destination.",
);
const DURATION: About = (
    "istio_request_duration_milliseconds",
    "Duration of requests, first byte in to last byte out.",
);
const REQUEST_BYTES: About = ("istio_request_bytes", "Size of requests.");
const RESPONSE_BYTES: About = ("istio_response_bytes", "Size of responses.");
const REQUEST_FAMILIES: [About; 4] = [REQUESTS, DURATION, REQUEST_BYTES, RESPONSE_BYTES];

const OPENED: About = (
    "istio_tcp_connections_opened_total",
    "TCP connections opened.",
);
const CLOSED: About = (
    "istio_tcp_connections_closed_total",
    "TCP connections closed.",
);
const SENT: About = (
    "istio_tcp_sent_bytes_total",
    "Bytes of TCP connections from server to client.",
);
const RECEIVED: About = (
    "istio_tcp_received_bytes_total",
    "Bytes of TCP connections from client to server.",
);
const TCP_FAMILIES: [About; 4] = [OPENED, CLOSED, SENT, RECEIVED];

const SERIES: About = (
    "wayline_metrics_series",
    "Label sets kept, of requests and of TCP connections.",
);

const TCP_LABEL_COUNT: usize = 23;

/// Labels of TCP families, in the order in which they are shown.
const TCP_LABELS: [&str; TCP_LABEL_COUNT] = [
    "reporter",
    "source_workload",
    "source_canonical_service",
    "source_canonical_revision",
    "source_workload_namespace",
    "source_principal",
    "source_app",
    "source_version",
    "source_cluster",
    "destination_workload",
    "destination_workload_namespace",
    "destination_principal",
    "destination_app",
    "destination_version",
    "destination_service",
    "destination_canonical_service",
    "destination_canonical_revision",
    "destination_service_name",
    "destination_service_namespace",
    "destination_cluster",
    "request_protocol",
    "response_flags",
    "connection_security_policy",
];

/// Labels of request families.
const REQUEST_LABELS: [&str; TCP_LABEL_COUNT + 2] = {
    let mut labels = ["response_code"; TCP_LABEL_COUNT + 2];
    let mut i = 0;
    while i < TCP_LABEL_COUNT {
        labels[i] = TCP_LABELS[i];
        i += 1;
    }
    labels[TCP_LABEL_COUNT + 1] = "grpc_response_status";
    labels
};

fn owned<'a, T>(totals: impl Iterator<Item = (&'a SeriesLabels, T)>) -> Vec<(SeriesLabels, T)> {
    totals
        .map(|(labels, totals)| (labels.clone(), totals))
        .collect()
}

fn request_families(series: Vec<(SeriesLabels, RequestTotals)>) -> Vec<MetricFamily> {
    const MICROS_PER_MILLI: f64 = 1000.0;
    let mut requests = Vec::with_capacity(series.len());
    let mut duration = Vec::with_capacity(series.len());
    let mut request_bytes = Vec::with_capacity(series.len());
    let mut response_bytes = Vec::with_capacity(series.len());
    for (labels, totals) in series {
        let labels = pairs(&labels);
        requests.push(counter(labels.clone(), totals.requests as f64));
        duration.push(histogram(
            labels.clone(),
            &totals.duration,
            MICROS_PER_MILLI,
        ));
        request_bytes.push(histogram(labels.clone(), &totals.request_bytes, 1.0));
        response_bytes.push(histogram(labels, &totals.response_bytes, 1.0));
    }
    vec![
        family(REQUESTS, MetricType::COUNTER, requests),
        family(DURATION, MetricType::HISTOGRAM, duration),
        family(REQUEST_BYTES, MetricType::HISTOGRAM, request_bytes),
        family(RESPONSE_BYTES, MetricType::HISTOGRAM, response_bytes),
    ]
}

fn tcp_families(series: Vec<(SeriesLabels, TcpTotals)>) -> Vec<MetricFamily> {
    let mut opened = Vec::with_capacity(series.len());
    let mut closed = Vec::with_capacity(series.len());
    let mut sent = Vec::with_capacity(series.len());
    let mut received = Vec::with_capacity(series.len());
    for (labels, totals) in series {
        let labels = pairs(&labels);
        opened.push(counter(labels.clone(), totals.opened as f64));
        closed.push(counter(labels.clone(), totals.closed as f64));
        sent.push(counter(labels.clone(), totals.sent as f64));
        received.push(counter(labels, totals.received as f64));
    }
    vec![
        family(OPENED, MetricType::COUNTER, opened),
        family(CLOSED, MetricType::COUNTER, closed),
        family(SENT, MetricType::COUNTER, sent),
        family(RECEIVED, MetricType::COUNTER, received),
    ]
}

fn series_family(counts: [(&'static str, usize); 2]) -> MetricFamily {
    let metrics = counts
        .map(|(kind, count)| gauge(vec![pair("kind", kind)], count as f64))
        .to_vec();
    family(SERIES, MetricType::GAUGE, metrics)
}

pub(super) fn family(about: About, kind: MetricType, metrics: Vec<Metric>) -> MetricFamily {
    let mut family = MetricFamily::default();
    family.set_name(about.0.to_owned());
    family.set_help(about.1.to_owned());
    family.set_field_type(kind);
    family.set_metric(metrics);
    family
}

pub(super) fn gauge(labels: Vec<LabelPair>, value: f64) -> Metric {
    let mut gauge = Gauge::default();
    gauge.set_value(value);
    let mut metric = Metric::from_label(labels);
    metric.set_gauge(gauge);
    metric
}

pub(super) fn counter(labels: Vec<LabelPair>, value: f64) -> Metric {
    let mut counter = Counter::default();
    counter.set_value(value);
    let mut metric = Metric::from_label(labels);
    metric.set_counter(counter);
    metric
}

fn histogram(labels: Vec<LabelPair>, totals: &HistogramTotals, units: f64) -> Metric {
    const THOUSANDTHS: f64 = 1000.0;
    let mut count = 0;
    let buckets = BOUNDS.iter().zip(totals.buckets).map(|(bound, here)| {
        count += here;
        let mut bucket = Bucket::default();
        bucket.set_upper_bound(*bound as f64 / THOUSANDTHS);
        bucket.set_cumulative_count(count);
        bucket
    });
    let buckets = buckets.collect();
    let mut histogram = Histogram::default();
    histogram.set_bucket(buckets);
    histogram.set_sample_count(totals.buckets.iter().sum());
    histogram.set_sample_sum(totals.sum as f64 / units);
    let mut metric = Metric::from_label(labels);
    metric.set_histogram(histogram);
    metric
}

fn pairs(labels: &SeriesLabels) -> Vec<LabelPair> {
    let SeriesLabels {
        reporter,
        peer,
        destination,
        workload,
        flags,
        security,
        http,
    } = labels;
    let WorkloadLabels {
        workload: source_workload,
        namespace: source_namespace,
        principal: source_principal,
        app: source_app,
        version: source_version,
        canonical_service: source_canonical_service,
        canonical_revision: source_canonical_revision,
        cluster: source_cluster,
    } = &**peer;
    let flags = flags.to_string();
    let values: [&str; TCP_LABEL_COUNT] = [
        reporter.label(),
        source_workload,
        source_canonical_service,
        source_canonical_revision,
        source_namespace,
        source_principal,
        source_app,
        source_version,
        source_cluster,
        &workload.workload,
        &workload.namespace,
        &workload.principal,
        &workload.app,
        &workload.version,
        &destination.service,
        &workload.canonical_service,
        &workload.canonical_revision,
        &destination.name,
        &destination.namespace,
        &workload.cluster,
        http.as_ref().map_or("tcp", |http| http.protocol.label()),
        &flags,
        security.label(),
    ];
    let mut pairs = Vec::with_capacity(REQUEST_LABELS.len());
    pairs.extend(
        TCP_LABELS
            .iter()
            .zip(values)
            .map(|(name, value)| pair(name, value)),
    );
    if let Some(http) = http {
        let status = http.grpc_status.map(|status| status.code().to_string());
        pairs.push(pair("response_code", &http.response_code.to_string()));
        pairs.push(pair("grpc_response_status", &status.unwrap_or_default()));
    }
    pairs
}

fn pair(name: &str, value: &str) -> LabelPair {
    let mut pair = LabelPair::default();
    pair.set_name(name.to_owned());
    pair.set_value(value.to_owned());
    pair
}
