//! From the bits of a table to a number, a truth or a text.
//!
//! A number that is not scaled stays what it is: an integer is sent as an integer. A scaled one is
//! a float; where the factor is one over a whole number (0.1, 0.01) it is divided by that, because
//! 2301 × 0.1 is 230.10000000000002 and 2301 ÷ 10 is 230.1.

use firmware_shim::senml::Number;

use crate::config::{Register, Scale, ValueType, WordOrder};

/// What a register holds.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Reading {
    Number(Number),
    Truth(bool),
    Text(String),
}

/// Why a register holds nothing that can be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unfit {
    /// A float that is NaN or infinite; meters say "not measured" so. SenML has no word for it.
    NotANumber,
    /// A string that is no UTF-8.
    NotText,
}

impl Unfit {
    /// Its word in the metrics.
    pub(super) fn reason(self) -> &'static str {
        match self {
            Self::NotANumber => "not_a_number",
            Self::NotText => "not_text",
        }
    }
}

/// A coil or discrete input.
pub(super) fn from_bit(bit: bool) -> Reading {
    Reading::Truth(bit)
}

/// The value of `register`, whose words are `words`, as many as its width.
pub(super) fn from_words(register: &Register, words: &[u16]) -> Result<Reading, Unfit> {
    let bytes = in_order(words, register.order);
    let number = match register.value {
        ValueType::Bool { bit } => {
            let word = words.first().copied().unwrap_or_default();
            return Ok(Reading::Truth(word >> bit & 1 == 1));
        }
        ValueType::Text { .. } => return text(&bytes).map(Reading::Text),
        ValueType::U16 => Number::from(u64::from(u16::from_be_bytes(fixed(&bytes)))),
        ValueType::I16 => Number::from(i64::from(i16::from_be_bytes(fixed(&bytes)))),
        ValueType::U32 => Number::from(u64::from(u32::from_be_bytes(fixed(&bytes)))),
        ValueType::I32 => Number::from(i64::from(i32::from_be_bytes(fixed(&bytes)))),
        ValueType::U64 => Number::from(u64::from_be_bytes(fixed(&bytes))),
        ValueType::I64 => Number::from(i64::from_be_bytes(fixed(&bytes))),
        ValueType::F32 => Number::Float(f64::from(f32::from_be_bytes(fixed(&bytes)))),
        ValueType::F64 => Number::Float(f64::from_be_bytes(fixed(&bytes))),
    };
    match register.scale.map_or(number, |scale| scaled(number, scale)) {
        Number::Float(float) if !float.is_finite() => Err(Unfit::NotANumber),
        fit => Ok(Reading::Number(fit)),
    }
}

/// The bytes of a value, highest first.
fn in_order(words: &[u16], order: WordOrder) -> Vec<u8> {
    let (lowest_first, swapped) = match order {
        WordOrder::Abcd => (false, false),
        WordOrder::Cdab => (true, false),
        WordOrder::Badc => (false, true),
        WordOrder::Dcba => (true, true),
    };
    let word = |word: &u16| {
        if swapped {
            word.to_le_bytes()
        } else {
            word.to_be_bytes()
        }
    };
    if lowest_first {
        words.iter().rev().flat_map(word).collect()
    } else {
        words.iter().flat_map(word).collect()
    }
}

fn fixed<const N: usize>(bytes: &[u8]) -> [u8; N] {
    bytes
        .try_into()
        .expect("a register is read with as many words as its type has")
}

fn text(bytes: &[u8]) -> Result<String, Unfit> {
    let end = bytes.iter().position(|byte| *byte == 0);
    let text = std::str::from_utf8(&bytes[..end.unwrap_or(bytes.len())]);
    text.map(|text| text.trim_end().to_owned())
        .map_err(|_| Unfit::NotText)
}

