use std::collections::HashMap;

use weft_proto::pb::envoy::service::discovery::v3::DeltaDiscoveryResponse;
use weft_proto::pb::google::rpc::Status;

use super::*;
use crate::plan::tests::{INBOUND, OUTBOUND, announced, delete, object, put, server, viewer, world};
use crate::plan::{Change, Update};

/// A client and the world it looks at. What is sent is acknowledged only when the test says so.
struct Client {
    world: World,
    viewer: Viewer,
    session: Session,
}

/// One response as a line: what came and what went.
fn line(message: &DeltaDiscoveryResponse) -> String {
    let mut parts: Vec<String> = message.resources.iter().map(|it| format!("+{}", it.name)).collect();
    parts.extend(message.removed_resources.iter().map(|name| format!("-{name}")));
    let errors = message.resource_errors.iter().map(|it| {
        let name = it.resource_name.as_ref().map(|it| it.name.as_str()).unwrap_or_default();
        format!("!{name}:{}", it.error_detail.as_ref().map_or(0, |it| it.code))
    });
    parts.extend(errors);
    format!("{} {}", message.type_url.rsplit('.').next().unwrap(), parts.join(" ")).trim().to_owned()
}

impl Client {
    fn new(world: World, viewer: Viewer) -> Self {
        let session = Session::new("test".into(), View { world: &world, viewer: &viewer });
        Self { world, viewer, session }
    }

    fn ask(&mut self, request: DeltaDiscoveryRequest) -> (Heard, Vec<DeltaDiscoveryResponse>) {
        let view = View { world: &self.world, viewer: &self.viewer };
        let (heard, outgoing) = self.session.request(request, view).unwrap();
        (heard, outgoing.into_iter().map(Outgoing::into_message).collect())
    }

    #[track_caller]
    fn asks(&mut self, request: DeltaDiscoveryRequest, expected: &[&str]) -> Vec<DeltaDiscoveryResponse> {
        let (_, responses) = self.ask(request);
        assert_eq!(responses.iter().map(line).collect::<Vec<_>>(), expected);
        responses
    }

    #[track_caller]
    fn hears(&mut self, touched: &[Touched], expected: &[&str]) -> Vec<DeltaDiscoveryResponse> {
        let view = View { world: &self.world, viewer: &self.viewer };
        let responses: Vec<_> =
            self.session.changed(touched, view).into_iter().map(Outgoing::into_message).collect();
        assert_eq!(responses.iter().map(line).collect::<Vec<_>>(), expected);
        responses
    }

    fn acknowledge(&mut self, response: &DeltaDiscoveryResponse) -> Vec<DeltaDiscoveryResponse> {
        let request = DeltaDiscoveryRequest {
            type_url: response.type_url.clone(),
            response_nonce: response.nonce.clone(),
            ..DeltaDiscoveryRequest::default()
        };
        self.ask(request).1
    }
}

const SERVER: &str = "type.googleapis.com/weft.config.v1.Server";
const ACCESS: &str = "type.googleapis.com/weft.config.v1.AccessPolicy";
const ROUTE: &str = "type.googleapis.com/weft.config.v1.Route";

fn request(type_url: &str, subscribe: &[&str], unsubscribe: &[&str]) -> DeltaDiscoveryRequest {
    let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
    DeltaDiscoveryRequest {
        type_url: type_url.to_owned(),
        resource_names_subscribe: names(subscribe),
        resource_names_unsubscribe: names(unsubscribe),
        ..DeltaDiscoveryRequest::default()
    }
}

fn caller() -> Client {
    let yaml = server("research/files") + &server("research/search") + &server("payments/ledger");
    Client::new(world(&yaml), viewer("agents", "bot", OUTBOUND))
}

#[test]
fn saying_nothing_first_means_everything_and_later_means_nothing() {
    let mut client = caller();
    client.asks(request(SERVER, &[], &[]), &["Server +payments/ledger +research/files +research/search"]);
    client.asks(request(SERVER, &[], &[]), &[]);
    let mut client = caller();
    client.asks(request(SERVER, &["research/files"], &[]), &["Server +research/files"]);
    client.asks(request(SERVER, &[], &[]), &[]);
    let touched = put(&mut client.world, &server("research/new"));
    client.hears(&touched, &[]);
}

