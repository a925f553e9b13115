//! `dcgan-coord chaos`: trains on this machine while processes are killed, stopped, slowed down and
//! disconnected, and compares the result with that of an undisturbed run.
//!
//! Faults that are injected from inside a program show only that the changed program survives.
//! Here the programs are the ones that people run, and every fault comes from outside: signals, and
//! proxies between the processes that drop their connections.

mod fault;
mod injection;
mod processes;
mod program;
mod proxy;
mod report;
mod samples;
mod strangers;

use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use anyhow::{Context, anyhow, ensure};
use dcgan_core::ids::Step;
use dcgan_core::words::counted;
use dcgan_process::exit::{status, usage};
use dcgan_process::logging::LogArgs;
use dcgan_process::settings;
use dcgan_rpc::net::{Address, Connector};
use tempfile::TempDir;
use tokio::runtime::{Builder, Runtime};

use crate::verify::{self, Comparison};
use fault::{Counts, Fault, ScheduledFault, draw};
use injection::{InjectedFaults, Injection};
use processes::Processes;
use report::report;
use samples::Samples;

/// The flags of `dcgan-coord chaos`.
#[derive(Debug, clap::Args)]
#[command(mut_args = settings::in_plain_words)]
pub(crate) struct ChaosArgs {
    /// Number of workers.
    #[arg(
        long,
        value_name = "N",
        default_value_t = 4,
        value_parser = settings::whole::<u16>(1..=64)
    )]
    workers: u16,
    /// Objective of the training: a toy, whose steps take a millisecond, or the DCGAN.
    #[arg(
        long,
        value_name = "toy|dcgan",
        default_value = "toy",
        value_parser = ["toy", "dcgan"]
    )]
    objective: String,
    /// Length of the run [default: with the toy 150 for each fault and 150 more, with the DCGAN
    /// 200].
    #[arg(long, value_name = "N")]
    steps: Option<Step>,
    /// Seed of the faults and their times.
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,
    #[command(flatten)]
    counts: Counts,
    /// File of faults, one in a line, such as "120 kill 0 0.5": after step 120 worker 0 is killed,
    /// and started again half a second later; also stop, slow, cut, cut-off, impostor,
    /// closed-streams, full-streams, blocked-streams WORKER SECONDS, kill-coordinator, stray,
    /// attack, end, full-disk, slow-disk SECONDS, join.
    #[arg(long, value_name = "FILE")]
    schedule: Option<PathBuf>,
    /// Folder for both runs and all logs [default: a folder that is removed if the results are the
    /// same].
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    #[command(flatten)]
    log: LogArgs,
}

/// Runs both trainings, and compares them. The exit status says whether they are the same.
pub(crate) fn run(args: &ChaosArgs, connector: Connector) -> anyhow::Result<u8> {
    args.log.start()?;
    // Decide which faults are injected when.
    let (schedule, steps) = args.schedule()?;
    check(&schedule, steps, args.workers.into()).map_err(usage)?;

    // Train once without faults, and once with them.
    let folders = Folders::create(args.out.as_deref())?;
    let objective = if args.objective == "toy" { "toy" } else { "DCGAN" };
    print(&format!("undisturbed: {} of the {objective} on 1 worker", counted(steps, "step")));
    train_undisturbed(args, &folders, steps)?;
    let count = schedule.len();
    // A seed draws nothing where a file says it all.
    let whence = match &args.schedule {
        Some(path) => path.display().to_string(),
        None => format!("seed {}", args.seed),
    };
    print(&format!(
        "chaos: the same on {}, with {} ({whence})",
        counted(args.workers, "worker"),
        counted(count, "fault")
    ));
    let began = Instant::now();
    let (injected, samples) = train_disturbed(args, connector, &folders, steps, &schedule)?;

    // Compare the results.
    let Comparison { text, same } =
        verify::compare_whole_runs(&folders.undisturbed(), &folders.disturbed())?;
    print(&report(&injected, &samples.all()));
    let (faults, seconds) = (counted(count, "fault"), began.elapsed().as_secs_f64());
    print(&format!("{faults} in {seconds:.1} s; {text}"));
    if !same {
        print(&format!("everything is in {}", folders.root.display()));
        return Ok(status::FAILED);
    }
    folders.remove_if_temporary()?;
    Ok(status::FINISHED)
}

impl ChaosArgs {
    /// The faults, in their order, and the length of the run.
    fn schedule(&self) -> anyhow::Result<(Vec<ScheduledFault>, Step)> {
        if let Some(path) = &self.schedule {
            let schedule = read_schedule(path).context("--schedule").map_err(usage)?;
            let steps = self.steps.unwrap_or(self.default_steps(schedule.len()));
            return Ok((schedule, steps));
        }
        let steps = self.steps.unwrap_or(self.default_steps(self.counts.sum()));
        Ok((draw(self.seed, self.counts, self.workers.into(), steps), steps))
    }

    /// Steps enough for all faults, though a toy trains on during those that stop nobody.
    fn default_steps(&self, faults: usize) -> Step {
        if self.objective == "toy" { 150 * (faults as Step + 1) } else { 200 }
    }

