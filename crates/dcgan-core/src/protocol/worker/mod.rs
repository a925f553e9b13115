//! The state machine of a worker.
//!
//! A worker does not ask anybody before it finishes a step: it applies the sum of a phase as soon
//! as it has it, as every other member does. A coordinator that approved each step would cost a
//! round trip and be needed all the time. The members stay together because of the frames between
//! them: each names the generation, the position and the digest of the state that it was computed
//! from. So sums of different states are never mixed, and the frames of older generations are
//! dropped.
//!
//! The machine takes `(now, event)` and returns commands. It holds the state itself and updates it,
//! which takes a few milliseconds; gradients are computed on other threads and return as events.
//!
//! # Stages
//!
//! ```text
//!                               +---------+
//!          +------------------->| no plan |  also: a spare, without a shard
//!          |                    +----+----+
//!          |                         | plan
//!          |       has the start     |    has another state
//!          |       state   +---------+---------+
//!          |               |                   v
//!          |               |              +---------+  copy failed or damaged:
//!          |               |              | copying |  ask the next source
//!          |               |              +----+----+
//!          |               |<------------------+ copy verified
//!          |               v
//!          |          +-----------+
//!          |     +--->| computing |  own shards are with the compute threads
//!          |     |    +----+------+
//!          |     |         | all own shards contributed, own state verified
//!          |     |         v
//!          |     |    +----------+
//!          |     |    | reducing |  waits for bucket sums; complains after the deadline
//!          |     |    +----+-----+
//!          |     |         | sum complete
//!          |     |         v
//!          |     |    +---------+
//!          |     +----| applied |  optimizer step; after the last phase, report and snapshot
//!          |   next   +----+----+
//!          |   phase       | last step
//!          |               v
//!          |          +----------+
//!          |          | finished |  still serves copies and snapshots
//!          |          +----------+
//!          |
//!     +----+---+  A fence leads here from any stage. Computing goes on, but nothing is applied.
//!     | fenced |  The next plan leads to copying or computing, or to no plan if this worker is
//!     +--------+  not in it.
//! ```
//!
//! The stages are not an enum, because some overlap: a fenced worker may still compute or copy, for
//! instance. They follow from the fields of [`WorkerMachine`]: `plan` is empty (no plan),
//! `promised` is newer than the plan (fenced), `copying` is set, or `reduction` is set (computing,
//! and reducing once `contributed_at` is set).
//!
//! A worker that finds its own state damaged takes the initial state, complains, and waits for the
//! next plan, under which it copies an intact state.

mod claims;
mod computed;
mod copy;
mod deadline;
mod evaluation;
mod integrity;
mod interface;
mod retained;
mod session;
mod step;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use crate::evaluation::PartId;
use crate::ids::{Generation, Rank, ShardId, Step, WorkerId};
use crate::objective::Objective;
use crate::protocol::message::{Complaint, FromWorker};
use crate::protocol::plan::{Plan, StateRef};
use crate::spec::schedule::Schedule;
use crate::state::State;
use computed::{ComputedVectors, KEPT_BYTES_MAX};
use copy::CopyInProgress;
use deadline::StepTimer;
pub use deadline::TICK;
pub use interface::{Command, CopySource, Event, ReduceFrame, ShardResult, StateCopy, VectorKey};
use retained::Retained;
use step::{EarlyFrame, PhaseReduction};

/// The state machine of a worker.
pub struct WorkerMachine {
    objective: Arc<dyn Objective>,
    /// The number of shards of a batch.
    shards: u16,
    id: WorkerId,
    /// The schedule of the run; `None` until the coordinator has sent it.
    schedule: Option<Schedule>,
    /// The step that this worker may train through, in a run with early stopping.
    train_through: Option<Step>,
    /// True once the partitions of the likely shards are here.
    data_ready: bool,
    /// True once the process was told to stop: it waits until the coordinator releases it.
    leaving: bool,
    state: Arc<State>,
    /// The identity of `state`.
    at: StateRef,
    /// The number of times that the state was replaced by a copy or by the initial state.
    state_version: u64,
    /// The newest fence that was answered. No result of an older generation is applied.
    promised: Generation,
    /// The newest plan that names this worker, with the worker's rank in it.
    plan: Option<(Arc<Plan>, Rank)>,
    /// The phase that is being computed and reduced.
    reduction: Option<PhaseReduction>,
    /// The copy of the plan's start state that this worker waits for.
    copying: Option<CopyInProgress>,
    /// The vectors that were computed from `state`.
    computed: ComputedVectors,
    /// The own shards whose vectors cannot be summed, with the reasons.
    failed: BTreeMap<ShardId, String>,
    /// The frames of a phase that this worker has not begun, from members that are ahead.
    early_frames: BTreeMap<EarlyFrame, ReduceFrame>,
    /// The reason why this generation cannot continue, if this worker has seen one.
    complaint: Option<Complaint>,
    retained: Retained,
    /// The parts of evaluations that the compute threads have, with the states that they are
    /// computed from.
    evaluating: BTreeMap<PartId, Arc<State>>,
    timer: StepTimer,
    /// The time of the event that is being handled.
    now: Duration,
    /// The commands that the event has led to so far.
    commands: Vec<Command>,
}

