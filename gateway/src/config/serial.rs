//! Sources of `type = "serial"`: the port, the line, the framing.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use super::sources::number;
use super::tree::{Section, Value};
use crate::framing::{Checksum, Format, Framing};

/// Largest payload of a frame of the shim link (DESIGN §7).
const SHIM_BYTES_MAX: u64 = 1024;
/// Largest frame of any other framing. Chosen by eye: far beyond what instruments send, small
/// beside a segment.
const FRAME_BYTES_MAX: u64 = 16 << 10;
/// Largest start or end of a frame; longer ones are texts, not delimiters.
const DELIMITER_BYTES_MAX: usize = 16;
/// Shortest silence that ends a frame: the resolution of the timer that measures it.
const IDLE_MIN: Duration = Duration::from_millis(1);
const IDLE_MAX: Duration = Duration::from_secs(60);
/// The kernel takes no longer delay of RTS.
const RTS_DELAY_MAX: Duration = Duration::from_millis(100);

/// A serial line.
#[derive(Clone, Debug)]
pub struct Serial {
    /// Which port.
    pub device: Device,
    /// Bits a second.
    pub baud_rate: u32,
    /// 5 to 8.
    pub data_bits: u8,
    /// Parity bit.
    pub parity: Parity,
    /// 1 or 2.
    pub stop_bits: u8,
    /// Flow control.
    pub flow_control: FlowControl,
    /// The driver switches an RS-485 transceiver.
    pub rs485: Option<Rs485>,
    /// How the byte stream is cut into frames.
    pub framing: Framing,
    /// What frames are checked with.
    pub checksum: Option<Checksum>,
    /// Largest payload of a frame, in bytes.
    pub frame_bytes_max: usize,
}

impl Serial {
    /// All that a decoder of the line's frames is made with.
    #[must_use]
    pub fn format(&self) -> Format {
        Format {
            framing: self.framing.clone(),
            checksum: self.checksum,
            frame_bytes_max: self.frame_bytes_max,
            baud_rate: self.baud_rate,
        }
    }
}

/// Which port a serial source or bus has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Device {
    /// A tty, a PTY, or a stable link to one.
    Path(PathBuf),
    /// Whatever tty the USB adapter has that matches.
    Usb(UsbMatch),
}

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Path(path) => path.display().fmt(f),
            Self::Usb(usb) => usb.fmt(f),
        }
    }
}

/// What a USB adapter must have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UsbMatch {
    /// Vendor.
    pub vid: u16,
    /// Product.
    pub pid: u16,
    /// Serial number, where several of the same kind are plugged in.
    pub serial: Option<String>,
    /// Interface, where the adapter has several ports.
    pub interface: Option<u8>,
}

impl fmt::Display for UsbMatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "USB adapter {:04x}:{:04x}", self.vid, self.pid)?;
        if let Some(serial) = &self.serial {
            write!(f, " with serial number {serial}")?;
        }
        if let Some(interface) = self.interface {
            write!(f, ", interface {interface}")?;
        }
        Ok(())
    }
}

/// Parity bit of a serial line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Parity {
    /// None.
    None,
    /// Odd.
    Odd,
    /// Even.
    Even,
    /// Always 1.
    Mark,
    /// Always 0.
    Space,
}

/// Flow control of a serial line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FlowControl {
    /// None.
    None,
    /// XON/XOFF.
    Software,
    /// RTS/CTS.
    Hardware,
}

/// How the driver switches an RS-485 transceiver by RTS.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rs485 {
    /// RTS low while sending, instead of high.
    pub rts_inverted: bool,
    /// From RTS to the first bit.
    pub delay_before: Duration,
    /// From the last bit to RTS.
    pub delay_after: Duration,
    /// One's own bytes are heard.
    pub echo: bool,
    /// The port's own termination resistor.
    pub termination: bool,
}

/// Says which source or bus has a device already, if one has, and notes that it is taken.
pub(super) type Taken<'a> = dyn FnMut(&Device) -> Option<String> + 'a;

/// Reads the keys of a serial source.
pub(super) fn read(mut section: Section<'_>, taken: &mut Taken<'_>) -> Serial {
    let device = device(&mut section, taken);
    let baud_rate = number(section.get("baud_rate"), 50, 4_000_000).unwrap_or(115_200);
    let data_bits = section.get("data_bits");
    let stop_bits = number(section.get("stop_bits"), 1, 2).unwrap_or(1);
    let parity = section.get("parity").and_then(|value| {
        value.choice(&[
            ("none", Parity::None),
            ("odd", Parity::Odd),
            ("even", Parity::Even),
            ("mark", Parity::Mark),
            ("space", Parity::Space),
        ])
    });
    let flow_control = section.get("flow_control");
    let rs485 = section.get("rs485").and_then(|value| rs485(&value));
    let framing = section
        .required("framing", "framing = \"shim\" or framing = \"lines\"")
        .and_then(|value| framing(&value))
        .unwrap_or(Framing::Lines);
    let checksum = section
        .get("checksum")
        .and_then(|value| checksum(&value, &framing));
    let frame_bytes_max = frame_bytes_max(section.get("frame_bytes_max"), &framing);
    if let Some(dedupe) = section.get("dedupe") {
        dedupe.wrong(
            "is for MQTT sources",
            "leave it out: the shim link's acknowledgements rest on its sequence numbers, and other \
             framings have nothing to tell a repetition by",
        );
    }
    let serial = Serial {
        device: device.unwrap_or_else(|| Device::Path(PathBuf::new())),
        baud_rate,
        data_bits: data_bits_of(data_bits, &framing),
        parity: parity.unwrap_or(Parity::None),
        stop_bits,
        flow_control: flow_control_of(flow_control, &framing, rs485),
        rs485,
        framing,
        checksum,
        frame_bytes_max,
    };
    section.finish();
    serial
}

