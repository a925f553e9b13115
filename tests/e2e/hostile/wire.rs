//! Messages of any type with content that is valid on the wire, and hardly ever true.

use std::collections::BTreeMap;

use dcgan_rpc::{Checksummed, pb};
use prost::Message;
use prost::encoding::{WireType, encode_key, encode_varint};
use prost_types::field_descriptor_proto::{Label, Type};
use prost_types::{DescriptorProto, FieldDescriptorProto, FileDescriptorSet};

use super::rng::Rng;

/// How deep messages are nested.
const DEPTH_MAX: usize = 6;

/// The part of a run that a hostile client may know: all of it is in the status.
#[derive(Clone)]
pub(crate) struct Run {
    pub(crate) id: u64,
    pub(crate) generation: u64,
    pub(crate) step: u64,
    pub(crate) fingerprint: String,
}

/// A method of a service.
#[derive(Clone)]
pub(crate) struct Method {
    /// The path, as `/package.Service/Method`.
    pub(crate) path: String,
    /// The full name of the type of its requests.
    pub(crate) input: String,
}

/// The messages and methods of `proto/`.
pub(crate) struct Wire {
    messages: BTreeMap<String, DescriptorProto>,
    methods: Vec<Method>,
}

impl Wire {
    /// Reads the descriptors that the programs have for reflection.
    pub(crate) fn read() -> Self {
        let mut wire = Self { messages: BTreeMap::new(), methods: Vec::new() };
        for file in FileDescriptorSet::decode(pb::DESCRIPTORS).unwrap().file {
            let package = file.package().to_owned();
            for message in file.message_type {
                wire.messages.insert(format!(".{package}.{}", message.name()), message);
            }
            for service in file.service {
                let methods = service.method.iter().map(|method| Method {
                    path: format!("/{package}.{}/{}", service.name(), method.name()),
                    input: method.input_type().to_owned(),
                });
                wire.methods.extend(methods);
            }
        }
        wire
    }

    /// The methods of a service.
    pub(crate) fn methods(&self, service: &str) -> Vec<Method> {
        let prefix = format!("/{service}/");
        let methods = self.methods.iter().filter(|method| method.path.starts_with(&prefix));
        methods.cloned().collect()
    }

    /// Makes a message, with the right checksum if it has one.
    pub(crate) fn message(&self, name: &str, run: &Run, rng: &mut Rng) -> Vec<u8> {
        let bytes = self.encode(name, run, rng, 0);
        let has_checksum = self.messages[name].field.iter().any(|field| field.name() == "checksum");
        if has_checksum { seal(name, &bytes) } else { bytes }
    }

    fn encode(&self, name: &str, run: &Run, rng: &mut Rng, depth: usize) -> Vec<u8> {
        let message = &self.messages[name];
        let mut bytes = Vec::new();
        // Of the fields of a oneof, the last one counts: one is chosen.
        let choices: Vec<usize> =
            message.oneof_decl.iter().map(|_| rng.below(message.field.len())).collect();
        for (index, field) in message.field.iter().enumerate() {
            let siblings: Vec<usize> = (0..message.field.len())
                .filter(|&other| message.field[other].oneof_index == field.oneof_index)
                .collect();
            let is_chosen = match field.oneof_index {
                None => rng.below(8) > 0,
                Some(oneof) => siblings[choices[oneof as usize] % siblings.len()] == index,
            };
            let count = match (is_chosen, field.label()) {
                (false, _) => 0,
                (true, Label::Repeated) => rng.one_of(&[0, 1, 2, 3, 6, 8, 100]),
                (true, _) => 1,
            };
            for _ in 0..count {
                self.encode_field(field, run, rng, depth, &mut bytes);
            }
        }
        bytes
    }

