//! `wayline cert`: a certificate of the development CA for any identity.

use std::time::Duration;

use wayline_tls::{DEFAULT_LIFETIME, DevCa};

use crate::cli::CertArgs;
use crate::failure::Failure;

/// Writes `cert-chain.pem`, `key.pem` and `root-cert.pem`.
pub(crate) fn run(args: &CertArgs) -> Result<(), Failure> {
    let ca = DevCa::open_or_create(&args.dev_ca)?;
    let lifetime = args.lifetime.map_or(DEFAULT_LIFETIME, Duration::from);
    ca.issue(&args.identity, lifetime)?.write_to(&args.out)?;
    Ok(())
}
