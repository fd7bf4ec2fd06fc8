//! Flag beats variable beats file beats default; and every one of them is checked, also where another wins.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt;
use std::path::{Path, PathBuf};

use thiserror::Error;
use toml::de::{DeTable, DeValue};

use crate::keys::KeyFileError;

use super::settings::{CONFIG_VARIABLE, SETTINGS, Setting, VARIABLE_PREFIX};

/// Who said so. Ordered: the greater wins.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Source {
    /// Nobody.
    Default,
    /// The file, at this line.
    File(PathBuf, usize),
    /// This environment variable.
    Variable(String),
    /// This flag.
    Flag(&'static str),
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File(path, line) => write!(f, "{}:{line}", path.display()),
            Self::Variable(name) => f.write_str(name),
            Self::Flag(name) => write!(f, "--{name}"),
        }
    }
}

/// The value of a setting, and who said so.
#[derive(Clone, PartialEq, Eq)]
pub struct Value {
    /// As written. May hold a secret.
    pub text: String,
    /// Who said so.
    pub source: Source,
}

/// What is wrong with the configuration. Names the place, never the value.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum Problem {
    /// A file that cannot be had.
    #[error("{}: cannot be read: {reason}", path.display())]
    Unreadable {
        /// Which.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// Not TOML.
    #[error("{}:{line}: not TOML: {reason}", path.display())]
    Syntax {
        /// Which file.
        path: PathBuf,
        /// From 1.
        line: usize,
        /// Why.
        reason: String,
    },
    /// A key that is no setting.
    #[error("{}:{line}: unknown key `{key}`; did you mean `{nearest}`?", path.display())]
    UnknownKey {
        /// Which file.
        path: PathBuf,
        /// From 1.
        line: usize,
        /// As written.
        key: String,
        /// The setting most like it.
        nearest: String,
    },
    /// A variable with our prefix that is no setting.
    #[error("unknown variable {name}; did you mean {nearest}?")]
    UnknownVariable {
        /// As written.
        name: String,
        /// The setting most like it.
        nearest: String,
    },
    /// A value that the setting cannot have.
    #[error("{}", wrong(source_of, key, reason))]
    Wrong {
        /// Who said so.
        source_of: Source,
        /// Its key.
        key: String,
        /// What was expected.
        reason: String,
    },
    /// A file of API keys that is none.
    #[error("{0}: {1}")]
    Keys(String, KeyFileError),
    /// Values that are fine each, but not together.
    #[error("{0}")]
    Conflict(String),
}

fn wrong(source: &Source, key: &str, reason: &str) -> String {
    match source {
        Source::File(..) => format!("{source}: `{key}`: {reason}"),
        _ => format!("{source}: {reason}"),
    }
}

/// All that is wrong, one problem a line.
#[derive(Debug, Error, PartialEq, Eq)]
pub struct Problems(pub Vec<Problem>);

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.0.iter().enumerate() {
            let end = if index + 1 < self.0.len() { "\n" } else { "" };
            write!(f, "{problem}{end}")?;
        }
        Ok(())
    }
}

