use std::os::unix::fs::PermissionsExt as _;

use proptest::prelude::*;

use super::*;

fn stored() -> Stored {
    let resource = |ty, name: &str| Accepted {
        ty,
        name: name.into(),
        version: "0a1b2c3d".into(),
        bytes: Bytes::copy_from_slice(name.as_bytes()),
    };
    Stored {
        node: "research/files-1".to_owned(),
        identity: "spiffe://mesh.test/ns/research/sa/files".to_owned(),
        at: SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000),
        resources: vec![
            resource(ResourceType::Mesh, "mesh"),
            resource(ResourceType::AccessPolicy, "research/readers"),
            resource(ResourceType::Server, "research/files"),
        ],
    }
}

#[test]
fn what_is_stored_is_read_back() {
    assert_eq!(decode(&encode(&stored())).unwrap(), stored());
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path().join("made");
    assert!(load(&folder).unwrap().is_none());
    save(&folder, &stored()).unwrap();
    let other = Stored { resources: Vec::new(), ..stored() };
    save(&folder, &other).unwrap();
    assert_eq!(load(&folder).unwrap(), Some(other));
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&folder.join(FILE)), 0o600);
    assert_eq!(mode(&folder), 0o700);
    assert!(!folder.join(FILE_NEW).exists());
}

#[test]
fn no_flipped_bit_goes_unnoticed() {
    let file = encode(&stored());
    for at in 0..file.len() {
        for bit in 0..8 {
            let mut damaged = file.clone();
            damaged[at] ^= 1 << bit;
            assert!(decode(&damaged).is_err(), "byte {at}, bit {bit}");
        }
    }
}

#[test]
fn no_cut_and_no_addition_goes_unnoticed() {
    let file = encode(&stored());
    for length in 0..file.len() {
        assert!(decode(&file[..length]).is_err(), "{length} bytes");
    }
    let longer = [&file[..], &[0]].concat();
    assert!(matches!(decode(&longer), Err(Error::Damaged(_))));
    assert!(matches!(decode(&[]), Err(Error::NotOurs)));
}

#[test]
fn a_later_format_is_told_apart_from_damage() {
    let mut file = encode(&stored());
    file[8..12].copy_from_slice(&(FORMAT + 1).to_be_bytes());
    assert!(matches!(decode(&file), Err(Error::Format { found }) if found == FORMAT + 1));
}

#[test]
fn types_that_are_not_known_are_left_out() {
    let entry =
        |type_url: &str| Entry { type_url: type_url.to_owned(), name: "x".to_owned(), ..Entry::default() };
    let body = Body {
        resources: vec![entry("type.example/Newer"), entry(ResourceType::Mesh.type_url())],
        ..Body::default()
    };
    let file = seal(&body.encode_to_vec());
    let types: Vec<_> = decode(&file).unwrap().resources.iter().map(|it| it.ty).collect();
    assert_eq!(types, [ResourceType::Mesh]);
}

#[test]
fn a_folder_that_cannot_be_written_is_an_error_and_leaves_what_was_stored() {
    let folder = tempfile::tempdir().unwrap();
    save(folder.path(), &stored()).unwrap();
    // Something that is not a file stands in the way, which stops even those who may write anywhere.
    std::fs::create_dir(folder.path().join(FILE_NEW)).unwrap();
    std::fs::write(folder.path().join(FILE_NEW).join("x"), "").unwrap();
    let other = Stored { resources: Vec::new(), ..stored() };
    assert!(matches!(save(folder.path(), &other), Err(Error::Write { .. })));
    assert_eq!(load(folder.path()).unwrap(), Some(stored()));
    let file = folder.path().join("file");
    std::fs::write(&file, "").unwrap();
    assert!(matches!(save(&file, &stored()), Err(Error::Write { .. })));
}

#[test]
fn a_file_that_was_left_half_written_is_in_nobodys_way() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join(FILE_NEW), "half").unwrap();
    save(folder.path(), &stored()).unwrap();
    assert_eq!(load(folder.path()).unwrap(), Some(stored()));
}

proptest! {
    #[test]
    fn whatever_is_read_is_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = decode(&bytes);
        let _ = decode(&[MAGIC, &bytes[..]].concat());
        let _ = decode(&seal(&bytes));
    }
}