/// A port by path or by USB adapter, and not by both.
pub(super) fn device(section: &mut Section<'_>, taken: &mut Taken<'_>) -> Option<Device> {
    let example = "device = \"/dev/serial/by-id/usb-FTDI_FT232R-if00-port0\"";
    let Some(usb) = section.get("usb") else {
        let value = section.required("device", example)?;
        let path = value.path("/dev/ttyUSB0")?;
        return free(&value, Device::Path(path), taken);
    };
    if section.get("device").is_some() {
        usb.wrong("does not go with device", "name the port by one of the two");
    }
    let device = Device::Usb(usb_match(&usb)?);
    free(&usb, device, taken)
}

/// A device that nothing else has, by whatever links both name it.
fn free(value: &Value<'_>, device: Device, taken: &mut Taken<'_>) -> Option<Device> {
    if let Some(other) = taken(&device) {
        let what = format!("{device} is the device of {other} already");
        let hint = "give each serial source and bus a device of its own; Modbus sources share one by \
                    naming the same bus";
        value.wrong(what, hint);
        return None;
    }
    Some(device)
}

fn usb_match(value: &Value<'_>) -> Option<UsbMatch> {
    let mut section = value.section()?;
    let mut id = |name, example: &str| {
        let value = section.required(name, &format!("{name} = {example:?}"))?;
        let text = value.text(example)?;
        let id = (text.len() == 4).then(|| u16::from_str_radix(text, 16).ok());
        if id.flatten().is_none() {
            value.wrong(
                format!("{text:?} is not an id"),
                format!("write four hex digits, as in {example:?}; lsusb shows them"),
            );
        }
        id.flatten()
    };
    let (vid, pid) = (id("vid", "0403"), id("pid", "6001"));
    let serial = section
        .get("serial")
        .and_then(|value| value.text("A10ABCDE"))
        .map(str::to_owned);
    let interface = number(section.get("interface"), 0, 255);
    section.finish();
    Some(UsbMatch {
        vid: vid?,
        pid: pid?,
        serial,
        interface,
    })
}

/// `true`, or a table of what isn't as usual.
pub(super) fn rs485(value: &Value<'_>) -> Option<Rs485> {
    if !value.is_table() {
        return value.truth()?.then(Rs485::default);
    }
    let mut section = value.section()?;
    let mut truth = |name| section.get(name).and_then(|value| value.truth());
    let (rts_inverted, echo) = (truth("rts_inverted"), truth("echo"));
    let termination = truth("termination");
    let mut delay = |name| {
        let value = section.get(name);
        value.and_then(|value| value.duration(Duration::ZERO..=RTS_DELAY_MAX))
    };
    let (delay_before, delay_after) = (delay("delay_before"), delay("delay_after"));
    section.finish();
    Some(Rs485 {
        rts_inverted: rts_inverted.unwrap_or_default(),
        delay_before: delay_before.unwrap_or_default(),
        delay_after: delay_after.unwrap_or_default(),
        echo: echo.unwrap_or_default(),
        termination: termination.unwrap_or_default(),
    })
}

/// The framings that are a word.
const FRAMINGS: [(&str, Word); 6] = [
    ("shim", Word::Shim),
    ("lines", Word::Lines),
    ("cobs", Word::Cobs),
    ("slip", Word::Slip),
    ("length-u8", Word::LengthU8),
    ("length-u16-be", Word::LengthU16Be),
];

#[derive(Clone, Copy)]
enum Word {
    Shim,
    Lines,
    Cobs,
    Slip,
    LengthU8,
    LengthU16Be,
}

fn framing(value: &Value<'_>) -> Option<Framing> {
    if value.is_table() {
        return framing_table(value);
    }
    Some(match value.choice(&FRAMINGS)? {
        Word::Shim => Framing::Shim,
        Word::Lines => Framing::Lines,
        Word::Cobs => Framing::Cobs,
        Word::Slip => Framing::Slip,
        Word::LengthU8 => Framing::LengthU8,
        Word::LengthU16Be => Framing::LengthU16Be,
    })
}

