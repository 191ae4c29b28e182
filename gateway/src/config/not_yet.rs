//! What the contract has and this version lacks: refused by name, never silently accepted.

/// Values of keys that are there otherwise, `*` standing for the name of a source.
const VALUES: [(&str, &str); 3] = [
    ("sources.*.framing", "cobs"),
    ("sources.*.framing", "length-u16-be"),
    ("sources.*.framing", "slip"),
];

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
