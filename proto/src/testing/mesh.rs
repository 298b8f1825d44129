//! Everything that is neither server nor policy.

use super::*;

pub(super) fn virtual_server() -> BoxedStrategy<VirtualServer> {
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

pub(super) fn route() -> BoxedStrategy<Route> {
    let matches = (claims(), claims(), some_patterns(), some_patterns())
        .prop_map(|(headers, claims, methods, tools)| RouteMatch { headers, claims, methods, tools });
    let weighted = (server_name(), count()).prop_map(|(server, weight)| WeightedServer { server, weight });
    let calls = prop_oneof![Just(MirroredCalls::ReadOnly), Just(MirroredCalls::All)];
    let mirror = (server_name(), count(), calls).prop_map(|(server, percent, calls)| Mirror {
        server,
        percent,
        calls,
    });
    let rule = (option::of(matches), list(weighted), option::of(mirror), some_list(server_name()))
        .prop_map(|(matches, to, mirror, fallback)| RouteRule { matches, to, mirror, fallback });
    (server_name(), list(rule)).prop_map(|(server, rules)| Route { server, rules }).boxed()
}

pub(super) fn authentication() -> BoxedStrategy<Authentication> {
    let keys = prop_oneof![url().prop_map(Jwks::Url), text().prop_map(Jwks::Inline)];
    let jwt = (url(), keys, list(text()), option::of(text()), option::of(list(text()))).prop_map(
        |(issuer, keys, audiences, tenant_claim, claims)| JwtIssuer {
            issuer,
            keys,
            audiences,
            tenant_claim,
            claims,
        },
    );
    let oauth = (url(), list(url()), list(text()), list(text())).prop_map(
        |(resource, authorization_servers, scopes, required_scopes)| ProtectedResource {
            resource,
            authorization_servers,
            scopes,
            required_scopes,
        },
    );
    let moment = (0..4_000_000_000i64).prop_filter_map("in range", Moment::from_second);
    let api_key =
        (object_name(), digest(), option::of(text()), option::of(object_name()), option::of(moment))
            .prop_map(|(name, digest, tenant, caller, not_after)| ApiKey {
                name,
                digest,
                tenant,
                caller,
                not_after,
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

pub(super) fn telemetry() -> BoxedStrategy<Telemetry> {
    let ratio = (0..=Ratio::ONE_MILLION).prop_filter_map("in range", Ratio::from_per_million);
    let protocol = prop_oneof![Just(OtlpProtocol::Grpc), Just(OtlpProtocol::Http)];
    let content = option::of(prop_oneof![Just(TracedContent::Arguments), Just(TracedContent::Full)]);
    let tracing = (option::of(ratio), option::of(collector()), protocol, any::<bool>(), content).prop_map(
        |(sampling, endpoint, protocol, keep_failures, content)| Tracing {
            sampling,
            endpoint,
            protocol,
            keep_failures,
            content,
        },
    );
    let format = prop_oneof![Just(LogFormat::Json), Just(LogFormat::Text)];
    let sample = option::of((0..=Ratio::ONE_MILLION).prop_filter_map("in range", Ratio::from_per_million));
    let access_log = (any::<bool>(), format, option::of(condition()), sample)
        .prop_map(|(off, format, filter, sample)| AccessLog { off, format, filter, sample });
    let dimension =
        prop_oneof![Just(MetricDimension::Caller), Just(MetricDimension::Era), Just(MetricDimension::Limit)];
    let audit = prop_oneof![
        Just(AuditDetail::None),
        Just(AuditDetail::Metadata),
        Just(AuditDetail::Digests),
        Just(AuditDetail::Full)
    ];
    (selector(), option::of(tracing), option::of(access_log), option::of(audit), list(dimension))
        .prop_map(|(servers, tracing, access_log, audit, metric_dimensions)| Telemetry {
            servers,
            tracing,
            access_log,
            audit,
            metric_dimensions,
        })
        .boxed()
}

pub(super) fn trust() -> BoxedStrategy<Trust> {
    let lifetimes = Trust::SVID_LIFETIME_MIN.as_millis()..=Trust::SVID_LIFETIME_MAX.as_millis();
    let action =
        prop_oneof![Just(DefaultAction::Allow), Just(DefaultAction::Audit), Just(DefaultAction::Deny)];
    let federated =
        (trust_domain(), text()).prop_map(|(trust_domain, roots)| FederatedDomain { trust_domain, roots });
    let gateways = list(parsed("spiffe://[a-d]/ns/[a-d*]/sa/([a-d]\\*?|\\*)"));
    (trust_domain(), option::of(lifetimes.prop_map(Span::from_millis)), action, list(federated), gateways)
        .prop_map(|(trust_domain, svid_lifetime, default_action, federated, gateways)| Trust {
            trust_domain,
            svid_lifetime,
            default_action,
            federated,
            gateways,
        })
        .boxed()
}
