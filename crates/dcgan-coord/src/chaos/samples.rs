//! The status of a run, sampled many times a second, and the recovery times that follow from it.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use dcgan_core::ids::Step;
use dcgan_rpc::net::{Address, Connector, Peer};
use dcgan_rpc::pb;
use dcgan_rpc::pb::admin_client::AdminClient;
use tokio::runtime::Handle;
use tonic::transport::Channel;

/// Pause between two samples. Recovery times are accurate to this.
const SAMPLE_PAUSE: Duration = Duration::from_millis(4);
/// An answer that takes longer than this is given up.
const ANSWER_MAX: Duration = Duration::from_secs(1);
/// The `reason_code` of a run that trains.
const TRAINING: &str = "training";

/// A run at one moment.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sample {
    pub(super) at: Instant,
    pub(super) generation: u64,
    pub(super) step: Step,
    pub(super) is_training: bool,
}

/// The samples of a run, in their order. Clones share them.
#[derive(Clone, Default)]
pub(super) struct Samples(Arc<Mutex<Vec<Sample>>>);

impl Samples {
    /// Begins to sample the status of a run, until the runtime ends.
    pub(super) fn take(runtime: &Handle, connector: Connector, coordinator: Address) -> Self {
        let samples = Self::default();
        runtime.spawn(samples.clone().sample_forever(connector, coordinator));
        samples
    }

    async fn sample_forever(self, connector: Connector, coordinator: Address) {
        loop {
            // The coordinator may be down, killed by a fault: connect again and again.
            let peer = Peer::Coordinator(None);
            if let Ok(channel) = connector.connect(&coordinator, &peer).await {
                self.sample_connection(AdminClient::new(channel)).await;
            }
            tokio::time::sleep(SAMPLE_PAUSE).await;
        }
    }

    /// Takes samples until the connection breaks.
    async fn sample_connection(&self, mut client: AdminClient<Channel>) {
        loop {
            let request = client.get_status(pb::GetStatusRequest::default());
            let Ok(Ok(status)) = tokio::time::timeout(ANSWER_MAX, request).await else {
                return;
            };
            self.push(&status.into_inner());
            tokio::time::sleep(SAMPLE_PAUSE).await;
        }
    }

    fn push(&self, status: &pb::Status) {
        self.lock().push(Sample {
            at: Instant::now(),
            generation: status.generation,
            step: status.step,
            is_training: status.reason_code == TRAINING,
        });
    }

    /// All samples so far.
    pub(super) fn all(&self) -> Vec<Sample> {
        self.lock().clone()
    }

    /// The newest sample.
    pub(super) fn last(&self) -> Option<Sample> {
        self.lock().last().copied()
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Sample>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The time from a worker's death at `killed` to the next step that is finished without it. None if
/// there is no such step before `until`, for example because the run ended.
pub(super) fn recovery(
    samples: &[Sample],
    killed: Instant,
    until: Option<Instant>,
) -> Option<Duration> {
    let before = samples.iter().rfind(|sample| sample.at <= killed)?;
    let mut later = samples
        .iter()
        .filter(|sample| sample.at > killed && until.is_none_or(|until| sample.at < until));
    // The first generation without the worker, and then the first step that it finishes.
    let planned = later.find(|sample| sample.generation > before.generation)?;
    let finished = later.find(|sample| sample.step > planned.step)?;
    Some(finished.at - killed)
}

/// The time from a coordinator's start to the moment when it knows that its workers train.
pub(super) fn adoption(samples: &[Sample], started: Instant) -> Option<Duration> {
    let sample = samples.iter().find(|sample| sample.at > started && sample.is_training)?;
    Some(sample.at - started)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Samples that are a second apart, each with its generation, its step and whether it trains.
    fn samples(start: Instant, values: &[(u64, Step, bool)]) -> Vec<Sample> {
        let mut samples = Vec::new();
        for (&(generation, step, is_training), second) in values.iter().zip(0..) {
            let at = start + Duration::from_secs(second);
            samples.push(Sample { at, generation, step, is_training });
        }
        samples
    }

    #[test]
    fn a_recovery_ends_with_the_first_step_of_the_next_generation() {
        let start = Instant::now();
        let samples = samples(
            start,
            &[(1, 5, true), (1, 6, true), (2, 6, false), (2, 6, true), (2, 7, true)],
        );
        let killed = start + Duration::from_millis(500);
        assert_eq!(recovery(&samples, killed, None), Some(Duration::from_millis(3500)));
        let until = start + Duration::from_secs(3);
        assert_eq!(recovery(&samples, killed, Some(until)), None);
    }

    #[test]
    fn an_adoption_ends_when_the_run_trains() {
        let start = Instant::now();
        let samples = samples(start, &[(1, 5, true), (1, 5, false), (1, 6, true)]);
        assert_eq!(adoption(&samples, start), Some(Duration::from_secs(2)));
        assert_eq!(adoption(&samples, start + Duration::from_secs(2)), None);
    }
}
