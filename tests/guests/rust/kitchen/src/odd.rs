//! What filters do at odd moments: answering late or twice, continuing what does not wait, closing.

use proxy_wasm::hostcalls;
use proxy_wasm::traits::HttpContext;
use proxy_wasm::types::Action;

use crate::{info, Exchange};

pub(crate) fn request_headers(exchange: &Exchange) -> Action {
    match exchange.path.as_str() {
        "/odd-resume-first" => {
            info(&format!("resumed: {:?}", hostcalls::resume_http_request()));
            return Action::Pause;
        }
        "/odd-resume-unpaused" => exchange.resume_http_request(),
        "/odd-log" => info("a line\n2026-01-01T00:00:00Z  INFO forged\u{1b}[2J"),
        "/odd-resume-response" => exchange.resume_http_response(),
        "/odd-reply-and-continue" => {
            exchange.send_http_response(403, vec![], Some(b"no\n"));
        }
        "/odd-reply-twice" => {
            exchange.send_http_response(403, vec![], Some(b"first\n"));
            exchange.send_http_response(404, vec![], Some(b"second\n"));
            return Action::Pause;
        }
        "/odd-reply-headers" => {
            let headers = vec![
                ("x-twice", "a"),
                ("x-twice", "b"),
                ("X-Case", "Kept"),
                ("x-empty", ""),
            ];
            exchange.send_http_response(200, headers, None);
            return Action::Pause;
        }
        "/odd-close" => exchange.reset_http_request(),
        "/odd-repeated" => {
            info(&format!(
                "x-many: {:?}",
                exchange.get_http_request_header("x-many")
            ));
            exchange.set_http_request_header("x-many", Some("only"));
        }
        "/odd-empty" => {
            info(&format!(
                "x-empty: {:?}",
                exchange.get_http_request_header("x-empty")
            ));
            exchange.add_http_request_header("x-nothing", "");
            info(&format!(
                "x-nothing: {:?}",
                exchange.get_http_request_header("x-nothing")
            ));
        }
        "/odd-rewrite" => {
            exchange.set_http_request_header(":path", Some("/elsewhere?x=1"));
            exchange.set_http_request_header(":method", Some("PUT"));
            exchange.set_http_request_header(":authority", Some("other.test"));
        }
        "/odd-absent-maps" => {
            info(&format!(
                "response: {:?}",
                exchange.get_http_response_headers()
            ));
            info(&format!(
                "trailers: {:?}",
                exchange.get_http_request_trailers()
            ));
            info(&format!(
                "answer: {:?}",
                exchange.get_http_request_body(0, 10)
            ));
        }
        _ => {}
    }
    Action::Continue
}

pub(crate) fn request_body(exchange: &Exchange, _size: usize, end: bool) -> Action {
    match exchange.path.as_str() {
        "/odd-reply-on-body" => {
            exchange.send_http_response(403, vec![], Some(b"on body\n"));
            Action::Pause
        }
        // The whole of it, if it is not too long.
        "/odd-hold-request" if !end => Action::Pause,
        _ => Action::Continue,
    }
}

pub(crate) fn response_headers(exchange: &Exchange, end: bool) -> Action {
    match exchange.path.as_str() {
        "/odd-headers-in-response" => {
            info(&format!("end {end}"));
            info(&format!(
                "path: {:?}",
                exchange.get_http_request_header(":path")
            ));
            info(&format!(
                "header: {:?}",
                exchange.get_http_request_header("x-mine")
            ));
        }
        "/odd-status" => {
            info(&format!(
                "status: {:?}",
                exchange.get_http_response_header(":status")
            ));
            exchange.set_http_response_header(":status", Some("203"));
        }
        "/odd-close-response" => exchange.reset_http_response(),
        "/odd-resume-first-response" => {
            exchange.resume_http_response();
            return Action::Pause;
        }
        _ => {}
    }
    Action::Continue
}

pub(crate) fn response_body(exchange: &Exchange, end: bool) -> Action {
    match exchange.path.as_str() {
        // The head is on its way: nobody can answer otherwise any more.
        "/odd-reply-on-response-body" => {
            exchange.send_http_response(502, vec![], Some(b"too late\n"));
            Action::Pause
        }
        "/odd-hold-response" if !end => Action::Pause,
        _ => Action::Continue,
    }
}
