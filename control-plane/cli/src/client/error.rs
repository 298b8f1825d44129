//! Why a request came to nothing, and what each reason means to an operator.

use std::io;
use std::time::Duration;

use hyper::StatusCode;

use super::connect::chain;
use super::problem::Problem;
use crate::failure::Failure;

/// What the control plane calls a change that lost against others again and again.
const CONTENDED: &str = "contended";

/// Why a request came to nothing.
#[derive(Debug)]
pub(crate) enum Error {
    /// Nobody listens there, or there is no such host.
    Unreachable {
        server: String,
        source: io::Error,
    },
    /// Somebody listens, but does not prove to be the control plane.
    Untrusted {
        server: String,
        host: String,
        source: io::Error,
    },
    Slow {
        server: String,
        what: &'static str,
        after: Duration,
    },
    /// The connection ended before the answer did.
    Broken(String),
    /// The control plane said no.
    Refused(Box<Problem>),
    /// The answer is not what this version of the command understands.
    Strange(String),
    /// The token cannot even be sent.
    Token(&'static str),
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        match error {
            Error::Unreachable { server, source } => unreachable(&server, &source),
            Error::Untrusted { server, host, source } => untrusted(&server, &host, &source),
            Error::Slow { server, what, after } => {
                Self::unreachable(format!("the control plane at {server} gave no {} in time", bare(what)))
                    .because(format!("waited {} s for {what}", after.as_secs_f32()))
                    .then("see whether it is overloaded or cut off, or wait longer with --timeout 2m")
            }
            Error::Broken(why) => Self::unreachable("the connection ended before the answer did")
                .because(why)
                .then("repeat the command; `weft history` shows whether a change was made"),
            Error::Refused(problem) => refused(*problem),
            Error::Strange(why) => Self::failed("the control plane's answer could not be understood")
                .because(why)
                .then("compare the versions of both sides with `weft version`"),
            Error::Token(why) => Self::usage("the token cannot be used")
                .because(why)
                .then("give it as it was shown, without quotes and line breaks"),
        }
    }
}

fn bare(what: &str) -> &str {
    what.split_once(' ').map_or(what, |(_, noun)| noun)
}

fn unreachable(server: &str, source: &io::Error) -> Failure {
    let failure =
        Failure::unreachable(format!("cannot reach the control plane at {server}")).because(chain(source));
    match source.kind() {
        io::ErrorKind::ConnectionRefused => failure.then(
            "is the control plane running? start one with `weft up`, or name another with --server or --home",
        ),
        _ => failure.then("check the address in operator.json or --server, and the network between"),
    }
}

fn untrusted(server: &str, host: &str, source: &io::Error) -> Failure {
    use rustls::{CertificateError as Bad, Error as Tls};
    let failure = |what: String| Failure::unreachable(what).because(chain(source));
    let tls = source.get_ref().and_then(|error| error.downcast_ref::<Tls>());
    match tls {
        Some(Tls::InvalidCertificate(Bad::NotValidForName | Bad::NotValidForNameContext { .. })) => failure(
            format!("the certificate of {server} is not for {host}"),
        )
        .then("use a name that is in the certificate, or add it with `weft control-plane --public-host`"),
        Some(Tls::InvalidCertificate(Bad::Expired | Bad::ExpiredContext { .. })) => {
            failure(format!("the certificate of {server} has expired"))
                .then("compare the clocks of both sides; a running control plane renews its own certificate")
        }
        Some(Tls::InvalidCertificate(_)) => failure(format!(
            "{server} does not prove to be the control plane"
        ))
        .then("its certificate does not lead to the CA file: use the operator.json of this control plane"),
        Some(Tls::InvalidMessage(_)) => failure(format!("{server} does not speak TLS"))
            .then("is this the operators' port? it is 7501 unless configured otherwise"),
        _ => failure(format!("no secure connection to {server} could be made"))
            .then("is this the operators' port, 7501 unless configured otherwise? is something in between?"),
    }
}

fn refused(problem: Problem) -> Failure {
    let status = problem.status;
    let next = next(&problem);
    let mut what = problem.headline();
    if let Some(id) = &problem.request_id {
        what.push_str(&format!(" [request {id}]"));
    }
    let places = problem.errors.iter().map(ToString::to_string).collect();
    let failure = match status {
        _ if problem.code == CONTENDED => Failure::refused(what),
        // It is a sidecar that was not reached; the control plane was.
        _ if problem.code.starts_with("sidecar-") => Failure::failed(what),
        StatusCode::UNAUTHORIZED
        | StatusCode::FORBIDDEN
        | StatusCode::CONFLICT
        | StatusCode::PRECONDITION_FAILED
        | StatusCode::TOO_MANY_REQUESTS => Failure::refused(what),
        StatusCode::BAD_GATEWAY | StatusCode::SERVICE_UNAVAILABLE | StatusCode::GATEWAY_TIMEOUT => {
            Failure::unreachable(what)
        }
        _ => Failure::failed(what),
    };
    match next {
        Some(next) => failure.at(places).then(next),
        None => failure.at(places),
    }
}

