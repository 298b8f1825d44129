//! `weft control-plane --kubernetes`: a control plane that is one of several in a cluster.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::Args;
use serde_json::json;
use weft_control_plane::app::Config;
use weft_kubernetes::{app, cluster, leader};
use weft_proto::name::Namespace;

use crate::failure::{ExitCode, Failure};
use crate::running::{causes, refused_start, until_asked_to_stop};
use crate::terminal::Terminal;

/// How a control plane lives in a cluster.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Kubernetes")]
pub(crate) struct ClusterArgs {
    /// Run as one of several control planes of a cluster: objects, secrets and leadership are the API server's
    #[arg(long, requires = "trust_domain", conflicts_with_all = ["ca_key_file", "issuer_dir"])]
    pub(crate) kubernetes: bool,
    /// How to reach the API server from outside of the cluster; a pod knows by itself
    #[arg(long, value_name = "FILE", requires = "kubernetes")]
    pub(crate) kubeconfig: Option<PathBuf>,
    /// The namespace that the control plane is in
    #[arg(long, value_name = "NAME", default_value = "weft-system")]
    pub(crate) namespace: Namespace,
    /// Where the API server reaches the webhooks
    #[arg(long, value_name = "ADDRESS", default_value = "0.0.0.0:7503")]
    pub(crate) listen_webhooks: SocketAddr,
    /// Wait for this Secret, with tls.crt, tls.key and ca.crt of an intermediate that something else makes and renews, as
    /// cert-manager does, instead of making one
    #[arg(long, value_name = "NAME", requires = "kubernetes")]
    pub(crate) issuer_secret: Option<String>,
    /// The name of this control plane if it is tried beside the main one, whose names it then does not touch
    #[arg(long, value_name = "NAME", requires = "kubernetes")]
    pub(crate) revision: Option<String>,
    /// The pod that this process is in
    #[arg(
        long,
        value_name = "NAME",
        env = "WEFT_POD_NAME",
        hide_env_values = true,
        default_value = "outside"
    )]
    pub(crate) pod: String,
}

/// Serves a control plane in a cluster until it is stopped. Where it is, is one line of JSON for whatever started it; the
/// admin token is in the Secret weft-admin.
pub(crate) async fn run(
    args: ClusterArgs,
    control_plane: Config,
    terminal: &Terminal,
) -> Result<ExitCode, Failure> {
    let config = app::Config {
        control_plane,
        kubeconfig: args.kubeconfig,
        namespace: args.namespace,
        webhooks: args.listen_webhooks,
        issuer_secret: args.issuer_secret,
        revision: args.revision,
        pod: args.pod,
        accounts: cluster::Limits::default(),
        leadership: leader::Timing::default(),
    };
    let running = tokio::select! {
        started = Box::pin(app::start(config)) => started.map_err(|error| refused(&error))?,
        asked = until_asked_to_stop() => return asked.map(|()| ExitCode::Done),
    };
    let inner = &running.control_plane;
    let said = json!({
        "sidecars": inner.sidecars.to_string(),
        "operators": inner.operators.to_string(),
        "health": inner.health.to_string(),
        "webhooks": inner.webhooks.map(|address| address.to_string()),
        "trustDomain": inner.trust.trust_domain(),
        "caFile": inner.roots_file,
    });
    terminal.print(&format!("{said}\n"))?;
    let shutdown = inner.shutdown();
    let ended = tokio::select! {
        asked = until_asked_to_stop() => asked.map(|()| ExitCode::Done),
        () = shutdown.cancelled() => Err(Failure::failed("the control plane ended by itself; the log says why")),
    };
    running.stop().await;
    ended
}

fn refused(error: &app::Error) -> Failure {
    match error {
        app::Error::ControlPlane(inner) => refused_start(inner),
        other => Failure::failed(format!("the control plane does not start: {other}")).because(causes(other)),
    }
}
