//! Processes as resources: a test can wait for what they print, and they are killed when dropped.
//! When a test fails, everything that its processes printed is shown.

use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use dcgan_core::ids::Step;
use rustix::process::{WaitId, WaitIdOptions};

use crate::events::{Event, Field};

/// How long a test waits for anything. It is far more than anything takes, also on a loaded
/// machine: it only turns a hang into a failure.
const PATIENCE: Duration = Duration::from_secs(180);

pub(crate) const COORD: &str = env!("CARGO_BIN_EXE_dcgan-coord");
pub(crate) const WORKER: &str = env!("CARGO_BIN_EXE_dcgan-worker");
pub(crate) const SAMPLER: &str = env!("CARGO_BIN_EXE_dcgan-sampler");

/// A running program.
pub(crate) struct Process {
    title: String,
    child: Child,
    output: Arc<Output>,
}

/// The output of a program, and a signal for each new line.
#[derive(Default)]
struct Output {
    printed: Mutex<Printed>,
    changed: Condvar,
}

/// The lines that a program has printed so far.
#[derive(Default)]
struct Printed {
    /// The lines of both streams, in the order in which they arrived.
    lines: Vec<String>,
    /// The lines of standard output.
    rows: Vec<String>,
    /// The lines of standard error that are log lines.
    events: Vec<Event>,
    /// Streams that the program has not closed.
    open_streams: usize,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Stream {
    Out,
    Err,
}

/// A program that has ended.
#[derive(Debug)]
pub(crate) struct Ended {
    /// Its exit status. None if a signal ended it.
    pub(crate) status: Option<i32>,
    /// All that it printed, on both streams.
    pub(crate) text: String,
    events: Vec<Event>,
}

impl Process {
    /// Starts a program in a folder, with its log as JSON. Arguments are separated by spaces.
    pub(crate) fn start(program: &str, folder: &Path, arguments: &str) -> Self {
        Self::start_with_log_format("json", program, folder, arguments)
    }

    /// Starts a program in a folder, with its log in this format.
    pub(crate) fn start_with_log_format(
        format: &str,
        program: &str,
        folder: &Path,
        arguments: &str,
    ) -> Self {
        // Whoever runs the tests may ignore SIGHUP, and the programs would inherit that.
        let mut command = Command::new("env");
        command.args(["--default-signal=HUP", program]);
        // Every verb accepts the format in front of it.
        command.args(["--log-format", format]);
        command.args(arguments.split_whitespace()).current_dir(folder);
        // The settings of whoever runs the tests must not reach the programs.
        for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("DCGAN_")) {
            command.env_remove(name);
        }
        // The documented ports may be another test's. A flag beats this.
        command.env("DCGAN_LISTEN", "127.0.0.1:0");
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the program starts");

        // Read both streams all the time: a full pipe would stop the program.
        let output = Arc::new(Output::default());
        output.printed.lock().unwrap().open_streams = 2;
        collect(Stream::Out, child.stdout.take().expect("stdout is piped"), &output);
        collect(Stream::Err, child.stderr.take().expect("stderr is piped"), &output);
        let name = Path::new(program).file_name().unwrap().to_string_lossy();
        Self { title: format!("{name} {arguments}"), child, output }
    }

