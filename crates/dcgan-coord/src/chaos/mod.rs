//! A training on this machine, while its processes are killed, stopped, slowed down and cut off; then its result is
//! compared with that of an undisturbed one. Nothing here is special to tests: these are the programs that people run, and
//! what happens to them happens from outside.

mod fault;
mod processes;
mod proxy;
mod samples;

use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use dcgan_core::ids::Step;
use dcgan_process::exit::{status, usage};
use dcgan_process::logging::LogArgs;
use dcgan_rpc::net::Address;
use tokio::runtime::{Builder, Handle};

use crate::verify;
use fault::{Counts, Fault, Planned, draw};
use processes::Processes;
use samples::Samples;

/// Between two looks at processes and steps.
const LOOK_PAUSE: Duration = Duration::from_millis(4);
/// A coordinator that ended while workers were away is started again after this time.
const AGAIN_PAUSE: Duration = Duration::from_secs(1);
/// After the last fault the run must end in this time, and show progress in it before.
const STUCK_MAX: Duration = Duration::from_secs(120);

#[derive(Debug, clap::Args)]
pub(crate) struct ChaosArgs {
    /// Workers
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..=64))]
    workers: u16,
    /// What is trained: a toy, whose steps take a millisecond, or the DCGAN
    #[arg(long, value_name = "toy|dcgan", default_value = "toy", value_parser = ["toy", "dcgan"])]
    objective: String,
    /// Length of the run [default: 100 for each fault of the toy, 200 of the DCGAN]
    #[arg(long, value_name = "N")]
    steps: Option<Step>,
    /// Determines what goes wrong when
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,
    #[command(flatten)]
    counts: Counts,
    /// What goes wrong, a line each, such as "120 kill 0 0.5": after step 120 worker 0 is killed, and started again half a
    /// second later; also stop, slow, cut, cut-off WORKER SECONDS, kill-coordinator SECONDS, join
    #[arg(long, value_name = "FILE")]
    schedule: Option<PathBuf>,
    /// Where both runs and all logs are kept [default: a folder that is removed if all is well]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    #[command(flatten)]
    log: LogArgs,
}

/// What happened, for the report.
#[derive(Default)]
struct InjectedFaults {
    kills: Vec<Instant>,
    coordinator_kills: Vec<Instant>,
    coordinator_starts: Vec<Instant>,
    others: Vec<Instant>,
}

pub(crate) fn run(args: &ChaosArgs) -> anyhow::Result<u8> {
    args.log.start(std::io::stderr);
    let schedule = match &args.schedule {
        Some(path) => Some(read(path).map_err(usage)?),
        None => None,
    };
    let workers = usize::from(args.workers);
    let drawn = |steps| draw(args.seed, args.counts, workers, steps);
    let faults = schedule.as_ref().map_or_else(|| drawn(1).len(), Vec::len);
    let steps = args.steps.unwrap_or(if args.objective == "toy" {
        100 * (faults as Step + 1)
    } else {
        200
    });
    let schedule = schedule.unwrap_or_else(|| drawn(steps));
    check(&schedule, steps, workers).map_err(usage)?;

    let temporary = std::env::temp_dir().join(format!("dcgan-chaos-{}", std::process::id()));
    let root = args.out.clone().unwrap_or_else(|| temporary.clone());
    let (undisturbed, disturbed, logs) =
        (root.join("undisturbed"), root.join("chaos"), root.join("logs"));
    std::fs::create_dir_all(&logs).with_context(|| logs.display().to_string())?;
    let spec = |out: &PathBuf, workers: usize| -> Vec<String> {
        let (out, steps, workers) =
            (out.display().to_string(), steps.to_string(), workers.to_string());
        let fixed = [
            "--objective",
            &args.objective,
            "--out",
            &out,
            "--steps",
            &steps,
            "--workers",
            &workers,
        ];
        let fixed = fixed.into_iter().chain([
            "--checkpoint-every",
            "50",
            "--log-every",
            "20",
            "--resume",
            "auto",
        ]);
        fixed.map(str::to_owned).collect()
    };

    print(&format!("undisturbed: {steps} steps of {} on one worker", args.objective));
    let threads = std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
    let alone = std::process::Command::new(std::env::current_exe()?)
        .args(spec(&undisturbed, 1))
        .args(["--local", "--threads", &threads.to_string(), "--grid-every", "1000000000"])
        .output()?;
    ensure!(
        alone.status.success(),
        "the undisturbed run ended with {}: {}",
        alone.status,
        String::from_utf8_lossy(&alone.stderr)
    );

    let network = Builder::new_multi_thread()
        .worker_threads(1)
        .thread_name("network")
        .enable_all()
        .build()?;
    let mut processes =
        Processes::start(network.handle(), &logs, &spec(&disturbed, workers), workers)?;
    print(&format!(
        "chaos: the same on {workers} workers, with {} faults (seed {})",
        schedule.len(),
        args.seed
    ));
    let samples = Samples::take(network.handle(), Address::from(processes.address));
    let began = Instant::now();
    let done = run_schedule(network.handle(), &mut processes, &samples, &schedule, began)?;
    drop(processes);
    network.shutdown_background();

    let (text, same) = verify::same(&undisturbed, &disturbed)?;
    print(&report(&done, &samples));
    print(&format!("{} faults in {:.1} s; {text}", schedule.len(), began.elapsed().as_secs_f64()));
    if !same {
        print(&format!("everything is in {}", root.display()));
        return Ok(status::FAILED);
    }
    if args.out.is_none() {
        std::fs::remove_dir_all(&temporary).with_context(|| temporary.display().to_string())?;
    }
    Ok(status::FINISHED)
}

