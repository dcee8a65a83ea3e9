//! Tunnelled bytes: whole, bounded, and ended the way the other side ended them.

use std::cell::RefCell;
use std::io::{ErrorKind, IoSlice};
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::oneshot;
use tokio::task::spawn_local;
use wayline_hbone::{Connect, Settings, TunnelStream};

use crate::support::{Mesh, accepting, echo, on_a_core, pattern, target};

/// Small enough to fill quickly, large enough for several frames.
fn small_windows() -> Settings {
    Settings {
        stream_window: 128 * 1024,
        connection_window: 512 * 1024,
        ..Settings::default()
    }
}

#[test]
fn many_streams_carry_their_own_bytes_both_ways() {
    on_a_core(|| async {
        let mesh = Mesh::new();
        let served = mesh.served(&small_windows(), accepting(echo)).await;
        let mut tunnels = Vec::new();
        for seed in 0..40 {
            let tunnel = served
                .client
                .open(&target(), HeaderMap::new())
                .await
                .unwrap();
            tunnels.push(spawn_local(async move {
                let sent = pattern(300_000 + seed, seed);
                let (mut reader, mut writer) = tokio::io::split(tunnel);
                let send = async {
                    writer.write_all(&sent).await.unwrap();
                    writer.shutdown().await.unwrap();
                };
                let mut heard = Vec::new();
                let (_, length) = tokio::join!(send, reader.read_to_end(&mut heard));
                assert_eq!(length.unwrap(), sent.len());
                assert!(heard == sent, "stream {seed} was mangled");
            }));
        }
        for tunnel in tunnels {
            tunnel.await.unwrap();
        }
        assert_eq!(served.client.active(), 0);
    });
}

/// Writes until no more is taken, and says how much was.
async fn fill(tunnel: &mut TunnelStream) -> usize {
    let chunk = [7; 10_000];
    let mut taken = 0;
    while let Ok(wrote) =
        tokio::time::timeout(Duration::from_millis(200), tunnel.write(&chunk)).await
    {
        taken += wrote.unwrap();
    }
    taken
}

#[test]
fn a_stalled_reader_stops_the_writer_and_nobody_else() {
    on_a_core(|| async {
        let mesh = Mesh::new();
        let settings = small_windows();
        let (resume, resumed) = oneshot::channel::<()>();
        let (report, reported) = oneshot::channel::<usize>();
        let first = RefCell::new(Some((resumed, report)));
        let served = mesh
            .served(&settings, move |connect: Connect| {
                let mut tunnel = connect.respond.accept(HeaderMap::new()).unwrap();
                let Some((resumed, report)) = first.borrow_mut().take() else {
                    spawn_local(echo(tunnel));
                    return;
                };
                spawn_local(async move {
                    resumed.await.unwrap();
                    let mut heard = Vec::new();
                    tunnel.read_to_end(&mut heard).await.unwrap();
                    report.send(heard.len()).unwrap();
                });
            })
            .await;

        let mut stalled = served
            .client
            .open(&target(), HeaderMap::new())
            .await
            .unwrap();
        let taken = fill(&mut stalled).await;
        let bound = settings.stream_window as usize + settings.send_buffer;
        assert!(
            taken <= bound,
            "{taken} bytes were taken for a reader that reads none"
        );

        let mut other = served
            .client
            .open(&target(), HeaderMap::new())
            .await
            .unwrap();
        let sent = pattern(1_000_000, 1);
        let (mut reader, mut writer) = tokio::io::split(&mut other);
        let mut heard = vec![0; sent.len()];
        let (wrote, read) = tokio::join!(writer.write_all(&sent), reader.read_exact(&mut heard));
        wrote.unwrap();
        read.unwrap();
        assert!(heard == sent);

        resume.send(()).unwrap();
        stalled.write_all(&[7; 300_000]).await.unwrap();
        stalled.shutdown().await.unwrap();
        assert_eq!(reported.await.unwrap(), taken + 300_000);
    });
}

#[test]
fn a_stalled_client_stops_the_server_too() {
    on_a_core(|| async {
        let mesh = Mesh::new();
        let settings = small_windows();
        let (report, reported) = oneshot::channel::<usize>();
        let report = RefCell::new(Some(report));
        let served = mesh
            .served(&settings, move |connect: Connect| {
                let mut tunnel = connect.respond.accept(HeaderMap::new()).unwrap();
                let report = report.borrow_mut().take().unwrap();
                spawn_local(async move {
                    let taken = fill(&mut tunnel).await;
                    report.send(taken).unwrap();
                    tunnel.shutdown().await.unwrap();
                    tunnel.read_to_end(&mut Vec::new()).await.unwrap();
                });
            })
            .await;
        let mut tunnel = served
            .client
            .open(&target(), HeaderMap::new())
            .await
            .unwrap();
        let taken = reported.await.unwrap();
        assert!(taken <= settings.stream_window as usize + settings.send_buffer);
        let mut heard = Vec::new();
        tunnel.read_to_end(&mut heard).await.unwrap();
        assert_eq!(heard.len(), taken);
        tunnel.shutdown().await.unwrap();
    });
}

