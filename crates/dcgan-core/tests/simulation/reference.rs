//! The oracle: an undisturbed run by one process, straight from the definition of a training step.

use std::collections::BTreeMap;
use std::num::NonZeroU64;
use std::sync::Arc;

use dcgan_core::evaluation::{EvaluationRow, evaluate};
use dcgan_core::ids::{Digest, Position, Step};
use dcgan_core::metrics::NamedMetrics;
use dcgan_core::objective::Objective;
use dcgan_core::spec::sharding::Partition;
use dcgan_core::spec::{DatasetInfo, ObjectiveKind, RunSpec};
use dcgan_core::toy::Toy;
use dcgan_core::train::{Shard, train_step};

use crate::world::EVALUATE_EVERY;

/// A run of the toy, its digest at every position, and what is known of its steps.
pub(crate) struct Reference {
    pub(crate) objective: Arc<Toy>,
    pub(crate) spec: RunSpec,
    pub(crate) partition: Partition,
    pub(crate) digests: BTreeMap<Position, Digest>,
    /// The last step. A run may end before its schedule.
    pub(crate) last_step: Step,
    /// The loss of the generator's phase of each step.
    pub(crate) losses: BTreeMap<Step, f32>,
    pub(crate) evaluations: BTreeMap<Step, EvaluationRow>,
    /// The run ends when so many evaluations in a row are no better.
    pub(crate) early_stopping: Option<NonZeroU64>,
}

impl Reference {
    /// Computes a run of so many steps.
    pub(crate) fn new(shards: u16, last_step: Step) -> Self {
        Self::ending_below(shards, last_step, 0.0)
    }

    /// Computes a run that ends with the first step whose loss is smaller than this, or with the
    /// last step.
    pub(crate) fn ending_below(shards: u16, last_step: Step, loss: f32) -> Self {
        let images = 10 * usize::from(shards) + 1;
        let data = DatasetInfo { images, rows: 1, columns: 1, digest: Digest(0) };
        let builder = RunSpec::builder().objective(ObjectiveKind::Toy).shards(shards);
        let builder = builder.batch_size(2 * usize::from(shards)).learning_rate(0.1);
        let spec = builder.build(data).unwrap();
        let toy = Toy::new(spec.clone()).ending_below(loss);
        // One partition serves all shards. It has one image more than a real one ever holds, and
        // the toy does not care which image it gets.
        let partition = Partition::new(1, (0..11).collect());
        let mut shards = Shard::all(shards, |_| &partition);
        let mut state = toy.initial_state();
        let mut digests = BTreeMap::from([(Position::after(0), state.digest())]);
        let info = spec.evaluation().unwrap();
        let (mut losses, mut evaluations) = (BTreeMap::new(), BTreeMap::new());
        let mut end = 0;
        for step in 1..=last_step {
            if step > 1 && toy.ends_run(&state) {
                break;
            }
            train_step(&toy, &mut shards, &mut state, step, |position, state| {
                digests.insert(position, state.digest());
            });
            end = step;
            losses.insert(step, toy.metrics(&state)[2]);
            let values = NamedMetrics::new(info.names, evaluate(&toy, &info, &state));
            evaluations.insert(step, EvaluationRow { step, values, state_digest: state.digest() });
        }
        drop(shards);
        let last_step = end;
        let objective = Arc::new(toy);
        Self {
            objective,
            spec,
            partition,
            digests,
            last_step,
            losses,
            evaluations,
            early_stopping: None,
        }
    }

    /// Ends the run early when so many evaluations in a row are no better.
    pub(crate) fn with_early_stopping(mut self, patience: u64) -> Self {
        self.early_stopping = NonZeroU64::new(patience);
        let (mut best, mut since_best) = (f64::INFINITY, 0);
        for step in (EVALUATE_EVERY..self.last_step).step_by(EVALUATE_EVERY as usize) {
            let (_, value) = self.evaluations[&step].values.iter().next().unwrap();
            since_best = if value < best { 0 } else { since_best + 1 };
            best = best.min(value);
            if since_best == patience {
                self.last_step = self.last_step.min(step + EVALUATE_EVERY);
                break;
            }
        }
        self
    }
}
