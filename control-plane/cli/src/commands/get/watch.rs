//! Watching: a listing, then every event after it. A stream that breaks is taken up where it ended; when that part of
//! the history is gone, the listing starts afresh.

use std::collections::BTreeSet;
use std::time::Duration;

use hyper::StatusCode;
use serde_json::{Value, json};
use tokio::time::sleep;
use weft_proto::resource::Kind;

use super::{GetForm, Wanted, list, name_of};
use crate::answers::{Happened, Page};
use crate::app::Context;
use crate::client::{Client, Error, Event, Path, Problem};
use crate::columns;
use crate::failure::{ExitCode, Failure};
use crate::names::display;
use crate::output::object_yaml;
use crate::table::{Cell, Table};
use crate::terminal::Tone;

/// Failures in a row after which it is given up.
const FAILURES_MAX: u32 = 5;
/// After the first of them; each further one makes it longer by as much.
const PAUSE: Duration = Duration::from_millis(200);

/// What is known while watching.
struct Watch<'a> {
    wanted: &'a Wanted,
    context: &'a Context,
    /// Columns as wide as the listing made them.
    table: Table,
    /// Objects that were shown and are there.
    shown: BTreeSet<String>,
    after: u64,
    /// The present stream has told something.
    heard: bool,
}

/// Why a stream ended.
enum End {
    /// It can be taken up where it ended.
    Broken(Option<Error>),
    /// It cannot: what came next is not kept any more.
    Gone,
}

pub(super) async fn run(client: &Client, wanted: &Wanted, context: &Context) -> Result<ExitCode, Failure> {
    let mut watch = Watch::start(list(client, wanted).await?, wanted, context)?;
    let mut failures = 0;
    loop {
        watch.heard = false;
        let end = watch.follow(client).await?;
        failures = if watch.heard { 1 } else { failures + 1 };
        match end {
            End::Gone => watch.refresh(list(client, wanted).await?)?,
            End::Broken(Some(error)) if failures >= FAILURES_MAX => return Err(error.into()),
            End::Broken(error) => {
                let why = error.map_or_else(|| "the stream ended".to_owned(), |error| format!("{error:?}"));
                context.terminal.detail(&format!("{why}; taking it up after revision {}", watch.after));
            }
        }
        sleep(PAUSE * failures).await;
    }
}

impl<'a> Watch<'a> {
    fn start(page: Page, wanted: &'a Wanted, context: &'a Context) -> Result<Self, Failure> {
        let mut headers = vec!["EVENT"];
        headers.extend(columns::headers(wanted.kind, wanted.is_wide()));
        let mut table = Table::new(headers);
        table.reserve("deleted");
        for object in &page.items {
            table.push(row(wanted, "is", object));
        }
        let shown = page.items.iter().map(name_of).collect();
        let watch = Self { wanted, context, table, shown, after: page.revision, heard: false };
        if matches!(wanted.form, GetForm::Table | GetForm::Wide) {
            context.terminal.print(&watch.table.render(context.terminal.color()))?;
        } else {
            for object in &page.items {
                watch.show("is", page.revision, object)?;
            }
        }
        Ok(watch)
    }

    /// Shows the events of one stream, until it ends.
    async fn follow(&mut self, client: &Client) -> Result<End, Failure> {
        let path = Path::v1(&["watch"])
            .with("kind", self.wanted.kind.map(Kind::plural))
            .with("namespace", self.wanted.namespace.as_ref())
            .with("after", Some(self.after));
        let mut events = match client.events(&path).await {
            Ok(events) => events,
            Err(error) => return ended(error),
        };
        loop {
            match events.next().await {
                Ok(Some(event)) => {
                    if let Some(end) = self.take(&event)? {
                        return Ok(end);
                    }
                }
                Ok(None) => return Ok(End::Broken(None)),
                Err(error) => return ended(error),
            }
        }
    }

