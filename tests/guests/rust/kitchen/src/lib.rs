//! The rest of the ABI as filters use it, through the crate `proxy-wasm`. What happens hangs on the
//! path; each subject has a file. What the host answered is logged, or told to the backend in headers,
//! so that a test can compare hosts.

mod bodies;
mod callouts;
mod odd;
mod shared;

use std::time::Duration;

use proxy_wasm::hostcalls;
use proxy_wasm::traits::{Context, HttpContext, RootContext};
use proxy_wasm::types::{Action, ContextType, LogLevel};

proxy_wasm::main! {{
    proxy_wasm::set_log_level(LogLevel::Trace);
    proxy_wasm::set_root_context(|_| Box::new(Root { ticks: 0 }));
}}

fn info(text: &str) {
    let _ = hostcalls::log(LogLevel::Info, text);
}

struct Root {
    ticks: u32,
}

impl Context for Root {
    fn on_done(&mut self) -> bool {
        info("root done");
        true
    }
}

impl RootContext for Root {
    fn on_vm_start(&mut self, size: usize) -> bool {
        info(&format!("started with {size} bytes"));
        true
    }

    fn on_configure(&mut self, size: usize) -> bool {
        let text = self.get_plugin_configuration().unwrap_or_default();
        info(&format!("configured with {size} bytes"));
        match text.as_slice() {
            br#"{"tick":true}"# => self.set_tick_period(Duration::from_millis(20)),
            br#"{"panic":true}"# => panic!("as configured"),
            br#"{"refuse":true}"# => return false,
            _ => {}
        }
        true
    }

    fn on_tick(&mut self) {
        self.ticks += 1;
        info(&format!("tick {}", self.ticks));
        if self.ticks == 3 {
            self.set_tick_period(Duration::ZERO);
        }
    }

    fn on_queue_ready(&mut self, queue: u32) {
        while let Ok(Some(item)) = self.dequeue_shared_queue(queue) {
            info(&format!("dequeued {}", String::from_utf8_lossy(&item)));
        }
    }

    fn create_http_context(&self, _id: u32) -> Option<Box<dyn HttpContext>> {
        Some(Box::new(Exchange::default()))
    }

    fn get_type(&self) -> Option<ContextType> {
        Some(ContextType::HttpContext)
    }
}

/// One exchange.
#[derive(Default)]
struct Exchange {
    path: String,
    /// Whom to call.
    target: String,
    /// Callouts under way.
    waiting: u32,
}

impl Context for Exchange {
    fn on_http_call_response(&mut self, _token: u32, headers: usize, size: usize, trailers: usize) {
        callouts::answered(self, headers, size, trailers);
    }

    fn on_done(&mut self) -> bool {
        true
    }
}

impl HttpContext for Exchange {
    fn on_http_request_headers(&mut self, count: usize, end: bool) -> Action {
        self.path = self.get_http_request_header(":path").unwrap_or_default();
        // Envoy has no request headers any more when the body comes.
        self.target = self.get_http_request_header("x-target").unwrap_or_default();
        let path = self.path.clone();
        match path.as_str() {
            "/panic" => panic!("as requested"),
            "/map" => shared::map(self, count, end),
            "/shared" => shared::data(self),
            "/queue" => shared::queue(self),
            "/metrics" => shared::metrics(self),
            "/levels" => shared::levels(),
            "/foreign" => shared::foreign(self),
            "/environment" => shared::environment(),
            "/properties" => shared::properties(self),
            "/parts" | "/trailers" | "/new-trailers" => bodies::request_headers(self),
            path if path.starts_with("/callout") => return callouts::request_headers(self),
            path if path.starts_with("/odd") => return odd::request_headers(self),
            _ => {}
        }
        Action::Continue
    }

    fn on_http_request_body(&mut self, size: usize, end: bool) -> Action {
        match self.path.as_str() {
            "/callout-body" if end => callouts::ask(self, "/auth"),
            "/callout-body" => Action::Pause,
            path if path.starts_with("/odd") => odd::request_body(self, size, end),
            _ => bodies::request_body(self, size, end),
        }
    }

    fn on_http_request_trailers(&mut self, count: usize) -> Action {
        bodies::request_trailers(self, count)
    }

    fn on_http_response_headers(&mut self, _count: usize, end: bool) -> Action {
        match self.path.as_str() {
            "/callout-response" => callouts::ask(self, "/auth"),
            "/panic-response" => panic!("as requested"),
            path if path.starts_with("/odd") => odd::response_headers(self, end),
            _ => bodies::response_headers(self),
        }
    }

    fn on_http_response_body(&mut self, size: usize, end: bool) -> Action {
        if self.path.starts_with("/odd") {
            return odd::response_body(self, end);
        }
        bodies::response_body(self, size, end)
    }

    fn on_http_response_trailers(&mut self, count: usize) -> Action {
        bodies::response_trailers(self, count)
    }

    fn on_log(&mut self) {
        let status = self.get_http_response_header(":status").unwrap_or_default();
        info(&format!("over: {} {status}", self.path));
    }
}
