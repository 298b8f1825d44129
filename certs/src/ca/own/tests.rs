use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use tempfile::TempDir;

use super::super::manifest::Manifest;
use super::*;
use crate::bundle::Bundles;
use crate::csr::Request;
use crate::testing::{DAY, domain, id, now};
use crate::verifier::{self, Role};

const ID: &str = "spiffe://mesh.test/ns/tools/sa/files";

fn kek(byte: u8) -> Kek {
    Kek::from_text(&crate::hex::encode(&[byte; 32])).unwrap()
}

fn try_open(folder: &TempDir, now: SystemTime) -> Result<Ca, Error> {
    Ca::open_or_create(&folder.path().join("ca"), kek(1), domain("mesh.test"), Limits::default(), now)
}

fn open(folder: &TempDir) -> Ca {
    try_open(folder, now()).unwrap()
}

fn issue(ca: &Ca, now: SystemTime) -> Issued {
    let request = Request::generate().unwrap();
    ca.issue(request.der(), &id(ID), &[], DAY, now).unwrap()
}

fn believed(issued: &Issued, bundle: Bundle, now: SystemTime) -> Result<(), verifier::Error> {
    let bundles = Bundles::new([bundle]).unwrap();
    verifier::verify(&issued.chain[0], &issued.chain[1..], &bundles, Role::Server, now).map(|_| ())
}

fn generations(ca: &Ca) -> Vec<(u32, bool)> {
    ca.roots().unwrap().iter().map(|root| (root.generation, root.current)).collect()
}

fn names(folder: &TempDir) -> Vec<String> {
    let entries = fs::read_dir(folder.path().join("ca")).unwrap();
    let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn a_new_authority_has_one_root_and_one_intermediate() {
    let folder = tempfile::tempdir().unwrap();
    let ca = open(&folder);
    let roots = ca.roots().unwrap();
    assert_eq!(roots.len(), 1);
    assert!(roots[0].current);
    assert_eq!(roots[0].not_after, now() + ROOT_LIFETIME);
    assert_eq!(ca.issuer().not_after(), now() + INTERMEDIATE_LIFETIME);
    assert_eq!((ca.bundle().sequence(), ca.current_generation()), (1, Some(1)));
    believed(&issue(&ca, now()), ca.bundle(), now()).unwrap();
    let expected = ["issuer-1-1.crt", "issuer-1-1.key", "lock", "manifest.json", "root-1.crt", "root-1.key"];
    assert_eq!(names(&folder), expected);
}

#[test]
fn nobody_else_can_read_the_files_and_no_key_lies_there_in_the_clear() {
    let folder = tempfile::tempdir().unwrap();
    let _ca = open(&folder);
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&folder.path().join("ca")), 0o700);
    for name in names(&folder) {
        let path = folder.path().join("ca").join(&name);
        assert_eq!(mode(&path), 0o600, "{name}");
        if name.ends_with(".key") {
            assert!(fs::read(&path).unwrap().starts_with(b"WEFTSEAL"), "{name}");
        }
    }
}

#[test]
fn an_authority_is_the_same_after_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let ca = open(&folder);
    ca.add_root(now()).unwrap();
    let (bundle, roots, root) = (ca.bundle(), ca.roots().unwrap(), ca.issuer().root().clone());
    drop(ca);
    let ca = open(&folder);
    assert_eq!((ca.bundle(), ca.roots().unwrap(), ca.issuer().root().clone()), (bundle, roots, root));
    believed(&issue(&ca, now()), ca.bundle(), now()).unwrap();
}

#[test]
fn one_process_at_a_time_works_in_a_folder() {
    let folder = tempfile::tempdir().unwrap();
    let _ca = open(&folder);
    assert!(matches!(try_open(&folder, now()), Err(Error::InUse(_))));
}

#[test]
fn the_wrong_key_and_the_wrong_domain_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    drop(open(&folder));
    let path = folder.path().join("ca");
    let wrong = Ca::open_or_create(&path, kek(2), domain("mesh.test"), Limits::default(), now()).unwrap_err();
    assert!(matches!(wrong, Error::Key { source: vault::Error::WrongKek, .. }), "{wrong}");
    let other =
        Ca::open_or_create(&path, kek(1), domain("other.test"), Limits::default(), now()).unwrap_err();
    assert!(matches!(other, Error::TrustDomain { .. }), "{other}");
}

