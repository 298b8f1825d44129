//! What source looks like.

use crate::lexer;
use crate::tree::File;

/// Longest file, in lines, without its tests.
const LINES_MAX: usize = 500;

/// How much of something that needs an excuse is in a file.
#[derive(Debug)]
pub(crate) struct Finding {
    path: String,
    amount: usize,
    what: String,
}

/// A file, how much of it is excused, and why.
pub(crate) type Excuse = (&'static str, usize, &'static str);

/// Files in which tests sleep, how often, and why that does not make them wait for luck.
pub(crate) const SLEEPS: &[Excuse] = &[
    ("certs/src/rotation/tests.rs", 1, "time is paused: the sleep ends as soon as nothing else can happen"),
    ("tests/conformance/control_plane.py", 1, "looks again until something holds, with a limit"),
    ("tests/flow/mesh.rs", 1, "looks again until something holds, with a limit"),
    ("tests/real/processes.py", 1, "looks again until something holds, with a limit"),
    ("tests/real/servers/fixture.py", 1, "the conformance suite wants the steps of some tools apart"),
];

/// Files past the length, how long they may be, and why each is one thing.
pub(crate) const LONG: &[Excuse] = &[
    (
        "control-plane/src/xds/session.rs",
        520,
        "one state machine, whose every transition reads the same fields",
    ),
    (
        "sidecar/src/exchange/sse_server.rs",
        600,
        "one conversation with one kind of server, from handshake to farewell",
    ),
];

/// Findings beyond their excuse, and excuses for more than there is to find.
pub(crate) fn not_excused(findings: &[Finding], excuses: &[Excuse]) -> Vec<String> {
    let excused = |it: &Finding| {
        excuses.iter().find(|(path, ..)| *path == it.path).is_some_and(|(_, amount, _)| it.amount <= *amount)
    };
    let idle = excuses.iter().filter(|(path, ..)| !findings.iter().any(|it| it.path == *path));
    let mut wrong: Vec<String> =
        findings.iter().filter(|it| !excused(it)).map(|it| format!("{}{}", it.path, it.what)).collect();
    wrong.extend(idle.map(|(path, ..)| format!("{path} needs its excuse no more")));
    wrong
}

/// Modules that do not open with what they are for. A file of tests is about the file that it belongs to.
pub(crate) fn silent(file: &File) -> Vec<String> {
    let (folder, name) = file.path.rsplit_once('/').unwrap_or_default();
    let tests =
        name == "tests.rs" || folder.split_once("/src/").is_some_and(|(_, module)| module.ends_with("tests"));
    match file.text.starts_with("//!") || tests {
        true => Vec::new(),
        false => vec![file.path.clone()],
    }
}

pub(crate) fn unfinished(file: &File) -> Vec<String> {
    let code = lexer::split(&file.text).code;
    let marks = ["todo!(", "unimplemented!(", "dbg!(", "#[ignore", "unsafe "];
    let found =
        |line: &str| marks.into_iter().filter(|mark| begins_word(line, mark)).map(str::to_owned).collect();
    at_lines(file, &code, found)
}

/// Sleeps in tests; in Rust and in Python.
pub(crate) fn sleeps(file: &File) -> Option<Finding> {
    let code = match file.path.rsplit_once('.')?.1 {
        "rs" => lexer::split(&file.text).code,
        "py" => file.text.clone(),
        _ => return None,
    };
    let from = if file.test { 0 } else { tests_begin(&code)? };
    let asleep = |line: &str| ["sleep(", "sleep_until("].into_iter().any(|call| begins_word(line, call));
    let lines = (1_usize..).zip(code.lines()).skip(from);
    let found: Vec<String> = lines
        .filter(|(_, line)| asleep(line))
        .map(|(number, line)| format!(":{number}: {}", line.trim()))
        .collect();
    (!found.is_empty()).then(|| Finding {
        path: file.path.clone(),
        amount: found.len(),
        what: found.join(" "),
    })
}

pub(crate) fn too_long(file: &File) -> Option<Finding> {
    if !file.is_rust() || file.test {
        return None;
    }
    let code = lexer::split(&file.text).code;
    let lines = tests_begin(&code).unwrap_or_else(|| code.lines().count());
    let what = format!(" has {lines} lines without its tests");
    (lines > LINES_MAX).then(|| Finding { path: file.path.clone(), amount: lines, what })
}

/// How many lines stand before the tests of a file, if it has any. They come last.
pub(crate) fn tests_begin(code: &str) -> Option<usize> {
    let lines: Vec<&str> = code.lines().collect();
    lines
        .windows(2)
        .position(|pair| pair[0] == "#[cfg(test)]" && pair[1].contains("mod ") && pair[1].ends_with('{'))
}

/// What only those who wrote the tree can see.
pub(crate) fn foreign(file: &File) -> Vec<String> {
    // Put together here, so that this file does not say them.
    let marks = [
        concat!("../sha", "red"),
        concat!("/work/", "main"),
        concat!("/work/", "shared"),
        concat!("issue", " #"),
        concat!("ticket", " #"),
        concat!("task", " #"),
    ];
    let found = |line: &str| {
        let line = line.to_lowercase();
        marks.into_iter().filter(|mark| line.contains(mark)).map(str::to_owned).collect()
    };
    at_lines(file, &file.text, found)
}

