//! Names by which a process says who it is, and how it was called. They are for people, and prove
//! nothing.

use std::hash::{BuildHasher, RandomState};
use std::path::Path;
use std::sync::OnceLock;

/// The link that says in which name space this process has its number.
const PROCESS_SPACE: &str = "/proc/self/ns/pid";
/// The name space outside all containers: the number is fixed in Linux (`PROC_PID_INIT_INO`).
const OUTERMOST_SPACE: &str = "pid:[4026531836]";

/// Returns the name of this machine; `None` if it is unknown.
pub fn host() -> Option<String> {
    let text = match std::fs::read_to_string("/proc/sys/kernel/hostname") {
        Ok(text) => text,
        // Not Linux.
        Err(_) => std::env::var("HOSTNAME").ok()?,
    };
    let host = text.trim();
    (!host.is_empty()).then(|| host.to_owned())
}

/// Returns HOST-PROCESS, which no other process has at the same time.
pub fn host_and_process() -> String {
    format!("{}-{}", host().as_deref().unwrap_or("unknown"), process())
}

/// Returns the number of this process, which tells it from all others of its host. In a container
/// it has a random part: other containers of the same host count their processes from 1, too.
pub fn process() -> &'static str {
    static NAME: OnceLock<String> = OnceLock::new();
    NAME.get_or_init(|| {
        let space = std::fs::read_link(PROCESS_SPACE).ok();
        let space = space.as_deref().and_then(Path::to_str);
        process_in(space, std::process::id())
    })
}

/// Names the process with a number in a name space.
fn process_in(space: Option<&str>, number: u32) -> String {
    // Without Linux there are no such spaces. Number 1 is the first process of a container anyway.
    if number != 1 && space.is_none_or(|space| space == OUTERMOST_SPACE) {
        return number.to_string();
    }
    let random = RandomState::new().hash_one(()) as u32;
    format!("{number}-{random:08x}")
}

/// Returns USER@HOST for the person who started this process.
pub fn user_at_host() -> String {
    let user = ["USER", "LOGNAME"]
        .into_iter()
        .filter_map(|name| std::env::var(name).ok())
        .find(|user| !user.is_empty())
        // Containers have no names for their users.
        .unwrap_or_else(|| format!("uid-{}", rustix::process::getuid().as_raw()));
    format!("{user}@{}", host().as_deref().unwrap_or("unknown"))
}

/// Returns the words of this process's command line. What is no text is made one.
pub(crate) fn words() -> impl Iterator<Item = String> {
    std::env::args_os().map(|word| word.to_string_lossy().into_owned())
}

/// Returns this program as it was called, for a command that a person can paste.
pub fn called() -> String {
    quoted(&words().next().unwrap_or_default())
}

/// Returns this program as it was called, with all its arguments.
pub fn called_with_arguments() -> String {
    words().map(|word| quoted(&word)).collect::<Vec<_>>().join(" ")
}

/// Returns another program of the same folder as it can be called where this one was called.
pub fn called_beside(program: &str) -> String {
    let own = words().next().unwrap_or_default();
    let folder = Path::new(&own).parent().filter(|folder| !folder.as_os_str().is_empty());
    match folder {
        Some(folder) => quoted(&folder.join(program).to_string_lossy()),
        None => program.to_owned(),
    }
}

/// Quotes an argument for a POSIX shell, if it needs that.
pub fn quoted(argument: &str) -> String {
    let is_plain = |c: char| c.is_alphanumeric() || "_./:=@%+,-".contains(c);
    if !argument.is_empty() && argument.chars().all(is_plain) {
        return argument.to_owned();
    }
    format!("'{}'", argument.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processes_of_two_containers_have_different_names() {
        assert_eq!(process_in(Some(OUTERMOST_SPACE), 4321), "4321");
        assert_eq!(process_in(None, 4321), "4321");
        for (space, number) in [(Some("pid:[4026532621]"), 7), (None, 1)] {
            let [one, other] = [(); 2].map(|()| process_in(space, number));
            assert!(one != other && one.starts_with(&format!("{number}-")), "{one} {other}");
        }
        assert_eq!(process(), process());
    }

    #[test]
    fn an_argument_is_quoted_if_a_shell_would_split_or_change_it() {
        for (argument, expected) in [
            ("runs/dcgan", "runs/dcgan"),
            ("my run", "'my run'"),
            ("", "''"),
            ("it's", r"'it'\''s'"),
            ("$HOME", "'$HOME'"),
        ] {
            assert_eq!(quoted(argument), expected);
        }
    }
}
