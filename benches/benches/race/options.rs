//! The command line; each option is also an environment variable.

use clap::Parser;
use wayline_benches::Entrance;

use crate::contestant::Contestant;
use crate::scene::Scene;

/// Races Wayline against bare loops, nginx, HAProxy and Envoy: CPU time per request.
#[derive(Parser)]
#[command(bin_name = "cargo bench -p wayline-benches --bench race --")]
pub(crate) struct Options {
    /// How often each contestant is measured in each scene; figures are medians.
    #[arg(long, env = "WAYLINE_RACE_ROUNDS", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) rounds: u32,
    /// Length of one measurement, in seconds.
    #[arg(long, env = "WAYLINE_RACE_SECONDS", default_value_t = 4.0)]
    pub(crate) seconds: f64,
    /// Load before each measurement, in seconds.
    #[arg(long, env = "WAYLINE_RACE_WARMUP", default_value_t = 1.0)]
    pub(crate) warmup: f64,
    /// Kept-alive connections, in scenes without HBONE.
    #[arg(long, env = "WAYLINE_RACE_CONNECTIONS", default_value_t = 16)]
    connections: usize,
    /// TLS connections, in scenes with HBONE.
    #[arg(long, env = "WAYLINE_RACE_TUNNELS", default_value_t = 4)]
    tunnels: usize,
    /// Streams on each TLS connection, each a kept-alive HTTP/1.1 connection.
    #[arg(long, env = "WAYLINE_RACE_STREAMS", default_value_t = 4)]
    streams: usize,
    /// Only these scenes; all by default.
    #[arg(long, env = "WAYLINE_RACE_SCENES", value_delimiter = ',')]
    scenes: Vec<Scene>,
    /// Only these contestants; all by default.
    #[arg(long, env = "WAYLINE_RACE_CONTESTANTS", value_delimiter = ',')]
    contestants: Vec<Contestant>,
    /// The core of the contestant.
    #[arg(long, env = "WAYLINE_RACE_CORE", default_value_t = 0)]
    pub(crate) core: usize,
    /// The core of generator and backend.
    #[arg(long, env = "WAYLINE_RACE_LOAD_CORE", default_value_t = 1)]
    pub(crate) load_core: usize,
    /// Leave benches/RESULTS.md as it is. It is written only after a race of all contestants in
    /// all scenes.
    #[arg(long)]
    no_write: bool,
    /// Set by cargo.
    #[arg(long, hide = true)]
    pub(crate) bench: bool,
}

impl Options {
    pub(crate) fn scenes(&self) -> Vec<Scene> {
        if self.scenes.is_empty() {
            return Scene::ALL.to_vec();
        }
        self.scenes.clone()
    }

    /// Those who run in this scene, in order of running.
    pub(crate) fn contestants(&self, scene: Scene) -> impl Iterator<Item = Contestant> {
        let wanted = &self.contestants;
        let all = scene.contestants().iter().copied();
        all.filter(move |c| wanted.is_empty() || wanted.contains(c))
    }

    pub(crate) fn entrance(&self, scene: Scene) -> Entrance {
        if scene.hbone_in() {
            return Entrance::Hbone {
                tunnels: self.tunnels,
                streams: self.streams,
            };
        }
        Entrance::Plain {
            connections: self.connections,
        }
    }

    /// Whether the outcome is the whole picture, to be kept.
    pub(crate) fn is_complete(&self) -> bool {
        self.scenes.is_empty() && self.contestants.is_empty() && !self.no_write
    }

    /// The load, in words.
    pub(crate) fn load(&self) -> String {
        format!(
            "{} rounds of {} s after {} s of warm-up; closed loop over {} connections, or {} tunnels \
             of {} streams",
            self.rounds, self.seconds, self.warmup, self.connections, self.tunnels, self.streams
        )
    }
}
