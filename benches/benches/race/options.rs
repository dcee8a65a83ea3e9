//! The command line; each option is also an environment variable.

use clap::Parser;

use crate::contestant::Contestant;
use crate::scene::{Scene, USUAL_RATE};

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
    /// Requests per second at which latencies are taken; a fiftieth of it where bodies are large.
    #[arg(long, env = "WAYLINE_RACE_RATE", default_value_t = USUAL_RATE)]
    rate: f64,
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

    /// The rate of the open loop, where there is one.
    pub(crate) fn rate(&self, scene: Scene) -> Option<f64> {
        scene.pace().map(|share| share * self.rate)
    }

    /// Whether the outcome is the whole picture, to be kept.
    pub(crate) fn is_complete(&self) -> bool {
        self.scenes.is_empty() && self.contestants.is_empty() && !self.no_write
    }

    /// The load, in words.
    pub(crate) fn load(&self) -> String {
        format!(
            "{} rounds; in each {} s of warm-up, {} s of a closed loop over 16 connections or streams \
             (64 in `hbone-64`), and {} s of an open loop at {} requests/s (a fiftieth with large bodies)",
            self.rounds, self.warmup, self.seconds, self.seconds, self.rate
        )
    }
}
