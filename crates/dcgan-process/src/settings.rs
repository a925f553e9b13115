//! Settings: flags, and the `DCGAN_*` variables that stand for them.
//!
//! The variable of `--log-every` is `DCGAN_LOG_EVERY`; a flag beats a variable. `tests/e2e` checks
//! that every flag has its variable.

use std::any::TypeId;
use std::collections::BTreeSet;
use std::io::Write;
use std::num::{NonZeroU16, NonZeroU64, NonZeroUsize};
use std::ops::RangeInclusive;
use std::str::FromStr;
use std::sync::OnceLock;
use std::time::Duration;
use std::{env, fmt, io};

use clap::error::ErrorKind;
use clap::parser::ValueSource;
use clap::{Arg, ArgAction, ArgMatches, Command, CommandFactory, FromArgMatches};
use serde::{Deserialize, Serialize};

use crate::exit;
use crate::help;
use crate::names;
use crate::output::escaped;

/// The names of all variables begin with this.
pub const PREFIX: &str = "DCGAN_";

/// The flags of all three programs, without the dashes, except for the settings that the result of
/// a run depends on: the core lists those. No program knows the others' flags, but each must know
/// which variables are meant for another.
pub const FLAGS: [&str; 40] = [
    "advertise",
    "checkpoint",
    "checkpoint-every",
    "columns",
    "config",
    "coordinator",
    "coordinator-timeout",
    "count",
    "data",
    "device",
    "dry-run",
    "epochs",
    "early-stopping",
    "eval-every",
    "evaluator",
    "fixed-shards",
    "grid-every",
    "grpc",
    "http",
    "init-from",
    "insecure",
    "keep-checkpoints",
    "listen",
    "local",
    "log-every",
    "log-format",
    "min-workers",
    "name",
    "out",
    "quiet",
    "resume",
    "rows",
    "run",
    "steps",
    "threads",
    "transpose",
    "verbose",
    "weights",
    "workers",
    "workers-timeout",
];

/// The verbs of each program that has any. A program without the verb that a person calls names the
/// one that has it.
pub const VERBS_OF: [(&str, &[&str]); 2] = [
    ("dcgan-coord", &["chaos", "checkpoint", "drain", "status", "stop", "summary", "verify"]),
    ("dcgan-sampler", &["eval", "export", "grid", "latents", "serve", "train-evaluator"]),
];

/// The flags of `dcgan-coord` that have the same meaning before a verb and without one.
pub const BEFORE_VERBS: [&str; 3] = ["log-format", "quiet", "verbose"];

/// Parses the command line of this process. Ends the process with a message if it is wrong, or if
/// help, a manual page or a completion script is asked for.
pub fn parse<A: CommandFactory + FromArgMatches>() -> (A, ArgMatches) {
    let mut command = help::with_verbs(with_usable_variables(A::command()));
    let words: Vec<String> = names::words().skip(1).collect();
    let given = GIVEN.get_or_init(|| given_by_variables(&command, &words));
    let matches = match command.try_get_matches_from_mut(env::args_os()) {
        Ok(matches) => matches,
        // Help, or the version.
        Err(error) if !error.use_stderr() => exit::after_printing(error.print()),
        Err(error) => {
            let error = help::with_variable(error, given);
            help::with_escapes(help::with_tip(error, &command)).exit()
        }
    };
    match help::text_if_asked_for(&command, &matches) {
        Ok(Some(text)) => exit::after_printing(io::stdout().write_all(&text)),
        Ok(None) => {}
        Err(error) => command.error(ErrorKind::Io, error).exit(),
    }
    match A::from_arg_matches(&matches) {
        Ok(args) => (args, matches),
        Err(error) => error.format(&mut command).exit(),
    }
}

/// The flags of this process whose value a variable gives, without the dashes, and the variables.
static GIVEN: OnceLock<Vec<(String, String)>> = OnceLock::new();

/// The flags of a command and of the verb that these words call whose value a variable gives.
fn given_by_variables(command: &Command, words: &[String]) -> Vec<(String, String)> {
    let verb = words.iter().find_map(|word| command.find_subcommand(word));
    let arguments =
        command.get_arguments().chain(verb.into_iter().flat_map(Command::get_arguments));
    let is_given = |flag: &str| {
        let rests = words.iter().filter_map(|word| word.strip_prefix("--")?.strip_prefix(flag));
        rests.into_iter().any(|rest| rest.is_empty() || rest.starts_with('='))
    };
    let variable = |arg: &Arg| {
        let flag = arg.get_long().filter(|flag| !is_given(flag))?;
        let variable = arg.get_env().filter(|variable| env::var_os(variable).is_some())?;
        Some((flag.to_owned(), variable.to_string_lossy().into_owned()))
    };
    arguments.filter_map(variable).collect()
}

