//! Numbers and names in sentences for people.

use std::fmt::Display;

/// Returns a number with its noun: `1 worker`, `2 workers`.
pub fn counted<N: Display + PartialEq + From<u8>>(count: N, noun: &str) -> String {
    let plural = if count == N::from(1) { "" } else { "s" };
    format!("{count} {noun}{plural}")
}

/// Returns the name of a worker with that word, unless the name begins with it: `worker a`, and
/// `worker-3`.
pub fn worker(name: &str) -> String {
    if name.starts_with("worker") { name.to_owned() } else { format!("worker {name}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_is_singular() {
        let said = [0_usize, 1, 2].map(|count| counted(count, "worker"));
        assert_eq!(said, ["0 workers", "1 worker", "2 workers"]);
    }

    #[test]
    fn a_worker_is_called_so_once() {
        assert_eq!(["a", "worker-3"].map(worker), ["worker a", "worker-3"]);
    }
}
