//! `weft explain`: what would come of a call, and why.

use clap::Args;
use hyper::Method;
use serde_json::{Map, Value};
use weft_control_plane::api::{Explained, RouteTold};
use weft_proto::policy::access::{Explanation, RuleTold};

use super::call::CallArgs;
use crate::app::Context;
use crate::client::{self, Body, Path};
use crate::columns::clip;
use crate::failure::{ExitCode, Failure};
use crate::output::FormArgs;
use crate::table::{Cell, Table};
use crate::terminal::{Tone, plain};

const EXAMPLES: &str = "\
Examples:
  weft explain --as agents/reviewer --tool research/files/read_file
  weft explain --as agents/reviewer --tool research/files/read_file --args '{\"path\": \"/data/a\"}'
  weft explain --as agents/reviewer --prompt research/files/summary --claim groups='[\"dev\"]' --tenant acme
  weft explain --as agents/reviewer --of research/files --method tools/list
  weft explain --as agents/reviewer --tool research/files/rm --exit-code -o json
                                            exit with 1 if it is refused, for scripts";

/// Rules that miss in more parts than this are counted and not shown.
const MISSES_SHOWN_MAX: usize = 1;
const TEXT_CHARS_MAX: usize = 100;

/// Says whether a call would be allowed, by which rule, and which rules almost spoke of it; nothing is called
#[derive(Clone, Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct ExplainArgs {
    /// Who would call, as <namespace>/<service account> or a SPIFFE ID
    #[arg(long = "as", value_name = "IDENTITY")]
    pub(crate) caller: String,
    #[command(flatten)]
    pub(crate) call: CallArgs,
    /// What the tool or prompt would be called with, as a JSON object
    #[arg(long, value_name = "JSON")]
    pub(crate) args: Option<String>,
    /// A claim of the caller's token, as <name>=<value>, where the value is JSON or else a text; repeatable
    #[arg(long = "claim", value_name = "CLAIM", value_parser = claim)]
    pub(crate) claims: Vec<(String, Value)>,
    /// The caller's tenant
    #[arg(long, value_name = "TENANT")]
    pub(crate) tenant: Option<String>,
    /// A header of the request, as <name>=<value>, for routes that look at it; repeatable
    #[arg(long = "header", value_name = "HEADER", value_parser = header)]
    pub(crate) headers: Vec<(String, String)>,
    /// Exit with 1 if the call is refused
    #[arg(long)]
    pub(crate) exit_code: bool,
    #[command(flatten)]
    pub(crate) form: FormArgs,
}

fn claim(text: &str) -> Result<(String, Value), String> {
    let (name, value) = text.split_once('=').ok_or("expected <name>=<value>")?;
    let value = serde_json::from_str(value).unwrap_or_else(|_| Value::from(value));
    Ok((name.to_owned(), value))
}

fn header(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("expected <name>=<value>")?;
    Ok((name.to_owned(), value.to_owned()))
}

pub(crate) async fn run(args: ExplainArgs, context: &Context) -> Result<ExitCode, Failure> {
    let answer = context.client()?.send(Method::POST, &Path::v1(&["explain"]), question(&args)?).await?;
    let allowed = answer["allowed"] == Value::Bool(true);
    match args.form.form.machine(&answer) {
        Some(text) => context.terminal.print(&text?)?,
        None => {
            let explained: Explained = client::read(answer)?;
            let colour = context.terminal.color();
            let text = along(&explained, colour)
                + &render(&explained.explanation, colour)
                + &beside(&explained, colour);
            context.terminal.print(&text)?;
        }
    }
    Ok(if args.exit_code && !allowed { ExitCode::Failed } else { ExitCode::Done })
}

