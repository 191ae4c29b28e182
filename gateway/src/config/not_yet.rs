//! What the contract has and this version lacks: refused by name, never silently accepted.

/// Keys, `*` standing for the name of a source.
const KEYS: [&str; 2] = ["kafka.transaction_interval", "kafka.offsets_topic"];

/// Values of keys that are there otherwise.
const VALUES: [(&str, &str); 4] = [
    ("kafka.delivery", "exactly_once"),
    ("sources.*.framing", "cobs"),
    ("sources.*.framing", "length-u16-be"),
    ("sources.*.framing", "slip"),
];

/// Whether the contract has this key and this version lacks it.
pub(super) fn has_key(key: &str) -> bool {
    KEYS.contains(&general(key).as_str())
}

/// Whether the contract has this value of this key and this version lacks it.
pub(super) fn has_value(key: &str, value: &str) -> bool {
    VALUES.contains(&(general(key).as_str(), value))
}

fn general(key: &str) -> String {
    match key
        .strip_prefix("sources.")
        .and_then(|rest| rest.rsplit_once('.'))
    {
        Some((_, last)) => format!("sources.*.{last}"),
        None => key.to_owned(),
    }
}
