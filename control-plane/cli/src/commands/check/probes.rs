//! Looking: each probe rests on the one before it.

use std::time::Duration;

use hyper::{StatusCode, Uri};
use tokio::time::{Instant, sleep};

use super::judge;
use super::report::{Finding, Report};
use crate::answers::{History, Sidecars, Trust, Version};
use crate::app::Context;
use crate::client::{self, Client, Endpoint, Error, Path, plain_status};
use crate::commands::version::CLIENT;
use crate::credentials::read_operator_file;
use crate::failure::{Failure, Told};

const REACHABLE: &str = "reachable";
const VERIFIED: &str = "verified";
const AUTHENTICATED: &str = "authenticated";
const READY: &str = "ready";
/// The usual ports of operators and of health.
const OPERATORS_PORT: u16 = 7501;
const HEALTH_PORT: u16 = 7502;
const READY_PATH: &str = "/healthz/ready";
/// How long the planner is given to publish what was just stored.
const PUBLISH_PATIENCE: Duration = Duration::from_secs(3);
const LOOK_AGAIN: Duration = Duration::from_millis(250);

pub(super) async fn run(health_url: Option<&str>, context: &Context) -> Result<Report, Failure> {
    let mut report = Report::default();
    let client = configuration(context, &mut report);
    let version = match &client {
        Some(client) => control_plane(client, health_url, context, &mut report).await?,
        None => {
            let names = [REACHABLE, VERIFIED, AUTHENTICATED, READY];
            report.add("control plane", names.map(Finding::skipped).to_vec());
            None
        }
    };
    match (&client, version) {
        (Some(client), Some(version)) => {
            let skew = judge::skew(CLIENT, &version.version);
            report.add("state", vec![skew, published(client, version).await]);
            trust(client, context, &mut report).await;
            sidecars(client, context, &mut report).await;
        }
        _ => {
            report
                .add("state", vec![Finding::skipped("version skew"), Finding::skipped("published revision")]);
            report.add(
                "trust",
                vec![Finding::skipped("root certificate"), Finding::skipped("issuer certificate")],
            );
            report.add("sidecars", vec![Finding::skipped("connected")]);
        }
    }
    Ok(report)
}

/// Whether this command knows where to go and how to prove itself.
fn configuration(context: &Context, report: &mut Report) -> Option<Client> {
    let path = context.given.operator_file();
    let file = match read_operator_file(&path) {
        Ok(_) => {
            Finding::ok("operator.json", format!("{} is readable, and by its owner only", path.display()))
        }
        Err(_) if context.given.load().is_ok() => {
            Finding::ok("operator.json", "not needed: flags and environment say everything")
        }
        Err(failure) => from_failure("operator.json", failure, "nothing can be asked without it"),
    };
    let (credentials, client) = match context.client() {
        Ok(client) => (
            Finding::ok("credentials", format!("for the control plane at {}", client.endpoint())),
            Some(client),
        ),
        Err(_) if file.outcome == super::report::Outcome::Failed => (Finding::skipped("credentials"), None),
        Err(failure) => (from_failure("credentials", failure, "nothing can be asked without them"), None),
    };
    report.add("configuration", vec![file, credentials]);
    client
}

/// One request tells how far the way is open.
async fn control_plane(
    client: &Client,
    health_url: Option<&str>,
    context: &Context,
    report: &mut Report,
) -> Result<Option<Version>, Failure> {
    let started = Instant::now();
    let asked = client.get(&Path::v1(&["version"])).await.and_then(client::read::<Version>);
    let took = started.elapsed().as_millis();
    let endpoint = client.endpoint();
    let passed = [
        Finding::ok(REACHABLE, endpoint.to_string()),
        Finding::ok(VERIFIED, format!("TLS 1.3, and the certificate is for {}", endpoint.host())),
        Finding::ok(AUTHENTICATED, format!("the token is accepted; answered after {took} ms")),
    ];
    let (good, failed, version) = match asked {
        Ok(version) => (3, None, Some(version)),
        Err(error) => {
            let good = match &error {
                Error::Unreachable { .. } => 0,
                Error::Slow { what, .. } if *what == "a connection" => 0,
                Error::Untrusted { .. } => 1,
                _ => 2,
            };
            (good, Some(error), None)
        }
    };
    let mut checks: Vec<_> = passed.iter().take(good).cloned().collect();
    if let Some(error) = failed {
        let why = [
            "no change can be made; sidecars go on with what they have",
            "whatever answers there could be somebody else, so nothing is sent to it",
            "the control plane does not let this command in, or cannot answer it",
        ];
        checks.push(from_failure(passed[good].name, error.into(), why[good]));
        checks.extend(passed.iter().skip(good + 1).map(|check| Finding::skipped(check.name)));
    }
    checks.push(ready(endpoint, health_url, context).await?);
    report.add("control plane", checks);
    Ok(version)
}

