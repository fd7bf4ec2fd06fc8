//! What was found: how bad, where, what was seen with its figures, and what to do about it.
//!
//! Never here: a judgement. Whatever a server said is cut and made printable before it is kept.

use std::fmt;

use serde_json::{Map, Value};

use super::catalogue::Check;
use crate::store::redis::{Address, Trouble};

/// How bad it is. Ordered: what matters most comes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// The service cannot do its work, or Redis is slow because of it. The command exits with 1.
    Wrong,
    /// Bad, or about to be.
    Warning,
    /// It was not shown; nothing is known.
    Unseen,
    /// Looked at, and fine.
    Ok,
}

/// One thing that was looked at.
#[derive(Clone, Debug)]
pub struct Finding {
    /// What was looked at.
    pub check: Check,
    /// How bad it is.
    pub severity: Severity,
    /// Where.
    pub node: String,
    /// What was seen.
    pub seen: String,
    /// The figures in it, by names that end in their units.
    pub figures: Map<String, Value>,
    /// What to do: a command or a setting. Empty where there is nothing to do.
    pub remedy: String,
}

/// What is found at one place.
#[derive(Debug)]
pub(super) struct Chart {
    node: String,
    pub(super) findings: Vec<Finding>,
}

/// Longer texts are of no use to anybody.
const MOST_CHARACTERS: usize = 400;

impl Severity {
    /// As reports have it.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Wrong => "wrong",
            Self::Warning => "warning",
            Self::Unseen => "unseen",
            Self::Ok => "ok",
        }
    }
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

impl Finding {
    /// Adds a figure.
    pub(super) fn figure(&mut self, name: &str, value: impl Into<Value>) -> &mut Self {
        self.figures.insert(name.to_owned(), value.into());
        self
    }
}

impl Chart {
    /// Nothing found yet.
    pub(super) fn of(address: &Address) -> Self {
        Self { node: address.to_string(), findings: Vec::new() }
    }

    /// It is so bad.
    pub(super) fn judge(&mut self, check: Check, severity: Severity, seen: &str, remedy: &str) -> &mut Finding {
        let node = self.node.clone();
        let (seen, remedy) = (printable(seen), printable(remedy));
        self.findings.push(Finding { check, severity, node, seen, figures: Map::new(), remedy });
        let last = self.findings.len() - 1;
        &mut self.findings[last]
    }

    /// It must be put right.
    pub(super) fn wrong(&mut self, check: Check, seen: &str, remedy: &str) -> &mut Finding {
        self.judge(check, Severity::Wrong, seen, remedy)
    }

    /// It should be put right.
    pub(super) fn warn(&mut self, check: Check, seen: &str, remedy: &str) -> &mut Finding {
        self.judge(check, Severity::Warning, seen, remedy)
    }

    /// It is fine.
    pub(super) fn fine(&mut self, check: Check, seen: &str) -> &mut Finding {
        self.judge(check, Severity::Ok, seen, "")
    }

    /// It was not shown: what was asked, and what became of that.
    pub(super) fn unseen(&mut self, check: Check, asked: &str, trouble: &Trouble) -> &mut Finding {
        let remedy = match trouble {
            Trouble::NotAllowed => format!("to have it looked at, let this user run {asked}"),
            // Whoever can ask and is not told has nothing to change.
            Trouble::Told(_) | Trouble::Away(_) => String::new(),
        };
        self.judge(check, Severity::Unseen, &format!("{asked} {trouble}"), &remedy)
    }
}

fn printable(text: &str) -> String {
    let shown = |c: char| if c.is_control() { ' ' } else { c };
    text.chars().take(MOST_CHARACTERS).map(shown).collect()
}

/// `12.5 MiB`
pub(super) fn bytes(amount: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let (mut shown, mut unit) = (amount as f64, 0);
    while shown >= 1_024.0 && unit + 1 < UNITS.len() {
        shown /= 1_024.0;
        unit += 1;
    }
    if unit == 0 { format!("{amount} B") } else { format!("{shown:.1} {}", UNITS[unit]) }
}

/// `1 key`, `2 keys`
pub(super) fn count(number: u64, what: &str) -> String {
    format!("{number} {what}{}", if number == 1 { "" } else { "s" })
}

/// `12.345 ms`, of µs.
pub(super) fn ms(us: u64) -> String {
    format!("{:.3} ms", us as f64 / 1_000.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_told_is_printable_and_short() {
        let mut chart = Chart::of(&Address::Tcp { host: "::1".into(), port: 7 });
        let found = chart.fine(super::super::catalogue::PING, &format!("a\u{1b}[31mb\n{}", "x".repeat(1_000)));
        assert!(found.seen.starts_with("a [31mb x"), "{}", found.seen);
        assert_eq!((found.seen.len(), found.node.as_str()), (MOST_CHARACTERS, "[::1]:7"));
    }

    #[test]
    fn amounts_have_their_units() {
        assert_eq!([bytes(1_023), bytes(1_536), bytes(10 << 20)], ["1023 B", "1.5 KiB", "10.0 MiB"]);
        assert_eq!([count(1, "key"), count(0, "key")], ["1 key", "0 keys"]);
        assert_eq!(ms(12_345), "12.345 ms");
    }
}
