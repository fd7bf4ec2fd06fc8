//! The house rules, as a test. Each has its reason, which is printed when it is broken.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

/// A source file, read the way the rules look at it.
struct Source {
    /// Relative to the crate, with `/`.
    path: String,
    text: String,
    /// Without comments and without what is compiled only for tests.
    code: String,
    /// Where it stands: `["store", "redis", "keys"]`.
    module: Vec<String>,
}

/// A rule: which files it is about, what it forbids there, and why.
struct Rule {
    name: &'static str,
    reason: &'static str,
    /// What is wrong with a file; empty if nothing.
    faults: fn(&Source) -> Vec<String>,
}

/// Of our own modules, what a module may name beside itself. Longer names stand before their parents.
const MAY_NAME: &[(&str, &[&str], &str)] = &[
    ("model", &[], "the domain is pure: it has to be usable, and testable, without any of the rest"),
    ("clock", &["model"], "a leaf: whoever needs the time is given a clock"),
    ("cutoff", &["model", "clock", "store"], "what is over is a matter of two clocks, and of nothing else"),
    ("journal", &["model"], "the truth must not depend on any index of it"),
    (
        "store::redis",
        &["model", "store"],
        "a store is an index of points; who feeds it and who asks it is not its matter",
    ),
    (
        "store::embedded",
        &["model", "store"],
        "a store is an index of points; who feeds it and who asks it is not its matter",
    ),
    ("store", &["model"], "a store is an index of points; who feeds it and who asks it is not its matter"),
    ("ingest", &["model", "journal"], "an acknowledgement is a matter of the journal alone, never of a store"),
    ("query", &["model", "store", "clock"], "answers come from stores; the journal is never read for one"),
    (
        "applier",
        &["model", "journal", "store", "clock", "cutoff", "telemetry"],
        "it carries points from the journal to a store, and nothing else",
    ),
    (
        "erasure",
        &["model", "journal", "store", "clock", "cutoff", "peers"],
        "it goes wherever points are, whoever brought them there and whoever asks",
    ),
    ("peers", &["model", "store", "applier"], "how others stand is read off a store's board, and nowhere else"),
    ("keys", &["model", "watched"], "who may call is a matter of a file and a moment"),
    ("doctor", &["store", "clock"], "it looks at any Redis from outside: a service, or a journal, need not be there"),
    ("fleet", &["model", "clock"], "it is a client: what it needs of the service it must get over HTTP"),
];

/// What a module must not name, whatever else it may.
const MUST_NOT_NAME: &[(&str, &[&str], &str)] = &[
    (
        "http",
        &["journal", "applier", "store::redis", "store::embedded", "app"],
        "the edge takes points in through `ingest` and asks through `query`, whichever store answers",
    ),
    ("jobs", &["http", "app"], "jobs run without a server too"),
    ("store::redis", &["store::embedded"], "the stores know nothing of each other"),
    ("store::embedded", &["store::redis"], "the stores know nothing of each other"),
];

/// Which modules may use an outside crate.
const CRATE_FENCES: &[(&str, &[&str], &str)] = &[
    ("fred", &["store::redis"], "a word of Redis outside its adapter binds everything to Redis"),
    ("axum", &["http", "app"], "HTTP ends at the edge"),
    ("hyper", &["http", "app"], "HTTP ends at the edge"),
    ("hyper_util", &["http", "app"], "HTTP ends at the edge"),
    ("h3o", &["model", "query", "http"], "geometry belongs to the domain; the rest speaks of places and cells"),
    ("geo", &["model", "query", "http"], "geometry belongs to the domain; the rest speaks of places and cells"),
    ("clap", &["cli", "main"], "a command line is one way in; what it calls does not know it"),
    (
        "reqwest",
        &["fleet", "config"],
        "the service itself calls nobody over HTTP; `config` reads URLs as the client will",
    ),
];

