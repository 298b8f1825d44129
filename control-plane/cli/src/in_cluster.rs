//! `weft control-plane --kubernetes`: a control plane that is one of several in a cluster.

use std::fs::File;
use std::io::Read as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use clap::Args;
use serde_json::json;
use weft_control_plane::app::Config;
use weft_kubernetes::inject::Settings;
use weft_kubernetes::inject::settings::TEXT_BYTES_MAX;
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
    /// Wait for the Secret weft-issuer, which something else makes and renews, as cert-manager does, instead of making it
    #[arg(long, requires = "kubernetes")]
    pub(crate) issuer_given: bool,
    /// How sidecars are put into pods, in YAML; without, none are. With another revision than `default`, this control plane
    /// is tried beside the main one, and leaves alone what is the main one's
    #[arg(long, value_name = "FILE", requires = "kubernetes")]
    pub(crate) injector_settings: Option<PathBuf>,
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
        issuer_is_given: args.issuer_given,
        injector: args.injector_settings.as_deref().map(settings).transpose()?,
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

/// Reads how sidecars are put into pods.
fn settings(path: &Path) -> Result<Settings, Failure> {
    let wrong = |why: &dyn std::error::Error| {
        Failure::usage(format!("--injector-settings: {}: {why}", path.display()))
    };
    let file = File::open(path).map_err(|error| wrong(&error))?;
    let mut text = String::new();
    file.take(TEXT_BYTES_MAX as u64 + 1).read_to_string(&mut text).map_err(|error| wrong(&error))?;
    Settings::parse(&text).map_err(|error| wrong(&error))
}

fn refused(error: &app::Error) -> Failure {
    match error {
        app::Error::ControlPlane(inner) => refused_start(inner),
        other => Failure::failed(format!("the control plane does not start: {other}")).because(causes(other)),
    }
}
