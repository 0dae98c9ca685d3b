"""Packages through a real registry: TLS, passwords, proxies, broken wires, other tools, and memory that stays small."""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import oras.client
import pytest
from certificates import Authority
from registries import HTPASSWD, PASSWORD, USER, Registry, breaking, registry, tinyproxy
from unit.runtime.oci.remotes import files_of, package_with

pytestmark = pytest.mark.slow

TIMEOUT_S = 120
MEGABYTE = 1 << 20


def weights(megabytes: int, seed: int = 1) -> bytes:
    return random.Random(seed).randbytes(megabytes * MEGABYTE)


def two_variants(root: Path, content: bytes) -> Path:
    """Over the same weights."""
    files = {f"models/decoder/{name}/model.onnx.data": content for name in "ab"}
    shared = {"configs/config.json": b"{ }", "configs/empty.json": b"", "signatures/a.sig": b"of a"}
    return package_with(root, files | shared, "a", "b")


def run(program: str, *arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    """The command as it is installed, without this machine's settings; its last line is how much memory it took."""
    return subprocess.run(
        _command(program, *arguments),
        env=_environment(**environment),
        capture_output=True,
        text=True,
        check=False,
        timeout=TIMEOUT_S,
    )


_MAIN = """
import sys
try:
    if sys.argv[1] == "edgeqwen":
        from runtime.oci.command import pull
        pull(sys.argv[3:], prog_name="edgeqwen pull")
    else:
        from toolchain.cli import main
        main(sys.argv[2:], prog_name="edgeqwen-compile")
finally:
    peak = next(line for line in open("/proc/self/status") if line.startswith("VmHWM"))
    print(peak.split()[1], file=sys.stderr)
"""


def _command(program: str, *arguments: object) -> list[str]:
    return [sys.executable, "-c", _MAIN, program, *map(str, arguments)]


def _environment(**more: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}
    return kept | {"HOME": "/nowhere", "EDGEQWEN_REGISTRIES": "/dev/null"} | more


def pulled(*arguments: object, **environment: str) -> dict[str, Any]:
    """What `edgeqwen pull --json` says."""
    done = run("edgeqwen", "pull", *arguments, "--json", **environment)
    assert done.returncode == 0, done.stderr
    said: dict[str, Any] = json.loads(done.stdout)
    return said


def pushed(*arguments: object, **environment: str) -> dict[str, Any]:
    """What `edgeqwen-compile push --json` says."""
    done = run("edgeqwen-compile", "push", *arguments, "--json", **environment)
    assert done.returncode == 0, done.stderr
    said: dict[str, Any] = json.loads(done.stdout)
    return said


def downloads(found: Registry) -> list[str]:
    """Digests of the blobs that were asked for, in hex."""
    return [path.rpartition(":")[2] for method, path, _ in found.requests() if method == "GET" and "/blobs/" in path]


def test_a_package_goes_through_a_registry_with_tls_and_passwords(tmp_path: Path) -> None:
    """Shared weights go there once; a device takes its own variant; twice is the same as once."""
    package = two_variants(tmp_path / "p", weights(2))
    authority = Authority(tmp_path)
    (tmp_path / "password").write_text(f"{PASSWORD}\n")
    known = ("--username", USER, "--password-file", tmp_path / "password")
    safe = ("--no-plain-http", "--ca-file", authority.file)
    with registry(tmp_path / "registry", tls=authority.server(), htpasswd=HTPASSWD) as found:
        reference = f"oci://{found.host}/edge/qwen:1.0.0"
        first = pushed(package, reference, *known, *safe)
        assert first["changed"]
        assert first["sent_bytes"] == sum({hash(c): len(c) for c in files_of(package).values()}.values())
        uploads = [path for method, path, status in found.requests() if method == "PUT" and status == 201]
        distinct = {hashlib.sha256(content).digest() for content in files_of(package).values()}
        assert len(uploads) == len(distinct | {hashlib.sha256(b"{}").digest()}) + 3
        again = pushed(package, reference, *known, *safe)
        assert (again["changed"], again["digest"]) == (False, first["digest"])

        said = pulled(first["reference"], "--variant", "b", "-o", tmp_path / "out", *known, *safe)
        assert said["changed"]
        expected = {path: content for path, content in files_of(package).items() if "/a" not in path}
        assert files_of(tmp_path / "out/tiny.ortpackage") == expected
        wanted = {hashlib.sha256(content).hexdigest() for content in expected.values() if content}
        assert sorted(downloads(found)) == sorted(wanted)
        before = len(downloads(found))
        again = pulled(first["reference"], "--variant", "b", "-o", tmp_path / "out", *known, *safe)
        assert (again["changed"], len(downloads(found))) == (False, before)

        environment = {"EDGEQWEN_REGISTRY_USERNAME": USER, "EDGEQWEN_REGISTRY_PASSWORD": PASSWORD}
        assert pulled(reference, "--variant", "a", "-o", tmp_path / "other", *safe, **environment)["changed"]
        for refused, status in ((("--username", USER), 2), ((), 77), (("--ca-file", "/dev/null"), 1)):
            flags = [*(known if status == 1 else ()), "--no-plain-http", *refused]
            authorities = () if status == 1 else ("--ca-file", authority.file)
            done = run("edgeqwen", "pull", reference, "--variant", "a", "-o", tmp_path / "no", *flags, *authorities)
            assert done.returncode == status, done.stderr
        assert not (tmp_path / "no").exists()


def test_memory_stays_small_whatever_a_file_is(tmp_path: Path) -> None:
    """300 MB are pushed and pulled in what next to nothing takes, and a few MB; pushed in pieces, too."""
    small, large = package_with(tmp_path / "small", {}), two_variants(tmp_path / "large", b"")
    for name in "ab":
        _grow(large, name, weights(30), times=10)
    with registry(tmp_path / "registry") as found:
        peaks = {}
        for name, package in (("small", small), ("large", large)):
            reference = f"oci://{found.host}/{name}:1"
            push = run("edgeqwen-compile", "push", package, reference, "--chunk-size", "64M")
            variant = "board" if name == "small" else "a"
            pull = run("edgeqwen", "pull", reference, "--variant", variant, "-o", tmp_path / f"out-{name}")
            assert (push.returncode, pull.returncode) == (0, 0), push.stderr + pull.stderr
            peaks[name] = [int(done.stderr.split()[-1]) >> 10 for done in (push, pull)]
        assert sum(method == "PATCH" for method, _, _ in found.requests()) == 300 // 64
    assert all(large <= small + 24 for small, large in zip(peaks["small"], peaks["large"], strict=True)), peaks


def _grow(package: Path, variant: str, block: bytes, times: int) -> None:
    """Makes the weights of a variant as large as that."""
    name = f"models/decoder/{variant}/model.onnx.data"
    digest = hashlib.sha256()
    with (package / name).open("wb") as file:
        for _ in range(times):
            file.write(block)
            digest.update(block)
    path = package / "models/decoder" / variant / "build.json"
    build = json.loads(path.read_text())
    build["files"][name] = {"sha256": digest.hexdigest(), "size_bytes": len(block) * times}
    path.write_text(json.dumps(build))


def test_a_wire_that_breaks_again_and_again_brings_all(tmp_path: Path) -> None:
    """And every byte once."""
    package = two_variants(tmp_path / "p", weights(6))
    with registry(tmp_path / "registry") as found, breaking(found.host, down_bytes=2 * MEGABYTE) as wire:
        pushed(package, f"oci://{found.host}/edge:1")
        said = pulled(f"oci://{wire}/edge:1", "--variant", "a", "-o", tmp_path / "out")
        statuses = [status for method, path, status in found.requests() if method == "GET" and "/blobs/" in path]
    assert 206 in statuses
    content = files_of(tmp_path / "out/tiny.ortpackage")
    assert content == {path: content for path, content in files_of(package).items() if "/b/" not in path}
    assert said["fetched_bytes"] == sum({hash(each): len(each) for each in content.values()}.values())


def test_an_upload_over_a_wire_that_breaks_arrives(tmp_path: Path) -> None:
    """Debian's registry forgets what it had of a blob: it is sent once more."""
    package = two_variants(tmp_path / "p", weights(6))
    with registry(tmp_path / "registry") as found, breaking(found.host, up_bytes=2 * MEGABYTE) as wire:
        pushed(package, f"oci://{wire}/edge:1")
        pulled(f"oci://{found.host}/edge:1", "--variant", "a", "-o", tmp_path / "out")


def test_a_pull_that_is_killed_goes_on(tmp_path: Path) -> None:
    """From what it had; nobody sees half a package meanwhile."""
    package = two_variants(tmp_path / "p", weights(4))
    with registry(tmp_path / "registry") as found:
        pushed(package, f"oci://{found.host}/edge:1")
        arguments = ("pull", f"oci://{found.host}/edge:1", "--variant", "a", "-o", tmp_path / "out")
        process = subprocess.Popen(_command("edgeqwen", *arguments, "--limit-rate", "1M"), env=_environment())
        incoming = tmp_path / "out/.edgeqwen-incoming"
        deadline_s = time.monotonic() + TIMEOUT_S
        while not any(path.stat().st_size > MEGABYTE for path in incoming.glob("*.part")):
            assert process.poll() is None
            assert time.monotonic() < deadline_s
            time.sleep(0.01)
        process.kill()
        process.wait()
        assert not (tmp_path / "out/tiny.ortpackage").exists()
        said = pulled(*arguments[1:])
    assert said["kept_bytes"] > MEGABYTE
    assert said["fetched_bytes"] < 3 * MEGABYTE
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["tiny.ortpackage"]


@pytest.mark.parametrize("with_tls", [False, True])
def test_a_real_proxy_stands_between(tmp_path: Path, with_tls: bool) -> None:
    """By an option and by the environment, with TLS through a tunnel."""
    package = two_variants(tmp_path / "p", weights(1))
    authority = Authority(tmp_path)
    flags = ("--no-plain-http", "--ca-file", authority.file) if with_tls else ()
    tls = authority.server() if with_tls else None
    with registry(tmp_path / "registry", tls=tls) as found, tinyproxy(tmp_path / "proxy") as (proxy, log):
        reference = f"oci://{found.host}/edge:1"
        pushed(package, reference, "--proxy", f"http://{proxy}", *flags)
        for name, environment in (
            ("1", {"http_proxy": f"http://{proxy}", "https_proxy": f"http://{proxy}"}),
            ("2", {}),
        ):
            more = () if environment else ("--proxy", f"http://{proxy}")
            pulled(reference, "--variant", "a", "-o", tmp_path / name, *more, *flags, **environment)
        said = log.read_text()
    assert said.count("Request") >= 3
    assert (f"CONNECT {found.host} " in said) == with_tls
    assert files_of(tmp_path / "1") == files_of(tmp_path / "2")


def test_skopeo_takes_a_layout_and_what_it_copies_can_be_pulled(tmp_path: Path) -> None:
    """With every digest as it was."""
    skopeo = shutil.which("skopeo")
    if skopeo is None:
        pytest.skip("needs skopeo: apt install skopeo")
    package = two_variants(tmp_path / "p", weights(1))
    done = run("edgeqwen-compile", "export", package, "--oci-layout", tmp_path / "usb", "--tag", "qwen", "--json")
    assert done.returncode == 0, done.stderr
    digest = json.loads(done.stdout)["digest"]
    layout = f"oci:{tmp_path}/usb:qwen"
    raw = subprocess.run([skopeo, "inspect", "--raw", layout], capture_output=True, check=True, timeout=TIMEOUT_S)
    assert f"sha256:{hashlib.sha256(raw.stdout).hexdigest()}" == digest
    with registry(tmp_path / "registry") as found:
        command = [skopeo, "copy", "--all", "--preserve-digests", "--dest-tls-verify=false"]
        (tmp_path / "policy.json").write_text('{"default": [{"type": "insecureAcceptAnything"}]}')
        command[1:1] = ["--policy", str(tmp_path / "policy.json")]
        subprocess.run([*command, layout, f"docker://{found.host}/edge:1"], check=True, timeout=TIMEOUT_S)
        pulled(f"oci://{found.host}/edge:1@{digest}", "--variant", "a", "-o", tmp_path / "out")
    expected = {path: content for path, content in files_of(package).items() if "/b/" not in path}
    assert files_of(tmp_path / "out/tiny.ortpackage") == expected


def test_oras_pulls_what_was_pushed(tmp_path: Path) -> None:
    """A manifest is an artifact as any other, with files by their titles."""
    package = two_variants(tmp_path / "p", weights(1))
    with registry(tmp_path / "registry") as found:
        pushed(package, f"oci://{found.host}/edge:1")
        digest = pulled(f"oci://{found.host}/edge:1", "--variant", "a", "-o", tmp_path / "out")["digest"]
        client = oras.client.OrasClient(insecure=True)
        client.pull(f"{found.host}/edge@{digest}", outdir=str(tmp_path / "oras"))
    assert files_of(tmp_path / "oras") == files_of(tmp_path / "out/tiny.ortpackage")
