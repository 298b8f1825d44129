//! That the reference names everything that an operator can set or watch.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use crate::lexer;
use crate::source::tests_begin;
use crate::tree::File;

/// Where those who run a mesh find what there is: the documents beside each crate.
pub(crate) fn text(files: &[File]) -> String {
    let documents = files.iter().filter(|file| file.path.ends_with(".md") && file.path.contains("/docs/"));
    documents.map(|file| file.text.as_str()).collect()
}

/// The code and the literals of what an operator runs, without tests.
fn product(file: &File) -> Option<(String, String)> {
    let planes = ["control-plane/", "sidecar/"];
    if file.test || !planes.iter().any(|plane| file.path.starts_with(plane)) {
        return None;
    }
    let parts = lexer::split(&file.text);
    let lines = tests_begin(&parts.code).unwrap_or(usize::MAX);
    let cut = |text: &str| text.split_inclusive('\n').take(lines).collect();
    Some((cut(&parts.code), cut(&parts.literals)))
}

/// The environment variables that a file names.
pub(crate) fn variables(file: &File) -> Vec<String> {
    let Some((_, literals)) = product(file) else { return Vec::new() };
    words(&literals).filter(|word| word.strip_prefix("WEFT_").is_some_and(|name| !name.is_empty())).collect()
}

/// The default ports that a file names: Weft's lie between 7400 and 7599.
pub(crate) fn ports(file: &File) -> Vec<String> {
    let Some((code, literals)) = product(file) else { return Vec::new() };
    let is_port = |word: &String| {
        word.len() == 4 && (word.starts_with("74") || word.starts_with("75")) && word.bytes().all(|b| b.is_ascii_digit())
    };
    words(&code).chain(words(&literals)).filter(is_port).collect()
}

fn words(text: &str) -> impl Iterator<Item = String> + '_ {
    text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_').map(str::to_owned)
}

/// The reference of metrics, made from their Prometheus text.
pub(crate) fn metrics(prometheus: &str) -> String {
    let mut help = BTreeMap::new();
    let mut kinds = BTreeMap::new();
    for line in prometheus.lines() {
        match line.splitn(4, ' ').collect::<Vec<_>>()[..] {
            ["#", "HELP", name, text] => _ = help.insert(name, text.trim_end_matches('.')),
            ["#", "TYPE", name, kind] => _ = kinds.insert(name, kind),
            _ => {}
        }
    }
    let mut made = "# Metrics of the control plane\n\n\
        On the health port, at `/metrics`, in Prometheus' text form. Times are in seconds.\n\n\
        This file is made from the code: `WEFT_BLESS=1 cargo test -p weft-tests --test tidy metrics` writes it anew.\n\n\
        | metric | kind | says |\n|---|---|---|\n"
        .to_owned();
    for (name, text) in help {
        let kind = kinds.get(name).copied().unwrap_or("unknown");
        // Counters are asked for under this name.
        let suffix = if kind == "counter" { "_total" } else { "" };
        writeln!(made, "| `{name}{suffix}` | {kind} | {text} |").expect("writing to a text cannot fail");
    }
    made
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(path: &str, text: &str) -> File {
        File { path: path.to_owned(), text: text.to_owned(), test: path.starts_with("tests/") }
    }

    #[test]
    fn what_the_product_names_is_found_and_what_its_tests_name_is_not() {
        let text = "const A: &str = \"WEFT_DATA\"; // WEFT_NOT\nlet b = [\"http://h:7501/x\"]; f(7502, 74020);\n\
            #[cfg(test)]\nmod tests {\n    const C: &str = \"WEFT_TEST 7503\";\n}\n";
        let found = file("control-plane/src/a.rs", text);
        assert_eq!(variables(&found), ["WEFT_DATA"]);
        assert_eq!(ports(&found), ["7502", "7501"]);
        assert!(variables(&file("tests/a.rs", text)).is_empty());
        assert!(ports(&file("proto/src/a.rs", text)).is_empty());
    }

    #[test]
    fn only_documents_count_as_reference() {
        let files = [file("a/docs/b.md", "x"), file("a/src/b.md", "y"), file("a/docs/c.rs", "z")];
        assert_eq!(text(&files), "x");
    }

    #[test]
    fn a_new_metric_changes_the_reference() {
        let one = "# HELP weft_a Apples.\n# TYPE weft_a counter\nweft_a_total 0\n";
        assert!(metrics(one).ends_with("|---|---|---|\n| `weft_a_total` | counter | Apples |\n"));
        assert_ne!(metrics(one), metrics(&format!("{one}# HELP weft_b Pears.\n# TYPE weft_b gauge\n")));
    }
}
