//! Endings: by a stop, by signals to everybody or to all but one, while workers are frozen.

use std::time::Duration;

use dcgan_core::ids::{Step, WorkerId};
use dcgan_core::metrics::StepDone;
use dcgan_core::protocol::coordinator::{Event, Notice, Outcome, Stop};
use dcgan_core::protocol::worker;

use super::World;
use crate::faults::Fault;

/// A way to end a run.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Ending {
    /// A person or a signal ends the run, in one of two ways.
    Stop(Stop),
    /// All processes are told to stop, the coordinator at any place among them.
    Everybody,
    /// All workers but one are told to stop, and later a person ends the run.
    AllButOne,
}

pub(crate) const ENDINGS: [Ending; 4] = [
    Ending::Stop(Stop::Finish),
    Ending::Stop(Stop::HandOver),
    Ending::Everybody,
    Ending::AllButOne,
];

impl World {
    /// Freezes every worker for up to this time.
    pub(crate) fn freeze(&mut self, max: Duration) {
        let names: Vec<String> = self.workers.keys().cloned().collect();
        for name in names {
            let time = Duration::from_millis(self.rng.below(max.as_millis() as usize + 1) as u64);
            self.workers.get_mut(&name).unwrap().stopped_until = Some(self.now + time);
            self.ever_stopped.insert(name);
        }
    }

    /// Ends the run in this way, with these faults meanwhile, and checks that no finished step is
    /// lost, or its loss is said. Gives the outcome.
    pub(crate) fn end(&mut self, ending: Ending, mut faults: Vec<Fault>) -> Outcome {
        // Nobody starts workers in place of those that leave.
        self.setup.workers = 0;
        let mut told: Vec<String> = self.workers.keys().cloned().collect();
        let mut stop = None;
        match ending {
            Ending::Stop(stop) => {
                told.clear();
                self.coordinator_event(Event::Stop(stop));
            }
            Ending::Everybody => stop = Some((Stop::HandOver, self.rng.below(60))),
            Ending::AllButOne => {
                told.pop();
                stop = Some((Stop::Finish, 500));
            }
        }
        while self.outcome.is_none() {
            // A process that is frozen hears of a signal when it goes on.
            let is_awake = |name: &String| {
                self.workers.get(name).is_none_or(|worker| worker.stopped_until.is_none())
            };
            if let Some(place) = told.iter().position(is_awake)
                && self.rng.one_in(4)
            {
                let name = told.swap_remove(place);
                self.worker_event(&name, worker::Event::Leave);
                self.leaving.insert(name);
            }
            if let Some((how, actions)) = &mut stop
                && self.coordinator.is_some()
            {
                match actions.checked_sub(1) {
                    Some(left) => *actions = left,
                    None => {
                        let how = *how;
                        stop = None;
                        self.coordinator_event(Event::Stop(how));
                    }
                }
            }
            if self.rng.one_in(60)
                && let Some(fault) = faults.pop()
            {
                self.inject(fault);
            }
            self.act();
            // A coordinator that dies forgets that it was told to stop.
            let machine = self.coordinator.as_ref().map(|coordinator| &coordinator.machine);
            if stop.is_none() && machine.is_some_and(|machine| !machine.is_ending()) {
                stop = Some((Stop::Finish, 100));
            }
        }
        let outcome = self.outcome.clone().unwrap();
        if let Outcome::Stopped { saved, lost } = &outcome {
            let newest = self.disk.checkpoints.keys().next_back().copied().unwrap_or(0);
            assert_eq!(*saved, newest);
            let said = lost.map_or(*saved, |lost| lost.last);
            let (finished, notices) = (self.finished, &self.notices);
            assert!(said >= finished, "{outcome:?}, and step {finished} was: {notices:?}");
        }
        outcome
    }

    /// Notes a report that is on its way to the machine, if the machine will count it.
    pub(super) fn note_report(&mut self, id: &WorkerId, done: &StepDone) {
        let Some(plan) = &self.disk.plan else {
            return;
        };
        let is_of_plan = plan.generation == done.generation && plan.rank_of(id).is_some();
        let machine = self.coordinator.as_ref().map(|coordinator| &coordinator.machine);
        let is_heard = machine.is_some_and(|machine| {
            machine.status(self.now).workers.iter().any(|worker| worker.id == *id)
        });
        if is_of_plan && is_heard {
            self.finished = self.finished.max(done.step);
        }
    }

    /// Asserts that a worker that was told to stop is not released before others hold its state, or
    /// it is saved.
    pub(super) fn check_release(&self, name: &str) {
        if self.faults_done > 0 || !self.leaving.contains(name) {
            return;
        }
        let step: Step = self.workers[name].machine.at().position.step;
        let saved = self.disk.checkpoints.keys().next_back().copied().unwrap_or(0);
        let is_held = self
            .workers
            .iter()
            .any(|(other, worker)| other != name && worker.machine.at().position.step >= step);
        let is_said = self.notices.iter().any(|notice| matches!(notice, Notice::StepsLost(_)));
        assert!(step <= saved || is_held || is_said, "{name} is released with step {step}");
    }
}
