//! What describes the command line to shells and to `man`, made from the command line itself.

use std::path::PathBuf;

use clap::{CommandFactory as _, ValueEnum};
use clap_complete::Shell;

use super::{Arguments, EXIT_FAILURE, chain, complain, say};

/// `completions`
#[derive(Debug, clap::Args)]
pub(super) struct Completions {
    /// For which shell
    shell: ShellName,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum ShellName {
    Bash,
    Zsh,
    Fish,
}

/// `man`
#[derive(Debug, clap::Args)]
pub(super) struct Man {
    /// Directory that the pages are written to, one for each command
    dir: PathBuf,
}

/// Prints what a shell has to know.
pub(super) fn complete(arguments: &Completions) -> u8 {
    let shell = match arguments.shell {
        ShellName::Bash => Shell::Bash,
        ShellName::Zsh => Shell::Zsh,
        ShellName::Fish => Shell::Fish,
    };
    let mut command = Arguments::command();
    let name = command.get_name().to_owned();
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut command, name, &mut script);
    say(&String::from_utf8_lossy(&script));
    0
}

/// Writes the pages.
pub(super) fn man(arguments: &Man) -> u8 {
    match clap_mangen::generate_to(Arguments::command(), &arguments.dir) {
        Ok(()) => 0,
        Err(error) => {
            let dir = arguments.dir.display();
            complain(&format!("cannot write to {dir}: {}", chain(&error)));
            EXIT_FAILURE
        }
    }
}
