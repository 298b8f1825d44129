//! How the authority's certificates are made and its files are written, step by step. Holds no state: every change
//! takes the book as it is and answers the book as it will be, once the manifest has been written.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, SystemTime};

use rcgen::{BasicConstraints, CertificateParams, DistinguishedName, DnType, IsCa, KeyPair, KeyUsagePurpose};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivatePkcs8KeyDer};
use weft_proto::name::TrustDomain;

use super::super::files::Folder;
use super::super::issuer::{self, CaKey, Issuer, Limits, Standing, Unusable, random_serial};
use super::super::manifest::{self, Manifest, Signing};
use super::super::vault::{self, Kek, Kind};
use super::{Error, INTERMEDIATE_LIFETIME, ROOT_LIFETIME};
use crate::bundle::{Bundle, Fingerprint};
use crate::x509;

/// Longest certificate file.
const CERTIFICATE_FILE_BYTES_MAX: usize = 32 * 1024;
/// With less left than this a root signs no intermediate any more.
const INTERMEDIATE_LIFETIME_MIN: Duration = Duration::from_secs(86_400);

/// What is on disk, as of the last completed change.
#[derive(Clone)]
pub(super) struct Book {
    pub(super) manifest: Manifest,
    pub(super) roots: BTreeMap<u32, CertificateDer<'static>>,
    pub(super) bundle: Bundle,
}

/// What makes certificates and files; holds no state of its own.
pub(super) struct Workshop<'a> {
    pub(super) folder: &'a Folder,
    pub(super) kek: &'a Kek,
    pub(super) trust_domain: &'a TrustDomain,
    pub(super) limits: Limits,
}