#[test]
fn damaged_folders_are_refused_and_left_alone() {
    #[track_caller]
    fn refused(damage: impl FnOnce(&Path), expected: impl FnOnce(&Error) -> bool) {
        let folder = tempfile::tempdir().unwrap();
        drop(open(&folder));
        damage(&folder.path().join("ca"));
        let error = try_open(&folder, now()).unwrap_err();
        assert!(expected(&error), "{error:?}");
        assert!(folder.path().join("ca/root-1.key").exists());
    }
    refused(
        |path| fs::remove_file(path.join("manifest.json")).unwrap(),
        |error| matches!(error, Error::ManifestMissing(_)),
    );
    refused(
        |path| fs::write(path.join("manifest.json"), "{").unwrap(),
        |error| matches!(error, Error::Manifest { source: manifest::Error::Json(_), .. }),
    );
    refused(
        |path| fs::write(path.join("manifest.json"), r#"{"version":2,"more":1}"#).unwrap(),
        |error| matches!(error, Error::Manifest { source: manifest::Error::Version(2), .. }),
    );
    refused(
        |path| fs::remove_file(path.join("root-1.crt")).unwrap(),
        |error| matches!(error, Error::Missing(_)),
    );
    refused(
        |path| fs::write(path.join("root-1.crt"), "junk").unwrap(),
        |error| matches!(error, Error::Pem { .. }),
    );
    refused(
        |path| fs::write(path.join("issuer-1-1.key"), "WEFTSEAL").unwrap(),
        |error| matches!(error, Error::Key { source: vault::Error::Truncated, .. }),
    );
    // A key for another certificate.
    let exchange = |path: &Path| fs::copy(path.join("root-1.crt"), path.join("issuer-1-1.crt")).map(|_| ());
    refused(
        |path| exchange(path).unwrap(),
        |error| matches!(error, Error::Key { source: vault::Error::Altered, .. }),
    );
}

#[test]
fn the_intermediate_is_renewed_at_half_its_life() {
    let folder = tempfile::tempdir().unwrap();
    let ca = open(&folder);
    let before = ca.issuer();
    assert!(!ca.maintain(now() + 180 * DAY).unwrap());
    let later = now() + 183 * DAY;
    assert!(ca.maintain(later).unwrap());
    assert!(!ca.maintain(later).unwrap());
    assert!(ca.issuer().not_after() > before.not_after());
    assert_eq!(ca.bundle().sequence(), 1);
    assert!(names(&folder).contains(&"issuer-1-2.key".to_owned()));
    assert!(!names(&folder).contains(&"issuer-1-1.key".to_owned()));
    believed(&issue(&ca, later), ca.bundle(), later).unwrap();
    drop(ca);
    assert_eq!(try_open(&folder, later).unwrap().issuer().not_after(), later + INTERMEDIATE_LIFETIME);
}

#[test]
fn an_authority_with_its_root_key_put_away_signs_as_long_as_its_intermediate_lasts() {
    let folder = tempfile::tempdir().unwrap();
    drop(open(&folder));
    fs::remove_file(folder.path().join("ca/root-1.key")).unwrap();
    let later = now() + 200 * DAY;
    let ca = try_open(&folder, later).unwrap();
    believed(&issue(&ca, later), ca.bundle(), later).unwrap();
    assert!(matches!(ca.maintain(later), Err(Error::Missing(_))));
    drop(ca);
    assert!(matches!(try_open(&folder, now() + 400 * DAY), Err(Error::Missing(_))));
}

#[test]
fn a_root_is_exchanged_in_steps_without_a_moment_of_distrust() {
    let folder = tempfile::tempdir().unwrap();
    let ca = open(&folder);
    let first = issue(&ca, now());
    let only_first = ca.bundle();

    assert_eq!(ca.add_root(now()).unwrap(), 2);
    assert_eq!(ca.bundle().sequence(), 2);
    assert_eq!(generations(&ca), [(1, true), (2, false)]);
    believed(&issue(&ca, now()), only_first.clone(), now()).unwrap();

    ca.switch_issuer(2, now()).unwrap();
    assert_eq!(generations(&ca), [(1, false), (2, true)]);
    let second = issue(&ca, now());
    for issued in [&first, &second] {
        believed(issued, ca.bundle(), now()).unwrap();
    }
    believed(&second, only_first, now()).unwrap_err();

    ca.drop_root(1).unwrap();
    assert_eq!(generations(&ca), [(2, true)]);
    assert_eq!(ca.bundle().sequence(), 3);
    believed(&second, ca.bundle(), now()).unwrap();
    believed(&first, ca.bundle(), now()).unwrap_err();
    assert!(!names(&folder).iter().any(|name| name.starts_with("root-1")));

    drop(ca);
    let ca = open(&folder);
    assert_eq!(generations(&ca), [(2, true)]);
    assert_eq!(ca.add_root(now()).unwrap(), 3);
}

#[test]
fn steps_out_of_order_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let ca = open(&folder);
    assert!(matches!(ca.drop_root(1), Err(Error::RootInUse(1))));
    assert!(matches!(ca.drop_root(7), Err(Error::NoSuchRoot(7))));
    assert!(matches!(ca.switch_issuer(7, now()), Err(Error::NoSuchRoot(7))));
    ca.switch_issuer(1, now()).unwrap();
    let end = now() + ROOT_LIFETIME;
    ca.add_root(now()).unwrap();
    assert!(matches!(ca.switch_issuer(2, end), Err(Error::RootExpires { generation: 2 })));
    assert_eq!(ca.current_generation(), Some(1));
}

