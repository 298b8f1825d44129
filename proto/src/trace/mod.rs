//! Traces: which trace a call belongs to, whether it is recorded, and how that goes on with the message.
//!
//! A call's context stands in `_meta` of its message, and may stand in the headers of its request too; where both do,
//! the message is believed, for it passes what understands only HTTP. Identifiers are made where there is randomness.
//! Not here: spans and where they are sent.

mod carry;
mod context;
pub mod sampling;

pub use carry::{Carried, carry};
pub use context::{Baggage, Context, SpanId, State, TraceId};
