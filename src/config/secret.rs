//! URLs that may carry a password, and how they are shown: without it.
//!
//! Never here: what a URL points at; the store's own library reads it.

use std::fmt;

use crate::keys::KEY_MARK;

/// A URL whose password never shows: `Debug` and `Display` give the redacted form.
#[derive(Clone, PartialEq, Eq)]
pub struct SecretUrl(String);

impl SecretUrl {
    /// Keeps `url` as it is.
    pub fn new(url: impl Into<String>) -> Self {
        Self(url.into())
    }

    /// The URL with its password: for the connection alone.
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// Whether its scheme says TLS.
    pub fn asks_for_tls(&self) -> bool {
        let scheme = self.0.split_once(':').map_or("", |(scheme, _)| scheme);
        ["rediss", "valkeys"].contains(&scheme.split('-').next().unwrap_or_default())
    }

    /// Whether showing the URL in full would show a secret.
    pub fn has_secret(&self) -> bool {
        redact(&self.0) != self.0
    }
}

impl fmt::Display for SecretUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&redact(&self.0))
    }
}

impl fmt::Debug for SecretUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SecretUrl({self})")
    }
}

/// A text that never shows.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Keeps `text` as it is.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The text: for the connection alone.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Secret({HIDDEN})")
    }
}

const HIDDEN: &str = "***";

/// Hides API keys, and, in every URL of `text`, the password before the host and each query parameter with `password` in its name.
///
/// A word with `://` in it counts as a URL. What stands before its last `@` counts as credentials, so that a password
/// with an unescaped `/` or `@` does not slip through; a name without a password may be one and is hidden too.
pub fn redact(text: &str) -> String {
    text.split_inclusive(char::is_whitespace).map(redact_word).collect()
}

fn redact_word(word: &str) -> String {
    let word = &redact_keys(word);
    let Some((scheme, rest)) = word.split_once("://") else { return word.to_owned() };
    let rest = match rest.rsplit_once('@') {
        Some(("", host)) => format!("@{host}"),
        Some((credentials, host)) => match credentials.split_once(':') {
            Some((_, "")) => format!("{credentials}@{host}"),
            Some((user, _)) => format!("{user}:{HIDDEN}@{host}"),
            None => format!("{HIDDEN}@{host}"),
        },
        None => rest.to_owned(),
    };
    let rest = match rest.split_once('?') {
        Some((path, query)) => {
            let parameters: Vec<String> = query.split('&').map(redact_parameter).collect();
            format!("{path}?{}", parameters.join("&"))
        }
        None => rest,
    };
    format!("{scheme}://{rest}")
}

/// Of what begins like an API key, all that may belong to it.
fn redact_keys(word: &str) -> String {
    let mut parts = word.split(KEY_MARK);
    let mut shown = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let is_rest = |c: char| !(c.is_ascii_alphanumeric() || matches!(c, '_' | '-'));
        shown += KEY_MARK;
        shown += HIDDEN;
        shown += &part[part.find(is_rest).unwrap_or(part.len())..];
    }
    shown
}

fn redact_parameter(parameter: &str) -> String {
    match parameter.split_once('=') {
        Some((name, value)) if !value.is_empty() && name.to_ascii_lowercase().contains("password") => {
            let end = value.find(char::is_whitespace).map_or("", |end| &value[end..]);
            format!("{name}={HIDDEN}{end}")
        }
        _ => parameter.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hides_what_is_secret_and_nothing_else() {
        let cases = [
            ("redis://10.0.0.1:6379/0", "redis://10.0.0.1:6379/0"),
            ("redis://:s3cret@10.0.0.1:6379", "redis://:***@10.0.0.1:6379"),
            ("rediss://app:s3cret@h/1", "rediss://app:***@h/1"),
            ("redis://s3cret@h", "redis://***@h"),
            ("redis://app:@h", "redis://app:@h"),
            ("redis://:s3/cr@et@h:1", "redis://:***@h:1"),
            ("redis+unix://u:s3cret@x/run/redis.sock", "redis+unix://u:***@x/run/redis.sock"),
            (
                "redis-sentinel://a:s3cret@h?sentinelServiceName=m&sentinelPassword=s3cret&node=b:1",
                "redis-sentinel://a:***@h?sentinelServiceName=m&sentinelPassword=***&node=b:1",
            ),
            ("argument 'redis://:s3cret@h' here\n", "argument 'redis://:***@h' here\n"),
            ("embedded", "embedded"),
            ("value 'gtk_1f3a90c2_s3-cr_et': x", "value 'gtk_***': x"),
        ];
        for (url, shown) in cases {
            assert_eq!(redact(url), shown);
            assert_eq!(SecretUrl::new(url).has_secret(), url != shown);
            assert!(!format!("{:?}", SecretUrl::new(url)).contains("s3"));
        }
        assert_eq!(redact("a?password=x redis://h?password=x b"), "a?password=x redis://h?password=*** b");
    }
}
