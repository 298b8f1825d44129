//! `weft install`, `weft upgrade` and `weft uninstall`: prints what a mesh is in a Kubernetes cluster, for `kubectl`.
//!
//! Not here: any client of an API server. What is printed is read by whoever applies it, and by whatever keeps it.

mod manifests;
#[cfg(test)]
mod tests;

use clap::Args;
use weft_proto::name::{Namespace, TrustDomain};

use self::manifests::{Hub, Mesh, Revision, Tag};
use crate::app::Context;
use crate::commands::version::CLIENT;
use crate::failure::{ExitCode, Failure};

const INSTALL_EXAMPLES: &str = "\
Examples:
  weft install --render | kubectl apply --server-side -f -
                                            a control plane in weft-system
  weft install --render --ha --hub registry.corp.example/weft --trust-domain corp.example > weft.yaml
                                            three replicas, with your images, to keep beside your other files
  weft install --render --revision next --tag 0.2.0 | kubectl apply --server-side -f -
                                            a second control plane, for pods with the label weft.dev/revision: next";

const UPGRADE_EXAMPLES: &str = "\
Examples:
  weft upgrade --render | kubectl apply --server-side -f -
  weft upgrade --render --ha --hub registry.corp.example/weft --trust-domain corp.example | kubectl diff --server-side -f -
                                            what would change";

const UNINSTALL_EXAMPLES: &str = "\
Examples:
  weft uninstall --render | kubectl delete --ignore-not-found -f -
  weft uninstall --render --resources | kubectl delete --ignore-not-found -f -
                                            every policy and server that was applied goes, too
  weft uninstall --render --revision next | kubectl delete --ignore-not-found -f -
                                            the second control plane alone";

/// What a mesh in a cluster is told apart by.
#[derive(Clone, Debug, Args)]
pub(crate) struct MeshArgs {
    /// Print manifests; nothing is sent
    #[arg(long, required = true)]
    pub(crate) render: bool,
    /// Several replicas that scale, are spread over nodes and zones, and close admission while none of them answers
    #[arg(long)]
    pub(crate) ha: bool,
    /// The namespace of the control plane
    #[arg(long, short = 'n', value_name = "NAMESPACE", default_value = "weft-system")]
    pub(crate) namespace: Namespace,
    /// The mesh's trust domain, which cannot be changed later
    #[arg(long, value_name = "DOMAIN", default_value = "weft.local")]
    pub(crate) trust_domain: TrustDomain,
    /// The registry, and the folder in it, that has the images weft-control-plane and weft-sidecar
    #[arg(long, value_name = "REGISTRY")]
    pub(crate) hub: Option<Hub>,
    /// The tag of the images
    #[arg(long, value_name = "TAG", default_value = CLIENT)]
    pub(crate) tag: Tag,
    /// A control plane beside the main one, for namespaces and pods with the label weft.dev/revision of this value
    #[arg(long, value_name = "NAME")]
    pub(crate) revision: Option<Revision>,
}

/// Prints the manifests of a control plane for a Kubernetes cluster
///
/// They are those of the Helm chart, with the same names. Definitions of resources come first. Whatever else the chart can
/// be told is said to Helm, or by a patch of what is printed.
#[derive(Clone, Debug, Args)]
#[command(after_help = INSTALL_EXAMPLES)]
pub(crate) struct InstallArgs {
    #[command(flatten)]
    pub(crate) mesh: MeshArgs,
}

/// Prints the manifests of this version, to be applied over those of the one before
///
/// Say what was said when it was installed. Sidecars of one version older or newer than their control plane work with it;
/// pods get the new one when they are made anew.
#[derive(Clone, Debug, Args)]
#[command(after_help = UPGRADE_EXAMPLES)]
pub(crate) struct UpgradeArgs {
    #[command(flatten)]
    pub(crate) mesh: MeshArgs,
}

/// Prints the manifests to be deleted
///
/// Webhooks come first, so that no pod waits for a control plane that is gone. Pods keep their sidecars, which go on with
/// what they know until their certificates end: take the labels away and make the pods anew before.
#[derive(Clone, Debug, Args)]
#[command(after_help = UNINSTALL_EXAMPLES)]
pub(crate) struct UninstallArgs {
    #[command(flatten)]
    pub(crate) mesh: MeshArgs,
    /// The definitions of resources, too: with them goes whatever was applied
    #[arg(long, conflicts_with = "revision")]
    pub(crate) resources: bool,
}

impl From<MeshArgs> for Mesh {
    fn from(args: MeshArgs) -> Self {
        let MeshArgs { render: _, ha, namespace, trust_domain, hub, tag, revision } = args;
        Self { ha, namespace, trust_domain, hub, tag, revision }
    }
}

pub(crate) fn run(args: InstallArgs, context: &Context) -> Result<ExitCode, Failure> {
    print(args.mesh, context)
}

pub(crate) fn upgrade(args: UpgradeArgs, context: &Context) -> Result<ExitCode, Failure> {
    print(args.mesh, context)
}

fn print(args: MeshArgs, context: &Context) -> Result<ExitCode, Failure> {
    let mesh = Mesh::from(args);
    let definitions = if mesh.revision.is_some() { Vec::new() } else { definitions()? };
    context.terminal.print(&manifests::to_apply(&mesh, &definitions))?;
    Ok(ExitCode::Done)
}

pub(crate) fn uninstall(args: UninstallArgs, context: &Context) -> Result<ExitCode, Failure> {
    let definitions = if args.resources { definitions()? } else { Vec::new() };
    context.terminal.print(&manifests::to_delete(&args.mesh.into(), &definitions))?;
    Ok(ExitCode::Done)
}

/// The definitions of the kinds, a document each.
fn definitions() -> Result<Vec<String>, Failure> {
    let files = weft_kubernetes::crds::files()
        .map_err(|error| Failure::failed("the definitions of resources cannot be made").because(error))?;
    Ok(files.into_iter().map(|(_, text)| text).collect())
}
