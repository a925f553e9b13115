//! The headings under which help shows the settings of a training.

use clap::Arg;
use dcgan_process::settings::in_plain_words;

/// Flags, without the dashes, by the heading above them. Others are options of the program.
const HEADINGS: [(&str, &[&str]); 6] = [
    (
        "Processes",
        &[
            "local",
            "workers",
            "min-workers",
            "threads",
            "device",
            "listen",
            "http",
            "insecure",
            "fixed-shards",
            "workers-timeout",
        ],
    ),
    ("Images", &["data", "transpose"]),
    ("Length", &["epochs", "steps", "early-stopping"]),
    (
        "Training",
        &[
            "batch-size",
            "shards",
            "seed",
            "init",
            "init-from",
            "loss",
            "label-smoothing",
            "clip-grad-norm",
            "d-steps",
            "spectral-norm",
            "augment-translation",
            "ema-decay",
        ],
    ),
    (
        "Adam and its learning rate",
        &[
            "learning-rate",
            "d-lr-ratio",
            "beta1",
            "beta2",
            "lr-schedule",
            "warmup-steps",
            "schedule-steps",
            "final-learning-rate",
            "decay-every",
            "decay-factor",
        ],
    ),
    (
        "What is saved",
        &[
            "out",
            "resume",
            "log-every",
            "grid-every",
            "checkpoint-every",
            "keep-checkpoints",
            "eval-every",
            "evaluator",
        ],
    ),
];

/// The same setting, parsed in words for people, under its heading and in the order there.
pub(crate) fn under_heading(arg: Arg) -> Arg {
    let arg = in_plain_words(arg);
    let place = |flags: &[&str]| flags.iter().position(|flag| arg.get_long() == Some(flag));
    let found = HEADINGS.iter().find_map(|(heading, flags)| Some((heading, place(flags)?)));
    match found {
        Some((heading, order)) => arg.help_heading(*heading).display_order(order),
        None => arg,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use clap::CommandFactory;

    use super::*;
    use crate::args::Args;

    #[test]
    fn every_setting_of_a_training_has_a_heading() {
        let command = Args::command();
        let options = ["config", "dry-run", "log-format", "quiet", "verbose"];
        let has_heading = |arg: &&Arg| arg.get_help_heading().is_some();
        let (under, other): (Vec<&Arg>, Vec<&Arg>) =
            command.get_arguments().filter(|arg| !arg.is_hide_set()).partition(has_heading);
        let flags = |args: Vec<&Arg>| -> BTreeSet<String> {
            args.into_iter().map(|arg| arg.get_long().unwrap().to_owned()).collect()
        };
        assert_eq!(flags(other), options.map(str::to_owned).into());
        let listed = HEADINGS.iter().flat_map(|(_, flags)| flags.iter().map(|&it| it.to_owned()));
        assert_eq!(flags(under), listed.collect());
    }
}