    /// Waits for an event with all of these fields; gives the first.
    pub(crate) fn wait_for_event(&self, name: &str, fields: &[Field<'_>]) -> Event {
        self.wait_for_event_where(&format!("{name} {fields:?}"), |event| event.is(name, fields))
    }

    /// Waits for an event that is wanted; gives the first. `description` is for the failure.
    pub(crate) fn wait_for_event_where(
        &self,
        description: &str,
        is_wanted: impl Fn(&Event) -> bool,
    ) -> Event {
        let found = self
            .wait_until(|printed| printed.events.iter().find(|event| is_wanted(event)).cloned());
        found.unwrap_or_else(|| {
            panic!("{}: expected the event {description}, found:\n{}", self.title, self.text())
        })
    }

    /// Waits until the row of metrics of a step is printed.
    pub(crate) fn wait_for_step(&self, step: Step) {
        let text = format!("step {step}/");
        let row = |row: &&String| row.contains(&text);
        let found = self.wait_until(|printed| printed.rows.iter().find(row).cloned());
        assert!(found.is_some(), "{}: no row of step {step} in:\n{}", self.title, self.text());
    }

    /// Waits for a line with this text.
    pub(crate) fn wait_for_text(&self, text: &str) {
        let line = |line: &&String| line.contains(text);
        let found = self.wait_until(|printed| printed.lines.iter().find(line).cloned());
        assert!(found.is_some(), "{}: no line with {text:?} in:\n{}", self.title, self.text());
    }

    /// Waits until something is found in what the program printed. None if the program has ended,
    /// or patience has, and nothing is found.
    fn wait_until<T>(&self, find: impl Fn(&Printed) -> Option<T>) -> Option<T> {
        let is_open = |printed: &mut Printed| find(printed).is_none() && printed.open_streams > 0;
        let printed = self.output.printed.lock().unwrap();
        let (printed, _) =
            self.output.changed.wait_timeout_while(printed, PATIENCE, is_open).unwrap();
        find(&printed)
    }

    /// Waits for the end.
    pub(crate) fn wait(mut self) -> Ended {
        let is_running = |printed: &mut Printed| printed.open_streams > 0;
        let printed = self.output.printed.lock().unwrap();
        let (printed, timeout) =
            self.output.changed.wait_timeout_while(printed, PATIENCE, is_running).unwrap();
        let events = printed.events.clone();
        // `text` takes the lock itself.
        drop(printed);
        assert!(!timeout.timed_out(), "{} does not end:\n{}", self.title, self.text());
        let status = self.child.wait().unwrap().code();
        Ended { status, text: self.text(), events }
    }

    /// Waits for the end, and expects this exit status.
    pub(crate) fn expect(self, status: i32) -> Ended {
        let title = self.title.clone();
        let ended = self.wait();
        assert_eq!(ended.status, Some(status), "the status of {title}:\n{}", ended.text);
        ended
    }

    /// Sends a signal, such as `TERM`.
    pub(crate) fn signal(&self, name: &str) {
        signal(name, &self.child.id().to_string());
    }

    /// Sends a signal, and the same at once again.
    pub(crate) fn signal_twice(&self, name: &str) {
        let process = self.child.id();
        signal(name, &format!("{process} {process}"));
    }

    /// Waits until a fault has stopped the program.
    pub(crate) fn wait_until_stopped(&self) {
        self.wait_for_event("fault_stopped", &[]);
        // The program writes the line before it stops.
        let process = rustix::process::Pid::from_child(&self.child);
        rustix::process::waitid(WaitId::Pid(process), WaitIdOptions::STOPPED).unwrap();
    }

    /// Waits for an event with all of these fields. Returns false if the program ended before.
    pub(crate) fn says_before_its_end(&self, name: &str, fields: &[Field<'_>]) -> bool {
        let is_wanted = |event: &&Event| event.is(name, fields);
        let found = self.wait_until(|printed| printed.events.iter().find(is_wanted).map(drop));
        let has_ended = self.output.printed.lock().unwrap().open_streams == 0;
        assert!(found.is_some() || has_ended, "{}: no {name} in:\n{}", self.title, self.text());
        found.is_some()
    }

    /// The most memory that the program has taken so far, in bytes.
    pub(crate) fn peak_memory(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
        1024 * peak.trim().trim_end_matches(" kB").parse::<u64>().unwrap()
    }

    /// The program and its arguments.
    pub(crate) fn title(&self) -> &str {
        &self.title
    }

    /// All that the program has printed so far.
    pub(crate) fn text(&self) -> String {
        self.output.printed.lock().unwrap().lines.join("\n")
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

impl Ended {
    /// The first event with all of these fields.
    ///
    /// # Panics
    /// If the program wrote none.
    pub(crate) fn event(&self, name: &str, fields: &[Field<'_>]) -> &Event {
        let event = self.events.iter().find(|event| event.is(name, fields));
        event.unwrap_or_else(|| panic!("no event {name} {fields:?} in:\n{}", self.text))
    }

    /// The sentence of the one error that the program ended with: a line that begins with
    /// `error: `, or, once the program writes a log, an event.
    ///
    /// # Panics
    /// If there is none, or more than one.
    pub(crate) fn error(&self) -> &str {
        let lines = self.text.lines().filter_map(|line| line.strip_prefix("error: "));
        let failures = self.events.iter().filter(|event| event.is("program_failed", &[]));
        let errors: Vec<&str> = lines.chain(failures.map(|event| event.message.as_str())).collect();
        assert_eq!(errors.len(), 1, "expected one error:\n{}", self.text);
        errors[0]
    }
}

/// Sends a signal to a process.
pub(crate) fn signal(name: &str, process: &str) {
    let sent =
        Command::new("sh").arg("-c").arg(format!("kill -{name} {process}")).status().unwrap();
    assert!(sent.success(), "kill -{name} {process}");
}

/// Runs a program to its end, and expects this exit status.
pub(crate) fn run(program: &str, folder: &Path, arguments: &str, status: i32) -> Ended {
    Process::start(program, folder, arguments).expect(status)
}

/// Asserts that a text names all of these: flags, files, values.
pub(crate) fn assert_names(text: &str, parts: &[&str]) {
    for part in parts {
        assert!(text.contains(part), "{part:?} is not in:\n{text}");
    }
}

/// Waits until files are as a test wants them: of some, no program tells.
pub(crate) fn wait_for_files(is_there: impl Fn() -> bool) {
    while !is_there() {
        #[expect(clippy::disallowed_methods, reason = "nobody says when a file changes")]
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Starts a thread that reads a stream to its end.
fn collect(stream: Stream, reader: impl Read + Send + 'static, output: &Arc<Output>) {
    let output = Arc::clone(output);
    std::thread::spawn(move || {
        for line in BufReader::new(reader).lines().map_while(Result::ok) {
            output.printed.lock().unwrap().add(stream, line);
            output.changed.notify_all();
        }
        output.printed.lock().unwrap().open_streams -= 1;
        output.changed.notify_all();
    });
}

impl Printed {
    fn add(&mut self, stream: Stream, line: String) {
        match stream {
            Stream::Out => self.rows.push(line.clone()),
            Stream::Err => self.events.extend(Event::parse(&line)),
        }
        self.lines.push(line);
    }
}
