"""grpc.channelz.v1 (gRFC A14): the channels, servers and connections of this process, for tools such as grpcdebug.

::

    channelz.add(server)

What is counted is what lbkit counts anyhow: calls of channels, subchannels and servers, and streams of connections.
Whoever can reach the server learns the addresses of backends and clients: leave it off where that matters.
"""

from __future__ import annotations

import ipaddress
import time
import weakref
from collections.abc import Callable, Iterable
from typing import Any, NoReturn

from lbkit.channel import Channel
from lbkit.connectivity import ConnectivityState
from lbkit.inventory import Trace, channels, next_number, servers
from lbkit.protos import channelz as pb
from lbkit.server import Server
from lbkit.service import ServicerContext
from lbkit.status import StatusCode
from lbkit.subchannel import Subchannel
from lbkit.transport.connection import Connection

_PAGE = 100  # of a list, where the request says no number, and at most
_FAILURE = ConnectivityState.TRANSIENT_FAILURE.name

_listeners: weakref.WeakKeyDictionary[Any, int] = weakref.WeakKeyDictionary()  # numbers of listening sockets


class Channelz:
    """The servicer.

    Args:
        wall_clock: returns seconds since 1970, to show the times of clocks that began elsewhere.
    """

    def __init__(self, wall_clock: Callable[[], float] = time.time) -> None:
        self._wall_clock = wall_clock

    # The methods of the service, named as in the .proto

    async def GetTopChannels(  # noqa: N802
        self, request: pb.GetTopChannelsRequest, context: ServicerContext
    ) -> Any:
        """Answer with the channels of this process, by number, a page at a time."""
        page, end = _page(channels, request.start_channel_id, request.max_results)
        return pb.GetTopChannelsResponse(channel=[self._channel(each) for each in page], end=end)

    async def GetServers(self, request: pb.GetServersRequest, context: ServicerContext) -> Any:  # noqa: N802
        """Answer with the servers of this process, by number, a page at a time."""
        page, end = _page(servers, request.start_server_id, request.max_results)
        return pb.GetServersResponse(server=[self._server(each) for each in page], end=end)

    async def GetServer(self, request: pb.GetServerRequest, context: ServicerContext) -> Any:  # noqa: N802
        """Answer with one server; NOT_FOUND if it is gone."""
        server = servers.get(request.server_id)
        if server is None:
            await _not_found(context, "server", request.server_id)
        return pb.GetServerResponse(server=self._server(server))

    async def GetServerSockets(  # noqa: N802
        self, request: pb.GetServerSocketsRequest, context: ServicerContext
    ) -> Any:
        """Answer with the connections of a server, by number, a page at a time; NOT_FOUND if the server is gone."""
        server: Server | None = servers.get(request.server_id)
        if server is None:
            await _not_found(context, "server", request.server_id)
        page, end = _page(server.connections(), request.start_socket_id, request.max_results)
        return pb.GetServerSocketsResponse(socket_ref=[_socket_ref(each) for each in page], end=end)

    async def GetChannel(self, request: pb.GetChannelRequest, context: ServicerContext) -> Any:  # noqa: N802
        """Answer with one channel; NOT_FOUND if it is gone."""
        channel = channels.get(request.channel_id)
        if channel is None:
            await _not_found(context, "channel", request.channel_id)
        return pb.GetChannelResponse(channel=self._channel(channel))

    async def GetSubchannel(self, request: pb.GetSubchannelRequest, context: ServicerContext) -> Any:  # noqa: N802
        """Answer with one subchannel; NOT_FOUND if its policy has dropped it."""
        for channel in list(channels):
            for subchannel in channel.subchannels():
                if subchannel.number == request.subchannel_id:
                    return pb.GetSubchannelResponse(subchannel=self._subchannel(channel, subchannel))
        return await _not_found(context, "subchannel", request.subchannel_id)

    async def GetSocket(self, request: pb.GetSocketRequest, context: ServicerContext) -> Any:  # noqa: N802
        """Answer with one socket; NOT_FOUND if it is closed."""
        for connection in _connections():
            if connection.number == request.socket_id:
                return pb.GetSocketResponse(socket=_socket(connection))
        for sock, number in list(_listeners.items()):
            if number == request.socket_id and sock.fileno() >= 0:
                name = sock.getsockname()
                local = pb.Socket(
                    ref=pb.SocketRef(socket_id=number, name=_text(name)), local=address_of(name)
                )
                return pb.GetSocketResponse(socket=local)
        return await _not_found(context, "socket", request.socket_id)

    # What they show

    def _channel(self, channel: Channel) -> pb.Channel:
        shown = pb.Channel(ref=pb.ChannelRef(channel_id=channel.number, name=channel.target))
        shown.data.state.state = _state(channel.get_state())
        shown.data.target = channel.target
        shown.data.calls_started = channel.calls_started
        shown.data.calls_succeeded = channel.calls_succeeded
        shown.data.calls_failed = channel.calls_failed
        trace = channel.trace
        if trace is not None:
            now = channel.clock.time()
            if channel.calls_started:
                self._stamp(shown.data.last_call_started_timestamp, channel.last_call_at, now)
            self._trace(shown.data.trace, trace, now, None)
        shown.subchannel_ref.extend(_subchannel_ref(each) for each in channel.subchannels())
        return shown

    def _subchannel(self, channel: Channel, subchannel: Subchannel) -> pb.Subchannel:
        shown = pb.Subchannel(ref=_subchannel_ref(subchannel))
        shown.data.state.state = _state(subchannel.state)
        shown.data.target = str(subchannel.endpoint)
        started, failed = subchannel.calls_started, subchannel.calls_failed
        shown.data.calls_started = started
        shown.data.calls_failed = failed
        shown.data.calls_succeeded = max(0, started - failed - subchannel.in_flight)
        trace = channel.trace
        if trace is not None:
            self._trace(shown.data.trace, trace, channel.clock.time(), subchannel)
        shown.socket_ref.extend(_socket_ref(each) for each in subchannel.connections())
        return shown

    def _server(self, server: Server) -> pb.Server:
        shown = pb.Server(ref=pb.ServerRef(server_id=server.number))
        calls = server.call_counts()
        shown.data.calls_started = calls.started
        shown.data.calls_succeeded = calls.succeeded
        shown.data.calls_failed = calls.failed
        if calls.last_s is not None:
            self._stamp(shown.data.last_call_started_timestamp, -calls.last_s, 0.0)
        for sock in server.listeners():
            if sock.fileno() >= 0:  # else it is closed
                number = _listeners.get(sock) or _listeners.setdefault(sock, next_number())
                shown.listen_socket.add(socket_id=number, name=_text(sock.getsockname()))
        return shown

    def _trace(self, shown: Any, trace: Trace, now: float, subchannel: Subchannel | None) -> None:
        """Show the events of a channel; or, of the last events of a channel, those of one subchannel."""
        events = trace.events()
        if subchannel is not None:
            events = [event for event in events if event.subchannel == subchannel.number]
        shown.num_events_logged = trace.count if subchannel is None else len(events)
        for event in events:
            added = shown.events.add(description=f"{event.what}: {event.why}" if event.why else event.what)
            bad = event.what == _FAILURE
            added.severity = pb.ChannelTraceEvent.CT_WARNING if bad else pb.ChannelTraceEvent.CT_INFO
            self._stamp(added.timestamp, event.when, now)
            if event.subchannel and subchannel is None:
                added.subchannel_ref.subchannel_id = event.subchannel

    def _stamp(self, shown: Any, when: float, now: float) -> None:
        """Show a time of a clock that says ``now``."""
        shown.FromNanoseconds(int((self._wall_clock() - (now - when)) * 1e9))


