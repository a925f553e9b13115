//! Round trips of both messages, and what is refused.

use std::num::NonZeroU64;
use std::sync::Arc;

use dcgan_core::evaluation::{EvaluationTask, PartId};
use dcgan_core::ids::{Digest, Generation, Phase, Position, Rank, RunId, ShardId, WorkerId};
use dcgan_core::metrics::StepDone;
use dcgan_core::protocol::message::{
    Complaint, FailedShards, Finish, FromWorker, Hello, PROTOCOL, ToWorker, TrialTimes,
};
use dcgan_core::protocol::plan::{Member, Plan, StateRef};
use dcgan_core::spec::schedule::Schedule;
use dcgan_core::spec::{DatasetInfo, RunSpec};
use proptest::prelude::*;
use prost::Message;

use super::{CoordinatorMessage, Welcome, WorkerMessage};
use crate::checksum::Checksummed;
use crate::pb;
use pb::coordinator_message::Kind as CoordinatorKind;
use pb::worker_message::Kind as WorkerKind;

/// The number of metrics that the objective of these tests has.
const METRICS: usize = 6;

fn state_ref() -> impl Strategy<Value = StateRef> {
    (any::<u64>(), any::<u64>(), proptest::sample::select(&Phase::ALL), any::<u64>()).prop_map(
        |(generation, step, phase, digest)| StateRef {
            generation: Generation(generation),
            position: Position { step, phase },
            digest: Digest(digest),
        },
    )
}

fn worker_id() -> impl Strategy<Value = WorkerId> {
    ("[a-z0-9.-]{1,20}", any::<u64>())
        .prop_map(|(name, incarnation)| WorkerId { name, incarnation })
}

fn plan() -> impl Strategy<Value = Plan> {
    let members =
        proptest::collection::vec((worker_id(), "[a-z.]{1,9}:[0-9]{4}", any::<bool>()), 1..5);
    (any::<u64>(), members, 0usize..4, state_ref()).prop_map(
        |(generation, members, more, start)| {
            let count = members.len();
            let member = |(id, address, holds_start)| Member { id, address, holds_start };
            let members = members.into_iter().map(member).collect();
            let owners = (0..count + more).map(|shard| Rank((shard % count) as u16)).collect();
            Plan::new(Generation(generation), members, owners, start).unwrap()
        },
    )
}

fn step_done() -> impl Strategy<Value = StepDone> {
    (any::<[u64; 3]>(), any::<u16>(), any::<bool>(), any::<[u16; METRICS]>()).prop_map(
        |([step, generation, digest], world_size, ends_run, m)| StepDone {
            step,
            generation: Generation(generation),
            world_size,
            digest: Digest(digest),
            ends_run,
            metrics: m.map(f32::from).to_vec(),
            step_ms: 1.5,
            allreduce_ms: 0.25,
        },
    )
}

fn part_id() -> impl Strategy<Value = PartId> {
    (any::<[u64; 2]>(), any::<u16>()).prop_map(|([step, digest], part)| PartId {
        step,
        digest: Digest(digest),
        part,
    })
}

fn values() -> impl Strategy<Value = Vec<f64>> {
    proptest::collection::vec(any::<u32>().prop_map(f64::from), 0..4)
}

/// A value, or why there is none.
fn failure<T: std::fmt::Debug>(
    value: impl Strategy<Value = T>,
) -> impl Strategy<Value = Result<T, String>> {
    (value, proptest::option::of("[ -~]{0,9}")).prop_map(|(value, why)| why.map_or(Ok(value), Err))
}

fn trial_times() -> impl Strategy<Value = TrialTimes> {
    let ms = || any::<u32>().prop_map(f64::from);
    (ms(), ms()).prop_map(|(copy_ms, shard_ms)| TrialTimes { copy_ms, shard_ms })
}

fn complaint() -> impl Strategy<Value = Complaint> {
    prop_oneof![
        any::<u16>().prop_map(|peer| Complaint::StreamBroken(Rank(peer))),
        any::<u16>().prop_map(|peer| Complaint::Timeout(Rank(peer))),
        (any::<u16>(), state_ref(), any::<u64>()).prop_map(|(peer, state, theirs)| {
            Complaint::StateMismatch {
                peer: Rank(peer),
                position: state.position,
                mine: state.digest,
                theirs: Digest(theirs),
            }
        }),
        Just(Complaint::CopyFailed),
        "[a-z.]{1,9}".prop_map(Complaint::StateCorrupted),
        (state_ref(), proptest::collection::vec(any::<u16>(), 1..5), "[ -~]{0,30}").prop_map(
            |(state, shards, what)| {
                let shards = shards.into_iter().map(ShardId).collect();
                Complaint::ShardsFailed(FailedShards { position: state.position, shards, what })
            }
        ),
    ]
}

