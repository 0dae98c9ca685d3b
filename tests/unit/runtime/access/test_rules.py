"""Who a caller is and what it may do, as pure functions; and that every method has a rule."""

from __future__ import annotations

import importlib
import pkgutil

import pytest
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2
from hypothesis import given
from hypothesis import strategies as st

import edgeqwen.v1
from runtime.access.caller import EVERY_ROLE, Caller
from runtime.access.methods import NEEDS
from runtime.access.rules import NOBODY, USUAL_ROLES, Evidence, Rules
from runtime.access.seldom import Seldom
from runtime.access.tokens import Tokens, digest_of, is_digest, make_token, token_in
from runtime.errors import PermissionDenied, Unauthenticated

GENERATE = "/edgeqwen.v1.Generation/Generate"
SNAPSHOT = "/edgeqwen.v1.Telemetry/GetSnapshot"
HEALTH = "/grpc.health.v1.Health/Check"
REFLECTION = "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo"


def test_every_method_of_the_contract_has_a_rule() -> None:
    """And every rule is of a method that there is: a table that has outlived its methods is no table."""
    modules = [
        importlib.import_module(f"edgeqwen.v1.{found.name}") for found in pkgutil.iter_modules(edgeqwen.v1.__path__)
    ]
    files = [module.DESCRIPTOR for module in modules if module.__name__.endswith("_pb2")]
    files += [health_pb2.DESCRIPTOR, reflection_pb2.DESCRIPTOR]
    methods = {
        f"/{service.full_name}/{method.name}"
        for file in files
        for service in file.services_by_name.values()
        for method in service.methods
    }
    assert methods <= set(NEEDS)
    ours = {method for method in NEEDS if method.startswith("/edgeqwen.")}
    assert ours <= methods


def test_what_others_need_not_be_known_for_is_health() -> None:
    """Nothing else answers whoever asks."""
    assert {method for method, need in NEEDS.items() if need == "anyone"} == {
        *(f"/grpc.health.v1.Health/{name}" for name in ("Check", "List", "Watch")),
        *(f"/inference.GRPCInferenceService/{name}" for name in ("ServerLive", "ServerReady")),
    }


def test_who_has_which_roles_by_default() -> None:
    """Root and the daemon's own user every one, others of the socket's group all but admin, as those over TCP."""
    rules = Rules({}, {}, 77)
    for uid in (0, 77):
        assert rules.identify(Evidence(uid=uid)) == Caller(f"uid:{uid}", EVERY_ROLE)
    for evidence in (
        Evidence(uid=1000),
        Evidence(certificate="pump", address="10.0.0.1", encrypted=True),
        Evidence(address="127.0.0.1"),
    ):
        assert rules.identify(evidence).roles == USUAL_ROLES


def test_roles_go_to_the_identity_that_is_listed() -> None:
    """By its own name before that of its kind; what is said of all users says nothing of root, unless it is named."""
    clients = {
        "uid:*": frozenset[str](),
        "uid:1000": frozenset({"observe"}),
        "certificate:*": frozenset({"observe"}),
        "certificate:boss": EVERY_ROLE,
    }
    rules = Rules({}, clients, 77)  # type: ignore[arg-type]
    assert rules.identify(Evidence(uid=1000)).roles == {"observe"}
    assert rules.identify(Evidence(uid=1001)).roles == set()
    assert rules.identify(Evidence(uid=0)).roles == EVERY_ROLE
    assert rules.identify(Evidence(certificate="boss", encrypted=True, address="x")).roles == EVERY_ROLE
    assert rules.identify(Evidence(certificate="1000", encrypted=True, address="x")).roles == {"observe"}
    assert Rules({}, {"uid:0": frozenset()}, 77).identify(Evidence(uid=0)).roles == set()


