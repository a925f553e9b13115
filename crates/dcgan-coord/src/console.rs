//! The screen of a person: rows of metrics on standard output, log lines on standard error, and on
//! a terminal a progress bar below both.
//!
//! A line that is printed while the bar is shown would be torn apart by it, and the bar by the
//! line. Everything that prints goes through the one [`CONSOLE`], which takes the bar away
//! meanwhile.

use std::io::{self, IsTerminal, Write};
use std::sync::OnceLock;
use std::time::Duration;

use dcgan_core::ids::Step;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressState, ProgressStyle};

/// The progress bar is drawn again this often.
const REDRAW_INTERVAL: Duration = Duration::from_millis(250);

/// The terminal, or the files that stand in for it.
pub(crate) struct Console {
    /// Set once, and only on a terminal.
    bar: OnceLock<ProgressBar>,
}

/// The console of this process.
pub(crate) static CONSOLE: Console = Console { bar: OnceLock::new() };

impl Console {
    /// Shows a bar that begins at `step`, if this is a terminal.
    ///
    /// # Panics
    /// If the template is not valid.
    pub(crate) fn start_bar(&self, step: Step, last_step: Step, batch_size: usize) {
        if !io::stderr().is_terminal() || !io::stdout().is_terminal() {
            return;
        }
        let images_per_second = move |state: &ProgressState, f: &mut dyn std::fmt::Write| {
            // An error would only make the bar incomplete until it is drawn again.
            let _ = write!(f, "{:.0} images/s", state.per_sec() * batch_size as f64);
        };
        let style = ProgressStyle::with_template(
            "{wide_bar} {pos}/{len} steps  {images}  {eta} left  {msg}",
        )
        .expect("the template is valid")
        .with_key("images", images_per_second);
        let bar = ProgressBar::with_draw_target(Some(last_step), ProgressDrawTarget::stderr())
            .with_style(style);
        bar.set_position(step);
        // The steps before this start took no time of this process.
        bar.reset_eta();
        bar.enable_steady_tick(REDRAW_INTERVAL);
        // There is only one start, so the bar is not set yet.
        let _ = self.bar.set(bar);
    }

    /// Moves the bar to `step`.
    pub(crate) fn show_step(&self, step: Step) {
        if let Some(bar) = self.bar.get().filter(|bar| bar.position() != step) {
            bar.set_position(step);
        }
    }

    /// Shows a message beside the bar, such as what the run waits for. An empty one removes it.
    pub(crate) fn show_message(&self, message: &str) {
        if let Some(bar) = self.bar.get() {
            bar.set_message(message.to_owned());
        }
    }

    /// Removes the bar.
    pub(crate) fn end_bar(&self) {
        if let Some(bar) = self.bar.get() {
            bar.finish_and_clear();
        }
    }

    /// Prints on standard output.
    pub(crate) fn print(&self, text: &str) {
        self.print_above_bar(|| dcgan_process::print(text));
    }

    /// Takes the bar away while `print` runs.
    fn print_above_bar<T>(&self, print: impl FnOnce() -> T) -> T {
        match self.bar.get() {
            Some(bar) => bar.suspend(print),
            None => print(),
        }
    }
}

/// Log lines go to standard error, above the bar.
impl Write for &Console {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.print_above_bar(|| io::stderr().write(bytes))
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stderr().flush()
    }
}
