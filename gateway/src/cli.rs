//! The command line: arguments in, exit code out (DESIGN §5).
//!
//! What a person asked for goes to standard output, what went wrong to standard error. An error is
//! printed once, here, with the chain of its causes.

mod buffer;
mod dead_letters;
#[cfg(feature = "documents")]
mod documents;
#[cfg(feature = "registry")]
mod registry;
#[cfg(feature = "serial")]
mod sniff;

use std::error::Error;
use std::ffi::OsString;
use std::io::Write as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::config::{self, Bus, BusKind, Config, ConfigError, SourceKind};
use crate::signals::Ended;
use crate::{app, logging, probe};

/// Something failed that has no code of its own.
pub const EXIT_FAILURE: u8 = 1;
/// The command line makes no sense (`EX_USAGE` of sysexits.h).
pub const EXIT_USAGE: u8 = 64;
/// Storage failed; the log is poisoned (`EX_IOERR`).
pub const EXIT_STORAGE: u8 = 74;
/// The configuration has mistakes (`EX_CONFIG`).
pub const EXIT_CONFIG: u8 = 78;

/// The running program where another has taken its place on disk, or none has.
const OWN_PROGRAM: &str = "/proc/self/exe";

const CONFIG_DEFAULT: &str = "/etc/edge-gateway/gateway.toml";

/// Takes telemetry from serial lines and MQTT, keeps it on disk, and forwards it to Kafka.
#[derive(Debug, Parser)]
#[command(name = "edge-gateway", version, long_version = VERSION, after_help = EXIT_CODES)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

/// With the switches it was built with.
const VERSION: &str = concat!(
    env!("CARGO_PKG_VERSION"),
    "\nwith: ",
    env!("EDGE_GATEWAY_SWITCHES")
);

const EXIT_CODES: &str =
    "Exit codes: 0 done, 64 usage, 74 storage failed, 78 configuration, 1 anything else.";

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the gateway until SIGTERM or SIGINT; SIGHUP begins anew with the file as it is then
    Run {
        #[command(flatten)]
        file: File,
    },
    /// Check the configuration and report every mistake in it
    Check {
        #[command(flatten)]
        file: File,
        /// Also try to reach every source and Kafka
        #[arg(long)]
        connect: bool,
    },
    /// Look into the buffer on disk, also while a gateway runs
    #[command(subcommand)]
    Buffer(buffer::Buffer),
    /// Look at records that Kafka would not take, delete them, or send them again
    #[command(subcommand)]
    DeadLetters(dead_letters::DeadLetters),
    /// Show what comes over a serial line, frame by frame
    #[cfg(feature = "serial")]
    Sniff(sniff::Sniff),
    /// Print what a shell needs to complete this command line
    #[cfg(feature = "documents")]
    Completions(documents::Completions),
    /// Write the man pages
    #[cfg(feature = "documents")]
    #[command(hide = true)]
    Man(documents::Man),
    /// What a running gateway starts to read or write its device registry
    #[cfg(feature = "registry")]
    #[command(hide = true, name = crate::registry::process::COMMAND)]
    RegistryStore(registry::RegistryStore),
}

#[derive(Debug, clap::Args)]
struct File {
    /// Configuration file
    #[arg(long, value_name = "FILE", default_value = CONFIG_DEFAULT)]
    config: PathBuf,
}

/// Does what the arguments (the program's name first) say.
pub fn main(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let code = match Arguments::try_parse_from(arguments) {
        Ok(arguments) => perform(arguments.command),
        Err(error) => usage(&error),
    };
    ExitCode::from(code)
}

/// Help and version are answers; anything else is a mistake.
fn usage(error: &clap::Error) -> u8 {
    // Where standard output or error is closed there is nobody to tell.
    let _ = error.print();
    if error.use_stderr() { EXIT_USAGE } else { 0 }
}

