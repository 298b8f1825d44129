use super::*;

const SECRET: &[u8] = b"a private key, say";

fn kek(byte: u8) -> Kek {
    Kek::from_text(&crate::hex::encode(&[byte; 32])).unwrap()
}

fn certificate(byte: u8) -> Fingerprint {
    Fingerprint::of(&vec![byte].into())
}

fn sealed() -> Vec<u8> {
    kek(1).seal(Kind::Root, certificate(1), SECRET).unwrap()
}

#[test]
fn what_was_sealed_opens_with_the_same_key_only() {
    assert_eq!(*kek(1).open(Kind::Root, certificate(1), &sealed()).unwrap(), SECRET);
    let wrong = kek(2).open(Kind::Root, certificate(1), &sealed()).unwrap_err();
    assert!(matches!(wrong, Error::WrongKek), "{wrong}");
}

#[test]
fn two_seals_of_the_same_secret_differ_and_do_not_show_it() {
    assert_ne!(sealed(), sealed());
    assert!(!sealed().windows(SECRET.len()).any(|window| window == SECRET));
}

#[test]
fn a_seal_belongs_to_its_kind_and_its_certificate() {
    for (kind, certificate) in [(Kind::Intermediate, certificate(1)), (Kind::Root, certificate(2))] {
        let error = kek(1).open(kind, certificate, &sealed()).unwrap_err();
        assert!(matches!(error, Error::Altered), "{error}");
    }
}

#[test]
fn damaged_and_truncated_files_are_refused_with_the_reason() {
    let open = |bytes: &[u8]| kek(1).open(Kind::Root, certificate(1), bytes).unwrap_err();
    let good = sealed();
    for len in 0..good.len() {
        assert!(matches!(open(&good[..len]), Error::Truncated | Error::Altered), "{len}");
    }
    for at in 0..good.len() {
        let mut damaged = good.clone();
        damaged[at] ^= 1;
        match (at, open(&damaged)) {
            (0..8, Error::NotSealed) | (8, Error::Version(0)) | (9..17, Error::WrongKek) => {}
            (17.., Error::Altered) => {}
            (at, other) => panic!("byte {at}: {other}"),
        }
    }
    assert!(matches!(open(b"-----BEGIN PRIVATE KEY-----"), Error::NotSealed));
    assert!(matches!(open(&vec![0; SEALED_BYTES_MAX + 1]), Error::TooLong));
}

#[test]
fn key_files_come_raw_in_hexadecimal_and_in_base64() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("kek");
    let raw = [1_u8; 32];
    let forms: [Vec<u8>; 4] = [
        raw.to_vec(),
        (crate::hex::encode(&raw) + "\n").into_bytes(),
        STANDARD.encode(raw).into_bytes(),
        (URL_SAFE_NO_PAD.encode(raw) + "\r\n").into_bytes(),
    ];
    for form in forms {
        fs::write(&path, &form).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o400)).unwrap();
        let key = Kek::from_file(&path).unwrap();
        assert_eq!(*key.open(Kind::Root, certificate(1), &sealed()).unwrap(), SECRET);
        fs::remove_file(&path).unwrap();
    }
    for bad in [&b""[..], b"short", &[0xff; 31], &[b'a'; 300]] {
        fs::write(&path, bad).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        assert!(matches!(Kek::from_file(&path), Err(Error::Form)), "{bad:?}");
    }
}

#[test]
fn a_key_file_that_others_can_read_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("kek");
    fs::write(&path, [1; 32]).unwrap();
    for mode in [0o644, 0o640, 0o604, 0o620] {
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        let error = Kek::from_file(&path).unwrap_err();
        assert!(matches!(error, Error::Permissions { mode: found, .. } if found == mode), "{error}");
    }
    assert!(matches!(Kek::from_file(&folder.path().join("none")), Err(Error::Io { .. })));
}

#[test]
fn a_made_key_file_is_private_and_is_read_the_next_time() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("kek");
    let made = Kek::open_or_create(&path).unwrap();
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    let sealed = made.seal(Kind::Root, certificate(1), SECRET).unwrap();
    let read = Kek::open_or_create(&path).unwrap();
    assert_eq!(*read.open(Kind::Root, certificate(1), &sealed).unwrap(), SECRET);
    assert_eq!(format!("{made:?}"), "Kek");
}
