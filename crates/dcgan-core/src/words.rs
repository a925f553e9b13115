//! Numbers in sentences for people.

use std::fmt::Display;

/// Returns a number with its noun: `1 worker`, `2 workers`.
pub fn counted<N: Display + PartialEq + From<u8>>(count: N, noun: &str) -> String {
    let plural = if count == N::from(1) { "" } else { "s" };
    format!("{count} {noun}{plural}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_is_singular() {
        let said = [0_usize, 1, 2].map(|count| counted(count, "worker"));
        assert_eq!(said, ["0 workers", "1 worker", "2 workers"]);
    }
}
