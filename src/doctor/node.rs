//! One server as the checks see it: what INFO says, and what CONFIG GET says, each asked once; or why not.
//!
//! Never here: a judgement.

use std::collections::BTreeMap;

use super::catalogue::Check;
use super::finding::Chart;
use crate::store::redis::{Question, Reply, Server, Trouble};

/// What CONFIG GET is asked for. One command each: before 7.0 it takes no more, and one that a vendor hides must not hide
/// the others.
const SETTINGS: [&str; 16] = [
    "lazyfree-lazy-expire",
    "lazyfree-lazy-user-del",
    "slowlog-log-slower-than",
    "slowlog-max-len",
    "latency-monitor-threshold",
    "stop-writes-on-bgsave-error",
    "save",
    "appendfsync",
    "min-replicas-to-write",
    "cluster-require-full-coverage",
    "set-max-intset-entries",
    "set-max-listpack-entries",
    "zset-max-listpack-entries",
    "hash-max-listpack-entries",
    "maxclients",
    "active-expire-effort",
];

/// What a server said of itself.
#[derive(Debug)]
pub(super) struct Node {
    info: Result<String, Trouble>,
    settings: Result<BTreeMap<String, String>, Trouble>,
}

/// The name under which CONFIG GET is told of.
pub(super) const CONFIG_GET: &str = "CONFIG GET";

impl Node {
    /// Asks.
    pub(super) async fn ask(server: &mut Server) -> Self {
        // With sections named it takes several only from 7.0 on; without any it gives all that is looked at here.
        let info = server.ask(Question::of("INFO")).await.and_then(|reply| text(&reply));
        let questions: Vec<Question> = SETTINGS.iter().map(|name| Question::of(CONFIG_GET).arg(*name)).collect();
        let mut settings = BTreeMap::new();
        let mut refused = None;
        for answer in server.ask_all(&questions).await {
            match answer {
                Ok(Reply::List(pairs)) => {
                    let mut texts = pairs.iter().map(|item| item.text().unwrap_or_default().to_owned());
                    while let (Some(name), Some(value)) = (texts.next(), texts.next()) {
                        settings.insert(name, value);
                    }
                }
                Ok(_) => {}
                Err(trouble) => refused = Some(trouble),
            }
        }
        let settings = match refused {
            Some(trouble) if settings.is_empty() => Err(trouble),
            _ => Ok(settings),
        };
        Self { info, settings }
    }

    /// A field of INFO.
    pub(super) fn info(&self, name: &str) -> Result<&str, Trouble> {
        let info = self.info.as_ref().map_err(Clone::clone)?;
        field(info, name).ok_or_else(|| Trouble::Told(format!("nothing of {name}")))
    }

    /// A field of INFO that is a whole number.
    pub(super) fn number(&self, name: &str) -> Result<u64, Trouble> {
        self.info(name)?.parse().map_err(|_| Trouble::Told(format!("no number for {name}")))
    }

    /// A setting.
    pub(super) fn setting(&self, name: &str) -> Result<&str, Trouble> {
        let settings = self.settings.as_ref().map_err(Clone::clone)?;
        settings.get(name).map(String::as_str).ok_or_else(|| Trouble::Told(format!("nothing of {name}")))
    }

    /// Lines of INFO that begin so, without that.
    pub(super) fn lines<'a>(&'a self, begin: &'a str) -> impl Iterator<Item = &'a str> + 'a {
        let info = self.info.as_deref().unwrap_or_default();
        info.lines().filter_map(move |line| line.strip_prefix(begin)).map(str::trim)
    }
}

impl Chart {
    /// Notes what INFO did not show, if anything.
    pub(super) fn of_info<T>(&mut self, check: Check, shown: Result<T, Trouble>) -> Option<T> {
        self.shown(check, "INFO", shown)
    }

    /// Notes what was not shown.
    pub(super) fn shown<T>(&mut self, check: Check, asked: &str, shown: Result<T, Trouble>) -> Option<T> {
        match shown {
            Ok(shown) => Some(shown),
            Err(trouble) => {
                self.unseen(check, asked, &trouble);
                None
            }
        }
    }
}

/// A string that a server answered with.
pub(super) fn text(reply: &Reply) -> Result<String, Trouble> {
    let Reply::Bytes(bytes) = reply else { return Err(Trouble::Told("no text".to_owned())) };
    Ok(String::from_utf8_lossy(bytes).into_owned())
}

/// A field of what INFO, or CLUSTER INFO, says.
pub(super) fn field<'a>(info: &'a str, name: &str) -> Option<&'a str> {
    info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).map(str::trim)
}

/// A value of `name=value,name=value`.
pub(super) fn part<'a>(line: &'a str, name: &str) -> Option<&'a str> {
    line.split(',').find_map(|part| part.trim().strip_prefix(name)?.strip_prefix('='))
}
