//! Health: a server says that its services work as long as its program's driver does.

use std::convert::Infallible;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::timeout;
use tonic_health::ServingStatus;
use tonic_health::server::HealthReporter;

use crate::services::Program;

/// A driver that has not beaten for this long is stuck, and its services do not serve.
pub(super) const STUCK_MAX: Duration = Duration::from_secs(10);

/// The sign of life of a program's driver. Clones are of the same driver.
///
/// Without a beat the services are not ready; without a further beat they stop to be.
#[derive(Clone, Debug, Default)]
pub struct Pulse(watch::Sender<()>);

impl Pulse {
    /// Says that the driver works.
    pub fn beat(&self) {
        self.0.send_replace(());
    }
}

/// Tells health checks of the services of `program` whether its driver has beaten within
/// `stuck_max`. Beats count from this call on.
pub(super) fn report(
    reporter: HealthReporter,
    program: Program,
    pulse: Pulse,
    stuck_max: Duration,
) -> impl Future<Output = Infallible> {
    let mut beats = pulse.0.subscribe();
    async move {
        // A channel with a sender does not close.
        let _pulse = pulse;
        loop {
            set(&reporter, program, ServingStatus::NotServing).await;
            let _ = beats.changed().await;
            set(&reporter, program, ServingStatus::Serving).await;
            while timeout(stuck_max, beats.changed()).await.is_ok() {}
            let seconds = stuck_max.as_secs();
            tracing::warn!(
                event = "driver_stuck",
                seconds,
                "this program has done nothing for {seconds} s: health checks say NOT_SERVING"
            );
        }
    }
}

async fn set(reporter: &HealthReporter, program: Program, status: ServingStatus) {
    for name in program.services() {
        reporter.set_service_status(name, status).await;
    }
}

#[cfg(test)]
mod tests {
    use tokio_stream::StreamExt;
    use tonic_health::pb::HealthCheckRequest;
    use tonic_health::pb::health_server::Health;
    use tonic_health::server::HealthService;

    use super::*;

    #[tokio::test]
    async fn a_service_serves_as_long_as_the_driver_works() {
        let (reporter, _) = tonic_health::server::health_reporter();
        let health = HealthService::from_health_reporter(reporter.clone());
        let pulse = Pulse::default();
        set(&reporter, Program::Worker, ServingStatus::NotServing).await;
        let service = "dcgan.v1.Collective".to_owned();
        let request = tonic::Request::new(HealthCheckRequest { service });
        let mut watched = health.watch(request).await.unwrap().into_inner();
        let mut next = async || watched.next().await.unwrap().unwrap().status;
        let (serving, not_serving) = (1, 2);
        assert_eq!(next().await, not_serving, "before the first beat");
        let stuck_max = Duration::from_millis(20);
        tokio::spawn(report(reporter, Program::Worker, pulse.clone(), stuck_max));
        for _ in 0..2 {
            pulse.beat();
            // A watch may show the same status twice.
            while next().await == not_serving {}
            while next().await == serving {}
        }
    }
}