#[test]
fn names_that_are_asked_for_are_answered_even_if_they_were_sent_before() {
    let mut client = caller();
    client.asks(request(SERVER, &["research/files"], &[]), &["Server +research/files"]);
    client.asks(request(SERVER, &["research/files"], &[]), &["Server +research/files"]);
}

#[test]
fn what_does_not_exist_is_removed_at_once_and_sent_when_it_appears() {
    let mut client = caller();
    client.asks(request(SERVER, &["agents/later"], &[]), &["Server -agents/later !agents/later:5"]);
    let touched = put(&mut client.world, &server("agents/later"));
    client.hears(&touched, &["Server +agents/later"]);
    let touched = delete(&mut client.world, "mcpservers/agents/later");
    client.hears(&touched, &["Server -agents/later"]);
    let touched = put(&mut client.world, &server("agents/later"));
    client.hears(&touched, &["Server +agents/later"]);
}

#[test]
fn what_may_not_be_seen_is_refused_in_the_same_words_whether_it_exists_or_not() {
    let yaml =
        server("research/files") + &object("AccessPolicy", "research/p", "{ rules: [{ action: allow }] }");
    let mut client = Client::new(world(&yaml), viewer("payments", "ledger", INBOUND));
    let expected = ["AccessPolicy -research/none -research/p !research/none:7 !research/p:7"];
    client.asks(request(ACCESS, &["research/p", "research/none"], &[]), &expected);
}

#[test]
fn the_wildcard_and_names_live_side_by_side() {
    let mut client = caller();
    client.asks(request(SERVER, &["research/files"], &[]), &["Server +research/files"]);
    let all = ["Server +payments/ledger +research/files +research/search"];
    client.asks(request(SERVER, &["*"], &[]), &all);
    // Still covered by the wildcard: it comes again, as the client may have dropped it.
    client.asks(request(SERVER, &[], &["research/files"]), &["Server +research/files"]);
    client.asks(request(SERVER, &["research/files"], &["*"]), &["Server +research/files"]);
    let touched = put(&mut client.world, &server("research/new"));
    client.hears(&touched, &[]);
    let changed = object("McpServer", "research/files", "{ workload: { labels: { app: f2 } } }");
    let touched = put(&mut client.world, &changed);
    client.hears(&touched, &["Server +research/files"]);
}

#[test]
fn a_name_outside_the_wildcard_is_taken_away_when_it_is_given_up() {
    let yaml = server("research/files") + &server("research/search");
    let mut client = Client::new(world(&yaml), viewer("research", "files", INBOUND));
    client
        .asks(request(SERVER, &["*", "research/search"], &[]), &["Server +research/files +research/search"]);
    client.asks(request(SERVER, &[], &["research/search"]), &["Server -research/search"]);
}

#[test]
fn giving_up_what_was_never_asked_for_is_ignored() {
    let mut client = caller();
    client.asks(request(SERVER, &["research/files"], &[]), &["Server +research/files"]);
    client.asks(request(SERVER, &[], &["research/none"]), &[]);
    client.asks(request(SERVER, &[], &["research/files"]), &[]);
    let touched = delete(&mut client.world, "mcpservers/research/files");
    client.hears(&touched, &[]);
}

#[test]
fn the_wildcard_taken_and_given_up_in_one_message_means_nothing_yet() {
    let mut client = caller();
    client.asks(request(SERVER, &["*"], &["*"]), &[]);
    let touched = put(&mut client.world, &server("research/new"));
    client.hears(&touched, &[]);
    client.asks(request(SERVER, &["research/new"], &[]), &["Server +research/new"]);
}

