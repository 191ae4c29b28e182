//! A certificate authority for one test, a server's and a client's certificate, by the `openssl`
//! command.

use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

use crate::process::temp_dir;

/// A certificate and its key.
#[derive(Debug)]
pub struct Identity {
    /// Certificate, PEM.
    pub cert: PathBuf,
    /// Key, PKCS#8 PEM.
    pub key: PathBuf,
    /// Both in one file, as Kafka wants them.
    pub bundle: PathBuf,
}

/// The files.
#[derive(Debug)]
pub struct Certs {
    /// The authority's certificate, PEM.
    pub ca: PathBuf,
    /// For `localhost` and 127.0.0.1.
    pub server: Identity,
    /// For the gateway.
    pub client: Identity,
    /// A client certificate of an authority that nobody trusts.
    pub stranger: Identity,
    _dir: TempDir,
}

impl Certs {
    /// Makes them all.
    ///
    /// # Panics
    /// If `openssl` is missing or fails.
    #[must_use]
    pub fn generate() -> Self {
        let dir = temp_dir();
        let path = dir.path();
        authority(path, "ca");
        authority(path, "other-ca");
        Self {
            ca: path.join("ca.pem"),
            server: identity(path, "ca", "localhost"),
            client: identity(path, "ca", "gateway"),
            stranger: identity(path, "other-ca", "stranger"),
            _dir: dir,
        }
    }
}

/// Extensions by the name of the certificate's use.
const CONFIG: &str = "[req]\ndistinguished_name=dn\nprompt=no\n\
    [dn]\nCN=unused\n\
    [ca]\nbasicConstraints=critical,CA:TRUE\nkeyUsage=critical,keyCertSign,cRLSign\n\
    subjectKeyIdentifier=hash\n\
    [leaf]\nbasicConstraints=critical,CA:FALSE\nkeyUsage=critical,digitalSignature\n\
    extendedKeyUsage=serverAuth,clientAuth\nsubjectAltName=DNS:localhost,IP:127.0.0.1\n";

fn authority(dir: &Path, name: &str) {
    request(dir, name, "ca", &[]);
}

fn identity(dir: &Path, authority: &str, name: &str) -> Identity {
    let ca = format!("{authority}.pem");
    let ca_key = format!("{authority}.key");
    request(dir, name, "leaf", &["-CA", &ca, "-CAkey", &ca_key]);
    let files = Identity {
        cert: dir.join(format!("{name}.pem")),
        key: dir.join(format!("{name}.key")),
        bundle: dir.join(format!("{name}-bundle.pem")),
    };
    let read = |path| std::fs::read_to_string(path).expect("openssl has written it");
    let bundle = read(&files.key) + &read(&files.cert);
    std::fs::write(&files.bundle, bundle).expect("the directory is writable");
    files
}

fn request(dir: &Path, name: &str, extensions: &str, signer: &[&str]) {
    std::fs::write(dir.join("openssl.cnf"), CONFIG).expect("the directory is writable");
    let output = Command::new("openssl")
        .current_dir(dir)
        .args([
            "req",
            "-x509",
            "-config",
            "openssl.cnf",
            "-extensions",
            extensions,
        ])
        .args([
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:prime256v1",
            "-noenc",
        ])
        .args(["-days", "30", "-subj", &format!("/CN={name}")])
        .args([
            "-keyout",
            &format!("{name}.key"),
            "-out",
            &format!("{name}.pem"),
        ])
        .args(signer)
        .output()
        .unwrap_or_else(|e| panic!("openssl does not start ({e}): make setup"));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "openssl for {name}: {said}");
}
