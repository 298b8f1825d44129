//! The certificate of a gateway's listener: from files, taken anew when they change. What is wrong at the start is an
//! error; what turns wrong later is told and changes nothing.

use std::fmt;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use rustls::ServerConfig;
use rustls::server::{ClientHello, NoServerSessionStorage, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls_pki_types::PrivateKeyDer;
use rustls_pki_types::pem::PemObject as _;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;
use weft_certs::bundle::TrustStore;
use weft_certs::verifier::{ClientVerifier, Expect};
use weft_certs::{pem, tls};
use zeroize::Zeroizing;

use super::settings::TlsFiles;

/// Between looks at the files.
const LOOK_EVERY: Duration = Duration::from_secs(2);
/// Largest file, in bytes.
const FILE_BYTES_MAX: u64 = 256 << 10;

/// Why files are no certificate.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{path} cannot be read")]
    Read {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("{path} is longer than {FILE_BYTES_MAX} bytes")]
    TooLong { path: PathBuf },
    #[error("the certificates in {path}")]
    Certificates {
        path: PathBuf,
        #[source]
        source: pem::Error,
    },
    #[error("{path} holds no private key in PEM that can be used")]
    Key { path: PathBuf },
    #[error("the key in {path} is not that of the certificate")]
    Mismatch { path: PathBuf },
}

/// The certificate in force. Clones are the same.
#[derive(Clone)]
pub struct Certificate(Arc<ArcSwap<CertifiedKey>>);

impl fmt::Debug for Certificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Certificate")
    }
}

impl ResolvesServerCert for Certificate {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.0.load_full())
    }
}

/// What the files hold.
#[derive(PartialEq)]
struct Files {
    certificate: String,
    key: Zeroizing<String>,
}

impl Certificate {
    /// Reads the files once.
    pub fn open(files: &TlsFiles) -> Result<Self, Error> {
        Ok(Self(Arc::new(ArcSwap::from_pointee(certified(&Files::read(files)?, files)?))))
    }

    /// A configuration of TLS 1.3. Clients are asked for a certificate where there is somebody to believe one by, and may
    /// come without.
    pub fn config(&self, clients: Option<&TrustStore>, alpn: &[&[u8]]) -> ServerConfig {
        let builder = ServerConfig::builder_with_provider(tls::provider())
            .with_protocol_versions(&[&rustls::version::TLS13])
            .expect("the provider has cipher suites and groups for TLS 1.3");
        let builder = match clients {
            Some(trust) => {
                let verifier = ClientVerifier::new(trust.clone(), Expect::AnyInMesh, false);
                builder.with_client_cert_verifier(Arc::new(verifier))
            }
            None => builder.with_no_client_auth(),
        };
        let mut config = builder.with_cert_resolver(Arc::new(self.clone()));
        // A resumed session would skip the client's certificate.
        config.send_tls13_tickets = 0;
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.max_early_data_size = 0;
        config.alpn_protocols = alpn.iter().map(|protocol| protocol.to_vec()).collect();
        config
    }

    /// Keeps up with the files.
    pub async fn keep(self, files: TlsFiles, stop: CancellationToken) {
        let mut looks = tokio::time::interval(LOOK_EVERY);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut seen = None;
        let mut reported = None;
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                _ = looks.tick() => {}
            }
            let look = {
                let files = files.clone();
                tokio::task::spawn_blocking(move || Files::read(&files)).await
            };
            let taken = match look {
                Ok(Ok(found)) if seen.as_ref() == Some(&found) => continue,
                Ok(Ok(found)) => certified(&found, &files).map(|certified| (found, certified)),
                Ok(Err(error)) => Err(error),
                Err(_) => return,
            };
            match taken {
                Ok((found, certified)) => {
                    if seen.is_some() || certified.cert != self.0.load().cert {
                        tracing::info!(listener = "gateway", "the certificate was taken from its files");
                    }
                    self.0.store(Arc::new(certified));
                    (seen, reported) = (Some(found), None);
                }
                // Certificate and key change one after the other: what does not fit now may in a moment.
                Err(error) => {
                    let text = error.to_string();
                    if reported.as_ref() != Some(&text) {
                        tracing::error!(
                            listener = "gateway",
                            error = text,
                            "the last good certificate stays in force"
                        );
                    }
                    reported = Some(text);
                }
            }
        }
    }
}

impl Files {
    fn read(files: &TlsFiles) -> Result<Self, Error> {
        Ok(Self { certificate: read(&files.certificate)?.to_string(), key: read(&files.key)? })
    }
}

fn read(path: &Path) -> Result<Zeroizing<String>, Error> {
    let mut text = Zeroizing::new(String::new());
    let read =
        std::fs::File::open(path).and_then(|file| file.take(FILE_BYTES_MAX + 1).read_to_string(&mut text));
    read.map_err(|source| Error::Read { path: path.to_owned(), source })?;
    match text.len() as u64 > FILE_BYTES_MAX {
        true => Err(Error::TooLong { path: path.to_owned() }),
        false => Ok(text),
    }
}

fn certified(found: &Files, files: &TlsFiles) -> Result<CertifiedKey, Error> {
    let chain = pem::certificates(&found.certificate)
        .map_err(|source| Error::Certificates { path: files.certificate.clone(), source })?;
    let bad = || Error::Key { path: files.key.clone() };
    let key = PrivateKeyDer::from_pem_slice(found.key.as_bytes()).map_err(|_| bad())?;
    let key = tls::provider().key_provider.load_private_key(key).map_err(|_| bad())?;
    let certified = CertifiedKey::new(chain, key);
    certified.keys_match().map_err(|_| Error::Mismatch { path: files.key.clone() })?;
    Ok(certified)
}
