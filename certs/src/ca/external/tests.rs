use std::fs;
use std::os::unix::fs::symlink;

use proptest::prelude::*;
use rcgen::KeyUsagePurpose;
use tempfile::TempDir;

use super::super::own::pem;
use super::*;
use crate::testing::{Authority, DAY, Mesh, domain, id, now, openssl};

const ID: &str = "spiffe://mesh.test/ns/tools/sa/files";

fn pem_key(der: &[u8]) -> String {
    use base64::Engine as _;
    let body = base64::engine::general_purpose::STANDARD.encode(der);
    format!("-----BEGIN PRIVATE KEY-----\n{body}\n-----END PRIVATE KEY-----\n")
}

fn files(issuer: &Authority, root: &Authority) -> Files {
    Files {
        certificate: pem(&issuer.der).into_bytes(),
        key: Zeroizing::new(pem_key(issuer.key_der()).into_bytes()),
        roots: pem(&root.der).into_bytes(),
    }
}

fn loaded(files: &Files) -> Result<Loaded, Error> {
    load(files, &domain("mesh.test"), Limits::default(), now())
}

fn believed(issuer: &Issuer, bundle: Bundle) {
    let request = Request::generate().unwrap();
    let issued = issuer.issue(request.der(), &id(ID), &[], DAY, now()).unwrap();
    let bundles = Bundles::new([bundle]).unwrap();
    verifier::verify(&issued.chain[0], &issued.chain[1..], &bundles, Role::Client, now()).unwrap();
}

#[test]
fn a_good_issuer_signs_what_its_roots_vouch_for() {
    let mesh = Mesh::new("mesh.test");
    let loaded = loaded(&files(&mesh.intermediate, &mesh.root)).unwrap();
    believed(&loaded.issuer, loaded.bundle);
}

#[test]
fn an_issuer_that_is_its_own_root_sends_no_chain() {
    let mesh = Mesh::new("mesh.test");
    let loaded = loaded(&files(&mesh.root, &mesh.root)).unwrap();
    let request = Request::generate().unwrap();
    assert_eq!(loaded.issuer.issue(request.der(), &id(ID), &[], DAY, now()).unwrap().chain.len(), 1);
    believed(&loaded.issuer, loaded.bundle);
}

#[test]
fn of_several_roots_the_one_that_the_chain_leads_to_is_found() {
    let (mesh, other) = (Mesh::new("mesh.test"), Authority::root("other"));
    let mut files = files(&mesh.intermediate, &mesh.root);
    files.roots = (pem(&other.der) + &pem(&mesh.root.der)).into_bytes();
    let loaded = loaded(&files).unwrap();
    assert_eq!(*loaded.issuer.root(), mesh.root.der);
    assert_eq!(loaded.bundle.roots().len(), 2);
}

#[test]
fn rsa_issuers_made_by_openssl_sign_too() {
    let folder = tempfile::tempdir().unwrap();
    let usage = ["-addext", "keyUsage=critical,keyCertSign,cRLSign", "-days", "3650"];
    let request = ["req", "-x509", "-nodes", "-newkey", "rsa:2048", "-subj", "/O=Example/OU=A/CN=Example CA"];
    openssl(folder.path(), &[&request[..], &usage, &["-keyout", "tls.key", "-out", "tls.crt"]].concat());
    let read = |name: &str| fs::read(folder.path().join(name)).unwrap();
    let files =
        Files { certificate: read("tls.crt"), key: Zeroizing::new(read("tls.key")), roots: read("tls.crt") };
    // Made at the real time of this machine, which the frozen one may be ahead of.
    let der = CertificateDer::from_pem_slice(&files.certificate).unwrap();
    let begins = x509::time(x509::parse(&der).unwrap().validity().not_before);
    load(&files, &domain("mesh.test"), Limits::default(), begins + DAY).unwrap();
}

