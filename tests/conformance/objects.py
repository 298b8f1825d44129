"""Objects as operators write them."""


def _object(kind: str, namespace: str, name: str, spec: dict, **metadata) -> dict:
    return {
        "apiVersion": "weft.dev/v1alpha1",
        "kind": kind,
        "metadata": {"namespace": namespace, "name": name, **metadata},
        "spec": spec,
    }


def server(namespace: str, name: str, call: str = "60s", labels: dict | None = None, **spec) -> dict:
    """A server beside whatever sidecar says so; `call` is there to be changed."""
    if not spec.keys() & {"workload", "endpoints", "external", "stdio"}:
        spec["stdio"] = {"command": "serve"}
    return _object("McpServer", namespace, name, {"timeouts": {"call": call}, **spec}, labels=labels or {})


def at_address(namespace: str, name: str, address: str = "10.9.0.1:7443", **spec) -> dict:
    """A server whose instances are at a fixed address."""
    return server(namespace, name, endpoints=[{"address": address}], serviceAccount="default", **spec)


def _selector(servers) -> dict:
    return {} if servers is None else {"servers": {"names": list(servers)}}


def access(
    namespace: str, name: str, servers=None, tool: str = "*", callers=None, action: str = "allow"
) -> dict:
    """`tool` is there to be changed; `callers` are namespaces."""
    rule = {"action": action, **({"from": [{"namespaces": list(callers)}]} if callers else {})}
    if tool:
        rule["to"] = [{"tools": [tool]}]
    return _object("AccessPolicy", namespace, name, {**_selector(servers), "rules": [rule]})


def quota(namespace: str, name: str, servers=None, burst: int = 5) -> dict:
    limit = {"per": ["caller"], "rate": "10/min", "burst": burst}
    return _object("QuotaPolicy", namespace, name, {**_selector(servers), "limits": [limit]})


def tool_policy(namespace: str, name: str, servers=None, timeout: str = "5s") -> dict:
    return _object("ToolPolicy", namespace, name, {**_selector(servers), "timeout": timeout})


def telemetry(namespace: str, name: str, servers=None, dimension: str = "era") -> dict:
    return _object("Telemetry", namespace, name, {**_selector(servers), "metricDimensions": [dimension]})


def trust(default_action: str) -> dict:
    spec = {"trustDomain": "mesh.test", "defaultAction": default_action}
    return _object("Trust", "weft-system", "mesh", spec)


def route(namespace: str, name: str, of: str, to: str) -> dict:
    rule = {"to": [{"server": f"{namespace}/{to}"}]}
    return _object("Route", namespace, name, {"server": f"{namespace}/{of}", "rules": [rule]})


def virtual_server(namespace: str, name: str, *members: str) -> dict:
    return _object(
        "VirtualServer", namespace, name, {"members": [{"server": f"{namespace}/{it}"} for it in members]}
    )
