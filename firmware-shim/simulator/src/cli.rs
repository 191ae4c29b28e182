//! The command line.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};

use crate::SimError;
use crate::fleet::{Fleet, TopicTemplate};
use crate::mqtt::MqttOptions;
use crate::mqtt::connection::TlsFiles;
use crate::mqtt::wire::{Protocol, Qos};
use crate::profile::Profile;
use crate::schedule::Schedule;
use crate::serial::shim::{DEVICES_MAX, RING_SLOTS};
use crate::serial::{Framing, SerialOptions};

/// Feeds deterministic sensor telemetry over serial lines (PTYs) and MQTT.
///
/// Every payload says source, device, sequence (from 0, per device) and send time. Exit code 0:
/// all that was sent was acknowledged, where the protocol has acknowledgements.
#[derive(Debug, Parser)]
#[command(version)]
pub struct Cli {
    /// Where the devices are attached.
    #[command(subcommand)]
    pub command: Command,
}

/// Where the devices are attached.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Devices on a serial line, a pseudo-terminal.
    Serial(SerialArgs),
    /// Devices that publish to an MQTT broker.
    Mqtt(MqttArgs),
}

/// What all kinds of device have in common.
#[derive(Debug, Args)]
pub struct CommonArgs {
    /// Messages a second, all devices together; 0 for as fast as they are taken.
    #[arg(long, default_value_t = 10.0, value_parser = rate)]
    pub rate: f64,
    /// Messages in all, dealt to one device after the other; without it until stopped.
    #[arg(long)]
    pub count: Option<u64>,
    /// Make new messages for this long ("30 s", "5 min").
    #[arg(long, value_parser = duration)]
    pub duration: Option<Duration>,
    /// How many devices.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub devices: u32,
    /// Index of the first device, so that several runs have different ones.
    #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(u32).range(..=1_000_000_000))]
    pub first_device: u32,
    /// Seed of all values: the same seed, device and sequence give the same content.
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Pad payloads to this many bytes.
    #[arg(long, default_value_t = 0, value_name = "N")]
    pub payload_bytes: usize,
    /// How long to wait after the last message or acknowledgement for the missing ones.
    #[arg(long, default_value = "60 s", value_parser = duration)]
    pub ack_timeout: Duration,
    /// Print the report as one line of JSON on stdout.
    #[arg(long)]
    pub json: bool,
    /// Write the report, as JSON, to a file too.
    #[arg(long, value_name = "FILE")]
    pub report: Option<PathBuf>,
}

impl CommonArgs {
    /// When which message is due.
    #[must_use]
    pub const fn schedule(&self) -> Schedule {
        Schedule {
            rate: self.rate,
            count: self.count,
            duration: self.duration,
        }
    }

    /// The devices, of the kind asked for.
    #[must_use]
    pub const fn fleet(&self, profile: Profile) -> Fleet {
        Fleet {
            profile,
            seed: self.seed,
            first: self.first_device,
            devices: self.devices,
        }
    }
}

/// Arguments of `sensor-sim serial`.
#[derive(Debug, Args)]
pub struct SerialArgs {
    /// Common arguments.
    #[command(flatten)]
    pub common: CommonArgs,
    /// What the devices measure.
    #[arg(long, value_enum, default_value = "press")]
    pub profile: Profile,
    /// Where the line is to appear: a link to a pseudo-terminal, in place of an older link.
    #[arg(long, value_name = "LINK")]
    pub pty: PathBuf,
    /// How messages are set apart. With shim framing one device has address 0, more have 1, 2, …
    #[arg(long, value_enum, default_value = "shim")]
    pub framing: Framing,
    /// Probability that a frame is damaged: a bit flipped, a byte dropped or inserted, or its
    /// end lost, which merges it with the next.
    #[arg(long, default_value_t = 0.0, value_parser = probability, value_name = "P")]
    pub noise: f64,
    /// Devices neither wait for acknowledgements nor send again.
    #[arg(long)]
    pub no_ack: bool,
    /// A device whose ring is full gives up its oldest message instead of waiting.
    #[arg(long, conflicts_with = "no_ack")]
    pub overwrite: bool,
    /// Most frames of a device in flight.
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u8).range(1..=RING_SLOTS as i64))]
    pub window: u8,
    /// Speed of the line in bits per second; 0 for as fast as it goes.
    #[arg(long, default_value_t = 0)]
    pub baud: u32,
}

