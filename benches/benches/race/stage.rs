//! Where a contestant meets the load: certificates, generator and backend, and one measurement.

use std::fs::File;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Stdio};

use tempfile::TempDir;
use wayline_benches::{
    DENIED_PATH, Job, Measurement, backend_identity, client_identity, token, waypoint_identity,
};
use wayline_tls::{DEFAULT_LIFETIME, DevCa};

use crate::churn::Churn;
use crate::contestant::{Contestant, Running};
use crate::error::{Error, at};
use crate::options::Options;
use crate::process::{kill, not_run, pinned};
use crate::scene::Scene;

pub(crate) struct Stage {
    load: Load,
    places: Places,
    dir: TempDir,
    core: usize,
}

/// What a contestant needs to know to be configured.
pub(crate) struct Places {
    /// The folder of the development CA.
    pub(crate) ca: PathBuf,
    /// A folder with the contestant's own certificate.
    pub(crate) identity: PathBuf,
    /// The plain backend.
    pub(crate) backend: SocketAddr,
}

impl Stage {
    pub(crate) fn open(options: &Options) -> Result<Self, Error> {
        let dir = tempfile::tempdir().map_err(at("create a folder in", std::env::temp_dir()))?;
        let ca_dir = dir.path().join("ca");
        let ca = DevCa::open_or_create(&ca_dir)?;
        let folder = |name: &str| dir.path().join(name);
        for (name, identity) in [
            ("client", client_identity()),
            ("waypoint", waypoint_identity()),
            ("backend", backend_identity()),
        ] {
            ca.issue(&identity, DEFAULT_LIFETIME)?
                .write_to(&folder(name))?;
        }
        let load = Load::start(options.load_core, dir.path())?;
        let places = Places {
            ca: ca_dir,
            identity: folder("waypoint"),
            backend: load.backend,
        };
        Ok(Self {
            load,
            places,
            dir,
            core: options.core,
        })
    }

    /// Starts the contestant, measures it, and stops it.
    pub(crate) fn measure(
        &mut self,
        scene: Scene,
        contestant: Contestant,
        options: &Options,
    ) -> Result<Measurement, Error> {
        let dir = self.dir.path().join("contestant");
        std::fs::create_dir_all(&dir).map_err(at("create", &dir))?;
        let mut running = contestant.start(scene, self.core, &dir, &self.places)?;
        let job = Job {
            pid: running.process.pid(),
            cores: vec![options.core, options.load_core],
            target: running.address,
            entrance: scene.entrance(),
            call: scene.call(),
            denied_path: (scene.has_policy() && contestant.enforces_policy())
                .then(|| DENIED_PATH.to_owned()),
            warmup: options.warmup,
            seconds: options.seconds,
            rate: options.rate(scene),
            header: scene.setup().token.then(token::header),
            refused_header: (scene.setup().token && contestant.verifies_tokens())
                .then(token::forged_header),
            beside: scene.beside(),
        };
        let churn = scene.is_churning().then(|| Churn::start(&dir));
        let measurement = self
            .load
            .run(&job)
            .map_err(|reason| failure(scene, contestant, &mut running, &reason))?;
        drop(churn);
        let measurement = Measurement {
            start_millis: running.start.as_secs_f64() * 1e3,
            ..measurement
        };
        drop(running);
        std::fs::remove_dir_all(&dir).map_err(at("remove", &dir))?;
        Ok(measurement)
    }
}

fn failure(scene: Scene, contestant: Contestant, running: &mut Running, reason: &Error) -> Error {
    let ended = running.process.ended();
    Error::Contestant {
        contestant: contestant.name(),
        scene: scene.name(),
        reason: ended.map_or_else(
            || reason.to_string(),
            |status| format!("{reason} (the contestant has ended, {status})"),
        ),
        log: running.process.log(),
    }
}

/// The process `bench-load`.
struct Load {
    child: Child,
    jobs: ChildStdin,
    answers: BufReader<ChildStdout>,
    log: PathBuf,
    backend: SocketAddr,
}

impl Load {
    fn start(core: usize, dir: &Path) -> Result<Self, Error> {
        let log = dir.join("load.log");
        let errors = File::create(&log).map_err(at("create", &log))?;
        let mut command = pinned(core, env!("CARGO_BIN_EXE_bench-load"));
        command
            .arg("--client")
            .arg(dir.join("client"))
            .arg("--backend")
            .arg(dir.join("backend"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(errors);
        let mut child = command.spawn().map_err(|e| not_run(&command, &e))?;
        let (Some(jobs), Some(answers)) = (child.stdin.take(), child.stdout.take()) else {
            return Err(Error::Load("has no pipes".to_owned()));
        };
        let mut load = Self {
            child,
            jobs,
            answers: BufReader::new(answers),
            log,
            backend: SocketAddr::from(([127, 0, 0, 1], 0)),
        };
        load.backend = load.answer()?.trim().parse().map_err(|_| load.broken())?;
        Ok(load)
    }

    fn run(&mut self, job: &Job) -> Result<Measurement, Error> {
        let job = serde_json::to_string(job).map_err(|e| Error::Load(e.to_string()))?;
        // If it is gone, reading tells why.
        let _sent = writeln!(self.jobs, "{job}");
        let answer = self.answer()?;
        serde_json::from_str(&answer).map_err(|e| Error::Load(e.to_string()))
    }

    fn answer(&mut self) -> Result<String, Error> {
        let mut line = String::new();
        match self.answers.read_line(&mut line) {
            Ok(read) if read > 0 => Ok(line),
            _ => Err(self.broken()),
        }
    }

    fn broken(&self) -> Error {
        let said = std::fs::read_to_string(&self.log).unwrap_or_default();
        Error::Load(said.trim().to_owned())
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        kill(&mut self.child);
    }
}
