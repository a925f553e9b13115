//! Help with the command line itself: manual pages, completion scripts, and tips for words that
//! other programs have.

use std::io;
use std::path::{Path, PathBuf};

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{Arg, ArgAction, ArgMatches, Command, Error, value_parser};
use clap_complete::Shell;

use crate::names;
use crate::output::escaped;
use crate::settings::{BEFORE_VERBS, VERBS_OF};
use crate::similar::nearest;

/// Flags of other programs, without the dashes, and ours for the same thing, some with a value. A
/// program has some of ours, and names the first that it has.
const SYNONYMS: [(&str, &[&str]); 35] = [
    ("address", &["listen", "http"]),
    ("batch", &["batch-size"]),
    ("best", &["checkpoint best"]),
    ("bs", &["batch-size"]),
    ("checkpoint-dir", &["out", "run"]),
    ("count", &["rows"]),
    ("cuda", &["device"]),
    ("data-dir", &["data"]),
    ("ema", &["weights ema", "ema-decay"]),
    ("gpu", &["device"]),
    ("gpus", &["device"]),
    ("host", &["listen", "http"]),
    ("iterations", &["steps"]),
    ("j", &["json", "workers", "threads"]),
    ("json", &["log-format json"]),
    ("latest", &["checkpoint newest"]),
    ("log-level", &["verbose"]),
    ("lr", &["learning-rate"]),
    ("master", &["listen", "coordinator"]),
    ("master-addr", &["listen", "coordinator"]),
    ("n", &["workers", "count", "rows"]),
    ("n-workers", &["workers"]),
    ("nproc", &["workers"]),
    ("nproc-per-node", &["workers"]),
    ("num-iterations", &["steps"]),
    ("num-workers", &["workers"]),
    ("newest", &["checkpoint newest"]),
    ("nnodes", &["workers"]),
    ("o", &["out", "run"]),
    ("out", &["run"]),
    ("output", &["out"]),
    ("output-dir", &["out"]),
    ("port", &["listen", "http"]),
    ("run", &["out", "coordinator"]),
    ("step", &["checkpoint", "steps"]),
];

/// Words of other programs that no flag of ours stands for, and what to do instead.
const NO_FLAGS: [(&str, &str); 6] = [
    ("follow", "leave it out: 'watch COMMAND' repeats a command"),
    ("insecure", "leave it out: a verb connects to whatever address it is given"),
    ("json", "it prints text alone: its exit status tells a script how it went"),
    ("node-rank", "leave it out: the coordinator numbers the workers"),
    ("rank", "leave it out: the coordinator numbers the workers"),
    ("watch", "leave it out: 'watch COMMAND' repeats a command"),
];

/// Values of a flag that is yes or no. Without `=` they are taken for verbs.
const YES_OR_NO: [&str; 6] = ["false", "no", "off", "on", "true", "yes"];

/// The flags that a path, `{}`, may have been meant for where a verb should be, and tips.
const PATHS: [(&str, &str); 2] = [
    ("coordinator", "use '--coordinator file:{}/address'"),
    ("out", "to train in it, use '--out {}'; or give it after a verb, as in 'status {}'"),
];

/// Verbs of other programs for what ours do without a verb.
const NO_VERBS: [&str; 4] = ["fit", "run", "start", "train"];

/// Verbs of other programs, and what to do for the same thing. A program has one of those that a
/// tip names, or the tip is not its own.
const VERBS: [(&str, &[(&str, &str)]); 10] = [
    ("draw", &[("grid", "use 'grid' for a picture, or 'export' for a file of images")]),
    ("generate", &[("grid", "use 'grid' for a picture, or 'export' for a file of images")]),
    ("kill", &[("stop", "use 'stop'; for one worker, 'drain NAME'")]),
    ("list", &[("status", "use 'status'")]),
    ("ls", &[("status", "use 'status'")]),
    ("ps", &[("status", "use 'status'")]),
    ("resume", &[("stop", "leave 'resume' out: a run that is there already goes on by itself")]),
    ("sample", &[("grid", "use 'grid' for a picture, or 'export' for a file of images")]),
    ("version", &[("man", "use '--version'")]),
    ("watch", &[("serve", "use 'serve'"), ("status", "use 'status'")]),
];