fn perform(command: Command) -> u8 {
    match command {
        Command::Run { file } => with_config(&file.config, |config| run(config, &file.config)),
        Command::Check { file, connect } => {
            with_config(&file.config, |config| check(&config, &file.config, connect))
        }
        Command::Buffer(command) => buffer::perform(&command),
        Command::DeadLetters(command) => dead_letters::perform(&command),
        #[cfg(feature = "serial")]
        Command::Sniff(arguments) => sniff::perform(&arguments),
        #[cfg(feature = "documents")]
        Command::Completions(arguments) => documents::complete(&arguments),
        #[cfg(feature = "documents")]
        Command::Man(arguments) => documents::man(&arguments),
        #[cfg(feature = "registry")]
        Command::RegistryStore(arguments) => registry::serve(&arguments),
    }
}

fn with_config(path: &Path, perform: impl FnOnce(Config) -> u8) -> u8 {
    match config::load(path) {
        Ok(config) => perform(config),
        Err(error) => refuse(&error),
    }
}

fn refuse(error: &ConfigError) -> u8 {
    complain(&chain(error));
    EXIT_CONFIG
}

fn run(config: Config, path: &Path) -> u8 {
    if let Err(error) = logging::start(&config.log) {
        complain(&chain(&error));
        return EXIT_FAILURE;
    }
    match app::run(config, path) {
        Ok(Ended::Stopped) => 0,
        Ok(Ended::Reload) => begin_anew(),
        Err(error) => {
            tracing::error!("{}", chain(&error));
            error.exit_code()
        }
    }
}

/// Becomes a new gateway: the same process, program and arguments. Comes back only if that fails.
fn begin_anew() -> u8 {
    let mut arguments = std::env::args_os();
    // By its path, since that is the name which the process then has.
    let program = std::env::current_exe().ok().filter(|path| path.is_file());
    let program = program.unwrap_or_else(|| OWN_PROGRAM.into());
    let mut command = std::process::Command::new(program);
    if let Some(name) = arguments.next() {
        command.arg0(name);
    }
    let error = command.args(arguments).exec();
    tracing::error!(%error, "cannot begin anew");
    EXIT_FAILURE
}

fn check(config: &Config, path: &Path, connect: bool) -> u8 {
    say(&format!("{}: configuration is valid\n", path.display()));
    say(&summary(config));
    if !connect {
        return 0;
    }
    let mut code = 0;
    for (endpoint, outcome) in probe::all(config) {
        match outcome {
            Ok(answer) => say(&format!("ok      {endpoint}: {answer}\n")),
            Err(error) => {
                complain(&format!("failed  {endpoint}: {}", chain(&error)));
                code = EXIT_FAILURE;
            }
        }
    }
    code
}

/// Writes to standard output. Where that is closed there is nobody to tell, and the exit code
/// still says how it went.
fn say(text: &str) {
    let _ = std::io::stdout().write_all(text.as_bytes());
}

/// Writes a line to standard error, likewise.
fn complain(text: &str) {
    let _ = writeln!(std::io::stderr(), "{text}");
}

fn summary(config: &Config) -> String {
    use std::fmt::Write as _;
    let mut text = String::new();
    // Writing to a string does not fail.
    let _ = writeln!(text, "  gateway  {}", config.gateway.id);
    for source in &config.sources {
        let what = match &source.kind {
            SourceKind::Serial(serial) => format!("serial {}", serial.device),
            SourceKind::Mqtt(mqtt) => format!("MQTT {}:{}", mqtt.host, mqtt.port),
            SourceKind::Modbus(modbus) => {
                format!(
                    "Modbus on bus {}, units: {}",
                    modbus.bus,
                    modbus.units.len()
                )
            }
        };
        let _ = writeln!(text, "  source   {}: {what}", source.name);
    }
    for Bus { name, kind } in &config.buses {
        let what = match kind {
            BusKind::Rtu(line) => format!("RTU {}", line.device),
            BusKind::Tcp(address) => format!("TCP {}:{}", address.host, address.port),
        };
        let _ = writeln!(text, "  bus      {name}: {what}");
    }
    let buffer = &config.buffer;
    let _ = writeln!(
        text,
        "  buffer   {} MiB in {}",
        buffer.bytes_max >> 20,
        config.gateway.data_dir.display()
    );
    let brokers = config.kafka.brokers.join(", ");
    let routes = config.routes.len();
    let _ = writeln!(text, "  kafka    {brokers}; routes: {routes}");
    text
}

/// An error and its causes, each once.
#[must_use]
pub fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}
