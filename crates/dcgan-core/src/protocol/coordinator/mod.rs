//! The coordinator's machine: who trains, from where on, and what is due outside.
//!
//! The obvious design commits every step through the coordinator, which then is on the path of every step and must not
//! die. Here it only changes the membership. Because the run is a pure function, a worker that is one phase ahead of
//! the others is never wrong, so no vote is needed: every change is a *fence* (stop applying results of older
//! generations, and say where you are), then a *plan* that starts at the furthest state among the answers.
//!
//! The machine takes `(now, event)` and returns commands. The driver executes them in order; those that write are
//! durable before the next is executed, so that what is persisted is persisted before it is said. Between any two commands
//! the coordinator may die: a new machine, made from what is on disk, goes on.

mod divergence;
mod events;
mod outputs;
mod planner;
mod reachability;
mod registry;
mod report;
mod stragglers;
mod transitions;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

pub use outputs::{OutputConfig, PersistedOutputs, SavedCheckpoint};
pub use report::{Departure, Failure, LastSeen, Notice, Reason};
pub use report::{Recovery, Role, Status, WorkerStatus};

use crate::ids::{Digest, Generation, RunId, ShardId, Step, WorkerId};
use crate::metrics::MetricsRow;
use crate::protocol::message::{Finish, FromWorker, Hello, Refusal, ToWorker};
use crate::protocol::plan::Plan;
use divergence::Suspects;
use outputs::Outputs;
use reachability::Reachability;
use registry::Registry;
use report::Recoveries;
use stragglers::Stragglers;

/// A control stream's number, chosen by the driver and never used twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConnId(pub u64);

/// What the machine is made with.
#[derive(Clone, Debug)]
pub struct CoordinatorConfig {
    /// The run's identity.
    pub run: RunId,
    /// Workers that the first step waits for.
    pub workers: usize,
    /// Fewer than these do not go on later.
    pub min_workers: usize,
    /// Whether shards move from workers that are steadily slower.
    pub rebalance: bool,
    /// What lines are made with.
    pub output: OutputConfig,
    /// The arithmetic that the run was begun with.
    pub fingerprint: Option<String>,
    /// The newest plan on disk.
    pub plan: Option<Plan>,
    /// What else is on disk.
    pub persisted: PersistedOutputs,
}

/// What happened.
#[derive(Clone, Debug)]
pub enum Event {
    /// The first message of a control stream.
    Hello(ConnId, Hello),
    /// Another message.
    Message(ConnId, FromWorker),
    /// A sign of life.
    Heartbeat(ConnId),
    /// A control stream closed.
    Closed(ConnId),
    /// A worker sent a snapshot, whose bytes have this digest.
    Snapshot {
        /// The step after which it was taken.
        step: Step,
        /// The digest of the state in it.
        digest: Digest,
        /// The state, as a file.
        bytes: Arc<Vec<u8>>,
    },
    /// A worker needs the checkpoint of a step, which cannot be read.
    Unreadable {
        /// The step.
        step: Step,
        /// The newest checkpoint that can be.
        newest: Option<SavedCheckpoint>,
    },
    /// Somebody draws grids from now on, or nobody does.
    DrawGrids(bool),
    /// The run is to end early.
    Stop(Stop),
    /// A checkpoint is wanted as soon as can be.
    Checkpoint,
    /// A worker is to leave.
    Drain(String),
    /// Time passed.
    Tick,
}

/// How a run is to end early.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// Workers and coordinator end.
    Finish,
    /// The coordinator ends alone; workers train on and wait for the next one.
    HandOver,
}

