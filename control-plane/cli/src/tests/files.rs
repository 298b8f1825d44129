use super::*;
use crate::failure::ExitCode;

const OBJECT: &str =
    "apiVersion: weft.dev/v1alpha1\nkind: McpServer\nmetadata: {name: a}\nspec: {stdio: {command: x}}\n";

fn told(failure: Failure) -> String {
    match failure {
        Failure::Told(told) => told.to_string(),
        Failure::ReaderGone => panic!("no reader is involved"),
    }
}

fn gather_from(paths: &[PathBuf], input: &str) -> Result<Vec<File>, Failure> {
    gather(paths, &Terminal::captured(input, false).0)
}

fn file(name: &str, text: &str) -> File {
    File { name: name.to_owned(), text: text.to_owned() }
}

fn mistake(line: u64) -> Mistake {
    Mistake { file: Some("whatever".to_owned()), line, column: 3, ..Mistake::default() }
}

#[test]
fn folders_are_read_in_order_with_everything_below_them() {
    let folder = tempfile::tempdir().unwrap();
    for name in ["b.yaml", "a/z.yml", "a/b/c.json", "a.txt", ".hidden.yaml", "..data/x.yaml", "README.md"] {
        let path = folder.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, name).unwrap();
    }
    let named = folder.path().join("a.txt");
    let files = gather_from(&[folder.path().to_owned(), named, PathBuf::from("-")], "from stdin").unwrap();
    let texts: Vec<_> = files.iter().map(|file| file.text.as_str()).collect();
    assert_eq!(texts, ["a/b/c.json", "a/z.yml", "b.yaml", "a.txt", "from stdin"]);
    assert_eq!(files[4].name, "stdin");
}

#[test]
fn what_cannot_be_gathered_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let check = |paths: &[PathBuf], code, expected: &str| {
        let failure = gather_from(paths, "").unwrap_err();
        assert_eq!(failure.code(), code);
        let told = told(failure);
        assert!(told.contains(expected), "{told}");
    };
    let stdin = PathBuf::from("-");
    check(&[folder.path().to_owned()], ExitCode::Usage, "there are no resources in the folder");
    check(&[folder.path().join("none.yaml")], ExitCode::Usage, "there is no file or folder");
    check(&[stdin.clone(), stdin], ExitCode::Usage, "twice");
    let binary = folder.path().join("x.yaml");
    fs::write(&binary, [0xff, 0xfe]).unwrap();
    check(std::slice::from_ref(&binary), ExitCode::Failed, "is not text in UTF-8");
    fs::write(&binary, vec![b' '; INPUT_BYTES_MAX / 2 + 1]).unwrap();
    check(&[binary.clone(), binary], ExitCode::Failed, "the input is longer than");
}

#[cfg(unix)]
#[test]
fn a_folder_that_contains_itself_comes_to_an_end() {
    let folder = tempfile::tempdir().unwrap();
    std::os::unix::fs::symlink(folder.path(), folder.path().join("self")).unwrap();
    let told = told(gather_from(&[folder.path().to_owned()], "").unwrap_err());
    assert!(told.contains("folders deep"), "{told}");
}

#[test]
fn every_mistake_of_every_file_is_told_with_its_own_line() {
    let bad = OBJECT.replace("spec:", "spce:");
    let failure =
        check(&[file("a.yaml", &format!("# first\n{bad}")), file("b.yaml", OBJECT), file("c.yaml", &bad)]);
    let failure = failure.unwrap_err();
    assert_eq!(failure.code(), ExitCode::Failed);
    let told = told(failure);
    for part in
        ["there are 2 mistakes", "a.yaml:5:1: ", "c.yaml:4:1: ", "did you mean \"spec\"?", "nothing was sent"]
    {
        assert!(told.contains(part), "{part:?} is not in {told}");
    }
}

#[test]
fn an_object_that_is_given_twice_is_told_with_both_places() {
    let told =
        told(check(&[file("a.yaml", OBJECT), file("b.yaml", &format!("\n---\n{OBJECT}"))]).unwrap_err());
    assert!(
        told.contains("b.yaml:2:1: metadata.name: mcpserver/default/a is given already at a.yaml:1"),
        "{told}"
    );
}

#[test]
fn an_input_without_resources_is_a_usage_error() {
    assert_eq!(check(&[file("a.yaml", "# nothing\n---\n")]).unwrap_err().code(), ExitCode::Usage);
}

#[test]
fn lines_of_the_joined_input_lead_back_to_their_files() {
    let joined = Joined::new(vec![
        file("one.yaml", "\u{feff}a\nb"),
        file("empty.yaml", ""),
        file("two.json", "{\n}\n"),
    ]);
    assert_eq!(joined.text, "---\na\nb\n---\n\n---\n{\n}\n");
    let places = (1..=8).map(|line| {
        let mut mistake = mistake(line);
        joined.translate(&mut mistake);
        (mistake.file.unwrap(), mistake.line)
    });
    let (one, empty, two) = ("one.yaml", "empty.yaml", "two.json");
    // A line that joins belongs to the file below it.
    let expected = [(one, 1), (one, 1), (one, 2), (empty, 1), (empty, 1), (two, 1), (two, 1), (two, 2)];
    assert_eq!(places.collect::<Vec<_>>(), expected.map(|(file, line)| (file.to_owned(), line)));
}

#[test]
fn a_single_file_is_sent_as_it_is() {
    let joined = Joined::new(vec![file("one.yaml", OBJECT)]);
    assert_eq!((joined.text.as_str(), joined.label().as_str()), (OBJECT, "one.yaml"));
    let mut mistake = mistake(3);
    joined.translate(&mut mistake);
    assert_eq!(mistake.to_string(), "one.yaml:3:3: ");
}

#[test]
fn the_joined_input_reads_as_the_same_objects_on_the_same_lines() {
    let other = OBJECT.replace("name: a", "name: b");
    let texts = [format!("# note\n---\n{OBJECT}...\n"), other.trim_end().to_owned(), "{}".to_owned()];
    let files: Vec<_> = (0..).zip(&texts).map(|(index, text)| file(&format!("f{index}"), text)).collect();
    let joined = Joined::new(files.clone());
    let errors = resource::parse("all", &joined.text).unwrap_err();
    assert_eq!(errors.len(), 1, "{errors:?}");
    assert_eq!(joined.locate(errors[0].place.line), Some(("f2", 1)));
    let joined = Joined::new(files[..2].to_vec());
    let parsed = resource::parse("all", &joined.text).unwrap();
    let places: Vec<_> = parsed.iter().map(|(_, line)| joined.locate(*line).unwrap()).collect();
    assert_eq!(places, [("f0", 2), ("f1", 1)]);
}

#[test]
fn a_place_without_a_line_is_left_as_it_is() {
    let joined = Joined::new(vec![file("one.yaml", "a"), file("two.yaml", "b")]);
    let mut whole = mistake(0);
    joined.translate(&mut whole);
    assert_eq!(whole, mistake(0));
}
