//! `[sources.<name>]` with `type = "modbus"`: units, and when each is polled.
//!
//! What is read of a unit is in [`register`], the lines they hang on in [`bus`].

mod bus;
mod register;

use std::collections::BTreeMap;
use std::time::Duration;

pub use bus::{Bus, BusKind, RtuLine, TcpAddress};
pub(super) use bus::{check_used, read as read_buses};
pub use register::{Register, RegisterKind, Scale, ValueType, WordOrder};

use super::nearest::nearest;
use super::sources::{Context, number};
use super::tree::{Section, Value};
use super::{Source, SourceKind};

/// Units of one source: all that a bus can address.
const UNITS_MAX: usize = 256;
/// From ten times a second, which no bus of several units keeps up with, to once a week.
const INTERVAL: std::ops::RangeInclusive<Duration> =
    Duration::from_millis(100)..=Duration::from_secs(7 * 86_400);
/// How often a unit is polled unless the file says otherwise. Chosen by eye.
const INTERVAL_DEFAULT: Duration = Duration::from_secs(10);
/// Most that the first polls of a bus's units are spread over: long against one poll, short
/// enough that nobody waits for the first values.
const SPREAD_MAX: Duration = Duration::from_secs(10);
/// Longest name of a device or register, in bytes.
const NAME_BYTES_MAX: usize = 64;

/// A source that polls Modbus units.
#[derive(Clone, Debug, PartialEq)]
pub struct Modbus {
    /// Name of its `[buses.<name>]`.
    pub bus: String,
    /// At least one.
    pub units: Vec<ModbusUnit>,
}

/// One unit (slave) and its schedule.
#[derive(Clone, Debug, PartialEq)]
pub struct ModbusUnit {
    /// Its address on the bus.
    pub id: u8,
    /// Name of the device; the second level of the subject.
    pub device: String,
    /// Time from one poll to the next.
    pub interval: Duration,
    /// Time from the start of the source to the first poll; below the interval.
    pub phase: Duration,
    /// How long an answer may take, time on the line not counted.
    pub timeout: Duration,
    /// How often a poll without an answer is repeated.
    pub retries: u32,
    /// Longest pause between polls of a unit that does not answer.
    pub backoff_max: Duration,
    /// What is read; at least one, names unique.
    pub registers: Vec<Register>,
}

/// What a source says for all of its units.
struct Defaults {
    interval: Duration,
    timeout: Duration,
    retries: u32,
    backoff_max: Option<Duration>,
    registers: Option<Vec<Register>>,
}

/// Reads one Modbus source.
pub(super) fn read(mut section: Section<'_>, context: &mut Context<'_>) -> Modbus {
    let bus = section
        .required("bus", "bus = \"hall-3\", with a section [buses.hall-3]")
        .and_then(|value| bus_name(&value, context));
    let ids = match bus.as_deref().and_then(|name| context.buses.get(name)) {
        Some(found) => found.unit_ids(),
        None => 0..=255,
    };
    let defaults = defaults(&mut section);
    let units = section.required("units", "units = [{ id = 1, device = \"meter-1\" }]");
    let listed = units
        .as_ref()
        .and_then(|value| value.list("[{ id = 1, device = \"meter-1\" }]"))
        .unwrap_or_default();
    if let Some(value) = &units
        && (listed.len() > UNITS_MAX || listed.is_empty() && value.is_list())
    {
        let what = format!("lists {} units", listed.len());
        value.wrong(what, format!("list 1 to {UNITS_MAX} units"));
    }
    let mut devices = BTreeMap::new();
    let units = listed
        .iter()
        .filter_map(|value| unit(value, &defaults, &ids, &mut devices))
        .collect();
    section.finish();
    Modbus {
        bus: bus.unwrap_or_default(),
        units,
    }
}

fn bus_name(value: &Value<'_>, context: &mut Context<'_>) -> Option<String> {
    let name = value.text("hall-3")?;
    context.buses_used.insert(name.to_owned());
    if context.buses.contains_key(name) {
        return Some(name.to_owned());
    }
    if !context.bus_names.contains(name) {
        let hint = match nearest(name, context.bus_names.iter().map(String::as_str)) {
            Some(near) => format!("did you mean {near:?}?"),
            None => format!("add a section [buses.{name}] with type = \"rtu\" or type = \"tcp\""),
        };
        value.wrong(format!("there is no bus {name:?}"), hint);
    }
    None
}

fn defaults(section: &mut Section<'_>) -> Defaults {
    Defaults {
        interval: duration(section, "interval", INTERVAL).unwrap_or(INTERVAL_DEFAULT),
        timeout: timeout(section).unwrap_or(Duration::from_millis(500)),
        retries: number(section.get("retries"), 0, 10).unwrap_or(2),
        backoff_max: backoff_max(section),
        registers: section
            .get("registers")
            .map(|value| register::read_all(&value)),
    }
}