#[test]
fn files_that_cannot_sign_are_refused_with_the_reason() {
    #[track_caller]
    fn refused(files: &Files, expected: impl FnOnce(&Error) -> bool) {
        let error = loaded(files).unwrap_err();
        assert!(expected(&error), "{error:?}");
    }
    let mesh = Mesh::new("mesh.test");
    let good = || files(&mesh.intermediate, &mesh.root);
    refused(&Files { certificate: b"junk".to_vec(), ..good() }, |error| {
        matches!(error, Error::Certificates { file: "tls.crt" })
    });
    refused(&Files { roots: Vec::new(), ..good() }, |error| {
        matches!(error, Error::Certificates { file: "ca.crt" })
    });
    refused(&Files { key: Zeroizing::new(b"junk".to_vec()), ..good() }, |error| matches!(error, Error::Key));
    let junk_key = Zeroizing::new(pem_key(b"junk").into_bytes());
    refused(&Files { key: junk_key, ..good() }, |error| matches!(error, Error::Key));
    let other_key = Zeroizing::new(pem_key(mesh.root.key_der()).into_bytes());
    refused(&Files { key: other_key, ..good() }, |error| {
        matches!(error, Error::Unusable(Unusable::KeyMismatch))
    });
    let leaf = pem(&mesh.leaf(ID, |_| {})).into_bytes();
    refused(&Files { certificate: leaf.clone(), ..good() }, |error| {
        matches!(error, Error::Issuer { index: 0, source: x509::Error::NotACa })
    });
    refused(&Files { roots: leaf, ..good() }, |error| matches!(error, Error::Roots(_)));
    let stranger = pem(&Authority::root("stranger").der).into_bytes();
    refused(&Files { roots: stranger, ..good() }, |error| matches!(error, Error::Chain(_)));
    let mute = mesh.root.under("mute", |params| params.key_usages = vec![KeyUsagePurpose::CrlSign]);
    refused(&files(&mute, &mesh.root), |error| {
        matches!(error, Error::Issuer { source: x509::Error::NoKeyCertSign, .. })
    });
    let old = mesh.root.under("old", |params| params.not_after = (now() - DAY / 100).into());
    refused(&files(&old, &mesh.root), |error| matches!(error, Error::Expired { .. }));
    let chain = pem(&mesh.intermediate.der).repeat(INTERMEDIATES_MAX + 1).into_bytes();
    refused(&Files { certificate: chain, ..good() }, |error| matches!(error, Error::ChainTooLong { .. }));
}

/// As Kubernetes mounts a secret: the names point through `..data`, which is exchanged as one.
struct Mount(TempDir);

impl Mount {
    fn new(files: &Files) -> Self {
        let mount = Self(tempfile::tempdir().unwrap());
        for name in ["tls.crt", "tls.key", "ca.crt"] {
            symlink(format!("..data/{name}"), mount.0.path().join(name)).unwrap();
        }
        mount.exchange("..1", files);
        mount
    }

    fn exchange(&self, generation: &str, files: &Files) {
        let folder = self.0.path().join(generation);
        fs::create_dir(&folder).unwrap();
        fs::write(folder.join("tls.crt"), &files.certificate).unwrap();
        fs::write(folder.join("tls.key"), &*files.key).unwrap();
        fs::write(folder.join("ca.crt"), &files.roots).unwrap();
        symlink(generation, self.0.path().join("..data_tmp")).unwrap();
        fs::rename(self.0.path().join("..data_tmp"), self.0.path().join("..data")).unwrap();
    }

    async fn start(&self) -> (Arc<External>, Handle) {
        let clock: Clock = Arc::new(now);
        let paths = Paths::in_folder(self.0.path());
        start(paths, domain("mesh.test"), Limits::default(), clock).await.unwrap()
    }
}

#[tokio::test]
async fn exchanged_files_are_taken_on_and_broken_ones_are_not() {
    let (one, two) = (Mesh::new("mesh.test"), Mesh::new("mesh.test"));
    let mount = Mount::new(&files(&one.intermediate, &one.root));
    let (external, _handle) = mount.start().await;
    let mut state = external.state();
    assert_eq!(*external.issuer().root(), one.root.der);

    // The key of one and the certificate of the other.
    let mut broken = files(&two.intermediate, &two.root);
    broken.key = Zeroizing::new(pem_key(one.intermediate.key_der()).into_bytes());
    // The task may not be watching yet; its first look is when it begins, and it settles after a notice.
    mount.exchange("..2", &broken);
    let failed = state.wait_for(|state| state.error.is_some()).await.unwrap().clone();
    assert!(failed.error.unwrap().contains("another key"));
    assert_eq!(*external.issuer().root(), one.root.der);
    believed(&external.issuer(), external.bundle());

    mount.exchange("..3", &files(&two.intermediate, &two.root));
    let mended = state.wait_for(|state| state.error.is_none()).await.unwrap().clone();
    assert_eq!(mended.reloads, 1);
    assert_eq!(*external.issuer().root(), two.root.der);
    believed(&external.issuer(), external.bundle());
}

#[tokio::test]
async fn files_must_be_good_at_the_start() {
    let folder = tempfile::tempdir().unwrap();
    let clock: Clock = Arc::new(now);
    let paths = Paths::in_folder(folder.path());
    let error = start(paths, domain("mesh.test"), Limits::default(), clock).await.unwrap_err();
    assert!(matches!(error, Error::Io { .. }), "{error}");
}

proptest! {
    #[test]
    fn loading_any_text_never_panics(certificate in "\\PC{0,200}", body in "[A-Za-z0-9+/=\n]{0,200}", key in any::<bool>()) {
        let label = if key { "PRIVATE KEY" } else { "CERTIFICATE" };
        let text = format!("{certificate}\n-----BEGIN {label}-----\n{body}\n-----END {label}-----\n").into_bytes();
        let files = Files { certificate: text.clone(), key: Zeroizing::new(text.clone()), roots: text };
        let _ = loaded(&files);
    }
}