/// The shells whose completion scripts there are, as people call them.
const SHELLS: &str = "bash, elvish, fish, powershell or zsh";

/// The flag for which people of other programs give no value.
const RESUME: &str = "--resume ";

/// The most columns of a help text.
const WIDTH: usize = 100;

/// Adds the verbs that describe a command line to it.
pub(crate) fn with_verbs(command: Command) -> Command {
    let shell = Arg::new("shell")
        .value_name("SHELL")
        .help("The shell: bash, elvish, fish, powershell or zsh")
        .hide_possible_values(true)
        .required(true)
        .value_parser(value_parser!(Shell));
    let folder = Arg::new("dir")
        .help("The folder to write a manual page for each verb to; it is made if it is missing")
        .value_name("DIR")
        .value_parser(value_parser!(PathBuf));
    let command = command
        .subcommand_negates_reqs(true)
        .subcommand(
            Command::new("completions").about("Prints a completion script for a shell").arg(shell),
        )
        .subcommand(
            Command::new("man")
                .about("Prints the manual page, or writes one for each verb to a folder")
                .arg(folder),
        );
    let verb = Arg::new("verb").help("The verb").value_name("VERB");
    let help = Command::new("help").about("Prints this text, or that of a verb").arg(verb);
    with_width(command.subcommand(help))
}

/// Returns the completion script, the manual page or the help that the command line asks for;
/// `None` if it asks for something else.
pub(crate) fn text_if_asked_for(
    command: &Command,
    matches: &ArgMatches,
) -> io::Result<Option<Vec<u8>>> {
    let mut text = Vec::new();
    match matches.subcommand() {
        Some(("completions", matches)) => {
            let shell = matches.get_one::<Shell>("shell").copied().unwrap_or(Shell::Bash);
            let name = command.get_name().to_owned();
            clap_complete::generate(shell, &mut without_hidden(command), &name, &mut text);
            if shell == Shell::Bash {
                text = with_labels_of_verbs(&name, &text);
            }
        }
        Some(("man", matches)) => match matches.get_one::<PathBuf>("dir") {
            Some(folder) => {
                let named = |error| io::Error::other(format!("{}: {error}", folder.display()));
                std::fs::create_dir_all(folder).map_err(named)?;
                clap_mangen::generate_to(command.clone(), folder).map_err(named)?;
            }
            None => clap_mangen::Man::new(command.clone()).render(&mut text)?,
        },
        Some(("help", matches)) => {
            // Only a command that is built knows how its verbs are called.
            let mut command = command.clone();
            command.build();
            let verb = matches.get_one::<String>("verb");
            let of_verb = verb.map(|verb| {
                command
                    .find_subcommand(verb)
                    .ok_or_else(|| io::Error::other(unknown(verb, &command)))
            });
            let of = of_verb.transpose()?.unwrap_or(&command);
            text.extend(of.clone().render_long_help().to_string().into_bytes());
        }
        _ => return Ok(None),
    }
    Ok(Some(text))
}

/// The same command without the flags that people are not shown. Scripts for completion would show
/// them.
fn without_hidden(command: &Command) -> Command {
    // The library has names that last for ever, and lends them for less. The program ends soon.
    let name: &'static str = String::leak(command.get_name().to_owned());
    let shown = command.get_arguments().filter(|arg| !arg.is_hide_set());
    let same = Command::new(name)
        .disable_help_flag(true)
        .disable_version_flag(true)
        .disable_help_subcommand(true)
        .args(shown)
        .subcommands(command.get_subcommands().map(without_hidden));
    match command.get_about() {
        Some(about) => same.about(about.clone()),
        None => same,
    }
}

/// Names the verbs in a completion script for bash as the script itself looks for them. The library
/// writes the hyphen of a program's name in two ways, and no verb would be found.
fn with_labels_of_verbs(program: &str, script: &[u8]) -> Vec<u8> {
    let label = |hyphen: &str| format!("{}__subcmd__", program.replace('-', hyphen));
    String::from_utf8_lossy(script).replace(&label("__subcmd__"), &label("__")).into_bytes()
}