fn hello() -> impl Strategy<Value = Hello> {
    (
        proptest::option::of(any::<u64>()),
        worker_id(),
        any::<[u64; 2]>(),
        "[ -~]{1,30}",
        any::<bool>(),
    )
        .prop_map(|(run, id, [plan, promised], text, is_ours)| Hello {
            run: run.map(RunId),
            id,
            protocol: if is_ours { PROTOCOL } else { PROTOCOL - 1 },
            fingerprint: text,
            address: "host:80".to_owned(),
            plan: Generation(plan),
            promised: Generation(promised),
        })
}

fn worker_message() -> impl Strategy<Value = WorkerMessage> {
    let message = prop_oneof![
        Just(FromWorker::Ready),
        (any::<u64>(), proptest::option::of(state_ref())).prop_map(|(generation, state)| {
            FromWorker::FenceAck { generation: Generation(generation), state }
        }),
        step_done().prop_map(FromWorker::StepDone),
        (any::<u64>(), complaint()).prop_map(|(generation, complaint)| FromWorker::Complaint {
            generation: Generation(generation),
            complaint
        }),
        any::<u64>().prop_map(FromWorker::SnapshotMissing),
        any::<u64>().prop_map(|generation| FromWorker::Copied(Generation(generation))),
        (state_ref(), "[a-z.]{1,9}").prop_map(|(state, tensor)| FromWorker::StateDiffered {
            position: state.position,
            tensor
        }),
        (worker_id(), failure(Just(())))
            .prop_map(|(peer, result)| FromWorker::ProbeResult { peer, result }),
        (worker_id(), failure(trial_times()))
            .prop_map(|(donor, result)| FromWorker::TrialResult { donor, result }),
        (part_id(), proptest::option::of(values()), "[ -~]{0,9}").prop_map(|(id, values, why)| {
            FromWorker::Evaluated { id, result: values.ok_or(why) }
        }),
        Just(FromWorker::Leave),
    ];
    prop_oneof![
        hello().prop_map(WorkerMessage::Hello),
        Just(WorkerMessage::Heartbeat),
        message.prop_map(WorkerMessage::Message),
    ]
}

fn spec(seed: u64) -> RunSpec {
    let data = DatasetInfo { images: 60_000, rows: 28, columns: 28, digest: Digest(seed) };
    RunSpec::builder().seed(seed).learning_rate(0.1 + 0.2).build(data).unwrap()
}

fn welcome() -> impl Strategy<Value = Welcome> {
    let intervals = [1u64..99, 1..99, 1..99, 0..9];
    (any::<[u64; 3]>(), intervals, proptest::collection::vec(any::<u16>(), 0..9)).prop_map(
        |([run, seed, last_step], [log_every, grid_every, checkpoint_every, evaluate], shards)| {
            let evaluate_every = NonZeroU64::new(evaluate);
            Welcome {
                run: RunId(run),
                spec: spec(seed),
                schedule: Schedule {
                    last_step,
                    log_every,
                    grid_every,
                    checkpoint_every,
                    evaluate_every,
                },
                likely_shards: shards.into_iter().map(ShardId).collect(),
            }
        },
    )
}

fn coordinator_message() -> impl Strategy<Value = CoordinatorMessage> {
    let message = prop_oneof![
        any::<u64>().prop_map(|generation| ToWorker::Fence(Generation(generation))),
        plan().prop_map(|plan| ToWorker::Plan(Arc::new(plan))),
        any::<u64>().prop_map(ToWorker::Persisted),
        any::<u64>().prop_map(ToWorker::RequestSnapshot),
        any::<u64>().prop_map(ToWorker::RetainSnapshot),
        (worker_id(), "[a-z.]{1,9}:[0-9]{4}")
            .prop_map(|(peer, address)| ToWorker::Probe(peer, address)),
        (worker_id(), "[a-z.]{1,9}:[0-9]{4}")
            .prop_map(|(donor, address)| ToWorker::Trial(donor, address)),
        (part_id(), proptest::collection::vec(values(), 0..3)).prop_map(|(id, pieces)| {
            ToWorker::Evaluate(EvaluationTask { id, pieces: Arc::new(pieces) })
        }),
        Just(ToWorker::Finish(Finish::Done)),
        Just(ToWorker::Finish(Finish::Released)),
        "[ -~]{0,9}".prop_map(|why| ToWorker::Finish(Finish::Failed(why))),
    ];
    prop_oneof![
        welcome().prop_map(|welcome| CoordinatorMessage::Welcome(Box::new(welcome))),
        "[ -~]{0,9}".prop_map(CoordinatorMessage::Refused),
        Just(CoordinatorMessage::Heartbeat),
        message.prop_map(CoordinatorMessage::Message),
    ]
}

