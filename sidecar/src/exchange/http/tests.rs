use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use http::{Method, Response};
use tokio::sync::mpsc;

use super::fake::*;
use super::*;
use crate::body::Body;
use crate::exchange::{Aside, Peer, Reply, Said};

mod legacy;
mod modern;

const CALL: &str = r#"{"jsonrpc":"2.0","id":7,"method":"tools/call","params":{"name":"t"}}"#;
const DONE: &str = r#"{"jsonrpc":"2.0","id":7,"result":{"content":[1.0]}}"#;

/// Everything that is said until the end, each as one text.
async fn all(mut reply: Reply) -> Vec<String> {
    let mut all = Vec::new();
    while let Some(said) = within(reply.0.recv()).await {
        // How a stream is cut into pieces is nobody's promise.
        if said != Ok(Said::Sign) {
            all.push(told(said));
        }
    }
    all
}

fn told(said: Result<Said, Refusal>) -> String {
    let text = |bytes: Bytes| String::from_utf8(bytes.to_vec()).unwrap();
    match said {
        Ok(Said::Note(note)) => format!("note {}", text(note)),
        Ok(Said::Request(request)) => format!("request {}", text(request)),
        Ok(Said::Sign) => "sign".to_owned(),
        Ok(Said::Response(response)) => format!("response {}", text(response)),
        Err(refusal) => format!("refusal {}", refusal.told().reason),
    }
}

/// Senders of the streams that a script has opened.
#[derive(Clone, Debug, Default)]
struct Opened(std::sync::Arc<Mutex<Vec<mpsc::Sender<Bytes>>>>);

impl Opened {
    fn stream(&self) -> Response<Body> {
        let (sender, response) = open_stream();
        self.0.lock().unwrap().push(sender);
        response
    }

    fn last(&self) -> mpsc::Sender<Bytes> {
        self.0.lock().unwrap().last().unwrap().clone()
    }
}