fn at_lines(file: &File, text: &str, found: impl Fn(&str) -> Vec<String>) -> Vec<String> {
    let lines = (1..).zip(text.lines());
    let tell = |(number, line): (usize, &str)| {
        let path = &file.path;
        found(line).into_iter().map(move |what| format!("{path}:{number}: {what}"))
    };
    lines.flat_map(tell).collect()
}

/// Whether a text stands in a line as the beginning of a word.
fn begins_word(line: &str, text: &str) -> bool {
    let before = |at: usize| line[..at].chars().next_back();
    line.match_indices(text).any(|(at, _)| before(at).is_none_or(|c| !c.is_alphanumeric() && c != '_'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(path: &str, text: &str) -> File {
        let test = path.starts_with("tests/") || path.ends_with("/tests.rs");
        File { path: path.to_owned(), text: text.to_owned(), test }
    }

    #[test]
    fn a_module_without_its_purpose_is_noticed() {
        assert!(silent(&file("a/src/b.rs", "//! For tea.\n")).is_empty());
        assert!(silent(&file("a/src/tests.rs", "use super::*;\n")).is_empty());
        assert!(silent(&file("a/src/b/tests/c.rs", "use super::*;\n")).is_empty());
        assert_eq!(silent(&file("a/src/b.rs", "// For tea.\n")), ["a/src/b.rs"]);
        assert_eq!(silent(&file("a/tests/b.rs", "use a::*;\n")), ["a/tests/b.rs"]);
    }

    #[test]
    fn what_is_unfinished_is_noticed_in_code_and_only_there() {
        let bad =
            "fn a() {\n    todo!()\n}\n#[test]\n#[ignore = \"slow\"]\nfn b() { dbg!(1); }\nunsafe { c() }\n";
        let expected = ["f.rs:2: todo!(", "f.rs:5: #[ignore", "f.rs:6: dbg!(", "f.rs:7: unsafe "];
        assert_eq!(unfinished(&file("f.rs", bad)), expected);
        let good = "// todo!() dbg!(\nlet a = \"unimplemented!()\";\n#![forbid(unsafe_code)]\nmy_dbg!(1);\n";
        assert!(unfinished(&file("f.rs", good)).is_empty());
    }

    #[test]
    fn a_test_that_sleeps_is_noticed_and_needs_an_excuse_that_is_used() {
        let inline =
            "fn wait() { sleep(POLL) }\n#[cfg(test)]\nmod tests {\n    fn a() { thread::sleep(SECOND) }\n}\n";
        let found = [sleeps(&file("a/src/b.rs", inline)).unwrap()];
        assert_eq!(not_excused(&found, &[]), ["a/src/b.rs:4: fn a() { thread::sleep(SECOND) }"]);
        assert!(not_excused(&found, &[("a/src/b.rs", 1, "because")]).is_empty());
        let twice = [sleeps(&file("tests/b.rs", "sleep(ONE);\nsleep(TWO);\n")).unwrap()];
        assert_eq!(
            not_excused(&twice, &[("tests/b.rs", 1, "because")]),
            ["tests/b.rs:1: sleep(ONE); :2: sleep(TWO);"]
        );
        assert_eq!(
            not_excused(&[], &[("a/src/b.rs", 1, "because")]),
            ["a/src/b.rs needs its excuse no more"]
        );
        assert!(sleeps(&file("tests/a.rs", "tokio::time::sleep(SECOND).await")).is_some());
        assert!(sleeps(&file("tests/a.py", "time.sleep(1)")).is_some());
        assert!(sleeps(&file("tests/a.rs", "// sleep(1)\nlet a = \"sleep(1)\"; oversleep(1)")).is_none());
        assert!(sleeps(&file("a/src/b.rs", "fn wait() { sleep(POLL) }\n")).is_none());
    }

    #[test]
    fn a_long_file_is_noticed_and_its_tests_are_not_counted() {
        let line = "fn a() {}\n";
        let tests = format!("#[cfg(test)]\nmod tests {{\n{}}}\n", line.repeat(600));
        assert!(too_long(&file("a/src/b.rs", &(line.repeat(500) + &tests))).is_none());
        assert!(too_long(&file("a/src/b.rs", &(line.repeat(501) + &tests))).is_some());
        assert!(too_long(&file("a/src/b/tests.rs", &line.repeat(501))).is_none());
        assert!(too_long(&file("a/b.md", &line.repeat(501))).is_none());
    }

    #[test]
    fn a_word_about_the_world_outside_is_noticed() {
        let number = concat!("See Issue", " #12.");
        assert_eq!(foreign(&file("a.md", number)).len(), 1);
        assert_eq!(foreign(&file("a.rs", concat!("//! As ../sha", "red/plan.md says\n"))).len(), 1);
        assert!(foreign(&file("a.md", "An issue of ours, and shared work.")).is_empty());
    }
}