def test_what_a_method_needs_decides() -> None:
    """A role; any identity; or none. A method without a rule is for nobody."""
    rules = Rules({}, {"uid:5": frozenset({"observe"}), "uid:6": frozenset()}, 77)
    observer, idle, unknown = Evidence(uid=5), Evidence(uid=6), Evidence()
    assert rules.admit(SNAPSHOT, observer).name == "uid:5"
    with pytest.raises(PermissionDenied, match="uid:5 may not do this, which needs the role generate: its operator"):
        rules.admit(GENERATE, observer)
    with pytest.raises(Unauthenticated):
        rules.admit(GENERATE, unknown)
    assert rules.admit(REFLECTION, idle).name == "uid:6"
    with pytest.raises(Unauthenticated):
        rules.admit(REFLECTION, unknown)
    assert rules.admit(HEALTH, idle).name == "uid:6"
    assert rules.admit(HEALTH, unknown) == NOBODY
    with pytest.raises(PermissionDenied) as denied:
        rules.admit("/edgeqwen.v1.Generation/generate", Evidence(uid=0))
    assert denied.value.role is None


@given(
    uid=st.none() | st.just(1000),
    certificate=st.none() | st.just("pump"),
    address=st.none() | st.just("10.0.0.1"),
    encrypted=st.booleans(),
    token=st.sampled_from(["none", "right", "wrong", "twice"]),
    tokens=st.booleans(),
)
def test_an_identity_rests_on_evidence(
    uid: int | None, certificate: str | None, address: str | None, encrypted: bool, token: str, tokens: bool
) -> None:
    """Whatever comes together: who was not told apart is refused, and a wrong token over TCP never gets in."""
    sent = {"none": [], "right": [f"Bearer {TOKEN}"], "wrong": ["Bearer x"], "twice": [f"Bearer {TOKEN}"] * 2}[token]
    rules = Rules({"pump": digest_of(TOKEN)} if tokens else {}, {}, 77)
    evidence = Evidence(uid, certificate, address, encrypted, sent)
    try:
        name = rules.identify(evidence).name
    except Unauthenticated:
        assert uid is None
        return
    if name.startswith("uid:"):
        assert uid is not None
    elif name.startswith("token:"):
        assert (uid, tokens, token) == (None, True, "right")
    elif name.startswith("certificate:"):
        assert (uid, certificate) == (None, "pump")
        assert token == "none" or not (tokens or encrypted)
    else:
        assert (uid, certificate, encrypted, tokens) == (None, None, False, False)
        assert address is not None


# Tokens

TOKEN = make_token()


def test_a_token_is_found_by_its_digest_alone() -> None:
    """Its case counts, and so does every character."""
    tokens = Tokens({"a": digest_of(make_token()), "pump": digest_of(TOKEN), "b": digest_of(make_token())})
    assert tokens.name_of(TOKEN) == "pump"
    for wrong in (TOKEN.lower(), TOKEN.upper(), TOKEN[:-1], TOKEN + "A", "", digest_of(TOKEN)):
        assert tokens.name_of(wrong) is None
    assert not Tokens({})


def test_tokens_differ_and_are_long() -> None:
    """256 random bits, in characters that a header may have."""
    made = {make_token() for _ in range(100)}
    assert len(made) == 100
    for token in made:
        assert len(token) == len("eqt_") + 43
        assert token_in(f"Bearer {token}") == token
        assert is_digest(digest_of(token))
        assert not is_digest(token)


@pytest.mark.parametrize("header", ["", "Bearer", "Bearer ", "Basic x", "x", "Bearer a b", "Bearer\ta", "Bearer é"])
def test_other_headers_have_no_token(header: str) -> None:
    assert token_in(header) is None


@given(st.text())
def test_whatever_a_header_is_it_is_read(header: str) -> None:
    """No text raises anything."""
    token_in(header)


# Seldom


def test_what_happens_often_is_said_seldom() -> None:
    """So many times in a window; the next window's first says how many there were beside."""
    now_s = 0.0
    seldom = Seldom(most=2, window_s=60, clock=lambda: now_s)
    assert [seldom.passes() for _ in range(5)] == [0, 0, None, None, None]
    now_s = 60.0
    assert [seldom.passes() for _ in range(3)] == [3, 0, None]
    now_s = 600.0
    assert seldom.passes() == 1
    now_s = 700.0
    assert seldom.passes() == 0
