//! `[buses.<name>]`: the lines and connections that Modbus units hang on.
//!
//! A port or address is named by one bus only, and by no serial source: requests of two masters
//! would collide.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;

use url::Url;

use crate::config::serial::{device, rs485};
use crate::config::sources::{Context, number};
use crate::config::tree::{Section, Value};
use crate::config::{Device, Parity, Rs485};
use crate::record::SourceName;

/// The port that the protocol has at IANA.
const TCP_PORT: u16 = 502;

/// A bus: one master, which is the gateway, and up to 247 units.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bus {
    /// Its key in the file.
    pub name: String,
    /// Its `type` and what belongs to it.
    pub kind: BusKind,
}

/// The kinds of buses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BusKind {
    /// `type = "rtu"`
    Rtu(RtuLine),
    /// `type = "tcp"`
    Tcp(TcpAddress),
}

/// A serial line that speaks Modbus RTU, 8 data bits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RtuLine {
    /// Which port.
    pub device: Device,
    /// Bits a second.
    pub baud_rate: u32,
    /// Parity bit.
    pub parity: Parity,
    /// 1 or 2.
    pub stop_bits: u8,
    /// The driver switches the transceiver; without echo, which would be taken for an answer.
    pub rs485: Option<Rs485>,
}

/// A server that speaks Modbus TCP.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TcpAddress {
    /// Host name or address, IPv6 without brackets.
    pub host: String,
    /// TCP port.
    pub port: u16,
}

impl Bus {
    /// The unit addresses that can be read on it: 0 is a broadcast on a serial line, where 248 to
    /// 255 are reserved.
    pub(in crate::config) fn unit_ids(&self) -> RangeInclusive<u64> {
        match self.kind {
            BusKind::Rtu(_) => 1..=247,
            BusKind::Tcp(_) => 0..=255,
        }
    }
}

/// Reads all buses into the context that sources are read in.
pub(in crate::config) fn read(declared: Option<&Section<'_>>, context: &mut Context<'_>) {
    let mut addresses = BTreeMap::new();
    for (name, value) in declared.map(Section::entries).unwrap_or_default() {
        context.bus_names.insert(name.to_owned());
        if let Err(error) = SourceName::new(name) {
            let what = error
                .to_string()
                .replace("a source name", "a name for a bus");
            value.wrong(what, "rename the bus");
        }
        if let Some(kind) = bus(name, &value, context, &mut addresses) {
            let bus = Bus {
                name: name.to_owned(),
                kind,
            };
            context.buses.insert(name.to_owned(), bus);
        }
    }
}

/// Reports the buses that no source uses: most likely a source was forgotten.
pub(in crate::config) fn check_used(declared: Option<&Section<'_>>, context: &Context<'_>) {
    for (name, value) in declared.map(Section::entries).unwrap_or_default() {
        if !context.buses_used.contains(name) {
            let hint =
                format!("add a source with type = \"modbus\" and bus = {name:?}, or remove it");
            value.wrong("no source uses this bus", hint);
        }
    }
}

#[derive(Clone, Copy)]
enum Kind {
    Rtu,
    Tcp,
}

fn bus(
    name: &str,
    value: &Value<'_>,
    context: &mut Context<'_>,
    addresses: &mut BTreeMap<(String, u16), String>,
) -> Option<BusKind> {
    let mut section = value.section()?;
    let kind = section
        .required("type", "type = \"rtu\" or type = \"tcp\"")
        .and_then(|value| value.choice(&[("rtu", Kind::Rtu), ("tcp", Kind::Tcp)]))?;
    let kind = match kind {
        Kind::Rtu => rtu(name, &mut section, context).map(BusKind::Rtu),
        Kind::Tcp => tcp(name, &mut section, addresses).map(BusKind::Tcp),
    };
    section.finish();
    kind
}

/// The defaults are those of the specification: 19200 baud, even parity; two stop bits take the
/// place of a parity bit.
fn rtu(name: &str, section: &mut Section<'_>, context: &mut Context<'_>) -> Option<RtuLine> {
    let owner = format!("bus {name:?}");
    let device = device(section, &mut |device| context.take_device(&owner, device));
    let baud_rate = number(section.get("baud_rate"), 300, 4_000_000).unwrap_or(19_200);
    let parity = section.get("parity").and_then(|value| {
        value.choice(&[
            ("even", Parity::Even),
            ("odd", Parity::Odd),
            ("none", Parity::None),
        ])
    });
    let parity = parity.unwrap_or(Parity::Even);
    let stop_bits_default = match parity {
        Parity::None => 2,
        Parity::Even | Parity::Odd | Parity::Mark | Parity::Space => 1,
    };
    let stop_bits = number(section.get("stop_bits"), 1, 2).unwrap_or(stop_bits_default);
    let rs485 = section.get("rs485").and_then(|value| silent(&value));
    Some(RtuLine {
        device: device?,
        baud_rate,
        parity,
        stop_bits,
        rs485,
    })
}

/// A mode in which the gateway does not hear its own requests.
fn silent(value: &Value<'_>) -> Option<Rs485> {
    let mode = rs485(value)?;
    if mode.echo {
        value.wrong(
            "echo does not go with Modbus: a request would be read as its answer",
            "leave echo out",
        );
    }
    Some(mode)
}

fn tcp(
    name: &str,
    section: &mut Section<'_>,
    addresses: &mut BTreeMap<(String, u16), String>,
) -> Option<TcpAddress> {
    let value = section.required("address", "address = \"192.0.2.10:502\"")?;
    let (host, port) = host_and_port(value.text("192.0.2.10:502")?).or_else(|| {
        let hint = "write a host and, unless it is 502, a port: \"192.0.2.10:502\"";
        value.wrong("is not the address of a Modbus TCP server", hint);
        None
    })?;
    if let Some(other) = addresses.insert((host.clone(), port), name.to_owned()) {
        let what = format!("{host}:{port} is the address of bus {other:?} already");
        value.wrong(what, "let the sources name one bus");
        return None;
    }
    Some(TcpAddress { host, port })
}

fn host_and_port(text: &str) -> Option<(String, u16)> {
    let url = Url::parse(&format!("modbus://{text}")).ok()?;
    let bare = url.path().is_empty()
        && url.username().is_empty()
        && url.password().is_none()
        && url.query().is_none()
        && url.fragment().is_none();
    let host = url.host_str().filter(|host| bare && !host.is_empty())?;
    let host = host.trim_start_matches('[').trim_end_matches(']');
    Some((host.to_owned(), url.port().unwrap_or(TCP_PORT)))
}
