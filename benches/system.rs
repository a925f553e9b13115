//! Whole trainings as people run them: `cargo bench --bench system`.
//!
//! Trains with each size (workers x threads), one after the other, and repeats all of that. It
//! prints a row for each training, then the best row of each size, and how many times faster that
//! is than the first size. The time to the first step comes from a training of its own, with a
//! shard of 32 images for each thread. Peak memory is that of the largest worker, and needs /proc
//! of Linux.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use clap::Parser;
use dcgan_core::metrics::MetricsRow;
use dcgan_store::metrics_log;
use dcgan_store::run_dir::RunPaths;

/// Measures whole trainings.
#[derive(Parser)]
struct Args {
    /// Trainings, as workers x threads each. 1x1+1x1 are two independent ones at the same time
    #[arg(default_values = ["1x1", "2x1", "1x2"])]
    sizes: Vec<String>,
    /// How many times each is run
    #[arg(long, default_value_t = 3)]
    repeats: usize,
    /// Steps of a training. The first five are not counted
    #[arg(long, default_value_t = 100)]
    steps: u64,
    /// Runs one short training of each, to see that it works
    #[arg(long)]
    test: bool,
    /// Given by cargo
    #[arg(long, hide = true)]
    bench: bool,
}

/// Steps at the beginning that are not counted, because everything is still starting.
const WARM_UP: u64 = 5;

/// The result of one training, or of several at the same time.
struct Measured {
    images_per_second: f64,
    step_ms: f64,
    allreduce_ms: f64,
    first_step: Duration,
    /// Peak memory of the largest worker, in MiB.
    peak: f64,
}

fn main() {
    let mut args = Args::parse();
    if args.test {
        (args.repeats, args.steps) = (1, WARM_UP + 1);
    }
    let mut best: Vec<Option<Measured>> = args.sizes.iter().map(|_| None).collect();
    println!(
        "{:>8} {:>9} {:>9} {:>14} {:>11} {:>9}",
        "size", "images/s", "step, ms", "all-reduce, ms", "1st step, s", "peak, MiB"
    );
    for _ in 0..args.repeats {
        for (size, best) in args.sizes.iter().zip(&mut best) {
            let measured = measure_together(size, args.steps);
            print(size, &measured);
            if best.as_ref().is_none_or(|best| best.images_per_second < measured.images_per_second)
            {
                *best = Some(measured);
            }
        }
    }
    println!("best:");
    for (size, measured) in args.sizes.iter().zip(best.iter().flatten()) {
        print(size, measured);
    }
    if let [Some(first), rest @ ..] = best.as_slice() {
        for (size, measured) in args.sizes[1..].iter().zip(rest.iter().flatten()) {
            let ratio = measured.images_per_second / first.images_per_second;
            println!("{size} is {ratio:.2} times {}", args.sizes[0]);
        }
    }
}

fn print(size: &str, measured: &Measured) {
    let Measured { images_per_second, step_ms, allreduce_ms, first_step, peak } = measured;
    let first_step = first_step.as_secs_f64();
    let rates = format!("{images_per_second:9.1} {step_ms:9.1} {allreduce_ms:14.1}");
    println!("{size:>8} {rates} {first_step:11.2} {peak:9.0}");
}

/// Measures trainings that run at the same time. Images per second add up; of the rest, the largest
/// counts.
fn measure_together(sizes: &str, steps: u64) -> Measured {
    std::thread::scope(|scope| {
        let each: Vec<_> =
            sizes.split('+').map(|size| scope.spawn(move || measure(size, steps))).collect();
        let each = each.into_iter().map(|each| each.join().expect("it is measured"));
        each.reduce(|a, b| Measured {
            images_per_second: a.images_per_second + b.images_per_second,
            step_ms: a.step_ms.max(b.step_ms),
            allreduce_ms: a.allreduce_ms.max(b.allreduce_ms),
            first_step: a.first_step.max(b.first_step),
            peak: a.peak.max(b.peak),
        })
    })
    .expect("splitting gives one or more")
}

