//! Names by which a process says who it is, and how it was called. They are for people, and prove
//! nothing.

use std::path::Path;

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
    format!("{}-{}", host().as_deref().unwrap_or("unknown"), std::process::id())
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

/// Returns this program as it was called, for a command that a person can paste.
pub fn called() -> String {
    quoted(&std::env::args().next().unwrap_or_default())
}

/// Returns another program of the same folder as it can be called where this one was called.
pub fn called_beside(program: &str) -> String {
    let own = std::env::args().next().unwrap_or_default();
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
