//! The coordinator's machine: which workers train, from which state on, and what is to be written.
//!
//! The obvious design commits every step through the coordinator, which then is on the path of
//! every step and must not die. Here the coordinator only changes the membership. The run is a pure
//! function, so a worker that is one phase ahead of the others is never wrong, and no vote is
//! needed. Every change of the membership is a *fence* (stop applying results of older generations,
//! and say which state you have), then a *plan* that starts from the furthest state among the
//! answers.
//!
//! The machine takes `(now, event)` and returns commands. The driver executes them in order and
//! waits for none. A write is handed to the disk, one at a time, and is durable when
//! [`Event::Written`] comes: only then may a command follow that tells a worker of it. The
//! coordinator may die between any two commands, and before or after the disk has done a write: a
//! new machine, made from what is on disk, goes on.

mod admission;
mod alarms;
mod claims;
mod complaints;
mod divergence;
mod ending;
mod events;
mod lateness;
mod leaving;
mod outputs;
mod planner;
mod possible;
mod progress;
mod registry;
mod report;
mod search;
mod stragglers;
mod transitions;
mod trials;

use std::sync::Arc;
use std::time::Duration;

pub use alarms::Alarm;
pub use outputs::{EarlyEnd, OutputConfig, PersistedOutputs, SavedCheckpoint, Write};
pub use report::{Departure, Failure, LastSeen, LostSteps, Notice, Outsider};
pub use report::{Reason, Recovery, Role, Status, WorkerStatus};

use crate::evaluation::BestEvaluation;
use crate::ids::{Digest, Generation, RunId, ShardId, Step};
use crate::protocol::message::{Finish, FromWorker, Hello, Refusal, ToWorker};
use crate::protocol::plan::{Member, Plan};
use claims::Claims;
use divergence::Suspects;
use ending::Ending;
use lateness::Lateness;
use leaving::Draining;
use outputs::Outputs;
use progress::Progress;
use registry::Registry;
use report::Recoveries;
use stragglers::Stragglers;
use trials::Trials;

/// A control stream's number, chosen by the driver and never used twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConnId(pub u64);

/// The settings of a coordinator, and what its run directory holds.
#[derive(Clone, Debug)]
pub struct CoordinatorConfig {
    /// The run's identity.
    pub run: RunId,
    /// The number of ready workers that the first fence waits for.
    pub workers: usize,
    /// After the first step, training pauses whenever there are fewer workers than this.
    pub min_workers: usize,
    /// True if shards move from workers that are steadily slower.
    pub rebalance: bool,
    /// The settings of the outputs.
    pub output: OutputConfig,
    /// The fingerprint of the workers that began the run; `None` before the first worker came.
    pub fingerprint: Option<String>,
    /// The newest plan on disk.
    pub plan: Option<Plan>,
    /// True if the members of that plan may still train, and come back. Nobody is waited for that
    /// has ended: the run starts as a new one does, with `workers` workers.
    pub members_may_return: bool,
    /// The rows, checkpoints, grids and evaluations on disk.
    pub persisted: PersistedOutputs,
}

/// Something that happened to the coordinator.
#[derive(Clone, Debug)]
pub enum Event {
    /// The first message of a control stream came.
    Hello(ConnId, Hello),
    /// Another message came.
    Message(ConnId, FromWorker),
    /// A heartbeat came.
    Heartbeat(ConnId),
    /// A control stream closed.
    Closed(ConnId),
    /// The write that was commanded last is durable.
    Written,
    /// An attempt at the write that was commanded last has failed. Another one may succeed, but
    /// what has become more urgent meanwhile goes first.
    WritePostponed,
    /// The write that was commanded last is given up, for this reason: it can never succeed, or it
    /// is one of a grid, which is not worth a second attempt.
    WriteFailed(String),
    /// A worker sent a snapshot.
    Snapshot {
        /// The step after which it was taken.
        step: Step,
        /// The digest of the state in `bytes`.
        digest: Digest,
        /// The state, in the format of a checkpoint file.
        bytes: Arc<Vec<u8>>,
    },
    /// A worker needs the checkpoint of a step, and the checkpoint cannot be read.
    Unreadable {
        /// The step.
        step: Step,
        /// The newest checkpoint that can be read.
        newest: Option<SavedCheckpoint>,
    },
    /// A sampler draws grids from now on, or none does any more.
    DrawGrids(bool),
    /// A person, or the system, ends the run early.
    Stop(Stop),
    /// A person asks for a checkpoint as soon as possible.
    Checkpoint,
    /// A person asks the worker of this name to leave.
    Drain(String),
    /// The process of the worker of this name has ended, as its parent knows.
    ProcessEnded(String),
    /// The process of the worker of this name has ended, and nobody starts it again.
    ProcessGivenUp(String),
    /// Time passed.
    Tick,
}

