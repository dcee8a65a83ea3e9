//! Plugins at a waypoint: WasmPlugin objects, modules made here, real sockets.

use std::net::TcpListener;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use serde_json::Value;
use wayline_tests::manifests::indented;
use wayline_tests::{Backend, Mesh, Request, Wayline, eventually};

use crate::scene::{self, ECHO, ECHO_AUTHORITY};

/// A module that adds a request header of this name (8 bytes) with its configuration as value.
fn module(header: &str) -> Vec<u8> {
    assert_eq!(header.len(), 8);
    guest(header, "i32.const 1")
}

/// A module that does not accept its configuration.
fn unwilling() -> Vec<u8> {
    guest("x-never-", "i32.const 0")
}

fn guest(header: &str, configured: &str) -> Vec<u8> {
    let text = format!(
        r#"(module
  (import "env" "proxy_get_buffer_bytes" (func $get (param i32 i32 i32 i32 i32) (result i32)))
  (import "env" "proxy_add_header_map_value" (func $add (param i32 i32 i32 i32 i32) (result i32)))
  (memory (export "memory") 4)
  (global $free (mut i32) (i32.const 65536))
  (func (export "proxy_abi_version_0_2_1"))
  (func (export "proxy_on_memory_allocate") (param $size i32) (result i32)
    (local $at i32)
    (local.set $at (global.get $free))
    (global.set $free (i32.add (global.get $free) (local.get $size)))
    (local.get $at))
  (func (export "proxy_on_context_create") (param i32 i32))
  (func (export "proxy_on_configure") (param i32 i32) (result i32)
    (drop (call $get (i32.const 7) (i32.const 0) (i32.const 4096) (i32.const 0) (i32.const 4)))
    {configured})
  (func (export "proxy_on_request_headers") (param i32 i32 i32) (result i32)
    (drop (call $add (i32.const 0) (i32.const 16) (i32.const 8) (i32.load (i32.const 0)) (i32.load (i32.const 4))))
    (i32.const 0))
  (data (i32.const 16) "{header}"))"#
    );
    wat::parse_str(&text).unwrap()
}

/// A WasmPlugin `p` for the service `echo`.
fn plugin(url: &str, version: &str, more: &str) -> String {
    let spec = format!(
        "targetRefs: [{{kind: Service, group: \"\", name: echo}}]\nurl: {url}\npluginConfig: {{v: {version}}}\n{more}"
    );
    format!(
        "apiVersion: extensions.istio.io/v1alpha1\nkind: WasmPlugin\nmetadata: {{name: p, namespace: default}}\nspec:\n{}",
        indented(2, &spec)
    )
}

fn file(path: &Path) -> String {
    format!("file://{}", path.display())
}

/// `echo` and `other` behind a waypoint, and a module beside the manifests.
struct Stage {
    mesh: Mesh,
    echo: Backend,
    module: std::path::PathBuf,
}

impl Stage {
    fn new() -> Self {
        let mesh = Mesh::new();
        mesh.write("mesh.yaml", &mesh.logging(""));
        let mut documents = scene::echo(&mesh);
        documents.extend(scene::service(&mesh, "other", 21));
        mesh.write("main.yaml", &wayline_tests::manifests::file(&documents));
        let echo = scene::backend(&mesh, "echo", ECHO);
        let module = mesh.home().join("filter.wasm");
        std::fs::write(&module, self::module("x-plugin")).unwrap();
        Self { mesh, echo, module }
    }

    fn plug(&self, version: &str, more: &str) {
        let text = plugin(&file(&self.module), version, more);
        self.mesh.write("plugin.yaml", &text);
    }

    fn start(&self, args: &[&str]) -> Wayline {
        let cache = self.mesh.home().join("cache");
        let cache = ["--wasm-cache-dir", cache.to_str().unwrap()];
        self.mesh.start_with(&[&cache[..], args].concat())
    }

    fn start_ready(&self) -> Wayline {
        let wayline = self.start(&[]);
        wayline.wait_ready();
        wayline
    }

    fn get(&self) -> u16 {
        let tunnel = self.mesh.tunnel("default/caller", ECHO_AUTHORITY);
        Request::get("/").send(tunnel.address).status
    }

    /// What the backend saw of the plugin.
    fn seen(&self, header: &str) -> Option<String> {
        assert_eq!(self.get(), 200);
        self.echo.last().header(header).map(str::to_owned)
    }

    fn until_seen(&self, header: &str, version: &str) {
        let wanted = configuration(version);
        eventually(&format!("{header}: {wanted}"), || {
            (self.seen(header).as_deref() == Some(&*wanted)).then_some(())
        });
    }
}

fn configuration(version: &str) -> String {
    format!("{{\"v\":\"{version}\"}}")
}

/// The plugins as `/config_dump` shows them.
fn plugins(wayline: &Wayline) -> Vec<Value> {
    let dump = wayline.admin_json("/config_dump");
    let configs = dump["configs"].as_array().unwrap();
    let ours = configs.last().unwrap();
    ours["plugins"].as_array().unwrap().clone()
}

