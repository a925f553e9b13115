//! Mistakes of the user: each gets one error line and an exit status, and changes nothing.
//!
//! The sentence of an error may be reworded. What it names may not: the flag, the file, the value.

use std::os::unix::fs::symlink;
use std::os::unix::net::UnixListener;
use std::path::Path;

use dcgan_process::settings::POSITIVE;
use tempfile::tempdir;

use crate::process::{COORD, Process, SAMPLER, WORKER, assert_names, run};
use crate::run::{Coordinator, local};
use crate::settings::run_with;

const TOY: &str = "--objective toy --steps 20";
/// A name that nobody can have.
const NO_HOST: &str = "--workers 2 --insecure --listen no-such-host.invalid:1";

/// Runs a program that must end with this status, and with one error line that names these things.
fn check(program: &str, folder: &Path, arguments: &str, status: i32, names: &[&str]) {
    assert_names(run(program, folder, arguments, status).error(), names);
}

#[test]
fn a_coordinator_refuses_what_it_cannot_do() {
    let folder = tempdir().unwrap();
    let here = folder.path();
    std::fs::write(here.join("typo.toml"), "workers = 2\n\nlearning-rat = 0.1\n").unwrap();
    std::fs::write(here.join("zero.toml"), "workers = 0\n").unwrap();
    std::fs::write(here.join("bare.toml"), "steps = 1k\n").unwrap();
    std::fs::write(here.join("file"), "").unwrap();
    std::fs::create_dir(here.join("saved")).unwrap();
    std::fs::write(here.join("saved/config.toml"), "batch_size = 2\n").unwrap();
    let mistakes: [(&str, i32, &[&str]); 35] = [
        ("", 2, &["--workers is missing"]),
        ("--workers 2 --min-workers 3", 2, &["--min-workers 3 is more than --workers 2"]),
        ("--workers 2 --epochs 1 --steps 1", 2, &["--epochs and --steps", "give one"]),
        (
            "--workers 2 --shards 7",
            2,
            &["--batch-size 256 cannot be split into --shards 7", "252 or 259"],
        ),
        ("--workers 2 --learning-rate -1", 2, &["--learning-rate -1 is not above 0"]),
        ("--workers 2 --data nowhere", 2, &["--data: nowhere: there is no such file"]),
        ("--workers 2 --listen 0.0.0.0:0", 2, &["--listen: 0.0.0.0:0", "add --insecure"]),
        (
            "--config typo.toml",
            2,
            &["typo.toml: line 3: no setting is called learning-rat: did you mean learning-rate?"],
        ),
        ("--config saved", 2, &["--config: saved: it is a folder; give saved/config.toml"]),
        ("--config saved/config.toml", 2, &["called batch_size: did you mean batch-size?"]),
        (
            "--workers 2 --insecure --listen 192.0.2.77:1",
            1,
            &["--listen: this machine has no address 192.0.2.77", "give another as --listen"],
        ),
        ("--workers 0", 2, &["'0' for '--workers <N>'", POSITIVE]),
        ("--steps 1k", 2, &["'1k' for '--steps <N>'", POSITIVE]),
        (
            "--workers 2 --lr-schedule cosine --warmup-steps 9 --schedule-steps 9",
            2,
            &["--warmup-steps 9 is not below the 9 steps of --schedule-steps"],
        ),
        ("--lr-schedule exponential", 2, &["'exponential' for '--lr-schedule <SCHEDULE>'"]),
        ("--workers 2 --loss hinge --label-smoothing 0.1", 2, &["no effect with --loss hinge"]),
        ("--loss wgan", 2, &["'wgan' for '--loss <LOSS>'"]),
        ("--workers 2 --ema-decay 1", 2, &["--ema-decay 1 is not at least 0 and below 1"]),
        ("--learning-rate x", 2, &["'x' for '--learning-rate <X>'", "expected a number"]),
        ("--workers -1", 2, &["'-1' for '--workers <N>'", POSITIVE]),
        ("--seed x", 2, &["'x' for '--seed <N>'", "a whole number from 0 to"]),
        ("chaos --workers 65", 2, &["'65' for '--workers <N>'", "a whole number from 1 to 64"]),
        (NO_HOST, 2, &["--listen: the name no-such-host.invalid has no address here: "]),
        ("--local --insecure --http no-such-host.invalid:1", 2, &["--http: the name no-such-host"]),
        ("--workers 2 --quiet --verbose", 2, &["--quiet and --verbose", "give one"]),
        ("--config zero.toml", 2, &["zero.toml: line 1", "`0`", POSITIVE]),
        ("--config bare.toml", 2, &["bare.toml: line 1: expected NAME = VALUE"]),
        ("--config none.toml", 2, &["--config: none.toml: No such file"]),
        ("--workers 2 --local --out file/run", 2, &["--out: file/run: file is not a folder"]),
        ("--workers 2 --local --out file", 2, &["--out: file: file is not a folder"]),
        ("--workers 2 --beta1 1", 2, &["--beta1 1 is not at least 0 and below 1"]),
        // What is given comes before what is missing.
        ("--learning-rate 0", 2, &["--learning-rate 0 is not above 0"]),
        ("--local --device gpu", 2, &["'gpu' for '--device <DEVICE>'"]),
        ("--local --device cuda", 2, &["--device: ", "built without CUDA"]),
        ("--local --device cuda --dry-run", 2, &["--device: ", "built without CUDA"]),
    ];
    for (arguments, status, names) in mistakes {
        check(COORD, here, arguments, status, names);
    }
    assert!(!here.join("runs").exists(), "a mistake creates no run directory");
}

