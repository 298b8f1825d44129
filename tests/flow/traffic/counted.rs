//! What is counted of calls, by server, tool and class of caller: on both sides, and within bounds.

use http_body_util::Full;
use serde_json::json;
use weft_sidecar::app::Running;

use super::agent::Agent;
use super::lists::{POLICY, server};
use super::pair::{Answer, Pair, modern};
use super::upstream::Upstream;
use crate::mesh::eventually;

fn call(tool: &str) -> http::Request<Full<bytes::Bytes>> {
    modern("tools/call", tool, json!({ "name": tool, "arguments": {} }))
}

/// Calls of a side that have all of these labels.
fn count(sidecar: &Running, side: &str, labels: &[&str]) -> u64 {
    let text = sidecar.metrics.text();
    let start = format!("mcp_{side}_operation_duration_seconds_count{{");
    let lines = text.lines().filter(|line| line.starts_with(&start));
    let lines = lines.filter(|line| labels.iter().all(|label| line.contains(label)));
    lines.filter_map(|line| line.rsplit_once(' ')?.1.parse::<u64>().ok()).sum()
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_are_told_apart_by_tool_once_the_server_has_listed_it() {
    for streams in [false, true] {
        let pair = Pair::start(server(streams).await).await;
        pair.apply(POLICY).await;
        let agent = Agent::join(&pair, "reviewer").await;
        let (inbound, outbound) = (&pair.inbound, &agent.sidecar);
        assert_eq!(agent.answer(call("unheard_of")).await.status, 403);
        let other = ["tools/call", "gen_ai_tool_name=\"other\""];
        eventually("what nobody has advertised is counted as such", || {
            count(inbound, "server", &other) == 1 && count(outbound, "client", &other) == 1
        })
        .await;
        assert_eq!(agent.answer(modern("tools/list", "", json!({}))).await.status, 200);
        assert_eq!(agent.answer(call("drop_all")).await.status, 403);
        assert_eq!(agent.answer(call("read_file")).await.status, 200);
        assert_eq!(agent.answer(call("made_up")).await.status, 403);
        let refused = [
            "server=\"research/files\"",
            "gen_ai_tool_name=\"drop_all\"",
            "caller_namespace=\"agents\"",
            "error_type=\"4030\"",
            "reason=\"denied\"",
        ];
        eventually("a tool that the caller may not see is known where the list came from", || {
            count(inbound, "server", &refused) == 1
        })
        .await;
        let passed = ["gen_ai_tool_name=\"read_file\"", "reason=\"ok\""];
        eventually("one that passes is known on both sides", || {
            count(inbound, "server", &passed) == 1 && count(outbound, "client", &passed) == 1
        })
        .await;
        eventually("the agent's side knows what the agent may see", || {
            count(outbound, "client", &other) == 3
        })
        .await;
        for text in [inbound.metrics.text(), outbound.metrics.text()] {
            assert!(!text.contains("made_up"), "{text}");
            assert!(!text.contains("sa/reviewer"), "{text}");
        }
        agent.sidecar.stop().await;
        pair.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_are_told_apart_by_prompt_on_both_sides() {
    let answers = async |seen: super::upstream::Seen| {
        let message: serde_json::Value = serde_json::from_slice(&seen.body).unwrap_or_default();
        let result = match message["method"].as_str() {
            Some("prompts/list") => json!({ "resultType": "complete", "ttlMs": 0, "cacheScope": "private",
                                            "prompts": [{ "name": "greeting" }] }),
            Some("prompts/get") => json!({ "resultType": "complete", "messages": [] }),
            _ => return super::upstream::echo(&seen),
        };
        super::upstream::document(&json!({ "jsonrpc": "2.0", "id": message["id"], "result": result }))
    };
    let pair = Pair::start(Upstream::with(answers).await).await;
    let agent = Agent::join(&pair, "reviewer").await;
    assert_eq!(agent.answer(modern("prompts/list", "", json!({}))).await.status, 200);
    for prompt in ["greeting", "made_up"] {
        let get = modern("prompts/get", prompt, json!({ "name": prompt, "arguments": {} }));
        assert_eq!(agent.answer(get).await.status, 200);
    }
    for (sidecar, side) in [(&pair.inbound, "server"), (&agent.sidecar, "client")] {
        for prompt in ["greeting", "other"] {
            let labels = ["prompts/get", &format!("gen_ai_prompt_name=\"{prompt}\"")];
            eventually("each is counted by its name, if there is such a prompt", || {
                count(sidecar, side, &labels) == 1
            })
            .await;
        }
        assert!(!sidecar.metrics.text().contains("made_up"));
    }
    agent.sidecar.stop().await;
    pair.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn telemetry_says_what_calls_are_told_apart_by_besides() {
    let pair = Pair::start(Upstream::echo().await).await;
    let mut caller = pair.caller("agents", "reviewer").await;
    let say = |dimensions: &str| {
        format!(
            "apiVersion: weft.dev/v1alpha1\nkind: Telemetry\nmetadata: {{ namespace: research, name: told }}\n\
             spec: {{ metricDimensions: {dimensions} }}\n"
        )
    };
    pair.apply(&say("[caller, era]")).await;
    assert_eq!(Answer::read(caller.send(call("echo")).await).await.status, 200);
    let labels = ["caller=\"spiffe://flow.test/ns/agents/sa/reviewer\"", "era=\"modern\""];
    eventually("identity and era are told", || count(&pair.inbound, "server", &labels) == 1).await;
    pair.apply(&say("[era]")).await;
    assert_eq!(Answer::read(caller.send(call("echo")).await).await.status, 200);
    eventually("only the era is", || count(&pair.inbound, "server", &["reason=\"ok\",era=\"modern\""]) == 1)
        .await;
    assert_eq!(count(&pair.inbound, "server", &labels), 1);
    pair.stop().await;
}