fn duration(
    section: &mut Section<'_>,
    name: &'static str,
    range: std::ops::RangeInclusive<Duration>,
) -> Option<Duration> {
    section.get(name).and_then(|value| value.duration(range))
}

fn timeout(section: &mut Section<'_>) -> Option<Duration> {
    let range = Duration::from_millis(10)..=Duration::from_secs(60);
    duration(section, "timeout", range)
}

fn backoff_max(section: &mut Section<'_>) -> Option<Duration> {
    let range = Duration::from_secs(1)..=Duration::from_secs(86_400);
    duration(section, "backoff_max", range)
}

fn unit(
    value: &Value<'_>,
    defaults: &Defaults,
    ids: &std::ops::RangeInclusive<u64>,
    devices: &mut BTreeMap<String, u8>,
) -> Option<ModbusUnit> {
    let mut section = value.section()?;
    let id = section
        .required("id", "id = 1")
        .and_then(|value| number(Some(value), *ids.start(), *ids.end()));
    let device = section.get("device");
    let device_name = match &device {
        Some(value) => name(value, "meter-1"),
        None => id.map(|id: u8| format!("unit-{id}")),
    };
    if let (Some(id), Some(name)) = (id, &device_name)
        && let Some(other) = devices.insert(name.clone(), id)
        && other != id
    {
        let what = format!("{name:?} is the device of unit {other} already");
        device
            .as_ref()
            .unwrap_or(value)
            .wrong(what, "give each unit a device name of its own");
    }
    let interval = duration(&mut section, "interval", INTERVAL).unwrap_or(defaults.interval);
    let phase = section.get("phase").and_then(|value| {
        value.duration(Duration::ZERO..=interval.saturating_sub(Duration::from_millis(1)))
    });
    let timeout = timeout(&mut section).unwrap_or(defaults.timeout);
    let retries = number(section.get("retries"), 0, 10).unwrap_or(defaults.retries);
    let backoff_max = backoff_max(&mut section)
        .or(defaults.backoff_max)
        .unwrap_or(Duration::from_secs(60))
        .max(interval);
    let registers = match (section.get("registers"), &defaults.registers) {
        (Some(value), _) => register::read_all(&value),
        (None, Some(common)) => common.clone(),
        (None, None) => {
            let hint = "write, for example, registers = [{ name = \"voltage\", kind = \"input\", \
                        address = 0, type = \"f32\" }], here or once for all units of the source";
            section.missing("registers", hint);
            Vec::new()
        }
    };
    section.finish();
    Some(ModbusUnit {
        id: id?,
        device: device_name?,
        interval,
        phase: phase.unwrap_or(UNSPREAD),
        timeout,
        retries,
        backoff_max,
        registers,
    })
}

/// Stands for a phase that the file leaves to us, until [`spread`] has set it.
const UNSPREAD: Duration = Duration::MAX;

/// Gives the units of each bus that have no phase different ones, over all sources.
pub(super) fn spread(sources: &mut [Source]) {
    let mut counts: BTreeMap<String, u32> = BTreeMap::new();
    for modbus in sources.iter().filter_map(modbus) {
        let units = modbus.units.iter().filter(|unit| unit.phase == UNSPREAD);
        *counts.entry(modbus.bus.clone()).or_default() += units.count() as u32;
    }
    let mut given: BTreeMap<String, u32> = BTreeMap::new();
    for source in sources {
        let SourceKind::Modbus(modbus) = &mut source.kind else {
            continue;
        };
        let count = counts.get(&modbus.bus).copied().unwrap_or(1);
        let given = given.entry(modbus.bus.clone()).or_default();
        for unit in modbus
            .units
            .iter_mut()
            .filter(|unit| unit.phase == UNSPREAD)
        {
            unit.phase = unit.interval.min(SPREAD_MAX) * *given / count;
            *given += 1;
        }
    }
}

fn modbus(source: &Source) -> Option<&Modbus> {
    match &source.kind {
        SourceKind::Modbus(modbus) => Some(modbus),
        SourceKind::Serial(_) | SourceKind::Mqtt(_) => None,
    }
}

/// A name as RFC 8428 (section 4.5.1) allows it, so that a device and a register of it make one.
fn name(value: &Value<'_>, example: &str) -> Option<String> {
    let text = value.text(example)?;
    let allowed = |b: u8| b.is_ascii_alphanumeric() || b"-:./_".contains(&b);
    let begins = text
        .bytes()
        .next()
        .is_some_and(|b| b.is_ascii_alphanumeric());
    if begins && text.len() <= NAME_BYTES_MAX && text.bytes().all(allowed) {
        return Some(text.to_owned());
    }
    let hint = format!(
        "write 1 to {NAME_BYTES_MAX} letters, digits, \"-\", \":\", \".\", \"/\" and \"_\", a letter \
         or digit first, for example {example:?}"
    );
    value.wrong(format!("{text:?} is not a SenML name"), hint);
    None
}

#[cfg(test)]
mod tests;
