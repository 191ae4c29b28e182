use std::path::Path;
use std::time::Duration;

use super::*;
use crate::config::{Config, ConfigError, Device, Mistake, Parity, parse};

const HEAD: &str = "gateway = { id = \"g\", data_dir = \"/tmp/gateway\" }\n\
                    kafka.brokers = [\"k:9092\"]\n";

fn parsed(text: &str) -> Result<Config, Vec<Mistake>> {
    parse(&format!("{HEAD}{text}"), Path::new("gateway.toml")).map_err(|error| match error {
        ConfigError::Invalid { mistakes } => mistakes,
        ConfigError::Unreadable { .. } => unreachable!("a text needs no reading"),
    })
}

fn sources(config: &Config) -> Vec<&Modbus> {
    config.sources.iter().filter_map(modbus).collect()
}

/// A bus, and a source with one unit of these registers; further lines go to each.
fn with(bus: &str, source: &str, unit: &str, register: &str) -> String {
    format!(
        "[buses.hall]\ntype = \"rtu\"\ndevice = \"/dev/ttyS7\"\n{bus}\n\
         [sources.meters]\ntype = \"modbus\"\nbus = \"hall\"\n{source}\n\
         [[sources.meters.units]]\nid = 7\n{unit}\n\
         [[sources.meters.units.registers]]\nname = \"volts\"\nkind = \"input\"\naddress = 4\n\
         {register}\n"
    )
}

#[test]
fn what_the_file_leaves_out_has_the_defaults_of_the_specification() {
    let config = parsed(&with("", "", "", "")).expect("valid");
    let line = RtuLine {
        device: Device::Path("/dev/ttyS7".into()),
        baud_rate: 19_200,
        parity: Parity::Even,
        stop_bits: 1,
        rs485: None,
    };
    let kind = BusKind::Rtu(line);
    let name = "hall".to_owned();
    assert_eq!(config.buses, [Bus { name, kind }]);
    let unit = ModbusUnit {
        id: 7,
        device: "unit-7".to_owned(),
        interval: Duration::from_secs(10),
        phase: Duration::ZERO,
        timeout: Duration::from_millis(500),
        retries: 2,
        backoff_max: Duration::from_secs(60),
        registers: vec![Register {
            name: "volts".to_owned(),
            kind: RegisterKind::Input,
            address: 4,
            value: ValueType::U16,
            order: WordOrder::Abcd,
            scale: None,
            unit: None,
        }],
    };
    assert_eq!(sources(&config)[0].units, [unit]);
}

#[test]
fn every_key_is_read() {
    let text = "[buses.cell]\ntype = \"tcp\"\naddress = \"[::1]:1502\"\n\
        [buses.hall]\ntype = \"rtu\"\nbaud_rate = 9600\nparity = \"none\"\n\
        usb = { vid = \"0403\", pid = \"6001\" }\nrs485 = { delay_before = \"2 ms\" }\n\
        [sources.a]\ntype = \"modbus\"\nbus = \"cell\"\ninterval = \"1 min\"\ntimeout = \"1 s\"\n\
        retries = 0\nbackoff_max = \"5 min\"\n\
        registers = [{ name = \"t\", kind = \"holding\", address = 65532, type = \"f64\", \
        order = \"DCBA\", scale = -0.1, offset = 5, unit = \"Cel\" }]\n\
        units = [{ id = 0, device = \"oven\", phase = \"2 s\" }, \
        { id = 255, interval = \"2 s\", timeout = \"10 ms\", retries = 1, backoff_max = \"1 s\", \
        registers = [{ name = \"on\", kind = \"coil\", address = 0x10 }, \
        { name = \"bit\", kind = \"input\", address = 0, type = \"bool\", bit = 15 }, \
        { name = \"model\", kind = \"input\", address = 1, type = \"string\", length = 8 }] }]\n\
        [sources.b]\ntype = \"modbus\"\nbus = \"hall\"\nunits = [{ id = 1, \
        registers = [{ name = \"x\", kind = \"discrete\", address = 1, type = \"bool\" }] }]\n";
    let config = parsed(text).expect("valid");
    let address = TcpAddress {
        host: "::1".to_owned(),
        port: 1502,
    };
    assert_eq!(config.buses[0].kind, BusKind::Tcp(address));
    let BusKind::Rtu(line) = &config.buses[1].kind else {
        panic!("hall is a line");
    };
    assert_eq!((line.parity, line.stop_bits), (Parity::None, 2));
    assert_eq!(line.device.to_string(), "USB adapter 0403:6001");
    let delay = line.rs485.map(|mode| mode.delay_before);
    assert_eq!(delay, Some(Duration::from_millis(2)));
    let a = sources(&config)[0];
    let [oven, second] = &a.units[..] else {
        panic!("two units");
    };
    let secs = Duration::from_secs;
    assert_eq!(
        (oven.interval, oven.phase, oven.timeout),
        (secs(60), secs(2), secs(1))
    );
    assert_eq!((oven.retries, oven.backoff_max), (0, secs(300)));
    let t = &oven.registers[0];
    assert_eq!(
        (t.value, t.order, t.address),
        (ValueType::F64, WordOrder::Dcba, 65_532)
    );
    let scale = Scale {
        factor: -0.1,
        offset: 5.0,
    };
    assert_eq!((t.scale, t.unit.as_deref()), (Some(scale), Some("Cel")));
    assert_eq!((second.interval, second.backoff_max), (secs(2), secs(2)));
    let values: Vec<ValueType> = second.registers.iter().map(|r| r.value).collect();
    let expected = [
        ValueType::Bool { bit: 0 },
        ValueType::Bool { bit: 15 },
        ValueType::Text { registers: 8 },
    ];
    assert_eq!(values, expected);
}

