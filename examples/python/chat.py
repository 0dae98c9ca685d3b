"""Streams an answer with edgeqwen's own client: python chat.py "Why do pumps vibrate?"

EDGEQWEN_TARGET says where the daemon is: unix:PATH or HOST:PORT.
"""

from __future__ import annotations

import sys

from edgeqwen.client import Client, ClientError, Delta, Finished, Options


def main(question: str) -> None:
    with Client() as client:
        for event in client.generate(messages=[("user", question)], options=Options(max_tokens=64)):
            if isinstance(event, Delta):
                print(event.text, end="", flush=True)
            elif isinstance(event, Finished):
                print(f"\n[{event.reason}, {event.completion_tokens} tokens]", file=sys.stderr)


if __name__ == "__main__":
    try:
        main(" ".join(sys.argv[1:]) or "What is the capital of France?")
    except ClientError as error:
        sys.exit(f"chat.py: {error}")
