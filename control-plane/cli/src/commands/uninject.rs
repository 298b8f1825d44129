//! `weft uninject`: takes out what `weft inject`, or the control plane, put in.

use std::path::PathBuf;

use clap::Args;
use weft_kubernetes::inject::settings::OnMistake;
use weft_kubernetes::inject::workload::Task;

use super::inject;
use crate::app::Context;
use crate::failure::{ExitCode, Failure};

const EXAMPLES: &str = "\
Examples:
  weft uninject -f injected.yaml | kubectl apply -f -
  kubectl get deployment files -o yaml | weft uninject -f - | kubectl apply -f -";

/// Takes sidecars out of the pods of Kubernetes manifests, and prints the manifests
///
/// What comes out is what went in, by the record that was made then in the annotation weft.dev/status; what was changed
/// since stays changed. Documents without a sidecar are printed byte by byte as they were.
#[derive(Clone, Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct UninjectArgs {
    /// A file, a folder (every *.yaml, *.yml and *.json below it, in order) or - for stdin; repeatable
    #[arg(long = "file", short = 'f', value_name = "FILE", required = true)]
    pub(crate) files: Vec<PathBuf>,
}

pub(crate) fn run(args: &UninjectArgs, context: &Context) -> Result<ExitCode, Failure> {
    inject::change(&args.files, Task::Uninject, OnMistake::Refuse, context)
}
