//! `weft status`: whether every sidecar has what it should have.

mod details;

use std::time::Duration;

use clap::Args;
use jiff::Timestamp;
use serde_json::Value;
use tokio::time::{Instant, sleep};
use weft_proto::name::{Namespace, NodeId};
use weft_proto::resource::units::Span;

use crate::answers::{History, Report, Sidecar, Sidecars, Standby};
use crate::app::Context;
use crate::client::{self, Client, Path};
use crate::columns::clip;
use crate::failure::{ExitCode, Failure};
use crate::moments;
use crate::output::FormArgs;
use crate::table::{Cell, Table};
use crate::terminal::{Tone, plain};

const EXAMPLES: &str = "\
Examples:
  weft status                               every sidecar
  weft status research/files-0              everything about one
  weft apply -f mesh/ && weft status --check --wait 1m
                                            apply, and succeed only once every sidecar has it
  weft status -o json                       for programs";

/// How often sidecars are looked at again while waiting.
const LOOK_AGAIN: Duration = Duration::from_millis(500);
/// A certificate that is renewed at half its life should never be this near to its end.
pub(crate) const EXPIRES_SOON_SECS: i64 = 3600;
const ROOT_CHARS: usize = 12;

/// Shows how far each sidecar follows, and how its servers are: what it acknowledged or refused, what it reports, its
/// certificate, its root; and how far the control planes are that stand by, where there are several
#[derive(Clone, Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct StatusArgs {
    /// One sidecar, as <namespace>/<instance>
    #[arg(value_name = "SIDECAR", conflicts_with = "namespace")]
    pub(crate) node: Option<NodeId>,
    /// Only sidecars of this namespace
    #[arg(long, short, value_name = "NAMESPACE")]
    pub(crate) namespace: Option<Namespace>,
    /// Exit with 1 if a sidecar refused something, is not connected, or is still behind after the wait
    #[arg(long)]
    pub(crate) check: bool,
    /// With --check: how long sidecars that are behind are given to follow
    #[arg(long, value_name = "DURATION", default_value = "10s", requires = "check")]
    pub(crate) wait: Span,
    #[command(flatten)]
    pub(crate) form: FormArgs,
}

/// How a sidecar is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Standing {
    Synced,
    /// It was sent something and has not answered yet.
    Waiting,
    Rejected,
    /// Not connected: it goes on with what it has.
    Away,
}

impl Standing {
    pub(crate) fn of(sidecar: &Sidecar) -> Self {
        match sidecar.sync.as_str() {
            "rejected" => Self::Rejected,
            _ if !sidecar.connected => Self::Away,
            "synced" => Self::Synced,
            _ => Self::Waiting,
        }
    }

    const fn word(self) -> &'static str {
        match self {
            Self::Synced => "synced",
            Self::Waiting => "waiting",
            Self::Rejected => "rejected",
            Self::Away => "disconnected",
        }
    }

    const fn tone(self) -> Tone {
        match self {
            Self::Synced => Tone::Good,
            Self::Waiting => Tone::Warn,
            Self::Rejected | Self::Away => Tone::Bad,
        }
    }
}

pub(crate) async fn run(args: StatusArgs, context: &Context) -> Result<ExitCode, Failure> {
    let client = context.client()?;
    let (answer, sidecars, published) = look(&client, &args).await?;
    if let Some(text) = args.form.form.machine(&answer) {
        context.terminal.print(&text?)?;
    } else if let (Some(_), [sidecar]) = (&args.node, &*sidecars.items) {
        context.terminal.print(&details::render(sidecar, context.now(), context.terminal.color()))?;
    } else if sidecars.items.is_empty() {
        context.terminal.say("no sidecar has connected; join one with a token from `weft token create`");
        context.terminal.print(&standbys(&sidecars.standbys, context.terminal.color()))?;
    } else {
        context.terminal.print(&overview(&sidecars, context.now(), context.terminal.color()))?;
    }
    if !published {
        context.terminal.warn("the newest change is not published to the sidecars yet");
    }
    Ok(if args.check && !(published && is_good(&sidecars)) { ExitCode::Failed } else { ExitCode::Done })
}

/// What there is to show, and whether it is about the newest change; with `--check`, after sidecars that are only behind
/// had their time.
async fn look(client: &Client, args: &StatusArgs) -> Result<(Value, Sidecars, bool), Failure> {
    let path = match &args.node {
        Some(node) => {
            let (namespace, instance) = node.as_str().split_once('/').unwrap_or(("", node.as_str()));
            Path::v1(&["sidecars", namespace, instance])
        }
        None => Path::v1(&["sidecars"]).with("namespace", args.namespace.as_ref()),
    };
    let deadline = Instant::now() + args.wait.duration();
    // What is not published yet, no sidecar can be behind with.
    let newest = if args.check { newest_change(client).await? } else { None };
    loop {
        let answer = client.get(&path).await?;
        let sidecars = match args.node {
            Some(_) => Sidecars { items: vec![client::read(answer.clone())?], ..Sidecars::default() },
            None => client::read(answer.clone())?,
        };
        let is_behind = |sidecar| Standing::of(sidecar) == Standing::Waiting;
        let published = is_published(&sidecars, newest);
        let behind = !published || sidecars.items.iter().any(is_behind);
        if !args.check || !behind || Instant::now() >= deadline {
            return Ok((answer, sidecars, published));
        }
        sleep(LOOK_AGAIN).await;
    }
}

