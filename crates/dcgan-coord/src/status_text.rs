//! The status of a run in words.

use std::fmt::Write;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use dcgan_core::words::{counted, worker};
use dcgan_rpc::pb;
use indicatif::HumanDuration;

/// The width of a line of metrics, in characters.
const COLUMNS: usize = 100;

/// Describes a run for people.
pub(crate) fn describe(now: SystemTime, status: &pb::Status, found: &str) -> String {
    let mut text = String::new();
    // Writing to a string cannot fail.
    let _ = write_run(status, found, &mut text);
    let _ = write_workers(now, &status.workers, &mut text);
    let _ = write_waiting(&status.workers, &mut text);
    let _ = write_outsiders(&status.outside, &mut text);
    for gone in &status.gone {
        let _ = writeln!(text, "{}", describe_gone(gone));
    }
    let _ = write_interruptions(&status.recoveries, &mut text);
    text
}

fn write_run(status: &pb::Status, found: &str, f: &mut String) -> std::fmt::Result {
    let pb::Status { run, reason, generation, step, last_step, epoch, .. } = status;
    let pb::Status { checkpoint, newest_row, directory, best, alarms, .. } = status;
    match &**directory {
        "" => writeln!(f, "run {run:016x}{found}")?,
        directory => writeln!(f, "run {run:016x} in {directory}{found}")?,
    }
    writeln!(f, "step {step} of {last_step}, epoch {epoch}, generation {generation}")?;
    writeln!(f, "{reason}")?;
    if let Some(row) = newest_row {
        // The number comes from the network, and may be no time.
        let left = Duration::try_from_secs_f64(row.seconds_left)
            .map_or_else(|_| String::new(), |left| format!(", {} left", HumanDuration(left)));
        writeln!(f, "{:.0} img/s{left}; at step {}:", row.images_per_second, row.step)?;
        write_metrics(&row.metrics, f)?;
    }
    match checkpoint {
        Some(step) => writeln!(f, "newest checkpoint: step {step}")?,
        None => writeln!(f, "no checkpoint yet")?,
    }
    if let Some(pb::BestEvaluation { step, name, value }) = best {
        writeln!(f, "best evaluation: {name} {value:.4} after step {step}")?;
    }
    for pb::Alarm { text, .. } in alarms {
        writeln!(f, "alarm {text}")?;
    }
    Ok(())
}

/// Writes metrics, as many in a line as fit.
fn write_metrics(metrics: &[pb::Metric], f: &mut String) -> std::fmt::Result {
    let mut line = String::new();
    for pb::Metric { name, value } in metrics {
        let metric = format!("  {name} {value:.3}");
        if line.len() + metric.len() > COLUMNS {
            writeln!(f, "{line}")?;
            line.clear();
        }
        line += &metric;
    }
    writeln!(f, "{line}")
}

/// Writes a table with one row for each worker.
fn write_workers(
    now: SystemTime,
    workers: &[pb::WorkerStatus],
    f: &mut String,
) -> std::fmt::Result {
    writeln!(
        f,
        "\n{:<16} {:<12} {:>7} {:>9} {:>8} {:>4}  {:<21} shards",
        "worker", "role", "step", "heartbeat", "ms/shard", "up", "address"
    )?;
    for worker in workers {
        let pb::WorkerStatus { name, address, step, .. } = worker;
        let started = UNIX_EPOCH + Duration::from_micros(worker.incarnation);
        // The worker's clock may be ahead.
        let up = HumanDuration(now.duration_since(started).unwrap_or_default());
        let role = match worker.rank {
            Some(rank) => format!("rank {rank}"),
            None => worker.role.clone(),
        };
        let heartbeat = format!("{:.1} s", worker.heartbeat_ms as f64 / 1e3);
        let shard_ms = worker.shard_ms.map_or_else(|| "-".to_owned(), |ms| format!("{ms:.1}"));
        writeln!(
            f,
            "{name:<16} {role:<12} {step:>7} {heartbeat:>9} {shard_ms:>8} {:>4}  {address:<21} {}",
            format!("{up:#}"),
            describe_shards(&worker.shards)
        )?;
    }
    Ok(())
}

/// Writes a line for each worker that waits outside until it passes a trial.
fn write_waiting(workers: &[pb::WorkerStatus], f: &mut String) -> std::fmt::Result {
    for pb::WorkerStatus { name, address, outside, .. } in workers {
        if let Some(why) = outside {
            writeln!(f, "{} at {address} waits outside: {why}", worker(name))?;
        }
    }
    Ok(())
}

/// Writes a line for each worker that is kept outside.
fn write_outsiders(outside: &[pb::Outsider], f: &mut String) -> std::fmt::Result {
    for pb::Outsider { name, address, reason, seconds_left } in outside {
        writeln!(
            f,
            "{} at {address} is kept outside for {seconds_left:.0} s more: {reason}",
            worker(name)
        )?;
    }
    Ok(())
}

