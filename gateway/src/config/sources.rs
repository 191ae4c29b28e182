//! `[sources.<name>]`: what all kinds have in common, and the serial ones.

use std::collections::BTreeMap;
use std::path::PathBuf;

use super::tree::{Section, Value};
use super::{Buffer, FlowControl, Framing, Gateway, Parity, Serial, Source, SourceKind, mqtt};
use crate::record::SourceName;

/// Largest payload of a frame of the shim link (DESIGN §7).
const SHIM_BYTES_MAX: u64 = 1024;
/// Largest text line. Chosen by eye: far beyond what instruments print, small beside a segment.
const LINE_BYTES_MAX: u64 = 16 << 10;

/// What sources are read beside: other sections, and what other sources have taken already.
pub(super) struct Context<'a> {
    pub(super) gateway: &'a Gateway,
    pub(super) buffer: &'a Buffer,
    devices: BTreeMap<PathBuf, String>,
    sessions: BTreeMap<(String, u16, String), String>,
}

#[derive(Clone, Copy)]
enum Kind {
    Serial,
    Mqtt,
}

/// Reads all sources, in the order of their names.
pub(super) fn read(
    declared: Option<&Section<'_>>,
    gateway: &Gateway,
    buffer: &Buffer,
) -> Vec<Source> {
    let mut context = Context {
        gateway,
        buffer,
        devices: BTreeMap::new(),
        sessions: BTreeMap::new(),
    };
    let entries = declared.map(Section::entries).unwrap_or_default();
    let mut sources: Vec<Source> = entries
        .into_iter()
        .filter_map(|(name, value)| source(name, &value, &mut context))
        .collect();
    sources.sort_by(|a, b| a.name.cmp(&b.name));
    sources
}

fn source(name: &str, value: &Value<'_>, context: &mut Context<'_>) -> Option<Source> {
    let checked = SourceName::new(name);
    if let Err(error) = &checked {
        value.wrong(error.to_string(), "rename the source");
    }
    let mut section = value.section()?;
    let kind = section
        .required("type", "type = \"serial\" or type = \"mqtt\"")
        .and_then(|value| value.choice(&[("serial", Kind::Serial), ("mqtt", Kind::Mqtt)]))
        .or_else(|| likely(&mut section))?;
    let kind = match kind {
        Kind::Serial => SourceKind::Serial(serial(name, section, context)),
        Kind::Mqtt => SourceKind::Mqtt(Box::new(mqtt::read(name, section, context))),
    };
    let name = checked.ok()?;
    Some(Source { name, kind })
}

/// What a source without a good `type` most likely is, so that its other mistakes are found too.
fn likely(section: &mut Section<'_>) -> Option<Kind> {
    match (section.get("device"), section.get("url")) {
        (Some(_), None) => Some(Kind::Serial),
        (None, Some(_)) => Some(Kind::Mqtt),
        (None, None) | (Some(_), Some(_)) => None,
    }
}

fn serial(name: &str, mut section: Section<'_>, context: &mut Context<'_>) -> Serial {
    let device = section
        .required(
            "device",
            "device = \"/dev/serial/by-id/usb-FTDI_FT232R-if00-port0\"",
        )
        .and_then(|value| device(name, &value, context));
    let baud_rate = number(section.get("baud_rate"), 50, 4_000_000).unwrap_or(115_200);
    let data_bits = section.get("data_bits");
    let stop_bits = number(section.get("stop_bits"), 1, 2).unwrap_or(1);
    let parity = section.get("parity").and_then(|value| {
        value.choice(&[
            ("none", Parity::None),
            ("odd", Parity::Odd),
            ("even", Parity::Even),
        ])
    });
    let flow_control = section.get("flow_control");
    let framing = section
        .required("framing", "framing = \"shim\" or framing = \"lines\"")
        .and_then(|value| framing(&value))
        .unwrap_or(Framing::Lines);
    let frame_bytes_max = frame_bytes_max(section.get("frame_bytes_max"), framing);
    if let Some(dedupe) = section.get("dedupe") {
        dedupe.wrong(
            "is for MQTT sources",
            "leave it out: the shim link's acknowledgements rest on its sequence numbers, and other \
             framings have nothing to tell a repetition by",
        );
    }
    let serial = Serial {
        device: device.unwrap_or_default(),
        baud_rate,
        data_bits: data_bits_of(data_bits, framing),
        parity: parity.unwrap_or(Parity::None),
        stop_bits,
        flow_control: flow_control_of(flow_control, framing),
        framing,
        frame_bytes_max,
    };
    section.finish();
    serial
}

/// A device that no other source has, by whatever links both name it.
fn device(name: &str, value: &Value<'_>, context: &mut Context<'_>) -> Option<PathBuf> {
    let path = value.path("/dev/ttyUSB0")?;
    let real = std::fs::canonicalize(&path).unwrap_or_else(|_| path.clone());
    if let Some(other) = context.devices.insert(real, name.to_owned()) {
        let what = format!(
            "{} is the device of source {other:?} already",
            path.display()
        );
        value.wrong(what, "give each serial source a device of its own");
        return None;
    }
    Some(path)
}

fn framing(value: &Value<'_>) -> Option<Framing> {
    if value.is_table() {
        value.not_yet();
        return None;
    }
    value.choice(&[("shim", Framing::Shim), ("lines", Framing::Lines)])
}

fn frame_bytes_max(value: Option<Value<'_>>, framing: Framing) -> usize {
    let most = match framing {
        Framing::Shim => SHIM_BYTES_MAX,
        Framing::Lines => LINE_BYTES_MAX,
    };
    number(value, 1, most).unwrap_or(1024)
}

/// Frames of the shim link are bytes of 8 bits.
fn data_bits_of(value: Option<Value<'_>>, framing: Framing) -> u8 {
    let least = match framing {
        Framing::Shim => 8,
        Framing::Lines => 5,
    };
    number(value, least, 8).unwrap_or(8)
}

/// XON/XOFF would take two byte values out of a binary stream.
fn flow_control_of(value: Option<Value<'_>>, framing: Framing) -> FlowControl {
    let chosen = value.as_ref().and_then(|value| {
        value.choice(&[
            ("none", FlowControl::None),
            ("software", FlowControl::Software),
            ("hardware", FlowControl::Hardware),
        ])
    });
    if let (Some(value), Some(FlowControl::Software), Framing::Shim) = (&value, chosen, framing) {
        value.wrong(
            "software flow control does not go with binary frames",
            "write \"none\" or \"hardware\"",
        );
    }
    chosen.unwrap_or(FlowControl::None)
}

/// A whole number within bounds that fit `T`.
pub(super) fn number<T: TryFrom<u64>>(
    value: Option<Value<'_>>,
    least: u64,
    most: u64,
) -> Option<T> {
    let number = value?.integer(least..=most)?;
    T::try_from(number).ok()
}

impl Context<'_> {
    /// Notes an MQTT session; returns the source that has the same one at the same broker.
    pub(super) fn take_session(
        &mut self,
        name: &str,
        session: (String, u16, String),
    ) -> Option<String> {
        self.sessions.insert(session, name.to_owned())
    }
}
