//! A control plane in this process: starting it, saying where it is, and ending it when asked to.

use std::error::Error;
use std::io::IsTerminal as _;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::json;
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use weft_control_plane::app::{self, Config, KekSource, Running};
use weft_control_plane::{auth, clock};
use weft_sidecar::cli::kept;
use weft_telemetry::recent::Recent;

use crate::app::Context;
use crate::client::{Client, Path as ApiPath};
use crate::commands::outcome;
use crate::credentials::{Given, OPERATOR_FILE, OperatorFile, Secret, read_operator_file};
use crate::failure::{ExitCode, Failure};
use crate::files::{File, Joined};
use crate::in_cluster;
use crate::screen::{Above, Screen};
use crate::serve::{ControlPlaneArgs, LogArgs, LogFormat, UpArgs};
use crate::terminal::Terminal;
use crate::up::sides::{self, Sides};
use crate::up::{agents, show, tour};

/// The environment variable that holds the key when no file does. It is no flag: a command line can be seen by others.
const CA_KEY_VARIABLE: &str = "WEFT_CA_KEY";
/// The folder of a home that belongs to the control plane.
const DATA: &str = "data";

/// Starts a mesh in a folder and serves it until it is stopped.
pub(crate) async fn up(args: UpArgs, resources: Vec<File>, context: &Context) -> Result<ExitCode, Failure> {
    let terminal = &context.terminal;
    let agents = agents::all(args.listen_agent, &args.agents);
    let agents = agents.map_err(|why| Failure::usage(format!("--agent: {why}")))?;
    let agents = (!args.no_sidecars).then_some(agents);
    let draws = terminal.drawable() && !args.no_table && !args.no_sidecars;
    let screen = draws.then(|| Arc::new(Screen::new(Arc::clone(terminal))));
    let log = start_log(&args.log, screen.as_ref())?;
    weft_sidecar::descriptors::raise();
    let named = !args.files.is_empty();
    let home = &context.given.home;
    make_folder(home)?;
    let mut config = Config::local(home.join(DATA));
    config.log = log;
    config.kek = KekSource::File { path: home.join("ca.key"), create: true };
    config.trust_domain = Some(args.trust_domain);
    (config.sidecars, config.operators, config.health) =
        (args.listen_sidecars, args.listen_operators, args.listen_health);
    let running = Box::pin(start(config)).await?;
    sign_in(home, &running).await?;
    // The examples are a beginning: what became of them since is not undone.
    let begins = running.admin_token.is_some();
    let resources = if named || begins { resources } else { Vec::new() };
    let applied = apply(home, resources, context).await?;
    let sides = match agents {
        Some(agents) => Some(Box::pin(sides::start(&running, home, agents)).await?),
        None => None,
    };
    greet(terminal, home, &running, applied, sides.as_ref())?;
    match sides {
        Some(sides) => with_sidecars(sides, terminal, screen).await?,
        None => until_asked_to_stop().await?,
    }
    running.stop().await;
    Ok(ExitCode::Done)
}

/// Says how the sidecars stand from the start to the end.
async fn with_sidecars(
    sides: Sides,
    terminal: &Terminal,
    screen: Option<Arc<Screen>>,
) -> Result<(), Failure> {
    let served = async {
        sides.settled().await;
        introduce(terminal, &sides).await?;
        show::show(&sides, terminal, screen.as_ref()).await;
        Ok(())
    };
    let ended = tokio::select! {
        asked = until_asked_to_stop() => asked,
        shown = served => shown,
    };
    if let Some(screen) = screen {
        screen.leave();
    }
    terminal.say("stopping: calls under way may finish");
    sides.stop().await;
    ended
}

