//! The real curl.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;

use crate::process::{self, Finished};
use crate::tools;

/// A curl that opens a CONNECT stream over mutual TLS and HTTP/2 to a waypoint, and sends its request
/// in there. `args` end with the URL, whose host and port become the CONNECT's authority.
#[must_use]
pub fn through(hbone: SocketAddr, certificate: &Path, args: &[&str]) -> Finished {
    let mut command = plain();
    command
        .args(["--proxytunnel", "--proxy-http2", "--proxy-insecure"])
        .args(["-x", &format!("https://{hbone}")])
        .arg("--proxy-cert")
        .arg(certificate.join("cert-chain.pem"))
        .arg("--proxy-key")
        .arg(certificate.join("key.pem"))
        .args(args);
    process::run(command)
}

/// A curl with the settings that all have.
#[must_use]
pub fn plain() -> Command {
    let mut command = Command::new(tools::tool("curl"));
    command.args([
        "--silent",
        "--show-error",
        "--max-time",
        "15",
        "--noproxy",
        "",
    ]);
    command
}
