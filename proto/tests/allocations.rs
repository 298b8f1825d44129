//! A decision that looks at no arguments allocates nothing: every allocation of this program is counted.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on stops where it is")]

use std::hint::black_box;

use allocation_counter::measure;
use weft_proto::mcp::{Raw, Target};
use weft_proto::name::{ServerName, SpiffeId, TrustDomain};
use weft_proto::policy::Caller;
use weft_proto::policy::access::{Call, View};
use weft_proto::resource::parse;

/// Rules of each kind: names, globs, templates, methods; from everywhere and from somebody.
const PLAIN: &str = "\
apiVersion: weft.dev/v1alpha1
kind: McpServer
metadata: { namespace: research, name: files }
spec: { workload: { labels: { app: files } } }
---
apiVersion: weft.dev/v1alpha1
kind: AccessPolicy
metadata: { namespace: research, name: readers }
spec:
  rules:
    - { action: allow, from: [{ namespaces: [agents] }], to: [{ tools: [read, 'list_*', '*_all'] }] }
    - { action: allow, to: [{ prompts: [summary], resources: ['docs://*'] }] }
    - { action: audit, to: [{ tools: [list_secrets] }] }
    - { action: deny, from: [{ serviceAccounts: ['tmp-*'] }], to: [{ methods: ['resources/*'] }] }
---
apiVersion: weft.dev/v1alpha1
kind: AccessPolicy
metadata: { namespace: research, name: never }
spec: { explain: true, rules: [{ action: deny, to: [{ tools: ['drop_*', remove_all] }] }] }
";

/// A view of the server by an agent.
fn view(documents: &str) -> View {
    let resources: Vec<_> = parse("f.yaml", documents).unwrap().into_iter().map(|(it, _)| it).collect();
    let domain = TrustDomain::parse("corp.example").unwrap();
    let aged = resources.iter().map(|resource| (resource, 1));
    let snapshot = weft_proto::compile::compile_resources(&domain, aged).unwrap();
    let server = ServerName::parse("research/files").unwrap();
    let caller = SpiffeId::parse("spiffe://corp.example/ns/agents/sa/reviewer").unwrap();
    let access = &snapshot.server(&server).unwrap().access;
    View::new(access, snapshot.default_action(), Caller::new(caller.workload().unwrap()), server)
}

fn calls() -> [(Call<'static>, bool); 11] {
    let of = |method, target, allowed| (Call { method, target, arguments: None }, allowed);
    let tool = |name, allowed| of("tools/call", Some(Target::Tool(name)), allowed);
    [
        tool("read", true),
        tool("list_files", true),
        tool("list_secrets", true),
        tool("remove_all", false),
        tool("drop_table", false),
        tool("write", false),
        of("tools/call", None, false),
        of("prompts/get", Some(Target::Prompt("summary")), true),
        of("resources/read", Some(Target::Resource("docs://a/b")), true),
        of("tools/list", None, true),
        of("made/up", None, false),
    ]
}

#[test]
fn a_decision_without_conditions_allocates_nothing() {
    let view = view(PLAIN);
    let arguments = Some(Raw::scan(r#"{"path": "/data/public/report.txt", "size": 42}"#, 64).unwrap());
    for (call, allowed) in calls() {
        for call in [call, Call { arguments, ..call }] {
            let mut found = None;
            let counted = measure(|| found = Some(black_box(&view).decide(black_box(call)).allowed));
            assert_eq!((found, counted.count_total), (Some(allowed), 0), "{call:?}");
        }
        if let Some(target) = call.target {
            let counted = measure(|| _ = black_box(black_box(&view).may_see(target)));
            assert_eq!(counted.count_total, 0, "whether {target:?} may be seen");
        }
    }
}

/// What would be counted is: else the test above could not fail.
#[test]
fn a_decision_beside_a_policy_in_shadow_is_seen_to_allocate() {
    let shadow = PLAIN.replace("explain: true", "shadow: true");
    let view = view(&shadow);
    let call = calls()[0].0;
    assert!(measure(|| _ = black_box(view.decide(call))).count_total > 0);
}
