"""Kombu's Redis transport, mended for a worker that takes one message at a time."""

import logging
from typing import Any

from kombu.transport import TRANSPORT_ALIASES
from kombu.transport.redis import Channel, QoS, Transport
from kombu.transport.virtual.base import QoS as MessageCount

log = logging.getLogger(__name__)


class ForgivingQoS(QoS):
    """Forgets a message that cannot be acknowledged because the broker is away.

    Kombu goes on counting it. With room for one message the worker would then never ask for
    another, hence never use the dead connection, hence never notice and reconnect: deaf for good
    after a broker that was away while a job ended. That the message comes again some day does no
    harm, its job being done.
    """

    def ack(self, delivery_tag: Any) -> None:
        """Acknowledge a message, or raise the connection's error after forgetting it."""
        try:
            super().ack(delivery_tag)  # type: ignore[no-untyped-call]
        except self.channel.connection_errors:
            log.info("the broker is away; a message stays unacknowledged there")
            MessageCount.ack(self, delivery_tag)  # type: ignore[no-untyped-call]
            raise


class ForgivingChannel(Channel):
    """A channel with the count above."""

    QoS = ForgivingQoS


class ForgivingTransport(Transport):
    """A transport of such channels."""

    Channel = ForgivingChannel


def use_forgiving_transport() -> None:
    """Let Redis URLs of this process use the transport; before the first connection."""
    # By its alias, since a ``redis+socket`` URL overrules Celery's ``broker_transport``.
    for alias in ("redis", "rediss"):
        TRANSPORT_ALIASES[alias] = f"{__name__}:ForgivingTransport"
