//! The data plane: the sidecar that stands next to each MCP server, or each agent, and decides locally who may call
//! what.
//!
//! A request's life is [`pipeline`]; everything else exists to serve it. Never here: knowledge of the store, of
//! Kubernetes, of other sidecars' policies, and code that signs certificates; a test holds it.

pub mod body;
pub mod bootstrap;
pub mod clock;
pub mod exchange;
pub mod limits;
pub mod outbound;
pub mod refusal;
pub mod session_id;
pub mod state;
pub mod upstream;
