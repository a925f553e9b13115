//! The form of doc comments: each is one or more complete sentences, and the first begins with what
//! the item is or does.

use crate::sources::{self, Source};

/// Words that begin half a sentence, or a sentence whose subject is not a thing.
const BAD_FIRST_WORDS: [&str; 7] = ["Who", "What", "Where", "Whether", "Of", "As", "It"];
/// The characters that a doc comment may end with.
const LAST_CHARACTERS: [char; 6] = ['.', ':', '!', '?', '`', ')'];
/// Derives of clap. The doc comments of such a type are help texts, which have no full stop.
const HELP_DERIVES: [&str; 5] = ["Parser", "Args", "ClapArgs", "Subcommand", "ValueEnum"];

/// A block of lines that begin with `///` or `//!`.
struct DocComment<'a> {
    /// The number of its first line.
    number: usize,
    /// Its lines without the marker.
    lines: Vec<&'a str>,
    is_help: bool,
}

#[test]
fn doc_comments_are_complete_sentences() {
    let mut sources = sources::read_rust("crates/");
    for folder in ["tests/", "benches/"] {
        sources.extend(sources::read_rust(folder));
    }
    let problems: Vec<String> = sources.iter().flat_map(problems_of).collect();
    sources::assert_none(&problems);
}

/// Finds the doc comments of a file that break a rule.
fn problems_of(source: &Source) -> Vec<String> {
    let mut problems = Vec::new();
    for comment in doc_comments(&source.text) {
        if let Some(problem) = problem_at_start(comment.lines[0]) {
            problems.push(format!("{}:{}: {problem}", source.path, comment.number));
        }
        if let Some(problem) = problem_at_end(&comment) {
            let last = comment.number + comment.lines.len() - 1;
            problems.push(format!("{}:{last}: {problem}", source.path));
        }
    }
    problems
}

fn problem_at_start(line: &str) -> Option<String> {
    let first_word = line.split([' ', ',', '.', ':']).next().unwrap_or_default();
    if BAD_FIRST_WORDS.contains(&first_word) {
        return Some(format!(
            "begins with {first_word:?}; begin with what the item is or does, such as \"Returns\" \
             or \"The number of\""
        ));
    }
    let first = line.chars().next()?;
    let is_good = first.is_uppercase() || first.is_ascii_digit() || first == '`';
    (!is_good).then(|| {
        format!("begins with {first:?}; begin with a capital letter, a digit or a backtick")
    })
}

fn problem_at_end(comment: &DocComment<'_>) -> Option<String> {
    let last = comment.lines.last()?.trim_end();
    if last.ends_with(',') {
        return Some("ends with a comma; finish the sentence here".to_owned());
    }
    if comment.is_help || last.ends_with(LAST_CHARACTERS) || ends_with_list(&comment.lines) {
        return None;
    }
    Some("ends without a full stop; finish the sentence".to_owned())
}

/// Tells if the last paragraph is a list or a table.
fn ends_with_list(lines: &[&str]) -> bool {
    let last_paragraph = lines.rsplit(|line| line.is_empty()).next().unwrap_or_default();
    last_paragraph.iter().any(|line| {
        let digits = line.trim_start_matches(|c: char| c.is_ascii_digit());
        line.starts_with(['*', '-', '|']) || (digits != *line && digits.starts_with(". "))
    })
}

/// All doc comments of a file.
fn doc_comments(text: &str) -> Vec<DocComment<'_>> {
    let lines: Vec<&str> = text.lines().collect();
    let helps = help_lines(&lines);
    let mut comments = Vec::new();
    let mut open: Option<(&str, DocComment<'_>)> = None;
    for (index, line) in lines.iter().enumerate() {
        match (doc_line(line), &mut open) {
            // The block goes on.
            (Some((marker, words)), Some((of_block, comment))) if marker == *of_block => {
                comment.lines.push(words);
            }
            // Another block begins, and one may end.
            (Some((marker, words)), _) => {
                let is_help = helps.iter().any(|range| range.contains(&index));
                let comment = DocComment { number: index + 1, lines: vec![words], is_help };
                comments.extend(open.replace((marker, comment)).map(|(_, comment)| comment));
            }
            (None, _) => comments.extend(open.take().map(|(_, comment)| comment)),
        }
    }
    comments.extend(open.map(|(_, comment)| comment));
    comments
}

/// The marker and the words of a line of a doc comment.
fn doc_line(line: &str) -> Option<(&str, &str)> {
    let line = line.trim_start();
    let (marker, words) = line.split_at_checked(3)?;
    let is_doc = marker == "//!" || (marker == "///" && !words.starts_with('/'));
    is_doc.then(|| (marker, words.strip_prefix(' ').unwrap_or(words).trim_end()))
}

/// The lines of types that are command lines, from their doc comment to their closing brace.
fn help_lines(lines: &[&str]) -> Vec<std::ops::Range<usize>> {
    let mut ranges = Vec::new();
    for (index, line) in lines.iter().enumerate() {
        let Some(derives) = line.trim_start().strip_prefix("#[derive(") else {
            continue;
        };
        let mut names = derives.split([',', ')', ' ', ':']);
        if !names.any(|name| HELP_DERIVES.contains(&name)) {
            continue;
        }
        // The doc comment and other attributes stand above the derive.
        let is_above = |line: &&&str| {
            let line = line.trim_start();
            line.starts_with("///") || line.starts_with("#[")
        };
        let above = lines[..index].iter().rev().take_while(is_above).count();
        let indent = &line[..line.len() - line.trim_start().len()];
        let closing = format!("{indent}}}");
        let inside = lines[index..].iter().take_while(|line| **line != closing).count();
        ranges.push(index - above..index + inside);
    }
    ranges
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str) -> Vec<String> {
        problems_of(&Source { path: "a.rs".to_owned(), text: text.to_owned() })
    }

    #[test]
    fn complete_sentences_are_accepted() {
        let text = [
            "//! A header.",
            "",
            "/// Adds the sum of a subtree.",
            "///",
            "/// * one",
            "///   more",
            "fn a();",
            "/// 3 or `more`",
            "fn b();",
            "    /// `plan`: it has (members)",
            "//// no doc comment,",
        ]
        .join("\n");
        assert!(check(&text).is_empty(), "{:?}", check(&text));
    }

    #[test]
    fn bad_first_words_and_unfinished_sentences_are_found() {
        for (text, problem) in [
            ("/// Whether it is.\n", "a.rs:1: begins with \"Whether\""),
            ("/// It is.\n", "a.rs:1: begins with \"It\""),
            ("x\n/// which is more.\n", "a.rs:2: begins with 'w'"),
            ("/// One\n/// and two,\nx", "a.rs:2: ends with a comma"),
            ("/// One and two\n", "a.rs:1: ends without a full stop"),
        ] {
            let problems = check(text);
            assert_eq!(problems.len(), 1, "{text:?}: {problems:?}");
            assert!(problems[0].starts_with(problem), "{problems:?}");
        }
    }

    #[test]
    fn help_texts_have_no_full_stop() {
        let item = [
            "/// Trains",
            "#[derive(Debug, clap::Args)]",
            "struct A {",
            "    /// The port",
            "    a: u8,",
            "}",
            "",
        ]
        .join("\n");
        assert!(check(&item).is_empty(), "{:?}", check(&item));
        assert_eq!(check(&format!("{item}/// The port\n")).len(), 1);
    }
}
