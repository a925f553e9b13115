//! Something that happened and is worth a line in the log.

use std::fmt;
use std::time::Duration;

use super::LostSteps;
use crate::ids::{Generation, Position, Step};
use crate::protocol::coordinator::Alarm;
use crate::protocol::coordinator::stragglers::percent_is_slower;
use crate::protocol::false_claim::FalseClaim;
use crate::words::{counted, worker};

/// Something that happened and is worth a line in the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Notice {
    /// A worker said hello.
    Connected(String),
    /// A worker may be planned from now on.
    Ready(String),
    /// A worker was removed.
    Lost {
        /// The worker's name.
        name: String,
        /// The cause.
        why: Departure,
    },
    /// A worker said something that cannot be true. It is kept outside for a while.
    FalseClaim {
        /// The worker's name.
        name: String,
        /// The address at which it said that others reach it.
        address: String,
        /// The claim, and what is possible.
        claim: FalseClaim,
        /// The time that it stays outside.
        pause: Duration,
    },
    /// A process wants the name of a worker that is connected, and waits until that one is gone.
    NameTaken(String),
    /// The workers that wait for the first plan do not all compute alike: the plan takes those with
    /// the most frequent fingerprint.
    FingerprintsDiffer {
        /// The worker's name.
        name: String,
        /// The worker's fingerprint.
        fingerprint: String,
        /// The most frequent fingerprint so far.
        others: String,
    },
    /// A worker complained, and a new generation follows.
    Complaint {
        /// The worker that complains.
        by: String,
        /// The trouble, as a sentence about that worker.
        about: String,
    },
    /// A worker's state was not the most frequent one, which the worker has copied.
    StateDiffered {
        /// The worker's name.
        name: String,
        /// The position at which the states differed.
        position: Position,
        /// The first tensor that differed.
        tensor: String,
    },
    /// A worker waits outside: it has failed its trial, or has kept the members from going on.
    Outside {
        /// The worker's name.
        name: String,
        /// The address at which others are to reach it.
        address: String,
        /// The reason, with the option that mends it.
        why: String,
        /// The time until it is tried again, in seconds.
        seconds: u64,
    },
    /// A worker that waited outside has passed its trial, and may be planned.
    Readmitted(String),
    /// No step was finished for so many seconds: a new generation follows.
    Stalled(u64),
    /// Shards move away from a worker that takes longer than the others.
    ShardsMoved {
        /// The worker's name.
        name: String,
        /// The time that it takes for a shard, in percent of the other members' time.
        percent: u32,
    },
    /// A new plan was made.
    Planned {
        /// The plan's generation.
        generation: Generation,
        /// The members' names, by rank.
        members: Vec<String>,
        /// The position that they go on from.
        start: Position,
    },
    /// All members of the last plan are back after a restart of the coordinator. They go on by that
    /// plan, as if nothing had happened.
    PlanAdopted(Generation),
    /// A snapshot was due after this step, and no worker holds it any more.
    SnapshotGivenUp(Step),
    /// The checkpoint of this step is not written: the disk is slow, and newer ones wait for it.
    CheckpointLeftOut(Step),
    /// More checkpoints, up to this step, were left out for the same reason.
    MoreCheckpointsLeftOut {
        /// The number of checkpoints.
        count: usize,
        /// The step of the last one.
        last: Step,
    },
    /// The grid of this step is not drawn: the disk is slow, and newer ones wait for it.
    GridLeftOut(Step),
    /// More grids, up to this step, were left out for the same reason.
    MoreGridsLeftOut {
        /// The number of grids.
        count: usize,
        /// The step of the last one.
        last: Step,
    },
    /// The state after this step is not evaluated: no worker is left that could do it, or the run
    /// ends.
    EvaluationGivenUp(Step),
    /// States before the start of this coordinator are not evaluated, and no worker that is here
    /// can do it any more.
    EvaluationsMissing {
        /// The number of evaluations.
        count: usize,
        /// The step of the last one.
        last: Step,
    },
    /// No worker is left that could compute this evaluation, on which the end of the run depends:
    /// the members go back before its step.
    EvaluationLost(Step),
    /// The run ends early: its evaluations have not become better.
    EndsEarly {
        /// The last step.
        step: Step,
        /// The number of evaluations in a row that were no better.
        patience: u64,
        /// The best one, in words.
        best: String,
    },
    /// The training goes wrong, as an objective's rule says.
    Alarm(Alarm),
    /// An alarm has passed.
    AlarmPassed {
        /// The alarm.
        alarm: Alarm,
        /// The step at which it has passed.
        step: Step,
    },
    /// A worker could not compute a part of an evaluation. Another one tries.
    PartFailed {
        /// The worker's name.
        by: String,
        /// The step whose state is evaluated.
        step: Step,
        /// The reason.
        why: String,
    },
    /// Something can never be written, and the run goes on without it.
    WriteGivenUp {
        /// The thing that was to be written.
        what: String,
        /// The error, with the file's path.
        error: String,
    },
    /// The newest checkpoint cannot be read, and no worker has its state. An older checkpoint, or
    /// the beginning of the run, takes its place.
    CheckpointFellBack {
        /// The step of the checkpoint that is lost.
        from: Step,
        /// The step of the older checkpoint, or 0.
        to: Step,
    },
    /// Workers that leave were released although these steps could not be saved.
    StepsLost(LostSteps),
    /// A step was computed again, with the same result as before.
    StepRecomputed(Step),
    /// The coordinator itself did not run.
    ClockLate {
        /// The time that it did not run.
        pause: Duration,
        /// The number of earlier times that were not said.
        more: usize,
        /// The sum of these.
        more_time: Duration,
    },
}

