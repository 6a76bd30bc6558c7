"""Stop asking a service that keeps failing, and find out with one call when it is back."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, Final, Literal

import anyio.lowlevel
import attrs

from decaptcha_async import _clock
from decaptcha_async._chain import Call, Handler
from decaptcha_async._clock import Seconds, Stamp
from decaptcha_async._readings import BalanceReading
from decaptcha_async._settings import duration, refuse_async, whole
from decaptcha_async.errors import CircuitOpenError, DecaptchaError

logger: Final = logging.getLogger(__name__)

CircuitState = Literal["closed", "open", "half_open"]
"""``"closed"`` lets calls through, ``"open"`` none, ``"half_open"`` one at a time, as a probe.

.. versionadded:: 0.1.0
"""

_GRAVEST_FIRST: Final[tuple[CircuitState, ...]] = ("open", "half_open")


def _failures(value: int) -> int:
    return whole(value, "failures", least=1)


def _cooldown(value: Seconds) -> float:
    return duration(value, "cooldown")


def _not_async(_: object, field: attrs.Attribute[Any], value: object) -> None:
    refuse_async(value, field.name)


@attrs.define(eq=False)
class _Circuit:
    state: CircuitState = "closed"
    failures: int = 0
    opened: Stamp | None = None
    probing: bool = False
    epoch: int = 0
    callers: int = 0
    reason: str = ""


@attrs.define(eq=False)
class CircuitBreaker:
    """After several failures in a row, fail at once for a while; then let one call through.

    A failure is an outcome that speaks against the service: an error whose ``healthy`` is False.
    A refused key proves it alive, and a cancelled call says nothing. While the circuit is open,
    calls raise :class:`~decaptcha_async.CircuitOpenError` without a request. After ``cooldown`` the
    next call is the probe: its success closes the circuit, its failure opens it again, and all
    others fail at once meanwhile. A cancelled probe leaves its place to the next call. Answers to
    calls that began before the last change of state change nothing. Accounts are kept apart.

    Put it inside a :class:`Retry`, where it sees every attempt.

    Args:
        failures: failures in a row that open the circuit (default 5, at least 1).
        cooldown: seconds from opening to the first probe (default 30).
        on_change: called with the new state, ``"open"``, ``"half_open"`` or ``"closed"``. What it
            raises is logged and changes nothing.

    Raises:
        ConfigurationError: a number or a duration that cannot be.
        TypeError: ``on_change`` is async.

    .. versionadded:: 0.1.0
    """

    failures: int = attrs.field(default=5, converter=_failures)
    cooldown: float = attrs.field(default=30.0, kw_only=True, converter=_cooldown)
    on_change: Callable[[CircuitState], object] | None = attrs.field(
        default=None, kw_only=True, validator=_not_async
    )
    _circuits: dict[str, _Circuit] = attrs.field(
        factory=dict[str, _Circuit], init=False, repr=False
    )

    @property
    def state(self) -> CircuitState:
        """The gravest state of all accounts, where open is graver than half open.

        An open circuit becomes half open when a call comes after the cooldown.

        .. versionadded:: 0.1.0
        """
        states = {circuit.state for circuit in self._circuits.values()}
        for state in _GRAVEST_FIRST:
            if state in states:
                return state
        return "closed"

    async def __call__(self, call: Call, call_next: Handler) -> BalanceReading:
        """Pass ``call`` on if the circuit of its account lets it."""
        circuit = self._circuits.setdefault(call.account, _Circuit())
        circuit.callers += 1
        try:
            epoch = await self._admit(circuit)
            healthy, reason = None, ""
            try:
                reading = await call_next(call)
                healthy = True
            except DecaptchaError as error:
                healthy, reason = error.healthy, str(error) or type(error).__name__
                raise
            finally:
                if epoch == circuit.epoch:
                    self._learn(circuit, healthy, reason)
            return reading
        finally:
            circuit.callers -= 1
            if circuit.state == "closed" and not circuit.failures and not circuit.callers:
                del self._circuits[call.account]

    async def _admit(self, circuit: _Circuit) -> int:
        """Let a call in, perhaps as the probe; the epoch that it belongs to.

        Raises:
            CircuitOpenError: it may not go on.
        """
        # While a probe is under way: if it fails, the next comes after another cooldown.
        wait = self.cooldown
        if circuit.opened is not None:
            wait -= circuit.opened.age()
            if wait <= _clock.INSTANT:
                self._change(circuit, "half_open")
        if circuit.state == "open" or circuit.probing:
            when = "a probe is under way" if circuit.probing else f"next probe in {wait:.3g} s"
            message = f"the circuit is open, {when}, after: {circuit.reason}"
            # Who asks again at once shall not keep all others from running.
            await anyio.lowlevel.checkpoint()
            raise CircuitOpenError(message, retry_after=wait)
        circuit.probing = circuit.state == "half_open"
        return circuit.epoch

    def _learn(self, circuit: _Circuit, healthy: bool | None, reason: str) -> None:  # noqa: FBT001
        circuit.probing = False
        if healthy:
            circuit.failures = 0
            if circuit.state == "half_open":
                self._change(circuit, "closed")
        elif healthy is not None:
            circuit.failures += 1
            circuit.reason = reason
            if circuit.state == "half_open" or circuit.failures >= self.failures:
                self._change(circuit, "open")

    def _change(self, circuit: _Circuit, state: CircuitState) -> None:
        circuit.state = state
        circuit.opened = Stamp.take() if state == "open" else None
        circuit.epoch += 1
        if state == "open":
            logger.warning(
                "the circuit is open for %g s after %d failures in a row, the last: %s",
                self.cooldown,
                circuit.failures,
                circuit.reason,
            )
        else:
            logger.info("the circuit is %s", state.replace("_", " "))
        if self.on_change is not None:
            try:
                self.on_change(state)
            except Exception:
                logger.exception("on_change raised; the circuit is %s all the same", state)
