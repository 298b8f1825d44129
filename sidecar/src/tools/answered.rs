//! What becomes of the answer to a call of a tool: held to its limit, and kept for others where a policy says so.
//!
//! An answer that is looked at as a whole waits here until it is complete; one that turns out too long for that, and
//! need not be, goes on as it comes.

use bytes::{Bytes, BytesMut};
use http::{Response, StatusCode};
use http_body::Body as _;
use http_body_util::BodyExt as _;
use weft_proto::mcp::{self, Bounds, Message, Outcome};
use weft_proto::policy::tools::answer::is_lasting;

use crate::answer::Answer;
use crate::body::Body;
use crate::classify::{Call, Kind};
use crate::forward::is_event_stream;
use crate::limits::Limits;
use crate::refusal::Refusal;
use crate::relay::Broken;

use super::Tools;
use super::capped::Cap;
use super::kept::Parts;
use super::stage::Treated;

/// Lets an answer through as the call's policies say.
pub async fn answered(
    treated: Treated,
    tools: &Tools,
    call: &Call<'_>,
    response: Response<Answer>,
    limits: &Limits,
) -> Result<Response<Answer>, Refusal> {
    if treated.result_bytes_max.is_none() && treated.keep.is_none() {
        return Ok(response);
    }
    let encoded = response.headers().contains_key(http::header::CONTENT_ENCODING);
    if encoded && treated.result_bytes_max.is_some() {
        return Err(Refusal::UpstreamBroke(
            "an answer of limited size is encoded, which nobody asked for".to_owned(),
        ));
    }
    let id = call.request().map(|request| request.id.raw());
    if is_event_stream(response.headers()) {
        return Ok(match treated.result_bytes_max {
            Some(max) => response.map(|answer| answer.capped(Cap::new(max, id))),
            None => response,
        });
    }
    let (head, answer) = response.into_parts();
    // Several answers in one array were held to their limits one by one, if they are to be at all.
    let max = treated.result_bytes_max.filter(|_| !matches!(call.kind, Kind::Batch(_)));
    let announced = answer.size_hint().exact();
    if let (Some(max), Some(bytes)) = (max, announced)
        && bytes > max
    {
        return Err(too_large(tools, max));
    }
    let kept_max = tools.kept.answer_bytes_max();
    let may_keep =
        head.status == StatusCode::OK && !encoded && announced.is_none_or(|it| it <= kept_max as u64);
    let keep = treated.keep.filter(|_| may_keep);
    if keep.is_none() && announced.is_some() {
        // HTTP holds it to what was announced.
        return Ok(Response::from_parts(head, answer));
    }
    let wait_for = match max {
        Some(max) => usize::try_from(max).unwrap_or(usize::MAX).min(limits.answer_bytes_max),
        None if keep.is_none() => return Ok(Response::from_parts(head, answer)),
        None => kept_max,
    };
    let bytes = match collected(answer, wait_for).await? {
        Collected::Whole(bytes) => bytes,
        Collected::TooLong(..) if max.is_some() => return Err(too_large(tools, wait_for as u64)),
        Collected::TooLong(before, rest) => return Ok(Response::from_parts(head, rest.after(before))),
    };
    if let Some(keep) = keep
        && let Some(result) = lasting(&bytes, Bounds { depth_max: limits.depth_max, batch_max: 1 })
    {
        tools.kept.keep(keep.key, Parts(result, Bytes::new()), keep.ttl, &keep.policies);
    }
    Ok(Response::from_parts(head, Answer::from(Body::full(bytes))))
}

fn too_large(tools: &Tools, max: u64) -> Refusal {
    tools.series.checked("result", "refused");
    Refusal::ResultTooLarge { max }
}

enum Collected {
    Whole(Bytes),
    /// What came, and what is yet to come.
    TooLong(Bytes, Answer),
}

async fn collected(mut answer: Answer, max: usize) -> Result<Collected, Refusal> {
    let mut bytes = BytesMut::new();
    while let Some(frame) = answer.frame().await {
        let frame = frame.map_err(|broken| match broken {
            Broken::Upstream(why) => Refusal::UpstreamBroke(why),
            Broken::Idle(after) => Refusal::FellSilent { after },
        })?;
        let Some(data) = frame.data_ref() else { continue };
        bytes.extend_from_slice(data);
        if bytes.len() > max {
            return Ok(Collected::TooLong(bytes.freeze(), answer));
        }
    }
    Ok(Collected::Whole(bytes.freeze()))
}

/// The result in an answer, if others may be given it.
fn lasting(answer: &Bytes, bounds: Bounds) -> Option<Bytes> {
    let Ok(mcp::Body::One(Message::Response(response))) = mcp::parse(answer, bounds) else { return None };
    let Outcome::Result(result) = response.outcome else { return None };
    is_lasting(result).then(|| answer.slice(mcp::span(answer, result.get())))
}
