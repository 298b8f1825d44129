//! Arbitrary objects of every kind, for property tests. The values are small and cover every field; that they do is
//! itself tested, against the schemas.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use proptest::collection::{btree_map, vec};
use proptest::option;
use proptest::prelude::*;
use proptest::string::string_regex;

use crate::name::{Digest, Glob, HostPort, ObjectName, ServerName, SpiffeId, ToolName, TrustDomain, WebUrl};
use crate::policy::expr::{Condition, Weight};
use crate::resource::bounded::{Count, List, Map, Text};
use crate::resource::kinds::*;
use crate::resource::units::{Budget, ByteSize, CalendarWindow, Rate, Ratio, Span};
use crate::resource::{Kind, Metadata, ROOT_NAMESPACE, Resource, Spec, TRUST_NAME};
use crate::wire::Endpoint;

/// Texts that match `regex` and parse.
fn parsed<T: FromStr + fmt::Debug + 'static>(regex: &str) -> BoxedStrategy<T> {
    let texts = string_regex(regex).expect("the regex is written here");
    texts.prop_filter_map("does not parse", |text| text.parse().ok()).boxed()
}

fn text<const MAX: usize>() -> BoxedStrategy<Text<MAX>> {
    parsed("[ -~\n\té…]{1,4}")
}

fn list<T: fmt::Debug + Clone + 'static, const MAX: usize, const MIN: usize>(
    items: impl Strategy<Value = T> + 'static,
) -> BoxedStrategy<List<T, MAX, MIN>> {
    vec(items, MIN..=2.max(MIN)).prop_map(|items| List::new(items).unwrap()).boxed()
}

fn some_list<T: fmt::Debug + Clone + 'static, const MAX: usize>(
    items: impl Strategy<Value = T> + 'static,
) -> BoxedStrategy<Option<List<T, MAX, 1>>> {
    option::of(list(items)).boxed()
}

fn map<K: fmt::Debug + Clone + Ord + 'static, V: fmt::Debug + Clone + 'static, const MAX: usize>(
    keys: impl Strategy<Value = K> + 'static,
    values: impl Strategy<Value = V> + 'static,
) -> BoxedStrategy<Map<K, V, MAX>> {
    btree_map(keys, values, 0..=2).prop_map(|entries| Map::new(entries).unwrap()).boxed()
}

fn count<const MIN: u32, const MAX: u32>() -> BoxedStrategy<Option<Count<MIN, MAX>>> {
    // The ends are where zero and "not set" could be confused.
    let ends = prop_oneof![Just(MIN), Just(MAX), MIN..=MAX];
    option::of(ends.prop_map(|number| Count::new(number).unwrap())).boxed()
}

fn span() -> BoxedStrategy<Span> {
    let millis = prop_oneof![Just(0), Just(1), Just(Span::MILLIS_MAX), 0..=Span::MILLIS_MAX];
    millis.prop_map(Span::from_millis).boxed()
}

fn some_span() -> BoxedStrategy<Option<Span>> {
    option::of(span()).boxed()
}

fn object_name() -> BoxedStrategy<ObjectName> {
    parsed("[a-d]{1,2}(\\.[a-d])?")
}

fn server_name() -> BoxedStrategy<ServerName> {
    parsed("[a-d]/[a-d]{1,2}")
}

fn tool_name() -> BoxedStrategy<ToolName> {
    parsed("[a-d_]{1,3}")
}

fn glob() -> BoxedStrategy<Glob> {
    parsed("\\*|[a-d]{1,2}\\*?|[a-d]\\*[a-d]")
}

fn patterns() -> BoxedStrategy<Patterns> {
    list(glob())
}

fn some_patterns() -> BoxedStrategy<Option<Patterns>> {
    option::of(patterns()).boxed()
}

fn labels() -> BoxedStrategy<Labels> {
    map(parsed("[a-d]{1,2}|weft\\.dev/[a-d]"), parsed("[A-D0-9]{0,3}"))
}

