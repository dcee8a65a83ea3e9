//! Whole requests, and the opening of tunnels.

use tokio::io::{AsyncRead, AsyncWrite};
use wayline_benches::single::{Failure, Single, requests};
use wayline_benches::{Connection, Door, Setup};

use crate::measured;

/// After so many, connections are open, buffers have grown and the endpoint is trusted.
const WARM_UP: usize = 200;

/// Without a proxy: the client's and the backend's share of the others.
pub(crate) fn direct(count: usize) -> Result<(), Failure> {
    let single = Single::start(&Setup::PLAIN)?;
    let connection = single.run(single.direct())?;
    exchanges(&single, connection, count)
}

/// HTTP/1.1 through a gateway.
pub(crate) fn plain(count: usize) -> Result<(), Failure> {
    gateway(&Setup::PLAIN, count)
}

/// The same with 10 rules of which the last allows.
pub(crate) fn plain_policy(count: usize) -> Result<(), Failure> {
    let setup = Setup {
        rules: true,
        ..Setup::PLAIN
    };
    gateway(&setup, count)
}

/// The same through a tunnel's stream; the client's TLS and HTTP/2 count, too.
pub(crate) fn hbone(count: usize) -> Result<(), Failure> {
    let single = Single::start(&WAYPOINT)?;
    let tunnels = single.run(single.tunnels())?;
    let stream = single.run(tunnels.open())?;
    exchanges(&single, Connection::new(stream), count)
}

/// A stream of a tunnel, opened and closed.
pub(crate) fn tunnel_open(count: usize) -> Result<(), Failure> {
    let single = Single::start(&WAYPOINT)?;
    let tunnels = single.run(single.tunnels())?;
    let open = async |times| {
        for _ in 0..times {
            drop(tunnels.open().await?);
        }
        Ok(())
    };
    single.run(open(WARM_UP))?;
    measured(|| single.run(open(count)))
}

const WAYPOINT: Setup = Setup {
    door: Door::Hbone,
    rules: true,
    ..Setup::PLAIN
};

fn gateway(setup: &Setup, count: usize) -> Result<(), Failure> {
    let single = Single::start(setup)?;
    let connection = single.run(single.plain())?;
    exchanges(&single, connection, count)
}

fn exchanges<IO>(
    single: &Single,
    mut connection: Connection<IO>,
    count: usize,
) -> Result<(), Failure>
where
    IO: AsyncRead + AsyncWrite + Unpin,
{
    single.run(requests(&mut connection, WARM_UP))?;
    measured(|| single.run(requests(&mut connection, count)))
}
