//! TLS on the agent's port: certificate and key from files, read again when they change.
//!
//! Certificates are short-lived where they are made by machines, and an agent that serves an expired one is not scraped any
//! more. A new pair that cannot be read leaves the old one in use and is told in the log. The handshake is made where the
//! connection is first read, so that a silent client keeps nobody else waiting.

use std::{
    io,
    path::{Path, PathBuf},
    pin::Pin,
    sync::{Arc, PoisonError, RwLock},
    task::{Context, Poll, ready},
    time::{Duration, SystemTime},
};

use rustls::{
    ServerConfig,
    crypto::{CryptoProvider, ring},
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    server::{ClientHello, ResolvesServerCert},
    sign::CertifiedKey,
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};
use tokio_rustls::{Accept, TlsAcceptor, server::TlsStream};

/// Between two looks at the files.
const LOOK: Duration = Duration::from_secs(30);

/// Why there is no TLS.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file cannot be read, or holds something else.
    #[error("{}: {problem}", .file.display())]
    File {
        /// The file.
        file: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// Certificate and key do not fit, or their kind is not known.
    #[error("certificate and key: {0}")]
    Pair(#[from] rustls::Error),
}

/// Certificate and key in use, and where they come from.
#[derive(Debug)]
pub struct Identity {
    cert: PathBuf,
    key: PathBuf,
    provider: Arc<CryptoProvider>,
    current: RwLock<Arc<CertifiedKey>>,
}

impl Identity {
    /// Reads both files (PEM; the certificate with its chain).
    ///
    /// # Errors
    /// They cannot be read, or do not fit.
    pub fn load(cert: &Path, key: &Path) -> Result<Arc<Self>, TlsError> {
        let provider = Arc::new(ring::default_provider());
        let current = read(cert, key, &provider)?;
        Ok(Arc::new(Self {
            cert: cert.to_owned(),
            key: key.to_owned(),
            provider,
            current: RwLock::new(Arc::new(current)),
        }))
    }

    /// What makes connections TLS connections.
    pub(super) fn acceptor(self: &Arc<Self>) -> Result<TlsAcceptor, TlsError> {
        let mut config = ServerConfig::builder_with_provider(Arc::clone(&self.provider))
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_cert_resolver(Arc::<Self>::clone(self));
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(TlsAcceptor::from(Arc::new(config)))
    }

    /// Looks at the files for ever, and takes what is new.
    pub(super) async fn follow(self: Arc<Self>) {
        let mut taken = self.stamps();
        loop {
            tokio::time::sleep(LOOK).await;
            let now = self.stamps();
            if now == taken {
                continue;
            }
            match read(&self.cert, &self.key, &self.provider) {
                Ok(new) => {
                    *self.current.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(new);
                    taken = now;
                    tracing::info!(cert = %self.cert.display(), "a new certificate is in use");
                }
                // Half written, maybe: it is looked at again.
                Err(error) => tracing::warn!(
                    %error,
                    "the new certificate cannot be used, the old one stays; write certificate and key that fit"
                ),
            }
        }
    }

    fn stamps(&self) -> [Option<SystemTime>; 2] {
        [&self.cert, &self.key].map(|file| std::fs::metadata(file).and_then(|m| m.modified()).ok())
    }
}

impl ResolvesServerCert for Identity {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let current = self.current.read().unwrap_or_else(PoisonError::into_inner);
        Some(Arc::clone(&current))
    }
}

fn read(cert: &Path, key: &Path, provider: &CryptoProvider) -> Result<CertifiedKey, TlsError> {
    let bad = |file: &Path, problem: String| TlsError::File {
        file: file.to_owned(),
        problem,
    };
    let chain: Result<Vec<_>, _> =
        CertificateDer::pem_file_iter(cert).and_then(|certificates| certificates.collect());
    let chain = chain.map_err(|error| bad(cert, error.to_string()))?;
    if chain.is_empty() {
        return Err(bad(cert, "no certificate in it".to_owned()));
    }
    let key = PrivateKeyDer::from_pem_file(key).map_err(|error| bad(key, error.to_string()))?;
    Ok(CertifiedKey::from_der(chain, key, provider)?)
}

/// A connection, plain or not.
pub(super) enum Wire {
    /// Plain.
    Plain(TcpStream),
    /// The handshake is under way.
    Shaking(Box<Accept<TcpStream>>),
    /// Encrypted.
    Tls(Box<TlsStream<TcpStream>>),
}

impl Wire {
    /// A connection just accepted.
    pub(super) fn new(stream: TcpStream, acceptor: Option<&TlsAcceptor>) -> Self {
        match acceptor {
            Some(acceptor) => Self::Shaking(Box::new(acceptor.accept(stream))),
            None => Self::Plain(stream),
        }
    }

    fn poll_shaken(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if let Self::Shaking(accept) = self {
            let stream = ready!(Pin::new(accept.as_mut()).poll(cx))?;
            *self = Self::Tls(Box::new(stream));
        }
        Poll::Ready(Ok(()))
    }
}

/// Calls a method of whatever stream it is, after the handshake.
macro_rules! on_stream {
    ($self:ident, $cx:ident, $stream:ident => $call:expr) => {{
        ready!($self.poll_shaken($cx))?;
        match &mut *$self {
            Wire::Plain($stream) => $call,
            Wire::Tls($stream) => $call,
            // The handshake above is done, or was not ready.
            Wire::Shaking(_) => Poll::Pending,
        }
    }};
}

impl AsyncRead for Wire {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        on_stream!(self, cx, stream => Pin::new(stream).poll_read(cx, buf))
    }
}

impl AsyncWrite for Wire {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        on_stream!(self, cx, stream => Pin::new(stream).poll_write(cx, buf))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        on_stream!(self, cx, stream => Pin::new(stream).poll_flush(cx))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        on_stream!(self, cx, stream => Pin::new(stream).poll_shutdown(cx))
    }
}
