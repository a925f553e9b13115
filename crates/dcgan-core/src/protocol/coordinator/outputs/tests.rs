//! Tests of the outputs: who must report what before it is written.

use super::*;
use crate::ids::Generation;
use crate::protocol::message::ToWorker;
use crate::spec::{DatasetInfo, ObjectiveKind, RunSpec};

/// Outputs with a row of metrics and a checkpoint at every second step.
fn outputs() -> Outputs {
    let data = DatasetInfo { images: 100, rows: 1, columns: 1, digest: Digest(0) };
    let builder = RunSpec::builder().objective(ObjectiveKind::Toy).batch_size(16);
    let schedule = Schedule {
        last_step: 10,
        log_every: 2,
        grid_every: 10,
        checkpoint_every: 2,
        evaluate_every: None,
    };
    let spec = builder.build(data).unwrap();
    let config = OutputConfig { schedule, spec, checkpoint_interval: None, keep_checkpoints: 5 };
    Outputs::new(config, PersistedOutputs::default())
}

fn worker(name: &str) -> WorkerId {
    WorkerId { name: name.to_owned(), incarnation: 1 }
}

/// The report of a step whose digest is the step's number.
fn done(step: Step) -> StepDone {
    StepDone {
        step,
        generation: Generation(1),
        world_size: 2,
        digest: Digest(step),
        ends_run: false,
        metrics: vec![0.5, 0.25, 0.0, 0.0, 0.0, 0.0],
        step_ms: 100.0,
        allreduce_ms: 1.0,
    }
}

#[test]
fn a_step_is_logged_once_and_only_when_all_members_have_reported_it() {
    let members = [worker("a"), worker("b")];
    let mut outputs = outputs();
    let mut out = Vec::new();
    for step in [1, 2] {
        assert_eq!(outputs.on_step_done(&members[0], done(step), &members), None);
    }
    assert_eq!(outputs.add_agreed_steps(&members, Step::MAX, &mut out), Ok(Vec::new()));
    assert_eq!(out, [], "b has reported nothing");

    // b reports each step twice, as after a reconnection.
    for step in [1, 1, 2, 2] {
        assert_eq!(outputs.on_step_done(&members[1], done(step), &members), None);
        assert_eq!(outputs.add_agreed_steps(&members, Step::MAX, &mut out), Ok(Vec::new()));
    }
    assert_eq!(out, []);
    let Some(Write::Rows(rows)) = outputs.start_next_write() else { panic!() };
    let [row] = &rows[..] else { panic!("{rows:?}") };
    assert_eq!((row.step, row.state_digest), (2, Digest(2)));
    let metrics: Vec<(&str, f64)> = row.metrics.iter().collect();
    assert_eq!(metrics[..2], [("d_loss_real", 0.5), ("d_loss_fake", 0.25)]);
    assert_eq!(outputs.persisted_through(), 0, "the row is on its way to the disk");
    outputs.finish_write(&mut out);
    assert_eq!(outputs.persisted_through(), 1, "the checkpoint of step 2 is due");
}

#[test]
fn a_snapshot_is_requested_from_one_holder_after_the_other() {
    let members = [worker("a"), worker("b")];
    let connected = BTreeMap::from([(worker("a"), ConnId(1)), (worker("b"), ConnId(2))]);
    let mut outputs = outputs();
    let mut out = Vec::new();
    for step in [1, 2] {
        for member in &members {
            outputs.on_step_done(member, done(step), &members);
        }
    }
    assert_eq!(outputs.add_agreed_steps(&members, Step::MAX, &mut out), Ok(Vec::new()));
    outputs.start_next_write();
    outputs.finish_write(&mut out);
    out.clear();

    // a does not hold it, so b is asked, and its snapshot becomes a checkpoint.
    let now = Duration::ZERO;
    outputs.request_snapshots(now, &members, 0, &connected, &mut out);
    outputs.on_snapshot_missing(&members[0], 2);
    outputs.request_snapshots(now, &members, 0, &connected, &mut out);
    let bytes = Arc::new(vec![7]);
    outputs.on_snapshot(2, Digest(2), &bytes, now, &mut out);
    let saved = SavedCheckpoint {
        step: 2,
        digest: Digest(2),
        window: LogWindow::after(2, 6),
        ends_run: false,
    };
    assert_eq!(
        out,
        [
            Command::Send(ConnId(1), ToWorker::RequestSnapshot(2)),
            Command::Send(ConnId(2), ToWorker::RequestSnapshot(2)),
        ]
    );
    assert_eq!(outputs.start_next_write(), Some(Write::Checkpoint { saved, bytes }));
    assert_eq!(outputs.persisted_through(), 1, "the checkpoint is on its way to the disk");
    outputs.finish_write(&mut out);
    assert_eq!(outputs.persisted_through(), 2);
}