#[test]
fn a_stale_nonce_does_not_stop_a_subscription() {
    let mut client = caller();
    client.asks(request(SERVER, &["research/files"], &[]), &["Server +research/files"]);
    let mut stale = request(SERVER, &["research/search"], &[]);
    stale.response_nonce = "no-such-nonce".to_owned();
    let (heard, responses) = client.ask(stale);
    assert_eq!(heard, Heard::Stale { ty: ResourceType::Server });
    assert_eq!(responses.iter().map(line).collect::<Vec<_>>(), ["Server +research/search"]);
}

#[test]
fn a_rejection_is_what_carries_an_error_and_nothing_else() {
    let mut client = caller();
    let sent = client.asks(request(SERVER, &["research/files"], &[]), &["Server +research/files"]);
    let mut nack = request(SERVER, &["research/search"], &[]);
    nack.response_nonce = sent[0].nonce.clone();
    nack.error_detail = Some(Status { code: 3, message: "cannot be".to_owned(), details: Vec::new() });
    let (heard, responses) = client.ask(nack);
    let message = "cannot be".to_owned();
    assert_eq!(heard, Heard::Rejected { ty: ResourceType::Server, message, stale: false });
    assert_eq!(responses.iter().map(line).collect::<Vec<_>>(), ["Server +research/search"]);
    // The rejected version is not pressed upon the client again.
    client.hears(&[touch("research/files")], &[]);
    let mut spontaneous = request(SERVER, &[], &[]);
    spontaneous.error_detail = Some(Status::default());
    assert_eq!(client.ask(spontaneous).0, Heard::Spontaneous, "without a nonce nothing is answered");
}

fn touch(name: &str) -> Touched {
    Touched { ty: ResourceType::Server, name: name.into(), audience: crate::plan::Audience::Calling }
}

#[test]
fn whoever_reconnects_hears_only_what_changed_meanwhile() {
    let mut client = caller();
    let sent =
        client.asks(request(SERVER, &[], &[]), &["Server +payments/ledger +research/files +research/search"]);
    let mut held: HashMap<String, String> =
        sent[0].resources.iter().map(|it| (it.name.clone(), it.version.clone())).collect();
    held.insert("research/gone".to_owned(), "v1".to_owned());
    held.insert("research/wished".to_owned(), String::new());
    let changed = object("McpServer", "research/files", "{ workload: { labels: { app: f2 } } }");
    put(&mut client.world, &(changed + &server("research/new")));
    let mut again = Client::new(client.world, client.viewer);
    let mut first = request(SERVER, &[], &[]);
    first.initial_resource_versions = held.clone().into_iter().collect();
    again.asks(first, &["Server +research/files +research/new -research/gone"]);
    // Named subscriptions are spared in the same way, but only on the first request.
    let mut named = Client::new(again.world, again.viewer);
    let mut first = request(SERVER, &["research/search"], &[]);
    first.initial_resource_versions =
        [("research/search".to_owned(), held["research/search"].clone())].into();
    named.asks(first, &["Server"]);
    let mut late = request(SERVER, &["research/files"], &[]);
    late.initial_resource_versions = held.into_iter().collect();
    named.asks(late, &["Server +research/files"]);
}

#[test]
fn nothing_is_sent_when_nothing_changed() {
    let mut client = caller();
    client.asks(request(SERVER, &[], &[]), &["Server +payments/ledger +research/files +research/search"]);
    client.hears(&[touch("research/files"), touch("research/none")], &[]);
    let touched = put(&mut client.world, &server("research/files"));
    let resent = client.session.changed(&touched, View { world: &client.world, viewer: &client.viewer });
    // Applied again, an object is younger, which its content says; its version tells.
    assert!(resent.len() <= 1);
}

#[test]
fn an_alias_is_answered_with_the_resource_and_its_names() {
    let aliased = "{ workload: { labels: { app: files } }, aliases: [documents] }";
    let yaml = object("McpServer", "research/files", aliased);
    let mut client = Client::new(world(&yaml), viewer("agents", "bot", OUTBOUND));
    let both = request(SERVER, &["research/documents", "research/files"], &[]);
    let sent = client.asks(both, &["Server +research/files"]);
    assert_eq!(sent[0].resources[0].aliases, ["research/documents"]);
    client.asks(request(SERVER, &[], &["research/files"]), &[]);
    let touched = delete(&mut client.world, "mcpservers/research/files");
    client.hears(&touched, &["Server -research/files"]);
    let touched = put(&mut client.world, &object("McpServer", "research/papers", aliased));
    client.hears(&touched, &["Server +research/papers"]);
}

