//! Watches a run: its status, its rows of metrics, its evaluations and its grids, from its
//! coordinator, from its directory, or from both.

mod folder;
mod status;
mod view;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use dcgan_core::ids::{Generation, RunId, Step};
use dcgan_core::metrics::MetricsRow;
use dcgan_rpc::net::{self, Address, Connector, CoordinatorAt, Peer};
use dcgan_rpc::pb;
use dcgan_rpc::pb::admin_client::AdminClient;
use dcgan_store::address_file::read_address_at;
use dcgan_store::run_dir::{RunPaths, read_run_file};
use tokio::task::spawn_blocking;
use tokio::time::{MissedTickBehavior, timeout};
use tonic::transport::Channel;

use crate::newest::Newest;
use folder::{Folder, Look};
pub(crate) use view::{News, View};

/// The time between two looks.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);
/// A coordinator that does not answer within this time is not there.
const ANSWER_MAX: Duration = Duration::from_secs(2);

/// Watches one run.
pub(crate) struct Watcher {
    view: Arc<View>,
    newest: Newest,
    connector: Connector,
    /// The place of its coordinator; `None` if the run directory tells it.
    at: Option<CoordinatorAt>,
    /// The run directory, if this machine has it.
    folder: Option<Folder>,
    client: Option<(Address, AdminClient<Channel>)>,
    /// The last status that its coordinator has told, and when.
    last: Option<(pb::Status, Instant)>,
}

impl Watcher {
    /// A watcher of the run of a directory, of a coordinator, or of both.
    pub(crate) fn new(
        view: Arc<View>,
        newest: Newest,
        connector: Connector,
        at: Option<CoordinatorAt>,
        directory: Option<PathBuf>,
    ) -> Self {
        let folder = directory.map(Folder::new);
        Self { view, newest, connector, at, folder, client: None, last: None }
    }

    /// Watches for ever.
    pub(crate) async fn run(mut self) {
        let mut looks = tokio::time::interval(LOOK_INTERVAL);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            looks.tick().await;
            self.look().await;
        }
    }

    async fn look(&mut self) {
        let asked = self.ask().await;
        if let Ok(status) = &asked {
            self.find_folder(status).await;
        }
        let look = self.look_into_folder().await;
        if let Some(Look { rows, evaluations, grids, .. }) = look.as_ref() {
            self.view.set_rows(rows);
            self.view.set_evaluations(evaluations);
            if let Some(grids) = grids {
                self.view.set_grids(grids.clone());
            }
        } else if let Ok(status) = &asked {
            self.view.set_rows(&folder::added(row_of(status)));
            if let Some(drawn) = self.newest.get() {
                self.view.add_grid(drawn.generator.step, drawn.grid);
            }
        }
        let shown = self.newest.get();
        let about = look.and_then(|look| look.about);
        let status = match asked {
            Ok(status) => {
                self.last = Some((status.clone(), Instant::now()));
                status::running(&status, about.as_ref())
            }
            Err(why) => match (&about, &self.last) {
                (Some(about), _) if !about.is_in_use() => status::ended(about, &self.view),
                (about, Some((last, since))) => {
                    status::unreachable(last, about.as_ref(), since.elapsed(), &why)
                }
                (Some(about), None) => status::in_use(about, &self.view, &why),
                (None, None) => status::unknown(&why),
            },
        };
        self.view.set_status(status::with_shown(status, &self.view.name(), shown.as_ref()));
    }

    /// Asks the coordinator for the status of the run.
    ///
    /// # Errors
    /// Why there is none, for people.
    async fn ask(&mut self) -> Result<pb::Status, String> {
        let answer = timeout(ANSWER_MAX, self.try_ask()).await;
        let answer = answer.unwrap_or_else(|_| Err("the coordinator does not answer".to_owned()));
        if answer.is_err() {
            self.client = None;
        }
        answer
    }

    async fn try_ask(&mut self) -> Result<pb::Status, String> {
        let address = self.address().await?;
        let client = match &mut self.client {
            Some((known, client)) if *known == address => client,
            other => {
                let peer = Peer::Coordinator(None);
                let channel = self.connector.connect(&address, &peer).await;
                let channel = channel.map_err(|error| error.to_string())?;
                &mut other.insert((address, AdminClient::new(channel))).1
            }
        };
        let answer = client.get_status(pb::GetStatusRequest::default()).await;
        let status = answer.map_err(|status| net::in_words(&status))?.into_inner();
        match self.folder.as_ref().and_then(Folder::run) {
            // Another run has the port that this one had.
            Some(run) if run.0 != status.run => Err("the run has no coordinator".to_owned()),
            _ => Ok(status),
        }
    }

    /// Finds the coordinator as it is now. The disk that knows may hang.
    async fn address(&self) -> Result<Address, String> {
        let at = match (&self.at, &self.folder) {
            (Some(at), _) => at.clone(),
            (None, Some(folder)) => CoordinatorAt::File(folder.address_file()),
            (None, None) => return Err("there is no run".to_owned()),
        };
        let found = spawn_blocking(move || at.find(read_address_at)).await;
        found.map_err(|error| error.to_string())?.map_err(|error| error.to_string())
    }

    /// Looks for the run directory of a coordinator on this machine.
    async fn find_folder(&mut self, status: &pb::Status) {
        if self.folder.is_some() || status.directory.is_empty() {
            return;
        }
        let (directory, run) = (PathBuf::from(&status.directory), RunId(status.run));
        let found = spawn_blocking(move || {
            let file = read_run_file(&RunPaths::new(&directory)).ok().flatten()?;
            (file.run == run).then(|| Folder::new(directory))
        });
        self.folder = found.await.ok().flatten();
    }

    /// Looks into the run directory, if there is one. `None` also if that fails.
    async fn look_into_folder(&mut self) -> Option<Look> {
        let mut folder = self.folder.take()?;
        let (folder, look) = spawn_blocking(move || {
            let look = folder.look();
            (folder, look)
        })
        .await
        .ok()?;
        self.folder = Some(folder);
        look
    }
}

/// The newest row of a status, with what a status does not tell left out.
fn row_of(status: &pb::Status) -> Option<MetricsRow> {
    let row = status.newest_row.as_ref()?;
    let members = status.workers.iter().filter(|worker| worker.rank.is_some()).count();
    Some(MetricsRow {
        step: row.step as Step,
        epoch: status.epoch,
        metrics: row.metrics.iter().map(|metric| (metric.name.clone(), metric.value)).collect(),
        learning_rate: f64::NAN,
        images_per_second: row.images_per_second,
        step_ms: f64::NAN,
        allreduce_ms: f64::NAN,
        world_size: u16::try_from(members).unwrap_or(u16::MAX),
        generation: Generation(status.generation),
        state_digest: Default::default(),
    })
}