fn next(problem: &Problem) -> Option<String> {
    let text = match problem.status {
        StatusCode::UNAUTHORIZED => {
            "the token is unknown, expired or revoked: use the operator.json that `weft up` \
            wrote, or ask an admin for a key (`weft key create`)"
        }
        StatusCode::FORBIDDEN => "ask an admin for a key with a wider scope (`weft key create --scope …`)",
        _ if problem.code == "rotation-refused" => "see where the rotation stands with `weft trust rotate`",
        _ if problem.code == "name-taken" => {
            "choose another name; `weft key list` shows those that are taken"
        }
        _ if problem.code == "last-admin-key" => {
            "make another admin key first: `weft key create <name> --scope admin`"
        }
        StatusCode::CONFLICT | StatusCode::PRECONDITION_FAILED => {
            "look at what is there now (`weft get`, `weft diff`, `weft history`), then repeat"
        }
        StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE => {
            let after = problem.retry_after.as_deref().map(|secs| format!("repeat in {secs} s"));
            return Some(after.unwrap_or_else(|| "repeat in a moment".to_owned()));
        }
        _ if !problem.errors.is_empty() => "mend the places named above, and repeat",
        status if status.is_server_error() => "look for the request in the control plane's log",
        _ => return None,
    };
    Some(text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::failure::{ExitCode, Told};

    fn told(error: Error) -> Told {
        match Failure::from(error) {
            Failure::Told(told) => *told,
            Failure::ReaderGone => panic!("no reader is involved"),
        }
    }

    fn problem(status: u16) -> Error {
        let status = StatusCode::from_u16(status).unwrap();
        Error::Refused(Box::new(Problem::read(status, br#"{"code":"some-code","detail":"the detail"}"#)))
    }

    #[test]
    fn each_answer_of_the_control_plane_has_its_exit_code() {
        let check = |status, expected| assert_eq!(told(problem(status)).code, expected, "{status}");
        check(400, ExitCode::Failed);
        check(401, ExitCode::Refused);
        check(403, ExitCode::Refused);
        check(404, ExitCode::Failed);
        check(409, ExitCode::Refused);
        check(412, ExitCode::Refused);
        check(422, ExitCode::Failed);
        check(429, ExitCode::Refused);
        check(500, ExitCode::Failed);
        check(503, ExitCode::Unreachable);
    }

    #[test]
    fn a_refused_connection_asks_whether_the_control_plane_runs() {
        let source = io::Error::from(io::ErrorKind::ConnectionRefused);
        let told = told(Error::Unreachable { server: "https://h:1".to_owned(), source });
        assert_eq!(told.code, ExitCode::Unreachable);
        let text = told.to_string();
        for part in ["cannot reach the control plane at https://h:1", "why: connection refused", "`weft up`"]
        {
            assert!(text.contains(part), "{text}");
        }
    }

    #[test]
    fn failed_trust_says_which_part_of_it_failed() {
        let check = |error: rustls::Error, expected: &str| {
            let source = io::Error::new(io::ErrorKind::InvalidData, error);
            let (server, host) = ("https://h:1".to_owned(), "h".to_owned());
            let text = told(Error::Untrusted { server, host, source }).to_string();
            assert!(text.contains(expected), "{text}");
        };
        let bad = rustls::Error::InvalidCertificate;
        check(bad(rustls::CertificateError::NotValidForName), "is not for h");
        check(bad(rustls::CertificateError::Expired), "has expired");
        check(bad(rustls::CertificateError::UnknownIssuer), "does not lead to the CA file");
        check(
            rustls::Error::InvalidMessage(rustls::InvalidMessage::InvalidContentType),
            "does not speak TLS",
        );
    }

    #[test]
    fn a_problem_is_shown_with_code_detail_and_places() {
        let body = br#"{"title":"Bad","status":422,"code":"invalid-resource","detail":"1 mistake",
            "errors":[{"file":"a.yaml","line":6,"column":3,"field":"spec.x","message":"unknown field"},
                      {"line":0,"column":0,"field":"","message":"too many"}]}"#;
        let problem = Problem::read(StatusCode::UNPROCESSABLE_ENTITY, body);
        let problem = Problem { request_id: Some("r1".to_owned()), ..problem };
        assert_eq!(
            told(Error::Refused(Box::new(problem))).to_string(),
            "1 mistake (invalid-resource) [request r1]\n  a.yaml:6:3: spec.x: unknown field\n  too many\n  next: \
             mend the places named above, and repeat"
        );
    }
}
