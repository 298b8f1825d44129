//! Looking: each probe rests on the one before it.

use hyper::{StatusCode, Uri};
use jiff::Timestamp;
use tokio::time::Instant;
use weft_control_plane::check::versions_fit;

use super::listed::{
    AUTHENTICATED, CLOCK, CREDENTIALS, Group, METRICS, OPERATOR_FILE, REACHABLE, READY, SKEW, VERIFIED,
};
use super::report::{Finding, Outcome, Report};
use crate::answers::{Checks, Version};
use crate::app::Context;
use crate::client::{self, Client, Endpoint, Error, Path, plain_status};
use crate::commands::version::CLIENT;
use crate::credentials::read_operator_file;
use crate::failure::{Failure, Told};

/// The usual ports of operators and of health.
const OPERATORS_PORT: u16 = 7501;
const HEALTH_PORT: u16 = 7502;
const READY_PATH: &str = "/healthz/ready";
const METRICS_PATH: &str = "/metrics";
/// Clocks that are further apart than this make certificates look as if they were not good yet.
const CLOCK_SECS_MAX: i64 = 10;
const NO_WAY: &str = "the control plane was not asked";

pub(super) async fn run(
    health_url: Option<&str>,
    only: &[Group],
    context: &Context,
) -> Result<Report, Failure> {
    let mut report = Report::default();
    let client = configuration(context, &mut report);
    let (version, mut way) = match &client {
        Some(client) => way(client).await,
        None => (None, [REACHABLE, VERIFIED, AUTHENTICATED].map(Finding::after_failure).to_vec()),
    };
    way.extend(doors(client.as_ref(), health_url, context).await?);
    let wanted = |group: Group| only.is_empty() || only.contains(&group);
    let judged: Vec<_> = Group::JUDGED.into_iter().filter(|it| wanted(*it)).collect();
    match (&client, version) {
        (Some(client), Some(version)) => {
            way.push(skew(CLIENT, &version.version));
            let (clock, groups) = ask(client, &judged, context).await;
            way.push(clock);
            report.add(Group::Connection.word(), way);
            report.groups.extend(groups);
        }
        _ => {
            way.extend([SKEW, CLOCK].map(Finding::after_failure));
            report.add(Group::Connection.word(), way);
            for group in judged {
                let checks = group.checks().into_iter().map(|(name, _)| Finding::skipped(name, NO_WAY));
                report.add(group.word(), checks.collect());
            }
        }
    }
    // What the others rest on is shown where it did not pass.
    report.groups.retain(|group| wanted_word(only, &group.name) || group.has_failed());
    Ok(report)
}

fn wanted_word(only: &[Group], word: &str) -> bool {
    only.is_empty() || only.iter().any(|group| group.word() == word)
}

/// Whether this command knows where to go and how to prove itself.
fn configuration(context: &Context, report: &mut Report) -> Option<Client> {
    let path = context.given.operator_file();
    let file = match read_operator_file(&path) {
        Ok(_) => Finding::ok(OPERATOR_FILE, format!("{} is readable, and by its owner only", path.display())),
        Err(_) if context.given.load().is_ok() => {
            Finding::ok(OPERATOR_FILE, "not needed: flags and environment say everything")
        }
        Err(failure) => from_failure(OPERATOR_FILE, failure, "nothing can be asked without it"),
    };
    let (credentials, client) = match context.client() {
        Ok(client) => (
            Finding::ok(CREDENTIALS, format!("for the control plane at {}", client.endpoint())),
            Some(client),
        ),
        Err(_) if file.outcome == Outcome::Failed => (Finding::after_failure(CREDENTIALS), None),
        Err(failure) => (from_failure(CREDENTIALS, failure, "nothing can be asked without them"), None),
    };
    report.add(Group::Configuration.word(), vec![file, credentials]);
    client
}

/// One request tells how far the way is open.
async fn way(client: &Client) -> (Option<Version>, Vec<Finding>) {
    let started = Instant::now();
    let asked = client.get(&Path::v1(&["version"])).await.and_then(client::read::<Version>);
    let took = started.elapsed().as_millis();
    let endpoint = client.endpoint();
    let passed = [
        Finding::ok(REACHABLE, endpoint.to_string()),
        Finding::ok(VERIFIED, format!("TLS 1.3, and the certificate is for {}", endpoint.host())),
        Finding::ok(AUTHENTICATED, format!("the token is accepted; answered after {took} ms")),
    ];
    let error = match asked {
        Ok(version) => return (Some(version), passed.to_vec()),
        Err(error) => error,
    };
    let good = match &error {
        Error::Unreachable { .. } => 0,
        Error::Slow { what, .. } if *what == "a connection" => 0,
        Error::Untrusted { .. } => 1,
        _ => 2,
    };
    let why = [
        "no change can be made; sidecars go on with what they have",
        "whatever answers there could be somebody else, so nothing is sent to it",
        "the control plane does not let this command in, or cannot answer it",
    ];
    let mut checks: Vec<_> = passed.iter().take(good).cloned().collect();
    checks.push(from_failure(&passed[good].name, error.into(), why[good]));
    checks.extend(passed.iter().skip(good + 1).map(|check| Finding::after_failure(&check.name)));
    (None, checks)
}

