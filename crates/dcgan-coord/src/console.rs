//! What people see: metric lines on standard output, log lines on standard error, and on a terminal a progress bar
//! below both.

use std::io::{self, IsTerminal, Write};
use std::sync::OnceLock;
use std::time::Duration;

use dcgan_core::ids::Step;
use dcgan_core::metrics::MetricsRow;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressState, ProgressStyle};

/// The terminal, or what is in its place.
pub(crate) struct Console(OnceLock<ProgressBar>);

/// There is one.
pub(crate) static CONSOLE: Console = Console(OnceLock::new());

impl Console {
    /// Shows a bar from `step` on, if this is a terminal.
    pub(crate) fn start_bar(&self, step: Step, last_step: Step, batch_size: usize) {
        if !io::stderr().is_terminal() || !io::stdout().is_terminal() {
            return;
        }
        let images = move |state: &ProgressState, f: &mut dyn std::fmt::Write| {
            let _ = write!(f, "{:.0} images/s", state.per_sec() * batch_size as f64);
        };
        let style = ProgressStyle::with_template(
            "{wide_bar} {pos}/{len} steps  {images}  {eta} left  {msg}",
        );
        let style = style.expect("the template is one").with_key("images", images);
        let bar = ProgressBar::with_draw_target(Some(last_step), ProgressDrawTarget::stderr())
            .with_style(style);
        bar.set_position(step);
        bar.reset_eta();
        bar.enable_steady_tick(Duration::from_millis(250));
        let _ = self.0.set(bar);
    }

    /// Moves the bar.
    pub(crate) fn reached(&self, step: Step) {
        if let Some(bar) = self.0.get().filter(|bar| bar.position() != step) {
            bar.set_position(step);
        }
    }

    /// Says beside the bar what is waited for.
    pub(crate) fn waits(&self, reason: &str) {
        if let Some(bar) = self.0.get() {
            bar.set_message(reason.to_owned());
        }
    }

    /// Removes the bar.
    pub(crate) fn end_bar(&self) {
        if let Some(bar) = self.0.get() {
            bar.finish_and_clear();
        }
    }

    /// Prints a line of metrics.
    pub(crate) fn line(&self, line: &MetricsRow, epochs: u64, last_step: Step) {
        let text = format!(
            "epoch {}/{epochs}  step {}/{last_step}  d_loss_real {:.4}  d_loss_fake {:.4}  g_loss {:.4}  real_dacc {:.3}  \
             fake_dacc {:.3}  gacc {:.3}  {:.0} images/s\n",
            line.epoch,
            line.step,
            line.d_loss_real,
            line.d_loss_fake,
            line.g_loss,
            line.real_dacc,
            line.fake_dacc,
            line.gacc,
            line.images_per_second,
        );
        self.above_the_bar(|| dcgan_process::print(&text));
    }

    fn above_the_bar<T>(&self, print: impl FnOnce() -> T) -> T {
        match self.0.get() {
            Some(bar) => bar.suspend(print),
            None => print(),
        }
    }
}

impl Write for &Console {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.above_the_bar(|| io::stderr().write(bytes))
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stderr().flush()
    }
}