/// Names the variables in whose place an error speaks of flags, to be added to it.
pub(crate) fn variables_behind(error: &str) -> String {
    let given = GIVEN.get().map_or(&[][..], Vec::as_slice);
    given.iter().filter(|(flag, _)| names_flag(error, flag)).fold(String::new(), |text, given| {
        let (flag, variable) = given;
        text + &format!("; the variable {variable} gives --{flag}")
    })
}

/// Returns whether a text names a flag, and not only one that begins with the same letters.
fn names_flag(text: &str, flag: &str) -> bool {
    let flag = format!("--{flag}");
    let ends = |rest: &str| !rest.starts_with(|c: char| c.is_alphanumeric() || c == '-');
    text.match_indices(&flag).any(|(start, _)| ends(&text[start + flag.len()..]))
}

/// The same flags; one whose variable is set to nothing has no variable. Shells and clusters give
/// an empty variable where a person left a value out. Help shows no value that a terminal obeys.
fn with_usable_variables(command: Command) -> Command {
    let forget_if_empty = |arg: Arg| match arg.get_env().and_then(env::var_os) {
        Some(value) if value.is_empty() => arg.env(None::<&'static str>),
        Some(value) => {
            let value = value.to_string_lossy();
            arg.hide_env_values(escaped(&value) != value)
        }
        None => arg,
    };
    command.mut_args(forget_if_empty).mut_subcommands(with_usable_variables)
}

/// Parses settings in words for people.
///
/// One that is yes or no can take a value: `--local=no`. Without a value the flag means yes;
/// variables take `1` and `0`, `true` and `false`, `yes` and `no`, `on` and `off`. A number that is
/// wrong is answered by the numbers that are right.
///
/// For `#[command(mut_args = in_plain_words)]`: other settings stay as they are.
pub fn in_plain_words(arg: Arg) -> Arg {
    let kind = arg.get_value_parser().type_id();
    if kind == TypeId::of::<NonZeroU16>() {
        in_numbers(arg).value_parser(positive::<NonZeroU16>)
    } else if kind == TypeId::of::<NonZeroU64>() {
        in_numbers(arg).value_parser(positive::<NonZeroU64>)
    } else if kind == TypeId::of::<NonZeroUsize>() {
        in_numbers(arg).value_parser(positive::<NonZeroUsize>)
    } else if kind == TypeId::of::<u64>() {
        in_numbers(arg).value_parser(whole::<u64>(0..=u64::MAX))
    } else if kind == TypeId::of::<usize>() {
        in_numbers(arg).value_parser(whole::<usize>(0..=u64::MAX))
    } else if kind == TypeId::of::<u16>() || kind == TypeId::of::<u32>() {
        // Each has a range of its own.
        in_numbers(arg)
    } else if kind == TypeId::of::<f64>() {
        in_numbers(arg).value_parser(number)
    } else if kind == TypeId::of::<bool>() && matches!(arg.get_action(), ArgAction::Set) {
        arg.value_name("YES|NO")
            .num_args(0..=1)
            .require_equals(true)
            .default_missing_value("yes")
            .value_parser(yes_or_no)
    } else {
        arg
    }
}

/// Parses a setting that is yes or no.
fn yes_or_no(text: &str) -> Result<bool, String> {
    match &*text.to_lowercase() {
        "1" | "true" | "yes" | "on" | "y" | "t" => Ok(true),
        "0" | "false" | "no" | "off" | "n" | "f" => Ok(false),
        _ => Err("expected yes or no".to_owned()),
    }
}

/// The same setting, of which `-1` is a value, and is refused as one.
fn in_numbers(arg: Arg) -> Arg {
    arg.allow_negative_numbers(true)
}

/// A value that must be a whole number of at least 1, as messages say it.
pub const POSITIVE: &str = "a whole number of at least 1";

/// Parses a number of at least 1, such as a number of steps.
fn positive<N: TryFrom<NonZeroU64>>(text: &str) -> Result<N, String> {
    let number: NonZeroU64 = text.parse().map_err(|_| format!("expected {POSITIVE}"))?;
    N::try_from(number).map_err(|_| "it is too large".to_owned())
}

/// Returns a parser of whole numbers in a range.
pub fn whole<N: TryFrom<u64>>(
    range: RangeInclusive<u64>,
) -> impl Fn(&str) -> Result<N, String> + Clone + Send + Sync + 'static {
    move |text| {
        let number = text.parse().ok().filter(|number| range.contains(number));
        let number = number.and_then(|number| N::try_from(number).ok());
        let (least, most) = (range.start(), range.end());
        number.ok_or_else(|| format!("expected a whole number from {least} to {most}"))
    }
}

