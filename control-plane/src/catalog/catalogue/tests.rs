use weft_proto::catalogue::digest;
use weft_proto::offer::Offered;

use super::*;
use crate::catalog::report::{Said, Something};

fn server(name: &str) -> ServerName {
    format!("research/{name}").parse().unwrap()
}

fn place(server: &str) -> Place {
    let id = format!("spiffe://corp.example/ns/research/sa/{server}").parse().unwrap();
    (id, NodeId::parse(&format!("research/{server}-1")).unwrap())
}

fn at(secs: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(secs)
}

fn tools(tools: &[(String, &str)]) -> Told {
    let said = |(name, description): &(String, &str)| {
        let definition = format!(r#"{{"name":"{name}","description":"{description}"}}"#);
        let offered = Offered::parse(Listed::Tool, definition.as_str().into()).unwrap();
        Said {
            key: (Listed::Tool, name.as_str().into()),
            digest: digest(&definition).unwrap(),
            offered: Some(Arc::new(offered)),
        }
    };
    let changed = tools.iter().map(said).collect();
    Told::Something(Something { full: true, changed, ..Something::default() })
}

fn tool(name: &str, description: &'static str) -> (String, &'static str) {
    (name.to_owned(), description)
}

fn found(catalogue: &Catalogue, words: &str) -> Vec<String> {
    catalogue.search(words, 10, |_| true).into_iter().map(|hit| hit.key.name.to_string()).collect()
}

#[tokio::test]
async fn what_was_known_survives_a_restart_with_its_history_until_the_server_is_deleted() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(FILE);
    let (files, from) = (server("files"), place("files"));
    {
        let catalogue = Catalogue::open(Some(&path)).unwrap();
        catalogue.take((&from, 1), &files, tools(&[tool("read", "one"), tool("list", "x")]), at(1)).unwrap();
        catalogue.write().await;
        catalogue.take((&from, 1), &files, tools(&[tool("read", "two")]), at(2)).unwrap();
        catalogue.write().await;
        catalogue.leave((&from, 1), &[files.clone()].into(), at(3));
        catalogue.write().await;
    }
    let catalogue = Catalogue::open(Some(&path)).unwrap();
    let entry = catalogue.entry(&files).unwrap();
    assert_eq!((entry.away_since, entry.replicas.len()), (Some(at(3)), 0));
    let known = entry.known.unwrap();
    assert_eq!(known.offer.items().len(), 1);
    assert_eq!((known.items.values().next().unwrap().at, known.since), (at(2), at(2)));
    assert_eq!(found(&catalogue, "two"), ["read"]);
    let versions = catalogue.versions(files.clone(), (Listed::Tool, "read".into())).await.unwrap();
    let told: Vec<_> = versions.iter().map(|it| (it.definition.contains("one"), it.from, it.until)).collect();
    assert_eq!(told, [(false, at(2), None), (true, at(1), Some(at(2)))]);
    let gone = catalogue.versions(files.clone(), (Listed::Tool, "list".into())).await.unwrap();
    assert_eq!(gone[0].until, Some(at(2)));
    let approval = weft_proto::policy::tools::digest(&versions[1].definition).unwrap();
    let before = catalogue.approved(&files, approval.as_str());
    assert_eq!(before.as_deref(), Some(&*versions[1].definition));
    assert_eq!(catalogue.approved(&server("other"), approval.as_str()), None, "it is none of its words");

    catalogue.forget(&files).await;
    assert_eq!(found(&catalogue, "read"), [""; 0]);
    let catalogue = Catalogue::open(Some(&path)).unwrap();
    assert!(catalogue.entries().is_empty());
    assert_eq!(catalogue.versions(files, (Listed::Tool, "read".into())).await.unwrap(), []);
}

#[tokio::test]
async fn history_is_bounded_for_each_item() {
    let catalogue = Catalogue::open(None).unwrap();
    let (files, from) = (server("files"), place("files"));
    let texts: Vec<String> = (0..40).map(|n| format!("number {n}")).collect();
    for (n, text) in (0..).zip(&texts) {
        catalogue.take((&from, 1), &files, tools(&[("read".to_owned(), text)]), at(n)).unwrap();
        catalogue.write().await;
    }
    let versions = catalogue.versions(files, (Listed::Tool, "read".into())).await.unwrap();
    assert_eq!(i64::try_from(versions.len()), Ok(database::PAST_PER_ITEM_MAX + 1));
    assert!(versions[0].definition.contains("number 39"));
    let count = || {
        let connection = catalogue.disk.lock().unwrap();
        connection.query_row("SELECT count(*) FROM version", [], |row| row.get::<_, i64>(0)).unwrap()
    };
    database::clear(&catalogue.disk.lock().unwrap(), i64::MAX).unwrap();
    assert_eq!(count(), database::PAST_PER_ITEM_MAX + 1);
    database::clear(&catalogue.disk.lock().unwrap(), 0).unwrap();
    assert_eq!(count(), 1, "what is known stays");
}