/// What the driver is to do, in order.
#[derive(Clone, Debug, PartialEq)]
pub enum Command {
    /// Answer a hello; these shards' partitions are fetched first.
    Welcome(ConnId, Vec<ShardId>),
    /// Turn a worker away, and close.
    Refuse(ConnId, Refusal),
    /// Send a message.
    Send(ConnId, ToWorker),
    /// Close a control stream.
    Close(ConnId),
    /// Make a plan durable, with the run's fingerprint.
    StorePlan(Arc<Plan>, String),
    /// Append a line of metrics.
    AppendRow(MetricsRow),
    /// Make a checkpoint durable.
    SaveCheckpoint {
        /// Where and what.
        saved: SavedCheckpoint,
        /// The state, as a file.
        bytes: Arc<Vec<u8>>,
    },
    /// RetainSnapshot a snapshot until its grid is drawn.
    SaveGrid {
        /// The step after which it was taken.
        step: Step,
        /// The state, as a file.
        bytes: Arc<Vec<u8>>,
    },
    /// Tell people.
    Notice(Notice),
    /// Nothing is left to do.
    Exit(Outcome),
}

/// How a coordinator's work ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The last step is reached, and everything is on disk.
    Finished,
    /// A person ended it; everything up to this step is on disk.
    Stopped(Step),
    /// It cannot go on.
    Failed(Failure),
}

/// Nothing heard for this long: gone. Heartbeats come every 100 ms from a thread of their own.
const SILENCE_MAX: Duration = Duration::from_secs(3);
/// A control stream may be closed for this long before its worker is gone: reconnects take 250 ms at most.
const CLOSED_MAX: Duration = Duration::from_secs(1);
/// Who does not answer a fence in this time is not in the plan.
const FENCE_MAX: Duration = Duration::from_secs(3);
/// How long a new coordinator waits for the workers of the last plan.
const ADOPT_MAX: Duration = Duration::from_secs(2);
/// How long an ending waits for workers to close, and for a last checkpoint.
const ENDING_MAX: Duration = Duration::from_secs(10);
/// A fence that a complaint asks for comes no sooner after a plan, unless a step was finished in between: members that
/// cannot reach each other do not turn generations over without end.
const COMPLAINT_PAUSE: Duration = Duration::from_secs(1);
/// A tick later than this means that the coordinator itself was paused, and could not hear.
const LATE_MIN: Duration = Duration::from_secs(1);
/// The driver calls with a tick this often.
pub const TICK: Duration = Duration::from_millis(50);

/// The coordinator's machine.
#[derive(Debug)]
pub struct CoordinatorMachine {
    run: RunId,
    workers: usize,
    min_workers: usize,
    shards: u16,
    fingerprint: Option<String>,
    /// The newest plan on disk.
    plan: Option<Arc<Plan>>,
    stage: Stage,
    stop: Option<Stop>,
    registry: Registry,
    outputs: Outputs,
    suspects: Suspects,
    reachability: Reachability,
    stragglers: Stragglers,
    rebalance: bool,
    recoveries: Recoveries,
    /// The greatest step that workers were told is persisted.
    announced_persisted: Step,
    /// The step whose snapshot workers were told to keep.
    announced_retained: Option<Step>,
    now: Duration,
    out: Vec<Command>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Stage {
    /// No plan of this machine's own yet.
    Gathering { since: Duration },
    /// Workers are asked where they are.
    Fencing { generation: Generation, since: Duration },
    /// The members of the newest plan train.
    Training { since: Duration, progress: bool, complaint: bool },
    /// The answers are in, and what is due before an early end is on its way.
    Stopping { generation: Generation, since: Duration },
    /// Workers are told that the run is over; those who may still come are waited for until `until`.
    Finishing { since: Duration, until: Duration, finish: Finish, outcome: Outcome },
    /// The driver was told to exit.
    Done,
}

impl CoordinatorMachine {
    /// The machine of a run directory, at `now`.
    pub fn new(now: Duration, settings: CoordinatorConfig) -> Self {
        let CoordinatorConfig {
            run,
            workers,
            min_workers,
            rebalance,
            output,
            fingerprint,
            plan,
            persisted,
        } = settings;
        let outputs = Outputs::new(output, persisted);
        let finished = outputs.is_finished();
        Self {
            run,
            workers,
            min_workers: min_workers.max(1),
            shards: output.sharding.shards(),
            fingerprint,
            plan: plan.map(Arc::new),
            stage: if finished {
                let until = now + ADOPT_MAX;
                Stage::Finishing {
                    since: now,
                    until,
                    finish: Finish::Done,
                    outcome: Outcome::Finished,
                }
            } else {
                Stage::Gathering { since: now }
            },
            stop: None,
            registry: Registry::default(),
            announced_persisted: 0,
            announced_retained: None,
            outputs,
            suspects: Suspects::default(),
            reachability: Reachability::default(),
            stragglers: Stragglers::new(),
            rebalance,
            recoveries: Recoveries::default(),
            now,
            out: Vec::new(),
        }
    }