fn url() -> BoxedStrategy<WebUrl> {
    parsed("https://[a-d]{1,3}(:8443)?(/[a-d]{0,2})?|http://localhost/[a-d]")
}

fn address() -> BoxedStrategy<HostPort> {
    parsed("[a-d]{1,3}:[1-9][0-9]{0,3}|\\[::1\\]:7443")
}

fn trust_domain() -> BoxedStrategy<TrustDomain> {
    parsed("[a-d]{1,3}\\.example")
}

fn digest() -> BoxedStrategy<Digest> {
    parsed("sha256:[0-9a-f]{64}")
}

fn claims<const MAX: usize>() -> BoxedStrategy<Map<Text<128>, Patterns, MAX>> {
    map(text(), patterns())
}

fn selector() -> BoxedStrategy<ServerSelector> {
    (some_patterns(), labels(), some_patterns())
        .prop_map(|(names, labels, namespaces)| ServerSelector { names, labels, namespaces })
        .boxed()
}

pub(crate) fn metadata() -> BoxedStrategy<Metadata> {
    (parsed("[a-d]{1,2}"), object_name(), labels())
        .prop_map(|(namespace, name, labels)| Metadata {
            namespace,
            name,
            labels,
            annotations: Map::default(),
            resource_version: None,
        })
        .boxed()
}

fn stdio() -> BoxedStrategy<Stdio> {
    let env = map(parsed("[A-D]{1,2}"), parsed("[ -~\n]{0,3}"));
    let sharing = prop_oneof![Just(Sharing::Shared), Just(Sharing::PerSession)];
    (text(), list(text()), env, option::of(text()), sharing, sandbox())
        .prop_map(|(command, args, env, working_directory, sharing, sandbox)| Stdio {
            command,
            args,
            env,
            working_directory,
            sharing,
            sandbox,
        })
        .boxed()
}

fn sandbox() -> BoxedStrategy<Sandbox> {
    let counts = (count(), count(), count());
    let bytes = prop_oneof![Just(0), Just(ByteSize::BYTES_MAX), 0..=ByteSize::BYTES_MAX];
    let memory = option::of(bytes.prop_map(ByteSize::new));
    (any::<bool>(), memory, counts, list(parsed("/[a-c]{0,3}")), list(parsed("/[a-c]{0,3}")))
        .prop_map(|(allow_new_privileges, memory_max, counts, read_only_paths, read_write_paths)| Sandbox {
            allow_new_privileges,
            memory_max,
            processes_max: counts.0,
            open_files_max: counts.1,
            cpu_seconds_max: counts.2,
            read_only_paths,
            read_write_paths,
        })
        .boxed()
}

fn location() -> BoxedStrategy<Location> {
    let some_labels = labels().prop_filter("at least one label", |labels| !labels.is_empty());
    let workload = (some_labels, count(), option::of(text())).prop_map(|(labels, port, unix_socket)| {
        let unix_socket = unix_socket.filter(|_| port.is_none());
        WorkloadInstances { labels, port, unix_socket }
    });
    let endpoint = (address(), count(), option::of(text()))
        .prop_map(|(address, weight, locality)| StaticEndpoint { address, weight, locality });
    prop_oneof![
        workload.prop_map(Location::Workload),
        list(endpoint).prop_map(Location::Endpoints),
        url().prop_map(|url| Location::External(External { url })),
        stdio().prop_map(|it| Location::Stdio(Box::new(it))),
    ]
    .boxed()
}

fn health_check() -> BoxedStrategy<HealthCheck> {
    (some_span(), some_span(), count(), count())
        .prop_map(|(interval, timeout, healthy_threshold, unhealthy_threshold)| HealthCheck {
            interval,
            timeout,
            healthy_threshold,
            unhealthy_threshold,
        })
        .boxed()
}

fn outlier_ejection() -> BoxedStrategy<OutlierEjection> {
    (count(), some_span(), some_span(), count())
        .prop_map(|(consecutive_failures, interval, ejection_time, ejected_percent_max)| OutlierEjection {
            consecutive_failures,
            interval,
            ejection_time,
            ejected_percent_max,
        })
        .boxed()
}

