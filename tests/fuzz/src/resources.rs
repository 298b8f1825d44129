//! Documents as an operator applies them.

use weft_proto::resource::{Key, Resource, parse, parse_one};

/// Whatever is read must print as something that is read as the same, and whatever is refused must say why.
pub fn resources(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    match parse("fuzz.yaml", text) {
        Ok(parsed) => parsed.iter().for_each(|(resource, _)| prints_as_itself(resource)),
        Err(errors) => {
            assert!(!errors.is_empty(), "a text was refused without a reason");
            errors.iter().for_each(|error| assert!(!error.to_string().is_empty()));
        }
    }
}

fn prints_as_itself(resource: &Resource) {
    reads_as(&resource.to_yaml(), resource);
    let mut bare = resource.clone();
    bare.metadata.resource_version = None;
    reads_as(&resource.canonical(), &bare);
    let key = resource.key();
    assert_eq!(key.to_string().parse::<Key>().as_ref(), Ok(&key));
}

/// Checks that a text holds exactly one object, and which.
pub(crate) fn reads_as(text: &str, expected: &Resource) {
    match parse_one("printed", text) {
        Ok(found) => assert_eq!(&found, expected, "what was printed is read as something else:\n{text}"),
        Err(errors) => panic!("what was printed is not read again: {errors:?}\n{text}"),
    }
}
