//! The byte stream to the broker: TCP, or TLS over it.
//!
//! Certificates, key and password are read at every attempt, so that renewed ones are used without
//! a restart.

use std::os::fd::{AsFd, OwnedFd};
#[cfg(feature = "tls")]
use std::path::Path;
use std::path::PathBuf;

#[cfg(feature = "tls")]
use native_tls::{Certificate, Identity};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

use super::packet::{EncodeError, WireError};
use crate::config::{Mqtt, MqttTls};

/// The TCP connection below the byte stream.
#[derive(Debug)]
pub(super) struct Socket(OwnedFd);

impl Socket {
    /// Has the kernel acknowledge what was read at once (`TCP_QUICKACK`, tcp(7): not permanent). It would
    /// let its acknowledgement go along with a PUBACK, 40 ms later at most; and a broker that gathers small
    /// writes (RFC 896, Mosquitto's default) sends nothing more until it has one: at 100 publishes a second
    /// Mosquitto held back each that came behind a PINGRESP.
    pub(super) fn acknowledge(&self) {
        // Without it all goes on, only later.
        let _ = rustix::net::sockopt::set_tcp_quickack(&self.0, true);
    }
}

/// A connection's two directions.
pub(super) trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Duplex for T {}

/// Why there is no connection, or no more. Each one is transient: the source tries again for ever,
/// since brokers, networks and files get repaired.
#[derive(Debug, thiserror::Error)]
pub(super) enum ConnectionError {
    /// No TCP connection.
    #[error("cannot connect to {host}:{port}")]
    Connect {
        /// Host name or address.
        host: String,
        /// Port.
        port: u16,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// No answer in time.
    #[error("no connection within {seconds} s")]
    ConnectTimeout {
        /// How long was waited.
        seconds: u64,
    },
    /// A password or TLS file cannot be read.
    #[error("cannot read {}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// The content of a TLS file is no good.
    #[cfg(feature = "tls")]
    #[error("cannot use {}", path.display())]
    Certificate {
        /// The file.
        path: PathBuf,
        /// What OpenSSL said.
        #[source]
        source: native_tls::Error,
    },
    /// No TLS session.
    #[cfg(feature = "tls")]
    #[error("TLS handshake failed")]
    Tls(#[source] native_tls::Error),
    /// CONNACK with an error.
    #[error("the broker refused the connection: {reason}")]
    Refused {
        /// Its return code.
        reason: String,
    },
    /// Another packet where CONNACK was due, or CONNACK where none was.
    #[error("the broker sent an unexpected packet {when}")]
    OutOfPlace {
        /// Before or after CONNACK.
        when: &'static str,
    },
    /// A packet that makes no sense.
    #[error(transparent)]
    Wire(#[from] WireError),
    /// A packet of ours that cannot be written.
    #[error(transparent)]
    Encode(#[from] EncodeError),
    /// Reading or writing failed.
    #[error("connection lost")]
    Lost(#[source] std::io::Error),
    /// The broker closed the connection.
    #[error("the broker closed the connection")]
    Closed,
    /// The broker sent DISCONNECT.
    #[error("the broker disconnected us: {reason}")]
    Disconnected {
        /// Its reason code.
        reason: String,
    },
    /// No byte in one and a half keep-alive intervals, though we asked.
    #[error("the broker is silent")]
    Silent,
}

/// Opens the byte stream.
pub(super) async fn open(config: &Mqtt) -> Result<(Box<dyn Duplex>, Socket), ConnectionError> {
    let failed = |source| ConnectionError::Connect {
        host: config.host.clone(),
        port: config.port,
        source,
    };
    let tcp = TcpStream::connect((config.host.as_str(), config.port))
        .await
        .map_err(failed)?;
    // Acknowledgements are written in one go per group commit: nothing to coalesce.
    tcp.set_nodelay(true).map_err(failed)?;
    let socket = tcp.as_fd().try_clone_to_owned().map_err(failed)?;
    let stream: Box<dyn Duplex> = match &config.tls {
        None => Box::new(tcp),
        Some(tls) => secured(&config.host, tls, tcp).await?,
    };
    Ok((stream, Socket(socket)))
}

#[cfg(not(feature = "tls"))]
async fn secured(
    host: &str,
    _: &MqttTls,
    _: TcpStream,
) -> Result<Box<dyn Duplex>, ConnectionError> {
    unreachable!("the configuration refuses TLS to {host}")
}

#[cfg(feature = "tls")]
async fn secured(
    host: &str,
    tls: &MqttTls,
    tcp: TcpStream,
) -> Result<Box<dyn Duplex>, ConnectionError> {
    let connector = tokio_native_tls::TlsConnector::from(connector(tls).await?);
    let stream = connector.connect(host, tcp).await;
    Ok(Box::new(stream.map_err(ConnectionError::Tls)?))
}

#[cfg(feature = "tls")]
async fn connector(tls: &MqttTls) -> Result<native_tls::TlsConnector, ConnectionError> {
    let mut builder = native_tls::TlsConnector::builder();
    if let Some(path) = &tls.ca_file {
        // With a CA of its own, a plant's broker is not vouched for by any public one.
        builder.disable_built_in_roots(true);
        let unusable = unusable(path);
        for certificate in Certificate::stack_from_pem(&read(path).await?).map_err(unusable)? {
            builder.add_root_certificate(certificate);
        }
    }
    if let (Some(cert), Some(key)) = (&tls.cert_file, &tls.key_file) {
        let identity = Identity::from_pkcs8(&read(cert).await?, &read(key).await?);
        builder.identity(identity.map_err(unusable(cert))?);
    }
    builder.build().map_err(ConnectionError::Tls)
}

#[cfg(feature = "tls")]
fn unusable(path: &Path) -> impl FnOnce(native_tls::Error) -> ConnectionError {
    let path = path.to_owned();
    move |source| ConnectionError::Certificate { path, source }
}

#[cfg(feature = "tls")]
async fn read(path: &Path) -> Result<Vec<u8>, ConnectionError> {
    tokio::fs::read(path)
        .await
        .map_err(|source| ConnectionError::File {
            path: path.to_owned(),
            source,
        })
}

/// The password: the file's content less one line end.
pub(super) async fn password(config: &Mqtt) -> Result<Option<String>, ConnectionError> {
    let Some(path) = &config.password_file else {
        return Ok(None);
    };
    let text = tokio::fs::read_to_string(path)
        .await
        .map_err(|source| ConnectionError::File {
            path: path.clone(),
            source,
        })?;
    let line = text.strip_suffix('\n').unwrap_or(&text);
    Ok(Some(line.strip_suffix('\r').unwrap_or(line).to_owned()))
}
