//! Converts the status of a run to its message.

use std::time::Duration;

use dcgan_core::evaluation::BestEvaluation;
use dcgan_core::ids::{RunId, Step};
use dcgan_core::metrics::MetricsRow;
use dcgan_core::protocol::coordinator::{
    Alarm, Departure, LastSeen, Outsider, Recovery, Role, Status, WorkerStatus,
};

use crate::pb;

/// Converts the status of a run at the moment `now` of the coordinator's clock. `epoch` is the
/// epoch of the status' step.
pub fn status(run: RunId, epoch: u64, now: Duration, status: Status) -> pb::Status {
    let Status {
        reason,
        generation,
        step,
        last_step,
        checkpoint,
        best: best_evaluation,
        alarms,
        workers,
        outside,
        gone,
        recoveries,
        draining,
    } = status;
    pb::Status {
        run: run.0,
        reason: reason.to_string(),
        reason_code: reason.code().to_owned(),
        generation: generation.0,
        step,
        last_step,
        epoch,
        checkpoint: checkpoint.map(|(step, _)| step),
        digest: checkpoint.map(|(_, digest)| digest.to_string()),
        workers: workers.into_iter().map(worker_status).collect(),
        outside: outside.into_iter().map(outsider).collect(),
        gone: gone.into_iter().map(gone_worker).collect(),
        recoveries: recoveries.into_iter().map(|one| recovery(one, now)).collect(),
        draining,
        best: best_evaluation.map(best),
        alarms: alarms.into_iter().map(alarm).collect(),
        newest_row: None,
        directory: String::new(),
    }
}

/// Converts the newest row of metrics, in a run that is at `step`.
pub fn newest_row(
    row: &MetricsRow,
    batch_size: usize,
    step: Step,
    last_step: Step,
) -> pb::NewestRow {
    let metric = |(name, value): (&str, f64)| pb::Metric { name: name.to_owned(), value };
    let images_left = last_step.saturating_sub(step) as f64 * batch_size as f64;
    pb::NewestRow {
        step: row.step,
        metrics: row.metrics.iter().map(metric).collect(),
        images_per_second: row.images_per_second,
        seconds_left: images_left / row.images_per_second,
    }
}

/// Converts the best evaluation.
pub fn best(best: BestEvaluation) -> pb::BestEvaluation {
    let BestEvaluation { step, value, criterion } = best;
    pb::BestEvaluation { step, name: criterion.to_owned(), value }
}

fn alarm(alarm: Alarm) -> pb::Alarm {
    pb::Alarm { code: alarm.code.to_owned(), since: alarm.since, text: alarm.to_string() }
}

fn recovery(recovery: Recovery, now: Duration) -> pb::Recovery {
    let Recovery { generation, cause, at, took } = recovery;
    pb::Recovery {
        generation: generation.0,
        cause,
        seconds_ago: now.saturating_sub(at).as_secs(),
        took_ms: took.map(|took| took.as_secs_f64() * 1e3),
    }
}

fn outsider(outsider: Outsider) -> pb::Outsider {
    let Outsider { id, address, claim, left } = outsider;
    pb::Outsider {
        name: id.name,
        address,
        reason: claim.to_string(),
        seconds_left: left.as_secs_f64(),
    }
}

fn gone_worker((seen, why): (LastSeen, Departure)) -> pb::GoneWorker {
    let LastSeen { name, step, ago } = seen;
    let (code, reason) = (why.code().to_owned(), why.to_string());
    pb::GoneWorker { name, step, seconds_ago: ago.as_secs(), code, reason }
}

fn worker_status(worker: WorkerStatus) -> pb::WorkerStatus {
    let WorkerStatus { id, address, role, step, heard_ago, shard_ms, outside } = worker;
    // Only a member has a rank and shards.
    let (role, rank, shards) = match role {
        Role::Member(rank, shards) => ("member", Some(rank.into()), shards),
        Role::Ready => ("ready", None, Vec::new()),
        Role::Spare => ("spare", None, Vec::new()),
        Role::Starting => ("starting", None, Vec::new()),
        Role::OnTrial => ("trial", None, Vec::new()),
        Role::Outside => ("outside", None, Vec::new()),
        Role::Disconnected => ("disconnected", None, Vec::new()),
    };
    pb::WorkerStatus {
        name: id.name,
        incarnation: id.incarnation,
        address,
        role: role.to_owned(),
        rank,
        shards: shards.into_iter().map(|shard| shard.0.into()).collect(),
        step,
        heartbeat_ms: heard_ago.as_millis() as u64,
        shard_ms,
        outside,
    }
}
