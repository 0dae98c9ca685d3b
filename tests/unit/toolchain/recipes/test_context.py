"""A context that the checkpoint does not have: ours give way, a profile of one's own is refused."""

from __future__ import annotations

import pytest

from runtime.errors import ProfileError
from runtime.profile import Profile, builtin_profiles, find_profile, parse_profile
from toolchain.recipes.context import fitted_contexts


def own(tokens: int) -> Profile:
    data = find_profile("generic-x86_64").model_dump()
    data["runtime"]["context_tokens"] = tokens
    return parse_profile(data, "test")


def test_our_profiles_run_every_model_with_what_it_has() -> None:
    """A sentence for each that is longer, with both numbers; none where all is as the profile says."""
    ours = [find_profile(name) for name in builtin_profiles()]
    assert list(fitted_contexts(ours, 131_072)) == []
    said = list(fitted_contexts([find_profile("generic-x86_64"), find_profile("raspberry-pi-4")], 2048))
    assert said == [
        "generic-x86_64: the checkpoint's context of 2048 tokens is shorter than the profile's 4096, so it runs"
        " with 2048"
    ]


def test_a_profile_of_ones_own_asks_for_what_there_is() -> None:
    """Up to all of it. One that was changed is one's own, whatever its name."""
    assert list(fitted_contexts([own(2048)], 2048)) == []
    with pytest.raises(ProfileError) as error:
        list(fitted_contexts([own(2049)], 2048))
    assert str(error.value) == (
        "generic-x86_64: runtime.context_tokens: must be <= 2048, the longest context of the checkpoint (got 2049)"
    )
