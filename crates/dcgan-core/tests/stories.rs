//! Stories of the coordinator's machine: what happens, and what it does about it. Each closes a hole that the simulation
//! found.
#![expect(clippy::unwrap_used, reason = "a story that goes wrong should stop")]

use std::time::Duration;

use dcgan_core::ids::{Digest, Generation, Position, RunId, WorkerId};
use dcgan_core::protocol::coordinator::{
    Command, ConnId, CoordinatorConfig, CoordinatorMachine, Event, OutputConfig, PersistedOutputs,
};
use dcgan_core::protocol::message::{FromWorker, Hello, PROTOCOL, ToWorker};
use dcgan_core::protocol::plan::{Plan, StateRef};
use dcgan_core::spec::schedule::Schedule;
use dcgan_core::spec::{DatasetInfo, ObjectiveKind, RunSpec};

/// A coordinator whose workers are named by letters, and connected once.
struct Story {
    machine: CoordinatorMachine,
    now: Duration,
}

impl Story {
    fn new(workers: usize, min_workers: usize) -> Self {
        let data = DatasetInfo { images: 100, rows: 1, columns: 1, digest: Digest(0) };
        let spec = RunSpec {
            objective: ObjectiveKind::Toy,
            batch_size: 16,
            shards: 8,
            seed: 22,
            learning_rate: 0.1,
            beta1: 0.5,
            data,
        };
        let settings = CoordinatorConfig {
            run: RunId(1),
            workers,
            min_workers,
            rebalance: true,
            output: OutputConfig {
                schedule: Schedule {
                    last_step: 100,
                    log_every: 10,
                    grid_every: 10,
                    checkpoint_every: 10,
                },
                sharding: spec.check().unwrap(),
                batch_size: 16,
                learning_rate: 0.1,
            },
            fingerprint: None,
            plan: None,
            persisted: PersistedOutputs::default(),
        };
        let now = Duration::from_secs(1);
        Self { machine: CoordinatorMachine::new(now, settings), now }
    }

    /// Time passes, in which the workers `living` are heard.
    fn pass(&mut self, seconds: f64, living: &str) -> Vec<Command> {
        let until = self.now + Duration::from_secs_f64(seconds);
        let mut done = Vec::new();
        while self.now < until {
            self.now += Duration::from_millis(100);
            done.extend(
                living
                    .chars()
                    .flat_map(|name| self.machine.handle(self.now, Event::Heartbeat(conn(name)))),
            );
            done.extend(self.machine.handle(self.now, Event::Tick));
        }
        done
    }

    fn joins(&mut self, name: char) -> Vec<Command> {
        let hello = Hello {
            run: None,
            id: WorkerId { name: name.into(), incarnation: 1 },
            protocol: PROTOCOL,
            fingerprint: "toy".to_owned(),
            address: format!("{name}:1"),
            plan: Generation(0),
            promised: Generation(0),
        };
        let mut done = self.machine.handle(self.now, Event::Hello(conn(name), hello));
        done.extend(self.says(name, FromWorker::Ready));
        done
    }

    fn says(&mut self, name: char, message: FromWorker) -> Vec<Command> {
        self.machine.handle(self.now, Event::Message(conn(name), message))
    }

    /// Answers a fence with the initial state.
    fn promises(&mut self, name: char, generation: u64) -> Vec<Command> {
        let state =
            StateRef { generation: Generation(0), position: Position::after(0), digest: Digest(7) };
        self.says(
            name,
            FromWorker::FenceAck { generation: Generation(generation), state: Some(state) },
        )
    }
}

fn conn(name: char) -> ConnId {
    ConnId(name.into())
}

/// Who is sent a fence, as in `ab`.
fn asked(commands: &[Command], generation: u64) -> String {
    let fence = ToWorker::Fence(Generation(generation));
    let all = 'a'..='z';
    all.filter(|&name| commands.contains(&Command::Send(conn(name), fence.clone()))).collect()
}

/// Who is in the plan that is stored, as in `ab`.
fn planned(commands: &[Command]) -> String {
    let names = |plan: &Plan| plan.members.iter().map(|member| member.id.name.clone()).collect();
    let plan = commands.iter().find_map(|command| match command {
        Command::StorePlan(plan, _) => Some(names(plan)),
        _ => None,
    });
    plan.unwrap_or_default()
}

#[test]
fn who_was_too_late_for_a_fence_is_asked_by_the_one_that_is_open_now() {
    let mut story = Story::new(3, 2);
    for name in ['a', 'b'] {
        story.joins(name);
    }
    assert_eq!(asked(&story.joins('c'), 1), "abc");
    story.promises('a', 1);
    story.promises('b', 1);
    assert_eq!(planned(&story.pass(3.1, "abc")), "ab", "c does not answer in time");
    story.machine.handle(story.now, Event::Closed(conn('b')));
    assert_eq!(asked(&story.pass(1.1, "ac"), 2), "a", "c is not ready");
    story.promises('a', 2);
    assert_eq!(asked(&story.promises('c', 1), 2), "c", "its late answer counts as ready");
    assert_eq!(planned(&story.promises('c', 2)), "ac");
}
