//! `McpServer`.

use super::*;

pub(super) fn stdio() -> BoxedStrategy<Stdio> {
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

pub(super) fn sandbox() -> BoxedStrategy<Sandbox> {
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

pub(super) fn location() -> BoxedStrategy<Location> {
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

pub(super) fn health_check() -> BoxedStrategy<HealthCheck> {
    (some_span(), some_span(), count(), count(), any::<bool>())
        .prop_map(|(interval, timeout, healthy_threshold, unhealthy_threshold, by_callers)| HealthCheck {
            interval,
            timeout,
            healthy_threshold,
            unhealthy_threshold,
            by_callers,
        })
        .boxed()
}

pub(super) fn outlier_ejection() -> BoxedStrategy<OutlierEjection> {
    (count(), some_span(), some_span(), count())
        .prop_map(|(consecutive_failures, interval, ejection_time, ejected_percent_max)| OutlierEjection {
            consecutive_failures,
            interval,
            ejection_time,
            ejected_percent_max,
        })
        .boxed()
}

pub(super) fn server() -> BoxedStrategy<McpServer> {
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
        Just(Balancer::PeakEwma),
        Just(Balancer::RoundRobin),
        Just(Balancer::Random),
        Just(Balancer::ConsistentHash)
    ];
    let load_balancing = (balancer, any::<bool>(), some_span())
        .prop_map(|(policy, prefer_local, slow_start)| LoadBalancing { policy, prefer_local, slow_start });
    let circuit_breaker = (count(), count(), count(), some_span()).prop_map(
        |(connections_max, pending_max, tool_failures, tool_pause)| CircuitBreaker {
            connections_max,
            pending_max,
            tool_failures,
            tool_pause,
        },
    );
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
