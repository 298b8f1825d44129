//! The data plane: the sidecar that stands next to each MCP server, or each agent, and decides locally who may call
//! what.
//!
//! A request's life is [`pipeline`]; everything else exists to serve it. Never here: knowledge of the store, of
//! Kubernetes, of other sidecars' policies, and code that signs certificates; a test holds it.

pub mod accept;
pub mod access_log;
pub mod admin;
pub mod admit;
pub mod answer;
pub mod app;
pub mod assembly;
pub mod audit;
pub mod authorize;
pub mod backend;
pub mod body;
pub mod bootstrap;
pub mod bridge;
pub mod capture;
pub mod classify;
pub mod cli;
pub mod clock;
pub mod control;
pub mod copy;
pub mod descriptors;
pub mod exchange;
pub mod exposure;
pub mod external;
pub mod forward;
pub mod gateway;
pub mod headers;
pub mod health;
pub mod heard;
pub mod identify;
pub mod limits;
pub mod logged;
pub mod logging;
pub mod metrics;
mod oldest;
pub mod onlook;
pub mod outbound;
pub mod pipeline;
pub mod probes;
pub mod push;
pub mod quota;
pub mod reads;
pub mod receive;
pub mod record;
pub mod refusal;
pub mod relay;
pub mod room;
pub mod route;
pub mod servers;
pub mod session_id;
mod shown;
pub mod sse;
mod standing;
pub mod state;
pub mod stdio;
mod striped;
pub mod task_id;
pub mod tools;
pub mod trace;
pub mod upstream;
mod watched;
