//! The events of the log: every log line has one, and `docs/logs.md` lists all of them.

use std::collections::BTreeMap;
use std::path::Path;

use crate::sources::{self, Source};

/// The macros that write a log line.
const MACROS: [&str; 5] = [
    "tracing::error!(",
    "tracing::warn!(",
    "tracing::info!(",
    "tracing::debug!(",
    "tracing::trace!(",
];
/// The document of the events.
const DOCUMENT: &str = "docs/logs.md";
/// The file that gives the events of the coordinator's notices, by a function `code`.
const NOTICES: &str = "crates/dcgan-core/src/protocol/coordinator/report/notice.rs";

#[test]
fn every_log_line_has_an_event() {
    let mut problems = Vec::new();
    for source in sources::read_rust("crates/") {
        for (number, call) in log_calls(&source.text) {
            if !call.contains("event = ") {
                problems.push(format!(
                    "{}:{number}: a log line without `event = \"name\"`; add it, and list it in \
                     {DOCUMENT}",
                    source.path
                ));
            }
        }
        problems.extend(imported_macros(&source));
    }
    sources::assert_none(&problems);
}

#[test]
fn every_event_is_documented() {
    let events = all_events(&sources::read_rust("crates/"));
    assert!(events.len() > 20, "the events are found: {events:?}");
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(DOCUMENT);
    let document = std::fs::read_to_string(path).unwrap_or_default();
    let mut problems = Vec::new();
    for (event, place) in events {
        if !document.contains(&format!("| `{event}` |")) {
            problems.push(format!("{place}: the event {event} is missing; list it in {DOCUMENT}"));
        }
    }
    sources::assert_none(&problems);
}

/// The events of all files by name, each with the first place that has it.
fn all_events(sources: &[Source]) -> BTreeMap<String, String> {
    let mut events = BTreeMap::new();
    for source in sources {
        let notices = if source.path == NOTICES { notice_codes(&source.text) } else { Vec::new() };
        let literals = log_calls(&source.text).into_iter().filter_map(|(number, call)| {
            let (_, after) = call.split_once("event = \"")?;
            Some((number, after.split('"').next()?))
        });
        for (number, event) in literals.chain(notices) {
            let place = format!("{}:{number}", source.path);
            events.entry(event.to_owned()).or_insert(place);
        }
    }
    events
}

/// The calls that write a log line: line numbers and texts.
fn log_calls(text: &str) -> Vec<(usize, &str)> {
    let mut calls = Vec::new();
    for name in MACROS {
        for (start, _) in text.match_indices(name) {
            let number = line_number(text, start);
            calls.push((number, up_to_closing_parenthesis(&text[start..])));
        }
    }
    calls.sort_unstable();
    calls
}

/// The strings that `Notice::code` gives, with their line numbers.
fn notice_codes(text: &str) -> Vec<(usize, &str)> {
    let implementation = text.find("impl Notice {").expect("Notice has methods");
    let start = text[implementation..].find("fn code(").expect("Notice has a code");
    let start = implementation + start;
    let end = text[start..].find("\n    }\n").expect("the function ends");
    let mut codes = Vec::new();
    for (at, _) in text[start..start + end].match_indices("=> \"") {
        let code = text[start + at + 4..].split('"').next().unwrap();
        codes.push((line_number(text, start + at), code));
    }
    codes
}

/// Imports of log macros: without `tracing::` before them, calls would not be found.
fn imported_macros(source: &Source) -> Vec<String> {
    let mut problems = Vec::new();
    for (number, line) in (1..).zip(source.text.lines()) {
        let Some(names) = line.trim_start().strip_prefix("use tracing::") else {
            continue;
        };
        let mut names = names.split(['{', ',', ' ', '}', ';']);
        if names.any(|name| MACROS.contains(&&*format!("tracing::{name}!("))) {
            problems.push(format!(
                "{}:{number}: a log macro is imported; call it as tracing::info!(..) and the like",
                source.path
            ));
        }
    }
    problems
}

/// The number of the line that holds a byte.
fn line_number(text: &str, byte: usize) -> usize {
    1 + text[..byte].matches('\n').count()
}

/// A call from its name to its closing parenthesis. Parentheses in strings do not count.
fn up_to_closing_parenthesis(text: &str) -> &str {
    let (mut depth, mut in_string, mut escaped) = (0, false, false);
    for (at, character) in text.char_indices() {
        match character {
            _ if escaped => escaped = false,
            '\\' if in_string => escaped = true,
            '"' => in_string = !in_string,
            '(' if !in_string => depth += 1,
            ')' if !in_string => {
                depth -= 1;
                if depth == 0 {
                    return &text[..=at];
                }
            }
            _ => {}
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_end_at_their_own_parenthesis() {
        let text = "a();\ntracing::info!(event = \"one\", n = f(1), \"a ) \\\" )\");\n\
                    tracing::warn!(\"two\"); // event = \"no\"\n";
        let calls = log_calls(text);
        assert_eq!(calls.len(), 2);
        assert_eq!((calls[0].0, calls[1].0), (2, 3));
        assert!(calls[0].1.ends_with("\" )\")"), "{calls:?}");
        assert_eq!(calls[1].1, "tracing::warn!(\"two\")");
    }

    #[test]
    fn events_come_from_calls_and_from_notices() {
        let call = Source {
            path: "crates/a.rs".to_owned(),
            text: "tracing::info!(\n    event = \"run_opened\",\n    \"text\"\n);\n".to_owned(),
        };
        let notice = Source {
            path: NOTICES.to_owned(),
            text: "impl Notice {\n    fn code(&self) {\n        A => \"plan\",\n    }\n}\n"
                .to_owned(),
        };
        let events = all_events(&[call, notice]);
        let names: Vec<&str> = events.keys().map(String::as_str).collect();
        assert_eq!(names, ["plan", "run_opened"]);
        assert_eq!(events["run_opened"], "crates/a.rs:1");
    }

    #[test]
    fn imported_macros_are_found() {
        let with = |text: &str| Source { path: "a.rs".to_owned(), text: text.to_owned() };
        assert_eq!(imported_macros(&with("use tracing::{info, Span};\n")).len(), 1);
        assert_eq!(imported_macros(&with("use tracing::warn;\n")).len(), 1);
        assert!(imported_macros(&with("use tracing::span::EnteredSpan;\n")).is_empty());
    }
}