impl Workshop<'_> {
    /// A folder without a manifest gets an empty one before anything else, so that roots without a manifest always
    /// mean that it was lost, and nothing is ever written over them.
    pub(super) fn manifest(&self, folder: &Path) -> Result<Manifest, Error> {
        let path = self.folder.path(manifest::FILE);
        let io = |source| Error::Io { path: path.clone(), source };
        let unreadable = |source| Error::Manifest { path: path.clone(), source };
        let Some(bytes) = self.folder.read(manifest::FILE, manifest::BYTES_MAX).map_err(io)? else {
            if self.folder.names().map_err(io)?.iter().any(|name| name.starts_with("root-")) {
                return Err(Error::ManifestMissing(folder.to_owned()));
            }
            let manifest = Manifest::new(self.trust_domain.to_string());
            self.write(manifest::FILE, &manifest.to_bytes().map_err(unreadable)?)?;
            return Ok(manifest);
        };
        let manifest = Manifest::parse(&bytes).map_err(unreadable)?;
        if manifest.trust_domain != self.trust_domain.as_str() {
            let expected = self.trust_domain.clone();
            return Err(Error::TrustDomain { found: manifest.trust_domain, expected });
        }
        Ok(manifest)
    }

    pub(super) fn book(&self, manifest: Manifest) -> Result<Book, Error> {
        let roots = manifest
            .roots
            .iter()
            .map(|generation| Ok::<_, Error>((*generation, self.read_certificate(&root_name(*generation))?)));
        let roots = roots.collect::<Result<BTreeMap<_, _>, _>>()?;
        self.bind(manifest, roots)
    }

    fn bind(&self, manifest: Manifest, roots: BTreeMap<u32, CertificateDer<'static>>) -> Result<Book, Error> {
        let bundle = Bundle::new(
            self.trust_domain.clone(),
            roots.values().cloned().collect(),
            manifest.sequence,
            manifest.revoked(),
        )?;
        Ok(Book { manifest, roots, bundle })
    }

    /// Makes the manifest true: the last file of every change.
    pub(super) fn commit(
        &self,
        mut manifest: Manifest,
        roots: BTreeMap<u32, CertificateDer<'static>>,
        bundle_changed: bool,
    ) -> Result<Book, Error> {
        if bundle_changed {
            manifest.sequence += 1;
        }
        let book = self.bind(manifest, roots)?;
        let bytes = book.manifest.to_bytes();
        let bytes =
            bytes.map_err(|source| Error::Manifest { path: self.folder.path(manifest::FILE), source })?;
        self.write(manifest::FILE, &bytes)?;
        Ok(book)
    }

    pub(super) fn add_root(&self, book: &Book, now: SystemTime) -> Result<Book, Error> {
        let Book { mut manifest, mut roots, .. } = book.clone();
        let generation = manifest.next_generation;
        let key = generate()?;
        let name = format!("Weft root {generation} of {}", self.trust_domain);
        let params = authority_params(&name, 1, now - self.limits.backdate(), now + ROOT_LIFETIME)?;
        let signed = params.self_signed(&key).map_err(issuer::Error::Sign)?;
        let certificate = CertificateDer::from(signed);
        self.write_pair(&root_name(generation), Kind::Root, &certificate, &key)?;
        manifest.next_generation += 1;
        manifest.roots.insert(generation);
        roots.insert(generation, certificate);
        self.commit(manifest, roots, true)
    }

    /// The only place that opens a root's key.
    pub(super) fn sign_issuer(
        &self,
        book: &Book,
        generation: u32,
        now: SystemTime,
    ) -> Result<(Book, Issuer), Error> {
        let root = book.roots.get(&generation).ok_or(Error::NoSuchRoot(generation))?;
        let root_name = root_name(generation);
        let unusable =
            |source| Error::Unusable { path: self.folder.path(&certificate_name(&root_name)), source };
        let root_end = end_of(root).map_err(|source| unusable(source.into()))?;
        let not_after = (now + INTERMEDIATE_LIFETIME).min(root_end);
        if now + INTERMEDIATE_LIFETIME_MIN > not_after {
            return Err(Error::RootExpires { generation });
        }
        let root_key = self.open_key(&root_name, Kind::Root, root)?;
        let root_signer =
            rcgen::Issuer::from_ca_cert_der(root, root_key).map_err(|_| unusable(Unusable::Name))?;
        let number = book.manifest.issuer.map_or(1, |signing| signing.number + 1);
        let key = generate()?;
        let name = format!("Weft issuer {generation}.{number} of {}", self.trust_domain);
        let params = authority_params(&name, 0, now - self.limits.backdate(), not_after)?;
        let signed = params.signed_by(&key, &root_signer).map_err(issuer::Error::Sign)?;
        let certificate = CertificateDer::from(signed);
        let signing = Signing { generation, number };
        self.write_pair(&issuer_name(signing), Kind::Intermediate, &certificate, &key)?;
        let Book { mut manifest, roots, .. } = book.clone();
        manifest.issuer = Some(signing);
        let issuer = self.issuer(certificate, root.clone(), key, signing)?;
        Ok((self.commit(manifest, roots, false)?, issuer))
    }

    pub(super) fn load_issuer(&self, book: &Book, signing: Signing) -> Result<Issuer, Error> {
        let root = book.roots.get(&signing.generation).ok_or(Error::NoSuchRoot(signing.generation))?;
        let name = issuer_name(signing);
        let certificate = self.read_certificate(&name)?;
        let key = self.open_key(&name, Kind::Intermediate, &certificate)?;
        self.issuer(certificate, root.clone(), key, signing)
    }

    fn issuer(
        &self,
        certificate: CertificateDer<'static>,
        root: CertificateDer<'static>,
        key: CaKey,
        signing: Signing,
    ) -> Result<Issuer, Error> {
        let standing = Standing { above: vec![certificate.clone()], certificate, root };
        Issuer::new(self.trust_domain.clone(), standing, key, self.limits).map_err(|source| Error::Unusable {
            path: self.folder.path(&certificate_name(&issuer_name(signing))),
            source,
        })
    }

    fn write_pair(
        &self,
        name: &str,
        kind: Kind,
        certificate: &CertificateDer<'_>,
        key: &CaKey,
    ) -> Result<(), Error> {
        let path = self.folder.path(&key_name(name));
        let sealed = self.kek.seal(kind, Fingerprint::of(certificate), key.secret_der());
        self.write(&key_name(name), &sealed.map_err(|source| Error::Key { path, source })?)?;
        self.write(&certificate_name(name), pem(certificate).as_bytes())
    }

    fn open_key(&self, name: &str, kind: Kind, certificate: &CertificateDer<'_>) -> Result<CaKey, Error> {
        let name = key_name(name);
        let sealed = self.read(&name, vault::SEALED_BYTES_MAX)?;
        let opened = self.kek.open(kind, Fingerprint::of(certificate), &sealed);
        let path = self.folder.path(&name);
        let secret = opened.map_err(|source| Error::Key { path: path.clone(), source })?;
        // Of type PKCS#8: that is what was sealed.
        let pair = KeyPair::try_from(&PrivatePkcs8KeyDer::from(secret.as_slice()));
        pair.map(CaKey::new).map_err(|_| Error::Key { path, source: vault::Error::Altered })
    }

    fn read_certificate(&self, name: &str) -> Result<CertificateDer<'static>, Error> {
        let name = certificate_name(name);
        let bytes = self.read(&name, CERTIFICATE_FILE_BYTES_MAX)?;
        CertificateDer::from_pem_slice(&bytes).map_err(|_| Error::Pem { path: self.folder.path(&name) })
    }

    fn read(&self, name: &str, bytes_max: usize) -> Result<Vec<u8>, Error> {
        let path = self.folder.path(name);
        let bytes = self.folder.read(name, bytes_max);
        bytes.map_err(|source| Error::Io { path: path.clone(), source })?.ok_or(Error::Missing(path))
    }

    fn write(&self, name: &str, bytes: &[u8]) -> Result<(), Error> {
        self.folder.write(name, bytes).map_err(|source| Error::Io { path: self.folder.path(name), source })
    }

    /// Deletes what the manifest does not name: the past, and changes that were cut off. Failing that it does no harm.
    pub(super) fn clean(&self, manifest: &Manifest) {
        let mut kept: Vec<String> = manifest.roots.iter().map(|generation| root_name(*generation)).collect();
        kept.extend(manifest.issuer.map(issuer_name));
        let kept: Vec<String> =
            kept.iter().flat_map(|name| [key_name(name), certificate_name(name)]).collect();
        let ours = |name: &String| {
            (name.starts_with("root-") || name.starts_with("issuer-"))
                && (name.ends_with(".crt") || name.ends_with(".key"))
                || name.starts_with('.') && name.ends_with(".tmp")
        };
        for name in self.folder.names().unwrap_or_default() {
            if ours(&name)
                && !kept.contains(&name)
                && let Err(error) = self.folder.remove(&name)
            {
                tracing::warn!(file = %name, error = %error, "file of the past not deleted");
            }
        }
    }
}

