//! The service for people. The log says who has changed the run.

use dcgan_core::ids::WorkerId;
use dcgan_core::protocol::coordinator::Event;
use dcgan_rpc::net::OpenRequest;
use dcgan_rpc::pb;
use dcgan_rpc::pb::admin_server::Admin;
use tokio::sync::{mpsc, oneshot};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

use super::{Service, ending};
use crate::input::Input;

/// Sentences that wait for a person who has asked for the end. The next ones are left out while as
/// many wait, except the last.
const PROGRESS_MAX: usize = 16;

#[tonic::async_trait]
impl Admin for Service {
    async fn get_status(
        &self,
        request: Request<pb::GetStatusRequest>,
    ) -> Result<Response<pb::Status>, Status> {
        // A tool that only looks need not say who it is.
        if let Some(caller) = request.into_inner().caller {
            self.receive(Some(caller))?;
        }
        let (reply, status) = oneshot::channel();
        self.send(Input::StatusRequested(reply)).await?;
        let status = status.await.map_err(|_| ending())?;
        Ok(Response::new(status))
    }

    async fn take_checkpoint(
        &self,
        request: Request<pb::TakeCheckpointRequest>,
    ) -> Result<Response<pb::TakeCheckpointResponse>, Status> {
        let who = self.receive(request.into_inner().caller)?;
        tracing::info!(event = "checkpoint_requested", by = %who, "{who} asks for a checkpoint");
        self.send(Input::Machine(Event::Checkpoint)).await?;
        Ok(Response::new(pb::TakeCheckpointResponse {}))
    }

    async fn drain(
        &self,
        request: Request<pb::DrainRequest>,
    ) -> Result<Response<pb::DrainResponse>, Status> {
        let pb::DrainRequest { caller, name } = request.into_inner();
        let who = self.receive(caller)?;
        // Whatever is not a name has no place in the log.
        if !WorkerId::is_name(&name) {
            return Err(Status::invalid_argument("no worker has such a name"));
        }
        let (reply, answer) = oneshot::channel();
        self.send(Input::DrainRequested { by: who.to_string(), name, reply }).await?;
        let answer = answer.await.map_err(|_| ending())?;
        answer.map_err(Status::failed_precondition)?;
        Ok(Response::new(pb::DrainResponse {}))
    }

    type StopStream = ReceiverStream<Result<pb::StopProgress, Status>>;

    async fn stop(
        &self,
        request: Request<pb::StopRequest>,
    ) -> Result<Response<Self::StopStream>, Status> {
        let open = OpenRequest::of(&request);
        let who = self.receive(request.into_inner().caller)?;
        // An end may wait long for the disk.
        open.keep();
        tracing::info!(event = "stop_requested", by = %who, "{who} asks for the end of the run");
        let (watcher, progress) = mpsc::channel(PROGRESS_MAX);
        self.send(Input::StopRequested { by: who.to_string(), watcher }).await?;
        Ok(Response::new(ReceiverStream::new(progress)))
    }
}