def add(server: Server) -> None:
    """Serve grpc.channelz.v1 on a server: all channels and servers of the process, this one among them."""
    server.add(pb, "Channelz", Channelz())


def _page(things: Iterable[Any], start: int, most: int) -> tuple[list[Any], bool]:
    """Return what has the number ``start`` or a higher one, and whether that is the end of it."""
    found = sorted((each for each in list(things) if each.number >= start), key=lambda each: each.number)
    size = min(most, _PAGE) if most > 0 else _PAGE
    return found[:size], len(found) <= size


def _connections() -> Iterable[Connection]:
    """Give every connection of the process."""
    for server in list(servers):
        yield from server.connections()
    for channel in list(channels):
        for subchannel in channel.subchannels():
            yield from subchannel.connections()


async def _not_found(context: ServicerContext, what: str, number: int) -> NoReturn:
    await context.abort(StatusCode.NOT_FOUND, f"no {what} {number} in this process, or no more")


def _state(state: ConnectivityState) -> int:
    return state.index + 1  # they begin with UNKNOWN


def _subchannel_ref(subchannel: Any) -> pb.SubchannelRef:
    return pb.SubchannelRef(subchannel_id=subchannel.number, name=str(subchannel.endpoint))


def _socket_ref(connection: Connection) -> pb.SocketRef:
    return pb.SocketRef(socket_id=connection.number, name=connection.peer)


def _socket(connection: Connection) -> pb.Socket:
    shown = pb.Socket(ref=_socket_ref(connection), remote_name=connection.peer)
    shown.data.streams_started = connection.engine.streams_opened()
    local, remote = connection.socket_names()
    shown.local.CopyFrom(address_of(local))
    shown.remote.CopyFrom(address_of(remote))
    return shown


def address_of(name: Any) -> pb.Address:
    """Show a socket's name: a tuple that begins with host and port, or the path of a Unix socket."""
    shown = pb.Address()
    if isinstance(name, tuple):
        try:
            shown.tcpip_address.ip_address = ipaddress.ip_address(name[0].partition("%")[0]).packed
            shown.tcpip_address.port = name[1]
        except ValueError:  # a transport that is no socket may have any name
            shown.other_address.name = _text(name)
    else:
        shown.uds_address.filename = _text(name)
    return shown


def _text(name: Any) -> str:
    if isinstance(name, tuple):
        return f"[{name[0]}]:{name[1]}" if ":" in name[0] else f"{name[0]}:{name[1]}"
    return name.decode("utf-8", "replace") if isinstance(name, bytes) else str(name or "")
