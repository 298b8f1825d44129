//! What is taken along.

use serde_json::{Value, json};
use weft_proto::name::NodeId;
use weft_proto::resource::redact::{redact, scrub};

use crate::app::Context;
use crate::client::{Client, Error, Path, plain_text};
use crate::commands::check;
use crate::commands::config::of_sidecar;
use crate::commands::version::CLIENT;
use crate::failure::{Failure, Told};

/// Largest file, in bytes; beyond, items are left out of lists.
pub(super) const PART_BYTES_MAX: usize = 4 << 20;
/// Most items of a list that comes page by page.
const ITEMS_MAX: usize = 5000;
const PAGE: usize = 500;
/// Sidecars whose logs are taken along; those that are connected first.
const LOGS_MAX: usize = 50;
/// Acts of operators that are looked through for those that were refused or failed.
const ACTS: usize = 500;

/// One file.
#[derive(Debug)]
pub(super) struct Part {
    pub(super) file: &'static str,
    pub(super) text: String,
    /// Items that there was no room for.
    pub(super) left_out: usize,
    /// Values of objects that are withheld.
    pub(super) withheld: usize,
}

/// All of them, and what could not be had.
#[derive(Debug, Default)]
pub(super) struct Gathered {
    pub(super) parts: Vec<Part>,
    /// File, and why it is not there.
    pub(super) absent: Vec<(&'static str, String)>,
}

impl Gathered {
    fn take(&mut self, file: &'static str, asked: Result<Value, Failure>) {
        match asked {
            Ok(mut value) => {
                let left_out = fit(&mut value);
                let text = scrub(&format!("{value:#}\n"));
                self.parts.push(Part { file, text, left_out, withheld: 0 });
            }
            Err(failure) => self.absent.push((file, said(failure))),
        }
    }
}

pub(super) async fn gather(health_url: Option<&str>, context: &Context) -> Result<Gathered, Failure> {
    let client = context.client()?;
    let get = async |path: Path| client.get(&path).await.map_err(Failure::from);
    let mut gathered = Gathered::default();
    let version = get(Path::v1(&["version"])).await;
    let about = |version| {
        let (os, arch) = (std::env::consts::OS, std::env::consts::ARCH);
        json!({ "command": CLIENT, "os": os, "arch": arch, "controlPlane": version })
    };
    gathered.take("versions.json", version.map(about));
    let checks = check::report(health_url, context).await;
    gathered.take("checks.json", checks.map(|report| report.to_json()));
    let sidecars = get(Path::v1(&["sidecars"])).await;
    let nodes = sidecars.as_ref().map(connected).unwrap_or_default();
    gathered.take("sidecars.json", sidecars);
    gathered.take("trust.json", get(Path::v1(&["trust"])).await);
    gathered.take("plan.json", get(Path::debug("plan")).await);
    objects(&client, &mut gathered).await;
    gathered.take(
        "history.json",
        get(Path::v1(&["history"]).with("limit", Some(100))).await.map(without_reasons),
    );
    gathered.take("quotas.json", get(Path::v1(&["quotas"])).await);
    gathered.take("tools.json", get(Path::v1(&["tools"])).await);
    gathered.take("trails.json", paged(&client, &["audit", "trails"], "after").await.map_err(Failure::from));
    let acts = get(Path::v1(&["audit"]).with("limit", Some(ACTS))).await;
    gathered.take("refused.json", acts.map(refused));
    gathered.take("log.json", get(Path::debug("log")).await);
    gathered.take("logs.json", Ok(logs(&client, &nodes).await));
    metrics(&client, health_url, context, &mut gathered).await?;
    Ok(gathered)
}

fn connected(sidecars: &Value) -> Vec<NodeId> {
    let items = sidecars["items"].as_array().into_iter().flatten();
    let items = items.filter(|it| it["connected"] == true);
    items.filter_map(|it| it["node"].as_str()?.parse().ok()).collect()
}

/// The newest lines of the logs of sidecars, as many as are asked.
async fn logs(client: &Client, nodes: &[NodeId]) -> Value {
    let mut items = Vec::new();
    for node in nodes.iter().take(LOGS_MAX) {
        items.push(match client.get(&of_sidecar(node, "log")).await {
            Ok(lines) => lines,
            Err(error) => json!({ "node": node.to_string(), "absent": said(error.into()) }),
        });
    }
    json!({ "items": items, "notAsked": nodes.len().saturating_sub(LOGS_MAX) })
}

async fn objects(client: &Client, gathered: &mut Gathered) {
    match paged(client, &["resources"], "continue").await {
        Ok(mut list) => {
            let items = list["items"].as_array_mut().map(Vec::as_mut_slice).unwrap_or_default();
            let withheld = items.iter_mut().map(redact).sum();
            gathered.take("objects.json", Ok(list));
            if let Some(part) = gathered.parts.last_mut() {
                part.withheld = withheld;
            }
        }
        Err(error) => gathered.take("objects.json", Err(error.into())),
    }
}

async fn metrics(
    client: &Client,
    url: Option<&str>,
    context: &Context,
    gathered: &mut Gathered,
) -> Result<(), Failure> {
    const FILE: &str = "metrics.txt";
    let Some((host, port)) = check::health(client.endpoint(), url)? else {
        gathered
            .absent
            .push((FILE, "it is not known where they are served: say so with --health-url".to_owned()));
        return Ok(());
    };
    match plain_text(&host, port, "/metrics", context.patience, PART_BYTES_MAX).await {
        Ok(text) => gathered.parts.push(Part { file: FILE, text: scrub(&text), left_out: 0, withheld: 0 }),
        Err(why) => gathered.absent.push((FILE, why)),
    }
    Ok(())
}

/// All pages of a list, up to a limit; the next one is asked for by `more`.
async fn paged(client: &Client, path: &[&str], more: &str) -> Result<Value, Error> {
    let path = |next| Path::v1(path).with("limit", Some(PAGE)).with(more, next);
    let (items, more) = client.pages(path, ITEMS_MAX).await?;
    Ok(json!({ "items": items, "more": more }))
}

/// Why something was changed is for operators to know.
fn without_reasons(mut history: Value) -> Value {
    for item in history["items"].as_array_mut().into_iter().flatten() {
        if let Some(fields) = item.as_object_mut() {
            fields.remove("reason");
        }
    }
    history
}

/// Of what operators did, what came to nothing; without what was said about it.
fn refused(acts: Value) -> Value {
    let kept = ["sequence", "at", "who", "action", "object", "outcome", "revision"];
    let items = acts["items"].as_array().into_iter().flatten();
    let items = items.filter(|act| act["outcome"] != "done").map(|act| {
        let fields = kept.iter().filter_map(|name| Some(((*name).to_owned(), act.get(*name)?.clone())));
        Value::Object(fields.collect())
    });
    json!({ "items": items.collect::<Vec<_>>() })
}

/// Leaves out the last items of a list that is too large. Answers with how many.
fn fit(value: &mut Value) -> usize {
    let Some(items) = value.get_mut("items").and_then(Value::as_array_mut) else { return 0 };
    let mut bytes = 0;
    let fits = items.iter().take_while(|item| {
        bytes += format!("{item:#}").len() + 64;
        bytes <= PART_BYTES_MAX
    });
    let (fits, all) = (fits.count(), items.len());
    items.truncate(fits);
    all - fits
}

fn said(failure: Failure) -> String {
    match failure {
        Failure::Told(told) => {
            let Told { what, why, .. } = *told;
            why.map_or_else(|| what.clone(), |why| format!("{what}: {why}"))
        }
        Failure::ReaderGone => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_that_is_too_large_loses_its_end() {
        let item = |n: usize| json!({ "n": n, "text": "x".repeat(1 << 20) });
        let mut list = json!({ "items": (0..9).map(item).collect::<Vec<_>>() });
        assert_eq!(fit(&mut list), 6);
        assert_eq!(list["items"].as_array().unwrap().len(), 3);
        assert_eq!(fit(&mut json!({ "items": [1, 2] })), 0);
        assert_eq!(fit(&mut json!({ "other": 1 })), 0);
    }
}
