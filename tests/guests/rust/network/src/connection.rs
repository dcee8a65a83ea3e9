//! One connection.

use std::rc::Rc;
use std::time::Duration;

use proxy_wasm::traits::{Context, StreamContext};
use proxy_wasm::types::{Action, PeerType};

use crate::{info, Settings};

pub(crate) struct Connection {
    id: u32,
    settings: Rc<Settings>,
}

impl Connection {
    pub(crate) fn new(id: u32, settings: Rc<Settings>) -> Self {
        Self { id, settings }
    }

    fn say(&self, text: &str) {
        info(&format!("{}: {text}", self.id));
    }

    fn text(&self, path: &[&str]) -> String {
        let value = self.get_property(path.to_vec());
        value.map_or_else(
            || "-".to_owned(),
            |value| String::from_utf8_lossy(&value).into_owned(),
        )
    }

    fn number(&self, path: &[&str]) -> i64 {
        let value = self.get_property(path.to_vec()).unwrap_or_default();
        value.try_into().map_or(-1, i64::from_le_bytes)
    }

    /// Asks somebody, and holds the connection up meanwhile.
    fn ask(&self, path: &str) -> Action {
        let backend = self.settings.get("backend").unwrap_or_default();
        let headers = vec![
            (":method", "GET"),
            (":path", path),
            (":authority", "asked.test"),
        ];
        match self.dispatch_http_call(backend, headers, None, vec![], Duration::from_secs(10)) {
            Ok(_) => Action::Pause,
            Err(status) => {
                self.say(&format!("no call: {status:?}"));
                self.close_downstream();
                Action::Pause
            }
        }
    }

    fn properties(&self) -> String {
        format!(
            "{} {} {} {} {} {} {} {}\n",
            self.text(&["source", "principal"]),
            self.number(&["destination", "port"]),
            self.text(&["connection", "uri_san_peer_certificate"]),
            self.text(&["cluster_name"]),
            self.number(&["upstream", "port"]),
            self.text(&["request", "method"]),
            self.text(&["plugin_name"]),
            self.text(&["passed_on"]),
        )
    }
}

impl Context for Connection {
    fn on_http_call_response(&mut self, _: u32, headers: usize, _: usize, _: usize) {
        let status = self.get_http_call_response_header(":status");
        self.say(&format!("asked: {status:?}"));
        if headers == 0 || status.as_deref() != Some("200") {
            self.close_downstream();
            return;
        }
        // What is held can be edited while it is.
        if self.get_downstream_data(0, 1).is_some_and(|data| !data.is_empty()) {
            self.set_downstream_data(0, 0, b"allowed ");
        }
        self.resume_downstream();
    }

    fn on_done(&mut self) -> bool {
        self.say("done");
        true
    }
}

impl StreamContext for Connection {
    fn on_new_connection(&mut self) -> Action {
        self.say("new");
        if self.settings.has("refuse") {
            self.close_downstream();
            return Action::Pause;
        }
        if self.settings.has("ask-first") {
            return self.ask("/connect");
        }
        if self.settings.has("wait") {
            return Action::Pause;
        }
        Action::Continue
    }

    fn on_downstream_data(&mut self, size: usize, end: bool) -> Action {
        let data = self.get_downstream_data(0, size).unwrap_or_default();
        self.say(&format!("down {size} {end}"));
        if data.starts_with(b"hoard") || !data.ends_with(b"\n") && !end {
            return Action::Pause;
        }
        let tag = self.settings.get("tag").unwrap_or_default().to_owned();
        match data.as_slice() {
            b"boom\n" => panic!("as I was told"),
            b"spin\n" => loop {
                std::hint::black_box(());
            },
            b"close\n" => {
                self.close_downstream();
                return Action::Continue;
            }
            b"ask\n" => return self.ask("/line"),
            b"leave\n" => {
                self.set_property(vec!["passed_on"], Some(tag.as_bytes()));
            }
            b"properties\n" => {
                let text = self.properties();
                self.set_downstream_data(0, size, text.as_bytes());
            }
            _ if data.is_empty() => {}
            _ => self.set_downstream_data(0, 0, format!("{tag}>").as_bytes()),
        }
        Action::Continue
    }

    fn on_upstream_data(&mut self, size: usize, end: bool) -> Action {
        let data = self.get_upstream_data(0, size).unwrap_or_default();
        self.say(&format!("up {size} {end}"));
        if data.starts_with(b"hoard") {
            return Action::Pause;
        }
        if data.ends_with(b"bye\n") {
            self.close_downstream();
        }
        if !data.is_empty() {
            let tag = self.settings.get("tag").unwrap_or_default();
            self.set_upstream_data(0, 0, format!("<{tag} ").as_bytes());
        }
        Action::Continue
    }

    fn on_downstream_close(&mut self, peer: PeerType) {
        self.say(&format!("downstream closed: {peer:?}"));
    }

    fn on_upstream_close(&mut self, peer: PeerType) {
        self.say(&format!("upstream closed: {peer:?}"));
    }

    fn on_log(&mut self) {
        self.say("log");
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.say("deleted");
    }
}
