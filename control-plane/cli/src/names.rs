//! How operators name kinds and objects on the command line, and how objects are called in answers.

use weft_proto::name::{Namespace, ObjectName};
use weft_proto::resource::{DEFAULT_NAMESPACE, Key, Kind, ROOT_NAMESPACE};

use crate::failure::Failure;

/// What stands for every kind.
const ALL: &str = "all";

/// What was named: a kind, perhaps a namespace, perhaps one object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Named {
    /// None means every kind.
    pub(crate) kind: Option<Kind>,
    pub(crate) namespace: Option<Namespace>,
    pub(crate) name: Option<ObjectName>,
}

impl Named {
    /// Reads `<kind>`, `<kind>/<name>` and `<kind>/<namespace>/<name>`; a further word is `<name>` or
    /// `<namespace>/<name>`.
    pub(crate) fn parse(first: &str, second: Option<&str>) -> Result<Self, Failure> {
        let (kind, rest) = first.split_once('/').map_or((first, None), |(kind, rest)| (kind, Some(rest)));
        let object = match (rest, second) {
            (Some(_), Some(second)) => {
                let what = format!("two objects are named at once: {first} and {second}");
                return Err(Failure::usage(what).then("give one name: <kind>/<name> or <kind> <name>"));
            }
            (one, other) => one.or(other),
        };
        let kind = if kind.eq_ignore_ascii_case(ALL) { None } else { Some(find_kind(kind)?) };
        if let (None, Some(name)) = (kind, object) {
            return Err(Failure::usage(format!("the object {name} is named without its kind")));
        }
        let Some(object) = object else { return Ok(Self { kind, namespace: None, name: None }) };
        let (namespace, name) = match object.split_once('/') {
            Some((namespace, name)) => (Some(parse_namespace(namespace)?), name),
            None => (None, object),
        };
        let name = ObjectName::parse(name).map_err(|error| Failure::usage(format!("{error}: {name:?}")))?;
        Ok(Self { kind, namespace, name: Some(name) })
    }

    /// The namespace that is meant: the one named with the object, or by the flag, or the default of the kind.
    pub(crate) fn namespace_or(&self, flag: Option<&Namespace>) -> Result<Namespace, Failure> {
        match (&self.namespace, flag) {
            (Some(named), Some(flag)) if named != flag => {
                Err(Failure::usage(format!("two namespaces are named at once: {named} and {flag}")))
            }
            (Some(namespace), _) | (None, Some(namespace)) => Ok(namespace.clone()),
            (None, None) => Ok(default_namespace(self.kind)),
        }
    }
}

/// Where objects of a kind are when nothing else is said. The one `Trust` object is always in the root namespace.
fn default_namespace(kind: Option<Kind>) -> Namespace {
    let name = if kind == Some(Kind::Trust) { ROOT_NAMESPACE } else { DEFAULT_NAMESPACE };
    Namespace::parse(name).expect("the namespaces that every mesh has are namespaces")
}

pub(crate) fn parse_namespace(text: &str) -> Result<Namespace, Failure> {
    Namespace::parse(text).map_err(|error| Failure::usage(format!("{error}: {text:?}")))
}

/// A kind by any of its names.
pub(crate) fn find_kind(text: &str) -> Result<Kind, Failure> {
    Kind::find(text).ok_or_else(|| {
        let kinds = Kind::ALL.iter().map(|kind| kind.name().to_lowercase()).collect::<Vec<_>>().join(", ");
        let hint = nearest(text).map(|name| format!("did you mean {name:?}? ")).unwrap_or_default();
        Failure::usage(format!("there is no kind {text:?}")).then(format!("{hint}the kinds are {kinds}"))
    })
}

fn nearest(text: &str) -> Option<String> {
    let text = text.chars().take(64).collect::<String>().to_lowercase();
    let names = Kind::ALL.iter().flat_map(|kind| {
        let others = kind.short_names().iter().copied().chain([kind.plural()]);
        others.map(str::to_owned).chain([kind.name().to_lowercase()])
    });
    let (distance, name) = names.map(|name| (strsim::damerau_levenshtein(&text, &name), name)).min()?;
    (distance <= (name.len() / 3).max(1)).then_some(name)
}

