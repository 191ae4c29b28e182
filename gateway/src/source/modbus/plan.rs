//! What is asked of a unit, and how the answers become one record.
//!
//! Registers that touch or overlap are read by one request, at most 125 words or 2,000 bits. What
//! lies between registers is never asked for: many devices answer a request that touches an
//! address they don't have with an exception. A value of several words is never split between
//! requests, so that its halves are of one moment.

use firmware_shim::senml::{self, Record};
use tokio_modbus::{Request, Response};

use super::value::{self, Reading, Unfit};
use crate::config::{ModbusUnit, Register, RegisterKind};

/// Most words that an answer holds (Modbus application protocol, 6.3).
const WORDS_MAX: u16 = 125;
/// Most bits that an answer holds (6.1).
const BITS_MAX: u16 = 2000;
/// What a value takes in a record beside its texts: labels, lengths and a number of nine bytes.
const VALUE_BYTES_MAX: usize = 48;

/// One request to a unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Block {
    pub(super) kind: RegisterKind,
    pub(super) address: u16,
    pub(super) count: u16,
}

/// What a block holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Content {
    Bits(Vec<bool>),
    Words(Vec<u16>),
}

impl Block {
    pub(super) fn request(&self) -> Request<'static> {
        match self.kind {
            RegisterKind::Coil => Request::ReadCoils(self.address, self.count),
            RegisterKind::Discrete => Request::ReadDiscreteInputs(self.address, self.count),
            RegisterKind::Holding => Request::ReadHoldingRegisters(self.address, self.count),
            RegisterKind::Input => Request::ReadInputRegisters(self.address, self.count),
        }
    }

    /// Bytes of a whole answer in an RTU frame.
    pub(super) fn answer_bytes(&self) -> u32 {
        let content = if self.kind.is_bits() {
            u32::from(self.count).div_ceil(8)
        } else {
            2 * u32::from(self.count)
        };
        content + 5
    }

    /// The content, if the response is one to this block: of its function and its length.
    pub(super) fn content(&self, response: Response) -> Option<Content> {
        let (kind, content) = match response {
            Response::ReadCoils(bits) => (RegisterKind::Coil, Content::Bits(bits)),
            Response::ReadDiscreteInputs(bits) => (RegisterKind::Discrete, Content::Bits(bits)),
            Response::ReadHoldingRegisters(words) => (RegisterKind::Holding, Content::Words(words)),
            Response::ReadInputRegisters(words) => (RegisterKind::Input, Content::Words(words)),
            Response::WriteSingleCoil(..)
            | Response::WriteMultipleCoils(..)
            | Response::WriteSingleRegister(..)
            | Response::WriteMultipleRegisters(..)
            | Response::ReportServerId(..)
            | Response::MaskWriteRegister(..)
            | Response::ReadWriteMultipleRegisters(..)
            | Response::ReadDeviceIdentification(..)
            | Response::Custom(..) => return None,
        };
        let count = usize::from(self.count);
        let whole = match &content {
            // A response holds whole bytes.
            Content::Bits(bits) => bits.len() == count.next_multiple_of(8),
            Content::Words(words) => words.len() == count,
        };
        (kind == self.kind && whole).then_some(content)
    }
}

/// Where a register's value is found.
#[derive(Clone, Debug)]
struct Source {
    register: Register,
    block: usize,
}

/// All that is asked of one unit.
#[derive(Clone, Debug)]
pub(super) struct Plan {
    base_name: String,
    blocks: Vec<Block>,
    /// In the order of the file.
    sources: Vec<Source>,
    bytes_max: usize,
}

/// A record in the making.
#[derive(Debug, Default)]
pub(super) struct Pack {
    /// The record; empty where no register gave a value.
    pub(super) payload: Vec<u8>,
    /// What gave none, though it was read.
    pub(super) unfit: Vec<Unfit>,
}

impl Plan {
    pub(super) fn new(unit: &ModbusUnit) -> Self {
        let mut order: Vec<usize> = (0..unit.registers.len()).collect();
        order.sort_by_key(|at| (unit.registers[*at].kind, unit.registers[*at].address));
        let mut blocks: Vec<Block> = Vec::new();
        let mut block_of = vec![0; unit.registers.len()];
        for at in order {
            let register = &unit.registers[at];
            match blocks.last_mut().and_then(|last| joined(last, register)) {
                Some(longer) => *blocks.last_mut().expect("it was joined") = longer,
                None => blocks.push(Block {
                    kind: register.kind,
                    address: register.address,
                    count: register.value.width(),
                }),
            }
            block_of[at] = blocks.len() - 1;
        }
        let sources = unit.registers.iter().zip(block_of);
        Self {
            // A name of the record is base name and name in one (RFC 8428, 4.5.1).
            base_name: format!("{}/", unit.device),
            blocks,
            sources: sources
                .map(|(register, block)| Source {
                    register: register.clone(),
                    block,
                })
                .collect(),
            bytes_max: bytes_max(unit),
        }
    }

