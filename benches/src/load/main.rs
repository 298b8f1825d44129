//! The request path under load, side by side with its peers: one command, one table.
//!
//! Every part of a run is this binary in another role: the server behind the proxies, the generator before them, the
//! hand-written relay, the child of the stdio runs. Each role is a process of its own, so that it can be given a core
//! and so that its processor time and memory are its own. Not here: the control plane's benchmark, `weft-bench`.

mod calls;
mod certs;
mod collector;
mod compare;
mod drive;
mod histogram;
mod http1;
mod message;
mod process;
mod relay;
mod stdio;
mod systems;
mod upstream;

use clap::{Parser, Subcommand};

#[derive(Debug, Parser)]
#[command(about = "Load on the sidecar and on its peers", after_help = "Example: benches/load --quick")]
struct Args {
    #[command(subcommand)]
    role: Role,
}

#[derive(Debug, Subcommand)]
enum Role {
    /// Run everything side by side and print the table.
    Compare(Box<compare::Args>),
    /// Put load on one address and print what was measured, as one line of JSON.
    Drive(Box<drive::Args>),
    /// Be a small MCP server, of both eras.
    Upstream(upstream::Args),
    /// Be a collector of spans.
    Collector(collector::Args),
    /// Be the relay that does nothing but relay.
    Relay(relay::Args),
    /// Found an authority and write certificates for a server and a client.
    Certs(certs::Args),
    /// Be an MCP server on standard input and output.
    StdioEcho,
    /// Measure a stdio server without anything between.
    StdioDrive(stdio::Args),
}

fn main() -> anyhow::Result<()> {
    // One thread for each role: it is to have one core.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let local = tokio::task::LocalSet::new();
    runtime.block_on(local.run_until(async {
        match Args::parse().role {
            Role::Compare(args) => compare::run(*args).await,
            Role::Drive(args) => drive::run(*args).await,
            Role::Upstream(args) => upstream::run(args).await,
            Role::Collector(args) => collector::run(args).await,
            Role::Relay(args) => relay::run(args).await,
            Role::Certs(args) => certs::run(&args),
            Role::StdioEcho => stdio::echo(),
            Role::StdioDrive(args) => stdio::drive(&args),
        }
    }))
}