proptest! {
    #[test]
    fn a_message_arrives_as_it_was_sent(up in worker_message(), down in coordinator_message()) {
        let sent_up = pb::WorkerMessage::from(up.clone());
        prop_assert_eq!(WorkerMessage::from_wire(sent_up, METRICS), Ok(up));
        let sent_down = pb::CoordinatorMessage::from(down.clone());
        prop_assert_eq!(CoordinatorMessage::try_from(sent_down), Ok(down));
    }

    #[test]
    fn no_bytes_cause_a_panic(bytes: Vec<u8>) {
        let _ = pb::WorkerMessage::decode(&*bytes)
            .map(|message| WorkerMessage::from_wire(message, METRICS));
        let _ = pb::CoordinatorMessage::decode(&*bytes).map(CoordinatorMessage::try_from);
    }
}

/// Receives a message that was sent without a checksum.
fn receive_unchecked(kind: CoordinatorKind) -> Result<CoordinatorMessage, crate::Malformed> {
    CoordinatorMessage::try_from(pb::CoordinatorMessage { kind: Some(kind), checksum: 0 })
}

#[test]
fn only_a_refusal_may_lack_a_checksum() {
    let reason = "of an earlier version".to_owned();
    let refused = CoordinatorKind::Refused(pb::Refused { reason: reason.clone() });
    assert_eq!(receive_unchecked(refused), Ok(CoordinatorMessage::Refused(reason)));
    let heartbeat = CoordinatorKind::Heartbeat(pb::Heartbeat {});
    assert!(receive_unchecked(heartbeat).is_err());
}