    pub(super) fn blocks(&self) -> &[Block] {
        &self.blocks
    }

    /// One record of what was read; `contents` are those of the blocks, in their order, `None` for
    /// those that the unit refused.
    pub(super) fn pack(&self, contents: &[Option<Content>]) -> Pack {
        let mut pack = Pack::default();
        let mut readings = Vec::new();
        for source in &self.sources {
            let Some(content) = contents.get(source.block).and_then(Option::as_ref) else {
                continue;
            };
            match self.reading(source, content) {
                Ok(reading) => readings.push((&source.register, reading)),
                Err(unfit) => pack.unfit.push(unfit),
            }
        }
        if readings.is_empty() {
            return pack;
        }
        let records: Vec<Record<'_>> = readings
            .iter()
            .enumerate()
            .map(|(at, (register, reading))| Record {
                base_name: (at == 0).then_some(&self.base_name),
                ..record(register, reading)
            })
            .collect();
        pack.payload.resize(self.bytes_max, 0);
        let used = senml::encode(&records, &mut pack.payload);
        pack.payload
            .truncate(used.expect("sized for the longest values"));
        pack
    }

    fn reading(&self, source: &Source, content: &Content) -> Result<Reading, Unfit> {
        let Source { register, block } = source;
        let at = usize::from(register.address - self.blocks[*block].address);
        match content {
            Content::Bits(bits) => Ok(value::from_bit(bits[at])),
            Content::Words(words) => {
                let width = usize::from(register.value.width());
                value::from_words(register, &words[at..at + width])
            }
        }
    }
}

/// The block with the register in it too, if it begins in or right behind it and there is room.
fn joined(last: &Block, register: &Register) -> Option<Block> {
    let count_max = if last.kind.is_bits() {
        BITS_MAX
    } else {
        WORDS_MAX
    };
    let begin = u32::from(register.address);
    let end = begin + u32::from(register.value.width());
    let last_end = u32::from(last.address) + u32::from(last.count);
    let count = end.max(last_end) - u32::from(last.address);
    let fits = last.kind == register.kind && begin <= last_end && count <= u32::from(count_max);
    fits.then_some(Block {
        count: count as u16,
        ..*last
    })
}

fn record<'r>(register: &'r Register, reading: &'r Reading) -> Record<'r> {
    let mut record = Record {
        name: Some(&register.name),
        unit: register.unit.as_deref(),
        ..Record::default()
    };
    match reading {
        Reading::Number(number) => record.value = Some(*number),
        Reading::Truth(truth) => record.bool_value = Some(*truth),
        Reading::Text(text) => record.string_value = Some(text),
    }
    record
}

