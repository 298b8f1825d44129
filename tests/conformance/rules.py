"""The rules of delta ADS that a server keeps, numbered, in a sentence each.

They are Envoy's (`xds_protocol.rst`, `discovery.proto`), and where those leave a choice, what Weft promises. A test
says with `@rule(n)` which of them it holds the server to; `test_rules.py` sees that none is left out.
"""

import pytest

RULES = {
    1: "Every type on the stream has its own nonces and subscriptions; a client has one stream.",
    2: "The first request names the node, and it is checked; later copies do not change who the client is.",
    3: "A request may be the first, an ACK, a NACK or spontaneous; subscriptions may ride on any of them.",
    4: "A NACK is a request with an error detail, and nothing else is.",
    5: "A nonce only matches an answer to a response; subscriptions are applied even when it is stale.",
    6: "Names that are subscribed to are answered, even if the client should have them already.",
    7: "A name that does not exist is removed at once, stays subscribed, and is sent when it appears.",
    8: "An unsubscription needs no answer, except for a client that also holds the wildcard.",
    9: "The wildcard is `*`, or a first request that names nothing; without `*` the explicit names stay.",
    10: "Subscribing to `*` and leaving it in one message is a subscription to nothing.",
    11: "No state outlives a stream; a client that returns says what it holds and gets the difference.",
    12: "Versions belong to resources and come from their content, so that any replica knows them.",
    13: "What a client rejected or does not hold is sent again when it returns.",
    14: "No response carries a name twice.",
    15: "A time to live is sent only to clients that say they understand it.",
    16: "A resource may be asked for by an alias; the answer has its name and lists its aliases.",
    17: "Nothing is sent when nothing changed.",
    18: "A name that cannot be had is answered with the reason.",
    19: "Requests and responses have limits, and a large first answer comes in pieces.",
}


def rule(number: int) -> pytest.MarkDecorator:
    assert number in RULES, f"there is no rule {number}"
    return pytest.mark.rule(number)