fn finding(wayline: &Wayline, text: &str) {
    eventually(&format!("a finding with {text}"), || {
        let dump = wayline.admin("GET", "/config_dump").text();
        dump.contains(text).then_some(())
    });
}

#[test]
fn a_plugin_runs_at_its_target_and_nowhere_else() {
    let stage = Stage::new();
    stage.plug("one", "");
    let other = scene::backend(&stage.mesh, "other", 21);
    let wayline = stage.start_ready();
    assert_eq!(stage.seen("x-plugin"), Some(configuration("one")));
    let tunnel = stage.mesh.tunnel("default/caller", "10.96.0.21:80");
    assert_eq!(Request::get("/").send(tunnel.address).status, 200);
    assert_eq!(other.last().header("x-plugin"), None);

    let plugins = plugins(&wayline);
    assert_eq!(plugins.len(), 1);
    assert_eq!(plugins[0]["name"], "default.p");
    assert_eq!(plugins[0]["state"], "ready");
    assert_eq!(plugins[0]["digest"].as_str().unwrap().len(), 64);
    let labels = [("plugin", "default.p"), ("state", "ready")];
    wayline.counted("wayline_wasm_plugin_state", &labels, 1.0);
    wayline.counted("wasm_cache_lookup_count", &[("hit", "false")], 1.0);
    wayline.counted("wasm_cache_entries", &[], 1.0);
    wayline.counted("wayline_wasm_code_total", &[("found", "compiler")], 1.0);
    wayline.counted("wayline_wasm_compile_seconds_count", &[], 1.0);
    let labels = [
        ("function", "proxy_get_buffer_bytes"),
        ("plugin", "default.p"),
    ];
    assert!(
        wayline
            .metrics()
            .sum("wayline_wasm_host_calls_total", &labels)
            > 0.0
    );

    stage.mesh.remove("plugin.yaml");
    eventually("the plugin to be gone", || {
        stage.seen("x-plugin").is_none().then_some(())
    });
}

/// A plugin that leads `/public` to `/admin`, before and behind the policy that denies the latter.
#[test]
fn a_path_that_a_plugin_writes_is_judged() {
    let text = r#"(module
  (import "env" "proxy_replace_header_map_value" (func $set (param i32 i32 i32 i32 i32) (result i32)))
  (import "env" "proxy_get_header_map_value" (func $get (param i32 i32 i32 i32 i32) (result i32)))
  (memory (export "memory") 2)
  (data (i32.const 16) ":path/admin/%61/../b")
  (func (export "proxy_abi_version_0_2_1"))
  (func (export "proxy_on_memory_allocate") (param i32) (result i32) (i32.const 4096))
  (func (export "proxy_on_request_headers") (param i32 i32 i32) (result i32)
    (drop (call $get (i32.const 0) (i32.const 16) (i32.const 5) (i32.const 0) (i32.const 4)))
    (if (i32.eq (i32.load8_u offset=1 (i32.load (i32.const 0))) (i32.const 112))
      (then (drop (call $set (i32.const 0) (i32.const 16) (i32.const 5) (i32.const 21) (i32.const 15)))))
    (i32.const 0)))"#;
    let policy = r#"apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: no-admin, namespace: default}
spec:
  targetRefs: [{kind: Service, group: "", name: echo}]
  action: DENY
  rules: [{to: [{operation: {paths: ["/admin/b"]}}]}]
"#;
    for phase in ["", "phase: AUTHN", "phase: AUTHZ", "phase: STATS"] {
        let stage = Stage::new();
        std::fs::write(&stage.module, wat::parse_str(text).unwrap()).unwrap();
        stage.mesh.write("policy.yaml", policy);
        stage.plug("one", phase);
        let _wayline = stage.start_ready();
        let tunnel = stage.mesh.tunnel("default/caller", ECHO_AUTHORITY);
        let status = |path: &str| Request::get(path).send(tunnel.address).status;
        assert_eq!(status("/admin/b"), 403, "{phase}");
        assert_eq!(status("/other"), 200, "{phase}");
        let before = stage.echo.requests().len();
        assert_eq!(status("/public"), 403, "{phase}");
        assert_eq!(stage.echo.requests().len(), before, "{phase}");
    }
}

/// Ends the load also where the test fails, so that it does not go on for ever.
struct StopAtEnd<'a>(&'a AtomicBool);

