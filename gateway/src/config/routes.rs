//! `[[routes]]`.

use super::nearest::nearest;
use super::tree::{Section, Value};
use super::{Source, SourceKind};
use crate::forwarder::route::{Pattern, Route, Template, TemplateError, is_topic_name};
use crate::record::SourceName;

/// Headers that the gateway sets itself (DESIGN §8).
const RESERVED_HEADERS: [&str; 7] = [
    "ce_specversion",
    "ce_id",
    "ce_source",
    "ce_type",
    "ce_subject",
    "ce_time",
    "content-type",
];

const TEMPLATE_HINT: &str = "{names} are captures of match, {source}, {device} and {subject}";

/// Reads all routes, in the order of the file. `declared` are the sources that the file names,
/// `sources` those that have no mistakes.
pub(super) fn read(
    value: &Value<'_>,
    declared: Option<&Section<'_>>,
    sources: &[Source],
) -> Vec<Route> {
    let names: Vec<&str> = declared
        .map(Section::entries)
        .unwrap_or_default()
        .into_iter()
        .map(|(name, _)| name)
        .collect();
    let routes = value.list("[[routes]]").unwrap_or_default();
    routes
        .iter()
        .filter_map(|value| route(value, &names, sources))
        .collect()
}

fn route(value: &Value<'_>, names: &[&str], sources: &[Source]) -> Option<Route> {
    let mut section = value.section()?;
    let source = section
        .get("source")
        .and_then(|value| source(&value, names));
    let pattern = section
        .required("match", "match = \"city/{district}/air/{device}\"")
        .and_then(|value| pattern(&value, source.as_ref(), sources));
    let mut route = Draft {
        route: pattern.map(|pattern| Route::new(source, pattern)),
    };
    let drops = section.get("drop").and_then(|value| value.boolean());
    if drops == Some(true) {
        only_drops(&mut section);
        section.finish();
        return route.route.map(|mut route| {
            route.set_drop();
            route
        });
    }
    if let Some(value) = section.required("topic", "topic = \"air-quality\"") {
        topic(&value, &mut route);
    }
    if let Some(value) = section.get("key") {
        route.set(&value, "{device}", Route::set_key);
    }
    let headers = section.get("headers").and_then(|value| value.section());
    for (name, value) in headers.map(|section| section.entries()).unwrap_or_default() {
        header(name, &value, &mut route);
    }
    section.finish();
    route.route
}

/// A route that drops has nothing to say of Kafka.
fn only_drops(section: &mut Section<'_>) {
    for name in ["topic", "key", "headers"] {
        if let Some(value) = section.get(name) {
            let hint = format!("remove {name}, or drop = true");
            value.wrong("makes no sense on a route that drops its records", hint);
        }
    }
}

/// A route whose pattern may be wrong, in which case its templates are still checked as far as
/// they can be.
struct Draft {
    route: Option<Route>,
}

impl Draft {
    fn set(
        &mut self,
        value: &Value<'_>,
        example: &str,
        set: impl FnOnce(&mut Route, &str) -> Result<(), TemplateError>,
    ) {
        let Some(text) = value.text(example) else {
            return;
        };
        let outcome = match &mut self.route {
            Some(route) => set(route, text),
            None => Template::check_braces(text),
        };
        if let Err(error) = outcome {
            value.wrong(error.to_string(), TEMPLATE_HINT);
        }
    }
}

fn source(value: &Value<'_>, names: &[&str]) -> Option<SourceName> {
    let name = value.text("city")?;
    if names.contains(&name) {
        return SourceName::new(name).ok();
    }
    let hint = match nearest(name, names.iter().copied()) {
        Some(near) => format!("did you mean {near:?}?"),
        None => format!("sources are: {}", names.join(", ")),
    };
    value.wrong(format!("there is no source {name:?}"), hint);
    None
}

fn pattern(value: &Value<'_>, source: Option<&SourceName>, sources: &[Source]) -> Option<Pattern> {
    let text = value.text("city/{district}/air/{device}")?;
    let pattern = match Pattern::parse(text) {
        Ok(pattern) => pattern,
        Err(error) => {
            let hint = "write levels, captures, \"+\" and \"#\", as in \"city/{district}/air/#\"";
            value.wrong(format!("{text:?} is not a pattern: {error}"), hint);
            return None;
        }
    };
    let serial = source.filter(|name| {
        let mut serial = sources
            .iter()
            .filter(|source| matches!(source.kind, SourceKind::Serial(_) | SourceKind::Modbus(_)));
        serial.any(|source| source.name == **name)
    });
    if let (Some(name), Some(first)) = (serial, pattern.first_level())
        && first != name.as_str()
    {
        value.wrong(
            format!("{text:?} never matches: subjects of source {name} begin with \"{name}/\""),
            format!("write \"{name}/{{device}}\""),
        );
    }
    Some(pattern)
}

fn topic(value: &Value<'_>, route: &mut Draft) {
    route.set(value, "air-quality", |route, text| {
        route.set_topic(text)?;
        // A template's captures are known when a record comes; its own text is known now.
        let template = Template::parse(text, route.captures())?;
        let name: String = template.texts().collect();
        let fits = is_topic_name(&name) || (!template.is_plain() && fits_a_topic(&name));
        if !fits {
            value.wrong(
                format!("{text:?} is not a topic of Kafka"),
                "write 1 to 249 letters, digits, \".\", \"_\" and \"-\"",
            );
        }
        Ok(())
    });
}

/// Whether a topic name may have this text in it.
fn fits_a_topic(text: &str) -> bool {
    is_topic_name(&format!("_{text}"))
}

fn header(name: &str, value: &Value<'_>, route: &mut Draft) {
    if name.is_empty() || name.contains('\0') {
        value.wrong("is not a name for a header", "write one or more characters");
    }
    if RESERVED_HEADERS.contains(&name) {
        value.wrong(
            "is a header that the gateway sets itself",
            "choose another name",
        );
    }
    route.set(value, "{district}", |route, text| {
        route.add_header(name, text)
    });
}
