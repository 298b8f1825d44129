use serde_json::json;

use super::*;

fn now() -> Timestamp {
    "2026-05-01T12:00:00Z".parse().unwrap()
}

fn sidecar(change: impl FnOnce(&mut Value)) -> Sidecar {
    let mut value = json!({
        "node": "research/files-0", "identity": "spiffe://d/ns/research/sa/files", "version": "0.1.0",
        "peer": "10.0.0.9:4000", "connected": true, "connectedAt": "2026-05-01T10:00:00Z", "serves": ["research/files"],
        "sync": "synced", "seenRevision": 7,
        "types": [
            { "type": "Server", "sync": "synced", "resources": 2, "sentRevision": 7, "acknowledgedRevision": 7,
              "lastAckAgeSeconds": 90 },
            { "type": "Access", "sync": "synced", "resources": 1, "sentRevision": 5, "acknowledgedRevision": 5,
              "lastAckAgeSeconds": 4000 },
        ],
        "certificate": { "serial": "5e0c", "expiresAt": "2026-05-01T23:00:00Z", "root": "0123456789abcdef" },
        "report": {
            "at": "2026-05-01T11:59:50Z", "version": "0.1.0", "uptimeSeconds": 7200, "inboundAddress": "10.0.0.5:7443",
            "health": "degraded",
            "servers": [
                { "server": "research/files", "health": "degraded", "detail": "3 checks failed", "inFlight": 17 },
                { "server": "research/notes", "health": "serving", "inFlight": 0 },
            ],
        },
    });
    change(&mut value);
    client::read(value).unwrap()
}

fn reject(value: &mut Value) {
    value["sync"] = json!("rejected");
    value["types"][1]["sync"] = json!("rejected");
    value["types"][1]["nack"] =
        json!({ "at": "2026-05-01T11:59:00Z", "message": "rule 2:\nbad\u{1b}[2J glob" });
}

#[test]
fn the_overview_has_a_line_per_sidecar_and_what_was_refused_below() {
    let away = |value: &mut Value| {
        value["connected"] = json!(false);
        value.as_object_mut().unwrap().remove("report");
    };
    let one = |value: &mut Value| {
        value["report"]["servers"].as_array_mut().unwrap().truncate(1);
        reject(value);
    };
    let items = vec![sidecar(|_| {}), sidecar(one), sidecar(away)];
    let text =
        overview(&Sidecars { published_revision: Some(7), items, ..Sidecars::default() }, now(), false);
    let expected = "\
NODE              IDENTITY                         SYNC          HEALTH        TYPES                           LAST ACK  CERTIFICATE  ROOT
research/files-0  spiffe://d/ns/research/sa/files  synced        1/2 degraded  2/2 synced                      90s ago   in 11h       0123456789ab…
research/files-0  spiffe://d/ns/research/sa/files  rejected      degraded      1/2 synced; Access rejected     90s ago   in 11h       0123456789ab…
research/files-0  spiffe://d/ns/research/sa/files  disconnected  -             2/2 synced                      90s ago   in 11h       0123456789ab…

research/files-0 refused Access 60s ago:
  rule 2:
  bad\\u{1b}[2J glob

published revision 7
";
    let squeeze = |text: &str| {
        text.split("  ").filter(|part| !part.is_empty()).map(str::trim).collect::<Vec<_>>().join(" ")
    };
    assert_eq!(squeeze(&text), squeeze(expected), "{text}");
}

#[test]
fn control_planes_that_stand_by_are_told_of_below_the_sidecars() {
    let standby = |replica: &str, keeps_up, behind_revisions, behind_seconds| Standby {
        replica: replica.to_owned(),
        keeps_up,
        behind_revisions,
        behind_seconds,
    };
    let standbys =
        vec![standby("weft-control-plane-1", true, 0, 0), standby("weft-control-plane-2", false, 40, 90)];
    let sidecars = Sidecars { published_revision: Some(7), items: vec![sidecar(|_| {})], standbys };
    let text = overview(&sidecars, now(), false);
    let (_, below) = text.split_once("published revision 7\n\n").unwrap();
    let lines: Vec<_> =
        below.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect();
    let expected = [
        "STANDBY COPY BEHIND",
        "weft-control-plane-1 keeps up -",
        "weft-control-plane-2 behind 40 revisions, for 90s",
    ];
    assert_eq!(lines, expected, "{text}");
    assert!(!overview(&Sidecars::default(), now(), false).contains("STANDBY"));
}

#[test]
fn the_details_tell_everything() {
    let text = details::render(&sidecar(reject), now(), false);
    for part in [
        "since 2h ago",
        "5e0c",
        "0123456789abcdef",
        "research/files",
        "10.0.0.9:4000",
        "refused Access",
        "10.0.0.5:7443",
        "3 checks failed",
        "17",
        "10s ago",
    ] {
        assert!(text.contains(part), "{part:?} is not in {text}");
    }
}

#[test]
fn only_a_mesh_that_follows_is_good() {
    let check = |change: fn(&mut Value), expected| {
        assert_eq!(
            is_good(&Sidecars { items: vec![sidecar(|_| {}), sidecar(change)], ..Sidecars::default() }),
            expected
        );
    };
    check(|_| {}, true);
    check(|it| it["sync"] = json!("waiting"), false);
    check(|it| it["connected"] = json!(false), false);
    check(reject, false);
}

#[test]
fn a_sidecar_that_refused_and_left_is_still_told_as_one_that_refused() {
    let mut gone = sidecar(reject);
    gone.connected = false;
    assert_eq!(Standing::of(&gone), Standing::Rejected);
}
