//! The faults of a chaos run and their schedule, which a person writes or a seed determines.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use dcgan_core::ids::Step;
use dcgan_core::random::{Purpose, RandomStream};

use super::program::LostStreams;

/// A fault. Workers are named by their number.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Fault {
    /// A worker is killed (SIGKILL), and started again after this time.
    Kill(usize, Duration),
    /// The coordinator is killed (SIGKILL), and started again after this time.
    KillCoordinator(Duration),
    /// A worker is stopped (SIGSTOP) for this time.
    Stop(usize, Duration),
    /// A worker runs at a third of its speed for this time.
    Slow(usize, Duration),
    /// The other workers cannot reach a worker for this time.
    CutData(usize, Duration),
    /// A worker cannot reach the coordinator for this time.
    CutControl(usize, Duration),
    /// A new worker joins.
    Join,
    /// A worker joins for this time that gives an address at which nobody listens.
    Stray(Duration),
    /// A worker joins for this time that gives the address of another one as its own.
    Impostor(usize, Duration),
    /// A hostile client attacks the coordinator for this time.
    Attack(Duration),
    /// The coordinator can write nothing for this time, as on a full disk.
    FullDisk(Duration),
    /// The coordinator is killed, and started again after this time on a slow disk.
    SlowDisk(Duration),
    /// A worker is killed, and started again after this time with standard streams that take
    /// nothing.
    LoseStreams(LostStreams, usize, Duration),
    /// All processes are told to stop at once (SIGTERM). The workers are started again when they
    /// have ended, the coordinator this long after it has.
    End(Duration),
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (what, worker, time) = match self {
            Self::Kill(worker, time) => ("kill", Some(worker), Some(time)),
            Self::KillCoordinator(time) => ("kill-coordinator", None, Some(time)),
            Self::Stop(worker, time) => ("stop", Some(worker), Some(time)),
            Self::Slow(worker, time) => ("slow", Some(worker), Some(time)),
            Self::CutData(worker, time) => ("cut", Some(worker), Some(time)),
            Self::CutControl(worker, time) => ("cut-off", Some(worker), Some(time)),
            Self::Join => ("join", None, None),
            Self::Stray(time) => ("stray", None, Some(time)),
            Self::Impostor(worker, time) => ("impostor", Some(worker), Some(time)),
            Self::Attack(time) => ("attack", None, Some(time)),
            Self::End(time) => ("end", None, Some(time)),
            Self::FullDisk(time) => ("full-disk", None, Some(time)),
            Self::SlowDisk(time) => ("slow-disk", None, Some(time)),
            Self::LoseStreams(streams, worker, time) => {
                let (name, _) = STREAMS.iter().find(|(_, it)| it == streams).ok_or(fmt::Error)?;
                (*name, Some(worker), Some(time))
            }
        };
        f.write_str(what)?;
        worker.map_or(Ok(()), |worker| write!(f, " {worker}"))?;
        time.map_or(Ok(()), |time| write!(f, " {:.2}", time.as_secs_f64()))
    }
}

/// A fault, and the step after which it is injected.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct ScheduledFault {
    pub(crate) after: Step,
    pub(crate) fault: Fault,
}

impl fmt::Display for ScheduledFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.after, self.fault)
    }
}

impl FromStr for ScheduledFault {
    type Err = String;

    fn from_str(line: &str) -> Result<Self, String> {
        let words: Vec<&str> = line.split_whitespace().collect();
        let [after, name, arguments @ ..] = &words[..] else {
            return Err("expected STEP FAULT ...".to_owned());
        };
        let streams = STREAMS.iter().find(|(streams, _)| streams == name);
        let fault = match (*name, arguments) {
            (_, [worker, seconds]) if let Some((_, streams)) = streams => {
                Fault::LoseStreams(*streams, number(worker)?, time(seconds)?)
            }
            ("kill", [worker, seconds]) => Fault::Kill(number(worker)?, time(seconds)?),
            ("kill-coordinator", [seconds]) => Fault::KillCoordinator(time(seconds)?),
            ("stop", [worker, seconds]) => Fault::Stop(number(worker)?, time(seconds)?),
            ("slow", [worker, seconds]) => Fault::Slow(number(worker)?, time(seconds)?),
            ("cut", [worker, seconds]) => Fault::CutData(number(worker)?, time(seconds)?),
            ("cut-off", [worker, seconds]) => Fault::CutControl(number(worker)?, time(seconds)?),
            ("join", []) => Fault::Join,
            ("stray", [seconds]) => Fault::Stray(time(seconds)?),
            ("impostor", [worker, seconds]) => Fault::Impostor(number(worker)?, time(seconds)?),
            ("attack", [seconds]) => Fault::Attack(time(seconds)?),
            ("end", [seconds]) => Fault::End(time(seconds)?),
            ("full-disk", [seconds]) => Fault::FullDisk(time(seconds)?),
            ("slow-disk", [seconds]) => Fault::SlowDisk(time(seconds)?),
            _ => {
                return Err(format!(
                    "expected kill, stop, slow, cut, cut-off, impostor, closed-streams, \
                     full-streams or blocked-streams WORKER SECONDS, kill-coordinator, stray, \
                     attack, end, full-disk or slow-disk SECONDS, or join; found {:?}",
                    words[1..].join(" ")
                ));
            }
        };
        Ok(Self { after: number(after)? as Step, fault })
    }
}

