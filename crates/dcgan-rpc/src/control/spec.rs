//! The specification and the schedule of a run, to and from the wire.

use std::num::NonZeroU64;

use dcgan_core::spec::RunSpec;
use dcgan_core::spec::schedule::Schedule;

use crate::convert::Malformed;
use crate::pb;

/// Writes a specification as JSON, the form in which the checkpoints have it, too: a setting that
/// is added needs no message of its own.
pub(super) fn to_json(spec: &RunSpec) -> String {
    serde_json::to_string(spec).expect("a specification has only strings for keys")
}

/// Reads and checks a specification; the error says in words what is wrong with it.
pub(super) fn from_json(text: &str) -> Result<RunSpec, String> {
    serde_json::from_str(text).map_err(|error| error.to_string())
}

impl From<Schedule> for pb::Schedule {
    fn from(schedule: Schedule) -> Self {
        let Schedule {
            last_step,
            log_every,
            grid_every,
            checkpoint_every,
            evaluate_every,
            early_stopping,
        } = schedule;
        let [evaluate_every, early_stopping] =
            [evaluate_every, early_stopping].map(|number| number.map_or(0, NonZeroU64::get));
        Self { last_step, log_every, grid_every, checkpoint_every, evaluate_every, early_stopping }
    }
}

impl TryFrom<pb::Schedule> for Schedule {
    type Error = Malformed;

    fn try_from(schedule: pb::Schedule) -> Result<Self, Malformed> {
        let pb::Schedule {
            last_step,
            log_every,
            grid_every,
            checkpoint_every,
            evaluate_every,
            early_stopping,
        } = schedule;
        // Whether something is due is a division by the interval.
        if [log_every, grid_every, checkpoint_every].contains(&0) {
            return Err(Malformed("a schedule with an interval of 0 steps"));
        }
        let [evaluate_every, early_stopping] =
            [evaluate_every, early_stopping].map(NonZeroU64::new);
        Ok(Self {
            last_step,
            log_every,
            grid_every,
            checkpoint_every,
            evaluate_every,
            early_stopping,
        })
    }
}
