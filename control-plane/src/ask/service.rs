//! One sidecar's stream of answers, from its first to its end.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::{Stream, StreamExt as _};
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Request, Response, Status, Streaming};
use weft_proto::name::{NodeId, Workload};
use weft_proto::pb::weft::ask::v1::ask_server::Ask;
use weft_proto::pb::weft::ask::v1::{Answer, Question};

use super::{Line, OUTGOING_MAX};
use crate::peer::Peer;
use crate::xds::Hub;

/// The first answer must come within this time.
const FIRST_TIMEOUT: Duration = Duration::from_secs(10);
/// A sidecar is told why its stream ends within this time.
const SEND_TIMEOUT: Duration = Duration::from_secs(10);
/// Answers in a row that answer nothing which is open: some may be on their way when nobody wants them any more.
const UNASKED_MAX: u32 = 4096;

/// The service that asks.
#[derive(Clone, Debug)]
pub struct Asking {
    hub: Arc<Hub>,
}

impl Asking {
    pub const fn new(hub: Arc<Hub>) -> Self {
        Self { hub }
    }

    async fn serve(
        &self,
        identity: &Workload,
        questions: &mpsc::Sender<Result<Question, Status>>,
        mut answers: Streaming<Answer>,
    ) -> Result<(), Status> {
        let mesh = self.hub.trust_domain();
        if identity.trust_domain != mesh {
            return Err(Status::permission_denied(format!("the certificate is not of this mesh, {mesh}")));
        }
        let first = match timeout(FIRST_TIMEOUT, answers.next()).await {
            Ok(Some(Ok(first))) => first,
            Ok(Some(Err(_)) | None) => return Ok(()),
            Err(_) => {
                return Err(Status::deadline_exceeded("nothing came in time that says whose stream it is"));
            }
        };
        let node = NodeId::parse(&first.node).map_err(|error| Status::invalid_argument(error.to_string()))?;
        if node.namespace() != identity.namespace.as_str() {
            let why = format!("the node {node} is not in the namespace of the certificate, {identity}");
            return Err(Status::permission_denied(why));
        }
        let over = self.hub.presence(&identity.id(), &node).ok_or_else(|| {
            Status::failed_precondition(
                "this sidecar has no discovery stream here; questions come beside one",
            )
        })?;
        let whom = (identity.id(), node);
        let line = self.hub.lines.listens(whom.clone(), questions.clone(), over);
        let end = self.listen(&line, answers).await;
        line.over.cancel();
        self.hub.lines.left(&whom, &line);
        end
    }

    async fn listen(&self, line: &Line, mut answers: Streaming<Answer>) -> Result<(), Status> {
        let mut unasked = 0;
        loop {
            let answer = tokio::select! {
                biased;
                () = line.over.cancelled() => {
                    return Err(Status::aborted("another stream took over, or the discovery stream has ended"));
                }
                () = self.hub.stopping() => return Ok(()),
                answer = answers.next() => answer,
            };
            let answer = match answer {
                Some(Ok(answer)) => answer,
                None => return Ok(()),
                Some(Err(status)) if status.code() == Code::OutOfRange => {
                    return Err(Status::resource_exhausted(status.message()));
                }
                Some(Err(_)) => return Ok(()),
            };
            unasked = if line.answered(answer) { 0 } else { unasked + 1 };
            if unasked > UNASKED_MAX {
                return Err(Status::resource_exhausted("too many answers to what nobody asks"));
            }
        }
    }
}

#[tonic::async_trait]
impl Ask for Asking {
    type ListenStream = Pin<Box<dyn Stream<Item = Result<Question, Status>> + Send>>;

    async fn listen(
        &self,
        request: Request<Streaming<Answer>>,
    ) -> Result<Response<Self::ListenStream>, Status> {
        let peer = Peer::of(&request)?;
        let identity = peer
            .workload()
            .ok_or_else(|| Status::unauthenticated("a client certificate of a workload is needed"))?;
        let (questions, outgoing) = mpsc::channel(OUTGOING_MAX);
        let asking = self.clone();
        tokio::spawn(async move {
            if let Err(status) = asking.serve(&identity, &questions, request.into_inner()).await {
                tracing::info!(%identity, error = status.message(), "a sidecar is not asked any more");
                let _ = timeout(SEND_TIMEOUT, questions.send(Err(status))).await;
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(outgoing))))
    }
}