/// Names that only one place may speak, and where.
const NAMES_OF_ONE_PLACE: &[(&str, &[&str], &str)] = &[
    ("RedisStore", &["app", "store::redis"], "only the composition root knows which store it is"),
    ("EmbeddedStore", &["app", "store::embedded"], "only the composition root knows which store it is"),
    (":positions", &["store::redis::keys"], "other programs read these keys: one place spells them"),
    (":drivers", &["store::redis::keys"], "other programs read these keys: one place spells them"),
    (":cells", &["store::redis::keys"], "other programs read these keys: one place spells them"),
];

const MOST_LINES: usize = 600;

const RULES: &[Rule] = &[
    Rule {
        name: "a file opens with what it is for",
        reason: "a reader wants to know whether to read on",
        faults: |source| {
            let opens =
                source.text.starts_with("//! ") && source.text.lines().next().is_some_and(|line| line.len() > 8);
            if opens { vec![] } else { vec!["it does not open with `//! `".into()] }
        },
    },
    Rule {
        name: "a file can be taken in",
        reason: "a module does one thing; what needs more lines does two",
        faults: |source| {
            let lines = source.text.lines().count();
            if lines <= MOST_LINES { vec![] } else { vec![format!("{lines} lines, at most {MOST_LINES}")] }
        },
    },
    Rule {
        name: "nothing is left undone",
        reason: "what is not done belongs in an issue, where it is found",
        faults: |source| {
            let marks = ["todo!", "unimplemented!", "dbg!", "TODO", "FIXME", "XXX"];
            marks.iter().filter(|&&mark| has_word(&source.text, mark)).map(|mark| format!("`{mark}`")).collect()
        },
    },
    Rule {
        name: "nothing panics without a reason",
        reason: "`expect` says why it cannot happen, and an error says what to do when it does",
        faults: |source| {
            let count = source.code.matches(".unwrap()").count();
            if count == 0 { vec![] } else { vec![format!("`unwrap()` {count} times outside tests")] }
        },
    },
    Rule { name: "modules name only what is beneath them", reason: "see each", faults: layering },
    Rule { name: "an outside crate stays behind its fence", reason: "see each", faults: crate_fences },
    Rule { name: "a name is spoken in one place", reason: "see each", faults: names_of_one_place },
];

fn layering(source: &Source) -> Vec<String> {
    let mut faults = Vec::new();
    let named = own_paths(source);
    if let Some((module, may, why)) = MAY_NAME.iter().find(|(module, ..)| source.is_in(module)) {
        for path in &named {
            if !is_in(path, module) && !may.iter().any(|allowed| is_in(path, allowed)) {
                faults.push(format!("`{module}` names `{path}`: {why}"));
            }
        }
    }
    for (module, never, why) in MUST_NOT_NAME.iter().filter(|(module, ..)| source.is_in(module)) {
        for path in named.iter().filter(|path| never.iter().any(|forbidden| is_in(path, forbidden))) {
            faults.push(format!("`{module}` names `{path}`: {why}"));
        }
    }
    faults
}

fn crate_fences(source: &Source) -> Vec<String> {
    CRATE_FENCES
        .iter()
        .filter(|(_, places, _)| !places.iter().any(|place| source.is_in(place)))
        .filter(|(name, ..)| has_word(&source.code, &format!("{name}::")))
        .map(|(name, _, why)| format!("uses `{name}`: {why}"))
        .collect()
}

fn names_of_one_place(source: &Source) -> Vec<String> {
    NAMES_OF_ONE_PLACE
        .iter()
        .filter(|(_, places, _)| !places.iter().any(|place| source.is_in(place)))
        .filter(|(name, ..)| match name.strip_prefix(':') {
            // The end of a key: in a string, before its end. A path such as `crate::drivers` is no key.
            Some(_) => source.code.contains(&format!("{name}\"")),
            None => has_word(&source.code, name),
        })
        .map(|(name, _, why)| format!("speaks of `{name}`: {why}"))
        .collect()
}

impl Source {
    fn new(path: &str, text: &str) -> Self {
        let inner = path.trim_start_matches("src/").trim_end_matches(".rs");
        let mut module: Vec<String> = inner.split('/').map(str::to_owned).collect();
        module.retain(|part| part != "mod" && part != "lib");
        Self { path: path.into(), text: text.into(), code: without_tests(text), module }
    }

