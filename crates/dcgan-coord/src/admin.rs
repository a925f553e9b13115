//! The verbs that talk to a running coordinator: `status`, `checkpoint`, `drain` and `stop`.
//!
//! A verb returns when what it was asked for is done, so that a script can rely on it. `stop` is
//! told by the coordinator how the run has ended; `checkpoint` and `drain` poll the status until
//! they see the result.

use std::path::PathBuf;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, anyhow, bail};
use dcgan_core::ids::RunId;
use dcgan_core::words::worker;
use dcgan_process::exit::{status as exit, usage};
use dcgan_process::names;
use dcgan_process::output::print_result;
use dcgan_rpc::net::{self, Address, Connector, Peer};
use dcgan_rpc::pb::admin_client::AdminClient;
use dcgan_rpc::{Caller, Who, is_senders_fault, pb, transfer};
use pb::stop_progress::Kind;
use serde_json::Value;
use tokio::runtime::{Builder, Runtime};
use tokio::time::timeout;
use tonic::transport::Channel;
use tonic::{Response, Status};

use crate::ended::EndedRun;
use crate::status_text::{describe, describe_gone};

/// Pause between two requests for the status.
const POLL_PAUSE: Duration = Duration::from_millis(100);
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
    let text =
        if json { as_json(&status)? + "\n" } else { describe(SystemTime::now(), &status, found) };
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_that_has_ended_has_the_keys_of_one_that_runs() {
        let keys = |text: &str| -> Vec<String> {
            let object: serde_json::Map<String, Value> = serde_json::from_str(text).unwrap();
            object.keys().cloned().collect()
        };
        let running = keys(&as_json(&pb::Status::default()).unwrap());
        assert_eq!(keys(&crate::ended::EndedRun::example().as_json().unwrap()), running);
    }
}
