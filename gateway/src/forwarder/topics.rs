//! The topics records go to: their counters, resolved once, and whether they are in trouble.

use std::collections::HashMap;
use std::sync::Arc;

use prometheus_client::metrics::counter::Counter;
use rdkafka::error::RDKafkaErrorCode;

use crate::metrics::{Metrics, TopicLabel};

/// Topic names can be made of captures, that is of what devices send: past this many they share
/// one counter.
const TOPICS_MAX: usize = 1_000;
/// Name of the counter they share; no topic can have it.
const OTHERS: &str = "(others)";

/// See the module.
#[derive(Debug)]
pub(super) struct Topics {
    metrics: Arc<Metrics>,
    numbers: HashMap<String, u16>,
    topics: Vec<Topic>,
}

#[derive(Debug)]
struct Topic {
    name: String,
    delivered: Counter,
    troubled: bool,
}

impl Topics {
    pub(super) fn new(metrics: Arc<Metrics>) -> Self {
        Self {
            metrics,
            numbers: HashMap::new(),
            topics: Vec::new(),
        }
    }

    /// The number of a topic.
    pub(super) fn number(&mut self, name: &str) -> u16 {
        if let Some(number) = self.numbers.get(name) {
            return *number;
        }
        if self.topics.len() >= TOPICS_MAX {
            return match self.numbers.get(OTHERS) {
                Some(number) => *number,
                None => self.add(OTHERS),
            };
        }
        self.add(name)
    }

    fn add(&mut self, name: &str) -> u16 {
        let number = u16::try_from(self.topics.len()).expect("at most TOPICS_MAX and one more");
        let label = TopicLabel {
            topic: name.to_owned(),
        };
        self.topics.push(Topic {
            name: name.to_owned(),
            delivered: self.metrics.delivered.get_or_create_owned(&label),
            troubled: false,
        });
        self.numbers.insert(name.to_owned(), number);
        number
    }

    /// The name of the topic with this number; `None` for those that share one.
    pub(super) fn name(&self, number: u16) -> Option<&str> {
        let topic = self.topics.get(usize::from(number))?;
        Some(topic.name.as_str()).filter(|name| *name != OTHERS)
    }

    /// Counts delivered records; ends the topic's trouble.
    pub(super) fn delivered(&mut self, number: u16, records: u64) {
        let Some(topic) = self.topics.get_mut(usize::from(number)) else {
            return;
        };
        topic.delivered.inc_by(records);
        if topic.troubled {
            topic.troubled = false;
            tracing::info!(topic = topic.name, "the topic takes records again");
        }
    }

    /// Notes that the topic refuses records, and says so if that is new.
    pub(super) fn troubled(&mut self, number: u16, code: RDKafkaErrorCode) {
        let Some(topic) = self.topics.get_mut(usize::from(number)) else {
            return;
        };
        if !topic.troubled {
            topic.troubled = true;
            tracing::warn!(topic = topic.name, %code, "the topic takes no records");
        }
    }
}
