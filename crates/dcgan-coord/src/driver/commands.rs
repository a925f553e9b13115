//! Executes the commands of the machine, in their order. None of them waits for anything.

use dcgan_core::ids::ShardId;
use dcgan_core::protocol::coordinator::{Command, ConnId};
use dcgan_core::protocol::message::{Refusal, ToWorker};
use dcgan_process::fault;
use dcgan_rpc::{CoordinatorMessage, Throttle, Welcome};
use tonic::Status;

use super::Driver;
use crate::notices;
use crate::writer::Job;

impl Driver {
    /// Executes a command, and twice if a test asked for that.
    pub(super) fn execute(&mut self, command: Command) {
        if let Some(point) = fault_point(&command)
            && fault::pass(point)
        {
            self.execute_once(command.clone());
        }
        self.execute_once(command);
    }

    fn execute_once(&mut self, command: Command) {
        match command {
            Command::Welcome(conn, likely_shards) => self.welcome(conn, &likely_shards),
            Command::Refuse(conn, refusal) => self.refuse(conn, &refusal),
            Command::TurnAway(conn, why) => self.turn_away(conn, why),
            Command::Send(conn, message) => self.send_message(conn, message),
            Command::Close(conn) => self.close(conn),
            Command::Write(write) => self.submit(Job::Machine(write)),
            Command::Notice(notice) => notices::log(&notice),
            Command::Exit(outcome) => self.outcome = Some(outcome),
        }
    }

    fn welcome(&mut self, conn: ConnId, likely_shards: &[ShardId]) {
        let welcome = Welcome {
            run: self.run,
            spec: self.config.spec.clone(),
            schedule: self.config.schedule,
            likely_shards: likely_shards.to_vec(),
        };
        self.send(conn, CoordinatorMessage::Welcome(Box::new(welcome)));
    }

    fn refuse(&mut self, conn: ConnId, refusal: &Refusal) {
        static THROTTLE: Throttle = Throttle::new();
        if let Some(more) = THROTTLE.pass() {
            tracing::warn!(
                event = "worker_refused",
                more,
                "a worker was refused: {refusal} ({more} more were refused)"
            );
        }
        self.send(conn, CoordinatorMessage::Refused(refusal.to_string()));
        self.close(conn);
    }

    /// Ends a worker's stream with the reason as its status: the worker logs it, and tries again.
    fn turn_away(&mut self, conn: ConnId, why: String) {
        tracing::debug!(event = "worker_turned_away", conn = conn.0, "turned away: {why}");
        if let Some(sender) = self.workers.get(&conn) {
            // A worker that does not read its stream learns only that it has ended.
            let _ = sender.sender.try_send(Err(Status::failed_precondition(why)));
        }
        self.close(conn);
    }

    fn send_message(&mut self, conn: ConnId, message: ToWorker) {
        match &message {
            ToWorker::Plan(plan) => {
                tracing::debug!(event = "plan_sent", conn = conn.0, "{plan}");
            }
            ToWorker::RequestSnapshot(step) => self.served_workers.request_snapshot(conn, *step),
            _ => {}
        }
        self.send(conn, CoordinatorMessage::Message(message));
    }

    /// Sends a message without waiting.
    pub(super) fn send(&mut self, conn: ConnId, message: CoordinatorMessage) {
        let Some(link) = self.workers.get(&conn) else {
            return;
        };
        // A worker that does not read its messages cannot follow the run. It learns that it is
        // dropped because its stream ends.
        if link.sender.try_send(Ok(message.into())).is_err() {
            self.close(conn);
        }
    }

    /// Ends a worker's stream.
    fn close(&mut self, conn: ConnId) {
        self.workers.remove(&conn);
    }
}

/// The name by which `--fault` refers to the execution of a command. The writer has points of its
/// own.
fn fault_point(command: &Command) -> Option<&'static str> {
    match command {
        Command::Welcome(..) => Some("welcome"),
        Command::Send(_, ToWorker::Fence(_)) => Some("send-fence"),
        Command::Send(_, ToWorker::Plan(_)) => Some("send-plan"),
        Command::Send(_, ToWorker::Persisted(_)) => Some("send-persisted"),
        Command::Send(_, ToWorker::RequestSnapshot(_)) => Some("request-snapshot"),
        _ => None,
    }
}
