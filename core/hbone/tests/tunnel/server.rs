//! What a served connection takes, refuses and survives.

use std::cell::RefCell;
use std::io::ErrorKind;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Method, Request, StatusCode};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::oneshot;
use tokio::task::spawn_local;
use wayline_hbone::{
    AuthorityError, Connect, ConnectionError, Handler, OpenError, Refusal, ServeError, Settings,
    TunnelAuthority,
};

use crate::support::{Mesh, accepting, echo, on_a_core, target};

#[test]
fn the_handler_sees_target_and_headers_and_its_refusals_arrive() {
    on_a_core(|| async {
        let mesh = Mesh::new();
        let served = mesh
            .served(&Settings::default(), |connect: Connect| {
                let status = match connect.authority.to_string().as_str() {
                    "10.0.0.1:9080" => {
                        assert_eq!(connect.headers["baggage"], "k8s.namespace.name=a");
                        StatusCode::SERVICE_UNAVAILABLE
                    }
                    "reviews.default.svc.cluster.local:80" => StatusCode::UNAUTHORIZED,
                    other => panic!("{other} was not asked for"),
                };
                connect.respond.refuse(status);
            })
            .await;
        let mut headers = HeaderMap::new();
        headers.insert("baggage", "k8s.namespace.name=a".parse().unwrap());
        let refused = served.client.open(&target(), headers).await.unwrap_err();
        assert!(matches!(
            refused,
            OpenError::Refused(StatusCode::SERVICE_UNAVAILABLE)
        ));
        let host = TunnelAuthority::parse("Reviews.default.svc.cluster.local:80").unwrap();
        let refused = served
            .client
            .open(&host, HeaderMap::new())
            .await
            .unwrap_err();
        assert!(matches!(
            refused,
            OpenError::Refused(StatusCode::UNAUTHORIZED)
        ));
    });
}

/// Echoes, and notes what never reached it.
struct Recorder(Rc<RefCell<Vec<Refusal>>>);

impl Handler for Recorder {
    fn connect(&mut self, connect: Connect) {
        spawn_local(echo(connect.respond.accept(HeaderMap::new()).unwrap()));
    }

    fn refused(&mut self, refusal: Refusal) {
        self.0.borrow_mut().push(refusal);
    }
}

#[test]
fn what_is_no_tunnel_is_answered_400_and_the_connection_goes_on() {
    on_a_core(|| async {
        let refusals = Rc::default();
        let handler = Recorder(Rc::clone(&refusals));
        let (near, far) = tokio::io::duplex(1 << 20);
        spawn_local(async move {
            let settings = Settings::default();
            wayline_hbone::serve(far, &settings, std::future::pending(), handler).await
        });
        let (mut sender, connection) = h2::client::handshake(near).await.unwrap();
        spawn_local(connection);
        let mut ask = async |method: Method, uri: &str| {
            let request = Request::builder().method(method).uri(uri).body(()).unwrap();
            let (response, _) = sender.send_request(request, false).unwrap();
            response.await.unwrap().status()
        };
        assert_eq!(
            ask(Method::GET, "https://reviews:80/").await,
            StatusCode::BAD_REQUEST
        );
        assert_eq!(
            ask(Method::CONNECT, "127.1:80").await,
            StatusCode::BAD_REQUEST
        );
        assert_eq!(
            ask(Method::CONNECT, "user@reviews:80").await,
            StatusCode::BAD_REQUEST
        );
        assert_eq!(ask(Method::CONNECT, "reviews:80").await, StatusCode::OK);
        let refusals = refusals.borrow();
        assert!(matches!(
            refusals[..],
            [
                Refusal::Method(Method::GET),
                Refusal::Authority(AuthorityError::Host(_)),
                Refusal::Authority(AuthorityError::Host(_)),
            ]
        ));
    });
}

#[test]
fn two_hundred_streams_run_on_one_connection() {
    on_a_core(|| async {
        let mesh = Mesh::new();
        let settings = Settings {
            max_client_streams: 1_000,
            ..Settings::default()
        };
        let served = mesh.served(&settings, accepting(echo)).await;
        let mut tunnels = Vec::new();
        for _ in 0..200 {
            assert!(served.client.has_room());
            tunnels.push(
                served
                    .client
                    .open(&target(), HeaderMap::new())
                    .await
                    .unwrap(),
            );
        }
        assert!(!served.client.has_room());
        for tunnel in &mut tunnels {
            tunnel.write_all(b"x").await.unwrap();
        }
        for tunnel in &mut tunnels {
            tunnel.read_exact(&mut [0]).await.unwrap();
        }
        let target = target();
        let waiting = served.client.open(&target, HeaderMap::new());
        let end_one = async {
            let mut done = tunnels.pop().unwrap();
            done.shutdown().await.unwrap();
            done.read_to_end(&mut Vec::new()).await.unwrap();
        };
        let (opened, ()) = tokio::join!(waiting, end_one);
        opened.unwrap();
    });
}