#[test]
fn what_points_is_removed_before_what_it_points_at() {
    let route = "{ server: research/files, rules: [{ to: [{ server: research/search }] }] }";
    let yaml = server("research/files") + &server("research/search") + &object("Route", "research/r", route);
    let mut client = Client::new(world(&yaml), viewer("agents", "bot", OUTBOUND));
    let servers = client.asks(request(SERVER, &[], &[]), &["Server +research/files +research/search"]);
    let routes = client.asks(request(ROUTE, &[], &[]), &["Route +research/r"]);
    client.acknowledge(&servers[0]);
    client.acknowledge(&routes[0]);
    let mut touched = delete(&mut client.world, "mcpservers/research/search");
    touched.extend(delete(&mut client.world, "routes/research/r"));
    let sent = client.hears(&touched, &["Route -research/r"]);
    assert!(client.session.has_pending());
    let freed = client.acknowledge(&sent[0]);
    assert_eq!(freed.iter().map(line).collect::<Vec<_>>(), ["Server -research/search"]);
    assert!(!client.session.has_pending());
}

#[test]
fn additions_arrive_guards_first_and_routes_last() {
    let mut client =
        Client::new(world(""), viewer("research", "files", Stances { outbound: true, ..INBOUND }));
    for ty in ResourceType::ALL.into_iter().rev() {
        client.ask(request(ty.type_url(), &[], &[]));
    }
    let route = "{ server: research/files, rules: [{ to: [{ server: research/files }] }] }";
    let policy = "{ servers: { names: [files] }, rules: [{ action: allow }] }";
    let yaml = object("Route", "research/r", route)
        + &server("research/files")
        + &object("AccessPolicy", "research/p", policy);
    let touched = put(&mut client.world, &yaml);
    let expected = [
        "AccessPolicy +research/p",
        "Server +research/files",
        "Endpoints +research/files",
        "Route +research/r",
    ];
    client.hears(&touched, &expected);
}

#[test]
fn a_policy_reaches_a_sidecar_when_its_server_begins_to_match() {
    let labelled = "{ servers: { labels: { tier: gold } }, rules: [{ action: allow }] }";
    let yaml = server("research/files") + &object("AccessPolicy", "research/gold", labelled);
    let mut client = Client::new(world(&yaml), viewer("research", "files", INBOUND));
    client.asks(request(ACCESS, &[], &[]), &["AccessPolicy"]);
    let gold = server("research/files").replace("name: files }", "name: files, labels: { tier: gold } }");
    let touched = put(&mut client.world, &gold);
    client.hears(&touched, &["AccessPolicy +research/gold"]);
    let touched = put(&mut client.world, &server("research/files"));
    client.hears(&touched, &["AccessPolicy -research/gold"]);
}

#[test]
fn a_large_answer_comes_in_pieces_without_a_name_twice() {
    let yaml: String = (0..1201).map(|n| server(&format!("research/s{n}"))).collect();
    let mut client = Client::new(world(&yaml), viewer("agents", "bot", OUTBOUND));
    let (_, responses) = client.ask(request(SERVER, &[], &[]));
    let sizes: Vec<_> = responses.iter().map(|it| it.resources.len()).collect();
    assert_eq!(sizes, [500, 500, 201]);
    let names: std::collections::HashSet<_> =
        responses.iter().flat_map(|it| &it.resources).map(|it| it.name.clone()).collect();
    assert_eq!(names.len(), 1201);
    let nonces: std::collections::HashSet<_> = responses.iter().map(|it| it.nonce.clone()).collect();
    assert_eq!(nonces.len(), 3);
    assert_eq!(client.session.unanswered(ResourceType::Server), 3);
    client.acknowledge(&responses[2]);
    assert_eq!(
        client.session.unanswered(ResourceType::Server),
        0,
        "the last answer stands for those before it"
    );
}