/// The ways to end a run early.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// Workers and coordinator end.
    Finish,
    /// The coordinator ends alone. Workers train on and wait for the next coordinator.
    HandOver,
}

/// Something that the driver is to do. Commands are executed in order.
#[derive(Clone, Debug, PartialEq)]
pub enum Command {
    /// Answer a hello. The worker fetches the partitions of these shards first.
    Welcome(ConnId, Vec<ShardId>),
    /// Turn a worker away, and close its control stream.
    Refuse(ConnId, Refusal),
    /// End a control stream with these words. The worker may try again.
    TurnAway(ConnId, String),
    /// Send a message.
    Send(ConnId, ToWorker),
    /// Close a control stream.
    Close(ConnId),
    /// Make something durable, and say so with [`Event::Written`]. No other write is commanded
    /// before its end.
    Write(Write),
    /// Tell people.
    Notice(Notice),
    /// End the coordinator: nothing is left to do.
    Exit(Outcome),
}

/// The way in which a coordinator's work ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The last step is reached, and everything is on disk.
    Finished,
    /// The run was ended early.
    Stopped {
        /// Everything up to this step is on disk.
        saved: Step,
        /// The finished steps after it, if there are any: they could not be saved.
        lost: Option<LostSteps>,
    },
    /// The run cannot go on.
    Failed(Failure),
}

/// A worker that is not heard for this long is removed. Heartbeats come every 100 ms from a thread
/// of their own.
const SILENCE_MAX: Duration = Duration::from_secs(3);
/// A worker whose control stream stays closed for this long is removed. Reconnects take 250 ms at
/// most.
const CLOSED_MAX: Duration = Duration::from_secs(1);
/// A worker that does not answer a fence in this time is left out of the plan.
const FENCE_MAX: Duration = Duration::from_secs(3);
/// A restarted coordinator waits this long for the workers of the last plan.
const ADOPT_MAX: Duration = Duration::from_secs(2);
/// An ending waits this long for workers to leave, and for the snapshot of a last checkpoint.
const ENDING_MAX: Duration = Duration::from_secs(10);
/// A fence that a complaint asks for comes no sooner after a plan than this, unless a step was
/// finished in between. Without the pause, members that cannot reach each other would start new
/// generations as fast as messages travel.
const COMPLAINT_PAUSE: Duration = Duration::from_secs(1);
/// A longer time between two events means that the coordinator itself did not run, and so could not
/// hear the workers.
const LATE_MIN: Duration = Duration::from_secs(1);
/// The driver sends [`Event::Tick`] this often.
pub const TICK: Duration = Duration::from_millis(50);

/// The coordinator's machine.
#[derive(Debug)]
pub struct CoordinatorMachine {
    run: RunId,
    /// The number of ready workers that the first fence waits for.
    workers: usize,
    /// The smallest number of workers that train after that.
    min_workers: usize,
    /// The number of shards of a batch.
    shards: u16,
    fingerprint: Option<String>,
    /// The newest plan on disk.
    plan: Option<Arc<Plan>>,
    stage: Stage,
    /// True if members of the plan on disk may still train, when this coordinator is started.
    members_may_return: bool,
    /// True if members have trained since this coordinator was started.
    has_trained: bool,
    /// The early end that was asked for.
    ending: Option<Ending>,
    draining: Draining,
    registry: Registry,
    claims: Claims,
    outputs: Outputs,
    suspects: Suspects,
    trials: Trials,
    progress: Progress,
    stragglers: Stragglers,
    /// True if shards move from workers that are steadily slower.
    rebalance: bool,
    recoveries: Recoveries,
    /// The greatest step that workers were told is persisted.
    announced_persisted: Step,
    /// The step whose snapshot workers were told to keep.
    announced_retained: Option<Step>,
    /// The step that workers were told to train through, if an evaluation may end the run.
    announced_horizon: Option<Step>,
    lateness: Lateness,
    /// The time of the newest event.
    now: Duration,
    /// The commands that the newest event leads to.
    out: Vec<Command>,
}