/// `{ start = "/", end = "!" }`, `{ end = "\r" }` or `{ idle = "5 ms" }`.
fn framing_table(value: &Value<'_>) -> Option<Framing> {
    let mut section = value.section()?;
    let (start, end) = (section.get("start"), section.get("end"));
    let idle = section.get("idle");
    let is_empty = section.entries().is_empty();
    section.finish();
    match (start, end, idle) {
        (None, None, Some(idle)) => Some(Framing::Idle(idle.duration(IDLE_MIN..=IDLE_MAX)?)),
        (start, Some(end), None) => {
            let start = start.map_or(Some(Vec::new()), |value| delimiter(&value));
            let end = delimiter(&end);
            Some(Framing::Delimited {
                start: start?,
                end: end?,
            })
        }
        (Some(_), None, None) => {
            value.wrong("lacks an end", "write { start = \"/\", end = \"!\" }");
            None
        }
        // Its keys were all wrong, and said to be.
        (None, None, None) if !is_empty => None,
        (None, None, None) | (Some(_), _, Some(_)) | (None, Some(_), Some(_)) => {
            let hint = "write { start = \"/\", end = \"!\" } or { idle = \"20 ms\" }";
            value.wrong("is not a framing", hint);
            None
        }
    }
}

fn delimiter(value: &Value<'_>) -> Option<Vec<u8>> {
    let text = value.text("!")?;
    if text.is_empty() || text.len() > DELIMITER_BYTES_MAX {
        value.wrong(
            format!("{text:?} is no delimiter"),
            format!("write 1 to {DELIMITER_BYTES_MAX} bytes, as in \"\\u0002\""),
        );
        return None;
    }
    Some(text.as_bytes().to_owned())
}

/// A checksum that the framing's frames can carry.
fn checksum(value: &Value<'_>, framing: &Framing) -> Option<Checksum> {
    let chosen = value.choice(&[
        ("none", None),
        ("nmea", Some(Checksum::Nmea)),
        ("csv-xor", Some(Checksum::CsvXor)),
        ("csv-crc16", Some(Checksum::CsvCrc16)),
        ("dsmr", Some(Checksum::Dsmr)),
        ("modbus", Some(Checksum::Modbus)),
    ])??;
    let goes = match framing {
        Framing::Shim => false,
        Framing::Lines => !matches!(chosen, Checksum::Dsmr | Checksum::Modbus),
        Framing::Delimited { start, .. } => chosen == Checksum::Dsmr && !start.is_empty(),
        Framing::Cobs
        | Framing::Slip
        | Framing::LengthU8
        | Framing::LengthU16Be
        | Framing::Idle(_) => chosen == Checksum::Modbus,
    };
    if !goes {
        value.wrong(
            "this checksum does not go with this framing",
            "\"nmea\", \"csv-xor\" and \"csv-crc16\" go with \"lines\", \"dsmr\" with a start and \
             an end, \"modbus\" with idle and binary framings; \"shim\" has its own",
        );
    }
    Some(chosen)
}

fn frame_bytes_max(value: Option<Value<'_>>, framing: &Framing) -> usize {
    let (least, most) = match framing {
        Framing::Shim => (1, SHIM_BYTES_MAX),
        // Room for both delimiters.
        Framing::Delimited { .. } => (2 * DELIMITER_BYTES_MAX as u64, FRAME_BYTES_MAX),
        Framing::Lines
        | Framing::Cobs
        | Framing::Slip
        | Framing::LengthU8
        | Framing::LengthU16Be
        | Framing::Idle(_) => (1, FRAME_BYTES_MAX),
    };
    number(value, least, most).unwrap_or(1024)
}

/// Whether frames are made of bytes of all values.
fn is_binary(framing: &Framing) -> bool {
    match framing {
        Framing::Shim
        | Framing::Cobs
        | Framing::Slip
        | Framing::LengthU8
        | Framing::LengthU16Be => true,
        Framing::Lines | Framing::Delimited { .. } | Framing::Idle(_) => false,
    }
}

/// Binary frames are bytes of 8 bits.
fn data_bits_of(value: Option<Value<'_>>, framing: &Framing) -> u8 {
    let least = if is_binary(framing) { 8 } else { 5 };
    number(value, least, 8).unwrap_or(8)
}

/// XON/XOFF would take two byte values out of a binary stream; RTS is either flow control's or the
/// transceiver's.
fn flow_control_of(
    value: Option<Value<'_>>,
    framing: &Framing,
    rs485: Option<Rs485>,
) -> FlowControl {
    let Some(value) = value else {
        return FlowControl::None;
    };
    let chosen = value.choice(&[
        ("none", FlowControl::None),
        ("software", FlowControl::Software),
        ("hardware", FlowControl::Hardware),
    ]);
    match chosen {
        Some(FlowControl::Software) if is_binary(framing) => value.wrong(
            "software flow control does not go with binary frames",
            "write \"none\" or \"hardware\"",
        ),
        Some(FlowControl::Hardware) if rs485.is_some() => value.wrong(
            "hardware flow control does not go with rs485: both need RTS",
            "write \"none\"",
        ),
        Some(FlowControl::None | FlowControl::Software | FlowControl::Hardware) | None => {}
    }
    chosen.unwrap_or(FlowControl::None)
}
