//! Delta discovery: who is connected, what each client holds, and what it must hear next.
//!
//! `session` is the protocol as a pure state machine; `hub` applies changes and wakes clients; `stream` carries one
//! client; `status` is what people see of it all.

mod hub;
mod node;
mod session;
mod settings;
mod status;
mod stream;

pub use hub::held::{Held, HeldObjects};
pub use hub::{Hub, Intended, Reporter};
pub use settings::Settings;
pub use status::{ClientStatus, NackStatus, Sync, TypeStatus};
pub use stream::Discovery;

/// The limits of one stream, by name, for the reference that is checked against them.
pub const fn limits() -> [(&'static str, usize); 9] {
    [
        ("names in one request", session::REQUEST_NAMES_MAX),
        ("names that one sidecar subscribes to in one type", session::SUBSCRIPTIONS_MAX),
        ("bytes of a name", session::NAME_BYTES_MAX),
        ("resources in one response", session::RESPONSE_RESOURCES_MAX),
        ("bytes of resources in one response, unless one alone is larger", session::RESPONSE_BYTES_MAX),
        ("names taken away in one response", session::RESPONSE_REMOVED_MAX),
        ("resources of one type that a sidecar may say it still holds", session::BROUGHT_MAX),
        ("types that a sidecar may ask for and we do not know", session::UNKNOWN_TYPES_MAX),
        ("responses of one type that await an answer before changes wait too", session::UNANSWERED_MAX),
    ]
}

#[doc(hidden)]
pub use session::{View, fuzz};