/// The numbers of shards, with three and more in a row as in `4-260`.
fn describe_shards(shards: &[u32]) -> String {
    let rows = shards.chunk_by(|&shard, &next| shard + 1 == next).flat_map(|row| match row {
        [first, _, .., last] => vec![format!("{first}-{last}")],
        few => few.iter().map(u32::to_string).collect(),
    });
    rows.collect::<Vec<_>>().join(" ")
}

/// Writes what interrupted the training last, and how long the interruptions took.
fn write_interruptions(recoveries: &[pb::Recovery], f: &mut String) -> std::fmt::Result {
    let Some(last) = recoveries.last() else {
        return Ok(());
    };
    write!(f, "\nlast interruption, {} s ago: {}; ", last.seconds_ago, last.cause)?;
    match last.took_ms {
        Some(ms) => writeln!(f, "the next step was finished {:.2} s later", ms / 1e3)?,
        None => writeln!(f, "no step was finished since")?,
    }
    // The one that is not over yet has no time.
    let mut times: Vec<f64> = recoveries.iter().filter_map(|recovery| recovery.took_ms).collect();
    times.sort_by(f64::total_cmp);
    if let Some(longest) = times.last() {
        let median = times[times.len() / 2];
        writeln!(
            f,
            "{} since the coordinator was started: median {:.2} s, longest {:.2} s",
            counted(recoveries.len(), "interruption"),
            median / 1e3,
            longest / 1e3
        )?;
    }
    Ok(())
}

/// Describes a worker that has left the run, or was given up.
pub(crate) fn describe_gone(gone: &pb::GoneWorker) -> String {
    let pb::GoneWorker { name, step, seconds_ago, reason, .. } = gone;
    let name = worker(name);
    format!("{name} is gone, after step {step}, {seconds_ago} s ago: {reason}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shards_in_a_row_are_described_by_the_first_and_the_last() {
        assert_eq!(describe_shards(&[0, 1, 3, 4, 5, 9]), "0 1 3-5 9");
        assert_eq!(describe_shards(&[]), "");
    }

    #[test]
    fn a_status_shows_workers_and_interruptions() {
        let member = pb::WorkerStatus {
            name: "a".to_owned(),
            role: "member".to_owned(),
            rank: Some(0),
            shards: vec![0, 1],
            heartbeat_ms: 100,
            incarnation: 1_000_000,
            address: "127.0.0.1:4000".to_owned(),
            ..pb::WorkerStatus::default()
        };
        let gone = pb::GoneWorker {
            name: "worker-1".to_owned(),
            step: 30,
            seconds_ago: 7,
            code: "drained".to_owned(),
            reason: "it was drained".to_owned(),
        };
        let lost = pb::Recovery {
            cause: "lost worker b".to_owned(),
            seconds_ago: 5,
            ..pb::Recovery::default()
        };
        let row = pb::NewestRow {
            step: 40,
            metrics: vec![pb::Metric { name: "loss".to_owned(), value: 0.5 }],
            images_per_second: 573.4,
            seconds_left: 840.0,
        };
        let now = UNIX_EPOCH + Duration::from_secs(36);
        let status = pb::Status {
            newest_row: Some(row),
            reason: "training".to_owned(),
            directory: "/home/me/runs/dcgan".to_owned(),
            workers: vec![member],
            gone: vec![gone],
            recoveries: vec![lost],
            ..pb::Status::default()
        };
        let text = describe(now, &status, "");
        for part in [
            "run 0000000000000000 in /home/me/runs/dcgan\nstep 0 of 0, epoch 0, generation 0\n",
            "no checkpoint yet",
            "training\n573 img/s, 14 minutes left; at step 40:\n  loss 0.500\n",
            "a                rank 0             0     0.1 s        -  35s  127.0.0.1:4000  ",
            "\nworker-1 is gone, after step 30, 7 s ago: it was drained\n",
            "last interruption, 5 s ago: lost worker b; no step was finished since",
        ] {
            assert!(text.contains(part), "{part:?} is not in:\n{text}");
        }
    }

    #[test]
    fn metrics_that_fit_in_no_line_take_two() {
        let metric = |value| pb::Metric { name: "d_loss_real".to_owned(), value };
        let text = |metrics: &[pb::Metric]| {
            let mut text = String::new();
            write_metrics(metrics, &mut text).unwrap();
            text
        };
        assert_eq!(text(&[metric(0.5), metric(0.5)]), "  d_loss_real 0.500  d_loss_real 0.500\n");
        let long = text(&vec![metric(2017.565); 6]);
        assert_eq!(long.lines().map(str::len).collect::<Vec<_>>(), [88, 44]);
    }

    #[test]
    fn a_status_with_a_time_that_is_none_is_described_without_it() {
        for seconds_left in [f64::NAN, f64::INFINITY, -1.0] {
            let row = pb::NewestRow { seconds_left, ..pb::NewestRow::default() };
            let status = pb::Status { newest_row: Some(row), ..pb::Status::default() };
            let text = describe(UNIX_EPOCH, &status, ", found at http://127.0.0.1:7420");
            assert!(text.contains("0 img/s; at step 0:"), "{text}");
            let first = "run 0000000000000000, found at http://127.0.0.1:7420";
            assert_eq!(text.lines().next(), Some(first));
        }
    }
}
