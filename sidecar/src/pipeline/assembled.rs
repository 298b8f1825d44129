//! The same life for a request at an endpoint that is made of many servers. What names something of one of them goes the
//! way of a request to that one; everything else the assembly answers itself.

use std::sync::Arc;

use http::header::HeaderValue;
use http::{Response, Uri};
use weft_proto::mcp::{Message, Request, Target, header};
use weft_proto::name::ServerName;
use weft_proto::resource::kinds::Era;

use crate::admit::Places;
use crate::answer::Answer;
use crate::assembly::{Assembly, Found};
use crate::backend::{CALL_TIMEOUT, IDLE_TIMEOUT};
use crate::classify::{self, Call};
use crate::exchange::front::{Incoming, Patience};
use crate::forward::is_event_stream;
use crate::identify::Identified;
use crate::metrics::Counted;
use crate::receive::{Place, Received};
use crate::record::Open;
use crate::refusal::Refusal;
use crate::route::{self, PEER_FIRST};
use crate::state::{Current, Origin};
use crate::trace::Part;
use crate::{task_id, trace};

use super::note;
use super::outbound::Outbound;

impl Outbound {
    pub(super) async fn assembled(
        &self,
        connection: &Identified,
        (received, call): (&Received, &Call<'_>),
        name: Option<&ServerName>,
        record: &mut Open,
    ) -> Result<Response<Answer>, Refusal> {
        let parts = &*self.0;
        let current = parts.live.load();
        if current.origin == Origin::Nothing {
            return Err(Refusal::NotReady);
        }
        let assembly = parts.assemblies.find(name)?;
        self.about(&assembly.name, record);
        assembly.permit(call, connection.caller.proved(), &mut record.event.decided)?;
        let caller = connection.caller.shared_name();
        // Ids of the legacy era are made of the members' before the members' own are read.
        let located = call.request().filter(|it| call.era == Era::Modern || !is_about_task(it));
        let found = located.map(|request| assembly.locate(request, &caller)).transpose()?.flatten();
        // What a task is called here is not what its server calls it, in the answers either.
        let is_task = call.era == Era::Modern && call.request().is_some_and(task_id::is_concerned);
        match found {
            // Which of the arguments of a call within a call are told in headers too, its caller does not know.
            Some(found) if call.era == Era::Modern && found.arguments.is_none() && !is_task => {
                let renamed = self.renamed(received, call, &found)?;
                let call = classify::again(&renamed.body, call.era, &parts.limits)?;
                note(&call, record);
                self.one(connection, &renamed, &call, &found.server, record).await
            }
            found => {
                let server = found.as_ref().map_or(&assembly.name, |found| &found.server);
                if let Some(Found { own, arguments, .. }) = &found
                    && (arguments.is_some() || is_task)
                {
                    // What is called, whatever it is called by.
                    record.event.target = Some(own.as_str().into());
                }
                self.about(server, record);
                self.noted(&current, connection, (received, call), server, record);
                self.exchanged(&assembly, connection, (received, call), record).await
            }
        }
    }

    /// The request as the server knows what it names.
    fn renamed(&self, received: &Received, call: &Call<'_>, found: &Found) -> Result<Received, Refusal> {
        let parts = &*self.0;
        let named = call.request().and_then(|request| found.renamed(&received.body, request));
        let body = named.ok_or_else(|| Refusal::Invalid("what is named cannot be found in it".to_owned()))?;
        if body.len() > parts.limits.body_bytes_max {
            return Err(Refusal::BodyTooLarge { max: parts.limits.body_bytes_max });
        }
        let mut held = parts.room.hold();
        held.grow(body.len())?;
        let body = held.with(body.into());
        let mut head = received.head.clone();
        if head.headers.contains_key(header::NAME) {
            let own = HeaderValue::from_str(&header::encode(&found.own));
            let own = own.map_err(|_| Refusal::Invalid("no header can hold the name".to_owned()))?;
            head.headers.insert(header::NAME, own);
        }
        // Whatever the query of an endpoint that is ours says, it is not for the server.
        head.uri = Uri::from_static("/mcp");
        Ok(Received { head, body, place: Place::Server(found.server.clone()) })
    }

    async fn exchanged(
        &self,
        assembly: &Arc<Assembly>,
        connection: &Identified,
        (received, call): (&Received, &Call<'_>),
        record: &mut Open,
    ) -> Result<Response<Answer>, Refusal> {
        let parts = &*self.0;
        let caller = connection.caller.shared_name();
        let requests = call.messages().iter().filter_map(|message| match message {
            Message::Request(request) => Some((&*request.method, assembly.locate(request, &caller).ok()??)),
            Message::Notification(_) | Message::Response(_) => None,
        });
        let found: Vec<_> = requests.collect();
        let onward = trace::onward(record.trace.as_ref(), received, call, &parts.limits, &parts.room);
        let again =
            onward.is_changed.then(|| classify::again(&onward.body, call.era, &parts.limits)).transpose()?;
        let incoming = Incoming {
            caller: &caller,
            said: connection.caller.said(),
            head: &received.head,
            body: &onward.body,
            patience: patience(&parts.live.load(), &found),
            admitted: &Places::exempt(),
        };
        let began = record.mark();
        let response = assembly.front.serve(incoming, again.as_ref().unwrap_or(call)).await;
        record.took(Part::Bridge, began);
        let response = response?;
        let is_stream = is_event_stream(response.headers());
        let answer = response.map(Answer::from);
        let streams = || parts.series.of(&assembly.name).streams.clone();
        Ok(match is_stream {
            true => answer.map(|answer| answer.streaming(Counted::new(streams()))),
            false => answer,
        })
    }
}

fn is_about_task(request: &Request<'_>) -> bool {
    matches!(request.target(), Some(Target::Task(_)))
}

/// How long members are waited for: as long as their own sidecars wait, and a little longer.
fn patience(current: &Current, found: &[(&str, Found)]) -> Patience {
    let of_one = |(method, found): &(&str, Found)| {
        let entry = current.snapshot.server(&found.server)?;
        let timeouts = &entry.server.spec.timeouts;
        let of_server = timeouts.call.map_or(CALL_TIMEOUT, |span| span.duration()) + PEER_FIRST;
        let of_tool = route::manner(&current.snapshot, entry, method, Some(&found.own)).timeout;
        let idle = timeouts.idle.map_or(IDLE_TIMEOUT, |span| span.duration()) + PEER_FIRST;
        Some((of_tool.unwrap_or(of_server), idle))
    };
    let all: Vec<_> = found.iter().filter_map(of_one).collect();
    let call = all.iter().map(|(call, _)| *call).max().unwrap_or(CALL_TIMEOUT + PEER_FIRST);
    let idle = all.iter().map(|(_, idle)| *idle).max().unwrap_or(IDLE_TIMEOUT + PEER_FIRST);
    Patience { call, idle: Some(idle), result_bytes_max: None }
}
