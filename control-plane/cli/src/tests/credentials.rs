use super::*;
use crate::failure::ExitCode;

fn told(failure: Failure) -> String {
    match failure {
        Failure::Told(told) => told.to_string(),
        Failure::ReaderGone => panic!("no reader is involved"),
    }
}

fn write(folder: &Path, text: &str) -> PathBuf {
    let path = folder.join(OPERATOR_FILE);
    fs::write(&path, text).unwrap();
    #[cfg(unix)]
    set_mode(&path, 0o600);
    path
}

#[cfg(unix)]
fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(mode)).unwrap();
}

#[test]
fn the_home_is_the_one_given_else_the_nearest_else_the_users() {
    let folder = tempfile::tempdir().unwrap();
    let (outer, inner) = (folder.path().join("a"), folder.path().join("a/b/c"));
    fs::create_dir_all(outer.join(LOCAL_HOME)).unwrap();
    fs::create_dir_all(&inner).unwrap();
    // A file of that name is no home.
    fs::write(inner.join(LOCAL_HOME), "").unwrap();
    let user = Path::new("/user/weft");
    assert_eq!(find_home(Some(Path::new("/given")), &inner, user), Path::new("/given"));
    assert_eq!(find_home(None, &inner, user), outer.join(LOCAL_HOME));
    assert_eq!(find_home(Some(Path::new("")), &inner, user), outer.join(LOCAL_HOME));
    let bare = tempfile::tempdir().unwrap();
    let above = bare.path().ancestors().any(|folder| folder.join(LOCAL_HOME).is_dir());
    assert!(above || find_home(None, bare.path(), user) == user);
}

#[cfg(unix)]
#[test]
fn a_file_that_others_could_use_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = write(folder.path(), r#"{"server":"https://h","caFile":"ca.pem","token":"weft_x"}"#);
    assert!(read_operator_file(&path).is_ok());
    for mode in [0o640, 0o604, 0o660, 0o622, 0o644] {
        set_mode(&path, mode);
        let failure = read_operator_file(&path).unwrap_err();
        assert_eq!(failure.code(), ExitCode::Refused);
        let told = told(failure);
        assert!(told.contains(&format!("its mode is {mode:03o}")) && told.contains("chmod 600"), "{told}");
    }
}

#[cfg(unix)]
#[test]
fn the_file_is_written_for_its_owner_only_and_replaces_an_older_one() {
    let folder = tempfile::tempdir().unwrap();
    let path = write(folder.path(), "older");
    set_mode(&path, 0o644);
    let file = OperatorFile {
        server: "https://127.0.0.1:7501".to_owned(),
        ca_file: PathBuf::from("ca.pem"),
        token: Secret::from("weft_x"),
    };
    file.write(folder.path()).unwrap();
    let read = read_operator_file(&path).unwrap();
    assert_eq!((read.server.as_str(), read.token.expose()), ("https://127.0.0.1:7501", "weft_x"));
}

#[test]
fn a_damaged_file_is_told_without_its_content() {
    let folder = tempfile::tempdir().unwrap();
    for text in ["{\"token\": \"weft_secret\", \"x\": 1}", "{\"token\": weft_secret}", "[\"weft_secret\"]"] {
        let told = told(read_operator_file(&write(folder.path(), text)).unwrap_err());
        assert!(told.contains("is not what `weft up` writes") && !told.contains("weft_secret"), "{told}");
    }
}

#[test]
fn secrets_are_not_in_debug_output() {
    let file =
        OperatorFile { server: String::new(), ca_file: PathBuf::new(), token: Secret::from("weft_secret\n") };
    assert!(!format!("{file:?}").contains("weft_secret"));
    assert_eq!(file.token.expose(), "weft_secret");
}

#[test]
fn a_token_from_the_file_is_not_used_with_another_ca() {
    let folder = tempfile::tempdir().unwrap();
    write(folder.path(), r#"{"server":"https://h","caFile":"ca.pem","token":"weft_x"}"#);
    let given = Given {
        home: folder.path().to_owned(),
        server: None,
        ca_file: Some(PathBuf::from("/elsewhere/ca.pem")),
        token: None,
    };
    let failure = given.load().unwrap_err();
    assert_eq!(failure.code(), ExitCode::Usage);
    assert!(told(failure).contains("WEFT_TOKEN"));
}

#[test]
fn a_ca_file_without_certificates_is_told_with_its_place() {
    let folder = tempfile::tempdir().unwrap();
    write(folder.path(), r#"{"server":"https://h","caFile":"sub/ca.pem","token":"weft_x"}"#);
    fs::create_dir(folder.path().join("sub")).unwrap();
    let given = Given { home: folder.path().to_owned(), server: None, ca_file: None, token: None };
    let place = folder.path().join("sub/ca.pem");
    let missing = told(given.load().unwrap_err());
    assert!(missing.contains(&place.display().to_string()), "{missing}");
    fs::write(place, "nothing").unwrap();
    assert!(told(given.load().unwrap_err()).contains("it holds no certificate"));
}