/// Says that there is no such verb, and which one may be meant.
fn unknown(verb: &str, command: &Command) -> String {
    let verbs = command.get_subcommands().map(Command::get_name);
    let meant = nearest(verb, verbs).map_or(String::new(), |it| format!(": did you mean {it}?"));
    format!("there is no verb {verb}{meant}")
}

/// Replaces the suggestion of an error by our own, if we know what the word means.
pub(crate) fn with_tip(mut error: Error, command: &Command) -> Error {
    let word = |kind| match error.get(kind) {
        Some(ContextValue::String(word)) => Some(word.clone()),
        _ => None,
    };
    let verb = verb_of_this_process(command);
    let tip = match error.kind() {
        ErrorKind::UnknownArgument => {
            word(ContextKind::InvalidArg).and_then(|word| tip_for_argument(&word, verb, command))
        }
        ErrorKind::InvalidSubcommand => {
            word(ContextKind::InvalidSubcommand).and_then(|word| verb_for(&word, command))
        }
        // A shell that there is no script for is not one that only sounds alike.
        ErrorKind::InvalidValue if verb.get_name() == "completions" => {
            Some(format!("there is a script for {SHELLS}"))
        }
        ErrorKind::InvalidValue
            if word(ContextKind::InvalidValue).is_some_and(|value| value.is_empty())
                && word(ContextKind::InvalidArg).is_some_and(|flag| flag.starts_with(RESUME)) =>
        {
            Some("leave it out: a run that is there goes on by itself".to_owned())
        }
        _ => None,
    };
    // The library's own: that a flag can be given as a value, after "--". Nobody means that.
    error.remove(ContextKind::Suggested);
    if let Some(tip) = tip {
        // The usage is that of the suggestion.
        for kind in [
            ContextKind::SuggestedArg,
            ContextKind::SuggestedSubcommand,
            ContextKind::SuggestedValue,
            ContextKind::ValidValue,
            ContextKind::Usage,
        ] {
            error.remove(kind);
        }
        let tip = escaped(&tip).into_owned();
        error.insert(ContextKind::Suggested, ContextValue::StyledStrs(vec![tip.into()]));
    }
    error
}