#[test]
fn a_step_can_be_taken_back() {
    let folder = tempfile::tempdir().unwrap();
    let ca = open(&folder);
    ca.add_root(now()).unwrap();
    ca.switch_issuer(2, now()).unwrap();
    ca.switch_issuer(1, now()).unwrap();
    ca.drop_root(2).unwrap();
    assert_eq!(generations(&ca), [(1, true)]);
    believed(&issue(&ca, now()), ca.bundle(), now()).unwrap();
}

/// Each change writes several files and the manifest last: whatever lies before the manifest is as if it never was.
#[test]
fn a_change_that_a_crash_cut_off_never_happened() {
    let folder = tempfile::tempdir().unwrap();
    let ca = open(&folder);
    let (bundle, manifest) = (ca.bundle(), fs::read(folder.path().join("ca/manifest.json")).unwrap());
    let issuer_files = ["issuer-1-1.crt", "issuer-1-1.key"].map(|name| {
        let path = folder.path().join("ca").join(name);
        (fs::read(&path).unwrap(), path)
    });
    ca.add_root(now()).unwrap();
    ca.switch_issuer(2, now()).unwrap();
    drop(ca);
    // Every file of both steps is there, except that the manifest was not reached.
    fs::write(folder.path().join("ca/manifest.json"), manifest).unwrap();
    for (bytes, path) in issuer_files {
        fs::write(path, bytes).unwrap();
    }
    fs::write(folder.path().join("ca/.root-3.key.tmp"), "half").unwrap();
    let ca = open(&folder);
    assert_eq!(ca.bundle(), bundle);
    assert_eq!(generations(&ca), [(1, true)]);
    let expected = ["issuer-1-1.crt", "issuer-1-1.key", "lock", "manifest.json", "root-1.crt", "root-1.key"];
    assert_eq!(names(&folder), expected);
    assert_eq!(ca.add_root(now()).unwrap(), 2);
}

#[test]
fn a_founding_that_a_crash_cut_off_is_begun_anew() {
    let folder = tempfile::tempdir().unwrap();
    drop(open(&folder));
    // The state after the first root's files were written, before the manifest named them.
    let empty = Manifest::new("mesh.test".to_owned()).to_bytes().unwrap();
    fs::write(folder.path().join("ca/manifest.json"), empty).unwrap();
    let ca = open(&folder);
    assert_eq!(generations(&ca), [(1, true)]);
    believed(&issue(&ca, now()), ca.bundle(), now()).unwrap();
}

#[test]
fn revocations_last_until_the_certificate_has_ended() {
    let folder = tempfile::tempdir().unwrap();
    let ca = open(&folder);
    let issued = issue(&ca, now());
    ca.revoke(&issued.leaf.serial, issued.leaf.not_after).unwrap();
    ca.revoke(&issued.leaf.serial, issued.leaf.not_after).unwrap();
    assert_eq!(ca.bundle().sequence(), 2);
    assert_eq!(believed(&issued, ca.bundle(), now()), Err(verifier::Error::Revoked));
    drop(ca);
    let ca = open(&folder);
    assert!(ca.bundle().revoked().contains(&issued.leaf.serial));
    assert!(ca.maintain(now() + 2 * DAY).unwrap());
    assert!(ca.bundle().revoked().is_empty());
    assert_eq!(ca.bundle().sequence(), 3);
}
