"""The README's section on one address for all servers, word by word, and what it promises of servers that end and come back
while agents call."""

import pytest

from agents import talk
from callers import Callers
from conftest import HTTP
from processes import eventually
from readme import Stranger
from up import SECS_MAX, Up

SECTION = "One address for all of them"


@pytest.fixture(autouse=True)
def with_sidecars(request):
    if request.config.getoption("--direct"):
        pytest.skip("without sidecars there is no such address")


def test_a_stranger_who_follows_the_readme_comes_to_what_it_says(tmp_path):
    stranger = Stranger(tmp_path / "mesh")
    try:
        stranger.follow(SECTION)
    finally:
        stranger.close()


# Of both eras, over both transports, on both SDKs.
SERVERS = {"command": "python-stdio", "legacy": "typescript-legacy", "modern": "python", "old-command": "typescript-legacy-stdio"}
# What calls of a server are told that is gone, or going.
REASONS = {"upstream_unreachable", "upstream_broke", "child_exited", "child_busy", "no_instance"}


@pytest.fixture(scope="module")
def up(tmp_path_factory):
    it = Up(tmp_path_factory.mktemp("tour"), SERVERS)
    try:
        it.known()
        eventually(lambda: all(f"{name}_echo" in tools(it) for name in SERVERS), SECS_MAX)
        yield it
    finally:
        it.close()


def tools(up: Up) -> list[str]:
    return talk("python-auto", up.all, ("tools",)).answers[0]


@pytest.mark.parametrize("victim", SERVERS)
def test_a_server_that_is_killed_fails_its_own_calls_only_and_serves_again_when_it_is_back(up, victim):
    others = [name for name in SERVERS if name != victim]
    many = 10
    with Callers(up.all, SERVERS) as callers:

        def until(holds):
            def look():
                callers.check()
                return holds()

            eventually(look, SECS_MAX)

        def well(name: str, mark: dict) -> bool:
            return all(came[-many:] == [None] * many for came in callers.since(mark, name))

        for _ in range(2):
            until(lambda: all(well(name, {}) for name in SERVERS))
            mark, before = callers.mark(), up.pid(victim)
            up.kill(victim)
            if SERVERS[victim] in HTTP:
                # Each of them has heard several times that it is away, and goes on asking.
                away = lambda: all(len([it for it in came if it]) >= many for came in callers.since(mark, victim))  # noqa: E731
                until(away)
                up.start(victim, up.port(victim))
            # A command is started again by its sidecar.
            until(lambda: up.pid(victim) not in (None, before))
            until(lambda: all(well(name, mark) for name in SERVERS))
            failed = {it for came in callers.since(mark, victim) for it in came if it}
            assert failed <= REASONS, failed
            for name in others:
                assert all(set(came) == {None} for came in callers.since(mark, name)), name
        assert len(callers.lists) == 1, callers.lists
