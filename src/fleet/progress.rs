//! How far it is, on stderr: a bar where a person watches, a line now and then where a log is kept.

use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

use super::tally::Tally;

const LINE_EVERY: Duration = Duration::from_secs(5);

/// Shows how far a run is.
#[derive(Debug)]
pub struct Progress {
    bar: ProgressBar,
    length: Option<u64>,
    next_line: Instant,
}

impl Progress {
    /// For a run of `length` steps, or one whose end nobody knows.
    pub fn new(length: Option<u64>) -> Self {
        let template = match length {
            Some(_) => "{elapsed} {wide_bar} {percent}% {msg}",
            None => "{elapsed} {spinner} {msg}",
        };
        let bar = length.map_or_else(ProgressBar::new_spinner, ProgressBar::new);
        bar.set_style(ProgressStyle::with_template(template).expect("the templates above are sound"));
        Self { bar, length, next_line: Instant::now() + LINE_EVERY }
    }

    /// `done` steps are behind us.
    pub fn show(&mut self, done: u64, tally: &Tally) {
        if !self.bar.is_hidden() {
            self.bar.set_position(done);
            self.bar.set_message(counts(tally));
        } else if Instant::now() >= self.next_line {
            self.next_line = Instant::now() + LINE_EVERY;
            match self.length {
                Some(length) => eprintln!("{}%, {}", done * 100 / length.max(1), counts(tally)),
                None => eprintln!("{}", counts(tally)),
            }
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}

fn counts(tally: &Tally) -> String {
    let Tally { sent, accepted, retries, .. } = tally;
    let rejected = tally.rejected_points();
    let failed = tally.failed_requests();
    format!("sent {sent}, accepted {accepted}, rejected {rejected}, repeated {retries}, failed {failed}")
}
