//! `weft who-can`: who may call something.

use clap::Args;
use serde::Deserialize;
use weft_proto::policy::access::{AudienceRule, May};

use super::call::{CallArgs, Named};
use crate::app::Context;
use crate::client::{self, Path};
use crate::failure::{ExitCode, Failure};
use crate::output::FormArgs;
use crate::table::{Cell, Table};
use crate::terminal::Tone;

const EXAMPLES: &str = "\
Examples:
  weft who-can research/files/read_file
  weft who-can --prompt research/files/summary
  weft who-can --of research/files --method tools/list -o json";

/// Shows who may call something: the callers that its rules name, and which of the identities that are known may
#[derive(Clone, Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct WhoCanArgs {
    /// A tool, as <namespace>/<server>/<tool>
    #[arg(value_name = "TOOL", conflicts_with = "called")]
    pub(crate) subject: Option<Named>,
    #[command(flatten)]
    pub(crate) call: CallArgs,
    #[command(flatten)]
    pub(crate) form: FormArgs,
}

/// The control plane's answer, as far as it is shown.
#[derive(Debug, Deserialize)]
struct WhoCan {
    rules: Vec<AudienceRule>,
    others: bool,
    identities: Vec<IdentityMay>,
}

#[derive(Debug, Deserialize)]
struct IdentityMay {
    identity: String,
    may: May,
}

pub(crate) async fn run(args: WhoCanArgs, context: &Context) -> Result<ExitCode, Failure> {
    let mut path = Path::v1(&["who-can"]);
    let fields = match args.subject {
        Some(Named { server, name }) => vec![("server", server.to_string()), ("tool", name)],
        None => args.call.fields()?,
    };
    for (field, text) in fields {
        path = path.with(field, Some(text));
    }
    let answer = context.client()?.get(&path).await?;
    if let Some(text) = args.form.form.machine(&answer) {
        return context.terminal.print(&text?).map(|()| ExitCode::Done);
    }
    let found: WhoCan = client::read(answer)?;
    context.terminal.print(&render(&found, context.terminal.color()))?;
    let others = match found.others {
        true => "callers of whom no rule speaks may call it: the mesh allows by default",
        false => "callers of whom no rule speaks may not call it",
    };
    context.terminal.say(others);
    Ok(ExitCode::Done)
}

fn render(found: &WhoCan, colour: bool) -> String {
    let mut rules = Table::new(vec!["RULE", "ACTION", "CALLERS", "WHEN"]);
    for rule in &found.rules {
        let tone = if rule.action == "allow" { Tone::Good } else { Tone::Bad };
        rules.push(vec![
            Cell::new(&rule.rule),
            Cell::new(&rule.action).toned(tone),
            Cell::new(rule.callers.join(" or ")),
            Cell::new(rule.when.as_deref().unwrap_or_default()),
        ]);
    }
    let mut identities = Table::new(vec!["IDENTITY", "MAY"]);
    for IdentityMay { identity, may } in &found.identities {
        let (word, tone) = match may {
            May::Yes => ("yes", Tone::Good),
            May::No => ("no", Tone::Bad),
            May::Depends => ("with some arguments", Tone::Warn),
        };
        identities.push(vec![Cell::new(identity), Cell::new(word).toned(tone)]);
    }
    let mut text = String::new();
    for table in [&rules, &identities] {
        if !table.is_empty() {
            if !text.is_empty() {
                text.push('\n');
            }
            text.push_str(&table.render(colour));
        }
    }
    text
}