/// What the door for health says, which need not be reachable from here.
async fn doors(
    client: Option<&Client>,
    url: Option<&str>,
    context: &Context,
) -> Result<[Finding; 2], Failure> {
    let Some(client) = client else { return Ok([READY, METRICS].map(Finding::after_failure)) };
    let Some((host, port)) = health(client.endpoint(), url)? else {
        let why = "the port of the server is not the usual one: say where health is served with --health-url";
        return Ok([READY, METRICS].map(|name| Finding::skipped(name, why)));
    };
    let place = |path: &str| format!("http://{host}:{port}{path}");
    let ready = match plain_status(&host, port, READY_PATH, context.patience).await {
        Ok(StatusCode::OK) => Finding::ok(READY, place(READY_PATH)),
        Ok(status) => Finding::failed(
            READY,
            format!("{} answers {status}", place(READY_PATH)),
            "a control plane that is not ready publishes nothing",
            "give it a moment after a start; its log says what it waits for",
        ),
        Err(why) => {
            let why = |path: &str| format!("{} cannot be asked from here: {why}", place(path));
            return Ok([
                Finding::skipped(READY, why(READY_PATH)),
                Finding::skipped(METRICS, why(METRICS_PATH)),
            ]);
        }
    };
    let metrics = match plain_status(&host, port, METRICS_PATH, context.patience).await {
        Ok(StatusCode::OK) => Finding::ok(METRICS, place(METRICS_PATH)),
        Ok(status) => not_read(format!("{} answers {status}", place(METRICS_PATH))),
        Err(why) => not_read(format!("{} cannot be read: {why}", place(METRICS_PATH))),
    };
    Ok([ready, metrics])
}

fn not_read(detail: String) -> Finding {
    Finding::warning(
        METRICS,
        detail,
        "what watches the control plane sees nothing, and no alert is raised",
        "see what stands between; the door for health serves metrics too",
    )
}

/// Where health is served; none where that is not known.
pub(crate) fn health(endpoint: &Endpoint, url: Option<&str>) -> Result<Option<(String, u16)>, Failure> {
    match url {
        Some(url) => read_url(url).map(Some),
        None => {
            let usual = endpoint.port() == OPERATORS_PORT;
            Ok(usual.then(|| (endpoint.url_host().to_owned(), HEALTH_PORT)))
        }
    }
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

/// Versions of both sides: one minor version apart is supported and tested.
fn skew(client: &str, server: &str) -> Finding {
    let detail = format!("command {client}, control plane {server}");
    match versions_fit(client, server) {
        true => Finding::ok(SKEW, detail),
        false => Finding::warning(
            SKEW,
            detail,
            "versions more than one minor apart are not tested with each other",
            "use the `weft` that came with the control plane",
        ),
    }
}

/// Has the control plane judge what it sees.
async fn ask(client: &Client, judged: &[Group], context: &Context) -> (Finding, Vec<super::report::Group>) {
    let before = context.now();
    // One group is asked for as such, so that no more is looked at than is wanted.
    let one = match judged {
        [one] => Some(one.word()),
        _ => None,
    };
    let asked = client.get(&Path::v1(&["checks"]).with("group", one)).await.and_then(client::read::<Checks>);
    let made = match asked {
        Ok(made) => made,
        Err(error) => {
            let is_unknown =
                matches!(&error, Error::Refused(problem) if problem.status == StatusCode::NOT_FOUND);
            let failure = from_failure("checks", error.into(), "nothing is known of the mesh");
            let why = match is_unknown {
                true => "this control plane is older, and makes no checks".to_owned(),
                false => failure.detail.clone(),
            };
            let groups = judged.iter().map(|group| {
                let skip = |(name, _): (&str, _)| Finding::skipped(name, &*why);
                let mut checks: Vec<_> = group.checks().into_iter().map(skip).collect();
                if !is_unknown && judged.first() == Some(group) {
                    checks.insert(0, failure.clone());
                }
                super::report::Group { name: group.word().to_owned(), checks }
            });
            return (Finding::skipped(CLOCK, &*why), groups.collect());
        }
    };
    let groups = judged.iter().map(|group| {
        let checks = made.items.iter().filter(|it| it.group == group.word()).map(Finding::from);
        super::report::Group { name: group.word().to_owned(), checks: checks.collect() }
    });
    (clock(&made.at, before, context.now()), groups.collect())
}

/// The control plane told its time somewhere between two moments here.
fn clock(told: &str, before: Timestamp, after: Timestamp) -> Finding {
    let Ok(told) = told.parse::<Timestamp>() else {
        return Finding::skipped(CLOCK, "the control plane does not tell its time");
    };
    let ahead = told.as_second() - after.as_second();
    let behind = before.as_second() - told.as_second();
    match ahead.max(behind) {
        apart if apart <= CLOCK_SECS_MAX => Finding::ok(CLOCK, format!("the control plane's is {told}")),
        apart => Finding::warning(
            CLOCK,
            format!("{apart} s apart: the control plane's is {told}"),
            "certificates look as if they were not good yet, or not any more",
            "keep the time of both machines, with NTP or as their platform does",
        ),
    }
}

pub(super) fn from_failure(name: &str, failure: Failure, matters: &str) -> Finding {
    match failure {
        Failure::Told(told) => {
            let Told { what, why, next, .. } = *told;
            let detail = why.map_or_else(|| what.clone(), |why| format!("{what}: {why}"));
            Finding::failed(name, detail, matters, next.unwrap_or_default())
        }
        Failure::ReaderGone => Finding::after_failure(name),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clocks_may_be_ten_seconds_apart_beside_what_the_way_takes() {
        let at = |secs: i64| Timestamp::from_second(1_800_000_000 + secs).unwrap();
        let check = |told: i64, expected| {
            assert_eq!(clock(&at(told).to_string(), at(0), at(5)).outcome, expected, "{told}");
        };
        check(-10, Outcome::Ok);
        check(15, Outcome::Ok);
        check(-11, Outcome::Warning);
        check(16, Outcome::Warning);
        assert_eq!(clock("", at(0), at(5)).outcome, Outcome::Skipped);
    }
}
