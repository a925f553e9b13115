//! The verbs that talk to a running coordinator: `status`, `checkpoint`, `drain` and `stop`.
//!
//! A verb returns when what it was asked for is done, so that a script can rely on it. `stop` is
//! told by the coordinator how the run has ended; `checkpoint` and `drain` poll the status until
//! they see the result.

use std::fmt::Write;
use std::path::PathBuf;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, anyhow, bail};
use dcgan_core::ids::RunId;
use dcgan_core::words::{counted, worker};
use dcgan_process::exit::{status as exit, usage};
use dcgan_process::names;
use dcgan_process::output::print_result;
use dcgan_rpc::net::{self, Address, Connector, Peer};
use dcgan_rpc::pb::admin_client::AdminClient;
use dcgan_rpc::{Caller, Who, is_senders_fault, pb, transfer};
use indicatif::HumanDuration;
use pb::stop_progress::Kind;
use serde_json::Value;
use tokio::runtime::{Builder, Runtime};
use tokio::time::timeout;
use tonic::transport::Channel;
use tonic::{Response, Status};

use crate::ended::EndedRun;

/// Pause between two requests for the status.
const POLL_PAUSE: Duration = Duration::from_millis(100);
/// The width of a line of metrics, in characters.
const COLUMNS: usize = 100;
/// A stop whose connection broke tries for this long to ask again. Then it says that it does not
/// know how the run has ended.
const RECONNECT_MAX: Duration = Duration::from_secs(10);

/// A connection to a coordinator, for a program that does nothing else meanwhile.
struct Client {
    runtime: Runtime,
    admin: AdminClient<Channel>,
    /// The person who asks, and the run: it is known from the first status on. From then on a
    /// coordinator that has come to this address with another run refuses the requests.
    caller: Caller,
    /// The place where it is asked for.
    address: Address,
    /// The run directory, as the last status tells it.
    directory: PathBuf,
}

impl Client {
    fn connect(connector: &Connector, address: &Address) -> anyhow::Result<Self> {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let peer = Peer::Coordinator(None);
        let channel = runtime.block_on(connector.connect(address, &peer))?;
        let who = Who::Person(names::user_at_host());
        let caller = Caller { run: None, who };
        let (admin, address) = (AdminClient::new(channel), address.clone());
        Ok(Self { runtime, admin, caller, address, directory: PathBuf::new() })
    }

    fn caller(&self) -> Option<pb::Caller> {
        Some(self.caller.clone().into())
    }

    fn status(&mut self) -> anyhow::Result<pb::Status> {
        let request = pb::GetStatusRequest { caller: self.caller() };
        let answer = answer_to(&self.runtime, &self.address, self.admin.get_status(request))?;
        let status = answer.map_err(|status| self.explain(&status))?.into_inner();
        self.caller.run = Some(RunId(status.run));
        self.directory = PathBuf::from(&status.directory);
        Ok(status)
    }

    fn take_checkpoint(&mut self) -> anyhow::Result<()> {
        let request = pb::TakeCheckpointRequest { caller: self.caller() };
        let answer = answer_to(&self.runtime, &self.address, self.admin.take_checkpoint(request))?;
        answer.map(drop).map_err(|status| self.explain(&status))
    }

    fn drain(&mut self, name: &str) -> anyhow::Result<()> {
        let request = pb::DrainRequest { caller: self.caller(), name: name.to_owned() };
        let answer = answer_to(&self.runtime, &self.address, self.admin.drain(request))?;
        answer.map(drop).map_err(|status| self.explain(&status))
    }

    /// Says why a request was not answered: it was refused, or the run has ended meanwhile.
    fn explain(&self, status: &Status) -> anyhow::Error {
        let (words, address) = (net::in_words(status), &self.address);
        let run = match self.caller.run {
            _ if is_senders_fault(status) => return anyhow!(words),
            None => return anyhow!("{address}: {words}"),
            Some(run) => run,
        };
        // A coordinator that ends holds its directory for a while.
        let since = Instant::now();
        while since.elapsed() < RECONNECT_MAX
            && let Some(ended) = EndedRun::of(run, &self.directory)
        {
            if !ended.is_running() {
                return anyhow!("the run has ended meanwhile: {}", ended.describe());
            }
            self.pause();
        }
        anyhow!(
            "the coordinator at {address} is not there any more ({words}); `dcgan-coord status` on \
             its machine says whether the run has ended, and how"
        )
    }