#[test]
fn what_is_looked_at_and_not_consumed_keeps_its_window() {
    on_a_core(|| async {
        let settings = Settings {
            stream_window: 64 * 1024,
            ..small_windows()
        };
        let window = settings.stream_window as usize;
        let (near, far) = tokio::io::duplex(1 << 20);
        let (look, looked) = oneshot::channel();
        let look = RefCell::new(Some(look));
        let handler = move |connect: Connect| {
            let mut tunnel = connect.respond.accept(HeaderMap::new()).unwrap();
            let Some(look) = look.borrow_mut().take() else {
                spawn_local(echo(tunnel));
                return;
            };
            spawn_local(async move {
                tunnel.fill_buf().await.unwrap();
                look.send(()).unwrap();
                std::future::pending::<()>().await;
            });
        };
        spawn_local(async move {
            wayline_hbone::serve(far, &settings, std::future::pending(), handler).await
        });
        let (mut sender, connection) = h2::client::handshake(near).await.unwrap();
        spawn_local(connection);
        let mut open = async || {
            let request = Request::connect("10.0.0.1:9080").body(()).unwrap();
            let (response, send) = sender.send_request(request, false).unwrap();
            (response.await.unwrap().into_body(), send)
        };

        let (_unheard, mut stalled) = open().await;
        stalled.send_data(pattern(window, 0).into(), false).unwrap();
        looked.await.unwrap();

        // Window given back would be on the wire before this answer.
        let (mut heard, mut other) = open().await;
        other.send_data(Bytes::from_static(b"x"), false).unwrap();
        heard.data().await.unwrap().unwrap();
        stalled.reserve_capacity(1);
        assert_eq!(stalled.capacity(), 0);
    });
}

#[test]
fn reading_in_place_gives_all_window_back() {
    on_a_core(|| async {
        let mesh = Mesh::new();
        let settings = small_windows();
        let window = settings.stream_window as usize;
        let served = mesh
            .served(
                &settings,
                accepting(move |mut tunnel| async move {
                    tunnel.write_all(&pattern(3 * window, 0)).await.unwrap();
                    tunnel.shutdown().await.unwrap();
                    tunnel.read_to_end(&mut Vec::new()).await.unwrap();
                }),
            )
            .await;
        let mut tunnel = served
            .client
            .open(&target(), HeaderMap::new())
            .await
            .unwrap();
        let mut heard = Vec::new();
        loop {
            let available = tunnel.fill_buf().await.unwrap();
            if available.is_empty() {
                break;
            }
            let step = available.len().min(999);
            heard.extend_from_slice(&available[..step]);
            tunnel.consume(step);
        }
        assert!(heard == pattern(3 * window, 0));
        tunnel.shutdown().await.unwrap();
    });
}

#[test]
fn chunks_pass_without_copies() {
    on_a_core(|| async {
        let mesh = Mesh::new();
        let served = mesh
            .served(
                &small_windows(),
                accepting(|mut tunnel| async move {
                    while let Some(chunk) = std::future::poll_fn(|cx| tunnel.poll_chunk(cx)).await {
                        let mut chunk = chunk.unwrap();
                        while !chunk.is_empty() {
                            std::future::poll_fn(|cx| tunnel.poll_write_chunk(cx, &mut chunk))
                                .await
                                .unwrap();
                        }
                    }
                    tunnel.shutdown().await.unwrap();
                }),
            )
            .await;
        let tunnel = served
            .client
            .open(&target(), HeaderMap::new())
            .await
            .unwrap();
        let sent = pattern(700_000, 3);
        let (mut reader, mut writer) = tokio::io::split(tunnel);
        let mut heard = Vec::new();
        let send = async {
            writer.write_all(&sent).await.unwrap();
            writer.shutdown().await.unwrap();
        };
        let (_, read) = tokio::join!(send, reader.read_to_end(&mut heard));
        read.unwrap();
        assert!(heard == sent);
    });
}

#[test]
fn each_side_may_finish_sending_first() {
    on_a_core(|| async {
        let mesh = Mesh::new();
        let served = mesh
            .served(
                &Settings::default(),
                accepting(|mut tunnel| async move {
                    let mut question = String::new();
                    tunnel.read_to_string(&mut question).await.unwrap();
                    tunnel
                        .write_all(question.to_uppercase().as_bytes())
                        .await
                        .unwrap();
                    tunnel.shutdown().await.unwrap();
                }),
            )
            .await;
        let mut tunnel = served
            .client
            .open(&target(), HeaderMap::new())
            .await
            .unwrap();
        tunnel.write_all(b"hello").await.unwrap();
        tunnel.shutdown().await.unwrap();
        tunnel.shutdown().await.unwrap();
        let mut reply = String::new();
        tunnel.read_to_string(&mut reply).await.unwrap();
        assert_eq!(reply, "HELLO");
        assert!(tunnel.write_all(b"more").await.is_err());
    });
}

