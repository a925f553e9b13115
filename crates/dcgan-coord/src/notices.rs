//! Log lines for the notices of the coordinator's machine.
//!
//! The machine writes no log. It returns notices, and each of them becomes one line here: the code
//! of the notice is the event, the values are fields, and the sentence is the notice's own.

use dcgan_core::ids::Step;
use dcgan_core::protocol::coordinator::Notice;

/// The values of a notice. A field that is `None` is left out of the line.
#[derive(Default)]
struct Fields<'a> {
    cause: Option<&'static str>,
    address: Option<&'a str>,
    tensor: Option<&'a str>,
    percent: Option<u32>,
    generation: Option<u64>,
    members: Option<String>,
    step: Option<Step>,
    from: Option<Step>,
    to: Option<Step>,
    count: Option<usize>,
    what: Option<&'a str>,
    error: Option<&'a str>,
    seconds: Option<f64>,
}

/// Logs a notice.
pub(crate) fn log(notice: &Notice) {
    // A lie, or a fault that looks like one, is more than news.
    if let Notice::FalseClaim { name, address, claim, pause } = notice {
        let seconds = pause.as_secs_f64();
        tracing::warn!(
            event = notice.code(),
            worker = name,
            address,
            error = %claim,
            seconds,
            "{notice}"
        );
        return;
    }
    if let Notice::Alarm(alarm) = notice {
        tracing::warn!(event = notice.code(), alarm = alarm.code, step = alarm.since, "{notice}");
        return;
    }
    if let Notice::AlarmPassed { alarm, step } = notice {
        tracing::info!(event = notice.code(), alarm = alarm.code, step, "{notice}");
        return;
    }
    // Whoever counts workers counts those that are ready, a moment later.
    if let Notice::Connected(name) = notice {
        tracing::debug!(event = notice.code(), worker = name, "{notice}");
        return;
    }
    let Fields {
        cause,
        address,
        tensor,
        percent,
        generation,
        members,
        step,
        from,
        to,
        count,
        what,
        error,
        seconds,
    } = fields(notice);
    tracing::info!(
        event = notice.code(),
        worker = notice.worker(),
        cause,
        address,
        tensor,
        percent,
        generation,
        members,
        step,
        from,
        to,
        count,
        what,
        error,
        seconds,
        "{notice}"
    );
}

/// Collects the values of a notice besides the name of its worker.
fn fields(notice: &Notice) -> Fields<'_> {
    let none = Fields::default();
    match notice {
        Notice::Connected(_)
        | Notice::Ready(_)
        | Notice::NameTaken(_)
        | Notice::FingerprintsDiffer { .. }
        | Notice::FalseClaim { .. }
        | Notice::Alarm(_)
        | Notice::AlarmPassed { .. }
        | Notice::Complaint { .. }
        | Notice::Readmitted(_) => none,
        Notice::Outside { address, why, seconds, .. } => Fields {
            address: Some(address),
            error: Some(why),
            seconds: Some(*seconds as f64),
            ..none
        },
        Notice::Stalled(seconds) => Fields { seconds: Some(*seconds as f64), ..none },
        Notice::PartFailed { step, why, .. } => {
            Fields { step: Some(*step), error: Some(why), ..none }
        }
        Notice::MoreCheckpointsLeftOut { count, last }
        | Notice::MoreGridsLeftOut { count, last }
        | Notice::EvaluationsMissing { count, last } => {
            Fields { step: Some(*last), count: Some(*count), ..none }
        }
        Notice::WriteGivenUp { what, error } => {
            Fields { what: Some(what), error: Some(error), ..none }
        }
        Notice::Lost { why, .. } => Fields { cause: Some(why.code()), ..none },
        Notice::StateDiffered { tensor, position, .. } => {
            Fields { tensor: Some(tensor), step: Some(position.step), ..none }
        }
        Notice::ShardsMoved { percent, .. } => Fields { percent: Some(*percent), ..none },
        Notice::Planned { generation, members, start } => Fields {
            generation: Some(generation.0),
            members: Some(members.join(",")),
            // `start.step` counts finished steps. The step after them is trained first.
            step: Some(start.step + 1),
            ..none
        },
        Notice::PlanAdopted(generation) => Fields { generation: Some(generation.0), ..none },
        Notice::SnapshotGivenUp(step)
        | Notice::CheckpointLeftOut(step)
        | Notice::EvaluationGivenUp(step)
        | Notice::EvaluationLost(step)
        | Notice::EndsEarly { step, .. }
        | Notice::GridLeftOut(step)
        | Notice::StepRecomputed(step) => Fields { step: Some(*step), ..none },
        Notice::StepsLost(lost) => Fields { from: Some(lost.first), to: Some(lost.last), ..none },
        Notice::CheckpointFellBack { from, to } => {
            Fields { from: Some(*from), to: Some(*to), ..none }
        }
        Notice::ClockLate { pause, more, .. } => Fields {
            seconds: Some(pause.as_secs_f64()),
            count: (*more > 0).then_some(*more),
            ..none
        },
    }
}

#[cfg(test)]
mod tests {
    use dcgan_core::ids::{Generation, Position};

    use super::*;

    #[test]
    fn a_plan_names_its_members_and_the_first_step_that_it_trains() {
        let position = Position::after(62);
        let members = vec!["a".to_owned(), "b".to_owned()];
        let notice = Notice::Planned { generation: Generation(3), members, start: position };
        let fields = fields(&notice);
        assert_eq!(fields.members.as_deref(), Some("a,b"));
        assert_eq!((fields.generation, fields.step), (Some(3), Some(63)));
    }
}