    fn is_in(&self, module: &str) -> bool {
        is_in(&self.module.join("::"), module)
    }
}

/// Whether a path is that of a module, or of something in it.
fn is_in(path: &str, module: &str) -> bool {
    path.strip_prefix(module).is_some_and(|rest| rest.is_empty() || rest.starts_with("::"))
}

/// Whether `word` occurs with no letter, digit, `_` or `::` before it, and no letter or digit behind it.
fn has_word(text: &str, word: &str) -> bool {
    let is_name = |c: char| c.is_alphanumeric() || c == '_';
    text.match_indices(word).any(|(at, _)| {
        let (before, behind) = (&text[..at], &text[at + word.len()..]);
        let joined = word.ends_with(is_name) && behind.starts_with(is_name);
        // `crate::geo::x` is ours, `geo::x` is not; `super::RedisStore` is still that name.
        let ours = word.ends_with("::") && before.ends_with("::") && !before.ends_with(" ::");
        !before.ends_with(is_name) && !joined && !ours
    })
}

/// Every path into our own crate, from its root: `crate::{a, b::C}` gives `a` and `b::C`, `super::x` is resolved.
fn own_paths(source: &Source) -> Vec<String> {
    let mut paths = Vec::new();
    for (at, _) in source.code.match_indices("crate::") {
        if !source.code[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_') {
            expand("", &source.code[at + "crate::".len()..], &mut paths);
        }
    }
    for (at, _) in source.code.match_indices("super::") {
        let before = &source.code[..at];
        if before.ends_with(|c: char| c.is_alphanumeric() || c == '_') || before.ends_with("super::") {
            continue;
        }
        let (mut module, mut rest) = (&source.module[..], &source.code[at..]);
        while let Some(above) = rest.strip_prefix("super::") {
            (module, rest) = (&module[..module.len().saturating_sub(1)], above);
        }
        let prefix = module.iter().flat_map(|part| [part.as_str(), "::"]).collect::<String>();
        expand(&prefix, rest, &mut paths);
    }
    paths
}

/// The paths that begin where `text` begins, each behind `prefix`; returns what follows them.
fn expand<'a>(prefix: &str, text: &'a str, paths: &mut Vec<String>) -> &'a str {
    let mut text = text.trim_start();
    if let Some(group) = text.strip_prefix('{') {
        text = group;
        loop {
            text = expand(prefix, text, paths).trim_start();
            match text.strip_prefix(',') {
                Some(more) => text = more,
                None => return text.strip_prefix('}').unwrap_or(text),
            }
        }
    }
    let end = text.find(|c: char| !c.is_alphanumeric() && c != '_' && c != '*').unwrap_or(text.len());
    let (name, rest) = text.split_at(end);
    if name.is_empty() {
        return rest;
    }
    match rest.strip_prefix("::") {
        Some(deeper) if deeper.trim_start().starts_with(|c: char| c.is_alphabetic() || "_{*".contains(c)) => {
            expand(&format!("{prefix}{name}::"), deeper, paths)
        }
        _ => {
            paths.push(format!("{prefix}{name}"));
            // `x as y`
            let rest = rest.trim_start();
            match rest.strip_prefix("as ") {
                Some(alias) => alias.trim_start_matches(|c: char| c.is_alphanumeric() || c == '_'),
                None => rest,
            }
        }
    }
}

/// The code without comments, and without every item under `#[cfg(test)]`.
fn without_tests(text: &str) -> String {
    let (code, shape) = without_comments(text);
    let (mut kept, mut from) = (String::new(), 0);
    while let Some(at) = shape[from..].find("#[cfg(test)]").map(|at| from + at) {
        kept.push_str(&code[from..at]);
        let mut depth = 0;
        from = shape.len();
        for (offset, byte) in shape[at..].bytes().enumerate() {
            depth += match byte {
                b'{' => 1,
                b'}' => -1,
                _ => 0,
            };
            if depth == 0 && matches!(byte, b'}' | b';') {
                from = at + offset + 1;
                break;
            }
        }
    }
    kept + &code[from..]
}

