//! Names by which a process says who it is. They are for the log, and prove nothing.

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