    fn encode_field(
        &self,
        field: &FieldDescriptorProto,
        run: &Run,
        rng: &mut Rng,
        depth: usize,
        bytes: &mut Vec<u8>,
    ) {
        let tag = field.number() as u32;
        let mut delimited = |content: &[u8]| {
            encode_key(tag, WireType::LengthDelimited, bytes);
            encode_varint(content.len() as u64, bytes);
            bytes.extend_from_slice(content);
        };
        match field.r#type() {
            Type::Message if depth == DEPTH_MAX => {}
            Type::Message => delimited(&self.encode(field.type_name(), run, rng, depth + 1)),
            Type::String => delimited(text(field.name(), run, rng).as_bytes()),
            Type::Bytes => {
                let length = rng.one_of(&[0, 1, 4, 96, 100, 1000, 300_000]);
                delimited(&rng.bytes(length));
            }
            Type::Float => {
                encode_key(tag, WireType::ThirtyTwoBit, bytes);
                bytes.extend((float(rng) as f32).to_le_bytes());
            }
            Type::Double => {
                encode_key(tag, WireType::SixtyFourBit, bytes);
                bytes.extend(float(rng).to_le_bytes());
            }
            Type::Fixed64 => {
                encode_key(tag, WireType::SixtyFourBit, bytes);
                bytes.extend(number(field.name(), run, rng).to_le_bytes());
            }
            Type::Uint32 | Type::Uint64 | Type::Bool => {
                encode_key(tag, WireType::Varint, bytes);
                encode_varint(number(field.name(), run, rng), bytes);
            }
            other => panic!("{}: teach this test the type {other:?}", field.name()),
        }
    }
}

/// A number that could be meant for this field, or one at an edge.
fn number(field: &str, run: &Run, rng: &mut Rng) -> u64 {
    match field {
        // Nearly all requests for another run end at the first check.
        "run" if rng.below(10) > 0 => run.id,
        "generation" | "plan" | "promised" if rng.below(3) > 0 => run.generation,
        "step" if rng.below(3) > 0 => rng.one_of(&[run.step, run.step + 1, run.step + 500]),
        "shards" | "owners" if rng.below(2) > 0 => rng.below(8) as u64,
        _ => {
            let edges = [0, 0, 1, 1, 2, 7, 8, 255, 65_535, 65_536, u64::from(u32::MAX), 1 << 40];
            rng.one_of(&[&edges[..], &[u64::MAX, u64::MAX - 1]].concat())
        }
    }
}

fn float(rng: &mut Rng) -> f64 {
    rng.one_of(&[0.0, 0.5, 1.0, 12.5, -1.0, 1e300, f64::NAN, f64::INFINITY, f64::NEG_INFINITY])
}

/// A text that could be meant for this field, or one that nobody would write.
fn text(field: &str, run: &Run, rng: &mut Rng) -> String {
    match field {
        "fingerprint" if rng.below(2) > 0 => run.fingerprint.clone(),
        // The names of the workers that train.
        "name" => rng.one_of(&["a", "b", "stranger", "", "../../etc", "a\nb"]).to_owned(),
        _ => rng.one_of(&[
            String::new(),
            "x".to_owned(),
            "127.0.0.1:1".to_owned(),
            "http://127.0.0.1:1".to_owned(),
            "\u{1b}[2J\r\n{\"level\":\"ERROR\"}".to_owned(),
            "x".repeat(100_000),
        ]),
    }
}

/// Fills in the checksum of a message.
fn seal(name: &str, bytes: &[u8]) -> Vec<u8> {
    fn sealed<M: Checksummed + Default>(bytes: &[u8]) -> Vec<u8> {
        M::decode(bytes).unwrap().with_checksum().encode_to_vec()
    }
    match name {
        ".dcgan.v1.WorkerMessage" => sealed::<pb::WorkerMessage>(bytes),
        ".dcgan.v1.ExchangeMessage" => sealed::<pb::ExchangeMessage>(bytes),
        ".dcgan.v1.FollowRequest" => sealed::<pb::FollowRequest>(bytes),
        ".dcgan.v1.GetPartitionRequest" => sealed::<pb::GetPartitionRequest>(bytes),
        other => panic!("{other}: add it to this list"),
    }
}