/// Says where the agent's endpoint is, what stands behind it, and how a client is told of it.
async fn introduce(terminal: &Terminal, sides: &Sides) -> Result<(), Failure> {
    let (agent, seen) = (sides.address(), sides.board.look());
    let urls = seen.servers.keys().map(|name| (name, format!("http://{agent}/servers/{name}/mcp")));
    let mut said =
        String::from("\nServers, each with a sidecar beside it and mutual TLS on the way there:\n");
    let shown = urls.clone().map(|(name, url)| (name.to_string(), url));
    let left_out = seen.left_out.iter().map(|(name, why)| (name.to_string(), format!("not here: {why}")));
    let shown: Vec<_> = shown.chain(left_out).collect();
    let width = shown.iter().map(|(name, _)| name.len()).max().unwrap_or_default();
    for (name, what) in shown {
        said += &format!("  {name:<width$}  {what}\n");
    }
    said +=
        &format!("All of them at one address, with every tool under a name of its own: http://{agent}/mcp\n");
    if let [_, others @ ..] = &*sides.agents
        && !others.is_empty()
    {
        said += "Other agents, each with an identity and an address of its own:\n";
        others.iter().for_each(|(node, address)| {
            said += &format!("  {node}  http://{address}/servers/<server>/mcp\n")
        });
    }
    let clients: serde_json::Map<_, _> =
        urls.map(|(name, url)| (name.name.to_string(), json!({ "type": "http", "url": url }))).collect();
    said += &format!("For your client:\n{:#}\n", json!({ "mcpServers": clients }));
    if seen.servers.keys().any(|name| name.to_string() == tour::SERVER)
        && let Some(shown) = tour::take(agent).await
    {
        said += &shown;
    }
    terminal.print(&said)
}

/// Serves a control plane until it is stopped. Where it is, is one line of JSON for whatever started it.
pub(crate) async fn control_plane(args: ControlPlaneArgs, terminal: &Terminal) -> Result<ExitCode, Failure> {
    let log = start_log(&args.log, None)?;
    make_folder(&args.data_dir)?;
    let mut config = Config::local(args.data_dir);
    config.log = log;
    config.kek = kek(args.ca_key_file, args.issuer_dir.is_some() || args.cluster.kubernetes)?;
    (config.sidecars, config.operators, config.health) =
        (args.listen_sidecars, args.listen_operators, args.listen_health);
    config.trust_domain = args.trust_domain;
    config.issuer_dir = args.issuer_dir;
    config.hosts = args.public_hosts;
    config.audit = args.audit.into();
    if args.cluster.kubernetes {
        return Box::pin(in_cluster::run(args.cluster, config, terminal)).await;
    }
    let running = Box::pin(start(config)).await?;
    let mut said = json!({
        "sidecars": running.sidecars.to_string(),
        "operators": running.operators.to_string(),
        "health": running.health.to_string(),
        "trustDomain": running.trust.trust_domain(),
        "caFile": running.roots_file,
    });
    if let Some(token) = &running.admin_token {
        // The one time that it is shown.
        said["adminToken"] = token.to_string().into();
    }
    terminal.print(&format!("{said}\n"))?;
    until_asked_to_stop().await?;
    running.stop().await;
    Ok(ExitCode::Done)
}

/// Where the key comes from that the authority's keys rest under. An issuer that is kept elsewhere needs none.
fn kek(file: Option<PathBuf>, issuer_elsewhere: bool) -> Result<KekSource, Failure> {
    match (file, std::env::var(CA_KEY_VARIABLE)) {
        (Some(path), _) => Ok(KekSource::File { path, create: false }),
        (None, Ok(value)) => Ok(KekSource::Value(value)),
        (None, Err(_)) if issuer_elsewhere => Ok(KekSource::Value(String::new())),
        (None, Err(_)) => {
            let what = "nothing says which key the authority's keys rest under";
            let next = format!(
                "give --ca-key-file or {CA_KEY_VARIABLE}: 32 bytes in hex, as from `openssl rand -hex 32`"
            );
            Err(Failure::usage(what).then(next))
        }
    }
}

async fn start(config: Config) -> Result<Running, Failure> {
    let running = Box::pin(app::start(config)).await.map_err(|error| refused_start(&error))?;
    running.ready().await;
    Ok(running)
}

/// What is said of a control plane that does not start.
pub(crate) fn refused_start(error: &app::Error) -> Failure {
    let next = match error {
        app::Error::Listen { .. } => {
            Some("is another control plane running here? choose other ports with --listen-…")
        }
        app::Error::OtherTrustDomain { .. } => {
            Some("leave --trust-domain out, or start another mesh in another folder")
        }
        app::Error::NoTrustDomain => Some("give --trust-domain, such as --trust-domain corp.example"),
        _ => None,
    };
    let failure =
        Failure::failed(format!("the control plane does not start: {error}")).because(causes(error));
    next.into_iter().fold(failure, Failure::then)
}

