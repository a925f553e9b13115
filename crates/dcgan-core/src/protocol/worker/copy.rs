//! Copies of a state: asking for the start state of a plan, and serving copies to others.

use std::sync::Arc;
use std::time::Duration;

use super::{Command, CopySource, StateCopy, WorkerMachine};
use crate::ids::{Generation, Rank};
use crate::protocol::message::{Complaint, FromWorker};
use crate::protocol::plan::{Plan, StateRef};

/// The pause before the holders are asked again, after all of them have failed to provide a copy.
const COPY_PAUSE: Duration = Duration::from_millis(250);

/// A source that has not sent the whole copy in this time counts as one that has failed. A state
/// has 6 MB, which take a second on a slow network. A copy that arrives later is used all the same.
const COPY_MAX: Duration = Duration::from_secs(30);

/// The copy of the start state that a worker waits for.
pub(super) struct CopyInProgress {
    pub(super) source: CopySource,
    /// The number of sources that have failed so far.
    attempt: usize,
    /// The request to the source, made or still due.
    request: Request,
}

/// The time of a request for a copy.
enum Request {
    /// The source is to be asked at this time.
    Due(Duration),
    /// The source was asked at this time.
    Made(Duration),
}

impl WorkerMachine {
    /// Asks the next source for the start state of the plan. The worker's own state is kept until a
    /// copy has arrived and been verified.
    pub(super) fn request_copy(&mut self, plan: Arc<Plan>, rank: Rank, attempt: usize) {
        let holders = other_holders(&plan, rank);
        // Each rank begins with another holder, so that new members do not all ask the same one.
        let source = match holders.len() {
            0 => CopySource::Coordinator,
            count => CopySource::Member(holders[(usize::from(rank.0) + attempt) % count]),
        };

        // After a round in which every source has failed, complain, and pause before the next
        // round.
        let is_new_round = attempt > 0 && attempt.is_multiple_of(holders.len().max(1));
        if is_new_round {
            let request = Request::Due(self.now + COPY_PAUSE);
            self.copying = Some(CopyInProgress { source, attempt, request });
            self.complain(Complaint::CopyFailed);
        } else {
            let request = Request::Made(self.now);
            self.copying = Some(CopyInProgress { source, attempt, request });
            self.commands.push(Command::Copy(plan, source));
        }
    }

    /// Sends the request for a copy whose pause is over, and gives up one that takes too long.
    pub(super) fn watch_copy(&mut self) {
        let (Some((plan, rank)), Some(copying)) = (&self.plan, &mut self.copying) else {
            return;
        };
        let (plan, rank) = (Arc::clone(plan), *rank);
        match copying.request {
            Request::Due(at) if self.now >= at => {
                copying.request = Request::Made(self.now);
                self.commands.push(Command::Copy(plan, copying.source));
            }
            Request::Made(at) if self.now >= at + COPY_MAX => {
                let attempt = copying.attempt + 1;
                self.request_copy(plan, rank, attempt);
            }
            Request::Due(_) | Request::Made(_) => {}
        }
    }

    /// Receives a copy, and begins to train from it. `None` means that the source has failed.
    pub(super) fn on_copy(&mut self, generation: Generation, copy: Option<StateCopy>) {
        let (Some((plan, rank)), Some(copying)) = (self.plan.clone(), &self.copying) else {
            return;
        };
        if generation != plan.generation {
            return;
        }

        // Verify the copy. Without an intact one, ask the next source.
        let Some(StateCopy { state, reports }) = verified(copy, &plan.start) else {
            let attempt = copying.attempt + 1;
            return self.request_copy(plan, rank, attempt);
        };
        self.copying = None;
        // A complaint for another reason, such as a broken stream, still holds.
        if self.complaint == Some(Complaint::CopyFailed) {
            self.complaint = None;
        }

        // Tell people if this worker had computed other bits than its peers.
        if self.at.position == plan.start.position
            && let Some(tensor) = self.state.first_difference(&state)
        {
            let (position, tensor) = (self.at.position, tensor.to_owned());
            self.report(FromWorker::StateDiffered { position, tensor });
        }

        // Adopt the state, with the reports and the snapshot that its donor had.
        self.replace_state(state, StateRef { generation, ..plan.start });
        for done in reports {
            // A report that cannot be true is not repeated.
            if self.is_possible_report(&plan, &done) {
                self.retained.keep_report(done);
            }
        }
        self.report_retained_steps();
        self.report(FromWorker::Copied(generation));
        if self.at.position.is_step_boundary() {
            self.keep_snapshot();
        }
        self.begin_phase();
    }

    /// Answers another worker's request for a copy of the state `wanted`, or of any.
    pub(super) fn serve_copy(&mut self, wanted: Option<StateRef>, token: u64) {
        let is_wanted = wanted.is_none_or(|wanted| self.at.is_same_state(&wanted));
        let command = if is_wanted && self.verify_or_discard_state(self.state.all()) {
            let offered = Some((self.at, Arc::clone(&self.state)));
            Command::Serve(token, offered, self.retained.reports())
        } else {
            Command::Serve(token, None, Vec::new())
        };
        self.commands.push(command);
    }
}

/// The members of the plan, besides this one, that hold its start state.
fn other_holders(plan: &Plan, me: Rank) -> Vec<Rank> {
    let mut holders = Vec::new();
    for (rank, member) in plan.ranks().zip(plan.members()) {
        if rank != me && member.holds_start {
            holders.push(rank);
        }
    }
    holders
}

/// The copy, if there is one and its bytes are those of the start state.
fn verified(copy: Option<StateCopy>, start: &StateRef) -> Option<StateCopy> {
    let mut copy = copy?;
    if copy.state.digest() == start.digest { Some(copy) } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::plan::fixture;

    #[test]
    fn copies_come_from_the_other_members_that_hold_the_start_state() {
        // In the fixture, the member with rank 2 does not hold it.
        let plan = fixture::plan(8, &[0, 0, 0, 1, 1, 1, 2, 2]);
        assert_eq!(other_holders(&plan, Rank(0)), [Rank(1)]);
        assert_eq!(other_holders(&plan, Rank(2)), [Rank(0), Rank(1)]);
    }
}