fn server() -> BoxedStrategy<McpServer> {
    let era = prop_oneof![Just(Era::Legacy), Just(Era::Modern)];
    let protocol = prop_oneof![Just(Protocol::Auto), Just(Protocol::StreamableHttp), Just(Protocol::HttpSse)];
    let timeouts = (some_span(), some_span(), some_span()).prop_map(|(connect, call, idle)| Timeouts {
        connect,
        call,
        idle,
    });
    let in_flight = (count(), count()).prop_map(|(max, queue_max)| InFlight { max, queue_max });
    let balancer = prop_oneof![
        Just(Balancer::LeastRequest),
        Just(Balancer::RoundRobin),
        Just(Balancer::Random),
        Just(Balancer::ConsistentHash)
    ];
    let load_balancing =
        (balancer, any::<bool>()).prop_map(|(policy, prefer_local)| LoadBalancing { policy, prefer_local });
    let circuit_breaker = (count(), count())
        .prop_map(|(connections_max, pending_max)| CircuitBreaker { connections_max, pending_max });
    let retries = (count(), some_span(), count()).prop_map(|(attempts, per_try_timeout, budget_percent)| {
        Retries { attempts, per_try_timeout, budget_percent }
    });
    let twice =
        |eras: &Option<List<Era, 2, 1>>| matches!(eras.as_deref(), Some([first, second]) if first == second);
    let eras = some_list(era).prop_filter("each era once", move |eras| !twice(eras));
    let speech = (option::of(parsed("/[a-d]{0,3}")), protocol, eras);
    let limits = (timeouts, in_flight, load_balancing);
    let failures = (
        option::of(outlier_ejection()),
        option::of(circuit_breaker),
        option::of(retries),
        option::of(health_check()),
    );
    (location(), option::of(parsed("[a-d]{1,2}")), list(object_name()), speech, limits, failures)
        .prop_map(|(location, service_account, aliases, speech, limits, failures)| {
            let (mut path, mut protocol, eras) = speech;
            let (timeouts, in_flight, load_balancing) = limits;
            let (outlier_ejection, circuit_breaker, retries, health_check) = failures;
            if matches!(location, Location::Stdio(_)) {
                (path, protocol) = (None, Protocol::Auto);
            }
            McpServer {
                location,
                service_account,
                aliases,
                path,
                protocol,
                eras,
                timeouts,
                in_flight,
                load_balancing,
                outlier_ejection,
                circuit_breaker,
                retries,
                health_check,
            }
        })
        .boxed()
}

pub(crate) fn caller() -> BoxedStrategy<CallerMatch> {
    let identity = parsed("spiffe://(\\*|[a-d]\\.example)/ns/[a-d*]/sa/([a-d]\\*?|\\*)");
    let names = (some_list(identity), some_patterns(), some_patterns(), some_patterns(), claims());
    names
        .prop_map(|(identities, namespaces, service_accounts, tenants, claims)| CallerMatch {
            identities,
            namespaces,
            service_accounts,
            tenants,
            claims,
        })
        .prop_filter("an empty match is refused", |it| {
            let CallerMatch { identities, namespaces, service_accounts, tenants, claims } = it;
            let some = identities.is_some() || namespaces.is_some() || service_accounts.is_some();
            some || tenants.is_some() || !claims.is_empty()
        })
        .boxed()
}

fn target() -> BoxedStrategy<TargetMatch> {
    (some_patterns(), some_patterns(), some_patterns(), some_list(glob()))
        .prop_map(|(methods, tools, prompts, resources)| TargetMatch { methods, tools, prompts, resources })
        .prop_filter("an empty match is refused", |it| {
            it.methods.is_some() || it.tools.is_some() || it.prompts.is_some() || it.resources.is_some()
        })
        .boxed()
}

