//! Which of several values of a setting counts: flags beat `DCGAN_*` variables, which beat the file, which beats what a
//! run directory has saved.

use clap::ArgMatches;
use clap::parser::ValueSource;

use crate::config::PartialConfig;

/// Takes each setting from the first that gives it.
macro_rules! first_given {
    ($first:ident, $second:ident; $($field:ident)*) => {
        PartialConfig {
            $($field: $first.$field.or($second.$field),)*
            ..$first
        }
    };
}

impl PartialConfig {
    /// These settings, and those of `second` where nothing is given here. The length is one setting.
    pub(crate) fn or(self, second: Self) -> Self {
        let first = self;
        let (epochs, steps) = match (first.epochs, first.steps) {
            (None, None) => (second.epochs, second.steps),
            given => given,
        };
        let merged = first_given!(first, second; workers min_workers threads data batch_size shards seed learning_rate
            beta1 log_every grid_every checkpoint_every keep_checkpoints objective data_set);
        Self { epochs, steps, ..merged }
    }

    /// Of a length that a flag gives and one that a variable gives, keeps the flag's.
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
    fn the_first_that_is_given_counts() {
        let given = |toml: &str| -> PartialConfig { toml::from_str(toml).unwrap() };
        let merged = given("seed = 1\nsteps = 5").or(given("seed = 2\nworkers = 3\nepochs = 4"));
        assert_eq!(merged, given("seed = 1\nsteps = 5\nworkers = 3"));
        assert_eq!(given("").or(given("epochs = 4")), given("epochs = 4"));
    }
}