#[test]
fn a_run_directory_is_protected() {
    let folder = tempdir().unwrap();
    let here = folder.path();
    local(here, &format!("--workers 1 {TOY}"));

    // Settings that differ are named with both of their values.
    let differing = "--out run --local --seed 23 --learning-rate 0.001";
    let both_values = "seed: saved 22, given 23; learning-rate: saved 0.0002, given 0.001";
    check(COORD, here, differing, 2, &[both_values]);
    let not_empty = "run: not empty, and --resume never";
    check(COORD, here, "--out run --workers 1 --resume never", 2, &[not_empty]);

    // A folder with other files is left alone.
    std::fs::create_dir(here.join("thesis")).unwrap();
    std::fs::write(here.join("thesis/chapter"), "").unwrap();
    let foreign = format!("--out thesis --workers 1 {TOY}");
    check(COORD, here, &foreign, 2, &["--out: thesis: not empty, and not a run directory"]);
    assert_eq!(std::fs::read_dir(here.join("thesis")).unwrap().count(), 1);
}

#[test]
fn a_port_in_use_and_a_directory_in_use_are_named() {
    let folder = tempdir().unwrap();
    let here = folder.path();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let arguments = format!("--workers 1 {TOY} --listen {address}");
    let in_use = format!("--listen: cannot listen on {address}: Address already in use");
    check(COORD, here, &arguments, 1, &[&in_use, "give another as --listen ADDR:PORT"]);
    let page = format!("--local --workers 1 {TOY} --http {address}");
    let in_use = format!("--http: cannot listen on {address}: Address already in use");
    check(COORD, here, &page, 1, &[&in_use, "give another as --http ADDR:PORT"]);
    assert!(!here.join("runs").exists(), "it is noticed before anything is made");

    let running = Coordinator::start(here, &format!("--workers 1 {TOY}"));
    // Its port is taken as well, which is not the point.
    for more in ["--listen 127.0.0.1:0".to_owned(), running.same_port(), "--dry-run".to_owned()] {
        let arguments = format!("--out run --workers 1 {TOY} {more}");
        let in_use = "run: another coordinator is using this run directory: see it with `";
        let stop = format!("end it with `{COORD} stop --run run`");
        check(COORD, here, &arguments, 1, &[in_use, &stop]);
    }
    running.process.signal("INT");
    running.process.expect(130);
}