/// Conditions that are met, are not, and cannot be evaluated.
fn condition() -> BoxedStrategy<Condition> {
    const TEXTS: [&str; 9] = [
        "true",
        "false",
        "args.a == 1",
        "has(args.a)",
        "args.a",
        "caller.namespace == 'a' || caller.tenant != ''",
        "request.tool.startsWith('a')",
        "'x' in claims.groups",
        "request.method in ['tools/call', 'prompts/get']\n  && size(args) < 2",
    ];
    proptest::sample::select(&TEXTS[..]).prop_map(|text| text.parse().unwrap()).boxed()
}

fn weight() -> BoxedStrategy<Weight> {
    proptest::sample::select(&["2", "size(args) + 1", "args.n * 0.5"][..])
        .prop_map(|text| text.parse().unwrap())
        .boxed()
}

pub(crate) fn access_policy() -> BoxedStrategy<AccessPolicy> {
    let action = prop_oneof![Just(Action::Allow), Just(Action::Deny), Just(Action::Audit)];
    let rule = (
        option::of(object_name()),
        action,
        some_list(caller()),
        some_list(target()),
        option::of(condition()),
    )
        .prop_map(|(name, action, from, to, when)| AccessRule { name, action, from, to, when });
    (selector(), some_patterns(), list(rule), any::<bool>(), any::<bool>())
        .prop_map(|(servers, virtual_servers, rules, shadow, explain)| AccessPolicy {
            servers,
            virtual_servers,
            rules,
            shadow,
            explain,
        })
        .boxed()
}

fn amount() -> BoxedStrategy<Amount> {
    let window = 100..=7 * 86_400_000u64;
    let rate = (1..=Rate::AMOUNT_MAX, window, count()).prop_map(|(amount, millis, burst)| Amount::Rate {
        rate: Rate::new(amount, Span::from_millis(millis)).unwrap(),
        burst,
    });
    let calendar = prop_oneof![Just(CalendarWindow::Day), Just(CalendarWindow::Month)];
    let zone = prop_oneof![Just("Europe/Vienna"), Just("Asia/Tokyo")].prop_map(|zone| zone.parse().unwrap());
    let budget = (1..=Budget::AMOUNT_MAX, calendar, option::of(zone)).prop_map(|(amount, window, zone)| {
        Amount::Budget { budget: Budget::new(amount, window).unwrap(), zone }
    });
    let concurrency = count().prop_filter_map("not given", |count| count.map(Amount::Concurrency));
    prop_oneof![rate, budget, concurrency].boxed()
}

fn limit() -> BoxedStrategy<Limit> {
    let dimensions = [Dimension::Caller, Dimension::Tenant, Dimension::Tool, Dimension::Server];
    let per = (proptest::sample::subsequence(dimensions.to_vec(), 0..=4), option::of(text())).prop_map(
        |(mut per, claim)| {
            per.extend(claim.map(Dimension::Claim));
            List::new(per).unwrap()
        },
    );
    let unavailable = prop_oneof![
        count().prop_map(WhenUnavailable::Floor),
        Just(WhenUnavailable::Deny),
        span().prop_map(WhenUnavailable::Reuse),
    ];
    let scope = prop_oneof![
        Just((LimitScope::Instance, WhenUnavailable::Floor(None))),
        unavailable.prop_map(|unavailable| (LimitScope::Mesh, unavailable)),
    ];
    let what = (option::of(object_name()), some_patterns(), some_patterns(), per);
    (what, amount(), option::of(weight()), scope)
        .prop_map(|((name, tools, methods, per), amount, cost, (scope, when_unavailable))| Limit {
            name,
            tools,
            methods,
            per,
            amount,
            cost,
            scope,
            when_unavailable,
        })
        .boxed()
}

fn quota_policy() -> BoxedStrategy<QuotaPolicy> {
    (selector(), list(limit()), any::<bool>())
        .prop_map(|(servers, limits, shadow)| QuotaPolicy { servers, limits, shadow })
        .boxed()
}