#[test]
fn a_welcome_with_an_unknown_setting_is_a_refusal_in_words() {
    let schedule = pb::Schedule {
        last_step: 9,
        log_every: 1,
        grid_every: 1,
        checkpoint_every: 1,
        evaluate_every: 0,
    };
    let spec = super::spec::to_json(&spec(22)).replacen('{', r#"{"warmup":5,"#, 1);
    let welcome = pb::Welcome { schedule: Some(schedule), spec, ..Default::default() };
    let message =
        pb::CoordinatorMessage { kind: Some(CoordinatorKind::Welcome(welcome)), checksum: 0 };
    let refused = CoordinatorMessage::try_from(message.with_checksum()).unwrap();
    let reason = "the run cannot be followed: the setting warmup is of a newer version of this \
                  program";
    assert_eq!(refused, CoordinatorMessage::Refused(reason.to_owned()));
}

/// Checks that a message of this kind, with a right checksum, is refused for this reason.
fn check_refused(kind: Option<WorkerKind>, what: &str) {
    let message = pb::WorkerMessage { kind, checksum: 0 }.with_checksum();
    let error = WorkerMessage::from_wire(message, METRICS).unwrap_err();
    assert_eq!(error.to_string(), format!("malformed message: {what}"));
}

#[test]
fn a_message_that_no_program_sends_is_refused() {
    check_refused(None, "a worker's message of an unknown kind");
    let hello = pb::Hello::default();
    check_refused(Some(WorkerKind::Hello(hello)), "a hello without an id");
    let hello = pb::Hello { id: Some(pb::WorkerId::default()), ..Default::default() };
    check_refused(
        Some(WorkerKind::Hello(hello)),
        "a worker's name that is not 1 to 100 of letters, digits, '-', '_' and '.'",
    );
    for metrics in [METRICS - 1, METRICS + 1] {
        let done = pb::StepDone { metrics: vec![0.0; metrics], ..Default::default() };
        check_refused(Some(WorkerKind::StepDone(done)), "a step with another number of metrics");
    }
}

/// A hello with this fingerprint and this address.
fn hello_with(fingerprint: &str, address: &str) -> Option<WorkerKind> {
    let id = Some(pb::WorkerId { name: "w1".to_owned(), incarnation: 7 });
    Some(WorkerKind::Hello(pb::Hello {
        id,
        protocol: PROTOCOL,
        fingerprint: fingerprint.to_owned(),
        address: address.to_owned(),
        ..Default::default()
    }))
}

#[test]
fn what_a_hello_says_is_bounded() {
    let what = "a fingerprint that is not 1 to 100 printable characters";
    for fingerprint in ["", "cpu\n", "é", &"x".repeat(101)] {
        check_refused(hello_with(fingerprint, "host:1"), what);
    }
    for address in ["", "host", "ho\u{1b}st:1", &format!("{}:1", "x".repeat(261))] {
        check_refused(hello_with("cpu", address), "an address that is not host:port");
    }
}

#[test]
fn texts_for_people_are_cut_and_forge_no_lines() {
    let tensor = format!("a\nb\u{1b}[2J{}", "é".repeat(300));
    let kind = WorkerKind::StateDiffered(pb::StateDiffered {
        position: Some(pb::Position::default()),
        tensor,
    });
    let message = pb::WorkerMessage { kind: Some(kind), checksum: 0 }.with_checksum();
    let Ok(WorkerMessage::Message(FromWorker::StateDiffered { tensor, .. })) =
        WorkerMessage::from_wire(message, METRICS)
    else {
        panic!("a text that is too long is no reason to refuse a message");
    };
    assert!(tensor.starts_with(r"a\nb\u{1b}[2J\u{e9}") || tensor.starts_with(r"a\nb\u{1b}[2Jé"));
    assert!(tensor.len() <= 256 && !tensor.contains(char::is_control), "{tensor}");
}

#[test]
fn lists_that_are_too_long_are_refused() {
    let shards = vec![0; 65_536];
    let failed = pb::complaint::Kind::ShardsFailed(pb::FailedShards {
        position: Some(pb::Position::default()),
        shards,
        what: String::new(),
    });
    let complaint = pb::Complaint { generation: 1, kind: Some(failed) };
    check_refused(Some(WorkerKind::Complaint(complaint)), "a list of more than 65535 shards");
    let result = pb::evaluated::Result::Values(pb::PartValues { values: vec![0.0; 65_537] });
    let evaluated = pb::Evaluated { id: Some(pb::PartId::default()), result: Some(result) };
    check_refused(
        Some(WorkerKind::Evaluated(evaluated)),
        "a part of an evaluation with more than 65536 values",
    );
    let plan = pb::Plan {
        members: vec![pb::Member::default(); 3],
        owners: vec![0; 2],
        ..Default::default()
    };
    let kind = Some(CoordinatorKind::Plan(plan));
    let message = pb::CoordinatorMessage { kind, checksum: 0 }.with_checksum();
    let error = CoordinatorMessage::try_from(message).unwrap_err();
    let what = "malformed message: a plan with more members than shards, or too many of both";
    assert_eq!(error.to_string(), what);
}

/// The bytes of a hello and of a refusal, as version 2 of the protocol wrote them.
///
/// By these messages programs of different versions tell each other so, in words. A change of
/// either would leave people with an error about a checksum, or with none.
#[test]
fn hellos_and_refusals_are_those_of_every_version() {
    let hello = Hello {
        run: Some(RunId(0xA1)),
        id: WorkerId { name: "w1".to_owned(), incarnation: 7 },
        protocol: 2,
        fingerprint: "cpu r2 fma".to_owned(),
        address: "127.0.0.1:7423".to_owned(),
        plan: Generation(3),
        promised: Generation(4),
    };
    let sent = pb::WorkerMessage::from(WorkerMessage::Hello(hello.clone())).encode_to_vec();
    assert_eq!(hex(&sent), HELLO);
    let received = pb::WorkerMessage::decode(&*sent).unwrap();
    assert_eq!(WorkerMessage::from_wire(received, METRICS), Ok(WorkerMessage::Hello(hello)));
    let refused = CoordinatorMessage::Refused("use programs of one build".to_owned());
    assert_eq!(hex(&pb::CoordinatorMessage::from(refused).encode_to_vec()), REFUSED);
}

/// A worker whose first hello is damaged on its way tries again: it must not hear that it is of
/// another version, which is for good.
#[test]
fn a_damaged_hello_is_not_one_of_another_version() {
    let sent = pb::WorkerMessage { kind: hello_with("cpu r2 fma", "127.0.0.1:7423"), checksum: 0 };
    let bytes = sent.with_checksum().encode_to_vec();
    for bit in 0..8 * bytes.len() {
        let mut flipped = bytes.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        let received = pb::WorkerMessage::decode(&*flipped).ok();
        let received = received.and_then(|it| WorkerMessage::from_wire(it, METRICS).ok());
        if let Some(WorkerMessage::Hello(hello)) = received {
            assert_eq!(hello.protocol, PROTOCOL, "bit {bit}: {hello:?}");
        }
    }
}

const HELLO: &str = concat!(
    "0a3309a10000000000000012060a02773110071802220a63707520723220666d61",
    "2a0e3132372e302e302e313a373432333003380459d63a3f51a52ebd4c",
);
const REFUSED: &str =
    concat!("121b0a197573652070726f6772616d73206f66206f6e65206275696c64", "5969b368638377c32d",);

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
