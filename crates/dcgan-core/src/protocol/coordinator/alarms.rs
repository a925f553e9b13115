//! Alarms: people are told when a training goes wrong in a way that no failure ends.
//!
//! A GAN rarely breaks with a number that is not finite. Its samples become worse, lose a class, or
//! one network wins and the other learns nothing more, while all numbers look well and a machine
//! goes on for hours. Each objective names the signs ([`AlarmRule`]); here they are looked for in
//! evaluations and rows as they come. An alarm is said once when it begins and once when it has
//! passed. It changes nothing of the run.

use std::fmt;

use super::Notice;
use crate::ids::Step;
use crate::metrics::NamedMetrics;
use crate::spec::alarm::{AlarmRule, Sign};

/// An alarm that has begun.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Alarm {
    /// The alarm's stable name, for logs and programs.
    pub code: &'static str,
    /// The step at which it began.
    pub since: Step,
    /// The thing that is wrong.
    pub what: &'static str,
    /// The numbers by which it was noticed.
    pub numbers: String,
}

impl fmt::Display for Alarm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "since step {}: {} ({})", self.since, self.what, self.numbers)
    }
}

/// The alarms of a run.
#[derive(Debug)]
pub(super) struct Alarms {
    watches: Vec<Watch>,
    /// The newest step whose evaluation was judged.
    evaluated: Step,
}

/// The watch for one sign.
#[derive(Debug)]
struct Watch {
    rule: AlarmRule,
    /// The best, or else the greatest value so far.
    record: Option<f64>,
    /// The step after which all rows have had the metrics beyond their limits.
    beyond_since: Option<Step>,
    /// The alarm, from its beginning to its end.
    alarm: Option<Alarm>,
}

impl Alarms {
    /// No alarm has begun.
    pub(super) fn new(rules: &[AlarmRule]) -> Self {
        let watch = |&rule| Watch { rule, record: None, beyond_since: None, alarm: None };
        Self { watches: rules.iter().map(watch).collect(), evaluated: 0 }
    }

    /// Takes the values of an evaluation. Returns what people are to be told.
    pub(super) fn on_evaluation(&mut self, step: Step, values: &NamedMetrics) -> Vec<Notice> {
        // An evaluation that was overtaken by a later one says nothing of the present.
        let is_newest = step > self.evaluated;
        self.evaluated = step.max(self.evaluated);
        let mut notices = Vec::new();
        for watch in &mut self.watches {
            let numbers = watch.judge_evaluation(values);
            if let Some(numbers) = numbers.filter(|_| is_newest) {
                notices.extend(watch.set(step, numbers));
            }
        }
        notices
    }

    /// Takes the metrics of the steps after `before` up to `step`. Returns what people are to be
    /// told.
    pub(super) fn on_row(
        &mut self,
        before: Step,
        step: Step,
        metrics: &NamedMetrics,
    ) -> Vec<Notice> {
        let mut notices = Vec::new();
        for watch in &mut self.watches {
            if let Some(numbers) = watch.judge_row(before, step, metrics) {
                notices.extend(watch.set(step, numbers));
            }
        }
        notices
    }

    /// The alarms that have begun and have not passed.
    pub(super) fn active(&self) -> Vec<Alarm> {
        self.watches.iter().filter_map(|watch| watch.alarm.clone()).collect()
    }
}

/// The numbers by which something is wrong; `None` if nothing is.
type Finding = Option<String>;

impl Watch {
    /// Judges the values of an evaluation; `None` if the sign is not in evaluations.
    fn judge_evaluation(&mut self, values: &NamedMetrics) -> Option<Finding> {
        match self.rule.sign {
            Sign::FarAboveBest { value: name, times, by } => {
                let value = values.get(name).filter(|value| value.is_finite())?;
                let best = self.record.map_or(value, |best| best.min(value));
                self.record = Some(best);
                let is_far = value > times * best && value >= best + by;
                Some(is_far.then(|| format!("{name} is {value:.3}, and was {best:.3} at best")))
            }
            Sign::AlmostGone { value: name, below, once } => {
                let value = values.get(name).filter(|value| value.is_finite())?;
                let greatest = self.record.map_or(value, |greatest| greatest.max(value));
                self.record = Some(greatest);
                let is_gone = value < below && greatest > once;
                Some(is_gone.then(|| format!("{name} is {value:.4}, and was {greatest:.4}")))
            }
            Sign::Stuck { .. } => None,
        }
    }

    /// Judges a row of metrics; `None` if the sign is not in rows, or too few have come.
    fn judge_row(&mut self, before: Step, step: Step, metrics: &NamedMetrics) -> Option<Finding> {
        let Sign::Stuck { steps, limits } = self.rule.sign else {
            return None;
        };
        let values: Option<Vec<(&str, f64)>> =
            limits.iter().map(|&(name, _)| Some((name, metrics.get(name)?))).collect();
        let values = values?;
        let are_beyond =
            values.iter().zip(limits).all(|((_, value), (_, limit))| limit.is_reached(*value));
        if !are_beyond {
            self.beyond_since = None;
            return Some(None);
        }
        let since = *self.beyond_since.get_or_insert(before);
        if step.saturating_sub(since) < steps {
            // What has begun goes on.
            return None;
        }
        let values: Vec<String> =
            values.iter().map(|(name, value)| format!("{name} {value:.3}")).collect();
        Some(Some(format!("{} steps with {}", step - since, values.join(", "))))
    }

