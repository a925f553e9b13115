//! The limit of open files, which connections count towards.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// More open files than this are not asked for: a program never needs so many.
const OPEN_FILES_MAX: u64 = 65_536;

/// Lets this process open as many files as the system allows it, and returns how many.
///
/// The usual soft limit, 1024, is for old programs that break beyond it. Every connection takes a
/// descriptor, and a program without a free one can neither accept a worker nor write a checkpoint.
pub fn raise_limit() -> usize {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    let possible = maximum.unwrap_or(u64::MAX).min(OPEN_FILES_MAX);
    let before = current.unwrap_or(u64::MAX);
    if before >= possible {
        return before.min(OPEN_FILES_MAX) as usize;
    }
    // A system that refuses leaves the limit as it was.
    let raised = setrlimit(Resource::Nofile, Rlimit { current: Some(possible), maximum });
    raised.map_or(before, |()| possible) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limit_is_raised_and_then_stays() {
        let limit = raise_limit();
        assert!(limit > 0);
        assert_eq!(raise_limit(), limit);
        let current = getrlimit(Resource::Nofile).current;
        assert!(current.is_none_or(|current| current as usize >= limit), "{current:?} {limit}");
    }
}