/// Parses a number.
fn number(text: &str) -> Result<f64, String> {
    text.parse().map_err(|_| "expected a number, such as 0.0002".to_owned())
}

/// A time of at least a second, such as `90s`, `10m` or `2h`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct Time(pub Duration);

impl FromStr for Time {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
        let factor = match &text[digits.len()..] {
            "s" => Some(1),
            "m" => Some(60),
            "h" => Some(3600),
            _ => None,
        };
        let seconds = factor.and_then(|factor| digits.parse::<u64>().ok()?.checked_mul(factor));
        match seconds {
            Some(seconds) if seconds > 0 => Ok(Self(Duration::from_secs(seconds))),
            _ => Err("expected a time such as 90s, 10m or 2h".to_owned()),
        }
    }
}

impl fmt::Display for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.0.as_secs();
        let (number, unit) = match seconds {
            _ if seconds.is_multiple_of(3600) => (seconds / 3600, "h"),
            _ if seconds.is_multiple_of(60) => (seconds / 60, "m"),
            _ => (seconds, "s"),
        };
        write!(f, "{number}{unit}")
    }
}

impl TryFrom<String> for Time {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<Time> for String {
    fn from(time: Time) -> Self {
        time.to_string()
    }
}

/// Tells whether a variable gives this setting, and no flag does.
pub fn is_from_variable(matches: &ArgMatches, id: &str) -> bool {
    matches.value_source(id) == Some(ValueSource::EnvVariable)
}

/// The variable that stands for a flag.
pub fn variable_of(flag: &str) -> String {
    format!("{PREFIX}{}", flag.to_uppercase().replace('-', "_"))
}

/// Warns of variables that no program knows: a setting whose name is misspelt would have no effect,
/// and nobody would say so. `result_settings` are those that the result of a run depends on.
pub fn warn_of_unknown_variables(result_settings: &[String]) {
    let flags = FLAGS.into_iter().chain(result_settings.iter().map(String::as_str));
    let known: BTreeSet<String> = flags.map(variable_of).collect();
    let names = env::vars_os().map(|(name, _)| name.to_string_lossy().into_owned());
    let unknown: BTreeSet<String> =
        names.filter(|name| name.starts_with(PREFIX) && !known.contains(name)).collect();
    if !unknown.is_empty() {
        let names = unknown.into_iter().collect::<Vec<_>>().join(", ");
        tracing::warn!(
            event = "unknown_variables",
            names,
            "no program knows these variables, and they have no effect: {names}"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wrong_number_is_answered_by_the_right_ones() {
        assert_eq!(positive::<NonZeroU16>("7"), Ok(NonZeroU16::new(7).unwrap()));
        for wrong in ["", "0", "-1", "1k", "1.5"] {
            let error = positive::<NonZeroU16>(wrong).unwrap_err();
            assert_eq!(error, "expected a whole number of at least 1");
        }
        assert_eq!(positive::<NonZeroU16>("65536").unwrap_err(), "it is too large");
    }

    #[test]
    fn yes_and_no_have_several_words() {
        assert!(["1", "true", "Yes", "ON"].map(yes_or_no).iter().all(|it| *it == Ok(true)));
        assert!(["0", "false", "No", "OFF"].map(yes_or_no).iter().all(|it| *it == Ok(false)));
        assert_eq!(yes_or_no("maybe").unwrap_err(), "expected yes or no");
    }

    #[test]
    fn a_number_out_of_its_range_is_answered_by_the_range() {
        let parse = whole::<u32>(1..=1024);
        assert_eq!(parse("1024"), Ok(1024));
        for wrong in ["", "0", "-1", "1k", "1025", "99999999999999999999"] {
            assert_eq!(parse(wrong).unwrap_err(), "expected a whole number from 1 to 1024");
        }
        assert_eq!(whole::<u64>(0..=u64::MAX)("18446744073709551615"), Ok(u64::MAX));
    }

    #[test]
    fn an_error_names_a_flag_that_it_has_as_a_whole() {
        for (text, names_it) in [
            ("--data: nowhere", true),
            ("give --data", true),
            ("--data-set x", false),
            ("data", false),
        ] {
            assert_eq!(names_flag(text, "data"), names_it, "{text}");
        }
    }

    #[test]
    fn a_time_needs_a_unit() {
        for (text, seconds) in [("90s", 90), ("10m", 600), ("2h", 7200)] {
            let time: Time = text.parse().unwrap();
            assert_eq!(time, Time(Duration::from_secs(seconds)));
            assert_eq!(time.to_string(), text);
        }
        for wrong in ["", "10", "m", "0s", "-1s", "1.5h", "1d", "5 s", "18446744073709551615h"] {
            assert!(wrong.parse::<Time>().is_err(), "{wrong}");
        }
    }
}
