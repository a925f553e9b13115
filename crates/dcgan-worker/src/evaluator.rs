//! The evaluator that a run was given, fetched from the coordinator when the first part of an
//! evaluation is due.

use std::sync::Arc;
use std::time::Duration;

use dcgan_core::ids::Digest;
use dcgan_model::Dcgan;
use dcgan_model::evaluation::Evaluator;
use dcgan_rpc::{pb, transfer};
use dcgan_store::evaluator_file::{EVALUATOR_BYTES_MAX, EvaluatorFile};
use tokio::sync::OnceCell;
use tokio::task::spawn_blocking;

use crate::client::Client;
use crate::waiting::Waiting;

/// The pause between two attempts to fetch the evaluator.
const RETRY_PAUSE: Duration = Duration::from_millis(250);

/// Fetches the evaluator of a run once, and gives it to the DCGAN.
pub(crate) struct EvaluatorFetcher {
    client: Client,
    /// The digest of the file.
    digest: Digest,
    dcgan: Arc<Dcgan>,
    fetched: OnceCell<()>,
}

impl EvaluatorFetcher {
    /// Creates the fetcher of the evaluator with this digest.
    pub(crate) fn new(client: Client, digest: Digest, dcgan: Arc<Dcgan>) -> Self {
        Self { client, digest, dcgan, fetched: OnceCell::new() }
    }

    /// Returns when the DCGAN has its evaluator. An attempt that fails is repeated until it
    /// succeeds.
    pub(crate) async fn ready(&self) {
        self.fetched.get_or_init(|| self.fetch()).await;
    }

    async fn fetch(&self) {
        let mut waiting = Waiting::default();
        while let Err(error) = self.try_fetch().await {
            waiting.report(|| format!("the evaluator of the run: {error:#}"));
            tokio::time::sleep(RETRY_PAUSE).await;
        }
    }

    async fn try_fetch(&self) -> anyhow::Result<()> {
        let bytes_max = EVALUATOR_BYTES_MAX as usize;
        let caller = Some(self.client.caller.clone().into());
        let mut coordinator = self.client.connect().await?;
        let received = transfer::in_time(bytes_max, async {
            let response = coordinator.get_evaluator(pb::GetEvaluatorRequest { caller }).await?;
            transfer::receive(response.into_inner(), bytes_max).await
        });
        let bytes = received.await?;
        let (expected, dcgan) = (self.digest, Arc::clone(&self.dcgan));
        // It takes a good part of a second to prepare.
        spawn_blocking(move || {
            let file = EvaluatorFile::new(bytes)?;
            let found = file.digest();
            anyhow::ensure!(found == expected, "expected digest {expected}, found {found}");
            dcgan.set_evaluator(Evaluator::from_file(&file)?);
            Ok(())
        })
        .await?
    }
}
