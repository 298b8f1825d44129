//! The home of the data plane: the sidecar that stands next to each MCP server.
//!
//! Nothing lives here yet. What will never live here is settled, and a test holds it: knowledge of the store, of
//! Kubernetes, of other sidecars' policies, and code that signs certificates.