#[test]
fn a_client_that_does_not_answer_is_told_no_more_until_it_does() {
    let mut client = caller();
    let first =
        client.asks(request(SERVER, &[], &[]), &["Server +payments/ledger +research/files +research/search"]);
    let mut sent = first;
    for n in 0..UNANSWERED_MAX + 5 {
        let touched = put(&mut client.world, &server(&format!("research/s{n}")));
        let view = View { world: &client.world, viewer: &client.viewer };
        sent.extend(client.session.changed(&touched, view).into_iter().map(Outgoing::into_message));
    }
    assert_eq!(sent.len(), UNANSWERED_MAX);
    let freed = client.acknowledge(&sent[UNANSWERED_MAX - 1]);
    assert_eq!(freed.len(), 1, "all that waited comes in one response");
    assert_eq!(freed[0].resources.len(), 6);
}

#[test]
fn an_unknown_type_is_answered_once_and_many_of_them_end_the_stream() {
    let mut client = caller();
    client.asks(request("type.example/x.Newer", &["a", "a", "*"], &[]), &["Newer -a !a:5"]);
    client.asks(request("type.example/x.Newer", &[], &[]), &[]);
    let view = View { world: &client.world, viewer: &client.viewer };
    for n in 1..UNKNOWN_TYPES_MAX {
        client.session.request(request(&format!("t/{n}"), &[], &[]), view).unwrap();
    }
    let error = client.session.request(request("t/more", &[], &[]), view).unwrap_err();
    assert_eq!(error, Error::TooManyUnknownTypes);
}

#[test]
fn what_breaks_a_limit_ends_the_stream_with_its_reason() {
    let mut client = caller();
    let view = View { world: &client.world, viewer: &client.viewer };
    let mut refused = |request: DeltaDiscoveryRequest| client.session.request(request, view).unwrap_err();
    assert_eq!(refused(request("", &["a"], &[])), Error::NoType);
    assert_eq!(refused(request(SERVER, &[""], &[])), Error::EmptyName);
    assert_eq!(refused(request(SERVER, &[&"x".repeat(600)], &[])), Error::LongName(600));
    let names: Vec<String> = (0..=REQUEST_NAMES_MAX).map(|n| n.to_string()).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    assert!(matches!(refused(request(SERVER, &names, &[])), Error::TooManyNames(_)));
    let locator = DeltaDiscoveryRequest {
        resource_locators_subscribe: vec![Default::default()],
        ..request(SERVER, &[], &[])
    };
    assert_eq!(refused(locator), Error::Locators);
}

#[test]
fn a_client_cannot_hold_more_names_than_the_limit() {
    let mut client = caller();
    let view = View { world: &client.world, viewer: &client.viewer };
    let mut result = Ok(());
    for batch in 0..=SUBSCRIPTIONS_MAX / REQUEST_NAMES_MAX {
        let names: Vec<String> = (0..REQUEST_NAMES_MAX).map(|n| format!("agents/b{batch}-{n}")).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        result = client.session.request(request(SERVER, &names, &[]), view).map(|_| ());
    }
    assert_eq!(result, Err(Error::TooManySubscriptions));
}

#[test]
fn a_comparison_of_everything_notices_a_server_of_ones_own() {
    let mut client = Client::new(world(""), viewer("research", "files", INBOUND));
    client.asks(request(SERVER, &[], &[]), &["Server"]);
    put(&mut client.world, &server("research/files"));
    let view = View { world: &client.world, viewer: &client.viewer };
    let sent: Vec<_> = client.session.resync(view).into_iter().map(Outgoing::into_message).collect();
    assert_eq!(sent.iter().map(line).collect::<Vec<_>>(), ["Server +research/files"]);
    assert_eq!(client.session.served().len(), 1);
}

