//! The services: who may find what where, whom they refuse, and in which words.

use dcgan_core::ids::{Generation, WorkerId};
use dcgan_core::protocol::message::{Hello, PROTOCOL};
use dcgan_rpc::pb::admin_client::AdminClient;
use dcgan_rpc::pb::coordinator_client::CoordinatorClient;
use dcgan_rpc::{WorkerMessage, pb};
use tempfile::tempdir;
use tokio::sync::mpsc;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;
use tonic::{Code, Status};
use tonic_health::pb::health_client::HealthClient;
use tonic_health::pb::{HealthCheckRequest, health_check_response::ServingStatus};

use crate::process::assert_names;
use crate::run::Coordinator;

const TOY: &str = "--objective toy --workers 1 --steps 1000000000";

/// Connects to the server at `http://host:port`.
pub(crate) async fn connect(address: &str) -> Channel {
    Channel::from_shared(address.to_owned()).unwrap().connect().await.unwrap()
}

/// Checks that a server offers exactly these services, and answers health checks of each.
pub(crate) async fn check_services(channel: &Channel, expected: &[&str]) {
    for &name in expected {
        let request = HealthCheckRequest { service: name.to_owned() };
        // A worker serves as soon as it belongs to the run.
        let mut states =
            HealthClient::new(channel.clone()).watch(request).await.unwrap().into_inner();
        while states.next().await.unwrap().unwrap().status() != ServingStatus::Serving {}
    }
    let mut names = [expected, &["grpc.health.v1.Health"]].concat();
    names.sort_unstable();
    for services in [services_v1(channel.clone()).await, services_v1alpha(channel.clone()).await] {
        assert_eq!(services, names);
    }
}

macro_rules! services {
    ($name:ident, $version:ident) => {
        /// Asks for the services with this version of the reflection protocol.
        async fn $name(channel: Channel) -> Vec<String> {
            use tonic_reflection::pb::$version::ServerReflectionRequest;
            use tonic_reflection::pb::$version::server_reflection_client::ServerReflectionClient;
            use tonic_reflection::pb::$version::server_reflection_request::MessageRequest;
            use tonic_reflection::pb::$version::server_reflection_response::MessageResponse;
            let message_request = Some(MessageRequest::ListServices(String::new()));
            let request = ServerReflectionRequest { host: String::new(), message_request };
            let mut client = ServerReflectionClient::new(channel);
            let answers = client.server_reflection_info(tokio_stream::once(request)).await.unwrap();
            let answer = answers.into_inner().next().await.unwrap().unwrap();
            let Some(MessageResponse::ListServicesResponse(list)) = answer.message_response else {
                panic!("expected a list, found {answer:?}");
            };
            let mut names: Vec<String> =
                list.service.into_iter().map(|service| service.name).collect();
            names.sort();
            names
        }
    };
}

services!(services_v1, v1);
services!(services_v1alpha, v1alpha);

#[tokio::test]
async fn every_audience_has_a_service_of_its_own() {
    let folder = tempdir().unwrap();
    let coordinator = Coordinator::start(folder.path(), TOY);
    let worker = coordinator.worker(folder.path(), "--name w");
    let expected = ["dcgan.v1.Coordinator", "dcgan.v1.Feed", "dcgan.v1.Admin"];
    check_services(&connect(&coordinator.address).await, &expected).await;
    let listening = worker.wait_for_event("worker_started", &[]).field("listening").to_owned();
    check_services(&connect(&format!("http://{listening}")).await, &["dcgan.v1.Collective"]).await;
}

fn caller(run: u64, who: pb::caller::Who) -> Option<pb::Caller> {
    Some(pb::Caller { run: Some(run), who: Some(who) })
}

fn assert_refused(status: &Status, who: &str, run: u64) {
    assert_eq!(status.code(), Code::FailedPrecondition, "{status}");
    let expected =
        format!("the request of {who} is for run {:016x}, and this is run {run:016x}", 1);
    assert_eq!(status.message(), expected);
}

#[tokio::test]
async fn a_request_for_another_run_is_refused() {
    let folder = tempdir().unwrap();
    let coordinator = Coordinator::start(folder.path(), TOY);
    let channel = connect(&coordinator.address).await;
    let mut admin = AdminClient::new(channel.clone());
    let run = admin.get_status(pb::GetStatusRequest::default()).await.unwrap().into_inner().run;

    let person = || caller(1, pb::caller::Who::Person("ada@engine".to_owned()));
    let status = admin.get_status(pb::GetStatusRequest { caller: person() }).await.unwrap_err();
    assert_refused(&status, "ada@engine", run);
    coordinator.process.wait_for_event("request_refused", &[("why", status.message())]);
    let status = admin.stop(pb::StopRequest { caller: person() }).await.unwrap_err();
    assert_refused(&status, "ada@engine", run);
    let id = pb::WorkerId { name: "lost".to_owned(), incarnation: 1 };
    let worker = caller(1, pb::caller::Who::Worker(id));
    let request = pb::GetCheckpointRequest { step: 0, caller: worker };
    let status = CoordinatorClient::new(channel).get_checkpoint(request).await.unwrap_err();
    assert_refused(&status, "worker lost", run);

    // Whoever changes the run says who it is.
    let nobody = admin.stop(pb::StopRequest { caller: None }).await.unwrap_err();
    assert_eq!(nobody.code(), Code::InvalidArgument);
    assert_names(nobody.message(), &["does not say who sends it"]);
    admin.get_status(pb::GetStatusRequest::default()).await.unwrap();
}

#[tokio::test]
async fn a_worker_that_is_refused_is_not_read_any_more() {
    let folder = tempdir().unwrap();
    let coordinator = Coordinator::start(folder.path(), TOY);
    let id = WorkerId { name: "old".to_owned(), incarnation: 1 };
    let hello = Hello {
        run: None,
        id,
        protocol: PROTOCOL - 1,
        fingerprint: String::new(),
        address: "127.0.0.1:1".to_owned(),
        plan: Generation(0),
        promised: Generation(0),
    };
    let (sender, queued) = mpsc::channel(1);
    sender.send(WorkerMessage::Hello(hello).into()).await.unwrap();
    let mut client = CoordinatorClient::new(connect(&coordinator.address).await);
    let requests = ReceiverStream::new(queued);
    let mut answers = client.control(requests).await.unwrap().into_inner();
    while let Ok(Some(_)) = answers.message().await {}
    // Nobody takes what it says now.
    sender.closed().await;
}