/// The coordinator's present activity.
///
/// ```text
///           +-----------+  all members of the last plan are back and train
///  start -> | Gathering | ----------------------------------------------.
///           +-----------+                                               |
///                 | enough workers are ready,                           |
///                 v a complaint, or a stop                              v
///           +-----------+  a plan  +---------+  it is on disk    +----------+
///           |  Fencing  | -------> | Storing | ----------------> | Training |
///           |           |          +---------+                   |          |
///           |           | <------------------------------------- |          |
///           +-----------+       a member is lost or complains,   +----------+
///                 |             a worker joins, shards move, a stop   |
/// a stop, and the |  ^                                                |
/// answers are in; |  | saved, and the                                 |
/// or those leave  |  | leavers released                               |
/// that hold the   v  |                                                |
/// state     +-----------+  another coordinator takes over: a last plan|
///           |  Saving   | -----------------> Storing, then Done       |
///           +-----------+                                             |
///                 | a stop, and everything is saved                   |
///                 v                            the last step is saved |
///           +-----------+                                             |
///           | Finishing | <-------------------------------------------'
///           +-----------+
///                 | all workers have left
///                 v
///           +-----------+
///           |   Done    |
///           +-----------+
/// ```
///
/// Not drawn: a failure leads from every stage to Finishing, and a last step that is saved while
/// the machine is in Fencing does so too; a checkpoint that cannot be read leads from
/// Training to Fencing. A coordinator that is started on a finished run begins in Finishing.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Stage {
    /// Waits for workers. This machine has made no plan yet.
    Gathering {
        /// The time at which the stage began.
        since: Duration,
    },
    /// Waits for the answers to a fence.
    Fencing {
        /// The generation of the fence, and of the plan to come.
        generation: Generation,
        /// The time at which the stage began.
        since: Duration,
    },
    /// Waits until a new plan is on disk. No member hears of it before, so generations only grow.
    Storing {
        /// The plan.
        plan: Arc<Plan>,
        /// The outcome of a coordinator that hands over with this plan, and then ends.
        outcome: Option<Outcome>,
    },
    /// The members of the newest plan train.
    Training {
        /// The time at which the stage began.
        since: Duration,
        /// True if a step was finished by this plan.
        has_progress: bool,
        /// True if a member has complained: a fence follows as soon as it may.
        has_complaint: bool,
    },
    /// Writes what is due before an early end, or before the only workers that hold the newest
    /// state leave. The answers to the fence are in.
    Saving {
        /// The generation of that fence.
        generation: Generation,
        /// The time at which the stage began.
        since: Duration,
    },
    /// Tells workers that the run is over.
    Finishing {
        /// The time at which the stage began.
        since: Duration,
        /// The time until which workers that are not connected may still come and be told.
        until: Duration,
        /// The message that workers are sent.
        finish: Finish,
        /// The outcome that the driver is given at the end.
        outcome: Outcome,
    },
    /// The driver was told to exit.
    Done,
}

