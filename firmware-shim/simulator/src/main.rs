//! `sensor-sim`: arguments and exit codes; the work is in the library.

use std::error::Error;
use std::process::ExitCode;

use clap::Parser as _;
use sensor_sim::SimError;
use sensor_sim::cli::Cli;

/// Exit code of a mistake in the arguments.
const USAGE: u8 = 64;

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            let asked_for = !error.use_stderr();
            // Nobody is left to tell if even this cannot be written.
            error.print().unwrap_or_default();
            return if asked_for {
                ExitCode::SUCCESS
            } else {
                ExitCode::from(USAGE)
            };
        }
    };
    match sensor_sim::simulate(&cli.command) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => {
            eprintln!("sensor-sim: not all that was sent has been acknowledged, or read");
            ExitCode::FAILURE
        }
        Err(error) => {
            eprintln!("sensor-sim: {}", chain(&error));
            if matches!(error, SimError::Usage { .. }) {
                return ExitCode::from(USAGE);
            }
            ExitCode::FAILURE
        }
    }
}

/// An error and its causes on one line.
fn chain(error: &(dyn Error + 'static)) -> String {
    let causes = std::iter::successors(Some(error), |error| (*error).source());
    causes
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join(": ")
}
