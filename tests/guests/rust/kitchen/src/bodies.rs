//! Bodies in parts, and trailers.

use proxy_wasm::hostcalls;
use proxy_wasm::traits::HttpContext;
use proxy_wasm::types::{Action, MapType};

use crate::{info, Exchange};

pub(crate) fn request_headers(exchange: &Exchange) {
    exchange.set_http_request_header("content-length", None);
}

pub(crate) fn response_headers(exchange: &Exchange) -> Action {
    if matches!(exchange.path.as_str(), "/parts" | "/new-trailers") {
        exchange.set_http_response_header("content-length", None);
    }
    Action::Continue
}

pub(crate) fn request_body(exchange: &Exchange, size: usize, end: bool) -> Action {
    match exchange.path.as_str() {
        "/parts" if !end => Action::Pause,
        "/parts" => {
            info(&format!(
                "head: {:?}",
                text(exchange.get_http_request_body(0, 3))
            ));
            info(&format!(
                "middle: {:?}",
                text(exchange.get_http_request_body(2, 3))
            ));
            info(&format!(
                "past: {:?}",
                text(exchange.get_http_request_body(size, 3))
            ));
            info(&format!(
                "over: {:?}",
                text(exchange.get_http_request_body(0, size + 10))
            ));
            exchange.set_http_request_body(0, 0, b"before ");
            exchange.set_http_request_body(size + 7, 0, b" after");
            info(&format!(
                "whole: {:?}",
                text(exchange.get_http_request_body(0, 1000))
            ));
            // The first word again, in place of it.
            exchange.set_http_request_body(0, 6, b"BEFORE");
            Action::Continue
        }
        "/new-trailers" if end => {
            let added = hostcalls::add_map_value(MapType::HttpRequestTrailers, "x-new", "made");
            info(&format!("new request trailer: {added:?}"));
            Action::Continue
        }
        _ => Action::Continue,
    }
}

pub(crate) fn response_body(exchange: &Exchange, size: usize, end: bool) -> Action {
    match exchange.path.as_str() {
        "/parts" if !end => Action::Pause,
        "/parts" => {
            exchange.set_http_response_body(0, size, b"");
            info(&format!(
                "emptied: {:?}",
                text(exchange.get_http_response_body(0, 10))
            ));
            exchange.set_http_response_body(0, 0, b"anew");
            Action::Continue
        }
        "/new-trailers" if end => {
            let added = hostcalls::add_map_value(MapType::HttpResponseTrailers, "x-new", "made");
            info(&format!("new response trailer: {added:?}"));
            Action::Continue
        }
        _ => Action::Continue,
    }
}

pub(crate) fn request_trailers(exchange: &Exchange, count: usize) -> Action {
    if exchange.path == "/trailers" {
        info(&format!("{count} request trailers"));
        info(&format!(
            "x-kept: {:?}",
            exchange.get_http_request_trailer("x-kept")
        ));
        exchange.add_http_request_trailer("x-added", "by the filter");
        exchange.set_http_request_trailer("x-replaced", Some("new"));
        exchange.set_http_request_trailer("x-removed", None);
    }
    Action::Continue
}

pub(crate) fn response_trailers(exchange: &Exchange, count: usize) -> Action {
    if exchange.path == "/trailers" {
        info(&format!("{count} response trailers"));
        info(&format!(
            "x-kept: {:?}",
            exchange.get_http_response_trailer("x-kept")
        ));
        exchange.add_http_response_trailer("x-added", "by the filter");
        exchange.set_http_response_trailer("x-replaced", Some("new"));
        exchange.set_http_response_trailer("x-removed", None);
    }
    Action::Continue
}

fn text(bytes: Option<Vec<u8>>) -> Option<String> {
    bytes.map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
}
