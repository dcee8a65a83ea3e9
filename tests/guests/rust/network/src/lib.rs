//! A filter of opaque bytes over the crate `proxy-wasm`: it reads lines, and does what they say.
//! `tests/guests/README.md` lists them.

mod connection;

use std::rc::Rc;

use proxy_wasm::hostcalls;
use proxy_wasm::traits::{Context, RootContext, StreamContext};
use proxy_wasm::types::{ContextType, LogLevel};

use connection::Connection;

proxy_wasm::main! {{
    proxy_wasm::set_log_level(LogLevel::Info);
    proxy_wasm::set_root_context(|_| Box::new(Root::default()));
}}

fn info(text: &str) {
    let _ = hostcalls::log(LogLevel::Info, text);
}

#[derive(Default)]
struct Root {
    settings: Rc<Settings>,
}

/// The words of `{"do":"these words"}`.
#[derive(Default)]
struct Settings(String);

impl Settings {
    fn has(&self, word: &str) -> bool {
        self.0.split(' ').any(|it| it == word)
    }

    /// The value of `key=value`.
    fn get(&self, key: &str) -> Option<&str> {
        let words = self.0.split(' ');
        words
            .filter_map(|word| word.split_once('='))
            .find(|(name, _)| *name == key)
            .map(|(_, value)| value)
    }
}

impl Context for Root {}

impl RootContext for Root {
    fn on_configure(&mut self, _size: usize) -> bool {
        let bytes = self.get_plugin_configuration().unwrap_or_default();
        let text = String::from_utf8_lossy(&bytes);
        let words = text.split('"').nth(3).unwrap_or_default();
        self.settings = Rc::new(Settings(words.to_owned()));
        true
    }

    fn create_stream_context(&self, id: u32) -> Option<Box<dyn StreamContext>> {
        Some(Box::new(Connection::new(id, Rc::clone(&self.settings))))
    }

    fn get_type(&self) -> Option<ContextType> {
        Some(ContextType::StreamContext)
    }
}