impl Notice {
    /// The notice's stable name: the `event` of its line in the log.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Connected(_) => "worker_connected",
            Self::Ready(_) => "worker_ready",
            Self::Lost { .. } => "worker_lost",
            Self::FalseClaim { .. } => "false_claim",
            Self::NameTaken(_) => "name_taken",
            Self::FingerprintsDiffer { .. } => "fingerprints_differ",
            Self::Complaint { .. } => "complaint",
            Self::StateDiffered { .. } => "state_differed",
            Self::Outside { .. } => "worker_outside",
            Self::Readmitted(_) => "worker_readmitted",
            Self::Stalled(_) => "stalled",
            Self::ShardsMoved { .. } => "shards_moved",
            Self::Planned { .. } => "plan",
            Self::PlanAdopted(_) => "plan_adopted",
            Self::SnapshotGivenUp(_) => "snapshot_given_up",
            Self::CheckpointLeftOut(_) | Self::MoreCheckpointsLeftOut { .. } => {
                "checkpoint_left_out"
            }
            Self::GridLeftOut(_) | Self::MoreGridsLeftOut { .. } => "grid_left_out",
            Self::EvaluationGivenUp(_) => "evaluation_given_up",
            Self::EvaluationsMissing { .. } => "evaluations_missing",
            Self::EvaluationLost(_) => "evaluation_lost",
            Self::EndsEarly { .. } => "ends_early",
            Self::Alarm(_) => "alarm",
            Self::AlarmPassed { .. } => "alarm_passed",
            Self::PartFailed { .. } => "evaluation_part_failed",
            Self::WriteGivenUp { .. } => "write_given_up",
            Self::CheckpointFellBack { .. } => "checkpoint_fell_back",
            Self::StepsLost(_) => "steps_lost",
            Self::StepRecomputed(_) => "step_recomputed",
            Self::ClockLate { .. } => "clock_late",
        }
    }

    /// The name of the worker that the notice is about, if it is about one.
    pub fn worker(&self) -> Option<&str> {
        match self {
            Self::Connected(name)
            | Self::Ready(name)
            | Self::Readmitted(name)
            | Self::Lost { name, .. }
            | Self::FalseClaim { name, .. }
            | Self::NameTaken(name)
            | Self::FingerprintsDiffer { name, .. }
            | Self::Complaint { by: name, .. }
            | Self::PartFailed { by: name, .. }
            | Self::StateDiffered { name, .. }
            | Self::Outside { name, .. }
            | Self::ShardsMoved { name, .. } => Some(name),
            Self::Planned { .. }
            | Self::Stalled(_)
            | Self::PlanAdopted(_)
            | Self::SnapshotGivenUp(_)
            | Self::CheckpointLeftOut(_)
            | Self::MoreCheckpointsLeftOut { .. }
            | Self::MoreGridsLeftOut { .. }
            | Self::GridLeftOut(_)
            | Self::EvaluationGivenUp(_)
            | Self::EvaluationsMissing { .. }
            | Self::EvaluationLost(_)
            | Self::EndsEarly { .. }
            | Self::Alarm(_)
            | Self::AlarmPassed { .. }
            | Self::WriteGivenUp { .. }
            | Self::CheckpointFellBack { .. }
            | Self::StepsLost(_)
            | Self::StepRecomputed(_)
            | Self::ClockLate { .. } => None,
        }
    }
}