#[test]
fn much_that_is_gone_is_told_in_pieces() {
    let mut client = caller();
    let names: Vec<String> = (0..REQUEST_NAMES_MAX).map(|n| format!("agents/n{n:05}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let (_, responses) = client.ask(request(SERVER, &names, &[]));
    let sizes: Vec<_> =
        responses.iter().map(|it| (it.removed_resources.len(), it.resource_errors.len())).collect();
    assert_eq!(sizes, [(RESPONSE_REMOVED_MAX, RESPONSE_REMOVED_MAX); 2]);
}

#[test]
fn instances_that_have_not_come_back_yet_are_not_taken_away() {
    const ENDPOINTS: &str = "type.googleapis.com/weft.config.v1.Endpoints";
    let yaml = server("research/files")
        + &object("McpServer", "research/fixed", "{ endpoints: [{ address: 'h:1' }] }");
    let mut client = Client::new(world(&yaml), viewer("agents", "bot", OUTBOUND));
    let mut first = request(ENDPOINTS, &[], &[]);
    let held = ["research/files", "research/fixed", "research/gone"]
        .map(|name| (name.to_owned(), "before".to_owned()));
    first.initial_resource_versions = held.into();
    client.asks(first, &["Endpoints +research/fixed -research/gone"]);
    client.hears(&[Touched { ty: ResourceType::Endpoints, ..touch("research/files") }], &[]);
    client.world.settle();
    client.hears(
        &[Touched { ty: ResourceType::Endpoints, ..touch("research/files") }],
        &["Endpoints +research/files"],
    );
}

#[test]
fn whoever_knew_of_no_instance_before_a_restart_is_told_the_first_at_once() {
    const ENDPOINTS: &str = "type.googleapis.com/weft.config.v1.Endpoints";
    let mut client = Client::new(world(&server("research/files")), viewer("agents", "bot", OUTBOUND));
    let view = View { world: &client.world, viewer: &client.viewer };
    let Lookup::Found(none) = view.world.lookup(view.viewer, &[], ResourceType::Endpoints, "research/files")
    else {
        panic!("the server is there")
    };
    let mut first = request(ENDPOINTS, &[], &[]);
    first.initial_resource_versions = [(none.name.to_string(), none.version.to_string())].into();
    client.asks(first, &["Endpoints"]);
    for number in 1..=2 {
        let seen = Update { revision: 0, changes: vec![Change::Observed(announced(number, 1))] };
        let touched = client.world.apply(seen);
        client.hears(&touched, &["Endpoints +research/files"]);
    }
}

#[test]
fn what_guards_a_server_stays_while_the_server_does() {
    let route = "{ server: research/files, rules: [{ to: [{ server: research/files }] }] }";
    let policy = "{ servers: { names: [files] }, rules: [{ action: allow }] }";
    let yaml = object("AccessPolicy", "research/p", policy)
        + &server("research/files")
        + &object("Route", "research/r", route);
    let mut client =
        Client::new(world(&yaml), viewer("research", "files", Stances { outbound: true, ..INBOUND }));
    for ty in [ResourceType::AccessPolicy, ResourceType::Server, ResourceType::Route] {
        let (_, sent) = client.ask(request(ty.type_url(), &[], &[]));
        client.acknowledge(&sent[0]);
    }
    let mut touched = delete(&mut client.world, "accesspolicies/research/p");
    touched.extend(delete(&mut client.world, "mcpservers/research/files"));
    touched.extend(delete(&mut client.world, "routes/research/r"));
    let sent = client.hears(&touched, &["Route -research/r"]);
    let freed = client.acknowledge(&sent[0]);
    let expected = ["Server -research/files", "AccessPolicy -research/p"];
    assert_eq!(freed.iter().map(line).collect::<Vec<_>>(), expected);
}

#[test]
fn types_keep_their_own_nonces_and_subscriptions() {
    let mut client = caller();
    let servers = client.asks(request(SERVER, &["research/files"], &[]), &["Server +research/files"]);
    client.asks(request(ROUTE, &[], &[]), &["Route"]);
    let crossed =
        DeltaDiscoveryRequest { response_nonce: servers[0].nonce.clone(), ..request(ROUTE, &[], &[]) };
    assert_eq!(client.ask(crossed).0, Heard::Stale { ty: ResourceType::Route });
    assert_eq!(client.session.unanswered(ResourceType::Server), 1);
}
