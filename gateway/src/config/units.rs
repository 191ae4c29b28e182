//! Sizes such as `"64 MiB"` and durations such as `"250 ms"`.

use std::time::Duration;

const SIZES: [(&str, u64); 7] = [
    ("B", 1),
    ("kB", 1000),
    ("MB", 1_000_000),
    ("GB", 1_000_000_000),
    ("KiB", 1 << 10),
    ("MiB", 1 << 20),
    ("GiB", 1 << 30),
];

const DURATIONS_MS: [(&str, u64); 6] = [
    ("ms", 1),
    ("s", 1000),
    ("min", 60_000),
    ("h", 3_600_000),
    ("day", 86_400_000),
    ("days", 86_400_000),
];

/// Bytes in a size: a whole number, perhaps a space, and B, kB, MB, GB, KiB, MiB or GiB.
pub(super) fn size(text: &str) -> Option<u64> {
    quantity(text, &SIZES)
}

/// A duration: a whole number, perhaps a space, and ms, s, min, h, day or days.
pub(super) fn duration(text: &str) -> Option<Duration> {
    quantity(text, &DURATIONS_MS).map(Duration::from_millis)
}

/// A size as one would write it.
pub(super) fn show_size(bytes: u64) -> String {
    show(bytes, &SIZES)
}

/// A duration as one would write it.
pub(super) fn show_duration(duration: Duration) -> String {
    let ms = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    if ms == DURATIONS_MS[4].1 {
        return "1 day".to_owned();
    }
    show(ms, &DURATIONS_MS)
}

fn quantity(text: &str, units: &[(&str, u64)]) -> Option<u64> {
    let text = text.trim();
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let factor = units.iter().find(|(name, _)| *name == unit.trim_start())?.1;
    number.parse::<u64>().ok()?.checked_mul(factor)
}

/// The largest unit that divides the quantity; of equal ones, the last.
fn show(quantity: u64, units: &[(&str, u64)]) -> String {
    let (name, factor) = units
        .iter()
        .filter(|(_, factor)| quantity != 0 && quantity.is_multiple_of(*factor))
        .max_by_key(|(_, factor)| *factor)
        .unwrap_or(&units[0]);
    format!("{} {name}", quantity / factor)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn sizes_and_durations_are_read_with_and_without_a_space() {
        assert_eq!(size("64 MiB"), Some(64 << 20));
        assert_eq!(size("1GB"), Some(1_000_000_000));
        assert_eq!(duration("30 min"), Some(Duration::from_secs(1800)));
        assert_eq!(duration("1 day"), duration("24h"));
    }

    #[test]
    fn what_is_no_size_or_duration_is_refused() {
        for text in [
            "",
            "64",
            "MiB",
            "-1 B",
            "1.5 MiB",
            "64 mib",
            "99999999999 GiB",
            "5 s s",
        ] {
            assert_eq!(size(text), None, "{text}");
            assert_eq!(duration(text), None, "{text}");
        }
    }

    proptest! {
        #[test]
        fn what_is_shown_reads_as_the_same(quantity in any::<u64>()) {
            prop_assert_eq!(size(&show_size(quantity)), Some(quantity));
            let duration_ms = Duration::from_millis(quantity);
            prop_assert_eq!(duration(&show_duration(duration_ms)), Some(duration_ms));
        }
    }
}
