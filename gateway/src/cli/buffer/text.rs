//! Figures and bytes as people read them.

use std::fmt::Write as _;

use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::commit_log::offline::{Finding, What};

/// `8.0 MiB`, `300 B`.
pub(in crate::cli) fn size(bytes: u64) -> String {
    for (unit, name) in [(1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")] {
        if bytes >= unit {
            return format!("{:.1} {name}", bytes as f64 / unit as f64);
        }
    }
    format!("{bytes} B")
}

/// `3 days 4 h`, `59 s`.
pub(in crate::cli) fn age(seconds: u64) -> String {
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86_400);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds} s"),
        (0, 0, _) => format!("{minutes} min {} s", seconds % 60),
        (0, _, _) => format!("{hours} h {} min", minutes % 60),
        (1, _, _) => format!("1 day {} h", hours % 24),
        _ => format!("{days} days {} h", hours % 24),
    }
}

/// `1 record`, `2 records`, `1 batch`, `2 batches`.
pub(in crate::cli) fn counted(count: u64, what: &str) -> String {
    let plural = match what {
        _ if count == 1 => "",
        _ if what.ends_with("batch") => "es",
        _ => "s",
    };
    format!("{count} {what}{plural}")
}

/// A wall clock's time; `None` if it is beyond all calendars.
pub(in crate::cli) fn rfc3339(wall_ms: i64) -> Option<String> {
    let time = OffsetDateTime::from_unix_timestamp_nanos(i128::from(wall_ms) * 1_000_000).ok()?;
    time.format(&Rfc3339).ok()
}

/// Text from a wire, made safe for a terminal and cut to `characters_max`.
pub(in crate::cli) fn printable(text: &str, characters_max: usize) -> String {
    let mut out = String::new();
    for (index, character) in text.chars().enumerate() {
        if index == characters_max {
            out.push('…');
            break;
        }
        // Control characters could drive the terminal; so could those that turn text around.
        let is_plain = !character.is_control()
            && !matches!(character, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
        if is_plain {
            out.push(character);
        } else {
            out.extend(character.escape_default());
        }
    }
    out
}

/// `hex 00 ff …`
pub(in crate::cli) fn hex(bytes: &[u8], bytes_max: usize) -> String {
    let mut out = "hex".to_owned();
    for byte in bytes.iter().take(bytes_max) {
        // Writing to a string does not fail.
        let _ = write!(out, " {byte:02x}");
    }
    if bytes.len() > bytes_max {
        out.push_str(" …");
    }
    out
}

/// One line on a finding.
pub(in crate::cli) fn finding(finding: &Finding) -> String {
    let what = match finding.what {
        What::Bad => "bad batch",
        What::NoBatches => "no batch of this log in the file",
        What::Unreadable => "batch whose records cannot be read",
        What::ReadError => "cannot be read from here on",
        What::Overlap => "has offsets that the segment before it has",
        What::Missing => "records that no file holds",
        What::TornTail => "unsynced tail of a crash, will be cut",
        What::Recycled => "delivered and reused while it was read",
    };
    let mut line = format!("{}: byte {}", finding.file(), finding.position);
    if finding.bytes > 0 {
        let _ = write!(line, " to {}", finding.position + finding.bytes - 1);
    }
    let _ = write!(line, ": {what}");
    match finding.offsets {
        Some((first, last)) if first == last => {
            let _ = write!(line, ", offset {first}");
        }
        Some((first, last)) => {
            let _ = write!(line, ", offsets {first} to {last}");
        }
        None if finding.what.is_damage() => line.push_str(", no record lost"),
        None => {}
    }
    line.push('\n');
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_could_drive_a_terminal_is_escaped_and_the_rest_is_cut() {
        assert_eq!(printable("a\u{1b}[2Jß\n", 99), "a\\u{1b}[2Jß\\n");
        assert_eq!(printable("\u{202e}x", 99), "\\u{202e}x");
        assert_eq!(printable("abcdef", 3), "abc…");
        assert_eq!(hex(&[0, 255, 7], 2), "hex 00 ff …");
    }

    #[test]
    fn figures_read_as_people_say_them() {
        assert_eq!(size(300), "300 B");
        assert_eq!(size(8 << 20), "8.0 MiB");
        assert_eq!(age(59), "59 s");
        assert_eq!(age(3 * 86_400 + 4 * 3600 + 5), "3 days 4 h");
        assert_eq!(counted(1, "batch"), "1 batch");
        assert_eq!(counted(0, "batch"), "0 batches");
    }
}
