//! A plugin that some requests send round and round, and everybody else.

use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use wayline_tests::manifests;
use wayline_tests::{Conversation, Mesh, Request, eventually};

use crate::scene::{self, ECHO, ECHO_AUTHORITY};

const OTHER: u8 = 33;
const OTHER_AUTHORITY: &str = "10.96.0.33:80";

/// Lets requests pass, and computes for ever where the path is `/x…`.
const POISONED: &str = r#"(module
    (import "env" "proxy_get_header_map_value"
      (func $header (param i32 i32 i32 i32 i32) (result i32)))
    (memory (export "memory") 2)
    (data (i32.const 0) ":path")
    (func (export "proxy_abi_version_0_2_1"))
    (func (export "proxy_on_memory_allocate") (param i32) (result i32) (i32.const 4096))
    (func (export "proxy_on_request_headers") (param i32 i32 i32) (result i32)
      (drop (call $header (i32.const 0) (i32.const 0) (i32.const 5) (i32.const 64) (i32.const 68)))
      (if (i32.eq (i32.load8_u (i32.add (i32.load (i32.const 64)) (i32.const 1))) (i32.const 120))
        (then (loop $ever (br $ever))))
      (i32.const 0)))"#;

/// `echo` with the plugin, and `other` without.
fn poisoned() -> Mesh {
    let mesh = scene::echo_mesh(&[]);
    let module = mesh.home().join("poisoned.wasm");
    fs::write(&module, wat::parse_str(POISONED).unwrap()).unwrap();
    let plugin = format!(
        "apiVersion: extensions.istio.io/v1alpha1
kind: WasmPlugin
metadata: {{name: poisoned, namespace: default}}
spec:
  targetRefs: [{{kind: Service, name: echo}}]
  url: file://{}
",
        module.display()
    );
    let mut documents = scene::service(&mesh, "other", OTHER);
    documents.push(plugin);
    mesh.write("plugin.yaml", &manifests::file(&documents));
    mesh
}

#[test]
fn one_request_in_twenty_that_never_ends_harms_no_other() {
    let mesh = poisoned();
    let _echo = scene::backend(&mesh, "echo", ECHO);
    let _other = scene::backend(&mesh, "other", OTHER);
    let wayline = mesh.start();
    let tunnel = mesh.tunnel("default/a", ECHO_AUTHORITY);
    eventually("the plugin to run", || {
        let answer = Request::get("/a").send(tunnel.address);
        (answer.status == 200).then_some(())
    });

    let neighbours = mesh.tunnel("default/a", OTHER_AUTHORITY);
    let done = Arc::new(AtomicBool::new(false));
    let others: Vec<_> = (0..3)
        .map(|_| {
            let (address, done) = (neighbours.address, Arc::clone(&done));
            thread::spawn(move || {
                let mut other = Conversation::open(address);
                while !done.load(Ordering::Relaxed) {
                    let answer = other.exchange(&Request::get("/")).unwrap();
                    assert_eq!((answer.status, &*answer.text()), (200, "other"));
                }
            })
        })
        .collect();
    for number in 1..=100 {
        let (path, expected) = if number % 20 == 0 {
            ("/x", 503)
        } else {
            ("/a", 200)
        };
        let answer = Request::get(path).send(tunnel.address);
        assert_eq!(answer.status, expected, "{number}: {path}");
    }
    done.store(true, Ordering::Relaxed);
    for other in others {
        other.join().unwrap();
    }

    let plugin = [("plugin", "default.poisoned")];
    let metrics = wayline.metrics();
    assert_eq!(metrics.sum("wayline_wasm_quarantined", &plugin), 1.0);
    let traps = [("plugin", "default.poisoned"), ("kind", "budget")];
    assert_eq!(metrics.sum("wayline_wasm_traps_total", &traps), 5.0);
    assert!(wayline.is_ready());
}
