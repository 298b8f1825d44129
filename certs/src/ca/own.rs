//! The mesh's own authority: roots of ten years that sign nothing but intermediates, and one intermediate of at most a
//! year that signs the leaves.
//!
//! The folder, which one process at a time works in:
//!
//! ```text
//! manifest.json          which of the other files count; written last, so that a crash leaves the former state
//! root-<generation>.crt  a root (PEM); there may be several while roots are exchanged
//! root-<generation>.key  its key, sealed; opened only to sign an intermediate
//! issuer-<g>-<n>.crt     the intermediate in force (PEM): the n-th, signed by the root of generation g
//! issuer-<g>-<n>.key     its key, sealed
//! lock                   held by the process that works here
//! ```
//!
//! A root is exchanged in four steps, and what lies between them is the caller's to watch: [`Ca::add_root`], wait
//! until everyone has the bundle, [`Ca::switch_issuer`], wait until everyone has a new leaf, [`Ca::drop_root`].
//! The calls that change something write files and block; [`Ca::issue`] does not.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use rustls_pki_types::CertificateDer;
use weft_proto::name::{SpiffeId, TrustDomain};

use self::workshop::{Book, Workshop, certificate_name, end_of, root_name};
use super::files::Folder;
use super::issuer::{self, Issued, Issuer, Limits, Unusable};
use super::manifest;
use super::vault::{self, Kek};
use crate::bundle::{self, Bundle, Fingerprint};
use crate::svid::Serial;
use crate::x509;

pub(super) use self::workshop::{authority_params, pem};

mod workshop;

/// How long a root lives.
pub const ROOT_LIFETIME: Duration = Duration::from_secs(3650 * 86_400);
/// How long an intermediate lives; it is renewed at half of that.
pub const INTERMEDIATE_LIFETIME: Duration = Duration::from_secs(365 * 86_400);

/// Why the authority did not do it.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("another process works in the authority's folder {0}")]
    InUse(PathBuf),
    #[error("file {path} of the authority cannot be read or written")]
    Io {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("the authority's folder {0} holds roots, but no {file}", file = manifest::FILE)]
    ManifestMissing(PathBuf),
    #[error("{path} is not a manifest that can be trusted")]
    Manifest {
        path: PathBuf,
        #[source]
        source: manifest::Error,
    },
    #[error("the authority is for the trust domain {found}; expected {expected}")]
    TrustDomain { found: String, expected: TrustDomain },
    #[error("file {0} of the authority is missing")]
    Missing(PathBuf),
    #[error("file {path} does not hold a certificate")]
    Pem { path: PathBuf },
    #[error("key {path} cannot be opened")]
    Key {
        path: PathBuf,
        #[source]
        source: vault::Error,
    },
    #[error("certificate {path} and its key cannot sign")]
    Unusable {
        path: PathBuf,
        #[source]
        source: Unusable,
    },
    #[error("the authority's roots are not a trust bundle")]
    Bundle(#[from] bundle::Error),
    #[error("a certificate of the authority could not be signed")]
    Sign(#[from] issuer::Error),
    #[error("there is no root of generation {0}")]
    NoSuchRoot(u32),
    #[error("the root of generation {0} signs at present; switch to another first")]
    RootInUse(u32),
    #[error("root {generation} has ended or is about to; it cannot sign any more")]
    RootExpires { generation: u32 },
}

/// A root of the authority.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Root {
    pub generation: u32,
    pub certificate: CertificateDer<'static>,
    pub fingerprint: Fingerprint,
    pub not_before: SystemTime,
    pub not_after: SystemTime,
    /// Whether the issuer in force was signed by it.
    pub current: bool,
}

/// The authority. Share it as an `Arc`.
pub struct Ca {
    folder: Folder,
    kek: Kek,
    trust_domain: TrustDomain,
    limits: Limits,
    state: Mutex<Book>,
    issuer: ArcSwap<Issuer>,
}