    fn take(&mut self, event: &Event) -> Result<Option<End>, Failure> {
        self.heard = true;
        let strange = |error: serde_json::Error| Failure::from(Error::Strange(error.to_string()));
        match event.name.as_str() {
            "put" | "delete" => self.happened(serde_json::from_str(&event.data).map_err(strange)?)?,
            "error" => {
                let status = serde_json::from_str::<Value>(&event.data).map_err(strange)?["status"].as_u64();
                let status = status.and_then(|status| StatusCode::from_u16(u16::try_from(status).ok()?).ok());
                let problem =
                    Problem::read(status.unwrap_or(StatusCode::INTERNAL_SERVER_ERROR), event.data.as_bytes());
                return ended(Error::Refused(Box::new(problem))).map(Some);
            }
            // Bookmarks only say how far it is, and later versions may say more.
            _ => {}
        }
        // Only what is complete has an id, so that nothing of a revision is lost when it is taken up from there.
        if let Some(id) = event.id.as_deref().and_then(|id| id.parse().ok()) {
            self.after = id;
        }
        Ok(None)
    }

    fn happened(&mut self, event: Happened) -> Result<(), Failure> {
        let name = display(&event.kind, &event.namespace, &event.name);
        match event.resource.filter(|object| self.wanted.selects(object)) {
            Some(object) => {
                let word = if self.shown.insert(name) { "created" } else { "changed" };
                self.show(word, event.revision, &object)
            }
            // It is gone, or is none of the wanted any more.
            None if self.shown.remove(&name) => {
                let metadata = json!({ "namespace": event.namespace, "name": event.name });
                self.show("deleted", event.revision, &json!({ "kind": event.kind, "metadata": metadata }))
            }
            None => Ok(()),
        }
    }

    /// Tells how a fresh listing differs from what was shown.
    fn refresh(&mut self, page: Page) -> Result<(), Failure> {
        let names: BTreeSet<_> = page.items.iter().map(name_of).collect();
        let gone: Vec<_> = self.shown.difference(&names).cloned().collect();
        self.shown = names;
        for gone in gone {
            let mut parts = gone.splitn(3, '/').map(str::to_owned);
            let (kind, namespace, name) = (parts.next(), parts.next(), parts.next());
            let metadata = json!({ "namespace": namespace, "name": name });
            self.show("deleted", page.revision, &json!({ "kind": kind, "metadata": metadata }))?;
        }
        for object in &page.items {
            self.show("is", page.revision, object)?;
        }
        self.after = page.revision;
        Ok(())
    }

    fn show(&self, word: &str, revision: u64, object: &Value) -> Result<(), Failure> {
        let text = match self.wanted.form {
            GetForm::Table | GetForm::Wide => {
                self.table.line(&row(self.wanted, word, object), self.context.terminal.color())
            }
            GetForm::Name => format!("{} {word}\n", name_of(object)),
            GetForm::Yaml if word == "deleted" => format!("---\n# {} deleted\n", name_of(object)),
            GetForm::Yaml => format!("---\n{}", object_yaml(object)?),
            GetForm::Json => {
                format!("{}\n", json!({ "event": word, "revision": revision, "object": object }))
            }
        };
        self.context.terminal.print(&text)
    }
}

fn row(wanted: &Wanted, word: &str, object: &Value) -> Vec<Cell> {
    let tone = match word {
        "created" => Tone::Good,
        "changed" => Tone::Warn,
        "deleted" => Tone::Bad,
        _ => Tone::Dim,
    };
    let mut row = vec![Cell::new(word).toned(tone)];
    match word {
        "deleted" => {
            row.extend(columns::row(wanted.kind, false, object).into_iter().take(identity_columns(wanted)))
        }
        _ => row.extend(columns::row(wanted.kind, wanted.is_wide(), object)),
    }
    row
}

/// How many columns say which object it is.
fn identity_columns(wanted: &Wanted) -> usize {
    if wanted.kind.is_none() { 3 } else { 2 }
}

/// Whether a failure can be got over.
fn ended(error: Error) -> Result<End, Failure> {
    match error {
        Error::Refused(problem) if problem.status == StatusCode::GONE => Ok(End::Gone),
        Error::Refused(problem) if !problem.status.is_server_error() => Err(Error::Refused(problem).into()),
        Error::Untrusted { .. } | Error::Strange(_) | Error::Token(_) => Err(error.into()),
        _ => Ok(End::Broken(Some(error))),
    }
}
