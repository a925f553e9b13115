//! What goes wrong, and when: written by a person, or drawn from a seed.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use dcgan_core::ids::Step;
use dcgan_core::random::{Purpose, RandomStream};

/// Something that goes wrong. Workers are named by their number.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Fault {
    /// kill -9 of a worker; it is started again after this time.
    Kill(usize, Duration),
    /// kill -9 of the coordinator; it is started again after this time.
    KillCoordinator(Duration),
    /// A worker is stopped (SIGSTOP) for this time.
    Stop(usize, Duration),
    /// A worker runs at a third of its speed for this time.
    Slow(usize, Duration),
    /// The other workers do not reach a worker for this time.
    Cut(usize, Duration),
    /// A worker does not reach the coordinator for this time.
    CutOff(usize, Duration),
    /// A worker comes that was not there before.
    Join,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (what, worker, time) = match self {
            Self::Kill(worker, time) => ("kill", Some(worker), Some(time)),
            Self::KillCoordinator(time) => ("kill-coordinator", None, Some(time)),
            Self::Stop(worker, time) => ("stop", Some(worker), Some(time)),
            Self::Slow(worker, time) => ("slow", Some(worker), Some(time)),
            Self::Cut(worker, time) => ("cut", Some(worker), Some(time)),
            Self::CutOff(worker, time) => ("cut-off", Some(worker), Some(time)),
            Self::Join => ("join", None, None),
        };
        f.write_str(what)?;
        worker.map_or(Ok(()), |worker| write!(f, " {worker}"))?;
        time.map_or(Ok(()), |time| write!(f, " {:.2}", time.as_secs_f64()))
    }
}

/// A fault, and the step after which it happens.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Planned {
    pub(crate) after: Step,
    pub(crate) fault: Fault,
}

impl fmt::Display for Planned {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.after, self.fault)
    }
}

impl FromStr for Planned {
    type Err = String;

    fn from_str(line: &str) -> Result<Self, String> {
        let words: Vec<&str> = line.split_whitespace().collect();
        let number =
            |word: &str| word.parse().map_err(|_| format!("expected a number, found {word:?}"));
        let time = |word: &str| {
            let seconds = word
                .parse::<f64>()
                .ok()
                .and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
            seconds.ok_or_else(|| format!("expected seconds, found {word:?}"))
        };
        let [after, what, rest @ ..] = &words[..] else {
            return Err("expected STEP FAULT ...".to_owned());
        };
        let fault = match (*what, rest) {
            ("kill", [worker, seconds]) => Fault::Kill(number(worker)?, time(seconds)?),
            ("kill-coordinator", [seconds]) => Fault::KillCoordinator(time(seconds)?),
            ("stop", [worker, seconds]) => Fault::Stop(number(worker)?, time(seconds)?),
            ("slow", [worker, seconds]) => Fault::Slow(number(worker)?, time(seconds)?),
            ("cut", [worker, seconds]) => Fault::Cut(number(worker)?, time(seconds)?),
            ("cut-off", [worker, seconds]) => Fault::CutOff(number(worker)?, time(seconds)?),
            ("join", []) => Fault::Join,
            _ => {
                return Err(format!(
                    "expected kill, stop, slow, cut or cut-off WORKER SECONDS, kill-coordinator SECONDS, or join; found \
                     {:?}",
                    words[1..].join(" ")
                ));
            }
        };
        Ok(Self { after: number(after)? as Step, fault })
    }
}

/// How many faults of each kind.
#[derive(Clone, Copy, Debug, clap::Args)]
pub(crate) struct Counts {
    /// Workers killed with kill -9, and started again
    #[arg(long, value_name = "N", default_value_t = 6)]
    kills: usize,
    /// Coordinators killed with kill -9, and started again
    #[arg(long, value_name = "N", default_value_t = 2)]
    coordinator_kills: usize,
    /// Workers stopped for up to 4 s
    #[arg(long, value_name = "N", default_value_t = 1)]
    stops: usize,
    /// Workers cut off from the other workers, or from the coordinator
    #[arg(long, value_name = "N", default_value_t = 2)]
    cuts: usize,
    /// Workers slowed down for 2 s
    #[arg(long, value_name = "N", default_value_t = 1)]
    slows: usize,
    /// Workers that come later
    #[arg(long, value_name = "N", default_value_t = 1)]
    joins: usize,
}

/// How long a worker of a drawn schedule is slow.
const SLOW_TIME: Duration = Duration::from_secs(2);

/// A schedule drawn from a seed: faults of all kinds in any order, spread over the run.
pub(crate) fn draw(seed: u64, counts: Counts, workers: usize, steps: Step) -> Vec<Planned> {
    let stream = RandomStream::new(seed, Purpose::Chaos, 0, 0);
    let mut index = 0;
    let mut next = |below: usize| {
        index += 1;
        stream.bits(index) as usize % below
    };
    let Counts { kills, coordinator_kills, stops, cuts, slows, joins } = counts;
    let kinds = [kills, coordinator_kills, stops, cuts, slows, joins];
    let mut faults = Vec::new();
    for kind in kinds.iter().enumerate().flat_map(|(kind, &count)| std::iter::repeat_n(kind, count))
    {
        let (worker, way) = (next(workers), next(2));
        let mut up_to = |millis| Duration::from_millis(next(millis) as u64);
        faults.push(match (kind, way) {
            (0, _) => Fault::Kill(worker, up_to(300)),
            (1, _) => Fault::KillCoordinator(up_to(300)),
            (2, _) => Fault::Stop(worker, up_to(4000)),
            (3, 0) => Fault::Cut(worker, up_to(500)),
            (3, _) => Fault::CutOff(worker, up_to(1500)),
            (4, _) => Fault::Slow(worker, SLOW_TIME),
            _ => Fault::Join,
        });
    }
    // Any order, evenly spread, each a bit early or late.
    let count = faults.len();
    for i in (1..count).rev() {
        faults.swap(i, next(i + 1));
    }
    let room = steps / (count as Step + 1);
    let after = |i: usize, early: usize| (i as Step + 1) * room - (early as Step * room / 200);
    faults
        .into_iter()
        .enumerate()
        .map(|(i, fault)| Planned { after: after(i, next(100)), fault })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const COUNTS: Counts =
        Counts { kills: 20, coordinator_kills: 3, stops: 2, cuts: 4, slows: 1, joins: 1 };

    #[test]
    fn a_drawn_schedule_is_written_as_a_person_would_and_read_again() {
        let schedule = draw(7, COUNTS, 4, 2000);
        assert_eq!(schedule.len(), 31);
        assert!(schedule.is_sorted_by_key(|planned| planned.after) && schedule[30].after < 2000);
        for planned in &schedule {
            let read: Planned = planned.to_string().parse().unwrap();
            assert_eq!(read.to_string(), planned.to_string());
        }
        assert_eq!(draw(7, COUNTS, 4, 2000), schedule);
        assert_ne!(draw(8, COUNTS, 4, 2000), schedule);
    }

    #[test]
    fn what_is_no_fault_is_said() {
        for (line, what) in [
            ("", "expected STEP FAULT"),
            ("5 kill 0", "expected kill, stop"),
            ("5 kill one 1", "expected a number, found \"one\""),
            ("5 stop 1 -1", "expected seconds, found \"-1\""),
        ] {
            let error = line.parse::<Planned>().unwrap_err();
            assert!(error.starts_with(what), "{error}");
        }
    }
}
