//! What operators ask of sidecars while they run, through the control plane: what each holds, what it logs, and which
//! calls end.

pub(super) mod config;
pub(super) mod counts;
pub(super) mod logging;
pub(super) mod tap;

use tokio::time::Instant;
use weft_proto::pb::weft::ask::v1::answer::Says;
use weft_proto::pb::weft::ask::v1::question::Asks;

use super::{Api, Error};
use crate::ask::{self, Answers, Whom};
use crate::xds::ClientStatus;

/// Sidecars that one operation asks.
const SIDECARS_MAX: usize = 2000;
/// Bytes of the patterns of one parameter.
const PATTERNS_BYTES_MAX: usize = 2048;

fn whom(status: &ClientStatus) -> Whom {
    (status.identity.clone(), status.node.clone())
}

/// Every answer to a question.
async fn all_answers(api: &Api, whom: &Whom, asks: Asks) -> Result<Vec<Says>, ask::Error> {
    let mut answers = api.deps.sidecars.ask(whom, asks)?;
    until_last(&mut answers, Instant::now() + api.deps.limits.sidecar_timeout).await
}

async fn until_last(answers: &mut Answers, deadline: Instant) -> Result<Vec<Says>, ask::Error> {
    let mut all = Vec::new();
    while let Some(says) = answers.next(deadline).await? {
        all.push(says);
    }
    Ok(all)
}

/// Patterns of a parameter, with commas between them.
fn patterns(name: &'static str, text: Option<&str>) -> Result<Vec<String>, Error> {
    let text = text.unwrap_or_default();
    if text.len() > PATTERNS_BYTES_MAX {
        return Err(Error::BadParameter {
            name,
            problem: format!("it is longer than {PATTERNS_BYTES_MAX} bytes"),
        });
    }
    let parts = text.split(',').map(str::trim).filter(|part| !part.is_empty());
    for part in parts.clone() {
        weft_proto::name::Glob::parse(part)
            .map_err(|error| Error::BadParameter { name, problem: format!("{part:?}: {error}") })?;
    }
    Ok(parts.map(str::to_owned).collect())
}

/// Patterns of identities: `<namespace>/<account>` stands for that identity in any trust domain.
fn callers(text: Option<&str>) -> Result<Vec<String>, Error> {
    let read = patterns("caller", text)?.into_iter().map(|it| match it.split_once('/') {
        Some((namespace, account)) if !it.contains(':') && !account.contains('/') && namespace != "*" => {
            format!("spiffe://*/ns/{namespace}/sa/{account}")
        }
        _ => it,
    });
    Ok(read.collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_are_read_one_by_one_and_checked() {
        assert_eq!(patterns("tool", Some("read*, write")).unwrap(), ["read*", "write"]);
        assert!(patterns("tool", None).unwrap().is_empty());
        assert!(patterns("tool", Some("a**b")).is_err());
        assert!(patterns("tool", Some(&"x".repeat(PATTERNS_BYTES_MAX + 1))).is_err());
    }

    #[test]
    fn a_caller_is_named_by_namespace_and_account_or_by_any_pattern() {
        let check =
            |text: &str, expected: &str| assert_eq!(callers(Some(text)).unwrap(), [expected], "{text}");
        check("agents/bot", "spiffe://*/ns/agents/sa/bot");
        check("agents/*", "spiffe://*/ns/agents/sa/*");
        check("*/sa/bot", "*/sa/bot");
        check("spiffe://corp.example/ns/a/sa/b", "spiffe://corp.example/ns/a/sa/b");
        check("local", "local");
    }
}