#[test]
fn a_worker_and_a_sampler_refuse_what_they_cannot_do() {
    let folder = tempdir().unwrap();
    let here = folder.path();
    local(here, &format!("--workers 1 {TOY}"));
    std::fs::write(here.join("run/best.png"), "").unwrap();
    // Not the devices of the machine, which a program that is wrong would replace.
    let _socket = UnixListener::bind(here.join("socket")).unwrap();
    symlink("socket", here.join("link")).unwrap();
    let mistakes: [(&str, &str, i32, &[&str]); 30] = [
        (WORKER, "--coordinator http://10.0.0.1:1", 2, &["--coordinator", "add --insecure"]),
        (WORKER, "--coordinator http://127.0.0.1:1 --device cuda", 2, &["built without CUDA"]),
        (
            WORKER,
            "--coordinator http://127.0.0.1:1 --insecure --listen no-such-host.invalid:1",
            2,
            &["--listen: the name no-such-host.invalid has no address here: "],
        ),
        (
            SAMPLER,
            "serve --run run --insecure --grpc no-such-host.invalid:1 --http 127.0.0.1:0",
            2,
            &["--grpc: the name no-such-host.invalid has no address here: "],
        ),
        (SAMPLER, "grid --run nowhere --out grid.png", 2, &["nowhere: not a run directory"]),
        (SAMPLER, "grid --run run --checkpoint 7 --out grid.png", 2, &["7", "there are: 15, 20"]),
        (SAMPLER, "grid --run run --out grid.png", 2, &["step 20 is of the toy, which draws no"]),
        (SAMPLER, "grid --out no/grid.png", 2, &["--out: no/grid.png: there is no folder no"]),
        (SAMPLER, "grid --out socket", 2, &["--out: socket: it is no regular file"]),
        (SAMPLER, "export --count 9 --out socket", 2, &["--out: socket: it is no regular file"]),
        (SAMPLER, "export --count 9 --out -", 2, &["--out: -: there is no output to standard"]),
        (SAMPLER, "latents --count 9 --out link", 2, &["--out: link: it is a link; give the file"]),
        (SAMPLER, "export --count 1 --out run", 2, &["--out: run: it is a folder"]),
        (
            SAMPLER,
            "grid --checkpoint -1",
            2,
            &["'-1' for '--checkpoint <newest|best|STEP>'", "expected newest, best or a step"],
        ),
        (SAMPLER, "grid run --out grid.jpg", 2, &["--out: grid.jpg", "ends in .png"]),
        (
            SAMPLER,
            "export run --count 1 --out x.PNG",
            2,
            &["--out: x.PNG", "'grid' draws a picture"],
        ),
        (SAMPLER, "grid x.png", 2, &["x.png is no run directory", "write as --out x.png"]),
        (SAMPLER, "export run --count 1 --out x.npz", 2, &["--out: x.npz: ", ".gz, and NumPy"]),
        (SAMPLER, "export run --count 1 --out x.pt", 2, &["--out: x.pt: ", "end in .npy"]),
        (SAMPLER, "export run --count 1 --out x.npy.gz", 2, &["--out: x.npy.gz: ", "an IDX file"]),
        (SAMPLER, "latents --count 1 --seed 1 --out x.csv", 2, &["--out: x.csv: ", "end in .npy"]),
        (SAMPLER, "train-evaluator --data d --out x.pt", 2, &["--out: x.pt: ", ".safetensors"]),
        (SAMPLER, "train-evaluator --data mnist --out x", 2, &["mnist is built in", "folder"]),
        (SAMPLER, "grid run/best.png", 2, &["run/best.png is no run directory", "--out run/best"]),
        (COORD, "status run/run.json", 2, &["it is a file of the run run: give run"]),
        (COORD, "verify run/run.json", 2, &["it is a file of the run run: give run"]),
        (COORD, "status 127.0.0.1:1", 2, &["give an address as --coordinator 127.0.0.1:1"]),
        (COORD, "drain run", 2, &["run is no name of a worker", "drain worker-1 run"]),
        (COORD, "drain a/b", 2, &["a/b is no name of a worker", "drain worker-1 a/b"]),
        (SAMPLER, "eval --images nope.gz", 2, &["--images: nope.gz: there is no such file"]),
    ];
    for (program, arguments, status, names) in mistakes {
        check(program, here, arguments, status, names);
    }
    for (program, arguments, value, range) in [
        (WORKER, "--threads 1k", "'1k' for '--threads <N>'", "1 to 1024"),
        (WORKER, "--threads 0", "'0' for '--threads <N>'", "1 to 1024"),
        (SAMPLER, "grid --rows 0", "'0' for '--rows <N>'", "1 to 32"),
        (SAMPLER, "grid --columns 33", "'33' for '--columns <N>'", "1 to 32"),
        (SAMPLER, "grid --seed x", "'x' for '--seed <N>'", "0 to 18446744073709551615"),
        (SAMPLER, "export --count -1", "'-1' for '--count <N>'", "1 to 1000000"),
    ] {
        let expected = format!("expected a whole number from {range}");
        check(program, here, arguments, 2, &[value, &expected]);
    }
    // These are refused by the parser of the command line, in its own words.
    for (program, arguments) in
        [(WORKER, "--coordinator nonsense"), (COORD, "--no-such-flag"), (SAMPLER, "")]
    {
        run(program, here, arguments, 2);
    }
    assert!(!here.join("grid.png").exists(), "a mistake creates no picture");
}

