//! The floor: proxies that do nothing but move requests, on the libraries that Wayline is built of.
//!
//! One thread, no routes, no policy, no metrics, no limits, no draining. What a contestant costs
//! beyond these is what its features cost. They check peers' identities, because without that
//! there is no HBONE, and share nothing with the product but `wayline-tls`, itself a thin layer
//! over rustls and the only package that may name it.

mod forward;
mod hbone;
mod http2;
mod tunnel;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::rc::Rc;

use clap::Parser;
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::{Builder, LocalOptions};
use tokio::task::spawn_local;
use wayline_tls::CertificateStore;

use forward::{Dial, Forwarder};

/// Wayline's allocator, so that the difference is not malloc's.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

pub(crate) type Failure = Box<dyn std::error::Error>;

/// Exactly one of --plain and --hbone is the entrance.
#[derive(Parser)]
#[command(group(clap::ArgGroup::new("entrance").required(true)))]
struct Options {
    /// Take plain HTTP/1.1 on this address.
    #[arg(long, group = "entrance")]
    plain: Option<SocketAddr>,
    /// Take HBONE on this address; needs --identity.
    #[arg(long, group = "entrance", requires = "identity")]
    hbone: Option<SocketAddr>,
    /// Folder with cert-chain.pem, key.pem and root-cert.pem.
    #[arg(long)]
    identity: Option<PathBuf>,
    /// Forward to this plain HTTP/1.1 backend.
    #[arg(long, required_unless_present = "captured")]
    to: Option<SocketAddr>,
    /// Speak HTTP/2 with prior knowledge on both sides.
    #[arg(long, conflicts_with = "hbone", requires = "to")]
    http2: bool,
    /// Forward through HBONE to the captured backend instead; needs --identity.
    #[arg(long, conflicts_with = "to", requires = "identity")]
    captured: bool,
}

fn main() -> ExitCode {
    let options = Options::parse();
    let served = Builder::new_current_thread()
        .enable_all()
        .build_local(LocalOptions::default())
        .map_err(Failure::from)
        .and_then(|runtime| runtime.block_on(serve(options)));
    match served {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench-bare: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn serve(options: Options) -> Result<(), Failure> {
    let store = CertificateStore::new();
    if let Some(folder) = &options.identity {
        store.reload_from(folder)?;
    }
    if let (true, Some(address)) = (options.http2, options.to) {
        let listener = TcpListener::bind(options.plain.ok_or("no entrance")?).await?;
        let forwarder = Rc::new(http2::Forwarder::new(address));
        loop {
            let (tcp, _) = listener.accept().await?;
            tcp.set_nodelay(true)?;
            spawn_local(http2::serve(TokioIo::new(tcp), Rc::clone(&forwarder)));
        }
    }
    let dial = match options.to {
        Some(address) => Dial::Plain(address),
        None => Dial::captured(store.clone())?,
    };
    let forwarder = Rc::new(Forwarder::new(dial));
    let address = options.plain.or(options.hbone).ok_or("no entrance")?;
    let listener = TcpListener::bind(address).await?;
    loop {
        let (tcp, _) = listener.accept().await?;
        tcp.set_nodelay(true)?;
        let forwarder = Rc::clone(&forwarder);
        if options.plain.is_some() {
            spawn_local(plain(tcp, forwarder));
        } else {
            spawn_local(report(hbone::serve(tcp, store.clone(), forwarder)));
        }
    }
}

async fn plain(tcp: TcpStream, forwarder: Rc<Forwarder>) {
    forwarder.serve(TokioIo::new(tcp)).await;
}

async fn report(serving: impl Future<Output = Result<(), Failure>>) {
    if let Err(error) = serving.await {
        eprintln!("bench-bare: {error}");
    }
}
