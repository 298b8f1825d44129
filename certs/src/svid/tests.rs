use proptest::prelude::*;
use rcgen::string::Ia5String;
use rcgen::{
    BasicConstraints, CertificateParams, CustomExtension, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose, SanType,
};

use super::*;
use crate::testing::{Authority, Mesh, leaf_params, now, openssl, uri};

const ID: &str = "spiffe://mesh.test/ns/tools/sa/files";

fn self_signed(change: impl FnOnce(&mut CertificateParams)) -> CertificateDer<'static> {
    let mut params = leaf_params(ID);
    change(&mut params);
    params.self_signed(&KeyPair::generate().unwrap()).unwrap().into()
}

#[track_caller]
fn refused(expected: &Error, change: impl FnOnce(&mut CertificateParams)) {
    assert_eq!(Leaf::inspect(&self_signed(change)).unwrap_err(), *expected);
}

/// Exchanges bytes of the same length inside a certificate, which breaks its signature and nothing else.
fn patched(from: &[u8], to: &[u8], change: impl FnOnce(&mut CertificateParams)) -> CertificateDer<'static> {
    assert_eq!(from.len(), to.len());
    let mut der = self_signed(change).to_vec();
    let at = der.windows(from.len()).position(|window| window == from).unwrap();
    der[at..at + to.len()].copy_from_slice(to);
    der.into()
}

#[test]
fn the_facts_of_a_good_leaf_are_read() {
    let der = self_signed(|params| params.serial_number = Some(vec![0, 0x0a, 0xbc].into()));
    let leaf = Leaf::inspect(&der).unwrap();
    assert_eq!(leaf.spiffe_id.as_str(), ID);
    assert_eq!(leaf.serial.as_str(), "abc");
    assert!(leaf.is_valid_at(now()));
    assert!(!leaf.is_valid_at(leaf.not_after + std::time::Duration::from_secs(1)));
    assert!(!leaf.is_valid_at(leaf.not_before - std::time::Duration::from_secs(1)));
}

#[test]
fn dns_names_are_allowed_and_are_no_identity() {
    let dns = |name: &str| SanType::DnsName(Ia5String::try_from(name).unwrap());
    let der = self_signed(|params| params.subject_alt_names.push(dns("control.mesh.test")));
    assert_eq!(Leaf::inspect(&der).unwrap().spiffe_id.as_str(), ID);
    refused(&Error::NoUriName, |params| params.subject_alt_names = vec![dns("control.mesh.test")]);
    refused(&Error::WildcardDns, |params| params.subject_alt_names.push(dns("*.mesh.test")));
}

#[test]
fn exactly_one_uri_name_is_demanded() {
    refused(&Error::NoUriName, |params| params.subject_alt_names.clear());
    refused(&Error::SeveralUriNames { count: 2 }, |params| {
        params.subject_alt_names.push(uri("spiffe://mesh.test/ns/tools/sa/other"));
    });
    refused(&Error::SeveralUriNames { count: 2 }, |params| {
        params.subject_alt_names.push(uri("https://mesh.test/"));
    });
    refused(&Error::CommonNameOnly, |params| {
        params.subject_alt_names.clear();
        params.distinguished_name.push(DnType::CommonName, ID);
    });
}

#[test]
fn the_uri_name_must_be_a_spiffe_id() {
    refused(&Error::WildcardUri, |params| {
        params.subject_alt_names = vec![uri("spiffe://mesh.test/ns/tools/sa/*")];
    });
    for bad in
        ["https://mesh.test/ns/a", "spiffe://mesh.test", "spiffe://mesh.test/a/../b", "spiffe://me%73h/a"]
    {
        let der = self_signed(|params| params.subject_alt_names = vec![uri(bad)]);
        assert!(matches!(Leaf::inspect(&der), Err(Error::SpiffeId(_))), "{bad}");
    }
}

#[test]
fn names_with_nul_or_beyond_ascii_are_refused() {
    let nul = patched(b"sa/files", b"sa/fil\0s", |_| {});
    assert_eq!(Leaf::inspect(&nul).unwrap_err(), Error::NulInName);
    let accent = patched(b"sa/files", "sa/filé".as_bytes(), |_| {});
    assert_eq!(Leaf::inspect(&accent).unwrap_err(), Error::NonAsciiName);
    let broken = patched(b"sa/files", b"sa/fil\xffs", |_| {});
    assert_eq!(Leaf::inspect(&broken).unwrap_err(), Error::NonAsciiName);
    let dns = patched(b"a.mesh", b"a\0mesh", |params| {
        params.subject_alt_names.push(SanType::DnsName(Ia5String::try_from("a.mesh").unwrap()));
    });
    assert_eq!(Leaf::inspect(&dns).unwrap_err(), Error::NulInName);
}

#[test]
fn names_must_be_critical_where_the_subject_is_empty() {
    // SEQUENCE { [6] "spiffe://a/b" }
    let names = [&[0x30, 14, 0x86, 12][..], b"spiffe://a/b"].concat();
    refused(&Error::NamesNotCritical, |params| {
        params.subject_alt_names.clear();
        params.custom_extensions = vec![CustomExtension::from_oid_content(&[2, 5, 29, 17], names)];
    });
}

#[test]
fn an_authority_is_never_a_leaf() {
    refused(&Error::Ca, |params| params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained));
    assert_eq!(Leaf::inspect(&Authority::root("root").der).unwrap_err(), Error::Ca);
}

