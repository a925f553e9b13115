//! Decides which of several values of a setting counts: flags beat `DCGAN_*` variables, these beat
//! the file, and the file beats the values that a run directory has saved.
//!
//! Settings are merged as tables of keys, so that there is no list of them here in which one could
//! be forgotten. The length of a run is one setting with two keys, `epochs` and `steps`. Merging
//! the two keys apart could take one from a flag and the other from a saved file, which contradict
//! each other. So it is with the initial weights, which have a file and a digest.

use clap::ArgMatches;
use dcgan_process::settings::is_from_variable;

use crate::config::PartialConfig;

/// The keys of the length.
const LENGTH: [&str; 2] = ["epochs", "steps"];
/// The keys of the initial weights: their file, and the digest that they had.
const INITIAL_WEIGHTS: [&str; 2] = ["init-from", "initial-weights"];

impl PartialConfig {
    /// These settings, completed by those of `other` where none is given here.
    ///
    /// # Errors
    /// If a value cannot be written to a TOML file.
    pub(crate) fn or(self, other: &Self) -> anyhow::Result<Self> {
        let mut merged = self.table()?;
        let given = [LENGTH, INITIAL_WEIGHTS]
            .into_iter()
            .filter(|keys| keys.iter().any(|&key| merged.contains_key(key)));
        let given = given.flatten().collect::<Vec<_>>();
        for (key, value) in other.table()? {
            if !given.contains(&key.as_str()) {
                merged.entry(key).or_insert(value);
            }
        }
        Ok(merged.try_into()?)
    }

    /// Drops a length that a variable gives if a flag gives another.
    pub(crate) fn prefer_flags(self, matches: &ArgMatches) -> Self {
        match LENGTH.map(|key| is_from_variable(matches, key)) {
            [true, false] if self.steps.is_some() => Self { epochs: None, ..self },
            [false, true] if self.epochs.is_some() => Self { steps: None, ..self },
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
        let merged = |first, second| given(first).or(&given(second)).unwrap();
        assert_eq!(
            merged("seed = 1\nsteps = 5", "seed = 2\nworkers = 3\nepochs = 4"),
            given("seed = 1\nsteps = 5\nworkers = 3")
        );
        assert_eq!(merged("local = false", "local = true"), given("local = false"));
        let saved = "seed = 1\ninit-from = \"a\"\ninitial-weights = \"0000000000000007\"";
        assert_eq!(merged("init-from = \"b\"", saved), given("init-from = \"b\"\nseed = 1"));
        assert_eq!(merged("", saved), given(saved));
        assert_eq!(merged("", "epochs = 4"), given("epochs = 4"));
    }
}
