"""Packages as a build host makes them: built, signed, and pushed to the registry of the site."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import dataclass
from pathlib import Path

from certificates import Authority
from fleet.site import Board, Site
from tiny import make_tiny

REPO = Path(__file__).parents[2]
_REGISTRY = """\
version: 0.1
storage: {{filesystem: {{rootdirectory: /var/lib/docker-registry}}}}
http: {{addr: "{address}:5000", tls: {{certificate: /etc/docker/registry/tls.pem, key: /etc/docker/registry/tls.key}}}}
"""


def make_registry(site: Site, authority: Authority, number: int) -> Board:
    """A board that serves packages over TLS, off."""
    address = site.address(number)
    pair = authority.issue("registry", hosts=(address,))
    files = {
        "etc/docker/registry/config.yml": _REGISTRY.format(address=address),
        "etc/docker/registry/tls.pem": pair.certificate.read_text(),
        "etc/docker/registry/tls.key": pair.key.read_text(),
    }
    return site.board("registry", number, files)


@dataclass(frozen=True)
class Publisher:
    """Builds a tiny model into packages of one name, which differ in their version.

    Args:
        registry: HOST[:PORT] on the site, vouched for by `ca`.
        key: what it signs with.
    """

    site: Site
    folder: Path
    cache: Path
    registry: str
    ca: Path
    key: Path

    @property
    def public_key(self) -> Path:
        """What boards trust."""
        return self.key.with_suffix(".pem")

    def publish(self, version: str, *, width: int = 128, key: Path | None = None, spoil: bool = False) -> str:
        """The reference of a new package of that version.

        Args:
            width: of the model; another one has other weights.
            key: another one to sign with.
            spoil: whether the package tells of the model what it does not say, so that its canary fails.
        """
        package = self._build(version, width)
        if spoil:
            _tell_something_else(package)
        self._run("sign", package, "--key", key or self.key)
        reference = f"oci://{self.registry}/tiny:{version}"
        self._run("push", package, reference, "--ca-file", self.ca)
        return reference

    def new_key(self, name: str) -> Path:
        """A key that no board trusts yet; the public one is beside it, NAME.pem."""
        self._run("keygen", self.folder / name)
        return self.folder / f"{name}.key"

    def _build(self, version: str, width: int) -> Path:
        source = self.folder / f"width-{width}" / "tiny"
        if not source.is_dir():
            make_tiny(source, "qwen2", intermediate_size=width)
        out = self.folder / version
        profile = f"generic-{os.uname().machine}"
        how = ("--profile", profile, "--precision", "float32", "--package-version", version, "--cache", self.cache)
        self._run("build", source, *how, "-o", out)
        [package] = out.glob("*.ortpackage")
        return package

    def _run(self, *arguments: str | Path) -> None:
        environment = os.environ | {"PYTHONPATH": f"{REPO}:{REPO / 'protos'}"}
        done = self.site.run(sys.executable, "-m", "toolchain.cli", *arguments, env=environment)
        assert done.returncode == 0, f"{arguments}\n{done.stdout}{done.stderr}"


def _tell_something_else(package: Path) -> None:
    """Its golden answer is another one, as if the wrong weights had been packed."""
    for file in package.glob("models/decoder/*/build.json"):
        build = json.loads(file.read_text())
        build["golden"]["greedy_ids"] = [(token + 1) % 256 for token in build["golden"]["greedy_ids"]]
        file.write_text(json.dumps(build))