#[test]
fn a_name_to_listen_on_is_looked_up_by_whoever_listens() {
    let folder = tempdir().unwrap();
    let variable = [("DCGAN_LISTEN", "no-such-host.invalid:1")];
    let output = run_with(COORD, folder.path(), &variable, "summary");
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    let named = format!("--workers 1 {TOY} --listen localhost:0 --dry-run");
    assert_names(&run(COORD, folder.path(), &named, 0).text, &["# listening on http://127.0.0.1:"]);
}

#[test]
fn more_workers_and_threads_than_can_compute_are_said() {
    let folder = tempdir().unwrap();
    let here = folder.path();
    let cores = std::thread::available_parallelism().unwrap().get();
    let start = |out: &str, arguments: &str| {
        run(COORD, here, &format!("--out {out} --local {TOY} --shards 2 {arguments}"), 0)
    };
    let many = start("many", &format!("--workers 3 --threads {cores}"));
    many.event("spare_workers", &[("workers", "3"), ("shards", "2")]);
    let [threads, cores] = [2 * cores, cores].map(|number| number.to_string());
    many.event("few_cores", &[("threads", &threads), ("cores", &cores)]);
    let few = start("few", "--workers 1").text;
    assert!(!few.contains("spare_workers") && !few.contains("few_cores"), "{few}");
}

#[test]
fn a_dry_run_prints_the_settings_and_creates_nothing() {
    let folder = tempdir().unwrap();
    let text = run(COORD, folder.path(), "--workers 4 --listen 127.0.0.1:0 --dry-run", 0).text;
    let steps = "dcgan on 60000 images, 4680 steps of 256 images (234 an epoch)";
    assert_names(&text, &[&format!("{steps}, 8 shards on 4 workers")]);
    assert!(text.lines().any(|line| line == "learning-rate = 0.0002"), "{text}");
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
}