impl Drop for StopAtEnd<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn a_new_configuration_takes_over_under_load_without_loss() {
    let stage = Stage::new();
    stage.plug("v0", "");
    let _wayline = stage.start_ready();
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        let _ended = StopAtEnd(&stop);
        for _ in 0..2 {
            scope.spawn(|| {
                let tunnel = stage.mesh.tunnel("default/caller", ECHO_AUTHORITY);
                while !stop.load(Ordering::Relaxed) {
                    assert_eq!(Request::get("/load").send(tunnel.address).status, 200);
                }
            });
        }
        for version in ["v1", "v2", "v3"] {
            stage.plug(version, "");
            stage.until_seen("x-plugin", version);
        }
    });
    // No request met a chain without the plugin.
    for request in stage.echo.requests() {
        let seen = request.header("x-plugin").unwrap_or_default();
        assert!(seen.starts_with("{\"v\":\"v"), "{seen}");
    }
}

#[test]
fn what_can_not_run_refuses_or_steps_aside_as_its_author_said() {
    let stage = Stage::new();
    std::fs::remove_file(&stage.module).unwrap();
    stage.plug("one", "failStrategy: FAIL_CLOSE");
    let wayline = stage.start_ready();
    assert_eq!(stage.get(), 503);
    let line = stage.mesh.logged("wasm_fail_stream");
    assert!(line.contains("default.p"), "{line}");
    finding(&wayline, "requests for its target are refused with 503");
    assert_eq!(plugins(&wayline)[0]["state"], "failed");

    stage.plug("one", "failStrategy: FAIL_OPEN");
    eventually("requests to pass", || (stage.get() == 200).then_some(()));
    finding(&wayline, "requests pass without it");

    // The file comes, and the plugin with it.
    std::fs::write(&stage.module, module("x-plugin")).unwrap();
    stage.until_seen("x-plugin", "one");
}

#[test]
fn a_module_that_can_not_take_over_leaves_the_last_good_one() {
    let stage = Stage::new();
    stage.plug("one", "");
    let wayline = stage.start_ready();
    stage.until_seen("x-plugin", "one");

    // The same plugin, other bytes: no Wasm, one that does not start, and then a good one.
    let replace = |bytes: &[u8]| {
        let fresh = stage.mesh.home().join("fresh.wasm");
        std::fs::write(&fresh, bytes).unwrap();
        std::fs::rename(&fresh, &stage.module).unwrap();
    };
    for bytes in [b"no wasm at all".to_vec(), unwilling()] {
        replace(&bytes);
        finding(&wayline, "the last good module stays in force");
        assert_eq!(stage.seen("x-plugin"), Some(configuration("one")));
    }
    replace(&module("x-second"));
    stage.until_seen("x-second", "one");
    assert_eq!(plugins(&wayline)[0]["reason"], Value::Null);

    // Another plugin under the same name, which does not accept its configuration.
    let bad = stage.mesh.home().join("unwilling.wasm");
    std::fs::write(&bad, unwilling()).unwrap();
    stage
        .mesh
        .write("plugin.yaml", &plugin(&file(&bad), "two", ""));
    finding(&wayline, "its last good version stays in force");
    assert_eq!(stage.seen("x-second"), Some(configuration("one")));
}

/// A web server that has accepted the connection and says nothing until it is told to.
fn slow_server(mesh: &Mesh, body: Vec<u8>) -> (String, Arc<AtomicBool>) {
    let listener = TcpListener::bind((mesh.ip(30), 0)).unwrap();
    let url = format!("http://{}/filter.wasm", listener.local_addr().unwrap());
    let go = Arc::new(AtomicBool::new(false));
    let told = Arc::clone(&go);
    thread::spawn(move || {
        for stream in listener.incoming() {
            let (mut stream, told, body) = (stream.unwrap(), Arc::clone(&told), body.clone());
            thread::spawn(move || {
                use std::io::{Read as _, Write as _};
                let _ = stream.read(&mut [0; 4096]);
                while !told.load(Ordering::Relaxed) {
                    thread::sleep(std::time::Duration::from_millis(5));
                }
                let head = format!(
                    "HTTP/1.1 200 OK\r\ncontent-length: {}\r\nconnection: close\r\n\r\n",
                    body.len()
                );
                let _ = stream.write_all(head.as_bytes());
                let _ = stream.write_all(&body);
            });
        }
    });
    (url, go)
}

#[test]
fn at_start_nobody_passes_a_plugin_that_is_on_its_way() {
    let stage = Stage::new();
    let (url, go) = slow_server(&stage.mesh, module("x-plugin"));
    stage.mesh.write(
        "plugin.yaml",
        &plugin(&url, "one", "failStrategy: FAIL_CLOSE"),
    );
    let wayline = stage.start(&["--fetch-allow", "127.0.0.0/8"]);
    let said = eventually("readiness to name the plugin", || {
        let answer = wayline.readiness()?;
        answer.text().contains("default.p").then_some(answer)
    });
    assert_eq!(said.status, 503);
    assert_eq!(stage.get(), 503);
    let line = stage.mesh.logged("wasm_fail_stream");
    assert!(line.contains("default.p|pending"), "{line}");
    go.store(true, Ordering::Relaxed);
    wayline.wait_ready();
    stage.until_seen("x-plugin", "one");
}
