//! Which log is meant.

use std::io;
use std::path::{Path, PathBuf};

use super::CommandError;
use crate::cli::CONFIG_DEFAULT;
use crate::config::ConfigError;
use crate::dead_letters;

const DATA_DIR_DEFAULT: &str = "/var/lib/edge-gateway";

/// Arguments that say where a gateway keeps its data.
#[derive(Debug, clap::Args)]
pub(in crate::cli) struct DataDir {
    /// Data directory of the gateway; without it, the one of the configuration
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// Configuration file that names the data directory [default: /etc/edge-gateway/gateway.toml]
    #[arg(long, value_name = "FILE", conflicts_with = "data_dir")]
    config: Option<PathBuf>,
}

/// Arguments that say which log.
#[derive(Debug, clap::Args)]
pub(super) struct Place {
    #[command(flatten)]
    data: DataDir,
    /// Which of the two logs in it
    #[arg(long, value_enum, default_value = "log")]
    log: Which,
}

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum Which {
    /// The buffer
    Log,
    /// Records that could not be delivered
    DeadLetters,
}

impl DataDir {
    /// The data directory.
    pub(in crate::cli) fn path(&self) -> Result<PathBuf, CommandError> {
        Ok(match (&self.data_dir, &self.config) {
            (Some(dir), _) => dir.clone(),
            (None, Some(file)) => configured(file)?,
            (None, None) => match configured(Path::new(CONFIG_DEFAULT)) {
                Err(CommandError::Config(ConfigError::Unreadable { source, .. }))
                    if source.kind() == io::ErrorKind::NotFound =>
                {
                    PathBuf::from(DATA_DIR_DEFAULT)
                }
                other => other?,
            },
        })
    }
}

impl Place {
    /// The log's directory.
    pub(super) fn dir(&self) -> Result<PathBuf, CommandError> {
        Ok(self.data.path()?.join(match self.log {
            Which::Log => "log",
            Which::DeadLetters => dead_letters::DIR_NAME,
        }))
    }
}

/// The data directory of a configuration, which may have mistakes elsewhere: that is no reason not
/// to look at the data.
fn configured(path: &Path) -> Result<PathBuf, CommandError> {
    let text = std::fs::read_to_string(path).map_err(|source| ConfigError::Unreadable {
        path: path.to_owned(),
        source,
    })?;
    let unclear = |what: String| CommandError::NoDataDir {
        path: path.to_owned(),
        what,
    };
    let table: toml::Table = text
        .parse()
        .map_err(|error: toml::de::Error| unclear(error.message().to_owned()))?;
    let data_dir = table
        .get("gateway")
        .and_then(|gateway| gateway.get("data_dir"));
    match data_dir {
        None => Ok(PathBuf::from(DATA_DIR_DEFAULT)),
        Some(toml::Value::String(dir)) => Ok(PathBuf::from(dir)),
        Some(other) => Err(unclear(format!("gateway.data_dir is {}", other.type_str()))),
    }
}
