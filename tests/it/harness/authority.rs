//! Certificates, made for a test by the `openssl` of the system.

use std::path::PathBuf;
use std::process::Command;

use tempfile::TempDir;

use super::redis::{RedisServer, free_port};

const KEY: &str = "-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes";

/// Certificates made for one test.
pub(crate) struct Authority(TempDir);

impl Authority {
    pub(crate) fn new() -> Self {
        let authority = Self(TempDir::new().expect("a directory"));
        for name in ["ca", "stranger"] {
            authority
                .openssl(&format!("req -x509 {KEY} -keyout {name}.key -out {name}.pem -days 2 -subj /CN={name}"));
        }
        authority
    }

    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// A certificate of `issuer` for a name or an address, good from now on for so many days.
    pub(crate) fn issue(&self, name: &str, issuer: &str, days: i32, subject: &str) {
        std::fs::write(self.file("extensions"), format!("subjectAltName={subject}")).expect("a file");
        self.openssl(&format!("req {KEY} -keyout {name}.key -out {name}.csr -subj /CN={name}"));
        self.openssl(&format!(
            "x509 -req -in {name}.csr -CA {issuer}.pem -CAkey {issuer}.key -CAcreateserial -out {name}.pem -days {days} \
             -extfile extensions"
        ));
    }

    fn openssl(&self, arguments: &str) {
        let output = Command::new("openssl").args(arguments.split(' ')).current_dir(self.0.path()).output();
        let output = output.expect("openssl is installed");
        assert!(output.status.success(), "{arguments}: {}", String::from_utf8_lossy(&output.stderr));
    }

    /// What a server is started with that shows the certificate `name`, for `redis-server` and in its configuration.
    pub(crate) fn shown(&self, name: &str) -> Vec<(&'static str, String)> {
        let path = |name: String| self.file(&name).display().to_string();
        vec![
            ("tls-cert-file", path(format!("{name}.pem"))),
            ("tls-key-file", path(format!("{name}.key"))),
            ("tls-ca-cert-file", path("ca.pem".into())),
            ("tls-auth-clients", "no".into()),
        ]
    }

    pub(crate) fn arguments(&self, name: &str, more: &[(&'static str, &str)]) -> Vec<String> {
        let more = more.iter().map(|(key, value)| (*key, (*value).to_owned()));
        self.shown(name).into_iter().chain(more).flat_map(|(key, value)| [format!("--{key}"), value]).collect()
    }

    pub(crate) fn server(&self, name: &str) -> (RedisServer, u16) {
        let port = free_port();
        let arguments = self.arguments(name, &[("tls-port", &port.to_string())]);
        (RedisServer::start_with(&arguments.iter().map(String::as_str).collect::<Vec<_>>()), port)
    }
}
