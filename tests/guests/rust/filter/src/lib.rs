//! The filter of `tests/guests/README.md` over the crate `proxy-wasm`.

use std::rc::Rc;

use proxy_wasm::hostcalls;
use proxy_wasm::traits::{Context, HttpContext, RootContext};
use proxy_wasm::types::{Action, ContextType, LogLevel};

proxy_wasm::main! {{
    proxy_wasm::set_log_level(LogLevel::Info);
    proxy_wasm::set_root_context(|_| Box::new(Root::default()));
}}

fn info(text: &str) {
    let _ = hostcalls::log(LogLevel::Info, text);
}

#[derive(Default)]
struct Root {
    configuration: Rc<str>,
}

impl Context for Root {}

impl RootContext for Root {
    fn on_configure(&mut self, _size: usize) -> bool {
        let bytes = self.get_plugin_configuration().unwrap_or_default();
        self.configuration = String::from_utf8_lossy(&bytes).into();
        info(&format!("configured with {} bytes", bytes.len()));
        &*self.configuration != r#"{"refuse":true}"#
    }

    fn create_http_context(&self, _id: u32) -> Option<Box<dyn HttpContext>> {
        Some(Box::new(Exchange {
            configuration: self.configuration.clone(),
            path: String::new(),
        }))
    }

    fn get_type(&self) -> Option<ContextType> {
        Some(ContextType::HttpContext)
    }
}

struct Exchange {
    configuration: Rc<str>,
    path: String,
}

fn shouted(body: Option<Vec<u8>>) -> Vec<u8> {
    let body = body.unwrap_or_default();
    info(&format!("body of {} bytes", body.len()));
    [b"<", body.to_ascii_uppercase().as_slice(), b">"].concat()
}

impl Context for Exchange {}

impl HttpContext for Exchange {
    fn on_http_request_headers(&mut self, _count: usize, _end: bool) -> Action {
        self.path = self.get_http_request_header(":path").unwrap_or_default();
        match self.path.as_str() {
            "/headers" => {
                let value = self.get_http_request_header("X-Read");
                info(&format!("read: {}", value.as_deref().unwrap_or("none")));
                self.add_http_request_header("x-added", "one");
                self.add_http_request_header("x-added", "two");
                self.set_http_request_header("x-replaced", Some("new"));
                self.set_http_request_header("x-set", Some("fresh"));
                self.set_http_request_header("x-removed", None);
                self.set_http_request_header("x-absent", None);
            }
            "/reply" => {
                let headers = vec![("x-reason", "because")];
                self.send_http_response(418, headers, Some(b"I am a teapot\n"));
                return Action::Pause;
            }
            "/body" => self.set_http_request_header("content-length", None),
            _ => {}
        }
        Action::Continue
    }

    fn on_http_request_body(&mut self, size: usize, end: bool) -> Action {
        match self.path.as_str() {
            "/body" | "/reply-body" if !end => Action::Pause,
            "/body" => {
                let body = shouted(self.get_http_request_body(0, size));
                self.set_http_request_body(0, size, &body);
                Action::Continue
            }
            "/reply-body" if self.get_http_request_body(0, size).as_deref() == Some(b"bad") => {
                self.send_http_response(400, vec![], Some(b"bad body\n"));
                Action::Pause
            }
            _ => Action::Continue,
        }
    }

    fn on_http_response_headers(&mut self, _count: usize, _end: bool) -> Action {
        self.set_http_response_header("x-filter", Some(&self.configuration));
        let status = self.get_http_response_header(":status").unwrap_or_default();
        match self.path.as_str() {
            "/headers" => {
                info(&format!("status: {status}"));
                self.add_http_response_header("x-added", "back");
                self.set_http_response_header("x-replaced", Some("new"));
                self.set_http_response_header("x-secret", None);
            }
            // Local replies pass here too.
            "/reply-response" if status != "502" => {
                self.send_http_response(502, vec![], Some(b"not this\n"));
                return Action::Pause;
            }
            "/body" => self.set_http_response_header("content-length", None),
            _ => {}
        }
        Action::Continue
    }

    fn on_http_response_body(&mut self, size: usize, end: bool) -> Action {
        match self.path.as_str() {
            "/body" if !end => Action::Pause,
            "/body" => {
                let body = shouted(self.get_http_response_body(0, size));
                self.set_http_response_body(0, size, &body);
                Action::Continue
            }
            _ => Action::Continue,
        }
    }

    fn on_log(&mut self) {
        info(&format!("over: {}", self.path));
    }
}
