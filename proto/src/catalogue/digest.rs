//! By what one definition is told from another on the way to the catalogue, and in its history.
//!
//! SHA-256 over the canonical JSON of the whole definition, numbers as they are written: whoever has this digest has
//! the very definition, but for blanks and the order of members. What is approved of a tool is less than that, and has a
//! digest of its own (`policy::tools::definition`).

use aws_lc_rs::digest::{SHA256, digest as hash};

use crate::mcp::{self, Raw};
use crate::policy::tools::DEPTH_MAX;
use crate::policy::tools::canonical::{Numbers, canonical};

/// Bytes of a digest.
pub const BYTES: usize = 32;

/// The digest of a definition, from its JSON text. One that two readers could understand differently has none.
pub fn digest(definition: &str) -> Result<[u8; BYTES], mcp::Error> {
    let text = canonical(Raw::scan(definition, DEPTH_MAX)?, Numbers::AsWritten);
    let mut bytes = [0; BYTES];
    bytes.copy_from_slice(hash(&SHA256, text.as_bytes()).as_ref());
    Ok(bytes)
}

/// As people read it.
pub fn hex(digest: &[u8; BYTES]) -> String {
    digest.iter().fold("sha256:".to_owned(), |text, byte| format!("{text}{byte:02x}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_otherwise_is_the_same_and_what_says_something_else_is_not() {
        let of = |text: &str| digest(text).unwrap();
        let tool = r#"{"name":"a","_meta":{"ui":1}}"#;
        assert_eq!(of(tool), of(r#" { "_meta" : {"ui":1}, "n\u0061me":"a" } "#));
        for other in
            [r#"{"name":"a"}"#, r#"{"name":"a","_meta":{"ui":1.0}}"#, r#"{"name":"A","_meta":{"ui":1}}"#]
        {
            assert_ne!(of(tool), of(other), "{other}");
        }
        assert!(digest(r#"{"name":"a","name":"b"}"#).is_err());
        // Of `{}`, as `sha256sum` has it.
        let empty = "sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a";
        assert_eq!(hex(&of("{ }")), empty);
    }
}