impl Ca {
    /// Opens the authority, or founds it with its first root and intermediate. A change that a crash cut off is as if
    /// it had never been begun. Renews the intermediate if it is due.
    pub fn open_or_create(
        path: &Path,
        kek: Kek,
        trust_domain: TrustDomain,
        limits: Limits,
        now: SystemTime,
    ) -> Result<Self, Error> {
        let io = |source| Error::Io { path: path.to_owned(), source };
        let folder = Folder::open(path).map_err(io)?.ok_or_else(|| Error::InUse(path.to_owned()))?;
        let workshop = Workshop { folder: &folder, kek: &kek, trust_domain: &trust_domain, limits };
        let manifest = workshop.manifest(path)?;
        workshop.clean(&manifest);
        let mut book = workshop.book(manifest)?;
        if book.roots.is_empty() {
            book = workshop.add_root(&book, now)?;
        }
        let issuer = match book.manifest.issuer {
            Some(signing) => workshop.load_issuer(&book, signing)?,
            None => {
                let generation = *book.roots.keys().next_back().ok_or(Error::NoSuchRoot(1))?;
                let (next, issuer) = workshop.sign_issuer(&book, generation, now)?;
                book = next;
                issuer
            }
        };
        let ca = Self {
            issuer: ArcSwap::from_pointee(issuer),
            state: Mutex::new(book),
            folder,
            kek,
            trust_domain,
            limits,
        };
        // The root may well be out of reach: with a good intermediate there is time.
        if let Err(error) = ca.maintain(now) {
            if ca.issuer.load().not_after() <= now {
                return Err(error);
            }
            tracing::error!(error = %error, "intermediate not renewed");
        }
        Ok(ca)
    }

    /// Signs a leaf: see [`Issuer::issue`].
    pub fn issue(
        &self,
        csr: &[u8],
        id: &SpiffeId,
        dns_names: &[String],
        lifetime: Duration,
        now: SystemTime,
    ) -> Result<Issued, issuer::Error> {
        self.issuer.load().issue(csr, id, dns_names, lifetime, now)
    }

    pub fn issuer(&self) -> Arc<Issuer> {
        self.issuer.load_full()
    }

    pub fn trust_domain(&self) -> &TrustDomain {
        &self.trust_domain
    }

    /// All roots and what is revoked; the sequence grows with each change of it and survives restarts.
    pub fn bundle(&self) -> Bundle {
        self.book().bundle.clone()
    }

    /// Renews the intermediate if half of its life is over, and forgets revocations that no longer matter. Says whether
    /// anything changed. To be called every hour or so; on failure everything stays as it was.
    pub fn maintain(&self, now: SystemTime) -> Result<bool, Error> {
        let mut book = self.book();
        let mut next = book.clone();
        let mut changed = false;
        if next.manifest.forget_ended(now) {
            next = self.workshop().commit(next.manifest, next.roots, true)?;
            *book = next.clone();
            changed = true;
        }
        let issuer = self.issuer.load();
        let life = issuer.not_after().duration_since(issuer.not_before()).unwrap_or(Duration::ZERO);
        if let Some(signing) = next.manifest.issuer
            && now >= issuer.not_before() + life / 2
        {
            changed |= self.renew(&mut book, signing.generation, now)?;
        }
        Ok(changed)
    }

    /// Step one of exchanging a root: makes another root, trusted from now on and not yet signing. Says its generation.
    pub fn add_root(&self, now: SystemTime) -> Result<u32, Error> {
        let mut book = self.book();
        let generation = book.manifest.next_generation;
        *book = self.workshop().add_root(&book, now)?;
        Ok(generation)
    }

