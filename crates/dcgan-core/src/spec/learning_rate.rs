//! Schedules of the learning rate.
//!
//! A rate is a function of the specification and of the step. It must not depend on the length of
//! a run: a run may be made longer, and then steps that were done already would have had another
//! rate. So a schedule has a horizon of its own, which the length neither sets nor moves.

use std::f64::consts::FRAC_PI_2;

use super::words::words;
use super::{RunSpec, RunSpecError, steps};
use crate::ids::{Phase, Step};
use crate::portable::{cosine, power};

words! {
    /// The course of the learning rate after the warm-up.
    LearningRateSchedule {
        /// The rate stays as it is.
        #[default]
        Constant = "constant",
        /// The rate falls to the final one along a line.
        Linear = "linear",
        /// The rate falls to the final one along half a period of a cosine (Loshchilov and Hutter,
        /// "SGDR", ICLR 2017, equation 5, without restarts).
        Cosine = "cosine",
        /// The rate is multiplied by a factor at equal intervals.
        Step = "step",
    }
}

/// The default factor by which a step schedule multiplies the learning rate.
pub(super) const DECAY_FACTOR: f64 = 0.5;
/// The default horizon of a schedule, in epochs: the default length of a run.
const HORIZON_EPOCHS: u64 = 20;
/// The default interval of a step schedule, in epochs: a quarter of that.
const DECAY_EPOCHS: u64 = 5;

impl LearningRateSchedule {
    /// Tells whether the schedule has a horizon, and a rate that it falls to.
    fn has_horizon(self) -> bool {
        matches!(self, Self::Linear | Self::Cosine)
    }
}

impl RunSpec {
    /// The step size of Adam in a step, for the generator. Row and optimizer ask here, and nowhere
    /// else: a schedule is a pure function of the specification and the step.
    pub fn learning_rate_at(&self, step: Step) -> f64 {
        learning_rate_at(self, step)
    }

    /// The step size of Adam in a step, for the network that `phase` trains.
    pub fn learning_rate_in(&self, phase: Phase, step: Step) -> f64 {
        let ratio = if phase == Phase::Generator { 1.0 } else { self.d_lr_ratio() };
        ratio * self.learning_rate_at(step)
    }

    /// The step after which the learning rate is the final one, if its schedule has one.
    pub fn schedule_horizon(&self) -> Step {
        self.steps_or_epochs(self.schedule_steps(), HORIZON_EPOCHS)
    }

    /// The number of steps between two drops of the learning rate, if its schedule has any.
    pub fn decay_interval(&self) -> u64 {
        self.steps_or_epochs(self.decay_every(), DECAY_EPOCHS)
    }

    /// A number of steps, or those of some epochs if it is 0.
    fn steps_or_epochs(&self, number: u64, epochs: u64) -> u64 {
        if number == 0 { steps(self.sharding(), epochs) } else { number }
    }

    /// Checks the settings of the schedule.
    pub(super) fn check_schedule(&self) -> Result<(), RunSpecError> {
        let (peak, end) = (self.learning_rate(), self.final_learning_rate());
        RunSpecError::unless_in_range(
            "final-learning-rate",
            end,
            (0.0..=peak).contains(&end),
            format!("at least 0 and at most --learning-rate {peak}"),
        )?;
        let factor = self.decay_factor();
        RunSpecError::unless_in_range(
            "decay-factor",
            factor,
            factor > 0.0 && factor < 1.0,
            "above 0 and below 1",
        )?;
        let schedule = self.lr_schedule();
        let (has_horizon, has_steps) =
            (schedule.has_horizon(), schedule == LearningRateSchedule::Step);
        // A setting that is not the default was given.
        for (setting, is_given, is_used) in [
            ("schedule-steps", self.schedule_steps() != 0, has_horizon),
            ("final-learning-rate", end != 0.0, has_horizon),
            ("decay-every", self.decay_every() != 0, has_steps),
            ("decay-factor", factor != DECAY_FACTOR, has_steps),
        ] {
            if is_given && !is_used {
                return Err(RunSpecError::no_effect(setting, "lr-schedule", schedule));
            }
        }
        let (warmup, horizon) = (self.warmup_steps(), self.schedule_horizon());
        RunSpecError::unless_in_range(
            "warmup-steps",
            warmup,
            !has_horizon || warmup < horizon,
            format!("below the {horizon} steps of --schedule-steps"),
        )
    }
}

