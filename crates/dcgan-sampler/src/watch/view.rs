//! The present knowledge of a run, and news of it for whoever listens.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use bytes::Bytes;
use dcgan_core::evaluation::EvaluationRow;
use dcgan_core::ids::Step;
use dcgan_core::metrics::MetricsRow;
use dcgan_rpc::net::CoordinatorAt;
use dcgan_store::metrics_log::NewRows;
use serde::Serialize;
use serde_json::{Value, json};
use tokio::sync::broadcast;

/// News that a slow listener may miss before it is cut off, and asks anew.
const NEWS_MAX: usize = 256;
/// The grids that are kept in memory for a run whose directory is elsewhere; older ones are
/// forgotten.
const GRIDS_MAX: usize = 240;

/// The present knowledge of a run. It is written by its watcher and read by many.
pub(crate) struct View {
    /// The run directory or the coordinator, as a person has named it.
    named: String,
    /// True if it is the coordinator, which tells the directory.
    is_coordinator: bool,
    known: RwLock<Known>,
    news: broadcast::Sender<News>,
}

/// The knowledge itself.
#[derive(Default)]
pub(crate) struct Known {
    /// The status as a JSON object; null until the first look.
    pub(crate) status: Value,
    pub(crate) rows: Vec<MetricsRow>,
    pub(crate) evaluations: Vec<EvaluationRow>,
    /// The steps that have a grid.
    pub(crate) grids: BTreeSet<Step>,
    /// The grids of a run whose directory is elsewhere, as PNG.
    pub(crate) drawn: BTreeMap<Step, Bytes>,
}

/// One piece of news: an event's name and its data, as JSON.
#[derive(Clone)]
pub(crate) struct News {
    pub(crate) kind: &'static str,
    pub(crate) data: Arc<str>,
}

impl View {
    /// The view of the run of a directory, of which nothing is known yet.
    pub(crate) fn of_directory(directory: &Path) -> Self {
        Self::new(directory.display().to_string(), false)
    }

    /// The view of the run that a coordinator has, of which nothing is known yet.
    pub(crate) fn of_coordinator(at: &CoordinatorAt) -> Self {
        Self::new(at.to_string(), true)
    }

    fn new(named: String, is_coordinator: bool) -> Self {
        let (known, news) = (RwLock::default(), broadcast::Sender::new(NEWS_MAX));
        Self { named, is_coordinator, known, news }
    }

    /// The run's name, for people: its directory as they see it, if that is known.
    pub(crate) fn name(&self) -> String {
        let known = self.known();
        let told = known.status["directory"].as_str().filter(|_| self.is_coordinator);
        let Some(directory) = told.filter(|directory| !directory.is_empty()).map(Path::new) else {
            return self.named.clone();
        };
        let here = std::env::current_dir().unwrap_or_default();
        directory.strip_prefix(here).unwrap_or(directory).display().to_string()
    }

    /// The present knowledge. It cannot grow while this is held.
    pub(crate) fn known(&self) -> RwLockReadGuard<'_, Known> {
        self.known.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// News from now on.
    pub(crate) fn listen(&self) -> broadcast::Receiver<News> {
        self.news.subscribe()
    }

    fn change(&self) -> RwLockWriteGuard<'_, Known> {
        self.known.write().unwrap_or_else(PoisonError::into_inner)
    }

    fn tell(&self, kind: &'static str, data: &impl Serialize) {
        // Nobody may listen, and numbers and texts are always JSON.
        if let Ok(data) = serde_json::to_string(data) {
            let _ = self.news.send(News { kind, data: data.into() });
        }
    }

    pub(super) fn set_status(&self, status: Value) {
        self.tell("status", &status);
        self.change().status = status;
    }

    pub(super) fn set_rows(&self, found: &NewRows<MetricsRow>) {
        let new = taken(&mut self.change().rows, found, |row| row.step);
        if !new.is_empty() {
            self.tell("rows", &new);
        }
    }

    pub(super) fn set_evaluations(&self, found: &NewRows<EvaluationRow>) {
        let new = taken(&mut self.change().evaluations, found, |row| row.step);
        for row in new {
            self.tell("evaluation", &row);
        }
    }

    pub(super) fn set_grids(&self, grids: BTreeSet<Step>) {
        let before = std::mem::replace(&mut self.change().grids, grids.clone());
        for step in grids.difference(&before) {
            self.tell("grid", &json!({ "step": step }));
        }
    }

    /// Adds a grid that this program has drawn, and that lies in no directory.
    pub(super) fn add_grid(&self, step: Step, png: Bytes) {
        let mut known = self.change();
        if !known.grids.insert(step) {
            return;
        }
        known.drawn.insert(step, png);
        if known.drawn.len() > GRIDS_MAX
            && let Some((oldest, _)) = known.drawn.pop_first()
        {
            known.grids.remove(&oldest);
        }
        drop(known);
        self.tell("grid", &json!({ "step": step }));
    }
}

/// Adds rows that were found to those that are known, and returns those that are new.
fn taken<R: Clone>(known: &mut Vec<R>, found: &NewRows<R>, step: impl Fn(&R) -> Step) -> Vec<R> {
    let (NewRows::Added(rows) | NewRows::All(rows)) = found;
    // The same rows in another file are no news.
    let last = known.last().map(&step);
    let new = rows.iter().filter(|row| last.is_none_or(|last| step(row) > last));
    let new: Vec<R> = new.cloned().collect();
    match found {
        NewRows::Added(_) => known.extend_from_slice(&new),
        NewRows::All(rows) => known.clone_from(rows),
    }
    new
}
