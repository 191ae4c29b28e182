//! Asks a gateway over HTTP.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::Duration;

/// Status and body of the answer at a port of the loopback interface; `None` where there is none.
#[must_use]
pub fn get(port: u16, path: &str) -> Option<(u16, String)> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).ok()?;
    stream
        .set_read_timeout(Some(Duration::from_secs(10)))
        .ok()?;
    let request = format!("GET {path} HTTP/1.1\r\nHost: gateway\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    let (head, body) = answer.split_once("\r\n\r\n")?;
    let status = head.split(' ').nth(1)?.parse().ok()?;
    Some((status, body.to_owned()))
}

/// Sum of the samples of a metric (its full name) that carry all of `labels`; `None` where there are
/// none, or no answer.
#[must_use]
pub fn metric(port: u16, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
    let (_, text) = get(port, "/metrics")?;
    sum(&text, name, labels)
}

fn sum(text: &str, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
    let mut total = None;
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let Some((series, value)) = line.rsplit_once(' ') else {
            continue;
        };
        let (series_name, own_labels) = series.split_once('{').unwrap_or((series, ""));
        let has =
            |(label, value): &(&str, &str)| own_labels.contains(&format!("{label}=\"{value}\""));
        if series_name == name && labels.iter().all(has) {
            total = Some(total.unwrap_or(0.0) + value.parse::<f64>().ok()?);
        }
    }
    total
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "# TYPE a_total counter\n\
        a_total{source=\"x\",reason=\"crc\"} 2\na_total{source=\"y\",reason=\"crc\"} 3\n\
        a_total_more{source=\"x\"} 9\nb 1.5\n# EOF\n";

    #[test]
    fn a_metric_is_the_sum_of_the_series_with_its_labels() {
        assert_eq!(sum(TEXT, "a_total", &[("reason", "crc")]), Some(5.0));
        assert_eq!(sum(TEXT, "a_total", &[("source", "y")]), Some(3.0));
        assert_eq!(sum(TEXT, "b", &[]), Some(1.5));
        assert_eq!(sum(TEXT, "c", &[]), None);
    }
}