/// An object as answers call it; commands understand it in this form.
pub(crate) fn display(kind: &str, namespace: &str, name: &str) -> String {
    let known = Kind::find(kind).map(Kind::name);
    let kind = known.unwrap_or(kind).to_lowercase();
    format!("{kind}/{namespace}/{name}")
}

pub(crate) fn display_key(key: &Key) -> String {
    display(key.kind.name(), key.namespace.as_str(), key.name.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(failure: Failure) -> String {
        match failure {
            Failure::Told(told) => told.to_string(),
            Failure::ReaderGone => panic!("no reader is involved"),
        }
    }

    #[test]
    fn objects_are_named_in_every_usual_form() {
        let check =
            |first: &str, second: Option<&str>, expected: (Option<Kind>, Option<&str>, Option<&str>)| {
                let named = Named::parse(first, second).unwrap();
                let found = (
                    named.kind,
                    named.namespace.as_ref().map(Namespace::as_str),
                    named.name.as_ref().map(ObjectName::as_str),
                );
                assert_eq!(found, expected, "{first} {second:?}");
            };
        let server = Some(Kind::McpServer);
        check("servers", None, (server, None, None));
        check("McpServer/files", None, (server, None, Some("files")));
        check("mcpserver/research/files", None, (server, Some("research"), Some("files")));
        check("mcp", Some("research/files"), (server, Some("research"), Some("files")));
        check("ap", Some("readers"), (Some(Kind::AccessPolicy), None, Some("readers")));
        check("all", None, (None, None, None));
    }

    #[test]
    fn every_kind_is_understood_as_answers_call_it() {
        for kind in Kind::ALL {
            let text = display(kind.name(), "a", "b");
            assert_eq!(Named::parse(&text, None).unwrap().kind, Some(*kind), "{text}");
            assert_eq!(display(kind.plural(), "a", "b"), text);
        }
    }

    #[test]
    fn an_unknown_kind_suggests_the_nearest() {
        let check = |text: &str, expected: &str| {
            let told = told(find_kind(text).unwrap_err());
            assert!(told.contains(expected), "{told}");
        };
        check("mcpsrver", "did you mean \"mcpserver\"?");
        check("accesspolices", "did you mean \"accesspolicies\"?");
        check("telemtry", "did you mean \"telemetry\"?");
        check("rout", "did you mean \"route\"?");
        let far = told(find_kind("elephant").unwrap_err());
        assert!(
            !far.contains("did you mean") && far.contains("the kinds are mcpserver, virtualserver"),
            "{far}"
        );
    }

    #[test]
    fn contradictions_on_the_command_line_are_usage_errors() {
        let check = |failure: Failure, expected: &str| {
            assert_eq!(failure.code(), crate::failure::ExitCode::Usage);
            let told = told(failure);
            assert!(told.contains(expected), "{told}");
        };
        check(Named::parse("route/a", Some("b")).unwrap_err(), "two objects");
        check(Named::parse("all", Some("b")).unwrap_err(), "without its kind");
        check(Named::parse("route", Some("A_b")).unwrap_err(), "A_b");
        let named = Named::parse("route", Some("x/a")).unwrap();
        check(named.namespace_or(Some(&parse_namespace("y").unwrap())).unwrap_err(), "two namespaces");
    }

    #[test]
    fn the_namespace_is_the_default_unless_something_else_is_said() {
        let check = |first: &str, flag: Option<&str>, expected: &str| {
            let flag = flag.map(|flag| parse_namespace(flag).unwrap());
            let namespace = Named::parse(first, None).unwrap().namespace_or(flag.as_ref()).unwrap();
            assert_eq!(namespace.as_str(), expected);
        };
        check("route/a", None, "default");
        check("route/a", Some("x"), "x");
        check("route/y/a", None, "y");
        check("trust", None, "weft-system");
    }
}
