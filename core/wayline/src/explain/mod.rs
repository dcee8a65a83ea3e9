//! `wayline explain`: what would happen to one request, and why.
//!
//! Owns the question (a URL, a caller, headers), where the objects come from (files or a live proxy)
//! and how the answer is told. It decides nothing: target, canonical request, judgement and route come
//! from the code that decides in production.

mod evaluate;
mod human;
mod question;
mod report;
mod routing;

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use clap::{ArgGroup, Args, ValueHint};
use wayline_control::Checked;
use wayline_model::translate::Options;

use crate::cli::{Format, Namespaced};
use crate::dump::fetch::fetch;
use crate::failure::Failure;
use crate::{FAILED, FINDINGS, OK, output};
use question::Question;
use report::Report;

/// Flags of `wayline explain`. They belong to one question and so have no variables.
#[derive(Debug, Args)]
#[command(group = ArgGroup::new("source").required(true).multiple(false).args(["files", "admin"]))]
pub(crate) struct ExplainArgs {
    /// Manifest file or folder; may be given several times. Of two documents for one object the first counts.
    #[arg(short = 'f', long = "file", value_name = "PATH")]
    files: Vec<PathBuf>,
    /// Ask about the objects of a live proxy, at its admin port.
    #[arg(long, value_name = "ADDR")]
    admin: Option<SocketAddr>,
    /// Namespace and service account of the caller.
    #[arg(long, value_name = "NS/SA", required_unless_present = "gateway")]
    from: Option<Namespaced>,
    /// Evaluate at this gateway's listener of the URL's port, in plain text.
    #[arg(long, value_name = "NS/NAME")]
    gateway: Option<Namespaced>,
    /// Method.
    #[arg(short = 'X', long, value_name = "METHOD", default_value = "GET")]
    request: http::Method,
    /// Header, as `Name: value`. `Host:` replaces the URL's.
    #[arg(short = 'H', long = "header", value_name = "HEADER")]
    headers: Vec<String>,
    /// Address the caller connects from [default: that of a Pod with its account, else 127.0.0.1].
    #[arg(long, value_name = "IP")]
    source_ip: Option<IpAddr>,
    /// How to print the answer.
    #[arg(short, long, value_name = "FORMAT", default_value = "human")]
    output: Format,
    /// http://<service>[.<namespace>][:port]/path, or http://<ip>:<port>/path.
    #[arg(value_hint = ValueHint::Url)]
    url: String,
}

/// Prints what would happen. The exit code is 0 when that is known, be it a refusal; 1 when nothing
/// serves the target; 3 when errors in the configuration touch what the answer was made from.
pub(crate) fn run(args: &ExplainArgs) -> Result<u8, Failure> {
    let question = Question::read(args)?;
    let knowledge = knowledge(args)?;
    let report = evaluate::report(&question, &knowledge)?;
    match args.output {
        Format::Human => output::print(human::text(&report).as_bytes())?,
        Format::Json => {
            let mut text = serde_json::to_vec_pretty(&report).map_err(Failure::new)?;
            text.push(b'\n');
            output::print(&text)?;
        }
    }
    Ok(exit_code(&report))
}

fn knowledge(args: &ExplainArgs) -> Result<Checked, Failure> {
    if let Some(admin) = args.admin {
        let live = fetch(admin, false)?;
        let options = Options {
            gateways: live.gateways,
        };
        return Ok(wayline_control::check_objects(
            &live.objects,
            &live.unreadable,
            options,
        ));
    }
    Ok(wayline_control::check(&args.files, Options::default())?)
}

fn exit_code(report: &Report) -> u8 {
    if report.target.is_none() {
        FAILED
    } else if report.has_errors() {
        FINDINGS
    } else {
        OK
    }
}
