//! `sniff`: arguments to the settings of a line, named and checked as in a configuration.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use super::{EXIT_FAILURE, EXIT_USAGE, chain, complain};
use crate::config::{self, ConfigError, Serial};
use crate::sniff::{self, Request};

/// Show what comes over a serial line, frame by frame.
#[derive(Debug, clap::Args)]
pub(super) struct Sniff {
    /// The port, which no gateway may have open
    device: PathBuf,
    /// As in a configuration: shim, lines, cobs, slip, length-u8, length-u16-be,
    /// '{ start = "/", end = "!" }', '{ end = "\r" }' or '{ idle = "20 ms" }'
    #[arg(long, default_value = "shim", conflicts_with = "guess")]
    framing: String,
    /// nmea, csv-xor, csv-crc16, dsmr or modbus
    #[arg(long, conflicts_with = "guess")]
    checksum: Option<String>,
    /// Listen first and say which framing it is
    #[arg(long)]
    guess: bool,
    /// End after so many frames
    #[arg(long, value_name = "N")]
    count: Option<u64>,
    /// Bits a second
    #[arg(long, default_value_t = 115_200)]
    baud_rate: u32,
    /// 5 to 8
    #[arg(long, default_value_t = 8)]
    data_bits: u8,
    /// none, odd, even, mark or space
    #[arg(long, default_value = "none")]
    parity: String,
    /// 1 or 2
    #[arg(long, default_value_t = 1)]
    stop_bits: u8,
    /// none, software or hardware
    #[arg(long, default_value = "none")]
    flow_control: String,
    /// Largest payload of a frame in bytes
    #[arg(long, default_value_t = 1024)]
    frame_bytes_max: usize,
}

pub(super) fn perform(arguments: &Sniff) -> u8 {
    let serial = match arguments.serial() {
        Ok(serial) => serial,
        Err(error) => {
            complain(&chain(&error));
            return EXIT_USAGE;
        }
    };
    let request = Request {
        serial,
        guess: arguments.guess,
        count: arguments.count,
    };
    match sniff::run(&request, &mut std::io::stdout()) {
        Ok(()) => 0,
        Err(error) => {
            complain(&chain(&error));
            EXIT_FAILURE
        }
    }
}

impl Sniff {
    fn serial(&self) -> Result<Serial, ConfigError> {
        let device = std::path::absolute(&self.device).unwrap_or_else(|_| self.device.clone());
        let mut text = String::new();
        let mut say = |key: &str, value: &str| {
            // Writing to a string does not fail.
            let _ = writeln!(text, "{key} = {value}");
        };
        say("device", &quoted(&device.to_string_lossy()));
        if self.framing.starts_with('{') {
            say("framing", &self.framing);
        } else {
            say("framing", &quoted(&self.framing));
        }
        if let Some(checksum) = &self.checksum {
            say("checksum", &quoted(checksum));
        }
        say("baud_rate", &self.baud_rate.to_string());
        say("data_bits", &self.data_bits.to_string());
        say("parity", &quoted(&self.parity));
        say("stop_bits", &self.stop_bits.to_string());
        say("flow_control", &quoted(&self.flow_control));
        say("frame_bytes_max", &self.frame_bytes_max.to_string());
        config::parse_serial(&text, Path::new("sniff"))
    }
}

fn quoted(text: &str) -> String {
    toml::Value::String(text.to_owned()).to_string()
}
