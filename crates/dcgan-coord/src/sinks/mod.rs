//! The consumers of rows of metrics, such as the terminal.
//!
//! The log `metrics.jsonl` is not a sink but the source of all: the machine counts on its rows, and
//! a row that cannot be written is waited for. Only a row that is durable is given to the sinks.
//! So none of them ever shows a row that a crash takes back. None may hold up the run: a sink that
//! can fail is to say so once, and to go without the row.

mod terminal;

use dcgan_core::metrics::MetricsRow;

use crate::config::RunConfig;
use terminal::Terminal;

/// Takes rows of metrics that are on disk, in their order, each once.
pub(crate) trait Sink: Send {
    /// Takes a row. It must not wait for a disk or a network.
    fn row(&mut self, row: &MetricsRow);
}

/// The sinks of a run.
pub(crate) struct Sinks(Vec<Box<dyn Sink>>);

impl Sinks {
    /// Makes the sinks that the run's settings ask for.
    pub(crate) fn new(config: &RunConfig) -> Self {
        Self(vec![Box::new(Terminal::new(config))])
    }

    /// Gives a row to all sinks.
    pub(crate) fn row(&mut self, row: &MetricsRow) {
        for sink in &mut self.0 {
            sink.row(row);
        }
    }
}
