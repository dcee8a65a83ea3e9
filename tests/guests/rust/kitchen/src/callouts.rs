//! Calls to others: the request waits for them, or is answered by what they said.

use std::time::Duration;

use proxy_wasm::traits::{Context, HttpContext};
use proxy_wasm::types::Action;

use crate::{info, Exchange};

pub(crate) fn request_headers(exchange: &mut Exchange) -> Action {
    match exchange.path.as_str() {
        "/callout" | "/callout-reply" => ask(exchange, "/auth"),
        "/callout-late" => ask(exchange, "/slow"),
        "/callout-two" => {
            let _ = ask(exchange, "/auth");
            ask(exchange, "/other")
        }
        "/callout-unknown" => {
            let asked = call(exchange, "nowhere", "/auth");
            info(&format!(
                "call to an unknown backend: {:?}",
                asked.map(drop)
            ));
            Action::Continue
        }
        "/callout-incomplete" => {
            let target = exchange.target.clone();
            let asked = exchange.dispatch_http_call(
                &target,
                vec![(":method", "GET"), (":path", "/")],
                None,
                vec![],
                Duration::from_secs(1),
            );
            info(&format!("call without authority: {:?}", asked.map(drop)));
            Action::Continue
        }
        _ => Action::Continue,
    }
}

/// Asks the backend that the request names, and waits.
pub(crate) fn ask(exchange: &mut Exchange, path: &str) -> Action {
    let target = exchange.target.clone();
    match call(exchange, &target, path) {
        Ok(_) => {
            exchange.waiting += 1;
            Action::Pause
        }
        Err(status) => {
            info(&format!("call failed at once: {status:?}"));
            Action::Continue
        }
    }
}

fn call(exchange: &Exchange, target: &str, path: &str) -> Result<u32, proxy_wasm::types::Status> {
    let headers = vec![
        (":method", "POST"),
        (":path", path),
        (":authority", "auth.test"),
        ("x-asked", "yes"),
    ];
    let timeout = Duration::from_millis(if path == "/slow" { 200 } else { 5000 });
    exchange.dispatch_http_call(target, headers, Some(b"may I?"), vec![], timeout)
}

pub(crate) fn answered(exchange: &mut Exchange, headers: usize, size: usize, trailers: usize) {
    let status = exchange.get_http_call_response_header(":status");
    let note = exchange.get_http_call_response_header("x-note");
    let body = exchange.get_http_call_response_body(0, size);
    let body = body.map(|body| String::from_utf8_lossy(&body).into_owned());
    info(&format!(
        "answer: headers {}, trailers {trailers}, status {status:?}, note {note:?}, body {body:?}",
        if headers == 0 { "none" } else { "some" },
    ));
    exchange.waiting -= 1;
    if exchange.waiting > 0 {
        return;
    }
    let said = format!(
        "{} {}",
        status.unwrap_or_default(),
        body.unwrap_or_default()
    );
    match exchange.path.as_str() {
        "/callout-reply" => {
            exchange.send_http_response(403, vec![("x-callout", &said)], Some(said.as_bytes()));
        }
        "/callout-response" => {
            exchange.set_http_response_header("x-callout", Some(&said));
            exchange.resume_http_response();
        }
        // The head has gone; the body waited.
        "/callout-body" => exchange.resume_http_request(),
        _ => {
            exchange.set_http_request_header("x-callout", Some(&said));
            exchange.resume_http_request();
        }
    }
}
