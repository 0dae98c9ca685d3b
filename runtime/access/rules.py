"""Who a caller is, from what its connection and its call show, and what it may do. Pure: no I/O, and gRPC is not known.

An identity has a kind, so that a certificate that says `0` is not root:

    uid:1000                          the user of a unix socket's other end, as the kernel says it
    certificate:spiffe://fleet/pump   a TLS client certificate
    token:gateway                     a bearer token, by its name in the configuration
    address:127.0.0.1                 a plaintext connection without a token
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ..errors import PermissionDenied, Unauthenticated
from .caller import EVERY_ROLE, Caller, Role
from .methods import NEEDS, Need
from .tokens import Tokens, token_in

USUAL_ROLES: frozenset[Role] = frozenset({"generate", "observe"})
NOBODY = Caller("nobody", frozenset())


@dataclass(frozen=True)
class Evidence:
    """What shows who calls.

    Args:
        uid: of a unix socket's other end; None for other connections.
        certificate: the name in a client certificate that was verified.
        address: the other end's IP address; None for unix sockets.
        encrypted: whether the connection is TLS.
        authorization: every `authorization` header of the call.
    """

    uid: int | None = None
    certificate: str | None = None
    address: str | None = None
    encrypted: bool = False
    authorization: Sequence[str] = ()


class Rules:
    """Decides.

    Args:
        tokens: digests of the bearer tokens that count, by name.
        clients: roles by identity, `kind:*` for all others of a kind. Who is not listed has `USUAL_ROLES`; root and
            this daemon's own user have every role unless they are listed by name.
        own_uid: the user that the daemon runs as.
        needs: what each method asks for.
    """

    def __init__(
        self,
        tokens: Mapping[str, str],
        clients: Mapping[str, frozenset[Role]],
        own_uid: int,
        needs: Mapping[str, Need] = NEEDS,
    ) -> None:
        self._tokens = Tokens(tokens)
        self._clients = dict(clients)
        for uid in (0, own_uid):
            self._clients.setdefault(f"uid:{uid}", EVERY_ROLE)
        self._needs = needs

    def admit(self, method: str, evidence: Evidence) -> Caller:
        """Who calls `method`, such as `/edgeqwen.v1.Generation/Generate`.

        Raises Unauthenticated or PermissionDenied.
        """
        need = self._needs.get(method)
        if need == "anyone":
            try:
                return self.identify(evidence)
            except Unauthenticated:
                return NOBODY
        caller = self.identify(evidence)
        if need is None:
            raise PermissionDenied(caller.name, None)
        if need != "any caller" and need not in caller.roles:
            raise PermissionDenied(caller.name, need)
        return caller

    def identify(self, evidence: Evidence) -> Caller:
        """Who that is. A token that is sent where tokens count must be right, whatever else there is.

        Raises Unauthenticated.
        """
        if evidence.uid is not None:
            return self._caller("uid", str(evidence.uid))
        if evidence.authorization and (self._tokens or evidence.encrypted):
            return self._caller("token", self._token(evidence.authorization))
        if evidence.certificate is not None:
            return self._caller("certificate", evidence.certificate)
        if evidence.address is None or evidence.encrypted or self._tokens:
            raise Unauthenticated
        return self._caller("address", evidence.address)

    def _token(self, headers: Sequence[str]) -> str:
        token = token_in(headers[0]) if len(headers) == 1 else None
        name = self._tokens.name_of(token) if token is not None else None
        if name is None:
            raise Unauthenticated
        return name

    def _caller(self, kind: str, name: str) -> Caller:
        identity = f"{kind}:{name}"
        roles = self._clients.get(identity)
        if roles is None:
            roles = self._clients.get(f"{kind}:*", USUAL_ROLES)
        return Caller(identity, roles)
