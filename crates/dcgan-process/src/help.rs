//! Help with the command line itself: manual pages, completion scripts, and tips for words that
//! other programs have.

use std::path::PathBuf;
use std::{env, io};

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{Arg, ArgMatches, Command, Error, value_parser};
use clap_complete::Shell;

use crate::output::{self, Stream, escaped};

/// Flags of other programs, without the dashes, and ours for the same thing. A program has some of
/// ours, and names the first that it has.
const SYNONYMS: [(&str, &[&str]); 15] = [
    ("address", &["listen", "http"]),
    ("batch", &["batch-size"]),
    ("bs", &["batch-size"]),
    ("cuda", &["device"]),
    ("data-dir", &["data"]),
    ("gpu", &["device"]),
    ("gpus", &["device"]),
    ("host", &["listen", "http"]),
    ("lr", &["learning-rate"]),
    ("nproc", &["workers"]),
    ("nproc-per-node", &["workers"]),
    ("num-workers", &["workers"]),
    ("output", &["out"]),
    ("output-dir", &["out"]),
    ("port", &["listen", "http"]),
];

/// Verbs of other programs for what ours do without a verb.
const NO_VERBS: [&str; 4] = ["fit", "run", "start", "train"];

/// Adds the verbs that describe a command line to it.
pub(crate) fn with_verbs(command: Command) -> Command {
    let shell = Arg::new("shell").required(true).value_parser(value_parser!(Shell));
    let folder = Arg::new("dir").value_name("DIR").value_parser(value_parser!(PathBuf));
    command
        .subcommand_negates_reqs(true)
        .subcommand(
            Command::new("completions").about("Prints a completion script for a shell").arg(shell),
        )
        .subcommand(
            Command::new("man")
                .about("Prints the manual page, or writes one for each verb to a folder")
                .arg(folder),
        )
}

/// Prints the completion script or the manual page that the command line asks for. Returns false
/// if it asks for something else.
pub(crate) fn print_if_asked_for(command: &Command, matches: &ArgMatches) -> io::Result<bool> {
    let mut text = Vec::new();
    match matches.subcommand() {
        Some(("completions", matches)) => {
            let shell = matches.get_one::<Shell>("shell").copied().unwrap_or(Shell::Bash);
            let name = command.get_name().to_owned();
            clap_complete::generate(shell, &mut command.clone(), name, &mut text);
        }
        Some(("man", matches)) => match matches.get_one::<PathBuf>("dir") {
            Some(folder) => clap_mangen::generate_to(command.clone(), folder)?,
            None => clap_mangen::Man::new(command.clone()).render(&mut text)?,
        },
        _ => return Ok(false),
    }
    output::write_now(Stream::Out, &text);
    Ok(true)
}

/// Replaces the suggestion of an error by our own, if we know what the word means.
pub(crate) fn with_tip(mut error: Error, command: &Command) -> Error {
    let word = |kind| match error.get(kind) {
        Some(ContextValue::String(word)) => Some(word.clone()),
        _ => None,
    };
    let tip = match error.kind() {
        ErrorKind::UnknownArgument => word(ContextKind::InvalidArg)
            .and_then(|word| flag_for(word.trim_start_matches('-'), verb_of_this_process(command))),
        ErrorKind::InvalidSubcommand => word(ContextKind::InvalidSubcommand)
            .filter(|word| NO_VERBS.contains(&&**word) && !command.is_subcommand_required_set())
            .map(|word| format!("leave '{word}' out: without a verb, this program trains")),
        _ => None,
    };
    if let Some(tip) = tip {
        // The usage is that of the suggestion.
        for kind in
            [ContextKind::SuggestedArg, ContextKind::SuggestedSubcommand, ContextKind::Usage]
        {
            error.remove(kind);
        }
        error.insert(ContextKind::Suggested, ContextValue::StyledStrs(vec![tip.into()]));
    }
    error
}

/// Escapes what a terminal obeys in the words of the command line that an error repeats.
pub(crate) fn with_escapes(mut error: Error) -> Error {
    let mut clean = Vec::new();
    for (kind, value) in error.context() {
        match value {
            ContextValue::String(word) => {
                clean.push((kind, ContextValue::String(escaped(word).into_owned())));
            }
            ContextValue::Strings(words) => {
                let words = words.iter().map(|word| escaped(word).into_owned()).collect();
                clean.push((kind, ContextValue::Strings(words)));
            }
            // The others are words of ours.
            _ => {}
        }
    }
    for (kind, value) in clean {
        error.insert(kind, value);
    }
    error
}

/// Returns the command, or the verb of it, that the arguments of this process call.
fn verb_of_this_process(command: &Command) -> &Command {
    let verb = env::args().skip(1).find_map(|word| command.find_subcommand(word));
    verb.unwrap_or(command)
}

/// Returns a tip with the flag that a command has for a synonym. One that has none has no flag that
/// only sounds alike, either.
fn flag_for(word: &str, command: &Command) -> Option<String> {
    let (_, flags) = SYNONYMS.into_iter().find(|(synonym, _)| *synonym == word)?;
    let has = |flag: &str| command.get_arguments().any(|arg| arg.get_long() == Some(flag));
    let flag = flags.iter().find(|flag| has(flag));
    Some(match flag {
        Some(flag) => format!("use '--{flag}'"),
        None => format!("'{}' has no such setting", command.get_name()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A program with one flag.
    fn program() -> Command {
        with_verbs(Command::new("program").arg(Arg::new("listen").long("listen")))
    }

    /// Returns what a program answers to wrong arguments.
    fn answer(arguments: &[&str]) -> String {
        let arguments = std::iter::once(&"program").chain(arguments);
        let error = program().try_get_matches_from(arguments).unwrap_err();
        with_escapes(with_tip(error, &program())).to_string()
    }

    #[test]
    fn what_a_terminal_obeys_is_escaped_in_wrong_words() {
        for word in ["a\u{1b}[2Jb", "--a\u{1b}[2Jb"] {
            let error = answer(&[word]);
            assert!(error.contains(r"a\u001b[2Jb") && !error.contains('\u{1b}'), "{error:?}");
        }
    }

    #[test]
    fn words_of_other_programs_lead_to_ours() {
        let port = answer(&["--port", "1"]);
        assert!(port.contains("tip: use '--listen'") && !port.contains("Usage"), "{port}");
        assert!(answer(&["--gpus", "1"]).contains("tip: 'program' has no such setting"));
        assert!(answer(&["train"]).contains("tip: leave 'train' out"));
        assert!(answer(&["--liste", "1"]).contains("a similar argument exists: '--listen'"));
    }
}
