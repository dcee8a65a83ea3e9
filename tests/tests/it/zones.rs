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

/// Pods `a` to `d` on the nodes `n1` to `n4`, of which the first two are in zone `near`; of the Service
/// this, and of its slice's endpoints that.
fn nodes(mesh: &Mesh, service: &str, hints: [&str; 4]) {
    let ports = [("http", 80, PORT)];
    let mut documents = scene::waypoint();
    let echo = manifests::service("default", "echo", "10.96.0.20", &ports);
    documents.push(match service.strip_prefix("annotation ") {
        Some(annotation) => echo.replace(
            "  namespace: default\n",
            &format!("  namespace: default\n  annotations: {{{annotation}}}\n"),
        ),
        None => format!("{}\n{service}", echo.trim_end()),
    });
    let mut slice =
        manifests::endpoints("default", "echo", &[], &ports).replace("endpoints: []", "endpoints:");
    for (n, (name, hints)) in ["a", "b", "c", "d"].into_iter().zip(hints).enumerate() {
        let (ip, node) = (mesh.ip(60 + n as u8), n + 1);
        let zone = if n < 2 { "near" } else { "far" };
        documents.push(format!(
            "apiVersion: v1
kind: Node
metadata: {{name: n{node}, labels: {{topology.kubernetes.io/zone: {zone}}}}}
"
        ));
        let pod = manifests::Pod::new(name, ip).label("app", "echo");
        let named = format!("nodeName: n{node}");
        documents.push(pod.yaml().replace("nodeName: node", &named));
        slice +=
            &format!("- addresses: [\"{ip}\"]\n  targetRef: {{kind: Pod, name: {name}}}\n{hints}");
    }
    documents.push(slice);
    documents.push(scene::edge(mesh));
    documents.push(scene::edge_to_echo());
    mesh.write("main.yaml", &manifests::file(&documents));
}

#[test]
fn our_node_comes_first_then_our_zone_and_the_node_says_which_that_is() {
    let mesh = Mesh::new();
    mesh.write("mesh.yaml", &mesh.logging(""));
    nodes(&mesh, "  trafficDistribution: PreferSameNode\n", [""; 4]);
    let names = ["a", "b", "c", "d"];
    let at = |n: usize| Backend::saying(mesh.ip(60 + n as u8), PORT, names[n]);
    let mut backends = [0, 1, 2, 3].map(|n| Some(at(n)));
    let wayline = mesh.start_with(&["--node", "n1"]);
    wayline.wait_ready();
    let edge = scene::edge_address(&mesh);
    let answering = || {
        let ask = |_| Request::get("/").send(edge).text();
        let mut names: Vec<String> = (0..40).map(ask).collect();
        names.sort();
        names.dedup();
        names
    };
    assert_eq!(answering(), ["a"]);
    backends[0] = None;
    assert_eq!(answering(), ["b"]);
    backends[1] = None;
    assert_eq!(answering(), ["c", "d"]);
    backends[0] = Some(at(0));
    backends[1] = Some(at(1));
    eventually("the return to our node", || {
        (answering() == ["a"]).then_some(())
    });

    // Hints count for more than where something runs, but only where all endpoints have some.
    let far = "  hints: {forZones: [{name: near}], forNodes: [{name: n1}]}\n";
    let near = "  hints: {forZones: [{name: far}], forNodes: [{name: n3}]}\n";
    nodes(
        &mesh,
        "  trafficDistribution: PreferSameNode\n",
        [near, near, near, far],
    );
    eventually("whom the hints name", || {
        (answering() == ["d"]).then_some(())
    });
    nodes(
        &mesh,
        "  trafficDistribution: PreferClose\n",
        ["", near, near, far],
    );
    eventually("our zone", || (answering() == ["a", "b"]).then_some(()));
    let auto = "annotation service.kubernetes.io/topology-mode: Auto";
    nodes(&mesh, auto, [near, far, near, far]);
    eventually("whom the hints name, asked for the older way", || {
        (answering() == ["b", "d"]).then_some(())
    });
    nodes(&mesh, auto, [""; 4]);
    eventually("everybody", || (answering() == names).then_some(()));
}