impl WorkerMachine {
    /// The machine of a worker that holds the initial state and has no plan, in a run with this
    /// number of shards.
    pub fn new(now: Duration, id: WorkerId, objective: Arc<dyn Objective>, shards: u16) -> Self {
        let (state, at) = integrity::initial_state(&*objective);
        Self {
            objective,
            shards,
            id,
            schedule: None,
            train_through: None,
            data_ready: false,
            leaving: false,
            state: Arc::new(state),
            at,
            state_version: 0,
            promised: Generation(0),
            plan: None,
            reduction: None,
            copying: None,
            computed: ComputedVectors::new(KEPT_BYTES_MAX),
            failed: BTreeMap::new(),
            early_frames: BTreeMap::new(),
            complaint: None,
            retained: Retained::default(),
            evaluating: BTreeMap::new(),
            timer: StepTimer::new(now),
            now,
            commands: Vec::new(),
        }
    }

    /// Takes an event, and returns the commands to execute, in their order.
    pub fn handle(&mut self, now: Duration, event: Event) -> Vec<Command> {
        self.now = now;
        match event {
            Event::Welcome(schedule) => self.on_welcome(schedule),
            Event::DataReady => self.on_data_ready(),
            Event::Message(message) => self.on_message(message),
            Event::PeerPlan(plan) => self.on_peer_plan(plan),
            Event::ReduceFrame(from, frame) => self.on_frame(from, frame),
            Event::StreamBroken(generation, peer) => self.on_stream_broken(generation, peer),
            Event::Computed(key, shard, result) => self.on_shard_result(key, shard, result),
            Event::CopyAsked(wanted, token) => self.serve_copy(wanted, token),
            Event::Copied(generation, copy) => self.on_copy(generation, copy),
            Event::ProbeResult(peer, result) => {
                self.report(FromWorker::ProbeResult { peer, result });
            }
            Event::TrialResult(donor, result) => {
                self.report(FromWorker::TrialResult { donor, result });
            }
            Event::Evaluated(id, result) => self.on_evaluated(id, result),
            Event::Leave => self.on_leave(),
            Event::Tick => {
                self.watch_copy();
                self.complain_about_late_member();
            }
        }
        std::mem::take(&mut self.commands)
    }

    /// Keeps vectors by themselves up to another number of bytes than it does by default; see
    /// rule 6 of `docs/protocol.md`. For tests.
    #[doc(hidden)]
    pub fn keep_vectors_up_to(&mut self, bytes: usize) {
        self.computed = ComputedVectors::new(bytes);
    }

    /// The number of vectors and sums of vectors that are kept. For tests.
    #[doc(hidden)]
    pub fn kept_vectors(&self) -> usize {
        self.computed.sums().len()
    }

    /// The generation of the worker's plan; 0 without one.
    pub fn generation(&self) -> Generation {
        self.plan.as_ref().map_or(Generation(0), |(plan, _)| plan.generation)
    }

    /// The newest fence that the worker has answered.
    pub fn promised(&self) -> Generation {
        self.promised
    }

    /// The identity of the worker's state.
    pub fn at(&self) -> StateRef {
        self.at
    }

    /// The thing that the worker waits for, as a noun for people; `None` while it computes.
    pub fn waits_for(&self) -> Option<String> {
        let Some((plan, _)) = &self.plan else {
            return Some("the start of the run, or a free shard".to_owned());
        };
        if self.promised > plan.generation {
            return Some(format!("the coordinator's plan of generation {}", self.promised));
        }
        if let Some(copying) = &self.copying {
            let source = match copying.source {
                CopySource::Member(rank) => name_of(plan, rank),
                CopySource::Coordinator => "the coordinator",
            };
            return Some(format!("a copy of the state from {source}"));
        }
        let Some(PhaseReduction { all_reduce, .. }) = &self.reduction else {
            let is_end = self.schedule.is_none_or(|it| self.at.position.step >= it.last_step);
            return Some(
                match self.train_through {
                    Some(_) if !is_end => "the evaluation that decides whether the run goes on",
                    _ => "the end of the run",
                }
                .to_owned(),
            );
        };
        if !all_reduce.has_contributed() {
            return None;
        }
        let owing: Vec<&str> =
            all_reduce.owed_by().into_iter().map(|rank| name_of(plan, rank)).collect();
        Some(format!("the results of {}", owing.join(", ")))
    }
}

/// The name of a member; empty for a rank that the plan does not have.
fn name_of(plan: &Plan, rank: Rank) -> &str {
    plan.member(rank).map_or("", |member| member.id.name.as_str())
}
