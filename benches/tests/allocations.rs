//! How often a request allocates, in a steady state and including hyper's share. Ranges, not figures:
//! a request that suddenly needs ten more has lost a buffer that used to be kept, and one that needs
//! ten fewer is an occasion to lower the range.

use allocation_counter::measure;
use tokio::io::{AsyncRead, AsyncWrite};
use wayline_benches::single::{Failure, Single, requests};
use wayline_benches::{Connection, Door, Setup};

/// After so many, connections are open, buffers have grown and the endpoint is trusted.
const WARM_UP: usize = 200;

/// So many are counted, so that what happens once a second is no part of one.
const COUNTED: usize = 500;

/// So many connections do nothing while their memory is counted.
const IDLE: usize = 100;

/// Allocations per exchange on this connection.
fn per_request<IO>(single: &Single, mut connection: Connection<IO>) -> Result<u64, Failure>
where
    IO: AsyncRead + AsyncWrite + Unpin,
{
    single.run(requests(&mut connection, WARM_UP))?;
    let mut outcome = Ok(());
    let counted = measure(|| outcome = single.run(requests(&mut connection, COUNTED)));
    outcome?;
    // What stays behind would grow for ever.
    assert!(
        counted.count_current.abs() < COUNTED as i64 / 10,
        "{} allocations were kept by {COUNTED} requests",
        counted.count_current
    );
    Ok(counted.count_total / COUNTED as u64)
}

fn assert_within(what: &str, found: u64, range: std::ops::RangeInclusive<u64>) {
    println!("{what}: {found} allocations per request");
    assert!(
        range.contains(&found),
        "{what}: {found} allocations per request are outside {range:?}; if they have to be, change the range"
    );
}

#[test]
fn generator_and_backend_allocate_nothing() {
    let single = Single::start(&Setup::PLAIN).unwrap();
    let connection = single.run(single.direct()).unwrap();
    assert_within(
        "without a proxy",
        per_request(&single, connection).unwrap(),
        0..=0,
    );
}

#[test]
fn through_a_gateway() {
    for rules in [false, true] {
        let setup = Setup {
            rules,
            ..Setup::PLAIN
        };
        let single = Single::start(&setup).unwrap();
        let connection = single.run(single.plain()).unwrap();
        let found = per_request(&single, connection).unwrap();
        assert_within("through a gateway", found, 5..=8);
    }
}

#[test]
fn through_a_tunnel() {
    let setup = Setup {
        door: Door::Hbone,
        rules: true,
        ..Setup::PLAIN
    };
    let single = Single::start(&setup).unwrap();
    let tunnels = single.run(single.tunnels()).unwrap();
    let stream = single.run(tunnels.open()).unwrap();
    let found = per_request(&single, Connection::new(stream)).unwrap();
    assert_within("through a tunnel", found, 10..=15);
}

#[test]
fn an_idle_tunnel() {
    let setup = Setup {
        door: Door::Hbone,
        rules: true,
        ..Setup::PLAIN
    };
    let single = Single::start(&setup).unwrap();
    let warm = single.idle(10).unwrap();
    let mut idle = None;
    let counted = measure(|| idle = Some(single.idle(IDLE)));
    let _open = idle.unwrap().unwrap();
    drop(warm);
    let each = u64::try_from(counted.bytes_current).unwrap() / IDLE as u64;
    let number = counted.count_current / IDLE as i64;
    println!("an idle tunnel: {each} bytes in {number} allocations");
    // Of these, 24 KiB are HTTP/2's buffers for writing and reading, which are mostly never touched.
    assert!(
        (30_000..=44_000).contains(&each),
        "an idle tunnel keeps {each} bytes; if it has to, change the range"
    );
}
