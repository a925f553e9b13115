//! The screen of a person: rows of metrics on standard output, log lines on standard error, and on
//! a terminal a progress bar below both.
//!
//! A line that is printed while the bar is shown would be torn apart by it, and the bar by the
//! line. Everything that prints goes through the one [`CONSOLE`], which takes the bar away
//! meanwhile.

use std::io::{self, IsTerminal, Write};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use dcgan_core::ids::Step;
use dcgan_process::output::{self, Stream};
use indicatif::{HumanDuration, ProgressBar, ProgressDrawTarget, ProgressState, ProgressStyle};

/// The progress bar is drawn again this often.
const REDRAW_INTERVAL: Duration = Duration::from_millis(250);

/// The terminal, or the files that stand in for it.
pub(crate) struct Console {
    /// Set once, and only on a terminal. Whoever draws it may have to wait for the terminal, so
    /// only the thread that prints does.
    bar: OnceLock<ProgressBar>,
    /// The step and the message that the bar is to show.
    shown: Mutex<(Step, String)>,
    /// The images per second of the newest row, as bits; 0 before the first. The bar's own measure
    /// would forget steps that take long.
    speed: AtomicU64,
    /// True while the thread that prints is about to show them.
    is_shown_soon: AtomicBool,
    /// True if there is no bar, and no rows.
    is_quiet: AtomicBool,
}

/// The console of this process.
pub(crate) static CONSOLE: Console = Console {
    bar: OnceLock::new(),
    shown: Mutex::new((0, String::new())),
    speed: AtomicU64::new(0),
    is_shown_soon: AtomicBool::new(false),
    is_quiet: AtomicBool::new(false),
};

impl Console {
    /// Shows neither a bar nor rows from now on, only log lines.
    pub(crate) fn be_quiet(&self) {
        self.is_quiet.store(true, Ordering::Relaxed);
    }

    /// Shows a bar that begins at `step`, if this is a terminal.
    ///
    /// # Panics
    /// If the template is not valid.
    pub(crate) fn start_bar(&self, step: Step, last_step: Step, batch_size: usize) {
        let is_quiet = self.is_quiet.load(Ordering::Relaxed);
        if is_quiet || !output::is_screen() || !io::stdout().is_terminal() {
            return;
        }
        let speed = move |state: &ProgressState, f: &mut dyn std::fmt::Write| {
            let images_per_second = f64::from_bits(CONSOLE.speed.load(Ordering::Relaxed));
            let steps_left = state.len().unwrap_or_default().saturating_sub(state.pos());
            let left = steps_left as f64 * batch_size as f64 / images_per_second;
            // Before the first row there is no speed.
            if let Ok(left) = Duration::try_from_secs_f64(left) {
                let left = HumanDuration(left);
                // An error would only make the bar incomplete until it is drawn again.
                let _ = write!(f, "  {images_per_second:.0} img/s  {left:#} left");
            }
        };
        let style = ProgressStyle::with_template("{wide_bar} {pos}/{len} steps{speed}  {msg}")
            .expect("the template is valid")
            .with_key("speed", speed);
        let bar = ProgressBar::with_draw_target(Some(last_step), ProgressDrawTarget::stderr())
            .with_style(style);
        bar.set_position(step);
        bar.enable_steady_tick(REDRAW_INTERVAL);
        // There is only one start, so the bar is not set yet.
        let _ = self.bar.set(bar);
    }

    /// Moves the bar to `step`.
    pub(crate) fn show_step(&'static self, step: Step) {
        let before = std::mem::replace(&mut self.lock().0, step);
        if before != step {
            self.show_soon();
        }
    }

    /// Shows the speed of the newest row beside the bar, and the time that follows from it, as
    /// `status` does.
    pub(crate) fn show_speed(&self, images_per_second: f64) {
        self.speed.store(images_per_second.to_bits(), Ordering::Relaxed);
    }

    /// Shows a message beside the bar, such as what the run waits for. An empty one removes it.
    pub(crate) fn show_message(&'static self, message: &str) {
        let before = std::mem::replace(&mut self.lock().1, message.to_owned());
        if before != message {
            self.show_soon();
        }
    }

    fn lock(&self) -> MutexGuard<'_, (Step, String)> {
        self.shown.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets the bar show the newest step and message, however many came since it did.
    fn show_soon(&'static self) {
        let Some(bar) =
            self.bar.get().filter(|_| !self.is_shown_soon.swap(true, Ordering::Relaxed))
        else {
            return;
        };
        output::run(Stream::Err, 0, || {
            self.is_shown_soon.store(false, Ordering::Relaxed);
            let (step, message) = self.lock().clone();
            bar.set_position(step);
            bar.set_message(message);
        });
    }

    /// Removes the bar.
    pub(crate) fn end_bar(&'static self) {
        if let Some(bar) = self.bar.get() {
            output::run(Stream::Err, 0, || bar.finish_and_clear());
        }
    }

    /// Prints a row of metrics on standard output.
    pub(crate) fn print_row(&'static self, text: &str) {
        if !self.is_quiet.load(Ordering::Relaxed) {
            self.write_above_bar(Stream::Out, text.as_bytes());
        }
    }

    /// Writes to a stream, and takes the bar away meanwhile.
    fn write_above_bar(&'static self, stream: Stream, bytes: &[u8]) {
        let bytes = bytes.to_vec();
        output::run(stream, bytes.len(), move || match self.bar.get() {
            Some(bar) => bar.suspend(|| output::write_now(stream, &bytes)),
            None => output::write_now(stream, &bytes),
        });
    }
}

/// Log lines go to standard error, above the bar.
impl Write for &'static Console {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.write_above_bar(Stream::Err, bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
