//! Routes: which topic, key and headers a record gets.
//!
//! Patterns and templates are compiled when the configuration is read, so that whatever can be
//! wrong with them is known then. Routing a record cannot fail, and fills buffers that are used
//! again for the next one: in the steady state it allocates nothing.
//!
//! The first route whose source and pattern match wins; where none does, the defaults of `[kafka]`
//! apply. A rendered topic that Kafka could not have is repaired, and says so
//! ([`Routed::topic_repaired`]), so that a device with an odd name costs its records a wrong topic
//! name but neither their delivery nor their order.

mod pattern;
mod template;
mod topic_name;

use std::ops::Range;

pub use pattern::{Pattern, PatternError};
pub use template::{Template, TemplateError};
pub use topic_name::{TOPIC_BYTES_MAX, is_topic_name};

use crate::record::{RecordView, SourceName};
use template::Values;

/// One compiled `[[routes]]` entry. Its templates are compiled against its own pattern, so that
/// they name no capture that the pattern lacks.
#[derive(Clone, Debug)]
pub struct Route {
    source: Option<SourceName>,
    pattern: Pattern,
    topic: Option<Template>,
    key: Option<Template>,
    headers: Vec<(String, Template)>,
    drops: bool,
}

impl Route {
    /// A route for the subjects that match `pattern`, of one source or of all. Until told
    /// otherwise it gives its records the default topic and key, and no headers.
    #[must_use]
    pub fn new(source: Option<SourceName>, pattern: Pattern) -> Self {
        Self {
            source,
            pattern,
            topic: None,
            key: None,
            headers: Vec::new(),
            drops: false,
        }
    }

    /// Has the route drop its records: they are not for Kafka.
    pub fn set_drop(&mut self) {
        self.drops = true;
    }

    /// Names of the captures that its templates may use.
    #[must_use]
    pub fn captures(&self) -> &[String] {
        self.pattern.captures()
    }

    /// Sets the topic.
    ///
    /// # Errors
    /// [`TemplateError`]; the route is unchanged.
    pub fn set_topic(&mut self, template: &str) -> Result<(), TemplateError> {
        self.topic = Some(self.compile(template)?);
        Ok(())
    }

    /// Sets the key. A template that renders to nothing means no key.
    ///
    /// # Errors
    /// [`TemplateError`]; the route is unchanged.
    pub fn set_key(&mut self, template: &str) -> Result<(), TemplateError> {
        self.key = Some(self.compile(template)?);
        Ok(())
    }

    /// Adds a header.
    ///
    /// # Errors
    /// [`TemplateError`]; the route is unchanged.
    pub fn add_header(&mut self, name: &str, template: &str) -> Result<(), TemplateError> {
        let value = self.compile(template)?;
        self.headers.push((name.to_owned(), value));
        Ok(())
    }

    fn compile(&self, template: &str) -> Result<Template, TemplateError> {
        Template::parse(template, self.captures())
    }

    fn takes(&self, record: &RecordView<'_>, captures: &mut Vec<Range<usize>>) -> bool {
        let from_source = match &self.source {
            Some(source) => source.as_str() == record.source,
            None => true,
        };
        from_source && self.pattern.matches(record.subject, captures)
    }
}

/// All routes, and what holds where none matches.
#[derive(Clone, Debug)]
pub struct Router {
    routes: Vec<Route>,
    topic: String,
    key: Template,
    has_drops: bool,
}

impl Router {
    /// A router that tries `routes` in order; `topic` and `key` are the defaults of `[kafka]`.
    #[must_use]
    pub fn new(routes: Vec<Route>, topic: &str, key: Template) -> Self {
        Self {
            has_drops: routes.iter().any(|route| route.drops),
            routes,
            topic: topic.to_owned(),
            key,
        }
    }

    /// Whether the route that takes a record drops it, in the memory of `routed`; of that nothing
    /// is left. One that is dropped is not to be routed. Costs nothing where no route drops.
    pub fn drops(&self, record: &RecordView<'_>, routed: &mut Routed) -> bool {
        self.has_drops && self.find(record, routed).is_some_and(|route| route.drops)
    }