#[tokio::test]
async fn what_changed_is_handed_over_once_and_what_is_deleted_too() {
    let catalogue = Catalogue::open(None).unwrap();
    let (files, from) = (server("files"), place("files"));
    let (sender, mut handed) = tokio::sync::mpsc::unbounded_channel();
    let hand_over: HandOver = Box::new(move |name, offer| {
        sender.send((name, offer.map(|offer| offer.items().len()))).unwrap();
        Box::pin(async {})
    });
    let told = tools(&[tool("read", "")]);
    catalogue.take((&from, 1), &files, told.clone(), at(0)).unwrap();
    catalogue.take((&from, 1), &files, told.clone(), at(1)).unwrap();
    let stop = CancellationToken::new();
    let running = tokio::spawn(Arc::clone(&catalogue).run(hand_over, |_| None, stop.clone()));
    assert_eq!(handed.recv().await, Some((files.clone(), Some(1))));
    catalogue.take((&from, 1), &files, told, at(2)).unwrap();
    catalogue.forget(&files).await;
    assert_eq!(handed.recv().await, Some((files, None)));
    stop.cancel();
    running.await.unwrap();
    assert!(handed.try_recv().is_err());
}

#[tokio::test]
async fn what_is_being_written_when_the_stop_comes_is_written_to_its_end() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(FILE);
    let catalogue = Catalogue::open(Some(&path)).unwrap();
    let servers: Vec<_> = (0..20).map(|n| server(&format!("files-{n:02}"))).collect();
    for name in &servers {
        let from = (place(name.name.as_ref()), 1);
        catalogue.take((&from.0, from.1), name, tools(&[tool("read", "")]), at(0)).unwrap();
    }
    let (sender, mut handed) = tokio::sync::mpsc::unbounded_channel();
    let hand_over: HandOver = Box::new(move |name, _| {
        sender.send(name).unwrap();
        Box::pin(async {})
    });
    let stop = CancellationToken::new();
    let running = tokio::spawn(Arc::clone(&catalogue).run(hand_over, |_| None, stop.clone()));
    // By then it is writing, too: both begin in one go.
    handed.recv().await.unwrap();
    stop.cancel();
    running.await.unwrap();
    drop(catalogue);
    let remembered = Catalogue::open(Some(&path)).unwrap().offers();
    assert_eq!(remembered.into_iter().map(|(name, _)| name).collect::<Vec<_>>(), servers);
}

#[tokio::test]
async fn a_sidecar_that_differs_is_told_with_what_it_differs_in() {
    let catalogue = Catalogue::open(None).unwrap();
    let files = server("files");
    let same = [tool("read", ""), tool("list", "")];
    for number in 1..=2 {
        let from = (place("files").0, NodeId::parse(&format!("research/files-{number}")).unwrap());
        catalogue.take((&from, number), &files, tools(&same), at(0)).unwrap();
    }
    let odd = (place("files").0, NodeId::parse("research/files-3").unwrap());
    catalogue.take((&odd, 3), &files, tools(&[tool("read", "x"), tool("list", "")]), at(0)).unwrap();
    let replicas = catalogue.entry(&files).unwrap().replicas;
    assert_eq!(
        replicas.iter().map(|it| it.agrees).collect::<Vec<_>>(),
        [Some(true), Some(true), Some(false)]
    );
    assert_eq!(replicas[2].differs, [(Listed::Tool, "read".into())]);
}

#[test]
fn a_mesh_of_a_thousand_servers_is_searched_and_one_of_them_forgotten() {
    let catalogue = Catalogue::open(None).unwrap();
    for n in 0..1000 {
        let names: Vec<_> = (0..20).map(|tool| (format!("tool_{n}_{tool}"), "Does a thing.")).collect();
        let (name, from) = (server(&format!("s{n}")), place(&format!("s{n}")));
        catalogue.take((&from, 1), &name, tools(&names), at(0)).unwrap();
    }
    assert_eq!(catalogue.entries().len(), 1000);
    assert_eq!(found(&catalogue, "tool 7 7")[0], "tool_7_7");
    let of_one = catalogue.search("thing", 100, |key| key.server == server("s900"));
    assert_eq!(of_one.len(), 20);
}
