//! Connects to an MQTT broker as a client of its own, and leaves.

use std::io::{self, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::path::{Path, PathBuf};

use bytes::BytesMut;
#[cfg(feature = "tls")]
use native_tls::{Certificate, Identity, TlsConnector};
use rumqttc::mqttbytes::v4;
use rumqttc::v5::mqttbytes::v5;

use super::TIMEOUT;
use crate::config::{Mqtt, MqttProtocol, MqttTls};

/// The broker did not take the connection.
#[derive(Debug, thiserror::Error)]
pub enum MqttProbeError {
    /// No TCP connection.
    #[error("cannot connect to {address}")]
    Connect {
        /// Host and port.
        address: String,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// A password or TLS file cannot be read.
    #[error("cannot read {}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// A TLS file has no good content.
    #[cfg(feature = "tls")]
    #[error("the certificates or the key cannot be used")]
    Certificate(#[source] native_tls::Error),
    /// No TLS session.
    #[cfg(feature = "tls")]
    #[error("TLS handshake failed: {reason}")]
    Tls {
        /// What OpenSSL said.
        reason: String,
    },
    /// Our own CONNECT cannot be written.
    #[error("CONNECT cannot be written: {reason}")]
    Encode {
        /// What is wrong with it.
        reason: String,
    },
    /// The broker closed the connection or was silent.
    #[error("the broker did not answer CONNECT")]
    NoAnswer(#[source] io::Error),
    /// The broker sent something else.
    #[error("what answered is not an MQTT broker (first byte {first:#04x})")]
    NotMqtt {
        /// First byte it sent.
        first: u8,
    },
    /// CONNACK with an error.
    #[error("the broker refused the connection: {} ({code:#04x})", meaning(*code))]
    Refused {
        /// Its return or reason code.
        code: u8,
    },
}

trait Duplex: Read + Write {}
impl<T: Read + Write> Duplex for T {}

/// Packet type CONNACK in the fixed header.
const CONNACK: u8 = 0x20;

/// What a code in CONNACK means, by MQTT 3.1.1 table 3.1 and MQTT 5.0 table 3-1.
fn meaning(code: u8) -> &'static str {
    match code {
        0x01 | 0x84 => "protocol version not supported",
        0x02 | 0x85 => "client id not accepted",
        0x03 | 0x88 => "server unavailable",
        0x04 | 0x86 => "bad user name or password",
        0x05 | 0x87 => "not authorised",
        0x89 => "server busy",
        0x8A => "banned",
        0x8C => "bad authentication method",
        _ => "see the codes of CONNACK",
    }
}

/// Connects, reads the broker's answer, and disconnects.
pub(super) fn probe(config: &Mqtt) -> Result<String, MqttProbeError> {
    let address = format!("{}:{}", config.host, config.port);
    let tcp = connect(config).map_err(|source| MqttProbeError::Connect {
        address: address.clone(),
        source,
    })?;
    let mut stream = encrypted(config, tcp)?;
    let connect = connect_packet(config)?;
    stream
        .write_all(&connect)
        .map_err(MqttProbeError::NoAnswer)?;
    let code = connack(&mut stream)?;
    if code != 0 {
        return Err(MqttProbeError::Refused { code });
    }
    // DISCONNECT, the same in both versions; a broker that has gone by now has answered already.
    let _ = stream.write_all(&[0xE0, 0]);
    Ok(format!("{address} takes the connection"))
}

fn connect(config: &Mqtt) -> io::Result<TcpStream> {
    let mut failure = io::Error::from(io::ErrorKind::NotFound);
    for address in (config.host.as_str(), config.port).to_socket_addrs()? {
        match TcpStream::connect_timeout(&address, TIMEOUT) {
            Ok(stream) => {
                stream.set_read_timeout(Some(TIMEOUT))?;
                stream.set_write_timeout(Some(TIMEOUT))?;
                return Ok(stream);
            }
            Err(error) => failure = error,
        }
    }
    Err(failure)
}

fn encrypted(config: &Mqtt, tcp: TcpStream) -> Result<Box<dyn Duplex>, MqttProbeError> {
    let Some(tls) = &config.tls else {
        return Ok(Box::new(tcp));
    };
    secured(&config.host, tls, tcp)
}

#[cfg(not(feature = "tls"))]
fn secured(host: &str, _: &MqttTls, _: TcpStream) -> Result<Box<dyn Duplex>, MqttProbeError> {
    unreachable!("the configuration refuses TLS to {host}")
}

#[cfg(feature = "tls")]
fn secured(host: &str, tls: &MqttTls, tcp: TcpStream) -> Result<Box<dyn Duplex>, MqttProbeError> {
    let stream = connector(tls)?
        .connect(host, tcp)
        .map_err(|error| MqttProbeError::Tls {
            reason: error.to_string(),
        })?;
    Ok(Box::new(stream))
}

#[cfg(feature = "tls")]
fn connector(tls: &MqttTls) -> Result<TlsConnector, MqttProbeError> {
    let mut builder = TlsConnector::builder();
    if let Some(path) = &tls.ca_file {
        // With a CA of its own, a plant's broker is not vouched for by any public one.
        builder.disable_built_in_roots(true);
        let stack = Certificate::stack_from_pem(&read(path)?);
        for certificate in stack.map_err(MqttProbeError::Certificate)? {
            builder.add_root_certificate(certificate);
        }
    }
    if let (Some(cert), Some(key)) = (&tls.cert_file, &tls.key_file) {
        let identity = Identity::from_pkcs8(&read(cert)?, &read(key)?);
        builder.identity(identity.map_err(MqttProbeError::Certificate)?);
    }
    builder.build().map_err(MqttProbeError::Certificate)
}

fn read(path: &Path) -> Result<Vec<u8>, MqttProbeError> {
    std::fs::read(path).map_err(|source| MqttProbeError::File {
        path: path.to_owned(),
        source,
    })
}

/// The user name and password, if there are any.
fn login(config: &Mqtt) -> Result<Option<(String, String)>, MqttProbeError> {
    let Some(username) = &config.username else {
        return Ok(None);
    };
    let password = match &config.password_file {
        Some(path) => String::from_utf8_lossy(&read(path)?).into_owned(),
        None => String::new(),
    };
    let line = password.strip_suffix('\n').unwrap_or(&password);
    let line = line.strip_suffix('\r').unwrap_or(line);
    Ok(Some((username.clone(), line.to_owned())))
}

/// CONNECT with a clean session and a client id that no gateway has.
fn connect_packet(config: &Mqtt) -> Result<BytesMut, MqttProbeError> {
    let client_id = format!("{}-check-{}", config.client_id, std::process::id());
    let login = login(config)?;
    let mut packet = BytesMut::new();
    let written = match config.protocol {
        MqttProtocol::V311 => {
            let mut connect = v4::Connect::new(client_id);
            connect.login = login.map(|(name, password)| v4::Login::new(name, password));
            connect
                .write(&mut packet)
                .map_err(|error| error.to_string())
        }
        MqttProtocol::V5 => {
            let connect = v5::Connect {
                keep_alive: 10,
                client_id,
                clean_start: true,
                properties: None,
            };
            let login = login.map(|(name, password)| v5::Login::new(name, password));
            connect
                .write(&None, &login, &mut packet)
                .map_err(|error| error.to_string())
        }
    };
    match written {
        Ok(_) => Ok(packet),
        Err(reason) => Err(MqttProbeError::Encode { reason }),
    }
}

/// Reads CONNACK as far as its code, which both versions have in the same place.
fn connack(stream: &mut impl Read) -> Result<u8, MqttProbeError> {
    let mut byte = || -> Result<u8, MqttProbeError> {
        let mut byte = [0];
        stream
            .read_exact(&mut byte)
            .map_err(MqttProbeError::NoAnswer)?;
        Ok(byte[0])
    };
    let first = byte()?;
    if first != CONNACK {
        return Err(MqttProbeError::NotMqtt { first });
    }
    // The remaining length has at most four bytes; all but the last have the high bit.
    for _ in 0..4 {
        if byte()? & 0x80 == 0 {
            break;
        }
    }
    let _session_present = byte()?;
    byte()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_code_of_connack_is_found_in_both_versions() {
        let answers: [(&[u8], u8); 3] = [
            (&[0x20, 2, 0, 5], 5),
            (&[0x20, 3, 0, 0x87, 0], 0x87),
            (&[0x20, 0x83, 0x01, 0, 0x86, 0x80, 0x01], 0x86),
        ];
        for (mut answer, code) in answers {
            assert_eq!(connack(&mut answer).expect("answer"), code);
        }
    }

    #[test]
    fn an_answer_that_is_not_mqtt_or_is_cut_off_is_refused() {
        assert!(matches!(
            connack(&mut &b"HTTP/1.1"[..]),
            Err(MqttProbeError::NotMqtt { first: b'H' })
        ));
        assert!(matches!(
            connack(&mut &[0x20_u8, 2][..]),
            Err(MqttProbeError::NoAnswer(_))
        ));
    }
}
