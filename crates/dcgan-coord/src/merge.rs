//! Decides which of several values of a setting counts: flags beat `DCGAN_*` variables, these beat
//! the file, and the file beats the values that a run directory has saved.
//!
//! The length of a run is one setting with two keys, `epochs` and `steps`. Merging the two keys
//! apart could take one from a flag and the other from a saved file, which contradict each other.

use clap::ArgMatches;
use clap::parser::ValueSource;

use crate::config::PartialConfig;

impl PartialConfig {
    /// These settings, completed by those of `other` where none is given here.
    pub(crate) fn or(self, other: Self) -> Self {
        let (epochs, steps) = match (self.epochs, self.steps) {
            (None, None) => (other.epochs, other.steps),
            given => given,
        };
        // Every field is spelled out, so that the compiler finds a setting that is not merged.
        Self {
            workers: self.workers.or(other.workers),
            min_workers: self.min_workers.or(other.min_workers),
            threads: self.threads.or(other.threads),
            data: self.data.or(other.data),
            epochs,
            steps,
            batch_size: self.batch_size.or(other.batch_size),
            shards: self.shards.or(other.shards),
            seed: self.seed.or(other.seed),
            learning_rate: self.learning_rate.or(other.learning_rate),
            beta1: self.beta1.or(other.beta1),
            log_every: self.log_every.or(other.log_every),
            grid_every: self.grid_every.or(other.grid_every),
            checkpoint_every: self.checkpoint_every.or(other.checkpoint_every),
            keep_checkpoints: self.keep_checkpoints.or(other.keep_checkpoints),
            objective: self.objective.or(other.objective),
            data_set: self.data_set.or(other.data_set),
        }
    }

    /// Drops a length that a variable gives if a flag gives another.
    pub(crate) fn prefer_flags(self, matches: &ArgMatches) -> Self {
        let from_variable = |id| matches.value_source(id) == Some(ValueSource::EnvVariable);
        match (from_variable("epochs"), from_variable("steps")) {
            (true, false) if self.steps.is_some() => Self { epochs: None, ..self },
            (false, true) if self.epochs.is_some() => Self { steps: None, ..self },
            _ => self,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_given_value_counts_and_the_length_is_one_setting() {
        let given = |toml: &str| -> PartialConfig { toml::from_str(toml).unwrap() };
        let merged = given("seed = 1\nsteps = 5").or(given("seed = 2\nworkers = 3\nepochs = 4"));
        assert_eq!(merged, given("seed = 1\nsteps = 5\nworkers = 3"));
        assert_eq!(given("").or(given("epochs = 4")), given("epochs = 4"));
    }
}
