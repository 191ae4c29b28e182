//! The binary `edge-gateway`; see the library crate.

use std::process::ExitCode;

fn main() -> ExitCode {
    edge_gateway::cli::main(std::env::args_os())
}
