"""What a reload changes, and what it leaves."""

from __future__ import annotations

from pathlib import Path

import structlog

from runtime.configuration.config import Config
from runtime.errors import ConfigError, Fault
from runtime.lifecycle.reload import LIVE, Reloader
from runtime.lifecycle.supervision import reload


def config(**settings: object) -> Config:
    return Config(package=Path("p"), **settings)  # type: ignore[arg-type]


def test_live_settings_take_effect_and_others_wait() -> None:
    """Both are named, and the configuration in effect has the live ones only."""
    reloader = Reloader(lambda: config(log_level="debug", drain_timeout_s=5.0, slots=2), config())
    done = reloader.reload()
    assert set(done.changed) == {"log_level", "drain_timeout_s"}
    assert done.need_restart == ("slots",)
    assert reloader.config == config(log_level="debug", drain_timeout_s=5.0)
    again = reloader.reload()
    assert (again.changed, again.need_restart) == ((), ("slots",))


def test_a_configuration_that_cannot_be_used_changes_nothing() -> None:
    """Its faults come back, and no hook is called."""
    called: list[Config] = []

    def read() -> Config:
        raise ConfigError([Fault("slots", "must be >= 1 (got 0)")], "configuration")

    reloader = Reloader(read, config(), called.append)
    assert reloader.reload().errors == ("configuration: slots: must be >= 1 (got 0)",)
    assert (reloader.config, called) == (config(), [])


def test_every_hook_hears_of_every_reload() -> None:
    """One that fails says so and stops no other: a certificate may be new where no setting is."""
    heard: list[str] = []

    def broken(_: Config) -> None:
        raise ConfigError([Fault("tls.cert", "cannot be read")])

    reloader = Reloader(config, config(), broken)
    reloader.add(lambda new: heard.append(new.log_level))
    done = reloader.reload()
    assert (done.changed, done.errors, heard) == ((), ("tls.cert: cannot be read",), ["info"])


def test_what_went_wrong_is_not_said_to_have_been_reloaded() -> None:
    """By the line that operators and scripts look for."""

    def read() -> Config:
        raise ConfigError([Fault("slots", "must be >= 1 (got 0)")], "configuration")

    with structlog.testing.capture_logs() as lines:
        reload(Reloader(read, config()))
        reload(Reloader(lambda: config(slots=2), config()))
    assert [(line["log_level"], line["event"]) for line in lines] == [
        ("error", "not reloaded"),
        ("warning", "not reloaded: these settings differ and wait for a restart"),
        ("info", "reloaded"),
    ]


def test_live_settings_exist() -> None:
    assert set(Config.model_fields) >= LIVE
