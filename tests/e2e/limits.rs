//! Strangers that take what they can get: connections, streams, time. A run does not feel them.

use std::fs;
use std::io::Read;
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use dcgan_core::ids::{Digest, Generation, RunId, WorkerId};
use dcgan_core::protocol::message::{Hello, PROTOCOL};
use dcgan_rpc::pb::coordinator_client::CoordinatorClient;
use dcgan_rpc::pb::feed_client::FeedClient;
use dcgan_rpc::{Caller, Checksummed, Who, WorkerMessage, pb, transfer};
use dcgan_store::run_dir::{self, RunPaths};
use tempfile::tempdir;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;
use tonic::{Code, Streaming};

use crate::process::{COORD, Ended, Process, SAMPLER, assert_names};
use crate::run::{Coordinator, PACED, local, newest_manifest};
use crate::sampling::get;
use crate::services::connect;
use crate::training::all_cores;

/// A run of the toy that strangers disturb.
const TOY: &str = "--workers 1 --objective toy --log-every 500 --checkpoint-every 500";
/// The length of a run that goes on until it is stopped.
const ENDLESS: &str = "--steps 1000000000";
/// More than a usual limit of open files.
const IDLE: usize = 1100;
/// The system's words, if a program has no descriptor left.
const TOO_MANY_FILES: &str = "Too many open files";

/// Opens connections that ask for nothing.
fn idle_connections(address: &str, count: usize) -> Vec<TcpStream> {
    dcgan_process::open_files::raise_limit();
    let authority = address.trim_start_matches("http://");
    (0..count).map(|_| TcpStream::connect(authority).unwrap()).collect()
}

/// Waits until the server has closed them all.
fn wait_until_closed(connections: Vec<TcpStream>) {
    for mut connection in connections {
        // An end or a reset: a server that still waits would give neither.
        let _ = connection.read_to_end(&mut Vec::new());
    }
}

#[test]
fn a_thousand_idle_connections_keep_nobody_out_and_are_closed() {
    let folder = tempdir().unwrap();
    let here = folder.path();
    let coordinator = Coordinator::start(here, &format!("{TOY} {ENDLESS}"));
    let idle = idle_connections(&coordinator.address, IDLE);

    // A worker comes when all places are taken, and then its port is crowded, too.
    let first = coordinator.worker(here, &format!("--name first {PACED}"));
    let listening = first.wait_for_event("worker_started", &[]).field("listening").to_owned();
    let more_idle = idle_connections(&listening, IDLE);
    coordinator.process.wait_for_event("plan", &[("generation", "1")]);
    let second = coordinator.worker(here, &format!("--name second {PACED}"));
    coordinator.process.wait_for_event("worker_ready", &[("worker", "second")]);

    // The sampler shows its page to somebody who asks for it.
    let follow = format!(
        "serve --coordinator {} --http 127.0.0.1:0 --grpc 127.0.0.1:0",
        coordinator.address
    );
    let sampler = Process::start(SAMPLER, here, &follow);
    let page = sampler.wait_for_event("sampler_started", &[]).field("page").to_owned();
    let even_more_idle = idle_connections(&page, IDLE);
    assert!(String::from_utf8(get(&page, "/")).unwrap().contains("page.js"));

    // Each server says whose connections it closes, and not a thousand times.
    for (process, connections) in
        [(&coordinator.process, idle), (&first, more_idle), (&sampler, even_more_idle)]
    {
        wait_until_closed(connections);
        process.wait_for_event("connection_closed", &[]);
        assert!(process.text().matches("connection_closed").count() < 20, "{}", process.text());
    }
    let ended = end_undisturbed(here, coordinator.process);
    assert!(!ended.text.contains(TOO_MANY_FILES), "{}", ended.text);
    first.expect(0);
    second.expect(0);
}

/// Ends a run, whose bits must be those of one that nobody has disturbed.
fn end_undisturbed(here: &Path, coordinator: Process) -> Ended {
    coordinator.signal("INT");
    let ended = coordinator.expect(130);
    let last = newest_manifest(here);
    let alone = tempdir().unwrap();
    assert_eq!(last.state_digest, local(alone.path(), &format!("{TOY} --steps {}", last.step)));
    ended
}

/// Makes a program that may open few files, and then becomes the coordinator.
fn with_few_files(folder: &Path) -> String {
    let script = folder.join("few-files");
    fs::write(&script, format!("#!/bin/sh\nulimit -n 64\nexec {COORD} \"$@\"\n")).unwrap();
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
    script.to_str().unwrap().to_owned()
}

#[test]
fn a_coordinator_that_may_open_few_files_keeps_some_for_its_run() {
    let folder = tempdir().unwrap();
    let here = folder.path();
    let coordinator =
        Coordinator::start_by(&with_few_files(here), here, &format!("{TOY} {ENDLESS}"));
    let idle = idle_connections(&coordinator.address, 500);
    let worker = coordinator.worker(here, &format!("--name w {PACED}"));
    coordinator.process.wait_for_event("checkpoint_saved", &[]);
    let ended = end_undisturbed(here, coordinator.process);
    worker.expect(0);
    drop(idle);
    for words in [TOO_MANY_FILES, "accept_failed"] {
        assert!(!ended.text.contains(words), "{}", ended.text);
    }
}