/// Arguments are sent as they were written: what is odd about them is for the control plane to see.
fn question(args: &ExplainArgs) -> Result<Body, Failure> {
    let mut question = Map::new();
    question.insert("as".to_owned(), args.caller.clone().into());
    question.extend(args.call.fields()?.into_iter().map(|(field, text)| (field.to_owned(), text.into())));
    if let Some(tenant) = &args.tenant {
        question.insert("tenant".to_owned(), tenant.clone().into());
    }
    if !args.claims.is_empty() {
        let claims: Map<_, _> = args.claims.iter().cloned().collect();
        question.insert("claims".to_owned(), claims.into());
    }
    if !args.headers.is_empty() {
        let pairs = args.headers.iter().map(|(name, value)| (name.clone(), value.clone().into()));
        question.insert("headers".to_owned(), pairs.collect::<Map<_, _>>().into());
    }
    let mut json = Value::from(question).to_string();
    if let Some(arguments) = &args.args {
        let wrong = |error| Failure::usage("--args is not JSON").because(error);
        let raw: &serde_json::value::RawValue = serde_json::from_str(arguments).map_err(wrong)?;
        json.truncate(json.len() - 1);
        json.push_str(&format!(r#","args":{raw}}}"#));
    }
    Ok(Body::JsonText(json))
}

/// The way of the call before it is decided: through a virtual server, and by a route.
fn along(explained: &Explained, colour: bool) -> String {
    let mut text = String::new();
    if let Some(through) = &explained.through {
        let (name, because) = (plain(&through.virtual_server), plain(&through.because));
        match (&through.server, &through.name) {
            (Some(server), Some(own)) => {
                text.push_str(&format!("through {name} to {} at {}: {because}\n", plain(own), plain(server)));
            }
            _ => text.push_str(&format!("at {name}: {because}\n")),
        }
    }
    let Some(told) = &explained.route else { return text };
    for passed in &told.passed_over {
        let misses = passed.misses.join(", ");
        text.push_str(&format!(
            "the route {}: rule {} asks for other {}\n",
            plain(&told.route),
            passed.rule,
            plain(&misses)
        ));
    }
    match told.rule {
        Some(rule) => text.push_str(&format!("the route {}: rule {rule} matches\n", plain(&told.route))),
        None => text.push_str(&format!("the route {}: no rule matches\n", plain(&told.route))),
    }
    text.push_str(&led(told, colour));
    if let Some(server) = &explained.decided_at {
        text.push_str(&format!("what follows is decided at {}\n", plain(server)));
    }
    text
}

/// The servers that a route leads to.
fn led(told: &RouteTold, colour: bool) -> String {
    let mut table = Table::new(vec!["SERVER", "AS", "OF CALLS", "DECISION", "REASON"]);
    for led in &told.leads_to {
        let (word, tone) = if led.allowed { ("allowed", Tone::Good) } else { ("refused", Tone::Bad) };
        table.push(vec![
            Cell::new(&led.server),
            Cell::new(&led.part),
            Cell::new(led.percent.map_or_else(|| "-".to_owned(), |percent| format!("{percent}%"))),
            Cell::new(word).toned(tone),
            Cell::new(&led.reason),
        ]);
    }
    if table.is_empty() { String::new() } else { format!("\n{}\n", table.render(colour)) }
}

/// What else a call would meet: the limits that count it, and a definition that is not approved.
fn beside(explained: &Explained, colour: bool) -> String {
    let mut text = String::new();
    if let Some(told) = &explained.definition {
        let by = told.policy.as_deref().map(|policy| format!(" by {policy}")).unwrap_or_default();
        match told.withheld {
            true => text.push_str(&format!(
                "\n{}: its definition is {} and pinned{}; weft tools diff shows it\n",
                Tone::Bad.paint("withheld", colour),
                plain(&told.state),
                plain(&by),
            )),
            false if told.pin != "off" => {
                text.push_str(&format!(
                    "\nits definition is {} and pinned{}\n",
                    plain(&told.state),
                    plain(&by)
                ));
            }
            false => {}
        }
    }
    let mut table = Table::new(vec!["LIMIT", "AMOUNT", "SCOPE", "THE CALL TAKES", "USED", "LENT"]);
    for limit in &explained.limits {
        let number = |number: Option<f64>| number.map_or_else(|| "-".to_owned(), |number| number.to_string());
        let used = match limit.used {
            Some(used) if used + limit.weighs > limit.capacity => {
                Cell::new(used.to_string()).toned(Tone::Bad)
            }
            used => Cell::new(number(used)),
        };
        let name = if limit.shadow { format!("{} (in shadow)", limit.limit) } else { limit.limit.clone() };
        table.push(vec![
            Cell::new(name),
            Cell::new(&limit.amount),
            Cell::new(&limit.scope),
            Cell::new(limit.weighs.to_string()),
            used,
            Cell::new(number(limit.lent)),
        ]);
    }
    if !table.is_empty() {
        text.push('\n');
        text.push_str(&table.render(colour));
    }
    text
}

/// An explanation for people.
pub(crate) fn render(explanation: &Explanation, colour: bool) -> String {
    let (word, tone) = if explanation.allowed { ("allowed", Tone::Good) } else { ("refused", Tone::Bad) };
    let mut text = format!(
        "{}: {} ({})\n",
        tone.paint(word, colour),
        plain(&explanation.because),
        plain(&explanation.reason)
    );
    if explanation.audit {
        text.push_str("it is recorded for an audit\n");
    }
    for shadow in &explanation.shadow {
        text.push_str(&format!("a policy in shadow would {}\n", plain(shadow)));
    }
    let shown = |rule: &&RuleTold| rule.matches || rule.misses() <= MISSES_SHOWN_MAX;
    let mut table = Table::new(vec!["RULE", "ACTION", "MATCHES", "WHO", "WHAT", "WHEN", "TEXT"]);
    for rule in explanation.rules.iter().filter(shown) {
        let matches = match (rule.matches, rule.shadow) {
            (true, false) => Cell::new("yes").toned(Tone::Strong),
            (true, true) => Cell::new("yes, in shadow"),
            (false, _) => Cell::new("almost").toned(Tone::Dim),
        };
        let missed = |part: &Option<String>| part.as_ref().map_or_else(|| Cell::new("fits"), Cell::new);
        table.push(vec![
            Cell::new(&rule.rule),
            Cell::new(&rule.action),
            matches,
            missed(&rule.who),
            missed(&rule.what),
            Cell::new(rule.when.as_deref().unwrap_or_default()),
            Cell::new(clip(&rule.text, TEXT_CHARS_MAX)),
        ]);
    }
    if !table.is_empty() {
        text.push('\n');
        text.push_str(&table.render(colour));
    }
    let told = explanation.rules.iter().filter(shown).count();
    let others = explanation.rules.len() - told + explanation.more_rules;
    if others > 0 {
        text.push_str(&format!("\n{others} more rules speak of others; -o json shows them\n"));
    }
    text
}
