from collections.abc import Iterable

from google.protobuf.any_pb2 import Any
from google.protobuf.descriptor import FileDescriptor
from google.protobuf.internal.containers import RepeatedCompositeFieldContainer
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp
from google.protobuf.wrappers_pb2 import Int64Value

DESCRIPTOR: FileDescriptor

class Channel(Message):
    @property
    def ref(self) -> ChannelRef: ...
    @property
    def data(self) -> ChannelData: ...
    channel_ref: RepeatedCompositeFieldContainer[ChannelRef]
    subchannel_ref: RepeatedCompositeFieldContainer[SubchannelRef]
    socket_ref: RepeatedCompositeFieldContainer[SocketRef]
    def __init__(
        self,
        *,
        ref: ChannelRef | None = ...,
        data: ChannelData | None = ...,
        channel_ref: Iterable[ChannelRef] = ...,
        subchannel_ref: Iterable[SubchannelRef] = ...,
        socket_ref: Iterable[SocketRef] = ...,
    ) -> None: ...

class Subchannel(Message):
    @property
    def ref(self) -> SubchannelRef: ...
    @property
    def data(self) -> ChannelData: ...
    channel_ref: RepeatedCompositeFieldContainer[ChannelRef]
    subchannel_ref: RepeatedCompositeFieldContainer[SubchannelRef]
    socket_ref: RepeatedCompositeFieldContainer[SocketRef]
    def __init__(
        self,
        *,
        ref: SubchannelRef | None = ...,
        data: ChannelData | None = ...,
        channel_ref: Iterable[ChannelRef] = ...,
        subchannel_ref: Iterable[SubchannelRef] = ...,
        socket_ref: Iterable[SocketRef] = ...,
    ) -> None: ...

class ChannelConnectivityState(Message):
    UNKNOWN: int
    IDLE: int
    CONNECTING: int
    READY: int
    TRANSIENT_FAILURE: int
    SHUTDOWN: int
    state: int
    def __init__(self, *, state: int = ...) -> None: ...

class ChannelData(Message):
    @property
    def state(self) -> ChannelConnectivityState: ...
    target: str
    @property
    def trace(self) -> ChannelTrace: ...
    calls_started: int
    calls_succeeded: int
    calls_failed: int
    @property
    def last_call_started_timestamp(self) -> Timestamp: ...
    max_connections_per_subchannel: int
    def __init__(
        self,
        *,
        state: ChannelConnectivityState | None = ...,
        target: str = ...,
        trace: ChannelTrace | None = ...,
        calls_started: int = ...,
        calls_succeeded: int = ...,
        calls_failed: int = ...,
        last_call_started_timestamp: Timestamp | None = ...,
        max_connections_per_subchannel: int = ...,
    ) -> None: ...

class ChannelTraceEvent(Message):
    CT_UNKNOWN: int
    CT_INFO: int
    CT_WARNING: int
    CT_ERROR: int
    description: str
    severity: int
    @property
    def timestamp(self) -> Timestamp: ...
    @property
    def channel_ref(self) -> ChannelRef: ...
    @property
    def subchannel_ref(self) -> SubchannelRef: ...
    def __init__(
        self,
        *,
        description: str = ...,
        severity: int = ...,
        timestamp: Timestamp | None = ...,
        channel_ref: ChannelRef | None = ...,
        subchannel_ref: SubchannelRef | None = ...,
    ) -> None: ...

class ChannelTrace(Message):
    num_events_logged: int
    @property
    def creation_timestamp(self) -> Timestamp: ...
    events: RepeatedCompositeFieldContainer[ChannelTraceEvent]
    def __init__(
        self,
        *,
        num_events_logged: int = ...,
        creation_timestamp: Timestamp | None = ...,
        events: Iterable[ChannelTraceEvent] = ...,
    ) -> None: ...

class ChannelRef(Message):
    channel_id: int
    name: str
    def __init__(self, *, channel_id: int = ..., name: str = ...) -> None: ...

class ServerRef(Message):
    server_id: int
    name: str
    def __init__(self, *, server_id: int = ..., name: str = ...) -> None: ...

class SubchannelRef(Message):
    subchannel_id: int
    name: str
    def __init__(self, *, subchannel_id: int = ..., name: str = ...) -> None: ...

class SocketRef(Message):
    socket_id: int
    name: str
    def __init__(self, *, socket_id: int = ..., name: str = ...) -> None: ...

class Server(Message):
    @property
    def ref(self) -> ServerRef: ...
    @property
    def data(self) -> ServerData: ...
    listen_socket: RepeatedCompositeFieldContainer[SocketRef]
    def __init__(
        self,
        *,
        ref: ServerRef | None = ...,
        data: ServerData | None = ...,
        listen_socket: Iterable[SocketRef] = ...,
    ) -> None: ...

class ServerData(Message):
    @property
    def trace(self) -> ChannelTrace: ...
    calls_started: int
    calls_succeeded: int
    calls_failed: int
    @property
    def last_call_started_timestamp(self) -> Timestamp: ...
    def __init__(
        self,
        *,
        trace: ChannelTrace | None = ...,
        calls_started: int = ...,
        calls_succeeded: int = ...,
        calls_failed: int = ...,
        last_call_started_timestamp: Timestamp | None = ...,
    ) -> None: ...

class Socket(Message):
    @property
    def ref(self) -> SocketRef: ...
    @property
    def data(self) -> SocketData: ...
    @property
    def local(self) -> Address: ...
    @property
    def remote(self) -> Address: ...
    @property
    def security(self) -> Security: ...
    remote_name: str
    def __init__(
        self,
        *,
        ref: SocketRef | None = ...,
        data: SocketData | None = ...,
        local: Address | None = ...,
        remote: Address | None = ...,
        security: Security | None = ...,
        remote_name: str = ...,
    ) -> None: ...

