//! A stored configuration as a sidecar finds it at its start, on a disk that anything may have happened to.

use weft_proto::compile::compile;
use weft_sidecar::control::session::Session;
use weft_sidecar::control::store::{self, Stored};

/// The bytes are tried as a file, and as the body of a file whose checksum is right, which bytes that change at random
/// never achieve. Whatever is read must be what is written again, and make a configuration.
pub fn snapshot(data: &[u8]) {
    for file in [data.to_vec(), store::seal(data)] {
        match store::decode(&file) {
            Ok(stored) => taken_up(stored),
            Err(error) => assert!(!error.to_string().is_empty()),
        }
    }
}

fn taken_up(stored: Stored) {
    let again = store::decode(&store::encode(&stored)).expect("what is written is read");
    assert_eq!(again, stored);
    let (mut session, _) = Session::restored(stored.resources);
    let change = session.restored_change();
    let snapshot = compile(&change.parts);
    assert_eq!(
        snapshot.servers.len() + change.held_back,
        session.count(weft_proto::wire::ResourceType::Server)
    );
    // What was taken up is what would be stored, and is taken up whole.
    let (mut session, lost) = Session::restored(session.resources());
    assert!(lost.is_empty(), "{lost:?}");
    assert_eq!(session.restored_change().version, change.version);
}
