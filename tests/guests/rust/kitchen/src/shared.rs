//! What streams and plugins share, and what a host knows: data, queues, metrics, properties.

use proxy_wasm::hostcalls;
use proxy_wasm::traits::{Context, HttpContext};
use proxy_wasm::types::{LogLevel, MetricType};

use crate::{info, Exchange};

pub(crate) fn map(exchange: &Exchange, count: usize, end: bool) {
    let headers = exchange.get_http_request_headers();
    info(&format!(
        "end {end}, count right: {}",
        headers.len() == count
    ));
    let mut ours: Vec<_> = headers
        .iter()
        .filter(|(name, _)| name.starts_with("x-m"))
        .collect();
    ours.sort();
    info(&format!("map: {ours:?}"));
    let mut kept: Vec<_> = headers
        .iter()
        .map(|(n, v)| (n.as_str(), v.as_str()))
        .collect();
    kept.retain(|(name, _)| !name.starts_with("x-m"));
    kept.push(("x-made", "a"));
    kept.push(("x-made", "b"));
    exchange.set_http_request_headers(kept);
    info(&format!(
        "made: {:?}",
        exchange.get_http_request_header("x-made")
    ));
}

pub(crate) fn data(exchange: &Exchange) {
    let key = exchange
        .get_http_request_header("x-key")
        .unwrap_or_default();
    let absent = exchange.get_shared_data(&key);
    info(&format!("absent: {:?}", absent.0));
    info(&format!(
        "set: {:?}",
        exchange.set_shared_data(&key, Some(b"one"), None)
    ));
    let (value, cas) = exchange.get_shared_data(&key);
    info(&format!(
        "got: {value:?}, versioned: {}",
        cas.is_some_and(|it| it > 0)
    ));
    info(&format!(
        "swapped: {:?}",
        exchange.set_shared_data(&key, Some(b"two"), cas)
    ));
    info(&format!(
        "again: {:?}",
        exchange.set_shared_data(&key, Some(b"three"), cas)
    ));
    info(&format!("now: {:?}", exchange.get_shared_data(&key).0));
    info(&format!(
        "emptied: {:?}",
        exchange.set_shared_data(&key, None, None)
    ));
    info(&format!("empty: {:?}", exchange.get_shared_data(&key).0));
}

pub(crate) fn queue(exchange: &Exchange) {
    // Registered by a stream: what comes is fetched here, or told to the root.
    let queue = exchange.register_shared_queue("pantry");
    info(&format!(
        "resolved: {}",
        exchange.resolve_shared_queue("", "pantry") == Some(queue)
    ));
    info(&format!(
        "unknown: {:?}",
        exchange.resolve_shared_queue("", "attic")
    ));
    info(&format!(
        "empty: {:?}",
        exchange.dequeue_shared_queue(queue)
    ));
    info(&format!(
        "first: {:?}",
        exchange.enqueue_shared_queue(queue, Some(b"first"))
    ));
    info(&format!(
        "second: {:?}",
        exchange.enqueue_shared_queue(queue, Some(b"second"))
    ));
    info(&format!("got: {:?}", exchange.dequeue_shared_queue(queue)));
    info(&format!("got: {:?}", exchange.dequeue_shared_queue(queue)));
    info(&format!(
        "nobody's: {:?}",
        exchange.enqueue_shared_queue(4711, Some(b"x"))
    ));
}

pub(crate) fn metrics(exchange: &Exchange) {
    let name = exchange
        .get_http_request_header("x-metric")
        .unwrap_or_default();
    let define = |kind, suffix: &str| hostcalls::define_metric(kind, &format!("{name}_{suffix}"));
    let (Ok(counter), Ok(gauge), Ok(histogram)) = (
        define(MetricType::Counter, "counter"),
        define(MetricType::Gauge, "gauge"),
        define(MetricType::Histogram, "histogram"),
    ) else {
        return info("metrics are not to be had");
    };
    let read = |id| hostcalls::get_metric(id).map_err(drop);
    info(&format!(
        "counter: {:?}",
        hostcalls::increment_metric(counter, 3)
    ));
    info(&format!(
        "counter: {:?}",
        hostcalls::record_metric(counter, 4)
    ));
    info(&format!("counter is {:?}", read(counter)));
    info(&format!("gauge: {:?}", hostcalls::record_metric(gauge, 10)));
    info(&format!(
        "gauge: {:?}",
        hostcalls::increment_metric(gauge, -4)
    ));
    info(&format!("gauge is {:?}", read(gauge)));
    info(&format!(
        "histogram: {:?}",
        hostcalls::record_metric(histogram, 25)
    ));
    let Ok(second) = define(MetricType::Counter, "counter") else {
        return info("no second name for one metric");
    };
    info(&format!(
        "same: {:?}",
        hostcalls::increment_metric(second, 1)
    ));
    info(&format!("same is {:?}", read(counter)));
}

pub(crate) fn levels() {
    for level in [
        LogLevel::Trace,
        LogLevel::Debug,
        LogLevel::Info,
        LogLevel::Warn,
        LogLevel::Error,
        LogLevel::Critical,
    ] {
        let _ = hostcalls::log(level, &format!("as loud as {level:?}"));
    }
    println!("to standard output");
    eprintln!("to standard error");
}

pub(crate) fn foreign(exchange: &Exchange) {
    let text = b"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";
    let packed = exchange.call_foreign_function("compress", Some(text));
    let Ok(Some(packed)) = packed else {
        return info(&format!("compress: {packed:?}"));
    };
    info(&format!("smaller: {}", packed.len() < text.len()));
    // Envoy's wants the size in front.
    let unpacked = exchange.call_foreign_function("uncompress", Some(&packed));
    info(&format!(
        "unpacked: {:?}",
        unpacked.map(|it| it.as_deref() == Some(text))
    ));
}

pub(crate) fn environment() {
    info(&format!("GREETING: {:?}", std::env::var("GREETING")));
    info(&format!("arguments: {}", std::env::args().count()));
    let now = std::time::SystemTime::now();
    let told = hostcalls::get_current_time();
    let apart = told.map(|told| {
        now.duration_since(told)
            .or_else(|e| Ok::<_, ()>(e.duration()))
    });
    info(&format!(
        "one clock: {}",
        matches!(apart, Ok(Ok(apart)) if apart.as_secs() < 5)
    ));
    let start = std::time::Instant::now();
    info(&format!("time goes on: {}", start.elapsed().as_secs() < 5));
}

pub(crate) fn properties(exchange: &Exchange) {
    for path in [
        "request.path",
        "request.url_path",
        "request.host",
        "request.scheme",
        "request.method",
        "request.headers.x-mine",
        "request.headers.x-absent",
        "request.referer",
        "request.useragent",
        "request.protocol",
        "request.query",
        "plugin_name",
        "plugin_root_id",
        "plugin_vm_id",
        "connection.requested_server_name",
        "nobody.knows.this",
    ] {
        let value = exchange.get_property(path.split('.').collect());
        let value = value.map(|value| String::from_utf8_lossy(&value).into_owned());
        info(&format!("{path} = {value:?}"));
    }
    for path in [
        "source.port",
        "destination.port",
        "request.time",
        "connection.mtls",
        "request.id",
    ] {
        let value = exchange.get_property(path.split('.').collect());
        info(&format!(
            "{path} has {:?} bytes",
            value.map(|value| value.len())
        ));
    }
    exchange.set_property(vec!["mine"], Some(b"kept"));
    let kept = exchange.get_property(vec!["mine"]);
    info(&format!(
        "mine = {:?}",
        kept.map(|it| String::from_utf8_lossy(&it).into_owned())
    ));
}
