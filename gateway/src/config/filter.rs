//! MQTT topic filters (MQTT 5.0, sections 4.7 and 4.8.2).

/// Longest filter in bytes: a UTF-8 string of MQTT has a length of 16 bits.
const FILTER_BYTES_MAX: usize = 65_535;

/// Checks a topic filter, shared subscriptions included.
///
/// # Errors
/// What is wrong with it.
pub(super) fn check(filter: &str) -> Result<(), &'static str> {
    if filter.len() > FILTER_BYTES_MAX {
        return Err("the filter is longer than 65535 bytes");
    }
    if filter.contains('\0') {
        return Err("the filter holds a NUL character");
    }
    match filter.strip_prefix("$share/") {
        Some(shared) => check_shared(shared),
        None if filter == "$share" => Err("a shared subscription is \"$share/<group>/<filter>\""),
        None => check_levels(filter),
    }
}

fn check_shared(shared: &str) -> Result<(), &'static str> {
    let (group, filter) = shared
        .split_once('/')
        .ok_or("a shared subscription is \"$share/<group>/<filter>\"")?;
    if group.is_empty() || group.contains(['+', '#']) {
        return Err("the group of a shared subscription is neither empty nor holds \"+\" or \"#\"");
    }
    check_levels(filter)
}

fn check_levels(filter: &str) -> Result<(), &'static str> {
    if filter.is_empty() {
        return Err("the filter is empty");
    }
    let mut levels = filter.split('/').peekable();
    while let Some(level) = levels.next() {
        if level == "#" && levels.peek().is_some() {
            return Err("\"#\" must be the last level");
        }
        if level.len() > 1 && level.contains(['+', '#']) {
            return Err("\"+\" and \"#\" stand for whole levels");
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters_that_a_broker_would_refuse_are_refused() {
        for filter in [
            "",
            "a/#/b",
            "a#",
            "a/b+",
            "##",
            "a\0",
            "$share",
            "$share/",
            "$share/g",
            "$share/g/",
            "$share//a",
            "$share/+/a",
            "$share/g/a#",
        ] {
            assert!(check(filter).is_err(), "{filter:?}");
        }
    }

    #[test]
    fn filters_that_a_broker_takes_are_taken() {
        for filter in [
            "a",
            "/",
            "#",
            "+",
            "+/+",
            "a//b",
            "a/#",
            "$SYS/#",
            "$share/g/a/#",
        ] {
            assert_eq!(check(filter), Ok(()), "{filter:?}");
        }
    }
}
