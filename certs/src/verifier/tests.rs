use std::slice::from_ref;

use rcgen::{CertificateParams, ExtendedKeyUsagePurpose, KeyPair, KeyUsagePurpose};

use super::*;
use crate::testing::{Authority, DAY, Mesh, domain, id, leaf_params, now};

const ID: &str = "spiffe://mesh.test/ns/tools/sa/files";

fn judged(mesh: &Mesh, change: impl FnOnce(&mut CertificateParams)) -> Result<Leaf, Error> {
    let leaf = mesh.leaf(ID, change);
    verify(&leaf, from_ref(&mesh.intermediate.der), &mesh.bundles(), Role::Client, now())
}

#[test]
fn a_good_chain_is_believed_on_both_sides() {
    let mesh = Mesh::new("mesh.test");
    let leaf = mesh.leaf(ID, |_| {});
    let above = [mesh.intermediate.der.clone()];
    for role in [Role::Server, Role::Client] {
        let leaf = verify(&leaf, &above, &mesh.bundles(), role, now()).unwrap();
        assert_eq!(leaf.spiffe_id.as_str(), ID);
    }
    let with_root = [mesh.intermediate.der.clone(), mesh.root.der.clone()];
    verify(&leaf, &with_root, &mesh.bundles(), Role::Server, now()).unwrap();
}

#[test]
fn certificates_are_believed_only_within_their_time() {
    let mesh = Mesh::new("mesh.test");
    let expired = judged(&mesh, |params| params.not_after = (now() - Duration::from_secs(1)).into());
    assert_eq!(expired.unwrap_err(), Error::Expired { not_after: now() - Duration::from_secs(1) });
    let early = judged(&mesh, |params| params.not_before = (now() + Duration::from_secs(60)).into());
    assert_eq!(early.unwrap_err(), Error::NotYetValid { not_before: now() + Duration::from_secs(60) });
}

#[test]
fn an_issuer_that_has_expired_is_not_believed() {
    let mesh = Mesh::new("mesh.test");
    let old = mesh.root.under("old", |params| params.not_after = (now() - Duration::from_secs(1)).into());
    let leaf = old.sign(&leaf_params(ID), &KeyPair::generate().unwrap());
    let error = verify(&leaf, &[old.der], &mesh.bundles(), Role::Server, now()).unwrap_err();
    assert!(matches!(error, Error::Expired { .. }), "{error}");
}

#[test]
fn leaves_that_break_the_rules_are_refused_before_their_path_is_looked_at() {
    let mesh = Mesh::new("mesh.test");
    let error = judged(&mesh, |params| params.key_usages.clear()).unwrap_err();
    assert_eq!(error, Error::Leaf(svid::Error::NoKeyUsage));
}

#[test]
fn a_trust_domain_without_a_bundle_is_unknown() {
    let mesh = Mesh::new("mesh.test");
    let leaf = mesh.leaf("spiffe://stranger.test/ns/tools/sa/files", |_| {});
    let error = verify(&leaf, from_ref(&mesh.intermediate.der), &mesh.bundles(), Role::Client, now());
    assert_eq!(error.unwrap_err(), Error::UnknownTrustDomain(domain("stranger.test")));
}

#[test]
fn a_root_of_one_domain_never_vouches_for_another() {
    let (mesh, other) = (Mesh::new("mesh.test"), Mesh::new("other.test"));
    let both = Bundles::new([mesh.bundle(), other.bundle()]).unwrap();
    let forged = other.leaf(ID, |_| {});
    let error = verify(&forged, from_ref(&other.intermediate.der), &both, Role::Server, now()).unwrap_err();
    assert_eq!(error, Error::UnknownRoot);
    let honest = other.leaf("spiffe://other.test/ns/tools/sa/files", |_| {});
    verify(&honest, &[other.intermediate.der], &both, Role::Server, now()).unwrap();
}

#[test]
fn unknown_roots_and_forged_signatures_are_refused() {
    let mesh = Mesh::new("mesh.test");
    let stranger = Authority::root("stranger");
    let leaf = stranger.sign(&leaf_params(ID), &KeyPair::generate().unwrap());
    let error = verify(&leaf, &[], &mesh.bundles(), Role::Server, now()).unwrap_err();
    assert_eq!(error, Error::UnknownRoot);
    // The same name as the real root, and another key.
    let impostor = Authority::root("root of mesh.test");
    let leaf = impostor.sign(&leaf_params(ID), &KeyPair::generate().unwrap());
    let error = verify(&leaf, &[], &mesh.bundles(), Role::Server, now()).unwrap_err();
    assert_eq!(error, Error::BadSignature);
}

#[test]
fn a_bundle_without_roots_trusts_nobody() {
    let mesh = Mesh::new("mesh.test");
    let nobody = Bundle::new(domain("mesh.test"), vec![], 2, BTreeSet::new()).unwrap();
    let leaf = mesh.leaf(ID, |_| {});
    let bundles = Bundles::new([nobody]).unwrap();
    let error = verify(&leaf, &[mesh.intermediate.der], &bundles, Role::Server, now()).unwrap_err();
    assert_eq!(error, Error::UnknownRoot);
}

#[test]
fn revoked_leaves_and_revoked_issuers_are_refused() {
    let mesh = Mesh::new("mesh.test");
    let leaf = mesh.leaf(ID, |_| {});
    let issuer = x509::serial(&x509::parse(&mesh.intermediate.der).unwrap()).unwrap();
    for serial in [Leaf::inspect(&leaf).unwrap().serial, issuer] {
        let revoked = BTreeSet::from([serial]);
        let bundle = Bundle::new(domain("mesh.test"), vec![mesh.root.der.clone()], 2, revoked).unwrap();
        let bundles = Bundles::new([bundle]).unwrap();
        let error =
            verify(&leaf, from_ref(&mesh.intermediate.der), &bundles, Role::Client, now()).unwrap_err();
        assert_eq!(error, Error::Revoked);
    }
}