#[tokio::test]
async fn samplers_beyond_the_limit_are_refused_in_words() {
    let folder = tempdir().unwrap();
    let coordinator = Coordinator::start(folder.path(), &format!("{TOY} {ENDLESS}"));
    let who = Who::Sampler("greedy".to_owned());
    let caller = Some(Caller { run: None, who }.into());
    let following = pb::Following { page: "http://127.0.0.1:1".to_owned(), caller };
    let kind = Some(pb::follow_request::Kind::Following(following));
    let request = pb::FollowRequest { kind, checksum: 0 }.with_checksum();
    let mut client = FeedClient::new(connect(&coordinator.address).await);
    let mut followed = Vec::new();
    let refusal = loop {
        // The request stream stays open, as a sampler's does.
        let (requests, queued) = mpsc::channel(1);
        requests.send(request.clone()).await.unwrap();
        let queued = ReceiverStream::new(queued);
        match client.follow(queued).await {
            Ok(stream) => followed.push((requests, stream)),
            Err(refusal) => break refusal,
        }
    };
    assert_eq!((followed.len(), refusal.code()), (8, Code::ResourceExhausted));
    assert_names(refusal.message(), &["8 samplers follow this run already"]);
}

/// A worker that has said hello. It has a connection for its control stream, as workers do, and one
/// for files.
struct Newcomer {
    _control: (mpsc::Sender<pb::WorkerMessage>, Streaming<pb::CoordinatorMessage>),
    files: CoordinatorClient<Channel>,
    caller: pb::Caller,
}

impl Newcomer {
    async fn join(address: &str, number: usize, run: RunId, fingerprint: &str) -> Self {
        let id = WorkerId { name: format!("newcomer-{number}"), incarnation: 1 };
        let hello = Hello {
            run: Some(run),
            id: id.clone(),
            protocol: PROTOCOL,
            fingerprint: fingerprint.to_owned(),
            address: format!("127.0.0.1:{}", 20_000 + number),
            plan: Generation(0),
            promised: Generation(0),
        };
        let (messages, queued) = mpsc::channel(1);
        messages.send(WorkerMessage::Hello(hello).into()).await.unwrap();
        let mut control = CoordinatorClient::new(connect(address).await);
        let answers = control.control(ReceiverStream::new(queued)).await.unwrap();
        let mut answers = answers.into_inner();
        answers.message().await.unwrap().expect("it is welcome");
        let files = CoordinatorClient::new(connect(address).await);
        let caller = Caller::worker(id, run).into();
        Self { _control: (messages, answers), files, caller }
    }
}

/// Without sharing, 64 copies of a state of 6 MB, each read and sent, would take 800 MB.
#[tokio::test]
async fn sixty_four_workers_that_resume_at_once_share_one_checkpoint() {
    let folder = tempdir().unwrap();
    let here = folder.path();
    let dcgan = "--batch-size 128 --shards 64";
    {
        let _cores = all_cores();
        local(here, &format!("--workers 1 --steps 1 {dcgan}"));
    }
    let run = run_dir::read_run_file(&RunPaths::new(here.join("run"))).unwrap().unwrap();
    let fingerprint = run.fingerprint.unwrap();
    let coordinator = Coordinator::start(here, &format!("--workers 64 --steps 2 {dcgan}"));

    // All of them ask, and none reads.
    let mut newcomers = Vec::new();
    let mut answers = Vec::new();
    for number in 0..64 {
        let mut newcomer =
            Newcomer::join(&coordinator.address, number, run.run, &fingerprint).await;
        let caller = Some(newcomer.caller.clone());
        let request = pb::GetCheckpointRequest { step: 1, caller };
        answers.push(newcomer.files.get_checkpoint(request).await.unwrap().into_inner());
        newcomers.push(newcomer);
    }
    // Then all read.
    let mut received = tokio::task::JoinSet::new();
    for answer in answers {
        received.spawn(transfer::receive(answer, 64 << 20));
    }
    let files: Vec<Vec<u8>> = received.join_all().await.into_iter().map(Result::unwrap).collect();
    assert!(files.iter().all(|file| file.len() > 5_000_000 && *file == files[0]));
    let peak = coordinator.process.peak_memory();
    println!("64 workers copied {} bytes each; peak {} MiB", files[0].len(), peak >> 20);
    assert!(peak < 256 << 20, "the coordinator took {} MiB", peak >> 20);

    // A worker sends no snapshot that it was not asked for, and a stranger fetches nothing.
    let Newcomer { mut files, caller, .. } = newcomers.remove(0);
    let chunk = transfer::split(vec![0; 8].into(), Digest(0)).next();
    let unasked = pb::PutSnapshotRequest { step: 1, chunk, caller: Some(caller) };
    let refusal = files.put_snapshot(tokio_stream::once(unasked)).await.unwrap_err();
    assert_eq!(refusal.code(), Code::FailedPrecondition);
    assert_names(refusal.message(), &["newcomer-0 was not asked for the snapshot of step 1"]);
    let stranger = WorkerId { name: "stranger".to_owned(), incarnation: 1 };
    let caller = Some(Caller::worker(stranger, run.run).into());
    let request = pb::GetCheckpointRequest { step: 1, caller };
    let refusal = files.get_checkpoint(request).await.unwrap_err();
    assert_names(refusal.message(), &["worker stranger has no control stream here"]);
}