impl SerialArgs {
    /// The options that these arguments mean.
    ///
    /// # Errors
    /// [`SimError::Usage`] if the framing allows not so many devices, or no such payloads.
    pub fn options(&self) -> Result<SerialOptions, SimError> {
        let shim = self.framing == Framing::Shim;
        if shim && self.common.devices > DEVICES_MAX {
            let reason = format!("a line has addresses for {DEVICES_MAX} devices at most");
            return Err(SimError::Usage {
                argument: "--devices",
                reason,
            });
        }
        let payload_bytes_max = self.framing.payload_bytes_max();
        if self.common.payload_bytes > payload_bytes_max {
            let reason = format!("a frame holds {payload_bytes_max} bytes at most");
            return Err(SimError::Usage {
                argument: "--payload-bytes",
                reason,
            });
        }
        Ok(SerialOptions {
            link: self.pty.clone(),
            framing: self.framing,
            acknowledged: self.is_acknowledged(),
            overwrite: self.overwrite,
            window: self.window,
            baud: self.baud,
            noise: self.noise,
            payload_bytes_min: self.common.payload_bytes,
        })
    }

    /// Whether the gateway acknowledges what is sent.
    #[must_use]
    pub fn is_acknowledged(&self) -> bool {
        self.framing == Framing::Shim && !self.no_ack
    }
}

/// Arguments of `sensor-sim mqtt`.
#[derive(Debug, Args)]
pub struct MqttArgs {
    /// Common arguments.
    #[command(flatten)]
    pub common: CommonArgs,
    /// What the devices measure.
    #[arg(long, value_enum, default_value = "air")]
    pub profile: Profile,
    /// The broker: mqtt://host:port, or mqtts:// for TLS.
    #[arg(long)]
    pub url: String,
    /// Topic of a device; {device}, {district}, {profile} and {index} are filled in.
    #[arg(long, default_value = "city/{district}/{profile}/{device}")]
    pub topic: TopicTemplate,
    /// Quality of service.
    #[arg(long, value_enum, default_value = "1")]
    pub qos: Qos,
    /// Version of MQTT.
    #[arg(long, value_enum, default_value = "5")]
    pub protocol: Protocol,
    /// Connections to share the devices; at most one a device.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub connections: u32,
    /// Most messages in flight on a connection: 1000 by default, and what the broker allows of it.
    /// With MQTT 3.1.1 it cannot say, and may close the connection on more than it takes at QoS 2;
    /// the default there is 20, as Mosquitto's.
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..=32_767))]
    pub inflight: Option<u16>,
    /// What client ids begin with.
    #[arg(long, default_value = "sensor-sim")]
    pub client_id: String,
    /// User name.
    #[arg(long)]
    pub username: Option<String>,
    /// File with the password.
    #[arg(long, requires = "username", value_name = "FILE")]
    pub password_file: Option<PathBuf>,
    /// Certificates to trust, PEM.
    #[arg(long, value_name = "FILE")]
    pub ca_file: Option<PathBuf>,
    /// The client's certificate chain, PEM.
    #[arg(long, requires = "key_file", value_name = "FILE")]
    pub cert_file: Option<PathBuf>,
    /// The client's private key, PKCS#8 PEM.
    #[arg(long, requires = "cert_file", value_name = "FILE")]
    pub key_file: Option<PathBuf>,
    /// How long to try for the first connection.
    #[arg(long, default_value = "30 s", value_parser = duration)]
    pub connect_timeout: Duration,
}

impl MqttArgs {
    /// The options that these arguments mean.
    ///
    /// # Errors
    /// [`SimError::ReadFile`] if the password cannot be read.
    pub fn options(&self) -> Result<MqttOptions, SimError> {
        Ok(MqttOptions {
            url: self.url.clone(),
            tls: TlsFiles {
                ca: self.ca_file.clone(),
                cert: self.cert_file.clone(),
                key: self.key_file.clone(),
            },
            protocol: self.protocol,
            qos: self.qos,
            topic: self.topic.clone(),
            connections: self.connections,
            in_flight_max: self.in_flight_max(),
            client_id: self.client_id.clone(),
            login: self.login()?,
            connect_timeout: self.connect_timeout,
            payload_bytes_min: self.common.payload_bytes,
        })
    }

