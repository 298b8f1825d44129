//! `weft trust`: the roots that the mesh believes, and exchanging them.

use std::time::Duration;

use clap::{Args, Subcommand};
use hyper::Method;
use jiff::Timestamp;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};
use weft_proto::resource::units::Span;

use crate::answers::{Gate, Trust};
use crate::app::Context;
use crate::client::{self, Body, Client, Path};
use crate::failure::{ExitCode, Failure};
use crate::moments;
use crate::output::FormArgs;
use crate::table::{Cell, Table};
use crate::terminal::{Tone, plain};

const EXAMPLES: &str = "\
Examples:
  weft trust show
  weft trust rotate --start --wait
  weft trust revoke 5e0c91";

const SHOW_EXAMPLES: &str = "\
Examples:
  weft trust show
  weft trust show -o json";

const ROTATE_EXAMPLES: &str = "\
Examples:
  weft trust rotate                         where the rotation stands, and who it waits for
  weft trust rotate --start --wait          add a new root, and wait until every sidecar believes it
  weft trust rotate --advance --wait=1h     wait until the gate is open, then take the next step
  weft trust rotate --abort                 go back, as long as the old root is still believed";

const REVOKE_EXAMPLES: &str = "\
Examples:
  weft status research/files-0              shows the serial of a sidecar's certificate
  weft trust revoke 5e0c91";

const LOOK_AGAIN: Duration = Duration::from_secs(1);
/// How many sidecars in the way are named.
const WAITING_SHOWN_MAX: usize = 20;

/// Shows which roots the mesh believes, and exchanges them
#[derive(Clone, Debug, Args)]
#[command(after_help = EXAMPLES, arg_required_else_help = true)]
pub(crate) struct TrustArgs {
    #[command(subcommand)]
    pub(crate) command: TrustCommand,
}

/// What to do about trust.
#[derive(Clone, Debug, Subcommand)]
pub(crate) enum TrustCommand {
    Show(ShowArgs),
    Rotate(RotateArgs),
    Revoke(RevokeArgs),
}

/// Shows the roots, the issuer, and where a rotation stands
#[derive(Clone, Debug, Args)]
#[command(after_help = SHOW_EXAMPLES)]
pub(crate) struct ShowArgs {
    #[command(flatten)]
    pub(crate) form: FormArgs,
}

/// Exchanges the root, step by step; nothing restarts
///
/// First the new root is believed beside the old one, then certificates are issued under it, then the old root is
/// dropped. Each step has a gate that is open once every sidecar has followed. Without a flag, shows where it stands.
#[derive(Clone, Debug, Args)]
#[command(after_help = ROTATE_EXAMPLES)]
pub(crate) struct RotateArgs {
    #[command(flatten)]
    pub(crate) step: StepArgs,
    /// With --advance: do not mind the gate; sidecars that have not followed lose their connections
    #[arg(long, requires = "advance")]
    pub(crate) force: bool,
    /// Wait until the gate is open, for at most this long: with --advance before the step, else after it
    #[arg(long, value_name = "DURATION", num_args = 0..=1, require_equals = true, default_missing_value = "10m")]
    pub(crate) wait: Option<Span>,
    #[command(flatten)]
    pub(crate) form: FormArgs,
}

/// Which step of a rotation to take.
#[derive(Clone, Debug, Args)]
#[group(multiple = false)]
pub(crate) struct StepArgs {
    /// Begin: add a new root
    #[arg(long)]
    pub(crate) start: bool,
    /// Take the next step
    #[arg(long)]
    pub(crate) advance: bool,
    /// Go back
    #[arg(long)]
    pub(crate) abort: bool,
}

impl StepArgs {
    const fn action(&self) -> Option<&'static str> {
        match (self.start, self.advance, self.abort) {
            (true, ..) => Some("start"),
            (_, true, _) => Some("advance"),
            (.., true) => Some("abort"),
            _ => None,
        }
    }
}

/// Refuses one certificate from now on, in the whole mesh
#[derive(Clone, Debug, Args)]
#[command(after_help = REVOKE_EXAMPLES)]
pub(crate) struct RevokeArgs {
    /// The serial number in hexadecimal, as `weft status` shows it
    #[arg(value_name = "SERIAL")]
    pub(crate) serial: String,
}

pub(crate) async fn run(args: TrustArgs, context: &Context) -> Result<ExitCode, Failure> {
    let client = context.client()?;
    match args.command {
        TrustCommand::Show(args) => {
            let answer = client.get(&Path::v1(&["trust"])).await?;
            show(answer, args.form, context)
        }
        TrustCommand::Rotate(args) => rotate(&client, &args, context).await,
        TrustCommand::Revoke(RevokeArgs { serial }) => {
            let path = Path::v1(&["trust", "revocations"]);
            client.send(Method::POST, &path, Body::Json(json!({ "serial": serial }))).await?;
            context.terminal.say(&format!("the certificate {serial} is refused from now on"));
            Ok(ExitCode::Done)
        }
    }
}

