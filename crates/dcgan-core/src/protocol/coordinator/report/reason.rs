//! The reason for the coordinator's present activity, or for its waiting.

use std::fmt;
use std::time::Duration;

use super::LostSteps;
use crate::ids::{Generation, Step};
use crate::protocol::coordinator::ending::RETURN_MAX;
use crate::protocol::coordinator::{CoordinatorMachine, FENCE_MAX, Stage};
use crate::words::{counted, worker};

/// The coordinator's present activity, or the thing that it waits for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reason {
    /// The first step needs more workers.
    Gathering {
        /// The number of workers that may be planned.
        ready: usize,
        /// The number of workers that the first step waits for.
        workers: usize,
    },
    /// The coordinator was restarted, and the workers of the last plan may be about to reconnect.
    Adopting {
        /// The number of members of the last plan that are back.
        here: usize,
        /// The number of members of the last plan.
        members: usize,
    },
    /// Workers were sent a fence and have not answered.
    Fencing {
        /// The generation of the fence.
        generation: Generation,
        /// The names of the workers that have not answered.
        waiting_for: Vec<String>,
    },
    /// There are too few workers to go on.
    BelowMinimum {
        /// The number of workers that may be planned.
        ready: usize,
        /// The smallest number of workers that train (`--min-workers`).
        minimum: usize,
        /// The workers that were here before, the one heard last first.
        missing: Vec<LastSeen>,
    },
    /// Workers are being tried, and without them there are too few to go on.
    OnTrial {
        /// Their names.
        names: Vec<String>,
    },
    /// Without the workers that wait outside there are too few to go on.
    Outside {
        /// The number of workers that may be planned.
        fit: usize,
        /// The smallest number of workers that train.
        minimum: usize,
        /// The name of each worker outside, its address, and why it waits.
        outside: Vec<(String, String, String)>,
    },
    /// The next plan is on its way to the disk.
    Storing {
        /// The plan's generation.
        generation: Generation,
    },
    /// The members train.
    Training {
        /// The generation of their plan.
        generation: Generation,
        /// The number of members.
        members: usize,
    },
    /// The members wait for the evaluation of this step, which decides whether the run goes on.
    Evaluating(Step),
    /// The run is to end early, and its last checkpoint is on its way.
    Stopping,
    /// The run is to end early, and members that were here a moment ago hold steps that are not
    /// saved.
    Returning {
        /// These steps.
        unsaved: LostSteps,
        /// These members.
        members: Vec<LastSeen>,
        /// The time that is left for them.
        left: Duration,
    },
    /// The workers that hold the newest state leave as soon as it is saved.
    Releasing(Vec<String>),
    /// The run is over, and workers that are told so are about to leave.
    Finishing,
}

/// A worker that was here before.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LastSeen {
    /// Its name.
    pub name: String,
    /// The last step that it reported.
    pub step: Step,
    /// The time since it was heard.
    pub ago: Duration,
}

impl CoordinatorMachine {
    /// The present activity, or the thing that is waited for.
    pub fn reason(&self) -> Reason {
        let ready = self.ready_workers();
        match &self.stage {
            Stage::Gathering { .. } if self.begins_anew() && ready < self.workers => {
                Reason::Gathering { ready, workers: self.workers }
            }
            Stage::Gathering { .. } if self.may_still_adopt() => {
                Reason::Adopting { here: self.members_back(), members: self.members().len() }
            }
            Stage::Gathering { .. } => self.below_minimum(),
            Stage::Fencing { generation, .. } => self.reason_to_fence(*generation),
            Stage::Storing { plan, .. } => Reason::Storing { generation: plan.generation },
            Stage::Training { .. } => self.reason_to_train(),
            Stage::Saving { generation, .. } => self.reason_to_save(*generation),
            Stage::Finishing { .. } | Stage::Done => Reason::Finishing,
        }
    }

    /// The reason that members train, or wait for an evaluation.
    fn reason_to_train(&self) -> Reason {
        let is_waiting = self.progress.finished() >= self.outputs.train_through();
        match self.outputs.awaited_evaluation().filter(|_| is_waiting) {
            Some(step) => Reason::Evaluating(step),
            None => {
                Reason::Training { generation: self.generation(), members: self.members().len() }
            }
        }
    }

    /// The reason that a fence is open: answers are missing, or else workers.
    fn reason_to_fence(&self, generation: Generation) -> Reason {
        if let Some(returning) = self.reason_to_stay(generation) {
            return returning;
        }
        let mut waiting_for = Vec::new();
        for worker in self.fit_workers() {
            if !worker.has_answered(generation) {
                waiting_for.push(worker.id.name.clone());
            }
        }
        if !waiting_for.is_empty() {
            return Reason::Fencing { generation, waiting_for };
        }
        self.below_minimum()
    }

    /// The reason that an early end waits for members, if it does. An answer to its fence that is
    /// not late yet is no reason.
    fn reason_to_stay(&self, generation: Generation) -> Option<Reason> {
        let ending = self.ending?;
        let is_short = matches!(self.stage, Stage::Fencing { since, .. }
            if self.now < since + FENCE_MAX);
        let members = self.awaited_members(generation);
        let unsaved = self.unsaved_steps()?;
        let left = (ending.since + RETURN_MAX).saturating_sub(self.now);
        let waits = !is_short && !members.is_empty();
        waits.then_some(Reason::Returning { unsaved, members, left })
    }