/// Parses a number.
fn number(word: &str) -> Result<usize, String> {
    word.parse().map_err(|_| format!("expected a number, found {word:?}"))
}

/// Parses a time in seconds.
fn time(word: &str) -> Result<Duration, String> {
    let seconds: Option<f64> = word.parse().ok();
    seconds
        .and_then(|seconds| Duration::try_from_secs_f64(seconds).ok())
        .ok_or_else(|| format!("expected seconds, found {word:?}"))
}

/// How many faults of each kind are drawn.
#[derive(Clone, Copy, Debug, clap::Args)]
pub(crate) struct Counts {
    /// Number of times that a worker is killed (SIGKILL) and started again.
    #[arg(long, value_name = "N", default_value_t = 6)]
    kills: usize,
    /// Number of times that the coordinator is killed (SIGKILL) and started again.
    #[arg(long, value_name = "N", default_value_t = 2)]
    coordinator_kills: usize,
    /// Number of times that a worker is stopped (SIGSTOP) for up to 4 s.
    #[arg(long, value_name = "N", default_value_t = 1)]
    stops: usize,
    /// Number of times that a worker is cut off from the other workers or from the coordinator.
    #[arg(long, value_name = "N", default_value_t = 2)]
    cuts: usize,
    /// Number of times that a worker is slowed down for 2 s.
    #[arg(long, value_name = "N", default_value_t = 1)]
    slows: usize,
    /// Number of workers that join later.
    #[arg(long, value_name = "N", default_value_t = 1)]
    joins: usize,
    /// Number of workers that join for a while with an address at which others do not reach them.
    #[arg(long, value_name = "N", default_value_t = 1)]
    bad_joins: usize,
    /// Number of times that a hostile client attacks the coordinator.
    #[arg(long, value_name = "N", default_value_t = 1)]
    attacks: usize,
    /// Number of times that all processes are told to stop at once (SIGTERM), and started again.
    #[arg(long, value_name = "N", default_value_t = 1)]
    endings: usize,
    /// Number of times that the coordinator's disk is full for up to 3 s.
    #[arg(long, value_name = "N", default_value_t = 1)]
    full_disks: usize,
    /// Number of times that the coordinator is killed, and started again on a slow disk.
    #[arg(long, value_name = "N", default_value_t = 1)]
    slow_disks: usize,
    /// Number of times that a worker is killed, and started again with standard streams that take
    /// nothing: closed, on a full disk, or a pipe that nobody reads.
    #[arg(long, value_name = "N", default_value_t = 1)]
    lost_streams: usize,
}

/// The names of lost streams in a schedule.
const STREAMS: [(&str, LostStreams); 3] = [
    ("closed-streams", LostStreams::Closed),
    ("full-streams", LostStreams::Full),
    ("blocked-streams", LostStreams::Blocked),
];
/// A worker of a drawn schedule is slow for this time.
const SLOW_TIME: Duration = Duration::from_secs(2);

impl Counts {
    /// The number of all faults together, without those that the length of a run does not depend
    /// on: it has stayed the same since before there were endings and bad surroundings.
    pub(crate) fn sum(self) -> usize {
        let [disturbances @ .., _, _, _, _] = self.of_each_kind();
        disturbances.iter().sum()
    }

    /// The number of faults of each kind, in the order of [`draw_faults`].
    fn of_each_kind(self) -> [usize; 12] {
        [
            self.kills,
            self.coordinator_kills,
            self.stops,
            self.cuts,
            self.slows,
            self.joins,
            self.bad_joins,
            self.attacks,
            self.endings,
            self.full_disks,
            self.slow_disks,
            self.lost_streams,
        ]
    }
}

