//! Strangers that take what they can get: connections, streams, time. A run does not feel them.

use std::fs;
use std::io::Read;
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use dcgan_rpc::pb::feed_client::FeedClient;
use dcgan_rpc::{Caller, Checksummed, Who, pb};
use tempfile::tempdir;
use tonic::Code;

use crate::process::{COORD, Process, SAMPLER, assert_names};
use crate::run::{Coordinator, last_digest, local};
use crate::sampling::get;
use crate::services::connect;

/// A run of the toy that strangers disturb, long enough for another worker to join.
const TOY: &str = "--objective toy --log-every 500 --checkpoint-every 5000 --steps 30000";
/// More than a usual limit of open files.
const IDLE: usize = 1100;

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
    let coordinator = Coordinator::start(here, &format!("--workers 1 {TOY}"));
    let idle = idle_connections(&coordinator.address, IDLE);

    // A worker comes when all places are taken, and then its port is crowded, too.
    let first = coordinator.worker(here, "--name first");
    let listening = first.wait_for_event("worker_started", &[]).field("listening").to_owned();
    let more_idle = idle_connections(&listening, IDLE);
    coordinator.process.wait_for_event("plan", &[("generation", "1")]);
    let second = coordinator.worker(here, "--name second");
    coordinator.process.wait_for_event("worker_ready", &[("worker", "second")]);

    // The sampler shows its page to somebody who asks for it.
    let follow = format!(
        "serve --coordinator {} --http 127.0.0.1:0 --grpc 127.0.0.1:0",
        coordinator.address
    );
    let sampler = Process::start(SAMPLER, here, &follow);
    let page = sampler.wait_for_event("sampler_started", &[]).field("page").to_owned();
    let even_more_idle = idle_connections(&page, IDLE);
    assert!(String::from_utf8(get(&page, "/")).unwrap().contains("<img"));

    // Each server says whose connections it closes, and not a thousand times.
    for (process, connections) in
        [(&coordinator.process, idle), (&first, more_idle), (&sampler, even_more_idle)]
    {
        wait_until_closed(connections);
        process.wait_for_event("connection_closed", &[]);
        assert!(process.text().matches("connection_closed").count() < 20, "{}", process.text());
    }
    let ended = coordinator.process.expect(0);
    assert!(!ended.text.contains("disk_waiting"), "{}", ended.text);
    first.expect(0);
    second.expect(0);
    let alone = tempdir().unwrap();
    assert_eq!(last_digest(here), local(alone.path(), &format!("--workers 1 {TOY}")));
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
        Coordinator::start_by(&with_few_files(here), here, &format!("--workers 1 {TOY}"));
    let idle = idle_connections(&coordinator.address, 500);
    let worker = coordinator.worker(here, "--name w");
    let ended = coordinator.process.expect(0);
    worker.expect(0);
    drop(idle);
    for event in ["disk_waiting", "accept_failed"] {
        assert!(!ended.text.contains(event), "{}", ended.text);
    }
    let alone = tempdir().unwrap();
    assert_eq!(last_digest(here), local(alone.path(), &format!("--workers 1 {TOY}")));
}

#[tokio::test]
async fn samplers_beyond_the_limit_are_refused_in_words() {
    let folder = tempdir().unwrap();
    let coordinator =
        Coordinator::start(folder.path(), "--workers 1 --objective toy --steps 1000000000");
    let who = Who::Sampler("greedy".to_owned());
    let caller = Some(Caller { run: None, who }.into());
    let following = pb::Following { page: "http://127.0.0.1:1".to_owned(), caller };
    let kind = Some(pb::follow_request::Kind::Following(following));
    let request = pb::FollowRequest { kind, checksum: 0 }.with_checksum();
    let mut client = FeedClient::new(connect(&coordinator.address).await);
    let mut followed = Vec::new();
    let refusal = loop {
        // The request stream stays open, as a sampler's does.
        let (requests, queued) = tokio::sync::mpsc::channel(1);
        requests.send(request.clone()).await.unwrap();
        let queued = tokio_stream::wrappers::ReceiverStream::new(queued);
        match client.follow(queued).await {
            Ok(stream) => followed.push((requests, stream)),
            Err(refusal) => break refusal,
        }
    };
    assert_eq!((followed.len(), refusal.code()), (8, Code::ResourceExhausted));
    assert_names(refusal.message(), &["8 samplers follow this run already"]);
}
