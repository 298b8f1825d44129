//! `weft check --watch`: everything is looked at again and again, and what became of it since is shown.

use std::future::Future;
use std::pin::pin;
use std::time::Duration;

use tokio::time::sleep;

use super::{CheckArgs, CheckForm, Report, probes};
use crate::app::Context;
use crate::failure::{ExitCode, Failure};

/// Shortest time between two looks.
const EVERY_MIN: Duration = Duration::from_millis(100);

/// Until the end. Whoever ends it hears how it stood when it was looked at last.
pub(crate) async fn run(
    args: &CheckArgs,
    context: &Context,
    end: impl Future<Output = ()>,
) -> Result<ExitCode, Failure> {
    let mut end = pin!(end);
    let mut last: Option<Report> = None;
    loop {
        let looking = Box::pin(probes::run(args.health_url.as_deref(), &args.only, context));
        let report = tokio::select! {
            biased;
            () = &mut end => break,
            report = looking => report?,
        };
        context.terminal.print(&told(args.form, last.as_ref(), &report, context))?;
        last = Some(report);
        tokio::select! {
            () = sleep(args.every.duration().max(EVERY_MIN)) => {}
            () = &mut end => break,
        }
    }
    Ok(match last.is_some_and(|report| report.is_ok(args.strict)) {
        true => ExitCode::Done,
        false => ExitCode::Failed,
    })
}

/// First all of it, then what changed.
fn told(form: CheckForm, before: Option<&Report>, report: &Report, context: &Context) -> String {
    let (at, colour) = (crate::moments::second(&context.now().to_string()), context.terminal.color());
    match (form, before) {
        (CheckForm::Text, None) => format!("{}\n", report.render(colour)),
        (CheckForm::Text, Some(before)) => report.since(before, &at, colour),
        (CheckForm::Json, Some(before)) if report.since(before, &at, false).is_empty() => String::new(),
        (CheckForm::Json, _) => {
            let mut json = report.to_json();
            json["at"] = at.into();
            format!("{json}\n")
        }
    }
}