/// What lies behind an error.
pub(crate) fn causes(error: &dyn Error) -> String {
    let mut text = String::new();
    let mut source = error.source();
    while let Some(cause) = source {
        if !text.is_empty() {
            text.push_str(": ");
        }
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    match text.is_empty() {
        true => "nothing was changed".to_owned(),
        false => text,
    }
}

/// Leaves the admin's credentials where the other commands find them. Whoever owns the folder owns the mesh, so a token
/// that was lost is replaced.
async fn sign_in(home: &Path, running: &Running) -> Result<(), Failure> {
    let failed =
        |what: &str, error: &dyn Error| Failure::failed(format!("{what}: {error}")).because(causes(error));
    let known = read_operator_file(&home.join(OPERATOR_FILE)).ok().map(|file| file.token);
    let fresh = running.admin_token.as_ref().map(|token| Secret::from(token.to_string().as_str()));
    let token = match fresh.or(known) {
        Some(token) => token,
        None => {
            let token = auth::reset(&*running.store, clock::now()).await;
            let token = token.map_err(|error| failed("the admin token could not be replaced", &error))?;
            Secret::from(token.to_string().as_str())
        }
    };
    let ca_file = PathBuf::from(DATA).join(running.roots_file.file_name().unwrap_or_default());
    let operator = OperatorFile { server: format!("https://{}", running.operators), ca_file, token };
    operator.write(home).map_err(|error| failed("operator.json could not be written", &error))
}

/// Applies the resources through the operators' door, as anyone would.
async fn apply(home: &Path, resources: Vec<File>, context: &Context) -> Result<usize, Failure> {
    if resources.is_empty() {
        return Ok(0);
    }
    let given = Given { home: home.to_owned(), server: None, ca_file: None, token: None };
    let client = Client::new(given.load()?, context.patience, Arc::clone(&context.terminal));
    let input = Joined::new(resources);
    let path = ApiPath::v1(&["apply"]).with("reason", Some("weft up")).with("file", Some(input.label()));
    let answer = outcome::send(&client, &path, &input).await?;
    Ok(answer["results"].as_array().map_or(0, Vec::len))
}

fn greet(
    terminal: &Terminal,
    home: &Path,
    running: &Running,
    applied: usize,
    sides: Option<&Sides>,
) -> Result<(), Failure> {
    let (domain, home) = (running.trust.trust_domain(), home.display());
    let addresses = sides.map_or_else(String::new, |sides| {
        format!("\x20 each sidecar's health, metrics and admin: {}\n", sides.files.sidecars.display())
    });
    terminal.print(&format!(
        "Weft is up: trust domain {domain}, {applied} resources applied, files in {home}\n\
         \x20 sidecars   {}\n\
         \x20 operators  https://{}\n\
         \x20 health     http://{}/healthz/ready and /metrics\n\
         {addresses}\
         Try in another terminal: weft get mcpservers -A · weft status · weft check · weft history\n\
         Stop with Ctrl-C; everything is kept.\n",
        running.sidecars, running.operators, running.health
    ))
}

pub(crate) async fn until_asked_to_stop() -> Result<(), Failure> {
    let failed = |error| Failure::failed(format!("signals cannot be waited for: {error}"));
    let mut terminate = signal(SignalKind::terminate()).map_err(failed)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(failed)?;
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    Ok(())
}

fn make_folder(path: &Path) -> Result<(), Failure> {
    let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(path);
    made.map_err(|error| Failure::failed(format!("the folder {} cannot be made: {error}", path.display())))
}

/// Starts the log, on stderr, and keeps its newest lines. Where stderr is the terminal that a table is drawn on, lines
/// scroll by above the table, and there are fewer of them.
fn start_log(args: &LogArgs, screen: Option<&Arc<Screen>>) -> Result<Recent, Failure> {
    let coloured = std::io::stderr().is_terminal();
    let screen = screen.filter(|_| coloured).cloned();
    let default = if screen.is_some() { "warn" } else { "info" };
    let filter = EnvFilter::try_new(args.log_level.as_deref().unwrap_or(default)).map_err(|error| {
        Failure::usage(format!("--log-level: {error}")).then("use error, warn, info, debug or trace")
    })?;
    let writer = move || -> Box<dyn std::io::Write> {
        match &screen {
            Some(screen) => Box::new(Above(Arc::clone(screen))),
            None => Box::new(std::io::stderr()),
        }
    };
    let recent = Recent::default();
    let registry = tracing_subscriber::registry().with(filter).with(kept(recent.clone()));
    let lines = tracing_subscriber::fmt::layer().with_writer(writer).with_ansi(coloured);
    let started = match args.log_format {
        LogFormat::Text => registry.with(lines).try_init(),
        LogFormat::Json => registry.with(lines.json().flatten_event(true)).try_init(),
    };
    started.map_err(|error| Failure::failed(format!("the log cannot be started: {error}")))?;
    Ok(recent)
}
