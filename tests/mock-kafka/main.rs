//! `mock-kafka`: librdkafka's mock cluster as a process.
//!
//! Prints its bootstrap servers, then takes commands on standard input, one a line, and answers each
//! with `ok` or `error: …`. It ends with its input, and so with whoever started it.
//!
//! ```text
//! down                    the broker closes its connections and refuses new ones
//! up                      it is back
//! rtt MS                  every answer takes so long
//! topic NAME PARTITIONS   creates a topic
//! error CODE COUNT        the next COUNT produce requests fail with Kafka's error CODE (a number;
//!                         -195 closes the connection)
//! ```

use std::io::{BufRead as _, Write as _};
use std::process::ExitCode;
use std::time::Duration;

use rdkafka::mocking::MockCluster;
use rdkafka::producer::DefaultProducerContext;
use rdkafka::types::{RDKafkaApiKey, RDKafkaRespErr};

const BROKER: i32 = 1;

type Cluster = MockCluster<'static, DefaultProducerContext>;

fn main() -> ExitCode {
    let cluster = match Cluster::new(BROKER) {
        Ok(cluster) => cluster,
        Err(error) => {
            eprintln!("mock-kafka: {error}");
            return ExitCode::FAILURE;
        }
    };
    say(&cluster.bootstrap_servers());
    for line in std::io::stdin().lock().lines().map_while(Result::ok) {
        match perform(&cluster, &line) {
            Ok(()) => say("ok"),
            Err(reason) => say(&format!("error: {reason}")),
        }
    }
    ExitCode::SUCCESS
}

fn say(line: &str) {
    let mut out = std::io::stdout().lock();
    // Whoever started us may be gone; the next read of the input ends the program.
    let _ = writeln!(out, "{line}");
    let _ = out.flush();
}

fn perform(cluster: &Cluster, line: &str) -> Result<(), String> {
    let words: Vec<&str> = line.split_whitespace().collect();
    let done = match *words.as_slice() {
        ["down"] => cluster.broker_down(BROKER),
        ["up"] => cluster.broker_up(BROKER),
        ["rtt", ms] => cluster.broker_round_trip_time(BROKER, Duration::from_millis(number(ms)?)),
        ["topic", name, partitions] => cluster.create_topic(name, number(partitions)?, 1),
        ["error", code, count] => {
            let errors = vec![response_error(code)?; number(count)?];
            cluster.request_errors(RDKafkaApiKey::Produce, &errors);
            Ok(())
        }
        _ => return Err(format!("no such command: {line:?}")),
    };
    done.map_err(|error| error.to_string())
}

fn number<T: std::str::FromStr>(word: &str) -> Result<T, String> {
    word.parse().map_err(|_| format!("{word:?} is no number"))
}

fn response_error(code: &str) -> Result<RDKafkaRespErr, String> {
    RDKafkaRespErr::try_from(number::<i32>(code)?).map_err(|_| format!("no error has code {code}"))
}
