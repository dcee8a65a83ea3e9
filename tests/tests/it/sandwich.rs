//! Behind a ztunnel: connections from the loopback interface, each behind a PROXY protocol header.

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream, UdpSocket};

use socket2::{Domain, Socket, Type};
use wayline_tests::manifests::{self, Pod, policy};
use wayline_tests::{Backend, Conversation, Mesh, PATIENCE, Request, mesh};

use crate::scene::{self, ECHO, ECHO_IP, PORT};

/// Where the waypoint is bound.
const BOUND: u16 = 23_940;

const SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";
const ALICE: &str = "spiffe://cluster.local/ns/default/sa/alice";
const BOB: &str = "spiffe://cluster.local/ns/default/sa/bob";

/// Only alice may ask `echo` for anything.
const ONLY_ALICE: &str = "targetRefs: [{kind: Service, group: \"\", name: echo}]
rules:
- from: [{source: {principals: [cluster.local/ns/default/sa/alice]}}]
";

fn world() -> Mesh {
    let mesh = Mesh::new();
    mesh.write("mesh.yaml", &mesh.logging(""));
    let mut documents = vec![
        manifests::namespace("default", &[("istio.io/use-waypoint", "waypoint")]),
        manifests::waypoint("default", "waypoint").replace(
            "  labels:\n",
            &format!(
                "  annotations:\n    ambient.istio.io/waypoint-inbound-binding: PROXY/{BOUND}\n  labels:\n"
            ),
        ),
    ];
    documents.extend(scene::service(&mesh, "echo", ECHO));
    documents.push(policy("default", "only-alice", ONLY_ALICE));
    for (name, port, host) in [("raw", "tcp", 60), ("any", "", 61)] {
        documents.push(manifests::service(
            "default",
            name,
            &format!("10.96.0.{host}"),
            &[(port, 80, PORT)],
        ));
        // Captured: without a ztunnel in front it would be reached by a tunnel.
        let pod = Pod::new(name, mesh.ip(host));
        documents.push(
            pod.annotation("ambient.istio.io/redirection", "enabled")
                .yaml(),
        );
    }
    mesh.write("main.yaml", &manifests::file(&documents));
    mesh
}

fn bound(mesh: &Mesh) -> SocketAddr {
    SocketAddr::new(mesh.ip(mesh::PROXY), BOUND)
}

fn tlv(kind: u8, value: &str) -> Vec<u8> {
    let mut bytes = vec![kind];
    bytes.extend((value.len() as u16).to_be_bytes());
    bytes.extend(value.as_bytes());
    bytes
}

/// A header from 10.1.2.3:4567 to port 80 of `to`.
fn header(to: &str, tlvs: &[u8]) -> Vec<u8> {
    let to: Ipv4Addr = to.parse().unwrap();
    let mut bytes = SIGNATURE.to_vec();
    bytes.extend([0x21, 0x11]);
    bytes.extend((12 + tlvs.len() as u16).to_be_bytes());
    bytes.extend([10, 1, 2, 3]);
    bytes.extend(to.octets());
    bytes.extend(4567_u16.to_be_bytes());
    bytes.extend(80_u16.to_be_bytes());
    bytes.extend(tlvs);
    bytes
}

fn of(identity: &str) -> Vec<u8> {
    tlv(0xD0, identity)
}

/// A connection that said this first.
fn dial(mesh: &Mesh, first: &[u8]) -> TcpStream {
    let mut stream = TcpStream::connect(bound(mesh)).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    // Whoever refuses may have closed by now.
    let _ = stream.write_all(first);
    stream
}

fn ask(mesh: &Mesh, header: &[u8], request: &Request) -> u16 {
    let mut conversation = Conversation::on(dial(mesh, header));
    conversation.exchange(request).unwrap().status
}