fn tool_policy() -> BoxedStrategy<ToolPolicy> {
    let strictness = || prop_oneof![Just(Strictness::Off), Just(Strictness::Warn), Just(Strictness::Enforce)];
    let size = prop_oneof![Just(0), Just(ByteSize::BYTES_MAX), 0..=ByteSize::BYTES_MAX];
    let scope = prop_oneof![Just(CacheScope::Caller), Just(CacheScope::Shared)];
    let cache = (span(), scope).prop_map(|(ttl, scope)| ResponseCache { ttl, scope });
    let retry =
        prop_oneof![Just(RetryClass::Never), Just(RetryClass::ReadOnly), Just(RetryClass::Idempotent)];
    let checks = (strictness(), strictness(), map(tool_name(), digest()));
    let answers = (option::of(size.prop_map(ByteSize::new)), option::of(cache), retry);
    let flags = (any::<bool>(), list(text()), any::<bool>());
    (selector(), some_patterns(), some_span(), checks, answers, flags)
        .prop_map(|(servers, tools, timeout, checks, answers, flags)| {
            let (validate_arguments, pin, approved) = checks;
            let (result_max, cache, retry) = answers;
            let (trust_hints, redact, shadow) = flags;
            ToolPolicy {
                servers,
                tools,
                timeout,
                validate_arguments,
                pin,
                approved,
                result_max,
                cache,
                retry,
                trust_hints,
                redact,
                shadow,
            }
        })
        .boxed()
}

fn virtual_server() -> BoxedStrategy<VirtualServer> {
    let member =
        (server_name(), option::of(text()), any::<i32>(), some_patterns(), map(tool_name(), tool_name()))
            .prop_map(|(server, prefix, priority, tools, rename)| Member {
                server,
                prefix,
                priority,
                tools,
                rename,
            });
    let prefix = prop_oneof![Just(Prefixing::Always), Just(Prefixing::OnConflict), Just(Prefixing::Never)];
    let mode = prop_oneof![Just(ListMode::Full), Just(ListMode::Search)];
    (list(member), prefix, option::of(parsed("[-_.]{1,4}")), mode, some_list(caller()), option::of(text()))
        .prop_map(|(members, prefix, separator, mode, audience, instructions)| VirtualServer {
            members,
            prefix,
            separator,
            mode,
            audience,
            instructions,
        })
        .boxed()
}

fn route() -> BoxedStrategy<Route> {
    let matches = (claims(), claims(), some_patterns(), some_patterns())
        .prop_map(|(headers, claims, methods, tools)| RouteMatch { headers, claims, methods, tools });
    let weighted = (server_name(), count()).prop_map(|(server, weight)| WeightedServer { server, weight });
    let mirror = (server_name(), count()).prop_map(|(server, percent)| Mirror { server, percent });
    let rule = (option::of(matches), list(weighted), option::of(mirror), some_list(server_name()))
        .prop_map(|(matches, to, mirror, fallback)| RouteRule { matches, to, mirror, fallback });
    (server_name(), list(rule)).prop_map(|(server, rules)| Route { server, rules }).boxed()
}

fn authentication() -> BoxedStrategy<Authentication> {
    let keys = prop_oneof![url().prop_map(Jwks::Url), text().prop_map(Jwks::Inline)];
    let jwt = (url(), keys, list(text()), option::of(text())).prop_map(
        |(issuer, keys, audiences, tenant_claim)| JwtIssuer { issuer, keys, audiences, tenant_claim },
    );
    let oauth = (url(), list(url()), list(text())).prop_map(|(resource, authorization_servers, scopes)| {
        ProtectedResource { resource, authorization_servers, scopes }
    });
    let api_key = (object_name(), digest(), option::of(text())).prop_map(|(name, digest, tenant)| ApiKey {
        name,
        digest,
        tenant,
    });
    (labels(), list(jwt), option::of(oauth), list(api_key), list(trust_domain()))
        .prop_map(|(gateways, jwt, oauth, api_keys, federated_domains)| Authentication {
            gateways,
            jwt,
            oauth,
            api_keys,
            federated_domains,
        })
        .prop_filter("someone must be known", |it| {
            !(it.jwt.is_empty() && it.api_keys.is_empty() && it.federated_domains.is_empty())
        })
        .boxed()
}