impl fmt::Display for Notice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Connected(name) => write!(f, "{} connected", worker(name)),
            Self::Ready(name) => write!(f, "{} is ready", worker(name)),
            Self::Lost { name, why: why @ (Departure::Left | Departure::Drained) } => {
                write!(f, "{} leaves: {why}", worker(name))
            }
            Self::Lost { name, why: why @ Departure::GivenUp } => {
                write!(f, "{} is gone for good: {why}", worker(name))
            }
            Self::Lost { name, why } => write!(f, "lost {}: {why}", worker(name)),
            Self::FalseClaim { name, address, claim, pause } => write!(
                f,
                "{} at {address} is expelled: {claim}; it stays outside for {} s",
                worker(name),
                pause.as_secs()
            ),
            Self::NameTaken(name) => write!(
                f,
                "another worker named {name} wants to join, and waits until this one is gone: give \
                 one of the two another --name"
            ),
            Self::FingerprintsDiffer { name, fingerprint, others } => write!(
                f,
                "{} computes with other last bits ({fingerprint}) than others ({others}): the \
                 first plan takes those that are most",
                worker(name)
            ),
            Self::Complaint { by, about } => write!(f, "{} complains: {about}", worker(by)),
            Self::StateDiffered { name, position, tensor } => write!(
                f,
                "{} differed at {position} from the other workers, first in {tensor}; it has \
                 copied their state",
                worker(name)
            ),
            Self::Outside { name, address, why, seconds } => write!(
                f,
                "{} at {address} waits outside, and the others go on: {why} (it is tried again in \
                 {seconds} s)",
                worker(name)
            ),
            Self::Readmitted(name) => {
                write!(f, "{} has passed its trial and may take part", worker(name))
            }
            Self::Stalled(seconds) => {
                write!(f, "no step was finished for {seconds} s: the members are asked again")
            }
            Self::ShardsMoved { percent, .. } if !percent_is_slower(*percent) => f.write_str(
                "shards are shared out anew: the workers take about as long as each other for a \
                 shard now (--fixed-shards prevents this)",
            ),
            Self::ShardsMoved { name, percent } => write!(
                f,
                "{} takes {:.1} times as long as the others for a shard: shards move from it \
                 (--fixed-shards prevents this)",
                worker(name),
                f64::from(*percent) / 100.0
            ),
            Self::Planned { generation, members, start } => write!(
                f,
                "training from step {} with {}: {} (generation {generation})",
                start.step + 1,
                counted(members.len(), "worker"),
                members.join(", ")
            ),
            Self::PlanAdopted(generation) => {
                write!(f, "all workers of generation {generation} have reconnected and train on")
            }
            Self::SnapshotGivenUp(step) => write!(
                f,
                "no worker holds the snapshot of step {step} any more: its checkpoint or grid is \
                 skipped"
            ),
            Self::CheckpointLeftOut(step) => write!(
                f,
                "the checkpoint of step {step} is left out: they are due faster than the disk \
                 takes them"
            ),
            Self::MoreCheckpointsLeftOut { count, last } => {
                let checkpoints = counted(*count, "more checkpoint");
                write!(f, "left out until step {last}: {checkpoints}")
            }
            Self::MoreGridsLeftOut { count, last } => {
                write!(f, "left out until step {last}: {}", counted(*count, "more grid"))
            }
            Self::GridLeftOut(step) => write!(
                f,
                "the grid of step {step} is left out: they are due faster than the disk takes them"
            ),
            Self::EvaluationGivenUp(step) => write!(
                f,
                "the evaluation of step {step} is left out: no worker is left that could compute \
                 it, or the run ends"
            ),
            Self::EvaluationsMissing { count, last } => write!(
                f,
                "not evaluated until step {last}: {}, and no worker that is here can do it any \
                 more",
                counted(*count, "state")
            ),
            Self::EvaluationLost(step) => write!(
                f,
                "no worker is left that could compute the evaluation of step {step}, on which the \
                 end of the run depends: the members go back before that step"
            ),
            Self::EndsEarly { step, patience, best } => write!(
                f,
                "the run ends early, with step {step}: no evaluation of the last {patience} is \
                 better than {best}"
            ),
            Self::Alarm(Alarm { since, what, numbers, .. }) => {
                write!(f, "alarm at step {since}: {what} ({numbers})")
            }
            Self::AlarmPassed { alarm: Alarm { since, what, .. }, step } => {
                write!(f, "the alarm of step {since} has passed at step {step}: {what}")
            }
            Self::PartFailed { by, step, why } => write!(
                f,
                "{} could not compute a part of the evaluation of step {step}: {why}",
                worker(by)
            ),
            Self::WriteGivenUp { what, error } => {
                write!(f, "going on without {what}, which cannot be written: {error}")
            }
            Self::CheckpointFellBack { from, to } => write!(
                f,
                "the checkpoint of step {from}, which no worker has, cannot be read: going on \
                 after step {to}"
            ),
            Self::StepsLost(lost) => write!(
                f,
                "{lost} could not be saved before the workers left that hold them; they will be \
                 computed again"
            ),
            Self::StepRecomputed(step) => {
                write!(f, "step {step} was computed again, with the same digest")
            }
            Self::ClockLate { pause, more, more_time } => {
                let (pause, more_time) = (pause.as_secs_f64(), more_time.as_secs_f64());
                write!(
                    f,
                    "this process got no CPU for {pause:.1} s (machine overloaded or suspended?)"
                )?;
                match more {
                    0 => Ok(()),
                    _ => write!(
                        f,
                        "; before that {}, for {more_time:.1} s in all",
                        counted(*more, "more time")
                    ),
                }
            }
        }
    }
}

