//! Executes the commands of the machine, in their order.

use std::sync::Arc;

use dcgan_core::ids::{ShardId, Step};
use dcgan_core::metrics::MetricsRow;
use dcgan_core::protocol::coordinator::{Command, ConnId, SavedCheckpoint};
use dcgan_core::protocol::message::{Refusal, ToWorker};
use dcgan_core::protocol::plan::Plan;
use dcgan_process::fault;
use dcgan_rpc::{CoordinatorMessage, Welcome};

use super::Driver;
use super::failing_disk::FailingDisk;
use crate::console::CONSOLE;
use crate::notices;

impl Driver {
    /// Executes the pending commands until one fails or the machine exits.
    ///
    /// A write that fails stays in the queue with everything behind it, and is repeated later. The
    /// workers train on meanwhile: a full disk stops no training.
    pub(super) fn execute_pending(&mut self) {
        while let Some(command) = self.pending.pop_front() {
            if let Command::Exit(outcome) = command {
                self.outcome = Some(outcome);
                return;
            }
            if let Err(error) = self.execute(&command) {
                self.pending.push_front(command);
                let now = self.start.elapsed();
                self.failing_disk.get_or_insert_with(|| FailingDisk::new(now)).failed(now, &error);
                return;
            }
        }
        if let Some(disk) = self.failing_disk.take() {
            disk.recovered(self.start.elapsed());
        }
    }

    /// Executes a command, and twice if a test asked for that.
    fn execute(&mut self, command: &Command) -> anyhow::Result<()> {
        if fault::pass(fault_point(command)) {
            self.execute_once(command)?;
        }
        self.execute_once(command)
    }

    fn execute_once(&mut self, command: &Command) -> anyhow::Result<()> {
        match command {
            Command::Welcome(conn, likely_shards) => self.welcome(*conn, likely_shards),
            Command::Refuse(conn, refusal) => self.refuse(*conn, refusal),
            Command::Send(conn, message) => self.send_message(*conn, message),
            Command::Close(conn) => self.close(*conn),
            Command::StorePlan(plan, fingerprint) => self.store_plan(plan, fingerprint)?,
            Command::AppendRow(row) => self.append_row(row)?,
            Command::SaveCheckpoint { saved, bytes } => self.save_checkpoint(saved, bytes)?,
            Command::SavePendingGrid { step, bytes } => self.save_pending_grid(*step, bytes)?,
            Command::Notice(notice) => notices::log(notice),
            // The caller has returned already.
            Command::Exit(_) => {}
        }
        Ok(())
    }

    fn welcome(&mut self, conn: ConnId, likely_shards: &[ShardId]) {
        let welcome = Welcome {
            run: self.recorder.run().run,
            spec: self.config.spec.clone(),
            schedule: self.config.schedule,
            likely_shards: likely_shards.to_vec(),
        };
        self.send(conn, CoordinatorMessage::Welcome(welcome));
    }

    fn refuse(&mut self, conn: ConnId, refusal: &Refusal) {
        tracing::warn!(event = "worker_refused", "a worker was refused: {refusal}");
        self.send(conn, CoordinatorMessage::Refused(refusal.to_string()));
        self.close(conn);
    }

    fn send_message(&mut self, conn: ConnId, message: &ToWorker) {
        if let ToWorker::Plan(plan) = message {
            tracing::debug!(event = "plan_sent", conn = conn.0, "{plan}");
        }
        self.send(conn, CoordinatorMessage::Message(message.clone()));
    }

    /// Sends a message without waiting.
    pub(super) fn send(&mut self, conn: ConnId, message: CoordinatorMessage) {
        let Some(sender) = self.workers.get(&conn) else {
            return;
        };
        // A worker that does not read its messages cannot follow the run. It learns that it is
        // dropped because its stream ends.
        if sender.try_send(Ok(message.into())).is_err() {
            self.close(conn);
        }
    }

    /// Ends a worker's stream.
    fn close(&mut self, conn: ConnId) {
        self.workers.remove(&conn);
    }

    fn store_plan(&mut self, plan: &Arc<Plan>, fingerprint: &str) -> anyhow::Result<()> {
        self.recorder.store_plan(plan, fingerprint)
    }

    fn append_row(&mut self, row: &MetricsRow) -> anyhow::Result<()> {
        self.recorder.append_row(row)?;
        let last_step = self.config.schedule.last_step;
        CONSOLE.print_row(row, self.config.spec.sharding().epoch(last_step), last_step);
        Ok(())
    }

    fn save_checkpoint(&mut self, saved: &SavedCheckpoint, bytes: &[u8]) -> anyhow::Result<()> {
        self.recorder.save_checkpoint(saved.clone(), bytes)?;
        let SavedCheckpoint { step, digest, .. } = saved;
        tracing::info!(
            event = "checkpoint_saved",
            step,
            %digest,
            "checkpoint of step {step} saved, digest {digest}"
        );
        Ok(())
    }

    fn save_pending_grid(&mut self, step: Step, state: &[u8]) -> anyhow::Result<()> {
        self.recorder.save_pending_grid(step, state)?;
        self.ask_for_grids();
        Ok(())
    }
}

/// The name by which `--fault` refers to the execution of a command.
fn fault_point(command: &Command) -> &'static str {
    match command {
        Command::Welcome(..) => "welcome",
        Command::Send(_, ToWorker::Fence(_)) => "send-fence",
        Command::Send(_, ToWorker::Plan(_)) => "send-plan",
        Command::Send(_, ToWorker::Persisted(_)) => "send-persisted",
        Command::Send(_, ToWorker::RequestSnapshot(_)) => "request-snapshot",
        Command::StorePlan(..) => "store-plan",
        Command::AppendRow(_) => "append-row",
        Command::SaveCheckpoint { .. } => "save-checkpoint",
        _ => "other",
    }
}
