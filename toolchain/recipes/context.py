"""A profile's context against the checkpoint's."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from runtime.errors import Fault, ProfileError
from runtime.profile import Profile, builtin_profiles, find_profile


def fitted_contexts(profiles: Sequence[Profile], checkpoint_tokens: int) -> Iterator[str]:
    """A sentence for each of our profiles whose context is longer than the checkpoint's.

    Ours are for any model, and what they say is the most that the board has memory for: the daemon runs a model of a
    shorter context with that. A profile of the user's own says what was wanted: raises ProfileError if it is more
    than the checkpoint has.
    """
    longer = [profile for profile in profiles if profile.runtime.context_tokens > checkpoint_tokens]
    if faults := [_fault(profile, checkpoint_tokens) for profile in longer if not _is_ours(profile)]:
        raise ProfileError(faults)
    for profile in longer:
        yield (
            f"{profile.name}: the checkpoint's context of {checkpoint_tokens} tokens is shorter than the profile's"
            f" {profile.runtime.context_tokens}, so it runs with {checkpoint_tokens}"
        )


def _fault(profile: Profile, checkpoint_tokens: int) -> Fault:
    asked = profile.runtime.context_tokens
    message = f"must be <= {checkpoint_tokens}, the longest context of the checkpoint (got {asked})"
    return Fault(f"{profile.name}: runtime.context_tokens", message)


def _is_ours(profile: Profile) -> bool:
    return profile.name in builtin_profiles() and find_profile(profile.name).digest == profile.digest
