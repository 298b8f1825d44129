//! A certificate, its key and the roots, in PEM.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use aws_lc_rs::digest;
use rustls_pki_types::CertificateDer;
use weft_certs::bundle::{self, Bundle, Bundles};
use weft_certs::csr::Key;
use weft_certs::pem;
use weft_certs::tls::Identity;
use weft_certs::verifier::{self, Role};
use weft_proto::name::TrustDomain;
use zeroize::Zeroizing;

use super::{Error, read_limited};
use crate::bootstrap::IdentityFiles;

/// Largest file, in bytes.
const FILE_BYTES_MAX: u64 = 256 << 10;

/// What the files hold.
pub(super) struct Files {
    paths: IdentityFiles,
    certificate: Vec<u8>,
    key: Zeroizing<Vec<u8>>,
    roots: Vec<u8>,
}

/// An identity that holds, and the roots by which it does.
pub(super) struct Loaded {
    pub(super) identity: Identity,
    pub(super) bundle: Bundle,
}

pub(super) fn read(paths: &IdentityFiles) -> Result<Files, Error> {
    Ok(Files {
        certificate: read_limited(&paths.certificate, FILE_BYTES_MAX)?,
        key: Zeroizing::new(read_limited(&paths.key, FILE_BYTES_MAX)?),
        roots: read_limited(&paths.roots, FILE_BYTES_MAX)?,
        paths: paths.clone(),
    })
}

impl Files {
    pub(super) fn digest(&self) -> [u8; 32] {
        let mut context = digest::Context::new(&digest::SHA256);
        for file in [&self.certificate, &*self.key, &self.roots] {
            context.update(&(file.len() as u64).to_be_bytes());
            context.update(file);
        }
        let mut bytes = [0; 32];
        bytes.copy_from_slice(context.finish().as_ref());
        bytes
    }
}

/// Takes the files apart and tries the identity out: whoever trusts the roots must believe it.
pub(super) fn load(files: &Files, held: &Bundles, now: SystemTime) -> Result<Loaded, Error> {
    let chain = certificates(&files.certificate, &files.paths.certificate)?;
    let key =
        Key::from_pem(&files.key).map_err(|source| Error::Key { path: files.paths.key.clone(), source })?;
    let identity = Identity::new(chain, key)?;
    let domain = identity.leaf().spiffe_id.trust_domain().clone();
    let roots = certificates(&files.roots, &files.paths.roots)?;
    let bundle = numbered(domain, roots, held, now)?;
    let alone = Bundles::new([bundle.clone()])?;
    if let [leaf, above @ ..] = identity.chain() {
        for role in [Role::Server, Role::Client] {
            verifier::verify(leaf, above, &alone, role, now)?;
        }
    }
    Ok(Loaded { identity, bundle })
}

fn certificates(text: &[u8], path: &Path) -> Result<Vec<CertificateDer<'static>>, Error> {
    let path = || PathBuf::from(path);
    let text = std::str::from_utf8(text).map_err(|_| Error::NotText { path: path() })?;
    pem::certificates(text).map_err(|source| Error::Certificates { path: path(), source })
}

/// Roots as a bundle. Files do not count their changes, and nothing else here survives a restart: the time counts, and
/// always upwards. The same roots as those that are held are the same bundle, whenever they are read.
pub(super) fn numbered(
    domain: TrustDomain,
    roots: Vec<CertificateDer<'static>>,
    held: &Bundles,
    now: SystemTime,
) -> Result<Bundle, bundle::Error> {
    let now = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or(Duration::ZERO).as_secs();
    let sequence = match held.get(&domain) {
        Some(held) if held.roots() == roots => return Ok(Bundle::clone(held)),
        Some(held) => now.max(held.sequence() + 1),
        None => now,
    };
    Bundle::new(domain, roots, sequence, BTreeSet::new())
}