fn scaled(number: Number, scale: Scale) -> Number {
    let raw = match number {
        Number::Unsigned(raw) => raw as f64,
        Number::Negative(raw) => raw as f64,
        Number::Float(raw) => raw,
    };
    let Scale { factor, offset } = scale;
    let divisor = factor.recip().round();
    let product = if factor.abs() < 1.0 && divisor.recip() == factor {
        raw / divisor
    } else {
        raw * factor
    };
    Number::Float(product + offset)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::config::RegisterKind;

    fn register(value: ValueType, order: WordOrder) -> Register {
        Register {
            name: "r".to_owned(),
            kind: RegisterKind::Holding,
            address: 0,
            value,
            order,
            scale: None,
            unit: None,
        }
    }

    fn read(value: ValueType, order: WordOrder, words: &[u16]) -> Reading {
        from_words(&register(value, order), words).expect("fit")
    }

    fn unsigned(value: u64) -> Reading {
        Reading::Number(Number::Unsigned(value))
    }

    fn signed(value: i64) -> Reading {
        Reading::Number(Number::from(value))
    }

    fn float(value: f64) -> Reading {
        Reading::Number(Number::Float(value))
    }

    const ALL: [WordOrder; 4] = [
        WordOrder::Abcd,
        WordOrder::Cdab,
        WordOrder::Badc,
        WordOrder::Dcba,
    ];

    #[test]
    fn words_of_32_bits_are_read_in_each_order() {
        let words = [
            [0x0102, 0x0304],
            [0x0304, 0x0102],
            [0x0201, 0x0403],
            [0x0403, 0x0201],
        ];
        for (order, words) in ALL.into_iter().zip(words) {
            assert_eq!(read(ValueType::U32, order, &words), unsigned(0x0102_0304));
        }
        let words = [
            [0x4366, 0x199a],
            [0x199a, 0x4366],
            [0x6643, 0x9a19],
            [0x9a19, 0x6643],
        ];
        for (order, words) in ALL.into_iter().zip(words) {
            let expected = float(f64::from(230.1_f32));
            assert_eq!(read(ValueType::F32, order, &words), expected);
        }
    }

    #[test]
    fn words_of_64_bits_are_read_in_each_order() {
        let words = [
            [0x0102, 0x0304, 0x0506, 0x0708],
            [0x0708, 0x0506, 0x0304, 0x0102],
            [0x0201, 0x0403, 0x0605, 0x0807],
            [0x0807, 0x0605, 0x0403, 0x0201],
        ];
        for (order, words) in ALL.into_iter().zip(words) {
            let expected = unsigned(0x0102_0304_0506_0708);
            assert_eq!(read(ValueType::U64, order, &words), expected);
        }
        let pi = [0x4009, 0x21fb, 0x5444, 0x2d18];
        let expected = float(std::f64::consts::PI);
        assert_eq!(read(ValueType::F64, WordOrder::Abcd, &pi), expected);
    }

    #[test]
    fn words_of_16_bits_have_their_bytes_swapped_or_not() {
        for (order, word) in ALL.into_iter().zip([0x1234, 0x1234, 0x3412, 0x3412]) {
            assert_eq!(read(ValueType::U16, order, &[word]), unsigned(0x1234));
        }
    }

    #[test]
    fn signed_numbers_are_twos_complements() {
        let abcd = WordOrder::Abcd;
        assert_eq!(read(ValueType::I16, abcd, &[0xffff]), signed(-1));
        assert_eq!(read(ValueType::I16, abcd, &[0x7fff]), signed(32_767));
        let least = read(ValueType::I32, abcd, &[0x8000, 0]);
        assert_eq!(least, signed(i64::from(i32::MIN)));
        let words = [0xffff, 0xffff, 0xffff, 0xfffe];
        assert_eq!(read(ValueType::I64, abcd, &words), signed(-2));
    }

    #[test]
    fn a_bool_is_one_bit_of_a_word() {
        for bit in 0..16 {
            let value = ValueType::Bool { bit };
            let set = read(value, WordOrder::Abcd, &[1 << bit]);
            let clear = read(value, WordOrder::Abcd, &[!(1 << bit)]);
            assert_eq!((set, clear), (Reading::Truth(true), Reading::Truth(false)));
        }
    }

    #[test]
    fn a_string_ends_at_a_zero_or_its_last_visible_character() {
        let value = ValueType::Text { registers: 3 };
        let text = |text: &str| Reading::Text(text.to_owned());
        let abcd = WordOrder::Abcd;
        assert_eq!(read(value, abcd, &[0x4142, 0x4300, 0x4444]), text("ABC"));
        assert_eq!(read(value, abcd, &[0x4142, 0x2020, 0x2020]), text("AB"));
        assert_eq!(
            read(value, WordOrder::Badc, &[0x4241, 0x0043, 0]),
            text("ABC")
        );
        let unfit = from_words(&register(value, abcd), &[0xff00, 0, 0]);
        assert_eq!(unfit, Err(Unfit::NotText));
    }

    #[test]
    fn a_float_that_is_no_number_is_not_sent() {
        for words in [[0x7fc0, 0], [0x7f80, 0], [0xff80, 0]] {
            let unfit = from_words(&register(ValueType::F32, WordOrder::Abcd), &words);
            assert_eq!(unfit, Err(Unfit::NotANumber));
        }
    }

    #[test]
    fn a_scaled_number_is_the_decimal_that_people_expect() {
        let with = |factor, offset, word| {
            let scale = Some(Scale { factor, offset });
            let register = Register {
                scale,
                ..register(ValueType::I16, WordOrder::Abcd)
            };
            from_words(&register, &[word]).expect("fit")
        };
        assert_eq!(with(0.1, 0.0, 2301), float(230.1));
        assert_eq!(with(0.001, 0.0, 1_237), float(1.237));
        assert_eq!(with(-0.01, 0.0, 7), float(-0.07));
        assert_eq!(with(1.0, -40.0, 65), float(25.0));
        assert_eq!(with(2.5, 1.0, 0xffff), float(-1.5));
    }

    proptest! {
        #[test]
        fn every_64_bit_number_comes_back_in_every_order(value in any::<u64>(), order in 0_usize..4) {
            let words: Vec<u16> = (0..4).rev().map(|n| (value >> (16 * n)) as u16).collect();
            let as_device_keeps_it: Vec<u16> = match ALL[order] {
                WordOrder::Abcd => words,
                WordOrder::Cdab => words.into_iter().rev().collect(),
                WordOrder::Badc => words.into_iter().map(u16::swap_bytes).collect(),
                WordOrder::Dcba => words.into_iter().rev().map(u16::swap_bytes).collect(),
            };
            prop_assert_eq!(read(ValueType::U64, ALL[order], &as_device_keeps_it), unsigned(value));
            let signed_value = read(ValueType::I64, ALL[order], &as_device_keeps_it);
            prop_assert_eq!(signed_value, signed(value as i64));
        }

        #[test]
        fn any_words_are_read_without_a_panic(words in proptest::collection::vec(any::<u16>(), 4), order in 0_usize..4) {
            for value in [ValueType::F64, ValueType::U64, ValueType::Text { registers: 4 }] {
                if let Ok(Reading::Number(Number::Float(float))) =
                    from_words(&register(value, ALL[order]), &words)
                {
                    prop_assert!(float.is_finite());
                }
            }
        }
    }
}
