//! The control plane under load: one command, one table.
//!
//! Every figure is measured in this run. The control plane runs in a process of its own, so that its memory is its own;
//! the sidecars are simulated, each with its own key, certificate, connection and stream.

mod catalogue;
mod child;
mod churn;
mod decide;
mod fleet;
mod injection;
mod listening;
mod micro;
mod operator;
mod parts;
mod quota;
mod resume;
mod scenario;
mod table;

use clap::Parser;

#[derive(Debug, Parser)]
#[command(
    about = "Benchmarks of the Weft control plane",
    after_help = "Example: benches/run --sidecars 10000"
)]
struct Args {
    /// How many sidecars are simulated.
    #[arg(long, default_value_t = 10_000)]
    sidecars: usize,
    /// Leave out the fleet and run only what needs no connections.
    #[arg(long)]
    micro_only: bool,
    /// Run only a mesh of so many resources that changes all the time.
    #[arg(long, value_name = "RESOURCES")]
    churn: Option<usize>,
    /// For so many seconds.
    #[arg(long, default_value_t = 600, requires = "churn")]
    churn_secs: u64,
    /// Run this part of what needs no connections, and nothing else.
    #[arg(long)]
    only: Option<Part>,
    /// How many clients listen.
    #[arg(long, default_value_t = 10_000)]
    streams: usize,
    /// Run as the control plane of a benchmark; used by the benchmark itself.
    #[arg(long, hide = true)]
    child: Option<std::path::PathBuf>,
    /// Address for the child's sidecars' door.
    #[arg(long, hide = true, default_value = "127.0.0.1:0")]
    sidecars_at: std::net::SocketAddr,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Part {
    /// Signing, schemas, planning.
    Micro,
    /// Decisions of policies.
    Decide,
    /// Calls against limits.
    Checks,
    /// Lending of mesh-wide limits.
    Lending,
    /// A thousand servers at one address.
    Catalogue,
    /// The same at a gateway that shows each caller its part.
    Parts,
    /// Sidecars put into pods.
    Injection,
    /// Many clients that listen at one sidecar. Both ends of each stream are files here: `ulimit -n` must allow it.
    Listening,
    /// Sessions that one replica opened and another goes on with.
    Resume,
}

fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    if let Some(folder) = args.child {
        return runtime.block_on(child::run(folder, args.sidecars_at));
    }
    let mut table = table::Table::default();
    if let Some(resources) = args.churn {
        let length = std::time::Duration::from_secs(args.churn_secs);
        runtime.block_on(churn::run(resources, length, &mut table))?;
        return table.print();
    }
    let parts = args
        .only
        .map_or_else(|| vec![Part::Micro, Part::Decide, Part::Checks, Part::Lending], |only| vec![only]);
    for part in parts {
        match part {
            Part::Micro => micro::run(&mut table)?,
            Part::Decide => decide::run(&mut table)?,
            Part::Checks => quota::checking(&mut table)?,
            Part::Lending => quota::lending_to_all(&mut table)?,
            Part::Catalogue => runtime.block_on(catalogue::run(&mut table))?,
            Part::Parts => runtime.block_on(parts::run(&mut table))?,
            Part::Resume => runtime.block_on(resume::run(&mut table))?,
            Part::Injection => {
                injection::run(&mut table)?;
                runtime.block_on(injection::steadily(&mut table))?;
            }
            Part::Listening => runtime.block_on(listening::run(args.streams, &mut table))?,
        }
    }
    if !args.micro_only && args.only.is_none() {
        runtime.block_on(scenario::run(args.sidecars, &mut table))?;
    }
    table.print()
}
