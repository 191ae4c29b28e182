//! `registry-store`: the device registry's process, for a gateway at the other end of its pipes.

use std::path::PathBuf;

use super::EXIT_FAILURE;
use crate::registry::process;

/// `registry-store`
#[derive(Debug, clap::Args)]
pub(super) struct RegistryStore {
    /// The registry's directory
    dir: PathBuf,
}

/// Serves until the gateway has enough. An error is for nobody: the gateway is gone, or sees that its
/// pipe was closed.
pub(super) fn serve(arguments: &RegistryStore) -> u8 {
    let (requests, answers) = (std::io::stdin().lock(), std::io::stdout().lock());
    match process::serve(&arguments.dir, requests, answers) {
        Ok(()) => 0,
        Err(_) => EXIT_FAILURE,
    }
}
