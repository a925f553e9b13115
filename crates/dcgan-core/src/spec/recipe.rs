//! The parts of the recipe that have other forms than the tutorial's, and what goes with what.

use super::run_spec::{RunSpec, RunSpecError};
use super::words::words;
use crate::ids::Step;

words! {
    /// The losses of both networks, as functions of the discriminator's output.
    Loss {
        /// Binary cross-entropy of the output as a logit, non-saturating for the generator
        /// (Goodfellow et al., "Generative Adversarial Nets", NIPS 2014).
        #[default]
        Bce = "bce",
        /// The hinge loss (Lim and Ye, "Geometric GAN", 2017, equations 9 and 10).
        Hinge = "hinge",
        /// Half the square of the distance from 1 and 0 (Mao et al., "Least Squares Generative
        /// Adversarial Networks", ICCV 2017, equation 9).
        LeastSquares = "least-squares",
    }
}

words! {
    /// The distribution of the initial weights. Biases begin with zero.
    Initializer {
        /// Uniform within ±sqrt(6 / (fan_in + fan_out)), as Keras has it (Glorot and Bengio,
        /// AISTATS 2010, equation 16).
        #[default]
        Glorot = "glorot",
        /// Normal with deviation 0.02 (Radford et al., "Unsupervised Representation Learning with
        /// DCGANs", ICLR 2016, section 4).
        Normal = "normal",
    }
}

/// The greatest distance that augmentation may move an image by, in pixels: half its side.
const TRANSLATION_MAX: u16 = 14;

impl RunSpec {
    /// Tells whether a step, counted from 1, trains the generator.
    pub fn trains_generator(&self, step: Step) -> bool {
        step.is_multiple_of(self.d_steps())
    }

    /// Checks the settings of the recipe.
    pub(super) fn check_recipe(&self) -> Result<(), RunSpecError> {
        let smoothing = self.label_smoothing();
        RunSpecError::unless_in_range(
            "label-smoothing",
            smoothing,
            (0.0..0.5).contains(&smoothing),
            "at least 0 and below 0.5",
        )?;
        if smoothing > 0.0 && self.loss() == Loss::Hinge {
            return Err(RunSpecError::no_effect("label-smoothing", "loss", self.loss()));
        }
        let norm = self.clip_grad_norm();
        RunSpecError::unless_in_range(
            "clip-grad-norm",
            norm,
            norm >= 0.0 && norm.is_finite(),
            "at least 0 and finite",
        )?;
        RunSpecError::unless_in_range("d-steps", self.d_steps(), self.d_steps() > 0, "at least 1")?;
        RunSpecError::unless_in_range(
            "augment-translation",
            self.augment_translation(),
            self.augment_translation() <= TRANSLATION_MAX,
            "at most 14",
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::Digest;
    use crate::spec::{DatasetInfo, RunSpecBuilder};

    fn build(builder: RunSpecBuilder) -> Result<RunSpec, String> {
        let data = DatasetInfo { images: 60_000, rows: 28, columns: 28, digest: Digest(1) };
        builder.build(data).map_err(|error| error.to_string())
    }

    #[test]
    fn settings_of_the_recipe_that_do_not_fit_are_refused_by_their_flags() {
        let new = RunSpec::builder;
        for (builder, expected) in [
            (new().label_smoothing(0.5), "--label-smoothing 0.5 is not at least 0 and below 0.5"),
            (
                new().label_smoothing(f64::NAN),
                "--label-smoothing NaN is not at least 0 and below 0.5",
            ),
            (
                new().label_smoothing(0.1).loss(Loss::Hinge),
                "--label-smoothing has no effect with --loss hinge; leave it out",
            ),
            (new().clip_grad_norm(-1.0), "--clip-grad-norm -1 is not at least 0 and finite"),
            (new().d_steps(0), "--d-steps 0 is not at least 1"),
            (new().augment_translation(15), "--augment-translation 15 is not at most 14"),
        ] {
            assert_eq!(build(builder), Err(expected.to_owned()));
        }
        assert!(build(new().label_smoothing(0.1).loss(Loss::LeastSquares)).is_ok());
    }

    #[test]
    fn the_generator_is_trained_in_every_step_of_the_given_interval() {
        let trained = |d_steps| {
            let spec = build(RunSpec::builder().d_steps(d_steps)).unwrap();
            (1..=6).filter(|&step| spec.trains_generator(step)).collect::<Vec<Step>>()
        };
        assert_eq!(trained(1), [1, 2, 3, 4, 5, 6]);
        assert_eq!(trained(3), [3, 6]);
    }
}
