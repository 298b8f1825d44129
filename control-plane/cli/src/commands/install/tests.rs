//! What is printed for `kubectl`. That it is what Helm would say is asked of a real Helm, in the tier of Kubernetes.

use clap::Parser;

use super::*;
use crate::credentials::Given;
use crate::terminal::Terminal;

#[derive(Parser)]
struct Alone {
    #[command(flatten)]
    mesh: MeshArgs,
}

fn mesh(words: &str) -> Result<Mesh, clap::Error> {
    let words = ["weft", "--render"].into_iter().chain(words.split_whitespace());
    Alone::try_parse_from(words).map(|it| it.mesh.into())
}

fn kinds_and_names(printed: &str) -> Vec<(String, String)> {
    let field = |document: &str, start: &str| {
        let line = document.lines().find_map(|line| line.strip_prefix(start));
        line.unwrap_or_default().trim_matches('"').to_owned()
    };
    printed.split("\n---\n").map(|it| (field(it, "kind: "), field(it, "  name: "))).collect()
}

#[test]
fn without_further_words_it_is_the_mesh_of_the_plain_manifests() {
    let printed = manifests::to_apply(&mesh("").unwrap(), &[]);
    let plain = include_str!("../../../../../deploy/kubernetes/weft.yaml");
    let (_, plain) = plain.split_once("\n---\n").unwrap();
    let documents = |text: &str| text.split("\n---\n").map(|it| it.trim().to_owned()).collect::<Vec<_>>();
    assert_eq!(documents(&printed), documents(plain));
}

#[test]
fn the_chart_is_of_the_version_of_this_program() {
    let chart = include_str!("../../../../../deploy/helm/weft/Chart.yaml");
    assert!(chart.contains(&format!("\nversion: {CLIENT}\nappVersion: {CLIENT}\n")), "{chart}");
}

#[test]
fn words_of_the_command_line_stand_where_the_chart_has_them() {
    let printed = manifests::to_apply(
        &mesh("-n corp-mesh --trust-domain corp.example --hub registry.corp.example:5000/weft/ --tag v7")
            .unwrap(),
        &[],
    );
    assert!(!printed.contains("weft-system") && !printed.contains("weft.local"), "{printed}");
    assert!(
        printed.contains("image: \"registry.corp.example:5000/weft/weft-control-plane:v7\"\n"),
        "{printed}"
    );
    assert!(printed.contains("--trust-domain=corp.example\n"), "{printed}");
    assert!(printed.contains("  namespace: \"corp-mesh\"\n"), "{printed}");
}

#[test]
fn what_was_put_in_is_not_replaced_again() {
    let printed = manifests::to_apply(
        &mesh("-n canary --trust-domain weft-system.example --revision next").unwrap(),
        &[],
    );
    assert!(printed.contains("  namespace: \"canary\"\n"), "{printed}");
    assert!(printed.contains("--trust-domain=weft-system.example\n"), "{printed}");
    assert!(printed.contains("  name: weft-control-plane-next\n"), "{printed}");
}

#[test]
fn a_control_plane_beside_the_main_one_brings_only_what_is_its_own() {
    let names = kinds_and_names(&manifests::to_apply(&mesh("--ha --revision next").unwrap(), &[]));
    assert!(names.iter().all(|(kind, name)| name.contains("-next") && kind != "Namespace"), "{names:?}");
}

#[test]
fn what_cannot_stand_in_a_manifest_is_a_wrong_command_line() {
    for words in [
        "--hub bad\"quote",
        "--hub registry/",
        "--hub registry//x",
        "--hub registry:port/x",
        "--hub registry/Upper",
        "--hub -registry",
        "--tag .x",
        "--tag a:b",
        "--revision default",
        "--revision 7",
        "--revision ends-",
        "--revision Upper",
        "--revision aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
        "-n Upper",
        "--trust-domain no_domain!",
    ] {
        let accepted = mesh(words).is_ok();
        // A folder that is only implied is left away.
        assert_eq!(accepted, words == "--hub registry/", "{words}");
    }
    assert!(Alone::try_parse_from(["weft"]).is_err(), "nothing is sent, and the command line says so");
}

#[test]
fn deleting_begins_with_the_webhooks_and_ends_with_the_namespace() {
    let kinds: Vec<_> = kinds_and_names(&manifests::to_delete(&mesh("").unwrap(), &[]))
        .into_iter()
        .map(|(kind, _)| kind)
        .collect();
    assert_eq!(kinds[..2], ["MutatingWebhookConfiguration", "ValidatingWebhookConfiguration"]);
    assert_eq!(kinds.last().map(String::as_str), Some("Namespace"));
}

#[test]
fn definitions_come_first_and_are_deleted_only_when_that_is_said() {
    let said = |run: &dyn Fn(&Context) -> Result<ExitCode, Failure>| {
        let (terminal, printed, _) = Terminal::captured("", false);
        let given = Given { home: "/nowhere".into(), server: None, ca_file: None, token: None };
        let context =
            Context { terminal: terminal.into(), given, patience: std::time::Duration::from_secs(1) };
        run(&context).unwrap();
        kinds_and_names(&printed.text())
    };
    let args = |words: &str| {
        let words = ["weft", "--render"].into_iter().chain(words.split_whitespace());
        Alone::try_parse_from(words).unwrap().mesh
    };
    let is_definition = |(kind, _): &(String, String)| kind == "CustomResourceDefinition";
    let installed = said(&|context| run(InstallArgs { mesh: args("") }, context));
    let definitions = installed.iter().take_while(|it| is_definition(it)).count();
    assert_eq!((definitions, installed.iter().filter(|it| is_definition(it)).count()), (9, 9));
    assert_eq!(installed, said(&|context| upgrade(UpgradeArgs { mesh: args("") }, context)));
    for (words, resources, expected) in [("", false, 0), ("", true, 9)] {
        let gone = said(&|context| uninstall(UninstallArgs { mesh: args(words), resources }, context));
        assert_eq!(gone.iter().filter(|it| is_definition(it)).count(), expected);
    }
    let beside = said(&|context| run(InstallArgs { mesh: args("--revision next") }, context));
    assert!(!beside.iter().any(is_definition));
}
