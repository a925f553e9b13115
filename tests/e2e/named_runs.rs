//! Which run a verb means, and what is said if it means none.

use std::fs;
use std::path::Path;
use std::process::Command;

use dcgan_store::idx::{Images, write_images};
use tempfile::tempdir;

use crate::process::{COORD, SAMPLER, assert_names, run};
use crate::run::{Coordinator, local, newest_manifest};
use crate::settings::run_with;

const TOY: &str = "--objective toy --workers 1 --log-every 10";

/// Runs a shell script in a network of its own, where nobody else has the documented port. Returns
/// what it prints; `None` if that is not allowed here.
fn in_own_network(here: &Path, script: &str) -> Option<String> {
    let shell = |script: &str| {
        let mut command = Command::new("unshare");
        for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("DCGAN_")) {
            command.env_remove(name);
        }
        let script = format!("ip link set lo up || exit 9\n{script}");
        command.args(["--net", "sh", "-c", &script]).current_dir(here).output()
    };
    if !shell("").is_ok_and(|output| output.status.success()) {
        eprintln!("skipped: network name spaces are not allowed here");
        return None;
    }
    let output = shell(script).unwrap();
    Some(String::from_utf8([output.stdout, output.stderr].concat()).unwrap())
}

#[test]
fn a_verb_without_a_run_does_nothing_to_that_of_another_folder() {
    let folder = tempdir().unwrap();
    let here = folder.path();
    for name in ["busy", "stopped", "empty"] {
        fs::create_dir(here.join(name)).unwrap();
    }
    let stopped = here.join("stopped");
    run(COORD, &stopped, &format!("{TOY} --local --steps 20"), 0);
    let script = format!(
        "(cd busy && exec {COORD} {TOY} --steps 1000000000) > log 2>&1 &
        for try in $(seq 600); do [ -s busy/runs/dcgan/address ] && break; sleep 0.1; done
        try() {{ echo \"[$2]\"; (cd $1 && {COORD} $2 2>&1); echo \"=> $?\"; }}
        for verb in stop checkpoint 'drain w'; do try stopped \"$verb\"; try empty \"$verb\"; done
        try stopped status
        try empty status
        try empty 'status --json'
        try busy stop
        wait
        try empty status
        try empty stop"
    );
    let Some(text) = in_own_network(here, &script) else {
        return;
    };
    let busy = here.join("busy/runs/dcgan").display().to_string();
    for verb in ["stop", "checkpoint", "drain w"] {
        let refused = format!("[{verb}]\nerror: there is no run in runs/dcgan; one listens at");
        assert_names(&text, &[&refused]);
        let ended = format!("[{verb}]\nerror: no coordinator is running: run ");
        assert_names(&text, &[&ended]);
    }
    for verb in ["stop", "checkpoint", "drain w"] {
        let elsewhere = format!(
            "http://127.0.0.1:7420 ({busy}): to mean it, use `{COORD} {verb} --coordinator \
             http://127.0.0.1:7420`"
        );
        assert_names(&text, &[&elsewhere, "in runs/dcgan has finished: 20 steps"]);
    }
    // Looking does no harm, and says what is looked at.
    let found = format!(" in {busy}, found at http://127.0.0.1:7420: there is no run here\n");
    assert_names(&text, &[&found, &format!("\"directory\":\"{busy}\"")]);
    let (_, after) = text.split_once("the run has ended: no step was finished\n=> 0").unwrap();
    let none = "no run here: there is no runs/dcgan, and nobody listens at http://127.0.0.1:7420";
    assert_names(after, &[&format!("[status]\nerror: {none}"), &format!("[stop]\nerror: {none}")]);
}

#[test]
fn settings_before_a_verb_are_refused_and_variables_are_not() {
    let folder = tempdir().unwrap();
    let here = folder.path();
    for (arguments, error) in [
        ("--out run stop", "--out has no meaning before stop: give the run as 'stop --run run'"),
        ("--dry-run stop", "--dry-run has no meaning before stop: leave it out"),
        ("--workers 3 chaos", "before chaos: give it after the verb: 'chaos --workers ...'"),
        ("--seed 3 summary", "--seed has no meaning before summary: leave it out"),
    ] {
        assert_names(run(COORD, here, arguments, 2).error(), &[error]);
    }
    local(here, &format!("{TOY} --steps 20"));
    let variables = [("DCGAN_OUT", "run"), ("DCGAN_WORKERS", "3")];
    for (program, arguments) in [(COORD, "status"), (COORD, "-q status"), (COORD, "verify")] {
        let output = run_with(program, here, &variables, arguments);
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert_eq!(output.status.code(), Some(0), "{text}");
        assert_names(&text, &["run"]);
    }
    let output = run_with(SAMPLER, here, &variables, "grid");
    assert_names(
        &String::from_utf8_lossy(&output.stderr),
        &["the checkpoint of step 20 is of the toy, "],
    );
}

#[test]
fn a_run_directory_needs_no_flag_and_may_have_one() {
    let folder = tempdir().unwrap();
    let here = folder.path();
    local(here, &format!("{TOY} --steps 20"));
    for arguments in ["status run", "status --run run", "verify run", "verify --run run run"] {
        run(COORD, here, arguments, 0);
    }
    for arguments in ["stop run", "checkpoint run", "drain w run"] {
        let refused = run(COORD, here, arguments, 1);
        assert_names(refused.error(), &["no coordinator is running: run ", "has finished"]);
    }
    for arguments in ["stop run --run run", "status run --coordinator http://127.0.0.1:1"] {
        assert_names(run(COORD, here, arguments, 2).error(), &["give one"]);
    }
    let sampler = run(SAMPLER, here, "grid run --out grid.png", 2);
    assert_names(sampler.error(), &["the checkpoint of step 20 is of the toy, "]);
    let both = run(SAMPLER, here, "grid run --run run --out grid.png", 2);
    assert_names(both.error(), &["RUN_DIR and --run", "give one"]);

    // What is no run directory leads to one.
    fs::create_dir(here.join("runs")).unwrap();
    fs::rename(here.join("run"), here.join("runs/a")).unwrap();
    let part = "runs/a/checkpoints/step-00000020";
    for verb in ["status", "stop", "verify"] {
        let inside = run(COORD, &here.join("runs/a"), verb, 2);
        assert_names(inside.error(), &["this one is a run directory: give . to mean it"]);
        let below = run(COORD, &here.join("runs/a/logs"), verb, 2);
        assert_names(below.error(), &["this one is a part of the run /", "runs/a: give /"]);
    }
    run(COORD, &here.join("runs/a"), "status .", 0);
    for (arguments, names) in [
        ("status runs", ["runs: not a run directory", "a run in runs/a: give that"]),
        ("verify", ["runs/dcgan: not a run directory", "change to the folder where the training"]),
        (&format!("status {part}"), ["a part of the run runs/a: give runs/a", "--checkpoint 20"]),
    ] {
        assert_names(run(COORD, here, arguments, 2).error(), &names);
    }
}

#[test]
fn status_tells_the_command_that_the_coordinator_told_at_its_end() {
    let folder = tempdir().unwrap();
    let here = folder.path();
    let arguments = format!("{TOY} --local --threads 2 --steps 1000000000 --checkpoint-every 10");
    let coordinator = Coordinator::start(here, &arguments);
    coordinator.process.wait_for_step(10);
    coordinator.process.signal("INT");
    let ended = coordinator.process.expect(130);
    let (_, own) = ended.event("run_stopped", &[]).message.split_once("go on with: ").unwrap();
    assert_names(own, &["--out run --local --listen 127.0.0.1:0 --steps 1000000000 --workers 1"]);
    let told = run(COORD, here, "status run", 0).text;
    assert_names(&told, &[&format!("go on with: {own}")]);

    let told = run(COORD, here, "status run --json", 0).text;
    let told: serde_json::Value = serde_json::from_str(&told).unwrap();
    let manifest = newest_manifest(here);
    assert_eq!(told["digest"], manifest.state_digest.to_string());
    assert_eq!(told["step"], manifest.step);
    assert!(told["epoch"].as_u64().unwrap() >= 1, "{told}");
    assert!(told["newest_row"]["step"].as_u64().unwrap() <= manifest.step, "{told}");
}

#[test]
fn a_run_without_a_checkpoint_and_one_whose_file_is_damaged_say_how_they_go_on() {
    let folder = tempdir().unwrap();
    let here = folder.path();
    let coordinator = Coordinator::start(here, &format!("{TOY} --steps 20"));
    let grid = "grid run --out grid.png";
    let refused = run(SAMPLER, here, grid, 1);
    assert_names(
        refused.error(),
        &["no checkpoint yet", "dcgan-coord checkpoint --run run` takes"],
    );
    coordinator.process.signal("INT");
    coordinator.process.expect(130);
    let refused = run(SAMPLER, here, grid, 1);
    assert_names(&run(COORD, here, "verify run", 0).text, &["run: nothing to check: "]);
    let begins = "dcgan-coord --out run --listen 127.0.0.1:0 --steps 20 --workers 1` begins it";
    assert_names(refused.error(), &["has ended before its first", begins]);

    let damage = || fs::write(here.join("run/run.json"), "{").unwrap();
    damage();
    let refused = run(COORD, here, "status run", 2);
    assert_names(refused.error(), &["run/run.json: ", "remove run, and start the run anew"]);
    fs::remove_dir_all(here.join("run")).unwrap();
    local(here, &format!("{TOY} --seed 5 --steps 20"));
    damage();
    let refused = run(COORD, here, &format!("--out run --local {TOY}"), 1);
    let way_out = "--config run/config.toml --out run";
    assert_names(refused.error(), &["run/run.json: ", "move it away", way_out]);
    fs::remove_file(here.join("run/run.json")).unwrap();
    let again = run(COORD, here, &format!("{way_out} --local --steps 40"), 0);
    again.event("identity_restored", &[("step", "20")]);
}

#[test]
fn images_that_have_moved_and_other_images_are_told_as_such() {
    let folder = tempdir().unwrap();
    let here = folder.path();
    let write = |name: &str, pixel: u8| {
        let pixels = vec![pixel; 300 * 28 * 28];
        let mut file = Vec::new();
        write_images(&Images { count: 300, rows: 28, columns: 28, pixels }, &mut file).unwrap();
        fs::write(here.join(name), file).unwrap();
    };
    // A run that has begun, without a step.
    let begin = |arguments: &str| {
        let coordinator = Coordinator::start(here, &format!("--workers 1 {arguments}"));
        coordinator.process.signal("INT");
        coordinator.process.expect(130);
    };
    write("images", 7);
    begin("");
    let other = run(COORD, here, "--out run --workers 1 --data images", 2);
    assert_names(other.error(), &["run belongs to a run with other settings: data: saved 60000"]);

    fs::remove_dir_all(here.join("run")).unwrap();
    begin("--data images");
    fs::rename(here.join("images"), here.join("moved")).unwrap();
    let moved = run(COORD, here, "--out run --workers 1", 2);
    let lost = "the images of run were in images, where there is nothing now";
    assert_names(moved.error(), &[lost, "as --data"]);
    run(COORD, here, "--out run --workers 1 --data moved --dry-run", 0);

    let few = run(SAMPLER, here, "eval --images moved", 2);
    let how_many = "--images: moved has 300 images, and at least 1000 are needed";
    assert_names(few.error(), &[how_many]);
}