    fn in_flight_max(&self) -> u16 {
        let usual = match (self.protocol, self.qos) {
            (Protocol::V311, Qos::ExactlyOnce) => 20,
            (Protocol::V311 | Protocol::V5, _) => 1_000,
        };
        self.inflight.unwrap_or(usual)
    }

    fn login(&self) -> Result<Option<(String, String)>, SimError> {
        let Some(username) = &self.username else {
            return Ok(None);
        };
        let password = match &self.password_file {
            None => String::new(),
            Some(path) => std::fs::read_to_string(path).map_err(|source| SimError::ReadFile {
                path: path.clone(),
                source,
            })?,
        };
        Ok(Some((
            username.clone(),
            password.trim_end_matches(['\r', '\n']).to_owned(),
        )))
    }
}

fn rate(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(rate) if (0.0..=1e9).contains(&rate) => Ok(rate),
        Ok(_) => Err("a rate lies between 0 and 1000000000".to_owned()),
        Err(error) => Err(format!("{error}")),
    }
}

fn probability(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(probability) if (0.0..=1.0).contains(&probability) => Ok(probability),
        Ok(_) => Err("a probability lies between 0 and 1".to_owned()),
        Err(error) => Err(format!("{error}")),
    }
}

/// Reads "250 ms", "30 s", "5 min"; a number alone is seconds.
fn duration(text: &str) -> Result<Duration, String> {
    let text = text.trim();
    let digits = text
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let number: f64 = number
        .parse()
        .map_err(|_| format!("{text:?} has no number"))?;
    let seconds = match unit.trim() {
        "ms" => number / 1_000.0,
        "" | "s" => number,
        "min" => number * 60.0,
        "h" => number * 3_600.0,
        other => return Err(format!("{other:?} is not one of ms, s, min, h")),
    };
    Duration::try_from_secs_f64(seconds).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;

    fn parse(line: &str) -> Result<Cli, clap::Error> {
        Cli::try_parse_from(line.split(' '))
    }

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn the_contracts_mqtt_command_is_understood() {
        let line = "sensor-sim mqtt --url mqtt://h --topic a/{device} --rate 50.5 --count 9 \
                    --devices 3 --seed 7 --qos 2 --protocol 3.1.1";
        let Command::Mqtt(args) = parse(line).unwrap().command else {
            panic!("not mqtt");
        };
        assert_eq!(args.qos, Qos::ExactlyOnce);
        assert_eq!(args.protocol, Protocol::V311);
        assert_eq!(args.common.schedule().count, Some(9));
        assert_eq!(args.common.fleet(args.profile).seed, 7);
    }

    #[test]
    fn the_contracts_serial_command_is_understood() {
        let line = "sensor-sim serial --pty /tmp/tty --rate 5 --count 9 --devices 3 --seed 7 \
                    --framing lines --noise 0.01 --no-ack";
        let Command::Serial(args) = parse(line).unwrap().command else {
            panic!("not serial");
        };
        let options = args.options().unwrap();
        assert_eq!(options.framing, Framing::Lines);
        assert!(!options.acknowledged);
    }

    #[test]
    fn what_the_shim_link_cannot_carry_is_refused() {
        for rest in ["--devices 255", "--payload-bytes 1025"] {
            let line = format!("sensor-sim serial --pty /tmp/tty {rest}");
            let Command::Serial(args) = parse(&line).unwrap().command else {
                panic!("not serial");
            };
            assert!(
                matches!(args.options(), Err(SimError::Usage { .. })),
                "{rest}"
            );
        }
    }

    #[test]
    fn mistakes_are_usage_errors() {
        for rest in [
            "--qos 3",
            "--rate -1",
            "--rate x",
            "--topic a/#",
            "--devices 0",
        ] {
            assert!(
                parse(&format!("sensor-sim mqtt --url mqtt://h {rest}")).is_err(),
                "{rest}"
            );
        }
    }

    #[test]
    fn durations_have_units() {
        assert_eq!(duration("250 ms"), Ok(Duration::from_millis(250)));
        assert_eq!(duration("1.5s"), Ok(Duration::from_millis(1_500)));
        assert_eq!(duration("2 min"), Ok(Duration::from_secs(120)));
        assert_eq!(duration("3"), Ok(Duration::from_secs(3)));
        for wrong in ["", "s", "3 weeks", "-1 s", "1e30 h"] {
            assert!(duration(wrong).is_err(), "{wrong}");
        }
    }
}
