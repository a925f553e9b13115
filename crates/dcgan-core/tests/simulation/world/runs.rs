//! Whole runs, and what must hold at their end.

use std::collections::BTreeSet;
use std::time::Duration;

use dcgan_core::ids::{Position, Step};
use dcgan_core::objective::Objective;
use dcgan_core::protocol::coordinator::{Event, Notice, Outcome, Stop};
use dcgan_core::spec::schedule::Schedule;

use super::{EVALUATE_EVERY, World};
use crate::bad::Bad;
use crate::disk::decode;
use crate::faults::Fault;
use crate::faulty_toy::Defect;

impl World {
    /// Runs to an outcome, with these faults at random times.
    pub(crate) fn run(&mut self, mut faults: Vec<Fault>) -> Outcome {
        while self.outcome.is_none() {
            if self.rng.one_in(60)
                && let Some(fault) = faults.pop()
            {
                self.inject(fault);
            }
            self.act();
        }
        self.run_until_workers_have_left()
    }

    /// Runs to an outcome, with this number of lies at random times.
    pub(crate) fn run_with_lies(&mut self, mut lies: usize) -> Outcome {
        while self.outcome.is_none() {
            if lies > 0 && self.rng.one_in(30) {
                lies -= 1;
                self.tell_a_lie();
            }
            self.act();
            self.check_memory();
        }
        self.run_until_workers_have_left()
    }

    /// Runs to an outcome, with faults at random times, and bad workers that come after so many
    /// actions.
    pub(crate) fn run_joined(
        &mut self,
        mut faults: Vec<Fault>,
        mut bad: Vec<Bad>,
        comes_at: usize,
    ) -> Outcome {
        while self.outcome.is_none() {
            if self.actions == comes_at {
                bad.drain(..).for_each(|bad| self.start_bad_worker(bad));
            }
            if self.rng.one_in(60)
                && let Some(fault) = faults.pop()
            {
                self.inject(fault);
            }
            self.act();
        }
        self.run_until_workers_have_left()
    }

    /// The longest time in which honest workers that could go on have finished no step.
    pub(crate) fn longest_wait(&self) -> Duration {
        self.longest_wait
    }

    /// Runs to an outcome. Each fault is injected after its number of actions.
    pub(crate) fn run_with(&mut self, faults: &[(usize, Fault)]) -> Outcome {
        while self.outcome.is_none() {
            let now = self.actions;
            for (_, fault) in faults.iter().filter(|(at, _)| *at == now) {
                self.inject(*fault);
            }
            self.act();
        }
        self.run_until_workers_have_left()
    }

    /// Lets the workers hear that the run is over, after the coordinator has ended. Gives the
    /// outcome.
    fn run_until_workers_have_left(&mut self) -> Outcome {
        while self.is_a_worker_busy() || self.is_a_message_to_a_worker_on_its_way() {
            self.act();
        }
        self.outcome.clone().unwrap()
    }

    fn is_a_worker_busy(&self) -> bool {
        let mut workers = self.workers.values();
        workers.any(|worker| !worker.commands.is_empty() || worker.stopped_until.is_some())
    }

    fn is_a_message_to_a_worker_on_its_way(&self) -> bool {
        self.control.values().any(|control| !control.down.is_empty())
    }

    /// Runs for some actions, then asks for an early end. Gives the step that the coordinator says
    /// is on disk.
    pub(crate) fn run_and_stop(&mut self, stop: Stop, actions: usize) -> Step {
        for _ in 0..actions {
            self.act();
        }
        self.coordinator_event(Event::Stop(stop));
        match self.run(Vec::new()) {
            Outcome::Stopped { saved: step, lost } => {
                assert_eq!(lost, None);
                let newest = self.disk.checkpoints.keys().next_back().copied().unwrap_or(0);
                assert_eq!(step, newest);
                if stop == Stop::HandOver {
                    self.start_coordinator();
                }
                step
            }
            outcome => panic!("{outcome:?}"),
        }
    }

    /// Starts a new coordinator and `workers` new workers on the old disk.
    pub(crate) fn restart_all(&mut self, workers: usize) {
        // A worker that was just starting when the others were told to finish is still there.
        self.kill_all_workers();
        self.setup.workers = workers;
        self.start_coordinator();
        for _ in 0..workers {
            self.start_new_worker();
        }
    }

