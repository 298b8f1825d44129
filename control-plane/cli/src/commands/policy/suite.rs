//! A file of expected decisions, and what the policies that it names decide. By the code that decides in sidecars, and
//! without asking anyone.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use weft_proto::compile::{Snapshot, compile_resources};
use weft_proto::name::{ServerName, SpiffeId, TrustDomain, Workload};
use weft_proto::policy::Caller;
use weft_proto::policy::access::{Asked, Explanation, Question, View};
use weft_proto::resource::{self, Resource, Spec};

use crate::commands::call::Named;
use crate::failure::Failure;
use crate::files;
use crate::terminal::Terminal;

/// The trust domain where nothing says another.
const TRUST_DOMAIN: &str = "weft.local";
const TESTS_MAX: usize = 10_000;

/// What came of one test.
#[derive(Debug, Serialize)]
pub(super) struct Outcome {
    pub(super) file: String,
    pub(super) name: String,
    /// How the decision differs from what was expected.
    pub(super) problem: Option<String>,
    pub(super) explanation: Explanation,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Suite {
    resources: Vec<PathBuf>,
    trust_domain: Option<String>,
    tests: Vec<Test>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Test {
    name: Option<String>,
    #[serde(rename = "as")]
    caller: String,
    tool: Option<String>,
    prompt: Option<String>,
    resource: Option<String>,
    of: Option<String>,
    method: Option<String>,
    args: Option<Map<String, Value>>,
    args_json: Option<String>,
    claims: Option<Map<String, Value>>,
    tenant: Option<String>,
    expect: Expected,
    rule: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Expected {
    Allow,
    Deny,
}

/// Runs the tests of a file.
pub(super) fn run(path: &Path, terminal: &Terminal) -> Result<Vec<Outcome>, Failure> {
    let file = path.display().to_string();
    let text = files::gather(&[path.to_owned()], terminal)?.pop().map(|file| file.text).unwrap_or_default();
    let suite: Suite = serde_saphyr::from_str(&text).map_err(|error| {
        Failure::usage(format!("{file} is no file of tests")).because(error.without_snippet())
    })?;
    if suite.tests.is_empty() || suite.tests.len() > TESTS_MAX {
        return Err(Failure::usage(format!(
            "{file} has {} tests; expected 1 to {TESTS_MAX}",
            suite.tests.len()
        )));
    }
    let mesh = Mesh::read(&suite, path.parent().unwrap_or_else(|| Path::new("")), terminal)?;
    let run = |(place, test): (usize, &Test)| {
        let name = test.name.clone().unwrap_or_else(|| format!("tests[{place}]"));
        let explanation = mesh
            .explain(test)
            .map_err(|problem| Failure::usage(format!("{file}: {name} cannot be run")).because(problem))?;
        Ok(Outcome { problem: test.differs(&explanation), file: file.clone(), name, explanation })
    };
    suite.tests.iter().enumerate().map(run).collect()
}

/// What the resources make.
struct Mesh {
    snapshot: Snapshot,
    trust_domain: TrustDomain,
}

impl Mesh {
    fn read(suite: &Suite, folder: &Path, terminal: &Terminal) -> Result<Self, Failure> {
        let paths: Vec<_> = suite.resources.iter().map(|path| folder.join(path)).collect();
        let files = files::gather(&paths, terminal)?;
        files::check(&files).map_err(Failure::into_usage)?;
        let mut resources = Vec::new();
        for file in &files {
            // They were just seen to be good.
            resources.extend(resource::parse(&file.name, &file.text).unwrap_or_default());
        }
        let trust_domain = trust_domain(suite, &resources)?;
        // The earlier in the files, the older.
        let aged = (1..).zip(&resources).map(|(age, (resource, _))| (resource, age));
        let snapshot = compile_resources(&trust_domain, aged)
            .map_err(|error| Failure::usage("a sidecar would refuse the resources").because(error))?;
        for warning in &snapshot.warnings {
            terminal.warn(&warning.to_string());
        }
        Ok(Self { snapshot, trust_domain })
    }

    fn explain(&self, test: &Test) -> Result<Explanation, String> {
        let (server, question) = test.question()?;
        let entry = self.snapshot.server(&server).ok_or_else(|| format!("there is no server {server}"))?;
        let caller = test.caller(&self.trust_domain)?;
        if caller.workload().trust_domain != self.trust_domain {
            return Ok(Explanation::foreign(&caller));
        }
        let default_action = self.snapshot.default_action();
        let view = View::new(&entry.access, default_action, caller, entry.server.meta.full_name());
        view.explain(&question).map_err(|error| error.to_string())
    }
}

fn trust_domain(suite: &Suite, resources: &[(Resource, u64)]) -> Result<TrustDomain, Failure> {
    let of_trust = resources.iter().find_map(|(resource, _)| match &resource.spec {
        Spec::Trust(trust) => Some(trust.trust_domain.clone()),
        _ => None,
    });
    match (of_trust, &suite.trust_domain) {
        (Some(domain), _) => Ok(domain),
        (None, given) => {
            let text = given.as_deref().unwrap_or(TRUST_DOMAIN);
            TrustDomain::parse(text).map_err(|error| Failure::usage("trustDomain is wrong").because(error))
        }
    }
}

impl Test {
    fn question(&self) -> Result<(ServerName, Question), String> {
        let named = [
            ("tool", &self.tool, Asked::Tool as fn(String) -> Asked),
            ("prompt", &self.prompt, Asked::Prompt),
            ("resource", &self.resource, Asked::Resource),
        ];
        let mut subjects =
            named.into_iter().filter_map(|(field, text, of)| Some((field, text.as_ref()?, of)));
        let (server, target) = match (subjects.next(), subjects.next(), &self.of) {
            (Some((field, text, of)), None, None) => {
                let named: Named = text.parse().map_err(|problem| format!("{field}: {problem}"))?;
                (named.server, Some(of(named.name)))
            }
            (None, None, Some(of)) => (of.parse().map_err(|error| format!("of: {error}"))?, None),
            _ => return Err("expected exactly one of tool, prompt, resource and of".to_owned()),
        };
        let arguments = match (&self.args, &self.args_json) {
            (Some(_), Some(_)) => return Err("args and argsJson are the same; give one".to_owned()),
            (Some(args), None) => Some(Value::from(args.clone()).to_string()),
            (None, json) => json.clone(),
        };
        Ok((server, Question { target, method: self.method.clone(), arguments }))
    }

    fn caller(&self, own: &TrustDomain) -> Result<Caller, String> {
        let full = match self.caller.starts_with("spiffe://") {
            true => self.caller.clone(),
            false => format!("spiffe://{own}/ns/{}", self.caller.replacen('/', "/sa/", 1)),
        };
        let workload: Option<Workload> = SpiffeId::parse(&full).ok().and_then(|id| id.workload());
        let workload = workload.ok_or("as: expected <namespace>/<service account> or a SPIFFE ID")?;
        let mut caller = Caller::new(workload);
        if let Some(tenant) = &self.tenant {
            caller = caller.of_tenant(tenant);
        }
        match &self.claims {
            None => Ok(caller),
            Some(claims) => {
                let json = Value::from(claims.clone()).to_string();
                caller.with_claims(&json).map_err(|error| format!("claims: {error}"))
            }
        }
    }

    fn differs(&self, found: &Explanation) -> Option<String> {
        let expected = self.expect == Expected::Allow;
        if found.allowed != expected {
            let (expected, found) = if expected { ("allowed", "refused") } else { ("refused", "allowed") };
            return Some(format!("expected to be {expected}, is {found}"));
        }
        let rule = self.rule.as_ref().filter(|rule| **rule != found.reason)?;
        Some(format!("expected to be decided by {rule}, is by {}", found.reason))
    }
}
