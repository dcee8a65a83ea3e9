//! One core's tunnels over as few connections as their peers allow.

use std::cell::{Cell, OnceCell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use http::HeaderMap;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::spawn_local;
use wayline_hbone::{Connect, DialFailure, Settings, TunnelError, TunnelPool, TunnelStream};
use wayline_tls::{CertificateStore, HandshakeError};

use crate::support::{CLIENT, Mesh, SERVER, accepting, echo, identity, on_a_core, target, until};

/// Opens `count` tunnels at once and keeps them.
async fn open_at_once(
    pool: &TunnelPool,
    gateway: std::net::SocketAddr,
    count: usize,
) -> Vec<Result<TunnelStream, TunnelError>> {
    let opening: Vec<_> = (0..count)
        .map(|_| {
            let pool = pool.clone();
            spawn_local(async move {
                let expected = identity(SERVER);
                pool.open(gateway, &expected, &target(), &HeaderMap::new())
                    .await
            })
        })
        .collect();
    let mut opened = Vec::new();
    for tunnel in opening {
        opened.push(tunnel.await.unwrap());
    }
    opened
}

#[test]
fn tunnels_share_a_connection_up_to_a_hundred_and_dial_one_at_a_time() {
    on_a_core(|| async {
        let mesh = Mesh::new();
        let settings = Settings::default();
        let gateway = mesh.gateway(&settings, || accepting(echo)).await;
        let pool = TunnelPool::new(mesh.client.clone(), settings);

        let first = open_at_once(&pool, gateway.address, 100).await;
        assert!(first.iter().all(Result::is_ok));
        assert_eq!(gateway.accepted.get(), 1);

        let more = open_at_once(&pool, gateway.address, 150).await;
        assert!(more.iter().all(Result::is_ok));
        assert_eq!(gateway.accepted.get(), 3);
        assert_eq!(pool.connections(), 3);

        drop((first, more));
        for mut tunnel in open_at_once(&pool, gateway.address, 50)
            .await
            .into_iter()
            .flatten()
        {
            tunnel.write_all(b"x").await.unwrap();
            tunnel.read_exact(&mut [0]).await.unwrap();
        }
        assert_eq!(gateway.accepted.get(), 3);
    });
}

#[test]
fn a_peer_that_allows_fewer_streams_gets_fewer() {
    on_a_core(|| async {
        let mesh = Mesh::new();
        let narrow = Settings {
            max_streams: 10,
            ..Settings::default()
        };
        let gateway = mesh.gateway(&narrow, || accepting(echo)).await;
        let pool = TunnelPool::new(mesh.client.clone(), Settings::default());
        let tunnels = open_at_once(&pool, gateway.address, 25).await;
        assert!(tunnels.iter().all(Result::is_ok));
        assert_eq!(gateway.accepted.get(), 3);
    });
}

#[test]
fn the_wrong_workload_is_not_talked_to_and_asked_only_once_for_all_who_wait() {
    on_a_core(|| async {
        let mesh = Mesh::new();
        mesh.certify(
            &mesh.server,
            "spiffe://cluster.local/ns/default/sa/impostor",
        );
        let gateway = mesh.gateway(&Settings::default(), || accepting(echo)).await;
        let pool = TunnelPool::new(mesh.client.clone(), Settings::default());
        for refused in open_at_once(&pool, gateway.address, 20).await {
            let Err(TunnelError::Dial(error)) = refused else {
                panic!("an impostor was talked to");
            };
            assert!(matches!(
                &error.failure,
                DialFailure::Tls(HandshakeError::IdentityMismatch { found, .. })
                    if found.service_account() == "impostor"
            ));
            assert!(error.to_string().contains(&gateway.address.to_string()));
        }
        assert_eq!(gateway.accepted.get(), 1);
        assert_eq!(pool.connections(), 0);
    });
}

#[test]
fn a_gateway_that_refuses_us_is_a_failed_dial() {
    on_a_core(|| async {
        let mesh = Mesh::new();
        let stranger = CertificateStore::new();
        mesh.certify(
            &stranger,
            "spiffe://elsewhere.example/ns/default/sa/waypoint",
        );
        let gateway = mesh.gateway(&Settings::default(), || accepting(echo)).await;
        let pool = TunnelPool::new(stranger, Settings::default());
        let refused = open_at_once(&pool, gateway.address, 1).await.remove(0);
        assert!(matches!(refused, Err(TunnelError::Dial(_))), "{refused:?}");
    });
}

#[test]
fn the_connect_timeout_covers_tls_and_holds_up_no_other_gateway() {
    on_a_core(|| async {
        let mesh = Mesh::new();
        let mute = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mute_address = mute.local_addr().unwrap();
        let gateway = mesh.gateway(&Settings::default(), || accepting(echo)).await;
        let settings = Settings {
            connect_timeout: Duration::from_millis(300),
            ..Settings::default()
        };
        let pool = TunnelPool::new(mesh.client.clone(), settings);
        let stuck = {
            let pool = pool.clone();
            spawn_local(async move { open_at_once(&pool, mute_address, 1).await.remove(0) })
        };
        let (_accepted, _) = mute.accept().await.unwrap();
        assert!(open_at_once(&pool, gateway.address, 1).await[0].is_ok());
        assert!(!stuck.is_finished());
        let Err(TunnelError::Dial(error)) = stuck.await.unwrap() else {
            panic!("a mute gateway was talked to");
        };
        assert!(matches!(error.failure, DialFailure::Timeout(_)));
    });
}

#[test]
fn nobody_listening_is_told_at_once() {
    on_a_core(|| async {
        let mesh = Mesh::new();
        let closed = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = closed.local_addr().unwrap();
        drop(closed);
        let pool = TunnelPool::new(mesh.client.clone(), Settings::default());
        let Err(TunnelError::Dial(error)) = open_at_once(&pool, address, 1).await.remove(0) else {
            panic!("nobody was talked to");
        };
        assert!(matches!(error.failure, DialFailure::Tcp(_)));
    });
}

#[test]
fn a_new_certificate_gets_connections_of_its_own() {
    on_a_core(|| async {
        let mesh = Mesh::new();
        let gateway = mesh.gateway(&Settings::default(), || accepting(echo)).await;
        let pool = TunnelPool::new(mesh.client.clone(), Settings::default());
        let mut old = open_at_once(&pool, gateway.address, 1)
            .await
            .remove(0)
            .unwrap();
        mesh.certify(&mesh.client, CLIENT);
        assert!(open_at_once(&pool, gateway.address, 1).await[0].is_ok());
        assert_eq!(gateway.accepted.get(), 2);
        old.write_all(b"x").await.unwrap();
        old.read_exact(&mut [0]).await.unwrap();
    });
}

#[test]
fn without_a_certificate_nothing_is_dialled() {
    on_a_core(|| async {
        let mesh = Mesh::new();
        let gateway = mesh.gateway(&Settings::default(), || accepting(echo)).await;
        let pool = TunnelPool::new(CertificateStore::new(), Settings::default());
        let refused = open_at_once(&pool, gateway.address, 1).await.remove(0);
        assert!(matches!(refused, Err(TunnelError::NotReady(_))));
        assert_eq!(gateway.accepted.get(), 0);
    });
}

#[test]
fn idle_connections_are_closed_and_busy_ones_kept() {
    on_a_core(|| async {
        let mesh = Mesh::new();
        let gateway = mesh.gateway(&Settings::default(), || accepting(echo)).await;
        let settings = Settings {
            idle_timeout: Duration::from_millis(25),
            ..Settings::default()
        };
        let pool = TunnelPool::new(mesh.client.clone(), settings);
        let mut tunnels = open_at_once(&pool, gateway.address, 101).await;
        assert_eq!(pool.connections(), 2);
        let mut busy = tunnels.pop().unwrap().unwrap();
        drop(tunnels);
        until(|| pool.connections() == 1 && gateway.open.get() == 1).await;
        tokio::time::sleep(Duration::from_millis(100)).await;
        busy.write_all(b"x").await.unwrap();
        busy.read_exact(&mut [0]).await.unwrap();
        assert_eq!(pool.connections(), 1);
        drop(busy);
        until(|| pool.connections() == 0 && gateway.open.get() == 0).await;
    });
}

#[test]
fn a_drained_gateway_is_dialled_anew_and_its_open_tunnels_finish() {
    on_a_core(|| async {
        let mesh = Mesh::new();
        let gateway = mesh.gateway(&Settings::default(), || accepting(echo)).await;
        let pool = TunnelPool::new(mesh.client.clone(), Settings::default());
        let mut old = open_at_once(&pool, gateway.address, 1)
            .await
            .remove(0)
            .unwrap();
        gateway.drain.send(()).unwrap();
        for _ in 0..20 {
            assert!(open_at_once(&pool, gateway.address, 1).await[0].is_ok());
        }
        assert_eq!(gateway.accepted.get(), 2);
        old.write_all(b"x").await.unwrap();
        old.read_exact(&mut [0]).await.unwrap();
    });
}

#[test]
fn a_connection_that_breaks_under_a_connect_is_replaced_unless_it_was_new() {
    on_a_core(|| async {
        let mesh = Mesh::new();
        let cut = Rc::new(OnceCell::<watch::Sender<()>>::new());
        let connects = Rc::new(Cell::new(0));
        let gateway = {
            let (cut, connects) = (Rc::clone(&cut), Rc::clone(&connects));
            mesh.gateway(&Settings::default(), move || {
                let (cut, connects) = (Rc::clone(&cut), Rc::clone(&connects));
                let unanswered = RefCell::new(Vec::new());
                move |connect: Connect| {
                    connects.set(connects.get() + 1);
                    if matches!(connects.get(), 2 | 4) {
                        unanswered.borrow_mut().push(connect);
                        cut.get().unwrap().send(()).unwrap();
                    } else {
                        spawn_local(echo(connect.respond.accept(HeaderMap::new()).unwrap()));
                    }
                }
            })
            .await
        };
        cut.set(gateway.cut.clone()).unwrap();
        let pool = TunnelPool::new(mesh.client.clone(), Settings::default());

        let _first = open_at_once(&pool, gateway.address, 1).await;
        let replaced = open_at_once(&pool, gateway.address, 1).await.remove(0);
        assert!(replaced.is_ok(), "{replaced:?}");
        assert_eq!((connects.get(), gateway.accepted.get()), (3, 2));

        pool.clear();
        let failed = open_at_once(&pool, gateway.address, 1).await.remove(0);
        assert!(
            matches!(failed, Err(TunnelError::Connection(_))),
            "{failed:?}"
        );
        assert_eq!((connects.get(), gateway.accepted.get()), (4, 3));
    });
}

#[test]
fn a_reset_on_a_sound_connection_is_an_answer() {
    on_a_core(|| async {
        let mesh = Mesh::new();
        let connects = Rc::new(Cell::new(0));
        let gateway = {
            let connects = Rc::clone(&connects);
            mesh.gateway(&Settings::default(), move || {
                let connects = Rc::clone(&connects);
                move |connect: Connect| {
                    connects.set(connects.get() + 1);
                    if connects.get() == 1 {
                        spawn_local(echo(connect.respond.accept(HeaderMap::new()).unwrap()));
                    }
                }
            })
            .await
        };
        let pool = TunnelPool::new(mesh.client.clone(), Settings::default());
        let _first = open_at_once(&pool, gateway.address, 1).await;
        let reset = open_at_once(&pool, gateway.address, 1).await.remove(0);
        assert!(
            matches!(reset, Err(TunnelError::Connection(_))),
            "{reset:?}"
        );
        assert_eq!(connects.get(), 2);
        assert_eq!(pool.connections(), 1);
    });
}

#[test]
fn a_connect_without_answer_times_out() {
    on_a_core(|| async {
        let mesh = Mesh::new();
        let gateway = mesh
            .gateway(&Settings::default(), || {
                let unanswered: Rc<RefCell<Vec<Connect>>> = Rc::default();
                move |connect: Connect| unanswered.borrow_mut().push(connect)
            })
            .await;
        let settings = Settings {
            answer_timeout: Duration::from_millis(50),
            ..Settings::default()
        };
        let pool = TunnelPool::new(mesh.client.clone(), settings);
        let refused = open_at_once(&pool, gateway.address, 1).await.remove(0);
        assert!(matches!(refused, Err(TunnelError::AnswerTimeout(_))));
    });
}
