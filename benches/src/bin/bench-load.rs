//! Load generator and backend in one process with one thread.
//!
//! Started with the folders of two certificates, it writes the address of its plain backend as a
//! line on standard output, and then for each line on standard input, a job as JSON, one line with
//! what was measured, or ends with an error.

use std::io::{BufRead as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Parser;
use tokio::runtime::{Builder, LocalOptions};
use tokio::task::spawn_local;
use wayline_benches::{Backend, Job, run};
use wayline_tls::CertificateStore;

#[derive(Parser)]
struct Options {
    /// Folder with cert-chain.pem, key.pem and root-cert.pem of the client.
    #[arg(long)]
    client: PathBuf,
    /// The same for the captured backend.
    #[arg(long)]
    backend: PathBuf,
}

type Failure = Box<dyn std::error::Error>;

fn main() -> ExitCode {
    let options = Options::parse();
    let served = Builder::new_current_thread()
        .enable_all()
        .build_local(LocalOptions::default())
        .map_err(Failure::from)
        .and_then(|runtime| runtime.block_on(serve(&options)));
    match served {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench-load: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn serve(options: &Options) -> Result<(), Failure> {
    let client = certificate(&options.client)?;
    let backend = Backend::open(certificate(&options.backend)?).await?;
    writeln!(std::io::stdout(), "{}", backend.plain_address()?)?;
    let backend = spawn_local(backend.serve());

    loop {
        // Waiting blocks the backend as well: between jobs there is nothing for it to do, and
        // connections wait in the kernel.
        let mut line = String::new();
        if std::io::stdin().lock().read_line(&mut line)? == 0 {
            return Ok(());
        }
        let job: Job = serde_json::from_str(&line)?;
        let measured = run(&job, &client).await?;
        if backend.is_finished() {
            return Err("the backend has stopped accepting".into());
        }
        writeln!(std::io::stdout(), "{}", serde_json::to_string(&measured)?)?;
    }
}

fn certificate(folder: &Path) -> Result<CertificateStore, Failure> {
    let store = CertificateStore::new();
    store.reload_from(folder)?;
    Ok(store)
}
