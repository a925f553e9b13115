//! The two formats of the log.

use std::path::Path;

use tempfile::tempdir;

use crate::process::{COORD, Ended, Process, assert_names};

/// Trains the toy for some steps, with the log in this format.
fn train(folder: &Path, format: &str) -> Ended {
    let arguments = "--out run --local --workers 1 --objective toy --steps 20";
    Process::start_with_log_format(format, COORD, folder, arguments).expect(0)
}

#[test]
fn a_log_as_text_has_plain_sentences_without_fields() {
    let folder = tempdir().unwrap();
    let ended = train(folder.path(), "text");
    let sentences: Vec<&str> = ended.text.lines().filter(|line| line.contains(" INFO ")).collect();
    assert!(sentences.len() > 3, "{}", ended.text);
    for sentence in sentences {
        assert!(!sentence.contains("event="), "{sentence}");
        assert!(!sentence.contains("\"event\""), "{sentence}");
    }
    // The values are in the sentences.
    assert!(ended.text.lines().any(|line| line.contains(" INFO ") && line.contains("worker-0")));

    // The processes that the coordinator starts write in the same format.
    let log = std::fs::read_to_string(folder.path().join("run/logs/worker-0.log")).unwrap();
    assert!(log.contains(" INFO ") && !log.contains("event="), "{log}");
}

#[test]
fn a_run_that_fails_ends_with_a_block_on_the_screen() {
    let folder = tempdir().unwrap();
    // With this learning rate the values are soon too large for a float32.
    let arguments = "--out run --local --workers 1 --objective toy --learning-rate 1e30";
    let failed = Process::start_with_log_format("text", COORD, folder.path(), arguments).expect(1);
    // The keys of the block are a contract: people and programs look for them.
    let block: Vec<&str> =
        failed.text.lines().skip_while(|line| !line.starts_with("the run has failed: ")).collect();
    assert_eq!(block.len(), 4, "{}", failed.text);
    for (line, parts) in block[1..].iter().zip([
        ["  logs:    ", "run/logs"],
        ["  saved:   ", "no checkpoint"],
        ["  resume:  ", "dcgan-coord --out run --local --listen 127.0.0.1:0 --workers 1"],
    ]) {
        assert!(line.starts_with(parts[0]) && line.ends_with(parts[1]), "{line:?}");
    }
}

#[test]
fn a_quiet_run_says_how_it_ended_and_a_verbose_one_says_more() {
    let train = |arguments: &str| {
        let folder = tempdir().unwrap();
        let toy = "--out run --local --workers 1 --objective toy --steps 20";
        let ended = Process::start(COORD, folder.path(), &format!("{toy} {arguments}")).expect(0);
        let log = std::fs::read_to_string(folder.path().join("run/logs/worker-0.log")).unwrap();
        (ended, log)
    };
    let (quiet, log) = train("--quiet");
    quiet.event("run_finished", &[("step", "20")]);
    assert_eq!(quiet.text.lines().count(), 1, "{}", quiet.text);
    assert!(log.contains("worker_started"), "the log of a worker explains failures: {log}");
    let (verbose, log) = train("-v");
    verbose.event("worker_connected", &[("worker", "worker-0")]);
    assert_names(&log, &["\"DEBUG\""]);
}

#[test]
fn a_log_as_json_has_events_with_their_sentences() {
    let folder = tempdir().unwrap();
    let ended = train(folder.path(), "json");
    for (event, fields) in [
        ("worker_ready", vec![("worker", "worker-0")]),
        ("plan", vec![("generation", "1"), ("members", "worker-0"), ("step", "1")]),
        ("checkpoint_saved", vec![("step", "20")]),
        ("run_finished", vec![("step", "20")]),
    ] {
        let message = &ended.event(event, &fields).message;
        assert!(message.contains(' '), "{event} has a sentence, found {message:?}");
    }
    // Standard error holds nothing but log lines.
    let is_log = |line: &str| line.starts_with('{');
    let is_row = |line: &str| line.contains("  step ");
    let others: Vec<&str> =
        ended.text.lines().filter(|line| !is_log(line) && !is_row(line)).collect();
    assert!(others.is_empty(), "{others:?}");
}