#[test]
fn the_caller_is_who_the_header_says_and_the_service_what_it_asked_for() {
    let mesh = world();
    let backend = scene::backend(&mesh, "echo", ECHO);
    let wayline = mesh.start();
    let request = Request::get("/x").host("elsewhere.test");
    assert_eq!(ask(&mesh, &header(ECHO_IP, &of(ALICE)), &request), 200);
    assert_eq!(backend.last().target, "/x");
    assert_eq!(ask(&mesh, &header(ECHO_IP, &of(BOB)), &request), 403);
    // In plain text to ztunnel: nobody.
    assert_eq!(ask(&mesh, &header(ECHO_IP, &[]), &request), 403);
    // What nobody knows is passed over, service names among it.
    let more = [
        tlv(0xD1, "raw.default.svc.cluster.local"),
        of(ALICE),
        tlv(4, "x"),
    ]
    .concat();
    assert_eq!(ask(&mesh, &header(ECHO_IP, &more), &request), 200);
    assert_eq!(backend.count(), 2);
    let line = mesh.logged("rbac_access_denied");
    assert!(
        line.contains("10.1.2.3:4567") && line.contains(&format!("{ECHO_IP}:80")),
        "{line}"
    );
    let labels = [
        ("source_principal", ALICE),
        ("connection_security_policy", "mutual_tls"),
    ];
    wayline.counted("istio_requests_total", &labels, 2.0);
    let nobody = [
        ("source_principal", "unknown"),
        ("connection_security_policy", "unknown"),
    ];
    wayline.counted("istio_requests_total", &nobody, 1.0);
}

