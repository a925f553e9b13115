//! The people who have asked for the end of the run, with `dcgan-coord stop`: what they are told.

use dcgan_rpc::pb;
use pb::stop_progress::Kind;

use crate::input::StopWatcher;

/// The part of a sentence that makes it news: the code of the reason, and how long the disk is
/// waited for.
pub(super) type News = (&'static str, Option<u64>);

/// The people who wait for the end of the run.
#[derive(Default)]
pub(super) struct StopWatchers {
    watchers: Vec<StopWatcher>,
    /// The news that they were told last.
    told: Option<News>,
}

impl StopWatchers {
    pub(super) fn add(&mut self, watcher: StopWatcher) {
        self.watchers.push(watcher);
        self.told = None;
    }

    /// Tells them what is waited for, if that is news.
    pub(super) fn tell(&mut self, news: News, text: &str) {
        if self.told.replace(news) == Some(news) {
            return;
        }
        // One who has gone away needs no message any more. The last place is for the end.
        self.watchers.retain(|watcher| !watcher.is_closed());
        for watcher in self.watchers.iter().filter(|watcher| watcher.capacity() > 1) {
            send(watcher, Kind::Waiting(text.to_owned()));
        }
    }

    /// Tells them how the run has ended.
    pub(super) fn tell_end(&mut self, ended: &pb::RunEnded) {
        for watcher in self.watchers.drain(..) {
            send(&watcher, Kind::Ended(ended.clone()));
        }
    }
}

fn send(watcher: &StopWatcher, kind: Kind) {
    // Whoever has gone away needs no answer.
    let _ = watcher.try_send(Ok(pb::StopProgress { kind: Some(kind) }));
}

#[cfg(test)]
mod tests {
    use tokio::sync::mpsc;

    use super::*;

    #[test]
    fn who_does_not_listen_is_still_told_the_end() {
        let (watcher, mut progress) = mpsc::channel(3);
        let mut watchers = StopWatchers::default();
        watchers.add(watcher);
        let ended = pb::RunEnded { code: "stopped".to_owned(), text: "x".to_owned() };
        for (code, disk) in [("a", None), ("a", None), ("a", Some(1)), ("b", None)] {
            watchers.tell((code, disk), code);
        }
        watchers.tell_end(&ended);
        let kinds: Vec<Kind> = std::iter::from_fn(|| progress.blocking_recv())
            .filter_map(|progress| progress.ok()?.kind)
            .collect();
        let a = Kind::Waiting("a".to_owned());
        assert_eq!(kinds, [a.clone(), a, Kind::Ended(ended)]);
    }
}
