//! Which words a text has.

/// Bytes of one word; a longer one is cut.
const WORD_BYTES_MAX: usize = 64;

/// The words of a text, in their order, each in the one form in which it is looked for: in small letters, less the `s`
/// of a plural. `readFile`, `read_file` and `Read files` have the same words.
pub fn words(text: &str) -> impl Iterator<Item = Box<str>> {
    let parts = text.split(|it: char| !it.is_alphanumeric()).filter(|part| !part.is_empty());
    parts.flat_map(humps).map(stem)
}

/// Parts at capitals and where figures begin or end: `HTTPServer2` has `HTTP`, `Server` and `2`.
fn humps(part: &str) -> impl Iterator<Item = &str> {
    let mut rest = part;
    std::iter::from_fn(move || {
        let mut letters = rest.char_indices().peekable();
        let (_, mut before) = letters.next()?;
        while let Some((at, letter)) = letters.next() {
            let after = letters.peek().map(|(_, letter)| *letter);
            let begins = (letter.is_uppercase() && before.is_lowercase())
                || (letter.is_uppercase() && before.is_uppercase() && after.is_some_and(char::is_lowercase))
                || letter.is_numeric() != before.is_numeric();
            if begins {
                let (hump, after) = rest.split_at(at);
                rest = after;
                return Some(hump);
            }
            before = letter;
        }
        Some(std::mem::take(&mut rest))
    })
}

fn stem(word: &str) -> Box<str> {
    let small = word.to_lowercase();
    let cut = small.floor_char_boundary(WORD_BYTES_MAX);
    let word = &small[..cut];
    let singular =
        word.strip_suffix('s').filter(|it| it.chars().count() > 2 && !it.ends_with(['s', 'u', 'i']));
    singular.unwrap_or(word).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_has_the_words_that_people_would_look_for() {
        let check = |text: &str, expected: &[&str]| {
            let found: Vec<_> = words(text).collect();
            let found: Vec<&str> = found.iter().map(|it| &**it).collect();
            assert_eq!(found, expected, "{text}");
        };
        check("read_file", &["read", "file"]);
        check("readFiles", &["read", "file"]);
        check("Read files.", &["read", "file"]);
        check("aws.s3-listBuckets", &["aws", "s", "3", "list", "bucket"]);
        check("HTTPServer", &["http", "server"]);
        check("file:///logs/{date}.txt", &["file", "log", "date", "txt"]);
        check("address status bus is", &["address", "status", "bus", "is"]);
        check("Übergänge Straße", &["übergänge", "straße"]);
        check("--", &[]);
        assert_eq!(words(&"x".repeat(1000)).next().unwrap().len(), WORD_BYTES_MAX);
    }
}
