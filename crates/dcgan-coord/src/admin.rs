//! The verbs that talk to a running coordinator.

use std::fmt::Write;
use std::time::Duration;

use anyhow::{Context, bail};
use dcgan_process::exit::{status as exit, usage};
use dcgan_rpc::net;
use dcgan_rpc::pb::act_request::Kind;
use dcgan_rpc::pb::coordinator_client::CoordinatorClient;
use dcgan_rpc::{pb, transfer};
use tokio::runtime::{Builder, Runtime};
use tokio::time::timeout;
use tonic::transport::Channel;

use crate::args::CoordinatorAddress;

/// Between two looks at what was asked for.
const LOOK_PAUSE: Duration = Duration::from_millis(100);

/// A connection to a coordinator, for a program that has nothing else to do.
pub(crate) struct AdminClient {
    runtime: Runtime,
    client: CoordinatorClient<Channel>,
}

impl AdminClient {
    pub(crate) fn open(at: &CoordinatorAddress) -> anyhow::Result<Self> {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let channel = runtime.block_on(net::connect(&at.coordinator))?;
        Ok(Self { runtime, client: CoordinatorClient::new(channel) })
    }

    pub(crate) fn status(&mut self) -> anyhow::Result<pb::Status> {
        let answer = self.client.get_status(pb::GetStatusRequest {});
        let answer = self.runtime.block_on(async { timeout(transfer::STALLED_MAX, answer).await });
        Ok(answer
            .context("the coordinator does not answer")?
            .map_err(|status| anyhow::anyhow!("{}", status.message()))?
            .into_inner())
    }

    /// The coordinator has no way to say when something is done: it is looked at again.
    fn pause(&self) {
        self.runtime.block_on(async { tokio::time::sleep(LOOK_PAUSE).await });
    }

    fn act(&mut self, kind: Kind) -> anyhow::Result<()> {
        let answer = self.runtime.block_on(self.client.act(pb::ActRequest { kind: Some(kind) }));
        answer.map(|_| ()).map_err(|status| anyhow::anyhow!("{}", status.message()))
    }
}

pub(crate) fn status(at: &CoordinatorAddress, json: bool) -> anyhow::Result<u8> {
    let status = AdminClient::open(at)?.status()?;
    let text = if json { serde_json::to_string(&status)? + "\n" } else { describe(&status) };
    dcgan_process::print(&text);
    Ok(exit::FINISHED)
}

pub(crate) fn checkpoint(at: &CoordinatorAddress) -> anyhow::Result<u8> {
    let mut client = AdminClient::open(at)?;
    let before = client.status()?;
    client.act(Kind::Checkpoint(pb::TakeCheckpoint {}))?;
    loop {
        let now = client.status().context("the run ended before the checkpoint was taken")?;
        if let (Some(step), Some(digest)) =
            (now.checkpoint.filter(|_| now.checkpoint > before.checkpoint), now.digest)
        {
            dcgan_process::print(&format!("checkpoint of step {step}, digest {digest}\n"));
            return Ok(exit::FINISHED);
        }
        client.pause();
    }
}

pub(crate) fn drain(at: &CoordinatorAddress, name: &str) -> anyhow::Result<u8> {
    let mut client = AdminClient::open(at)?;
    let names: Vec<String> =
        client.status()?.workers.into_iter().map(|worker| worker.name).collect();
    if !names.iter().any(|there| there == name) {
        bail!(usage(anyhow::anyhow!("there is no worker {name}; there are: {}", names.join(", "))));
    }
    client.act(Kind::Drain(pb::Drain { name: name.to_owned() }))?;
    while client.status()?.workers.iter().any(|worker| worker.name == name) {
        client.pause();
    }
    dcgan_process::print(&format!("worker {name} has left the run\n"));
    Ok(exit::FINISHED)
}

pub(crate) fn stop(at: &CoordinatorAddress) -> anyhow::Result<u8> {
    let mut client = AdminClient::open(at)?;
    client.act(Kind::Stop(pb::Stop {}))?;
    // It ends after its last checkpoint, and does not answer any more then.
    while client.status().is_ok() {
        client.pause();
    }
    dcgan_process::print("the run has ended\n");
    Ok(exit::FINISHED)
}

/// A run for people.
fn describe(status: &pb::Status) -> String {
    let mut text = String::new();
    // Writing to a string cannot fail.
    let _ = write_description(status, &mut text);
    text
}

fn write_description(status: &pb::Status, f: &mut String) -> std::fmt::Result {
    let pb::Status {
        run,
        reason,
        generation,
        step,
        last_step,
        epoch,
        checkpoint,
        workers,
        recoveries,
        ..
    } = status;
    writeln!(
        f,
        "run {run:016x}: step {step} of {last_step}, epoch {epoch}, generation {generation}"
    )?;
    writeln!(f, "{reason}")?;
    match checkpoint {
        Some(step) => writeln!(f, "newest checkpoint: step {step}")?,
        None => writeln!(f, "no checkpoint yet")?,
    }
    writeln!(
        f,
        "\n{:<20} {:<9} {:>10} {:>10} {:>10}  {:<17} shards",
        "worker", "role", "step", "heartbeat", "ms/shard", "started (us)"
    )?;
    for worker in workers {
        let role = worker.rank.map_or_else(|| worker.role.clone(), |rank| format!("rank {rank}"));
        let heartbeat = format!("{:.1} s", worker.heartbeat_ms as f64 / 1e3);
        let pace = worker.shard_ms.map_or_else(|| "-".to_owned(), |ms| format!("{ms:.1}"));
        let shards: Vec<String> = worker.shards.iter().map(u32::to_string).collect();
        let (name, step, incarnation) = (&worker.name, worker.step, worker.incarnation);
        writeln!(
            f,
            "{name:<20} {role:<9} {step:>10} {heartbeat:>10} {pace:>10}  {incarnation:<17} {}",
            shards.join(" ")
        )?;
    }
    let Some(last) = recoveries.last() else {
        return Ok(());
    };
    let took = |recovery: &pb::Recovery| match recovery.took_ms {
        Some(ms) => format!("the next step was finished {:.2} s later", ms / 1e3),
        None => "no step was finished since".to_owned(),
    };
    writeln!(f, "\nlast interruption, {} s ago: {}; {}", last.seconds_ago, last.cause, took(last))?;
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