    /// Step two: leaves are signed under this root from now on.
    pub fn switch_issuer(&self, generation: u32, now: SystemTime) -> Result<(), Error> {
        let mut book = self.book();
        if !book.roots.contains_key(&generation) {
            return Err(Error::NoSuchRoot(generation));
        }
        if book.manifest.issuer.is_some_and(|signing| signing.generation == generation) {
            return Ok(());
        }
        self.install(&mut book, generation, now)
    }

    /// Step three: the root is no longer trusted, and its key is deleted.
    pub fn drop_root(&self, generation: u32) -> Result<(), Error> {
        let mut book = self.book();
        if !book.roots.contains_key(&generation) {
            return Err(Error::NoSuchRoot(generation));
        }
        if book.manifest.issuer.is_some_and(|signing| signing.generation == generation) {
            return Err(Error::RootInUse(generation));
        }
        let Book { mut manifest, mut roots, .. } = book.clone();
        manifest.roots.remove(&generation);
        roots.remove(&generation);
        let workshop = self.workshop();
        *book = workshop.commit(manifest, roots, true)?;
        workshop.clean(&book.manifest);
        Ok(())
    }

    /// No longer honours a certificate; `not_after` is its end, after which the entry is forgotten.
    pub fn revoke(&self, serial: &Serial, not_after: SystemTime) -> Result<(), Error> {
        let mut book = self.book();
        let Book { mut manifest, roots, .. } = book.clone();
        if manifest.revoke(serial, not_after) {
            *book = self.workshop().commit(manifest, roots, true)?;
        }
        Ok(())
    }

    pub fn roots(&self) -> Result<Vec<Root>, Error> {
        let book = self.book();
        let describe = |(generation, certificate): (&u32, &CertificateDer<'static>)| {
            let path = self.folder.path(&certificate_name(&root_name(*generation)));
            let parsed =
                x509::parse(certificate).map_err(|error| Error::Unusable { path, source: error.into() })?;
            Ok(Root {
                generation: *generation,
                certificate: certificate.clone(),
                fingerprint: Fingerprint::of(certificate),
                not_before: x509::time(parsed.validity().not_before),
                not_after: x509::time(parsed.validity().not_after),
                current: book.manifest.issuer.is_some_and(|signing| signing.generation == *generation),
            })
        };
        book.roots.iter().map(describe).collect()
    }

    /// The generation of the root that the issuer in force was signed by.
    pub fn current_generation(&self) -> Option<u32> {
        self.book().manifest.issuer.map(|signing| signing.generation)
    }

    /// A root that ends before a renewed intermediate would gain anything is left to its end: roots are exchanged on
    /// purpose only.
    fn renew(&self, book: &mut Book, generation: u32, now: SystemTime) -> Result<bool, Error> {
        let root_end = book.roots.get(&generation).map(|root| end_of(root)).transpose();
        let root_end = root_end.map_err(|source| self.unusable(generation, source))?;
        if root_end.is_some_and(|end| end <= self.issuer.load().not_after()) {
            tracing::warn!(generation, "root ends soon; add another and switch to it");
            return Ok(false);
        }
        self.install(book, generation, now)?;
        Ok(true)
    }

    fn install(&self, book: &mut Book, generation: u32, now: SystemTime) -> Result<(), Error> {
        let workshop = self.workshop();
        let (next, issuer) = workshop.sign_issuer(book, generation, now)?;
        *book = next;
        self.issuer.store(Arc::new(issuer));
        workshop.clean(&book.manifest);
        Ok(())
    }

    fn unusable(&self, generation: u32, source: x509::Error) -> Error {
        let path = self.folder.path(&certificate_name(&root_name(generation)));
        Error::Unusable { path, source: source.into() }
    }

    fn workshop(&self) -> Workshop<'_> {
        Workshop {
            folder: &self.folder,
            kek: &self.kek,
            trust_domain: &self.trust_domain,
            limits: self.limits,
        }
    }

    fn book(&self) -> MutexGuard<'_, Book> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Ca {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ca")
            .field("bundle", &self.bundle())
            .field("issuer", &self.issuer())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
