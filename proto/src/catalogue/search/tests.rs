use proptest::prelude::*;

use super::*;

fn index(documents: &[(&'static str, &str)]) -> Index<&'static str> {
    let mut index = Index::default();
    for (name, description) in documents {
        let definition = serde_json::json!({ "name": name, "description": description }).to_string();
        index.put(*name, &Document::of(name, &definition));
    }
    index
}

fn found(index: &Index<&'static str>, question: &str) -> Vec<&'static str> {
    index.search(question, 10, |_| true).into_iter().map(|hit| hit.key).collect()
}

#[test]
fn a_name_says_more_than_a_description_and_a_rare_word_more_than_a_common_one() {
    let index = index(&[
        ("read_file", "Reads a file from the disk."),
        ("list_files", "Lists what is in a folder."),
        ("send_mail", "Sends mail; a file may be attached."),
        ("query", "Asks the database."),
    ]);
    assert_eq!(found(&index, "file")[2], "send_mail");
    assert_eq!(found(&index, "attach a file to mail")[0], "send_mail");
    assert_eq!(found(&index, "readFile")[0], "read_file");
    assert_eq!(found(&index, "DATABASE"), ["query"]);
    assert_eq!(found(&index, "weather"), [""; 0]);
    assert_eq!(found(&index, "?"), [""; 0]);
}

#[test]
fn what_arguments_are_called_is_found() {
    let definition = r#"{"name":"act","inputSchema":{"properties":{"passengers":{"type":"array","items":{
        "properties":{"seatClass":{"description":"economy or business"}}}}}}}"#;
    let mut index = index(&[("other", "")]);
    index.put("act", &Document::of("act", definition));
    index.put(
        "ask",
        &Document::of("ask", r#"{"name":"ask","arguments":[{"name":"tone","description":"polite"}]}"#),
    );
    for (question, expected) in
        [("passenger", "act"), ("seat", "act"), ("business", "act"), ("polite tone", "ask")]
    {
        assert_eq!(found(&index, question), [expected], "{question}");
    }
    index.put("broken", &Document::of("broken", "{"));
    assert_eq!(found(&index, "broken"), ["broken"]);
}

#[test]
fn equals_come_in_the_order_of_their_keys_and_only_what_is_wanted_comes() {
    let index = index(&[("c_x", ""), ("a_x", ""), ("b_x", "")]);
    assert_eq!(found(&index, "x"), ["a_x", "b_x", "c_x"]);
    let wanted: Vec<_> = index.search("x", 1, |key| *key != "a_x").into_iter().map(|hit| hit.key).collect();
    assert_eq!(wanted, ["b_x"]);
}

#[test]
fn the_words_of_a_document_and_of_a_question_are_bounded() {
    let many: Vec<String> = (0..DOCUMENT_WORDS_MAX).map(|_| "word".to_owned()).collect();
    let index = index(&[("a", &format!("{} last", many.join(" "))), ("b", "last")]);
    assert_eq!(found(&index, "last"), ["b"]);
    let question: Vec<String> = (0..QUESTION_WORDS_MAX).map(|n| format!("w{}", "x".repeat(n))).collect();
    assert_eq!(found(&index, &format!("{} last", question.join(" "))), [""; 0]);
}

proptest! {
    /// Whatever was put and removed on the way: an index is what its documents are.
    #[test]
    fn an_index_is_what_its_documents_are(
        steps in proptest::collection::vec((0_u8..6, proptest::option::of("[a-c]{1,2}( [a-c]{1,2}){0,3}")), 0..40),
        question in "[a-c]{1,2} [a-c]{1,2}",
    ) {
        let document = |text: &String| Document { name: text.clone(), ..Document::default() };
        let (mut index, mut present) = (Index::default(), BTreeMap::new());
        for (key, text) in steps {
            match text {
                Some(text) => {
                    index.put(key, &document(&text));
                    present.insert(key, text);
                }
                None => {
                    index.remove(&key);
                    present.remove(&key);
                }
            }
        }
        let mut fresh = Index::default();
        for (key, text) in &present {
            fresh.put(*key, &document(text));
        }
        prop_assert_eq!(index.len(), present.len());
        prop_assert_eq!(index.search(&question, 10, |_| true), fresh.search(&question, 10, |_| true));
    }
}