/// Names the variable that has given a wrong value, in place of its flag. `given` are the flags
/// whose values variables give.
pub(crate) fn with_variable(mut error: Error, given: &[(String, String)]) -> Error {
    if let Some(ContextValue::String(argument)) = error.get(ContextKind::InvalidArg)
        && matches!(error.kind(), ErrorKind::InvalidValue | ErrorKind::ValueValidation)
    {
        let name = argument.trim_start_matches('-').split([' ', '[', '=']).next();
        if let Some((_, variable)) = given.iter().find(|(flag, _)| Some(&**flag) == name) {
            error.insert(ContextKind::InvalidArg, ContextValue::String(variable.clone()));
        }
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
    let verb = names::words().skip(1).find_map(|word| command.find_subcommand(word));
    verb.unwrap_or(command)
}

/// The same command, whose help is as wide as a person can read. The words of the library are in
/// our mood.
fn with_width(command: Command) -> Command {
    let help = || Arg::new("help").short('h').long("help").action(ArgAction::Help);
    let has_version = command.get_version().is_some();
    let version = Arg::new("version").short('V').long("version").action(ArgAction::Version);
    let command =
        command.max_term_width(WIDTH).disable_help_flag(true).arg(help().help("Prints help"));
    let command = if has_version {
        command.disable_version_flag(true).arg(version.help("Prints the version"))
    } else {
        command
    };
    command.disable_help_subcommand(true).mut_subcommands(with_width)
}

/// Returns a tip for a word that is no argument of this verb, or of this program without a verb.
fn tip_for_argument(word: &str, verb: &Command, command: &Command) -> Option<String> {
    let is_verb = verb.get_name() != command.get_name();
    let name = word.trim_start_matches('-');
    if name == word {
        let has_run = has_flag("run", verb) && verb.get_positionals().next().is_none();
        return has_run.then(|| format!("give it as '--run {word}'"));
    }
    if is_verb && has_flag(name, verb) {
        return Some(format!("give it after the verb: '{} --{name}'", verb.get_name()));
    }
    let of_program = command.get_arguments().find(|arg| {
        let short = arg.get_short().map(String::from);
        arg.get_long() == Some(name) || short.as_deref() == Some(name)
    });
    let of_program = of_program.and_then(Arg::get_long);
    if is_verb && of_program.is_some_and(|flag| BEFORE_VERBS.contains(&flag)) {
        return Some(format!("give it before the verb: '{word} {}'", verb.get_name()));
    }
    if name == "all" && verb.get_name() == "drain" {
        return Some("to end all of them, use 'stop'".to_owned());
    }
    // One that begins with a single dash is taken for several of one letter.
    let long = names::words().skip(1).find(|given| {
        let rest = given.strip_prefix('-').filter(|rest| rest.len() > 1 && !word.starts_with("--"));
        rest.is_some_and(|rest| has_flag(rest, verb))
    });
    match long {
        Some(long) => Some(format!("use '-{long}'")),
        None => flag_for(name, verb),
    }
}

fn has_flag(name: &str, command: &Command) -> bool {
    command.get_arguments().any(|arg| arg.get_long() == Some(name))
}

/// Returns a tip for a verb of another program.
fn verb_for(word: &str, command: &Command) -> Option<String> {
    let of_others = VERBS_OF.into_iter().filter(|(name, _)| *name != command.get_name());
    if let Some((program, _)) = of_others.into_iter().find(|(_, verbs)| verbs.contains(&word)) {
        return Some(format!("'{word}' is a verb of {program}"));
    }
    // Words after a flag that takes none.
    if word == "local" && has_flag("local", command) {
        return Some("use '--local'".to_owned());
    }
    if word.parse::<u16>().is_ok() && has_flag("workers", command) {
        return Some(format!("use '--local --workers {word}'"));
    }
    if let Some(tip) = tip_for_value(word, command) {
        return Some(tip);
    }
    if NO_VERBS.contains(&word) && !command.is_subcommand_required_set() {
        return Some(format!("leave '{word}' out: without a verb, this program trains"));
    }
    let (_, tips) = VERBS.into_iter().find(|(verb, _)| *verb == word)?;
    let tip = tips.iter().find(|(verb, _)| command.find_subcommand(verb).is_some());
    tip.map(|(_, tip)| (*tip).to_owned())
}

/// Returns a tip for the value of a flag that stands where a verb should be.
fn tip_for_value(word: &str, command: &Command) -> Option<String> {
    if YES_OR_NO.contains(&word) {
        let words: Vec<String> = names::words().collect();
        let before = words.windows(2).find(|pair| pair[1] == word && pair[0].starts_with("--"))?;
        return Some(format!("use '{}={word}'", before[0]));
    }
    let authority = word.trim_start_matches("http://").trim_end_matches('/');
    let port = authority.rsplit_once(':').map(|(_, port)| port.parse::<u16>());
    if matches!(port, Some(Ok(_))) {
        let flag = ["coordinator", "listen"].into_iter().find(|flag| has_flag(flag, command))?;
        return Some(format!("use '--{flag} {word}'"));
    }
    if !word.contains('/') && !Path::new(word).exists() {
        return None;
    }
    let tip = PATHS.into_iter().find(|(flag, _)| has_flag(flag, command));
    let verb = command.find_subcommand("grid").map(|_| "give it after a verb, as in 'grid {}'");
    Some(tip.map(|(_, tip)| tip).or(verb)?.replace("{}", word))
}

/// Returns a tip with the flag that a command has for a synonym. One that has none has no flag that
/// only sounds alike, either.
fn flag_for(word: &str, command: &Command) -> Option<String> {
    let word = word.replace('_', "-");
    let flags = synonyms(&word);
    let name = |flag: &'static str| flag.split_once(' ').map_or(flag, |(name, _)| name);
    if let Some(flag) = flags.iter().find(|flag| has_flag(name(flag), command)) {
        return Some(format!("use '--{flag}'"));
    }
    if let Some((_, tip)) = NO_FLAGS.into_iter().find(|(synonym, _)| *synonym == word) {
        return Some(tip.to_owned());
    }
    (!flags.is_empty()).then(|| format!("'{}' has no such setting", command.get_name()))
}

/// Returns our flags for a flag of other programs, all without the dashes.
pub(crate) fn synonyms(word: &str) -> &'static [&'static str] {
    let known = SYNONYMS.into_iter().find(|(synonym, _)| *synonym == word);
    known.map_or(&[], |(_, flags)| flags)
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
        assert!(answer(&["--checkpoint_dir", "1"]).contains("tip: 'program' has no such setting"));
        assert!(answer(&["--rank", "1"]).contains("tip: leave it out"));
        assert!(answer(&["train"]).contains("tip: leave 'train' out"));
        assert!(answer(&["version"]).contains("tip: use '--version'"));
        assert!(answer(&["grid"]).contains("tip: 'grid' is a verb of dcgan-sampler"));
        let kill = answer(&["kill"]);
        assert!(!kill.contains("'stop'"), "it has no such verb: {kill}");
        assert!(answer(&["--liste", "1"]).contains("a similar argument exists: '--listen'"));
    }

    #[test]
    fn values_without_their_flags_lead_to_them() {
        assert!(answer(&["10.0.0.1:7420"]).contains("tip: use '--listen 10.0.0.1:7420'"));
        assert!(!answer(&["true"]).contains("tip"));
        let trains = Command::new("program").arg(Arg::new("out").long("out"));
        let trains = with_verbs(trains.arg(Arg::new("local").long("local").num_args(0)));
        let tip = tip_for_value("runs/x", &trains).unwrap();
        assert_eq!(
            tip,
            "to train in it, use '--out runs/x'; or give it after a verb, as in 'status runs/x'"
        );
    }

    #[test]
    fn a_wrong_value_of_a_variable_is_told_by_its_name() {
        let command = || {
            Command::new("program").arg(
                Arg::new("steps").long("steps").value_name("N").value_parser(value_parser!(u64)),
            )
        };
        let error = command().try_get_matches_from(["program", "--steps", "1k"]).unwrap_err();
        let given = [("steps".to_owned(), "DCGAN_STEPS".to_owned())];
        let text = with_variable(error, &given).to_string();
        assert!(text.contains("invalid value '1k' for 'DCGAN_STEPS'"), "{text}");
    }

    #[test]
    fn scripts_for_completion_have_no_hidden_flags() {
        let hidden = Arg::new("fault").long("fault").hide(true);
        let verb = Command::new("verb").arg(hidden.clone()).arg(Arg::new("x").long("xyz"));
        let command = without_hidden(&program().arg(hidden).subcommand(verb));
        for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
            let mut text = Vec::new();
            clap_complete::generate(shell, &mut command.clone(), "program", &mut text);
            let text = String::from_utf8(text).unwrap();
            assert!(text.contains("xyz") && text.contains("listen"), "{text}");
            assert!(!text.contains("--fault") && !text.contains("-l fault"), "{text}");
        }
    }

    #[test]
    fn the_verb_help_prints_the_help_of_a_verb() {
        let mut command = program();
        let matches = command.try_get_matches_from_mut(["program", "help", "man"]).unwrap();
        assert!(text_if_asked_for(&command, &matches).unwrap().is_some());
        let matches = command.try_get_matches_from_mut(["program", "help", "x"]).unwrap();
        let error = text_if_asked_for(&command, &matches).unwrap_err();
        assert_eq!(error.to_string(), "there is no verb x");
        let matches = command.try_get_matches_from_mut(["program", "help", "mna"]).unwrap();
        let error = text_if_asked_for(&command, &matches).unwrap_err();
        assert_eq!(error.to_string(), "there is no verb mna: did you mean man?");
    }
}