    /// Begins or ends the alarm. Returns the notice, if that is news.
    fn set(&mut self, step: Step, finding: Finding) -> Option<Notice> {
        let AlarmRule { code, what, .. } = self.rule;
        match (finding, self.alarm.take()) {
            (Some(numbers), None) => {
                let alarm = Alarm { code, since: step, what, numbers };
                self.alarm = Some(alarm.clone());
                Some(Notice::Alarm(alarm))
            }
            (None, Some(alarm)) => Some(Notice::AlarmPassed { alarm, step }),
            (_, alarm) => {
                self.alarm = alarm;
                None
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::networks::{ALARMS, EVALUATION, METRIC_NAMES};

    fn alarms() -> Alarms {
        Alarms::new(ALARMS)
    }

    /// An evaluation with this Fréchet distance and share of the rarest class.
    fn evaluate(alarms: &mut Alarms, step: Step, distance: f64, share: f64) -> Vec<String> {
        let values = NamedMetrics::new(EVALUATION.names, [distance, 0.0, 8.0, share, 0.2]);
        alarms.on_evaluation(step, &values).iter().map(ToString::to_string).collect()
    }

    /// A row of 20 steps with the losses of the discriminator and the generator, and the accuracies
    /// of the discriminator.
    fn row(alarms: &mut Alarms, step: Step, d_loss: f64, g_loss: f64, acc: f64) -> Vec<String> {
        let metrics = NamedMetrics::new(METRIC_NAMES, [d_loss, d_loss, g_loss, acc, acc, 0.0]);
        let notices = alarms.on_row(step - 20, step, &metrics);
        notices.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn samples_that_are_far_worse_than_the_best_are_said_once_and_once_that_it_is_over() {
        let mut alarms = alarms();
        for (step, distance) in [(234, 90.0), (468, 8.0), (702, 12.9), (936, 3.0), (1170, 7.9)] {
            assert_eq!(evaluate(&mut alarms, step, distance, 0.09), [""; 0], "{distance}");
        }
        let said = evaluate(&mut alarms, 1404, 8.1, 0.09);
        let expected = "alarm at step 1404: the samples have become much worse (frechet_distance \
                        is 8.100, and was 3.000 at best)";
        assert_eq!(said, [expected]);
        assert_eq!(evaluate(&mut alarms, 1638, 30.0, 0.09), [""; 0]);
        assert_eq!(alarms.active().len(), 1);
        // An evaluation that comes late says nothing of the present.
        assert_eq!(evaluate(&mut alarms, 936, 3.0, 0.09), [""; 0]);
        let said = evaluate(&mut alarms, 1872, 5.0, 0.09);
        let expected = "the alarm of step 1404 has passed at step 1872: the samples have become \
                        much worse";
        assert_eq!(said, [expected]);
        assert_eq!(alarms.active(), []);
    }

    #[test]
    fn a_class_is_missed_that_was_there_before() {
        let mut alarms = alarms();
        assert_eq!(evaluate(&mut alarms, 10, 50.0, 0.0), [""; 0], "nothing is there yet");
        assert_eq!(evaluate(&mut alarms, 20, 40.0, 0.04), [""; 0]);
        let said = evaluate(&mut alarms, 30, 40.0, 0.009);
        assert!(said[0].contains("one class of digits is almost gone"), "{said:?}");
        assert_eq!(alarms.active()[0].code, "class_lost");
    }

    #[test]
    fn losses_and_accuracies_must_be_stuck_for_two_hundred_steps() {
        let codes = |alarms: &Alarms| -> Vec<&str> {
            alarms.active().iter().map(|alarm| alarm.code).collect()
        };
        let mut alarms = alarms();
        for step in (20..=180).step_by(20) {
            assert_eq!(row(&mut alarms, step, 0.01, 6.0, 0.995), [""; 0]);
        }
        // One row that is in order, and all begins anew.
        assert_eq!(row(&mut alarms, 200, 0.5, 1.0, 0.9), [""; 0]);
        for step in (220..400).step_by(20) {
            assert_eq!(row(&mut alarms, step, 0.01, 6.0, 0.995), [""; 0]);
        }
        let said = row(&mut alarms, 400, 0.01, 6.0, 0.995);
        assert!(said[2].contains("(200 steps with g_loss 6.000)"), "{said:?}");
        assert_eq!(codes(&alarms), ["discriminator_right", "discriminator_sure", "generator_lost"]);
        assert_eq!(row(&mut alarms, 420, 0.01, 6.0, 0.995), [""; 0]);
        assert_eq!(row(&mut alarms, 440, 0.5, 6.0, 0.995).len(), 1);
        assert_eq!(codes(&alarms), ["discriminator_right", "generator_lost"]);
    }

    #[test]
    fn a_row_of_more_steps_is_enough_alone_and_metrics_of_other_names_are_no_sign() {
        let mut alarms = alarms();
        let metrics = NamedMetrics::new(METRIC_NAMES, [0.5, 0.5, 6.0, 0.5, 0.5, 0.0]);
        assert_eq!(alarms.on_row(0, 500, &metrics).len(), 1);
        let others = NamedMetrics::new(&["loss"], [9.0]);
        assert_eq!(alarms.on_row(500, 1000, &others), []);
        assert_eq!(alarms.on_evaluation(1000, &others), []);
        assert_eq!(alarms.active().len(), 1);
    }
}
