//! Messages: from bytes to the generated types, on to the core's types, and back.
//!
//! A fuzzer does not guess checksums, so they are filled in. `dcgan-rpc/src/checksum.rs` has the
//! test of messages whose checksum is wrong.

use dcgan_core::ids::{Generation, RunId};
use dcgan_core::protocol::plan::StateRef;
use dcgan_core::spec::ObjectiveKind;
use dcgan_rpc::net::Address;
use dcgan_rpc::transfer::ChunkAssembler;
use dcgan_rpc::{
    Caller, Checksummed, CoordinatorMessage, ExchangeMessage, Malformed, WorkerMessage, pb,
    step_done,
};
use dcgan_store::{png, state_file};
use prost::Message;

/// The longest file that is put together from chunks, in bytes.
const FILE_BYTES_MAX: usize = 1 << 16;

/// Messages from a worker to the coordinator.
pub(crate) fn worker_message(bytes: &[u8]) {
    let from_wire = |message| WorkerMessage::from_wire(message, metrics());
    let message = round_trip(bytes, from_wire, |message| message.clone().into());
    if let Some(WorkerMessage::Hello(hello)) = message {
        address(&hello.address);
    }
}

/// Messages from the coordinator to a worker.
pub(crate) fn coordinator_message(bytes: &[u8]) {
    let from_wire = |message: pb::CoordinatorMessage| CoordinatorMessage::try_from(message);
    round_trip(bytes, from_wire, |message| message.clone().into());
}

/// Messages from a member of a plan to another.
pub(crate) fn exchange_message(bytes: &[u8]) {
    let from_wire = |message| ExchangeMessage::from_wire(message, Generation(3));
    let message = round_trip(bytes, from_wire, |message| message.into());
    let Some(ExchangeMessage::Opening(opening)) = message else {
        return;
    };
    // Whoever receives a plan asks it for these.
    let plan = opening.plan;
    let shards: usize = plan.ranks().map(|rank| plan.shards_of(rank).len()).sum();
    assert_eq!(shards, plan.owners().len());
    plan.members().iter().for_each(|member| address(&member.address));
}

/// The answers to a request for a copy of a state, one after the other.
pub(crate) fn copy_state(bytes: &[u8]) {
    let mut assembler = ChunkAssembler::new(FILE_BYTES_MAX);
    for response in sequence::<pb::CopyStateResponse>(bytes) {
        let Ok(response) = response.with_checksum().verify_checksum() else {
            panic!("a checksum that was just computed is right");
        };
        for report in response.reports {
            let report = step_done(report, metrics()).map(pb::StepDone::from);
            if let Ok(report) = report {
                let again = step_done(report.clone(), metrics()).map(pb::StepDone::from);
                assert_eq!(again.map(|again| again.encode_to_vec()), Ok(report.encode_to_vec()));
            }
        }
        if assembler.push(&response.chunk.unwrap_or_default()).is_err() {
            return;
        }
    }
    let _ = assembler.finish();
}

/// The messages with which a worker sends a snapshot, one after the other.
pub(crate) fn put_snapshot(bytes: &[u8]) {
    let mut assembler = ChunkAssembler::new(FILE_BYTES_MAX);
    let mut file = Vec::new();
    for request in sequence::<pb::PutSnapshotRequest>(bytes) {
        caller(request.caller);
        // Each chunk repeats the digest of the file, which a fuzzer does not guess.
        let chunk = request.chunk.unwrap_or_default();
        file.extend_from_slice(&chunk.data);
        if assembler.push(&chunk).is_err() {
            return;
        }
    }
    if let Ok(received) = assembler.finish() {
        assert_eq!(received, file);
    }
    let _ = state_file::digest_of(&file);
}

