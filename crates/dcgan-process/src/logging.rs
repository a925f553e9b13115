//! Log lines, as text for people or as JSON for programs.
//!
//! Tests and other programs must find lines in a log, and sentences must be free to become better.
//! So every line that a program may look for has a field `event` with a stable name, and the values
//! of its sentence are fields of their own. With `--log-format json` a line has all of them; as
//! text it is the sentence alone. `docs/logs.md` lists the events.

use std::fmt::{self, Write};
use std::io::{self, IsTerminal};
use std::sync::OnceLock;
use std::time::UNIX_EPOCH;

use anyhow::anyhow;
use clap::{ArgAction, ValueEnum};
use serde::{Deserialize, Serialize};
use tracing::field::{Field, Visit};
use tracing::{Metadata, Subscriber};
use tracing_subscriber::field::RecordFields;
use tracing_subscriber::filter::{FilterFn, LevelFilter, filter_fn};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::{FormatTime, SystemTime};
use tracing_subscriber::fmt::{FormatFields, MakeWriter};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

use crate::exit::usage;
use crate::output::{self, StandardError, escaped};
use crate::settings;

/// The format of log lines.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LogFormat {
    /// Sentences, for people.
    #[default]
    Text,
    /// One JSON object in each line, for programs.
    Json,
}

impl fmt::Display for LogFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Text => "text",
            Self::Json => "json",
        })
    }
}

/// The flags about the log of a program without a configuration file.
#[derive(Clone, Copy, Debug, clap::Args)]
#[command(mut_args = settings::in_plain_words)]
pub struct LogArgs {
    /// Format of the log lines, which go to standard error.
    #[arg(
        long,
        global = true,
        value_name = "FORMAT",
        default_value_t,
        value_enum,
        env = "DCGAN_LOG_FORMAT"
    )]
    pub log_format: LogFormat,
    /// Shows only warnings, errors and the result.
    #[arg(short, long, global = true, default_value = "no", env = "DCGAN_QUIET")]
    #[arg(action = ArgAction::Set)]
    quiet: bool,
    /// Logs more, such as what is sent to whom.
    #[arg(short, long, global = true, default_value = "no", env = "DCGAN_VERBOSE")]
    #[arg(action = ArgAction::Set)]
    verbose: bool,
}

/// The target of the lines that say how a program has ended. They are shown at every level.
pub const RESULT: &str = "result";

/// Returns the least important level of log lines that are shown.
///
/// # Errors
/// If both are asked for.
pub fn level(quiet: bool, verbose: bool) -> anyhow::Result<LevelFilter> {
    match (quiet, verbose) {
        (true, true) => Err(usage(anyhow!("--quiet and --verbose exclude each other: give one"))),
        (true, false) => Ok(LevelFilter::WARN),
        (false, true) => Ok(LevelFilter::DEBUG),
        (false, false) => Ok(LevelFilter::INFO),
    }
}

/// The format of this process's log, once it has one.
static FORMAT: OnceLock<LogFormat> = OnceLock::new();

/// Tells whether this process writes its log as JSON.
pub fn is_json() -> bool {
    FORMAT.get() == Some(&LogFormat::Json)
}

impl LogArgs {
    /// Sends the log lines of this process to standard error.
    ///
    /// # Errors
    /// If the flags contradict each other.
    ///
    /// # Panics
    /// If it was called before.
    pub fn start(&self) -> anyhow::Result<()> {
        start(self.log_format, level(self.quiet, self.verbose)?, || StandardError);
        Ok(())
    }
}

/// Sends the log lines of this process to `writer`, in this format.
///
/// # Panics
/// If it was called before.
pub fn start<W: io::Write + 'static>(
    format: LogFormat,
    level: LevelFilter,
    writer: impl Fn() -> W + Send + Sync + 'static,
) {
    let _ = FORMAT.set(format);
    match format {
        LogFormat::Text if io::stderr().is_terminal() => {
            text(level, output::has_colours(), TimeOfDay, writer).init();
        }
        LogFormat::Text => text(level, false, SystemTime, writer).init(),
        LogFormat::Json => json(level, writer).init(),
    }
}

/// Writes the time of day in UTC: a person at a terminal knows the date.
struct TimeOfDay;

impl FormatTime for TimeOfDay {
    fn format_time(&self, writer: &mut Writer<'_>) -> fmt::Result {
        let now = std::time::SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let (hours, minutes) = (now.as_secs() / 3600 % 24, now.as_secs() / 60 % 60);
        write!(writer, "{hours:02}:{minutes:02}:{:02}Z", now.as_secs() % 60)
    }
}

/// Shows lines of this level and more important ones, and results.
fn important(level: LevelFilter) -> FilterFn<impl Fn(&Metadata<'_>) -> bool> {
    filter_fn(move |line: &Metadata<'_>| *line.level() <= level || line.target() == RESULT)
        .with_max_level_hint(level.max(LevelFilter::INFO))
}

/// Writes lines as text, in colour if `ansi`.
fn text<T, W>(level: LevelFilter, ansi: bool, timer: T, writer: W) -> impl Subscriber + Send + Sync
where
    T: FormatTime + Send + Sync + 'static,
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    tracing_subscriber::fmt()
        .with_max_level(LevelFilter::DEBUG)
        .with_timer(timer)
        .with_target(false)
        .with_writer(writer)
        .with_ansi(ansi)
        // It would say on standard error that standard error fails, and panic.
        .log_internal_errors(false)
        .fmt_fields(SentenceOnly)
        .finish()
        .with(important(level))
}

