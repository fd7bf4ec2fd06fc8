//! TLS of the service itself: a certificate and its key, out of files that are read anew when they change, so that a renewed
//! certificate needs no restart. Files that are wrong, or gone, change nothing but the log.
//!
//! Never here: who may ask for what, TLS towards Redis.

use std::fs::{self, File};
use std::io::{self, Read as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use x509_cert::der::Decode as _;

use crate::model::Timestamp;
use crate::watched::Watched;

/// How long a client may take to agree on how to speak.
const HANDSHAKE_DEADLINE: Duration = Duration::from_secs(10);
/// The bits of a mode that others have no business with: that they read the key, and that anybody else writes it.
const FORBIDDEN_MODE: u32 = 0o027;

/// Why there is no TLS with these files.
#[derive(Debug, Error)]
pub enum TlsError {
    /// A file that cannot be had.
    #[error("{path}: cannot be read: {1}", path = .0.display())]
    Unreadable(PathBuf, String),
    /// A key that others can read, or write.
    #[error("{path}: others may read or change it; chmod 600", path = .0.display())]
    Exposed(PathBuf),
    /// What stands in a file.
    #[error("{path}: {1}", path = .0.display())]
    Wrong(PathBuf, &'static str),
}

impl TlsError {
    /// The file that is at fault.
    pub fn path(&self) -> &Path {
        match self {
            Self::Unreadable(path, _) | Self::Exposed(path) | Self::Wrong(path, _) => path,
        }
    }
}

/// How the service speaks TLS. Clones are the same.
#[derive(Clone)]
pub struct Tls(Arc<Inner>);

struct Inner {
    certificate: PathBuf,
    key: PathBuf,
    now: ArcSwap<Shown>,
    watched: Mutex<Watched<2>>,
}

/// What callers are shown.
struct Shown {
    acceptor: TlsAcceptor,
    expires: Timestamp,
}

impl Tls {
    /// With the certificates in one file, the service's own first, and its key in another, both PEM.
    pub fn open(certificate: &Path, key: &Path) -> Result<Self, TlsError> {
        let watched = Mutex::new(Watched::new([certificate, key]));
        let now = ArcSwap::from_pointee(Shown::read(certificate, key)?);
        let (certificate, key) = (certificate.to_owned(), key.to_owned());
        Ok(Self(Arc::new(Inner { certificate, key, now, watched })))
    }

    /// When the certificate runs out.
    pub fn expires(&self) -> Timestamp {
        self.0.now.load().expires
    }

    /// Reads the files if they have changed. Blocks for a moment.
    pub fn refresh(&self) {
        let Inner { certificate, key, now, watched } = &*self.0;
        match watched.lock().look(|| Shown::read(certificate, key)) {
            None => {}
            Some(Ok(shown)) => {
                tracing::info!(expires = %shown.expires, "the certificate has changed: callers are shown this one");
                now.store(Arc::new(shown));
            }
            Some(Err(error)) => {
                tracing::error!(%error, "the certificate or its key is wrong: that of before is shown");
            }
        }
    }

    /// Agrees with a client on how to speak; `None` if that failed, or took too long.
    pub(super) async fn accept<S: AsyncRead + AsyncWrite + Unpin>(&self, stream: S) -> Option<TlsStream<S>> {
        let acceptor = self.0.now.load().acceptor.clone();
        match tokio::time::timeout(HANDSHAKE_DEADLINE, acceptor.accept(stream)).await {
            Ok(Ok(stream)) => Some(stream),
            Ok(Err(error)) => {
                tracing::debug!(%error, "a connection ended before it began");
                None
            }
            Err(_) => {
                tracing::debug!("a connection ended before it began: the client said too little");
                None
            }
        }
    }
}

impl Shown {
    fn read(certificate: &Path, key: &Path) -> Result<Self, TlsError> {
        let wrong = |path: &Path, what| TlsError::Wrong(path.to_owned(), what);
        let chain = CertificateDer::pem_slice_iter(&read(certificate)?)
            .collect::<Result<Vec<_>, _>>()
            .map_err(|_| wrong(certificate, "not PEM"))?;
        let own = chain.first().ok_or_else(|| wrong(certificate, "there is no certificate in it"))?;
        let expires = expiry(own).ok_or_else(|| wrong(certificate, "its first certificate cannot be read"))?;
        let private = PrivateKeyDer::from_pem_slice(&read_secret(key)?);
        let private = private.map_err(|_| wrong(key, "there is no private key in it"))?;
        let mut config = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .expect("the provider has ciphers for both")
            .with_no_client_auth()
            .with_single_cert(chain, private)
            .map_err(|_| wrong(key, "it is not the key of the certificate"))?;
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Self { acceptor: TlsAcceptor::from(Arc::new(config)), expires })
    }
}

fn read(path: &Path) -> Result<Vec<u8>, TlsError> {
    fs::read(path).map_err(|error| TlsError::Unreadable(path.to_owned(), error.to_string()))
}

/// What nobody else may read.
fn read_secret(path: &Path) -> Result<Vec<u8>, TlsError> {
    let unreadable = |error: io::Error| TlsError::Unreadable(path.to_owned(), error.to_string());
    let mut file = File::open(path).map_err(unreadable)?;
    if file.metadata().map_err(unreadable)?.permissions().mode() & FORBIDDEN_MODE != 0 {
        return Err(TlsError::Exposed(path.to_owned()));
    }
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes).map_err(unreadable)?;
    Ok(bytes)
}

fn expiry(certificate: &CertificateDer<'_>) -> Option<Timestamp> {
    let certificate = x509_cert::Certificate::from_der(certificate).ok()?;
    let since_1970 = certificate.tbs_certificate.validity.not_after.to_unix_duration();
    i64::try_from(since_1970.as_millis()).ok().map(Timestamp::from_ms)
}
