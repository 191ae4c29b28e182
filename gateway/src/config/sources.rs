//! `[sources.<name>]` and the `[buses.<name>]` they use: what all kinds have in common.

use std::collections::{BTreeMap, BTreeSet};

use super::serial::{self, Device};
use super::tree::{Section, Value};
use super::{Buffer, Bus, Gateway, Source, SourceKind, modbus, mqtt};
use crate::record::SourceName;

/// What sources are read beside: other sections, and what other sources have taken already.
pub(super) struct Context<'a> {
    pub(super) gateway: &'a Gateway,
    pub(super) buffer: &'a Buffer,
    /// The buses that have no mistakes.
    pub(super) buses: BTreeMap<String, Bus>,
    /// All that the file names.
    pub(super) bus_names: BTreeSet<String>,
    /// Those that sources name.
    pub(super) buses_used: BTreeSet<String>,
    devices: BTreeMap<String, String>,
    sessions: BTreeMap<(String, u16, String), String>,
}

#[derive(Clone, Copy)]
enum Kind {
    Serial,
    Mqtt,
    Modbus,
}

impl Kind {
    /// The switch that is missing, which has the type's name.
    fn left_out(self) -> Option<&'static str> {
        let (switch, is_in) = match self {
            Self::Serial => ("serial", cfg!(feature = "serial")),
            Self::Mqtt => ("mqtt", cfg!(feature = "mqtt")),
            Self::Modbus => ("modbus", cfg!(feature = "modbus")),
        };
        (!is_in).then_some(switch)
    }
}

/// What to do about a part that is left out.
pub(super) fn built_with(switch: &str) -> String {
    format!("use one that was built with the switch {switch:?} (--version lists them)")
}

/// The sections `sources` and `buses`, where the file has them.
pub(super) struct Declared<'d, 'a> {
    pub(super) sources: Option<&'d Section<'a>>,
    pub(super) buses: Option<&'d Section<'a>>,
}

/// Reads all sources and buses, in the order of their names.
pub(super) fn read(
    declared: &Declared<'_, '_>,
    gateway: &Gateway,
    buffer: &Buffer,
) -> (Vec<Source>, Vec<Bus>) {
    let mut context = Context {
        gateway,
        buffer,
        buses: BTreeMap::new(),
        bus_names: BTreeSet::new(),
        buses_used: BTreeSet::new(),
        devices: BTreeMap::new(),
        sessions: BTreeMap::new(),
    };
    modbus::read_buses(declared.buses, &mut context);
    let entries = declared.sources.map(Section::entries).unwrap_or_default();
    let mut sources: Vec<Source> = entries
        .into_iter()
        .filter_map(|(name, value)| source(name, &value, &mut context))
        .collect();
    sources.sort_by(|a, b| a.name.cmp(&b.name));
    modbus::spread(&mut sources);
    modbus::check_used(declared.buses, &context);
    (sources, context.buses.into_values().collect())
}

fn source(name: &str, value: &Value<'_>, context: &mut Context<'_>) -> Option<Source> {
    let checked = SourceName::new(name);
    if let Err(error) = &checked {
        value.wrong(error.to_string(), "rename the source");
    }
    let mut section = value.section()?;
    let kind = section
        .required(
            "type",
            "type = \"serial\", type = \"mqtt\" or type = \"modbus\"",
        )
        .and_then(|value| {
            value.choice(&[
                ("serial", Kind::Serial),
                ("mqtt", Kind::Mqtt),
                ("modbus", Kind::Modbus),
            ])
        })
        .or_else(|| likely(&mut section))?;
    if let Some(switch) = kind.left_out()
        && let Some(value) = section.get("type")
    {
        let what = format!("sources of type {switch:?} are left out of this program");
        value.wrong(what, built_with(switch));
    }
    let kind = match kind {
        Kind::Serial => {
            let owner = format!("source {name:?}");
            let mut taken = |device: &Device| context.take_device(&owner, device);
            SourceKind::Serial(Box::new(serial::read(section, &mut taken)))
        }
        Kind::Mqtt => SourceKind::Mqtt(Box::new(mqtt::read(name, section, context))),
        Kind::Modbus => SourceKind::Modbus(Box::new(modbus::read(section, context))),
    };
    let name = checked.ok()?;
    Some(Source { name, kind })
}

/// What a source without a good `type` most likely is, so that its other mistakes are found too.
fn likely(section: &mut Section<'_>) -> Option<Kind> {
    match (
        section.get("device").or(section.get("usb")),
        section.get("url"),
        section.get("bus"),
    ) {
        (Some(_), None, None) => Some(Kind::Serial),
        (None, Some(_), None) => Some(Kind::Mqtt),
        (None, None, Some(_)) => Some(Kind::Modbus),
        _ => None,
    }
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
    /// Notes a serial device; returns the source or bus that has the same one.
    pub(super) fn take_device(&mut self, owner: &str, device: &Device) -> Option<String> {
        let real = match device {
            Device::Path(path) => std::fs::canonicalize(path).map(Device::Path),
            Device::Usb(_) => Ok(device.clone()),
        };
        let real = real.as_ref().unwrap_or(device);
        self.devices.insert(real.to_string(), owner.to_owned())
    }

    /// Notes an MQTT session; returns the source that has the same one at the same broker.
    pub(super) fn take_session(
        &mut self,
        name: &str,
        session: (String, u16, String),
    ) -> Option<String> {
        self.sessions.insert(session, name.to_owned())
    }
}
