//! Every spelling of an address, and a real socket.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::net::TcpListener;
use std::time::Duration;

use wayline_fetch::{AddressPolicy, DialError, Reason, dial};

const TIMEOUT: Duration = Duration::from_secs(30);

#[test]
fn addresses_are_judged_in_every_spelling() {
    use Reason::*;
    let table = [
        (Unspecified, "0.0.0.0 0.1.2.3 :: ::ffff:0.0.0.0"),
        (
            Loopback,
            "127.0.0.1 127.255.255.255 ::1 ::ffff:127.0.0.1 ::127.0.0.1 ::ffff:0:127.0.0.1 \
             64:ff9b::7f00:1 2002:7f00:1:: 2002:7f00:1::5 2606:4700::5efe:7f00:1",
        ),
        (
            LinkLocal,
            "169.254.169.254 169.254.0.0 fe80::1 febf::1 ::ffff:169.254.169.254 \
             64:ff9b::a9fe:a9fe 2002:a9fe:a9fe::1 fe80::5efe:8.8.8.8",
        ),
        (
            Private,
            "10.0.0.0 10.255.255.255 172.16.0.1 172.31.255.255 192.168.0.1 fec0::1 \
             ::ffff:10.0.0.1 2002:a00:1::",
        ),
        (SharedSpace, "100.64.0.1 100.127.255.255"),
        (UniqueLocal, "fc00::1 fd00:ec2::254 fdff:ffff::1"),
        (Multicast, "224.0.0.1 239.255.255.255 ff02::1"),
        (Broadcast, "255.255.255.255 ::ffff:255.255.255.255"),
        (
            Reserved,
            "192.0.0.1 192.0.2.1 192.88.99.1 198.18.0.1 198.19.255.255 198.51.100.1 203.0.113.1 \
             240.0.0.1 255.255.255.254 64:ff9b:1::1 100::1 2001::1 2001:db8::1 3fff::1 4000::1",
        ),
    ];
    let policy = AddressPolicy::default();
    for (reason, addresses) in table {
        for address in addresses.split_whitespace() {
            let judged = policy.permits(address.parse().unwrap());
            assert_eq!(judged, Err(reason), "{address}");
        }
    }
    let public = "1.1.1.1 9.255.255.255 11.0.0.0 100.63.255.255 100.128.0.0 126.255.255.255 \
        128.0.0.0 169.253.255.255 169.255.0.0 172.15.255.255 172.32.0.0 192.167.255.255 \
        192.169.0.0 198.17.255.255 198.20.0.0 223.255.255.255 2001:4860:4860::8888 2606:4700::1111 \
        ::ffff:1.1.1.1 64:ff9b::101:101 2002:101:101::";
    for address in public.split_whitespace() {
        let judged = policy.permits(address.parse().unwrap());
        assert_eq!(judged, Ok(()), "{address}");
    }
}

#[test]
fn listed_networks_are_allowed_and_nothing_beside_them() {
    let networks = ["10.1.0.0/16", "fd00::/8", "::/0"];
    let policy = AddressPolicy::allowing(networks.map(|net| net.parse().unwrap()));
    for address in ["10.1.2.3", "::ffff:10.1.2.3", "fd00::1", "::1"] {
        assert_eq!(
            policy.permits(address.parse().unwrap()),
            Ok(()),
            "{address}"
        );
    }
    for address in [
        "10.2.0.1",
        "::ffff:127.0.0.1",
        "127.0.0.1",
        "64:ff9b::7f00:1",
    ] {
        assert!(
            policy.permits(address.parse().unwrap()).is_err(),
            "{address}"
        );
    }
}

#[tokio::test]
async fn loopback_is_dialled_only_where_it_is_listed() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let closed = AddressPolicy::default();
    for host in ["127.0.0.1", "localhost", "127.1", "[::ffff:127.0.0.1]"] {
        let error = dial(host, port, &closed, TIMEOUT).await.unwrap_err();
        assert!(
            matches!(error, DialError::Refused { .. }),
            "{host}: {error}"
        );
        assert!(error.to_string().contains(host), "{error}");
    }
    // Nobody has connected so far.
    listener.set_nonblocking(true).unwrap();
    assert!(listener.accept().is_err());

    let open = AddressPolicy::allowing(["127.0.0.0/8".parse().unwrap()]);
    let stream = dial("127.0.0.1", port, &open, Duration::MAX).await.unwrap();
    assert_eq!(stream.peer_addr().unwrap().port(), port);
}

#[tokio::test]
async fn a_name_that_does_not_exist_is_said_to() {
    let policy = AddressPolicy::default();
    let error = dial("no such host", 80, &policy, TIMEOUT)
        .await
        .unwrap_err();
    assert!(matches!(error, DialError::Resolve { .. }), "{error}");
    assert!(error.to_string().contains("no such host"), "{error}");
}
