//! Standard output and standard error. They belong to somebody else: a terminal that a person has
//! stopped, a pipe whose reader is gone or slow, a file on a disk that is full or hangs.
//!
//! A program that trains must neither end because of them nor wait for them. From [`start`] on, a
//! thread for each of them writes, in order, what is printed. A write that fails is forgotten. What
//! waits is limited: lines beyond are left out, and their number is said when there is room again.
//! Before, and in programs that do nothing but print, everything is written at once.

use std::borrow::Cow;
use std::collections::VecDeque;
use std::io::{self, IsTerminal, Write};
use std::sync::{Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread;
use std::time::Duration;

/// Bytes that wait for one stream at most.
pub const WAITING_BYTES_MAX: usize = 1024 * 1024;
/// A program that ends waits this long until its last lines are written.
const FLUSH_MAX: Duration = Duration::from_secs(1);

/// One of the two streams.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stream {
    /// Standard output: results, and rows of metrics.
    Out,
    /// Standard error: the log, and a progress bar.
    Err,
}

/// The threads that write, once there are any. On a terminal both streams have one thread, so that
/// lines stay in order there.
static PRINTERS: OnceLock<Vec<Printer>> = OnceLock::new();

/// Lets threads write what is printed, from now on.
///
/// # Errors
/// If the operating system starts no threads.
pub fn start() -> io::Result<()> {
    let count = if io::stdout().is_terminal() { 1 } else { 2 };
    let printers = PRINTERS.get_or_init(|| (0..count).map(|_| Printer::default()).collect());
    for printer in printers {
        thread::Builder::new().name("output".to_owned()).spawn(|| printer.work())?;
    }
    Ok(())
}

/// Writes bytes to a stream, sooner or later.
pub fn write(stream: Stream, bytes: &[u8]) {
    let bytes = bytes.to_vec();
    run(stream, bytes.len(), move || write_now(stream, &bytes));
}

/// Prints to standard output. What a terminal obeys is [`escaped`].
pub fn print(text: &str) {
    write(Stream::Out, escaped(text).as_bytes());
}

/// Prints a line to standard error. What a terminal obeys is [`escaped`].
pub fn say(line: &str) {
    write(Stream::Err, format!("{}\n", escaped(line)).as_bytes());
}

/// Escapes the characters that a terminal obeys, except for tabs and the ends of lines. The names
/// of files, arguments, and what other machines say can hold any. The escapes are those of JSON, so
/// that a JSON text stays one.
pub fn escaped(text: &str) -> Cow<'_, str> {
    if !text.contains(is_obeyed) {
        return Cow::Borrowed(text);
    }
    let mut clean = String::new();
    for c in text.chars() {
        if is_obeyed(c) {
            clean.push_str(&format!("\\u{:04x}", u32::from(c)));
        } else {
            clean.push(c);
        }
    }
    Cow::Owned(clean)
}

fn is_obeyed(c: char) -> bool {
    c.is_control() && !matches!(c, '\n' | '\t')
}

/// Runs what prints so many bytes to a stream, in its turn.
pub fn run(stream: Stream, bytes: usize, print: impl FnOnce() + Send + 'static) {
    match PRINTERS.get() {
        Some(printers) => printers[stream as usize % printers.len()].add(bytes, Box::new(print)),
        None => print(),
    }
}

/// Writes bytes to a stream, and waits until it has taken them. Whether it could is nobody's
/// concern.
pub fn write_now(stream: Stream, bytes: &[u8]) {
    let _ = match stream {
        Stream::Out => write_to_out(bytes),
        Stream::Err => io::stderr().write_all(bytes),
    };
}

fn write_to_out(bytes: &[u8]) -> io::Result<()> {
    io::stdout().write_all(bytes).and_then(|()| io::stdout().flush())
}

/// Prints the result of a program that does nothing but print it, at once. What a terminal obeys is
/// [`escaped`].
///
/// # Errors
/// If it cannot be written. That a reader such as `head` is gone is no error.
pub fn print_result(text: &str) -> anyhow::Result<()> {
    flush();
    check_written(write_to_out(escaped(text).as_bytes()))
}

/// Checks that a result was written to standard output.
///
/// # Errors
/// If it could not be. That a reader such as `head` is gone is no error.
pub(crate) fn check_written(written: io::Result<()>) -> anyhow::Result<()> {
    match written.and_then(|()| io::stdout().flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(anyhow::Error::from(error).context("cannot write to standard output"))
        }
        _ => Ok(()),
    }
}

/// Waits a moment until everything that was printed is written.
pub fn flush() {
    for printer in PRINTERS.get().into_iter().flatten() {
        printer.wait_until_idle(FLUSH_MAX);
    }
}