/// Writes lines as JSON.
fn json<W: io::Write + 'static>(
    level: LevelFilter,
    writer: impl Fn() -> W + Send + Sync + 'static,
) -> impl Subscriber + Send + Sync {
    tracing_subscriber::fmt()
        .with_max_level(LevelFilter::DEBUG)
        .with_target(false)
        .with_writer(move || EscapingWriter(writer()))
        .log_internal_errors(false)
        .json()
        .finish()
        .with(important(level))
}

/// Formats the fields of a line that has an `event` as its sentence alone. Others, such as those of
/// a span or of a library's line, are followed by `name=value`.
struct SentenceOnly;

impl<'writer> FormatFields<'writer> for SentenceOnly {
    fn format_fields<R: RecordFields>(
        &self,
        mut writer: Writer<'writer>,
        fields: R,
    ) -> fmt::Result {
        let mut line = Line::default();
        fields.record(&mut line);
        writer.write_str(&line.sentence)?;
        if line.has_event || line.fields.is_empty() {
            return Ok(());
        }
        let separator = if line.sentence.is_empty() { "" } else { " " };
        write!(writer, "{separator}{}", line.fields.join(" "))
    }
}

/// The fields of one line, as text.
#[derive(Default)]
struct Line {
    sentence: String,
    /// Each as `name=value`.
    fields: Vec<String>,
    has_event: bool,
}

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        match field.name() {
            // Writing to a string cannot fail.
            "message" => {
                let _ = write!(Escaping(&mut self.sentence), "{value:?}");
            }
            "event" => self.has_event = true,
            name => {
                let mut text = format!("{name}=");
                let _ = write!(Escaping(&mut text), "{value:?}");
                self.fields.push(text);
            }
        }
    }
}

/// A text of which what a terminal obeys is escaped.
struct Escaping<'a>(&'a mut String);

impl Write for Escaping<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.0.push_str(&escaped(text));
        Ok(())
    }
}

/// A writer of JSON lines. Of the characters that a terminal obeys, JSON itself leaves some.
struct EscapingWriter<W>(W);

impl<W: io::Write> io::Write for EscapingWriter<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write_all(escaped(&String::from_utf8_lossy(bytes)).as_bytes())?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use tracing::Level;

    use super::*;

    /// A writer whose bytes can be read.
    #[derive(Clone, Default)]
    struct Buffer(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Buffer {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl Buffer {
        fn text(&self) -> String {
            String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
        }
    }

    /// The text that `log` writes, without the time.
    fn logged_as_text(log: impl FnOnce()) -> String {
        let buffer = Buffer::default();
        let writer = buffer.clone();
        let lines = text(LevelFilter::INFO, false, SystemTime, move || writer.clone());
        tracing::subscriber::with_default(lines, log);
        let text = buffer.text();
        text.split_once("INFO ").unwrap().1.to_owned()
    }

    #[test]
    fn a_line_with_an_event_is_its_sentence_alone() {
        let line = logged_as_text(|| {
            tracing::info!(event = "checkpoint_saved", step = 5, "checkpoint of step {} saved", 5);
        });
        assert_eq!(line, "checkpoint of step 5 saved\n");
    }

    #[test]
    fn a_line_without_an_event_keeps_its_fields() {
        let line = logged_as_text(|| tracing::event!(Level::INFO, peer = 3, "a library's line"));
        assert_eq!(line, "a library's line peer=3\n");
        assert_eq!(logged_as_text(|| tracing::event!(Level::INFO, "no field")), "no field\n");
    }

    #[test]
    fn what_a_terminal_obeys_is_escaped() {
        let line = logged_as_text(|| {
            tracing::info!(event = "worker_refused", "refused: {}", "\u{1b}[31m\u{9b}red");
        });
        assert_eq!(line, "refused: \\u001b[31m\\u009bred\n");
    }

    #[test]
    fn a_quiet_log_has_warnings_and_the_result() {
        let buffer = Buffer::default();
        let writer = buffer.clone();
        let quiet = level(true, false).unwrap();
        let lines = text(quiet, false, TimeOfDay, move || writer.clone());
        tracing::subscriber::with_default(lines, || {
            tracing::info!(event = "plan", "news");
            tracing::warn!(event = "coordinator_lost", "a warning");
            tracing::info!(target: RESULT, event = "run_finished", "the result");
        });
        let text = buffer.text();
        let lines: Vec<&str> = text.lines().map(|line| &line["00:00:00Z ".len()..]).collect();
        assert_eq!(lines, [" WARN a warning", " INFO the result"]);
        assert!(level(true, true).is_err());
    }

    #[test]
    fn a_span_keeps_its_fields() {
        let line = logged_as_text(|| {
            let _span = tracing::info_span!("training", rank = 1, step = 4).entered();
            tracing::info!(event = "run_over", "the run is over");
        });
        assert_eq!(line, "training{rank=1 step=4}: the run is over\n");
    }

    #[test]
    fn a_json_line_has_the_event_the_values_and_the_sentence_escaped() {
        let buffer = Buffer::default();
        let writer = buffer.clone();
        let lines = json(LevelFilter::INFO, move || writer.clone());
        tracing::subscriber::with_default(lines, || {
            let nobody: Option<&str> = None;
            tracing::info!(event = "run_stopped", step = 5, worker = nobody, "stopped\u{9b}");
        });
        let line = buffer.text();
        let fields = r#""fields":{"message":"stopped\u009b","event":"run_stopped","step":5}"#;
        assert!(line.contains(fields), "{line}");
    }
}
