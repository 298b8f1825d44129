"""Whatever a client did and whatever happened meanwhile, in the end it holds what a new client would be told."""

import random

import pytest

from ads import Sidecar, Stream, sidecar
from objects import access, at_address, route
from rules import rule

STEPS = 40
LOOKS = 100  # each takes a round trip and more
TYPES = ("Server", "Endpoints", "Route")
SERVERS = [(namespace, f"s{number}") for namespace in "ab" for number in range(4)]
ROUTES = [("a", f"r{number}") for number in range(2)]


class Client:
    """Keeps what it is told as a sidecar would, and what it has subscribed to."""

    def __init__(self, of: Sidecar):
        self.sidecar = of
        self.stream: Stream = of.open()
        self.names: dict[str, set[str]] = {it: set() for it in TYPES}
        self.holds: dict[str, dict[str, str]] = {it: {} for it in TYPES}

    def subscribe(self, type_name: str, *names: str):
        self.names[type_name] |= set(names)
        self.stream.send(type_name, subscribe=names)

    def unsubscribe(self, type_name: str, *names: str):
        """With the wildcard the server says what becomes of the names; without it they are forgotten."""
        self.names[type_name] -= set(names)
        self.stream.send(type_name, unsubscribe=names)
        self.listen()
        if "*" not in self.names[type_name]:
            held = self.holds[type_name]
            self.holds[type_name] = {it: held[it] for it in held if it in self.names[type_name]}

    def listen(self):
        for message in self.stream.fence(*TYPES):
            held = self.holds[message.type]
            held.update({name: it.version for name, it in message.resources.items()})
            for name in message.removed:
                held.pop(name, None)

    def come_back(self):
        self.stream.close()
        self.stream = self.sidecar.open()
        for type_name, names in self.names.items():
            # Leaving the wildcard at once says "nothing" where there is nothing to subscribe to.
            held = self.holds[type_name]
            self.stream.send(
                type_name, subscribe=names or ["*"], unsubscribe=[] if names else ["*"], held=held
            )

    def difference_to_a_new_one(self) -> dict:
        """By type: what this client holds, and what a new one is told. Empty where they agree."""
        self.listen()
        new = Client(sidecar(self.sidecar.plane, "a", stances=_stances(self), identity=self.sidecar.identity))
        new.names = self.names
        new.come_back()
        new.listen()
        new.stream.close()
        assert all(new.holds[it].keys() <= self.names[it] for it in TYPES if "*" not in self.names[it])
        both = {it: (self.holds[it], new.holds[it]) for it in TYPES}
        return {it: (held, told) for it, (held, told) in both.items() if held != told}


def _stances(client: Client) -> list[str]:
    return list(client.sidecar.node.metadata["stances"])


def _change(draw: random.Random, operator):
    namespace, name = draw.choice(SERVERS)
    number = draw.randint(1, 250)
    match draw.randint(0, 5):
        case 0 | 1 | 2:
            of_it = {"call": f"{number}s", "address": f"10.7.0.{number}:7443"}
            operator.apply(at_address(namespace, name, **of_it))
        case 3:
            operator.delete_if_there(at_address(namespace, name))
        case 4:
            operator.apply(access("b", "p", [name], callers=draw.choice([["a"], ["b"], ["a", "b"]])))
        case 5:
            namespace, of = draw.choice([it for it in SERVERS if it[0] == "a"])
            operator.apply(route(*draw.choice(ROUTES), of=of, to=f"s{draw.randint(0, 3)}"))


def _act(draw: random.Random, client: Client):
    type_name = draw.choice(TYPES)
    known = [
        *(f"{namespace}/{name}" for namespace, name in (ROUTES if type_name == "Route" else SERVERS)),
        "*",
    ]
    match draw.randint(0, 6):
        case 0 | 1:
            client.subscribe(type_name, *draw.sample(known, 2))
        case 2 | 3:
            subscribed = sorted(client.names[type_name])
            client.unsubscribe(type_name, *draw.sample(subscribed, min(2, len(subscribed))))
        case 4 | 5:
            client.listen()
        case 6:
            client.come_back()


@rule(11)
@pytest.mark.parametrize("stance", ["inbound", "outbound"])
@pytest.mark.parametrize("seed", range(4))
def test_a_client_converges_on_what_a_new_one_is_told(plane, seed, stance):
    draw = random.Random(seed)
    client = Client(sidecar(plane, "a", stances=[stance]))
    for type_name in TYPES:
        client.subscribe(type_name, "*")
    for _ in range(STEPS):
        _change(draw, plane.operator)
        _act(draw, client)
    differences = [client.difference_to_a_new_one()]
    while differences[-1] and len(differences) < LOOKS:
        differences.append(client.difference_to_a_new_one())
    assert not differences[-1]
