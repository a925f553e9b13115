//! The length of lines. rustfmt does not wrap comments and strings, and no tool wraps the other
//! files.

use crate::sources::{self, Source};

/// The longest line of code, in characters. It is rustfmt's limit, too.
const CODE_COLUMNS_MAX: usize = 100;
/// The longest line of a document, in characters.
const DOCUMENT_COLUMNS_MAX: usize = 140;

#[test]
fn no_line_of_code_is_too_long() {
    let problems: Vec<String> = sources::read()
        .iter()
        .filter(|source| {
            source.has_extension(&["rs", "proto", "toml", "sh"]) || source.path.starts_with(".ci/")
        })
        .flat_map(|source| too_long(source, CODE_COLUMNS_MAX, |_| false))
        .collect();
    sources::assert_none(&problems);
}

#[test]
fn no_line_of_a_document_is_too_long() {
    let problems: Vec<String> = sources::read()
        .iter()
        .filter(|source| source.has_extension(&["md"]))
        .flat_map(|source| too_long(source, DOCUMENT_COLUMNS_MAX, cannot_be_wrapped))
        .collect();
    sources::assert_none(&problems);
}

/// Lines of a file with more than this many characters, except those that may be longer.
fn too_long(source: &Source, columns_max: usize, may_be_longer: fn(&str) -> bool) -> Vec<String> {
    let mut problems = Vec::new();
    for (number, line) in (1..).zip(source.text.lines()) {
        let columns = line.chars().count();
        if columns > columns_max && !may_be_longer(line) {
            problems.push(format!(
                "{}:{number}: {columns} columns; wrap it at {columns_max}",
                source.path
            ));
        }
    }
    problems
}

/// Tells if Markdown gives no place to break the line: a row of a table, or a long address.
fn cannot_be_wrapped(line: &str) -> bool {
    line.trim_start().starts_with('|') || line.contains("://")
}

#[test]
fn a_long_line_is_found_unless_it_is_a_table_or_an_address() {
    let text = format!("short\n{0}\n| {0} |\nhttps://{0}\n", "ä".repeat(141));
    let document = Source { path: "a.md".to_owned(), text };
    let found = too_long(&document, DOCUMENT_COLUMNS_MAX, cannot_be_wrapped);
    assert_eq!(found, ["a.md:2: 141 columns; wrap it at 140"]);
}
