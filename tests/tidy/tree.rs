//! What is there: the files of the tree, and what cargo knows of its crates. The only part of this tier that reads
//! anything.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

/// Folders of tools, by name, and files that no one wrote: whatever is in them is not the tree's.
const FOREIGN: [&str; 8] =
    [".git", "target", ".weft", ".venv", ".cache", "node_modules", "__pycache__", "Cargo.lock"];

/// A file of text; its path is relative to the top.
#[derive(Debug)]
pub(crate) struct File {
    pub(crate) path: String,
    pub(crate) text: String,
    /// Whether the whole file is there only for tests.
    pub(crate) test: bool,
}

impl File {
    pub(crate) fn is_rust(&self) -> bool {
        self.path.ends_with(".rs")
    }
}

/// A crate of the workspace.
#[derive(Debug)]
pub(crate) struct Member {
    pub(crate) name: String,
    /// Relative to the top.
    pub(crate) manifest: String,
    /// The crates of the workspace that it names as dependencies of any kind.
    pub(crate) needs: BTreeSet<String>,
}

pub(crate) fn root() -> PathBuf {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR"));
    tests.parent().expect("the crate of the tests lies in the tree").to_owned()
}

pub(crate) fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path} cannot be read: {error}"))
}

/// The names at the top.
pub(crate) fn top() -> BTreeSet<String> {
    entries(&root()).into_iter().map(|path| name(&path).to_owned()).collect()
}

/// Every file of text.
pub(crate) fn files() -> Vec<File> {
    let mut folders = vec![root()];
    let mut files = Vec::new();
    while let Some(folder) = folders.pop() {
        for path in entries(&folder) {
            if path.is_dir() {
                folders.push(path);
            } else if let Ok(text) = fs::read_to_string(&path) {
                files.push(File { path: relative(&path), text, test: false });
            }
        }
    }
    files.sort_by(|a, b| a.path.cmp(&b.path));
    mark_tests(&mut files);
    files
}

/// A file is for tests if it lies in a folder of tests, or if it, or a module above it, is declared so.
fn mark_tests(files: &mut [File]) {
    let declared: Vec<String> = files.iter().filter(|file| file.is_rust()).flat_map(test_modules).collect();
    let below = |path: &str, module: &String| {
        path.strip_prefix(module.as_str()).is_some_and(|rest| rest == ".rs" || rest.starts_with('/'))
    };
    for file in files {
        let folder = file.path.rsplit_once('/').map_or("", |(folder, _)| folder);
        let lies_there = folder.split('/').any(|part| part == "tests");
        file.test = lies_there || declared.iter().any(|module| below(&file.path, module));
    }
}

/// The modules that a file declares for tests only, as paths without `.rs`.
fn test_modules(file: &File) -> Vec<String> {
    let (folder, name) = file.path.rsplit_once('/').unwrap_or(("", &file.path));
    let folder = match name {
        "mod.rs" | "lib.rs" | "main.rs" => folder.to_owned(),
        _ => file.path.trim_end_matches(".rs").to_owned(),
    };
    let lines: Vec<&str> = file.text.lines().map(str::trim).collect();
    let declared = lines.windows(2).filter(|pair| pair[0] == "#[cfg(test)]").filter_map(|pair| {
        let (_, module) = pair[1].strip_suffix(';')?.rsplit_once("mod ")?;
        Some(format!("{folder}/{module}"))
    });
    declared.collect()
}

fn entries(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let paths = entries.map(|entry| entry.expect("a folder can be read to its end").path());
    paths.filter(|path| !FOREIGN.contains(&name(path))).collect()
}

fn relative(path: &Path) -> String {
    let path = path.strip_prefix(root()).expect("the tree lies under its top");
    path.to_str().expect("paths in the tree are texts").to_owned()
}

fn name(path: &Path) -> &str {
    path.file_name().and_then(|name| name.to_str()).expect("paths in the tree are texts")
}

/// The crates of the workspace, as they are declared: for every platform, with every feature, for every purpose.
pub(crate) fn members() -> Vec<Member> {
    let metadata = cargo(&["metadata", "--format-version", "1", "--locked", "--offline", "--no-deps"]);
    let metadata: Value = serde_json::from_str(&metadata).expect("cargo prints JSON");
    let packages = metadata["packages"].as_array().expect("cargo lists the packages");
    let text = |value: &Value| value.as_str().expect("a text").to_owned();
    let names: BTreeSet<String> = packages.iter().map(|package| text(&package["name"])).collect();
    let member = |package: &Value| {
        let dependencies = package["dependencies"].as_array().expect("cargo lists the dependencies");
        let needs = dependencies.iter().map(|dependency| text(&dependency["name"]));
        Member {
            name: text(&package["name"]),
            manifest: relative(Path::new(&text(&package["manifest_path"]))),
            needs: needs.filter(|name| names.contains(name)).collect(),
        }
    };
    packages.iter().map(member).collect()
}

/// What a crate is made of when it is built alone: a line for each package, with its features in brackets.
pub(crate) fn parts_of(package: &str, features: &str) -> String {
    let format = ["--edges", "normal,build", "--prefix", "none", "--format", "{p} [{f}]"];
    let choice = ["tree", "--locked", "--offline", "--package", package, features];
    cargo(&[choice.as_slice(), format.as_slice()].concat())
}

fn cargo(arguments: &[&str]) -> String {
    let program = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(program).current_dir(root()).args(arguments).output().expect("cargo runs");
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "cargo {}: {complaint}", arguments.join(" "));
    String::from_utf8(output.stdout).expect("cargo prints text")
}

#[test]
fn files_that_are_only_for_tests_are_told_by_their_place_and_their_declaration() {
    let file =
        |(path, text): (&str, &str)| File { path: path.to_owned(), text: text.to_owned(), test: false };
    let mut files = [
        ("a/src/lib.rs", "mod b;\n#[cfg(test)]\nmod testing;\n#[cfg(test)]\nuse b::c;\n"),
        ("a/src/b.rs", "#[cfg(test)]\npub(crate) mod suite;\n#[cfg(test)]\nmod tests {\n}\n"),
        ("a/src/b/suite/part.rs", ""),
        ("a/src/testing.rs", ""),
        ("a/src/testing_ground.rs", ""),
        ("a/tests/api.rs", ""),
    ]
    .map(file);
    mark_tests(&mut files);
    let tests: Vec<&str> = files.iter().filter(|file| file.test).map(|file| file.path.as_str()).collect();
    assert_eq!(tests, ["a/src/b/suite/part.rs", "a/src/testing.rs", "a/tests/api.rs"]);
}