    /// Asks for the end of the run, and waits for it. `None` if the connection broke before the
    /// coordinator had said how the run ended.
    fn stop(&mut self, talk: &mut Progress) -> anyhow::Result<Option<pb::RunEnded>> {
        let request = pb::StopRequest { caller: self.caller() };
        let mut stream = match answer_to(&self.runtime, &self.address, self.admin.stop(request))? {
            Ok(response) => response.into_inner(),
            Err(status) if is_senders_fault(&status) => bail!(net::in_words(&status)),
            // Whether the request has arrived is not known.
            Err(_) => return Ok(None),
        };
        loop {
            // A coordinator that is dead is noticed by its connection.
            let message = self.runtime.block_on(stream.message());
            match message.ok().flatten().and_then(|progress| progress.kind) {
                Some(Kind::Waiting(reason)) => talk.say(&reason),
                Some(Kind::Ended(ended)) => return Ok(Some(ended)),
                None => return Ok(None),
            }
        }
    }

    /// Waits before the next request for the status.
    fn pause(&self) {
        self.runtime.block_on(async { tokio::time::sleep(POLL_PAUSE).await });
    }
}

/// The answer to a request, be it a refusal.
fn answer_to<T>(
    runtime: &Runtime,
    address: &Address,
    request: impl Future<Output = Result<Response<T>, Status>>,
) -> anyhow::Result<Result<Response<T>, Status>> {
    let answer = runtime.block_on(async { timeout(transfer::STALLED_MAX, request).await });
    answer.with_context(|| format!("the coordinator at {address} does not answer"))
}

/// Prints the status of the run, for people or as JSON. `found` says how it was found, if a person
/// has not named it.
pub(crate) fn status(
    connector: &Connector,
    address: &Address,
    json: bool,
    found: &str,
) -> anyhow::Result<u8> {
    let status = Client::connect(connector, address)?.status()?;
    let text = match json {
        true => as_json(&status)? + "\n",
        false => describe(SystemTime::now(), &status, found),
    };
    print_result(&text)?;
    Ok(exit::FINISHED)
}

/// The status of the coordinator at an address; `None` if nobody is there.
///
/// # Errors
/// If what is there does not answer as a coordinator.
pub(crate) fn status_at(
    connector: &Connector,
    address: &Address,
) -> anyhow::Result<Option<pb::Status>> {
    match Client::connect(connector, address) {
        Ok(mut client) => client.status().map(Some),
        Err(_) => Ok(None),
    }
}

/// The status as one JSON object. The run is a text, as everywhere else: most programs that read
/// JSON would round so large a number.
fn as_json(status: &pb::Status) -> anyhow::Result<String> {
    let mut object = serde_json::to_value(status)?;
    object["run"] = format!("{:016x}", status.run).into();
    object["state"] = "running".into();
    object["is_finished"] = (status.step >= status.last_step).into();
    // What only a run that has ended has.
    object["cause"] = Value::Null;
    if status.directory.is_empty() {
        object["directory"] = Value::Null;
    }
    Ok(object.to_string())
}

/// Takes a checkpoint, and waits until it is saved.
pub(crate) fn checkpoint(connector: &Connector, address: &Address) -> anyhow::Result<u8> {
    let mut client = Client::connect(connector, address)?;
    let before = client.status()?.checkpoint;
    client.take_checkpoint()?;
    let mut talk = Progress::default();
    loop {
        let status = client.status()?;
        if let (Some(step), Some(digest)) = (status.checkpoint, status.digest)
            && before.is_none_or(|before| step > before)
        {
            dcgan_process::print(&format!("checkpoint of step {step}, digest {digest}\n"));
            return Ok(exit::FINISHED);
        }
        if status.reason_code != "training" {
            talk.say(&status.reason);
        }
        client.pause();
    }
}

