//! Complaints: a member says what keeps it from going on, and a new generation follows.

use std::time::Duration;

use super::registry::WorkerEntry;
use super::{CoordinatorMachine, Failure, Notice, Stage};
use crate::ids::{Generation, Rank, ShardId, WorkerId};
use crate::protocol::message::{Complaint, FailedShards};
use crate::protocol::plan::Plan;
use crate::words::worker;

/// A member cannot have waited too long for another one if the last step was finished, or the plan
/// began, a shorter time ago than this. The shortest deadline of a worker is 20 s.
const LATE_CLAIM_MIN: Duration = Duration::from_secs(19);

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
        // One that waits outside has said what it had to say.
        if !self.trials.is_fit(by) {
            return Ok(());
        }
        let (about, urgency) = match complaint {
            Complaint::StateMismatch { peer: rank, position, mine, theirs } => {
                let peer = name_of(&plan, rank).unwrap_or_default();
                let peer = worker(peer);
                let about = format!(
                    "its state at {position} has digest {mine}, that of {peer} has {theirs}"
                );
                self.accuse(by, &plan, &[rank], &about);
                (about, Urgency::AfterPause)
            }
            Complaint::StreamBroken(peer) => {
                let Some(name) = name_of(&plan, peer) else {
                    return Ok(());
                };
                if let Some(entry) = self.registry.workers.get_mut(name) {
                    entry.data_closed = true;
                }
                let about = format!("it lost its connection to {}", worker(name));
                self.accuse(by, &plan, &[peer], &about);
                (about, Urgency::AfterPause)
            }
            Complaint::Timeout(peer) => {
                let Some(name) = name_of(&plan, peer) else {
                    return Ok(());
                };
                let about = format!("it waited too long for {}", worker(name));
                if !self.on_late_member(by, &plan, peer, &about) {
                    return Ok(());
                }
                (about, Urgency::AfterPause)
            }
            Complaint::CopyFailed => {
                let about = "it cannot copy the state that the plan starts from".to_owned();
                let holders: Vec<Rank> = plan
                    .ranks()
                    .filter(|&rank| plan.rank_of(by) != Some(rank))
                    .filter(|&rank| plan.member(rank).is_some_and(|member| member.holds_start))
                    .collect();
                // Of one that gives no copy and one that takes none, the latter is more likely to
                // be at fault: the former has shown that it can train.
                for holder in holders.iter().filter_map(|&rank| plan.member(rank)) {
                    let why = format!("{} gets no copy of its state", worker(&by.name));
                    self.progress.accuse(&holder.id, by, &why);
                }
                (about, Urgency::AfterPause)
            }
            Complaint::StateCorrupted(tensor) => {
                let about = format!("a bit of {tensor} has changed in its memory");
                // Once may be chance. A memory that fails again and again must not keep the others
                // from going on.
                let is_first = !self.progress.is_fruitless();
                if !is_first {
                    let own: Vec<Rank> = plan.rank_of(by).into_iter().collect();
                    self.accuse(by, &plan, &own, &about);
                }
                let urgency = if is_first { Urgency::AtOnce } else { Urgency::AfterPause };
                if is_first && matches!(self.stage, Stage::Training { has_progress: false, .. }) {
                    self.progress.add_fruitless();
                }
                (about, urgency)
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

    /// Records what a member says of others, or of itself, for the case that no step is finished.
    fn accuse(&mut self, by: &WorkerId, plan: &Plan, about: &[Rank], why: &str) {
        for member in about.iter().filter_map(|&rank| plan.member(rank)) {
            self.progress.accuse(by, &member.id, why);
        }
    }

    /// Takes a member's complaint that another one is late. The one to remove is chosen when all
    /// have answered the fence, and have said for whom they wait. Returns whether the complaint is
    /// true as far as the coordinator can see.
    fn on_late_member(&mut self, by: &WorkerId, plan: &Plan, late: Rank, about: &str) -> bool {
        let Some(member) = plan.member(late) else {
            return false;
        };
        // One that has answered a later fence may contribute nothing more, whatever became of the
        // coordinator that opened it.
        let has_left = |worker: &WorkerEntry| worker.has_promised_after(plan.generation);
        if self.progress.waited(self.now) < LATE_CLAIM_MIN
            || self.registry.by_id(&member.id).is_some_and(has_left)
        {
            return false;
        }
        self.accuse(by, plan, &[late], about);
        self.progress.note_late(&member.id);
        true
    }

    /// Starts a fence because of a complaint, at once or as soon as it may be.
    pub(super) fn request_new_generation(&mut self, by: &str, about: String, urgency: Urgency) {
        let why = format!("{}: {about}", worker(by));
        if matches!(self.stage, Stage::Training { .. }) {
            self.recoveries.on_complaint(&why);
        }
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
