//! Complaints: a member says what keeps it from going on, and a new generation follows.

use super::{CoordinatorMachine, Departure, Failure, Notice, Stage};
use crate::ids::{Generation, Rank, ShardId, WorkerId};
use crate::protocol::message::{Complaint, FailedShards};
use crate::protocol::plan::Plan;

/// How soon a new generation follows a complaint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Urgency {
    /// At once: under another plan the same complaint cannot come again.
    AtOnce,
    /// After a pause, unless a step was finished in between: the trouble may last.
    AfterPause,
}

impl CoordinatorMachine {
    /// Takes a complaint about a generation.
    ///
    /// # Errors
    /// If the complaint shows that the training has diverged.
    pub(super) fn on_complaint(
        &mut self,
        by: &WorkerId,
        generation: Generation,
        complaint: Complaint,
    ) -> Result<(), Failure> {
        // A complaint about an older generation is answered already.
        let Some(plan) = self.plan.clone().filter(|plan| plan.generation == generation) else {
            return Ok(());
        };
        let (about, urgency) = match complaint {
            Complaint::StateMismatch { peer, position, mine, theirs } => {
                let peer = name_of(&plan, peer).unwrap_or_default();
                let about = format!(
                    "its state at {position} has digest {mine}, that of worker {peer} has {theirs}"
                );
                (about, Urgency::AfterPause)
            }
            Complaint::StreamBroken(peer) => {
                let Some(name) = name_of(&plan, peer) else {
                    return Ok(());
                };
                if let Some(worker) = self.registry.workers.get_mut(name) {
                    worker.data_closed = true;
                }
                self.reachability.record_broken_stream(&plan, by, peer);
                (format!("it lost its connection to worker {name}"), Urgency::AfterPause)
            }
            Complaint::Timeout(peer) => {
                let Some(name) = name_of(&plan, peer) else {
                    return Ok(());
                };
                if matches!(self.stage, Stage::Training { .. }) {
                    self.remove_worker(name, Departure::Late);
                }
                (format!("it waited too long for worker {name}"), Urgency::AfterPause)
            }
            Complaint::CopyFailed => {
                let about = "it cannot copy the state that the plan starts from".to_owned();
                (about, Urgency::AfterPause)
            }
            Complaint::StateCorrupted(tensor) => {
                (format!("a bit of {tensor} has changed in its memory"), Urgency::AtOnce)
            }
            Complaint::ShardsFailed(failed) => {
                let FailedShards { position, shards, what } = &failed;
                let list: Vec<String> = shards.iter().map(ShardId::to_string).collect();
                let list = list.join(", ");
                let about =
                    format!("it cannot use the vectors of shards {list} at {position}: {what}");
                self.on_failed_shards(by, &plan, failed)?;
                (about, Urgency::AtOnce)
            }
        };
        self.request_new_generation(&by.name, about, urgency);
        Ok(())
    }

    /// Starts a fence because of a complaint, at once or as soon as it may be.
    pub(super) fn request_new_generation(&mut self, by: &str, about: String, urgency: Urgency) {
        let why = format!("worker {by}: {about}");
        match &mut self.stage {
            Stage::Training { has_complaint, .. } => {
                // One notice a generation: all members complain when one is lost.
                let is_first = !*has_complaint;
                *has_complaint = true;
                if is_first {
                    self.notify(Notice::Complaint { by: by.to_owned(), about });
                }
                if urgency == Urgency::AtOnce {
                    self.enter_fencing(&why);
                }
            }
            Stage::Gathering { .. } => self.enter_fencing(&why),
            // A new generation is on its way, or none is needed any more.
            Stage::Fencing { .. }
            | Stage::Storing { .. }
            | Stage::Saving { .. }
            | Stage::Finishing { .. }
            | Stage::Done => {}
        }
    }
}

/// The name of the member of a rank.
fn name_of(plan: &Plan, rank: Rank) -> Option<&str> {
    plan.member(rank).map(|member| member.id.name.as_str())
}
