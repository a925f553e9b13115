//! The name that a person may have meant by a wrong one.

use crate::help;

/// Words that differ by more letters than this are other words.
const EDITS_MAX: usize = 2;

/// Returns the name that is most like `word`, if one is: the same in another spelling, what other
/// programs call so, or one with a letter or two that are wrong, missing, too many or exchanged.
pub fn nearest<'a>(word: &str, names: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let word = word.to_lowercase().replace('_', "-");
    let names: Vec<&str> = names.into_iter().collect();
    let same = |other: &str| names.iter().copied().find(|name| *name == other);
    let synonym = || help::synonyms(&word).iter().find_map(|other| same(other));
    let alike = || {
        let by_edits = names.iter().map(|name| (edits(&word, name), *name));
        let (edits, name) = by_edits.min_by_key(|(edits, _)| *edits)?;
        // Of a short word, few letters are left.
        (edits <= EDITS_MAX && 2 * edits < word.chars().count()).then_some(name)
    };
    same(&word).or_else(synonym).or_else(alike)
}

/// The least number of letters to change, add, remove or exchange with the next one that makes one
/// word another (the optimal string alignment distance).
fn edits(from: &str, to: &str) -> usize {
    let (from, to): (Vec<char>, Vec<char>) = (from.chars().collect(), to.chars().collect());
    let mut rows = vec![(0..=to.len()).collect::<Vec<usize>>()];
    for i in 1..=from.len() {
        let mut row = vec![i];
        for j in 1..=to.len() {
            let changed = usize::from(from[i - 1] != to[j - 1]);
            let mut least =
                (rows[i - 1][j - 1] + changed).min(rows[i - 1][j] + 1).min(row[j - 1] + 1);
            if i > 1 && j > 1 && from[i - 1] == to[j - 2] && from[i - 2] == to[j - 1] {
                least = least.min(rows[i - 2][j - 2] + 1);
            }
            row.push(least);
        }
        rows.push(row);
    }
    rows[from.len()][to.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wrong_name_is_answered_by_the_one_that_is_meant() {
        let names = ["workers", "batch-size", "learning-rate", "drain", "data", "beta1"];
        for (word, name) in [
            ("batch_size", Some("batch-size")),
            ("Batch-Size", Some("batch-size")),
            ("lr", Some("learning-rate")),
            ("learning-rat", Some("learning-rate")),
            ("drian", Some("drain")),
            ("worker", Some("workers")),
            ("momentum", None),
            ("x", None),
            ("", None),
        ] {
            assert_eq!(nearest(word, names), name, "{word}");
        }
        assert_eq!(nearest("lr", []), None);
    }
}
