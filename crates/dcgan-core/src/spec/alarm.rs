//! The signs by which people are told that a training goes wrong.
//!
//! They are data, which an objective names: whoever watches a run knows no metric.

/// A sign of a training that goes wrong.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AlarmRule {
    /// The stable name of the alarm, for logs and programs.
    pub code: &'static str,
    /// The thing that is wrong, as a sentence without a full stop.
    pub what: &'static str,
    /// When it is wrong.
    pub sign: Sign,
}

/// A condition on the values of evaluations, or on rows of metrics.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Sign {
    /// A value of an evaluation of which less is better is far above its best.
    FarAboveBest {
        /// The name of the value.
        value: &'static str,
        /// The factor: the value is more than so many times the best.
        times: f64,
        /// The distance: the value is at least so much above the best, too.
        by: f64,
    },
    /// A value of an evaluation is small, and has been greater before.
    AlmostGone {
        /// The name of the value.
        value: &'static str,
        /// The limit that the value is below.
        below: f64,
        /// The limit that it has been above before.
        once: f64,
    },
    /// In all rows of the last steps, each of some metrics is beyond its limit.
    Stuck {
        /// The number of steps.
        steps: u64,
        /// The names of the metrics, with their limits.
        limits: &'static [(&'static str, Limit)],
    },
}

/// A limit of a metric.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Limit {
    /// The metric is this or more.
    AtLeast(f64),
    /// The metric is this or less.
    AtMost(f64),
}

impl Limit {
    /// Tells whether a value is beyond the limit.
    pub fn is_reached(self, value: f64) -> bool {
        match self {
            Self::AtLeast(limit) => value >= limit,
            Self::AtMost(limit) => value <= limit,
        }
    }
}