fn print(text: &str) {
    dcgan_process::print(&format!("{text}\n"));
}

fn read(path: &PathBuf) -> anyhow::Result<Vec<Planned>> {
    let text = std::fs::read_to_string(path).with_context(|| path.display().to_string())?;
    let lines = text
        .lines()
        .enumerate()
        .filter(|(_, line)| !line.trim().is_empty() && !line.starts_with('#'));
    let parse = |(number, line): (usize, &str)| {
        let failed = |why| anyhow::anyhow!("{}: line {}: {why}", path.display(), number + 1);
        line.parse().map_err(failed)
    };
    let mut schedule = lines.map(parse).collect::<anyhow::Result<Vec<Planned>>>()?;
    schedule.sort_by_key(|planned| planned.after);
    Ok(schedule)
}

/// Refuses what can never inject.
fn check(schedule: &[Planned], steps: Step, mut workers: usize) -> anyhow::Result<()> {
    for planned in schedule {
        ensure!(planned.after < steps, "{planned}: the run has only {steps} steps");
        match planned.fault {
            Fault::Join => workers += 1,
            Fault::KillCoordinator(_) => {}
            Fault::Kill(worker, _)
            | Fault::Stop(worker, _)
            | Fault::Slow(worker, _)
            | Fault::Cut(worker, _)
            | Fault::CutOff(worker, _) => {
                ensure!(worker < workers, "{planned}: there are only {workers} workers then")
            }
        }
    }
    Ok(())
}

/// Lets everything inject, up to the run's end.
fn run_schedule(
    network: &Handle,
    processes: &mut Processes,
    samples: &Samples,
    schedule: &[Planned],
    began: Instant,
) -> anyhow::Result<InjectedFaults> {
    let mut done = InjectedFaults::default();
    let mut waiting = schedule.iter().peekable();
    let mut moved = (0, Instant::now());
    loop {
        if processes.supervise(began)? {
            done.coordinator_starts.push(Instant::now());
        }
        let step = samples.last().map_or(0, |sample| sample.step);
        if step != moved.0 {
            moved = (step, Instant::now());
        }
        ensure!(
            moved.1.elapsed() < STUCK_MAX,
            "no step was finished for {} s",
            STUCK_MAX.as_secs()
        );
        if let Some(planned) = waiting.next_if(|planned| planned.after <= step) {
            inject(processes, planned, step, &mut done)?;
        }
        if let Some(status) = processes.coordinator_ended() {
            ensure!(status.success(), "the coordinator ended with {status}");
            ensure!(
                waiting.peek().is_none(),
                "the run was over before everything had gone wrong; give more --steps"
            );
            break;
        }
        for worker in processes.restart_ended().into_iter().filter(|_| waiting.peek().is_some()) {
            print(&format!("{step:>8}  worker {worker} had ended, and is started again"));
        }
        network.block_on(async { tokio::time::sleep(LOOK_PAUSE).await });
    }
    // Nobody is left behind: who was away hears it from a coordinator that is started once more.
    let since = Instant::now();
    while !processes.all_ended() {
        ensure!(since.elapsed() < STUCK_MAX, "a worker did not hear that the run was over");
        processes.supervise(began)?;
        if processes.coordinator_ended().is_some() {
            processes.kill_coordinator(AGAIN_PAUSE);
        }
        network.block_on(async { tokio::time::sleep(LOOK_PAUSE).await });
    }
    Ok(done)
}

fn inject(
    processes: &mut Processes,
    planned: &Planned,
    step: Step,
    done: &mut InjectedFaults,
) -> anyhow::Result<()> {
    print(&format!("{step:>8}  {}", planned.fault));
    let now = Instant::now();
    match planned.fault {
        Fault::Kill(worker, again) => done.kills.extend(processes.kill(worker, again).map(|_| now)),
        Fault::KillCoordinator(again) => {
            done.coordinator_kills.extend(processes.kill_coordinator(again).then_some(now))
        }
        Fault::Stop(worker, time) => processes.stop(worker, time),
        Fault::Slow(worker, time) => processes.slow(worker, time),
        Fault::Cut(worker, time) => processes.cut(worker, time),
        Fault::CutOff(worker, time) => processes.cut_off(worker, time),
        Fault::Join => drop(processes.join()?),
    }
    if !matches!(planned.fault, Fault::Kill(..) | Fault::KillCoordinator(_)) {
        done.others.push(now);
    }
    Ok(())
}

/// Recovery times, of faults that nothing else came in between of.
fn report(done: &InjectedFaults, samples: &Samples) -> String {
    let samples = samples.all();
    let coordinator = || done.coordinator_kills.iter().chain(&done.coordinator_starts);
    let next_to = |at: Instant| coordinator().filter(|&&other| other > at).min().copied();
    let kills = done
        .kills
        .iter()
        .filter_map(|&killed| samples::recovery(&samples, killed, next_to(killed)));
    let adoptions =
        done.coordinator_starts.iter().filter_map(|&started| samples::adoption(&samples, started));
    let line = |what: &str, times: Vec<Duration>| {
        let count = times.len();
        let summary = samples::summary(times).map(|(median, longest)| {
            let (median, longest) = (median.as_secs_f64(), longest.as_secs_f64());
            format!("{what}: median {median:.2} s, longest {longest:.2} s ({count} measured)")
        });
        summary.unwrap_or_else(|| format!("{what}: not measured"))
    };
    format!(
        "{}\n{}",
        line("from a worker's death to the next finished step", kills.collect()),
        line(
            "from a coordinator's start until it knows that its workers train",
            adoptions.collect()
        ),
    )
}
