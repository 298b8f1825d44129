//! Names, lists and other small values, of which objects are made.

use super::*;

/// Texts that match `regex` and parse.
pub(super) fn parsed<T: FromStr + fmt::Debug + 'static>(regex: &str) -> BoxedStrategy<T> {
    let texts = string_regex(regex).expect("the regex is written here");
    texts.prop_filter_map("does not parse", |text| text.parse().ok()).boxed()
}

pub(super) fn text<const MAX: usize>() -> BoxedStrategy<Text<MAX>> {
    parsed("[ -~\n\té…]{1,4}")
}

pub(super) fn list<T: fmt::Debug + Clone + 'static, const MAX: usize, const MIN: usize>(
    items: impl Strategy<Value = T> + 'static,
) -> BoxedStrategy<List<T, MAX, MIN>> {
    vec(items, MIN..=2.max(MIN)).prop_map(|items| List::new(items).unwrap()).boxed()
}

pub(super) fn some_list<T: fmt::Debug + Clone + 'static, const MAX: usize>(
    items: impl Strategy<Value = T> + 'static,
) -> BoxedStrategy<Option<List<T, MAX, 1>>> {
    option::of(list(items)).boxed()
}

pub(super) fn map<
    K: fmt::Debug + Clone + Ord + 'static,
    V: fmt::Debug + Clone + 'static,
    const MAX: usize,
>(
    keys: impl Strategy<Value = K> + 'static,
    values: impl Strategy<Value = V> + 'static,
) -> BoxedStrategy<Map<K, V, MAX>> {
    btree_map(keys, values, 0..=2).prop_map(|entries| Map::new(entries).unwrap()).boxed()
}

pub(super) fn count<const MIN: u32, const MAX: u32>() -> BoxedStrategy<Option<Count<MIN, MAX>>> {
    // The ends are where zero and "not set" could be confused.
    let ends = prop_oneof![Just(MIN), Just(MAX), MIN..=MAX];
    option::of(ends.prop_map(|number| Count::new(number).unwrap())).boxed()
}

pub(super) fn span() -> BoxedStrategy<Span> {
    let millis = prop_oneof![Just(0), Just(1), Just(Span::MILLIS_MAX), 0..=Span::MILLIS_MAX];
    millis.prop_map(Span::from_millis).boxed()
}

pub(super) fn some_span() -> BoxedStrategy<Option<Span>> {
    option::of(span()).boxed()
}

pub(super) fn object_name() -> BoxedStrategy<ObjectName> {
    parsed("[a-d]{1,2}(\\.[a-d])?")
}

pub(super) fn server_name() -> BoxedStrategy<ServerName> {
    parsed("[a-d]/[a-d]{1,2}")
}

pub(super) fn tool_name() -> BoxedStrategy<ToolName> {
    parsed("[a-d_]{1,3}")
}

pub(super) fn glob() -> BoxedStrategy<Glob> {
    parsed("\\*|[a-d]{1,2}\\*?|[a-d]\\*[a-d]")
}

pub(super) fn patterns() -> BoxedStrategy<Patterns> {
    list(glob())
}

pub(super) fn some_patterns() -> BoxedStrategy<Option<Patterns>> {
    option::of(patterns()).boxed()
}

pub(super) fn labels() -> BoxedStrategy<Labels> {
    map(parsed("[a-d]{1,2}|weft\\.dev/[a-d]"), parsed("[A-D0-9]{0,3}"))
}

pub(super) fn url() -> BoxedStrategy<WebUrl> {
    parsed("https://[a-d]{1,3}(:8443)?(/[a-d]{0,2})?|http://localhost/[a-d]")
}

pub(super) fn collector() -> BoxedStrategy<CollectorUrl> {
    parsed("https?://[a-d]{1,3}(:4317)?(/[a-d]{0,2})?")
}

pub(super) fn address() -> BoxedStrategy<HostPort> {
    parsed("[a-d]{1,3}:[1-9][0-9]{0,3}|\\[::1\\]:7443")
}

pub(super) fn trust_domain() -> BoxedStrategy<TrustDomain> {
    parsed("[a-d]{1,3}\\.example")
}

pub(super) fn digest() -> BoxedStrategy<Digest> {
    parsed("sha256:[0-9a-f]{64}")
}

pub(super) fn claims<const MAX: usize>() -> BoxedStrategy<Map<Text<128>, Patterns, MAX>> {
    map(text(), patterns())
}

pub(super) fn selector() -> BoxedStrategy<ServerSelector> {
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