    /// Kills every worker.
    pub(crate) fn kill_all_workers(&mut self) {
        let names: Vec<String> = self.workers.keys().cloned().collect();
        for name in names {
            self.remove_worker(&name);
        }
    }

    /// Asserts all that must hold when a run is finished: rows, digests, files, and no worker left.
    pub(crate) fn check_the_end(&mut self) {
        let last_step = self.reference.last_step;
        let schedule = Schedule { last_step, ..self.schedule };

        // Every row that is due is there once, with the digest of the undisturbed run.
        let due: Vec<Step> = (1..=last_step).filter(|&step| schedule.row_due(step)).collect();
        let logged: Vec<Step> = self.disk.rows.iter().map(|row| row.step).collect();
        assert_eq!(logged, due, "every row is there once");
        for row in &self.disk.rows {
            assert_eq!(row.state_digest, self.reference.digests[&Position::after(row.step)]);
        }

        // The last checkpoint holds the state that its digest says.
        let (saved, bytes) = &self.disk.checkpoints[&last_step];
        let mut state = decode(self.reference.objective.layout(), bytes);
        assert_eq!(
            (saved.digest, state.digest()),
            (self.reference.digests[&Position::after(last_step)], saved.digest)
        );
        assert!(self.disk.grids.contains(&last_step));

        // Every evaluation that is due is there, or was given up in words. Its result was compared
        // when it was written. After a fault all workers that could compute it may be gone.
        if self.faults_done == 0 {
            let mut due: BTreeSet<Step> =
                (1..=last_step).filter(|&step| schedule.evaluation_due(step)).collect();
            for notice in &self.notices {
                if let Notice::EvaluationGivenUp(step) = notice {
                    due.remove(step);
                }
            }
            let evaluated: BTreeSet<Step> = self.disk.evaluations.keys().copied().collect();
            assert_eq!(evaluated, due);
        }

        // Every evaluation on which the end depends is there, whatever has happened.
        for step in (1..=last_step).filter(|&step| self.schedule.verdict_due(step)) {
            let is_needed = step + EVALUATE_EVERY <= last_step;
            assert!(!is_needed || self.disk.evaluations.contains_key(&step), "step {step}");
        }

        // A worker that was away when the run ended hears it from a coordinator that is started
        // once more.
        if !self.workers.is_empty() {
            self.setup.workers = 0;
            self.start_coordinator();
            assert_eq!(self.run(Vec::new()), Outcome::Finished);
        }
        assert!(self.workers.is_empty(), "{:?} are left behind", self.workers.keys());
    }

    /// How many faults were injected.
    pub(crate) fn faults_done(&self) -> usize {
        self.faults_done
    }

    /// Numbers that two runs share only if they made the same choices.
    pub(crate) fn fingerprint(&self) -> (usize, Duration, u64) {
        (self.actions, self.now, self.rng.clone().next())
    }

    /// Executes one action.
    pub(crate) fn act_once(&mut self) {
        if self.outcome.is_none() {
            self.act();
        }
    }

    /// Runs until something holds.
    pub(crate) fn act_until(&mut self, holds: impl Fn(&Self) -> bool) {
        while !holds(self) {
            self.act();
        }
    }

    /// The last step on which the members agree.
    pub(crate) fn reached(&self) -> Step {
        self.coordinator.as_ref().map_or(0, |coordinator| coordinator.machine.reached())
    }

    /// The step of the newest checkpoint that the coordinator knows of.
    pub(crate) fn checkpoint(&self) -> Step {
        let machine = self.coordinator.as_ref().map(|coordinator| &coordinator.machine);
        machine.and_then(|machine| machine.checkpoint()).map_or(0, |saved| saved.step)
    }

    /// How many actions were executed.
    pub(crate) fn actions(&self) -> usize {
        self.actions
    }

    /// Gives a worker a defect.
    pub(crate) fn make_defective(&mut self, name: &str, defect: Defect) {
        self.workers[name].objective.set(defect);
        self.defective.insert(name.to_owned());
    }
}