/// The cause of a worker's removal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Departure {
    /// Its control stream closed and did not come back, or its data streams closed as well.
    Closed,
    /// Nothing was heard from it for 3 s.
    Silent,
    /// Its process has ended.
    Ended,
    /// Its process has ended, and nobody starts it again.
    GivenUp,
    /// The worker owed its peers a contribution for too long.
    Late,
    /// The worker said that it leaves.
    Left,
    /// A newer process has its name.
    Replaced,
    /// A person asked it to leave.
    Drained,
    /// Its vectors could not be summed, but those of other workers for the same shards could.
    BadResults,
    /// The worker's arithmetic differs from that of the run, which the first plan has decided.
    OtherFingerprint,
    /// The worker said something that cannot be true.
    FalseClaim(FalseClaim),
}

impl Departure {
    /// Returns whether the same process may come back with its state.
    pub(in crate::protocol::coordinator) fn may_return(&self) -> bool {
        matches!(self, Self::Closed | Self::Silent | Self::Late)
    }

    /// Returns whether no process of this name is expected to come back.
    pub(in crate::protocol::coordinator) fn is_final(&self) -> bool {
        matches!(self, Self::Drained | Self::GivenUp)
    }

    /// The cause's stable name: the field `cause` in the log.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Silent => "silent",
            Self::Ended => "ended",
            Self::GivenUp => "given_up",
            Self::Late => "late",
            Self::Left => "left",
            Self::Replaced => "replaced",
            Self::Drained => "drained",
            Self::BadResults => "bad_results",
            Self::OtherFingerprint => "other_fingerprint",
            Self::FalseClaim(_) => "false_claim",
        }
    }
}

impl fmt::Display for Departure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::FalseClaim(claim) => return claim.fmt(f),
            Self::OtherFingerprint => "its arithmetic differs from that of the run",
            Self::Closed => "its connection closed",
            Self::Silent => "nothing was heard from it for 3 s",
            Self::Ended => "its process has ended",
            Self::GivenUp => "its process has ended, and is not started again",
            Self::Late => "the others waited too long for its contribution",
            Self::Left => "it was told to stop",
            Self::Replaced => "it was restarted, a newer process has its name",
            Self::Drained => "it was drained",
            Self::BadResults => {
                "its vectors could not be used, but those of others for the same shards could"
            }
        })
    }
}
