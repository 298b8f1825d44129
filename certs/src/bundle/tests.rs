use rcgen::KeyUsagePurpose;

use super::*;
use crate::testing::{Authority, Mesh, domain};

fn bundle(sequence: u64, roots: &[&Authority]) -> Bundle {
    let roots = roots.iter().map(|root| root.der.clone()).collect();
    Bundle::new(domain("mesh.test"), roots, sequence, BTreeSet::new()).unwrap()
}

#[test]
fn only_authorities_are_roots() {
    let mesh = Mesh::new("mesh.test");
    let make = |root: CertificateDer<'static>| {
        Bundle::new(domain("mesh.test"), vec![root], 1, BTreeSet::new()).map_err(|error| match error {
            Error::Root { source, .. } => source,
            other => panic!("{other}"),
        })
    };
    make(mesh.root.der.clone()).unwrap();
    assert_eq!(make(mesh.leaf("spiffe://mesh.test/a", |_| {})).unwrap_err(), x509::Error::NotACa);
    let mute = mesh.root.under("mute", |params| params.key_usages = vec![KeyUsagePurpose::CrlSign]);
    assert_eq!(make(mute.der).unwrap_err(), x509::Error::NoKeyCertSign);
    assert!(matches!(make(vec![1, 2, 3].into()).unwrap_err(), x509::Error::Malformed(_)));
}

#[test]
fn the_same_root_twice_is_refused() {
    let root = Authority::root("root");
    let twice = vec![root.der.clone(), root.der];
    let error = Bundle::new(domain("mesh.test"), twice, 1, BTreeSet::new()).unwrap_err();
    assert!(matches!(error, Error::DuplicateRoot { index: 1, .. }));
}

#[test]
fn what_goes_over_the_wire_comes_back() {
    let mesh = Mesh::new("mesh.test");
    let revoked = BTreeSet::from([Serial::parse("abc").unwrap()]);
    let bundle = Bundle::new(domain("mesh.test"), vec![mesh.root.der], 7, revoked).unwrap();
    assert_eq!(Bundle::try_from(TrustBundle::from(&bundle)).unwrap(), bundle);
    let bundles = Bundles::new([bundle]).unwrap();
    assert_eq!(Bundles::from_wire(bundles.to_wire()).unwrap(), bundles);
}

#[test]
fn malformed_bundles_from_the_wire_are_refused() {
    let wire = TrustBundle::from(&Mesh::new("mesh.test").bundle());
    let domain = TrustBundle { trust_domain: "a b".to_owned(), ..wire.clone() };
    assert!(matches!(Bundle::try_from(domain), Err(Error::TrustDomain(_))));
    for serial in ["ABC", "0a", ""] {
        let wire = TrustBundle { revoked_serials: vec![serial.to_owned()], ..wire.clone() };
        assert!(matches!(Bundle::try_from(wire), Err(Error::Serial { index: 0, .. })), "{serial}");
    }
    let many = TrustBundle { roots: vec![Vec::new(); Bundle::ROOTS_MAX + 1], ..wire.clone() };
    assert!(matches!(Bundle::try_from(many), Err(Error::TooManyRoots { .. })));
    assert!(matches!(Bundles::from_wire([wire.clone(), wire]), Err(Error::DuplicateDomain(_))));
}

#[test]
fn a_newer_bundle_replaces_the_older_one_and_never_the_reverse() {
    let (old, new) = (Authority::root("old"), Authority::root("new"));
    let trust = TrustStore::new(Bundles::new([bundle(5, &[&old])]).unwrap());
    assert!(trust.update(bundle(6, &[&old, &new])).unwrap());
    let back = trust.update(bundle(5, &[&old])).unwrap_err();
    assert!(matches!(back, Error::SequenceBackwards { held: 6, offered: 5, .. }));
    let reused = trust.update(bundle(6, &[&new])).unwrap_err();
    assert!(matches!(reused, Error::SequenceReused { sequence: 6, .. }));
    assert_eq!(trust.load().get(&domain("mesh.test")).unwrap().roots().len(), 2);
}

#[test]
fn the_same_content_is_no_change_whatever_its_sequence() {
    let root = Authority::root("root");
    let trust = TrustStore::new(Bundles::new([bundle(5, &[&root])]).unwrap());
    assert!(!trust.update(bundle(5, &[&root])).unwrap());
    assert!(!trust.update(bundle(4, &[&root])).unwrap());
    assert!(trust.update(bundle(6, &[&root])).unwrap());
}

#[test]
fn several_bundles_are_taken_on_together_or_not_at_all() {
    let root = Authority::root("root");
    let trust = TrustStore::new(Bundles::new([bundle(5, &[&root])]).unwrap());
    let other = Bundle::new(domain("other.test"), vec![], 1, BTreeSet::new()).unwrap();
    trust.update_all([other.clone(), bundle(4, &[])]).unwrap_err();
    assert!(trust.load().get(&domain("other.test")).is_none());
    assert!(trust.update_all([other, bundle(6, &[])]).unwrap());
    assert!(trust.load().get(&domain("other.test")).is_some());
    assert!(trust.remove(&domain("other.test")));
    assert!(!trust.remove(&domain("other.test")));
}

#[test]
fn changes_are_told() {
    let root = Authority::root("root");
    let trust = TrustStore::new(Bundles::default());
    let mut changes = trust.watch();
    assert!(!changes.has_changed().unwrap());
    trust.update(bundle(1, &[&root])).unwrap();
    assert!(changes.has_changed().unwrap());
    assert_eq!(changes.borrow_and_update().iter().count(), 1);
}

#[test]
fn a_fingerprint_is_the_sha256_of_the_certificate() {
    let fingerprint = Fingerprint::of(&CertificateDer::from(b"abc".to_vec()));
    let text = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
    assert_eq!(fingerprint.to_string(), text);
    assert_eq!(Fingerprint::parse(text), Some(fingerprint));
    assert_eq!(Fingerprint::parse(&text.to_uppercase()), None);
}
