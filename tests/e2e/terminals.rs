//! Standard output and standard error are somebody else's: whatever becomes of them, a run goes on,
//! saves what it has and ends with its own status.

use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use tempfile::tempdir;

use crate::process::{COORD, SAMPLER, WORKER, signal, wait_for_files};
use crate::run::{last_digest, logged_steps, rows, saved_steps};
use crate::settings::run_with;

const TOY: &str = "--local --workers 1 --objective toy --log-every 1 --checkpoint-every 50 \
                   --listen 127.0.0.1:0 --out run";

/// Starts a coordinator with these streams.
fn start(folder: &Path, steps: u64, out: impl Into<Stdio>, err: impl Into<Stdio>) -> Child {
    let arguments = format!("{TOY} --steps {steps}");
    Command::new(COORD)
        .args(arguments.split_whitespace())
        .current_dir(folder)
        .stdin(Stdio::null())
        .stdout(out)
        .stderr(err)
        .spawn()
        .unwrap()
}

fn full() -> File {
    File::options().write(true).open("/dev/full").unwrap()
}

#[test]
fn streams_that_are_full_or_closed_end_no_run() {
    let digest = |closed: bool, out: Stdio, err: Stdio| {
        let folder = tempdir().unwrap();
        let mut child = start(folder.path(), 100, out, err);
        if closed {
            drop((child.stdout.take(), child.stderr.take()));
        }
        assert_eq!(child.wait().unwrap().code(), Some(0));
        assert_eq!(logged_steps(folder.path()).len(), 100);
        last_digest(folder.path())
    };
    let undisturbed = digest(false, Stdio::null(), Stdio::null());
    assert_eq!(digest(false, full().into(), full().into()), undisturbed);
    assert_eq!(digest(true, Stdio::piped(), Stdio::piped()), undisturbed);
}

/// Waits until a run has so many rows of metrics on disk.
fn wait_for_rows(folder: &Path, count: usize) {
    let metrics = folder.join("run/metrics.jsonl");
    wait_for_files(|| metrics.exists() && rows(folder).len() >= count);
}

#[test]
fn streams_that_nobody_reads_delay_no_step_and_no_end() {
    let folder = tempdir().unwrap();
    let here = folder.path();
    let mut child = start(here, 1_000_000_000, Stdio::piped(), Stdio::piped());
    // A pipe holds 64 KiB, and a MiB waits: 12,000 rows are 1.5 MiB.
    wait_for_rows(here, 12_000);
    signal("INT", &child.id().to_string());
    assert_eq!(child.wait().unwrap().code(), Some(130));
    let last = *logged_steps(here).last().unwrap();
    assert_eq!(saved_steps(here).pop(), Some(last));
    let mut printed = String::new();
    child.stdout.take().unwrap().read_to_string(&mut printed).unwrap();
    assert!(printed.lines().next().unwrap().contains("step 1/"), "{printed}");
}

#[test]
fn colours_are_for_terminals_that_want_them() {
    if Command::new("script").arg("--version").output().is_err() {
        println!("skipped: there is no program `script` here");
        return;
    }
    let run = |variables: &[(&str, &str)]| {
        let folder = tempdir().unwrap();
        // `script` gives the program a terminal.
        let command = format!("{COORD} {TOY} --steps 10");
        let mut script = Command::new("script");
        script.args(["-qec", &command, "/dev/null"]).current_dir(folder.path());
        script.env_remove("NO_COLOR").env("TERM", "xterm").envs(variables.iter().copied());
        let output = script.stdin(Stdio::null()).output().unwrap();
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    assert!(run(&[]).contains("\u{1b}[32m"), "a terminal shows colours");
    assert!(!run(&[("NO_COLOR", "1")]).contains("\u{1b}[32m"));
    let dumb = run(&[("TERM", "dumb")]);
    assert!(!dumb.contains('\u{1b}') && dumb.contains("step 10/10"), "{dumb}");
    // Lines have the time of day, and fit.
    for line in dumb.lines() {
        // The numbers of the toy are too large to fit in a row.
        if !line.starts_with("epoch ") {
            assert!(line.len() <= 100 && line[8..].starts_with("Z  INFO "), "{line}");
        }
    }
}

#[test]
fn what_a_terminal_obeys_is_never_printed_raw() {
    let folder = tempdir().unwrap();
    let here = folder.path();
    let odd = "a\u{1b}[2J\u{9b}\u{7f}b";
    let train = format!("{} {odd} --steps 20", TOY.trim_end_matches(" run"));
    let commands = [
        (COORD, format!("--workers 1 --data {odd}"), 2),
        (COORD, format!("--config {odd}"), 2),
        (COORD, format!("--workers {odd}"), 2),
        (COORD, format!("--workers 1 --listen {odd}"), 2),
        (COORD, format!("--{odd}"), 2),
        (COORD, odd.to_owned(), 2),
        (COORD, format!("verify {odd}/x"), 2),
        (COORD, format!("{train} --dry-run"), 0),
        (COORD, train, 0),
        (COORD, format!("status --run {odd}"), 0),
        (COORD, format!("status --run {odd} --json"), 0),
        (COORD, format!("verify {odd}"), 0),
        (WORKER, format!("--coordinator file:{odd} --coordinator-timeout 1s"), 1),
        (WORKER, format!("--coordinator http://127.0.0.1:1 --name {odd}"), 2),
        (SAMPLER, format!("grid --run {odd}/x --out x"), 2),
        (SAMPLER, format!("serve --run {odd}/x"), 2),
        (SAMPLER, odd.to_owned(), 2),
    ];
    for format in ["text", "json"] {
        for (program, arguments, status) in &commands {
            let log_format = ("DCGAN_LOG_FORMAT", format);
            let output = run_with(program, here, &[log_format], arguments);
            let printed = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
            assert_eq!(output.status.code(), Some(*status), "{arguments:?}: {printed}");
            let is_raw = |c: char| c.is_control() && !matches!(c, '\n' | '\t');
            assert!(!printed.contains(is_raw), "{arguments:?}: {printed:?}");
            assert!(printed.contains(r"\u001b[2J\u009b\u007f"), "{arguments:?}: {printed}");
        }
    }
    let help = run_with(COORD, here, &[("DCGAN_OUT", odd), ("DCGAN_STEPS", "7")], "--help");
    let help = String::from_utf8(help.stdout).unwrap();
    assert!(help.contains("[env: DCGAN_OUT]") && help.contains("[env: DCGAN_STEPS=7]"), "{help}");
}
