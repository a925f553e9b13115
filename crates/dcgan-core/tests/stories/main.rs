//! Stories of the protocol: events in, exact commands out.
//!
//! `docs/protocol.md` states fourteen rules; each has a story here that shows it at work, and each
//! hole that the simulation once found has one that shows how it is closed. Read them in the order
//! of the files: `plans` (rules 1 to 3), `steps` (rules 4 to 6), `outputs` (rules 7 and 8),
//! `complaints` (rule 9), `evaluations` (rule 10), `claims` (rule 11), `endings` (rule
//! 12), `trials` (rule 13), `early_stopping` (rule 14), `holes`.
//!
//! The commands of a machine are written as short lines, such as `a: fence 2` (send fence 2 to
//! worker a) or `store plan 2: a=0123 b=4567, from the end of step 10`. [`coordinator`] and
//! [`worker`] say how they read.
#![expect(clippy::unwrap_used, reason = "a story that goes wrong should stop")]

mod claims;
mod complaints;
mod coordinator;
mod early_stopping;
mod endings;
mod evaluations;
mod holes;
mod outputs;
mod plans;
mod steps;
mod trials;
mod worker;

use dcgan_core::ids::Digest;
use dcgan_core::protocol::plan::Plan;

/// The digest that honest workers have after a step, in stories of the coordinator.
fn digest(step: u64) -> Digest {
    Digest(0xD16E_5700 + step)
}

/// The members of a plan with the shards of each, as in `a=0123 b=4567`.
fn owners(plan: &Plan) -> String {
    let members = plan.members().iter().zip(plan.ranks()).map(|(member, rank)| {
        let shards: String = plan.shards_of(rank).iter().map(|shard| shard.to_string()).collect();
        format!("{}={shards}", member.id.name)
    });
    members.collect::<Vec<_>>().join(" ")
}