/// The code without comments; and the same again with strings blanked, byte for byte as long, to count braces in.
fn without_comments(text: &str) -> (String, String) {
    let (mut code, mut shape) = (String::new(), String::new());
    let mut rest = text;
    let string_end = |text: &str, escapes: bool, close: &str| {
        let mut at = 0;
        while at < text.len() && !text[at..].starts_with(close) {
            at += usize::from(escapes && text[at..].starts_with('\\'));
            at += text[at..].chars().next().map_or(1, char::len_utf8);
        }
        (at + close.len()).min(text.len())
    };
    while let Some(first) = rest.chars().next() {
        let after_name = code.ends_with(|c: char| c.is_alphanumeric() || c == '_');
        let hashes = rest[1.min(rest.len())..].bytes().take_while(|b| *b == b'#').count();
        let length = if rest.starts_with("//") {
            rest = &rest[rest.find('\n').unwrap_or(rest.len())..];
            continue;
        } else if rest.starts_with("/*") {
            rest = &rest[rest.find("*/").map_or(rest.len(), |end| end + 2)..];
            continue;
        } else if first == '"' {
            1 + string_end(&rest[1..], true, "\"")
        } else if first == 'r' && !after_name && rest[1 + hashes..].starts_with('"') {
            let close = format!("\"{}", "#".repeat(hashes));
            2 + hashes + string_end(&rest[2 + hashes..], false, &close)
        } else if first == '\'' && (rest.starts_with("'\\") || rest.chars().nth(2) == Some('\'')) {
            1 + string_end(&rest[1..], true, "'")
        } else {
            shape.push(first);
            code.push(first);
            rest = &rest[first.len_utf8()..];
            continue;
        };
        code.push_str(&rest[..length]);
        shape.extend(std::iter::repeat_n(' ', length));
        rest = &rest[length..];
    }
    (code, shape)
}

fn faults(source: &Source) -> Vec<String> {
    let found = |rule: &'static Rule| (rule.faults)(source).into_iter().map(move |fault| (rule, fault));
    RULES
        .iter()
        .flat_map(found)
        .map(|(rule, fault)| format!("{}: {fault} [{}; {}]", source.path, rule.name, rule.reason))
        .collect()
}

fn sources(dir: &Path, into: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).expect("a directory of ours") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            sources(&path, into);
        } else if path.extension().is_some_and(|ext| ext == "rs") {
            into.push(path);
        }
    }
}

#[test]
fn the_house_rules_are_kept() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut paths = Vec::new();
    sources(&root.join("src"), &mut paths);
    paths.sort();
    assert!(paths.len() > 20, "the sources were not found");
    let mut report = String::new();
    for path in paths {
        let name = path.strip_prefix(root).expect("within").to_string_lossy().replace('\\', "/");
        let source = Source::new(&name, &fs::read_to_string(&path).expect("readable"));
        for fault in faults(&source) {
            writeln!(report, "{fault}").expect("a string takes everything");
        }
    }
    assert!(report.is_empty(), "\n{report}");
}

