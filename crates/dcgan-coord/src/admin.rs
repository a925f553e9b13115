//! The verbs that talk to a running coordinator: `status`, `checkpoint`, `drain` and `stop`.
//!
//! The coordinator answers a request at once, and has no way to report later that it is done. Each
//! verb polls the status until it sees the result, so that a script can rely on it when the verb
//! returns.

use std::fmt::Write;
use std::time::Duration;

use anyhow::{Context, anyhow, bail};
use dcgan_process::exit::{status as exit, usage};
use dcgan_rpc::net::{self, Address};
use dcgan_rpc::pb::act_request::Kind;
use dcgan_rpc::pb::coordinator_client::CoordinatorClient;
use dcgan_rpc::{pb, transfer};
use tokio::runtime::{Builder, Runtime};
use tokio::time::timeout;
use tonic::transport::Channel;

/// Pause between two requests for the status.
const POLL_PAUSE: Duration = Duration::from_millis(100);

/// A connection to a coordinator, for a program that does nothing else meanwhile.
struct AdminClient {
    runtime: Runtime,
    client: CoordinatorClient<Channel>,
}

impl AdminClient {
    fn connect(address: &Address) -> anyhow::Result<Self> {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let channel = runtime.block_on(net::connect(address))?;
        Ok(Self { runtime, client: CoordinatorClient::new(channel) })
    }

    fn status(&mut self) -> anyhow::Result<pb::Status> {
        let request = self.client.get_status(pb::GetStatusRequest {});
        let answer = self.runtime.block_on(async { timeout(transfer::STALLED_MAX, request).await });
        let status = answer
            .context("the coordinator does not answer")?
            .map_err(|status| anyhow!("{}", status.message()))?;
        Ok(status.into_inner())
    }

    /// Waits before the next request for the status.
    fn pause(&self) {
        self.runtime.block_on(async { tokio::time::sleep(POLL_PAUSE).await });
    }

    fn act(&mut self, kind: Kind) -> anyhow::Result<()> {
        let request = self.client.act(pb::ActRequest { kind: Some(kind) });
        match self.runtime.block_on(request) {
            Ok(_) => Ok(()),
            Err(status) => Err(anyhow!("{}", status.message())),
        }
    }
}

/// Prints the status of the run, for people or as JSON.
pub(crate) fn status(address: &Address, json: bool) -> anyhow::Result<u8> {
    let status = AdminClient::connect(address)?.status()?;
    let text = if json { serde_json::to_string(&status)? + "\n" } else { describe(&status) };
    dcgan_process::print(&text);
    Ok(exit::FINISHED)
}

/// Takes a checkpoint, and waits until it is saved.
pub(crate) fn checkpoint(address: &Address) -> anyhow::Result<u8> {
    let mut client = AdminClient::connect(address)?;
    let before = client.status()?.checkpoint;
    client.act(Kind::Checkpoint(pb::TakeCheckpoint {}))?;
    loop {
        let status = client.status().context("the run ended before the checkpoint was taken")?;
        if let (Some(step), Some(digest)) = (status.checkpoint, status.digest)
            && before.is_none_or(|before| step > before)
        {
            dcgan_process::print(&format!("checkpoint of step {step}, digest {digest}\n"));
            return Ok(exit::FINISHED);
        }
        client.pause();
    }
}

/// Removes a worker from the run, and waits until it is gone.
pub(crate) fn drain(address: &Address, name: &str) -> anyhow::Result<u8> {
    let mut client = AdminClient::connect(address)?;
    let workers = client.status()?.workers;
    if !has_worker(&workers, name) {
        let names: Vec<String> = workers.into_iter().map(|worker| worker.name).collect();
        bail!(usage(anyhow!("there is no worker {name}; there are: {}", names.join(", "))));
    }
    client.act(Kind::Drain(pb::Drain { name: name.to_owned() }))?;
    while has_worker(&client.status()?.workers, name) {
        client.pause();
    }
    dcgan_process::print(&format!("worker {name} has left the run\n"));
    Ok(exit::FINISHED)
}

fn has_worker(workers: &[pb::WorkerStatus], name: &str) -> bool {
    workers.iter().any(|worker| worker.name == name)
}

/// Stops the run, and waits until the coordinator has ended.
pub(crate) fn stop(address: &Address) -> anyhow::Result<u8> {
    let mut client = AdminClient::connect(address)?;
    client.act(Kind::Stop(pb::Stop {}))?;
    // The coordinator saves its last checkpoint before it ends, and answers until then.
    while client.status().is_ok() {
        client.pause();
    }
    dcgan_process::print("the run has ended\n");
    Ok(exit::FINISHED)
}

/// Describes a run for people.
fn describe(status: &pb::Status) -> String {
    let mut text = String::new();
    // Writing to a string cannot fail.
    let _ = write_run(status, &mut text);
    let _ = write_workers(&status.workers, &mut text);
    let _ = write_interruptions(&status.recoveries, &mut text);
    text
}

fn write_run(status: &pb::Status, f: &mut String) -> std::fmt::Result {
    let pb::Status { run, reason, generation, step, last_step, epoch, checkpoint, .. } = status;
    writeln!(
        f,
        "run {run:016x}: step {step} of {last_step}, epoch {epoch}, generation {generation}"
    )?;
    writeln!(f, "{reason}")?;
    match checkpoint {
        Some(step) => writeln!(f, "newest checkpoint: step {step}"),
        None => writeln!(f, "no checkpoint yet"),
    }
}

/// Writes a table with one row for each worker.
fn write_workers(workers: &[pb::WorkerStatus], f: &mut String) -> std::fmt::Result {
    writeln!(
        f,
        "\n{:<20} {:<9} {:>10} {:>10} {:>10}  {:<17} shards",
        "worker", "role", "step", "heartbeat", "ms/shard", "started (us)"
    )?;
    for worker in workers {
        let pb::WorkerStatus { name, incarnation, step, .. } = worker;
        let role = match worker.rank {
            Some(rank) => format!("rank {rank}"),
            None => worker.role.clone(),
        };
        let heartbeat = format!("{:.1} s", worker.heartbeat_ms as f64 / 1e3);
        let shard_ms = worker.shard_ms.map_or_else(|| "-".to_owned(), |ms| format!("{ms:.1}"));
        writeln!(
            f,
            "{name:<20} {role:<9} {step:>10} {heartbeat:>10} {shard_ms:>10}  {incarnation:<17} {}",
            describe_shards(&worker.shards)
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
            "{} interruptions since the coordinator was started: median {:.2} s, longest {:.2} s",
            recoveries.len(),
            median / 1e3,
            longest / 1e3
        )?;
    }
    Ok(())
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
        let worker = pb::WorkerStatus {
            name: "a".to_owned(),
            role: "member".to_owned(),
            rank: Some(0),
            shards: vec![0, 1],
            heartbeat_ms: 100,
            ..pb::WorkerStatus::default()
        };
        let lost = pb::Recovery {
            cause: "lost worker b".to_owned(),
            seconds_ago: 5,
            ..pb::Recovery::default()
        };
        let text = describe(&pb::Status {
            reason: "training".to_owned(),
            workers: vec![worker],
            recoveries: vec![lost],
            ..pb::Status::default()
        });
        for part in [
            "no checkpoint yet",
            "a                    rank 0             0      0.1 s          -  0  ",
            "last interruption, 5 s ago: lost worker b; no step was finished since",
        ] {
            assert!(text.contains(part), "{part:?} is not in:\n{text}");
        }
    }
}