class SocketData(Message):
    streams_started: int
    streams_succeeded: int
    streams_failed: int
    messages_sent: int
    messages_received: int
    keep_alives_sent: int
    @property
    def last_local_stream_created_timestamp(self) -> Timestamp: ...
    @property
    def last_remote_stream_created_timestamp(self) -> Timestamp: ...
    @property
    def last_message_sent_timestamp(self) -> Timestamp: ...
    @property
    def last_message_received_timestamp(self) -> Timestamp: ...
    @property
    def local_flow_control_window(self) -> Int64Value: ...
    @property
    def remote_flow_control_window(self) -> Int64Value: ...
    def __init__(
        self,
        *,
        streams_started: int = ...,
        streams_succeeded: int = ...,
        streams_failed: int = ...,
        messages_sent: int = ...,
        messages_received: int = ...,
        keep_alives_sent: int = ...,
        last_local_stream_created_timestamp: Timestamp | None = ...,
        last_remote_stream_created_timestamp: Timestamp | None = ...,
        last_message_sent_timestamp: Timestamp | None = ...,
        last_message_received_timestamp: Timestamp | None = ...,
        local_flow_control_window: Int64Value | None = ...,
        remote_flow_control_window: Int64Value | None = ...,
    ) -> None: ...

class Address(Message):
    class TcpIpAddress(Message):
        ip_address: bytes
        port: int
        def __init__(self, *, ip_address: bytes = ..., port: int = ...) -> None: ...

    class UdsAddress(Message):
        filename: str
        def __init__(self, *, filename: str = ...) -> None: ...

    class OtherAddress(Message):
        name: str
        @property
        def value(self) -> Any: ...
        def __init__(self, *, name: str = ..., value: Any | None = ...) -> None: ...

    @property
    def tcpip_address(self) -> Address.TcpIpAddress: ...
    @property
    def uds_address(self) -> Address.UdsAddress: ...
    @property
    def other_address(self) -> Address.OtherAddress: ...
    def __init__(
        self,
        *,
        tcpip_address: Address.TcpIpAddress | None = ...,
        uds_address: Address.UdsAddress | None = ...,
        other_address: Address.OtherAddress | None = ...,
    ) -> None: ...

class Security(Message):
    class Tls(Message):
        standard_name: str
        other_name: str
        local_certificate: bytes
        remote_certificate: bytes
        def __init__(
            self,
            *,
            standard_name: str = ...,
            other_name: str = ...,
            local_certificate: bytes = ...,
            remote_certificate: bytes = ...,
        ) -> None: ...

    class OtherSecurity(Message):
        name: str
        @property
        def value(self) -> Any: ...
        def __init__(self, *, name: str = ..., value: Any | None = ...) -> None: ...

    @property
    def tls(self) -> Security.Tls: ...
    @property
    def other(self) -> Security.OtherSecurity: ...
    def __init__(
        self, *, tls: Security.Tls | None = ..., other: Security.OtherSecurity | None = ...
    ) -> None: ...

class GetTopChannelsRequest(Message):
    start_channel_id: int
    max_results: int
    def __init__(self, *, start_channel_id: int = ..., max_results: int = ...) -> None: ...

class GetTopChannelsResponse(Message):
    channel: RepeatedCompositeFieldContainer[Channel]
    end: bool
    def __init__(self, *, channel: Iterable[Channel] = ..., end: bool = ...) -> None: ...

class GetServersRequest(Message):
    start_server_id: int
    max_results: int
    def __init__(self, *, start_server_id: int = ..., max_results: int = ...) -> None: ...

class GetServersResponse(Message):
    server: RepeatedCompositeFieldContainer[Server]
    end: bool
    def __init__(self, *, server: Iterable[Server] = ..., end: bool = ...) -> None: ...

class GetServerRequest(Message):
    server_id: int
    def __init__(self, *, server_id: int = ...) -> None: ...

class GetServerResponse(Message):
    @property
    def server(self) -> Server: ...
    def __init__(self, *, server: Server | None = ...) -> None: ...

class GetServerSocketsRequest(Message):
    server_id: int
    start_socket_id: int
    max_results: int
    def __init__(
        self, *, server_id: int = ..., start_socket_id: int = ..., max_results: int = ...
    ) -> None: ...

class GetServerSocketsResponse(Message):
    socket_ref: RepeatedCompositeFieldContainer[SocketRef]
    end: bool
    def __init__(self, *, socket_ref: Iterable[SocketRef] = ..., end: bool = ...) -> None: ...

class GetChannelRequest(Message):
    channel_id: int
    def __init__(self, *, channel_id: int = ...) -> None: ...

class GetChannelResponse(Message):
    @property
    def channel(self) -> Channel: ...
    def __init__(self, *, channel: Channel | None = ...) -> None: ...

class GetSubchannelRequest(Message):
    subchannel_id: int
    def __init__(self, *, subchannel_id: int = ...) -> None: ...

class GetSubchannelResponse(Message):
    @property
    def subchannel(self) -> Subchannel: ...
    def __init__(self, *, subchannel: Subchannel | None = ...) -> None: ...

class GetSocketRequest(Message):
    socket_id: int
    summary: bool
    def __init__(self, *, socket_id: int = ..., summary: bool = ...) -> None: ...

class GetSocketResponse(Message):
    @property
    def socket(self) -> Socket: ...
    def __init__(self, *, socket: Socket | None = ...) -> None: ...
