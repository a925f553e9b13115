//! What the run waits for, said when it changes and again while it lasts.

use std::time::{Duration, Instant};

use dcgan_core::protocol::coordinator::Reason;

/// Passing reasons are not worth a line.
const PASSING: Duration = Duration::from_secs(1);
/// A reason that lasts is said again this often.
const AGAIN: Duration = Duration::from_secs(10);

/// The reason that was last looked at.
#[derive(Default)]
pub(crate) struct ReasonLog {
    current: Option<Current>,
}

struct Current {
    /// Without what changes by itself.
    kind: std::mem::Discriminant<Reason>,
    headline: String,
    since: Instant,
    says_at: Option<Duration>,
}

impl ReasonLog {
    /// Looks at the reason; says it if it is time to. Gives it if it is not training.
    pub(crate) fn look(&mut self, reason: &Reason) -> Option<String> {
        let text = reason.to_string();
        // Up to the seconds that count up.
        let headline = text.split(':').next().unwrap_or_default().to_owned();
        let kind = std::mem::discriminant(reason);
        let current = match &mut self.current {
            Some(current) if (current.kind, &current.headline) == (kind, &headline) => current,
            current => {
                let says_at = match reason {
                    Reason::Training { .. } => None,
                    Reason::Gathering { .. } | Reason::BelowMinimum { .. } => Some(Duration::ZERO),
                    _ => Some(PASSING),
                };
                current.insert(Current { kind, headline, since: Instant::now(), says_at })
            }
        };
        let lasted = current.since.elapsed();
        if current.says_at.is_some_and(|at| lasted >= at) {
            current.says_at = Some(lasted + AGAIN);
            tracing::info!("{text}");
        }
        (!matches!(reason, Reason::Training { .. })).then_some(text)
    }
}
