//! From the text of a file to a [`Config`], or to all of its mistakes.
//!
//! Each section is read on its own; what holds between sections is checked by the one that is read
//! later. After a mistake its reader goes on with a stand-in, so that the rest is checked as well.

use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::time::Duration;

use toml::de::DeTable;
use tracing_subscriber::filter::Targets;

use super::nearest::nearest;
use super::report::{ConfigError, Mistake, Mistakes, Place};
use super::tree::{Section, Value};
use super::{
    Buffer, Config, Gateway, Http, Log, LogFormat, Serial, WhenFull, dead_letters, kafka, routes,
    serial, sources,
};
use crate::commit_log::Compression;

const MIB: u64 = 1 << 20;

/// A log needs room for the segment being written, the one being read, the one kept as the newest,
/// and one to recycle.
const SEGMENTS_MIN: u64 = 4;

/// From what is no longer a buffer to what no board will see.
const AGE_MAX_RANGE: RangeInclusive<Duration> =
    Duration::from_secs(60)..=Duration::from_secs(3650 * 24 * 3600);

/// Longest name of a gateway, in bytes.
const ID_BYTES_MAX: usize = 64;

/// Reads and checks a configuration file.
///
/// # Errors
/// [`ConfigError`], with all mistakes of the file.
pub fn load(path: &Path) -> Result<Config, ConfigError> {
    let text = std::fs::read_to_string(path).map_err(|source| ConfigError::Unreadable {
        path: path.to_owned(),
        source,
    })?;
    parse(&text, path)
}

/// Checks the text of a configuration; `path` is the name that mistakes are reported under.
///
/// # Errors
/// [`ConfigError::Invalid`], with all mistakes of the text.
pub fn parse(text: &str, path: &Path) -> Result<Config, ConfigError> {
    read(text, path, config)
}

/// Checks the keys of one serial source, where there is no configuration around it.
///
/// # Errors
/// [`ConfigError::Invalid`], with all mistakes of the text.
pub fn parse_serial(text: &str, path: &Path) -> Result<Serial, ConfigError> {
    read(text, path, |section| serial::read(section, &mut |_| None))
}

fn read<T>(
    text: &str,
    path: &Path,
    content: impl FnOnce(Section<'_>) -> T,
) -> Result<T, ConfigError> {
    let mistakes = Mistakes::default();
    let (document, errors) = DeTable::parse_recoverable(text);
    for error in &errors {
        add_syntax_error(text, error, &mistakes);
    }
    let content = content(Section::root(document.get_ref(), &mistakes));
    let mistakes: Vec<Mistake> = mistakes.into_report(path, text);
    if mistakes.is_empty() {
        Ok(content)
    } else {
        Err(ConfigError::Invalid { mistakes })
    }
}

fn add_syntax_error(text: &str, error: &toml::de::Error, mistakes: &Mistakes) {
    let span = error.span().unwrap_or(0..0);
    let place = Place::At(span.start);
    if error.message() == "duplicate key" {
        let name = text.get(span).unwrap_or_default();
        let hint = "remove one of the two, or rename it: sources need names of their own";
        mistakes.add(place, name, "is there twice", hint);
    } else {
        let what = format!("is not TOML: {}", error.message());
        let hint = "check the quotes, brackets and \"=\" in and above this line";
        mistakes.add(place, "", what, hint);
    }
}

fn config(mut root: Section<'_>) -> Config {
    let gateway = gateway(root.section("gateway"));
    let buffer = buffer(root.section("buffer"));
    let declared = root.get("sources").and_then(|value| value.section());
    if let Some(none) = &declared
        && none.entries().is_empty()
    {
        none.wrong("names no source", SOURCE_HINT);
    }
    if declared.is_none() {
        root.missing("sources", SOURCE_HINT);
    }
    let buses = root.get("buses").and_then(|value| value.section());
    let sections = sources::Declared {
        sources: declared.as_ref(),
        buses: buses.as_ref(),
    };
    let (sources, buses) = sources::read(&sections, &gateway, &buffer);
    let kafka = kafka::read(root.section("kafka"));
    let routes = root
        .get("routes")
        .map(|value| routes::read(&value, declared.as_ref(), &sources))
        .unwrap_or_default();
    let dead_letters = dead_letters::read(root.section("dead_letters"), &kafka);
    let http = http(root.section("http"));
    let log = log(root.section("log"));
    root.finish();
    Config {
        gateway,
        sources,
        buses,
        buffer,
        kafka,
        routes,
        dead_letters,
        http,
        log,
    }
}

const SOURCE_HINT: &str = "add a source, for example [sources.city] with type = \"mqtt\"";

fn gateway(mut section: Section<'_>) -> Gateway {
    let id = section
        .required("id", "id = \"plant-7-gw-1\"")
        .and_then(|value| gateway_id(&value))
        .unwrap_or_default();
    let data_dir = section
        .get("data_dir")
        .map_or_else(
            || Some(PathBuf::from("/var/lib/edge-gateway")),
            |value| reachable_dir(&value),
        )
        .unwrap_or_default();
    let grace = section
        .get("shutdown_grace")
        .and_then(|value| value.duration(Duration::ZERO..=Duration::from_secs(600)));
    section.finish();
    Gateway {
        id,
        data_dir,
        shutdown_grace: grace.unwrap_or(Duration::from_secs(10)),
    }
}

fn gateway_id(value: &Value<'_>) -> Option<String> {
    let id = value.text("plant-7-gw-1")?;
    let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
    if (1..=ID_BYTES_MAX).contains(&id.len()) && id.bytes().all(allowed) {
        return Some(id.to_owned());
    }
    let hint = "write 1 to 64 letters, digits, \".\", \"_\" and \"-\"";
    value.wrong(format!("{id:?} is not a name for a gateway"), hint);
    None
}

/// A directory that exists, or can be made in one that exists: a longer path that isn't there is
/// more likely a disk that isn't mounted than a wish to fill the disk that holds `/`.
fn reachable_dir(value: &Value<'_>) -> Option<PathBuf> {
    let dir = value.path("/var/lib/edge-gateway")?;
    let parent = dir.parent().unwrap_or(&dir);
    let reached = match std::fs::metadata(&dir) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            std::fs::metadata(parent).map_err(|error| (parent, error))
        }
        other => other.map_err(|error| (dir.as_path(), error)),
    };
    match reached {
        Ok(metadata) if metadata.is_dir() => Some(dir),
        Ok(_) => {
            value.wrong(
                format!("{} is not a directory", dir.display()),
                "name a directory",
            );
            None
        }
        Err((path, error)) => {
            let what = format!("cannot reach {}: {error}", path.display());
            value.wrong(what, "create it, or mount the disk that holds it");
            None
        }
    }
}