#[test]
fn words_of_other_programs_lead_to_those_of_this_one() {
    let folder = tempdir().unwrap();
    for (program, arguments, tip) in [
        (COORD, "train", "tip: leave 'train' out"),
        (COORD, "--json status", "tip: give it after the verb: 'status --json'"),
        (COORD, "drain --all", "tip: to end all of them, use 'stop'"),
        (COORD, "grid", "tip: 'grid' is a verb of dcgan-sampler"),
        (SAMPLER, "status", "tip: 'status' is a verb of dcgan-coord"),
        (WORKER, "stop", "tip: 'stop' is a verb of dcgan-coord"),
        (COORD, "--local 4", "tip: use '--local --workers 4'"),
        (COORD, "local", "tip: use '--local'"),
        (COORD, "-workers 4", "tip: use '--workers'"),
        (COORD, "--n-workers 4", "tip: use '--workers'"),
        (COORD, "--run x", "tip: use '--out'"),
        (COORD, "status --out x", "tip: use '--run'"),
        (COORD, "--resume", "tip: leave it out: a run that is there goes on by itself"),
        (WORKER, "--run x", "tip: use '--coordinator'"),
        (SAMPLER, "serve x", "tip: give it as '--run x'"),
        (COORD, "--port 8080", "tip: use '--listen'"),
        (COORD, "--gpus 2", "tip: use '--device'"),
        (COORD, "--learn-rate 1", "a similar argument exists: '--learning-rate'"),
        (WORKER, "--port 8080", "tip: use '--listen'"),
        (SAMPLER, "serve --port 8080", "tip: use '--http'"),
        (SAMPLER, "serve --gpus 1", "tip: 'serve' has no such setting"),
        (COORD, "--nproc_per_node 2", "tip: use '--workers'"),
        (COORD, "-n 2", "tip: use '--workers'"),
        (COORD, "--iterations 2", "tip: use '--steps'"),
        (COORD, "--log-level debug", "tip: use '--verbose'"),
        (COORD, "--checkpoint-dir x", "tip: use '--out'"),
        (COORD, "--master a", "tip: use '--listen'"),
        (COORD, "--rank 1", "tip: leave it out: the coordinator numbers the workers"),
        (COORD, "resume", "tip: leave 'resume' out"),
        (COORD, "version", "tip: use '--version'"),
        (COORD, "kill", "tip: use 'stop'"),
        (COORD, "ps", "tip: use 'status'"),
        (COORD, "verify run --json", "tip: it prints text alone"),
        (COORD, "completions tcsh", "tip: there is a script for bash, elvish, fish,"),
        (SAMPLER, "sample", "tip: use 'grid' for a picture"),
        (SAMPLER, "draw", "tip: use 'grid' for a picture"),
        (SAMPLER, "generate", "tip: use 'grid' for a picture"),
        (SAMPLER, "grid --count 4", "tip: use '--rows'"),
        (COORD, "-o x", "tip: use '--out'"),
        (COORD, "status -o x", "tip: use '--run'"),
        (SAMPLER, "grid -o x.png", "tip: use '--out'"),
        (SAMPLER, "grid --step 5", "tip: use '--checkpoint'"),
        (SAMPLER, "grid --best", "tip: use '--checkpoint best'"),
        (SAMPLER, "eval --latest", "tip: use '--checkpoint newest'"),
        (SAMPLER, "export --ema", "tip: use '--weights ema'"),
        (COORD, "-j 4", "tip: use '--workers'"),
        (WORKER, "-j 4", "tip: use '--threads'"),
        (COORD, "status -j", "tip: use '--json'"),
        (COORD, "status --best", "tip: 'status' has no such setting"),
        (COORD, "status --watch", "tip: leave it out: 'watch COMMAND' repeats a command"),
        (COORD, "stop --insecure", "tip: leave it out: a verb connects to whatever address"),
        (COORD, "status --verbose", "tip: give it before the verb: '--verbose status'"),
        (COORD, "verify -q", "tip: give it before the verb: '-q verify'"),
        (COORD, "--local true", "tip: use '--local=true'"),
        (COORD, "--json", "tip: use '--log-format json'"),
        (SAMPLER, "grid --json", "tip: use '--log-format json'"),
        (COORD, "runs/x", "tip: to train in it, use '--out runs/x'; or give it after a verb, as"),
        (SAMPLER, "runs/x", "tip: give it after a verb, as in 'grid runs/x'"),
        (WORKER, "runs/x", "tip: use '--coordinator file:runs/x/address'"),
        (WORKER, "10.0.0.1:7420", "tip: use '--coordinator 10.0.0.1:7420'"),
    ] {
        let text = run(program, folder.path(), arguments, 2).text;
        assert!(text.contains(tip) && text.matches("tip: ").count() == 1, "{arguments}: {text}");
    }
    // That a flag could be given as a run directory helps nobody.
    for arguments in ["status --what", "verify --what", "drain w --what"] {
        let text = run(COORD, folder.path(), arguments, 2).text;
        assert!(!text.contains("tip: "), "{arguments}: {text}");
    }
}