/// Lets members report steps one after the other, and logs what they agree on.
fn report(outputs: &mut Outputs, members: &[WorkerId], reports: &[(usize, StepDone)]) {
    for (member, done) in reports {
        outputs.on_step_done(&members[*member], done.clone(), members);
        outputs.add_agreed_steps(members, Step::MAX, &mut Vec::new()).unwrap();
    }
}

#[test]
fn a_gap_counts_if_half_of_the_members_have_it() {
    let members = [worker("a"), worker("b")];
    let mut outputs = outputs();
    // One member alone may say anything: the log does not follow it.
    report(&mut outputs, &members, &[(0, done(9))]);
    assert_eq!(outputs.reached(), 0);
    report(&mut outputs, &members, &[(1, done(1)), (0, done(1))]);
    assert_eq!(outputs.reached(), 1);
    // Neither has step 2, and one has no step 3, so an earlier coordinator has written them.
    report(&mut outputs, &members, &[(0, done(3)), (0, done(4)), (1, done(4))]);
    assert_eq!(outputs.reached(), 4);
}

#[test]
fn nobody_withholds_a_report_after_the_last_step() {
    let members = [worker("a"), worker("b")];
    let mut outputs = outputs();
    let both = |step| [(0, done(step)), (1, done(step))];
    report(&mut outputs, &members, &(1..=10).flat_map(both).collect::<Vec<_>>());
    assert_eq!(outputs.reached(), 10);
    for seconds in [0, 3600] {
        let now = Duration::from_secs(seconds);
        assert!(outputs.withholders(now, &members, 0).is_empty());
    }
}

#[test]
fn of_the_numbers_of_a_state_those_of_most_members_are_logged() {
    let members = [worker("a"), worker("b"), worker("c")];
    let mut outputs = outputs();
    let lie = StepDone { metrics: vec![f32::NAN; 6], ends_run: true, ..done(1) };
    outputs.on_step_done(&members[0], lie, &members);
    report(&mut outputs, &members, &[(1, done(1))]);
    outputs.on_step_done(&members[2], done(1), &members);
    let liars = outputs.add_agreed_steps(&members, Step::MAX, &mut Vec::new()).unwrap();
    assert_eq!(liars.into_iter().map(|(id, _)| id.name).collect::<Vec<_>>(), ["a"]);
    assert_eq!((outputs.reached(), outputs.last_step()), (1, 10), "the run has not ended");
}

#[test]
fn metrics_that_are_not_finite_end_the_run_when_the_members_agree_on_them() {
    let members = [worker("a"), worker("b")];
    let mut outputs = outputs();
    let diverged = StepDone { metrics: vec![f32::NAN; 6], ..done(1) };
    report(&mut outputs, &members, &[(0, diverged.clone())]);
    outputs.on_step_done(&members[1], diverged, &members);
    let failure = outputs.add_agreed_steps(&members, Step::MAX, &mut Vec::new()).unwrap_err();
    assert!(matches!(failure, Failure::MetricNotFinite { step: 1, .. }), "{failure}");
}

#[test]
fn a_step_that_fewer_than_half_of_the_members_leave_out_has_its_row() {
    let members = [worker("a"), worker("b"), worker("c")];
    let mut outputs = outputs();
    let without_step_2 = [(2, done(1)), (2, done(3))];
    let all = |step| (0..2).map(move |member| (member, done(step)));
    report(&mut outputs, &members, &without_step_2);
    report(&mut outputs, &members, &(1..=3).flat_map(all).collect::<Vec<_>>());
    assert_eq!(outputs.reached(), 3);
    let Some(Write::Rows(rows)) = outputs.start_next_write() else { panic!() };
    assert_eq!(rows.iter().map(|row| row.step).collect::<Vec<_>>(), [2]);
}