fn generate() -> Result<CaKey, issuer::Error> {
    KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).map(CaKey::new).map_err(issuer::Error::Sign)
}

/// A certificate that signs certificates and does nothing else. No extended key usage: on an issuer it would bind
/// everything below.
pub(in crate::ca) fn authority_params(
    name: &str,
    path_length: u8,
    not_before: SystemTime,
    not_after: SystemTime,
) -> Result<CertificateParams, Error> {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    // A common name has at most 64 characters.
    let name: String = name.chars().take(64).collect();
    params.distinguished_name.push(DnType::CommonName, name);
    // Two authorities may have the same common name, as after a fresh start; the serial number tells them apart.
    let serial = random_serial()?;
    params
        .distinguished_name
        .push(DnType::CustomDnType(vec![2, 5, 4, 5]), crate::hex::encode(serial.as_ref()));
    params.serial_number = Some(serial);
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(path_length));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.use_authority_key_identifier_extension = true;
    params.not_before = not_before.into();
    params.not_after = not_after.into();
    Ok(params)
}

pub(super) fn end_of(certificate: &CertificateDer<'_>) -> Result<SystemTime, x509::Error> {
    x509::parse(certificate).map(|certificate| x509::time(certificate.validity().not_after))
}

pub(super) fn root_name(generation: u32) -> String {
    format!("root-{generation}")
}

fn issuer_name(Signing { generation, number }: Signing) -> String {
    format!("issuer-{generation}-{number}")
}

pub(super) fn certificate_name(name: &str) -> String {
    format!("{name}.crt")
}

fn key_name(name: &str) -> String {
    format!("{name}.key")
}

pub(in crate::ca) fn pem(certificate: &CertificateDer<'_>) -> String {
    use base64::Engine as _;
    let body = base64::engine::general_purpose::STANDARD.encode(certificate);
    let mut text = String::from("-----BEGIN CERTIFICATE-----\n");
    for line in body.as_bytes().chunks(64) {
        text.extend(line.iter().map(|byte| char::from(*byte)));
        text.push('\n');
    }
    text + "-----END CERTIFICATE-----\n"
}
