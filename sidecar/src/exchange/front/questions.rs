//! What the callers of sessions were asked by this sidecar, in the name of servers that cannot ask themselves.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::mpsc;
use weft_proto::mcp::{Outcome, Response};

/// What one session's caller has not answered.
#[derive(Clone, Debug, Default)]
pub(crate) struct Questions(Arc<Mutex<HashMap<String, mpsc::Sender<Given>>>>);

/// What a caller answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Given {
    /// The question's, as JSON.
    pub(super) id: String,
    /// The result, as JSON; none for an error.
    pub(super) result: Option<String>,
}

/// Questions that wait for their answers until this is dropped.
#[derive(Debug)]
pub(super) struct Open {
    all: Questions,
    ids: Vec<String>,
    answers: mpsc::Receiver<Given>,
}

impl Questions {
    /// Opens as many questions as are wanted, under ids that nobody can guess.
    pub(super) fn open(&self, count: usize) -> Open {
        let (sender, answers) = mpsc::channel(count.max(1));
        let ids: Vec<_> = (0..count).map(|_| format!("\"weft-{:032x}\"", rand::random::<u128>())).collect();
        self.lock().extend(ids.iter().map(|id| (id.clone(), sender.clone())));
        Open { all: self.clone(), ids, answers }
    }

    /// Takes an answer, if it is one to a question of ours. Each is answered once.
    pub(super) fn answered(&self, response: &Response<'_>) -> bool {
        let Some(id) = response.id.as_ref().map(|id| id.canonical().into_owned()) else { return false };
        let Some(asker) = self.lock().remove(&id) else { return false };
        let result = match &response.outcome {
            Outcome::Result(result) => Some(result.get().to_owned()),
            Outcome::Error(_) => None,
        };
        // There is room for each of its answers, and who does not wait any more does not want them.
        _ = asker.try_send(Given { id, result });
        true
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, mpsc::Sender<Given>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Open {
    pub(super) fn ids(&self) -> &[String] {
        &self.ids
    }

    /// The next answer. Dropping the future loses nothing.
    pub(super) async fn next(&mut self) -> Option<Given> {
        self.answers.recv().await
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        let mut all = self.all.lock();
        for id in &self.ids {
            all.remove(id);
        }
    }
}

#[cfg(test)]
mod tests {
    use weft_proto::mcp::{self, Bounds, Message};

    use super::*;

    fn answers(questions: &Questions, message: &str) -> bool {
        let bounds = Bounds { depth_max: 16, batch_max: 1 };
        match mcp::parse(message.as_bytes(), bounds).unwrap() {
            mcp::Body::One(Message::Response(response)) => questions.answered(&response),
            other => panic!("{other:?}"),
        }
    }

    #[tokio::test]
    async fn each_question_is_answered_once_and_none_when_nobody_waits() {
        let questions = Questions::default();
        let mut open = questions.open(2);
        let [first, second] = [open.ids()[0].clone(), open.ids()[1].clone()];
        let result = format!(r#"{{"jsonrpc":"2.0","id":{second},"result":{{"roots":[]}}}}"#);
        assert!(answers(&questions, &result) && !answers(&questions, &result));
        let error = format!(r#"{{"jsonrpc":"2.0","id":{first},"error":{{"code":-1,"message":"no"}}}}"#);
        assert!(answers(&questions, &error));
        let given = Given { id: second, result: Some(r#"{"roots":[]}"#.to_owned()) };
        assert_eq!(open.next().await.unwrap(), given);
        assert_eq!(open.next().await.unwrap(), Given { id: first, result: None });
        let open = questions.open(1);
        let left = format!(r#"{{"jsonrpc":"2.0","id":{},"result":{{}}}}"#, open.ids()[0]);
        drop(open);
        assert!(!answers(&questions, &left));
        assert!(!answers(&questions, r#"{"jsonrpc":"2.0","id":7,"result":{}}"#));
    }
}