/// Removes a worker from the run, and waits until it is gone.
pub(crate) fn drain(connector: &Connector, address: &Address, name: &str) -> anyhow::Result<u8> {
    let mut client = Client::connect(connector, address)?;
    let pb::Status { workers, gone, .. } = client.status()?;
    if let Some(gone) = gone.into_iter().find(|gone| gone.name == name) {
        bail!(usage(anyhow!("{}", describe_gone(&gone))));
    }
    if !has_worker(&workers, name) {
        let names: Vec<String> = workers.into_iter().map(|worker| worker.name).collect();
        bail!(usage(anyhow!("there is no worker {name}; there are: {}", names.join(", "))));
    }
    client.drain(name)?;
    let mut talk = Progress::default();
    let is_last = loop {
        let status = client.status()?;
        if !status.draining.iter().any(|draining| draining == name)
            && !has_worker(&status.workers, name)
        {
            break status.workers.is_empty();
        }
        talk.say(&match has_worker(&status.workers, name) {
            true => status.reason,
            false => format!("{} does not answer; it leaves when it comes back", worker(name)),
        });
        client.pause();
    };
    let rest = if is_last { ", which waits for another worker" } else { "" };
    dcgan_process::print(&format!("{} has left the run{rest}\n", worker(name)));
    Ok(exit::FINISHED)
}

/// Describes a worker that has left for good.
fn describe_gone(gone: &pb::GoneWorker) -> String {
    let pb::GoneWorker { name, step, seconds_ago, reason, .. } = gone;
    let name = worker(name);
    format!("{name} is gone for good, after step {step}, {seconds_ago} s ago: {reason}")
}

fn has_worker(workers: &[pb::WorkerStatus], name: &str) -> bool {
    workers.iter().any(|worker| worker.name == name)
}

/// Stops the run, and waits until it has ended. The exit status says whether every finished step is
/// saved.
pub(crate) fn stop(connector: &Connector, address: &Address) -> anyhow::Result<u8> {
    let mut client = Client::connect(connector, address)?;
    // The status says which run it is that is to stop.
    client.status()?;
    let mut talk = Progress::default();
    let ended = match client.stop(&mut talk)? {
        Some(ended) => ended,
        None => stop_again(connector, address, client.caller, &mut talk)?,
    };
    dcgan_process::print(&format!("{}\n", ended.text));
    let is_saved = ["finished", "stopped"].contains(&&*ended.code);
    Ok(if is_saved { exit::FINISHED } else { exit::FAILED })
}

/// Asks once more, after the connection broke: the coordinator may be started again, or another
/// request may have ended the run.
fn stop_again(
    connector: &Connector,
    address: &Address,
    caller: Caller,
    talk: &mut Progress,
) -> anyhow::Result<pb::RunEnded> {
    talk.say("the connection to the coordinator broke before the run had ended");
    let runtime = Builder::new_current_thread().enable_time().build()?;
    let since = Instant::now();
    loop {
        let attempt = Client::connect(connector, address).and_then(|mut client| {
            client.caller = caller.clone();
            client.stop(talk)
        });
        let why = match attempt {
            Ok(Some(ended)) => return Ok(ended),
            Ok(None) => "the connection broke".to_owned(),
            Err(error) => format!("{error:#}"),
        };
        if since.elapsed() >= RECONNECT_MAX {
            bail!(
                "it is not known how the run has ended, or whether it has: {why}; ask `dcgan-coord \
                 status`, and look into the coordinator's log"
            );
        }
        runtime.block_on(async { tokio::time::sleep(POLL_PAUSE).await });
    }
}

/// Tells a person what a verb waits for, on standard error, each time that it changes.
#[derive(Default)]
struct Progress {
    said: String,
}

impl Progress {
    fn say(&mut self, what: &str) {
        if self.said != what {
            what.clone_into(&mut self.said);
            dcgan_process::output::say(what);
        }
    }
}

/// Describes a run for people.
fn describe(now: SystemTime, status: &pb::Status, found: &str) -> String {
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
            "\nworker-1 is gone for good, after step 30, 7 s ago: it was drained\n",
            "last interruption, 5 s ago: lost worker b; no step was finished since",
        ] {
            assert!(text.contains(part), "{part:?} is not in:\n{text}");
        }
    }

    #[test]
    fn a_run_that_has_ended_has_the_keys_of_one_that_runs() {
        let keys = |text: &str| -> Vec<String> {
            let object: serde_json::Map<String, Value> = serde_json::from_str(text).unwrap();
            object.keys().cloned().collect()
        };
        let running = keys(&as_json(&pb::Status::default()).unwrap());
        assert_eq!(keys(&crate::ended::EndedRun::example().as_json().unwrap()), running);
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