#[test]
fn a_server_that_answers_and_leaves_early_is_heard_to_the_end() {
    on_a_core(|| async {
        let mesh = Mesh::new();
        let served = mesh
            .served(
                &small_windows(),
                accepting(|mut tunnel| async move {
                    tunnel.write_all(&pattern(50_000, 9)).await.unwrap();
                    tunnel.shutdown().await.unwrap();
                }),
            )
            .await;
        let mut tunnel = served
            .client
            .open(&target(), HeaderMap::new())
            .await
            .unwrap();
        let mut heard = Vec::new();
        tunnel.read_to_end(&mut heard).await.unwrap();
        assert!(heard == pattern(50_000, 9));
        let failed = loop {
            if let Err(error) = tunnel.write_all(&[0; 10_000]).await {
                break error;
            }
        };
        assert_eq!(failed.kind(), ErrorKind::BrokenPipe);
    });
}

#[test]
fn a_dropped_client_stream_is_a_reset_for_the_server() {
    on_a_core(|| async {
        let mesh = Mesh::new();
        let (report, reported) = oneshot::channel();
        let report = Rc::new(RefCell::new(Some(report)));
        let served = mesh
            .served(
                &Settings::default(),
                accepting(move |mut tunnel| {
                    let report = report.borrow_mut().take().unwrap();
                    async move {
                        let mut heard = Vec::new();
                        let outcome = tunnel.read_to_end(&mut heard).await;
                        report.send(outcome.map_err(|e| e.kind())).unwrap();
                    }
                }),
            )
            .await;
        let mut tunnel = served
            .client
            .open(&target(), HeaderMap::new())
            .await
            .unwrap();
        tunnel.write_all(b"half a tra").await.unwrap();
        drop(tunnel);
        assert_eq!(reported.await.unwrap(), Err(ErrorKind::ConnectionReset));
        assert_eq!(served.client.active(), 0);
    });
}

#[test]
fn a_failed_server_stream_fails_the_clients_reads_and_blocked_writes() {
    on_a_core(|| async {
        let mesh = Mesh::new();
        let (leave, left) = oneshot::channel::<()>();
        let left = Rc::new(RefCell::new(Some(left)));
        let served = mesh
            .served(
                &small_windows(),
                accepting(move |tunnel| {
                    let left = left.borrow_mut().take().unwrap();
                    async move {
                        left.await.unwrap();
                        tunnel.fail();
                    }
                }),
            )
            .await;
        let mut tunnel = served
            .client
            .open(&target(), HeaderMap::new())
            .await
            .unwrap();
        fill(&mut tunnel).await;
        let (mut reader, mut writer) = tokio::io::split(tunnel);
        let writing = spawn_local(async move { writer.write_all(&[0; 1_000]).await });
        leave.send(()).unwrap();
        let failed = writing.await.unwrap().unwrap_err();
        assert_eq!(failed.kind(), ErrorKind::ConnectionReset);
        let failed = reader.read(&mut [0; 10]).await.unwrap_err();
        assert_eq!(failed.kind(), ErrorKind::ConnectionReset);
    });
}

#[test]
fn one_write_is_one_frame() {
    on_a_core(|| async {
        let (near, far) = tokio::io::duplex(1 << 20);
        let peer = spawn_local(async move {
            let mut connection = h2::server::Builder::new()
                .handshake::<_, Bytes>(far)
                .await
                .unwrap();
            let (request, mut respond) = connection.accept().await.unwrap().unwrap();
            let _send = respond.send_response(Response::new(()), false).unwrap();
            spawn_local(async move { while connection.accept().await.is_some() {} });
            let mut body = request.into_body();
            let mut frames = Vec::new();
            while let Some(frame) = body.data().await {
                frames.push(frame.unwrap());
            }
            frames
        });
        let (client, driver) = wayline_hbone::connect(near, &Settings::default())
            .await
            .unwrap();
        spawn_local(async move {
            let _ended = driver.await;
        });
        let mut tunnel = client.open(&target(), HeaderMap::new()).await.unwrap();
        tunnel.write_all(b"plain").await.unwrap();
        let parts = [&b"HTTP/1.1 200 OK\r\n"[..], b"\r\n", b"", b"body"];
        let slices: Vec<IoSlice<'_>> = parts.iter().map(|part| IoSlice::new(part)).collect();
        assert_eq!(tunnel.write_vectored(&slices).await.unwrap(), 23);
        assert_eq!(tunnel.write_vectored(&[]).await.unwrap(), 0);
        assert_eq!(tunnel.write(b"").await.unwrap(), 0);
        tunnel.shutdown().await.unwrap();
        assert_eq!(
            peer.await.unwrap(),
            [&b"plain"[..], b"HTTP/1.1 200 OK\r\n\r\nbody", b""]
        );
    });
}
