//! Settings: each is a flag, a variable and, for the coordinator, a key of its file.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Output;

use clap::{Arg, CommandFactory};
use dcgan_core::spec::RunSpec;
use dcgan_process::settings::{FLAGS, VERBS_OF, variable_of};
use tempfile::tempdir;

use crate::events::Event;
use crate::process::{COORD, SAMPLER, assert_names};
use crate::run::{local, rows};

/// Flags without a variable, each with its verb: those of one answer or one file, some of which
/// have another meaning for another program.
const WITHOUT_VARIABLE: [(&str, &str); 16] = [
    ("summary", "format"),
    ("status", "json"),
    ("grid", "out"),
    ("grid", "seed"),
    ("export", "out"),
    ("export", "seed"),
    ("latents", "out"),
    ("latents", "seed"),
    ("eval", "images"),
    ("eval", "seed"),
    ("eval", "evaluator"),
    ("eval", "data"),
    ("eval", "json"),
    ("train-evaluator", "data"),
    ("train-evaluator", "out"),
    ("train-evaluator", "epochs"),
];

/// Every flag of a program that people see, with its verb. The flags of `chaos` are left out: it
/// tests programs that take no variables.
fn visible_flags(command: &clap::Command) -> Vec<(String, Arg)> {
    let with_verb = |command: &clap::Command| -> Vec<(String, Arg)> {
        let flags = command.get_arguments().filter(|flag| {
            let name = flag.get_long();
            name.is_some_and(|name| !["help", "version"].contains(&name)) && !flag.is_hide_set()
        });
        flags.map(|flag| (command.get_name().to_owned(), flag.clone())).collect()
    };
    let verbs = command.get_subcommands().filter(|verb| verb.get_name() != "chaos");
    with_verb(command).into_iter().chain(verbs.flat_map(with_verb)).collect()
}

#[test]
fn every_flag_has_its_variable() {
    let commands = [
        dcgan_coord::Args::command(),
        dcgan_worker::Args::command(),
        dcgan_sampler::Args::command(),
    ];
    let mut variables = BTreeSet::new();
    for (verb, flag) in commands.iter().flat_map(visible_flags) {
        let name = flag.get_long().unwrap();
        let variable = flag.get_env().map(|variable| variable.to_str().unwrap().to_owned());
        if WITHOUT_VARIABLE.contains(&(&verb, name)) {
            assert_eq!(variable, None, "{verb} --{name}");
        } else {
            assert_eq!(variable, Some(variable_of(name)), "{verb} --{name}");
            variables.extend(variable);
        }
    }

    // The programs know each other's variables. These are hidden.
    variables.extend(["objective", "initial-weights"].map(variable_of));
    let known = FLAGS.into_iter().map(variable_of);
    let of_results = RunSpec::setting_names().into_iter().map(|name| variable_of(&name));
    assert_eq!(variables, known.chain(of_results).collect(), "update FLAGS");
}

#[test]
fn the_programs_know_the_verbs_of_each_other() {
    // Those that describe the command line, such as `help`, are every program's.
    let commands = [dcgan_coord::Args::command(), dcgan_sampler::Args::command()];
    for (command, (name, known)) in commands.iter().zip(VERBS_OF) {
        let verbs: BTreeSet<&str> = command.get_subcommands().map(|verb| verb.get_name()).collect();
        assert_eq!((command.get_name(), verbs), (name, known.iter().copied().collect()));
    }
    assert_eq!(dcgan_worker::Args::command().get_subcommands().count(), 0);
}

/// Runs a program to its end with these variables.
pub(crate) fn run_with(
    program: &str,
    folder: &Path,
    variables: &[(&str, &str)],
    arguments: &str,
) -> Output {
    let mut command = std::process::Command::new(program);
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("DCGAN_")) {
        command.env_remove(name);
    }
    command.envs(variables.iter().copied());
    command.args(arguments.split_whitespace()).current_dir(folder).output().unwrap()
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

