//! The sender of a request, and the run that the request is meant for.

use std::fmt;

use dcgan_core::ids::{RunId, WorkerId};
use dcgan_core::words::worker;
use tonic::Status;

use crate::convert::Malformed;
use crate::pb;
use pb::caller::Who as PbWho;

/// The longest name of a sampler or a person, in bytes. It appears in log lines.
const NAME_BYTES_MAX: usize = 200;

/// The sender of a request, and the run that the request is meant for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caller {
    /// The run; `None` if the sender does not know it yet.
    pub run: Option<RunId>,
    /// The one who asks.
    pub who: Who,
}

/// The one who asks. Nothing proves it: it is what the sender says of itself, for the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Who {
    /// A worker process.
    Worker(WorkerId),
    /// A sampler, as HOST-PROCESS.
    Sampler(String),
    /// A person, as USER@HOST.
    Person(String),
}

impl Caller {
    /// A worker that belongs to `run`.
    pub fn worker(id: WorkerId, run: RunId) -> Self {
        Self { run: Some(run), who: Who::Worker(id) }
    }

    /// Receives the caller of a request to the run `ours`.
    ///
    /// # Errors
    /// `INVALID_ARGUMENT` if the request does not say who sends it; `FAILED_PRECONDITION` if it is
    /// meant for another run.
    pub fn receive(caller: Option<pb::Caller>, ours: RunId) -> Result<Self, Status> {
        let caller: Self = caller
            .ok_or(Malformed("a request that does not say who sends it (caller)"))?
            .try_into()?;
        match caller.run {
            Some(theirs) if theirs != ours => Err(Status::failed_precondition(format!(
                "the request of {} is for run {theirs}, and this is run {ours}",
                caller.who
            ))),
            _ => Ok(caller),
        }
    }
}

impl fmt::Display for Who {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Worker(id) => f.write_str(&worker(&id.name)),
            Self::Sampler(name) => write!(f, "sampler {name}"),
            Self::Person(name) => f.write_str(name),
        }
    }
}

impl From<Caller> for pb::Caller {
    fn from(Caller { run, who }: Caller) -> Self {
        let who = match who {
            Who::Worker(id) => PbWho::Worker(id.into()),
            Who::Sampler(name) => PbWho::Sampler(name),
            Who::Person(name) => PbWho::Person(name),
        };
        Self { run: run.map(|run| run.0), who: Some(who) }
    }
}

impl TryFrom<pb::Caller> for Caller {
    type Error = Malformed;

    fn try_from(pb::Caller { run, who }: pb::Caller) -> Result<Self, Malformed> {
        let who = match who.ok_or(Malformed("a caller without a name"))? {
            PbWho::Worker(id) => Who::Worker(id.try_into()?),
            PbWho::Sampler(name) => Who::Sampler(checked(name)?),
            PbWho::Person(name) => Who::Person(checked(name)?),
        };
        Ok(Self { run: run.map(RunId), who })
    }
}

/// Checks the name of a sampler or a person.
fn checked(name: String) -> Result<String, Malformed> {
    if name.is_empty() || name.len() > NAME_BYTES_MAX {
        return Err(Malformed("a caller's name that is empty or longer than 200 bytes"));
    }
    // A line end would look like a line of the log.
    if name.contains(char::is_control) {
        return Err(Malformed("a caller's name with control characters"));
    }
    Ok(name)
}

#[cfg(test)]
mod tests {
    use tonic::Code;

    use super::*;

    const OURS: RunId = RunId(0xA1);

    fn person(run: Option<RunId>) -> Caller {
        Caller { run, who: Who::Person("ada@engine".to_owned()) }
    }

    fn error(caller: Option<pb::Caller>) -> (Code, String) {
        let status = Caller::receive(caller, OURS).unwrap_err();
        (status.code(), status.message().to_owned())
    }

    #[test]
    fn a_request_for_this_run_or_for_none_is_received_with_its_sender() {
        let id = WorkerId { name: "w1".to_owned(), incarnation: 7 };
        let sampler = Caller { run: None, who: Who::Sampler("pod-1".to_owned()) };
        for sent in [person(None), person(Some(OURS)), Caller::worker(id, OURS), sampler] {
            let received = Caller::receive(Some(sent.clone().into()), OURS);
            assert_eq!(received.unwrap(), sent);
        }
    }

    #[test]
    fn a_request_for_another_run_is_refused_in_words() {
        let (code, text) = error(Some(person(Some(RunId(0xB2))).into()));
        assert_eq!(code, Code::FailedPrecondition);
        assert_eq!(
            text,
            "the request of ada@engine is for run 00000000000000b2, and this is run \
             00000000000000a1"
        );
    }

    #[test]
    fn a_request_without_a_sender_is_refused() {
        let (code, text) = error(None);
        assert_eq!(code, Code::InvalidArgument);
        assert_eq!(text, "malformed message: a request that does not say who sends it (caller)");
        let long = Caller { run: None, who: Who::Person("a".repeat(201)) };
        for caller in [pb::Caller::default(), long.into()] {
            assert_eq!(error(Some(caller)).0, Code::InvalidArgument);
        }
    }
}
