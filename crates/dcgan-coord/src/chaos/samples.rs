//! What the coordinator says of a run, sampled, and what follows for recovery times.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use dcgan_core::ids::Step;
use dcgan_rpc::net::{self, Address};
use dcgan_rpc::pb;
use dcgan_rpc::pb::coordinator_client::CoordinatorClient;
use tokio::runtime::Handle;

/// Between two samples: recovery times are as exact as that.
const SAMPLE_PAUSE: Duration = Duration::from_millis(4);
/// An answer that takes longer will not come.
const ANSWER_MAX: Duration = Duration::from_secs(1);

/// A run at one moment.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sample {
    pub(crate) at: Instant,
    pub(crate) generation: u64,
    pub(crate) step: Step,
    pub(crate) trains: bool,
}

/// Samples, in their order.
#[derive(Clone, Default)]
pub(crate) struct Samples(Arc<Mutex<Vec<Sample>>>);

impl Samples {
    /// Begins to sample.
    pub(crate) fn take(runtime: &Handle, coordinator: Address) -> Self {
        let samples = Self::default();
        let taken = samples.clone();
        runtime.spawn(async move {
            loop {
                if let Ok(channel) = net::connect(&coordinator).await {
                    let mut client = CoordinatorClient::new(channel);
                    let ask = |client: &mut CoordinatorClient<_>| {
                        let mut client = client.clone();
                        async move {
                            tokio::time::timeout(
                                ANSWER_MAX,
                                client.get_status(pb::GetStatusRequest {}),
                            )
                            .await
                        }
                    };
                    while let Ok(Ok(status)) = ask(&mut client).await {
                        taken.push(&status.into_inner());
                        tokio::time::sleep(SAMPLE_PAUSE).await;
                    }
                }
                tokio::time::sleep(SAMPLE_PAUSE).await;
            }
        });
        samples
    }

    fn push(&self, status: &pb::Status) {
        let pb::Status { generation, step, reason, .. } = status;
        let sample = Sample {
            at: Instant::now(),
            generation: *generation,
            step: *step,
            trains: reason.starts_with("training"),
        };
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(sample);
    }

    pub(crate) fn all(&self) -> Vec<Sample> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn last(&self) -> Option<Sample> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).last().copied()
    }
}

/// From a worker's death at `killed` to the next step that was finished without it. None if something else came in
/// between, such as the end of the run.
pub(crate) fn recovery(
    samples: &[Sample],
    killed: Instant,
    until: Option<Instant>,
) -> Option<Duration> {
    let before = samples.iter().rfind(|sample| sample.at <= killed)?;
    let mut later =
        samples.iter().filter(|s| s.at > killed && until.is_none_or(|until| s.at < until));
    let begun = later.find(|sample| sample.generation > before.generation)?;
    let finished = later.find(|sample| sample.step > begun.step)?;
    Some(finished.at - killed)
}

/// From a coordinator's start to the moment at which it knows that its workers train.
pub(crate) fn adoption(samples: &[Sample], started: Instant) -> Option<Duration> {
    samples
        .iter()
        .find(|sample| sample.at > started && sample.trains)
        .map(|sample| sample.at - started)
}

/// The median and the longest of some times.
pub(crate) fn summary(mut times: Vec<Duration>) -> Option<(Duration, Duration)> {
    times.sort_unstable();
    Some((times[times.len().checked_sub(1)? / 2], *times.last()?))
}
