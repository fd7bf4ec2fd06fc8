//! Counts of what became of the points that were sent.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

/// What became of points and requests. A point is counted once, however often its batch was repeated.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Points in requests that were sent at least once.
    pub sent: u64,
    /// Points the service accepted.
    pub accepted: u64,
    /// Points the service rejected, by code.
    pub rejected: BTreeMap<String, u64>,
    /// Requests that were never acknowledged, by why: a status, or `unreachable`, or `interrupted`.
    pub failed: BTreeMap<String, u64>,
    /// Requests that had to be sent again.
    pub retries: u64,
}

impl Tally {
    /// All rejected points.
    pub fn rejected_points(&self) -> u64 {
        self.rejected.values().sum()
    }

    /// All failed requests.
    pub fn failed_requests(&self) -> u64 {
        self.failed.values().sum()
    }
}

/// A tally that several requests in flight add to.
#[derive(Clone, Debug, Default)]
pub struct SharedTally(Arc<Mutex<Tally>>);

impl SharedTally {
    /// Adds what `change` says.
    pub fn add(&self, change: impl FnOnce(&mut Tally)) {
        change(&mut self.0.lock());
    }

    /// As it stands.
    pub fn get(&self) -> Tally {
        self.0.lock().clone()
    }
}

/// How a run went.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Summary {
    /// The counts.
    pub tally: Tally,
    /// How long it took.
    pub took: Duration,
    /// Whether it was stopped before its end.
    pub interrupted: bool,
}

impl Summary {
    /// Whether the service has judged every point that there was to send.
    pub fn all_acknowledged(&self) -> bool {
        self.tally.failed.is_empty()
    }

    /// To stdout: for people, and as the last line, in JSON, for programs.
    pub fn print(&self) {
        println!("{}\n{}", self.text(), self.json());
    }

    fn text(&self) -> String {
        let Tally { sent, accepted, retries, .. } = &self.tally;
        let seconds = self.took.as_secs_f64();
        let rate = *sent as f64 / seconds.max(0.001);
        let mut lines = vec![
            format!("sent      {sent} points in {seconds:.1} s ({rate:.0} points/s)"),
            format!("accepted  {accepted}"),
            format!("rejected  {}{}", self.tally.rejected_points(), in_brackets(&self.tally.rejected)),
            format!("failed    {} requests{}", self.tally.failed_requests(), in_brackets(&self.tally.failed)),
            format!("repeated  {retries} requests"),
        ];
        if self.interrupted {
            lines.push("stopped before the end".to_owned());
        }
        lines.join("\n")
    }

    fn json(&self) -> String {
        serde_json::json!({
            "sent": self.tally.sent,
            "accepted": self.tally.accepted,
            "rejected": self.tally.rejected,
            "failed_requests": self.tally.failed_requests(),
            "retries": self.tally.retries,
            "seconds": self.took.as_secs_f64(),
            "interrupted": self.interrupted,
        })
        .to_string()
    }
}

fn in_brackets(counts: &BTreeMap<String, u64>) -> String {
    if counts.is_empty() {
        return String::new();
    }
    let parts: Vec<String> = counts.iter().map(|(code, count)| format!("{code} {count}")).collect();
    format!(" ({})", parts.join(", "))
}