#[test]
fn every_program_describes_its_command_line() {
    let folder = tempdir().unwrap();
    let here = folder.path();
    std::fs::write(here.join("run"), "").unwrap();
    for (program, name) in
        [(COORD, "dcgan-coord"), (WORKER, "dcgan-worker"), (SAMPLER, "dcgan-sampler")]
    {
        let script = run(program, here, "completions bash", 0).text;
        assert_names(&script, &[name, "--log-format"]);
        assert_names(&run(program, here, "man", 0).text, &[&format!(".TH {name} 1"), "verbose"]);
        run(program, here, "man .", 0);
        assert!(here.join(format!("{name}.1")).exists());
        let help = run(program, here, "help", 0).text;
        assert_names(&help, &["Prints help", "Shows only warnings, errors and the result"]);
        assert!(help.lines().all(|line| line.chars().count() <= 100), "{help}");
        assert!(!help.contains("Print "), "one mood: {help}");
        if program == SAMPLER {
            let of_grid = run(program, here, "help grid", 0).text;
            assert_names(&of_grid, &["[default: that of DCGAN_OUT, or else runs/dcgan]"]);
        }
        assert_names(&run(program, here, "help man", 0).text, &[&format!("Usage: {name} man")]);
    }
    assert!(here.join("dcgan-sampler-grid.1").exists());
    run(COORD, here, "man pages/of/it", 0);
    assert!(here.join("pages/of/it/dcgan-coord-stop.1").exists());
    assert_names(&run(COORD, here, "man run/x", 2).text, &["run/x"]);
    assert_names(&run(COORD, here, "help drian", 2).text, &["did you mean drain?"]);
}

#[test]
fn completion_for_bash_knows_the_flags_of_verbs() {
    for program in [COORD, WORKER, SAMPLER] {
        for shell in ["bash", "zsh", "fish"] {
            let script = run(program, Path::new("."), &format!("completions {shell}"), 0).text;
            for hidden in ["--fault", "-l fault", "exit-with-stdin", "or-free-port"] {
                assert!(!script.contains(hidden), "{program} {shell} {hidden}");
            }
        }
    }
    for (program, name, verb, flag) in [
        (COORD, "dcgan-coord", "", "--workers"),
        (COORD, "dcgan-coord", "status", "--json"),
        (COORD, "dcgan-coord", "drain", "--run"),
        (SAMPLER, "dcgan-sampler", "grid", "--rows"),
        (SAMPLER, "dcgan-sampler", "train-evaluator", "--epochs"),
        (WORKER, "dcgan-worker", "", "--threads"),
    ] {
        let words: Vec<&str> = [name, verb, "--"].into_iter().filter(|it| !it.is_empty()).collect();
        let [before, last] = [words[words.len() - 2], words[words.len() - 1]];
        let function = name.replace('-', "__");
        let script = format!(
            "source <({program} completions bash)
            COMP_WORDS=({}); COMP_CWORD={}; _{function} {name} {last} {before}
            echo \"${{COMPREPLY[@]}}\"",
            words.join(" "),
            words.len() - 1
        );
        let output = std::process::Command::new("bash").args(["-c", &script]).output().unwrap();
        let flags = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(flags.split_whitespace().any(|it| it == flag), "{name} {verb} {flag}: {flags}");
    }
}