fn telemetry() -> BoxedStrategy<Telemetry> {
    let ratio = (0..=Ratio::ONE_MILLION).prop_filter_map("in range", Ratio::from_per_million);
    let protocol = prop_oneof![Just(OtlpProtocol::Grpc), Just(OtlpProtocol::Http)];
    let tracing = (option::of(ratio), option::of(url()), protocol, any::<bool>()).prop_map(
        |(sampling, endpoint, protocol, keep_failures)| Tracing {
            sampling,
            endpoint,
            protocol,
            keep_failures,
        },
    );
    let format = prop_oneof![Just(LogFormat::Json), Just(LogFormat::Text)];
    let access_log = (any::<bool>(), format, option::of(condition()))
        .prop_map(|(off, format, filter)| AccessLog { off, format, filter });
    let audit = prop_oneof![
        Just(AuditDetail::None),
        Just(AuditDetail::Metadata),
        Just(AuditDetail::Digests),
        Just(AuditDetail::Full)
    ];
    (selector(), option::of(tracing), option::of(access_log), option::of(audit), list(text()))
        .prop_map(|(servers, tracing, access_log, audit, metric_dimensions)| Telemetry {
            servers,
            tracing,
            access_log,
            audit,
            metric_dimensions,
        })
        .boxed()
}

fn trust() -> BoxedStrategy<Trust> {
    let lifetimes = Trust::SVID_LIFETIME_MIN.as_millis()..=Trust::SVID_LIFETIME_MAX.as_millis();
    let action =
        prop_oneof![Just(DefaultAction::Allow), Just(DefaultAction::Audit), Just(DefaultAction::Deny)];
    let federated =
        (trust_domain(), text()).prop_map(|(trust_domain, roots)| FederatedDomain { trust_domain, roots });
    (trust_domain(), option::of(lifetimes.prop_map(Span::from_millis)), action, list(federated))
        .prop_map(|(trust_domain, svid_lifetime, default_action, federated)| Trust {
            trust_domain,
            svid_lifetime,
            default_action,
            federated,
        })
        .boxed()
}

/// Objects of a kind.
pub(crate) fn resource(kind: Kind) -> BoxedStrategy<Resource> {
    let spec: BoxedStrategy<Spec> = match kind {
        Kind::McpServer => server().prop_map(Spec::from).boxed(),
        Kind::VirtualServer => virtual_server().prop_map(Spec::from).boxed(),
        Kind::Route => route().prop_map(Spec::from).boxed(),
        Kind::AccessPolicy => access_policy().prop_map(Spec::from).boxed(),
        Kind::QuotaPolicy => quota_policy().prop_map(Spec::from).boxed(),
        Kind::ToolPolicy => tool_policy().prop_map(Spec::from).boxed(),
        Kind::Authentication => authentication().prop_map(Spec::from).boxed(),
        Kind::Telemetry => telemetry().prop_map(Spec::from).boxed(),
        Kind::Trust => trust().prop_map(Spec::from).boxed(),
    };
    (metadata(), spec).prop_map(|(metadata, spec)| Resource { metadata, spec }).boxed()
}

/// Objects of every kind that travels.
pub(crate) fn traveller() -> BoxedStrategy<Resource> {
    let kinds: Vec<Kind> = Kind::ALL.iter().copied().filter(|kind| *kind != Kind::Trust).collect();
    proptest::sample::select(kinds).prop_flat_map(resource).boxed()
}

/// Instances of a server, of which no two are equal.
pub(crate) fn endpoints() -> BoxedStrategy<Vec<Endpoint>> {
    let identity: BoxedStrategy<SpiffeId> = parsed("spiffe://[a-d]/ns/[a-d]/sa/[a-d]");
    let about = (option::of(parsed("[a-d]/[a-d]")), count(), option::of(text()), option::of(identity));
    btree_map(address(), about, 0..4)
        .prop_map(|found: BTreeMap<_, _>| {
            let endpoint = |(address, (node, weight, locality, identity))| Endpoint {
                address,
                node,
                weight,
                locality,
                identity,
            };
            found.into_iter().map(endpoint).collect()
        })
        .boxed()
}