/// Returns whether standard error is a terminal that obeys more than the end of a line.
pub fn is_screen() -> bool {
    io::stderr().is_terminal() && std::env::var_os("TERM").is_none_or(|it| it != "dumb")
}

/// Returns whether text on standard error may have colours: it is a terminal that obeys them, and
/// the person has not asked for none (<https://no-color.org>).
pub fn has_colours() -> bool {
    is_screen() && std::env::var_os("NO_COLOR").is_none_or(|it| it.is_empty())
}

/// Standard error, as a writer of log lines.
#[derive(Clone, Copy, Debug)]
pub struct StandardError;

impl Write for StandardError {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        write(Stream::Err, bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

type Job = Box<dyn FnOnce() + Send>;

/// The work of one thread.
#[derive(Default)]
struct Printer {
    queue: Mutex<Queue>,
    changed: Condvar,
}

#[derive(Default)]
struct Queue {
    /// Each with the number of its bytes.
    jobs: VecDeque<(usize, Job)>,
    /// The bytes of all jobs, and of the one that is being done.
    bytes: usize,
    /// Lines that were left out, and not said yet.
    left_out: u64,
    is_working: bool,
}

impl Printer {
    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn add(&self, bytes: usize, job: Job) {
        let mut queue = self.lock();
        if queue.bytes + bytes > WAITING_BYTES_MAX {
            queue.left_out += 1;
            return;
        }
        queue.bytes += bytes;
        queue.jobs.push_back((bytes, job));
        drop(queue);
        self.changed.notify_all();
    }

    /// Does the jobs, for ever.
    fn work(&self) {
        loop {
            let mut queue = self.lock();
            let Some((bytes, job)) = queue.jobs.pop_front() else {
                queue.is_working = false;
                self.changed.notify_all();
                drop(self.changed.wait(queue).unwrap_or_else(PoisonError::into_inner));
                continue;
            };
            queue.is_working = true;
            drop(queue);
            job();
            let mut queue = self.lock();
            queue.bytes -= bytes;
            let left_out = std::mem::take(&mut queue.left_out);
            drop(queue);
            if left_out > 0 {
                tracing::warn!(
                    event = "lines_left_out",
                    count = left_out,
                    "{left_out} lines were left out here: the terminal, or the file in its place, \
                     did not take them"
                );
            }
        }
    }

    fn wait_until_idle(&self, max: Duration) {
        let is_busy = |queue: &mut Queue| queue.is_working || !queue.jobs.is_empty();
        drop(self.changed.wait_timeout_while(self.lock(), max, is_busy));
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::mpsc;

    use super::*;

    #[test]
    fn whoever_prints_waits_for_nothing_and_lines_beyond_the_limit_are_left_out() {
        let printer: &'static Printer = Box::leak(Box::default());
        thread::spawn(|| printer.work());
        // The first job hangs, as a terminal that was stopped.
        let (go_on, stopped) = mpsc::channel::<()>();
        printer.add(1, Box::new(move || assert!(stopped.recv().is_ok())));
        let written = Arc::new(Mutex::new(0));
        let half = WAITING_BYTES_MAX / 2;
        for _ in 0..3 {
            let written = Arc::clone(&written);
            printer.add(half - 1, Box::new(move || *written.lock().unwrap() += 1));
        }
        assert_eq!((printer.lock().left_out, *written.lock().unwrap()), (1, 0));
        printer.wait_until_idle(Duration::ZERO);

        go_on.send(()).unwrap();
        printer.wait_until_idle(Duration::from_secs(60));
        assert_eq!((printer.lock().left_out, *written.lock().unwrap()), (0, 2));
        assert_eq!(printer.lock().bytes, 0);
    }

    #[test]
    fn what_a_terminal_obeys_is_escaped() {
        assert_eq!(escaped("two\n\tlines: é"), "two\n\tlines: é");
        assert_eq!(escaped("a\u{1b}[2J\rb\u{7f}\u{9b}"), r"a\u001b[2J\u000db\u007f\u009b");
    }

    #[test]
    fn a_result_that_cannot_be_written_is_an_error_unless_its_reader_is_gone() {
        let error = |kind| check_written(Err(io::Error::from(kind)));
        let full = error(io::ErrorKind::StorageFull).unwrap_err();
        assert_eq!(format!("{full:#}"), "cannot write to standard output: no storage space");
        assert!(error(io::ErrorKind::BrokenPipe).is_ok());
    }

    #[test]
    fn without_threads_everything_is_written_at_once() {
        let (written, done) = mpsc::channel();
        run(Stream::Err, 1, move || written.send(()).unwrap());
        assert!(done.try_recv().is_ok());
    }
}