#[test]
fn key_usage_is_held_to_its_rules() {
    refused(&Error::NoKeyUsage, |params| params.key_usages.clear());
    refused(&Error::NoDigitalSignature, |params| params.key_usages = vec![KeyUsagePurpose::KeyAgreement]);
    refused(&Error::KeyCertSign, |params| params.key_usages.push(KeyUsagePurpose::KeyCertSign));
    refused(&Error::CrlSign, |params| params.key_usages.push(KeyUsagePurpose::CrlSign));
    refused(&Error::KeyUsageNotCritical, |params| {
        params.key_usages.clear();
        let bits = vec![0x03, 0x02, 0x07, 0x80];
        params.custom_extensions = vec![CustomExtension::from_oid_content(&[2, 5, 29, 15], bits)];
    });
}

#[test]
fn extended_key_usage_holds_both_sides_or_is_absent() {
    let both = Leaf::inspect(&self_signed(|params| params.extended_key_usages.clear()));
    assert!(both.is_ok());
    refused(&Error::NoClientAuth, |params| {
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    });
    refused(&Error::NoServerAuth, |params| {
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    });
}

#[test]
fn an_extension_that_is_there_twice_is_refused() {
    refused(&Error::Certificate(x509::Error::DuplicateExtension), |params| {
        let bits = vec![0x03, 0x02, 0x07, 0x80];
        params.custom_extensions = vec![CustomExtension::from_oid_content(&[2, 5, 29, 15], bits)];
    });
}

#[test]
fn keys_of_other_curves_are_refused_and_accepted_kinds_are_not() {
    let with_key = |algorithm| {
        let key = KeyPair::generate_for(algorithm).unwrap();
        Leaf::inspect(&leaf_params(ID).self_signed(&key).unwrap().into())
    };
    for algorithm in [&rcgen::PKCS_ECDSA_P384_SHA384, &rcgen::PKCS_ED25519, &rcgen::PKCS_RSA_SHA256] {
        with_key(algorithm).unwrap();
    }
    let refused = with_key(&rcgen::PKCS_ECDSA_P521_SHA512).unwrap_err();
    assert_eq!(refused, Error::Certificate(x509::Error::UnsupportedKey));
}

/// What rcgen will not make: broken hashes and short keys.
fn by_openssl(arguments: &[&str]) -> Result<Leaf, Error> {
    let folder = tempfile::tempdir().unwrap();
    let names = format!("subjectAltName=critical,URI:{ID}");
    let common =
        ["req", "-x509", "-nodes", "-subj", "/", "-outform", "DER", "-out", "leaf.der", "-keyout", "key"];
    let usage = ["-addext", &names, "-addext", "keyUsage=critical,digitalSignature"];
    let constraints = ["-addext", "basicConstraints=critical,CA:FALSE"];
    openssl(folder.path(), &[&common[..], &usage, &constraints, arguments].concat());
    Leaf::inspect(&std::fs::read(folder.path().join("leaf.der")).unwrap().into())
}

#[test]
fn short_rsa_keys_and_broken_hashes_are_refused() {
    by_openssl(&["-newkey", "rsa:2048", "-sha256"]).unwrap();
    let short = by_openssl(&["-newkey", "rsa:1024", "-sha256"]).unwrap_err();
    assert_eq!(short, Error::Certificate(x509::Error::RsaKeySize { bits: 1024 }));
    let sha1 = by_openssl(&["-newkey", "rsa:2048", "-sha1"]).unwrap_err();
    assert_eq!(sha1, Error::Certificate(x509::Error::WeakSignature("RSA with SHA-1")));
    let md5 = by_openssl(&["-newkey", "rsa:2048", "-md5"]).unwrap_err();
    assert_eq!(md5, Error::Certificate(x509::Error::WeakSignature("RSA with MD5")));
    let curve = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"];
    let sha1 = by_openssl(&[&curve[..], &["-sha1"]].concat()).unwrap_err();
    assert_eq!(sha1, Error::Certificate(x509::Error::WeakSignature("ECDSA with SHA-1")));
}

#[test]
fn bytes_after_the_certificate_and_too_many_of_them_are_refused() {
    let mut der = self_signed(|_| {}).to_vec();
    der.push(0);
    let trailing = Leaf::inspect(&der.clone().into()).unwrap_err();
    assert_eq!(trailing, Error::Certificate(x509::Error::Malformed("bytes follow it")));
    der.resize(x509::CERTIFICATE_BYTES_MAX + 1, 0);
    let long = Leaf::inspect(&der.into()).unwrap_err();
    assert!(matches!(long, Error::Certificate(x509::Error::TooLong { .. })));
}

proptest! {
    #[test]
    fn inspecting_any_bytes_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
        let _ = Leaf::inspect(&bytes.into());
    }

    #[test]
    fn inspecting_damaged_certificates_never_panics(
        damage in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
        cut in any::<prop::sample::Index>(),
        cutting in any::<bool>(),
    ) {
        static GOOD: std::sync::LazyLock<Vec<u8>> =
            std::sync::LazyLock::new(|| Mesh::new("mesh.test").leaf(ID, |_| {}).to_vec());
        let mut der = GOOD.clone();
        for (at, byte) in damage {
            let at = at.index(der.len());
            der[at] = byte;
        }
        if cutting {
            der.truncate(cut.index(der.len()));
        }
        let _ = Leaf::inspect(&der.into());
    }
}