async fn rotate(client: &Client, args: &RotateArgs, context: &Context) -> Result<ExitCode, Failure> {
    if let (Some(longest), true) = (args.wait, args.step.advance) {
        wait(client, longest, context).await?;
    }
    let mut answer = match args.step.action() {
        Some(action) => {
            let body = json!({ "action": action, "force": args.force });
            client.send(Method::POST, &Path::v1(&["trust", "rotation"]), Body::Json(body)).await?
        }
        None => client.get(&Path::v1(&["trust"])).await?,
    };
    if let (Some(longest), false) = (args.wait, args.step.advance) {
        answer = wait(client, longest, context).await?;
    }
    show(answer, args.form, context)
}

/// Waits until the gate is open; nothing is to be waited for where no rotation is under way.
async fn wait(client: &Client, longest: Span, context: &Context) -> Result<Value, Failure> {
    let deadline = Instant::now() + longest.duration();
    let mut said = None;
    loop {
        let answer = client.get(&Path::v1(&["trust"])).await?;
        let trust: Trust = client::read(answer.clone())?;
        let gate = &trust.rotation.gate;
        if gate.open || trust.rotation.step == STABLE {
            return Ok(answer);
        }
        if Instant::now() >= deadline {
            let what = format!("the gate of the step {} did not open within {longest}", trust.rotation.step);
            return Err(Failure::failed(what)
                .because(waiting_for(gate))
                .then("see what keeps them with `weft status`, then wait again with --wait"));
        }
        let waiting = waiting_for(gate);
        if said.as_ref() != Some(&waiting) {
            context.terminal.say(&format!("{}: waiting for {waiting}", trust.rotation.step));
            said = Some(waiting);
        }
        sleep(LOOK_AGAIN).await;
    }
}

const STABLE: &str = "stable";

fn waiting_for(gate: &Gate) -> String {
    match (&*gate.waiting_for, &gate.opens_at) {
        ([], Some(at)) => format!("time to pass until {at}"),
        ([], None) => "the control plane".to_owned(),
        ([one], _) => format!("{} ({})", one.node, one.why),
        ([first, ..], _) => {
            format!("{} sidecars, the first is {} ({})", gate.waiting_for.len(), first.node, first.why)
        }
    }
}

fn show(answer: Value, form: FormArgs, context: &Context) -> Result<ExitCode, Failure> {
    if let Some(text) = form.form.machine(&answer) {
        return context.terminal.print(&text?).map(|()| ExitCode::Done);
    }
    let trust: Trust = client::read(answer)?;
    context.terminal.print(&render(&trust, context.now(), context.terminal.color()))?;
    Ok(ExitCode::Done)
}

fn render(trust: &Trust, now: Timestamp, colour: bool) -> String {
    let mut facts = Table::new(vec!["", ""]);
    let mut fact = |name: &str, text: String| {
        facts.push(vec![Cell::new(name).toned(Tone::Strong), Cell::new(text)]);
    };
    fact("trust domain", trust.trust_domain.clone());
    fact("lifetime", trust.svid_lifetime.clone());
    fact("bundle", format!("sequence {}", trust.sequence));
    fact(
        "issuer",
        format!("{}, expires {}", trust.issuer.kind, moments::expiry(&trust.issuer.not_after, now)),
    );
    let since = trust.rotation.since.as_deref().map(|at| format!(", since {}", moments::second(at)));
    fact("rotation", format!("{}{}", trust.rotation.step, since.unwrap_or_default()));
    if trust.rotation.step != STABLE {
        let gate = &trust.rotation.gate;
        let open = "open: take the next step with `weft trust rotate --advance`".to_owned();
        fact("gate", if gate.open { open } else { format!("waiting for {}", waiting_for(gate)) });
    }
    if !trust.revoked_serials.is_empty() {
        fact("revoked", trust.revoked_serials.join(", "));
    }
    let mut roots = Table::new(vec!["ROOT", "GENERATION", "ISSUING", "EXPIRES", "NOT BEFORE", "NOT AFTER"]);
    for root in &trust.roots {
        roots.push(vec![
            Cell::new(&root.fingerprint),
            Cell::new(root.generation.map(|number| number.to_string()).unwrap_or_default()),
            if root.issuing { Cell::new("yes").toned(Tone::Good) } else { Cell::new("no") },
            Cell::new(moments::expiry(&root.not_after, now)),
            Cell::new(moments::second(&root.not_before)),
            Cell::new(moments::second(&root.not_after)),
        ]);
    }
    let mut text = format!("{}\n{}", facts.render_bare(colour), roots.render(colour));
    let waiting = &trust.rotation.gate.waiting_for;
    if trust.rotation.step != STABLE && !waiting.is_empty() {
        let mut table = Table::new(vec!["WAITING FOR", "BECAUSE"]);
        for one in waiting.iter().take(WAITING_SHOWN_MAX) {
            table.push(vec![Cell::new(&one.node), Cell::new(&one.why)]);
        }
        text.push_str(&format!("\n{}", table.render(colour)));
        if let Some(more) = waiting.len().checked_sub(WAITING_SHOWN_MAX).filter(|more| *more > 0) {
            text.push_str(&plain(&format!("and {more} more\n")));
        }
    }
    text
}