mod tests {
    use std::collections::BTreeSet;

    use proptest::strategy::ValueTree;
    use proptest::test_runner::TestRunner;
    use serde_json::Value;

    use super::*;
    use crate::resource::parse_one;

    /// Every property that a schema allows, as `Struct.property`.
    fn properties_of_schemas() -> BTreeSet<String> {
        let mut generator = schemars::SchemaGenerator::default();
        for kind in Kind::ALL {
            kind.spec_schema(&mut generator);
        }
        let definitions = generator.take_definitions(true);
        let properties = definitions.iter().flat_map(|(name, schema)| {
            let properties = schema.get("properties").and_then(Value::as_object);
            properties.into_iter().flat_map(move |it| it.keys().map(move |key| format!("{name}.{key}")))
        });
        properties.collect()
    }

    /// Every property that a value has, by the struct that its schema says it is.
    fn note(
        definitions: &serde_json::Map<String, Value>,
        schema: &Value,
        value: &Value,
        seen: &mut BTreeSet<String>,
    ) {
        if let Some(name) = schema.get("$ref").and_then(Value::as_str) {
            let name = name.rsplit('/').next().unwrap();
            if let Value::Object(fields) = value {
                seen.extend(fields.keys().map(|key| format!("{name}.{key}")));
            }
            return note(definitions, &definitions[name], value, seen);
        }
        for alternative in schema.get("anyOf").and_then(Value::as_array).into_iter().flatten() {
            note(definitions, alternative, value, seen);
        }
        match value {
            Value::Array(items) => {
                items.iter().for_each(|item| note(definitions, &schema["items"], item, seen));
            }
            Value::Object(fields) => fields.iter().for_each(|(key, value)| {
                let entry = schema.pointer(&format!("/properties/{key}"));
                let entry = entry.or_else(|| schema.get("additionalProperties"));
                entry.into_iter().for_each(|schema| note(definitions, schema, value, seen));
            }),
            _ => {}
        }
    }

    #[test]
    fn the_generated_objects_fill_every_field_of_every_kind() {
        let mut runner = TestRunner::deterministic();
        let mut generator = schemars::SchemaGenerator::default();
        let mut seen = BTreeSet::new();
        for kind in Kind::ALL {
            let schema = kind.spec_schema(&mut generator).to_value();
            let definitions = generator.definitions().clone();
            for _ in 0..300 {
                let object = resource(*kind).new_tree(&mut runner).unwrap().current();
                let spec = serde_json::to_value(&object.spec).unwrap();
                note(&definitions, &schema, &spec, &mut seen);
            }
        }
        assert_eq!(properties_of_schemas().difference(&seen).collect::<Vec<_>>(), Vec::<&String>::new());
    }

    proptest! {
        #[test]
        fn the_generated_objects_are_objects_that_parse(kind in proptest::sample::select(Kind::ALL.to_vec()), seed in any::<u64>()) {
            let mut runner = TestRunner::new_with_rng(
                ProptestConfig::default(),
                proptest::test_runner::TestRng::from_seed(
                    proptest::test_runner::RngAlgorithm::ChaCha,
                    &std::array::from_fn::<u8, 32, _>(|at| seed.to_le_bytes()[at % 8]),
                ),
            );
            let mut object = resource(kind).new_tree(&mut runner).unwrap().current();
            // Scope is not what is at stake here.
            object.metadata.namespace = ROOT_NAMESPACE.parse().unwrap();
            if kind == Kind::Trust {
                object.metadata.name = TRUST_NAME.parse().unwrap();
            }
            prop_assert_eq!(&parse_one("j", &object.canonical()).unwrap(), &object);
        }
    }
}
