//! Standard output and standard error are somebody else's: whatever becomes of them, a run goes on,
//! saves what it has and ends with its own status.

use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use tempfile::tempdir;

use crate::process::{COORD, signal};
use crate::run::{last_digest, logged_steps, rows, saved_steps};

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
    while !folder.join("run/metrics.jsonl").exists() || rows(folder).len() < count {
        #[expect(clippy::disallowed_methods, reason = "nobody hears what the program says")]
        std::thread::sleep(Duration::from_millis(10));
    }
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