/// Whether the control plane says of itself that it is ready. Its health port need not be reachable from here.
async fn ready(endpoint: &Endpoint, url: Option<&str>, context: &Context) -> Result<Finding, Failure> {
    let (host, port) = match url {
        Some(url) => read_url(url)?,
        None if endpoint.port() == OPERATORS_PORT => (endpoint.url_host().to_owned(), HEALTH_PORT),
        None => {
            return Ok(Finding::warning(
                READY,
                "not looked at: the port of the server is not the usual one",
                "a control plane can answer and still not be ready to publish",
                "say where health is served with --health-url",
            ));
        }
    };
    let place = format!("http://{host}:{port}{READY_PATH}");
    Ok(match plain_status(&host, port, READY_PATH, context.patience).await {
        Ok(StatusCode::OK) => Finding::ok(READY, place),
        Ok(status) => Finding::failed(
            READY,
            format!("{place} answers {status}"),
            "a control plane that is not ready publishes nothing",
            "give it a moment after a start; its log says what it waits for",
        ),
        Err(why) => Finding::warning(
            READY,
            format!("{place} could not be asked: {why}"),
            "health is often not reachable from outside, so this need not be wrong",
            "say where health is served with --health-url, or look there from the control plane's machine",
        ),
    })
}

fn read_url(url: &str) -> Result<(String, u16), Failure> {
    let failure = || {
        Failure::usage(format!("the health URL {url:?} cannot be used"))
            .then("give a URL without path, such as http://127.0.0.1:7502")
    };
    let uri: Uri = url.parse().map_err(|_| failure())?;
    match (uri.scheme_str(), uri.host(), uri.path()) {
        (Some("http"), Some(host), "/" | "") => Ok((host.to_owned(), uri.port_u16().unwrap_or(HEALTH_PORT))),
        _ => Err(failure()),
    }
}

/// Whether the newest change is published, after it had its time to be.
async fn published(client: &Client, mut version: Version) -> Finding {
    let newest = Path::v1(&["history"]).with("limit", Some(1));
    let newest = match client.get(&newest).await.and_then(client::read::<History>) {
        Ok(history) => history.items.first().map(|change| change.revision),
        Err(error) => {
            return from_failure("published revision", error.into(), "nothing is known of the changes");
        }
    };
    let deadline = Instant::now() + PUBLISH_PATIENCE;
    while version.published_revision < newest && Instant::now() < deadline {
        sleep(LOOK_AGAIN).await;
        if let Ok(newer) = client.get(&Path::v1(&["version"])).await.and_then(client::read) {
            version = newer;
        }
    }
    judge::published(version.published_revision, newest)
}

async fn trust(client: &Client, context: &Context, report: &mut Report) {
    let asked = client.get(&Path::v1(&["trust"])).await.and_then(client::read::<Trust>);
    report.add(
        "trust",
        match asked {
            Ok(trust) => {
                let mut checks = judge::roots(&trust, context.now());
                checks.push(judge::issuer(&trust, context.now()));
                checks
            }
            Err(error) => {
                vec![from_failure("root certificate", error.into(), "nothing is known of the roots")]
            }
        },
    );
}

async fn sidecars(client: &Client, context: &Context, report: &mut Report) {
    let asked = client.get(&Path::v1(&["sidecars"])).await.and_then(client::read::<Sidecars>);
    report.add(
        "sidecars",
        match asked {
            Ok(sidecars) => judge::sidecars(&sidecars.items, context.now()),
            Err(error) => vec![from_failure("connected", error.into(), "nothing is known of the sidecars")],
        },
    );
}

fn from_failure(name: &'static str, failure: Failure, matters: &str) -> Finding {
    match failure {
        Failure::Told(told) => {
            let Told { what, why, next, .. } = *told;
            let detail = why.map_or_else(|| what.clone(), |why| format!("{what}: {why}"));
            Finding::failed(name, detail, matters, next.unwrap_or_default())
        }
        Failure::ReaderGone => Finding::skipped(name),
    }
}
