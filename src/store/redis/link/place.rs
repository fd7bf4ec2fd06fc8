//! Where Redis is, as a URL says it, and how a client of one server is set up.
//!
//! Never here: a connection.

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use fred::types::config::{Config, Server, ServerConfig, TlsConfig, TlsConnector};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;

use crate::store::StoreError;

/// How long a pipeline may take at most: far more than a slice needs, and less than a caller's patience.
const PIPELINE_TIMEOUT: Duration = Duration::from_secs(1);

/// Where one server is.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Address {
    /// A name or a number, and a port.
    Tcp {
        /// Without brackets.
        host: String,
        /// From 1.
        port: u16,
    },
    /// A socket in the file system.
    Unix(PathBuf),
}

/// The kinds of Redis there are.
#[derive(Clone, Debug)]
pub(super) enum Topology {
    /// One server, or what looks like one.
    Single(Address),
    /// Slots on many servers; some of these are known to begin with.
    Cluster(Vec<Address>),
    /// One primary at a time; these know which.
    Sentinel {
        /// Where the sentinels are.
        sentinels: Vec<Address>,
        /// What they call the primary.
        service: String,
    },
}

/// How a server is talked to: user, password, database, TLS, timeouts.
#[derive(Clone, Debug)]
pub(super) struct Dial {
    servers: Config,
    sentinels: Config,
    timeout: Duration,
}

impl Address {
    /// `HOST:PORT`, as Redis writes it in MOVED; the host may be empty. `None` if it is not known there.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let (host, port) = text.rsplit_once(':')?;
        let port = port.parse().ok().filter(|port| *port > 0)?;
        (host != "?").then(|| Self::Tcp { host: host.to_owned(), port })
    }

    /// With the host of `teller` where there is none.
    pub(super) fn or_host_of(self, teller: &Self) -> Self {
        match (self, teller) {
            (Self::Tcp { host, port }, Self::Tcp { host: theirs, .. }) if host.is_empty() => {
                Self::Tcp { host: theirs.clone(), port }
            }
            (address, _) => address,
        }
    }
}

/// `HOST:PORT`, or a path.
impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp { host, port } if host.contains(':') => write!(f, "[{host}]:{port}"),
            Self::Tcp { host, port } => write!(f, "{host}:{port}"),
            Self::Unix(path) => write!(f, "{}", path.display()),
        }
    }
}

impl From<&Server> for Address {
    fn from(server: &Server) -> Self {
        Self::Tcp { host: server.host.to_string(), port: server.port }
    }
}

/// Reads a URL. `ca` is a file of certificates to trust instead of the system's.
pub(super) fn read(url: &str, ca: Option<&Path>, deadline: Duration) -> Result<(Topology, Dial), StoreError> {
    let (url, is_tls) = without_tls(url);
    // The parser's own words may repeat the URL, and with it a password.
    let mut servers =
        Config::from_url(&url).map_err(|_| StoreError::Refused("the Redis URL cannot be read".into()))?;
    servers.tls = if is_tls { Some(tls(ca)?) } else { None };
    let mut sentinels = servers.clone();
    sentinels.database = None;
    let topology = match &servers.server {
        ServerConfig::Centralized { server } => Topology::Single(server.into()),
        ServerConfig::Unix { path } => Topology::Single(Address::Unix(path.clone())),
        ServerConfig::Clustered { hosts, .. } => Topology::Cluster(hosts.iter().map(Address::from).collect()),
        ServerConfig::Sentinel { hosts, service_name, username, password } => {
            sentinels.username.clone_from(username);
            sentinels.password.clone_from(password);
            Topology::Sentinel { sentinels: hosts.iter().map(Address::from).collect(), service: service_name.clone() }
        }
    };
    Ok((topology, Dial { servers, sentinels, timeout: PIPELINE_TIMEOUT.min(deadline) }))
}

/// The URL without the letter that asks for TLS, and whether it was there: the roots are for us to choose.
fn without_tls(url: &str) -> (String, bool) {
    for (secure, plain) in [("rediss", "redis"), ("valkeys", "valkey")] {
        if let Some(rest) = url.strip_prefix(secure).filter(|rest| rest.starts_with([':', '-'])) {
            return (format!("{plain}{rest}"), true);
        }
    }
    (url.to_owned(), false)
}

fn tls(ca: Option<&Path>) -> Result<TlsConfig, StoreError> {
    let refused = |reason: &str| StoreError::Refused(reason.to_owned());
    let Some(ca) = ca else {
        let connector = TlsConnector::default_rustls();
        return connector.map(TlsConfig::from).map_err(|_| refused("the system's certificates cannot be read"));
    };
    let mut roots = rustls::RootCertStore::empty();
    let unreadable = "the certificates to trust cannot be read";
    for certificate in CertificateDer::pem_file_iter(ca).map_err(|_| refused(unreadable))? {
        roots.add(certificate.map_err(|_| refused(unreadable))?).map_err(|_| refused(unreadable))?;
    }
    if roots.is_empty() {
        return Err(refused("there is no certificate to trust in the file"));
    }
    let config = rustls::ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
    Ok(TlsConnector::from(config).into())
}

impl Dial {
    /// How long anything that is sent may take.
    pub(super) const fn timeout(&self) -> Duration {
        self.timeout
    }

    /// The number of the database.
    pub(super) fn database(&self) -> u8 {
        self.servers.database.unwrap_or(0)
    }

    /// What a server is told: a user, if it is not the default one, and a password.
    pub(super) fn credentials(&self) -> Option<(Option<&str>, &str)> {
        Some((self.servers.username.as_deref(), self.servers.password.as_deref()?))
    }

    /// How TLS is begun; `None`: there is none.
    pub(super) fn tls(&self) -> Option<&TlsConnector> {
        self.servers.tls.as_ref().map(|tls| &tls.connector)
    }

    /// The same for the sentinels.
    pub(super) fn of_sentinels(&self) -> Self {
        Self { servers: self.sentinels.clone(), ..self.clone() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_letter_of_tls_is_taken_off_its_scheme_alone() {
        for (url, plain, is_tls) in [
            ("rediss://h:1", "redis://h:1", true),
            ("rediss-cluster://h:1?node=g:2", "redis-cluster://h:1?node=g:2", true),
            ("valkeys-sentinel://h", "valkey-sentinel://h", true),
            ("redis://rediss:1", "redis://rediss:1", false),
            ("redis+unix:///a", "redis+unix:///a", false),
        ] {
            assert_eq!(without_tls(url), (plain.to_owned(), is_tls));
        }
    }

    #[test]
    fn a_url_says_what_kind_of_redis_it_is() {
        let read = |url| read(url, None, Duration::from_secs(1)).map(|(topology, _)| topology);
        assert!(matches!(read("redis://u:p@h:1/2"), Ok(Topology::Single(Address::Tcp { port: 1, .. }))));
        assert!(matches!(read("redis+unix:///run/redis.sock"), Ok(Topology::Single(Address::Unix(_)))));
        assert!(matches!(read("redis-cluster://h:1?node=g:2"), Ok(Topology::Cluster(seeds)) if seeds.len() == 2));
        let sentinel = read("redis-sentinel://h:1?sentinelServiceName=m&node=g:2&node=f:3");
        assert!(
            matches!(sentinel, Ok(Topology::Sentinel { sentinels, service }) if sentinels.len() == 3 && service == "m")
        );
        assert!(matches!(read("redis-sentinel://h:1"), Err(StoreError::Refused(_))));
    }
}
