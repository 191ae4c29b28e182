//! Opens the connection to a broker: TCP, TLS where asked for, CONNECT and its answer.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::BytesMut;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::MqttError;
use super::wire::{Answer, Hello, Protocol};

/// Longest time from the first packet of TCP to CONNACK.
const OPEN_TIMEOUT: Duration = Duration::from_secs(10);

/// A byte stream to a broker.
pub trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}

impl<T: AsyncRead + AsyncWrite + Unpin + Send> Stream for T {}

/// Where the broker is and how to reach it.
#[derive(Clone, Debug)]
pub struct Address {
    /// Host name or address.
    pub host: String,
    /// TCP port.
    pub port: u16,
    /// How to speak TLS, where it is wanted.
    pub tls: Option<tokio_native_tls::TlsConnector>,
}

/// Files that TLS needs beyond what the system has.
#[derive(Clone, Debug, Default)]
pub struct TlsFiles {
    /// Certificates to trust instead of the system's alone, PEM.
    pub ca: Option<PathBuf>,
    /// The client's certificate chain, PEM.
    pub cert: Option<PathBuf>,
    /// The client's private key, PKCS#8 PEM.
    pub key: Option<PathBuf>,
}

impl Address {
    /// Reads an address such as `mqtt://host:1883` or `mqtts://host`.
    ///
    /// # Errors
    /// [`MqttError::Url`] or [`MqttError::Credentials`], neither of which trying again can help.
    pub fn new(url: &str, files: &TlsFiles) -> Result<Self, MqttError> {
        let wrong = |reason: &str| MqttError::Url {
            url: url.to_owned(),
            reason: reason.to_owned(),
        };
        let parsed = url::Url::parse(url).map_err(|error| wrong(&error.to_string()))?;
        let (port, tls) = match parsed.scheme() {
            "mqtt" | "tcp" => (1883, false),
            "mqtts" | "ssl" => (8883, true),
            _ => return Err(wrong("the scheme is neither mqtt nor mqtts")),
        };
        let host = parsed.host_str().ok_or_else(|| wrong("it names no host"))?;
        Ok(Self {
            host: host.trim_matches(['[', ']']).to_owned(),
            port: parsed.port().unwrap_or(port),
            tls: tls.then(|| connector(files)).transpose()?,
        })
    }

    async fn connect(&self) -> io::Result<Box<dyn Stream>> {
        let tcp = TcpStream::connect((self.host.as_str(), self.port)).await?;
        tcp.set_nodelay(true)?;
        match &self.tls {
            None => Ok(Box::new(tcp)),
            Some(connector) => {
                let stream = connector.connect(&self.host, tcp).await;
                Ok(Box::new(stream.map_err(io::Error::other)?))
            }
        }
    }
}

fn connector(files: &TlsFiles) -> Result<tokio_native_tls::TlsConnector, MqttError> {
    let mut builder = native_tls::TlsConnector::builder();
    if let Some(path) = &files.ca {
        let pem = read(path)?;
        for certificate in native_tls::Certificate::stack_from_pem(&pem).map_err(refused(path))? {
            builder.add_root_certificate(certificate);
        }
    }
    if let (Some(cert), Some(key)) = (&files.cert, &files.key) {
        let identity = native_tls::Identity::from_pkcs8(&read(cert)?, &read(key)?);
        builder.identity(identity.map_err(refused(cert))?);
    }
    let anywhere = Path::new("TLS settings");
    Ok(builder.build().map_err(refused(anywhere))?.into())
}

fn read(path: &Path) -> Result<Vec<u8>, MqttError> {
    std::fs::read(path).map_err(|source| MqttError::Credentials {
        path: path.to_owned(),
        source,
    })
}

fn refused(path: &Path) -> impl FnOnce(native_tls::Error) -> MqttError + '_ {
    move |error| MqttError::Credentials {
        path: path.to_owned(),
        source: io::Error::other(error),
    }
}

/// A connection whose CONNECT was accepted.
pub struct Connection {
    /// The byte stream.
    pub stream: Box<dyn Stream>,
    /// What has been read behind CONNACK.
    pub input: BytesMut,
    /// The broker knows the session.
    pub session_present: bool,
    /// Most publishes that may be unacknowledged.
    pub receive_maximum: u16,
}

/// Connects and waits for the broker's answer, ten seconds at most.
///
/// # Errors
/// [`MqttError`]; whether trying again can help, says [`MqttError::is_permanent`].
pub async fn open(
    address: &Address,
    protocol: Protocol,
    hello: &Hello,
) -> Result<Connection, MqttError> {
    match tokio::time::timeout(OPEN_TIMEOUT, introduce(address, protocol, hello)).await {
        Ok(result) => result,
        Err(_elapsed) => Err(MqttError::Unresponsive {
            seconds: OPEN_TIMEOUT.as_secs(),
        }),
    }
}

async fn introduce(
    address: &Address,
    protocol: Protocol,
    hello: &Hello,
) -> Result<Connection, MqttError> {
    let mut stream = address
        .connect()
        .await
        .map_err(|source| MqttError::Connect {
            host: address.host.clone(),
            port: address.port,
            source,
        })?;
    let mut buffer = BytesMut::new();
    protocol.write_connect(hello, &mut buffer)?;
    stream.write_all(&buffer).await.map_err(MqttError::Io)?;
    stream.flush().await.map_err(MqttError::Io)?;
    buffer.clear();
    let answer = loop {
        if let Some(answer) = protocol.read(&mut buffer)? {
            break answer;
        }
        if stream.read_buf(&mut buffer).await.map_err(MqttError::Io)? == 0 {
            return Err(MqttError::Closed);
        }
    };
    match answer {
        Answer::Welcome {
            session_present,
            receive_maximum,
        } => Ok(Connection {
            stream,
            input: buffer,
            session_present,
            receive_maximum,
        }),
        Answer::Refused { reason, permanent } => Err(MqttError::Refused { reason, permanent }),
        Answer::Goodbye { reason } => Err(MqttError::Goodbye { reason }),
        Answer::PubAck { .. }
        | Answer::PubRec { .. }
        | Answer::PubComp { .. }
        | Answer::Pong
        | Answer::Unexpected => Err(MqttError::OutOfTurn),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_give_host_port_and_tls() {
        let address = |url| Address::new(url, &TlsFiles::default());
        let plain = address("mqtt://127.0.0.1").unwrap();
        assert_eq!((plain.host.as_str(), plain.port), ("127.0.0.1", 1883));
        assert!(plain.tls.is_none());
        let secure = address("mqtts://[::1]:9000").unwrap();
        assert_eq!((secure.host.as_str(), secure.port), ("::1", 9000));
        assert!(secure.tls.is_some());
        assert!(matches!(address("http://x"), Err(MqttError::Url { .. })));
        assert!(matches!(address("nonsense"), Err(MqttError::Url { .. })));
    }

    #[test]
    fn a_missing_ca_file_is_named() {
        let files = TlsFiles {
            ca: Some("/nonexistent/ca.pem".into()),
            ..TlsFiles::default()
        };
        let error = Address::new("mqtts://localhost", &files).unwrap_err();
        assert!(error.to_string().contains("/nonexistent/ca.pem"), "{error}");
        assert!(error.is_permanent());
    }
}
