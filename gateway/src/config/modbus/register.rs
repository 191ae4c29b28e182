//! `registers` of a Modbus source or unit: what is read, and what it means.

use std::collections::BTreeSet;

use crate::config::sources::number;
use crate::config::tree::{Section, Value};

/// Registers of one unit, so that a poll of them fits a segment of the log.
const REGISTERS_MAX: usize = 256;
/// Most registers that one request can read (Modbus application protocol, 6.3).
const TEXT_REGISTERS_MAX: u64 = 125;
/// Longest unit of measurement, in bytes.
const UNIT_BYTES_MAX: usize = 32;

/// One value of a unit.
#[derive(Clone, Debug, PartialEq)]
pub struct Register {
    /// `n` in the record.
    pub name: String,
    /// Which of the four tables it is in.
    pub kind: RegisterKind,
    /// Its address on the wire, from 0; the value ends below 65536.
    pub address: u16,
    /// What the bits mean.
    pub value: ValueType,
    /// Order of words and of the bytes in them.
    pub order: WordOrder,
    /// Turns the raw number into the one that is sent; absent: as it is.
    pub scale: Option<Scale>,
    /// Unit of measurement, `u` in the record.
    pub unit: Option<String>,
}

/// The four tables of a unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum RegisterKind {
    /// Bits that can be written (function 1).
    Coil,
    /// Bits that can only be read (function 2).
    Discrete,
    /// Words that can be written (function 3).
    Holding,
    /// Words that can only be read (function 4).
    Input,
}

impl RegisterKind {
    /// Whether its places hold one bit, not 16.
    #[must_use]
    pub fn is_bits(self) -> bool {
        match self {
            Self::Coil | Self::Discrete => true,
            Self::Holding | Self::Input => false,
        }
    }
}

/// What the bits of a register mean.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ValueType {
    /// A coil or discrete input, or this bit of a word, 0 being the lowest.
    Bool {
        /// 0 for a coil or discrete input.
        bit: u8,
    },
    /// 16 bits, unsigned.
    U16,
    /// 16 bits, two's complement.
    I16,
    /// 32 bits, unsigned.
    U32,
    /// 32 bits, two's complement.
    I32,
    /// 64 bits, unsigned.
    U64,
    /// 64 bits, two's complement.
    I64,
    /// IEEE 754, 32 bits.
    F32,
    /// IEEE 754, 64 bits.
    F64,
    /// UTF-8, two bytes a word, ended by a zero or blanks.
    Text {
        /// Words.
        registers: u16,
    },
}

impl ValueType {
    /// How many places of its table it takes.
    #[must_use]
    pub fn width(self) -> u16 {
        match self {
            Self::Bool { .. } | Self::U16 | Self::I16 => 1,
            Self::U32 | Self::I32 | Self::F32 => 2,
            Self::U64 | Self::I64 | Self::F64 => 4,
            Self::Text { registers } => registers,
        }
    }
}

/// Order of the bytes of a value, written for 32 bits; A is the highest byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WordOrder {
    /// Highest word first, its high byte first: as the protocol itself.
    Abcd,
    /// Lowest word first.
    Cdab,
    /// Highest word first, bytes swapped.
    Badc,
    /// Lowest word first, bytes swapped.
    Dcba,
}

/// `raw * factor + offset`
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Scale {
    /// Not 0.
    pub factor: f64,
    /// Added after that.
    pub offset: f64,
}

/// Reads a list of registers.
pub(super) fn read_all(value: &Value<'_>) -> Vec<Register> {
    let example = "[{ name = \"voltage\", kind = \"input\", address = 0, type = \"f32\" }]";
    let Some(listed) = value.list(example) else {
        return Vec::new();
    };
    if listed.is_empty() || listed.len() > REGISTERS_MAX {
        let what = format!("lists {} registers", listed.len());
        value.wrong(
            what,
            format!("list 1 to {REGISTERS_MAX}, for example {example}"),
        );
    }
    let mut names = BTreeSet::new();
    listed
        .iter()
        .filter_map(|value| register(value, &mut names))
        .collect()
}

fn register(value: &Value<'_>, names: &mut BTreeSet<String>) -> Option<Register> {
    let mut section = value.section()?;
    let name = section
        .required("name", "name = \"voltage\"")
        .and_then(|value| {
            let name = super::name(&value, "voltage")?;
            if !names.insert(name.clone()) {
                value.wrong(
                    format!("{name:?} is listed twice"),
                    "give each a name of its own",
                );
            }
            Some(name)
        });
    let kind = section
        .required("kind", "kind = \"input\"")
        .and_then(|value| {
            value.choice(&[
                ("coil", RegisterKind::Coil),
                ("discrete", RegisterKind::Discrete),
                ("holding", RegisterKind::Holding),
                ("input", RegisterKind::Input),
            ])
        });
    let meaning = value_type(&mut section, kind);
    let address = section.required("address", "address = 0");
    let address = address.and_then(|value| {
        let last = 0x1_0000 - u64::from(meaning.width());
        number(Some(value), 0, last)
    });
    let order = order(section.get("order"), kind, meaning);
    let scale = scale(&mut section, meaning);
    let unit = section.get("unit").and_then(|value| unit(&value));
    section.finish();
    Some(Register {
        name: name?,
        kind: kind?,
        address: address?,
        value: meaning,
        order,
        scale,
        unit,
    })
}

