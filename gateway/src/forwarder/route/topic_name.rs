//! Which topic names Kafka can have, and the nearest one to a name that it cannot.

/// Longest topic name, in bytes: Kafka keeps partitions in directories named
/// `<topic>-<partition>`.
pub const TOPIC_BYTES_MAX: usize = 249;

/// Whether Kafka can have a topic of this name: 1 to 249 of `[a-zA-Z0-9._-]`, and neither `.` nor
/// `..`.
#[must_use]
pub fn is_topic_name(name: &str) -> bool {
    (1..=TOPIC_BYTES_MAX).contains(&name.len())
        && name.bytes().all(is_allowed)
        && name != "."
        && name != ".."
}

/// A name that Kafka can have: what is not allowed becomes `_`, what is too long is cut.
pub(super) fn repaired(name: &str) -> String {
    if name.is_empty() || name == "." || name == ".." {
        return "_".repeat(name.len().max(1));
    }
    let allowed = |c: char| {
        if u8::try_from(c).is_ok_and(is_allowed) {
            c
        } else {
            '_'
        }
    };
    name.chars().map(allowed).take(TOPIC_BYTES_MAX).collect()
}

fn is_allowed(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-')
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn names_that_kafka_refuses_are_refused() {
        let long = "x".repeat(TOPIC_BYTES_MAX + 1);
        for name in ["", ".", "..", "a b", "a/b", "café", long.as_str()] {
            assert!(!is_topic_name(name), "{name:?}");
        }
        for name in ["a", "...", "A-b_c.9", &long[1..]] {
            assert!(is_topic_name(name), "{name:?}");
        }
    }

    #[test]
    fn each_character_that_is_not_allowed_becomes_one_underscore() {
        assert_eq!(repaired("city/Bad Tölz"), "city_Bad_T_lz");
        assert_eq!(repaired(".."), "__");
        assert_eq!(repaired(""), "_");
    }

    proptest! {
        #[test]
        fn a_repaired_name_is_always_a_topic_name(name in any::<String>()) {
            prop_assert!(is_topic_name(&repaired(&name)));
        }
    }
}