/// Returns what a dry run of the coordinator with these variables prints.
fn dry_run(folder: &Path, variables: &[(&str, &str)], arguments: &str) -> String {
    // The documented port may be another test's.
    let arguments = format!("--dry-run --listen 127.0.0.1:0 {arguments}");
    let output = run_with(COORD, folder, variables, &arguments);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    text(&output.stdout).to_owned()
}

#[test]
fn flags_beat_variables_and_variables_beat_the_file() {
    let folder = tempdir().unwrap();
    let here = folder.path();
    std::fs::write(here.join("all.toml"), "workers = 2\nseed = 1\nsteps = 9\n").unwrap();
    let file = ("DCGAN_CONFIG", "all.toml");
    assert_names(&dry_run(here, &[file], ""), &["workers = 2\n", "seed = 1\n", "steps = 9\n"]);
    let variables = [file, ("DCGAN_SEED", "2"), ("DCGAN_EPOCHS", "1")];
    assert_names(&dry_run(here, &variables, ""), &["seed = 2\n", "epochs = 1\n"]);
    let text = dry_run(here, &variables, "--seed 3 --steps 4");
    assert_names(&text, &["seed = 3\n", "steps = 4\n"]);
    assert!(!text.contains("epochs"), "{text}");

    // An empty variable is none.
    let empty = [file, ("DCGAN_SEED", ""), ("DCGAN_LOCAL", ""), ("DCGAN_OUT", "")];
    assert_names(&dry_run(here, &empty, ""), &["# runs/dcgan\n", "seed = 1\n"]);
}

#[test]
fn a_shorter_trial_changes_nothing_for_the_next_start() {
    let folder = tempdir().unwrap();
    let here = folder.path();
    let toy = "--out run --local";
    assert_names(&dry_run(here, &[], toy), &["# a new run would begin\n"]);
    let trial =
        format!("{toy} --listen 127.0.0.1:0 --objective toy --workers 1 --threads 2 --steps 30");
    assert_eq!(run_with(COORD, here, &[], &trial).status.code(), Some(0));
    let next = dry_run(here, &[], toy);
    let defaults = ["epochs = 20\n", "threads = 1\n", "objective = \"toy\"\n"];
    assert_names(&next, &defaults);
    assert_names(&next, &["# the run would go on after step 30\n"]);
    let done = dry_run(here, &[], &format!("{toy} --steps 30"));
    assert_names(&done, &["# the run has done 30 steps\n"]);
}

#[test]
fn a_schedule_of_the_learning_rate_does_not_depend_on_the_length_of_the_run() {
    let toy = "--objective toy --learning-rate 0.1 --lr-schedule cosine --warmup-steps 4 \
               --schedule-steps 24 --final-learning-rate 0.01 --log-every 2";
    let undisturbed = tempdir().unwrap();
    let digest = local(undisturbed.path(), &format!("--workers 1 {toy} --steps 30"));
    let rates: Vec<(u64, f64)> =
        rows(undisturbed.path()).iter().map(|row| (row.step, row.learning_rate)).collect();
    // In the warm-up, at its end, near half of the fall, and after the horizon.
    assert_eq!((rates[0], rates[1], rates[12]), ((2, 0.05), (4, 0.1), (26, 0.01)));
    assert!((rates[6].1 - 0.062).abs() < 1e-3, "{rates:?}");

    // A run that is made longer twice, with another number of workers.
    let folder = tempdir().unwrap();
    local(folder.path(), &format!("--workers 2 {toy} --steps 10"));
    local(folder.path(), "--workers 1 --steps 17");
    assert_eq!(local(folder.path(), "--workers 3 --steps 30"), digest);
}

