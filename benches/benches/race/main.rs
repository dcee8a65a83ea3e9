//! The race: `cargo bench -p wayline-benches --bench race`.
//!
//! Starts each contestant afresh for each measurement, pinned to one core, with generator and
//! backend pinned to another; goes through all scenes and contestants once per round, so that a
//! change of the machine's mood hits all alike; and reads what each process was booked for by the
//! kernel. It refuses to hide anything: one reply that is not the backend's, and there is no table.

mod churn;
mod contestant;
mod error;
mod options;
mod peers;
mod picture;
mod process;
mod report;
mod results;
mod scene;
mod stage;
mod wayline;

use std::process::ExitCode;

use clap::Parser as _;

use contestant::Contestant;
use error::Error;
use options::Options;
use report::Entry;
use scene::Scene;
use stage::Stage;

fn main() -> ExitCode {
    let options = Options::parse();
    if !options.bench {
        // `cargo test --all-targets` starts benches too, to see whether they build.
        println!("race: start it with `cargo bench -p wayline-benches --bench race`");
        return ExitCode::SUCCESS;
    }
    match race(&options) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("race: {error}");
            ExitCode::FAILURE
        }
    }
}

fn race(options: &Options) -> Result<(), Error> {
    let lineup: Vec<(Scene, Contestant)> = options
        .scenes()
        .into_iter()
        .flat_map(|scene| options.contestants(scene).map(move |c| (scene, c)))
        .collect();
    let versions = contestant::set_up(&lineup)?;
    let mut stage = Stage::open(options)?;
    let mut entries: Vec<Entry> = lineup.into_iter().map(Entry::new).collect();
    for round in 1..=options.rounds {
        for entry in &mut entries {
            let measurement = stage.measure(entry.scene, entry.contestant, options)?;
            eprintln!(
                "round {round}/{}  {:<14} {:<8} {:>7.1} µs/request  {:>6.0} requests/s  {:>5.0} MiB",
                options.rounds,
                entry.scene.name(),
                entry.contestant.name(),
                measurement.cpu_micros(),
                measurement.rate(),
                measurement.resident_kib as f64 / 1024.0,
            );
            entry.rounds.push(measurement);
        }
    }
    print!("\n{}", report::table(&entries));
    print!("\n{}", report::verdicts(&entries));
    println!("\n{}", report::disturbance(&entries));
    if options.is_complete() {
        let path = results::write(&entries, &versions, options)?;
        println!("\nwritten: {}", path.display());
    }
    Ok(())
}
