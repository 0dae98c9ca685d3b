"""`edgeqwen chat` at a terminal: a real process on a pseudo-terminal."""

from __future__ import annotations

import os
import pty
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import grpc
import pytest
from unit.edgeqwen.scripted_server import scripted

from edgeqwen.v1 import generation_pb2 as pb
from edgeqwen.v1 import telemetry_pb2

TIMEOUT_S = 20
SNAPSHOT = telemetry_pb2.Snapshot(models=[telemetry_pb2.LoadedModel(model=telemetry_pb2.ModelInfo(name="scripted"))])


def recite(request: pb.GenerateRequest, context: grpc.ServicerContext) -> Iterator[pb.GenerateResponse]:
    """Answers with the conversation it was given; endlessly if asked to, or not at all."""
    said = "|".join(f"{message.role}={message.content}" for message in request.chat.messages)
    if said.endswith("fail"):
        context.abort(grpc.StatusCode.INTERNAL, "it failed")
    yield pb.GenerateResponse(delta=pb.Delta(text=f"<{said}>"))
    while said.endswith("forever") and context.is_active():
        yield pb.GenerateResponse(delta=pb.Delta(text="la "))
    yield pb.GenerateResponse(finished=pb.Finished(reason=pb.Finished.REASON_EOS))


class Terminal:
    """A command, and the terminal it runs at."""

    def __init__(self, process: subprocess.Popen[bytes], terminal: int) -> None:
        self.process = process
        self._terminal = terminal
        self._unread = ""

    def type(self, line: str) -> None:
        os.write(self._terminal, line.encode() + b"\n")

    def read_until(self, text: str) -> str:
        """What was shown up to and including this text."""
        deadline_s = time.monotonic() + TIMEOUT_S
        while text not in self._unread:
            ready, _, _ = select.select([self._terminal], [], [], max(0, deadline_s - time.monotonic()))
            assert ready, f"{text!r} never came; there was {self._unread!r}"
            self._unread += os.read(self._terminal, 65536).decode(errors="replace")
        shown, _, self._unread = self._unread.partition(text)
        return shown + text

    def end(self) -> None:
        """Ctrl-D."""
        os.write(self._terminal, b"\x04")

    def interrupt(self) -> None:
        """Ctrl-C."""
        self.process.send_signal(signal.SIGINT)

    def leave(self) -> int:
        """Ctrl-C at the prompt, again until it is heard: readline misses a signal that comes just before it waits."""
        for _ in range(TIMEOUT_S):
            self.interrupt()
            with suppress(subprocess.TimeoutExpired):
                return self.process.wait(1)
        return self.status()

    def status(self) -> int:
        return self.process.wait(TIMEOUT_S)


@contextmanager
def at_terminal(target: str, *arguments: str) -> Iterator[Terminal]:
    """Runs `edgeqwen chat` at a terminal of its own, where it has shown its first prompt."""
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "edgeqwen.cli", "--target", target, "chat", *arguments]
    environ = {**os.environ, "TERM": "dumb"}
    process = subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, env=environ)
    os.close(theirs)
    try:
        terminal = Terminal(process, ours)
        terminal.read_until("> ")
        yield terminal
    finally:
        process.kill()
        process.wait()
        os.close(ours)


@pytest.fixture(scope="module")
def target() -> Iterator[str]:
    with scripted(recite, SNAPSHOT) as target:
        yield target


def test_a_conversation_remembers_until_it_is_told_not_to(target: str) -> None:
    """Each question goes with all that was said; /system replaces, /reset keeps the instructions, /exit leaves."""
    with at_terminal(target, "--system", "brief") as terminal:
        terminal.type("one")
        terminal.read_until("<system=brief|user=one>")
        terminal.type("two")
        terminal.read_until("<system=brief|user=one|assistant=<system=brief|user=one>|user=two>")
        terminal.type("/reset")
        terminal.type("three")
        terminal.read_until("<system=brief|user=three>")
        terminal.type("/system long")
        terminal.type("four")
        terminal.read_until("<system=long|user=four>")
        terminal.type("/nonsense")
        terminal.read_until("/exit leaves")
        terminal.type("/exit")
        assert terminal.status() == 0


def test_ctrl_c_ends_the_answer_and_the_next_one_the_conversation(target: str) -> None:
    """What was cut off is forgotten, question included."""
    with at_terminal(target) as terminal:
        terminal.type("sing forever")
        terminal.read_until("la la")
        terminal.interrupt()
        terminal.read_until("> ")
        terminal.type("well")
        terminal.read_until("<user=well>")
        terminal.read_until("> ")
        assert terminal.leave() == 0


def test_an_error_does_not_end_the_conversation(target: str) -> None:
    """It is one line; the question that met it is forgotten."""
    with at_terminal(target) as terminal:
        terminal.type("one")
        terminal.read_until("<user=one>")
        terminal.type("fail")
        terminal.read_until("edgeqwen: INTERNAL: it failed")
        terminal.type("two")
        terminal.read_until("<user=one|assistant=<user=one>|user=two>")
        terminal.read_until("> ")
        terminal.end()
        assert terminal.status() == 0


def test_ctrl_c_ends_a_single_question(target: str) -> None:
    """With the status that shells give it, and without a traceback."""
    command = [sys.executable, "-m", "edgeqwen.cli", "--target", target, "chat", "sing forever"]
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.read(30)
        process.send_signal(signal.SIGINT)
        process.stdout.read()
        assert process.stderr.read() == b"\n"
        assert process.wait(TIMEOUT_S) == 130