/// Each of these breaks a rule: where, what, and what is said of it.
const BROKEN: &[(&str, &str, &str)] = &[
    ("src/a.rs", "fn x() {}", "does not open"),
    ("src/a.rs", "//! x\nfn x() {}", "does not open"),
    ("src/a.rs", "//! A thing.\n// FIXME later", "FIXME"),
    ("src/a.rs", "//! A thing.\nfn x() { todo!() }", "todo!"),
    ("src/a.rs", "//! A thing.\nfn x() { y().unwrap() }", "unwrap()"),
    ("src/a.rs", "//! A thing.\n#[cfg(test)]\nmod t { fn f() { \"}\"; } }\nfn x() { y().unwrap() }", "unwrap()"),
    ("src/model/point.rs", "//! A thing.\nuse crate::clock::Clock;", "names `clock::Clock`"),
    ("src/model/point.rs", "//! A thing.\nuse super::super::journal;", "names `journal`"),
    ("src/journal/mod.rs", "//! A thing.\nuse crate::{model::Point, store::{Store, Page}};", "names `store::Store`"),
    ("src/store/redis/mod.rs", "//! A thing.\nuse super::super::journal::Journal;", "names `journal::Journal`"),
    ("src/store/redis/mod.rs", "//! A thing.\nuse super::embedded::Table;", "names `store::embedded::Table`"),
    ("src/ingest/mod.rs", "//! A thing.\nfn x(s: crate::store::Page) {}", "names `store::Page`"),
    ("src/query/mod.rs", "//! A thing.\nuse crate::journal::Journal;", "names `journal::Journal`"),
    ("src/applier/mod.rs", "//! A thing.\nuse crate::query::Label;", "names `query::Label`"),
    ("src/http/mod.rs", "//! A thing.\nuse crate::store::{Page, redis::x as y};", "names `store::redis::x`"),
    ("src/http/mod.rs", "//! A thing.\nuse crate::journal;", "names `journal`"),
    ("src/fleet/mod.rs", "//! A thing.\nuse crate::query::Queries;", "names `query::Queries`"),
    ("src/query/mod.rs", "//! A thing.\nuse fred::prelude::*;", "uses `fred`"),
    ("src/doctor/mod.rs", "//! A thing.\nuse fred::prelude::*;", "uses `fred`"),
    ("src/doctor/node.rs", "//! A thing.\nuse crate::app::stores;", "names `app::stores`"),
    ("src/query/mod.rs", "//! A thing.\nuse ::axum::Router;", "uses `axum`"),
    ("src/applier/mod.rs", "//! A thing.\nfn x(c: h3o::CellIndex) {}", "uses `h3o`"),
    ("src/config.rs", "//! A thing.\n#[derive(clap::Parser)]\nstruct X;", "uses `clap`"),
    ("src/http/mod.rs", "//! A thing.\nuse reqwest::Client;", "uses `reqwest`"),
    ("src/jobs/verify.rs", "//! A thing.\nfn x(s: super::RedisStore) {}", "speaks of `RedisStore`"),
    (
        "src/store/redis/write.rs",
        "//! A thing.\nfn x() { format!(\"{p}:{h}:positions\"); }",
        "speaks of `:positions`",
    ),
];

/// None of these breaks any.
const SOUND: &[(&str, &str)] = &[
    ("src/model/point.rs", "//! A thing.\nuse super::{Position, Speed};\nuse geo::Point;"),
    ("src/store/redis/mod.rs", "//! A thing.\nuse super::Store;\nuse crate::model;\nuse fred::prelude::*;"),
    (
        "src/query/mod.rs",
        "//! A thing, see `crate::journal`.\n// axum::Router, .unwrap()\nuse crate::{model, store};",
    ),
    (
        "src/a.rs",
        "//! A thing.\n#[cfg(test)]\nmod tests { fn x() { \"{\"; '}'; r#\"\"}\"#; y().unwrap() } }\nfn z() {}",
    ),
    ("src/http/mod.rs", "//! A thing.\nuse crate::store::Page;\nuse axum::Router;\nconst X: &str = \"a//b\";"),
    ("src/a.rs", "//! A thing.\nuse crate::geo::x;\nfn x() { \"a\\\"\"; my_fred::y() }"),
];

#[test]
fn the_house_rules_can_be_broken() {
    for (path, text, fault) in BROKEN {
        let found = faults(&Source::new(path, text));
        assert!(
            found.first().is_some_and(|first| first.contains(fault)),
            "{path}: {text:?}\n{fault} expected, got {found:#?}"
        );
    }
    let long = format!("//! A thing.\n{}", "fn x() {}\n".repeat(MOST_LINES));
    assert_eq!(faults(&Source::new("src/a.rs", &long)).len(), 1);
    for (path, text) in SOUND {
        assert_eq!(faults(&Source::new(path, text)), Vec::<String>::new(), "{path}: {text:?}");
    }
}
