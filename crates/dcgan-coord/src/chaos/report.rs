//! Recovery times of the injected faults, in words.

use std::time::{Duration, Instant};

use super::injection::InjectedFaults;
use super::samples::{Sample, adoption, recovery};

/// Reports how long the training took to recover from kills. A recovery during which the
/// coordinator was killed as well is left out.
pub(super) fn report(injected: &InjectedFaults, samples: &[Sample]) -> String {
    let recoveries = injected
        .kills
        .iter()
        .filter_map(|&killed| recovery(samples, killed, injected.next_of_coordinator(killed)))
        .collect();
    let adoptions = injected
        .coordinator_starts
        .iter()
        .filter_map(|&started| adoption(samples, started))
        .collect();
    format!(
        "{}\n{}",
        line("from a worker's death to the next finished step", recoveries),
        line("from a coordinator's start until it knows that its workers train", adoptions),
    )
}

impl InjectedFaults {
    /// When the coordinator was next killed or started again after `at`.
    fn next_of_coordinator(&self, at: Instant) -> Option<Instant> {
        let all = self.coordinator_kills.iter().chain(&self.coordinator_starts);
        all.copied().filter(|&other| other > at).min()
    }
}

/// One line about some times.
fn line(what: &str, times: Vec<Duration>) -> String {
    let count = times.len();
    match median_and_longest(times) {
        Some((median, longest)) => {
            let (median, longest) = (median.as_secs_f64(), longest.as_secs_f64());
            format!("{what}: median {median:.2} s, longest {longest:.2} s ({count} measured)")
        }
        None => format!("{what}: not measured"),
    }
}

/// The median and the longest of some times. None if there are none.
fn median_and_longest(mut times: Vec<Duration>) -> Option<(Duration, Duration)> {
    times.sort_unstable();
    let longest = *times.last()?;
    Some((times[(times.len() - 1) / 2], longest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_has_the_median_and_the_longest_time() {
        let times = [3, 1, 2].map(Duration::from_secs).to_vec();
        assert_eq!(line("x", times), "x: median 2.00 s, longest 3.00 s (3 measured)");
        assert_eq!(line("x", Vec::new()), "x: not measured");
    }
}