#[derive(Clone, Copy, PartialEq)]
enum Word {
    Bool,
    Text,
    Number(ValueType),
}

fn value_type(section: &mut Section<'_>, kind: Option<RegisterKind>) -> ValueType {
    let (given, bit, length) = (
        section.get("type"),
        section.get("bit"),
        section.get("length"),
    );
    let word = given.as_ref().and_then(|value| {
        value.choice(&[
            ("u16", Word::Number(ValueType::U16)),
            ("i16", Word::Number(ValueType::I16)),
            ("u32", Word::Number(ValueType::U32)),
            ("i32", Word::Number(ValueType::I32)),
            ("u64", Word::Number(ValueType::U64)),
            ("i64", Word::Number(ValueType::I64)),
            ("f32", Word::Number(ValueType::F32)),
            ("f64", Word::Number(ValueType::F64)),
            ("bool", Word::Bool),
            ("string", Word::Text),
        ])
    });
    let in_bits = kind.is_some_and(RegisterKind::is_bits);
    if in_bits {
        if let (Some(value), Some(Word::Text | Word::Number(_))) = (&given, word) {
            value.wrong(
                "coils and discrete inputs are bits",
                "write \"bool\", or leave it out",
            );
        }
        refuse(bit, "coils and discrete inputs are one bit");
        refuse(length, "only strings have a length");
        return ValueType::Bool { bit: 0 };
    }
    match word.unwrap_or(Word::Number(ValueType::U16)) {
        Word::Number(meaning) => {
            refuse(bit, "only a bool has one bit");
            refuse(length, "only strings have a length");
            meaning
        }
        Word::Bool => {
            refuse(length, "only strings have a length");
            if bit.is_none() && kind.is_some() {
                section.missing("bit", "write which bit of the word it is, 0 to 15: bit = 0");
            }
            ValueType::Bool {
                bit: number(bit, 0, 15).unwrap_or(0),
            }
        }
        Word::Text => {
            refuse(bit, "only a bool has one bit");
            if length.is_none() {
                let hint = "write how many registers it takes, 1 to 125: length = 8";
                section.missing("length", hint);
            }
            let registers = number(length, 1, TEXT_REGISTERS_MAX).unwrap_or(1);
            ValueType::Text { registers }
        }
    }
}

fn refuse(value: Option<Value<'_>>, what: &str) {
    if let Some(value) = value {
        value.wrong(what, "remove it");
    }
}

fn order(value: Option<Value<'_>>, kind: Option<RegisterKind>, meaning: ValueType) -> WordOrder {
    let chosen = value.as_ref().and_then(|value| {
        value.choice(&[
            ("ABCD", WordOrder::Abcd),
            ("CDAB", WordOrder::Cdab),
            ("BADC", WordOrder::Badc),
            ("DCBA", WordOrder::Dcba),
        ])
    });
    if let (Some(value), Some(order)) = (&value, chosen) {
        let in_order = matches!(order, WordOrder::Abcd | WordOrder::Badc);
        if kind.is_some_and(RegisterKind::is_bits) {
            value.wrong("bits have no order", "remove it");
        } else if matches!(meaning, ValueType::Text { .. }) && !in_order {
            value.wrong(
                "the words of a string are in order",
                "write \"ABCD\" or \"BADC\"",
            );
        }
    }
    chosen.unwrap_or(WordOrder::Abcd)
}

fn scale(section: &mut Section<'_>, meaning: ValueType) -> Option<Scale> {
    let (factor, offset) = (section.get("scale"), section.get("offset"));
    if matches!(meaning, ValueType::Bool { .. } | ValueType::Text { .. }) {
        for value in [factor, offset].into_iter().flatten() {
            value.wrong("only numbers are scaled", "remove it");
        }
        return None;
    }
    if factor.is_none() && offset.is_none() {
        return None;
    }
    let number = |value: &Option<Value<'_>>, example| value.as_ref()?.float(example);
    let found = Scale {
        factor: number(&factor, "0.1").unwrap_or(1.0),
        offset: number(&offset, "-40.0").unwrap_or(0.0),
    };
    if let Some(value) = &factor
        && found.factor == 0.0
    {
        value.wrong(
            "would make every value the same",
            "write a number other than 0",
        );
    }
    Some(found)
}

fn unit(value: &Value<'_>) -> Option<String> {
    let text = value.text("V")?;
    if (1..=UNIT_BYTES_MAX).contains(&text.len()) && !text.chars().any(char::is_control) {
        return Some(text.to_owned());
    }
    let hint = "write a unit of SenML, for example \"V\", \"Cel\" or \"%RH\"";
    value.wrong(format!("{text:?} is not a unit"), hint);
    None
}