#[test]
fn units_of_one_bus_are_spread_whatever_sources_they_belong_to() {
    let source = |name: &str, units: &str| {
        format!(
            "[sources.{name}]\ntype = \"modbus\"\nbus = \"hall\"\ninterval = \"4 s\"\n\
             registers = [{{ name = \"x\", kind = \"input\", address = 1 }}]\nunits = [{units}]\n"
        )
    };
    let text = format!(
        "{}{}[buses.hall]\ntype = \"tcp\"\naddress = \"h\"\n",
        source("a", "{ id = 1 }, { id = 2, phase = \"3 s\" }, { id = 3 }"),
        source("b", "{ id = 4 }, { id = 5, interval = \"1 h\" }"),
    );
    let config = parsed(&text).expect("valid");
    let units = sources(&config)
        .into_iter()
        .flat_map(|source| &source.units);
    let phases: Vec<u128> = units.map(|unit| unit.phase.as_millis()).collect();
    assert_eq!(phases, [0, 3000, 1000, 2000, 7500]);
}

/// Lines for bus, source, unit and register; key of the mistake, part of what it says and of its
/// hint.
type Case = ([&'static str; 4], &'static str, &'static str, &'static str);

#[rustfmt::skip]
const CASES: &[Case] = &[
    (["baud_rate = 10", "", "", ""], "buses.hall.baud_rate", "out of range", "from 300"),
    (["parity = \"evn\"", "", "", ""], "buses.hall.parity", "not one of the allowed", "\"even\""),
    (["rs485 = { echo = true }", "", "", ""], "buses.hall.rs485", "echo does not go", "leave echo out"),
    (["usb = { vid = \"0403\", pid = \"6001\" }", "", "", ""], "buses.hall.usb", "does not go with device", "one of the two"),
    (["address = \"h\"", "", "", ""], "buses.hall.address", "not a known key", "known here: type, usb, device"),
    (["", "unit = 1", "", ""], "sources.meters.unit", "not a known key", "\"units\""),
    (["", "interval = \"50 ms\"", "", ""], "sources.meters.interval", "out of range", "\"100 ms\""),
    (["", "retries = 11", "", ""], "sources.meters.retries", "out of range", "from 0 to 10"),
    (["", "", "phase = \"10 s\"", ""], "sources.meters.units[0].phase", "out of range", "\"9999 ms\""),
    (["", "", "device = \"a b\"", ""], "sources.meters.units[0].device", "not a SenML name", "meter-1"),
    (["", "", "timeout = \"2 min\"", ""], "sources.meters.units[0].timeout", "out of range", "\"1 min\""),
    (["", "", "", "unti = \"V\""], "sources.meters.units[0].registers[0].unti", "not a known key", "\"unit\""),
    (["", "", "", "unit = \"\""], "sources.meters.units[0].registers[0].unit", "not a unit", "Cel"),
    (["", "", "", "type = \"u8\""], "sources.meters.units[0].registers[0].type", "not one of the allowed", "\"u16\""),
    (["", "", "", "order = \"abcd\""], "sources.meters.units[0].registers[0].order", "not one of the allowed", "\"ABCD\""),
    (["", "", "", "scale = 0.0"], "sources.meters.units[0].registers[0].scale", "every value the same", "other than 0"),
    (["", "", "", "scale = nan"], "sources.meters.units[0].registers[0].scale", "no finite number", "0.1"),
    (["", "", "", "scale = \"0.1\""], "sources.meters.units[0].registers[0].scale", "is text where a number", "0.1"),
    (["", "", "", "type = \"bool\""], "sources.meters.units[0].registers[0].bit", "is missing", "bit = 0"),
    (["", "", "", "type = \"bool\"\nbit = 16"], "sources.meters.units[0].registers[0].bit", "out of range", "from 0 to 15"),
    (["", "", "", "type = \"bool\"\nbit = 1\nscale = 2"], "sources.meters.units[0].registers[0].scale", "only numbers are scaled", "remove"),
    (["", "", "", "bit = 1"], "sources.meters.units[0].registers[0].bit", "only a bool", "remove"),
    (["", "", "", "length = 1"], "sources.meters.units[0].registers[0].length", "only strings", "remove"),
    (["", "", "", "type = \"string\""], "sources.meters.units[0].registers[0].length", "is missing", "length = 8"),
    (["", "", "", "type = \"string\"\nlength = 2\norder = \"CDAB\""], "sources.meters.units[0].registers[0].order", "are in order", "\"BADC\""),
];

#[test]
fn each_mistake_is_found_with_its_key_and_a_hint() {
    for ([bus, source, unit, register], key, what, hint) in CASES {
        let text = with(bus, source, unit, register);
        let found = parsed(&text).expect_err(key);
        let [mistake] = &found[..] else {
            panic!("{key}: {found:#?}");
        };
        assert_eq!(mistake.key, *key);
        assert!(mistake.what.contains(what), "{key}: {}", mistake.what);
        assert!(mistake.hint.contains(hint), "{key}: {}", mistake.hint);
        let line = [bus, source, unit, register]
            .into_iter()
            .find(|line| !line.is_empty());
        if mistake.what != "is missing" {
            let last = line.and_then(|lines| {
                lines
                    .lines()
                    .find(|l| key.ends_with(l.split(" =").next().unwrap_or(l)))
            });
            let at = format!("{HEAD}{text}")
                .lines()
                .position(|l| Some(l) == last);
            assert_eq!(mistake.line, at.map(|at| at + 1), "{key}");
        }
    }
}

/// Whole texts with one mistake each.
#[rustfmt::skip]
const TEXTS: &[(&str, &str, &str, &str)] = &[
    // Buses.
    ("[buses.a]\ntype = \"rtu\"\ndevice = \"/dev/ttyS7\"\n[sources.s]\ntype = \"serial\"\nframing = \"lines\"\ndevice = \"/dev/ttyS7\"\n[sources.m]\ntype = \"modbus\"\nbus = \"a\"\nunits = [{ id = 1 }]\nregisters = [{ name = \"x\", kind = \"coil\", address = 0 }]\n",
     "sources.s.device", "is the device of bus \"a\" already", "naming the same bus"),
    ("[buses.a]\ntype = \"tcp\"\naddress = \"h:502\"\n[buses.b]\ntype = \"tcp\"\naddress = \"h\"\n[sources.m]\ntype = \"modbus\"\nbus = \"a\"\nunits = [{ id = 1 }]\nregisters = [{ name = \"x\", kind = \"coil\", address = 0 }]\n[sources.n]\ntype = \"modbus\"\nbus = \"b\"\nunits = [{ id = 1 }]\nregisters = [{ name = \"x\", kind = \"coil\", address = 0 }]\n",
     "buses.b.address", "is the address of bus \"a\" already", "name one bus"),
    ("[buses.a]\ntype = \"tcp\"\naddress = \"tcp://h:502\"\n[sources.m]\ntype = \"modbus\"\nbus = \"a\"\nunits = [{ id = 1 }]\nregisters = [{ name = \"x\", kind = \"coil\", address = 0 }]\n",
     "buses.a.address", "not the address of a Modbus TCP server", "192.0.2.10:502"),
    ("[buses.A]\ntype = \"tcp\"\naddress = \"h\"\n[sources.m]\ntype = \"modbus\"\nbus = \"A\"\nunits = [{ id = 1 }]\nregisters = [{ name = \"x\", kind = \"coil\", address = 0 }]\n",
     "buses.A", "not a name for a bus", "rename the bus"),
    ("[buses.hall-3]\ntype = \"tcp\"\naddress = \"h\"\n[buses.b]\ntype = \"tcp\"\naddress = \"i\"\n[sources.m]\ntype = \"modbus\"\nbus = \"hall-3\"\nunits = [{ id = 1 }]\nregisters = [{ name = \"x\", kind = \"coil\", address = 0 }]\n",
     "buses.b", "no source uses this bus", "bus = \"b\""),
    ("[buses.a]\ntype = \"rtu\"\ndevice = \"/dev/ttyS7\"\n[buses.b]\ntype = \"rtu\"\ndevice = \"/dev/ttyS7\"\n[sources.m]\ntype = \"modbus\"\nbus = \"a\"\nunits = [{ id = 1 }]\nregisters = [{ name = \"x\", kind = \"coil\", address = 0 }]\n[sources.n]\ntype = \"modbus\"\nbus = \"b\"\nunits = [{ id = 1 }]\nregisters = [{ name = \"x\", kind = \"coil\", address = 0 }]\n",
     "buses.b.device", "is the device of bus \"a\" already", "naming the same bus"),
    ("[buses.a]\ntype = \"rtu\"\nusb = { vid = \"0403\", pid = \"6001\" }\n[sources.s]\ntype = \"serial\"\nframing = \"lines\"\nusb = { vid = \"0403\", pid = \"6001\" }\n[sources.m]\ntype = \"modbus\"\nbus = \"a\"\nunits = [{ id = 1 }]\nregisters = [{ name = \"x\", kind = \"coil\", address = 0 }]\n",
     "sources.s.usb", "is the device of bus \"a\" already", "naming the same bus"),
    // Sources and units.
    ("[sources.m]\ntype = \"modbus\"\nbus = \"hall\"\nunits = [{ id = 1 }]\nregisters = [{ name = \"x\", kind = \"coil\", address = 0 }]\n",
     "sources.m.bus", "there is no bus \"hall\"", "[buses.hall]"),
    ("[buses.a]\ntype = \"rtu\"\ndevice = \"/dev/ttyS7\"\n[sources.m]\ntype = \"modbus\"\nbus = \"a\"\nunits = [{ id = 248 }]\nregisters = [{ name = \"x\", kind = \"coil\", address = 0 }]\n",
     "sources.m.units[0].id", "out of range", "from 1 to 247"),
    ("[buses.a]\ntype = \"tcp\"\naddress = \"h\"\n[sources.m]\ntype = \"modbus\"\nbus = \"a\"\nunits = []\n",
     "sources.m.units", "lists 0 units", "1 to 256"),
    ("[buses.a]\ntype = \"tcp\"\naddress = \"h\"\n[sources.m]\ntype = \"modbus\"\nbus = \"a\"\nunits = [{ id = 1 }]\n",
     "sources.m.units[0].registers", "is missing", "for all units"),
    ("[buses.a]\ntype = \"tcp\"\naddress = \"h\"\n[sources.m]\ntype = \"modbus\"\nbus = \"a\"\nunits = [{ id = 1, device = \"d\" }, { id = 2, device = \"d\" }]\nregisters = [{ name = \"x\", kind = \"coil\", address = 0 }]\n",
     "sources.m.units[1].device", "is the device of unit 1 already", "its own"),
    ("[buses.a]\ntype = \"tcp\"\naddress = \"h\"\n[sources.m]\ntype = \"modbus\"\nbus = \"a\"\nunits = [{ id = 1 }]\nregisters = [{ name = \"x\", kind = \"coil\", address = 0 }, { name = \"x\", kind = \"coil\", address = 1 }]\n",
     "sources.m.registers[1].name", "listed twice", "its own"),
    ("[buses.a]\ntype = \"tcp\"\naddress = \"h\"\n[sources.m]\ntype = \"modbus\"\nbus = \"a\"\nunits = [{ id = 1 }]\nregisters = [{ name = \"x\", kind = \"coil\", address = 0, type = \"u16\" }]\n",
     "sources.m.registers[0].type", "are bits", "\"bool\""),
    ("[buses.a]\ntype = \"tcp\"\naddress = \"h\"\n[sources.m]\ntype = \"modbus\"\nbus = \"a\"\nunits = [{ id = 1 }]\nregisters = [{ name = \"x\", kind = \"coil\", address = 0, order = \"ABCD\" }]\n",
     "sources.m.registers[0].order", "bits have no order", "remove"),
    ("[buses.a]\ntype = \"tcp\"\naddress = \"h\"\n[sources.m]\ntype = \"modbus\"\nbus = \"a\"\nunits = [{ id = 1 }]\nregisters = [{ name = \"x\", kind = \"holding\", address = 65533, type = \"u64\" }]\n",
     "sources.m.registers[0].address", "out of range", "to 65532"),
];

#[test]
fn what_does_not_go_together_is_one_mistake_with_a_hint() {
    for (text, key, what, hint) in TEXTS {
        let found = parsed(text).expect_err(key);
        let [mistake] = &found[..] else {
            panic!("{key}: {found:#?}");
        };
        assert_eq!(mistake.key, *key);
        assert!(mistake.what.contains(what), "{key}: {}", mistake.what);
        assert!(mistake.hint.contains(hint), "{key}: {}", mistake.hint);
        assert!(mistake.line.is_some(), "{key}");
    }
}

#[test]
fn a_bus_with_a_mistake_is_not_also_reported_as_missing() {
    let text = "[buses.a]\ntype = \"rtuu\"\n[sources.m]\ntype = \"modbus\"\nbus = \"a\"\n\
                units = [{ id = 1 }]\nregisters = [{ name = \"x\", kind = \"coil\", address = 0 }]\n";
    let keys: Vec<String> = parsed(text)
        .expect_err("a mistake")
        .into_iter()
        .map(|m| m.key)
        .collect();
    assert_eq!(keys, ["buses.a.type"]);
}