/// Measures one training of this size.
fn measure(size: &str, steps: u64) -> Measured {
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let (workers, threads) =
        size.split_once('x').unwrap_or_else(|| panic!("{size}: expected WORKERSxTHREADS"));
    // The first step is that of the smallest training: one shard of 32 images for each thread.
    let threads_in_all =
        [workers, threads].map(|n| n.parse::<u64>().expect("a number")).iter().product::<u64>();
    let [shards, batch] = [threads_in_all, 32 * threads_in_all].map(|n| n.to_string());
    let small = ["--steps", "1", "--log-every", "1", "--shards", &shards, "--batch-size", &batch];
    let start = Instant::now();
    let (first, _) = train([workers, threads], &folder.path().join("first"), &small);
    let first_step = first.map_or_else(|| start.elapsed(), |written| written.duration_since(start));
    let run = folder.path().join("run");
    let (_, peak) =
        train([workers, threads], &run, &["--steps", &steps.to_string(), "--log-every", "5"]);
    summarize(&RunPaths::new(run).metrics(), first_step, peak)
}

/// Trains to the end. Gives the time at which the first row of metrics was there, and the peak
/// memory of the largest worker.
#[allow(
    clippy::disallowed_methods,
    reason = "another process's file and memory can only be looked at now and then"
)]
fn train([workers, threads]: [&str; 2], run: &Path, arguments: &[&str]) -> (Option<Instant>, f64) {
    let mut coordinator = Command::new(env!("CARGO_BIN_EXE_dcgan-coord"))
        .args([
            "--local",
            "--workers",
            workers,
            "--threads",
            threads,
            "--grid-every",
            "1000000",
            "--out",
        ])
        .arg(run)
        .args(arguments)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("the coordinator starts");
    let metrics = RunPaths::new(run.to_owned()).metrics();
    let (mut first, mut peak) = (None, 0.0);
    while coordinator.try_wait().expect("it can be waited for").is_none() {
        if first.is_some() {
            peak = peak_of_workers(&coordinator).max(peak);
            sleep(Duration::from_millis(200));
        } else if std::fs::metadata(&metrics).is_ok_and(|file| file.len() > 0) {
            first = Some(Instant::now());
        }
        sleep(Duration::from_millis(5));
    }
    (first, peak)
}

/// Summarizes the rows of metrics by their medians.
fn summarize(metrics: &Path, first_step: Duration, peak: f64) -> Measured {
    let lines: Vec<MetricsRow> = metrics_log::read(metrics).expect("the run has metrics");
    let counted: Vec<&MetricsRow> = lines.iter().filter(|line| line.step > WARM_UP).collect();
    let median = |value: fn(&MetricsRow) -> f64| {
        let mut values: Vec<f64> = counted.iter().map(|line| value(line)).collect();
        values.sort_by(f64::total_cmp);
        values[values.len() / 2]
    };
    Measured {
        images_per_second: median(|line| line.images_per_second),
        step_ms: median(|line| line.step_ms),
        allreduce_ms: median(|line| line.allreduce_ms),
        first_step,
        peak,
    }
}

/// The peak resident memory of the largest worker that the coordinator started, in MiB. It is 0
/// where /proc does not exist.
fn peak_of_workers(coordinator: &Child) -> f64 {
    let parent = coordinator.id().to_string();
    let processes = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let statuses =
        processes.filter_map(|process| std::fs::read_to_string(process.path().join("status")).ok());
    let workers = statuses.filter(|status| {
        field(status, "PPid:") == Some(&parent) && field(status, "Name:") == Some("dcgan-worker")
    });
    workers.filter_map(|status| peak_mib(&status)).fold(0.0, f64::max)
}

/// The peak resident memory in a process's /proc/PID/status, in MiB.
fn peak_mib(status: &str) -> Option<f64> {
    let kib = field(status, "VmHWM:")?.strip_suffix(" kB")?;
    Some(kib.parse::<f64>().ok()? / 1024.0)
}

/// A field of a process's /proc/PID/status.
fn field<'a>(status: &'a str, name: &str) -> Option<&'a str> {
    status.lines().find_map(|line| line.strip_prefix(name)).map(str::trim)
}
