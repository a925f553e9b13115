//! The specification and the schedule of a run, to and from the wire.

use dcgan_core::ids::Digest;
use dcgan_core::spec::schedule::Schedule;
use dcgan_core::spec::{DatasetInfo, ObjectiveKind, RunSpec};

use crate::convert::{self, Malformed};
use crate::pb;

impl From<RunSpec> for pb::RunSpec {
    fn from(spec: RunSpec) -> Self {
        let DatasetInfo { images, rows, columns, digest } = spec.data;
        Self {
            objective: spec.objective.to_string(),
            batch_size: spec.batch_size as u64,
            shards: spec.shards.into(),
            seed: spec.seed,
            learning_rate: spec.learning_rate,
            beta1: spec.beta1,
            images: images as u64,
            rows: rows as u64,
            columns: columns as u64,
            data_digest: digest.0,
        }
    }
}

impl TryFrom<pb::RunSpec> for RunSpec {
    type Error = Malformed;

    fn try_from(spec: pb::RunSpec) -> Result<Self, Malformed> {
        let kinds = [ObjectiveKind::Dcgan, ObjectiveKind::Toy];
        let objective = kinds.into_iter().find(|kind| kind.to_string() == spec.objective);
        let shards = u16::try_from(spec.shards)
            .map_err(|_| Malformed("a spec with more than 65535 shards"))?;
        let converted = Self {
            objective: objective.ok_or(Malformed("a spec with an unknown objective"))?,
            batch_size: convert::size(spec.batch_size)?,
            shards,
            seed: spec.seed,
            learning_rate: spec.learning_rate,
            beta1: spec.beta1,
            data: DatasetInfo {
                images: convert::size(spec.images)?,
                rows: convert::size(spec.rows)?,
                columns: convert::size(spec.columns)?,
                digest: Digest(spec.data_digest),
            },
        };
        match converted.check() {
            Ok(_sharding) => Ok(converted),
            Err(_) => Err(Malformed("a spec that cannot be followed")),
        }
    }
}

impl From<Schedule> for pb::Schedule {
    fn from(schedule: Schedule) -> Self {
        let Schedule { last_step, log_every, grid_every, checkpoint_every } = schedule;
        Self { last_step, log_every, grid_every, checkpoint_every }
    }
}

impl TryFrom<pb::Schedule> for Schedule {
    type Error = Malformed;

    fn try_from(schedule: pb::Schedule) -> Result<Self, Malformed> {
        let pb::Schedule { last_step, log_every, grid_every, checkpoint_every } = schedule;
        // Whether something is due is a division by the interval.
        if [log_every, grid_every, checkpoint_every].contains(&0) {
            return Err(Malformed("a schedule with an interval of 0 steps"));
        }
        Ok(Self { last_step, log_every, grid_every, checkpoint_every })
    }
}