/// Computes the learning rate of a step, counted from 1.
fn learning_rate_at(spec: &RunSpec, step: Step) -> f64 {
    let (peak, warmup) = (spec.learning_rate(), spec.warmup_steps());
    // The warm-up rises from 1/N of the rate to all of it (Goyal et al., "Accurate, Large Minibatch
    // SGD", 2017, section 2.2).
    if step < warmup {
        return peak * (step as f64 / warmup as f64);
    }
    // As in PyTorch, the first step after the warm-up still has all of the rate.
    let done = step.saturating_sub(warmup).saturating_sub(1);
    match spec.lr_schedule() {
        LearningRateSchedule::Constant => peak,
        LearningRateSchedule::Linear => falling(spec, done, |progress| 1.0 - progress),
        LearningRateSchedule::Cosine => falling(spec, done, |progress| {
            // (1 + cos(pi x)) / 2, written as the square of the cosine of half the angle.
            let cosine = cosine(FRAC_PI_2 * progress);
            cosine * cosine
        }),
        LearningRateSchedule::Step => {
            peak * power(spec.decay_factor(), done / spec.decay_interval())
        }
    }
}

/// Computes the rate after `done` steps of a fall from the whole rate to the final one. `remaining`
/// maps the progress, from 0 to below 1, to the part of the fall that is still ahead.
fn falling(spec: &RunSpec, done: u64, remaining: impl Fn(f64) -> f64) -> f64 {
    let (peak, end) = (spec.learning_rate(), spec.final_learning_rate());
    let length = spec.schedule_horizon().saturating_sub(spec.warmup_steps());
    if done >= length {
        return end;
    }
    let remaining = remaining(done as f64 / length as f64);
    // At both ends one of the products is exactly zero.
    peak * remaining + end * (1.0 - remaining)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::Digest;
    use crate::spec::{DatasetInfo, RunSpecBuilder};

    const MNIST: DatasetInfo =
        DatasetInfo { images: 60_000, rows: 28, columns: 28, digest: Digest(1) };

    fn builder(schedule: LearningRateSchedule) -> RunSpecBuilder {
        RunSpec::builder().learning_rate(1e-3).lr_schedule(schedule)
    }

    /// The rates of some steps, in thousandths of the whole rate.
    fn rates<const N: usize>(builder: RunSpecBuilder, steps: [Step; N]) -> [f64; N] {
        let spec = builder.build(MNIST).unwrap();
        steps.map(|step| (spec.learning_rate_at(step) * 1e9).round() / 1e3)
    }

    #[test]
    fn the_discriminator_may_learn_at_another_rate() {
        let spec = builder(LearningRateSchedule::Linear).d_lr_ratio(4.0).build(MNIST).unwrap();
        let rate = spec.learning_rate_at(1);
        assert_eq!(spec.learning_rate_in(Phase::Generator, 1), rate);
        for phase in [Phase::DiscriminatorReal, Phase::DiscriminatorFake] {
            assert_eq!(spec.learning_rate_in(phase, 1), 4.0 * rate);
        }
    }

    #[test]
    fn by_default_the_rate_is_that_of_the_tutorial_in_every_step() {
        let spec = RunSpec::builder().build(MNIST).unwrap();
        for step in [0, 1, 2, 4680, Step::MAX] {
            assert_eq!(spec.learning_rate_at(step), 2e-4);
        }
    }

    #[test]
    fn a_warm_up_rises_to_the_whole_rate() {
        let warm = |schedule| builder(schedule).warmup_steps(4);
        let constant = rates(warm(LearningRateSchedule::Constant), [1, 2, 3, 4, 5, 9999]);
        assert_eq!(constant, [250.0, 500.0, 750.0, 1000.0, 1000.0, 1000.0]);
        // The schedule begins afterwards.
        let linear = rates(warm(LearningRateSchedule::Linear).schedule_steps(14), [3, 4, 5, 6, 10]);
        assert_eq!(linear, [750.0, 1000.0, 1000.0, 900.0, 500.0]);
        let step = rates(warm(LearningRateSchedule::Step).decay_every(10), [4, 5, 14, 15]);
        assert_eq!(step, [1000.0, 1000.0, 1000.0, 500.0]);
    }

    #[test]
    fn linear_and_cosine_reach_the_final_rate_with_the_horizon_and_keep_it() {
        let steps = [1, 2, 51, 100, 101, 102, Step::MAX];
        let linear = builder(LearningRateSchedule::Linear).schedule_steps(100);
        assert_eq!(rates(linear.clone(), steps), [1000.0, 990.0, 500.0, 10.0, 0.0, 0.0, 0.0]);
        let above_zero = linear.final_learning_rate(1e-4);
        assert_eq!(rates(above_zero, steps), [1000.0, 991.0, 550.0, 109.0, 100.0, 100.0, 100.0]);
        let cosine = builder(LearningRateSchedule::Cosine).schedule_steps(100);
        assert_eq!(rates(cosine, steps), [1000.0, 999.753, 500.0, 0.247, 0.0, 0.0, 0.0]);
    }

    #[test]
    #[expect(clippy::disallowed_methods, reason = "a comparison that leaves room for rounding")]
    fn cosine_is_that_of_libm() {
        let builder = builder(LearningRateSchedule::Cosine).final_learning_rate(1e-5);
        let spec = builder.schedule_steps(1000).build(MNIST).unwrap();
        for done in 0..1000 {
            let cosine = (std::f64::consts::PI * done as f64 / 1000.0).cos();
            let expected = 1e-5 + (1e-3 - 1e-5) * (1.0 + cosine) / 2.0;
            assert!((spec.learning_rate_at(done + 1) - expected).abs() < 1e-12, "{done}");
        }
    }

    #[test]
    fn the_horizon_is_20_epochs_by_default_and_does_not_depend_on_the_length_of_the_run() {
        let linear = builder(LearningRateSchedule::Linear);
        assert_eq!(rates(linear, [1, 2341, 4681]), [1000.0, 500.0, 0.0]);
    }

    #[test]
    fn steps_multiply_the_rate_at_equal_intervals() {
        let step = builder(LearningRateSchedule::Step);
        let halved = rates(step.clone(), [1, 1170, 1171, 2340, 2341, 3511]);
        assert_eq!(halved, [1000.0, 1000.0, 500.0, 500.0, 250.0, 125.0]);
        let tenths = step.decay_every(3).decay_factor(0.1);
        assert_eq!(rates(tenths.clone(), [3, 4, 7]), [1000.0, 100.0, 10.0]);
        assert_eq!(tenths.build(MNIST).unwrap().learning_rate_at(Step::MAX), 0.0);
    }

    #[test]
    fn settings_of_a_schedule_that_do_not_fit_are_refused_by_their_flags() {
        use LearningRateSchedule::{Constant, Cosine, Linear, Step};
        let new = RunSpec::builder;
        for (builder, expected) in [
            (
                new().lr_schedule(Linear).final_learning_rate(1e-3),
                "--final-learning-rate 0.001 is not at least 0 and at most --learning-rate 0.0002",
            ),
            (
                new().lr_schedule(Cosine).final_learning_rate(f64::NAN),
                "--final-learning-rate NaN is not at least 0 and at most --learning-rate 0.0002",
            ),
            (
                new().lr_schedule(Cosine).warmup_steps(100).schedule_steps(100),
                "--warmup-steps 100 is not below the 100 steps of --schedule-steps",
            ),
            (
                new().lr_schedule(Linear).warmup_steps(5000),
                "--warmup-steps 5000 is not below the 4680 steps of --schedule-steps",
            ),
            (
                new().lr_schedule(Step).decay_factor(1.0),
                "--decay-factor 1 is not above 0 and below 1",
            ),
            (
                new().lr_schedule(Cosine).decay_every(10),
                "--decay-every has no effect with --lr-schedule cosine; leave it out",
            ),
            (
                new().decay_factor(0.1),
                "--decay-factor has no effect with --lr-schedule constant; leave it out",
            ),
            (
                new().lr_schedule(Step).schedule_steps(10),
                "--schedule-steps has no effect with --lr-schedule step; leave it out",
            ),
            (
                new().lr_schedule(Constant).final_learning_rate(1e-5),
                "--final-learning-rate has no effect with --lr-schedule constant; leave it out",
            ),
        ] {
            assert_eq!(builder.build(MNIST).unwrap_err().to_string(), expected);
        }
        let built = new().lr_schedule(Constant).warmup_steps(5000).build(MNIST);
        assert!(built.is_ok(), "a warm-up needs no horizon");
    }
}
