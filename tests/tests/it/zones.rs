//! Endpoints close by, where a Service prefers them.

use wayline_tests::manifests::{self, Parent};
use wayline_tests::{Backend, Mesh, Request, eventually};

use crate::scene::{self, PORT};

#[test]
fn endpoints_of_our_zone_are_preferred_while_they_answer() {
    let mesh = Mesh::new();
    mesh.write("mesh.yaml", &mesh.logging(""));
    let pods = [
        (mesh.ip(60), "near-1"),
        (mesh.ip(61), "near-2"),
        (mesh.ip(62), "far-1"),
        (mesh.ip(63), "far-2"),
    ];
    let ports = [("http", 80, PORT)];
    let write = |prefers: &str| {
        let mut documents = scene::waypoint();
        let service = manifests::service("default", "echo", "10.96.0.20", &ports);
        documents.push(format!(
            "{}\n  trafficDistribution: {prefers}\n",
            service.trim_end()
        ));
        for (ip, name) in pods {
            let pod = manifests::Pod::new(name, ip).label("app", "echo");
            let zone = name.split('-').next().unwrap();
            documents.push(pod.label("topology.kubernetes.io/zone", zone).yaml());
        }
        documents.push(manifests::endpoints("default", "echo", &pods, &ports));
        documents.push(scene::edge(&mesh));
        documents.push(manifests::route(
            "default",
            "edge",
            Parent::Gateway("edge"),
            scene::TO_ECHO,
        ));
        mesh.write("main.yaml", &manifests::file(&documents));
    };
    write("PreferClose");
    let mut backends = pods.map(|(ip, name)| Some(Backend::saying(ip, PORT, name)));
    let wayline = mesh.start_with(&["--zone", "near"]);
    wayline.wait_ready();
    let edge = scene::edge_address(&mesh);
    let ask = || Request::get("/").send(edge).text();
    let answering = || {
        let mut names: Vec<String> = (0..60).map(|_| ask()).collect();
        names.sort();
        names.dedup();
        names
    };
    assert_eq!(answering(), ["near-1", "near-2"]);
    backends[0] = None;
    assert_eq!(answering(), ["near-2"]);
    // Nothing is left close by: what is far is better than nothing.
    backends[1] = None;
    assert_eq!(answering(), ["far-1", "far-2"]);
    backends[0] = Some(Backend::saying(pods[0].0, PORT, pods[0].1));
    eventually("the return to our zone", || {
        (answering() == ["near-1"]).then_some(())
    });
    write("Any");
    eventually("all to be asked", || {
        (answering() == ["far-1", "far-2", "near-1"]).then_some(())
    });
}