fn bytes_max(unit: &ModbusUnit) -> usize {
    let register = |register: &Register| {
        let unit = register.unit.as_ref().map_or(0, String::len);
        // A string takes two bytes a word; a number is within what every value takes.
        let text = 2 * usize::from(register.value.width());
        VALUE_BYTES_MAX + register.name.len() + unit + text
    };
    let values: usize = unit.registers.iter().map(register).sum();
    VALUE_BYTES_MAX + unit.device.len() + values
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;
    use crate::config::ValueType;
    use crate::source::modbus::tests::support::register;

    fn unit(registers: Vec<Register>) -> ModbusUnit {
        ModbusUnit {
            id: 1,
            device: "meter-1".to_owned(),
            interval: Duration::from_secs(1),
            phase: Duration::ZERO,
            timeout: Duration::from_secs(1),
            retries: 0,
            backoff_max: Duration::from_secs(1),
            registers,
        }
    }

    fn block(kind: RegisterKind, address: u16, count: u16) -> Block {
        Block {
            kind,
            address,
            count,
        }
    }

    #[test]
    fn registers_that_touch_are_read_by_one_request_and_gaps_by_none() {
        use RegisterKind::{Coil, Holding, Input};
        let plan = Plan::new(&unit(vec![
            register("d", Input, 4, ValueType::U64),
            register("a", Input, 0, ValueType::F32),
            register("b", Input, 2, ValueType::U16),
            register("low", Input, 2, ValueType::Bool { bit: 0 }),
            register("c", Holding, 3, ValueType::U16),
            register("e", Coil, 3, ValueType::Bool { bit: 0 }),
        ]));
        let expected = [
            block(Coil, 3, 1),
            block(Holding, 3, 1),
            block(Input, 0, 3),
            block(Input, 4, 4),
        ];
        assert_eq!(plan.blocks(), expected);
    }

    #[test]
    fn a_request_is_no_longer_than_the_protocol_allows_and_splits_no_value() {
        let registers = (0..50).map(|n| {
            let value = ValueType::U64;
            register(&format!("r{n}"), RegisterKind::Holding, n * 4, value)
        });
        let plan = Plan::new(&unit(registers.collect()));
        let expected = [
            block(RegisterKind::Holding, 0, 124),
            block(RegisterKind::Holding, 124, 76),
        ];
        assert_eq!(plan.blocks(), expected);
    }

    #[test]
    fn a_record_holds_the_values_in_the_order_of_the_file() {
        let mut volts = register("voltage", RegisterKind::Input, 1, ValueType::U16);
        volts.unit = Some("V".to_owned());
        let on = register("on", RegisterKind::Coil, 9, ValueType::Bool { bit: 0 });
        let model = ValueType::Text { registers: 1 };
        let model = register("model", RegisterKind::Input, 0, model);
        let plan = Plan::new(&unit(vec![volts, on, model]));
        let mut bits = vec![false; 8];
        bits[0] = true;
        let contents = [
            Some(Content::Bits(bits)),
            Some(Content::Words(vec![0x4d31, 230])),
        ];
        let pack = plan.pack(&contents);
        // [{bn: "meter-1/", n: "voltage", u: "V", v: 230}, {n: "on", vb: true},
        //  {n: "model", vs: "M1"}]
        let expected = b"\x83\xa4\x21\x68meter-1/\x00\x67voltage\x01\x61V\x02\x18\xe6\
                         \xa2\x00\x62on\x04\xf5\xa2\x00\x65model\x03\x62M1";
        assert_eq!(pack.payload, expected);
        assert!(pack.unfit.is_empty());
    }

    #[test]
    fn what_a_unit_refuses_or_cannot_measure_is_left_out() {
        let plan = Plan::new(&unit(vec![
            register("a", RegisterKind::Input, 0, ValueType::F32),
            register("b", RegisterKind::Input, 2, ValueType::U16),
            register("c", RegisterKind::Input, 10, ValueType::U16),
        ]));
        let pack = plan.pack(&[Some(Content::Words(vec![0x7fc0, 0, 7])), None]);
        assert_eq!(pack.unfit, [Unfit::NotANumber]);
        assert_eq!(pack.payload, b"\x81\xa3\x21\x68meter-1/\x00\x61b\x02\x07");
        assert!(plan.pack(&[None, None]).payload.is_empty());
    }

    #[test]
    fn a_response_of_another_length_or_function_is_none_to_the_block() {
        let words = block(RegisterKind::Holding, 0, 2);
        let content = |words: Vec<u16>| Response::ReadHoldingRegisters(words);
        assert!(words.content(content(vec![1, 2])).is_some());
        assert!(words.content(content(vec![1])).is_none());
        assert!(words.content(content(vec![1, 2, 3])).is_none());
        assert!(
            words
                .content(Response::ReadInputRegisters(vec![1, 2]))
                .is_none()
        );
        let bits = block(RegisterKind::Coil, 0, 9);
        assert!(bits.content(Response::ReadCoils(vec![true; 16])).is_some());
        assert!(bits.content(Response::ReadCoils(vec![true; 8])).is_none());
    }

    fn any_value() -> impl Strategy<Value = ValueType> {
        prop_oneof![
            (0_u8..16).prop_map(|bit| ValueType::Bool { bit }),
            Just(ValueType::U16),
            Just(ValueType::I32),
            Just(ValueType::F64),
            (1_u16..=125).prop_map(|registers| ValueType::Text { registers }),
        ]
    }

    fn any_register() -> impl Strategy<Value = Register> {
        let kind = prop_oneof![
            Just(RegisterKind::Coil),
            Just(RegisterKind::Discrete),
            Just(RegisterKind::Holding),
            Just(RegisterKind::Input)
        ];
        (kind, 0_u16..400, any_value()).prop_map(|(kind, address, value)| {
            let value = if kind.is_bits() {
                ValueType::Bool { bit: 0 }
            } else {
                value
            };
            register("a-name-of-some-length", kind, address, value)
        })
    }

    proptest! {
        /// Each register lies whole in its block, each block within the protocol, and whatever the
        /// unit answers is a record that can be read.
        #[test]
        fn any_plan_reads_every_register_and_makes_a_record(
            registers in proptest::collection::vec(any_register(), 1..40),
            seed in any::<u16>(),
        ) {
            let plan = Plan::new(&unit(registers));
            let contents: Vec<Option<Content>> = plan.blocks().iter().map(|block| {
                let count = usize::from(block.count);
                let word = |at| seed.wrapping_mul(at as u16 + 31);
                Some(if block.kind.is_bits() {
                    Content::Bits((0..count.next_multiple_of(8)).map(|at| word(at) & 1 == 1).collect())
                } else {
                    Content::Words((0..count).map(word).collect())
                })
            }).collect();
            for block in plan.blocks() {
                let most = if block.kind.is_bits() { BITS_MAX } else { WORDS_MAX };
                prop_assert!(block.count <= most);
            }
            let pack = plan.pack(&contents);
            let values = if pack.payload.is_empty() { 0 } else {
                senml::for_each(&pack.payload, |_| {}).expect("a pack")
            };
            prop_assert_eq!(values + pack.unfit.len(), plan.sources.len());
        }
    }
}
