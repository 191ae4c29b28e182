//! A bar on long work, for somebody who watches.

#[cfg(feature = "progress-bar")]
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// Less is read before a bar could be looked at; chosen by eye, not measured.
#[cfg(feature = "progress-bar")]
const BYTES_MIN: u64 = 64 << 20;

/// A bar on standard error if that is a terminal and there is much to read. It goes when dropped.
#[cfg(feature = "progress-bar")]
#[derive(Debug)]
pub(super) struct Progress(ProgressBar);

/// None: it is left out.
#[cfg(not(feature = "progress-bar"))]
#[derive(Debug)]
pub(super) struct Progress;

#[cfg(not(feature = "progress-bar"))]
impl Progress {
    /// None.
    pub(super) fn over(_: u64) -> Self {
        Self
    }

    /// None.
    pub(super) fn hidden() -> Self {
        Self
    }

    /// Is not shown.
    pub(super) fn at(&self, _: u64) {}

    /// Prints a line of the answer.
    pub(super) fn say(&self, text: &str) {
        crate::cli::say(text);
    }
}

#[cfg(feature = "progress-bar")]
impl Progress {
    /// For work over `bytes`.
    pub(super) fn over(bytes: u64) -> Self {
        if bytes < BYTES_MIN {
            return Self(ProgressBar::hidden());
        }
        let bar = ProgressBar::with_draw_target(Some(bytes), ProgressDrawTarget::stderr_with_hz(5));
        let style = ProgressStyle::with_template("{bar:30} {bytes} of {total_bytes}, {eta} left")
            .expect("the template is valid");
        Self(bar.with_style(style))
    }

    /// For no work at all.
    pub(super) fn hidden() -> Self {
        Self(ProgressBar::hidden())
    }

    /// So much is done.
    pub(super) fn at(&self, bytes: u64) {
        self.0.set_position(bytes);
    }

    /// Prints a line of the answer, above the bar.
    pub(super) fn say(&self, text: &str) {
        self.0.suspend(|| crate::cli::say(text));
    }
}

#[cfg(feature = "progress-bar")]
impl Drop for Progress {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}