    fn reason_to_save(&self, generation: Generation) -> Reason {
        match self.ending {
            Some(_) => self.reason_to_stay(generation).unwrap_or(Reason::Stopping),
            None => Reason::Releasing(self.leavers(generation)),
        }
    }

    /// The reason that there are too few workers: some are being tried or wait outside, or else
    /// some are missing.
    fn below_minimum(&self) -> Reason {
        let (mut names, mut outside) = (Vec::new(), Vec::new());
        for worker in self.registry.ready() {
            let name = || worker.id.name.clone();
            if self.trials.is_on_trial(&worker.id) {
                names.push(name());
            } else if let Some(why) = self.trials.outside(&worker.id) {
                outside.push((name(), worker.address.clone(), why.to_owned()));
            }
        }
        let (fit, minimum) = (self.fit_workers().count(), self.min_workers);
        if !names.is_empty() {
            Reason::OnTrial { names }
        } else if !outside.is_empty() {
            Reason::Outside { fit, minimum, outside }
        } else {
            Reason::BelowMinimum { ready: fit, minimum, missing: self.registry.missing(self.now) }
        }
    }
}

impl Reason {
    /// The reason's stable name, for logs and programs.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Gathering { .. } => "gathering",
            Self::Adopting { .. } => "adopting",
            Self::Fencing { .. } => "fencing",
            Self::BelowMinimum { .. } => "below_minimum",
            Self::OnTrial { .. } => "on_trial",
            Self::Outside { .. } => "outside",
            Self::Storing { .. } => "storing",
            Self::Training { .. } => "training",
            Self::Evaluating(_) => "evaluating",
            Self::Stopping => "stopping",
            Self::Returning { .. } => "returning",
            Self::Releasing(_) => "releasing",
            Self::Finishing => "finishing",
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Gathering { ready, workers } => {
                let lacking = workers.saturating_sub(*ready);
                write!(f, "waiting for {lacking} of {} to start", counted(*workers, "worker"))
            }
            Self::Adopting { here, members } => {
                let lacking = members.saturating_sub(*here);
                write!(
                    f,
                    "waiting for {lacking} of {} to reconnect after the coordinator's restart",
                    counted(*members, "worker")
                )
            }
            Self::Fencing { generation, waiting_for } => {
                let names = waiting_for.join(", ");
                let seconds = FENCE_MAX.as_secs();
                write!(
                    f,
                    "forming generation {generation}: waiting for an answer from {names}; after \
                     {seconds} s the others go on if they are enough"
                )
            }
            Self::BelowMinimum { ready, minimum, missing } => {
                let lacking = minimum.saturating_sub(*ready);
                write!(f, "waiting for {lacking} of {}", counted(*minimum, "worker"))?;
                for (i, LastSeen { name, step, ago }) in missing.iter().enumerate() {
                    let (separator, name) = (if i == 0 { ": " } else { ", " }, worker(name));
                    let seconds = ago.as_secs();
                    write!(f, "{separator}{name} last seen at step {step}, {seconds} s ago")?;
                }
                Ok(())
            }
            Self::OnTrial { names } => {
                let names: Vec<String> = names.iter().map(|name| worker(name)).collect();
                write!(f, "waiting for the trial of {}", names.join(", "))
            }
            Self::Outside { fit, minimum, outside } => {
                let lacking = minimum.saturating_sub(*fit);
                write!(f, "waiting for {lacking} of {}", counted(*minimum, "worker"))?;
                for (i, (name, address, why)) in outside.iter().enumerate() {
                    let separator = if i == 0 { ":" } else { ";" };
                    let name = worker(name);
                    write!(f, "{separator} {name} at {address} waits outside: {why}")?;
                }
                Ok(())
            }
            Self::Storing { generation } => {
                write!(f, "waiting for the disk to store the plan of generation {generation}")
            }
            Self::Training { generation, members } => {
                write!(f, "training: generation {generation}, {}", counted(*members, "worker"))
            }
            Self::Evaluating(step) => write!(
                f,
                "waiting for the evaluation of step {step}, which decides whether the run goes on"
            ),
            Self::Stopping => f.write_str("stopping: waiting for the last checkpoint"),
            Self::Returning { unsaved, members, left } => {
                write!(f, "stopping: {unsaved} not saved yet; waiting for")?;
                for (i, LastSeen { name, step, ago }) in members.iter().enumerate() {
                    let (separator, name) = (if i == 0 { " " } else { ", " }, worker(name));
                    let seconds = ago.as_secs();
                    write!(f, "{separator}{name} (last seen at step {step}, {seconds} s ago)")?;
                }
                write!(f, ", for up to {} s more", left.as_secs().max(1))
            }
            Self::Releasing(names) => {
                write!(f, "saving a checkpoint before these workers leave: {}", names.join(", "))
            }
            Self::Finishing => f.write_str("finished: telling the workers"),
        }
    }
}
