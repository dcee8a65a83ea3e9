//! What the control side may fetch (key sets, modules, images), as flags.

use std::path::PathBuf;

use clap::{Args, ValueHint};
use ipnet::IpNet;
use wayline_fetch::{AddressPolicy, Client};
use wayline_tls::PublicTls;

use crate::failure::Failure;

/// Flags about fetching.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct FetchArgs {
    /// Networks that key sets, modules and images may be fetched from besides the public internet, e.g.
    /// that of the cluster's services.
    #[arg(
        long = "fetch-allow",
        value_name = "CIDR",
        env = "WAYLINE_FETCH_ALLOW",
        value_delimiter = ','
    )]
    allow: Vec<IpNet>,
    /// Certificates (PEM) of CAs that are trusted besides the public ones when fetching.
    #[arg(long = "fetch-ca", value_name = "FILE", env = "WAYLINE_FETCH_CA", value_hint = ValueHint::FilePath)]
    ca: Option<PathBuf>,
}

impl FetchArgs {
    /// The client that keeps to them.
    pub(crate) fn client(&self) -> Result<Client, Failure> {
        let ca = self.ca.as_ref().map(|path| {
            std::fs::read(path).map_err(|error| {
                Failure::new(format!("cannot read {}: {error}", path.display()))
                    .remedy("name a PEM file of CA certificates with --fetch-ca")
            })
        });
        let tls = PublicTls::new(ca.transpose()?.as_deref())
            .map_err(|error| Failure::split(&error.to_string()))?;
        let policy = AddressPolicy::allowing(self.allow.iter().copied());
        Ok(Client::new(policy, tls))
    }
}
