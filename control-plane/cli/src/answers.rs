//! The control plane's answers, as far as commands look into them. Unknown fields are passed over: the control plane may
//! be newer than this command.

use serde::Deserialize;
use serde_json::Value;

macro_rules! answers {
    ($($(#[$doc:meta])* $name:ident { $($field:ident: $type:ty),* $(,)? })*) => {
        $($(#[$doc])*
        #[derive(Clone, Debug, Default, Deserialize)]
        #[serde(rename_all = "camelCase", default)]
        pub(crate) struct $name { $(pub(crate) $field: $type),* })*
    };
}

answers! {
    Version {
        version: String,
        api_version: String,
        trust_domain: String,
        store_revision: Option<u64>,
        published_revision: Option<u64>,
    }

    /// What the control plane's checks found.
    Checks { at: String, items: Vec<Check> }

    /// A check that was made.
    Check {
        group: String,
        name: String,
        outcome: String,
        detail: String,
        why: String,
        remedy: String,
    }

    /// One page of objects.
    Page { revision: u64, items: Vec<Value>, r#continue: Option<String> }

    /// What became of a change.
    Applied { dry_run: bool, revision: u64, results: Vec<Outcome>, warnings: Vec<String> }

    /// What became of one object.
    Outcome {
        kind: String,
        namespace: String,
        name: String,
        action: String,
        diff: String,
        warnings: Vec<String>,
    }

    /// An event of a watch.
    Happened { revision: u64, kind: String, namespace: String, name: String, resource: Option<Value> }

    History { items: Vec<Change>, next: Option<Value> }

    /// One revision.
    Change { revision: u64, at: String, author: String, reason: Option<String>, changes: Vec<Outcome> }

    Tools { items: Vec<ServerTools> }

    /// What one server advertises.
    ServerTools {
        server: String,
        agreed: bool,
        instances: Vec<Value>,
        tools: Vec<AdvertisedTool>,
        gone: Vec<GoneTool>,
    }

    /// A definition of a tool.
    AdvertisedTool {
        name: String,
        digest: String,
        state: String,
        pin: String,
        policy: Option<String>,
        nodes: Vec<String>,
        disagrees: bool,
        definition: Option<Value>,
        approved_definition: Option<Value>,
    }

    /// A tool that was approved and is not advertised.
    GoneTool { name: String, policy: String, digest: String }

    Offered { items: Vec<OfferedItem> }

    /// Something that a server offers.
    OfferedItem {
        server: String,
        kind: String,
        name: String,
        title: Option<String>,
        description: Option<String>,
        digest: String,
        since: String,
        hints: Vec<String>,
        instances: u64,
        agreeing: u64,
        away_since: Option<String>,
        state: Option<String>,
        pin: Option<String>,
        policy: Option<String>,
        score: Option<f64>,
    }

    /// The same with all that is known of it.
    OfferedShown {
        item: OfferedItem,
        definition: Value,
        approval: Option<String>,
        replicas: Vec<OfferedReplica>,
        versions: Vec<OfferedVersion>,
    }

    /// What a sidecar found.
    OfferedReplica { node: String, at: String, digest: Option<String>, agrees: bool }

    /// A definition that there was, or is.
    OfferedVersion { digest: String, from: String, until: Option<String>, definition: Value }

    Quotas { items: Vec<QuotaCount>, left_out: u64 }

    /// How a limit stands for what splits it.
    QuotaCount {
        policy: String,
        limit: String,
        per: Vec<QuotaPart>,
        amount: String,
        capacity: f64,
        lent: f64,
        used: f64,
        denied: u64,
        holders: u64,
        learning: bool,
    }

    QuotaPart { dimension: String, value: Option<String> }

    Sidecars { published_revision: Option<u64>, items: Vec<Sidecar>, standbys: Vec<Standby> }

    /// A control plane that stands by.
    Standby { replica: String, keeps_up: bool, behind_revisions: u64, behind_seconds: i64 }

    Sidecar {
        node: String,
        identity: Option<String>,
        version: Option<String>,
        peer: Option<String>,
        connected: bool,
        connected_at: Option<String>,
        disconnected_at: Option<String>,
        serves: Vec<String>,
        sync: String,
        seen_revision: Option<u64>,
        types: Vec<TypeSync>,
        certificate: Option<Certificate>,
        report: Option<Report>,
    }

    /// What a sidecar said of itself last.
    Report {
        at: Option<String>,
        uptime_seconds: Option<u64>,
        inbound_address: Option<String>,
        health: Option<String>,
        servers: Vec<Served>,
    }

    /// How a server is, by the word of the sidecar beside it.
    Served {
        server: String,
        health: String,
        detail: Option<String>,
        in_flight: Option<u64>,
        exposed_at: Vec<String>,
    }

    /// How far a sidecar has followed one type of configuration.
    TypeSync {
        r#type: String,
        sync: String,
        resources: u64,
        sent_revision: Option<u64>,
        acknowledged_revision: Option<u64>,
        last_ack_age_seconds: Option<f64>,
        nack: Option<Nack>,
    }

    /// Why a sidecar refused what it was sent.
    Nack { at: String, message: String }

    Certificate { serial: Option<String>, expires_at: Option<String>, root: Option<String> }

    /// What a sidecar holds and is to hold.
    SidecarConfig {
        node: String,
        identity: String,
        version: String,
        published_revision: u64,
        differs: bool,
        differences: Vec<Difference>,
        resources: Vec<HeldResource>,
        standing: Value,
        snapshot: Option<String>,
    }

    HeldResource { r#type: String, name: String, version: String, digest: String }

    /// A resource of which a sidecar holds something else than it is to.
    Difference {
        r#type: String,
        name: String,
        what: String,
        held: Option<String>,
        intended: Option<String>,
        why: Option<String>,
    }

    LogLines {
        lines: Vec<String>,
    }

    SidecarLogging {
        node: String,
        filter: String,
        before: Option<String>,
        usual: Option<String>,
        returns_in_seconds: Option<u64>,
    }

    /// An event of a tap.
    Tapped {
        at: Option<String>,
        sidecar: String,
        listener: String,
        caller: String,
        server: String,
        method: String,
        target: String,
        outcome: String,
        reason: String,
        limit: String,
        micros: Option<u64>,
        request_bytes: Option<u64>,
        response_bytes: Option<u64>,
        refused_in_shadow: bool,
        count: Option<u64>,
        why: String,
    }

    /// The calls of one window.
    CallCounts {
        at: String,
        sidecars: u64,
        silent: Vec<Waiting>,
        total: CallCount,
        items: Vec<CallCount>,
        left_out: u64,
        crowded: u64,
    }

    CallCount {
        server: String,
        tool: String,
        caller: String,
        sidecar: String,
        calls: u64,
        calls_per_second: f64,
        refused: u64,
        failed: u64,
        left: u64,
        success: Option<f64>,
        p50_micros: Option<u64>,
        p95_micros: Option<u64>,
        p99_micros: Option<u64>,
    }

    Tokens { items: Vec<JoinToken> }

    JoinToken {
        id: String,
        identity: Account,
        uses_left: Option<u64>,
        expires_at: Option<String>,
        created_at: Option<String>,
        created_by: Option<String>,
        description: Option<String>,
        state: String,
        token: Option<String>,
    }

    /// A workload's account.
    Account { namespace: String, service_account: String }

    Keys { items: Vec<Key> }

    Key {
        id: String,
        name: String,
        scope: String,
        expires_at: Option<String>,
        created_at: Option<String>,
        created_by: Option<String>,
        last_used_at: Option<String>,
        expired: bool,
        key: Option<String>,
    }

    Trust {
        trust_domain: String,
        svid_lifetime: String,
        sequence: u64,
        roots: Vec<Root>,
        issuer: Issuer,
        rotation: Rotation,
        revoked_serials: Vec<String>,
    }

    Root {
        fingerprint: String,
        not_before: String,
        not_after: String,
        issuing: bool,
        generation: Option<u64>,
    }

    Issuer { kind: String, not_after: String, fingerprint: Option<String> }

    Rotation { step: String, since: Option<String>, gate: Gate }

    Gate { open: bool, waiting_for: Vec<Waiting>, opens_at: Option<String> }

    /// A sidecar that is in the way, or did not count.
    Waiting { node: String, why: String }

    Audit { items: Vec<Record>, next: Option<Value> }

    /// One entry of the audit trail.
    Record {
        sequence: u64,
        at: String,
        who: String,
        from: Option<String>,
        action: String,
        object: Option<String>,
        outcome: String,
        detail: Option<Value>,
    }
}

impl Sidecar {
    /// What it refused, by type.
    pub(crate) fn nacks(&self) -> impl Iterator<Item = (&TypeSync, &Nack)> {
        self.types.iter().filter_map(|one| one.nack.as_ref().map(|nack| (one, nack)))
    }
}
