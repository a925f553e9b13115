//! Log lines as events: what a program writes with `--log-format json`.
//!
//! `docs/logs.md` lists the events and their fields.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::Value;

/// A field and the text of its value.
pub(crate) type Field<'a> = (&'a str, &'a str);

/// One log line.
#[derive(Clone, Debug)]
pub(crate) struct Event {
    /// The field `event`. Empty if the line has none.
    name: String,
    /// The sentence for people.
    pub(crate) message: String,
    /// All fields, with their values as text.
    fields: BTreeMap<String, String>,
}

impl Event {
    /// Reads a line. None if it is not a JSON object with fields, such as a usage error.
    pub(crate) fn parse(line: &str) -> Option<Self> {
        let object: Value = serde_json::from_str(line).ok()?;
        let fields = object.get("fields")?.as_object()?;
        let fields: BTreeMap<String, String> =
            fields.iter().map(|(name, value)| (name.clone(), as_text(value))).collect();
        let text = |name: &str| fields.get(name).cloned().unwrap_or_default();
        Some(Self { name: text("event"), message: text("message"), fields })
    }

    /// Tells if the line is this event, with all of these fields.
    pub(crate) fn is(&self, name: &str, fields: &[Field<'_>]) -> bool {
        let has = |&(field, value): &Field<'_>| self.fields.get(field).is_some_and(|v| v == value);
        self.name == name && fields.iter().all(has)
    }

    /// The value of a field.
    ///
    /// # Panics
    /// If the line does not have the field.
    pub(crate) fn field(&self, name: &str) -> &str {
        self.fields.get(name).unwrap_or_else(|| panic!("there is no field {name} in {self:?}"))
    }
}

/// Reads all events of a log file, in order.
pub(crate) fn read(log: &Path) -> Vec<Event> {
    let text = std::fs::read_to_string(log).unwrap();
    text.lines().filter_map(Event::parse).collect()
}

/// A value as text: strings without quotes, numbers as they are written.
fn as_text(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

#[test]
fn an_event_is_matched_by_its_name_and_fields() {
    let line = serde_json::json!({
        "timestamp": "2026-01-01T00:00:00Z",
        "level": "INFO",
        "fields": {
            "message": "worker a leaves: it was drained",
            "event": "worker_lost",
            "worker": "a",
            "cause": "drained",
            "step": 7
        }
    });
    let event = Event::parse(&line.to_string()).unwrap();
    assert!(event.is("worker_lost", &[]));
    assert!(event.is("worker_lost", &[("step", "7"), ("worker", "a")]));
    assert!(!event.is("worker_lost", &[("worker", "b")]));
    assert!(!event.is("worker_lost", &[("tensor", "a")]));
    assert!(!event.is("worker_ready", &[("worker", "a")]));
    assert_eq!(
        (event.field("cause"), &*event.message),
        ("drained", "worker a leaves: it was drained")
    );
    assert!(Event::parse("error: --workers is missing").is_none());
    assert!(Event::parse("7").is_none());
}
