//! An edit costs what it touches, and numbers keep their meaning.

use std::sync::Arc;

use serde_json::{Value, json};

use crate::world::*;

fn mesh_of(services: usize) -> Vec<Value> {
    let mut documents = vec![
        namespace("shop", json!({"istio.io/use-waypoint": "wp"})),
        waypoint("shop", "wp"),
    ];
    for index in 0..services {
        let name = format!("s{index}");
        documents.push(service("shop", &name, &format!("10.1.0.{index}")));
        documents.push(pod("shop", &name, &name, &format!("10.2.0.{index}")));
    }
    documents
}

fn deny(name: &str, path: &str) -> Value {
    policy(
        "shop",
        name,
        json!({"targetRefs": to_service(name), "action": "DENY", "rules": [
            {"to": [{"operation": {"paths": [path]}}]}]}),
    )
}

#[test]
fn a_policy_edit_touches_its_target_only() {
    let mut world = World::new(&mesh_of(3));
    world.apply(&deny("s0", "/a"));
    world.apply(&deny("s1", "/a"));
    let before = world.translate().snapshot;
    world.apply(&deny("s1", "/b"));
    let after = world.translate().snapshot;
    let both = |name: &str| {
        let host = format!("{name}.shop");
        (
            Arc::clone(target(&before, &host, 80)),
            Arc::clone(target(&after, &host, 80)),
        )
    };
    for name in ["s0", "s2"] {
        let (old, new) = both(name);
        assert!(Arc::ptr_eq(&old, &new), "{name}");
    }
    let (old, new) = both("s1");
    assert!(!Arc::ptr_eq(&old, &new));
    assert!(!Arc::ptr_eq(&old.authorization, &new.authorization));
    assert!(Arc::ptr_eq(&old.routes, &new.routes));
    assert_eq!(old.cluster, new.cluster);
    for (id, cluster) in &before.clusters {
        assert!(Arc::ptr_eq(cluster, &after.clusters[id]));
    }
    assert!(Arc::ptr_eq(&before.mesh, &after.mesh));
    assert_eq!(after.generation, before.generation + 1);
}

#[test]
fn a_route_edit_touches_its_target_only() {
    let to = |target: &str, weight: u32| {
        route(
            "shop",
            target,
            service_parent(target),
            json!([{"backendRefs": [backend("s2", weight), backend("s3", 1)]}]),
        )
    };
    let mut world = World::new(&mesh_of(4));
    world.apply(&to("s0", 1));
    world.apply(&to("s1", 1));
    let before = world.translate().snapshot;
    world.apply(&to("s1", 9));
    let after = world.translate().snapshot;
    assert!(Arc::ptr_eq(
        target(&before, "s0.shop", 80),
        target(&after, "s0.shop", 80)
    ));
    assert_eq!(at(&after, "s1.shop", "x", &get("/")), "s2=9,s3=1");
}

#[test]
fn an_endpoint_edit_keeps_the_other_endpoints() {
    let mut world = World::new(&mesh_of(2));
    world.apply(&pod("shop", "s0-b", "s0", "10.2.1.1"));
    let before = world.translate().snapshot;
    world.apply(&pod("shop", "s0-b", "s0", "10.2.1.2"));
    let after = world.translate().snapshot;
    let of = |snapshot: &wayline_model::Snapshot, name: &str| {
        Arc::clone(&snapshot.clusters[&target(snapshot, name, 80).cluster])
    };
    assert!(Arc::ptr_eq(&of(&before, "s1.shop"), &of(&after, "s1.shop")));
    let (old, new) = (of(&before, "s0.shop"), of(&after, "s0.shop"));
    assert_eq!(old.id, new.id);
    assert!(Arc::ptr_eq(&old.endpoints[0], &new.endpoints[0]));
    assert_ne!(old.endpoints[1].address, new.endpoints[1].address);
    // The target itself says nothing about endpoints.
    assert!(Arc::ptr_eq(
        target(&before, "s0.shop", 80),
        target(&after, "s0.shop", 80)
    ));
}

#[test]
fn numbers_of_clusters_are_never_used_twice() {
    let mut world = World::new(&mesh_of(2));
    let before = world.translate().snapshot;
    let id = |snapshot: &wayline_model::Snapshot, name: &str| target(snapshot, name, 80).cluster;
    let (s0, s1) = (id(&before, "s0.shop"), id(&before, "s1.shop"));
    world.remove("Service", "shop", "s0");
    world.apply(&service("shop", "new", "10.1.0.99"));
    let after = world.translate().snapshot;
    assert_eq!(id(&after, "s1.shop"), s1);
    assert!(!after.clusters.contains_key(&s0));
    assert_ne!(id(&after, "new.shop"), s0);
    world.apply(&service("shop", "s0", "10.1.0.98"));
    assert_eq!(id(&world.translate().snapshot, "s0.shop"), s0);
}

#[test]
fn the_same_folder_again_is_no_change() {
    let documents = mesh_of(3);
    let mut world = World::new(&documents);
    let before = world.translate();
    let revision = world.resources.revision();
    assert!(!world.replace(&documents));
    assert_eq!(world.resources.revision(), revision);
    let mut shuffled = documents;
    shuffled.reverse();
    assert!(!world.replace(&shuffled));
    let after = world.translate();
    assert_eq!(before.findings, after.findings);
    for (id, cluster) in &before.snapshot.clusters {
        assert!(Arc::ptr_eq(cluster, &after.snapshot.clusters[id]));
    }
}

#[test]
fn folder_and_watch_end_alike() {
    let mut at_once = World::new(&mesh_of(3));
    let mut one_by_one = World::new(&[]);
    for document in mesh_of(3).iter().rev() {
        one_by_one.apply(document);
        one_by_one.translate();
    }
    let (a, b) = (at_once.translate(), one_by_one.translate());
    assert_eq!(a.findings, b.findings);
    let keys = |snapshot: &wayline_model::Snapshot| {
        let mut keys: Vec<_> = snapshot.tunnels.by_address.keys().cloned().collect();
        keys.sort();
        keys
    };
    assert_eq!(keys(&a.snapshot), keys(&b.snapshot));
}

#[test]
fn enrolment_and_grants_take_effect_at_once() {
    let mut world = World::new(&mesh_of(1));
    assert!(is_served(&world.translate().snapshot, "s0.shop"));
    world.apply(&namespace("shop", json!({})));
    assert!(!is_served(&world.translate().snapshot, "s0.shop"));
    world.apply(&namespace("shop", json!({"istio.io/use-waypoint": "wp"})));
    let far = json!([{"backendRefs": [{"name": "far", "namespace": "other", "port": 80}]}]);
    world.apply(&service("other", "far", "10.3.0.1"));
    world.apply(&route("shop", "r", service_parent("s0"), far));
    assert_eq!(
        at(&world.translate().snapshot, "s0.shop", "x", &get("/")),
        "500=1"
    );
    world.apply(&json!({"apiVersion": "gateway.networking.k8s.io/v1", "kind": "ReferenceGrant",
        "metadata": {"namespace": "other", "name": "g"},
        "spec": {"from": [{"group": "gateway.networking.k8s.io", "kind": "HTTPRoute", "namespace": "shop"}],
                 "to": [{"group": "", "kind": "Service"}]}}));
    assert_eq!(
        at(&world.translate().snapshot, "s0.shop", "x", &get("/")),
        "far=1"
    );
    world.remove("ReferenceGrant", "other", "g");
    assert_eq!(
        at(&world.translate().snapshot, "s0.shop", "x", &get("/")),
        "500=1"
    );
}