    /// Takes an event; gives what is to be done, in order.
    pub fn handle(&mut self, now: Duration, event: Event) -> Vec<Command> {
        let late = now.saturating_sub(self.now);
        self.now = now;
        if late > LATE_MIN {
            self.note(Notice::Late(late));
            self.restart_clocks();
        }
        self.on_event(event)
            .and_then(|()| self.advance_stage())
            .unwrap_or_else(|failure| self.fail(failure));
        std::mem::take(&mut self.out)
    }

    /// What is being done or waited for.
    pub fn reason(&self) -> Reason {
        let names = |(id, peers): (&WorkerId, &BTreeSet<WorkerId>)| {
            (id.name.clone(), peers.iter().map(|peer| peer.name.clone()).collect())
        };
        let ready = self.registry.ready().count();
        match &self.stage {
            Stage::Gathering { .. } => match &self.plan {
                None => Reason::Gathering { ready, workers: self.workers },
                Some(_) if self.may_still_adopt() => Reason::Adopting {
                    here: self.members_back(),
                    members: self.member_names().len(),
                },
                Some(_) => self.below_minimum(ready),
            },
            Stage::Fencing { generation, .. } => {
                let late = self.registry.ready().filter(|worker| !worker.has_answered(*generation));
                let waiting_for: Vec<String> = late.map(|worker| worker.id.name.clone()).collect();
                let pairs: Vec<(String, Vec<String>)> =
                    self.reachability.outside().map(names).collect();
                if waiting_for.is_empty() && !pairs.is_empty() {
                    Reason::Unreachable { pairs }
                } else if waiting_for.is_empty() {
                    self.below_minimum(ready)
                } else {
                    Reason::Fencing { generation: *generation, waiting_for }
                }
            }
            Stage::Training { .. } => Reason::Training {
                generation: self.generation(),
                members: self.member_names().len(),
            },
            Stage::Stopping { .. } => Reason::Stopping,
            Stage::Finishing { .. } | Stage::Done => Reason::Finishing,
        }
    }

    /// The newest plan.
    pub fn plan(&self) -> Option<&Arc<Plan>> {
        self.plan.as_ref()
    }

    /// The last step that is finished, as far as workers have reported.
    pub fn reached(&self) -> Step {
        self.outputs.reached()
    }

    /// The newest checkpoint on disk.
    pub fn checkpoint(&self) -> Option<&SavedCheckpoint> {
        self.outputs.checkpoint()
    }

    fn generation(&self) -> Generation {
        self.plan.as_ref().map_or(Generation(0), |plan| plan.generation)
    }

    fn note(&mut self, note: Notice) {
        self.out.push(Command::Notice(note));
    }

    fn tell_all(&mut self, message: &ToWorker) {
        let conns: Vec<ConnId> = self.registry.connected().map(|(_, conn)| conn).collect();
        self.out.extend(conns.into_iter().map(|conn| Command::Send(conn, message.clone())));
    }

    fn member_names(&self) -> Vec<String> {
        let members = self.plan.iter().flat_map(|plan| &plan.members);
        members.map(|member| member.id.name.clone()).collect()
    }

    /// Members of the last plan, by name, that may be planned.
    fn members_back(&self) -> usize {
        let is_ready = |name: &String| self.registry.get(name).is_some_and(|worker| worker.ready);
        self.member_names().iter().filter(|name| is_ready(name)).count()
    }

    fn may_still_adopt(&self) -> bool {
        matches!(self.stage, Stage::Gathering { since } if self.now < since + ADOPT_MAX)
    }

    fn below_minimum(&self, ready: usize) -> Reason {
        Reason::BelowMinimum {
            ready,
            minimum: self.min_workers,
            missing: self.registry.missing(self.now),
        }
    }
}