    /// Finds where a record goes, and fills `routed` with it. What `routed` held before is gone.
    pub fn route(&self, record: &RecordView<'_>, routed: &mut Routed) {
        let route = self.find(record, routed);
        routed.render_topic(route.and_then(|route| route.topic.as_ref()), self, record);
        let key = route.and_then(|route| route.key.as_ref());
        routed.key = routed.render(key.unwrap_or(&self.key), record);
        routed.headers.clear();
        for (name, value) in route.iter().flat_map(|route| &route.headers) {
            let name = routed.push(name);
            let value = routed.render(value, record);
            routed.headers.push(Header { name, value });
        }
    }

    /// The record's device alone (DESIGN §4), in the memory of `routed`; of that nothing else is
    /// left.
    pub fn device<'r>(&self, record: &RecordView<'_>, routed: &'r mut Routed) -> &'r str {
        let _route = self.find(record, routed);
        let values = Values {
            record,
            captures: &routed.captures,
            device: routed.device,
        };
        values.push_device(&mut routed.text);
        &routed.text
    }

    /// Empties `routed` and looks which route takes the record.
    fn find(&self, record: &RecordView<'_>, routed: &mut Routed) -> Option<&Route> {
        let Routed { text, captures, .. } = routed;
        text.clear();
        let mut routes = self.routes.iter();
        let route = routes.find(|route| route.takes(record, captures));
        routed.device = route.and_then(|route| route.pattern.device());
        route
    }
}

/// Where a record goes. Made once and filled again for every record by [`Router::route`].
#[derive(Debug, Default)]
pub struct Routed {
    /// Topic, key, and names and values of headers, one behind the other.
    text: String,
    topic: Range<usize>,
    topic_repaired: bool,
    key: Range<usize>,
    headers: Vec<Header>,
    /// What the route's pattern captured of the subject, and which of it is the device.
    captures: Vec<Range<usize>>,
    device: Option<usize>,
}

#[derive(Debug)]
struct Header {
    name: Range<usize>,
    value: Range<usize>,
}

impl Routed {
    /// The Kafka topic, always one that Kafka can have.
    #[must_use]
    pub fn topic(&self) -> &str {
        &self.text[self.topic.clone()]
    }

    /// The route asked for a topic name that Kafka cannot have: characters outside
    /// `[a-zA-Z0-9._-]` became `_`, and what was too long was cut. To be counted.
    #[must_use]
    pub fn topic_repaired(&self) -> bool {
        self.topic_repaired
    }

    /// The key; `None` where it is empty.
    #[must_use]
    pub fn key(&self) -> Option<&str> {
        let key = &self.text[self.key.clone()];
        (!key.is_empty()).then_some(key)
    }

    /// The route's own headers as name and value, in the order in which they were added.
    pub fn headers(&self) -> impl ExactSizeIterator<Item = (&str, &str)> {
        self.headers.iter().map(|header| {
            let name = &self.text[header.name.clone()];
            (name, &self.text[header.value.clone()])
        })
    }

    fn render_topic(&mut self, topic: Option<&Template>, router: &Router, record: &RecordView<'_>) {
        self.topic = match topic {
            Some(topic) => self.render(topic, record),
            None => self.push(&router.topic),
        };
        self.topic_repaired = !is_topic_name(self.topic());
        if self.topic_repaired {
            let repaired = topic_name::repaired(self.topic());
            self.text.clear();
            self.topic = self.push(&repaired);
        }
    }

    fn render(&mut self, template: &Template, record: &RecordView<'_>) -> Range<usize> {
        let start = self.text.len();
        let values = Values {
            record,
            captures: &self.captures,
            device: self.device,
        };
        template.render(&values, &mut self.text);
        start..self.text.len()
    }

    fn push(&mut self, text: &str) -> Range<usize> {
        let start = self.text.len();
        self.text.push_str(text);
        start..self.text.len()
    }
}

#[cfg(test)]
mod tests;