impl CoordinatorMachine {
    /// The machine of a run directory, started at `now`.
    pub fn new(now: Duration, config: CoordinatorConfig) -> Self {
        let CoordinatorConfig {
            run,
            workers,
            min_workers,
            rebalance,
            output,
            fingerprint,
            plan,
            members_may_return,
            persisted,
        } = config;
        let shards = output.spec.shards();
        let claims = Claims::after(plan.as_ref());
        let mut outputs = Outputs::new(output, persisted);
        let announced_horizon = outputs.horizon();
        let mut out = Vec::new();
        // Workers of a finished run may not have heard that it is over: they are told when they
        // come.
        let stage = if outputs.is_finished() {
            outputs.give_up_missing_evaluations(&mut out);
            Stage::Finishing {
                since: now,
                until: now + ADOPT_MAX,
                finish: Finish::Done,
                outcome: Outcome::Finished,
            }
        } else {
            Stage::Gathering { since: now }
        };
        Self {
            run,
            workers,
            min_workers: min_workers.max(1),
            shards,
            fingerprint,
            trials: Trials::new(plan.as_ref()),
            plan: plan.map(Arc::new),
            stage,
            members_may_return,
            has_trained: false,
            ending: None,
            draining: Draining::default(),
            registry: Registry::default(),
            claims,
            outputs,
            suspects: Suspects::default(),
            progress: Progress::default(),
            stragglers: Stragglers::new(),
            rebalance,
            recoveries: Recoveries::default(),
            announced_persisted: 0,
            announced_retained: None,
            announced_horizon,
            lateness: Lateness::default(),
            now,
            out,
        }
    }

    /// Takes an event at the time `now`. Returns the commands that follow from it, in order.
    pub fn handle(&mut self, now: Duration, event: Event) -> Vec<Command> {
        let pause = now.saturating_sub(self.now);
        self.now = now;
        if pause > LATE_MIN {
            if let Some(notice) = self.lateness.on_late(now, pause) {
                self.notify(notice);
            }
            self.restart_clocks();
        }
        let result = self.on_event(event).and_then(|()| self.advance_stage());
        if let Err(failure) = result {
            self.fail(failure);
        }
        self.out.extend(self.outputs.start_next_write().map(Command::Write));
        std::mem::take(&mut self.out)
    }

    /// The newest plan.
    pub fn plan(&self) -> Option<&Arc<Plan>> {
        self.plan.as_ref()
    }

    /// The last finished step on which all members agree.
    pub fn reached(&self) -> Step {
        self.outputs.reached()
    }

    /// The newest checkpoint on disk.
    pub fn checkpoint(&self) -> Option<&SavedCheckpoint> {
        self.outputs.checkpoint()
    }

    /// The early end of the run, if its evaluations have decided it.
    pub fn early_end(&self) -> Option<EarlyEnd> {
        self.outputs.early_end()
    }

    /// The best state of those that are evaluated.
    pub fn best_evaluation(&self) -> Option<BestEvaluation> {
        self.outputs.best_evaluation()
    }

    /// The alarms that have begun and have not passed.
    pub fn alarms(&self) -> Vec<Alarm> {
        self.outputs.alarms()
    }

    /// The generation of the newest plan; 0 before the first.
    fn generation(&self) -> Generation {
        self.plan.as_ref().map_or(Generation(0), |plan| plan.generation)
    }

    fn notify(&mut self, notice: Notice) {
        self.out.push(Command::Notice(notice));
    }

    /// Sends a message to every worker that is connected.
    fn send_all(&mut self, message: &ToWorker) {
        for (_, conn) in self.registry.connected() {
            self.out.push(Command::Send(conn, message.clone()));
        }
    }

    /// The members of the newest plan; empty before the first.
    fn members(&self) -> &[Member] {
        self.plan.as_ref().map_or(&[], |plan| plan.members())
    }

    /// The number of members, by name, that are ready.
    fn members_back(&self) -> usize {
        self.members()
            .iter()
            .filter_map(|member| self.registry.by_name(&member.id.name))
            .filter(|worker| worker.ready)
            .count()
    }

    /// Returns whether the first step of this coordinator waits for as many workers as that of a
    /// new run: nobody trains by an earlier plan.
    pub fn begins_anew(&self) -> bool {
        matches!(self.stage, Stage::Gathering { .. })
            && (self.plan.is_none() || !self.members_may_return)
    }

    /// Returns whether members of the last plan may still be about to reconnect.
    fn may_still_adopt(&self) -> bool {
        match self.stage {
            Stage::Gathering { since } => self.members_may_return && self.now < since + ADOPT_MAX,
            _ => false,
        }
    }
}
