//! `docs/limits.md` says what the code says: each constant exists in its file, with that value.

use std::path::Path;

/// The document of the limits.
const DOCUMENT: &str = "docs/limits.md";

#[test]
fn every_limit_is_in_the_code_with_its_value() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let document = std::fs::read_to_string(root.join(DOCUMENT)).unwrap();
    let mut problems = Vec::new();
    let mut count = 0;
    for line in document.lines() {
        let cells: Vec<&str> = line.split('|').map(|cell| cell.trim().trim_matches('`')).collect();
        let [_, _, name, file, value, ..] = cells[..] else {
            continue;
        };
        if !file.ends_with(".rs") {
            continue;
        }
        count += 1;
        let text = std::fs::read_to_string(root.join("crates").join(file)).unwrap_or_default();
        let found = value_of(&text, name);
        if found.as_deref() != Some(value) {
            problems.push(format!("{DOCUMENT}: {name} is {value}, and in {file} it is {found:?}"));
        }
    }
    assert!(count > 30, "the limits are found: {count}");
    crate::sources::assert_none(&problems);
}

/// The value of a constant, as the document writes it.
fn value_of(text: &str, name: &str) -> Option<String> {
    let (_, after) = text.split_once(&format!("const {name}: "))?;
    let (_, value) = after.split_once("= ")?;
    let value = value.split_once(';')?.0.replace('_', "");
    let argument = |function: &str| value.strip_prefix(function)?.strip_suffix(')');
    if let Some(seconds) = argument("Duration::fromsecs(") {
        return Some(format!("{seconds} s"));
    }
    if let Some(milliseconds) = argument("Duration::frommillis(") {
        return Some(format!("{milliseconds} ms"));
    }
    let units = [(" * 1024 * 1024", "MiB"), (" * 1024", "KiB"), (" << 30", "GiB"), ("", "")];
    let (unit, name) = units.into_iter().find(|(unit, _)| value.ends_with(unit))?;
    let written = format!("{} {name}", value.strip_suffix(unit)?);
    Some(if written == "1024 KiB" { "1 MiB".to_owned() } else { written.trim().to_owned() })
}