#[test]
fn a_worker_says_at_once_why_it_waits() {
    let folder = tempdir().unwrap();
    for (coordinator, names) in [
        ("http://127.0.0.1:1", ["the coordinator: cannot reach ", "http://127.0.0.1:1"]),
        ("http://nowhere.invalid:1", ["failed to lookup", "nowhere.invalid:1"]),
        ("file:run/address", ["coordinator", ": there is no run/address yet"]),
    ] {
        let arguments = format!("--coordinator {coordinator} --insecure");
        let worker = Process::start(WORKER, folder.path(), &arguments);
        let waiting = worker.wait_for_event("waiting", &[]);
        assert_names(waiting.field("for"), &names);
    }
    // What answers hardly goes away by itself.
    let serve = "serve --coordinator http://127.0.0.1:1 --http 127.0.0.1:0 --grpc 127.0.0.1:0";
    let sampler = Process::start(SAMPLER, folder.path(), serve);
    let page = sampler.wait_for_event("sampler_started", &[]).field("page").to_owned();
    let worker = Process::start(WORKER, folder.path(), &format!("--coordinator {page}"));
    let waiting = worker.wait_for_event("waiting", &[]);
    assert_names(waiting.field("for"), &["what answers there speaks no gRPC"]);
    assert_names(&worker.text(), &["\"level\":\"WARN\""]);
    let path = run(WORKER, folder.path(), "--coordinator run/address", 2).text;
    assert_names(&path, &["for a file that has the address write file:run/address"]);
}

#[test]
fn a_result_that_cannot_be_printed_is_a_failure_and_a_reader_that_leaves_is_none() {
    let folder = tempdir().unwrap();
    let here = folder.path();
    local(here, &format!("--workers 1 {TOY}"));
    let shell = |script: &str| {
        let mut command = std::process::Command::new("bash");
        let output = command.args(["-c", script]).current_dir(here).output().unwrap();
        let code = output.status.code();
        (code, String::from_utf8_lossy(&output.stderr).into_owned())
    };
    for arguments in [
        "summary",
        "status run",
        "status run --json",
        "verify run",
        "--out run --local --listen 127.0.0.1:0 --dry-run",
        "completions bash",
        "man",
        "help status",
        "--help",
        "--version",
    ] {
        let (status, text) = shell(&format!("{COORD} {arguments} > /dev/full"));
        assert_eq!(status, Some(1), "{arguments}: {text}");
        assert_names(&text, &["error: cannot write to standard output: No space left"]);
        let (status, text) =
            shell(&format!("set -o pipefail; {COORD} {arguments} | head -c 0 | cat"));
        assert_eq!((status, &*text), (Some(0), ""), "{arguments}");
    }
}

#[test]
fn a_wrong_value_is_told_by_the_variable_that_gives_it() {
    let folder = tempdir().unwrap();
    for (variable, value, arguments, names) in [
        ("DCGAN_STEPS", "1k", "", ["invalid value '1k' for 'DCGAN_STEPS'", POSITIVE]),
        ("DCGAN_DATA", "nowhere", "--workers 2", ["--data: nowhere: ", "DCGAN_DATA gives --data"]),
        ("DCGAN_BETA1", "1", "--workers 2", ["--beta1 1 is", "; the variable DCGAN_BETA1 gives"]),
        ("DCGAN_STEPS", "7", "--steps x", ["invalid value 'x' for '--steps <N>'", POSITIVE]),
        ("DCGAN_SEED", "7", "--workers 2 --beta1 1", ["--beta1 1 is", "below 1"]),
    ] {
        let output = run_with(COORD, folder.path(), &[(variable, value)], arguments);
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{text}");
        assert_names(&text, &names);
        assert!(!text.contains("DCGAN_SEED"), "{text}");
    }
}

#[test]
fn a_summary_counts_the_parameters() {
    let folder = tempdir().unwrap();
    let text = run(COORD, folder.path(), "summary", 0).text;
    assert!(text.trim_end().ends_with("both: 419810 parameters"), "{text}");
    let graph = run(COORD, folder.path(), "summary --format dot", 0).text;
    assert!(graph.starts_with("digraph dcgan {"), "{graph}");
}