#[test]
fn a_drain_refuses_new_streams_and_waits_for_the_old() {
    on_a_core(|| async {
        let mesh = Mesh::new();
        let served = mesh.served(&Settings::default(), accepting(echo)).await;
        let mut tunnel = served
            .client
            .open(&target(), HeaderMap::new())
            .await
            .unwrap();
        served.drain.send(()).unwrap();
        crate::support::until(|| !served.client.is_usable()).await;
        let refused = served.client.open(&target(), HeaderMap::new()).await;
        assert!(matches!(refused, Err(OpenError::Connection(_))));

        assert!(!served.serving.is_finished());
        tunnel.write_all(b"still").await.unwrap();
        tunnel.read_exact(&mut [0; 5]).await.unwrap();
        tunnel.shutdown().await.unwrap();
        tunnel.read_to_end(&mut Vec::new()).await.unwrap();
        drop(tunnel);
        served.serving.await.unwrap().unwrap();
    });
}

#[test]
fn a_peer_that_never_begins_is_given_up() {
    on_a_core(|| async {
        let (_silent, far) = tokio::io::duplex(1024);
        let settings = Settings {
            preface_timeout: Duration::from_millis(20),
            ..Settings::default()
        };
        let handler = |connect: Connect| drop(connect);
        let ended = wayline_hbone::serve(far, &settings, std::future::pending(), handler).await;
        assert!(matches!(ended, Err(ServeError::PrefaceTimeout(_))));
    });
}

#[test]
fn a_peer_that_dies_takes_its_streams_along() {
    on_a_core(|| async {
        let mesh = Mesh::new();
        let served = mesh.served(&Settings::default(), accepting(echo)).await;
        let mut tunnel = served
            .client
            .open(&target(), HeaderMap::new())
            .await
            .unwrap();
        served.serving.abort();
        assert!(tunnel.read(&mut [0; 10]).await.is_err());
        assert!(tunnel.write_all(&[0; 1000]).await.is_err());
        served.driving.await.unwrap();
        assert!(!served.client.is_usable());

        let (report, reported) = oneshot::channel();
        let report = RefCell::new(Some(report));
        let served = mesh
            .served(&Settings::default(), move |connect: Connect| {
                let mut tunnel = connect.respond.accept(HeaderMap::new()).unwrap();
                let report = report.borrow_mut().take().unwrap();
                spawn_local(async move {
                    let outcome = tunnel.read(&mut [0; 10]).await;
                    report.send(outcome.map_err(|e| e.kind())).unwrap();
                });
            })
            .await;
        let _tunnel = served
            .client
            .open(&target(), HeaderMap::new())
            .await
            .unwrap();
        served.driving.abort();
        assert_eq!(reported.await.unwrap(), Err(ErrorKind::ConnectionReset));
        let _ended = served.serving.await.unwrap();
    });
}

#[test]
fn a_frozen_peer_is_found_out_by_ping_on_both_sides() {
    on_a_core(|| async {
        let settings = Settings {
            ping_interval: Duration::from_millis(10),
            ping_timeout: Duration::from_millis(50),
            ..Settings::default()
        };

        let (near, far) = tokio::io::duplex(1 << 20);
        let frozen = spawn_local(async move { h2::server::handshake(far).await.unwrap() });
        let (client, driver) = wayline_hbone::connect(near, &settings).await.unwrap();
        let _frozen = frozen.await.unwrap();
        let target = target();
        let open = client.open(&target, HeaderMap::new());
        let (opened, ended) = tokio::join!(open, driver);
        assert!(matches!(ended, Err(ConnectionError::PingTimeout(_))));
        assert!(opened.is_err());

        let (near, far) = tokio::io::duplex(1 << 20);
        let frozen = spawn_local(async move { h2::client::handshake::<_>(near).await.unwrap() });
        let handler = |connect: Connect| drop(connect);
        let ended = wayline_hbone::serve(far, &settings, std::future::pending(), handler).await;
        assert!(matches!(
            ended,
            Err(ServeError::Connection(ConnectionError::PingTimeout(_)))
        ));
        drop::<(h2::client::SendRequest<Bytes>, _)>(frozen.await.unwrap());
    });
}

#[test]
fn a_live_peer_outlives_many_pings() {
    on_a_core(|| async {
        let mesh = Mesh::new();
        let settings = Settings {
            ping_interval: Duration::from_millis(5),
            ping_timeout: Duration::from_secs(20),
            ..Settings::default()
        };
        let served = mesh.served(&settings, accepting(echo)).await;
        tokio::time::sleep(Duration::from_millis(100)).await;
        let mut tunnel = served
            .client
            .open(&target(), HeaderMap::new())
            .await
            .unwrap();
        tunnel.write_all(b"x").await.unwrap();
        tunnel.read_exact(&mut [0]).await.unwrap();
    });
}
