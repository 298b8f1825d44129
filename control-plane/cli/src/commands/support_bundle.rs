//! `weft support-bundle`: what somebody who looks into a fault needs, in one file, and no secrets.
//!
//! Whatever is taken along is listed here; of objects, what is not known to be harmless is withheld, and all texts are
//! scrubbed. What could not be had, or was too much, is said in the manifest.

mod archive;
mod parts;

use std::path::PathBuf;

use clap::Args;
use jiff::Timestamp;

use crate::app::Context;
use crate::failure::{ExitCode, Failure};

const EXAMPLES: &str = "\
Examples:
  weft support-bundle                       weft-support-<time>.tar.gz in this folder
  weft support-bundle --output fault.tar.gz
  tar -xzf fault.tar.gz && less weft-support/manifest.json
                                            what is in it, and what was left out

In it are the versions, the checks, how sidecars stand and what they report, roots and certificates by their
fingerprints, objects, the history without reasons, limits, tools by their digests, how far audit trails are, what was
refused to operators lately, and the control plane's metrics. Of objects, arguments, values of environments and headers,
expressions and free texts are withheld; of addresses all but the host; tokens and keys in any text. Names of namespaces,
servers, tools and accounts are in it: look through it before you pass it on. Of the logs of the control plane and of up to
50 sidecars the newest 128 KiB are in it, without what servers say.";

/// Gathers what is needed to look into a fault, without secrets
#[derive(Clone, Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct SupportBundleArgs {
    /// The file to write, which must not be there yet; weft-support-<time>.tar.gz if not given
    #[arg(long, value_name = "FILE")]
    pub(crate) output: Option<PathBuf>,
    /// Where health and metrics are served; found from the server's address if that has the usual port
    #[arg(long, value_name = "URL")]
    pub(crate) health_url: Option<String>,
}

pub(crate) async fn run(args: SupportBundleArgs, context: &Context) -> Result<ExitCode, Failure> {
    let now = context.now();
    let path = args.output.unwrap_or_else(|| PathBuf::from(name(now)));
    let gathered = Box::pin(parts::gather(args.health_url.as_deref(), context)).await?;
    let (bytes, absent) = (archive::pack(&gathered, now)?, gathered.absent.len());
    archive::write(&path, &bytes)?;
    context.terminal.say(&format!("{} files are in {}", gathered.parts.len(), path.display()));
    if absent > 0 {
        context.terminal.say(&format!("{absent} could not be had; manifest.json says why"));
    }
    Ok(ExitCode::Done)
}

fn name(now: Timestamp) -> String {
    format!("weft-support-{}.tar.gz", now.strftime("%Y%m%dT%H%M%SZ"))
}
