//! What was found, as a whole: for people, what is wrong first; and as one object of JSON for programs, whose members
//! keep their names.
//!
//! Never here: a secret. The URL is not part of it.

use std::fmt::{self, Write as _};

use serde_json::{Value, json};

use super::finding::{Finding, Severity};
use super::vitals::Software;
use crate::store::redis::Mode;

/// All that was found.
#[derive(Debug)]
pub struct Report {
    pub(super) mode: Mode,
    pub(super) software: Option<Software>,
    /// The servers with data that were to be looked at.
    pub(super) nodes: Vec<String>,
    /// In the order in which it was looked at, place by place.
    pub findings: Vec<Finding>,
}

const GROUPS: [Severity; 4] = [Severity::Wrong, Severity::Warning, Severity::Unseen, Severity::Ok];

impl Report {
    /// How many are of this severity.
    pub fn number(&self, severity: Severity) -> usize {
        self.findings.iter().filter(|finding| finding.severity == severity).count()
    }

    /// One object.
    pub fn json(&self) -> Value {
        let findings: Vec<Value> = self.findings.iter().map(Finding::json).collect();
        let software = self.software.as_ref();
        json!({
            "redis": {
                "mode": self.mode_word(),
                "software": software.map(|software| software.name),
                "version": software.map(|software| software.version.as_str()),
                "nodes": self.nodes,
            },
            "findings": findings,
            "wrong": self.number(Severity::Wrong),
            "warnings": self.number(Severity::Warning),
            "unseen": self.number(Severity::Unseen),
        })
    }

    const fn mode_word(&self) -> &'static str {
        match self.mode {
            Mode::Standalone => "standalone",
            Mode::Cluster => "cluster",
            Mode::Sentinel => "sentinel",
        }
    }
}

impl Finding {
    fn json(&self) -> Value {
        json!({
            "id": self.check.id,
            "severity": self.severity.word(),
            "node": self.node,
            "seen": self.seen,
            "figures": self.figures,
            "why": self.check.why,
            "remedy": self.remedy,
        })
    }
}

/// Grouped by severity; of what is unseen or fine a line each.
impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let software = self.software.as_ref().map_or_else(
            || "Redis of an unknown version".to_owned(),
            |software| format!("{} {}", software.name, software.version),
        );
        writeln!(f, "{software}, {}: {}", self.mode_word(), self.nodes.join(", "))?;
        let width = |text: fn(&Finding) -> &str| self.findings.iter().map(|finding| text(finding).len()).max();
        let (ids, nodes) = (width(|finding| finding.check.id), width(|finding| finding.node.as_str()));
        let (ids, nodes) = (ids.unwrap_or_default(), nodes.unwrap_or_default());
        for group in GROUPS {
            let mut of_group = self.findings.iter().filter(|finding| finding.severity == group).peekable();
            if of_group.peek().is_some() {
                writeln!(f, "\n{group}")?;
            }
            for Finding { check, node, seen, remedy, .. } in of_group {
                writeln!(f, "  {:<ids$}  {node:<nodes$}  {seen}", check.id)?;
                // What is unseen says itself what was refused.
                if matches!(group, Severity::Wrong | Severity::Warning) {
                    writeln!(f, "  {:<ids$}  why: {}", "", check.why)?;
                    writeln!(f, "  {:<ids$}  do:  {remedy}", "")?;
                }
            }
        }
        let mut summary = String::new();
        for (group, (one, many)) in
            GROUPS.into_iter().zip([("wrong", "wrong"), ("warning", "warnings"), ("unseen", "unseen"), ("ok", "ok")])
        {
            let number = self.number(group);
            let comma = if summary.is_empty() { "" } else { ", " };
            write!(summary, "{comma}{number} {}", if number == 1 { one } else { many })?;
        }
        writeln!(f, "\n{summary}")
    }
}