/// The newest change that operators made.
async fn newest_change(client: &Client) -> Result<Option<u64>, Failure> {
    let history: History = client::read(client.get(&Path::v1(&["history"]).with("limit", Some(1))).await?)?;
    Ok(history.items.first().map(|change| change.revision))
}

/// Whether a change is published, as far as the answer says what is.
fn is_published(sidecars: &Sidecars, change: Option<u64>) -> bool {
    sidecars.published_revision.is_none_or(|published| change.is_none_or(|change| change <= published))
}

fn is_good(sidecars: &Sidecars) -> bool {
    sidecars.items.iter().all(|sidecar| Standing::of(sidecar) == Standing::Synced)
}

/// The table, and below it what was refused.
fn overview(sidecars: &Sidecars, now: Timestamp, colour: bool) -> String {
    let mut table =
        Table::new(vec!["NODE", "IDENTITY", "SYNC", "HEALTH", "TYPES", "LAST ACK", "CERTIFICATE", "ROOT"]);
    for sidecar in &sidecars.items {
        table.push(row(sidecar, now));
    }
    let mut text = table.render(colour);
    for sidecar in &sidecars.items {
        for (of, nack) in sidecar.nacks() {
            let head = format!("{} refused {} {}:", sidecar.node, of.r#type, moments::ago(&nack.at, now));
            let message = plain(&nack.message).replace('\n', "\n  ");
            text.push_str(&format!("\n{}\n  {message}\n", Tone::Bad.paint(&plain(&head), colour)));
        }
    }
    if let Some(revision) = sidecars.published_revision {
        text.push_str(&format!("\npublished revision {revision}\n"));
    }
    if !sidecars.standbys.is_empty() {
        text.push('\n');
    }
    text + &standbys(&sidecars.standbys, colour)
}

/// The control planes that stand by; nothing if there are none.
fn standbys(standbys: &[Standby], colour: bool) -> String {
    if standbys.is_empty() {
        return String::new();
    }
    let mut table = Table::new(vec!["STANDBY", "COPY", "BEHIND"]);
    for Standby { replica, keeps_up, behind_revisions, behind_seconds } in standbys {
        let (word, tone) = if *keeps_up { ("keeps up", Tone::Good) } else { ("behind", Tone::Bad) };
        let behind = match (behind_revisions, behind_seconds) {
            (0, 0) => String::new(),
            _ => format!("{behind_revisions} revisions, for {}", moments::length(*behind_seconds)),
        };
        table.push(vec![Cell::new(replica), Cell::new(word).toned(tone), Cell::new(behind)]);
    }
    table.render(colour)
}

fn row(sidecar: &Sidecar, now: Timestamp) -> Vec<Cell> {
    let standing = Standing::of(sidecar);
    let ages = sidecar.types.iter().filter_map(|one| one.last_ack_age_seconds);
    let ack = ages.reduce(f64::min).map(|secs| format!("{} ago", moments::length(secs as i64)));
    let certificate = sidecar.certificate.clone().unwrap_or_default();
    vec![
        Cell::new(&sidecar.node),
        Cell::new(sidecar.identity.as_deref().unwrap_or_default()),
        Cell::new(standing.word()).toned(standing.tone()),
        sidecar.report.as_ref().map_or_else(|| Cell::new(""), health),
        Cell::new(types(sidecar)),
        Cell::new(ack.unwrap_or_default()),
        expiry(certificate.expires_at.as_deref(), now),
        Cell::new(clip(certificate.root.as_deref().unwrap_or_default(), ROOT_CHARS)),
    ]
}

/// The worst health of a sidecar's servers, and of how many it is, where not of the only one.
fn health(report: &Report) -> Cell {
    let Some(worst) = &report.health else { return Cell::new("") };
    let count = report.servers.iter().filter(|it| it.health == *worst).count();
    let text = match report.servers.len() {
        0 | 1 => worst.clone(),
        all => format!("{count}/{all} {worst}"),
    };
    Cell::new(text).toned(health_tone(worst))
}

fn health_tone(health: &str) -> Tone {
    match health {
        "serving" => Tone::Good,
        "degraded" => Tone::Bad,
        _ => Tone::Warn,
    }
}

/// `5/6 synced`, and which are not.
fn types(sidecar: &Sidecar) -> String {
    let good = sidecar.types.iter().filter(|one| one.sync == "synced").count();
    let bad = sidecar.types.iter().filter(|one| one.sync != "synced");
    let bad: Vec<_> = bad.map(|one| format!("{} {}", one.r#type, one.sync)).collect();
    let sum = format!("{good}/{} synced", sidecar.types.len());
    if bad.is_empty() { sum } else { format!("{sum}; {}", bad.join(", ")) }
}

/// When a certificate ends, and whether that is soon.
fn expiry(at: Option<&str>, now: Timestamp) -> Cell {
    let Some(at) = at else { return Cell::new("") };
    let tone = match moments::until(at, now) {
        Some(secs) if secs > EXPIRES_SOON_SECS => Tone::Plain,
        Some(secs) if secs > 0 => Tone::Warn,
        _ => Tone::Bad,
    };
    Cell::new(moments::expiry(at, now)).toned(tone)
}

#[cfg(test)]
#[path = "../tests/status.rs"]
mod tests;
