//! The chaos tier: parts are killed, starved and cut off, and what they promised must hold all the same.

#![allow(clippy::unwrap_used, reason = "in a test, whatever goes wrong is to be a panic")]

mod fleet;
mod load;
mod plane;
mod process;
mod way;

mod assembly;
mod clock;
mod completed;
mod control_plane;
mod crowd;
mod descriptors;
mod disk;
mod killed;
mod memory;
mod names;
mod overload;
mod paused;
mod rotation;
mod shared_limit;
mod store_kill;
mod trail;

// What the flow tier tells its stories with serves here, too.
#[path = "../flow/traffic/agent.rs"]
#[allow(dead_code, reason = "not all of it is needed here")]
mod agent;
#[path = "../flow/mesh.rs"]
#[allow(dead_code, reason = "not all of it is needed here")]
mod mesh;
#[path = "../flow/traffic/pair.rs"]
#[allow(dead_code, reason = "not all of it is needed here")]
mod pair;
#[path = "../flow/traffic/upstream.rs"]
#[allow(dead_code, reason = "not all of it is needed here")]
mod upstream;