fn buffer(mut section: Section<'_>) -> Buffer {
    let bytes_max = section
        .get("bytes_max")
        .and_then(|value| value.size(16 * MIB..=1 << 40))
        .unwrap_or(1024 * MIB);
    let largest = bytes_max / SEGMENTS_MIN;
    let segment_bytes = section
        .get("segment_bytes")
        .and_then(|value| value.size(64 << 10..=largest.min(1 << 30)))
        .unwrap_or(largest.min(8 * MIB));
    let commit_interval = section
        .get("commit_interval")
        .and_then(|value| value.duration(Duration::ZERO..=Duration::from_secs(10)))
        .unwrap_or(Duration::from_millis(10));
    let when_full = section
        .get("when_full")
        .and_then(|value| {
            value.choice(&[
                ("block", WhenFull::Block),
                ("drop_oldest", WhenFull::DropOldest),
            ])
        })
        .unwrap_or(WhenFull::Block);
    let age_max = section
        .get("age_max")
        .and_then(|value| value.duration(AGE_MAX_RANGE));
    let compression = section
        .get("compression")
        .and_then(|value| {
            value.choice(&[
                ("none", Compression::None),
                ("lz4", Compression::Lz4),
                ("zstd", Compression::Zstd),
            ])
        })
        .unwrap_or_default();
    let parking_bytes_max = section
        .get("parking_bytes_max")
        .and_then(|value| value.size(4 * MIB..=1 << 40))
        .unwrap_or(bytes_max.min(64 * MIB));
    section.finish();
    Buffer {
        bytes_max,
        segment_bytes,
        commit_interval,
        when_full,
        age_max,
        compression,
        parking_bytes_max,
    }
}

fn http(mut section: Section<'_>) -> Http {
    let default = std::net::SocketAddr::from(([127, 0, 0, 1], 9464));
    let listen = section.get("listen").and_then(|value| {
        let text = value.text("127.0.0.1:9464")?;
        let address = text.parse().ok();
        if address.is_none() {
            let hint = "write an address and a port, for example \"127.0.0.1:9464\"";
            value.wrong(format!("{text:?} is not an address to listen on"), hint);
        }
        address
    });
    section.finish();
    Http {
        listen: listen.unwrap_or(default),
    }
}

fn log(mut section: Section<'_>) -> Log {
    let level = section.get("level").and_then(|value| log_filter(&value));
    let format = section
        .get("format")
        .and_then(|value| value.choice(&[("text", LogFormat::Text), ("json", LogFormat::Json)]));
    section.finish();
    Log {
        level: level.unwrap_or_else(|| "info".to_owned()),
        format: format.unwrap_or(LogFormat::Text),
    }
}

/// A filter of `tracing`. A word alone would be taken for the name of a module there, so that a
/// misspelt level would silence the log; here it must be a level.
fn log_filter(value: &Value<'_>) -> Option<String> {
    const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];
    let text = value.text("info")?;
    let hint = "write error, warn, info, debug or trace, or directives such as \
                \"info,edge_gateway::kafka=debug\"";
    for directive in text.split(',').map(str::trim) {
        if directive.contains('=') || LEVELS.contains(&directive.to_ascii_lowercase().as_str()) {
            continue;
        }
        let hint = match nearest(directive, LEVELS) {
            Some(near) => format!("did you mean {near:?}? {hint}"),
            None => hint.to_owned(),
        };
        value.wrong(format!("{directive:?} is not a log level"), hint);
        return None;
    }
    match text.parse::<Targets>() {
        Ok(_) => Some(text.to_owned()),
        Err(error) => {
            value.wrong(format!("{text:?} is not a log filter: {error}"), hint);
            None
        }
    }
}
