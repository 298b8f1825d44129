//! `docs/reference.md` is made from the values in the code, so that it cannot say anything else.
//! `WEFT_BLESS=1` writes it anew.

use std::fmt::{Debug, Write as _};
use std::path::Path;

use weft_control_plane::app::{Config, HEALTH_AGE_MAX};
use weft_control_plane::identity::Rate;
use weft_control_plane::identity::attest::JOIN_TOKEN_BYTES_MAX;
use weft_control_plane::identity::kubernetes;
use weft_control_plane::store::limits as store;
use weft_control_plane::{ask, audit, auth, grpc, reports, tokens, xds};
use weft_proto::resource;
use weft_proto::resource::kinds::Trust;

const INTRO: &str = "\
# Reference of the control plane

Ports, files, environment, settings and limits. This page is made from the code by `control-plane/tests/reference.rs`;
flags are in [the commands' reference](../cli/docs/commands.md), fields of objects in
[the resources' reference](../../proto/docs/resources.md).

## Ports

| port | for | spoken |
|---|---|---|
| 7500 | sidecars | gRPC over TLS 1.3 with client certificates; `weft.identity.v1.Identity/Certify` also without one |
| 7501 | operators | HTTPS (HTTP/1.1 and HTTP/2), a token in `Authorization: Bearer` |
| 7502 | health and metrics | HTTP: `/healthz/live`, `/healthz/ready`, `/metrics` |
| 7503 | admission webhooks, in a cluster | HTTPS: `/inject`, `/validate` |

## Files

| file | holds |
|---|---|
| `<data>/store/` | the store: one SQLite database in WAL mode, opened by one process at a time |
| `<data>/audit` | the audit trails of all nodes, and their anchors: an SQLite database of its own |
| `<data>/catalogue` | what each server offered last, and the definitions that there were: an SQLite database of its own |
| `<data>/ca/` | the authority: certificates, keys encrypted with AES-256-GCM, and a manifest that is written last |
| `<data>/ca.pem` | the mesh's roots, kept up to date, for operators and tools to believe |
| `--ca-key-file` | the key that the authority's keys rest under: 32 bytes, raw, in hex or in base64; only its owner may read it |
| `--issuer-dir` | instead of an own authority: `tls.crt`, `tls.key`, `ca.crt` of an intermediate, watched and read every 30 s |
| `.weft/` | what `weft up` keeps: `data/`, `ca.key`, `operator.json`; and, while it runs, `sidecars.json`: where each of its sidecars listens, and `targets/prometheus.json`: the same as targets for Prometheus |
| `operator.json` | the operator's address, roots and token; only its owner may read it |

## Environment

| variable | means |
|---|---|
| `WEFT_CA_KEY` | the key that the authority's keys rest under, in hex or base64, where no file holds it |
| `WEFT_HOME` | the folder of `operator.json`, and where `weft up` keeps its files |
| `WEFT_SERVER`, `WEFT_TOKEN`, `WEFT_CA_FILE` | the control plane's address, the token, the roots to believe |
| `NO_COLOR` | no colours |

## Node metadata

What a sidecar says of itself in `node` of its first request. The identity comes from its certificate; these only choose
among what that identity allows.

| field | means |
|---|---|
| `id` | `<namespace>/<instance>`; the namespace must be the certificate's |
| `metadata.labels` | labels of the workload, by which servers with `workload.labels` find their instances |
| `metadata.servers` | servers of its own namespace that it stands beside, where labels do not say so |
| `metadata.stances` | `inbound` (the default), `outbound`, `gateway` |
| `metadata.address` | where other sidecars reach it, `host:port` |
| `metadata.version` | shown in the status |
| `locality` | `region` and `zone`, for callers that prefer what is near |
";

struct Page(String);

impl Page {
    fn section(&mut self, title: &str) {
        let _ = write!(self.0, "\n## {title}\n\n| setting or limit | value |\n|---|---|\n");
    }

    fn row(&mut self, what: &str, value: impl Debug) {
        let _ = writeln!(self.0, "| {what} | {value:?} |");
    }

    fn rate(&mut self, what: &str, Rate { burst, per_second }: Rate) {
        let _ = writeln!(self.0, "| {what} | {burst} at once, then {per_second} each second |");
    }

    fn bytes(&mut self, what: &str, value: usize) {
        let text = match value {
            _ if value.is_multiple_of(1 << 20) => format!("{} MiB", value >> 20),
            _ if value.is_multiple_of(1 << 10) => format!("{} KiB", value >> 10),
            _ => format!("{value} B"),
        };
        let _ = writeln!(self.0, "| {what} | {text} |");
    }
}

fn page() -> String {
    let config = Config::local("/nowhere".into());
    let mut page = Page(INTRO.to_owned());
    discovery(&mut page, &config.xds);
    identity(&mut page, &config);
    doors(&mut page, &config);
    operators(&mut page, &config);
    page.section("Store");
    page.bytes("longest key", store::KEY_BYTES_MAX);
    page.bytes("largest value", store::VALUE_BYTES_MAX);
    page.row("writes in one transaction", store::TXN_WRITES_MAX);
    page.bytes("largest transaction", store::TXN_BYTES_MAX);
    page.bytes("longest author", store::AUTHOR_BYTES_MAX);
    page.bytes("longest reason", store::REASON_BYTES_MAX);
    page.bytes("largest state that is read at once", store::STATE_BYTES_MAX);
    page.row("leases", store::LEASES_MAX);
    page.row("history that is kept", config.retention);
    page.section("Audit trails");
    let trails = config.audit;
    page.bytes("lines that are kept; beyond, the oldest segments go", trails.lines_bytes_max as usize);
    page.row("segments whose newest line is older go", trails.age_max);
    page.row("a trail of which nothing is left is forgotten after", trails.age_max * 2);
    page.row("trails", trails.trails_max);
    page.row("… of one namespace", trails.trails_per_namespace_max);
    page.row("… of one identity", trails.trails_per_identity_max);
    page.bytes("largest shipment", audit::SHIPMENT_BYTES_MAX);
    page.section("Documents");
    page.bytes("largest input", resource::INPUT_BYTES_MAX);
    page.row("documents in one input", resource::DOCUMENTS_MAX);
    page.0
}

fn discovery(page: &mut Page, settings: &xds::Settings) {
    page.section("Discovery");
    page.row("changes are planned once none has come for", settings.debounce_quiet);
    page.row("… or once the first has waited", settings.debounce_max);
    page.row("a response must be taken within", settings.send_timeout);
    page.row("a response must be answered within", settings.answer_timeout);
    page.row("the first request must come within", settings.first_request_timeout);
    page.row("age of a stream, ± 10 %", settings.age_max);
    page.row("a vanished instance stays an endpoint for", settings.gone_grace);
    page.row("a vanished sidecar stays in the status for", settings.remembered);
    page.row("sidecars connected at once", settings.clients_max);
    page.row("… of one identity", settings.clients_per_identity_max);
    for (what, value) in xds::limits() {
        page.row(what, value);
    }
    page.bytes("largest request", grpc::DISCOVERY_BYTES_MAX);
    page.section("Reports of sidecars");
    let settings = &settings.reports;
    page.row("the first report must come within", settings.first_timeout);
    page.row("the next report must come within", settings.silence_max);
    page.row("a receipt must be taken within", settings.send_timeout);
    page.rate("reports of one sidecar", settings.rate);
    page.row("whether a sidecar serves is passed on to callers no more often than every", settings.hold);
    page.row("servers in one report", reports::SERVERS_MAX);
    page.bytes("longest detail of one server", reports::DETAIL_BYTES_MAX);
    page.bytes("longest version", reports::VERSION_BYTES_MAX);
    page.bytes("largest report", grpc::REPORT_BYTES_MAX);
}

fn identity(page: &mut Page, config: &Config) {
    let settings = &config.identity;
    page.section("Identity");
    page.rate("attempts without a certificate, per address (IPv6: per /64)", settings.per_address);
    page.rate("renewals, per identity and address (IPv6: per /64)", settings.per_identity);
    page.row("peers that are kept count of", settings.peers_max);
    page.row("requests that wait for a signature", settings.queue_max);
    page.row("… when renewals are turned away", settings.queue_max / 2);
    page.row("… when even renewals in their last quarter are", settings.queue_max * 3 / 4);
    page.row("signing threads", settings.signers);
    page.row("a request is answered within", settings.timeout);
    page.bytes("largest request", grpc::CERTIFY_BYTES_MAX);
    page.bytes("longest join token", JOIN_TOKEN_BYTES_MAX);
    page.bytes("longest service account token", kubernetes::TOKEN_BYTES_MAX);
    page.row("life of a certificate, at least", Trust::SVID_LIFETIME_MIN);
    page.row("… if nothing is said", Trust::SVID_LIFETIME_DEFAULT);
    page.row("… at most", Trust::SVID_LIFETIME_MAX);
    page.row("join tokens", tokens::TOKENS_MAX);
    page.row("uses of a join token", tokens::USES_MAX);
    page.row("life of a join token, at least", tokens::LIFE_MIN);
    page.row("… at most", tokens::LIFE_MAX);
}

fn doors(page: &mut Page, config: &Config) {
    const SIDECARS: &str = "Connections of sidecars";
    for (title, limits) in
        [(SIDECARS, &config.sidecar_limits), ("Connections of operators", &config.operator_limits)]
    {
        page.section(title);
        page.row("connections", limits.connections_max);
        page.row("time for a handshake", limits.handshake_timeout);
        page.row("time to the first request, and for its head", limits.header_timeout);
        page.row("bytes of a head", limits.header_bytes_max);
        page.row("streams on one connection", limits.streams_per_connection_max);
        page.row("age of a connection, ± 10 %", limits.age_max);
        if title == SIDECARS {
            page.row("… that showed no certificate, ± 10 %", limits.stranger_age_max);
        }
        page.row(
            "connections without a certificate, per address (IPv6: per /64)",
            limits.strangers_per_network_max,
        );
        page.row("time to finish at the end", limits.drain);
        page.row("sign of life asked for after", limits.keep_alive);
        page.row("… and awaited for", limits.keep_alive_timeout);
    }
    page.section("Connections to health and metrics");
    page.row("age of a connection, ± 10 % (all else as for operators)", HEALTH_AGE_MAX);
}

fn operators(page: &mut Page, config: &Config) {
    let limits = &config.api_limits;
    page.section("Operator API");
    page.bytes("largest body of documents", limits.documents_bytes_max);
    page.bytes("largest other body", limits.body_bytes_max);
    page.row("a body must arrive within", limits.body_timeout);
    page.row("a request is answered within", limits.request_timeout);
    page.row("requests at once", limits.in_flight_max);
    page.row("requests that parse documents at once", limits.heavy_in_flight_max);
    page.row("watches", limits.watchers_max);
    page.row("sign of life on a watch", limits.heartbeat);
    page.row("a sidecar that is asked something answers within", limits.sidecar_timeout);
    page.row("questions to one sidecar at once", ask::QUESTIONS_PER_SIDECAR_MAX);
    page.row("… to all sidecars", ask::QUESTIONS_MAX);
    page.bytes("largest answer of a sidecar", ask::ANSWER_BYTES_MAX);
    page.row("API keys", auth::KEYS_MAX);
}

#[test]
fn the_page_says_what_the_code_does() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/reference.md");
    let made = page();
    if std::env::var_os("WEFT_BLESS").is_some() {
        std::fs::write(&path, &made).unwrap();
    }
    let found = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(found == made, "{} differs from the code; run with WEFT_BLESS=1", path.display());
}