/// What was said on the command line.
#[derive(Default)]
pub struct Flags {
    /// `--config`.
    pub config: Option<PathBuf>,
    /// Settings and their values, as written.
    pub values: Vec<(&'static Setting, String)>,
}

/// Every setting that has a value.
pub struct Settings(BTreeMap<&'static str, Value>);

impl Settings {
    /// Puts the layers on top of each other. `variables` is the environment.
    pub fn load(flags: Flags, variables: impl Iterator<Item = (OsString, OsString)>) -> Result<Self, Problems> {
        let mut loading = Loading { values: BTreeMap::new(), problems: Vec::new() };
        let mut file = None;
        for (name, text) in variables {
            let Some(name) = name.to_str().filter(|name| name.starts_with(VARIABLE_PREFIX)) else { continue };
            if name == CONFIG_VARIABLE {
                file = Some(PathBuf::from(text));
            } else {
                loading.variable(name, &text);
            }
        }
        if let Some(path) = flags.config.or(file) {
            loading.file(&path);
        }
        for (setting, text) in flags.values {
            loading.set(setting, text, Source::Flag(setting.name));
        }
        for setting in SETTINGS {
            if let Some(default) = setting.default {
                loading.set(setting, default.to_owned(), Source::Default);
            }
        }
        if loading.problems.is_empty() { Ok(Self(loading.values)) } else { Err(Problems(loading.problems)) }
    }

    /// The value of a setting, if it has one.
    pub fn get(&self, name: &str) -> Option<&Value> {
        self.0.get(name)
    }

    /// The value of a setting, read by `read`; `None` where it has no value.
    pub(super) fn read<T>(&self, name: &str, read: fn(&str) -> Result<T, String>) -> Result<Option<T>, Problem> {
        let Some(value) = self.get(name) else { return Ok(None) };
        read(&value.text).map(Some).map_err(|reason| Problem::Wrong {
            source_of: value.source.clone(),
            key: name.replace('-', "_"),
            reason,
        })
    }

    /// The value of a setting that has a default, read by `read`.
    pub(super) fn read_or_default<T>(&self, name: &str, read: fn(&str) -> Result<T, String>) -> Result<T, Problem> {
        Ok(self.read(name, read)?.expect("the table of settings gives it a default"))
    }
}

struct Loading {
    values: BTreeMap<&'static str, Value>,
    problems: Vec<Problem>,
}

impl Loading {
    fn set(&mut self, setting: &'static Setting, text: String, source: Source) {
        if let Err(reason) = (setting.check)(&text) {
            self.problems.push(Problem::Wrong { source_of: source, key: setting.key(), reason });
            return;
        }
        match self.values.get_mut(setting.name) {
            Some(value) if value.source >= source => {}
            Some(value) => *value = Value { text, source },
            None => drop(self.values.insert(setting.name, Value { text, source })),
        }
    }

    fn variable(&mut self, name: &str, text: &OsString) {
        let Some(setting) = SETTINGS.iter().find(|setting| setting.variable() == name) else {
            let known = SETTINGS.iter().map(Setting::variable).chain([CONFIG_VARIABLE.to_owned()]);
            let nearest = nearest(name, known);
            self.problems.push(Problem::UnknownVariable { name: name.to_owned(), nearest });
            return;
        };
        let source = Source::Variable(name.to_owned());
        match text.to_str() {
            Some(text) => self.set(setting, text.to_owned(), source),
            None => self.wrong(source, setting, "not UTF-8"),
        }
    }

    fn file(&mut self, path: &Path) {
        let text = match std::fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) => {
                self.problems.push(Problem::Unreadable { path: path.to_owned(), reason: error.to_string() });
                return;
            }
        };
        let line_at = |offset: usize| text.as_bytes()[..offset.min(text.len())].split(|b| *b == b'\n').count();
        let (table, errors) = DeTable::parse_recoverable(&text);
        for error in errors {
            let line = line_at(error.span().map_or(0, |span| span.start));
            let reason = error.message().to_owned();
            self.problems.push(Problem::Syntax { path: path.to_owned(), line, reason });
        }
        let mut entries: Vec<_> = table.get_ref().iter().collect();
        entries.sort_by_key(|(key, _)| key.span().start);
        for (key, value) in entries {
            let line = line_at(key.span().start);
            let Some(setting) = SETTINGS.iter().find(|setting| setting.key() == **key.get_ref()) else {
                let nearest = nearest(key.get_ref(), SETTINGS.iter().map(Setting::key));
                let key = key.get_ref().to_string();
                self.problems.push(Problem::UnknownKey { path: path.to_owned(), line, key, nearest });
                continue;
            };
            let source = Source::File(path.to_owned(), line);
            match scalar(value.get_ref()) {
                Some(text) => self.set(setting, text, source),
                None => self.wrong(source, setting, "expected a string"),
            }
        }
    }

    fn wrong(&mut self, source_of: Source, setting: &Setting, reason: &str) {
        self.problems.push(Problem::Wrong { source_of, key: setting.key(), reason: reason.to_owned() });
    }
}

/// Strings, whole numbers and booleans as they would be written on a command line.
fn scalar(value: &DeValue<'_>) -> Option<String> {
    match value {
        DeValue::String(text) => Some(text.to_string()),
        DeValue::Integer(number) if number.radix() == 10 => Some(number.as_str().to_owned()),
        DeValue::Float(number) => Some(number.as_str().to_owned()),
        DeValue::Boolean(on) => Some(on.to_string()),
        _ => None,
    }
}

fn nearest(name: &str, known: impl Iterator<Item = String>) -> String {
    known.min_by_key(|known| strsim::damerau_levenshtein(name, known)).unwrap_or_default()
}
