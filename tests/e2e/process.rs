//! Processes as resources: what they print can be waited for, and they are killed when dropped. On a failure, all that
//! they printed is shown.

use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use rustix::process::{WaitId, WaitIdOptions};

/// Far more than anything takes, also on a loaded machine: it only turns a hang into a failure.
const PATIENCE: Duration = Duration::from_secs(180);

pub(crate) const COORD: &str = env!("CARGO_BIN_EXE_dcgan-coord");
pub(crate) const WORKER: &str = env!("CARGO_BIN_EXE_dcgan-worker");
pub(crate) const SAMPLER: &str = env!("CARGO_BIN_EXE_dcgan-sampler");

/// A running program.
pub(crate) struct Process {
    title: String,
    child: Child,
    said: Arc<Said>,
}

/// What it printed, on either stream.
#[derive(Default)]
struct Said {
    text: Mutex<Text>,
    more: Condvar,
}

#[derive(Default)]
struct Text {
    lines: Vec<String>,
    open_streams: usize,
}

/// How a program ended.
#[derive(Debug)]
pub(crate) struct Ended {
    /// Its status; none if a signal ended it.
    pub(crate) status: Option<i32>,
    pub(crate) text: String,
}

impl Process {
    /// Starts a program in a folder; arguments are separated by spaces.
    pub(crate) fn start(program: &str, folder: &Path, arguments: &str) -> Self {
        let mut command = Command::new(program);
        command.args(arguments.split_whitespace()).current_dir(folder);
        for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("DCGAN_")) {
            command.env_remove(name);
        }
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("it starts");
        let said = Arc::new(Said::default());
        said.text.lock().unwrap().open_streams = 2;
        listen(child.stdout.take().expect("it is piped"), &said);
        listen(child.stderr.take().expect("it is piped"), &said);
        let name = Path::new(program).file_name().unwrap().to_string_lossy();
        Self { title: format!("{name} {arguments}"), child, said }
    }

    /// Waits for a line that contains `text`; gives the first.
    pub(crate) fn wait_for(&self, text: &str) -> String {
        let found = |said: &Text| said.lines.iter().find(|line| line.contains(text)).cloned();
        let said = self.said.text.lock().unwrap();
        let over = |said: &mut Text| found(said).is_none() && said.open_streams > 0;
        let (said, _) = self.said.more.wait_timeout_while(said, PATIENCE, over).unwrap();
        let line = found(&said);
        drop(said);
        line.unwrap_or_else(|| panic!("{} did not say {text:?}:\n{}", self.title, self.text()))
    }

    /// The word after `text` in the first line that has it.
    pub(crate) fn wait_for_word_after(&self, text: &str) -> String {
        let line = self.wait_for(text);
        let (_, after) = line.split_once(text).unwrap();
        after.split([' ', ';', ')', ',']).find(|word| !word.is_empty()).unwrap().to_owned()
    }

    /// Waits for the end.
    pub(crate) fn wait(mut self) -> Ended {
        let said = self.said.text.lock().unwrap();
        let (said, timeout) = self
            .said
            .more
            .wait_timeout_while(said, PATIENCE, |said| said.open_streams > 0)
            .unwrap();
        drop(said);
        assert!(!timeout.timed_out(), "{} does not end:\n{}", self.title, self.text());
        let status = self.child.wait().unwrap().code();
        Ended { status, text: self.text() }
    }

    /// Waits for the end, which is to have this status.
    pub(crate) fn expect(self, status: i32) -> String {
        let title = self.title.clone();
        let ended = self.wait();
        assert_eq!(ended.status, Some(status), "the status of {title}:\n{}", ended.text);
        ended.text
    }

    /// Sends a signal, such as `TERM`.
    pub(crate) fn signal(&self, name: &str) {
        signal(name, &self.child.id().to_string());
    }

    /// Waits until a fault has stopped it.
    pub(crate) fn wait_until_stopped(&self) {
        self.wait_for("stops at ");
        let process = rustix::process::Pid::from_child(&self.child);
        // The line comes before the stop.
        rustix::process::waitid(WaitId::Pid(process), WaitIdOptions::STOPPED).unwrap();
    }

    /// All that it printed so far.
    pub(crate) fn text(&self) -> String {
        self.said.text.lock().unwrap().lines.join("\n")
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("--- {}\n{}", self.title, self.text());
        }
    }
}

/// Sends a signal to a process.
pub(crate) fn signal(name: &str, process: &str) {
    let sent =
        Command::new("sh").arg("-c").arg(format!("kill -{name} {process}")).status().unwrap();
    assert!(sent.success(), "kill -{name} {process}");
}

/// Runs a program to its end, which is to have this status.
pub(crate) fn run(program: &str, folder: &Path, arguments: &str, status: i32) -> String {
    Process::start(program, folder, arguments).expect(status)
}

fn listen(stream: impl Read + Send + 'static, said: &Arc<Said>) {
    let said = Arc::clone(said);
    std::thread::spawn(move || {
        for line in BufReader::new(stream).lines().map_while(Result::ok) {
            said.text.lock().unwrap().lines.push(line);
            said.more.notify_all();
        }
        said.text.lock().unwrap().open_streams -= 1;
        said.more.notify_all();
    });
}
