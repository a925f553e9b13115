//! Files of settings in TOML: one that a person names, and the one that a run directory keeps.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use anyhow::{Context, anyhow, bail, ensure};
use dcgan_process::names;
use dcgan_process::settings::POSITIVE;
use dcgan_process::similar::nearest;
use dcgan_store::format::Newer;
use dcgan_store::run_dir::{CONFIG_BYTES_MAX, RunPaths, read_config_file};
use toml::{Table, Value};

use crate::config::PartialConfig;

/// The toml library's words for what it expected, and ours.
const EXPECTED: [(&str, &str); 9] = [
    ("a nonzero u16", POSITIVE),
    ("a nonzero u64", POSITIVE),
    ("a nonzero usize", POSITIVE),
    ("u16", "a whole number"),
    ("u64", "a whole number"),
    ("f64", "a number"),
    ("a boolean", "true or false"),
    ("path string", "a text"),
    ("a string", "a text"),
];

/// Reads the configuration that a run directory has saved.
///
/// # Errors
/// If it cannot be read, is damaged, or is of a newer version.
pub(crate) fn read_saved_config(paths: &RunPaths) -> anyhow::Result<PartialConfig> {
    let (path, text) = (paths.config(), read_config_file(paths)?);
    // A setting that this version does not know may change the result.
    let (table, keys): (Option<Table>, _) = (toml::from_str(&text).ok(), PartialConfig::keys());
    let unknown = table.as_ref().and_then(|table| table.keys().find(|&key| !keys.contains(key)));
    if let Some(key) = unknown {
        bail!(Newer::setting(&path, key));
    }
    parse_config(&path, &text)
}

/// Reads a configuration file that a person names.
///
/// # Errors
/// If it cannot be read, or is wrong. The error names the file, and the line of a mistake.
pub(crate) fn read_config(path: &Path) -> anyhow::Result<PartialConfig> {
    let name = path.display().to_string();
    if path.is_dir() {
        let file = path.join("config.toml");
        let tip = if file.exists() { format!("; give {}", file.display()) } else { String::new() };
        bail!("{name}: it is a folder{tip}");
    }
    // It may be a pipe.
    let source = File::open(path).with_context(|| name.clone())?;
    let mut bytes = Vec::new();
    source.take(CONFIG_BYTES_MAX + 1).read_to_end(&mut bytes).with_context(|| name.clone())?;
    ensure!(bytes.len() as u64 <= CONFIG_BYTES_MAX, "{name}: larger than {CONFIG_BYTES_MAX} bytes");
    let text = String::from_utf8(bytes);
    parse_config(path, &text.map_err(|_| anyhow!("{name}: it is no text, but a file of bytes"))?)
}

fn parse_config(path: &Path, text: &str) -> anyhow::Result<PartialConfig> {
    toml::from_str(text).map_err(|error| {
        // The library's message takes several lines. Ours is one: the file, the line, the mistake.
        let line = error.span().map_or(1, |span| 1 + text[..span.start].matches('\n').count());
        let mistake = match text.parse::<Table>() {
            Ok(table) => in_words(error.message(), &table),
            Err(_) => format!("expected NAME = VALUE, a text in quotes: {}", error.message()),
        };
        anyhow!("{}: line {line}: {mistake}", path.display())
    })
}

/// The message of the toml library about the value or the name of a setting, in our words.
fn in_words(message: &str, table: &Table) -> String {
    if let Some(name) = message.strip_prefix("unknown field `").and_then(|it| it.split('`').next())
    {
        return unknown(name, table.get(name));
    }
    let types = message.strip_prefix("invalid type: ").or(message.strip_prefix("invalid value: "));
    let Some((found, expected)) = types.and_then(|types| types.split_once(", expected ")) else {
        return message.to_owned();
    };
    let ours = EXPECTED.iter().find(|(theirs, _)| *theirs == expected);
    let expected = ours.map_or(expected, |(_, ours)| ours);
    format!("expected {expected}, found {}", found.replace("string ", "the text "))
}

/// Says that there is no setting with this name, and which may be meant in place of all that there
/// are.
fn unknown(name: &str, value: Option<&Value>) -> String {
    if value.is_some_and(Value::is_table) {
        return format!("there are no sections, such as [{name}]: every line is NAME = VALUE");
    }
    match nearest(name, PartialConfig::keys().iter().map(String::as_str)) {
        Some(meant) => format!("no setting is called {name}: did you mean {meant}?"),
        None => format!("no setting is called {name}; `{} --help` lists all", names::called()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mistake_is_said_with_its_line_in_our_words() {
        for (text, mistake) in [
            (
                "seed = 1\nworkers = \"two\"",
                "line 2: expected a whole number of at least 1, found the text \"two\"",
            ),
            ("workers = 0", "line 1: expected a whole number of at least 1, found integer `0`"),
            ("learning-rate = \"high\"", "line 1: expected a number, found the text \"high\""),
            ("local = 3", "line 1: expected true or false, found integer `3`"),
            ("out = 3", "line 1: expected a text, found integer `3`"),
            (
                "[training]\nseed = 1",
                "line 1: there are no sections, such as [training]: every line is NAME = VALUE",
            ),
            ("seed: 1", "line 1: expected NAME = VALUE, a text in quotes: "),
            ("batchsize = 1", "line 1: no setting is called batchsize: did you mean batch-size?"),
        ] {
            let error = parse_config(Path::new("x.toml"), text).unwrap_err().to_string();
            assert!(error.starts_with(&format!("x.toml: {mistake}")), "{error}");
        }
    }
}