fn ladder(rungs: usize, mesh: &Mesh) -> (CertificateDer<'static>, Vec<CertificateDer<'static>>) {
    let mut last = mesh.root.under("rung 1", |_| {});
    let mut above = vec![last.der.clone()];
    for rung in 2..=rungs {
        last = last.under(&format!("rung {rung}"), |_| {});
        above.insert(0, last.der.clone());
    }
    (last.sign(&leaf_params(ID), &KeyPair::generate().unwrap()), above)
}

#[test]
fn chains_have_at_most_four_certificates_above_the_leaf() {
    let mesh = Mesh::new("mesh.test");
    let (leaf, above) = ladder(4, &mesh);
    verify(&leaf, &above, &mesh.bundles(), Role::Server, now()).unwrap();
    let (leaf, above) = ladder(5, &mesh);
    let error = verify(&leaf, &above, &mesh.bundles(), Role::Server, now()).unwrap_err();
    assert_eq!(error, Error::ChainTooLong { len: 5 });
}

#[test]
fn path_lengths_are_obeyed() {
    let mesh = Mesh::new("mesh.test");
    let short = mesh.root.under("short", |params| {
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Constrained(0));
    });
    let below = short.under("below", |_| {});
    let leaf = below.sign(&leaf_params(ID), &KeyPair::generate().unwrap());
    let error = verify(&leaf, &[below.der, short.der], &mesh.bundles(), Role::Server, now()).unwrap_err();
    assert_eq!(error, Error::PathLength);
}

#[test]
fn only_authorities_that_may_sign_stand_above_a_leaf() {
    let mesh = Mesh::new("mesh.test");
    let mute = mesh.root.under("mute", |params| params.key_usages = vec![KeyUsagePurpose::CrlSign]);
    let leaf = mute.sign(&leaf_params(ID), &KeyPair::generate().unwrap());
    let error = verify(&leaf, &[mute.der], &mesh.bundles(), Role::Server, now()).unwrap_err();
    assert_eq!(error, Error::Issuer { index: 0, source: x509::Error::NoKeyCertSign });
    let other = mesh.leaf("spiffe://mesh.test/other", |_| {});
    let error = verify(&mesh.leaf(ID, |_| {}), &[other], &mesh.bundles(), Role::Server, now()).unwrap_err();
    assert_eq!(error, Error::Issuer { index: 0, source: x509::Error::NotACa });
}

#[test]
fn an_issuer_for_one_side_only_is_refused_on_the_other() {
    let mesh = Mesh::new("mesh.test");
    let servers = mesh.root.under("servers", |params| {
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    });
    let leaf = servers.sign(&leaf_params(ID), &KeyPair::generate().unwrap());
    verify(&leaf, from_ref(&servers.der), &mesh.bundles(), Role::Server, now()).unwrap();
    let error = verify(&leaf, &[servers.der], &mesh.bundles(), Role::Client, now()).unwrap_err();
    assert_eq!(error, Error::Purpose);
}

#[test]
fn critical_extensions_that_are_not_understood_are_refused() {
    let mesh = Mesh::new("mesh.test");
    let error = judged(&mesh, |params| {
        let mut extension =
            rcgen::CustomExtension::from_oid_content(&[1, 3, 6, 1, 4, 1, 99999, 1], vec![5, 0]);
        extension.set_criticality(true);
        params.custom_extensions = vec![extension];
    });
    assert_eq!(error.unwrap_err(), Error::CriticalExtension);
}

#[test]
fn expectations_admit_whom_they_name() {
    let (files, search) = (id(ID), id("spiffe://mesh.test/ns/tools/sa/search"));
    let set = Expect::OneOf(Arc::new(BTreeSet::from([files.clone()])));
    for (expect, admitted) in [
        (Expect::AnyInMesh, [true, true]),
        (Expect::Exactly(files.clone()), [true, false]),
        (set, [true, false]),
        (Expect::OneOf(Arc::default()), [false, false]),
        (Expect::Path("/ns/tools/sa/files"), [true, false]),
        (Expect::Path("/ns/tools/sa"), [false, false]),
    ] {
        assert_eq!([expect.admits(&files), expect.admits(&search)], admitted, "{expect}");
    }
}

#[test]
fn every_refusal_comes_back_out_of_what_rustls_carries() {
    let errors = [
        Error::Leaf(svid::Error::NoUriName),
        Error::Issuer { index: 1, source: x509::Error::NotACa },
        Error::ChainTooLong { len: 9 },
        Error::UnknownTrustDomain(domain("other.test")),
        Error::UnknownRoot,
        Error::RootNotPresented,
        Error::BadSignature,
        Error::UnsupportedSignature,
        Error::Expired { not_after: now() - DAY },
        Error::NotYetValid { not_before: now() + DAY },
        Error::Revoked,
        Error::Purpose,
        Error::PathLength,
        Error::NameConstraints,
        Error::CriticalExtension,
        Error::Path(webpki::Error::BadDer),
        Error::Unexpected { found: id(ID), expected: Expect::AnyInMesh },
    ];
    for error in errors {
        let carried = error.clone().into_rustls(unix(now()));
        assert_eq!(Error::from_rustls(&carried), Some(error.clone()));
        let wrapped = io::Error::other(io::Error::new(io::ErrorKind::InvalidData, carried));
        assert_eq!(Error::from_io(&wrapped), Some(error));
    }
    assert_eq!(Error::from_io(&io::Error::from(io::ErrorKind::UnexpectedEof)), None);
    assert_eq!(Error::from_rustls(&rustls::Error::DecryptError), None);
}
