//! Delta discovery: who is connected, what each client holds, and what it must hear next.
//!
//! `session` is the protocol as a pure state machine; `hub` applies changes and wakes clients; `stream` carries one
//! client; `status` is what people see of it all.

mod hub;
mod node;
mod session;
mod status;
mod stream;

pub use hub::{Hub, Settings};
pub use status::{ClientStatus, NackStatus, Sync, TypeStatus};
pub use stream::Discovery;

#[doc(hidden)]
pub use session::{View, fuzz};