#[test]
fn several_requests_and_http2_come_behind_one_header() {
    let mesh = world();
    let backend = scene::backend(&mesh, "echo", ECHO);
    let _wayline = mesh.start();
    let mut conversation = Conversation::on(dial(&mesh, &header(ECHO_IP, &of(ALICE))));
    for path in ["/one", "/two"] {
        assert_eq!(
            conversation.exchange(&Request::get(path)).unwrap().status,
            200
        );
    }
    assert_eq!(backend.count(), 2);
    // The preface of HTTP/2 and an empty SETTINGS frame, in one write with the header.
    let mut first = header(ECHO_IP, &of(ALICE));
    first.extend(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0");
    let mut stream = dial(&mesh, &first);
    let mut frame = [0; 9];
    stream.read_exact(&mut frame).unwrap();
    assert_eq!(frame[3], 4, "the answer is SETTINGS: {frame:?}");
}

#[test]
fn bytes_pass_where_the_port_is_not_http_and_servers_speak_first() {
    let mesh = world();
    let greet = |_: usize, mut stream: TcpStream| {
        let _ = stream.write_all(b"220 welcome\r\n");
        let mut line = [0; 6];
        if stream.read_exact(&mut line).is_ok() {
            let _ = stream.write_all(b"250 ok\r\n");
        }
    };
    let _raw = Backend::raw(mesh.ip(60), PORT, greet);
    let _any = Backend::raw(mesh.ip(61), PORT, greet);
    let _wayline = mesh.start();
    for service in ["10.96.0.60", "10.96.0.61"] {
        let mut stream = dial(&mesh, &header(service, &of(BOB)));
        let mut greeting = [0; 13];
        stream.read_exact(&mut greeting).unwrap();
        stream.write_all(b"EHLO\r\n").unwrap();
        let mut rest = Vec::new();
        stream.read_to_end(&mut rest).unwrap();
        assert_eq!(rest, b"250 ok\r\n", "{service}");
    }
}

#[test]
fn whoever_says_it_otherwise_is_refused_and_reaches_nothing() {
    let mesh = world();
    let backend = scene::backend(&mesh, "echo", ECHO);
    let wayline = mesh.start();
    let good = header(ECHO_IP, &of(ALICE));
    let with = |place: usize, byte: u8| {
        let mut bytes = good.clone();
        bytes[place] = byte;
        bytes
    };
    let cases: [(&str, Vec<u8>); 12] = [
        ("no header", Vec::new()),
        ("wrong signature", with(11, b'\r')),
        (
            "version 1",
            b"PROXY TCP4 10.1.2.3 10.96.0.20 4567 80\r\n".to_vec(),
        ),
        ("version 3", with(12, 0x31)),
        ("LOCAL", with(12, 0x20)),
        ("UNIX", with(13, 0x31)),
        ("datagrams", with(13, 0x12)),
        ("no family", with(13, 0)),
        ("oversize", with(14, 0xFF)),
        ("a TLV longer than the header", with(29, 0xFF)),
        ("a header shorter than its TLV", with(15, 20)),
        (
            "two callers",
            header(ECHO_IP, &[of(ALICE), of(BOB)].concat()),
        ),
    ];
    for (index, (name, mut bytes)) in cases.into_iter().enumerate() {
        bytes.extend(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n");
        let mut stream = dial(&mesh, &bytes);
        let mut rest = Vec::new();
        let _reset = stream.read_to_end(&mut rest);
        assert_eq!(rest, b"", "{name}");
        assert_eq!(
            wayline.refusals("bad_proxy_header"),
            (index + 1) as f64,
            "{name}"
        );
    }
    // Truncated: whoever leaves in the middle.
    drop(dial(&mesh, &good[..20]));
    wayline.counted(
        "wayline_refusals_total",
        &[("reason", "bad_proxy_header")],
        13.0,
    );
    // Nobody's address.
    let mut stream = dial(&mesh, &header("10.96.0.99", &of(ALICE)));
    let _reset = stream.read_to_end(&mut Vec::new());
    assert_eq!(wayline.refusals("unknown_target"), 1.0);
    assert_eq!(backend.count(), 0);
    // And it serves on.
    assert_eq!(ask(&mesh, &good, &Request::get("/")), 200);
}

#[test]
fn whoever_is_not_on_the_loopback_interface_is_believed_nothing() {
    let mesh = world();
    let backend = scene::backend(&mesh, "echo", ECHO);
    let wayline = mesh.start();
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket
        .bind(&SocketAddr::new(address_of_this_machine(), 0).into())
        .unwrap();
    socket.connect(&bound(&mesh).into()).unwrap();
    let mut stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let _ = stream.write_all(&header(ECHO_IP, &of(ALICE)));
    let _ = stream.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    let mut rest = Vec::new();
    let _reset = stream.read_to_end(&mut rest);
    assert_eq!(rest, b"");
    assert_eq!(wayline.refusals("untrusted_proxy"), 1.0);
    assert_eq!(backend.count(), 0);
}

/// An address that is not a loopback one. Nothing is sent to find it.
fn address_of_this_machine() -> IpAddr {
    let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
    socket.connect("192.0.2.1:9").expect("a route to somewhere");
    let ip = socket.local_addr().unwrap().ip();
    assert!(!ip.is_loopback(), "{ip}");
    ip
}

#[test]
fn nothing_listens_for_hbone_and_check_and_explain_say_so() {
    let mesh = world();
    let _backend = scene::backend(&mesh, "echo", ECHO);
    let wayline = mesh.start();
    assert!(TcpStream::connect(mesh.hbone()).is_err());
    let listeners = wayline.admin("GET", "/listeners").text();
    assert!(
        listeners.contains(&format!("proxy-protocol:{BOUND}")),
        "{listeners}"
    );
    let dump = wayline.admin("GET", "/config_dump").text();
    assert!(dump.contains("envoy.filters.listener.proxy_protocol"));
    drop(wayline);

    let checked = mesh.run(&["check", "-f", "manifests"]);
    assert_eq!(checked.code, Some(0), "{checked:?}");
    assert!(
        checked.text.contains("nothing listens for HBONE"),
        "{}",
        checked.text
    );
    let url = "http://echo.default/x";
    let explained = mesh.run(&["explain", "-f", "manifests", "--from", "default/alice", url]);
    let line = format!("behind ztunnel (PROXY protocol, port {BOUND})");
    assert!(explained.text.contains(&line), "{}", explained.text);
}