/// Numbers drawn from a seed, one after the other.
struct Draws {
    stream: RandomStream,
    index: u64,
}

impl Draws {
    /// Draws a number below `bound`.
    fn below(&mut self, bound: usize) -> usize {
        self.index += 1;
        self.stream.bits(self.index) as usize % bound
    }

    /// Draws a time below this many milliseconds.
    fn below_ms(&mut self, bound: usize) -> Duration {
        Duration::from_millis(self.below(bound) as u64)
    }
}

/// Draws a schedule from a seed: faults of all kinds in any order, spread over the run.
pub(crate) fn draw(seed: u64, counts: Counts, workers: usize, steps: Step) -> Vec<ScheduledFault> {
    let mut draws = Draws { stream: RandomStream::new(seed, Purpose::Chaos, 0, 0), index: 0 };
    let mut faults = draw_faults(&mut draws, counts, workers);
    shuffle(&mut draws, &mut faults);
    // Spread them evenly over the run, each up to half a space early.
    let space = steps / (faults.len() as Step + 1);
    let mut schedule = Vec::new();
    for (fault, place) in faults.into_iter().zip(1..) {
        let early = draws.below(100) as Step * space / 200;
        schedule.push(ScheduledFault { after: place * space - early, fault });
    }
    schedule
}

fn draw_faults(draws: &mut Draws, counts: Counts, workers: usize) -> Vec<Fault> {
    let mut faults = Vec::new();
    for (kind, count) in counts.of_each_kind().into_iter().enumerate() {
        for _ in 0..count {
            // These two are drawn for every kind, so that the draws of a seed stay the same.
            let (worker, way) = (draws.below(workers), draws.below(2));
            faults.push(match (kind, way) {
                (0, _) => Fault::Kill(worker, draws.below_ms(300)),
                (1, _) => Fault::KillCoordinator(draws.below_ms(300)),
                (2, _) => Fault::Stop(worker, draws.below_ms(4000)),
                (3, 0) => Fault::CutData(worker, draws.below_ms(500)),
                (3, _) => Fault::CutControl(worker, draws.below_ms(1500)),
                (4, _) => Fault::Slow(worker, SLOW_TIME),
                (5, _) => Fault::Join,
                (6, 0) => Fault::Stray(draws.below_ms(4000)),
                (6, _) => Fault::Impostor(worker, draws.below_ms(4000)),
                (7, _) => Fault::Attack(draws.below_ms(4000)),
                (8, _) => Fault::End(draws.below_ms(300)),
                (9, _) => Fault::FullDisk(draws.below_ms(3000)),
                (10, _) => Fault::SlowDisk(draws.below_ms(300)),
                _ => {
                    let (_, streams) = STREAMS[draws.below(STREAMS.len())];
                    Fault::LoseStreams(streams, worker, draws.below_ms(300))
                }
            });
        }
    }
    faults
}

/// Brings the faults into a drawn order (Fisher and Yates).
fn shuffle(draws: &mut Draws, faults: &mut [Fault]) {
    for last in (1..faults.len()).rev() {
        faults.swap(last, draws.below(last + 1));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const COUNTS: Counts = Counts {
        kills: 20,
        coordinator_kills: 3,
        stops: 2,
        cuts: 4,
        slows: 1,
        joins: 1,
        bad_joins: 2,
        attacks: 1,
        endings: 1,
        full_disks: 1,
        slow_disks: 1,
        lost_streams: 3,
    };

    #[test]
    fn a_drawn_schedule_is_repeatable_and_parses_back_from_its_text() {
        let schedule = draw(7, COUNTS, 4, 2000);
        assert_eq!(schedule.len(), 40);
        assert!(schedule.is_sorted_by_key(|planned| planned.after) && schedule[39].after < 2000);
        for planned in &schedule {
            let read: ScheduledFault = planned.to_string().parse().unwrap();
            assert_eq!(read.to_string(), planned.to_string());
        }
        assert_eq!(draw(7, COUNTS, 4, 2000), schedule);
        assert_ne!(draw(8, COUNTS, 4, 2000), schedule);
    }

    #[test]
    fn a_line_that_is_no_fault_is_refused_with_what_was_expected() {
        for (line, what) in [
            ("", "expected STEP FAULT"),
            ("5 kill 0", "expected kill, stop"),
            ("5 kill one 1", "expected a number, found \"one\""),
            ("5 stop 1 -1", "expected seconds, found \"-1\""),
        ] {
            let error = line.parse::<ScheduledFault>().unwrap_err();
            assert!(error.starts_with(what), "{error}");
        }
    }
}