    /// The arguments of a coordinator that trains in the folder `out`.
    fn coordinator_arguments(&self, out: &Path, workers: u16, steps: Step) -> Vec<String> {
        let (out, steps, workers) =
            (out.display().to_string(), steps.to_string(), workers.to_string());
        let log_format = self.log.log_format.to_string();
        [
            ["--objective", &self.objective],
            ["--out", &out],
            ["--steps", &steps],
            ["--workers", &workers],
            ["--checkpoint-every", "50"],
            ["--log-every", "20"],
            ["--resume", "auto"],
            ["--log-format", &log_format],
        ]
        .as_flattened()
        .iter()
        .map(|argument| (*argument).to_owned())
        .collect()
    }
}

/// The folder that holds both runs and all logs.
struct Folders {
    root: PathBuf,
    /// The same, if it is to be removed in the end. Its name cannot be known before.
    temporary: Option<TempDir>,
}

impl Folders {
    fn create(out: Option<&Path>) -> anyhow::Result<Self> {
        let folders = match out {
            Some(out) => Self { root: out.to_owned(), temporary: None },
            None => {
                let mut temporary = tempfile::Builder::new().prefix("dcgan-chaos-").tempdir()?;
                // Whoever looks for a mistake needs everything.
                temporary.disable_cleanup(true);
                Self { root: temporary.path().to_owned(), temporary: Some(temporary) }
            }
        };
        let logs = folders.logs();
        std::fs::create_dir_all(&logs).with_context(|| logs.display().to_string())?;
        Ok(folders)
    }

    fn undisturbed(&self) -> PathBuf {
        self.root.join("undisturbed")
    }

    fn disturbed(&self) -> PathBuf {
        self.root.join("chaos")
    }

    fn logs(&self) -> PathBuf {
        self.root.join("logs")
    }

    fn remove_if_temporary(self) -> anyhow::Result<()> {
        if let Some(mut temporary) = self.temporary {
            temporary.disable_cleanup(false);
            temporary.close().with_context(|| self.root.display().to_string())?;
        }
        Ok(())
    }
}

/// Runs a training with one worker and no faults.
fn train_undisturbed(args: &ChaosArgs, folders: &Folders, steps: Step) -> anyhow::Result<()> {
    let threads = std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
    let output = Command::new(std::env::current_exe()?)
        .args(args.coordinator_arguments(&folders.undisturbed(), 1, steps))
        // Nobody looks at its grids.
        .args(["--local", "--threads", &threads.to_string(), "--grid-every", "1000000000"])
        .output()?;
    ensure!(
        output.status.success(),
        "the undisturbed run ended with {}: {}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(())
}

/// Runs a training while the scheduled faults are injected. Returns what was injected, and what the
/// coordinator said of the run meanwhile.
fn train_disturbed(
    args: &ChaosArgs,
    connector: Connector,
    folders: &Folders,
    steps: Step,
    schedule: &[ScheduledFault],
) -> anyhow::Result<(InjectedFaults, Samples)> {
    let network = network_runtime()?;
    let arguments = args.coordinator_arguments(&folders.disturbed(), args.workers, steps);
    let processes = Processes::start(
        network.handle(),
        &folders.logs(),
        &arguments,
        args.workers.into(),
        args.log.log_format,
    )?;
    let samples = Samples::take(network.handle(), connector, Address::from(processes.address));
    let injection = Injection::new(network.handle(), processes, samples.clone());
    let injected = injection.run(schedule)?;
    network.shutdown_background();
    Ok((injected, samples))
}

/// The runtime of the proxies and of the requests to the coordinator.
fn network_runtime() -> anyhow::Result<Runtime> {
    let mut builder = Builder::new_multi_thread();
    Ok(builder.worker_threads(1).thread_name("network").enable_all().build()?)
}

/// Prints a line on standard output.
fn print(text: &str) {
    dcgan_process::print(&format!("{text}\n"));
}

/// Reads a schedule that a person wrote, and sorts it by step.
fn read_schedule(path: &Path) -> anyhow::Result<Vec<ScheduledFault>> {
    let text = std::fs::read_to_string(path).with_context(|| path.display().to_string())?;
    let mut schedule: Vec<ScheduledFault> = Vec::new();
    for (line, number) in text.lines().zip(1..) {
        if line.trim().is_empty() || line.starts_with('#') {
            continue;
        }
        let scheduled =
            line.parse().map_err(|error| anyhow!("{}: line {number}: {error}", path.display()))?;
        schedule.push(scheduled);
    }
    // The sort is stable: faults of one step keep the order of the file.
    schedule.sort_by_key(|scheduled| scheduled.after);
    Ok(schedule)
}

/// Refuses a fault that can never be injected.
fn check(schedule: &[ScheduledFault], steps: Step, mut workers: usize) -> anyhow::Result<()> {
    for scheduled in schedule {
        ensure!(scheduled.after < steps, "{scheduled}: the run has only {steps} steps");
        match scheduled.fault {
            Fault::Join => workers += 1,
            Fault::KillCoordinator(_)
            | Fault::Stray(_)
            | Fault::Attack(_)
            | Fault::End(_)
            | Fault::FullDisk(_)
            | Fault::SlowDisk(_) => {}
            Fault::Kill(worker, _)
            | Fault::Stop(worker, _)
            | Fault::Slow(worker, _)
            | Fault::CutData(worker, _)
            | Fault::CutControl(worker, _)
            | Fault::Impostor(worker, _)
            | Fault::LoseStreams(_, worker, _) => {
                ensure!(worker < workers, "{scheduled}: there are only {workers} workers then")
            }
        }
    }
    Ok(())
}
