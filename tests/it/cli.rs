//! The command line and the three layers of settings, through the real binary.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use geotrail::config::SETTINGS;

use crate::harness::authority::Authority;

const SECRET: &str = "pl4nted-s3cret";

/// The binary, in an environment without settings of ours.
pub(crate) fn geotrail() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_geotrail"));
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("GEOTRAIL_") {
            command.env_remove(name);
        }
    }
    command
}

/// Arguments, variables, exit code.
type Run<'a> = (&'a [&'a str], &'a [(&'a str, &'a str)], i32);

/// A directory with a `geotrail.toml`.
struct Fixture {
    directory: tempfile::TempDir,
}

impl Fixture {
    fn new(toml: impl AsRef<[u8]>) -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        fs::write(directory.path().join("geotrail.toml"), toml).expect("a file");
        Self { directory }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// `geotrail config check --config geotrail.toml`, there.
    fn check(&self, arguments: &[&str], variables: &[(&str, &str)]) -> Output {
        geotrail()
            .current_dir(self.directory.path())
            .args(["config", "check", "--config", "geotrail.toml"])
            .args(arguments)
            .envs(variables.iter().copied())
            .output()
            .expect("it runs")
    }
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).expect("UTF-8")
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).expect("UTF-8")
}

/// The line of `config check` about a key, its blanks squeezed.
fn in_force(output: &Output, key: &str) -> String {
    let shown = stdout(output);
    let line = shown.lines().find(|line| line.starts_with(&format!("{key} = "))).unwrap_or_default();
    line.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[test]
fn the_grammar_is_sound() {
    geotrail::cli::command().debug_assert();
}

#[test]
fn flag_beats_variable_beats_file_beats_default() {
    for (key, values) in [
        ("listen", ["127.0.0.1:1", "127.0.0.1:2", "[::1]:3"]),
        ("data_dir", ["/a", "/b", "/c"]),
        ("store", ["redis://a", "rediss://b:1/2", "redis-sentinel://c:26379?sentinelServiceName=m"]),
        ("retention", ["3h", "150m", "2d"]),
        ("shard_resolution", ["7", "0", "9"]),
        ("redis_prefix", ["a", "b-1", "C_2"]),
        ("allow_open", ["true", "false", "true"]),
        ("allow_plaintext", ["true", "false", "true"]),
    ] {
        let [file, variable, flag] = values;
        let fixture = Fixture::new(format!("# settings\n{key} = \"{file}\"\n"));
        let name = format!("GEOTRAIL_{}", key.to_uppercase());
        let argument = format!("--{}={flag}", key.replace('_', "-"));
        let alone = geotrail().args(["config", "check"]).output().expect("it runs");
        assert!(in_force(&alone, key).ends_with("# default"), "{key}");
        let cases = [
            (fixture.check(&[], &[]), file, "geotrail.toml:2".to_owned()),
            (fixture.check(&[], &[(&name, variable)]), variable, name.clone()),
            (fixture.check(&[&argument], &[(&name, variable)]), flag, format!("--{}", key.replace('_', "-"))),
        ];
        for (output, value, source) in cases {
            assert_eq!(in_force(&output, key), format!("{key} = \"{value}\" # {source}"), "{}", stderr(&output));
            assert_eq!(output.status.code(), Some(0));
        }
    }
}

#[test]
fn the_file_may_hold_plain_scalars_and_be_named_by_a_variable() {
    let fixture = Fixture::new("allow_open = true\ndrivers = 7\nspeed = 60.5\nnow = false\n");
    let output = geotrail()
        .args(["config", "check"])
        .env("GEOTRAIL_CONFIG", fixture.path("geotrail.toml"))
        .output()
        .expect("it runs");
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    assert!(in_force(&output, "allow_open").starts_with("allow_open = \"true\""));
    assert!(in_force(&output, "drivers").starts_with("drivers = \"7\""));
    assert!(in_force(&output, "speed").starts_with("speed = \"60.5\""));
}

#[test]
fn what_is_shown_can_be_used() {
    let first = Fixture::new("retention = \"3h\"\nstore = \"redis://h\"\n").check(&[], &[]);
    let again = Fixture::new(stdout(&first)).check(&[], &[]);
    assert_eq!(again.status.code(), Some(0), "{}", stderr(&again));
    assert!(in_force(&again, "retention").starts_with("retention = \"3h\""));
}

#[test]
fn every_broken_file_is_named_with_line_and_key() {
    let stores = "expected `embedded`, or a URL that begins with redis://, rediss://, redis-cluster://, \
                  rediss-cluster://, redis-sentinel://, rediss-sentinel://, redis+unix";
    let switch = "expected `true` or `false`";
    let hours = "expected a duration with its unit, such as 48h or 2d, from 2h to 3660d";
    let address = "expected an address and a port, such as 127.0.0.1:8080 or [::1]:8080";
    let cases: &[(&str, String)] = &[
        ("retenton = \"48h\"", "1: unknown key `retenton`; did you mean `retention`?".to_owned()),
        ("\n\ndata-dir = \"x\"", "3: unknown key `data-dir`; did you mean `data_dir`?".to_owned()),
        ("Listen = \"127.0.0.1:1\"", "1: unknown key `Listen`; did you mean `listen`?".to_owned()),
        ("redis_prefixes = 1", "1: unknown key `redis_prefixes`; did you mean `redis_prefix`?".to_owned()),
        ("[listen]\nx = 1", "1: `listen`: expected a string".to_owned()),
        ("[listeners]\nx = 1", "1: unknown key `listeners`; did you mean `listen`?".to_owned()),
        ("listen = \"8080\"", format!("1: `listen`: {address}")),
        ("listen = \"localhost\"", format!("1: `listen`: {address}")),
        ("listen = \"127.0.0.1:70000\"", format!("1: `listen`: {address}")),
        ("listen = [\"127.0.0.1:1\"]", "1: `listen`: expected a string".to_owned()),
        ("data_dir = \"\"", "1: `data_dir`: expected a directory".to_owned()),
        ("data_dir = 1979-05-27", "1: `data_dir`: expected a string".to_owned()),
        ("store = \"memory\"", format!("1: `store`: {stores}")),
        ("store = \"http://h\"", format!("1: `store`: {stores}")),
        ("store = \"redis://\"", "1: `store`: expected redis:// and where it is".to_owned()),
        ("store = \"redis://h:port\"", "1: `store`: expected redis:// and where it is".to_owned()),
        ("store = \"redis-cluster://h:0\"", "1: `store`: expected redis-cluster:// and where it is".to_owned()),
        ("store = \"redis+unix://\"", "1: `store`: expected redis+unix:// and where it is".to_owned()),
        ("store = \"redis://h\"\nstore_file = \"x\"", "both say where the store is; give one".to_owned()),
        ("store_file = \"absent\"", "absent: cannot be read: ".to_owned()),
        ("retention = 48", format!("1: `retention`: {hours}")),
        ("retention = \"119m\"", format!("1: `retention`: {hours}")),
        ("retention = \"2 h\"", format!("1: `retention`: {hours}")),
        ("retention = \"-48h\"", format!("1: `retention`: {hours}")),
        ("retention = \"99999999999999d\"", format!("1: `retention`: {hours}")),
        ("shard_resolution = 10", "1: `shard_resolution`: expected `none` or a resolution from 0 to 9".to_owned()),
        (
            "shard_resolution = \"07\"",
            "1: `shard_resolution`: expected `none` or a resolution from 0 to 9".to_owned(),
        ),
        ("redis_prefix = \"\"", "1: `redis_prefix`: expected 1 to 32 of A-Z a-z 0-9 _ -".to_owned()),
        ("redis_prefix = \"a{b}\"", "1: `redis_prefix`: expected 1 to 32 of".to_owned()),
        ("redis_prefix = \"a234567890123456789012345678901234\"", "1: `redis_prefix`: expected 1 to 32".to_owned()),
        ("allow_open = 1", format!("1: `allow_open`: {switch}")),
        ("allow_plaintext = \"yes\"", format!("1: `allow_plaintext`: {switch}")),
        ("to = \"ftp://h\"", "1: `to`: expected the URL of a geotrail service".to_owned()),
        ("drivers = 0", "1: `drivers`: expected a whole number from 1 to 1000000".to_owned()),
        ("interval = \"5\"", "1: `interval`: expected a duration with its unit, such as 5s".to_owned()),
        ("duration = \"0s\"", "1: `duration`: expected a duration".to_owned()),
        ("seed = -1", "1: `seed`: expected a whole number".to_owned()),
        ("speed = \"fast\"", "1: `speed`: expected `max`, or a factor".to_owned()),
        ("now = \"now\"", format!("1: `now`: {switch}")),
        ("listen = ", "1: not TOML: ".to_owned()),
        ("\nlisten = 'a\nretention = '3h'", "2: not TOML: ".to_owned()),
        ("retention = '3h'\nretention = '3h'", "2: not TOML: duplicate key".to_owned()),
    ];
    for (toml, expected) in cases {
        let output = Fixture::new(toml).check(&[], &[]);
        let shown = stderr(&output);
        assert_eq!(output.status.code(), Some(2), "{toml}: {shown}");
        assert!(shown.contains(expected.as_str()), "{toml}: {shown}");
        assert!(shown.starts_with("error: geotrail.toml:") || shown.contains("absent"), "{toml}: {shown}");
        assert_eq!(stdout(&output), "", "{toml}");
    }
    let output = Fixture::new([0xff, 0xfe]).check(&[], &[]);
    assert!(stderr(&output).contains("geotrail.toml: cannot be read: "), "{}", stderr(&output));
    assert_eq!(output.status.code(), Some(2));
}

#[test]
fn all_problems_of_all_layers_are_told_at_once() {
    let fixture = Fixture::new("lisen = 1\nretention = \"1h\"\n");
    let output = fixture.check(
        &["--redis-prefix", "a b", "--retention", "48h"],
        &[("GEOTRAIL_LISTN", "x"), ("GEOTRAIL_STORE", "memory")],
    );
    let shown = stderr(&output);
    for expected in [
        "unknown variable GEOTRAIL_LISTN; did you mean GEOTRAIL_LISTEN?\n",
        "GEOTRAIL_STORE: expected `embedded`",
        "geotrail.toml:1: unknown key `lisen`; did you mean `listen`?\n",
        "geotrail.toml:2: `retention`: expected a duration",
        "--redis-prefix: expected 1 to 32 of",
    ] {
        assert!(shown.contains(expected), "{expected} in {shown}");
    }
    assert_eq!(shown.lines().count(), 5, "{shown}");
    assert_eq!(output.status.code(), Some(2));
}

#[test]
fn every_command_refuses_a_wrong_setting_with_exit_2() {
    let commands: [&[&str]; 4] = [&["serve"], &["simulate"], &["replay", "x.csv"], &["config", "check"]];
    for arguments in commands {
        let output = geotrail().args(arguments).env("GEOTRAIL_RETENTION", "1h").output().expect("it runs");
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
        assert!(stderr(&output).starts_with("error: GEOTRAIL_RETENTION: expected a duration"), "{arguments:?}");
    }
    for arguments in [&["serve", "--no-such-flag"][..], &["nonsense"], &[], &["replay"], &["config"]] {
        assert_eq!(geotrail().args(arguments).output().expect("it runs").status.code(), Some(2), "{arguments:?}");
    }
}

#[test]
fn s1_beyond_loopback_what_is_missing_is_asked_for_by_name() {
    let fixture = Fixture::new("");
    let keys = fixture.path("keys.toml").to_str().expect("a path").to_owned();
    let made = geotrail().args(["key", "new", "--keys", &keys, "--name", "x", "--scope", "read"]).output();
    assert_eq!(made.expect("it runs").status.code(), Some(0));
    let authority = Authority::new();
    authority.issue("one", "ca", 2, "DNS:localhost");
    let [certificate, key] = ["one.pem", "one.key"].map(|name| authority.file(name).display().to_string());
    for half in [["--tls-cert", certificate.as_str()], ["--tls-key", key.as_str()]] {
        let check = geotrail().args(["config", "check"]).args(half).output().expect("it runs");
        assert_eq!(check.status.code(), Some(2));
        assert!(stderr(&check).contains("of no use without --tls-"), "{}", stderr(&check));
    }
    let within = geotrail().args(["config", "check", "--keys", &keys]).output().expect("it runs");
    assert_eq!((within.status.code(), stderr(&within).as_str()), (Some(0), ""), "nothing to warn of");
    let cases: [(&str, &[&str], Option<&str>); 15] = [
        ("127.0.0.1:1", &[], None),
        ("127.8.8.8:1", &[], None),
        ("[::1]:1", &[], None),
        ("0.0.0.0:1", &[], Some("add --allow-open --allow-plaintext\n")),
        ("[::]:1", &[], Some("add --allow-open --allow-plaintext\n")),
        ("[::ffff:127.0.0.1]:1", &[], Some("add --allow-open --allow-plaintext\n")),
        ("192.0.2.1:1", &["--allow-open"], Some("add --allow-plaintext\n")),
        ("192.0.2.1:1", &["--allow-plaintext"], Some("add --allow-open\n")),
        ("192.0.2.1:1", &["--allow-plaintext", "--allow-open"], None),
        ("192.0.2.1:1", &["--keys", "KEYS"], Some("add --allow-plaintext\n")),
        ("192.0.2.1:1", &["--keys", "KEYS", "--allow-open"], Some("add --allow-plaintext\n")),
        ("192.0.2.1:1", &["--keys", "KEYS", "--allow-plaintext"], None),
        ("192.0.2.1:1", &["--tls-cert", "CERT", "--tls-key", "KEY"], Some("add --allow-open\n")),
        ("192.0.2.1:1", &["--tls-cert", "CERT", "--tls-key", "KEY", "--allow-open"], None),
        ("192.0.2.1:1", &["--tls-cert", "CERT", "--tls-key", "KEY", "--keys", "KEYS"], None),
    ];
    for (address, allowed, refusal) in cases {
        let files = [("KEYS", &keys), ("CERT", &certificate), ("KEY", &key)];
        let file = |word: &str| files.iter().find(|(name, _)| *name == word).map(|(_, path)| path.as_str());
        let allowed = allowed.iter().map(|word| file(word).unwrap_or(word));
        let arguments: Vec<&str> = ["--listen", address].into_iter().chain(allowed).collect();
        let check = geotrail().args(["config", "check"]).args(&arguments).output().expect("it runs");
        let Some(expected) = refusal else {
            assert_eq!(check.status.code(), Some(0), "{address}");
            let (is_open, is_plain) = (!arguments.contains(&"--keys"), !arguments.contains(&"--tls-cert"));
            assert_eq!(stderr(&check).contains("runs open"), is_open, "{arguments:?}");
            let is_loopback = !address.starts_with("192");
            assert_eq!(stderr(&check).contains("runs unencrypted"), is_plain && !is_loopback, "{arguments:?}");
            continue;
        };
        let serve = geotrail().arg("serve").args(&arguments).output().expect("it runs");
        for output in [check, serve] {
            assert_eq!(output.status.code(), Some(2), "{address}");
            assert!(stderr(&output).starts_with("error: --listen: not a loopback address"), "{}", stderr(&output));
            assert!(stderr(&output).ends_with(expected), "{}", stderr(&output));
        }
    }
}

#[test]
fn a_password_never_shows() {
    let url = format!("redis://user:{SECRET}@127.0.0.1:6379/0?sentinelPassword={SECRET}");
    let broken = format!("redis://user:{SECRET}@127.0.0.1:port");
    let fixture = Fixture::new(format!("store = \"{url}\"\n"));
    fs::write(fixture.path("url"), format!("{url}\n")).expect("a file");
    fs::write(fixture.path("broken-url"), &broken).expect("a file");
    fs::write(fixture.path("broken.toml"), format!("stor = \"{url}\"\nstore = \"{broken}\"\nx = '{SECRET}'"))
        .expect("");
    let runs: &[Run<'_>] = &[
        (&["config", "check"], &[("GEOTRAIL_CONFIG", "geotrail.toml")], 0),
        (&["config", "check"], &[("GEOTRAIL_STORE", &url)], 0),
        (&["config", "check", "--store", &url], &[], 0),
        (&["config", "check", "--store-file", "url"], &[], 0),
        (&["config", "check"], &[("GEOTRAIL_STORE_FILE", "url")], 0),
        (&["config", "check", "--store-file", "broken-url"], &[], 2),
        (&["config", "check", "--store", &broken], &[], 2),
        (&["config", "check"], &[("GEOTRAIL_STORE", &broken)], 2),
        (&["config", "check"], &[("GEOTRAIL_STOR", &url)], 2),
        (&["config", "check", "--config", "broken.toml"], &[], 2),
        (&["serve", &url], &[], 2),
        (&["serve", "--stor", &url], &[], 2),
        (&[&url], &[], 2),
        (&["serve", "--listen", &url], &[], 2),
        (&["serve", "--listen", "192.0.2.1:1"], &[("GEOTRAIL_STORE", &url)], 2),
        (&["simulate", "--to", &url], &[], 2),
    ];
    for (arguments, variables, code) in runs {
        let output = geotrail()
            .current_dir(fixture.directory.path())
            .args(*arguments)
            .envs(variables.iter().copied())
            .output()
            .expect("it runs");
        assert_eq!(output.status.code(), Some(*code), "{arguments:?} {}", stderr(&output));
        assert!(!stdout(&output).contains(SECRET) && !stderr(&output).contains(SECRET), "{arguments:?}");
    }
    let as_argument = fixture.check(&["--store", &url], &[]);
    assert!(stderr(&as_argument).contains("--store holds a password"), "{}", stderr(&as_argument));
    let in_file = fixture.check(&[], &[]);
    assert!(!stderr(&in_file).contains("holds a password"));
    assert!(in_force(&in_file, "store").contains("redis://user:***@127.0.0.1:6379/0?sentinelPassword=***"));
}

#[test]
fn the_stronger_source_says_where_the_store_is() {
    let fixture = Fixture::new("store_file = \"absent\"\n");
    assert_eq!(fixture.check(&["--store", "embedded"], &[]).status.code(), Some(0));
    assert_eq!(fixture.check(&[], &[("GEOTRAIL_STORE", "embedded")]).status.code(), Some(0));
    fs::write(fixture.path("bad"), "memory").expect("a file");
    let bad = fixture.check(&["--store-file", "bad"], &[("GEOTRAIL_STORE", "embedded")]);
    assert_eq!(bad.status.code(), Some(2));
    assert!(stderr(&bad).starts_with("error: bad:1: `store`: expected `embedded`"), "{}", stderr(&bad));
}

#[test]
fn the_readme_names_every_setting() {
    let readme = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md")).expect("README.md");
    for setting in SETTINGS {
        let names = format!("| `--{}` | `{}` | `{}` |", setting.name, setting.variable(), setting.key());
        assert!(readme.contains(&names), "README.md lacks {names}");
    }
}
