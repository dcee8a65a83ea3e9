//! Bodies of every size and many at once, in every combination of HTTP/1 and HTTP/2.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use wayline_tests::{Mesh, PATIENCE, eventually, manifests};

use crate::scene::{self, ECHO, ECHO_AUTHORITY, PORT};

/// 100 MiB, in pieces of 64 KiB.
const PIECE: usize = 64 * 1024;
const PIECES: usize = 1600;

/// What a body may cost the proxy on its way through, whatever its size: windows and buffers of both
/// sides, and what the allocator keeps.
const ALLOWED_KIB: u64 = 48 * 1024;

/// Streams at the same time over one HBONE connection, a hundred in each of its tunnels.
const MANY: usize = 2000;

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
}

/// `echo` at both entrances, with a backend that speaks the protocol its port declares.
fn mesh(protocol: &str) -> Mesh {
    let mesh = Mesh::new();
    mesh.write("mesh.yaml", &mesh.logging(""));
    let mut documents = scene::waypoint();
    let ports = [(protocol, 80, PORT)];
    documents.push(manifests::service(
        "default",
        "echo",
        scene::ECHO_IP,
        &ports,
    ));
    documents.push(manifests::Pod::new("echo", mesh.ip(ECHO)).yaml());
    documents.extend([scene::edge(&mesh), scene::edge_to_echo()]);
    mesh.write("main.yaml", &manifests::file(&documents));
    mesh
}

/// An HTTP/2 server that sends back what it gets while it gets it.
fn echo_h2(address: SocketAddr) {
    let listener = std::net::TcpListener::bind(address).unwrap();
    listener.set_nonblocking(true).unwrap();
    std::thread::spawn(move || {
        let local = tokio::task::LocalSet::new();
        local.block_on(&runtime(), async move {
            let listener = tokio::net::TcpListener::from_std(listener).unwrap();
            while let Ok((tcp, _)) = listener.accept().await {
                tokio::task::spawn_local(async move {
                    let mut connection = h2::server::handshake(tcp).await?;
                    while let Some(stream) = connection.accept().await {
                        let (request, mut respond) = stream?;
                        tokio::task::spawn_local(async move {
                            let send = respond.send_response(http::Response::new(()), false)?;
                            pump(request.into_body(), send).await
                        });
                    }
                    Ok::<_, h2::Error>(())
                });
            }
        });
    });
}

async fn pump(mut from: h2::RecvStream, mut to: h2::SendStream<Bytes>) -> Result<(), h2::Error> {
    while let Some(data) = from.data().await {
        let data = data?;
        let length = data.len();
        send(&mut to, data).await?;
        from.flow_control().release_capacity(length)?;
    }
    to.send_data(Bytes::new(), true)
}

/// Sends as fast as the peer takes it, and no faster.
async fn send(to: &mut h2::SendStream<Bytes>, mut data: Bytes) -> Result<(), h2::Error> {
    while !data.is_empty() {
        to.reserve_capacity(data.len());
        let room = std::future::poll_fn(|cx| to.poll_capacity(cx)).await;
        let room = room.ok_or(h2::Reason::CANCEL)??;
        to.send_data(data.split_to(room.min(data.len())), false)?;
    }
    Ok(())
}

/// Sends a body over HTTP/2 and counts what comes back at the same time.
fn there_and_back_h2(to: SocketAddr) -> Result<usize, h2::Error> {
    let local = tokio::task::LocalSet::new();
    local.block_on(&runtime(), async {
        let tcp = tokio::net::TcpStream::connect(to).await.unwrap();
        let (client, connection) = h2::client::handshake(tcp).await?;
        tokio::task::spawn_local(async move {
            let _ = connection.await;
        });
        let mut client = client.ready().await?;
        let request = http::Request::post("http://test/").body(()).unwrap();
        let (answer, mut up) = client.send_request(request, false)?;
        tokio::task::spawn_local(async move {
            let piece = Bytes::from(vec![7; PIECE]);
            for _ in 0..PIECES {
                send(&mut up, piece.clone()).await?;
            }
            up.send_data(Bytes::new(), true)
        });
        let mut body = answer.await?.into_body();
        let mut count = 0;
        while let Some(data) = body.data().await {
            let data = data?;
            assert!(data.iter().all(|&byte| byte == 7));
            count += data.len();
            body.flow_control().release_capacity(data.len())?;
        }
        Ok(count)
    })
}

#[test]
fn a_hundred_mebibytes_there_and_back_cost_no_memory() {
    let mesh = mesh("http2");
    echo_h2(SocketAddr::new(mesh.ip(ECHO), PORT));
    let wayline = mesh.start();
    let tunnel = mesh.tunnel("default/a", ECHO_AUTHORITY);
    for address in [scene::edge_address(&mesh), tunnel.address] {
        let before = wayline.memory_kib();
        assert_eq!(there_and_back_h2(address).unwrap(), PIECE * PIECES);
        let after = wayline.memory_kib();
        assert!(
            after < before + ALLOWED_KIB,
            "{before} KiB, then {after} KiB"
        );
    }
}

#[test]
fn thousands_of_streams_run_at_once_over_one_hbone_connection() {
    let mesh = mesh("http2");
    echo_h2(SocketAddr::new(mesh.ip(ECHO), PORT));
    let wayline = mesh.start();
    let tunnel = mesh.tunnel("default/a", ECHO_AUTHORITY);
    let open = Arc::new(AtomicUsize::new(0));
    let local = tokio::task::LocalSet::new();
    local.block_on(&runtime(), async {
        let mut streams = tokio::task::JoinSet::new();
        // As many connections inside the tunnel as their limit of streams asks for.
        for _ in 0..MANY / 100 {
            let tcp = tokio::net::TcpStream::connect(tunnel.address)
                .await
                .unwrap();
            let (client, connection) = h2::client::handshake(tcp).await.unwrap();
            tokio::task::spawn_local(async move {
                let _ = connection.await;
            });
            for n in 0..100 {
                let mut client = client.clone().ready().await.unwrap();
                let open = Arc::clone(&open);
                streams.spawn_local(async move {
                    let request = http::Request::post("http://test/").body(()).unwrap();
                    let (answer, mut up) = client.send_request(request, false).unwrap();
                    let mut body = answer.await.unwrap().into_body();
                    open.fetch_add(1, Ordering::SeqCst);
                    // Nobody says anything before all are there.
                    while open.load(Ordering::SeqCst) < MANY {
                        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
                    }
                    let said = Bytes::from(format!("stream {n}"));
                    up.send_data(said.clone(), true).unwrap();
                    let mut heard = Vec::new();
                    while let Some(data) = body.data().await {
                        heard.extend_from_slice(&data.unwrap());
                    }
                    assert_eq!(heard, said);
                });
            }
        }
        let all = async {
            while let Some(stream) = streams.join_next().await {
                stream.unwrap();
            }
        };
        tokio::time::timeout(3 * PATIENCE, all).await.unwrap();
    });
    wayline.counted("wayline_connections", &[("entrance", "hbone")], 1.0);
    let counted = ("istio_requests_total", [("response_code", "200")]);
    eventually("all to be counted", || {
        let sum = wayline.metrics().sum(counted.0, &counted.1);
        (sum == MANY as f64).then_some(())
    });
}
