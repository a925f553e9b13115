//! Log lines. Each that a program may want to find has a field `event` with a stable name, and the
//! values that its sentence speaks of as fields of their own: tests and other programs match those,
//! with `--log-format json`. As text, a line is its sentence alone, which may be worded anew at any
//! time. `docs/logs.md` lists the events.

use std::fmt::{self, Write};
use std::io::{self, IsTerminal};

use clap::ValueEnum;
use tracing::field::{Field, Visit};
use tracing_subscriber::field::RecordFields;
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FormatFields, MakeWriter};

/// How log lines look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// For machines: one object a line.
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

/// Flags of every program.
#[derive(Clone, Copy, Debug, clap::Args)]
pub struct LogArgs {
    /// How log lines look, on standard error
    #[arg(long, value_name = "FORMAT", default_value_t, value_enum, env = "DCGAN_LOG_FORMAT")]
    pub log_format: LogFormat,
    /// The least important log lines that are shown
    #[arg(
        long,
        hide = true,
        value_name = "LEVEL",
        default_value = "info",
        env = "DCGAN_LOG_LEVEL"
    )]
    pub log_level: LevelFilter,
}

impl LogArgs {
    /// Sends log lines to `writer`.
    pub fn start<W>(&self, writer: W)
    where
        W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
    {
        let lines = tracing_subscriber::fmt()
            .with_max_level(self.log_level)
            .with_target(false)
            .with_writer(writer);
        match self.log_format {
            LogFormat::Text => {
                lines.with_ansi(io::stderr().is_terminal()).fmt_fields(SentenceOnly).init();
            }
            LogFormat::Json => lines.json().init(),
        }
    }
}

/// Formats the fields of a line that has an `event` as its sentence, and those of others, such as
/// spans, as `name=value`.
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
        if line.has_event {
            return Ok(());
        }
        let separator = if line.sentence.is_empty() { "" } else { " " };
        write!(writer, "{separator}{}", line.fields.join(" "))
    }
}

/// A line's fields, as text.
#[derive(Default)]
struct Line {
    sentence: String,
    fields: Vec<String>,
    has_event: bool,
}

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        match field.name() {
            // Writing to a string cannot fail.
            "message" => drop(write!(self.sentence, "{value:?}")),
            "event" => self.has_event = true,
            name => self.fields.push(format!("{name}={value:?}")),
        }
    }
}