/// What a coordinator and a sampler tell each other.
pub(crate) fn feed(bytes: &[u8]) {
    match verified::<pb::FollowRequest>(bytes).and_then(|request| request.kind) {
        Some(pb::follow_request::Kind::Following(following)) => caller(following.caller),
        Some(pb::follow_request::Kind::Grid(grid)) => drop(png::check(&grid.png)),
        _ => {}
    }
    if let Some(snapshot) = verified::<pb::GeneratorSnapshot>(bytes) {
        let _ =
            state_file::decode_tensors(&snapshot.state, &[("generator.weight".into(), vec![24])]);
    }
}

/// Requests of one message. The first byte chooses which.
pub(crate) fn requests(bytes: &[u8]) {
    let Some((choice, bytes)) = bytes.split_first() else {
        return;
    };
    match choice % 9 {
        0 => caller(verified::<pb::GetPartitionRequest>(bytes).and_then(|request| request.caller)),
        1 => caller(decode::<pb::GetCheckpointRequest>(bytes).and_then(|request| request.caller)),
        2 => caller(decode::<pb::GetStatusRequest>(bytes).and_then(|request| request.caller)),
        3 => caller(decode::<pb::TakeCheckpointRequest>(bytes).and_then(|request| request.caller)),
        4 => caller(decode::<pb::DrainRequest>(bytes).and_then(|request| request.caller)),
        5 => caller(decode::<pb::StopRequest>(bytes).and_then(|request| request.caller)),
        6 => drop(decode::<pb::SampleRequest>(bytes)),
        8 => caller(decode::<pb::GetEvaluatorRequest>(bytes).and_then(|request| request.caller)),
        _ => copy_request(bytes),
    }
}

fn copy_request(bytes: &[u8]) {
    let Some(request) = decode::<pb::CopyStateRequest>(bytes) else {
        return;
    };
    caller(request.caller);
    if let Some(state) = request.state.and_then(|state| StateRef::try_from(state).ok()) {
        assert_eq!(StateRef::try_from(pb::StateRef::from(state)), Ok(state));
    }
}

/// The number of metrics of the objective.
fn metrics() -> usize {
    ObjectiveKind::Toy.metric_names().len()
}

/// Decodes a message; `None` if the bytes are none.
fn decode<M: Message + Default>(bytes: &[u8]) -> Option<M> {
    M::decode(bytes).ok()
}

/// Decodes messages, each behind its length, up to the first that is none.
fn sequence<M: Message + Default>(mut bytes: &[u8]) -> impl Iterator<Item = M> {
    std::iter::from_fn(move || M::decode_length_delimited(&mut bytes).ok()).fuse()
}

/// Decodes a message that arrives with the right checksum.
fn verified<M: Checksummed + Default>(bytes: &[u8]) -> Option<M> {
    decode::<M>(bytes)?.with_checksum().verify_checksum().ok()
}

/// Converts a message that arrives with the right checksum. What was converted is sent on, and must
/// arrive as the same.
fn round_trip<M: Checksummed + Default, T>(
    bytes: &[u8],
    from_wire: impl Fn(M) -> Result<T, Malformed>,
    to_wire: impl Fn(&T) -> M,
) -> Option<T> {
    let received = from_wire(decode::<M>(bytes)?.with_checksum()).ok()?;
    // Compared as bytes: a NaN is not equal to itself.
    let sent = to_wire(&received).encode_to_vec();
    match from_wire(decode(&sent)?) {
        Ok(arrived) => assert_eq!(to_wire(&arrived).encode_to_vec(), sent),
        Err(error) => panic!("what was sent does not arrive: {error}"),
    }
    Some(received)
}

/// Receives a caller as every service does, and sends it on.
fn caller(caller: Option<pb::Caller>) {
    if let Ok(caller) = Caller::receive(caller, RunId(1)) {
        let again = Caller::receive(Some(caller.clone().into()), RunId(1)).ok();
        assert_eq!(again, Some(caller));
    }
}

/// Reads an address as whoever connects to it does.
fn address(text: &str) {
    if let Ok(address) = text.parse::<Address>() {
        assert_eq!(address.to_string().parse(), Ok(address.clone()));
        assert_eq!(address.authority().parse(), Ok(address));
    }
}