#[test]
fn yes_and_no_have_several_words() {
    let folder = tempdir().unwrap();
    let here = folder.path();
    // Without --insecure this is refused.
    let refused = |value: &str, arguments: &str| {
        let variables = [("DCGAN_LISTEN", "0.0.0.0:0"), ("DCGAN_INSECURE", value)];
        let arguments = format!("--dry-run --workers 1 {arguments}");
        run_with(COORD, here, &variables, &arguments).status.code() == Some(2)
    };
    for yes in ["1", "true", "yes", "on"] {
        assert!(!refused(yes, ""), "{yes}");
        assert!(refused(yes, "--insecure=no"), "{yes}");
    }
    for no in ["0", "false", "no", "off", ""] {
        assert!(refused(no, ""), "{no}");
        assert!(!refused(no, "--insecure"), "{no}");
    }
    assert!(refused("perhaps", ""));
}

#[test]
fn a_file_can_hold_every_setting() {
    let folder = tempdir().unwrap();
    let here = folder.path();
    let settings = "objective = \"toy\"\nworkers = 1\nsteps = 4\nlocal = true\nout = \"here/run\"\n\
                    resume = \"never\"\nlog-format = \"json\"\nlisten = \"127.0.0.1:0\"\n\
                    fixed-shards = true\ninsecure = false\ndry-run = false\n";
    std::fs::create_dir(here.join("here")).unwrap();
    std::fs::write(here.join("all.toml"), settings).unwrap();
    let start = |arguments: &str| {
        let output = run_with(COORD, here, &[], &format!("--config all.toml {arguments}"));
        let events: Vec<Event> = text(&output.stderr).lines().filter_map(Event::parse).collect();
        (output.status.code(), events)
    };
    let (status, events) = start("");
    assert_eq!(status, Some(0), "{events:?}");
    assert!(events.iter().any(|event| event.is("run_finished", &[("step", "4")])), "{events:?}");

    // The run keeps only what holds for the next start as well.
    let saved = std::fs::read_to_string(here.join("here/run/config.toml")).unwrap();
    for key in ["local", "out", "resume", "log-format", "listen", "insecure"] {
        assert!(!saved.contains(&format!("{key} = ")), "{key} in {saved}");
    }
    let (status, events) = start("");
    assert_eq!(status, Some(2));
    assert_names(&events[0].message, &["here/run: not empty, and --resume never"]);
    let (status, events) = start("--resume auto");
    assert_eq!(status, Some(0), "{events:?}");

    std::fs::write(here.join("all.toml"), "config = \"other.toml\"\n").unwrap();
    let output = run_with(COORD, here, &[], "--config all.toml");
    assert_eq!(output.status.code(), Some(2));
    assert_names(text(&output.stderr), &["all.toml: ", "cannot name another"]);
}

#[test]
fn a_variable_that_no_program_knows_is_said() {
    let folder = tempdir().unwrap();
    let variables = [("DCGAN_SEDD", "1"), ("DCGAN_SEED", "2"), ("DCGAN_COUNT", "3")];
    let arguments = "--dry-run --workers 1 --listen 127.0.0.1:0 --log-format json";
    let output = run_with(COORD, folder.path(), &variables, arguments);
    let events: Vec<Event> = text(&output.stderr).lines().filter_map(Event::parse).collect();
    let unknown = events.iter().find(|event| event.is("unknown_variables", &[])).unwrap();
    assert_eq!(unknown.field("names"), "DCGAN_SEDD");
}

#[test]
fn a_flag_of_the_sampler_beats_a_variable_that_it_excludes() {
    let folder = tempdir().unwrap();
    let serve = |variables: &[(&str, &str)], arguments: &str| {
        let output = run_with(SAMPLER, folder.path(), variables, &format!("serve {arguments}"));
        assert_eq!(output.status.code(), Some(2));
        text(&output.stderr).to_owned()
    };
    let coordinator = ("DCGAN_COORDINATOR", "http://127.0.0.1:1");
    assert_names(&serve(&[coordinator], "--run nowhere"), &["nowhere: not a run directory"]);
    let both = [coordinator, ("DCGAN_RUN", "nowhere")];
    assert_names(&serve(&both, ""), &["--coordinator and --run", "give one"]);
    assert_names(&serve(&[], ""), &["--run: runs/dcgan: not a run directory"]);
}
