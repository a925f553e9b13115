//! One digest for all processors: a few steps with every instruction set that this processor has.
//!
//! `.ci/aarch64` runs the same test on an emulated ARM processor.

use std::slice;
use std::sync::Arc;

use dcgan_core::ids::{Digest, Phase, Position};
use dcgan_core::metrics::Metrics;
use dcgan_core::objective::{Objective, Scratch, ShardTask};
use dcgan_core::spec::sharding::Partition;
use dcgan_core::spec::{DatasetInfo, Initializer, Loss, RunSpec, RunSpecBuilder};
use dcgan_core::state::Layout;
use dcgan_core::state::State;
use dcgan_core::train::{Shard, train_step};
use dcgan_model::{Dcgan, DeviceChoice};

/// The state's digest after three steps from seed 22 on the pattern below. It changes only together
/// with the fingerprint's `REVISION`, or with the default of a setting.
const GOLDEN: Digest = Digest(0xad71_a0dc_1210_7bfd);
/// The digest of the same training without the generator's moving average, as runs are that were
/// begun before there was one.
const GOLDEN_WITHOUT_EMA: Digest = Digest(0x1423_3f8e_6416_905b);

const PIXELS: usize = 28 * 28;
const IMAGES: usize = 12;
const STEPS: u64 = 3;

/// The DCGAN, computing ahead after every phase as a worker's threads do while a phase is reduced.
struct ComputesAhead<'a>(&'a Dcgan);

impl Objective for ComputesAhead<'_> {
    fn layout(&self) -> &Arc<Layout> {
        self.0.layout()
    }

    fn initial_state(&self) -> State {
        self.0.initial_state()
    }

    fn phase_vector_len(&self, phase: Phase) -> usize {
        self.0.phase_vector_len(phase)
    }

    fn tensors_read(&self, phase: Phase) -> &[usize] {
        self.0.tensors_read(phase)
    }

    fn shard_vector(&self, task: &ShardTask<'_>, scratch: &mut Scratch) -> Vec<f32> {
        let vector = self.0.shard_vector(task, scratch);
        self.0.compute_ahead(slice::from_ref(task), slice::from_mut(scratch));
        vector
    }

    fn optimizer_step(&self, state: &mut State, at: Position, sum: &[f32]) {
        self.0.optimizer_step(state, at, sum);
    }

    fn metrics(&self, state: &State) -> Metrics {
        self.0.metrics(state)
    }
}

/// The state's digest after the steps, with the default settings.
fn digest(device: DeviceChoice, computes_ahead: bool) -> Digest {
    digest_with(RunSpec::builder(), device, computes_ahead)
}

fn digest_with(settings: RunSpecBuilder, device: DeviceChoice, computes_ahead: bool) -> Digest {
    let data = DatasetInfo { images: IMAGES, rows: 28, columns: 28, digest: Digest(0) };
    let spec = settings.batch_size(5).shards(1).build(data).expect("the spec is a good one");
    let dcgan = Dcgan::new(spec, device).expect("the device is there");
    let partition =
        Partition::new(PIXELS, (0..IMAGES * PIXELS).map(|i| (i * i / 97) as u8).collect());
    let ahead = ComputesAhead(&dcgan);
    let objective: &dyn Objective = if computes_ahead { &ahead } else { &dcgan };
    let mut shards = Shard::all(1, |_| &partition);
    let mut state = dcgan.initial_state();
    for step in 1..=STEPS {
        train_step(objective, &mut shards, &mut state, step, |_, _| {});
    }
    state.digest()
}

#[test]
fn computing_ahead_does_not_change_the_digest() {
    assert_eq!(digest(DeviceChoice::default(), true), GOLDEN);
}

/// Two recipes that have each option between them.
fn recipes() -> [RunSpecBuilder; 2] {
    let builder = RunSpec::builder().clip_grad_norm(0.5).augment_translation(3);
    let hinge = builder.clone().loss(Loss::Hinge).spectral_norm(true).d_steps(2).beta2(0.9);
    let squares = builder
        .d_lr_ratio(2.0)
        .loss(Loss::LeastSquares)
        .label_smoothing(0.1)
        .init(Initializer::Normal);
    [hinge, squares]
}

#[test]
fn every_option_of_the_recipe_has_the_same_bits_with_all_instruction_sets_and_ahead() {
    for recipe in recipes() {
        let expected = digest_with(recipe.clone(), DeviceChoice::default(), true);
        assert_ne!(expected, GOLDEN);
        for name in ["cpu:scalar", "cpu:avx2", "cpu:avx512", "cpu:neon"] {
            if let Ok(device) = name.parse() {
                assert_eq!(digest_with(recipe.clone(), device, false), expected, "{name}");
            }
        }
    }
}

#[test]
fn without_a_moving_average_the_digest_is_that_of_older_runs() {
    let settings = RunSpec::builder().ema_decay(0.0);
    assert_eq!(digest_with(settings, DeviceChoice::default(), false), GOLDEN_WITHOUT_EMA);
}

#[test]
fn all_instruction_sets_give_the_golden_digest() {
    for name in ["cpu:scalar", "cpu:avx2", "cpu:avx512", "cpu:neon"] {
        match name.parse() {
            Ok(device) => {
                println!("{name}");
                assert_eq!(digest(device, false), GOLDEN, "{name}");
            }
            Err(error) => println!("skipped {name}: {error}"),
        }
    }
}
