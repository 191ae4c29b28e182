//! The simulated devices: their names, where they stand, and the topics they publish to.

use std::fmt::Write as _;

use crate::profile::Profile;

/// Districts of the simulated city; a device's index decides where it stands.
const DISTRICTS: [&str; 8] = [
    "harbour",
    "old-town",
    "station",
    "university",
    "riverside",
    "airport",
    "hill",
    "market",
];

/// Devices of one kind, numbered from `first`.
#[derive(Clone, Copy, Debug)]
pub struct Fleet {
    /// What they measure.
    pub profile: Profile,
    /// Seed of all their values.
    pub seed: u64,
    /// Index of the first device, so that several runs can share a broker.
    pub first: u32,
    /// How many there are, at least 1.
    pub devices: u32,
}

impl Fleet {
    /// The stable name of device `index`, `air-007` for instance.
    #[must_use]
    pub fn device_name(&self, index: u32) -> String {
        format!("{}-{index:03}", self.profile.name())
    }

    /// What the `source` field of payloads says.
    #[must_use]
    pub fn source(&self) -> String {
        format!("sim/{}", self.profile.name())
    }

    /// Indices of the devices that share `connection` of `connections`.
    pub fn share(&self, connection: u32, connections: u32) -> impl Iterator<Item = u32> {
        let indices = self.first..self.first + self.devices;
        indices
            .skip(connection as usize)
            .step_by(connections as usize)
    }

    /// How many of `count` messages, dealt one device after the other, fall to a share.
    #[must_use]
    pub fn share_of_count(&self, count: u64, connection: u32, connections: u32) -> u64 {
        let devices = u64::from(self.devices);
        let members = (connection..self.devices).step_by(connections as usize);
        members
            .map(|device| count / devices + u64::from(u64::from(device) < count % devices))
            .sum()
    }
}

/// District of the device with this index.
#[must_use]
pub const fn district(index: u32) -> &'static str {
    DISTRICTS[index as usize % DISTRICTS.len()]
}

/// A topic with places for what differs between devices: `city/{district}/air/{device}`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopicTemplate {
    parts: Vec<Part>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    Text(String),
    Device,
    District,
    Profile,
    Index,
}

/// Why a topic template cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TopicError {
    /// A topic needs at least one character.
    #[error("the topic is empty")]
    Empty,
    /// A topic that is published to names one place.
    #[error("the topic {topic:?} holds {character:?}, which only a subscription may")]
    Forbidden {
        /// The template.
        topic: String,
        /// What may not be in it.
        character: char,
    },
    /// A brace without its partner.
    #[error("the topic {topic:?} has an unpaired brace")]
    Unpaired {
        /// The template.
        topic: String,
    },
    /// A placeholder that does not exist.
    #[error("the topic has {{{name}}}; known are {{device}}, {{district}}, {{profile}}, {{index}}")]
    Unknown {
        /// What stood between the braces.
        name: String,
    },
}

impl std::str::FromStr for TopicTemplate {
    type Err = TopicError;

    fn from_str(topic: &str) -> Result<Self, TopicError> {
        if topic.is_empty() {
            return Err(TopicError::Empty);
        }
        if let Some(character) = topic.chars().find(|c| matches!(c, '+' | '#' | '\0')) {
            return Err(TopicError::Forbidden {
                topic: topic.to_owned(),
                character,
            });
        }
        let unpaired = || TopicError::Unpaired {
            topic: topic.to_owned(),
        };
        let mut parts = Vec::new();
        let mut rest = topic;
        while let Some((text, behind)) = rest.split_once('{') {
            let (name, after) = behind.split_once('}').ok_or_else(unpaired)?;
            parts.push(literal(text).ok_or_else(unpaired)?);
            parts.push(placeholder(name)?);
            rest = after;
        }
        parts.push(literal(rest).ok_or_else(unpaired)?);
        Ok(Self { parts })
    }
}

fn literal(text: &str) -> Option<Part> {
    (!text.contains('}')).then(|| Part::Text(text.to_owned()))
}

fn placeholder(name: &str) -> Result<Part, TopicError> {
    match name {
        "device" => Ok(Part::Device),
        "district" => Ok(Part::District),
        "profile" => Ok(Part::Profile),
        "index" => Ok(Part::Index),
        other => Err(TopicError::Unknown {
            name: other.to_owned(),
        }),
    }
}

impl TopicTemplate {
    /// The topic of device `index` of `fleet`.
    #[must_use]
    pub fn topic(&self, fleet: &Fleet, index: u32) -> String {
        let mut topic = String::new();
        for part in &self.parts {
            match part {
                Part::Text(text) => topic.push_str(text),
                Part::Device => topic.push_str(&fleet.device_name(index)),
                Part::District => topic.push_str(district(index)),
                Part::Profile => topic.push_str(fleet.profile.name()),
                Part::Index => write!(topic, "{index}").expect("a String takes all text"),
            }
        }
        topic
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FLEET: Fleet = Fleet {
        profile: Profile::Air,
        seed: 1,
        first: 5,
        devices: 7,
    };

    #[test]
    fn a_template_becomes_the_topic_of_its_device() {
        let template: TopicTemplate = "city/{district}/{profile}/{device}/{index}"
            .parse()
            .unwrap();
        assert_eq!(template.topic(&FLEET, 7), "city/market/air/air-007/7");
        let plain: TopicTemplate = "plain".parse().unwrap();
        assert_eq!(plain.topic(&FLEET, 7), "plain");
    }

    #[test]
    fn a_template_that_is_no_topic_is_refused_with_its_reason() {
        let parse = |text: &str| text.parse::<TopicTemplate>().unwrap_err();
        assert_eq!(parse(""), TopicError::Empty);
        assert!(matches!(
            parse("a/+/b"),
            TopicError::Forbidden { character: '+', .. }
        ));
        assert!(matches!(
            parse("a/#"),
            TopicError::Forbidden { character: '#', .. }
        ));
        assert!(matches!(parse("a/{device"), TopicError::Unpaired { .. }));
        assert!(matches!(parse("a/device}"), TopicError::Unpaired { .. }));
        assert!(matches!(parse("a}/{device}"), TopicError::Unpaired { .. }));
        assert_eq!(
            parse("{town}"),
            TopicError::Unknown {
                name: "town".to_owned()
            }
        );
    }

    #[test]
    fn connections_share_all_devices_and_all_messages() {
        for connections in 1..=7 {
            let mut devices: Vec<u32> = (0..connections)
                .flat_map(|c| FLEET.share(c, connections))
                .collect();
            devices.sort_unstable();
            assert_eq!(devices, (5..12).collect::<Vec<_>>());
            for count in [0, 1, 6, 7, 8, 1_000] {
                let shares = (0..connections).map(|c| FLEET.share_of_count(count, c, connections));
                assert_eq!(shares.sum::<u64>(), count, "{connections} connections");
            }
        }
    }
}
